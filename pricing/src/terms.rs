//! The rules of a contract beside its prices, and the order in which they compose.
//!
//! 1. **Unit price**: the contract's own price, else the list price less the contract's discount.
//! 2. **Allowances**: the first GPU-hours of a period in their scope cost nothing.
//! 3. **Tiers**: graduated by the GPU-hours of a period in their scope that no allowance took.
//! 4. **Commitment**: what is left draws it down, period by period; beyond it the overage rate holds.
//! 5. **Minimum**: what the period lacks to it is charged when the period is over.
//! 6. **True-up**: what the commitment lacks when its term is over is charged then.
//!
//! Within a period the dearest GPU-hours come first in each of the steps 2 to 4, so that more usage
//! can never cost less. Every rule counts whole billing periods, so a contract that has any begins
//! and ends with one.

use hourglass_units::{Amount, Percent, Price, Quantity};
use serde::{Deserialize, Serialize};

use crate::scope::Scope;

/// Most rules of one kind in a contract.
pub const RULES_MAX: usize = 100;
/// Most tiers in one table.
pub const TIERS_MAX: usize = 100;

/// Takes a share off the list price, where the contract has no price of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discount {
    /// On what. Spot has no discounts, its price is the market's; a project cannot be named, since a
    /// price is of a SKU.
    #[serde(default)]
    pub scope: Scope,
    /// At most 100.
    pub percent_off: Percent,
}

/// GPU-hours of each period that cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Of what.
    #[serde(default)]
    pub scope: Scope,
    /// How many a period.
    pub gpu_hours: Quantity,
}

/// Graduated prices by the GPU-hours of a period: each tier prices the hours within it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierTable {
    /// What is counted and priced.
    #[serde(default)]
    pub scope: Scope,
    /// In ascending order; the first begins at 0.
    pub tiers: Vec<Tier>,
}

/// One tier: what GPU-hours beyond `above` cost, up to the next tier. Either a price or a share off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// GPU-hours of the period below this tier.
    pub above: Quantity,
    /// This price, whatever their unit price is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Their unit price less a share, at most 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_off: Option<Percent>,
}

/// An amount that the tenant will spend over the contract's term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// What counts towards it: usage only, neither fees nor minimums.
    #[serde(default)]
    pub scope: Scope,
    /// Over the whole term, in the tenant's currency.
    pub amount: Amount,
    /// What usage beyond it costs, as a share of its price under this contract: 100 is the same,
    /// 120 a fifth more.
    pub overage_percent: Percent,
}

/// A credit for trouble: what makes an hour of an instance bad, and how much of it is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// Share of what the affected time costs.
    pub credit_percent: Percent,
    /// NVIDIA XID errors that make the hour in which they are reported a bad one; none where empty.
    #[serde(default)]
    pub xids: Vec<u32>,
    /// An instance that runs for so long without a report is down for that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreported_minutes: Option<u32>,
    /// Days until a credit expires.
    pub valid_days: u32,
}

/// Which months a tenant is billed by, where not those of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// IANA name, such as `Europe/Berlin`; UTC where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Day of the month on which a period begins, 1 to 28; the first where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_day: Option<u32>,
}

/// All rules of a contract beside its prices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Step 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discounts: Vec<Discount>,
    /// Step 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<Allowance>,
    /// Step 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TierTable>,
    /// Steps 4 and 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
    /// Step 5: the least that a period costs, in the tenant's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Amount>,
    /// Credits for trouble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,
    /// The billing calendar, from the first contract of a tenant on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing: Option<Billing>,
}

impl Terms {
    /// Whether a rule counts what happens over whole billing periods.
    pub fn counts_periods(&self) -> bool {
        let Self { discounts: _, allowances, tiers, commitment, minimum, sla: _, billing: _ } = self;
        !allowances.is_empty() || !tiers.is_empty() || commitment.is_some() || minimum.is_some()
    }
}
