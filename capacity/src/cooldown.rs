//! Supply that proved not to exist.
//!
//! A create that the cloud turns down for want of GPUs shows that the pool has fewer than we count. So many are
//! left out for a while, and then tried again; each time they turn out to be missing still, for twice as long.

use hourglass_units::Instant;
use serde::{Deserialize, Serialize};

use crate::nodes::POOL_GPUS_MAX;

/// How long GPUs are left out at first, in milliseconds: a minute.
pub const COOLDOWN_MS_MIN: i64 = 60_000;
/// How long at most, in milliseconds: an hour.
pub const COOLDOWN_MS_MAX: i64 = 3_600_000;

/// What is left out of a pool, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cooldown {
    missing: u64,
    /// How long it lasts, and until when.
    length_ms: i64,
    until: Option<Instant>,
}

impl Cooldown {
    /// How many GPUs are left out at the instant.
    pub fn missing(&self, at: Instant) -> u64 {
        if self.until.is_some_and(|until| at < until) { self.missing } else { 0 }
    }

    /// When they are tried again.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// So many GPUs proved to be missing. While others cool down they join them; soon after, all begin again
    /// for twice as long; and long after, from the start.
    pub fn prove_missing(&mut self, gpus: u64, at: Instant) {
        let before = self.missing(at);
        if before == 0 {
            let is_soon = self.until.is_some_and(|until| at.ms_since(until) <= self.length_ms);
            let length_ms = if is_soon { self.length_ms.saturating_mul(2) } else { COOLDOWN_MS_MIN };
            self.length_ms = length_ms.clamp(COOLDOWN_MS_MIN, COOLDOWN_MS_MAX);
        }
        self.missing = before.saturating_add(gpus).min(POOL_GPUS_MAX);
        self.until = Some(at.saturating_add_ms(self.length_ms));
    }

    /// GPUs came that were tried again: it is forgotten.
    pub fn prove_there(&mut self, at: Instant) {
        if self.missing(at) == 0 {
            *self = Self::default();
        }
    }
}
