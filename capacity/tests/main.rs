//! Capacity from outside: the calendar and the supply against a model that counts every instant, and the
//! life cycle before a cloud that fails in all the ways that it may.
//!
//! One binary, so that it links once. `PROPTEST_CASES=2000 cargo test -p hourglass-capacity` runs so many
//! seeds of each simulation, from `HOURGLASS_FIRST_SEED` on.

#![cfg(test)]

mod auction;
mod calendar;
mod lifecycle;
mod nodes;
mod supply;
