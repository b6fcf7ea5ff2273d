//! What the agent says of itself, in `status.json` of its log's directory.

use serde::{Deserialize, Serialize};

use crate::spool::Counts;

/// The agent's state, for operators and tools. Written after each sample.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The agent's id.
    pub agent: String,
    /// When this was written, in milliseconds since the Unix epoch.
    pub as_of_unix_ms: i64,
    /// The present epoch: milliseconds since the Unix epoch at the start, or a little later.
    pub epoch: u64,
    /// Instances whose assignment was there at the last sample.
    pub instances: u64,
    /// GPUs that they hold together.
    pub gpus: u64,
    /// Files of the inventory that could not be used, or the inventory itself.
    pub inventory_faults: u64,
    /// Counts of the log.
    #[serde(flatten)]
    pub counts: Counts,
    /// The bound on `bytes`.
    pub bytes_max: u64,
    /// Whether the log took no more at the last sample: full, or the disk is, or it failed.
    pub recording_stopped: bool,
    /// Instances whose time was given up for good.
    pub lost_instances: u64,
    /// GPU-milliseconds that were given up for good.
    pub lost_gpu_milliseconds: u64,
    /// What the way to the broker looks like.
    pub broker: Broker,
}

/// The way to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Broker {
    /// Whether there is a connection.
    pub connected: bool,
    /// Batches published, repeats included.
    pub published_batches: u64,
    /// Of these, batches that were published again since no watermark covered them in time.
    pub resent_batches: u64,
    /// When the cell was last heard to commit something, in milliseconds since the Unix epoch; 0 before.
    pub committed_at_unix_ms: i64,
    /// Why publishing pauses, if it does.
    pub trouble: Option<String>,
}
