//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::work::JobIx;

/// What can happen to a job. At one second in this order: who is done at the end of its notice is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Its work is done, if nothing changed since the plan of this number.
    Done {
        /// Number of the plan.
        plan: u32,
    },
    /// The notice of a lot is over.
    Drained {
        /// Number of the lot.
        lot: u32,
    },
    /// A lot begins to work.
    Booted {
        /// Number of the lot.
        lot: u32,
    },
}

/// What happens to whom, and when: the earliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) what: What,
    pub(super) job: JobIx,
}

/// All that is foreseen.
#[derive(Debug, Default)]
pub(super) struct Events(BinaryHeap<Reverse<Event>>);

impl Events {
    pub(super) fn push(&mut self, at: u64, what: What, job: JobIx) {
        self.0.push(Reverse(Event { at, what, job }));
    }

    /// When the next one is.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.0.peek().map(|Reverse(event)| event.at)
    }

    /// The next one, if it is at this second.
    pub(super) fn pop_at(&mut self, at: u64) -> Option<Event> {
        self.next_at().filter(|next| *next == at)?;
        self.0.pop().map(|Reverse(event)| event)
    }
}
