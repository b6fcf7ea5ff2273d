//! The log: events in a row, each chained to the one before by its hash.
//!
//! `hash = BLAKE3(previous hash ‖ position ‖ epoch ‖ kind ‖ at ‖ payload length ‖ payload)`, keyed by
//! a context string, all numbers little-endian and of fixed width. The hash covers the exact bytes
//! that are stored, with their length, so no two histories share one.

use std::sync::LazyLock;

use hourglass_units::Instant;
use prost::bytes::Bytes;

use crate::core::{EventKind, Position, Recorded};

/// An event as it stands in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Gapless, from 1.
    pub position: Position,
    /// The epoch of the writer that appended it.
    pub epoch: u64,
    /// The kind's number.
    pub kind: u8,
    /// When it was decided. Never before the event before it.
    pub at: Instant,
    /// Protobuf `hourglass.ledger.v1.Event`.
    pub payload: Bytes,
    /// The chain up to here.
    pub hash: blake3::Hash,
}

impl std::fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StoredEvent({} kind {} at {}, {} bytes)",
            self.position,
            self.kind,
            self.at,
            self.payload.len()
        )
    }
}

/// What is wrong with a stored event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("position {position}: {what}")]
pub struct LogError {
    /// The first position that is wrong.
    pub position: Position,
    /// How.
    pub what: String,
}

/// The chain before the first event.
pub fn genesis() -> blake3::Hash {
    static GENESIS: LazyLock<blake3::Hash> = LazyLock::new(|| hasher().finalize());
    *GENESIS
}

fn hasher() -> blake3::Hasher {
    static KEYED: LazyLock<blake3::Hasher> =
        LazyLock::new(|| blake3::Hasher::new_derive_key("hourglass 2026 log chain"));
    KEYED.clone()
}

impl StoredEvent {
    /// Chains an event behind `previous`.
    pub fn chain(
        previous: &blake3::Hash,
        position: Position,
        epoch: u64,
        at: Instant,
        recorded: &Recorded,
    ) -> Self {
        let payload = Bytes::from(recorded.encode());
        let kind = recorded.event.kind().number();
        let mut event = Self { position, epoch, kind, at, payload, hash: *previous };
        event.hash = event.hash_after(previous);
        event
    }

    /// The hash that it must have behind `previous`.
    pub fn hash_after(&self, previous: &blake3::Hash) -> blake3::Hash {
        let mut hasher = hasher();
        hasher.update(previous.as_bytes());
        hasher.update(&self.position.number().to_le_bytes());
        hasher.update(&self.epoch.to_le_bytes());
        hasher.update(&[self.kind]);
        hasher.update(&self.at.unix_ms().to_le_bytes());
        hasher.update(&(self.payload.len() as u64).to_le_bytes());
        hasher.update(&self.payload);
        hasher.finalize()
    }

    /// Checks that it follows the position and hash before it, and reads it.
    pub fn open(&self, after: Position, previous: &blake3::Hash) -> Result<Recorded, LogError> {
        let wrong = |what: String| LogError { position: after.next(), what };
        if self.position != after.next() {
            return Err(wrong(format!("missing: the next event in the log is {}", self.position)));
        }
        if self.hash_after(previous) != self.hash {
            return Err(wrong("its bytes do not have the hash that the chain says".to_owned()));
        }
        let recorded = Recorded::decode(&self.payload).map_err(|error| wrong(error.to_string()))?;
        if EventKind::from_number(self.kind) != Some(recorded.event.kind()) {
            return Err(wrong(format!("kind {} is not what its payload is", self.kind)));
        }
        Ok(recorded)
    }
}
