//! Budgets: what of a tenant's charges is watched, and of which thresholds somebody was told.
//!
//! They go the way of spend caps: a tick looks at what was charged, by the same function, and a review
//! says what that brought about. A budget keeps no money and stops nothing.

use std::collections::BTreeMap;

use hourglass_pricing::PurchaseModel;
use hourglass_pricing::settle::{Item, ItemKey};
use hourglass_quota::budget::{BUDGETS_A_TENANT_MAX, Basis, are_thresholds, projected, reached as parts};
use hourglass_units::{Amount, BudgetId, Instant, Interval, Month, Percent, Platform, ProjectId, TenantId};
use serde::{Deserialize, Serialize};

use super::Quotas;
use super::command::{BudgetAlert, QuotaEvent};
use super::rejection::QuotaRejection;
use crate::core::Inconsistent;
use crate::core::decide::{check_text, find_tenant};
use crate::core::exposure::{self, Part};
use crate::core::rejection::Rejection;
use crate::core::state::State;

/// A budget as it is asked for: how much a billing period is to cost, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetDraft {
    /// For people.
    pub description: String,
    /// How much, before tax and before credit.
    pub amount: Amount,
    /// Of which project; of all where absent.
    pub project: Option<ProjectId>,
    /// On which platform; on all where absent.
    pub platform: Option<Platform>,
    /// Sold how; in any way where absent.
    pub model: Option<PurchaseModel>,
    /// At which parts of it somebody is told that it was charged, in rising order.
    pub thresholds: Vec<Percent>,
    /// At which parts of it somebody is told that it will be, in rising order.
    pub forecast_thresholds: Vec<Percent>,
}

impl BudgetDraft {
    /// What of the tenant's charges it counts. Minimums and true-ups belong to no project, platform or
    /// model: only a budget for all of a tenant counts them.
    fn part(&self) -> Part<'_> {
        Part { project: self.project.as_ref(), platform: self.platform.as_ref(), model: self.model }
    }

    fn check(&self) -> Result<(), Rejection> {
        check_text("the budget's description", &self.description)?;
        let invalid = |why| Err(QuotaRejection::BudgetInvalid(why).into());
        if self.amount <= Amount::ZERO {
            return invalid("a budget is above zero");
        }
        if !are_thresholds(&self.thresholds) || !are_thresholds(&self.forecast_thresholds) {
            return invalid("give at most 10 thresholds above zero, in rising order");
        }
        if self.thresholds.is_empty() && self.forecast_thresholds.is_empty() {
            return invalid("give at least one threshold: a budget that tells nobody is none");
        }
        Ok(())
    }

    fn thresholds_of(&self, basis: Basis) -> &[Percent] {
        match basis {
            Basis::Actual => &self.thresholds,
            Basis::Forecast => &self.forecast_thresholds,
        }
    }
}

/// A threshold that was reached in the period, and when somebody was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// What reached it.
    pub basis: Basis,
    /// Which.
    pub threshold: Percent,
    /// When.
    pub at: Instant,
    /// Where in the log.
    pub position: u64,
    /// What was charged by then.
    pub spent: Amount,
    /// What the period would cost, as it looked then.
    pub projected: Option<Amount>,
}

/// A budget as the cell knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// As it was asked for.
    pub draft: BudgetDraft,
    /// When it was set.
    pub set_at: Instant,
    /// When the charges were looked at last.
    pub at: Instant,
    /// Up to which position.
    pub position: u64,
    /// The billing period that it looks at.
    pub period: Month,
    /// When that is.
    pub interval: Interval,
    /// What was charged in it.
    pub spent: Amount,
    /// What it will cost if it goes on like this; absent in its first day.
    pub projected: Option<Amount>,
    /// The thresholds that were reached in it.
    pub crossed: Vec<Crossing>,
}

/// Decides about a budget.
pub(super) fn decide(
    state: &State,
    tenant: &TenantId,
    budget: &BudgetId,
    draft: Option<&BudgetDraft>,
) -> Result<QuotaEvent, Rejection> {
    find_tenant(state, tenant)?;
    let known = state.quotas.budget(tenant, budget).is_some();
    match draft {
        Some(draft) => {
            draft.check()?;
            if !known && state.quotas.budgets_of(tenant).count() >= BUDGETS_A_TENANT_MAX {
                return Err(QuotaRejection::BudgetsFull.into());
            }
        }
        None if !known => return Err(QuotaRejection::BudgetUnknown { budget: budget.clone() }.into()),
        None => {}
    }
    Ok(QuotaEvent::BudgetSet { tenant: tenant.clone(), budget: budget.clone(), draft: draft.cloned() })
}

/// Sets a budget, or takes it away.
pub(super) fn set(
    state: &mut State,
    tenant: &TenantId,
    id: &BudgetId,
    draft: Option<&BudgetDraft>,
    at: Instant,
) -> Result<(), Inconsistent> {
    let Some(draft) = draft else {
        let budgets = state.quotas.budgets.entry(tenant.clone()).or_default();
        budgets.remove(id);
        if budgets.is_empty() {
            state.quotas.budgets.remove(tenant);
        }
        return Ok(());
    };
    let look = Look::at(state, tenant, at)?;
    let mut budget = look.at_budget(state, draft.clone(), at)?;
    // A threshold of which somebody was told in this period is told again only where what is compared
    // with it is something else.
    if let Some(before) = state.quotas.budget(tenant, id) {
        let same = before.draft.amount == draft.amount && before.draft.part() == draft.part();
        let still = |it: &&Crossing| draft.thresholds_of(it.basis).contains(&it.threshold);
        if same && before.period == budget.period {
            budget.crossed = before.crossed.iter().filter(still).cloned().collect();
        }
    }
    state.quotas.budgets.entry(tenant.clone()).or_default().insert(id.clone(), budget);
    Ok(())
}

/// What a tenant's open billing period holds, for all its budgets at once.
struct Look {
    period: Month,
    interval: Interval,
    items: BTreeMap<ItemKey, Item>,
}

impl Look {
    fn at(state: &State, tenant: &TenantId, at: Instant) -> Result<Self, Inconsistent> {
        let calendar = state.calendars.of(tenant);
        let period = calendar.containing(at);
        let items = exposure::items_of(state, tenant, period, at).map_err(out_of_range)?;
        Ok(Self { period, interval: calendar.interval(period), items })
    }

    fn at_budget(&self, state: &State, draft: BudgetDraft, at: Instant) -> Result<Budget, Inconsistent> {
        let spent = exposure::sum_of(state, &self.items, self.period, draft.part()).map_err(out_of_range)?;
        Ok(Budget {
            set_at: at,
            at,
            position: state.position.number(),
            period: self.period,
            interval: self.interval,
            spent,
            projected: projected(spent, self.interval, at),
            crossed: Vec::new(),
            draft,
        })
    }
}

fn out_of_range(_: hourglass_pricing::settle::OutOfRange) -> Inconsistent {
    Inconsistent::new("charges out of range")
}

/// Looks at every budget again. A tenant's charges are settled once for all of its budgets.
pub(crate) fn review_budgets(state: &mut State, at: Instant) -> Result<(), Inconsistent> {
    let tenants: Vec<TenantId> = state.quotas.budgets.keys().cloned().collect();
    for tenant in tenants {
        let look = Look::at(state, &tenant, at)?;
        let mut budgets = std::mem::take(state.quotas.budgets.entry(tenant.clone()).or_default());
        for budget in budgets.values_mut() {
            let found = look.at_budget(state, budget.draft.clone(), at)?;
            let crossed = std::mem::take(&mut budget.crossed);
            let crossed = if budget.period == found.period { crossed } else { Vec::new() };
            *budget = Budget { set_at: budget.set_at, crossed, ..found };
        }
        state.quotas.budgets.insert(tenant, budgets);
    }
    Ok(())
}

/// The thresholds that were reached and of which nobody was told in the period.
pub(super) fn reached(quotas: &Quotas) -> Vec<BudgetAlert> {
    let mut alerts = Vec::new();
    for (tenant, budgets) in &quotas.budgets {
        for (id, budget) in budgets {
            let of = |basis, amount: Amount| {
                let thresholds = budget.draft.thresholds_of(basis);
                let told = move |threshold: &Percent| {
                    budget.crossed.iter().any(|it| it.basis == basis && it.threshold == *threshold)
                };
                let parts = parts(thresholds, budget.draft.amount, amount);
                parts.filter(move |threshold| !told(threshold)).map(move |threshold| BudgetAlert {
                    tenant: tenant.clone(),
                    budget: id.clone(),
                    period: budget.period,
                    basis,
                    threshold,
                    amount: budget.draft.amount,
                    spent: budget.spent,
                    projected: budget.projected,
                })
            };
            alerts.extend(of(Basis::Actual, budget.spent));
            alerts.extend(budget.projected.into_iter().flat_map(|projected| of(Basis::Forecast, projected)));
        }
    }
    alerts
}

/// Notes of which thresholds somebody was told.
pub(super) fn alerted(
    quotas: &mut Quotas,
    alerts: &[BudgetAlert],
    position: u64,
    at: Instant,
) -> Result<(), Inconsistent> {
    for alert in alerts {
        let budget = quotas.budgets.get_mut(&alert.tenant).and_then(|it| it.get_mut(&alert.budget));
        let budget = budget.ok_or_else(|| Inconsistent::new("an alert of an unknown budget"))?;
        let BudgetAlert { basis, threshold, spent, projected, .. } = *alert;
        budget.crossed.push(Crossing { basis, threshold, at, position, spent, projected });
    }
    Ok(())
}
