//! Why a command is refused: one flat list, in order of precedence.

use hourglass_pricing::calendar::CalendarError;
use hourglass_pricing::reservation::ReservationError;
use hourglass_pricing::tax::TaxError;
use hourglass_pricing::{CardError, PriceBookError, Sku};
use hourglass_quota::hold::HoldError;
use hourglass_units::{
    Amount, CreditId, Currency, InstanceId, Instant, Interval, Month, Platform, Region, ReservationId,
    TenantId, WebhookId,
};

use super::command::{Position, QUARANTINE_BYTES_MAX, SUSPENSE_INSTANCES_MAX, TEXT_LENGTH_MAX};
use super::credentials::{KEYS_MAX, KeyId};
use super::credits::CREDITS_MAX;
use super::market::MarketRejection;
use super::modes::MODE_CHANGES_MAX;
use super::periods::MissingInvoices;
use super::quotas::QuotaRejection;
use super::webhooks::{WEBHOOKS_A_TENANT_MAX, WEBHOOKS_MAX};

/// Why a command was refused. Nothing was written. Variants stand in order of precedence: where
/// several apply, the first is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The key was used for something else.
    #[error(
        "this idempotency key was used before for another request, at position {position}: choose a new key"
    )]
    IdempotencyKeyReused {
        /// Where the other request stands.
        position: Position,
    },
    /// The cell is not open yet.
    #[error("the cell is not open: open it with its region first")]
    CellNotOpen,
    /// The cell is open already.
    #[error("the cell is open already, for region {region}")]
    CellAlreadyOpen {
        /// For which region.
        region: Region,
    },
    /// A rule of the cell that makes no sense.
    #[error("policy: {0}")]
    PolicyInvalid(&'static str),
    /// A text is too long or has control characters.
    #[error("{what} must have at most {TEXT_LENGTH_MAX} characters and no control characters")]
    TextInvalid {
        /// Which text.
        what: &'static str,
    },
    /// No such tenant.
    #[error("tenant {tenant} is not known: open its account first")]
    TenantUnknown {
        /// Whom.
        tenant: TenantId,
    },
    /// The tenant exists.
    #[error("tenant {tenant} has an account already")]
    TenantExists {
        /// Whom.
        tenant: TenantId,
    },
    /// A card or contract that does not hold together.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A card or contract that does not fit what is in force.
    #[error(transparent)]
    PriceBook(#[from] PriceBookError),
    /// No such instance.
    #[error("instance {instance} is not known: register it first")]
    InstanceUnknown {
        /// Which.
        instance: InstanceId,
    },
    /// The instance exists.
    #[error("instance {instance} is registered already")]
    InstanceExists {
        /// Which.
        instance: InstanceId,
    },
    /// No GPU, or too many.
    #[error("an instance holds 1 to {} GPUs, not {gpus}", super::usage::INSTANCE_GPUS_MAX)]
    GpusOutOfRange {
        /// GPUs given.
        gpus: u32,
    },
    /// A fact of the future.
    #[error(
        "{at} lies further in the future than the clock skew allows ({latest} at most): send facts, not plans"
    )]
    InTheFuture {
        /// When.
        at: Instant,
        /// The latest that is taken.
        latest: Instant,
    },
    /// A fact older than what can still be booked.
    #[error("{at} is older than the acceptance window ({earliest} at the earliest)")]
    TooOld {
        /// When.
        at: Instant,
        /// The earliest that is taken.
        earliest: Instant,
    },
    /// It runs.
    #[error("instance {instance} runs since {since}: stop it first")]
    AlreadyRunning {
        /// Which.
        instance: InstanceId,
        /// Since when.
        since: Instant,
    },
    /// The new run would begin before the last one ended.
    #[error("instance {instance} ran until {until}: a new run cannot start at {at}, before that")]
    StartsBeforeLastStop {
        /// Which.
        instance: InstanceId,
        /// End of the last run.
        until: Instant,
        /// Start asked for.
        at: Instant,
    },
    /// It does not run.
    #[error("instance {instance} is not running")]
    NotRunning {
        /// Which.
        instance: InstanceId,
    },
    /// The stop lies before the start.
    #[error("instance {instance} runs since {since}: it cannot have stopped at {at}")]
    StopsBeforeStart {
        /// Which.
        instance: InstanceId,
        /// Start of the run.
        since: Instant,
        /// Stop asked for.
        at: Instant,
    },
    /// No price for what would run.
    #[error("{sku} has no price in {currency} from {at} on: publish a rate card that has one")]
    Unpriced {
        /// What would run.
        sku: Sku,
        /// The tenant's currency.
        currency: Currency,
        /// From when.
        at: Instant,
    },
    /// Too much usage of instances that nobody registered.
    #[error(
        "usage of {SUSPENSE_INSTANCES_MAX} unknown instances is in suspense already: register them, then send this batch again"
    )]
    SuspenseFull,
    /// The message is too large to be kept.
    #[error(
        "the message has {length} bytes, more than the {QUARANTINE_BYTES_MAX} that are kept: send less at once"
    )]
    MessageTooLarge {
        /// Bytes given.
        length: usize,
    },
    /// The month has not ended, or its grace for late usage has not.
    #[error("{period} can be finalised from {from} on, when the grace for late usage has passed")]
    PeriodOpen {
        /// Which month.
        period: Month,
        /// When it can be.
        from: Instant,
    },
    /// The invoice exists.
    #[error("{period} of {tenant} is finalised already, as invoice {number}")]
    PeriodFinalised {
        /// Whose.
        tenant: TenantId,
        /// Which month.
        period: Month,
        /// Its number.
        number: u64,
    },
    /// An earlier month must come first.
    #[error("{earlier} of {tenant} has charges and is not finalised: finalise it first")]
    EarlierPeriodOpen {
        /// Whose.
        tenant: TenantId,
        /// The month that comes first.
        earlier: Month,
    },
    /// A later month is closed already; its invoice carries what came late.
    #[error("{later} of {tenant} is finalised already: what {period} still has appears on the next invoice")]
    LaterPeriodFinalised {
        /// Whose.
        tenant: TenantId,
        /// What was asked for.
        period: Month,
        /// The month that is closed.
        later: Month,
    },
    /// Closed is closed.
    #[error("{month} is closed already, at position {position}")]
    MonthClosed {
        /// Which.
        month: Month,
        /// Where.
        position: Position,
    },
    /// Months are closed one after the other.
    #[error(
        "{month} cannot be closed now: months are closed in order, {}",
        next.map_or_else(|| "and nothing was booked yet".to_owned(), |next| format!("and the next one is {next}"))
    )]
    MonthOutOfOrder {
        /// Which.
        month: Month,
        /// The one that is to be closed next.
        next: Option<Month>,
    },
    /// It runs, or its grace does.
    #[error("{month} can be closed from {from} on, when the grace for late usage has passed")]
    MonthNotOver {
        /// Which.
        month: Month,
        /// From when.
        from: Instant,
    },
    /// The clock has not ticked since.
    #[error("{month} cannot be closed before the next tick, which posts what is left of it: try again")]
    MonthUnsettled {
        /// Which.
        month: Month,
    },
    /// Not all of it is invoiced.
    #[error("{month} cannot be closed: invoices are missing ({missing}), finalise them first")]
    InvoicesMissing {
        /// Which.
        month: Month,
        /// The invoices.
        missing: MissingInvoices,
    },
    /// A key whose parts do not fit each other.
    #[error("{0}")]
    KeyGrantInvalid(&'static str),
    /// The key's id is taken: draw another.
    #[error("there is a key {id} already: try again")]
    KeyExists {
        /// Which.
        id: KeyId,
    },
    /// Too many keys.
    #[error("the cell has {KEYS_MAX} keys that hold: revoke one that is not needed any more")]
    KeysFull,
    /// No such key.
    #[error("there is no key {id}")]
    KeyUnknown {
        /// Which.
        id: KeyId,
    },
    /// It was taken back before.
    #[error("key {id} was revoked already, at {at}")]
    KeyRevoked {
        /// Which.
        id: KeyId,
        /// When.
        at: Instant,
    },
    /// A billing calendar that cannot be used.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// A reservation that does not hold together.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// The reservation exists.
    #[error("reservation {reservation} exists already")]
    ReservationExists {
        /// Which.
        reservation: ReservationId,
    },
    /// No such reservation of the tenant.
    #[error("{tenant} has no reservation {reservation}")]
    ReservationUnknown {
        /// Whose.
        tenant: TenantId,
        /// Which.
        reservation: ReservationId,
    },
    /// The reservation is for another platform.
    #[error("reservation {reservation} is for {platform}: the instance runs on another platform")]
    ReservationElsewhere {
        /// Which.
        reservation: ReservationId,
        /// For what.
        platform: Platform,
    },
    /// A reservation would change time that has passed.
    #[error(
        "reservation {reservation} cannot change at {at}: what is before {earliest} has passed, give a later time"
    )]
    ReservationInThePast {
        /// Which.
        reservation: ReservationId,
        /// The time asked for.
        at: Instant,
        /// The earliest that is allowed.
        earliest: Instant,
    },
    /// Credit that makes no sense.
    #[error("credit {credit}: {why}")]
    CreditInvalid {
        /// Which.
        credit: CreditId,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The credit exists.
    #[error("{tenant} has a credit {credit} already")]
    CreditExists {
        /// Whose.
        tenant: TenantId,
        /// Which.
        credit: CreditId,
    },
    /// Two credits of one rank would pay for the same usage.
    #[error(
        "credits {credit} and {other} have the same priority and expiry and can pay for the same usage: give them different priorities, so that it is certain which is drawn first"
    )]
    CreditsOverlap {
        /// The new one.
        credit: CreditId,
        /// The one in force.
        other: CreditId,
    },
    /// Credit for a period that is closed.
    #[error("credit {credit} begins at {from}, and usage before {earliest} is invoiced already")]
    CreditInClosedPeriod {
        /// Which.
        credit: CreditId,
        /// Its start.
        from: Instant,
        /// The earliest start.
        earliest: Instant,
    },
    /// Too many.
    #[error("{tenant} has {CREDITS_MAX} credits that hold: let some expire")]
    CreditsFull {
        /// Whose.
        tenant: TenantId,
    },
    /// Tax that makes no sense.
    #[error(transparent)]
    Tax(#[from] TaxError),
    /// A contract that would change the calendar of a tenant that has usage.
    #[error(
        "{tenant} has instances already: a billing calendar can only be agreed before the first one is registered"
    )]
    CalendarFixed {
        /// Whose.
        tenant: TenantId,
    },
    /// No such invoice.
    #[error("{tenant} has no invoice {number}")]
    InvoiceUnknown {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
    },
    /// The invoice was taken back.
    #[error("invoice {number} of {tenant} was voided")]
    InvoiceVoid {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
    },
    /// The invoice has been paid for.
    #[error("invoice {number} of {tenant} has payments of {paid}: what is paid cannot be voided, credit it")]
    InvoicePaid {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
        /// How much.
        paid: Amount,
    },
    /// A payment of nothing, of fractions of a minor unit, or of more than is open.
    #[error(
        "a payment of {amount} does not fit invoice {number} of {tenant}, of which {open} is open: pay whole minor units, at most what is open, and grant the rest as prepaid credit"
    )]
    PaymentDoesNotFit {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
        /// How much was paid.
        amount: Amount,
        /// How much is open.
        open: Amount,
    },
    /// Closed periods were not charged too much.
    #[error("{tenant} was not charged too much for a closed period: there is nothing to credit")]
    NothingToCredit {
        /// Whose.
        tenant: TenantId,
    },
    /// Nothing of the interval was billed.
    #[error("nothing of {instance} is billed over {interval}: there is no usage to void")]
    NothingToVoid {
        /// Which.
        instance: InstanceId,
        /// Where.
        interval: Interval,
    },
    /// The end is not after the start.
    #[error("the end {until} is not after the start {from}")]
    IntervalReversed {
        /// Start.
        from: Instant,
        /// End.
        until: Instant,
    },
    /// The instance is sold like this already.
    #[error(
        "instance {instance} cannot change its mode at {at}: its last change was at {last}, changes come in order of time"
    )]
    ModeChangeOutOfOrder {
        /// Which.
        instance: InstanceId,
        /// When.
        at: Instant,
        /// The change before.
        last: Instant,
    },
    /// Too many changes of one instance.
    #[error("instance {instance} changed its mode {MODE_CHANGES_MAX} times: register a new one")]
    ModeChangesFull {
        /// Which.
        instance: InstanceId,
    },
    /// Re-rating would change a period that has an invoice.
    #[error(
        "{period} of {tenant} is finalised: re-rating it needs permission to correct closed periods (into_closed)"
    )]
    RerateIntoClosed {
        /// Whose.
        tenant: TenantId,
        /// Which period.
        period: Month,
    },
    /// A plan that cannot be priced.
    #[error("the plan cannot be priced: {0}")]
    PlanInvalid(&'static str),
    /// A plan that reaches too far.
    #[error(
        "the plan ends at {until}: an estimate reaches at most {} hours",
        super::estimate::PLAN_HOURS_MAX
    )]
    PlanTooLong {
        /// Its end.
        until: Instant,
    },
    /// An endpoint that makes no sense.
    #[error("{0}")]
    WebhookInvalid(&'static str),
    /// The endpoint exists.
    #[error("there is a webhook {webhook} already")]
    WebhookExists {
        /// Which.
        webhook: WebhookId,
    },
    /// Too many endpoints.
    #[error(
        "an owner has at most {WEBHOOKS_A_TENANT_MAX} webhooks, and a cell {WEBHOOKS_MAX}: delete one, or let one endpoint take more types"
    )]
    WebhooksFull,
    /// No such endpoint.
    #[error("there is no webhook {webhook}")]
    WebhookUnknown {
        /// Which.
        webhook: WebhookId,
    },
    /// It is told nothing.
    #[error("webhook {webhook} is disabled: enable it first")]
    WebhookDisabled {
        /// Which.
        webhook: WebhookId,
    },
    /// Its owner changed it in the meantime.
    #[error("webhook {webhook} was changed meanwhile")]
    WebhookChanged {
        /// Which.
        webhook: WebhookId,
    },
    /// No such message.
    #[error("there is no message {line} of position {position}")]
    MessageUnknown {
        /// Of which event.
        position: u64,
        /// Which of its messages.
        line: u32,
    },
    /// Something about quota.
    #[error(transparent)]
    Quota(#[from] QuotaRejection),
    /// Something about the market.
    #[error(transparent)]
    Market(#[from] MarketRejection),
    /// A sum left the range of the type.
    #[error("the amounts are too large to add up")]
    AmountOverflow,
}

impl From<HoldError> for Rejection {
    fn from(error: HoldError) -> Self {
        Self::Quota(error.into())
    }
}

impl Rejection {
    /// The stable code, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::IdempotencyKeyReused { .. } => "idempotency_key_reused",
            Self::CellNotOpen => "cell_not_open",
            Self::CellAlreadyOpen { .. } => "cell_already_open",
            Self::PolicyInvalid(_) => "policy_invalid",
            Self::TextInvalid { .. } => "text_invalid",
            Self::TenantUnknown { .. } => "tenant_unknown",
            Self::TenantExists { .. } => "tenant_exists",
            Self::Card(_) => "card_invalid",
            Self::PriceBook(_) => "card_refused",
            Self::InstanceUnknown { .. } => "instance_unknown",
            Self::InstanceExists { .. } => "instance_exists",
            Self::GpusOutOfRange { .. } => "gpus_out_of_range",
            Self::InTheFuture { .. } => "in_the_future",
            Self::TooOld { .. } => "too_old",
            Self::AlreadyRunning { .. } => "already_running",
            Self::StartsBeforeLastStop { .. } => "starts_before_last_stop",
            Self::NotRunning { .. } => "not_running",
            Self::StopsBeforeStart { .. } => "stops_before_start",
            Self::Unpriced { .. } => "unpriced",
            Self::SuspenseFull => "suspense_full",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::PeriodOpen { .. } => "period_open",
            Self::PeriodFinalised { .. } => "period_finalised",
            Self::EarlierPeriodOpen { .. } => "earlier_period_open",
            Self::LaterPeriodFinalised { .. } => "later_period_finalised",
            Self::MonthClosed { .. } => "month_closed",
            Self::MonthOutOfOrder { .. } => "month_out_of_order",
            Self::MonthNotOver { .. } => "month_not_over",
            Self::MonthUnsettled { .. } => "month_unsettled",
            Self::InvoicesMissing { .. } => "invoices_missing",
            Self::KeyGrantInvalid(_) => "key_grant_invalid",
            Self::KeyExists { .. } => "key_exists",
            Self::KeysFull => "keys_full",
            Self::KeyUnknown { .. } => "key_unknown",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::Calendar(_) => "calendar_invalid",
            Self::Reservation(_) => "reservation_invalid",
            Self::ReservationExists { .. } => "reservation_exists",
            Self::ReservationUnknown { .. } => "reservation_unknown",
            Self::ReservationElsewhere { .. } => "reservation_elsewhere",
            Self::ReservationInThePast { .. } => "reservation_in_the_past",
            Self::CreditInvalid { .. } => "credit_invalid",
            Self::CreditExists { .. } => "credit_exists",
            Self::CreditsOverlap { .. } => "credits_overlap",
            Self::CreditInClosedPeriod { .. } => "credit_in_closed_period",
            Self::CreditsFull { .. } => "credits_full",
            Self::Tax(_) => "tax_invalid",
            Self::CalendarFixed { .. } => "calendar_fixed",
            Self::InvoiceUnknown { .. } => "invoice_unknown",
            Self::InvoiceVoid { .. } => "invoice_void",
            Self::InvoicePaid { .. } => "invoice_paid",
            Self::PaymentDoesNotFit { .. } => "payment_does_not_fit",
            Self::NothingToCredit { .. } => "nothing_to_credit",
            Self::NothingToVoid { .. } => "nothing_to_void",
            Self::IntervalReversed { .. } => "interval_reversed",
            Self::ModeChangeOutOfOrder { .. } => "mode_change_out_of_order",
            Self::ModeChangesFull { .. } => "mode_changes_full",
            Self::RerateIntoClosed { .. } => "rerate_into_closed",
            Self::PlanInvalid(_) => "plan_invalid",
            Self::PlanTooLong { .. } => "plan_too_long",
            Self::WebhookInvalid(_) => "webhook_invalid",
            Self::WebhookExists { .. } => "webhook_exists",
            Self::WebhooksFull => "webhooks_full",
            Self::WebhookUnknown { .. } => "webhook_unknown",
            Self::WebhookDisabled { .. } => "webhook_disabled",
            Self::WebhookChanged { .. } => "webhook_changed",
            Self::MessageUnknown { .. } => "message_unknown",
            Self::Quota(rejection) => rejection.code(),
            Self::Market(rejection) => rejection.code(),
            Self::AmountOverflow => "amount_overflow",
        }
    }

    /// Whether the same request can succeed later without a change.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Quota(rejection) => rejection.is_retryable(),
            Self::SuspenseFull
            | Self::PeriodOpen { .. }
            | Self::MonthNotOver { .. }
            | Self::MonthUnsettled { .. }
            | Self::CellNotOpen
            | Self::KeyExists { .. } => true,
            _ => false,
        }
    }
}
