//! Cutting usage by price and by hour.

use hourglass_units::{Hour, Interval, Price};

use crate::timeline::PriceTimeline;

/// A part of some usage that belongs to exactly one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The milliseconds.
    pub interval: Interval,
    /// The UTC hour that they lie in.
    pub hour: Hour,
    /// What a GPU-hour costs in them.
    pub price: Price,
}

/// P-1: cuts the piece at each change of price and at each UTC hour. The cuts are in order of time
/// and partition the priced part of the piece.
pub fn cuts(prices: &PriceTimeline, piece: Interval) -> impl Iterator<Item = Cut> {
    prices
        .within(piece)
        .filter_map(move |step| step.interval.intersection(piece).map(|part| (part, step.price)))
        .flat_map(|(part, price)| part.by_hour().map(move |(hour, interval)| Cut { interval, hour, price }))
}

/// When the line `(hour, price)` collects usage: the parts of the hour at that price.
pub fn line_domain(prices: &PriceTimeline, hour: Hour, price: Price) -> impl Iterator<Item = Interval> {
    let whole = hour.interval();
    prices
        .within(whole)
        .filter(move |step| step.price == price)
        .filter_map(move |step| step.interval.intersection(whole))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hourglass_units::{INSTANT_MAX, Instant};
    use proptest::collection::btree_set;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::timeline::{CardVersion, PriceStep};

    fn at(ms: i64) -> Instant {
        Instant::from_unix_ms(ms).unwrap()
    }

    /// Prices that alternate between two values, so that a line's domain can have several parts.
    fn timeline(changes: &BTreeSet<i64>) -> PriceTimeline {
        let starts: Vec<Instant> = std::iter::once(0).chain(changes.iter().copied()).map(at).collect();
        let ends = starts.iter().skip(1).copied().chain([INSTANT_MAX]);
        let source = CardVersion { name: "list".parse().unwrap(), version: 1 };
        let steps = starts.iter().zip(ends).enumerate().map(|(n, (start, end))| PriceStep {
            interval: Interval::new(*start, end).unwrap(),
            price: Price::from_nanos(1 + i64::try_from(n % 2).unwrap()).unwrap(),
            source: source.clone(),
        });
        PriceTimeline::from_sorted(steps.collect())
    }

    proptest! {
        /// P-1: the cuts are a partition of the piece, and each lies in the domain of its line and of
        /// no other.
        #[test]
        fn p1_cuts_partition_the_piece(
            changes in btree_set(1..20_000_000_i64, 0..12),
            start in 0..18_000_000_i64,
            length in 1..9_000_000_i64,
        ) {
            let prices = timeline(&changes);
            let piece = Interval::new(at(start), at(start + length)).unwrap();
            let parts: Vec<Cut> = cuts(&prices, piece).collect();
            prop_assert_eq!(parts.iter().map(|cut| cut.interval.milliseconds()).sum::<i64>(), length);
            prop_assert_eq!(parts.first().unwrap().interval.start(), piece.start());
            prop_assert!(parts.windows(2).all(|pair| pair[0].interval.end() == pair[1].interval.start()));
            for cut in &parts {
                prop_assert_eq!(prices.at(cut.interval.start()).unwrap().price, cut.price);
                for nanos in 1..=2 {
                    let price = Price::from_nanos(nanos).unwrap();
                    let inside = line_domain(&prices, cut.hour, price)
                        .filter_map(|part| part.intersection(cut.interval))
                        .map(Interval::milliseconds)
                        .sum::<i64>();
                    prop_assert_eq!(inside, if price == cut.price { cut.interval.milliseconds() } else { 0 });
                }
            }
        }
    }
}
