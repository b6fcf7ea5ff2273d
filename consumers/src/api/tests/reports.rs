//! Statements of the book, and its months.

use axum::http::StatusCode;
use hourglass_ledger::core::Role;
use serde_json::json;

use crate::testing::{Server, key_of, record, with_server};

/// 35.4065555549 USD of acme's usage in January, which is over and invoiced.
async fn with_january(server: &Server) {
    server.with_customers().await;
    let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [
        record("2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
        record("2026-01-01T01:00:00Z", "2026-01-01T02:00:01Z"),
    ]});
    server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
    server.tick().await;
    server.clock.set("2026-02-04T00:00:00Z");
    server.tick().await;
    let finalise = json!({"period": "2026-01"});
    server.post("/v1/tenants/acme/invoices", finalise).await.expect(StatusCode::CREATED);
}

#[test]
fn statements_add_up_to_the_book() {
    with_server(async |server| {
        with_january(&server).await;
        let trial = server.get("/v1/reports/trial-balance").await.expect(StatusCode::OK).json();
        assert_eq!(trial["totals"], json!([{"currency": "USD", "debit": "35.41", "credit": "35.41"}]));
        // As it was at the end of January, and by a position: before the invoice.
        let january = server.get("/v1/reports/trial-balance?end=2026-02-01T00:00:00Z").await.json();
        let row = |account: &str, debit: &str, credit: &str| json!({"account": account, "currency": "USD", "debit": debit, "credit": credit});
        let before = json!([
            row("assets:unbilled:acme", "35.4065555549", "0"),
            row("income:revenue:h100:on_demand", "0", "35.4065555549")
        ]);
        assert_eq!(january["rows"], before);
        let position = january["as_of"]["position"].as_u64().unwrap();
        let path = format!("/v1/reports/trial-balance?position={position}");
        assert_eq!(server.get(&path).await.json(), january);
        let none = server.get("/v1/reports/trial-balance?end=2025-01-01T00:00:00Z").await.json();
        assert_eq!((&none["rows"], &none["as_of"]["position"]), (&json!([]), &json!(0)));
        let moved = server.get("/v1/reports/trial-balance?start=2026-02-01T00:00:00Z").await.json();
        let unbilled = &moved["rows"].as_array().unwrap()[0];
        assert_eq!(
            [&unbilled["opening"], &unbilled["debits"], &unbilled["credits"], &unbilled["debit"]],
            ["35.4065555549", "0", "35.4065555549", "0"],
            "{moved}"
        );

        let ageing = server.get("/v1/reports/receivables-ageing").await.expect(StatusCode::OK).json();
        assert_eq!(
            (&ageing["rows"][0]["not_due"], &ageing["rows"][0]["difference"]),
            (&json!("35.41"), &json!("0"))
        );
        let due = server.get("/v1/reports/receivables-ageing?terms_days=0").await.json();
        assert_eq!(due["rows"][0]["days_0_30"], "35.41");
        assert_eq!(due["invoices"][0]["due_at"], "2026-02-04T00:00:00Z");
        // 62 days later.
        server.clock.set("2026-04-07T00:00:00Z");
        server.tick().await;
        let due = server.get("/v1/reports/receivables-ageing?terms_days=0").await.json();
        assert_eq!(due["rows"][0]["days_61_90"], "35.41");

        let revenue = server.get("/v1/reports/revenue?group_by=month,platform").await.json();
        assert_eq!(
            revenue["rows"],
            json!([
                {"month": "2026-01", "platform": "h100", "amount": "35.4065555549", "currency": "USD"},
                {"month": "2026-02", "platform": "rounding", "amount": "0.0034444451", "currency": "USD"},
            ])
        );
        let table = server
            .get("/v1/reports/revenue?format=csv&end=2026-02-01T00:00:00Z")
            .await
            .expect(StatusCode::OK);
        assert_eq!(table.header("content-type"), "text/csv; charset=utf-8; header=present");
        let expected =
            "month,tenant,platform,model,amount,currency\n2026-01,acme,h100,on_demand,35.4065555549,USD\n";
        assert_eq!(table.text(), expected);

        let books = server.get("/v1/reports/reconciliation").await.expect(StatusCode::OK).json();
        assert_eq!((&books["agrees"], &books["differences"]), (&json!(true), &json!([])));
        let invoices = &books["rows"].as_array().unwrap()[1];
        assert_eq!(
            [&invoices["check"], &invoices["left"], &invoices["right"]],
            ["invoices", "35.4065555549", "35.4065555549"]
        );
        let deferred = server.get("/v1/reports/deferred-revenue").await.expect(StatusCode::OK).json();
        assert_eq!(deferred["rows"], json!([]));
    });
}

#[test]
fn what_is_paid_ahead_is_earned_month_by_month() {
    with_server(async |server| {
        server.with_customers().await;
        let draft = json!({"reservation": "r-1", "project": "ml", "platform": "h100", "gpus": 2,
            "from": "2026-01-30T00:00:00Z", "until": "2026-02-03T00:00:00Z", "payment": {"upfront": {"price": "1.5"}}});
        server.post("/v1/tenants/acme/reservations", draft).await.expect(StatusCode::CREATED);
        let row = |month: &str, sums: [&str; 5]| {
            let [opening, added, booked, scheduled, closing] = sums;
            json!({"tenant": "acme", "reservation": "r-1", "month": month, "currency": "USD", "opening": opening,
                "added": added, "booked": booked, "scheduled": scheduled, "closing": closing})
        };
        // 96 hours of 2 GPUs at 1.5: 288, half of it in each month. Nothing is posted before the first tick.
        let report = server.get("/v1/reports/deferred-revenue").await.expect(StatusCode::OK).json();
        let expected = json!([
            row("2026-01", ["0", "288", "0", "144", "144"]),
            row("2026-02", ["144", "0", "0", "144", "0"])
        ]);
        assert_eq!(report["rows"], expected);
        assert_eq!(
            report["totals"],
            json!([{"tenant": "acme", "currency": "USD", "remaining": "288", "not_posted": "288", "book": "0",
                "difference": "0"}])
        );
        server.clock.set("2026-01-30T10:30:00Z");
        server.tick().await;
        let report = server.get("/v1/reports/deferred-revenue").await.json();
        assert_eq!(report["rows"][0], row("2026-01", ["0", "288", "30", "114", "144"]));
        assert_eq!(report["totals"][0]["book"], "258");
        // The last tick of January saw 20 hours of its last day; the others are booked when the clock ticks again.
        server.clock.set("2026-01-31T20:00:00Z");
        server.tick().await;
        server.clock.set("2026-02-02T00:00:00Z");
        server.tick().await;
        let report = server.get("/v1/reports/deferred-revenue").await.json();
        let expected = json!([
            row("2026-01", ["0", "288", "132", "0", "156"]),
            row("2026-02", ["156", "0", "84", "72", "0"])
        ]);
        assert_eq!(report["rows"], expected);
        assert_eq!(
            (&report["totals"][0]["book"], &report["totals"][0]["difference"]),
            (&json!("72"), &json!("0"))
        );
        let books = server.get("/v1/reports/reconciliation").await.json();
        assert_eq!(books["agrees"], true, "{books}");
    });
}

#[test]
fn months_are_closed_by_finance_when_all_of_them_is_there() {
    with_server(async |server| {
        with_january(&server).await;
        let months = server.get("/v1/periods").await.expect(StatusCode::OK).json();
        let shown = |months: &serde_json::Value| -> Vec<String> {
            let rows = months["rows"].as_array().unwrap().iter();
            rows.map(|row| format!("{} {}", row["period"].as_str().unwrap(), row["status"].as_str().unwrap()))
                .collect()
        };
        assert_eq!(shown(&months), ["2026-01 soft", "2026-02 open"]);
        assert_eq!(months["rows"][0]["invoices_missing"], 0);
        server.post("/v1/periods/2026-02:close", json!({})).await.expect_problem(409, "month_out_of_order");
        server.post("/v1/periods/2026-13:close", json!({})).await.expect_problem(400, "path_invalid");
        server.post("/v1/periods/2026-01:open", json!({})).await.expect_problem(404, "action_unknown");

        let server = server.guarded();
        let of = |role, bound| key_of(role, bound, &[]);
        let customer = server.key(of(Role::Customer, "acme")).await;
        let finance = server.key(of(Role::Finance, "")).await;
        let close = "/v1/periods/2026-01:close";
        server.send_with("POST", close, &customer, "{}").await.expect_problem(403, "forbidden");
        server.get_with("/v1/reports/trial-balance", &customer).await.expect_problem(403, "forbidden");
        server.get_with("/v1/reports/trial-balance", &finance).await.expect(StatusCode::OK);
        server.send_with("POST", close, &finance, "{}").await.expect(StatusCode::OK);
        server.send_with("POST", close, &finance, "{}").await.expect_problem(409, "month_closed");
        let january = server.get_with("/v1/periods/2026-01", &finance).await.expect(StatusCode::OK).json();
        assert_eq!((&january["status"], &january["transfers"]), (&json!("hard"), &json!(1)));
        assert_eq!(january["digest"].as_str().unwrap().len(), 64);
    });
}

#[test]
fn what_cannot_be_asked_is_refused() {
    with_server(async |server| {
        server.with_customers().await;
        for (path, status, code) in [
            ("trial-balance?at=2026-01-01T00:00:00Z", 400, "query_invalid"),
            ("trial-balance?end=yesterday", 400, "query_invalid"),
            ("trial-balance?end=2026-01-02T00:00:00Z&position=1", 400, "interval_invalid"),
            ("trial-balance?start=2026-01-02T00:00:00Z&end=2026-01-02T00:00:00Z", 400, "interval_invalid"),
            ("revenue?group_by=colour", 400, "group_by_invalid"),
            ("revenue?format=xml", 400, "query_invalid"),
            ("receivables-ageing?terms_days=-1", 400, "query_invalid"),
            ("reconciliation?since=1", 400, "query_invalid"),
            ("cash-flow", 404, "route_unknown"),
        ] {
            server.get(&format!("/v1/reports/{path}")).await.expect_problem(status, code);
        }
    });
}
