//! What a pool has, whom it has promised it to, and what of it is left for spot.
//!
//! Who comes before spot is counted here: reservations of the pool's fabric, and instances that run in it on
//! demand or inside such a reservation ([`seats`]). The rules are those of [`hourglass_capacity::supply`];
//! what an owner gets for what it lends is in [`yields`].

mod account;
mod decide;
mod seats;
mod yields;

use std::collections::BTreeMap;

use hourglass_capacity::calendar::{
    Allowance, Calendar, Refusal, Reservation, ReservationError, ReservationName,
};
use hourglass_capacity::lifecycle::Reclaim;
use hourglass_capacity::nodes::{Node, Nodes};
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::Steps;
use hourglass_capacity::supply::{
    self, Admission, Claim, LOOK_AHEAD_MS_ALL, LoanError, Loans, Offer, Policy, Supply,
};
use hourglass_pricing::reservation::Reservation as Sold;
use hourglass_units::{Instant, Interval, NodeId, TenantId};
use serde::{Deserialize, Serialize};

use super::command::PoolTerms;
use super::{Market, Pool};
use crate::core::Inconsistent;
use crate::core::state::State;

pub use account::{SPANS_MAX, TooManySpans};
pub(crate) use decide::{check_reservation, decide};
pub use seats::Seat;
pub(crate) use seats::{
    admit_waiting, check_place, check_seat, follow, is_waiting, place, starts, unit_goes, unit_is_to_stop,
    unit_won,
};
pub(crate) use yields::{Lending, YIELD_CREDIT_PREFIX, check as check_yields};

/// What a pool has, and what of it is not for spot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stock {
    /// GPUs that it was said to have, over time.
    owned: Steps,
    /// Of them, those of nodes that could not be used, over time.
    excluded: Steps,
    /// The nodes that are known by name.
    nodes: Nodes,
    /// Reservations of this fabric.
    pub(super) calendar: Calendar,
    /// What of them is lent.
    pub(super) loans: Loans,
    /// GPUs on demand, of instances that run or were admitted.
    on_demand: u64,
    /// GPUs of instances inside reservations, by reservation.
    used: BTreeMap<ReservationName, u64>,
    /// Of both, those whose GPUs are there for them.
    seated: u64,
    /// GPUs of spot units that this cell does not drive: of those that are to go on, and of those that run.
    undriven: Undriven,
    /// The longest notice that anybody bids with here, in milliseconds.
    pub(super) notice_ms: i64,
}

/// Units that the compute service starts and stops by itself. What drains sits on the GPUs of its successor,
/// so the larger number is what they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Undriven {
    live: u64,
    running: u64,
}

impl Stock {
    /// GPUs that the pool was said to have, over time.
    pub fn owned(&self) -> &Steps {
        &self.owned
    }

    /// Of them, those of nodes that could not be used, over time.
    pub fn excluded(&self) -> &Steps {
        &self.excluded
    }

    /// The nodes that are known by name.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Reservations of this fabric.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// What of them is lent.
    pub fn loans(&self) -> &Loans {
        &self.loans
    }

    /// GPUs on demand, of instances that run or were admitted.
    pub fn on_demand(&self) -> u64 {
        self.on_demand
    }

    /// GPUs that owners of reservations use of them, running or admitted.
    pub fn used(&self) -> u64 {
        self.used.values().copied().fold(0, u64::saturating_add)
    }

    /// The same of one reservation.
    pub fn used_of(&self, name: &ReservationName) -> u64 {
        self.used.get(name).copied().unwrap_or(0)
    }

    /// What can be used from an instant on.
    pub fn capacity(&self, from: Instant) -> Steps {
        self.owned.beyond(&self.excluded, from)
    }

    /// It has another number of GPUs from an instant on.
    pub(super) fn set_owned(&mut self, gpus: u64, at: Instant) {
        let always = Interval::from(at).map(|rest| (rest, gpus));
        self.owned.splice(at, &Steps::sum(always));
    }

    /// It has what the intervals say, from an instant on.
    pub(super) fn set_capacity(&mut self, intervals: &[(Interval, u64)], at: Instant) {
        self.owned.splice(at, &Steps::sum(intervals.iter().copied()));
    }

    /// A node is another one from an instant on.
    pub(super) fn set_node(&mut self, id: NodeId, node: Option<Node>, at: Instant) {
        self.nodes.set(id, node);
        self.excluded.splice(at, &self.nodes.excluded(at));
    }

    pub(super) fn lend(&mut self, name: &ReservationName, offer: Option<Offer>) {
        match offer {
            Some(offer) => self.loans.offer(name.clone(), offer),
            None => drop(self.loans.withdraw(name)),
        }
    }

    pub(super) fn ask_back(&mut self, name: &ReservationName, claim: Claim) -> Result<(), LoanError> {
        self.loans.ask_back(name, claim)
    }

    pub(super) fn assign(&mut self, name: &ReservationName, to: Vec<Allowance>) -> Result<(), Refusal> {
        self.calendar.assign(name, to)
    }

    /// Takes out what is over: nothing asks for it any more.
    pub(crate) fn forget_before(&mut self, at: Instant) {
        self.calendar.forget_before(at);
        self.loans.forget_before(at);
    }
}

impl PoolTerms {
    /// How spot makes room, for bids with so long a notice.
    fn policy(&self, notice_ms: i64) -> Policy {
        Policy {
            notice_ms: self.notice_ms.max(notice_ms),
            stop_ms: self.drain_ms,
            margin_ms: 0,
            buffer: self.safety_buffer,
            look_ahead_ms: self.look_ahead_ms.unwrap_or(LOOK_AHEAD_MS_ALL),
        }
    }
}

impl Pool {
    /// What it has, and what of it is not for spot.
    pub fn stock(&self) -> &Stock {
        &self.stock
    }

    /// GPUs for spot, those that spot runs on included.
    pub fn supply(&self, at: Instant) -> u64 {
        self.ask(at, &Steps::default(), |pool, policy| pool.for_spot(policy))
    }

    /// The same, term by term.
    pub fn supply_terms(&self, at: Instant) -> Supply {
        let mut supply = self.ask(at, &Steps::default(), |pool, policy| pool.supply(policy));
        // What cools down is tried again.
        let again = self.cooldown.until().filter(|until| at < *until);
        supply.next_change = supply.next_change.into_iter().chain(again).min();
        supply
    }

    /// Asks the rules about the pool at an instant, with spot on so many GPUs over time.
    fn ask<T>(&self, at: Instant, spot: &Steps, ask: impl FnOnce(supply::Pool<'_>, &Policy) -> T) -> T {
        let stock = &self.stock;
        let capacity = stock.capacity(at);
        let pool = supply::Pool {
            at,
            capacity: &capacity,
            calendar: &stock.calendar,
            loans: &stock.loans,
            used: &stock.used,
            on_demand: stock.on_demand,
            spot,
            cooling_down: self.cooldown.missing(at),
        };
        ask(pool, &self.terms.policy(stock.notice_ms))
    }

    /// GPUs that may start on demand, at once or when spot has made way: so many are admitted, and no more.
    pub fn room_on_demand(&self, at: Instant) -> u64 {
        match self.admit_on_demand(at, &Steps::default(), u64::MAX) {
            Admission::Refused { room, .. } => room,
            Admission::Now | Admission::Pending { .. } => u64::MAX,
        }
    }

    /// Whether so many on-demand GPUs may start, with spot on so many over time.
    fn admit_on_demand(&self, at: Instant, spot: &Steps, gpus: u64) -> Admission {
        self.ask(at, spot, |pool, policy| pool.admit_on_demand(policy, gpus))
    }

    /// What reservations may be promised of, from an instant on.
    pub fn for_reservations(&self, at: Instant) -> Steps {
        self.ask(at, &Steps::default(), |pool, policy| pool.for_reservations(policy))
    }

    /// GPUs that nobody sits on at an instant: what drains is not free yet.
    fn unoccupied(&self, at: Instant) -> u64 {
        let there = self.stock.capacity(at).at(at).saturating_sub(self.cooldown.missing(at));
        there.saturating_sub(self.stock.seated.saturating_add(self.occupied_by_spot()))
    }

    /// GPUs that spot sits on.
    fn occupied_by_spot(&self) -> u64 {
        let Undriven { live, running } = self.stock.undriven;
        self.taken.saturating_add(live.max(running))
    }

    /// Whether its supply is another one by now than it was when it was cleared.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.supplied.as_ref().and_then(|supply| supply.next_change).is_some_and(|change| change <= now)
    }

    /// GPUs that it was said to have at an instant.
    pub fn gpus(&self, at: Instant) -> u64 {
        self.stock.owned.at(at)
    }

    /// The most that it will ever have, as far as is known.
    pub(super) fn most(&self, from: Instant) -> u64 {
        Interval::from(from).map_or(0, |rest| self.stock.owned.peak(rest))
    }

    /// Whether nodes are out by now that were not when it was cleared last.
    pub(super) fn has_lost_nodes(&self, now: &Supply) -> bool {
        self.stock.excluded.at(now.tightest) > self.out_then
    }

    /// For what most of the supply went since it was cleared last.
    pub(super) fn reclaimed_for(&self, now: &Supply) -> Reclaim {
        let Some(before) = &self.supplied else { return Reclaim::Capacity };
        let kept = |supply: &Supply| supply.cooling_down.saturating_add(supply.buffer);
        let lost = before.capacity.saturating_sub(now.capacity);
        let all = [
            (Reclaim::Reservation, now.reserved.saturating_sub(before.reserved)),
            (Reclaim::OnDemand, now.on_demand.saturating_sub(before.on_demand)),
            (Reclaim::Owner, before.lent.saturating_sub(now.lent)),
            (Reclaim::Capacity, kept(now).saturating_sub(kept(before)).saturating_add(lost)),
        ];
        // The first of those that took most.
        let most = all.iter().rev().max_by_key(|(_, gpus)| *gpus);
        most.filter(|(_, gpus)| *gpus > 0).map_or(Reclaim::Capacity, |(reclaim, _)| *reclaim)
    }
}

/// A reservation as the calendar keeps it.
fn in_calendar(reservation: &Sold) -> Result<Reservation, ReservationError> {
    Reservation::new(u64::from(reservation.draft().gpus), reservation.interval())
}

/// A reservation was sold, or has another end: its GPUs are kept free for it, where it names a fabric.
pub(crate) fn reserve(state: &mut State, tenant: &TenantId, reservation: &Sold) -> Result<(), Inconsistent> {
    let draft = reservation.draft();
    let Some(fabric) = &draft.fabric else { return Ok(()) };
    let region = state.cell.as_ref().map(|cell| cell.region.clone());
    let region = region.ok_or_else(|| Inconsistent::new("a reservation before the cell"))?;
    let pool = PoolName { region, platform: draft.platform.clone(), fabric: fabric.clone() };
    let market = &mut state.market;
    let pool = market.pools.get_mut(&pool).ok_or_else(|| Inconsistent::new("a reservation of no pool"))?;
    let calendar = &mut pool.stock.calendar;
    let name = ReservationName { tenant: tenant.clone(), reservation: draft.reservation.clone() };
    let kept = match calendar.get(&name) {
        Some(known) => known.amended(known.gpus(), reservation.interval()),
        None => in_calendar(reservation),
    };
    calendar.put(name, kept.map_err(|error| Inconsistent::new(error.to_string()))?);
    market.supply_changed = true;
    Ok(())
}

/// Time passed: who waits has what is free by now, and what is over is forgotten.
pub(crate) fn pass(market: &mut Market, at: Instant) {
    market.pools.values_mut().for_each(|pool| pool.stock.forget_before(at));
    admit_waiting(market, at);
}
