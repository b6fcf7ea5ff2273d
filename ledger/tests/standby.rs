//! Several candidates for one log: one writes, the others stand by, whatever happens to it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hourglass_ledger::cell::{Cell, CellError, CellHandle, CellOptions, Clock, LEASE_MIN};
use hourglass_ledger::core::{Command, Policy, Position};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use hourglass_units::{Currency, Instant};

use super::cell::{BEGIN, sqlite};
use super::support::{at, ms, open_cell, open_tenant};

/// A store that several candidates of one process share, as they would share a server.
#[derive(Clone)]
struct Shared {
    inner: Arc<Mutex<Box<dyn Store>>>,
    reader: Arc<dyn Reader>,
}

impl Shared {
    fn new(inner: Box<dyn Store>) -> Self {
        let reader = inner.reader();
        Self { inner: Arc::new(Mutex::new(inner)), reader }
    }
}

impl Store for Shared {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        self.inner.lock().unwrap().acquire(acquire)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        self.inner.lock().unwrap().commit(commit)
    }
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.inner.lock().unwrap().release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner.lock().unwrap().write_snapshot(snapshot)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader)
    }
}

/// A process's own clock, which the test sets.
pub(crate) struct OwnClock(AtomicI64);

impl OwnClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(ms(BEGIN))))
    }
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for OwnClock {
    fn now(&self) -> Instant {
        at(self.0.load(Ordering::SeqCst))
    }
}

fn candidate(store: &Shared, name: &str, clock: &Arc<OwnClock>) -> Cell {
    let options = CellOptions::candidate(name, LEASE_MIN);
    Cell::start(Box::new(store.clone()), Arc::clone(clock) as Arc<dyn Clock>, options, |_, _| {}).unwrap()
}

pub(crate) fn writes(handle: &CellHandle) -> bool {
    handle.status().writable.load(Ordering::Acquire) == 1
}

/// Waits for a condition; another thread brings it about.
#[expect(clippy::disallowed_methods, reason = "looks again a little later, up to a deadline")]
pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1_200 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{what} did not come about");
}

fn tenant(name: &str) -> Command {
    open_tenant(name, Currency::USD)
}

#[test]
fn a_standby_refuses_names_the_writer_and_takes_over_when_it_closes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Shared::new(sqlite(directory.path()));
    let clock = OwnClock::new();
    let first = candidate(&store, "a", &clock);
    wait_for("the first candidate writes", || writes(&first.handle()));
    let _opened = first.handle().submit_blocking(open_cell(Policy::default())).unwrap();
    let second = candidate(&store, "b", &clock);
    let standby = second.handle();
    wait_for("the standby follows", || standby.status().position.load(Ordering::Relaxed) == 1);
    let standing_by = CellError::StandingBy { writer: "a".to_owned() };
    assert_eq!(standby.submit_blocking(tenant("acme")).unwrap_err(), standing_by);
    assert_eq!(standby.read_blocking(|_| ()).unwrap_err(), standing_by);

    // It was following: what the first one wrote last is there at once.
    let _opened = first.handle().submit_blocking(tenant("acme")).unwrap();
    first.close();
    wait_for("the standby takes over", || writes(&standby));
    let known = standby.read_blocking(|state| (state.position(), state.tenants().count())).unwrap();
    assert_eq!(known, (Position::new(2), 1));
    assert_eq!(store.reader.head().unwrap().epoch, 2);
    let _opened = standby.submit_blocking(tenant("beta")).unwrap();
    second.close();
}

/// A writer that was frozen past its lease neither appends nor answers from what it knew.
#[test]
fn a_writer_whose_lease_ended_is_fenced_and_stands_by() {
    let directory = tempfile::tempdir().unwrap();
    let store = Shared::new(sqlite(directory.path()));
    let (clock, other_clock) = (OwnClock::new(), OwnClock::new());
    let frozen = candidate(&store, "a", &clock);
    wait_for("the first candidate writes", || writes(&frozen.handle()));
    let _opened = frozen.handle().submit_blocking(open_cell(Policy::default())).unwrap();

    // Nothing of the first process moves while the lock is held, not even its renewals.
    let second = {
        let held = store.inner.lock().unwrap();
        other_clock.advance(60_000);
        let second = candidate(&store, "b", &other_clock);
        drop(held);
        second
    };
    wait_for("the second takes over", || writes(&second.handle()));
    let _opened = second.handle().submit_blocking(tenant("acme")).unwrap();
    let head = store.reader.head().unwrap();

    // It wakes up, and its clock tells that the lease has ended.
    clock.advance(60_000);
    let handle = frozen.handle();
    let read = handle.read_blocking(|state| state.tenants().count());
    assert!(matches!(read, Err(CellError::Deposed | CellError::StandingBy { .. })), "{read:?}");
    let refused = handle.submit_blocking(tenant("late"));
    assert!(matches!(refused, Err(CellError::Deposed | CellError::StandingBy { .. })), "{refused:?}");
    assert_eq!(store.reader.head().unwrap().position, head.position);
    wait_for("it follows the new writer", || {
        handle.status().position.load(Ordering::Relaxed) == head.position.number()
    });
    // And takes its turn again.
    second.close();
    wait_for("it takes over", || writes(&handle));
    assert_eq!(handle.read_blocking(|state| state.tenants().count()).unwrap(), 1);
    frozen.close();
}

#[test]
fn an_idle_writer_keeps_its_lease() {
    let directory = tempfile::tempdir().unwrap();
    let store = Shared::new(sqlite(directory.path()));
    let clock = OwnClock::new();
    let cell = candidate(&store, "a", &clock);
    wait_for("it writes", || writes(&cell.handle()));
    let head = store.reader.head().unwrap();
    clock.advance(700);
    wait_for("the lease is renewed", || store.reader.head().unwrap().lease_until > head.lease_until);
    assert_eq!(store.reader.head().unwrap().position, head.position);
    cell.close();
}

#[test]
fn a_cursor_is_kept_with_the_log_and_fenced_like_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Shared::new(sqlite(directory.path()));
    let clock = OwnClock::new();
    let cell = candidate(&store, "a", &clock);
    wait_for("it writes", || writes(&cell.handle()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = cell.handle();
    runtime.block_on(handle.advance_cursor("feed", Position::new(7))).unwrap();
    assert_eq!(store.reader.cursor("feed").unwrap(), Some(Position::new(7)));

    let (now, lease_until) = (at(ms(BEGIN)), at(ms(BEGIN) + 600_000));
    let usurper = Acquire { holder: "b".to_owned(), now, lease_until, holder_is_gone: true };
    store.clone().acquire(&usurper).unwrap();
    let moved = runtime.block_on(handle.advance_cursor("feed", Position::new(8)));
    assert!(moved.is_err(), "{moved:?}");
    assert_eq!(store.reader.cursor("feed").unwrap(), Some(Position::new(7)));
    cell.close();
}

/// A process that comes back under its own name does not wait for the lease that it left.
#[test]
fn a_restarted_writer_takes_its_own_lease() {
    let directory = tempfile::tempdir().unwrap();
    let store = Shared::new(sqlite(directory.path()));
    let (now, lease_until) = (at(ms(BEGIN)), at(ms(BEGIN) + 600_000));
    let left = Acquire { holder: "a".to_owned(), now, lease_until, holder_is_gone: false };
    store.clone().acquire(&left).unwrap();
    let stranger = candidate(&store, "b", &OwnClock::new());
    let cell = candidate(&store, "a", &OwnClock::new());
    wait_for("it writes", || writes(&cell.handle()));
    assert!(!writes(&stranger.handle()));
    cell.close();
    stranger.close();
}
