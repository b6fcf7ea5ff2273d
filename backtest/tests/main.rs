//! Backtests from outside: a market worked out by hand, laws that hold for any trace, and files that are
//! wrong.
//!
//! One binary, so that it links once. `PROPTEST_CASES=10000 cargo test -p hourglass-backtest` tries so many
//! traces of each law.

#![cfg(test)]

mod by_hand;
mod files;
mod laws;
