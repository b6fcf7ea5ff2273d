//! How fast one principal may ask: a bucket of requests for each, refilled as time passes.
//!
//! It keeps one customer's runaway script from taking the room of all others. The operator and agents
//! are the cloud's own and have no bucket: their way in is bounded by the cell's queue.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hourglass_ledger::core::Role;
use hourglass_units::Instant;

use crate::auth::Principal;

/// Requests that a principal may send at once.
pub const RATE_BURST: i64 = 300;
/// Requests a second that it may send for ever.
pub const RATE_PER_SECOND: i64 = 100;
/// Most principals whose buckets are remembered.
const BUCKETS_MAX: usize = 4_096;
/// Milliseconds in which an empty bucket is full again.
const WINDOW_MS: i64 = RATE_BURST * 1_000 / RATE_PER_SECOND;
/// Tokens are counted in thousandths, so that a millisecond's refill is a whole number.
const TOKEN: i64 = 1_000;

/// What is left, and when that was counted.
struct Bucket {
    left: i64,
    at: Instant,
}

/// The buckets of all principals.
#[derive(Default)]
pub(super) struct Rates(Mutex<BTreeMap<Box<str>, Bucket>>);

/// What a principal has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Whether this request is within it.
    pub(super) within: bool,
    requests: i64,
    /// Seconds until there is one more, or, while there are some, until all are there.
    seconds: i64,
}

impl Rates {
    /// Takes one request out of the principal's bucket; `None` where it has none.
    pub(super) fn take(&self, principal: &Principal, now: Instant) -> Option<Left> {
        match principal.role() {
            Role::Operator | Role::Compute | Role::Agent => None,
            Role::Customer | Role::Finance | Role::Trader | Role::Planner => {
                Some(self.take_of(principal.name(), now))
            }
        }
    }

    fn take_of(&self, name: &str, now: Instant) -> Left {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(name) {
            // A bucket that is full again says no more than none.
            buckets.retain(|_, bucket| (0..WINDOW_MS).contains(&now.ms_since(bucket.at)));
            if buckets.len() >= BUCKETS_MAX {
                buckets.pop_first();
            }
        }
        let full = RATE_BURST.saturating_mul(TOKEN);
        let bucket = buckets.entry(name.into()).or_insert(Bucket { left: full, at: now });
        // A clock that was set back refills nothing.
        let passed = now.ms_since(bucket.at).clamp(0, WINDOW_MS);
        bucket.left = bucket.left.saturating_add(passed.saturating_mul(RATE_PER_SECOND)).min(full);
        bucket.at = now;
        let within = bucket.left >= TOKEN;
        if within {
            bucket.left = bucket.left.saturating_sub(TOKEN);
        }
        let missing = if within { full } else { TOKEN }.saturating_sub(bucket.left);
        let a_second = RATE_PER_SECOND.saturating_mul(TOKEN);
        let seconds = missing.saturating_add(a_second).saturating_sub(1) / a_second;
        Left { within, requests: bucket.left / TOKEN, seconds }
    }
}

impl Left {
    /// Says what is left, in the fields of the IETF's draft on rate limits.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let fields = [
            ("ratelimit-policy", format!("\"principal\";q={RATE_BURST};w={}", WINDOW_MS / 1_000)),
            ("ratelimit", format!("\"principal\";r={};t={}", self.requests, self.seconds)),
        ];
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Instant {
        Instant::from_unix_ms(1_767_232_860_000 + ms).unwrap()
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let rates = Rates::default();
        for left in (0..RATE_BURST).rev() {
            let taken = rates.take_of("a", at(0));
            assert!(taken.within && taken.requests == left, "{taken:?}");
        }
        let refused = rates.take_of("a", at(0));
        assert_eq!(refused, Left { within: false, requests: 0, seconds: 1 });
        // Another has its own; ten milliseconds are one request.
        assert!(rates.take_of("b", at(0)).within);
        assert!(!rates.take_of("a", at(9)).within);
        assert!(rates.take_of("a", at(10)).within && !rates.take_of("a", at(10)).within);
        // A clock that is set back gives nothing, and takes nothing when it goes on.
        assert!(!rates.take_of("a", at(-60_000)).within);
        let rested = rates.take_of("a", at(60_000));
        assert_eq!(rested.requests, RATE_BURST - 1);
    }

    #[test]
    fn so_many_buckets_are_kept() {
        let rates = Rates::default();
        for n in 0..BUCKETS_MAX + 10 {
            rates.take_of(&format!("p{n:05}"), at(0));
        }
        assert_eq!(rates.0.lock().unwrap().len(), BUCKETS_MAX);
        rates.take_of("last", at(WINDOW_MS));
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
