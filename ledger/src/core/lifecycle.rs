//! Instances and reservations come, change and go.

use hourglass_pricing::reservation::Reservation;
use hourglass_pricing::{CardVersion, PriceStep, PriceTimeline, PurchaseModel, Sku};
use hourglass_units::{
    Amount, Coverage, Currency, Fabric, INSTANT_MAX, INSTANT_MIN, InstanceId, Instant, Interval, Price,
    RateCardName, ReservationId, TenantId,
};

use super::Inconsistent;
use super::apply::{exclusion, touch};
use super::command::{Mode, Position, Registration};
use super::groups::GroupIx;
use super::market;
use super::metering::{Charging, Exclusion, Instance, InstanceIx};
use super::modes::{ManyModes, ModeStep, Modes};
use super::reservations::{Held, Purchase, ReservationIx, first_difference};
use super::sla::Waiting;
use super::state::State;
use super::timeline::{LifeStep, Noted};

/// Makes an instance known and takes its reports out of suspense.
pub(crate) fn register(state: &mut State, it: &Registration) -> Result<(), Inconsistent> {
    if state.instances.find(it.instance.as_str()).is_some() {
        return Err(Inconsistent::new("an instance registered twice"));
    }
    let full = || Inconsistent::new("more instances than an index holds");
    let agent = it.agent.as_ref().map(|agent| state.bind_agent(agent).ok_or_else(full)).transpose()?;
    let owner =
        Owner { tenant: it.tenant.clone(), project: it.project.clone(), platform: it.platform.clone() };
    // What has room in a reservation is found out below.
    let group = owner.group(state, it.mode.model_without_room(), it.mode.fabric(), None)?;
    let modes = match &it.mode {
        Mode::OnDemand => Modes::one(group, None),
        Mode::Spot { bid: None, limit, fabric: None } => Modes::one(group, *limit),
        mode => Modes::Many(Box::new(ManyModes {
            assigned: vec![(INSTANT_MIN, mode.clone())],
            resolved: vec![ModeStep { from: INSTANT_MIN, group, limit: mode.limit() }],
        })),
    };
    let mut instance = Instance {
        id: it.instance.clone(),
        running: Coverage::default(),
        reported: Coverage::default(),
        excluded: None,
        modes,
        gpus: it.gpus,
        agent,
        growing: None,
        holding: None,
    };
    // It does not run yet, so nothing is billed here: starting it will do that.
    let errors = state.incidents.take_waiting(&it.instance);
    for suspended in state.suspense.remove(&it.instance).unwrap_or_default() {
        let by = it.agent.as_ref().is_none_or(|agent| *agent == suspended.agent);
        let reason = exclusion(&instance, suspended.gpus, by, suspended.excluded);
        for interval in suspended.reported.intervals() {
            match reason {
                Some(reason) => instance.exclude(reason, *interval),
                None => instance.reported.insert(*interval),
            }
        }
    }
    let counts = |waiting: &Waiting| {
        let by = it.agent.as_ref().is_none_or(|agent| *agent == waiting.agent);
        exclusion(&instance, waiting.gpus, by, waiting.excluded).is_none()
    };
    let errors: Vec<Waiting> = errors.into_iter().filter(counts).collect();
    let ix = state.instances.push(instance).ok_or_else(full)?;
    for Waiting { interval, code, position, .. } in errors {
        state.incidents.note(ix, interval, code, position);
    }
    state.groups.get_mut(group).ok_or_else(full)?.members.push(ix);
    state.noted.push(Noted::new(&it.instance, LifeStep::Registered, state.now).sold(&it.mode));
    assign(state, ix, &it.mode)
}

impl Mode {
    /// How it is sold where the reservation has no room.
    fn model_without_room(&self) -> PurchaseModel {
        match self {
            Self::Spot { .. } => PurchaseModel::Spot,
            Self::OnDemand | Self::Reserved { .. } => PurchaseModel::OnDemand,
        }
    }

    fn limit(&self) -> Option<Price> {
        match self {
            Self::Spot { limit, .. } => *limit,
            Self::OnDemand | Self::Reserved { .. } => None,
        }
    }

    /// In the pool of which fabric it is spot.
    pub(crate) fn fabric(&self) -> Option<&Fabric> {
        match self {
            Self::Spot { fabric, .. } => fabric.as_ref(),
            Self::OnDemand | Self::Reserved { .. } => None,
        }
    }
}

/// Whose and where an instance is, whatever its mode.
struct Owner {
    tenant: TenantId,
    project: hourglass_units::ProjectId,
    platform: hourglass_units::Platform,
}

impl Owner {
    fn of(state: &State, instance: &Instance) -> Result<Self, Inconsistent> {
        let group = instance.modes.newest().and_then(|step| state.groups.get(step.group));
        let group = group.ok_or_else(|| Inconsistent::new("an instance without a group"))?;
        let (tenant, project, platform) =
            (group.tenant.clone(), group.project.clone(), group.sku.platform.clone());
        Ok(Self { tenant, project, platform })
    }

    /// The group in which an instance of it is billed under a model.
    fn group(
        &self,
        state: &mut State,
        model: PurchaseModel,
        fabric: Option<&Fabric>,
        reservation: Option<ReservationIx>,
    ) -> Result<GroupIx, Inconsistent> {
        let unknown = || Inconsistent::new("an instance of an unknown tenant");
        let region = state.cell.as_ref().map(|cell| cell.region.clone()).ok_or_else(unknown)?;
        let currency = state.tenants.get(&self.tenant).map(|tenant| tenant.currency).ok_or_else(unknown)?;
        let sku = Sku { platform: self.platform.clone(), region, model };
        let State { groups, prices, reservations, .. } = state;
        let resolve = |sku: &Sku| match reservation.and_then(|ix| reservations.get(ix)) {
            Some(held) => prices_of(&held.reservation),
            None => prices.timeline(&self.tenant, currency, sku),
        };
        let key = (self.project.clone(), sku, fabric.cloned(), reservation);
        let full = || Inconsistent::new("more groups than an index holds");
        groups.of(&self.tenant, key, currency, resolve).ok_or_else(full)
    }
}

/// What used hours of a reservation cost when they are used. Its time is a matter of who has room, not of
/// the price: an end that moves must find the lines that were there before.
pub(crate) fn prices_of(reservation: &Reservation) -> PriceTimeline {
    let draft = reservation.draft();
    let name = draft.reservation.as_str().parse::<RateCardName>();
    let always = Interval::between(INSTANT_MIN, INSTANT_MAX);
    let step = name.ok().zip(always).map(|(name, interval)| PriceStep {
        interval,
        price: reservation.usage_price(),
        source: CardVersion { name, version: 1 },
        list: None,
        components: Default::default(),
    });
    PriceTimeline::of_step(step)
}

/// Borrows the state apart: the instances, and what rating writes beside them.
fn charging(state: &mut State) -> (&mut super::state::Instances, Charging<'_>) {
    let State { instances, groups, prices, calendars, pending, written_until, .. } = state;
    let written_until = *written_until;
    (instances, Charging { groups, prices, calendars, pending, written_until })
}

/// Changes when an instance ran; what was reported and is billable now is billed, and the reverse.
pub(crate) fn change_running(
    state: &mut State,
    id: &InstanceId,
    window: Interval,
    change: impl FnOnce(&mut Coverage),
) -> Result<(), Inconsistent> {
    let ix = find(state, id)?;
    let (instances, mut charging) = charging(state);
    let instance = instances.get_mut(ix).ok_or_else(lost)?;
    instance.amend(ix, window, &mut charging, |instance| change(&mut instance.running))?;
    // Who shares a reservation with it may have more room now, or less.
    for reservation in reservations_of(state, ix) {
        resolve(state, reservation)?;
    }
    Ok(())
}

/// Takes an interval out of what is billed, reported or not yet reported.
pub(crate) fn void_usage(state: &mut State, id: &InstanceId, interval: Interval) -> Result<(), Inconsistent> {
    let ix = find(state, id)?;
    let (instances, mut charging) = charging(state);
    let instance = instances.get_mut(ix).ok_or_else(lost)?;
    instance.amend(ix, interval, &mut charging, |instance| instance.exclude(Exclusion::Voided, interval))
}

/// From an instant on the instance is sold differently.
pub(crate) fn change_mode(
    state: &mut State,
    id: &InstanceId,
    mode: &Mode,
    at: Instant,
) -> Result<(), Inconsistent> {
    let ix = find(state, id)?;
    let assigned_before = state.instance(id.as_str()).map(|view| view.modes()).unwrap_or_default();
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let owner = Owner::of(state, instance)?;
    let mut assigned = assigned_before;
    assigned.push((at, mode.clone()));
    let group = owner.group(state, mode.model_without_room(), mode.fabric(), None)?;
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let mut resolved: Vec<ModeStep> =
        instance.modes.steps().iter().filter(|step| step.from < at).copied().collect();
    resolved.push(ModeStep { from: at, group, limit: mode.limit() });
    set_modes(state, ix, Modes::Many(Box::new(ManyModes { assigned, resolved })))?;
    assign(state, ix, mode)
}

/// Puts an instance among those that can fill the reservation of its mode, and finds out who has room
/// in all reservations that it was ever assigned to.
fn assign(state: &mut State, ix: InstanceIx, mode: &Mode) -> Result<(), Inconsistent> {
    if let Mode::Reserved { reservation } = mode {
        let (reservation, _) = state.reservations.find(reservation).ok_or_else(unknown_reservation)?;
        let held = state.reservations.get_mut(reservation).ok_or_else(unknown_reservation)?;
        if !held.members.contains(&ix) {
            held.members.push(ix);
        }
    }
    for reservation in reservations_of(state, ix) {
        resolve(state, reservation)?;
    }
    Ok(())
}

/// The reservations that an instance was ever assigned to.
fn reservations_of(state: &State, ix: InstanceIx) -> Vec<ReservationIx> {
    let Some(Instance { modes: Modes::Many(modes), .. }) = state.instances.get(ix) else { return Vec::new() };
    let mut all: Vec<ReservationIx> = modes
        .assigned
        .iter()
        .filter_map(|(_, mode)| match mode {
            Mode::Reserved { reservation } => state.reservations.find(reservation).map(|(ix, _)| ix),
            Mode::OnDemand | Mode::Spot { .. } => None,
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Finds out anew who has room in a reservation, and bills those differently for whom that changed.
fn resolve(state: &mut State, reservation: ReservationIx) -> Result<(), Inconsistent> {
    let held = state.reservations.get(reservation).ok_or_else(unknown_reservation)?;
    let room = held.fill(&held.reservation.draft().reservation, &state.instances);
    let members = held.members.clone();
    let held = state.reservations.get_mut(reservation).ok_or_else(unknown_reservation)?;
    held.room = room;
    for ix in members {
        let modes = resolved_modes(state, ix)?;
        set_modes(state, ix, modes)?;
    }
    Ok(())
}

/// The timeline of an instance as its assignments and the room in reservations make it.
fn resolved_modes(state: &mut State, ix: InstanceIx) -> Result<Modes, Inconsistent> {
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let Modes::Many(modes) = &instance.modes else { return Ok(instance.modes.clone()) };
    let assigned = modes.assigned.clone();
    let owner = Owner::of(state, instance)?;
    let spans: Vec<(Interval, Mode)> = modes.assigned().map(|(span, mode)| (span, mode.clone())).collect();
    let mut resolved = Vec::new();
    for (span, mode) in spans {
        let without = owner.group(state, mode.model_without_room(), mode.fabric(), None)?;
        let mut push = |from: Instant, group: GroupIx| {
            resolved.push(ModeStep { from, group, limit: mode.limit() });
        };
        let found = match &mode {
            Mode::Reserved { reservation } => state.reservations.find(reservation).map(|(ix, _)| ix),
            Mode::OnDemand | Mode::Spot { .. } => None,
        };
        let Some(reservation) = found else {
            push(span.start(), without);
            continue;
        };
        let within = owner.group(state, PurchaseModel::Reserved, None, Some(reservation))?;
        let held = state.reservations.get(reservation).ok_or_else(unknown_reservation)?;
        let mut reached = span.start();
        for part in held.room.get(&ix).into_iter().flat_map(|room| room.within(span)) {
            if reached < part.start() {
                push(reached, without);
            }
            push(part.start(), within);
            reached = part.end();
        }
        if reached < span.end() {
            push(reached, without);
        }
    }
    resolved.dedup_by(|next, before| (next.group, next.limit) == (before.group, before.limit));
    Ok(Modes::Many(Box::new(ManyModes { assigned, resolved })))
}

/// Gives an instance another mode timeline, and bills the difference.
fn set_modes(state: &mut State, ix: InstanceIx, modes: Modes) -> Result<(), Inconsistent> {
    let before = &state.instances.get(ix).ok_or_else(lost)?.modes;
    let changed = first_difference(before, &modes);
    let groups: Vec<GroupIx> = modes.steps().iter().map(|step| step.group).collect();
    for group in groups {
        let members = &mut state.groups.get_mut(group).ok_or_else(lost)?.members;
        if !members.contains(&ix) {
            members.push(ix);
        }
    }
    let (instances, mut charging) = charging(state);
    let instance = instances.get_mut(ix).ok_or_else(lost)?;
    match changed {
        None => instance.modes = modes,
        Some(window) => instance.amend(ix, window, &mut charging, |instance| instance.modes = modes)?,
    }
    Ok(())
}

/// Sells a reservation.
pub(crate) fn reserve(
    state: &mut State,
    tenant: &TenantId,
    reservation: &Reservation,
    position: Position,
    at: Instant,
) -> Result<(), Inconsistent> {
    let upfront =
        reservation.upfront().map(|amount| Purchase { at, quantity: reservation.quantity(), amount });
    let held = Held {
        tenant: tenant.clone(),
        reservation: reservation.clone(),
        position,
        purchases: upfront.into_iter().collect(),
        members: Vec::new(),
        room: Default::default(),
        released: Amount::ZERO,
        written_until: hourglass_units::Hour::containing(reservation.interval().start()),
    };
    let full = || Inconsistent::new("more reservations than an index holds");
    state.reservations.push(held).ok_or_else(full)?;
    let first = [at, reservation.interval().start()].map(|at| state.calendars.of(tenant).containing(at));
    first.into_iter().for_each(|period| touch(state, tenant, period));
    Ok(())
}

/// Gives a reservation another end.
pub(crate) fn amend_reservation(
    state: &mut State,
    id: &ReservationId,
    until: Instant,
    at: Instant,
) -> Result<(), Inconsistent> {
    let (ix, held) = state.reservations.find(id).ok_or_else(unknown_reservation)?;
    let impossible = |_| Inconsistent::new("an amendment that cannot be");
    let amended = held.reservation.amended(until).map_err(impossible)?;
    let more = amended.quantity().checked_sub(held.reservation.quantity());
    let paid = held.purchases.iter().try_fold(Amount::ZERO, |sum, it| sum.checked_add(it.amount));
    let due = amended.upfront().zip(paid).and_then(|(due, paid)| due.checked_sub(paid));
    let (tenant, first) = (held.tenant.clone(), held.reservation.interval().end().min(until));
    let first = state.calendars.of(&tenant).containing(first.min(at));
    let held = state.reservations.get_mut(ix).ok_or_else(unknown_reservation)?;
    held.reservation = amended.clone();
    if let (Some(quantity), Some(amount)) = (more, due.filter(|due| *due > Amount::ZERO)) {
        held.purchases.push(Purchase { at, quantity, amount });
    }
    touch(state, &tenant, first);
    market::reserve(state, &tenant, &amended)?;
    resolve(state, ix)
}

/// Prices change from an instant on: lines that grow are looked at again there.
pub(crate) fn look_again_from(state: &mut State, at: Instant) {
    state.instances.iter_mut().for_each(|(_, instance)| instance.look_again_from(at));
}

pub(crate) fn find(state: &State, id: &InstanceId) -> Result<InstanceIx, Inconsistent> {
    state
        .instances
        .find(id.as_str())
        .ok_or_else(|| Inconsistent::new("the life cycle of an unknown instance"))
}

fn lost() -> Inconsistent {
    Inconsistent::new("an instance or a group that is lost")
}

fn unknown_reservation() -> Inconsistent {
    Inconsistent::new("an unknown reservation")
}

/// In which currency a tenant is billed.
pub(crate) fn currency_of(state: &State, tenant: &TenantId) -> Option<Currency> {
    state.tenants.get(tenant).map(|tenant| tenant.currency)
}
