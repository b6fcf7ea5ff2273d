//! Leases: a slice of a limit for a checker far away, that can decide without asking.
//!
//! The terms are those of Doorman, Google's rate limiter. A lease has a *capacity*, an *expiry*, a
//! *refresh interval* and a *safe capacity*. When it expires, the holder's use must be down at the safe
//! capacity; the cell gives the rest to others only [`SKEW_MS_MAX`] later. So what all holders use, and
//! what is used without a lease, never exceeds the limit, even when a holder is cut off: see
//! [`crate::holder`] for its side.
//!
//! A smaller capacity does not count until the holder has said that it knows it, or until the larger one
//! has expired: the answer may have been lost.

use std::collections::BTreeMap;

use hourglass_units::Instant;
use serde::{Deserialize, Serialize};

use crate::name::LeaseId;
use crate::tree::{Broken, Counter, KeyIx, NodeIx, Tree};

/// How long a lease runs from each refresh on, in milliseconds.
pub const LEASE_MS: i64 = 60_000;
/// How often a holder should refresh, in milliseconds.
pub const REFRESH_MS: i64 = 15_000;
/// How far a holder's clock may run from the cell's over a lease, in milliseconds: the cell waits so much
/// longer than it tells.
pub const SKEW_MS_MAX: i64 = 5_000;
/// Most leases of a cell.
pub const LEASES_MAX: usize = 1 << 16;

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// The holder may use its capacity.
    Live,
    /// It was not refreshed: the holder may use its safe capacity alone.
    Lapsed,
}

impl LeaseState {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Lapsed => "lapsed",
        }
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who has it, in its own words.
    pub holder: String,
    /// At which node.
    pub node: NodeIx,
    /// Of what.
    pub key: KeyIx,
    /// Counts the refreshes: says which capacity the holder knows.
    pub version: u64,
    /// What the holder may use until it expires.
    pub capacity: u64,
    /// What the holder may use for ever after, until it gives the lease back.
    pub safe_capacity: u64,
    /// What the holder said that it uses.
    pub in_use: u64,
    /// When it was granted or refreshed last.
    pub granted_at: Instant,
    /// Until when it runs.
    pub expires_at: Instant,
    /// Whether it does.
    pub state: LeaseState,
    /// Larger capacities that the holder may believe in still, with the version and the expiry.
    earlier: Vec<(u64, u64, Instant)>,
}

impl Lease {
    /// What the holder may be using: this much of the limit is not for others.
    pub fn counted(&self) -> u64 {
        let now = match self.state {
            LeaseState::Live => self.capacity,
            LeaseState::Lapsed => self.safe_capacity,
        };
        let earlier = self.earlier.iter().map(|(_, capacity, _)| *capacity).max().unwrap_or(0);
        now.max(earlier).max(self.safe_capacity)
    }

    /// From when on something of it is free that is not free now, if nobody refreshes it.
    fn due(&self) -> Option<Instant> {
        let live = (self.state == LeaseState::Live).then_some(self.expires_at);
        let earlier = self.earlier.iter().map(|(_, _, until)| *until).min();
        let due = live.into_iter().chain(earlier).min()?;
        Some(due.saturating_add_ms(SKEW_MS_MAX))
    }
}

/// All leases.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leases {
    all: BTreeMap<LeaseId, Lease>,
}

impl Leases {
    /// One.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.all.get(&id)
    }

    /// All, in the order in which they were granted.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.all.iter().map(|(id, lease)| (*id, lease))
    }

    /// Whether another one can be kept.
    pub fn has_room(&self) -> bool {
        self.all.len() < LEASES_MAX
    }

    /// Those of which something is free by now.
    pub fn lapsed(&self, now: Instant) -> impl Iterator<Item = LeaseId> {
        self.iter().filter(move |(_, lease)| lease.due().is_some_and(|due| due <= now)).map(|(id, _)| id)
    }

    /// When the next one lapses.
    pub fn next_lapse(&self) -> Option<Instant> {
        self.all.values().filter_map(Lease::due).min()
    }

    /// How much a holder gets that wants so much: what fits, and never less than its safe capacity, which
    /// it has anyway.
    pub fn offer(&self, tree: &Tree, id: LeaseId, wants: u64) -> Option<u64> {
        let lease = self.all.get(&id)?;
        let counted = lease.counted();
        let most = match tree.fits(lease.node, lease.key) {
            None => u64::MAX,
            // Above a limit that was lowered nothing fits, and the lease must shrink with it; so it must
            // when it borrows what is claimed.
            Some(0) => counted.saturating_sub(tree.surplus(lease.node, lease.key)),
            Some(room) => counted.saturating_add(room),
        };
        Some(wants.min(most).max(lease.safe_capacity))
    }

    /// Grants a new lease.
    pub fn grant(&mut self, tree: &mut Tree, id: LeaseId, lease: NewLease) -> Result<(), Broken> {
        let NewLease { holder, node, key, capacity, safe_capacity, at } = lease;
        let lease = Lease {
            holder,
            node,
            key,
            version: 1,
            capacity,
            safe_capacity,
            in_use: 0,
            granted_at: at,
            expires_at: at.saturating_add_ms(LEASE_MS),
            state: LeaseState::Live,
            earlier: Vec::new(),
        };
        tree.add(node, Counter::Leased, &[(key, lease.counted())])?;
        match self.all.insert(id, lease) {
            None => Ok(()),
            Some(_) => Err(Broken("a lease granted twice")),
        }
    }

    /// Refreshes a lease.
    pub fn refresh(&mut self, tree: &mut Tree, id: LeaseId, it: Refresh) -> Result<(), Broken> {
        let Refresh { capacity, known_version, in_use, at } = it;
        self.recount(tree, id, |lease| {
            // What the holder knows replaces all that it knew before.
            lease.earlier.retain(|(version, _, _)| *version >= known_version);
            if lease.state == LeaseState::Live && lease.capacity > capacity {
                lease.earlier.push((lease.version, lease.capacity, lease.expires_at));
            }
            lease.version = lease.version.saturating_add(1);
            lease.capacity = capacity;
            lease.in_use = in_use;
            lease.granted_at = at;
            lease.expires_at = at.saturating_add_ms(LEASE_MS);
            lease.state = LeaseState::Live;
        })
    }

    /// What expired long enough ago is free.
    pub fn lapse(&mut self, tree: &mut Tree, id: LeaseId, at: Instant) -> Result<(), Broken> {
        self.recount(tree, id, |lease| {
            let over = |until: Instant| until.saturating_add_ms(SKEW_MS_MAX) <= at;
            lease.earlier.retain(|(_, _, until)| !over(*until));
            if over(lease.expires_at) {
                lease.state = LeaseState::Lapsed;
            }
        })
    }

    /// The holder uses nothing any more.
    pub fn give_back(&mut self, tree: &mut Tree, id: LeaseId) -> Result<(), Broken> {
        let lease = self.all.remove(&id).ok_or(Broken("a lease that is not there"))?;
        tree.remove(lease.node, Counter::Leased, &[(lease.key, lease.counted())])
    }

    fn recount(
        &mut self,
        tree: &mut Tree,
        id: LeaseId,
        change: impl FnOnce(&mut Lease),
    ) -> Result<(), Broken> {
        let lease = self.all.get_mut(&id).ok_or(Broken("a lease that is not there"))?;
        let before = lease.counted();
        change(lease);
        let after = lease.counted();
        let (node, key) = (lease.node, lease.key);
        tree.add(node, Counter::Leased, &[(key, after.saturating_sub(before))])?;
        tree.remove(node, Counter::Leased, &[(key, before.saturating_sub(after))])
    }
}

/// What a lease begins with.
#[derive(Debug, Clone)]
pub struct NewLease {
    /// Who has it.
    pub holder: String,
    /// At which node.
    pub node: NodeIx,
    /// Of what.
    pub key: KeyIx,
    /// How much.
    pub capacity: u64,
    /// How much for ever.
    pub safe_capacity: u64,
    /// From when.
    pub at: Instant,
}

/// What a refresh brings.
#[derive(Debug, Clone, Copy)]
pub struct Refresh {
    /// The new capacity.
    pub capacity: u64,
    /// The newest version that the holder knows.
    pub known_version: u64,
    /// What it uses.
    pub in_use: u64,
    /// When.
    pub at: Instant,
}
