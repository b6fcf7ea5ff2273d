//! Billing calendars: which instants belong to which period.
//!
//! A period is named by a [`Month`]: the month, by the calendar's own time zone, in which it begins.
//! Boundaries are computed once, when a contract brings the calendar, and stored: a later edition of
//! the time zone database moves none of them. Each is a full UTC hour, since an hour is the finest
//! line.
//!
//! Before the first stored boundary and from the last one on, periods are UTC months. The two that
//! meet a stored boundary take the part of a month that is left there, so that periods tile all time
//! and no two share a name.

use chrono::offset::LocalResult;
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone};
use chrono_tz::Tz;
use hourglass_units::{HOUR_MILLISECONDS, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Month};
use serde::{Deserialize, Serialize};

use crate::terms::Billing;

/// Periods whose boundaries are computed: 40 years.
pub const CALENDAR_PERIODS: u32 = 480;
/// Last day of a month on which a period can begin: each month has it.
pub const ANCHOR_DAY_MAX: u32 = 28;
/// Periods before the present one whose boundaries are computed as well, for usage that comes late.
const PERIODS_BEFORE: u32 = 3;
/// Longest jump of a clock that is looked across for the first instant after midnight: Samoa once left
/// out a whole day.
const GAP_MINUTES_MAX: i64 = 48 * 60;

/// Why a billing calendar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// No such zone.
    #[error("unknown time zone {0:?}: use an IANA name such as Europe/Berlin")]
    UnknownZone(String),
    /// A day that not every month has.
    #[error("anchor_day is {given}: give a day between 1 and {ANCHOR_DAY_MAX}, which every month has")]
    AnchorDay {
        /// What was given.
        given: u32,
    },
    /// A boundary within a UTC hour.
    #[error(
        "a period of time zone {zone} begins at {at}, within a UTC hour: an hour is the finest line, so use a zone whole hours from UTC"
    )]
    NotAFullHour {
        /// Which zone.
        zone: String,
        /// The first such boundary.
        at: Instant,
    },
    /// Stored boundaries that [`Calendar::compute`] never yields.
    #[error("the stored boundaries {fault}: compute the calendar again")]
    Boundaries {
        /// What is wrong with them.
        fault: &'static str,
    },
}

/// The billing periods of a tenant: UTC months, or stored boundaries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Option<(Month, Vec<Instant>)>", into = "Option<(Month, Vec<Instant>)>")]
pub struct Calendar {
    /// The first period with a stored boundary, and the boundaries from its start on: at least one,
    /// ascending. The last one begins a period that ends with the UTC month of its name.
    stored: Option<(Month, Vec<Instant>)>,
}

impl Calendar {
    /// Computes the boundaries, from three periods before the one that holds `from`.
    ///
    /// A period begins at local midnight of the anchor day; where the clock jumps over midnight, with
    /// the first instant after the jump, and where midnight comes twice, with the first.
    pub fn compute(billing: &Billing, from: Instant) -> Result<Self, CalendarError> {
        let (zone, anchor) = check_billing(billing)?;
        if zone == Tz::UTC && anchor == 1 {
            return Ok(Self::default());
        }
        let period = period_of(zone, anchor, from);
        let mut month = (0..PERIODS_BEFORE).fold(period, |month, _| month.previous());
        let (mut first, mut boundaries) = (None, Vec::new());
        for _ in 0..=CALENDAR_PERIODS {
            if month >= Month::containing(INSTANT_MAX) {
                break;
            }
            // The period before the first must have a name in range, and an instant.
            let begins =
                local_midnight(zone, anchor, month).filter(|_| month > Month::containing(INSTANT_MIN));
            if let Some(begins) = begins {
                if begins.unix_ms().rem_euclid(HOUR_MILLISECONDS) != 0 {
                    return Err(CalendarError::NotAFullHour { zone: zone.name().to_owned(), at: begins });
                }
                first.get_or_insert(month);
                boundaries.push(begins);
            }
            month = month.next();
        }
        first.map_or(Ok(Self::default()), |first| Self::from_boundaries(first, boundaries))
    }

    /// From boundaries that were computed before.
    pub fn from_boundaries(first: Month, boundaries: Vec<Instant>) -> Result<Self, CalendarError> {
        let refuse = |fault| Err(CalendarError::Boundaries { fault });
        let (Some(begins), Some(last)) = (boundaries.first(), boundaries.last()) else {
            return refuse("are empty");
        };
        let after = u16::try_from(boundaries.len()).unwrap_or(u16::MAX).saturating_sub(1);
        if u32::from(after) > CALENDAR_PERIODS {
            return refuse("are too many");
        }
        if !boundaries.is_sorted_by(|a, b| a < b) {
            return refuse("do not ascend");
        }
        if boundaries.iter().any(|at| at.unix_ms().rem_euclid(HOUR_MILLISECONDS) != 0) {
            return refuse("are no full UTC hours");
        }
        // Else the period before the first or the one from the last boundary on would be empty.
        let range = Month::containing(INSTANT_MIN)..Month::containing(INSTANT_MAX);
        let (before, final_period) = (first.previous(), first.plus(after));
        if !range.contains(&before) || !range.contains(&final_period) {
            return refuse("leave the range of time");
        }
        if *begins <= before.start() || *last >= final_period.end() {
            return refuse("do not fit the names of their periods");
        }
        Ok(Self { stored: Some((first, boundaries)) })
    }

    /// What was computed; `None` for UTC months.
    pub fn boundaries(&self) -> Option<(Month, &[Instant])> {
        self.stored.as_ref().map(|(first, boundaries)| (*first, boundaries.as_slice()))
    }

    /// The period that holds the instant.
    pub fn containing(&self, at: Instant) -> Month {
        let month = Month::containing(at);
        let Some((first, boundaries)) = self.boundaries() else { return month };
        let begun = boundaries.partition_point(|begins| *begins <= at);
        match u16::try_from(begun).unwrap_or(u16::MAX).checked_sub(1) {
            None => month.min(first.previous()),
            Some(after) if begun < boundaries.len() => first.plus(after),
            Some(after) => month.max(first.plus(after)),
        }
    }

    /// The milliseconds of a period.
    pub fn interval(&self, period: Month) -> Interval {
        let month = period.interval();
        let Some((first, boundaries)) = self.boundaries() else { return month };
        let boundary = |period: Month| {
            period.months_since(first).and_then(|after| boundaries.get(usize::from(after))).copied()
        };
        let start = boundary(period).unwrap_or(month.start());
        let end = boundary(period.next()).unwrap_or(month.end());
        // Never empty, or the boundaries would have been refused.
        Interval::between(start, end).unwrap_or(month)
    }
}

impl TryFrom<Option<(Month, Vec<Instant>)>> for Calendar {
    type Error = CalendarError;

    fn try_from(stored: Option<(Month, Vec<Instant>)>) -> Result<Self, CalendarError> {
        stored.map_or(Ok(Self::default()), |(first, boundaries)| Self::from_boundaries(first, boundaries))
    }
}

impl From<Calendar> for Option<(Month, Vec<Instant>)> {
    fn from(calendar: Calendar) -> Self {
        calendar.stored
    }
}

/// The zone and the anchor day, where both can be.
pub(crate) fn check_billing(billing: &Billing) -> Result<(Tz, u32), CalendarError> {
    let anchor = billing.anchor_day.unwrap_or(1);
    if !(1..=ANCHOR_DAY_MAX).contains(&anchor) {
        return Err(CalendarError::AnchorDay { given: anchor });
    }
    let name = billing.time_zone.as_deref().unwrap_or("UTC");
    let zone = name.parse().map_err(|_| CalendarError::UnknownZone(name.chars().take(48).collect()))?;
    Ok((zone, anchor))
}

/// The period that holds the instant, by the zone's own clock.
fn period_of(zone: Tz, anchor: u32, at: Instant) -> Month {
    let month = Month::containing(at);
    // A clock is less than a day from UTC, so the period begins in this month or in one beside it.
    [month.next(), month, month.previous()]
        .into_iter()
        .find(|period| local_midnight(zone, anchor, *period).is_some_and(|begins| begins <= at))
        .unwrap_or(month)
}

/// When the anchor day of the month begins in the zone; `None` outside the range of time.
fn local_midnight(zone: Tz, anchor: u32, month: Month) -> Option<Instant> {
    let first = DateTime::from_timestamp_millis(month.start().unix_ms())?.date_naive();
    let midnight = anchor_of(first, anchor)?;
    (0..=GAP_MINUTES_MAX).find_map(|minutes| {
        let local = midnight.checked_add_signed(TimeDelta::try_minutes(minutes)?)?;
        let time = match zone.from_local_datetime(&local) {
            LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => time,
            LocalResult::None => return None,
        };
        Instant::from_unix_ms(time.timestamp_millis()).ok()
    })
}

fn anchor_of(first: NaiveDate, anchor: u32) -> Option<NaiveDateTime> {
    use chrono::Datelike;
    first.with_day(anchor)?.and_hms_opt(0, 0, 0)
}

#[cfg(test)]
mod tests;
