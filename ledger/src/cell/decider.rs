//! The deciding thread: turns commands into events, and events into batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use tokio::sync::{mpsc, oneshot};

use super::{
    BATCH_BYTES_MAX, BATCH_WORK_MAX, Batch, CellError, CellOptions, CellStatus, Clock, Ended, Runner,
    SNAPSHOT_EVERY_BYTES, SNAPSHOT_EVERY_EVENTS, Submission, Turn, Work, refuse,
};
use crate::core::rows::EventRows;
use crate::core::{Decision, Inconsistent, Outcome, Position, Request, apply, decide};
use crate::load::{self, Loaded, load};
use crate::log::StoredEvent;
use crate::snapshot::Snapshot;
use crate::store::{Commit, Reader};

/// Owns the state for one turn as the writer.
pub(super) struct Decider {
    reader: Arc<dyn Reader>,
    clock: Arc<dyn Clock>,
    status: Arc<CellStatus>,
    options: CellOptions,
    /// Batches up to this generation failed; the committing thread says so.
    pub(super) failed_generation: Arc<AtomicU64>,
    generation: u64,
    /// The committing thread changes it.
    pub(super) epoch: Arc<AtomicU64>,
    /// Events and bytes appended since the last snapshot.
    since_snapshot: (u64, u64),
}

impl Decider {
    pub(super) fn new(runner: &Runner, turn: &Turn) -> Self {
        Self {
            reader: Arc::clone(&runner.reader),
            clock: Arc::clone(&runner.clock),
            status: Arc::clone(&runner.status),
            options: runner.options.clone(),
            failed_generation: Arc::default(),
            generation: 1,
            epoch: Arc::new(AtomicU64::new(turn.epoch)),
            since_snapshot: (0, 0),
        }
    }

    /// Decides until the cell is closed or deposed. The batch that is sent last is committed still.
    pub(super) fn run(
        mut self,
        first: Loaded,
        work: &mut mpsc::Receiver<Work>,
        batches: &SyncSender<Batch>,
    ) -> Ended {
        // Absent after a failed commit, until the log could be loaded again.
        let mut state = Some(first);
        while let Some(first) = work.blocking_recv() {
            let mut loaded = match self.recover(state.take()) {
                Ok(loaded) => loaded,
                Err(error) => {
                    if refuse(first, &error) {
                        return Ended::Closed;
                    }
                    if error == CellError::Deposed {
                        return Ended::Deposed;
                    }
                    continue;
                }
            };
            let mut batch = self.open_batch(&loaded);
            match self.fill(&mut loaded, &mut batch, first, work) {
                Ok(closing) => {
                    self.tell(&loaded);
                    batch.snapshot = self.snapshot_when_due(&loaded, &batch.commit, closing);
                    state = Some(loaded);
                    if batches.send(batch).is_err() || closing {
                        return Ended::Closed;
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
        Ended::Closed
    }

    fn open_batch(&self, loaded: &Loaded) -> Batch {
        let commit = Commit {
            epoch: self.epoch.load(Ordering::Acquire),
            after: loaded.state.position(),
            after_hash: loaded.chain_hash,
            lease_until: self.options.lease_from(self.clock.now()),
            events: Vec::new(),
            rows: Vec::new(),
            cursors: Vec::new(),
        };
        Batch { generation: self.generation, commit, renew: false, releases: Vec::new(), snapshot: None }
    }

    /// Takes work until there is none or the batch is full. Answers with whether the cell is to close.
    fn fill(
        &self,
        loaded: &mut Loaded,
        batch: &mut Batch,
        first: Work,
        work: &mut mpsc::Receiver<Work>,
    ) -> Result<bool, Inconsistent> {
        let mut next = Some(first);
        let (mut taken, mut bytes) = (0_usize, 0);
        while let Some(one) = next {
            match one {
                Work::Close => return Ok(true),
                Work::Renew => batch.renew = true,
                Work::Read(read) => batch.releases.extend(read(Ok(&loaded.state))),
                Work::Advance(consumer, to, answer) => {
                    let cursors = &mut batch.commit.cursors;
                    cursors.retain(|(of, _)| *of != consumer);
                    cursors.push((consumer.into_owned(), to));
                    batch.releases.push(Box::new(move |done| drop(answer.send(done.map_err(Clone::clone)))));
                }
                Work::Command(submission, answer) => {
                    self.decide_one(loaded, batch, &submission, answer, &mut bytes)?;
                }
            }
            taken = taken.saturating_add(1);
            let full = taken >= BATCH_WORK_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { work.try_recv().ok() };
        }
        Ok(false)
    }

    /// Loads the state again where a commit failed.
    fn recover(&mut self, state: Option<Loaded>) -> Result<Loaded, CellError> {
        if self.status.writable.load(Ordering::Acquire) == 0 {
            return Err(CellError::Deposed);
        }
        let failed = self.failed_generation.load(Ordering::Acquire);
        if failed >= self.generation {
            self.generation = failed.saturating_add(1);
        } else if let Some(loaded) = state {
            return Ok(loaded);
        }
        let unavailable = |error: String| CellError::Unavailable(error);
        let head = self.reader.head().map_err(|error| unavailable(error.to_string()))?;
        // Under our own name it is our own epoch, or one that the committing thread does not know of yet.
        if head.epoch != self.epoch.load(Ordering::Acquire) && head.holder != self.options.holder {
            self.status.writable.store(0, Ordering::Release);
            return Err(CellError::Deposed);
        }
        let loaded = load(self.reader.as_ref(), load::From::Snapshot, |_, _| {});
        let loaded = loaded.map_err(|error| unavailable(error.to_string()))?;
        let position = loaded.state.position();
        tracing::warn!(%position, "the state was loaded again after a failed commit");
        self.status.tell_of(&loaded.state);
        Ok(loaded)
    }

    fn decide_one(
        &self,
        loaded: &mut Loaded,
        batch: &mut Batch,
        submission: &Submission,
        answer: oneshot::Sender<Result<Outcome, CellError>>,
        bytes: &mut usize,
    ) -> Result<(), Inconsistent> {
        let Loaded { state, chain_hash, .. } = loaded;
        let now = submission.at.unwrap_or_else(|| self.clock.now()).max(state.now());
        let request =
            Request { command: &submission.command, key: submission.key, now, chain_hash: *chain_hash };
        let outcome = match decide(state, &request) {
            Err(rejection) => Err(CellError::Rejected(rejection)),
            Ok(Decision::AlreadyApplied(answer)) => Ok(Outcome::AlreadyApplied(answer)),
            Ok(Decision::Happens(recorded)) => {
                let mut rows = EventRows::default();
                let position: Position = state.position().next();
                let applied = match apply(state, now, &recorded, &mut rows) {
                    Ok(applied) => applied,
                    Err(error) => {
                        drop(answer.send(Err(CellError::Unavailable(error.to_string()))));
                        return Err(error);
                    }
                };
                let stored = StoredEvent::chain(chain_hash, position, batch.commit.epoch, now, &recorded);
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

    /// Sizes that only the state knows.
    fn tell(&self, loaded: &Loaded) {
        let (state, status) = (&loaded.state, &self.status);
        let counts = state.counts();
        let set = |gauge: &AtomicU64, number: u64| gauge.store(number, Ordering::Relaxed);
        set(&status.suspense_instances, state.instances_in_suspense().len() as u64);
        set(&status.instances, u64::from(state.instance_count()));
        set(&status.usage_records, counts.usage_records);
        set(&status.quarantined_records, counts.quarantined_records);
        set(&status.quarantined_messages, counts.quarantined_messages);
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
