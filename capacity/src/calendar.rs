//! Reservations of a pool: what is promised, when, and to whom.
//!
//! # Invariant
//!
//! **C-1, no over-promise**: at no instant is more promised than there is. It holds whenever something is
//! admitted. Where capacity falls afterwards the calendar is [over-promised](Calendar::overpromised): it says
//! when and by how much, nothing more is admitted in that time, and what is there can only shrink.
//!
//! What a question costs: the changes of capacity and of promises within the interval asked about, each
//! `O(log n)` of all reservations. To admit one for a week costs that week.

use std::collections::BTreeMap;
use std::fmt;

use hourglass_units::{
    HOUR_MILLISECONDS, INSTANT_MAX, Instant, Interval, ProjectId, ReservationId, TenantId,
};
use serde::{Deserialize, Serialize};

use crate::nodes::POOL_GPUS_MAX;
use crate::steps::{Steps, side_by_side};

/// Most reservations of a pool that are not over.
pub const RESERVATIONS_MAX: usize = 1 << 17;
/// Most parts of a reservation that are assigned to projects.
pub const ALLOWANCES_MAX: usize = 256;
/// How much later than asked for a start is looked for, in days.
pub const SEARCH_DAYS_MAX: i64 = 90;
/// The same in milliseconds.
pub const SEARCH_MS_MAX: i64 = SEARCH_DAYS_MAX * 24 * HOUR_MILLISECONDS;

/// Which reservation: a tenant names its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReservationName {
    /// Whose.
    pub tenant: TenantId,
    /// Which of its.
    pub reservation: ReservationId,
}

impl fmt::Display for ReservationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/reservations/{}", self.tenant, self.reservation)
    }
}

/// A part of a reservation that is one project's for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Whose.
    pub project: ProjectId,
    /// How many.
    pub gpus: u64,
    /// While.
    pub interval: Interval,
}

/// What a project may use of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entitlement {
    /// Assigned to it alone.
    pub assigned: u64,
    /// Assigned to nobody: any project of the tenant may use it, who comes first.
    pub shared: u64,
}

/// GPUs promised for a time. What it costs stands elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Draft", into = "Draft")]
pub struct Reservation {
    gpus: u64,
    interval: Interval,
    allowances: Vec<Allowance>,
}

#[derive(Serialize, Deserialize)]
struct Draft {
    gpus: u64,
    interval: Interval,
    allowances: Vec<Allowance>,
}

/// What is wrong with a reservation by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservationError {
    /// No GPUs, or too many.
    #[error("a reservation of {gpus} GPUs: give between 1 and {POOL_GPUS_MAX}")]
    Gpus {
        /// How many.
        gpus: u64,
    },
    /// More than [`ALLOWANCES_MAX`].
    #[error("{count} allowances: a reservation has at most {ALLOWANCES_MAX}")]
    TooManyAllowances {
        /// How many.
        count: usize,
    },
    /// An allowance of no GPUs.
    #[error("project {project} is to have an allowance of 0 GPUs: leave it out")]
    EmptyAllowance {
        /// Whose.
        project: ProjectId,
    },
    /// An allowance that begins before the reservation, or ends after it.
    #[error("the allowance of project {project} for {of} is not within the reservation's time {within}")]
    Outside {
        /// Whose.
        project: ProjectId,
        /// Its time.
        of: Interval,
        /// The reservation's.
        within: Interval,
    },
    /// More is assigned than there is.
    #[error("at {at} projects are assigned {assigned} GPUs of a reservation of {gpus}: assign fewer")]
    Assigned {
        /// The first instant of it.
        at: Instant,
        /// How many are assigned.
        assigned: u64,
        /// How many there are.
        gpus: u64,
    },
}

impl Reservation {
    /// GPUs for a time, none of them assigned.
    pub fn new(gpus: u64, interval: Interval) -> Result<Self, ReservationError> {
        if (1..=POOL_GPUS_MAX).contains(&gpus) {
            Ok(Self { gpus, interval, allowances: Vec::new() })
        } else {
            Err(ReservationError::Gpus { gpus })
        }
    }

    /// The same with parts of it assigned to projects; what was assigned before is forgotten.
    pub fn assigned(self, allowances: Vec<Allowance>) -> Result<Self, ReservationError> {
        let (gpus, within, count) = (self.gpus, self.interval, allowances.len());
        if count > ALLOWANCES_MAX {
            return Err(ReservationError::TooManyAllowances { count });
        }
        for it in &allowances {
            let (project, of) = (it.project.clone(), it.interval);
            if it.gpus == 0 {
                return Err(ReservationError::EmptyAllowance { project });
            }
            if of.intersection(within) != Some(of) {
                return Err(ReservationError::Outside { project, of, within });
            }
        }
        let assigned = Steps::sum(allowances.iter().map(|it| (it.interval, it.gpus)));
        for (part, [assigned]) in side_by_side([&assigned], within) {
            if assigned > gpus {
                return Err(ReservationError::Assigned { at: part.start(), assigned, gpus });
            }
        }
        Ok(Self { allowances, ..self })
    }

    /// The same with another size or time. Allowances are cut to the new time; they must fit the new size.
    pub fn amended(&self, gpus: u64, interval: Interval) -> Result<Self, ReservationError> {
        let allowances = self.allowances.iter().filter_map(|it| {
            let interval = it.interval.intersection(interval)?;
            Some(Allowance { interval, ..it.clone() })
        });
        Self::new(gpus, interval)?.assigned(allowances.collect())
    }

    /// How many.
    pub fn gpus(&self) -> u64 {
        self.gpus
    }

    /// While.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// What of it is assigned to projects.
    pub fn allowances(&self) -> &[Allowance] {
        &self.allowances
    }

    /// What a project of its tenant may use of it at the instant.
    pub fn entitlement(&self, project: &ProjectId, at: Instant) -> Entitlement {
        if !self.interval.contains(at) {
            return Entitlement::default();
        }
        let mut it = Entitlement { assigned: 0, shared: self.gpus };
        for allowance in self.allowances.iter().filter(|it| it.interval.contains(at)) {
            it.shared = it.shared.saturating_sub(allowance.gpus);
            if allowance.project == *project {
                it.assigned = it.assigned.saturating_add(allowance.gpus);
            }
        }
        it
    }
}

impl TryFrom<Draft> for Reservation {
    type Error = ReservationError;

    fn try_from(draft: Draft) -> Result<Self, ReservationError> {
        Self::new(draft.gpus, draft.interval)?.assigned(draft.allowances)
    }
}

impl From<Reservation> for Draft {
    fn from(it: Reservation) -> Self {
        Self { gpus: it.gpus, interval: it.interval, allowances: it.allowances }
    }
}

/// Why something is not promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// How many were asked for.
    pub asked: u64,
    /// While.
    pub within: Interval,
    /// The first instant at which they are not there.
    pub first: Instant,
    /// How many it could have at that instant.
    pub there: u64,
    /// The largest size that fits for the whole interval; 0 where none does.
    pub fits: u64,
    /// The first start at or after the one asked for at which all of it fits, for as long; none within
    /// [`SEARCH_MS_MAX`].
    pub earliest_start: Option<Instant>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, within, first, there, fits, earliest_start } = self;
        write!(f, "{asked} GPUs for {within}: from {first} on there are {there}; ")?;
        match fits {
            0 => write!(f, "no size fits for that time")?,
            fits => write!(f, "{fits} would fit")?,
        }
        match earliest_start {
            Some(start) => write!(f, ", or all from {start} on for as long"),
            None => write!(f, ", and all at no start within {SEARCH_DAYS_MAX} days"),
        }
    }
}

/// Why the calendar stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be by itself.
    #[error(transparent)]
    Invalid(#[from] ReservationError),
    /// There is one of that name.
    #[error("{name} exists already: amend it, or choose another name")]
    Exists {
        /// Which.
        name: ReservationName,
    },
    /// There is none of that name.
    #[error("there is no {name} in this pool")]
    Unknown {
        /// Which.
        name: ReservationName,
    },
    /// More than [`RESERVATIONS_MAX`].
    #[error("a pool has at most {RESERVATIONS_MAX} reservations: remove those that are over")]
    TooMany,
    /// More than there is (C-1).
    #[error("{name} does not fit: {shortage}")]
    Shortage {
        /// Which.
        name: ReservationName,
        /// By how much.
        shortage: Shortage,
    },
}

/// More is promised than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overpromise {
    /// While.
    pub within: Interval,
    /// By how many GPUs.
    pub by: u64,
}

/// All reservations of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<ReservationName, Reservation>", into = "BTreeMap<ReservationName, Reservation>")]
pub struct Calendar {
    reservations: BTreeMap<ReservationName, Reservation>,
    promised: Steps,
}

impl Calendar {
    /// One.
    pub fn get(&self, name: &ReservationName) -> Option<&Reservation> {
        self.reservations.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ReservationName, &Reservation)> {
        self.reservations.iter()
    }

    /// What is promised, over time.
    pub fn promised(&self) -> &Steps {
        &self.promised
    }

    /// The most that can still be promised for the whole interval.
    pub fn room(&self, capacity: &Steps, within: Interval) -> u64 {
        let free = side_by_side([capacity, &self.promised], within);
        free.map(|(_, [there, promised])| there.saturating_sub(promised)).min().unwrap_or(0)
    }

    /// Whether a reservation may be put into the calendar: a new one, or another version of one that is
    /// there. Where a version asks for no more than the one before it, it always may.
    pub fn check(
        &self,
        capacity: &Steps,
        name: &ReservationName,
        wanted: &Reservation,
    ) -> Result<(), Refusal> {
        let before = self.get(name);
        if before.is_none() && self.reservations.len() >= RESERVATIONS_MAX {
            return Err(Refusal::TooMany);
        }
        let own = Steps::sum(before.map(|it| (it.interval, it.gpus)));
        match self.short_of(capacity, &own, wanted.interval, wanted.gpus) {
            Some(shortage) => Err(Refusal::Shortage { name: name.clone(), shortage }),
            None => Ok(()),
        }
    }

    /// What a new reservation would lack; nothing where it fits.
    pub fn shortage(&self, capacity: &Steps, within: Interval, asked: u64) -> Option<Shortage> {
        self.short_of(capacity, &Steps::default(), within, asked)
    }

    /// The latest end with which a new reservation would fit that starts with an interval; none where it does not fit at its start. It is the end of the interval at most.
    pub fn fits_until(&self, capacity: &Steps, within: Interval, asked: u64) -> Option<Instant> {
        let parts = side_by_side([capacity, &self.promised], within);
        let fitting = parts.take_while(|(_, [there, promised])| there.saturating_sub(*promised) >= asked);
        fitting.last().map(|(part, _)| part.end())
    }

    fn short_of(&self, capacity: &Steps, own: &Steps, within: Interval, asked: u64) -> Option<Shortage> {
        let mut short = self.obtainable(capacity, own, within).filter(|(_, there)| *there < asked);
        let (part, there) = short.next()?;
        let fits = short.map(|(_, there)| there).fold(there, u64::min);
        let earliest_start = self.earliest_start(capacity, own, within, asked);
        Some(Shortage { asked, within, first: part.start(), there, fits, earliest_start })
    }

    /// Puts a reservation in, in place of one of the same name, without a question: what [`Self::check`] said
    /// stands in the log.
    pub fn put(&mut self, name: ReservationName, reservation: Reservation) {
        self.promised.add(reservation.interval, reservation.gpus);
        if let Some(before) = self.reservations.insert(name, reservation) {
            self.promised.subtract(before.interval, before.gpus);
        }
    }

    /// Takes a new reservation in, if it fits.
    pub fn admit(
        &mut self,
        capacity: &Steps,
        name: ReservationName,
        wanted: Reservation,
    ) -> Result<(), Refusal> {
        if self.reservations.contains_key(&name) {
            return Err(Refusal::Exists { name });
        }
        self.check(capacity, &name, &wanted)?;
        self.put(name, wanted);
        Ok(())
    }

    /// Gives a reservation another size or time, if that fits.
    pub fn amend(
        &mut self,
        capacity: &Steps,
        name: &ReservationName,
        gpus: u64,
        interval: Interval,
    ) -> Result<(), Refusal> {
        let wanted = self.known(name)?.amended(gpus, interval)?;
        self.check(capacity, name, &wanted)?;
        self.put(name.clone(), wanted);
        Ok(())
    }

    /// Assigns parts of a reservation to projects, in place of what was assigned before.
    pub fn assign(&mut self, name: &ReservationName, allowances: Vec<Allowance>) -> Result<(), Refusal> {
        let assigned = self.known(name)?.clone().assigned(allowances)?;
        self.put(name.clone(), assigned);
        Ok(())
    }

    /// Ends a reservation at an instant before its end; at its start or before, that is to cancel it.
    pub fn end(&mut self, name: &ReservationName, at: Instant) -> Result<(), Refusal> {
        let known = self.known(name)?;
        let end = at.min(known.interval.end());
        match Interval::between(known.interval.start(), end) {
            Some(interval) => {
                let ended = known.amended(known.gpus, interval)?;
                self.put(name.clone(), ended);
            }
            None => drop(self.cancel(name)?),
        }
        Ok(())
    }

    /// Takes a reservation out, with all of its time.
    pub fn cancel(&mut self, name: &ReservationName) -> Result<Reservation, Refusal> {
        let it = self.reservations.remove(name).ok_or_else(|| Refusal::Unknown { name: name.clone() })?;
        self.promised.subtract(it.interval, it.gpus);
        Ok(it)
    }

    /// Takes out what is over by then, in `O(reservations)`. What was stands in the log.
    pub fn forget_before(&mut self, at: Instant) {
        let over = |it: &Reservation| it.interval.end() <= at;
        for (_, it) in self.reservations.extract_if(.., |_, it| over(it)) {
            self.promised.subtract(it.interval, it.gpus);
        }
    }

    /// When more is promised than there is, and by how much, in order.
    pub fn overpromised(&self, capacity: &Steps, within: Interval) -> Vec<Overpromise> {
        let mut all: Vec<Overpromise> = Vec::new();
        for (within, [there, promised]) in side_by_side([capacity, &self.promised], within) {
            let by = promised.saturating_sub(there);
            match all.last_mut() {
                Some(last) if last.by == by && last.within.end() == within.start() => {
                    last.within = Interval::between(last.within.start(), within.end()).unwrap_or(within);
                }
                _ if by > 0 => all.push(Overpromise { within, by }),
                _ => {}
            }
        }
        all
    }

    fn known(&self, name: &ReservationName) -> Result<&Reservation, Refusal> {
        self.get(name).ok_or_else(|| Refusal::Unknown { name: name.clone() })
    }

    /// The largest size that a reservation could have, part by part, if it has `own` now: what it has it
    /// keeps, even where the calendar is over-promised.
    fn obtainable<'a>(
        &'a self,
        capacity: &'a Steps,
        own: &'a Steps,
        within: Interval,
    ) -> impl Iterator<Item = (Interval, u64)> + 'a {
        side_by_side([capacity, &self.promised, own], within).map(|(part, [there, promised, own])| {
            (part, there.saturating_sub(promised.saturating_sub(own)).max(own))
        })
    }

    /// One walk: a part with too little moves the start to its end.
    fn earliest_start(&self, capacity: &Steps, own: &Steps, within: Interval, asked: u64) -> Option<Instant> {
        let length = within.milliseconds();
        let last_start = within.start().saturating_add_ms(SEARCH_MS_MAX);
        let horizon = Interval::between(within.start(), last_start.saturating_add_ms(length))?;
        let mut start = within.start();
        for (part, there) in self.obtainable(capacity, own, horizon) {
            if there < asked {
                start = part.end();
            }
            if start > last_start || INSTANT_MAX.ms_since(start) < length {
                return None;
            }
            if part.end().ms_since(start) >= length {
                return Some(start);
            }
        }
        None
    }
}

impl TryFrom<BTreeMap<ReservationName, Reservation>> for Calendar {
    type Error = Refusal;

    fn try_from(reservations: BTreeMap<ReservationName, Reservation>) -> Result<Self, Refusal> {
        if reservations.len() > RESERVATIONS_MAX {
            return Err(Refusal::TooMany);
        }
        let promised = Steps::sum(reservations.values().map(|it| (it.interval, it.gpus)));
        Ok(Self { reservations, promised })
    }
}

impl From<Calendar> for BTreeMap<ReservationName, Reservation> {
    fn from(calendar: Calendar) -> Self {
        calendar.reservations
    }
}
