//! What has been seen and what of it is recorded: the cutting of time into usage records.

use std::collections::{BTreeMap, VecDeque};

use hourglass_proto::v1::{Evidence, UsageRecord};

use crate::assignment::{Assignment, Run};

/// Longest interval that one record may report, a day: the cell's own limit.
pub const REPORT_MILLISECONDS_MAX: i64 = 86_400_000;
/// How long the end of the last record of a run is remembered after its file is gone. A file that comes
/// back later is reported from its `since` on again, which repeats and adds nothing.
const CURSOR_KEPT_MILLISECONDS: i64 = 86_400_000;
/// Most runs without a file whose unrecorded time is kept in memory while the log is full.
const GONE_RUNS_MAX: usize = 10_000;

/// Up to where each run is recorded, in milliseconds since the Unix epoch.
pub(crate) type Cursors = BTreeMap<Run, i64>;

/// Time that was seen and is not recorded yet: `gpus` GPUs during `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    gpus: u32,
    from: i64,
    to: i64,
}

/// What is lost for good, since nobody can report it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    pub(crate) runs: u64,
    pub(crate) gpu_milliseconds: u64,
}

/// One sample's view of the node, and what is owed from earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    cursors: Cursors,
    owed: BTreeMap<Run, VecDeque<Span>>,
    /// Runs whose file was there at the last sample.
    present: BTreeMap<Run, u32>,
    interval_ms: i64,
}

impl Tracker {
    /// Goes on from `cursors`; records are cut at multiples of `interval_ms`.
    pub(crate) fn new(cursors: Cursors, interval_ms: i64) -> Self {
        let interval_ms = interval_ms.clamp(1, REPORT_MILLISECONDS_MAX);
        Self { cursors, owed: BTreeMap::new(), present: BTreeMap::new(), interval_ms }
    }

    /// Takes in what is held at `now`. All of it, from where the run was last seen (or its `since`) up to
    /// now (or its `until`), is owed until [`Self::recorded`] says that it is in the log.
    pub(crate) fn see(&mut self, assignments: &[Assignment], now: i64) -> Lost {
        self.present.clear();
        for assignment in assignments {
            let run = &assignment.run;
            self.present.insert(run.clone(), assignment.gpus);
            let owed_to = self.owed.get(run).and_then(|spans| spans.back()).map(|span| span.to);
            let seen_to = owed_to.or_else(|| self.cursors.get(run).copied());
            let since = assignment.since.unix_ms();
            let from = seen_to.map_or(since, |seen_to| seen_to.max(since));
            let to = assignment.until.map_or(now, |until| until.unix_ms().min(now));
            if from >= to {
                continue;
            }
            let spans = self.owed.entry(run.clone()).or_default();
            match spans.back_mut() {
                Some(last) if last.to == from && last.gpus == assignment.gpus => last.to = to,
                _ => spans.push_back(Span { gpus: assignment.gpus, from, to }),
            }
        }
        let (owed, present) = (&self.owed, &self.present);
        let oldest = now.saturating_sub(CURSOR_KEPT_MILLISECONDS);
        self.cursors.retain(|run, at| *at >= oldest || present.contains_key(run) || owed.contains_key(run));
        self.give_up_what_is_too_much()
    }

    /// Memory is bounded too: what is owed of runs without a file is dropped beyond a number.
    fn give_up_what_is_too_much(&mut self) -> Lost {
        let gone = self.owed.keys().filter(|run| !self.present.contains_key(*run));
        let surplus: Vec<Run> = gone.skip(GONE_RUNS_MAX).cloned().collect();
        let mut lost = Lost::default();
        for run in surplus {
            lost.add(self.owed.remove(&run).unwrap_or_default());
        }
        lost
    }

    /// Whether everything that was seen is recorded.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// What would be lost if the agent ended now: time of runs whose file is gone already.
    pub(crate) fn lost_if_ended(&self) -> Lost {
        let mut lost = Lost::default();
        for (_, spans) in self.owed.iter().filter(|(run, _)| !self.present.contains_key(*run)) {
            lost.add(spans.iter().copied());
        }
        lost
    }

    /// The next records, at most `count_max`, cut at multiples of the interval. `measured` is laid beside
    /// the record that ends at `now`, since it was measured then.
    pub(crate) fn next_records(
        &self,
        count_max: usize,
        now: i64,
        measured: &BTreeMap<Run, Evidence>,
    ) -> Vec<UsageRecord> {
        let pieces = self.owed.iter().flat_map(|(run, spans)| {
            spans.iter().flat_map(move |span| {
                self.pieces(*span).map(move |(start, end)| UsageRecord {
                    instance_id: run.instance.as_str().to_owned(),
                    session: run.session,
                    start_unix_ms: start,
                    end_unix_ms: end,
                    gpus: span.gpus,
                    evidence: (end == now).then(|| measured.get(run).cloned()).flatten(),
                })
            })
        });
        pieces.take(count_max).collect()
    }

    fn pieces(&self, span: Span) -> impl Iterator<Item = (i64, i64)> + use<> {
        let interval = self.interval_ms;
        let mut from = span.from;
        std::iter::from_fn(move || {
            let start = from;
            let boundary = start.div_euclid(interval).saturating_add(1).saturating_mul(interval);
            from = boundary.min(span.to);
            (start < from).then_some((start, from))
        })
    }

    /// The records, just as [`Self::next_records`] gave them, are in the log.
    pub(crate) fn recorded(&mut self, records: &[UsageRecord]) {
        // Records come run by run, so each run is looked up once.
        for records in records.chunk_by(|a, b| a.session == b.session && a.instance_id == b.instance_id) {
            let (Some(first), Some(last)) = (records.first(), records.last()) else { continue };
            let Some(run) = run_of(first) else { continue };
            let to = last.end_unix_ms;
            if let Some(spans) = self.owed.get_mut(&run) {
                spans.retain_mut(|span| {
                    span.from = span.from.max(to);
                    span.from < span.to
                });
                if spans.is_empty() {
                    self.owed.remove(&run);
                }
            }
            advance(&mut self.cursors, run, to);
        }
    }

    /// Up to where each run is recorded.
    pub(crate) fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// Runs whose file was there at the last sample, and the GPUs that they hold together.
    pub(crate) fn held(&self) -> (usize, u64) {
        (self.present.len(), self.present.values().copied().map(u64::from).sum())
    }
}

impl Lost {
    fn add(&mut self, spans: impl IntoIterator<Item = Span>) {
        self.runs = self.runs.saturating_add(1);
        for span in spans {
            let length = u64::try_from(span.to.saturating_sub(span.from)).unwrap_or(0);
            self.gpu_milliseconds =
                self.gpu_milliseconds.saturating_add(length.saturating_mul(u64::from(span.gpus)));
        }
    }
}

/// The run that a record is about; `None` for an id that this agent would never have written.
pub(crate) fn run_of(record: &UsageRecord) -> Option<Run> {
    let instance = hourglass_units::InstanceId::new(&record.instance_id).ok()?;
    Some(Run { instance, session: record.session })
}

/// The run is recorded up to `to` at least.
pub(crate) fn advance(cursors: &mut Cursors, run: Run, to: i64) {
    let cursor = cursors.entry(run).or_insert(to);
    *cursor = to.max(*cursor);
}

#[cfg(test)]
mod tests {
    use hourglass_units::{InstanceId, Instant};
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn run(id: &str) -> Run {
        Run { instance: InstanceId::new(id).unwrap(), session: 1 }
    }

    fn held(id: &str, gpus: u32, since: i64, until: Option<i64>) -> Assignment {
        let at = |ms| Instant::from_unix_ms(ms).unwrap();
        Assignment { run: run(id), gpus, since: at(since), until: until.map(at), gpu_uuids: Vec::new() }
    }

    fn take(tracker: &mut Tracker, count: usize, now: i64) -> Vec<(i64, i64, u32)> {
        let records = tracker.next_records(count, now, &BTreeMap::new());
        tracker.recorded(&records);
        records.iter().map(|record| (record.start_unix_ms, record.end_unix_ms, record.gpus)).collect()
    }

    #[test]
    fn cut_at_boundaries_and_nowhere_else() {
        let mut tracker = Tracker::new(Cursors::new(), 100);
        tracker.see(&[held("i", 8, 50, None)], 230);
        assert_eq!(take(&mut tracker, 2, 230), [(50, 100, 8), (100, 200, 8)]);
        tracker.see(&[held("i", 8, 50, Some(260))], 300);
        assert_eq!(take(&mut tracker, 9, 300), [(200, 260, 8)]);
        tracker.see(&[held("i", 8, 50, Some(260))], 900);
        assert!(tracker.owes_nothing());
        // The clock goes back; a file is gone; `since` lies ahead.
        tracker.see(&[held("i", 8, 50, None), held("j", 1, 500, None)], 100);
        assert!(tracker.owes_nothing());
    }

    #[test]
    fn what_was_seen_is_owed_although_the_file_is_gone_or_changed() {
        let mut tracker = Tracker::new(Cursors::new(), 1_000);
        tracker.see(&[held("i", 8, 0, None)], 100);
        tracker.see(&[held("i", 4, 0, None)], 150);
        tracker.see(&[], 900);
        assert_eq!(tracker.lost_if_ended(), Lost { runs: 1, gpu_milliseconds: 8 * 100 + 4 * 50 });
        assert_eq!(take(&mut tracker, 9, 900), [(0, 100, 8), (100, 150, 4)]);
        assert_eq!(tracker.lost_if_ended(), Lost::default());
    }

    #[test]
    fn evidence_lies_beside_the_record_that_ends_now() {
        let mut tracker = Tracker::new(Cursors::new(), 100);
        tracker.see(&[held("i", 8, 0, None)], 250);
        let measured = BTreeMap::from([(run("i"), Evidence { gpu_util_percent: 7, ..Evidence::default() })]);
        let records = tracker.next_records(9, 250, &measured);
        let with: Vec<_> = records.iter().map(|record| record.evidence.is_some()).collect();
        assert_eq!(with, [false, false, true]);
    }

    /// Who is there with how many GPUs, how much later, and how many records fit into the log.
    type Sample = (Vec<(bool, u32)>, i64, usize);

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let runs = proptest::collection::vec((any::<bool>(), 1..9_u32), 3);
        proptest::collection::vec((runs, 0..700_i64, 0..9_usize), 1..30)
    }

    proptest! {
        /// Whatever comes and goes, and however much fits into the log in between: what is recorded in the
        /// end is what was held at each sample, each millisecond once.
        #[test]
        fn the_records_are_what_was_held(samples in samples(), interval in 1..400_i64) {
            let mut tracker = Tracker::new(Cursors::new(), interval);
            let mut now = 10_000;
            let mut seen_to = BTreeMap::new();
            let mut expected: BTreeMap<(String, i64), u32> = BTreeMap::new();
            let mut got: BTreeMap<(String, i64), u32> = BTreeMap::new();
            let mut note = |records: Vec<UsageRecord>| {
                for record in records {
                    prop_assert!(record.end_unix_ms > record.start_unix_ms);
                    let last = record.end_unix_ms - 1;
                    prop_assert_eq!(record.start_unix_ms / interval, last / interval);
                    for at in record.start_unix_ms..record.end_unix_ms {
                        let again = got.insert((record.instance_id.clone(), at), record.gpus);
                        prop_assert!(again.is_none(), "{} at {at} twice", record.instance_id);
                    }
                }
                Ok(())
            };
            for (runs, later, fits) in samples {
                now += later;
                let ids = ["a", "b", "c"];
                let here: Vec<_> = runs.iter().zip(ids).filter(|((here, _), _)| *here).collect();
                let files: Vec<_> = here.iter().map(|((_, gpus), id)| held(id, *gpus, 9_900, None)).collect();
                for ((_, gpus), id) in here {
                    let from = seen_to.insert(id, now).unwrap_or(9_900);
                    expected.extend((from..now).map(|at| (((*id).to_owned(), at), *gpus)));
                }
                tracker.see(&files, now);
                let records = tracker.next_records(fits, now, &BTreeMap::new());
                tracker.recorded(&records);
                note(records)?;
            }
            while !tracker.owes_nothing() {
                let records = tracker.next_records(7, now, &BTreeMap::new());
                tracker.recorded(&records);
                note(records)?;
            }
            prop_assert_eq!(got, expected);
        }
    }
}
