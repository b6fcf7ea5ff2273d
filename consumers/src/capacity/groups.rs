//! Reservations of fabrics, as groups with intervals.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::calendar::ReservationName;
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::Steps;
use hourglass_compute::ids::{BlockGroupId, IntervalId};
use hourglass_compute::model::{BlockGroup, CapacityInterval, Continuous, Phase, Place};
use hourglass_ledger::core::{Held, State};
use hourglass_units::{InstanceId, Instant, Interval, ReservationId, TenantId};

/// How the ids of groups begin. A hash follows: four names would be longer than an id may be.
const GROUP_PREFIX: &str = "capacityblockgroup-";
/// How the ids of intervals begin. The reservation follows, which is unique in its cell.
const INTERVAL_PREFIX: &str = "capacityinterval-";
/// Sets the hash apart from all others.
const GROUP_CONTEXT: &str = "hourglass 2026 capacity block group";
/// Bytes of the hash in an id.
const HASH_LENGTH: usize = 16;

/// All that a tenant has reserved of one pool, ever.
pub(super) struct Group<'a> {
    pub(super) id: BlockGroupId,
    pub(super) tenant: &'a TenantId,
    pool: PoolName,
    held: Vec<&'a Held>,
}

/// The groups of a tenant, by id.
pub(super) fn groups_of<'a>(state: &'a State, tenant: &'a TenantId) -> BTreeMap<String, Group<'a>> {
    let mut by_pool: BTreeMap<PoolName, Vec<&Held>> = BTreeMap::new();
    for held in state.reservations_of(tenant) {
        if let Some(pool) = pool_of(state, held) {
            by_pool.entry(pool).or_default().push(held);
        }
    }
    let groups = by_pool.into_iter().filter_map(|(pool, held)| {
        let id = group_id(tenant, &pool)?;
        Some((id.to_string(), Group { id, tenant, pool, held }))
    });
    groups.collect()
}

/// The group of a tenant in one pool.
pub(super) fn group_in<'a>(state: &'a State, tenant: &'a TenantId, pool: &PoolName) -> Option<Group<'a>> {
    let all = state.reservations_of(tenant);
    let held: Vec<&Held> = all.filter(|held| pool_of(state, held).as_ref() == Some(pool)).collect();
    let id = group_id(tenant, pool).filter(|_| !held.is_empty())?;
    Some(Group { id, tenant, pool: pool.clone(), held })
}

/// The interval of an id, with whose it is.
pub(super) fn interval<'a>(
    state: &'a State,
    id: &IntervalId,
    now: Instant,
) -> Option<(&'a TenantId, CapacityInterval)> {
    let reservation = ReservationId::new(id.as_str().strip_prefix(INTERVAL_PREFIX)?).ok()?;
    let held = state.reservation(&reservation)?;
    let pool = pool_of(state, held)?;
    let group = group_id(&held.tenant, &pool)?;
    Some((&held.tenant, interval_of(held, &pool, &group, now)?))
}

/// In which pool a reservation keeps GPUs free; `None` where it names no fabric.
fn pool_of(state: &State, held: &Held) -> Option<PoolName> {
    let draft = held.reservation.draft();
    let (region, fabric) = (state.cell()?.region.clone(), draft.fabric.clone()?);
    Some(PoolName { region, platform: draft.platform.clone(), fabric })
}

/// No name has a slash in it, so no two groups have one text.
fn group_id(tenant: &TenantId, pool: &PoolName) -> Option<BlockGroupId> {
    let mut hasher = blake3::Hasher::new_derive_key(GROUP_CONTEXT);
    hasher.update(format!("{tenant}/{pool}").as_bytes());
    let hash = hasher.finalize();
    let hex: String = hash.as_bytes().iter().take(HASH_LENGTH).map(|byte| format!("{byte:02x}")).collect();
    BlockGroupId::new(&format!("{GROUP_PREFIX}{hex}")).ok()
}

fn place_of(pool: &PoolName) -> Place {
    Place { platform: pool.platform.clone(), fabric: Some(pool.fabric.clone()) }
}

fn interval_of(held: &Held, pool: &PoolName, group: &BlockGroupId, now: Instant) -> Option<CapacityInterval> {
    let (draft, during) = (held.reservation.draft(), held.reservation.interval());
    Some(CapacityInterval {
        id: IntervalId::new(&format!("{INTERVAL_PREFIX}{}", draft.reservation)).ok()?,
        group: group.clone(),
        region: pool.region.clone(),
        place: place_of(pool),
        gpus: u64::from(draft.gpus),
        during,
        phase: phase(during, now),
    })
}

fn phase(during: Interval, now: Instant) -> Phase {
    match () {
        () if now < during.start() => Phase::Scheduled,
        () if during.contains(now) => Phase::Active,
        () => Phase::Expired,
    }
}

impl Group<'_> {
    /// As it stands now.
    pub(super) fn row(&self, state: &State, now: Instant) -> BlockGroup {
        let limit = self.limit_over_time();
        BlockGroup {
            id: self.id.clone(),
            region: self.pool.region.clone(),
            place: place_of(&self.pool),
            limit: limit.at(now),
            used: self.used(state),
            next_change: limit.next_change(now).map(|at| (at, limit.at(at))),
            continuous: self.continuous(&limit, now),
        }
    }

    /// GPUs that are reserved at an instant.
    pub(super) fn limit(&self, at: Instant) -> u64 {
        self.limit_over_time().at(at)
    }

    /// GPUs of instances inside, running or admitted.
    pub(super) fn used(&self, state: &State) -> u64 {
        let Some(pool) = state.market().pool(&self.pool) else { return 0 };
        let used = self.held.iter().map(|held| {
            let reservation = held.reservation.draft().reservation.clone();
            pool.stock().used_of(&ReservationName { tenant: held.tenant.clone(), reservation })
        });
        used.fold(0, u64::saturating_add)
    }

    /// The reservations, as intervals by id.
    pub(super) fn intervals(&self, now: Instant) -> BTreeMap<String, CapacityInterval> {
        let all = self.held.iter().filter_map(|held| interval_of(held, &self.pool, &self.id, now));
        all.map(|interval| (interval.id.to_string(), interval)).collect()
    }

    /// The instances inside, running or admitted.
    pub(super) fn instances<'a>(&'a self, state: &'a State) -> BTreeSet<&'a InstanceId> {
        self.held.iter().flat_map(|held| state.market().inside(state, held)).collect()
    }

    fn limit_over_time(&self) -> Steps {
        let parts = self.held.iter().map(|held| {
            let gpus = u64::from(held.reservation.draft().gpus);
            (held.reservation.interval(), gpus)
        });
        Steps::sum(parts)
    }

    /// The stretch without a gap that holds now, else the next, else the last.
    fn continuous(&self, limit: &Steps, now: Instant) -> Option<Continuous> {
        let mut intervals: Vec<Interval> = self.held.iter().map(|held| held.reservation.interval()).collect();
        intervals.sort();
        let mut stretches: Vec<(Instant, Instant)> = Vec::new();
        for interval in intervals {
            match stretches.last_mut() {
                Some((_, end)) if interval.start() <= *end => *end = interval.end().max(*end),
                _ => stretches.push((interval.start(), interval.end())),
            }
        }
        let chosen = stretches.iter().find(|(_, end)| now < *end).or(stretches.last());
        let during = chosen.and_then(|(start, end)| Interval::between(*start, *end))?;
        let phase = phase(during, now);
        let gpus = match phase {
            Phase::Scheduled => limit.at(during.start()),
            Phase::Active => limit.at(now),
            Phase::Expired => limit.at(during.end().saturating_add_ms(-1)),
        };
        Some(Continuous { during, phase, gpus })
    }
}
