//! Prices now, and as they change: server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use hourglass_ledger::core::Role;
use hourglass_units::{Fabric, Platform};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::pools::{named, unknown};
use crate::api::app::App;
use crate::api::extract::{Path, Query};
use crate::api::listen::peer;
use crate::api::problem::Problem;
use crate::api::rate::network;
use crate::auth::{Denied, Principal};
use crate::prices::{
    Full, Item, Leave, NoSuch, PriceSnapshot, REPLAY_AGE_MAX, STREAMS_MAX, STREAMS_PER_ADDRESS_MAX,
    STREAMS_PER_PRINCIPAL_MAX, Sequence, StreamSlot, Wanted, Watcher, bye, heartbeat, resync, retry_ms,
};

/// Where a stream goes on that was cut.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// An event of a stream, field by field.
#[derive(ToSchema)]
#[schema(as = PriceEvent)]
#[expect(dead_code, reason = "it describes events and is never made")]
pub(in crate::api) struct EventDocument {
    /// The clearing, `EPOCH.POSITION`; of a snapshot and of ticks.
    id: Option<String>,
    /// `snapshot`, `tick`, `heartbeat`, `resync` or `bye`.
    event: Option<String>,
    /// JSON.
    data: Option<String>,
    /// After how many milliseconds to come back where the stream is cut.
    retry: Option<u64>,
}

/// Where to go on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct StreamQuery {
    /// The `id` of the last event that was seen, `EPOCH.POSITION`: the stream goes on behind it. The header
    /// `Last-Event-ID`, which browsers send by themselves, goes before it.
    #[param(value_type = Option<String>, example = "1.42")]
    last_event_id: Option<String>,
}

/// Who watches, and from where.
pub(in crate::api) struct Watching {
    principal: Option<Principal>,
    address: Option<IpAddr>,
    /// What proves who it is.
    credential: HeaderMap,
    last_event_id: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Watching {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let credential = parts.headers.get_all(AUTHORIZATION).iter();
        let last = parts.headers.get(LAST_EVENT_ID);
        Ok(Self {
            principal: parts.extensions.get().cloned(),
            address: peer(&parts.extensions),
            credential: credential.map(|value| (AUTHORIZATION, value.clone())).collect(),
            // What is no text is no sequence.
            last_event_id: last.map(|id| id.to_str().unwrap_or("-").to_owned()),
        })
    }
}

/// What every pool costs now: what a stream of all pools begins with.
#[utoipa::path(
    get, path = "/v1/prices", tag = "market",
    responses((status = 200, description = "All pools as the last clearing left them.", body = PriceSnapshot<'static>))
)]
pub(in crate::api) async fn all_prices(State(app): State<App>) -> Result<Response, Problem> {
    // Who stands by says who writes.
    app.read(|_| Ok(())).await?;
    let prices = app.prices();
    let last = if prices.ready().await { prices.last() } else { None };
    let last = last.ok_or_else(shutting_down)?;
    Ok(axum::Json(last.snapshot(Wanted::All.of(&last))).into_response())
}

/// Prices of all pools as they change, as server-sent events.
///
/// `snapshot` comes first: all pools as the last clearing left them. Then each clearing that changed a price, or how
/// many GPUs are sold or free, is a `tick` with the pools that it changed; all values are absolute. `heartbeat`
/// comes every 15 seconds. The `id` of each is the clearing's `EPOCH.POSITION` in the log, the same as by gRPC and
/// NATS: who comes back with it, in `Last-Event-ID` or `last_event_id`, gets all that follows it, once. Where that
/// is too long ago, or of another log, `resync` says so and a `snapshot` follows. `bye` ends a stream and says why.
#[utoipa::path(
    get, path = "/v1/prices/stream", tag = "market", params(StreamQuery),
    responses((status = 200, description = "The stream.", content_type = "text/event-stream", body = EventDocument))
)]
pub(in crate::api) async fn stream_all(
    State(app): State<App>,
    Query(query): Query<StreamQuery>,
    watching: Watching,
) -> Result<Response, Problem> {
    app.read(|_| Ok(())).await?;
    open(app, Wanted::All, query, watching).await
}

/// Prices of one pool as they change, as server-sent events: those of `/v1/prices/stream` that the pool is in.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/prices/stream", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), StreamQuery),
    responses((status = 200, description = "The stream.", content_type = "text/event-stream", body = EventDocument))
)]
pub(in crate::api) async fn stream_pool(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(query): Query<StreamQuery>,
    watching: Watching,
) -> Result<Response, Problem> {
    let read = app.read(move |state| {
        let name = named(state, platform, fabric)?;
        if state.market().pool(&name).is_some() { Ok(name) } else { Err(unknown(name)) }
    });
    let pool = read.await?;
    open(app, Wanted::One(pool), query, watching).await
}

fn shutting_down() -> Problem {
    Problem::unavailable("shutting_down", "the server shuts down: go on behind the last id, elsewhere")
}

/// A place among the streams.
fn slot(app: &App, watching: &Watching) -> Result<StreamSlot, Problem> {
    let address;
    let (name, own_max) = match &watching.principal {
        Some(principal) if principal.role() == Role::Operator => (principal.name(), STREAMS_MAX),
        Some(principal) => (principal.name(), STREAMS_PER_PRINCIPAL_MAX),
        None => {
            address = format!("address {}", network(watching.address));
            (address.as_str(), STREAMS_PER_ADDRESS_MAX)
        }
    };
    app.prices().slot(name, own_max).map_err(|full| match full {
        Full::Server => Problem::unavailable(
            "overloaded",
            format!("{STREAMS_MAX} streams are open already: come back later"),
        ),
        Full::Own => {
            let detail = format!(
                "{own_max} streams are open already from here: one stream of /v1/prices/stream has all pools"
            );
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "streams_exhausted", detail)
        }
    })
}

async fn open(app: App, wanted: Wanted, query: StreamQuery, watching: Watching) -> Result<Response, Problem> {
    let slot = slot(&app, &watching)?;
    let after = match (&watching.last_event_id, query.last_event_id) {
        (Some(header), _) => Some(header.parse().map_err(|()| NoSuch::Unknown)),
        (None, Some(given)) => {
            let invalid = || {
                Problem::bad_request("query_invalid", "last_event_id is an id of this stream, EPOCH.POSITION")
            };
            Some(Ok(given.parse::<Sequence>().map_err(|()| invalid())?))
        }
        (None, None) => None,
    };
    let retry = retry_ms(slot.number);
    let mut first = VecDeque::from([Bytes::from(format!("retry: {retry}\n\n"))]);
    let prices = app.prices();
    let resumed = match after {
        None => None,
        Some(Ok(after)) => {
            let within = (app.cell().now(), Some(REPLAY_AGE_MAX));
            Some(Watcher::resume(prices, wanted.clone(), after, within).await)
        }
        Some(Err(why)) => Some(Err(why)),
    };
    let watcher = match resumed {
        Some(Ok(watcher)) => watcher,
        Some(Err(NoSuch::Unavailable)) => return Err(shutting_down()),
        None | Some(Err(NoSuch::Unknown | NoSuch::TooOld)) => {
            if let Some(Err(why)) = resumed {
                first.push_back(resync(why.code(), why.detail()));
            }
            let (last, watcher) = Watcher::begin(prices, wanted).await.ok_or_else(shutting_down)?;
            first.push_back(last.written("snapshot", watcher.wanted().of(&last)));
            watcher
        }
    };
    let Watching { principal, credential, .. } = watching;
    let stream = Stream { app, watcher, slot, first, principal, credential, ended: false };
    let events = unfold(stream, |mut stream| async move {
        let event = stream.event().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy that collects answers would keep ticks to itself.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// A stream that is open.
struct Stream {
    app: App,
    watcher: Watcher,
    slot: StreamSlot,
    /// What is told before all else.
    first: VecDeque<Bytes>,
    principal: Option<Principal>,
    credential: HeaderMap,
    ended: bool,
}

impl Stream {
    /// The next event; `None` behind the last one.
    async fn event(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.pop_front() {
            return Some(first);
        }
        while !self.ended {
            match self.watcher.next().await {
                Item::Tick(told) => {
                    if let Some(event) = self.watcher.wanted().event(&told) {
                        return Some(event);
                    }
                }
                Item::Beat(at) => {
                    return Some(match self.denied().await {
                        None => heartbeat(at),
                        Some((code, detail)) => self.bye(code, &detail),
                    });
                }
                Item::Leave(Leave::Slow) => {
                    return Some(self.bye("slow", "you read too slowly: go on behind the last id"));
                }
                Item::Leave(Leave::Closed) => {
                    return Some(
                        self.bye("shutting_down", "the server shuts down: go on behind the last id"),
                    );
                }
                Item::Leave(Leave::Failed) => {
                    return Some(
                        self.bye("unavailable", "the log cannot be read now: go on behind the last id"),
                    );
                }
            }
        }
        None
    }

    fn bye(&mut self, code: &str, detail: &str) -> Bytes {
        self.ended = true;
        bye(code, detail, retry_ms(self.slot.number))
    }

    /// Why who watches may do so no longer: a key that was revoked must not live on in its streams.
    async fn denied(&self) -> Option<(&'static str, String)> {
        let principal = self.principal.as_ref()?;
        match self.app.authenticator().authenticate(self.app.cell(), &self.credential).await {
            Ok(now) if now == *principal => None,
            Ok(_) => Some(("unauthenticated", "the credential became another's: begin again".to_owned())),
            Err(Denied::Cell(_)) => Some((
                "unavailable",
                "this server cannot check the credential now: go on elsewhere".to_owned(),
            )),
            Err(denied) => Some(("unauthenticated", denied.detail())),
        }
    }
}
