//! Holds, leases, and orders to stop.

use hourglass_ledger::core::quotas::{Ask, Preemption, Target};
use hourglass_ledger::core::{Answer, Detail, State};
use hourglass_quota::hold::{Ended, Hold, HoldState};
use hourglass_quota::lease::{Lease, REFRESH_MS};
use hourglass_quota::tree::{Items, NodeIx, Tree};
use hourglass_quota::{HoldId, LeaseId, NodeName};
use hourglass_units::{Instant, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{is_of, name_of};
use crate::api::schema;

/// Something that is held for a project, or was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Hold)]
pub struct HoldRow {
    /// Its number: the log position at which it was taken.
    pub hold: u64,
    /// Whose.
    pub tenant: String,
    /// For which project.
    pub project: String,
    /// How much of what; none where it has ended.
    #[schema(value_type = Vec<schema::QuotaItem>)]
    pub items: Vec<Ask>,
    /// `pending` (it waits until lent quota is taken back), `held`, `committed`; or how it ended: `released`,
    /// `expired`, or `taken` by an instance.
    pub state: String,
    /// When it expires, RFC 3339; absent where it is committed or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// The log position of its last change.
    pub position: u64,
    /// The order to stop what it holds, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption: Option<StopRow>,
}

/// Why and until when something has to stop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StopOrder)]
pub struct StopRow {
    /// `quota`: what was lent is claimed, or a lowered limit drains. `budget`: a spend cap.
    pub cause: String,
    /// For what, in words.
    pub reason: String,
    /// When it was ordered, RFC 3339.
    #[schema(format = DateTime)]
    pub ordered_at: String,
    /// When it must have stopped, RFC 3339.
    #[schema(format = DateTime)]
    pub deadline: String,
}

/// An order to stop that has not been carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Preemption)]
pub struct PreemptionRow {
    /// What: `{"instance": "i-1"}`, or `{"hold": 17}` for what a compute service runs under a hold.
    #[schema(value_type = schema::StopTarget)]
    pub target: Target,
    /// Whose.
    pub tenant: String,
    /// Why and until when.
    #[serde(flatten)]
    pub order: StopRow,
}

/// A slice of a limit that a checker far away decides about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Lease)]
pub struct LeaseRow {
    /// Its number: the log position at which it was granted.
    pub lease: u64,
    /// At which node.
    pub node: String,
    /// What is counted.
    pub resource: String,
    /// How it is sold.
    pub class: String,
    /// Who has it, in its own words.
    pub holder: String,
    /// `live`, or `lapsed`: it was not refreshed, and only the safe capacity may be used.
    pub state: String,
    /// Counts its refreshes.
    pub version: u64,
    /// What its holder may use until it expires.
    pub capacity: u64,
    /// What its holder may use even when it is cut off.
    pub safe_capacity: u64,
    /// What its holder said that it uses.
    pub in_use: u64,
    /// What of the limit is not for others.
    pub counted: u64,
    /// When it was granted or refreshed last, RFC 3339.
    #[schema(format = DateTime)]
    pub granted_at: String,
    /// Until when it runs, RFC 3339.
    #[schema(format = DateTime)]
    pub expires_at: String,
}

/// What became of a hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HoldDone {
    /// Where in the log it stands.
    pub position: u64,
    /// The path of the hold.
    pub resource: String,
    /// Its number.
    pub hold: u64,
    /// Where it stands: `held`; `pending` where lent quota has to be taken back first.
    pub state: String,
    /// When it expires, RFC 3339; absent where it does not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}

/// What became of a lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeaseDone {
    /// Where in the log it stands.
    pub position: u64,
    /// The path of the lease.
    pub resource: String,
    /// Its number.
    pub lease: u64,
    /// Counts its refreshes: goes into the next one as `known_version`.
    pub version: u64,
    /// What its holder may use until it expires: it can be less than was wanted.
    pub capacity: u64,
    /// Until when, RFC 3339. A holder measures it by its own clock, from when it sent the request.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// After how long the holder should refresh it.
    pub refresh_seconds: i64,
}

impl HoldDone {
    /// From what the core answered to a command about a hold of a tenant.
    pub fn of(answer: &Answer, tenant: &TenantId) -> Option<Self> {
        let Detail::Hold { hold, state, expires_at } = answer.detail else { return None };
        Some(Self {
            position: answer.position.number(),
            resource: format!("/v1/tenants/{tenant}/holds/{hold}"),
            hold: hold.0,
            state: state.as_str().to_owned(),
            expires_at: expiry(state, expires_at),
        })
    }
}

impl LeaseDone {
    /// From what the core answered to a command about a lease of a tenant.
    pub fn of(answer: &Answer, tenant: &TenantId) -> Option<Self> {
        let Detail::Lease { lease, version, capacity, expires_at } = answer.detail else { return None };
        Some(Self {
            position: answer.position.number(),
            resource: format!("/v1/tenants/{tenant}/leases/{lease}"),
            lease: lease.0,
            version,
            capacity,
            expires_at: expires_at.to_string(),
            refresh_seconds: REFRESH_MS.div_euclid(1_000),
        })
    }
}

/// A time that means something only while a hold waits to be committed.
fn expiry(state: HoldState, at: Instant) -> Option<String> {
    matches!(state, HoldState::Pending | HoldState::Held).then(|| at.to_string())
}

/// Whether a hold is a tenant's, those that have ended included as long as they are remembered.
pub fn hold_is_of(state: &State, id: HoldId, tenant: &TenantId) -> bool {
    let holds = state.quotas().holds();
    let node = holds.get(id).map(|hold| hold.node).or_else(|| holds.ended(id).map(|ended| ended.node));
    node.is_some_and(|node| is_of(state.quotas().tree(), node, tenant))
}

/// A hold of a tenant; one that has ended too, as long as that is remembered.
pub fn hold(state: &State, id: HoldId, tenant: &TenantId) -> Option<HoldRow> {
    if !hold_is_of(state, id, tenant) {
        return None;
    }
    let holds = state.quotas().holds();
    match (holds.get(id), holds.ended(id)) {
        (Some(hold), _) => Some(live(state, id, hold)),
        (None, Some(ended)) => Some(over(state.quotas().tree(), id, ended)),
        (None, None) => None,
    }
}

/// The holds of a tenant that have not ended, in the order in which they were taken.
pub fn holds<'a>(
    state: &'a State,
    tenant: &'a TenantId,
    after: HoldId,
) -> impl Iterator<Item = HoldRow> + 'a {
    let tree = state.quotas().tree();
    let holds = state.quotas().holds().after(after);
    holds.filter(move |(_, hold)| is_of(tree, hold.node, tenant)).map(move |(id, hold)| live(state, id, hold))
}

fn live(state: &State, id: HoldId, hold: &Hold) -> HoldRow {
    let tree = state.quotas().tree();
    let (tenant, project) = owner(tree, hold.node);
    HoldRow {
        hold: id.0,
        tenant,
        project,
        items: asks(tree, &hold.items),
        state: hold.state.as_str().to_owned(),
        expires_at: expiry(hold.state, hold.expires_at),
        ended_at: None,
        position: hold.changed,
        preemption: preemption_of(state, &Target::Hold(id)),
    }
}

fn over(tree: &Tree, id: HoldId, ended: Ended) -> HoldRow {
    let (tenant, project) = owner(tree, ended.node);
    HoldRow {
        hold: id.0,
        tenant,
        project,
        items: Vec::new(),
        state: ended.state.as_str().to_owned(),
        expires_at: None,
        ended_at: Some(ended.at.to_string()),
        position: ended.position,
        preemption: None,
    }
}

/// Tenant and project of a node.
fn owner(tree: &Tree, node: NodeIx) -> (String, String) {
    match tree.name(node) {
        Some(NodeName::Project(tenant, project)) => (tenant.to_string(), project.to_string()),
        Some(other) => (other.tenant().to_string(), String::new()),
        None => (String::new(), String::new()),
    }
}

fn asks(tree: &Tree, items: &Items) -> Vec<Ask> {
    let named = items.iter().filter_map(|(key, amount)| Some((tree.key_of(*key)?, *amount)));
    named.map(|(key, amount)| Ask { resource: key.resource, class: key.class, amount }).collect()
}

/// A lease at a node of a tenant.
pub fn lease(state: &State, id: LeaseId, tenant: &TenantId) -> Option<LeaseRow> {
    let tree = state.quotas().tree();
    let lease = state.quotas().leases().get(id).filter(|lease| is_of(tree, lease.node, tenant))?;
    Some(lease_row(tree, id, lease))
}

/// The leases at nodes of a tenant behind one, in the order in which they were granted.
pub fn leases<'a>(
    state: &'a State,
    tenant: &'a TenantId,
    after: LeaseId,
) -> impl Iterator<Item = LeaseRow> + 'a {
    let tree = state.quotas().tree();
    let leases = state.quotas().leases().iter().filter(move |(id, _)| *id > after);
    leases
        .filter(move |(_, lease)| is_of(tree, lease.node, tenant))
        .map(move |(id, lease)| lease_row(tree, id, lease))
}

fn lease_row(tree: &Tree, id: LeaseId, lease: &Lease) -> LeaseRow {
    let key = tree.key_of(lease.key);
    LeaseRow {
        lease: id.0,
        node: name_of(tree, lease.node),
        resource: key.as_ref().map(|key| key.resource.to_string()).unwrap_or_default(),
        class: lease.key.class().to_string(),
        holder: lease.holder.clone(),
        state: lease.state.as_str().to_owned(),
        version: lease.version,
        capacity: lease.capacity,
        safe_capacity: lease.safe_capacity,
        in_use: lease.in_use,
        counted: lease.counted(),
        granted_at: lease.granted_at.to_string(),
        expires_at: lease.expires_at.to_string(),
    }
}

/// The order to stop something, while it has not.
pub fn preemption_of(state: &State, target: &Target) -> Option<StopRow> {
    state.quotas().preemption(target).map(stop)
}

fn stop(it: &Preemption) -> StopRow {
    StopRow {
        cause: it.cause.to_string(),
        reason: it.reason.clone(),
        ordered_at: it.ordered_at.to_string(),
        deadline: it.deadline.to_string(),
    }
}

/// Every order to stop that has not been carried out behind one, by what it is about.
pub fn preemptions<'a>(
    state: &'a State,
    after: Option<&'a Target>,
) -> impl Iterator<Item = PreemptionRow> + 'a {
    let orders = state.quotas().preemptions();
    orders.filter(move |it| after.is_none_or(|after| it.target > *after)).map(|it| PreemptionRow {
        target: it.target.clone(),
        tenant: it.tenant.to_string(),
        order: stop(it),
    })
}
