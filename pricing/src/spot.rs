//! The price of a spot pool over time.

use hourglass_units::{Currency, Fabric, Instant, Interval, Price};
use serde::{Deserialize, Serialize};

use crate::card::Sku;

/// Which pool: spot GPUs of a SKU in one fabric, paid for in one currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpotPool {
    /// Of its prices.
    pub currency: Currency,
    /// Of the model spot.
    pub sku: Sku,
    /// What its GPUs are connected by; absent where the platform has one price in all fabrics.
    pub fabric: Option<Fabric>,
}

/// A step function: each price holds until the next one. It only ever grows at its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpotPrices(Vec<(Instant, Price)>);

impl SpotPrices {
    /// The last step: since when the price is what it is. Later steps of the same price are no steps.
    pub fn last(&self) -> Option<(Instant, Price)> {
        self.0.last().copied()
    }

    /// Since when there is a price.
    pub fn since(&self) -> Option<Instant> {
        self.0.first().map(|(from, _)| *from)
    }

    /// Adds a step after the last one; a step of the same price changes nothing. `false`, and nothing
    /// is done, where it would not come after.
    pub fn push(&mut self, from: Instant, price: Price) -> bool {
        match self.0.last() {
            Some((last, _)) if from <= *last => return false,
            Some((_, same)) if *same == price => {}
            _ => self.0.push((from, price)),
        }
        true
    }

    /// The parts of the window with one price each, in order. They tile the part of the window from
    /// [`Self::since`] on.
    pub fn within(&self, window: Interval) -> impl Iterator<Item = (Interval, Price)> {
        let first = self.0.partition_point(|(from, _)| *from <= window.start()).saturating_sub(1);
        let steps = self.0.get(first..).unwrap_or_default();
        let ends = steps.iter().skip(1).map(|(from, _)| *from).chain([hourglass_units::INSTANT_MAX]);
        steps.iter().zip(ends).take_while(move |((from, _), _)| *from < window.end()).filter_map(
            move |((from, price), end)| Some((Interval::between(*from, end)?.intersection(window)?, *price)),
        )
    }
}
