//! What happens in the market.

use std::collections::BTreeMap;

use hourglass_capacity::lifecycle::{Input, Reclaim};
use hourglass_capacity::pool::PoolName;
use hourglass_pricing::{PurchaseModel, Sku, SpotPool};
use hourglass_units::{Instant, TenantId};

use super::command::{CapacitySource, Cleared, MarketEvent, Start, Stop};
use super::rooms::mode_of;
use super::{Bid, Market, Pool, PoolCleared, Suspension, Unit, lives, supply, unit_name};
use crate::core::Inconsistent;
use crate::core::command::{Detail, Position, Registration};
use crate::core::metering::InstanceIx;
use crate::core::quotas::{self, Cause, Preemption, Target};
use crate::core::state::State;
use crate::core::{lifecycle, rerating};

type Result<T> = std::result::Result<T, Inconsistent>;

fn no_bid() -> Inconsistent {
    Inconsistent::new("a bid that is not there")
}

/// Folds one event into the state.
pub(crate) fn apply(
    state: &mut State,
    position: Position,
    at: Instant,
    event: &MarketEvent,
) -> Result<Detail> {
    let market = &mut state.market;
    match event {
        MarketEvent::PoolSet { pool, terms } => {
            let terms = terms.clone();
            match market.pools.get_mut(pool) {
                Some(known) => {
                    if terms.capacity == CapacitySource::Operator {
                        known.stock.set_owned(terms.gpus, at);
                    }
                    known.terms = terms;
                }
                None => drop(market.pools.insert(pool.clone(), Pool::new(terms, at))),
            }
            market.supply_changed = true;
        }
        MarketEvent::MarginSet { margin } => market.margin = *margin,
        MarketEvent::BidPlaced { tenant, bid } => {
            let number = position.number();
            let names = market.by_name.entry(tenant.clone()).or_default();
            if names.insert(bid.bid.clone(), number).is_some() {
                return Err(Inconsistent::new("two bids of one name"));
            }
            let bid = Bid {
                tenant: tenant.clone(),
                draft: bid.clone(),
                placed_at: at,
                cancelled: false,
                held: None,
                broken_by: None,
                units: Default::default(),
                units_made: 0,
            };
            note_notice(&mut market.pools, &bid);
            market.bids.insert(number, bid);
            return Ok(Detail::Bid { number });
        }
        MarketEvent::BidUpdated { number, change, stops } => {
            let bid = market.bids.get_mut(number).ok_or_else(no_bid)?;
            bid.draft = bid.changed(change);
            let most = bid.draft.max_units;
            if let Some((_, units)) = &mut bid.held {
                *units = most.min(*units);
            }
            if change.limit.is_some() {
                change_limit(state, *number, at)?;
            }
            order(state, stops, at)?;
            return Ok(Detail::Bid { number: *number });
        }
        MarketEvent::BidCancelled { number, stops } => {
            let bid = market.bids.get_mut(number).ok_or_else(no_bid)?;
            (bid.cancelled, bid.held) = (true, None);
            order(state, stops, at)?;
            forget_when_over(&mut state.market, *number);
            lives::admit(state, at)?;
            return Ok(Detail::Bid { number: *number });
        }
        MarketEvent::Learnt { facts, listing } => {
            for (instance, fact) in facts {
                let ix = lifecycle::find(state, instance)?;
                lives::take(state, ix, &Input::Fact(fact.clone()), at)?;
            }
            if let Some(listing) = listing {
                for life in state.market.lives.values_mut() {
                    life.cycle.still_as_it_was(listing.began);
                }
                state.market.listed = Some(listing.began);
                state.market.strays.clone_from(&listing.strays);
            }
            lives::admit(state, at)?;
        }
        MarketEvent::NodeSet { pool, node, to } => {
            known(market, pool)?.stock.set_node(node.clone(), *to, at);
            market.supply_changed = true;
            lives::admit(state, at)?;
        }
        MarketEvent::CapacityRead { pool, intervals } => {
            known(market, pool)?.stock.set_capacity(intervals, at);
            market.supply_changed = true;
            lives::admit(state, at)?;
        }
        MarketEvent::Suspended { tenant, reason, stops } => {
            let suspension = Suspension { reason: reason.clone(), since: at };
            market.suspended.insert(tenant.clone(), suspension);
            order(state, stops, at)?;
        }
        MarketEvent::Resumed { tenant } => {
            market.suspended.remove(tenant);
        }
        MarketEvent::Lent { pool, name, offer } => {
            known(market, pool)?.stock.lend(name, *offer);
            market.supply_changed = true;
        }
        MarketEvent::AskedBack { pool, name, claim } => {
            let claimed = known(market, pool)?.stock.ask_back(name, *claim);
            claimed.map_err(|error| Inconsistent::new(error.to_string()))?;
            market.supply_changed = true;
        }
        MarketEvent::Assigned { pool, name, allowances } => {
            let assigned = known(market, pool)?.stock.assign(name, allowances.clone());
            assigned.map_err(|error| Inconsistent::new(error.to_string()))?;
        }
        MarketEvent::Cleared(it) => {
            cleared(state, it, position, at)?;
            let (starts, stops) = (it.starts.iter().map(|it| it.count), it.stops.len());
            let starts = starts.fold(0_u32, u32::saturating_add);
            return Ok(Detail::Cleared { starts, stops: u32::try_from(stops).unwrap_or(u32::MAX) });
        }
    }
    Ok(Detail::Done)
}

fn known<'a>(market: &'a mut Market, pool: &PoolName) -> Result<&'a mut Pool> {
    market.pools.get_mut(pool).ok_or_else(|| Inconsistent::new("a pool that is not there"))
}

fn cleared(state: &mut State, it: &Cleared, position: Position, at: Instant) -> Result<()> {
    for (name, outcome) in it.pools() {
        let pool = known(&mut state.market, name)?;
        let supply = pool.supply_terms(at);
        pool.supplied(supply, at);
        let pool = state.market.pools.get_mut(name);
        let pool = pool.ok_or_else(|| Inconsistent::new("a clearing of no pool"))?;
        let currency = pool.terms.currency;
        let (price, sold, free) = (outcome.price, outcome.sold, outcome.free);
        pool.cleared = Some(PoolCleared { at, position: position.number(), price, sold, free });
        let (platform, region) = (name.platform.clone(), name.region.clone());
        let sku = Sku { platform, region, model: PurchaseModel::Spot };
        let fabric = Some(name.fabric.clone());
        let spot = SpotPool { currency, sku, fabric };
        let last = state.prices.spot(&spot).and_then(hourglass_pricing::SpotPrices::last);
        // The past of a market never changes, not even by a millisecond.
        let from = last.map_or(at, |(last, _)| at.max(last.saturating_add_ms(1)));
        let is_new = last.is_none_or(|(_, last)| last != price);
        // Where nobody has a list price nobody can have bid.
        if is_new && state.prices.check_spot(&spot, from, price, at).is_ok() {
            rerating::set_spot(state, (&name.platform, Some(&name.fabric)), currency, price, from)?;
        }
    }
    for (number, won) in it.won() {
        let bid = state.market.bids.get_mut(&number).ok_or_else(no_bid)?;
        bid.held = won.map(|(pool, units)| (pool.clone(), units));
        bid.broken_by = None;
    }
    // What stops was taken off what is held by the outcome already.
    for stop in &it.stops {
        put_order(state, stop, at)?;
    }
    for start in &it.starts {
        begin(state, start, at)?;
    }
    lives::admit(state, at)?;
    for number in &it.expired {
        forget(&mut state.market, *number);
    }
    let Market { pools, bids, .. } = &mut state.market;
    pools.values_mut().for_each(|pool| pool.stock.notice_ms = 0);
    bids.values().for_each(|bid| note_notice(pools, bid));
    let market = &mut state.market;
    market.supply_changed = false;
    market.cleared = Some((position.number(), at));
    market.input = Some(it.input());
    Ok(())
}

/// Spot makes way so early that the longest notice is kept of all who may run there: of whoever bids, since
/// the supply must not depend on who wins.
fn note_notice(pools: &mut BTreeMap<PoolName, Pool>, bid: &Bid) {
    let Some(notice_ms) = bid.draft.notice_ms else { return };
    for name in &bid.draft.pools {
        if let Some(pool) = pools.get_mut(name) {
            pool.stock.notice_ms = pool.stock.notice_ms.max(notice_ms);
        }
    }
}

/// Units of a bid become known, and take quota.
fn begin(state: &mut State, start: &Start, at: Instant) -> Result<()> {
    for unit in start.first..start.first.saturating_add(start.count) {
        let bid = state.market.bids.get(&start.number).ok_or_else(no_bid)?;
        let instance = unit_name(start.number, unit).map_err(|error| Inconsistent::new(error.to_string()))?;
        let registration = Registration {
            instance: instance.clone(),
            tenant: bid.tenant.clone(),
            project: bid.draft.project.clone(),
            platform: start.pool.platform.clone(),
            mode: mode_of(bid, &start.pool),
            gpus: bid.draft.gpus_per_unit,
            agent: None,
            hold: None,
            fabric: None,
        };
        lifecycle::register(state, &registration)?;
        let ix = lifecycle::find(state, &instance)?;
        quotas::register(state, ix, &registration, at)?;
        let (number, pool) = (start.number, start.pool.clone());
        let gpus = registration.gpus;
        let of = Unit { number, unit, pool, gpus: u64::from(gpus), runs: false, stops: false };
        state.market.units.insert(ix, of);
        let bid = state.market.bids.get_mut(&start.number).ok_or_else(no_bid)?;
        bid.units.insert(unit, ix);
        bid.units_made = bid.units_made.max(unit.saturating_add(1));
        let pool = known(&mut state.market, &start.pool)?;
        if pool.terms.driven {
            lives::begin(state, ix, start.number, &start.pool, gpus, at);
        }
        supply::unit_won(&mut state.market, ix);
    }
    Ok(())
}

/// Its owner pays at most another price from now on.
fn change_limit(state: &mut State, number: u64, at: Instant) -> Result<()> {
    let bid = state.market.bids.get(&number).ok_or_else(no_bid)?;
    let Some((pool, _)) = &bid.held else { return Ok(()) };
    let mode = mode_of(bid, pool);
    let live: Vec<_> = bid.live(&state.quotas, &state.instances).map(|(_, id)| id.clone()).collect();
    for instance in live {
        lifecycle::change_mode(state, &instance, &mode, at)?;
        quotas::change_class(state, lifecycle::find(state, &instance)?, &mode, at)?;
    }
    Ok(())
}

/// Tells units to stop.
fn order(state: &mut State, stops: &[Stop], at: Instant) -> Result<()> {
    stops.iter().try_for_each(|stop| put_order(state, stop, at))
}

fn put_order(state: &mut State, stop: &Stop, at: Instant) -> Result<()> {
    let ix = lifecycle::find(state, &stop.instance)?;
    let tenant = state.instance(stop.instance.as_str()).map(|view| view.tenant().clone());
    let target = Target::Instance(stop.instance.clone());
    let preemption = Preemption {
        target: target.clone(),
        tenant: tenant.ok_or_else(no_bid)?,
        cause: stop.cause,
        reason: stop.reason(),
        ordered_at: at,
        deadline: stop.deadline,
    };
    state.noted.push(preemption.noted(&stop.instance));
    if state.quotas.preemptions.insert(target, preemption).is_some() {
        return Err(Inconsistent::new("a second order to stop one instance"));
    }
    lives::end(state, ix, stop, at)
}

impl Stop {
    /// A-7, in words.
    pub fn reason(&self) -> String {
        match (self.cause, self.by) {
            (Cause::Outbid, Some(by)) => format!("bid number {by} pays more"),
            (Cause::Outbid, None) => "another bid pays more".to_owned(),
            (Cause::SupplyReclaimed, _) => match self.reclaim {
                Some(Reclaim::Reservation) => "its GPUs are reserved".to_owned(),
                Some(Reclaim::OnDemand) => "on-demand was admitted".to_owned(),
                Some(Reclaim::Owner) => "the owner of its GPUs needs them".to_owned(),
                Some(Reclaim::Capacity) | None => "the pool has fewer GPUs for spot".to_owned(),
            },
            (Cause::ReserveRaised, _) => "its limit is below the pool's new reserve price".to_owned(),
            (Cause::Maintenance, _) => "a node of the pool does not work, or is serviced".to_owned(),
            (Cause::Suspension, _) => "its tenant is suspended".to_owned(),
            (Cause::Owner, _) => "its owner wants it no longer".to_owned(),
            (Cause::Quota, _) => "its quota does not suffice".to_owned(),
            (Cause::Budget, _) => "its spend cap leaves no room".to_owned(),
        }
    }
}

/// A review told an instance to stop: its bid holds one unit less.
pub(crate) fn ordered(state: &mut State, ix: InstanceIx, order: &Preemption) -> Result<()> {
    let market = &mut state.market;
    let Some(Unit { number, .. }) = market.units.get(&ix) else { return Ok(()) };
    let Some(bid) = market.bids.get_mut(number) else { return Ok(()) };
    let cause = order.cause;
    if let Some((_, units)) = &mut bid.held {
        *units = units.saturating_sub(1);
        if *units == 0 {
            bid.held = None;
        } else if *units < bid.draft.min_units {
            bid.broken_by = Some(cause);
        }
    }
    let Target::Instance(instance) = order.target.clone() else { return Ok(()) };
    let stop = Stop { instance, cause, by: None, reclaim: None, deadline: order.deadline };
    lives::end(state, ix, &stop, order.ordered_at)
}

/// An instance has stopped: if it was a unit, it is none any more.
pub(crate) fn stopped(market: &mut Market, ix: InstanceIx) {
    supply::unit_goes(market, ix);
    let Some(Unit { number, unit, .. }) = market.units.remove(&ix) else { return };
    if let Some(bid) = market.bids.get_mut(&number) {
        bid.units.remove(&unit);
    }
    forget_when_over(market, number);
}

/// A bid that was taken back is over when all of it has stopped.
fn forget_when_over(market: &mut Market, number: u64) {
    let is_over = market.bids.get(&number).is_some_and(|bid| bid.cancelled && bid.units.is_empty());
    if is_over {
        forget(market, number);
    }
}

fn forget(market: &mut Market, number: u64) {
    let Some(bid) = market.bids.remove(&number) else { return };
    let of_tenant: Option<&mut std::collections::BTreeMap<_, _>> = market.by_name.get_mut(&bid.tenant);
    if let Some(names) = of_tenant {
        names.remove(&bid.draft.bid);
        if names.is_empty() {
            let tenant: &TenantId = &bid.tenant;
            market.by_name.remove(tenant);
        }
    }
}
