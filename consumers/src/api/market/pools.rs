//! Pools and their prices.

use axum::extract::State;
use axum::response::Response;
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::market::{MarketCommand, MarketRejection};
use hourglass_ledger::core::{Rejection, State as Ledger};
use hourglass_units::{Fabric, Platform};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::app::App;
use crate::api::done::{Done, done};
use crate::api::extract::{Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::market::{PoolRow, PoolTermsRow, pool, pool_name, pools};
use crate::billing::report::AsOf;

/// A pool, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    pool: PoolRow,
}

/// The pool of a path, which names no region: a cell has one.
pub(in crate::api) fn named(state: &Ledger, platform: Platform, fabric: Fabric) -> Result<PoolName, Problem> {
    pool_name(state, platform, fabric).ok_or_else(|| Rejection::CellNotOpen.into())
}

pub(in crate::api) fn unknown(pool: PoolName) -> Problem {
    Rejection::from(MarketRejection::PoolUnknown { pool }).into()
}

/// Opens a pool of the cell's region, or gives it other terms.
#[utoipa::path(
    put, path = "/v1/pools/{platform}/{fabric}", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path)), request_body = PoolTermsRow,
    responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_pool(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Idempotency(name): Idempotency,
    Json(terms): Json<PoolTermsRow>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/pools/{platform}/{fabric}");
    let pool = app.read(move |state| named(state, platform, fabric)).await?;
    let outcome = app.submit(MarketCommand::SetPool { pool, terms: terms.into() }.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// All pools, by name, with what the last clearing says of them.
#[utoipa::path(
    get, path = "/v1/pools", tag = "market", params(PageQuery),
    responses((status = 200, description = "A page of pools.", body = ListPage<PoolRow>))
)]
pub(in crate::api) async fn list_pools(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<PoolRow>>, Problem> {
    let page = PageRequest::new("pools".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, |state, after, limit| {
        let after = after.map(|after| after.parse::<PoolName>().map_err(|_| invalid())).transpose()?;
        let rows = pools(state).filter(|row| after.as_ref().is_none_or(|after| row.pool > *after));
        Ok(rows.take(limit).map(|row| (row.pool.to_string(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

/// One pool.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path)),
    responses((status = 200, description = "The pool.", body = Answer))
)]
pub(in crate::api) async fn get_pool(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        let name = named(state, platform, fabric)?;
        let found = pool(state, &name).ok_or_else(|| unknown(name))?;
        Ok(Answer { as_of: AsOf::of(state), pool: found })
    });
    Ok(axum::Json(read.await?))
}
