//! Credit of a customer, and what is left of it.

use hourglass_ledger::core::{Grant, Tenant};
use hourglass_units::Currency;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bound;

/// Credit that was granted. What it has paid for is what the book holds: the next tick may draw more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Credit)]
pub struct CreditRow {
    /// Its id, unique in its tenant.
    pub credit: String,
    /// Where it comes from: `prepaid`, `promotional` or `sla`.
    pub kind: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// How much was granted, a decimal.
    pub amount: String,
    /// What it has paid for, an exact decimal.
    pub drawn: String,
    /// What expired of it unused, an exact decimal.
    pub expired: String,
    /// What is left, an exact decimal.
    pub remaining: String,
    /// Lower ones are drawn first, then those that expire first.
    pub priority: u32,
    /// Pays for usage from then on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub valid_from: Option<String>,
    /// Pays for usage before then, RFC 3339; it never expires where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub valid_until: Option<String>,
    /// Pays only for usage of this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Pays only for usage on this platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// For people; of an SLA credit the evidence.
    pub note: String,
    /// Where in the log it was granted.
    pub position: u64,
    /// Whether its time and the grace for late usage are over: nothing more can be drawn.
    pub closed: bool,
}

impl CreditRow {
    fn of(grant: &Grant, currency: Currency) -> Self {
        Self {
            credit: grant.credit.to_string(),
            kind: grant.kind.as_str().to_owned(),
            currency: currency.to_string(),
            amount: grant.amount.to_string(),
            drawn: grant.drawn.to_string(),
            expired: grant.expired.to_string(),
            // A grant never draws or loses more than itself (B-4), so this does not leave the range.
            remaining: grant.remaining().unwrap_or_default().to_string(),
            priority: grant.priority,
            valid_from: bound(grant.valid.start()),
            valid_until: bound(grant.valid.end()),
            project: grant.project.as_ref().map(ToString::to_string),
            platform: grant.platform.as_ref().map(ToString::to_string),
            note: grant.note.clone(),
            position: grant.position.number(),
            closed: grant.closed,
        }
    }
}

/// A customer's credit, in the order of the grants.
pub fn credits(tenant: &Tenant) -> impl Iterator<Item = CreditRow> {
    tenant.credits.iter().map(|grant| CreditRow::of(grant, tenant.currency))
}
