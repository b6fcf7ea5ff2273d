//! Taking one message in.

use std::collections::BTreeMap;

use hourglass_ledger::cell::{CellError, CellHandle, Submission};
use hourglass_ledger::core::{Command, Detail, IdempotencyKey, Outcome};
use hourglass_units::AgentId;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::EPOCH_UNNUMBERED;
use super::reading::{Format, ReadBatch, ReadError, Reading, Unreadable, read};

/// Longest message that is read among the other requests of its thread.
const READ_IN_PLACE_BYTES_MAX: usize = 64 << 10;

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct IngestReport {
    /// What was logged, one entry an agent (more where there are very many records).
    pub batches: Vec<BatchReceipt>,
    /// Records that are not used, in order of the message.
    pub quarantined: Vec<QuarantinedRecord>,
    /// Where the whole message is kept, because a part of it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_position: Option<u64>,
    /// Whether all of it was done before, under the same idempotency key.
    #[serde(skip)]
    pub replayed: bool,
}

/// What was logged of one agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchReceipt {
    /// Which agent.
    pub agent_id: String,
    /// The log position.
    pub position: u64,
    /// Records logged, those included that broke the contract.
    pub records: u32,
    /// The agent's epoch; absent where records have no sequence numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Every record of the epoch below this sequence number is in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seq: Option<u64>,
}

/// A record that is not used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QuarantinedRecord {
    /// Its place in the message, from 0.
    pub index: u32,
    /// A stable code.
    pub reason: String,
    /// For people, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a message was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IngestError {
    /// Nothing of it can be used. It is kept.
    #[error("{detail}; the message is kept in quarantine at position {position}")]
    Quarantined {
        /// A stable code.
        reason: &'static str,
        /// For people.
        detail: String,
        /// Where it is kept.
        position: u64,
    },
    /// It is too large and was not kept.
    #[error("{detail}")]
    TooLarge {
        /// A stable code.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// It speaks for an agent that its sender is not. Nothing of it was kept.
    #[error("the sender is agent {sender} and the message speaks for agent {agent}: nothing of it was kept")]
    ForeignAgent {
        /// Who sent it.
        sender: AgentId,
        /// For whom it speaks.
        agent: AgentId,
    },
    /// The cell refused it, or cannot tell. Send all of it again: what was taken adds nothing twice.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// Under which name a message is taken: who sends it where, and the key that the sender chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// Who and where.
    pub scope: String,
    /// The idempotency key.
    pub key: String,
}

/// The commands of one message, each under its own name.
struct Taking<'a> {
    cell: &'a CellHandle,
    name: Option<&'a Name>,
    submitted: u32,
    applied: bool,
}

impl Taking<'_> {
    async fn submit(&mut self, command: Command) -> Result<Outcome, CellError> {
        // The same key with another message meets another command under the same number.
        let part = self.submitted;
        self.submitted = part.saturating_add(1);
        let key = self.name.map(|name| IdempotencyKey::new(&format!("{} #{part}", name.scope), &name.key));
        let outcome = self.cell.submit(Submission { command, key, at: None }).await?;
        self.applied |= matches!(outcome, Outcome::Applied(_));
        Ok(outcome)
    }
}

/// Reads a long message where it holds up nobody else.
async fn read_aside(format: Format, message: Bytes) -> Result<Result<Reading, ReadError>, CellError> {
    if message.len() <= READ_IN_PLACE_BYTES_MAX {
        return Ok(read(format, &message));
    }
    let stopped = |_| CellError::Unavailable("the message could not be read".to_owned());
    tokio::task::spawn_blocking(move || read(format, &message)).await.map_err(stopped)
}

/// Takes a message in and answers when it is durable. `sender` is the only agent for whom it may
/// speak, where there is one.
///
/// A message that speaks for several agents is one command each, and they are not one transaction:
/// on an error some may be logged. Sending the message again is always right.
pub async fn ingest(
    cell: &CellHandle,
    format: Format,
    message: Bytes,
    name: Option<&Name>,
    sender: Option<&AgentId>,
) -> Result<IngestReport, IngestError> {
    let mut taking = Taking { cell, name, submitted: 0, applied: false };
    let quarantine = |reason: &str| Command::QuarantineUsage {
        reason: reason.to_owned(),
        content_type: format.media_type().to_owned(),
        original: message.clone(),
    };
    let Reading { batches, unreadable } = match read_aside(format, message.clone()).await? {
        Ok(reading) => reading,
        Err(ReadError::TooLarge { reason, detail }) => return Err(IngestError::TooLarge { reason, detail }),
        Err(ReadError::Unreadable { reason, detail }) => {
            let outcome = taking.submit(quarantine(reason)).await?;
            let position = outcome.answer().position.number();
            return Err(IngestError::Quarantined { reason, detail, position });
        }
    };

    if let Some(sender) = sender
        && let Some(foreign) = batches.iter().find(|it| it.batch.agent() != sender)
    {
        let (sender, agent) = (sender.clone(), foreign.batch.agent().clone());
        return Err(IngestError::ForeignAgent { sender, agent });
    }

    // The original first: once a part of the message is answered for, all of it is kept.
    let original_position = match unreadable.first() {
        None => None,
        Some(first) => Some(taking.submit(quarantine(first.reason)).await?.answer().position.number()),
    };
    let mut quarantined: BTreeMap<u32, QuarantinedRecord> = unreadable
        .into_iter()
        .map(|Unreadable { index, reason, detail }| {
            (index, QuarantinedRecord { index, reason: reason.to_owned(), detail: Some(detail) })
        })
        .collect();
    let mut receipts = Vec::with_capacity(batches.len());
    for ReadBatch { batch, places } in batches {
        let (agent_id, epoch) = (batch.agent().to_string(), batch.epoch());
        let outcome = taking.submit(Command::AcceptUsage(batch)).await?;
        let answer = outcome.answer();
        let Detail::Usage { records, quarantined: breaches, next_seq } = &answer.detail else { continue };
        for (index, reason) in breaches {
            let of_message = |places: &Vec<u32>| places.get(*index as usize).copied();
            let index = places.as_ref().map_or(Some(*index), of_message).unwrap_or(*index);
            // What could not be read stands there already, with what was wrong with it.
            let breach = || QuarantinedRecord { index, reason: reason.clone(), detail: None };
            quarantined.entry(index).or_insert_with(breach);
        }
        let numbered = epoch != EPOCH_UNNUMBERED;
        receipts.push(BatchReceipt {
            agent_id,
            position: answer.position.number(),
            records: *records,
            epoch: numbered.then_some(epoch),
            next_seq: numbered.then_some(*next_seq),
        });
    }
    let quarantined = quarantined.into_values().collect();
    let replayed = taking.submitted > 0 && !taking.applied;
    Ok(IngestReport { batches: receipts, quarantined, original_position, replayed })
}
