//! Pools.

use hourglass_capacity::auction::Mode;
use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_capacity::pool::PoolName;
use hourglass_consumers::billing::market::{
    AccountRow, NodeDraft, NodeRow, NodeStateRow, PoolClearedRow, PoolRow, PoolTermsRow, PriceRow, SupplyRow,
    account, nodes, pool, pool_name, pools, prices, supply,
};
use hourglass_ledger::core::market::{
    Backend, CapacitySource, MarketCommand, MarketRejection, SupplyCommand,
};
use hourglass_ledger::core::{Rejection, State};
use hourglass_units::{
    Currency, Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, NodeId, Percent, Platform, Price,
};

use super::{Act, Method, Where};
use crate::client::{Server, not_understood};
use crate::commands::change::AFTER_HELP;
use crate::commands::{body, instant, milliseconds, rows_of};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Pools of GPUs that are sold as spot: set, list, show, prices, supply, nodes.
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
    /// What is left of a pool for spot, and why
    Supply(Which),
    /// Where the GPU-time of a pool went: reserved, on demand, spot, idle, or out of use
    Account(Account),
    /// Say how a node is: what does not work is not sold
    SetNode(SetNode),
    /// Forget a node
    ForgetNode(ForgetNode),
    /// The nodes of a pool that are known
    Nodes(Which),
}

#[derive(Debug, clap::Args)]
struct Account {
    #[command(flatten)]
    which: Which,
    /// From then on
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Instant,
    /// Until then
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Instant,
}

#[derive(Debug, clap::Args)]
struct SetNode {
    #[command(flatten)]
    which: Which,
    /// Its name
    node: NodeId,
    /// Its GPUs
    #[arg(long)]
    gpus: u64,
    /// How it is
    #[arg(long, value_enum)]
    state: Health,
    /// With maintenance: from then on
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// With maintenance: until then
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Health {
    /// It works
    Healthy,
    /// Its operator took it out
    Cordoned,
    /// It is broken
    Failed,
    /// It works, but for a planned time
    Maintenance,
}

#[derive(Debug, clap::Args)]
struct ForgetNode {
    #[command(flatten)]
    which: Which,
    /// Its name
    node: NodeId,
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
    /// How long after its deadline a unit may take to be gone: so much earlier spot makes way
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "2m")]
    drain: u32,
    /// How far ahead on-demand and reservations keep out of each other's way [default: always]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    look_ahead: Option<u32>,
    /// What owners who lend idle reserved GPUs get of what spot pays for them
    #[arg(long, value_name = "PERCENT", default_value_t = Percent::ZERO)]
    owner_share: Percent,
    /// With --driven: what its units are at the provider
    #[arg(long, value_enum, default_value_t = Kind::Regular)]
    backend: Kind,
    /// With --driven: who says how many GPUs it has; until the provider has said so, --gpus holds
    #[arg(long, value_enum, default_value_t = Says::Operator)]
    capacity: Says,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Instances in capacity that is ours
    Regular,
    /// Instances that the provider takes back when it needs them
    Preemptible,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Says {
    /// --gpus
    Operator,
    /// The capacity intervals that are reserved at the provider
    Intervals,
    /// The provider's advice of what could be had at once
    Advice,
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
        Action::Supply(which) => show_supply(which, at),
        Action::Account(args) => show_account(args, at),
        Action::SetNode(args) => set_node(args, at),
        Action::ForgetNode(ForgetNode { which, node }) => change_node(which, node, None, at),
        Action::Nodes(which) => list_nodes(which, at),
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
    let Set { which, reserve, .. } = args;
    let shape = if args.lines { Shape::Lines } else { Shape::Steps };
    let reserve = ReservePolicy::new(ReserveDraft { shape, points: reserve })
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let mode = if args.exact { Mode::Exact } else { Mode::Greedy };
    let terms = PoolTermsRow {
        currency: args.currency,
        gpus: args.gpus,
        safety_buffer: args.safety_buffer,
        reserve,
        mode,
        gang_max: args.gang_max,
        notice_seconds: args.notice,
        driven: args.driven,
        drain_seconds: args.drain,
        look_ahead_seconds: args.look_ahead,
        owner_share: args.owner_share,
        backend: match args.backend {
            Kind::Regular => Backend::Regular,
            Kind::Preemptible => Backend::Preemptible,
        },
        capacity: match args.capacity {
            Says::Operator => CapacitySource::Operator,
            Says::Intervals => CapacitySource::Intervals,
            Says::Advice => CapacitySource::Advice,
        },
    };
    let path = format!("/v1/pools/{}/{}", which.platform, which.fabric);
    let says = format!("pool {}/{} has {} GPUs", which.platform, which.fabric, args.gpus);
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
        let numbers = [it.gpus.to_string(), it.supply.to_string(), it.reserve_price.clone()];
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
    let row: PoolRow = of_pool(which, at, "", |state, name| Ok(pool(state, name)))?;
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

/// An answer of the API, without the position that it is of.
fn without_position<T: serde::de::DeserializeOwned>(mut said: serde_json::Value) -> Result<T, Failure> {
    if let Some(fields) = said.as_object_mut() {
        fields.remove("as_of");
    }
    serde_json::from_value(said).map_err(|error| not_understood(&error))
}

/// Something about one pool, from the API or from the data directory.
fn of_pool<T: serde::de::DeserializeOwned>(
    which: Which,
    at: Where<'_>,
    path: &str,
    read: impl FnOnce(&State, &PoolName) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    match at.server.client()? {
        Some(client) => {
            without_position(client.get(&format!("/v1/pools/{}/{}{path}", which.platform, which.fabric))?)
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            let name = named(&loaded.state, which)?;
            read(&loaded.state, &name)?.ok_or_else(|| unknown(name))
        }
    }
}

fn show_supply(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let row: SupplyRow = of_pool(which, at, "/supply", |state, name| Ok(supply(state, name)))?;
    answer(at.format, &row, |row| {
        let parts = [
            ("for spot", row.for_spot),
            ("there", row.capacity),
            ("cooling down", row.cooling_down),
            ("reserved", row.reserved),
            ("of them lent", row.lent),
            ("on demand", row.on_demand),
            ("kept free", row.buffer),
            ("missing", row.shortfall),
        ];
        let cells = parts.into_iter().map(|(what, gpus)| vec![what.to_owned(), gpus.to_string()]);
        let next = row.next_change.as_deref().map_or_else(String::new, |at| format!("\nit changes at {at}"));
        format!("{}{next}", table(&["", "GPUs"], &[1], cells))
    })
}

fn show_account(args: Account, at: Where<'_>) -> Result<(), Failure> {
    let Account { which, from, until } = args;
    let within = Interval::between(from, until);
    let within = within.ok_or_else(|| Failure::Usage("--until must be after --from".to_owned()))?;
    let path = format!("/account?start={from}&end={until}");
    let row: AccountRow = of_pool(which, at, &path, |state, name| {
        account(state, name, within).transpose().map_err(Failure::Rejected)
    })?;
    answer(at.format, &row, |row| {
        let parts = [
            ("reserved", &row.reserved),
            ("on demand", &row.on_demand),
            ("spot", &row.spot),
            ("idle", &row.idle),
            ("out of use", &row.excluded),
            ("owned", &row.owned),
        ];
        table(
            &["", "GPU-hours"],
            &[1],
            parts.into_iter().map(|(what, hours)| vec![what.to_owned(), hours.clone()]),
        )
    })
}

fn set_node(args: SetNode, at: Where<'_>) -> Result<(), Failure> {
    let SetNode { which, node, gpus, state, from, until } = args;
    let state = match state {
        Health::Healthy => NodeStateRow::Healthy,
        Health::Cordoned => NodeStateRow::Cordoned,
        Health::Failed => NodeStateRow::Failed,
        Health::Maintenance => NodeStateRow::Maintenance,
    };
    change_node(which, node, Some(NodeDraft { gpus, state, from, until }), at)
}

fn change_node(which: Which, node: NodeId, to: Option<NodeDraft>, at: Where<'_>) -> Result<(), Failure> {
    let resource = format!("/v1/pools/{}/{}/nodes", which.platform, which.fabric);
    let path = format!("{resource}/{node}");
    let draft = to.as_ref().map(NodeDraft::node).transpose();
    let draft = draft.map_err(|why| Failure::Usage(why.to_owned()))?;
    let says = match to {
        Some(_) => format!("node {node} is known"),
        None => format!("node {node} is forgotten"),
    };
    let method = if to.is_some() { Method::Put } else { Method::Delete };
    let act = Act { method, resource, path, body: body(&to)?, of: None };
    let make = move |state: &State| {
        let pool = named(state, which)?;
        Ok(MarketCommand::Supply(SupplyCommand::SetNode { pool, node, to: draft }))
    };
    act.run(at, make, |_| says)
}

fn list_nodes(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<NodeRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/pools/{}/{}/nodes", which.platform, which.fabric))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            let name = named(&loaded.state, which)?;
            nodes(&loaded.state, &name).ok_or_else(|| unknown(name))?
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|NodeRow { node, is }| {
            let state = serde_json::to_value(is.state).ok();
            let state = state.as_ref().and_then(|it| it.as_str()).unwrap_or_default().to_owned();
            let time = [is.from, is.until].map(|at| at.map_or_else(String::new, |at| at.to_string()));
            [node.clone(), is.gpus.to_string(), state].into_iter().chain(time).collect()
        });
        table(&["node", "GPUs", "state", "from", "until"], &[1], cells)
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
