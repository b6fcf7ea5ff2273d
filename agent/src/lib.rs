//! The metering agent of a GPU node.
//!
//! It reads which instances hold which GPUs (see [`Assignment`]), writes what they used to a log of its own,
//! publishes the log to JetStream, and frees it as the cell commits.
//!
//! # What it guarantees
//!
//! * **Log first.** A record is on disk, synced, before it is published. What was seen and could not be
//!   recorded is recorded later: an assignment says since when it holds, so nothing is estimated.
//! * **Only the cell frees.** A record leaves the log when a watermark says that the cell has committed it.
//!   The broker's acknowledgement frees nothing; what no watermark reaches in time is published again.
//! * **Repeats are harmless.** The cell takes the union of what it is told. So every doubt (a crash, a lost
//!   answer, damage in the log) is settled by saying it again.
//! * **Each start is a new epoch**, in which sequence numbers begin at 0. Batches of former epochs are
//!   published as they were; those of epochs that a cell may have forgotten, or that have a gap, are written
//!   anew under the present one.
//! * **Bounded.** The log by [`AgentOptions::spool_bytes_max`]; memory by what is in flight (4 MiB) and read
//!   ahead (1 MiB), however long the log is. While the log is full nothing is recorded, which is said loudly
//!   and caught up when there is room. Lost is only the time of instances whose file is gone when the agent
//!   ends with a full log, and that is counted.
//!
//! # What it does not do
//!
//! It does not know prices, tenants or the life cycle; it does not decide what is billed. It reads the
//! machine's clock, so a node whose clock is wrong reports wrong times: run NTP.
//!
//! One thread samples and writes ([`Status`] is its view), one runs everything else.

mod assignment;
mod connection;
mod evidence;
mod publisher;
mod recorder;
mod spool;
mod status;
mod tracker;
pub mod users;

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hourglass_units::{AgentId, Instant, Region};
use tokio::sync::{oneshot, watch};

pub use assignment::{ASSIGNMENT_BYTES_MAX, ASSIGNMENTS_MAX, Assignment, INSTANCE_GPUS_MAX, Inventory, Run};
pub use connection::{ConnectionError, Credentials, NatsOptions};
use evidence::Devices;
use publisher::{Goal, Publisher};
use recorder::{Order, Recorder, Until};
pub use spool::{Counts, SPOOL_BYTES_MIN, SpoolError};
pub use status::{Broker, Status};
pub use tracker::REPORT_MILLISECONDS_MAX;
use tracker::Tracker;

/// Most records of one message.
pub const BATCH_RECORDS_MAX: usize = 1_000;
/// The CloudEvents type of a message: its data is a protobuf `hourglass.v1.UsageBatch`.
pub const CLOUD_EVENT_TYPE: &str = "hourglass.usage_batch.v1";
/// After a failure of the log the agent opens it anew, at most so often.
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// The wall clock.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How to run an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Its name, which its subject and its credentials carry too.
    pub agent: AgentId,
    /// The region whose cell it reports to.
    pub region: Region,
    /// The partition of the region.
    pub partition: u32,
    /// Where the hypervisor writes assignments.
    pub inventory: PathBuf,
    /// Where the log is.
    pub spool: PathBuf,
    /// Bound on the log, at least [`SPOOL_BYTES_MIN`].
    pub spool_bytes_max: u64,
    /// Time between two samples.
    pub every: Duration,
    /// Records are cut at multiples of this since the Unix epoch; at most [`REPORT_MILLISECONDS_MAX`].
    pub interval_ms: i64,
    /// Without a watermark for so long, batches are published again.
    pub resend_after: Duration,
    /// How long the end may take for publishing what is left.
    pub stop_within: Duration,
    /// Whether to measure with NVML, where there is one.
    pub nvml: bool,
    /// Where the broker is.
    pub nats: NatsOptions,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The log cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// There can be no connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The client ended.
    #[error("the watermarks cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// A thread cannot be started, or died.
    #[error("the thread that records {0}")]
    Thread(String),
    /// [`drain`] had not ended in time.
    #[error("{unfreed} records are not committed after {} s; they stay in the log", .within.as_secs())]
    NotDrained {
        /// Records in the log.
        unfreed: u64,
        /// The time that was given.
        within: Duration,
    },
}

/// Runs an agent until `stop` ends; then takes a last sample, and publishes what it can within
/// [`AgentOptions::stop_within`]. Runs on one thread of tokio and starts one of its own.
pub async fn run(
    options: &AgentOptions,
    clock: Clock,
    stop: impl Future<Output = ()>,
) -> Result<Status, AgentError> {
    let mut stop = std::pin::pin!(stop);
    let mut devices = if options.nvml { Devices::load() } else { Devices::none() };
    loop {
        let mut part = Part::start(options, &clock, devices, Until::Stopped).await?;
        let trouble = tokio::select! {
            biased;
            () = &mut stop => {
                part.tell(Order::Stop);
                let flushed = tokio::time::timeout(options.stop_within, part.finish(Goal::Acknowledged)).await;
                if flushed.is_err() {
                    tracing::warn!("not all was published before the end; it stays in the log");
                }
                return Ok(part.close().await?.status);
            }
            trouble = part.publish() => trouble,
        };
        // Opening it reads all of it, tells what is damaged, and goes on with the rest.
        tracing::error!("the log is opened anew: {trouble}");
        part.tell(Order::Stop);
        devices = part.close().await?.devices;
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

/// Samples once, publishes, and waits until the cell has committed all of the log.
pub async fn drain(options: &AgentOptions, clock: Clock, within: Duration) -> Result<Status, AgentError> {
    let devices = if options.nvml { Devices::load() } else { Devices::none() };
    let mut part = Part::start(options, &clock, devices, Until::SampledOnce).await?;
    let drained = tokio::time::timeout(within, part.finish(Goal::Committed)).await;
    part.tell(Order::Stop);
    let unfreed = part.spool.counts().unfreed;
    let status = part.close().await?.status;
    match drained {
        Ok(Ok(())) => Ok(status),
        Ok(Err(_)) | Err(_) => Err(AgentError::NotDrained { unfreed, within }),
    }
}

/// An open log with those who write and publish it.
struct Part {
    spool: Arc<spool::Spool>,
    orders: Sender<Order>,
    publisher: Publisher,
    goal: watch::Sender<Goal>,
    /// Gives the recorder back when it has ended.
    recorded: oneshot::Receiver<Recorder>,
    recorder: Option<Recorder>,
}

impl Part {
    async fn start(
        options: &AgentOptions,
        clock: &Clock,
        devices: Devices,
        until: Until,
    ) -> Result<Self, AgentError> {
        // Before anything else runs, so it may block.
        let now = clock().unix_ms();
        let (spool, writer, cursors) =
            spool::open(&options.spool, &options.agent, options.spool_bytes_max, now)?;
        let connection = connection::connect(&options.nats, &options.agent).await?;
        let broker = Arc::new(Mutex::new(Broker::default()));
        let (orders, received) = std::sync::mpsc::channel();
        let publisher = Publisher::new(
            options,
            connection,
            Arc::clone(&spool),
            orders.clone(),
            Arc::clone(&broker),
            Arc::clone(clock),
        )
        .await?;
        let tracker = Tracker::new(cursors, options.interval_ms);
        let log = (Arc::clone(&spool), writer, tracker);
        let recorder = Recorder::new(options, log, devices, Arc::clone(clock), broker);
        let (done, recorded) = oneshot::channel();
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || done.send(recorder.run(&received, until)).ok())
            .map_err(|error| AgentError::Thread(format!("cannot be started: {error}")))?;
        let (goal, _) = watch::channel(Goal::Forever);
        Ok(Self { spool, orders, publisher, goal, recorded, recorder: None })
    }

    fn tell(&self, order: Order) {
        // It may have ended already.
        let _told = self.orders.send(order);
    }

    /// Publishes for ever, or until something is wrong.
    async fn publish(&mut self) -> String {
        let mut goal = self.goal.subscribe();
        tokio::select! {
            outcome = self.publisher.run(&mut goal) => match outcome {
                Ok(()) => "the publisher ended".to_owned(),
                Err(error) => error.to_string(),
            },
            recorder = &mut self.recorded => {
                self.recorder = recorder.ok();
                "the thread that records died".to_owned()
            }
        }
    }

    /// Publishes until the recorder has ended and the goal is reached.
    async fn finish(&mut self, goal: Goal) -> Result<(), spool::ReadError> {
        let mut goals = self.goal.subscribe();
        let recorded = async {
            if let Ok(recorder) = (&mut self.recorded).await {
                self.recorder = Some(recorder);
            }
            self.goal.send_replace(goal);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = self.publisher.run(&mut goals) => outcome,
            () = recorded => Ok(()),
        }
    }

    /// Waits for the recorder, which has been told to stop, and writes the last status.
    async fn close(mut self) -> Result<Recorder, AgentError> {
        let recorder = match self.recorder.take() {
            Some(recorder) => Some(recorder),
            None => self.recorded.await.ok(),
        };
        let mut recorder = recorder.ok_or_else(|| AgentError::Thread("died".to_owned()))?;
        // What was freed since the recorder ended.
        if let Err(error) = recorder.writer.delete_freed().and_then(|()| recorder.writer.save_state()) {
            tracing::warn!("the log's state cannot be written, so some of it is published again: {error}");
        }
        recorder.write_status();
        Ok(recorder)
    }
}
