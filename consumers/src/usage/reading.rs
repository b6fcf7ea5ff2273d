//! From the bytes of a message to batches that the core can accept. Pure.

use hourglass_ledger::core::usage::{BatchError, UsageBatch};
use hourglass_proto::v1;
use prost::Message;
use prost::bytes::Bytes;

use super::{EPOCH_UNNUMBERED, cloud_events, json};

/// In which form usage comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One `hourglass.v1.UsageBatch`.
    Protobuf,
    /// The same, written in JSON.
    Json,
    /// One event.
    CloudEvent,
    /// An array of events.
    CloudEvents,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Protobuf, Self::Json, Self::CloudEvent, Self::CloudEvents];

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// The format of a media type, its parameters left aside.
    pub fn of_media_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        Self::ALL.into_iter().find(|format| format.media_type().eq_ignore_ascii_case(essence))
    }
}

/// Why nothing of a message can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// It is kept in quarantine.
    #[error("{detail}")]
    Unreadable {
        /// A stable code.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// It is not kept: the sender has it, and can split it.
    #[error("{detail}")]
    TooLarge {
        /// A stable code.
        reason: &'static str,
        /// For people.
        detail: String,
    },
}

impl From<BatchError> for ReadError {
    fn from(error: BatchError) -> Self {
        let (reason, detail) = (error.code(), error.to_string());
        match error {
            BatchError::TooManyRecords | BatchError::TooLarge { .. } => Self::TooLarge { reason, detail },
            BatchError::Undecodable { .. } | BatchError::Agent(_) | BatchError::SequenceOverflow => {
                Self::Unreadable { reason, detail }
            }
        }
    }
}

impl ReadError {
    pub(crate) fn unreadable(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Unreadable { reason, detail: detail.into() }
    }
}

/// What a message holds.
#[derive(Debug, Default)]
pub struct Reading {
    /// What it says, an entry for each agent (more where there are very many records).
    pub batches: Vec<ReadBatch>,
    /// What of it could not be read, in order of the message.
    pub unreadable: Vec<Unreadable>,
}

/// The part of a message that one agent speaks for.
#[derive(Debug)]
pub struct ReadBatch {
    /// The reports.
    pub batch: UsageBatch,
    /// The place in the message of each record; absent where it is the place in the batch.
    pub places: Option<Vec<u32>>,
}

/// A record or event that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its place in the message, from 0.
    pub index: u32,
    /// A stable code.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// Reads a message.
pub fn read(format: Format, message: &Bytes) -> Result<Reading, ReadError> {
    match format {
        Format::Protobuf => {
            let batch = numbered(message.clone())?;
            Ok(Reading { batches: vec![ReadBatch { batch, places: None }], unreadable: Vec::new() })
        }
        Format::Json => json::read(message),
        Format::CloudEvent => cloud_events::read_one(message),
        Format::CloudEvents => cloud_events::read_many(message),
    }
}

/// Reads a batch whose records have sequence numbers.
pub(crate) fn numbered(raw: Bytes) -> Result<UsageBatch, ReadError> {
    let batch = UsageBatch::parse(raw)?;
    if batch.epoch() == EPOCH_UNNUMBERED {
        return Err(ReadError::unreadable(
            "epoch_reserved",
            format!("epoch {EPOCH_UNNUMBERED} is reserved for reports without sequence numbers"),
        ));
    }
    Ok(batch)
}

/// Writes a batch in its canonical form and reads it back, so that there is one check for all ways in.
pub(crate) fn encoded(batch: &v1::UsageBatch) -> Result<UsageBatch, BatchError> {
    UsageBatch::parse(batch.encode_to_vec().into())
}

/// A place in a message. Bodies are far shorter than 2^32 bytes.
pub(crate) fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
