//! The ledger: a deterministic core, an append-only hash-chained log, a double-entry book derived
//! from it, a store port with its adapters, and the cell that runs them.
//!
//! What it guarantees, in the order in which it happens:
//!
//! 1. [`core::decide`] makes every check before anything is written; a [`core::Rejection`] leaves no
//!    trace.
//! 2. [`core::apply`] is the only writer of [`core::State`], live and on replay alike, so one log makes
//!    one state, bit for bit (B-3). Charges, transfers and invoices come out of it as rows.
//! 3. [`store::Store::commit`] stores events and rows in one transaction, behind a compare-and-set of
//!    the head, so that a deposed writer cannot append.
//! 4. [`cell::Cell`] answers only after that commit, and loads the state again from the log when an
//!    outcome is not known.
//! 5. [`verify::verify`] folds the whole log, checks every numbered invariant and rebuilds the rows to
//!    compare them.
//!
//! Limits are named constants beside what they limit. It knows no HTTP, no broker and no clock but
//! the one that [`cell::Clock`] brings.

pub mod cell;
pub mod core;
pub mod load;
pub mod log;
pub mod snapshot;
pub mod store;
pub mod verify;
