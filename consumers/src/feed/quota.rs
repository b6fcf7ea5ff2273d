//! What a tenant, or whoever runs the cell, is to be told about quota.

use std::collections::BTreeMap;

use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::{BudgetAlert, CapAlert, Drift, Preemption, QuotaEvent, Target};
use hourglass_proto::subjects::Subjects;
use hourglass_quota::RequestId;
use hourglass_units::TenantId;
use serde_json::{Value, json};

use super::notice::Told;

pub(super) const SPEND_ALERT: &str = "hourglass.spend.alert.v1";
pub(super) const BUDGET_ALERT: &str = "hourglass.budget.alert.v1";
pub(super) const PREEMPTION_ORDERED: &str = "hourglass.preemption.ordered.v1";
pub(super) const QUOTA_UNHELD: &str = "hourglass.quota.unheld.v1";
pub(super) const QUOTA_DRIFT: &str = "hourglass.quota.drift.v1";
pub(super) const REQUEST_DECIDED: &str = "hourglass.quota.request.decided.v1";

/// In place of a tenant, where nobody knows whose something is: no tenant's id begins so.
pub(super) const OF_THE_CELL: &str = "_cell";
/// Most differences that one message lists.
pub const DRIFT_LISTED_MAX: usize = 1_000;

/// What follows from an event, in order.
pub(super) fn told(event: &QuotaEvent, position: u64, state: &State, subjects: &Subjects) -> Vec<Told> {
    match event {
        QuotaEvent::Reviewed(review) => {
            let alerts = review.alerts.iter().map(|alert| of_alert(alert, position, state, subjects));
            let preempted = review.preempted.iter().map(|it| of_preemption(it, position, subjects));
            let unheld = review.unheld.iter().filter_map(|instance| {
                let view = state.instance(instance.as_str())?;
                let data = json!({
                    "position": position, "instance": instance, "tenant": view.tenant(),
                    "project": view.project(), "gpus": view.gpus(),
                });
                Some((subjects.alerts(view.tenant().as_str()), QUOTA_UNHELD, instance.to_string(), data))
            });
            let budgets = review.budgets.iter().map(|alert| of_budget(alert, position, state, subjects));
            alerts.chain(preempted).chain(unheld).chain(budgets).collect()
        }
        QuotaEvent::Reconciled { drift, .. } => of_drift(drift, position, subjects),
        // Named by the event's own position, where rules decided at once.
        QuotaEvent::IncreaseRequested(request) if request.decision.is_some() => {
            of_request(RequestId(position), position, state, subjects).into_iter().collect()
        }
        QuotaEvent::IncreaseDecided { request, .. } => {
            of_request(*request, position, state, subjects).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn of_alert(alert: &CapAlert, position: u64, state: &State, subjects: &Subjects) -> Told {
    let currency = state.tenant(&alert.tenant).map(|tenant| tenant.currency.code());
    let data = json!({
        "position": position, "tenant": alert.tenant, "project": alert.project,
        "period": alert.period.as_str(), "thresholds_crossed": alert.crossed, "currency": currency,
        "limit": alert.limit.to_string(), "spent": alert.spent.to_string(),
        "held": alert.exposed.to_string(), "exhausted": alert.exhausted,
    });
    (subjects.alerts(alert.tenant.as_str()), SPEND_ALERT, alert.tenant.to_string(), data)
}

fn of_budget(alert: &BudgetAlert, position: u64, state: &State, subjects: &Subjects) -> Told {
    let BudgetAlert { tenant, budget, period, basis, threshold, amount, spent, projected } = alert;
    let currency = state.tenant(tenant).map(|tenant| tenant.currency.code());
    let data = json!({
        "position": position, "tenant": tenant, "budget": budget, "period": period.to_string(),
        "basis": basis.as_str(), "threshold_percent": threshold.to_string(), "currency": currency,
        "amount": amount.to_string(), "spent": spent.to_string(),
        "projected": projected.map(|it| it.to_string()),
        "resource": format!("/v1/tenants/{tenant}/budgets/{budget}"),
    });
    (subjects.alerts(tenant.as_str()), BUDGET_ALERT, format!("{tenant}/{budget}"), data)
}

fn of_preemption(it: &Preemption, position: u64, subjects: &Subjects) -> Told {
    let (instance, hold) = match &it.target {
        Target::Instance(instance) => (Some(instance.to_string()), None),
        Target::Hold(hold) => (None, Some(hold.0)),
    };
    let about = instance.clone().unwrap_or_else(|| it.tenant.to_string());
    let data = json!({
        "position": position, "tenant": it.tenant, "instance": instance, "hold": hold,
        "cause": it.cause.as_str(), "reason": it.reason, "deadline": it.deadline.to_string(),
    });
    (subjects.lifecycle(it.tenant.as_str()), PREEMPTION_ORDERED, about, data)
}

/// One message for each tenant, and one for what nobody is known to own.
fn of_drift(drift: &[Drift], position: u64, subjects: &Subjects) -> Vec<Told> {
    let mut by_tenant: BTreeMap<Option<&TenantId>, Vec<&Drift>> = BTreeMap::new();
    for one in drift {
        by_tenant.entry(one.tenant.as_ref()).or_default().push(one);
    }
    let told = |(tenant, drift): (Option<&TenantId>, Vec<&Drift>)| {
        let listed = drift.iter().take(DRIFT_LISTED_MAX);
        let instances: Vec<Value> = listed
            .map(|it| {
                json!({
                    "instance": it.instance, "kind": it.kind.as_str(),
                    "gpus_counted": it.counted, "gpus_listed": it.listed,
                })
            })
            .collect();
        let whose = tenant.map_or(OF_THE_CELL, TenantId::as_str);
        let data = json!({
            "position": position, "tenant": tenant, "differences": drift.len(), "instances": instances,
        });
        (subjects.alerts(whose), QUOTA_DRIFT, whose.to_owned(), data)
    };
    by_tenant.into_iter().map(told).collect()
}

fn of_request(id: RequestId, position: u64, state: &State, subjects: &Subjects) -> Option<Told> {
    let request = state.quotas().request(id)?;
    let decision = request.decision.as_ref()?;
    let tenant = request.node.tenant();
    let data = json!({
        "position": position, "request": id.0, "node": request.node, "resource": request.resource,
        "class": request.class, "wanted": request.wanted, "status": request.status.as_str(),
        "granted": decision.granted, "approver": decision.approver, "reason": decision.reason,
    });
    Some((subjects.alerts(tenant.as_str()), REQUEST_DECIDED, tenant.to_string(), data))
}
