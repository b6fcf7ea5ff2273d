//! Capacity: what there is, what is promised, and who runs on the rest.
//!
//! Pure data and decisions. Nothing here knows a clock, a log or a network; the ledger's core brings
//! time and positions, and writes down what was decided.

pub mod calendar;
pub mod cooldown;
pub mod lifecycle;
pub mod nodes;
pub mod steps;
pub mod supply;
