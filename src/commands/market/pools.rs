//! Pools.

use hourglass_capacity::auction::Mode;
use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_consumers::billing::market::{
    PoolClearedRow, PoolRow, PoolTermsRow, PriceRow, pool, pool_name, pools, prices,
};
use hourglass_ledger::core::market::{MarketCommand, MarketRejection};
use hourglass_ledger::core::{Rejection, State};
use hourglass_units::{
    Currency, Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Percent, Platform, Price,
};

use super::{Act, Method, Where};
use crate::client::{Server, not_understood};
use crate::commands::change::AFTER_HELP;
use crate::commands::{body, instant, milliseconds, rows_of};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Pools of GPUs that are sold as spot: set, list, show, prices.
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
    /// Open a pool of the cell's region, or give it other terms
    Set(Set),
    /// All pools, with their prices
    List,
    /// One pool: its terms, its supply, and what the last clearing says
    Show(Which),
    /// What a pool cost, step by step
    Prices(Prices),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// On which platform
    platform: Platform,
    /// On which fabric
    fabric: Fabric,
}

#[derive(Debug, clap::Args)]
struct Prices {
    #[command(flatten)]
    which: Which,
    /// From then on [default: from the first clearing on]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// Until then [default: until now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
}

#[derive(Debug, clap::Args)]
struct Set {
    #[command(flatten)]
    which: Which,
    /// GPUs that it has
    #[arg(long)]
    gpus: u64,
    /// Of its prices: only tenants that are billed in it can bid
    #[arg(long)]
    currency: Currency,
    /// Nobody pays less. Once is a price; with PERCENT= it holds from that share of the pool on that is not for spot
    #[arg(long, value_name = "[PERCENT=]PRICE", value_parser = point, required = true)]
    reserve: Vec<Point>,
    /// Between two reserve prices go in a straight line, not in steps
    #[arg(long)]
    lines: bool,
    /// So many GPUs are never sold as spot
    #[arg(long, value_name = "GPUS", default_value_t = 0)]
    safety_buffer: u64,
    /// Decide who wins by the largest sum of limits: for small pools
    #[arg(long)]
    exact: bool,
    /// Refuse a gang larger than this part of the supply
    #[arg(long, value_name = "PERCENT", default_value_t = Percent::WHOLE)]
    gang_max: Percent,
    /// How long what loses has until it must have stopped
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "60s")]
    notice: u32,
    /// Let this cell bring units up and down through the compute API
    #[arg(long)]
    driven: bool,
}

/// Reads `PRICE`, or `PERCENT=PRICE`.
fn point(text: &str) -> Result<Point, String> {
    let (utilisation, price) = text.split_once('=').unwrap_or(("0", text));
    let utilisation = utilisation.parse().map_err(|error| format!("{error}"))?;
    Ok(Point { utilisation, price: Price::parse(price).map_err(|error| error.to_string())? })
}

/// Reads a duration in whole seconds.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let milliseconds = milliseconds(text)?;
    match (milliseconds.rem_euclid(1_000), u32::try_from(milliseconds.div_euclid(1_000))) {
        (0, Ok(seconds)) => Ok(seconds),
        _ => Err("give it in whole seconds".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = Where { server: &args.server, settings, format };
    match args.action {
        Action::Set(args) => set(args, at),
        Action::List => list(at),
        Action::Show(which) => show(which, at),
        Action::Prices(args) => show_prices(args, at),
    }
}

/// The pool of the cell's region.
fn named(state: &State, which: Which) -> Result<hourglass_capacity::pool::PoolName, Failure> {
    pool_name(state, which.platform, which.fabric)
        .ok_or_else(|| Failure::Rejected(Rejection::CellNotOpen.to_string()))
}

fn unknown(pool: hourglass_capacity::pool::PoolName) -> Failure {
    Failure::Rejected(MarketRejection::PoolUnknown { pool }.to_string())
}

fn set(args: Set, at: Where<'_>) -> Result<(), Failure> {
    let Set { which, gpus, currency, reserve, lines, safety_buffer, exact, gang_max, notice, driven } = args;
    let shape = if lines { Shape::Lines } else { Shape::Steps };
    let reserve = ReservePolicy::new(ReserveDraft { shape, points: reserve })
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let mode = if exact { Mode::Exact } else { Mode::Greedy };
    let terms = PoolTermsRow {
        currency,
        gpus,
        safety_buffer,
        reserve,
        mode,
        gang_max,
        notice_seconds: notice,
        driven,
    };
    let path = format!("/v1/pools/{}/{}", which.platform, which.fabric);
    let says = format!("pool {}/{} has {gpus} GPUs", which.platform, which.fabric);
    let act = Act { method: Method::Put, resource: path.clone(), path, body: body(&terms)?, of: None };
    let make =
        move |state: &State| Ok(MarketCommand::SetPool { pool: named(state, which)?, terms: terms.into() });
    act.run(at, make, |_| says)
}

fn list(at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<PoolRow> = match at.server.client()? {
        Some(client) => rows_of(&client, "/v1/pools")?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            pools(&loaded.state).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        if rows.is_empty() {
            return "there is no pool: `hourglass pool set` opens one".to_owned();
        }
        pools_text(rows)
    })
}

fn pools_text(rows: &[PoolRow]) -> String {
    let cells = rows.iter().map(|it| {
        let cleared = it.cleared.as_ref();
        let text = |of: fn(&PoolClearedRow) -> String| cleared.map(of).unwrap_or_else(|| "-".to_owned());
        let numbers = [it.terms.gpus.to_string(), it.supply.to_string(), it.reserve_price.clone()];
        let last = [
            text(|it| it.price.clone()),
            text(|it| it.sold.to_string()),
            text(|it| it.free.to_string()),
            text(|it| it.clear.to_string()),
            text(|it| it.at.clone()),
        ];
        [it.pool.to_string()]
            .into_iter()
            .chain(numbers)
            .chain(last)
            .chain([it.terms.currency.to_string()])
            .collect()
    });
    let head =
        ["pool", "GPUs", "for spot", "reserve", "price", "sold", "free", "clear", "cleared", "currency"];
    table(&head, &[1, 2, 3, 4, 5, 6, 7], cells)
}

fn show(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let row: PoolRow = match at.server.client()? {
        Some(client) => {
            let mut said = client.get(&format!("/v1/pools/{}/{}", which.platform, which.fabric))?;
            if let Some(fields) = said.as_object_mut() {
                fields.remove("as_of");
            }
            serde_json::from_value(said).map_err(|error| not_understood(&error))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            let name = named(&loaded.state, which)?;
            pool(&loaded.state, &name).ok_or_else(|| unknown(name))?
        }
    };
    answer(at.format, &row, |row| {
        let terms = &row.terms;
        format!(
            "{}\n{} of its GPUs are never for spot; what loses has {} seconds until it must have stopped",
            pools_text(std::slice::from_ref(row)),
            terms.safety_buffer,
            terms.notice_seconds
        )
    })
}

fn show_prices(args: Prices, at: Where<'_>) -> Result<(), Failure> {
    let Prices { which, from, until } = args;
    let rows: Vec<PriceRow> = match at.server.client()? {
        Some(client) => {
            let given = [from.map(|it| format!("start={it}")), until.map(|it| format!("end={it}"))];
            let filters = given.into_iter().flatten().collect::<Vec<_>>().join("&");
            let filters = if filters.is_empty() { filters } else { format!("?{filters}") };
            rows_of(&client, &format!("/v1/pools/{}/{}/prices{filters}", which.platform, which.fabric))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            let name = named(&loaded.state, which)?;
            if loaded.state.market().pool(&name).is_none() {
                return Err(unknown(name));
            }
            let within = Interval::between(from.unwrap_or(INSTANT_MIN), until.unwrap_or(INSTANT_MAX));
            let within = within.ok_or_else(|| Failure::Usage("--until must be after --from".to_owned()))?;
            prices(&loaded.state, &name, within).into_iter().map(|(_, row)| row).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows
            .iter()
            .map(|it| vec![it.from.clone(), it.until.clone().unwrap_or_default(), it.price.clone()]);
        table(&["from", "until", "price"], &[2], cells)
    })
}
