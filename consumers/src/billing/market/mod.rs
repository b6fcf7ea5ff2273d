//! The spot market, as HTTP, gRPC and the command line show it.
//!
//! Pools and bids are read from the state. What a clearing decided is read from its event in the log, which
//! is its receipt: bids have numbers in it and no owners, so everybody may see it.

mod bids;
mod clears;
mod past;
mod pools;
mod supply;
mod why;

pub use bids::{BidDone, BidRow, BidState, UnitRow, UnitState, bid, bids};
pub(crate) use bids::{state_of, unit_state};
pub use clears::{
    ClearDone, ClearError, ClearRow, Logged, RECEIPT_BYTES_MAX, ReceiptDocument, Replayed, clearing,
    clearings_before,
};
pub use past::{
    CandleRow, DepthLevelRow, DepthRow, InterruptionLevelRow, InterruptionsRow, ScoreRow, candle_rows,
    depth_row, interruptions_row, step_rows, with_sold,
};
pub use pools::{PoolClearedRow, PoolRow, PoolTermsRow, PriceRow, pool, pool_name, pools, prices};
pub use supply::{
    AccountRow, AllowanceRow, ClaimRow, LoanRow, NodeDraft, NodeRow, NodeStateRow, SupplyRow, account,
    loan_and_allowances, nodes, supply,
};
pub use why::{StandingRow, StoppedRow, WHY_CLEARINGS_MAX, WhyAbout, WhyRow, about, why};
