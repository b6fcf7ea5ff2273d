//! Backtests: a trace of jobs against pools and a market policy, cleared by the auction that runs live.
//!
//! [`Trace`], [`Supply`] and [`Policy`] are read from text; whoever calls reads the files. [`backtest`] fills
//! the gaps of the trace ([`job::jobs`]) and runs the market in virtual time ([`engine`]); [`Report::of`] sums
//! up what came out, [`plot::plot`] draws it. The same input gives the same result, on any machine: time
//! and GPU-time are whole seconds and GPU-seconds, prices nano-currency, and chance follows from the seed.
//!
//! # A job
//!
//! It is a bid from its arrival until its work is done: a gang that wants all its units or none, or an
//! elastic one that works with fewer. Its work is GPU-seconds, `duration × num_gpus`. With GPUs won it
//! waits until they are all vacant, boots, and works, each GPU a GPU-second a second.
//!
//! Told to stop, it works on until the notice is over, at the price from before; then it loses what it
//! did since its last checkpoint and bids on. An elastic job that loses a part of its units loses that
//! share of it. What had not begun to work stops at once.
//!
//! # The market
//!
//! It is cleared at ticks, if anything changed since the last clearing, and at once when a supply changes. A
//! supply that will shrink is known a notice before, as a reservation is: from then on the GPUs are
//! not for sale, so that what they run has stopped when they go. GPUs that become vacant go to whoever won
//! some and waits longest. There are neither quotas nor budgets.
//!
//! # What is checked while it runs
//!
//! of each clearing; that each GPU does one thing at each clearing; that winners have what was
//! sold, or wait for it; that the GPU-seconds of a pool add up to those of its supply; that pools and jobs
//! count the same work; that a job ends when its work is done, and in one state. A rule that does not
//! hold is [`BacktestError::Broken`], and there is no result.

mod chance;
pub mod engine;
mod error;
pub mod job;
pub mod plot;
pub mod policy;
pub mod report;
pub mod supply;
mod table;
pub mod trace;

pub use error::BacktestError;
pub use policy::Policy;
pub use report::Report;
pub use supply::Supply;
pub use trace::Trace;

use engine::Outcome;

/// Runs a trace against a supply under a policy. `progress` hears how much is behind, and of how much.
pub fn backtest(
    trace: &Trace,
    supply: &Supply,
    policy: &Policy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, BacktestError> {
    let jobs = job::jobs(trace, supply, policy)?;
    engine::run(&jobs, supply, policy, progress)
}
