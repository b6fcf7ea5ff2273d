//! Leases: slices of a limit for checkers far away.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaRejection};
use hourglass_quota::{Class, LeaseId, NodeName};
use hourglass_units::{ResourceName, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{command, numbered, own, read, said};
use crate::api::app::{App, known_tenant};
use crate::api::done::{Done, done};
use crate::api::extract::{Body, Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::quotas::{LeaseDone, LeaseRow, lease, leases};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// A slice of a limit that a checker far away asks for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LeaseDraft, example = json!({"node": "tenants/acme", "resource": "compute.instance.gpu.h100",
    "class": "on_demand", "holder": "edge-1", "wants": 16, "safe_capacity": 2}))]
pub(in crate::api) struct Draft {
    /// At which node, of the tenant of the path.
    #[schema(value_type = String)]
    node: NodeName,
    /// What is counted.
    #[schema(value_type = String)]
    resource: ResourceName,
    /// How it is sold: `on_demand`, `preemptible` or `reserved`.
    #[schema(value_type = String)]
    class: Class,
    /// Who asks, in its own words.
    holder: String,
    /// How much it wants; it can get less.
    wants: u64,
    /// How much it may use even when it is cut off.
    #[serde(default)]
    #[schema(required = false)]
    safe_capacity: u64,
}

/// What a holder says when it refreshes its lease.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LeaseRefresh, example = json!({"wants": 16, "known_version": 1, "in_use": 8}))]
pub(in crate::api) struct Refresh {
    /// How much it wants.
    wants: u64,
    /// The newest version that it knows, once it uses nothing above that one's capacity.
    known_version: u64,
    /// What it uses.
    in_use: u64,
}

/// A lease, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    lease: LeaseRow,
}

/// Gives a checker a slice of a limit: it may decide about that without asking, until the lease expires.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/leases", tag = "holds", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 201, description = "Granted.", body = LeaseDone))
)]
pub(in crate::api) async fn acquire_lease(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { node, resource, class, holder, wants, safe_capacity } = draft;
    own(&tenant, &node)?;
    let acquire = QuotaCommand::AcquireLease { node, resource, class, holder, wants, safe_capacity };
    let outcome = app.submit(command(acquire), name).await?;
    let body = LeaseDone::of(outcome.answer(), &tenant);
    let resource = body.as_ref().map(|body| body.resource.clone()).unwrap_or_default();
    said(&outcome, true, &resource, body)
}

/// The leases at a customer's nodes, in the order in which they were granted.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/leases", tag = "holds", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of leases.", body = ListPage<LeaseRow>))
)]
pub(in crate::api) async fn list_leases(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<LeaseRow>>, Problem> {
    let list = format!("leases {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let after = after.map_or(Ok(LeaseId(0)), |after| after.parse().map_err(|_| invalid()))?;
        let rows = leases(state, &tenant, after).take(limit);
        Ok(rows.map(|row| (row.lease.to_string(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

fn unknown(lease: LeaseId) -> Problem {
    Rejection::from(QuotaRejection::LeaseUnknown { lease }).into()
}

/// One lease.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/leases/{lease}", tag = "holds",
    params(("tenant" = String, Path), ("lease" = u64, Path)),
    responses((status = 200, description = "The lease.", body = Answer))
)]
pub(in crate::api) async fn get_lease(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, LeaseId)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        match lease(state, id, &tenant) {
            Some(lease) => Ok(Answer { as_of: AsOf::of(state), lease }),
            None => Err(unknown(id)),
        }
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{lease}:refresh` and `:return`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_lease(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let actions = ":refresh and :return";
    let (number, action) = numbered(&named, actions)?;
    let of = (tenant, LeaseId(number));
    match action {
        "refresh" => refresh_lease(app, of, name, read(&body)?).await,
        "return" => return_lease(app, of, name).await,
        _ => Err(Problem::not_found("action_unknown", format!("a lease has the actions {actions}"))),
    }
}

/// Another tenant's lease is as unknown as one that is not there. What the core says of one that is not there
/// can be the first answer to a repeat.
async fn not_foreign(app: &App, tenant: &TenantId, id: LeaseId) -> Result<(), Problem> {
    let of = tenant.clone();
    app.read(move |state| {
        known_tenant(state, &of)?;
        let foreign = state.quotas().leases().get(id).is_some() && lease(state, id, &of).is_none();
        if foreign { Err(unknown(id)) } else { Ok(()) }
    })
    .await
}

/// Gives a lease more time, and another capacity.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/leases/{lease}:refresh", tag = "holds",
    params(("tenant" = String, Path), ("lease" = u64, Path)), request_body = Refresh,
    responses((status = 200, description = "Refreshed.", body = LeaseDone))
)]
pub(in crate::api) async fn refresh_lease(
    app: App,
    (tenant, lease): (TenantId, LeaseId),
    name: Option<Name>,
    draft: Refresh,
) -> Result<Response, Problem> {
    not_foreign(&app, &tenant, lease).await?;
    let Refresh { wants, known_version, in_use } = draft;
    let refresh = QuotaCommand::RefreshLease { lease, wants, known_version, in_use };
    let outcome = app.submit(command(refresh), name).await?;
    let body = LeaseDone::of(outcome.answer(), &tenant);
    said(&outcome, false, &format!("/v1/tenants/{tenant}/leases/{lease}"), body)
}

/// Gives a lease back: its holder uses nothing of it any more.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/leases/{lease}:return", tag = "holds",
    params(("tenant" = String, Path), ("lease" = u64, Path)),
    responses((status = 200, description = "Given back.", body = Done))
)]
pub(in crate::api) async fn return_lease(
    app: App,
    (tenant, lease): (TenantId, LeaseId),
    name: Option<Name>,
) -> Result<Response, Problem> {
    not_foreign(&app, &tenant, lease).await?;
    let outcome = app.submit(command(QuotaCommand::ReturnLease { lease }), name).await?;
    Ok(done(&outcome, false, format!("/v1/tenants/{tenant}/leases")))
}
