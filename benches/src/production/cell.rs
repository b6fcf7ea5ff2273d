//! The real cell on the real store, and its real usage consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant as Stopwatch, SystemTime, UNIX_EPOCH};

use hourglass_consumers::nats::{Nats, NatsOptions, connect};
use hourglass_consumers::usage::jetstream::{ConsumerOptions, ConsumerStatus, consume};
use hourglass_ledger::cell::{Cell, CellHandle, CellOptions, Clock};
use hourglass_ledger::core::Command;
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresStore};
use hourglass_proto::subjects::Subjects;
use hourglass_units::Instant;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::region::{Region, stream_limits};
use crate::workload::RECORDS;

/// The name under which the cell of a benchmark writes.
pub(crate) const HOLDER: &str = "bench";
/// How often what was done is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A production cell posts what was priced so often, by its own clock.
const TICK_MS: i64 = 60_000;

/// The machine's clock, set to another time; or one that stands until it is set.
pub(crate) enum BenchClock {
    /// Stands at a time, in milliseconds.
    Set(AtomicI64),
    /// Runs, so many milliseconds ahead.
    Runs(AtomicI64),
}

impl BenchClock {
    /// Stands at a time.
    pub(crate) fn at(time: Instant) -> Arc<Self> {
        Arc::new(Self::Set(AtomicI64::new(time.unix_ms())))
    }

    /// Runs from a time on.
    pub(crate) fn from(time: Instant) -> Arc<Self> {
        Arc::new(Self::Runs(AtomicI64::new(time.unix_ms() - wall_ms())))
    }

    /// Sets it. It is never set back.
    pub(crate) fn set(&self, time: Instant) {
        match self {
            Self::Set(ms) => ms.fetch_max(time.unix_ms(), Ordering::Relaxed),
            Self::Runs(ahead) => ahead.fetch_max(time.unix_ms() - wall_ms(), Ordering::Relaxed),
        };
    }
}

impl Clock for BenchClock {
    fn now(&self) -> Instant {
        let ms = match self {
            Self::Set(ms) => ms.load(Ordering::Relaxed),
            Self::Runs(ahead) => wall_ms() + ahead.load(Ordering::Relaxed),
        };
        Instant::from_unix_ms(ms).expect("a time of our days")
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set");
    i64::try_from(since.as_millis()).expect("a time of our days")
}

/// Starts a cell on a database and waits until it writes.
pub(crate) fn start(url: &str, clock: Arc<dyn Clock>, lease: Duration) -> Cell {
    let store = PostgresStore::open(&PostgresOptions::new(url)).expect("a store");
    let options = CellOptions::candidate(HOLDER, lease);
    let cell = Cell::start(Box::new(store), clock, options, |_, _| {}).expect("a cell");
    while cell.handle().status().writable.load(Ordering::Acquire) == 0 {
        std::thread::sleep(LOOK_EVERY);
    }
    cell
}

/// A connection to the server, made.
pub(crate) async fn nats(url: &str) -> Nats {
    let options = NatsOptions { servers: vec![url.to_owned()], ..NatsOptions::default() };
    let nats = connect(&options).await.expect("options that can work");
    nats.connections().wait_for(|count| *count > 0).await.expect("a connection");
    nats
}

/// The usage consumer while it runs.
pub(crate) struct Consuming {
    pub(crate) status: Arc<ConsumerStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Consuming {
    /// Starts it on the stream of a run.
    pub(crate) fn start(nats: &Nats, cell: &CellHandle, subjects: &Subjects) -> Self {
        let usual = ConsumerOptions::new(subjects.clone(), 0);
        let options = ConsumerOptions { stream: stream_limits(), ..usual };
        let status = Arc::new(ConsumerStatus::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let task = consume(nats.clone(), cell.clone(), options, Arc::clone(&status), stopped);
        Self { status, stop, task: tokio::spawn(task) }
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("a consumer that ends in order");
    }
}

/// Consumes the messages from `first` on that wait in the stream of a run: until each is priced,
/// durable and acknowledged, and all of it is posted. Answers with the seconds that it took.
///
/// The clock goes with the reports, so what was used long ago is not late, and a minute of the
/// region is a minute of the cell: it ticks, and closes an hour when that is over.
pub(crate) async fn consume_all(
    (nats, cell, clock): (&Nats, &CellHandle, &BenchClock),
    (region, subjects): (&Region, &Subjects),
    (from, first, messages): (Instant, usize, usize),
) -> f64 {
    let started = Stopwatch::now();
    let consuming = Consuming::start(nats, cell, subjects);
    let mut next_tick = region.reported_until(from, first).saturating_add_ms(TICK_MS);
    let records = (messages * RECORDS) as u64;
    while consuming.status.records.load(Ordering::Relaxed) < records {
        tokio::time::sleep(LOOK_EVERY).await;
        let received = consuming.status.messages.load(Ordering::Relaxed);
        let now = region.reported_until(from, first + usize::try_from(received).expect("a count"));
        clock.set(now);
        if now >= next_tick {
            let _ticked = cell.submit(Command::Tick).await.expect("a tick");
            next_tick = now.saturating_add_ms(TICK_MS);
        }
    }
    let _posted = cell.submit(Command::Tick).await.expect("a tick");
    let took = started.elapsed().as_secs_f64();
    consuming.stop().await;
    took
}
