//! Estimates, and how charges and invoice lines were computed.

use axum::http::StatusCode;
use hourglass_ledger::core::Role;
use hourglass_units::{Amount, Coverage, Instant, Interval};
use serde_json::{Value, json};

use crate::api::schema::{self, assert_describes};
use crate::testing::{OPERATOR_TOKEN, Server, instance, key_of, record, with_server};

fn amount(value: &Value) -> Amount {
    Amount::parse(value.as_str().unwrap_or_else(|| panic!("no text: {value}"))).unwrap()
}

fn coverage(spans: &Value) -> Coverage {
    let at = |span: &Value, end: &str| span[end].as_str().unwrap().parse::<Instant>().unwrap();
    let spans = spans.as_array().unwrap().iter();
    spans.map(|span| Interval::new(at(span, "start"), at(span, "end")).unwrap()).collect()
}

/// The document without `as_of` is the one that its shape describes.
fn described<T: serde::Serialize + serde::de::DeserializeOwned>(answer: &Value) {
    assert!(answer["as_of"]["position"].as_u64().unwrap() > 0, "{answer}");
    let mut document = answer.clone();
    document.as_object_mut().unwrap().remove("as_of");
    assert_describes::<T>(&document);
}

async fn report(server: &Server, seq: u64, records: &[(&str, &str)]) -> u64 {
    let records: Vec<_> = records
        .iter()
        .map(|(start, end)| record(&format!("2026-01-01T{start}:00Z"), &format!("2026-01-01T{end}:00Z")))
        .collect();
    let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": seq, "records": records});
    server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
    server.get("/v1/ledger/head").await.json()["position"].as_u64().unwrap()
}

#[test]
fn an_estimate_is_what_the_same_usage_costs() {
    with_server(async |server| {
        server.with_customers().await;
        let plan = json!({"platform": "h100", "model": "on_demand", "gpus": 8,
            "from": "2026-01-01T03:00:00Z", "until": "2026-01-01T05:00:01Z"});
        let mut listed = plan.clone();
        listed["currency"] = json!("USD");
        let answer = server.post("/v1/estimates", listed.clone()).await.expect(StatusCode::OK).json();
        described::<schema::Estimate>(&answer);
        assert_eq!(
            (&answer["quantity"], &answer["total"]),
            (&json!("16.002222222"), &json!("47.2065555549"))
        );
        assert_eq!(answer["parts"][0]["price"], "2.95");
        let position = answer["as_of"]["position"].clone();

        let own = "/v1/tenants/acme/estimates";
        let answer = server.post(own, plan.clone()).await.expect(StatusCode::OK).json();
        assert_eq!((&answer["total"], &answer["credit"]), (&json!("47.2065555549"), &json!("0")));
        // Nothing is written.
        assert_eq!(answer["as_of"]["position"], position);

        let mut spot = plan.clone();
        spot["model"] = json!("spot");
        spot["limit"] = json!("1");
        let answer = server.post(own, spot).await.expect(StatusCode::OK).json();
        assert_eq!(answer["parts"][0]["price"], "1");
        let mut reserved = plan.clone();
        reserved["model"] = json!("reserved");
        reserved["until"] = json!("2026-01-01T05:00:00Z");
        reserved["payment"] = json!({"flex": {"holding": "1", "usage": "0.5"}});
        let answer = server.post(own, reserved).await.expect(StatusCode::OK).json();
        assert_eq!((&answer["fees"], &answer["total"]), (&json!("16"), &json!("24")), "{answer}");
        // A reservation has full hours, so it can begin with the next one.
        let mut soon = plan.clone();
        soon["model"] = json!("reserved");
        soon["until"] = json!("2026-01-01T05:00:00Z");
        soon["payment"] = json!({"upfront": {"price": "2"}});
        soon.as_object_mut().unwrap().remove("from");
        let answer = server.post(own, soon).await.expect(StatusCode::OK).json();
        assert_eq!((&answer["from"], &answer["total"]), (&json!("2026-01-01T03:00:00Z"), &json!("32")));

        // From now on, by the clock and not by the last event.
        server.clock.set("2026-01-01T04:00:00Z");
        let mut from_now = listed;
        from_now.as_object_mut().unwrap().remove("from");
        let answer = server.post("/v1/estimates", from_now).await.expect(StatusCode::OK).json();
        assert_eq!(answer["from"], "2026-01-01T04:00:00Z");
    });
}

#[test]
fn estimates_of_nonsense_are_refused() {
    with_server(async |server| {
        server.with_customers().await;
        let plan = |change: &[(&str, Value)]| {
            let mut plan = json!({"currency": "USD", "platform": "h100", "model": "on_demand", "gpus": 8,
                "from": "2026-01-01T03:00:00Z", "until": "2026-01-01T05:00:00Z"});
            for (name, value) in change {
                plan[*name] = value.clone();
            }
            plan
        };
        let cases = [
            (plan(&[("currency", Value::Null)]), 422, "plan_invalid"),
            (plan(&[("tenant", json!("nobody"))]), 404, "tenant_unknown"),
            (plan(&[("gpus", json!(0))]), 422, "gpus_out_of_range"),
            (plan(&[("gpus", json!(-1))]), 422, "body_invalid"),
            (plan(&[("platform", json!("abacus"))]), 409, "unpriced"),
            (plan(&[("until", json!("2026-01-01T03:00:00Z"))]), 422, "interval_reversed"),
            (plan(&[("until", json!("2999-01-01T00:00:00Z"))]), 422, "plan_too_long"),
            (plan(&[("model", json!("reserved"))]), 422, "mode_invalid"),
            (plan(&[("limit", json!("1"))]), 422, "mode_invalid"),
            (plan(&[("colour", json!("red"))]), 422, "body_invalid"),
        ];
        for (body, status, code) in cases {
            server.post("/v1/estimates", body).await.expect_problem(status, code);
        }
        let own = "/v1/tenants/acme/estimates";
        // The tenant of the path is the only one, and its currency is known.
        for (name, value) in [("tenant", "beta"), ("currency", "USD")] {
            let mut body = plan(&[]);
            body.as_object_mut().unwrap().remove("currency");
            body[name] = json!(value);
            server.post(own, body).await.expect_problem(422, "body_invalid");
        }
        let mut body = plan(&[]);
        body.as_object_mut().unwrap().remove("currency");
        server.post("/v1/tenants/nobody/estimates", body).await.expect_problem(404, "tenant_unknown");
    });
}

#[test]
fn a_customer_estimates_by_its_own_contract_and_nobody_elses() {
    with_server(async |server| {
        server.with_customers().await;
        let contract = json!({"name": "secret", "version": 1, "effective_from": "2026-01-02T00:00:00Z", "prices": [
            {"platform": "h100", "region": "eu", "model": "on_demand", "price": "2"}]});
        for tenant in ["acme", "beta"] {
            let path = format!("/v1/tenants/{tenant}/contracts");
            server.post(&path, contract.clone()).await.expect(StatusCode::CREATED);
        }
        let server = server.guarded();
        let key = server.key(key_of(Role::Customer, "acme", &[])).await;
        let trader = server.key(key_of(Role::Trader, "", &[])).await;
        let plan = json!({"platform": "h100", "model": "on_demand", "gpus": 1,
            "from": "2026-01-02T03:00:00Z", "until": "2026-01-02T04:00:00Z"});
        let ask = async |path: &str, key: &str, more: Value| {
            let mut body = plan.clone();
            let object = body.as_object_mut().unwrap();
            object.extend(more.as_object().unwrap().clone());
            server.send_with("POST", path, key, body.to_string()).await
        };
        let total = async |path: &str, key: &str, more: Value| {
            ask(path, key, more).await.expect(StatusCode::OK).json()["total"].clone()
        };
        assert_eq!(total("/v1/tenants/acme/estimates", &key, json!({})).await, "2");
        assert_eq!(total("/v1/estimates", &key, json!({"currency": "USD"})).await, "2.95");
        assert_eq!(total("/v1/estimates", &trader, json!({"currency": "USD"})).await, "2.95");
        assert_eq!(total("/v1/estimates", OPERATOR_TOKEN, json!({"tenant": "beta"})).await, "2");
        for (key, tenant) in [(&key, "beta"), (&key, "acme"), (&key, "nobody"), (&trader, "acme")] {
            let refused = ask("/v1/estimates", key, json!({ "tenant": tenant })).await;
            refused.expect_problem(403, "forbidden");
        }
        for tenant in ["beta", "nobody"] {
            let refused = ask(&format!("/v1/tenants/{tenant}/estimates"), &key, json!({})).await;
            refused.expect_problem(404, "tenant_unknown");
        }
    });
}

#[test]
fn a_charge_is_explained_down_to_its_reports() {
    with_server(async |server| {
        server.with_customers().await;
        let first = report(&server, 0, &[("00:30", "00:40"), ("00:40", "01:10")]).await;
        // A repeat, and then what came late.
        report(&server, 2, &[("00:35", "00:45")]).await;
        server.tick().await;
        let late = report(&server, 3, &[("01:05", "01:30")]).await;
        server.tick().await;
        let path = "/v1/tenants/acme/instances/i-1/charges/2026-01-01T00:00:00Z";
        let answer = server.get(path).await.expect(StatusCode::OK).json();
        described::<schema::ChargeExplained>(&answer);
        let line = &answer["lines"][0];
        assert_eq!((&line["quantity"], &line["amount"]), (&json!("4"), &json!("11.8")));
        assert_eq!(line["parts"][0]["source"], "list@1");
        let found: Vec<u64> = answer["evidence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["position"].as_u64().unwrap())
            .collect();
        assert_eq!((found, &answer["evidence_is_complete"]), (vec![first], &json!(true)));
        let rows = answer["rows"].as_array().unwrap();
        let sum = rows.iter().try_fold(Amount::ZERO, |sum, row| sum.checked_add(amount(&row["amount"])));
        assert_eq!(sum.unwrap(), amount(&line["amount"]), "{answer}");
        assert_eq!(answer["transfers"][0]["credit"], "income:revenue:h100:on_demand");

        let path = "/v1/tenants/acme/instances/i-1/charges/2026-01-01T01:00:00Z";
        let answer = server.get(path).await.expect(StatusCode::OK).json();
        let found: Vec<u64> = answer["evidence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["position"].as_u64().unwrap())
            .collect();
        assert_eq!(found, [first, late]);
        let mut evidence = Coverage::default();
        for it in answer["evidence"].as_array().unwrap() {
            coverage(&it["first"]).intervals().iter().for_each(|part| evidence.insert(*part));
        }
        assert_eq!(evidence, coverage(&answer["reported"]));
        assert_eq!(answer["transfers"].as_array().unwrap().len(), 2, "{answer}");
        // An hour in which nothing was is explained too.
        let path = "/v1/tenants/acme/instances/i-1/charges/2027-01-01T01:00:00Z";
        let answer = server.get(path).await.expect(StatusCode::OK).json();
        assert_eq!((&answer["lines"], &answer["evidence"]), (&json!([]), &json!([])));
    });
}

#[test]
fn no_charge_and_no_line_is_a_clear_refusal() {
    with_server(async |server| {
        server.with_customers().await;
        let mut hidden = instance("b-secret");
        hidden["project"] = json!("hidden-project");
        server.post("/v1/tenants/beta/instances", hidden).await.expect(StatusCode::CREATED);
        server.clock.set("2026-02-05T00:00:00Z");
        let cases = [
            ("instances/i-1/charges/2026-01-01T00:30:00Z", 400, "time_not_on_the_hour"),
            ("instances/i-1/charges/2026-01-01T00:00:00.001Z", 400, "time_not_on_the_hour"),
            ("instances/i-1/charges/2026-01-01T02:00:00+02:30", 400, "time_not_on_the_hour"),
            ("instances/i-1/charges/yesterday", 400, "path_invalid"),
            ("instances/i-9/charges/2026-01-01T00:00:00Z", 404, "instance_unknown"),
            ("instances/b-secret/charges/2026-01-01T00:00:00Z", 404, "instance_unknown"),
            ("invoices/1/lines/1", 404, "invoice_unknown"),
            ("invoices/1/lines/first", 400, "path_invalid"),
            ("invoices/1/lines/-1", 400, "path_invalid"),
        ];
        for (path, status, code) in cases {
            server.get(&format!("/v1/tenants/acme/{path}")).await.expect_problem(status, code);
        }
        let none = server.get("/v1/tenants/nobody/invoices/1/lines/1").await;
        none.expect_problem(404, "tenant_unknown");
    });
}

#[test]
fn an_invoice_line_is_explained_by_the_usage_that_it_counts() {
    with_server(async |server| {
        server.with_customers().await;
        server.post("/v1/tenants/acme/instances", instance("i-2")).await.expect(StatusCode::CREATED);
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        server.post("/v1/tenants/acme/instances/i-2:start", start).await.expect(StatusCode::OK);
        report(&server, 0, &[("00:30", "01:30")]).await;
        let mut other = record("2026-01-01T00:30:00Z", "2026-01-01T00:50:00Z");
        other["instance_id"] = json!("i-2");
        let batch = json!({"agent_id": "node-2", "epoch": 1, "first_seq": 0, "records": [other]});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        server.clock.set("2026-02-05T00:00:00Z");
        server.tick().await;
        let finalise = json!({"period": "2026-01"});
        server.post("/v1/tenants/acme/invoices", finalise).await.expect(StatusCode::CREATED);
        let path = "/v1/tenants/acme/invoices/1/lines/1";
        let answer = server.get(path).await.expect(StatusCode::OK).json();
        described::<schema::InvoiceLineExplained>(&answer);
        assert_eq!(answer["text"]["quantity"], answer["usage_quantity"]);
        let usage = answer["usage"].as_array().unwrap();
        assert_eq!(usage.iter().map(|it| it["instance"].clone()).collect::<Vec<_>>(), ["i-1", "i-2"]);
        let sum = usage.iter().try_fold(Amount::ZERO, |sum, it| sum.checked_add(amount(&it["amount"])));
        assert_eq!(sum.unwrap(), amount(&answer["text"]["exact_amount"]));
        assert_eq!(answer["transfers"][0]["code"], "invoice", "{answer}");
        for line in ["0", "2", "18446744073709551615"] {
            let none = server.get(&format!("/v1/tenants/acme/invoices/1/lines/{line}")).await;
            none.expect_problem(404, "invoice_line_unknown");
        }
    });
}

/// A period that begins on another UTC day, and a correction of one that is closed.
#[test]
fn an_invoice_line_counts_the_period_of_the_customers_calendar() {
    with_server(async |server| {
        server.post("/v1/rate-cards", crate::testing::card()).await.expect(StatusCode::CREATED);
        let tenant = json!({"tenant": "acme", "currency": "USD"});
        server.post("/v1/tenants", tenant).await.expect(StatusCode::CREATED);
        let contract = json!({"name": "deal", "version": 1, "effective_from": "2026-01-02T00:00:00Z",
            "prices": [], "terms": {"billing": {"time_zone": "Asia/Tokyo"}}});
        server.post("/v1/tenants/acme/contracts", contract).await.expect(StatusCode::CREATED);
        server.post("/v1/tenants/acme/instances", instance("i-1")).await.expect(StatusCode::CREATED);
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        server.post("/v1/tenants/acme/instances/i-1:start", start).await.expect(StatusCode::OK);
        let explained = async |number: u64, line: u64| {
            let path = format!("/v1/tenants/acme/invoices/{number}/lines/{line}");
            server.get(&path).await.expect(StatusCode::OK).json()
        };
        let close = async |period: &str, now: &str| {
            server.clock.set(now);
            server.tick().await;
            let finalise = json!({ "period": period });
            server.post("/v1/tenants/acme/invoices", finalise).await.expect(StatusCode::CREATED);
        };
        let send = async |seq: u64, from: &str, until: &str| {
            let batch =
                json!({"agent_id": "node-1", "epoch": 1, "first_seq": seq, "records": [record(from, until)]});
            server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        };

        server.clock.set("2026-02-01T00:00:00Z");
        // Three hours; the customer's February begins at 15:00.
        send(0, "2026-01-31T13:00:00Z", "2026-01-31T16:00:00Z").await;
        close("2026-01", "2026-02-05T00:00:00Z").await;
        let answer = explained(1, 1).await;
        assert_eq!((&answer["text"]["quantity"], &answer["usage_quantity"]), (&json!("16"), &json!("16")));

        // January turns out to be longer: February's invoice has its own hour and the difference.
        send(1, "2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z").await;
        close("2026-02", "2026-03-05T00:00:00Z").await;
        let own = explained(2, 1).await;
        assert_eq!((&own["text"]["quantity"], &own["usage_quantity"]), (&json!("8"), &json!("8")), "{own}");
        let correction = explained(2, 2).await;
        assert_eq!(
            (&correction["text"]["correction"], &correction["text"]["quantity"]),
            (&json!(true), &json!("8"))
        );
        assert_eq!(correction["usage_quantity"], "24", "all of January: invoice 1 holds the rest");
        assert!(correction["how"][0].as_str().unwrap().contains("correction: 2026-01"), "{correction}");
    });
}

#[test]
fn lines_of_two_reservations_are_explained_apart() {
    with_server(async |server| {
        server.with_customers().await;
        for (reservation, usage) in [("r-1", "0.5"), ("r-2", "0.5")] {
            let draft = json!({"reservation": reservation, "project": "ml", "platform": "h100", "gpus": 8,
                "from": "2026-01-01T03:00:00Z", "until": "2026-01-01T05:00:00Z",
                "payment": {"flex": {"holding": "1", "usage": usage}}});
            server.post("/v1/tenants/acme/reservations", draft).await.expect(StatusCode::CREATED);
        }
        server.clock.set("2026-01-01T06:00:00Z");
        for (seq, id, reservation, until) in [(0, "i-2", "r-1", "05:00"), (1, "i-3", "r-2", "04:00")] {
            let mut draft = instance(id);
            draft["model"] = json!("reserved");
            draft["reservation"] = json!(reservation);
            server.post("/v1/tenants/acme/instances", draft).await.expect(StatusCode::CREATED);
            let start = json!({"at": "2026-01-01T03:00:00Z"});
            let path = format!("/v1/tenants/acme/instances/{id}:start");
            server.post(&path, start).await.expect(StatusCode::OK);
            let mut used = record("2026-01-01T03:00:00Z", &format!("2026-01-01T{until}:00Z"));
            used["instance_id"] = json!(id);
            let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": seq, "records": [used]});
            server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        }
        server.clock.set("2026-02-05T00:00:00Z");
        server.tick().await;
        let finalise = json!({"period": "2026-01"});
        server.post("/v1/tenants/acme/invoices", finalise).await.expect(StatusCode::CREATED);
        let invoice = server.get("/v1/tenants/acme/invoices/1").await.expect(StatusCode::OK).json();
        let mut seen = Vec::new();
        for (index, line) in invoice["lines"].as_array().unwrap().iter().enumerate() {
            let path = format!("/v1/tenants/acme/invoices/1/lines/{}", index + 1);
            let answer = server.get(&path).await.expect(StatusCode::OK).json();
            described::<schema::InvoiceLineExplained>(&answer);
            if line["kind"] == "usage" {
                assert_eq!(answer["usage_quantity"], line["quantity"], "{answer}");
                seen.push((line["reservation"].clone(), answer["usage"][0]["instance"].clone()));
            } else {
                assert_eq!(answer["usage"], json!([]), "{answer}");
            }
        }
        assert_eq!(seen, [(json!("r-1"), json!("i-2")), (json!("r-2"), json!("i-3"))]);
        let path = "/v1/tenants/acme/instances/i-2/charges/2026-01-01T03:00:00Z";
        let charge = server.get(path).await.expect(StatusCode::OK).json();
        described::<schema::ChargeExplained>(&charge);
        assert_eq!(
            (&charge["rows"][0]["reservation"], &charge["modes"][0]["model"]),
            (&json!("r-1"), &json!("reserved"))
        );
    });
}
