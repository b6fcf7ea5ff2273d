//! Invoices as they stand: the document never changes, what became of it does.

use hourglass_ledger::core::State;
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_units::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of an invoice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = InvoiceStanding)]
pub struct Standing {
    /// `open` where something is to be paid, `paid` where nothing is, `void` where it was taken back.
    pub status: String,
    /// What was paid, a decimal; below zero what was paid back.
    pub paid: String,
    /// What was set off against another document of the customer, a decimal; below zero on one that is
    /// owed to it.
    pub set_off: String,
    /// What is still to be paid, a decimal; below zero what is owed to the customer.
    pub open: String,
}

/// An invoice or credit note in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = InvoiceSummary)]
pub struct InvoiceRow {
    /// Whose.
    pub tenant: String,
    /// Gapless per customer, from 1.
    pub number: u64,
    /// `invoice`, or `credit_note`.
    pub kind: String,
    /// The billing period that it closes, `YYYY-MM`; of a credit note the last one that was closed.
    pub period: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// Σ of its lines, a decimal.
    pub total: String,
    /// What was to be paid when it was issued: the total, and tax that comes on top. A decimal, below
    /// zero where it gives something back.
    pub due: String,
    /// What became of it.
    #[serde(flatten)]
    pub standing: Standing,
    /// When it was finalised, RFC 3339.
    #[schema(format = DateTime)]
    pub issued_at: String,
    /// Where in the log it was finalised.
    pub position: u64,
    /// Where the document is.
    pub resource: String,
}

/// What became of an invoice; `None` where there is no such.
pub fn standing(state: &State, tenant: &TenantId, number: u64) -> Option<Standing> {
    let invoice = state.tenant(tenant)?.invoices.get(&number)?;
    Some(Standing {
        status: invoice.status.as_str().to_owned(),
        paid: invoice.paid.to_string(),
        set_off: invoice.set_off.to_string(),
        open: invoice.open().to_string(),
    })
}

impl InvoiceRow {
    /// The row of a document that was finalised at a position.
    pub fn of(invoice: &Invoice, standing: Standing, position: u64) -> Self {
        Self {
            tenant: invoice.tenant.to_string(),
            number: invoice.number,
            kind: invoice.kind.as_str().to_owned(),
            period: invoice.period.to_string(),
            currency: invoice.currency.to_string(),
            total: invoice.total.to_string(),
            due: invoice.due.to_string(),
            standing,
            issued_at: invoice.issued_at.to_string(),
            position,
            resource: format!("/v1/tenants/{}/invoices/{}", invoice.tenant, invoice.number),
        }
    }
}
