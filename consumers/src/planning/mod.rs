//! Capacity planning: what pools had and what became of it, what was wanted and not served, what will be wanted,
//! and what another market would have done.
//!
//! * [`series`]: where the GPU-time of pools went, step by step, from the state.
//! * [`unmet`]: what bids wanted and did not get, by price and reason, from the receipts of clearings.
//! * [`forecast`]: what will be wanted, with intervals and their error in the past, and when a pool is full.
//! * [`what_if`]: the clearings of a time again, with another supply, reserve price or reservation.
//! * [`advice`]: whether a reservation fits, what it displaces, and at which price it pays.
//!
//! # What it guarantees
//!
//! * Everything is computed from the log and the state, as of one log position; nothing is kept.
//! * The thread of the cell is held up only to copy out who ran when ([`hourglass_ledger::core::market::SPANS_MAX`]
//!   at most); everything else runs beside it, at most [`PLANS_MAX`] questions at a time over HTTP.
//! * GPU-time and money are exact. Floats are in `forecast::model` alone, and touch neither.
//! * The same question as of the same position has the same answer: what is drawn is drawn from a fixed seed.

pub mod advice;
pub mod clearings;
pub mod forecast;
pub mod series;
pub mod unmet;
pub mod what_if;

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::core::market::{MarketRejection, TooManySpans};
use hourglass_ledger::store::StoreError;
use hourglass_units::{HOUR_MILLISECONDS, Instant, Interval, Percent, Platform, Quantity};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::billing::market::ClearError;

/// Most steps of a series: 96 days of hours, or 8 days of five minutes.
pub const STEPS_MAX: usize = 2_304;
/// Most questions that are computed at a time over HTTP: the others wait.
pub const PLANS_MAX: usize = 2;

/// How long a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Step {
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    QuarterHour,
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
    /// Six hours.
    #[serde(rename = "6h")]
    SixHours,
    /// A day.
    #[serde(rename = "1d")]
    Day,
}

impl Step {
    /// All, the shortest first.
    pub const ALL: [Self; 5] = [Self::FiveMinutes, Self::QuarterHour, Self::Hour, Self::SixHours, Self::Day];

    /// Its length.
    pub const fn milliseconds(self) -> i64 {
        match self {
            Self::FiveMinutes => HOUR_MILLISECONDS / 12,
            Self::QuarterHour => HOUR_MILLISECONDS / 4,
            Self::Hour => HOUR_MILLISECONDS,
            Self::SixHours => 6 * HOUR_MILLISECONDS,
            Self::Day => 24 * HOUR_MILLISECONDS,
        }
    }

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::QuarterHour => "15m",
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::Day => "1d",
        }
    }
}

impl std::str::FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|step| step.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no step: use 5m, 15m, 1h, 6h or 1d"))
    }
}

/// Which pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pools {
    /// All of the cell.
    All,
    /// Those of a platform.
    Of(Platform),
    /// One.
    One(PoolName),
}

impl Pools {
    /// Whether a pool is one of them.
    pub fn has(&self, name: &PoolName) -> bool {
        match self {
            Self::All => true,
            Self::Of(platform) => name.platform == *platform,
            Self::One(one) => name == one,
        }
    }

    /// Their names, in order; an error where one is asked for that is not there.
    pub fn names(&self, state: &State) -> Result<Vec<PoolName>, PlanError> {
        let all = state.market().pools().map(|(name, _)| name).filter(|name| self.has(name));
        let names: Vec<PoolName> = all.cloned().collect();
        match self {
            Self::One(pool) if names.is_empty() => Err(PlanError::PoolUnknown { pool: pool.clone() }),
            Self::Of(platform) if names.is_empty() => {
                Err(PlanError::PlatformUnknown { platform: platform.clone() })
            }
            _ => Ok(names),
        }
    }
}

/// A question that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It ends before it starts.
    #[error("end must be after start")]
    Backwards,
    /// Nothing of it has passed.
    #[error("it is {now}, and what happens after that is not known: ask for a time before it")]
    Future {
        /// The time of the cell.
        now: Instant,
    },
    /// More than [`STEPS_MAX`].
    #[error("{steps} steps of {}: at most {STEPS_MAX} are answered; ask for longer steps or a shorter time", step.as_str())]
    TooManySteps {
        /// So many.
        steps: i64,
        /// Of this length.
        step: Step,
    },
    /// More rows than are answered.
    #[error("more than {most} rows: ask for longer steps, a shorter time or wider price levels")]
    TooManyRows {
        /// So many are.
        most: usize,
    },
    /// More clearings than are read for a question.
    #[error("more than {most} clearings lie in this time: ask for a shorter one")]
    TooManyClearings {
        /// So many are.
        most: usize,
    },
    /// More bids in these clearings than are cleared for a question.
    #[error("the clearings of this time have more than {most} bids in all: ask for a shorter one")]
    TooManyBids {
        /// So many are.
        most: u64,
    },
    /// More spans than are read for a question.
    #[error(transparent)]
    TooManySpans(#[from] TooManySpans),
    /// No such pool.
    #[error("{}", MarketRejection::PoolUnknown { pool: pool.clone() })]
    PoolUnknown {
        /// Which.
        pool: PoolName,
    },
    /// No pool of such a platform.
    #[error("no pool has the platform {platform}: `GET /v1/pools` lists them")]
    PlatformUnknown {
        /// Which.
        platform: Platform,
    },
    /// Fewer steps of history than a forecast needs.
    #[error("there are {have} whole steps of {} of history, and a forecast needs {needed}: ask again later{}", step.as_str(), if *step == Step::Day { ", or with steps of 1h" } else { "" })]
    HistoryTooShort {
        /// So many.
        have: usize,
        /// So many are needed.
        needed: usize,
        /// Of this length.
        step: Step,
    },
    /// Whoever asked went away.
    #[error("nobody waits for the answer any more")]
    GivenUp,
    /// Something else about the question.
    #[error("{0}")]
    Invalid(String),
    /// A receipt cannot be read.
    #[error(transparent)]
    Clear(#[from] ClearError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PlanError {
    /// Its stable code, where it is the caller's.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Backwards | Self::Future { .. } | Self::Invalid(_) => "query_invalid",
            Self::TooManySteps { .. }
            | Self::TooManyRows { .. }
            | Self::TooManyClearings { .. }
            | Self::TooManyBids { .. }
            | Self::TooManySpans(_) => "question_too_large",
            Self::HistoryTooShort { .. } => "history_too_short",
            Self::PoolUnknown { .. } => "pool_unknown",
            Self::PlatformUnknown { .. } => "platform_unknown",
            Self::Clear(_) | Self::Store(_) | Self::GivenUp => "internal",
        }
    }
}

/// A time in the past, and the steps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The time.
    pub within: Interval,
    /// Its steps.
    pub step: Step,
}

impl Range {
    /// A time cut at the present, with so few steps that they can be answered.
    pub fn new(start: Instant, end: Instant, step: Step, now: Instant) -> Result<Self, PlanError> {
        let within = past(start, end, now)?;
        let steps = within.milliseconds().saturating_add(step.milliseconds().saturating_sub(1));
        let steps = steps.checked_div(step.milliseconds()).unwrap_or(i64::MAX);
        match usize::try_from(steps) {
            Ok(count) if count <= STEPS_MAX => Ok(Self { within, step }),
            _ => Err(PlanError::TooManySteps { steps, step }),
        }
    }

    /// Its steps, in order; the last one ends with it.
    pub fn steps(&self) -> impl Iterator<Item = Interval> {
        hourglass_capacity::series::steps(self.within, self.step.milliseconds())
    }
}

/// The part of a time that has passed.
pub fn past(start: Instant, end: Instant, now: Instant) -> Result<Interval, PlanError> {
    let whole = Interval::between(start, end).ok_or(PlanError::Backwards)?;
    Interval::between(whole.start(), whole.end().min(now)).ok_or(PlanError::Future { now })
}

/// GPU-milliseconds as GPU-hours, a decimal that is rounded to nine places.
pub(crate) fn hours(gpu_ms: u128) -> String {
    let hours = i128::try_from(gpu_ms).ok().and_then(Quantity::of_gpu_milliseconds);
    // More than four billion GPUs in a year: no pool has them.
    hours.map_or_else(|| "out of range".to_owned(), |hours| hours.to_string())
}

/// GPU-milliseconds over a time as GPUs on average, a decimal that is rounded down to three places.
pub(crate) fn mean(gpu_ms: u128, within: Interval) -> String {
    let length = u128::try_from(within.milliseconds()).unwrap_or(0);
    let thousandths = gpu_ms.saturating_mul(1_000).checked_div(length).unwrap_or(0);
    let (whole, rest) = (thousandths / 1_000, thousandths % 1_000);
    format!("{whole}.{rest:03}")
}

/// A part of a whole in percent, rounded down to four places; none of nothing.
pub(crate) fn percent(part: u128, whole: u128) -> Option<String> {
    let ppm = part.saturating_mul(u128::from(Percent::WHOLE.ppm())).checked_div(whole)?;
    Percent::from_ppm(u32::try_from(ppm).ok()?).ok().map(|percent| percent.to_string())
}

/// A whole number of GPU-milliseconds, as far as JSON readers count exactly and beyond.
pub(crate) fn whole(gpu_ms: u128) -> u64 {
    u64::try_from(gpu_ms).unwrap_or(u64::MAX)
}

/// Rows as a CSV file with a head (RFC 4180). Fields are numbers, names and times: none is a formula.
pub(crate) fn csv(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in std::iter::once(head).chain(rows) {
        // Into memory, and every row as long as the first: there is nothing that fails.
        let _written = writer.write_record(row);
    }
    writer.into_inner().unwrap_or_default()
}
