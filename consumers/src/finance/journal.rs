//! The journal of the book, in the format of hledger (which ledger and, with few changes, beancount
//! share): one balanced transaction for each transfer, or for each day, tenant, account pair and
//! code.
//!
//! Source of the format: the manual of hledger, "hledger journal format".
//!
//! Amounts are exact, to 18 digits after the point. Two runs over the same log give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use hourglass_ledger::core::rows::TransferRow;
use hourglass_ledger::core::{Account, Position, TransferCode};
use hourglass_ledger::store::{Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError, TransferFilter};
use hourglass_units::{Amount, Currency, TenantId};

/// The classes of the chart of accounts, and hledger's letters for them.
const CLASSES: [(&str, char); 4] =
    [("assets", 'A'), ("liabilities", 'L'), ("income", 'R'), ("expenses", 'X')];

/// How much stands in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All transfers of a UTC day between the same two accounts of a tenant, for the same purpose.
    Day,
    /// One transfer.
    Transfer,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Transfers read.
    pub transfers: u64,
    /// Transactions written.
    pub transactions: u64,
}

/// Why a journal was not written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output cannot be written.
    #[error("cannot write the journal: {0}")]
    Write(#[from] io::Error),
    /// A day's sum leaves the range of an amount.
    #[error("the transfers of {0} are too large to add up: export them one by one")]
    Overflow(String),
}

/// Transfers that become one transaction.
type DayKey = (TenantId, Account, Account, TransferCode, Currency);

/// Writes the journal of all transfers up to a position. `progress` is told each position reached.
pub fn write_hledger(
    reader: &dyn Reader,
    until: Position,
    detail: Detail,
    out: &mut impl Write,
    mut progress: impl FnMut(Position),
) -> Result<Written, JournalError> {
    writeln!(out, "; Hourglass journal up to position {until}. Amounts are exact.")?;
    for (class, kind) in CLASSES {
        writeln!(out, "account {class}  ; type: {kind}")?;
    }
    let mut written = Written::default();
    let mut after = RowKey::default();
    let mut day = String::new();
    let mut sums: BTreeMap<DayKey, Amount> = BTreeMap::new();
    loop {
        let rows =
            reader.transfers(&TransferFilter::default(), Page { after, until, limit: PAGE_ROWS_MAX })?;
        let Some(last) = rows.last() else { break };
        after = last.key;
        for Keyed { key, row } in rows {
            written.transfers = written.transfers.saturating_add(1);
            let booked_on = date(&row);
            match detail {
                Detail::Transfer => {
                    let TransferRow { tenant, debit, credit, amount, currency, code, reverses, .. } = row;
                    let reverses = reverses.map(|at| format!(", reverses:{at}")).unwrap_or_default();
                    let tags = format!("position:{}.{}, tenant:{tenant}{reverses}", key.position, key.line);
                    transaction(out, &booked_on, code, &tags, (&debit, &credit), (amount, currency))?;
                    written.transactions = written.transactions.saturating_add(1);
                }
                Detail::Day => {
                    if booked_on != day {
                        written.transactions =
                            written.transactions.saturating_add(close_day(out, &day, &mut sums)?);
                        day = booked_on;
                    }
                    let TransferRow { tenant, debit, credit, amount, currency, code, .. } = row;
                    let sum = sums.entry((tenant, debit, credit, code, currency)).or_default();
                    *sum = sum.checked_add(amount).ok_or_else(|| JournalError::Overflow(day.clone()))?;
                }
            }
        }
        progress(after.position);
    }
    written.transactions = written.transactions.saturating_add(close_day(out, &day, &mut sums)?);
    out.flush()?;
    Ok(written)
}

fn close_day(out: &mut impl Write, day: &str, sums: &mut BTreeMap<DayKey, Amount>) -> io::Result<u64> {
    let sums = std::mem::take(sums);
    let count = sums.len() as u64;
    for ((tenant, debit, credit, code, currency), amount) in sums {
        transaction(out, day, code, &format!("tenant:{tenant}"), (&debit, &credit), (amount, currency))?;
    }
    Ok(count)
}

fn transaction(
    out: &mut impl Write,
    date: &str,
    code: TransferCode,
    tags: &str,
    (debit, credit): (&Account, &Account),
    (amount, currency): (Amount, Currency),
) -> io::Result<()> {
    writeln!(out, "\n{date} {}  ; {tags}", code.as_str())?;
    writeln!(out, "    {debit}  {amount} {currency}")?;
    writeln!(out, "    {credit}  -{amount} {currency}")
}

/// The UTC day on which it was booked.
fn date(row: &TransferRow) -> String {
    row.at.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use hourglass_pricing::PurchaseModel;

    use super::*;

    #[test]
    fn every_account_has_a_class_that_hledger_knows() {
        let tenant = || "acme".parse::<TenantId>().unwrap();
        let accounts = [
            Account::Unbilled(tenant()),
            Account::Receivable(tenant()),
            Account::PrepaidCredit(tenant()),
            Account::PromotionalCredit(tenant()),
            Account::Deferred(tenant()),
            Account::Revenue("h100".parse().unwrap(), PurchaseModel::Spot),
            Account::Shortfall,
            Account::Breakage,
            Account::Rounding,
            Account::IncludedTax,
            Account::Promotions,
            Account::SlaCredits,
            Account::OwnerYield,
            Account::Tax,
            Account::Cash,
        ];
        for account in accounts {
            let class = account.class();
            assert!(CLASSES.iter().any(|(known, _)| *known == class), "{account}");
            assert!(account.to_string().starts_with(&format!("{class}:")), "{account}");
        }
    }
}
