//! What a pool has: its nodes, and what the cloud says that it gives.
//!
//! It speaks of now and of what is planned: a node that has failed counts for nothing, at any instant, until
//! its state is changed again; one with a maintenance window counts for nothing within it. What was before
//! is in the log.
//!
//! Capacity is a [`Steps`], kept up with every change: what it costs to change a node is what
//! [`Steps::add`] costs.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_units::{CloudId, INSTANT_MAX, INSTANT_MIN, IdError, Instant, Interval, NodeId};
use serde::{Deserialize, Serialize};

use crate::steps::Steps;

/// Most GPUs of a pool at any instant: a sum of what is promised stays as small.
pub const POOL_GPUS_MAX: u64 = 1_000_000;
/// Most GPUs of one node.
pub const NODE_GPUS_MAX: u64 = 1_024;
/// Most nodes of a pool.
pub const NODES_MAX: usize = 1 << 16;
/// Most capacity intervals of a pool that the cloud gives.
pub const CAPACITY_INTERVALS_MAX: usize = 1 << 14;

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It works.
    Healthy,
    /// Its operator took it out.
    Cordoned,
    /// It is broken.
    Failed,
    /// It works, but for a planned time.
    Maintenance(Interval),
}

/// A machine with GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// How many.
    pub gpus: u64,
    /// How it is.
    pub state: NodeState,
}

impl Node {
    /// When it counts.
    fn available(&self) -> impl Iterator<Item = Interval> {
        let (before, after) = match self.state {
            NodeState::Healthy => (Interval::from(INSTANT_MIN), None),
            NodeState::Cordoned | NodeState::Failed => (None, None),
            NodeState::Maintenance(window) => {
                (Interval::between(INSTANT_MIN, window.start()), Interval::between(window.end(), INSTANT_MAX))
            }
        };
        before.into_iter().chain(after)
    }
}

/// GPUs that the cloud gives for a time. Where such intervals overlap, they add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityInterval {
    /// What the cloud calls it.
    pub id: CloudId,
    /// How many.
    pub gpus: u64,
    /// While.
    pub interval: Interval,
}

/// What a pool cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesError {
    /// No GPUs, or too many for one machine.
    #[error("node {node} has {gpus} GPUs: give between 1 and {NODE_GPUS_MAX}")]
    NodeGpus {
        /// Which.
        node: NodeId,
        /// How many.
        gpus: u64,
    },
    /// It is there.
    #[error("node {node} is registered already: change its state, or remove it first")]
    Exists {
        /// Which.
        node: NodeId,
    },
    /// It is not there.
    #[error("there is no node {node} in this pool: register it first")]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// More than [`NODES_MAX`].
    #[error("a pool has at most {NODES_MAX} nodes: make another pool")]
    TooManyNodes,
    /// Nothing, or longer than an id once numbered.
    #[error("nodes cannot be numbered: {0}")]
    Name(#[from] IdError),
    /// More than [`POOL_GPUS_MAX`].
    #[error("the pool would have {gpus} GPUs: at most {POOL_GPUS_MAX}, make another pool")]
    TooManyGpus {
        /// How many.
        gpus: u64,
    },
    /// More than [`CAPACITY_INTERVALS_MAX`].
    #[error(
        "{count} capacity intervals: a pool has at most {CAPACITY_INTERVALS_MAX}, drop those that are over"
    )]
    TooManyIntervals {
        /// How many.
        count: usize,
    },
    /// Two of one id, so that one would count twice.
    #[error("capacity interval {id} is listed twice: list each once")]
    IntervalTwice {
        /// Which.
        id: CloudId,
    },
}

/// How many GPUs there are at an instant, each counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// That can be used.
    pub available: u64,
    /// Of nodes that their operator took out.
    pub cordoned: u64,
    /// Of broken nodes.
    pub failed: u64,
    /// Of nodes within their maintenance window.
    pub in_maintenance: u64,
}

impl Inventory {
    /// All that there is.
    pub const fn owned(&self) -> u64 {
        self.available.saturating_add(self.excluded())
    }

    /// What there is and cannot be used.
    pub const fn excluded(&self) -> u64 {
        self.cordoned.saturating_add(self.failed).saturating_add(self.in_maintenance)
    }
}

/// The nodes of a pool, and what the cloud gives besides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Registered", into = "Registered")]
pub struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    intervals: Vec<CapacityInterval>,
    /// GPUs of all nodes.
    owned: u64,
    /// The most that the cloud gives at any instant.
    given: u64,
    capacity: Steps,
}

/// What of it is written down; the rest follows.
#[derive(Serialize, Deserialize)]
struct Registered {
    nodes: BTreeMap<NodeId, Node>,
    intervals: Vec<CapacityInterval>,
}

impl Nodes {
    /// Registers a node that works.
    pub fn register(&mut self, id: NodeId, gpus: u64) -> Result<(), NodesError> {
        self.check_new(&id, gpus)?;
        self.check_sum(gpus, self.given)?;
        self.put(id, Node { gpus, state: NodeState::Healthy });
        Ok(())
    }

    /// Registers so many like nodes, `NAME-1` and so on: all of them, or none.
    pub fn register_number(&mut self, name: &str, count: usize, gpus: u64) -> Result<(), NodesError> {
        if count > NODES_MAX {
            return Err(NodesError::TooManyNodes);
        }
        let ids = (1..=count).map(|number| Ok(NodeId::new(&format!("{name}-{number}"))?));
        let ids = ids.collect::<Result<Vec<_>, NodesError>>()?;
        ids.iter().try_for_each(|id| self.check_new(id, gpus))?;
        if self.nodes.len().saturating_add(count) > NODES_MAX {
            return Err(NodesError::TooManyNodes);
        }
        self.check_sum(gpus.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX)), self.given)?;
        for id in ids {
            self.put(id, Node { gpus, state: NodeState::Healthy });
        }
        Ok(())
    }

    /// Whether a node may be set so, or be forgotten where it is nothing.
    pub fn check(&self, id: &NodeId, node: Option<Node>) -> Result<(), NodesError> {
        let before = self.get(id);
        let Some(Node { gpus, .. }) = node else {
            return before.map(drop).ok_or_else(|| NodesError::Unknown { node: id.clone() });
        };
        let Some(before) = before else {
            self.check_new(id, gpus)?;
            return self.check_sum(gpus, self.given);
        };
        if !(1..=NODE_GPUS_MAX).contains(&gpus) {
            return Err(NodesError::NodeGpus { node: id.clone(), gpus });
        }
        self.check_sum(gpus.saturating_sub(before.gpus), self.given)
    }

    /// Sets a node, a new one or one that is known, or forgets it: without a question, for what
    /// [`Self::check`] said stands in the log.
    pub fn set(&mut self, id: NodeId, node: Option<Node>) {
        match node {
            Some(node) => self.put(id, node),
            None => drop(self.remove(&id)),
        }
    }

    /// GPUs of all nodes.
    pub fn gpus(&self) -> u64 {
        self.owned
    }

    /// Of them, those that cannot be used, from an instant on.
    pub fn excluded(&self, from: Instant) -> Steps {
        let given = Steps::sum(self.intervals.iter().map(|it| (it.interval, it.gpus)));
        let mut all = given;
        if let Some(rest) = Interval::from(from) {
            all.add(rest, self.owned);
        }
        all.beyond(&self.capacity, from)
    }

    /// Changes how a node is.
    pub fn set_state(&mut self, id: &NodeId, state: NodeState) -> Result<(), NodesError> {
        let gpus = self.get(id).ok_or_else(|| NodesError::Unknown { node: id.clone() })?.gpus;
        self.put(id.clone(), Node { gpus, state });
        Ok(())
    }

    /// Forgets a node.
    pub fn remove(&mut self, id: &NodeId) -> Result<Node, NodesError> {
        let node = self.nodes.remove(id).ok_or_else(|| NodesError::Unknown { node: id.clone() })?;
        self.uncount(&node);
        Ok(node)
    }

    /// Takes what the cloud gives now in place of what it gave before.
    pub fn set_intervals(&mut self, intervals: Vec<CapacityInterval>) -> Result<(), NodesError> {
        let given = most_given(&intervals)?;
        self.check_sum(0, given)?;
        self.given = given;
        let before = std::mem::replace(&mut self.intervals, intervals);
        for it in &before {
            self.capacity.subtract(it.interval, it.gpus);
        }
        for it in &self.intervals {
            self.capacity.add(it.interval, it.gpus);
        }
        Ok(())
    }

    /// One node.
    pub fn get(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// All nodes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter()
    }

    /// What the cloud gives.
    pub fn intervals(&self) -> &[CapacityInterval] {
        &self.intervals
    }

    /// What can be used, over time.
    pub fn capacity(&self) -> &Steps {
        &self.capacity
    }

    /// What can be used all the time from the start of the interval to its end.
    pub fn least(&self, within: Interval) -> u64 {
        self.capacity.least(within)
    }

    /// What there is at the instant and how it is, in `O(nodes)`.
    pub fn inventory(&self, at: Instant) -> Inventory {
        let mut inventory = Inventory { available: self.capacity.at(at), ..Inventory::default() };
        for node in self.nodes.values() {
            let place = match node.state {
                NodeState::Cordoned => &mut inventory.cordoned,
                NodeState::Failed => &mut inventory.failed,
                NodeState::Maintenance(window) if window.contains(at) => &mut inventory.in_maintenance,
                NodeState::Healthy | NodeState::Maintenance(_) => continue,
            };
            *place = place.saturating_add(node.gpus);
        }
        inventory
    }

    fn check_new(&self, id: &NodeId, gpus: u64) -> Result<(), NodesError> {
        if !(1..=NODE_GPUS_MAX).contains(&gpus) {
            return Err(NodesError::NodeGpus { node: id.clone(), gpus });
        }
        if self.nodes.contains_key(id) {
            return Err(NodesError::Exists { node: id.clone() });
        }
        if self.nodes.len() >= NODES_MAX { Err(NodesError::TooManyNodes) } else { Ok(()) }
    }

    /// All nodes count as if they worked: a repair must never be refused.
    fn check_sum(&self, more: u64, given: u64) -> Result<(), NodesError> {
        let gpus = self.owned.saturating_add(more).saturating_add(given);
        if gpus > POOL_GPUS_MAX { Err(NodesError::TooManyGpus { gpus }) } else { Ok(()) }
    }

    fn put(&mut self, id: NodeId, node: Node) {
        self.owned = self.owned.saturating_add(node.gpus);
        for interval in node.available() {
            self.capacity.add(interval, node.gpus);
        }
        if let Some(before) = self.nodes.insert(id, node) {
            self.uncount(&before);
        }
    }

    fn uncount(&mut self, node: &Node) {
        self.owned = self.owned.saturating_sub(node.gpus);
        for interval in node.available() {
            self.capacity.subtract(interval, node.gpus);
        }
    }
}

/// The most that the cloud gives at any instant.
fn most_given(intervals: &[CapacityInterval]) -> Result<u64, NodesError> {
    if intervals.len() > CAPACITY_INTERVALS_MAX {
        return Err(NodesError::TooManyIntervals { count: intervals.len() });
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = intervals.iter().find(|it| !seen.insert(&it.id)) {
        return Err(NodesError::IntervalTwice { id: twice.id.clone() });
    }
    let sum = Steps::sum(intervals.iter().map(|it| (it.interval, it.gpus)));
    Ok(Interval::from(INSTANT_MIN).map_or(0, |always| sum.peak(always)))
}

impl TryFrom<Registered> for Nodes {
    type Error = NodesError;

    fn try_from(registered: Registered) -> Result<Self, NodesError> {
        let mut it = Self::default();
        for (id, node) in &registered.nodes {
            it.check_new(id, node.gpus)?;
            it.owned = it.owned.saturating_add(node.gpus);
        }
        if registered.nodes.len() > NODES_MAX {
            return Err(NodesError::TooManyNodes);
        }
        it.given = most_given(&registered.intervals)?;
        it.check_sum(0, it.given)?;
        let of_nodes =
            registered.nodes.values().flat_map(|node| node.available().map(|when| (when, node.gpus)));
        let of_cloud = registered.intervals.iter().map(|it| (it.interval, it.gpus));
        it.capacity = Steps::sum(of_nodes.chain(of_cloud));
        Ok(Self { nodes: registered.nodes, intervals: registered.intervals, ..it })
    }
}

impl From<Nodes> for Registered {
    fn from(nodes: Nodes) -> Self {
        Self { nodes: nodes.nodes, intervals: nodes.intervals }
    }
}
