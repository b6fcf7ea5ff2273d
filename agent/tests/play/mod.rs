//! The cell, played for an agent's tests: it consumes the stream, keeps what it was told as a union, and
//! publishes watermarks as a cell does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use hourglass_proto::subjects::Subjects;
use hourglass_proto::v1::{UsageBatch, Watermark};
use prost::Message;

/// As the real cell.
const EPOCHS_KEPT: usize = 4;

/// A cell that commits in memory.
pub(crate) struct Cell {
    runtime: tokio::runtime::Runtime,
    context: Context,
    subjects: Subjects,
    told: Arc<Mutex<Told>>,
    consuming: Arc<AtomicBool>,
}

/// What agents said.
#[derive(Default)]
pub(crate) struct Told {
    /// By instance: disjoint `[start, end)` with GPUs, merged.
    covered: BTreeMap<String, BTreeMap<i64, (i64, u32)>>,
    /// By agent and epoch: sequence numbers as disjoint ranges.
    received: BTreeMap<String, BTreeMap<u64, BTreeMap<u64, u64>>>,
    pub(crate) messages: u64,
    pub(crate) records: u64,
    /// Message ids of the broker, and the events' own.
    pub(crate) ids: BTreeSet<(String, String)>,
}

impl Told {
    fn take(&mut self, batch: &UsageBatch) -> Watermark {
        self.messages += 1;
        self.records += batch.records.len() as u64;
        for record in &batch.records {
            let covered = self.covered.entry(record.instance_id.clone()).or_default();
            let gpus = |other: &(i64, u32)| assert_eq!(other.1, record.gpus, "{}", record.instance_id);
            let (mut start, mut end) = (record.start_unix_ms, record.end_unix_ms);
            while let Some((from, held)) = covered
                .range(..=end)
                .next_back()
                .map(|(from, held)| (*from, *held))
                .filter(|(_, held)| held.0 >= start)
            {
                gpus(&held);
                covered.remove(&from);
                (start, end) = (start.min(from), end.max(held.0));
            }
            covered.insert(start, (end, record.gpus));
        }
        let epochs = self.received.entry(batch.agent_id.clone()).or_default();
        let ranges = epochs.entry(batch.epoch).or_default();
        let next = batch.first_seq + batch.records.len() as u64;
        let end = ranges.entry(batch.first_seq).or_default();
        *end = next.max(*end);
        while epochs.len() > EPOCHS_KEPT {
            epochs.pop_first();
        }
        Watermark {
            agent_id: batch.agent_id.clone(),
            epoch: batch.epoch,
            next_seq: epochs.get(&batch.epoch).map_or(0, next_seq),
            position: self.messages,
            quarantined: Vec::new(),
        }
    }

    fn watermarks(&self) -> Vec<Watermark> {
        let epochs =
            self.received.iter().flat_map(|(agent, epochs)| epochs.iter().map(move |epoch| (agent, epoch)));
        let watermark = |(agent, (epoch, ranges)): (&String, (&u64, &BTreeMap<u64, u64>))| Watermark {
            agent_id: agent.clone(),
            epoch: *epoch,
            next_seq: next_seq(ranges),
            position: self.messages,
            quarantined: Vec::new(),
        };
        epochs.map(watermark).collect()
    }

    /// What is known of an instance, as `(start, end, gpus)`.
    pub(crate) fn covered(&self, instance: &str) -> Vec<(i64, i64, u32)> {
        let covered = self.covered.get(instance);
        covered.into_iter().flatten().map(|(start, (end, gpus))| (*start, *end, *gpus)).collect()
    }
}

fn next_seq(ranges: &BTreeMap<u64, u64>) -> u64 {
    let mut next = 0;
    for (first, end) in ranges {
        if *first > next {
            break;
        }
        next = next.max(*end);
    }
    next
}

impl Cell {
    /// Connects and consumes; the stream is made with [`Self::make_stream`].
    pub(crate) fn start(url: &str, region: &str, options: async_nats::ConnectOptions) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(options.connect(url)).unwrap();
        // It starts a task of its own.
        let entered = runtime.enter();
        let context = jetstream::new(client);
        drop(entered);
        let cell = Self {
            runtime,
            context,
            subjects: Subjects::of_region(region),
            told: Arc::default(),
            consuming: Arc::new(AtomicBool::new(true)),
        };
        let (context, subjects) = (cell.context.clone(), cell.subjects.clone());
        let (told, consuming) = (Arc::clone(&cell.told), Arc::clone(&cell.consuming));
        cell.runtime.spawn(async move {
            loop {
                // The stream may not be there yet, or be gone again.
                let consumed = consume(&context, &subjects, &told, &consuming).await;
                drop(consumed);
                repeat_watermarks(&context, &subjects, &told, &consuming).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        cell
    }

    /// Makes the stream, as the cell does: file storage, new messages are refused when it is full.
    pub(crate) fn make_stream(&self, max_messages: i64) {
        let config = Config {
            name: self.subjects.usage_stream(0),
            subjects: vec![self.subjects.usage_of_all(0)],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            retention: jetstream::stream::RetentionPolicy::WorkQueue,
            max_messages,
            ..Config::default()
        };
        self.runtime.block_on(self.context.get_or_create_stream(config)).unwrap();
    }

    /// As an operator's slip, or a disk of the broker that died.
    pub(crate) fn delete_stream(&self) {
        self.runtime.block_on(self.context.delete_stream(self.subjects.usage_stream(0))).unwrap();
    }

    /// Messages in the stream.
    pub(crate) fn stored(&self) -> u64 {
        self.runtime.block_on(async {
            let mut stream = self.context.get_stream(self.subjects.usage_stream(0)).await.unwrap();
            stream.info().await.unwrap().state.messages
        })
    }

    /// Whether it commits and tells.
    pub(crate) fn consume(&self, consuming: bool) {
        self.consuming.store(consuming, Ordering::SeqCst);
    }

    /// Looks at what it was told.
    pub(crate) fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap())
    }

    /// Tells an agent something.
    pub(crate) fn say(&self, watermark: &Watermark) {
        let subject = self.subjects.watermark(&watermark.agent_id);
        let client = self.context.client();
        self.runtime.block_on(async {
            client.publish(subject, watermark.encode_to_vec().into()).await.unwrap();
            client.flush().await.unwrap();
        });
    }
}

async fn consume(
    context: &Context,
    subjects: &Subjects,
    told: &Mutex<Told>,
    consuming: &AtomicBool,
) -> Result<(), async_nats::Error> {
    if !consuming.load(Ordering::SeqCst) {
        return Ok(());
    }
    let stream = context.get_stream(subjects.usage_stream(0)).await?;
    let config = pull::Config { durable_name: Some("cell".to_owned()), ..pull::Config::default() };
    let consumer: PullConsumer = stream.get_or_create_consumer("cell", config).await?;
    let mut messages =
        consumer.fetch().max_messages(50).expires(Duration::from_millis(500)).messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let batch = UsageBatch::decode(&*message.payload)?;
        let header = |name: &str| {
            let headers = message.headers.as_ref().unwrap();
            headers.get(name).map(|value| value.as_str().to_owned()).unwrap()
        };
        assert_eq!(subjects.agent_of(&message.subject).as_deref(), Some(&*batch.agent_id));
        assert_eq!((&*header("ce-specversion"), &*header("ce-source")), ("1.0", &*batch.agent_id));
        let watermark = {
            let mut told = told.lock().unwrap();
            told.ids.insert((header("Nats-Msg-Id"), header("ce-id")));
            told.take(&batch)
        };
        let subject = subjects.watermark(&batch.agent_id);
        context.client().publish(subject, watermark.encode_to_vec().into()).await?;
        message.ack().await?;
    }
    Ok(())
}

async fn repeat_watermarks(
    context: &Context,
    subjects: &Subjects,
    told: &Mutex<Told>,
    consuming: &AtomicBool,
) {
    if consuming.load(Ordering::SeqCst) {
        let watermarks = told.lock().unwrap().watermarks();
        for watermark in watermarks {
            let subject = subjects.watermark(&watermark.agent_id);
            let _told = context.client().publish(subject, watermark.encode_to_vec().into()).await;
        }
    }
}

/// Waits until `done`, or panics with what it waited for.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1_200 {
        if done() {
            return;
        }
        pause();
    }
    panic!("{what}: not so after 60 seconds");
}

#[expect(clippy::disallowed_methods, reason = "another process is waited for in real time")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
