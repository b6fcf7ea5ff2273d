//! A set of milliseconds.
//!
//! Usage is a set and billing a measure on it (M-1, M-2): a report adds its interval to the
//! coverage of its instance, and only what [`Coverage::missing`] says was new is billed. Union is
//! commutative, associative and idempotent, so the order, the number and the cut of the reports
//! cannot matter.
//!
//! Reports that follow one another merge, so the coverage of an instance that reports without a gap
//! is one interval, held in place without an allocation.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::time::{Instant, Interval};

/// Intervals that an operation yields: nearly always one.
pub type Pieces = SmallVec<[Interval; 2]>;

/// A set of milliseconds as sorted, disjoint intervals that do not touch.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Coverage(Runs);

/// Boxed beyond one interval, so that the common case is 24 bytes.
#[derive(Clone, PartialEq, Eq, Default)]
enum Runs {
    #[default]
    Empty,
    One(Interval),
    Many(Vec<Interval>),
}

impl Coverage {
    /// The set of one interval.
    pub fn of(interval: Interval) -> Self {
        Self(Runs::One(interval))
    }

    /// The intervals, in order.
    pub fn intervals(&self) -> &[Interval] {
        match &self.0 {
            Runs::Empty => &[],
            Runs::One(interval) => std::slice::from_ref(interval),
            Runs::Many(intervals) => intervals,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Runs::Empty)
    }

    /// The first millisecond of the last interval and the end of it.
    pub fn last(&self) -> Option<Interval> {
        self.intervals().last().copied()
    }

    /// Milliseconds held.
    pub fn milliseconds(&self) -> i64 {
        self.intervals().iter().map(|interval| interval.milliseconds()).fold(0, i64::saturating_add)
    }

    /// Milliseconds held within the window.
    pub fn milliseconds_within(&self, window: Interval) -> i64 {
        self.within(window).map(Interval::milliseconds).fold(0, i64::saturating_add)
    }

    /// What it holds of the window, in order.
    pub fn within(&self, window: Interval) -> impl Iterator<Item = Interval> {
        self.ending_after(window.start())
            .iter()
            .take_while(move |interval| interval.start() < window.end())
            .filter_map(move |interval| interval.intersection(window))
    }

    /// What it does not hold of the window, in order: the gaps.
    pub fn missing(&self, window: Interval) -> Pieces {
        // In-order reports land behind the last interval.
        if self.last().is_none_or(|last| last.end() <= window.start()) {
            return Pieces::from_slice(&[window]);
        }
        let mut missing = Pieces::new();
        let mut from = window.start();
        for held in self.within(window) {
            missing.extend(Interval::between(from, held.start()));
            from = held.end();
        }
        missing.extend(Interval::between(from, window.end()));
        missing
    }

    /// What both hold.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let intervals =
            self.intervals().iter().flat_map(|interval| other.within(*interval)).collect::<Vec<_>>();
        Self::from_sorted(intervals)
    }

    /// What this holds and the other does not.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let intervals =
            self.intervals().iter().flat_map(|interval| other.missing(*interval)).collect::<Vec<_>>();
        Self::from_sorted(intervals)
    }

    /// What either holds.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for interval in other.intervals() {
            union.insert(*interval);
        }
        union
    }

    /// Adds the interval; intervals that meet become one.
    pub fn insert(&mut self, new: Interval) {
        match &mut self.0 {
            Runs::Empty => self.0 = Runs::One(new),
            Runs::One(held) => match touch(*held, new) {
                Some(joined) => *held = joined,
                None => {
                    let held = *held;
                    self.0 = Runs::Many(if held < new { vec![held, new] } else { vec![new, held] });
                }
            },
            Runs::Many(intervals) => {
                let first = intervals.partition_point(|held| held.end() < new.start());
                let behind = intervals.partition_point(|held| held.start() <= new.end());
                let joined = intervals
                    .get(first..behind)
                    .unwrap_or_default()
                    .iter()
                    .fold(new, |joined, held| touch(joined, *held).unwrap_or(joined));
                intervals.splice(first..behind, [joined]);
                if let [only] = intervals.as_slice() {
                    self.0 = Runs::One(*only);
                }
            }
        }
    }

    /// Takes the interval out.
    pub fn remove(&mut self, window: Interval) {
        *self = self.difference(&Self::of(window));
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Runs::Many(intervals) => intervals.capacity().saturating_mul(size_of::<Interval>()),
            _ => 0,
        }
    }

    /// The intervals from the first whose end comes after the instant.
    fn ending_after(&self, at: Instant) -> &[Interval] {
        let intervals = self.intervals();
        let first = match intervals {
            [only] => usize::from(only.end() <= at),
            _ => intervals.partition_point(|interval| interval.end() <= at),
        };
        intervals.get(first..).unwrap_or_default()
    }

    /// From intervals that are sorted and disjoint and may touch.
    fn from_sorted(intervals: Vec<Interval>) -> Self {
        let mut set = Self::default();
        for interval in intervals {
            set.insert(interval);
        }
        set
    }
}

/// The union of two intervals that overlap or meet.
fn touch(a: Interval, b: Interval) -> Option<Interval> {
    if a.end() < b.start() || b.end() < a.start() {
        return None;
    }
    Interval::between(a.start().min(b.start()), a.end().max(b.end()))
}

impl FromIterator<Interval> for Coverage {
    fn from_iter<T: IntoIterator<Item = Interval>>(intervals: T) -> Self {
        let mut set = Self::default();
        for interval in intervals {
            set.insert(interval);
        }
        set
    }
}

impl std::fmt::Debug for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.intervals()).finish()
    }
}

impl Serialize for Coverage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.intervals().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Coverage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(SmallVec::<[Interval; 1]>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// Small enough that a plain set of milliseconds can be the oracle.
    const SPAN: i64 = 60;

    fn interval() -> impl Strategy<Value = Interval> {
        (0..SPAN - 1).prop_flat_map(|start| {
            (Just(start), start + 1..SPAN).prop_map(|(start, end)| {
                let at = |ms| Instant::from_unix_ms(ms).unwrap();
                Interval::new(at(start), at(end)).unwrap()
            })
        })
    }

    fn points(intervals: &[Interval]) -> BTreeSet<i64> {
        intervals.iter().flat_map(|i| i.start().unix_ms()..i.end().unix_ms()).collect()
    }

    fn is_canonical(set: &Coverage) -> bool {
        set.intervals().windows(2).all(|pair| pair[0].end() < pair[1].start())
    }

    proptest! {
        /// M-1, M-2 at their root: the set is the union, whatever the order, and what is missing
        /// before an insertion is exactly what the insertion adds.
        #[test]
        fn m1_m2_coverage_is_set_union(reports in vec(interval(), 0..24)) {
            let mut set = Coverage::default();
            for report in &reports {
                let before = points(set.intervals());
                let missing = set.missing(*report);
                set.insert(*report);
                let added: BTreeSet<_> = points(set.intervals()).difference(&before).copied().collect();
                prop_assert_eq!(points(&missing), added);
                prop_assert!(is_canonical(&set));
            }
            prop_assert_eq!(points(set.intervals()), points(&reports));
            prop_assert_eq!(set.milliseconds(), i64::try_from(points(&reports).len()).unwrap());
            let backwards: Coverage = reports.iter().rev().copied().collect();
            prop_assert_eq!(&backwards, &set);
            prop_assert!(reports.len() < 2 || set.heap_bytes() < 2 * 16 * reports.len() + 128);
        }

        #[test]
        fn set_algebra_agrees_with_sets(a in vec(interval(), 0..12), b in vec(interval(), 0..12), window in interval()) {
            let (a, b): (Coverage, Coverage) = (a.into_iter().collect(), b.into_iter().collect());
            let (pa, pb) = (points(a.intervals()), points(b.intervals()));
            for (got, expected) in [
                (a.intersection(&b), pa.intersection(&pb).copied().collect::<BTreeSet<_>>()),
                (a.difference(&b), pa.difference(&pb).copied().collect()),
                (a.union(&b), pa.union(&pb).copied().collect()),
            ] {
                prop_assert!(is_canonical(&got));
                prop_assert_eq!(points(got.intervals()), expected);
            }
            let within = a.within(window).collect::<Vec<_>>();
            prop_assert_eq!(points(&within), pa.intersection(&points(&[window])).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(a.milliseconds_within(window), within.iter().map(|part| part.milliseconds()).sum::<i64>());
            let bytes = postcard::to_stdvec(&a).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Coverage>(&bytes).unwrap(), a);
        }
    }

    #[test]
    fn a_run_of_reports_stays_in_place() {
        let at = |ms| Instant::from_unix_ms(ms).unwrap();
        let set: Coverage =
            (0..10_000).map(|n| Interval::new(at(n * 10), at(n * 10 + 10)).unwrap()).collect();
        assert_eq!((set.intervals().len(), set.heap_bytes(), size_of::<Coverage>()), (1, 0, 24));
    }
}
