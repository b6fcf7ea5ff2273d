//! How long a report takes to be seen: from the moment that it was due to be published until a read
//! of the balance shows what it costs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hourglass_ledger::cell::{CellHandle, LEASE};
use hourglass_ledger::core::{Command, State};
use hourglass_proto::subjects::Subjects;
use hourglass_test_servers::{Nats as NatsServer, NatsOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::cell::{self, BenchClock, Consuming};
use super::region::{Region, make_stream, subjects};
use super::{postgres, runtime, unbilled};
use crate::embedded::submit_all;
use crate::figure::{Figure, percentile};
use crate::workload::{RECORDS, opens_at};

/// The pace.
const RECORDS_A_SECOND: usize = 100_000;
/// Time between two messages at that pace.
const MESSAGE_EVERY: Duration = Duration::from_millis(1_000 * RECORDS as u64 / RECORDS_A_SECOND as u64);
/// A read of the balance begins so often.
const READ_EVERY: Duration = Duration::from_millis(2);
/// Several ticks are to fall into a run; a production cell ticks once a minute.
const TICK_EVERY: Duration = Duration::from_secs(10);
/// Whose balance is read. Each message bills each tenant something.
const WATCHED: usize = 0;
/// After this the run has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it: instances that report as often as the pace wants, for so many seconds. In the first
/// round each reports for the first time; what is measured comes behind it.
pub(crate) fn latency(quick: bool) -> Vec<Figure> {
    let (instances, seconds) = if quick { (100_000, 5) } else { (1_000_000, 30) };
    let report = Duration::from_secs((instances / RECORDS_A_SECOND) as u64);
    let (postgres, nats_server) = (postgres(), NatsServer::start(&NatsOptions::default()));
    let region = Arc::new(Region::new(instances, report));
    // Away from the end of an hour: that has a figure of its own.
    let clock = BenchClock::from(opens_at().saturating_add_ms(600_000));
    let cell = cell::start(&postgres.database(), clock.clone(), LEASE);
    let handle = cell.handle();
    submit_all(&handle, region.set_up(opens_at()).map(|command| (opens_at(), command)));

    let first = region.messages_a_round();
    let messages = first + seconds * RECORDS_A_SECOND / RECORDS;
    let paced = runtime().block_on(async {
        let nats = cell::nats(&nats_server.url()).await;
        let client = async_nats::connect(nats_server.url()).await.expect("a connection");
        let jetstream = async_nats::jetstream::new(client);
        let run = subjects("latency");
        make_stream(&jetstream, &run).await;
        let consuming = Consuming::start(&nats, &handle, &run);
        let ticking = tick(handle.clone());
        let (seen, reads) = mpsc::unbounded_channel();
        let reading = read(handle.clone(), seen);
        let from = clock_now(&clock).saturating_add_ms(-(report.as_millis() as i64));
        let publishing = tokio::spawn(publish_at_pace(jetstream, run, Arc::clone(&region), from, messages));
        let paced = watch(&region, messages, reads, publishing).await;
        reading.abort();
        ticking.abort();
        consuming.stop().await;
        paced
    });
    let (close, longest) = close_of_hour(&handle, &clock);
    drop(handle);
    cell.close();

    let Paced { mut latencies, pace } = paced;
    let mut latencies = latencies.split_off(first);
    let mut at = |of_hundred: usize| percentile(&mut latencies, of_hundred);
    let figure = |name, value, unit, target| Figure { name, value, unit, ceiling: None, target };
    vec![
        Figure {
            ceiling: Some(RECORDS_A_SECOND as f64),
            ..figure("pace of publishing", pace, "records/s", "the pace is held")
        },
        figure("publish to balance, p50", at(50), "ms", "-"),
        figure("publish to balance, p99", at(99), "ms", "<= 250 ms"),
        figure("close of an hour, lines of all", close, "s", "-"),
        figure("the longest of its ticks", longest, "s", "less than a lease"),
    ]
}

fn clock_now(clock: &BenchClock) -> hourglass_units::Instant {
    hourglass_ledger::cell::Clock::now(clock)
}

/// What came of a run.
struct Paced {
    /// Of each message.
    latencies: Vec<Duration>,
    /// Records a second that were published.
    pace: f64,
}

/// Publishes messages when they are due, and answers with when the first was due and how long it took
/// until the last one had left.
async fn publish_at_pace(
    jetstream: Context,
    subjects: Subjects,
    region: Arc<Region>,
    from: hourglass_units::Instant,
    messages: usize,
) -> (Instant, Duration) {
    let mut under_way = FuturesUnordered::new();
    let mut beat = tokio::time::interval(MESSAGE_EVERY);
    // A message that is late is sent at once, and its latency counts from when it was due.
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    for message in 0..messages {
        let (agent, bytes) = region.message(from, message);
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => break,
                Some(stored) = under_way.next() => drop::<Result<_, _>>(stored),
            }
        }
        let sent = jetstream.publish(subjects.usage(0, agent.as_str()), bytes).await;
        under_way.push(sent.expect("a message that is sent").into_future());
    }
    let took = started.elapsed();
    while let Some(stored) = under_way.next().await {
        stored.expect("a message that is stored");
    }
    (started, took)
}

/// Ticks, as the clock of a production cell does.
pub(super) fn tick(cell: CellHandle) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK_EVERY);
        loop {
            ticks.tick().await;
            let _posted = cell.submit(Command::Tick).await.expect("a tick");
        }
    })
}

/// Begins to read the balance again and again, without waiting for the reads before.
fn read(cell: CellHandle, seen: mpsc::UnboundedSender<(Instant, f64)>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut reads = tokio::time::interval(READ_EVERY);
        reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            reads.tick().await;
            let (cell, seen) = (cell.clone(), seen.clone());
            tokio::spawn(async move {
                if let Ok((posted, unposted)) = cell.read(|state| unbilled(state, WATCHED)).await {
                    // Whoever watched may have seen enough.
                    let _told = seen.send((Instant::now(), posted + unposted));
                }
            });
        }
    })
}

/// Finds for each message when a read first showed what it costs.
async fn watch(
    region: &Region,
    messages: usize,
    mut reads: mpsc::UnboundedReceiver<(Instant, f64)>,
    publishing: JoinHandle<(Instant, Duration)>,
) -> Paced {
    let mut seen_at = Vec::with_capacity(messages);
    // Costs are rounded to nano-GPU-hours: half of the last one tells well whether it is there.
    let mut expected = 0.0;
    let mut thresholds: VecDeque<f64> = (0..messages)
        .map(|message| {
            let costs = region.billed(message, WATCHED);
            expected += costs;
            expected - costs / 2.0
        })
        .collect();
    while let Some(threshold) = thresholds.front() {
        let read = tokio::time::timeout(PATIENCE, reads.recv()).await.expect("a read in time");
        let (at, balance) = read.expect("reads until all is seen");
        if balance < *threshold {
            continue;
        }
        while thresholds.pop_front_if(|threshold| *threshold <= balance).is_some() {
            seen_at.push(at);
        }
    }
    let (started, took) = publishing.await.expect("a publisher that ends in order");
    let due = |message: usize| started + MESSAGE_EVERY * u32::try_from(message).expect("a count");
    let latencies = seen_at.iter().enumerate();
    let latencies = latencies.map(|(message, at)| at.saturating_duration_since(due(message))).collect();
    Paced { latencies, pace: (messages * RECORDS) as f64 / took.as_secs_f64() }
}

/// Seconds until the lines of an hour that is over are in the ledger, one of each instance; and those of
/// the longest of the ticks that write them, since all else waits for that one.
fn close_of_hour(cell: &CellHandle, clock: &BenchClock) -> (f64, f64) {
    clock.set(opens_at().saturating_add_ms(3_601_000));
    let (started, mut longest) = (Instant::now(), 0.0_f64);
    loop {
        let tick = Instant::now();
        let _closed = cell.submit_blocking(Command::Tick).expect("a tick");
        longest = longest.max(tick.elapsed().as_secs_f64());
        if !cell.read_blocking(State::has_lines_to_write).expect("a cell that runs") {
            return (started.elapsed().as_secs_f64(), longest);
        }
    }
}
