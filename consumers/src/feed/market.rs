//! What a tenant is to be told about its spot instances, and everybody about prices.

use hourglass_ledger::core::market::{Cleared, Start, Stop};
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::store::Reader;
use hourglass_proto::subjects::Subjects;
use serde_json::json;

use super::notice::{INSTANCE_REGISTERED, Told};
use super::quota::PREEMPTION_ORDERED;
use crate::billing::market::{ClearError, clearings_before};
use crate::market::ticks::{Seen, Tick, currency_of};

pub(super) const SPOT_PRICE: &str = "hourglass.spot.price.v1";

/// What was told of prices before a position, so that the same is told of it whenever it is.
pub(super) fn seen_before(reader: &dyn Reader, position: Position) -> Result<Seen, ClearError> {
    let mut seen = Seen::default();
    if let Some(before) = clearings_before(reader, position.number()).next() {
        let _told: Vec<Tick> = seen.tell(&before?.cleared);
    }
    Ok(seen)
}

/// A clearing: what has to stop, what is to start, and what changed in price.
#[derive(Debug)]
pub(super) struct Clearing {
    epoch: u64,
    starts: Vec<Start>,
    stops: Vec<Stop>,
    ticks: Vec<Tick>,
}

impl Clearing {
    pub(super) fn new(cleared: Cleared, epoch: u64, seen: &mut Seen) -> Self {
        let ticks = seen.tell(&cleared);
        let Cleared { starts, stops, .. } = cleared;
        Self { epoch, starts, stops, ticks }
    }

    /// How many look-ups in the state it needs.
    pub(super) fn lookups(&self) -> usize {
        let starts = self.starts.iter().map(|it| usize::try_from(it.count).unwrap_or(usize::MAX));
        let others = self.stops.len().saturating_add(self.ticks.len());
        starts.fold(others, usize::saturating_add)
    }

    /// What follows from it, in order.
    pub(super) fn told(&self, position: u64, state: &State, subjects: &Subjects) -> Vec<Told> {
        let stops = of_stops(&self.stops, position, state, subjects);
        let starts = self.starts.iter().flat_map(|start| of_start(start, position, state, subjects));
        let ticks = self.ticks.iter().map(|tick| self.of_tick(tick, position, state, subjects));
        stops.into_iter().chain(starts).chain(ticks).collect()
    }

    fn of_tick(&self, tick: &Tick, position: u64, state: &State, subjects: &Subjects) -> Told {
        let data = json!({
            "position": position, "epoch": self.epoch, "pool": tick.pool,
            "currency": currency_of(state, &tick.pool), "price": tick.price.to_string(),
            "reserve_price": tick.reserve.to_string(), "sold": tick.sold, "free": tick.free,
            "supply": tick.supply, "bids": tick.bids, "gpus_wanted": tick.gpus_wanted,
            "resource": format!("/v1/clears/{position}"),
        });
        let subject = subjects.spot(tick.pool.platform.as_str(), tick.pool.fabric.as_str());
        (subject, SPOT_PRICE, tick.pool.to_string(), data)
    }
}

/// Units that are told to stop.
pub(super) fn of_stops(stops: &[Stop], position: u64, state: &State, subjects: &Subjects) -> Vec<Told> {
    let told = |stop: &Stop| {
        let view = state.instance(stop.instance.as_str())?;
        let data = json!({
            "position": position, "tenant": view.tenant(), "instance": stop.instance, "hold": null,
            "cause": stop.cause.as_str(), "by": stop.by, "reason": stop.reason(),
            "deadline": stop.deadline.to_string(),
        });
        let subject = subjects.lifecycle(view.tenant().as_str());
        Some((subject, PREEMPTION_ORDERED, stop.instance.to_string(), data))
    };
    stops.iter().filter_map(told).collect()
}

/// Units that a bid won: instances that are to start.
fn of_start(start: &Start, position: u64, state: &State, subjects: &Subjects) -> Vec<Told> {
    let told = |instance: hourglass_units::InstanceId| {
        let view = state.instance(instance.as_str())?;
        let data = json!({
            "position": position, "instance": instance, "tenant": view.tenant(), "project": view.project(),
            "platform": start.pool.platform, "model": hourglass_pricing::PurchaseModel::Spot.as_str(),
            "gpus": view.gpus(), "agent": view.agent(), "pool": start.pool, "bid_number": start.number,
        });
        Some((subjects.lifecycle(view.tenant().as_str()), INSTANCE_REGISTERED, instance.to_string(), data))
    };
    start.instances().filter_map(told).collect()
}
