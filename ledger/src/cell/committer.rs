//! The committing thread: makes batches durable, then lets their answers go.
//!
//! A commit of unknown outcome may land at any time after it was given up for lost, so whatever is decided
//! next could stand on a state that is about to change. It is settled before anything else is answered:
//! the writer takes the lease again, from itself. That begins an epoch under which the lost commit can
//! land no more, and the head that it answers with tells whether it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use hourglass_units::Instant;

use super::status::{COMMIT_EVENTS, COMMIT_MICROSECONDS};
use super::{Batch, CellError, CellOptions, CellStatus, Clock, WriterRole};
use crate::core::EventKind;
use crate::snapshot::Snapshot;
use crate::store::{Acquire, AcquireError, Commit, CommitError, Head, Snapshots, Store, StoreError};

/// Owns the store for one turn as the writer.
pub(super) struct Committer<'a> {
    pub(super) store: &'a mut dyn Store,
    pub(super) clock: &'a dyn Clock,
    pub(super) status: &'a CellStatus,
    pub(super) options: &'a CellOptions,
    pub(super) failed_generation: Arc<AtomicU64>,
    /// The deciding thread reads it, this one changes it.
    pub(super) epoch: Arc<AtomicU64>,
    /// Until when nobody else can have taken over.
    pub(super) lease_until: Instant,
    /// Whether a commit of unknown outcome may land yet.
    pub(super) in_doubt: bool,
    /// To the thread that keeps snapshots, where the store can do that beside commits.
    pub(super) snapshots: Option<SyncSender<Snapshot>>,
}

impl Committer<'_> {
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let Batch { generation, commit, renew, releases, snapshot } = batch;
            let result = if generation <= self.failed_generation.load(Ordering::Acquire) {
                Err(CellError::Unavailable("an earlier commit failed".to_owned()))
            } else {
                self.commit(&commit, renew).inspect_err(|error| {
                    tracing::error!(%error, "a commit failed");
                    self.status.commit_failures.fetch_add(1, Ordering::Relaxed);
                    if *error == CellError::Deposed {
                        self.status.writable.store(0, Ordering::Release);
                    }
                })
            };
            // What was decided on top of it is of another epoch, even where it turned out to be stored.
            if result.is_err() || commit.epoch != self.epoch() {
                self.failed_generation.fetch_max(generation, Ordering::AcqRel);
            }
            releases.into_iter().for_each(|release| release(result.as_ref().copied()));
            if let (Ok(()), Some(snapshot)) = (result, snapshot) {
                self.keep(snapshot);
            }
        }
        // Its last snapshot may be on its way still.
        self.snapshots = None;
        if self.status.writable.swap(0, Ordering::AcqRel) == 1
            && let Err(error) = self.store.release(self.epoch(), self.clock.now())
        {
            tracing::warn!(%error, "the lease was not given back; it ends by itself");
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn keep(&mut self, snapshot: Snapshot) {
        match &self.snapshots {
            // One that is written now is recent enough.
            Some(snapshots) => drop(snapshots.try_send(snapshot)),
            None => tell(self.store.write_snapshot(&snapshot)),
        }
    }

    fn commit(&mut self, commit: &Commit, renew: bool) -> Result<(), CellError> {
        if self.in_doubt {
            self.settle()?;
            return Err(CellError::Unavailable("an earlier commit had to be settled first".to_owned()));
        }
        let nothing = commit.events.is_empty() && commit.cursors.is_empty();
        // While the lease runs nobody else can have written, so what was read is the latest. A process
        // that was frozen past its lease must ask before it answers.
        if nothing && !renew && self.clock.now() < self.lease_until {
            return Ok(());
        }
        let _span = tracing::info_span!(
            "ledger.commit",
            events = commit.events.len(),
            after = commit.after.number(),
            epoch = commit.epoch
        )
        .entered();
        #[expect(clippy::disallowed_methods, reason = "measures the disk; no decision sees it")]
        let started = std::time::Instant::now();
        let stored = self.store.commit(commit);
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match stored {
            Ok(()) => {
                self.lease_until = commit.lease_until;
                self.count(commit, micros);
                Ok(())
            }
            Err(CommitError::Deposed { .. }) => Err(CellError::Deposed),
            Err(error @ CommitError::NotStored(_)) => Err(CellError::Unavailable(error.to_string())),
            Err(error @ CommitError::Unknown(_)) => {
                self.in_doubt = true;
                let head = self.settle()?;
                match commit.events.last() {
                    Some(last) if last.hash == head.hash => {
                        self.count(commit, micros);
                        Ok(())
                    }
                    _ => Err(CellError::Unavailable(error.to_string())),
                }
            }
        }
    }

    /// Begins an epoch of its own, so that nothing of an earlier one can land any more. Answers with the
    /// head, which is certain from then on.
    fn settle(&mut self) -> Result<Head, CellError> {
        let now = self.clock.now();
        let (holder, lease_until) = (self.options.holder.clone(), self.options.lease_from(now));
        let holder_is_gone = self.options.role == WriterRole::Sole;
        match self.store.acquire(&Acquire { holder, now, lease_until, holder_is_gone }) {
            Ok(head) => {
                tracing::warn!(epoch = head.epoch, position = %head.position, "the outcome of a commit was settled");
                (self.in_doubt, self.lease_until) = (false, lease_until);
                self.epoch.store(head.epoch, Ordering::Release);
                self.status.epoch.store(head.epoch, Ordering::Relaxed);
                Ok(head)
            }
            Err(AcquireError::Held { .. }) => Err(CellError::Deposed),
            Err(AcquireError::Store(error)) => Err(CellError::Unavailable(error.to_string())),
        }
    }

    fn count(&self, commit: &Commit, micros: u64) {
        let Some(last) = commit.events.last() else { return };
        let (status, events) = (self.status, commit.events.len() as u64);
        let bytes = commit.events.iter().map(|event| event.payload.len() as u64).fold(0, u64::saturating_add);
        status.position.store(last.position.number(), Ordering::Relaxed);
        let cleared = EventKind::MarketCleared.number();
        if let Some(clearing) = commit.events.iter().rfind(|event| event.kind == cleared) {
            status.clearings.tell(clearing.position.number());
        }
        status.commits.fetch_add(1, Ordering::Relaxed);
        status.events.fetch_add(events, Ordering::Relaxed);
        status.event_bytes.fetch_add(bytes, Ordering::Relaxed);
        status.commit_micros.record(micros, &COMMIT_MICROSECONDS);
        status.commit_events.record(events, &COMMIT_EVENTS);
    }
}

/// Keeps snapshots until nobody hands any over.
pub(super) fn keep_snapshots(mut store: Box<dyn Snapshots>, snapshots: &Receiver<Snapshot>) {
    for snapshot in snapshots {
        tell(store.write(&snapshot));
    }
}

fn tell(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::warn!(%error, "no snapshot was written; recovery will take longer");
    }
}
