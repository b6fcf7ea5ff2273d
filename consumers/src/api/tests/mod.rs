//! Tests of the whole router over a real cell.

mod access;
mod billing;
mod commerce;
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
mod rerating;
mod stream;
