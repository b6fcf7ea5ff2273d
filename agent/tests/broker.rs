//! The agent on a real broker, with the cell played by the test.
#![cfg(test)]

mod play;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hourglass_agent::{AgentError, AgentOptions, Clock, NatsOptions, SPOOL_BYTES_MIN, Status};
use hourglass_proto::v1::Watermark;
use hourglass_test_servers::{Nats, NatsOptions as ServerOptions};
use hourglass_units::Instant;
use play::{Cell, wait_for};
use tempfile::TempDir;

/// 2026-11-01T00:00:00Z.
const START: i64 = 1_793_491_200_000;
const HOUR: i64 = 3_600_000;

/// A node: its directories, and how its agent runs.
struct Node {
    directory: TempDir,
    options: AgentOptions,
    clock: Clock,
}

impl Node {
    /// The node's clock stands at three hours after [`START`].
    fn new(url: &str, region: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inventory = directory.path().join("inventory");
        std::fs::create_dir(&inventory).unwrap();
        let options = AgentOptions {
            agent: "node.7".parse().unwrap(),
            region: region.parse().unwrap(),
            partition: 0,
            inventory,
            spool: directory.path().join("spool"),
            spool_bytes_max: 1 << 30,
            every: Duration::from_millis(50),
            interval_ms: 1_000,
            resend_after: Duration::from_secs(600),
            stop_within: Duration::from_secs(10),
            nvml: false,
            nats: NatsOptions { servers: vec![url.to_owned()], ..NatsOptions::default() },
        };
        let now = Instant::from_unix_ms(START + 3 * HOUR).unwrap();
        Self { directory, options, clock: Arc::new(move || now) }
    }

    fn assign(&self, instance: &str, gpus: u32, from: i64, to: i64) {
        let text = format!(
            r#"{{"instance_id":"{instance}","session":1,"gpus":{gpus},"since":{from},"until":{to}}}"#
        );
        std::fs::write(self.options.inventory.join(format!("{instance}.json")), text).unwrap();
    }

    fn drain(&self) -> Result<Status, AgentError> {
        runtime().block_on(hourglass_agent::drain(
            &self.options,
            Arc::clone(&self.clock),
            Duration::from_secs(60),
        ))
    }

    /// Runs the agent while `during` does its part, then stops it.
    fn run<T>(&self, during: impl FnOnce(&Self) -> T) -> (T, Status) {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let agent = scope.spawn(|| {
                let stop = async { drop(stopped.await) };
                runtime().block_on(hourglass_agent::run(&self.options, Arc::clone(&self.clock), stop))
            });
            let done = during(self);
            drop(stop);
            (done, agent.join().unwrap().unwrap())
        })
    }

    fn status(&self) -> Option<Status> {
        let text = std::fs::read(self.options.spool.join("status.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn wait(&self, what: &str, done: impl Fn(&Status) -> bool) {
        wait_for(what, || self.status().is_some_and(|status| done(&status)));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn cell(url: &str, region: &str) -> Cell {
    Cell::start(url, region, async_nats::ConnectOptions::new())
}

fn logs(spool: &Path) -> usize {
    let entries = std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "log")).count()
}

#[test]
fn what_is_held_arrives_exactly_and_is_freed() {
    let url = Nats::shared().url();
    let cell = cell(&url, "exact");
    cell.make_stream(-1);
    let node = Node::new(&url, "exact");
    node.assign("i-1", 8, START + 1, START + 2 * HOUR);
    node.assign("i-2", 4, START + HOUR, START + 9 * HOUR);
    let status = node.drain().unwrap();
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START + 1, START + 2 * HOUR, 8)]);
    assert_eq!(cell.told(|told| told.covered("i-2")), [(START + HOUR, START + 3 * HOUR, 4)]);
    assert_eq!((status.counts.unfreed, status.counts.freed), (0, 14_400));
    assert_eq!(cell.told(|told| told.records), 14_400);
    // A second start knows what is recorded.
    let status = node.drain().unwrap();
    assert_eq!((status.counts.recorded, cell.told(|told| told.records)), (0, 14_400));
    // A file that is read again after it was gone and back adds nothing either.
    assert_eq!(logs(&node.options.spool), 1);
}

#[test]
fn an_acknowledgement_frees_nothing() {
    let url = Nats::shared().url();
    let cell = cell(&url, "ack");
    cell.make_stream(-1);
    cell.consume(false);
    let node = Node::new(&url, "ack");
    node.assign("i-1", 8, START, START + HOUR);
    let (_, status) = node.run(|_| wait_for("all is stored", || cell.stored() == 4));
    assert_eq!((status.counts.unfreed, status.counts.freed), (3_600, 0));
    // A watermark of another epoch, of the future, or of a part frees what it says and no more.
    let (_, status) = node.run(|node| {
        wait_for("a new epoch", || node.status().is_some_and(|now| now.epoch != status.epoch));
        let said = |epoch, next_seq| Watermark {
            agent_id: "node.7".to_owned(),
            epoch,
            next_seq,
            ..Watermark::default()
        };
        // Nobody keeps a watermark for those who do not listen yet: a cell repeats them.
        wait_for("a part is freed", || {
            cell.say(&said(status.epoch - 1, 9_999));
            cell.say(&said(status.epoch + 1, 9_999));
            cell.say(&said(status.epoch, 1_500));
            node.status().is_some_and(|status| status.counts.freed > 0)
        });
    });
    assert_eq!((status.counts.unfreed, status.counts.freed), (2_100, 1_500));
    cell.consume(true);
    assert_eq!(node.drain().unwrap().counts.unfreed, 0);
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + HOUR, 8)]);
}

#[test]
fn a_full_stream_makes_it_wait() {
    let url = Nats::shared().url();
    let cell = cell(&url, "full");
    cell.consume(false);
    let node = Node::new(&url, "full");
    node.assign("i-1", 8, START, START + 3 * HOUR);
    let (_, status) = node.run(|node| {
        node.wait("no stream is trouble", |status| status.broker.trouble.is_some());
        cell.make_stream(3);
        node.wait("a full stream is trouble", |status| {
            status.broker.trouble.as_ref().is_some_and(|text| text.contains("maximum messages"))
        });
        assert_eq!(cell.stored(), 3);
        cell.consume(true);
        node.wait("all is committed", |status| status.counts.unfreed == 0);
    });
    assert_eq!(status.broker.trouble, None);
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + 3 * HOUR, 8)]);
}

#[test]
fn what_the_stream_lost_is_sent_again() {
    let url = Nats::shared().url();
    let cell = cell(&url, "lost");
    cell.make_stream(-1);
    cell.consume(false);
    let mut node = Node::new(&url, "lost");
    // More batches than are sent again at once.
    node.options.interval_ms = 100;
    node.options.resend_after = Duration::from_millis(300);
    node.assign("i-1", 8, START, START + 3 * HOUR);
    let (_, status) = node.run(|node| {
        wait_for("all is stored", || cell.stored() >= 108);
        cell.delete_stream();
        cell.make_stream(-1);
        cell.consume(true);
        node.wait("all is committed", |status| status.counts.unfreed == 0);
    });
    assert!(status.broker.resent_batches >= 108, "{status:?}");
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + 3 * HOUR, 8)]);
    // Sent again under another id of the broker and under the same one of the event.
    let ids = cell.told(|told| told.ids.clone());
    let first_attempts = ids.iter().filter(|(message, event)| *message == format!("{event}-0")).count();
    assert!(first_attempts < ids.len(), "{ids:?}");
}

/// Where the cell is only slow, repeats must not fill the stream.
#[test]
fn a_cell_that_is_away_gets_few_repeats() {
    let url = Nats::shared().url();
    let cell = cell(&url, "away");
    cell.make_stream(-1);
    cell.consume(false);
    let mut node = Node::new(&url, "away");
    node.options.interval_ms = 20;
    node.options.resend_after = Duration::from_millis(100);
    node.assign("i-1", 8, START, START + 3 * HOUR);
    node.run(|node| {
        node.wait("twice sent again", |status| status.broker.resent_batches >= 128);
        assert!(cell.stored() < 540 + 64 * 8, "{} messages", cell.stored());
        cell.consume(true);
        node.wait("all is committed", |status| status.counts.unfreed == 0);
    });
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + 3 * HOUR, 8)]);
}

#[test]
fn a_full_log_is_caught_up_when_there_is_room() {
    let url = Nats::shared().url();
    let cell = cell(&url, "log");
    cell.consume(false);
    cell.make_stream(-1);
    let mut node = Node::new(&url, "log");
    node.options.spool_bytes_max = SPOOL_BYTES_MIN;
    node.options.interval_ms = 100;
    node.assign("i-1", 8, START, START + 3 * HOUR);
    let (_, status) = node.run(|node| {
        node.wait("the log is full", |status| status.recording_stopped);
        let full = node.status().unwrap();
        assert!(full.counts.bytes <= SPOOL_BYTES_MIN && full.counts.recorded < 108_000, "{full:?}");
        // Gone while the log is full: what was seen of it is still owed.
        std::fs::remove_file(node.options.inventory.join("i-1.json")).unwrap();
        wait_for("it is seen to be gone", || node.status().is_some_and(|status| status.instances == 0));
        cell.consume(true);
        node.wait("all is committed", |status| !status.recording_stopped && status.counts.unfreed == 0);
    });
    assert_eq!((status.lost_gpu_milliseconds, status.counts.recorded), (0, 108_000));
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + 3 * HOUR, 8)]);
    // And where it must end before there is room, it says what is lost.
    cell.consume(false);
    node.assign("i-2", 2, START, START + 3 * HOUR);
    node.options.stop_within = Duration::from_millis(10);
    let (_, status) = node.run(|node| {
        node.wait("the log is full", |status| status.recording_stopped);
        std::fs::remove_file(node.options.inventory.join("i-2.json")).unwrap();
        node.wait("it is seen to be gone", |status| status.instances == 0);
    });
    assert_eq!(status.lost_instances, 1);
    assert!(status.lost_gpu_milliseconds > 0);
}

#[test]
fn a_broker_that_dies_and_comes_back_is_found_again() {
    let mut server = Nats::start(&ServerOptions::default());
    let url = server.url();
    let node = Node::new(&url, "dies");
    node.assign("i-1", 8, START, START + HOUR);
    let cell = cell(&url, "dies");
    cell.make_stream(-1);
    server.kill();
    node.run(|node| {
        node.wait("the log holds it", |status| status.counts.recorded == 3_600);
        assert!(!node.status().unwrap().broker.connected);
        server.start_again();
        node.wait("all is committed", |status| status.counts.unfreed == 0);
        server.kill();
        node.assign("i-2", 8, START, START + HOUR);
        node.wait("the log holds it", |status| status.counts.recorded == 7_200);
        server.start_again();
        node.wait("all is committed", |status| status.counts.unfreed == 0);
    });
    for instance in ["i-1", "i-2"] {
        assert_eq!(cell.told(|told| told.covered(instance)), [(START, START + HOUR, 8)]);
    }
}

/// Damage that is met while the agent runs: it opens the log anew and goes on with the rest.
#[test]
fn damage_under_a_running_agent_stops_nothing() {
    let url = Nats::shared().url();
    let cell = cell(&url, "damage");
    let node = Node::new(&url, "damage");
    node.assign("i-1", 8, START, START + 2 * HOUR);
    node.run(|node| {
        // Without a stream the first window is all that it has read; what comes later is read later.
        node.wait("no stream is trouble", |status| status.broker.trouble.is_some());
        let log = std::fs::read_dir(&node.options.spool).unwrap().map(|entry| entry.unwrap().path());
        let log = log.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
        let mut bytes = std::fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        cell.make_stream(-1);
        node.wait("the damage is seen", |status| status.counts.damaged_bytes > 0);
        node.wait("all is committed", |status| status.counts.unfreed == 0 && status.counts.recorded > 0);
    });
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + 2 * HOUR, 8)]);
    assert!(node.directory.path().exists());
}
