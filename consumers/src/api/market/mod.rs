//! The spot market: pools and their prices, bids, clearings and their receipts.

pub(super) mod bids;
pub(super) mod clears;
pub(super) mod history;
pub(super) mod pools;
pub(super) mod stream;
pub(super) mod supply;

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::market::{MarketCommand, Trigger};
use hourglass_units::Percent;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, answered, done};
use super::extract::{Idempotency, Json};
use super::problem::Problem;
use crate::billing::market::{ClearDone, ClearError};
use crate::billing::report::AsOf;

/// The market as a whole, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = MarketAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    /// By how much a bid must exceed what runs to displace it, in percent of the limit of what runs.
    margin: String,
    /// The last clearing, by log position; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    clear: Option<u64>,
    /// When that was, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    cleared_at: Option<String>,
}

/// Another margin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MarketMargin, example = json!({"margin": "10"}))]
pub(in crate::api) struct MarginDraft {
    /// By how much a bid must exceed what runs to displace it, in percent of the limit of what runs.
    #[schema(value_type = String)]
    margin: Percent,
}

/// The market as a whole: its margin, and its last clearing.
#[utoipa::path(
    get, path = "/v1/market", tag = "market",
    responses((status = 200, description = "The market.", body = Answer))
)]
pub(in crate::api) async fn get_market(State(app): State<App>) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(|state| {
        let market = state.market();
        let (clear, cleared_at) = market.cleared().unzip();
        let (as_of, margin) = (AsOf::of(state), market.margin().to_string());
        Ok(Answer { as_of, margin, clear, cleared_at: cleared_at.map(|at| at.to_string()) })
    });
    Ok(axum::Json(read.await?))
}

/// Sets by how much a bid must exceed what runs to displace it.
#[utoipa::path(
    put, path = "/v1/market/margin", tag = "market", request_body = MarginDraft,
    responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_margin(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(draft): Json<MarginDraft>,
) -> Result<Response, Problem> {
    let outcome = app.submit(MarketCommand::SetMargin { margin: draft.margin }.into(), name).await?;
    Ok(done(&outcome, false, "/v1/market".to_owned()))
}

/// Clears all pools now. Where no bid and no price would change that is refused: `nothing_to_clear`.
#[utoipa::path(
    post, path = "/v1/market:clear", tag = "market",
    responses((status = 201, description = "Cleared.", body = ClearDone))
)]
pub(in crate::api) async fn clear(
    State(app): State<App>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    let outcome = app.submit(MarketCommand::Clear { trigger: Trigger::Asked }.into(), name).await?;
    match ClearDone::of(outcome.answer()) {
        Some(body) => Ok(answered(&outcome, true, &body.resource.clone(), body)),
        None => Err(surprised(&outcome)),
    }
}

/// What the core never answers.
fn surprised(outcome: &hourglass_ledger::core::Outcome) -> Problem {
    tracing::error!(?outcome, "the core answered something else than was asked");
    Problem::internal()
}

impl From<ClearError> for Problem {
    fn from(error: ClearError) -> Self {
        let detail = error.to_string();
        match error {
            ClearError::Store(error) => error.into(),
            ClearError::Unreadable { .. } => {
                tracing::error!(%detail, "an event cannot be read");
                Self::internal()
            }
            ClearError::TooLarge { .. } => {
                let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "receipt_too_large", format!("{detail}: read the event itself"))
            }
        }
    }
}
