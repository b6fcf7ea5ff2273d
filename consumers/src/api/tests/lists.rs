//! Lists and their page tokens.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::testing::{Server, instance, record, with_server};

/// Reads a list to its end, so many rows at once.
async fn read_all(server: &Server, path: &str, size: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut token = String::new();
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let page = server
            .get(&format!("{path}{separator}page_size={size}{token}"))
            .await
            .expect(StatusCode::OK)
            .json();
        rows.extend(page["rows"].as_array().unwrap().clone());
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return rows,
        }
    }
}

#[test]
fn every_list_is_the_same_whatever_the_page_size() {
    with_server(async |server| {
        server.with_customers().await;
        for id in ["i-2", "i-3"] {
            server.post("/v1/tenants/acme/instances", instance(id)).await.expect(StatusCode::CREATED);
            server
                .post("/v1/tenants/beta/instances", instance(&format!("b-{id}")))
                .await
                .expect(StatusCode::CREATED);
        }
        for (hour, minute) in [("02", "00"), ("03", "20"), ("04", "40")] {
            // The first tick of an hour writes what grew before it.
            server.clock.set(&format!("2026-01-01T{hour}:01:00Z"));
            let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [
                record("2026-01-01T00:30:00Z", &format!("2026-01-01T01:{minute}:00Z")), {}]});
            server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
            server.tick().await;
        }
        let lists = [
            ("/v1/tenants", 2),
            ("/v1/rate-cards", 1),
            ("/v1/tenants/acme/instances", 3),
            ("/v1/tenants/acme/contracts", 0),
            ("/v1/tenants/acme/transfers", 3),
            ("/v1/ledger/transfers?account=assets:unbilled:acme", 3),
            ("/v1/ledger/transfers?account=assets:unbilled:beta", 0),
            ("/v1/ledger/charges", 3),
            ("/v1/tenants/acme/charges?start=2026-01-01T01:00:00Z", 2),
            ("/v1/tenants/beta/charges", 0),
            ("/v1/quarantine", 6),
        ];
        for (path, count) in lists {
            let whole = read_all(&server, path, 1_000).await;
            assert_eq!(whole.len(), count, "{path}: {whole:?}");
            for size in [1, 2] {
                assert_eq!(read_all(&server, path, size).await, whole, "{path}");
            }
        }
    });
}

#[test]
fn a_page_token_holds_its_position_and_its_list() {
    with_server(async |server| {
        server.with_customers().await;
        let report = async |until: &str| {
            let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
                "records": [record("2026-01-01T00:30:00Z", until)]});
            server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
            server.tick().await;
        };
        report("2026-01-01T00:40:00Z").await;
        report("2026-01-01T00:50:00Z").await;
        let first = server.get("/v1/ledger/transfers?page_size=1").await.json();
        let token = first["next_page_token"].as_str().unwrap();
        // What is booked between two pages is in neither.
        report("2026-01-01T01:00:00Z").await;
        let second =
            server.get(&format!("/v1/ledger/transfers?page_size=1000&page_token={token}")).await.json();
        assert_eq!(second["as_of"], first["as_of"]);
        assert_eq!(second["rows"].as_array().unwrap().len(), 1);
        let all = server.get("/v1/ledger/transfers").await.json();
        assert_eq!(all["rows"].as_array().unwrap().len(), 3);
        let positions: BTreeSet<u64> =
            all["rows"].as_array().unwrap().iter().map(|row| row["position"].as_u64().unwrap()).collect();
        assert_eq!(positions.len(), 3);

        for other in [
            "/v1/ledger/charges?",
            "/v1/tenants/acme/transfers?",
            "/v1/ledger/transfers?account=income:rounding&",
        ] {
            let refused = server.get(&format!("{other}page_token={token}")).await;
            refused.expect_problem(400, "page_token_invalid");
        }
    });
}
