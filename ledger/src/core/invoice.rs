//! The invoice as a document: what the customer gets, and what the log holds.

use hourglass_pricing::PurchaseModel;
use hourglass_pricing::tax::{Tax, TaxKind};
use hourglass_units::{
    Amount, CreditId, Currency, Instant, Interval, Month, Platform, Price, ProjectId, Quantity, Region,
    ReservationId, TenantId,
};
use serde::{Deserialize, Serialize};

use super::command::Position;

/// The version of the arithmetic. It changes when, and only when, the same log would give another
/// document.
pub const ENGINE: &str = "hourglass-rating/2";

/// An invoice. Its canonical form is the JSON of its fields in this order, without white space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// What it is.
    pub kind: InvoiceKind,
    /// Who pays.
    pub tenant: TenantId,
    /// Gapless per tenant, from 1; 0 in a draft.
    pub number: u64,
    /// The billing period that it closes; of a credit note the last one that is closed.
    pub period: Month,
    /// The first millisecond of the period.
    pub period_start: Instant,
    /// The first millisecond after it.
    pub period_end: Instant,
    /// Of every amount on it.
    pub currency: Currency,
    /// When it was drawn.
    pub issued_at: Instant,
    /// What is owed for the period, then corrections of earlier ones, then what credit paid.
    pub lines: Vec<InvoiceLine>,
    /// Σ of the lines' exact amounts.
    pub exact_total: Amount,
    /// Total less exact total.
    pub rounding: Amount,
    /// Σ of the lines' amounts, and the exact total rounded half to even (I-1).
    pub total: Amount,
    /// The tax on it, where the tenant is taxed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<InvoiceTax>,
    /// What is to be paid: the total, and the tax that comes on top.
    pub due: Amount,
    /// How far commitments are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commitments: Vec<CommitmentStatus>,
    /// From what it was computed.
    pub provenance: Provenance,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceKind {
    /// It closes a period.
    Invoice,
    /// It gives back what closed periods were charged too much.
    CreditNote,
}

impl InvoiceKind {
    /// The name in answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::CreditNote => "credit_note",
        }
    }
}

/// One line. What a line has no use for is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceLine {
    /// What it is for.
    pub kind: LineKind,
    /// The billing period that it belongs to (I-3: a correction names its period).
    pub period: Month,
    /// Whether it changes what an earlier, closed period was charged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub correction: bool,
    /// For which project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// On which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In which region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// How it was sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PurchaseModel>,
    /// Out of which reservation, or for which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationId>,
    /// Paid by which credit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit: Option<CreditId>,
    /// By which rule of the contract, such as `tier 2 of deal@1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Per GPU-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// GPU-hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<Quantity>,
    /// What it comes to, exactly: price × quantity where there is a price (U-1).
    pub exact_amount: Amount,
    /// In minor units, by largest remainder.
    pub amount: Amount,
    /// The tax on it, where tax is rounded by line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<Amount>,
}

/// What a line is for, in the order in which lines stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// GPU-hours.
    Usage,
    /// A reservation, whether used or not.
    Fee,
    /// What the period lacked to its minimum.
    Minimum,
    /// What a commitment lacked at the end of its term.
    TrueUp,
    /// What credit that was given paid.
    Promotion,
    /// What credit that the tenant had bought paid.
    Prepaid,
}

impl LineKind {
    /// The name in answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Fee => "fee",
            Self::Minimum => "minimum",
            Self::TrueUp => "true_up",
            Self::Promotion => "promotion",
            Self::Prepaid => "prepaid",
        }
    }

    /// Whether the line counts for the tax. Prepaid credit is a means of payment: what it pays for is
    /// taxed like anything else.
    pub const fn is_taxed(self) -> bool {
        !matches!(self, Self::Prepaid)
    }
}

/// The tax of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceTax {
    /// By which rule.
    pub rule: Tax,
    /// Σ of the lines that are taxed.
    pub base: Amount,
    /// The tax: on top of the base where it is exclusive, within it where it is inclusive.
    pub amount: Amount,
}

impl InvoiceTax {
    /// What comes on top of the lines.
    pub fn on_top(&self) -> Amount {
        match self.rule.kind {
            TaxKind::Exclusive => self.amount,
            TaxKind::Inclusive => Amount::ZERO,
        }
    }
}

/// How far a commitment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitmentStatus {
    /// Of which contract.
    pub contract: String,
    /// Over its whole term.
    pub amount: Amount,
    /// Drawn until the end of the period.
    pub drawn: Amount,
}

/// I-2: what an invoice was computed from, so that anyone with the log can do it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The log up to here.
    pub position: Position,
    /// The hash of the chain there: it commits to every input.
    pub chain_hash: String,
    /// The versions of rate cards and contracts in force for what was billed.
    pub prices: Vec<String>,
    /// The version of the arithmetic.
    pub engine: String,
}

/// Bytes that are no invoice in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an invoice: {0}")]
pub struct InvoiceError(String);

impl Invoice {
    /// The canonical bytes.
    pub fn to_document(&self) -> Vec<u8> {
        // A struct of strings and numbers has no value that JSON lacks.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads canonical bytes; refuses any others, so that there is one text for an invoice.
    pub fn from_document(document: &[u8]) -> Result<Self, InvoiceError> {
        let invoice: Self =
            serde_json::from_slice(document).map_err(|error| InvoiceError(error.to_string()))?;
        if invoice.to_document() != document {
            return Err(InvoiceError("it is not in canonical form".to_owned()));
        }
        Ok(invoice)
    }

    /// The billing period. `None` in a document that nobody can have drawn.
    pub fn interval(&self) -> Option<Interval> {
        Interval::between(self.period_start, self.period_end)
    }

    /// BLAKE3 of what it says: all but when and from which log it was drawn.
    pub fn content_hash(&self) -> [u8; 32] {
        let said = (
            (self.kind, &self.tenant, self.number, self.period, self.currency),
            (&self.lines, self.exact_total, self.total, &self.tax, self.due, &self.commitments),
        );
        *blake3::hash(&serde_json::to_vec(&said).unwrap_or_default()).as_bytes()
    }
}
