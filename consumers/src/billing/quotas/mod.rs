//! Limits and use, as HTTP and the command line show them.

mod caps;
mod check;
mod holds;
mod requests;

use std::collections::BTreeMap;

use hourglass_ledger::core::State;
use hourglass_quota::tree::{NodeIx, Standing, Tree};
use hourglass_quota::{Bound, Class, Key, NodeName};
use hourglass_units::{ProjectId, ResourceName, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

pub use caps::{CapRow, caps};
pub use check::{Verdict, VerdictOutcome, check, denial_members};
pub use holds::{
    HoldDone, HoldRow, LeaseDone, LeaseRow, PreemptionRow, StopRow, hold, hold_is_of, holds, lease, leases,
    preemption_of, preemptions,
};
pub use requests::{DecisionRow, DriftReport, RequestDone, RequestRow, drift, request, requests};

/// What stands at a node of the tree for a resource and class: its limits, and what is taken of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Quota)]
pub struct QuotaRow {
    /// `tenants/T`, `tenants/T/groups/G` or `tenants/T/projects/P`.
    pub node: String,
    /// The node above it; absent for the tenant itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What is counted, such as `compute.instance.gpu.h100`.
    pub resource: String,
    /// How it is sold: `on_demand`, `preemptible` or `reserved`.
    pub class: String,
    /// Where.
    pub region: String,
    /// What the node can always have: a whole number, or `unlimited`. Absent where the node has no limit of
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Bound>)]
    pub nominal: Option<Bound>,
    /// What it can have above that of what its siblings leave idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Bound>)]
    pub borrowing: Option<Bound>,
    /// What its siblings can have of what it leaves idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Bound>)]
    pub lending: Option<Bound>,
    /// Whether what is above a lowered limit is stopped; absent where the node has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// Held for a time.
    pub held: u64,
    /// Committed, and instances that were accepted.
    pub committed: u64,
    /// Leased to remote checkers.
    pub leased: u64,
    /// Granted, and waiting until what was lent is taken back.
    pub pending: u64,
    /// Running although nobody asked.
    pub unheld: u64,
    /// How much of all this is borrowed.
    pub borrowed: u64,
    /// `ok`, or `over_limit` where more is taken than the limits allow: they were lowered, or something
    /// runs without a hold.
    pub state: String,
    /// How much more fits now, on the whole way up to the tenant: a whole number, or `unlimited`.
    #[schema(value_type = schema::Bound)]
    pub fits: Bound,
}

/// Which rows.
#[derive(Clone, Default, Debug)]
pub struct QuotaFilter {
    /// Of tenants, groups or projects alone.
    pub kind: Option<NodeKind>,
    /// Of this project alone.
    pub project: Option<ProjectId>,
    /// Of this resource alone.
    pub resource: Option<ResourceName>,
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A customer: a root of the tree.
    Tenant,
    /// Projects, and groups of them.
    Group,
    /// Where things run.
    Project,
}

impl QuotaFilter {
    fn has(&self, node: &NodeName) -> bool {
        let kind = match node {
            NodeName::Tenant(_) => NodeKind::Tenant,
            NodeName::Group(..) => NodeKind::Group,
            NodeName::Project(..) => NodeKind::Project,
        };
        let project = match node {
            NodeName::Project(_, project) => Some(project),
            NodeName::Tenant(_) | NodeName::Group(..) => None,
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.project.as_ref().is_none_or(|wanted| Some(wanted) == project)
    }
}

/// The rows of a tenant, in order: itself, its groups, its projects, each by resource. Each has its place
/// in that order, by which a later page goes on.
pub fn quotas<'a>(
    state: &'a State,
    tenant: &'a TenantId,
    filter: &'a QuotaFilter,
    after: Option<&'a (NodeName, Key)>,
) -> impl Iterator<Item = ((NodeName, Key), QuotaRow)> + 'a {
    let tree = state.quotas().tree();
    let region = region(state);
    let after = after.and_then(|(node, key)| Some((node, tree.key(&key.resource, key.class)?)));
    let named = tree.nodes_of(tenant).filter_map(|ix| Some((ix, tree.name(ix)?)));
    named.filter(|(_, name)| filter.has(name)).flat_map(move |(ix, name)| {
        let region = region.clone();
        let standings = tree
            .standings(ix)
            .filter(move |(key, _)| after.is_none_or(|(of, last)| name > of || (name == of && *key > last)));
        standings.filter_map(move |(key_ix, standing)| {
            let key = tree.key_of(key_ix)?;
            let wanted = filter.resource.as_ref().is_none_or(|wanted| *wanted == key.resource);
            let fits = tree.fits(ix, key_ix).map_or(Bound::Unlimited, Bound::AtMost);
            wanted.then(|| ((name.clone(), key.clone()), row(tree, ix, &key, &region, standing, fits)))
        })
    })
}

/// What stands at one node for one key; nothing is taken and nothing limited there where it was never
/// mentioned.
pub fn quota(state: &State, node: &NodeName, resource: &ResourceName, class: Class) -> Option<QuotaRow> {
    let tree = state.quotas().tree();
    let ix = tree.find(node)?;
    let key = Key { resource: resource.clone(), class };
    let key_ix = tree.key(resource, class)?;
    let fits = tree.fits(ix, key_ix).map_or(Bound::Unlimited, Bound::AtMost);
    Some(row(tree, ix, &key, &region(state), tree.standing(ix, key_ix), fits))
}

fn row(tree: &Tree, ix: NodeIx, key: &Key, region: &str, standing: Standing, fits: Bound) -> QuotaRow {
    let Standing { limits, taken, borrowed, over } = standing;
    QuotaRow {
        node: name_of(tree, ix),
        parent: tree.parent(ix).map(|parent| name_of(tree, parent)),
        resource: key.resource.to_string(),
        class: key.class.to_string(),
        region: region.to_owned(),
        nominal: limits.map(|limits| limits.nominal),
        borrowing: limits.map(|limits| limits.borrowing),
        lending: limits.map(|limits| limits.lending),
        drain: limits.map(|limits| limits.drain),
        held: taken.held,
        committed: taken.committed,
        leased: taken.leased,
        pending: taken.pending,
        unheld: taken.unheld,
        borrowed,
        state: if over { "over_limit" } else { "ok" }.to_owned(),
        fits,
    }
}

/// A group of projects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QuotaGroup)]
pub struct GroupRow {
    /// Its id, unique in its tenant.
    pub group: String,
    /// Its node: `tenants/T/groups/G`.
    pub node: String,
    /// The node above it: another group, or the tenant.
    pub parent: String,
    /// The projects that lie directly in it.
    pub projects: Vec<String>,
}

/// The groups of a tenant, by id.
pub fn groups(state: &State, tenant: &TenantId) -> Vec<GroupRow> {
    let tree = state.quotas().tree();
    let mut projects: BTreeMap<NodeIx, Vec<String>> = BTreeMap::new();
    for ix in tree.nodes_of(tenant) {
        if let (Some(NodeName::Project(_, project)), Some(parent)) = (tree.name(ix), tree.parent(ix)) {
            projects.entry(parent).or_default().push(project.to_string());
        }
    }
    let groups = tree.nodes_of(tenant).filter_map(|ix| match tree.name(ix) {
        Some(NodeName::Group(_, group)) => Some(GroupRow {
            group: group.to_string(),
            node: name_of(tree, ix),
            parent: tree.parent(ix).map(|parent| name_of(tree, parent)).unwrap_or_default(),
            projects: projects.remove(&ix).unwrap_or_default(),
        }),
        _ => None,
    });
    groups.collect()
}

/// The name of a node that is there.
fn name_of(tree: &Tree, node: NodeIx) -> String {
    tree.name(node).map(ToString::to_string).unwrap_or_default()
}

/// Whose a node is.
fn is_of(tree: &Tree, node: NodeIx, tenant: &TenantId) -> bool {
    tree.name(node).is_some_and(|name| name.tenant() == tenant)
}

/// The cell's region.
fn region(state: &State) -> String {
    state.cell().map(|cell| cell.region.to_string()).unwrap_or_default()
}
