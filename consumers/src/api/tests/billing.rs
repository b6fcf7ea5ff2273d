//! From a customer to an invoice.

use axum::http::StatusCode;
use serde_json::json;

use crate::testing::{record, with_server};

#[test]
fn usage_becomes_a_report_a_balance_and_an_invoice() {
    with_server(async |server| {
        server.with_customers().await;
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [
            record("2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            record("2026-01-01T01:00:00Z", "2026-01-01T02:00:01Z"),
        ]});
        let taken = server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK).json();
        assert_eq!(taken["batches"][0]["next_seq"], 2);
        assert_eq!(taken["quarantined"], json!([]));

        // Before any tick, all of it is in the state only.
        let row = json!({"group": {}, "currency": "USD", "gpu_ms": 43_208_000, "gpu_hours": "12.002222222",
            "amount": "35.4065555549"});
        let report = server.get("/v1/tenants/acme/usage").await.expect(StatusCode::OK).json();
        assert_eq!(report["rows"], json!([row]));
        let row_of_balance = |balance: &str, unposted: &str| {
            json!({"account": "assets:unbilled:acme", "class": "assets", "tenant": "acme", "currency": "USD",
                "balance": balance, "unposted": unposted})
        };
        let balance = server.get("/v1/tenants/acme/balance").await.expect(StatusCode::OK).json();
        assert_eq!(balance["rows"], json!([row_of_balance("0", "35.4065555549")]));
        server.tick().await;
        // After it, a part is in rows, and the sum is the same.
        for path in ["/v1/tenants/acme/usage", "/v1/usage", "/v1/tenants/acme/usage?project=ml&instance=i-1"]
        {
            let report = server.get(path).await.expect(StatusCode::OK).json();
            assert_eq!(report["rows"], json!([row]), "{path}");
            assert_eq!(report["as_of"]["time"], "2026-01-01T02:01:00Z");
        }
        let report =
            server.get("/v1/usage?group_by=hour,mode&start=2026-01-01T01:00:00Z&end=2026-01-01T02:00:00Z");
        let report = report.await.expect(StatusCode::OK).json();
        assert_eq!(
            report["rows"],
            json!([{"group": {"hour": "2026-01-01T01:00:00Z", "model": "on_demand"}, "currency": "USD",
                "gpu_ms": 28_800_000, "gpu_hours": "8", "amount": "23.6"}])
        );
        let report = server.get("/v1/usage?group_by=month,day,tenant,price").await.json();
        assert_eq!(
            report["rows"][0]["group"],
            json!({"month": "2026-01", "day": "2026-01-01", "tenant": "acme", "price": "2.95"})
        );

        let balance = server.get("/v1/tenants/acme/balance").await.expect(StatusCode::OK).json();
        assert_eq!(balance["rows"], json!([row_of_balance("35.4065555549", "0")]));
        assert!(balance["as_of"]["position"].as_u64().unwrap() > 0);
        let metering = server.get("/v1/tenants/acme/metering").await.expect(StatusCode::OK).json();
        assert_eq!((&metering["billed_ms"], &metering["balances"]), (&json!(5_401_000), &json!(true)));

        let draft =
            server.get("/v1/tenants/acme/invoices/draft?period=2026-01").await.expect(StatusCode::OK).json();
        assert_eq!((&draft["invoice"]["number"], &draft["invoice"]["total"]), (&json!(0), &json!("35.41")));
        let head = server.get("/v1/ledger/head").await.expect(StatusCode::OK).json();
        assert_eq!(draft["invoice"]["provenance"]["chain_hash"], head["hash"]);

        let finalise = json!({"period": "2026-01"});
        server.post("/v1/tenants/acme/invoices", finalise.clone()).await.expect_problem(409, "period_open");
        server.clock.set("2026-02-04T00:00:00Z");
        let done = server.post("/v1/tenants/acme/invoices", finalise).await.expect(StatusCode::CREATED);
        assert_eq!(done.header("location"), "/v1/tenants/acme/invoices/1");
        let invoice = server.get("/v1/tenants/acme/invoices/1").await.expect(StatusCode::OK);
        let stored = server.cell.reader().clone();
        let stored = tokio::task::spawn_blocking(move || stored.invoice(&"acme".parse().unwrap(), 1));
        assert_eq!(invoice.body, stored.await.unwrap().unwrap().unwrap().document);
        let list = server.get("/v1/tenants/acme/invoices").await.expect(StatusCode::OK).json();
        assert_eq!((&list["rows"][0]["number"], &list["rows"][0]["total"]), (&json!(1), &json!("35.41")));
        server.get("/v1/tenants/acme/invoices/2").await.expect_problem(404, "invoice_unknown");
        server.get("/v1/tenants/beta/invoices/1").await.expect_problem(404, "invoice_unknown");

        let digest = server.get("/v1/ledger/digest").await.expect(StatusCode::OK).json();
        assert_eq!(digest["digest"].as_str().unwrap().len(), 64);
    });
}

#[test]
fn corrections_that_take_all_back_leave_no_row() {
    with_server(async |server| {
        server.with_customers().await;
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [
            record("2026-01-01T00:30:00Z", "2026-01-01T01:30:00Z"),
        ]});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        server.tick().await;
        let stop = json!({"at": "2026-01-01T01:00:00Z", "cause": "user"});
        server.post("/v1/tenants/acme/instances/i-1:stop", stop).await.expect(StatusCode::OK);
        // Not written yet, but reported: half an hour of 8 GPUs is left, and the second hour has no row.
        for _ in 0..2 {
            let report = server.get("/v1/usage?group_by=hour").await.json();
            assert_eq!(
                report["rows"],
                json!([{"group": {"hour": "2026-01-01T00:00:00Z"}, "currency": "USD", "gpu_ms": 14_400_000,
                    "gpu_hours": "4", "amount": "11.8"}])
            );
            server.tick().await;
        }
        let sums = server.get("/v1/ledger/balances").await.json();
        let balances: Vec<_> =
            sums["rows"].as_array().unwrap().iter().map(|row| row["balance"].clone()).collect();
        assert_eq!(balances, ["11.8", "-11.8"]);
    });
}

#[test]
fn rate_cards_and_contracts_come_in_json_and_toml() {
    with_server(async |server| {
        let toml = "name = \"list\"\nversion = 1\ncurrency = \"USD\"\neffective_from = \"2026-01-01T00:00:00Z\"\n\
            [[prices]]\nplatform = \"h100\"\nregion = \"eu\"\nmodel = \"on_demand\"\nprice = \"2.95\"\n";
        let headers = [("content-type", "application/toml; charset=utf-8")];
        server.post_as("/v1/rate-cards", &headers, toml).await.expect(StatusCode::CREATED);
        let wrong = toml.replace("price =", "prise =");
        server.post_as("/v1/rate-cards", &headers, wrong).await.expect_problem(422, "body_invalid");
        let json = [("content-type", "text/plain")];
        server.post_as("/v1/rate-cards", &json, toml).await.expect_problem(415, "media_type_unsupported");

        let cards = server.get("/v1/rate-cards").await.expect(StatusCode::OK).json();
        assert_eq!(cards["rows"][0]["prices"][0]["price"], "2.95");
        let tenant = json!({"tenant": "acme", "currency": "USD"});
        server.post("/v1/tenants", tenant).await.expect(StatusCode::CREATED);
        let contract = json!({"name": "deal", "version": 1, "effective_from": "2026-01-01T00:00:00Z", "prices": [
            {"platform": "h100", "region": "eu", "model": "on_demand", "price": "2.5"}]});
        server.post("/v1/tenants/acme/contracts", contract).await.expect(StatusCode::CREATED);
        let contracts = server.get("/v1/tenants/acme/contracts").await.expect(StatusCode::OK).json();
        // What is read can be sent again: a card that was listed is a card.
        assert_eq!(contracts["rows"][0]["prices"][0]["from"], "2026-01-01T00:00:00Z");
        server.get("/v1/tenants/nobody/contracts").await.expect_problem(404, "tenant_unknown");
    });
}
