//! What a mutation answers.

use axum::Json;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::Outcome;
use serde::Serialize;
use utoipa::ToSchema;

/// Says `true` where the answer is that of an earlier request with the same key.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What was done, and where to look at it. A repeat under the same idempotency key gets it again.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Where in the log it stands.
    position: u64,
    /// The path of what was made or changed.
    resource: String,
}

/// The answer with its status: 201 where something was made, 200 otherwise and in a repeat.
pub(super) fn done(outcome: &Outcome, made: bool, resource: String) -> Response {
    let body = Done { position: outcome.answer().position.number(), resource: resource.clone() };
    answered(outcome, made, &resource, body)
}

/// The same with an answer that says more than where it stands.
pub(super) fn answered(outcome: &Outcome, made: bool, resource: &str, body: impl Serialize) -> Response {
    let location = HeaderValue::from_str(resource).ok();
    let replayed = matches!(outcome, Outcome::AlreadyApplied(_));
    let status = if made && !replayed { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(body)).into_response();
    if let (true, Some(location)) = (made, location) {
        response.headers_mut().insert(LOCATION, location);
    }
    if replayed { as_replayed(response) } else { response }
}

/// Marks an answer as that of an earlier request.
pub(super) fn as_replayed(mut response: Response) -> Response {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}
