//! One clearing, and what follows from it.

use std::cmp::Reverse;

use hourglass_capacity::auction::welfare::Welfare;
use hourglass_capacity::auction::{
    Bid, Book, BookDraft, Clearing, Pool, PoolIx, Preemption, Running, Unlimited, clear, reserve::utilisation,
};
use hourglass_units::Price;

use super::Market;
use super::floor::Use;
use super::work::JobIx;
use crate::error::BacktestError;
use crate::policy::Policy;
use crate::supply::PoolSupply;

/// What a bid has before and after a clearing.
struct Change {
    job: JobIx,
    before: Option<Running>,
    after: Option<Running>,
}

/// The reserve price of a pool with so many GPUs for sale: the rest of it is reserved or used on demand.
pub(super) fn reserve(pool: &PoolSupply, policy: &Policy, for_sale: u64) -> Price {
    let capacity = pool.capacity();
    policy.reserve_of(&pool.name).price_at(utilisation(capacity.saturating_sub(for_sale), capacity))
}

impl Market<'_> {
    /// Clears the market with the auction that runs live, and does what it says.
    pub(super) fn clear(&mut self) -> Result<(), BacktestError> {
        let now = self.now;
        let book = Book::new(self.draft()).map_err(|error| BacktestError::Book { at: now, error })?;
        let clearing = clear(&book, &mut Unlimited);
        self.check(&book, &clearing)?;
        self.tally.cleared(now, Welfare::of(&book, &clearing));

        let outcomes = book.bids().iter().zip(&clearing.bids);
        let changes = outcomes.filter_map(|(bid, outcome)| {
            let after = outcome.won().map(|(pool, units)| Running { pool, units });
            let job = job_of(bid);
            (bid.running != after).then_some(Change { job, before: bid.running, after })
        });
        let mut changes: Vec<Change> = changes.collect();
        // Who takes GPUs takes them in the order of the walk: what is free goes to the highest limits.
        changes.sort_by_key(|change| (Reverse(self.works[change.job].of.limit), change.job));
        let mut worked = Vec::new();
        for change in &changes {
            if self.lose(change)? {
                worked.push(change.job);
            }
        }
        worked.sort_unstable();
        self.count(&book, &clearing, &worked);
        for (floor, outcome) in self.floors.0.iter_mut().zip(&clearing.pools) {
            floor.set_price(now, outcome.price);
        }
        for change in &changes {
            self.gain(change);
            self.works[change.job].won = change.after;
        }
        self.bids = book.into_draft().bids;
        for pool in (0..).map(PoolIx).take(self.supply.pools().len()) {
            self.fill(pool)?;
            self.check_sold(pool, &clearing)?;
        }
        Ok(())
    }

    /// The book of now: the last one without the bids that were withdrawn, and what came since.
    fn draft(&mut self) -> BookDraft {
        let pools = self.supply.pools().iter().zip(&self.floors.0);
        let pools = pools.map(|(pool, floor)| Pool {
            name: pool.name.clone(),
            supply: floor.for_sale,
            reserve: floor.reserve,
            mode: self.policy.mode_of(&pool.name),
            gang_max: self.policy.gang_max_of(&pool.name),
        });
        let pools = pools.collect();
        let mut bids = std::mem::take(&mut self.bids);
        bids.retain_mut(|bid| {
            let work = &self.works[job_of(bid)];
            bid.running = work.won;
            work.ended.is_none()
        });
        let newcomers = self.newcomers.drain(..).map(|job| {
            let of = self.works[job].of;
            Bid {
                number: u64::from(job.0),
                pools: of.pools.clone(),
                gpus_per_unit: of.gpus_per_unit,
                min_units: of.min_units,
                max_units: of.max_units,
                limit: of.limit,
                running: None,
            }
        });
        bids.extend(newcomers);
        BookDraft { pools, margin: self.policy.margin, bids }
    }

    /// What a bid lost. Whether any of it worked.
    fn lose(&mut self, change: &Change) -> Result<bool, BacktestError> {
        let Some(Running { pool, units }) = change.before else { return Ok(false) };
        let stays = change.after.filter(|after| after.pool == pool).map_or(0, |after| after.units);
        let lost = units.saturating_sub(stays);
        if lost == 0 { Ok(false) } else { self.shrink(change.job, pool, lost, self.floors[pool].price) }
    }

    /// What a bid won.
    fn gain(&mut self, change: &Change) {
        let Some(Running { pool, units }) = change.after else { return };
        let had = change.before.filter(|before| before.pool == pool).map_or(0, |before| before.units);
        let won = units.saturating_sub(had);
        if won > 0 {
            self.grow(change.job, pool, won);
        }
    }

    /// Counts who stops, each bid once: by the cause of most of its units.
    fn count(&mut self, book: &Book, clearing: &Clearing, worked: &[JobIx]) {
        let by_bid = clearing.preemptions.chunk_by(|one, other| one.bid == other.bid);
        for preemptions in by_bid {
            let main = preemptions.iter().rev().max_by_key(|preemption| preemption.units);
            let Some(Preemption { bid, pool, cause, .. }) = main else { continue };
            let job = book.bids().get(bid.index()).map(job_of);
            let has_worked = job.is_some_and(|job| worked.binary_search(&job).is_ok());
            let stays =
                clearing.bid(*bid).and_then(|outcome| outcome.won()).is_some_and(|won| won.0 == *pool);
            self.tally.stopped(*cause, has_worked, stays);
        }
    }

    /// What must hold of each clearing, read off the outcome.
    fn check(&self, book: &Book, clearing: &Clearing) -> Result<(), BacktestError> {
        let mut lowest: Vec<Option<Price>> = vec![None; book.pools().len()];
        for (bid, outcome) in book.bids().iter().zip(&clearing.bids) {
            if let Some(lowest) = outcome.won().and_then(|(pool, _)| lowest.get_mut(pool.index())) {
                *lowest = Some(lowest.map_or(bid.limit, |lowest| lowest.min(bid.limit)));
            }
        }
        for ((pool, outcome), lowest) in book.pools().iter().zip(&clearing.pools).zip(lowest) {
            let is_whole = outcome.sold.checked_add(outcome.free) == Some(pool.supply);
            self.holds(is_whole, || format!("A-1: pool {} sells more than it has", pool.name))?;
            let is_fair =
                outcome.price >= pool.reserve && lowest.is_none_or(|lowest| outcome.price <= lowest);
            self.holds(is_fair, || format!("A-2: pool {} costs more or less than it may", pool.name))?;
        }
        Ok(())
    }

    /// What must hold after each clearing: every GPU does one thing, and whoever won has what was sold or
    /// waits for it.
    fn check_sold(&self, pool: PoolIx, clearing: &Clearing) -> Result<(), BacktestError> {
        let floor = &self.floors[pool];
        self.holds(floor.is_whole(), || format!("a GPU of pool {pool} does two things or none"))?;
        let sold = clearing.pool(pool).map_or(0, |outcome| outcome.sold);
        let mut has = 0_u64;
        for of in [Use::Held, Use::Booting, Use::Working] {
            has = has.saturating_add(floor.gpus[of]);
        }
        let mut missing = 0_u64;
        for job in &floor.queue {
            missing = missing.saturating_add(self.works[*job].missing(pool));
        }
        let adds_up = has.checked_add(missing) == Some(sold);
        self.holds(adds_up, || format!("pool {pool} sold {sold} GPUs; {has} are taken, {missing} missing"))
    }
}

/// The number of a bid is that of its job.
fn job_of(bid: &Bid) -> JobIx {
    JobIx(u32::try_from(bid.number).unwrap_or(u32::MAX))
}
