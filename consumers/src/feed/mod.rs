//! What the cell tells others, from its log: life cycle, alerts, quarantine, spot prices.
//!
//! * At least once, in order of the log, under ids that never change: `ce-id` and `Nats-Msg-Id` are the
//!   log position (and the line, where an event can give several). Who reads drops what it has seen.
//! * The cursor moves after the server has said that it stored the messages, in a commit of the ledger.
//!   Killed anywhere in between, the publisher publishes the same again under the same ids.
//! * Only the writer publishes.
//! * A message is a CloudEvent in binary mode with JSON in it. An original that is long stays at home:
//!   the message says where.

mod market;
mod notice;
mod quota;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::{EventKind, Policy, Position};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_proto::subjects::Subjects;
use tokio::time::MissedTickBehavior;

use crate::billing::market::ClearError;
use crate::nats::{Ensured, Nats, StreamError, StreamLimits, chain, ensure_stream, feed_stream};
use notice::Draft;

pub(crate) use notice::{NOT_BY_WEBHOOK, Notice};

pub use notice::{EVENT_TYPES, ORIGINAL_BYTES_MAX, RECORDS_LISTED_MAX};
pub use quota::DRIFT_LISTED_MAX;

/// The cursor's name in the store.
pub const CURSOR: &str = "feed";
/// Most events that are read at once.
pub const EVENTS_MAX: usize = 512;
/// Bytes of events beyond which fewer are read the next time. Beyond an eighth, no more are.
pub const EVENT_BYTES_MAX: usize = 8 << 20;
/// Most look-ups that one read of the state does: the cell decides nothing meanwhile.
pub const LOOKUPS_MAX: usize = 4_096;
/// Most messages that wait for the server's word.
pub const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Events after which the cursor moves although nobody was told of them.
pub const CURSOR_EVERY_EVENTS: u64 = 1_024;
/// How often the log is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Events of the first read, when it is not known how large they are.
const EVENTS_AT_FIRST: usize = 16;
/// First and longest pause after something failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a shutdown waits for the last messages.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// How the feed is published.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Of which region.
    pub subjects: Subjects,
    /// Limits of the stream.
    pub stream: StreamLimits,
}

impl FeedOptions {
    /// The usual ones.
    pub fn new(subjects: Subjects) -> Self {
        Self { subjects, stream: StreamLimits::FEED }
    }
}

/// How the publisher does. Numbers only grow but for those named gauges.
#[derive(Debug, Default)]
pub struct FeedStatus {
    /// Messages that the server stored, repeats included.
    pub published: AtomicU64,
    /// Of these, how many it knew already.
    pub duplicates: AtomicU64,
    /// Attempts that failed and are made again.
    pub failures: AtomicU64,
    /// Gauge: up to which log position all is published.
    pub cursor: AtomicU64,
    /// Gauge: events in the log beyond that.
    pub lag: AtomicU64,
    /// Gauge: 1 while this process publishes.
    pub publishing: AtomicU64,
}

/// Why a stretch of the log was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("position {position}: {what}")]
    Event { position: Position, what: String },
    #[error(transparent)]
    Clearing(#[from] ClearError),
    #[error("NATS did not store a message: {0}")]
    Publish(String),
    #[error("the store could not be read")]
    Task,
}

/// Publishes until `shutdown`. Ends for no other reason.
pub async fn publish(
    nats: Nats,
    cell: CellHandle,
    options: FeedOptions,
    status: Arc<FeedStatus>,
    shutdown: impl Future<Output = ()>,
) {
    let mut publisher = Publisher {
        nats,
        cell,
        options,
        status,
        place: None,
        policy: None,
        ensured: false,
        page: EVENTS_AT_FIRST,
    };
    tokio::select! {
        () = publisher.follow() => {}
        () = shutdown => {}
    }
    let saved = tokio::time::timeout(DRAIN_TIME_MAX, publisher.save());
    if !matches!(saved.await, Ok(Ok(()))) {
        tracing::info!("the feed's cursor was not moved: some messages will be published again");
    }
}

struct Publisher {
    nats: Nats,
    cell: CellHandle,
    options: FeedOptions,
    status: Arc<FeedStatus>,
    /// Absent while this process does not write, and until the cursor was read.
    place: Option<Place>,
    policy: Option<Policy>,
    /// Whether the stream was looked after since something failed.
    ensured: bool,
    /// Events to read at once.
    page: usize,
}

/// Up to where the log is published.
#[derive(Clone, Copy)]
struct Place {
    /// The writer's epoch in which the cursor was read.
    epoch: u64,
    done: Position,
    /// What the store knows of it.
    saved: Position,
}

impl Publisher {
    async fn follow(&mut self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = PAUSES.0;
        loop {
            look.tick().await;
            while self.due() {
                match self.stretch().await {
                    Ok(()) => pause = PAUSES.0,
                    Err(error) => {
                        tracing::warn!(%error, "the feed waits");
                        self.status.failures.fetch_add(1, Ordering::Relaxed);
                        self.ensured = false;
                        // The cell may have lost its state, or its place as writer.
                        self.place = None;
                        tokio::time::sleep(pause).await;
                        pause = pause.saturating_mul(2).min(PAUSES.1);
                    }
                }
            }
        }
    }

    /// Whether this process writes and there is something to publish.
    fn due(&mut self) -> bool {
        let status = self.cell.status();
        let (epoch, position) =
            (status.epoch.load(Ordering::Relaxed), status.position.load(Ordering::Relaxed));
        if status.writable.load(Ordering::Relaxed) != 1 {
            self.place = None;
            self.status.publishing.store(0, Ordering::Relaxed);
            return false;
        }
        if self.place.is_some_and(|place| place.epoch != epoch) {
            self.place = None;
        }
        let known = self.status.cursor.load(Ordering::Relaxed);
        let done = self.place.map_or(known, |place| place.done.number());
        self.status.lag.store(position.saturating_sub(done), Ordering::Relaxed);
        self.nats.is_connected() && (self.place.is_none() || position > done)
    }

    /// Publishes the next events, and moves the cursor behind them.
    async fn stretch(&mut self) -> Result<(), FeedError> {
        if !self.ensured {
            self.ensure().await?;
        }
        let place = match self.place {
            Some(place) => place,
            None => self.find_place().await?,
        };
        let Some(policy) = self.policy().await? else {
            // The cell is not open: there is nothing to tell.
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(());
        };
        let limit = self.page;
        let events = self.read(move |reader| reader.events(place.done, limit)).await?;
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        let bytes = events.iter().map(|event| event.payload.len()).fold(0, usize::saturating_add);
        self.page = match bytes {
            few if few <= EVENT_BYTES_MAX / 8 => limit.saturating_mul(2).min(EVENTS_MAX),
            many if many > EVENT_BYTES_MAX => (limit / 2).max(1),
            _ => limit,
        };

        let drafts = drafts(Arc::clone(self.cell.reader()), events, policy).await?;
        let told = !drafts.is_empty();
        self.tell(drafts).await?;
        let place = Place { done: last, ..place };
        self.place = Some(place);
        self.status.cursor.store(last.number(), Ordering::Relaxed);
        let behind = last.number().saturating_sub(place.saved.number());
        if told || behind >= CURSOR_EVERY_EVENTS { self.save().await } else { Ok(()) }
    }

    async fn ensure(&mut self) -> Result<(), FeedError> {
        let stream = feed_stream(&self.options.subjects, self.options.stream);
        let ensured = ensure_stream(self.nats.jetstream(), &stream).await?;
        if !matches!(ensured, Ensured::Found | Ensured::Differs(_)) {
            tracing::warn!(stream = stream.name, ?ensured, "the feed's stream was mended");
        }
        self.ensured = true;
        Ok(())
    }

    async fn find_place(&mut self) -> Result<Place, FeedError> {
        let epoch = self.cell.status().epoch.load(Ordering::Relaxed);
        let cursor = self.read(|reader| reader.cursor(CURSOR)).await?.unwrap_or(Position::ZERO);
        let place = Place { epoch, done: cursor, saved: cursor };
        self.place = Some(place);
        self.status.cursor.store(cursor.number(), Ordering::Relaxed);
        self.status.publishing.store(1, Ordering::Relaxed);
        Ok(place)
    }

    async fn policy(&mut self) -> Result<Option<Policy>, FeedError> {
        if self.policy.is_none() {
            self.policy = self.cell.read(|state| state.cell().map(|cell| cell.policy)).await?;
        }
        Ok(self.policy)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, FeedError> {
        let reader = Arc::clone(self.cell.reader());
        let done = tokio::task::spawn_blocking(move || read(reader.as_ref())).await;
        Ok(done.map_err(|_| FeedError::Task)??)
    }

    /// Looks up what the drafts want to know and publishes them, in portions that hold up neither the
    /// cell nor memory.
    async fn tell(&self, drafts: Vec<Draft>) -> Result<(), FeedError> {
        let mut drafts = drafts.into_iter().peekable();
        while drafts.peek().is_some() {
            let portion = portion(&mut drafts);
            let subjects = self.options.subjects.clone();
            let told = self.cell.read(move |state| {
                portion.into_iter().flat_map(|draft| draft.notices(state, &subjects)).collect::<Vec<_>>()
            });
            for notices in told.await?.chunks(MESSAGES_IN_FLIGHT_MAX) {
                self.send(notices).await?;
            }
        }
        Ok(())
    }

    /// Sends messages and waits until the server has stored every one.
    async fn send(&self, notices: &[Notice]) -> Result<(), FeedError> {
        let failed = |error: &dyn std::error::Error| FeedError::Publish(chain(error));
        let mut under_way = Vec::with_capacity(notices.len());
        for notice in notices {
            let subject = notice.subject.clone();
            let sent = self.nats.jetstream().send_publish(subject, self.message(notice)).await;
            under_way.push(sent.map_err(|error| failed(&error))?);
        }
        for stored in under_way {
            let stored = stored.await.map_err(|error| failed(&error))?;
            self.status.published.fetch_add(1, Ordering::Relaxed);
            self.status.duplicates.fetch_add(u64::from(stored.duplicate), Ordering::Relaxed);
        }
        Ok(())
    }

    fn message(&self, notice: &Notice) -> PublishMessage {
        let mut data = notice.data.clone();
        let mut payload = data.to_string();
        // A server can be set to take less than the longest original: then it is only named.
        if payload.len() > self.nats.client().server_info().max_payload / 2
            && let Some(original) = data.get_mut("original")
        {
            original.take();
            payload = data.to_string();
        }
        PublishMessage::build()
            .payload(payload.into())
            .message_id(&notice.id)
            .header("ce-specversion", "1.0")
            .header("ce-id", notice.id.as_str())
            .header("ce-source", self.options.subjects.source())
            .header("ce-type", notice.kind)
            .header("ce-subject", notice.about.as_str())
            .header("ce-time", notice.at.to_string())
            .header("ce-datacontenttype", "application/json")
    }

    async fn save(&mut self) -> Result<(), FeedError> {
        let Some(place) = self.place.filter(|place| place.saved < place.done) else { return Ok(()) };
        self.cell.advance_cursor(CURSOR, place.done).await?;
        self.place = Some(Place { saved: place.done, ..place });
        Ok(())
    }
}

/// What others are told of some events, of that what is wanted: for whoever tells it in another way.
pub(crate) async fn notices_of(
    cell: &CellHandle,
    events: Vec<StoredEvent>,
    (policy, subjects): (Policy, &Subjects),
    is_wanted: impl Fn(&Notice) -> bool,
) -> Result<Vec<Notice>, FeedError> {
    let mut drafts = drafts(Arc::clone(cell.reader()), events, policy).await?.into_iter().peekable();
    let mut wanted = Vec::new();
    while drafts.peek().is_some() {
        let (portion, subjects) = (portion(&mut drafts), subjects.clone());
        let told = cell.read(move |state| {
            portion.into_iter().flat_map(|draft| draft.notices(state, &subjects)).collect::<Vec<_>>()
        });
        wanted.extend(told.await?.into_iter().filter(&is_wanted));
    }
    Ok(wanted)
}

/// So many drafts that their look-ups do not hold up the cell.
fn portion(drafts: &mut std::iter::Peekable<std::vec::IntoIter<Draft>>) -> Vec<Draft> {
    let (mut portion, mut lookups) = (Vec::new(), 0_usize);
    while let Some(draft) =
        drafts.next_if(|draft| portion.is_empty() || lookups.saturating_add(draft.lookups()) <= LOOKUPS_MAX)
    {
        lookups = lookups.saturating_add(draft.lookups());
        portion.push(draft);
    }
    portion
}

/// Reads events where it holds up nobody: most are usage, and have to be unpacked.
async fn drafts(
    reader: Arc<dyn Reader>,
    events: Vec<StoredEvent>,
    policy: Policy,
) -> Result<Vec<Draft>, FeedError> {
    let read = move || {
        let mut drafts = Vec::new();
        // What was told of prices is looked up once, where the first clearing is.
        let is_clearing = |event: &&StoredEvent| event.kind == EventKind::MarketCleared.number();
        let first = events.iter().find(is_clearing).map(|event| event.position);
        let prices = first.map(|first| market::seen_before(reader.as_ref(), first)).transpose();
        let mut prices = prices?.unwrap_or_default();
        for event in events {
            let position = event.position;
            let draft = Draft::of(&event, policy, &mut prices);
            drafts.extend(draft.map_err(|error| FeedError::Event { position, what: error.to_string() })?);
        }
        Ok(drafts)
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| FeedError::Task)?
}
