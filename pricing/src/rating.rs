//! Cutting usage by price and by hour.

use hourglass_units::{Hour, INSTANT_MAX, Interval, Price};

use crate::spot::SpotPrices;
use crate::timeline::{PriceStep, PriceTimeline};

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

/// What GPU-hours cost at each instant, with all that bears on it: a list or contract price, and for
/// spot the pool's price where there is one, never above the bid's limit.
#[derive(Debug, Clone, Copy)]
pub struct Tariff<'a> {
    /// Of the contract or the list.
    pub prices: &'a PriceTimeline,
    /// Of the spot pool: it goes before `prices` wherever it has a price.
    pub pool: Option<&'a SpotPrices>,
    /// Never more than this.
    pub limit: Option<Price>,
}

impl<'a> Tariff<'a> {
    /// A tariff of one timeline.
    pub fn of(prices: &'a PriceTimeline) -> Self {
        Self { prices, pool: None, limit: None }
    }

    /// The parts of the window with one price each, in order: a partition of its priced part.
    pub fn pieces(self, window: Interval) -> impl Iterator<Item = (Interval, Price)> {
        let since = self.pool.and_then(SpotPrices::since).unwrap_or(INSTANT_MAX);
        let before = Interval::between(window.start(), window.end().min(since));
        let listed = before.into_iter().flat_map(|window| {
            let part = move |step: &PriceStep| Some((step.interval.intersection(window)?, step.price));
            self.prices.within(window).filter_map(part)
        });
        let pool = self.pool.into_iter().flat_map(move |pool| pool.within(window));
        listed
            .chain(pool)
            .map(move |(part, price)| (part, self.limit.map_or(price, |limit| price.min(limit))))
    }

    /// P-1: cuts the piece at each change of price and at each UTC hour. The cuts are in order of time
    /// and partition the priced part of the piece.
    pub fn cuts(self, piece: Interval) -> impl Iterator<Item = Cut> {
        self.pieces(piece).flat_map(|(part, price)| {
            part.by_hour().map(move |(hour, interval)| Cut { interval, hour, price })
        })
    }

    /// When the line `(hour, price)` collects usage: the parts of the hour at that price.
    pub fn line_domain(self, hour: Hour, price: Price) -> impl Iterator<Item = Interval> {
        self.pieces(hour.interval()).filter(move |(_, it)| *it == price).map(|(part, _)| part)
    }
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
            list: None,
            components: crate::Components::default(),
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
            let parts: Vec<Cut> = Tariff::of(&prices).cuts(piece).collect();
            prop_assert_eq!(parts.iter().map(|cut| cut.interval.milliseconds()).sum::<i64>(), length);
            prop_assert_eq!(parts.first().unwrap().interval.start(), piece.start());
            prop_assert!(parts.windows(2).all(|pair| pair[0].interval.end() == pair[1].interval.start()));
            for cut in &parts {
                prop_assert_eq!(prices.at(cut.interval.start()).unwrap().price, cut.price);
                for nanos in 1..=2 {
                    let price = Price::from_nanos(nanos).unwrap();
                    let inside = Tariff::of(&prices)
                        .line_domain(cut.hour, price)
                        .filter_map(|part| part.intersection(cut.interval))
                        .map(Interval::milliseconds)
                        .sum::<i64>();
                    prop_assert_eq!(inside, if price == cut.price { cut.interval.milliseconds() } else { 0 });
                }
            }
        }

        /// P-1 for spot, against an oracle that asks for one millisecond at a time: the list holds until
        /// the pool's first price, then the pool; and nothing costs more than the bid's limit.
        #[test]
        fn p1_spot_is_a_partition_below_the_limit(
            changes in btree_set(1..60_i64, 0..6),
            pool in proptest::collection::btree_map(0..60_i64, 0..9_i64, 0..8),
            limit in proptest::option::of(0..9_i64),
            start in 0..60_i64,
            length in 1..60_i64,
        ) {
            let price = |nanos| Price::from_nanos(nanos).unwrap();
            let (prices, mut spot) = (timeline(&changes), SpotPrices::default());
            for (from, nanos) in &pool {
                prop_assert!(spot.push(at(*from), price(*nanos)));
                prop_assert!(spot.last().unwrap().0 < at(*from) || !spot.push(at(*from), price(9)));
            }
            let limit = limit.map(price);
            let tariff = Tariff { prices: &prices, pool: Some(&spot), limit };
            let window = Interval::new(at(start), at(start + length)).unwrap();
            let pieces: Vec<_> = tariff.pieces(window).collect();
            prop_assert_eq!(pieces.first().unwrap().0.start(), window.start());
            prop_assert_eq!(pieces.last().unwrap().0.end(), window.end());
            prop_assert!(pieces.windows(2).all(|pair| pair[0].0.end() == pair[1].0.start()));
            for ms in start..start + length {
                let market = pool.range(..=ms).next_back().map(|(_, nanos)| *nanos);
                let listed = 1 + i64::try_from(changes.range(..=ms).count() % 2).unwrap();
                let uncapped = price(market.unwrap_or(listed));
                let expected = limit.map_or(uncapped, |limit| limit.min(uncapped));
                let (_, got) = pieces.iter().find(|(part, _)| part.contains(at(ms))).unwrap();
                prop_assert_eq!(*got, expected);
                prop_assert!(limit.is_none_or(|limit| *got <= limit));
            }
            let lines: i64 = (0..9)
                .flat_map(|nanos| tariff.line_domain(Hour::containing(at(0)), price(nanos)))
                .filter_map(|part| part.intersection(window))
                .map(Interval::milliseconds)
                .sum();
            prop_assert_eq!(lines, length);
        }
    }
}
