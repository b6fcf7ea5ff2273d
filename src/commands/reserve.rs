//! `hourglass reserve`: GPUs sold for a time.

use hourglass_consumers::billing::reservations::{ReservationRow, reservations};
use hourglass_ledger::core::Command;
use hourglass_pricing::reservation::{Payment, ReservationDraft};
use hourglass_units::{Amount, Instant, Platform, Price, ProjectId, ReservationId, TenantId};
use serde_json::json;

use super::change::{AFTER_HELP, Change};
use super::{instant, rows_of, tenant_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// GPUs sold for a time: create, amend, list.
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

fn create(create: Create, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Create { tenant, reservation, project, platform, gpus, from, until, paid } = create;
    let says = format!("{tenant} has reservation {reservation}: {gpus} GPUs from {from} until {until}");
    let path = format!("/v1/tenants/{tenant}/reservations");
    let resource = format!("{path}/{reservation}");
    let payment = paid.payment()?;
    let reservation = ReservationDraft { reservation, project, platform, gpus, from, until, payment };
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
