//! What is in quarantine: what is known of it, and how it is taken in again.
//!
//! Nothing leaves quarantine: its rows follow from the log. To replay an entry is to take its original
//! in once more, as after an upgrade that reads what the release before could not. What was used
//! already adds nothing, so replaying is always safe; and what still cannot be used is not kept twice.

use hourglass_ledger::cell::{CellError, CellHandle, Submission};
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{Command, Detail, Event, IdempotencyKey, Outcome, Position, Recorded};
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::{AgentId, Instant};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ingest::{BatchReceipt, QuarantinedRecord};
use super::reading::{Format, ReadError, read};
use super::{AGENT_MISMATCH, EPOCH_UNNUMBERED};

/// Something in quarantine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The log position that holds it.
    pub position: Position,
    /// When it came.
    pub at: Instant,
    /// What of it is in quarantine.
    pub held: Held,
    /// What the sender said that it was.
    pub content_type: String,
    /// Who sent it, where that is known.
    pub agent: Option<AgentId>,
    /// As it came.
    pub original: Bytes,
}

/// What of a message is in quarantine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// All of it: a stable code says why.
    Message(String),
    /// Records that broke the contract: place in the batch, and a stable code. The others were accepted.
    Records(Vec<(u32, String)>),
}

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log holds something else than it should: `hourglass verify` says more.
    #[error("position {0} cannot be read: {1}")]
    Event(Position, String),
    /// There is nothing in quarantine at the position.
    #[error(
        "there is nothing in quarantine at position {0}: list it to see the positions that have something"
    )]
    Unknown(Position),
}

/// Finds what is in quarantine at a position. Blocks.
pub fn find(reader: &dyn Reader, position: Position) -> Result<Entry, FindError> {
    let before = position.number().checked_sub(1).ok_or(FindError::Unknown(position))?;
    let events = reader.events(Position::new(before), 1)?;
    let stored = events.first().filter(|event| event.position == position);
    let stored = stored.ok_or(FindError::Unknown(position))?;
    let recorded = Recorded::decode(&stored.payload);
    match recorded.map_err(|error| FindError::Event(position, error.to_string()))?.event {
        Event::UsageQuarantined { reason, content_type, original } => Ok(Entry {
            position,
            at: stored.at,
            held: Held::Message(reason),
            agent: agent_of_content_type(&content_type),
            content_type,
            original,
        }),
        Event::UsageAccepted(batch) if !batch.quarantined().is_empty() => Ok(Entry {
            position,
            at: stored.at,
            held: Held::Records(breaches(&batch)),
            content_type: Format::Protobuf.media_type().to_owned(),
            agent: Some(batch.agent().clone()),
            original: batch.raw().clone(),
        }),
        _ => Err(FindError::Unknown(position)),
    }
}

fn breaches(batch: &UsageBatch) -> Vec<(u32, String)> {
    batch.quarantined().iter().map(|(record, breach)| (*record, breach.code().to_owned())).collect()
}

/// What became of an entry that was taken in again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReplayReport {
    /// Its log position.
    pub position: u64,
    /// What was logged of it now, or by an earlier replay. Empty where nothing more of it can be used
    /// than when it came.
    pub batches: Vec<BatchReceipt>,
    /// Records that still cannot be used.
    pub quarantined: Vec<QuarantinedRecord>,
    /// Whether an earlier replay had done it all.
    #[serde(skip)]
    pub replayed: bool,
}

/// Why an entry was not taken in. It stays where it is; nothing was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError {
    /// Nothing of it can be used by this release either.
    #[error("it still cannot be used: {detail}; it stays in quarantine")]
    Unusable {
        /// A stable code.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// The cell refused it, or cannot tell. Replay it again.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// What a replay is going to submit.
struct Plan {
    batches: Vec<UsageBatch>,
    quarantined: Vec<QuarantinedRecord>,
}

/// Reads an entry again, under the checks that it would pass if it came now. Pure.
fn plan(entry: &Entry) -> Result<Plan, ReplayError> {
    let unusable = |reason, detail: String| ReplayError::Unusable { reason, detail };
    let format = Format::of_media_type(&entry.content_type).ok_or_else(|| {
        unusable("content_type_unknown", format!("no usage has the content type {:?}", entry.content_type))
    })?;
    let reading = read(format, &entry.original).map_err(|error| match error {
        ReadError::Unreadable { reason, detail } | ReadError::TooLarge { reason, detail } => {
            unusable(reason, detail)
        }
    })?;
    let mut quarantined: Vec<QuarantinedRecord> = reading
        .unreadable
        .into_iter()
        .map(|it| QuarantinedRecord {
            index: it.index,
            reason: it.reason.to_owned(),
            detail: Some(it.detail),
        })
        .collect();
    let mut batches = Vec::new();
    for part in reading.batches {
        if let Held::Message(reason) = &entry.held
            && let Some(sender) = entry.agent.as_ref().filter(|sender| *sender != part.batch.agent())
        {
            let of = part.batch.agent();
            let detail = format!(
                "agent {sender} sent it and it says that it is of agent {of} ({reason}); \
                 if it is true all the same, take the original in by POST /v1/usage:ingest"
            );
            return Err(unusable(AGENT_MISMATCH, detail));
        }
        for (index, breach) in part.batch.quarantined() {
            let place = part.places.as_ref().and_then(|places| places.get(*index as usize));
            let (index, reason) = (place.copied().unwrap_or(*index), breach.code().to_owned());
            quarantined.push(QuarantinedRecord { index, reason, detail: None });
        }
        // Of an accepted batch the good records are logged: it is worth a second event only if this
        // release can use more of them.
        let same = matches!(&entry.held, Held::Records(held) if *held == breaches(&part.batch));
        if !same {
            batches.push(part.batch);
        }
    }
    quarantined.sort_by_key(|record| record.index);
    Ok(Plan { batches, quarantined })
}

/// Takes an entry in again and answers when that is durable. Doing it twice does nothing twice.
pub async fn replay(cell: &CellHandle, entry: &Entry) -> Result<ReplayReport, ReplayError> {
    let position = entry.position.number();
    let Plan { batches, quarantined } = plan(entry)?;
    let mut report =
        ReplayReport { position, batches: Vec::new(), quarantined, replayed: !batches.is_empty() };
    for batch in batches {
        let (agent_id, epoch) = (batch.agent().to_string(), batch.epoch());
        // Another release may read the same original in another way: that is another replay.
        let content = blake3::hash(batch.raw()).to_hex();
        let key = IdempotencyKey::new("quarantine replay", &format!("{position} {content}"));
        let command = Command::AcceptUsage(batch);
        let outcome = cell.submit(Submission { command, key: Some(key), at: None }).await?;
        report.replayed &= matches!(outcome, Outcome::AlreadyApplied(_));
        let answer = outcome.answer();
        let Detail::Usage { records, next_seq, .. } = &answer.detail else { continue };
        let numbered = epoch != EPOCH_UNNUMBERED;
        report.batches.push(BatchReceipt {
            agent_id,
            position: answer.position.number(),
            records: *records,
            epoch: numbered.then_some(epoch),
            next_seq: numbered.then_some(*next_seq),
        });
    }
    Ok(report)
}

/// The media type of a message, with the agent that the transport proved to have sent it.
pub(crate) fn content_type_of_agent(format: Format, agent: Option<&AgentId>) -> String {
    match agent {
        Some(agent) => format!("{}; agent={agent}", format.media_type()),
        None => format.media_type().to_owned(),
    }
}

/// The agent that sent a message, where its media type says so.
pub(crate) fn agent_of_content_type(content_type: &str) -> Option<AgentId> {
    let parameter = |part: &str| part.trim().strip_prefix("agent=").and_then(|agent| agent.parse().ok());
    content_type.split(';').skip(1).find_map(parameter)
}
