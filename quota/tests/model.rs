//! A model of quota that shares no code with it: a list of what is taken, and sums by walking.
//!
//! Nothing is kept but the list, the limits and who lies under whom. Each question sums the whole list
//! up again, adds what is asked for as if it were granted, and looks whether every rule still holds.

use std::collections::BTreeMap;

use hourglass_quota::{Bound, Class, Limits};

/// Resources that the model knows.
pub(crate) const RESOURCES: usize = 2;
/// Resource and class as one number.
pub(crate) type K = usize;
pub(crate) const KEYS: usize = RESOURCES * 3;

pub(crate) fn k(resource: usize, class: Class) -> K {
    resource * 3 + Class::ALL.iter().position(|it| *it == class).unwrap()
}

pub(crate) fn class_of(k: K) -> Class {
    Class::ALL[k % 3]
}

/// As what something is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    Held,
    Committed,
    Leased,
    Pending,
    Unheld,
}

/// Something that is taken.
#[derive(Debug, Clone)]
pub(crate) struct Taking {
    pub(crate) node: usize,
    pub(crate) items: Vec<(K, u64)>,
    pub(crate) kind: As,
}

/// What is taken at a node of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) held: u64,
    pub(crate) committed: u64,
    pub(crate) leased: u64,
    pub(crate) pending: u64,
    pub(crate) unheld: u64,
}

impl Counts {
    pub(crate) fn granted(&self) -> u64 {
        self.held + self.committed + self.leased
    }

    /// What runs or may run at once.
    pub(crate) fn firm(&self) -> u64 {
        self.granted() + self.unheld
    }

    pub(crate) fn claimed(&self) -> u64 {
        self.firm() + self.pending
    }
}

/// What siblings share of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) idle: u64,
    pub(crate) unclaimed: u64,
    pub(crate) borrowed: u64,
    /// The same with what waits.
    pub(crate) borrowing: u64,
}

pub(crate) type Table = Vec<[Counts; KEYS]>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) parents: Vec<Option<usize>>,
    pub(crate) limits: BTreeMap<(usize, K), Limits>,
    pub(crate) takings: BTreeMap<u64, Taking>,
}

impl Model {
    pub(crate) fn path(&self, node: usize) -> Vec<usize> {
        let mut path = vec![node];
        while let Some(parent) = self.parents[path[path.len() - 1]] {
            path.push(parent);
        }
        path
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = vec![[Counts::default(); KEYS]; self.parents.len()];
        for taking in self.takings.values() {
            self.count(&mut table, taking);
        }
        table
    }

    fn count(&self, table: &mut Table, taking: &Taking) {
        for node in self.path(taking.node) {
            for (k, amount) in &taking.items {
                let counts = &mut table[node][*k];
                *match taking.kind {
                    As::Held => &mut counts.held,
                    As::Committed => &mut counts.committed,
                    As::Leased => &mut counts.leased,
                    As::Pending => &mut counts.pending,
                    As::Unheld => &mut counts.unheld,
                } += amount;
            }
        }
    }

    /// What would be taken if this were too.
    pub(crate) fn with(&self, node: usize, items: &[(K, u64)], kind: As) -> Table {
        let mut table = self.table();
        self.count(&mut table, &Taking { node, items: items.to_vec(), kind });
        table
    }

    pub(crate) fn nominal(&self, node: usize, k: K) -> Option<u64> {
        match self.limits.get(&(node, k))?.nominal {
            Bound::Unlimited => None,
            Bound::AtMost(most) => Some(most),
        }
    }

    /// The most that Q-1 allows at a node, without a look at the pool.
    pub(crate) fn allowed(&self, node: usize, k: K) -> Option<u64> {
        let nominal = self.nominal(node, k)?;
        match (class_of(k), self.parents[node], self.limits[&(node, k)].borrowing) {
            (Class::Preemptible, Some(_), Bound::Unlimited) => None,
            (Class::Preemptible, Some(_), Bound::AtMost(more)) => Some(nominal + more),
            _ => Some(nominal),
        }
    }

    pub(crate) fn pool(&self, table: &Table, parent: usize, resource: usize) -> Pool {
        let mut pool = Pool::default();
        for node in (0..self.parents.len()).filter(|node| self.parents[*node] == Some(parent)) {
            for class in [Class::OnDemand, Class::Preemptible] {
                let k = k(resource, class);
                let Some(nominal) = self.nominal(node, k) else { continue };
                let lends = |taken: u64| {
                    let left = nominal.saturating_sub(taken);
                    match self.limits[&(node, k)].lending {
                        Bound::Unlimited => left,
                        Bound::AtMost(most) => left.min(most),
                    }
                };
                let counts = table[node][k];
                pool.idle += lends(counts.firm());
                pool.unclaimed += lends(counts.claimed());
                if class == Class::Preemptible {
                    pool.borrowed += counts.firm().saturating_sub(nominal);
                    pool.borrowing += counts.claimed().saturating_sub(nominal);
                }
            }
        }
        pool
    }

    /// Whether so much can be granted, now or once lent quota is back.
    pub(crate) fn admits(&self, node: usize, k: K, amount: u64) -> bool {
        let table = self.with(node, &[(k, amount)], As::Held);
        self.path(node).into_iter().all(|node| {
            let Some(nominal) = self.nominal(node, k) else { return true };
            if amount == 0 || table[node][k].claimed() <= nominal {
                return true;
            }
            let allowed = self.allowed(node, k).is_none_or(|most| table[node][k].claimed() <= most);
            match self.parents[node] {
                Some(parent) if class_of(k) == Class::Preemptible && allowed => {
                    let pool = self.pool(&table, parent, k / 3);
                    pool.borrowing <= pool.unclaimed
                }
                _ => false,
            }
        })
    }

    /// Whether it can be granted at once: nobody borrows what it claims.
    pub(crate) fn admits_now(&self, node: usize, k: K, amount: u64) -> bool {
        let table = self.with(node, &[(k, amount)], As::Held);
        let pools = |node: usize| {
            let shares = self.nominal(node, k).is_some() && class_of(k) != Class::Reserved;
            let Some(parent) = self.parents[node].filter(|_| shares) else { return true };
            let pool = self.pool(&table, parent, k / 3);
            pool.borrowed <= pool.unclaimed
        };
        self.admits(node, k, amount) && self.path(node).into_iter().all(pools)
    }

    /// Whether something that waits can be granted: then no limit is exceeded.
    pub(crate) fn is_due(&self, id: u64) -> bool {
        let (before, mut granted) = (self.table(), self.clone());
        granted.takings.get_mut(&id).unwrap().kind = As::Held;
        let (table, it) = (granted.table(), &self.takings[&id]);
        self.path(it.node).into_iter().all(|node| {
            it.items.iter().all(|(k, _)| {
                let Some(nominal) = self.nominal(node, *k) else { return true };
                if self.allowed(node, *k).is_some_and(|most| table[node][*k].firm() > most) {
                    return false;
                }
                match self.parents[node] {
                    Some(parent) if class_of(*k) != Class::Reserved => {
                        let pool = self.pool(&table, parent, k / 3);
                        let above = |table: &Table| table[node][*k].firm().saturating_sub(nominal);
                        let borrows = class_of(*k) == Class::Preemptible && above(&table) > above(&before);
                        // What is claimed is not borrowed.
                        pool.borrowed <= if borrows { pool.unclaimed } else { pool.idle }
                    }
                    _ => true,
                }
            })
        })
    }

    /// Grants what is due, first come first served: what waits for its own is kept for it, whoever comes
    /// later. What waits to borrow keeps nobody from his own.
    pub(crate) fn promote(&mut self) {
        let waiting: Vec<u64> =
            self.takings.iter().filter(|(_, it)| it.kind == As::Pending).map(|(id, _)| *id).collect();
        let mut ahead = self.clone();
        for id in waiting {
            let due = ahead.is_due(id);
            if due {
                self.takings.get_mut(&id).unwrap().kind = As::Held;
            }
            if due || !ahead.would_borrow(id) {
                ahead.takings.get_mut(&id).unwrap().kind = As::Held;
            }
        }
    }

    fn would_borrow(&self, id: u64) -> bool {
        let mut granted = self.clone();
        granted.takings.get_mut(&id).unwrap().kind = As::Held;
        let (before, after, it) = (self.table(), granted.table(), &self.takings[&id]);
        self.path(it.node).into_iter().any(|node| {
            it.items.iter().filter(|(k, _)| class_of(*k) == Class::Preemptible).any(|(k, _)| {
                let above = |table: &Table| {
                    self.nominal(node, *k).map_or(0, |most| table[node][*k].firm().saturating_sub(most))
                };
                above(&after) > above(&before)
            })
        })
    }

    /// By how much each limit and each pool is exceeded by what was granted: all zero as long as no
    /// limit is lowered and nothing runs without a hold.
    pub(crate) fn excess(&self) -> Vec<u64> {
        let table = self.table();
        let mut excess = Vec::new();
        for (node, counts) in table.iter().enumerate() {
            for (k, counts) in counts.iter().enumerate() {
                let most = self.allowed(node, k).unwrap_or(u64::MAX);
                excess.push(counts.granted().saturating_sub(most));
            }
            for resource in 0..RESOURCES {
                let pool = self.pool(&table, node, resource);
                excess.push(pool.borrowed.saturating_sub(pool.idle));
            }
        }
        excess
    }

    /// The same with what waits.
    pub(crate) fn strain(&self) -> Vec<u64> {
        let table = self.table();
        let mut strain = self.excess();
        for (node, counts) in table.iter().enumerate() {
            for (k, counts) in counts.iter().enumerate() {
                let most = self.allowed(node, k).unwrap_or(u64::MAX);
                strain.push(counts.claimed().saturating_sub(most));
            }
            for resource in 0..RESOURCES {
                let pool = self.pool(&table, node, resource);
                strain.push(pool.borrowed.saturating_sub(pool.unclaimed));
            }
        }
        strain
    }
}
