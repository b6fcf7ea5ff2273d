//! The spot auction: who runs on what is left, and at what price.
//!
//! [`clear`] takes a [`Book`], which is the whole input, and an [`Allowance`], which asks quotas and
//! budgets. It answers with a [`Clearing`]. It keeps nothing and draws nothing, so the same input gives the
//! same outcome for ever; a [`receipt::Receipt`] lets anyone check that.
//!
//! ```
//! use hourglass_capacity::auction::{Bid, Book, BookDraft, Mode, Pool, PoolIx, Unlimited, clear};
//! use hourglass_units::{Percent, Price};
//!
//! let pool = Pool {
//!     name: "eu-north1/gpu-h100-sxm/fabric-2".parse()?,
//!     supply: 64,
//!     reserve: Price::parse("0.80")?,
//!     mode: Mode::Greedy,
//!     gang_max: "50".parse()?,
//! };
//! let bid = |number, units, limit| -> Result<Bid, hourglass_units::MoneyError> {
//!     let (pools, limit) = (vec![PoolIx(0)], Price::parse(limit)?);
//!     Ok(Bid { number, pools, gpus_per_unit: 8, min_units: units, max_units: units, limit, running: None })
//! };
//! let bids = vec![bid(7, 4, "2.10")?, bid(8, 1, "1.50")?, bid(9, 4, "1.90")?];
//! let book = Book::new(BookDraft { pools: vec![pool], margin: Percent::from_ppm(100_000)?, bids })?;
//! let clearing = clear(&book, &mut Unlimited);
//! assert_eq!(clearing.pools[0].price, Price::parse("1.50")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The walk
//!
//! Of each bid there are up to two places in a list: one for what runs, by its limit times one plus the
//! margin, and one for what it wants beside, by its limit. A bid's core (its least units) is all or nothing;
//! beyond it, units are taken as far as they go. Ties go to what runs, then to the earlier bid. Down the
//! list, each takes what has room and what its allowance grants:
//!
//! * what runs, in its own pool alone;
//! * what does not run, in the pool that has room for most of its units, of equal ones in the first of its list:
//!   its limit at least the reserve price, its gang not too large;
//! * what lost its place, like what does not run: the same clearing may move it to another pool, without
//!   any margin. It stops here and starts there, and displaces nobody that a newcomer would not.
//!
//! # Why clearing again changes nothing (A-4)
//!
//! Let the winners run and clear again. Winners' places only rise, losers' only fall, so at each place at
//! least the same winners went before, and never more than won in the end. A winner therefore finds room:
//! all winners fit together. A loser finds no more than it found before, in each of its pools and in each
//! allowance, and loses again. The same holds for the units that a winner did not get.
//!
//! # The price
//!
//! The reserve price, or the highest limit that capacity turned away, capped at the lowest limit of a
//! winner. It is read off the outcome alone, so it is as stable as that. A bid that won nothing, or the units
//! that a winner did not get, were turned away by capacity if
//!
//! * the limit reaches the reserve price, and the gang is not too large;
//! * quotas and budgets would let it pass beside all that won;
//! * less than one of its units is free beside the winners that outrank it, the margin counted for them. If
//!   more is free, it is only its size that does not fit, and that sets no price.
//!
//! A bid that won elsewhere turns up in no other pool's price.
//!
//! # Small pools
//!
//! A pool whose [`Mode`] is exact is cleared by a dynamic programme, after the others. It does so only
//! while each bid that names it names it alone, and within [`EXACT_SUPPLY_MAX`] and [`EXACT_CHOICES_MAX`]; else it
//! is walked like the others, and its outcome says so. In such a pool what runs can be displaced by
//! newcomers that are worth more together, each below the margin; and of two newcomers the one with the
//! higher limit may lose (A-6 does not hold).
//!
//! # Invariants
//!
//! * **A-1** no pool, quota or budget is exceeded.
//! * **A-2** reserve price ≤ price ≤ limit of each winner.
//! * **A-3** the order of input does not matter, and the outcome repeats exactly.
//! * **A-4** clearing again on the outcome changes nothing. Without change of supply, what runs loses only
//!   to a limit above its own by more than the margin.
//! * **A-5** raising a limit never turns a win into a loss, and it never costs units of a bid that names one pool,
//!   or of which nothing runs and nothing is refused. (What runs may then keep a place with fewer units than
//!   another pool had left. In an exact pool this holds as long as the allowances of all bids stay the same.)
//! * **A-6** no loser finds room beside the winners that outrank it, margin included.
//! * **A-7** each unit that stops has exactly one [`Cause`].
//!
//! # What it does not know
//!
//! Whose a bid is, how much notice it gets, and when. What does not decide stands in the log, not in the
//! book; so a book is anonymous and can be shown.

mod allowance;
mod book;
mod clear;
mod exact;
mod greedy;
mod index;
mod loss;
mod outcome;
mod preempt;
mod price;
mod rank;
pub mod receipt;
pub mod reserve;
pub mod welfare;

pub use allowance::{
    Allowance, Constraint, Grant, Headrooms, Recorded, Recorder, Refusal, Refused, Unlimited,
};
pub use book::{
    BIDS_MAX, Bid, Book, BookDraft, BookError, GPUS_PER_UNIT_MAX, MARGIN_DEFAULT_PPM, Mode, POOLS_MAX,
    POOLS_PER_BID_MAX, Pool, Running, SUPPLY_MAX, UNITS_MAX,
};
pub use clear::clear;
pub use exact::{EXACT_CHOICES_MAX, EXACT_SUPPLY_MAX};
pub use index::{BidIx, PoolIx};
pub use outcome::{BidOutcome, Cause, Cleared, Clearing, Handover, PoolOutcome, Preemption, Reason, Short};
