//! Delivery: from the log to endpoints, by whoever writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::webhooks::{
    Judgement, Owner, Webhook, WebhookAction, WebhookChange, WebhookCommand,
};
use hourglass_ledger::core::{Event, EventError, EventKind, Policy, Position, Recorded, Rejection};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_proto::subjects::Subjects;
use hourglass_units::{Instant, WebhookId};
use tokio::task::JoinSet;

use super::endpoint::{Endpoint, Message, Verdict};
use super::history::{Attempt, Delivery};
use super::post::{Letter, Outcome, Post};
use super::sign::{MessageKey, body, signature};
use super::{Hooks, TEST_TYPE};
use crate::feed::{FeedError, NOT_BY_WEBHOOK, Notice, notices_of};

/// How often the log is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often cursors are stored, where something was delivered.
pub const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Events after which a cursor is stored although nothing was delivered.
pub const CURSOR_EVERY_EVENTS: u64 = 1_024;
/// Most events that are read at once.
pub const EVENTS_MAX: usize = 64;
/// Most attempts under way to endpoints that took the last message.
pub const IN_FLIGHT_MAX: usize = 48;
/// Most attempts under way to endpoints that did not: they wait for each other, and for nobody else.
pub const IN_FLIGHT_FAILING_MAX: usize = 16;
/// Most attempts under way to the endpoints of one owner.
pub const IN_FLIGHT_A_TENANT_MAX: usize = 4;
/// First and longest pause after the cell or the store failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a shutdown waits for attempts under way, and for cursors.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the store could not be read")]
    Task,
}

/// Whose an endpoint is, and which.
type Whose = (Owner, WebhookId);

/// An attempt that has ended.
struct Ended {
    whose: Whose,
    /// Of the endpoint as it was when the attempt began.
    slot: (u32, Position),
    was_failing: bool,
    place: MessageKey,
    id: String,
    at: Instant,
    milliseconds: u64,
    outcome: Outcome,
}

/// Delivers until `shutdown`. Ends for no other reason.
pub async fn deliver(cell: CellHandle, hooks: Arc<Hooks>, shutdown: impl Future<Output = ()>) {
    let mut deliverer = Deliverer {
        cell,
        hooks,
        turn: None,
        attempts: JoinSet::new(),
        in_flight: InFlight::default(),
        first: 0,
    };
    tokio::select! {
        () = deliverer.follow() => {}
        () = shutdown => {}
    }
    let drained = tokio::time::timeout(DRAIN_TIME_MAX, deliverer.drain());
    if !matches!(drained.await, Ok(Ok(()))) {
        tracing::info!("not all cursors of webhooks were moved: some messages will be delivered again");
    }
}

/// What holds for one turn as the writer.
struct Turn {
    epoch: u64,
    region: String,
    policy: Policy,
    subjects: Subjects,
    endpoints: BTreeMap<Whose, Endpoint>,
    /// Up to where it is known which endpoints there are.
    known: u64,
    /// Where one of them changed last.
    changed: Position,
    saved_at: tokio::time::Instant,
}

#[derive(Default)]
struct InFlight {
    healthy: usize,
    failing: usize,
    of: BTreeMap<Owner, usize>,
}

struct Deliverer {
    cell: CellHandle,
    hooks: Arc<Hooks>,
    turn: Option<Turn>,
    attempts: JoinSet<Ended>,
    in_flight: InFlight,
    /// Which endpoint is looked at first: each time another one.
    first: usize,
}

impl Deliverer {
    async fn follow(&mut self) {
        let mut pause = PAUSES.0;
        loop {
            match self.round().await {
                Ok(()) => pause = PAUSES.0,
                Err(error) => {
                    tracing::warn!(%error, "webhooks wait");
                    self.turn = None;
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(PAUSES.1);
                }
            }
        }
    }

    /// Reads what is new, begins what is due, and waits until something has happened.
    async fn round(&mut self) -> Result<(), HookError> {
        let status = self.cell.status();
        let epoch = status.epoch.load(Ordering::Relaxed);
        let writes = status.writable.load(Ordering::Relaxed) == 1;
        if !writes || self.turn.as_ref().is_some_and(|turn| turn.epoch != epoch) {
            self.turn = None;
        }
        if !writes {
            self.wait(LOOK_EVERY).await?;
            return Ok(());
        }
        self.sync(epoch).await?;
        let more = self.read_on().await?;
        self.begin_due();
        self.save(false).await?;
        let wait = if more { Duration::ZERO } else { LOOK_EVERY };
        self.wait(wait).await
    }

    /// Waits for an attempt to end, and no longer than so long.
    async fn wait(&mut self, longest: Duration) -> Result<(), HookError> {
        let Ok(Some(ended)) = tokio::time::timeout(longest, self.attempts.join_next()).await else {
            if self.attempts.is_empty() && !longest.is_zero() {
                tokio::time::sleep(longest).await;
            }
            return Ok(());
        };
        let mut next = Some(ended);
        while let Some(ended) = next {
            // Whatever happens in it, an attempt ends by itself.
            if let Ok(ended) = ended {
                self.ended(ended).await?;
            }
            next = self.attempts.try_join_next();
        }
        Ok(())
    }

    /// Learns which endpoints there are, where that has changed.
    async fn sync(&mut self, epoch: u64) -> Result<(), HookError> {
        let position = self.cell.status().position.load(Ordering::Relaxed);
        let known = self.turn.as_ref().map(|turn| (turn.known, turn.changed));
        if known.is_some_and(|(known, _)| known >= position) {
            return Ok(());
        }
        let changed = known.map(|(_, changed)| changed);
        let seen = self.cell.read(move |state| {
            let webhooks = state.webhooks();
            let all = (Some(webhooks.changed()) != changed).then(|| {
                let all = webhooks.iter();
                all.map(|(owner, id, it)| ((owner.clone(), id.clone()), it.clone())).collect::<Vec<_>>()
            });
            let cell = state.cell().map(|cell| (cell.region.to_string(), cell.policy));
            (cell, state.position().number(), webhooks.changed(), all)
        });
        let (Some((region, policy)), position, changed, all) = seen.await? else { return Ok(()) };
        let turn = self.turn.get_or_insert_with(|| Turn {
            epoch,
            subjects: Subjects::of_region(&region),
            region,
            policy,
            endpoints: BTreeMap::new(),
            known: 0,
            changed: Position::ZERO,
            saved_at: tokio::time::Instant::now(),
        });
        (turn.known, turn.changed) = (position, changed);
        match all {
            Some(all) => self.learn(all).await,
            None => Ok(()),
        }
    }

    /// Takes over what the log says of endpoints.
    async fn learn(&mut self, all: Vec<(Whose, Webhook)>) -> Result<(), HookError> {
        let now = self.cell.now();
        let there: BTreeMap<Whose, Webhook> = all.into_iter().collect();
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let history = &self.hooks.history;
        turn.endpoints.retain(|whose, endpoint| {
            if !there.contains_key(whose) {
                history.forget(whose);
            }
            let same = |it: &&Webhook| it.slot == endpoint.webhook.slot && it.since == endpoint.webhook.since;
            there.get(whose).filter(same).is_some_and(Webhook::is_told)
        });
        let mut new = Vec::new();
        for (whose, webhook) in there.into_iter().filter(|(_, webhook)| webhook.is_told()) {
            match turn.endpoints.get_mut(&whose) {
                Some(endpoint) => endpoint.changed(webhook, now),
                None => new.push((whose, webhook)),
            }
        }
        let reader = Arc::clone(self.cell.reader());
        let found = tokio::task::spawn_blocking(move || {
            let with = |(whose, webhook): (Whose, Webhook)| {
                let cursor = reader.cursor(&cursor_name(webhook.slot))?;
                Ok((whose, Endpoint::new(webhook, cursor)))
            };
            new.into_iter().map(with).collect::<Result<Vec<_>, StoreError>>()
        });
        let found = found.await.map_err(|_| HookError::Task)??;
        turn.endpoints.extend(found);
        self.hooks.status.endpoints.store(turn.endpoints.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the log on for the endpoint that is furthest behind and has room, and for all that are as far.
    /// Answers with whether there is more.
    async fn read_on(&mut self) -> Result<bool, HookError> {
        let Some(turn) = &self.turn else { return Ok(false) };
        let with_room = turn.endpoints.values().filter(|it| it.has_room());
        let Some(from) = with_room.map(Endpoint::read_until).min().filter(|from| *from < turn.known) else {
            return Ok(false);
        };
        let known = turn.known;
        let events = read_events(&self.cell, Position::new(from), EVENTS_MAX).await?;
        let events: Vec<StoredEvent> =
            events.into_iter().filter(|event| event.position.number() <= known).collect();
        let Some(last) = events.last().map(|event| event.position.number()) else { return Ok(false) };
        let asked = self.asked(&events).await?;
        let Some(turn) = &mut self.turn else { return Ok(false) };
        let is_wanted = |notice: &Notice| notice.kind != NOT_BY_WEBHOOK;
        let rules = (turn.policy, &turn.subjects);
        let notices = notices_of(&self.cell, events, rules, is_wanted).await?;
        let messages: Vec<(Owner, Message, Instant)> = notices.iter().filter_map(message_of).collect();
        let now = self.cell.now();
        for (whose, endpoint) in &mut turn.endpoints {
            if !endpoint.has_room() || endpoint.read_until() >= last {
                continue;
            }
            let mut wanted: BTreeMap<MessageKey, (&Message, Instant)> = BTreeMap::new();
            for (owner, message, at) in &messages {
                // The operator's endpoints are told of everybody.
                if (whose.0.is_none() || whose.0 == *owner) && endpoint.webhook.draft.wants(&message.kind) {
                    wanted.insert(message.key, (message, *at));
                }
            }
            let to_it = asked.iter().filter(|(of, ..)| of == whose);
            wanted.extend(to_it.map(|(_, place, message, at)| (*place, (message, *at))));
            let stretch = wanted.iter().map(|(place, (message, _))| (*place, *message));
            for place in endpoint.take(stretch, last, now) {
                let Some((message, at)) = wanted.get(&place) else { continue };
                self.hooks.history.queued(whose, message.key, delivery(message, *at, &turn.region, now));
            }
        }
        Ok(last < known)
    }

    /// Messages that somebody asked for by name: tests, and what is to be delivered again.
    async fn asked(
        &self,
        events: &[StoredEvent],
    ) -> Result<Vec<(Whose, MessageKey, Message, Instant)>, HookError> {
        let Some(turn) = &self.turn else { return Ok(Vec::new()) };
        let mut asked = Vec::new();
        for event in events {
            let kind = EventKind::from_number(event.kind);
            if !matches!(kind, Some(EventKind::WebhookTested | EventKind::WebhookRedeliveryAsked)) {
                continue;
            }
            let Event::Webhook(it) = Recorded::decode(&event.payload)?.event else { continue };
            let place = MessageKey { position: event.position.number(), line: 0 };
            let whose = (it.owner.clone(), it.webhook.clone());
            let found = match it.change {
                WebhookChange::Tested => {
                    let data = serde_json::json!({
                        "position": place.position, "tenant": it.owner, "webhook": it.webhook,
                    });
                    let body = body(TEST_TYPE, event.at, &data).into();
                    Some((Message { key: place, kind: TEST_TYPE.into(), body }, event.at))
                }
                WebhookChange::RedeliveryAsked { position, line } => {
                    let key = MessageKey { position, line };
                    find_message(&self.cell, (turn.policy, &turn.subjects), &whose.0, key).await?
                }
                _ => None,
            };
            asked.extend(found.map(|(message, at)| (whose, place, message, at)));
        }
        Ok(asked)
    }

    /// Begins attempts that are due, as many as may be under way.
    fn begin_due(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let now = self.cell.now();
        let count = turn.endpoints.len();
        self.first = self.first.wrapping_add(1).checked_rem(count).unwrap_or(0);
        let mut waiting = 0_u64;
        // The order turns, so that no endpoint is always last.
        let (before, after): (Vec<_>, Vec<_>) =
            turn.endpoints.iter_mut().enumerate().partition(|(at, _)| *at < self.first);
        for (_, (whose, endpoint)) in after.into_iter().chain(before) {
            waiting = waiting.saturating_add(endpoint.waiting() as u64);
            let was_failing = endpoint.is_failing();
            let lane = if was_failing { self.in_flight.failing } else { self.in_flight.healthy };
            let room = if was_failing { IN_FLIGHT_FAILING_MAX } else { IN_FLIGHT_MAX };
            let of_owner = self.in_flight.of.get(&whose.0).copied().unwrap_or(0);
            if lane >= room
                || of_owner >= IN_FLIGHT_A_TENANT_MAX
                || endpoint.next_due().is_none_or(|it| it > now)
            {
                continue;
            }
            let Some((place, message)) = endpoint.begin(now) else { continue };
            self.in_flight.began(&whose.0, was_failing);
            let letter = letter(&self.hooks, whose, &endpoint.webhook, &message, &turn.region, now);
            let id = message.key.id(&turn.region);
            let slot = (endpoint.webhook.slot, endpoint.webhook.since);
            let (post, whose) = (self.hooks.post.clone(), whose.clone());
            self.attempts.spawn_blocking(move || {
                let began = tokio::time::Instant::now();
                let outcome = match letter {
                    Ok(letter) => sent(&post, &letter),
                    Err(what) => Outcome::Failed { status: None, what, retry_after_ms: None },
                };
                let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                Ended { whose, slot, was_failing, place, id, at: now, milliseconds, outcome }
            });
        }
        self.hooks.status.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Notes what came of an attempt.
    async fn ended(&mut self, ended: Ended) -> Result<(), HookError> {
        let Ended { whose, slot, was_failing, place, id, at, milliseconds, outcome } = ended;
        self.in_flight.ended(&whose.0, was_failing);
        let status = &self.hooks.status;
        status.attempts.fetch_add(1, Ordering::Relaxed);
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let same = |it: &&mut Endpoint| (it.webhook.slot, it.webhook.since) == slot;
        let Some(endpoint) = turn.endpoints.get_mut(&whose).filter(same) else { return Ok(()) };
        let now = self.cell.now();
        let attempt = |status, error| Attempt { at: at.to_string(), milliseconds, status, error };
        let (verdict, attempt) = match outcome {
            Outcome::Delivered { status: code } => {
                status.delivered.fetch_add(1, Ordering::Relaxed);
                (endpoint.succeeded(place), attempt(Some(code), None))
            }
            Outcome::Gone => (endpoint.gone(place), attempt(Some(410), Some("it is gone".to_owned()))),
            Outcome::Failed { status: code, what, retry_after_ms } => {
                status.failed.fetch_add(1, Ordering::Relaxed);
                let seed = format!("{slot:?} {id}");
                let verdict = endpoint.failed(place, &what, retry_after_ms, now, seed.as_bytes());
                (verdict, attempt(code, Some(what)))
            }
        };
        let Verdict { outcome, next, judgement } = verdict;
        if outcome == "given_up" {
            status.given_up.fetch_add(1, Ordering::Relaxed);
        }
        self.hooks.history.tried(&whose, &id, attempt, (outcome, next));
        let changed = endpoint.webhook.changed;
        match judgement {
            Some(judgement) => self.judge(whose, judgement, changed).await,
            None => Ok(()),
        }
    }

    /// Has the log say how an endpoint does. That its owner changed it meanwhile is fine.
    async fn judge(&self, whose: Whose, judgement: Judgement, changed: Position) -> Result<(), HookError> {
        let (owner, webhook) = whose;
        let action = WebhookAction::Judge { judgement, changed };
        match self
            .cell
            .submit(hourglass_ledger::core::Command::from(WebhookCommand { owner, webhook, action }))
            .await
        {
            Ok(_)
            | Err(CellError::Rejected(
                Rejection::WebhookUnknown { .. }
                | Rejection::WebhookChanged { .. }
                | Rejection::WebhookDisabled { .. }
                | Rejection::TenantUnknown { .. },
            )) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores how far endpoints were told, where that is due.
    async fn save(&mut self, at_once: bool) -> Result<(), HookError> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        if !at_once && turn.saved_at.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        turn.saved_at = tokio::time::Instant::now();
        let due = turn.endpoints.values_mut();
        let due = due.filter_map(|it| it.to_save(CURSOR_EVERY_EVENTS).map(|position| (it, position)));
        let mut moved = Vec::new();
        for (endpoint, position) in due {
            let name = cursor_name(endpoint.webhook.slot);
            let cell = &self.cell;
            moved.push(async move {
                cell.advance_cursor(name, position).await?;
                endpoint.saved(position);
                Ok::<(), CellError>(())
            });
        }
        futures_util::future::try_join_all(moved).await?;
        Ok(())
    }

    /// Waits for what is under way, and stores how far it came.
    async fn drain(&mut self) -> Result<(), HookError> {
        while let Some(ended) = self.attempts.join_next().await {
            if let Ok(ended) = ended {
                self.ended(ended).await?;
            }
        }
        self.save(true).await
    }
}

impl InFlight {
    fn began(&mut self, owner: &Owner, failing: bool) {
        let lane = if failing { &mut self.failing } else { &mut self.healthy };
        *lane = lane.saturating_add(1);
        let of = self.of.entry(owner.clone()).or_default();
        *of = of.saturating_add(1);
    }

    fn ended(&mut self, owner: &Owner, failing: bool) {
        let lane = if failing { &mut self.failing } else { &mut self.healthy };
        *lane = lane.saturating_sub(1);
        if let Some(of) = self.of.get_mut(owner) {
            *of = of.saturating_sub(1);
            if *of == 0 {
                self.of.remove(owner);
            }
        }
    }
}

/// Sends a letter. A panic in it is a failed attempt: what counts attempts must not lose one.
fn sent(post: &Post, letter: &Letter) -> Outcome {
    let attempt = std::panic::AssertUnwindSafe(|| post.send(letter));
    std::panic::catch_unwind(attempt).unwrap_or_else(|_| Outcome::Failed {
        status: None,
        what: "the request failed".to_owned(),
        retry_after_ms: None,
    })
}

/// The cursor of an endpoint. Slots are given again, so cursors are not more than endpoints ever were at once.
fn cursor_name(slot: u32) -> String {
    format!("webhook/{slot}")
}

async fn read_events(
    cell: &CellHandle,
    after: Position,
    limit: usize,
) -> Result<Vec<StoredEvent>, HookError> {
    let reader: Arc<dyn Reader> = Arc::clone(cell.reader());
    let read = tokio::task::spawn_blocking(move || reader.events(after, limit)).await;
    Ok(read.map_err(|_| HookError::Task)??)
}

/// What a notice becomes by webhook, and whom it concerns. A quarantined original stays at home.
fn message_of(notice: &Notice) -> Option<(Owner, Message, Instant)> {
    let key = MessageKey::of_notice(&notice.id)?;
    let owner = notice.data.get("tenant").and_then(|it| it.as_str()).and_then(|it| it.parse().ok());
    let mut data = notice.data.clone();
    if let Some(original) = data.get_mut("original") {
        original.take();
    }
    let body = body(notice.kind, notice.at, &data).into();
    Some((owner, Message { key, kind: notice.kind.into(), body }, notice.at))
}

/// The message of a key, where there is one and its owner may see it.
pub(super) async fn find(
    cell: &CellHandle,
    rules: (Policy, &Subjects),
    owner: &Owner,
    key: MessageKey,
) -> Result<bool, CellError> {
    match find_message(cell, rules, owner, key).await {
        Ok(found) => Ok(found.is_some()),
        Err(HookError::Cell(error)) => Err(error),
        Err(error) => Err(CellError::Unavailable(error.to_string())),
    }
}

async fn find_message(
    cell: &CellHandle,
    rules: (Policy, &Subjects),
    owner: &Owner,
    key: MessageKey,
) -> Result<Option<(Message, Instant)>, HookError> {
    let Some(before) = key.position.checked_sub(1) else { return Ok(None) };
    let events = read_events(cell, Position::new(before), 1).await?;
    let is_wanted =
        |notice: &Notice| notice.kind != NOT_BY_WEBHOOK && MessageKey::of_notice(&notice.id) == Some(key);
    let notices = notices_of(cell, events, rules, is_wanted).await?;
    let found = notices.iter().find_map(message_of);
    let found = found.filter(|(of, ..)| owner.is_none() || owner == of);
    Ok(found.map(|(_, message, at)| (message, at)))
}

fn delivery(message: &Message, at: Instant, region: &str, now: Instant) -> Delivery {
    Delivery {
        id: message.key.id(region),
        kind: message.kind.to_string(),
        position: message.key.position,
        happened_at: at.to_string(),
        outcome: "pending".to_owned(),
        next_attempt_at: Some(now.to_string()),
        attempts_made: 0,
        attempts: Vec::new(),
    }
}

/// The request of a message, signed with every secret that holds.
fn letter(
    hooks: &Hooks,
    whose: &Whose,
    webhook: &Webhook,
    message: &Message,
    region: &str,
    now: Instant,
) -> Result<Letter, String> {
    let (owner, id) = whose;
    let previous = webhook.previous.as_ref().filter(|(_, until)| now < *until).map(|(sealed, _)| sealed);
    let sealed = [Some(&webhook.secret), previous].into_iter().flatten();
    let secrets: Result<Vec<_>, _> = sealed.map(|it| hooks.key.open(owner, id, it)).collect();
    let secrets = secrets.map_err(|error| error.to_string())?;
    let message_id = message.key.id(region);
    let sent = now.unix_ms().div_euclid(1_000);
    let signature = signature(&secrets, &message_id, sent, &message.body);
    Ok(Letter {
        url: webhook.draft.url.clone(),
        id: message_id,
        sent_at_unix_ms: now.unix_ms(),
        signature,
        body: Arc::clone(&message.body),
    })
}
