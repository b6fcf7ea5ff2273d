//! `hourglass reserve`: GPUs sold for a time.

use hourglass_capacity::calendar::Allowance;
use hourglass_capacity::supply::{Claim, Offer};
use hourglass_consumers::billing::reservations::{ReservationRow, reservations};
use hourglass_ledger::core::Command;
use hourglass_ledger::core::market::{MarketCommand, SupplyCommand};
use hourglass_pricing::reservation::{Payment, ReservationDraft};
use hourglass_units::{
    Amount, Fabric, Instant, Interval, Platform, Price, ProjectId, ReservationId, TenantId,
};
use serde_json::json;

use super::change::{AFTER_HELP, Change};
use super::{instant, rows_of, tenant_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// GPUs sold for a time: create, amend, list, lend to spot, assign to projects.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Sell GPUs for a time
    Create(Create),
    /// Give a reservation another end; what is paid up front can only be extended
    Amend {
        /// Whose
        tenant: TenantId,
        /// Which
        reservation: ReservationId,
        /// The new end, a full UTC hour that has not come yet
        #[arg(long, value_name = "TIME", value_parser = instant)]
        until: Instant,
    },
    /// Lend what is idle of a reservation to spot, for the pool's share of what spot pays
    Lend {
        /// Whose
        tenant: TenantId,
        /// Which
        reservation: ReservationId,
        /// At most so many GPUs [default: all that is idle]
        #[arg(long, value_name = "GPUS")]
        at_most: Option<u64>,
    },
    /// Take back what was lent: spot that sits on it gets its notice
    Withdraw {
        /// Whose
        tenant: TenantId,
        /// Which
        reservation: ReservationId,
    },
    /// Say when the owner of what is lent will need how much of it: it is there then
    Claim {
        /// Whose
        tenant: TenantId,
        /// Which
        reservation: ReservationId,
        /// How many GPUs, those that it uses already included
        #[arg(long)]
        gpus: u64,
        /// From then on
        #[arg(long, value_name = "TIME", value_parser = instant)]
        from: Instant,
        /// Until then
        #[arg(long, value_name = "TIME", value_parser = instant)]
        until: Instant,
    },
    /// Give projects their parts of a reservation, in place of those before; the rest is anybody's
    Assign {
        /// Whose
        tenant: TenantId,
        /// Which
        reservation: ReservationId,
        /// A project's GPUs, for all of the reservation's time; once for each project
        #[arg(long, value_name = "PROJECT=GPUS", value_parser = part)]
        part: Vec<(ProjectId, u64)>,
        /// From then on
        #[arg(long, value_name = "TIME", value_parser = instant)]
        from: Instant,
        /// Until then
        #[arg(long, value_name = "TIME", value_parser = instant)]
        until: Instant,
    },
    /// List reservations: what they cost, and what of it is earned
    List {
        /// Whose
        tenant: TenantId,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// To whom
    tenant: TenantId,
    /// Its id, unique in the cell
    reservation: ReservationId,
    /// On whose invoice lines it stands
    #[arg(long)]
    project: ProjectId,
    /// On which platform
    #[arg(long)]
    platform: Platform,
    /// How many GPUs
    #[arg(long)]
    gpus: u32,
    /// From which full UTC hour on: the one that runs, or a later one
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Instant,
    /// Until which full UTC hour
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Instant,
    /// Keep GPUs free for it in the pool of this fabric [default: it is a matter of price alone]
    #[arg(long)]
    fabric: Option<Fabric>,
    #[command(flatten)]
    paid: Paid,
}

/// How it is paid for: exactly one way.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Payment, one of")]
struct Paid {
    /// All of it when it is bought, at this price per GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = Price::parse, group = "payment")]
    upfront: Option<Price>,
    /// All of it when it is bought, for this total
    #[arg(long, value_name = "AMOUNT", value_parser = Amount::parse, group = "payment")]
    upfront_total: Option<Amount>,
    /// Each billing period its hours, at this price per GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = Price::parse, group = "payment")]
    monthly: Option<Price>,
    /// Each billing period its hours at this price per GPU-hour, and used hours at --usage besides
    #[arg(long, value_name = "PRICE", value_parser = Price::parse, group = "payment", requires = "usage")]
    flex: Option<Price>,
    /// With --flex: per GPU-hour used
    #[arg(long, value_name = "PRICE", value_parser = Price::parse, requires = "flex")]
    usage: Option<Price>,
}

impl Paid {
    fn payment(self) -> Result<Payment, Failure> {
        match self {
            Self { upfront: Some(price), .. } => Ok(Payment::Upfront { price }),
            Self { upfront_total: Some(total), .. } => Ok(Payment::UpfrontTotal { total }),
            Self { monthly: Some(price), .. } => Ok(Payment::Monthly { price }),
            Self { flex: Some(holding), usage: Some(usage), .. } => Ok(Payment::Flex { holding, usage }),
            _ => {
                let how =
                    "say how it is paid for: --upfront, --upfront-total, --monthly, or --flex with --usage";
                Err(Failure::Usage(how.to_owned()))
            }
        }
    }
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let server = &args.server;
    match args.action {
        Action::Create(create) => self::create(create, server, settings, format),
        Action::Amend { tenant, reservation, until } => {
            let resource = format!("/v1/tenants/{tenant}/reservations/{reservation}");
            let says = format!("reservation {reservation} ends at {until}");
            let change = Change {
                command: Command::AmendReservation { tenant, reservation, until },
                path: format!("{resource}:amend"),
                body: json!({ "until": until }),
                resource,
            };
            change.run(server, settings, format, |_| says)
        }
        Action::Lend { tenant, reservation, at_most } => {
            let says = format!("what is idle of {reservation} is lent to spot");
            let offer = Some(at_most.map_or(Offer::Automatic, Offer::AtMost));
            let body = json!({ "at_most": at_most });
            supply(SupplyCommand::Lend { tenant, reservation, offer }, "lend", body).run(
                server,
                settings,
                format,
                |_| says,
            )
        }
        Action::Withdraw { tenant, reservation } => {
            let says = format!("nothing of {reservation} is lent any more");
            supply(SupplyCommand::Lend { tenant, reservation, offer: None }, "withdraw", json!({})).run(
                server,
                settings,
                format,
                |_| says,
            )
        }
        Action::Claim { tenant, reservation, gpus, from, until } => {
            let says = format!("{gpus} GPUs of {reservation} are back from {from} until {until}");
            let claim = Claim { gpus, interval: interval(from, until)? };
            let body = json!({ "gpus": gpus, "from": from, "until": until });
            supply(SupplyCommand::Claim { tenant, reservation, claim }, "claim", body).run(
                server,
                settings,
                format,
                |_| says,
            )
        }
        Action::Assign { tenant, reservation, part, from, until } => {
            let says = format!("{} projects have parts of {reservation}", part.len());
            let interval = interval(from, until)?;
            let parts = part.into_iter();
            let allowances: Vec<_> =
                parts.map(|(project, gpus)| Allowance { project, gpus, interval }).collect();
            let row = |it: &Allowance| json!({"project": it.project, "gpus": it.gpus, "from": from, "until": until});
            let body = json!({ "allowances": allowances.iter().map(row).collect::<Vec<_>>() });
            supply(SupplyCommand::Assign { tenant, reservation, allowances }, "assign", body).run(
                server,
                settings,
                format,
                |_| says,
            )
        }
        Action::List { tenant } => {
            let rows: Vec<ReservationRow> = match server.client()? {
                Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/reservations"))?,
                None => {
                    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
                    tenant_of(&loaded.state, &tenant)?;
                    reservations(&loaded.state, Some(&tenant)).collect()
                }
            };
            answer(format, &rows, |rows| text(rows))
        }
    }
}

/// `PROJECT=GPUS`.
fn part(text: &str) -> Result<(ProjectId, u64), String> {
    let (project, gpus) = text.split_once('=').ok_or("give PROJECT=GPUS")?;
    let project = project.parse().map_err(|error| format!("{error}"))?;
    Ok((project, gpus.parse().map_err(|error| format!("{error}"))?))
}

fn interval(from: Instant, until: Instant) -> Result<Interval, Failure> {
    Interval::between(from, until).ok_or_else(|| Failure::Usage("--until must be after --from".to_owned()))
}

/// A change of what is lent or assigned of a reservation.
fn supply(command: SupplyCommand, action: &str, body: serde_json::Value) -> Change {
    let of = command.reservation();
    let path = |(tenant, id): (&TenantId, &ReservationId)| format!("/v1/tenants/{tenant}/reservations/{id}");
    let resource = of.map(path).unwrap_or_default();
    let command = MarketCommand::Supply(command).into();
    Change { command, path: format!("{resource}:{action}"), body, resource }
}

fn create(create: Create, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Create { tenant, reservation, project, platform, gpus, from, until, fabric, paid } = create;
    let says = format!("{tenant} has reservation {reservation}: {gpus} GPUs from {from} until {until}");
    let path = format!("/v1/tenants/{tenant}/reservations");
    let resource = format!("{path}/{reservation}");
    let payment = paid.payment()?;
    let reservation = ReservationDraft { reservation, project, platform, gpus, from, until, payment, fabric };
    let body = super::body(&reservation)?;
    let change = Change { command: Command::Reserve { tenant, reservation }, path, body, resource };
    change.run(server, settings, format, |_| says)
}

fn text(rows: &[ReservationRow]) -> String {
    let cells = rows.iter().map(|it| {
        let paid = match it.payment {
            Payment::Upfront { .. } | Payment::UpfrontTotal { .. } => "up front".to_owned(),
            Payment::Monthly { .. } => "monthly".to_owned(),
            Payment::Flex { usage, .. } => format!("flex, {usage} used"),
        };
        let texts = [&it.reservation, &it.project, &it.platform].map(Clone::clone);
        let time = [it.from.clone(), it.until.clone(), paid];
        let numbers = [&it.committed_price, &it.gpu_hours, &it.gpu_hours_elapsed].map(Clone::clone);
        let money = [it.upfront.clone().unwrap_or_default(), it.earned.clone(), it.currency.clone()];
        let texts = texts.into_iter().chain([it.gpus.to_string()]);
        texts.chain(time).chain(numbers).chain(money).collect()
    });
    let head = [
        "reservation",
        "project",
        "platform",
        "GPUs",
        "from",
        "until",
        "paid",
        "price",
        "GPU-hours",
        "elapsed",
        "up front",
        "earned",
        "currency",
    ];
    table(&head, &[3, 7, 8, 9, 10, 11], cells)
}
