//! Pools, bids, clearings and receipts.

use axum::body::Body;
use axum::http::StatusCode;
use hourglass_ledger::core::Command;
use hourglass_ledger::core::market::{MarketCommand, Trigger};
use serde_json::{Value, json};

use crate::billing::market::ReceiptDocument;
use crate::testing::{Reply, Server, request, with_server};

const POOL: &str = "eu/h100/f-1";

fn terms(gpus: u64) -> Value {
    let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
    json!({"currency": "USD", "gpus": gpus, "reserve": reserve})
}

fn bid(name: &str, units: [u32; 2], limit: &str) -> Value {
    json!({"bid": name, "project": "ml", "pools": [POOL], "gpus_per_unit": 1, "min_units": units[0],
        "max_units": units[1], "limit": limit})
}

async fn put(server: &Server, path: &str, body: &Value) -> Reply {
    server.send(request("PUT", path, &[("content-type", "application/json")], body.to_string().into())).await
}

async fn set_pool(server: &Server, terms: Value) {
    put(server, "/v1/pools/h100/f-1", &terms).await.expect(StatusCode::OK);
}

async fn place(server: &Server, tenant: &str, bid: Value) -> u64 {
    let path = format!("/v1/tenants/{tenant}/bids");
    let placed = server.post(&path, bid).await.expect(StatusCode::CREATED).json();
    placed["number"].as_u64().unwrap()
}

async fn clear(server: &Server) -> Value {
    server
        .send(request("POST", "/v1/market:clear", &[], Body::empty()))
        .await
        .expect(StatusCode::CREATED)
        .json()
}

async fn get(server: &Server, path: &str) -> Value {
    server.get(path).await.expect(StatusCode::OK).json()
}

#[test]
fn a_bid_wins_runs_is_outbid_and_is_told_why() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, terms(4)).await;
        let pool = get(&server, "/v1/pools/h100/f-1").await;
        assert_eq!(
            (&pool["pool"], &pool["supply"], &pool["cleared"]),
            (&json!(POOL), &json!(4), &Value::Null)
        );
        let low = place(&server, "acme", bid("low", [1, 4], "1.00")).await;
        let waiting = get(&server, "/v1/tenants/acme/bids/low").await;
        assert_eq!((&waiting["state"], &waiting["units"]), (&json!("waiting"), &json!(0)));
        let why = get(&server, "/v1/tenants/acme/bids/low/why").await;
        assert_eq!((&why["clear"], &why["number"]), (&Value::Null, &json!(low)));

        let first = clear(&server).await;
        assert_eq!((&first["starts"], &first["stops"]), (&json!(4), &json!(0)));
        let clear_path = first["resource"].as_str().unwrap().to_owned();
        let start = json!({"at": "2026-01-01T02:01:00Z"});
        let path = format!("/v1/tenants/acme/instances/spot-{low}-0:start");
        server.post(&path, start).await.expect(StatusCode::OK);
        let winning = get(&server, "/v1/tenants/acme/bids/low").await;
        let units: Vec<&str> =
            winning["instances"].as_array().unwrap().iter().map(|it| it["state"].as_str().unwrap()).collect();
        assert_eq!(units, ["running", "accepted", "accepted", "accepted"]);
        assert_eq!(
            (&winning["state"], &winning["pool"], &winning["units"], &winning["price"]),
            (&json!("winning"), &json!(POOL), &json!(4), &json!("0.5"))
        );

        server.clock.set("2026-01-01T02:02:00Z");
        let high = place(&server, "beta", bid("high", [3, 3], "1.50")).await;
        let second = clear(&server).await;
        assert_eq!((&second["starts"], &second["stops"]), (&json!(3), &json!(3)));
        let low_now = get(&server, "/v1/tenants/acme/bids/low").await;
        let last = &low_now["instances"][3];
        assert_eq!((&last["state"], &last["stop"]["cause"]), (&json!("stopping"), &json!("outbid")));
        assert_eq!(last["stop"]["deadline"], "2026-01-01T02:03:00Z");
        let why = get(&server, "/v1/tenants/acme/bids/low/why").await;
        assert_eq!(
            (&why["outcome"], &why["units"], &why["reason"], &why["clear"]),
            (&json!("won"), &json!(1), &json!("capacity"), &second["position"])
        );
        assert_eq!(why["stopped"], json!([{"pool": POOL, "units": 3, "cause": "outbid", "by": high}]));
        let ahead = &why["standings"][0];
        assert_eq!(
            (&ahead["bids_ahead"], &ahead["gpus_ahead"], &ahead["price"]),
            (&json!(1), &json!(3), &json!("1"))
        );
        let before =
            get(&server, &format!("/v1/tenants/acme/bids/low/why?clear={}", first["position"])).await;
        assert_eq!((&before["units"], &before["reason"]), (&json!(4), &Value::Null));

        // Who bids too little is told how much would do.
        place(&server, "acme", bid("late", [1, 1], "1.05")).await;
        clear(&server).await;
        let why = get(&server, "/v1/tenants/acme/bids/late/why").await;
        assert_eq!((&why["outcome"], &why["reason"]), (&json!("lost"), &json!("outbid")));
        assert!(why["says"].as_str().unwrap().contains("it would have won"), "{why}");
        let enough = why["wins_at"].as_str().unwrap();
        let raise = json!({"limit": enough});
        server.post("/v1/tenants/acme/bids/late:update", raise).await.expect(StatusCode::OK);
        clear(&server).await;
        assert_eq!(get(&server, "/v1/tenants/acme/bids/late").await["state"], "winning");

        let receipt = server.get(&clear_path).await.expect(StatusCode::OK);
        let document: ReceiptDocument = serde_json::from_slice(&receipt.body).unwrap();
        assert_eq!(document.receipt.replay(), Ok(document.receipt.clearing.clone()));
        assert_eq!(receipt.json()["receipt"]["book"]["bids"][0]["number"], low);
        let prices = get(&server, "/v1/pools/h100/f-1/prices").await;
        assert_eq!(prices["rows"][0]["price"], "0.5");
        assert_eq!(prices["rows"][0]["until"], prices["rows"][1]["from"]);
        assert_eq!(prices["rows"][1]["price"], "1");
        let within = "/v1/pools/h100/f-1/prices?start=2026-01-01T02:01:30Z&end=2026-01-01T02:01:40Z";
        let within = get(&server, within).await;
        assert_eq!(
            within["rows"],
            json!([{"from": "2026-01-01T02:01:30Z", "until": "2026-01-01T02:01:40Z", "price": "0.5"}])
        );

        server.post("/v1/tenants/acme/bids/low:cancel", json!({})).await.expect(StatusCode::OK);
        let cancelled = get(&server, "/v1/tenants/acme/bids/low").await;
        assert_eq!(cancelled["state"], "cancelled");
        assert_eq!(get(&server, "/v1/tenants/beta/bids").await["rows"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn clearings_are_listed_newest_first_and_a_page_after_another() {
    with_server(async |server| {
        server.with_customers().await;
        let mut expected = Vec::new();
        for gpus in 1..=5 {
            set_pool(&server, terms(gpus)).await;
            expected.insert(0, clear(&server).await["position"].as_u64().unwrap());
        }
        for size in [1, 2, 5, 100] {
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let page = get(&server, &format!("/v1/clears?page_size={size}{token}")).await;
                found.extend(page["rows"].as_array().unwrap().iter().map(|it| it["clear"].as_u64().unwrap()));
                match page["next_page_token"].as_str() {
                    Some(next) => token = format!("&page_token={next}"),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{size}");
        }
        let market = get(&server, "/v1/market").await;
        assert_eq!((&market["margin"], market["clear"].as_u64()), (&json!("10"), Some(expected[0])));
        put(&server, "/v1/market/margin", &json!({"margin": "25"})).await.expect(StatusCode::OK);
        assert_eq!(get(&server, "/v1/market").await["margin"], "25");
        // Another event than a clearing, one that is not there, and none at all.
        for position in ["1", "0", "999"] {
            server.get(&format!("/v1/clears/{position}")).await.expect_problem(404, "clear_unknown");
        }
        server.get("/v1/clears/x").await.expect_problem(400, "path_invalid");
        server.get("/v1/clears?page_token=AAAA").await.expect_problem(400, "page_token_invalid");
    });
}

#[test]
fn what_is_wrong_is_refused_and_says_why() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, terms(8)).await;
        let with = |name: &str, value: Value| {
            let mut bid = bid("b", [1, 2], "1");
            bid[name] = value;
            bid
        };
        for (body, status, code) in [
            (with("pools", json!(["eu/h100/f-9"])), 404, "pool_unknown"),
            (with("pools", json!([])), 422, "bid_invalid"),
            (with("pools", json!([POOL, POOL])), 422, "pool_twice"),
            (with("pools", json!(["f-1"])), 422, "body_invalid"),
            (with("gpus_per_unit", json!(0)), 422, "bid_invalid"),
            (with("min_units", json!(3)), 422, "bid_invalid"),
            (with("limit", json!("0")), 422, "limit_zero"),
            (with("limit", json!("-1")), 422, "body_invalid"),
            (with("limit", json!(1.5)), 422, "body_invalid"),
            (with("max_units", json!(99)), 201, ""),
            (bid("big", [9, 9], "1"), 409, "above_supply"),
            (with("notice_seconds", json!(1)), 409, "bid_exists"),
            (with("colour", json!("red")), 422, "body_invalid"),
        ] {
            let answer = server.post("/v1/tenants/acme/bids", body.clone()).await;
            match code {
                "" => drop(answer.expect(StatusCode::CREATED)),
                code => drop(answer.expect_problem(status, code)),
            }
        }
        let mut short = bid("short", [1, 1], "1");
        short["notice_seconds"] = json!(1);
        server.post("/v1/tenants/acme/bids", short).await.expect_problem(422, "notice_out_of_range");
        let mut past = bid("past", [1, 1], "1");
        past["expires_at"] = json!("2025-01-01T00:00:00Z");
        server.post("/v1/tenants/acme/bids", past).await.expect_problem(422, "expires_in_the_past");
        server
            .post("/v1/tenants/nobody/bids", bid("b", [1, 1], "1"))
            .await
            .expect_problem(404, "tenant_unknown");

        server.post("/v1/tenants/acme/bids/b:update", json!({})).await.expect_problem(422, "change_empty");
        server.post("/v1/tenants/acme/bids/b:pause", json!({})).await.expect_problem(404, "action_unknown");
        let none = json!({"limit": "2"});
        server.post("/v1/tenants/acme/bids/none:update", none).await.expect_problem(404, "bid_unknown");
        server.get("/v1/tenants/acme/bids/none").await.expect_problem(404, "bid_unknown");
        server.get("/v1/tenants/acme/bids/none/why").await.expect_problem(404, "bid_unknown");
        server.get("/v1/pools/h100/f-9").await.expect_problem(404, "pool_unknown");
        server.get("/v1/pools/h100/f-9/prices").await.expect_problem(404, "pool_unknown");
        let reversed = "/v1/pools/h100/f-1/prices?start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z";
        server.get(reversed).await.expect_problem(400, "query_invalid");

        let falling = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "2"},
            {"utilisation": "50", "price": "1"}]});
        let mut wrong = terms(8);
        wrong["reserve"] = falling;
        put(&server, "/v1/pools/h100/f-1", &wrong).await.expect_problem(422, "body_invalid");
        let mut short = terms(8);
        short["notice_seconds"] = json!(59);
        put(&server, "/v1/pools/h100/f-1", &short).await.expect_problem(422, "notice_out_of_range");
        let mut euros = terms(8);
        euros["currency"] = json!("EUR");
        put(&server, "/v1/pools/h100/f-1", &euros).await.expect_problem(409, "pool_currency_fixed");
        put(&server, "/v1/market/margin", &json!({"margin": "ten"}))
            .await
            .expect_problem(422, "body_invalid");

        clear(&server).await;
        clear(&server).await;
        let nothing = request("POST", "/v1/market:clear", &[], Body::empty());
        server.send(nothing).await.expect_problem(409, "nothing_to_clear");
        let mode = json!({"model": "on_demand", "at": "2026-01-01T02:01:00Z"});
        let bids = get(&server, "/v1/tenants/acme/bids/b").await;
        let instance = bids["instances"][0]["instance"].as_str().unwrap().to_owned();
        let path = format!("/v1/tenants/acme/instances/{instance}:change-mode");
        server.post(&path, mode).await.expect_problem(409, "is_a_unit");
    });
}

#[test]
fn a_repeated_request_is_done_once() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, terms(8)).await;
        let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
        let body = bid("b", [1, 2], "1").to_string();
        let first = server.post_as("/v1/tenants/acme/bids", &headers, body.clone()).await;
        let again = server.post_as("/v1/tenants/acme/bids", &headers, body).await;
        assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
        assert_eq!((first.json(), again.header("idempotent-replayed")), (again.json(), "true"));
        let first = server.post_as("/v1/market:clear", &headers, "").await;
        let again = server.post_as("/v1/market:clear", &headers, "").await;
        assert_eq!((first.status.as_u16(), again.status.as_u16(), first.json()), (201, 200, again.json()));
        let other = bid("b", [1, 3], "1").to_string();
        let other = server.post_as("/v1/tenants/acme/bids", &headers, other).await;
        other.expect_problem(409, "idempotency_key_reused");
        let clear = Command::from(MarketCommand::Clear { trigger: Trigger::Tick });
        let _second = server.cell.submit(clear).await.unwrap();
        let triggers = get(&server, "/v1/clears").await;
        let triggers: Vec<&str> =
            triggers["rows"].as_array().unwrap().iter().map(|it| it["trigger"].as_str().unwrap()).collect();
        assert_eq!(triggers, ["tick", "asked"]);
    });
}

/// Reserved, lent, on demand and out of use: what is left for spot, and where the GPU-time went.
#[test]
fn supply_is_reserved_lent_and_accounted_for() {
    with_server(async |server| {
        server.with_customers().await;
        let terms = json!({"owner_share": "40", "drain_seconds": 60, "look_ahead_seconds": 86_400});
        let mut all = self::terms(8);
        all.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        set_pool(&server, all).await;
        let reserve = |id: &str, gpus: u32, until: &str| {
            json!({"reservation": id, "project": "ml", "platform": "h100", "gpus": gpus, "fabric": "f-1",
                "from": "2026-01-01T02:00:00Z", "until": until, "payment": {"monthly": {"price": "2"}}})
        };
        let reservations = "/v1/tenants/acme/reservations";
        let made = server.post(reservations, reserve("r-1", 5, "2026-01-02T00:00:00Z")).await;
        made.expect(StatusCode::CREATED);
        let more = server.post(reservations, reserve("r-2", 4, "2026-01-02T00:00:00Z")).await;
        more.expect_problem(409, "over_promise");
        server
            .post("/v1/tenants/acme/reservations/r-1:lend", json!({"at_most": 5}))
            .await
            .expect(StatusCode::OK);
        let claim = json!({"gpus": 5, "from": "2026-01-01T10:00:00Z", "until": "2026-01-01T12:00:00Z"});
        server.post("/v1/tenants/acme/reservations/r-1:claim", claim.clone()).await.expect(StatusCode::OK);
        let allowances = json!({"allowances": [{"project": "web", "gpus": 1, "from": "2026-01-01T02:00:00Z",
            "until": "2026-01-02T00:00:00Z"}]});
        server
            .post("/v1/tenants/acme/reservations/r-1:assign", allowances.clone())
            .await
            .expect(StatusCode::OK);
        let shown = get(&server, "/v1/tenants/acme/reservations/r-1").await;
        assert_eq!(
            (&shown["fabric"], &shown["loan"]),
            (&json!("f-1"), &json!({"at_most": 5, "claims": [claim]}))
        );
        assert_eq!(shown["allowances"], allowances["allowances"]);

        let node = json!({"gpus": 2, "state": "failed"});
        put(&server, "/v1/pools/h100/f-1/nodes/n-1", &node).await.expect(StatusCode::OK);
        let half = json!({"gpus": 2, "state": "maintenance", "from": "2026-01-01T02:00:00Z"});
        put(&server, "/v1/pools/h100/f-1/nodes/n-1", &half).await.expect_problem(400, "node_invalid");
        let nodes = get(&server, "/v1/pools/h100/f-1/nodes").await;
        assert_eq!(nodes["rows"], json!([{"node": "n-1", "gpus": 2, "state": "failed"}]));

        let mut instance = json!({"instance": "od-1", "project": "ml", "platform": "h100", "model": "on_demand",
            "gpus": 1, "fabric": "f-1"});
        server.post("/v1/tenants/beta/instances", instance.clone()).await.expect(StatusCode::CREATED);
        let supply = get(&server, "/v1/pools/h100/f-1/supply").await;
        let figures = ["for_spot", "capacity", "reserved", "lent", "on_demand", "shortfall"];
        let figures = figures.map(|name| supply[name].as_u64().unwrap());
        assert_eq!(figures, [5, 6, 5, 5, 1, 0], "{supply}");
        instance["instance"] = json!("od-2");
        server.post("/v1/tenants/beta/instances", instance.clone()).await.expect_problem(409, "pool_full");

        // Spot has what is lent, until somebody who comes first needs it.
        place(&server, "beta", bid("b", [1, 5], "1")).await;
        clear(&server).await;
        server
            .send(request("DELETE", "/v1/pools/h100/f-1/nodes/n-1", &[], Body::empty()))
            .await
            .expect(StatusCode::OK);
        place(&server, "beta", bid("c", [1, 2], "1")).await;
        clear(&server).await;
        server.post("/v1/tenants/beta/instances", instance).await.expect(StatusCode::CREATED);
        let waiting = get(&server, "/v1/tenants/beta/instances/od-2").await;
        assert_eq!(waiting["waits"], json!(true), "{waiting}");
        let seated = get(&server, "/v1/tenants/beta/instances/od-1").await;
        assert_eq!(seated["waits"], Value::Null);
        let account = "/v1/pools/h100/f-1/account?start=2026-01-01T00:00:00Z&end=2026-01-01T01:00:00Z";
        let account = get(&server, account).await;
        assert_eq!(
            (&account["on_demand"], &account["spot"]),
            (&json!("0"), &json!("0")),
            "nobody has started"
        );
        let wrong = "/v1/pools/h100/f-1/account?start=2026-01-01T00:00:00Z&end=2026-01-01T00:00:00Z";
        server.get(wrong).await.expect_problem(400, "query_invalid");
        server.post("/v1/tenants/acme/reservations/r-1:withdraw", json!({})).await.expect(StatusCode::OK);
        let again = server.post("/v1/tenants/acme/reservations/r-1:withdraw", json!({})).await;
        again.expect_problem(409, "not_lent");
        let unknown = server.post("/v1/tenants/acme/reservations/r-1:sell", json!({})).await;
        unknown.expect_problem(404, "action_unknown");
        let unplaced = json!({"reservation": "r-9", "project": "ml", "platform": "h100", "gpus": 1,
            "from": "2026-01-01T02:00:00Z", "until": "2026-01-02T00:00:00Z", "payment": {"monthly": {"price": "2"}}});
        server.post(reservations, unplaced).await.expect(StatusCode::CREATED);
        let lend = server.post("/v1/tenants/acme/reservations/r-9:lend", json!({})).await;
        lend.expect_problem(409, "without_fabric");
    });
}

#[test]
fn a_suspended_customer_starts_nothing() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, terms(4)).await;
        place(&server, "acme", bid("b", [1, 2], "1")).await;
        clear(&server).await;
        let suspend = server.post("/v1/tenants/acme:suspend", json!({"reason": "unpaid"})).await;
        suspend.expect(StatusCode::OK);
        let shown = get(&server, "/v1/tenants/acme").await;
        assert_eq!(shown["suspension"]["reason"], json!("unpaid"));
        let refused = server.post("/v1/tenants/acme/bids", bid("c", [1, 1], "1")).await;
        refused.expect_problem(409, "tenant_suspended");
        let again = server.post("/v1/tenants/acme:suspend", json!({"reason": "unpaid"})).await;
        again.expect_problem(409, "tenant_suspended");
        let stops = get(&server, "/v1/preemptions").await;
        let causes = stops["rows"].as_array().unwrap().iter().map(|it| it["cause"].as_str().unwrap());
        assert_eq!(causes.collect::<Vec<_>>(), ["suspension"; 3], "{stops}");
        server.post("/v1/tenants/acme:resume", json!({})).await.expect(StatusCode::OK);
        server.post("/v1/tenants/acme:resume", json!({})).await.expect_problem(409, "not_suspended");
        server.post("/v1/tenants/acme:forgive", json!({})).await.expect_problem(404, "action_unknown");
        server.post("/v1/tenants/nobody:resume", json!({})).await.expect_problem(404, "tenant_unknown");
        assert_eq!(get(&server, "/v1/tenants/acme").await["suspension"], Value::Null);
    });
}
