//! What has been received of an agent: up to where it may free its write-ahead log.
//!
//! Batches can arrive in any order, so a watermark is the end of the first run without a gap. It
//! never carries correctness (coverage does): forgetting a range only makes an agent keep, or send
//! again, what is in the log already.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most epochs of an agent that are followed; older ones are forgotten.
const EPOCHS_KEPT: usize = 4;
/// Most ranges beyond the first gap that are remembered.
const RANGES_AHEAD_MAX: usize = 1_024;

/// Sequence numbers received of one agent, by epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Received(BTreeMap<u64, Epoch>);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Epoch {
    /// Every number below this one is here.
    next: u64,
    /// Ranges `[first, next)` beyond the first gap.
    ahead: BTreeMap<u64, u64>,
}

impl Received {
    /// The numbers `[first, next)` of the epoch are here.
    pub(crate) fn insert(&mut self, epoch: u64, first: u64, next: u64) {
        self.0.entry(epoch).or_default().insert(first, next);
        while self.0.len() > EPOCHS_KEPT {
            self.0.pop_first();
        }
    }

    /// The epochs that are followed, oldest first, each with its end of the first run without a gap.
    pub(crate) fn watermarks(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(epoch, received)| (*epoch, received.next))
    }

    /// Every number of the epoch below this one is here.
    pub(crate) fn next_seq(&self, epoch: u64) -> u64 {
        self.0.get(&epoch).map_or(0, |epoch| epoch.next)
    }
}

impl Epoch {
    fn insert(&mut self, first: u64, next: u64) {
        if first > self.next {
            let end = self.ahead.entry(first).or_default();
            *end = next.max(*end);
            if self.ahead.len() > RANGES_AHEAD_MAX {
                self.ahead.pop_last();
            }
            return;
        }
        self.next = self.next.max(next);
        while let Some(range) = self.ahead.first_entry().filter(|range| *range.key() <= self.next) {
            self.next = self.next.max(range.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn in_any_order_all_numbers_arrive(
            ranges in proptest::collection::vec(1..9_u64, 1..40).prop_flat_map(|lengths| {
                let mut first = 0;
                let ranges: Vec<_> = lengths.iter().map(|n| { first += n; (first - n, first) }).collect();
                (Just(first), Just(ranges).prop_shuffle())
            }),
        ) {
            let (end, ranges) = ranges;
            let mut received = Received::default();
            let mut seen = std::collections::BTreeSet::new();
            for (first, next) in ranges {
                received.insert(7, first, next);
                seen.extend(first..next);
                let gapless = (0..end).find(|n| !seen.contains(n)).unwrap_or(end);
                prop_assert_eq!(received.next_seq(7), gapless);
            }
            prop_assert_eq!(received.next_seq(8), 0);
        }
    }
}
