//! The tree of limits, and what is taken at each of its nodes.
//!
//! A node counts what is taken below it, so a question walks from a project up to its tenant and looks
//! at one slot a level. Siblings form a *pool*: what they leave idle of their nominal quotas, class by
//! class, preemptible work among them may borrow. The pool is counted as it changes, never by a walk
//! over the siblings.

use std::collections::BTreeMap;

use hourglass_units::{GroupId, ProjectId, ResourceName, TenantId};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::denial::{Denial, Misfit};
use crate::limit::{Bound, Class, Key, Limits};
use crate::name::NodeName;

/// Most nodes of a tree, over all tenants.
pub const NODES_MAX: usize = 1 << 20;
/// Most groups on the way from a project to its tenant.
pub const GROUP_DEPTH_MAX: usize = 8;
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

    /// What it gives to its siblings' pool, and takes from it.
    fn share(&self) -> Share {
        let (Some(limits), Some(nominal)) = (self.limits, self.nominal()) else { return Share::default() };
        if self.key.class() == Class::Reserved {
            return Share::default();
        }
        let granted = self.taken.granted().saturating_add(self.taken.unheld);
        let idle = |taken: u64| u128::from(limits.lending.cap(nominal.saturating_sub(taken)));
        let borrows = self.key.class() == Class::Preemptible;
        let borrowed = if borrows { granted.saturating_sub(nominal) } else { 0 };
        Share {
            idle: idle(granted),
            unclaimed: idle(granted.saturating_add(self.taken.pending)),
            borrowed: u128::from(borrowed),
        }
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    name: NodeName,
    parent: Option<NodeIx>,
    slots: SmallVec<[Slot; 1]>,
    /// By resource, what its children share.
    pools: SmallVec<[(u16, Share); 1]>,
    children: u32,
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
        Ok(())
    }
}

/// What a tenant's nodes are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Names {
    root: NodeIx,
    groups: BTreeMap<GroupId, NodeIx>,
    projects: BTreeMap<ProjectId, NodeIx>,
}

/// Whether something fits, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// At once.
    Now,
    /// When what was lent to siblings is back.
    AfterReclaim,
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
    nodes: Vec<Node>,
    tenants: BTreeMap<TenantId, Names>,
}

impl Tree {
    /// The node of a name.
    pub fn find(&self, name: &NodeName) -> Option<NodeIx> {
        let names = self.tenants.get(name.tenant())?;
        match name {
            NodeName::Tenant(_) => Some(names.root),
            NodeName::Group(_, group) => names.groups.get(group).copied(),
            NodeName::Project(_, project) => names.projects.get(project).copied(),
        }
    }

    /// The node of a project, without a copy of its names.
    pub fn project(&self, tenant: &TenantId, project: &ProjectId) -> Option<NodeIx> {
        self.tenants.get(tenant)?.projects.get(project).copied()
    }

    /// The node at which a project's holds are counted: its own, or its tenant's as long as nobody has
    /// mentioned the project.
    pub fn project_or_root(&self, tenant: &TenantId, project: &ProjectId) -> Option<NodeIx> {
        let names = self.tenants.get(tenant)?;
        Some(names.projects.get(project).copied().unwrap_or(names.root))
    }

    /// The name of a node.
    pub fn name(&self, node: NodeIx) -> Option<&NodeName> {
        self.node(node).map(|node| &node.name)
    }

    /// The parent of a node.
    pub fn parent(&self, node: NodeIx) -> Option<NodeIx> {
        self.node(node)?.parent
    }

    /// The nodes of a tenant: itself, its groups, its projects.
    pub fn nodes_of(&self, tenant: &TenantId) -> impl Iterator<Item = NodeIx> {
        self.tenants.get(tenant).into_iter().flat_map(|names| {
            std::iter::once(names.root)
                .chain(names.groups.values().copied())
                .chain(names.projects.values().copied())
        })
    }

    /// Whether there is room for another node.
    pub fn has_room(&self) -> bool {
        self.nodes.len() < NODES_MAX
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
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
        let node =
            NodeIx::try_from(self.nodes.len()).map_err(|_| Broken("more nodes than an index holds"))?;
        let (slots, pools) = (SmallVec::new(), SmallVec::new());
        self.nodes.push(Node { name: name.clone(), parent, slots, pools, children: 0 });
        if let Some(parent) = parent.and_then(|parent| self.node_mut(parent)) {
            parent.children = parent.children.saturating_add(1);
        }
        match name {
            NodeName::Tenant(tenant) => {
                let names = Names { root: node, groups: BTreeMap::new(), projects: BTreeMap::new() };
                self.tenants.insert(tenant.clone(), names);
            }
            NodeName::Group(tenant, group) => {
                let names = self.tenants.get_mut(tenant).ok_or(Broken("a group without a tenant"))?;
                names.groups.insert(group.clone(), node);
            }
            NodeName::Project(tenant, project) => {
                let names = self.tenants.get_mut(tenant).ok_or(Broken("a project without a tenant"))?;
                names.projects.insert(project.clone(), node);
            }
        }
        Ok(node)
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
        let mut fit = Fit::Now;
        for &(key, asked) in items {
            let mut least: Option<(u64, NodeIx)> = None;
            for (ix, it) in self.path(node) {
                let Some(slot) = it.slot(key) else { continue };
                let Some((room, waits)) = self.room(it, slot, asked) else { continue };
                if room < asked {
                    if least.is_none_or(|(least, _)| room < least) {
                        least = Some((room, ix));
                    }
                } else if waits {
                    fit = Fit::AfterReclaim;
                }
            }
            if let Some((fits, node)) = least {
                return Err(Misfit { node, key, asked, fits });
            }
        }
        Ok(fit)
    }

    /// How much more a slot can take, and whether taking `asked` has to wait until lent quota is back.
    /// `None` where nothing limits it.
    fn room(&self, node: &Node, slot: &Slot, asked: u64) -> Option<(u64, bool)> {
        let (limits, nominal) = (slot.limits?, slot.nominal()?);
        let own = nominal.saturating_sub(slot.taken.claimed());
        let pool = node.parent.and_then(|parent| self.node(parent)).map(|parent| parent.pool(slot.key));
        let (Some(pool), true) = (pool, slot.key.class() != Class::Reserved) else {
            return Some((own, false));
        };
        let share = slot.share();
        // What its siblings leave when all that it lends itself is taken.
        let others = pool.unclaimed.saturating_sub(share.unclaimed).saturating_sub(pool.borrowed);
        let borrowing = if slot.key.class() == Class::Preemptible {
            let more = limits.borrowing.less(u64::try_from(share.borrowed).unwrap_or(u64::MAX));
            more.unwrap_or(u64::MAX).min(u64::try_from(others).unwrap_or(u64::MAX))
        } else {
            0
        };
        // Beyond what is lent of its own idle quota nothing may be borrowed at the same time.
        let after_own = slot.taken.claimed().saturating_add(asked.min(own));
        let unclaimed = u128::from(limits.lending.cap(nominal.saturating_sub(after_own)));
        let left = pool.unclaimed.saturating_sub(share.unclaimed).saturating_add(unclaimed);
        let waits = pool.borrowed > left;
        Some((own.saturating_add(borrowing), waits))
    }

    /// How much of one key fits on the whole way up.
    pub fn fits(&self, node: NodeIx, key: KeyIx) -> Option<u64> {
        let rooms = self.path(node).filter_map(|(_, node)| Some(self.room(node, node.slot(key)?, 0)?.0));
        rooms.min()
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

    /// Whether what is taken below a node fits under another parent.
    pub fn fits_under(&self, node: NodeIx, parent: NodeIx) -> Result<(), Denial> {
        let old: SmallVec<[NodeIx; 8]> = self.path(node).map(|(ix, _)| ix).collect();
        let slots = self.node(node).into_iter().flat_map(|node| node.slots.iter());
        for slot in slots.filter(|slot| !slot.taken.is_zero()) {
            for (ix, above) in self.path(parent).filter(|(ix, _)| !old.contains(ix)) {
                let (Some(there), asked) = (above.slot(slot.key), slot.taken.claimed()) else { continue };
                let Some((room, waits)) = self.room(above, there, asked) else { continue };
                if room < asked || waits {
                    let fits = if waits { 0 } else { room };
                    return Err(self.denial(&Misfit { node: ix, key: slot.key, asked, fits }));
                }
            }
        }
        Ok(())
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
        for (ix, more) in [(old, -1), (parent, 1)] {
            let it = self.node_mut(ix).ok_or(Broken("a node that is not there"))?;
            it.children = it.children.saturating_add_signed(more);
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

    /// Whether a vector that waits could be granted now: everything lent that it needs is back.
    pub fn is_reclaimed(&self, node: NodeIx, items: &[(KeyIx, u64)]) -> bool {
        items.iter().all(|(key, amount)| {
            self.path(node).all(|(_, it)| {
                let (Some(slot), Some(parent)) = (it.slot(*key), it.parent) else { return true };
                let Some(pool) = self.node(parent).map(|parent| parent.pool(*key)) else { return true };
                let (before, mut granted) = (slot.share(), slot.clone());
                granted.taken.pending = granted.taken.pending.saturating_sub(*amount);
                granted.taken.held = granted.taken.held.saturating_add(*amount);
                let idle = pool.idle.saturating_sub(before.idle).saturating_add(granted.share().idle);
                pool.borrowed <= idle
            })
        })
    }

    /// The pools in which more is borrowed than is left for it: of which parent, of which resource, how
    /// much.
    pub fn overdrawn(&self) -> impl Iterator<Item = (NodeIx, ResourceName, u64)> {
        (0..).zip(&self.nodes).flat_map(move |(ix, node): (NodeIx, &Node)| {
            node.pools.iter().filter_map(move |(resource, pool)| {
                let excess = pool.borrowed.checked_sub(pool.unclaimed).filter(|excess| *excess > 0)?;
                let resource = self.resources.get(usize::from(*resource))?.clone();
                Some((ix, resource, u64::try_from(excess).unwrap_or(u64::MAX)))
            })
        })
    }

    /// The slots that are above limits that drain: where, of what, by how much.
    pub fn draining(&self) -> impl Iterator<Item = (NodeIx, Key, u64)> {
        (0..).zip(&self.nodes).flat_map(move |(ix, node): (NodeIx, &Node)| {
            let over = node
                .slots
                .iter()
                .filter(move |slot| slot.limits.is_some_and(|limits| limits.drain) && self.is_over(ix, slot));
            over.filter_map(move |slot| {
                let limits = slot.limits?;
                let allowed = match slot.key.class() {
                    Class::Preemptible => limits.borrowing.cap(u64::MAX),
                    Class::OnDemand | Class::Reserved => 0,
                };
                let most = slot.nominal()?.saturating_add(allowed);
                let taken = slot.taken.granted().saturating_add(slot.taken.unheld);
                Some((ix, self.key_of(slot.key)?, taken.saturating_sub(most)))
            })
        })
    }

    /// What the children of a node borrow, most first.
    pub fn borrowers(&self, parent: NodeIx, resource: &ResourceName) -> Vec<(NodeIx, u64)> {
        let Some(key) = self.key(resource, Class::Preemptible) else { return Vec::new() };
        let children = (0..).zip(&self.nodes).filter(|(_, node)| node.parent == Some(parent));
        let borrowed = children.filter_map(|(ix, node): (NodeIx, &Node)| {
            let borrowed = u64::try_from(node.slot(key)?.share().borrowed).unwrap_or(u64::MAX);
            (borrowed > 0).then_some((ix, borrowed))
        });
        let mut borrowers: Vec<(NodeIx, u64)> = borrowed.collect();
        borrowers.sort_by_key(|(ix, borrowed)| (std::cmp::Reverse(*borrowed), *ix));
        borrowers
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

    fn node(&self, node: NodeIx) -> Option<&Node> {
        self.nodes.get(node as usize)
    }

    fn node_mut(&mut self, node: NodeIx) -> Option<&mut Node> {
        self.nodes.get_mut(node as usize)
    }

    /// Of which resource a preemptible key is, for one of any class.
    pub fn preemptible(key: KeyIx) -> KeyIx {
        key.of_class(Class::Preemptible)
    }
}
