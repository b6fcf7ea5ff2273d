//! What a customer spends: the running period and its end, and how far its commitments are.

use axum::extract::State;
use hourglass_units::TenantId;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::extract::{Path, Query};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::report::AsOf;
use crate::billing::spend::{CommitmentRow, SpendRow, commitments, spend};

/// Where the running billing period stands and ends, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct SpendAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    spend: SpendRow,
}

/// What the running billing period has come to, and what it will come to if usage goes on as it did.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/spend", tag = "usage", params(("tenant" = String, Path)),
    responses((status = 200, description = "The period to date and at its end.", body = SpendAnswer))
)]
pub(super) async fn tenant_spend(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
) -> Result<axum::Json<SpendAnswer>, Problem> {
    let read = app.read(move |state| {
        let spend = spend(state, &tenant)?;
        Ok(SpendAnswer { as_of: AsOf::of(state), spend })
    });
    Ok(axum::Json(read.await?))
}

/// A customer's commitments, those that ended too, with what was drawn from them in each billing period.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/commitments", tag = "prices",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of commitments.", body = ListPage<CommitmentRow>))
)]
pub(super) async fn list_commitments(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<CommitmentRow>>, Problem> {
    let list = format!("commitments {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        behind(commitments(state, &tenant)?.into_iter(), after, limit)
    });
    Ok(axum::Json(page.await?))
}
