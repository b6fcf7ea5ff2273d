//! A region of agents whose instances report in order, message by message.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishAckFuture;
use hourglass_consumers::nats::{StreamLimits, usage_stream};
use hourglass_ledger::core::{Command, Policy};
use hourglass_proto::subjects::Subjects;
use hourglass_proto::v1;
use hourglass_units::{AgentId, Instant};
use prost::Message;
use prost::bytes::Bytes;

use crate::workload::{self, GPUS, RECORDS};

/// Agents of the region.
pub(crate) const AGENTS: usize = 20;
/// Instances come in multiples of this, so that every agent reports the same number of messages.
pub(crate) const INSTANCES_STEP: usize = AGENTS * RECORDS;
/// Messages that are published before the first is known to be stored.
const PUBLISHING: usize = 64;
/// How far ahead of the cell's clock a report may be.
const CLOCK_SKEW_MS: i64 = 3_600_000;
/// Room of a stream of a benchmark.
const STREAM_BYTES: u64 = 4 << 30;

/// Instances, each of which reports one interval a round; a message holds those of 1,000 of them.
pub(crate) struct Region {
    ids: Vec<String>,
    report_ms: i64,
}

impl Region {
    /// So many instances that report intervals of this length.
    pub(crate) fn new(instances: usize, report: Duration) -> Self {
        assert!(instances.is_multiple_of(INSTANCES_STEP), "instances: a multiple of {INSTANCES_STEP}");
        let report_ms = i64::try_from(report.as_millis()).expect("a short report");
        Self { ids: (0..instances).map(workload::id).collect(), report_ms }
    }

    /// Messages in which every instance reports once.
    pub(crate) fn messages_a_round(&self) -> usize {
        self.ids.len() / RECORDS
    }

    /// The commands that open the region, and start its instances at a time. Its cell takes reports
    /// from an hour ahead: where reports are consumed faster than they come about, its clock follows.
    pub(crate) fn set_up(&self, opens_at: Instant) -> impl Iterator<Item = Command> + use<> {
        let commands = workload::set_up_at(opens_at, self.ids.len(), |n| Some(agent_of(n / RECORDS)));
        commands.map(|command| match command {
            Command::OpenCell { region, policy } => {
                let policy = Policy { clock_skew_max_ms: CLOCK_SKEW_MS, ..policy };
                Command::OpenCell { region, policy }
            }
            command => command,
        })
    }

    /// End of the interval that a message reports, where the first round begins at `from`.
    pub(crate) fn reported_until(&self, from: Instant, message: usize) -> Instant {
        let round = message / self.messages_a_round();
        from.saturating_add_ms((round as i64 + 1) * self.report_ms)
    }

    /// A message: its agent and its bytes. The first round begins at `from`.
    pub(crate) fn message(&self, from: Instant, message: usize) -> (AgentId, Bytes) {
        let (round, place) = (message / self.messages_a_round(), message % self.messages_a_round());
        let end = self.reported_until(from, message).unix_ms();
        let record = |id: &String| v1::UsageRecord {
            instance_id: id.clone(),
            session: 1,
            start_unix_ms: end - self.report_ms,
            end_unix_ms: end,
            gpus: GPUS,
            evidence: None,
        };
        let ids = self.ids.get(place * RECORDS..(place + 1) * RECORDS).expect("the instances of a place");
        let of_agent = self.messages_a_round() / AGENTS;
        let agent = agent_of(place);
        let batch = v1::UsageBatch {
            agent_id: agent.to_string(),
            epoch: 1,
            first_seq: ((round * of_agent + place / AGENTS) * RECORDS) as u64,
            records: ids.iter().map(record).collect(),
        };
        (agent, batch.encode_to_vec().into())
    }

    /// What a message bills a tenant, in the currency's unit, before anything is rounded.
    pub(crate) fn billed(&self, message: usize, tenant: usize) -> f64 {
        let place = message % self.messages_a_round();
        let of_tenant = (place * RECORDS..(place + 1) * RECORDS).filter(|n| n % workload::TENANTS == tenant);
        let hours = self.report_ms as f64 / 3_600_000.0;
        of_tenant.map(|n| workload::price_nanos(n) as f64 / 1e9 * f64::from(GPUS) * hours).sum()
    }
}

/// The agent whose instances report in a place of the round.
fn agent_of(place: usize) -> AgentId {
    format!("agent-{:02}", place % AGENTS).parse().expect("an agent id")
}

/// Names of the subjects of a run. Each run has a stream of its own.
pub(crate) fn subjects(run: &str) -> Subjects {
    Subjects::of_region(run)
}

/// What the stream of a run may hold.
pub(crate) fn stream_limits() -> StreamLimits {
    StreamLimits { bytes_max: STREAM_BYTES, ..StreamLimits::USAGE }
}

/// Makes the usage stream of a run, empty.
pub(crate) async fn make_stream(jetstream: &Context, subjects: &Subjects) {
    let config = usage_stream(subjects, 0, stream_limits());
    drop(jetstream.create_stream(config).await.expect("a stream"));
}

/// Publishes messages and waits until the server has stored them.
pub(crate) async fn publish(
    jetstream: &Context,
    subjects: &Subjects,
    messages: impl Iterator<Item = (AgentId, Bytes)>,
) {
    let mut under_way: std::collections::VecDeque<PublishAckFuture> = std::collections::VecDeque::new();
    for (agent, bytes) in messages {
        if under_way.len() >= PUBLISHING
            && let Some(first) = under_way.pop_front()
        {
            first.await.expect("a message that is stored");
        }
        let subject = subjects.usage(0, agent.as_str());
        under_way.push_back(jetstream.publish(subject, bytes).await.expect("a message that is sent"));
    }
    for stored in under_way {
        stored.await.expect("a message that is stored");
    }
}
