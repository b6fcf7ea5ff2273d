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
//! it. A walk does not leave out a gang to fill a gap, because that gang would envy those who fill it (A-6).
//! And bids go to the pool that they prefer, though it may be the only one of another bid.

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
struct Demand {
    limit: u64,
    gpus: u64,
    /// The pools that it may enter.
    pools: Vec<PoolIx>,
}

impl Demand {
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
    let demands = demands(book);
    let mut prices = fluid_prices(book, &demands);
    let mut bound = bound_at(book, &demands, &prices);
    let mut by_pool: PerPool<Vec<&Demand>> = PerPool::of(book.pools().len(), Vec::new());
    for demand in &demands {
        for pool in &demand.pools {
            by_pool[*pool].push(demand);
        }
    }
    for _ in 0..ROUNDS_MAX {
        for (pool, offer) in book.pools_by_ix() {
            prices[pool] = best_price(offer.supply, &by_pool[pool], &prices, pool);
        }
        let better = bound_at(book, &demands, &prices);
        if better >= bound {
            break;
        }
        bound = better;
    }
    bound
}

/// All bids that may win somewhere, the highest limit first.
fn demands(book: &Book) -> Vec<Demand> {
    let demand = |bid: &'_ Bid| -> Vec<PoolIx> {
        let may_enter = |pool: &PoolIx| {
            let offer = book.pool(*pool);
            bid.limit >= offer.reserve && (bid.runs_in(*pool) || !bid.is_too_large_for(offer))
        };
        bid.pools.iter().copied().filter(may_enter).collect()
    };
    let all = book.bids().iter().map(|bid| {
        let (limit, gpus, pools) = (nanos(bid.limit), bid.gpus(bid.max_units), demand(bid));
        Demand { limit, gpus, pools }
    });
    let mut all: Vec<Demand> = all.filter(|demand| !demand.pools.is_empty()).collect();
    all.sort_by_key(|demand| Reverse(demand.limit));
    all
}

/// The first limit that each pool leaves unfilled, if bids can be cut anywhere.
fn fluid_prices(book: &Book, demands: &[Demand]) -> PerPool<u64> {
    let mut free: PerPool<u64> = PerPool(book.pools().iter().map(|pool| pool.supply).collect());
    let mut prices: PerPool<Option<u64>> = PerPool::of(book.pools().len(), None);
    for Demand { limit, gpus, pools } in demands {
        let mut wants = *gpus;
        for pool in pools {
            let takes = wants.min(free[*pool]);
            free[*pool] = free[*pool].saturating_sub(takes);
            wants = wants.saturating_sub(takes);
        }
        if wants > 0 {
            for pool in pools {
                prices[*pool].get_or_insert(*limit);
            }
        }
    }
    PerPool(prices.0.into_iter().map(|price| price.unwrap_or(0)).collect())
}

/// The price of a pool that makes the bound least, beside the prices of the others. Below it, bids for more
/// GPUs than there are would be better off elsewhere or nowhere.
fn best_price(supply: u64, demands: &[&Demand], prices: &PerPool<u64>, pool: PoolIx) -> u64 {
    let leaves_at = |demand: &&Demand| (demand.limit.min(demand.least(prices, Some(pool))), demand.gpus);
    let mut leave: Vec<(u64, u64)> = demands.iter().map(leaves_at).collect();
    leave.sort_unstable_by(|one, other| other.cmp(one));
    let mut wanted = 0_u64;
    for (price, gpus) in leave {
        wanted = wanted.saturating_add(gpus);
        if wanted >= supply {
            return price;
        }
    }
    0
}

fn bound_at(book: &Book, demands: &[Demand], prices: &PerPool<u64>) -> u128 {
    let pools = book.pools_by_ix().map(|(pool, offer)| worth(prices[pool], offer.supply));
    let bids = demands.iter().map(|it| worth(it.limit.saturating_sub(it.least(prices, None)), it.gpus));
    pools.chain(bids).fold(0, u128::saturating_add)
}
