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
