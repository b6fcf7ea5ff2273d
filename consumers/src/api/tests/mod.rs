//! Tests of the whole router over a real cell.

mod billing;
mod described;
mod errors;
mod lists;
mod quarantine;
