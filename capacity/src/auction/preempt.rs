//! why units stop, and who gets their GPUs.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::allowance::Refusal;
use super::book::{Bid, Running};
use super::greedy::Floor;
use super::index::{BidIx, PerPool, PoolIx};
use super::outcome::{Cause, Handover, Preemption};

/// Finds what would stay of what runs if there were no newcomers: what has no room even then was reclaimed,
/// the rest was outbid.
///
/// Up to the first newcomer this walk and the real one are the same, refusals included. So whoever stays
/// here and not there has a newcomer before it.
pub(super) fn walk_alone(floor: &mut Floor<'_>) {
    let book = floor.book;
    let incumbents = book.bids_by_ix().filter_map(|(ix, bid)| Some((ix, bid, bid.running?)));
    let mut incumbents: Vec<(BidIx, &Bid, Running)> =
        incumbents.filter(|(_, _, running)| !floor.is_exact[running.pool]).collect();
    if incumbents.iter().all(|(ix, _, running)| floor.fates[*ix].stays == running.units) {
        return;
    }
    incumbents.sort_unstable_by_key(|(ix, bid, _)| Reverse(floor.rank_of_running(*ix, bid)));
    let mut free: PerPool<u64> = PerPool(book.pools().iter().map(|pool| pool.supply).collect());
    for (ix, bid, Running { pool, units }) in incumbents {
        let fate = &mut floor.fates[ix];
        fate.stays_alone = bid.units_within(free[pool], units);
        let is_refused = fate.stay_refusal.is_some();
        let taken = if is_refused { fate.stays_alone.min(fate.stays) } else { fate.stays_alone };
        free[pool] = free[pool].saturating_sub(bid.gpus(taken));
    }
}

/// All that stops. A bid that loses units for two causes has an entry for each.
pub(super) fn preemptions(floor: &Floor<'_>) -> Vec<Preemption> {
    let mut preemptions = Vec::new();
    for (ix, bid) in floor.book.bids_by_ix() {
        let Some(Running { pool, units }) = bid.running else { continue };
        let fate = &floor.fates[ix];
        let mut stopped = |units: u32, cause: Cause| {
            if units > 0 {
                preemptions.push(Preemption { bid: ix, pool, units, cause });
            }
        };
        let lost = units.saturating_sub(fate.stays);
        if lost == 0 {
            continue;
        }
        if bid.limit < floor.book.pool(pool).reserve {
            stopped(lost, Cause::ReserveRaised);
            continue;
        }
        match fate.stay_refusal {
            Some(Refusal::Quota) => stopped(fate.refused_to_stay, Cause::Quota),
            Some(Refusal::Budget) => stopped(fate.refused_to_stay, Cause::Budget),
            None => {}
        }
        let without_room = lost.saturating_sub(fate.refused_to_stay);
        let reclaimed = without_room.min(units.saturating_sub(fate.stays_alone));
        match displacer(floor, ix, bid, pool) {
            Some(by) => {
                stopped(without_room.saturating_sub(reclaimed), Cause::Outbid { by });
                stopped(reclaimed, Cause::SupplyReclaimed);
            }
            None => stopped(without_room, Cause::SupplyReclaimed),
        }
    }
    preemptions
}

/// The last newcomer of the pool that goes before the victim. A programme has no order: there it is the
/// newcomer with the highest limit.
fn displacer(floor: &Floor<'_>, ix: BidIx, bid: &Bid, pool: PoolIx) -> Option<BidIx> {
    let trail = &floor.trails[pool];
    if floor.is_exact[pool] {
        return trail.newcomers().next().map(|step| step.rank.bid());
    }
    let victim = floor.rank_of_running(ix, bid);
    let before = trail.steps.partition_point(|step| step.rank > victim);
    let mut ahead = trail.steps.iter().take(before).rev();
    ahead.find(|step| !step.rank.runs()).map(|step| step.rank.bid())
}

/// Matches victims with newcomers. Newcomers take in their order, first what was free, then what victims
/// leave; those that were outbid leave theirs first, and what was reclaimed comes last, because the rest of
/// it goes to whoever reclaimed it.
pub(super) fn handovers(floor: &Floor<'_>, preemptions: &[Preemption]) -> Vec<Handover> {
    let book = floor.book;
    let mut used = PerPool::of(book.pools().len(), 0_u64);
    for bid in book.bids() {
        if let Some(Running { pool, units }) = bid.running {
            used[pool] = used[pool].saturating_add(bid.gpus(units));
        }
    }
    let mut leavers: PerPool<Vec<(BidIx, u64, bool)>> = PerPool::of(book.pools().len(), Vec::new());
    for Preemption { bid, pool, units, cause } in preemptions {
        let gpus = book.bid(*bid).gpus(*units);
        leavers[*pool].push((*bid, gpus, matches!(cause, Cause::SupplyReclaimed)));
    }
    let mut handovers = Vec::new();
    for (pool, offer) in book.pools_by_ix() {
        let leavers = &mut leavers[pool];
        if leavers.is_empty() {
            continue;
        }
        let order = |ix: &BidIx| Reverse(floor.rank_of_running(*ix, book.bid(*ix)));
        leavers.sort_by_key(|(ix, _, was_reclaimed)| (*was_reclaimed, order(ix)));
        let mut leavers: VecDeque<(BidIx, u64)> = leavers.iter().map(|(ix, gpus, _)| (*ix, *gpus)).collect();
        let mut free = offer.supply.saturating_sub(used[pool]);
        for newcomer in floor.trails[pool].newcomers() {
            let mut waits_for = newcomer.gpus.saturating_sub(free);
            free = free.saturating_sub(newcomer.gpus);
            while waits_for > 0
                && let Some((from, left)) = leavers.front_mut()
            {
                let gpus = waits_for.min(*left);
                handovers.push(Handover { pool, from: *from, to: newcomer.rank.bid(), gpus });
                waits_for = waits_for.saturating_sub(gpus);
                *left = left.saturating_sub(gpus);
                if *left == 0 {
                    leavers.pop_front();
                }
            }
        }
    }
    handovers
}
