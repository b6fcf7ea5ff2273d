//! Opening the log: what a crash left is read, what is torn is cut off, what is damaged is told, and what
//! the cell may no longer follow is written anew under the present epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hourglass_proto::v1::UsageBatch;
use hourglass_units::AgentId;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::Notify;

use super::frame::{self, Payload, Piece, Stored};
use super::{
    EPOCHS_KEPT, Epoch, EpochState, Index, SPOOL_BYTES_MIN, STATE_FORMAT, Segment, Spool, SpoolError, State,
    Writer,
};
use crate::tracker::{Cursors, advance, run_of};

/// A segment as it was found.
struct Found {
    number: u64,
    bytes: u64,
    /// Its batches: epoch, first and next sequence number; those that follow one another as one.
    batches: Vec<(u64, u64, u64)>,
    damaged: bool,
}

impl Found {
    fn add(&mut self, batch: &Stored) {
        match self.batches.last_mut() {
            Some((epoch, _, next)) if *epoch == batch.epoch && *next == batch.first_seq => {
                *next = batch.next_seq();
            }
            _ => self.batches.push((batch.epoch, batch.first_seq, batch.next_seq())),
        }
    }
}

/// Opens the log of `agent`, or makes one. The new epoch is `now_unix_ms`, or one more than the last where
/// the clock stands behind it: were it counted from one, then an agent that lost its log would take the
/// watermark of its former life for its own, and free what nobody has.
pub(crate) fn open(
    directory: &Path,
    agent: &AgentId,
    bytes_max: u64,
    now_unix_ms: i64,
) -> Result<(Arc<Spool>, Writer, Cursors), SpoolError> {
    let io = SpoolError::io(directory);
    std::fs::create_dir_all(directory).map_err(io)?;
    let lock = lock(directory)?;
    let known = read_state(directory, agent)?;
    let (found, cursors, damaged_bytes) = read_segments(directory)?;

    let seen = found.iter().flat_map(|segment| &segment.batches).map(|(epoch, _, _)| *epoch);
    let last = seen.chain(known.iter().map(|state| state.epoch)).max();
    let epoch = last.map_or(0, |last| last.saturating_add(1)).max(u64::try_from(now_unix_ms).unwrap_or(0));
    let mut followed: Vec<u64> = known.iter().map(|state| state.epoch).collect();
    followed.push(epoch);
    let followed = followed.split_off(followed.len().saturating_sub(EPOCHS_KEPT));

    let freed: BTreeMap<u64, u64> = known.iter().map(|state| (state.epoch, state.freed)).collect();
    let broken = broken_epochs(&found, &freed);
    let keep = |epoch: u64| followed.contains(&epoch) && !broken.contains(&epoch);
    let (mut index, mut anew, mut spent) = (Index::default(), Vec::new(), Vec::new());
    index.counts.damaged_bytes = damaged_bytes;
    for EpochState { epoch, freed } in &known {
        index.epochs.insert(*epoch, Epoch { freed: *freed, next: *freed });
    }
    for segment in &found {
        let freed_of = |epoch: u64| freed.get(&epoch).copied().unwrap_or(0);
        let live = segment.batches.iter().any(|(epoch, _, next)| *next > freed_of(*epoch));
        match segment.batches.last() {
            Some((epoch, _, next_seq)) if live && keep(*epoch) => {
                let entry = Segment { epoch: *epoch, next_seq: *next_seq, bytes: segment.bytes };
                index.segments.insert(segment.number, entry);
                let held = index.epochs.entry(*epoch).or_default();
                *held = Epoch { freed: freed_of(*epoch), next: held.next.max(*next_seq) };
            }
            _ if live => anew.push(segment.number),
            _ => spent.push(segment.number),
        }
    }
    index.epochs.insert(epoch, Epoch::default());

    let bytes_max = bytes_max.max(SPOOL_BYTES_MIN);
    let spool = Arc::new(Spool {
        directory: directory.to_owned(),
        agent: agent.clone(),
        bytes_max,
        index: Mutex::new(index),
        appended: Notify::new(),
    });
    let number = found.last().map_or(0, |segment| segment.number);
    let mut writer = Writer {
        spool: Arc::clone(&spool),
        epoch,
        followed,
        number,
        file: None,
        written: 0,
        next_seq: 0,
        pending: Vec::new(),
        pending_records: 0,
        _lock: lock,
    };
    writer.take_over(&cursors, &anew, &spent, &freed).map_err(SpoolError::io(directory))?;
    Ok((spool, writer, cursors))
}

impl Writer {
    /// The epoch is durable before anything is written under it; old segments go only when what they held
    /// is in new ones.
    fn take_over(
        &mut self,
        cursors: &Cursors,
        anew: &[u64],
        spent: &[u64],
        freed: &BTreeMap<u64, u64>,
    ) -> std::io::Result<()> {
        self.save_state()?;
        if anew.is_empty() {
            self.begin_segment(cursors)?;
        } else {
            // The cursors come after all that they rest on: where damage takes some of it, it takes them too,
            // and everything is reported again.
            let none = Cursors::new();
            self.begin_segment(&none)?;
            for number in anew {
                let bytes = Bytes::from(std::fs::read(self.spool.segment_path(*number))?);
                for piece in frame::scan(&bytes) {
                    let Piece::Frame(Payload::Batch(batch)) = piece else { continue };
                    if batch.next_seq() > freed.get(&batch.epoch).copied().unwrap_or(0) {
                        self.append_anew(&batch)?;
                    }
                }
                self.commit()?;
                self.delete_segment(*number)?;
                self.begin(&none)?;
            }
            frame::write_checkpoint(&mut self.pending, cursors);
            self.commit()?;
        }
        // What was written anew is not newly recorded.
        self.spool.index().counts.recorded = 0;
        spent.iter().try_for_each(|number| self.delete_segment(*number))
    }

    /// Gathers a batch under the present epoch. The bound does not hold here: the old one goes next.
    fn append_anew(&mut self, batch: &Stored) -> std::io::Result<()> {
        let mut content = UsageBatch::decode(&*batch.bytes).map_err(std::io::Error::other)?;
        (content.epoch, content.first_seq) = (self.epoch, self.next_seq);
        let bytes = content.encode_to_vec().into();
        let (first_seq, records) = (self.next_seq, batch.records);
        let stored = Stored { epoch: self.epoch, first_seq, records, bytes, anew: true };
        frame::write_batch(&mut self.pending, &stored);
        self.next_seq = stored.next_seq();
        self.pending_records = self.pending_records.saturating_add(u64::from(batch.records));
        Ok(())
    }
}

fn lock(directory: &Path) -> Result<File, SpoolError> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(SpoolError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(SpoolError::io(&path)(error)),
    }
}

fn read_state(directory: &Path, agent: &AgentId) -> Result<Vec<EpochState>, SpoolError> {
    let path = directory.join("state.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SpoolError::io(&path)(error)),
    };
    match serde_json::from_slice::<State>(&text) {
        Ok(state) if state.agent != agent.as_str() => {
            Err(SpoolError::OtherAgent { directory: directory.to_owned(), found: state.agent })
        }
        Ok(state) if state.format == STATE_FORMAT => Ok(state.epochs),
        // Without it all that the log holds is written anew and published again: repeats, nothing worse.
        Ok(_) | Err(_) => {
            tracing::error!("{} cannot be read: all of the log will be published again", path.display());
            Ok(Vec::new())
        }
    }
}

/// Reads all segments, in order. Answers with the cursors at their end and with the bytes of damage.
fn read_segments(directory: &Path) -> Result<(Vec<Found>, Cursors, u64), SpoolError> {
    let numbers = segment_numbers(directory).map_err(SpoolError::io(directory))?;
    let last = numbers.keys().next_back().copied();
    let mut found = Vec::new();
    let (mut history, mut damaged_bytes) = (History::default(), 0_u64);
    for (number, path) in &numbers {
        let io = |error| SpoolError::Io { path: path.clone(), error };
        let bytes = Bytes::from(std::fs::read(path).map_err(io)?);
        let mut segment =
            Found { number: *number, bytes: bytes.len() as u64, batches: Vec::new(), damaged: false };
        for piece in frame::scan(&bytes) {
            match piece {
                Piece::Frame(payload) => {
                    if let Payload::Batch(batch) = &payload {
                        segment.add(batch);
                    }
                    history.add(payload);
                }
                // A crash tears what was being written, which is never published before it is whole.
                Piece::Damage { from, to } if to == bytes.len() && Some(*number) == last => {
                    tracing::info!(
                        "the log's last {} bytes are torn and are cut off",
                        to.saturating_sub(from)
                    );
                    segment.bytes = from as u64;
                    let file = File::options().write(true).open(path).map_err(io)?;
                    file.set_len(segment.bytes).and_then(|()| file.sync_all()).map_err(io)?;
                }
                Piece::Damage { from, to } => {
                    let length = to.saturating_sub(from);
                    tracing::error!(
                        "{length} bytes at {from} of {} are damaged and are skipped; what they said is reported \
                         again as far as the inventory still knows it",
                        path.display()
                    );
                    damaged_bytes = damaged_bytes.saturating_add(length as u64);
                    segment.damaged = true;
                    history.ends_here = true;
                }
            }
        }
        found.push(segment);
    }
    Ok((found, history.cursors(), damaged_bytes))
}

fn segment_numbers(directory: &Path) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let mut numbers = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.filter(|_| path.extension().is_some_and(|end| end == "log"));
        if let Some(number) = number.and_then(|stem| stem.parse().ok()) {
            numbers.insert(number, path);
        }
    }
    Ok(numbers)
}

/// The last checkpoint and the batches after it. It ends at the first damage: were the cursors moved past
/// it, then nobody would report the damaged time again.
#[derive(Default)]
struct History {
    checkpoint: Cursors,
    batches: Vec<Bytes>,
    ends_here: bool,
}

impl History {
    fn add(&mut self, payload: Payload) {
        match payload {
            _ if self.ends_here => {}
            Payload::Checkpoint(cursors) => {
                self.checkpoint = cursors;
                self.batches.clear();
            }
            Payload::Batch(batch) if batch.anew => {}
            Payload::Batch(batch) => self.batches.push(batch.bytes),
        }
    }

    fn cursors(mut self) -> Cursors {
        for bytes in self.batches {
            let Ok(batch) = UsageBatch::decode(bytes) else { continue };
            for record in batch.records {
                if let Some(run) = run_of(&record) {
                    advance(&mut self.checkpoint, run, record.end_unix_ms);
                }
            }
        }
        self.checkpoint
    }
}

/// Epochs whose records are not there one after another from what is freed on. A cell's watermark stops
/// before the first that is missing, so what follows could never be freed: it is written anew.
fn broken_epochs(found: &[Found], freed: &BTreeMap<u64, u64>) -> BTreeSet<u64> {
    let mut broken = BTreeSet::new();
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for segment in found {
        let first = segment.batches.first().map(|(epoch, _, _)| *epoch);
        for (epoch, first_seq, next_seq) in &segment.batches {
            let follows = match ends.insert(*epoch, *next_seq) {
                Some(end) => *first_seq == end,
                // The beginning may reach below what is freed, since a segment goes as a whole.
                None => freed.get(epoch).is_some_and(|freed| first_seq <= freed),
            };
            // Two epochs in one segment are of no agent's making.
            if segment.damaged || !follows || Some(*epoch) != first {
                broken.insert(*epoch);
            }
        }
    }
    broken
}
