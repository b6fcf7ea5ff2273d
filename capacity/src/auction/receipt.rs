//! Receipts: all that a clearing depended on, so that anyone can run it again.
//!
//! A receipt has no names in it but those of pools; bids go by number, refusals by bid. Its encoding is
//! that of its fields in their order. Who keeps it hashes those bytes.

use serde::{Deserialize, Serialize};

use super::allowance::{Allowance, Recorded, Recorder, Refused};
use super::book::{Bid, Book};
use super::clear::clear;
use super::greedy::Place;
use super::index::{BidIx, PoolIx};
use super::outcome::{BidOutcome, Clearing, PoolOutcome, Preemption};
use super::price::Winners;
use super::rank::ONCE;
use super::welfare::Welfare;

/// The number of the rules by which books are cleared. It rises with every change that gives some book
/// another outcome.
pub const RULES: u32 = 2;

/// A clearing with all that it depended on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// By which [`RULES`].
    pub rules: u32,
    /// What was cleared.
    pub book: Book,
    /// What quotas and budgets refused, in the order in which they were asked.
    pub refused: Vec<Refused>,
    /// What came out.
    pub clearing: Clearing,
    /// How good that is.
    pub welfare: Welfare,
}

/// Where a receipt and its replay differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// It was cleared by other rules.
    #[error(
        "the receipt follows rules {found}, this program rules {RULES}: replay it with a program of its time"
    )]
    Rules {
        /// Those of the receipt.
        found: u32,
    },
    /// A refusal answers a question that the replay does not ask.
    #[error("the receipt holds refusals that this book does not lead to: it was changed")]
    Refusals,
    /// A pool has another outcome, or there is one too many or too few.
    #[error("pool {pool} has another outcome when it is cleared again: the receipt was changed")]
    Pool {
        /// The first one.
        pool: PoolIx,
    },
    /// A bid has another outcome, or there is one too many or too few.
    #[error("bid {bid} has another outcome when it is cleared again: the receipt was changed")]
    Bid {
        /// The first one.
        bid: BidIx,
    },
    /// Something else stops.
    #[error("the preemptions are others when it is cleared again: the receipt was changed")]
    Preemptions,
    /// GPUs go elsewhere.
    #[error("the handovers are others when it is cleared again: the receipt was changed")]
    Handovers,
    /// The welfare or its bound is another one.
    #[error("the welfare is {found:?} when it is counted again: the receipt was changed")]
    Welfare {
        /// As counted again.
        found: Welfare,
    },
}

impl Receipt {
    /// Clears a book and keeps what is needed to do it again.
    pub fn of(book: Book, allowance: &mut dyn Allowance) -> Self {
        let mut recorder = Recorder::new(allowance);
        let clearing = clear(&book, &mut recorder);
        let refused = recorder.into_refused();
        Self::new(book, refused, clearing)
    }

    /// Of a clearing with what its [`Recorder`] wrote down. Counting the welfare takes longer than the
    /// clearing: who is in a hurry does it afterwards.
    pub fn new(book: Book, refused: Vec<Refused>, clearing: Clearing) -> Self {
        let welfare = Welfare::of(&book, &clearing);
        Self { rules: RULES, book, refused, clearing, welfare }
    }

    /// Clears the book again, with the refusals that were recorded, and compares.
    pub fn replay(&self) -> Result<Clearing, Difference> {
        if self.rules != RULES {
            return Err(Difference::Rules { found: self.rules });
        }
        let mut recorded = Recorded::new(&self.refused);
        let again = clear(&self.book, &mut recorded);
        if !recorded.is_used_up() {
            return Err(Difference::Refusals);
        }
        if let Some(at) = first_difference(&self.clearing.pools, &again.pools) {
            return Err(Difference::Pool { pool: PoolIx(u16::try_from(at).unwrap_or(u16::MAX)) });
        }
        if let Some(at) = first_difference(&self.clearing.bids, &again.bids) {
            return Err(Difference::Bid { bid: BidIx(u32::try_from(at).unwrap_or(u32::MAX)) });
        }
        if self.clearing.preemptions != again.preemptions {
            return Err(Difference::Preemptions);
        }
        if self.clearing.handovers != again.handovers {
            return Err(Difference::Handovers);
        }
        match Welfare::of(&self.book, &again) {
            found if found != self.welfare => Err(Difference::Welfare { found }),
            _ => Ok(again),
        }
    }
}

fn first_difference<T: PartialEq>(one: &[T], other: &[T]) -> Option<usize> {
    let common = one.iter().zip(other).position(|(one, other)| one != other);
    common.or_else(|| (one.len() != other.len()).then_some(one.len().min(other.len())))
}

/// All that a clearing says about one bid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What became of it.
    pub outcome: BidOutcome,
    /// What of it stops, and why.
    pub preemptions: Vec<Preemption>,
    /// Where it stands in each of its pools, in its order.
    pub standings: Vec<Standing>,
}

/// Where a bid stands in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The pool.
    pub pool: PoolIx,
    /// What became of the pool.
    pub outcome: PoolOutcome,
    /// Winners that a new bid with this limit cannot displace: the margin is counted for them.
    pub bids_ahead: usize,
    /// The GPUs that they have.
    pub gpus_ahead: u64,
}

/// Explains what became of a bid. `None` if the book has no such bid or the clearing is of another book.
pub fn why(book: &Book, clearing: &Clearing, ix: BidIx) -> Option<Why> {
    let bid: &Bid = book.bids().get(ix.index())?;
    let outcome = *clearing.bid(ix)?;
    let is_of_book = |place: &Place| place.pool.index() < book.pools().len();
    let won = book.bids_by_ix().zip(&clearing.bids).filter(|((other, _), _)| *other != ix);
    let won = won.filter_map(|((ix, _), outcome)| {
        let (pool, units) = outcome.won()?;
        Some((ix, Place { pool, units })).filter(|(_, place)| is_of_book(place))
    });
    let winners = Winners::new(book, ONCE.saturating_add(u128::from(book.margin().ppm())), won);
    let standing = |pool: &PoolIx| {
        let (bids_ahead, gpus_ahead) = winners.outranking(*pool, bid.limit);
        Some(Standing { pool: *pool, outcome: *clearing.pool(*pool)?, bids_ahead, gpus_ahead })
    };
    let standings = bid.pools.iter().map(standing).collect::<Option<Vec<_>>>()?;
    let preemptions = clearing.preemptions.iter().filter(|it| it.bid == ix).copied().collect();
    Some(Why { outcome, preemptions, standings })
}
