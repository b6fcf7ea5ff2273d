//! What happened. Events are the only thing that is ever written; all else follows from them.
//!
//! Each event is one protobuf message in the log (`proto/hourglass/ledger/v1/event.proto`). Reading
//! one back runs the same checks that made it, so a changed byte cannot pass for an event.

use hourglass_pricing::{Contract, ContractDraft, PriceDraft, PriceTimeline, RateCard, RateCardDraft, Sku};
use hourglass_proto::ledger::v1 as wire;
use hourglass_units::{Currency, INSTANT_MAX, InstanceId, Instant, Price, Region, TenantId};
use prost::Message;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{IdempotencyKey, Registration};
use super::credentials::{KeyGrant, KeyHash, KeyId};
use super::invoicing::Invoice;
use super::usage::{BATCH_BYTES_MAX, UsageBatch};

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
    ContractSigned(Contract),
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
    /// A batch of usage was taken.
    UsageAccepted(UsageBatch),
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
    /// A month is closed and its invoice numbered.
    InvoiceFinalised(Box<Invoice>),
    /// Whoever knows a key may come in.
    KeyCreated(Box<KeyGrant>),
    /// A key holds no longer.
    KeyRevoked {
        /// Which.
        id: KeyId,
    },
}

/// Bytes in the log that are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an event: {0}")]
pub struct EventError(String);

impl EventError {
    fn new(error: impl std::fmt::Display) -> Self {
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
            Self::ContractSigned(_) => EventKind::ContractSigned,
            Self::InstanceRegistered(_) => EventKind::InstanceRegistered,
            Self::InstanceStarted { .. } => EventKind::InstanceStarted,
            Self::InstanceStopped { .. } => EventKind::InstanceStopped,
            Self::UsageAccepted(_) => EventKind::UsageAccepted,
            Self::UsageQuarantined { .. } => EventKind::UsageQuarantined,
            Self::Ticked => EventKind::Ticked,
            Self::InvoiceFinalised(_) => EventKind::InvoiceFinalised,
            Self::KeyCreated(_) => EventKind::KeyCreated,
            Self::KeyRevoked { .. } => EventKind::KeyRevoked,
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
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
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
        }
    }
}

impl Recorded {
    /// The bytes that go into the log.
    pub fn encode(&self) -> Vec<u8> {
        let (idempotency_key, request_digest) = match &self.key {
            Some((key, digest)) => (key.bytes().to_vec(), digest.to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        wire::Event { idempotency_key, request_digest, kind: Some(to_wire(&self.event)) }.encode_to_vec()
    }

    /// Reads bytes from the log, with every check that the event passed when it was made.
    pub fn decode(payload: &[u8]) -> Result<Self, EventError> {
        let message = wire::Event::decode(payload).map_err(EventError::new)?;
        let sixteen = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(EventError::new);
        let key = match (message.idempotency_key.is_empty(), message.request_digest.is_empty()) {
            (true, true) => None,
            _ => Some((
                IdempotencyKey::from_bytes(sixteen(&message.idempotency_key)?),
                sixteen(&message.request_digest)?,
            )),
        };
        let kind = message.kind.ok_or_else(|| EventError::new("no kind"))?;
        Ok(Self { key, event: from_wire(kind)? })
    }
}

fn to_wire(event: &Event) -> wire::event::Kind {
    use wire::event::Kind;
    match event {
        Event::CellOpened { region, policy } => Kind::CellOpened(wire::CellOpened {
            region: region.to_string(),
            clock_skew_max_ms: policy.clock_skew_max_ms,
            acceptance_window_ms: policy.acceptance_window_ms,
            grace_ms: policy.grace_ms,
        }),
        Event::TenantOpened { tenant, currency, display_name } => Kind::TenantOpened(wire::TenantOpened {
            tenant: tenant.to_string(),
            currency: currency.to_string(),
            display_name: display_name.clone(),
        }),
        Event::RateCardPublished(card) => Kind::RateCardPublished(wire::RateCardPublished {
            name: card.id().name.to_string(),
            version: card.id().version,
            currency: card.currency().to_string(),
            effective_from_ms: card.effective_from().unix_ms(),
            prices: prices_to_wire(card.prices()),
        }),
        Event::ContractSigned(contract) => Kind::ContractSigned(wire::ContractSigned {
            tenant: contract.tenant().to_string(),
            name: contract.id().name.to_string(),
            version: contract.id().version,
            effective_from_ms: contract.effective().start().unix_ms(),
            effective_until_ms: until_to_wire(contract.effective().end()),
            prices: prices_to_wire(contract.prices()),
        }),
        Event::InstanceRegistered(it) => Kind::InstanceRegistered(wire::InstanceRegistered {
            instance: it.instance.to_string(),
            tenant: it.tenant.to_string(),
            project: it.project.to_string(),
            platform: it.platform.to_string(),
            model: it.model.to_string(),
            gpus: it.gpus,
            agent: it.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        Event::InstanceStarted { instance, at } => Kind::InstanceStarted(wire::InstanceStarted {
            instance: instance.to_string(),
            at_ms: at.unix_ms(),
        }),
        Event::InstanceStopped { instance, at, cause } => Kind::InstanceStopped(wire::InstanceStopped {
            instance: instance.to_string(),
            at_ms: at.unix_ms(),
            cause: cause.clone(),
        }),
        Event::UsageAccepted(batch) => {
            Kind::UsageAccepted(wire::UsageAccepted { batch_lz4: batch.compressed().clone() })
        }
        Event::UsageQuarantined { reason, content_type, original } => {
            Kind::UsageQuarantined(wire::UsageQuarantined {
                reason: reason.clone(),
                content_type: content_type.clone(),
                original_lz4: lz4_flex::compress_prepend_size(original).into(),
            })
        }
        Event::Ticked => Kind::Ticked(wire::Ticked {}),
        Event::InvoiceFinalised(invoice) => {
            Kind::InvoiceFinalised(wire::InvoiceFinalised { document: invoice.to_document().into() })
        }
        Event::KeyCreated(grant) => Kind::KeyCreated(wire::KeyCreated {
            id: grant.id.to_string(),
            hash: grant.hash.bytes().to_vec(),
            name: grant.name.clone(),
            role: grant.role.to_string(),
            tenant: grant.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            agent: grant.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
            scopes: grant.scopes.iter().map(ToString::to_string).collect(),
            expires_at_ms: grant.expires_at.map(Instant::unix_ms),
        }),
        Event::KeyRevoked { id } => Kind::KeyRevoked(wire::KeyRevoked { id: id.to_string() }),
    }
}

fn from_wire(kind: wire::event::Kind) -> Result<Event, EventError> {
    use wire::event::Kind;
    Ok(match kind {
        Kind::CellOpened(it) => Event::CellOpened {
            region: id(&it.region)?,
            policy: Policy {
                clock_skew_max_ms: it.clock_skew_max_ms,
                acceptance_window_ms: it.acceptance_window_ms,
                grace_ms: it.grace_ms,
            },
        },
        Kind::TenantOpened(it) => Event::TenantOpened {
            tenant: id(&it.tenant)?,
            currency: id(&it.currency)?,
            display_name: it.display_name,
        },
        Kind::RateCardPublished(it) => {
            let draft = RateCardDraft {
                name: id(&it.name)?,
                version: it.version,
                currency: id(&it.currency)?,
                effective_from: instant(it.effective_from_ms)?,
                prices: prices_from_wire(it.prices)?,
            };
            Event::RateCardPublished(RateCard::check(draft).map_err(EventError::new)?)
        }
        Kind::ContractSigned(it) => {
            let draft = ContractDraft {
                name: id(&it.name)?,
                version: it.version,
                effective_from: instant(it.effective_from_ms)?,
                effective_until: it.effective_until_ms.map(instant).transpose()?,
                prices: prices_from_wire(it.prices)?,
            };
            Event::ContractSigned(Contract::check(id(&it.tenant)?, draft).map_err(EventError::new)?)
        }
        Kind::InstanceRegistered(it) => Event::InstanceRegistered(Registration {
            instance: id(&it.instance)?,
            tenant: id(&it.tenant)?,
            project: id(&it.project)?,
            platform: id(&it.platform)?,
            model: id(&it.model)?,
            gpus: it.gpus,
            agent: if it.agent.is_empty() { None } else { Some(id(&it.agent)?) },
        }),
        Kind::InstanceStarted(it) => {
            Event::InstanceStarted { instance: id(&it.instance)?, at: instant(it.at_ms)? }
        }
        Kind::InstanceStopped(it) => {
            Event::InstanceStopped { instance: id(&it.instance)?, at: instant(it.at_ms)?, cause: it.cause }
        }
        Kind::UsageAccepted(it) => {
            Event::UsageAccepted(UsageBatch::parse(decompress(&it.batch_lz4)?).map_err(EventError::new)?)
        }
        Kind::UsageQuarantined(it) => Event::UsageQuarantined {
            reason: it.reason,
            content_type: it.content_type,
            original: decompress(&it.original_lz4)?,
        },
        Kind::Ticked(wire::Ticked {}) => Event::Ticked,
        Kind::InvoiceFinalised(it) => {
            Event::InvoiceFinalised(Box::new(Invoice::from_document(&it.document).map_err(EventError::new)?))
        }
        Kind::KeyCreated(it) => Event::KeyCreated(Box::new(KeyGrant {
            id: id(&it.id)?,
            hash: KeyHash::from_bytes(it.hash.as_slice().try_into().map_err(EventError::new)?),
            name: it.name,
            role: id(&it.role)?,
            tenant: if it.tenant.is_empty() { None } else { Some(id(&it.tenant)?) },
            agent: if it.agent.is_empty() { None } else { Some(id(&it.agent)?) },
            scopes: it.scopes.iter().map(|scope| id(scope)).collect::<Result<_, _>>()?,
            expires_at: it.expires_at_ms.map(instant).transpose()?,
        })),
        Kind::KeyRevoked(it) => Event::KeyRevoked { id: id(&it.id)? },
    })
}

fn prices_to_wire(prices: &std::collections::BTreeMap<Sku, PriceTimeline>) -> Vec<wire::CardPrice> {
    let steps =
        prices.iter().flat_map(|(sku, timeline)| timeline.steps().iter().map(move |step| (sku, step)));
    steps
        .map(|(sku, step)| wire::CardPrice {
            platform: sku.platform.to_string(),
            region: sku.region.to_string(),
            model: sku.model.to_string(),
            price_nanos: step.price.nanos(),
            from_ms: step.interval.start().unix_ms(),
            until_ms: until_to_wire(step.interval.end()),
        })
        .collect()
}

fn prices_from_wire(prices: Vec<wire::CardPrice>) -> Result<Vec<PriceDraft>, EventError> {
    let draft = |it: wire::CardPrice| {
        Ok(PriceDraft {
            platform: id(&it.platform)?,
            region: id(&it.region)?,
            model: id(&it.model)?,
            price: Price::from_nanos(it.price_nanos).map_err(EventError::new)?,
            from: Some(instant(it.from_ms)?),
            until: it.until_ms.map(instant).transpose()?,
        })
    };
    prices.into_iter().map(draft).collect()
}

fn until_to_wire(end: Instant) -> Option<i64> {
    (end != INSTANT_MAX).then_some(end.unix_ms())
}

fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, EventError> {
    text.parse().map_err(EventError::new)
}

fn instant(ms: i64) -> Result<Instant, EventError> {
    Instant::from_unix_ms(ms).map_err(EventError::new)
}

/// Decompresses at most [`BATCH_BYTES_MAX`]: a forged length must not make us allocate.
fn decompress(lz4: &[u8]) -> Result<Bytes, EventError> {
    let (length, block) = lz4_flex::block::uncompressed_size(lz4).map_err(EventError::new)?;
    if length > BATCH_BYTES_MAX {
        return Err(EventError::new("a compressed block that says it is too large"));
    }
    lz4_flex::block::decompress(block, length).map(Bytes::from).map_err(EventError::new)
}
