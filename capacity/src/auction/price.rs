//! The price of a pool, read off the outcome alone.
//!
//! Nothing here looks at what ran before, so clearing again on the outcome gives the same price.

use hourglass_units::Price;

use super::allowance::{self, Allowance};
use super::book::{Bid, Book};
use super::greedy::{Floor, Place};
use super::index::{BidIx, PerPool, PoolIx};
use super::rank::{ONCE, nanos};

/// The winners of each pool, by limit.
pub(super) struct Winners {
    boost: u128,
    /// By pool, the highest limit first: the limit in nanos, and the GPUs of all winners down to it.
    by_pool: PerPool<Vec<(u128, u64)>>,
}

impl Winners {
    pub(super) fn new(book: &Book, boost: u128, won: impl Iterator<Item = (BidIx, Place)>) -> Self {
        let mut by_pool = PerPool::of(book.pools().len(), Vec::new());
        for (ix, Place { pool, units }) in won {
            let bid = book.bid(ix);
            by_pool[pool].push((nanos(bid.limit), bid.gpus(units)));
        }
        for winners in &mut by_pool.0 {
            winners.sort_unstable_by(|one, other| other.cmp(one));
            let mut sum = 0_u64;
            for (_, gpus) in winners.iter_mut() {
                sum = sum.saturating_add(*gpus);
                *gpus = sum;
            }
        }
        Self { boost, by_pool }
    }

    /// GPUs of all winners of a pool.
    pub(super) fn sold(&self, pool: PoolIx) -> u64 {
        self.by_pool[pool].last().map_or(0, |(_, sum)| *sum)
    }

    /// The lowest limit of a winner, in nanos.
    fn lowest(&self, pool: PoolIx) -> Option<u128> {
        self.by_pool[pool].last().map(|(limit, _)| *limit)
    }

    /// How many winners outrank a newcomer of this limit, now that they run, and how many GPUs they have.
    pub(super) fn outranking(&self, pool: PoolIx, limit: Price) -> (usize, u64) {
        let key = nanos(limit).saturating_mul(ONCE);
        let winners = &self.by_pool[pool];
        let count = winners.partition_point(|(limit, _)| limit.saturating_mul(self.boost) >= key);
        let gpus = count.checked_sub(1).and_then(|last| winners.get(last)).map_or(0, |(_, sum)| *sum);
        (count, gpus)
    }

    /// Whether capacity turned a bid away, and not the size of its gang alone: beside the winners that
    /// outrank it, less than one of its units is free.
    pub(super) fn turn_away(&self, book: &Book, pool: PoolIx, bid: &Bid) -> bool {
        let (_, gpus) = self.outranking(pool, bid.limit);
        book.pool(pool).supply.saturating_sub(gpus) < u64::from(bid.gpus_per_unit)
    }
}

/// The price of each pool: see [`super`] for what counts.
pub(super) fn prices(floor: &Floor<'_>, winners: &Winners, allowance: &mut dyn Allowance) -> PerPool<Price> {
    let book = floor.book;
    let mut highest: PerPool<Price> = PerPool(book.pools().iter().map(|pool| pool.reserve).collect());
    for (ix, bid) in book.bids_by_ix() {
        let won = floor.fates[ix].won;
        let (pools, units) = match &won {
            Some(Place { units, .. }) if *units == bid.max_units => continue,
            Some(Place { pool, .. }) => (std::slice::from_ref(pool), 1),
            None => (bid.pools.as_slice(), bid.min_units),
        };
        for pool in pools {
            let counts = bid.limit > highest[*pool]
                && !bid.is_too_large_for(book.pool(*pool))
                && winners.turn_away(book, *pool, bid)
                && allowance::would_pass(allowance, ix, *pool, units);
            if counts {
                highest[*pool] = bid.limit;
            }
        }
    }
    for (pool, _) in book.pools_by_ix() {
        let lowest = winners.lowest(pool).filter(|lowest| *lowest < nanos(highest[pool]));
        if let Some(lowest) = lowest.and_then(super::rank::price) {
            highest[pool] = lowest;
        }
    }
    highest
}
