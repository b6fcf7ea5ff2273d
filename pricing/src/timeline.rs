//! The price of one SKU over time, as steps.

use std::sync::Arc;

use hourglass_units::{Instant, Interval, Price, RateCardName};
use serde::{Deserialize, Serialize};

use crate::card::Component;

/// Which version of which card or contract a price comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CardVersion {
    /// The name that all versions share.
    pub name: RateCardName,
    /// From 1.
    pub version: u32,
}

impl std::fmt::Display for CardVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// One price and when it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceStep {
    /// When it holds; the last step ends at the end of time.
    pub interval: Interval,
    /// Per GPU-hour.
    pub price: Price,
    /// Who says so.
    pub source: CardVersion,
    /// What a discount was taken off: the card and its price.
    pub list: Option<(CardVersion, Price)>,
    /// What the price is made of, where the card says so; under a discount what the list price is
    /// made of.
    pub components: Components,
}

/// What a price is made of. Shared, since timelines are cloned for each charge group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Component>", into = "Vec<Component>")]
pub struct Components(Option<Arc<[Component]>>);

impl Components {
    /// In the order of the card; empty where it names none.
    pub fn as_slice(&self) -> &[Component] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<Vec<Component>> for Components {
    fn from(components: Vec<Component>) -> Self {
        Self((!components.is_empty()).then(|| components.into()))
    }
}

impl From<Components> for Vec<Component> {
    fn from(components: Components) -> Self {
        components.as_slice().to_vec()
    }
}

/// Steps in order of time that do not overlap. Milliseconds outside all of them have no price.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PriceTimeline(Vec<PriceStep>);

impl PriceTimeline {
    /// From steps that are sorted and disjoint; the card's check has seen to that.
    pub(crate) fn from_sorted(steps: Vec<PriceStep>) -> Self {
        debug_assert!(steps.is_sorted_by(|a, b| a.interval.end() <= b.interval.start()));
        Self(steps)
    }

    /// A single step, or none at all.
    pub fn of_step(step: Option<PriceStep>) -> Self {
        Self(step.into_iter().collect())
    }

    /// All steps.
    pub fn steps(&self) -> &[PriceStep] {
        &self.0
    }

    /// The steps that touch the window, in order.
    pub fn within(&self, window: Interval) -> impl Iterator<Item = &PriceStep> {
        let first = match self.0.as_slice() {
            [_] => 0,
            steps => steps.partition_point(|step| step.interval.end() <= window.start()),
        };
        self.0
            .get(first..)
            .unwrap_or_default()
            .iter()
            .skip_while(move |step| step.interval.end() <= window.start())
            .take_while(move |step| step.interval.start() < window.end())
    }

    /// The price at an instant.
    pub fn at(&self, at: Instant) -> Option<&PriceStep> {
        self.within(Interval::between(at, at.saturating_add_ms(1))?).next()
    }

    /// Since when every later instant has a price; `None` where the last step ends.
    pub fn priced_from(&self) -> Option<Instant> {
        let mut from = hourglass_units::INSTANT_MAX;
        for step in self.0.iter().rev() {
            if step.interval.end() != from {
                break;
            }
            from = step.interval.start();
        }
        (from != hourglass_units::INSTANT_MAX).then_some(from)
    }

    /// The first part of the window without a price.
    pub fn first_gap(&self, window: Interval) -> Option<Interval> {
        let mut reached = window.start();
        for step in self.within(window) {
            if reached < step.interval.start() {
                break;
            }
            reached = step.interval.end();
        }
        let next = self.within(window).map(|step| step.interval.start()).find(|start| *start > reached);
        Interval::between(reached, next.unwrap_or(window.end()))
    }

    /// This timeline with `other` in force wherever `other` has a price.
    #[must_use]
    pub fn overlaid_with(&self, other: &Self) -> Self {
        let Some(reach) = other.0.first().zip(other.0.last()) else { return self.clone() };
        let (from, until) = (reach.0.interval.start(), reach.1.interval.end());
        let part = |window: Option<Interval>| {
            self.0.iter().filter_map(move |step| {
                let interval = step.interval.intersection(window?)?;
                Some(PriceStep { interval, ..step.clone() })
            })
        };
        let before = part(Interval::between(hourglass_units::INSTANT_MIN, from));
        let after = part(Interval::between(until, hourglass_units::INSTANT_MAX));
        Self(before.chain(other.0.iter().cloned()).chain(after).collect())
    }
}

#[cfg(test)]
mod tests {
    use hourglass_units::INSTANT_MAX;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    proptest! {
        /// A gap is where the first millisecond without a price is, up to the next that has one.
        #[test]
        fn the_first_gap_is_found(
            cuts in proptest::collection::btree_set(0..40_i64, 0..10),
            start in 0..40_i64,
            length in 1..40_i64,
        ) {
            let at = |ms| Instant::from_unix_ms(ms).unwrap();
            let source = CardVersion { name: "list".parse().unwrap(), version: 1 };
            let ends: Vec<Instant> = cuts.into_iter().map(at).chain([INSTANT_MAX]).collect();
            let step = |pair: &[Instant]| {
                let (price, source) = (Price::ZERO, source.clone());
                let interval = Interval::new(pair[0], pair[1]).unwrap();
                PriceStep { interval, price, source, list: None, components: Components::default() }
            };
            let timeline = PriceTimeline(ends.chunks_exact(2).map(step).collect());
            let has = |ms: &i64| timeline.at(at(*ms)).is_some();
            let gap = (start..start + length).find(|ms| !has(ms)).map(|from| {
                let until = (from..start + length).find(has).unwrap_or(start + length);
                Interval::new(at(from), at(until)).unwrap()
            });
            prop_assert_eq!(timeline.first_gap(Interval::new(at(start), at(start + length)).unwrap()), gap);
        }
    }
}
