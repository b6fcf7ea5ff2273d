//! The market in virtual time.
//!
//! Time goes from event to event. At one second things happen in this order: jobs are done, notices end, lots
//! begin to work, supplies grow, jobs arrive; then, if the second is a tick and anything changed since
//! the last clearing, or if more or less is for sale, the market is cleared; at last supplies shrink. Where
//! nothing changed, clearing again would change nothing.

mod clearing;
mod event;
mod floor;
mod lots;
mod outcome;
mod work;

use hourglass_capacity::auction::{Bid, PoolIx};
use hourglass_units::Price;

use event::{Event, Events, What};
use floor::{Floor, Floors, Use};
use work::{JobIx, Work, Works};

pub use outcome::{Causes, JobOutcome, JobState, Outcome, PoolRecord, Stops};

use crate::error::BacktestError;
use crate::job::Job;
use crate::policy::Policy;
use crate::supply::Supply;

/// Runs jobs, in the order of their arrivals, against a supply under a policy. `progress` hears how many
/// arrivals and ends are behind, and of how many.
pub(crate) fn run(
    jobs: &[Job],
    supply: &Supply,
    policy: &Policy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, BacktestError> {
    let mut market = Market::open(jobs, supply, policy)?;
    let all = (jobs.len() as u64).saturating_mul(2);
    while let Some(now) = market.next_second() {
        market.pass(now)?;
        progress(market.arrived.saturating_add(market.ended), all);
    }
    market.close()
}

/// A price for so many GPU-seconds, in nano-currency an hour × GPU-seconds.
pub(crate) fn worth(price: Price, gpu_seconds: u128) -> u128 {
    u128::try_from(price.nanos()).unwrap_or(0).saturating_mul(gpu_seconds)
}

struct Market<'a> {
    supply: &'a Supply,
    policy: &'a Policy,
    opens: u64,
    now: u64,
    works: Works<'a>,
    floors: Floors,
    events: Events,
    /// When supplies change, or what is for sale, the earliest first.
    shocks: std::iter::Peekable<std::vec::IntoIter<(u64, PoolIx)>>,
    /// Who bid in the last clearing.
    bids: Vec<Bid>,
    /// Jobs that bid since then.
    newcomers: Vec<JobIx>,
    /// When the market is cleared next.
    clears_at: Option<u64>,
    arrived: u64,
    ended: u64,
    tally: outcome::Tally,
}

impl<'a> Market<'a> {
    fn open(jobs: &'a [Job], supply: &'a Supply, policy: &'a Policy) -> Result<Self, BacktestError> {
        let first = jobs.first().ok_or(BacktestError::NoJobs)?.arrives;
        let opens = first.saturating_sub(first.checked_rem(policy.tick_seconds).unwrap_or(0));
        let pools = || (0..).map(PoolIx).zip(supply.pools());
        let floors = Floors(pools().map(|_| Floor::new(opens)).collect());
        let mut shocks: Vec<(u64, PoolIx)> = Vec::new();
        for (ix, pool) in pools() {
            shocks.push((opens, ix));
            for change in &pool.changes {
                // GPUs that will go are not for sale from a notice before.
                let seconds = [change.at.saturating_sub(policy.notice_seconds), change.at];
                shocks.extend(seconds.into_iter().filter(|at| *at > opens).map(|at| (at, ix)));
            }
        }
        shocks.sort_unstable();
        shocks.dedup();
        let works = Works(jobs.iter().map(Work::new).collect());
        Ok(Self {
            supply,
            policy,
            opens,
            now: opens,
            works,
            floors,
            events: Events::default(),
            shocks: shocks.into_iter().peekable(),
            bids: Vec::new(),
            newcomers: Vec::new(),
            clears_at: None,
            arrived: 0,
            ended: 0,
            tally: outcome::Tally::new(opens),
        })
    }

    /// When something happens next. `None` if nothing can happen to a job any more, or the market closes
    /// before.
    fn next_second(&mut self) -> Option<u64> {
        if self.policy.until.is_none() && self.ended == self.works.0.len() as u64 {
            return None;
        }
        let shock = self.shocks.peek().map(|(at, _)| *at);
        let next = [self.events.next_at(), shock, self.next_arrival(), self.clears_at];
        let next = next.into_iter().flatten().min();
        next.filter(|next| self.policy.until.is_none_or(|until| *next < until))
    }

    fn next_arrival(&self) -> Option<u64> {
        let next = usize::try_from(self.arrived).ok()?;
        self.works.0.get(next).map(|work| work.of.arrives)
    }

    /// All that happens at one second.
    fn pass(&mut self, now: u64) -> Result<(), BacktestError> {
        self.now = now;
        self.happen_all()?;
        let mut changed = Vec::new();
        while let Some((_, pool)) = self.shocks.next_if(|(at, _)| *at == now) {
            self.announce(pool)?;
            changed.push(pool);
        }
        while self.next_arrival() == Some(now) {
            self.newcomers.push(JobIx(u32::try_from(self.arrived).unwrap_or(u32::MAX)));
            self.arrived = self.arrived.saturating_add(1);
            self.clear_at_tick();
        }
        if self.clears_at == Some(now) {
            self.clears_at = None;
            self.clear()?;
            // Without any notice, what was told to stop stops now, before its GPUs go.
            self.happen_all()?;
        }
        changed.into_iter().try_for_each(|pool| self.set_supply(pool, self.supply_of(pool)))
    }

    fn happen_all(&mut self) -> Result<(), BacktestError> {
        while let Some(event) = self.events.pop_at(self.now) {
            self.happen(event)?;
        }
        Ok(())
    }

    fn happen(&mut self, Event { what, job, .. }: Event) -> Result<(), BacktestError> {
        match what {
            What::Done { plan } if plan == self.works[job].plan => self.done(job),
            // Something changed since, and another plan was made.
            What::Done { .. } => Ok(()),
            What::Drained { lot } => self.drained(job, lot),
            What::Booted { lot } => self.booted(job, lot),
        }
    }

    /// What comes is there now, what will go is not for sale any more. If that is news, the market is cleared
    /// at once.
    fn announce(&mut self, ix: PoolIx) -> Result<(), BacktestError> {
        let Some(of) = self.supply.pools().get(ix.index()) else { return Ok(()) };
        let for_sale = of.least_within(self.now, self.now.saturating_add(self.policy.notice_seconds));
        let floor = &mut self.floors[ix];
        floor.reserve = clearing::reserve(of, self.policy, for_sale);
        if std::mem::replace(&mut floor.for_sale, for_sale) != for_sale {
            self.clears_at = Some(self.now);
        }
        let supply = self.floors[ix].supply.max(self.supply_of(ix));
        self.set_supply(ix, supply)?;
        self.fill(ix)
    }

    /// GPUs of a pool that are for spot at this second.
    fn supply_of(&self, ix: PoolIx) -> u64 {
        self.supply.pools().get(ix.index()).map_or(0, |of| of.at(self.now))
    }

    fn set_supply(&mut self, ix: PoolIx, supply: u64) -> Result<(), BacktestError> {
        let is_there = self.floors[ix].set_supply(self.now, supply);
        self.holds(is_there.is_some(), || format!("GPUs of pool {ix} go while they are in use"))
    }

    /// Something changed: the market is cleared at the next tick, or at this second, if it is one.
    fn clear_at_tick(&mut self) {
        let tick = self.policy.tick_seconds;
        let next = self.now.checked_next_multiple_of(tick).unwrap_or(u64::MAX);
        self.clears_at = Some(self.clears_at.map_or(next, |at| at.min(next)));
    }

    /// Fails if a rule does not hold.
    fn holds(&self, holds: bool, rule: impl FnOnce() -> String) -> Result<(), BacktestError> {
        if holds { Ok(()) } else { Err(BacktestError::Broken { at: self.now, what: rule() }) }
    }

    /// GPUs of a pool do something else from now on.
    fn shift(&mut self, pool: PoolIx, from: Use, to: Use, gpus: u64) -> Result<(), BacktestError> {
        let shifted = self.floors[pool].shift(self.now, from, to, gpus);
        self.holds(shifted.is_some(), || format!("pool {pool} has no {gpus} GPUs to take from {from:?}"))
    }
}
