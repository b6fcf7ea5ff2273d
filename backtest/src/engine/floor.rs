//! A pool while the market is open: what each of its GPUs does, second by second.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

use hourglass_capacity::auction::PoolIx;
use hourglass_units::Price;

use super::work::JobIx;
use crate::supply::gpu_seconds;

/// What a GPU does. Each does exactly one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody has it.
    Vacant,
    /// A job has it, and waits for more before it can boot.
    Held,
    /// A job boots on it.
    Booting,
    /// A job works on it.
    Working,
    /// A job works on it, and has been told to stop.
    Draining,
}

/// A value for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PerUse<T>([T; 5]);

impl<T> Index<Use> for PerUse<T> {
    type Output = T;

    #[expect(clippy::indexing_slicing, reason = "there are as many places as uses")]
    fn index(&self, of: Use) -> &T {
        &self.0[of as usize]
    }
}

impl<T> IndexMut<Use> for PerUse<T> {
    #[expect(clippy::indexing_slicing, reason = "there are as many places as uses")]
    fn index_mut(&mut self, of: Use) -> &mut T {
        &mut self.0[of as usize]
    }
}

/// A pool while the market is open.
#[derive(Debug)]
pub(super) struct Floor {
    /// GPUs for spot now.
    pub(super) supply: u64,
    /// GPUs that the auction may sell: those that are for spot now and until a notice from now.
    pub(super) for_sale: u64,
    /// What nobody pays less than.
    pub(super) reserve: Price,
    /// What a GPU-hour costs now.
    pub(super) price: Price,
    /// What GPUs do now.
    pub(super) gpus: PerUse<u64>,
    /// GPU-seconds so far, by what was done in them.
    pub(super) seconds: PerUse<u128>,
    /// Nano-currency an hour × GPU-seconds so far.
    pub(super) revenue: u128,
    /// Who won GPUs and has not got all of them, the longest wait first.
    pub(super) queue: VecDeque<JobIx>,
    /// Each change of the price, and from when it holds.
    pub(super) prices: Vec<(u64, Price)>,
    /// Each change of the number of GPUs that work, and from when it holds.
    pub(super) working: Vec<(u64, u64)>,
    /// Each change of the supply, and from when it holds.
    pub(super) supplies: Vec<(u64, u64)>,
    settled_at: u64,
}

impl Floor {
    pub(super) fn new(opens: u64) -> Self {
        Self {
            supply: 0,
            for_sale: 0,
            reserve: Price::ZERO,
            price: Price::ZERO,
            gpus: PerUse::default(),
            seconds: PerUse::default(),
            revenue: 0,
            queue: VecDeque::new(),
            prices: Vec::new(),
            working: Vec::new(),
            supplies: Vec::new(),
            settled_at: opens,
        }
    }

    /// Counts the seconds since the last change.
    pub(super) fn settle(&mut self, now: u64) {
        let seconds = now.saturating_sub(self.settled_at);
        if seconds == 0 {
            return;
        }
        for (sum, gpus) in self.seconds.0.iter_mut().zip(self.gpus.0) {
            *sum = sum.saturating_add(gpu_seconds(gpus, seconds));
        }
        self.earn(self.price, self.gpus[Use::Working], seconds);
        self.settled_at = now;
    }

    /// So many GPUs were paid for at a price for so long.
    pub(super) fn earn(&mut self, price: Price, gpus: u64, seconds: u64) {
        let worth = super::worth(price, gpu_seconds(gpus, seconds));
        self.revenue = self.revenue.saturating_add(worth);
    }

    /// So many GPUs do something else from now on. `None` if there are not so many.
    pub(super) fn shift(&mut self, now: u64, from: Use, to: Use, gpus: u64) -> Option<()> {
        self.settle(now);
        self.gpus[from] = self.gpus[from].checked_sub(gpus)?;
        self.gpus[to] = self.gpus[to].checked_add(gpus)?;
        let at_work = self.gpus[Use::Working].saturating_add(self.gpus[Use::Draining]);
        note(&mut self.working, now, at_work);
        Some(())
    }

    /// So many GPUs are there from now on. `None` if GPUs are gone that are in use.
    pub(super) fn set_supply(&mut self, now: u64, supply: u64) -> Option<()> {
        self.settle(now);
        let vacant = self.gpus[Use::Vacant].checked_add(supply)?;
        self.gpus[Use::Vacant] = vacant.checked_sub(self.supply)?;
        self.supply = supply;
        note(&mut self.supplies, now, supply);
        Some(())
    }

    /// The price from now on.
    pub(super) fn set_price(&mut self, now: u64, price: Price) {
        self.settle(now);
        self.price = price;
        note(&mut self.prices, now, price);
    }

    /// GPUs that a winner may take now: those that are vacant, as long as no more are in use than are for
    /// sale. What else is vacant will be gone before a notice is over.
    pub(super) fn room(&self) -> u64 {
        let vacant = self.gpus[Use::Vacant];
        let in_use = self.supply.saturating_sub(vacant);
        vacant.min(self.for_sale.saturating_sub(in_use))
    }

    /// Whether each GPU does one thing.
    pub(super) fn is_whole(&self) -> bool {
        self.gpus.0.into_iter().fold(0, u64::saturating_add) == self.supply
    }

    /// All GPU-seconds that were counted.
    pub(super) fn all_seconds(&self) -> u128 {
        self.seconds.0.into_iter().fold(0, u128::saturating_add)
    }
}

/// Writes down a change; of several at one second the last one.
fn note<T: PartialEq + Copy>(changes: &mut Vec<(u64, T)>, now: u64, value: T) {
    match changes.last_mut() {
        Some((at, last)) if *at == now => *last = value,
        Some((_, last)) if *last == value => {}
        _ => changes.push((now, value)),
    }
}

/// The pools by number. All numbers come from the supply that the list was made for.
#[derive(Debug)]
pub(super) struct Floors(pub(super) Vec<Floor>);

impl Index<PoolIx> for Floors {
    type Output = Floor;

    #[expect(clippy::indexing_slicing, reason = "made for the supply that the number is from")]
    fn index(&self, pool: PoolIx) -> &Floor {
        &self.0[pool.index()]
    }
}

impl IndexMut<PoolIx> for Floors {
    #[expect(clippy::indexing_slicing, reason = "made for the supply that the number is from")]
    fn index_mut(&mut self, pool: PoolIx) -> &mut Floor {
        &mut self.0[pool.index()]
    }
}
