//! How GPUs come to a job and go from it.

use hourglass_capacity::auction::PoolIx;
use hourglass_units::Price;

use super::Market;
use super::event::What;
use super::floor::Use;
use super::work::{JobIx, Lot, LotState};
use crate::error::BacktestError;

impl Market<'_> {
    /// Units were won: they wait for their GPUs.
    pub(super) fn grow(&mut self, job: JobIx, pool: PoolIx, units: u32) {
        let work = &mut self.works[job];
        for lot in &mut work.lots {
            if lot.pool == pool && matches!(lot.state, LotState::Waiting { .. }) {
                lot.units = lot.units.saturating_add(units);
                return;
            }
        }
        let number = work.next_lot();
        work.lots.push(Lot { number, pool, units, state: LotState::Waiting { held: 0 } });
        self.floors[pool].queue.push_back(job);
    }

    /// Gives what is vacant to those who wait, the longest wait first.
    pub(super) fn fill(&mut self, pool: PoolIx) -> Result<(), BacktestError> {
        while let Some(job) = self.floors[pool].queue.front().copied() {
            let room = self.floors[pool].room();
            let work = &mut self.works[job];
            let mut waiting = None;
            for lot in &mut work.lots {
                let need = u64::from(work.of.gpus_per_unit).saturating_mul(u64::from(lot.units));
                if let LotState::Waiting { held } = &mut lot.state
                    && lot.pool == pool
                {
                    let missing = need.saturating_sub(*held);
                    let takes = room.min(missing);
                    *held = held.saturating_add(takes);
                    waiting = Some((lot.number, takes, takes == missing));
                }
            }
            let Some((lot, takes, is_complete)) = waiting else {
                self.holds(false, || "a job waits in a queue without a lot".to_owned())?;
                return Ok(());
            };
            self.shift(pool, Use::Vacant, Use::Held, takes)?;
            if !is_complete {
                return Ok(());
            }
            self.floors[pool].queue.pop_front();
            self.boot(job, lot)?;
        }
        Ok(())
    }

    /// A lot has its GPUs. It works after it has booted, and not beside what it replaces.
    fn boot(&mut self, job: JobIx, number: u32) -> Result<(), BacktestError> {
        let work = &mut self.works[job];
        let booted = self.now.saturating_add(self.policy.boot_seconds);
        let booted = booted.max(work.drained_at().unwrap_or(0));
        let lot = work.lots.iter_mut().find(|lot| lot.number == number);
        let Some(Lot { pool, units, .. }) = lot.map(|lot| {
            lot.state = LotState::Booting;
            *lot
        }) else {
            return Ok(());
        };
        let gpus = work.gpus(units);
        self.events.push(booted, What::Booted { lot: number }, job);
        self.shift(pool, Use::Held, Use::Booting, gpus)
    }

    /// A lot begins to work, unless it was stopped before.
    pub(super) fn booted(&mut self, job: JobIx, number: u32) -> Result<(), BacktestError> {
        let work = &mut self.works[job];
        let Some(at) = work.lots.iter().position(|lot| lot.number == number) else { return Ok(()) };
        let Lot { pool, units, .. } = work.lots.swap_remove(at);
        let now_works = work.lots.iter_mut().find(|lot| matches!(lot.state, LotState::Working));
        match now_works {
            Some(lot) => lot.units = lot.units.saturating_add(units),
            None => work.lots.push(Lot { number, pool, units, state: LotState::Working }),
        }
        let gpus = work.gpus(units);
        if work.begin(self.now, units) {
            self.tally.starts = self.tally.starts.saturating_add(1);
        }
        self.plan(job);
        self.shift(pool, Use::Booting, Use::Working, gpus)
    }

    /// Units were lost: those that wait go first, then those that boot, then those that work. The latter
    /// have notice, and pay on as before. Says whether any of them worked.
    pub(super) fn shrink(
        &mut self,
        job: JobIx,
        pool: PoolIx,
        units: u32,
        price: Price,
    ) -> Result<bool, BacktestError> {
        let mut left = units;
        let mut has_worked = false;
        for stage in [Use::Held, Use::Booting, Use::Working] {
            // The newest first.
            for at in (0..self.works[job].lots.len()).rev() {
                let Some(lot) = self.works[job].lots.get(at).copied() else { continue };
                if lot.pool != pool || lot.state.uses() != stage {
                    continue;
                }
                let goes = lot.units.min(left);
                left = left.saturating_sub(goes);
                if goes > 0 {
                    has_worked |= stage == Use::Working;
                    self.take_back(job, at, goes, price)?;
                }
            }
        }
        self.holds(left == 0, || format!("job {} has fewer units than the auction takes", job.0))?;
        Ok(has_worked)
    }

    /// Takes units from the lot at a place of the list.
    fn take_back(&mut self, job: JobIx, at: usize, units: u32, price: Price) -> Result<(), BacktestError> {
        let work = &mut self.works[job];
        let gpus = work.gpus(units);
        let Some(lot) = work.lots.get_mut(at) else { return Ok(()) };
        lot.units = lot.units.saturating_sub(units);
        let Lot { number, pool, units: rest, state } = *lot;
        let needs = u64::from(work.of.gpus_per_unit).saturating_mul(u64::from(rest));
        let mut completed = None;
        let (to, goes) = match &mut lot.state {
            LotState::Waiting { held } => {
                let goes = held.saturating_sub(needs);
                *held = held.saturating_sub(goes);
                completed = (rest > 0 && *held == needs).then_some(number);
                (Use::Vacant, goes)
            }
            LotState::Working => (Use::Draining, gpus),
            LotState::Booting | LotState::Draining { .. } => (Use::Vacant, gpus),
        };
        if rest == 0 {
            work.lots.remove(at);
        }
        if matches!(state, LotState::Waiting { .. }) && (rest == 0 || completed.is_some()) {
            self.floors[pool].queue.retain(|waits| *waits != job);
        }
        if to == Use::Draining {
            let work = &mut self.works[job];
            let until = self.now.saturating_add(self.policy.notice_seconds);
            let number = work.next_lot();
            let state = LotState::Draining { since: self.now, until, price };
            work.lots.push(Lot { number, pool, units, state });
            self.events.push(until, What::Drained { lot: number }, job);
        }
        self.shift(pool, state.uses(), to, goes)?;
        completed.map_or(Ok(()), |lot| self.boot(job, lot))
    }

    /// The notice of a lot is over, unless the job was done before.
    pub(super) fn drained(&mut self, job: JobIx, number: u32) -> Result<(), BacktestError> {
        let work = &mut self.works[job];
        let Some(at) = work.lots.iter().position(|lot| lot.number == number) else { return Ok(()) };
        let lot = work.lots.swap_remove(at);
        work.stop(self.now, lot.units);
        self.plan(job);
        self.leave(job, lot)?;
        self.fill(lot.pool)
    }

    /// All work is done: the bid is withdrawn.
    pub(super) fn done(&mut self, job: JobIx) -> Result<(), BacktestError> {
        let work = &mut self.works[job];
        work.settle(self.now);
        let too_much = work.done.checked_sub(work.of.work);
        let is_done = too_much.is_some_and(|much| much < u128::from(work.gpus(work.working)).max(1));
        work.working = 0;
        work.won = None;
        work.ended = Some(self.now);
        let lots = std::mem::take(&mut work.lots);
        self.holds(is_done, || format!("job {} is done too early or too late", job.0))?;
        self.ended = self.ended.saturating_add(1);
        // All lots leave before anybody takes their GPUs: one may still wait in a queue itself.
        for lot in &lots {
            self.leave(job, *lot)?;
        }
        for lot in lots {
            self.fill(lot.pool)?;
        }
        self.clear_at_tick();
        Ok(())
    }

    /// The GPUs of a lot become vacant.
    fn leave(&mut self, job: JobIx, lot: Lot) -> Result<(), BacktestError> {
        let Lot { pool, units, state, .. } = lot;
        let gpus = match state {
            LotState::Waiting { held } => {
                self.floors[pool].queue.retain(|waits| *waits != job);
                held
            }
            LotState::Draining { since, price, .. } => {
                let gpus = self.works[job].gpus(units);
                self.floors[pool].earn(price, gpus, self.now.saturating_sub(since));
                gpus
            }
            LotState::Booting | LotState::Working => self.works[job].gpus(units),
        };
        self.shift(pool, state.uses(), Use::Vacant, gpus)
    }

    /// Foresees when the job will be done.
    fn plan(&mut self, job: JobIx) {
        let work = &mut self.works[job];
        work.plan = work.plan.saturating_add(1);
        if let Some(at) = work.done_at(self.now) {
            self.events.push(at, What::Done { plan: work.plan }, job);
        }
    }
}
