//! What bids wanted and did not get, by price and reason, from the receipts of clearings.
//!
//! A clearing holds until the next one, so GPUs are weighted with the time for which they were wanted. What a bid
//! has counts in the pool where it has it; what it lacks counts in the first pool that it names, so that over all
//! pools each GPU counts once. Prices are those of bids: a level holds the limits from it on up to the next one.
//!
//! What nobody asks for by a bid is not in any receipt: an instance that is refused for want of quota or room
//! leaves no trace in the log. Who waits on a seat now is told beside.

use std::collections::BTreeMap;

use hourglass_capacity::auction::{Bid, BidOutcome, Reason, Refusal, Short};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clearings::{CLEARINGS_MAX, Clearings};
use super::{PlanError, Pools, Range, Step, hours, mean, past, whole};
use crate::billing::report::AsOf;

/// Most rows of an answer.
pub const UNMET_ROWS_MAX: usize = 5_000;
/// How wide a price level is where nobody says, in nano-currency per GPU-hour: 0.10.
pub const LEVEL_NANOS_DEFAULT: i64 = 100_000_000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmetQuestion {
    /// Of which log position.
    pub as_of: AsOf,
    /// When, and in which steps.
    pub range: Range,
    /// Whether each step is told by itself.
    pub by_step: bool,
    /// In which pools.
    pub pools: Pools,
    /// How wide a price level is.
    pub level: Price,
    /// Who waits now.
    pub waiting: Vec<WaitingRow>,
}

/// On-demand and reserved instances that wait for their GPUs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityWaiting)]
pub struct WaitingRow {
    /// Where.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// How many instances.
    pub instances: u64,
    /// Their GPUs.
    pub gpus: u64,
}

impl UnmetQuestion {
    /// The time that is asked for: all of it is one step where none is named.
    pub fn range(start: Instant, end: Instant, step: Option<Step>, now: Instant) -> Result<Range, PlanError> {
        match step {
            Some(step) => Range::new(start, end, step, now),
            None => Ok(Range { within: past(start, end, now)?, step: Step::Day }),
        }
    }

    /// Reads what the state knows.
    pub fn new(
        state: &State,
        pools: Pools,
        range: Range,
        by_step: bool,
        level: Option<Price>,
    ) -> Result<Self, PlanError> {
        let level = level.or_else(|| Price::from_nanos(LEVEL_NANOS_DEFAULT).ok());
        let level = level.filter(|level| level.nanos() > 0);
        let level = level.ok_or_else(|| PlanError::Invalid("a price level is wider than 0".to_owned()))?;
        let waiting = pools.names(state)?.into_iter().filter_map(|pool| {
            let (instances, gpus) = state.market().waiting_in(&pool);
            (instances > 0).then_some(WaitingRow { pool, instances, gpus })
        });
        let waiting = waiting.collect();
        Ok(Self { as_of: AsOf::of(state), range, by_step, pools, level, waiting })
    }
}

/// GPU-milliseconds that were wanted, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) served: u128,
    pub(crate) capacity: u128,
    pub(crate) too_large: u128,
    pub(crate) below_reserve: u128,
    pub(crate) quota: u128,
    pub(crate) budget: u128,
}

impl Tally {
    /// What was wanted and not served.
    pub(crate) fn unmet(&self) -> u128 {
        let all = [self.capacity, self.too_large, self.below_reserve, self.quota, self.budget];
        all.into_iter().fold(0, u128::saturating_add)
    }

    fn add(&mut self, of: impl FnOnce(&mut Self) -> &mut u128, gpu_ms: u128) {
        let sum = of(self);
        *sum = sum.saturating_add(gpu_ms);
    }
}

/// Why a bid lacks GPUs: the part of a tally that they count in.
fn reason(outcome: &BidOutcome) -> fn(&mut Tally) -> &mut u128 {
    match outcome {
        BidOutcome::Won { short: Some(Short::Refused(refusal)), .. }
        | BidOutcome::Lost { reason: Reason::Refused(refusal), .. } => match refusal {
            Refusal::Quota => |it| &mut it.quota,
            Refusal::Budget => |it| &mut it.budget,
        },
        BidOutcome::Lost { reason: Reason::BelowReserve { .. }, .. } => |it| &mut it.below_reserve,
        BidOutcome::Lost { reason: Reason::TooLarge { .. }, .. } => |it| &mut it.too_large,
        BidOutcome::Won { .. } | BidOutcome::Lost { reason: Reason::Outbid | Reason::NoRoom, .. } => {
            |it| &mut it.capacity
        }
    }
}

/// GPUs that a bid wants, those that it has, and where it has them.
pub(crate) fn wants(bid: &Bid, outcome: &BidOutcome) -> (u64, u64, Option<usize>) {
    let (pool, units) = outcome.won().unzip();
    let has = bid.gpus(units.unwrap_or(0));
    (bid.gpus(bid.max_units).saturating_sub(has), has, pool.map(|pool| pool.index()))
}

type Key = (usize, PoolName, i64);

/// Reads the clearings of a time and adds up, by step, pool and price level.
pub(crate) fn tallies(
    reader: &dyn Reader,
    question: &UnmetQuestion,
    most: usize,
) -> Result<BTreeMap<Key, Tally>, PlanError> {
    let UnmetQuestion { as_of, range, by_step, pools, level, .. } = question;
    let until = Position::new(as_of.position);
    let mut tallies: BTreeMap<Key, Tally> = BTreeMap::new();
    for held in Clearings::new(reader, range.within, until, CLEARINGS_MAX)? {
        let held = held?;
        let Some(within) = held.within else { continue };
        let receipt = &held.logged.cleared.receipt;
        let book = &receipt.book;
        for (bid, outcome) in book.bids().iter().zip(&receipt.clearing.bids) {
            let (lacks, has, won) = wants(bid, outcome);
            let level = bid.limit.nanos().div_euclid(level.nanos());
            let first = bid.pools.first().map(|pool| pool.index());
            for (at, gpus, of) in [
                (won, has, (|it| &mut it.served) as fn(&mut Tally) -> &mut u128),
                (first, lacks, reason(outcome)),
            ] {
                let name = at.and_then(|at| book.pools().get(at)).map(|pool| &pool.name);
                let Some(name) = name.filter(|name| gpus > 0 && pools.has(name)) else { continue };
                for (step, part) in parts(range, *by_step, within) {
                    let gpu_ms =
                        u128::from(gpus).saturating_mul(u128::try_from(part.milliseconds()).unwrap_or(0));
                    tallies.entry((step, name.clone(), level)).or_default().add(of, gpu_ms);
                }
            }
        }
        if tallies.len() > most {
            return Err(PlanError::TooManyRows { most });
        }
    }
    Ok(tallies)
}

/// The steps that a time touches, by number, each with its part of it.
fn parts(range: &Range, by_step: bool, within: Interval) -> impl Iterator<Item = (usize, Interval)> {
    let step_ms = if by_step { range.step.milliseconds() } else { i64::MAX };
    let since = within.start().ms_since(range.within.start()).max(0);
    let first = since.checked_div(step_ms).unwrap_or(0);
    let from = range.within.start().saturating_add_ms(first.saturating_mul(step_ms));
    let whole = Interval::between(from, within.end());
    let steps = whole.into_iter().flat_map(move |whole| hourglass_capacity::series::steps(whole, step_ms));
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    steps
        .enumerate()
        .filter_map(move |(at, step)| Some((first.saturating_add(at), step.intersection(within)?)))
}

/// What was wanted and not served, as of a log position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = UnmetDemand)]
pub struct UnmetReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// How wide a price level is, a decimal.
    pub level: String,
    /// By step where steps were asked for, by pool, by price: the highest first.
    pub rows: Vec<UnmetRow>,
    /// On-demand and reserved instances that wait for spot to make way, now.
    pub waiting: Vec<WaitingRow>,
}

/// What was wanted in a pool at a price. Exact GPU-hours, and GPUs on average.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = UnmetDemandRow)]
pub struct UnmetRow {
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// In which pool.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// Limits from this price per GPU-hour on, up to the next level; a decimal.
    pub limit_from: String,
    /// GPU-hours that bids wanted.
    pub wanted: String,
    /// Of them, those that they had.
    pub served: String,
    /// Of them, those that they did not have: the sum of what follows.
    pub unmet: String,
    /// Those on average over the time, in GPUs.
    pub unmet_mean_gpus: String,
    /// Higher limits took the GPUs, or too few were left.
    pub capacity: String,
    /// The gang is larger than the pool allows.
    pub too_large: String,
    /// The limit is below the reserve price.
    pub below_reserve: String,
    /// Quota allows no more.
    pub quota: String,
    /// A spend cap allows no more.
    pub budget: String,
    /// What was not served in GPU-milliseconds, a whole number.
    pub unmet_gpu_milliseconds: u64,
}

/// Answers.
pub fn unmet(reader: &dyn Reader, question: UnmetQuestion) -> Result<UnmetReport, PlanError> {
    let tallies = tallies(reader, &question, UNMET_ROWS_MAX)?;
    let UnmetQuestion { as_of, range, by_step, level, waiting, .. } = question;
    let steps: Vec<Interval> = if by_step { range.steps().collect() } else { vec![range.within] };
    let mut rows: Vec<(Key, UnmetRow)> = Vec::with_capacity(tallies.len());
    for ((step, pool, number), tally) in tallies {
        let Some(within) = steps.get(step) else { continue };
        let from = Price::from_nanos(number.saturating_mul(level.nanos()));
        let row = UnmetRow {
            start: within.start().to_string(),
            end: within.end().to_string(),
            pool: pool.clone(),
            limit_from: from.map_or_else(|_| "0".to_owned(), |price| price.to_string()),
            wanted: hours(tally.served.saturating_add(tally.unmet())),
            served: hours(tally.served),
            unmet: hours(tally.unmet()),
            unmet_mean_gpus: mean(tally.unmet(), *within),
            capacity: hours(tally.capacity),
            too_large: hours(tally.too_large),
            below_reserve: hours(tally.below_reserve),
            quota: hours(tally.quota),
            budget: hours(tally.budget),
            unmet_gpu_milliseconds: whole(tally.unmet()),
        };
        rows.push(((step, pool, number.saturating_neg()), row));
    }
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (start, end) = (range.within.start().to_string(), range.within.end().to_string());
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    Ok(UnmetReport { as_of, start, end, level: level.to_string(), rows, waiting })
}

impl UnmetReport {
    /// One row a step, pool and price level.
    pub fn to_csv(&self) -> Vec<u8> {
        let head = [
            "start",
            "end",
            "pool",
            "limit_from",
            "wanted_gpu_hours",
            "served_gpu_hours",
            "unmet_gpu_hours",
            "unmet_mean_gpus",
            "capacity",
            "too_large",
            "below_reserve",
            "quota",
            "budget",
            "unmet_gpu_milliseconds",
        ];
        let rows = self.rows.iter().map(|it| {
            let names = [&it.start, &it.end, &it.pool.to_string(), &it.limit_from].map(String::clone);
            let sums = [&it.wanted, &it.served, &it.unmet, &it.unmet_mean_gpus].map(String::clone);
            let why = [&it.capacity, &it.too_large, &it.below_reserve, &it.quota, &it.budget];
            let exact = it.unmet_gpu_milliseconds.to_string();
            names.into_iter().chain(sums).chain(why.map(String::clone)).chain([exact]).collect()
        });
        super::csv(head.map(str::to_owned).to_vec(), rows)
    }
}
