//! Tests of the whole router over a real cell.

mod access;
mod billing;
mod described;
mod errors;
mod explain;
mod isolation;
mod keys;
mod lists;
mod quarantine;
