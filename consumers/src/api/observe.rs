//! The outermost layer: names each request, writes problems down, and counts.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::app::App;
use super::problem::written;

/// Names the request in answers and in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that a caller can choose.
const REQUEST_ID_LENGTH_MAX: usize = 128;

pub(super) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = request_id(&app, &request);
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    // Fields by the names of OpenTelemetry's conventions for HTTP.
    let span = tracing::info_span!(
        "http.request",
        otel.kind = "server",
        otel.name = format!("{method} {route}"),
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        request_id = id,
    );
    let response = next.run(request).instrument(span.clone()).await;
    let mut response = written(response, &id);
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        tracing::warn!(request_id = %id, method, route, status = status.as_u16(), "a request failed");
    } else {
        tracing::debug!(request_id = %id, method, route, status = status.as_u16(), "request");
    }
    app.metrics().count_request(method, &route, status);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The caller's own name where it is printable, else one that is unique in the log of this cell.
fn request_id(app: &App, request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(usable).map_or_else(|| app.next_request_id(), str::to_owned)
}

/// A label's values are a closed set: callers can invent methods.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
