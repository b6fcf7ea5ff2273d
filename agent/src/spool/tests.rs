//! The log, written as the agent does, hurt as crashes and disks do, and opened again.

use std::collections::BTreeSet;

use hourglass_proto::v1::{UsageBatch, UsageRecord};
use hourglass_units::InstanceId;
use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};
use prost::Message as _;

use super::*;
use crate::assignment::Run;
use crate::tracker::Cursors;

fn agent() -> AgentId {
    AgentId::new("agent-1").unwrap()
}

fn opened(directory: &Path) -> (std::sync::Arc<Spool>, Writer, Cursors) {
    open(directory, &agent(), 1 << 30, 1_000).unwrap()
}

fn record(at: i64) -> UsageRecord {
    UsageRecord {
        instance_id: "i-1".to_owned(),
        session: 1,
        start_unix_ms: at,
        end_unix_ms: at + 1,
        gpus: 8,
        evidence: None,
    }
}

fn cursor(at: i64) -> Cursors {
    Cursors::from([(Run { instance: InstanceId::new("i-1").unwrap(), session: 1 }, at)])
}

/// Writes batches of so many records each, one millisecond a record, from `from` on.
fn write(writer: &mut Writer, from: i64, counts: &[i64]) -> i64 {
    let mut at = from;
    for count in counts {
        writer.begin(&cursor(at)).unwrap();
        let end = at + count;
        assert_ne!(writer.append((at..end).map(record).collect()), Appended::Full);
        writer.commit().unwrap();
        at = end;
    }
    at
}

/// All that a reader finds: batches, and the milliseconds that they report.
fn read_all(spool: &Spool) -> (Vec<Stored>, BTreeSet<i64>) {
    let mut place = Place::default();
    let mut batches = Vec::new();
    loop {
        let more = spool.read(&mut place, 500, 3).unwrap();
        if more.is_empty() {
            break;
        }
        batches.extend(more);
    }
    let mut milliseconds = BTreeSet::new();
    for stored in &batches {
        let batch = UsageBatch::decode(&*stored.bytes).unwrap();
        let place = (batch.epoch, batch.first_seq, batch.records.len());
        assert_eq!(place, (stored.epoch, stored.first_seq, stored.records as usize));
        milliseconds.extend(batch.records.iter().map(|record| record.start_unix_ms));
    }
    (batches, milliseconds)
}

fn logs(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    logs
}

#[test]
fn a_new_start_is_a_new_epoch_with_the_same_bytes_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, mut writer, cursors) = opened(directory.path());
    assert!(cursors.is_empty());
    let at = write(&mut writer, 0, &[3, 4]);
    let (before, _) = read_all(&spool);
    assert_eq!(
        before.iter().map(|batch| (batch.epoch, batch.first_seq)).collect::<Vec<_>>(),
        [(1_000, 0), (1_000, 3)]
    );
    drop((spool, writer));

    let (spool, mut writer, cursors) = opened(directory.path());
    assert_eq!(cursors, cursor(at));
    write(&mut writer, at, &[5]);
    let (after, milliseconds) = read_all(&spool);
    assert_eq!(after[..2], before);
    // The clock stood still, and the epoch grows all the same.
    assert_eq!((after[2].epoch, after[2].first_seq), (1_001, 0));
    assert_eq!(milliseconds, (0..12).collect());
    assert_eq!(spool.counts().unfreed, 12);
}

#[test]
fn only_what_the_watermark_covers_is_freed() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, mut writer, _) = open(directory.path(), &agent(), SPOOL_BYTES_MIN, 1_000).unwrap();
    write(&mut writer, 0, &[900; 16]);
    let segments = logs(directory.path()).len();
    assert!(segments > 3);
    assert_eq!(spool.free(Mark { epoch: 1_000, seq: 5_000 }), Some(5_000));
    // An older watermark takes nothing back; one of another life frees nothing.
    assert_eq!(spool.free(Mark { epoch: 1_000, seq: 10 }), Some(0));
    assert_eq!(spool.free(Mark { epoch: 999, seq: 10_000 }), Some(0));
    assert_eq!(spool.free(Mark { epoch: 1_000, seq: 14_401 }), None);
    writer.delete_freed().unwrap();
    let (batches, milliseconds) = read_all(&spool);
    assert_eq!(batches[0].first_seq, 4_500, "a batch that is covered in part stays whole");
    assert_eq!(milliseconds, (4_500..14_400).collect());
    assert!(logs(directory.path()).len() < segments);
    drop((spool, writer));

    let (spool, mut writer, cursors) = opened(directory.path());
    assert_eq!(cursors, cursor(14_400));
    assert_eq!(spool.counts().unfreed, 9_400);
    assert_eq!(spool.free(Mark { epoch: 1_000, seq: 14_400 }), Some(9_400));
    writer.delete_freed().unwrap();
    assert_eq!(logs(directory.path()).len(), 1);
    drop((spool, writer));
    // With nothing left but the checkpoint the cursors are still known.
    let (spool, _writer, cursors) = opened(directory.path());
    assert_eq!((cursors, spool.first_unfreed()), (cursor(14_400), None));
}

#[test]
fn a_full_log_takes_nothing_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, mut writer, _) = open(directory.path(), &agent(), SPOOL_BYTES_MIN, 1_000).unwrap();
    let batch = |at: i64| (at..at + 1_000).map(record).collect();
    let mut at = 0;
    loop {
        writer.begin(&cursor(at)).unwrap();
        let appended = writer.append(batch(at));
        writer.commit().unwrap();
        if appended == Appended::Full {
            break;
        }
        at += 1_000;
    }
    assert!(spool.counts().bytes <= SPOOL_BYTES_MIN && at > 10_000);
    assert_eq!(read_all(&spool).1, (0..at).collect());
    spool.free(Mark { epoch: 1_000, seq: 9_000 });
    writer.begin(&cursor(at)).unwrap();
    assert_ne!(writer.append(batch(at)), Appended::Full);
}

#[test]
fn one_agent_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let held = opened(directory.path());
    let again = open(directory.path(), &agent(), 1 << 30, 1_000);
    assert!(matches!(again, Err(SpoolError::InUse(_))));
    drop(held);
    let other = AgentId::new("agent-2").unwrap();
    let again = open(directory.path(), &other, 1 << 30, 1_000);
    assert!(matches!(again, Err(SpoolError::OtherAgent { .. })));
    opened(directory.path());
}

/// A cell follows the last four epochs of an agent: what stands under an older one could never be freed.
#[test]
fn an_epoch_that_a_cell_may_have_forgotten_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut at = 0;
    for _ in 0..6 {
        let (_, mut writer, _) = opened(directory.path());
        at = write(&mut writer, at, &[3, 2]);
    }
    let (spool, _writer, _) = opened(directory.path());
    let (batches, milliseconds) = read_all(&spool);
    assert_eq!(milliseconds, (0..at).collect());
    let epochs: BTreeSet<u64> = batches.iter().map(|batch| batch.epoch).collect();
    assert_eq!(epochs, [1_004, 1_005, 1_006].into());
    assert!(batches.is_sorted_by_key(|batch| (batch.epoch, batch.first_seq)));
    assert_eq!(spool.counts().unfreed, at as u64);
}

#[test]
fn a_commit_that_fails_records_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, mut writer, _) = opened(directory.path());
    let at = write(&mut writer, 0, &[3]);
    let path = logs(directory.path()).remove(0);
    writer.begin(&cursor(at)).unwrap();
    writer.append(vec![record(at)]);
    // A file that cannot be written to.
    writer.file = Some(File::open(&path).unwrap());
    assert!(writer.commit().is_err());
    assert_eq!(spool.counts().unfreed, 3);
    let at = write(&mut writer, at, &[2]);
    let (batches, milliseconds) = read_all(&spool);
    assert_eq!(batches.iter().map(|batch| batch.first_seq).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(milliseconds, (0..at).collect());
}

/// What happens to the newest segment, or to any.
#[derive(Debug, Clone)]
enum Hurt {
    CutLast(usize),
    Overwrite { segment: usize, at: usize, noise: Vec<u8> },
    LoseState,
}

fn hurts() -> impl Strategy<Value = Hurt> {
    let noise = proptest::collection::vec(proptest::prelude::any::<u8>(), 1..60);
    proptest::prop_oneof![
        (0..900_usize).prop_map(Hurt::CutLast),
        (0..9_usize, 0..9_000_usize, noise).prop_map(|(segment, at, noise)| Hurt::Overwrite {
            segment,
            at,
            noise
        }),
        proptest::prelude::Just(Hurt::LoseState),
    ]
}

fn hurt(directory: &Path, how: &Hurt) {
    let logs = logs(directory);
    match how {
        Hurt::CutLast(bytes) => {
            let file = File::options().write(true).open(logs.last().unwrap()).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length.saturating_sub(*bytes as u64)).unwrap();
        }
        Hurt::Overwrite { segment, at, noise } => {
            let path = &logs[segment % logs.len()];
            let mut bytes = std::fs::read(path).unwrap();
            let at = at % bytes.len().max(1);
            for (byte, new) in bytes.iter_mut().skip(at).zip(noise) {
                *byte = *new;
            }
            std::fs::write(path, bytes).unwrap();
        }
        Hurt::LoseState => std::fs::remove_file(directory.join("state.json")).unwrap(),
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, ..Default::default() })]

    /// Whatever happens to the files between two starts: the log opens, its epochs have no gap (or a cell
    /// could never free them), and between what it holds, what was freed and what the cursors let the agent
    /// report again, nothing is missing.
    #[test]
    fn nothing_is_missing_after_any_damage(
        rounds in proptest::collection::vec((proptest::collection::vec(1..700_i64, 1..8), 0..8_000_u64, hurts()), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut freed = BTreeSet::new();
        for (counts, free, how) in rounds {
            let (spool, mut writer, cursors) =
                open(directory.path(), &agent(), SPOOL_BYTES_MIN, 1_000).unwrap();
            let at = cursors.values().next().copied().unwrap_or(0);
            let (batches, held) = read_all(&spool);
            let mut next = std::collections::BTreeMap::new();
            for batch in &batches {
                if let Some(end) = next.insert(batch.epoch, batch.next_seq()) {
                    prop_assert_eq!(batch.first_seq, end, "a gap in epoch {}", batch.epoch);
                }
            }
            let missing = (0..at).find(|at| !held.contains(at) && !freed.contains(at));
            prop_assert!(missing.is_none(), "{missing:?} of {at} is missing");
            write(&mut writer, at, &counts);
            let (batches, _) = read_all(&spool);
            if let Some(mut mark) = spool.first_unfreed() {
                mark.seq += free;
                mark.seq = mark.seq.min(batches.iter().filter(|b| b.epoch == mark.epoch).map(Stored::next_seq).max().unwrap());
                spool.free(mark).unwrap();
                for batch in batches.iter().filter(|b| b.epoch == mark.epoch) {
                    let records = UsageBatch::decode(&*batch.bytes).unwrap().records;
                    let seqs = batch.first_seq..;
                    freed.extend(seqs.zip(records).filter(|(seq, _)| *seq < mark.seq).map(|(_, r)| r.start_unix_ms));
                }
            }
            writer.delete_freed().unwrap();
            drop((spool, writer));
            hurt(directory.path(), &how);
        }
    }
}
