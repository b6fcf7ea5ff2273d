//! Watermarks: up to where an agent may free its log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_ledger::cell::CellHandle;
use hourglass_proto::subjects::Subjects;
use hourglass_proto::v1;
use prost::Message;
use tokio::time::MissedTickBehavior;

use super::{ConsumerOptions, ConsumerStatus, DURABLE};
use crate::nats::Nats;
use crate::usage::EPOCH_UNNUMBERED;

/// How often all watermarks are published: the broker may lose one, and agents come and go.
pub const WATERMARKS_EVERY: Duration = Duration::from_secs(15);

/// A watermark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) agent: String,
    pub(super) epoch: u64,
    pub(super) next_seq: u64,
    pub(super) position: u64,
}

impl Mark {
    /// Of two of the same agent and epoch, the one of the later commit.
    pub(super) fn later(self, other: Self) -> Self {
        if other.position > self.position { other } else { self }
    }
}

pub(super) async fn publish_mark(nats: &Nats, subjects: &Subjects, mark: &Mark, status: &ConsumerStatus) {
    // Without a connection it would only wait in a queue; the next round tells the same.
    if !nats.is_connected() {
        return;
    }
    let watermark = v1::Watermark {
        agent_id: mark.agent.clone(),
        epoch: mark.epoch,
        next_seq: mark.next_seq,
        position: mark.position,
        quarantined: Vec::new(),
    };
    let published = nats.client().publish(subjects.watermark(&mark.agent), watermark.encode_to_vec().into());
    match published.await {
        Ok(()) => drop(status.watermarks.fetch_add(1, Ordering::Relaxed)),
        Err(error) => tracing::debug!(%error, "a watermark was not published"),
    }
}

/// Publishes all watermarks from time to time, and at once on each new connection. Beside it, asks how
/// much waits in the stream.
pub(super) async fn announce(
    nats: &Nats,
    cell: &CellHandle,
    options: &ConsumerOptions,
    status: &ConsumerStatus,
) {
    let mut round = tokio::time::interval(WATERMARKS_EVERY);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = nats.connections();
    loop {
        tokio::select! {
            _ = round.tick() => {}
            Ok(()) = connections.changed() => {}
        }
        if cell.status().writable.load(Ordering::Relaxed) != 1 || !nats.is_connected() {
            continue;
        }
        let marks = cell.read(|state| {
            let position = state.position().number();
            let numbered = state.watermarks().filter(|(_, epoch, _)| *epoch != EPOCH_UNNUMBERED);
            let mark = |(agent, epoch, next_seq): (&hourglass_units::AgentId, u64, u64)| Mark {
                agent: agent.to_string(),
                epoch,
                next_seq,
                position,
            };
            numbered.map(mark).collect::<Vec<_>>()
        });
        match marks.await {
            Ok(marks) => {
                for mark in &marks {
                    publish_mark(nats, &options.subjects, mark, status).await;
                }
            }
            Err(error) => tracing::debug!(%error, "no watermarks now"),
        }
        let stream = options.subjects.usage_stream(options.partition);
        let subject = format!("CONSUMER.INFO.{stream}.{DURABLE}");
        let info: Result<async_nats::jetstream::consumer::Info, _> =
            nats.jetstream().request(subject, &()).await;
        if let Ok(info) = info {
            status.pending.store(info.num_pending, Ordering::Relaxed);
        }
    }
}
