//! Budgets.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::quotas::{BudgetDraft, QuotaCommand, QuotaRejection};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, BudgetId, Currency, Percent, Platform, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Path, Query};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::budgets::{BudgetRow, budget, budgets};
use crate::billing::report::AsOf;

/// A budget to set, in place of the one with the same id.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetDraft, example = json!({"amount": "20000", "currency": "USD", "project": "ml",
    "thresholds": ["50", "80", "100"], "forecast_thresholds": ["100"]}))]
pub(super) struct Draft {
    /// How much a billing period is to cost, before tax and credit, a decimal above zero.
    #[schema(value_type = String)]
    amount: Amount,
    /// Of the amount: the one that the customer is billed in, ISO 4217.
    #[schema(value_type = String)]
    currency: Currency,
    /// For people.
    #[serde(default)]
    #[schema(required = false)]
    description: String,
    /// Of which project; of all where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// On which platform; on all where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    platform: Option<Platform>,
    /// Sold how: `on_demand`, `reserved` or `spot`; in any way where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<PurchaseModel>,
    /// At which parts of it somebody is told that it was charged, in percent, in rising order.
    #[serde(default)]
    #[schema(value_type = Vec<String>, required = false)]
    thresholds: Vec<Percent>,
    /// At which parts of it somebody is told that the period will cost so much, in percent, in rising order.
    #[serde(default)]
    #[schema(value_type = Vec<String>, required = false)]
    forecast_thresholds: Vec<Percent>,
}

/// A budget, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = BudgetAnswer)]
pub(super) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    budget: BudgetRow,
}

/// A customer's budgets, by id, with what was charged, what the period will cost, and which thresholds were reached.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/budgets", tag = "budgets",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of budgets.", body = ListPage<BudgetRow>))
)]
pub(super) async fn list_budgets(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<BudgetRow>>, Problem> {
    let page = PageRequest::new(format!("budgets {tenant}"), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        Ok(budgets(state, &tenant, after).take(limit).map(|row| (row.budget.clone(), row)).collect())
    });
    Ok(JsonAnswer(page.await?))
}

/// One budget.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/budgets/{budget}", tag = "budgets",
    params(("tenant" = String, Path), ("budget" = String, Path)),
    responses((status = 200, description = "The budget.", body = Answer))
)]
pub(super) async fn get_budget(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, BudgetId)>,
) -> Result<JsonAnswer<Answer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        match budget(state, &tenant, &id) {
            Some(budget) => Ok(Answer { as_of: AsOf::of(state), budget }),
            None => Err(Rejection::from(QuotaRejection::BudgetUnknown { budget: id }).into()),
        }
    });
    Ok(JsonAnswer(read.await?))
}

/// Sets a budget. Each threshold is told of once in a billing period, by NATS and webhook.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/budgets/{budget}", tag = "budgets",
    params(("tenant" = String, Path), ("budget" = String, Path)), request_body = Draft,
    responses((status = 200, description = "Set.", body = Done))
)]
pub(super) async fn set_budget(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, BudgetId)>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { amount, currency, description, project, platform, model, thresholds, forecast_thresholds } =
        draft;
    let of = tenant.clone();
    // The currency of an account never changes, so this cannot be overtaken.
    let billed = app.read(move |state| match state.tenant(&of) {
        Some(account) => Ok(account.currency),
        None => Err(Rejection::TenantUnknown { tenant: of }.into()),
    });
    let billed = billed.await?;
    if currency != billed {
        let detail = format!("{tenant} is billed in {billed}: give the amount in it");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "currency_differs", detail));
    }
    let draft =
        BudgetDraft { description, amount, project, platform, model, thresholds, forecast_thresholds };
    submit(&app, tenant, id, Some(draft), name).await
}

/// Takes a budget away.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/budgets/{budget}", tag = "budgets",
    params(("tenant" = String, Path), ("budget" = String, Path)),
    responses((status = 200, description = "Taken away.", body = Done))
)]
pub(super) async fn remove_budget(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, BudgetId)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    submit(&app, tenant, id, None, name).await
}

async fn submit(
    app: &App,
    tenant: TenantId,
    budget: BudgetId,
    draft: Option<BudgetDraft>,
    name: Option<crate::usage::Name>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/budgets/{budget}");
    let outcome = app.submit(QuotaCommand::SetBudget { tenant, budget, draft }.into(), name).await?;
    Ok(done(&outcome, false, resource))
}
