//! Webhooks: what the feed tells of a tenant, sent to where the tenant says.
//!
//! * Messages follow Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`, `webhook-signature`, and
//!   `{"type", "timestamp", "data"}`. The id is a function of the region, the log position and the line.
//! * At least once, and first attempts in the order of the log. A message that is not taken is tried again for
//!   [`RETRY_WINDOW_MS`], pauses doubling from [`FIRST_PAUSE_MS`] on; `Retry-After` and 410 are honoured.
//! * Which endpoints there are stands in the log, and how far each was told is a cursor in its commits. Killed
//!   anywhere, the next writer goes on from there: some messages come again, under the same id.
//! * An endpoint has one attempt under way. Those that fail have places of their own, and each owner few: a
//!   slow or dead endpoint holds up neither others nor the cell.
//! * Nothing goes to an address that is not public, whatever a name resolves to ([`Guard`]).
//! * What became of messages is remembered in memory; secrets are sealed under a key outside the log.

mod deliver;
mod endpoint;
mod guard;
mod history;
mod post;
mod schedule;
mod seal;
mod sign;
#[cfg(test)]
mod tests;
mod view;

use std::sync::atomic::AtomicU64;

use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::webhooks::{EVERY_TYPE, Owner, SealedSecret};
use hourglass_proto::subjects::Subjects;
use hourglass_units::WebhookId;

use crate::feed::{EVENT_TYPES, NOT_BY_WEBHOOK};
use history::History;
use post::Post;

pub use deliver::{
    CURSOR_EVERY_EVENTS, EVENTS_MAX, IN_FLIGHT_A_TENANT_MAX, IN_FLIGHT_FAILING_MAX, IN_FLIGHT_MAX,
    LOOK_EVERY, SAVE_EVERY, deliver,
};
pub use endpoint::{DISABLED_AFTER_MS, FAILING_AFTER_MS, PENDING_MAX};
pub use guard::{Allowed, Guard, PORTS, Refusal, Target, is_public};
pub use history::{ATTEMPTS_KEPT, Attempt, DELIVERIES_KEPT, Delivery};
pub use post::{ATTEMPT_TIMEOUT, RESPONSE_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX};
pub use schedule::{
    FIRST_PAUSE_MS, JITTER_PERCENT_MAX, PAUSE_MS_MAX, RETRY_AFTER_MS_MAX, RETRY_WINDOW_MS, pause_ms,
    retry_after_ms,
};
pub use seal::{KEY_BYTES, SECRET_BYTES, SECRET_PREFIX, SealError, Secret, WebhookKey};
pub use sign::{ID_HEADER, MessageKey, SIGNATURE_HEADER, TIMESTAMP_HEADER, body, signature};
pub use view::{WebhookRow, webhook, webhooks};

/// The type of a message that only tests an endpoint.
pub const TEST_TYPE: &str = "hourglass.webhook.test.v1";

/// How delivery does. Numbers only grow but for those named gauges.
#[derive(Debug, Default)]
pub struct HookStatus {
    /// Attempts that ended.
    pub attempts: AtomicU64,
    /// Of them, those in which the message was taken.
    pub delivered: AtomicU64,
    /// Of them, those in which it was not.
    pub failed: AtomicU64,
    /// Messages that are not tried any more.
    pub given_up: AtomicU64,
    /// Gauge: endpoints that are told.
    pub endpoints: AtomicU64,
    /// Gauge: messages that wait for an attempt.
    pub waiting: AtomicU64,
}

/// What the API, the command line and delivery share: the key, what may be reached, what became of messages.
#[derive(Debug)]
pub struct Hooks {
    key: WebhookKey,
    post: Post,
    history: History,
    /// How delivery does.
    pub status: HookStatus,
}

impl Hooks {
    /// With the key that seals secrets, and what may be reached.
    pub fn new(key: WebhookKey, guard: Guard) -> Self {
        let post = Post { guard, roots: None };
        Self { key, post, history: History::default(), status: HookStatus::default() }
    }

    /// Trusts these authorities (PEM) for hosts that the operator named.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, String> {
        self.post.roots = Some(post::roots_of(pem)?);
        Ok(self)
    }

    /// What may be reached.
    pub fn guard(&self) -> &Guard {
        &self.post.guard
    }

    /// Draws a secret for an endpoint: as it is shown, and as it is kept.
    pub fn draw(&self, owner: &Owner, webhook: &WebhookId) -> Result<(Secret, SealedSecret), SealError> {
        let secret = Secret::draw()?;
        let sealed = self.key.seal(owner, webhook, &secret)?;
        Ok((secret, sealed))
    }

    /// Messages to an endpoint, the newest first.
    pub fn deliveries(&self, owner: &Owner, webhook: &WebhookId) -> Vec<Delivery> {
        self.history.of(owner, webhook)
    }

    /// The message of a `webhook-id`, where there is one and the owner may be told of it.
    pub async fn find(
        &self,
        cell: &CellHandle,
        owner: &Owner,
        id: &str,
    ) -> Result<Option<MessageKey>, CellError> {
        let opened = cell.read(|state| state.cell().map(|cell| (cell.region.to_string(), cell.policy)));
        let Some((region, policy)) = opened.await? else { return Ok(None) };
        let Some(key) = MessageKey::parse(&region, id) else { return Ok(None) };
        let subjects = Subjects::of_region(&region);
        let found = deliver::find(cell, (policy, &subjects), owner, key).await?;
        Ok(found.then_some(key))
    }
}

/// The types that an endpoint can be told of.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    EVENT_TYPES.into_iter().filter(|kind| *kind != NOT_BY_WEBHOOK)
}

/// Whether a name stands for types that an endpoint can be told of.
pub fn is_event_type(name: &str) -> bool {
    name == EVERY_TYPE || event_types().any(|kind| kind == name)
}
