//! What the live market came to, out of the log alone.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::lifecycle::Phase;
use hourglass_consumers::billing::usage::{GroupBy, UsageQuery, unwritten, usage_report};
use hourglass_ledger::core::market::{MarketEvent, UNIT_PREFIX};
use hourglass_ledger::core::rows::NoRows;
use hourglass_ledger::core::{Event, Recorded, State, apply};
use hourglass_ledger::store::Reader;
use hourglass_units::{Amount, InstanceId, MoneyError, Price};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::table;

/// Events that are read at once.
const EVENTS_AT_ONCE: usize = 256;

/// How a unit ended that was taken back before it was asked for.
const NOT_STARTED: &str = "not_started";

/// What happened since some position of the log.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Clearings that changed something.
    pub clearings: u64,
    /// Units of bids that ran.
    pub units: u64,
    /// Units that were told to stop for somebody else, by cause.
    pub preemptions: BTreeMap<&'static str, u64>,
    /// Units that are over, by how they ended.
    pub ended: BTreeMap<&'static str, u64>,
    /// Instances under names of units that nobody asked for.
    pub strays: u64,
    /// Units that are not over.
    pub left: u64,
    /// What spot cost, by tenant.
    pub spot: Vec<Spot>,
}

/// What a tenant owes for spot.
#[derive(Debug, Serialize)]
pub struct Spot {
    /// Who.
    pub tenant: String,
    /// GPU-milliseconds billed.
    pub gpu_ms: i64,
    /// What they cost, an exact decimal.
    pub amount: Amount,
    /// Of the amount.
    pub currency: String,
    /// The lowest price per GPU-hour that it paid.
    pub lowest: Price,
    /// The highest.
    pub highest: Price,
}

/// Folds what was appended since the log stood at `state`, and adds it up.
pub fn summary(reader: &dyn Reader, mut state: State) -> Result<Summary, Failure> {
    let mut summary = Summary::default();
    let mut phases: BTreeMap<InstanceId, Phase> = BTreeMap::new();
    let mut strays = BTreeSet::new();
    loop {
        let events = reader.events(state.position(), EVENTS_AT_ONCE)?;
        if events.is_empty() {
            break;
        }
        for event in events {
            let unreadable = |error| Failure::Unavailable(format!("position {}: {error}", event.position));
            let recorded = Recorded::decode(&event.payload).map_err(unreadable)?;
            let _answer = apply(&mut state, event.at, &recorded, &mut NoRows)?;
            if let Event::Market(event) = &recorded.event {
                summary.count(event, &mut strays);
            }
            let lives = state.market().lives().map(|life| &life.cycle);
            phases.extend(lives.map(|cycle| (cycle.instance().clone(), cycle.phase().clone())));
        }
    }
    summary.left = state.market().lives().count() as u64;
    let left: BTreeSet<&InstanceId> = state.market().lives().map(|life| life.cycle.instance()).collect();
    for (_, phase) in phases.iter().filter(|(unit, _)| !left.contains(unit)) {
        one_more(
            &mut summary.ended,
            match phase {
                Phase::Stopped { cause } | Phase::Failed { cause } => cause.as_str(),
                // It was over at once: nothing of it was at the cloud yet.
                _ => NOT_STARTED,
            },
        );
    }
    let ran = state.instances().filter(|it| is_unit(it.id().as_str()) && !it.running().is_empty());
    summary.units = ran.count() as u64;
    summary.strays = strays.len() as u64;
    summary.spot = spot(reader, &state)?;
    Ok(summary)
}

fn is_unit(instance: &str) -> bool {
    instance.starts_with(UNIT_PREFIX)
}

fn one_more(counts: &mut BTreeMap<&'static str, u64>, of: &'static str) {
    let count = counts.entry(of).or_default();
    *count = count.saturating_add(1);
}

/// What units cost, by tenant.
fn spot(reader: &dyn Reader, state: &State) -> Result<Vec<Spot>, Failure> {
    let query = UsageQuery {
        group_by: vec![GroupBy::Tenant, GroupBy::Instance, GroupBy::Price],
        ..UsageQuery::default()
    };
    let report = usage_report(reader, None, unwritten(state, &query), &query)?;
    let mut spot: BTreeMap<String, Spot> = BTreeMap::new();
    for row in report.rows {
        let of = |key: GroupBy| row.group.get(&key.to_string()).cloned().unwrap_or_default();
        if !is_unit(&of(GroupBy::Instance)) {
            continue;
        }
        let wrong = |error: MoneyError| Failure::Unavailable(format!("a usage report: {error}"));
        let price = Price::parse(&of(GroupBy::Price)).map_err(wrong)?;
        let amount = Amount::parse(&row.amount).map_err(wrong)?;
        let tenant = of(GroupBy::Tenant);
        let sum = spot.entry(tenant.clone()).or_insert_with(|| Spot {
            tenant,
            gpu_ms: 0,
            amount: Amount::ZERO,
            currency: row.currency.clone(),
            lowest: price,
            highest: price,
        });
        sum.gpu_ms = sum.gpu_ms.saturating_add(row.gpu_ms);
        sum.amount = sum.amount.checked_add(amount).ok_or_else(|| wrong(MoneyError::Overflow))?;
        (sum.lowest, sum.highest) = (sum.lowest.min(price), sum.highest.max(price));
    }
    Ok(spot.into_values().collect())
}

impl Summary {
    fn count(&mut self, event: &MarketEvent, strays: &mut BTreeSet<String>) {
        match event {
            MarketEvent::Cleared(it) => {
                self.clearings = self.clearings.saturating_add(1);
                it.stops.iter().for_each(|stop| one_more(&mut self.preemptions, stop.cause.as_str()));
            }
            MarketEvent::Learnt { listing: Some(listing), .. } => {
                strays.extend(listing.strays.iter().map(|stray| stray.cloud.to_string()));
            }
            _ => {}
        }
    }

    /// As sentences and a table.
    pub fn to_text(&self) -> String {
        let counts = |counts: &BTreeMap<&'static str, u64>| match counts.len() {
            0 => "none".to_owned(),
            _ => {
                counts.iter().map(|(cause, count)| format!("{count} {cause}")).collect::<Vec<_>>().join(", ")
            }
        };
        let rows = self.spot.iter().map(|it| {
            let seconds = (it.gpu_ms / 1_000).to_string();
            let prices = [it.lowest.to_string(), it.highest.to_string()];
            [vec![it.tenant.clone(), seconds, it.amount.to_string(), it.currency.clone()], prices.to_vec()]
                .concat()
        });
        let head = ["tenant", "GPU-seconds", "spot charged", "", "lowest price", "highest"];
        format!(
            "{} clearings, {} units ran\npreemptions: {}\nunits that ended: {}\nunits left: {}, strays: {}\n{}",
            self.clearings,
            self.units,
            counts(&self.preemptions),
            counts(&self.ended),
            self.left,
            self.strays,
            table(&head, &[1, 2, 4, 5], rows)
        )
    }
}
