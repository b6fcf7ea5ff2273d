//! The ledger from outside: the core against an oracle that shares no code with it, the cell against
//! a store that fails, the verification against books that somebody changed.
//!
//! One binary, so that it links once. A test that checks a numbered invariant has its number in its
//! name.

#![cfg(test)]

mod budget;
mod cell;
mod decoders;
mod invoices;
mod linearizability;
mod market;
mod metering;
mod oracle;
mod postgres;
mod quotas;
mod recovery;
mod rejections;
mod simulation;
mod standby;
mod supply;
mod support;
mod tamper;
mod told;
