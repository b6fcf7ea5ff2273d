//! What will be wanted of pools, and when they are full.
//!
//! What reservations keep is known, from the calendar; what is forecast is the rest: on-demand, and with
//! [`Demand::All`] spot and what bids wanted and did not get for want of GPUs. Both together are compared with what
//! can be used, as far as that is known: nodes that go into maintenance and capacity that ends are in it.

mod model;

use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::side_by_side;
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_units::{INSTANT_MIN, Instant, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::model::{Continued, Method};
use super::series::{Taken, take};
use super::unmet::{UNMET_ROWS_MAX, UnmetQuestion, tallies};
use super::{PlanError, Pools, Range, STEPS_MAX, Step};
use crate::billing::report::AsOf;

/// Farthest that is looked ahead, in days.
pub const HORIZON_DAYS_MAX: u32 = 90;
/// How far where nobody says, in days.
pub const HORIZON_DAYS_DEFAULT: u32 = 30;
/// Least steps of history: three days of hours.
pub const HOURS_MIN: usize = 72;
/// The same of days: three weeks.
pub const DAYS_MIN: usize = 21;
/// Days of history that hours are forecast from.
const HISTORY_DAYS_OF_HOURS: i64 = 56;
/// Days of history that days are forecast from.
const HISTORY_DAYS_OF_DAYS: i64 = 2 * 365;
/// Forecasts that go farther are in days.
const HORIZON_DAYS_OF_HOURS: u32 = 14;

/// What is forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CapacityDemand)]
pub enum Demand {
    /// Reserved and on demand, spot, and what bids wanted and did not get for want of GPUs.
    #[default]
    All,
    /// Reserved and on demand: what comes before spot.
    Firm,
}

impl std::str::FromStr for Demand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "firm" => Ok(Self::Firm),
            _ => Err(format!("{text:?} is no demand: use all or firm")),
        }
    }
}

/// How far, in which steps, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastDraft {
    /// Days ahead.
    pub days: u32,
    /// Hours or days; whichever fits the horizon and the history where absent.
    pub step: Option<Step>,
    /// What is forecast.
    pub of: Demand,
}

/// A checked question, with what the state knows.
#[derive(Debug, Clone)]
pub struct ForecastQuestion {
    taken: Taken,
    unmet: Option<UnmetQuestion>,
    step: Step,
    of: Demand,
    /// Steps ahead: what reservations keep at most, and what can be used at least.
    ahead: Vec<Ahead>,
}

/// A step that has not come.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    within: Interval,
    promised: u64,
    capacity: u64,
}

impl ForecastQuestion {
    /// Checks a question and copies out of the state what it needs.
    pub fn new(state: &State, pools: Pools, draft: ForecastDraft) -> Result<Self, PlanError> {
        let names = pools.names(state)?;
        if !(1..=HORIZON_DAYS_MAX).contains(&draft.days) {
            let what = format!("{} days: a forecast goes 1 to {HORIZON_DAYS_MAX} days", draft.days);
            return Err(PlanError::Invalid(what));
        }
        let now = state.now();
        let begins = names
            .iter()
            .filter_map(|name| state.market().pool(name)?.stock().owned().next_change(INSTANT_MIN));
        let begins = begins.min().unwrap_or(now).min(now);
        let step = step_of(draft, begins, now)?;
        let step_ms = step.milliseconds();
        // Whole steps only: what is under way is not over.
        let end = floor(now, step_ms);
        let longest = match step {
            Step::Day => HISTORY_DAYS_OF_DAYS,
            _ => HISTORY_DAYS_OF_HOURS.saturating_mul(24),
        };
        let most = i64::try_from(STEPS_MAX).unwrap_or(i64::MAX).min(longest);
        let first = floor(begins.saturating_add_ms(step_ms.saturating_sub(1)), step_ms);
        let start = first.max(end.saturating_add_ms(most.saturating_mul(step_ms).saturating_neg()));
        let needed = if step == Step::Day { DAYS_MIN } else { HOURS_MIN };
        let have = usize::try_from(end.ms_since(start).checked_div(step_ms).unwrap_or(0)).unwrap_or(0);
        if have < needed {
            return Err(PlanError::HistoryTooShort { have, needed, step });
        }
        let range = Range::new(start, end, step, now)?;
        let taken = take(state, &pools, range)?;
        let whole = Price::from_nanos(i64::MAX).ok();
        let unmet = match draft.of {
            Demand::All => Some(UnmetQuestion::new(state, pools, range, true, whole)?),
            Demand::Firm => None,
        };
        let day_ms = Step::Day.milliseconds();
        let until = end.saturating_add_ms(i64::from(draft.days).saturating_mul(day_ms));
        let horizon = Interval::between(end, until).ok_or(PlanError::Backwards)?;
        let steps = hourglass_capacity::series::steps(horizon, step_ms);
        let ahead = steps.map(|within| ahead(state, &names, within)).collect();
        Ok(Self { taken, unmet, step, of: draft.of, ahead })
    }
}

/// Hours, as long as they reach.
fn step_of(draft: ForecastDraft, begins: Instant, now: Instant) -> Result<Step, PlanError> {
    let day_ms = Step::Day.milliseconds();
    match draft.step {
        Some(step @ (Step::Hour | Step::Day)) => Ok(step),
        Some(_) => Err(PlanError::Invalid("a forecast has steps of 1h or 1d".to_owned())),
        None => {
            let days = now.ms_since(begins).checked_div(day_ms).unwrap_or(0);
            let is_short = draft.days <= HORIZON_DAYS_OF_HOURS;
            let has_weeks = usize::try_from(days).is_ok_and(|days| days > DAYS_MIN);
            Ok(if is_short || !has_weeks { Step::Hour } else { Step::Day })
        }
    }
}

/// The newest multiple of a step, counted from the epoch.
fn floor(at: Instant, step_ms: i64) -> Instant {
    let past = at.unix_ms().rem_euclid(step_ms.max(1));
    at.saturating_add_ms(past.saturating_neg())
}

/// What is known of a step that has not come.
fn ahead(state: &State, names: &[PoolName], within: Interval) -> Ahead {
    let mut sum = Ahead { within, promised: 0, capacity: 0 };
    for name in names {
        let Some(pool) = state.market().pool(name) else { continue };
        let stock = pool.stock();
        let parts = side_by_side([stock.owned(), stock.excluded()], within);
        let least = parts.map(|(_, [owned, excluded])| owned.saturating_sub(excluded)).min().unwrap_or(0);
        sum.promised = sum.promised.saturating_add(stock.calendar().promised().peak(within));
        sum.capacity = sum.capacity.saturating_add(least);
    }
    sum
}

/// What will be wanted of pools, as of a log position. GPUs are averages over a step, decimals of one place;
/// probabilities are decimals of three places.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityForecast)]
pub struct ForecastReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// Which pools, together.
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<PoolName>,
    /// What is forecast.
    pub of: Demand,
    /// How long a step is: `1h` or `1d`.
    pub step: String,
    /// Whole steps of history that it rests on.
    pub history_steps: usize,
    /// The first of them, RFC 3339.
    #[schema(format = DateTime)]
    pub history_start: String,
    /// `mstl_ets`, or `seasonal_naive` where that erred less.
    pub method: String,
    /// The seasons that are looked for, in steps.
    pub seasons: Vec<usize>,
    /// How well that did in the past.
    pub backtest: BacktestRow,
    /// When demand is expected to reach what can be used, RFC 3339; absent where not within the horizon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub full_at: Option<String>,
    /// Whole days until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_until_full: Option<i64>,
    /// When the upper end of the 95 % interval reaches it, RFC 3339; absent where not within the horizon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub full_at_the_earliest: Option<String>,
    /// How probable it is that demand reaches what can be used at any step of the horizon.
    pub stock_out_risk: String,
    /// Each step, in order.
    pub rows: Vec<ForecastRow>,
}

/// How well a forecast did in the past, from several cuts of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ForecastBacktest)]
pub struct BacktestRow {
    /// How often the past was cut.
    pub origins: usize,
    /// Steps that were forecast from each cut.
    pub steps: usize,
    /// Mean absolute error, in GPUs.
    pub mae: String,
    /// The same of going back one season.
    pub seasonal_naive_mae: String,
    /// Mean absolute error by that of going back one season all along the history: below 1 is better. Absent where
    /// nothing ever changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mase: Option<String>,
    /// The share of what came that the 80 % interval held, of cuts that had no say in how wide it is.
    pub coverage_80: String,
    /// The same of the 95 % interval.
    pub coverage_95: String,
}

/// What will be wanted in a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ForecastStep)]
pub struct ForecastRow {
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// What is expected, reservations included.
    pub demand: String,
    /// Of that, what reservations keep, as the calendar knows.
    pub reserved: u64,
    /// The 80 % interval, reservations included.
    pub low_80: String,
    /// Its upper end.
    pub high_80: String,
    /// The 95 % interval, reservations included.
    pub low_95: String,
    /// Its upper end.
    pub high_95: String,
    /// What can be used, at the least.
    pub capacity: u64,
    /// How probable it is that demand reaches that.
    pub risk: String,
}

/// A forecast that was computed, before it is shown.
pub(crate) struct Computed {
    continued: Continued,
    seasons: Vec<usize>,
    /// By step ahead.
    risk: Vec<f64>,
    any: f64,
}

/// Computes. `more` is what is wanted besides, in GPUs, while.
pub(crate) fn compute(
    reader: &dyn Reader,
    question: &ForecastQuestion,
    more: Option<(u64, Interval)>,
) -> Result<Computed, PlanError> {
    let steps = question.taken.together();
    let mut flexible: Vec<u128> = steps
        .iter()
        .map(|(_, usage)| match question.of {
            Demand::Firm => usage.on_demand,
            Demand::All => usage.on_demand.saturating_add(usage.spot).saturating_add(usage.lent),
        })
        .collect();
    if let Some(unmet) = &question.unmet {
        for ((step, ..), tally) in tallies(reader, unmet, UNMET_ROWS_MAX.saturating_mul(STEPS_MAX))? {
            if let Some(sum) = flexible.get_mut(step) {
                *sum = sum.saturating_add(tally.capacity);
            }
        }
    }
    let step_ms = u128::try_from(question.step.milliseconds()).unwrap_or(1);
    let series: Vec<f64> = flexible.iter().map(|gpu_ms| gpus(*gpu_ms, step_ms)).collect();
    let seasons: &[usize] = match question.step {
        Step::Day => &[7],
        _ if series.len() >= 3 * 168 => &[24, 168],
        _ => &[24],
    };
    let horizon = question.ahead.len();
    let needed = if question.step == Step::Day { DAYS_MIN } else { HOURS_MIN };
    let too_short = || PlanError::HistoryTooShort { have: series.len(), needed, step: question.step };
    let continued = model::continued(&series, seasons, horizon).ok_or_else(too_short)?;
    let room: Vec<f64> = question.ahead.iter().map(|it| room(it, more)).collect();
    let (risk, any) = continued.exceeds(&room);
    Ok(Computed { continued, seasons: seasons.to_vec(), risk, any })
}

impl Computed {
    /// How probable it is that demand reaches what can be used at any step.
    pub(crate) fn risk(&self) -> String {
        thousandths(self.any)
    }
}

/// Answers.
pub fn forecast(reader: &dyn Reader, question: &ForecastQuestion) -> Result<ForecastReport, PlanError> {
    let Computed { continued, seasons, risk, any } = compute(reader, question, None)?;
    let now = question.taken.range.within.end();
    let mut rows = Vec::with_capacity(question.ahead.len());
    let (mut full_at, mut earliest) = (None, None);
    for (step, (it, risk)) in question.ahead.iter().zip(&risk).enumerate() {
        let (low_80, high_80) = continued.interval(step, false).unwrap_or_default();
        let (low_95, high_95) = continued.interval(step, true).unwrap_or_default();
        let room = room(it, None);
        let mean = continued.mean(step);
        let (starts, kept) = (it.within.start(), float(it.promised));
        full_at = full_at.or((mean >= room).then_some(starts));
        earliest = earliest.or((high_95 >= room).then_some(starts));
        rows.push(ForecastRow {
            start: starts.to_string(),
            end: it.within.end().to_string(),
            demand: tenths(sum(mean, kept)),
            reserved: it.promised,
            low_80: tenths(sum(low_80, kept)),
            high_80: tenths(sum(high_80, kept)),
            low_95: tenths(sum(low_95, kept)),
            high_95: tenths(sum(high_95, kept)),
            capacity: it.capacity,
            risk: thousandths(*risk),
        });
    }
    let backtest = continued.backtest;
    let day_ms = Step::Day.milliseconds();
    Ok(ForecastReport {
        as_of: question.taken.as_of.clone(),
        pools: question.taken.pools.iter().map(|(name, _)| name.clone()).collect(),
        of: question.of,
        step: question.step.as_str().to_owned(),
        history_steps: question.taken.range.steps().count(),
        history_start: question.taken.range.within.start().to_string(),
        method: match continued.method {
            Method::MstlEts => "mstl_ets".to_owned(),
            Method::SeasonalNaive => "seasonal_naive".to_owned(),
        },
        seasons,
        backtest: BacktestRow {
            origins: backtest.origins,
            steps: backtest.steps,
            mae: thousandths(backtest.mae),
            seasonal_naive_mae: thousandths(backtest.naive_mae),
            mase: backtest.mase.map(thousandths),
            coverage_80: thousandths(backtest.coverage_80),
            coverage_95: thousandths(backtest.coverage_95),
        },
        days_until_full: full_at.map(|at: Instant| at.ms_since(now).checked_div(day_ms).unwrap_or(0)),
        full_at: full_at.map(|at| at.to_string()),
        full_at_the_earliest: earliest.map(|at: Instant| at.to_string()),
        stock_out_risk: thousandths(any),
        rows,
    })
}

impl ForecastReport {
    /// One row a step.
    pub fn to_csv(&self) -> Vec<u8> {
        let head = [
            "start",
            "end",
            "demand_gpus",
            "reserved_gpus",
            "low_80",
            "high_80",
            "low_95",
            "high_95",
            "capacity_gpus",
            "risk",
        ];
        let rows = self.rows.iter().map(|it| {
            let ForecastRow { start, end, demand, low_80, high_80, low_95, high_95, risk, .. } = it.clone();
            let (reserved, capacity) = (it.reserved.to_string(), it.capacity.to_string());
            vec![start, end, demand, reserved, low_80, high_80, low_95, high_95, capacity, risk]
        });
        super::csv(head.map(str::to_owned).to_vec(), rows)
    }
}

#[expect(clippy::float_arithmetic, reason = "GPUs on average, and no money")]
mod numbers {
    use super::{Ahead, Interval};

    /// GPU-milliseconds of a step as GPUs on average.
    #[expect(clippy::cast_precision_loss, reason = "a pool has far fewer than 2^52 GPU-milliseconds a step")]
    pub(super) fn gpus(gpu_ms: u128, step_ms: u128) -> f64 {
        gpu_ms as f64 / step_ms.max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a pool has far fewer than 2^52 GPUs")]
    pub(super) fn float(gpus: u64) -> f64 {
        gpus as f64
    }

    pub(super) fn sum(one: f64, other: f64) -> f64 {
        one + other
    }

    /// What a step has for who reserved nothing, beside what is wanted besides.
    pub(super) fn room(it: &Ahead, more: Option<(u64, Interval)>) -> f64 {
        let more = more.filter(|(_, while_)| while_.intersection(it.within).is_some());
        float(it.capacity) - float(it.promised) - float(more.map_or(0, |(gpus, _)| gpus))
    }

    pub(super) fn tenths(it: f64) -> String {
        format!("{:.1}", it.max(0.0))
    }

    pub(super) fn thousandths(it: f64) -> String {
        format!("{:.3}", it.max(0.0))
    }
}

use numbers::{float, gpus, room, sum, tenths, thousandths};
