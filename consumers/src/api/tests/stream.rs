//! Prices as they change, as server-sent events.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_ledger::core::market::{MarketCommand, PoolTerms, Trigger};
use hourglass_ledger::core::{Command, Role};
use hourglass_units::{Currency, Percent, Price};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::api::{ApiConfig, PUBLIC_RATE_BURST, REQUESTS_MAX, router};
use crate::auth::draw_key;
use crate::prices::{LAG_CLEARINGS_MAX, STREAMS_PER_ADDRESS_MAX};
use crate::testing::{OPERATOR_TOKEN, Server, key_of, request, with_server};

const ALL: &str = "/v1/prices/stream";
const ONE: &str = "/v1/pools/h100/f-1/prices/stream";
/// Longest that a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    event: String,
    data: Value,
}

/// A client of a stream.
struct Events {
    headers: HeaderMap,
    body: BodyDataStream,
    read: String,
}

impl Events {
    /// The next event that is no heartbeat; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let data = serde_json::from_str(&field("data")).unwrap_or_default();
                let event = Event { id: field("id"), event: field("event"), data };
                self.read = rest.to_owned();
                if !matches!(event.event.as_str(), "" | "heartbeat") {
                    return Some(event);
                }
            }
            let next = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("something must come");
            self.read.push_str(std::str::from_utf8(&next?.unwrap()).unwrap());
        }
    }

    async fn kind(&mut self, kind: &str) -> Event {
        let event = self.next().await.expect("the stream goes on");
        assert_eq!(event.event, kind, "{event:?}");
        event
    }
}

async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Events {
    let response = server.router.clone().oneshot(request("GET", path, headers, Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let (parts, body) = response.into_parts();
    Events { headers: parts.headers, body: body.into_data_stream(), read: String::new() }
}

/// Gives a pool so many GPUs and clears. Answers with the clearing's position.
async fn change(server: &Server, fabric: &str, gpus: u64) -> u64 {
    let point = Point { utilisation: Percent::ZERO, price: Price::parse("0.5").unwrap() };
    let reserve = ReservePolicy::new(ReserveDraft { shape: Shape::Steps, points: vec![point] }).unwrap();
    let terms = PoolTerms::new(Currency::USD, gpus, reserve);
    let pool = format!("eu/h100/{fabric}").parse().unwrap();
    let _set = server.cell.submit(Command::from(MarketCommand::SetPool { pool, terms })).await.unwrap();
    let clear = Command::from(MarketCommand::Clear { trigger: Trigger::Tick });
    server.cell.submit(clear).await.unwrap().answer().position.number()
}

#[test]
fn a_stream_begins_with_a_snapshot_and_goes_on_with_ticks() {
    with_server(async |server| {
        let mut empty = open(&server, ALL, &[]).await;
        assert_eq!(empty.headers["content-type"], "text/event-stream");
        assert_eq!(empty.headers["cache-control"], "no-store");
        let none = empty.kind("snapshot").await;
        assert_eq!((none.id.as_str(), &none.data), ("0.0", &json!({"epoch": 0, "position": 0, "pools": []})));
        server.get(ONE).await.expect_problem(404, "pool_unknown");

        let first = change(&server, "f-1", 4).await;
        let second = change(&server, "f-2", 8).await;
        let tick = empty.kind("tick").await;
        let pool = |fabric: &str, gpus: u64| {
            json!({"pool": format!("eu/h100/{fabric}"), "currency": "USD", "price": "0.5", "reserve_price": "0.5",
                "sold": 0, "free": gpus, "supply": gpus, "bids": 0, "gpus_wanted": 0})
        };
        let expected =
            json!({"epoch": 1, "position": first, "at": "2026-01-01T02:01:00Z", "pools": [pool("f-1", 4)]});
        assert_eq!((tick.id, tick.data), (format!("1.{first}"), expected));
        assert_eq!(empty.kind("tick").await.data["pools"], json!([pool("f-2", 8)]), "what changed, alone");

        let mut one = open(&server, ONE, &[]).await;
        let snapshot = one.kind("snapshot").await;
        assert_eq!((snapshot.id, &snapshot.data["pools"]), (format!("1.{second}"), &json!([pool("f-1", 4)])));
        change(&server, "f-2", 9).await;
        let third = change(&server, "f-1", 5).await;
        let tick = one.kind("tick").await;
        assert_eq!((tick.id, &tick.data["pools"]), (format!("1.{third}"), &json!([pool("f-1", 5)])));
        // What is read at once is what a stream begins with.
        let now = server.get("/v1/prices").await.expect(StatusCode::OK).json();
        assert_eq!(now, open(&server, ALL, &[]).await.kind("snapshot").await.data);
        assert_eq!(now["pools"], json!([pool("f-1", 5), pool("f-2", 9)]));
    });
}

#[test]
fn a_stream_goes_on_behind_any_id_also_on_another_server() {
    with_server(async |server| {
        let mut all = open(&server, ALL, &[]).await;
        all.kind("snapshot").await;
        let mut seen = Vec::new();
        for gpus in 1..=9 {
            change(&server, if gpus % 3 == 0 { "f-2" } else { "f-1" }, gpus).await;
            seen.push(all.kind("tick").await);
        }
        let of_one: Vec<Event> = {
            let mut one = open(&server, &format!("{ONE}?last_event_id=0.0"), &[]).await;
            let mut ticks = Vec::new();
            while ticks.len() < 6 {
                ticks.push(one.kind("tick").await);
            }
            ticks
        };
        assert!(of_one.iter().all(|tick| seen.contains(tick)));
        // The same process, and one that has just begun to read the log.
        let other = Server { router: router(server.cell.clone(), ApiConfig::default()), ..server };
        for (from, id) in
            [String::from("0.0")].into_iter().chain(seen.iter().map(|it| it.id.clone())).enumerate()
        {
            let query = format!("{ALL}?last_event_id={id}");
            for (path, header) in [(ALL, Some(id.as_str())), (query.as_str(), None)] {
                let header: Vec<_> = header.map(|id| ("last-event-id", id)).into_iter().collect();
                let mut again = open(&other, path, &header).await;
                for expected in &seen[from..] {
                    assert_eq!(again.next().await.as_ref(), Some(expected), "{id}");
                }
            }
        }
        // The header, which a browser sends by itself, goes before what stands in the address.
        let last = seen.last().unwrap().id.clone();
        let mut both = open(&other, &format!("{ALL}?last_event_id=0.0"), &[("last-event-id", &last)]).await;
        let next = change(&other, "f-1", 99).await;
        assert_eq!(both.kind("tick").await.id, format!("1.{next}"));
    });
}

#[test]
fn who_asks_for_what_is_not_there_is_told_to_begin_again() {
    with_server(async |server| {
        let last = change(&server, "f-1", 4).await;
        for id in
            ["7.1".to_owned(), format!("2.{last}"), format!("1.{}", last + 1), "x".to_owned(), String::new()]
        {
            let mut stream = open(&server, ALL, &[("last-event-id", &id)]).await;
            let resync = stream.kind("resync").await;
            assert_eq!((resync.id.as_str(), &resync.data["code"]), ("", &json!("unknown")), "{id}");
            assert_eq!(stream.kind("snapshot").await.id, format!("1.{last}"));
        }
        for query in ["last_event_id=1", "last_event_id=", "last_id=1.1"] {
            server.get(&format!("{ALL}?{query}")).await.expect_problem(400, "query_invalid");
        }
    });
}

#[test]
fn streams_take_no_place_among_requests() {
    with_server(async |server| {
        change(&server, "f-1", 4).await;
        let mut streams = Vec::new();
        for _ in 0..REQUESTS_MAX + 10 {
            streams.push(open(&server, ALL, &[]).await);
        }
        server.get("/v1/prices").await.expect(StatusCode::OK);
        let metrics = server.get("/metrics").await.expect(StatusCode::OK).text();
        assert!(metrics.contains(&format!("hourglass_price_streams {}", streams.len())), "{metrics}");
        let next = change(&server, "f-1", 5).await;
        for stream in &mut streams {
            stream.kind("snapshot").await;
            assert_eq!(stream.kind("tick").await.id, format!("1.{next}"));
        }
        drop(streams);
        let metrics = server.get("/metrics").await.expect(StatusCode::OK).text();
        assert!(metrics.contains("hourglass_price_streams 0"), "{metrics}");
    });
}

#[test]
fn who_reads_too_slowly_is_let_go_and_goes_on_where_it_was() {
    with_server(async |server| {
        let first = change(&server, "f-1", 1).await;
        let mut slow = open(&server, ALL, &[]).await;
        assert_eq!(slow.kind("snapshot").await.id, format!("1.{first}"));
        let second = change(&server, "f-1", 2).await;
        assert_eq!(slow.kind("tick").await.id, format!("1.{second}"));
        let mut missed = Vec::new();
        // A stream looks ahead by as many as it takes at once.
        for gpus in 0..LAG_CLEARINGS_MAX as u64 + 40 {
            missed.push(change(&server, "f-1", 3 + gpus).await);
        }
        server.get("/v1/prices").await.expect(StatusCode::OK);
        let mut told = Vec::new();
        let bye = loop {
            let event = slow.next().await.unwrap();
            match event.event.as_str() {
                "tick" => told.push(event),
                _ => break event,
            }
        };
        assert_eq!((bye.event.as_str(), &bye.data["code"]), ("bye", &json!("slow")));
        assert_eq!(slow.next().await, None);
        let id = told.last().map_or(format!("1.{second}"), |it| it.id.clone());
        let mut again = open(&server, ALL, &[("last-event-id", &id)]).await;
        for position in &missed[told.len()..] {
            assert_eq!(again.kind("tick").await.id, format!("1.{position}"));
        }
    });
}

#[test]
fn a_stream_ends_with_its_credential_and_with_the_server() {
    with_server(async |server| {
        let (key, grant) = draw_key(key_of(Role::Customer, "acme", &[])).unwrap();
        let id = grant.id.clone();
        server.with_customers().await;
        let _created = server.cell.submit(Command::CreateKey(grant)).await.unwrap();
        let config = ApiConfig { operator_token: Some(OPERATOR_TOKEN.to_owned()), ..ApiConfig::default() };
        let prices = config.prices.clone();
        let server = Server { router: router(server.cell.clone(), config), ..server };
        let bearer = format!("Bearer {}", key.reveal());
        let mut customers = open(&server, ALL, &[("authorization", &bearer)]).await;
        let bearer = format!("Bearer {OPERATOR_TOKEN}");
        let mut operators = open(&server, ALL, &[("authorization", &bearer)]).await;
        customers.kind("snapshot").await;
        operators.kind("snapshot").await;
        let _revoked = server.cell.submit(Command::RevokeKey { id }).await.unwrap();
        assert_eq!(customers.kind("bye").await.data["code"], "unauthenticated");
        assert_eq!(customers.next().await, None);
        prices.close();
        assert_eq!(operators.kind("bye").await.data["code"], "shutting_down");
        assert_eq!(operators.next().await, None);
        server.get_with(ALL, OPERATOR_TOKEN).await.expect_problem(503, "shutting_down");
    });
}

#[test]
fn prices_are_public_where_the_operator_says_so_and_nothing_else_is() {
    with_server(async |server| {
        server.with_customers().await;
        let position = change(&server, "f-1", 4).await;
        let closed = server.guarded();
        for path in [ALL, ONE, "/v1/prices", "/v1/pools/h100/f-1/prices"] {
            closed.get(path).await.expect_problem(401, "unauthenticated");
        }
        let config = ApiConfig {
            operator_token: Some(OPERATOR_TOKEN.to_owned()),
            public_prices: true,
            ..ApiConfig::default()
        };
        let open_to_all = Server { router: router(closed.cell.clone(), config), ..closed };
        let mut stream = open(&open_to_all, ALL, &[]).await;
        assert_eq!(stream.headers["access-control-allow-origin"], "*");
        assert_eq!(stream.kind("snapshot").await.id, format!("1.{position}"));
        for path in
            ["/v1/pools", "/v1/clears", "/v1/pools/h100/f-1/nodes", "/v1/tenants", "/v1/tenants/acme/bids"]
        {
            open_to_all.get(path).await.expect_problem(401, "unauthenticated");
        }
        // Who gives a credential is held to it.
        open_to_all.get_with("/v1/prices", "wrong").await.expect_problem(401, "unauthenticated");
        let agent = open_to_all.key(key_of(Role::Agent, "node-1", &[])).await;
        open_to_all.get_with("/v1/prices", &agent).await.expect_problem(403, "forbidden");
        // One of the burst was the stream's.
        for left in (0..PUBLIC_RATE_BURST - 1).rev() {
            let answer = open_to_all.get("/v1/prices").await.expect(StatusCode::OK);
            assert!(
                answer.header("ratelimit").starts_with(&format!("\"address\";r={left};")),
                "{:?}",
                answer.headers
            );
        }
        let refused = open_to_all.get("/v1/prices").await;
        assert_eq!(refused.header("retry-after"), "1");
        refused.expect_problem(429, "rate_limited");
        // Streams that are open keep their places until they end.
        let mut streams = vec![stream];
        open_to_all.clock.set("2026-01-01T02:05:00Z");
        while streams.len() < STREAMS_PER_ADDRESS_MAX {
            streams.push(open(&open_to_all, ALL, &[]).await);
        }
        open_to_all.get(ALL).await.expect_problem(429, "streams_exhausted");
        drop(streams.pop());
        drop(open(&open_to_all, ONE, &[]).await);
    });
}
