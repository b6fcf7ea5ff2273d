//! Laying what holds later over what held before.

use hourglass_units::Interval;

/// Something, and when it holds.
pub(super) type Span<T> = (Interval, T);

/// Spans in order of time that do not overlap.
#[derive(Debug, Clone)]
pub(super) struct Layers<T>(Vec<Span<T>>);

impl<T> Default for Layers<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Layers<T> {
    /// The lowest layer, which is sorted and does not overlap itself.
    pub(super) fn of(spans: impl Iterator<Item = Span<T>>) -> Self {
        Self(spans.collect())
    }

    /// Lays the part of the sorted spans that lies within the window over all that is there. What is
    /// below shows where they leave time free.
    pub(super) fn lay(&mut self, window: Interval, above: impl IntoIterator<Item = Span<T>>) {
        let above = above.into_iter().filter_map(|(interval, it)| Some((interval.intersection(window)?, it)));
        let mut merged = Vec::with_capacity(self.0.len().saturating_add(2));
        let mut below = std::mem::take(&mut self.0).into_iter();
        // What is left of the span below that was looked at last.
        let mut held = below.next();
        for (interval, it) in above {
            while let Some((under, beneath)) = held.take() {
                let before = Interval::between(under.start(), under.end().min(interval.start()));
                merged.extend(before.map(|part| (part, beneath.clone())));
                let after = Interval::between(under.start().max(interval.end()), under.end());
                held = match after {
                    Some(after) => Some((after, beneath)),
                    None => below.next(),
                };
                if after.is_some() {
                    break;
                }
            }
            merged.push((interval, it));
        }
        merged.extend(held);
        merged.extend(below);
        self.0 = merged;
    }

    /// The spans, in order of time.
    pub(super) fn into_spans(self) -> impl Iterator<Item = Span<T>> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use hourglass_units::Instant;
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// The whole world in milliseconds.
    const WORLD: i64 = 40;

    fn between(a: i64, b: i64) -> Option<Interval> {
        let at = |ms| Instant::from_unix_ms(ms).unwrap();
        Interval::between(at(a.min(b)), at(a.max(b)))
    }

    /// A window, and spans that may leave time between them.
    fn layer() -> impl Strategy<Value = (Option<Interval>, Vec<Interval>)> {
        (0..WORLD, 0..WORLD, proptest::collection::btree_set(0..WORLD, 0..10)).prop_map(|(a, b, cuts)| {
            let cuts: Vec<i64> = cuts.into_iter().collect();
            (between(a, b), cuts.chunks_exact(2).filter_map(|pair| between(pair[0], pair[1])).collect())
        })
    }

    proptest! {
        /// At each instant the last layer that has anything there holds.
        #[test]
        fn the_last_word_holds_at_each_instant(layers in vec(layer(), 0..8)) {
            let mut laid = Layers::default();
            let mut expected = vec![None; usize::try_from(WORLD).unwrap()];
            for (n, (window, spans)) in layers.into_iter().enumerate() {
                let Some(window) = window else { continue };
                laid.lay(window, spans.iter().map(|span| (*span, n)));
                for (ms, holds) in (0..).zip(&mut expected) {
                    let at = Instant::from_unix_ms(ms).unwrap();
                    if window.contains(at) && spans.iter().any(|span| span.contains(at)) {
                        *holds = Some(n);
                    }
                }
            }
            let spans: Vec<_> = laid.into_spans().collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.start()));
            for (ms, holds) in (0..).zip(expected) {
                let at = Instant::from_unix_ms(ms).unwrap();
                let got = spans.iter().find(|(interval, _)| interval.contains(at)).map(|(_, n)| *n);
                prop_assert_eq!(got, holds);
            }
        }
    }
}
