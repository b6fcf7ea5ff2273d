//! What became of instances, step by step, with the reason of each step that their owner did not ask for.

use axum::extract::State;
use hourglass_ledger::core::rows::TimelineRow;
use hourglass_ledger::store::{Keyed, TimelineFilter};
use hourglass_units::{InstanceId, TenantId};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::extract::{Path, Query};
use super::instances::of_tenant;
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::tenants::PageQuery;

/// A step in the life of an instance.
#[derive(Serialize, ToSchema)]
#[schema(as = TimelineStep, example = json!({
    "position": 4711, "line": 0, "instance": "spot-12-0", "step": "told_to_stop", "at": "2026-01-05T10:00:00Z",
    "cause": "outbid", "detail": "bid number 19 pays more", "deadline": "2026-01-05T10:02:00Z"
}))]
pub(super) struct StepView {
    /// The log position of the event that says so.
    position: u64,
    /// Its number there.
    line: u32,
    instance: String,
    /// `registered`, `started`, `sold_differently`, `told_to_stop`, `stopped`, `failed` or `usage_voided`.
    step: &'static str,
    /// When it was so, RFC 3339: not always when it was learnt.
    #[schema(format = DateTime)]
    at: String,
    /// Why, as a stable code. Of `registered` and `sold_differently` how it is sold; of all that was told to
    /// stop, stopped or failed: `outbid`, `supply_reclaimed`, `reserve_raised`, `provider`, `budget`, `quota`,
    /// `suspension`, `maintenance`, `owner`, `owner_stopped`, `not_enough_resources`, `cloud_quota`,
    /// `cloud_error`, `timed_out`, or `requested` where the compute service said that it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// More of it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Until when what was told to stop may run; of voided usage its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    deadline: Option<String>,
}

fn view(Keyed { key, row }: Keyed<TimelineRow>) -> StepView {
    let TimelineRow { tenant: _, instance, step, at, cause, detail, deadline } = row;
    StepView {
        position: key.position.number(),
        line: key.line,
        instance: instance.to_string(),
        step: step.as_str(),
        at: at.to_string(),
        cause,
        detail,
        deadline: deadline.map(|at| at.to_string()),
    }
}

async fn steps(
    app: App,
    filter: TimelineFilter,
    query: PageQuery,
) -> Result<axum::Json<ListPage<StepView>>, Problem> {
    let list = format!("timeline {filter:?}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let read = page.of_rows(&app, move |reader, page| reader.timeline(&filter, page), view);
    Ok(axum::Json(read.await?))
}

/// What became of a customer's instances, in the order in which it was learnt.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/timeline", tag = "instances",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of steps.", body = ListPage<StepView>))
)]
pub(super) async fn tenant_timeline(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<StepView>>, Problem> {
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    steps(app, TimelineFilter { tenant: Some(tenant), instance: None }, query).await
}

/// What became of an instance, in the order in which it was learnt.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/instances/{instance}/timeline", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path), PageQuery),
    responses((status = 200, description = "A page of steps.", body = ListPage<StepView>))
)]
pub(super) async fn instance_timeline(
    State(app): State<App>,
    Path((tenant, instance)): Path<(TenantId, InstanceId)>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<StepView>>, Problem> {
    let of = (tenant.clone(), instance.clone());
    app.read(move |state| of_tenant(state, &of.0, &of.1).map(|_| ())).await?;
    steps(app, TimelineFilter { tenant: Some(tenant), instance: Some(instance) }, query).await
}
