//! Usage as CloudEvents 1.0, one event or an array of them, in the JSON format.
//!
//! `type` is [`CLOUD_EVENT_TYPE`], `source` the agent's id, and `data` a record as in JSON batches.
//! `source` and `id` name an event, but nothing depends on it: coverage is a set, so an event that
//! comes twice adds nothing (M-1). Extension attributes may stand beside the standard ones.

use std::collections::BTreeMap;

use hourglass_ledger::core::usage::BATCH_RECORDS_MAX;
use hourglass_proto::v1;
use hourglass_units::AgentId;
use prost::bytes::Bytes;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::json::RecordDraft;
use super::reading::{ReadBatch, ReadError, Reading, Unreadable, encoded, place};
use super::{CLOUD_EVENT_TYPE, EPOCH_UNNUMBERED};

/// A CloudEvent that reports usage, for the description of the API. Events are read attribute by
/// attribute, so that each fault has its own reason; extension attributes may stand beside these.
#[derive(ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "it describes events and is never made")]
pub struct CloudEventDraft {
    /// `1.0`.
    specversion: String,
    /// `hourglass.usage.v1`.
    #[schema(rename = "type")]
    kind: String,
    /// The agent's id.
    source: String,
    /// Names the event among those of its source.
    id: String,
    /// `application/json`, also where absent.
    datacontenttype: Option<String>,
    /// The report.
    data: RecordDraft,
}

/// Sequence number of the first record: 0 never comes, so no watermark does.
const FIRST_SEQ: u64 = 1;

/// Reads a message of one event.
pub(crate) fn read_one(message: &Bytes) -> Result<Reading, ReadError> {
    read(vec![parsed(message)?])
}

/// Reads a message of many events.
pub(crate) fn read_many(message: &Bytes) -> Result<Reading, ReadError> {
    match parsed(message)? {
        Value::Array(events) => read(events),
        _ => Err(ReadError::unreadable("undecodable", "a batch of CloudEvents is a JSON array of events")),
    }
}

fn parsed(message: &Bytes) -> Result<Value, ReadError> {
    serde_json::from_slice(message).map_err(|error| ReadError::unreadable("undecodable", error.to_string()))
}

/// Groups the events by agent. Where not one can be read, the message cannot.
fn read(events: Vec<Value>) -> Result<Reading, ReadError> {
    let mut by_agent: BTreeMap<AgentId, Vec<(u32, v1::UsageRecord)>> = BTreeMap::new();
    let mut unreadable = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        let index = place(index);
        match event_of(event) {
            Ok((agent, record)) => by_agent.entry(agent).or_default().push((index, record)),
            Err((reason, detail)) => unreadable.push(Unreadable { index, reason, detail }),
        }
    }
    if by_agent.is_empty()
        && let Some(Unreadable { index, reason, detail }) = unreadable.first()
    {
        return Err(ReadError::unreadable(reason, format!("event {index}: {detail}")));
    }
    let mut batches = Vec::new();
    for (agent, records) in by_agent {
        for records in records.chunks(BATCH_RECORDS_MAX) {
            let batch = v1::UsageBatch {
                agent_id: agent.to_string(),
                epoch: EPOCH_UNNUMBERED,
                first_seq: FIRST_SEQ,
                records: records.iter().map(|(_, record)| record.clone()).collect(),
            };
            let places = records.iter().map(|(index, _)| *index).collect();
            batches.push(ReadBatch { batch: encoded(&batch)?, places: Some(places) });
        }
    }
    Ok(Reading { batches, unreadable })
}

type Refused = (&'static str, String);

fn event_of(event: Value) -> Result<(AgentId, v1::UsageRecord), Refused> {
    let Value::Object(mut event) = event else {
        return Err(("event_unreadable", "not a JSON object".to_owned()));
    };
    let version = text(&event, "specversion")?;
    if version != "1.0" {
        return Err(("event_unreadable", format!("specversion {version:?} is not \"1.0\"")));
    }
    let kind = text(&event, "type")?;
    if kind != CLOUD_EVENT_TYPE {
        let kind: String = kind.chars().take(64).collect();
        return Err(("event_type_unknown", format!("type {kind:?} is not {CLOUD_EVENT_TYPE:?}")));
    }
    if text(&event, "id")?.is_empty() {
        return Err(("event_unreadable", "the id is empty".to_owned()));
    }
    let agent = text(&event, "source")?;
    let agent: AgentId = agent.parse().map_err(|error| ("agent_id_invalid", format!("source: {error}")))?;
    let content_type = event.get("datacontenttype").map_or(Some("application/json"), Value::as_str);
    if !content_type.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(("event_unreadable", "datacontenttype must be application/json".to_owned()));
    }
    let Some(data) = event.remove("data") else {
        return Err(("event_unreadable", "no data: give the record as JSON in `data`".to_owned()));
    };
    let record = RecordDraft::read(data).map_err(|error| ("record_unreadable", format!("data: {error}")))?;
    Ok((agent, record))
}

fn text<'a>(event: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refused> {
    let missing = || ("event_unreadable", format!("no {name}, or one that is no text"));
    event.get(name).and_then(Value::as_str).ok_or_else(missing)
}
