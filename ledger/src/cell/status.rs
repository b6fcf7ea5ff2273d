//! How a cell does, for probes and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::core::State;

/// Upper bounds of the buckets of a commit's duration, in microseconds; a last one has no bound.
pub const COMMIT_MICROSECONDS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];
/// Upper bounds of the buckets of a commit's size, in events; a last one has no bound.
pub const COMMIT_EVENTS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// How the cell does. Counters only grow; gauges say so.
#[derive(Debug, Default)]
pub struct CellStatus {
    /// Gauge: the last position that is committed, or that a standby has read.
    pub position: AtomicU64,
    /// Gauge: the writer's epoch; 0 before this process wrote for the first time.
    pub epoch: AtomicU64,
    /// Commits of events.
    pub commits: AtomicU64,
    /// Commits that failed.
    pub commit_failures: AtomicU64,
    /// Events committed.
    pub events: AtomicU64,
    /// Bytes of events committed.
    pub event_bytes: AtomicU64,
    /// How long commits of events took, in microseconds.
    pub commit_micros: Histogram<{ COMMIT_MICROSECONDS.len() }>,
    /// How many events they held.
    pub commit_events: Histogram<{ COMMIT_EVENTS.len() }>,
    /// Gauge: 1 while the cell can write.
    pub writable: AtomicU64,
    /// Gauge: instances whose usage is in suspense.
    pub suspense_instances: AtomicU64,
    /// Gauge: instances that are registered.
    pub instances: AtomicU64,
    /// Usage records in the log.
    pub usage_records: AtomicU64,
    /// Records in quarantine, of batches that were accepted.
    pub quarantined_records: AtomicU64,
    /// Messages in quarantine.
    pub quarantined_messages: AtomicU64,
    /// The last clearing of the market that is committed, or that a standby has read.
    pub clearings: LastClearing,
}

impl CellStatus {
    /// How far a state is that was folded from the log.
    pub(super) fn tell_of(&self, state: &State) {
        self.position.store(state.position().number(), Ordering::Relaxed);
        if let Some((position, _)) = state.market().cleared() {
            self.clearings.tell(position);
        }
    }
}

/// Where the last clearing stands in the log. Who waits for the next one is woken by its commit.
#[derive(Debug, Default)]
pub struct LastClearing(watch::Sender<u64>);

impl LastClearing {
    /// Tells of a clearing. One that is told again wakes nobody.
    pub(super) fn tell(&self, position: u64) {
        self.0.send_if_modified(|last| {
            let is_new = position > *last;
            *last = position.max(*last);
            is_new
        });
    }

    /// Its log position; 0 where there is none.
    pub fn position(&self) -> u64 {
        *self.0.borrow()
    }

    /// Sees each change from now on. More than one clearing between two looks is one change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// How often a number fell between two bounds, without a lock.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    buckets: [AtomicU64; BOUNDS],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// Counts a number into the first bucket whose bound is not below it.
    pub fn record(&self, number: u64, bounds: &[u64; BOUNDS]) {
        let bucket = self.buckets.iter().zip(bounds).find(|(_, bound)| number <= **bound);
        bucket.map_or(&self.beyond, |(bucket, _)| bucket).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// The sum of all numbers.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// How many numbers fell into each bucket; the last element counts those beyond every bound.
    pub fn counts(&self) -> Vec<u64> {
        let buckets = self.buckets.iter().chain([&self.beyond]);
        buckets.map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::<2>::default();
        for number in [0, 10, 11, 20, 21] {
            histogram.record(number, &[10, 20]);
        }
        assert_eq!((histogram.counts(), histogram.sum()), (vec![2, 2, 1], 62));
    }

    #[test]
    fn a_clearing_wakes_once() {
        let last = LastClearing::default();
        last.tell(5);
        let mut watch = last.watch();
        assert!(!watch.has_changed().unwrap());
        for (told, is_new) in [(7, true), (7, false), (6, false), (8, true)] {
            last.tell(told);
            assert_eq!(watch.has_changed().unwrap(), is_new, "{told}");
            watch.mark_unchanged();
        }
        assert_eq!(last.position(), 8);
    }
}
