//! What a clearing says.

use hourglass_units::Price;
use serde::{Deserialize, Serialize};

use super::allowance::Refusal;
use super::index::{BidIx, PoolIx};

/// The outcome of one clearing, by pool and by bid in the order of the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clearing {
    /// By pool.
    pub pools: Vec<PoolOutcome>,
    /// By bid.
    pub bids: Vec<BidOutcome>,
    /// all that stops, each with its one cause, in the order of bids.
    pub preemptions: Vec<Preemption>,
    /// Whose GPUs go to whom, by pool and in the order in which newcomers took theirs.
    pub handovers: Vec<Handover>,
}

impl Clearing {
    /// What became of a pool.
    pub fn pool(&self, ix: PoolIx) -> Option<&PoolOutcome> {
        self.pools.get(ix.index())
    }

    /// What became of a bid.
    pub fn bid(&self, ix: BidIx) -> Option<&BidOutcome> {
        self.bids.get(ix.index())
    }
}

/// How a pool was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleared {
    /// By the walk, as it should.
    Greedily,
    /// By the programme, as it should.
    Exactly,
    /// By the walk: its supply is above [`super::EXACT_SUPPLY_MAX`].
    GreedilyForItsSupply,
    /// By the walk: its bids have more choices than [`super::EXACT_CHOICES_MAX`].
    GreedilyForItsBids,
    /// By the walk: a bid names another pool beside it.
    GreedilyForSharedBids,
}

/// What became of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOutcome {
    /// What each winner pays for a GPU-hour.
    pub price: Price,
    /// GPUs that winners have.
    pub sold: u64,
    /// GPUs that nobody has.
    pub free: u64,
    /// How it was cleared.
    pub cleared: Cleared,
}

/// What became of a bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BidOutcome {
    /// It has something.
    Won {
        /// Where.
        pool: PoolIx,
        /// How many units.
        units: u32,
        /// Why not as many as it wants.
        short: Option<Short>,
    },
    /// It has nothing.
    Lost {
        /// Why.
        reason: Reason,
        /// The least limit with which it would have won, as far as capacity and reserve prices decide.
        /// `None` if no limit helps, or capacity was not what it lacked.
        wins_at: Option<Price>,
    },
}

impl BidOutcome {
    /// The pool and the units that it has.
    pub fn won(&self) -> Option<(PoolIx, u32)> {
        match self {
            Self::Won { pool, units, .. } => Some((*pool, *units)),
            Self::Lost { .. } => None,
        }
    }
}

/// Why a winner has fewer units than it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Short {
    /// No more GPUs were left at its turn.
    Capacity,
    /// No more was allowed.
    Refused(Refusal),
}

/// Why a bid lost: of all its pools the one where it came furthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There was room, and it was not allowed.
    Refused(Refusal),
    /// Higher limits took the GPUs.
    Outbid,
    /// Not enough GPUs were left for its gang, though some were.
    NoRoom,
    /// Its limit is below each reserve price.
    BelowReserve {
        /// The lowest one.
        reserve: Price,
    },
    /// Its gang is larger than any of its pools allows.
    TooLarge {
        /// The largest gang that one allows, in GPUs.
        gpus_max: u64,
    },
}

/// Units that stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// Whose.
    pub bid: BidIx,
    /// Where they run.
    pub pool: PoolIx,
    /// How many.
    pub units: u32,
    /// The one cause.
    pub cause: Cause,
}

/// Why units stop. If a bid loses units for two causes, there are two preemptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A newcomer took the GPUs.
    Outbid {
        /// The last one that goes before the victim.
        by: BidIx,
    },
    /// What runs alone does not fit the supply any more.
    SupplyReclaimed,
    /// The limit is below the new reserve price.
    ReserveRaised,
    /// A limit of GPUs.
    Quota,
    /// A limit of money.
    Budget,
}

/// GPUs that a victim leaves to a newcomer: nobody else gets them while they drain. What a newcomer has
/// beyond its handovers was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Where.
    pub pool: PoolIx,
    /// The victim.
    pub from: BidIx,
    /// The successor.
    pub to: BidIx,
    /// How many GPUs.
    pub gpus: u64,
}
