//! Pools and their prices.

use axum::extract::State;
use axum::response::Response;
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::market::{MarketCommand, MarketRejection};
use hourglass_ledger::core::{Rejection, State as Ledger};
use hourglass_units::{Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Platform};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::app::App;
use crate::api::done::{Done, done};
use crate::api::extract::{Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::market::{PoolRow, PoolTermsRow, PriceRow, pool, pool_name, pools, prices};
use crate::billing::report::AsOf;

/// A pool, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    pool: PoolRow,
}

/// Of which time, and which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct PriceQuery {
    /// From then on, RFC 3339; from the first clearing on where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// Until then, RFC 3339; until now where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// Rows of a page: 1 to 1,000, 100 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
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

/// What a pool cost, step by step. Before its first clearing it costs what the rate card says.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/prices", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), PriceQuery),
    responses((status = 200, description = "A page of prices.", body = ListPage<PriceRow>))
)]
pub(in crate::api) async fn list_prices(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(query): Query<PriceQuery>,
) -> Result<axum::Json<ListPage<PriceRow>>, Problem> {
    let PriceQuery { start, end, page_size, page_token } = query;
    let within = Interval::between(start.unwrap_or(INSTANT_MIN), end.unwrap_or(INSTANT_MAX));
    let within = within.ok_or_else(|| Problem::bad_request("query_invalid", "end must be after start"))?;
    let list = format!("prices {platform} {fabric} {start:?} {end:?}");
    let page = PageRequest::new(list, page_size, page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        let name = named(state, platform, fabric)?;
        if state.market().pool(&name).is_none() {
            return Err(unknown(name));
        }
        let after = after.map(|after| after.parse::<Instant>().map_err(|_| invalid())).transpose()?;
        let rows = prices(state, &name, within).into_iter();
        let rows = rows.filter(|(from, _)| after.is_none_or(|after| *from > after)).take(limit);
        Ok(rows.map(|(from, row)| (from.to_string(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}
