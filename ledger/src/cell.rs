//! The cell: one thread owns the state, another one commits.
//!
//! The deciding thread drains its queue into a batch, decides and applies each command, and hands
//! events and rows to the committing thread; while that commits, the next batch is decided. Group
//! commit follows by itself: the slower the disk, the larger the batches.
//!
//! * No answer leaves before the commit that it depends on is durable. That holds for rejections and
//!   reads too: both may have seen what is not committed yet.
//! * When a commit fails, or its outcome is not known, every answer of its batch, and of batches
//!   decided on top of it, is [`CellError::Unavailable`]; the state is dropped and loaded again from
//!   the log. No guess survives. A caller that repeats its request under the same idempotency key
//!   gets the first answer if the commit did happen.
//! * A cell that was deposed never writes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use hourglass_units::Instant;
use tokio::sync::{mpsc, oneshot};

use crate::core::rows::EventRows;
use crate::core::{
    Command, Decision, IdempotencyKey, Outcome, Position, Rejection, Request, State, apply, decide,
};
use crate::load::{self, LoadError, Loaded, load};
use crate::log::StoredEvent;
use crate::snapshot::Snapshot;
use crate::store::{Acquire, AcquireError, Commit, CommitError, Reader, Store};

/// Most commands and reads that wait for the deciding thread.
pub const QUEUE_MAX: usize = 4_096;
/// Most commands and reads in one batch.
pub const BATCH_WORK_MAX: usize = 1_024;
/// Bytes of events after which a batch is closed.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// How long a lease runs from each commit on.
pub const LEASE_MILLISECONDS: i64 = 10_000;
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
    /// Another writer took over.
    #[error("this process is no longer the writer: send the request to the one that is")]
    Deposed,
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

/// How the cell does. All numbers only grow, but for the head's.
#[derive(Debug, Default)]
pub struct CellStatus {
    /// Last committed position.
    pub position: AtomicU64,
    /// The writer's epoch.
    pub epoch: AtomicU64,
    /// Commits done.
    pub commits: AtomicU64,
    /// Commits that failed.
    pub commit_failures: AtomicU64,
    /// Events committed.
    pub events: AtomicU64,
    /// Bytes of events committed.
    pub event_bytes: AtomicU64,
    /// Microseconds spent committing.
    pub commit_micros: AtomicU64,
    /// 1 while the cell can write.
    pub writable: AtomicU64,
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
    threads: Vec<JoinHandle<()>>,
}

type Release = Box<dyn FnOnce(Result<(), &CellError>) + Send>;
/// Runs on the state, or is told why there is none.
type ReadWork = Box<dyn FnOnce(Result<&State, &CellError>) -> Option<Release> + Send>;

enum Work {
    Command(Submission, oneshot::Sender<Result<Outcome, CellError>>),
    Read(ReadWork),
    Close,
}

/// What the deciding thread hands to the committing one.
struct Batch {
    /// Counts reloads: a batch of an earlier generation stands on a state that was dropped.
    generation: u64,
    commit: Commit,
    releases: Vec<Release>,
    snapshot: Option<Snapshot>,
}

impl Cell {
    /// Becomes the writer of the store, folds its log and starts to work.
    pub fn start(
        mut store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        holder: &str,
        holder_is_gone: bool,
        progress: impl FnMut(Position, Position),
    ) -> Result<Self, StartError> {
        let now = clock.now();
        let lease_until = now.saturating_add_ms(LEASE_MILLISECONDS);
        let head = store.acquire(&Acquire { holder: holder.to_owned(), now, lease_until, holder_is_gone })?;
        let reader = store.reader();
        let loaded = load(reader.as_ref(), load::From::Snapshot, progress)?;

        let status = Arc::new(CellStatus::default());
        status.position.store(loaded.state.position().number(), Ordering::Relaxed);
        status.epoch.store(head.epoch, Ordering::Relaxed);
        status.writable.store(1, Ordering::Relaxed);
        let failed_generation = Arc::new(AtomicU64::new(0));

        let (queue, work) = mpsc::channel(QUEUE_MAX);
        // One batch commits, one waits: what is decided beyond that waits in the queue.
        let (batches, to_commit) = sync_channel(1);
        let committer = Committer {
            store,
            clock: Arc::clone(&clock),
            status: Arc::clone(&status),
            failed_generation: Arc::clone(&failed_generation),
            epoch: head.epoch,
        };
        let decider = Decider {
            reader: Arc::clone(&reader),
            clock: Arc::clone(&clock),
            status: Arc::clone(&status),
            failed_generation,
            generation: 1,
            epoch: head.epoch,
            loaded: Some(loaded),
            since_snapshot: (0, 0),
        };
        let threads = vec![
            std::thread::Builder::new()
                .name("cell-commit".to_owned())
                .spawn(move || committer.run(&to_commit))?,
            std::thread::Builder::new().name("cell".to_owned()).spawn(move || decider.run(work, &batches))?,
        ];
        Ok(Self { handle: CellHandle { queue, reader, status, clock }, threads })
    }

    /// A handle to submit and read with.
    pub fn handle(&self) -> CellHandle {
        self.handle.clone()
    }

    /// Finishes what is queued, takes a snapshot, gives the lease back and ends the threads.
    pub fn close(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        // A cell whose threads ended by themselves is closed already.
        let _sent = self.handle.queue.blocking_send(Work::Close);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            // Dropping may happen where blocking is not allowed, so only ask.
            let _asked = self.handle.queue.try_send(Work::Close);
        }
    }
}

impl CellHandle {
    /// Submits a command and waits until its outcome is durable.
    pub async fn submit(&self, submission: impl Into<Submission>) -> Result<Outcome, CellError> {
        let (answer, outcome) = oneshot::channel();
        let submission = submission.into();
        submission.prepare();
        self.queue.send(Work::Command(submission, answer)).await.map_err(|_| CellError::Closed)?;
        outcome.await.map_err(|_| CellError::Closed)?
    }

    /// Submits a command and answers with where its outcome will be: for callers without a runtime,
    /// and for those who want several commands under way. Waits while the queue is full.
    pub fn submit_later(&self, submission: impl Into<Submission>) -> Result<Pending, CellError> {
        let (answer, outcome) = oneshot::channel();
        let submission = submission.into();
        submission.prepare();
        self.queue.blocking_send(Work::Command(submission, answer)).map_err(|_| CellError::Closed)?;
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
        let (work, answer) = read_work(read);
        self.queue.send(work).await.map_err(|_| CellError::Closed)?;
        answer.await.map_err(|_| CellError::Closed)?
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

/// An outcome to come.
#[must_use]
pub struct Pending(oneshot::Receiver<Result<Outcome, CellError>>);

impl Pending {
    /// Blocks until the outcome is durable.
    pub fn wait(self) -> Result<Outcome, CellError> {
        self.0.blocking_recv().map_err(|_| CellError::Closed)?
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

/// The deciding thread.
struct Decider {
    reader: Arc<dyn Reader>,
    clock: Arc<dyn Clock>,
    status: Arc<CellStatus>,
    failed_generation: Arc<AtomicU64>,
    generation: u64,
    epoch: u64,
    /// Absent after a failed commit, until the log could be loaded again.
    loaded: Option<Loaded>,
    /// Events and bytes appended since the last snapshot.
    since_snapshot: (u64, u64),
}

impl Decider {
    fn run(mut self, mut work: mpsc::Receiver<Work>, batches: &SyncSender<Batch>) {
        let mut closing = false;
        while !closing {
            let Some(first) = work.blocking_recv() else { break };
            if let Err(error) = self.recover() {
                closing = refuse(first, &error);
                continue;
            }
            let Some(mut loaded) = self.loaded.take() else { continue };
            let mut batch = self.open_batch(&loaded);
            let mut next = Some(first);
            let (mut taken, mut bytes) = (0, 0);
            let mut consistent = Ok(());
            while let Some(one) = next {
                consistent = match one {
                    Work::Close => {
                        closing = true;
                        Ok(())
                    }
                    Work::Read(read) => {
                        batch.releases.extend(read(Ok(&loaded.state)));
                        Ok(())
                    }
                    Work::Command(submission, answer) => {
                        self.decide_one(&mut loaded, &mut batch, &submission, answer, &mut bytes)
                    }
                };
                taken += 1;
                let full = taken >= BATCH_WORK_MAX || bytes >= BATCH_BYTES_MAX;
                next = if full || closing || consistent.is_err() { None } else { work.try_recv().ok() };
            }
            match consistent {
                Ok(()) => {
                    batch.snapshot = self.snapshot_when_due(&loaded, &batch.commit, closing);
                    self.loaded = Some(loaded);
                    if batches.send(batch).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    // A decision that cannot be applied: drop the batch with the state.
                    tracing::error!(%error, "an event could not be applied; the state is dropped");
                    let error = CellError::Unavailable(error.to_string());
                    batch.releases.into_iter().for_each(|release| release(Err(&error)));
                    self.generation = self.generation.saturating_add(1);
                }
            }
        }
        // Ends the committing thread after its last batch.
    }

    fn open_batch(&self, loaded: &Loaded) -> Batch {
        let commit = Commit {
            epoch: self.epoch,
            after: loaded.state.position(),
            after_hash: loaded.chain_hash,
            lease_until: self.clock.now().saturating_add_ms(LEASE_MILLISECONDS),
            events: Vec::new(),
            rows: Vec::new(),
        };
        Batch { generation: self.generation, commit, releases: Vec::new(), snapshot: None }
    }

    /// Loads the state again where a commit failed.
    fn recover(&mut self) -> Result<(), CellError> {
        if self.status.writable.load(Ordering::Acquire) == 0 {
            return Err(CellError::Deposed);
        }
        let failed = self.failed_generation.load(Ordering::Acquire);
        if failed >= self.generation {
            self.loaded = None;
            self.generation = failed.saturating_add(1);
        }
        if self.loaded.is_some() {
            return Ok(());
        }
        let unavailable = |error: String| CellError::Unavailable(error);
        let head = self.reader.head().map_err(|error| unavailable(error.to_string()))?;
        if head.epoch != self.epoch {
            self.status.writable.store(0, Ordering::Release);
            return Err(CellError::Deposed);
        }
        let loaded = load(self.reader.as_ref(), load::From::Snapshot, |_, _| {});
        let loaded = loaded.map_err(|error| unavailable(error.to_string()))?;
        tracing::warn!(position = %loaded.state.position(), "the state was loaded again after a failed commit");
        self.status.position.store(loaded.state.position().number(), Ordering::Relaxed);
        self.loaded = Some(loaded);
        Ok(())
    }

    fn decide_one(
        &self,
        loaded: &mut Loaded,
        batch: &mut Batch,
        submission: &Submission,
        answer: oneshot::Sender<Result<Outcome, CellError>>,
        bytes: &mut usize,
    ) -> Result<(), crate::core::Inconsistent> {
        let Loaded { state, chain_hash, .. } = loaded;
        let now = submission.at.unwrap_or_else(|| self.clock.now()).max(state.now());
        let request =
            Request { command: &submission.command, key: submission.key, now, chain_hash: *chain_hash };
        let outcome = match decide(state, &request) {
            Err(rejection) => Err(CellError::Rejected(rejection)),
            Ok(Decision::AlreadyApplied(answer)) => Ok(Outcome::AlreadyApplied(answer)),
            Ok(Decision::Happens(recorded)) => {
                let mut rows = EventRows::default();
                let position = state.position().next();
                let applied = match apply(state, now, &recorded, &mut rows) {
                    Ok(applied) => applied,
                    Err(error) => {
                        drop(answer.send(Err(CellError::Unavailable(error.to_string()))));
                        return Err(error);
                    }
                };
                let stored = StoredEvent::chain(chain_hash, position, self.epoch, now, &recorded);
                *chain_hash = stored.hash;
                *bytes = bytes.saturating_add(stored.payload.len());
                batch.commit.events.push(stored);
                batch.commit.rows.push(rows);
                Ok(Outcome::Applied(applied))
            }
        };
        // Whoever asked may have gone: then nobody is to be told.
        batch.releases.push(Box::new(move |done| {
            drop(answer.send(done.map_err(Clone::clone).and(outcome)));
        }));
        Ok(())
    }

    fn snapshot_when_due(&mut self, loaded: &Loaded, commit: &Commit, closing: bool) -> Option<Snapshot> {
        let bytes = commit.events.iter().map(|event| event.payload.len() as u64).fold(0, u64::saturating_add);
        let (events, total) = &mut self.since_snapshot;
        *events = events.saturating_add(commit.events.len() as u64);
        *total = total.saturating_add(bytes);
        let due = *events >= SNAPSHOT_EVERY_EVENTS && *total >= SNAPSHOT_EVERY_BYTES;
        if !(due || (closing && *events > 0)) {
            return None;
        }
        self.since_snapshot = (0, 0);
        Snapshot::of(&loaded.state, &loaded.chain_hash)
    }
}

/// Tells one that waits that the cell cannot work now. `true` where it asked to close.
fn refuse(work: Work, error: &CellError) -> bool {
    match work {
        Work::Close => return true,
        Work::Command(_, answer) => drop(answer.send(Err(error.clone()))),
        Work::Read(read) => drop(read(Err(error))),
    }
    false
}

/// The committing thread.
struct Committer {
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    status: Arc<CellStatus>,
    failed_generation: Arc<AtomicU64>,
    epoch: u64,
}

impl Committer {
    fn run(mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let Batch { generation, commit, releases, snapshot } = batch;
            let result = if generation <= self.failed_generation.load(Ordering::Acquire) {
                Err(CellError::Unavailable("an earlier commit failed".to_owned()))
            } else {
                self.commit(&commit).inspect_err(|error| {
                    tracing::error!(%error, "a commit failed");
                    self.status.commit_failures.fetch_add(1, Ordering::Relaxed);
                    if *error == CellError::Deposed {
                        self.status.writable.store(0, Ordering::Release);
                    }
                    self.failed_generation.store(generation, Ordering::Release);
                })
            };
            releases.into_iter().for_each(|release| release(result.as_ref().copied()));
            if let (Ok(()), Some(snapshot)) = (result, snapshot)
                && let Err(error) = self.store.write_snapshot(&snapshot)
            {
                tracing::warn!(%error, "no snapshot was written; recovery will take longer");
            }
        }
        if self.status.writable.swap(0, Ordering::AcqRel) == 1
            && let Err(error) = self.store.release(self.epoch, self.clock.now())
        {
            tracing::warn!(%error, "the lease was not given back; it ends by itself");
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), CellError> {
        let Some(last) = commit.events.last() else { return Ok(()) };
        #[expect(clippy::disallowed_methods, reason = "measures the disk; no decision sees it")]
        let started = std::time::Instant::now();
        let stored = self.store.commit(commit);
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match stored {
            Ok(()) => {
                let bytes =
                    commit.events.iter().map(|event| event.payload.len() as u64).fold(0, u64::saturating_add);
                self.status.position.store(last.position.number(), Ordering::Relaxed);
                self.status.commits.fetch_add(1, Ordering::Relaxed);
                self.status.events.fetch_add(commit.events.len() as u64, Ordering::Relaxed);
                self.status.event_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.status.commit_micros.fetch_add(micros, Ordering::Relaxed);
                Ok(())
            }
            // Nobody took over: a commit of ours that was given up for lost arrived after all, and what
            // was decided without it stands on a state that is old.
            Err(CommitError::Deposed { position, epoch }) if epoch == self.epoch => {
                let what = format!("an earlier commit arrived late: the log is at position {position}");
                Err(CellError::Unavailable(what))
            }
            Err(CommitError::Deposed { .. }) => Err(CellError::Deposed),
            Err(error @ (CommitError::NotStored(_) | CommitError::Unknown(_))) => {
                Err(CellError::Unavailable(error.to_string()))
            }
        }
    }
}
