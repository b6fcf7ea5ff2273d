//! What came out, summed up. Shares are percentages, times are seconds, GPU-time is GPU-seconds.

use std::fmt;

use hourglass_capacity::pool::PoolName;
use hourglass_units::{Amount, Percent, Price};
use serde::{Serialize, Serializer};

use crate::engine::{JobOutcome, JobState, Outcome, PoolRecord, Stops};
use crate::supply::Supply;

/// Parts that jobs are cut into by their limits.
pub const DECILES: usize = 10;
const HOUR_SECONDS: u128 = 3_600;

/// What came out, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When the market opened, on the clock of the trace.
    pub opens: u64,
    /// When it closed.
    pub closes: u64,
    /// How often it was cleared.
    pub clearings: u64,
    /// What became of the jobs.
    pub jobs: JobCounts,
    /// What was done with the GPUs of all pools.
    pub gpu_seconds: GpuTime,
    /// The share of the supply in which work was done.
    pub utilisation: Percent,
    /// The share of the supply in which work was done that was not lost.
    pub goodput: Percent,
    /// The share of the work that was lost.
    pub lost: Percent,
    /// Σ limit × GPU-time won, and the most that any clearings of the same books could have had.
    pub welfare: WelfareReport,
    /// What all pools earned.
    pub revenue: Amount,
    /// How often jobs began to work, and what stopped.
    pub preemptions: Preemptions,
    /// By pool, in the order of names.
    pub pools: Vec<PoolReport>,
    /// How long jobs waited, by their limits, the lowest first.
    pub waiting: Vec<WaitingReport>,
}

/// What became of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct JobCounts {
    /// All that bid; the four below add up to it.
    pub all: u64,
    /// Their work is done.
    pub completed: u64,
    /// They have GPUs as the market closes.
    pub running: u64,
    /// They have none as the market closes.
    pub waiting: u64,
    /// The market closed before they came.
    pub unborn: u64,
    /// They never worked.
    pub never_started: u64,
}

/// What was done with GPUs. Worked, booting and idle add up to the supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GpuTime {
    /// What there was.
    pub supply: u128,
    /// Work was done.
    pub worked: u128,
    /// Jobs booted.
    pub booting: u128,
    /// Nothing was done.
    pub idle: u128,
    /// Work that was done and lost.
    pub lost: u128,
}

/// Σ limit × GPU-time won, from each clearing to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WelfareReport {
    /// So much.
    pub reached: Amount,
    /// No clearings of the same books have more.
    pub bound: Amount,
    /// The share of the bound.
    pub ratio: Percent,
}

/// How often jobs began to work, and what stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Preemptions {
    /// How often a job went from no work to work.
    pub starts: u64,
    /// What stopped, by cause.
    pub stops: Stops,
    /// Jobs that lost all their work in a pool, by cause, a hundred starts.
    pub per_100_starts: PerHundred,
}

/// Counts by cause, a hundred starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PerHundred {
    /// All causes.
    pub all: Hundredths,
    /// A newcomer took the GPUs.
    pub outbid: Hundredths,
    /// The supply shrank.
    pub supply_reclaimed: Hundredths,
    /// The reserve price rose above the limit.
    pub reserve_raised: Hundredths,
}

/// A number with two digits after the point, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hundredths(pub u64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 100, self.0 % 100))
    }
}

impl Serialize for Hundredths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a pool did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// Which.
    pub name: PoolName,
    /// GPU-seconds that it had for spot.
    pub supply: u128,
    /// GPU-seconds of work.
    pub worked: u128,
    /// Their share of the supply.
    pub utilisation: Percent,
    /// Σ price × GPU-time of work.
    pub revenue: Amount,
    /// Its price over time.
    pub price: PriceReport,
}

/// A price over time: each second from the first clearing on counts the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PriceReport {
    /// The mean, rounded down.
    pub mean: Price,
    /// Half of the time it was at most this.
    pub p50: Price,
    /// Nine tenths of the time.
    pub p90: Price,
    /// All but a hundredth of the time.
    pub p99: Price,
    /// It was never more.
    pub max: Price,
}

/// How long jobs waited from their first bid until they worked for the first time, their boot included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WaitingReport {
    /// The lowest limit of these jobs.
    pub limit_from: Price,
    /// The highest.
    pub limit_to: Price,
    /// So many.
    pub jobs: u64,
    /// So many of them never worked.
    pub never_started: u64,
    /// Half of them waited at most this long. `None` if they never worked.
    pub p50_seconds: Option<u64>,
    /// Nine tenths of them.
    pub p90_seconds: Option<u64>,
}

impl Report {
    /// Sums up.
    pub fn of(outcome: &Outcome, supply: &Supply) -> Self {
        let sum =
            |part: fn(&PoolRecord) -> u128| outcome.pools.iter().map(part).fold(0, u128::saturating_add);
        let gpu_seconds = GpuTime {
            supply: sum(|pool| pool.supply),
            worked: sum(|pool| pool.worked),
            booting: sum(|pool| pool.booting),
            idle: sum(|pool| pool.idle),
            lost: outcome.jobs.iter().map(|job| job.lost).fold(0, u128::saturating_add),
        };
        let names = supply.pools().iter().map(|pool| &pool.name);
        let pools = names.zip(&outcome.pools).map(|(name, pool)| pool_report(name, pool, outcome.closes));
        Self {
            opens: outcome.opens,
            closes: outcome.closes,
            clearings: outcome.clearings,
            jobs: counts(&outcome.jobs),
            gpu_seconds,
            utilisation: share(gpu_seconds.worked, gpu_seconds.supply),
            goodput: share(gpu_seconds.worked.saturating_sub(gpu_seconds.lost), gpu_seconds.supply),
            lost: share(gpu_seconds.lost, gpu_seconds.worked),
            welfare: WelfareReport {
                reached: amount(outcome.welfare),
                bound: amount(outcome.welfare_bound),
                ratio: match outcome.welfare_bound {
                    0 => Percent::WHOLE,
                    bound => share(outcome.welfare, bound),
                },
            },
            revenue: amount(sum(|pool| pool.revenue)),
            preemptions: preemptions(outcome),
            pools: pools.collect(),
            waiting: waiting(&outcome.jobs),
        }
    }
}

/// Of nano-currency an hour × GPU-seconds, rounded down to a nano.
fn amount(worth: u128) -> Amount {
    const ATTOS: i128 = 1_000_000_000;
    let nanos = i128::try_from(worth / HOUR_SECONDS).unwrap_or(i128::MAX);
    Amount::from_attos(nanos.saturating_mul(ATTOS))
}

/// A share, rounded down; nothing of nothing is nothing.
fn share(part: u128, whole: u128) -> Percent {
    let ppm = part.saturating_mul(u128::from(Percent::WHOLE.ppm())).checked_div(whole).unwrap_or(0);
    u32::try_from(ppm).ok().and_then(|ppm| Percent::from_ppm(ppm).ok()).unwrap_or(Percent::WHOLE)
}

fn counts(jobs: &[JobOutcome]) -> JobCounts {
    let mut counts = JobCounts { all: jobs.len() as u64, ..JobCounts::default() };
    for job in jobs {
        let count = match job.state {
            JobState::Completed { .. } => &mut counts.completed,
            JobState::Running => &mut counts.running,
            JobState::Waiting => &mut counts.waiting,
            JobState::Unborn => &mut counts.unborn,
        };
        *count = count.saturating_add(1);
        counts.never_started = counts.never_started.saturating_add(u64::from(job.first_start.is_none()));
    }
    counts
}

fn preemptions(outcome: &Outcome) -> Preemptions {
    let Outcome { starts, stops, .. } = *outcome;
    let per_100 = |count: u64| {
        let hundredths =
            u128::from(count).saturating_mul(10_000).checked_div(u128::from(starts)).unwrap_or(0);
        Hundredths(u64::try_from(hundredths).unwrap_or(u64::MAX))
    };
    let causes = stops.preempted;
    let per_100_starts = PerHundred {
        all: per_100(causes.sum()),
        outbid: per_100(causes.outbid),
        supply_reclaimed: per_100(causes.supply_reclaimed),
        reserve_raised: per_100(causes.reserve_raised),
    };
    Preemptions { starts, stops, per_100_starts }
}

fn pool_report(name: &PoolName, pool: &PoolRecord, closes: u64) -> PoolReport {
    PoolReport {
        name: name.clone(),
        supply: pool.supply,
        worked: pool.worked,
        utilisation: share(pool.worked, pool.supply),
        revenue: amount(pool.revenue),
        price: price_report(&pool.prices, closes),
    }
}

fn price_report(prices: &[(u64, Price)], closes: u64) -> PriceReport {
    let untils = prices.iter().skip(1).map(|(at, _)| *at).chain([closes]);
    let spells = prices.iter().zip(untils).map(|((at, price), until)| (*price, until.saturating_sub(*at)));
    let mut spells: Vec<(Price, u64)> = spells.collect();
    spells.sort_unstable();
    let all = spells.iter().map(|(_, seconds)| *seconds).fold(0, u64::saturating_add);
    let worth = spells.iter().map(|(price, seconds)| crate::engine::worth(*price, u128::from(*seconds)));
    let mean = worth.fold(0, u128::saturating_add).checked_div(u128::from(all)).unwrap_or(0);
    let mean = i64::try_from(mean).ok().and_then(|nanos| Price::from_nanos(nanos).ok());
    let at_percent = |percent: u64| {
        let rank = rank(all, percent);
        let mut passed = 0_u64;
        let reached = spells.iter().find(|(_, seconds)| {
            passed = passed.saturating_add(*seconds);
            passed >= rank
        });
        reached.map_or(Price::ZERO, |(price, _)| *price)
    };
    let max = spells.last().map_or(Price::ZERO, |(price, _)| *price);
    PriceReport {
        mean: mean.unwrap_or(Price::ZERO),
        p50: at_percent(50),
        p90: at_percent(90),
        p99: at_percent(99),
        max,
    }
}

/// The place of a percentile among so many, from 1: the least one with at least that share at or below it.
fn rank(all: u64, percent: u64) -> u64 {
    let place = u128::from(all).saturating_mul(u128::from(percent)).div_ceil(100);
    u64::try_from(place).unwrap_or(all)
}

/// Jobs that came, by limit; those with the same limit by arrival. Deciles differ by one job at most.
fn waiting(jobs: &[JobOutcome]) -> Vec<WaitingReport> {
    let mut by_limit: Vec<&JobOutcome> = jobs.iter().filter(|job| job.state != JobState::Unborn).collect();
    by_limit.sort_by_key(|job| job.limit);
    let bound = |decile: usize| by_limit.len().saturating_mul(decile) / DECILES;
    let parts =
        (0..DECILES).filter_map(|decile| by_limit.get(bound(decile)..bound(decile.saturating_add(1))));
    parts.filter_map(decile).collect()
}

fn decile(jobs: &[&JobOutcome]) -> Option<WaitingReport> {
    let (first, last) = (jobs.first()?, jobs.last()?);
    let waits = jobs.iter().filter_map(|job| Some(job.first_start?.saturating_sub(job.arrives)));
    let mut waits: Vec<u64> = waits.collect();
    waits.sort_unstable();
    let jobs = jobs.len() as u64;
    let at_percent = |percent: u64| {
        let place = usize::try_from(rank(jobs, percent)).ok()?.checked_sub(1)?;
        waits.get(place).copied()
    };
    Some(WaitingReport {
        limit_from: first.limit,
        limit_to: last.limit,
        jobs,
        never_started: jobs.saturating_sub(waits.len() as u64),
        p50_seconds: at_percent(50),
        p90_seconds: at_percent(90),
    })
}
