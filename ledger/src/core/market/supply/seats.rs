//! Who runs in a pool and is not spot: on demand, or inside a reservation of its fabric.
//!
//! An instance that names a fabric is counted in its pool as long as it holds quota, from acceptance until it
//! is seen stopped. Where spot still sits on its GPUs it *waits*: the next clearing gives spot its notice, and
//! it has its GPUs when they are free, in the order in which instances were made known. Who runs all the
//! same, runs: it is counted, and the shortfall shows.

use std::collections::BTreeSet;

use hourglass_capacity::calendar::ReservationName;
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::Steps;
use hourglass_capacity::supply::Admission;
use hourglass_quota::Class;
use hourglass_units::{
    Fabric, INSTANT_MAX, InstanceId, Instant, Interval, ProjectId, ReservationId, TenantId,
};
use serde::{Deserialize, Serialize};

use super::{Pool, Undriven};
use crate::core::Inconsistent;
use crate::core::command::{Mode, Registration};
use crate::core::market::{Market, MarketRejection, Unit};
use crate::core::metering::InstanceIx;
use crate::core::quotas::{Target, class_for};
use crate::core::rejection::Rejection;
use crate::core::reservations::Held;
use crate::core::state::{Cell, State};

/// Where an instance runs that is not spot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// In which pool.
    pub pool: PoolName,
    /// Its GPUs.
    pub gpus: u64,
    /// How it is counted; not at all where it holds nothing.
    pub(super) counted: Option<Counted>,
}

/// What an instance takes of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Inside which reservation; on demand where absent.
    of: Option<ReservationName>,
    /// Whether spot still sits on its GPUs.
    waits: bool,
}

impl Seat {
    /// Whether it waits for its GPUs.
    pub fn waits(&self) -> bool {
        self.counted.as_ref().is_some_and(|it| it.waits)
    }
}

impl Market {
    /// The instances that are counted inside a reservation of a fabric: they run, or were admitted.
    pub fn inside<'a>(&'a self, state: &'a State, held: &'a Held) -> impl Iterator<Item = &'a InstanceId> {
        let reservation = &held.reservation.draft().reservation;
        let members = held.members.iter().filter(move |ix| {
            let counted = self.seats.get(ix).and_then(|seat| seat.counted.as_ref());
            counted.and_then(|it| it.of.as_ref()).is_some_and(|of| of.reservation == *reservation)
        });
        members.filter_map(|ix| Some(&state.instances.get(*ix)?.id))
    }
}

/// Where a new instance is to run: its own fabric, or its reservation's.
fn fabric_of<'a>(
    state: &'a State,
    it: &'a Registration,
) -> Result<Option<(&'a Fabric, Option<&'a Held>)>, MarketRejection> {
    match (&it.mode, &it.fabric) {
        (Mode::OnDemand, fabric) => Ok(fabric.as_ref().map(|fabric| (fabric, None))),
        (Mode::Spot { .. }, None) => Ok(None),
        (Mode::Spot { .. }, Some(_)) => Err(MarketRejection::FabricOfSpot),
        (Mode::Reserved { reservation }, fabric) => {
            let held = state.reservations.find(reservation).map(|(_, held)| held);
            let of_reservation = held.and_then(|held| held.reservation.draft().fabric.as_ref());
            match (fabric, of_reservation) {
                (Some(fabric), Some(of)) if fabric != of => {
                    let (reservation, fabric) = (reservation.clone(), of.clone());
                    Err(MarketRejection::FabricDiffers { reservation, fabric })
                }
                (Some(fabric), None) => Ok(Some((fabric, None))),
                (_, of) => Ok(of.map(|of| (of, held))),
            }
        }
    }
}

/// Whether an instance that is to be created has room in its pool, now or when spot has made way.
pub(crate) fn check_seat(
    state: &State,
    cell: &Cell,
    it: &Registration,
    now: Instant,
) -> Result<(), Rejection> {
    let Some((fabric, held)) = fabric_of(state, it)? else { return Ok(()) };
    let (platform, region) = (it.platform.clone(), cell.region.clone());
    let name = PoolName { region, platform, fabric: fabric.clone() };
    let Some(pool) = state.market.pools.get(&name) else {
        return Err(MarketRejection::PoolUnknown { pool: name }.into());
    };
    if let Some(held) = held.filter(|_| class_for(state, None, it.gpus, &it.mode, now) == Class::Reserved) {
        return Ok(check_allowance(state, pool, held, it, now)?);
    }
    Ok(check_on_demand(state, &name, pool, it.gpus, now)?)
}

/// Whether an instance that has a place may be sold differently: not out of a reservation of another fabric, and
/// on demand only where there is room.
pub(crate) fn check_place(
    state: &State,
    ix: InstanceIx,
    mode: &Mode,
    now: Instant,
) -> Result<(), MarketRejection> {
    let Some(seat) = state.market.seats.get(&ix) else { return Ok(()) };
    match mode {
        Mode::Spot { .. } => Ok(()),
        Mode::OnDemand => {
            let is_on_demand = seat.counted.as_ref().is_none_or(|counted| counted.of.is_none());
            let pool = state.market.pools.get(&seat.pool).filter(|_| !is_on_demand);
            let gpus = state.instances.get(ix).map_or(0, |instance| instance.gpus);
            pool.map_or(Ok(()), |pool| check_on_demand(state, &seat.pool, pool, gpus, now))
        }
        Mode::Reserved { reservation } => {
            let held = state.reservations.find(reservation).map(|(_, held)| held);
            let fabric = held.and_then(|held| held.reservation.draft().fabric.as_ref());
            match fabric.filter(|fabric| **fabric != seat.pool.fabric) {
                None => Ok(()),
                Some(fabric) => {
                    let (reservation, fabric) = (reservation.clone(), fabric.clone());
                    Err(MarketRejection::FabricDiffers { reservation, fabric })
                }
            }
        }
    }
}

/// Whether so many GPUs may be on demand in a pool, now or when spot has made way.
fn check_on_demand(
    state: &State,
    name: &PoolName,
    pool: &Pool,
    gpus: u32,
    now: Instant,
) -> Result<(), MarketRejection> {
    let spot = spot_over_time(state, name, pool, now);
    match pool.admit_on_demand(now, &spot, u64::from(gpus)) {
        Admission::Now | Admission::Pending { .. } => Ok(()),
        Admission::Refused { room, tightest } => {
            Err(MarketRejection::PoolFull { pool: name.clone(), gpus, room, tightest })
        }
    }
}

/// Whether its project may use so much of a reservation.
fn check_allowance(
    state: &State,
    pool: &Pool,
    held: &Held,
    it: &Registration,
    now: Instant,
) -> Result<(), MarketRejection> {
    let reservation = held.reservation.draft().reservation.clone();
    let name = ReservationName { tenant: held.tenant.clone(), reservation: reservation.clone() };
    let Some(known) = pool.stock.calendar.get(&name) else { return Ok(()) };
    if known.allowances().is_empty() || !known.interval().contains(now) {
        return Ok(());
    }
    // What projects use beyond their own comes out of what is anybody's.
    let used = |project: &ProjectId| used_by(state, held, project);
    let projects: BTreeSet<&ProjectId> = known.allowances().iter().map(|it| &it.project).collect();
    let own = known.entitlement(&it.project, now);
    let all = pool.stock.used_of(&name);
    let within = |project: &ProjectId| used(project).min(known.entitlement(project, now).assigned);
    let inside = projects.into_iter().map(within).fold(0, u64::saturating_add);
    let shared = own.shared.saturating_sub(all.saturating_sub(inside));
    let left = own.assigned.saturating_sub(used(&it.project)).saturating_add(shared);
    if u64::from(it.gpus) <= left {
        return Ok(());
    }
    Err(MarketRejection::AllowanceUsed { reservation, project: it.project.clone(), left })
}

/// GPUs of a project's instances inside a reservation.
fn used_by(state: &State, held: &Held, project: &ProjectId) -> u64 {
    let of = held.members.iter().filter_map(|ix| {
        let instance = state.instances.get(*ix)?;
        let seat = state.market.seats.get(ix)?;
        let inside = seat.counted.as_ref()?.of.is_some();
        let group = state.groups.get(instance.modes.newest()?.group)?;
        (inside && group.project == *project).then_some(seat.gpus)
    });
    of.fold(0, u64::saturating_add)
}

/// GPUs that spot has in a pool, over time: what was told to stop until it is gone at the latest.
fn spot_over_time(state: &State, name: &PoolName, pool: &Pool, now: Instant) -> Steps {
    let sits = pool.occupied_by_spot();
    let Some(rest) = Interval::from(now).filter(|_| sits > 0) else { return Steps::default() };
    let mut gone = Vec::new();
    for (ix, _) in state.market.units.iter().filter(|(_, unit)| unit.pool == *name) {
        let Some(instance) = state.instances.get(*ix) else { continue };
        let order = state.quotas.preemption(&Target::Instance(instance.id.clone()));
        let until = order.map_or(INSTANT_MAX, |it| it.deadline.saturating_add_ms(pool.terms.drain_ms));
        if let Some(after) = Interval::between(until.max(now), INSTANT_MAX) {
            gone.push((after, u64::from(instance.gpus)));
        }
    }
    Steps::sum([(rest, sits)]).beyond(&Steps::sum(gone), now)
}

/// An instance was accepted that names a fabric, or whose reservation does.
pub(crate) fn place(state: &mut State, ix: InstanceIx, it: &Registration) -> Result<(), Inconsistent> {
    let found = fabric_of(state, it).map_err(|error| Inconsistent::new(error.to_string()))?;
    let Some((fabric, _)) = found else { return Ok(()) };
    let unknown = || Inconsistent::new("an instance before the cell");
    let region = state.cell.as_ref().map(|cell| cell.region.clone()).ok_or_else(unknown)?;
    let pool = PoolName { region, platform: it.platform.clone(), fabric: fabric.clone() };
    let seat = Seat { pool, gpus: u64::from(it.gpus), counted: None };
    state.market.seats.insert(ix, seat);
    Ok(())
}

/// Counts an instance as what it holds quota as now.
pub(crate) fn follow(state: &mut State, ix: InstanceIx) -> Result<(), Inconsistent> {
    if !state.market.seats.contains_key(&ix) {
        return Ok(());
    }
    let lost = || Inconsistent::new("an instance that is lost");
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let class = instance.holding.map(|holding| holding.key.class());
    let of = instance.modes.assigned_last().and_then(|mode| match mode {
        Mode::Reserved { reservation } => name_of(state, reservation),
        Mode::OnDemand | Mode::Spot { .. } => None,
    });
    let wanted = match class {
        Some(Class::Reserved) => Some(of),
        Some(Class::OnDemand) => Some(None),
        Some(Class::Preemptible) | None => None,
    };
    let before = uncount(&mut state.market, ix)?;
    let Some(of) = wanted else { return Ok(()) };
    let (seat, pool) = parts(&mut state.market, ix)?;
    let waits = before.map_or_else(|| pool.unoccupied(state.now) < seat.gpus, |before| before.waits);
    match &of {
        Some(name) => {
            let used = pool.stock.used.entry(name.clone()).or_default();
            *used = used.saturating_add(seat.gpus);
        }
        None => pool.stock.on_demand = pool.stock.on_demand.saturating_add(seat.gpus),
    }
    if !waits {
        pool.stock.seated = pool.stock.seated.saturating_add(seat.gpus);
    }
    seat.counted = Some(Counted { of, waits });
    if waits {
        state.market.seatless.insert(ix);
    }
    Ok(())
}

fn name_of(state: &State, reservation: &ReservationId) -> Option<ReservationName> {
    let (_, held) = state.reservations.find(reservation)?;
    Some(ReservationName { tenant: held.tenant.clone(), reservation: reservation.clone() })
}

fn parts(market: &mut Market, ix: InstanceIx) -> Result<(&mut Seat, &mut Pool), Inconsistent> {
    let lost = || Inconsistent::new("an instance in no pool");
    let seat = market.seats.get_mut(&ix).ok_or_else(lost)?;
    let pool = market.pools.get_mut(&seat.pool).ok_or_else(lost)?;
    Ok((seat, pool))
}

/// Takes what an instance has out of the counts, and says what it was.
fn uncount(market: &mut Market, ix: InstanceIx) -> Result<Option<Counted>, Inconsistent> {
    market.seatless.remove(&ix);
    market.supply_changed = true;
    let (seat, pool) = parts(market, ix)?;
    let Some(before) = seat.counted.take() else { return Ok(None) };
    match &before.of {
        Some(name) => {
            let used = pool.stock.used.entry(name.clone()).or_default();
            *used = used.saturating_sub(seat.gpus);
            if *used == 0 {
                pool.stock.used.remove(name);
            }
        }
        None => pool.stock.on_demand = pool.stock.on_demand.saturating_sub(seat.gpus),
    }
    if !before.waits {
        pool.stock.seated = pool.stock.seated.saturating_sub(seat.gpus);
    }
    Ok(Some(before))
}

/// An instance runs: it has its GPUs, whatever was counted.
pub(crate) fn starts(market: &mut Market, ix: InstanceIx) {
    unit_runs(market, ix);
    sit(market, ix);
}

/// Who waited has its GPUs.
fn sit(market: &mut Market, ix: InstanceIx) {
    if market.seatless.remove(&ix)
        && let Ok((seat, pool)) = parts(market, ix)
        && let Some(counted) = &mut seat.counted
    {
        counted.waits = false;
        pool.stock.seated = pool.stock.seated.saturating_add(seat.gpus);
    }
}

/// Whether an instance waits for its GPUs.
pub(crate) fn is_waiting(state: &State, ix: InstanceIx) -> bool {
    state.market.seatless.contains(&ix)
}

/// Who waits for GPUs that are free by now has them, in the order in which instances were made known.
pub(crate) fn admit_waiting(market: &mut Market, at: Instant) {
    let mut behind: BTreeSet<PoolName> = BTreeSet::new();
    for ix in market.seatless.iter().copied().collect::<Vec<_>>() {
        let Ok((seat, pool)) = parts(market, ix) else { continue };
        if behind.contains(&seat.pool) {
            continue;
        }
        if pool.unoccupied(at) < seat.gpus {
            behind.insert(seat.pool.clone());
            continue;
        }
        sit(market, ix);
    }
}

/// The counts that a unit is in which this cell does not drive.
fn undriven(market: &mut Market, ix: InstanceIx) -> Option<(&mut Unit, &mut Undriven)> {
    if market.lives.contains_key(&ix) {
        return None;
    }
    let unit = market.units.get_mut(&ix)?;
    let pool = market.pools.get_mut(&unit.pool)?;
    Some((unit, &mut pool.stock.undriven))
}

/// A unit was won.
pub(crate) fn unit_won(market: &mut Market, ix: InstanceIx) {
    if let Some((unit, sums)) = undriven(market, ix) {
        sums.live = sums.live.saturating_add(unit.gpus);
    }
}

/// A unit runs.
fn unit_runs(market: &mut Market, ix: InstanceIx) {
    if let Some((unit, sums)) = undriven(market, ix)
        && !std::mem::replace(&mut unit.runs, true)
    {
        sums.running = sums.running.saturating_add(unit.gpus);
    }
}

/// A unit was told to stop.
pub(crate) fn unit_is_to_stop(market: &mut Market, ix: InstanceIx) {
    if let Some((unit, sums)) = undriven(market, ix)
        && !std::mem::replace(&mut unit.stops, true)
    {
        sums.live = sums.live.saturating_sub(unit.gpus);
    }
}

/// A unit is gone.
pub(crate) fn unit_goes(market: &mut Market, ix: InstanceIx) {
    unit_is_to_stop(market, ix);
    if let Some((unit, sums)) = undriven(market, ix)
        && std::mem::replace(&mut unit.runs, false)
    {
        sums.running = sums.running.saturating_sub(unit.gpus);
    }
}

impl Market {
    /// Whether an instance was accepted and waits until spot has made way.
    pub fn waits(&self, state: &State, instance: &hourglass_units::InstanceId) -> bool {
        let ix = state.instances.find(instance.as_str());
        ix.is_some_and(|ix| self.seatless.contains(&ix))
    }

    /// Instances that wait for their GPUs in a pool, and how many GPUs those are.
    pub fn waiting_in(&self, pool: &PoolName) -> (u64, u64) {
        let seats = self.seatless.iter().filter_map(|ix| self.seats.get(ix)).filter(|it| it.pool == *pool);
        seats.fold((0, 0), |(instances, gpus): (u64, u64), seat| {
            (instances.saturating_add(1), gpus.saturating_add(seat.gpus))
        })
    }

    /// Whether an instance is counted inside a reservation.
    pub fn is_inside_reservation(&self, state: &State, instance: &hourglass_units::InstanceId) -> bool {
        let seat = state.instances.find(instance.as_str()).and_then(|ix| self.seats.get(&ix));
        seat.and_then(|seat| seat.counted.as_ref()).is_some_and(|counted| counted.of.is_some())
    }

    /// Pools that count other GPUs than those of the instances in them.
    pub(crate) fn misseated(&self) -> impl Iterator<Item = &PoolName> {
        self.pools
            .iter()
            .filter(|(name, pool)| {
                let seats = self.seats.values().filter(|seat| seat.pool == **name);
                let (mut on_demand, mut used, mut seated) = (0_u64, 0_u64, 0_u64);
                for (seat, counted) in seats.filter_map(|seat| Some((seat, seat.counted.as_ref()?))) {
                    let sum = if counted.of.is_some() { &mut used } else { &mut on_demand };
                    *sum = sum.saturating_add(seat.gpus);
                    seated = seated.saturating_add(if counted.waits { 0 } else { seat.gpus });
                }
                let (mut live, mut running) = (0_u64, 0_u64);
                let units = self.units.iter().filter(|(_, unit)| unit.pool == **name);
                for (_, unit) in units.filter(|(ix, _)| !self.lives.contains_key(ix)) {
                    live = live.saturating_add(if unit.stops { 0 } else { unit.gpus });
                    running = running.saturating_add(if unit.runs { unit.gpus } else { 0 });
                }
                let stock = &pool.stock;
                (on_demand, used, seated) != (stock.on_demand, stock.used(), stock.seated)
                    || stock.undriven != Undriven { live, running }
            })
            .map(|(name, _)| name)
    }
}

/// The name of a tenant's reservation in calendars.
pub(super) fn reservation_name(tenant: &TenantId, reservation: &ReservationId) -> ReservationName {
    ReservationName { tenant: tenant.clone(), reservation: reservation.clone() }
}
