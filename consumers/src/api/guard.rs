//! Who may come in, what for, how many at once, and for how long.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::{authorise, is_price, is_public};
use super::app::App;
use super::listen::peer;
use super::problem::Problem;
use crate::auth::{Denied, is_loopback_host};

/// Most requests at work at once; more are told to come back.
pub const REQUESTS_MAX: usize = 1_024;
/// Longest that a request may take, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Refuses whoever may not come in, then bounds the work. To find out who asks is part of the work.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.authenticator().trusts_loopback()
        && let Err(problem) = from_this_machine(request.uri(), request.headers())
    {
        return problem.into_response();
    }
    if is_public(request.uri().path()) {
        return next.run(request).await;
    }
    let Ok(_permit) = app.permits().try_acquire() else {
        let detail = format!("{REQUESTS_MAX} requests are at work already");
        return Problem::unavailable("overloaded", detail).into_response();
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, admitted(&app, request, next)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable(
            "timeout",
            "the request took too long, and it is not known whether it was done: \
             repeat it under the same idempotency key",
        )
        .into_response(),
    }
}

/// Runs the request where its principal may do what it asks.
async fn admitted(app: &App, mut request: Request, next: Next) -> Response {
    let principal = match app.authenticator().authenticate(app.cell(), request.headers()).await {
        Ok(principal) => principal,
        Err(Denied::Missing) if is_of_public_prices(app, &request) => {
            return of_public_prices(app, request, next).await;
        }
        Err(denied) => return Problem::from(denied).into_response(),
    };
    let left = app.rates().take(&principal, app.cell().now());
    if let Some(left) = left.filter(|left| !left.within) {
        let mut response = Problem::too_many_requests().into_response();
        left.write(response.headers_mut());
        return response;
    }
    // Without a pattern there is no handler, and nothing to protect.
    if let Some(route) = request.extensions().get::<MatchedPath>()
        && let Err(refused) = authorise(&principal, request.method(), route.as_str(), request.uri().path())
    {
        return *refused;
    }
    request.extensions_mut().insert(principal);
    let mut response = next.run(request).await;
    if let Some(left) = left {
        left.write(response.headers_mut());
    }
    response
}

fn is_of_public_prices(app: &App, request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>();
    app.public_prices() && route.is_some_and(|route| is_price(request.method(), route.as_str()))
}

/// Runs a request for prices of somebody who gives no credential, at a rate by address.
async fn of_public_prices(app: &App, request: Request, next: Next) -> Response {
    let left = app.addresses().take_address(peer(request.extensions()), app.cell().now());
    let mut response =
        if left.within { next.run(request).await } else { Problem::too_many_requests().into_response() };
    left.write(response.headers_mut());
    // What everybody may read a page of any site may show.
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Without a token this machine's own users are trusted. A web page is not one of them: it comes
/// under the name of its own site (DNS rebinding), or says from where it comes.
fn from_this_machine(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).or_else(|| uri.authority().map(axum::http::uri::Authority::as_str));
    if !host.is_some_and(is_loopback_host) {
        let detail =
            "without an operator token only requests to localhost are answered: set a token to serve others";
        return Err(Problem::new(StatusCode::FORBIDDEN, "host_not_loopback", detail));
    }
    let of_loopback = |origin: &str| origin.split_once("://").is_some_and(|(_, host)| is_loopback_host(host));
    if text(ORIGIN).is_some_and(|origin| !of_loopback(origin)) {
        let detail = "without an operator token web pages of other sites are not answered";
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_loopback", detail));
    }
    Ok(())
}
