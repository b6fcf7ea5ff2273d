//! The invoice, and how it is taxed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An invoice or credit note: exactly the bytes that the log holds, and exactly these fields. What
/// became of it since (paid, void) is at its path with `/status` behind it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invoice {
    /// `invoice` closes a period; `credit_note` gives back what closed ones were charged too much.
    kind: String,
    /// Who pays.
    tenant: String,
    /// Gapless per customer, from 1; 0 in a draft.
    number: u64,
    /// The billing period that it closes, `YYYY-MM`; of a credit note the last one that is closed.
    period: String,
    /// The first millisecond of the period, RFC 3339: by the customer's own calendar.
    #[schema(format = DateTime)]
    period_start: String,
    /// The first millisecond after it, RFC 3339.
    #[schema(format = DateTime)]
    period_end: String,
    /// Of every amount on it, ISO 4217.
    currency: String,
    /// When it was drawn, RFC 3339.
    #[schema(format = DateTime)]
    issued_at: String,
    /// What is owed for the period, then corrections of earlier ones, then what credit paid.
    lines: Vec<InvoiceLine>,
    /// Σ of the lines' exact amounts, a decimal.
    exact_total: String,
    /// Total less exact total, a decimal.
    rounding: String,
    /// Σ of the lines' amounts, a decimal (I-1).
    total: String,
    /// The tax on it; absent where the customer is not taxed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tax: Option<InvoiceTax>,
    /// What is to be paid: the total, and tax that comes on top. A decimal, below zero where it gives
    /// something back.
    due: String,
    /// How far the commitments are that run in the period; absent where none does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    commitments: Vec<CommitmentStatus>,
    /// From what it was computed (I-2).
    provenance: Provenance,
}

/// One line of an invoice. What a line has no use for is absent.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvoiceLine {
    /// `usage` of GPU-hours, the `fee` of a reservation, what a period lacked to its `minimum` or a
    /// commitment at its end (`true_up`), and what credit paid: `promotion`, `prepaid`.
    kind: String,
    /// The billing period that it belongs to, `YYYY-MM`.
    period: String,
    /// `true` where it changes what an earlier, closed period was charged (I-3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    correction: bool,
    /// For which project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    /// On which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// In which region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// How it was sold: `on_demand`, `reserved` or `spot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Out of which reservation, or for which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// Paid by which credit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credit: Option<String>,
    /// By which rule of the contract, such as `tier 2 of deal@1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// Per GPU-hour, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price: Option<String>,
    /// GPU-hours, an exact decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantity: Option<String>,
    /// What it comes to, an exact decimal: price × quantity where there is a price (U-1).
    exact_amount: String,
    /// In minor units, by largest remainder, a decimal.
    amount: String,
    /// The tax on it, a decimal, where tax is rounded by line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tax: Option<String>,
}

/// The tax of an invoice.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvoiceTax {
    /// By which rule.
    rule: Tax,
    /// Σ of the lines that are taxed, a decimal. Prepaid credit is a means of payment and not taken off.
    base: String,
    /// The tax, a decimal: on top of the base where it is exclusive, within it where it is inclusive.
    amount: String,
}

/// How a customer is taxed.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tax {
    /// As it is called on the invoice, such as `VAT`; 1 to 64 characters.
    name: String,
    /// Between 0 and 100, a decimal with at most four digits after the point.
    rate_percent: String,
    /// Whether prices hold it.
    kind: TaxKind,
    /// What is rounded.
    rounding: TaxRounding,
}

/// Whether prices hold the tax.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaxKind {
    /// It comes on top.
    Exclusive,
    /// It is within.
    Inclusive,
}

/// What is rounded to minor units.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaxRounding {
    /// The tax of each line; their sum is the tax.
    Line,
    /// The tax of the total.
    Total,
}

/// How far a commitment is.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitmentStatus {
    /// Of which contract, as `name@version`.
    contract: String,
    /// Over its whole term, a decimal.
    amount: String,
    /// Drawn until the end of the period, an exact decimal.
    drawn: String,
}

/// From what an invoice was computed, so that anyone with the log can do it again.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provenance {
    /// The log up to here.
    position: u64,
    /// The hash of the chain there: it commits to every input.
    chain_hash: String,
    /// Versions of rate cards and contracts, as `name@version`.
    prices: Vec<String>,
    /// Version of the arithmetic.
    engine: String,
}
