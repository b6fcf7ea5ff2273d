//! The whole input of one clearing, checked once.

use hourglass_units::{Percent, Price};
use serde::{Deserialize, Serialize};

use super::index::{BidIx, PoolIx};
use crate::pool::PoolName;

/// Most pools of a book.
pub const POOLS_MAX: usize = 1 << 12;
/// Most bids of a book.
pub const BIDS_MAX: usize = 1 << 20;
/// Most pools that one bid names.
pub const POOLS_PER_BID_MAX: usize = 16;
/// Most GPUs of a pool.
pub const SUPPLY_MAX: u64 = 1 << 32;
/// Most GPUs of one unit.
pub const GPUS_PER_UNIT_MAX: u32 = 1 << 10;
/// Most units of one bid.
pub const UNITS_MAX: u32 = 1 << 20;
/// By how much a bid must exceed what runs to displace it, where the operator says nothing: ten percent,
/// in parts per million.
pub const MARGIN_DEFAULT_PPM: u32 = 100_000;

/// How a pool decides who wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By a walk down the limits: stable, without envy, for pools of any size.
    Greedy,
    /// By the largest sum of limits: for small pools, where a walk may waste a gap.
    Exact,
}

/// What a pool offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Which.
    pub name: PoolName,
    /// GPUs that are for spot now, those that spot runs on included.
    pub supply: u64,
    /// Nobody pays less.
    pub reserve: Price,
    /// How it decides.
    pub mode: Mode,
    /// A gang larger than this share of the supply is refused. A single unit is no gang, and what runs
    /// stays when the supply shrinks.
    pub gang_max: Percent,
}

impl Pool {
    /// The largest gang, in GPUs.
    pub fn gang_gpus_max(&self) -> u64 {
        let parts = u128::from(self.supply).saturating_mul(u128::from(self.gang_max.ppm()));
        u64::try_from(parts / u128::from(Percent::WHOLE.ppm())).unwrap_or(u64::MAX)
    }
}

/// What a bid was given by the last clearing and did not give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Where.
    pub pool: PoolIx,
    /// How many units.
    pub units: u32,
}

/// A bid, as far as it decides something. Whose it is, only the log knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// The position in the log that placed it: the earlier bid wins a tie.
    pub number: u64,
    /// Where it may run: of pools with room for as many of its units, the first one counts.
    pub pools: Vec<PoolIx>,
    /// GPUs of a unit.
    pub gpus_per_unit: u32,
    /// The gang: so many units or none.
    pub min_units: u32,
    /// The most that it wants.
    pub max_units: u32,
    /// The most that it pays for a GPU-hour.
    pub limit: Price,
    /// What runs.
    pub running: Option<Running>,
}

impl Bid {
    /// GPUs of so many units.
    pub fn gpus(&self, units: u32) -> u64 {
        u64::from(self.gpus_per_unit).saturating_mul(u64::from(units))
    }

    /// GPUs of the gang.
    pub fn core_gpus(&self) -> u64 {
        self.gpus(self.min_units)
    }

    /// How many units find room in so many GPUs: none, if the gang does not.
    pub(super) fn units_within(&self, gpus: u64, most: u32) -> u32 {
        let units = gpus.checked_div(u64::from(self.gpus_per_unit)).unwrap_or(0);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(most);
        if units < self.min_units { 0 } else { units }
    }

    /// Whether it runs in the pool.
    pub(super) fn runs_in(&self, pool: PoolIx) -> bool {
        self.running.is_some_and(|running| running.pool == pool)
    }

    /// Whether its gang is larger than the pool allows a newcomer.
    pub(super) fn is_too_large_for(&self, pool: &Pool) -> bool {
        self.min_units > 1 && self.core_gpus() > pool.gang_gpus_max()
    }
}

/// What a book is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookDraft {
    /// In the order of their names.
    pub pools: Vec<Pool>,
    /// By how much a bid must exceed what runs to displace it.
    pub margin: Percent,
    /// In any order.
    pub bids: Vec<Bid>,
}

/// A book that cannot be cleared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// More than [`POOLS_MAX`].
    #[error("{count} pools: at most {POOLS_MAX} are cleared together")]
    TooManyPools {
        /// So many.
        count: usize,
    },
    /// More than [`BIDS_MAX`].
    #[error("{count} bids: at most {BIDS_MAX} are cleared together")]
    TooManyBids {
        /// So many.
        count: usize,
    },
    /// Out of order, or twice.
    #[error("pool {name} stands after one that is not before it: give pools once and in the order of names")]
    PoolOrder {
        /// The later one.
        name: PoolName,
    },
    /// More than [`SUPPLY_MAX`].
    #[error("pool {name} offers {supply} GPUs: at most {SUPPLY_MAX} are allowed")]
    Supply {
        /// Which.
        name: PoolName,
        /// So many.
        supply: u64,
    },
    /// Two bids with one number.
    #[error("two bids have the number {number}: give each the position that placed it")]
    DuplicateBid {
        /// Theirs.
        number: u64,
    },
    /// No pool, or more than [`POOLS_PER_BID_MAX`].
    #[error("bid {number} names {count} pools: name 1 to {POOLS_PER_BID_MAX}")]
    PoolCount {
        /// Of the bid.
        number: u64,
        /// So many.
        count: usize,
    },
    /// A pool that the book has not.
    #[error("bid {number} names pool {pool}, and the book has not so many: leave out pools that are gone")]
    UnknownPool {
        /// Of the bid.
        number: u64,
        /// The pool.
        pool: PoolIx,
    },
    /// A pool named twice.
    #[error("bid {number} names pool {pool} twice: once is enough")]
    DuplicatePool {
        /// Of the bid.
        number: u64,
        /// The pool.
        pool: PoolIx,
    },
    /// No GPUs in a unit, or more than [`GPUS_PER_UNIT_MAX`].
    #[error("bid {number} has units of {gpus} GPUs: 1 to {GPUS_PER_UNIT_MAX} are allowed")]
    UnitSize {
        /// Of the bid.
        number: u64,
        /// GPUs of a unit.
        gpus: u32,
    },
    /// No units, fewer at most than at least, or more than [`UNITS_MAX`].
    #[error(
        "bid {number} wants {min} to {max} units: at least 1, at most {UNITS_MAX}, the smaller one first"
    )]
    Units {
        /// Of the bid.
        number: u64,
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// It runs where it would not run again.
    #[error(
        "bid {number} runs in pool {pool}, which it does not name: end what runs there first, or name it"
    )]
    RunsElsewhere {
        /// Of the bid.
        number: u64,
        /// The pool.
        pool: PoolIx,
    },
    /// It runs with fewer units than its gang, or with more than it wants.
    #[error(
        "bid {number} runs with {units} units and wants {min} to {max}: end what it does not want first; a gang that is incomplete does not run"
    )]
    RunsOtherwise {
        /// Of the bid.
        number: u64,
        /// What runs.
        units: u32,
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
}

/// A checked [`BookDraft`], its bids in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BookDraft")]
pub struct Book(BookDraft);

impl Book {
    /// Checks a draft: the limits of counts first, then pools, then bids in the order of their numbers.
    pub fn new(mut draft: BookDraft) -> Result<Self, BookError> {
        let (pools, bids) = (draft.pools.len(), draft.bids.len());
        if pools > POOLS_MAX {
            return Err(BookError::TooManyPools { count: pools });
        }
        if bids > BIDS_MAX {
            return Err(BookError::TooManyBids { count: bids });
        }
        check_pools(&draft.pools)?;
        // Nearly always it is in order already.
        draft.bids.sort_by_key(|bid| bid.number);
        let mut before = None;
        for bid in &draft.bids {
            if before == Some(bid.number) {
                return Err(BookError::DuplicateBid { number: bid.number });
            }
            before = Some(bid.number);
            check_bid(bid, pools)?;
        }
        Ok(Self(draft))
    }

    /// The pools, in the order of their names.
    pub fn pools(&self) -> &[Pool] {
        &self.0.pools
    }

    /// The bids, in the order of their numbers.
    pub fn bids(&self) -> &[Bid] {
        &self.0.bids
    }

    /// By how much a bid must exceed what runs to displace it.
    pub fn margin(&self) -> Percent {
        self.0.margin
    }

    /// The pool of a name.
    pub fn find_pool(&self, name: &PoolName) -> Option<PoolIx> {
        let at = self.0.pools.binary_search_by(|pool| pool.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(PoolIx)
    }

    /// The bid of a number.
    pub fn find_bid(&self, number: u64) -> Option<BidIx> {
        let at = self.0.bids.binary_search_by_key(&number, |bid| bid.number).ok()?;
        u32::try_from(at).ok().map(BidIx)
    }

    /// What it was made of, to change it and check it again.
    pub fn into_draft(self) -> BookDraft {
        self.0
    }

    /// All pools with their numbers.
    pub(super) fn pools_by_ix(&self) -> impl Iterator<Item = (PoolIx, &Pool)> {
        PoolIx::below(self.0.pools.len()).zip(&self.0.pools)
    }

    /// All bids with their numbers.
    pub(super) fn bids_by_ix(&self) -> impl Iterator<Item = (BidIx, &Bid)> {
        BidIx::below(self.0.bids.len()).zip(&self.0.bids)
    }

    #[expect(clippy::indexing_slicing, reason = "the number is one of this book")]
    pub(super) fn pool(&self, ix: PoolIx) -> &Pool {
        &self.0.pools[ix.index()]
    }

    #[expect(clippy::indexing_slicing, reason = "the number is one of this book")]
    pub(super) fn bid(&self, ix: BidIx) -> &Bid {
        &self.0.bids[ix.index()]
    }
}

impl TryFrom<BookDraft> for Book {
    type Error = BookError;

    fn try_from(draft: BookDraft) -> Result<Self, BookError> {
        Self::new(draft)
    }
}

fn check_pools(pools: &[Pool]) -> Result<(), BookError> {
    let mut before: Option<&Pool> = None;
    for pool in pools {
        if before.is_some_and(|before| before.name >= pool.name) {
            return Err(BookError::PoolOrder { name: pool.name.clone() });
        }
        if pool.supply > SUPPLY_MAX {
            return Err(BookError::Supply { name: pool.name.clone(), supply: pool.supply });
        }
        before = Some(pool);
    }
    Ok(())
}

fn check_bid(bid: &Bid, pools: usize) -> Result<(), BookError> {
    let number = bid.number;
    let count = bid.pools.len();
    if count == 0 || count > POOLS_PER_BID_MAX {
        return Err(BookError::PoolCount { number, count });
    }
    for (at, pool) in bid.pools.iter().enumerate() {
        if pool.index() >= pools {
            return Err(BookError::UnknownPool { number, pool: *pool });
        }
        if bid.pools.iter().take(at).any(|before| before == pool) {
            return Err(BookError::DuplicatePool { number, pool: *pool });
        }
    }
    if bid.gpus_per_unit == 0 || bid.gpus_per_unit > GPUS_PER_UNIT_MAX {
        return Err(BookError::UnitSize { number, gpus: bid.gpus_per_unit });
    }
    let (min, max) = (bid.min_units, bid.max_units);
    if min == 0 || min > max || max > UNITS_MAX {
        return Err(BookError::Units { number, min, max });
    }
    if let Some(Running { pool, units }) = bid.running {
        if !bid.pools.contains(&pool) {
            return Err(BookError::RunsElsewhere { number, pool });
        }
        if units < min || units > max {
            return Err(BookError::RunsOtherwise { number, units, min, max });
        }
    }
    Ok(())
}
