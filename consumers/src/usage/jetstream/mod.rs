//! Usage from JetStream: pulled, submitted to the cell, and acknowledged **after** its commit.
//!
//! * Whatever was acknowledged, or announced as committed to its agent, is in the log. A message whose
//!   commit failed, or of which nothing is known, comes again; what was logged already adds nothing.
//! * Only the writer pulls. A process that stands by leaves the messages to the one that writes.
//! * At most [`MESSAGES_IN_FLIGHT_MAX`] messages and [`BYTES_IN_FLIGHT_MAX`] bytes wait for their
//!   commit: a slow ledger leaves the rest in the stream, a full stream refuses, and agents hold back.
//!   Beside its bytes a message in flight takes about as much again, for what was read of it.
//! * The subject is the agent's identity. A batch that names another agent is not accepted: it goes to
//!   quarantine, as does what cannot be read, each once however often it comes.
//! * Order is kept as it comes. It carries no correctness, only speed.

mod announce;
mod take;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Batch, Config as PullConfig};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hourglass_ledger::cell::CellHandle;
use hourglass_proto::subjects::Subjects;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::nats::{
    Ensured, Nats, StreamLimits, USAGE_MESSAGE_BYTES_MAX, chain, ensure_stream, has_no_stream, usage_stream,
};
use announce::{Mark, publish_mark};
use take::{Fate, InFlight, Settled};

pub use announce::WATERMARKS_EVERY;
#[cfg(debug_assertions)]
pub use take::PlantedFault;

/// Most messages that wait for their commit.
pub const MESSAGES_IN_FLIGHT_MAX: usize = 1_024;
/// Most bytes of messages that wait for their commit.
pub const BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// Most messages that are asked for at once.
pub const PULL_MESSAGES_MAX: usize = 256;
/// How long the server waits for an acknowledgement before it sends a message again.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Unacknowledged messages after which the server sends no more, in multiples of those in flight: what
/// a writer that died had in flight must not hold up its successor until [`ACK_WAIT`] is over.
pub const ACK_PENDING_FACTOR: usize = 4;
/// How long a message stays away whose commit failed.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a message stays away that suspense has no room for: somebody has to register instances.
pub const SUSPENSE_RETRY_DELAY: Duration = Duration::from_secs(10);
/// How long a shutdown waits for the commits under way.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the server keeps a pull that waits for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// How often the consumer looks whether this process writes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pause before a stream that was there is made again. While nats-server deletes one it also deletes the
/// directory of its successor (seen with 2.9.10), which then takes no message before the next start.
const MADE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// First and longest pause after the ledger or NATS failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What a pull may count beside a message's payload: its subjects and headers.
const ENVELOPE_BYTES_MAX: usize = 16 << 10;
/// The durable consumer's name.
const DURABLE: &str = "cell";

/// How usage is consumed.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Of which region.
    pub subjects: Subjects,
    /// Which partition.
    pub partition: u32,
    /// Limits of the stream.
    pub stream: StreamLimits,
    /// Most messages that wait for their commit.
    pub messages_in_flight_max: usize,
    /// Most bytes that wait for their commit: at least room for one message.
    pub bytes_in_flight_max: usize,
    /// How long the server waits for an acknowledgement. Longer than any commit takes.
    pub ack_wait: Duration,
    /// A guard to leave out, so that tests can show that they would notice.
    #[cfg(debug_assertions)]
    pub planted_fault: Option<PlantedFault>,
}

impl ConsumerOptions {
    /// The usual ones.
    pub fn new(subjects: Subjects, partition: u32) -> Self {
        Self {
            subjects,
            partition,
            stream: StreamLimits::USAGE,
            messages_in_flight_max: MESSAGES_IN_FLIGHT_MAX,
            bytes_in_flight_max: BYTES_IN_FLIGHT_MAX,
            ack_wait: ACK_WAIT,
            #[cfg(debug_assertions)]
            planted_fault: None,
        }
    }
}

/// How the consumer does. Numbers only grow but for those named gauges.
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    /// Messages received, those that came again included.
    pub messages: AtomicU64,
    /// Of these, how many the server had sent before.
    pub redelivered: AtomicU64,
    /// Messages acknowledged: their content is committed.
    pub acknowledged: AtomicU64,
    /// Usage records of acknowledged messages.
    pub records: AtomicU64,
    /// Messages given to quarantine.
    pub quarantined: AtomicU64,
    /// Messages too large to be kept, and ended. None can be published to the stream as made here.
    pub refused: AtomicU64,
    /// Messages given back, to come again.
    pub given_back: AtomicU64,
    /// Watermarks published.
    pub watermarks: AtomicU64,
    /// Gauge: messages that wait for their commit.
    pub in_flight: AtomicU64,
    /// Gauge: their bytes.
    pub in_flight_bytes: AtomicU64,
    /// Gauge: messages in the stream that were not delivered yet, when last heard of.
    pub pending: AtomicU64,
    /// Gauge: 1 while messages are pulled.
    pub pulling: AtomicU64,
}

/// Consumes until `shutdown`, then settles what is under way. Ends for no other reason.
pub async fn consume(
    nats: Nats,
    cell: CellHandle,
    options: ConsumerOptions,
    status: Arc<ConsumerStatus>,
    shutdown: impl Future<Output = ()>,
) {
    let mut puller = Puller::new(nats.clone(), cell.clone(), options.clone(), Arc::clone(&status));
    tokio::select! {
        () = puller.work() => {}
        () = announce::announce(&nats, &cell, &options, &status) => {}
        () = shutdown => {}
    }
    puller.drain().await;
}

/// Pulls messages, submits them, and settles them with the server.
struct Puller {
    nats: Nats,
    cell: CellHandle,
    options: ConsumerOptions,
    status: Arc<ConsumerStatus>,
    connections: watch::Receiver<u64>,
    /// Absent until the server has stream and consumer, and after it refused a pull.
    consumer: Option<Consumer<PullConfig>>,
    /// The stream was there when it was last looked after.
    stream_known: bool,
    pull: Option<Pull>,
    under_way: FuturesUnordered<InFlight>,
    bytes_in_flight: usize,
    /// No pull before this.
    resume_at: Instant,
    pause: Duration,
}

/// Messages that were asked for.
struct Pull {
    messages: Batch,
    any: bool,
}

/// What the puller waits for.
enum Happened {
    Settled(Settled),
    Message(Option<Result<Message, async_nats::Error>>),
    Reconnected,
    Look,
}

impl Puller {
    fn new(nats: Nats, cell: CellHandle, options: ConsumerOptions, status: Arc<ConsumerStatus>) -> Self {
        Self {
            connections: nats.connections(),
            nats,
            cell,
            options,
            status,
            consumer: None,
            stream_known: false,
            pull: None,
            under_way: FuturesUnordered::new(),
            bytes_in_flight: 0,
            resume_at: Instant::now(),
            pause: PAUSES.0,
        }
    }

    async fn work(&mut self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pull_when_due().await;
            let Self { under_way, pull, connections, .. } = self;
            let happened = tokio::select! {
                biased;
                Some(settled) = under_way.next() => Happened::Settled(settled),
                Ok(()) = connections.changed() => Happened::Reconnected,
                message = next_message(pull) => Happened::Message(message),
                _ = look.tick() => Happened::Look,
            };
            match happened {
                Happened::Settled(settled) => self.settle(settled).await,
                Happened::Message(Some(Ok(message))) => self.take(message),
                Happened::Message(Some(Err(error))) => self.pull_failed(error.as_ref()),
                Happened::Message(None) => self.pull_ended(),
                // What was asked for on the old connection does not come any more.
                Happened::Reconnected => self.pull = None,
                Happened::Look => {}
            }
        }
    }

    /// Whether this process writes: only then usage is for it.
    fn writes(&self) -> bool {
        self.cell.status().writable.load(Ordering::Relaxed) == 1
    }

    /// Asks for messages where there is room for them and nothing speaks against it.
    async fn pull_when_due(&mut self) {
        if !self.writes() {
            self.hand_back().await;
            return;
        }
        if self.pull.is_some() || Instant::now() < self.resume_at || !self.nats.is_connected() {
            return;
        }
        let Some((messages, bytes)) = self.room() else { return };
        if self.consumer.is_none() {
            if self.stream_known && is_gone(&self.nats, &self.options).await {
                tracing::error!(
                    "the usage stream was deleted: it is made again; agents send what is not committed"
                );
                self.stream_known = false;
                self.resume_at = Instant::now() + MADE_AGAIN_AFTER;
                return;
            }
            match open(&self.nats, &self.options).await {
                Ok(consumer) => {
                    self.consumer = Some(consumer);
                    self.stream_known = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "usage cannot be pulled yet");
                    self.back_off();
                    return;
                }
            }
        }
        let Some(consumer) = &self.consumer else { return };
        let asked = consumer.batch().max_messages(messages).max_bytes(bytes).expires(PULL_EXPIRES);
        match asked.messages().await {
            Ok(messages) => {
                self.pull = Some(Pull { messages, any: false });
                self.status.pulling.store(1, Ordering::Relaxed);
            }
            Err(error) => self.pull_failed(&error),
        }
    }

    /// Messages and bytes to ask for. `None` while too little is free to be worth a request.
    fn room(&self) -> Option<(usize, usize)> {
        let messages_max = self.options.messages_in_flight_max.max(1);
        let largest = USAGE_MESSAGE_BYTES_MAX.saturating_add(ENVELOPE_BYTES_MAX);
        let bytes_max = self.options.bytes_in_flight_max.max(largest);
        let messages = messages_max.saturating_sub(self.under_way.len());
        let bytes = bytes_max.saturating_sub(self.bytes_in_flight);
        let worth = messages >= messages_max.div_ceil(4) && bytes >= largest.max(bytes_max / 4);
        worth.then(|| (messages.min(PULL_MESSAGES_MAX), bytes))
    }

    /// A pull that brought nothing may have waited at a stream that is gone: the server does not say.
    fn pull_ended(&mut self) {
        if !self.pull.take().is_some_and(|pull| pull.any) {
            self.consumer = None;
        }
    }

    /// Stream and consumer are looked after anew; at once where the pull had begun well, since then it
    /// may only have reached its bytes.
    fn pull_failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        tracing::debug!(error = chain(error), "a pull failed: looking after the stream");
        if !self.pull.take().is_some_and(|pull| pull.any) {
            self.back_off();
        }
        self.consumer = None;
    }

    fn back_off(&mut self) {
        self.resume_at = Instant::now() + self.pause;
        self.pause = self.pause.saturating_mul(2).min(PAUSES.1);
    }

    fn take(&mut self, message: Message) {
        if let Some(pull) = &mut self.pull {
            pull.any = true;
        }
        let status = &self.status;
        status.messages.fetch_add(1, Ordering::Relaxed);
        if let Ok(info) = message.info() {
            status.pending.store(info.pending, Ordering::Relaxed);
            status.redelivered.fetch_add(u64::from(info.delivered > 1), Ordering::Relaxed);
        }
        self.bytes_in_flight = self.bytes_in_flight.saturating_add(message.payload.len());
        self.under_way.push(take::take(&self.nats, &self.cell, &self.options, status, message));
        self.gauge();
    }

    fn gauge(&self) {
        self.status.in_flight.store(self.under_way.len() as u64, Ordering::Relaxed);
        self.status.in_flight_bytes.store(self.bytes_in_flight as u64, Ordering::Relaxed);
    }

    /// Settles one message and all others that are ready too: a group commit frees many at once, and
    /// then one watermark an agent will do.
    async fn settle(&mut self, first: Settled) {
        let mut marks: BTreeMap<(String, u64), Mark> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(Settled { acker, bytes, fate }) = next {
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
            let status = &self.status;
            match fate {
                Fate::Committed { mark, records } => {
                    status.records.fetch_add(u64::from(records), Ordering::Relaxed);
                    status.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.pause = PAUSES.0;
                    if let Some(mark) = mark {
                        let newest =
                            marks.entry((mark.agent.clone(), mark.epoch)).or_insert_with(|| mark.clone());
                        *newest = newest.clone().later(mark);
                    }
                    answer(&self.nats, &acker, AckKind::Ack).await;
                }
                Fate::TooLarge => {
                    status.refused.fetch_add(1, Ordering::Relaxed);
                    answer(&self.nats, &acker, AckKind::Term).await;
                }
                Fate::Later { after, ledger_failed } => {
                    status.given_back.fetch_add(1, Ordering::Relaxed);
                    if ledger_failed && Instant::now() >= self.resume_at {
                        self.back_off();
                    }
                    answer(&self.nats, &acker, AckKind::Nak(after)).await;
                }
            }
            next = self.under_way.next().now_or_never().flatten();
        }
        self.gauge();
        for mark in marks.into_values() {
            publish_mark(&self.nats, &self.options.subjects, &mark, &self.status).await;
        }
    }

    /// Gives back what was asked for and not taken, so that another can have it at once.
    async fn hand_back(&mut self) {
        self.status.pulling.store(0, Ordering::Relaxed);
        let Some(mut pull) = self.pull.take() else { return };
        while let Some(Some(Ok(message))) = pull.messages.next().now_or_never() {
            let (_, acker) = message.split();
            self.status.given_back.fetch_add(1, Ordering::Relaxed);
            answer(&self.nats, &acker, AckKind::Nak(None)).await;
        }
    }

    async fn drain(&mut self) {
        let settled = async {
            self.hand_back().await;
            while let Some(settled) = self.under_way.next().await {
                self.settle(settled).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIME_MAX, settled).await.is_err() {
            tracing::warn!(
                messages = self.under_way.len(),
                "not all commits were waited for: what they hold will come again"
            );
        }
        self.nats.flush(DRAIN_TIME_MAX).await;
    }
}

/// Answers the server, without waiting for its word: an answer that is lost brings the message again,
/// which adds nothing.
async fn answer(nats: &Nats, acker: &Acker, kind: AckKind) {
    if nats.is_connected()
        && let Err(error) = acker.ack_with(kind).await
    {
        tracing::debug!(%error, "a message was not settled; it will come again");
    }
}

async fn next_message(pull: &mut Option<Pull>) -> Option<Result<Message, async_nats::Error>> {
    match pull {
        Some(pull) => pull.messages.next().await,
        None => std::future::pending().await,
    }
}

/// Whether the server says that there is no usage stream.
async fn is_gone(nats: &Nats, options: &ConsumerOptions) -> bool {
    has_no_stream(nats.jetstream(), &options.subjects.usage_stream(options.partition)).await
}

/// Makes sure of the stream and of the durable consumer.
async fn open(nats: &Nats, options: &ConsumerOptions) -> Result<Consumer<PullConfig>, String> {
    let stream = usage_stream(&options.subjects, options.partition, options.stream);
    match ensure_stream(nats.jetstream(), &stream).await.map_err(|error| error.to_string())? {
        Ensured::Found | Ensured::Differs(_) => {}
        Ensured::Made => tracing::warn!(stream = stream.name, "the usage stream was not there and was made"),
        Ensured::Changed(fields) => {
            tracing::warn!(stream = stream.name, fields = fields.join(", "), "the usage stream was changed");
        }
    }
    let pending = options.messages_in_flight_max.max(1).saturating_mul(ACK_PENDING_FACTOR);
    let config = PullConfig {
        durable_name: Some(DURABLE.to_owned()),
        description: Some("The writer of the cell".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait,
        max_ack_pending: i64::try_from(pending).unwrap_or(i64::MAX),
        ..PullConfig::default()
    };
    let made = nats.jetstream().create_consumer_on_stream(config, stream.name.as_str()).await;
    made.map_err(|error| {
        format!("NATS refuses the consumer {DURABLE} of stream {}: {}", stream.name, chain(&error))
    })
}
