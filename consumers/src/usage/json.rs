//! A usage batch written in JSON, for senders that have no protobuf.

use hourglass_proto::v1;
use hourglass_units::Instant;
use prost::bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::EPOCH_UNNUMBERED;
use super::reading::{ReadBatch, ReadError, Reading, Unreadable, encoded, place};

/// `hourglass.v1.UsageBatch` in JSON.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchDraft {
    /// Who reports.
    pub agent_id: String,
    /// Grows by one each time the agent starts without its write-ahead log.
    pub epoch: u64,
    /// Sequence number of the first record; the others follow without a gap.
    pub first_seq: u64,
    /// At most 10,000.
    // Each is read by itself, so that one that is wrong does not fail the others.
    #[schema(value_type = Vec<RecordDraft>)]
    pub records: Vec<Value>,
}

/// "Instance `instance_id` held `gpus` GPUs during [start, end)."
///
/// Each end is given once: as RFC 3339 to the millisecond, or as milliseconds since the Unix epoch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordDraft {
    /// Which instance.
    pub instance_id: String,
    /// Grows by one each time the instance is started.
    #[serde(default)]
    pub session: u32,
    /// RFC 3339.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub start: Option<Instant>,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    pub start_unix_ms: Option<i64>,
    /// RFC 3339; not in the interval any more.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub end: Option<Instant>,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    pub end_unix_ms: Option<i64>,
    /// GPUs that it held.
    pub gpus: u32,
    /// What was measured beside the time: never priced, always kept.
    #[serde(default)]
    pub evidence: Option<EvidenceDraft>,
}

/// Node health and use, by the field names of NVIDIA's DCGM.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidenceDraft {
    /// Mean use over the interval, percent.
    #[serde(default)]
    pub gpu_util_percent: u32,
    /// Most memory used in the interval, MiB.
    #[serde(default)]
    pub fb_used_mib: u64,
    /// Mean power over the interval, milliwatts.
    #[serde(default)]
    pub power_usage_milliwatts: u32,
    /// Each XID seen in the interval.
    #[serde(default)]
    pub xid_errors: Vec<u32>,
}

impl RecordDraft {
    /// Reads a record from JSON; the error is for people.
    pub(crate) fn read(value: Value) -> Result<v1::UsageRecord, String> {
        let draft: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let start_unix_ms = one_of("start", draft.start, draft.start_unix_ms)?;
        let end_unix_ms = one_of("end", draft.end, draft.end_unix_ms)?;
        let evidence = draft.evidence.map(|evidence| v1::Evidence {
            gpu_util_percent: evidence.gpu_util_percent,
            fb_used_mib: evidence.fb_used_mib,
            power_usage_milliwatts: evidence.power_usage_milliwatts,
            xid_errors: evidence.xid_errors,
        });
        Ok(v1::UsageRecord {
            instance_id: draft.instance_id,
            session: draft.session,
            start_unix_ms,
            end_unix_ms,
            gpus: draft.gpus,
            evidence,
        })
    }
}

fn one_of(name: &str, time: Option<Instant>, unix_ms: Option<i64>) -> Result<i64, String> {
    match (time, unix_ms) {
        (Some(time), None) => Ok(time.unix_ms()),
        (None, Some(unix_ms)) => Ok(unix_ms),
        (None, None) => Err(format!("no {name}: give `{name}` or `{name}_unix_ms`")),
        (Some(_), Some(_)) => Err(format!("two of {name}: give `{name}` or `{name}_unix_ms`, not both")),
    }
}

/// Reads a batch. A record that cannot be read leaves its place empty, since sequence numbers are
/// places: the core then quarantines the empty record, and the numbers of the others hold.
pub(crate) fn read(message: &Bytes) -> Result<Reading, ReadError> {
    let undecodable = |error: serde_json::Error| ReadError::unreadable("undecodable", error.to_string());
    let draft: BatchDraft = serde_json::from_slice(message).map_err(undecodable)?;
    if draft.epoch == EPOCH_UNNUMBERED {
        let detail = format!("epoch {EPOCH_UNNUMBERED} is reserved for reports without sequence numbers");
        return Err(ReadError::unreadable("epoch_reserved", detail));
    }
    let mut unreadable = Vec::new();
    let records = draft.records.into_iter().enumerate().map(|(index, value)| {
        RecordDraft::read(value).unwrap_or_else(|detail| {
            unreadable.push(Unreadable { index: place(index), reason: "record_unreadable", detail });
            v1::UsageRecord::default()
        })
    });
    let batch = v1::UsageBatch {
        agent_id: draft.agent_id,
        epoch: draft.epoch,
        first_seq: draft.first_seq,
        records: records.collect(),
    };
    Ok(Reading { batches: vec![ReadBatch { batch: encoded(&batch)?, places: None }], unreadable })
}
