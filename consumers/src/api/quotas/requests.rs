//! Requests for more quota, and the rules that answer them.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaRejection};
use hourglass_quota::request::{RequestStatus, Rules};
use hourglass_quota::{Bound, Class, NodeName, RequestId};
use hourglass_units::{ResourceName, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{command, numbered, own, read, said};
use crate::api::app::{App, known_tenant};
use crate::api::done::{Done, done};
use crate::api::extract::{Body, Caller, Idempotency, Json, Path, Query, given};
use crate::api::page::{ListPage, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::api::schema;
use crate::auth::Principal;
use crate::billing::quotas::{RequestDone, RequestRow, request, requests};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// Another nominal limit to ask for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaRequestDraft, example = json!({"node": "tenants/acme",
    "resource": "compute.instance.gpu.h100", "class": "on_demand", "wanted": 128,
    "justification": "a second training run"}))]
pub(in crate::api) struct Draft {
    /// At which node, of the tenant of the path.
    #[schema(value_type = String)]
    node: NodeName,
    /// What is counted.
    #[schema(value_type = String)]
    resource: ResourceName,
    /// How it is sold: `on_demand`, `preemptible` or `reserved`.
    #[schema(value_type = String)]
    class: Class,
    /// The nominal limit that is wanted: a whole number, or `unlimited`. Less than before is granted at once
    /// where it is not below what is used.
    #[schema(value_type = schema::Bound)]
    wanted: Bound,
    /// Why: 1 to 1,024 characters.
    justification: String,
}

/// What is decided about a request.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaDecisionDraft, example = json!({"granted": 96, "reason": "as much as the region has"}))]
pub(in crate::api) struct DecisionDraft {
    /// The nominal limit that is granted: a whole number, or `unlimited`; denied where `null`.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<schema::Bound>, required = true)]
    granted: Option<Bound>,
    /// Why: 1 to 1,024 characters.
    reason: String,
}

/// Which requests, and which page of them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct RequestQuery {
    /// `pending`, `approved` or `denied`.
    #[param(value_type = Option<String>)]
    status: Option<RequestStatus>,
    /// Rows of a page: 1 to 1,000, 100 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A request, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaRequestAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    request: RequestRow,
}

/// The rules that answer requests, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaRulesAnswer)]
pub(in crate::api) struct RulesAnswer {
    as_of: AsOf,
    /// Absent where every request waits for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::QuotaRules>)]
    rules: Option<Rules>,
}

/// Rules to set, or to take away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaRulesDraft, example = json!({"rules": {"account_days_min": 30, "paid_invoices_min": 1,
    "utilisation_min": "80", "growth_max": "200",
    "headroom": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "total_max": 4096}]}}))]
pub(in crate::api) struct RulesDraft {
    /// When a request is granted at once; every request waits for a person where `null`.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<schema::QuotaRules>, required = true)]
    rules: Option<Rules>,
}

/// Asks for another nominal limit. Rules may grant it at once; else it waits for a person.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/quota-requests", tag = "quotas", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 201, description = "Asked.", body = RequestDone))
)]
pub(in crate::api) async fn ask(
    State(app): State<App>,
    Caller(principal): Caller,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { node, resource, class, wanted, justification } = draft;
    own(&tenant, &node)?;
    // Who asks is who was let in, never who the body says.
    let requested_by = principal.name().to_owned();
    let ask = QuotaCommand::RequestIncrease { node, resource, class, wanted, justification, requested_by };
    let outcome = app.submit(command(ask), name).await?;
    let body = RequestDone::of(outcome.answer(), &tenant);
    let resource = body.as_ref().map(|body| body.resource.clone()).unwrap_or_default();
    said(&outcome, true, &resource, body)
}

/// A customer's requests for more, in the order in which they came: all that wait, and the last 200 that
/// were decided.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/quota-requests", tag = "quotas",
    params(("tenant" = String, Path), RequestQuery),
    responses((status = 200, description = "A page of requests.", body = ListPage<RequestRow>))
)]
pub(in crate::api) async fn list_requests(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<RequestQuery>,
) -> Result<axum::Json<ListPage<RequestRow>>, Problem> {
    listed(app, Some(tenant), query).await
}

/// Requests for more of all customers, in the order in which they came.
#[utoipa::path(
    get, path = "/v1/quota-requests", tag = "quotas", params(RequestQuery),
    responses((status = 200, description = "A page of requests.", body = ListPage<RequestRow>))
)]
pub(in crate::api) async fn list_all_requests(
    State(app): State<App>,
    Query(query): Query<RequestQuery>,
) -> Result<axum::Json<ListPage<RequestRow>>, Problem> {
    listed(app, None, query).await
}

async fn listed(
    app: App,
    tenant: Option<TenantId>,
    query: RequestQuery,
) -> Result<axum::Json<ListPage<RequestRow>>, Problem> {
    let RequestQuery { status, page_size, page_token } = query;
    let list = format!("quota requests {tenant:?} {status:?}");
    let page = PageRequest::new(list, page_size, page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        tenant.iter().try_for_each(|tenant| known_tenant(state, tenant))?;
        let after = after.map_or(Ok(RequestId(0)), |after| after.parse().map_err(|_| invalid()))?;
        let rows = requests(state, tenant.as_ref(), status, after).take(limit);
        Ok(rows.map(|row| (row.request.to_string(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

fn unknown(request: RequestId) -> Problem {
    Rejection::from(QuotaRejection::RequestUnknown { request }).into()
}

/// One request.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/quota-requests/{request}", tag = "quotas",
    params(("tenant" = String, Path), ("request" = u64, Path)),
    responses((status = 200, description = "The request.", body = Answer))
)]
pub(in crate::api) async fn get_request(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, RequestId)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        match request(state, id, &tenant) {
            Some(request) => Ok(Answer { as_of: AsOf::of(state), request }),
            None => Err(unknown(id)),
        }
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{request}:decide`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_request(
    State(app): State<App>,
    Caller(principal): Caller,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let (number, action) = numbered(&named, ":decide")?;
    if action != "decide" {
        return Err(Problem::not_found("action_unknown", "a request has the action :decide"));
    }
    decide_request(app, &principal, (tenant, RequestId(number)), name, read(&body)?).await
}

/// Grants a request, in full or in part, or denies it. The limit changes at once.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/quota-requests/{request}:decide", tag = "quotas",
    params(("tenant" = String, Path), ("request" = u64, Path)), request_body = DecisionDraft,
    responses((status = 200, description = "Decided.", body = Done))
)]
pub(in crate::api) async fn decide_request(
    app: App,
    principal: &Principal,
    (tenant, id): (TenantId, RequestId),
    name: Option<Name>,
    draft: DecisionDraft,
) -> Result<Response, Problem> {
    let of = tenant.clone();
    app.read(move |state| {
        known_tenant(state, &of)?;
        let foreign = state.quotas().request(id).is_some() && request(state, id, &of).is_none();
        if foreign { Err(unknown(id)) } else { Ok(()) }
    })
    .await?;
    let DecisionDraft { granted, reason } = draft;
    let approver = principal.name().to_owned();
    let decide = QuotaCommand::DecideRequest { request: id, granted, approver, reason };
    let outcome = app.submit(command(decide), name).await?;
    Ok(done(&outcome, false, format!("/v1/tenants/{tenant}/quota-requests/{id}")))
}

/// The rules that answer requests without a person.
#[utoipa::path(
    get, path = "/v1/quotas/rules", tag = "quotas",
    responses((status = 200, description = "The rules.", body = RulesAnswer))
)]
pub(in crate::api) async fn get_rules(State(app): State<App>) -> Result<axum::Json<RulesAnswer>, Problem> {
    let read =
        app.read(|state| Ok(RulesAnswer { as_of: AsOf::of(state), rules: state.quotas().rules().cloned() }));
    Ok(axum::Json(read.await?))
}

/// Sets the rules that answer requests without a person, or takes them away.
#[utoipa::path(
    put, path = "/v1/quotas/rules", tag = "quotas", request_body = RulesDraft,
    responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_rules(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(draft): Json<RulesDraft>,
) -> Result<Response, Problem> {
    let outcome = app.submit(command(QuotaCommand::SetRules { rules: draft.rules }), name).await?;
    Ok(done(&outcome, false, "/v1/quotas/rules".to_owned()))
}
