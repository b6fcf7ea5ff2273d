//! Requests for more, and the last comparison with the compute API.

use hourglass_ledger::core::quotas::Drift;
use hourglass_ledger::core::{Answer, Detail, State};
use hourglass_quota::request::{Request, RequestStatus};
use hourglass_quota::{Bound, RequestId};
use hourglass_units::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

/// A request for another nominal limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QuotaRequest)]
pub struct RequestRow {
    /// Its number: the log position at which it was made.
    pub request: u64,
    /// At which node.
    pub node: String,
    /// What is counted.
    pub resource: String,
    /// How it is sold.
    pub class: String,
    /// The nominal limit that is wanted: a whole number, or `unlimited`.
    #[schema(value_type = schema::Bound)]
    pub wanted: Bound,
    /// What it was when the request came; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Bound>)]
    pub before: Option<Bound>,
    /// Why.
    pub justification: String,
    /// Who asks.
    pub requested_by: String,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub requested_at: String,
    /// `pending`, `approved` or `denied`.
    pub status: String,
    /// What was decided, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionRow>,
}

/// A decision about a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QuotaDecision)]
pub struct DecisionRow {
    /// Who decided; `rules` where nobody did.
    pub approver: String,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// Why.
    pub reason: String,
    /// The nominal limit that was granted: it can be less than was wanted. Absent where it was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Bound>)]
    pub granted: Option<Bound>,
}

/// What became of a request at once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QuotaRequestDone)]
pub struct RequestDone {
    /// Where in the log it stands.
    pub position: u64,
    /// The path of the request.
    pub resource: String,
    /// Its number.
    pub request: u64,
    /// `approved` where rules granted it, or `pending`: a person decides.
    pub status: String,
}

impl RequestDone {
    /// From what the core answered to a request of a tenant.
    pub fn of(answer: &Answer, tenant: &TenantId) -> Option<Self> {
        let Detail::QuotaRequest { request, status } = answer.detail else { return None };
        Some(Self {
            position: answer.position.number(),
            resource: format!("/v1/tenants/{tenant}/quota-requests/{request}"),
            request: request.0,
            status: status.as_str().to_owned(),
        })
    }
}

/// The requests of a tenant, or of all, behind one and with a status, in the order in which they came.
pub fn requests<'a>(
    state: &'a State,
    tenant: Option<&'a TenantId>,
    status: Option<RequestStatus>,
    after: RequestId,
) -> impl Iterator<Item = RequestRow> + 'a {
    let all = state.quotas().requests().filter(move |(id, it)| {
        *id > after
            && tenant.is_none_or(|tenant| it.node.tenant() == tenant)
            && status.is_none_or(|status| it.status == status)
    });
    all.map(|(id, it)| row(id, it))
}

/// A request of a tenant.
pub fn request(state: &State, id: RequestId, tenant: &TenantId) -> Option<RequestRow> {
    let found = state.quotas().request(id).filter(|it| it.node.tenant() == tenant);
    found.map(|it| row(id, it))
}

fn row(id: RequestId, it: &Request) -> RequestRow {
    RequestRow {
        request: id.0,
        node: it.node.to_string(),
        resource: it.resource.to_string(),
        class: it.class.to_string(),
        wanted: it.wanted,
        before: it.before,
        justification: it.justification.clone(),
        requested_by: it.requested_by.clone(),
        requested_at: it.requested_at.to_string(),
        status: it.status.as_str().to_owned(),
        decision: it.decision.as_ref().map(|decision| DecisionRow {
            approver: decision.approver.clone(),
            at: decision.at.to_string(),
            reason: decision.reason.clone(),
            granted: decision.granted,
        }),
    }
}

/// The last comparison of what the compute API runs with what holds quota.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DriftReport {
    /// When it was recorded, RFC 3339.
    #[schema(format = DateTime)]
    pub reconciled_at: String,
    /// When the listing was taken, RFC 3339.
    #[schema(format = DateTime)]
    pub listed_at: String,
    /// How many instances it had.
    pub listed: u64,
    /// Every difference. It is reported, never mended in silence.
    #[schema(value_type = Vec<schema::Drift>)]
    pub drift: Vec<Drift>,
}

/// The last comparison, where there was one.
pub fn drift(state: &State) -> Option<DriftReport> {
    let last = state.quotas().reconciled()?;
    Some(DriftReport {
        reconciled_at: last.at.to_string(),
        listed_at: last.listed_at.to_string(),
        listed: last.listed,
        drift: last.drift.clone(),
    })
}
