//! What becomes of one message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::message::Acker;
use hourglass_ledger::cell::{CellError, CellHandle, Submission};
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{Answer, Command, Detail, IdempotencyKey, QUARANTINE_BYTES_MAX, Rejection};
use hourglass_proto::subjects::Subjects;
use hourglass_units::AgentId;
use prost::bytes::Bytes;

use super::announce::Mark;
use super::{ConsumerOptions, ConsumerStatus, RETRY_DELAY, SUSPENSE_RETRY_DELAY};
use crate::nats::Nats;
use crate::usage::AGENT_MISMATCH;
use crate::usage::quarantine::content_type_of_agent;
use crate::usage::reading::{Format, ReadError, numbered};

/// A guard that a test leaves out, to see that it would be noticed.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedFault {
    /// Acknowledges, and announces as committed, before the commit.
    AckBeforeCommit,
}

#[cfg(debug_assertions)]
impl PlantedFault {
    /// The environment variable that names one.
    pub const VARIABLE: &str = "HOURGLASS_PLANTED_FAULT";

    /// What the environment asks for.
    pub fn from_environment() -> Option<Self> {
        Self::named(&std::env::var(Self::VARIABLE).ok()?)
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        (name == "ack_before_commit").then_some(Self::AckBeforeCommit)
    }
}

/// A message that waits for its commit.
pub(super) type InFlight = Pin<Box<dyn Future<Output = Settled> + Send>>;

/// A message of which it is known what to tell the server.
pub(super) struct Settled {
    pub(super) acker: Acker,
    pub(super) bytes: usize,
    pub(super) fate: Fate,
}

pub(super) enum Fate {
    /// It is in the log, as usage or in quarantine.
    Committed { mark: Option<Mark>, records: u32 },
    /// It is not known to be in the log: it must come again.
    Later { after: Option<Duration>, ledger_failed: bool },
    /// It can be neither used nor kept.
    TooLarge,
}

/// What a message is.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Usage(UsageBatch),
    Poison { reason: &'static str, detail: String },
}

/// Reads a message and sees that it comes from whom it says. Pure.
pub(super) fn content(subjects: &Subjects, subject: &str, payload: &Bytes) -> Content {
    match numbered(payload.clone()) {
        Ok(batch) if subjects.agent_of(subject).as_deref() == Some(batch.agent().as_str()) => {
            Content::Usage(batch)
        }
        Ok(batch) => Content::Poison {
            reason: AGENT_MISMATCH,
            detail: format!("the batch says that it is of agent {}", batch.agent()),
        },
        Err(ReadError::Unreadable { reason, detail } | ReadError::TooLarge { reason, detail }) => {
            Content::Poison { reason, detail }
        }
    }
}

/// Takes a message. What can be done before the commit is done by whoever polls first.
pub(super) fn take(
    nats: &Nats,
    cell: &CellHandle,
    options: &ConsumerOptions,
    status: &Arc<ConsumerStatus>,
    message: Message,
) -> InFlight {
    let (message, acker) = message.split();
    let (subject, payload) = (message.subject, message.payload);
    let bytes = payload.len();
    let cell = cell.clone();
    match content(&options.subjects, &subject, &payload) {
        Content::Usage(batch) => {
            #[cfg(debug_assertions)]
            if options.planted_fault == Some(PlantedFault::AckBeforeCommit) {
                return too_early(nats.clone(), cell, options.subjects.clone(), acker, batch);
            }
            let _used_in_debug_builds = nats;
            let accepted = async move { Settled { fate: accept(&cell, batch).await, acker, bytes } };
            // Not to be put off by the scheduler: so batches enter the cell's queue as they came.
            Box::pin(tokio::task::unconstrained(accepted))
        }
        Content::Poison { reason, detail } => {
            tracing::error!(%subject, reason, detail, bytes, "a usage message goes to quarantine");
            let agent = options.subjects.agent_of(&subject).and_then(|agent| AgentId::new(&agent).ok());
            let (subject, status) = (subject.to_string(), Arc::clone(status));
            Box::pin(async move {
                let fate = quarantine(&cell, &subject, agent.as_ref(), reason, payload, &status).await;
                Settled { fate, acker, bytes }
            })
        }
    }
}

async fn accept(cell: &CellHandle, batch: UsageBatch) -> Fate {
    match cell.submit(Command::AcceptUsage(batch.clone())).await {
        Ok(outcome) => committed(&batch, outcome.answer()),
        Err(error) => failed(&error),
    }
}

fn committed(batch: &UsageBatch, answer: &Answer) -> Fate {
    let mark = match answer.detail {
        Detail::Usage { next_seq, .. } => Some(Mark {
            agent: batch.agent().to_string(),
            epoch: batch.epoch(),
            next_seq,
            position: answer.position.number(),
        }),
        _ => None,
    };
    Fate::Committed { mark, records: batch.record_count() }
}

/// When a message is to come again whose command has no outcome.
fn failed(error: &CellError) -> Fate {
    match error {
        CellError::Rejected(Rejection::SuspenseFull) => {
            tracing::error!(%error, "usage waits in its stream: register the instances in suspense");
            Fate::Later { after: Some(SUSPENSE_RETRY_DELAY), ledger_failed: false }
        }
        CellError::Rejected(_) | CellError::Unavailable(_) => {
            tracing::warn!(%error, "usage was not committed and will come again");
            Fate::Later { after: Some(RETRY_DELAY), ledger_failed: true }
        }
        // Another process writes, or will: it is to have the message at once.
        CellError::Deposed | CellError::StandingBy { .. } | CellError::Closed => {
            Fate::Later { after: None, ledger_failed: false }
        }
    }
}

/// Keeps a message that cannot be used. The same bytes from the same subject are kept once: an agent
/// that sends them for ever does not fill the log.
async fn quarantine(
    cell: &CellHandle,
    subject: &str,
    agent: Option<&AgentId>,
    reason: &'static str,
    original: Bytes,
    status: &ConsumerStatus,
) -> Fate {
    if original.len() > QUARANTINE_BYTES_MAX {
        tracing::error!(
            subject,
            reason,
            bytes = original.len(),
            "a usage message is too large to be kept: IT IS LOST"
        );
        return Fate::TooLarge;
    }
    let digest = blake3::hash(&original).to_hex();
    let key = IdempotencyKey::new(&format!("usage in quarantine {subject}"), &format!("{reason} {digest}"));
    let content_type = content_type_of_agent(Format::Protobuf, agent);
    let command = Command::QuarantineUsage { reason: reason.to_owned(), content_type, original };
    match cell.submit(Submission { command, key: Some(key), at: None }).await {
        Ok(_) => {
            status.quarantined.fetch_add(1, Ordering::Relaxed);
            Fate::Committed { mark: None, records: 0 }
        }
        // Another release kept it, and described it in other words.
        Err(CellError::Rejected(Rejection::IdempotencyKeyReused { .. })) => {
            Fate::Committed { mark: None, records: 0 }
        }
        Err(error) => failed(&error),
    }
}

/// The planted fault: tells everyone that the batch is committed, and then submits it.
#[cfg(debug_assertions)]
fn too_early(nats: Nats, cell: CellHandle, subjects: Subjects, acker: Acker, batch: UsageBatch) -> InFlight {
    let bytes = batch.raw().len();
    Box::pin(async move {
        let mark = Mark {
            agent: batch.agent().to_string(),
            epoch: batch.epoch(),
            next_seq: batch.next_seq(),
            position: 0,
        };
        let _acknowledged = acker.ack().await;
        super::announce::publish_mark(&nats, &subjects, &mark, &ConsumerStatus::default()).await;
        let fate = accept(&cell, batch).await;
        // It was acknowledged, whatever became of it.
        let fate = match fate {
            Fate::Later { .. } => Fate::Committed { mark: None, records: 0 },
            fate => fate,
        };
        Settled { acker, bytes, fate }
    })
}
