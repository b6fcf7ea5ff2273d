//! Time as integers: milliseconds, half-open intervals, UTC hours and months.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, SecondsFormat};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds in an hour.
pub const HOUR_MILLISECONDS: i64 = 3_600_000;
/// Earliest instant: the Unix epoch.
pub const INSTANT_MIN: Instant = Instant(0);
/// Latest instant, used for "until further notice": 3000-01-01T00:00:00Z.
pub const INSTANT_MAX: Instant = Instant(32_503_680_000_000);

/// A time that could not be read, or lies outside what Hourglass handles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Before 1970 or after 2999.
    #[error("instant {milliseconds} ms is out of range: between 1970-01-01 and 3000-01-01 UTC is allowed")]
    OutOfRange {
        /// Milliseconds since the epoch.
        milliseconds: i64,
    },
    /// Not RFC 3339.
    #[error("{text:?} is no RFC 3339 time: write it like 2026-01-01T00:00:00Z")]
    NotRfc3339 {
        /// What was given, cut to a printable length.
        text: String,
    },
    /// Finer than a millisecond.
    #[error("{text:?} is finer than a millisecond: round it yourself, Hourglass will not")]
    TooFine {
        /// What was given.
        text: String,
    },
    /// The end is not after the start.
    #[error("interval [{start}, {end}) is empty or reversed: the end must come after the start")]
    NotAnInterval {
        /// First millisecond.
        start: Instant,
        /// First millisecond that is no longer in it.
        end: Instant,
    },
    /// Not `YYYY-MM`.
    #[error("{text:?} is no month: write it like 2026-01")]
    NotAMonth {
        /// What was given, cut to a printable length.
        text: String,
    },
}

/// A millisecond of UTC, between [`INSTANT_MIN`] and [`INSTANT_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

impl Instant {
    /// From milliseconds since the Unix epoch.
    pub fn from_unix_ms(milliseconds: i64) -> Result<Self, TimeError> {
        if (INSTANT_MIN.0..=INSTANT_MAX.0).contains(&milliseconds) {
            Ok(Self(milliseconds))
        } else {
            Err(TimeError::OutOfRange { milliseconds })
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// Later by so many milliseconds, held at the ends of the range.
    #[must_use]
    pub fn saturating_add_ms(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add(milliseconds).clamp(INSTANT_MIN.0, INSTANT_MAX.0))
    }

    /// Milliseconds from `earlier` to this.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        // Both lie in a range far smaller than an i64.
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Instant {
    /// RFC 3339, with milliseconds only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_millis(self.0) {
            Some(time) => f.pad(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Instant {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let shown = || text.chars().take(48).collect::<String>();
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| TimeError::NotRfc3339 { text: shown() })?;
        // By its text: chrono drops what is finer than a nanosecond.
        let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
        if fraction.bytes().take_while(u8::is_ascii_digit).skip(3).any(|digit| digit != b'0') {
            return Err(TimeError::TooFine { text: shown() });
        }
        Self::from_unix_ms(time.timestamp_millis())
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            Self::from_unix_ms(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
        }
    }
}

/// Half-open `[start, end)`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Interval {
    start: Instant,
    end: Instant,
}

impl Interval {
    /// `[start, end)`; the end must come after the start.
    pub fn new(start: Instant, end: Instant) -> Result<Self, TimeError> {
        if start < end { Ok(Self { start, end }) } else { Err(TimeError::NotAnInterval { start, end }) }
    }

    /// `[start, end)` where that is not empty.
    pub fn between(start: Instant, end: Instant) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// From `start` until further notice.
    pub fn from(start: Instant) -> Option<Self> {
        Self::between(start, INSTANT_MAX)
    }

    /// First millisecond.
    pub const fn start(self) -> Instant {
        self.start
    }

    /// First millisecond after it.
    pub const fn end(self) -> Instant {
        self.end
    }

    /// Length, at least 1.
    pub const fn milliseconds(self) -> i64 {
        self.end.ms_since(self.start)
    }

    /// Whether the instant lies in it.
    pub fn contains(self, at: Instant) -> bool {
        self.start <= at && at < self.end
    }

    /// What both cover.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }

    /// The UTC hours it touches, in order, each cut to it.
    pub fn by_hour(self) -> impl Iterator<Item = (Hour, Self)> {
        let (first, last) =
            (Hour::containing(self.start), Hour::containing(Instant(self.end.0.saturating_sub(1))));
        (first.0..=last.0).filter_map(move |hour| {
            let hour = Hour(hour);
            hour.interval().intersection(self).map(|part| (hour, part))
        })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Ends {
            start: Instant,
            end: Instant,
        }
        let ends = Ends::deserialize(deserializer)?;
        Self::new(ends.start, ends.end).map_err(serde::de::Error::custom)
    }
}

/// A UTC hour, counted from the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(i64);

impl Hour {
    /// The hour that holds the instant.
    pub const fn containing(at: Instant) -> Self {
        Self(at.0.div_euclid(HOUR_MILLISECONDS))
    }

    /// Its first millisecond.
    pub fn start(self) -> Instant {
        INSTANT_MIN.saturating_add_ms(self.0.saturating_mul(HOUR_MILLISECONDS))
    }

    /// The first millisecond of the next.
    pub fn end(self) -> Instant {
        self.start().saturating_add_ms(HOUR_MILLISECONDS)
    }

    /// Its milliseconds.
    pub fn interval(self) -> Interval {
        Interval { start: self.start(), end: self.end() }
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.start(), f)
    }
}

impl fmt::Debug for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.start(), f)
    }
}

/// A calendar month of UTC, as `year × 12 + month - 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u16);

impl Month {
    /// The month that holds the instant.
    pub fn containing(at: Instant) -> Self {
        let index = DateTime::from_timestamp_millis(at.0).map_or(0, |time| {
            // Years 1970 to 3000: at most 36,011 months.
            time.year().saturating_mul(12).saturating_add_unsigned(time.month0())
        });
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// Its first millisecond.
    pub fn start(self) -> Instant {
        let (year, month) = (i32::from(self.0 / 12), u32::from(self.0 % 12).saturating_add(1));
        let midnight =
            chrono::NaiveDate::from_ymd_opt(year, month, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
        INSTANT_MIN.saturating_add_ms(midnight.map_or(0, |time| time.and_utc().timestamp_millis()))
    }

    /// The first millisecond of the next month.
    pub fn end(self) -> Instant {
        self.next().start()
    }

    /// The month after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The month before it.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The month so many months after it.
    #[must_use]
    pub fn plus(self, months: u16) -> Self {
        Self(self.0.saturating_add(months))
    }

    /// Whole months from `earlier` to this; `None` where it is not earlier, nor the same.
    pub fn months_since(self, earlier: Self) -> Option<u16> {
        self.0.checked_sub(earlier.0)
    }

    /// Its milliseconds.
    pub fn interval(self) -> Interval {
        Interval { start: self.start(), end: self.end() }
    }
}

impl fmt::Display for Month {
    /// `YYYY-MM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04}-{:02}", self.0 / 12, (self.0 % 12).saturating_add(1)))
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Month {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let error = || TimeError::NotAMonth { text: text.chars().take(16).collect() };
        let (year, month) = text.split_once('-').ok_or_else(error)?;
        if year.len() != 4
            || month.len() != 2
            || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        {
            return Err(error());
        }
        let (year, month) =
            (year.parse::<u16>().map_err(|_| error())?, month.parse::<u16>().map_err(|_| error())?);
        if !(1970..3000).contains(&year) || !(1..=12).contains(&month) {
            return Err(error());
        }
        Ok(Self(year.saturating_mul(12).saturating_add(month.saturating_sub(1))))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn at(text: &str) -> Instant {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_read_to_the_millisecond_or_refused() {
        assert_eq!(at("2026-01-01T00:00:00Z").unix_ms(), 1_767_225_600_000);
        assert_eq!(at("2026-01-01T01:00:00.250+01:00").to_string(), "2026-01-01T00:00:00.250Z");
        for bad in [
            "",
            "2026-01-01",
            "1969-12-31T23:59:59Z",
            "3000-01-01T00:00:01Z",
            "2026-01-01T00:00:00.0001Z",
            "2026-01-01T00:00:00.0000000000001Z",
        ] {
            assert!(bad.parse::<Instant>().is_err(), "{bad}");
        }
        for bad in ["2026-13", "2026-00", "26-01", "2026-1", "2026-01-01", "+026-01", ""] {
            assert!(bad.parse::<Month>().is_err(), "{bad}");
        }
    }

    #[test]
    fn months_know_their_ends() {
        let month: Month = "2028-02".parse().unwrap();
        assert_eq!(month.interval().to_string(), "[2028-02-01T00:00:00Z, 2028-03-01T00:00:00Z)");
        assert_eq!("2026-12".parse::<Month>().unwrap().next().to_string(), "2027-01");
        assert_eq!(
            (month.plus(11).to_string(), month.plus(11).months_since(month)),
            ("2029-01".into(), Some(11))
        );
        assert_eq!(month.months_since(month.next()), None);
    }

    fn instant() -> impl Strategy<Value = Instant> {
        (0..INSTANT_MAX.0).prop_map(Instant)
    }

    proptest! {
        /// Months tile time: each instant is in exactly the month that `containing` names, and the
        /// end of each is the start of the next.
        #[test]
        fn months_tile_time(at in instant()) {
            let month = Month::containing(at);
            prop_assert!(month.interval().contains(at));
            prop_assert_eq!(month.end(), month.next().start());
            prop_assert_eq!(month.to_string().parse::<Month>().unwrap(), month);
        }

        #[test]
        fn hours_tile_an_interval(at in instant(), length in 1..40 * HOUR_MILLISECONDS) {
            let interval = Interval::new(at, Instant(at.0 + length)).unwrap();
            let parts: Vec<_> = interval.by_hour().collect();
            prop_assert_eq!(parts.iter().map(|(_, part)| part.milliseconds()).sum::<i64>(), length);
            prop_assert!(parts.windows(2).all(|pair| pair[0].1.end() == pair[1].1.start()));
            prop_assert!(parts.iter().all(|(hour, part)| hour.interval().intersection(*part) == Some(*part)));
        }

        #[test]
        fn instants_read_back(at in instant()) {
            prop_assert_eq!(at.to_string().parse::<Instant>().unwrap(), at);
        }
    }
}
