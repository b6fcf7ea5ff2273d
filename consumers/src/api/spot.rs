//! Spot prices.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Command;
use hourglass_units::{Currency, Fabric, Instant, Platform, Price};
use serde::Deserialize;
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Query};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::spot::{SpotRow, spot_prices};

/// What a spot GPU-hour of the cell's region is to cost.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpotPriceDraft {
    /// On which platform.
    #[schema(value_type = String)]
    platform: Platform,
    /// In which currency, ISO 4217.
    #[schema(value_type = String)]
    currency: Currency,
    /// Per GPU-hour, a decimal.
    #[schema(value_type = String)]
    price: Price,
    /// In which fabric; in the pool that is all of the platform where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    fabric: Option<Fabric>,
    /// From when, RFC 3339: not in the past. From now on where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Instant>,
}

/// Sets what spot GPU-hours cost from a time on. The past of a market never changes.
#[utoipa::path(
    post, path = "/v1/spot-prices", tag = "prices", request_body = SpotPriceDraft,
    responses((status = 201, description = "Set.", body = Done))
)]
pub(super) async fn set_spot_price(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(draft): Json<SpotPriceDraft>,
) -> Result<Response, Problem> {
    let SpotPriceDraft { platform, currency, price, fabric, from } = draft;
    let outcome = app.submit(Command::SetSpotPrice { platform, currency, price, fabric, from }, name).await?;
    Ok(done(&outcome, true, "/v1/spot-prices".to_owned()))
}

/// The prices of spot pools that hold now, and those that are set for later, by currency, platform and
/// time. A pool whose price nobody set costs what the rate card says.
#[utoipa::path(
    get, path = "/v1/spot-prices", tag = "prices", params(PageQuery),
    responses((status = 200, description = "A page of spot prices.", body = ListPage<SpotRow>))
)]
pub(super) async fn list_spot_prices(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<SpotRow>>, Problem> {
    let page = PageRequest::new("spot-prices".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, |state, after, limit| {
        let keyed = spot_prices(state).into_iter().map(|row| (key(&row), row));
        let mut behind: Vec<_> =
            keyed.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
        behind.sort_by(|(a, _), (b, _)| a.cmp(b));
        behind.truncate(limit);
        Ok(behind)
    });
    Ok(axum::Json(page.await?))
}

/// Where a step stands in the list. Ids have no blank.
fn key(row: &SpotRow) -> String {
    let fabric = row.fabric.as_deref().unwrap_or_default();
    format!("{} {} {fabric} {}", row.currency, row.platform, row.from)
}
