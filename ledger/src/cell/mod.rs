//! The cell: one thread owns the state, another one commits.
//!
//! The deciding thread drains its queue into a batch, decides and applies each command, and hands
//! events and rows to the committing thread; while that commits, the next batch is decided. Group
//! commit follows by itself: the slower the disk, the larger the batches.
//!
//! * No answer leaves before the commit that it depends on is durable. That holds for rejections and
//!   reads too: both may have seen what is not committed yet.
//! * When a commit fails every answer of its batch, and of batches decided on top of it, is
//!   [`CellError::Unavailable`]; the state is dropped and loaded again from the log. No guess survives.
//!   A caller that repeats its request under the same idempotency key gets the first answer if the
//!   commit did happen.
//! * When the outcome of a commit is not known, it is settled before anything else is answered: the
//!   writer begins a new epoch, under which what was lost cannot land any more.
//! * A cell that was deposed writes no more under its epoch: the head of the log says whose turn it
//!   is, and every commit compares it.
//!
//! A cell has one of two [`WriterRole`]s. The only one that can write to its store writes from the start
//! until it is closed. A candidate *stands by*: it folds the log into its own state as others write
//! it, and takes over when the writer's lease ends. A candidate that is deposed stands by again.

mod committer;
mod decider;
mod standby;
mod status;

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use hourglass_units::Instant;
use tokio::sync::{mpsc, oneshot};

use crate::core::{Command, IdempotencyKey, Outcome, Position, Rejection, State};
use crate::load::{self, LoadError, Loaded, load};
use crate::snapshot::Snapshot;
use crate::store::{Acquire, AcquireError, Commit, Reader, Store};

use committer::Committer;
use decider::Decider;
pub use status::{COMMIT_EVENTS, COMMIT_MICROSECONDS, CellStatus, Histogram, LastClearing};

/// Most commands and reads that wait for the deciding thread.
pub const QUEUE_MAX: usize = 4_096;
/// Most commands and reads in one batch.
pub const BATCH_WORK_MAX: usize = 1_024;
/// Bytes of events after which a batch is closed.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// How long a lease runs from each commit on, unless told otherwise.
pub const LEASE: Duration = Duration::from_secs(10);
/// The shortest lease: a shorter one would end while a disk takes a breath.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest lease: nobody takes over from a writer that died before it ends.
pub const LEASE_MAX: Duration = Duration::from_secs(600);
/// A writer without work renews its lease so often while it runs.
const RENEWALS_A_LEASE: u32 = 3;
/// A snapshot is taken each time that so many bytes of events were appended.
pub const SNAPSHOT_EVERY_BYTES: u64 = 256 << 20;
/// And not more often than after so many events.
pub const SNAPSHOT_EVERY_EVENTS: u64 = 1_000;

/// Tells the time: the wall clock in production, the trace's own in a replay.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
}

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// The command was refused; nothing was written.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The commit failed or its outcome is not known. Repeat under the same idempotency key.
    #[error("the ledger could not commit: {0}; repeat the request with the same idempotency key")]
    Unavailable(String),
    /// Another writer took over while this was under way.
    #[error("this process is no longer the writer: send the request to the one that is")]
    Deposed,
    /// This process stands by.
    #[error("this process stands by, {writer} writes: send the request there")]
    StandingBy {
        /// Who writes, or wrote last.
        writer: String,
    },
    /// The cell is shut down.
    #[error("the cell is shut down")]
    Closed,
}

/// Why a cell could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another writer holds the lease, or the store does not answer.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The log cannot be folded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Whether others may want to write to the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterRole {
    /// Nobody else can: the store's lock is ours. Writes at once, and needs no lease.
    Sole,
    /// Others can. Stands by until the lease is free, and holds it from then on.
    Candidate,
}

/// How a cell is run.
#[derive(Debug, Clone)]
pub struct CellOptions {
    /// The name under which it writes; of its own among all that can write to the store.
    pub holder: String,
    /// Whether others may want to.
    pub role: WriterRole,
    /// How long the lease runs from each commit on, between [`LEASE_MIN`] and [`LEASE_MAX`].
    pub lease: Duration,
}

impl CellOptions {
    /// The only writer of its store.
    pub fn sole(holder: &str) -> Self {
        Self { holder: holder.to_owned(), role: WriterRole::Sole, lease: LEASE }
    }

    /// One of several.
    pub fn candidate(holder: &str, lease: Duration) -> Self {
        Self {
            holder: holder.to_owned(),
            role: WriterRole::Candidate,
            lease: lease.clamp(LEASE_MIN, LEASE_MAX),
        }
    }

    fn lease_from(&self, now: Instant) -> Instant {
        now.saturating_add_ms(i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A command to submit.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What to do.
    pub command: Command,
    /// Under which name, so that a repeat is recognised.
    pub key: Option<IdempotencyKey>,
    /// When it is decided; by the cell's clock where absent. Never taken back before the last event.
    pub at: Option<Instant>,
}

impl From<Command> for Submission {
    fn from(command: Command) -> Self {
        Self { command, key: None, at: None }
    }
}

impl Submission {
    /// Does what the caller's thread can do before the cell's one thread sees it.
    fn prepare(&self) {
        if let Command::AcceptUsage(batch) = &self.command {
            let _made = batch.compressed();
        }
    }
}

/// A handle on a running cell. Clones share it; the last one dropped shuts it down.
#[derive(Clone)]
pub struct CellHandle {
    queue: mpsc::Sender<Work>,
    reader: Arc<dyn Reader>,
    status: Arc<CellStatus>,
    clock: Arc<dyn Clock>,
}

/// The running cell: its threads.
pub struct Cell {
    handle: CellHandle,
    thread: Option<JoinHandle<()>>,
}

type Release = Box<dyn FnOnce(Result<(), &CellError>) + Send>;
/// Runs on the state, or is told why there is none.
type ReadWork = Box<dyn FnOnce(Result<&State, &CellError>) -> Option<Release> + Send>;

enum Work {
    Command(Box<Submission>, oneshot::Sender<Result<Outcome, CellError>>),
    Read(ReadWork),
    /// A consumer has done its work up to a position.
    Advance(Cow<'static, str>, Position, oneshot::Sender<Result<(), CellError>>),
    /// Nothing was committed for a while: the lease must not end.
    Renew,
    Close,
}

/// What the deciding thread hands to the committing one.
struct Batch {
    /// Counts reloads: a batch of an earlier generation stands on a state that was dropped.
    generation: u64,
    commit: Commit,
    /// Whether to commit even where there is nothing but the lease.
    renew: bool,
    releases: Vec<Release>,
    snapshot: Option<Snapshot>,
}

/// A turn as the writer: the epoch, until when the lease runs at first, and the state.
struct Turn {
    epoch: u64,
    lease_until: Instant,
    loaded: Loaded,
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The cell was closed, or nobody holds a handle any more.
    Closed,
    /// Another writer took over.
    Deposed,
}

impl Cell {
    /// Starts a cell. The only writer of its store has folded the log and writes on return; a
    /// candidate has not: [`CellStatus::writable`] tells when it does. `progress` is told what the
    /// only writer folds.
    pub fn start(
        mut store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        options: CellOptions,
        progress: impl FnMut(Position, Position),
    ) -> Result<Self, StartError> {
        let reader = store.reader();
        let status = Arc::new(CellStatus::default());
        let first = match options.role {
            WriterRole::Candidate => None,
            WriterRole::Sole => {
                let now = clock.now();
                let (holder, lease_until) = (options.holder.clone(), options.lease_from(now));
                // The lock of the store is ours, so whoever held the lease before is gone.
                let head = store.acquire(&Acquire { holder, now, lease_until, holder_is_gone: true })?;
                let loaded = load(reader.as_ref(), load::From::Snapshot, progress)?;
                status.tell_of(&loaded.state);
                status.epoch.store(head.epoch, Ordering::Relaxed);
                status.writable.store(1, Ordering::Release);
                Some(Turn { epoch: head.epoch, lease_until, loaded })
            }
        };
        let (queue, work) = mpsc::channel(QUEUE_MAX);
        let handle = CellHandle {
            queue,
            reader: Arc::clone(&reader),
            status: Arc::clone(&status),
            clock: Arc::clone(&clock),
        };
        let runner = Runner { store, reader, clock, status, options, renewals: handle.queue.downgrade() };
        let thread =
            std::thread::Builder::new().name("cell".to_owned()).spawn(move || runner.run(work, first))?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle to submit and read with.
    pub fn handle(&self) -> CellHandle {
        self.handle.clone()
    }

    /// Finishes what is queued, takes a snapshot, gives the lease back and ends the threads.
    pub fn close(mut self) {
        // A cell whose threads ended by themselves is closed already.
        let _sent = self.handle.queue.blocking_send(Work::Close);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Dropping may happen where blocking is not allowed, so only ask.
            let _asked = self.handle.queue.try_send(Work::Close);
        }
    }
}

/// What the cell's own thread runs: turns as the writer, and the time between them.
struct Runner {
    store: Box<dyn Store>,
    reader: Arc<dyn Reader>,
    clock: Arc<dyn Clock>,
    status: Arc<CellStatus>,
    options: CellOptions,
    /// To the cell's own queue, without keeping it open.
    renewals: mpsc::WeakSender<Work>,
}

impl Runner {
    fn run(mut self, mut work: mpsc::Receiver<Work>, mut turn: Option<Turn>) {
        // A process that comes back under its own name need not wait for its own lease.
        let mut returns = true;
        loop {
            let next = match (turn.take(), self.options.role) {
                (Some(turn), _) => Some(turn),
                (None, WriterRole::Candidate) => standby::stand_by(&mut self, &mut work, returns),
                (None, WriterRole::Sole) => refuse_all(&mut work, &CellError::Deposed),
            };
            returns = false;
            let Some(next) = next else { return };
            if self.write(next, &mut work) == Ended::Closed {
                return;
            }
        }
    }

    /// Writes until it is closed or deposed.
    fn write(&mut self, turn: Turn, work: &mut mpsc::Receiver<Work>) -> Ended {
        let decider = Decider::new(self, &turn);
        let Self { store, clock, status, options, renewals, .. } = self;
        let (snapshots, to_keep) = match store.snapshots() {
            None => (None, None),
            Some(keeper) => {
                let (snapshots, to_keep) = sync_channel(1);
                (Some(snapshots), Some((keeper, to_keep)))
            }
        };
        let committer = Committer {
            store: store.as_mut(),
            clock: clock.as_ref(),
            status: status.as_ref(),
            options,
            failed_generation: Arc::clone(&decider.failed_generation),
            epoch: Arc::clone(&decider.epoch),
            lease_until: turn.lease_until,
            in_doubt: false,
            snapshots,
        };
        let candidate = options.role == WriterRole::Candidate;
        let every = options.lease.checked_div(RENEWALS_A_LEASE).unwrap_or(LEASE_MIN);
        // One batch commits, one waits: what is decided beyond that waits in the queue.
        let (batches, to_commit) = sync_channel(1);
        let (turn_is_over, over) = sync_channel::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(move || committer.run(&to_commit));
            if let Some((keeper, snapshots)) = to_keep {
                scope.spawn(move || committer::keep_snapshots(keeper, &snapshots));
            }
            if candidate {
                scope.spawn(move || {
                    while over.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                        // Where the queue is full there are commits, and each renews the lease.
                        let Some(queue) = renewals.upgrade() else { return };
                        let _asked = queue.try_send(Work::Renew);
                    }
                });
            }
            let ended = decider.run(turn.loaded, work, &batches);
            drop((batches, turn_is_over));
            ended
        })
    }
}

/// Tells one that waits that the cell cannot work now. `true` where it asked to close.
fn refuse(work: Work, error: &CellError) -> bool {
    match work {
        Work::Close => return true,
        Work::Command(_, answer) => drop(answer.send(Err(error.clone()))),
        Work::Advance(_, _, answer) => drop(answer.send(Err(error.clone()))),
        Work::Read(read) => drop(read(Err(error))),
        Work::Renew => {}
    }
    false
}

/// Refuses until the cell is closed.
fn refuse_all(work: &mut mpsc::Receiver<Work>, error: &CellError) -> Option<Turn> {
    while let Some(one) = work.blocking_recv() {
        if refuse(one, error) {
            break;
        }
    }
    None
}

impl CellHandle {
    /// Submits a command and waits until its outcome is durable.
    pub async fn submit(&self, submission: impl Into<Submission>) -> Result<Outcome, CellError> {
        self.enqueue(submission).await?.await
    }

    /// Submits a command and answers, once it has its place in the queue, with where its outcome will
    /// be: for callers who want several commands under way, in an order of their own. Outcomes, and
    /// what [`Self::enqueue_read`] saw, come in the order of their places.
    pub async fn enqueue(&self, submission: impl Into<Submission>) -> Result<Pending, CellError> {
        let (answer, outcome) = oneshot::channel();
        let submission = submission.into();
        submission.prepare();
        self.queue.send(Work::Command(Box::new(submission), answer)).await.map_err(|_| CellError::Closed)?;
        Ok(Pending(outcome))
    }

    /// Submits a command and answers with where its outcome will be: for callers without a runtime,
    /// and for those who want several commands under way. Waits while the queue is full.
    pub fn submit_later(&self, submission: impl Into<Submission>) -> Result<Pending, CellError> {
        let (answer, outcome) = oneshot::channel();
        let submission = submission.into();
        submission.prepare();
        self.queue
            .blocking_send(Work::Command(Box::new(submission), answer))
            .map_err(|_| CellError::Closed)?;
        Ok(Pending(outcome))
    }

    /// Submits a command and blocks until its outcome is durable.
    pub fn submit_blocking(&self, submission: impl Into<Submission>) -> Result<Outcome, CellError> {
        self.submit_later(submission)?.wait()
    }

    /// Reads the state between two batches, exactly; answers when all that it saw is durable.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, CellError> {
        self.enqueue_read(read).await?.await
    }

    /// As [`Self::read`], and answers as soon as the read has its place in the queue.
    pub async fn enqueue_read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<Pending<T>, CellError> {
        let (work, answer) = read_work(read);
        self.queue.send(work).await.map_err(|_| CellError::Closed)?;
        Ok(Pending(answer))
    }

    /// As [`Self::read`], for callers without a runtime.
    pub fn read_blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, CellError> {
        let (work, answer) = read_work(read);
        self.queue.blocking_send(work).map_err(|_| CellError::Closed)?;
        answer.blocking_recv().map_err(|_| CellError::Closed)?
    }

    /// Keeps up to which position a consumer has done its work. It is part of the next commit, so a
    /// writer that was deposed cannot move it; read it back with [`Reader::cursor`].
    pub async fn advance_cursor(
        &self,
        consumer: impl Into<Cow<'static, str>>,
        to: Position,
    ) -> Result<(), CellError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(Work::Advance(consumer.into(), to, answer)).await.map_err(|_| CellError::Closed)?;
        done.await.map_err(|_| CellError::Closed)?
    }

    /// The rows and events that are committed, for lists and history.
    pub fn reader(&self) -> &Arc<dyn Reader> {
        &self.reader
    }

    /// What time it is by the cell's clock: for what expires between two events.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// How the cell does.
    pub fn status(&self) -> &CellStatus {
        &self.status
    }
}

/// An outcome to come, or what a read will have seen. As a future it may be polled again by another
/// task, and dropped.
#[must_use]
pub struct Pending<T = Outcome>(oneshot::Receiver<Result<T, CellError>>);

impl<T> Pending<T> {
    /// Blocks until the outcome is durable.
    pub fn wait(self) -> Result<T, CellError> {
        self.0.blocking_recv().map_err(|_| CellError::Closed)?
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, CellError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.map_err(|_| CellError::Closed)?)
    }
}

fn read_work<T: Send + 'static>(
    read: impl FnOnce(&State) -> T + Send + 'static,
) -> (Work, oneshot::Receiver<Result<T, CellError>>) {
    let (send, answer) = oneshot::channel();
    // Whoever asked may have gone: then nobody is to be told, and the result of `send` is of no use.
    let work = Work::Read(Box::new(move |state| match state {
        Ok(state) => {
            let seen = read(state);
            Some(Box::new(move |done| drop(send.send(done.map(|()| seen).map_err(Clone::clone)))))
        }
        Err(error) => {
            drop(send.send(Err(error.clone())));
            None
        }
    }));
    (work, answer)
}
