//! A series of numbers, and what comes after it. The one place with floats: they count GPUs, never money.
//!
//! Two methods, and whichever erred less in the series' own past is taken:
//!
//! * **MSTL + ETS**: the seasons (a day, a week) are taken out by locally weighted regression, what remains is
//!   continued by exponential smoothing with additive errors (whether it has a trend, damped or not, by AICc), and the
//!   seasons are put back. Both by the crates `augurs-mstl` and `augurs-ets`.
//! * **Seasonal naive**: the same as one season before, the longest one.
//!
//! The past is asked by rolling origin: the series is cut at several instants, continued from each, and compared with
//! what came. The intervals of a model say too little where its parameters are unsure, so they are widened until they
//! hold what they say in the older half of these cuts; the newer half, which had no say in that, tells how much they
//! hold ([`Backtest::coverage_95`]).

#![expect(clippy::float_arithmetic, reason = "forecasts count GPUs on average, and no money")]
#![expect(clippy::cast_precision_loss, reason = "steps and GPUs are far below 2^52")]

use augurs_core::{Fit, Predict};
use augurs_ets::AutoETS;
use augurs_mstl::MSTLModel;

/// Most cuts of the past.
const ORIGINS_MAX: usize = 8;
/// Paths that are drawn for a probability.
const PATHS: usize = 2_000;
/// The seed that they are drawn from.
const SEED: u64 = 0x686f_7572_676c_6173;
/// Of the normal distribution: 80 % lie within so many standard deviations.
const Z80: f64 = 1.281_552;
/// The same of 95 %.
const Z95: f64 = 1.959_964;

/// How a series is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    MstlEts,
    SeasonalNaive,
}

/// What comes: by step, with a standard deviation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prediction {
    pub(super) mean: Vec<f64>,
    pub(super) spread: Vec<f64>,
}

/// How well the method did in the past.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Backtest {
    /// How often the past was cut.
    pub(super) origins: usize,
    /// Steps that were continued from each cut.
    pub(super) steps: usize,
    /// Mean absolute error, in GPUs.
    pub(super) mae: f64,
    /// The same of the seasonal naive method.
    pub(super) naive_mae: f64,
    /// Mean absolute error by that of going back one season within the series; none where that is 0.
    pub(super) mase: Option<f64>,
    /// The share of what came that the 80 % interval held.
    pub(super) coverage_80: f64,
    /// The same of the 95 % interval.
    pub(super) coverage_95: f64,
}

/// A series continued.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Continued {
    pub(super) method: Method,
    pub(super) prediction: Prediction,
    pub(super) backtest: Backtest,
    widen: Widening,
}

/// By how much the intervals of a model are widened.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Widening {
    of_80: f64,
    of_95: f64,
}

/// Continues a series by its seasons, the shortest first. `None` where it is shorter than two of them and a little,
/// so that there would be no past to ask.
pub(super) fn continued(series: &[f64], seasons: &[usize], horizon: usize) -> Option<Continued> {
    // Cuts leave two of the longest season before them: a method is judged by what it will know.
    let season = *seasons.last()?;
    let origins = origins(series.len(), season, horizon)?;
    let mut found: Option<(Method, Backtest, Widening)> = None;
    let naive_mae = judge(series, seasons, &origins, Method::SeasonalNaive)?.0.mae;
    for method in [Method::MstlEts, Method::SeasonalNaive] {
        let Some((backtest, widen)) = judge(series, seasons, &origins, method) else { continue };
        let backtest = Backtest { naive_mae, ..backtest };
        if found.as_ref().is_none_or(|(_, best, _)| backtest.mae < best.mae) {
            found = Some((method, backtest, widen));
        }
    }
    let (method, backtest, widen) = found?;
    let prediction = predict(series, seasons, horizon, method)?;
    Some(Continued { method, prediction, backtest, widen })
}

impl Continued {
    /// The interval of a step that holds 80 % (or 95 %) of what may come; never below 0.
    pub(super) fn interval(&self, step: usize, is_95: bool) -> Option<(f64, f64)> {
        let (mean, spread) = (self.prediction.mean.get(step)?, self.prediction.spread.get(step)?);
        let width = if is_95 { Z95 * self.widen.of_95 } else { Z80 * self.widen.of_80 } * spread;
        Some(((mean - width).max(0.0), (mean + width).max(0.0)))
    }

    /// The mean of a step; never below 0.
    pub(super) fn mean(&self, step: usize) -> f64 {
        self.prediction.mean.get(step).map_or(0.0, |mean| mean.max(0.0))
    }

    /// How probable it is that a step reaches its room, for each, and that any does.
    ///
    /// Paths are drawn as the smoothing says that errors go on: a step has an error of its own with the variance of
    /// the first, and what a later step has more accumulates. Each step by itself then has its own variance.
    pub(super) fn exceeds(&self, room: &[f64]) -> (Vec<f64>, f64) {
        let mut draws = Draws(SEED);
        let spread: Vec<f64> = self.prediction.spread.iter().map(|it| it * self.widen.of_95).collect();
        let own = spread.first().copied().unwrap_or(0.0);
        let mut reached = vec![0_usize; room.len()];
        let mut any = 0_usize;
        for _ in 0..PATHS {
            let (mut drift, mut known, mut hit) = (0.0, own * own, false);
            let steps = room.iter().zip(&self.prediction.mean).zip(&spread).zip(&mut reached);
            for (((room, mean), spread), reached) in steps {
                let more = (spread * spread - known).max(0.0);
                known += more;
                drift += more.sqrt() * draws.normal();
                if mean + drift + own * draws.normal() >= *room {
                    *reached = reached.saturating_add(1);
                    hit = true;
                }
            }
            any = any.saturating_add(usize::from(hit));
        }
        let share = |count: usize| count as f64 / PATHS as f64;
        (reached.into_iter().map(share).collect(), share(any))
    }
}

/// Where the past is cut, and how far each cut is continued: the newest last.
struct Origins {
    cuts: Vec<usize>,
    steps: usize,
}

fn origins(length: usize, season: usize, horizon: usize) -> Option<Origins> {
    let least = season.checked_mul(2)?.checked_add(1)?.max(12);
    let spare = length.checked_sub(least)?;
    let steps = horizon.min(spare / 2).min(season.saturating_mul(2).max(28)).max(1);
    let room = spare.checked_sub(steps)?;
    let count = (room / steps.div_ceil(2)).saturating_add(1).min(ORIGINS_MAX);
    let stride = room.checked_div(count.saturating_sub(1)).unwrap_or(0).min(steps.div_ceil(2)).max(1);
    let last = length.checked_sub(steps)?;
    let cuts = (0..count).rev().filter_map(|back| last.checked_sub(back.checked_mul(stride)?));
    Some(Origins { cuts: cuts.filter(|cut| *cut >= least).collect(), steps })
}

fn judge(
    series: &[f64],
    seasons: &[usize],
    origins: &Origins,
    method: Method,
) -> Option<(Backtest, Widening)> {
    let Origins { cuts, steps } = origins;
    // By cut: each error, and how many standard deviations that is.
    let mut errors: Vec<Vec<(f64, f64)>> = Vec::new();
    for cut in cuts {
        let (known, came) = (series.get(..*cut)?, series.get(*cut..)?);
        let Prediction { mean, spread } = predict(known, seasons, *steps, method)?;
        let errors_of = came.iter().zip(mean.iter().zip(&spread)).map(|(came, (mean, spread))| {
            let error = (came - mean).abs();
            (
                error,
                if *spread > 0.0 {
                    error / spread
                } else if error > 0.0 {
                    f64::MAX
                } else {
                    0.0
                },
            )
        });
        errors.push(errors_of.collect());
    }
    let all: Vec<(f64, f64)> = errors.iter().flatten().copied().collect();
    let (older, newer) = errors.split_at(errors.len() / 2);
    let older: Vec<f64> = older.iter().flatten().map(|(_, score)| *score).collect();
    let newer: Vec<f64> = newer.iter().flatten().map(|(_, score)| *score).collect();
    let widening =
        |scores: &[f64]| Widening { of_80: widened(scores, 0.80, Z80), of_95: widened(scores, 0.95, Z95) };
    let of_older = widening(&older);
    let held = |z: f64| newer.iter().filter(|score| **score <= z).count() as f64 / newer.len().max(1) as f64;
    let mae = mean(all.iter().map(|(error, _)| *error));
    let scale = seasonal_change(series, *seasons.last()?);
    let backtest = Backtest {
        origins: cuts.len(),
        steps: *steps,
        mae,
        naive_mae: mae,
        mase: (scale > 0.0).then(|| mae / scale),
        coverage_80: held(Z80 * of_older.of_80),
        coverage_95: held(Z95 * of_older.of_95),
    };
    let scores: Vec<f64> = all.iter().map(|(_, score)| *score).collect();
    Some((backtest, widening(&scores)))
}

/// By how much an interval must be widened to hold its share of these scores; never narrowed, and never without bound.
fn widened(scores: &[f64], share: f64, z: f64) -> f64 {
    const WIDEST: f64 = 20.0;
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let missed = (sorted.len() as f64 * (1.0 - share)).floor();
    let within = sorted.iter().rev().scan(missed, |left, score| {
        let is_missed = *left >= 1.0;
        *left -= 1.0;
        Some((is_missed, *score))
    });
    let widest = within.filter(|(is_missed, _)| !is_missed).map(|(_, score)| score).next();
    (widest.unwrap_or(0.0) / z).clamp(1.0, WIDEST)
}

fn mean(all: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for it in all {
        sum += it;
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { 0.0 }
}

/// The mean absolute change over one season.
fn seasonal_change(series: &[f64], season: usize) -> f64 {
    let later = series.iter().skip(season);
    mean(later.zip(series).map(|(later, before)| (later - before).abs()))
}

fn predict(series: &[f64], seasons: &[usize], horizon: usize, method: Method) -> Option<Prediction> {
    match method {
        Method::MstlEts => by_decomposition(series, seasons, horizon),
        Method::SeasonalNaive => naive(series, *seasons.last()?, horizon),
    }
}

fn by_decomposition(series: &[f64], seasons: &[usize], horizon: usize) -> Option<Prediction> {
    let periods: Vec<usize> =
        seasons.iter().copied().filter(|period| series.len() >= period.saturating_mul(2)).collect();
    let trend = AutoETS::new(1, "AZN").ok()?.into_trend_model();
    let fitted = MSTLModel::new(periods, trend).fit(series).ok()?;
    let forecast = fitted.predict(horizon, Some(0.95)).ok()?;
    let upper = forecast.intervals?.upper;
    let spread: Vec<f64> =
        upper.iter().zip(&forecast.point).map(|(upper, point)| (upper - point).max(0.0) / Z95).collect();
    let is_finite = forecast.point.iter().chain(&spread).all(|it| it.is_finite());
    let is_whole = forecast.point.len() == horizon && spread.len() == horizon;
    (is_finite && is_whole).then_some(Prediction { mean: forecast.point, spread })
}

fn naive(series: &[f64], season: usize, horizon: usize) -> Option<Prediction> {
    let last = series.get(series.len().checked_sub(season)?..)?;
    let changes = series.iter().skip(season).zip(series).map(|(later, before)| (later - before).powi(2));
    let deviation = mean(changes).sqrt();
    let mean = last.iter().copied().cycle().take(horizon).collect();
    let seasons_ahead = (0..horizon).map(|step| (step / season.max(1)).saturating_add(1));
    let spread = seasons_ahead.map(|ahead| deviation * (ahead as f64).sqrt()).collect();
    Some(Prediction { mean, spread })
}

/// Numbers that look drawn, the same ones each time: SplitMix64, and the sum of twelve of its draws.
struct Draws(u64);

impl Draws {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((it ^ (it >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 0 and deviation 1, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weeks of days: a level, a slope, a week's shape and a little that nobody knows.
    fn days(count: usize, slope: f64, noise: f64) -> Vec<f64> {
        let mut draws = Draws(7);
        let shape = [0.0, 4.0, 6.0, 6.0, 5.0, -8.0, -13.0];
        (0..count).map(|day| 100.0 + slope * day as f64 + shape[day % 7] + noise * draws.normal()).collect()
    }

    #[test]
    fn a_week_with_a_slope_goes_on() {
        let series = days(140, 0.5, 1.0);
        let (known, came) = series.split_at(112);
        let continued = continued(known, &[7], 28).unwrap();
        assert_eq!(continued.method, Method::MstlEts);
        let errors = came.iter().enumerate().map(|(step, came)| (came - continued.mean(step)).abs());
        let mae = mean(errors);
        assert!(mae < 2.5, "{mae}");
        let backtest = continued.backtest;
        assert!(backtest.mae < backtest.naive_mae, "{backtest:?}");
        assert!(backtest.mase.unwrap() < 1.0, "{backtest:?}");
        assert!(backtest.coverage_95 >= 0.85, "{backtest:?}");
        let held = came.iter().enumerate().filter(|(step, came)| {
            let (low, high) = continued.interval(*step, true).unwrap();
            (low..=high).contains(*came)
        });
        assert!(held.count() >= 25);
        let (low, high) = continued.interval(0, false).unwrap();
        let (lower, higher) = continued.interval(0, true).unwrap();
        assert!(lower <= low && low < high && high <= higher);
    }

    #[test]
    fn intervals_hold_about_what_they_say() {
        // Of many series of pure noise: the interval of the next week.
        let (mut held, mut all) = (0_u32, 0_u32);
        for seed in 0..12 {
            let mut draws = Draws(seed);
            let series: Vec<f64> = (0..91).map(|_| 50.0 + 5.0 * draws.normal()).collect();
            let (known, came) = series.split_at(84);
            let continued = continued(known, &[7], 7).unwrap();
            for (step, came) in came.iter().enumerate() {
                let (low, high) = continued.interval(step, true).unwrap();
                held += u32::from((low..=high).contains(came));
                all += 1;
            }
        }
        assert!(held * 100 >= all * 88, "{held} of {all}");
    }

    #[test]
    fn the_same_series_goes_on_the_same_way() {
        let series = days(84, 0.2, 2.0);
        let once = continued(&series, &[7], 14).unwrap();
        let twice = continued(&series, &[7], 14).unwrap();
        assert_eq!(once, twice);
        assert_eq!(once.exceeds(&[120.0; 14]), twice.exceeds(&[120.0; 14]));
    }

    #[test]
    fn what_never_changes_never_reaches_more() {
        let continued = continued(&[8.0; 40], &[7], 10).unwrap();
        assert!((0..10).all(|step| (continued.mean(step) - 8.0).abs() < 1e-3), "{continued:?}");
        assert_eq!(continued.exceeds(&[9.0; 10]).1, 0.0);
        assert_eq!(continued.exceeds(&[7.5; 10]).1, 1.0);
    }

    #[test]
    fn a_probability_lies_between_its_bounds() {
        let continued = continued(&days(112, 0.3, 3.0), &[7], 28).unwrap();
        let room: Vec<f64> = (0..28).map(|step| continued.mean(step) + 6.0).collect();
        let (each, any) = continued.exceeds(&room);
        let most = each.iter().copied().fold(0.0, f64::max);
        let none = each.iter().map(|it| 1.0 - it).product::<f64>();
        assert!(any >= most && any <= (1.0 - none + 0.05).min(1.0), "{most} {any} {none}");
        assert!(any > 0.0 && any < 1.0, "{any}");
        // More room, less risk.
        let more: Vec<f64> = room.iter().map(|it| it + 10.0).collect();
        assert!(continued.exceeds(&more).1 < any);
    }

    #[test]
    fn too_short_a_past_is_no_past() {
        for length in 0..16 {
            assert!(continued(&days(length, 0.0, 1.0), &[7], 7).is_none(), "{length}");
        }
        assert!(continued(&days(24, 0.0, 1.0), &[7], 7).is_some());
    }
}
