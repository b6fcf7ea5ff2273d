//! on a log: while it is folded, and at its end.
//!
//! | check | what is compared |
//! |---|---|
//! | Q-1 | after each event, what is granted on the ways that it touched with what was granted before: nothing rises above a limit, and no pool of siblings lends more than is idle. At the end the counters of every node with what holds, leases and instances sum up to |
//! | Q-3 | each hold ends once, in its time: what is late is not committed, what is committed does not expire, and a review leaves nothing behind that is late |
//!
//! Q-2 cannot be checked here: a denial leaves no trace in the log.
//!
//! Only the ways up from what an event names, and from what may be granted along with it, are looked at:
//! the verification of a long log stays as fast as its fold.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_quota::hold::HoldState;
use hourglass_quota::tree::{Above, KeyIx, NodeIx, Taken};
use hourglass_quota::{Class, HoldId, LeaseId, NodeName};
use hourglass_units::{Instant, ResourceName};

use crate::core::market::MarketEvent;
use crate::core::quotas::QuotaEvent;
use crate::core::{Event, Position, Recorded, State};

/// A check that failed, and how.
pub(crate) type Wrong = (&'static str, String);

/// What is known of the holds of the log so far, from its events alone.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// When those that are not committed expire; none where one is committed.
    live: BTreeMap<HoldId, Option<Instant>>,
    expiries: BTreeSet<(Instant, HoldId)>,
}

/// How things stood before an event.
#[derive(Debug)]
pub(crate) struct Before {
    nodes: BTreeSet<NodeIx>,
    above: BTreeMap<(NodeIx, KeyIx, bool), u64>,
    wrong: Vec<Wrong>,
}

impl Before {
    /// What is wrong with the event by itself, whatever it brings about.
    pub(crate) fn wrong(self) -> impl Iterator<Item = Wrong> {
        self.wrong.into_iter()
    }
}

impl Watch {
    /// Looks at an event that has not happened yet.
    pub(crate) fn before(&mut self, state: &State, at: Instant, recorded: &Recorded) -> Before {
        let mut wrong = Vec::new();
        let position = state.position().next();
        if let Err(what) = self.follow(position, at, &recorded.event) {
            wrong.push(("Q-3", what));
        }
        let nodes = touched(state, at, &recorded.event);
        let above = all_above(state, &nodes).map(|it| ((it.node, it.key, it.is_pool), it.by)).collect();
        Before { nodes, above, wrong }
    }

    /// Compares when it has happened.
    pub(crate) fn after(&self, before: Before, state: &State, recorded: &Recorded) -> Vec<Wrong> {
        let Before { mut nodes, above, mut wrong } = before;
        // The event may have made the node that it names.
        nodes.extend(named(state, &recorded.event));
        let tree = state.quotas().tree();
        let lowered = limited(state, &recorded.event).and_then(|(node, resource, class)| {
            let node = tree.find(node)?;
            Some((node, tree.parent(node), tree.key(resource, class)?))
        });
        let is_fact = matches!(recorded.event, Event::InstanceStarted { .. } | Event::Ticked);
        for Above { node, key, is_pool, by } in all_above(state, &nodes) {
            let was = above.get(&(node, key, is_pool)).copied().unwrap_or(0);
            let excused = match lowered {
                // A limit may be lowered below what is used.
                Some((at, _, of)) if !is_pool && at == node && of == key => true,
                Some((_, parent, of)) if is_pool && parent == Some(node) && of.is_same_resource(key) => true,
                // What runs although nobody asked takes of what was lent.
                _ => is_pool && is_fact,
            };
            if by > was && !excused {
                let name = tree.name(node).map(ToString::to_string).unwrap_or_default();
                let key = tree
                    .key_of(key)
                    .map(|key| if is_pool { key.resource.to_string() } else { key.to_string() });
                let key = key.unwrap_or_default();
                let what =
                    if is_pool { "borrow more than their siblings leave" } else { "has more than its limit" };
                let whose = if is_pool { "children of " } else { "" };
                wrong.push(("Q-1", format!("{whose}{name} {what} of {key}: {by} too many, {was} before")));
            }
        }
        wrong.dedup();
        wrong
    }

    /// a hold ends once, and in its time.
    fn follow(&mut self, position: Position, at: Instant, event: &Event) -> Result<(), String> {
        match event {
            Event::Quota(QuotaEvent::HoldTaken { expires_at, .. }) => {
                let hold = HoldId(position.number());
                self.set(hold, Some(Some(*expires_at)));
                if *expires_at <= at {
                    return Err(format!("hold {hold} begins after its end"));
                }
            }
            Event::Quota(QuotaEvent::HoldCommitted { hold }) => {
                self.usable(*hold, at)?;
                self.set(*hold, Some(None));
            }
            Event::Quota(QuotaEvent::HoldRenewed { hold, expires_at }) => {
                if self.usable(*hold, at)?.is_none() {
                    return Err(format!("hold {hold} is committed, and gets another end"));
                }
                self.set(*hold, Some(Some(*expires_at)));
            }
            Event::Quota(QuotaEvent::HoldResized { hold, .. }) => {
                self.usable(*hold, at)?;
            }
            Event::Quota(QuotaEvent::HoldReleased { hold }) => {
                self.live.get(hold).ok_or_else(|| format!("hold {hold} ends, and there is none"))?;
                self.set(*hold, None);
            }
            Event::InstanceRegistered(registration) => {
                if let Some(hold) = registration.hold {
                    self.usable(hold, at)?;
                    self.set(hold, None);
                }
            }
            Event::Quota(QuotaEvent::Reviewed(review)) => {
                for hold in &review.expired {
                    match self.live.get(hold) {
                        Some(Some(expires_at)) if *expires_at <= at => self.set(*hold, None),
                        Some(Some(_)) => return Err(format!("hold {hold} expires before its time")),
                        Some(None) => return Err(format!("hold {hold} is committed, and expires")),
                        None => return Err(format!("hold {hold} expires, and there is none")),
                    }
                }
                if let Some((_, hold)) = self.expiries.first().filter(|(expires_at, _)| *expires_at <= at) {
                    return Err(format!("hold {hold} is late, and the review leaves it"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn usable(&self, hold: HoldId, at: Instant) -> Result<Option<Instant>, String> {
        match self.live.get(&hold) {
            Some(Some(expires_at)) if *expires_at <= at => Err(format!("hold {hold} is used after its end")),
            Some(expires_at) => Ok(*expires_at),
            None => Err(format!("hold {hold} is used, and there is none")),
        }
    }

    /// A hold that is live, with its end where it has one, or that is not any more.
    fn set(&mut self, hold: HoldId, to: Option<Option<Instant>>) {
        if let Some(Some(before)) = self.live.remove(&hold) {
            self.expiries.remove(&(before, hold));
        }
        if let Some(expires_at) = to {
            self.live.insert(hold, expires_at);
            self.expiries.extend(expires_at.map(|expires_at| (expires_at, hold)));
        }
    }

    /// What is wrong at the end of the log.
    pub(crate) fn at_end(&self, state: &State) -> Vec<Wrong> {
        let quotas = state.quotas();
        let holds = quotas
            .holds()
            .iter()
            .map(|(id, hold)| (id, (hold.state != HoldState::Committed).then_some(hold.expires_at)));
        let holds: BTreeMap<HoldId, Option<Instant>> = holds.collect();
        let mut wrong = Vec::new();
        if holds != self.live {
            let differs = |id: &&HoldId| holds.get(id) != self.live.get(id);
            let which = holds.keys().chain(self.live.keys()).find(differs).copied();
            let which = which.map(|id| id.to_string()).unwrap_or_default();
            wrong.push(("Q-3", format!("hold {which} is not what its events make of it")));
        }
        let tree = quotas.tree();
        let mut sums = recount(state);
        for node in tree.nodes() {
            for (key, standing) in tree.standings(node) {
                let counted = sums.remove(&(node, key)).unwrap_or_default();
                if counted != standing.taken {
                    wrong.push(("Q-1", differs(state, node, key, counted, standing.taken)));
                }
            }
        }
        sums.retain(|_, taken| *taken != Taken::default());
        for ((node, key), counted) in sums {
            wrong.push(("Q-1", differs(state, node, key, counted, Taken::default())));
        }
        for node in tree.unsound() {
            let name = tree.name(node).map(ToString::to_string).unwrap_or_default();
            wrong.push(("Q-1", format!("what the children of {name} share does not add up")));
        }
        wrong
    }
}

fn differs(state: &State, node: NodeIx, key: KeyIx, counted: Taken, taken: Taken) -> String {
    let tree = state.quotas().tree();
    let name = tree.name(node).map(ToString::to_string).unwrap_or_default();
    let key = tree.key_of(key).map(|key| key.to_string()).unwrap_or_default();
    format!("{name} counts {taken:?} of {key}; holds, leases and instances sum up to {counted:?}")
}

/// What is taken at each node, summed up from what takes it.
pub(crate) fn recount(state: &State) -> BTreeMap<(NodeIx, KeyIx), Taken> {
    let quotas = state.quotas();
    let tree = quotas.tree();
    let mut sums: BTreeMap<(NodeIx, KeyIx), Taken> = BTreeMap::new();
    let mut count = |node: NodeIx, key: KeyIx, amount: u64, of: fn(&mut Taken) -> &mut u64| {
        for node in std::iter::successors(Some(node), |node| tree.parent(*node)) {
            let sum = of(sums.entry((node, key)).or_default());
            *sum = sum.saturating_add(amount);
        }
    };
    for (_, hold) in quotas.holds().iter() {
        for (key, amount) in &hold.items {
            count(
                hold.node,
                *key,
                *amount,
                match hold.state {
                    HoldState::Pending => |taken| &mut taken.pending,
                    HoldState::Committed => |taken| &mut taken.committed,
                    _ => |taken| &mut taken.held,
                },
            );
        }
    }
    for (_, lease) in quotas.leases().iter() {
        count(lease.node, lease.key, lease.counted(), |taken| &mut taken.leased);
    }
    for (_, instance) in state.instances.iter() {
        if let Some(holding) = instance.holding {
            count(
                holding.node,
                holding.key,
                u64::from(instance.gpus),
                if holding.unheld { |taken| &mut taken.unheld } else { |taken| &mut taken.committed },
            );
        }
    }
    sums
}

fn all_above(state: &State, nodes: &BTreeSet<NodeIx>) -> impl Iterator<Item = Above> {
    nodes.iter().flat_map(|node| state.quotas().tree().above(*node))
}

/// The limit that an event sets.
fn limited<'a>(state: &'a State, event: &'a Event) -> Option<(&'a NodeName, &'a ResourceName, Class)> {
    match event {
        Event::Quota(QuotaEvent::LimitsSet { node, resource, class, .. }) => Some((node, resource, *class)),
        Event::Quota(QuotaEvent::IncreaseRequested(request)) => {
            Some((&request.node, &request.resource, request.class))
        }
        Event::Quota(QuotaEvent::IncreaseDecided { request, .. }) => {
            let request = state.quotas().request(*request)?;
            Some((&request.node, &request.resource, request.class))
        }
        _ => None,
    }
}

/// The nodes that an event names; the tenant's for those that it will make.
fn named(state: &State, event: &Event) -> Vec<NodeIx> {
    let quotas = state.quotas();
    let tree = quotas.tree();
    let find = |node: &NodeName| {
        tree.find(node).or_else(|| tree.find(&NodeName::Tenant(node.tenant().clone()))).into_iter().collect()
    };
    let of_hold = |hold: &HoldId| quotas.holds().get(*hold).map(|hold| hold.node);
    let of_lease = |lease: &LeaseId| quotas.leases().get(*lease).map(|lease| lease.node);
    match event {
        Event::InstanceRegistered(it) => tree.project_or_root(&it.tenant, &it.project).into_iter().collect(),
        Event::InstanceStarted { instance, .. }
        | Event::InstanceStopped { instance, .. }
        | Event::ModeChanged { instance, .. } => {
            let view = state.instance(instance.as_str());
            view.and_then(|view| tree.project(view.tenant(), view.project())).into_iter().collect()
        }
        Event::Market(MarketEvent::Cleared(it)) => {
            let bids = it.starts.iter().filter_map(|start| state.market().numbered(start.number));
            bids.filter_map(|bid| tree.project_or_root(&bid.tenant, &bid.draft.project)).collect()
        }
        Event::Quota(QuotaEvent::HoldTaken { tenant, project, .. }) => {
            tree.project_or_root(tenant, project).into_iter().collect()
        }
        Event::Quota(QuotaEvent::ProjectPlaced { tenant, project, group }) => {
            let group = group.as_ref().and_then(|it| tree.find(&NodeName::Group(tenant.clone(), it.clone())));
            group.into_iter().chain(tree.project_or_root(tenant, project)).collect()
        }
        Event::Quota(QuotaEvent::LimitsSet { node, .. } | QuotaEvent::LeaseGranted { node, .. }) => {
            find(node)
        }
        Event::Quota(QuotaEvent::IncreaseRequested(request)) => find(&request.node),
        Event::Quota(QuotaEvent::IncreaseDecided { request, .. }) => {
            quotas.request(*request).map(|request| find(&request.node)).unwrap_or_default()
        }
        Event::Quota(
            QuotaEvent::HoldCommitted { hold }
            | QuotaEvent::HoldReleased { hold }
            | QuotaEvent::HoldRenewed { hold, .. }
            | QuotaEvent::HoldResized { hold, .. },
        ) => of_hold(hold).into_iter().collect(),
        Event::Quota(QuotaEvent::LeaseRefreshed { lease, .. } | QuotaEvent::LeaseReturned { lease }) => {
            of_lease(lease).into_iter().collect()
        }
        Event::Quota(QuotaEvent::Reviewed(review)) => review
            .expired
            .iter()
            .filter_map(of_hold)
            .chain(review.lapsed.iter().filter_map(of_lease))
            .collect(),
        _ => Vec::new(),
    }
}

/// The nodes at which an event can change what is granted.
fn touched(state: &State, at: Instant, event: &Event) -> BTreeSet<NodeIx> {
    let quotas = state.quotas();
    let mut nodes: BTreeSet<NodeIx> = named(state, event).into_iter().collect();
    if let Event::Ticked = event {
        // What was reserved until now counts otherwise, and what ran without a hold may get one.
        let over = state.reservations().filter(|held| held.reservation.interval().end() <= at);
        let members = over.flat_map(|held| held.members.iter()).chain(&quotas.unheld);
        let holdings = members.filter_map(|ix| state.instances.get(*ix)?.holding);
        nodes.extend(holdings.map(|holding| holding.node));
    }
    if matches!(
        event,
        Event::Quota(_) | Event::InstanceStopped { .. } | Event::ModeChanged { .. } | Event::Ticked
    ) {
        // What waits may be granted along with it.
        nodes.extend(quotas.holds().pending().filter_map(|id| Some(quotas.holds().get(id)?.node)));
    }
    nodes
}
