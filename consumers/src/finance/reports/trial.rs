//! The trial balance: what stands on each account, debits equal to credits, at any position of the log.

use std::collections::BTreeMap;

use hourglass_ledger::core::{Account, Position};
use hourglass_ledger::store::{Keyed, Reader, TransferFilter};
use hourglass_units::{Amount, Currency, Instant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Balances, Book, ReportError, Table, Tabular, add, as_of, limited, subtract};
use crate::billing::report::AsOf;
use crate::finance::span::{Span, each_transfer, last_before};

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// What was booked before this time; all of it where absent.
    pub end: Option<Instant>,
    /// What was booked up to this position, in place of a time.
    pub position: Option<Position>,
    /// Shows what was booked from this time on apart from what stood there before.
    pub start: Option<Instant>,
}

/// A trial balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrialBalance {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// An account and currency a row.
    pub rows: Vec<TrialRow>,
    /// A currency a row: debits and credits are equal.
    pub totals: Vec<TrialTotal>,
}

/// What stands on an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrialRow {
    /// Such as `assets:receivable:acme`.
    pub account: String,
    /// ISO 4217.
    pub currency: String,
    /// What stood there at the start, debits less credits; only where a start was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<String>,
    /// What it took since; only where a start was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debits: Option<String>,
    /// What it gave since; only where a start was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<String>,
    /// The balance where it is a debit, else 0. An exact decimal.
    pub debit: String,
    /// The balance where it is a credit, else 0. An exact decimal.
    pub credit: String,
}

/// The sums of a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrialTotal {
    /// ISO 4217.
    pub currency: String,
    /// Σ of the debit balances.
    pub debit: String,
    /// Σ of the credit balances.
    pub credit: String,
}

/// Draws the trial balance. `book` is the newest state that the reader's rows go up to.
pub fn trial_balance(reader: &dyn Reader, book: &Book, when: When) -> Result<TrialBalance, ReportError> {
    let head = book.position;
    let until = match (when.position, when.end) {
        (Some(position), _) => position.min(head),
        (None, Some(end)) => last_before(reader, head, end)?,
        (None, None) => head,
    };
    let closing = balances_at(reader, book, until)?;
    let moved = match when.start {
        None => None,
        Some(start) => {
            let after = last_before(reader, head, start)?.min(until);
            Some(turnover(reader, Span { after, until })?)
        }
    };
    let mut rows = Vec::new();
    let mut totals: BTreeMap<Currency, (Amount, Amount)> = BTreeMap::new();
    for ((currency, account), balance) in &closing {
        let moved =
            moved.as_ref().map(|moved| moved.get(&(*currency, account.clone())).copied().unwrap_or_default());
        if balance.is_zero() && moved.is_none_or(|(debits, credits)| debits.is_zero() && credits.is_zero()) {
            continue;
        }
        let total = totals.entry(*currency).or_default();
        let (mut debit, mut credit) = (Amount::ZERO, Amount::ZERO);
        if *balance < Amount::ZERO {
            subtract(&mut credit, *balance)?;
        } else {
            debit = *balance;
        }
        add(&mut total.0, debit)?;
        add(&mut total.1, credit)?;
        let opening = match moved {
            None => None,
            Some((debits, credits)) => {
                let mut opening = *balance;
                subtract(&mut opening, debits)?;
                add(&mut opening, credits)?;
                Some(opening.to_string())
            }
        };
        rows.push(TrialRow {
            account: account.to_string(),
            currency: currency.to_string(),
            opening,
            debits: moved.map(|(debits, _)| debits.to_string()),
            credits: moved.map(|(_, credits)| credits.to_string()),
            debit: debit.to_string(),
            credit: credit.to_string(),
        });
    }
    let totals = totals.into_iter().map(|(currency, (debit, credit))| TrialTotal {
        currency: currency.to_string(),
        debit: debit.to_string(),
        credit: credit.to_string(),
    });
    let as_of = if until == head { book.as_of() } else { as_of(reader, until)? };
    Ok(TrialBalance { as_of, rows: limited(rows)?, totals: totals.collect() })
}

/// What stood on each account at a position: from the start of the log, or back from its end, whichever is nearer.
pub fn balances_at(reader: &dyn Reader, book: &Book, until: Position) -> Result<Balances, ReportError> {
    let is_late = until.number() > book.position.number() / 2;
    let span = if is_late { Span { after: until, until: book.position } } else { Span::until(until) };
    let mut balances = if is_late { book.balances.clone() } else { Balances::new() };
    each_transfer(reader, &TransferFilter::default(), span, |Keyed { row, .. }| {
        // Going back a transfer is the other way round.
        let (takes, gives) = if is_late { (row.credit, row.debit) } else { (row.debit, row.credit) };
        add(balances.entry((row.currency, takes)).or_default(), row.amount)?;
        subtract(balances.entry((row.currency, gives)).or_default(), row.amount)
    })?;
    Ok(balances)
}

/// What each account took and gave.
type Turnover = BTreeMap<(Currency, Account), (Amount, Amount)>;

fn turnover(reader: &dyn Reader, span: Span) -> Result<Turnover, ReportError> {
    let mut moved = Turnover::new();
    each_transfer(reader, &TransferFilter::default(), span, |Keyed { row, .. }| {
        add(&mut moved.entry((row.currency, row.debit)).or_default().0, row.amount)?;
        add(&mut moved.entry((row.currency, row.credit)).or_default().1, row.amount)
    })?;
    Ok(moved)
}

impl Tabular for TrialBalance {
    fn table(&self) -> Table {
        let row = |it: &TrialRow| {
            let moved = [&it.opening, &it.debits, &it.credits].into_iter().flatten();
            let names = [&it.account, &it.currency].into_iter();
            names.chain(moved).chain([&it.debit, &it.credit]).cloned().collect()
        };
        if self.rows.iter().all(|row| row.opening.is_none()) {
            let rows = self.rows.iter().map(row).collect();
            return Table { head: &["account", "currency", "debit", "credit"], numbers: &[2, 3], rows };
        }
        Table {
            head: &["account", "currency", "opening", "debits", "credits", "debit", "credit"],
            numbers: &[2, 3, 4, 5, 6],
            rows: self.rows.iter().map(row).collect(),
        }
    }
}
