//! The last clearings, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::{Sequence, Told};
use super::{LAG_CLEARINGS_MAX, RING_CLEARINGS_MAX};

/// Clearings that a stream takes at once.
const AT_ONCE: usize = 32;

/// The last clearings, those that changed nothing for watchers included.
#[derive(Debug)]
pub(super) struct Ring {
    told: VecDeque<Arc<Told>>,
    /// All clearings behind it are here.
    floor: u64,
    /// All pools as the last clearing left them.
    last: Arc<Told>,
}

/// What there is behind a position.
#[derive(Debug)]
pub(super) enum Behind {
    /// The next clearings; none where there are no later ones.
    Next(Vec<Arc<Told>>),
    /// More than a live stream may leave behind.
    Far(Vec<Arc<Told>>),
    /// Some of it is no longer here.
    Older,
}

/// What a sequence is to the ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One from which the ring can go on.
    Here,
    /// Before all that is here.
    Older,
    /// None of this log.
    Unknown,
}

impl Ring {
    /// A ring of the clearings behind `floor`; `last` has all pools as the last of them left them.
    pub(super) fn new(told: VecDeque<Arc<Told>>, floor: u64, last: Arc<Told>) -> Self {
        Self { told, floor, last }
    }

    pub(super) fn last(&self) -> &Arc<Told> {
        &self.last
    }

    /// Adds a clearing; `last` has all pools as it left them.
    pub(super) fn push(&mut self, told: Told, last: Told) {
        self.told.push_back(Arc::new(told));
        self.last = Arc::new(last);
        while self.told.len() > RING_CLEARINGS_MAX {
            if let Some(gone) = self.told.pop_front() {
                self.floor = gone.sequence.position;
            }
        }
    }

    pub(super) fn behind(&self, position: u64) -> Behind {
        if position < self.floor {
            return Behind::Older;
        }
        let first = self.told.partition_point(|it| it.sequence.position <= position);
        let next = self.told.iter().skip(first).take(AT_ONCE).cloned().collect();
        match self.told.len().saturating_sub(first) {
            far if far > LAG_CLEARINGS_MAX => Behind::Far(next),
            _ => Behind::Next(next),
        }
    }

    pub(super) fn place(&self, sequence: Sequence) -> Place {
        let Sequence { epoch, position } = sequence;
        if sequence == Sequence::default() {
            return if self.floor == 0 { Place::Here } else { Place::Older };
        }
        let first = self.told.front().map_or(u64::MAX, |it| it.sequence.position);
        if position < first && self.floor > 0 {
            // The one before the first is not here, but all behind it is.
            return Place::Older;
        }
        let found = self.told.binary_search_by(|it| it.sequence.position.cmp(&position));
        let epoch_there = found.ok().and_then(|ix| self.told.get(ix)).map(|it| it.sequence.epoch);
        if epoch_there == Some(epoch) { Place::Here } else { Place::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourglass_units::INSTANT_MIN;

    fn told(epoch: u64, position: u64) -> Told {
        Told::new(Sequence { epoch, position }, INSTANT_MIN, Vec::new())
    }

    fn ring(positions: impl IntoIterator<Item = u64>) -> Ring {
        let mut ring = Ring::new(VecDeque::new(), 0, Arc::new(told(0, 0)));
        positions.into_iter().for_each(|position| ring.push(told(1, position), told(1, position)));
        ring
    }

    fn positions(behind: Behind) -> Option<Vec<u64>> {
        match behind {
            Behind::Next(next) | Behind::Far(next) => {
                Some(next.iter().map(|it| it.sequence.position).collect())
            }
            Behind::Older => None,
        }
    }

    #[test]
    fn it_goes_on_behind_any_position_it_knows() {
        let ring = ring([3, 5, 9]);
        for (after, expected) in
            [(0, vec![3, 5, 9]), (3, vec![5, 9]), (4, vec![5, 9]), (5, vec![9]), (9, vec![]), (10, vec![])]
        {
            assert_eq!(positions(ring.behind(after)), Some(expected), "{after}");
        }
    }

    #[test]
    fn it_knows_which_sequences_are_its_own() {
        let small = ring([3, 5, 9]);
        for (epoch, position, place) in [
            (0, 0, Place::Here),
            (1, 3, Place::Here),
            (1, 9, Place::Here),
            (2, 9, Place::Unknown),
            (1, 1, Place::Unknown),
            (1, 4, Place::Unknown),
            (1, 10, Place::Unknown),
        ] {
            assert_eq!(small.place(Sequence { epoch, position }), place, "{epoch}.{position}");
        }
        let empty = ring([]);
        assert_eq!(empty.place(Sequence::default()), Place::Here);
        assert_eq!(empty.place(Sequence { epoch: 1, position: 1 }), Place::Unknown);
    }

    #[test]
    fn it_keeps_so_many_and_says_what_is_gone() {
        let most = RING_CLEARINGS_MAX as u64;
        let ring = ring((1..=most + 10).map(|n| n * 2));
        assert_eq!((ring.told.len(), ring.floor), (RING_CLEARINGS_MAX, 20));
        assert_eq!(positions(ring.behind(19)), None);
        assert_eq!(positions(ring.behind(20)).unwrap().first(), Some(&22));
        for (position, place) in
            [(18, Place::Older), (20, Place::Older), (22, Place::Here), (23, Place::Unknown)]
        {
            assert_eq!(ring.place(Sequence { epoch: 1, position }), place, "{position}");
        }
        assert_eq!(ring.place(Sequence::default()), Place::Older);
        let newest = (most + 10) * 2;
        let lag = LAG_CLEARINGS_MAX as u64 * 2;
        assert!(matches!(ring.behind(newest - lag), Behind::Next(_)));
        assert!(matches!(ring.behind(newest - lag - 2), Behind::Far(_)));
    }
}
