//! What a clearing changed for whoever watches prices.

use std::collections::BTreeMap;

use hourglass_capacity::auction::{Pool, PoolIx, PoolOutcome};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::core::market::Cleared;
use hourglass_units::{Currency, Price};

/// A pool as a clearing left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) pool: PoolName,
    /// Per GPU-hour.
    pub(crate) price: Price,
    /// GPUs that bids have.
    pub(crate) sold: u64,
    /// GPUs that nobody has.
    pub(crate) free: u64,
    /// GPUs for spot.
    pub(crate) supply: u64,
    /// Nobody pays less.
    pub(crate) reserve: Price,
    /// Bids that name the pool, at or above its reserve price.
    pub(crate) bids: u64,
    /// GPUs that they want at most.
    pub(crate) gpus_wanted: u64,
}

/// Price, GPUs that are sold and GPUs that are free, by pool: who has seen them need not be told again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen(BTreeMap<PoolName, (Price, u64, u64)>);

impl Seen {
    /// What there is to tell of a clearing.
    pub(crate) fn tell(&mut self, cleared: &Cleared) -> Vec<Tick> {
        self.changed(all(cleared))
    }

    /// What there is to tell of pools as a clearing left them.
    pub(crate) fn changed(&mut self, mut ticks: Vec<Tick>) -> Vec<Tick> {
        ticks.retain(|tick| {
            let now = (tick.price, tick.sold, tick.free);
            self.0.insert(tick.pool.clone(), now) != Some(now)
        });
        ticks
    }
}

/// All pools of a clearing, in the order of their names.
pub(crate) fn all(cleared: &Cleared) -> Vec<Tick> {
    let book = &cleared.receipt.book;
    let mut depth = vec![(0_u64, 0_u64); book.pools().len()];
    for bid in book.bids() {
        for PoolIx(pool) in &bid.pools {
            let at = usize::from(*pool);
            let offered = book.pools().get(at).is_some_and(|pool| bid.limit >= pool.reserve);
            if let Some((bids, gpus)) = depth.get_mut(at).filter(|_| offered) {
                *bids = bids.saturating_add(1);
                *gpus = gpus.saturating_add(bid.gpus(bid.max_units));
            }
        }
    }
    let of = |((pool, outcome), (bids, gpus_wanted)): ((&Pool, &PoolOutcome), (u64, u64))| Tick {
        pool: pool.name.clone(),
        price: outcome.price,
        sold: outcome.sold,
        free: outcome.free,
        supply: pool.supply,
        reserve: pool.reserve,
        bids,
        gpus_wanted,
    };
    book.pools().iter().zip(&cleared.receipt.clearing.pools).zip(depth).map(of).collect()
}

/// The currency of a pool's prices.
pub(crate) fn currency_of(state: &State, pool: &PoolName) -> Option<Currency> {
    state.market().pool(pool).map(|pool| pool.terms.currency)
}
