//! **C-2 over time**: what became of a pool's GPUs, step by step.
//!
//! Who uses a pool is given as [`Span`]s: so many GPUs, for a time, for one [`Use`]. At each instant they are
//! sorted into the parts of a [`Usage`], and those are added up over each step in GPU-milliseconds, so that every
//! figure is a whole number and none is rounded:
//!
//! ```text
//! owned + over = reserved used + reserved idle + on demand + spot + lent + free + down
//! ```
//!
//! `over` is what ran beyond what there was. It is nothing, unless a pool was made smaller under what ran, or
//! nodes were taken out that went on running; then the other parts still say what ran.
//!
//! Whose GPU a spot instance runs on nobody knows: what reservations keep and do not use counts as idle as
//! long as others have room elsewhere, and as lent to spot beyond that. It is the least that was lent.

use hourglass_units::{Instant, Interval};
use serde::{Deserialize, Serialize};

/// Most steps of a series.
pub const STEPS_MAX: usize = 10_000;

/// What GPUs of a pool are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Use {
    /// The pool has them.
    Owned,
    /// Of them, out of use: broken, taken out, in maintenance.
    Excluded,
    /// Reservations keep them.
    Promised,
    /// They run inside reservations.
    Reserved,
    /// They run on demand.
    OnDemand,
    /// They run as spot.
    Spot,
}

/// So many GPUs for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// For what.
    pub of: Use,
    /// While.
    pub within: Interval,
    /// How many.
    pub gpus: u64,
}

/// What became of GPUs: at an instant in GPUs, over a time in GPU-milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The pool had them.
    pub owned: u128,
    /// Reservations kept them, and they ran inside.
    pub reserved_used: u128,
    /// Reservations kept them, and nobody used them.
    pub reserved_idle: u128,
    /// They ran on demand.
    pub on_demand: u128,
    /// They ran as spot on what nobody else keeps.
    pub spot: u128,
    /// They ran as spot on what reservations keep and do not use.
    pub lent: u128,
    /// Nobody used them, and nobody keeps them.
    pub free: u128,
    /// They could not be used.
    pub down: u128,
    /// They ran, and were not there.
    pub over: u128,
}

impl Usage {
    /// Of an instant: GPUs by [`Use`].
    fn of(levels: &Levels) -> Self {
        let Levels { owned, excluded, promised, reserved, on_demand, spot } = *levels;
        let down = excluded.min(owned);
        let usable = owned.saturating_sub(down);
        let used = reserved.saturating_add(on_demand).saturating_add(spot);
        let rest = usable.saturating_sub(used);
        let kept = promised.saturating_sub(reserved);
        let reserved_idle = kept.min(rest);
        let lent = kept.saturating_sub(reserved_idle).min(spot);
        Self {
            owned,
            reserved_used: reserved,
            reserved_idle,
            on_demand,
            spot: spot.saturating_sub(lent),
            lent,
            free: rest.saturating_sub(reserved_idle),
            down,
            over: used.saturating_sub(usable),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u128::saturating_add)
    }

    /// As much, times so many milliseconds.
    fn times(&self, milliseconds: u128) -> Self {
        self.with(&Self::default(), |of, _| of.saturating_mul(milliseconds))
    }

    fn with(&self, other: &Self, both: impl Fn(u128, u128) -> u128) -> Self {
        Self {
            owned: both(self.owned, other.owned),
            reserved_used: both(self.reserved_used, other.reserved_used),
            reserved_idle: both(self.reserved_idle, other.reserved_idle),
            on_demand: both(self.on_demand, other.on_demand),
            spot: both(self.spot, other.spot),
            lent: both(self.lent, other.lent),
            free: both(self.free, other.free),
            down: both(self.down, other.down),
            over: both(self.over, other.over),
        }
    }

    /// What ran.
    pub fn used(&self) -> u128 {
        let all = [self.reserved_used, self.on_demand, self.spot, self.lent];
        all.into_iter().fold(0, u128::saturating_add)
    }

    /// What could be used.
    pub fn usable(&self) -> u128 {
        self.owned.saturating_sub(self.down)
    }

    /// What reservations kept.
    pub fn reserved(&self) -> u128 {
        let all = [self.reserved_used, self.reserved_idle, self.lent];
        all.into_iter().fold(0, u128::saturating_add)
    }

    /// C-2: whether the parts sum to the whole.
    pub fn is_whole(&self) -> bool {
        let parts = [self.used(), self.reserved_idle, self.free, self.down];
        parts.into_iter().fold(0, u128::saturating_add) == self.owned.saturating_add(self.over)
    }
}

/// GPUs of an instant, by [`Use`].
#[derive(Debug, Clone, Copy, Default)]
struct Levels {
    owned: u128,
    excluded: u128,
    promised: u128,
    reserved: u128,
    on_demand: u128,
    spot: u128,
}

impl Levels {
    fn of(&mut self, of: Use) -> &mut u128 {
        match of {
            Use::Owned => &mut self.owned,
            Use::Excluded => &mut self.excluded,
            Use::Promised => &mut self.promised,
            Use::Reserved => &mut self.reserved,
            Use::OnDemand => &mut self.on_demand,
            Use::Spot => &mut self.spot,
        }
    }
}

/// The steps of a range, in order; the last one ends with the range.
pub fn steps(range: Interval, step_ms: i64) -> impl Iterator<Item = Interval> {
    let mut from = range.start();
    let step_ms = step_ms.max(1);
    std::iter::from_fn(move || {
        let step = Interval::between(from, from.saturating_add_ms(step_ms).min(range.end()))?;
        from = step.end();
        Some(step)
    })
}

/// What became of a pool's GPUs in each step of a range, in one pass: `O(n log n)` of the spans, and the steps.
/// A step that no span touches is all zero.
pub fn usage(spans: &[Span], range: Interval, step_ms: i64) -> Vec<(Interval, Usage)> {
    // Every span begins and ends once; where one ends as another begins the order does not matter, since no
    // time passes between them.
    let mut changes: Vec<(Instant, Use, i128)> = Vec::with_capacity(spans.len().saturating_mul(2));
    for span in spans {
        let Some(within) = span.within.intersection(range) else { continue };
        changes.push((within.start(), span.of, i128::from(span.gpus)));
        changes.push((within.end(), span.of, i128::from(span.gpus).saturating_neg()));
    }
    changes.sort_unstable();
    let mut changes = changes.into_iter().peekable();
    let mut levels = Levels::default();
    let each = steps(range, step_ms).map(|step| {
        let mut sum = Usage::default();
        let mut from = step.start();
        while let Some(rest) = Interval::between(from, step.end()) {
            while let Some((_, of, by)) = changes.next_if(|(at, ..)| *at <= from) {
                let level = levels.of(of);
                *level = level.saturating_add_signed(by);
            }
            let until = changes.peek().map_or(rest.end(), |(at, ..)| (*at).min(rest.end()));
            let milliseconds = u128::try_from(until.ms_since(from)).unwrap_or(0);
            sum = sum.plus(&Usage::of(&levels).times(milliseconds));
            from = until;
        }
        (step, sum)
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const SPAN: i64 = 60;
    const ALL: [Use; 6] = [Use::Owned, Use::Excluded, Use::Promised, Use::Reserved, Use::OnDemand, Use::Spot];

    fn interval(start: i64, end: i64) -> Interval {
        let at = |ms| Instant::from_unix_ms(ms).unwrap();
        Interval::new(at(start), at(end)).unwrap()
    }

    fn span() -> impl Strategy<Value = Span> {
        (0..6_usize, 0..SPAN - 1, 1..SPAN, 0..7_u64).prop_map(|(of, start, length, gpus)| Span {
            of: ALL[of],
            within: interval(start, (start + length).min(SPAN)),
            gpus,
        })
    }

    proptest! {
        /// Each step against a count of every millisecond by itself, and C-2 in every one of them.
        #[test]
        fn c2_holds_in_every_step(
            spans in vec(span(), 0..30), start in 0..SPAN - 1, length in 1..SPAN, step_ms in 1..SPAN,
        ) {
            let range = interval(start, (start + length).min(SPAN));
            let series = usage(&spans, range, step_ms);
            prop_assert_eq!(series.first().map(|(step, _)| step.start()), Some(range.start()));
            prop_assert_eq!(series.last().map(|(step, _)| step.end()), Some(range.end()));
            for (step, found) in &series {
                let mut counted = Usage::default();
                for ms in step.start().unix_ms()..step.end().unix_ms() {
                    let at = Instant::from_unix_ms(ms).unwrap();
                    let mut levels = Levels::default();
                    for it in spans.iter().filter(|it| it.within.contains(at)) {
                        *levels.of(it.of) += u128::from(it.gpus);
                    }
                    let usage = Usage::of(&levels);
                    prop_assert!(usage.is_whole(), "{levels:?}");
                    counted = counted.plus(&usage);
                }
                prop_assert_eq!(found, &counted);
                prop_assert!(found.is_whole());
            }
            // Steps of another length sum to the same.
            let sum = |series: &[(Interval, Usage)]| {
                series.iter().fold(Usage::default(), |sum, (_, usage)| sum.plus(usage))
            };
            prop_assert_eq!(sum(&series), sum(&usage(&spans, range, SPAN)));
        }
    }

    #[test]
    fn instants_by_hand() {
        // (owned, excluded, promised, reserved, on demand, spot) to
        // (used, idle, on demand, spot, lent, free, down, over).
        let check = |levels: [u128; 6], parts: [u128; 8]| {
            let [owned, excluded, promised, reserved, on_demand, spot] = levels;
            let usage = Usage::of(&Levels { owned, excluded, promised, reserved, on_demand, spot });
            let Usage { reserved_used, reserved_idle, on_demand, spot, lent, free, down, over, .. } = usage;
            let found = [reserved_used, reserved_idle, on_demand, spot, lent, free, down, over];
            assert_eq!(found, parts, "{levels:?}");
        };
        check([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]);
        check([10, 0, 0, 0, 3, 2], [0, 0, 3, 2, 0, 5, 0, 0]);
        // A reservation of 6, of which 2 are used: spot has room beside it, then runs on 3 of its GPUs.
        check([10, 0, 6, 2, 1, 3], [2, 4, 1, 3, 0, 0, 0, 0]);
        check([10, 0, 6, 2, 1, 6], [2, 1, 1, 3, 3, 0, 0, 0]);
        // Nodes fail: what is kept idle is what is left.
        check([10, 4, 6, 2, 1, 3], [2, 0, 1, 0, 3, 0, 4, 0]);
        // More runs than there is, and more is out than is owned.
        check([4, 1, 0, 0, 2, 3], [0, 0, 2, 3, 0, 0, 1, 2]);
        check([4, 6, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 4, 0]);
        // More runs inside than is kept here.
        check([4, 0, 1, 2, 0, 0], [2, 0, 0, 0, 0, 2, 0, 0]);
    }
}
