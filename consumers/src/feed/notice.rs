//! From events to what others are told of them. Pure.
//!
//! An event is first read for what it says by itself; whose instance it is, and whether a period was
//! closed, is then looked up in the state, for many events at once.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hourglass_ledger::core::market::{MarketEvent, Stop};
use hourglass_ledger::core::quotas::QuotaEvent;
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::webhooks::{Judgement, WebhookChange, WebhookEvent};
use hourglass_ledger::core::{Event, EventError, EventKind, Policy, Position, Recorded, State};
use hourglass_ledger::log::StoredEvent;
use hourglass_proto::subjects::Subjects;
use hourglass_units::{InstanceId, Instant, Month, TenantId};
use prost::bytes::Bytes;
use serde_json::{Value, json};

use super::market::{self, Clearing, SPOT_PRICE};
use super::quota::{
    self, BUDGET_ALERT, PREEMPTION_ORDERED, QUOTA_DRIFT, QUOTA_UNHELD, REQUEST_DECIDED, SPEND_ALERT,
};
use crate::market::ticks::Seen;
use crate::usage::Format;
use crate::usage::quarantine::agent_of_content_type;

/// Most bytes of an original that travel in a message; a longer one is only named.
pub const ORIGINAL_BYTES_MAX: usize = 256 << 10;
/// Most quarantined records that one message lists.
pub const RECORDS_LISTED_MAX: usize = 1_000;

pub(super) const INSTANCE_REGISTERED: &str = "hourglass.instance.registered.v1";
const INSTANCE_STARTED: &str = "hourglass.instance.started.v1";
const INSTANCE_STOPPED: &str = "hourglass.instance.stopped.v1";
const INVOICE_FINALISED: &str = "hourglass.invoice.finalised.v1";
const USAGE_LATE: &str = "hourglass.usage.late.v1";
const USAGE_QUARANTINED: &str = "hourglass.usage.quarantined.v1";
const WEBHOOK_FAILING: &str = "hourglass.webhook.failing.v1";
const WEBHOOK_DISABLED: &str = "hourglass.webhook.disabled.v1";

/// The CloudEvents types of all that is published.
pub const EVENT_TYPES: [&str; 15] = [
    INSTANCE_REGISTERED,
    INSTANCE_STARTED,
    INSTANCE_STOPPED,
    INVOICE_FINALISED,
    USAGE_LATE,
    USAGE_QUARANTINED,
    SPEND_ALERT,
    PREEMPTION_ORDERED,
    QUOTA_UNHELD,
    QUOTA_DRIFT,
    REQUEST_DECIDED,
    SPOT_PRICE,
    BUDGET_ALERT,
    WEBHOOK_FAILING,
    WEBHOOK_DISABLED,
];

/// What is told to nobody by webhook: a price feed is read, not sent.
pub(crate) const NOT_BY_WEBHOOK: &str = SPOT_PRICE;

/// One message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    /// The log position, and the line where an event can give several: names the message for ever.
    pub(crate) id: String,
    pub(crate) subject: String,
    /// The CloudEvents type.
    pub(crate) kind: &'static str,
    /// What it is about: the CloudEvents subject.
    pub(crate) about: String,
    pub(crate) at: Instant,
    pub(crate) data: Value,
}

/// What an event says by itself.
#[derive(Debug)]
pub(super) struct Draft {
    position: Position,
    at: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Event(Box<Event>),
    Quota(Box<QuotaEvent>),
    Cleared(Box<Clearing>),
    Stops(Vec<Stop>),
    Usage { batch: UsageBatch, late: BTreeMap<LateKey, Late> },
}

/// Reports of one instance that may have come late. Which billing period they begin in is for the
/// tenant's calendar to say, which the state has.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LateKey {
    instance: InstanceId,
    /// When they begin.
    start: Instant,
    /// Whether the acceptance window is over too, so that they are not billed.
    too_old: bool,
}

/// Late reports, added up.
#[derive(Debug, Clone, Copy)]
struct Late {
    records: u64,
    gpu_milliseconds: i64,
    start: Instant,
    end: Instant,
}

impl Late {
    fn add(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.gpu_milliseconds = self.gpu_milliseconds.saturating_add(other.gpu_milliseconds);
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }
}

impl Draft {
    /// Reads an event. `None` where nobody is to be told of it.
    /// `prices` are those that were told before it.
    pub(super) fn of(
        event: &StoredEvent,
        policy: Policy,
        prices: &mut Seen,
    ) -> Result<Option<Self>, EventError> {
        let (position, at) = (event.position, event.at);
        let told = matches!(
            EventKind::from_number(event.kind),
            Some(
                EventKind::InstanceRegistered
                    | EventKind::InstanceStarted
                    | EventKind::InstanceStopped
                    | EventKind::UsageAccepted
                    | EventKind::UsageQuarantined
                    | EventKind::InvoiceFinalised
                    | EventKind::QuotaReviewed
                    | EventKind::QuotaReconciled
                    | EventKind::IncreaseRequested
                    | EventKind::IncreaseDecided
                    | EventKind::BidUpdated
                    | EventKind::BidCancelled
                    | EventKind::MarketCleared
                    | EventKind::WebhookJudged
            )
        );
        if !told {
            return Ok(None);
        }
        let what = match Recorded::decode(&event.payload)?.event {
            Event::UsageAccepted(batch) => {
                let late = late(&batch, at, policy);
                if late.is_empty() && batch.quarantined().is_empty() {
                    return Ok(None);
                }
                What::Usage { batch, late }
            }
            Event::Quota(event) => What::Quota(Box::new(event)),
            Event::Market(MarketEvent::Cleared(cleared)) => {
                What::Cleared(Box::new(Clearing::new(*cleared, event.epoch, prices)))
            }
            Event::Market(
                MarketEvent::BidUpdated { stops, .. } | MarketEvent::BidCancelled { stops, .. },
            ) => What::Stops(stops),
            event => What::Event(Box::new(event)),
        };
        Ok(Some(Self { position, at, what }))
    }

    /// How many look-ups in the state it needs, at most.
    pub(super) fn lookups(&self) -> usize {
        match &self.what {
            What::Event(_) => 1,
            What::Quota(event) => match &**event {
                QuotaEvent::Reviewed(review) => {
                    let told = [review.alerts.len(), review.unheld.len(), review.budgets.len()];
                    told.into_iter().fold(0, usize::saturating_add)
                }
                _ => 1,
            },
            What::Cleared(clearing) => clearing.lookups(),
            What::Stops(stops) => stops.len(),
            What::Usage { late, .. } => late.len(),
        }
    }

    /// What to publish, with what the state knows beside it.
    pub(super) fn notices(self, state: &State, subjects: &Subjects) -> Vec<Notice> {
        let Self { position, at, what } = self;
        let number = position.number();
        match what {
            What::Event(event) => {
                let told = of_event(*event, number, state, subjects);
                let told = told.map(|(subject, kind, about, data)| Notice {
                    id: number.to_string(),
                    subject,
                    kind,
                    about,
                    at,
                    data,
                });
                told.into_iter().collect()
            }
            What::Quota(event) => in_lines(quota::told(&event, number, state, subjects), number, at),
            What::Cleared(clearing) => in_lines(clearing.told(number, state, subjects), number, at),
            What::Stops(stops) => in_lines(market::of_stops(&stops, number, state, subjects), number, at),
            What::Usage { batch, late } => {
                let mut told = Vec::new();
                if !batch.quarantined().is_empty() {
                    told.push(of_records(&batch, number, subjects));
                }
                told.extend(of_late(&batch, &late, position, state, subjects));
                in_lines(told, number, at)
            }
        }
    }
}

/// Subject, CloudEvents type, what it is about, and the data.
pub(super) type Told = (String, &'static str, String, Value);

/// The messages of an event that can give several.
fn in_lines(told: Vec<Told>, number: u64, at: Instant) -> Vec<Notice> {
    let line = |(line, (subject, kind, about, data))| {
        let id = format!("{number}.{line}");
        Notice { id, subject, kind, about, at, data }
    };
    (0_u32..).zip(told).map(line).collect()
}

fn of_event(event: Event, position: u64, state: &State, subjects: &Subjects) -> Option<Told> {
    Some(match event {
        Event::InstanceRegistered(it) => {
            let data = json!({
                "position": position, "instance": it.instance, "tenant": it.tenant, "project": it.project,
                "platform": it.platform, "model": it.mode.model().as_str(), "gpus": it.gpus, "agent": it.agent,
            });
            (subjects.lifecycle(it.tenant.as_str()), INSTANCE_REGISTERED, it.instance.to_string(), data)
        }
        Event::InstanceStarted { instance, at } => {
            let view = state.instance(instance.as_str())?;
            let data = json!({
                "position": position, "instance": instance, "tenant": view.tenant(), "project": view.project(),
                "gpus": view.gpus(), "at": at.to_string(),
            });
            (subjects.lifecycle(view.tenant().as_str()), INSTANCE_STARTED, instance.to_string(), data)
        }
        Event::InstanceStopped { instance, at, cause } => {
            let view = state.instance(instance.as_str())?;
            let data = json!({
                "position": position, "instance": instance, "tenant": view.tenant(), "project": view.project(),
                "gpus": view.gpus(), "at": at.to_string(), "cause": cause,
            });
            (subjects.lifecycle(view.tenant().as_str()), INSTANCE_STOPPED, instance.to_string(), data)
        }
        Event::InvoiceFinalised(invoice) => {
            let data = json!({
                "position": position, "tenant": invoice.tenant, "number": invoice.number,
                "kind": invoice.kind.as_str(), "period": invoice.period.to_string(),
                "total": invoice.total.to_string(), "due": invoice.due.to_string(), "currency": invoice.currency.code(), "issued_at": invoice.issued_at.to_string(),
                "resource": format!("/v1/tenants/{}/invoices/{}", invoice.tenant, invoice.number),
            });
            let about = format!("{}/{}", invoice.tenant, invoice.number);
            (subjects.lifecycle(invoice.tenant.as_str()), INVOICE_FINALISED, about, data)
        }
        Event::UsageQuarantined { reason, content_type, original } => {
            let agent = agent_of_content_type(&content_type);
            let data = json!({
                "position": position, "reason": reason, "content_type": content_type, "agent": agent,
                "bytes": original.len(), "original": inline(&original), "resource": resource(position),
            });
            (subjects.quarantine(), USAGE_QUARANTINED, position.to_string(), data)
        }
        Event::Webhook(event) => return of_webhook(&event, position, subjects),
        _ => return None,
    })
}

/// That an endpoint takes nothing, or is not tried any more.
fn of_webhook(event: &WebhookEvent, position: u64, subjects: &Subjects) -> Option<Told> {
    let WebhookChange::Judged { judgement } = &event.change else { return None };
    let (kind, cause, since, reason) = match judgement {
        Judgement::Failing { since, reason } => (WEBHOOK_FAILING, None, Some(since), Some(reason)),
        Judgement::GivenUp { reason } => (WEBHOOK_DISABLED, Some("failures"), None, Some(reason)),
        Judgement::Gone => (WEBHOOK_DISABLED, Some("gone"), None, None),
        Judgement::Recovered => return None,
    };
    let resource = match &event.owner {
        Some(tenant) => format!("/v1/tenants/{tenant}/webhooks/{}", event.webhook),
        None => format!("/v1/webhooks/{}", event.webhook),
    };
    let data = json!({
        "position": position, "tenant": event.owner, "webhook": event.webhook, "cause": cause,
        "since": since.map(ToString::to_string), "reason": reason, "resource": resource,
    });
    let whose = event.owner.as_ref().map_or(quota::OF_THE_CELL, TenantId::as_str);
    Some((subjects.alerts(whose), kind, event.webhook.to_string(), data))
}

fn resource(position: u64) -> String {
    format!("/v1/quarantine/{position}")
}

/// The original in base64, where it is short enough to travel.
fn inline(original: &Bytes) -> Option<String> {
    (original.len() <= ORIGINAL_BYTES_MAX).then(|| STANDARD.encode(original))
}

/// The records of an accepted batch that broke the contract.
fn of_records(batch: &UsageBatch, position: u64, subjects: &Subjects) -> Told {
    let listed = batch.quarantined().iter().take(RECORDS_LISTED_MAX);
    let records: Vec<Value> =
        listed.map(|(record, breach)| json!({"record": record, "reason": breach.code()})).collect();
    let data = json!({
        "position": position, "agent": batch.agent(), "content_type": Format::Protobuf.media_type(),
        "records_quarantined": batch.quarantined().len(), "records": records,
        "bytes": batch.raw().len(), "original": inline(batch.raw()), "resource": resource(position),
    });
    (subjects.quarantine(), USAGE_QUARANTINED, position.to_string(), data)
}

/// Reports that can have begun in a period that is closed, or ended before the acceptance window:
/// nearly never any. A period closes when it and its grace are over, by whatever calendar.
fn late(batch: &UsageBatch, at: Instant, policy: Policy) -> BTreeMap<LateKey, Late> {
    let open_from = at.saturating_add_ms(policy.grace_ms.saturating_neg());
    let window = at.saturating_add_ms(policy.acceptance_window_ms.saturating_neg());
    let mut late: BTreeMap<LateKey, Late> = BTreeMap::new();
    for record in batch.records() {
        let (start, end) = (record.interval.start(), record.interval.end());
        let too_old = end < window;
        if start >= open_from && !too_old {
            continue;
        }
        let Ok(instance) = record.instance.parse() else { continue };
        let gpu_milliseconds = record.interval.milliseconds().saturating_mul(i64::from(record.gpus));
        let one = Late { records: 1, gpu_milliseconds, start, end };
        let key = LateKey { instance, start, too_old };
        late.entry(key).and_modify(|sum| sum.add(one)).or_insert(one);
    }
    late
}

/// Late usage of known instances, one message for each tenant, billing period and reason.
fn of_late(
    batch: &UsageBatch,
    late: &BTreeMap<LateKey, Late>,
    position: Position,
    state: &State,
    subjects: &Subjects,
) -> Vec<Told> {
    let mut sums: BTreeMap<(TenantId, Month, &'static str), (Late, BTreeSet<&InstanceId>)> = BTreeMap::new();
    for (key, one) in late {
        let Some(view) = state.instance(key.instance.as_str()) else { continue };
        let period = state.period_at(view.tenant(), key.start);
        // Closed before this event: what the state learnt since must not count.
        let closed = |tenant: &hourglass_ledger::core::Tenant| {
            let mut invoices = tenant.invoices.values();
            invoices.any(|it| it.closes() && it.period == period && it.position < position)
        };
        let reason = if key.too_old {
            "too_old"
        } else if state.tenant(view.tenant()).is_some_and(closed) {
            "period_finalised"
        } else {
            continue;
        };
        let whose = (view.tenant().clone(), period, reason);
        let (sum, instances) = sums
            .entry(whose)
            .or_insert_with(|| (Late { records: 0, gpu_milliseconds: 0, ..*one }, BTreeSet::new()));
        sum.add(*one);
        instances.insert(&key.instance);
    }
    let told = |((tenant, period, reason), (sum, instances)): (
        (TenantId, Month, &str),
        (Late, BTreeSet<_>),
    )| {
        let data = json!({
            "position": position.number(), "tenant": tenant, "period": period.to_string(), "reason": reason,
            "billed": reason != "too_old", "agent": batch.agent(), "instances": instances.len(),
            "records": sum.records, "gpu_milliseconds": sum.gpu_milliseconds,
            "start": sum.start.to_string(), "end": sum.end.to_string(),
        });
        (subjects.alerts(tenant.as_str()), USAGE_LATE, tenant.to_string(), data)
    };
    sums.into_iter().map(told).collect()
}
