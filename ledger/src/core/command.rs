//! What can be asked of the core, and what it answers.

use std::fmt;

use hourglass_pricing::{CardError, ContractDraft, PriceBookError, PurchaseModel, RateCardDraft, Sku};
use hourglass_units::{AgentId, Currency, InstanceId, Instant, Month, Platform, ProjectId, Region, TenantId};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::credentials::{KEYS_MAX, KeyGrant, KeyId};
use super::event::Policy;
use super::usage::{ContractBreach, UsageBatch};

/// Most characters of a tenant's display name or of a cause of a stop.
pub const TEXT_LENGTH_MAX: usize = 256;
/// Most instances unknown to the cell whose usage it keeps in suspense.
pub const SUSPENSE_INSTANCES_MAX: usize = 100_000;
/// Most bytes kept of a message that could not be read.
pub const QUARANTINE_BYTES_MAX: usize = super::usage::BATCH_BYTES_MAX;

/// Something to do. All that a decision needs stands in it: no clock, no ids drawn later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Opens the cell: the first command of every log.
    OpenCell {
        /// The region that it serves.
        region: Region,
        /// Its rules.
        policy: Policy,
    },
    /// Opens a customer's account.
    OpenTenant {
        /// Whom.
        tenant: TenantId,
        /// In which it is billed.
        currency: Currency,
        /// For people.
        display_name: String,
    },
    /// Puts a rate card in force, whole or not at all.
    PublishRateCard(RateCardDraft),
    /// Puts a tenant's own prices in force, whole or not at all.
    SignContract {
        /// Whose.
        tenant: TenantId,
        /// What was agreed.
        contract: ContractDraft,
    },
    /// Makes an instance known, so that its usage can be attributed.
    RegisterInstance(Registration),
    /// The instance runs from `at` on.
    StartInstance {
        /// Which.
        instance: InstanceId,
        /// Since when.
        at: Instant,
    },
    /// The instance runs no longer.
    StopInstance {
        /// Which.
        instance: InstanceId,
        /// The first millisecond in which it did not run.
        at: Instant,
        /// Why, for the record.
        cause: String,
    },
    /// Takes a batch of usage reports.
    AcceptUsage(UsageBatch),
    /// Keeps bytes that should have been usage.
    QuarantineUsage {
        /// A stable code.
        reason: String,
        /// What the sender said that it was.
        content_type: String,
        /// As they came.
        original: Bytes,
    },
    /// Time passed: accrue what was used, close hours.
    Tick,
    /// Closes a tenant's month and numbers its invoice.
    FinaliseInvoice {
        /// Whose.
        tenant: TenantId,
        /// Which month.
        period: Month,
    },
    /// Lets whoever knows a key come in.
    CreateKey(KeyGrant),
    /// Takes a key back, at once and for good.
    RevokeKey {
        /// Which.
        id: KeyId,
    },
}

/// What is said of an instance when it is made known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Which.
    pub instance: InstanceId,
    /// Who pays.
    pub tenant: TenantId,
    /// For which project.
    pub project: ProjectId,
    /// On which platform.
    pub platform: Platform,
    /// How it is sold.
    pub model: PurchaseModel,
    /// GPUs that it holds.
    pub gpus: u32,
    /// The only agent whose reports count; any agent's do where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
}

/// Names a request, so that repeating it cannot do it twice.
///
/// Holds 16 bytes of the BLAKE3 of the caller's scope and its own key: the key itself is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey([u8; 16]);

/// Longest idempotency key that a caller can give.
pub const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;

impl IdempotencyKey {
    /// From who asks and the key that it chose; two callers can choose the same key.
    pub fn new(scope: &str, key: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 idempotency key");
        hasher.update(&(scope.len() as u64).to_le_bytes());
        hasher.update(scope.as_bytes());
        hasher.update(key.as_bytes());
        Self(first_16(&hasher.finalize()))
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({:032x})", u128::from_be_bytes(self.0))
    }
}

pub(crate) fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let mut first = [0; 16];
    first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    first
}

/// A place in the log: 1 for the first event. 0 is the empty log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The place with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The place after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// What became of a command that was not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was done now.
    Applied(Answer),
    /// It had been done before, under the same idempotency key; this is the first answer.
    AlreadyApplied(Answer),
}

impl Outcome {
    /// The answer, whenever it was given.
    pub fn answer(&self) -> &Answer {
        match self {
            Self::Applied(answer) | Self::AlreadyApplied(answer) => answer,
        }
    }
}

/// What a command answers, now and whenever it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Where in the log its event stands.
    pub position: Position,
    /// What else there is to say.
    pub detail: Detail,
}

/// What an answer holds beside the position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing.
    Done,
    /// A batch of usage was taken.
    Usage {
        /// Records in the batch.
        records: u32,
        /// Records that broke the contract: place in the batch and stable code.
        quarantined: Vec<(u32, String)>,
        /// Every record of the agent's epoch below this sequence number is in the log.
        next_seq: u64,
    },
    /// An invoice was numbered.
    Invoice {
        /// Its number, gapless per tenant.
        number: u64,
    },
    /// A key was created.
    Key {
        /// Its id: in a repeat, that of the first one.
        id: KeyId,
    },
}

impl Detail {
    pub(crate) fn breaches(quarantined: &[(u32, ContractBreach)]) -> Vec<(u32, String)> {
        quarantined.iter().map(|(index, breach)| (*index, breach.code().to_owned())).collect()
    }
}

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
    /// A sum left the range of the type.
    #[error("the amounts are too large to add up")]
    AmountOverflow,
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
            Self::KeyGrantInvalid(_) => "key_grant_invalid",
            Self::KeyExists { .. } => "key_exists",
            Self::KeysFull => "keys_full",
            Self::KeyUnknown { .. } => "key_unknown",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::AmountOverflow => "amount_overflow",
        }
    }

    /// Whether the same request can succeed later without a change.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::SuspenseFull | Self::PeriodOpen { .. } | Self::CellNotOpen | Self::KeyExists { .. }
        )
    }
}
