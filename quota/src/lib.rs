//! Quota: how much of what may run, and what it may cost.
//!
//! Pure data and decisions. Nothing here knows a clock, a log or a price; the ledger's core brings time,
//! positions and amounts of money, and writes down what was decided.
//!
//! * [`tree::Tree`] holds limits by node, resource and [`Class`], and counts what is taken at each node.
//!   [`tree::Tree::fit`] decides about a whole vector on the whole way up to the tenant.
//! * [`hold::Holds`] are what is taken for a time: committed, released, or expired by an event.
//! * [`lease::Leases`] are slices of a limit for checkers far away; [`holder::Holder`] is their side.
//! * [`cap::Cap`] is a limit in money, [`budget`] says when somebody is told of it.
//! * [`request::Rules`] answer requests for more.
//!
//! # Invariants
//!
//! * **Q-1** what is granted (held, committed, leased) never rises above a limit. It stands above one only
//!   after the limit was lowered, and then nothing is granted until it has come down.
//! * **Q-2** a [`denial::Denial`] names the node, the resource, the limit, what is used, held and asked,
//!   and what would fit.
//! * **Q-3** a hold that is not committed in its time ends by an event, and nothing of it stays counted.
//!
//! # Borrowing
//!
//! Siblings share a pool: what they leave idle of nominal quotas, as far as they lend it. Preemptible work
//! among them may take it, up to its borrowing limit. Whoever has nominal quota can always claim it: the
//! claim waits ([`tree::Fit::AfterReclaim`]) until enough of what was lent has stopped, and nobody borrows
//! it meanwhile. So no limit is ever exceeded while things drain.
//!
//! # What it does not do
//!
//! It preempts nothing: [`tree::Tree::overdrawn`] and [`tree::Tree::draining`] say how much has to go, the
//! core says what goes.

pub mod budget;
pub mod cap;
pub mod denial;
pub mod hold;
pub mod holder;
pub mod lease;
mod limit;
mod name;
pub mod request;
pub mod tree;

pub use limit::{AMOUNT_MAX, Bound, BoundError, Class, Key, Limits, UnknownClass};
pub use name::{HoldId, LeaseId, NodeName, NodeNameError, RequestId};
