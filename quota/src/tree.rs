//! The tree of limits, and what is taken at each of its nodes.
//!
//! A node counts what is taken below it, so a question walks from a project up to its tenant and looks
//! at one slot a level. Siblings form a *pool*: what they leave idle of their nominal quotas, class by
//! class, preemptible work among them may borrow. The pool is counted as it changes, never by a walk
//! over the siblings.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use hourglass_units::{GroupId, ProjectId, ResourceName, TenantId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::denial::{Denial, Misfit};
use crate::limit::{Bound, Class, Key, Limits};
use crate::name::NodeName;

/// Most nodes of a tree, over all tenants.
pub const NODES_MAX: usize = 1 << 20;
/// Most groups on the way from a project to its tenant.
pub const GROUP_DEPTH_MAX: usize = 8;
/// Most that is granted of a key at a node, where nothing else limits it: what runs although nobody
/// asked is counted above it.
pub const SUM_MAX: u64 = 1 << 62;
/// Most different resources.
pub const RESOURCES_MAX: usize = 1 << 12;

/// Index of a node; a node is never taken away, so it stays.
pub type NodeIx = u32;

/// A key by number: the resource's, and the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyIx(u16, Class);

impl KeyIx {
    /// The class.
    pub fn class(self) -> Class {
        self.1
    }

    /// One number for both parts. Resources keep theirs, so it names the key for ever.
    pub fn number(self) -> u32 {
        let class = Class::ALL.iter().position(|class| *class == self.1).unwrap_or(0);
        let classes = u32::try_from(Class::ALL.len()).unwrap_or(u32::MAX);
        u32::from(self.0).saturating_mul(classes).saturating_add(u32::try_from(class).unwrap_or(0))
    }

    /// Whether both are of one resource.
    pub fn is_same_resource(self, other: Self) -> bool {
        self.0 == other.0
    }

    fn of_class(self, class: Class) -> Self {
        Self(self.0, class)
    }
}

/// Amounts of a vector, by key.
pub type Items = SmallVec<[(KeyIx, u64); 1]>;

/// The log holds what no decision can have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// As what an amount is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Held for a time, not committed yet.
    Held,
    /// Committed, or an instance that was accepted.
    Committed,
    /// Leased to a remote checker.
    Leased,
    /// Granted, and waiting until what was lent is taken back.
    Pending,
    /// Runs although nobody asked.
    Unheld,
}

/// What is taken at a node of a key, itself and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Taken {
    /// Held for a time.
    pub held: u64,
    /// Committed.
    pub committed: u64,
    /// Leased to remote checkers.
    pub leased: u64,
    /// Waiting until what was lent is taken back.
    pub pending: u64,
    /// Running without a hold.
    pub unheld: u64,
}

impl Taken {
    /// What was granted: this never rises above a limit.
    pub const fn granted(&self) -> u64 {
        self.held.saturating_add(self.committed).saturating_add(self.leased)
    }

    /// What was granted, and what runs although nobody asked.
    pub const fn firm(&self) -> u64 {
        self.granted().saturating_add(self.unheld)
    }

    /// All that a new hold must leave room for.
    pub const fn claimed(&self) -> u64 {
        self.granted().saturating_add(self.pending).saturating_add(self.unheld)
    }

    /// What is in use, as people are told: all but what is held.
    pub const fn used(&self) -> u64 {
        self.committed.saturating_add(self.leased).saturating_add(self.unheld)
    }

    fn counter(&mut self, counter: Counter) -> &mut u64 {
        match counter {
            Counter::Held => &mut self.held,
            Counter::Committed => &mut self.committed,
            Counter::Leased => &mut self.leased,
            Counter::Pending => &mut self.pending,
            Counter::Unheld => &mut self.unheld,
        }
    }

    const fn is_zero(&self) -> bool {
        self.claimed() == 0
    }
}

/// A key at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    key: KeyIx,
    limits: Option<Limits>,
    taken: Taken,
}

impl Slot {
    fn nominal(&self) -> Option<u64> {
        match self.limits?.nominal {
            Bound::Unlimited => None,
            Bound::AtMost(most) => Some(most),
        }
    }

    /// The most that Q-1 allows without a look at the pool: only what has siblings borrows. `None` where
    /// nothing limits it.
    fn allowed(&self, has_siblings: bool) -> Option<u64> {
        let (nominal, borrowing) = (self.nominal()?, self.limits?.borrowing);
        match (self.key.class(), borrowing) {
            (Class::Preemptible, Bound::Unlimited) if has_siblings => None,
            (Class::Preemptible, Bound::AtMost(more)) if has_siblings => Some(nominal.saturating_add(more)),
            _ => Some(nominal),
        }
    }

    /// The same when so much of what waits is granted.
    fn granting(&self, amount: u64) -> Self {
        let mut granted = self.clone();
        granted.taken.pending = granted.taken.pending.saturating_sub(amount);
        granted.taken.held = granted.taken.held.saturating_add(amount);
        granted
    }

    /// By how much its limits are exceeded, with what waits.
    fn excess(&self, has_siblings: bool) -> u64 {
        self.allowed(has_siblings).map_or(0, |most| self.taken.claimed().saturating_sub(most))
    }

    /// What it gives to its siblings' pool, and takes from it.
    fn share(&self) -> Share {
        let (Some(limits), Some(nominal)) = (self.limits, self.nominal()) else { return Share::default() };
        if self.key.class() == Class::Reserved {
            return Share::default();
        }
        let (firm, claimed) = (self.taken.firm(), self.taken.claimed());
        let idle = |taken: u64| u128::from(limits.lending.cap(nominal.saturating_sub(taken)));
        let borrows = self.key.class() == Class::Preemptible;
        let above = |taken: u64| if borrows { u128::from(taken.saturating_sub(nominal)) } else { 0 };
        Share { idle: idle(firm), unclaimed: idle(claimed), borrowed: above(firm), borrowing: above(claimed) }
    }
}

/// A sum over siblings, or the part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Share {
    /// Nominal quota that is not used, as far as it is lent.
    idle: u128,
    /// The same without what waits for it.
    unclaimed: u128,
    /// What preemptible work has above its own nominal quota.
    borrowed: u128,
    /// The same with what waits: below another node it may wait for quota that it borrows here.
    borrowing: u128,
}

impl Share {
    /// What is borrowed above all that is idle.
    fn overdraft(&self) -> u128 {
        self.borrowed.saturating_sub(self.idle)
    }

    /// What is borrowed and claimed back.
    fn shortage(&self) -> u128 {
        self.borrowed.saturating_sub(self.unclaimed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    name: NodeName,
    parent: Option<NodeIx>,
    slots: SmallVec<[Slot; 1]>,
    /// By resource, what its children share.
    pools: SmallVec<[(u16, Share); 1]>,
}

impl Node {
    fn slot(&self, key: KeyIx) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.key == key)
    }

    fn slot_mut(&mut self, key: KeyIx) -> &mut Slot {
        let at = self.slots.iter().position(|slot| slot.key == key).unwrap_or_else(|| {
            let at = self.slots.partition_point(|slot| slot.key < key);
            self.slots.insert(at, Slot { key, limits: None, taken: Taken::default() });
            at
        });
        #[expect(clippy::indexing_slicing, reason = "found or inserted above")]
        &mut self.slots[at]
    }

    fn pool(&self, key: KeyIx) -> Share {
        self.pools.iter().find(|(resource, _)| *resource == key.0).map_or_else(Share::default, |it| it.1)
    }

    fn exchange(&mut self, key: KeyIx, before: Share, after: Share) -> Result<(), Broken> {
        if before == after {
            return Ok(());
        }
        let at = self.pools.iter().position(|(resource, _)| *resource == key.0).unwrap_or_else(|| {
            self.pools.push((key.0, Share::default()));
            self.pools.len().saturating_sub(1)
        });
        let broken = || Broken("a pool of siblings does not add up");
        let (_, pool) = self.pools.get_mut(at).ok_or_else(broken)?;
        let change = |sum: u128, before: u128, after: u128| sum.checked_add(after)?.checked_sub(before);
        pool.idle = change(pool.idle, before.idle, after.idle).ok_or_else(broken)?;
        pool.unclaimed = change(pool.unclaimed, before.unclaimed, after.unclaimed).ok_or_else(broken)?;
        pool.borrowed = change(pool.borrowed, before.borrowed, after.borrowed).ok_or_else(broken)?;
        pool.borrowing = change(pool.borrowing, before.borrowing, after.borrowing).ok_or_else(broken)?;
        Ok(())
    }
}

/// Whether something fits, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// At once.
    Now,
    /// When what was lent to siblings is back.
    AfterReclaim,
}

/// What is granted above a limit, or borrowed in a pool above what is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Above {
    /// Where; of a pool, whose children share it.
    pub node: NodeIx,
    /// Of what; of a pool, the preemptible key of its resource.
    pub key: KeyIx,
    /// Whether it is the pool of the node's children.
    pub is_pool: bool,
    /// By how much.
    pub by: u64,
}

/// How much more a slot can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// When what was lent is back.
    most: u64,
    /// At once.
    now: u64,
}

/// What stands at a node of a key, as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its limits; none where it has none of its own.
    pub limits: Option<Limits>,
    /// What is taken.
    pub taken: Taken,
    /// What it borrows of its siblings.
    pub borrowed: u64,
    /// Whether more is taken than the limits allow: they were lowered, or something runs without a hold.
    pub over: bool,
}

/// All nodes of all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tree {
    resources: Vec<ResourceName>,
    resource_ix: BTreeMap<ResourceName, u16>,
    nodes: Nodes,
}

/// The nodes, found by name through an index that holds no second copy of it.
#[derive(Clone, Default)]
struct Nodes {
    all: Vec<Node>,
    by_name: HashTable<NodeIx>,
    hasher: DefaultHashBuilder,
}

/// A name in parts, so that looking it up takes no copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Name<'a> {
    Tenant(&'a str),
    Group(&'a str, &'a str),
    Project(&'a str, &'a str),
}

impl<'a> From<&'a NodeName> for Name<'a> {
    fn from(name: &'a NodeName) -> Self {
        match name {
            NodeName::Tenant(tenant) => Self::Tenant(tenant.as_str()),
            NodeName::Group(tenant, group) => Self::Group(tenant.as_str(), group.as_str()),
            NodeName::Project(tenant, project) => Self::Project(tenant.as_str(), project.as_str()),
        }
    }
}

impl Nodes {
    fn find(&self, name: Name<'_>) -> Option<NodeIx> {
        let is_it =
            |ix: &NodeIx| self.all.get(*ix as usize).is_some_and(|node| Name::from(&node.name) == name);
        self.by_name.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// Adds a node whose name is new. `None` beyond 2^32.
    fn push(&mut self, node: Node) -> Option<NodeIx> {
        let ix = NodeIx::try_from(self.all.len()).ok()?;
        let hash = self.hasher.hash_one(Name::from(&node.name));
        self.all.push(node);
        let Self { all, by_name, hasher } = self;
        let hash_of =
            |ix: &NodeIx| all.get(*ix as usize).map_or(0, |node| hasher.hash_one(Name::from(&node.name)));
        by_name.insert_unique(hash, ix, hash_of);
        Some(ix)
    }
}

impl PartialEq for Nodes {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Nodes {}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl Serialize for Nodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut nodes = Self::default();
        for node in Vec::deserialize(deserializer)? {
            nodes.push(node).ok_or_else(|| serde::de::Error::custom("more nodes than an index holds"))?;
        }
        Ok(nodes)
    }
}

impl Tree {
    /// The node of a name.
    pub fn find(&self, name: &NodeName) -> Option<NodeIx> {
        self.nodes.find(name.into())
    }

    /// The node of a project, without a copy of its names.
    pub fn project(&self, tenant: &TenantId, project: &ProjectId) -> Option<NodeIx> {
        self.nodes.find(Name::Project(tenant.as_str(), project.as_str()))
    }

    /// The node at which a project's holds are counted: its own, or its tenant's as long as nobody has
    /// mentioned the project.
    pub fn project_or_root(&self, tenant: &TenantId, project: &ProjectId) -> Option<NodeIx> {
        self.project(tenant, project).or_else(|| self.nodes.find(Name::Tenant(tenant.as_str())))
    }

    /// The name of a node.
    pub fn name(&self, node: NodeIx) -> Option<&NodeName> {
        self.node(node).map(|node| &node.name)
    }

    /// The parent of a node.
    pub fn parent(&self, node: NodeIx) -> Option<NodeIx> {
        self.node(node)?.parent
    }

    /// The nodes of a tenant, itself included, in the order of their names.
    pub fn nodes_of(&self, tenant: &TenantId) -> impl Iterator<Item = NodeIx> {
        let of_tenant = self.iter().filter(|(_, node)| node.name.tenant() == tenant);
        let mut nodes: Vec<(NodeIx, &NodeName)> = of_tenant.map(|(ix, node)| (ix, &node.name)).collect();
        nodes.sort_by_key(|(_, name)| *name);
        nodes.into_iter().map(|(ix, _)| ix)
    }

    /// Whether there is room for another node.
    pub fn has_room(&self) -> bool {
        self.nodes.all.len() < NODES_MAX
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.all.is_empty()
    }

    /// The number of a key, where its resource was ever mentioned.
    pub fn key(&self, resource: &ResourceName, class: Class) -> Option<KeyIx> {
        self.resource_ix.get(resource).map(|ix| KeyIx(*ix, class))
    }

    /// The number of a key, given where it is new. `None` beyond [`RESOURCES_MAX`].
    pub fn intern(&mut self, resource: &ResourceName, class: Class) -> Option<KeyIx> {
        if let Some(key) = self.key(resource, class) {
            return Some(key);
        }
        if self.resources.len() >= RESOURCES_MAX {
            return None;
        }
        let ix = u16::try_from(self.resources.len()).ok()?;
        self.resources.push(resource.clone());
        self.resource_ix.insert(resource.clone(), ix);
        Some(KeyIx(ix, class))
    }

    /// Whether a new resource could be mentioned.
    pub fn has_room_for(&self, resource: &ResourceName) -> bool {
        self.resource_ix.contains_key(resource) || self.resources.len() < RESOURCES_MAX
    }

    /// The key with a [number](KeyIx::number), where its resource was ever mentioned.
    pub fn numbered(&self, number: u32) -> Option<KeyIx> {
        let number = usize::try_from(number).ok()?;
        let resource = number.checked_div(Class::ALL.len())?;
        let class = Class::ALL.get(number.checked_rem(Class::ALL.len())?)?;
        self.resources.get(resource)?;
        Some(KeyIx(u16::try_from(resource).ok()?, *class))
    }

    /// What a number stands for.
    pub fn key_of(&self, key: KeyIx) -> Option<Key> {
        let resource = self.resources.get(usize::from(key.0))?.clone();
        Some(Key { resource, class: key.1 })
    }

    /// Adds a node, under its tenant where no group is given. One that is there stays where it is.
    pub fn ensure(&mut self, name: &NodeName, group: Option<&GroupId>) -> Result<NodeIx, Broken> {
        if let Some(node) = self.find(name) {
            return Ok(node);
        }
        let tenant = name.tenant();
        let parent = match (name, group) {
            (NodeName::Tenant(_), _) => None,
            (_, None) => Some(self.ensure(&NodeName::Tenant(tenant.clone()), None)?),
            (_, Some(group)) => {
                let known = self.find(&NodeName::Group(tenant.clone(), group.clone()));
                Some(known.ok_or(Broken("a node in an unknown group"))?)
            }
        };
        let (slots, pools) = (SmallVec::new(), SmallVec::new());
        let node = Node { name: name.clone(), parent, slots, pools };
        self.nodes.push(node).ok_or(Broken("more nodes than an index holds"))
    }

    /// How many groups lie between a node and its tenant, itself included where it is one.
    pub fn depth(&self, node: NodeIx) -> usize {
        self.path(node).filter(|(_, node)| matches!(node.name, NodeName::Group(..))).count()
    }

    /// What stands at a node.
    pub fn standing(&self, node: NodeIx, key: KeyIx) -> Standing {
        let slot = self.node(node).and_then(|node| node.slot(key));
        slot.map_or_else(
            || Standing { limits: None, taken: Taken::default(), borrowed: 0, over: false },
            |slot| self.standing_of(node, slot),
        )
    }

    /// What stands at a node, for every key that was ever limited or taken there.
    pub fn standings(&self, node: NodeIx) -> impl Iterator<Item = (KeyIx, Standing)> {
        let slots = self.node(node).into_iter().flat_map(|node| node.slots.iter());
        slots
            .filter(|slot| slot.limits.is_some() || !slot.taken.is_zero())
            .map(move |slot| (slot.key, self.standing_of(node, slot)))
    }

    fn standing_of(&self, node: NodeIx, slot: &Slot) -> Standing {
        let borrowed = u64::try_from(slot.share().borrowed).unwrap_or(u64::MAX);
        Standing { limits: slot.limits, taken: slot.taken, borrowed, over: self.is_over(node, slot) }
    }

    fn is_over(&self, node: NodeIx, slot: &Slot) -> bool {
        let Some(limits) = slot.limits else { return false };
        let taken = slot.taken.granted().saturating_add(slot.taken.unheld);
        if limits.nominal.admits(taken) {
            return false;
        }
        if slot.key.class() != Class::Preemptible {
            return true;
        }
        let borrowed = u64::try_from(slot.share().borrowed).unwrap_or(u64::MAX);
        let pool = self.pool_above(node, slot.key);
        !limits.borrowing.admits(borrowed) || pool.is_none_or(|pool| pool.borrowed > pool.idle)
    }

    fn pool_above(&self, node: NodeIx, key: KeyIx) -> Option<Share> {
        Some(self.node(self.parent(node)?)?.pool(key))
    }

    /// Whether a vector fits on the whole way from a node up to its tenant: all or nothing.
    ///
    /// Items of one resource must be of one class, and each key stands once.
    pub fn fit(&self, node: NodeIx, items: &[(KeyIx, u64)]) -> Result<Fit, Misfit> {
        if let Some(misfit) = self.least(node, items, |room| room.most) {
            return Err(misfit);
        }
        let waits = self.least(node, items, |room| room.now).is_some();
        Ok(if waits { Fit::AfterReclaim } else { Fit::Now })
    }

    /// Where a vector that fits has to wait until what was lent is back, and what would fit without.
    pub fn waits(&self, node: NodeIx, items: &[(KeyIx, u64)]) -> Option<Misfit> {
        self.least(node, items, |room| room.now)
    }

    /// The first item that does not fit, at the node where the least of it does.
    fn least(&self, node: NodeIx, items: &[(KeyIx, u64)], of: impl Fn(Room) -> u64) -> Option<Misfit> {
        items.iter().find_map(|&(key, asked)| {
            let rooms = self.path(node).filter_map(|(ix, it)| {
                let slot = it.slot(key)?;
                let countable = SUM_MAX.saturating_sub(slot.taken.claimed());
                let room = self.room(it, slot).unwrap_or(Room { most: countable, now: countable });
                Some((of(room), ix))
            });
            // The lowest of those with as little room.
            let (fits, node) = rooms.min_by_key(|(room, _)| *room).filter(|(room, _)| *room < asked)?;
            Some(Misfit { node, key, asked, fits })
        })
    }

    /// How much more a slot can take. `None` where nothing limits it.
    fn room(&self, node: &Node, slot: &Slot) -> Option<Room> {
        let (limits, nominal) = (slot.limits?, slot.nominal()?);
        let own = nominal.saturating_sub(slot.taken.claimed());
        let pool = node.parent.and_then(|parent| self.node(parent)).map(|parent| parent.pool(slot.key));
        let (Some(pool), true) = (pool, slot.key.class() != Class::Reserved) else {
            return Some(Room { most: own, now: own });
        };
        let share = slot.share();
        // What all others leave when all that it lends itself is taken.
        let others = pool.unclaimed.saturating_sub(share.unclaimed);
        let borrowing = if slot.key.class() == Class::Preemptible {
            let more = limits.borrowing.less(u64::try_from(share.borrowing).unwrap_or(u64::MAX));
            let left = u64::try_from(others.saturating_sub(pool.borrowing)).unwrap_or(u64::MAX);
            more.unwrap_or(u64::MAX).min(left)
        } else {
            0
        };
        let most = own.saturating_add(borrowing);
        // What others do not cover of what is borrowed is lent by this slot: that much must stay idle.
        let lent = u64::try_from(pool.borrowed.saturating_sub(others)).unwrap_or(u64::MAX);
        let now = match lent {
            0 => most,
            lent if limits.lending.admits(lent) => own.saturating_sub(lent),
            _ => 0,
        };
        Some(Room { most, now })
    }

    /// How much of one key fits on the whole way up.
    pub fn fits(&self, node: NodeIx, key: KeyIx) -> Option<u64> {
        self.path(node).filter_map(|(_, node)| Some(self.room(node, node.slot(key)?)?.most)).min()
    }

    /// How much of a key has to go below a node before any of it fits: what is above a limit that was
    /// lowered, and what is borrowed and claimed back.
    pub fn surplus(&self, node: NodeIx, key: KeyIx) -> u64 {
        let surplus = self.path(node).filter_map(|(_, it)| {
            let slot = it.slot(key)?;
            let pool = it.parent.and_then(|parent| self.node(parent)).map(|parent| parent.pool(key));
            let shortage = pool.map_or(0, |pool| pool.shortage().min(slot.share().borrowed));
            Some(slot.excess(it.parent.is_some()).max(u64::try_from(shortage).unwrap_or(u64::MAX)))
        });
        surplus.max().unwrap_or(0)
    }

    /// Counts more at a node and all above it.
    pub fn add(&mut self, node: NodeIx, counter: Counter, items: &[(KeyIx, u64)]) -> Result<(), Broken> {
        self.change(node, items, |taken, amount| {
            let sum = taken.counter(counter);
            *sum = sum.checked_add(amount).ok_or(Broken("more is taken than can be counted"))?;
            Ok(())
        })
    }

    /// Counts less at a node and all above it.
    pub fn remove(&mut self, node: NodeIx, counter: Counter, items: &[(KeyIx, u64)]) -> Result<(), Broken> {
        self.change(node, items, |taken, amount| {
            let sum = taken.counter(counter);
            *sum = sum.checked_sub(amount).ok_or(Broken("more is given back than was taken"))?;
            Ok(())
        })
    }

    /// What was counted as one thing is counted as another.
    pub fn recount(
        &mut self,
        node: NodeIx,
        (from, to): (Counter, Counter),
        items: &[(KeyIx, u64)],
    ) -> Result<(), Broken> {
        self.change(node, items, |taken, amount| {
            let sum = taken.counter(from);
            *sum = sum.checked_sub(amount).ok_or(Broken("more is given back than was taken"))?;
            let sum = taken.counter(to);
            *sum = sum.checked_add(amount).ok_or(Broken("more is taken than can be counted"))?;
            Ok(())
        })
    }

    fn change(
        &mut self,
        node: NodeIx,
        items: &[(KeyIx, u64)],
        change: impl Fn(&mut Taken, u64) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        for &(key, amount) in items {
            let mut next = Some(node);
            while let Some(ix) = next {
                let node = self.node_mut(ix).ok_or(Broken("a node that is not there"))?;
                next = node.parent;
                let slot = node.slot_mut(key);
                let before = slot.share();
                change(&mut slot.taken, amount)?;
                let after = slot.share();
                if let Some(parent) = next.filter(|_| before != after) {
                    let parent = self.node_mut(parent).ok_or(Broken("a node that is not there"))?;
                    parent.exchange(key, before, after)?;
                }
            }
        }
        Ok(())
    }

    /// Sets the limits of a node, or takes them away.
    pub fn set_limits(&mut self, node: NodeIx, key: KeyIx, limits: Option<Limits>) -> Result<(), Broken> {
        let it = self.node_mut(node).ok_or(Broken("a node that is not there"))?;
        let parent = it.parent;
        let slot = it.slot_mut(key);
        let before = slot.share();
        slot.limits = limits;
        let after = slot.share();
        match parent {
            None => Ok(()),
            Some(parent) => {
                let parent = self.node_mut(parent).ok_or(Broken("a node that is not there"))?;
                parent.exchange(key, before, after)
            }
        }
    }

    /// Whether what is taken below a node fits under another parent, and what it lends can be spared: no
    /// limit on either way may be exceeded by more than before, and no pool.
    pub fn fits_under(&self, node: NodeIx, parent: NodeIx) -> Result<(), Denial> {
        let Some(old) = self.parent(node) else { return Ok(()) };
        let (mut moved, known) = self.excerpt([node, old, parent]);
        let at = |ix: NodeIx| known.iter().position(|it| *it == ix).and_then(|at| NodeIx::try_from(at).ok());
        let (Some(of), Some(to)) = (at(node), at(parent)) else { return Ok(()) };
        let before = moved.clone();
        if moved.reparent(of, to).is_err() {
            return Ok(());
        }
        for ((ix, was), is) in known.iter().zip(&before.nodes.all).zip(&moved.nodes.all) {
            for slot in &is.slots {
                let excess = |it: &Node| it.slot(slot.key).map_or(0, |slot| slot.excess(it.parent.is_some()));
                let more = excess(is).saturating_sub(excess(was));
                if more > 0 {
                    let asked = self.standing(node, slot.key).taken.claimed();
                    let fits = asked.saturating_sub(more);
                    return Err(self.denial(&Misfit { node: *ix, key: slot.key, asked, fits }));
                }
            }
            for (resource, pool) in &is.pools {
                let key = KeyIx(*resource, Class::Preemptible);
                let more = pool.overdraft().saturating_sub(was.pool(key).overdraft());
                let more = more.max(pool.shortage().saturating_sub(was.pool(key).shortage()));
                if more > 0 {
                    // It borrows there, or others borrow of it here.
                    let asked = u64::try_from(more).unwrap_or(u64::MAX);
                    return Err(self.denial(&Misfit { node, key, asked, fits: 0 }));
                }
            }
        }
        Ok(())
    }

    /// A small tree of some nodes and all above them, without names, and the nodes that they are here.
    fn excerpt(&self, of: [NodeIx; 3]) -> (Self, SmallVec<[NodeIx; 16]>) {
        let mut known: SmallVec<[NodeIx; 16]> = SmallVec::new();
        for (ix, _) in of.into_iter().flat_map(|node| self.path(node)) {
            if !known.contains(&ix) {
                known.push(ix);
            }
        }
        let at = |ix: NodeIx| known.iter().position(|it| *it == ix).and_then(|at| NodeIx::try_from(at).ok());
        let nodes = known.iter().filter_map(|ix| self.node(*ix));
        let nodes = nodes.map(|node| Node { parent: node.parent.and_then(at), ..node.clone() }).collect();
        // Nobody looks a name up in it, so it has no index.
        let nodes = Nodes { all: nodes, ..Nodes::default() };
        (Self { nodes, ..Self::default() }, known)
    }

    /// Gives a node another parent, with all that is taken below it.
    pub fn reparent(&mut self, node: NodeIx, parent: NodeIx) -> Result<(), Broken> {
        let it = self.node(node).ok_or(Broken("a node that is not there"))?;
        let Some(old) = it.parent else { return Err(Broken("a tenant in a group")) };
        let slots = it.slots.clone();
        for slot in &slots {
            self.carry(old, slot, false)?;
        }
        if let Some(it) = self.node_mut(node) {
            it.parent = Some(parent);
        }
        for slot in &slots {
            self.carry(parent, slot, true)?;
        }
        Ok(())
    }

    /// Adds what a child has in a slot to its parent and all above it, or takes it away.
    fn carry(&mut self, parent: NodeIx, slot: &Slot, add: bool) -> Result<(), Broken> {
        let (none, share) = (Share::default(), slot.share());
        let it = self.node_mut(parent).ok_or(Broken("a node that is not there"))?;
        it.exchange(slot.key, if add { none } else { share }, if add { share } else { none })?;
        let taken = slot.taken;
        let counted = [
            (Counter::Held, taken.held),
            (Counter::Committed, taken.committed),
            (Counter::Leased, taken.leased),
            (Counter::Pending, taken.pending),
            (Counter::Unheld, taken.unheld),
        ];
        for (counter, amount) in counted.into_iter().filter(|(_, amount)| *amount > 0) {
            let items = [(slot.key, amount)];
            if add { self.add(parent, counter, &items)? } else { self.remove(parent, counter, &items)? }
        }
        Ok(())
    }

    /// Whether a vector that waits can be granted now: everything lent that it needs is back, and no limit
    /// was lowered meanwhile so far that it would be exceeded.
    pub fn is_reclaimed(&self, node: NodeIx, items: &[(KeyIx, u64)]) -> bool {
        items.iter().all(|(key, amount)| {
            self.path(node).all(|(_, it)| {
                let Some(before) = it.slot(*key).filter(|slot| slot.nominal().is_some()) else { return true };
                let granted = before.granting(*amount);
                if granted.allowed(it.parent.is_some()).is_some_and(|most| granted.taken.firm() > most) {
                    return false;
                }
                let Some(parent) = it.parent.and_then(|parent| self.node(parent)) else { return true };
                if key.class() == Class::Reserved {
                    return true;
                }
                let mut pool = parent.pool(*key);
                let (before, after) = (before.share(), granted.share());
                pool.idle = pool.idle.saturating_sub(before.idle).saturating_add(after.idle);
                pool.borrowed = pool.borrowed.saturating_sub(before.borrowed).saturating_add(after.borrowed);
                // What others claim is not borrowed.
                if after.borrowed > before.borrowed { pool.shortage() == 0 } else { pool.overdraft() == 0 }
            })
        })
    }

    /// Whether a vector that waits borrows of anybody when it is granted.
    pub fn would_borrow(&self, node: NodeIx, items: &[(KeyIx, u64)]) -> bool {
        items.iter().any(|(key, amount)| {
            let mut slots = self.path(node).filter_map(|(_, it)| it.slot(*key));
            slots.any(|slot| slot.granting(*amount).share().borrowed > slot.share().borrowed)
        })
    }

    /// The pools in which more is borrowed than is left for it: of which parent, of which resource, how
    /// much.
    pub fn overdrawn(&self) -> impl Iterator<Item = (NodeIx, ResourceName, u64)> {
        self.iter().flat_map(move |(ix, node): (NodeIx, &Node)| {
            node.pools.iter().filter_map(move |(resource, pool)| {
                let excess = pool.borrowed.checked_sub(pool.unclaimed).filter(|excess| *excess > 0)?;
                let resource = self.resources.get(usize::from(*resource))?.clone();
                Some((ix, resource, u64::try_from(excess).unwrap_or(u64::MAX)))
            })
        })
    }

    /// The slots that are above limits that drain: where, of what, by how much.
    pub fn draining(&self) -> impl Iterator<Item = (NodeIx, Key, u64)> {
        self.iter().flat_map(move |(ix, node): (NodeIx, &Node)| {
            let over = node
                .slots
                .iter()
                .filter(move |slot| slot.limits.is_some_and(|limits| limits.drain) && self.is_over(ix, slot));
            over.filter_map(move |slot| {
                let most = slot.allowed(node.parent.is_some())?;
                let excess = slot.taken.firm().checked_sub(most).filter(|excess| *excess > 0)?;
                Some((ix, self.key_of(slot.key)?, excess))
            })
        })
    }

    /// What the children of a node borrow, most first.
    pub fn borrowers(&self, parent: NodeIx, resource: &ResourceName) -> Vec<(NodeIx, u64)> {
        let Some(key) = self.key(resource, Class::Preemptible) else { return Vec::new() };
        let children = self.iter().filter(|(_, node)| node.parent == Some(parent));
        let borrowed = children.filter_map(|(ix, node): (NodeIx, &Node)| {
            let borrowed = u64::try_from(node.slot(key)?.share().borrowed).unwrap_or(u64::MAX);
            (borrowed > 0).then_some((ix, borrowed))
        });
        let mut borrowers: Vec<(NodeIx, u64)> = borrowed.collect();
        borrowers.sort_by_key(|(ix, borrowed)| (std::cmp::Reverse(*borrowed), *ix));
        borrowers
    }

    /// what is granted above limits at a node and all above it, and borrowed above what their
    /// children leave idle.
    pub fn above(&self, node: NodeIx) -> impl Iterator<Item = Above> {
        self.path(node).flat_map(|(ix, it)| {
            let slots = it.slots.iter().filter_map(move |slot| {
                let by = slot.taken.granted().checked_sub(slot.allowed(it.parent.is_some())?)?;
                (by > 0).then_some(Above { node: ix, key: slot.key, is_pool: false, by })
            });
            let pools = it.pools.iter().filter_map(move |(resource, pool)| {
                let by = u64::try_from(pool.overdraft()).unwrap_or(u64::MAX);
                let key = KeyIx(*resource, Class::Preemptible);
                (by > 0).then_some(Above { node: ix, key, is_pool: true, by })
            });
            slots.chain(pools)
        })
    }

    /// The nodes whose pools are not what their children share: none, whatever happened.
    pub fn unsound(&self) -> Vec<NodeIx> {
        let mut sums: BTreeMap<(NodeIx, u16), Share> = BTreeMap::new();
        for node in &self.nodes.all {
            let Some(parent) = node.parent else { continue };
            for slot in &node.slots {
                let (sum, share) = (sums.entry((parent, slot.key.0)).or_default(), slot.share());
                sum.idle = sum.idle.saturating_add(share.idle);
                sum.unclaimed = sum.unclaimed.saturating_add(share.unclaimed);
                sum.borrowed = sum.borrowed.saturating_add(share.borrowed);
                sum.borrowing = sum.borrowing.saturating_add(share.borrowing);
            }
        }
        let kept = self.iter().flat_map(|(ix, node): (NodeIx, &Node)| {
            node.pools.iter().map(move |(resource, pool)| ((ix, *resource), *pool))
        });
        let kept: BTreeMap<_, _> = kept.filter(|(_, pool)| *pool != Share::default()).collect();
        sums.retain(|_, pool| *pool != Share::default());
        let differs = sums.iter().filter(|(at, pool)| kept.get(at) != Some(pool)).map(|(at, _)| at);
        let unknown = kept.keys().filter(|at| !sums.contains_key(at));
        differs.chain(unknown).map(|(node, _)| *node).collect()
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeIx> {
        self.iter().map(|(ix, _)| ix)
    }

    /// Whether a node lies under another one, or is it.
    pub fn is_under(&self, node: NodeIx, above: NodeIx) -> bool {
        self.path(node).any(|(ix, _)| ix == above)
    }

    /// all that there is to say about what does not fit.
    pub fn denial(&self, misfit: &Misfit) -> Denial {
        let Misfit { node, key, asked, fits } = *misfit;
        let standing = self.standing(node, key);
        Denial {
            node: self.name(node).cloned(),
            key: self.key_of(key),
            limit: standing.limits.map_or(Bound::Unlimited, |limits| limits.nominal),
            borrowed: standing.borrowed,
            used: standing.taken.used(),
            held: standing.taken.held.saturating_add(standing.taken.pending),
            asked,
            fits,
        }
    }

    /// From a node up to its tenant.
    fn path(&self, node: NodeIx) -> impl Iterator<Item = (NodeIx, &Node)> {
        std::iter::successors(self.node(node).map(|it| (node, it)), |(_, it)| {
            let parent = it.parent?;
            self.node(parent).map(|it| (parent, it))
        })
    }

    fn iter(&self) -> impl Iterator<Item = (NodeIx, &Node)> {
        (0..).zip(&self.nodes.all)
    }

    fn node(&self, node: NodeIx) -> Option<&Node> {
        self.nodes.all.get(node as usize)
    }

    fn node_mut(&mut self, node: NodeIx) -> Option<&mut Node> {
        self.nodes.all.get_mut(node as usize)
    }

    /// Of which resource a preemptible key is, for one of any class.
    pub fn preemptible(key: KeyIx) -> KeyIx {
        key.of_class(Class::Preemptible)
    }
}
