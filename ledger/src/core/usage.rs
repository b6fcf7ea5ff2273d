//! A batch of usage reports, read once at the edge.
//!
//! The bytes are kept as they arrived, since they are the evidence; beside them stand the records,
//! already checked against the contract. A record that breaks it is *quarantined*: kept, counted,
//! never billed. Bytes that are no batch at all are the caller's to quarantine whole.
//!
//! This is the hottest decoder of the system, so it reads `hourglass.v1.UsageBatch` in place and
//! copies no string. A property test holds it against the generated decoder.

use std::fmt;
use std::sync::{Arc, OnceLock};

use hourglass_units::{AgentId, IdError, InstanceId, Instant, Interval};
use prost::bytes::Bytes;

/// Most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 10_000;
/// Most bytes of one batch, uncompressed.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Longest interval that one record may report: a day.
pub const REPORT_MILLISECONDS_MAX: i64 = 86_400_000;
/// Most XID errors of one record that are looked at.
pub const RECORD_XIDS_MAX: usize = 64;
/// Most GPUs that one instance can hold.
pub const INSTANCE_GPUS_MAX: u32 = 1_024;

/// A batch that can be accepted. A clone shares it.
#[derive(Clone)]
pub struct UsageBatch(Arc<Content>);

struct Content {
    raw: Bytes,
    agent: AgentId,
    epoch: u64,
    first_seq: u64,
    record_count: u32,
    records: Vec<Placed>,
    quarantined: Vec<(u32, ContractBreach)>,
    /// XID errors: the place among `records`, and the code.
    xids: Vec<(usize, u32)>,
    compressed: OnceLock<Bytes>,
}

/// A record whose instance id still lies in the raw bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Placed {
    id_from: u32,
    id_length: u32,
    gpus: u32,
    interval: Interval,
}

/// One report that keeps the contract: the instance held `gpus` GPUs during `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageRecord<'a> {
    /// A well-formed [`InstanceId`], not copied.
    pub instance: &'a str,
    /// At least 1, at most [`INSTANCE_GPUS_MAX`].
    pub gpus: u32,
    /// At most [`REPORT_MILLISECONDS_MAX`] long.
    pub interval: Interval,
}

/// How a record broke the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContractBreach {
    /// The instance id is empty, too long, or has a character that ids do not have.
    InstanceIdInvalid,
    /// A time before 1970 or after 2999.
    TimeOutOfRange,
    /// The end is not after the start.
    IntervalReversed,
    /// Longer than [`REPORT_MILLISECONDS_MAX`].
    IntervalTooLong,
    /// No GPU, or more than [`INSTANCE_GPUS_MAX`].
    GpusOutOfRange,
}

impl ContractBreach {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InstanceIdInvalid => "instance_id_invalid",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::IntervalReversed => "interval_reversed",
            Self::IntervalTooLong => "interval_too_long",
            Self::GpusOutOfRange => "gpus_out_of_range",
        }
    }
}

impl fmt::Display for ContractBreach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why bytes are no usage batch. Nothing of them can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not a protobuf `hourglass.v1.UsageBatch`.
    #[error("not a usage batch: {what} at byte {at}")]
    Undecodable {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// No agent, or a text that is no agent id.
    #[error("the batch names no agent: {0}")]
    Agent(#[from] IdError),
    /// More than [`BATCH_RECORDS_MAX`].
    #[error("the batch has more than {BATCH_RECORDS_MAX} records: split it")]
    TooManyRecords,
    /// More than [`BATCH_BYTES_MAX`].
    #[error("the batch has {length} bytes, more than {BATCH_BYTES_MAX}: split it")]
    TooLarge {
        /// Bytes given.
        length: usize,
    },
    /// Sequence numbers beyond 2^64.
    #[error("the sequence numbers of the batch run over")]
    SequenceOverflow,
}

impl BatchError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Undecodable { .. } => "undecodable",
            Self::Agent(_) => "agent_id_invalid",
            Self::TooManyRecords => "too_many_records",
            Self::TooLarge { .. } => "too_large",
            Self::SequenceOverflow => "sequence_overflow",
        }
    }
}

impl UsageBatch {
    /// Reads a batch. Records that break the contract do not fail it: see [`Self::quarantined`].
    pub fn parse(raw: Bytes) -> Result<Self, BatchError> {
        if raw.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { length: raw.len() });
        }
        let mut agent = "";
        let (mut epoch, mut first_seq) = (0, 0);
        let mut record_count = 0_usize;
        let mut records = Vec::with_capacity((raw.len() / 40).min(BATCH_RECORDS_MAX));
        let mut quarantined = Vec::new();
        let mut xids = Vec::new();

        let mut wire = Wire { bytes: &raw, at: 0 };
        while let Some((field, kind)) = wire.key()? {
            match (field, kind) {
                (1, LENGTH) => agent = wire.text()?,
                (2, VARINT) => epoch = wire.varint()?,
                (3, VARINT) => first_seq = wire.varint()?,
                (4, LENGTH) => {
                    let index = record_count;
                    record_count = index.saturating_add(1);
                    if record_count > BATCH_RECORDS_MAX {
                        return Err(BatchError::TooManyRecords);
                    }
                    let record = record(&mut wire)?;
                    match record.check() {
                        Ok(placed) => {
                            xids.extend(record.xids().into_iter().map(|code| (records.len(), code)));
                            records.push(placed);
                        }
                        // At most BATCH_RECORDS_MAX, which fits.
                        Err(breach) => quarantined.push((u32::try_from(index).unwrap_or(u32::MAX), breach)),
                    }
                }
                (1..=4, _) => return Err(wire.error("a field of the wrong wire type")),
                (_, kind) => wire.skip(kind)?,
            }
        }
        let agent = AgentId::new(agent)?;
        let record_count = u32::try_from(record_count).unwrap_or(u32::MAX);
        first_seq.checked_add(u64::from(record_count)).ok_or(BatchError::SequenceOverflow)?;
        Ok(Self(Arc::new(Content {
            agent,
            epoch,
            first_seq,
            record_count,
            records,
            quarantined,
            xids,
            raw,
            compressed: OnceLock::new(),
        })))
    }

    /// The bytes as they arrived.
    pub fn raw(&self) -> &Bytes {
        &self.0.raw
    }

    /// The bytes as the log keeps them: an LZ4 block with its length before it. Made once, by whoever
    /// asks first: callers of the cell do, so that its one thread need not.
    pub fn compressed(&self) -> &Bytes {
        self.0.compressed.get_or_init(|| Bytes::from(lz4_flex::compress_prepend_size(&self.0.raw)))
    }

    /// Who says that it reports.
    pub fn agent(&self) -> &AgentId {
        &self.0.agent
    }

    /// The agent's epoch.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Sequence number of the first record.
    pub fn first_seq(&self) -> u64 {
        self.0.first_seq
    }

    /// The sequence number after the last record.
    pub fn next_seq(&self) -> u64 {
        self.0.first_seq.saturating_add(u64::from(self.0.record_count))
    }

    /// Records in it, quarantined ones included.
    pub fn record_count(&self) -> u32 {
        self.0.record_count
    }

    /// The records that keep the contract, in order.
    pub fn records(&self) -> impl Iterator<Item = UsageRecord<'_>> {
        self.0.records.iter().map(|placed| {
            let from = placed.id_from as usize;
            let id = self.0.raw.get(from..from.saturating_add(placed.id_length as usize)).unwrap_or_default();
            // The parser has seen that the id is ASCII.
            let instance = str::from_utf8(id).unwrap_or_default();
            UsageRecord { instance, gpus: placed.gpus, interval: placed.interval }
        })
    }

    /// XID errors that records report as evidence: the place among [`Self::records`], and the code.
    pub fn xids(&self) -> &[(usize, u32)] {
        &self.0.xids
    }

    /// Records that broke the contract: their place in the batch, and how.
    pub fn quarantined(&self) -> &[(u32, ContractBreach)] {
        &self.0.quarantined
    }
}

impl PartialEq for UsageBatch {
    /// Everything else follows from the bytes.
    fn eq(&self, other: &Self) -> bool {
        self.0.raw == other.0.raw
    }
}

impl Eq for UsageBatch {}

impl fmt::Debug for UsageBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { agent, epoch, first_seq, record_count, .. } = &*self.0;
        write!(f, "UsageBatch({agent} {epoch}.{first_seq}, {record_count} records)")
    }
}

/// A record as read, before its check.
struct RawRecord<'a> {
    id: &'a [u8],
    id_from: usize,
    start: i64,
    end: i64,
    gpus: u32,
    evidence: &'a [u8],
}

impl RawRecord<'_> {
    /// The XID errors in the evidence. It is never priced: where it cannot be read, it has none.
    fn xids(&self) -> Vec<u32> {
        let mut xids = Vec::new();
        if !self.evidence.is_empty() {
            let read = read_xids(Wire { bytes: self.evidence, at: 0 }, &mut xids);
            if read.is_err() {
                xids.clear();
            }
            xids.truncate(RECORD_XIDS_MAX);
        }
        xids
    }

    /// The contract, in order of precedence.
    fn check(&self) -> Result<Placed, ContractBreach> {
        if !InstanceId::is_id(self.id) {
            return Err(ContractBreach::InstanceIdInvalid);
        }
        let start = Instant::from_unix_ms(self.start).map_err(|_| ContractBreach::TimeOutOfRange)?;
        let end = Instant::from_unix_ms(self.end).map_err(|_| ContractBreach::TimeOutOfRange)?;
        let interval = Interval::between(start, end).ok_or(ContractBreach::IntervalReversed)?;
        if interval.milliseconds() > REPORT_MILLISECONDS_MAX {
            return Err(ContractBreach::IntervalTooLong);
        }
        if !(1..=INSTANCE_GPUS_MAX).contains(&self.gpus) {
            return Err(ContractBreach::GpusOutOfRange);
        }
        // BATCH_BYTES_MAX keeps both within a u32.
        let place = |n: usize| u32::try_from(n).map_err(|_| ContractBreach::InstanceIdInvalid);
        Ok(Placed {
            id_from: place(self.id_from)?,
            id_length: place(self.id.len())?,
            gpus: self.gpus,
            interval,
        })
    }
}

fn record<'a>(wire: &mut Wire<'a>) -> Result<RawRecord<'a>, BatchError> {
    let end_at = wire.length()?;
    let mut inner = Wire { bytes: wire.bytes.get(..end_at).unwrap_or_default(), at: wire.at };
    let mut record = RawRecord { id: b"", id_from: 0, start: 0, end: 0, gpus: 0, evidence: b"" };
    while let Some((field, kind)) = inner.key()? {
        match (field, kind) {
            (1, LENGTH) => {
                record.id = inner.bytes_of_text()?;
                record.id_from = inner.at.saturating_sub(record.id.len());
            }
            // The session is evidence: the life cycle knows the runs of an instance itself.
            (2, VARINT) => drop(inner.varint()?),
            (3, VARINT) => record.start = inner.varint()?.cast_signed(),
            (4, VARINT) => record.end = inner.varint()?.cast_signed(),
            // As protobuf has it, the low 32 bits count.
            (5, VARINT) => record.gpus = (inner.varint()? & u64::from(u32::MAX)) as u32,
            (1..=5, _) => return Err(inner.error("a field of the wrong wire type")),
            (15, LENGTH) => {
                let end = inner.length()?;
                record.evidence = inner.bytes.get(inner.at..end).unwrap_or_default();
                inner.at = end;
            }
            (_, kind) => inner.skip(kind)?,
        }
    }
    wire.at = end_at;
    Ok(record)
}

/// Field 4 of the evidence, packed or one by one.
fn read_xids(mut wire: Wire<'_>, xids: &mut Vec<u32>) -> Result<(), BatchError> {
    while let Some((field, kind)) = wire.key()? {
        match (field, kind) {
            (4, VARINT) => xids.push((wire.varint()? & u64::from(u32::MAX)) as u32),
            (4, LENGTH) => {
                let end = wire.length()?;
                while wire.at < end {
                    xids.push((wire.varint()? & u64::from(u32::MAX)) as u32);
                }
            }
            (_, kind) => wire.skip(kind)?,
        }
    }
    Ok(())
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// A cursor over protobuf's wire format.
struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Wire<'a> {
    fn error(&self, what: &'static str) -> BatchError {
        BatchError::Undecodable { what, at: self.at }
    }

    /// The next field's number and wire type, or `None` at the end.
    #[inline]
    fn key(&mut self) -> Result<Option<(u32, u8)>, BatchError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| self.error("a field number out of range"))?;
        match (key >> 3, (key & 7) as u8) {
            (0, _) => Err(self.error("field number zero")),
            (field, kind) => Ok(Some((field, kind))),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, BatchError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(byte) = self.bytes.get(self.at).copied() else {
                return Err(self.error("the end inside a number"));
            };
            self.at = self.at.saturating_add(1);
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("a number longer than 64 bits"))
    }

    /// Reads a length and answers with the offset where what follows ends.
    #[inline]
    fn length(&mut self) -> Result<usize, BatchError> {
        let length = self.varint()?;
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end {
            Some(end) if end <= self.bytes.len() => Ok(end),
            _ => Err(self.error("a length beyond the end")),
        }
    }

    #[inline]
    fn text(&mut self) -> Result<&'a str, BatchError> {
        let bytes = self.bytes_of_text()?;
        str::from_utf8(bytes).map_err(|_| self.error("text that is not UTF-8"))
    }

    /// The bytes of a text, which are UTF-8.
    #[inline]
    fn bytes_of_text(&mut self) -> Result<&'a [u8], BatchError> {
        let end = self.length()?;
        let bytes = self.bytes.get(self.at..end).unwrap_or_default();
        if !bytes.is_ascii() && str::from_utf8(bytes).is_err() {
            return Err(self.error("text that is not UTF-8"));
        }
        self.at = end;
        Ok(bytes)
    }

    fn skip(&mut self, kind: u8) -> Result<(), BatchError> {
        let end = match kind {
            VARINT => {
                self.varint()?;
                self.at
            }
            FIXED64 => self.at.saturating_add(8),
            FIXED32 => self.at.saturating_add(4),
            LENGTH => self.length()?,
            _ => return Err(self.error("a wire type that batches do not have")),
        };
        if end > self.bytes.len() {
            return Err(self.error("the end inside a field"));
        }
        self.at = end;
        Ok(())
    }
}
