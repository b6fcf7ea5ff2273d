//! What would happen, and why not.

use hourglass_ledger::core::quotas::{Ask, QuotaCommand, QuotaEvent, QuotaRejection};
use hourglass_ledger::core::{Command, Decision, Event, Rejection, Request, State, decide};
use hourglass_quota::hold::TTL_MS_MIN;
use hourglass_units::{Instant, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::region;

/// What would become of a hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QuotaVerdict)]
pub struct Verdict {
    /// What would happen.
    pub outcome: VerdictOutcome,
    /// Of what is denied: the code that the hold would be refused with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of what is denied: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of what is denied: the members that the problem would have.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object, required = false)]
    pub denial: Map<String, Value>,
}

/// What would happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictOutcome {
    /// It would be held at once.
    Held,
    /// It would be granted, and wait until lent quota is taken back.
    Pending,
    /// It would be refused.
    Denied,
}

/// Decides about a hold without taking it. What is wrong with the question itself is the error.
pub fn check(
    state: &State,
    tenant: TenantId,
    project: ProjectId,
    items: Vec<Ask>,
    now: Instant,
) -> Result<Verdict, Rejection> {
    let command = Command::from(QuotaCommand::Reserve { tenant, project, items, ttl_ms: TTL_MS_MIN });
    let now = now.max(state.now());
    // Nothing is chained to an answer that is not written.
    let request = Request { command: &command, key: None, now, chain_hash: blake3::hash(&[]) };
    let allowed = |outcome| Verdict { outcome, code: None, detail: None, denial: Map::new() };
    match decide(state, &request) {
        Ok(Decision::Happens(recorded)) => match recorded.event {
            Event::Quota(QuotaEvent::HoldTaken { pending: true, .. }) => Ok(allowed(VerdictOutcome::Pending)),
            _ => Ok(allowed(VerdictOutcome::Held)),
        },
        Ok(Decision::AlreadyApplied(_)) => Ok(allowed(VerdictOutcome::Held)),
        Err(rejection) => match denial_members(&rejection, Some(&region(state))) {
            Some(denial) => Ok(Verdict {
                outcome: VerdictOutcome::Denied,
                code: Some(rejection.code().to_owned()),
                detail: Some(rejection.to_string()),
                denial,
            }),
            None => Err(rejection),
        },
    }
}

/// all that a denial says, for programs. `None` where it is no question of room.
/// The region is the cell's, which a rejection does not know.
pub fn denial_members(rejection: &Rejection, region: Option<&str>) -> Option<Map<String, Value>> {
    let Rejection::Quota(rejection) = rejection else { return None };
    let members = match rejection {
        QuotaRejection::Denied(denial) | QuotaRejection::NeedsReclaim { denial } => json!({
            "node": denial.node,
            "resource": denial.key.as_ref().map(|key| &key.resource),
            "class": denial.key.as_ref().map(|key| key.class),
            "limit": denial.limit,
            "used": denial.used,
            "borrowed": denial.borrowed,
            "held": denial.held,
            "asked": denial.asked,
            "fits": denial.fits,
        }),
        QuotaRejection::SpendDenied(denied) => json!({
            "node": denied.node,
            "cap": denied.denial.period,
            "currency": denied.currency,
            "limit": denied.denial.limit,
            "spent": denied.denial.spent,
            "held": denied.denial.held,
            "asked": denied.denial.asked,
        }),
        QuotaRejection::CostUnbounded { node, .. } => json!({ "node": node }),
        _ => return None,
    };
    let Value::Object(mut members) = members else { return None };
    if let (Some(region), true) = (region, members.contains_key("class")) {
        members.insert("region".to_owned(), region.into());
    }
    Some(members)
}
