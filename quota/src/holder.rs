//! The other side of a lease: a checker that decides without asking.
//!
//! It keeps to three rules, and with them the limit holds whatever the network does:
//!
//! 1. Time is measured by its own monotonic clock, from the moment at which it *sent* the request whose
//!    answer granted the capacity. So no answer's delay makes a lease longer.
//! 2. It admits only while the lease runs, and only up to the capacity.
//! 3. When the lease ends, what it uses above the safe capacity is stopped: [`Holder::excess`] says how
//!    much that is. When a refresh made the capacity smaller, what is above it is stopped before the
//!    larger one would have ended; until then it goes on saying that it knows the larger one only.

use crate::lease::LEASE_MS;

/// What a checker knows of its lease. Times are milliseconds of its own monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    version: u64,
    /// The newest version above whose capacity nothing was used.
    settled: u64,
    capacity: u64,
    safe_capacity: u64,
    /// Until when the capacity is its own.
    until: i64,
    in_use: u64,
}

impl Holder {
    /// A checker that was granted a lease, which it asked for at `sent`.
    pub fn new(version: u64, capacity: u64, safe_capacity: u64, sent: i64) -> Self {
        let until = sent.saturating_add(LEASE_MS);
        Self { version, settled: version, capacity, safe_capacity, until, in_use: 0 }
    }

    /// An answer to the refresh that was sent at `sent`. Answers that were overtaken are of no use.
    pub fn refreshed(&mut self, version: u64, capacity: u64, sent: i64) {
        if version > self.version {
            if self.in_use <= self.capacity {
                self.settled = self.version;
            }
            self.version = version;
            self.capacity = capacity;
            self.until = sent.saturating_add(LEASE_MS);
        }
    }

    /// The newest version that it knows: goes into the next refresh, once nothing above its capacity is
    /// used any more.
    pub fn known_version(&self, now: i64) -> u64 {
        if self.excess(now) > 0 { self.settled } else { self.version }
    }

    /// What it may use at an instant.
    pub fn allowed(&self, now: i64) -> u64 {
        if now < self.until { self.capacity } else { self.safe_capacity.min(self.capacity) }
    }

    /// What it uses.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Takes an amount where it fits.
    pub fn admit(&mut self, amount: u64, now: i64) -> bool {
        let fits = self.in_use.checked_add(amount).filter(|sum| *sum <= self.allowed(now));
        if let Some(sum) = fits {
            self.in_use = sum;
        }
        fits.is_some()
    }

    /// Something has stopped.
    pub fn stopped(&mut self, amount: u64) {
        self.in_use = self.in_use.saturating_sub(amount);
    }

    /// What must be stopped at once.
    pub fn excess(&self, now: i64) -> u64 {
        self.in_use.saturating_sub(self.allowed(now))
    }
}
