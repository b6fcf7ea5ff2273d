//! The one who writes to the log: batches, new segments, the state file; and deletes what is freed.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use hourglass_proto::v1::{UsageBatch, UsageRecord};
use prost::Message as _;

use super::frame::{self, MAGIC, Stored};
use super::{
    EPOCHS_KEPT, EpochState, Index, STATE_FORMAT, Segment, Spool, State, replace_file, sync_directory,
};
use crate::tracker::Cursors;

/// A segment is closed when it has so many bytes: small enough that freed room comes back soon.
const SEGMENT_BYTES: u64 = 4 << 20;
/// A small log has at least so many segments, so that most of it can be freed.
const SEGMENTS_MIN: u64 = 16;
/// Bytes that are gathered before they are written and made durable.
const GROUP_BYTES: u64 = 1 << 20;

/// What became of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// They will be durable after [`Writer::commit`].
    Room,
    /// The same, and it is time to commit.
    Enough,
    /// They would not fit, and were not taken.
    Full,
}

/// The writing end of the log, and its lock.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) spool: Arc<Spool>,
    pub(super) epoch: u64,
    /// The epochs that are followed, this one last.
    pub(super) followed: Vec<u64>,
    pub(super) number: u64,
    pub(super) file: Option<File>,
    /// Durable bytes of the segment.
    pub(super) written: u64,
    /// The next record's number, those in `pending` counted.
    pub(super) next_seq: u64,
    pub(super) pending: Vec<u8>,
    pub(super) pending_records: u64,
    /// Freed by the system when the process ends, however it ends.
    pub(super) _lock: File,
}

impl Writer {
    /// Deletes what is freed, and begins a new segment where the old one is long enough. `cursors` are those
    /// of everything that is durable. To be called before the first [`Self::append`] after a commit.
    pub(crate) fn begin(&mut self, cursors: &Cursors) -> std::io::Result<()> {
        self.delete_freed()?;
        if self.file.is_none() || self.written >= self.segment_bytes() {
            self.begin_segment(cursors)?;
        }
        Ok(())
    }

    /// Gathers records as one batch.
    pub(crate) fn append(&mut self, records: Vec<UsageRecord>) -> Appended {
        let count = records.len();
        let agent_id = self.spool.agent.as_str().to_owned();
        let batch = UsageBatch { agent_id, epoch: self.epoch, first_seq: self.next_seq, records };
        let before = self.pending.len();
        let records = u32::try_from(count).unwrap_or(u32::MAX);
        let bytes = batch.encode_to_vec().into();
        let stored = Stored { epoch: self.epoch, first_seq: self.next_seq, records, bytes, anew: false };
        frame::write_batch(&mut self.pending, &stored);
        let used = self.spool.index().bytes().saturating_add(self.pending.len() as u64);
        if used > self.spool.bytes_max {
            self.pending.truncate(before);
            return Appended::Full;
        }
        self.next_seq = stored.next_seq();
        self.pending_records = self.pending_records.saturating_add(u64::from(records));
        let enough = self.segment_bytes().min(GROUP_BYTES);
        if self.pending.len() as u64 >= enough { Appended::Enough } else { Appended::Room }
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.spool.bytes_max / SEGMENTS_MIN)
    }

    /// Makes what was gathered durable, and only then known to the reader. After an error nothing of it is
    /// recorded: the same time has to be appended again.
    pub(crate) fn commit(&mut self) -> std::io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let done = match &mut self.file {
            Some(file) => file.write_all(&self.pending).and_then(|()| file.sync_data()),
            None => Err(std::io::Error::other("the log has no open segment")),
        };
        if let Err(error) = done {
            self.roll_back();
            return Err(error);
        }
        self.written = self.written.saturating_add(self.pending.len() as u64);
        let mut index = self.spool.index();
        index.counts.recorded = index.counts.recorded.saturating_add(self.pending_records);
        if let Some(segment) = index.segments.get_mut(&self.number) {
            (segment.bytes, segment.next_seq) = (self.written, self.next_seq);
        }
        index.epochs.entry(self.epoch).or_default().next = self.next_seq;
        drop(index);
        self.pending.clear();
        self.pending_records = 0;
        self.spool.appended.notify_one();
        Ok(())
    }

    /// What reached the file by half goes, and so does the file: after a failed write or sync, nobody knows
    /// what a later sync of it would be worth.
    fn roll_back(&mut self) {
        if let Some(file) = self.file.take() {
            // If this fails too, the next start finds the numbers twice and writes them anew.
            let _cut = file.set_len(self.written).and_then(|()| file.sync_all());
        }
        self.pending.clear();
        self.pending_records = 0;
        self.next_seq = self.spool.index().epochs.get(&self.epoch).map_or(0, |epoch| epoch.next);
    }

    pub(super) fn begin_segment(&mut self, cursors: &Cursors) -> std::io::Result<()> {
        self.file = None;
        let number = self.number.saturating_add(1);
        let path = self.spool.segment_path(number);
        let mut content = MAGIC.to_vec();
        frame::write_checkpoint(&mut content, cursors);
        let mut file = File::create(&path)?;
        if let Err(error) = file.write_all(&content).and_then(|()| file.sync_all()) {
            // The disk is full; an empty file would be in the way of nobody, but of those who look.
            let _gone = std::fs::remove_file(&path);
            return Err(error);
        }
        sync_directory(&self.spool.directory)?;
        (self.number, self.written, self.file) = (number, content.len() as u64, Some(file));
        let segment = Segment { epoch: self.epoch, next_seq: self.next_seq, bytes: self.written };
        let mut index = self.spool.index();
        index.current = number;
        index.segments.insert(number, segment);
        Ok(())
    }

    /// Deletes segments that are freed. What is known to be committed is made durable first: a first record
    /// that is missing must not look like damage.
    pub(crate) fn delete_freed(&mut self) -> std::io::Result<()> {
        let free: Vec<u64> = self.spool.index().free_segments().collect();
        if free.is_empty() {
            return Ok(());
        }
        self.save_state()?;
        for number in free {
            self.delete_segment(number)?;
        }
        Ok(())
    }

    pub(super) fn delete_segment(&mut self, number: u64) -> std::io::Result<()> {
        // Out of the index first, so that no reader takes the missing file for damage.
        let removed = self.spool.index().segments.remove(&number);
        match std::fs::remove_file(self.spool.segment_path(number)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.spool.index().segments.extend(removed.map(|segment| (number, segment)));
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Writes what is known to be committed, so that the next start need not publish it again.
    pub(crate) fn save_state(&self) -> std::io::Result<()> {
        let epochs = self.spool.index().states(&self.followed);
        let agent = self.spool.agent.as_str().to_owned();
        let state = State { format: STATE_FORMAT, agent, epochs };
        let text = serde_json::to_vec_pretty(&state).map_err(std::io::Error::other)?;
        replace_file(&self.spool.directory.join("state.json"), &text, true)
    }

    /// The present epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Index {
    fn states(&self, followed: &[u64]) -> Vec<EpochState> {
        let last = followed.iter().rev().take(EPOCHS_KEPT).rev();
        let freed = |epoch: &u64| self.epochs.get(epoch).map_or(0, |held| held.freed);
        last.map(|epoch| EpochState { epoch: *epoch, freed: freed(epoch) }).collect()
    }
}
