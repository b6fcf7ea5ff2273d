//! Holds: what is taken for a time until it is committed, given back or runs out.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::quotas::{Ask, QuotaCommand, QuotaRejection};
use hourglass_quota::HoldId;
use hourglass_quota::hold::HoldError;
use hourglass_units::{ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{command, numbered, read, said};
use crate::api::app::{App, known_tenant};
use crate::api::extract::{Body, Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::schema;
use crate::api::tenants::PageQuery;
use crate::billing::quotas::{HoldDone, HoldRow, hold, hold_is_of, holds};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// Something to hold: all of it or nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HoldDraft, example = json!({"project": "train", "ttl_seconds": 600,
    "items": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 8}]}))]
pub(in crate::api) struct Draft {
    /// For which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// How much of what: 1 to 16 items, each resource in one class.
    #[schema(value_type = Vec<schema::QuotaItem>)]
    items: Vec<Ask>,
    /// How long it is held without being committed: 1 to 86,400.
    ttl_seconds: u32,
}

/// More time.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HoldRenewal, example = json!({"ttl_seconds": 600}))]
pub(in crate::api) struct Renewal {
    /// How long from now on: 1 to 86,400.
    ttl_seconds: u32,
}

/// Other amounts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HoldResize, example = json!({
    "items": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 4}]}))]
pub(in crate::api) struct Resize {
    /// How much of what from now on.
    #[schema(value_type = Vec<schema::QuotaItem>)]
    items: Vec<Ask>,
}

/// A hold, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = HoldAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    hold: HoldRow,
}

fn milliseconds(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(1_000)
}

/// Holds resources for a project. Where they are lent to others the hold is `pending` until they are taken
/// back. A denial says what would fit: `quota_exceeded`, `spend_cap_reached`.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/holds", tag = "holds", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 201, description = "Held.", body = HoldDone))
)]
pub(in crate::api) async fn reserve(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { project, items, ttl_seconds } = draft;
    let of = tenant.clone();
    let reserve = QuotaCommand::Reserve { tenant, project, items, ttl_ms: milliseconds(ttl_seconds) };
    let outcome = app.submit(command(reserve), name).await?;
    let body = HoldDone::of(outcome.answer(), &of);
    let resource = body.as_ref().map(|body| body.resource.clone()).unwrap_or_default();
    said(&outcome, true, &resource, body)
}

/// A customer's holds that have not ended, in the order in which they were taken.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/holds", tag = "holds", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of holds.", body = ListPage<HoldRow>))
)]
pub(in crate::api) async fn list_holds(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<HoldRow>>, Problem> {
    let list = format!("holds {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let after = after.map_or(Ok(HoldId(0)), |after| after.parse().map_err(|_| invalid()))?;
        let rows = holds(state, &tenant, after).take(limit);
        Ok(rows.map(|row| (row.hold.to_string(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

/// The hold, where it is the tenant's: another's is as unknown as one that is not there.
fn unknown(hold: HoldId) -> Problem {
    Rejection::from(QuotaRejection::from(HoldError::Unknown { hold })).into()
}

/// One hold; for a day one that has ended too.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/holds/{hold}", tag = "holds",
    params(("tenant" = String, Path), ("hold" = u64, Path)),
    responses((status = 200, description = "The hold.", body = Answer))
)]
pub(in crate::api) async fn get_hold(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, HoldId)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        match hold(state, id, &tenant) {
            Some(hold) => Ok(Answer { as_of: AsOf::of(state), hold }),
            None => Err(unknown(id)),
        }
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{hold}:commit` and the other actions. The router knows no suffix of a segment, so it is read
/// here.
pub(in crate::api) async fn act_on_hold(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let actions = ":commit, :release, :renew and :resize";
    let (number, action) = numbered(&named, actions)?;
    let change = Change { app, tenant, id: HoldId(number), name };
    match action {
        "commit" => commit_hold(change).await,
        "release" => release_hold(change).await,
        "renew" => renew_hold(change, read(&body)?).await,
        "resize" => resize_hold(change, read(&body)?).await,
        _ => Err(Problem::not_found("action_unknown", format!("a hold has the actions {actions}"))),
    }
}

/// Which hold to change, and under which name.
pub(in crate::api) struct Change {
    app: App,
    tenant: TenantId,
    id: HoldId,
    name: Option<Name>,
}

impl Change {
    async fn submit(self, change: QuotaCommand) -> Result<Response, Problem> {
        let Self { app, tenant, id, name } = self;
        let of = tenant.clone();
        // A hold never changes its tenant, so this cannot be overtaken. What the core says of one that is not
        // there can be the first answer to a repeat.
        app.read(move |state| {
            known_tenant(state, &of)?;
            let holds = state.quotas().holds();
            let there = holds.get(id).is_some() || holds.ended(id).is_some();
            if there && !hold_is_of(state, id, &of) { Err(unknown(id)) } else { Ok(()) }
        })
        .await?;
        let outcome = app.submit(command(change), name).await?;
        let body = HoldDone::of(outcome.answer(), &tenant);
        said(&outcome, false, &format!("/v1/tenants/{tenant}/holds/{id}"), body)
    }
}

/// Keeps a hold until it is released. One that is committed already stays so.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/holds/{hold}:commit", tag = "holds",
    params(("tenant" = String, Path), ("hold" = u64, Path)),
    responses((status = 200, description = "Committed.", body = HoldDone))
)]
pub(in crate::api) async fn commit_hold(change: Change) -> Result<Response, Problem> {
    let hold = change.id;
    change.submit(QuotaCommand::Commit { hold }).await
}

/// Gives a hold back. One that has ended already stays so.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/holds/{hold}:release", tag = "holds",
    params(("tenant" = String, Path), ("hold" = u64, Path)),
    responses((status = 200, description = "Released.", body = HoldDone))
)]
pub(in crate::api) async fn release_hold(change: Change) -> Result<Response, Problem> {
    let hold = change.id;
    change.submit(QuotaCommand::Release { hold }).await
}

/// Gives a hold that is not committed more time, from now on.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/holds/{hold}:renew", tag = "holds",
    params(("tenant" = String, Path), ("hold" = u64, Path)), request_body = Renewal,
    responses((status = 200, description = "Renewed.", body = HoldDone))
)]
pub(in crate::api) async fn renew_hold(change: Change, draft: Renewal) -> Result<Response, Problem> {
    let hold = change.id;
    change.submit(QuotaCommand::Renew { hold, ttl_ms: milliseconds(draft.ttl_seconds) }).await
}

/// Gives a hold other amounts. What is more must fit now.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/holds/{hold}:resize", tag = "holds",
    params(("tenant" = String, Path), ("hold" = u64, Path)), request_body = Resize,
    responses((status = 200, description = "Resized.", body = HoldDone))
)]
pub(in crate::api) async fn resize_hold(change: Change, draft: Resize) -> Result<Response, Problem> {
    let hold = change.id;
    change.submit(QuotaCommand::Resize { hold, items: draft.items }).await
}
