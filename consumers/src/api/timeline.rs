//! What became of instances, step by step, with the reason of each step that their owner did not ask for.

use axum::extract::State;
use hourglass_ledger::store::TimelineFilter;
use hourglass_units::{InstanceId, TenantId};

use super::app::{App, known_tenant};
use super::extract::{Path, Query};
use super::instances::of_tenant;
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::timeline::StepRow;

async fn steps(
    app: App,
    filter: TimelineFilter,
    query: PageQuery,
) -> Result<axum::Json<ListPage<StepRow>>, Problem> {
    let list = format!("timeline {filter:?}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let read = page.of_rows(&app, move |reader, page| reader.timeline(&filter, page), StepRow::from);
    Ok(axum::Json(read.await?))
}

/// What became of a customer's instances, in the order in which it was learnt.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/timeline", tag = "instances",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of steps.", body = ListPage<StepRow>))
)]
pub(super) async fn tenant_timeline(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<StepRow>>, Problem> {
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    steps(app, TimelineFilter { tenant: Some(tenant), instance: None }, query).await
}

/// What became of an instance, in the order in which it was learnt.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/instances/{instance}/timeline", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path), PageQuery),
    responses((status = 200, description = "A page of steps.", body = ListPage<StepRow>))
)]
pub(super) async fn instance_timeline(
    State(app): State<App>,
    Path((tenant, instance)): Path<(TenantId, InstanceId)>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<StepRow>>, Problem> {
    let of = (tenant.clone(), instance.clone());
    app.read(move |state| of_tenant(state, &of.0, &of.1).map(|_| ())).await?;
    steps(app, TimelineFilter { tenant: Some(tenant), instance: Some(instance) }, query).await
}
