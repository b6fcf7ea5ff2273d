//! A store that fails, by seed, in every way that a real one can.
//!
//! It stands before another store and fails some of its commits: refused without a trace, stored but
//! the answer lost, stored long after the caller gave it up, or failed because another writer took
//! over in between. The same seed gives the same faults.

use std::sync::Arc;

use hourglass_units::Instant;

use super::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use crate::snapshot::Snapshot;

/// What happens to one commit in so many; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Nothing is stored, and the caller is told so.
    pub refused: u64,
    /// Nothing is stored, and the caller is told that it is not known.
    pub lost: u64,
    /// It is stored, and the caller is told that it is not known.
    pub answer_lost: u64,
    /// The caller is told that it is not known, and it arrives when the next commit or take-over comes, or
    /// after it: a server can go on with what a broken connection left to it.
    pub late: u64,
    /// Another writer takes over first.
    pub deposed: u64,
}

/// A store whose commits sometimes fail.
pub struct FaultyStore {
    inner: Box<dyn Store>,
    faults: Faults,
    draws: u64,
    /// The commit that arrives late.
    held: Option<Commit>,
    /// Whether it was asked to commit anything yet: before that a writer cannot start at all.
    is_in_use: bool,
    /// Faults that happened.
    pub injected: Arc<std::sync::atomic::AtomicU64>,
}

impl FaultyStore {
    /// Stands before `inner`.
    pub fn new(inner: Box<dyn Store>, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, draws: seed, held: None, is_in_use: false, injected: Arc::default() }
    }

    /// Whether one chance in `of` came up.
    fn draw(&mut self, of: u64) -> bool {
        // SplitMix64: the next number of a sequence that the seed fixes.
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.draws;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let hit = (mixed ^ (mixed >> 31)).checked_rem(of) == Some(0);
        if hit {
            self.injected.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        hit
    }

    fn held_arrives(&mut self) {
        if let Some(held) = self.held.take() {
            // Nobody waits for its outcome any more.
            let _late = self.inner.commit(&held);
        }
    }
}

impl Store for FaultyStore {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        let lost = StoreError("injected: an answer about the lease was lost".to_owned());
        if self.is_in_use && self.draw(self.faults.lost) {
            return Err(lost.into());
        }
        if self.held.is_some() && self.draw(2) {
            self.held_arrives();
        }
        let taken = self.inner.acquire(acquire)?;
        if self.is_in_use && self.draw(self.faults.answer_lost) { Err(lost.into()) } else { Ok(taken) }
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        self.is_in_use = true;
        self.held_arrives();
        if self.draw(self.faults.refused) {
            return Err(CommitError::NotStored("injected: refused".to_owned()));
        }
        if self.draw(self.faults.lost) {
            return Err(CommitError::Unknown("injected: lost".to_owned()));
        }
        if self.draw(self.faults.answer_lost) {
            self.inner.commit(commit)?;
            return Err(CommitError::Unknown("injected: stored, the answer lost".to_owned()));
        }
        if self.draw(self.faults.late) {
            self.held = Some(commit.clone());
            return Err(CommitError::Unknown("injected: stored later".to_owned()));
        }
        if self.draw(self.faults.deposed) {
            let (now, lease_until) = (commit.lease_until, commit.lease_until);
            let usurper = Acquire { holder: "usurper".to_owned(), now, lease_until, holder_is_gone: true };
            let _head = self.inner.acquire(&usurper);
        }
        self.inner.commit(commit)
    }

    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.inner.release(epoch, now)
    }

    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        if self.draw(self.faults.refused) {
            return Err(StoreError("injected: no snapshot".to_owned()));
        }
        self.inner.write_snapshot(snapshot)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}
