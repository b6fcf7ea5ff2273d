//! One file a command: its arguments, what it does, how it answers.

pub mod agent;
pub mod balance;
pub mod demo;
pub mod doctor;
pub mod estimate;
pub mod explain;
pub mod export;
pub mod invoice;
pub mod key;
pub mod ledger;
pub mod metering;
pub mod nats;
pub mod price;
pub mod quarantine;
pub mod replay;
pub mod serve;
pub mod up;
pub mod usage;
pub mod verify;

use hourglass_units::Instant;

/// Reads a time of the command line: RFC 3339, or a date that means its midnight in UTC.
fn instant(text: &str) -> Result<Instant, String> {
    let midnight = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    midnight.parse().map_err(|error: hourglass_units::TimeError| error.to_string())
}

/// Reads a duration such as `10m`, in whole milliseconds and at least one.
fn milliseconds(text: &str) -> Result<i64, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match i64::try_from(duration.as_millis()) {
        Ok(milliseconds) if milliseconds > 0 => Ok(milliseconds),
        _ => Err("it must be between a millisecond and 292 million years".to_owned()),
    }
}
