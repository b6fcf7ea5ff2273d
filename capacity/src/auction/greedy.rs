//! The walk.

use std::cmp::Reverse;

use hourglass_units::Price;

use super::allowance::{self, Allowance, Grant, Refusal};
use super::book::{Bid, Book, Running};
use super::index::{BidIx, PerBid, PerPool, PoolIx};
use super::rank::{ONCE, Rank};

/// What a bid was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: PoolIx,
    pub(super) units: u32,
}

/// What became of a bid.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fate {
    pub(super) won: Option<Place>,
    /// Units that stay where they run.
    pub(super) stays: u32,
    /// Units that ran and had room, and that were refused all the same.
    pub(super) refused_to_stay: u32,
    /// How those were refused.
    pub(super) stay_refusal: Option<Refusal>,
    /// Of a winner, the refusal that left it short where it has room; of a loser, the last one.
    pub(super) refusal: Option<Refusal>,
    /// Whether a pool that it may enter had no room for it.
    pub(super) turned_away: bool,
    /// Of units that run, those that would have room if there were no newcomers.
    pub(super) stays_alone: u32,
    /// Of a loser in an exact pool, the limit with which it would have won.
    pub(super) wins_at: Option<Price>,
}

/// A bid took GPUs of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) rank: Rank,
    pub(super) gpus: u64,
    /// What it left.
    pub(super) free: u64,
}

/// What happened in a pool, in the order of ranks.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    pub(super) free: u64,
    pub(super) steps: Vec<Step>,
}

impl Trail {
    pub(super) fn new(supply: u64) -> Self {
        Self { free: supply, steps: Vec::new() }
    }

    pub(super) fn take(&mut self, rank: Rank, gpus: u64) {
        self.free = self.free.saturating_sub(gpus);
        self.steps.push(Step { rank, gpus, free: self.free });
    }

    /// The first step after which so many GPUs were not free any more.
    pub(super) fn first_below(&self, gpus: u64) -> Option<&Step> {
        self.steps.get(self.steps.partition_point(|step| step.free >= gpus))
    }

    /// Those that took what they did not have.
    pub(super) fn newcomers(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.rank.runs())
    }
}

/// A clearing while it is made.
pub(super) struct Floor<'a> {
    pub(super) book: &'a Book,
    /// What a limit is multiplied with for what runs.
    pub(super) boost: u128,
    /// Which pools the programme clears. Their bids name them alone.
    pub(super) is_exact: PerPool<bool>,
    pub(super) trails: PerPool<Trail>,
    pub(super) fates: PerBid<Fate>,
}

impl<'a> Floor<'a> {
    pub(super) fn new(book: &'a Book, is_exact: PerPool<bool>) -> Self {
        let trails = book.pools().iter().map(|pool| Trail::new(pool.supply)).collect();
        Self {
            book,
            boost: ONCE.saturating_add(u128::from(book.margin().ppm())),
            is_exact,
            trails: PerPool(trails),
            fates: PerBid::of(book.bids().len(), Fate::default()),
        }
    }

    /// The place of what a bid wants and does not have.
    pub(super) fn rank_of_new(&self, ix: BidIx, bid: &Bid) -> Rank {
        Rank::new(bid.limit, ONCE, false, ix)
    }

    /// The place of what a bid has.
    pub(super) fn rank_of_running(&self, ix: BidIx, bid: &Bid) -> Rank {
        Rank::new(bid.limit, self.boost, true, ix)
    }

    /// Clears all pools but the exact ones.
    pub(super) fn walk(&mut self, allowance: &mut dyn Allowance) {
        let mut open = Vec::new();
        for rank in self.ranks() {
            let ix = rank.bid();
            let bid = self.book.bid(ix);
            match bid.running {
                Some(running) if rank.runs() => self.keep(rank, ix, bid, running, allowance),
                _ if self.fates[ix].won.is_some() => self.grow(rank, ix, bid, allowance),
                _ => self.enter(rank, ix, bid, &mut open, allowance),
            }
        }
    }

    /// All places, the first one first. The core of a bid and its increments of one key stand together, so
    /// they are one.
    fn ranks(&self) -> Vec<Rank> {
        let mut ranks = Vec::with_capacity(self.book.bids().len());
        for (ix, bid) in self.book.bids_by_ix() {
            if bid.pools.first().is_some_and(|pool| self.is_exact[*pool]) {
                continue;
            }
            let mut wants_more = true;
            if let Some(Running { pool, units }) = bid.running {
                if bid.limit >= self.book.pool(pool).reserve {
                    ranks.push(self.rank_of_running(ix, bid));
                }
                wants_more = units < bid.max_units || bid.pools.len() > 1;
            }
            if wants_more {
                ranks.push(self.rank_of_new(ix, bid));
            }
        }
        ranks.sort_unstable_by(|one, other| other.cmp(one));
        ranks
    }

    /// A bid keeps what runs, in its own pool alone.
    fn keep(&mut self, rank: Rank, ix: BidIx, bid: &Bid, running: Running, allowance: &mut dyn Allowance) {
        let Running { pool, units } = running;
        let room = bid.units_within(self.trails[pool].free, units);
        let fate = &mut self.fates[ix];
        fate.turned_away = room < units;
        if room == 0 {
            return;
        }
        let Grant { units: stays, refusal } = allowance::take(allowance, (ix, pool), bid.min_units, room);
        if refusal.is_some() {
            fate.refused_to_stay = room.saturating_sub(stays);
            (fate.stay_refusal, fate.refusal) = (refusal, refusal);
        }
        fate.stays = stays;
        if stays > 0 {
            fate.won = Some(Place { pool, units: stays });
            self.trails[pool].take(rank, bid.gpus(stays));
        }
    }

    /// A bid that keeps what runs takes more beside it.
    fn grow(&mut self, rank: Rank, ix: BidIx, bid: &Bid, allowance: &mut dyn Allowance) {
        let fate = &mut self.fates[ix];
        let Some(Place { pool, units }) = fate.won else { return };
        let wants = bid.max_units.saturating_sub(units);
        let room = self.trails[pool].free.checked_div(u64::from(bid.gpus_per_unit)).unwrap_or(0);
        let room = u32::try_from(room).unwrap_or(u32::MAX).min(wants);
        fate.turned_away |= room < wants;
        if room == 0 {
            return;
        }
        let grant = allowance.take(ix, pool, room);
        fate.refusal = grant.refusal;
        if grant.units > 0 {
            fate.won = Some(Place { pool, units: units.saturating_add(grant.units) });
            self.trails[pool].take(rank, bid.gpus(grant.units));
        }
    }

    /// A bid that has nothing takes the pool that has room for most of its units, of equal ones the preferred
    /// one; so does one that lost its place. Where it is refused there it tries the next.
    fn enter(
        &mut self,
        rank: Rank,
        ix: BidIx,
        bid: &Bid,
        open: &mut Vec<(u32, PoolIx)>,
        allowance: &mut dyn Allowance,
    ) {
        open.clear();
        for pool in &bid.pools {
            let offer = self.book.pool(*pool);
            if bid.limit < offer.reserve || bid.runs_in(*pool) || bid.is_too_large_for(offer) {
                continue;
            }
            let room = bid.units_within(self.trails[*pool].free, bid.max_units);
            self.fates[ix].turned_away |= room < bid.max_units;
            if room > 0 {
                open.push((room, *pool));
            }
        }
        open.sort_by_key(|(room, _)| Reverse(*room));
        let fate = &mut self.fates[ix];
        for (room, pool) in open.iter().copied() {
            let Grant { units, refusal } = allowance::take(allowance, (ix, pool), bid.min_units, room);
            if units > 0 {
                fate.refusal = refusal;
                fate.won = Some(Place { pool, units });
                self.trails[pool].take(rank, bid.gpus(units));
                return;
            }
            fate.refusal = refusal.or(fate.refusal);
        }
    }
}
