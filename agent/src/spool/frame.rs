//! The format of a segment of the log: a magic number, then frames.
//!
//! `mark(4) length(4, LE) checksum(16) payload(length)`. The checksum is BLAKE3 over length and payload, cut
//! to 16 bytes. A payload begins with its kind: a batch, as it is published, with its place before it; or a
//! checkpoint of the cursors, with which each segment begins. Damage is skipped up to the next mark whose
//! checksum holds.

use hourglass_units::InstanceId;
use prost::Message as _;
use prost::bytes::Bytes;

use crate::assignment::Run;
use crate::tracker::Cursors;

/// What a segment begins with.
pub(crate) const MAGIC: &[u8; 8] = b"HGSPOOL1";
/// Bytes before a frame's payload.
pub(crate) const HEAD_BYTES: usize = 24;
/// Longest payload: a checkpoint of very many cursors.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

const MARK: [u8; 4] = [0xC7, 0x48, 0x67, 0x1E];
const KIND_BATCH: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;
const KIND_BATCH_ANEW: u8 = 3;
/// Kind, epoch, first sequence number, number of records.
const BATCH_HEAD_BYTES: usize = 21;

/// A batch in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) epoch: u64,
    pub(crate) first_seq: u64,
    pub(crate) records: u32,
    /// `UsageBatch`, just as it is published.
    pub(crate) bytes: Bytes,
    /// Written a second time when the log was opened. What it reports may lie behind a gap that damage
    /// tore, so it moves no cursor: the checkpoint before it has what there is to know.
    pub(crate) anew: bool,
}

impl Stored {
    /// The sequence number after its last record.
    pub(crate) fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.records))
    }
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload {
    Batch(Stored),
    Checkpoint(Cursors),
}

#[derive(prost::Message)]
struct Checkpoint {
    #[prost(message, repeated, tag = "1")]
    cursors: Vec<Cursor>,
}

#[derive(prost::Message)]
struct Cursor {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(uint32, tag = "2")]
    session: u32,
    #[prost(int64, tag = "3")]
    recorded_to_unix_ms: i64,
}

/// Appends a batch's frame.
pub(crate) fn write_batch(out: &mut Vec<u8>, batch: &Stored) {
    write(out, |payload| {
        payload.push(if batch.anew { KIND_BATCH_ANEW } else { KIND_BATCH });
        payload.extend(batch.epoch.to_le_bytes());
        payload.extend(batch.first_seq.to_le_bytes());
        payload.extend(batch.records.to_le_bytes());
        payload.extend(&*batch.bytes);
    });
}

/// Appends a checkpoint's frame.
pub(crate) fn write_checkpoint(out: &mut Vec<u8>, cursors: &Cursors) {
    let cursors = cursors.iter().map(|(run, at)| Cursor {
        instance: run.instance.as_str().to_owned(),
        session: run.session,
        recorded_to_unix_ms: *at,
    });
    let checkpoint = Checkpoint { cursors: cursors.collect() };
    write(out, |payload| {
        payload.push(KIND_CHECKPOINT);
        payload.extend(checkpoint.encode_to_vec());
    });
}

fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    fill(&mut payload);
    // Nothing that is written comes near PAYLOAD_BYTES_MAX but a checkpoint of a quarter of a million runs.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.extend(MARK);
    out.extend(length);
    out.extend(checksum(length, &payload));
    out.extend(payload);
}

fn checksum(length: [u8; 4], payload: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length).update(payload);
    let mut cut = [0; 16];
    hasher.finalize_xof().fill(&mut cut);
    cut
}

/// The payload's length, from a frame's head; `None` where no frame begins.
pub(crate) fn payload_length(head: &[u8; HEAD_BYTES]) -> Option<usize> {
    let (mark, rest) = head.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (*mark == MARK && length <= PAYLOAD_BYTES_MAX).then_some(length)
}

/// Reads a payload under its head; `None` where it is damaged.
pub(crate) fn read(head: &[u8; HEAD_BYTES], payload: Bytes) -> Option<Payload> {
    let (_, rest) = head.split_first_chunk::<4>()?;
    let (length, sum) = rest.split_first_chunk::<4>()?;
    if sum != checksum(*length, &payload) {
        return None;
    }
    match *payload.first()? {
        kind @ (KIND_BATCH | KIND_BATCH_ANEW) => {
            let (epoch, rest) = payload.get(1..)?.split_first_chunk()?;
            let (first_seq, rest) = rest.split_first_chunk()?;
            let (records, _) = rest.split_first_chunk()?;
            Some(Payload::Batch(Stored {
                epoch: u64::from_le_bytes(*epoch),
                first_seq: u64::from_le_bytes(*first_seq),
                records: u32::from_le_bytes(*records),
                bytes: payload.slice(BATCH_HEAD_BYTES..),
                anew: kind == KIND_BATCH_ANEW,
            }))
        }
        KIND_CHECKPOINT => {
            let checkpoint = Checkpoint::decode(payload.get(1..)?).ok()?;
            let cursors = checkpoint.cursors.into_iter().filter_map(|cursor| {
                let instance = InstanceId::new(&cursor.instance).ok()?;
                Some((Run { instance, session: cursor.session }, cursor.recorded_to_unix_ms))
            });
            Some(Payload::Checkpoint(cursors.collect()))
        }
        _ => None,
    }
}

/// A stretch of a segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// What a frame holds.
    Frame(Payload),
    /// Bytes `[from, to)` that are no frame.
    Damage { from: usize, to: usize },
}

/// Reads a whole segment, frame after frame, and what lies between them.
pub(crate) fn scan(bytes: &Bytes) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    let mut damaged_from = if bytes.starts_with(MAGIC) { None } else { Some(0) };
    if damaged_from.is_none() {
        at = MAGIC.len();
    }
    let mut waiting = None;
    std::iter::from_fn(move || {
        if let Some(frame) = waiting.take() {
            return Some(Piece::Frame(frame));
        }
        while at < bytes.len() {
            if let Some((frame, next)) = frame_at(bytes, at) {
                let damage = damaged_from.take().map(|from| Piece::Damage { from, to: at });
                at = next;
                return match damage {
                    None => Some(Piece::Frame(frame)),
                    Some(damage) => {
                        waiting = Some(frame);
                        Some(damage)
                    }
                };
            }
            damaged_from.get_or_insert(at);
            at = next_mark(bytes, at.saturating_add(1));
        }
        damaged_from
            .take()
            .filter(|from| *from < bytes.len())
            .map(|from| Piece::Damage { from, to: bytes.len() })
    })
}

fn frame_at(bytes: &Bytes, at: usize) -> Option<(Payload, usize)> {
    let (head, _) = bytes.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
    let from = at.checked_add(HEAD_BYTES)?;
    let next = from.checked_add(payload_length(head)?)?;
    if next > bytes.len() {
        return None;
    }
    Some((read(head, bytes.slice(from..next))?, next))
}

/// Where the next mark stands, or the end.
fn next_mark(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest.windows(MARK.len()).position(|window| window == MARK);
    found.map_or(bytes.len(), |found| from.saturating_add(found))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn batches() -> impl Strategy<Value = Vec<Stored>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..90);
        let batch = (any::<u64>(), any::<u64>(), any::<u32>(), bytes, any::<bool>());
        let batch = batch.prop_map(|(epoch, first_seq, records, bytes, anew)| Stored {
            epoch,
            first_seq,
            records,
            bytes: bytes.into(),
            anew,
        });
        proptest::collection::vec(batch, 0..12)
    }

    /// A segment, and where each of its frames ends.
    fn segment(batches: &[Stored]) -> (Vec<u8>, Vec<usize>) {
        let mut out = MAGIC.to_vec();
        let ends = batches.iter().map(|batch| {
            write_batch(&mut out, batch);
            out.len()
        });
        let ends = ends.collect();
        (out, ends)
    }

    fn frames(bytes: Vec<u8>) -> (Vec<Stored>, Vec<(usize, usize)>) {
        let (mut found, mut damage) = (Vec::new(), Vec::new());
        for piece in scan(&bytes.into()) {
            match piece {
                Piece::Frame(Payload::Batch(batch)) => found.push(batch),
                Piece::Frame(Payload::Checkpoint(_)) => panic!("no checkpoint was written"),
                Piece::Damage { from, to } => damage.push((from, to)),
            }
        }
        (found, damage)
    }

    #[test]
    fn a_checkpoint_comes_back() {
        let run = Run { instance: InstanceId::new("i-1").unwrap(), session: 3 };
        let cursors = Cursors::from([(run, 1_234_567)]);
        let mut out = MAGIC.to_vec();
        write_checkpoint(&mut out, &cursors);
        let pieces: Vec<_> = scan(&out.into()).collect();
        assert_eq!(pieces, [Piece::Frame(Payload::Checkpoint(cursors))]);
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_whole_frames_before_are_there(batches in batches(), cut in 0..1_500_usize) {
            let (mut bytes, ends) = segment(&batches);
            bytes.truncate(cut);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let (found, damage) = frames(bytes.clone());
            prop_assert_eq!(&found[..], &batches[..whole]);
            let kept = if whole == 0 { MAGIC.len() } else { ends[whole - 1] };
            let torn = if cut < MAGIC.len() { vec![(0, cut)] } else { vec![(kept, cut)] };
            let torn: Vec<_> = torn.into_iter().filter(|(from, to)| from < to && *to == bytes.len()).collect();
            prop_assert_eq!(damage, torn);
        }

        #[test]
        fn what_is_overwritten_is_skipped_and_told(
            batches in batches(),
            at in 0..1_500_usize,
            noise in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let (mut bytes, ends) = segment(&batches);
            let before = bytes.clone();
            let length = bytes.len();
            for (byte, new) in bytes.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            let touched = |from: usize, to: usize| before[from..to] != bytes[from..to];
            let mut expected = Vec::new();
            let mut from = MAGIC.len();
            for (batch, end) in batches.iter().zip(&ends) {
                if !touched(from, *end) {
                    expected.push(batch.clone());
                }
                from = *end;
            }
            let changed = touched(0, length);
            let (found, damage) = frames(bytes);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(!damage.is_empty(), changed);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let length = bytes.len();
            let (found, damage) = frames(bytes);
            prop_assert!(found.is_empty());
            prop_assert_eq!(damage.len(), usize::from(length > 0));
        }
    }
}
