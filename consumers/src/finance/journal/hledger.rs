//! The journal as hledger reads it; `hledger check --strict` finds nothing.
//!
//! Source of the format: the manual of hledger, "hledger journal format".

use std::io::Write;

use super::{Declared, Entry, Form, Journal, JournalError, standing};

/// The classes of the chart of accounts, and hledger's letters for them.
pub(super) const CLASSES: [(&str, char); 4] =
    [("assets", 'A'), ("liabilities", 'L'), ("income", 'R'), ("expenses", 'X')];

pub(super) struct Hledger<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Hledger<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }
}

impl Form for Hledger<'_> {
    fn begin(&mut self, journal: &Journal) -> Result<(), JournalError> {
        let (region, until) = (&journal.region, journal.span.until);
        writeln!(self.out, "; The books of {region} up to position {until}. Amounts are exact.")?;
        if journal.span.after.number() > 0 {
            writeln!(self.out, "; They begin behind position {}.", journal.span.after)?;
        }
        for (class, kind) in CLASSES {
            writeln!(self.out, "account {class}  ; type: {kind}")?;
        }
        Ok(())
    }

    fn declare(&mut self, what: Declared<'_>, _date: &str) -> Result<(), JournalError> {
        match what {
            Declared::Currency(currency) => writeln!(self.out, "\ncommodity {currency}")?,
            Declared::Account(account) => writeln!(self.out, "\naccount {account}")?,
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), JournalError> {
        let Entry { id, date, tenant, code, currency, is_final, reverses, debits, credits } = entry;
        let standing = standing(*is_final);
        write!(self.out, "\n{date} {}  ; tenant:{tenant}, id:{id}, status:{standing}", code.as_str())?;
        match reverses {
            Some(position) => writeln!(self.out, ", reverses:{position}")?,
            None => writeln!(self.out)?,
        }
        for (account, amount) in *debits {
            writeln!(self.out, "    {account}  {amount} {currency}")?;
        }
        for (account, amount) in *credits {
            writeln!(self.out, "    {account}  -{amount} {currency}")?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
}
