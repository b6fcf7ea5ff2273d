//! Endpoints, as HTTP and the command line show them.

use hourglass_ledger::core::State;
use hourglass_ledger::core::webhooks::{Owner, Webhook, WebhookStatus};
use hourglass_units::{Instant, WebhookId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An endpoint, without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookRow {
    /// Its id, unique in its tenant.
    pub webhook: String,
    /// Where messages are sent.
    pub url: String,
    /// For people.
    pub description: String,
    /// The types that it is told of; `*` for all.
    pub events: Vec<String>,
    /// `active`, `failing` (it is tried, and nothing reaches it) or `disabled`.
    pub status: String,
    /// Since when it fails or is disabled, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub status_since: Option<String>,
    /// Why: what the last attempt met, or who disabled it (`owner`, `failures`, `gone`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is told of what stands in the log behind this position.
    pub since_position: u64,
    /// Until when the secret before the last rotation signs too, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub previous_secret_until: Option<String>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its owner changed it last, RFC 3339.
    #[schema(format = DateTime)]
    pub changed_at: String,
}

/// The endpoints of an owner behind one of them, by id.
pub fn webhooks<'a>(
    state: &'a State,
    owner: &'a Owner,
    after: Option<&'a str>,
    now: Instant,
) -> impl Iterator<Item = WebhookRow> + 'a {
    let behind = move |id: &WebhookId| after.is_none_or(|after| id.as_str() > after);
    let of = state.webhooks().of(owner).filter(move |(id, _)| behind(id));
    of.map(move |(id, webhook)| row(id, webhook, now))
}

/// One of them.
pub fn webhook(state: &State, owner: &Owner, id: &WebhookId, now: Instant) -> Option<WebhookRow> {
    state.webhooks().get(owner, id).map(|webhook| row(id, webhook, now))
}

fn row(id: &WebhookId, webhook: &Webhook, now: Instant) -> WebhookRow {
    let (status, since, reason) = match &webhook.status {
        WebhookStatus::Active => ("active", None, None),
        WebhookStatus::Failing { since, reason } => ("failing", Some(*since), Some(reason.clone())),
        WebhookStatus::Disabled { at, by } => ("disabled", Some(*at), Some(by.as_str().to_owned())),
    };
    let previous = webhook.previous.as_ref().map(|(_, until)| *until).filter(|until| now < *until);
    WebhookRow {
        webhook: id.to_string(),
        url: webhook.draft.url.clone(),
        description: webhook.draft.description.clone(),
        events: webhook.draft.events.iter().cloned().collect(),
        status: status.to_owned(),
        status_since: since.map(|at| at.to_string()),
        reason,
        since_position: webhook.since.number(),
        previous_secret_until: previous.map(|at| at.to_string()),
        created_at: webhook.created_at.to_string(),
        changed_at: webhook.changed_at.to_string(),
    }
}
