//! Spend caps.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_quota::cap::{CapDraft, CapPeriod, Enforcement, NOTICE_MS_MIN};
use hourglass_units::{Amount, Currency, Percent, ProjectId, TenantId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::app::{App, known_tenant};
use crate::api::done::{Done, done};
use crate::api::extract::{Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, behind};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::quotas::{CapRow, caps};

/// A spend cap to set, in place of the one of the same project and period.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SpendCapDraft, example = json!({"period": "monthly", "amount": "5000", "currency": "USD",
    "enforcement": "hard", "thresholds": ["50", "80", "100"], "notice_seconds": 120}))]
pub(in crate::api) struct Draft {
    /// Of which project; of the whole customer where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Over which time: `monthly` (a billing period), `total`, or `prepaid` (as long as bought credit lasts).
    #[schema(value_type = String)]
    period: CapPeriod,
    /// How much, before tax and credit, a decimal; absent for `prepaid`, where the balance is the limit.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    amount: Option<Amount>,
    /// Of the amount: the one that the customer is billed in, ISO 4217.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
    /// `hard`: nothing starts that could break it, and what runs is stopped in time. `soft`: alerts alone.
    #[schema(value_type = String)]
    enforcement: Enforcement,
    /// At which parts of the limit an alert is given, in percent, in rising order.
    #[serde(default)]
    #[schema(value_type = Vec<String>, required = false)]
    thresholds: Vec<Percent>,
    /// How long it takes at most from the order to stop until nothing runs: 120 to 3,600; 120 where absent.
    #[serde(default = "notice")]
    #[schema(required = false)]
    notice_seconds: u32,
}

fn notice() -> u32 {
    u32::try_from(NOTICE_MS_MIN.div_euclid(1_000)).unwrap_or(u32::MAX)
}

/// Which cap to take away.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct CapQuery {
    /// Of which project; of the whole customer where absent.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// `monthly`, `total` or `prepaid`.
    #[param(value_type = String)]
    period: CapPeriod,
}

/// A customer's spend caps, with what their last review found.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/spend-caps", tag = "quotas",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of spend caps.", body = ListPage<CapRow>))
)]
pub(in crate::api) async fn list_caps(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<CapRow>>, Problem> {
    let list = format!("spend caps {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        behind(caps(state, &tenant).into_iter(), after, limit)
    });
    Ok(axum::Json(page.await?))
}

/// Sets a spend cap.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/spend-caps", tag = "quotas", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_cap(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { project, period, amount, currency, enforcement, thresholds, notice_seconds } = draft;
    let of = tenant.clone();
    // The currency of an account never changes, so this cannot be overtaken.
    let billed = app.read(move |state| match state.tenant(&of) {
        Some(account) => Ok(account.currency),
        None => Err(Rejection::TenantUnknown { tenant: of }.into()),
    });
    let billed = billed.await?;
    if currency.is_some_and(|given| given != billed) || (amount.is_some() && currency.is_none()) {
        let detail = format!("{tenant} is billed in {billed}: give the amount in it, and `currency`");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "currency_differs", detail));
    }
    let notice_ms = i64::from(notice_seconds).saturating_mul(1_000);
    let cap = Some(CapDraft { period, amount, enforcement, thresholds, notice_ms });
    let resource = format!("/v1/tenants/{tenant}/spend-caps");
    let outcome = app.submit(QuotaCommand::SetCap { tenant, project, period, cap }.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// Takes a spend cap away.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/spend-caps", tag = "quotas",
    params(("tenant" = String, Path), CapQuery),
    responses((status = 200, description = "Taken away.", body = Done))
)]
pub(in crate::api) async fn remove_cap(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<CapQuery>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    let CapQuery { project, period } = query;
    let resource = format!("/v1/tenants/{tenant}/spend-caps");
    let command = QuotaCommand::SetCap { tenant, project, period, cap: None };
    let outcome = app.submit(command.into(), name).await?;
    Ok(done(&outcome, false, resource))
}
