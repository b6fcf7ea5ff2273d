//! What is left for spot, and whether on-demand may start.
//!
//! Priority is reserved, on-demand, spot. Spot has what the others leave, and it must be gone when they
//! come: so everything that is to be in force within the *horizon* counts already. The horizon is how long
//! it takes to be rid of an instance: its notice, the time to stop, and a margin. This is the pre-drain: who
//! has reserved never waits for spot.
//!
//! ```text
//! spot = capacity - cooling down - reserved + lent - on-demand - safety buffer, and never below 0
//! ```
//!
//! at the tightest instant of the horizon. The [buffer](Policy::buffer) is kept from spot alone: on-demand
//! may use it, and need not wait.
//!
//! # Yield
//!
//! The owner of a reservation may lend what it leaves idle ([`Loans`]), for a share of what spot pays. It
//! says beforehand when it will need how much, and has it then; without a word it waits for at most the
//! horizon, and so does who takes its whole offer back.
//!
//! # On-demand is open-ended
//!
//! An on-demand instance has no end, so a reservation that starts later counts against it from the first
//! moment, in full ([`Pool::admit_on_demand`]). For the same reason, what runs on demand counts against a
//! reservation, however far ahead it starts ([`Pool::for_reservations`]). [`Policy::look_ahead_ms`] bounds how
//! far ahead both hold; with a bound, on-demand can run into a reservation, and must then be told to stop.

mod loans;
mod share;

use std::collections::BTreeMap;
use std::fmt;

use hourglass_units::{HOUR_MILLISECONDS, INSTANT_MAX, Instant, Interval};
use serde::{Deserialize, Serialize};

use crate::calendar::{Calendar, ReservationName};
use crate::lifecycle::NOTICE_MS_MIN;
use crate::steps::{Steps, side_by_side};

pub use loans::{CLAIMS_MAX, Claim, Lent, Loan, LoanError, Loans, Offer};
pub use share::{Overfull, Parts, Split, YieldShares, split, yield_shares};

/// Longest horizon, in milliseconds: a day.
pub const HORIZON_MS_MAX: i64 = 24 * HOUR_MILLISECONDS;
/// A look-ahead without a bound.
pub const LOOK_AHEAD_MS_ALL: i64 = i64::MAX;
/// Most instants that are looked at for the next change; after the last of them it is worth looking again.
pub const LOOKS_MAX: usize = 64;

/// How spot makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long before its end an instance is told, in milliseconds.
    pub notice_ms: i64,
    /// How long it then takes to stop, in milliseconds.
    pub stop_ms: i64,
    /// For what goes slower than it should, in milliseconds.
    pub margin_ms: i64,
    /// GPUs that spot leaves free.
    pub buffer: u64,
    /// How far ahead reservations and on-demand keep out of each other's way, in milliseconds; at least as
    /// far as the horizon. [`LOOK_AHEAD_MS_ALL`] for always.
    pub look_ahead_ms: i64,
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too little notice.
    #[error("a notice of {notice_ms} ms: the least is {NOTICE_MS_MIN} ms")]
    Notice {
        /// What was given.
        notice_ms: i64,
    },
    /// A time below zero.
    #[error("{what} is {milliseconds} ms: give 0 or more")]
    Negative {
        /// Which.
        what: &'static str,
        /// What was given.
        milliseconds: i64,
    },
    /// All together longer than [`HORIZON_MS_MAX`].
    #[error("notice, stop and margin take {horizon_ms} ms: at most {HORIZON_MS_MAX} ms, a day")]
    Horizon {
        /// What they take.
        horizon_ms: i64,
    },
}

impl Policy {
    /// Whether it holds together.
    pub fn check(&self) -> Result<(), PolicyError> {
        let Self { notice_ms, stop_ms, margin_ms, look_ahead_ms, .. } = *self;
        let times = [("stop_ms", stop_ms), ("margin_ms", margin_ms), ("look_ahead_ms", look_ahead_ms)];
        if notice_ms < NOTICE_MS_MIN {
            return Err(PolicyError::Notice { notice_ms });
        }
        if let Some((what, milliseconds)) = times.into_iter().find(|(_, ms)| *ms < 0) {
            return Err(PolicyError::Negative { what, milliseconds });
        }
        let horizon_ms = self.horizon_ms();
        if horizon_ms > HORIZON_MS_MAX { Err(PolicyError::Horizon { horizon_ms }) } else { Ok(()) }
    }

    /// How long it takes to be rid of a spot instance.
    pub const fn horizon_ms(&self) -> i64 {
        self.notice_ms.saturating_add(self.stop_ms).saturating_add(self.margin_ms)
    }

    /// From now on for so long, the last millisecond too: what starts exactly then must find its room.
    fn ahead(at: Instant, milliseconds: i64) -> Option<Interval> {
        Interval::between(at, at.saturating_add_ms(milliseconds.saturating_add(1)))
    }
}

/// A pool at an instant.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// When.
    pub at: Instant,
    /// What there is, over time.
    pub capacity: &'a Steps,
    /// What is promised.
    pub calendar: &'a Calendar,
    /// What of it is lent.
    pub loans: &'a Loans,
    /// What the owners of reservations use of them, running and admitted.
    pub used: &'a BTreeMap<ReservationName, u64>,
    /// On-demand GPUs, running and admitted.
    pub on_demand: u64,
    /// Spot GPUs that run, over time: those under notice until they are gone at the latest, the others until the
    /// end of time.
    pub spot: &'a Steps,
    /// GPUs that the cloud proved not to have: they count for nothing until they are tried again.
    pub cooling_down: u64,
}

/// What is left for spot, and why: the terms add up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supply {
    /// For spot.
    pub gpus: u64,
    /// The instant within the horizon at which least is left; the figures are of it.
    pub tightest: Instant,
    /// What there is.
    pub capacity: u64,
    /// What of it proved not to exist.
    pub cooling_down: u64,
    /// What is promised.
    pub reserved: u64,
    /// What of that is lent.
    pub lent: u64,
    /// What runs on demand, or is to.
    pub on_demand: u64,
    /// What is kept free.
    pub buffer: u64,
    /// What is missing for reserved and on-demand, even without a buffer.
    pub shortfall: u64,
    /// All loans that count within the horizon.
    pub loans: Vec<Lent>,
    /// When it changes next though nobody does anything: time for another clear.
    pub next_change: Option<Instant>,
}

impl fmt::Display for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpus, tightest, capacity, cooling_down, reserved, lent, on_demand, buffer, .. } = self;
        write!(f, "{gpus} for spot: {capacity} there at {tightest}")?;
        for (sign, gpus, what) in [
            ('-', cooling_down, "cooling down"),
            ('-', reserved, "reserved"),
            ('+', lent, "of them lent"),
            ('-', on_demand, "on demand"),
            ('-', buffer, "kept free"),
        ] {
            if *gpus > 0 {
                write!(f, " {sign} {gpus} {what}")?;
            }
        }
        match self.shortfall {
            0 => Ok(()),
            short => write!(f, "; {short} are missing for what is reserved and on demand"),
        }
    }
}

/// Whether on-demand may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// At once.
    Now,
    /// When spot has made room.
    Pending {
        /// Spot GPUs to give notice to, besides those that have it.
        reclaim: u64,
        /// When they are gone at the latest.
        ready_by: Instant,
    },
    /// Not at all.
    Refused {
        /// How many may start.
        room: u64,
        /// The instant that leaves no more.
        tightest: Instant,
    },
}

impl Pool<'_> {
    /// What is left for spot.
    ///
    /// It costs a look at each loan and each change within the horizon, times how many instants have to be
    /// looked at for the next change, at most [`LOOKS_MAX`].
    pub fn supply(&self, policy: &Policy) -> Supply {
        let supply = self.weigh(policy);
        Supply { next_change: self.next_change(policy, supply.gpus), ..supply }
    }

    /// How many GPUs that is now, without looking for when it changes.
    pub fn for_spot(&self, policy: &Policy) -> u64 {
        self.weigh(policy).gpus
    }

    /// Whether so many on-demand GPUs may start.
    ///
    /// They may where capacity is enough for them, for what runs on demand and for every reservation within
    /// the look-ahead. What is lent, and what spot has, does not stand in their way; for spot they wait.
    pub fn admit_on_demand(&self, policy: &Policy, gpus: u64) -> Admission {
        let look = policy.look_ahead_ms.max(policy.horizon_ms());
        let taken = self.on_demand.saturating_add(self.cooling_down);
        let free = Policy::ahead(self.at, look).into_iter().flat_map(|look| {
            side_by_side([self.capacity, self.calendar.promised()], look).map(|(part, [there, reserved])| {
                (there.saturating_sub(reserved).saturating_sub(taken), part.start())
            })
        });
        let (room, tightest) = free.min().unwrap_or((0, self.at));
        if gpus > room {
            return Admission::Refused { room, tightest };
        }
        self.make_way(policy, taken.saturating_add(gpus))
    }

    /// When all that is taken has its GPUs, all reservations within the horizon theirs, and spot what it has now.
    /// Spot sits on what is lent first: the rest of it may be in the way.
    fn make_way(&self, policy: &Policy, taken: u64) -> Admission {
        let gone_by = self.at.saturating_add_ms(policy.horizon_ms());
        let Some(horizon) = Policy::ahead(self.at, policy.horizon_ms()) else { return Admission::Now };
        let (_, lent) = self.lent_over(horizon);
        let remains = self.spot.least(horizon);
        let (mut reclaim, mut ready_by) = (0, self.at);
        let figures = [self.capacity, self.calendar.promised(), &lent, self.spot];
        for (part, [there, reserved, lent, spot]) in side_by_side(figures, horizon) {
            let kept = reserved.saturating_add(taken);
            let in_the_way = |spot: u64| kept.saturating_add(spot.saturating_sub(lent)).saturating_sub(there);
            reclaim = in_the_way(remains).max(reclaim);
            if in_the_way(spot) > 0 {
                ready_by = part.end().min(gone_by);
            }
        }
        match ready_by {
            _ if reclaim > 0 => Admission::Pending { reclaim, ready_by: gone_by },
            now if now == self.at => Admission::Now,
            later => Admission::Pending { reclaim, ready_by: later },
        }
    }

    /// The capacity that reservations may be promised of: without what runs on demand, as far ahead as the
    /// policy looks. For [`Calendar::check`].
    pub fn for_reservations(&self, policy: &Policy) -> Steps {
        let mut capacity = self.capacity.clone();
        let until = self.at.saturating_add_ms(policy.look_ahead_ms.max(policy.horizon_ms()));
        if let Some(open_ended) = Interval::between(self.at, until) {
            capacity.subtract(open_ended, self.on_demand);
        }
        capacity
    }

    fn weigh(&self, policy: &Policy) -> Supply {
        let mut supply = Supply {
            gpus: 0,
            tightest: self.at,
            capacity: 0,
            cooling_down: self.cooling_down,
            reserved: 0,
            lent: 0,
            on_demand: self.on_demand,
            buffer: policy.buffer,
            shortfall: 0,
            loans: Vec::new(),
            next_change: None,
        };
        let Some(horizon) = Policy::ahead(self.at, policy.horizon_ms()) else { return supply };
        let (loans, lent) = self.lent_over(horizon);
        let figures = side_by_side([self.capacity, self.calendar.promised(), &lent], horizon);
        // What is the same at every instant does not matter for which is the tightest.
        let left = |[there, reserved, lent]: [u64; 3]| {
            i128::from(there).saturating_add(i128::from(lent)).saturating_sub(i128::from(reserved))
        };
        if let Some((part, figures)) = figures.min_by_key(|(_, figures)| left(*figures)) {
            let [capacity, reserved, lent] = figures;
            let taken = i128::from(self.on_demand).saturating_add(i128::from(self.cooling_down));
            let left = left(figures).saturating_sub(taken);
            let for_spot = left.saturating_sub(i128::from(policy.buffer));
            supply.gpus = u64::try_from(for_spot).unwrap_or(0);
            supply.shortfall = u64::try_from(left.saturating_neg()).unwrap_or(0);
            (supply.tightest, supply.capacity) = (part.start(), capacity);
            (supply.reserved, supply.lent) = (reserved, lent);
        }
        supply.loans = loans;
        supply
    }

    /// The loans that count within the horizon, and what they come to over it.
    fn lent_over(&self, horizon: Interval) -> (Vec<Lent>, Steps) {
        let mut parts = Vec::new();
        let mut all = Vec::new();
        for (name, loan) in self.loans.iter() {
            let Some(reservation) = self.calendar.get(name) else { continue };
            let Some(part) = reservation.interval().intersection(horizon) else { continue };
            // One that is yet to begin has no use.
            let used = self.used.get(name).filter(|_| reservation.interval().contains(self.at));
            let lent = loan.lent(name, reservation.gpus(), used.copied().unwrap_or(0), horizon);
            parts.push((part, lent.gpus));
            all.push(lent);
        }
        (all, Steps::sum(parts))
    }

    /// The first instant from now on at which the supply is not this, if nothing happens until then.
    fn next_change(&self, policy: &Policy, gpus: u64) -> Option<Instant> {
        let mut then = *self;
        for _ in 0..LOOKS_MAX {
            then.at = then.next_look(policy)?;
            if then.weigh(policy).gpus != gpus {
                break;
            }
        }
        Some(then.at)
    }

    /// When something comes into the horizon next, or is over.
    fn next_look(&self, policy: &Policy) -> Option<Instant> {
        let horizon_ms = policy.horizon_ms();
        let far = self.at.saturating_add_ms(horizon_ms);
        let steps = [self.capacity, self.calendar.promised()];
        let over = steps.iter().filter_map(|it| it.next_change(self.at));
        let coming = steps.iter().filter_map(|it| it.next_change(far));
        let of_loans = self.loans.iter().flat_map(|(name, loan)| {
            let of_reservation = self.calendar.get(name).map(|it| it.interval());
            let intervals = loan.claims.iter().map(|claim| claim.interval).chain(of_reservation);
            intervals.flat_map(|it| [it.start(), it.end()])
        });
        let (mut next, mut next_coming) = (over.min(), coming.min());
        for edge in of_loans {
            if edge > self.at {
                next = Some(next.map_or(edge, |next| next.min(edge)));
            }
            if edge > far {
                next_coming = Some(next_coming.map_or(edge, |next| next.min(edge)));
            }
        }
        let comes_in = |edge: Instant| edge.saturating_add_ms(horizon_ms.saturating_neg());
        let ends_of_time = |edge: &Instant| *edge < INSTANT_MAX;
        next.filter(ends_of_time).into_iter().chain(next_coming.filter(ends_of_time).map(comes_in)).min()
    }
}
