//! The verbs of the spot market, and what a file expects of it.
//!
//! A unit of a bid is an instance whose id has the number of the bid in it, which nobody knows when a file is
//! written. So the file writes `BID.UNIT`: `b-1.0` is the first unit that bid `b-1` won.

use std::sync::Arc;

use hourglass_capacity::auction::Mode as ClearingMode;
use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_capacity::calendar::Allowance;
use hourglass_capacity::nodes::{Node, NodeState};
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::{Claim, Offer};
use hourglass_consumers::billing::market::{UnitState, about, bid, pool, why};
use hourglass_ledger::core::market::{
    BidChange, BidDraft, MarketCommand, NOTICE_MS_MIN, PoolTerms, SupplyCommand, Trigger,
};
use hourglass_ledger::core::{Command, State};
use hourglass_ledger::store::Reader;
use hourglass_units::{BidId, Currency, InstanceId, Instant, Percent, Price, TenantId};

use super::check::{Facts, Subject, scalars};
use super::lex::{Word, Words};
use super::parse::Parser;
use super::quota::{Named, Names, whole_seconds};
use super::verbs::{gpus, place};
use super::{Act, Fault};

/// Each verb and how its step is written.
pub(super) const FORMS: [(&str, &str); 13] = [
    (
        "pool",
        "pool PLATFORM FABRIC xGPUS reserve=PRICE[,PERCENT=PRICE…] [currency=USD] [buffer=0] [exact] [gang=100] [notice=60s] [owner_share=0]",
    ),
    ("node", "node PLATFORM FABRIC NODE xGPUS healthy|cordoned|failed|FROM..UNTIL"),
    ("lend", "lend RESERVATION TENANT [most=GPUS]"),
    ("withdraw", "withdraw RESERVATION TENANT"),
    ("claim", "claim RESERVATION TENANT xGPUS FROM..UNTIL"),
    ("assign", "assign RESERVATION TENANT PROJECT xGPUS FROM..UNTIL"),
    (
        "bid",
        "bid BID TENANT/PROJECT PLATFORM/FABRIC[,…] UNITS|LEAST..MOST limit=PRICE [gpus=1] [notice=60s] [expires=TIME]",
    ),
    ("change-bid", "change-bid BID TENANT [limit=PRICE] [least=UNITS] [most=UNITS] [expires=TIME]"),
    ("cancel-bid", "cancel-bid BID TENANT"),
    ("margin", "margin PERCENT"),
    ("clear", "clear"),
    ("suspend", "suspend TENANT [reason=TEXT]"),
    ("resume", "resume TENANT"),
];

/// What an expectation of the market can be about.
pub(super) const SUBJECTS: [&str; 3] = ["pool", "bid", "why"];

/// Fields of a pool.
const POOL: [&str; 6] = ["price", "sold", "free", "supply", "reserve_price", "currency"];
/// Fields of a bid.
const BID: [&str; 9] =
    ["state", "pool", "units", "price", "limit", "accepted", "running", "stopping", "expires_at"];
/// Fields of why a bid has what it has.
const WHY: [&str; 7] = ["outcome", "reason", "units", "pool", "wins_at", "stopped", "cause"];

/// What an expectation of the market is about.
#[derive(Debug, Clone)]
pub(super) enum MarketSubject {
    Pool { pool: PoolName },
    Bid { bid: BidId, tenant: TenantId },
    Why { bid: BidId, tenant: TenantId },
}

/// What happens in a step of the market.
pub(super) fn act(parser: &mut Parser, words: &mut Words, at: Instant) -> Result<Act, Fault> {
    let command = match words.verb() {
        "pool" => set_pool(parser, words)?,
        "bid" => return placed(parser, words, at).map(|named| Act::Named(Box::new(named))),
        "change-bid" => {
            let (bid, tenant) = (words.value("the bid")?, words.value("the tenant")?);
            let change = BidChange {
                limit: words.named("limit").map(|word| word.price()).transpose()?,
                min_units: words.named_value("least")?,
                max_units: words.named_value("most")?,
                expires_at: words.named_time("expires", at)?,
            };
            MarketCommand::UpdateBid { tenant, bid, change }
        }
        "cancel-bid" => {
            MarketCommand::CancelBid { bid: words.value("the bid")?, tenant: words.value("the tenant")? }
        }
        "node" => MarketCommand::Supply(set_node(parser, words, at)?),
        "lend" | "withdraw" | "claim" | "assign" => MarketCommand::Supply(of_reservation(words, at)?),
        "suspend" => {
            MarketCommand::Suspend { tenant: words.value("the tenant")?, reason: words.named_text("reason") }
        }
        "resume" => MarketCommand::Resume { tenant: words.value("the tenant")? },
        "margin" => MarketCommand::SetMargin { margin: words.value("the margin")? },
        _ => return Ok(Act::Clear),
    };
    Ok(Act::from(Command::from(command)))
}

/// The clearing that `clear` stands for.
pub(super) fn clearing() -> Command {
    MarketCommand::Clear { trigger: Trigger::Asked }.into()
}

/// `PLATFORM FABRIC`, of the cell's region.
fn pool_of(parser: &Parser, words: &mut Words) -> Result<PoolName, Fault> {
    let region = parser.region(words.verb_word())?;
    Ok(PoolName { region, platform: words.value("the platform")?, fabric: words.value("the fabric")? })
}

fn set_pool(parser: &Parser, words: &mut Words) -> Result<MarketCommand, Fault> {
    let pool = pool_of(parser, words)?;
    let gpus = gpus(words)?;
    let reserve = words.named("reserve").ok_or_else(|| words.fault("reserve=PRICE is missing"))?;
    let mode = if words.flag("exact") { ClearingMode::Exact } else { ClearingMode::Greedy };
    let currency = words.named_value("currency")?.unwrap_or(Currency::USD);
    let terms = PoolTerms {
        safety_buffer: words.named_value("buffer")?.unwrap_or(0),
        mode,
        gang_max: words.named_value("gang")?.unwrap_or(Percent::WHOLE),
        notice_ms: words.named("notice").map_or(Ok(NOTICE_MS_MIN), |word| whole_seconds(&word))?,
        owner_share: words.named_value("owner_share")?.unwrap_or(Percent::ZERO),
        ..PoolTerms::new(currency, u64::from(gpus), policy(&reserve)?)
    };
    Ok(MarketCommand::SetPool { pool, terms })
}

fn set_node(parser: &Parser, words: &mut Words, at: Instant) -> Result<SupplyCommand, Fault> {
    let (pool, node) = (pool_of(parser, words)?, words.value("the node")?);
    let gpus = u64::from(gpus(words)?);
    let word = words.next("how it is")?;
    let state = match word.text.as_str() {
        "healthy" => NodeState::Healthy,
        "cordoned" => NodeState::Cordoned,
        "failed" => NodeState::Failed,
        _ => NodeState::Maintenance(word.interval(at)?),
    };
    Ok(SupplyCommand::SetNode { pool, node, to: Some(Node { gpus, state }) })
}

/// What is lent of a reservation, asked back, or a project's own.
fn of_reservation(words: &mut Words, at: Instant) -> Result<SupplyCommand, Fault> {
    let verb = words.verb().to_owned();
    let (reservation, tenant) = (words.value("the reservation")?, words.value("the tenant")?);
    Ok(match verb.as_str() {
        "lend" => {
            let offer = words.named_value("most")?.map_or(Offer::Automatic, Offer::AtMost);
            SupplyCommand::Lend { tenant, reservation, offer: Some(offer) }
        }
        "withdraw" => SupplyCommand::Lend { tenant, reservation, offer: None },
        "claim" => {
            let gpus = u64::from(gpus(words)?);
            let claim = Claim { gpus, interval: words.next("the interval")?.interval(at)? };
            SupplyCommand::Claim { tenant, reservation, claim }
        }
        _ => {
            let (project, gpus) = (words.value("the project")?, u64::from(gpus(words)?));
            let interval = words.next("the interval")?.interval(at)?;
            let allowances = vec![Allowance { project, gpus, interval }];
            SupplyCommand::Assign { tenant, reservation, allowances }
        }
    })
}

/// `0.50`, or `0.50,50=2.00`.
fn policy(word: &Word) -> Result<ReservePolicy, Fault> {
    let point = |text: &str| {
        let (utilisation, price) = text.split_once('=').unwrap_or(("0", text));
        let utilisation = utilisation.parse().map_err(|error| word.fault(error))?;
        Ok(Point { utilisation, price: Price::parse(price).map_err(|error| word.fault(error))? })
    };
    let points = word.text.split(',').map(point).collect::<Result<_, Fault>>()?;
    ReservePolicy::new(ReserveDraft { shape: Shape::Steps, points }).map_err(|error| word.fault(error))
}

fn placed(parser: &mut Parser, words: &mut Words, at: Instant) -> Result<Named, Fault> {
    let name = words.next("the bid")?;
    let (tenant, project) = place(words)?;
    let region = parser.region(words.verb_word())?;
    let pools = words.next("the pools, as PLATFORM/FABRIC")?;
    let pool = |text: &str| format!("{region}/{text}").parse().map_err(|error| pools.fault(error));
    let units = words.next("the units")?;
    let (least, most) = units.text.split_once("..").unwrap_or(("1", &units.text));
    let count = |text: &str| text.parse::<u32>().map_err(|error| units.fault(error));
    let gpus_per_unit = words.named_value("gpus")?.unwrap_or(1);
    let limit = words.named("limit").ok_or_else(|| words.fault("limit=PRICE is missing"))?.price()?;
    let draft = BidDraft {
        bid: name.value()?,
        project,
        pools: pools.text.split(',').map(pool).collect::<Result<_, _>>()?,
        gpus_per_unit,
        min_units: count(least)?,
        max_units: count(most)?,
        limit,
        notice_ms: words.named("notice").map(|word| whole_seconds(&word)).transpose()?,
        expires_at: words.named_time("expires", at)?,
    };
    parser.name(&name)?;
    parser.units.insert(name.text.clone(), gpus_per_unit);
    let command = MarketCommand::PlaceBid { tenant, bid: draft }.into();
    Ok(Named { makes: Some(name.text), uses: None, command })
}

/// The bid and the unit that an id stands for.
pub(super) fn unit_of(id: &str) -> Option<(&str, &str)> {
    let (bid, unit) = id.rsplit_once('.')?;
    unit.bytes().all(|byte| byte.is_ascii_digit()).then_some((bid, unit))
}

/// The instance that an id stands for: a unit of a bid of the file, or itself.
pub(super) fn resolved_id(id: &InstanceId, names: &Names) -> InstanceId {
    let unit = unit_of(id.as_str()).and_then(|(bid, unit)| Some((names.get(bid)?, unit)));
    let named = unit.and_then(|(number, unit)| format!("spot-{number}-{unit}").parse().ok());
    named.unwrap_or_else(|| id.clone())
}

/// The command about the instance that its id stands for.
pub(super) fn resolved(command: &Command, names: &Names) -> Command {
    let mut command = command.clone();
    if let Command::StartInstance { instance, .. }
    | Command::StopInstance { instance, .. }
    | Command::ChangeMode { instance, .. }
    | Command::VoidUsage { instance, .. } = &mut command
    {
        *instance = resolved_id(instance, names);
    }
    command
}

/// Reads the subject of an expectation, with the fields that it can have.
pub(super) fn subject(
    parser: &Parser,
    words: &mut Words,
    what: &str,
    place: &mut impl FnMut(&str, Word),
) -> Result<(Subject, &'static [&'static str]), Fault> {
    if what == "pool" {
        return Ok((Subject::Market(MarketSubject::Pool { pool: pool_of(parser, words)? }), &POOL));
    }
    let (bid, tenant) = (words.value("the bid")?, words.value("the tenant")?);
    if what == "why" {
        if let Some(outcome) = words.more() {
            place("outcome", outcome);
        }
        return Ok((Subject::Market(MarketSubject::Why { bid, tenant }), &WHY));
    }
    if let Some(state) = words.more() {
        place("state", state);
    }
    Ok((Subject::Market(MarketSubject::Bid { bid, tenant }), &BID))
}

impl MarketSubject {
    /// What there is.
    pub(super) fn candidates(&self, state: &State, reader: &Arc<dyn Reader>) -> Result<Vec<Facts>, String> {
        match self {
            Self::Pool { pool: name } => Ok(pool(state, name).iter().map(pool_facts).collect()),
            Self::Bid { bid: name, tenant } => Ok(bid(state, tenant, name).iter().map(bid_facts).collect()),
            Self::Why { bid, tenant } => {
                let Some(about) = about(state, tenant, bid) else { return Ok(Vec::new()) };
                let row = why(reader.as_ref(), about, None).map_err(|error| error.to_string())?;
                let mut found = scalars(&row);
                let stopped = row.stopped.iter().map(|it| it.units).fold(0_u32, u32::saturating_add);
                found.insert("stopped".to_owned(), stopped.to_string());
                found.extend(row.stopped.first().map(|it| ("cause".to_owned(), it.cause.clone())));
                Ok(vec![found])
            }
        }
    }
}

fn pool_facts(row: &hourglass_consumers::billing::market::PoolRow) -> Facts {
    let mut found = scalars(row);
    found.insert("currency".to_owned(), row.terms.currency.to_string());
    if let Some(cleared) = &row.cleared {
        found.extend(scalars(cleared));
    }
    found
}

fn bid_facts(row: &hourglass_consumers::billing::market::BidRow) -> Facts {
    let mut found = scalars(row);
    for state in [UnitState::Accepted, UnitState::Running, UnitState::Stopping] {
        let count = row.instances.iter().filter(|unit| unit.state == state).count();
        found.insert(state.as_str().to_owned(), count.to_string());
    }
    found
}
