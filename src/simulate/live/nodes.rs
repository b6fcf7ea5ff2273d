//! The nodes of the cloud: agents that report what runs, and guests that go when they are told to.
//!
//! An agent sees what the cloud says is RUNNING, and nothing of the ledger. It reports what ran between two looks
//! at which it ran, in batches of its own, late and now and then twice, by the same way in as HTTP.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::lifecycle::Phase;
use hourglass_compute::client::{Client, ClientOptions, Patience};
use hourglass_compute::ids::{CallKey, ParentId};
use hourglass_compute::model::InstanceState;
use hourglass_consumers::usage::{Format, IngestError, ingest};
use hourglass_ledger::cell::CellHandle;
use hourglass_ledger::core::market::UNIT_PREFIX;
use hourglass_proto::v1;
use hourglass_units::{AgentId, InstanceId, Instant, Interval};
use prost::Message;
use prost::bytes::Bytes;

use super::LiveError;
use crate::config::compute::ComputeSection;
use crate::failure::Failure;

/// Agents of past months had the first.
const EPOCH: u64 = 2;
/// An agent sends what it has after 2 to 5 seconds.
const BATCH_MS: std::ops::Range<i64> = 2_000..5_000;
/// A batch is under way for up to so long.
const DELAY_MS: std::ops::Range<i64> = 0..3_000;
/// One batch in so many is sent twice.
const TWICE_ONE_IN: u32 = 8;
/// Most batches that wait to be taken; beyond that nothing new is reported until some are.
const UNDER_WAY_MAX: usize = 4_096;
/// A guest that is told to stop needs 2 to 8 seconds to save its work.
const SAVING_MS: std::ops::Range<i64> = 2_000..8_000;
/// The next look asks again.
const ATTEMPTS_MAX: u32 = 2;

/// Where units run.
pub struct Cloud {
    client: ClientOptions,
    parent: ParentId,
}

impl Cloud {
    /// By the section that the driver goes by.
    pub fn of(section: &ComputeSection) -> Result<Self, Failure> {
        let patience = Patience { attempts_max: ATTEMPTS_MAX, ..Patience::default() };
        Ok(Self { client: ClientOptions { patience, ..section.client()? }, parent: section.parent()? })
    }
}

/// All nodes.
pub(super) struct Nodes {
    random: fastrand::Rng,
    client: Client,
    parent: ParentId,
    /// What ran at the last look, by its id at the cloud.
    running: BTreeMap<InstanceId, Running>,
    /// One a fabric.
    agents: BTreeMap<AgentId, Agent>,
    under_way: Vec<Batch>,
    /// When the guest of a unit has saved its work; `None` once it is gone.
    guests: BTreeMap<InstanceId, Option<Instant>>,
}

struct Running {
    unit: String,
    gpus: u32,
    agent: AgentId,
    reported_until: Instant,
}

struct Agent {
    next_seq: u64,
    records: Vec<v1::UsageRecord>,
    sends_at: Instant,
}

struct Batch {
    agent: AgentId,
    arrives_at: Instant,
    message: Bytes,
}

impl Nodes {
    /// Nothing was looked at yet. It needs a runtime around it.
    pub(super) fn new(seed: u64, cloud: Cloud) -> Result<Self, Failure> {
        let client = Client::new(cloud.client).map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(Self {
            random: fastrand::Rng::with_seed(seed ^ 3),
            client,
            parent: cloud.parent,
            running: BTreeMap::new(),
            agents: BTreeMap::new(),
            under_way: Vec::new(),
            guests: BTreeMap::new(),
        })
    }

    /// Looks at what runs, sends what is to be sent, and lets go who has saved its work.
    pub(super) async fn look(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        if self.under_way.len() < UNDER_WAY_MAX {
            self.meter(cell).await?;
        }
        let now = cell.now();
        self.pack(now, false);
        self.deliver(cell, now).await?;
        self.let_go(cell, now).await
    }

    /// Sends all that is left.
    pub(super) async fn flush(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        self.pack(cell.now(), true);
        self.deliver(cell, hourglass_units::INSTANT_MAX).await
    }

    /// What ran at the last look and runs now ran in between.
    async fn meter(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        let began = cell.now();
        let instances = match self.client.instances(&self.parent).await {
            Ok(instances) => instances,
            Err(error) => {
                tracing::info!(%error, "the cloud does not say what runs");
                return Ok(());
            }
        };
        let ended = cell.now();
        let up = instances
            .into_iter()
            .filter(|it| it.state == InstanceState::Running && it.name.starts_with(UNIT_PREFIX));
        let mut before = std::mem::take(&mut self.running);
        for instance in up {
            let running = match before.remove(&instance.id) {
                Some(running) => running,
                // When it began to run nobody knows: it is metered from now on.
                None => {
                    let fabric = instance.spec.cluster.as_ref().map(ToString::to_string);
                    let fabric = fabric.unwrap_or_else(|| instance.spec.platform.to_string());
                    let agent: AgentId = format!("agent-{fabric}").parse()?;
                    let gpus = instance.spec.preset.gpus();
                    Running { unit: instance.name, gpus, agent, reported_until: ended }
                }
            };
            let ran = Interval::between(running.reported_until, began);
            let reported_until = ran.map_or(running.reported_until, Interval::end);
            if let Some(ran) = ran {
                let agent = self.agents.entry(running.agent.clone()).or_insert_with(|| Agent {
                    next_seq: 0,
                    records: Vec::new(),
                    sends_at: ended,
                });
                agent.records.push(v1::UsageRecord {
                    instance_id: running.unit.clone(),
                    session: 1,
                    start_unix_ms: ran.start().unix_ms(),
                    end_unix_ms: ran.end().unix_ms(),
                    gpus: running.gpus,
                    evidence: None,
                });
            }
            self.running.insert(instance.id, Running { reported_until, ..running });
        }
        Ok(())
    }

    /// Agents whose time has come, or all, put what they have into batches.
    fn pack(&mut self, now: Instant, all: bool) {
        for (id, agent) in &mut self.agents {
            if agent.records.is_empty() || (agent.sends_at > now && !all) {
                continue;
            }
            let records = std::mem::take(&mut agent.records);
            let (first_seq, count) = (agent.next_seq, records.len() as u64);
            agent.next_seq = first_seq.saturating_add(count);
            agent.sends_at = now.saturating_add_ms(self.random.i64(BATCH_MS));
            let batch = v1::UsageBatch { agent_id: id.to_string(), epoch: EPOCH, first_seq, records };
            let message = Bytes::from(batch.encode_to_vec());
            let times = if self.random.u32(..TWICE_ONE_IN) == 0 { 2 } else { 1 };
            for _ in 0..times {
                let arrives_at = now.saturating_add_ms(self.random.i64(DELAY_MS));
                self.under_way.push(Batch { agent: id.clone(), arrives_at, message: message.clone() });
            }
        }
    }

    /// Batches that have arrived are taken in. One that the cell cannot take now is sent again.
    async fn deliver(&mut self, cell: &CellHandle, now: Instant) -> Result<(), LiveError> {
        let (arrived, under_way): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.under_way).into_iter().partition(|batch| batch.arrives_at <= now);
        self.under_way = under_way;
        for batch in arrived {
            match ingest(cell, Format::Protobuf, batch.message.clone(), None, Some(&batch.agent)).await {
                Ok(_) => {}
                Err(IngestError::Cell(error)) => {
                    tracing::warn!(agent = %batch.agent, %error, "usage is sent again");
                    self.under_way.push(batch);
                }
                Err(error) => tracing::warn!(agent = %batch.agent, %error, "usage was not taken"),
            }
        }
        Ok(())
    }

    /// Guests of units that were given notice go when their work is saved, and do not wait for its end.
    async fn let_go(&mut self, cell: &CellHandle, now: Instant) -> Result<(), LiveError> {
        let told = cell.read(|state| {
            let told = state.market().lives().filter(|it| matches!(it.cycle.phase(), Phase::Notice { .. }));
            told.filter_map(|it| Some((it.cycle.instance().clone(), it.cycle.cloud()?.clone()))).collect()
        });
        let told: Vec<(InstanceId, hourglass_units::CloudId)> = told.await?;
        let units: BTreeSet<&InstanceId> = told.iter().map(|(unit, _)| unit).collect();
        self.guests.retain(|unit, _| units.contains(unit));
        for (unit, cloud) in &told {
            let saved = *self
                .guests
                .entry(unit.clone())
                .or_insert_with(|| Some(now.saturating_add_ms(self.random.i64(SAVING_MS))));
            if saved.is_none_or(|saved| saved > now) {
                continue;
            }
            let (Ok(key), Ok(id)) = (CallKey::new(&format!("guest.{unit}.stop")), cloud.as_str().parse())
            else {
                continue;
            };
            match self.client.stop(&key, &id).await {
                Ok(_) => drop(self.guests.insert(unit.clone(), None)),
                Err(error) => tracing::info!(%unit, %error, "a guest does not get out yet"),
            }
        }
        Ok(())
    }
}
