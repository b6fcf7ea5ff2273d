//! Re-rating: what is asked for, and what it would change.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::prices::RateCardView;

/// Prices that should have held.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RerateDraft {
    /// The prices. Its name and version need not follow any that is published, its own start does not
    /// matter.
    #[schema(value_type = RateCardView)]
    card: serde_json::Value,
    /// From when they replace others, RFC 3339.
    #[schema(format = DateTime)]
    from: String,
    /// Until when, RFC 3339: not in the future.
    #[schema(format = DateTime)]
    until: String,
    /// For this customer alone, in place of what it pays; of the list where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Whether periods that have an invoice may change too: their corrections stand on the next one.
    /// It needs the permission `rerates.closed`, and a preview shows them anyway.
    #[serde(default)]
    #[schema(required = false)]
    into_closed: bool,
}

/// What a re-rating would change.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReratePreview {
    /// Lines that were compared.
    lines_compared: u64,
    /// Lines that would change.
    lines_changed: u64,
    /// Whose bill would change, or whose lines would.
    tenants: Vec<TenantChange>,
}

/// How the bill of a customer would change.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantChange {
    /// Whose.
    tenant: String,
    /// Of the amounts, ISO 4217.
    currency: String,
    /// What it owes over all periods, credit taken off, an exact decimal.
    before: String,
    /// What it would owe.
    after: String,
    /// After less before.
    difference: String,
    /// The periods that would change.
    periods: Vec<PeriodChange>,
}

/// How a billing period would change.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeriodChange {
    /// Which, `YYYY-MM`.
    period: String,
    /// Whether it has an invoice: then the difference is a correction on the next one.
    closed: bool,
    /// What is owed for it, an exact decimal.
    before: String,
    /// What would be.
    after: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::schema::assert_describes;

    #[test]
    fn shapes_are_those_of_the_documents() {
        let card = crate::testing::card();
        let draft = json!({"card": card, "from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z",
            "tenant": "acme", "into_closed": true});
        let draft: hourglass_ledger::core::RerateDraft = serde_json::from_value(draft).unwrap();
        assert_describes::<RerateDraft>(&serde_json::to_value(draft).unwrap());
        let preview = hourglass_ledger::core::rerating::Preview {
            lines_compared: 2,
            lines_changed: 1,
            tenants: vec![hourglass_ledger::core::rerating::TenantChange {
                tenant: "acme".parse().unwrap(),
                currency: hourglass_units::Currency::USD,
                before: hourglass_units::Amount::ZERO,
                after: hourglass_units::Amount::ZERO,
                difference: hourglass_units::Amount::ZERO,
                periods: vec![hourglass_ledger::core::rerating::PeriodChange {
                    period: "2026-01".parse().unwrap(),
                    closed: true,
                    before: hourglass_units::Amount::ZERO,
                    after: hourglass_units::Amount::ZERO,
                }],
            }],
        };
        assert_describes::<ReratePreview>(&serde_json::to_value(preview).unwrap());
    }
}
