//! The past of a pool: its prices by steps, the demand that its last clearing saw, and how often it interrupts.

use std::collections::BTreeMap;

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Interval};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clears::{ClearError, clearings_before};
use super::pools::{PriceRow, pieces};
use crate::prices::{
    Candle, HORIZONS, History, LEVELS_FROM_PERCENT, Level, LevelChances, Score, Step, candles, depth, rounded,
};

/// What a pool cost within a step of time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PriceCandle)]
pub struct CandleRow {
    /// The step's beginning, or where its prices begin, RFC 3339.
    #[schema(format = DateTime)]
    pub from: String,
    /// Its end, or until when it was asked for, RFC 3339.
    #[schema(format = DateTime)]
    pub until: String,
    /// The first price, per GPU-hour, a decimal.
    pub open: String,
    /// The highest one.
    pub high: String,
    /// The lowest one.
    pub low: String,
    /// The last one.
    pub close: String,
    /// The mean over its time, rounded half to even to nine digits.
    pub mean: String,
    /// GPU-hours that clearings gave to bids within it, a decimal; absent where that is too long ago to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sold_gpu_hours: Option<String>,
}

/// The prices of a pool within a time by steps, each read when it is asked for: when it begins, the last price of
/// it and the mean.
pub fn step_rows<'a>(
    state: &'a State,
    name: &PoolName,
    within: Interval,
    step: Step,
) -> impl Iterator<Item = (Instant, PriceRow)> + use<'a> {
    candles(pieces(state, name, within), step).map(|candle| {
        let Candle { within, close, .. } = candle;
        let (from, until) = (within.start().to_string(), Some(within.end().to_string()));
        let (price, mean) = (close.to_string(), Some(candle.mean().to_string()));
        (within.start(), PriceRow { from, until, price, mean })
    })
}

/// The prices of a pool within a time by steps: first, highest, lowest, last, mean.
pub fn candle_rows<'a>(
    state: &'a State,
    name: &PoolName,
    within: Interval,
    step: Step,
) -> impl Iterator<Item = (Interval, CandleRow)> + use<'a> {
    candles(pieces(state, name, within), step).map(|candle| {
        let Candle { within, open, high, low, close, .. } = candle;
        let row = CandleRow {
            from: within.start().to_string(),
            until: within.end().to_string(),
            open: open.to_string(),
            high: high.to_string(),
            low: low.to_string(),
            close: close.to_string(),
            mean: candle.mean().to_string(),
            sold_gpu_hours: None,
        };
        (within, row)
    })
}

/// Rows with what was sold within them.
pub fn with_sold(rows: Vec<(Interval, CandleRow)>, name: &PoolName, history: &History) -> Vec<CandleRow> {
    let (times, rows): (Vec<Interval>, Vec<CandleRow>) = rows.into_iter().unzip();
    let sold = history.sold(name, &times).into_iter().map(|sold| sold.map(|sold| sold.to_string()));
    rows.into_iter().zip(sold).map(|(row, sold_gpu_hours)| CandleRow { sold_gpu_hours, ..row }).collect()
}

/// The demand for a pool, as its last clearing saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolDepth)]
pub struct DepthRow {
    /// The clearing, by log position: names its receipt.
    pub clear: u64,
    /// When it was, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// GPUs for spot.
    pub supply: u64,
    /// What all who run there pay per GPU-hour, a decimal.
    pub price: String,
    /// Nobody pays less.
    pub reserve_price: String,
    /// What is wanted, by what is offered for it at most, the highest first: at most 64 levels.
    pub levels: Vec<DepthLevelRow>,
}

/// What bids of a price level want.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolDepthLevel)]
pub struct DepthLevelRow {
    /// The least limit of the level, per GPU-hour, a decimal.
    pub limit: String,
    /// Bids that name the pool.
    pub bids: u64,
    /// GPUs that they want at most. A bid that names several pools wants them in one alone.
    pub gpus_wanted: u64,
    /// GPUs that they have here.
    pub gpus_sold: u64,
    /// GPUs that bids want which pay as much or more.
    pub gpus_wanted_from_here: u64,
}

/// The demand for a pool as the last clearing before a position saw it; `None` where it was not part of it.
pub fn depth_row(reader: &dyn Reader, name: &PoolName, before: u64) -> Result<Option<DepthRow>, ClearError> {
    let Some(logged) = clearings_before(reader, before).next().transpose()? else { return Ok(None) };
    let receipt = &logged.cleared.receipt;
    let pools = receipt.book.pools().iter().zip(&receipt.clearing.pools);
    let found = pools.into_iter().find(|(pool, _)| pool.name == *name).zip(depth(receipt, name));
    Ok(found.map(|((pool, outcome), levels)| DepthRow {
        clear: logged.position,
        at: logged.at.to_string(),
        supply: pool.supply,
        price: outcome.price.to_string(),
        reserve_price: pool.reserve.to_string(),
        levels: levels.into_iter().map(DepthLevelRow::from).collect(),
    }))
}

impl From<Level> for DepthLevelRow {
    fn from(level: Level) -> Self {
        let Level { limit, bids, wanted, sold, wanted_from_here } = level;
        Self {
            limit: limit.to_string(),
            bids,
            gpus_wanted: wanted,
            gpus_sold: sold,
            gpus_wanted_from_here: wanted_from_here,
        }
    }
}

/// How likely a unit is interrupted, by what its bid pays at most.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolInterruptions)]
pub struct InterruptionsRow {
    /// The last clearing that is in it, by log position; 0 before the first one.
    pub clear: u64,
    /// When the first unit of it began, RFC 3339; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub since: Option<String>,
    /// By level.
    pub levels: Vec<InterruptionLevelRow>,
    /// Of all levels together.
    pub all: InterruptionLevelRow,
    /// Units that clearings told to stop, by cause. `quota` and `budget` are limits of their owner, and no interruptions here.
    pub causes: BTreeMap<String, u64>,
    /// How good predictions were, by horizon: made from the first 70 % of the time, scored on the rest. A horizon that has
    /// too few trials for that is absent.
    pub scores: Vec<ScoreRow>,
}

/// How likely a unit is interrupted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolInterruptionLevel)]
pub struct InterruptionLevelRow {
    /// The limit is at least so many percent of the pool's price; absent of all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_percent_from: Option<u32>,
    /// And less than so many; absent of the highest level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_percent_below: Option<u32>,
    /// Unit-hours that were observed.
    pub unit_hours: u64,
    /// Of them, those in which the unit was interrupted.
    pub interrupted: u64,
    /// The chance of an interruption within 1 hour.
    pub within_1_hour: f64,
    /// Within 24 hours.
    pub within_24_hours: f64,
}

/// How good predictions were.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolInterruptionScore)]
pub struct ScoreRow {
    /// The horizon.
    pub hours: u64,
    /// Predictions that were scored.
    pub trials: u64,
    /// The Brier score, the mean square of what was predicted less what happened: 0 is perfect.
    pub brier: f64,
    /// The Brier score of a forecast that knows the pool's rate and no levels.
    pub reference: f64,
    /// The mean of what was predicted.
    pub predicted: f64,
    /// The part that was interrupted.
    pub observed: f64,
}

/// How likely interruptions are in a pool, until now.
pub fn interruptions_row(history: &History, name: &PoolName, now: Instant) -> InterruptionsRow {
    let found = history.chances(name, now);
    let of = |said: LevelChances, from: Option<u32>, below: Option<u32>| {
        let LevelChances { unit_hours, interrupted, chances: [hour, day] } = said;
        InterruptionLevelRow {
            limit_percent_from: from,
            limit_percent_below: below,
            unit_hours,
            interrupted,
            within_1_hour: rounded(hour),
            within_24_hours: rounded(day),
        }
    };
    let belows = LEVELS_FROM_PERCENT.iter().skip(1).map(|below| Some(*below)).chain([None]);
    let levels = found.chances.levels.iter().zip(LEVELS_FROM_PERCENT).zip(belows);
    let scores = found.chances.scores.iter().zip(HORIZONS).filter_map(|(score, hours)| {
        let Score { trials, brier, reference, predicted, observed } = (*score)?;
        let [brier, reference, predicted, observed] = [brier, reference, predicted, observed].map(rounded);
        Some(ScoreRow { hours: hours as u64, trials, brier, reference, predicted, observed })
    });
    InterruptionsRow {
        clear: found.position,
        since: found.since.map(|since| since.to_string()),
        levels: levels.map(|((said, from), below)| of(*said, Some(from), below)).collect(),
        all: of(found.chances.all, None, None),
        causes: found.causes.into_iter().map(|(cause, units)| (cause.to_owned(), units)).collect(),
        scores: scores.collect(),
    }
}
