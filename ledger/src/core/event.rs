//! What happened. Events are the only thing that is ever written; all else follows from them.
//!
//! Each event is one protobuf message in the log (`proto/hourglass/ledger/v1/event.proto`). Reading
//! one back runs the same checks that made it, so a changed byte cannot pass for an event.

use hourglass_pricing::calendar::Calendar;
use hourglass_pricing::reservation::Reservation;
use hourglass_pricing::tax::Tax;
use hourglass_pricing::{Contract, RateCard, Rerating};
use hourglass_units::{
    Amount, Currency, Fabric, InstanceId, Instant, Interval, Labels, Platform, Price, Region, ReservationId,
    TenantId,
};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{IdempotencyKey, Mode, Registration};
use super::credentials::{KeyGrant, KeyId};
use super::credits::Grant;
use super::invoice::Invoice;
use super::market::MarketEvent;
use super::periods::PeriodClose;
use super::quotas::QuotaEvent;
use super::usage::UsageBatch;
use super::webhooks::WebhookEvent;

/// The rules of a cell, fixed when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A report or fact further in the future than this is not taken, in milliseconds.
    pub clock_skew_max_ms: i64,
    /// A report that ended longer ago than this is excluded, in milliseconds.
    pub acceptance_window_ms: i64,
    /// A month is finalised no earlier than this after its end, in milliseconds.
    pub grace_ms: i64,
}

impl Default for Policy {
    /// Five minutes of skew, 62 days of acceptance, three days of grace.
    fn default() -> Self {
        const MINUTE: i64 = 60_000;
        const DAY: i64 = 86_400_000;
        Self { clock_skew_max_ms: 5 * MINUTE, acceptance_window_ms: 62 * DAY, grace_ms: 3 * DAY }
    }
}

/// Something that happened, and under which idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The caller's key and the digest of what it asked for.
    pub key: Option<(IdempotencyKey, [u8; 16])>,
    /// What happened.
    pub event: Event,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The cell opened.
    CellOpened {
        /// Its region.
        region: Region,
        /// Its rules.
        policy: Policy,
    },
    /// A customer's account was opened.
    TenantOpened {
        /// Whose.
        tenant: TenantId,
        /// In which it is billed.
        currency: Currency,
        /// For people.
        display_name: String,
    },
    /// A rate card is in force.
    RateCardPublished(RateCard),
    /// A contract is in force.
    ContractSigned {
        /// Which.
        contract: Box<Contract>,
        /// The billing calendar that it brings, its boundaries computed once and for all.
        calendar: Option<Calendar>,
    },
    /// An instance is known.
    InstanceRegistered(Registration),
    /// An instance runs.
    InstanceStarted {
        /// Which.
        instance: InstanceId,
        /// Since when.
        at: Instant,
    },
    /// An instance runs no longer.
    InstanceStopped {
        /// Which.
        instance: InstanceId,
        /// The first millisecond in which it did not run.
        at: Instant,
        /// Why.
        cause: String,
    },
    /// An instance has other labels.
    InstanceLabelled {
        /// Which.
        instance: InstanceId,
        /// All of them.
        labels: Labels,
    },
    /// An instance is sold differently.
    ModeChanged {
        /// Which.
        instance: InstanceId,
        /// How.
        mode: Mode,
        /// Since when.
        at: Instant,
    },
    /// GPUs were sold for a time.
    ReservationMade {
        /// To whom.
        tenant: TenantId,
        /// What.
        reservation: Box<Reservation>,
    },
    /// A reservation has another end.
    ReservationAmended {
        /// Which.
        reservation: ReservationId,
        /// The new end.
        until: Instant,
    },
    /// Spot GPU-hours have another price.
    SpotPriceSet {
        /// On which platform.
        platform: Platform,
        /// In which currency.
        currency: Currency,
        /// Per GPU-hour.
        price: Price,
        /// In which fabric; where absent, in the pool that is all of the platform.
        fabric: Option<Fabric>,
        /// From when.
        from: Instant,
    },
    /// A batch of usage was taken.
    UsageAccepted(UsageBatch),
    /// Usage was found to be wrong.
    UsageVoided {
        /// Of which instance.
        instance: InstanceId,
        /// When.
        interval: Interval,
        /// Why.
        reason: String,
    },
    /// Bytes that should have been usage are kept.
    UsageQuarantined {
        /// A stable code.
        reason: String,
        /// What the sender said that it was.
        content_type: String,
        /// As they came.
        original: Bytes,
    },
    /// Time passed.
    Ticked,
    /// A tenant got credit. Its position is that of the event.
    CreditGranted {
        /// Who.
        tenant: TenantId,
        /// What.
        credit: Box<Grant>,
    },
    /// A tenant's invoices are taxed differently.
    TaxSet {
        /// Whose.
        tenant: TenantId,
        /// How.
        tax: Option<Tax>,
    },
    /// Prices of the past changed.
    PricesRerated(Box<Rerating>),
    /// A period is closed and its invoice numbered, or a credit note.
    InvoiceFinalised(Box<Invoice>),
    /// An invoice was paid for, in part or in full.
    PaymentRecorded {
        /// Who.
        tenant: TenantId,
        /// Which invoice.
        number: u64,
        /// How much.
        amount: Amount,
        /// As it stands on the bank's statement.
        reference: String,
    },
    /// An invoice was taken back.
    InvoiceVoided {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
        /// Why.
        reason: String,
    },
    /// A month of the book was closed for good.
    PeriodClosed(PeriodClose),
    /// Whoever knows a key may come in.
    KeyCreated(Box<KeyGrant>),
    /// A key holds no longer.
    KeyRevoked {
        /// Which.
        id: KeyId,
    },
    /// Something about quota.
    Quota(QuotaEvent),
    /// Something about the market.
    Market(MarketEvent),
    /// Something about who is told by webhook.
    Webhook(Box<WebhookEvent>),
}

/// Bytes in the log that are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an event: {0}")]
pub struct EventError(String);

impl EventError {
    pub(super) fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl Event {
    /// The name of the kind, for listings.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::CellOpened { .. } => EventKind::CellOpened,
            Self::TenantOpened { .. } => EventKind::TenantOpened,
            Self::RateCardPublished(_) => EventKind::RateCardPublished,
            Self::ContractSigned { .. } => EventKind::ContractSigned,
            Self::InstanceRegistered(_) => EventKind::InstanceRegistered,
            Self::InstanceStarted { .. } => EventKind::InstanceStarted,
            Self::InstanceStopped { .. } => EventKind::InstanceStopped,
            Self::InstanceLabelled { .. } => EventKind::InstanceLabelled,
            Self::UsageAccepted(_) => EventKind::UsageAccepted,
            Self::UsageQuarantined { .. } => EventKind::UsageQuarantined,
            Self::Ticked => EventKind::Ticked,
            Self::InvoiceFinalised(_) => EventKind::InvoiceFinalised,
            Self::KeyCreated(_) => EventKind::KeyCreated,
            Self::KeyRevoked { .. } => EventKind::KeyRevoked,
            Self::ModeChanged { .. } => EventKind::ModeChanged,
            Self::ReservationMade { .. } => EventKind::ReservationMade,
            Self::ReservationAmended { .. } => EventKind::ReservationAmended,
            Self::SpotPriceSet { .. } => EventKind::SpotPriceSet,
            Self::UsageVoided { .. } => EventKind::UsageVoided,
            Self::CreditGranted { .. } => EventKind::CreditGranted,
            Self::TaxSet { .. } => EventKind::TaxSet,
            Self::PricesRerated(_) => EventKind::PricesRerated,
            Self::PaymentRecorded { .. } => EventKind::PaymentRecorded,
            Self::InvoiceVoided { .. } => EventKind::InvoiceVoided,
            Self::PeriodClosed(_) => EventKind::PeriodClosed,
            Self::Quota(event) => event.kind(),
            Self::Market(event) => event.kind(),
            Self::Webhook(event) => event.kind(),
        }
    }
}

/// The kinds of events. The number stands in the log and is never given to another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[expect(missing_docs, reason = "each is described at Event")]
pub enum EventKind {
    CellOpened = 10,
    TenantOpened = 11,
    RateCardPublished = 12,
    ContractSigned = 13,
    InstanceRegistered = 14,
    InstanceStarted = 15,
    InstanceStopped = 16,
    UsageAccepted = 17,
    UsageQuarantined = 18,
    Ticked = 19,
    InvoiceFinalised = 20,
    KeyCreated = 21,
    KeyRevoked = 22,
    ModeChanged = 23,
    ReservationMade = 24,
    ReservationAmended = 25,
    SpotPriceSet = 26,
    UsageVoided = 27,
    CreditGranted = 28,
    TaxSet = 29,
    PricesRerated = 30,
    PaymentRecorded = 31,
    InvoiceVoided = 32,
    QuotaGroupCreated = 33,
    QuotaProjectPlaced = 34,
    QuotaLimitsSet = 35,
    SpendCapSet = 36,
    HoldTaken = 37,
    HoldCommitted = 38,
    HoldReleased = 39,
    HoldRenewed = 40,
    HoldResized = 41,
    LeaseGranted = 42,
    LeaseRefreshed = 43,
    LeaseReturned = 44,
    IncreaseRequested = 45,
    IncreaseDecided = 46,
    IncreaseRulesSet = 47,
    QuotaReviewed = 48,
    QuotaReconciled = 49,
    PoolSet = 50,
    MarketMarginSet = 51,
    BidPlaced = 52,
    BidUpdated = 53,
    BidCancelled = 54,
    MarketCleared = 55,
    UnitsLearnt = 56,
    /// [`super::market::MarketEvent::NodeSet`]
    NodeSet = 57,
    /// [`super::market::MarketEvent::Lent`]
    ReservationLent = 58,
    /// [`super::market::MarketEvent::AskedBack`]
    ReservationAskedBack = 59,
    /// [`super::market::MarketEvent::Assigned`]
    ReservationAssigned = 60,
    /// [`super::market::MarketEvent::CapacityRead`]
    CapacityRead = 61,
    /// [`super::market::MarketEvent::Suspended`]
    TenantSuspended = 62,
    /// [`super::market::MarketEvent::Resumed`]
    TenantResumed = 63,
    /// [`Event::InstanceLabelled`]
    InstanceLabelled = 80,
    BudgetSet = 69,
    WebhookCreated = 70,
    WebhookUpdated = 71,
    WebhookSecretRotated = 72,
    WebhookDeleted = 73,
    WebhookTested = 74,
    WebhookRedeliveryAsked = 75,
    WebhookJudged = 76,
    PeriodClosed = 90,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 64] = [
        Self::CellOpened,
        Self::TenantOpened,
        Self::RateCardPublished,
        Self::ContractSigned,
        Self::InstanceRegistered,
        Self::InstanceStarted,
        Self::InstanceStopped,
        Self::UsageAccepted,
        Self::UsageQuarantined,
        Self::Ticked,
        Self::InvoiceFinalised,
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::ModeChanged,
        Self::ReservationMade,
        Self::ReservationAmended,
        Self::SpotPriceSet,
        Self::UsageVoided,
        Self::CreditGranted,
        Self::TaxSet,
        Self::PricesRerated,
        Self::PaymentRecorded,
        Self::InvoiceVoided,
        Self::QuotaGroupCreated,
        Self::QuotaProjectPlaced,
        Self::QuotaLimitsSet,
        Self::SpendCapSet,
        Self::HoldTaken,
        Self::HoldCommitted,
        Self::HoldReleased,
        Self::HoldRenewed,
        Self::HoldResized,
        Self::LeaseGranted,
        Self::LeaseRefreshed,
        Self::LeaseReturned,
        Self::IncreaseRequested,
        Self::IncreaseDecided,
        Self::IncreaseRulesSet,
        Self::QuotaReviewed,
        Self::QuotaReconciled,
        Self::PoolSet,
        Self::MarketMarginSet,
        Self::BidPlaced,
        Self::BidUpdated,
        Self::BidCancelled,
        Self::MarketCleared,
        Self::UnitsLearnt,
        Self::NodeSet,
        Self::ReservationLent,
        Self::ReservationAskedBack,
        Self::ReservationAssigned,
        Self::CapacityRead,
        Self::TenantSuspended,
        Self::TenantResumed,
        Self::InstanceLabelled,
        Self::BudgetSet,
        Self::WebhookCreated,
        Self::WebhookUpdated,
        Self::WebhookSecretRotated,
        Self::WebhookDeleted,
        Self::WebhookTested,
        Self::WebhookRedeliveryAsked,
        Self::WebhookJudged,
        Self::PeriodClosed,
    ];

    /// The number in the log.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The name, in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CellOpened => "cell_opened",
            Self::TenantOpened => "tenant_opened",
            Self::RateCardPublished => "rate_card_published",
            Self::ContractSigned => "contract_signed",
            Self::InstanceRegistered => "instance_registered",
            Self::InstanceStarted => "instance_started",
            Self::InstanceStopped => "instance_stopped",
            Self::UsageAccepted => "usage_accepted",
            Self::UsageQuarantined => "usage_quarantined",
            Self::Ticked => "ticked",
            Self::InvoiceFinalised => "invoice_finalised",
            Self::KeyCreated => "key_created",
            Self::KeyRevoked => "key_revoked",
            Self::ModeChanged => "mode_changed",
            Self::ReservationMade => "reservation_made",
            Self::ReservationAmended => "reservation_amended",
            Self::SpotPriceSet => "spot_price_set",
            Self::UsageVoided => "usage_voided",
            Self::CreditGranted => "credit_granted",
            Self::TaxSet => "tax_set",
            Self::PricesRerated => "prices_rerated",
            Self::PaymentRecorded => "payment_recorded",
            Self::InvoiceVoided => "invoice_voided",
            Self::QuotaGroupCreated => "quota_group_created",
            Self::QuotaProjectPlaced => "quota_project_placed",
            Self::QuotaLimitsSet => "quota_limits_set",
            Self::SpendCapSet => "spend_cap_set",
            Self::HoldTaken => "hold_taken",
            Self::HoldCommitted => "hold_committed",
            Self::HoldReleased => "hold_released",
            Self::HoldRenewed => "hold_renewed",
            Self::HoldResized => "hold_resized",
            Self::LeaseGranted => "lease_granted",
            Self::LeaseRefreshed => "lease_refreshed",
            Self::LeaseReturned => "lease_returned",
            Self::IncreaseRequested => "increase_requested",
            Self::IncreaseDecided => "increase_decided",
            Self::IncreaseRulesSet => "increase_rules_set",
            Self::QuotaReviewed => "quota_reviewed",
            Self::QuotaReconciled => "quota_reconciled",
            Self::PoolSet => "pool_set",
            Self::MarketMarginSet => "market_margin_set",
            Self::BidPlaced => "bid_placed",
            Self::BidUpdated => "bid_updated",
            Self::BidCancelled => "bid_cancelled",
            Self::MarketCleared => "market_cleared",
            Self::UnitsLearnt => "units_learnt",
            Self::NodeSet => "node_set",
            Self::ReservationLent => "reservation_lent",
            Self::ReservationAskedBack => "reservation_asked_back",
            Self::ReservationAssigned => "reservation_assigned",
            Self::CapacityRead => "capacity_read",
            Self::TenantSuspended => "tenant_suspended",
            Self::TenantResumed => "tenant_resumed",
            Self::InstanceLabelled => "instance_labelled",
            Self::BudgetSet => "budget_set",
            Self::WebhookCreated => "webhook_created",
            Self::WebhookUpdated => "webhook_updated",
            Self::WebhookSecretRotated => "webhook_secret_rotated",
            Self::WebhookDeleted => "webhook_deleted",
            Self::WebhookTested => "webhook_tested",
            Self::WebhookRedeliveryAsked => "webhook_redelivery_asked",
            Self::WebhookJudged => "webhook_judged",
            Self::PeriodClosed => "period_closed",
        }
    }
}
