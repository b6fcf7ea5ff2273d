//! Credit, reservations, tax, and the life of an invoice.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::testing::{Reply, Server, instance, record, with_server};

/// Half an hour and a second of eight GPUs of `i-1`.
async fn report(server: &Server) {
    let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
        "records": [record("2026-01-01T00:30:00Z", "2026-01-01T02:00:01Z")]});
    server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
    server.tick().await;
}

fn reservation(id: &str, payment: &Value) -> Value {
    json!({"reservation": id, "project": "ml", "platform": "h100", "gpus": 8, "from": "2026-01-01T02:00:00Z",
        "until": "2026-01-01T12:00:00Z", "payment": payment})
}

/// A field of a draft changed, or taken away where it is null.
fn with(draft: &Value, field: &str, value: Value) -> Value {
    let mut draft = draft.clone();
    let object = draft.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(field)
    } else {
        object.insert(field.to_owned(), value)
    };
    draft
}

/// What is refused, and how.
async fn refused(server: &Server, table: &[(&str, Value, u16, &str)]) {
    for (path, body, status, code) in table {
        let answer = server.post(path, body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["code"]),
            (*status, &json!(code)),
            "{path} {body}"
        );
    }
}

#[test]
fn credit_is_granted_and_drawn() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/credits";
        let given = json!({"credit": "welcome", "kind": "promotional", "amount": "10", "priority": 1,
            "valid_until": "2026-03-01T00:00:00Z", "note": "hello"});
        let headers = [("content-type", "application/json"), ("idempotency-key", "c-1")];
        let granted = server.post_as(path, &headers, given.to_string()).await.expect(StatusCode::CREATED);
        assert_eq!(granted.header("location"), path);
        let again = server.post_as(path, &headers, given.to_string()).await.expect(StatusCode::OK);
        assert_eq!(again.header("idempotent-replayed"), "true");
        let bought = json!({"credit": "top-up", "kind": "prepaid", "amount": "20", "project": "ml"});
        server.post(path, bought.clone()).await.expect(StatusCode::CREATED);
        report(&server).await;

        let list = server.get(path).await.expect(StatusCode::OK).json();
        assert!(list["as_of"]["position"].as_u64().unwrap() > 0);
        let left = |row: &Value| {
            ["credit", "drawn", "remaining", "expired", "closed"]
                .map(|field| row[field].to_string())
                .join(" ")
        };
        assert_eq!(left(&list["rows"][0]), r#""welcome" "10" "0" "0" false"#);
        assert_eq!(left(&list["rows"][1]), r#""top-up" "20" "0" "0" false"#);
        assert_eq!(
            (&list["rows"][0]["valid_until"], &list["rows"][1].get("valid_until")),
            (&json!("2026-03-01T00:00:00Z"), &None)
        );
        let page = server.get(&format!("{path}?page_size=1")).await.expect(StatusCode::OK).json();
        let next = format!("{path}?page_size=1&page_token={}", page["next_page_token"].as_str().unwrap());
        let page = server.get(&next).await.expect(StatusCode::OK).json();
        assert_eq!(page["rows"][0]["credit"], "top-up");

        // 35.41 were used: 5.41 are left to pay, on every surface.
        let draft = server.get("/v1/tenants/acme/invoices/draft?period=2026-01").await.json();
        assert_eq!(draft["invoice"]["due"], "5.41", "{draft}");

        let of = |field: &str, value: Value| with(&bought, field, value);
        let table = [
            (path, bought.clone(), 409, "credit_exists"),
            (path, with(&of("credit", json!("c")), "amount", json!("-1")), 422, "credit_invalid"),
            (path, with(&of("credit", json!("c")), "kind", json!("sla")), 422, "credit_invalid"),
            (path, with(&of("credit", json!("c")), "kind", json!("gift")), 422, "body_invalid"),
            (path, with(&of("credit", json!("c")), "project", Value::Null), 409, "credits_overlap"),
            (
                path,
                with(&of("credit", json!("c")), "valid_from", json!("2026-01-01T00:30:00Z")),
                422,
                "credit_invalid",
            ),
            (path, of("cretid", json!("c")), 422, "body_invalid"),
            (path, of("credit", json!("a b")), 422, "body_invalid"),
            (path, with(&of("credit", json!("c")), "note", json!("\u{7}")), 422, "text_invalid"),
            ("/v1/tenants/nobody/credits", bought.clone(), 404, "tenant_unknown"),
        ];
        refused(&server, &table).await;
        server.get("/v1/tenants/nobody/credits").await.expect_problem(404, "tenant_unknown");
    });
}

#[test]
fn reservations_are_made_amended_and_earned() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/reservations";
        let upfront = reservation("r-1", &json!({"upfront": {"price": "2"}}));
        let made = server.post(path, upfront.clone()).await.expect(StatusCode::CREATED);
        assert_eq!(made.header("location"), "/v1/tenants/acme/reservations/r-1");
        let flex = reservation("r-2", &json!({"flex": {"holding": "1", "usage": "0.5"}}));
        server.post(path, flex).await.expect(StatusCode::CREATED);
        server.clock.set("2026-01-01T05:30:00Z");
        server.tick().await;

        let list = server.get(path).await.expect(StatusCode::OK).json();
        let row = &list["rows"][0];
        assert_eq!(
            ["committed_price", "usage_price", "gpu_hours", "gpu_hours_elapsed", "upfront", "earned"]
                .map(|field| row[field].as_str().unwrap()),
            ["2", "0", "80", "24", "160", "48"]
        );
        assert_eq!((&row["payment"], &row["currency"]), (&json!({"upfront": {"price": "2"}}), &json!("USD")));
        let row = &list["rows"][1];
        assert_eq!((&row["usage_price"], row.get("upfront")), (&json!("0.5"), None));
        // What is earned is what the book released.
        let deferred = server.get("/v1/tenants/acme/balance").await.json();
        let deferred = deferred["rows"].as_array().unwrap().iter().find(|it| it["class"] == "liabilities");
        assert_eq!(deferred.unwrap()["balance"], "-112");
        let unused = server.get("/v1/tenants/acme/unused").await.expect(StatusCode::OK).json();
        let of_first: Vec<_> =
            unused["rows"].as_array().unwrap().iter().filter(|it| it["reservation"] == "r-1").collect();
        assert_eq!(of_first.len(), 3, "{unused}");
        assert_eq!((&of_first[0]["quantity"], &of_first[0]["effective_cost"]), (&json!("8"), &json!("16")));

        let amend = "/v1/tenants/acme/reservations/r-1:amend";
        let until = |until: &str| json!({"until": until});
        server.post(amend, until("2026-01-01T14:00:00Z")).await.expect(StatusCode::OK);
        let one = server.get("/v1/tenants/acme/reservations/r-1").await.expect(StatusCode::OK).json();
        assert_eq!((&one["until"], &one["upfront"]), (&json!("2026-01-01T14:00:00Z"), &json!("192")));

        let of = |field: &str, value: Value| {
            with(&reservation("r-3", &json!({"monthly": {"price": "2"}})), field, value)
        };
        let table = [
            (path, upfront.clone(), 422, "reservation_invalid"),
            (path, of("gpus", json!(0)), 422, "reservation_invalid"),
            (path, of("from", json!("2026-01-01T02:30:00Z")), 422, "reservation_invalid"),
            (path, of("from", json!("2026-01-01T01:00:00Z")), 409, "reservation_in_the_past"),
            (path, of("payment", json!({"monthly": {"price": "-2"}})), 422, "body_invalid"),
            (path, of("payment", json!({"gift": {}})), 422, "body_invalid"),
            ("/v1/tenants/nobody/reservations", of("gpus", json!(8)), 404, "tenant_unknown"),
            (amend, until("2026-01-01T10:00:00Z"), 422, "reservation_invalid"),
            (amend, until("2026-01-01T14:30:00Z"), 422, "reservation_invalid"),
            (amend, until("yesterday"), 422, "body_invalid"),
            (
                "/v1/tenants/acme/reservations/r-9:amend",
                until("2026-01-01T14:00:00Z"),
                404,
                "reservation_unknown",
            ),
            (
                "/v1/tenants/beta/reservations/r-1:amend",
                until("2026-01-01T14:00:00Z"),
                404,
                "reservation_unknown",
            ),
            ("/v1/tenants/acme/reservations/r-1:end", until("2026-01-01T14:00:00Z"), 404, "action_unknown"),
        ];
        // The first of the table is refused for its id once its start is not in the way.
        refused(&server, &table[1..]).await;
        let again = with(&upfront, "from", json!("2026-01-01T06:00:00Z"));
        server.post(path, again).await.expect_problem(409, "reservation_exists");
        for none in ["/v1/tenants/beta/reservations/r-1", "/v1/tenants/acme/reservations/r-9"] {
            server.get(none).await.expect_problem(404, "reservation_unknown");
        }
    });
}

#[test]
fn an_instance_changes_how_it_is_sold_and_usage_is_voided() {
    with_server(async |server| {
        server.with_customers().await;
        let mut spot = instance("i-2");
        spot["model"] = json!("spot");
        spot["bid"] = json!("bid-1");
        spot["limit"] = json!("1.5");
        server.post("/v1/tenants/acme/instances", spot).await.expect(StatusCode::CREATED);
        let flex = reservation("r-1", &json!({"monthly": {"price": "2"}}));
        server.post("/v1/tenants/acme/reservations", flex).await.expect(StatusCode::CREATED);
        report(&server).await;

        let change = "/v1/tenants/acme/instances/i-1:change-mode";
        let reserved = json!({"at": "2026-01-01T02:00:00Z", "model": "reserved", "reservation": "r-1"});
        server.post(change, reserved.clone()).await.expect(StatusCode::OK);
        let void = "/v1/tenants/acme/instances/i-1:void-usage";
        let half =
            json!({"from": "2026-01-01T00:30:00Z", "until": "2026-01-01T01:00:00Z", "reason": "clock"});
        server.post(void, half.clone()).await.expect(StatusCode::OK);
        let it = server.get("/v1/tenants/acme/instances/i-1").await.expect(StatusCode::OK).json();
        assert_eq!(
            it["modes"],
            json!([{"model": "on_demand"}, {"from": "2026-01-01T02:00:00Z", "model": "reserved", "reservation": "r-1"}])
        );
        let half_hour = json!([{"start": "2026-01-01T00:30:00Z", "end": "2026-01-01T01:00:00Z"}]);
        assert_eq!((&it["voided"], &it["model"]), (&half_hour, &json!("reserved")));
        // What was billed is one hour, and a second out of the reservation.
        let usage = server.get("/v1/tenants/acme/usage?group_by=model").await.json();
        let amounts: Vec<_> = usage["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (&row["group"]["model"], &row["amount"]))
            .collect();
        assert_eq!(amounts, [(&json!("on_demand"), &json!("23.6")), (&json!("reserved"), &json!("0"))]);
        let it = server.get("/v1/tenants/acme/instances/i-2").await.expect(StatusCode::OK).json();
        assert_eq!(it["modes"], json!([{"model": "spot", "bid": "bid-1", "limit": "1.5"}]));

        let of = |field: &str, value: Value| with(&reserved, field, value);
        let later = json!("2026-01-01T02:00:30Z");
        let table = [
            (change, reserved.clone(), 409, "mode_change_out_of_order"),
            (change, of("reservation", json!("r-9")), 404, "reservation_unknown"),
            (change, of("reservation", Value::Null), 422, "mode_invalid"),
            (change, of("limit", json!("1")), 422, "mode_invalid"),
            (change, with(&of("at", later), "model", json!("lent")), 422, "body_invalid"),
            (change, of("at", json!("2026-01-02T00:00:00Z")), 422, "in_the_future"),
            ("/v1/tenants/beta/instances/i-1:change-mode", reserved.clone(), 404, "instance_unknown"),
            (void, with(&half, "until", json!("2026-01-01T00:30:00Z")), 422, "interval_reversed"),
            (void, half.clone(), 409, "nothing_to_void"),
            (void, with(&half, "from", Value::Null), 422, "body_invalid"),
            ("/v1/tenants/beta/instances/i-1:void-usage", half.clone(), 404, "instance_unknown"),
        ];
        refused(&server, &table).await;
    });
}

#[test]
fn tax_is_set_shown_and_cleared() {
    with_server(async |server| {
        server.with_customers().await;
        report(&server).await;
        let path = "/v1/tenants/acme/tax";
        let vat = json!({"name": "VAT", "rate_percent": "19", "kind": "exclusive", "rounding": "line"});
        server.post(path, json!({"tax": vat})).await.expect(StatusCode::OK);
        assert_eq!(server.get("/v1/tenants/acme").await.expect(StatusCode::OK).json()["tax"], vat);
        let draft = "/v1/tenants/acme/invoices/draft?period=2026-01";
        let invoice = &server.get(draft).await.expect(StatusCode::OK).json()["invoice"];
        assert_eq!((&invoice["total"], &invoice["due"]), (&json!("35.41"), &json!("42.14")), "{invoice}");
        let table = [
            (path, json!({}), 422, "body_invalid"),
            (path, json!({"tax": with(&vat, "rate_percent", json!("101"))}), 422, "tax_invalid"),
            (path, json!({"tax": with(&vat, "name", json!(""))}), 422, "tax_invalid"),
            (path, json!({"tax": with(&vat, "kind", json!("none"))}), 422, "body_invalid"),
            ("/v1/tenants/nobody/tax", json!({"tax": vat}), 404, "tenant_unknown"),
        ];
        refused(&server, &table).await;
        server.post(path, json!({"tax": null})).await.expect(StatusCode::OK);
        assert_eq!(server.get("/v1/tenants/acme").await.json().get("tax"), None);
        assert_eq!(server.get(draft).await.json()["invoice"]["due"], "35.41");
    });
}

/// What the list and the status say of an invoice, which must be the same.
async fn state_of(server: &Server, number: u64) -> [String; 3] {
    let text = |it: &Value| ["status", "paid", "open"].map(|field| it[field].as_str().unwrap().to_owned());
    let status = format!("/v1/tenants/acme/invoices/{number}/status");
    let status = server.get(&status).await.expect(StatusCode::OK).json();
    let list = server.get("/v1/tenants/acme/invoices").await.expect(StatusCode::OK).json();
    let row = list["rows"].as_array().unwrap().iter().find(|row| row["number"] == number).unwrap().clone();
    assert_eq!((text(&row), &row["kind"], &row["due"]), (text(&status), &status["kind"], &status["due"]));
    text(&status)
}

#[test]
fn an_invoice_is_paid_taken_back_and_credited() {
    with_server(async |server| {
        server.with_customers().await;
        report(&server).await;
        server.clock.set("2026-02-05T00:00:00Z");
        let invoices = "/v1/tenants/acme/invoices";
        let january = json!({"period": "2026-01"});
        server.post(invoices, january.clone()).await.expect(StatusCode::CREATED);
        assert_eq!(state_of(&server, 1).await, ["open", "0", "35.41"]);

        let void = "/v1/tenants/acme/invoices/1:void";
        server.post(void, json!({"reason": "wrong address"})).await.expect(StatusCode::OK);
        assert_eq!(state_of(&server, 1).await, ["void", "0", "0"]);
        server.post(void, json!({})).await.expect_problem(409, "invoice_void");
        let page = server.get("/v1/tenants/acme/invoices/1?format=html").await.expect(StatusCode::OK).text();
        assert!(page.contains("stamp void"));
        server.post(invoices, january).await.expect(StatusCode::CREATED);

        let pay = "/v1/tenants/acme/invoices/2:pay";
        let headers = [("content-type", "application/json"), ("idempotency-key", "p-1")];
        let part = json!({"amount": "10.41", "reference": "bank 7"}).to_string();
        let paid = server.post_as(pay, &headers, part.clone()).await.expect(StatusCode::OK).json();
        assert_eq!(paid["resource"], "/v1/tenants/acme/invoices/2/status");
        server.post_as(pay, &headers, part).await.expect(StatusCode::OK);
        assert_eq!(state_of(&server, 2).await, ["open", "10.41", "25"]);
        let amount = |amount: &str| json!({"amount": amount});
        let table = [
            (pay, amount("25.01"), 409, "payment_does_not_fit"),
            (pay, amount("0.001"), 409, "payment_does_not_fit"),
            (pay, amount("-1"), 409, "payment_does_not_fit"),
            (pay, amount("much"), 422, "body_invalid"),
            ("/v1/tenants/acme/invoices/2:void", json!({}), 409, "invoice_paid"),
            ("/v1/tenants/acme/invoices/9:pay", amount("1"), 404, "invoice_unknown"),
            ("/v1/tenants/acme/invoices/x:pay", amount("1"), 400, "path_invalid"),
            ("/v1/tenants/acme/invoices/2:lose", json!({}), 404, "action_unknown"),
            ("/v1/tenants/beta/invoices/2:pay", amount("1"), 404, "invoice_unknown"),
            ("/v1/tenants/acme/credit-notes", json!({}), 409, "nothing_to_credit"),
            ("/v1/tenants/nobody/credit-notes", json!({}), 404, "tenant_unknown"),
        ];
        refused(&server, &table).await;
        server.post(pay, amount("25")).await.expect(StatusCode::OK);
        assert_eq!(state_of(&server, 2).await, ["paid", "35.41", "0"]);

        // The agent was wrong about the last hour: it is given back at once.
        let wrong = json!({"from": "2026-01-01T01:00:00Z", "until": "2026-01-01T02:00:00Z"});
        server.post("/v1/tenants/acme/instances/i-1:void-usage", wrong).await.expect(StatusCode::OK);
        let note = server.post("/v1/tenants/acme/credit-notes", json!({})).await.expect(StatusCode::CREATED);
        assert_eq!(note.header("location"), "/v1/tenants/acme/invoices/3");
        let note = server.get("/v1/tenants/acme/invoices/3").await.expect(StatusCode::OK).json();
        assert_eq!((&note["kind"], &note["due"]), (&json!("credit_note"), &json!("-23.6")));
        assert_eq!(
            (&note["lines"][0]["period"], &note["lines"][0]["quantity"]),
            (&json!("2026-01"), &json!("-8"))
        );
        let page = server.get("/v1/tenants/acme/invoices/3?format=html").await.expect(StatusCode::OK).text();
        assert!(page.contains("Credit note 3") && page.contains("correction of 2026-01"), "{page}");
        server.get("/v1/tenants/acme/invoices/9/status").await.expect_problem(404, "invoice_unknown");
    });
}

#[test]
fn an_invoice_comes_in_the_form_that_is_asked_for() {
    with_server(async |server| {
        server.with_customers().await;
        report(&server).await;
        let accept = async |path: &str, accept: &str| -> Reply {
            let headers = [("accept", accept)];
            let request = crate::testing::request("GET", path, &headers, axum::body::Body::empty());
            server.send(request).await.expect(StatusCode::OK)
        };
        let draft = "/v1/tenants/acme/invoices/draft?period=2026-01";
        let page = accept(draft, "text/html").await;
        assert!(page.text().contains("Draft invoice") && page.text().contains(">35.41<"), "{}", page.text());
        server.clock.set("2026-02-05T00:00:00Z");
        server
            .post("/v1/tenants/acme/invoices", json!({"period": "2026-01"}))
            .await
            .expect(StatusCode::CREATED);
        let path = "/v1/tenants/acme/invoices/1";
        let document = server.get(path).await.expect(StatusCode::OK);
        assert_eq!(
            (document.header("content-type"), document.header("vary")),
            ("application/json", "accept")
        );
        let invoice = document.json();
        crate::api::schema::assert_describes::<crate::api::schema::Invoice>(&invoice);
        for (reply, media_type) in [
            (accept(path, "text/html").await, "text/html; charset=utf-8"),
            (accept(path, "text/csv").await, "text/csv; charset=utf-8; header=present"),
            (accept(path, "text/html;q=0.5, text/csv").await, "text/csv; charset=utf-8; header=present"),
            (server.get(&format!("{path}?format=html")).await, "text/html; charset=utf-8"),
            (server.get(&format!("{path}?format=csv")).await, "text/csv; charset=utf-8; header=present"),
        ] {
            assert_eq!(reply.header("content-type"), media_type);
            assert!(reply.text().contains(invoice["lines"][0]["amount"].as_str().unwrap()));
            let policy = reply.header("content-security-policy");
            assert_eq!(policy.contains("default-src 'none'"), media_type.starts_with("text/html"));
        }
        // The parameter goes before the header, and says what it takes.
        let json = server.get(&format!("{path}?format=json")).await.expect(StatusCode::OK);
        assert_eq!(json.body, document.body);
        server.get(&format!("{path}?format=doc")).await.expect_problem(400, "query_invalid");
        server.get(&format!("{draft}&format=doc")).await.expect_problem(400, "query_invalid");
        for reply in [accept(path, "application/pdf").await, server.get(&format!("{draft}&format=pdf")).await]
        {
            assert_eq!(reply.header("content-type"), "application/pdf");
            assert!(reply.body.starts_with(b"%PDF-"));
        }
    });
}
