//! Quota from outside: the tree and its holds against a model that shares no code with them, leases in
//! virtual time before a network that fails, and numbers worked out by hand.
//!
//! One binary, so that it links once. `PROPTEST_CASES=2000 cargo test -p hourglass-quota` runs so many
//! seeds of each simulation, from `HOURGLASS_FIRST_SEED` on.

#![cfg(test)]

mod leases;
mod model;
mod oracle;
mod tables;
