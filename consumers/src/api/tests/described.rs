//! The OpenAPI document and the page that shows it.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::Value;

use crate::testing::{request, with_server};

const ROUTES: [&str; 171] = [
    "DELETE /v1/pools/{platform}/{fabric}/nodes/{node}",
    "DELETE /v1/tenants/{tenant}/budgets/{budget}",
    "DELETE /v1/tenants/{tenant}/spend-caps",
    "DELETE /v1/tenants/{tenant}/webhooks/{webhook}",
    "DELETE /v1/webhooks/{webhook}",
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
    "GET /v1/capacity/forecast",
    "GET /v1/capacity/series",
    "GET /v1/capacity/unmet",
    "GET /v1/capacity/{platform}/{fabric}/forecast",
    "GET /v1/capacity/{platform}/{fabric}/series",
    "GET /v1/capacity/{platform}/{fabric}/unmet",
    "GET /v1/clears",
    "GET /v1/clears/{clear}",
    "GET /v1/keys",
    "GET /v1/keys/{key}",
    "GET /v1/ledger/balances",
    "GET /v1/ledger/charges",
    "GET /v1/ledger/digest",
    "GET /v1/ledger/head",
    "GET /v1/ledger/transfers",
    "GET /v1/market",
    "GET /v1/periods",
    "GET /v1/periods/{period}",
    "GET /v1/pools",
    "GET /v1/pools/{platform}/{fabric}",
    "GET /v1/pools/{platform}/{fabric}/account",
    "GET /v1/pools/{platform}/{fabric}/depth",
    "GET /v1/pools/{platform}/{fabric}/interruptions",
    "GET /v1/pools/{platform}/{fabric}/nodes",
    "GET /v1/pools/{platform}/{fabric}/prices",
    "GET /v1/pools/{platform}/{fabric}/prices/ohlc",
    "GET /v1/pools/{platform}/{fabric}/prices/stream",
    "GET /v1/pools/{platform}/{fabric}/supply",
    "GET /v1/preemptions",
    "GET /v1/prices",
    "GET /v1/prices/stream",
    "GET /v1/quarantine",
    "GET /v1/quarantine/{position}",
    "GET /v1/quota-requests",
    "GET /v1/quotas/drift",
    "GET /v1/quotas/rules",
    "GET /v1/rate-cards",
    "GET /v1/reports/deferred-revenue",
    "GET /v1/reports/receivables-ageing",
    "GET /v1/reports/reconciliation",
    "GET /v1/reports/revenue",
    "GET /v1/reports/trial-balance",
    "GET /v1/spot-prices",
    "GET /v1/tenants",
    "GET /v1/tenants/{tenant}",
    "GET /v1/tenants/{tenant}/balance",
    "GET /v1/tenants/{tenant}/bids",
    "GET /v1/tenants/{tenant}/bids/{bid}",
    "GET /v1/tenants/{tenant}/bids/{bid}/why",
    "GET /v1/tenants/{tenant}/budgets",
    "GET /v1/tenants/{tenant}/budgets/{budget}",
    "GET /v1/tenants/{tenant}/charges",
    "GET /v1/tenants/{tenant}/commitments",
    "GET /v1/tenants/{tenant}/contracts",
    "GET /v1/tenants/{tenant}/credits",
    "GET /v1/tenants/{tenant}/groups",
    "GET /v1/tenants/{tenant}/holds",
    "GET /v1/tenants/{tenant}/holds/{hold}",
    "GET /v1/tenants/{tenant}/instances",
    "GET /v1/tenants/{tenant}/instances/{instance}",
    "GET /v1/tenants/{tenant}/instances/{instance}/charges/{hour}",
    "GET /v1/tenants/{tenant}/instances/{instance}/timeline",
    "GET /v1/tenants/{tenant}/invoices",
    "GET /v1/tenants/{tenant}/invoices/draft",
    "GET /v1/tenants/{tenant}/invoices/{number}",
    "GET /v1/tenants/{tenant}/invoices/{number}/lines/{line}",
    "GET /v1/tenants/{tenant}/invoices/{number}/status",
    "GET /v1/tenants/{tenant}/keys",
    "GET /v1/tenants/{tenant}/keys/{key}",
    "GET /v1/tenants/{tenant}/leases",
    "GET /v1/tenants/{tenant}/leases/{lease}",
    "GET /v1/tenants/{tenant}/metering",
    "GET /v1/tenants/{tenant}/quota-requests",
    "GET /v1/tenants/{tenant}/quota-requests/{request}",
    "GET /v1/tenants/{tenant}/quotas",
    "GET /v1/tenants/{tenant}/reservations",
    "GET /v1/tenants/{tenant}/reservations/{reservation}",
    "GET /v1/tenants/{tenant}/spend",
    "GET /v1/tenants/{tenant}/spend-caps",
    "GET /v1/tenants/{tenant}/timeline",
    "GET /v1/tenants/{tenant}/transfers",
    "GET /v1/tenants/{tenant}/unused",
    "GET /v1/tenants/{tenant}/usage",
    "GET /v1/tenants/{tenant}/webhooks",
    "GET /v1/tenants/{tenant}/webhooks/{webhook}",
    "GET /v1/tenants/{tenant}/webhooks/{webhook}/deliveries",
    "GET /v1/usage",
    "GET /v1/webhooks",
    "GET /v1/webhooks/{webhook}",
    "GET /v1/webhooks/{webhook}/deliveries",
    "POST /v1/capacity:advise",
    "POST /v1/capacity:what-if",
    "POST /v1/estimates",
    "POST /v1/keys",
    "POST /v1/keys/{key}:revoke",
    "POST /v1/market:clear",
    "POST /v1/periods/{period}:close",
    "POST /v1/quarantine/{position}:replay",
    "POST /v1/quotas:check",
    "POST /v1/quotas:reconcile",
    "POST /v1/rate-cards",
    "POST /v1/rerates",
    "POST /v1/rerates:preview",
    "POST /v1/spot-prices",
    "POST /v1/tenants",
    "POST /v1/tenants/{tenant}/bids",
    "POST /v1/tenants/{tenant}/bids/{bid}:cancel",
    "POST /v1/tenants/{tenant}/bids/{bid}:update",
    "POST /v1/tenants/{tenant}/contracts",
    "POST /v1/tenants/{tenant}/credit-notes",
    "POST /v1/tenants/{tenant}/credits",
    "POST /v1/tenants/{tenant}/estimates",
    "POST /v1/tenants/{tenant}/groups",
    "POST /v1/tenants/{tenant}/holds",
    "POST /v1/tenants/{tenant}/holds/{hold}:commit",
    "POST /v1/tenants/{tenant}/holds/{hold}:release",
    "POST /v1/tenants/{tenant}/holds/{hold}:renew",
    "POST /v1/tenants/{tenant}/holds/{hold}:resize",
    "POST /v1/tenants/{tenant}/instances",
    "POST /v1/tenants/{tenant}/instances/{instance}:change-mode",
    "POST /v1/tenants/{tenant}/instances/{instance}:start",
    "POST /v1/tenants/{tenant}/instances/{instance}:stop",
    "POST /v1/tenants/{tenant}/instances/{instance}:void-usage",
    "POST /v1/tenants/{tenant}/invoices",
    "POST /v1/tenants/{tenant}/invoices/{number}:pay",
    "POST /v1/tenants/{tenant}/invoices/{number}:void",
    "POST /v1/tenants/{tenant}/keys",
    "POST /v1/tenants/{tenant}/keys/{key}:revoke",
    "POST /v1/tenants/{tenant}/leases",
    "POST /v1/tenants/{tenant}/leases/{lease}:refresh",
    "POST /v1/tenants/{tenant}/leases/{lease}:return",
    "POST /v1/tenants/{tenant}/projects/{project}:place",
    "POST /v1/tenants/{tenant}/quota-requests",
    "POST /v1/tenants/{tenant}/quota-requests/{request}:decide",
    "POST /v1/tenants/{tenant}/quotas:check",
    "POST /v1/tenants/{tenant}/quotas:set",
    "POST /v1/tenants/{tenant}/reservations",
    "POST /v1/tenants/{tenant}/reservations/{reservation}:amend",
    "POST /v1/tenants/{tenant}/reservations/{reservation}:assign",
    "POST /v1/tenants/{tenant}/reservations/{reservation}:claim",
    "POST /v1/tenants/{tenant}/reservations/{reservation}:lend",
    "POST /v1/tenants/{tenant}/reservations/{reservation}:withdraw",
    "POST /v1/tenants/{tenant}/tax",
    "POST /v1/tenants/{tenant}/webhooks",
    "POST /v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}:redeliver",
    "POST /v1/tenants/{tenant}/webhooks/{webhook}:rotate-secret",
    "POST /v1/tenants/{tenant}/webhooks/{webhook}:test",
    "POST /v1/tenants/{tenant}:resume",
    "POST /v1/tenants/{tenant}:suspend",
    "POST /v1/usage:ingest",
    "POST /v1/webhooks",
    "POST /v1/webhooks/{webhook}/deliveries/{delivery}:redeliver",
    "POST /v1/webhooks/{webhook}:rotate-secret",
    "POST /v1/webhooks/{webhook}:test",
    "PUT /v1/market/margin",
    "PUT /v1/pools/{platform}/{fabric}",
    "PUT /v1/pools/{platform}/{fabric}/nodes/{node}",
    "PUT /v1/quotas/rules",
    "PUT /v1/tenants/{tenant}/budgets/{budget}",
    "PUT /v1/tenants/{tenant}/instances/{instance}/labels",
    "PUT /v1/tenants/{tenant}/spend-caps",
    "PUT /v1/tenants/{tenant}/webhooks/{webhook}",
    "PUT /v1/webhooks/{webhook}",
];

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    with_server(async |server| {
        let document = server.get("/openapi.json").await.expect(StatusCode::OK).json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                described.insert(format!("{} {path}", method.to_uppercase()));
                let error = &operation["responses"]["default"]["content"]["application/problem+json"];
                assert!(error.is_object(), "{method} {path} describes no error");
                let names: Vec<&str> = operation["parameters"]
                    .as_array()
                    .map(|all| all.iter().filter_map(|parameter| parameter["name"].as_str()).collect())
                    .unwrap_or_default();
                assert_eq!(names.contains(&"idempotency-key"), method != "get", "{method} {path}");
                for part in
                    path.split(['/', ':']).filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                {
                    assert!(names.contains(&part), "{method} {path} does not describe {part}");
                }
                let filled = path
                    .replace("{tenant}", "acme")
                    .replace("{instance}", "i-1")
                    .replace("{number}", "1")
                    .replace("{key}", "aaaaaaaaaaaa")
                    .replace("{period}", "2026-01")
                    .replace("{position}", "1")
                    .replace("{reservation}", "r-1")
                    .replace("{hold}", "1")
                    .replace("{lease}", "1")
                    .replace("{request}", "1")
                    .replace("{project}", "ml")
                    .replace("{hour}", "2026-01-01T00:00:00Z")
                    .replace("{line}", "1")
                    .replace("{webhook}", "w-1")
                    .replace("{delivery}", "msg_eu_1_0")
                    .replace("{budget}", "b-1");
                let answer = server.send(request(&method.to_uppercase(), &filled, &[], Body::empty())).await;
                let code = serde_json::from_slice(&answer.body)
                    .ok()
                    .and_then(|body: Value| body["code"].as_str().map(str::to_owned));
                assert!(
                    !matches!(
                        code.as_deref(),
                        Some("route_unknown" | "method_not_allowed" | "action_unknown" | "internal")
                    ),
                    "{method} {path}: {}",
                    answer.text()
                );
            }
        }
        assert_eq!(described, ROUTES.map(str::to_owned).into());
        let text = document.to_string();
        for reference in
            text.split("\"$ref\":\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next())
        {
            assert!(document["components"]["schemas"][reference].is_object(), "{reference} is not described");
        }
    });
}

/// An example can be sent as it stands: what it names may not be there, but its form is right.
#[test]
fn every_example_can_be_read() {
    with_server(async |server| {
        server.with_customers().await;
        let document = server.get("/openapi.json").await.expect(StatusCode::OK).json();
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                let Some(name) = schema["$ref"].as_str().and_then(|it| it.rsplit('/').next()) else {
                    continue;
                };
                let example = &document["components"]["schemas"][name]["example"];
                if example.is_null() {
                    continue;
                }
                seen += 1;
                let filled = path.replace("{tenant}", "acme").replace("{project}", "ml");
                let filled =
                    filled.replace("{bid}", "b-1").replace("{platform}", "h100").replace("{instance}", "i-1");
                let filled = filled.replace("{fabric}", "f-1").replace("{node}", "n-1");
                let filled = filled.replace("{webhook}", "w-1").replace("{budget}", "b-1");
                let filled =
                    ["{hold}", "{lease}", "{request}"].iter().fold(filled, |it, part| it.replace(part, "1"));
                let headers = [("content-type", "application/json")];
                let body = Body::from(example.to_string());
                let answer = server.send(request(&method.to_uppercase(), &filled, &headers, body)).await;
                let unread = matches!(answer.status.as_u16(), 400 | 415 | 422 | 500..);
                assert!(!unread, "{method} {path}: {}", answer.text());
            }
        }
        assert_eq!(seen, 29, "an example is missing, or there is a new one");
    });
}

#[test]
fn the_document_has_a_page() {
    with_server(async |server| {
        let home = server.get("/").await.expect(StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(home.header("location"), "/docs/");
        assert!(server.get("/docs/").await.expect(StatusCode::OK).text().contains("swagger"));
    });
}
