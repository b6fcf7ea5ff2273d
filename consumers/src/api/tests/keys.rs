//! API keys over HTTP: shown once, listed without secrets, gone at once when revoked.

use axum::http::StatusCode;
use hourglass_ledger::core::{Role, Scope};
use serde_json::{Value, json};

use crate::testing::{OPERATOR_TOKEN, Reply, Server, key_of, record, with_server};

async fn create(server: &Server, draft: Value) -> Reply {
    server.send_with("POST", "/v1/keys", OPERATOR_TOKEN, draft.to_string()).await
}

fn of_acme() -> Value {
    json!({"role": "customer", "tenant": "acme", "name": "ci", "expires_at": "2026-04-01T00:00:00Z"})
}

#[test]
fn a_key_lives_from_its_creation_to_its_end() {
    with_server(async |server| {
        server.with_customers().await;
        let server = server.guarded();
        let created = create(&server, of_acme()).await.expect(StatusCode::CREATED);
        assert_eq!(created.header("cache-control"), "no-store");
        let body = created.json();
        let key = body["key"].as_str().unwrap().to_owned();
        let id = body["id"].as_str().unwrap();
        assert!(key.starts_with(&format!("hg_{id}_")) && key.len() == 63, "{key}");
        assert_eq!(created.header("location"), format!("/v1/keys/{id}"));
        server.get_with("/v1/tenants/acme", &key).await.expect(StatusCode::OK);

        let secret = key.splitn(3, '_').nth(2).unwrap();
        let list = server.get_with("/v1/keys", OPERATOR_TOKEN).await.expect(StatusCode::OK);
        let one = server.get_with(&format!("/v1/keys/{id}"), OPERATOR_TOKEN).await.expect(StatusCode::OK);
        for shown in [&list, &one] {
            assert!(!shown.text().contains(secret) && !shown.text().contains("hash"), "{}", shown.text());
        }
        let shown = json!({"id": id, "name": "ci", "role": "customer", "tenant": "acme", "scopes": ["read", "write"],
            "created_at": "2026-01-01T02:01:00Z", "expires_at": "2026-04-01T00:00:00Z", "active": true});
        assert_eq!(list.json()["rows"], json!([shown]));

        // It ends by the cell's clock, without an event.
        server.clock.set("2026-03-31T23:59:59.999Z");
        server.get_with("/v1/tenants/acme", &key).await.expect(StatusCode::OK);
        server.clock.set("2026-04-01T00:00:00Z");
        let expired = server.get_with("/v1/tenants/acme", &key).await;
        assert_eq!(expired.header("www-authenticate"), "Bearer realm=\"hourglass\", error=\"invalid_token\"");
        let expired = expired.expect_problem(401, "unauthenticated");
        assert!(!expired.to_string().contains(secret));

        // A revocation holds for the next request.
        let second = json!({"role": "customer", "tenant": "acme"});
        let second = create(&server, second).await.expect(StatusCode::CREATED).json();
        let (id, key) = (second["id"].as_str().unwrap(), second["key"].as_str().unwrap());
        server.get_with("/v1/tenants/acme", key).await.expect(StatusCode::OK);
        let revoke = format!("/v1/keys/{id}:revoke");
        server.send_with("POST", &revoke, OPERATOR_TOKEN, "").await.expect(StatusCode::OK);
        let revoked = server.get_with("/v1/tenants/acme", key).await.expect_problem(401, "unauthenticated");
        assert_eq!(revoked["detail"], expired["detail"]);
        server.send_with("POST", &revoke, OPERATOR_TOKEN, "").await.expect_problem(409, "key_revoked");
        let unknown = server.send_with("POST", "/v1/keys/aaaaaaaaaaaa:revoke", OPERATOR_TOKEN, "").await;
        unknown.expect_problem(404, "key_unknown");
        let pause = server.send_with("POST", &format!("/v1/keys/{id}:pause"), OPERATOR_TOKEN, "").await;
        pause.expect_problem(404, "action_unknown");
        let shown = server.get_with(&format!("/v1/keys/{id}"), OPERATOR_TOKEN).await.json();
        assert_eq!((&shown["active"], &shown["revoked_at"]), (&json!(false), &json!("2026-04-01T00:00:00Z")));
    });
}

#[test]
fn a_repeated_creation_names_the_key_and_keeps_its_secret() {
    with_server(async |server| {
        server.with_customers().await;
        let server = server.guarded();
        let bearer = format!("Bearer {OPERATOR_TOKEN}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", "create-ci"),
        ];
        let post = async |draft: Value| server.post_as("/v1/keys", &headers, draft.to_string()).await;
        let first = post(of_acme()).await.expect(StatusCode::CREATED).json();
        let again = post(of_acme()).await.expect(StatusCode::OK);
        assert_eq!(again.header("idempotent-replayed"), "true");
        let again = again.json();
        assert_eq!((&again["id"], &again["position"]), (&first["id"], &first["position"]));
        assert!(again["key"].is_null() && again["note"].as_str().unwrap().contains("revoke it"), "{again}");
        let other = json!({"role": "customer", "tenant": "beta"});
        post(other).await.expect_problem(409, "idempotency_key_reused");
        let rows = server.get_with("/v1/keys", OPERATOR_TOKEN).await.json();
        assert_eq!(rows["rows"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn what_makes_no_key() {
    with_server(async |server| {
        server.with_customers().await;
        let server = server.guarded();
        for (draft, status, code) in [
            (json!({}), 422, "body_invalid"),
            (json!({"role": "king"}), 422, "body_invalid"),
            (json!({"role": "customer"}), 422, "key_grant_invalid"),
            (json!({"role": "customer", "tenant": "nobody"}), 404, "tenant_unknown"),
            (json!({"role": "finance", "tenant": "acme"}), 422, "key_grant_invalid"),
            (json!({"role": "agent"}), 422, "key_grant_invalid"),
            (json!({"role": "customer", "tenant": "acme", "scopes": ["ingest"]}), 422, "key_grant_invalid"),
            (json!({"role": "planner", "expires_at": "2026-01-01T02:01:00Z"}), 422, "key_grant_invalid"),
            (json!({"role": "planner", "expires_at": "2037-01-01T00:00:00Z"}), 422, "key_grant_invalid"),
            (json!({"role": "planner", "name": "\u{7}"}), 422, "text_invalid"),
            (json!({"role": "planner", "id": "aaaaaaaaaaaa"}), 422, "body_invalid"),
        ] {
            create(&server, draft).await.expect_problem(status, code);
        }
        // Nobody passes on what it does not have.
        let narrow = server.key(key_of(Role::Operator, "", &[Scope::Keys, Scope::Read])).await;
        let by = async |draft: Value| server.send_with("POST", "/v1/keys", &narrow, draft.to_string()).await;
        by(json!({"role": "operator"})).await.expect_problem(403, "scope_exceeded");
        by(json!({"role": "agent", "agent": "node-1"})).await.expect_problem(403, "scope_exceeded");
        by(json!({"role": "operator", "scopes": ["read"]})).await.expect(StatusCode::CREATED);
    });
}

#[test]
fn an_agent_speaks_for_itself_alone() {
    with_server(async |server| {
        server.with_customers().await;
        let key = server.key(key_of(Role::Agent, "node-1", &[])).await;
        let server = server.guarded();
        let batch = |agent: &str| {
            let records = [record("2026-01-01T00:30:00Z", "2026-01-01T00:40:00Z")];
            json!({"agent_id": agent, "epoch": 1, "first_seq": 0, "records": records}).to_string()
        };
        let before = server.get_with("/v1/ledger/head", OPERATOR_TOKEN).await.json();
        let foreign = server.send_with("POST", "/v1/usage:ingest", &key, batch("node-2")).await;
        foreign.expect_problem(403, "agent_foreign");
        let bearer = format!("Bearer {key}");
        let event = |source: &str, id: &str| {
            json!({"specversion": "1.0", "type": "hourglass.usage.v1", "source": source, "id": id,
                "data": record("2026-01-01T00:30:00Z", "2026-01-01T00:40:00Z")})
        };
        let events = json!([event("node-1", "1"), event("node-2", "2")]).to_string();
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/cloudevents-batch+json")];
        server.post_as("/v1/usage:ingest", &headers, events).await.expect_problem(403, "agent_foreign");
        // An error that says that nothing was kept is true.
        assert_eq!(
            server.get_with("/v1/ledger/head", OPERATOR_TOKEN).await.json()["position"],
            before["position"]
        );
        server.send_with("POST", "/v1/usage:ingest", &key, batch("node-1")).await.expect(StatusCode::OK);
        server.get_with("/v1/tenants/acme/usage", &key).await.expect_problem(403, "forbidden");
    });
}
