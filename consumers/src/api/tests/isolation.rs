//! No tenant sees another tenant's rows, whatever it sends.

use axum::http::StatusCode;
use hourglass_ledger::core::Role;
use serde_json::json;

use crate::api::access::ROUTES;
use crate::testing::{Server, instance, key_of, record, with_server};

/// What must never be in an answer to acme: ids that are beta's alone.
const OF_BETA: [&str; 5] = ["beta", "b-secret", "hidden-project", "b-reserved", "b-credit"];

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
    server.key(key_of(Role::Customer, "acme", &[])).await
}

#[test]
fn a_customer_sees_its_own_and_nothing_else() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        let server = server.guarded();
        let own = [
            "/v1/tenants/acme",
            "/v1/tenants/acme/balance",
            "/v1/tenants/acme/charges",
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
        ];
        // Whoever adds a route that a customer can read adds it here.
        for (method, route, _) in ROUTES.iter().filter(|it| it.1.starts_with("/v1/tenants/{tenant}")) {
            let route =
                route.replace("{tenant}", "acme").replace("{instance}", "i-1").replace("{number}", "1");
            let route = route.replace("{reservation}", "a-reserved").replace("{line}", "1");
            let route = route.replace("{hour}", "2026-01-01T00:00:00Z");
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
            "/metrics",
        ] {
            server.get_with(path, &key).await.expect_problem(403, "forbidden");
        }
        let cards = server.get_with("/v1/rate-cards", &key).await.expect(StatusCode::OK).text();
        assert!(cards.contains("2.95"));
    });
}

#[test]
fn filters_and_page_tokens_open_nothing() {
    with_server(async |server| {
        let key = two_tenants(&server).await;
        // Tokens of beta's lists and of the lists over all, as the operator gets them.
        let mut tokens = Vec::new();
        for path in [
            "/v1/tenants/beta/transfers",
            "/v1/tenants/beta/instances",
            "/v1/tenants/beta/credits",
            "/v1/tenants/beta/reservations",
            "/v1/tenants/beta/unused",
            "/v1/ledger/transfers",
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
                "contracts",
                "credits",
                "reservations",
                "unused",
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
        let changing = |it: &&(&str, &str, _)| it.0 == "POST" && !it.1.ends_with("/estimates");
        for (_, route, _) in ROUTES.iter().filter(changing) {
            for (tenant, instance, reservation) in [
                ("acme", "i-1", "a-reserved"),
                ("beta", "b-secret", "b-reserved"),
                ("acme", "b-secret", "b-reserved"),
            ] {
                let path = route.replace("{tenant}", tenant).replace("{instance}", instance);
                let path = path.replace("{reservation}", reservation).replace("{number}", "1");
                let path = path.replace("{key}", "aaaaaaaaaaaa").replace("{position}", "1");
                let body = json!({"at": "2026-02-05T00:00:00Z"}).to_string();
                server.send_with("POST", &path, &key, body).await.expect_problem(403, "forbidden");
            }
        }
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
