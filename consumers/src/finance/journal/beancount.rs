//! The journal as beancount reads it; `bean-check` finds nothing.
//!
//! Source of the format: "Beancount Language Syntax". A part of an account's name begins with a capital letter or
//! a digit, and goes on with letters, digits and dashes: [`part`] writes our names so, and no two of them alike.

use std::io::Write;

use hourglass_ledger::core::Account;

use super::{Declared, Entry, Form, Journal, JournalError, standing};

pub(super) struct Beancount<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Beancount<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }
}

impl Form for Beancount<'_> {
    fn begin(&mut self, journal: &Journal) -> Result<(), JournalError> {
        let (region, until) = (&journal.region, journal.span.until);
        writeln!(self.out, "; The books of {region} up to position {until}. Amounts are exact.")?;
        if journal.span.after.number() > 0 {
            writeln!(self.out, "; They begin behind position {}.", journal.span.after)?;
        }
        // In what is included the title of the including file holds.
        if !journal.continues {
            writeln!(self.out, "option \"title\" \"Hourglass {region}\"")?;
        }
        Ok(())
    }

    fn declare(&mut self, what: Declared<'_>, date: &str) -> Result<(), JournalError> {
        match what {
            Declared::Currency(currency) => {
                writeln!(self.out, "\noption \"operating_currency\" \"{currency}\"")?;
                writeln!(self.out, "{date} commodity {currency}")?;
            }
            Declared::Account(account) => writeln!(self.out, "\n{date} open {}", name(account))?,
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), JournalError> {
        let Entry { id, date, tenant, code, currency, is_final, reverses, debits, credits } = entry;
        writeln!(self.out, "\n{date} * \"{tenant}\" \"{}\"", code.as_str())?;
        writeln!(self.out, "  id: \"{id}\"\n  status: \"{}\"", standing(*is_final))?;
        if let Some(position) = reverses {
            writeln!(self.out, "  reverses: {position}")?;
        }
        for (account, amount) in *debits {
            writeln!(self.out, "  {}  {amount} {currency}", name(account))?;
        }
        for (account, amount) in *credits {
            writeln!(self.out, "  {}  -{amount} {currency}", name(account))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
}

/// The account's name.
pub(super) fn name(account: &Account) -> String {
    account.to_string().split(':').map(part).collect::<Vec<_>>().join(":")
}

/// A part of a name: the first letter becomes a capital one, and what beancount has no sign for is written behind
/// two dashes. `acme-labs` is `Acme-labs`, `a.b` is `A--db`, `a_b` is `A--ub`, `a--b` is `A--h-b`, and where the
/// first letter was a capital one already `X--c` stands before it.
pub(super) fn part(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    match rest.next() {
        Some(first) if first.is_ascii_uppercase() => name.extend(['X', '-', '-', 'c', first]),
        Some(first) => name.push(first.to_ascii_uppercase()),
        None => {}
    }
    while let Some(next) = rest.next() {
        match next {
            '.' => name.push_str("--d"),
            '_' => name.push_str("--u"),
            // A dash before one that begins an escape, or that is one, would be taken for its beginning.
            '-' if rest.peek().is_some_and(|behind| matches!(behind, '-' | '.' | '_')) => {
                name.push_str("--h");
            }
            plain => name.push(plain),
        }
    }
    name
}
