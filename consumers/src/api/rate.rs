//! How fast one principal may ask: a bucket of requests for each, refilled as time passes.
//!
//! It keeps one customer's runaway script from taking the room of all others. The operator and agents
//! are the cloud's own and have no bucket: their way in is bounded by the cell's queue.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hourglass_ledger::core::Role;
use hourglass_units::Instant;

use crate::auth::Principal;

/// Requests that a principal may send at once.
pub const RATE_BURST: i64 = 300;
/// Requests a second that it may send for ever.
pub const RATE_PER_SECOND: i64 = 100;
/// Requests that an address may send at once without a credential, where prices are public.
pub const PUBLIC_RATE_BURST: i64 = 60;
/// Requests a second that it may send for ever.
pub const PUBLIC_RATE_PER_SECOND: i64 = 10;
/// Most principals whose buckets are remembered.
const BUCKETS_MAX: usize = 4_096;
/// Tokens are counted in thousandths, so that a millisecond's refill is a whole number.
const TOKEN: i64 = 1_000;

/// What is left, and when that was counted.
struct Bucket {
    left: i64,
    at: Instant,
}

/// How fast each may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    /// Of whom, as the header names it.
    of: &'static str,
    burst: i64,
    per_second: i64,
}

impl Limit {
    const PRINCIPAL: Self = Self { of: "principal", burst: RATE_BURST, per_second: RATE_PER_SECOND };
    const ADDRESS: Self =
        Self { of: "address", burst: PUBLIC_RATE_BURST, per_second: PUBLIC_RATE_PER_SECOND };

    /// Milliseconds in which an empty bucket is full again.
    fn window_ms(self) -> i64 {
        self.burst.saturating_mul(1_000).checked_div(self.per_second).unwrap_or(i64::MAX)
    }
}

/// The buckets of all principals, or of all addresses without a credential: these cannot push those out.
pub(super) struct Rates {
    limit: Limit,
    buckets: Mutex<BTreeMap<Box<str>, Bucket>>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { limit: Limit::PRINCIPAL, buckets: Mutex::default() }
    }
}

/// What a principal has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Whether this request is within it.
    pub(super) within: bool,
    limit: Limit,
    requests: i64,
    /// Seconds until there is one more, or, while there are some, until all are there.
    seconds: i64,
}

impl Rates {
    /// Those of addresses without a credential.
    pub(super) fn of_addresses() -> Self {
        Self { limit: Limit::ADDRESS, buckets: Mutex::default() }
    }

    /// Takes one request out of an address's bucket. Who has one IPv6 address has 2^64 of them: they share one.
    pub(super) fn take_address(&self, address: Option<IpAddr>, now: Instant) -> Left {
        self.take_of(&network(address), now)
    }

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
        let (limit, window_ms) = (self.limit, self.limit.window_ms());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(name) {
            // A bucket that is full again says no more than none.
            buckets.retain(|_, bucket| (0..window_ms).contains(&now.ms_since(bucket.at)));
            if buckets.len() >= BUCKETS_MAX {
                buckets.pop_first();
            }
        }
        let full = limit.burst.saturating_mul(TOKEN);
        let bucket = buckets.entry(name.into()).or_insert(Bucket { left: full, at: now });
        // A clock that was set back refills nothing.
        let passed = now.ms_since(bucket.at).clamp(0, window_ms);
        bucket.left = bucket.left.saturating_add(passed.saturating_mul(limit.per_second)).min(full);
        bucket.at = now;
        let within = bucket.left >= TOKEN;
        if within {
            bucket.left = bucket.left.saturating_sub(TOKEN);
        }
        let missing = if within { full } else { TOKEN }.saturating_sub(bucket.left);
        let a_second = limit.per_second.saturating_mul(TOKEN);
        let seconds = missing.saturating_add(a_second).saturating_sub(1).checked_div(a_second);
        Left { within, limit, requests: bucket.left / TOKEN, seconds: seconds.unwrap_or(i64::MAX) }
    }
}

/// What of an address is one asker.
pub(super) fn network(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

impl Left {
    /// Says what is left, in the fields of the IETF's draft on rate limits.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let Limit { of, burst, .. } = self.limit;
        let window = self.limit.window_ms() / 1_000;
        let fields = [
            ("ratelimit-policy", format!("\"{of}\";q={burst};w={window}")),
            ("ratelimit", format!("\"{of}\";r={};t={}", self.requests, self.seconds)),
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
        assert_eq!(refused, Left { within: false, limit: Limit::PRINCIPAL, requests: 0, seconds: 1 });
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
        assert_eq!(rates.buckets.lock().unwrap().len(), BUCKETS_MAX);
        rates.take_of("last", at(Limit::PRINCIPAL.window_ms()));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_address_asks_for_its_network() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "0:0:0:0::/64"),
        ] {
            assert_eq!(network(Some(address.parse().unwrap())), expected);
        }
        let rates = Rates::of_addresses();
        let take = |address: &str| rates.take_address(Some(address.parse().unwrap()), at(0)).within;
        for _ in 0..PUBLIC_RATE_BURST {
            assert!(take("2001:db8::1"));
        }
        assert!(!take("2001:db8::2") && take("2001:db8:0:1::1"));
    }
}
