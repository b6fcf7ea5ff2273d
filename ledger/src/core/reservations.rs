//! Reservations: who holds them, who runs out of them, and how they are earned.
//!
//! A reservation has room for its GPUs at each instant. Instances that were assigned to it fill it in
//! the order in which their assignments begin, each with all of its GPUs or not at all, for as long as
//! they run: whoever finds no room is billed on demand for that time. The room is a function of life
//! cycle and assignments, so it does not matter in which order they come to be known.
//!
//! Used hours stand on charge rows, unused ones on rows of their own: both together are what is
//! reserved, in each hour (P-2).

use std::collections::BTreeMap;

use hourglass_pricing::reservation::{Payment, Reservation};
use hourglass_pricing::settle::Fee;
use hourglass_units::{
    Amount, Coverage, Hour, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Month, Quantity, ReservationId,
    TenantId,
};
use serde::{Deserialize, Serialize};

use super::calendars::Calendars;
use super::command::{Mode, Position};
use super::metering::InstanceIx;
use super::modes::Modes;
use super::state::Instances;

/// Index of a reservation.
pub(crate) type ReservationIx = u32;

/// All reservations, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Reservations {
    all: Vec<Held>,
    by_id: BTreeMap<ReservationId, ReservationIx>,
    by_tenant: BTreeMap<TenantId, Vec<ReservationIx>>,
}

/// A reservation and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub reservation: Reservation,
    /// Where it was made.
    pub position: Position,
    /// What was paid up front, and when.
    pub(crate) purchases: Vec<Purchase>,
    /// Instances that were assigned to it at any time.
    pub(crate) members: Vec<InstanceIx>,
    /// When each of them has room in it.
    pub(crate) room: BTreeMap<InstanceIx, Coverage>,
    /// What is earned of what was paid up front, as the book holds it.
    pub(crate) released: Amount,
    /// Unused hours before this one stand in rows.
    pub(crate) written_until: Hour,
}

/// Something paid up front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purchase {
    pub(crate) at: Instant,
    pub(crate) quantity: Quantity,
    pub(crate) amount: Amount,
}

impl Held {
    /// What was paid ahead for it, and when.
    pub fn paid_ahead(&self) -> impl Iterator<Item = (Instant, Amount)> + '_ {
        self.purchases.iter().map(|purchase| (purchase.at, purchase.amount))
    }

    /// What is earned of what was paid ahead, as the book holds it.
    pub fn released(&self) -> Amount {
        self.released
    }

    /// Whether it is paid up front, and so earned over its time.
    pub fn is_upfront(&self) -> bool {
        matches!(self.reservation.draft().payment, Payment::Upfront { .. } | Payment::UpfrontTotal { .. })
    }

    /// What is earned of it until an instant, full hours only. `None` out of range.
    pub fn earned(&self, at: Instant) -> Option<Amount> {
        match Interval::between(INSTANT_MIN, Hour::containing(at).start()) {
            Some(past) => self.reservation.fee_within(past),
            None => Some(Amount::ZERO),
        }
    }

    /// Hours before this one stand in rows, used ones and unused ones.
    pub fn written_until(&self) -> Hour {
        self.written_until
    }

    /// Whether all of it is earned and written.
    pub(crate) fn is_over(&self, at: Instant) -> bool {
        let end = self.reservation.interval().end();
        end <= at && self.written_until.start() >= end
    }

    /// When each member has room, in the order in which their assignments begin.
    pub(crate) fn fill(&self, ix: &ReservationId, instances: &Instances) -> BTreeMap<InstanceIx, Coverage> {
        let mut wanted = Vec::new();
        for member in &self.members {
            let Some(instance) = instances.get(*member) else { continue };
            let Modes::Many(modes) = &instance.modes else { continue };
            for (assigned, mode) in modes.assigned() {
                if !matches!(mode, Mode::Reserved { reservation } if reservation == ix) {
                    continue;
                }
                let Some(window) = assigned.intersection(self.reservation.interval()) else { continue };
                let runs = instance.running.within(window);
                wanted.extend(runs.map(|run| (assigned.start(), *member, run, instance.gpus)));
            }
        }
        wanted.sort_by_key(|(assigned, member, run, _)| (*assigned, *member, *run));
        let mut occupancy = Occupancy(BTreeMap::from([(INSTANT_MIN, 0)]));
        let mut room: BTreeMap<InstanceIx, Coverage> = BTreeMap::new();
        for (_, member, run, gpus) in wanted {
            for part in occupancy.take(run, gpus, self.reservation.draft().gpus) {
                room.entry(member).or_default().insert(part);
            }
        }
        room
    }
}

/// How many GPUs are taken from each instant on.
struct Occupancy(BTreeMap<Instant, u32>);

impl Occupancy {
    /// Takes GPUs wherever there is room for all of them, and says where that was.
    fn take(&mut self, wanted: Interval, gpus: u32, capacity: u32) -> Vec<Interval> {
        for at in [wanted.start(), wanted.end()] {
            let taken = self.0.range(..=at).next_back().map_or(0, |(_, taken)| *taken);
            self.0.entry(at).or_insert(taken);
        }
        let starts: Vec<Instant> =
            self.0.range(wanted.start()..wanted.end()).map(|(from, _)| *from).collect();
        let ends = starts.iter().skip(1).copied().chain([wanted.end()]);
        let mut found = Vec::new();
        for (from, until) in starts.iter().zip(ends) {
            let Some(taken) = self.0.get_mut(from) else { continue };
            if let Some(more) = taken.checked_add(gpus).filter(|more| *more <= capacity) {
                *taken = more;
                found.extend(Interval::between(*from, until));
            }
        }
        found
    }
}

impl Reservations {
    pub(crate) fn find(&self, id: &ReservationId) -> Option<(ReservationIx, &Held)> {
        let ix = *self.by_id.get(id)?;
        Some((ix, self.get(ix)?))
    }

    pub(crate) fn get(&self, ix: ReservationIx) -> Option<&Held> {
        self.all.get(ix as usize)
    }

    pub(crate) fn get_mut(&mut self, ix: ReservationIx) -> Option<&mut Held> {
        self.all.get_mut(ix as usize)
    }

    /// All of them, in the order in which they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.all.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ReservationIx, &mut Held)> {
        (0..).zip(&mut self.all)
    }

    /// The reservations of a tenant.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = (ReservationIx, &Held)> {
        let all = self.by_tenant.get(tenant).into_iter().flatten();
        all.filter_map(|ix| Some((*ix, self.get(*ix)?)))
    }

    /// Adds one whose id is new. `None` beyond 2^32.
    pub(crate) fn push(&mut self, held: Held) -> Option<ReservationIx> {
        let ix = ReservationIx::try_from(self.all.len()).ok()?;
        self.by_id.insert(held.reservation.draft().reservation.clone(), ix);
        self.by_tenant.entry(held.tenant.clone()).or_default().push(ix);
        self.all.push(held);
        Some(ix)
    }

    /// What a tenant's reservations cost in the periods from one on, hours until `elapsed` only.
    /// `None` out of range.
    pub(crate) fn fees(
        &self,
        tenant: &TenantId,
        calendars: &Calendars,
        from: Month,
        elapsed: Instant,
    ) -> Option<Vec<Fee>> {
        let mut fees = Vec::new();
        for (ix, held) in self.of_tenant(tenant) {
            for purchase in &held.purchases {
                let (period, segment) = calendars.segment(tenant, purchase.at);
                if period >= from {
                    let Purchase { quantity, amount, .. } = *purchase;
                    fees.push(Fee { reservation: ix, period, segment, quantity, amount });
                }
            }
            if held.is_upfront() {
                continue;
            }
            let interval = held.reservation.interval();
            let end = interval.end().min(Hour::containing(elapsed).start());
            let mut cursor = interval.start().max(calendars.of(tenant).interval(from).start());
            while cursor < end {
                let (period, segment) = calendars.segment(tenant, cursor);
                let Some(part) = Interval::between(cursor, segment.end().min(end)) else { break };
                let (quantity, amount) =
                    (held.reservation.quantity_within(part), held.reservation.fee_within(part)?);
                if period >= from {
                    fees.push(Fee { reservation: ix, period, segment, quantity, amount });
                }
                cursor = part.end();
            }
        }
        Some(fees)
    }
}

/// The window from the first difference of two mode timelines on.
pub(crate) fn first_difference(old: &Modes, new: &Modes) -> Option<Interval> {
    let (old, new) = (old.steps(), new.steps());
    let differs = |at: usize| old.get(at) != new.get(at);
    let at = (0..old.len().max(new.len())).find(|at| differs(*at))?;
    let starts = [old.get(at), new.get(at)].into_iter().flatten().map(|step| step.from);
    Interval::between(starts.min()?, INSTANT_MAX)
}
