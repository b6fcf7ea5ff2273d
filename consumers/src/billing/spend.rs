//! Where a customer's billing period stands and ends, and how far its commitments are.

use hourglass_ledger::core::projection::{Burndown, Charges, Projection, burndowns, project};
use hourglass_ledger::core::{Rejection, State};
use hourglass_units::{Amount, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the end of a period is foreseen.
const METHOD: &str = "what was used of the period so far goes on, hour for hour and at the prices that it had, until the \
    period ends; the contract's rules and credit are applied to the whole, reservations cost what they cost";

/// What a period comes to: exact decimals, before tax and rounding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SpendCharges)]
pub struct ChargesRow {
    /// GPU-hours, all rules of the contract applied.
    pub usage: String,
    /// Reservations, whether used or not.
    pub fees: String,
    /// What the period lacks to its minimum.
    pub minimum: String,
    /// What a commitment lacks that ends with the period.
    pub true_up: String,
    /// What credit pays of all that.
    pub credit: String,
    /// What is left to pay.
    pub total: String,
}

impl From<Charges> for ChargesRow {
    fn from(charges: Charges) -> Self {
        let Charges { usage, fees, minimum, true_up, credit, total } = charges;
        Self {
            usage: usage.to_string(),
            fees: fees.to_string(),
            minimum: minimum.to_string(),
            true_up: true_up.to_string(),
            credit: credit.to_string(),
            total: total.to_string(),
        }
    }
}

/// Where the running billing period stands, and where it ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Spend)]
pub struct SpendRow {
    /// The billing period, `YYYY-MM`.
    pub period: String,
    /// Its first millisecond, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// The first millisecond after it, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// As it stands.
    pub to_date: ChargesRow,
    /// As it ends, by the method below.
    pub projected: ChargesRow,
    /// How it is foreseen.
    pub method: String,
    /// Since when usage is carried on, RFC 3339; absent where no time has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub basis_start: Option<String>,
}

/// How far a commitment is drawn down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Commitment)]
pub struct CommitmentRow {
    /// Of which contract, `name@version`.
    pub contract: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// Over its whole term, an exact decimal.
    pub amount: String,
    /// Drawn so far, an exact decimal.
    pub drawn: String,
    /// What is left of it, an exact decimal.
    pub remaining: String,
    /// Its first billing period, `YYYY-MM`.
    pub first_period: String,
    /// Its last billing period, `YYYY-MM`: what it lacks then is due. Absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_period: Option<String>,
    /// What was drawn in each billing period, in order.
    pub periods: Vec<CommitmentPeriod>,
}

/// What was drawn from a commitment in a billing period.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CommitmentPeriod {
    /// `YYYY-MM`.
    pub period: String,
    /// Drawn in it, an exact decimal.
    pub drawn: String,
    /// What was left of the commitment behind it, an exact decimal.
    pub remaining: String,
}

fn currency_of(state: &State, tenant: &TenantId) -> String {
    state.tenant(tenant).map(|tenant| tenant.currency.to_string()).unwrap_or_default()
}

/// Where the running period of a customer stands and ends.
pub fn spend(state: &State, tenant: &TenantId) -> Result<SpendRow, Rejection> {
    let Projection { period, interval, basis, to_date, projected } = project(state, tenant)?;
    Ok(SpendRow {
        period: period.to_string(),
        start: interval.start().to_string(),
        end: interval.end().to_string(),
        currency: currency_of(state, tenant),
        to_date: to_date.into(),
        projected: projected.into(),
        method: METHOD.to_owned(),
        basis_start: basis.map(|basis| basis.start().to_string()),
    })
}

/// The commitments of a customer, in order of time.
pub fn commitments(state: &State, tenant: &TenantId) -> Result<Vec<CommitmentRow>, Rejection> {
    let currency = currency_of(state, tenant);
    let row = |it: Burndown| {
        let left = |drawn: Amount| it.amount.checked_sub(drawn).ok_or(Rejection::AmountOverflow);
        let mut sum = Amount::ZERO;
        let mut periods = Vec::with_capacity(it.periods.len());
        for (period, drawn) in &it.periods {
            sum = sum.checked_add(*drawn).ok_or(Rejection::AmountOverflow)?;
            let (period, drawn, remaining) = (period.to_string(), drawn.to_string(), left(sum)?.to_string());
            periods.push(CommitmentPeriod { period, drawn, remaining });
        }
        Ok(CommitmentRow {
            currency: currency.clone(),
            amount: it.amount.to_string(),
            drawn: it.drawn.to_string(),
            remaining: left(it.drawn)?.to_string(),
            first_period: it.first.to_string(),
            last_period: it.last.map(|last| last.to_string()),
            contract: it.contract,
            periods,
        })
    };
    burndowns(state, tenant)?.into_iter().map(row).collect()
}
