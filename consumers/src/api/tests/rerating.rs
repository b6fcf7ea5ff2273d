//! Contracts with terms, spot prices, and prices of the past that change.

use axum::http::StatusCode;
use hourglass_ledger::core::Role;
use serde_json::{Value, json};

use crate::api::RERATE_LINES_MAX;
use crate::testing::{OPERATOR_TOKEN, Server, card, instance, key_of, record, with_server};

async fn report(server: &Server) {
    let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
        "records": [record("2026-01-01T00:30:00Z", "2026-01-01T02:00:00Z")]});
    server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
    server.tick().await;
}

/// The list at another price on demand, for the first two hours.
fn draft(price: &str) -> Value {
    let mut card = card();
    card["prices"] = json!([{"platform": "h100", "region": "eu", "model": "on_demand", "price": price}]);
    json!({"card": card, "from": "2026-01-01T00:00:00Z", "until": "2026-01-01T02:00:00Z"})
}

#[test]
fn a_contract_with_terms_is_read_as_it_was_signed() {
    with_server(async |server| {
        let mut list = card();
        list["prices"][0]["components"] = json!([
            {"name": "gpu", "quantity": "1", "price": "2.15"}, {"name": "vcpu", "quantity": "16", "price": "0.05"}]);
        server.post("/v1/rate-cards", list.clone()).await.expect(StatusCode::CREATED);
        let cards = server.get("/v1/rate-cards").await.expect(StatusCode::OK).json();
        assert_eq!(cards["rows"][0]["prices"][0]["components"], list["prices"][0]["components"]);
        assert_eq!(cards["rows"][0]["prices"][1].get("components"), None);
        server
            .post("/v1/tenants", json!({"tenant": "acme", "currency": "USD"}))
            .await
            .expect(StatusCode::CREATED);
        let path = "/v1/tenants/acme/contracts";
        let contract = json!({"name": "deal", "version": 1, "effective_from": "2026-01-01T00:00:00Z",
            "effective_until": "2027-01-01T00:00:00Z", "terms": {
                "discounts": [{"percent_off": "10"}],
                "tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "1000", "price": "2"}]}],
                "commitment": {"amount": "5000", "overage_percent": "110"}, "minimum": "100"}});
        server.post(path, contract).await.expect(StatusCode::CREATED);
        let found = server.get(path).await.expect(StatusCode::OK).json();
        let terms = &found["rows"][0]["terms"];
        assert_eq!(terms["discounts"][0]["percent_off"], "10");
        // A scope that names no model is on demand, and says so.
        assert_eq!(terms["discounts"][0]["scope"]["model"], "on_demand");
        assert_eq!((&terms["commitment"]["amount"], &terms["minimum"]), (&json!("5000"), &json!("100")));
        // What is read can be sent again.
        let mut next = found["rows"][0].clone();
        next["name"] = json!("other");
        next["effective_from"] = json!("2027-01-01T00:00:00Z");
        next["effective_until"] = json!("2028-01-01T00:00:00Z");
        server.post(path, next).await.expect(StatusCode::CREATED);
        let twice = json!({"name": "third", "version": 1, "effective_from": "2028-01-01T00:00:00Z",
            "terms": {"discounts": [{"percent_off": "10"}, {"percent_off": "20"}]}});
        server.post(path, twice).await.expect_problem(422, "card_invalid");
    });
}

#[test]
fn spot_prices_are_set_and_listed() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/spot-prices";
        assert_eq!(server.get(path).await.expect(StatusCode::OK).json()["rows"], json!([]));
        let price = |price: &str, from: Value| json!({"platform": "h100", "currency": "USD", "price": price, "from": from});
        server.post(path, price("1.1", Value::Null)).await.expect(StatusCode::CREATED);
        server.post(path, price("1.3", json!("2026-01-01T04:00:00Z"))).await.expect(StatusCode::CREATED);
        let steps = async || {
            let list = server.get(path).await.expect(StatusCode::OK).json();
            let rows = list["rows"].as_array().unwrap().clone();
            rows.iter().map(|row| format!("{} {}", row["price"], row["from"])).collect::<Vec<_>>()
        };
        assert_eq!(steps().await, [r#""1.1" "2026-01-01T02:01:00Z""#, r#""1.3" "2026-01-01T04:00:00Z""#]);
        let page = server.get(&format!("{path}?page_size=1")).await.json();
        let next = format!("{path}?page_token={}", page["next_page_token"].as_str().unwrap());
        assert_eq!(server.get(&next).await.expect(StatusCode::OK).json()["rows"][0]["price"], "1.3");
        server.clock.set("2026-01-01T05:00:00Z");
        server.tick().await;
        assert_eq!(steps().await, [r#""1.3" "2026-01-01T04:00:00Z""#]);
        for (body, status, code) in [
            (price("1", json!("2026-01-01T01:00:00Z")), 409, "card_refused"),
            (json!({"platform": "b200", "currency": "USD", "price": "1"}), 409, "card_refused"),
            (price("-1", Value::Null), 422, "body_invalid"),
            (json!({"platform": "h100", "currency": "XXY", "price": "1"}), 422, "body_invalid"),
        ] {
            server.post(path, body).await.expect_problem(status, code);
        }
    });
}

#[test]
fn a_rerating_is_previewed_and_committed() {
    with_server(async |server| {
        server.with_customers().await;
        report(&server).await;
        let path = "/v1/rerates:preview";
        let preview = server.post(path, draft("2")).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&preview["lines_compared"], &preview["lines_changed"], &preview["more_lines"]),
            (&json!(2), &json!(4), &json!(false)),
            "{preview}"
        );
        let acme = &preview["tenants"][0];
        assert_eq!(
            ["tenant", "before", "after", "difference"].map(|field| acme[field].as_str().unwrap()),
            ["acme", "35.4", "24", "-11.4"]
        );
        assert_eq!(
            acme["periods"],
            json!([{"period": "2026-01", "closed": false, "before": "35.4", "after": "24"}])
        );
        let lines = preview["lines"].as_array().unwrap();
        let sum = |price: &str| {
            let of = lines.iter().filter(|line| line["price"] == price);
            of.map(|line| line["quantity"].as_str().unwrap().parse::<i32>().unwrap()).sum::<i32>()
        };
        assert_eq!((lines.len(), sum("2.95"), sum("2")), (4, -12, 12));
        // The same prices change nothing, and a preview writes nothing.
        let same = server.post(path, draft("2.95")).await.expect(StatusCode::OK).json();
        assert_eq!((&same["lines_changed"], &same["tenants"]), (&json!(0), &json!([])));
        let position = |it: &Value| it["as_of"]["position"].as_u64();
        assert_eq!(position(&same), position(&preview));

        let done = server.post("/v1/rerates", draft("2")).await.expect(StatusCode::CREATED).json();
        assert_eq!(done["position"].as_u64(), position(&preview).map(|before| before + 1));
        let usage = server.get("/v1/tenants/acme/usage").await.json();
        assert_eq!(usage["rows"][0]["amount"], "24");
        let again = server.post(path, draft("2")).await.expect(StatusCode::OK).json();
        assert_eq!(again["lines_changed"], 0);

        let of = |field: &str, value: Value| {
            let mut draft = draft("3");
            draft[field] = value;
            draft
        };
        for path in ["/v1/rerates:preview", "/v1/rerates"] {
            for (body, status, code) in [
                (of("until", json!("2025-01-01T00:00:00Z")), 422, "interval_reversed"),
                (of("until", json!("2026-01-02T00:00:00Z")), 409, "card_refused"),
                (of("from", json!("2025-12-31T00:00:00Z")), 409, "card_refused"),
                (of("tenant", json!("nobody")), 404, "tenant_unknown"),
                (of("card", json!({})), 422, "body_invalid"),
                (of("into_close", json!(true)), 422, "body_invalid"),
            ] {
                server.post(path, body).await.expect_problem(status, code);
            }
        }
    });
}

#[test]
fn closed_periods_are_corrected_by_who_may() {
    with_server(async |server| {
        server.with_customers().await;
        report(&server).await;
        server.clock.set("2026-02-05T00:00:00Z");
        server.tick().await;
        server
            .post("/v1/tenants/acme/invoices", json!({"period": "2026-01"}))
            .await
            .expect(StatusCode::CREATED);
        let finance = server.key(key_of(Role::Finance, "", &[])).await;
        let planner = server.key(key_of(Role::Planner, "", &[])).await;
        let server = server.guarded();
        let send = async |path: &str, key: &str, into_closed: bool| {
            let mut draft = draft("2");
            draft["into_closed"] = json!(into_closed);
            server.send_with("POST", path, key, draft.to_string()).await
        };
        let preview = send("/v1/rerates:preview", &finance, false).await.expect(StatusCode::OK).json();
        assert_eq!(preview["tenants"][0]["periods"][0]["closed"], true);
        send("/v1/rerates:preview", &planner, false).await.expect_problem(403, "forbidden");
        send("/v1/rerates", &planner, true).await.expect_problem(403, "forbidden");
        for key in [OPERATOR_TOKEN, &finance] {
            send("/v1/rerates", key, false).await.expect_problem(409, "rerate_into_closed");
        }
        send("/v1/rerates", &finance, true).await.expect(StatusCode::CREATED);
        let draft = server.get_with("/v1/tenants/acme/invoices/draft?period=2026-02", &finance).await;
        let invoice = &draft.expect(StatusCode::OK).json()["invoice"];
        assert_eq!(invoice["due"], "-11.4", "{invoice}");
        let lines = invoice["lines"].as_array().unwrap();
        assert!(lines.iter().all(|line| line["correction"] == true && line["period"] == "2026-01"));
    });
}

#[test]
fn a_preview_lists_so_many_lines_and_says_that_there_are_more() {
    with_server(async |server| {
        server.with_customers().await;
        let count = RERATE_LINES_MAX / 2 + 1;
        let mut records = Vec::new();
        for number in 0..count {
            let id = format!("n-{number}");
            server.post("/v1/tenants/acme/instances", instance(&id)).await.expect(StatusCode::CREATED);
            let start = json!({"at": "2026-01-01T01:00:00Z"});
            let path = format!("/v1/tenants/acme/instances/{id}:start");
            server.post(&path, start).await.expect(StatusCode::OK);
            let mut one = record("2026-01-01T01:00:00Z", "2026-01-01T01:30:00Z");
            one["instance_id"] = json!(id);
            records.push(one);
        }
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": records});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        let preview = server.post("/v1/rerates:preview", draft("2")).await.expect(StatusCode::OK).json();
        assert_eq!(preview["lines"].as_array().unwrap().len(), RERATE_LINES_MAX);
        assert_eq!((&preview["lines_changed"], &preview["more_lines"]), (&json!(2 * count), &json!(true)));
    });
}
