//! Roles against routes: the whole matrix, as a text that shows every change.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use hourglass_ledger::core::{Role, Scope};
use serde_json::json;

use crate::api::access::ROUTES;
use crate::api::app::App;
use crate::api::{ApiConfig, RATE_BURST, layered};
use crate::testing::{OPERATOR_TOKEN, Server, key_of, request, with_server};

/// What each role is answered on each route.
const MATRIX: &str = include_str!("access.txt");

/// Every operation of the document, as method and path.
async fn operations(server: &Server) -> Vec<(String, String)> {
    let document = server.get("/openapi.json").await.expect(StatusCode::OK).json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            operations.push((method.to_uppercase(), path.clone()));
        }
    }
    operations.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    operations
}

#[test]
fn every_role_is_answered_as_the_matrix_says() {
    with_server(async |server| {
        server.with_customers().await;
        let server = server.guarded();
        let operator = |scopes: &'static [Scope]| key_of(Role::Operator, "", scopes);
        let customer = server.key(key_of(Role::Customer, "acme", &[])).await;
        let columns = [
            ("none", String::new(), "acme"),
            ("token", OPERATOR_TOKEN.to_owned(), "acme"),
            ("operator", server.key(operator(&[])).await, "acme"),
            ("op:read", server.key(operator(&[Scope::Read])).await, "acme"),
            ("op:metrics", server.key(operator(&[Scope::Metrics])).await, "acme"),
            ("finance", server.key(key_of(Role::Finance, "", &[])).await, "acme"),
            ("planner", server.key(key_of(Role::Planner, "", &[])).await, "acme"),
            ("trader", server.key(key_of(Role::Trader, "", &[])).await, "acme"),
            ("compute", server.key(key_of(Role::Compute, "", &[])).await, "acme"),
            ("agent", server.key(key_of(Role::Agent, "node-1", &[])).await, "acme"),
            ("customer", customer.clone(), "acme"),
            ("of beta", customer.clone(), "beta"),
            ("of none", customer, "nobody"),
        ];
        let mut found = format!("{:<7}{:<61}", "", "");
        columns.iter().for_each(|(name, ..)| found.push_str(&format!("{name:>11}")));
        for (number, (method, path)) in operations(&server).await.into_iter().enumerate() {
            // Nobody asks too often.
            server.clock.set(&format!("2026-01-01T{:02}:{:02}:30Z", 2 + number / 60, number % 60));
            found.push_str(&format!("\n{method:<7}{path:<61}"));
            for (_, credential, tenant) in &columns {
                let path = path.replace("{tenant}", tenant).replace("{instance}", "i-1");
                let path = path.replace("{reservation}", "r-1").replace("{period}", "2025-01");
                let path = path.replace("{hold}", "1").replace("{lease}", "1").replace("{request}", "1");
                let path = path.replace("{project}", "ml").replace("{bid}", "b-1").replace("{clear}", "1");
                let path =
                    path.replace("{platform}", "h100").replace("{fabric}", "f-1").replace("{node}", "n-1");
                let path = path.replace("{hour}", "2026-01-01T00:00:00Z").replace("{line}", "1");
                let path = path.replace("{webhook}", "w-1").replace("{delivery}", "msg_eu_1_0");
                let path = path.replace("{budget}", "b-1");
                let path =
                    path.replace("{number}", "1").replace("{position}", "1").replace("{key}", "aaaaaaaaaaaa");
                let answer = match credential.as_str() {
                    "" => server.send(request(&method, &path, &[], Body::empty())).await,
                    credential => {
                        let bearer = format!("Bearer {credential}");
                        server
                            .send(request(&method, &path, &[("authorization", &bearer)], Body::empty()))
                            .await
                    }
                };
                found.push_str(&format!("{:>11}", answer.status.as_u16()));
            }
        }
        let table = MATRIX.split_once("\n\n").unwrap().1;
        assert!(found.trim_end() == table.trim_end(), "api/tests/access.txt should have:\n{found}\n");
    });
}

#[test]
fn every_route_is_in_the_table_and_what_is_not_is_open_to_nobody() {
    with_server(async |server| {
        let mut described = operations(&server).await;
        described.retain(|(_, path)| !matches!(path.as_str(), "/healthz" | "/readyz"));
        let mut listed: Vec<_> = ROUTES.iter().map(|it| (it.0.to_owned(), it.1.to_owned())).collect();
        listed.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        assert_eq!(described, listed);

        let app = App::new(server.cell.clone(), ApiConfig::default());
        let forgotten = Router::new()
            .route("/v1/forgotten", get(|| async { "secrets" }))
            .route("/v1/forgotten/{it}", post(|| async { "done" }))
            .route("/v1/tenants/{tenant}", get(|| async { "known" }).delete(|| async { "deleted" }));
        let server = Server { router: layered(forgotten, app), ..server };
        server.get("/v1/forgotten").await.expect_problem(403, "forbidden");
        server.post("/v1/forgotten/it:erase", json!({})).await.expect_problem(403, "forbidden");
        let deleted = server.send(request("DELETE", "/v1/tenants/acme", &[], Body::empty())).await;
        deleted.expect_problem(405, "method_not_allowed");
        assert_eq!(server.get("/v1/tenants/acme").await.expect(StatusCode::OK).text(), "known");
    });
}

#[test]
fn who_asks_too_often_is_told_to_wait_and_others_are_not() {
    with_server(async |server| {
        server.with_customers().await;
        let server = server.guarded();
        let key = server.key(key_of(Role::Customer, "acme", &[])).await;
        let other = server.key(key_of(Role::Customer, "acme", &[])).await;
        for left in (0..RATE_BURST).rev() {
            let answer = server.get_with("/v1/tenants/acme", &key).await.expect(StatusCode::OK);
            assert_eq!(answer.header("ratelimit-policy"), "\"principal\";q=300;w=3");
            assert!(answer.header("ratelimit").starts_with(&format!("\"principal\";r={left};")));
        }
        let refused = server.get_with("/v1/tenants/acme", &key).await;
        assert_eq!(
            (refused.header("retry-after"), refused.header("ratelimit")),
            ("1", "\"principal\";r=0;t=1")
        );
        assert_eq!(refused.expect_problem(429, "rate_limited")["retryable"], true);
        server.get_with("/v1/tenants/acme", &other).await.expect(StatusCode::OK);
        server.get_with("/v1/tenants/acme", OPERATOR_TOKEN).await.expect(StatusCode::OK);
        server.clock.set("2026-01-01T02:01:01Z");
        server.get_with("/v1/tenants/acme", &key).await.expect(StatusCode::OK);
    });
}

#[test]
fn the_document_says_who_may() {
    with_server(async |server| {
        let document = server.get("/openapi.json").await.expect(StatusCode::OK).json();
        let usage = &document["paths"]["/v1/tenants/{tenant}/usage"]["get"];
        assert_eq!(usage["security"], json!([{"bearer": []}]));
        let needs = "Needs the permission `usage.read`: customer (its own), finance, planner, operator.";
        assert!(usage["description"].as_str().unwrap().ends_with(needs), "{usage}");
        assert!(document["paths"]["/healthz"]["get"]["security"].is_null());
        assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    });
}
