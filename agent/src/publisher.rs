//! From the log to the broker, and the cell's watermarks back.
//!
//! An acknowledgement of the broker frees nothing: it says only that the batch need not be sent again for
//! now. What the cell's watermark does not reach in time is sent again, since a stream can lose what it
//! acknowledged, or be deleted. Sending again begins with a few batches and goes on as the watermark moves:
//! where the cell is merely slow or gone, the stream must not fill with repeats.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder, PublishError};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use hourglass_proto::subjects::Subjects;
use hourglass_proto::v1::Watermark;
use hourglass_units::AgentId;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::pause;
use crate::recorder::Order;
use crate::spool::{Mark, Place, ReadError, Spool, Stored};
use crate::status::Broker;
use crate::{AgentOptions, Clock};

/// Most batches that are published and not acknowledged.
const IN_FLIGHT_BATCHES_MAX: usize = 256;
/// Most bytes of them.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// Bytes that are read from the log at once.
const READ_BYTES: usize = 1 << 20;
/// The broker acknowledges within this time, or the batch is sent again.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(10);
/// Longest pause after the broker refused.
const REFUSED_MILLISECONDS_MAX: u64 = 10_000;
/// Batches that are sent again before the watermark must move.
const RESEND_BATCHES: u64 = 64;
/// Longest time without progress before batches are sent yet again.
const RESEND_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// The same trouble is logged again after so long.
const NAG_AFTER: Duration = Duration::from_secs(300);

/// How far the publisher goes before it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It does not.
    Forever,
    /// Until the broker has acknowledged all of the log.
    Acknowledged,
    /// Until the cell has committed all of the log.
    Committed,
}

/// Publishes a log.
pub(crate) struct Publisher {
    spool: Arc<Spool>,
    orders: Sender<Order>,
    broker: Arc<Mutex<Broker>>,
    clock: Clock,
    agent: AgentId,
    subject: String,
    context: Context,
    connected: watch::Receiver<bool>,
    watermarks: Subscriber,

    /// Read and not published yet, and where reading goes on.
    ahead: VecDeque<Stored>,
    place: Place,
    /// After the last batch that was published.
    sent_to: Mark,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<(), PublishError>>>,
    /// What is in flight, in order: where each began, where it ends, its bytes.
    flying: VecDeque<(Mark, Mark, usize)>,
    flying_bytes: usize,
    /// Most batches in flight: one after a failure, doubled with each acknowledgement.
    window: usize,
    failures: u32,
    quiet_until: Option<Instant>,
    said: Option<(String, Instant)>,

    resend_after: Duration,
    /// How long to wait now: it doubles each time that sending again changed nothing.
    patience: Duration,
    /// When the watermark moved last, or something was published while nothing was waiting for it.
    moved_at: Instant,
    /// Counts the times that batches were sent again; part of the message id.
    attempt: u64,
    resend: Option<Resend>,
}

/// Batches are being sent again.
#[derive(Debug, Clone, Copy)]
struct Resend {
    /// How many more before the watermark must move.
    left: u64,
    window: u64,
    /// Up to where they had been sent before.
    until: Mark,
}

impl Publisher {
    /// Listens to the agent's watermarks and stands at the beginning of the log.
    pub(crate) async fn new(
        options: &AgentOptions,
        (client, connected): (Client, watch::Receiver<bool>),
        spool: Arc<Spool>,
        orders: Sender<Order>,
        broker: Arc<Mutex<Broker>>,
        clock: Clock,
    ) -> Result<Self, async_nats::SubscribeError> {
        let subjects = Subjects::of_region(options.region.as_str());
        let watermarks = client.subscribe(subjects.watermark(options.agent.as_str())).await?;
        let context =
            ContextBuilder::new().timeout(ACKNOWLEDGE_WITHIN).ack_timeout(ACKNOWLEDGE_WITHIN).build(client);
        Ok(Self {
            spool,
            orders,
            broker,
            clock,
            agent: options.agent.clone(),
            subject: subjects.usage(options.partition, options.agent.as_str()),
            context,
            connected,
            watermarks,
            ahead: VecDeque::new(),
            place: Place::default(),
            sent_to: Mark::default(),
            in_flight: FuturesOrdered::new(),
            flying: VecDeque::new(),
            flying_bytes: 0,
            window: 1,
            failures: 0,
            quiet_until: None,
            said: None,
            resend_after: options.resend_after,
            patience: options.resend_after,
            moved_at: Instant::now(),
            attempt: 0,
            resend: None,
        })
    }

    /// Publishes until the goal is reached. An error means that the log has to be opened anew.
    pub(crate) async fn run(&mut self, goal: &mut watch::Receiver<Goal>) -> Result<(), ReadError> {
        let spool = Arc::clone(&self.spool);
        loop {
            self.send_again_if_due();
            self.fill().await?;
            if self.reached(*goal.borrow_and_update()) {
                return Ok(());
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(message) = self.watermarks.next() => self.take_watermark(&message),
                Some(outcome) = self.in_flight.next() => self.take_answer(outcome),
                Ok(()) = self.connected.changed() => self.take_connection(),
                () = spool.appended.notified() => {}
                Ok(()) = goal.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    fn reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Forever => false,
            Goal::Acknowledged => self.flying.is_empty() && self.sent_to >= self.spool.end(),
            Goal::Committed => self.spool.first_unfreed().is_none(),
        }
    }

    /// When something is due although nothing happens. Answers and connections wake the loop themselves.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let mut at = now + RESEND_AFTER_MAX;
        if *self.connected.borrow() {
            at = self.quiet_until.map_or(at, |quiet| quiet.min(at));
            if self.flying.is_empty() && self.is_something_waiting() {
                at = at.min(self.moved_at + self.patience);
            }
        }
        at
    }

    /// Publishes as much as the window takes.
    async fn fill(&mut self) -> Result<(), ReadError> {
        if !*self.connected.borrow() || self.quiet_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.quiet_until = None;
        while self.flying.len() < self.window && self.flying_bytes < IN_FLIGHT_BYTES_MAX {
            if self.resend.is_some_and(|resend| resend.left == 0) {
                return Ok(());
            }
            if self.ahead.is_empty() {
                self.read_ahead().await?;
            }
            let Some(batch) = self.ahead.pop_front() else { return Ok(()) };
            self.publish(batch).await;
            if self.quiet_until.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// On a thread of its own: the log may be on a slow disk, and watermarks must not wait for it.
    async fn read_ahead(&mut self) -> Result<(), ReadError> {
        if self.place.mark >= self.spool.end() {
            return Ok(());
        }
        let (spool, mut place) = (Arc::clone(&self.spool), self.place);
        let read = tokio::task::spawn_blocking(move || {
            let batches = spool.read(&mut place, READ_BYTES, IN_FLIGHT_BATCHES_MAX)?;
            Ok((batches, place))
        });
        // A thread that cannot be had or panicked is tried again.
        let Ok(read) = read.await else { return Ok(()) };
        let (batches, place) = read?;
        self.ahead.extend(batches);
        self.place = place;
        Ok(())
    }

    async fn publish(&mut self, batch: Stored) {
        let from = Mark { epoch: batch.epoch, seq: batch.first_seq };
        let to = Mark { epoch: batch.epoch, seq: batch.next_seq() };
        if !self.is_something_waiting() {
            self.moved_at = Instant::now();
        }
        let length = batch.bytes.len();
        let headers = self.headers(&batch);
        let sent = self.context.publish_with_headers(self.subject.clone(), headers, batch.bytes).await;
        match sent {
            Ok(answer) => {
                self.in_flight.push_back(answer.into_future().map(|answer| answer.map(drop)).boxed());
                self.flying.push_back((from, to, length));
                self.flying_bytes = self.flying_bytes.saturating_add(length);
                self.sent_to = self.sent_to.max(to);
                let resent = self.resend.is_some();
                self.tell(|broker| {
                    broker.published_batches = broker.published_batches.saturating_add(1);
                    broker.resent_batches = broker.resent_batches.saturating_add(u64::from(resent));
                });
                self.count_resent(to);
            }
            Err(error) => self.go_back(from, &error),
        }
    }

    /// Two ids of a message: one for the broker, which drops what it saw within its window, so that what is
    /// sent again for want of a watermark must carry another; and the event's own, which never changes.
    fn headers(&self, batch: &Stored) -> HeaderMap {
        let id = format!("{}-{}-{}", self.agent, batch.epoch, batch.first_seq);
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, format!("{id}-{}", self.attempt));
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", id);
        headers.insert("ce-source", self.agent.as_str());
        headers.insert("ce-type", crate::CLOUD_EVENT_TYPE);
        headers.insert("content-type", "application/protobuf");
        headers
    }

    /// The broker answered for the oldest batch in flight.
    fn take_answer(&mut self, outcome: Result<(), PublishError>) {
        let Some((from, _, length)) = self.flying.pop_front() else { return };
        self.flying_bytes = self.flying_bytes.saturating_sub(length);
        match outcome {
            Ok(()) => {
                self.window = self.window.saturating_mul(2).min(IN_FLIGHT_BATCHES_MAX);
                self.failures = 0;
                if self.said.take().is_some() {
                    tracing::warn!("the broker takes usage again");
                    self.tell(|broker| broker.trouble = None);
                }
            }
            Err(error) => self.go_back(from, &error),
        }
    }

    /// Publishes again from `from` on, after a pause. The message ids stay: the broker may have stored some.
    fn go_back(&mut self, from: Mark, error: &PublishError) {
        let text = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let now = Instant::now();
        let due = self.said.as_ref().is_none_or(|(said, at)| *said != text || now >= *at + NAG_AFTER);
        if due {
            tracing::warn!("the broker does not take usage, which waits in the log: {text}");
            self.tell(|broker| broker.trouble = Some(text.clone()));
            self.said = Some((text, now));
        }
        let wait = pause(self.agent.as_str(), self.failures, REFUSED_MILLISECONDS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.quiet_until = Some(now + wait);
        self.rewind(from);
    }

    /// Forgets what is in flight and stands at `from`.
    fn rewind(&mut self, from: Mark) {
        self.in_flight.clear();
        self.flying.clear();
        self.flying_bytes = 0;
        self.ahead.clear();
        self.place = Place::at(from);
        self.sent_to = self.sent_to.min(from);
        self.window = 1;
    }

    fn take_connection(&mut self) {
        let connected = *self.connected.borrow_and_update();
        self.tell(|broker| broker.connected = connected);
        if connected {
            self.failures = 0;
            self.quiet_until = None;
        }
        // Answers to what was in flight may never come.
        if let Some((from, _, _)) = self.flying.front() {
            self.rewind(*from);
        }
    }

    fn take_watermark(&mut self, message: &Message) {
        let watermark = match Watermark::decode(&*message.payload) {
            Ok(watermark) if watermark.agent_id == self.agent.as_str() => watermark,
            Ok(watermark) => {
                tracing::error!("a watermark of agent {} came on our subject", watermark.agent_id);
                return;
            }
            Err(error) => {
                tracing::error!("a watermark cannot be read: {error}");
                return;
            }
        };
        if !watermark.quarantined.is_empty() {
            let reasons: Vec<_> = watermark.quarantined.iter().map(|record| &*record.reason).collect();
            tracing::error!(
                "the cell put {} records in quarantine: {}",
                reasons.len(),
                reasons.join(", ").chars().take(200).collect::<String>()
            );
        }
        let mark = Mark { epoch: watermark.epoch, seq: watermark.next_seq };
        match self.spool.free(mark) {
            Some(0) => {}
            Some(_) => self.watermark_moved(),
            None => tracing::error!(
                "the cell has {} records of epoch {}, more than this agent ever wrote: does another one run \
                 under the name {}?",
                mark.seq,
                mark.epoch,
                self.agent
            ),
        }
    }

    fn watermark_moved(&mut self) {
        self.moved_at = Instant::now();
        self.patience = self.resend_after;
        let now = (self.clock)().unix_ms();
        self.tell(|broker| broker.committed_at_unix_ms = now);
        if self.spool.has_free_segments() {
            // The recorder may have ended already.
            let _told = self.orders.send(Order::Freed);
        }
        let Some(resend) = &mut self.resend else { return };
        resend.window = resend.window.saturating_mul(2);
        resend.left = resend.window;
        let until = resend.until;
        let freed_to = self.spool.first_unfreed().unwrap_or_else(|| self.spool.end());
        if freed_to > self.sent_to {
            // The watermark went past what was sent again: the stream holds the rest as well.
            self.resend = None;
            self.ahead.clear();
            self.place = Place::at(until.max(freed_to));
            self.sent_to = self.place.mark;
        }
    }

    fn is_something_waiting(&self) -> bool {
        self.spool.first_unfreed().is_some_and(|unfreed| unfreed < self.sent_to)
    }

    /// What was acknowledged and is not committed in time is sent again from its beginning on, each time
    /// after twice the pause: a cell that is away does not come back for repeats.
    fn send_again_if_due(&mut self) {
        let now = Instant::now();
        let due = now >= self.moved_at + self.patience && self.flying.is_empty();
        let Some(unfreed) = self.spool.first_unfreed().filter(|unfreed| due && *unfreed < self.sent_to)
        else {
            return;
        };
        if !*self.connected.borrow() {
            return;
        }
        tracing::warn!(
            "no watermark of the cell for {} s: what is not committed is published again",
            self.patience.as_secs()
        );
        let until = self.resend.map_or(self.sent_to, |resend| resend.until.max(self.sent_to));
        self.attempt = self.attempt.saturating_add(1);
        self.moved_at = now;
        self.patience = self.patience.saturating_mul(2).min(RESEND_AFTER_MAX.max(self.resend_after));
        self.rewind(unfreed);
        self.resend = Some(Resend { left: RESEND_BATCHES, window: RESEND_BATCHES, until });
    }

    fn count_resent(&mut self, to: Mark) {
        if let Some(resend) = &mut self.resend {
            resend.left = resend.left.saturating_sub(1);
            if to >= resend.until {
                self.resend = None;
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Broker)) {
        change(&mut self.broker.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
