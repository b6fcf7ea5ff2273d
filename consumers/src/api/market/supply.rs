//! What pools have, and where their GPU-time went.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hourglass_capacity::nodes::Node;
use hourglass_ledger::core::market::{MarketCommand, SupplyCommand};
use hourglass_units::{Fabric, Instant, Interval, NodeId, Platform};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::pools::{named, unknown};
use crate::api::app::App;
use crate::api::done::{Done, done};
use crate::api::extract::{Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::market::{AccountRow, NodeDraft, NodeRow, SupplyRow, account, nodes, supply};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// What is left of a pool for spot, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolSupplyAnswer)]
pub(in crate::api) struct Left {
    as_of: AsOf,
    #[serde(flatten)]
    supply: SupplyRow,
}

/// Where the GPU-time of a pool went, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolAccountAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    account: AccountRow,
}

/// Of which time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct AccountQuery {
    /// From then on, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    start: Instant,
    /// Until then, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    end: Instant,
}

/// Says how a node is: what does not work is not sold, and who runs there as spot gets its notice.
#[utoipa::path(
    put, path = "/v1/pools/{platform}/{fabric}/nodes/{node}", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), ("node" = String, Path)),
    request_body = NodeDraft, responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_node(
    State(app): State<App>,
    Path(path): Path<(Platform, Fabric, NodeId)>,
    Idempotency(name): Idempotency,
    Json(draft): Json<NodeDraft>,
) -> Result<Response, Problem> {
    let node = draft.node().map_err(|why| Problem::bad_request("node_invalid", why))?;
    set(app, path, Some(node), name).await
}

/// Forgets a node: its GPUs count as those of the pool that no node is known for.
#[utoipa::path(
    delete, path = "/v1/pools/{platform}/{fabric}/nodes/{node}", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), ("node" = String, Path)),
    responses((status = 200, description = "Forgotten.", body = Done))
)]
pub(in crate::api) async fn forget_node(
    State(app): State<App>,
    Path(path): Path<(Platform, Fabric, NodeId)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    set(app, path, None, name).await
}

async fn set(
    app: App,
    (platform, fabric, node): (Platform, Fabric, NodeId),
    to: Option<Node>,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/pools/{platform}/{fabric}/nodes");
    let pool = app.read(move |state| named(state, platform, fabric)).await?;
    let command = MarketCommand::Supply(SupplyCommand::SetNode { pool, node, to });
    let outcome = app.submit(command.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// The nodes of a pool that are known, by name.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/nodes", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), PageQuery),
    responses((status = 200, description = "A page of nodes.", body = ListPage<NodeRow>))
)]
pub(in crate::api) async fn list_nodes(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<NodeRow>>, Problem> {
    let list = format!("nodes {platform} {fabric}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        let name = named(state, platform, fabric)?;
        let rows = nodes(state, &name).ok_or_else(|| unknown(name))?.into_iter();
        let rows = rows.filter(|row| after.is_none_or(|after| row.node.as_str() > after)).take(limit);
        Ok(rows.map(|row| (row.node.clone(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

/// What is left of a pool for spot, term by term: what it has, what of it is reserved, lent, on demand.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/supply", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path)),
    responses((status = 200, description = "The supply.", body = Left))
)]
pub(in crate::api) async fn get_supply(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
) -> Result<axum::Json<Left>, Problem> {
    let read = app.read(move |state| {
        let name = named(state, platform, fabric)?;
        let supply = supply(state, &name).ok_or_else(|| unknown(name))?;
        Ok(Left { as_of: AsOf::of(state), supply })
    });
    Ok(axum::Json(read.await?))
}

/// Where the GPU-time of a pool went: inside reservations, on demand, spot, idle or out of use. It sums to what
/// the pool had. An instance counts while it ran, whether or not it was reported.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/account", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), AccountQuery),
    responses((status = 200, description = "The account.", body = Answer))
)]
pub(in crate::api) async fn get_account(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(AccountQuery { start, end }): Query<AccountQuery>,
) -> Result<axum::Json<Answer>, Problem> {
    let within = Interval::between(start, end);
    let within = within.ok_or_else(|| Problem::bad_request("query_invalid", "end must be after start"))?;
    let read = app.read(move |state| {
        let name = named(state, platform, fabric)?;
        let found = account(state, &name, within).ok_or_else(|| unknown(name))?;
        let account = found.map_err(|why| Problem::new(StatusCode::CONFLICT, "account_overfull", why))?;
        Ok(Answer { as_of: AsOf::of(state), account })
    });
    Ok(axum::Json(read.await?))
}
