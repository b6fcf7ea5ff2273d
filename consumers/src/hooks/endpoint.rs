//! What one endpoint is still to be told, and when. Pure: time comes in, and what to do comes out.
//!
//! First attempts are made in the order of the log, one at a time. A message that was not taken waits for
//! its next attempt while newer ones go on, until [`PENDING_MAX`] wait: then nothing more is read for this
//! endpoint before one of them is done. What is stored of it is one position: up to there, everything was
//! delivered or given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use hourglass_ledger::core::Position;
use hourglass_ledger::core::webhooks::{Judgement, Webhook, WebhookStatus};
use hourglass_units::Instant;

use super::schedule::{RETRY_WINDOW_MS, pause_ms};
use super::sign::MessageKey;

/// Most messages of an endpoint that wait for an attempt.
pub const PENDING_MAX: usize = 32;
/// An endpoint that takes nothing for so long is said to fail, in milliseconds: one hour.
pub const FAILING_AFTER_MS: i64 = 3_600_000;
/// An endpoint that takes nothing for so long is disabled, in milliseconds: three days.
pub const DISABLED_AFTER_MS: i64 = 3 * 86_400_000;

/// A line that no message has: all messages of the event are behind.
const ALL_LINES: u32 = u32::MAX;

/// A message that is to be delivered.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// By which it is named.
    pub(super) key: MessageKey,
    pub(super) kind: Arc<str>,
    pub(super) body: Arc<str>,
}

#[derive(Debug)]
struct Pending {
    message: Message,
    due: Instant,
    failed: u32,
    first_attempt: Option<Instant>,
}

/// What is to be done after an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `delivered`, `pending` or `given_up`.
    pub(super) outcome: &'static str,
    /// When it is tried next.
    pub(super) next: Option<Instant>,
    /// What the log is to say of the endpoint.
    pub(super) judgement: Option<Judgement>,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) webhook: Webhook,
    /// The last message that was looked at.
    read: MessageKey,
    /// By where they came up: of a redelivery that is where it was asked for.
    pending: BTreeMap<MessageKey, Pending>,
    /// What an attempt is under way for.
    in_flight: Option<MessageKey>,
    /// No attempt before this.
    not_before: Option<Instant>,
    /// Since when nothing was taken.
    failing_since: Option<Instant>,
    /// Up to where the store knows that all is done.
    saved: u64,
    /// Whether something was delivered that the store does not know of.
    is_dirty: bool,
}

impl Endpoint {
    /// An endpoint that was told all up to its cursor, or up to where it was made known.
    pub(super) fn new(webhook: Webhook, cursor: Option<Position>) -> Self {
        let done = webhook.since.max(cursor.unwrap_or(Position::ZERO)).number();
        Self {
            webhook,
            read: MessageKey { position: done, line: ALL_LINES },
            pending: BTreeMap::new(),
            in_flight: None,
            not_before: None,
            failing_since: None,
            saved: cursor.map_or(0, Position::number),
            is_dirty: false,
        }
    }

    /// Its owner changed it: what waits is tried at once.
    pub(super) fn changed(&mut self, webhook: Webhook, now: Instant) {
        if webhook.changed != self.webhook.changed {
            self.not_before = None;
            self.failing_since = None;
            self.pending.values_mut().for_each(|it| it.due = now);
        }
        self.webhook = webhook;
    }

    /// Whether more can wait.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX
    }

    /// How many messages wait.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Behind which position the log is to be read for it.
    pub(super) fn read_until(&self) -> u64 {
        if self.read.line == ALL_LINES { self.read.position } else { self.read.position.saturating_sub(1) }
    }

    /// Takes what stands in a stretch of the log that begins behind what it has read, up to `until`, as far as
    /// there is room. Answers with the places of what it took.
    pub(super) fn take<'a>(
        &mut self,
        stretch: impl IntoIterator<Item = (MessageKey, &'a Message)>,
        until: u64,
        now: Instant,
    ) -> Vec<MessageKey> {
        let mut taken = Vec::new();
        for (place, message) in stretch {
            if place <= self.read {
                continue;
            }
            if !self.has_room() {
                return taken;
            }
            let pending = Pending { message: message.clone(), due: now, failed: 0, first_attempt: None };
            self.pending.insert(place, pending);
            self.read = place;
            taken.push(place);
        }
        self.read = self.read.max(MessageKey { position: until, line: ALL_LINES });
        taken
    }

    /// The next message that is due, which from now on is under way.
    pub(super) fn begin(&mut self, now: Instant) -> Option<(MessageKey, Message)> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let (place, pending) = self.pending.iter_mut().find(|(_, it)| it.due <= now)?;
        pending.first_attempt.get_or_insert(now);
        self.in_flight = Some(*place);
        Some((*place, pending.message.clone()))
    }

    /// What was under way is not any more. An attempt of an earlier turn as the writer can end in this one.
    fn landed(&mut self, place: MessageKey) {
        self.in_flight.take_if(|under_way| *under_way == place);
    }

    /// Whether its last attempts failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing_since.is_some() || matches!(self.webhook.status, WebhookStatus::Failing { .. })
    }

    /// What was under way was taken.
    pub(super) fn succeeded(&mut self, place: MessageKey) -> Verdict {
        self.landed(place);
        self.pending.remove(&place);
        (self.failing_since, self.not_before) = (None, None);
        self.is_dirty = true;
        let recovered = matches!(self.webhook.status, WebhookStatus::Failing { .. });
        let judgement = recovered.then_some(Judgement::Recovered);
        Verdict { outcome: "delivered", next: None, judgement }
    }

    /// What was under way was not taken.
    pub(super) fn failed(
        &mut self,
        place: MessageKey,
        what: &str,
        retry_after_ms: Option<i64>,
        now: Instant,
        seed: &[u8],
    ) -> Verdict {
        self.landed(place);
        let since = *self.failing_since.get_or_insert(now);
        if let Some(ms) = retry_after_ms {
            self.not_before = Some(now.saturating_add_ms(ms));
        }
        let mut verdict =
            Verdict { outcome: "given_up", next: None, judgement: self.judgement(since, what, now) };
        let Some(pending) = self.pending.get_mut(&place) else { return verdict };
        pending.failed = pending.failed.saturating_add(1);
        let pause = pause_ms(pending.failed, seed).max(retry_after_ms.unwrap_or(0));
        let due = now.saturating_add_ms(pause);
        let first = pending.first_attempt.unwrap_or(now);
        if due.ms_since(first) > RETRY_WINDOW_MS {
            self.pending.remove(&place);
            self.is_dirty = true;
        } else {
            pending.due = due;
            (verdict.outcome, verdict.next) = ("pending", Some(due));
        }
        verdict
    }

    /// The endpoint said that it is gone.
    pub(super) fn gone(&mut self, place: MessageKey) -> Verdict {
        self.landed(place);
        self.pending.remove(&place);
        Verdict { outcome: "given_up", next: None, judgement: Some(Judgement::Gone) }
    }

    fn judgement(&self, since: Instant, what: &str, now: Instant) -> Option<Judgement> {
        let reason = what.to_owned();
        match &self.webhook.status {
            WebhookStatus::Failing { since, .. } if now.ms_since(*since) >= DISABLED_AFTER_MS => {
                Some(Judgement::GivenUp { reason })
            }
            WebhookStatus::Active if now.ms_since(since) >= FAILING_AFTER_MS => {
                Some(Judgement::Failing { since, reason })
            }
            _ => None,
        }
    }

    /// When it has something to do next; nothing where it waits for the log or an attempt.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = self.pending.values().map(|it| it.due).min()?;
        Some(self.not_before.map_or(due, |at| at.max(due)))
    }

    /// Up to where everything was delivered or given up.
    fn done(&self) -> u64 {
        let waits = self.pending.first_key_value().map(|(place, _)| place.position.saturating_sub(1));
        waits.map_or(self.read_until(), |waits| waits.min(self.read_until()))
    }

    /// The position to store: where something was delivered, or a long stretch was passed over.
    pub(super) fn to_save(&self, passed_over: u64) -> Option<Position> {
        let done = self.done();
        let due = self.is_dirty || done.saturating_sub(self.saved) >= passed_over;
        (due && done > self.saved).then(|| Position::new(done))
    }

    /// The store knows.
    pub(super) fn saved(&mut self, position: Position) {
        self.saved = position.number();
        // What was delivered beyond is still to be told to the store.
        self.is_dirty = self.done() > self.saved;
    }
}

#[cfg(test)]
mod tests;
