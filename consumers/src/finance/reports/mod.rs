//! Statements of the book: each is computed from the log's rows and the state, as of one log position, and each adds
//! up to what the book holds, to the last digit.
//!
//! A report has one table ([`Tabular`]); JSON holds the same figures. Nothing is rounded.

pub mod ageing;
pub mod deferred;
pub mod periods;
pub mod reconcile;
pub mod revenue;
pub mod trial;

use std::collections::BTreeMap;

use hourglass_ledger::core::{Account, Position, State};
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::{Amount, Currency, Instant};

use crate::billing::report::AsOf;

/// Most rows of a report. What has more is asked for in parts.
pub const REPORT_ROWS_MAX: usize = 100_000;

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sums leave the range of an amount.
    #[error("the amounts are too large to add up")]
    Overflow,
    /// It would be too long.
    #[error("the report has more than {REPORT_ROWS_MAX} rows: ask for a shorter time, or for less detail")]
    TooManyRows,
}

/// A report as a table: for a terminal, and as CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The columns.
    pub head: &'static [&'static str],
    /// The columns that hold numbers.
    pub numbers: &'static [usize],
    /// The rows, a text for each column.
    pub rows: Vec<Vec<String>>,
}

/// What has one table.
pub trait Tabular {
    /// The table.
    fn table(&self) -> Table;
}

impl Table {
    /// As CSV with a header. Names are ids and amounts are decimals, so no cell can begin a formula.
    pub fn to_csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(self.head)?;
        for row in &self.rows {
            out.write_record(row)?;
        }
        out.into_inner().map_err(|error| csv::Error::from(error.into_error()))
    }
}

/// Balances by currency and account.
pub type Balances = BTreeMap<(Currency, Account), Amount>;

/// What the state says of the book at its position.
#[derive(Debug, Clone)]
pub struct Book {
    /// Where the state stands.
    pub position: Position,
    /// The time there.
    pub now: Instant,
    /// What stands on each account.
    pub balances: Balances,
}

impl Book {
    /// Of a state.
    pub fn of(state: &State) -> Self {
        let balances = state.book().balances();
        let balances = balances.map(|(account, currency, sum)| ((currency, account.clone()), sum)).collect();
        Self { position: state.position(), now: state.now(), balances }
    }

    fn as_of(&self) -> AsOf {
        AsOf { position: self.position.number(), time: self.now.to_string() }
    }
}

/// The position and its time.
fn as_of(reader: &dyn Reader, position: Position) -> Result<AsOf, StoreError> {
    let before = Position::new(position.number().saturating_sub(1));
    let event = if position == Position::ZERO { Vec::new() } else { reader.events(before, 1)? };
    let time = event.first().map_or(hourglass_units::INSTANT_MIN, |event| event.at);
    Ok(AsOf { position: position.number(), time: time.to_string() })
}

fn add(sum: &mut Amount, amount: Amount) -> Result<(), ReportError> {
    *sum = sum.checked_add(amount).ok_or(ReportError::Overflow)?;
    Ok(())
}

fn subtract(sum: &mut Amount, amount: Amount) -> Result<(), ReportError> {
    *sum = sum.checked_sub(amount).ok_or(ReportError::Overflow)?;
    Ok(())
}

fn limited<T>(rows: Vec<T>) -> Result<Vec<T>, ReportError> {
    if rows.len() > REPORT_ROWS_MAX { Err(ReportError::TooManyRows) } else { Ok(rows) }
}
