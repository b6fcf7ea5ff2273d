//! What a file expects: the words of an expectation into a subject and its fields.

use hourglass_units::Instant;

use super::Fault;
use super::check::{Expectation, Subject, span};
use super::expect_quota;
use super::lex::{Word, Words};
use super::market;
use super::parse::Parser;

/// Fields of a line of usage.
const LINE: [&str; 4] = ["milliseconds", "quantity", "amount", "reservation"];
/// Fields of an invoice, and of a draft.
const INVOICE: [&str; 14] = [
    "kind",
    "period",
    "lines",
    "exact_total",
    "rounding",
    "total",
    "tax",
    "tax_base",
    "due",
    "status",
    "paid",
    "set_off",
    "drawn",
    "currency",
];
/// Fields of a line of an invoice.
const INVOICE_LINE: [&str; 15] = [
    "kind",
    "period",
    "correction",
    "project",
    "platform",
    "region",
    "model",
    "reservation",
    "credit",
    "rule",
    "price",
    "quantity",
    "exact_amount",
    "amount",
    "tax",
];
/// Fields of a credit.
const CREDIT: [&str; 7] = ["kind", "amount", "drawn", "expired", "remaining", "closed", "note"];
/// Fields of the unused hours of a reservation.
const UNUSED: [&str; 2] = ["quantity", "cost"];
/// Fields of what is known of an instance's time.
const METERING: [&str; 9] = [
    "measured",
    "billed",
    "unreported",
    "voided",
    "not_running",
    "gpus_differ",
    "foreign_agent",
    "in_the_future",
    "too_old",
];

const SUBJECTS: &str = "balance, line, lines, unused, metering, credit, credits, invoice, invoice-line, invoices, draft, draft-line, quota, cap, hold, holds, lease, request, preemption, preemptions, drift, drifts, unheld, pool, bid, why or refused";

/// Reads an expectation.
pub(super) fn expectation(parser: &Parser, words: &mut Words, at: Instant) -> Result<Expectation, Fault> {
    let what = words.next("what is expected")?;
    let mut given = Vec::new();
    let mut place = |name: &str, word: Word| given.push((name.to_owned(), word.text));
    let (subject, known): (Subject, &'static [&'static str]) = match what.text.as_str() {
        "balance" => {
            let account = words.value("the account")?;
            place("balance", decimal(words, "the balance")?);
            let currency = words.more().map(|word| word.value()).transpose()?;
            (Subject::Balance { account, currency }, &[])
        }
        "line" => {
            let (instance, hour) = (words.value("the instance")?, words.next("the hour")?.time(at)?);
            if let Some(model) = words.more() {
                place("model", model);
            }
            if let Some(price) = words.more() {
                price.price()?;
                place("price", price);
            }
            (Subject::Line { instance, hour }, &LINE)
        }
        "lines" => {
            let instance = words.value("the instance")?;
            place("lines", words.next("the number of lines")?);
            (Subject::Lines { instance }, &[])
        }
        "unused" => {
            let reservation = words.value("the reservation")?;
            let hour = words.more().map(|word| word.time(at)).transpose()?;
            (Subject::Unused { reservation, hour }, &UNUSED)
        }
        "metering" => (Subject::Metering { instance: words.value("the instance")? }, &METERING),
        of if market::SUBJECTS.contains(&of) => market::subject(parser, words, of, &mut place)?,
        of if expect_quota::SUBJECTS.contains(&of) => expect_quota::subject(parser, words, of, &mut place)?,
        _ => of_tenant(words, &what, &mut place)?,
    };
    for (name, word) in words.fields(known)? {
        let text =
            if known == METERING.as_slice() && word.text != "0" { span(word.duration()?) } else { word.text };
        given.push((name, text));
    }
    if given.is_empty() {
        let (what, known) = (what.text.clone(), known.join(", "));
        return Err(words.fault(format!("what is expected of the {what}? give one or more of {known}")));
    }
    Ok(Expectation { subject, fields: given })
}

/// The subjects that a tenant has.
fn of_tenant(
    words: &mut Words,
    what: &Word,
    place: &mut impl FnMut(&str, Word),
) -> Result<(Subject, &'static [&'static str]), Fault> {
    Ok(match what.text.as_str() {
        "credit" => {
            let (credit, tenant) = (words.value("the credit")?, words.value("the tenant")?);
            (Subject::Credit { credit, tenant }, &CREDIT)
        }
        "credits" => {
            let tenant = words.value("the tenant")?;
            place("credits", words.next("the number of credits")?);
            (Subject::Credits { tenant }, &[])
        }
        "invoice" | "invoice-line" => {
            let (tenant, number) = (words.value("the tenant")?, words.value("the number of the invoice")?);
            match what.text.as_str() {
                "invoice" => (Subject::Invoice { tenant, number }, &INVOICE),
                _ => (Subject::InvoiceLine { tenant, number }, &INVOICE_LINE),
            }
        }
        "invoices" => {
            let tenant = words.value("the tenant")?;
            place("invoices", words.next("the number of invoices")?);
            (Subject::Invoices { tenant }, &[])
        }
        "draft" | "draft-line" => {
            let (tenant, period) = (words.value("the tenant")?, words.value("the period")?);
            match what.text.as_str() {
                "draft" => (Subject::Draft { tenant, period }, &INVOICE),
                _ => (Subject::DraftLine { tenant, period }, &INVOICE_LINE),
            }
        }
        other => return Err(what.fault(format!("nothing is known of {other:?}: expect {SUBJECTS}"))),
    })
}

/// A word that must be a decimal.
fn decimal(words: &mut Words, what: &str) -> Result<Word, Fault> {
    let word = words.next(what)?;
    let _exact = word.amount()?;
    Ok(word)
}
