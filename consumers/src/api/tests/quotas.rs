//! Limits, holds, leases, spend caps and requests for more.

use axum::http::StatusCode;
use hourglass_ledger::core::quotas::QuotaCommand;
use serde_json::{Value, json};

use crate::testing::{Server, instance, request, with_server};

const GPU: &str = "compute.instance.gpu.h100";

fn item(class: &str, amount: u64) -> Value {
    json!({"resource": GPU, "class": class, "amount": amount})
}

async fn limit(server: &Server, node: &str, class: &str, limits: Value) {
    let body = json!({"node": node, "resource": GPU, "class": class, "limits": limits});
    server.post("/v1/tenants/acme/quotas:set", body).await.expect(StatusCode::OK);
}

async fn hold(server: &Server, project: &str, item: Value) -> Value {
    let body = json!({"project": project, "items": [item], "ttl_seconds": 600});
    server.post("/v1/tenants/acme/holds", body).await.expect(StatusCode::CREATED).json()
}

async fn review(server: &Server) {
    let _reviewed =
        server.cell.submit(hourglass_ledger::core::Command::from(QuotaCommand::Review)).await.unwrap();
}

async fn put(server: &Server, path: &str, body: &Value) -> crate::testing::Reply {
    server.send(request("PUT", path, &[("content-type", "application/json")], body.to_string().into())).await
}

#[test]
fn limits_are_set_shown_and_say_why_not() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/acme", "on_demand", json!({"nominal": 16})).await;
        limit(&server, "tenants/acme/projects/ml", "on_demand", json!({"nominal": "unlimited"})).await;
        limit(&server, "tenants/acme/projects/none", "on_demand", json!({"nominal": 0})).await;
        let made = hold(&server, "ml", item("on_demand", 4)).await;
        assert_eq!((&made["state"], &made["hold"]), (&json!("held"), &made["position"]));

        let rows = server.get("/v1/tenants/acme/quotas").await.expect(StatusCode::OK).json();
        let facts: Vec<String> = rows["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                ["node", "nominal", "committed", "held", "fits", "state", "region"]
                    .map(|name| row[name].to_string())
                    .join(" ")
                    .replace('"', "")
            })
            .collect();
        let expected = [
            "tenants/acme 16 8 4 4 ok eu",
            "tenants/acme/projects/ml unlimited 8 4 4 ok eu",
            "tenants/acme/projects/none 0 0 0 0 ok eu",
        ];
        assert_eq!(facts, expected);
        for (filter, count) in [
            ("kind=tenant", 1),
            ("kind=group", 0),
            ("project=ml", 1),
            ("resource=compute.instance.gpu.h200", 0),
            ("kind=project&resource=compute.instance.gpu.h100", 2),
        ] {
            let rows = server.get(&format!("/v1/tenants/acme/quotas?{filter}")).await.json();
            assert_eq!(rows["rows"].as_array().unwrap().len(), count, "{filter}");
        }
        server.get("/v1/tenants/acme/quotas?kind=planet").await.expect_problem(400, "query_invalid");

        // Q-2: all that a denial says.
        let more = json!({"project": "ml", "items": [item("on_demand", 5)], "ttl_seconds": 600});
        let denied = server.post("/v1/tenants/acme/holds", more).await.expect_problem(409, "quota_exceeded");
        let members =
            ["node", "resource", "class", "region", "limit", "used", "held", "asked", "fits", "retryable"]
                .map(|name| denied[name].clone());
        let expected = [
            json!("tenants/acme"),
            json!(GPU),
            json!("on_demand"),
            json!("eu"),
            json!(16),
            json!(8),
            json!(4),
            json!(5),
            json!(4),
            json!(true),
        ];
        assert_eq!(members, expected);
        let question = json!({"tenant": "acme", "project": "ml", "items": [item("on_demand", 5)]});
        let verdict = server.post("/v1/quotas:check", question.clone()).await.expect(StatusCode::OK).json();
        assert_eq!((&verdict["outcome"], &verdict["code"]), (&json!("denied"), &json!("quota_exceeded")));
        assert_eq!((&verdict["denial"]["fits"], &verdict["denial"]["region"]), (&json!(4), &json!("eu")));
        let own = json!({"project": "ml", "items": [item("on_demand", 4)]});
        let verdict = server.post("/v1/tenants/acme/quotas:check", own).await.expect(StatusCode::OK).json();
        assert_eq!(verdict["outcome"], "held");

        // An instance takes its quota when it is registered, or takes over a hold.
        server
            .post("/v1/tenants/acme/instances", instance("i-2"))
            .await
            .expect_problem(409, "quota_exceeded");
        let mut small = instance("i-2");
        small["gpus"] = json!(4);
        small["hold"] = made["hold"].clone();
        server.post("/v1/tenants/acme/instances", small).await.expect(StatusCode::CREATED);
        let shown = server.get("/v1/tenants/acme/instances/i-2").await.json();
        assert_eq!((&shown["quota"], shown.get("preemption")), (&json!("held"), None));
        let taken = server.get(&format!("/v1/tenants/acme/holds/{}", made["hold"])).await.json();
        assert_eq!((&taken["state"], &taken["project"]), (&json!("taken"), &json!("ml")));

        for (body, status, code) in [
            (json!({"node": "tenants/acme", "resource": GPU, "class": "on_demand"}), 422, "body_invalid"),
            (
                json!({"node": "acme", "resource": GPU, "class": "on_demand", "limits": null}),
                422,
                "body_invalid",
            ),
            (
                json!({"node": "tenants/acme", "resource": GPU, "class": "gift", "limits": null}),
                422,
                "body_invalid",
            ),
            (
                json!({"node": "tenants/acme/groups/g", "resource": GPU, "class": "on_demand", "limits": null}),
                404,
                "quota_node_unknown",
            ),
            (
                json!({"node": "tenants/acme", "resource": GPU, "class": "on_demand",
                    "limits": {"nominal": 1, "borrowing": 1}}),
                422,
                "limits_invalid",
            ),
        ] {
            server.post("/v1/tenants/acme/quotas:set", body).await.expect_problem(status, code);
        }
        limit(&server, "tenants/acme", "on_demand", Value::Null).await;
        let rows = server.get("/v1/tenants/acme/quotas?kind=tenant").await.json();
        assert_eq!((rows["rows"][0].get("nominal"), &rows["rows"][0]["fits"]), (None, &json!("unlimited")));
    });
}

#[test]
fn holds_live_and_end() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/acme", "reserved", json!({"nominal": 8})).await;
        let headers = [("content-type", "application/json"), ("idempotency-key", "h-1")];
        let body = json!({"project": "ml", "items": [item("reserved", 4)], "ttl_seconds": 600}).to_string();
        let made = server.post_as("/v1/tenants/acme/holds", &headers, body.clone()).await;
        let made = made.expect(StatusCode::CREATED);
        let again = server.post_as("/v1/tenants/acme/holds", &headers, body).await.expect(StatusCode::OK);
        assert_eq!((again.header("idempotent-replayed"), again.json()), ("true", made.json()));
        let path = made.header("location").to_owned();
        let act = async |action: &str, body: Value| server.post(&format!("{path}:{action}"), body).await;

        assert_eq!(made.json()["expires_at"], "2026-01-01T02:11:00Z");
        server.clock.set("2026-01-01T02:05:00Z");
        let renewed = act("renew", json!({"ttl_seconds": 60})).await.expect(StatusCode::OK).json();
        assert_eq!(renewed["expires_at"], "2026-01-01T02:06:00Z");
        act("renew", json!({"ttl_seconds": 0})).await.expect_problem(422, "ttl_out_of_range");
        act("resize", json!({"items": [item("reserved", 9)]})).await.expect_problem(409, "quota_exceeded");
        act("resize", json!({"items": [item("reserved", 8)]})).await.expect(StatusCode::OK);
        act("dance", json!({})).await.expect_problem(404, "action_unknown");
        let committed = act("commit", json!({})).await.expect(StatusCode::OK).json();
        assert_eq!((&committed["state"], committed.get("expires_at")), (&json!("committed"), None));
        act("commit", json!({})).await.expect(StatusCode::OK);
        act("renew", json!({"ttl_seconds": 60})).await.expect_problem(409, "hold_committed");
        let listed = server.get("/v1/tenants/acme/holds").await.json();
        assert_eq!(listed["rows"][0]["items"], json!([item("reserved", 8)]));
        act("release", json!({})).await.expect(StatusCode::OK);
        act("commit", json!({})).await.expect_problem(409, "hold_released");
        assert_eq!(server.get(&path).await.expect(StatusCode::OK).json()["state"], "released");

        let brief = hold(&server, "ml", item("reserved", 8)).await;
        let path = format!("/v1/tenants/acme/holds/{}", brief["hold"]);
        server.clock.set("2026-01-01T02:20:00Z");
        server.post(&format!("{path}:commit"), json!({})).await.expect_problem(409, "hold_expired");
        review(&server).await;
        let ended = server.get(&path).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&ended["state"], &ended["ended_at"]),
            (&json!("expired"), &json!("2026-01-01T02:20:00Z"))
        );
        assert_eq!(server.get("/v1/tenants/acme/holds").await.json()["rows"], json!([]));
    });
}

#[test]
fn what_is_lent_is_taken_back_by_an_order_to_stop() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/acme/projects/lender", "on_demand", json!({"nominal": 8})).await;
        let borrower = json!({"nominal": 0, "borrowing": "unlimited"});
        limit(&server, "tenants/acme/projects/spot", "preemptible", borrower).await;
        let lent = hold(&server, "spot", item("preemptible", 8)).await;
        let mut spot = instance("i-spot");
        spot["project"] = json!("spot");
        spot["model"] = json!("spot");
        spot["hold"] = lent["hold"].clone();
        server.post("/v1/tenants/acme/instances", spot).await.expect(StatusCode::CREATED);
        let claim = hold(&server, "lender", item("on_demand", 8)).await;
        assert_eq!(claim["state"], "pending");
        let question = json!({"tenant": "acme", "project": "lender", "items": [item("on_demand", 1)]});
        let full = server.post("/v1/quotas:check", question).await.json();
        assert_eq!(full["outcome"], "denied");
        let instance = json!({"instance": "i-l", "project": "lender", "platform": "h100", "model": "on_demand",
            "gpus": 8, "hold": claim["hold"]});
        server.post("/v1/tenants/acme/instances", instance).await.expect_problem(409, "hold_pending");
        review(&server).await;
        let orders = server.get("/v1/preemptions").await.expect(StatusCode::OK).json();
        let order = &orders["rows"][0];
        assert_eq!(
            (&order["target"], &order["tenant"], &order["cause"]),
            (&json!({"instance": "i-spot"}), &json!("acme"), &json!("quota"))
        );
        assert_eq!(order["deadline"], "2026-01-01T02:03:00Z");
        let shown = server.get("/v1/tenants/acme/instances/i-spot").await.json();
        assert_eq!(shown["preemption"]["reason"], order["reason"]);
        for (action, body) in [
            ("start", json!({"at": "2026-01-01T02:00:00Z"})),
            ("stop", json!({"at": "2026-01-01T02:01:00Z"})),
        ] {
            let path = format!("/v1/tenants/acme/instances/i-spot:{action}");
            server.post(&path, body).await.expect(StatusCode::OK);
        }
        let granted = server.get(&format!("/v1/tenants/acme/holds/{}", claim["hold"])).await.json();
        assert_eq!(granted["state"], "held");
        assert_eq!(server.get("/v1/preemptions").await.json()["rows"], json!([]));
    });
}

#[test]
fn leases_are_granted_refreshed_and_returned() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/acme", "on_demand", json!({"nominal": 18})).await;
        let draft = json!({"node": "tenants/acme", "resource": GPU, "class": "on_demand", "holder": "edge-1",
            "wants": 16, "safe_capacity": 2});
        let granted = server.post("/v1/tenants/acme/leases", draft).await.expect(StatusCode::CREATED);
        let path = granted.header("location").to_owned();
        let granted = granted.json();
        let facts = ["version", "capacity", "refresh_seconds"].map(|name| granted[name].as_u64().unwrap());
        assert_eq!(facts, [1, 10, 15]);
        let refresh = json!({"wants": 4, "known_version": 1, "in_use": 3});
        let refreshed = server.post(&format!("{path}:refresh"), refresh).await.expect(StatusCode::OK).json();
        assert_eq!((&refreshed["version"], &refreshed["capacity"]), (&json!(2), &json!(4)));
        let shown = server.get(&path).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&shown["counted"], &shown["in_use"], &shown["state"]),
            (&json!(10), &json!(3), &json!("live"))
        );
        let wrong = json!({"wants": 4, "known_version": 9, "in_use": 3});
        server.post(&format!("{path}:refresh"), wrong).await.expect_problem(409, "lease_inconsistent");
        assert_eq!(server.get("/v1/tenants/acme/leases").await.json()["rows"][0]["lease"], granted["lease"]);
        let headers = [("idempotency-key", "r")];
        server.post_as(&format!("{path}:return"), &headers, "").await.expect(StatusCode::OK);
        let again = server.post_as(&format!("{path}:return"), &headers, "").await.expect(StatusCode::OK);
        assert_eq!(again.header("idempotent-replayed"), "true");
        server.post(&format!("{path}:return"), json!({})).await.expect_problem(404, "lease_unknown");
        server.get(&path).await.expect_problem(404, "lease_unknown");
    });
}

#[test]
fn spend_caps_are_in_the_customers_currency() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/spend-caps";
        let cap = json!({"period": "monthly", "amount": "500", "currency": "USD", "enforcement": "hard",
            "thresholds": ["50", "80"]});
        let with = |name: &str, value: Value| {
            let mut cap = cap.clone();
            cap[name] = value;
            cap
        };
        put(&server, path, &cap).await.expect(StatusCode::OK);
        put(&server, path, &with("project", json!("ml"))).await.expect(StatusCode::OK);
        let rows = server.get(path).await.expect(StatusCode::OK).json();
        let row = &rows["rows"][0];
        let facts = ["period", "enforcement", "currency", "limit"].map(|name| row[name].as_str().unwrap());
        assert_eq!(facts, ["monthly", "hard", "USD", "500"]);
        assert_eq!((&row["thresholds"], &row["notice_seconds"]), (&json!(["50", "80"]), &json!(120)));
        assert_eq!((&row["exhausted"], &row["crossed"]), (&json!(false), &json!([])));
        assert_eq!(rows["rows"][1]["project"], "ml");
        for (cap, status, code) in [
            (with("currency", json!("EUR")), 422, "currency_differs"),
            (with("currency", Value::Null), 422, "currency_differs"),
            (with("amount", json!("-1")), 422, "cap_invalid"),
            (with("amount", Value::Null), 422, "cap_invalid"),
            (with("period", json!("prepaid")), 422, "cap_invalid"),
            (with("period", json!("weekly")), 422, "body_invalid"),
            (with("thresholds", json!(["80", "50"])), 422, "cap_invalid"),
            (with("notice_seconds", json!(5)), 422, "cap_invalid"),
            (with("amount", json!(500)), 422, "body_invalid"),
        ] {
            put(&server, path, &cap).await.expect_problem(status, code);
        }
        put(&server, "/v1/tenants/nobody/spend-caps", &cap).await.expect_problem(404, "tenant_unknown");
        let delete = async |query: &str| {
            server.send(request("DELETE", &format!("{path}?{query}"), &[], "".into())).await
        };
        delete("period=monthly&project=ml").await.expect(StatusCode::OK);
        delete("period=monthly&project=ml").await.expect_problem(404, "cap_unknown");
        delete("").await.expect_problem(400, "query_invalid");
        assert_eq!(server.get(path).await.json()["rows"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn requests_are_answered_by_rules_or_by_a_person() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/quota-requests";
        limit(&server, "tenants/acme", "on_demand", json!({"nominal": 8})).await;
        let ask = async |wanted: Value| {
            let draft = json!({"node": "tenants/acme", "resource": GPU, "class": "on_demand", "wanted": wanted,
                "justification": "a second run"});
            server.post(path, draft).await
        };
        assert!(server.get("/v1/quotas/rules").await.json().get("rules").is_none());
        let waits = ask(json!(12)).await.expect(StatusCode::CREATED);
        assert_eq!(waits.json()["status"], "pending");
        let rules = json!({"rules": {"account_days_min": 0, "paid_invoices_min": 0, "utilisation_min": "80",
            "growth_max": "200", "headroom": [{"resource": GPU, "class": "on_demand", "total_max": 64}]}});
        put(&server, "/v1/quotas/rules", &rules).await.expect(StatusCode::OK);
        assert_eq!(server.get("/v1/quotas/rules").await.json()["rules"], rules["rules"]);
        let granted = ask(json!(16)).await.expect(StatusCode::CREATED);
        assert_eq!(granted.json()["status"], "approved");
        let shown = server.get(granted.header("location")).await.expect(StatusCode::OK).json();
        assert_eq!(
            (&shown["before"], &shown["decision"]["approver"], &shown["decision"]["granted"]),
            (&json!(8), &json!("rules"), &json!(16))
        );
        ask(json!(7)).await.expect_problem(409, "below_use");
        ask(json!(16)).await.expect_problem(422, "request_invalid");

        let decide = format!("{}:decide", waits.header("location"));
        server.post(&decide, json!({"reason": "x"})).await.expect_problem(422, "body_invalid");
        server
            .post(&decide, json!({"granted": 24, "reason": "as much as there is"}))
            .await
            .expect(StatusCode::OK);
        server
            .post(&decide, json!({"granted": null, "reason": "no"}))
            .await
            .expect_problem(409, "request_decided");
        let rows = server.get("/v1/tenants/acme/quotas?kind=tenant").await.json();
        assert_eq!(rows["rows"][0]["nominal"], 24);
        assert_eq!(server.get("/v1/quota-requests?status=pending").await.json()["rows"], json!([]));
        assert_eq!(server.get("/v1/quota-requests").await.json()["rows"].as_array().unwrap().len(), 2);
        put(&server, "/v1/quotas/rules", &json!({"rules": null})).await.expect(StatusCode::OK);
        assert!(server.get("/v1/quotas/rules").await.json().get("rules").is_none());
    });
}

#[test]
fn what_runs_is_compared_with_what_holds_quota() {
    with_server(async |server| {
        server.with_customers().await;
        server.get("/v1/quotas/drift").await.expect_problem(404, "never_reconciled");
        server.clock.set("2026-01-01T03:00:00Z");
        let listing = json!({"listed_at": "2026-01-01T02:59:00Z",
            "instances": [{"instance": "zombie", "running": true, "gpus": 8}]});
        let found = server.post("/v1/quotas:reconcile", listing).await.expect(StatusCode::OK).json();
        let expected = json!([
            {"instance": "i-1", "tenant": "acme", "kind": "missing", "counted": 8, "listed": 0},
            {"instance": "zombie", "tenant": null, "kind": "unknown", "counted": 0, "listed": 8},
        ]);
        assert_eq!(found["drift"], expected);
        assert_eq!(server.get("/v1/quotas/drift").await.expect(StatusCode::OK).json()["drift"], expected);
        let twice = json!({"listed_at": "2026-01-01T02:59:00Z", "instances": [
            {"instance": "i-1", "running": true, "gpus": 8}, {"instance": "i-1", "running": true, "gpus": 8}]});
        server.post("/v1/quotas:reconcile", twice).await.expect_problem(422, "listing_invalid");
        // A listing can be larger than other bodies.
        let many: Vec<Value> = (0..100_000)
            .map(|n| json!({"instance": format!("instance-with-a-long-name-{n}"), "running": false, "gpus": 8}))
            .collect();
        let listing = json!({"listed_at": "2026-01-01T02:59:00Z", "instances": many});
        assert!(listing.to_string().len() > crate::api::BODY_BYTES_MAX);
        server.post("/v1/quotas:reconcile", listing).await.expect(StatusCode::OK);
    });
}

#[test]
fn groups_hold_projects() {
    with_server(async |server| {
        server.with_customers().await;
        let path = "/v1/tenants/acme/groups";
        server.post(path, json!({"group": "research"})).await.expect(StatusCode::CREATED);
        server.post(path, json!({"group": "labs", "parent": "research"})).await.expect(StatusCode::CREATED);
        server.post(path, json!({"group": "labs"})).await.expect_problem(409, "group_exists");
        server
            .post(path, json!({"group": "x", "parent": "y"}))
            .await
            .expect_problem(404, "quota_node_unknown");
        let place = "/v1/tenants/acme/projects/ml:place";
        server.post(place, json!({"group": "labs"})).await.expect(StatusCode::OK);
        server.post(place, json!({})).await.expect_problem(422, "body_invalid");
        server.post(place, json!({"group": "nothing"})).await.expect_problem(404, "quota_node_unknown");
        let groups = server.get(path).await.expect(StatusCode::OK).json();
        let expected = json!([
            {"group": "labs", "node": "tenants/acme/groups/labs", "parent": "tenants/acme/groups/research",
                "projects": ["ml"]},
            {"group": "research", "node": "tenants/acme/groups/research", "parent": "tenants/acme", "projects": []},
        ]);
        assert_eq!(groups["rows"], expected);
        limit(&server, "tenants/acme/groups/labs", "on_demand", json!({"nominal": 4})).await;
        let rows = server.get("/v1/tenants/acme/quotas?kind=group").await.json();
        assert_eq!(
            (&rows["rows"][0]["state"], &rows["rows"][0]["committed"]),
            (&json!("over_limit"), &json!(8))
        );
        // It does not fit where there is no room for what runs.
        server.post(place, json!({"group": null})).await.expect(StatusCode::OK);
        server.post(place, json!({"group": "labs"})).await.expect_problem(409, "quota_exceeded");
    });
}
