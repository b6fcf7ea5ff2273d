//! The ways in for usage.
//!
//! * [`ingest`](ingest()) takes one message: `hourglass.v1.UsageBatch` in protobuf, the same in
//!   JSON, or CloudEvents. HTTP and the command line's import share it.
//! * [`jetstream`] consumes what agents publish to NATS JetStream.
//! * [`quarantine`] shows what could not be used, and takes it in again.
//! * [`grpc`] serves `hourglass.v1.UsageService`, for agents that do not speak with the broker.
//!
//! # What becomes of a message
//!
//! | message | is |
//! |---|---|
//! | reads whole | accepted; records that break the contract are named, with the reason |
//! | reads in part | its readable part is accepted, and the original is kept in quarantine |
//! | reads not at all | kept in quarantine, and the sender is told where |
//! | too large | refused and *not* kept: the sender still has it, and can split it |
//!
//! # Sequence numbers
//!
//! CloudEvents have none. Their records are logged under [`EPOCH_UNNUMBERED`] from sequence number 1
//! on: number 0 never comes, so that epoch's watermark stays at 0 and no watermark of the agent's
//! real epochs can be moved by them. A batch that claims this epoch for itself is quarantined.

mod cloud_events;
pub mod grpc;
mod ingest;
pub mod jetstream;
mod json;
pub mod quarantine;
mod reading;
#[cfg(test)]
mod tests;

pub use cloud_events::CloudEventDraft;
pub use ingest::{BatchReceipt, IngestError, IngestReport, Name, QuarantinedRecord, ingest};
pub use json::{BatchDraft, EvidenceDraft, RecordDraft};
pub use reading::{Format, ReadBatch, ReadError, Reading, Unreadable, read};

/// The agent's epoch under which reports without sequence numbers are logged.
pub const EPOCH_UNNUMBERED: u64 = u64::MAX;
/// The code of a batch that names another agent than the one that sent it.
pub const AGENT_MISMATCH: &str = "agent_mismatch";
/// The CloudEvents type of a usage report.
pub const CLOUD_EVENT_TYPE: &str = "hourglass.usage.v1";
