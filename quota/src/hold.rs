//! Holds: what is taken for a time until it is committed, given back or runs out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hourglass_units::{Amount, Instant};
use serde::{Deserialize, Serialize};

use crate::name::HoldId;
use crate::tree::{Broken, Counter, Items, KeyIx, NodeIx, Tree};

/// The shortest time that a hold can be given, in milliseconds.
pub const TTL_MS_MIN: i64 = 1_000;
/// The longest time that a hold can be given, in milliseconds.
pub const TTL_MS_MAX: i64 = 86_400_000;
/// Most items of one hold.
pub const ITEMS_MAX: usize = 16;
/// Most holds at a time.
pub const HOLDS_MAX: usize = 4 << 20;
/// So long it is remembered how a hold ended, in milliseconds.
pub const ENDED_KEPT_MS: i64 = 86_400_000;

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldState {
    /// It waits until what was lent is taken back.
    Pending,
    /// Held until it expires.
    Held,
    /// In use until it is released.
    Committed,
    /// Given back.
    Released,
    /// Not committed in time.
    Expired,
    /// An instance took it over.
    Taken,
}

impl HoldState {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Taken => "taken",
        }
    }

    const fn counter(self) -> Option<Counter> {
        match self {
            Self::Pending => Some(Counter::Pending),
            Self::Held => Some(Counter::Held),
            Self::Committed => Some(Counter::Committed),
            Self::Released | Self::Expired | Self::Taken => None,
        }
    }
}

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// At which node, and so of which project.
    pub node: NodeIx,
    /// How much of what.
    pub items: Items,
    /// Where it stands.
    pub state: HoldState,
    /// When it expires; a committed one does not.
    pub expires_at: Instant,
    /// The worst that it can cost until it can be stopped: what spend caps keep free for it.
    pub burn: Amount,
    /// The position of its last change.
    pub changed: u64,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub state: HoldState,
    /// When.
    pub at: Instant,
    /// The position of the event.
    pub position: u64,
    /// At which node it was: whose it is, is asked of what has ended too.
    pub node: NodeIx,
}

/// Why a hold cannot be used so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// There is none, or it ended long ago.
    #[error(
        "there is no hold {hold}, or it ended more than {} hours ago: reserve again",
        ENDED_KEPT_MS / 3_600_000
    )]
    Unknown {
        /// Which.
        hold: HoldId,
    },
    /// Its time is over.
    #[error("hold {hold} expired at {at}: reserve again")]
    Expired {
        /// Which.
        hold: HoldId,
        /// When.
        at: Instant,
    },
    /// It was given back.
    #[error("hold {hold} was released at {at}: reserve again")]
    Released {
        /// Which.
        hold: HoldId,
        /// When.
        at: Instant,
    },
    /// An instance has it.
    #[error("hold {hold} was taken over by an instance at {at}: it is released when the instance stops")]
    Taken {
        /// Which.
        hold: HoldId,
        /// When.
        at: Instant,
    },
    /// It waits.
    #[error(
        "hold {hold} waits until lent quota is taken back: renew it, and commit it when its state is held"
    )]
    Pending {
        /// Which.
        hold: HoldId,
    },
    /// It is committed, so it has no end.
    #[error("hold {hold} is committed and does not expire: there is nothing to renew")]
    Committed {
        /// Which.
        hold: HoldId,
    },
}

/// All holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holds {
    all: BTreeMap<HoldId, Hold>,
    /// Those that are not committed, by when they expire.
    expiries: BTreeSet<(Instant, HoldId)>,
    pending: BTreeSet<HoldId>,
    ended: BTreeMap<HoldId, Ended>,
    /// The same in the order in which they ended, to forget them.
    endings: VecDeque<HoldId>,
}

impl Holds {
    /// One that has not ended.
    pub fn get(&self, id: HoldId) -> Option<&Hold> {
        self.all.get(&id)
    }

    /// How one ended, as long as that is remembered.
    pub fn ended(&self, id: HoldId) -> Option<Ended> {
        self.ended.get(&id).copied()
    }

    /// All that have not ended, in the order in which they were taken.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (HoldId, &Hold)> {
        self.all.iter().map(|(id, hold)| (*id, hold))
    }

    /// Those after a given one.
    pub fn after(&self, id: HoldId) -> impl Iterator<Item = (HoldId, &Hold)> {
        self.all.range(HoldId(id.0.saturating_add(1))..).map(|(id, hold)| (*id, hold))
    }

    /// Whether another one can be kept.
    pub fn has_room(&self) -> bool {
        self.all.len() < HOLDS_MAX
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One that can be used at an instant, or why not. What is past its time counts as expired even
    /// before the event that says so.
    pub fn usable(&self, id: HoldId, now: Instant) -> Result<&Hold, HoldError> {
        match (self.all.get(&id), self.ended.get(&id)) {
            (Some(hold), _) if hold.state != HoldState::Committed && hold.expires_at <= now => {
                Err(HoldError::Expired { hold: id, at: hold.expires_at })
            }
            (Some(hold), _) => Ok(hold),
            (None, Some(Ended { state: HoldState::Expired, at, .. })) => {
                Err(HoldError::Expired { hold: id, at: *at })
            }
            (None, Some(Ended { state: HoldState::Taken, at, .. })) => {
                Err(HoldError::Taken { hold: id, at: *at })
            }
            (None, Some(Ended { at, .. })) => Err(HoldError::Released { hold: id, at: *at }),
            (None, None) => Err(HoldError::Unknown { hold: id }),
        }
    }

    /// Those whose time is over at an instant, in the order of their ends.
    pub fn expired(&self, now: Instant) -> impl Iterator<Item = HoldId> {
        self.expiries.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Those that wait for lent quota, in the order in which they were taken.
    pub fn pending(&self) -> impl Iterator<Item = HoldId> {
        self.pending.iter().copied()
    }

    /// Takes a new hold.
    pub fn take(&mut self, tree: &mut Tree, id: HoldId, hold: Hold) -> Result<(), Broken> {
        let counter = hold.state.counter().ok_or(Broken("a hold that begins with its end"))?;
        tree.add(hold.node, counter, &hold.items)?;
        if hold.state == HoldState::Pending {
            self.pending.insert(id);
        }
        if hold.state != HoldState::Committed {
            self.expiries.insert((hold.expires_at, id));
        }
        match self.all.insert(id, hold) {
            None => Ok(()),
            Some(_) => Err(Broken("a hold taken twice")),
        }
    }

    /// Commits one that is held.
    pub fn commit(&mut self, tree: &mut Tree, id: HoldId, position: u64) -> Result<(), Broken> {
        let hold = self.all.get_mut(&id).ok_or(Broken("the commit of a hold that is not there"))?;
        if hold.state != HoldState::Held {
            return Err(Broken("the commit of what is not held"));
        }
        self.expiries.remove(&(hold.expires_at, id));
        hold.state = HoldState::Committed;
        hold.changed = position;
        tree.recount(hold.node, (Counter::Held, Counter::Committed), &hold.items)
    }

    /// Gives one another end.
    pub fn renew(&mut self, id: HoldId, expires_at: Instant, position: u64) -> Result<(), Broken> {
        let hold = self.all.get_mut(&id).ok_or(Broken("the renewal of a hold that is not there"))?;
        if !self.expiries.remove(&(hold.expires_at, id)) {
            return Err(Broken("the renewal of what does not expire"));
        }
        self.expiries.insert((expires_at, id));
        hold.expires_at = expires_at;
        hold.changed = position;
        Ok(())
    }

    /// Gives one other amounts.
    pub fn resize(
        &mut self,
        tree: &mut Tree,
        id: HoldId,
        items: Items,
        burn: Amount,
        position: u64,
    ) -> Result<(), Broken> {
        let hold = self.all.get_mut(&id).ok_or(Broken("another size of a hold that is not there"))?;
        let counter = hold.state.counter().ok_or(Broken("another size of what has ended"))?;
        tree.remove(hold.node, counter, &hold.items)?;
        tree.add(hold.node, counter, &items)?;
        hold.items = items;
        hold.burn = burn;
        hold.changed = position;
        Ok(())
    }

    /// Ends one: what it held is free, and nothing of it is left. Answers with what it was.
    pub fn end(&mut self, tree: &mut Tree, id: HoldId, ended: Ended) -> Result<Hold, Broken> {
        let hold = self.all.remove(&id).ok_or(Broken("the end of a hold that is not there"))?;
        let counter = hold.state.counter().ok_or(Broken("the end of what has ended"))?;
        tree.remove(hold.node, counter, &hold.items)?;
        self.expiries.remove(&(hold.expires_at, id));
        self.pending.remove(&id);
        self.ended.insert(id, ended);
        self.endings.push_back(id);
        let forget = ended.at.saturating_add_ms(-ENDED_KEPT_MS);
        while let Some(id) = self.endings.front().copied() {
            if self.ended.get(&id).is_some_and(|ended| ended.at >= forget) {
                break;
            }
            self.endings.pop_front();
            self.ended.remove(&id);
        }
        Ok(hold)
    }

    /// Grants what waits for lent quota that is back by now, first come first served: what waits for its
    /// own is kept for it, whoever comes later and wants less. What waits to borrow keeps nobody from his
    /// own.
    pub fn promote(&mut self, tree: &mut Tree, position: u64) -> Result<(), Broken> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Counted as if they were granted while those behind them are looked at.
        let mut ahead = Vec::new();
        for id in self.pending.iter().copied().collect::<Vec<_>>() {
            let hold = self.all.get_mut(&id).ok_or(Broken("a hold that waits and is not there"))?;
            if tree.is_reclaimed(hold.node, &hold.items) {
                hold.state = HoldState::Held;
                hold.changed = position;
                self.pending.remove(&id);
                tree.recount(hold.node, (Counter::Pending, Counter::Held), &hold.items)?;
            } else if !tree.would_borrow(hold.node, &hold.items) {
                tree.recount(hold.node, (Counter::Pending, Counter::Held), &hold.items)?;
                ahead.push(id);
            }
        }
        for hold in ahead.iter().filter_map(|id| self.all.get(id)) {
            tree.recount(hold.node, (Counter::Held, Counter::Pending), &hold.items)?;
        }
        Ok(())
    }
}

/// Adds up the amounts of each key, in the order of keys.
pub fn sum_up(items: impl IntoIterator<Item = (KeyIx, u64)>) -> Option<Items> {
    let mut sums = Items::new();
    for (key, amount) in items {
        match sums.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum = sum.checked_add(amount)?,
            None => sums.push((key, amount)),
        }
    }
    sums.sort_by_key(|(key, _)| *key);
    Some(sums)
}
