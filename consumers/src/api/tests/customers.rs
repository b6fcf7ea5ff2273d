//! What customers ask about their own: what became of their instances, what they spend, labels and keys.

use axum::http::StatusCode;
use hourglass_ledger::core::{Role, Scope};
use serde_json::{Value, json};

use crate::testing::{OPERATOR_TOKEN, Server, instance, key_of, record, request, with_server};

async fn put(server: &Server, path: &str, body: &Value) -> crate::testing::Reply {
    server.send(request("PUT", path, &[("content-type", "application/json")], body.to_string().into())).await
}

/// The steps of a list as `instance step cause`.
fn steps(page: &Value) -> Vec<String> {
    let step = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", text("instance"), text("step"), text("cause"))
    };
    page["rows"].as_array().unwrap().iter().map(step).collect()
}

/// A-7 as a customer sees it: whose bid was beaten reads which one beat it, before and after it stopped.
#[test]
fn a7_a_timeline_says_why_each_instance_stopped() {
    with_server(async |server| {
        server.with_customers().await;
        let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
        let terms = json!({"currency": "USD", "gpus": 2, "reserve": reserve});
        put(&server, "/v1/pools/h100/f-1", &terms).await.expect(StatusCode::OK);
        let bid = |bid: &str, limit: &str| {
            json!({"bid": bid, "project": "ml", "pools": ["eu/h100/f-1"], "gpus_per_unit": 2, "max_units": 1,
                "limit": limit})
        };
        let placed = server.post("/v1/tenants/acme/bids", bid("low", "1")).await.expect(StatusCode::CREATED);
        let number = placed.json()["number"].as_u64().unwrap();
        server.post("/v1/market:clear", json!({})).await.expect(StatusCode::CREATED);
        let unit = format!("spot-{number}-0");
        let path = format!("/v1/tenants/acme/instances/{unit}");
        let known = server.get("/v1/tenants/acme/instances").await.expect(StatusCode::OK).text();
        assert!(known.contains(&unit), "{known}");
        server
            .post(&format!("{path}:start"), json!({"at": "2026-01-01T02:01:00Z"}))
            .await
            .expect(StatusCode::OK);
        server.clock.set("2026-01-01T03:00:00Z");
        let high = server.post("/v1/tenants/beta/bids", bid("high", "2")).await.expect(StatusCode::CREATED);
        let high = high.json()["number"].as_u64().unwrap();
        server.post("/v1/market:clear", json!({})).await.expect(StatusCode::CREATED);
        let timeline = format!("{path}/timeline");
        let told = server.get(&timeline).await.expect(StatusCode::OK).json();
        let expected = ["registered spot", "started -", "told_to_stop outbid"];
        assert_eq!(steps(&told), expected.map(|step| format!("{unit} {step}")));
        let order = &told["rows"][2];
        assert_eq!(order["detail"], json!(format!("bid number {high} pays more")));
        assert!(order["deadline"].as_str().unwrap() >= "2026-01-01T03:01:00Z", "{order}");
        server.clock.set("2026-01-01T03:05:00Z");
        let stop = json!({"at": "2026-01-01T03:02:00Z", "cause": "as ordered"});
        server.post(&format!("{path}:stop"), stop).await.expect(StatusCode::OK);
        let stopped = server.get(&timeline).await.expect(StatusCode::OK).json();
        let last = &stopped["rows"][3];
        assert_eq!(
            (&last["step"], &last["cause"], &last["at"]),
            (&json!("stopped"), &json!("outbid"), &json!("2026-01-01T03:02:00Z"))
        );
        assert_eq!(last["detail"], order["detail"]);

        // What nobody told to stop says what the compute service said.
        let stop = json!({"at": "2026-01-01T03:00:00Z", "cause": "shut down by its user"});
        server.post("/v1/tenants/acme/instances/i-1:stop", stop).await.expect(StatusCode::OK);
        let all = server.get("/v1/tenants/acme/timeline").await.expect(StatusCode::OK).json();
        assert_eq!(steps(&all).last().map(String::as_str), Some("i-1 stopped requested"));
        assert_eq!(all["rows"].as_array().unwrap().last().unwrap()["detail"], "shut down by its user");
        // In pages, and of nobody else.
        let first = server.get("/v1/tenants/acme/timeline?page_size=2").await.expect(StatusCode::OK).json();
        let token = first["next_page_token"].as_str().unwrap();
        let rest = format!("/v1/tenants/acme/timeline?page_size=1000&page_token={token}");
        let rest = server.get(&rest).await.expect(StatusCode::OK).json();
        assert_eq!([steps(&first), steps(&rest)].concat(), steps(&all));
        server.get("/v1/tenants/beta/instances/i-1/timeline").await.expect_problem(404, "instance_unknown");
        server.get("/v1/tenants/nobody/timeline").await.expect_problem(404, "tenant_unknown");
        server.get("/v1/tenants/acme/timeline?since=1").await.expect_problem(400, "query_invalid");
    });
}

#[test]
fn usage_is_cut_by_time_label_and_more() {
    with_server(async |server| {
        server.with_customers().await;
        server.post("/v1/tenants/acme/instances", instance("i-2")).await.expect(StatusCode::CREATED);
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        server.post("/v1/tenants/acme/instances/i-2:start", start).await.expect(StatusCode::OK);
        let labels = json!({"labels": {"team": "research", "run": "7b"}});
        put(&server, "/v1/tenants/acme/instances/i-1/labels", &labels).await.expect(StatusCode::OK);
        let shown = server.get("/v1/tenants/acme/instances/i-1").await.expect(StatusCode::OK).json();
        assert_eq!(shown["labels"], labels["labels"]);
        for (body, status, code) in [
            (json!({"labels": {"Team": "x"}}), 422, "body_invalid"),
            (json!({"labels": {"team": "x".repeat(64)}}), 422, "body_invalid"),
            (json!({}), 422, "body_invalid"),
            (json!({"labels": {}, "more": 1}), 422, "body_invalid"),
        ] {
            put(&server, "/v1/tenants/acme/instances/i-1/labels", &body).await.expect_problem(status, code);
        }
        let foreign = put(&server, "/v1/tenants/beta/instances/i-1/labels", &labels).await;
        foreign.expect_problem(404, "instance_unknown");

        let mut second = record("2026-01-01T01:00:00Z", "2026-01-01T01:30:00Z");
        second["instance_id"] = json!("i-2");
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
            "records": [record("2026-01-01T00:30:00Z", "2026-01-01T02:00:00Z"), second]});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        let rows = async |query: &str| {
            let path = format!("/v1/tenants/acme/usage?{query}");
            let report = server.get(&path).await.expect(StatusCode::OK).json();
            let row = |row: &Value| format!("{} {}", row["group"], row["gpu_hours"].as_str().unwrap());
            report["rows"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        };
        for at in ["2026-01-01T02:01:00Z", "2026-01-01T04:00:00Z"] {
            // Before and after the hours are written down.
            server.clock.set(at);
            server.tick().await;
            assert_eq!(rows("granularity=total").await, ["{} 16"]);
            assert_eq!(rows("granularity=day").await, [r#"{"day":"2026-01-01"} 16"#]);
            let by_hour = [r#"{"hour":"2026-01-01T00:00:00Z"} 4"#, r#"{"hour":"2026-01-01T01:00:00Z"} 12"#];
            assert_eq!(rows("granularity=hour").await, by_hour);
            let by_team = [r#"{"label:team":""} 4"#, r#"{"label:team":"research"} 12"#];
            assert_eq!(rows("group_by=label:team").await, by_team);
            assert_eq!(rows("labels=team=research,run=7b").await, ["{} 12"]);
            assert_eq!(rows("labels=team=other").await, Vec::<String>::new());
            assert_eq!(rows("platform=h100&region=eu&model=on_demand").await, ["{} 16"]);
            assert_eq!(rows("model=spot").await, Vec::<String>::new());
            assert_eq!(rows("start=2026-01-01T01:00:00Z&end=2026-01-01T02:00:00Z").await, ["{} 12"]);
        }
        for (query, code) in [
            ("granularity=minute", "query_invalid"),
            ("group_by=label:Team", "group_by_invalid"),
            ("labels=team", "labels_invalid"),
            ("model=lease", "query_invalid"),
            (
                "group_by=tenant,project,instance,platform,region,model,price,hour,day,month,label:a,label:b,label:c",
                "group_by_invalid",
            ),
        ] {
            server.get(&format!("/v1/tenants/acme/usage?{query}")).await.expect_problem(400, code);
        }
    });
}

#[test]
fn a_period_says_what_it_comes_to() {
    with_server(async |server| {
        server.with_customers().await;
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
            "records": [record("2026-01-01T00:30:00Z", "2026-01-01T01:30:00Z")]});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        server.clock.set("2026-01-11T02:01:00Z");
        server.tick().await;
        let spend = server.get("/v1/tenants/acme/spend").await.expect(StatusCode::OK).json();
        assert_eq!((&spend["period"], &spend["currency"]), (&json!("2026-01"), &json!("USD")));
        assert_eq!(spend["to_date"]["total"], "23.6");
        // It was opened at 02:01 on the first: ten days of thirty and 21 h 59 min.
        let projected: f64 = spend["projected"]["usage"].as_str().unwrap().parse().unwrap();
        assert!((72.96..72.97).contains(&projected), "{spend}");
        assert_eq!(spend["basis_start"], "2026-01-01T02:01:00Z");
        let none = server.get("/v1/tenants/acme/commitments").await.expect(StatusCode::OK).json();
        assert_eq!(none["rows"], json!([]));
        let contract = json!({"name": "deal", "version": 1, "effective_from": "2026-02-01T00:00:00Z",
            "effective_until": "2027-02-01T00:00:00Z",
            "terms": {"commitment": {"amount": "1000", "overage_percent": "100"}}});
        server.post("/v1/tenants/acme/contracts", contract).await.expect(StatusCode::CREATED);
        let one = server.get("/v1/tenants/acme/commitments").await.expect(StatusCode::OK).json();
        let row = &one["rows"][0];
        assert_eq!(
            (&row["contract"], &row["amount"], &row["drawn"], &row["remaining"], &row["last_period"]),
            (&json!("deal@1"), &json!("1000"), &json!("0"), &json!("1000"), &json!("2027-01"))
        );
    });
}

/// A customer's key makes others where it says so, of its own tenant, and never more than it is itself.
#[test]
fn customers_make_and_revoke_their_own_keys() {
    with_server(async |server| {
        server.with_customers().await;
        let with = |scopes: &[Scope]| key_of(Role::Customer, "acme", scopes);
        let plain = server.key(with(&[])).await;
        let reads = server.key(with(&[Scope::Read, Scope::Keys])).await;
        let beta = server.key(key_of(Role::Customer, "beta", &[Scope::Read])).await;
        let beta = beta.split('_').nth(1).unwrap().to_owned();
        let server = server.guarded();
        let keys = "/v1/tenants/acme/keys";
        // Not by default.
        server.send_with("POST", keys, &plain, "{}").await.expect_problem(403, "forbidden");
        server.get_with(keys, &plain).await.expect_problem(403, "forbidden");
        let more = server.send_with("POST", keys, &reads, r#"{"scopes": ["write"]}"#).await;
        more.expect_problem(403, "scope_exceeded");
        server.send_with("POST", keys, &reads, "{}").await.expect_problem(403, "scope_exceeded");
        for body in [r#"{"role": "operator"}"#, r#"{"tenant": "beta"}"#, r#"{"scopes": ["admin"]}"#] {
            server.send_with("POST", keys, &reads, body).await.expect_problem(422, "body_invalid");
        }
        let metrics = server.send_with("POST", keys, &reads, r#"{"scopes": ["metrics"]}"#).await;
        metrics.expect_problem(422, "key_grant_invalid");
        let made = server.send_with("POST", keys, &reads, r#"{"name": "ci", "scopes": ["read"]}"#).await;
        let made = made.expect(StatusCode::CREATED).json();
        let (id, secret) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
        assert_eq!(made["resource"], json!(format!("{keys}/{id}")));
        server.get_with("/v1/tenants/acme/usage", secret).await.expect(StatusCode::OK);
        server.get_with(keys, secret).await.expect_problem(403, "forbidden");
        let listed = server.get_with(keys, &reads).await.expect(StatusCode::OK);
        assert_eq!(listed.json()["rows"].as_array().unwrap().len(), 3);
        assert!(!listed.text().contains(&beta) && !listed.text().contains(secret));
        let path = format!("{keys}/{beta}");
        server.get_with(&path, &reads).await.expect_problem(404, "key_unknown");
        server
            .send_with("POST", &format!("{path}:revoke"), &reads, "")
            .await
            .expect_problem(404, "key_unknown");
        let path = format!("{keys}/{id}");
        server.send_with("POST", &format!("{path}:revoke"), &reads, "").await.expect(StatusCode::OK);
        server.get_with("/v1/tenants/acme/usage", secret).await.expect_problem(401, "unauthenticated");
        let one = server.get_with(&path, OPERATOR_TOKEN).await.expect(StatusCode::OK).json();
        assert_eq!((&one["active"], &one["role"]), (&json!(false), &json!("customer")));
    });
}

#[test]
fn who_has_an_answer_already_is_told_that_it_is_still_so() {
    with_server(async |server| {
        server.with_customers().await;
        let ask = async |path: &str, tag: Option<&str>| {
            let headers: Vec<(&str, &str)> = tag.map(|tag| ("if-none-match", tag)).into_iter().collect();
            server.send(request("GET", path, &headers, axum::body::Body::empty())).await
        };
        let path = "/v1/tenants/acme/instances";
        let first = ask(path, None).await.expect(StatusCode::OK);
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        assert_eq!(first.header("cache-control"), "private, no-cache");
        // The log grows, and the list stays what it is.
        server.clock.set("2026-01-01T02:02:00Z");
        server.tick().await;
        let again = ask(path, Some(&tag)).await.expect(StatusCode::NOT_MODIFIED);
        assert!(again.body.is_empty() && again.header("etag") == tag);
        server.post(path, instance("i-2")).await.expect(StatusCode::CREATED);
        let other = ask(path, Some(&tag)).await.expect(StatusCode::OK);
        assert_ne!(other.header("etag"), tag);
        // Who asks for the head alone gets none rather than that of an empty answer.
        let head = server.send(request("HEAD", path, &[], axum::body::Body::empty())).await;
        assert!(head.expect(StatusCode::OK).headers.get("etag").is_none());
        // Another customer's list has no tag in common, and errors have none.
        assert_ne!(ask("/v1/tenants/beta/instances", Some(&tag)).await.header("etag"), tag);
        let error = ask("/v1/tenants/nobody/instances", Some("*")).await;
        assert!(error.headers.get("etag").is_none());
        error.expect_problem(404, "tenant_unknown");
    });
}
