//! What a plan would cost.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a plan would cost.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Estimate {
    /// Of all amounts, ISO 4217.
    currency: String,
    /// From when, RFC 3339.
    #[schema(format = DateTime)]
    from: String,
    /// Until when, RFC 3339.
    #[schema(format = DateTime)]
    until: String,
    /// GPU-hours, a decimal.
    quantity: String,
    /// GPU-hours by unit price and billing period: before the rules of the contract that count periods.
    parts: Vec<EstimatePart>,
    /// Σ of the parts, an exact decimal.
    at_unit_prices: String,
    /// What a reservation costs beside its use, where the plan makes one.
    fees: String,
    /// What the customer would owe more: all rules of its contract applied to what it has used already,
    /// and the fees. Minimums of periods that are not over stay out.
    total: String,
    /// What its credit would pay of that.
    credit: String,
}

/// GPU-hours of a plan at one price in one period.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EstimatePart {
    /// In which billing period, `YYYY-MM`.
    period: String,
    /// Per GPU-hour, a decimal.
    price: String,
    /// GPU-hours, a decimal.
    quantity: String,
    /// Price × quantity, an exact decimal.
    amount: String,
}

#[cfg(test)]
mod tests {
    use hourglass_units::{Amount, Price, Quantity};

    use super::*;
    use crate::api::schema::assert_describes;

    #[test]
    fn the_shape_is_that_of_the_document() {
        let estimate = hourglass_ledger::core::estimate::Estimate {
            currency: hourglass_units::Currency::USD,
            from: "2026-01-01T00:00:00Z".parse().unwrap(),
            until: "2026-01-01T01:00:00Z".parse().unwrap(),
            quantity: Quantity::from_nanos(1),
            parts: vec![hourglass_ledger::core::estimate::EstimatePart {
                period: "2026-01".parse().unwrap(),
                price: Price::parse("2.95").unwrap(),
                quantity: Quantity::from_nanos(1),
                amount: Amount::ZERO,
            }],
            at_unit_prices: Amount::ZERO,
            fees: Amount::ZERO,
            total: Amount::ZERO,
            credit: Amount::ZERO,
        };
        assert_describes::<Estimate>(&serde_json::to_value(estimate).unwrap());
    }
}
