//! Webhooks and budgets by HTTP: made, shown, changed and refused. What is delivered is tested beside delivery.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::testing::{Server, request, with_server};

const ACME: &str = "/v1/tenants/acme/webhooks";

fn draft(id: &str) -> Value {
    json!({"webhook": id, "url": "https://example.com/hooks", "events": ["hourglass.budget.alert.v1"]})
}

async fn send(server: &Server, method: &str, path: &str, body: Value) -> crate::testing::Reply {
    let headers = [("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.send(request(method, path, &headers, body.into())).await
}

#[test]
fn a_secret_is_shown_once() {
    with_server(async |server| {
        server.with_customers().await;
        for base in [ACME, "/v1/webhooks"] {
            let headers = [("content-type", "application/json"), ("idempotency-key", base)];
            let create = async || server.post_as(base, &headers, draft("billing").to_string()).await;
            let made = create().await.expect(StatusCode::CREATED);
            assert_eq!(
                (made.header("cache-control"), made.header("location")),
                ("no-store", format!("{base}/billing").as_str())
            );
            let secret = made.json()["secret"].as_str().unwrap().to_owned();
            assert!(secret.starts_with("whsec_") && secret.len() == 50);
            let again = create().await.expect(StatusCode::OK).json();
            assert!(again["secret"].is_null() && again["note"].is_string());
            let path = format!("{base}/billing");
            for text in [server.get(&path).await.text(), server.get(base).await.text()] {
                assert!(text.contains("https://example.com/hooks") && !text.contains(&secret[6..]), "{text}");
            }
            let rotated =
                server.post(&format!("{path}:rotate-secret"), json!({})).await.expect(StatusCode::OK);
            assert_ne!(rotated.json()["secret"], json!(secret));
            let shown = server.get(&path).await.expect(StatusCode::OK).json();
            assert_eq!(shown["previous_secret_until"], "2026-01-02T02:01:00Z");
        }
    });
}

#[test]
fn a_webhook_is_changed_and_forgotten() {
    with_server(async |server| {
        server.with_customers().await;
        for id in ["b", "a", "c"] {
            server.post(ACME, draft(id)).await.expect(StatusCode::CREATED);
        }
        server.post(ACME, draft("a")).await.expect_problem(409, "webhook_exists");
        // A page at a time, by id.
        let first = server.get(&format!("{ACME}?page_size=2")).await.expect(StatusCode::OK).json();
        let next = first["next_page_token"].as_str().unwrap();
        let second =
            server.get(&format!("{ACME}?page_size=2&page_token={next}")).await.expect(StatusCode::OK).json();
        let ids = |page: &Value| {
            let rows = page["rows"].as_array().unwrap();
            rows.iter().map(|it| it["webhook"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((ids(&first), ids(&second)), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
        server
            .get(&format!("/v1/webhooks?page_token={next}"))
            .await
            .expect_problem(400, "page_token_invalid");
        server.get(&format!("{ACME}?of=acme")).await.expect_problem(400, "query_invalid");

        let path = format!("{ACME}/a");
        let form = json!({"url": "https://example.com:8443/", "events": ["*"], "enabled": false});
        send(&server, "PUT", &path, form).await.expect(StatusCode::OK);
        let shown = server.get(&path).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&shown["status"], &shown["reason"], &shown["events"]),
            (&json!("disabled"), &json!("owner"), &json!(["*"]))
        );
        server.post(&format!("{path}:test"), json!({})).await.expect_problem(409, "webhook_disabled");
        send(&server, "DELETE", &path, Value::Null).await.expect(StatusCode::OK);
        for (method, path) in
            [("GET", path.clone()), ("DELETE", path.clone()), ("GET", format!("{path}/deliveries"))]
        {
            send(&server, method, &path, Value::Null).await.expect_problem(404, "webhook_unknown");
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    with_server(async |server| {
        server.with_customers().await;
        let with = |name: &str, value: Value| {
            let mut draft = draft("x");
            draft[name] = value;
            draft
        };
        for (draft, code) in [
            (with("events", json!([])), "webhook_invalid"),
            (with("events", json!(["hourglass.spot.price.v1"])), "webhook_invalid"),
            (with("events", json!(["nonsense"])), "webhook_invalid"),
            (with("url", json!("http://example.com/")), "webhook_url_refused"),
            (with("url", json!("https://10.0.0.1/")), "webhook_url_refused"),
            (with("url", json!("https://example.com:22/")), "webhook_url_refused"),
            (with("url", json!("nonsense")), "webhook_url_refused"),
            (with("webhook", json!("a/b")), "body_invalid"),
            (with("secret", json!("mine")), "body_invalid"),
            (with("description", json!("two\nlines")), "text_invalid"),
        ] {
            server.post(ACME, draft).await.expect_problem(422, code);
        }
        server.post("/v1/tenants/nobody/webhooks", draft("x")).await.expect_problem(404, "tenant_unknown");
        server.post(ACME, draft("w")).await.expect(StatusCode::CREATED);
        let path = format!("{ACME}/w");
        server
            .post(&format!("{path}:rotate-secret"), json!({"overlap_seconds": 604_801}))
            .await
            .expect_problem(422, "webhook_invalid");
        server.post(&format!("{path}:dance"), json!({})).await.expect_problem(404, "action_unknown");
        // Ids of nothing, and of what is told to nobody by webhook.
        for id in ["msg_eu_1_0", "msg_eu_0_0", "msg_us_4_0", "nonsense"] {
            let path = format!("{path}/deliveries/{id}:redeliver");
            server.post(&path, json!({})).await.expect_problem(404, "message_unknown");
        }
    });
}

#[test]
fn budgets_are_set_shown_and_taken_away() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/budgets/ml";
        let budget = json!({"amount": "100", "currency": "USD", "project": "ml", "model": "on_demand", "thresholds": ["50"]});
        let with = |name: &str, value: Value| {
            let mut budget = budget.clone();
            budget[name] = value;
            budget
        };
        for (body, code) in [
            (with("currency", json!("EUR")), "currency_differs"),
            (with("amount", json!("0")), "budget_invalid"),
            (with("thresholds", json!([])), "budget_invalid"),
            (with("thresholds", json!(["50", "20"])), "budget_invalid"),
            (with("model", json!("leased")), "body_invalid"),
            (with("limit", json!("1")), "body_invalid"),
        ] {
            send(&server, "PUT", path, body).await.expect_problem(422, code);
        }
        let nobody = "/v1/tenants/nobody/budgets/ml";
        send(&server, "PUT", nobody, budget.clone()).await.expect_problem(404, "tenant_unknown");
        send(&server, "PUT", path, budget).await.expect(StatusCode::OK);
        let shown = server.get(path).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&shown["period"], &shown["spent"], &shown["model"]),
            (&json!("2026-01"), &json!("0"), &json!("on_demand"))
        );
        assert!(shown["as_of"]["position"].is_u64());
        let listed = server.get("/v1/tenants/acme/budgets").await.expect(StatusCode::OK).json();
        assert_eq!(listed["rows"][0]["budget"], "ml");
        send(&server, "DELETE", path, Value::Null).await.expect(StatusCode::OK);
        for method in ["GET", "DELETE"] {
            send(&server, method, path, Value::Null).await.expect_problem(404, "budget_unknown");
        }
    });
}
