//! The agent's write-ahead log, in a directory of its own.
//!
//! * `NNNNNNNNNNNNNNNN.log`: segments, see [`frame`]. A segment holds batches of one epoch in the order of
//!   their sequence numbers. It is deleted when the cell has committed all of them.
//! * `state.json`: whose log it is, the last epochs, and what was known to be committed of them.
//! * `lock`: held by the agent that runs.
//! * `status.json`: for people and tools, see [`crate::Status`].
//!
//! Whoever reads and whoever writes share an [`Index`] of segments and epochs; the batches themselves stay
//! in the files. Only the [`Writer`] changes files.

mod frame;
mod open;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hourglass_units::AgentId;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(crate) use frame::Stored;
use frame::{HEAD_BYTES, MAGIC, Payload};
pub(crate) use open::open;
pub(crate) use writer::{Appended, Writer};

/// Smallest bound on the log.
pub const SPOOL_BYTES_MIN: u64 = 1 << 20;
/// Epochs that are followed: the present one and those before it. A cell follows four of an agent, so what
/// is older is written anew under the present epoch.
const EPOCHS_KEPT: usize = 3;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent runs on it.
    #[error("{} is in use by another agent: give each agent a spool of its own", .0.display())]
    InUse(PathBuf),
    /// It was written by an agent of another name.
    #[error("{} is the log of agent {found}: start that one until it is empty, or name another directory", .directory.display())]
    OtherAgent {
        /// Where it is.
        directory: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// Reading or writing failed.
    #[error("{}: {error}", .path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// How it failed.
        error: std::io::Error,
    },
}

impl SpoolError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// A place in the log: the records of `epoch` below `seq`, and all of the epochs before, lie before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

/// Where a reader goes on: a mark, and where it was found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) mark: Mark,
    segment: u64,
    offset: u64,
}

impl Place {
    /// A mark that has to be looked for.
    pub(crate) fn at(mark: Mark) -> Self {
        Self { mark, segment: 0, offset: 0 }
    }
}

/// Why the log could not be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("segment {0} of the log is damaged")]
    Damaged(u64),
    #[error("segment {0} of the log cannot be read: {1}")]
    Io(u64, std::io::Error),
}

/// What reader and writer share.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    agent: AgentId,
    bytes_max: u64,
    index: Mutex<Index>,
    /// Told after each commit.
    pub(crate) appended: Notify,
}

#[derive(Debug, Default)]
struct Index {
    segments: BTreeMap<u64, Segment>,
    epochs: BTreeMap<u64, Epoch>,
    /// The segment that is written to.
    current: u64,
    counts: Counts,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    epoch: u64,
    /// After its last batch.
    next_seq: u64,
    /// Bytes that are durable.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Epoch {
    /// The first record that the log may still hold.
    freed: u64,
    /// After the last durable one.
    next: u64,
}

/// Counts since the agent started, and what the log holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Records written to the log.
    pub recorded: u64,
    /// Records that the cell has committed since.
    pub freed: u64,
    /// Records in the log that the cell has not committed, as far as the agent knows.
    pub unfreed: u64,
    /// Bytes of the log.
    pub bytes: u64,
    /// Bytes of the log that were damaged and have been skipped.
    pub damaged_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    agent: String,
    /// The last epochs, in order, and up to where each is known to be committed.
    epochs: Vec<EpochState>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct EpochState {
    epoch: u64,
    freed: u64,
}

const STATE_FORMAT: u32 = 1;

impl Spool {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segment_path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:016}.log"))
    }

    /// The cell has committed the records of `mark.epoch` below `mark.seq`. Answers how many that frees;
    /// `None` where the present epoch has never had so many, so that it speaks of another log.
    pub(crate) fn free(&self, mark: Mark) -> Option<u64> {
        let mut index = self.index();
        let last = index.epochs.keys().next_back().copied();
        let Some(epoch) = index.epochs.get_mut(&mark.epoch) else { return Some(0) };
        if mark.seq > epoch.next && last == Some(mark.epoch) {
            return None;
        }
        let freed = mark.seq.min(epoch.next).saturating_sub(epoch.freed);
        epoch.freed = epoch.freed.saturating_add(freed);
        index.counts.freed = index.counts.freed.saturating_add(freed);
        Some(freed)
    }

    /// Where the first record stands that the cell has not committed; `None` where all are.
    pub(crate) fn first_unfreed(&self) -> Option<Mark> {
        let index = self.index();
        let (epoch, held) = index.epochs.iter().find(|(_, epoch)| epoch.freed < epoch.next)?;
        Some(Mark { epoch: *epoch, seq: held.freed })
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> Mark {
        let index = self.index();
        let last = index.epochs.last_key_value();
        last.map_or(Mark::default(), |(epoch, held)| Mark { epoch: *epoch, seq: held.next })
    }

    /// Whether a segment could be deleted.
    pub(crate) fn has_free_segments(&self) -> bool {
        self.index().free_segments().next().is_some()
    }

    /// What is in it.
    pub(crate) fn counts(&self) -> Counts {
        let index = self.index();
        let unfreed = index.epochs.values().map(|epoch| epoch.next.saturating_sub(epoch.freed)).sum();
        Counts { unfreed, bytes: index.bytes(), ..index.counts }
    }

    /// Reads batches from a place on, until there are `bytes_max` bytes or `count_max` batches or no more.
    /// Batches that the cell has committed are passed over. Blocks on files.
    pub(crate) fn read(
        &self,
        place: &mut Place,
        bytes_max: usize,
        count_max: usize,
    ) -> Result<Vec<Stored>, ReadError> {
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        while bytes < bytes_max && found.len() < count_max {
            let Some((number, end, freed)) = self.segment_after(place) else { break };
            let mut file = match self.open_at(number, place.offset) {
                Ok(file) => file,
                // Freed since it was looked up.
                Err(_) if !self.index().segments.contains_key(&number) => continue,
                Err(error) => return Err(ReadError::Io(number, error)),
            };
            while place.offset < end && bytes < bytes_max && found.len() < count_max {
                let (payload, next) = read_frame(&mut file, number, place.offset, end)?;
                place.offset = next;
                let Payload::Batch(batch) = payload else { continue };
                let mark = Mark { epoch: batch.epoch, seq: batch.next_seq() };
                if mark > place.mark.max(freed) {
                    place.mark = mark;
                    bytes = bytes.saturating_add(batch.bytes.len());
                    found.push(batch);
                }
            }
        }
        Ok(found)
    }

    /// The segment that a place lies in, up to where it may be read, and what of it is freed. Moves the place
    /// into it.
    fn segment_after(&self, place: &mut Place) -> Option<(u64, u64, Mark)> {
        let index = self.index();
        let freed = |epoch: u64| index.epochs.get(&epoch).map_or(u64::MAX, |epoch| epoch.freed);
        let mark = place.mark;
        let wanted = |segment: &Segment| {
            segment.next_seq > freed(segment.epoch)
                && Mark { epoch: segment.epoch, seq: segment.next_seq } > mark
        };
        let mut segments = index.segments.range(place.segment..);
        let (number, segment) = segments.find(|(_, segment)| wanted(segment))?;
        if place.segment != *number {
            (place.segment, place.offset) = (*number, 0);
        }
        place.offset = place.offset.max(MAGIC.len() as u64);
        // Where the rest of it has been read, there is nothing more yet.
        let freed = Mark { epoch: segment.epoch, seq: freed(segment.epoch) };
        (place.offset < segment.bytes).then_some((*number, segment.bytes, freed))
    }

    fn open_at(&self, number: u64, offset: u64) -> std::io::Result<BufReader<File>> {
        let mut file = File::open(self.segment_path(number))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(BufReader::with_capacity(64 << 10, file))
    }
}

fn read_frame(file: &mut impl Read, number: u64, at: u64, end: u64) -> Result<(Payload, u64), ReadError> {
    let broken = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ReadError::Damaged(number),
        _ => ReadError::Io(number, error),
    };
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).map_err(broken)?;
    let length = frame::payload_length(&head).ok_or(ReadError::Damaged(number))?;
    let next = at.saturating_add(HEAD_BYTES as u64).saturating_add(length as u64);
    if next > end {
        return Err(ReadError::Damaged(number));
    }
    let mut payload = vec![0; length];
    file.read_exact(&mut payload).map_err(broken)?;
    let payload = frame::read(&head, payload.into()).ok_or(ReadError::Damaged(number))?;
    Ok((payload, next))
}

impl Index {
    fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Segments whose batches are all committed, but for the one that is written to.
    fn free_segments(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().filter_map(|(number, segment)| {
            let freed = self.epochs.get(&segment.epoch).is_none_or(|epoch| epoch.freed >= segment.next_seq);
            (freed && *number != self.current).then_some(*number)
        })
    }
}

/// Writes a file beside the path and renames it: whoever reads sees the old or the new one. Durable where
/// `durably` says so.
pub(crate) fn replace_file(path: &Path, content: &[u8], durably: bool) -> std::io::Result<()> {
    use std::io::Write;
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(content)?;
    if durably {
        file.sync_all()?;
    }
    std::fs::rename(&aside, path)?;
    if durably { path.parent().map_or(Ok(()), sync_directory) } else { Ok(()) }
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
