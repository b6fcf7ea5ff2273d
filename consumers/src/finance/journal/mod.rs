//! The journal of the book, as accountants' own tools read it: hledger, beancount, and a table for accounting
//! systems.
//!
//! One entry holds the transfers of a UTC day of one tenant, purpose and currency, or one transfer. Each is
//! balanced, and has an id that stays the same however often it is exported. Amounts are exact, to 18 digits
//! behind the point. Two runs over the same log give the same bytes. Memory holds one day at a time.

mod beancount;
mod hledger;
mod sheet;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use hourglass_ledger::core::rows::TransferRow;
use hourglass_ledger::core::{Account, Position, TransferCode};
use hourglass_ledger::store::{Keyed, Reader, RowKey, StoreError, TransferFilter};
use hourglass_units::{Amount, Currency, Month, Region, TenantId};

use super::span::{Span, each_transfer};

/// What reads the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain text for hledger.
    Hledger,
    /// Plain text for beancount.
    Beancount,
    /// A table with debit and credit columns.
    Csv,
}

/// How much stands in one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All transfers of a UTC day of a tenant, for the same purpose.
    Day,
    /// One transfer.
    Transfer,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// For what.
    pub format: Format,
    /// How much stands in one entry.
    pub detail: Detail,
    /// Of which stretch of the log.
    pub span: Span,
    /// Whether the journal follows one of all that was before: accounts and currencies that were used there are
    /// not declared again.
    pub continues: bool,
    /// The cell's region: it begins the ids of entries.
    pub region: Region,
    /// The last month that is closed for good: nothing can be booked up to its end.
    pub closed: Option<Month>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Transfers read.
    pub transfers: u64,
    /// Entries written.
    pub entries: u64,
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

impl From<csv::Error> for JournalError {
    fn from(error: csv::Error) -> Self {
        Self::Write(match error.into_kind() {
            // Its kind says whether whoever read from a pipe has seen enough.
            csv::ErrorKind::Io(error) => error,
            other => io::Error::other(format!("{other:?}")),
        })
    }
}

/// One balanced entry of the journal.
#[derive(Debug)]
struct Entry<'a> {
    /// Stays the same however often it is exported.
    id: String,
    /// The UTC day on which it was booked, `YYYY-MM-DD`.
    date: &'a str,
    tenant: &'a TenantId,
    code: TransferCode,
    currency: Currency,
    /// Whether its month is closed for good.
    is_final: bool,
    /// The position whose transfer it takes back.
    reverses: Option<Position>,
    /// Accounts that take, with how much; then those that give.
    debits: &'a BTreeMap<Account, Amount>,
    credits: &'a BTreeMap<Account, Amount>,
}

/// How a format writes what there is to write.
trait Form {
    /// What stands before everything else.
    fn begin(&mut self, journal: &Journal) -> Result<(), JournalError>;
    /// A currency or an account is used for the first time, on a day.
    fn declare(&mut self, what: Declared<'_>, date: &str) -> Result<(), JournalError>;
    /// An entry.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), JournalError>;
    /// Nothing follows.
    fn end(&mut self) -> Result<(), JournalError>;
}

/// What has to be declared before it is used.
enum Declared<'a> {
    Currency(Currency),
    Account(&'a Account),
}

/// Writes a journal. `progress` is told each position reached.
pub fn write(
    reader: &dyn Reader,
    journal: &Journal,
    out: &mut dyn Write,
    mut progress: impl FnMut(Position),
) -> Result<Written, JournalError> {
    let mut form: Box<dyn Form + '_> = match journal.format {
        Format::Hledger => Box::new(hledger::Hledger::new(out)),
        Format::Beancount => Box::new(beancount::Beancount::new(out)),
        Format::Csv => Box::new(sheet::Sheet::new(out)),
    };
    let mut writer = Writer {
        journal,
        form: form.as_mut(),
        declared: declared_before(reader, journal)?,
        written: Written::default(),
    };
    writer.form.begin(journal)?;
    let mut day = Day::default();
    each_transfer(reader, &TransferFilter::default(), journal.span, |Keyed { key, row }| {
        writer.written.transfers = writer.written.transfers.saturating_add(1);
        progress(key.position);
        match journal.detail {
            Detail::Transfer => writer.transfer(key, row),
            Detail::Day => {
                let date = date(&row);
                if date != day.date {
                    writer.day(&std::mem::replace(&mut day, Day { date, sums: BTreeMap::new() }))?;
                }
                day.add(row)
            }
        }
    })?;
    writer.day(&day)?;
    writer.form.end()?;
    let written = writer.written;
    drop(form);
    out.flush()?;
    Ok(written)
}

/// What earlier journals have declared, where this one continues them.
fn declared_before(reader: &dyn Reader, journal: &Journal) -> Result<Names, JournalError> {
    let mut names = Names::default();
    if journal.continues {
        let earlier = Span::until(journal.span.after);
        each_transfer(reader, &TransferFilter::default(), earlier, |Keyed { row, .. }| {
            names.currencies.insert(row.currency);
            names.accounts.extend([row.debit, row.credit]);
            Ok::<_, JournalError>(())
        })?;
    }
    Ok(names)
}

/// What is declared. As many accounts as the book has, which the cell holds in memory too.
#[derive(Default)]
struct Names {
    currencies: BTreeSet<Currency>,
    accounts: BTreeSet<Account>,
}

/// What the transfers of an entry have in common: whose, what for, of what.
type Purpose = (TenantId, TransferCode, Currency);

/// What a day's transfers move, by account.
#[derive(Default)]
struct Sums {
    debits: BTreeMap<Account, Amount>,
    credits: BTreeMap<Account, Amount>,
}

/// The transfers of a day.
#[derive(Default)]
struct Day {
    date: String,
    sums: BTreeMap<Purpose, Sums>,
}

impl Day {
    fn add(&mut self, row: TransferRow) -> Result<(), JournalError> {
        let TransferRow { tenant, debit, credit, amount, currency, code, .. } = row;
        let sums = self.sums.entry((tenant, code, currency)).or_default();
        for (side, account) in [(&mut sums.debits, debit), (&mut sums.credits, credit)] {
            let sum = side.entry(account).or_default();
            *sum = sum.checked_add(amount).ok_or_else(|| JournalError::Overflow(self.date.clone()))?;
        }
        Ok(())
    }
}

struct Writer<'a> {
    journal: &'a Journal,
    form: &'a mut dyn Form,
    declared: Names,
    written: Written,
}

impl Writer<'_> {
    fn day(&mut self, day: &Day) -> Result<(), JournalError> {
        for ((tenant, code, currency), Sums { debits, credits }) in &day.sums {
            let (region, date) = (&self.journal.region, &day.date);
            let id = format!("{region}-{date}-{tenant}-{currency}-{}", code.as_str());
            let is_final = self.is_final(date);
            let (code, currency) = (*code, *currency);
            self.entry(&Entry {
                id,
                date,
                tenant,
                code,
                currency,
                is_final,
                reverses: None,
                debits,
                credits,
            })?;
        }
        Ok(())
    }

    fn transfer(&mut self, key: RowKey, row: TransferRow) -> Result<(), JournalError> {
        let date = date(&row);
        let TransferRow { tenant, debit, credit, amount, currency, code, reverses, .. } = row;
        self.entry(&Entry {
            id: format!("{}-{}.{}", self.journal.region, key.position, key.line),
            date: &date,
            tenant: &tenant,
            code,
            currency,
            is_final: self.is_final(&date),
            reverses,
            debits: &BTreeMap::from([(debit, amount)]),
            credits: &BTreeMap::from([(credit, amount)]),
        })
    }

    fn is_final(&self, date: &str) -> bool {
        let month = date.get(..7).and_then(|month| month.parse::<Month>().ok());
        month.zip(self.journal.closed).is_some_and(|(month, closed)| month <= closed)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), JournalError> {
        if self.declared.currencies.insert(entry.currency) {
            self.form.declare(Declared::Currency(entry.currency), entry.date)?;
        }
        for account in entry.debits.keys().chain(entry.credits.keys()) {
            if !self.declared.accounts.contains(account) {
                self.declared.accounts.insert(account.clone());
                self.form.declare(Declared::Account(account), entry.date)?;
            }
        }
        self.written.entries = self.written.entries.saturating_add(1);
        self.form.entry(entry)
    }
}

/// The UTC day on which it was booked.
fn date(row: &TransferRow) -> String {
    row.at.to_string().chars().take(10).collect()
}

/// `final` where nothing can be booked into the month any more, for people and programs.
const fn standing(is_final: bool) -> &'static str {
    if is_final { "final" } else { "provisional" }
}
