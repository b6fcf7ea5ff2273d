//! How good a clearing is, and how good any could have been.
//!
//! Welfare is Σ limit × GPUs won. No clearing has more than
//!
//! ```text
//! Σ over pools π × supply  +  Σ over bids most GPUs × max(0, limit − the least π of its pools)
//! ```
//!
//! whatever prices π ≥ 0 are put in (weak duality of linear programmes): each GPU that a bid wins is worth
//! its limit, which is at most the π of the pool, counted on the left, and what the limit exceeds it by,
//! counted on the right. Only pools that a bid may enter count. Good π make the bound tight: see [`bound`].
//!
//! What a clearing lacks of the bound has three causes. Gangs cannot be cut, so even the best choice is below
//! it. A walk does not leave out a gang or a unit to fill a gap, because they would envy those who fill it (A-6).
//! And bids go to the pool that is best for them, though it may be the only one of another bid.

use std::cmp::Reverse;

use hourglass_units::{Percent, Price};
use serde::{Deserialize, Serialize};

use super::book::{Bid, Book};
use super::index::{PerPool, PoolIx};
use super::outcome::Clearing;

/// How often the prices of the bound are improved.
const ROUNDS_MAX: usize = 4;

/// What a clearing reached, in nano-currency an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welfare {
    /// Σ limit × GPUs of all winners.
    pub reached: u128,
    /// No clearing of this book has more.
    pub bound: u128,
}

impl Welfare {
    /// Of a clearing of this book.
    pub fn of(book: &Book, clearing: &Clearing) -> Self {
        let outcomes = book.bids().iter().zip(&clearing.bids);
        let reached = outcomes.filter_map(|(bid, outcome)| Some((bid, outcome.won()?.1)));
        let reached = reached.map(|(bid, units)| worth(nanos(bid.limit), bid.gpus(units)));
        Self { reached: reached.fold(0, u128::saturating_add), bound: bound(book) }
    }

    /// The share of the bound that was reached, rounded down.
    pub fn ratio(&self) -> Percent {
        let whole = u128::from(Percent::WHOLE.ppm());
        let ppm = self.reached.saturating_mul(whole).checked_div(self.bound).unwrap_or(whole);
        u32::try_from(ppm).ok().and_then(|ppm| Percent::from_ppm(ppm).ok()).unwrap_or(Percent::WHOLE)
    }
}

/// Never below 0.
fn nanos(price: Price) -> u64 {
    u64::try_from(price.nanos()).unwrap_or(0)
}

fn worth(nanos: u64, gpus: u64) -> u128 {
    u128::from(nanos).saturating_mul(u128::from(gpus))
}

/// A bid as the bound sees it.
#[derive(Debug, Clone, Copy)]
struct Demand<'a> {
    limit: u64,
    gpus: u64,
    /// The pools that it may enter.
    pools: &'a [PoolIx],
}

impl Demand<'_> {
    /// The least price of its pools, but for one of them.
    fn least(&self, prices: &PerPool<u64>, but_for: Option<PoolIx>) -> u64 {
        let others = self.pools.iter().filter(|pool| Some(**pool) != but_for);
        others.map(|pool| prices[*pool]).min().unwrap_or(u64::MAX)
    }
}

/// An upper bound of the welfare of all clearings of a book.
///
/// The prices come from a walk that may cut bids anywhere, over pools and within units: the price of a pool
/// is the first limit that it leaves unfilled. Then pool by pool, the price is set to the best one beside
/// the others, as long as that improves the bound.
pub fn bound(book: &Book) -> u128 {
    let mut entered = Vec::new();
    let demands = demands(book, &mut entered);
    let mut prices = fluid_prices(book, &demands);
    let mut bound = bound_at(book, &demands, &prices);
    let mut by_pool: PerPool<Vec<Demand<'_>>> = PerPool::of(book.pools().len(), Vec::new());
    for demand in &demands {
        for pool in demand.pools {
            by_pool[*pool].push(*demand);
        }
    }
    let mut leave = Vec::new();
    for _ in 0..ROUNDS_MAX {
        for (pool, offer) in book.pools_by_ix() {
            leave.clear();
            leave.extend(
                by_pool[pool].iter().map(|it| (it.limit.min(it.least(&prices, Some(pool))), it.gpus)),
            );
            prices[pool] = price_that_fills(offer.supply, &mut leave);
        }
        let better = bound_at(book, &demands, &prices);
        if better >= bound {
            break;
        }
        bound = better;
    }
    bound
}

/// All bids that may win somewhere, the highest limit first. Their pools lie one after the other in `entered`:
/// a list for each bid would cost more than all the rest.
fn demands<'a>(book: &Book, entered: &'a mut Vec<PoolIx>) -> Vec<Demand<'a>> {
    let may_enter = |bid: &Bid, pool: &PoolIx| {
        let offer = book.pool(*pool);
        bid.limit >= offer.reserve && (bid.runs_in(*pool) || !bid.is_too_large_for(offer))
    };
    let mut counts = Vec::with_capacity(book.bids().len());
    for bid in book.bids() {
        let before = entered.len();
        entered.extend(bid.pools.iter().copied().filter(|pool| may_enter(bid, pool)));
        counts.push(entered.len().saturating_sub(before));
    }
    let mut rest = entered.as_slice();
    let mut all = Vec::with_capacity(book.bids().len());
    for (bid, count) in book.bids().iter().zip(counts) {
        let (pools, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        rest = others;
        if !pools.is_empty() {
            all.push(Demand { limit: nanos(bid.limit), gpus: bid.gpus(bid.max_units), pools });
        }
    }
    all.sort_by_key(|demand| Reverse(demand.limit));
    all
}

/// The first limit that each pool leaves unfilled, if bids can be cut anywhere.
fn fluid_prices(book: &Book, demands: &[Demand<'_>]) -> PerPool<u64> {
    let mut free: PerPool<u64> = PerPool(book.pools().iter().map(|pool| pool.supply).collect());
    let mut prices: PerPool<Option<u64>> = PerPool::of(book.pools().len(), None);
    for Demand { limit, gpus, pools } in demands {
        let mut wants = *gpus;
        for pool in *pools {
            let takes = wants.min(free[*pool]);
            free[*pool] = free[*pool].saturating_sub(takes);
            wants = wants.saturating_sub(takes);
        }
        if wants > 0 {
            for pool in *pools {
                prices[*pool].get_or_insert(*limit);
            }
        }
    }
    PerPool(prices.0.into_iter().map(|price| price.unwrap_or(0)).collect())
}

/// The price of a pool that makes the bound least, beside the prices of the others: below it, bids for more
/// GPUs than there are would be better off here than elsewhere or nowhere. Each bid is given by the price at
/// which it leaves, and its GPUs.
///
/// It is found by halving: what is dearer than the middle fills the pool, or it does not. That takes linear
/// time, where sorting took most of the time of a clearing.
fn price_that_fills(supply: u64, leave: &mut [(u64, u64)]) -> u64 {
    if supply == 0 {
        return leave.iter().map(|(price, _)| *price).max().unwrap_or(0);
    }
    let (mut rest, mut filled) = (leave, 0_u64);
    while !rest.is_empty() {
        let middle = rest.len() / 2;
        let (dearer, (price, gpus), cheaper) =
            rest.select_nth_unstable_by_key(middle, |(price, _)| Reverse(*price));
        let by_dearer = dearer.iter().fold(filled, |sum, (_, gpus)| sum.saturating_add(*gpus));
        if by_dearer >= supply {
            rest = dearer;
            continue;
        }
        filled = by_dearer.saturating_add(*gpus);
        if filled >= supply {
            return *price;
        }
        rest = cheaper;
    }
    0
}

fn bound_at(book: &Book, demands: &[Demand<'_>], prices: &PerPool<u64>) -> u128 {
    let pools = book.pools_by_ix().map(|(pool, offer)| worth(prices[pool], offer.supply));
    let bids = demands.iter().map(|it| worth(it.limit.saturating_sub(it.least(prices, None)), it.gpus));
    pools.chain(bids).fold(0, u128::saturating_add)
}
