//! Events as the bytes of the log: `proto/hourglass/ledger/v1/event.proto`.

use hourglass_pricing::calendar::Calendar;
use hourglass_pricing::reservation::Reservation;
use hourglass_pricing::tax::Tax;
use hourglass_pricing::terms::Terms;
use hourglass_pricing::{
    Component, Contract, ContractDraft, PriceDraft, PriceTimeline, PurchaseModel, RateCard, RateCardDraft,
    Rerating, Sku,
};
use hourglass_proto::ledger::v1 as wire;
use hourglass_quota::HoldId;
use hourglass_units::{Amount, INSTANT_MAX, InstanceId, Instant, Interval, Labels, Price, Quantity};
use prost::Message;
use prost::bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::command::{IdempotencyKey, Mode, Registration};
use super::credentials::{KeyGrant, KeyHash};
use super::event::{Event, EventError, Policy, Recorded};
use super::invoice::Invoice;
use super::market::{Cleared, MarketEvent};
use super::periods::PeriodClose;
use super::quotas::{Ask, QuotaEvent};
use super::usage::{BATCH_BYTES_MAX, UsageBatch};

/// Whether the bytes of an event are a batch of usage that mentions an instance: much cheaper than to
/// read it, where most do not. One that mentions it need not report it.
pub fn usage_mentions(payload: &[u8], instance: &InstanceId) -> Result<bool, EventError> {
    let message = wire::Event::decode(payload).map_err(EventError::new)?;
    let Some(wire::event::Kind::UsageAccepted(it)) = message.kind else { return Ok(false) };
    let raw = decompress(&it.batch_lz4)?;
    Ok(memchr::memmem::find(&raw, instance.as_str().as_bytes()).is_some())
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
        Event::RateCardPublished(card) => Kind::RateCardPublished(card_to_wire(card)),
        Event::ContractSigned { contract, calendar } => Kind::ContractSigned(wire::ContractSigned {
            tenant: contract.tenant().to_string(),
            name: contract.id().name.to_string(),
            version: contract.id().version,
            effective_from_ms: contract.effective().start().unix_ms(),
            effective_until_ms: until_to_wire(contract.effective().end()),
            prices: prices_to_wire(contract.prices()),
            terms: if *contract.terms() == Terms::default() { Vec::new() } else { json(contract.terms()) },
            first_period: first_period(calendar.as_ref()),
            period_starts_ms: period_starts(calendar.as_ref()),
        }),
        Event::InstanceRegistered(it) => Kind::InstanceRegistered(wire::InstanceRegistered {
            instance: it.instance.to_string(),
            tenant: it.tenant.to_string(),
            project: it.project.to_string(),
            platform: it.platform.to_string(),
            model: it.mode.model().to_string(),
            gpus: it.gpus,
            agent: it.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
            mode: mode_to_wire(&it.mode),
            hold: it.hold.map_or(0, |hold| hold.0),
            fabric: it.fabric.as_ref().map(ToString::to_string).unwrap_or_default(),
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
        Event::InstanceLabelled { instance, labels } => Kind::InstanceLabelled(wire::InstanceLabelled {
            instance: instance.to_string(),
            labels: labels
                .iter()
                .map(|(key, value)| wire::Label { key: key.to_owned(), value: value.to_owned() })
                .collect(),
        }),
        Event::ModeChanged { instance, mode, at } => Kind::ModeChanged(wire::ModeChanged {
            instance: instance.to_string(),
            mode: json(mode),
            at_ms: at.unix_ms(),
        }),
        Event::ReservationMade { tenant, reservation } => Kind::ReservationMade(wire::ReservationMade {
            tenant: tenant.to_string(),
            draft: json(reservation.draft()),
        }),
        Event::ReservationAmended { reservation, until } => {
            Kind::ReservationAmended(wire::ReservationAmended {
                reservation: reservation.to_string(),
                until_ms: until.unix_ms(),
            })
        }
        Event::SpotPriceSet { platform, currency, price, fabric, from } => {
            Kind::SpotPriceSet(wire::SpotPriceSet {
                platform: platform.to_string(),
                currency: currency.to_string(),
                price_nanos: price.nanos(),
                from_ms: from.unix_ms(),
                fabric: fabric.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        }
        Event::UsageVoided { instance, interval, reason } => Kind::UsageVoided(wire::UsageVoided {
            instance: instance.to_string(),
            from_ms: interval.start().unix_ms(),
            until_ms: interval.end().unix_ms(),
            reason: reason.clone(),
        }),
        Event::CreditGranted { tenant, credit } => {
            Kind::CreditGranted(wire::CreditGranted { tenant: tenant.to_string(), credit: json(credit) })
        }
        Event::TaxSet { tenant, tax } => Kind::TaxSet(wire::TaxSet {
            tenant: tenant.to_string(),
            tax: tax.as_ref().map(json).unwrap_or_default(),
        }),
        Event::PricesRerated(rerating) => Kind::PricesRerated(wire::PricesRerated {
            card: Some(card_to_wire(&rerating.card)),
            from_ms: rerating.interval.start().unix_ms(),
            until_ms: rerating.interval.end().unix_ms(),
            tenant: rerating.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        Event::PaymentRecorded { tenant, number, amount, reference } => {
            Kind::PaymentRecorded(wire::PaymentRecorded {
                tenant: tenant.to_string(),
                number: *number,
                amount: amount.to_string(),
                reference: reference.clone(),
            })
        }
        Event::InvoiceVoided { tenant, number, reason } => Kind::InvoiceVoided(wire::InvoiceVoided {
            tenant: tenant.to_string(),
            number: *number,
            reason: reason.clone(),
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
        Event::PeriodClosed(close) => Kind::PeriodClosed(wire::PeriodClosed {
            month: close.month.to_string(),
            digest: close.digest.to_vec(),
            transfers: close.transfers,
            charges: close.charges,
            unused: close.unused,
        }),
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
        Event::Quota(event) => quota_to_wire(event),
        Event::Webhook(event) => Kind::WebhookChanged(wire::WebhookChanged { change: json(event) }),
        Event::Market(MarketEvent::Cleared(it)) => {
            Kind::MarketCleared(wire::MarketCleared { clearing: cleared_to_wire(it) })
        }
        Event::Market(event) => Kind::MarketChanged(wire::MarketChanged { change: json(event) }),
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
        Kind::RateCardPublished(it) => Event::RateCardPublished(card_from_wire(it)?),
        Kind::ContractSigned(it) => {
            let draft = ContractDraft {
                name: id(&it.name)?,
                version: it.version,
                effective_from: instant(it.effective_from_ms)?,
                effective_until: it.effective_until_ms.map(instant).transpose()?,
                prices: prices_from_wire(it.prices)?,
                terms: if it.terms.is_empty() { Terms::default() } else { from_json(&it.terms)? },
            };
            let contract = Contract::check(id(&it.tenant)?, draft).map_err(EventError::new)?;
            Event::ContractSigned {
                contract: Box::new(contract),
                calendar: calendar(&it.first_period, &it.period_starts_ms)?,
            }
        }
        Kind::InstanceRegistered(it) => Event::InstanceRegistered(Registration {
            instance: id(&it.instance)?,
            tenant: id(&it.tenant)?,
            project: id(&it.project)?,
            platform: id(&it.platform)?,
            mode: mode_from_wire(&it.model, &it.mode)?,
            hold: (it.hold > 0).then_some(HoldId(it.hold)),
            gpus: it.gpus,
            agent: if it.agent.is_empty() { None } else { Some(id(&it.agent)?) },
            fabric: if it.fabric.is_empty() { None } else { Some(id(&it.fabric)?) },
        }),
        Kind::InstanceStarted(it) => {
            Event::InstanceStarted { instance: id(&it.instance)?, at: instant(it.at_ms)? }
        }
        Kind::InstanceStopped(it) => {
            Event::InstanceStopped { instance: id(&it.instance)?, at: instant(it.at_ms)?, cause: it.cause }
        }
        Kind::InstanceLabelled(it) => Event::InstanceLabelled {
            instance: id(&it.instance)?,
            labels: Labels::new(it.labels.iter().map(|it| (&it.key, &it.value))).map_err(EventError::new)?,
        },
        Kind::UsageAccepted(it) => {
            Event::UsageAccepted(UsageBatch::parse(decompress(&it.batch_lz4)?).map_err(EventError::new)?)
        }
        Kind::UsageQuarantined(it) => Event::UsageQuarantined {
            reason: it.reason,
            content_type: it.content_type,
            original: decompress(&it.original_lz4)?,
        },
        Kind::ModeChanged(it) => Event::ModeChanged {
            instance: id(&it.instance)?,
            mode: from_json(&it.mode)?,
            at: instant(it.at_ms)?,
        },
        Kind::ReservationMade(it) => {
            let reservation = Reservation::check(from_json(&it.draft)?).map_err(EventError::new)?;
            Event::ReservationMade { tenant: id(&it.tenant)?, reservation: Box::new(reservation) }
        }
        Kind::ReservationAmended(it) => {
            Event::ReservationAmended { reservation: id(&it.reservation)?, until: instant(it.until_ms)? }
        }
        Kind::SpotPriceSet(it) => Event::SpotPriceSet {
            platform: id(&it.platform)?,
            currency: id(&it.currency)?,
            price: Price::from_nanos(it.price_nanos).map_err(EventError::new)?,
            fabric: if it.fabric.is_empty() { None } else { Some(id(&it.fabric)?) },
            from: instant(it.from_ms)?,
        },
        Kind::UsageVoided(it) => Event::UsageVoided {
            instance: id(&it.instance)?,
            interval: interval(it.from_ms, it.until_ms)?,
            reason: it.reason,
        },
        Kind::CreditGranted(it) => {
            Event::CreditGranted { tenant: id(&it.tenant)?, credit: Box::new(from_json(&it.credit)?) }
        }
        Kind::TaxSet(it) => {
            let tax = if it.tax.is_empty() { None } else { Some(from_json::<Tax>(&it.tax)?) };
            if let Some(tax) = &tax {
                tax.check().map_err(EventError::new)?;
            }
            Event::TaxSet { tenant: id(&it.tenant)?, tax }
        }
        Kind::PricesRerated(it) => Event::PricesRerated(Box::new(Rerating {
            card: card_from_wire(it.card.ok_or_else(|| EventError::new("no card"))?)?,
            interval: interval(it.from_ms, it.until_ms)?,
            tenant: if it.tenant.is_empty() { None } else { Some(id(&it.tenant)?) },
        })),
        Kind::PaymentRecorded(it) => Event::PaymentRecorded {
            tenant: id(&it.tenant)?,
            number: it.number,
            amount: Amount::parse(&it.amount).map_err(EventError::new)?,
            reference: it.reference,
        },
        Kind::InvoiceVoided(it) => {
            Event::InvoiceVoided { tenant: id(&it.tenant)?, number: it.number, reason: it.reason }
        }
        Kind::Ticked(wire::Ticked {}) => Event::Ticked,
        Kind::InvoiceFinalised(it) => {
            Event::InvoiceFinalised(Box::new(Invoice::from_document(&it.document).map_err(EventError::new)?))
        }
        Kind::PeriodClosed(it) => Event::PeriodClosed(PeriodClose {
            month: id(&it.month)?,
            digest: it.digest.as_slice().try_into().map_err(EventError::new)?,
            transfers: it.transfers,
            charges: it.charges,
            unused: it.unused,
        }),
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
        Kind::HoldTaken(it) => Event::Quota(QuotaEvent::HoldTaken {
            tenant: id(&it.tenant)?,
            project: id(&it.project)?,
            items: asks_from_wire(it.items)?,
            expires_at: instant(it.expires_at_ms)?,
            pending: it.pending,
            burn: if it.burn.is_empty() {
                Amount::ZERO
            } else {
                Amount::parse(&it.burn).map_err(EventError::new)?
            },
        }),
        Kind::HoldCommitted(it) => Event::Quota(QuotaEvent::HoldCommitted { hold: HoldId(it.hold) }),
        Kind::HoldReleased(it) => Event::Quota(QuotaEvent::HoldReleased { hold: HoldId(it.hold) }),
        Kind::QuotaChanged(it) => Event::Quota(from_json(&it.change)?),
        Kind::MarketChanged(it) => Event::Market(from_json(&it.change)?),
        Kind::MarketCleared(it) => {
            Event::Market(MarketEvent::Cleared(Box::new(cleared_from_wire(&it.clearing)?)))
        }
        Kind::WebhookChanged(it) => Event::Webhook(Box::new(from_json(&it.change)?)),
        Kind::KeyRevoked(it) => Event::KeyRevoked { id: id(&it.id)? },
    })
}

/// What happens often has fields of its own; all else is rare.
fn quota_to_wire(event: &QuotaEvent) -> wire::event::Kind {
    use wire::event::Kind;
    match event {
        QuotaEvent::HoldTaken { tenant, project, items, expires_at, pending, burn } => {
            let item = |item: &Ask| wire::HoldItem {
                resource: item.resource.to_string(),
                class: item.class.as_str().to_owned(),
                amount: item.amount,
            };
            Kind::HoldTaken(wire::HoldTaken {
                tenant: tenant.to_string(),
                project: project.to_string(),
                items: items.iter().map(item).collect(),
                expires_at_ms: expires_at.unix_ms(),
                pending: *pending,
                burn: if burn.is_zero() { String::new() } else { burn.to_string() },
            })
        }
        QuotaEvent::HoldCommitted { hold } => Kind::HoldCommitted(wire::HoldCommitted { hold: hold.0 }),
        QuotaEvent::HoldReleased { hold } => Kind::HoldReleased(wire::HoldReleased { hold: hold.0 }),
        event => Kind::QuotaChanged(wire::QuotaChanged { change: json(event) }),
    }
}

/// A whole book with its outcome: by place, since it is the largest thing beside usage.
fn cleared_to_wire(it: &Cleared) -> Vec<u8> {
    // Numbers, names and lists: there is nothing in it that the encoding lacks.
    postcard::to_stdvec(it).unwrap_or_default()
}

fn cleared_from_wire(bytes: &[u8]) -> Result<Cleared, EventError> {
    let it: Cleared = postcard::from_bytes(bytes).map_err(EventError::new)?;
    if cleared_to_wire(&it) != bytes {
        return Err(EventError::new("it is not in canonical form"));
    }
    Ok(it)
}

fn asks_from_wire(items: Vec<wire::HoldItem>) -> Result<Vec<Ask>, EventError> {
    let ask = |it: wire::HoldItem| {
        Ok(Ask { resource: id(&it.resource)?, class: id(&it.class)?, amount: it.amount })
    };
    items.into_iter().map(ask).collect()
}

fn card_to_wire(card: &RateCard) -> wire::RateCardPublished {
    wire::RateCardPublished {
        name: card.id().name.to_string(),
        version: card.id().version,
        currency: card.currency().to_string(),
        effective_from_ms: card.effective_from().unix_ms(),
        prices: prices_to_wire(card.prices()),
    }
}

fn card_from_wire(it: wire::RateCardPublished) -> Result<RateCard, EventError> {
    let draft = RateCardDraft {
        name: id(&it.name)?,
        version: it.version,
        currency: id(&it.currency)?,
        effective_from: instant(it.effective_from_ms)?,
        prices: prices_from_wire(it.prices)?,
    };
    RateCard::check(draft).map_err(EventError::new)
}

/// What the purchase model does not say: nothing for most instances.
fn mode_to_wire(mode: &Mode) -> Vec<u8> {
    if matches!(mode, Mode::OnDemand) || *mode == Mode::SPOT {
        return Vec::new();
    }
    json(mode)
}

fn mode_from_wire(model: &str, mode: &[u8]) -> Result<Mode, EventError> {
    if !mode.is_empty() {
        return from_json(mode);
    }
    match id::<PurchaseModel>(model)? {
        PurchaseModel::OnDemand => Ok(Mode::OnDemand),
        PurchaseModel::Spot => Ok(Mode::SPOT),
        PurchaseModel::Reserved => Err(EventError::new("a reserved instance without a reservation")),
    }
}

fn first_period(calendar: Option<&Calendar>) -> String {
    calendar.and_then(Calendar::boundaries).map(|(first, _)| first.to_string()).unwrap_or_default()
}

fn period_starts(calendar: Option<&Calendar>) -> Vec<i64> {
    let starts = calendar.and_then(Calendar::boundaries).map(|(_, starts)| starts).unwrap_or_default();
    starts.iter().map(|at| at.unix_ms()).collect()
}

fn calendar(first: &str, starts_ms: &[i64]) -> Result<Option<Calendar>, EventError> {
    if starts_ms.is_empty() {
        return Ok(None);
    }
    let starts = starts_ms.iter().map(|ms| instant(*ms)).collect::<Result<Vec<_>, _>>()?;
    Calendar::from_boundaries(id(first)?, starts).map(Some).map_err(EventError::new)
}

/// Canonical JSON, for what is rare and has many parts.
fn json(content: &impl Serialize) -> Vec<u8> {
    // A struct of strings and numbers has no value that JSON lacks.
    serde_json::to_vec(content).unwrap_or_default()
}

/// Reads canonical JSON; refuses any other, so that there is one text for each event.
fn from_json<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, EventError> {
    let content: T = serde_json::from_slice(bytes).map_err(EventError::new)?;
    if json(&content) != bytes {
        return Err(EventError::new("it is not in canonical form"));
    }
    Ok(content)
}

fn interval(from_ms: i64, until_ms: i64) -> Result<Interval, EventError> {
    Interval::new(instant(from_ms)?, instant(until_ms)?).map_err(EventError::new)
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
            components: step.components.as_slice().iter().map(component_to_wire).collect(),
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
            components: it.components.into_iter().map(component_from_wire).collect::<Result<_, _>>()?,
        })
    };
    prices.into_iter().map(draft).collect()
}

fn component_to_wire(it: &Component) -> wire::PriceComponent {
    let (quantity_nanos, price_nanos) = (it.quantity.nanos(), it.price.nanos());
    wire::PriceComponent { name: it.name.clone(), quantity_nanos, price_nanos }
}

fn component_from_wire(it: wire::PriceComponent) -> Result<Component, EventError> {
    let quantity = Quantity::from_nanos(it.quantity_nanos);
    let price = Price::from_nanos(it.price_nanos).map_err(EventError::new)?;
    Ok(Component { name: it.name, quantity, price })
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
