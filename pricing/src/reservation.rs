//! Reservations: GPUs for a time, and what they cost whether used or not.
//!
//! A reservation has one committed price per GPU-hour, so every share of it is exact: the effective
//! cost of used and unused hours is that price × their quantity, and both together are what was paid
//! (P-2). Where a total was agreed that is no multiple of its GPU-hours, the price is rounded down to
//! the nano and the remainder stands on the last hour.
//!
//! Shares of windows that are no full hours are cut cumulatively, as lines are: whatever the windows,
//! if they tile its time then their shares make the whole.

use hourglass_units::{
    Amount, Fabric, HOUR_MILLISECONDS, Instant, Interval, Platform, Price, ProjectId, Quantity, ReservationId,
};
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
    /// In which fabric its GPUs are kept free for it; where absent it is a matter of price alone.
    #[serde(default)]
    pub fabric: Option<Fabric>,
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
    /// It begins or ends within an hour.
    #[error("reservation {reservation} {what} at {at}: give a full UTC hour")]
    NotAFullHour {
        /// Which.
        reservation: ReservationId,
        /// `begins` or `ends`.
        what: &'static str,
        /// When.
        at: Instant,
    },
    /// No GPUs, or too many.
    #[error("reservation {reservation} has {gpus} GPUs: give between 1 and {RESERVATION_GPUS_MAX}")]
    Gpus {
        /// Which.
        reservation: ReservationId,
        /// How many.
        gpus: u32,
    },
    /// Longer than [`RESERVATION_HOURS_MAX`].
    #[error(
        "reservation {reservation} is for {hours} hours: at most {RESERVATION_HOURS_MAX}, buy another for the rest"
    )]
    TooLong {
        /// Which.
        reservation: ReservationId,
        /// How long it is.
        hours: i64,
    },
    /// More GPU-hours than a [`Quantity`] holds.
    #[error("reservation {reservation} has too many GPU-hours: split it by time")]
    TooLarge {
        /// Which.
        reservation: ReservationId,
    },
    /// A total of nothing or less.
    #[error("reservation {reservation} costs {total} in total: give more than 0")]
    TotalNotPositive {
        /// Which.
        reservation: ReservationId,
        /// What was given.
        total: Amount,
    },
    /// A total that makes more than the highest price.
    #[error("reservation {reservation} costs {total} in total: that is above 1000000 per GPU-hour")]
    TotalTooHigh {
        /// Which.
        reservation: ReservationId,
        /// What was given.
        total: Amount,
    },
    /// Another end would make another price.
    #[error(
        "reservation {reservation} was bought for a total, so its end stays: buy another for what is to be added"
    )]
    TotalIsFinal {
        /// Which.
        reservation: ReservationId,
    },
    /// It is paid already.
    #[error(
        "reservation {reservation} is paid until {paid_until}: it can end later than that, not at {until}"
    )]
    PaidAlready {
        /// Which.
        reservation: ReservationId,
        /// Its end.
        paid_until: Instant,
        /// What was asked for.
        until: Instant,
    },
}

/// A reservation that holds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ReservationDraft", into = "ReservationDraft")]
pub struct Reservation {
    draft: ReservationDraft,
    interval: Interval,
    quantity: Quantity,
    committed: Price,
}

impl Reservation {
    /// Checks a draft.
    pub fn check(draft: ReservationDraft) -> Result<Self, ReservationError> {
        let (from, until, gpus) = (draft.from, draft.until, draft.gpus);
        let id = || draft.reservation.clone();
        let interval = Interval::between(from, until).ok_or_else(|| ReservationError::Reversed {
            reservation: id(),
            from,
            until,
        })?;
        for (what, at) in [("begins", from), ("ends", until)] {
            if at.unix_ms().rem_euclid(HOUR_MILLISECONDS) != 0 {
                return Err(ReservationError::NotAFullHour { reservation: id(), what, at });
            }
        }
        if !(1..=RESERVATION_GPUS_MAX).contains(&gpus) {
            return Err(ReservationError::Gpus { reservation: id(), gpus });
        }
        let hours = interval.milliseconds() / HOUR_MILLISECONDS;
        if hours > RESERVATION_HOURS_MAX {
            return Err(ReservationError::TooLong { reservation: id(), hours });
        }
        let quantity = cumulative(interval.milliseconds(), gpus)
            .ok_or_else(|| ReservationError::TooLarge { reservation: id() })?;
        let committed = match draft.payment {
            Payment::Upfront { price } | Payment::Monthly { price } => price,
            Payment::Flex { holding, .. } => holding,
            Payment::UpfrontTotal { total } => {
                if total <= Amount::ZERO {
                    return Err(ReservationError::TotalNotPositive { reservation: id(), total });
                }
                floor_price(total, quantity)
                    .ok_or_else(|| ReservationError::TotalTooHigh { reservation: id(), total })?
            }
        };
        Ok(Self { draft, interval, quantity, committed })
    }

    /// The same reservation with another end.
    ///
    /// What is paid up front can only be extended, at its price: the difference of [`Self::upfront`] is
    /// what the extension costs. A total is final. Others may end at any full hour; that usage already
    /// rated keeps its reservation is for the caller to see to.
    pub fn amended(&self, until: Instant) -> Result<Self, ReservationError> {
        let reservation = || self.draft.reservation.clone();
        match self.draft.payment {
            Payment::UpfrontTotal { .. } => {
                return Err(ReservationError::TotalIsFinal { reservation: reservation() });
            }
            Payment::Upfront { .. } if until < self.draft.until => {
                let paid_until = self.draft.until;
                return Err(ReservationError::PaidAlready { reservation: reservation(), paid_until, until });
            }
            Payment::Upfront { .. } | Payment::Monthly { .. } | Payment::Flex { .. } => {}
        }
        Self::check(ReservationDraft { until, ..self.draft.clone() })
    }

    /// As it was written.
    pub fn draft(&self) -> &ReservationDraft {
        &self.draft
    }

    /// While it holds.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// All its GPU-hours.
    pub fn quantity(&self) -> Quantity {
        self.quantity
    }

    /// GPU-hours of the part of its time that lies in the window; exact for full hours.
    pub fn quantity_within(&self, window: Interval) -> Quantity {
        let Some(part) = self.interval.intersection(window) else { return Quantity::ZERO };
        let until = |at: Instant| cumulative(at.ms_since(self.interval.start()), self.draft.gpus);
        // Both are at most the whole, which fits.
        until(part.end()).zip(until(part.start())).and_then(|(b, a)| b.checked_sub(a)).unwrap_or_default()
    }

    /// What each of its GPU-hours costs in the end, used or not: the amortised price. For flex the
    /// holding price; used hours cost [`Self::usage_price`] besides.
    pub fn committed_price(&self) -> Price {
        self.committed
    }

    /// What a GPU-hour used costs when it is used: zero, or the usage rate of flex.
    pub fn usage_price(&self) -> Price {
        match self.draft.payment {
            Payment::Flex { usage, .. } => usage,
            Payment::Upfront { .. } | Payment::UpfrontTotal { .. } | Payment::Monthly { .. } => Price::ZERO,
        }
    }

    /// What a total has beyond [`Self::committed_price`] × GPU-hours: less than one nano-currency for
    /// each GPU-hour. It stands on the last hour.
    pub fn remainder(&self) -> Amount {
        match self.draft.payment {
            Payment::UpfrontTotal { total } => {
                total.checked_sub(self.committed.times(self.quantity)).unwrap_or_default()
            }
            Payment::Upfront { .. } | Payment::Monthly { .. } | Payment::Flex { .. } => Amount::ZERO,
        }
    }

    /// What is paid for the hours of the window, whether used or not; for what is paid up front the
    /// share of it that is earned in the window. Windows that tile its time sum to the whole, the
    /// remainder of a total standing on its last millisecond. `None` out of range.
    pub fn fee_within(&self, window: Interval) -> Option<Amount> {
        let fee = self.committed.times(self.quantity_within(window));
        if window.start() < self.interval.end() && self.interval.end() <= window.end() {
            return fee.checked_add(self.remainder());
        }
        Some(fee)
    }

    /// What is paid when it is bought. `None` where nothing is, or out of range.
    pub fn upfront(&self) -> Option<Amount> {
        match self.draft.payment {
            Payment::Upfront { price } => Some(price.times(self.quantity)),
            Payment::UpfrontTotal { total } => Some(total),
            Payment::Monthly { .. } | Payment::Flex { .. } => None,
        }
    }
}

impl TryFrom<ReservationDraft> for Reservation {
    type Error = ReservationError;

    fn try_from(draft: ReservationDraft) -> Result<Self, ReservationError> {
        Self::check(draft)
    }
}

impl From<Reservation> for ReservationDraft {
    fn from(reservation: Reservation) -> Self {
        reservation.draft
    }
}

/// GPU-hours after so many milliseconds, rounded as [`Quantity::of_gpu_milliseconds`] rounds; a
/// reservation may be larger than a line.
fn cumulative(milliseconds: i64, gpus: u32) -> Option<Quantity> {
    let gpu_milliseconds = i128::from(milliseconds).checked_mul(i128::from(gpus))?;
    let nanos = gpu_milliseconds.checked_mul(2 * 2500)?.checked_add(9)?.checked_div_euclid(18)?;
    i64::try_from(nanos).ok().map(Quantity::from_nanos)
}

/// The highest price that stays within the total.
fn floor_price(total: Amount, quantity: Quantity) -> Option<Price> {
    let nanos = total.attos().checked_div_euclid(i128::from(quantity.nanos()))?;
    Price::from_nanos(i64::try_from(nanos).ok()?).ok()
}

#[cfg(test)]
mod tests;
