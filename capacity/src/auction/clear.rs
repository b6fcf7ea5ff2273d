//! One clearing, from the book to the outcome.

use super::allowance::Allowance;
use super::book::{Bid, Book, Mode, Pool};
use super::exact::{self, EXACT_CHOICES_MAX, EXACT_SUPPLY_MAX};
use super::greedy::{Fate, Floor, Place};
use super::index::{BidIx, PerPool};
use super::loss;
use super::outcome::{BidOutcome, Cleared, Clearing, PoolOutcome, Short};
use super::preempt;
use super::price::{self, Winners};

/// Clears a book. The allowance must count nothing that bids of the book have; afterwards it counts what
/// the winners have.
pub fn clear(book: &Book, allowance: &mut dyn Allowance) -> Clearing {
    let methods = methods(book);
    let is_exact = PerPool(methods.0.iter().map(|method| *method == Cleared::Exactly).collect());
    let mut floor = Floor::new(book, is_exact);
    floor.walk(allowance);
    exact::clear_pools(&mut floor, allowance);
    preempt::walk_alone(&mut floor);
    let preemptions = preempt::preemptions(&floor);
    let handovers = preempt::handovers(&floor, &preemptions);
    let won = book.bids_by_ix().filter_map(|(ix, _)| Some((ix, floor.fates[ix].won?)));
    let winners = Winners::new(book, floor.boost, won);
    let prices = price::prices(&floor, &winners, allowance);
    let pools = book.pools_by_ix().map(|(pool, offer)| {
        let sold = winners.sold(pool);
        let free = offer.supply.saturating_sub(sold);
        PoolOutcome { price: prices[pool], sold, free, cleared: methods[pool] }
    });
    let pools = pools.collect();
    let bids = book.bids_by_ix().map(|(ix, bid)| outcome(&floor, &winners, ix, bid)).collect();
    Clearing { pools, bids, preemptions, handovers }
}

fn outcome(floor: &Floor<'_>, winners: &Winners, ix: BidIx, bid: &Bid) -> BidOutcome {
    let Fate { won, refusal, .. } = floor.fates[ix];
    if let Some(Place { pool, units }) = won {
        let is_short = units < bid.max_units;
        let short = is_short.then(|| refusal.map_or(Short::Capacity, Short::Refused));
        return BidOutcome::Won { pool, units, short };
    }
    let reason = loss::reason(floor, winners, ix, bid);
    let wins_at = if refusal.is_none() { loss::wins_at(floor, ix, bid) } else { None };
    BidOutcome::Lost { reason, wins_at }
}

/// How each pool is cleared. What runs has no say in it, or clearing again could take the other way.
fn methods(book: &Book) -> PerPool<Cleared> {
    let mut methods = PerPool(book.pools().iter().map(method).collect());
    if !methods.0.contains(&Cleared::Exactly) {
        return methods;
    }
    let mut choices = PerPool::of(book.pools().len(), 0_u64);
    for bid in book.bids() {
        for pool in &bid.pools {
            if methods[*pool] != Cleared::Exactly {
                continue;
            }
            choices[*pool] = choices[*pool].saturating_add(exact::choices(bid, book.pool(*pool).supply));
            if bid.pools.len() > 1 {
                methods[*pool] = Cleared::GreedilyForSharedBids;
            } else if choices[*pool] > EXACT_CHOICES_MAX {
                methods[*pool] = Cleared::GreedilyForItsBids;
            }
        }
    }
    methods
}

fn method(pool: &Pool) -> Cleared {
    match pool.mode {
        Mode::Greedy => Cleared::Greedily,
        Mode::Exact if pool.supply > EXACT_SUPPLY_MAX => Cleared::GreedilyForItsSupply,
        Mode::Exact => Cleared::Exactly,
    }
}
