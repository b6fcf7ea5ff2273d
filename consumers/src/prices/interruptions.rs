//! How likely it is that a spot unit is interrupted, by what its bid pays at most. Pure.
//!
//! # The method
//!
//! At each full UTC hour every unit that is held is one *trial*: its *level* is its bid's limit as a multiple of the
//! pool's price at that hour, and it is followed until it is interrupted, ends in another way, or the log ends. Of
//! each level and each hour k after the trial the *hazard* is the share of trials interrupted within that hour, of those
//! that were seen through it or interrupted in it (the life table of actuaries, with what ended in another way left
//! out from then on). The chance of an interruption within n hours is one less the product of (1 − hazard) over n
//! hours: the estimate of Kaplan and Meier, by whole hours.
//!
//! A level with few trials says little, so [`PRIOR_TRIALS`] trials at the pool's own hazard are added to each.
//!
//! # How good it is
//!
//! The estimate is made again from the first [`TRAIN_PERCENT`] percent of the time, of which nothing later is known, and
//! scored on the trials of the rest: the Brier score is the mean square of what was predicted less what happened, 0
//! or 1. Beside it stands the score of a forecast that knows no levels, the pool's own rate of the same earlier
//! time. Scored are trials whose horizon is over, and of them not those that ended in another way before it, since
//! nobody knows what would have happened. (To score those of the last day that were interrupted, and not those
//! that still run, would count the bad end alone.)

#![expect(clippy::float_arithmetic, reason = "chances are no money, and nothing is decided by them")]

use hourglass_units::Price;

/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;
/// The longest horizon.
pub(crate) const HOURS_MAX: usize = 24;
/// Horizons of which chances are told, in hours.
pub(crate) const HORIZONS: [usize; 2] = [1, HOURS_MAX];
/// The least of each level, as a limit in percent of the price.
pub(crate) const LEVELS_FROM_PERCENT: [u32; LEVELS] = [100, 105, 110, 125, 150, 200, 300];
/// How many levels there are.
pub(crate) const LEVELS: usize = 7;
/// Trials at the pool's own hazard that are added to each level.
pub(crate) const PRIOR_TRIALS: f64 = 20.0;
/// The part of the time from which the estimate is made that is scored.
pub(crate) const TRAIN_PERCENT: i64 = 70;
/// With fewer trials there is no score.
pub(crate) const SCORED_TRIALS_MIN: u64 = 100;

/// How a unit's time ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The market took it.
    Interrupted,
    /// Its bid's own doing, or what nobody knows.
    Left,
}

/// Units of a bid that began and ended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) units: u32,
    /// Since when, in milliseconds since the epoch.
    pub(crate) start: i64,
    /// Until when, where it is over.
    pub(crate) end: Option<(i64, Fate)>,
    /// Its level at each full hour that it saw, from the first one on.
    pub(crate) levels: Vec<u8>,
}

impl Life {
    /// The trials: when, and at which level.
    fn trials(&self) -> impl Iterator<Item = (i64, usize)> {
        let first =
            self.start.div_euclid(HOUR_MS).saturating_add(i64::from(self.start.rem_euclid(HOUR_MS) > 0));
        let hours = (first..).map(|hour| hour.saturating_mul(HOUR_MS));
        hours.zip(self.levels.iter().map(|level| usize::from(*level)))
    }

    /// Until when a trial is followed and what happened then, when nothing after `known` is known.
    fn until(&self, known: i64) -> (i64, Fate) {
        match self.end {
            Some((end, fate)) if end <= known => (end, fate),
            _ => (known, Fate::Left),
        }
    }
}

/// The level of a limit at a price.
pub(crate) fn level(limit: Price, price: Price) -> u8 {
    let reaches = |from: &u32| {
        let least = i128::from(price.nanos()).saturating_mul(i128::from(*from));
        i128::from(limit.nanos()).saturating_mul(100) >= least
    };
    let levels = LEVELS_FROM_PERCENT.iter().skip(1).take_while(|from| reaches(from)).count();
    u8::try_from(levels).unwrap_or(u8::MAX)
}

/// Trials of a level, by the hour after them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Table {
    /// Seen through the hour, or interrupted in it.
    at_risk: [f64; HOURS_MAX],
    interrupted: [f64; HOURS_MAX],
}

impl Table {
    fn hazard(&self, hour: usize) -> f64 {
        let of = |counts: &[f64; HOURS_MAX]| counts.get(hour).copied().unwrap_or_default();
        if of(&self.at_risk) > 0.0 { of(&self.interrupted) / of(&self.at_risk) } else { 0.0 }
    }

    fn add(&mut self, units: f64, hours_seen: usize, interrupted: bool) {
        let seen = hours_seen.min(HOURS_MAX);
        let and_then = usize::from(interrupted && seen < HOURS_MAX);
        self.at_risk.iter_mut().take(seen.saturating_add(and_then)).for_each(|count| *count += units);
        if and_then == 1
            && let Some(count) = self.interrupted.get_mut(seen)
        {
            *count += units;
        }
    }
}

/// Hazards of a pool, by level and of all levels together.
#[derive(Debug, Clone, PartialEq)]
struct Hazards {
    levels: [Table; LEVELS],
    all: Table,
}

impl Hazards {
    /// From trials before `until`, of which nothing later is known.
    fn of<'a>(lives: impl Iterator<Item = &'a Life>, until: i64) -> Self {
        let mut hazards = Self { levels: [Table::default(); LEVELS], all: Table::default() };
        for life in lives {
            let (end, fate) = life.until(until);
            for (at, level) in life.trials().take_while(|(at, _)| *at < end) {
                let seen = usize::try_from(end.saturating_sub(at).div_euclid(HOUR_MS)).unwrap_or(0);
                let units = f64::from(life.units);
                hazards.all.add(units, seen, fate == Fate::Interrupted);
                if let Some(table) = hazards.levels.get_mut(level) {
                    table.add(units, seen, fate == Fate::Interrupted);
                }
            }
        }
        hazards
    }

    /// The chance of an interruption at a level within so many hours; of the whole pool without one.
    fn chance(&self, level: Option<usize>, hours: usize) -> f64 {
        let of_level = level.and_then(|level| self.levels.get(level));
        let hazard = |hour: usize| {
            let of_pool = self.all.hazard(hour);
            let Some(table) = of_level else { return of_pool };
            let counts = |counts: &[f64; HOURS_MAX]| counts.get(hour).copied().unwrap_or_default();
            (counts(&table.interrupted) + PRIOR_TRIALS * of_pool) / (counts(&table.at_risk) + PRIOR_TRIALS)
        };
        1.0 - (0..hours).map(|hour| 1.0 - hazard(hour)).product::<f64>()
    }
}

/// What is said of a level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LevelChances {
    /// Unit-hours that were seen through, or interrupted.
    pub(crate) unit_hours: u64,
    /// Of them, interrupted.
    pub(crate) interrupted: u64,
    /// By horizon.
    pub(crate) chances: [f64; HORIZONS.len()],
}

/// How good predictions were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// Trials that were scored.
    pub(crate) trials: u64,
    /// Lower is better.
    pub(crate) brier: f64,
    /// The score of a forecast that knows no levels.
    pub(crate) reference: f64,
    /// The mean of what was predicted.
    pub(crate) predicted: f64,
    /// The part that was interrupted.
    pub(crate) observed: f64,
}

/// What a pool's past says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chances {
    pub(crate) levels: [LevelChances; LEVELS],
    pub(crate) all: LevelChances,
    /// By horizon; absent where too few trials could be scored.
    pub(crate) scores: [Option<Score>; HORIZONS.len()],
}

/// What lives of units until `now` say of those to come.
pub(crate) fn chances(lives: &[&Life], now: i64) -> Chances {
    let hazards = Hazards::of(lives.iter().copied(), now);
    let said = |level: Option<usize>| {
        let table = level.and_then(|level| hazards.levels.get(level)).unwrap_or(&hazards.all);
        let first = |counts: &[f64; HOURS_MAX]| whole(counts.first().copied().unwrap_or_default());
        LevelChances {
            unit_hours: first(&table.at_risk),
            interrupted: first(&table.interrupted),
            chances: HORIZONS.map(|hours| hazards.chance(level, hours)),
        }
    };
    let first = lives.iter().map(|life| life.start).min().unwrap_or(now);
    let train = now.saturating_sub(first).saturating_mul(TRAIN_PERCENT) / 100;
    let split = first.saturating_add(train);
    let earlier = Hazards::of(lives.iter().copied(), split);
    Chances {
        levels: std::array::from_fn(|level| said(Some(level))),
        all: said(None),
        scores: HORIZONS.map(|hours| score(&earlier, lives, (split, now), hours)),
    }
}

/// Scores predictions of an earlier time on the trials between two instants.
fn score(earlier: &Hazards, lives: &[&Life], (from, until): (i64, i64), hours: usize) -> Option<Score> {
    let predictions: [f64; LEVELS] = std::array::from_fn(|level| earlier.chance(Some(level), hours));
    let reference = earlier.chance(None, hours);
    let horizon = HOUR_MS.saturating_mul(i64::try_from(hours).unwrap_or(i64::MAX));
    let last = until.saturating_sub(horizon);
    let (mut trials, mut sums) = (0_u64, [0.0_f64; 4]);
    for life in lives {
        let (end, fate) = life.until(until);
        for (at, level) in life.trials().filter(|(at, _)| (from..end).contains(at) && *at <= last) {
            let seen = end.saturating_sub(at);
            let happened = match fate {
                _ if seen >= horizon => 0.0,
                Fate::Interrupted => 1.0,
                Fate::Left => continue,
            };
            let predicted = predictions.get(level).copied().unwrap_or(reference);
            let units = f64::from(life.units);
            trials = trials.saturating_add(u64::from(life.units));
            let errors =
                [(predicted - happened).powi(2), (reference - happened).powi(2), predicted, happened];
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += units * error);
        }
    }
    if trials < SCORED_TRIALS_MIN {
        return None;
    }
    let count = float(trials);
    let [brier, reference, predicted, observed] = sums.map(|sum| sum / count);
    Some(Score { trials, brier, reference, predicted, observed })
}

/// A chance or a score as it is told: to six digits.
pub(crate) fn rounded(chance: f64) -> f64 {
    (chance * 1e6).round() / 1e6
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of units")]
fn whole(count: f64) -> u64 {
    count as u64
}

#[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourglass_test_chance::Chance;

    fn price(nanos: i64) -> Price {
        Price::from_nanos(nanos).unwrap()
    }

    #[test]
    fn a_level_is_a_multiple_of_the_price() {
        for (limit, expected) in [
            (100, 0),
            (104, 0),
            (105, 1),
            (109, 1),
            (110, 2),
            (125, 3),
            (149, 3),
            (150, 4),
            (200, 5),
            (299, 5),
            (300, 6),
            (9_999, 6),
        ] {
            assert_eq!(level(price(limit), price(100)), expected, "{limit}");
        }
        assert_eq!(level(price(1), price(0)), 6);
        assert_eq!(level(price(0), price(0)), 6);
    }

    /// Units whose hazards per hour by level are known, started at random over so many days.
    fn process(seed: u64, days: i64, hazards: &[(u8, f64)], leaves: f64) -> (Vec<Life>, i64) {
        let mut chance = Chance(seed);
        let now = days * 24 * HOUR_MS;
        let mut draw = move || chance.below(1_000_000) as f64 / 1_000_000.0;
        let mut lives = Vec::new();
        for (level, hazard) in hazards {
            for _ in 0..400 {
                let start = (draw() * now as f64) as i64;
                // Exponential times: of the interruption, and of leaving by itself.
                let time = |rate: f64, drawn: f64| (-(1.0 - drawn).ln() / rate * HOUR_MS as f64) as i64;
                let rate = -(1.0 - hazard).ln();
                let (interrupted, left) = (time(rate, draw()), time(leaves, draw()));
                let fate = if interrupted < left { Fate::Interrupted } else { Fate::Left };
                let end = start.saturating_add(interrupted.min(left));
                let first = start / HOUR_MS + 1;
                let hours = (end.min(now) - 1).div_euclid(HOUR_MS) - first + 1;
                lives.push(Life {
                    units: 1,
                    start,
                    end: (end < now).then_some((end, fate)),
                    levels: vec![*level; usize::try_from(hours).unwrap_or(0)],
                });
            }
        }
        (lives, now)
    }

    #[test]
    fn chances_of_a_known_process_are_found_though_units_leave() {
        let known = [(0, 0.10), (2, 0.03), (4, 0.005)];
        let (lives, now) = process(7, 60, &known, 0.05);
        let found = chances(&lives.iter().collect::<Vec<_>>(), now);
        for (level, hazard) in known {
            let [hour, day] = found.levels[usize::from(level)].chances;
            assert!((hour - hazard).abs() < 0.01, "{level}: {hour} {hazard}");
            let expected = 1.0 - (1.0 - hazard).powi(24);
            assert!((day - expected).abs() < 0.06, "{level}: {day} {expected}");
        }
        // Nobody was at the others: they are told the pool's own chance.
        assert_eq!((found.levels[6].unit_hours, found.levels[6].chances), (0, found.all.chances));
    }

    #[test]
    fn predictions_are_calibrated_and_better_than_the_base_rate_where_levels_matter() {
        let (lives, now) = process(11, 90, &[(0, 0.12), (3, 0.02), (6, 0.002)], 0.02);
        let found = chances(&lives.iter().collect::<Vec<_>>(), now);
        for score in found.scores.map(Option::unwrap) {
            assert!(score.brier < score.reference, "{score:?}");
            assert!((score.predicted - score.observed).abs() < 0.05, "{score:?}");
        }
        // Where they do not, levels predict as the base rate does, and not worse than by chance.
        let (lives, now) = process(13, 90, &[(0, 0.03), (3, 0.03), (6, 0.03)], 0.02);
        let found = chances(&lives.iter().collect::<Vec<_>>(), now);
        for score in found.scores.map(Option::unwrap) {
            assert!((score.brier - score.reference).abs() < 0.005, "{score:?}");
        }
    }

    #[test]
    fn the_score_is_the_mean_square_of_what_was_wrong() {
        // Ten hours; half of the units are interrupted half an hour after the eighth.
        let life = |units, end| Life { units, start: 0, end, levels: vec![0; 10] };
        let interrupted =
            Life { levels: vec![0; 9], ..life(100, Some((8 * HOUR_MS + HOUR_MS / 2, Fate::Interrupted))) };
        let lives = [life(100, None), interrupted];
        let now = 10 * HOUR_MS;
        let found = chances(&lives.iter().collect::<Vec<_>>(), now);
        // Nothing happened in the first seven hours, so nothing was predicted: trials at 7 and 8, of both, and at 9.
        let score = found.scores[0].unwrap();
        assert_eq!((score.trials, score.predicted), (500, 0.0));
        assert!((score.brier - 0.2).abs() < 1e-12 && (score.observed - 0.2).abs() < 1e-12, "{score:?}");
        assert_eq!((score.reference, found.scores[1]), (score.brier, None));
        // 19 hundred unit-hours were seen through or interrupted.
        assert_eq!((found.all.unit_hours, found.all.interrupted), (1_900, 100));
        assert!((found.all.chances[0] - 100.0 / 1_900.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let found = chances(&[], HOUR_MS);
        assert_eq!((found.all.unit_hours, found.all.chances, found.scores), (0, [0.0; 2], [None; 2]));
    }
}
