//! An invoice for people and for other programs.
//!
//! The document is the invoice; [`Sheet`] is its one projection, and every form (HTML, CSV, the
//! terminal) shows the rows of the sheet. A form adds nothing up by itself, so no two of them can
//! disagree about a line or a sum.

mod csv;
mod html;
mod pdf;
#[cfg(test)]
mod tests;

use hourglass_ledger::core::invoicing::{Invoice, InvoiceKind, InvoiceLine, LineKind};
use hourglass_pricing::PurchaseModel;
use hourglass_pricing::tax::TaxKind;
use hourglass_units::Amount;

use crate::billing::invoices::Standing;

/// What an invoice looks like to its reader.
#[derive(Debug, Clone)]
pub struct Sheet<'a> {
    /// The document.
    pub invoice: &'a Invoice,
    /// `Invoice 7`, `Credit note 8` or `Draft invoice`.
    pub title: String,
    /// Who pays, for people.
    pub customer: String,
    /// What became of it, where it is finalised.
    pub standing: Option<Standing>,
    /// The lines in order, each within its section.
    pub sections: Vec<Block>,
    /// What follows the lines, down to what is due.
    pub totals: Vec<Total>,
}

/// Lines that belong together.
#[derive(Debug, Clone)]
pub struct Block {
    /// What they are.
    pub section: Section,
    /// The lines, in the order of the document.
    pub rows: Vec<Row>,
    /// Σ of their amounts, in minor units. Absent where it leaves the range of an amount.
    pub subtotal: Option<String>,
}

/// What lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Owed for the period.
    Charges,
    /// Differences to what earlier periods were charged.
    Corrections,
    /// Paid by credit.
    Credit,
}

impl Section {
    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Charges => "Charges of the period",
            Self::Corrections => "Corrections of earlier periods",
            Self::Credit => "Paid by credit",
        }
    }

    fn of(line: &InvoiceLine, document: InvoiceKind) -> Self {
        match (line.kind, is_correction(line, document)) {
            (LineKind::Promotion | LineKind::Prepaid, _) => Self::Credit,
            (_, true) => Self::Corrections,
            (_, false) => Self::Charges,
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    /// For which project; empty where it is for none.
    pub project: String,
    /// What it is for.
    pub what: String,
    /// The rule and the period that it names; empty where it names none.
    pub note: String,
    /// GPU-hours, exactly; empty where there are none.
    pub quantity: String,
    /// Per GPU-hour; empty where there is none.
    pub price: String,
    /// What it comes to, exactly.
    pub exact_amount: String,
    /// What it comes to in minor units.
    pub amount: String,
}

/// One line below the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// What.
    pub label: String,
    /// How much, in minor units.
    pub amount: String,
    /// Whether it is what the reader looks for.
    pub strong: bool,
}

impl<'a> Sheet<'a> {
    /// The projection of a document. `display_name` is the customer's, `standing` what became of it.
    pub fn of(invoice: &'a Invoice, display_name: Option<&str>, standing: Option<Standing>) -> Self {
        let title = match (invoice.kind, invoice.number) {
            (InvoiceKind::Invoice, 0) => "Draft invoice".to_owned(),
            (InvoiceKind::Invoice, number) => format!("Invoice {number}"),
            (InvoiceKind::CreditNote, 0) => "Draft credit note".to_owned(),
            (InvoiceKind::CreditNote, number) => format!("Credit note {number}"),
        };
        let customer = match display_name.filter(|name| !name.is_empty()) {
            Some(name) if name != invoice.tenant.as_str() => format!("{name} ({})", invoice.tenant),
            _ => invoice.tenant.to_string(),
        };
        let totals = totals(invoice, standing.as_ref());
        Self { invoice, title, customer, standing, sections: sections(invoice), totals }
    }

    /// All rows, in the order of the document.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|block| &block.rows)
    }

    /// A word beside the title: what became of it. A credit note is settled with what is owed otherwise,
    /// so nobody pays it.
    pub fn stamp(&self) -> Option<&str> {
        let standing = self.standing.as_ref()?;
        match standing.status.as_str() {
            "paid" if self.invoice.due < Amount::ZERO => None,
            "open" if standing.paid != "0" => Some("partly paid"),
            status => Some(status),
        }
    }

    /// Whether it was taken back.
    pub fn is_void(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.status == "void")
    }
}

/// Whether a line changes what a closed period was charged: on a credit note each one does.
fn is_correction(line: &InvoiceLine, document: InvoiceKind) -> bool {
    line.correction || document == InvoiceKind::CreditNote
}

/// Lines stand by section in the document already: charges, corrections, credit.
fn sections(invoice: &Invoice) -> Vec<Block> {
    let section = |line: &InvoiceLine| Section::of(line, invoice.kind);
    let chunks = invoice.lines.chunk_by(|a, b| section(a) == section(b));
    let block = |lines: &[InvoiceLine]| {
        let section = section(lines.first()?);
        let amounts = lines.iter().map(|line| line.amount);
        let subtotal = amounts.into_iter().try_fold(Amount::ZERO, |sum, amount| sum.checked_add(amount));
        Some(Block {
            section,
            rows: lines.iter().map(|line| row(line, invoice)).collect(),
            subtotal: subtotal.map(|subtotal| subtotal.to_minor_string(invoice.currency)),
        })
    };
    chunks.filter_map(block).collect()
}

fn row(line: &InvoiceLine, invoice: &Invoice) -> Row {
    let text = |it: Option<String>| it.unwrap_or_default();
    let correction = is_correction(line, invoice.kind).then(|| format!("correction of {}", line.period));
    let notes = correction.into_iter().chain(line.rule.clone());
    Row {
        project: text(line.project.as_ref().map(ToString::to_string)),
        what: what(line),
        note: notes.collect::<Vec<_>>().join("; "),
        quantity: text(line.quantity.map(|quantity| quantity.to_string())),
        price: text(line.price.map(|price| price.to_string())),
        exact_amount: line.exact_amount.to_string(),
        amount: line.amount.to_minor_string(invoice.currency),
    }
}

fn what(line: &InvoiceLine) -> String {
    let text = |it: Option<String>| it.unwrap_or_default();
    let platform = text(line.platform.as_ref().map(ToString::to_string));
    let region = line.region.as_ref().map(|region| format!(" in {region}"));
    let place = format!("{platform}{}", text(region));
    let reservation = text(line.reservation.as_ref().map(ToString::to_string));
    let credit = text(line.credit.as_ref().map(ToString::to_string));
    match line.kind {
        LineKind::Usage => {
            let sold = match line.model {
                Some(PurchaseModel::OnDemand) => ", on demand".to_owned(),
                Some(PurchaseModel::Reserved) => format!(", out of reservation {reservation}"),
                Some(PurchaseModel::Spot) => ", spot".to_owned(),
                None => String::new(),
            };
            format!("{place}{sold}")
        }
        LineKind::Fee => format!("Reservation {reservation}, {place}"),
        LineKind::Minimum => "What the period lacked to its minimum".to_owned(),
        LineKind::TrueUp => "What the commitment lacked at its end".to_owned(),
        LineKind::Promotion => format!("Credit {credit}"),
        LineKind::Prepaid => format!("Prepaid credit {credit}"),
    }
}

fn totals(invoice: &Invoice, standing: Option<&Standing>) -> Vec<Total> {
    let minor = |amount: Amount| amount.to_minor_string(invoice.currency);
    let plain = |label: String, amount: String| Total { label, amount, strong: false };
    let mut totals = vec![plain("Total".to_owned(), minor(invoice.total))];
    if let Some(tax) = &invoice.tax {
        let (name, rate, base) = (&tax.rule.name, tax.rule.rate_percent, minor(tax.base));
        let label = match tax.rule.kind {
            TaxKind::Exclusive => format!("{name} {rate} % on {base}"),
            TaxKind::Inclusive => format!("of which {name} {rate} % within {base}"),
        };
        totals.push(plain(label, minor(tax.amount)));
    }
    let label = if invoice.due < Amount::ZERO { "In your favour" } else { "Due" };
    let due = if invoice.due < Amount::ZERO { invoice.due.checked_neg() } else { Some(invoice.due) };
    let due = minor(due.unwrap_or(invoice.due));
    totals.push(Total { label: label.to_owned(), amount: due, strong: true });
    let paid = standing.filter(|standing| standing.paid != "0" && standing.status != "void");
    if let Some(standing) = paid {
        let parsed = |text: &str| Amount::parse(text).map_or_else(|_| text.to_owned(), minor);
        totals.push(plain("Paid".to_owned(), parsed(&standing.paid)));
        totals.push(Total { label: "Open".to_owned(), amount: parsed(&standing.open), strong: true });
    }
    totals
}
