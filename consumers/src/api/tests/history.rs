//! The past of a pool: steps, candles, demand, interruptions.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::testing::{Server, request, with_server};

const PRICES: &str = "/v1/pools/h100/f-1/prices";

/// At a time: a pool of so many GPUs with a reserve price, cleared.
async fn clear_at(server: &Server, time: &str, gpus: u64, reserve: &str) {
    server.clock.set(time);
    let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": reserve}]});
    let terms = json!({"currency": "USD", "gpus": gpus, "reserve": reserve}).to_string();
    let json = [("content-type", "application/json")];
    server.send(request("PUT", "/v1/pools/h100/f-1", &json, terms.into())).await.expect(StatusCode::OK);
    server.send(request("POST", "/v1/market:clear", &[], Body::empty())).await.expect(StatusCode::CREATED);
}

async fn bid(server: &Server, tenant: &str, name: &str, units: u32, limit: &str) {
    let bid = json!({"bid": name, "project": "ml", "pools": ["eu/h100/f-1"], "gpus_per_unit": 2, "min_units": 1,
        "max_units": units, "limit": limit});
    server.post(&format!("/v1/tenants/{tenant}/bids"), bid).await.expect(StatusCode::CREATED);
}

async fn get(server: &Server, path: &str) -> Value {
    server.get(path).await.expect(StatusCode::OK).json()
}

async fn csv(server: &Server, path: &str) -> (String, String) {
    let reply = server.send(request("GET", path, &[("accept", "text/csv")], Body::empty())).await;
    let reply = reply.expect(StatusCode::OK);
    assert_eq!(reply.header("content-type"), "text/csv; charset=utf-8; header=present");
    (reply.text(), reply.header("link").to_owned())
}

/// 8 GPUs at 0.5 from 02:10, at 1 from 03:15, 4 at 0.9 from 03:45; 6 of them sold from 02:10, 4 from 03:15.
async fn with_past(server: &Server) {
    server.with_customers().await;
    clear_at(server, "2026-01-01T02:05:00Z", 8, "0.5").await;
    bid(server, "acme", "low", 1, "0.90").await;
    bid(server, "beta", "high", 2, "2").await;
    clear_at(server, "2026-01-01T02:10:00Z", 8, "0.5").await;
    clear_at(server, "2026-01-01T03:15:00Z", 8, "1").await;
    clear_at(server, "2026-01-01T03:45:00Z", 4, "0.75").await;
    server.clock.set("2026-01-01T04:30:00Z");
    server.tick().await;
}

#[test]
fn prices_come_by_steps_and_as_candles() {
    with_server(async |server| {
        with_past(&server).await;
        let from = "start=2026-01-01T02:30:00Z";
        let hours = get(&server, &format!("{PRICES}?{from}&step=1h")).await;
        let row = |from: &str, until: &str, price: &str, mean: &str| {
            let day = |time: &str| format!("2026-01-01T{time}:00Z");
            json!({"from": day(from), "until": day(until), "price": price, "mean": mean})
        };
        assert_eq!(
            hours["rows"],
            json!([
                row("02:30", "03:00", "0.5", "0.5"),
                // A quarter at 0.5, a half at 1, a quarter at what the low bid offers in vain.
                row("03:00", "04:00", "0.9", "0.85"),
                row("04:00", "04:30", "0.9", "0.9"),
            ])
        );
        let candles = get(&server, &format!("{PRICES}/ohlc?{from}&end=2026-01-01T04:00:00Z")).await;
        let second = json!({"from": "2026-01-01T03:00:00Z", "until": "2026-01-01T04:00:00Z", "open": "0.5", "high": "1",
            "low": "0.5", "close": "0.9", "mean": "0.85", "sold_gpu_hours": "4.5"});
        assert_eq!((&candles["rows"][1], &candles["rows"][0]["sold_gpu_hours"]), (&second, &json!("3")));
        // The same rows whatever the page, and as CSV.
        for size in [1, 2, 3] {
            let (mut rows, mut token) = (Vec::new(), String::new());
            loop {
                let page = get(&server, &format!("{PRICES}?{from}&step=1h&page_size={size}{token}")).await;
                rows.extend(page["rows"].as_array().unwrap().clone());
                match page["next_page_token"].as_str() {
                    Some(next) => token = format!("&page_token={next}"),
                    None => break,
                }
            }
            assert_eq!(Value::Array(rows), hours["rows"], "{size}");
        }
        let (text, link) = csv(&server, &format!("{PRICES}?{from}&step=1h&page_size=2")).await;
        assert_eq!(
            text,
            "from,until,price,mean\n2026-01-01T02:30:00Z,2026-01-01T03:00:00Z,0.5,0.5\n\
             2026-01-01T03:00:00Z,2026-01-01T04:00:00Z,0.9,0.85\n"
        );
        let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        let (text, link) = csv(&server, next).await;
        assert_eq!(text, "from,until,price,mean\n2026-01-01T04:00:00Z,2026-01-01T04:30:00Z,0.9,0.9\n");
        assert_eq!(link, "");
        let (text, _) = csv(&server, &format!("{PRICES}/ohlc?{from}&step=1d")).await;
        assert!(text.ends_with("0.5,1,0.5,0.9,0.775,9.5\n"), "{text}");
        let (logged, _) = csv(&server, PRICES).await;
        assert!(logged.contains("2026-01-01T03:15:00Z,2026-01-01T03:45:00Z,1,\n"), "{logged}");
    });
}

#[test]
fn what_cannot_be_asked_of_the_past_is_refused() {
    with_server(async |server| {
        server.get(&format!("{PRICES}/ohlc")).await.expect_problem(404, "pool_unknown");
        server.get("/v1/pools/h100/f-1/depth").await.expect_problem(404, "pool_unknown");
        server.get("/v1/pools/h100/f-1/interruptions").await.expect_problem(404, "pool_unknown");
        with_past(&server).await;
        for (query, code) in [
            ("step=7m", "query_invalid"),
            ("step=2d", "query_invalid"),
            ("step=", "query_invalid"),
            ("start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z", "query_invalid"),
            ("colour=red", "query_invalid"),
            ("page_size=0", "page_size_invalid"),
            ("page_token=x", "page_token_invalid"),
        ] {
            for path in [PRICES, "/v1/pools/h100/f-1/prices/ohlc"] {
                server.get(&format!("{path}?{query}")).await.expect_problem(400, code);
            }
        }
        // A token of other steps is another list's.
        let page = get(&server, &format!("{PRICES}?step=1h&page_size=1")).await;
        let token = page["next_page_token"].as_str().unwrap();
        server
            .get(&format!("{PRICES}?step=1m&page_token={token}"))
            .await
            .expect_problem(400, "page_token_invalid");
        // Nothing is told of what is to come.
        let none = get(&server, &format!("{PRICES}?step=1h&start=2027-01-01T00:00:00Z")).await;
        assert_eq!(none["rows"], json!([]));
    });
}

#[test]
fn demand_and_interruptions_are_told_without_names() {
    with_server(async |server| {
        with_past(&server).await;
        let depth = get(&server, "/v1/pools/h100/f-1/depth").await;
        let level = |limit: &str, wanted: u64, sold: u64, from_here: u64| {
            json!({"limit": limit, "bids": 1, "gpus_wanted": wanted, "gpus_sold": sold,
                "gpus_wanted_from_here": from_here})
        };
        assert_eq!(depth["levels"], json!([level("2", 4, 4, 4), level("0.9", 2, 0, 6)]));
        assert_eq!(
            (&depth["supply"], &depth["currency"], &depth["at"]),
            (&json!(4), &json!("USD"), &json!("2026-01-01T03:45:00Z"))
        );

        let said = get(&server, "/v1/pools/h100/f-1/interruptions").await;
        // The low bid's one unit ran from 02:10 until its limit was below the reserve price; the others saw 03:00 and 04:00.
        assert_eq!(said["causes"], json!({"reserve_raised": 1}));
        assert_eq!((&said["all"]["unit_hours"], &said["all"]["interrupted"]), (&json!(3), &json!(1)));
        let levels = said["levels"].as_array().unwrap();
        let of = |from: u64| levels.iter().find(|it| it["limit_percent_from"] == from).unwrap();
        assert_eq!(
            (levels.len(), &of(150)["interrupted"], &of(300)["interrupted"]),
            (7, &json!(1), &json!(0))
        );
        assert_eq!((&said["since"], &said["scores"]), (&json!("2026-01-01T02:10:00Z"), &json!([])));
        let chance = |level: &Value| level["within_1_hour"].as_f64().unwrap();
        assert!(chance(of(150)) > chance(&said["all"]) && chance(of(300)) < chance(&said["all"]), "{said}");
        let text = format!("{depth}{said}");
        assert!(
            !["acme", "beta", "low", "high"].iter().any(|name| text.contains(&format!("\"{name}\""))),
            "{text}"
        );
    });
}
