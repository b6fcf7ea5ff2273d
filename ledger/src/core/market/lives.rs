//! The lives of units: when they may come up, and what the cloud says of them.
//!
//! Of a pool that this cell drives, each unit has a [`Lifecycle`]. It begins as *requested*: it was won, and
//! holds its quota. It is *held* as soon as its GPUs are free, which is when whoever had them has stopped:
//! units of a gang together, and in the order of their bids. From then on the driver makes the calls that
//! the life cycle asks for, and reports what it learns as [`Fact`]s.
//!
//! What the facts say is done here: a run is billed from its beginning to its end, and a unit that is down
//! gives back its quota and is done away with.

use std::collections::BTreeMap;

use hourglass_capacity::lifecycle::{self as cycle, Action, Belief, Input, Lifecycle, Phase, Wish};
use hourglass_capacity::pool::PoolName;
use hourglass_units::{BidId, InstanceId, Instant, Interval};
use serde::{Deserialize, Serialize};

use super::command::{Backend, Stop};
use super::{Market, apply};
use crate::core::Inconsistent;
use crate::core::metering::InstanceIx;
use crate::core::quotas::{self, Cause, Target};
use crate::core::state::State;
use crate::core::timeline::{LifeStep, Noted};

type Result<T> = std::result::Result<T, Inconsistent>;

/// A unit at the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Of which bid.
    pub number: u64,
    /// In which pool.
    pub pool: PoolName,
    /// Its GPUs.
    pub gpus: u32,
    /// Where it stands.
    pub cycle: Lifecycle,
}

/// Something that the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// For which unit.
    pub instance: InstanceId,
    /// In which pool.
    pub pool: PoolName,
    /// Its GPUs.
    pub gpus: u32,
    /// What kind of instance it is.
    pub backend: Backend,
    /// What.
    pub action: Action,
}

/// Whether its GPUs are taken, or may be.
fn takes_room(cycle: &Lifecycle) -> bool {
    match cycle.phase() {
        Phase::Requested => false,
        Phase::Held | Phase::Creating | Phase::Running | Phase::Notice { .. } | Phase::Stopping { .. } => {
            true
        }
        Phase::Stopped { .. } | Phase::Failed { .. } => {
            !matches!(cycle.belief(), Belief::Absent | Belief::Down)
        }
    }
}

/// Whether it is down, and stays so.
fn has_ended(cycle: &Lifecycle) -> bool {
    matches!(cycle.phase(), Phase::Stopped { .. } | Phase::Failed { .. })
}

impl Market {
    /// What the driver has to do now, no more than so much of it: calls and looks before polls, which could else
    /// keep them waiting, and of each kind the longest waiting first.
    pub fn due(&self, now: Instant, most: usize) -> Vec<Due> {
        let mut due: Vec<(Instant, &Life)> = Vec::new();
        for life in self.lives.values() {
            due.extend(life.cycle.wakes_at().filter(|wakes| *wakes <= now).map(|wakes| (wakes, life)));
        }
        due.sort_by_key(|(wakes, life)| (life.cycle.is_polled(), *wakes, life.number));
        let of = |(_, life): (Instant, &Life)| {
            Some(Due {
                instance: life.cycle.instance().clone(),
                pool: life.pool.clone(),
                gpus: life.gpus,
                backend: self.pools.get(&life.pool)?.terms.backend,
                action: life.cycle.next_action(now)?,
            })
        };
        due.into_iter().filter_map(of).take(most).collect()
    }

    /// All units that are known at the cloud or are to be, by instance.
    pub fn lives(&self) -> impl Iterator<Item = &Life> {
        self.lives.values()
    }

    /// Pools of which more or fewer GPUs are counted as taken than lives take, and lives that wait unnoticed.
    pub fn miscounted(&self) -> Vec<&PoolName> {
        let mut taken: BTreeMap<&PoolName, u64> = self.pools.keys().map(|name| (name, 0)).collect();
        let mut unnoticed = Vec::new();
        for (ix, life) in &self.lives {
            if takes_room(&life.cycle)
                && let Some(sum) = taken.get_mut(&life.pool)
            {
                *sum = sum.saturating_add(u64::from(life.gpus));
            }
            if matches!(life.cycle.phase(), Phase::Requested) != self.waiting.contains(ix) {
                unnoticed.push(&life.pool);
            }
        }
        let counted = |name: &PoolName| self.pools.get(name).map(|pool| pool.taken);
        let wrong = taken.into_iter().filter(|(name, sum)| counted(name) != Some(*sum)).map(|(name, _)| name);
        wrong.chain(unnoticed).collect()
    }
}

/// A unit was won: it waits for its GPUs.
pub(super) fn begin(state: &mut State, ix: InstanceIx, number: u64, pool: &PoolName, gpus: u32, at: Instant) {
    let Some(instance) = state.instances.get(ix) else { return };
    let cycle = Lifecycle::requested(instance.id.clone(), at);
    state.market.lives.insert(ix, Life { number, pool: pool.clone(), gpus, cycle });
    state.market.waiting.insert(ix);
}

/// A unit is told to stop.
pub(super) fn end(state: &mut State, ix: InstanceIx, stop: &Stop, at: Instant) -> Result<()> {
    super::supply::unit_is_to_stop(&mut state.market, ix);
    let cause = cause_of(stop)?;
    let until = stop.deadline;
    let wish = match stop.cause {
        // Its owner need not wait.
        Cause::Owner => Wish::Delete { cause },
        _ => Wish::Preempt { until, cause },
    };
    take(state, ix, &Input::Wish(wish), at)
}

/// As the life cycle names it.
fn cause_of(stop: &Stop) -> Result<cycle::Cause> {
    Ok(match stop.cause {
        Cause::Outbid => {
            let by = stop.by.unwrap_or_default().to_string();
            let by: BidId = by.parse().map_err(|_| Inconsistent::new("a bid without a number"))?;
            cycle::Cause::Outbid { by }
        }
        Cause::SupplyReclaimed => {
            cycle::Cause::SupplyReclaimed { by: stop.reclaim.unwrap_or(cycle::Reclaim::Capacity) }
        }
        Cause::ReserveRaised => cycle::Cause::ReserveRaised,
        Cause::Maintenance => cycle::Cause::Maintenance,
        Cause::Suspension => cycle::Cause::Suspension,
        Cause::Owner => cycle::Cause::OwnerStopped,
        Cause::Quota => cycle::Cause::Quota,
        Cause::Budget => cycle::Cause::Budget,
    })
}

/// What an input makes of a unit, and what follows from that.
pub(super) fn take(state: &mut State, ix: InstanceIx, input: &Input, at: Instant) -> Result<()> {
    let market = &mut state.market;
    let Some(life) = market.lives.get_mut(&ix) else { return Ok(()) };
    let transition =
        life.cycle.on(input, at).map_err(|error| Inconsistent::new(format!("of a unit's life: {error}")))?;
    let after = transition.next;
    let before = std::mem::replace(&mut life.cycle, after.clone());
    let (gpus, pool) = (u64::from(life.gpus), market.pools.get_mut(&life.pool));
    let pool = pool.ok_or_else(|| Inconsistent::new("a unit of no pool"))?;
    match (takes_room(&before), takes_room(&after)) {
        (false, true) => pool.taken = pool.taken.saturating_add(gpus),
        (true, false) => pool.taken = pool.taken.saturating_sub(gpus),
        _ => {}
    }
    // What the provider took back of what is preemptible it needs itself.
    let is_taken_back = pool.terms.backend == Backend::Preemptible
        && matches!(after.phase(), Phase::Stopped { cause: cycle::Cause::Provider })
        && !has_ended(&before);
    if transition.is_missing || is_taken_back {
        pool.cooldown.prove_missing(gpus, at);
        market.supply_changed = true;
    }
    if !matches!(after.phase(), Phase::Requested) {
        market.waiting.remove(&ix);
    }
    bill(state, ix, &before, &after)?;
    if has_ended(&after) && !has_ended(&before) {
        note_end(state, &after, at);
        quotas::release(state, ix)?;
        apply::stopped(&mut state.market, ix);
        // Its name is never used again: nothing of it is to be left.
        if let Phase::Stopped { cause } = after.phase() {
            let wish = Input::Wish(Wish::Delete { cause: cause.clone() });
            return take(state, ix, &wish, at);
        }
    }
    if after.is_over() {
        state.market.lives.remove(&ix);
    }
    Ok(())
}

/// L-1: a unit that ended says why, and when it ran last.
fn note_end(state: &mut State, after: &Lifecycle, at: Instant) {
    let (step, cause) = match after.phase() {
        Phase::Failed { cause } => (LifeStep::Failed, cause),
        Phase::Stopped { cause } => (LifeStep::Stopped, cause),
        _ => return,
    };
    let id = after.instance();
    let order = state.quotas.preemption(&Target::Instance(id.clone()));
    let detail = match (order, cause) {
        (Some(order), _) => order.reason.clone(),
        (None, cycle::Cause::CloudError { failure }) => failure.as_str().to_owned(),
        (None, _) => String::new(),
    };
    let ran_until = after.run().and_then(|run| run.end).map_or(at, |end| end.billed_until);
    state.noted.push(Noted::new(id, step, ran_until).because(cause.as_str(), &detail));
}

/// L-2: what ran is billed, and nothing else.
fn bill(state: &mut State, ix: InstanceIx, before: &Lifecycle, after: &Lifecycle) -> Result<()> {
    let (was, is) = (before.run(), after.run());
    if was == is {
        return Ok(());
    }
    let Some(run) = is else { return Ok(()) };
    let id = after.instance().clone();
    let holding = state.instances.get(ix).and_then(|instance| instance.holding);
    // It cannot have run before it was won, whatever the cloud's clock says.
    let earliest = holding.map_or(run.from, |holding| run.from.max(holding.since));
    let from = earliest.min(state.now);
    let is_new = was.is_none_or(|was| was.from != run.from);
    if is_new && let Some(open) = Interval::from(from) {
        crate::core::lifecycle::change_running(state, &id, open, |running| running.insert(open))?;
        state.noted.push(Noted::new(&id, LifeStep::Started, from));
        quotas::start(state, ix, from)?;
    }
    let ended = was.and_then(|was| was.end) != run.end || is_new;
    if let Some(end) = run.end.filter(|_| ended)
        && let Some(rest) = Interval::from(end.billed_until.max(from))
    {
        crate::core::lifecycle::change_running(state, &id, rest, |running| running.remove(rest))?;
    }
    Ok(())
}

/// Units whose GPUs are free come up: of each bid all that wait, or none where they are its gang.
pub(super) fn admit(state: &mut State, at: Instant) -> Result<()> {
    super::admit_waiting(&mut state.market, at);
    let market = &state.market;
    let mut free: BTreeMap<PoolName, u64> = BTreeMap::new();
    let mut waiting: BTreeMap<(u64, PoolName), Vec<(InstanceIx, u64)>> = BTreeMap::new();
    for (ix, life) in market.waiting.iter().filter_map(|ix| Some((*ix, market.lives.get(ix)?))) {
        let of_bid = waiting.entry((life.number, life.pool.clone())).or_default();
        of_bid.push((ix, u64::from(life.gpus)));
        if let Some(pool) = market.pools.get(&life.pool) {
            free.entry(life.pool.clone()).or_insert_with(|| pool.supply(at).saturating_sub(pool.taken));
        }
    }
    for ((number, pool), units) in waiting {
        let Some(free) = free.get_mut(&pool) else { continue };
        let market = &state.market;
        let bid = market.bids.get(&number);
        let of_bid = bid.into_iter().flat_map(|bid| bid.units.values());
        let cycles = of_bid.filter_map(|ix| Some(&market.lives.get(ix)?.cycle));
        let up = cycles.filter(|cycle| takes_room(cycle) && !has_ended(cycle)).count();
        let min_units = bid.map_or(1, |bid| usize::try_from(bid.draft.min_units).unwrap_or(usize::MAX));
        let missing = min_units.saturating_sub(up).max(1);
        let gang = units.iter().take(missing).map(|(_, gpus)| *gpus).fold(0, u64::saturating_add);
        if gang > *free {
            // Who comes later must not take what it waits for.
            *free = 0;
            continue;
        }
        for (ix, gpus) in units {
            let Some(left) = free.checked_sub(gpus) else { break };
            *free = left;
            take(state, ix, &Input::Wish(Wish::Hold), at)?;
        }
    }
    Ok(())
}
