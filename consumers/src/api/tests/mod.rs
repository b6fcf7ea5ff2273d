//! Tests of the whole router over a real cell.

mod access;
mod billing;
mod capacity;
mod commerce;
mod customers;
mod described;
mod errors;
mod explain;
mod history;
mod isolation;
mod keys;
mod lists;
mod market;
mod quarantine;
mod quotas;
mod reports;
mod rerating;
mod stream;
mod webhooks;
