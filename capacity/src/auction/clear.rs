//! One clearing, from the book to the outcome.

use super::allowance::Allowance;
use super::book::{Bid, Book, Mode};
use super::exact::{self, EXACT_BIDS_MAX, EXACT_SUPPLY_MAX};
use super::greedy::{Fate, Floor, Place};
use super::index::{BidIx, PerBid, PerPool};
use super::loss;
use super::outcome::{BidOutcome, Cleared, Clearing, PoolOutcome, Short};
use super::preempt;
use super::price::{self, Winners};

/// Clears a book. The allowance must count nothing that bids of the book have; afterwards it counts what
/// the winners have.
pub fn clear(book: &Book, allowance: &mut dyn Allowance) -> Clearing {
    let methods = methods(book);
    let is_exact = PerPool(methods.0.iter().map(|method| *method == Cleared::Exactly).collect());
    let mut floor = Floor::new(book);
    floor.walk(&is_exact, allowance);
    let mut programme = exact::Programme::new(book, &is_exact);
    for (pool, _) in book.pools_by_ix().filter(|(pool, _)| is_exact[*pool]) {
        programme.clear(&mut floor, pool, allowance);
    }
    let winners = Winners::new(book, floor.boost, won(&floor));
    let prices = price::prices(&floor, &winners, allowance);
    if has_victims(&floor) {
        preempt::walk_alone(&floor, &is_exact, &mut programme.stays_alone);
    }
    let preemptions = preempt::preemptions(&floor, &is_exact, &programme.stays_alone);
    let handovers = preempt::handovers(&floor, &preemptions);
    let pools = book.pools_by_ix().map(|(pool, offer)| {
        let sold = winners.sold(pool);
        let free = offer.supply.saturating_sub(sold);
        PoolOutcome { price: prices[pool], sold, free, cleared: methods[pool] }
    });
    let bids = book.bids_by_ix().map(|(ix, bid)| match floor.fates[ix].won {
        Some(Place { pool, units }) => {
            BidOutcome::Won { pool, units, short: short(&floor.fates[ix], bid, units) }
        }
        None => lost(&floor, &winners, &is_exact, &programme.wins_at, ix, bid),
    });
    Clearing { pools: pools.collect(), bids: bids.collect(), preemptions, handovers }
}

/// How each pool is cleared. What runs has no say in it, or clearing again could take the other way.
fn methods(book: &Book) -> PerPool<Cleared> {
    let supply_method = |mode: Mode, supply: u64| match mode {
        Mode::Greedy => Cleared::Greedily,
        Mode::Exact if supply > EXACT_SUPPLY_MAX => Cleared::GreedilyForItsSupply,
        Mode::Exact => Cleared::Exactly,
    };
    let by_supply = book.pools().iter().map(|pool| supply_method(pool.mode, pool.supply)).collect();
    let mut methods = PerPool(by_supply);
    if !methods.0.contains(&Cleared::Exactly) {
        return methods;
    }
    let mut bids = PerPool::of(book.pools().len(), 0_usize);
    for bid in book.bids() {
        for pool in &bid.pools {
            bids[*pool] = bids[*pool].saturating_add(1);
            match methods[*pool] {
                Cleared::Exactly if bid.pools.len() > 1 => methods[*pool] = Cleared::GreedilyForSharedBids,
                Cleared::Exactly if bids[*pool] > EXACT_BIDS_MAX => {
                    methods[*pool] = Cleared::GreedilyForItsBids;
                }
                _ => {}
            }
        }
    }
    methods
}

fn won<'a>(floor: &'a Floor<'_>) -> impl Iterator<Item = (BidIx, Place)> + 'a {
    floor.book.bids_by_ix().filter_map(|(ix, _)| Some((ix, floor.fates[ix].won?)))
}

fn has_victims(floor: &Floor<'_>) -> bool {
    let mut bids = floor.book.bids_by_ix();
    bids.any(|(ix, bid)| bid.running.is_some_and(|running| floor.fates[ix].stays < running.units))
}

fn short(fate: &Fate, bid: &Bid, units: u32) -> Option<Short> {
    let is_short = units < bid.max_units;
    is_short.then(|| fate.refusal.map_or(Short::Capacity, Short::Refused))
}

fn lost(
    floor: &Floor<'_>,
    winners: &Winners,
    is_exact: &PerPool<bool>,
    exact_wins_at: &PerBid<Option<hourglass_units::Price>>,
    ix: BidIx,
    bid: &Bid,
) -> BidOutcome {
    let reason = loss::reason(floor, winners, ix, bid);
    let wins_at = match floor.fates[ix].refusal {
        Some(_) => None,
        None => exact_wins_at[ix].or_else(|| loss::wins_at(floor, is_exact, ix, bid)),
    };
    BidOutcome::Lost { reason, wins_at }
}
