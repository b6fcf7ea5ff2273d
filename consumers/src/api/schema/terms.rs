//! What stands in contracts, cards and reservations beside prices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The rules of a contract beside its prices, in the order in which they compose. Amounts, prices,
/// GPU-hours and percentages are decimal strings.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Terms {
    /// Shares off the list price, where the contract has no price of its own.
    #[serde(default)]
    #[schema(required = false)]
    discounts: Vec<Discount>,
    /// GPU-hours of each period that cost nothing.
    #[serde(default)]
    #[schema(required = false)]
    allowances: Vec<Allowance>,
    /// Graduated prices by the GPU-hours of a period.
    #[serde(default)]
    #[schema(required = false)]
    tiers: Vec<TierTable>,
    /// An amount that the customer will spend over the contract's term.
    #[serde(default)]
    commitment: Option<Commitment>,
    /// The least that a period costs, in the customer's currency.
    #[serde(default)]
    minimum: Option<String>,
    /// Credits for trouble.
    #[serde(default)]
    sla: Option<Sla>,
    /// The billing calendar. It can only be agreed before the first instance is registered.
    #[serde(default)]
    billing: Option<Billing>,
}

/// Which GPU-hours a rule is about. What is absent does not matter.
#[derive(Serialize, Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scope {
    /// Of this project.
    #[serde(default)]
    project: Option<String>,
    /// On this platform.
    #[serde(default)]
    platform: Option<String>,
    /// In this region.
    #[serde(default)]
    region: Option<String>,
    /// Sold like this: `on_demand`, `reserved` or `spot`.
    #[serde(default)]
    model: Option<String>,
}

/// A share off the list price.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discount {
    /// On what; neither a project nor spot. On-demand where no model is named.
    #[serde(default)]
    scope: Scope,
    /// At most 100.
    percent_off: String,
}

/// GPU-hours of each period that cost nothing.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allowance {
    /// Of what. On-demand where no model is named.
    #[serde(default)]
    scope: Scope,
    /// How many a period.
    gpu_hours: String,
}

/// Graduated prices: each tier prices the GPU-hours within it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierTable {
    /// What is counted and priced. On-demand where no model is named.
    #[serde(default)]
    scope: Scope,
    /// In ascending order; the first begins at 0.
    tiers: Vec<Tier>,
}

/// One tier, with exactly one of `price` and `percent_off`.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    /// GPU-hours of the period below this tier.
    above: String,
    /// This price, whatever their unit price is.
    #[serde(default)]
    price: Option<String>,
    /// Their unit price less a share, at most 100.
    #[serde(default)]
    percent_off: Option<String>,
}

/// An amount that the customer will spend over the contract's term, which must have an end.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commitment {
    /// What counts towards it: usage only, neither fees nor minimums.
    #[serde(default)]
    scope: Scope,
    /// Over the whole term.
    amount: String,
    /// What usage beyond it costs, as a share of its price: 100 is the same.
    overage_percent: String,
}

/// A credit for trouble, with at least one of `xids` and `unreported_minutes`.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sla {
    /// Share of what the affected time costs.
    credit_percent: String,
    /// NVIDIA XID errors that make the hour in which they are reported a bad one.
    #[serde(default)]
    #[schema(required = false)]
    xids: Vec<u32>,
    /// An instance that runs for so long without a report is down for that time; 1 to 60.
    #[serde(default)]
    unreported_minutes: Option<u32>,
    /// Days until a credit expires, 1 to 3,660.
    valid_days: u32,
}

/// Which months a customer is billed by, where not those of UTC.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Billing {
    /// IANA name, such as `Europe/Berlin`.
    #[serde(default)]
    time_zone: Option<String>,
    /// Day of the month on which a period begins, 1 to 28.
    #[serde(default)]
    anchor_day: Option<u32>,
}

/// A part of a price. Together the parts of a price are the price, exactly.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    /// What it is, such as `vcpu`.
    name: String,
    /// How much of it a GPU-hour holds, a decimal.
    quantity: String,
    /// What one of it costs for an hour, a decimal.
    price: String,
}

/// How a reservation is paid for.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payment {
    /// All of it when it is bought.
    Upfront {
        /// Per GPU-hour, a decimal.
        price: String,
    },
    /// All of it when it is bought, as a total.
    UpfrontTotal {
        /// For the whole time, a decimal.
        total: String,
    },
    /// Each billing period its hours.
    Monthly {
        /// Per GPU-hour, a decimal.
        price: String,
    },
    /// Each billing period its hours at a lower price, and used hours besides.
    Flex {
        /// Per GPU-hour, used or not, a decimal.
        holding: String,
        /// Per GPU-hour used, a decimal.
        usage: String,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::schema::assert_describes;

    fn written<T: serde::Serialize + serde::de::DeserializeOwned>(draft: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(draft).unwrap()).unwrap()
    }

    #[test]
    fn shapes_are_those_of_the_documents() {
        let scope = json!({"project": "ml", "platform": "h100", "region": "eu", "model": "on_demand"});
        let terms = written::<hourglass_pricing::terms::Terms>(json!({
            "discounts": [{"scope": {"platform": "h100"}, "percent_off": "10"}],
            "allowances": [{"scope": scope, "gpu_hours": "5"}],
            "tiers": [{"scope": scope, "tiers": [{"above": "0", "price": "2"}, {"above": "9", "percent_off": "5"}]}],
            "commitment": {"scope": scope, "amount": "1000", "overage_percent": "120"},
            "minimum": "10",
            "sla": {"credit_percent": "50", "xids": [79], "unreported_minutes": 5, "valid_days": 90},
            "billing": {"time_zone": "Europe/Berlin", "anchor_day": 15},
        }));
        assert_describes::<Terms>(&terms);
        assert_describes::<Terms>(&written::<hourglass_pricing::terms::Terms>(json!({})));
        let component = json!({"name": "vcpu", "quantity": "16", "price": "0.01"});
        assert_describes::<Component>(&written::<hourglass_pricing::Component>(component));
        for payment in [
            json!({"upfront": {"price": "2"}}),
            json!({"upfront_total": {"total": "2000"}}),
            json!({"monthly": {"price": "2"}}),
            json!({"flex": {"holding": "1", "usage": "0.5"}}),
        ] {
            assert_describes::<Payment>(&written::<hourglass_pricing::reservation::Payment>(payment));
        }
    }
}
