//! What came out, before anybody sums it up.

use hourglass_capacity::auction::Cause;
use hourglass_capacity::auction::welfare::Welfare;
use hourglass_units::Price;
use serde::Serialize;

use super::floor::Use;
use super::work::{LotState, Work};
use super::{Market, worth};
use crate::error::BacktestError;

/// All that happened between the opening and the close of the market.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When the market opened: the tick at or before the first arrival.
    pub opens: u64,
    /// When it closed.
    pub closes: u64,
    /// How often it was cleared.
    pub clearings: u64,
    /// How often a job went from no work to work.
    pub starts: u64,
    /// What stopped.
    pub stops: Stops,
    /// Σ limit × GPUs won, by the seconds until the next clearing; nano-currency an hour × GPU-seconds.
    pub welfare: u128,
    /// The same of the bound: no clearings of these books have more.
    pub welfare_bound: u128,
    /// By pool, in the order of names.
    pub pools: Vec<PoolRecord>,
    /// By job, in the order of arrivals.
    pub jobs: Vec<JobOutcome>,
}

/// What stopped, by cause. A bid counts once in a clearing: by the cause of most of its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Stops {
    /// All work of a job in a pool.
    pub preempted: Causes,
    /// A part of the work of an elastic job, which went on with less.
    pub shrunk: Causes,
    /// What had not begun to work.
    pub before_work: Causes,
}

/// A count for each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Causes {
    /// A newcomer took the GPUs.
    pub outbid: u64,
    /// The supply shrank.
    pub supply_reclaimed: u64,
    /// The reserve price rose above the limit.
    pub reserve_raised: u64,
    /// Limits of GPUs or money: a backtest has none, so this stays 0.
    pub refused: u64,
}

impl Causes {
    /// All of them.
    pub fn sum(&self) -> u64 {
        let Self { outbid, supply_reclaimed, reserve_raised, refused } = *self;
        [outbid, supply_reclaimed, reserve_raised, refused].into_iter().fold(0, u64::saturating_add)
    }

    fn of(&mut self, cause: Cause) -> &mut u64 {
        match cause {
            Cause::Outbid { .. } => &mut self.outbid,
            Cause::SupplyReclaimed => &mut self.supply_reclaimed,
            Cause::ReserveRaised => &mut self.reserve_raised,
            Cause::Quota | Cause::Budget => &mut self.refused,
        }
    }
}

/// What a pool did. GPU-seconds add up to those of the supply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRecord {
    /// GPU-seconds of the supply, from its file.
    pub supply: u128,
    /// GPU-seconds in which work was done.
    pub worked: u128,
    /// GPU-seconds in which jobs booted.
    pub booting: u128,
    /// GPU-seconds in which nothing was done.
    pub idle: u128,
    /// Σ price × GPU-seconds of work, in nano-currency an hour × GPU-seconds.
    pub revenue: u128,
    /// Each change of the price, and from when it holds.
    pub prices: Vec<(u64, Price)>,
    /// Each change of the number of GPUs that work, and from when it holds.
    pub working: Vec<(u64, u64)>,
    /// Each change of the supply, and from when it holds.
    pub supplies: Vec<(u64, u64)>,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobOutcome {
    /// How it ended.
    pub state: JobState,
    /// What it paid at most.
    pub limit: Price,
    /// When it bid for the first time.
    pub arrives: u64,
    /// When it worked for the first time.
    pub first_start: Option<u64>,
    /// GPU-seconds that it had to do.
    pub work: u128,
    /// GPU-seconds in which it worked.
    pub worked: u128,
    /// Those of them that were lost.
    pub lost: u128,
}

/// How a job ended. There is no other way, and none has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// All its work was done.
    Completed {
        /// When.
        at: u64,
    },
    /// It has GPUs as the market closes.
    Running,
    /// It has none as the market closes.
    Waiting,
    /// The market closed before it came.
    Unborn,
}

/// What is counted on the way.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) clearings: u64,
    pub(super) starts: u64,
    stops: Stops,
    welfare: u128,
    welfare_bound: u128,
    last: Welfare,
    settled_at: u64,
}

impl Tally {
    pub(super) fn new(opens: u64) -> Self {
        Self {
            clearings: 0,
            starts: 0,
            stops: Stops::default(),
            welfare: 0,
            welfare_bound: 0,
            last: Welfare { reached: 0, bound: 0 },
            settled_at: opens,
        }
    }

    /// Counts the last clearing until now.
    fn settle(&mut self, now: u64) {
        let seconds = u128::from(now.saturating_sub(self.settled_at));
        self.welfare = self.welfare.saturating_add(self.last.reached.saturating_mul(seconds));
        self.welfare_bound = self.welfare_bound.saturating_add(self.last.bound.saturating_mul(seconds));
        self.settled_at = now;
    }

    pub(super) fn cleared(&mut self, now: u64, welfare: Welfare) {
        self.settle(now);
        self.last = welfare;
        self.clearings = self.clearings.saturating_add(1);
    }

    pub(super) fn stopped(&mut self, cause: Cause, has_worked: bool, stays: bool) {
        let counts = match (has_worked, stays) {
            (true, false) => &mut self.stops.preempted,
            (true, true) => &mut self.stops.shrunk,
            (false, _) => &mut self.stops.before_work,
        };
        let count = counts.of(cause);
        *count = count.saturating_add(1);
    }
}

impl Market<'_> {
    /// Closes the market: what works stops counting, and everything must add up.
    pub(super) fn close(mut self) -> Result<Outcome, BacktestError> {
        let closes = self.policy.until.unwrap_or(self.now).max(self.opens);
        self.now = closes;
        self.tally.settle(closes);
        for work in &mut self.works.0 {
            work.settle(closes);
            for lot in &work.lots {
                if let LotState::Draining { since, price, .. } = lot.state {
                    let gpus = work.gpus(lot.units);
                    self.floors[lot.pool].earn(price, gpus, closes.saturating_sub(since));
                }
            }
        }
        let mut pools = Vec::new();
        let supplies = self.supply.pools().iter();
        for (floor, supply) in std::mem::take(&mut self.floors.0).into_iter().zip(supplies) {
            let mut floor = floor;
            floor.settle(closes);
            let all = supply.gpu_seconds(self.opens, closes);
            self.holds(floor.all_seconds() == all, || {
                format!("pool {} accounts for {} of {all} GPU-seconds", supply.name, floor.all_seconds())
            })?;
            let seconds = |of| floor.seconds[of];
            pools.push(PoolRecord {
                supply: all,
                worked: seconds(Use::Working).saturating_add(seconds(Use::Draining)),
                booting: seconds(Use::Booting),
                idle: seconds(Use::Vacant).saturating_add(seconds(Use::Held)),
                revenue: floor.revenue,
                prices: floor.prices,
                working: floor.working,
                supplies: floor.supplies,
            });
        }
        let arrived = usize::try_from(self.arrived).unwrap_or(usize::MAX);
        let jobs = self.works.0.iter().enumerate().map(|(at, work)| outcome(work, at < arrived));
        let jobs: Vec<JobOutcome> = jobs.collect();
        let by_pools = pools.iter().map(|pool| pool.worked).fold(0, u128::saturating_add);
        let by_jobs = jobs.iter().map(|job| job.worked).fold(0, u128::saturating_add);
        self.holds(by_pools == by_jobs, || {
            format!("pools count {by_pools} GPU-seconds of work, jobs count {by_jobs}")
        })?;
        let highest = jobs.iter().map(|job| worth(job.limit, job.worked)).fold(0, u128::saturating_add);
        let revenue = pools.iter().map(|pool| pool.revenue).fold(0, u128::saturating_add);
        self.holds(revenue <= highest, || "somebody pays more than its limit".to_owned())?;
        Ok(Outcome {
            opens: self.opens,
            closes,
            clearings: self.tally.clearings,
            starts: self.tally.starts,
            stops: self.tally.stops,
            welfare: self.tally.welfare,
            welfare_bound: self.tally.welfare_bound,
            pools,
            jobs,
        })
    }
}

fn outcome(work: &Work<'_>, has_arrived: bool) -> JobOutcome {
    let state = match (work.ended, work.lots.is_empty()) {
        (Some(at), _) => JobState::Completed { at },
        (None, false) => JobState::Running,
        (None, true) if has_arrived => JobState::Waiting,
        (None, true) => JobState::Unborn,
    };
    JobOutcome {
        state,
        limit: work.of.limit,
        arrives: work.of.arrives,
        first_start: work.first_start,
        work: work.of.work,
        worked: work.used(),
        lost: work.lost,
    }
}
