//! The simulated cloud in virtual time, and client and server over loopback.
//!
//! One binary, so that it links once. `PROPTEST_CASES=2000 cargo test -p hourglass-compute cloud` plays so
//! many seeds.

#![cfg(test)]

mod client;
mod cloud;
mod garbage;
mod support;
