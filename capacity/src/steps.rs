//! A number of GPUs that changes in steps over time.
//!
//! Only the instants of change are kept, in order, each with what holds from it on. A question about an
//! instant costs `O(log n)` of them; a question about an interval, or a change of one, costs besides that
//! what changes within it, and never the whole of time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use hourglass_units::{INSTANT_MAX, INSTANT_MIN, Instant, Interval};
use serde::{Deserialize, Serialize};

/// GPUs over time; none before the first step. Two that say the same are equal.
///
/// Sums are held within a `u64`. Those who add bound how much and how often, so that none comes near it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Instant, u64>", into = "BTreeMap<Instant, u64>")]
pub struct Steps {
    /// From each instant on this many. No two neighbours are the same, and the first is not zero.
    levels: BTreeMap<Instant, u64>,
}

impl Steps {
    /// The sum of all parts, in `O(n log n)`.
    pub fn sum(parts: impl IntoIterator<Item = (Interval, u64)>) -> Self {
        let mut changes: BTreeMap<Instant, (u64, u64)> = BTreeMap::new();
        for (within, gpus) in parts {
            let (begins, _) = changes.entry(within.start()).or_default();
            *begins = begins.saturating_add(gpus);
            let (_, ends) = changes.entry(within.end()).or_default();
            *ends = ends.saturating_add(gpus);
        }
        let mut sum = Self::default();
        let mut level: u64 = 0;
        for (at, (begins, ends)) in changes {
            let next = level.saturating_add(begins).saturating_sub(ends);
            if next != level {
                sum.levels.insert(at, next);
            }
            level = next;
        }
        sum
    }

    /// The same number from the first instant to the last.
    pub fn constant(gpus: u64) -> Self {
        Self::sum(Interval::between(INSTANT_MIN, INSTANT_MAX).map(|always| (always, gpus)))
    }

    /// How many at the instant.
    pub fn at(&self, at: Instant) -> u64 {
        self.levels.range(..=at).next_back().map_or(0, |(_, level)| *level)
    }

    /// When it changes next after the instant.
    pub fn next_change(&self, after: Instant) -> Option<Instant> {
        // Never later than the end of time, so that one more is an instant too.
        self.levels.range(after.saturating_add_ms(1)..).next().map(|(at, _)| *at).filter(|at| after < *at)
    }

    /// The most at any instant of the interval.
    pub fn peak(&self, within: Interval) -> u64 {
        let changes = self.levels.range(within.start()..within.end()).map(|(_, level)| *level);
        changes.fold(self.at(within.start()), u64::max)
    }

    /// The least at any instant of the interval.
    pub fn least(&self, within: Interval) -> u64 {
        let changes = self.levels.range(within.start()..within.end()).map(|(_, level)| *level);
        changes.fold(self.at(within.start()), u64::min)
    }

    /// By how much this is more than another, from an instant on; none before it.
    pub fn beyond(&self, other: &Self, from: Instant) -> Self {
        let parts = Interval::from(from).into_iter().flat_map(|rest| side_by_side([self, other], rest));
        Self::sum(parts.map(|(part, [level, other])| (part, level.saturating_sub(other))))
    }

    /// What it was until an instant, and another one from there on.
    pub fn splice(&mut self, from: Instant, other: &Self) {
        let Some(rest) = Interval::from(from) else { return };
        let before = Interval::between(INSTANT_MIN, from);
        let of = |steps: &Self, within: Interval| -> Vec<(Interval, u64)> {
            side_by_side([steps], within).map(|(part, [level])| (part, level)).collect()
        };
        let kept = before.map_or_else(Vec::new, |before| of(self, before));
        *self = Self::sum(kept.into_iter().chain(of(other, rest)));
    }

    /// So many more during the interval.
    pub fn add(&mut self, within: Interval, gpus: u64) {
        self.change(within, |level| level.saturating_add(gpus));
    }

    /// So many fewer during the interval, and nowhere below zero.
    pub fn subtract(&mut self, within: Interval, gpus: u64) {
        self.change(within, |level| level.saturating_sub(gpus));
    }

    fn change(&mut self, within: Interval, change: impl Fn(u64) -> u64) {
        let (start, end) = (within.start(), within.end());
        for edge in [start, end] {
            let level = self.at(edge);
            self.levels.entry(edge).or_insert(level);
        }
        for (_, level) in self.levels.range_mut(start..end) {
            *level = change(*level);
        }
        let mut before = self.levels.range(..start).next_back().map_or(0, |(_, level)| *level);
        let mut idle = Vec::new();
        for (at, level) in self.levels.range(start..=end) {
            if *level == before {
                idle.push(*at);
            }
            before = *level;
        }
        for at in idle {
            self.levels.remove(&at);
        }
    }
}

impl From<BTreeMap<Instant, u64>> for Steps {
    fn from(mut levels: BTreeMap<Instant, u64>) -> Self {
        let mut before = 0;
        levels.retain(|_, level| std::mem::replace(&mut before, *level) != *level);
        Self { levels }
    }
}

impl From<Steps> for BTreeMap<Instant, u64> {
    fn from(steps: Steps) -> Self {
        steps.levels
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.levels).finish()
    }
}

/// Several side by side: the parts of the interval within which none of them changes, in order, each with
/// the level of every one.
pub fn side_by_side<const N: usize>(
    steps: [&Steps; N],
    within: Interval,
) -> impl Iterator<Item = (Interval, [u64; N])> {
    let inside = (Bound::Excluded(within.start()), Bound::Excluded(within.end()));
    let mut levels = steps.map(|it| it.at(within.start()));
    let mut changes = steps.map(|it| it.levels.range(inside).peekable());
    let mut from = within.start();
    std::iter::from_fn(move || {
        let next = changes.iter_mut().filter_map(|it| it.peek().map(|(at, _)| **at)).min();
        let part = Interval::between(from, next.unwrap_or(within.end()))?;
        let of_part = levels;
        for (level, change) in levels.iter_mut().zip(&mut changes) {
            if let Some((_, changed)) = change.next_if(|(at, _)| **at == part.end()) {
                *level = *changed;
            }
        }
        from = part.end();
        Some((part, of_part))
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, proptest};

    use super::*;

    const SPAN: i64 = 40;

    fn at(ms: i64) -> Instant {
        Instant::from_unix_ms(ms).unwrap()
    }

    fn interval() -> impl Strategy<Value = Interval> {
        (0..SPAN - 1).prop_flat_map(|start| {
            (Just(start), start + 1..SPAN).prop_map(|(start, end)| Interval::new(at(start), at(end)).unwrap())
        })
    }

    proptest! {
        /// Against an array that has a number for every instant.
        #[test]
        fn steps_are_what_an_array_of_instants_is(
            changes in vec((interval(), 0_u64..5, any::<bool>()), 0..20),
            window in interval(),
        ) {
            let (mut steps, mut array) = (Steps::default(), [0_u64; SPAN as usize]);
            for (within, gpus, is_added) in changes {
                if is_added { steps.add(within, gpus) } else { steps.subtract(within, gpus) }
                for ms in within.start().unix_ms()..within.end().unix_ms() {
                    let level = &mut array[ms as usize];
                    *level = if is_added { *level + gpus } else { level.saturating_sub(gpus) };
                }
            }
            let all: Vec<u64> = (0..SPAN).map(|ms| steps.at(at(ms))).collect();
            prop_assert_eq!(&all, &array);
            let part = &array[window.start().unix_ms() as usize..window.end().unix_ms() as usize];
            prop_assert_eq!(steps.peak(window), *part.iter().max().unwrap());
            prop_assert_eq!(steps.least(window), *part.iter().min().unwrap());
            let next = (window.start().unix_ms() + 1..SPAN).find(|ms| array[*ms as usize] != array[*ms as usize - 1]);
            prop_assert_eq!(steps.next_change(window.start()), next.map(at));

            // The same function is the same value, however it came about.
            let parts = (0..SPAN - 1).map(|ms| (Interval::new(at(ms), at(ms + 1)).unwrap(), array[ms as usize]));
            prop_assert_eq!(&Steps::sum(parts), &steps);

            let other = Steps::sum([(window, 3)]);
            let mut spliced = steps.clone();
            spliced.splice(window.start(), &other);
            let beyond = steps.beyond(&other, window.start());
            for ms in 0..SPAN {
                let later = ms >= window.start().unix_ms();
                let (own, others) = (array[ms as usize], if window.contains(at(ms)) { 3 } else { 0 });
                prop_assert_eq!(spliced.at(at(ms)), if later { others } else { own });
                prop_assert_eq!(beyond.at(at(ms)), if later { own.saturating_sub(others) } else { 0 });
            }
            let whole = Interval::new(at(0), at(SPAN)).unwrap();
            let mut until = at(0);
            for (part, [a, b]) in side_by_side([&steps, &other], whole) {
                prop_assert_eq!(part.start(), until);
                until = part.end();
                for ms in part.start().unix_ms()..part.end().unix_ms() {
                    prop_assert_eq!((a, b), (array[ms as usize], if window.contains(at(ms)) { 3 } else { 0 }));
                }
            }
            prop_assert_eq!(until, at(SPAN));
        }
    }

    #[test]
    fn nothing_changes_after_the_end_of_time() {
        let steps = Steps::constant(7);
        assert_eq!((steps.at(INSTANT_MIN), steps.at(INSTANT_MAX)), (7, 0));
        assert_eq!(steps.next_change(INSTANT_MIN), Some(INSTANT_MAX));
        assert_eq!(steps.next_change(INSTANT_MAX), None);
        let whole = Interval::from(INSTANT_MIN).unwrap();
        assert!(side_by_side([&steps], whole).eq([(whole, [7])]));
    }
}
