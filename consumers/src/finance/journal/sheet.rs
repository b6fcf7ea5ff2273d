//! The journal as a table that accounting systems take: a line a posting, lines of one id are one balanced journal.

use std::io::Write;

use super::{Declared, Entry, Form, Journal, JournalError, standing};

/// The columns.
pub(super) const COLUMNS: [&str; 13] = [
    "external_id",
    "line",
    "date",
    "period",
    "status",
    "account",
    "debit",
    "credit",
    "currency",
    "tenant",
    "code",
    "reverses",
    "memo",
];

pub(super) struct Sheet<'a> {
    out: csv::Writer<&'a mut dyn Write>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out: csv::Writer::from_writer(out) }
    }
}

impl Form for Sheet<'_> {
    fn begin(&mut self, _journal: &Journal) -> Result<(), JournalError> {
        Ok(self.out.write_record(COLUMNS)?)
    }

    fn declare(&mut self, _what: Declared<'_>, _date: &str) -> Result<(), JournalError> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), JournalError> {
        let Entry { id, date, tenant, code, currency, is_final, reverses, debits, credits } = entry;
        let (period, purpose) = (date.get(..7).unwrap_or_default(), code.as_str());
        let memo = format!("{} of {tenant}", purpose.replace('_', " "));
        let reverses = reverses.map(|position| position.to_string()).unwrap_or_default();
        let debits = debits.iter().map(|(account, amount)| (account, amount.to_string(), String::new()));
        let credits = credits.iter().map(|(account, amount)| (account, String::new(), amount.to_string()));
        for (line, (account, debit, credit)) in (1_u32..).zip(debits.chain(credits)) {
            let (number, account) = (line.to_string(), account.to_string());
            let place = [id.as_str(), &number, date, period, standing(*is_final), &account];
            let rest = [&debit, &credit, currency.code(), tenant.as_str(), purpose, &reverses, &memo];
            self.out.write_record(place.into_iter().chain(rest))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), JournalError> {
        Ok(self.out.flush()?)
    }
}
