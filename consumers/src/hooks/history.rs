//! What became of messages lately: kept in the memory of the process that writes, for whoever asks why a
//! message did not come. It begins anew when another process takes over; the log is what lasts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hourglass_ledger::core::webhooks::Owner;
use hourglass_units::{Instant, WebhookId};
use serde::Serialize;
use utoipa::ToSchema;

use super::sign::MessageKey;

/// Most messages of an endpoint that are remembered.
pub const DELIVERIES_KEPT: usize = 100;
/// Most attempts that are remembered of a message: the newest.
pub const ATTEMPTS_KEPT: usize = 20;

/// An attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookAttempt)]
pub struct Attempt {
    /// When it began, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What the receiver answered, where it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A message to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct Delivery {
    /// The `webhook-id`: the same in each attempt, and when it is delivered again.
    pub id: String,
    /// The type of its event.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where in the log its event stands.
    pub position: u64,
    /// When that happened, RFC 3339.
    #[schema(format = DateTime)]
    pub happened_at: String,
    /// `pending`, `delivered` or `given_up`.
    pub outcome: String,
    /// When it is tried next, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub next_attempt_at: Option<String>,
    /// How often it was tried.
    pub attempts_made: u32,
    /// The newest attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// What is remembered of every endpoint.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<BTreeMap<(Owner, WebhookId), VecDeque<Delivery>>>);

impl History {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<(Owner, WebhookId), VecDeque<Delivery>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Messages to an endpoint, the newest first.
    pub(super) fn of(&self, owner: &Owner, webhook: &WebhookId) -> Vec<Delivery> {
        let key = (owner.clone(), webhook.clone());
        self.with(|all| all.get(&key).map(|kept| kept.iter().rev().cloned().collect()).unwrap_or_default())
    }

    /// A message waits, for the first time or again.
    pub(super) fn queued(&self, whose: &(Owner, WebhookId), message: MessageKey, delivery: Delivery) {
        self.with(|all| {
            let kept = all.entry(whose.clone()).or_default();
            kept.retain(|it| it.id != delivery.id);
            while kept.len() >= DELIVERIES_KEPT {
                kept.pop_front();
            }
            debug_assert!(message.position == delivery.position);
            kept.push_back(delivery);
        });
    }

    /// An attempt was made.
    pub(super) fn tried(
        &self,
        whose: &(Owner, WebhookId),
        id: &str,
        attempt: Attempt,
        (outcome, next): (&str, Option<Instant>),
    ) {
        self.with(|all| {
            let kept = all.get_mut(whose).and_then(|kept| kept.iter_mut().rev().find(|it| it.id == id));
            let Some(delivery) = kept else { return };
            outcome.clone_into(&mut delivery.outcome);
            delivery.next_attempt_at = next.map(|at| at.to_string());
            delivery.attempts_made = delivery.attempts_made.saturating_add(1);
            if delivery.attempts.len() >= ATTEMPTS_KEPT {
                delivery.attempts.remove(0);
            }
            delivery.attempts.push(attempt);
        });
    }

    /// An endpoint is there no more.
    pub(super) fn forget(&self, whose: &(Owner, WebhookId)) {
        self.with(|all| drop(all.remove(whose)));
    }
}
