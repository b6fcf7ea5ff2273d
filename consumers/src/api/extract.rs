//! What a handler takes from a request, refused in one form where it is wrong.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use hourglass_ledger::core::IDEMPOTENCY_KEY_LENGTH_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::Problem;
use crate::auth::Principal;
use crate::usage::Name;

/// The header that names a mutation.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Ids in the path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        let invalid = |error: PathRejection| Problem::bad_request("path_invalid", error.body_text());
        path.map(|axum::extract::Path(ids)| Self(ids)).map_err(invalid)
    }
}

/// Query parameters; unknown ones are refused by the type that they are read into.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        let invalid = |error: QueryRejection| Problem::bad_request("query_invalid", error.body_text());
        query.map(|axum::extract::Query(query)| Self(query)).map_err(invalid)
    }
}

/// A body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Body::from_request(request, state).await?;
        match body.media_type.as_str() {
            "application/json" => json(&body.bytes).map(Self),
            other => Err(unsupported(other, "application/json")),
        }
    }
}

/// A body as it came, and what it says that it is.
pub(super) struct Body {
    /// The essence of the content type, in lower case.
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = media_type(request.headers());
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error: BytesRejection| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!(
                    "the body has more bytes than are taken here, {} for all but listings: send less at once",
                    super::BODY_BYTES_MAX
                );
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            _ => Problem::bad_request("body_incomplete", error.body_text()),
        })?;
        Ok(Self { media_type, bytes })
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let header = headers.get(CONTENT_TYPE).and_then(|header| header.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads JSON: what is no JSON is malformed, what is other JSON than asked for is invalid.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_data() {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "body_invalid", error.to_string())
        } else {
            Problem::bad_request("body_malformed", format!("the body is not JSON: {error}"))
        }
    })
}

/// A field that must be there although it can be `null`, so that an empty body cannot pass for "none".
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// The content type is none that this path takes.
pub(super) fn unsupported(given: &str, taken: &str) -> Problem {
    let given: String = given.chars().take(64).collect();
    let detail = format!("content type {given:?} is not taken here: use {taken}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_unsupported", detail)
}

/// Who asks, as the guard found out.
pub(super) struct Caller(pub(super) Principal);

impl Caller {
    fn of(parts: &Parts) -> Result<Self, Problem> {
        parts.extensions.get().cloned().map(Self).ok_or_else(|| {
            tracing::error!("a request reached its handler without a principal");
            Problem::internal()
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

/// The name of a mutation, where the caller gave one.
///
/// It is the principal's own within a method and path, so that one key can be used for the parts of a
/// larger piece of work.
pub(super) struct Idempotency(pub(super) Option<Name>);

impl<S: Send + Sync> FromRequestParts<S> for Idempotency {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else { return Ok(Self(None)) };
        let key = key.to_str().unwrap_or_default();
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if keys.next().is_some() || !visible || !(1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&key.len()) {
            let detail = format!(
                "Idempotency-Key must be given once, as 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} visible ASCII characters"
            );
            return Err(Problem::bad_request("idempotency_key_invalid", detail));
        }
        let Caller(principal) = Caller::of(parts)?;
        let scope = format!("{} {} {}", principal.name(), parts.method, parts.uri.path());
        Ok(Self(Some(Name { scope, key: key.to_owned() })))
    }
}
