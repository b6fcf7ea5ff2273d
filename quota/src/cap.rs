//! Spend caps: money as the resource.
//!
//! A *review* says what was charged in the cap's window (`spent`) and what can still come of what runs,
//! at worst, until it could be stopped if the next review found that it must be (`exposed`): unbilled
//! time however late its reports come, and the burn over [`BILLING_INTERVAL_MS`] and the notice. Between
//! reviews each new hold adds its own burn over the same time.
//!
//! So charges never exceed a hard cap, by induction over reviews: as long as `spent + exposed` is within
//! the cap nothing has to be done, and when it is not, everything that is told to stop now has stopped
//! before the time that the review before had kept money for.

use hourglass_units::{Amount, Instant, Month, Percent};
use serde::{Deserialize, Serialize};

/// The longest time between two reviews that a cap accounts for, in milliseconds. Ticks, and with them
/// reviews, come each minute; what is more covers the time in which a standby takes over.
pub const BILLING_INTERVAL_MS: i64 = 300_000;
/// The shortest notice: 60 s from the signal to the kill, and as much again for the call and its answer.
pub const NOTICE_MS_MIN: i64 = 120_000;
/// The longest notice.
pub const NOTICE_MS_MAX: i64 = 3_600_000;
/// Most thresholds of a cap.
pub const THRESHOLDS_MAX: usize = 10;

/// Over which time a cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapPeriod {
    /// A billing period of the tenant.
    Monthly,
    /// For ever.
    Total,
    /// As long as prepaid credit lasts: its balance is the limit.
    Prepaid,
}

impl CapPeriod {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::Total => "total",
            Self::Prepaid => "prepaid",
        }
    }
}

/// What happens at the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Nothing starts that could break it, and what runs is stopped in time.
    Hard,
    /// Alerts alone.
    Soft,
}

/// A cap as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapDraft {
    /// Over which time.
    pub period: CapPeriod,
    /// How much, before tax and before credit; absent for a prepaid balance.
    pub amount: Option<Amount>,
    /// What happens at it.
    pub enforcement: Enforcement,
    /// At which parts of the limit an alert is given, in rising order.
    pub thresholds: Vec<Percent>,
    /// How long it takes at most from the order to stop until nothing runs, in milliseconds.
    pub notice_ms: i64,
}

/// Why a cap makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// No amount where one is needed.
    #[error("a monthly or total cap needs an amount that is not below zero")]
    AmountMissing,
    /// An amount where the balance is the limit.
    #[error("a prepaid cap has no amount of its own: the balance of prepaid credit is its limit")]
    AmountOfBalance,
    /// A prepaid cap for a part of what the credit pays for.
    #[error("prepaid credit belongs to the tenant: set a prepaid cap on the tenant")]
    PrepaidOfProject,
    /// Out of order, twice, zero, or too many.
    #[error("give at most {THRESHOLDS_MAX} thresholds above zero, in rising order")]
    Thresholds,
    /// Too short or too long.
    #[error("the notice is {} to {} seconds", NOTICE_MS_MIN / 1_000, NOTICE_MS_MAX / 1_000)]
    Notice,
}

impl CapDraft {
    /// Checks what can be checked without the tenant.
    pub fn check(&self) -> Result<(), CapError> {
        match (self.period, self.amount) {
            (CapPeriod::Prepaid, None) => {}
            (CapPeriod::Prepaid, Some(_)) => return Err(CapError::AmountOfBalance),
            (_, Some(amount)) if amount >= Amount::ZERO => {}
            (_, _) => return Err(CapError::AmountMissing),
        }
        let zero = |percent: &Percent| *percent == Percent::default();
        let rising = self.thresholds.windows(2).all(|two| matches!(two, [first, second] if first < second));
        if self.thresholds.len() > THRESHOLDS_MAX || !rising || self.thresholds.iter().any(zero) {
            return Err(CapError::Thresholds);
        }
        if !(NOTICE_MS_MIN..=NOTICE_MS_MAX).contains(&self.notice_ms) {
            return Err(CapError::Notice);
        }
        Ok(())
    }

    /// Until when money is kept for what runs now.
    pub fn horizon(&self, now: Instant) -> Instant {
        now.saturating_add_ms(BILLING_INTERVAL_MS.saturating_add(self.notice_ms))
    }
}

/// What a review found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// When it was.
    pub at: Instant,
    /// Up to which position.
    pub position: u64,
    /// The billing period that it looked at.
    pub period: Month,
    /// The most that may be charged.
    pub limit: Amount,
    /// What was charged.
    pub spent: Amount,
    /// What can still come of what runs, at worst.
    pub exposed: Amount,
}

impl Figures {
    /// What is charged at worst; `None` beyond all sums.
    pub fn worst(&self) -> Option<Amount> {
        self.spent.checked_add(self.exposed)
    }
}

/// A cap that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// As it was asked for.
    pub draft: CapDraft,
    /// What the last review found.
    pub figures: Figures,
    /// What was taken since.
    pub added: Amount,
    /// How many of its thresholds were crossed in the window.
    pub crossed: u8,
    /// Whether things were told to stop because of it.
    pub exhausted: bool,
}

/// Why money is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendDenial {
    /// Over which time the cap counts.
    pub period: CapPeriod,
    /// The cap.
    pub limit: Amount,
    /// What was charged.
    pub spent: Amount,
    /// What is kept for what runs and is held.
    pub held: Amount,
    /// What this would need.
    pub asked: Amount,
}

impl Cap {
    /// Whether something can start that costs so much at worst until it can be stopped.
    pub fn admits(&self, burn: Amount, now: Instant) -> Result<(), SpendDenial> {
        if self.draft.enforcement == Enforcement::Soft || burn.is_zero() {
            return Ok(());
        }
        let Figures { limit, spent, at, .. } = self.figures;
        // Figures that are too old say nothing about what runs.
        let fresh = now.ms_since(at) <= BILLING_INTERVAL_MS;
        let worst = self.figures.worst().and_then(|worst| worst.checked_add(self.added));
        let fits = worst.and_then(|worst| worst.checked_add(burn)).is_some_and(|worst| worst <= limit);
        if fresh && fits {
            return Ok(());
        }
        let held = self.figures.exposed.checked_add(self.added).unwrap_or(self.figures.exposed);
        Err(SpendDenial { period: self.draft.period, limit, spent, held, asked: burn })
    }

    /// How many thresholds were crossed by what is charged.
    pub fn thresholds_crossed(&self, figures: &Figures) -> u8 {
        let crossed =
            self.draft.thresholds.iter().filter(|threshold| {
                threshold.of_amount(figures.limit).is_some_and(|part| figures.spent >= part)
            });
        u8::try_from(crossed.count()).unwrap_or(u8::MAX)
    }
}
