//! Prices by steps of time. Pure, and exact but for the mean.

use hourglass_units::{INSTANT_MIN, Instant, Interval, Price};

/// Milliseconds of a UTC day.
const DAY_MS: i64 = 86_400_000;
/// The shortest step.
const STEP_MS_MIN: i64 = 60_000;

/// A length of time that divides a UTC day, from one minute to one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step(i64);

impl Step {
    /// One hour.
    pub const HOUR: Self = Self(3_600_000);

    /// Reads `1m`, `15m`, `6h`, `1d`.
    pub fn parse(text: &str) -> Option<Self> {
        let unit = text.chars().last()?;
        let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
        let unit_ms = match unit {
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => DAY_MS,
            _ => return None,
        };
        let ms = number.checked_mul(unit_ms)?;
        let divides = (STEP_MS_MIN..=DAY_MS).contains(&ms) && DAY_MS.checked_rem(ms) == Some(0);
        (divides && text.starts_with(|first: char| first.is_ascii_digit())).then_some(Self(ms))
    }

    /// In milliseconds.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// The step that an instant is in, whole.
    pub(crate) fn containing(self, at: Instant) -> Option<Interval> {
        let within = at.unix_ms().checked_rem_euclid(self.0)?;
        let start = INSTANT_MIN.saturating_add_ms(at.unix_ms().saturating_sub(within));
        Interval::between(start, start.saturating_add_ms(self.0))
    }
}

/// What a pool cost within a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candle {
    /// The part of the step that was asked for and that has prices.
    pub(crate) within: Interval,
    pub(crate) open: Price,
    pub(crate) high: Price,
    pub(crate) low: Price,
    pub(crate) close: Price,
    /// Price times milliseconds.
    sum: i128,
}

impl Candle {
    fn new(within: Interval, price: Price) -> Self {
        let sum = weight(within, price);
        Self { within, open: price, high: price, low: price, close: price, sum }
    }

    fn add(&mut self, piece: Interval, price: Price) {
        self.within = Interval::between(self.within.start(), piece.end()).unwrap_or(self.within);
        (self.high, self.low, self.close) = (self.high.max(price), self.low.min(price), price);
        self.sum = self.sum.saturating_add(weight(piece, price));
    }

    /// The mean over time, rounded half to even to the last digit of a price.
    pub(crate) fn mean(&self) -> Price {
        let time = i128::from(self.within.milliseconds());
        let whole = self.sum.checked_div(time).unwrap_or_default();
        let rest = self.sum.checked_rem(time).unwrap_or_default().saturating_mul(2);
        let up = rest > time || (rest == time && whole % 2 != 0);
        let nanos = i64::try_from(whole.saturating_add(i128::from(up))).ok();
        // A mean is never above the highest price.
        nanos.and_then(|nanos| Price::from_nanos(nanos).ok()).unwrap_or(self.high)
    }
}

fn weight(piece: Interval, price: Price) -> i128 {
    i128::from(price.nanos()).saturating_mul(i128::from(piece.milliseconds()))
}

/// Prices that follow one another without a gap, by steps. Each is made when it is asked for.
pub(crate) fn candles(
    pieces: impl Iterator<Item = (Interval, Price)>,
    step: Step,
) -> impl Iterator<Item = Candle> {
    let mut pieces = pieces;
    let mut rest: Option<(Interval, Price)> = None;
    std::iter::from_fn(move || {
        let mut candle: Option<(Candle, Instant)> = None;
        loop {
            let Some((piece, price)) = rest.take().or_else(|| pieces.next()) else {
                return candle.map(|(candle, _)| candle);
            };
            let end = match &candle {
                Some((_, end)) => *end,
                None => step.containing(piece.start())?.end(),
            };
            if piece.start() >= end {
                rest = Some((piece, price));
                return candle.map(|(candle, _)| candle);
            }
            let inside = Interval::between(piece.start(), piece.end().min(end))?;
            match &mut candle {
                Some((candle, _)) => candle.add(inside, price),
                None => candle = Some((Candle::new(inside, price), end)),
            }
            if piece.end() >= end {
                rest = Interval::between(end, piece.end()).map(|rest| (rest, price));
                return candle.map(|(candle, _)| candle);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Instant {
        Instant::from_unix_ms(ms).unwrap()
    }

    fn price(nanos: i64) -> Price {
        Price::from_nanos(nanos).unwrap()
    }

    /// Prices that hold from these minutes on, until the last one.
    fn pieces(steps: &[(i64, i64)], end: i64) -> Vec<(Interval, Price)> {
        let ends = steps.iter().skip(1).map(|(from, _)| *from).chain([end]);
        let of = |((from, nanos), until): (&(i64, i64), i64)| {
            (Interval::between(at(from * 60_000), at(until * 60_000)).unwrap(), price(*nanos))
        };
        steps.iter().zip(ends).map(of).collect()
    }

    #[test]
    fn a_step_divides_a_day() {
        for (text, ms) in
            [("1m", 60_000), ("15m", 900_000), ("90m", 5_400_000), ("6h", 21_600_000), ("1d", DAY_MS)]
        {
            assert_eq!(Step::parse(text).map(Step::ms), Some(ms), "{text}");
        }
        for text in [
            "",
            "m",
            "0m",
            "7m",
            "5h",
            "2d",
            "1s",
            "1",
            "-1h",
            "+1h",
            "1 h",
            "1H",
            "1hh",
            "9223372036854775807d",
        ] {
            assert_eq!(Step::parse(text), None, "{text}");
        }
    }

    #[test]
    fn candles_have_open_high_low_close_and_mean() {
        let all = pieces(&[(30, 10), (60, 40), (75, 20), (90, 30), (240, 7)], 250);
        let found: Vec<_> = candles(all.into_iter(), Step::HOUR)
            .map(|it| {
                let minute = |at: Instant| at.unix_ms() / 60_000;
                let prices = [it.open, it.high, it.low, it.close, it.mean()].map(Price::nanos);
                (minute(it.within.start()), minute(it.within.end()), prices)
            })
            .collect();
        let expected = [
            (30, 60, [10, 10, 10, 10, 10]),
            // 40 for a quarter, 20 for a quarter, 30 for a half.
            (60, 120, [40, 40, 20, 30, 30]),
            (120, 180, [30; 5]),
            (180, 240, [30; 5]),
            (240, 250, [7; 5]),
        ];
        assert_eq!(found, expected);
        assert_eq!(candles(std::iter::empty(), Step::HOUR).next(), None);
    }

    #[test]
    fn a_mean_is_rounded_half_to_even() {
        for (first, second, mean) in [(1, 2, 2), (2, 3, 2), (3, 4, 4), (0, 0, 0), (5, 5, 5)] {
            let all = pieces(&[(0, first), (30, second)], 60);
            assert_eq!(candles(all.into_iter(), Step::HOUR).next().unwrap().mean().nanos(), mean);
        }
    }

    proptest! {
        /// The candles of any prices tile their time, sum to the whole, and hold what each minute cost.
        #[test]
        fn candles_lose_nothing(
            steps in proptest::collection::btree_map(0_i64..3_000, 0_i64..1_000, 1..40), more in 1_i64..500,
            step in proptest::sample::select(vec!["1m", "15m", "1h", "6h", "1d"]),
        ) {
            let steps: Vec<(i64, i64)> = steps.into_iter().collect();
            let end = steps.last().unwrap().0 + more;
            let all = pieces(&steps, end);
            let step = Step::parse(step).unwrap();
            let found: Vec<Candle> = candles(all.iter().copied(), step).collect();
            prop_assert_eq!(found.first().unwrap().within.start(), all[0].0.start());
            prop_assert_eq!(found.last().unwrap().within.end(), at(end * 60_000));
            for pair in found.windows(2) {
                prop_assert_eq!(pair[0].within.end(), pair[1].within.start());
                prop_assert_eq!(pair[1].within.start().unix_ms() % step.ms(), 0);
            }
            let whole: i128 = all.iter().map(|(piece, price)| weight(*piece, *price)).sum();
            prop_assert_eq!(found.iter().map(|it| it.sum).sum::<i128>(), whole);
            for candle in &found {
                let minutes = (candle.within.start().unix_ms() / 60_000)..(candle.within.end().unix_ms() / 60_000);
                let at_minute = |minute: i64| steps.iter().rev().find(|it| it.0 <= minute).unwrap().1;
                let prices: Vec<i64> = minutes.map(at_minute).collect();
                let told = [candle.open, candle.high, candle.low, candle.close].map(Price::nanos);
                let expected = [prices[0], *prices.iter().max().unwrap(), *prices.iter().min().unwrap(), prices[prices.len() - 1]];
                prop_assert_eq!(told, expected);
                prop_assert!(candle.low <= candle.mean() && candle.mean() <= candle.high);
            }
        }
    }
}
