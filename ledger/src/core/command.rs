//! What can be asked of the core, and what it answers.

use std::fmt;

use hourglass_pricing::reservation::ReservationDraft;
use hourglass_pricing::tax::Tax;
use hourglass_pricing::{ContractDraft, PurchaseModel, RateCardDraft};
use hourglass_quota::hold::HoldState;
use hourglass_quota::request::RequestStatus;
use hourglass_quota::{HoldId, LeaseId, RequestId};
use hourglass_units::{
    AgentId, Amount, BidId, Currency, Fabric, InstanceId, Instant, Labels, Month, Platform, Price, ProjectId,
    Region, ReservationId, TenantId,
};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::credentials::{KeyGrant, KeyId};
use super::credits::CreditDraft;
use super::event::Policy;
use super::market::MarketCommand;
use super::quotas::QuotaCommand;
use super::usage::{ContractBreach, UsageBatch};
use super::webhooks::WebhookCommand;

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
    /// Gives an instance labels, in place of those that it has.
    LabelInstance {
        /// Which.
        instance: InstanceId,
        /// All of its labels from now on.
        labels: Labels,
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
    /// Closes a tenant's billing period and numbers its invoice.
    FinaliseInvoice {
        /// Whose.
        tenant: TenantId,
        /// Which period.
        period: Month,
    },
    /// Sets what a spot GPU-hour of the cell's region costs from an instant on.
    SetSpotPrice {
        /// On which platform.
        platform: Platform,
        /// In which currency.
        currency: Currency,
        /// Per GPU-hour.
        price: Price,
        /// In which fabric; where absent, in the pool that is all of the platform.
        fabric: Option<Fabric>,
        /// From when; from now on where absent.
        from: Option<Instant>,
    },
    /// From `at` on the instance is sold differently.
    ChangeMode {
        /// Which.
        instance: InstanceId,
        /// How it is sold from then on.
        mode: Mode,
        /// Since when.
        at: Instant,
    },
    /// Sells GPUs for a time.
    Reserve {
        /// To whom.
        tenant: TenantId,
        /// What.
        reservation: ReservationDraft,
    },
    /// Gives a reservation another end.
    AmendReservation {
        /// Whose.
        tenant: TenantId,
        /// Which.
        reservation: ReservationId,
        /// The new end, a full UTC hour that has not come yet.
        until: Instant,
    },
    /// Gives a tenant credit.
    GrantCredit {
        /// Whom.
        tenant: TenantId,
        /// What.
        credit: CreditDraft,
    },
    /// Taxes a tenant's invoices from now on, or no longer.
    SetTax {
        /// Whose.
        tenant: TenantId,
        /// How; not at all where absent.
        tax: Option<Tax>,
    },
    /// A tenant paid for an invoice, in part or in full.
    RecordPayment {
        /// Who.
        tenant: TenantId,
        /// Which invoice.
        number: u64,
        /// How much, in whole minor units.
        amount: Amount,
        /// As it stands on the bank's statement, for the record.
        reference: String,
    },
    /// Takes a finalised invoice back that nobody has paid for; what it charged is open again.
    VoidInvoice {
        /// Whose.
        tenant: TenantId,
        /// Which.
        number: u64,
        /// Why, for the record.
        reason: String,
    },
    /// Gives back at once what closed periods were charged too much, instead of on the next invoice.
    IssueCreditNote {
        /// To whom.
        tenant: TenantId,
    },
    /// Excludes what was reported of an instance: the agent was wrong.
    VoidUsage {
        /// Of which instance.
        instance: InstanceId,
        /// From when.
        from: Instant,
        /// Until when.
        until: Instant,
        /// Why, for the record.
        reason: String,
    },
    /// Changes prices of the past, and posts the corrections.
    Rerate(RerateDraft),
    /// Closes a month of the book for good.
    ClosePeriod {
        /// Which.
        month: Month,
    },
    /// Lets whoever knows a key come in.
    CreateKey(KeyGrant),
    /// Takes a key back, at once and for good.
    RevokeKey {
        /// Which.
        id: KeyId,
    },
    /// Something about quota.
    Quota(Box<QuotaCommand>),
    /// Something about the market.
    Market(Box<MarketCommand>),
    /// Something about who is told by webhook.
    Webhook(Box<WebhookCommand>),
}

impl From<WebhookCommand> for Command {
    fn from(command: WebhookCommand) -> Self {
        Self::Webhook(Box::new(command))
    }
}

impl From<MarketCommand> for Command {
    fn from(command: MarketCommand) -> Self {
        Self::Market(Box::new(command))
    }
}

impl From<QuotaCommand> for Command {
    fn from(command: QuotaCommand) -> Self {
        Self::Quota(Box::new(command))
    }
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
    /// How it is sold when it is made known.
    #[serde(flatten)]
    pub mode: Mode,
    /// GPUs that it holds.
    pub gpus: u32,
    /// The only agent whose reports count; any agent's do where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The hold that was made for it; quota is taken at once where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// In which fabric it runs, on demand or inside a reservation: it is counted in that pool. Where absent it
    /// is its reservation's, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
}

/// How an instance is sold. At any instant it is sold in exactly one way (P-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// At the list or contract price.
    OnDemand,
    /// Out of a reservation; on demand where that has no room for the whole instance.
    Reserved {
        /// Out of which.
        reservation: ReservationId,
    },
    /// At the pool's price.
    Spot {
        /// By which bid.
        bid: Option<BidId>,
        /// Never above this price.
        limit: Option<Price>,
        /// In the pool of which fabric; in that of the whole platform where absent.
        fabric: Option<Fabric>,
    },
}

impl Mode {
    /// At the price of the platform's one pool, whatever it is.
    pub const SPOT: Self = Self::Spot { bid: None, limit: None, fabric: None };

    /// The purchase model that it is a case of.
    pub const fn model(&self) -> PurchaseModel {
        match self {
            Self::OnDemand => PurchaseModel::OnDemand,
            Self::Reserved { .. } => PurchaseModel::Reserved,
            Self::Spot { .. } => PurchaseModel::Spot,
        }
    }
}

/// A change of past prices, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerateDraft {
    /// The prices that should have held; its own start does not matter.
    pub card: RateCardDraft,
    /// From when they replace others.
    pub from: Instant,
    /// Until when.
    pub until: Instant,
    /// For this tenant alone, in place of what it pays; of the list where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Whether periods that have an invoice may change too: their corrections stand on the next one.
    #[serde(default)]
    pub into_closed: bool,
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
    /// An instance is known.
    Instance {
        /// Whether it has to wait until spot has made way.
        waits: bool,
    },
    /// What became of a hold.
    Hold {
        /// Which.
        hold: HoldId,
        /// Where it stands.
        state: HoldState,
        /// When it expires, unless it is committed; when it ended, where it has.
        expires_at: Instant,
    },
    /// A lease was granted or refreshed.
    Lease {
        /// Which.
        lease: LeaseId,
        /// Counts its refreshes.
        version: u64,
        /// What its holder may use.
        capacity: u64,
        /// Until when.
        expires_at: Instant,
    },
    /// Quota was requested.
    QuotaRequest {
        /// Which request.
        request: RequestId,
        /// What became of it at once.
        status: RequestStatus,
    },
    /// A bid is in the book, or was changed.
    Bid {
        /// Its number.
        number: u64,
    },
    /// The market was cleared. Its receipt is the event.
    Cleared {
        /// Units that are to start.
        starts: u32,
        /// Units that have to stop.
        stops: u32,
    },
}

impl Detail {
    pub(crate) fn breaches(quarantined: &[(u32, ContractBreach)]) -> Vec<(u32, String)> {
        quarantined.iter().map(|(index, breach)| (*index, breach.code().to_owned())).collect()
    }
}
