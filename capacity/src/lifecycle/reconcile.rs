//! What a listing of the cloud says about what we think.
//!
//! * A *ghost*: we think that it is there, and it is not, or is down. It ends, as of when it was last seen.
//!   Only a complete listing that began after our last change shows one.
//! * A *zombie*: it is up, and we think that it is down. It is stopped.
//! * A *stray*: it is up, and we know nothing of it; or it is a second one of the same name. See
//!   [`Lifecycle::stray`].
//! * *Adopted*: a create whose answer was lost.

use std::cmp::Ordering;

use hourglass_units::{CloudId, InstanceId, Instant};
use serde::{Deserialize, Serialize};

use super::{Belief, CloudState, Fact, Lifecycle, Phase};

/// An instance in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// What the cloud calls it.
    pub cloud: CloudId,
    /// Which it is, by the name that we gave it; none where it bears another's.
    pub instance: Option<InstanceId>,
    /// Its state.
    pub state: CloudState,
}

/// What the cloud listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// When the first page was asked for.
    pub began: Instant,
    /// Whether all pages came.
    pub is_complete: bool,
    /// All instances, in any order.
    pub items: Vec<Listed>,
}

/// What a listing shows of an instance that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It went down or away without us.
    Ghost,
    /// It is up without us.
    Zombie,
    /// We had lost it.
    Adopted,
    /// It went on as it should.
    Moved,
}

/// A difference between the cloud and what we think.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Of an instance that we know.
    Known {
        /// Which.
        instance: InstanceId,
        /// What it is.
        kind: Kind,
        /// What to tell it.
        fact: Fact,
    },
    /// The cloud has it, and we do not. It is found in each listing until it is gone.
    Stray {
        /// Which.
        listed: Listed,
    },
}

/// What differs. `known` comes in order of instances; `previous` is when the last complete listing before this
/// one began, if its findings were taken in: what it did not name was RUNNING then.
///
/// One walk over both, after sorting the listing: `O(n log n)`.
pub fn reconcile<'a>(
    known: impl IntoIterator<Item = &'a Lifecycle>,
    listing: &Listing,
    previous: Option<Instant>,
) -> Vec<Finding> {
    let mut items: Vec<&Listed> = listing.items.iter().collect();
    items.sort_by(|a, b| (&a.instance, &a.cloud).cmp(&(&b.instance, &b.cloud)));
    let mut rest = items.as_slice();
    let mut findings = Vec::new();
    let stray = |listed: &&Listed| Finding::Stray { listed: (*listed).clone() };
    for lifecycle in known {
        let order = |listed: &&Listed| listed.instance.as_ref().cmp(&Some(lifecycle.instance()));
        let (before, from) = rest.split_at(rest.partition_point(|it| order(it) == Ordering::Less));
        let (same, after) = from.split_at(from.partition_point(|it| order(it) == Ordering::Equal));
        findings.extend(before.iter().map(stray));
        rest = after;
        if !lifecycle.is_timely(listing.began) {
            continue;
        }
        let was_up = |previous: &Instant| lifecycle.belief == Belief::Up && lifecycle.settled_at <= *previous;
        let seen_before = previous.filter(was_up);
        let Some(ours) = which_is_ours(lifecycle, listing, same) else {
            findings.extend(ghost(lifecycle, listing, seen_before));
            continue;
        };
        findings.extend(difference(lifecycle, ours, listing.began, seen_before));
        findings.extend(same.iter().filter(|it| it.cloud != ours.cloud).map(stray));
    }
    findings.extend(rest.iter().map(stray));
    findings
}

/// The one whose id we have; else the liveliest, and of those the first by id.
fn which_is_ours<'a>(lifecycle: &Lifecycle, listing: &Listing, same: &[&'a Listed]) -> Option<&'a Listed> {
    if let Some(cloud) = &lifecycle.cloud {
        let ours = same.iter().find(|it| it.cloud == *cloud);
        if ours.is_some() || !listing.is_complete {
            return ours.copied();
        }
    }
    let liveliness = |it: &&&Listed| match Belief::from(it.state) {
        Belief::Up => 0,
        Belief::ComingUp => 1,
        Belief::GoingDown => 2,
        Belief::Down => 3,
        Belief::Broken | Belief::Unsure | Belief::Absent => 4,
    };
    same.iter().min_by_key(liveliness).copied()
}

fn ghost(lifecycle: &Lifecycle, listing: &Listing, last_running: Option<Instant>) -> Option<Finding> {
    let is_looked_up = matches!(lifecycle.phase, Phase::Requested | Phase::Held | Phase::Creating);
    let is_there = lifecycle.flight.is_none() && lifecycle.belief != Belief::Absent;
    (listing.is_complete && is_there && !is_looked_up).then(|| Finding::Known {
        instance: lifecycle.instance.clone(),
        kind: Kind::Ghost,
        fact: Fact::Absent { began: listing.began, last_running },
    })
}

fn difference(
    lifecycle: &Lifecycle,
    ours: &Listed,
    began: Instant,
    last_running: Option<Instant>,
) -> Option<Finding> {
    let belief = Belief::from(ours.state);
    let is_up = matches!(belief, Belief::Up | Belief::ComingUp);
    let is_same = lifecycle.cloud.as_ref() == Some(&ours.cloud) && lifecycle.belief == belief;
    let kind = match &lifecycle.phase {
        _ if is_same && lifecycle.flight.is_none() => return None,
        Phase::Running | Phase::Notice { .. } if !is_up => Kind::Ghost,
        Phase::Stopped { .. } | Phase::Failed { .. } if is_up => Kind::Zombie,
        _ if lifecycle.cloud.is_none() => Kind::Adopted,
        _ => Kind::Moved,
    };
    let (cloud, state) = (ours.cloud.clone(), ours.state);
    let fact = Fact::Seen { cloud, state, began, last_running };
    Some(Finding::Known { instance: lifecycle.instance.clone(), kind, fact })
}
