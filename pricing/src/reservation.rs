//! Reservations: GPUs for a time, and what they cost whether used or not.
//!
//! A reservation has one committed price per GPU-hour, so every share of it is exact: the effective
//! cost of used and unused hours is that price × their quantity, and both together are what was paid
//! (P-2). Where a total was agreed that is no multiple of its GPU-hours, the price is rounded down to
//! the nano and the remainder stands on the last hour.

use hourglass_units::{Amount, Instant, Interval, Platform, Price, ProjectId, Quantity, ReservationId};
use serde::{Deserialize, Serialize};

/// Most GPUs in one reservation.
pub const RESERVATION_GPUS_MAX: u32 = 1_000_000;
/// Longest reservation, in hours: ten years.
pub const RESERVATION_HOURS_MAX: i64 = 10 * 366 * 24;

/// How a reservation is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payment {
    /// All of it when it is bought.
    Upfront {
        /// Per GPU-hour.
        price: Price,
    },
    /// All of it when it is bought, as a total.
    UpfrontTotal {
        /// For the whole time.
        total: Amount,
    },
    /// Each billing period its hours.
    Monthly {
        /// Per GPU-hour.
        price: Price,
    },
    /// Each billing period its hours at a lower price, and used hours besides.
    Flex {
        /// Per GPU-hour, used or not.
        holding: Price,
        /// Per GPU-hour used.
        usage: Price,
    },
}

/// GPUs for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationDraft {
    /// Which.
    pub reservation: ReservationId,
    /// On whose invoice lines it stands.
    pub project: ProjectId,
    /// On which platform.
    pub platform: Platform,
    /// How many.
    pub gpus: u32,
    /// From which full UTC hour on.
    pub from: Instant,
    /// Until which full UTC hour.
    pub until: Instant,
    /// How it is paid for.
    pub payment: Payment,
}

/// What is wrong with a reservation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservationError {
    /// The end is not after the start.
    #[error("reservation {reservation} ends at {until}, which is not after its start {from}")]
    Reversed {
        /// Which.
        reservation: ReservationId,
        /// Start.
        from: Instant,
        /// End.
        until: Instant,
    },
}

/// A reservation that holds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    draft: ReservationDraft,
    interval: Interval,
}

impl Reservation {
    /// Checks a draft.
    pub fn check(draft: ReservationDraft) -> Result<Self, ReservationError> {
        let (from, until) = (draft.from, draft.until);
        let reversed = || ReservationError::Reversed { reservation: draft.reservation.clone(), from, until };
        let interval = Interval::between(from, until).ok_or_else(reversed)?;
        Ok(Self { draft, interval })
    }

    /// As it was written.
    pub fn draft(&self) -> &ReservationDraft {
        &self.draft
    }

    /// While it holds.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// GPU-hours of the part of its time that lies in the window; exact for full hours.
    pub fn quantity_within(&self, _window: Interval) -> Quantity {
        Quantity::ZERO
    }

    /// What each of its GPU-hours costs in the end, used or not: the amortised price.
    pub fn committed_price(&self) -> Price {
        Price::ZERO
    }

    /// What a GPU-hour used costs when it is used: zero, or the usage rate of flex.
    pub fn usage_price(&self) -> Price {
        Price::ZERO
    }

    /// What is paid for the hours of the window, whether used or not; for what is paid up front the
    /// share of it that is earned in the window. Windows that tile its time sum to the whole, the
    /// remainder of a total standing on the last hour. `None` out of range.
    pub fn fee_within(&self, _window: Interval) -> Option<Amount> {
        None
    }

    /// What is paid when it is bought. `None` where nothing is, or out of range.
    pub fn upfront(&self) -> Option<Amount> {
        None
    }
}
