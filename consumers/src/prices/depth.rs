//! The demand for a pool by limit price, as its last clearing saw it. Pure.
//!
//! No bid is told apart: what is shown are price levels. Where bids have more than [`DEPTH_LEVELS_MAX`] limits, levels
//! are that many equal steps of price, and a level holds all limits from it up to the next one.

use std::collections::BTreeMap;

use hourglass_capacity::auction::PoolIx;
use hourglass_capacity::auction::receipt::Receipt;
use hourglass_capacity::pool::PoolName;
use hourglass_units::Price;

/// Most price levels.
pub const DEPTH_LEVELS_MAX: usize = 64;

/// What is wanted at a price level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// The least limit of it.
    pub(crate) limit: Price,
    pub(crate) bids: u64,
    /// GPUs that these bids want at most.
    pub(crate) wanted: u64,
    /// Of them, those that they have in this pool.
    pub(crate) sold: u64,
    /// GPUs that bids want which pay as much or more.
    pub(crate) wanted_from_here: u64,
}

/// Price levels of a pool, the highest first; `None` where it was not cleared.
pub(crate) fn depth(receipt: &Receipt, pool: &PoolName) -> Option<Vec<Level>> {
    let ix = receipt.book.pools().iter().position(|it| it.name == *pool)?;
    let ix = PoolIx(u16::try_from(ix).ok()?);
    let bids = receipt.book.bids().iter().zip(&receipt.clearing.bids);
    let offers = bids.filter(|(bid, _)| bid.pools.contains(&ix)).map(|(bid, outcome)| {
        let units = outcome.won().filter(|(won, _)| *won == ix).map_or(0, |(_, units)| units);
        (bid.limit, bid.gpus(bid.max_units), bid.gpus(units))
    });
    Some(levels(offers))
}

/// Levels of offers: a limit, GPUs that are wanted, and GPUs of them that are had.
fn levels(offers: impl Iterator<Item = (Price, u64, u64)>) -> Vec<Level> {
    let mut by_limit: BTreeMap<Price, (u64, u64, u64)> = BTreeMap::new();
    let add = |to: &mut (u64, u64, u64), (bids, wanted, sold): (u64, u64, u64)| {
        (to.0, to.1) = (to.0.saturating_add(bids), to.1.saturating_add(wanted));
        to.2 = to.2.saturating_add(sold);
    };
    for (limit, wanted, sold) in offers {
        add(by_limit.entry(limit).or_default(), (1, wanted, sold));
    }
    if by_limit.len() > DEPTH_LEVELS_MAX
        && let (Some((lowest, _)), Some((highest, _))) =
            (by_limit.first_key_value(), by_limit.last_key_value())
    {
        let (lowest, range) = (lowest.nanos(), highest.nanos().saturating_sub(lowest.nanos()));
        let levels = i64::try_from(DEPTH_LEVELS_MAX).unwrap_or(i64::MAX);
        // The highest limit is within the last step: one more than fits.
        let width = range.checked_div(levels).unwrap_or_default().saturating_add(1);
        let mut wide: BTreeMap<Price, (u64, u64, u64)> = BTreeMap::new();
        for (limit, all) in by_limit {
            let above = limit.nanos().saturating_sub(lowest);
            let start = limit.nanos().saturating_sub(above.checked_rem(width).unwrap_or_default());
            add(wide.entry(Price::from_nanos(start).unwrap_or(limit)).or_default(), all);
        }
        by_limit = wide;
    }
    let mut from_here = 0_u64;
    let of = |(limit, (bids, wanted, sold)): (Price, (u64, u64, u64))| {
        from_here = from_here.saturating_add(wanted);
        Level { limit, bids, wanted, sold, wanted_from_here: from_here }
    };
    by_limit.into_iter().rev().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourglass_capacity::auction::{Bid, Book, BookDraft, Mode, Pool, Unlimited};
    use hourglass_units::Percent;

    fn price(nanos: i64) -> Price {
        Price::from_nanos(nanos).unwrap()
    }

    #[test]
    fn levels_are_what_bids_of_the_pool_want() {
        let pool = |fabric: &str| Pool {
            name: format!("eu/h100/{fabric}").parse().unwrap(),
            supply: 4,
            reserve: price(5),
            mode: Mode::Greedy,
            gang_max: Percent::WHOLE,
        };
        let bid = |number, pools: &[u16], units, limit| Bid {
            number,
            pools: pools.iter().map(|ix| PoolIx(*ix)).collect(),
            gpus_per_unit: 2,
            min_units: 1,
            max_units: units,
            limit: price(limit),
            running: None,
        };
        let bids = vec![
            bid(1, &[0], 1, 30),
            bid(2, &[0, 1], 3, 20),
            bid(3, &[1], 9, 50),
            bid(4, &[0], 1, 20),
            bid(5, &[0], 2, 1),
        ];
        let draft = BookDraft { pools: vec![pool("a"), pool("b")], margin: Percent::ZERO, bids };
        let receipt = Receipt::of(Book::new(draft).unwrap(), &mut Unlimited);
        let level = |limit, bids, wanted, sold, wanted_from_here| Level {
            limit: price(limit),
            bids,
            wanted,
            sold,
            wanted_from_here,
        };
        let found = depth(&receipt, &"eu/h100/a".parse().unwrap()).unwrap();
        assert_eq!(found, [level(30, 1, 2, 2, 2), level(20, 2, 8, 2, 10), level(1, 1, 4, 0, 14)]);
        assert_eq!(depth(&receipt, &"eu/h100/c".parse().unwrap()), None);
    }

    #[test]
    fn many_limits_become_so_many_levels_and_nothing_is_lost() {
        for count in [1_u64, 64, 65, 66, 127, 1_000] {
            let offers = (0..count).map(|n| (price(1_000 + 7 * n as i64), n + 1, n));
            let found = levels(offers);
            assert!(
                found.len() <= DEPTH_LEVELS_MAX && found.len() as u64 >= count.min(32),
                "{count}: {}",
                found.len()
            );
            assert_eq!(found.iter().map(|it| it.bids).sum::<u64>(), count);
            assert_eq!(found.iter().map(|it| it.sold).sum::<u64>(), count * (count - 1) / 2);
            let last = found.last().unwrap();
            assert_eq!((last.limit, last.wanted_from_here), (price(1_000), count * (count + 1) / 2));
            assert!(found.windows(2).all(|pair| pair[0].limit > pair[1].limit));
        }
    }
}
