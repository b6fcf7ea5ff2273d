//! No tenant sees another tenant's rows, whatever it sends.

use axum::http::StatusCode;
use hourglass_ledger::core::{Role, Scope};
use serde_json::json;

use crate::api::access::ROUTES;
use crate::testing::{Server, instance, key_of, record, with_server};

/// What must never be in an answer to acme: ids that are beta's alone.
const OF_BETA: [&str; 9] = [
    "beta",
    "b-secret",
    "hidden-project",
    "b-reserved",
    "b-credit",
    "b-group",
    "b-bid",
    "b-budget",
    "b-hook",
];
/// What a customer can change itself, at its own tenant's paths.
const OWN_CHANGES: [&str; 18] = [
    "/v1/tenants/{tenant}/instances/{instance}/labels",
    "/v1/tenants/{tenant}/keys",
    "/v1/tenants/{tenant}/keys/{key}:revoke",
    "/v1/tenants/{tenant}/budgets/{budget}",
    "/v1/tenants/{tenant}/webhooks",
    "/v1/tenants/{tenant}/webhooks/{webhook}",
    "/v1/tenants/{tenant}/webhooks/{webhook}:rotate-secret",
    "/v1/tenants/{tenant}/webhooks/{webhook}:test",
    "/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}:redeliver",
    "/v1/tenants/{tenant}/quota-requests",
    "/v1/tenants/{tenant}/spend-caps",
    "/v1/tenants/{tenant}/bids",
    "/v1/tenants/{tenant}/bids/{bid}:update",
    "/v1/tenants/{tenant}/bids/{bid}:cancel",
    "/v1/tenants/{tenant}/reservations/{reservation}:assign",
    "/v1/tenants/{tenant}/reservations/{reservation}:claim",
    "/v1/tenants/{tenant}/reservations/{reservation}:lend",
    "/v1/tenants/{tenant}/reservations/{reservation}:withdraw",
];

/// Both tenants have a limit, a group, a hold, a lease, a spend cap and a request. Answers with the numbers of
/// the hold, the lease and the request of each.
async fn quota_of_both(server: &Server) -> [[u64; 3]; 2] {
    let mut numbers = [[0; 3]; 2];
    for ((tenant, initial), numbers) in [("acme", "a"), ("beta", "b")].into_iter().zip(&mut numbers) {
        let path = |rest: &str| format!("/v1/tenants/{tenant}/{rest}");
        let node = format!("tenants/{tenant}");
        let gpus = json!({"node": node, "resource": "compute.instance.gpu.h100", "class": "on_demand"});
        let with = |more: serde_json::Value| {
            let mut body = gpus.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let set = with(json!({"limits": {"nominal": 100}}));
        server.post(&path("quotas:set"), set).await.expect(StatusCode::OK);
        let group = json!({"group": format!("{initial}-group")});
        server.post(&path("groups"), group.clone()).await.expect(StatusCode::CREATED);
        server.post(&path("projects/ml:place"), group).await.expect(StatusCode::OK);
        let cap = json!({"period": "monthly", "amount": "1000", "currency": "USD", "enforcement": "soft"});
        let headers = [("content-type", "application/json")];
        let put = crate::testing::request("PUT", &path("spend-caps"), &headers, cap.to_string().into());
        server.send(put).await.expect(StatusCode::OK);
        let budget = json!({"amount": "1", "currency": "USD", "thresholds": ["50"]}).to_string();
        let put = crate::testing::request(
            "PUT",
            &path(&format!("budgets/{initial}-budget")),
            &headers,
            budget.into(),
        );
        server.send(put).await.expect(StatusCode::OK);
        let hook = json!({"webhook": format!("{initial}-hook"), "events": ["*"],
            "url": format!("https://{initial}-hook.example/")});
        server.post(&path("webhooks"), hook).await.expect(StatusCode::CREATED);
        let item = json!({"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 2});
        let hold = json!({"project": "ml", "items": [item], "ttl_seconds": 86_400});
        let made = server.post(&path("holds"), hold).await.expect(StatusCode::CREATED).json();
        let lease = with(json!({"holder": format!("{initial}-secret"), "wants": 3}));
        let leased = server.post(&path("leases"), lease).await.expect(StatusCode::CREATED).json();
        let more = with(json!({"wanted": 200, "justification": format!("{initial}-secret")}));
        let asked = server.post(&path("quota-requests"), more).await.expect(StatusCode::CREATED).json();
        let number = |answer: &serde_json::Value, name: &str| answer[name].as_u64().unwrap();
        *numbers = [number(&made, "hold"), number(&leased, "lease"), number(&asked, "request")];
    }
    numbers
}

/// Both tenants have usage, transfers, charges, credit, a reservation and an invoice; answers with acme's key.
async fn two_tenants(server: &Server) -> String {
    server.with_customers().await;
    let mut hidden = instance("b-secret");
    hidden["project"] = json!("hidden-project");
    server.post("/v1/tenants/beta/instances", hidden).await.expect(StatusCode::CREATED);
    let start = json!({"at": "2026-01-01T00:30:00Z"});
    server.post("/v1/tenants/beta/instances/b-secret:start", start).await.expect(StatusCode::OK);
    for (seq, minute) in [(0, "40"), (2, "50")] {
        let end = format!("2026-01-01T00:{minute}:00Z");
        let mut of_beta = record("2026-01-01T00:30:00Z", &end);
        of_beta["instance_id"] = json!("b-secret");
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": seq,
            "records": [record("2026-01-01T00:30:00Z", &end), of_beta]});
        server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        server.tick().await;
    }
    for (tenant, initial) in [("acme", "a"), ("beta", "b")] {
        let credit = json!({"credit": format!("{initial}-credit"), "kind": "promotional", "amount": "1"});
        let path = format!("/v1/tenants/{tenant}/credits");
        server.post(&path, credit).await.expect(StatusCode::CREATED);
        let reservation = json!({"reservation": format!("{initial}-reserved"), "project": "ml", "platform": "h100",
            "gpus": 4, "from": "2026-01-02T00:00:00Z", "until": "2026-01-03T00:00:00Z",
            "payment": {"monthly": {"price": "2"}}});
        let path = format!("/v1/tenants/{tenant}/reservations");
        server.post(&path, reservation).await.expect(StatusCode::CREATED);
    }
    server.clock.set("2026-02-05T00:00:00Z");
    server.tick().await;
    for tenant in ["acme", "beta"] {
        let path = format!("/v1/tenants/{tenant}/invoices");
        server.post(&path, json!({"period": "2026-01"})).await.expect(StatusCode::CREATED);
    }
    let scopes = [Scope::Read, Scope::Write, Scope::Keys];
    server.key(key_of(Role::Customer, "beta", &scopes)).await;
    server.key(key_of(Role::Customer, "acme", &scopes)).await
}

/// The public part of a key.
fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

/// Both tenants have a bid in one pool, and it was cleared. Answers with the position of the clearing.
async fn bids_of_both(server: &Server) -> u64 {
    let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
    let terms = json!({"currency": "USD", "gpus": 4, "reserve": reserve}).to_string();
    let headers = [("content-type", "application/json")];
    let put = crate::testing::request("PUT", "/v1/pools/h100/f-1", &headers, terms.into());
    server.send(put).await.expect(StatusCode::OK);
    for (tenant, bid, limit) in [("acme", "a-bid", "1"), ("beta", "b-bid", "2")] {
        let project = if tenant == "beta" { "hidden-project" } else { "ml" };
        let bid = json!({"bid": bid, "project": project, "pools": ["eu/h100/f-1"], "gpus_per_unit": 1,
            "max_units": 3, "limit": limit});
        server.post(&format!("/v1/tenants/{tenant}/bids"), bid).await.expect(StatusCode::CREATED);
    }
    let cleared = server.post("/v1/market:clear", json!({})).await.expect(StatusCode::CREATED).json();
    cleared["position"].as_u64().unwrap()
}

#[test]
fn a_customer_sees_its_own_and_nothing_else() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        let [[hold, lease, request], _] = quota_of_both(&server).await;
        let clear = bids_of_both(&server).await;
        let server = server.guarded();
        let numbered = [
            format!("/v1/tenants/acme/holds/{hold}"),
            format!("/v1/tenants/acme/leases/{lease}"),
            format!("/v1/tenants/acme/quota-requests/{request}"),
            format!("/v1/tenants/acme/keys/{}", id_of(&key)),
        ];
        let own = [
            "/v1/tenants/acme",
            "/v1/tenants/acme/balance",
            "/v1/tenants/acme/bids",
            "/v1/tenants/acme/bids/a-bid",
            "/v1/tenants/acme/bids/a-bid/why",
            "/v1/tenants/acme/budgets",
            "/v1/tenants/acme/budgets/a-budget",
            "/v1/tenants/acme/webhooks",
            "/v1/tenants/acme/webhooks/a-hook",
            "/v1/tenants/acme/webhooks/a-hook/deliveries",
            "/v1/tenants/acme/charges",
            "/v1/tenants/acme/commitments",
            "/v1/tenants/acme/instances/i-1/timeline",
            "/v1/tenants/acme/keys",
            "/v1/tenants/acme/spend",
            "/v1/tenants/acme/timeline",
            "/v1/tenants/acme/usage?granularity=day&group_by=label:team,instance",
            "/v1/tenants/acme/contracts",
            "/v1/tenants/acme/credits",
            "/v1/tenants/acme/instances",
            "/v1/tenants/acme/instances/i-1",
            "/v1/tenants/acme/instances/i-1/charges/2026-01-01T00:00:00Z",
            "/v1/tenants/acme/invoices",
            "/v1/tenants/acme/invoices/1",
            "/v1/tenants/acme/invoices/1?format=csv",
            "/v1/tenants/acme/invoices/1?format=html",
            "/v1/tenants/acme/invoices/1/status",
            "/v1/tenants/acme/invoices/draft?period=2026-02",
            "/v1/tenants/acme/invoices/draft?period=2026-02&format=csv",
            "/v1/tenants/acme/invoices/draft?period=2026-02&format=html",
            "/v1/tenants/acme/invoices/1/lines/1",
            "/v1/tenants/acme/metering",
            "/v1/tenants/acme/reservations",
            "/v1/tenants/acme/reservations/a-reserved",
            "/v1/tenants/acme/transfers",
            "/v1/tenants/acme/unused",
            "/v1/tenants/acme/usage",
            "/v1/tenants/acme/quotas",
            "/v1/tenants/acme/groups",
            "/v1/tenants/acme/spend-caps",
            "/v1/tenants/acme/holds",
            "/v1/tenants/acme/leases",
            "/v1/tenants/acme/quota-requests",
            "/v1/tenants/acme/quota-requests?status=pending",
        ];
        let own: Vec<&str> = own.into_iter().chain(numbered.iter().map(String::as_str)).collect();
        // Whoever adds a route that a customer can read adds it here.
        for (method, route, _) in ROUTES.iter().filter(|it| it.1.starts_with("/v1/tenants/{tenant}")) {
            let route =
                route.replace("{tenant}", "acme").replace("{instance}", "i-1").replace("{number}", "1");
            let route = route.replace("{bid}", "a-bid").replace("{key}", id_of(&key));
            let route = route.replace("{bid}", "a-bid").replace("{budget}", "a-budget");
            let route = route.replace("{webhook}", "a-hook");
            let route = route.replace("{reservation}", "a-reserved").replace("{line}", "1");
            let route = route.replace("{hour}", "2026-01-01T00:00:00Z").replace("{hold}", &hold.to_string());
            let route =
                route.replace("{lease}", &lease.to_string()).replace("{request}", &request.to_string());
            let listed = own.iter().any(|path| path.split('?').next() == Some(route.as_str()));
            assert!(*method != "GET" || listed, "{route} is not looked at");
        }
        for path in own {
            let answer = server.get_with(path, &key).await.expect(StatusCode::OK).text();
            OF_BETA.iter().for_each(|it| assert!(!answer.contains(it), "{path} holds {it}: {answer}"));
            // The same of another tenant is what it is of none, to the letter.
            let foreign = server.get_with(&path.replace("acme", "beta"), &key).await;
            let foreign = foreign.expect_problem(404, "tenant_unknown");
            let none = server.get_with(&path.replace("acme", "nobd"), &key).await;
            let none = none.expect_problem(404, "tenant_unknown");
            assert_eq!(
                foreign["detail"].as_str().unwrap().replace("beta", "nobd"),
                none["detail"].as_str().unwrap()
            );
        }
        for path in [
            "/v1/tenants",
            "/v1/usage",
            "/v1/usage?group_by=tenant",
            "/v1/ledger/balances",
            "/v1/ledger/charges",
            "/v1/ledger/transfers",
            "/v1/ledger/transfers?account=assets:unbilled:acme",
            "/v1/ledger/digest",
            "/v1/quarantine",
            "/v1/keys",
            "/v1/preemptions",
            "/v1/webhooks",
            "/v1/webhooks/x",
            "/v1/webhooks/x/deliveries",
            "/v1/quota-requests",
            "/v1/quotas/drift",
            "/v1/quotas/rules",
            "/metrics",
        ] {
            server.get_with(path, &key).await.expect_problem(403, "forbidden");
        }
        // The market is everybody's, and names nobody.
        for path in
            ["/v1/market", "/v1/pools", "/v1/pools/h100/f-1", "/v1/pools/h100/f-1/prices", "/v1/clears"]
        {
            let answer = server.get_with(path, &key).await.expect(StatusCode::OK).text();
            OF_BETA.iter().for_each(|it| assert!(!answer.contains(it), "{path} holds {it}: {answer}"));
        }
        let receipt =
            server.get_with(&format!("/v1/clears/{clear}"), &key).await.expect(StatusCode::OK).text();
        OF_BETA.iter().chain(&["acme", "a-bid"]).for_each(|it| assert!(!receipt.contains(it), "{receipt}"));
        // Under its own path another's bid is as unknown as none.
        for change in ["", "/why"] {
            let path = format!("/v1/tenants/acme/bids/b-bid{change}");
            server.get_with(&path, &key).await.expect_problem(404, "bid_unknown");
        }
        for action in ["update", "cancel"] {
            let path = format!("/v1/tenants/acme/bids/b-bid:{action}");
            let answer = server.send_with("POST", &path, &key, r#"{"limit": "9"}"#).await;
            answer.expect_problem(404, "bid_unknown");
        }
        // Nor its budgets and webhooks, under either path: to read, change, test or take away.
        for (method, path, code) in [
            ("GET", "budgets/b-budget", "budget_unknown"),
            ("DELETE", "budgets/b-budget", "budget_unknown"),
            ("GET", "webhooks/b-hook", "webhook_unknown"),
            ("GET", "webhooks/b-hook/deliveries", "webhook_unknown"),
            ("DELETE", "webhooks/b-hook", "webhook_unknown"),
            ("POST", "webhooks/b-hook:test", "webhook_unknown"),
            ("POST", "webhooks/b-hook:rotate-secret", "webhook_unknown"),
            ("POST", "webhooks/b-hook/deliveries/msg_eu_1_0:redeliver", "webhook_unknown"),
        ] {
            let own = server.send_with(method, &format!("/v1/tenants/acme/{path}"), &key, "").await;
            own.expect_problem(404, code);
            let foreign = server.send_with(method, &format!("/v1/tenants/beta/{path}"), &key, "").await;
            foreign.expect_problem(404, "tenant_unknown");
        }
        // What pools have promised, in sum, is not for customers.
        for path in ["supply", "nodes", "account?start=2026-01-01T00:00:00Z&end=2026-02-01T00:00:00Z"] {
            let path = format!("/v1/pools/h100/f-1/{path}");
            server.get_with(&path, &key).await.expect_problem(403, "forbidden");
        }
        // Nor can it lend what is another's, under either path.
        for (action, body) in [
            ("lend", json!({})),
            ("withdraw", json!({})),
            ("claim", json!({"gpus": 1, "from": "2026-02-06T00:00:00Z", "until": "2026-02-07T00:00:00Z"})),
            ("assign", json!({"allowances": []})),
        ] {
            let path = format!("/v1/tenants/acme/reservations/b-reserved:{action}");
            let answer = server.send_with("POST", &path, &key, body.to_string()).await;
            answer.expect_problem(404, "reservation_unknown");
            let path = format!("/v1/tenants/beta/reservations/b-reserved:{action}");
            let answer = server.send_with("POST", &path, &key, body.to_string()).await;
            answer.expect_problem(404, "tenant_unknown");
        }
        let cards = server.get_with("/v1/rate-cards", &key).await.expect(StatusCode::OK).text();
        assert!(cards.contains("2.95"));
    });
}

#[test]
fn filters_and_page_tokens_open_nothing() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        quota_of_both(&server).await;
        // Tokens of beta's lists and of the lists over all, as the operator gets them.
        let mut tokens = Vec::new();
        for path in [
            "/v1/tenants/beta/transfers",
            "/v1/tenants/beta/instances",
            "/v1/tenants/beta/credits",
            "/v1/tenants/beta/reservations",
            "/v1/tenants/beta/unused",
            "/v1/ledger/transfers",
            "/v1/tenants/beta/quotas",
            "/v1/tenants/beta/holds",
            "/v1/tenants/beta/leases",
            "/v1/quota-requests",
        ] {
            let page = server.get(&format!("{path}?page_size=1")).await.expect(StatusCode::OK).json();
            tokens.push(page["next_page_token"].as_str().unwrap().to_owned());
        }
        let server = server.guarded();
        for token in tokens {
            for list in [
                "transfers",
                "charges",
                "instances",
                "invoices",
                "bids",
                "contracts",
                "credits",
                "reservations",
                "unused",
                "quotas",
                "groups",
                "holds",
                "leases",
                "spend-caps",
                "quota-requests",
            ] {
                let path = format!("/v1/tenants/acme/{list}?page_token={token}");
                server.get_with(&path, &key).await.expect_problem(400, "page_token_invalid");
            }
        }
        // Filters that name what is beta's find nothing.
        for path in [
            "/v1/tenants/acme/usage?instance=b-secret",
            "/v1/tenants/acme/usage?project=hidden-project&group_by=tenant,instance",
            "/v1/tenants/acme/charges?instance=b-secret",
            "/v1/tenants/acme/charges?project=hidden-project",
            "/v1/tenants/acme/transfers?account=assets:unbilled:beta",
        ] {
            let answer = server.get_with(path, &key).await.expect(StatusCode::OK).json();
            assert_eq!(answer["rows"], json!([]), "{path}: {answer}");
        }
        let every = "tenant,project,instance,platform,region,model,price,hour,day,month";
        let path = format!("/v1/tenants/acme/usage?group_by={every}");
        let usage = server.get_with(&path, &key).await.expect(StatusCode::OK);
        assert!(!usage.json()["rows"].as_array().unwrap().is_empty());
        OF_BETA.iter().for_each(|it| assert!(!usage.text().contains(it), "{}", usage.text()));
        // A tenant cannot be asked for beside the path.
        for path in ["/v1/tenants/acme/usage?tenant=beta", "/v1/tenants/acme/transfers?tenant=beta"] {
            server.get_with(path, &key).await.expect_problem(400, "query_invalid");
        }
    });
}

#[test]
fn no_spelling_of_a_path_leads_to_another_tenant() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        let server = server.guarded();
        for path in [
            "/v1/tenants/%62eta/balance",
            "/v1/tenants/bet%61",
            "/v1/tenants/acme%2F..%2Fbeta/balance",
            "/v1/tenants/acme/../beta/balance",
            "/v1/tenants/./beta/balance",
            "/v1//tenants/beta/balance",
            "/v1/tenants//beta/balance",
            "/v1/tenants/beta%00/balance",
            "/v1/tenants/acme%00beta/balance",
            "/v1/tenants/BETA/balance",
            "/v1/tenants/beta;acme/balance",
            "/v1/tenants/beta/balance?tenant=acme",
            "/v1/tenants/acme/instances/b-secret",
            "/v1/tenants/acme/reservations/b-reserved",
            "/v1/tenants/acme/reservations/..%2F..%2Fbeta%2Freservations%2Fb-reserved",
            "/v1/tenants/acme/invoices/..%2F..%2Fbeta%2Finvoices%2F1",
            "/v1/tenants/acme/instances/b-secret/charges/2026-01-01T00:00:00Z",
            "/v1/tenants/beta/instances/b-secret/charges/2026-01-01T00:00:00Z",
            "/v1/tenants/beta/invoices/1/lines/1",
            "/v1/tenants/acme/instances/..%2F..%2Fbeta%2Finstances%2Fb-secret",
            "/v1/tenants/beta:acme",
            "/V1/tenants/beta/balance",
        ] {
            let answer = server.get_with(path, &key).await;
            let refused = matches!(answer.status.as_u16(), 400 | 403 | 404);
            assert!(refused, "{path}: {} {}", answer.status, answer.text());
            assert!(!answer.text().contains("b-secret\",\"tenant"), "{path}: {}", answer.text());
        }
        // Its own tenant in another spelling is refused too: what is compared is what came.
        server.get_with("/v1/tenants/acm%65/balance", &key).await.expect_problem(404, "tenant_unknown");
        // Nor does it change anything, anywhere: neither its own things nor another's.
        // An estimate changes nothing: it is a question with a body, and asked in tests of its own.
        // Nor does the question what would fit. What a customer can change is asked in a test of its own.
        let changing = |it: &&(&str, &str, _)| {
            let question = it.1.ends_with("/estimates") || it.1.ends_with("{tenant}/quotas:check");
            it.0 != "GET" && !question && !OWN_CHANGES.contains(&it.1)
        };
        for (method, route, _) in ROUTES.iter().filter(changing) {
            for (tenant, instance, reservation) in [
                ("acme", "i-1", "a-reserved"),
                ("beta", "b-secret", "b-reserved"),
                ("acme", "b-secret", "b-reserved"),
            ] {
                let path = route.replace("{tenant}", tenant).replace("{instance}", instance);
                let path = path.replace("{reservation}", reservation).replace("{number}", "1");
                let path = path.replace("{key}", "aaaaaaaaaaaa").replace("{position}", "1");
                let path = path.replace("{hold}", "1").replace("{lease}", "1").replace("{request}", "1");
                let path = path.replace("{project}", "ml").replace("{webhook}", "x");
                let path = path.replace("{delivery}", "msg_eu_1_0");
                let body = json!({"at": "2026-02-05T00:00:00Z"}).to_string();
                server.send_with(method, &path, &key, body).await.expect_problem(403, "forbidden");
            }
        }
    });
}

#[test]
fn quota_of_another_tenant_is_as_unknown_as_none() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        let [_, [hold, lease, request]] = quota_of_both(&server).await;
        // Whoever reaches all tenants still finds nothing of one below the path of another.
        let detail = |problem: serde_json::Value| problem["detail"].as_str().unwrap().to_owned();
        let json_headers = [("content-type", "application/json")];
        for (kind, number, actions) in [
            ("holds", hold, [":commit", ":release", ":renew", ":resize"].as_slice()),
            ("leases", lease, &[":refresh", ":return"]),
            ("quota-requests", request, &[":decide"]),
        ] {
            let code = match kind {
                "holds" => "hold_unknown",
                "leases" => "lease_unknown",
                _ => "request_unknown",
            };
            for action in [""].iter().chain(actions) {
                let body = match *action {
                    ":renew" => json!({"ttl_seconds": 60}),
                    ":resize" => json!({"items": []}),
                    ":refresh" => json!({"wants": 1, "known_version": 1, "in_use": 0}),
                    _ => json!({"granted": 7, "reason": "no"}),
                };
                let mut found = Vec::new();
                for number in [number, 999_999] {
                    let path = format!("/v1/tenants/acme/{kind}/{number}{action}");
                    let answer = if action.is_empty() {
                        server.get(&path).await
                    } else {
                        server.post_as(&path, &json_headers, body.to_string()).await
                    };
                    let said = detail(answer.expect_problem(404, code));
                    found.push(said.replace(&number.to_string(), "N"));
                }
                assert_eq!(found[0], found[1], "{kind} {action}");
            }
        }
        // What has ended is not told either.
        let ended = format!("/v1/tenants/beta/holds/{hold}:release");
        server.post(&ended, json!({})).await.expect(StatusCode::OK);
        for action in [":commit", ":release"] {
            let path = format!("/v1/tenants/acme/holds/{hold}{action}");
            server.post(&path, json!({})).await.expect_problem(404, "hold_unknown");
        }
        server.get(&format!("/v1/tenants/acme/holds/{hold}")).await.expect_problem(404, "hold_unknown");

        let server = server.guarded();
        let ask = |node: &str| {
            json!({"node": node, "resource": "compute.instance.gpu.h100", "class": "on_demand", "wanted": 300,
                "justification": "more"})
        };
        let post = async |path: &str, body: serde_json::Value| {
            server.send_with("POST", path, &key, body.to_string()).await
        };
        // A customer asks for itself, and is who asks.
        let path = "/v1/tenants/acme/quota-requests";
        let asked = post(path, ask("tenants/acme")).await.expect(StatusCode::CREATED).json();
        let shown = format!("{path}/{}", asked["request"]);
        let shown = server.get_with(&shown, &key).await.expect(StatusCode::OK).json();
        assert!(shown["requested_by"].as_str().unwrap().starts_with("key/"), "{shown}");
        let mut claimed = ask("tenants/acme");
        claimed["requested_by"] = json!("the boss");
        post(path, claimed).await.expect_problem(422, "body_invalid");
        for node in ["tenants/beta", "tenants/beta/groups/b-group", "tenants/nobody"] {
            post(path, ask(node)).await.expect_problem(404, "quota_node_unknown");
        }
        for tenant in ["beta", "nobody"] {
            let path = format!("/v1/tenants/{tenant}/quota-requests");
            post(&path, ask("tenants/acme")).await.expect_problem(404, "tenant_unknown");
            let path = format!("/v1/tenants/{tenant}/quotas:check");
            post(&path, json!({"project": "ml", "items": []})).await.expect_problem(404, "tenant_unknown");
            let path = format!("/v1/tenants/{tenant}/spend-caps?period=monthly");
            server.send_with("DELETE", &path, &key, "").await.expect_problem(404, "tenant_unknown");
            server.send_with("PUT", &path, &key, "{}").await.expect_problem(404, "tenant_unknown");
        }
        server
            .send_with("DELETE", "/v1/tenants/acme/spend-caps?period=monthly", &key, "")
            .await
            .expect(StatusCode::OK);
        post(&format!("{path}/{request}:decide"), json!({"granted": 1, "reason": "mine"}))
            .await
            .expect_problem(403, "forbidden");
    });
}

/// Two principals that choose one key mean two requests.
#[test]
fn idempotency_keys_are_each_principals_own() {
    with_server(async |server| {
        let operator = server.key(key_of(Role::Operator, "", &[])).await;
        let server = server.guarded();
        let post = async |credential: &str| {
            let bearer = format!("Bearer {credential}");
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
                ("idempotency-key", "k"),
            ];
            server
                .post_as("/v1/tenants", &headers, json!({"tenant": "acme", "currency": "USD"}).to_string())
                .await
        };
        post(crate::testing::OPERATOR_TOKEN).await.expect(StatusCode::CREATED);
        post(crate::testing::OPERATOR_TOKEN).await.expect(StatusCode::OK);
        post(&operator).await.expect_problem(409, "tenant_exists");
    });
}
