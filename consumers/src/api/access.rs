//! Which route needs what: one table, and the decision for a request.
//!
//! A route that is not in the table is refused to everybody: whoever adds one says here who may use
//! it. A route below `/v1/tenants/{tenant}` can be used by a customer for its own tenant. Any other
//! tenant's path answers a customer as the path of a tenant that does not exist, whatever stands
//! behind it and whether or not it does, so that nobody learns who else is a customer.

use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::Rejection;

use super::problem::Problem;
use crate::auth::roles::{Permission, Reach};
use crate::auth::{Denied, Principal};

use Permission::{
    ClosePeriods, IngestUsage, ManageKeys, ManageOwnKeys, PlanCapacity, ReadBids, ReadBooks, ReadContracts,
    ReadInstances, ReadLedger, ReadMarket, ReadMetrics, ReadQuarantine, ReadQuotas, ReadRateCards,
    ReadReservations, ReadSupply, ReadTenants, ReadUsage, ReadWebhooks, RequestQuotas, RerateOpen, VoidUsage,
    WriteBids, WriteCaps, WriteCredits, WriteHolds, WriteInstances, WriteInvoices, WriteLabels, WriteLoans,
    WriteMarket, WritePrices, WriteQuarantine, WriteQuotas, WriteReservations, WriteTax, WriteTenants,
    WriteWebhooks,
};

/// Method, path and the permission that both need. An action such as `:start` is part of the path.
#[rustfmt::skip]
pub(super) const ROUTES: &[(&str, &str, Permission)] = &[
    ("GET",  "/metrics",                                                        ReadMetrics),
    ("GET",  "/v1/capacity/forecast",                                           PlanCapacity),
    ("GET",  "/v1/capacity/series",                                             PlanCapacity),
    ("GET",  "/v1/capacity/unmet",                                              PlanCapacity),
    ("GET",  "/v1/capacity/{platform}/{fabric}/forecast",                       PlanCapacity),
    ("GET",  "/v1/capacity/{platform}/{fabric}/series",                         PlanCapacity),
    ("GET",  "/v1/capacity/{platform}/{fabric}/unmet",                          PlanCapacity),
    ("POST", "/v1/capacity:advise",                                             PlanCapacity),
    ("POST", "/v1/capacity:what-if",                                            PlanCapacity),
    ("GET",  "/v1/clears",                                                      ReadMarket),
    ("GET",  "/v1/clears/{clear}",                                              ReadMarket),
    ("POST", "/v1/estimates",                                                   ReadRateCards),
    ("POST", "/v1/keys",                                                        ManageKeys),
    ("GET",  "/v1/keys",                                                        ManageKeys),
    ("GET",  "/v1/keys/{key}",                                                  ManageKeys),
    ("POST", "/v1/keys/{key}:revoke",                                           ManageKeys),
    ("GET",  "/v1/ledger/balances",                                             ReadBooks),
    ("GET",  "/v1/ledger/charges",                                              ReadBooks),
    ("GET",  "/v1/ledger/digest",                                               ReadLedger),
    ("GET",  "/v1/ledger/head",                                                 ReadLedger),
    ("GET",  "/v1/ledger/transfers",                                            ReadBooks),
    ("GET",  "/v1/market",                                                      ReadMarket),
    ("PUT",  "/v1/market/margin",                                               WriteMarket),
    ("POST", "/v1/market:clear",                                                WriteMarket),
    ("GET",  "/v1/periods",                                                     ReadBooks),
    ("GET",  "/v1/periods/{period}",                                            ReadBooks),
    ("POST", "/v1/periods/{period}:close",                                      ClosePeriods),
    ("GET",  "/v1/pools",                                                       ReadMarket),
    ("PUT",  "/v1/pools/{platform}/{fabric}",                                   WriteMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}",                                   ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/account",                           ReadSupply),
    ("GET",  "/v1/pools/{platform}/{fabric}/depth",                             ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/interruptions",                     ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/nodes",                             ReadSupply),
    ("PUT",  "/v1/pools/{platform}/{fabric}/nodes/{node}",                      WriteMarket),
    ("DELETE", "/v1/pools/{platform}/{fabric}/nodes/{node}",                    WriteMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/prices",                            ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/prices/ohlc",                       ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/prices/stream",                     ReadMarket),
    ("GET",  "/v1/pools/{platform}/{fabric}/supply",                            ReadSupply),
    ("GET",  "/v1/preemptions",                                                 WriteHolds),
    ("GET",  "/v1/prices",                                                      ReadMarket),
    ("GET",  "/v1/prices/stream",                                               ReadMarket),
    ("GET",  "/v1/quarantine",                                                  ReadQuarantine),
    ("GET",  "/v1/quarantine/{position}",                                       ReadQuarantine),
    ("POST", "/v1/quarantine/{position}:replay",                                WriteQuarantine),
    ("GET",  "/v1/quota-requests",                                              ReadQuotas),
    ("GET",  "/v1/quotas/drift",                                                ReadQuotas),
    ("GET",  "/v1/quotas/rules",                                                ReadQuotas),
    ("PUT",  "/v1/quotas/rules",                                                WriteQuotas),
    ("POST", "/v1/quotas:check",                                                ReadQuotas),
    ("POST", "/v1/quotas:reconcile",                                            WriteHolds),
    ("POST", "/v1/rate-cards",                                                  WritePrices),
    ("GET",  "/v1/rate-cards",                                                  ReadRateCards),
    ("GET",  "/v1/reports/deferred-revenue",                                    ReadBooks),
    ("GET",  "/v1/reports/receivables-ageing",                                  ReadBooks),
    ("GET",  "/v1/reports/reconciliation",                                      ReadBooks),
    ("GET",  "/v1/reports/revenue",                                             ReadBooks),
    ("GET",  "/v1/reports/trial-balance",                                       ReadBooks),
    ("POST", "/v1/rerates",                                                     RerateOpen),
    ("POST", "/v1/rerates:preview",                                             ReadBooks),
    ("POST", "/v1/spot-prices",                                                 WritePrices),
    ("GET",  "/v1/spot-prices",                                                 ReadRateCards),
    ("POST", "/v1/tenants",                                                     WriteTenants),
    ("GET",  "/v1/tenants",                                                     ReadTenants),
    ("GET",  "/v1/tenants/{tenant}",                                            ReadTenants),
    ("POST", "/v1/tenants/{tenant}:resume",                                     WriteTenants),
    ("POST", "/v1/tenants/{tenant}:suspend",                                    WriteTenants),
    ("GET",  "/v1/tenants/{tenant}/balance",                                    ReadBooks),
    ("POST", "/v1/tenants/{tenant}/bids",                                       WriteBids),
    ("GET",  "/v1/tenants/{tenant}/bids",                                       ReadBids),
    ("GET",  "/v1/tenants/{tenant}/bids/{bid}",                                 ReadBids),
    ("GET",  "/v1/tenants/{tenant}/bids/{bid}/why",                             ReadBids),
    ("POST", "/v1/tenants/{tenant}/bids/{bid}:cancel",                          WriteBids),
    ("POST", "/v1/tenants/{tenant}/bids/{bid}:update",                          WriteBids),
    ("GET", "/v1/tenants/{tenant}/budgets",                                        ReadQuotas),
    ("GET", "/v1/tenants/{tenant}/budgets/{budget}",                               ReadQuotas),
    ("PUT", "/v1/tenants/{tenant}/budgets/{budget}",                               WriteCaps),
    ("DELETE", "/v1/tenants/{tenant}/budgets/{budget}",                            WriteCaps),
    ("GET",  "/v1/tenants/{tenant}/charges",                                    ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/commitments",                                ReadContracts),
    ("POST", "/v1/tenants/{tenant}/contracts",                                  WritePrices),
    ("GET",  "/v1/tenants/{tenant}/contracts",                                  ReadContracts),
    ("POST", "/v1/tenants/{tenant}/credit-notes",                               WriteInvoices),
    ("POST", "/v1/tenants/{tenant}/credits",                                    WriteCredits),
    ("GET",  "/v1/tenants/{tenant}/credits",                                    ReadBooks),
    ("POST", "/v1/tenants/{tenant}/estimates",                                  ReadContracts),
    ("POST", "/v1/tenants/{tenant}/groups",                                     WriteQuotas),
    ("GET",  "/v1/tenants/{tenant}/groups",                                     ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/holds",                                      WriteHolds),
    ("GET",  "/v1/tenants/{tenant}/holds",                                      ReadQuotas),
    ("GET",  "/v1/tenants/{tenant}/holds/{hold}",                               ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/holds/{hold}:commit",                        WriteHolds),
    ("POST", "/v1/tenants/{tenant}/holds/{hold}:release",                       WriteHolds),
    ("POST", "/v1/tenants/{tenant}/holds/{hold}:renew",                         WriteHolds),
    ("POST", "/v1/tenants/{tenant}/holds/{hold}:resize",                        WriteHolds),
    ("POST", "/v1/tenants/{tenant}/instances",                                  WriteInstances),
    ("GET",  "/v1/tenants/{tenant}/instances",                                  ReadInstances),
    ("GET",  "/v1/tenants/{tenant}/instances/{instance}",                       ReadInstances),
    ("GET",  "/v1/tenants/{tenant}/instances/{instance}/charges/{hour}",        ReadBooks),
    ("POST", "/v1/tenants/{tenant}/instances/{instance}:change-mode",           WriteInstances),
    ("POST", "/v1/tenants/{tenant}/instances/{instance}:start",                 WriteInstances),
    ("POST", "/v1/tenants/{tenant}/instances/{instance}:stop",                  WriteInstances),
    ("POST", "/v1/tenants/{tenant}/instances/{instance}:void-usage",            VoidUsage),
    ("POST", "/v1/tenants/{tenant}/invoices",                                   WriteInvoices),
    ("GET",  "/v1/tenants/{tenant}/instances/{instance}/timeline",              ReadInstances),
    ("PUT",  "/v1/tenants/{tenant}/instances/{instance}/labels",                WriteLabels),
    ("GET",  "/v1/tenants/{tenant}/invoices",                                   ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/invoices/draft",                             ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/invoices/{number}",                          ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/invoices/{number}/lines/{line}",             ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/invoices/{number}/status",                   ReadBooks),
    ("POST", "/v1/tenants/{tenant}/invoices/{number}:pay",                      WriteInvoices),
    ("POST", "/v1/tenants/{tenant}/invoices/{number}:void",                     WriteInvoices),
    ("POST", "/v1/tenants/{tenant}/keys",                                       ManageOwnKeys),
    ("GET",  "/v1/tenants/{tenant}/keys",                                       ManageOwnKeys),
    ("GET",  "/v1/tenants/{tenant}/keys/{key}",                                 ManageOwnKeys),
    ("POST", "/v1/tenants/{tenant}/keys/{key}:revoke",                          ManageOwnKeys),
    ("POST", "/v1/tenants/{tenant}/leases",                                     WriteHolds),
    ("GET",  "/v1/tenants/{tenant}/leases",                                     ReadQuotas),
    ("GET",  "/v1/tenants/{tenant}/leases/{lease}",                             ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/leases/{lease}:refresh",                     WriteHolds),
    ("POST", "/v1/tenants/{tenant}/leases/{lease}:return",                      WriteHolds),
    ("GET",  "/v1/tenants/{tenant}/metering",                                   ReadUsage),
    ("POST", "/v1/tenants/{tenant}/projects/{project}:place",                   WriteQuotas),
    ("POST", "/v1/tenants/{tenant}/quota-requests",                             RequestQuotas),
    ("GET",  "/v1/tenants/{tenant}/quota-requests",                             ReadQuotas),
    ("GET",  "/v1/tenants/{tenant}/quota-requests/{request}",                   ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/quota-requests/{request}:decide",            WriteQuotas),
    ("GET",  "/v1/tenants/{tenant}/quotas",                                     ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/quotas:check",                               ReadQuotas),
    ("POST", "/v1/tenants/{tenant}/quotas:set",                                 WriteQuotas),
    ("POST", "/v1/tenants/{tenant}/reservations",                               WriteReservations),
    ("GET",  "/v1/tenants/{tenant}/reservations",                               ReadReservations),
    ("GET",  "/v1/tenants/{tenant}/reservations/{reservation}",                 ReadReservations),
    ("POST", "/v1/tenants/{tenant}/reservations/{reservation}:amend",           WriteReservations),
    ("POST", "/v1/tenants/{tenant}/reservations/{reservation}:assign",          WriteLoans),
    ("POST", "/v1/tenants/{tenant}/reservations/{reservation}:claim",           WriteLoans),
    ("POST", "/v1/tenants/{tenant}/reservations/{reservation}:lend",            WriteLoans),
    ("POST", "/v1/tenants/{tenant}/reservations/{reservation}:withdraw",        WriteLoans),
    ("GET",  "/v1/tenants/{tenant}/spend",                                      ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/spend-caps",                                 ReadQuotas),
    ("PUT",  "/v1/tenants/{tenant}/spend-caps",                                 WriteCaps),
    ("DELETE", "/v1/tenants/{tenant}/spend-caps",                               WriteCaps),
    ("POST", "/v1/tenants/{tenant}/tax",                                        WriteTax),
    ("GET",  "/v1/tenants/{tenant}/timeline",                                   ReadInstances),
    ("GET",  "/v1/tenants/{tenant}/transfers",                                  ReadBooks),
    ("GET",  "/v1/tenants/{tenant}/unused",                                     ReadUsage),
    ("GET",  "/v1/tenants/{tenant}/usage",                                      ReadUsage),
    ("POST", "/v1/tenants/{tenant}/webhooks",                                    WriteWebhooks),
    ("GET", "/v1/tenants/{tenant}/webhooks",                                       ReadWebhooks),
    ("GET", "/v1/tenants/{tenant}/webhooks/{webhook}",                             ReadWebhooks),
    ("PUT", "/v1/tenants/{tenant}/webhooks/{webhook}",                             WriteWebhooks),
    ("DELETE", "/v1/tenants/{tenant}/webhooks/{webhook}",                          WriteWebhooks),
    ("GET", "/v1/tenants/{tenant}/webhooks/{webhook}/deliveries",                  ReadWebhooks),
    ("POST", "/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}:redeliver",WriteWebhooks),
    ("POST", "/v1/tenants/{tenant}/webhooks/{webhook}:rotate-secret",            WriteWebhooks),
    ("POST", "/v1/tenants/{tenant}/webhooks/{webhook}:test",                     WriteWebhooks),
    ("GET",  "/v1/usage",                                                       ReadUsage),
    ("POST", "/v1/usage:ingest",                                                IngestUsage),
    ("POST", "/v1/webhooks",                                                     WriteWebhooks),
    ("GET", "/v1/webhooks",                                                        ReadWebhooks),
    ("GET", "/v1/webhooks/{webhook}",                                              ReadWebhooks),
    ("PUT", "/v1/webhooks/{webhook}",                                              WriteWebhooks),
    ("DELETE", "/v1/webhooks/{webhook}",                                           WriteWebhooks),
    ("GET", "/v1/webhooks/{webhook}/deliveries",                                   ReadWebhooks),
    ("POST", "/v1/webhooks/{webhook}/deliveries/{delivery}:redeliver",           WriteWebhooks),
    ("POST", "/v1/webhooks/{webhook}:rotate-secret",                             WriteWebhooks),
    ("POST", "/v1/webhooks/{webhook}:test",                                      WriteWebhooks),
];

/// Whether a path tells nothing about anyone: probes and the documentation.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs") || path.starts_with("/docs/")
}

/// Prices, which an operator can make public. No tenant is in any of them.
const PRICES: &[&str] = &[
    "/v1/prices",
    "/v1/prices/stream",
    "/v1/pools/{platform}/{fabric}/prices",
    "/v1/pools/{platform}/{fabric}/prices/ohlc",
    "/v1/pools/{platform}/{fabric}/prices/stream",
    "/v1/pools/{platform}/{fabric}/interruptions",
];

/// Whether a route only reads prices.
pub(super) fn is_price(method: &Method, route: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && PRICES.contains(&route)
}

/// What a route of the document needs; `None` where the table has forgotten it.
pub(super) fn needed(method: &str, path: &str) -> Option<Permission> {
    ROUTES.iter().find(|route| route.0 == method && route.1 == path).map(|route| route.2)
}

/// Refuses what the principal may not do. `route` is the path's pattern as the router knows it.
pub(super) fn authorise(
    principal: &Principal,
    method: &Method,
    route: &str,
    path: &str,
) -> Result<(), Box<Response>> {
    // Whoever may read may ask for the head alone.
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    // The path of an action is the action's, whatever it is asked with.
    let action = with_action(route, path);
    let is_action = ROUTES.iter().any(|route| route.1 == action);
    let route = if is_action || method == "POST" { action } else { route.to_owned() };
    let Some(permission) = needed(method, &route) else {
        return Err(Box::new(no_such(&route)));
    };
    let forbidden = || Box::new(Problem::from(Denied::lacks(principal, permission)).into_response());
    match (principal.reach(permission), tenant_of(&route, path)) {
        (Reach::All, _) => Ok(()),
        (Reach::Own, Some(asked)) => match principal.tenant() {
            // An id has no character that is written in another way in a path, so to compare the path
            // as it came is to compare the tenants.
            Some(own) if own.as_str() == asked => Ok(()),
            Some(_) => Err(Box::new(unknown_tenant(asked).into_response())),
            None => Err(forbidden()),
        },
        // An agent's own reports: what it sends is looked at when it has been read.
        (Reach::Own, None) if permission == IngestUsage => Ok(()),
        (Reach::Own | Reach::None, _) => Err(forbidden()),
    }
}

/// The pattern with the action of the path behind it: the router knows no suffix of a segment.
fn with_action(route: &str, path: &str) -> String {
    let action = path.rsplit('/').next().and_then(|last| last.rsplit_once(':'));
    match action {
        Some((_, action)) if route.ends_with('}') => format!("{route}:{action}"),
        _ => route.to_owned(),
    }
}

fn tenant_of<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let behind = route.strip_prefix("/v1/tenants/{tenant}")?;
    let rest = path.strip_prefix("/v1/tenants/")?;
    if behind.is_empty() || behind.starts_with('/') { rest.split('/').next() } else { None }
}

/// The answer for a tenant that is not there.
fn unknown_tenant(asked: &str) -> Problem {
    match asked.parse() {
        Ok(tenant) => Rejection::TenantUnknown { tenant }.into(),
        Err(_) => Problem::not_found("tenant_unknown", "this is the id of no tenant"),
    }
}

/// The table has no such method for the pattern, or does not have the pattern at all.
fn no_such(route: &str) -> Response {
    let (pattern, action) = match route.rsplit_once(':') {
        Some((pattern, action)) if pattern.ends_with('}') => (pattern, Some(action)),
        _ => (route, None),
    };
    let of_action = |path: &str| path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(':'));
    let is_action = ROUTES.iter().any(|it| it.1 == route);
    if action.is_some() && !is_action && ROUTES.iter().any(|route| of_action(route.1)) {
        return Problem::not_found("action_unknown", "there is no such action here: see /openapi.json")
            .into_response();
    }
    let whole = if is_action { route } else { pattern };
    let mut allowed: Vec<&str> = ROUTES.iter().filter(|it| it.1 == whole).map(|it| it.0).collect();
    if allowed.is_empty() {
        tracing::error!(route, "a route is in no table of permissions: it is refused to everybody");
        let detail = "this path is open to nobody: its permission was forgotten";
        return Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response();
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    let detail = "the header Allow says what this path takes";
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
    let mut response = problem.into_response();
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(",")) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}
