//! Plain types as messages and back. Whatever comes in is checked here, and only here.
//!
//! Both sides use it: what the client reads the simulator writes, and the other way round.

pub(crate) mod capacity;
pub(crate) mod error;
pub(crate) mod instance;
pub(crate) mod operation;

use std::fmt::Display;

use hourglass_units::Instant;
use prost_types::Timestamp;

use crate::error::ComputeError;

/// Longest page token, in bytes.
pub(crate) const PAGE_TOKEN_LENGTH_MAX: usize = 1_024;

/// What is wrong with a message: the field, and why.
///
/// In an answer it is garbage, in a request it is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    field: String,
    message: String,
}

impl Wrong {
    pub(crate) fn new(field: impl Into<String>, message: impl Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }

    /// As the client tells it.
    pub(crate) fn garbage(self) -> ComputeError {
        ComputeError::garbage(format!("{}: {}", self.field, self.message))
    }

    /// As the simulator tells it.
    pub(crate) fn bad_request(self) -> ComputeError {
        ComputeError::BadRequest { field: self.field, message: self.message }
    }
}

pub(crate) type Read<T> = Result<T, Wrong>;

/// A message that has to be there.
pub(crate) fn needed<T>(field: &str, message: Option<T>) -> Read<T> {
    message.ok_or_else(|| Wrong::new(field, "it is missing"))
}

/// A text that has to be an id, or anything else with a rule.
pub(crate) fn parsed<T: std::str::FromStr<Err: Display>>(field: &str, text: &str) -> Read<T> {
    text.parse().map_err(|error| Wrong::new(field, error))
}

/// As [`parsed`]; nothing where the text is empty.
pub(crate) fn parsed_unless_empty<T: std::str::FromStr<Err: Display>>(
    field: &str,
    text: &str,
) -> Read<Option<T>> {
    if text.is_empty() { Ok(None) } else { parsed(field, text).map(Some) }
}

/// A text that is not too long.
pub(crate) fn bounded(field: &str, text: String, most: usize) -> Read<String> {
    if text.len() <= most {
        return Ok(text);
    }
    Err(Wrong::new(field, format!("it has {} bytes, more than {most}", text.len())))
}

/// A value that the enumeration has.
pub(crate) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Read<T> {
    T::try_from(value).map_err(|_| Wrong::new(field, format!("{value} is no value of it")))
}

/// A time, cut to milliseconds.
pub(crate) fn instant(field: &str, time: &Timestamp) -> Read<Instant> {
    let whole = time.seconds.checked_mul(1_000);
    let milliseconds = whole.and_then(|whole| whole.checked_add(i64::from(time.nanos.div_euclid(1_000_000))));
    let milliseconds = milliseconds.ok_or_else(|| Wrong::new(field, "it is no time"))?;
    Instant::from_unix_ms(milliseconds).map_err(|error| Wrong::new(field, error))
}

/// As [`instant`], of one that may be missing.
pub(crate) fn instant_if_any(field: &str, time: Option<&Timestamp>) -> Read<Option<Instant>> {
    time.map(|time| instant(field, time)).transpose()
}

/// A time as a message.
pub(crate) fn timestamp(at: Instant) -> Timestamp {
    let milliseconds = at.unix_ms();
    let rest = milliseconds.rem_euclid(1_000).saturating_mul(1_000_000);
    Timestamp { seconds: milliseconds.div_euclid(1_000), nanos: i32::try_from(rest).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use hourglass_proto::nebius::capacity::v1::{CapacityBlockGroup, CapacityInterval, ResourceAdvice};
    use hourglass_proto::nebius::common::v1::Operation;
    use hourglass_proto::nebius::compute::v1::{CreateInstanceRequest, Instance};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let at: Instant = "2026-11-22T10:00:00.123Z".parse().unwrap();
        assert_eq!(instant("at", &timestamp(at)), Ok(at));
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, i32::MIN), (-1, 0)] {
            assert!(instant("at", &Timestamp { seconds, nanos }).is_err());
        }
    }

    /// Messages as another implementation wrote them: name, what they are about, bytes.
    fn vectors() -> Vec<(String, String, Vec<u8>)> {
        let text = include_str!("../../../proto/tests/nebius_vectors.json");
        let entries: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
        entries
            .iter()
            .map(|entry| (text(entry, "message"), text(entry, "why"), bytes(&text(entry, "hex"))))
            .collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Reads bytes as a message of a name; `None` where there is no reader for it.
    fn read(name: &str, bytes: &[u8]) -> Option<bool> {
        Some(match name.rsplit('.').next()? {
            "CreateInstanceRequest" => {
                CreateInstanceRequest::decode(bytes).is_ok_and(|message| instance::read_new(message).is_ok())
            }
            "Instance" => Instance::decode(bytes).is_ok_and(|message| instance::read(message).is_ok()),
            "Operation" => Operation::decode(bytes).is_ok_and(|message| operation::read(&message).is_ok()),
            "CapacityInterval" => {
                CapacityInterval::decode(bytes).is_ok_and(|message| capacity::read_interval(message).is_ok())
            }
            "CapacityBlockGroup" => {
                CapacityBlockGroup::decode(bytes).is_ok_and(|message| capacity::read_group(message).is_ok())
            }
            "ResourceAdvice" => {
                ResourceAdvice::decode(bytes).is_ok_and(|message| capacity::read_advice(message).is_ok())
            }
            _ => return None,
        })
    }

    #[test]
    fn what_another_implementation_wrote_is_read() {
        // This one has no spec: it shows numbers, and is no instance.
        let readable = |why: &str| why != "stopped";
        let found: Vec<_> = vectors().into_iter().filter(|(_, why, _)| readable(why)).collect();
        let read = found.iter().filter_map(|(name, why, bytes)| Some((why, read(name, bytes)?)));
        let read: Vec<_> = read.collect();
        assert!(read.len() >= 8, "{read:?}");
        assert!(read.iter().all(|(_, sound)| *sound), "{read:?}");
    }

    proptest! {
        /// Whatever the damage: it is read or refused.
        #[test]
        fn nothing_that_comes_in_panics(
            which: prop::sample::Index,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut: prop::sample::Index,
        ) {
            let (name, _, mut bytes) = which.get(&vectors()).clone();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            read(&name, &bytes);
            bytes.truncate(cut.index(bytes.len()));
            read(&name, &bytes);
        }
    }
}
