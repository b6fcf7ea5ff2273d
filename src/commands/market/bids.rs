//! Bids.

use hourglass_capacity::pool::PoolName;
use hourglass_consumers::billing::market::{BidRow, bid, bids};
use hourglass_ledger::core::market::{BidChange, BidDraft, MarketCommand, MarketRejection};
use hourglass_units::{BidId, Instant, Price, ProjectId, TenantId};
use serde_json::json;

use super::pools::seconds;
use super::{Act, Method, Where, number};
use crate::client::{Server, not_understood};
use crate::commands::change::AFTER_HELP;
use crate::commands::{body, instant, rows_of, tenant_of};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Bids for spot GPUs: place, list, show, update, cancel.
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
    /// Bid for GPUs
    Place(Place),
    /// Bids of a tenant that are not over
    List {
        /// Whose
        tenant: TenantId,
    },
    /// One bid, with its units
    Show(Which),
    /// Change a bid. What it wins or loses with it the next clearing decides
    Update(Update),
    /// Take a bid back. What runs of it is told to stop
    Cancel(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Whose
    tenant: TenantId,
    /// Which
    bid: BidId,
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    which: Which,
    /// For which project
    #[arg(long)]
    project: ProjectId,
    /// Where it may run, as REGION/PLATFORM/FABRIC; the preferred pool first
    #[arg(long = "pool", value_name = "POOL", required = true)]
    pools: Vec<PoolName>,
    /// The most that it pays for a GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = Price::parse)]
    limit: Price,
    /// GPUs of a unit; a unit is one instance
    #[arg(long, value_name = "GPUS", default_value_t = 1)]
    gpus_per_unit: u32,
    /// The most units that it wants
    #[arg(long, value_name = "UNITS")]
    units: u32,
    /// So many units or none
    #[arg(long, value_name = "UNITS", default_value_t = 1)]
    min_units: u32,
    /// It wants at least so long a notice [default: the pool's]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    notice: Option<u32>,
    /// From then on it wins nothing more; what runs goes on [default: no end]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    expires: Option<Instant>,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
struct Update {
    #[command(flatten)]
    which: Which,
    /// The most that it pays for a GPU-hour, from now on
    #[arg(long, value_name = "PRICE", value_parser = Price::parse, group = "change")]
    limit: Option<Price>,
    /// The most units that it wants. What runs beyond it is told to stop
    #[arg(long, value_name = "UNITS", group = "change")]
    units: Option<u32>,
    /// So many units or none: not more than it holds while something runs
    #[arg(long, value_name = "UNITS", group = "change")]
    min_units: Option<u32>,
    /// From then on it wins nothing more
    #[arg(long, value_name = "TIME", value_parser = instant, group = "change")]
    expires: Option<Instant>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = Where { server: &args.server, settings, format };
    match args.action {
        Action::Place(args) => place(args, at),
        Action::List { tenant } => list(&tenant, at),
        Action::Show(which) => show(&which, at),
        Action::Update(args) => update(args, at),
        Action::Cancel(which) => cancel(which, at),
    }
}

fn place(args: Place, at: Where<'_>) -> Result<(), Failure> {
    let Place { which, project, pools, limit, gpus_per_unit, units, min_units, notice, expires } = args;
    let Which { tenant, bid } = which;
    let path = format!("/v1/tenants/{tenant}/bids");
    let act = Act {
        method: Method::Post,
        resource: format!("{path}/{bid}"),
        path,
        body: json!({
            "bid": bid, "project": project, "pools": pools, "gpus_per_unit": gpus_per_unit,
            "min_units": min_units, "max_units": units, "limit": limit, "notice_seconds": notice,
            "expires_at": expires,
        }),
        of: Some((tenant.clone(), bid.clone())),
    };
    let says = format!("{tenant} bids {limit} for {min_units} to {units} units");
    let notice_ms = notice.map(|seconds| i64::from(seconds).saturating_mul(1_000));
    let draft = BidDraft {
        bid,
        project,
        pools,
        gpus_per_unit,
        min_units,
        max_units: units,
        limit,
        notice_ms,
        expires_at: expires,
    };
    let place = MarketCommand::PlaceBid { tenant, bid: draft };
    act.run(at, |_| Ok(place), |done| format!("{says}: bid number {}", number(done, "number")))
}

/// A change of one bid.
fn change(
    which: Which,
    action: &str,
    given: serde_json::Value,
    command: MarketCommand,
    at: Where<'_>,
    says: String,
) -> Result<(), Failure> {
    let Which { tenant, bid } = which;
    let resource = format!("/v1/tenants/{tenant}/bids/{bid}");
    let path = format!("{resource}:{action}");
    let act = Act { method: Method::Post, path, body: given, of: Some((tenant, bid)), resource };
    act.run(at, |_| Ok(command), |_| says)
}

fn update(args: Update, at: Where<'_>) -> Result<(), Failure> {
    let Update { which, limit, units, min_units, expires } = args;
    let change = BidChange { limit, min_units, max_units: units, expires_at: expires };
    let (tenant, bid) = (which.tenant.clone(), which.bid.clone());
    let says = format!("bid {bid} of {tenant} is changed");
    let command = MarketCommand::UpdateBid { tenant, bid, change };
    self::change(which, "update", body(&change)?, command, at, says)
}

fn cancel(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let (tenant, bid) = (which.tenant.clone(), which.bid.clone());
    let says = format!("bid {bid} of {tenant} is taken back");
    change(which, "cancel", json!({}), MarketCommand::CancelBid { tenant, bid }, at, says)
}

fn list(tenant: &TenantId, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<BidRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/bids"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            bids(&loaded.state, tenant).collect()
        }
    };
    answer(at.format, &rows, |rows| bids_text(rows))
}

fn bids_text(rows: &[BidRow]) -> String {
    if rows.is_empty() {
        return "there is no bid: `hourglass bid place` places one".to_owned();
    }
    let cells = rows.iter().map(|it| {
        let texts = [it.bid.clone(), it.number.to_string(), it.project.clone()];
        let wants = format!("{} to {} of {} GPUs", it.min_units, it.max_units, it.gpus_per_unit);
        let pool = it.pool.as_ref().map(ToString::to_string).unwrap_or_default();
        let price = it.price.clone().unwrap_or_default();
        let has = [it.state.as_str().to_owned(), it.units.to_string(), pool, price];
        texts.into_iter().chain([wants, it.limit.clone()]).chain(has).collect()
    });
    let head = ["bid", "number", "project", "wants", "limit", "state", "units", "in", "price"];
    table(&head, &[1, 4, 6, 8], cells)
}

fn show(which: &Which, at: Where<'_>) -> Result<(), Failure> {
    let Which { tenant, bid: name } = which;
    let row: BidRow = match at.server.client()? {
        Some(client) => {
            let said = client.get(&format!("/v1/tenants/{tenant}/bids/{name}"))?;
            serde_json::from_value(said).map_err(|error| not_understood(&error))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            let unknown = || MarketRejection::BidUnknown { bid: name.clone() };
            bid(&loaded.state, tenant, name).ok_or_else(|| Failure::Rejected(unknown().to_string()))?
        }
    };
    answer(at.format, &row, |row| {
        let units = row.instances.iter().map(|it| {
            let stop = it.stop.as_ref();
            let (cause, why) = stop.map(|it| (it.cause.clone(), it.reason.clone())).unwrap_or_default();
            let until = stop.map(|it| it.deadline.clone()).unwrap_or_default();
            vec![it.instance.clone(), it.state.as_str().to_owned(), cause, why, until]
        });
        let units = table(&["unit", "state", "cause", "why", "stops by"], &[], units);
        format!("{}\n{units}", bids_text(std::slice::from_ref(row)))
    })
}
