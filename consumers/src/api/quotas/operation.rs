//! What operators and the compute service ask: what would fit, what has to stop, what differs.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::quotas::{Ask, Listed, QuotaCommand, Target};
use hourglass_units::{Instant, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::command;
use crate::api::app::App;
use crate::api::done::answered;
use crate::api::extract::{Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::schema;
use crate::api::tenants::PageQuery;
use crate::billing::quotas::{DriftReport, PreemptionRow, Verdict, check, drift, preemptions};
use crate::billing::report::AsOf;

/// Most bytes of a listing: as many instances as a cell can have, with room for long names.
pub const LISTING_BYTES_MAX: usize = 32 << 20;

/// Something that somebody thinks of holding.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaQuestion, example = json!({"tenant": "acme", "project": "train",
    "items": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 8}]}))]
pub(in crate::api) struct Question {
    /// For whom.
    #[schema(value_type = String)]
    tenant: TenantId,
    /// For which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// How much of what.
    #[schema(value_type = Vec<schema::QuotaItem>)]
    items: Vec<Ask>,
}

/// Something that a customer thinks of holding.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantQuotaQuestion, example = json!({"project": "train",
    "items": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 8}]}))]
pub(in crate::api) struct OwnQuestion {
    /// For which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// How much of what.
    #[schema(value_type = Vec<schema::QuotaItem>)]
    items: Vec<Ask>,
}

/// What would happen, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaVerdictAnswer)]
pub(in crate::api) struct VerdictAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    verdict: Verdict,
}

/// What the compute API runs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InstanceListing, example = json!({"listed_at": "2026-01-01T00:00:00Z",
    "instances": [{"instance": "i-1", "running": true, "gpus": 8}]}))]
pub(in crate::api) struct Listing {
    /// When the listing was taken, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    listed_at: Instant,
    /// All instances that the compute API has: what is not in it is missing.
    #[schema(value_type = Vec<schema::ListedInstance>)]
    instances: Vec<Listed>,
}

/// A comparison, as of a log position.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DriftAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    report: DriftReport,
}

async fn judged(
    app: App,
    tenant: TenantId,
    project: ProjectId,
    items: Vec<Ask>,
) -> Result<axum::Json<VerdictAnswer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| {
        let verdict = check(state, tenant, project, items, now)?;
        Ok(VerdictAnswer { as_of: AsOf::of(state), verdict })
    });
    Ok(axum::Json(read.await?))
}

/// What would become of a hold, without taking it.
#[utoipa::path(
    post, path = "/v1/quotas:check", tag = "quotas", request_body = Question,
    responses((status = 200, description = "What would happen.", body = VerdictAnswer))
)]
pub(in crate::api) async fn check_quota(
    State(app): State<App>,
    Idempotency(_checked): Idempotency,
    Json(question): Json<Question>,
) -> Result<axum::Json<VerdictAnswer>, Problem> {
    let Question { tenant, project, items } = question;
    judged(app, tenant, project, items).await
}

/// What would become of a customer's hold, without taking it.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/quotas:check", tag = "quotas", params(("tenant" = String, Path)),
    request_body = OwnQuestion,
    responses((status = 200, description = "What would happen.", body = VerdictAnswer))
)]
pub(in crate::api) async fn check_own_quota(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(_checked): Idempotency,
    Json(question): Json<OwnQuestion>,
) -> Result<axum::Json<VerdictAnswer>, Problem> {
    let OwnQuestion { project, items } = question;
    judged(app, tenant, project, items).await
}

/// Compares what the compute API runs with what holds quota. Every difference is written down; nothing is
/// mended.
#[utoipa::path(
    post, path = "/v1/quotas:reconcile", tag = "quotas", request_body = Listing,
    responses((status = 200, description = "The last comparison.", body = DriftAnswer))
)]
pub(in crate::api) async fn reconcile(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(listing): Json<Listing>,
) -> Result<Response, Problem> {
    let Listing { listed_at, instances } = listing;
    let outcome = app.submit(command(QuotaCommand::Reconcile { listed_at, instances }), name).await?;
    let last = app.read(last).await?;
    Ok(answered(&outcome, false, "/v1/quotas/drift", last))
}

/// The last comparison of what the compute API runs with what holds quota.
#[utoipa::path(
    get, path = "/v1/quotas/drift", tag = "quotas",
    responses((status = 200, description = "The last comparison.", body = DriftAnswer))
)]
pub(in crate::api) async fn last_drift(State(app): State<App>) -> Result<axum::Json<DriftAnswer>, Problem> {
    Ok(axum::Json(app.read(last).await?))
}

fn last(state: &hourglass_ledger::core::State) -> Result<DriftAnswer, Problem> {
    let none = || {
        let detail = "nothing was compared yet: post a listing to /v1/quotas:reconcile";
        Problem::not_found("never_reconciled", detail)
    };
    Ok(DriftAnswer { as_of: AsOf::of(state), report: drift(state).ok_or_else(none)? })
}

/// Orders to stop that have not been carried out: what, why, and until when. Whoever runs it stops it, and
/// says so.
#[utoipa::path(
    get, path = "/v1/preemptions", tag = "quotas", params(PageQuery),
    responses((status = 200, description = "A page of orders to stop.", body = ListPage<PreemptionRow>))
)]
pub(in crate::api) async fn list_preemptions(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<PreemptionRow>>, Problem> {
    let page = PageRequest::new("preemptions".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        let after = after.map(|after| serde_json::from_str::<Target>(after).map_err(|_| invalid()));
        let after = after.transpose()?;
        let rows = preemptions(state, after.as_ref()).take(limit);
        // A target of an id or a number has no value that JSON lacks.
        Ok(rows.map(|row| (serde_json::to_string(&row.target).unwrap_or_default(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}
