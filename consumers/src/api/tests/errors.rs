//! Each class of error, and who may come in.

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use hourglass_units::Instant;
use serde_json::json;

use crate::api::app::App;
use crate::api::{ApiConfig, BODY_BYTES_MAX, REQUESTS_MAX, layered, serve_http};
use crate::testing::{instance, request, with_config, with_server};

#[test]
fn each_error_is_a_problem() {
    with_server(async |server| {
        server.with_customers().await;
        let gets = [
            ("/v2", 404, "route_unknown"),
            ("/v1/tenants/acme/nothing", 404, "route_unknown"),
            ("/v1/tenants/nobody", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/usage", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/balance", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/metering", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/instances", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/invoices", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/transfers", 404, "tenant_unknown"),
            ("/v1/tenants/nobody/charges", 404, "tenant_unknown"),
            ("/v1/tenants/-", 400, "path_invalid"),
            ("/v1/tenants/acme/invoices/first", 400, "path_invalid"),
            ("/v1/tenants/acme/invoices/draft", 400, "query_invalid"),
            ("/v1/tenants/acme/invoices/draft?period=2026-13", 400, "query_invalid"),
            ("/v1/tenants/acme/usage?colour=red", 400, "query_invalid"),
            ("/v1/tenants/acme/usage?start=yesterday", 400, "query_invalid"),
            ("/v1/tenants/acme/usage?start=2026-01-01T00:30:00Z", 400, "time_not_on_the_hour"),
            (
                "/v1/tenants/acme/usage?start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z",
                400,
                "interval_reversed",
            ),
            ("/v1/tenants/acme/usage?group_by=colour", 400, "group_by_invalid"),
            ("/v1/ledger/transfers?account=assets", 400, "account_unknown"),
            ("/v1/ledger/transfers?page_size=0", 400, "page_size_invalid"),
            ("/v1/ledger/transfers?page_size=1001", 400, "page_size_invalid"),
            ("/v1/ledger/transfers?page_token=x", 400, "page_token_invalid"),
            ("/v1/usage:ingest", 405, "method_not_allowed"),
        ];
        for (path, status, code) in gets {
            server.get(path).await.expect_problem(status, code);
        }
        let at = |at: &str| json!({ "at": at });
        let posts = [
            ("/v1/tenants", json!({"tenant": "acme", "currency": "USD"}), 409, "tenant_exists"),
            ("/v1/tenants", json!({"tenant": "new", "currency": "XXX"}), 422, "body_invalid"),
            (
                "/v1/tenants",
                json!({"tenant": "new", "currency": "USD", "colour": "red"}),
                422,
                "body_invalid",
            ),
            (
                "/v1/tenants",
                json!({"tenant": "new", "currency": "USD", "display_name": "\u{7}"}),
                422,
                "text_invalid",
            ),
            ("/v1/rate-cards", crate::testing::card(), 409, "card_refused"),
            ("/v1/tenants/nobody/instances", instance("i-2"), 404, "tenant_unknown"),
            ("/v1/tenants/acme/instances", instance("i-1"), 409, "instance_exists"),
            ("/v1/tenants/acme/instances/i-1", at("2026-01-01T01:00:00Z"), 405, "method_not_allowed"),
            ("/v1/tenants/acme/instances/i-1:pause", at("2026-01-01T01:00:00Z"), 404, "action_unknown"),
            ("/v1/tenants/acme/instances/i-1:start", at("2026-01-01T01:00:00Z"), 409, "already_running"),
            ("/v1/tenants/acme/instances/i-1:stop", at("2026-01-01T00:00:00Z"), 409, "stops_before_start"),
            ("/v1/tenants/acme/instances/i-1:stop", at("2027-01-01T00:00:00Z"), 422, "in_the_future"),
            ("/v1/tenants/acme/instances/i-1:stop", json!({}), 422, "body_invalid"),
            ("/v1/tenants/acme/instances/i-9:stop", at("2026-01-01T01:00:00Z"), 404, "instance_unknown"),
            ("/v1/tenants/acme/invoices", json!({"period": "2026-01"}), 409, "period_open"),
        ];
        for (path, body, status, code) in posts {
            server.post(path, body).await.expect_problem(status, code);
        }
        let json = [("content-type", "application/json")];
        server.post_as("/v1/tenants", &json, "{").await.expect_problem(400, "body_malformed");
        server.post_as("/v1/tenants", &[], "{}").await.expect_problem(415, "media_type_unsupported");
        let large = vec![b' '; BODY_BYTES_MAX + 1];
        server.post_as("/v1/tenants", &json, large).await.expect_problem(413, "too_large");
        let not_allowed = server.send(request("DELETE", "/v1/tenants/acme", &[], Body::empty())).await;
        assert_eq!(not_allowed.header("allow"), "GET,HEAD");
        not_allowed.expect_problem(405, "method_not_allowed");
    });
}

#[test]
fn another_tenants_instance_is_as_unknown_as_none() {
    with_server(async |server| {
        server.with_customers().await;
        let at = json!({"at": "2026-01-01T01:00:00Z"});
        let foreign =
            server.get("/v1/tenants/beta/instances/i-1").await.expect_problem(404, "instance_unknown");
        let none = server.get("/v1/tenants/beta/instances/i-9").await.expect_problem(404, "instance_unknown");
        assert_eq!(
            foreign["detail"].as_str().unwrap().replace("i-1", "i-9"),
            none["detail"].as_str().unwrap()
        );
        server.post("/v1/tenants/beta/instances/i-1:stop", at).await.expect_problem(404, "instance_unknown");
        let running = server.get("/v1/tenants/acme/instances/i-1").await.expect(StatusCode::OK).json();
        assert_eq!(running["running_since"], "2026-01-01T00:30:00Z");
        assert_eq!(server.get("/v1/tenants/beta/instances").await.json()["rows"], json!([]));
        let usage = server.get("/v1/tenants/beta/usage?instance=i-1").await.expect(StatusCode::OK).json();
        assert_eq!(usage["rows"], json!([]));
    });
}

#[test]
fn a_repeat_under_the_same_key_is_the_first_answer() {
    with_server(async |server| {
        let tenant = json!({"tenant": "acme", "currency": "USD"}).to_string();
        let named = |key| [("content-type", "application/json"), ("idempotency-key", key)];
        let first =
            server.post_as("/v1/tenants", &named("k1"), tenant.clone()).await.expect(StatusCode::CREATED);
        let again = server.post_as("/v1/tenants", &named("k1"), tenant.clone()).await.expect(StatusCode::OK);
        assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
        assert_eq!(first.body, again.body);
        assert_eq!(again.header("location"), "/v1/tenants/acme");

        server
            .post_as("/v1/tenants", &named("k2"), tenant.clone())
            .await
            .expect_problem(409, "tenant_exists");
        let other = json!({"tenant": "beta", "currency": "USD"}).to_string();
        let reused = server.post_as("/v1/tenants", &named("k1"), other).await;
        reused.expect_problem(409, "idempotency_key_reused");
        // Another path is another scope.
        let card = crate::testing::card().to_string();
        server.post_as("/v1/rate-cards", &named("k1"), card).await.expect(StatusCode::CREATED);
        let long = "k".repeat(256);
        for bad in ["", "a b", "ä", long.as_str()] {
            let refused = server.post_as("/v1/tenants", &named(bad), tenant.clone()).await;
            refused.expect_problem(400, "idempotency_key_invalid");
        }
        let twice =
            [("content-type", "application/json"), ("idempotency-key", "a"), ("idempotency-key", "b")];
        server.post_as("/v1/tenants", &twice, tenant).await.expect_problem(400, "idempotency_key_invalid");
    });
}

#[test]
fn without_a_token_only_this_machine_is_answered() {
    with_server(async |server| {
        for host in ["localhost:8080", "127.0.0.1", "[::1]:8080"] {
            let answer = server.send(request("GET", "/v1/tenants", &[("host", host)], Body::empty())).await;
            answer.expect(StatusCode::OK);
        }
        let rebound = request("GET", "/v1/tenants", &[("host", "evil.example:8080")], Body::empty());
        server.send(rebound).await.expect_problem(403, "host_not_loopback");
        let origin = |origin| request("GET", "/v1/tenants", &[("origin", origin)], Body::empty());
        server.send(origin("https://evil.example")).await.expect_problem(403, "origin_not_loopback");
        server.send(origin("null")).await.expect_problem(403, "origin_not_loopback");
        server.send(origin("http://localhost:8080")).await.expect(StatusCode::OK);
    });
}

#[test]
fn with_a_token_all_but_probes_and_documentation_need_it() {
    let config =
        ApiConfig { operator_token: Some("a token of some length".to_owned()), ..ApiConfig::default() };
    assert!(!format!("{config:?}").contains("length"));
    with_config(
        config,
        |store| store,
        async |server| {
            for open in ["/healthz", "/readyz", "/openapi.json", "/docs/"] {
                let answer =
                    server.send(request("GET", open, &[("host", "cell.example")], Body::empty())).await;
                answer.expect(StatusCode::OK);
            }
            for closed in ["/v1/tenants", "/metrics", "/v1/nothing", "/v1/usage:ingest"] {
                let refused = server.get(closed).await;
                assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"hourglass\"");
                refused.expect_problem(401, "unauthenticated");
            }
            let with = |token| {
                request(
                    "GET",
                    "/v1/tenants",
                    &[("host", "cell.example"), ("authorization", token)],
                    Body::empty(),
                )
            };
            server.send(with("Bearer a token of some length")).await.expect(StatusCode::OK);
            server.send(with("Bearer a token of some lengtH")).await.expect_problem(401, "unauthenticated");
        },
    );
}

#[test]
fn requests_have_ids_and_are_counted() {
    with_server(async |server| {
        let first = server.get("/healthz").await;
        let second = server.get("/healthz").await;
        assert!(first.header("x-request-id").starts_with("req-"));
        assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
        let named = request("GET", "/v1/nothing", &[("x-request-id", "mine-1")], Body::empty());
        assert_eq!(server.send(named).await.expect_problem(404, "route_unknown")["request_id"], "mine-1");
        let ready = server.get("/readyz").await.expect(StatusCode::OK).json();
        assert_eq!(ready, json!({"writable": true, "epoch": 1, "position": 1}));

        let text = server.get("/metrics").await.expect(StatusCode::OK).text();
        for line in [
            "hourglass_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"200\"} 2",
            "hourglass_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
            "# TYPE hourglass_commits_total counter",
            "hourglass_commits_total 1",
            "hourglass_commit_failures_total 0",
            "hourglass_events_total 1",
            "hourglass_log_position 1",
            "hourglass_writer_epoch 1",
            "hourglass_commit_duration_seconds_count 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains("hourglass_event_bytes_total ")
                && text.contains("hourglass_commit_duration_seconds_sum 0.")
        );
    });
}

#[test]
fn a_panic_fails_its_own_request_and_too_many_requests_are_told_to_come_back() {
    with_server(async |mut server| {
        let app = App::new(server.cell.clone(), ApiConfig::default());
        let panics = || async {
            if true {
                panic!("a handler with a bug");
            }
        };
        server.router = layered(axum::Router::new().route("/v1/tenants", get(panics)), app.clone());
        server.get("/v1/tenants").await.expect_problem(500, "internal");
        let all = u32::try_from(REQUESTS_MAX).unwrap();
        let permits = app.permits().try_acquire_many(all).unwrap();
        let refused = server.get("/v1/tenants").await;
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.expect_problem(503, "overloaded")["retryable"], true);
        drop(permits);
        server.get("/v1/tenants").await.expect_problem(500, "internal");
    });
}

#[test]
fn a_served_cell_answers_until_it_is_told_to_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    with_server(async |server| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async {
            let _told = stopped.await;
        };
        let served = tokio::spawn(serve_http(listener, server.cell.clone(), ApiConfig::default(), shutdown));
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        connection
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"writable\":true"),
            "{answer}"
        );
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
    });
}

/// A store whose commits end as told.
struct Failing(Box<dyn Store>, fn() -> CommitError);

impl Store for Failing {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        self.0.acquire(acquire)
    }
    fn commit(&mut self, _: &Commit) -> Result<(), CommitError> {
        Err((self.1)())
    }
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.0.release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.0.write_snapshot(snapshot)
    }
    fn reader(&self) -> std::sync::Arc<dyn Reader> {
        self.0.reader()
    }
}

#[test]
fn what_may_not_be_stored_is_unavailable_and_a_deposed_cell_is_not_ready() {
    let failing =
        |store| -> Box<dyn Store> { Box::new(Failing(store, || CommitError::Unknown("disk".to_owned()))) };
    with_config(ApiConfig::default(), failing, async |server| {
        // The log stays empty, so each command is the first: the cell is not open.
        let open = json!({"tenant": "acme", "currency": "USD"});
        let refused = server.post("/v1/tenants", open).await;
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.expect_problem(503, "cell_not_open")["retryable"], true);
        let garbage = server.post_as("/v1/usage:ingest", &[("content-type", "application/json")], "{").await;
        garbage.expect_problem(503, "cell_not_open");
    });
    let deposed = || CommitError::Deposed { position: hourglass_ledger::core::Position::ZERO, epoch: 2 };
    with_config(
        ApiConfig::default(),
        move |store| Box::new(Failing(store, deposed)),
        async |server| {
            let not_ready = server.get("/readyz").await.expect_problem(503, "not_writable");
            assert_eq!((&not_ready["writable"], &not_ready["epoch"]), (&json!(false), &json!(1)));
            let refused = server.post("/v1/tenants", json!({"tenant": "acme", "currency": "USD"})).await;
            assert_eq!(refused.expect_problem(503, "not_the_writer")["retryable"], true);
            server.get("/healthz").await.expect(StatusCode::OK);
        },
    );
}
