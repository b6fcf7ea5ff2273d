//! Usage from a real nats-server into a real cell, with everything failing that can.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex};

use async_nats::jetstream::Context;
use futures_util::StreamExt;
use hourglass_ledger::core::{Event, Position, Recorded};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::faulty::{Faults, FaultyStore};
use hourglass_ledger::store::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use hourglass_test_servers as servers;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::api::ApiConfig;
use crate::nats::{NatsOptions, connect};
use crate::testing::{Server, with_config};

const BEGIN: &str = "2026-01-01T00:30:00Z";
const RECORDS: u64 = 10;
const RECORD_MS: i64 = 1_000;

/// A batch of an agent's own instance: record `n` is the second `n` after `BEGIN`.
fn batch(agent: &str, number: u64) -> Bytes {
    let begin: hourglass_units::Instant = BEGIN.parse().unwrap();
    let first_seq = number * RECORDS;
    let record = |seq: u64| {
        let start = begin.unix_ms() + i64::try_from(seq).unwrap() * RECORD_MS;
        hourglass_proto::v1::UsageRecord {
            instance_id: format!("i-{agent}"),
            session: 1,
            start_unix_ms: start,
            end_unix_ms: start + RECORD_MS,
            gpus: 8,
            evidence: None,
        }
    };
    let records = (first_seq..first_seq + RECORDS).map(record).collect();
    let agent_id = agent.to_owned();
    hourglass_proto::v1::UsageBatch { agent_id, epoch: 1, first_seq, records }.encode_to_vec().into()
}

/// A consumer that runs until told to stop.
struct Running {
    status: Arc<ConsumerStatus>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(nats: &Nats, server: &Server, options: ConsumerOptions) -> Self {
        let status = Arc::new(ConsumerStatus::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let task = consume(nats.clone(), server.cell.clone(), options, Arc::clone(&status), stopped);
        Self { status, stop, task: tokio::spawn(task) }
    }

    async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
    }
}

async fn client(url: String) -> Nats {
    let nats = connect(&NatsOptions { servers: vec![url], ..NatsOptions::default() }).await.unwrap();
    let mut connections = nats.connections();
    connections.wait_for(|count| *count > 0).await.unwrap();
    nats
}

fn options(region: &str) -> ConsumerOptions {
    let stream = StreamLimits { bytes_max: 64 << 20, ..StreamLimits::USAGE };
    let usual = ConsumerOptions::new(Subjects::of_region(region), 0);
    ConsumerOptions { stream, ack_wait: Duration::from_secs(2), ..usual }
}

/// Publishes and waits until the server has it, as agents do.
async fn publish(jetstream: &Context, subject: String, message: Bytes) {
    for _ in 0..200 {
        if let Ok(stored) = jetstream.publish(subject.clone(), message.clone()).await
            && stored.await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{subject}: not published");
}

/// Waits for a condition, half a minute at most.
#[track_caller]
fn until<'a, F: Future<Output = bool> + 'a>(
    what: &'a str,
    done: impl Fn() -> F + 'a,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..1_500 {
            if done().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{caller}: {what}: not so after half a minute");
    }
}

/// Nothing waits in the stream any more.
async fn drained(nats: &Nats, options: &ConsumerOptions) {
    let name = options.subjects.usage_stream(options.partition);
    until("the stream is empty", || async {
        match nats.jetstream().get_stream(&name).await {
            Ok(stream) => stream.cached_info().state.messages == 0,
            Err(_) => false,
        }
    })
    .await;
}

/// Reads the store where that may block.
fn read<T: Send + 'static>(server: &Server, read: impl FnOnce(&dyn Reader) -> T) -> T {
    let reader = Arc::clone(server.cell.reader());
    tokio::task::block_in_place(|| read(reader.as_ref()))
}

fn events(server: &Server) -> Vec<Event> {
    read(server, |reader| {
        let mut events = Vec::new();
        let mut after = Position::ZERO;
        loop {
            let page = reader.events(after, 100).unwrap();
            let Some(last) = page.last() else { return events };
            after = last.position;
            events.extend(page.iter().map(|event| Recorded::decode(&event.payload).unwrap().event));
        }
    })
}

/// The batches in the log, as they came.
fn logged(server: &Server) -> Vec<Bytes> {
    let raw = |event| match event {
        Event::UsageAccepted(batch) => Some(batch.raw().clone()),
        _ => None,
    };
    events(server).into_iter().filter_map(raw).collect()
}

async fn suspense_ms(server: &Server) -> i64 {
    server.cell.read(|state| state.accounting(|_| true, true).suspense_ms).await.unwrap()
}

/// Makes sure of the stream, so that agents can publish before the consumer starts.
async fn prepared(nats: &Nats, options: &ConsumerOptions) {
    open(nats, options).await.unwrap();
}

fn with_store<F: Future<Output = ()>>(
    wrap: impl FnOnce(Box<dyn Store>) -> Box<dyn Store>,
    test: impl FnOnce(Server) -> F,
) {
    with_config(ApiConfig::default(), wrap, async |server| {
        // A store that fails may have failed to open the cell.
        until("the cell is open", || async {
            let command = hourglass_ledger::core::Command::OpenCell {
                region: "eu".parse().unwrap(),
                policy: hourglass_ledger::core::Policy::default(),
            };
            let _opened = server.cell.submit(command).await;
            server.cell.read(|state| state.cell().is_some()).await.unwrap_or_default()
        })
        .await;
        test(server).await;
    });
}

#[test]
fn all_is_logged_as_it_was_sent_and_announced_after_its_commit() {
    with_store(
        |store| store,
        async |server| {
            let nats = client(servers::Nats::shared().url()).await;
            let options = options("js-all");
            prepared(&nats, &options).await;
            let agents = ["node-1", "node.2", "node_3"];
            let mut watermarks = nats.client().subscribe(options.subjects.watermark("*")).await.unwrap();
            nats.client().flush().await.unwrap();
            for number in 0..20 {
                for agent in agents {
                    publish(nats.jetstream(), options.subjects.usage(0, agent), batch(agent, number)).await;
                }
            }
            let running = Running::start(&nats, &server, options.clone());
            drained(&nats, &options).await;

            let logged = logged(&server);
            for agent in agents {
                let of_agent: Vec<Bytes> = (0..20).map(|number| batch(agent, number)).collect();
                let found: Vec<Bytes> = logged.iter().filter(|raw| of_agent.contains(raw)).cloned().collect();
                assert!(found == of_agent, "{agent}: not all, or not in order");
            }
            assert_eq!(logged.len(), 60);

            // Each watermark was true when it came, and each agent's last one covers all.
            let mut last = std::collections::BTreeMap::new();
            while last.values().filter(|next_seq| **next_seq == 200).count() < agents.len() {
                let message = tokio::time::timeout(Duration::from_secs(30), watermarks.next()).await;
                let mark = hourglass_proto::v1::Watermark::decode(message.unwrap().unwrap().payload).unwrap();
                assert!(read(&server, |reader| reader.head().unwrap()).position.number() >= mark.position);
                last.insert(mark.agent_id, mark.next_seq);
            }
            let status = Arc::clone(&running.status);
            running.stop().await;
            assert_eq!(status.records.load(Ordering::Relaxed), 600);
            assert_eq!(status.acknowledged.load(Ordering::Relaxed), 60);
            assert_eq!(status.in_flight_bytes.load(Ordering::Relaxed), 0);
        },
    );
}

/// Publishes the batches of two agents to a cell on a store that fails; answers with those that never
/// reached the log.
async fn lost_on_a_failing_store(server: &Server, options: ConsumerOptions) -> usize {
    let nats = client(servers::Nats::shared().url()).await;
    prepared(&nats, &options).await;
    let running = Running::start(&nats, server, options.clone());
    let mut sent = BTreeSet::new();
    for number in 0..60 {
        for agent in ["node-1", "node-2"] {
            publish(nats.jetstream(), options.subjects.usage(0, agent), batch(agent, number)).await;
            sent.insert(batch(agent, number));
        }
    }
    drained(&nats, &options).await;
    running.stop().await;
    let logged: BTreeSet<Bytes> = logged(server).into_iter().collect();
    sent.difference(&logged).count()
}

#[test]
fn failed_commits_lose_nothing_and_double_nothing() {
    let faults = Faults { refused: 5, lost: 6, answer_lost: 4, late: 7, deposed: 0 };
    let faulty = |store| Box::new(FaultyStore::new(store, faults, 7)) as Box<dyn Store>;
    with_store(faulty, async |server| {
        assert_eq!(lost_on_a_failing_store(&server, options("js-faults")).await, 0);
        until("the state can be read", || async { server.cell.read(|_| ()).await.is_ok() }).await;
        assert_eq!(suspense_ms(&server).await, 2 * 60 * 10 * RECORD_MS);
    });
}

/// The test before could fail: with the acknowledgement before the commit, usage is lost.
#[cfg(debug_assertions)]
#[test]
fn the_planted_fault_is_noticed() {
    assert_eq!(PlantedFault::named("ack_before_commit"), Some(PlantedFault::AckBeforeCommit));
    let faults = Faults { refused: 3, ..Faults::default() };
    let faulty = |store| Box::new(FaultyStore::new(store, faults, 7)) as Box<dyn Store>;
    with_store(faulty, async |server| {
        let planted_fault = Some(PlantedFault::AckBeforeCommit);
        let options = ConsumerOptions { planted_fault, ..options("js-planted") };
        assert_ne!(lost_on_a_failing_store(&server, options).await, 0);
    });
}

#[test]
fn poison_is_kept_once_with_its_bytes_and_holds_up_nothing() {
    with_store(
        |store| store,
        async |server| {
            let nats = client(servers::Nats::shared().url()).await;
            let options = options("js-poison");
            prepared(&nats, &options).await;
            let reserved = hourglass_proto::v1::UsageBatch {
                agent_id: "node-1".to_owned(),
                epoch: u64::MAX,
                first_seq: 0,
                records: Vec::new(),
            };
            let subject = options.subjects.usage(0, "node-1");
            let poison = [
                ("undecodable", Bytes::from_static(b"\xff\xff\xff")),
                ("agent_mismatch", batch("node-2", 0)),
                ("epoch_reserved", reserved.encode_to_vec().into()),
                ("agent_id_invalid", Bytes::new()),
            ];
            for _ in 0..2 {
                for (_, message) in &poison {
                    publish(nats.jetstream(), subject.clone(), message.clone()).await;
                }
                publish(nats.jetstream(), subject.clone(), batch("node-1", 0)).await;
            }
            // A subject that names no agent that could be one.
            let nobody = options.subjects.usage(0, "-no-agent-");
            publish(nats.jetstream(), nobody, batch("node-1", 0)).await;
            let running = Running::start(&nats, &server, options.clone());
            drained(&nats, &options).await;
            running.stop().await;

            let kept = |event| match event {
                Event::UsageQuarantined { reason, content_type, original } => {
                    Some((reason, content_type, original))
                }
                _ => None,
            };
            let kept: Vec<_> = events(&server).into_iter().filter_map(kept).collect();
            let mut expected: Vec<_> = poison
                .into_iter()
                .map(|(reason, message)| {
                    (reason.to_owned(), "application/x-protobuf; agent=node-1".to_owned(), message)
                })
                .collect();
            let unnamed = ("agent_mismatch", "application/x-protobuf", batch("node-1", 0));
            expected.push((unnamed.0.to_owned(), unnamed.1.to_owned(), unnamed.2));
            assert_eq!(kept, expected);
            assert!(logged(&server) == [batch("node-1", 0), batch("node-1", 0)]);
        },
    );
}

#[test]
fn nats_may_die_and_come_back() {
    with_store(
        |store| store,
        async |server| {
            let mut own = servers::Nats::start(&servers::NatsOptions::default());
            let nats = client(own.url()).await;
            let options = options("js-killed");
            let running = Running::start(&nats, &server, options.clone());
            let mut sent = BTreeSet::new();
            for number in 0..30 {
                if number % 10 == 5 {
                    own.kill();
                    own.start_again();
                }
                publish(nats.jetstream(), options.subjects.usage(0, "node-1"), batch("node-1", number)).await;
                sent.insert(batch("node-1", number));
            }
            until("all is logged", || async { logged(&server).into_iter().collect::<BTreeSet<_>>() == sent })
                .await;
            running.stop().await;
        },
    );
}

#[test]
fn a_deleted_stream_is_made_again() {
    with_store(
        |store| store,
        async |server| {
            let nats = client(servers::Nats::shared().url()).await;
            let options = options("js-deleted");
            let running = Running::start(&nats, &server, options.clone());
            let subject = options.subjects.usage(0, "node-1");
            for number in 0..3 {
                publish(nats.jetstream(), subject.clone(), batch("node-1", number)).await;
                let expected = usize::try_from(number).unwrap() + 1;
                until("it is logged", || async { logged(&server).len() == expected }).await;
                if number == 1 {
                    nats.jetstream().delete_stream(options.subjects.usage_stream(0)).await.unwrap();
                }
            }
            running.stop().await;
        },
    );
}

/// A store whose commits wait until it is opened.
struct Gate {
    inner: Box<dyn Store>,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Store for Gate {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        self.inner.acquire(acquire)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        let (open, changed) = &*self.open;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        self.inner.commit(commit)
    }
    fn release(&mut self, epoch: u64, now: hourglass_units::Instant) -> Result<(), StoreError> {
        self.inner.release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner.write_snapshot(snapshot)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}

#[test]
fn what_waits_for_a_slow_ledger_is_bounded() {
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let open = Arc::clone(&gate);
    with_store(
        |inner| Box::new(Gate { inner, open }),
        async |server| {
            let nats = client(servers::Nats::shared().url()).await;
            let options = ConsumerOptions { messages_in_flight_max: 16, ..options("js-slow") };
            prepared(&nats, &options).await;
            for number in 0..100 {
                publish(nats.jetstream(), options.subjects.usage(0, "node-1"), batch("node-1", number)).await;
            }
            *gate.0.lock().unwrap() = false;
            let too_many = Arc::new(AtomicBool::new(false));
            let running = Running::start(&nats, &server, options.clone());
            let status = Arc::clone(&running.status);
            let watch = {
                let (too_many, status) = (Arc::clone(&too_many), Arc::clone(&status));
                tokio::spawn(async move {
                    loop {
                        too_many.fetch_or(status.in_flight.load(Ordering::Relaxed) > 16, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                })
            };
            until("as many wait as may", || async { status.in_flight.load(Ordering::Relaxed) == 16 }).await;
            // Time in which a consumer without a bound would take them all.
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(status.messages.load(Ordering::Relaxed), 16);
            {
                let (open, changed) = &*gate;
                *open.lock().unwrap() = true;
                changed.notify_all();
            }
            drained(&nats, &options).await;
            running.stop().await;
            watch.abort();
            assert!(!too_many.load(Ordering::Relaxed));
            assert_eq!(suspense_ms(&server).await, 100 * 10 * RECORD_MS);
        },
    );
}

#[test]
fn who_stands_by_pulls_nothing() {
    with_store(
        |store| store,
        async |server| {
            let nats = client(servers::Nats::shared().url()).await;
            let options = options("js-standby");
            prepared(&nats, &options).await;
            let subject = options.subjects.usage(0, "node-1");
            let writable = &server.cell.status().writable;
            let running = Running::start(&nats, &server, options.clone());
            publish(nats.jetstream(), subject.clone(), batch("node-1", 0)).await;
            drained(&nats, &options).await;

            writable.store(0, Ordering::Release);
            until("it does not pull", || async { running.status.pulling.load(Ordering::Relaxed) == 0 }).await;
            publish(nats.jetstream(), subject.clone(), batch("node-1", 1)).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(running.status.messages.load(Ordering::Relaxed), 1);

            writable.store(1, Ordering::Release);
            drained(&nats, &options).await;
            assert_eq!(logged(&server).len(), 2);
            running.stop().await;
        },
    );
}
