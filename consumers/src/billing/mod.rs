//! Reports on usage, balances and what is sold, as pure functions: HTTP and the command line give the
//! same ones.

pub mod budgets;
pub mod credits;
pub mod explain;
pub mod invoices;
pub mod market;
pub mod quotas;
pub mod report;
pub mod reservations;
pub mod spend;
pub mod spot;
pub mod timeline;
pub mod usage;

use hourglass_units::{INSTANT_MAX, INSTANT_MIN, Instant};

/// A time in an answer; none where there is no bound.
fn bound(at: Instant) -> Option<String> {
    (at != INSTANT_MIN && at != INSTANT_MAX).then(|| at.to_string())
}
