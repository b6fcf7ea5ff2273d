//! A job while the market is open: what it has, what it has done, and what it lost.

use std::ops::{Index, IndexMut};

use hourglass_capacity::auction::{PoolIx, Running};
use hourglass_units::Price;

use super::floor::Use;
use crate::job::Job;
use crate::supply::gpu_seconds;

/// A job by number: its place in the list, which is the number of its bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobIx(pub(super) u32);

/// Units that do the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lot {
    /// No other lot of the job has this one.
    pub(super) number: u32,
    pub(super) pool: PoolIx,
    pub(super) units: u32,
    pub(super) state: LotState,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum LotState {
    /// They wait for GPUs, and have so many.
    Waiting { held: u64 },
    /// They boot.
    Booting,
    /// They work.
    Working,
    /// They work until the notice is over, at the price from before it.
    Draining { since: u64, until: u64, price: Price },
}

impl LotState {
    /// What its GPUs do.
    pub(super) fn uses(self) -> Use {
        match self {
            Self::Waiting { .. } => Use::Held,
            Self::Booting => Use::Booting,
            Self::Working => Use::Working,
            Self::Draining { .. } => Use::Draining,
        }
    }
}

/// A job while the market is open.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) of: &'a Job,
    /// What the last clearing gave it.
    pub(super) won: Option<Running>,
    pub(super) lots: Vec<Lot>,
    /// Units that do work, those that drain included.
    pub(super) working: u32,
    /// GPU-seconds of work that are not lost.
    pub(super) done: u128,
    /// Those of them that no checkpoint holds.
    pub(super) unsaved: u128,
    /// GPU-seconds of work that are lost.
    pub(super) lost: u128,
    /// Number of the plan that says when it will be done.
    pub(super) plan: u32,
    /// When it worked for the first time.
    pub(super) first_start: Option<u64>,
    /// When its work was done.
    pub(super) ended: Option<u64>,
    /// Since when some of its units have always worked: checkpoints are counted from here.
    runs_since: u64,
    settled_at: u64,
    lots_made: u32,
}

impl<'a> Work<'a> {
    pub(super) fn new(of: &'a Job) -> Self {
        Self {
            of,
            won: None,
            lots: Vec::new(),
            working: 0,
            done: 0,
            unsaved: 0,
            lost: 0,
            plan: 0,
            first_start: None,
            ended: None,
            runs_since: 0,
            settled_at: 0,
            lots_made: 0,
        }
    }

    /// GPUs of so many units.
    pub(super) fn gpus(&self, units: u32) -> u64 {
        u64::from(self.of.gpus_per_unit).saturating_mul(u64::from(units))
    }

    /// A number for a new lot.
    pub(super) fn next_lot(&mut self) -> u32 {
        self.lots_made = self.lots_made.saturating_add(1);
        self.lots_made
    }

    /// Counts the work since the last change of the units that do it.
    pub(super) fn settle(&mut self, now: u64) {
        let since = std::mem::replace(&mut self.settled_at, now);
        if self.working == 0 || now <= since {
            return;
        }
        let gpus = self.gpus(self.working);
        let done = gpu_seconds(gpus, now.saturating_sub(since));
        self.done = self.done.saturating_add(done);
        let run = now.saturating_sub(self.runs_since);
        // Without an interval each second is kept.
        let since_checkpoint = run.checked_rem(self.of.checkpoint_seconds).unwrap_or(0);
        let checkpoint = now.saturating_sub(since_checkpoint);
        self.unsaved = if checkpoint > since {
            gpu_seconds(gpus, since_checkpoint)
        } else {
            self.unsaved.saturating_add(done)
        };
    }

    /// More units begin to work. Whether none did before.
    pub(super) fn begin(&mut self, now: u64, units: u32) -> bool {
        self.settle(now);
        let is_start = self.working == 0;
        if is_start {
            self.runs_since = now;
            self.unsaved = 0;
            self.first_start.get_or_insert(now);
        }
        self.working = self.working.saturating_add(units);
        is_start
    }

    /// Units stop, and lose their share of what no checkpoint holds, rounded up.
    pub(super) fn stop(&mut self, now: u64, units: u32) {
        self.settle(now);
        let share = self.unsaved.saturating_mul(u128::from(units));
        let lost = share.div_ceil(u128::from(self.working.max(1))).min(self.unsaved);
        self.unsaved = self.unsaved.saturating_sub(lost);
        self.done = self.done.saturating_sub(lost);
        self.lost = self.lost.saturating_add(lost);
        self.working = self.working.saturating_sub(units);
    }

    /// When it will be done, if nothing changes: at a full second. `None` if nothing works.
    pub(super) fn done_at(&self, now: u64) -> Option<u64> {
        let left = self.of.work.saturating_sub(self.done);
        let gpus = u128::from(self.gpus(self.working));
        let seconds = left.checked_add(gpus.checked_sub(1)?)?.checked_div(gpus)?;
        Some(now.saturating_add(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }

    /// GPU-seconds in which it worked.
    pub(super) fn used(&self) -> u128 {
        self.done.saturating_add(self.lost)
    }

    /// GPUs of a pool that it won and waits for.
    pub(super) fn missing(&self, pool: PoolIx) -> u64 {
        let missing = self.lots.iter().filter(|lot| lot.pool == pool).map(|lot| match lot.state {
            LotState::Waiting { held } => self.gpus(lot.units).saturating_sub(held),
            _ => 0,
        });
        missing.fold(0, u64::saturating_add)
    }

    /// When the last of its units has drained.
    pub(super) fn drained_at(&self) -> Option<u64> {
        let drains = self.lots.iter().filter_map(|lot| match lot.state {
            LotState::Draining { until, .. } => Some(until),
            _ => None,
        });
        drains.max()
    }
}

/// The jobs by number. All numbers come from the list that this was made of.
#[derive(Debug)]
pub(super) struct Works<'a>(pub(super) Vec<Work<'a>>);

impl<'a> Index<JobIx> for Works<'a> {
    type Output = Work<'a>;

    #[expect(clippy::indexing_slicing, reason = "made of the jobs that the number is from")]
    fn index(&self, job: JobIx) -> &Work<'a> {
        &self.0[job.0 as usize]
    }
}

impl<'a> IndexMut<JobIx> for Works<'a> {
    #[expect(clippy::indexing_slicing, reason = "made of the jobs that the number is from")]
    fn index_mut(&mut self, job: JobIx) -> &mut Work<'a> {
        &mut self.0[job.0 as usize]
    }
}
