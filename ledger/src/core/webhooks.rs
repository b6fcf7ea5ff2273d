//! Webhooks: which endpoints are told of what, whose they are, and how they do.
//!
//! What is to be told follows from the log, and how far an endpoint was told is a cursor beside it; here
//! is what somebody decided. Secrets that messages are signed with stand here sealed: whoever reads the
//! log, or a copy of it, cannot sign.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hourglass_units::{Instant, TenantId, WebhookId};
use serde::{Deserialize, Deserializer, Serialize};

use super::Inconsistent;
use super::command::{Position, TEXT_LENGTH_MAX};
use super::decide::{check_text, find_tenant};
use super::event::EventKind;
use super::rejection::Rejection;
use super::state::State;

/// Most endpoints of one tenant; and as many of the cell's operator.
pub const WEBHOOKS_A_TENANT_MAX: usize = 20;
/// Most endpoints of a cell.
pub const WEBHOOKS_MAX: usize = 4_096;
/// Longest URL of an endpoint, in bytes.
pub const URL_LENGTH_MAX: usize = 2_048;
/// Most types of events that an endpoint names.
pub const EVENT_TYPES_MAX: usize = 64;
/// Longest name of a type of events.
pub const EVENT_TYPE_LENGTH_MAX: usize = 128;
/// Stands for every type of events, those that are yet to come too.
pub const EVERY_TYPE: &str = "*";
/// Longest time for which the secret before a rotation still signs, in milliseconds: seven days.
pub const SECRET_OVERLAP_MS_MAX: i64 = 7 * 86_400_000;
/// Longest sealed secret, in characters.
const SEALED_LENGTH_MAX: usize = 256;

/// Whose an endpoint is: a tenant's, or the operator's where absent.
pub type Owner = Option<TenantId>;

/// A secret under a key that the log does not hold: letters, digits, `-`, `_` and `.`. What is in it only
/// the consumer knows that sealed it.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SealedSecret(String);

impl SealedSecret {
    /// The sealed form; `None` where it cannot be one.
    pub fn new(text: String) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_one = (1..=SEALED_LENGTH_MAX).contains(&text.len()) && text.bytes().all(plain);
        is_one.then_some(Self(text))
    }

    /// The sealed form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for SealedSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).ok_or_else(|| serde::de::Error::custom("no sealed secret"))
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}

/// An endpoint as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookDraft {
    /// Where messages are sent.
    pub url: String,
    /// For people.
    pub description: String,
    /// Of which types; [`EVERY_TYPE`] for all.
    pub events: BTreeSet<String>,
    /// Whether it is told anything.
    pub enabled: bool,
}

impl WebhookDraft {
    /// Whether it is to be told of a type of events.
    pub fn wants(&self, kind: &str) -> bool {
        self.events.contains(EVERY_TYPE) || self.events.contains(kind)
    }

    /// Checks what can be checked without the network. Which addresses may be reached is for whoever
    /// connects to say, each time that it does.
    fn check(&self) -> Result<(), Rejection> {
        check_text("the webhook's description", &self.description)?;
        let visible = self.url.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || !(1..=URL_LENGTH_MAX).contains(&self.url.len()) {
            return Err(Rejection::WebhookInvalid("a URL has 1 to 2,048 visible ASCII characters"));
        }
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
        let is_type = |name: &String| {
            name == EVERY_TYPE || (1..=EVENT_TYPE_LENGTH_MAX).contains(&name.len()) && name.bytes().all(plain)
        };
        if !(1..=EVENT_TYPES_MAX).contains(&self.events.len()) || !self.events.iter().all(is_type) {
            return Err(Rejection::WebhookInvalid("name 1 to 64 types of events, or \"*\" for all"));
        }
        Ok(())
    }
}

/// What whoever delivers found out about an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Judgement {
    /// Nothing has reached it for a while.
    Failing {
        /// Since when.
        since: Instant,
        /// What the last attempt met.
        reason: String,
    },
    /// It takes messages again.
    Recovered,
    /// Nothing reached it for so long that it is not tried any more.
    GivenUp {
        /// What the last attempt met.
        reason: String,
    },
    /// It said itself that it is gone (410).
    Gone,
}

/// Why an endpoint is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledBy {
    /// Its owner wants it so.
    Owner,
    /// It failed for too long.
    Failures,
    /// It said that it is gone.
    Gone,
}

impl DisabledBy {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Failures => "failures",
            Self::Gone => "gone",
        }
    }
}

/// How an endpoint does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WebhookStatus {
    /// It is told.
    Active,
    /// It is told, and takes nothing.
    Failing {
        /// Since when.
        since: Instant,
        /// What the last attempt met.
        reason: String,
    },
    /// It is not told.
    Disabled {
        /// Since when.
        at: Instant,
        /// Why.
        by: DisabledBy,
    },
}

/// An endpoint as the cell knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Where, and of what it is told.
    pub draft: WebhookDraft,
    /// Its number among all that the cell has; given again when it is deleted.
    pub slot: u32,
    /// What messages are signed with.
    pub secret: SealedSecret,
    /// What they are signed with too, before this instant.
    pub previous: Option<(SealedSecret, Instant)>,
    /// Since when it is there.
    pub created_at: Instant,
    /// When its owner changed it last.
    pub changed_at: Instant,
    /// Where its owner changed it last.
    pub changed: Position,
    /// It is told of what stands behind this position.
    pub since: Position,
    /// How it does.
    pub status: WebhookStatus,
}

impl Webhook {
    /// Whether it is told anything.
    pub fn is_told(&self) -> bool {
        !matches!(self.status, WebhookStatus::Disabled { .. })
    }
}

/// Something to do about an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookAction {
    /// Makes it known.
    Create {
        /// What it is to be.
        draft: WebhookDraft,
        /// What messages are signed with. No part of what makes two requests the same: it is drawn anew for each.
        #[serde(skip)]
        secret: SealedSecret,
    },
    /// Gives it another form. One that was disabled is told of what happens from then on.
    Update {
        /// What it is to be.
        draft: WebhookDraft,
    },
    /// Signs with another secret.
    Rotate {
        /// With which.
        #[serde(skip)]
        secret: SealedSecret,
        /// How long the one before signs too, in milliseconds.
        overlap_ms: i64,
    },
    /// Forgets it.
    Delete,
    /// Sends it a message that says nothing.
    Test,
    /// Sends it a message again.
    Redeliver {
        /// Which event it is of.
        position: u64,
        /// Which of that event's messages.
        line: u32,
    },
    /// Notes how it does.
    Judge {
        /// What was found out.
        judgement: Judgement,
        /// Of the endpoint as its owner changed it last, there.
        changed: Position,
    },
}

/// Something to do about an endpoint, and about which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebhookCommand {
    /// Whose.
    pub owner: Owner,
    /// Which.
    pub webhook: WebhookId,
    /// What.
    pub action: WebhookAction,
}

/// What happened to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "webhook_change", rename_all = "snake_case")]
pub enum WebhookChange {
    /// It is known.
    Created {
        /// As what.
        draft: WebhookDraft,
        /// What messages are signed with.
        secret: SealedSecret,
    },
    /// It has another form.
    Updated {
        /// Which.
        draft: WebhookDraft,
    },
    /// Messages are signed with another secret.
    Rotated {
        /// With which.
        secret: SealedSecret,
        /// Until when the one before signs too.
        previous_until: Instant,
    },
    /// It is forgotten.
    Deleted,
    /// A message that says nothing is sent to it.
    Tested,
    /// A message is sent to it again.
    RedeliveryAsked {
        /// Which event it is of.
        position: u64,
        /// Which of that event's messages.
        line: u32,
    },
    /// How it does was noted.
    Judged {
        /// What was found out.
        judgement: Judgement,
    },
}

/// What happened to which endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEvent {
    /// Whose.
    pub owner: Owner,
    /// Which.
    pub webhook: WebhookId,
    /// What.
    pub change: WebhookChange,
}

impl WebhookEvent {
    /// The name of the kind, for listings.
    pub const fn kind(&self) -> EventKind {
        match self.change {
            WebhookChange::Created { .. } => EventKind::WebhookCreated,
            WebhookChange::Updated { .. } => EventKind::WebhookUpdated,
            WebhookChange::Rotated { .. } => EventKind::WebhookSecretRotated,
            WebhookChange::Deleted => EventKind::WebhookDeleted,
            WebhookChange::Tested => EventKind::WebhookTested,
            WebhookChange::RedeliveryAsked { .. } => EventKind::WebhookRedeliveryAsked,
            WebhookChange::Judged { .. } => EventKind::WebhookJudged,
        }
    }
}

/// Every endpoint of the cell, by owner and id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Webhooks {
    all: BTreeMap<Owner, BTreeMap<WebhookId, Webhook>>,
    changed: Position,
}

impl Webhooks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Owner, &WebhookId, &Webhook)> {
        self.all.iter().flat_map(|(owner, all)| all.iter().map(move |(id, webhook)| (owner, id, webhook)))
    }

    /// Those of an owner, by id.
    pub fn of(&self, owner: &Owner) -> impl Iterator<Item = (&WebhookId, &Webhook)> {
        self.all.get(owner).into_iter().flatten()
    }

    /// One of them.
    pub fn get(&self, owner: &Owner, webhook: &WebhookId) -> Option<&Webhook> {
        self.all.get(owner)?.get(webhook)
    }

    /// Where one of them changed last.
    pub fn changed(&self) -> Position {
        self.changed
    }

    /// The lowest number that no endpoint has.
    fn free_slot(&self) -> u32 {
        let taken: BTreeSet<u32> = self.iter().map(|(_, _, webhook)| webhook.slot).collect();
        (0..)
            .zip(&taken)
            .find(|(free, taken)| free != *taken)
            .map_or_else(|| u32::try_from(taken.len()).unwrap_or(u32::MAX), |(free, _)| free)
    }
}

/// Decides.
pub(super) fn decide(
    state: &State,
    command: &WebhookCommand,
    now: Instant,
) -> Result<WebhookEvent, Rejection> {
    let WebhookCommand { owner, webhook, action } = command;
    if let Some(tenant) = owner {
        find_tenant(state, tenant)?;
    }
    let known = state.webhooks.get(owner, webhook);
    let unknown = || Rejection::WebhookUnknown { webhook: webhook.clone() };
    let change = match action {
        WebhookAction::Create { draft, secret } => {
            draft.check()?;
            if known.is_some() {
                return Err(Rejection::WebhookExists { webhook: webhook.clone() });
            }
            let full = state.webhooks.of(owner).count() >= WEBHOOKS_A_TENANT_MAX;
            if full || state.webhooks.iter().count() >= WEBHOOKS_MAX {
                return Err(Rejection::WebhooksFull);
            }
            WebhookChange::Created { draft: draft.clone(), secret: secret.clone() }
        }
        WebhookAction::Update { draft } => {
            known.ok_or_else(unknown)?;
            draft.check()?;
            WebhookChange::Updated { draft: draft.clone() }
        }
        WebhookAction::Rotate { secret, overlap_ms } => {
            known.ok_or_else(unknown)?;
            if !(0..=SECRET_OVERLAP_MS_MAX).contains(overlap_ms) {
                return Err(Rejection::WebhookInvalid("the secret before signs for at most seven days more"));
            }
            let previous_until = now.saturating_add_ms(*overlap_ms);
            WebhookChange::Rotated { secret: secret.clone(), previous_until }
        }
        WebhookAction::Delete => {
            known.ok_or_else(unknown)?;
            WebhookChange::Deleted
        }
        WebhookAction::Test => {
            told(known.ok_or_else(unknown)?, webhook)?;
            WebhookChange::Tested
        }
        WebhookAction::Redeliver { position, line } => {
            told(known.ok_or_else(unknown)?, webhook)?;
            if *position == 0 || *position > state.position.number() {
                return Err(Rejection::MessageUnknown { position: *position, line: *line });
            }
            WebhookChange::RedeliveryAsked { position: *position, line: *line }
        }
        WebhookAction::Judge { judgement, changed } => {
            let known = known.ok_or_else(unknown)?;
            told(known, webhook)?;
            if known.changed != *changed {
                return Err(Rejection::WebhookChanged { webhook: webhook.clone() });
            }
            let clean = |text: &str| -> String {
                text.chars().filter(|it| !it.is_control()).take(TEXT_LENGTH_MAX).collect()
            };
            let judgement = match judgement.clone() {
                Judgement::Failing { since, reason } => Judgement::Failing { since, reason: clean(&reason) },
                Judgement::GivenUp { reason } => Judgement::GivenUp { reason: clean(&reason) },
                other => other,
            };
            WebhookChange::Judged { judgement }
        }
    };
    Ok(WebhookEvent { owner: owner.clone(), webhook: webhook.clone(), change })
}

fn told(known: &Webhook, webhook: &WebhookId) -> Result<(), Rejection> {
    if known.is_told() { Ok(()) } else { Err(Rejection::WebhookDisabled { webhook: webhook.clone() }) }
}

/// Folds one event into the state.
pub(super) fn apply(
    webhooks: &mut Webhooks,
    position: Position,
    at: Instant,
    event: &WebhookEvent,
) -> Result<(), Inconsistent> {
    let WebhookEvent { owner, webhook: id, change } = event;
    let slot = webhooks.free_slot();
    webhooks.changed = position;
    let of_owner = webhooks.all.entry(owner.clone()).or_default();
    if let WebhookChange::Created { draft, secret } = change {
        let status = if draft.enabled {
            WebhookStatus::Active
        } else {
            WebhookStatus::Disabled { at, by: DisabledBy::Owner }
        };
        let created = Webhook {
            draft: draft.clone(),
            slot,
            secret: secret.clone(),
            previous: None,
            created_at: at,
            changed_at: at,
            changed: position,
            since: position,
            status,
        };
        return match of_owner.insert(id.clone(), created) {
            None => Ok(()),
            Some(_) => Err(Inconsistent::new("a webhook created twice")),
        };
    }
    let webhook = of_owner.get_mut(id).ok_or_else(|| Inconsistent::new("a change of an unknown webhook"))?;
    match change {
        WebhookChange::Created { .. } | WebhookChange::Tested | WebhookChange::RedeliveryAsked { .. } => {}
        WebhookChange::Updated { draft } => {
            let was_told = webhook.is_told();
            webhook.status = match (draft.enabled, &webhook.status) {
                (true, _) => WebhookStatus::Active,
                (false, WebhookStatus::Disabled { .. }) => webhook.status.clone(),
                (false, _) => WebhookStatus::Disabled { at, by: DisabledBy::Owner },
            };
            // What happened while it was disabled is not told afterwards.
            if draft.enabled && !was_told {
                webhook.since = position;
            }
            webhook.draft = draft.clone();
            (webhook.changed, webhook.changed_at) = (position, at);
        }
        WebhookChange::Rotated { secret, previous_until } => {
            let before = std::mem::replace(&mut webhook.secret, secret.clone());
            webhook.previous = (at < *previous_until).then_some((before, *previous_until));
            (webhook.changed, webhook.changed_at) = (position, at);
        }
        WebhookChange::Deleted => {
            of_owner.remove(id);
            if of_owner.is_empty() {
                webhooks.all.remove(owner);
            }
        }
        WebhookChange::Judged { judgement } => {
            let disabled = |by| WebhookStatus::Disabled { at, by };
            webhook.status = match judgement {
                Judgement::Failing { since, reason } => {
                    WebhookStatus::Failing { since: *since, reason: reason.clone() }
                }
                Judgement::Recovered => WebhookStatus::Active,
                Judgement::GivenUp { .. } => disabled(DisabledBy::Failures),
                Judgement::Gone => disabled(DisabledBy::Gone),
            };
        }
    }
    Ok(())
}
