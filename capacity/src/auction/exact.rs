//! The programme: who wins in a small pool, if the sum of limits is to be largest.
//!
//! A dynamic programme over GPUs. Of all choices of units it takes the one with the largest sum of
//! limit × GPUs, with the margin for what runs; among those the one that keeps most GPUs running; among
//! those the one that gives the earliest bid most, then the second, and so on. That order is total, so the
//! outcome is one. It stays the same when it runs: its own value rises by all that the margin can add, that
//! of any other choice by no more.
//!
//! Bids in such a pool name it alone. Their allowances are asked for before, in the order of limits and
//! then of numbers and for all that would fit; what was not won is given back at once. So which of two bids
//! a shared quota allows does not depend on what runs, and is the same the next time.

use super::allowance::{self, Allowance, Grant, Refusal};
use super::book::{Bid, Book};
use super::greedy::{Fate, Floor, Place};
use super::index::{BidIx, PerPool, PoolIx};
use super::rank::{ONCE, Rank, nanos, price};

/// Most GPUs of a pool that is cleared by the programme.
pub const EXACT_SUPPLY_MAX: u64 = 512;
/// Most choices of units in a pool that is cleared by the programme, summed over the bids that name it: this
/// limits its time to some milliseconds.
pub const EXACT_CHOICES_MAX: u64 = 2_048;

/// A sum of limit × GPUs, and below these bits the GPUs that keep running.
/// At most 2^50 nanos × 2^24 parts × 2^9 GPUs, times 2^10: 93 bits.
type Score = u128;
const KEPT_BITS: u32 = 10;

/// A bid that takes part.
struct Candidate<'a> {
    ix: BidIx,
    bid: &'a Bid,
    /// Units that run.
    runs: u32,
    /// Units that may be won.
    most: u32,
    refusal: Option<Refusal>,
}

/// How many choices a bid has in a pool of so many GPUs: to lose, or to win so many units. At least one.
pub(super) fn choices(bid: &Bid, supply: u64) -> u64 {
    let most = bid.units_within(supply, bid.max_units);
    u64::from(most.saturating_add(1).saturating_sub(bid.min_units)).max(1)
}

/// Clears all exact pools.
pub(super) fn clear_pools(floor: &mut Floor<'_>, allowance: &mut dyn Allowance) {
    let mut bids: PerPool<Vec<BidIx>> = PerPool::of(floor.book.pools().len(), Vec::new());
    if floor.is_exact.0.contains(&true) {
        for (ix, bid) in floor.book.bids_by_ix() {
            if let Some(pool) = bid.pools.first().filter(|pool| floor.is_exact[**pool]) {
                bids[*pool].push(ix);
            }
        }
    }
    for (pool, _) in floor.book.pools_by_ix().filter(|(pool, _)| !bids[*pool].is_empty()) {
        clear_pool(floor, pool, &bids[pool], allowance);
    }
}

fn clear_pool(floor: &mut Floor<'_>, pool: PoolIx, bids: &[BidIx], allowance: &mut dyn Allowance) {
    let candidates = candidates(floor.book, pool, bids, allowance);
    let table = Table::new(&candidates, floor.book.pool(pool).supply, floor.boost);
    let chosen = table.choose(&candidates);
    for (candidate, units) in candidates.iter().zip(&chosen) {
        allowance.give_back(candidate.ix, pool, candidate.most.saturating_sub(*units));
        floor.fates[candidate.ix] = candidate.fate(pool, *units);
    }
    record_steps(floor, pool, &candidates, &chosen);
    record_alone(floor, pool, &candidates);
    record_prices(floor, pool, bids, &table, &candidates);
}

/// Writes down what winners took, as a walk would have.
fn record_steps(floor: &mut Floor<'_>, pool: PoolIx, candidates: &[Candidate<'_>], chosen: &[u32]) {
    let mut steps: Vec<(Rank, u64)> = Vec::new();
    for (candidate, units) in candidates.iter().zip(chosen) {
        let Candidate { ix, bid, .. } = candidate;
        let stays = candidate.kept(*units);
        steps.push((floor.rank_of_running(*ix, bid), bid.gpus(stays)));
        steps.push((floor.rank_of_new(*ix, bid), bid.gpus(units.saturating_sub(stays))));
    }
    steps.retain(|(_, gpus)| *gpus > 0);
    steps.sort_unstable_by(|one, other| other.cmp(one));
    for (rank, gpus) in steps {
        floor.trails[pool].take(rank, gpus);
    }
}

/// Writes down what would stay of what runs if there were no newcomers.
fn record_alone(floor: &mut Floor<'_>, pool: PoolIx, candidates: &[Candidate<'_>]) {
    let incumbents = candidates.iter().map(|it| Candidate { most: it.most.min(it.runs), ..*it });
    let incumbents: Vec<Candidate<'_>> = incumbents.collect();
    if incumbents.iter().all(|it| floor.fates[it.ix].stays == it.most) {
        return;
    }
    let alone = Table::new(&incumbents, floor.book.pool(pool).supply, floor.boost).choose(&incumbents);
    for (Candidate { ix, runs, most, .. }, units) in incumbents.iter().zip(alone) {
        floor.fates[*ix].stays_alone = units.saturating_add(runs.saturating_sub(*most));
    }
}

/// Writes down the limit with which each loser would surely have won: with it, the best choice that has the
/// loser is worth more than the best one that has not. One nano below, it wins by a tie at most.
fn record_prices(
    floor: &mut Floor<'_>,
    pool: PoolIx,
    bids: &[BidIx],
    table: &Table,
    candidates: &[Candidate<'_>],
) {
    let mut earlier = vec![0; table.all().len()];
    let mut rest = candidates.iter().zip(&table.rows).peekable();
    for ix in bids.iter().copied() {
        while let Some((candidate, _)) = rest.next_if(|(candidate, _)| candidate.ix < ix) {
            earlier = with(&earlier, candidate, table.boost);
        }
        if floor.fates[ix].won.is_some() {
            continue;
        }
        let after_it = rest.peek().is_some_and(|(candidate, _)| candidate.ix == ix);
        let at = candidates.len().saturating_sub(rest.len()).saturating_add(usize::from(after_it));
        let others = Others { earlier: &earlier, later: table.rows.get(at).map_or(&[], Vec::as_slice) };
        let bid = floor.book.bid(ix);
        let runs = bid.running.map_or(0, |running| running.units);
        let candidate = Candidate { ix, bid, runs, most: bid.max_units, refusal: None };
        let least = candidate.least_nanos_above(&others, table.boost).and_then(price);
        floor.fates[ix].wins_at = least.map(|least| least.max(floor.book.pool(pool).reserve));
    }
}

/// The best scores without one bid, in two parts: of the candidates before it and of those after it.
struct Others<'a> {
    earlier: &'a [Score],
    later: &'a [Score],
}

impl Others<'_> {
    /// With so many GPUs less than the pool has.
    fn beside(&self, gpus: usize) -> Option<Score> {
        let capacities = self.earlier.len().checked_sub(gpus)?;
        let splits = self.earlier.iter().zip(self.later.iter().take(capacities).rev());
        splits.map(|(earlier, later)| earlier.saturating_add(*later)).max()
    }
}

/// Asks for the allowances of all that may take part. What runs although its gang is too large by now asks
/// last: once it has lost it is no candidate any more, and nobody else may notice.
fn candidates<'a>(
    book: &'a Book,
    pool: PoolIx,
    bids: &[BidIx],
    allowance: &mut dyn Allowance,
) -> Vec<Candidate<'a>> {
    let offer = book.pool(pool);
    let candidate = |ix: &BidIx| {
        let bid = book.bid(*ix);
        let runs = bid.running.map_or(0, |running| running.units);
        let may_enter = bid.limit >= offer.reserve && (runs > 0 || !bid.is_too_large_for(offer));
        let most = bid.units_within(offer.supply, bid.max_units);
        may_enter.then_some(Candidate { ix: *ix, bid, runs, most, refusal: None })
    };
    let mut candidates: Vec<Candidate<'a>> = bids.iter().filter_map(candidate).collect();
    candidates.sort_by_key(|it| (it.bid.is_too_large_for(offer), std::cmp::Reverse(it.bid.limit), it.ix));
    for it in candidates.iter_mut().filter(|it| it.most > 0) {
        let Grant { units, refusal } = allowance::take(allowance, (it.ix, pool), it.bid.min_units, it.most);
        (it.most, it.refusal) = (units, refusal);
    }
    candidates.sort_by_key(|it| it.ix);
    candidates
}

impl Candidate<'_> {
    fn kept(&self, units: u32) -> u32 {
        units.min(self.runs)
    }

    /// What one nano of the limit adds to the score of so many units.
    fn weight(&self, units: u32, boost: u128) -> u128 {
        let kept = self.kept(units);
        let times = boost.saturating_mul(u128::from(self.bid.gpus(kept)));
        let new = ONCE.saturating_mul(u128::from(self.bid.gpus(units.saturating_sub(kept))));
        times.saturating_add(new) << KEPT_BITS
    }

    fn score(&self, units: u32, boost: u128) -> Score {
        let kept = u128::from(self.bid.gpus(self.kept(units)));
        nanos(self.bid.limit).saturating_mul(self.weight(units, boost)).saturating_add(kept)
    }

    /// All units that it can win, with their GPUs.
    fn choices(&self) -> impl DoubleEndedIterator<Item = (u32, usize)> {
        let gpus = |units| usize::try_from(self.bid.gpus(units)).unwrap_or(usize::MAX);
        (self.bid.min_units..=self.most).map(move |units| (units, gpus(units)))
    }

    /// The least limit with which some choice of it, and the best of the others beside, beat the best of
    /// the others alone.
    fn least_nanos_above(&self, others: &Others<'_>, boost: u128) -> Option<u128> {
        let alone = others.beside(0)?;
        let choices = self.choices().map_while(|(units, gpus)| {
            let lacks = alone.saturating_sub(others.beside(gpus)?);
            let kept = u128::from(self.bid.gpus(self.kept(units)));
            Some(match lacks.checked_sub(kept) {
                Some(lacks) => (lacks / self.weight(units, boost)).saturating_add(1),
                None => 0,
            })
        });
        choices.min()
    }

    fn fate(&self, pool: PoolIx, units: u32) -> Fate {
        let may_stay = self.runs.min(self.most);
        let refused_to_stay = if self.refusal.is_some() { self.runs.saturating_sub(may_stay) } else { 0 };
        Fate {
            won: (units > 0).then_some(Place { pool, units }),
            stays: self.kept(units),
            refused_to_stay,
            stay_refusal: self.refusal.filter(|_| refused_to_stay > 0),
            refusal: self.refusal.filter(|_| units == self.most),
            turned_away: units < self.most || (self.most == 0 && self.refusal.is_none()),
            ..Fate::default()
        }
    }
}

/// By candidate, the best score of it and all later ones, by GPUs: the row after the last is zero.
struct Table {
    boost: u128,
    rows: Vec<Vec<Score>>,
}

impl Table {
    fn new(candidates: &[Candidate<'_>], supply: u64, boost: u128) -> Self {
        let capacities = usize::try_from(supply).unwrap_or(0).saturating_add(1);
        let mut rows = vec![vec![0; capacities]];
        for candidate in candidates.iter().rev() {
            let row = rows.last().map_or_else(Vec::new, |row| with(row, candidate, boost));
            rows.push(row);
        }
        rows.reverse();
        Self { boost, rows }
    }

    /// The best score of all, by GPUs.
    fn all(&self) -> &[Score] {
        self.rows.first().map_or(&[], Vec::as_slice)
    }

    /// The units of each candidate in the best choice.
    fn choose(&self, candidates: &[Candidate<'_>]) -> Vec<u32> {
        let mut free = self.all().len().saturating_sub(1);
        let mut chosen = Vec::with_capacity(candidates.len());
        for (candidate, rows) in candidates.iter().zip(self.rows.windows(2)) {
            let [row, rest] = rows else { continue };
            let best = row.get(free).copied().unwrap_or(0);
            let is_best = |(units, gpus): &(u32, usize)| {
                let beside = free.checked_sub(*gpus).and_then(|free| rest.get(free));
                beside.is_some_and(|it| it.saturating_add(candidate.score(*units, self.boost)) == best)
            };
            let (units, gpus) = candidate.choices().rev().find(is_best).unwrap_or((0, 0));
            free = free.saturating_sub(gpus);
            chosen.push(units);
        }
        chosen
    }
}

/// The best scores with one candidate more.
fn with(row: &[Score], candidate: &Candidate<'_>, boost: u128) -> Vec<Score> {
    let mut best = row.to_vec();
    for (units, gpus) in candidate.choices() {
        let score = candidate.score(units, boost);
        for (best, beside) in best.iter_mut().skip(gpus).zip(row) {
            *best = (*best).max(beside.saturating_add(score));
        }
    }
    best
}
