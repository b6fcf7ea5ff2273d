//! Budgets, as HTTP and the command line show them.

use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::{Budget, Crossing};
use hourglass_units::{BudgetId, Currency, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A threshold that was reached in the period.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BudgetCrossing)]
pub struct CrossingRow {
    /// What reached it: `actual` (what was charged) or `forecast` (what the period will cost).
    pub basis: String,
    /// Which, in percent of the budget.
    pub threshold_percent: String,
    /// When somebody was told, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// Where in the log.
    pub position: u64,
    /// What was charged by then, an exact decimal.
    pub spent: String,
    /// What the period would cost, as it looked then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<String>,
}

/// A budget, with what the last tick found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Budget)]
pub struct BudgetRow {
    /// Its id, unique in its tenant.
    pub budget: String,
    /// For people.
    pub description: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// How much a billing period is to cost, before tax and credit, a decimal.
    pub amount: String,
    /// Of which project; of all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// On which platform; on all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Sold how: `on_demand`, `reserved` or `spot`; in any way where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// At which parts of it somebody is told that it was charged, in percent.
    pub thresholds: Vec<String>,
    /// At which parts of it somebody is told that it will be, in percent.
    pub forecast_thresholds: Vec<String>,
    /// The billing period that is open.
    pub period: String,
    /// Its first instant, RFC 3339.
    #[schema(format = DateTime)]
    pub period_start: String,
    /// The first instant after it, RFC 3339.
    #[schema(format = DateTime)]
    pub period_end: String,
    /// What was charged in it, an exact decimal.
    pub spent: String,
    /// What it will cost if it goes on as it did: what was charged, times the whole period, by the part of it that
    /// is over. Absent in its first day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<String>,
    /// The thresholds that were reached in it, each once.
    pub crossed: Vec<CrossingRow>,
    /// When the charges were looked at last, RFC 3339.
    #[schema(format = DateTime)]
    pub reviewed_at: String,
}

/// The budgets of a tenant behind one of them, by id.
pub fn budgets<'a>(
    state: &'a State,
    tenant: &'a TenantId,
    after: Option<&'a str>,
) -> impl Iterator<Item = BudgetRow> + 'a {
    let currency = state.tenant(tenant).map(|account| account.currency);
    let behind = move |id: &BudgetId| after.is_none_or(|after| id.as_str() > after);
    let of = state.quotas().budgets_of(tenant).filter(move |(id, _)| behind(id));
    of.filter_map(move |(id, budget)| Some(row(id, budget, currency?)))
}

/// One of them.
pub fn budget(state: &State, tenant: &TenantId, id: &BudgetId) -> Option<BudgetRow> {
    let currency = state.tenant(tenant)?.currency;
    state.quotas().budget(tenant, id).map(|budget| row(id, budget, currency))
}

fn row(id: &BudgetId, budget: &Budget, currency: Currency) -> BudgetRow {
    let Budget { draft, at, period, interval, spent, projected, crossed, .. } = budget;
    let crossing = |it: &Crossing| CrossingRow {
        basis: it.basis.as_str().to_owned(),
        threshold_percent: it.threshold.to_string(),
        at: it.at.to_string(),
        position: it.position,
        spent: it.spent.to_string(),
        projected: it.projected.map(|it| it.to_string()),
    };
    BudgetRow {
        budget: id.to_string(),
        description: draft.description.clone(),
        currency: currency.to_string(),
        amount: draft.amount.to_string(),
        project: draft.project.as_ref().map(ToString::to_string),
        platform: draft.platform.as_ref().map(ToString::to_string),
        model: draft.model.map(|model| model.as_str().to_owned()),
        thresholds: draft.thresholds.iter().map(ToString::to_string).collect(),
        forecast_thresholds: draft.forecast_thresholds.iter().map(ToString::to_string).collect(),
        period: period.to_string(),
        period_start: interval.start().to_string(),
        period_end: interval.end().to_string(),
        spent: spent.to_string(),
        projected: projected.map(|it| it.to_string()),
        crossed: crossed.iter().map(crossing).collect(),
        reviewed_at: at.to_string(),
    }
}
