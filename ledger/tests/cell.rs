//! The cell's promises: no answer before its commit, no guess after a failed one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use hourglass_ledger::cell::{Cell, CellError, CellOptions, Clock, Submission};
use hourglass_ledger::core::{Command, IdempotencyKey, Outcome, Policy};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::sqlite::{OpenError, SqliteOptions, SqliteReader, SqliteStore};
use hourglass_ledger::store::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use hourglass_ledger::verify::verify;
use hourglass_units::{Currency, Instant};

use super::support::{MINUTE, at, batch, card, ms, open_cell, open_tenant, record, registration, start};

pub(crate) const BEGIN: &str = "2026-01-01T00:00:00Z";

/// A clock that stands still: time comes with the submissions.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Instant {
        at(ms(BEGIN))
    }
}

/// A store that can be killed: from then on it stores nothing and says so to nobody. It tells when it
/// is gone, so that its directory can be opened again.
pub(crate) struct Mortal {
    inner: Option<Box<dyn Store>>,
    alive: Arc<AtomicBool>,
    gone: Sender<()>,
}

impl Mortal {
    pub(crate) fn new(inner: Box<dyn Store>) -> (Self, Arc<AtomicBool>, Receiver<()>) {
        let (alive, (gone, is_gone)) = (Arc::new(AtomicBool::new(true)), channel());
        (Self { inner: Some(inner), alive: Arc::clone(&alive), gone }, alive, is_gone)
    }

    fn inner(&mut self) -> Result<&mut Box<dyn Store>, StoreError> {
        let alive = self.alive.load(Ordering::SeqCst);
        self.inner.as_mut().filter(|_| alive).ok_or_else(|| StoreError("killed".to_owned()))
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.inner = None;
        let _nobody_waits = self.gone.send(());
    }
}

impl Store for Mortal {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        self.inner()?.acquire(acquire)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        self.inner().map_err(|error| CommitError::Unknown(error.0))?.commit(commit)
    }
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.inner()?.release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner()?.write_snapshot(snapshot)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.as_ref().unwrap().reader()
    }
}

/// Opens a store that nobody else has open. A server that another test starts inherits the lock of one that
/// was just closed, for as long as it takes to become that server: then it is asked for again.
#[expect(clippy::disallowed_methods, reason = "asks again a little later, up to a deadline")]
pub(crate) fn sqlite(directory: &std::path::Path) -> Box<dyn Store> {
    for _ in 0..200 {
        match SqliteStore::open(directory, SqliteOptions { durable: false }) {
            Err(OpenError::InUse { .. }) => std::thread::sleep(Duration::from_millis(25)),
            opened => return Box::new(opened.unwrap()),
        }
    }
    panic!("{} stays locked", directory.display());
}

pub(crate) fn start_cell(store: Box<dyn Store>) -> Cell {
    Cell::start(store, Arc::new(Still), CellOptions::sole("test"), |_, _| {}).unwrap()
}

fn submission(command: Command, key: &str, now: i64) -> Submission {
    Submission { command, key: Some(IdempotencyKey::new("test", key)), at: Some(at(now)) }
}

/// An open cell with a running instance.
fn open(store: Box<dyn Store>) -> Cell {
    let cell = start_cell(store);
    let begin = ms(BEGIN);
    for command in [
        open_cell(Policy::default()),
        Command::PublishRateCard(card(Currency::USD, 1, begin, 2_950_000_000)),
        open_tenant("acme", Currency::USD),
        Command::RegisterInstance(registration("i-1", "acme", 8)),
        start("i-1", begin),
    ] {
        let _done = cell.handle().submit_blocking(Submission { command, key: None, at: None }).unwrap();
    }
    cell
}

/// One record of the minute `n`.
fn minute(n: u64) -> Command {
    let from = ms(BEGIN) + i64::try_from(n).unwrap() * MINUTE;
    Command::AcceptUsage(batch("agent-1", n, vec![record("i-1", 8, from, from + MINUTE)]))
}

#[test]
fn no_answer_leaves_before_its_commit_and_commits_are_shared() {
    let directory = tempfile::tempdir().unwrap();
    let cell = open(sqlite(directory.path()));
    let end = ms(BEGIN) + 2_000 * MINUTE;
    std::thread::scope(|scope| {
        for caller in 0..8_u64 {
            let handle = cell.handle();
            scope.spawn(move || {
                for round in 0..10 {
                    let first = caller * 100 + round * 10;
                    let pending: Vec<_> = (first..first + 10)
                        .map(|n| handle.submit_later(submission(minute(n), &n.to_string(), end)).unwrap())
                        .collect();
                    for pending in pending {
                        let answer = pending.wait().unwrap().answer().clone();
                        assert!(answer.position <= handle.reader().head().unwrap().position);
                    }
                    let seen = handle.read_blocking(|state| state.position()).unwrap();
                    assert!(
                        seen <= handle.reader().head().unwrap().position,
                        "reads wait for their commit too"
                    );
                    // A rejection may have seen what is not committed, so it waits as well.
                    let rejected =
                        handle.submit_blocking(Command::PublishRateCard(card(Currency::USD, 7, end, 1)));
                    assert!(matches!(rejected, Err(CellError::Rejected(_))));
                }
            });
        }
    });
    let status = cell.handle();
    let status = status.status();
    let (events, commits) = (status.events.load(Ordering::Relaxed), status.commits.load(Ordering::Relaxed));
    assert_eq!(events, 805);
    assert!(commits < events, "group commit: {commits} commits for {events} events");
    cell.close();
}

/// Whoever verifies a ledger that is in use must not see ghosts.
#[test]
fn b3_a_ledger_that_grows_meanwhile_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let cell = open(sqlite(directory.path()));
    let end = ms(BEGIN) + 10_000 * MINUTE;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let handle = cell.handle();
        scope.spawn(|| {
            let handle = handle;
            for n in 0.. {
                let command = if n % 5 == 0 { Command::Tick } else { minute(n) };
                let _done =
                    handle.submit_blocking(Submission { command, key: None, at: Some(at(end)) }).unwrap();
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let scratch = tempfile::tempdir().unwrap();
            let reader = SqliteReader::open(directory.path()).unwrap();
            let report = verify(&reader, scratch.path(), |_, _| {}).unwrap();
            if !report.is_sound() {
                stop.store(true, Ordering::SeqCst);
            }
            assert_eq!(report.findings, []);
        }
        stop.store(true, Ordering::SeqCst);
    });
    cell.close();
}

/// When a commit lands that was given up for lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lands {
    /// Before its writer asks for the lease again.
    First,
    /// When so many more commits have come, and just before the next.
    AfterCommits(u32),
}

/// Holds back one commit, once it is armed: its outcome is not known.
pub(crate) struct Late {
    inner: Box<dyn Store>,
    lands: Lands,
    armed: Arc<AtomicBool>,
    held: Option<Commit>,
}

impl Late {
    pub(crate) fn new(inner: Box<dyn Store>, lands: Lands) -> (Box<Self>, Arc<AtomicBool>) {
        let armed = Arc::new(AtomicBool::new(false));
        (Box::new(Self { inner, lands, armed: Arc::clone(&armed), held: None }), armed)
    }

    /// Nobody waits for its outcome any more.
    fn land(&mut self) {
        drop(self.held.take().map(|held| self.inner.commit(&held)));
    }
}

impl Store for Late {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        if self.lands == Lands::First {
            self.land();
        }
        self.inner.acquire(acquire)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.held = Some(commit.clone());
            return Err(CommitError::Unknown("the connection broke".to_owned()));
        }
        match &mut self.lands {
            Lands::AfterCommits(more) if *more > 0 && self.held.is_some() => *more -= 1,
            _ => self.land(),
        }
        self.inner.commit(commit)
    }
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.inner.release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner.write_snapshot(snapshot)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}

/// The writer settles what became of it, and goes on.
#[test]
fn a_commit_of_unknown_outcome_is_settled_at_once() {
    let check = |lands,
                 first_heard: fn(&Result<Outcome, CellError>) -> bool,
                 repeated: fn(&Outcome) -> bool| {
        let directory = tempfile::tempdir().unwrap();
        let (store, armed) = Late::new(sqlite(directory.path()), lands);
        let cell = open(store);
        let handle = cell.handle();
        let epoch = || handle.status().epoch.load(Ordering::SeqCst);
        let before = epoch();
        armed.store(true, Ordering::SeqCst);
        let submit =
            |key: &str, n: u64| handle.submit_blocking(submission(minute(n), key, ms(BEGIN) + 10 * MINUTE));
        let first = submit("a", 1);
        assert!(first_heard(&first), "{lands:?}: {first:?}");
        assert_eq!(epoch(), before + 1, "{lands:?}");
        assert!(matches!(submit("b", 2), Ok(Outcome::Applied(_))), "{lands:?}: the writer is not deposed");
        assert!(repeated(&submit("a", 1).unwrap()), "{lands:?}");
        assert!(matches!(submit("a", 1), Ok(Outcome::AlreadyApplied(_))), "{lands:?}");
        cell.close();
    };
    let is_stored = |first: &Result<Outcome, CellError>| matches!(first, Ok(Outcome::Applied(_)));
    check(Lands::First, is_stored, |again| matches!(again, Outcome::AlreadyApplied(_)));
    for more in 0..3 {
        let is_lost = |first: &Result<Outcome, CellError>| matches!(first, Err(CellError::Unavailable(_)));
        check(Lands::AfterCommits(more), is_lost, |again| matches!(again, Outcome::Applied(_)));
    }
}

/// B-3: a closed cell leaves a snapshot, and the next one starts from it as it would from the log.
#[test]
fn b3_a_closed_cell_comes_back_from_its_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, gone) = Mortal::new(sqlite(directory.path()));
    let cell = open(Box::new(store));
    for n in 0..20 {
        let _done = cell
            .handle()
            .submit_blocking(submission(minute(n), &n.to_string(), ms(BEGIN) + 60 * MINUTE))
            .unwrap();
    }
    let live = cell.handle().read_blocking(Clone::clone).unwrap();
    cell.close();
    gone.recv_timeout(Duration::from_secs(60)).unwrap();
    let reader = SqliteReader::open(directory.path()).unwrap();
    let loaded = load(&reader, From::Snapshot, |_, _| {}).unwrap();
    assert_eq!(loaded.from_snapshot, live.position());
    assert_eq!(loaded.state, live);
    let cell = start_cell(sqlite(directory.path()));
    assert_eq!(cell.handle().read_blocking(Clone::clone).unwrap(), live);
    let again = cell.handle().submit_blocking(submission(minute(3), "3", ms(BEGIN) + 60 * MINUTE)).unwrap();
    assert!(matches!(again, Outcome::AlreadyApplied(_)), "keys outlive the process");
    cell.close();
    assert_eq!(cell_error_after_close(&directory), CellError::Closed);
}

fn cell_error_after_close(directory: &tempfile::TempDir) -> CellError {
    let cell = start_cell(sqlite(directory.path()));
    let handle = cell.handle();
    cell.close();
    handle.submit_blocking(Command::Tick).unwrap_err()
}
