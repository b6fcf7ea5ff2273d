//! Why there is no result.

use hourglass_capacity::auction::BookError;
use hourglass_capacity::pool::PoolName;

/// Why there is no result. All but the last two are for whoever wrote the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BacktestError {
    /// A cell of a table cannot be used.
    #[error("line {line}, column {column}: {what}")]
    Cell {
        /// Line of the file, from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// Why, and what would do.
        what: String,
    },
    /// A table that is none.
    #[error("line {line}: {what}")]
    Row {
        /// Line of the file, from 1.
        line: u64,
        /// Why.
        what: String,
    },
    /// A table without a column that it must have.
    #[error("there is no column {column}: the first line must name it")]
    NoColumn {
        /// Which.
        column: String,
    },
    /// A policy or supply that is no TOML, or says something else than it may.
    #[error("{0}")]
    Toml(String),
    /// A number that is out of its bounds.
    #[error("{what} is {value}: give {least} to {most}")]
    Bounds {
        /// Of what.
        what: String,
        /// It is so much.
        value: u64,
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// The supply changes backwards.
    #[error("pool {pool} changes at {at} after {before}: give changes in the order of time")]
    ChangeOrder {
        /// Which.
        pool: PoolName,
        /// The later one in the file.
        at: u64,
        /// The earlier one.
        before: u64,
    },
    /// A pool that is there twice.
    #[error("pool {pool} is there twice: give each pool once")]
    DuplicatePool {
        /// Which.
        pool: PoolName,
    },
    /// A policy for a pool that the supply has not.
    #[error("the policy names pool {pool}, which the supply has not: take it out or add the pool")]
    UnknownPool {
        /// Which.
        pool: PoolName,
    },
    /// Limits that cannot be drawn.
    #[error("limits are drawn from {from} to {to}: the lower price first, and a step above 0")]
    Draw {
        /// From.
        from: hourglass_units::Price,
        /// To.
        to: hourglass_units::Price,
    },
    /// A histogram that nothing can be drawn from.
    #[error("a histogram of limits needs 1 to {most} bins, and a weight above 0 in one of them")]
    Histogram {
        /// Most bins.
        most: usize,
    },
    /// Nobody bids.
    #[error("no job with GPUs and a duration is in the trace: give at least one")]
    NoJobs,
    /// The auction refuses its input.
    #[error("at second {at} the auction refuses its book: {error}")]
    Book {
        /// When.
        at: u64,
        /// Why.
        error: BookError,
    },
    /// A rule of the engine does not hold: a fault of Hourglass.
    #[error("at second {at} a rule of the backtest is broken, please report it: {what}")]
    Broken {
        /// When.
        at: u64,
        /// Which rule.
        what: String,
    },
}

/// Whether a number is within its bounds.
pub(crate) fn check_bounds(
    what: impl Into<String>,
    value: u64,
    (least, most): (u64, u64),
) -> Result<(), BacktestError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(BacktestError::Bounds { what: what.into(), value, least, most })
}
