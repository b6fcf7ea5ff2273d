//! Bids of a customer.

use axum::extract::State;
use axum::response::Response;
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::market::{BidChange, BidDraft, MarketCommand, MarketRejection};
use hourglass_units::{BidId, Instant, Price, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::surprised;
use crate::api::app::{App, known_tenant};
use crate::api::done::answered;
use crate::api::extract::{Body, Idempotency, Json, Path, Query};
use crate::api::page::{ListPage, PageRequest};
use crate::api::problem::Problem;
use crate::api::quotas::read;
use crate::api::tenants::PageQuery;
use crate::billing::market::{BidDone, BidRow, WhyRow, about, bid, bids, why};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// A bid to place.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BidDraft, example = json!({"bid": "train-7", "project": "research",
    "pools": ["eu-north1/gpu-h100-sxm/fabric-2"], "gpus_per_unit": 8, "min_units": 4, "max_units": 16,
    "limit": "1.80"}))]
pub(in crate::api) struct Draft {
    /// Its name, one among the customer's bids that are not over.
    #[schema(value_type = String)]
    bid: BidId,
    /// For which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// Where it may run, the preferred pool first: 1 to 16 pools, each as `REGION/PLATFORM/FABRIC`.
    #[schema(value_type = Vec<String>)]
    pools: Vec<PoolName>,
    /// GPUs of a unit; a unit is one instance.
    gpus_per_unit: u32,
    /// So many units or none; 1 where absent.
    #[serde(default = "one")]
    #[schema(required = false)]
    min_units: u32,
    /// The most that it wants.
    max_units: u32,
    /// The most that it pays per GPU-hour, a decimal.
    #[schema(value_type = String)]
    limit: Price,
    /// It wants at least so long a notice: 60 to 3,600. It gets the pool's if that is longer.
    #[serde(default)]
    notice_seconds: Option<u32>,
    /// From then on it wins nothing more, RFC 3339; what runs goes on. It has no end where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
}

fn one() -> u32 {
    1
}

impl From<Draft> for BidDraft {
    fn from(draft: Draft) -> Self {
        let Draft {
            bid,
            project,
            pools,
            gpus_per_unit,
            min_units,
            max_units,
            limit,
            notice_seconds,
            expires_at,
        } = draft;
        let notice_ms = notice_seconds.map(|seconds| i64::from(seconds).saturating_mul(1_000));
        Self { bid, project, pools, gpus_per_unit, min_units, max_units, limit, notice_ms, expires_at }
    }
}

/// What is to change about a bid: at least one of these.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BidChange, example = json!({"limit": "2.10"}))]
pub(in crate::api) struct Change {
    /// The most that it pays per GPU-hour from now on, a decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    limit: Option<Price>,
    /// So many units or none: not more than it holds while something runs.
    #[serde(default)]
    min_units: Option<u32>,
    /// The most that it wants. What runs beyond it is told to stop.
    #[serde(default)]
    max_units: Option<u32>,
    /// From then on it wins nothing more, RFC 3339.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
}

impl From<Change> for BidChange {
    fn from(Change { limit, min_units, max_units, expires_at }: Change) -> Self {
        Self { limit, min_units, max_units, expires_at }
    }
}

/// A bid, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = BidAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    bid: BidRow,
}

/// Why a bid has what it has, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = WhyAnswer)]
pub(in crate::api) struct WhyAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    why: WhyRow,
}

/// Of which clearing.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct WhyQuery {
    /// By log position; the last one in which the bid took part where absent.
    clear: Option<u64>,
}

/// Another's bid is as unknown as one that is not there.
fn unknown(bid: BidId) -> Problem {
    Rejection::from(MarketRejection::BidUnknown { bid }).into()
}

/// Bids for GPUs. What it wins starts at the next clearing.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/bids", tag = "market", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 201, description = "Placed.", body = BidDone))
)]
pub(in crate::api) async fn place_bid(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let (of, bid) = (tenant.clone(), draft.bid.clone());
    let place = MarketCommand::PlaceBid { tenant, bid: draft.into() };
    submit(&app, place, (&of, &bid), name, true).await
}

async fn submit(
    app: &App,
    command: MarketCommand,
    (tenant, bid): (&TenantId, &BidId),
    name: Option<Name>,
    made: bool,
) -> Result<Response, Problem> {
    let outcome = app.submit(command.into(), name).await?;
    match BidDone::of(outcome.answer(), tenant, bid) {
        Some(body) => Ok(answered(&outcome, made, &body.resource.clone(), body)),
        None => Err(surprised(&outcome)),
    }
}

/// A customer's bids that are not over, by name.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/bids", tag = "market", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of bids.", body = ListPage<BidRow>))
)]
pub(in crate::api) async fn list_bids(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<BidRow>>, Problem> {
    let list = format!("bids {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let rows = bids(state, &tenant).filter(|row| after.is_none_or(|after| row.bid.as_str() > after));
        Ok(rows.take(limit).map(|row| (row.bid.clone(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

/// One bid, with its units.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/bids/{bid}", tag = "market",
    params(("tenant" = String, Path), ("bid" = String, Path)),
    responses((status = 200, description = "The bid.", body = Answer))
)]
pub(in crate::api) async fn get_bid(
    State(app): State<App>,
    Path((tenant, name)): Path<(TenantId, BidId)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let found = bid(state, &tenant, &name).ok_or_else(|| unknown(name))?;
        Ok(Answer { as_of: AsOf::of(state), bid: found })
    });
    Ok(axum::Json(read.await?))
}

/// Why a bid has what it has: what the clearing said, with which limit it would have won, and what stands
/// before it.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/bids/{bid}/why", tag = "market",
    params(("tenant" = String, Path), ("bid" = String, Path), WhyQuery),
    responses((status = 200, description = "Why.", body = WhyAnswer))
)]
pub(in crate::api) async fn explain_bid(
    State(app): State<App>,
    Path((tenant, name)): Path<(TenantId, BidId)>,
    Query(query): Query<WhyQuery>,
) -> Result<axum::Json<WhyAnswer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let about = about(state, &tenant, &name).ok_or_else(|| unknown(name))?;
        Ok((AsOf::of(state), about))
    });
    let (as_of, about) = read.await?;
    let why = app.store(move |reader| Ok(why(reader, about, query.clear))).await??;
    Ok(axum::Json(WhyAnswer { as_of, why }))
}

/// `POST …/{bid}:update` and `:cancel`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_bid(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let none = || Problem::not_found("action_unknown", "a bid has the actions :update and :cancel");
    let (bid, action) = named.rsplit_once(':').ok_or_else(none)?;
    let bid = bid.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    match action {
        "update" => update_bid(app, (tenant, bid), name, read(&body)?).await,
        "cancel" => cancel_bid(app, (tenant, bid), name).await,
        _ => Err(none()),
    }
}

/// Changes a bid. A limit holds from now on; what it wins or loses with it the next clearing decides.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/bids/{bid}:update", tag = "market",
    params(("tenant" = String, Path), ("bid" = String, Path)), request_body = Change,
    responses((status = 200, description = "Changed.", body = BidDone))
)]
pub(in crate::api) async fn update_bid(
    app: App,
    (tenant, bid): (TenantId, BidId),
    name: Option<Name>,
    change: Change,
) -> Result<Response, Problem> {
    let change = BidChange::from(change);
    if change == BidChange::default() {
        let detail = "nothing is to change: give limit, min_units, max_units or expires_at";
        return Err(Problem::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "change_empty", detail));
    }
    let update = MarketCommand::UpdateBid { tenant: tenant.clone(), bid: bid.clone(), change };
    submit(&app, update, (&tenant, &bid), name, false).await
}

/// Takes a bid back. What runs of it is told to stop.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/bids/{bid}:cancel", tag = "market",
    params(("tenant" = String, Path), ("bid" = String, Path)),
    responses((status = 200, description = "Taken back.", body = BidDone))
)]
pub(in crate::api) async fn cancel_bid(
    app: App,
    (tenant, bid): (TenantId, BidId),
    name: Option<Name>,
) -> Result<Response, Problem> {
    let cancel = MarketCommand::CancelBid { tenant: tenant.clone(), bid: bid.clone() };
    submit(&app, cancel, (&tenant, &bid), name, false).await
}
