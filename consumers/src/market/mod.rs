//! The spot market, over gRPC, and its prices as they change.
//!
//! * `MarketService` serves `hourglass.v1.MarketService`: bids, receipts, and a stream of prices.
//! * `ticks` says what a clearing changed; every feed of prices says the same, under the same sequence. Streams
//!   take it from the process's one list of clearings (`prices`).
//!
//! # What it guarantees
//!
//! * Nothing here decides: a request about a bid is one command, and it is answered after the commit.
//! * Prices come from the log, so a stream that goes on from a sequence has no gap and no repeat, whichever
//!   process serves it, and however long ago that was.
//! * To whom one tenant alone is open, what others have is as unknown as what is not there.

mod service;
#[cfg(test)]
mod tests;
pub(crate) mod ticks;
mod watch;
mod wire;

pub(crate) use service::MarketService;
