//! An oracle for the walk: unit after unit, with sums taken anew at each of them.

use std::cmp::Reverse;

use hourglass_capacity::auction::{Bid, Cause, Clearing, Headrooms, PoolIx, Running};
use hourglass_units::Price;

use super::books::{Kind, World, for_each_book};

/// A core, or one more unit.
#[derive(Debug, Clone, Copy)]
struct Item {
    bid: usize,
    runs: bool,
    is_core: bool,
}

/// By bid, its pool and units.
type Placement = Vec<Option<(usize, u32)>>;
/// A bid with its number, and where it is.
type Placed<'a> = (usize, (&'a Bid, &'a Option<(usize, u32)>));

fn millionths(world: &World, limit: Price, runs: bool) -> u128 {
    let margin = if runs { world.draft.margin.ppm() } else { 0 };
    u128::try_from(limit.nanos()).unwrap() * u128::from(1_000_000 + margin)
}

fn items(world: &World) -> Vec<Item> {
    let mut items = Vec::new();
    for (bid, it) in world.draft.bids.iter().enumerate() {
        if let Some(running) = it.running {
            items.push(Item { bid, runs: true, is_core: true });
            items.extend((it.min_units..running.units).map(|_| Item { bid, runs: true, is_core: false }));
        }
        items.push(Item { bid, runs: false, is_core: true });
        items.extend((it.min_units..it.max_units).map(|_| Item { bid, runs: false, is_core: false }));
    }
    items.sort_by_key(|item| {
        let bid = &world.draft.bids[item.bid];
        let key = millionths(world, bid.limit, item.runs);
        (Reverse(key), Reverse(item.runs), bid.number, Reverse(item.is_core))
    });
    items
}

fn used(world: &World, placed: &Placement, pool: usize) -> u64 {
    let at = |(bid, placed): (&Bid, &Option<(usize, u32)>)| match placed {
        Some((there, units)) if *there == pool => u64::from(bid.gpus_per_unit * units),
        _ => 0,
    };
    world.draft.bids.iter().zip(placed).map(at).sum()
}

/// Whether no limit is exceeded.
fn is_allowed(headrooms: &Headrooms, placed: &Placement) -> bool {
    headrooms.constraints.iter().enumerate().all(|(at, constraint)| {
        let taken: u64 = headrooms
            .by_bid
            .iter()
            .zip(placed)
            .map(|(limits, placed)| {
                let units = placed.map_or(0, |(_, units)| u64::from(units));
                limits.iter().filter(|it| it.0 == at).map(|it| it.1 * units).sum::<u64>()
            })
            .sum();
        taken <= constraint.headroom
    })
}

fn fits(world: &World, placed: &Placement) -> bool {
    let pools = world.draft.pools.iter().enumerate();
    pools.into_iter().all(|(at, pool)| used(world, placed, at) <= pool.supply)
        && is_allowed(&world.headrooms, placed)
}

fn may_enter(world: &World, bid: &Bid, pool: PoolIx) -> bool {
    let pool = &world.draft.pools[pool.index()];
    let gang = u128::from(bid.gpus_per_unit) * u128::from(bid.min_units) * 1_000_000;
    let is_small = bid.min_units == 1 || gang <= u128::from(pool.supply) * u128::from(pool.gang_max.ppm());
    bid.limit >= pool.reserve && is_small
}

fn place(world: &World) -> Placement {
    let mut placed: Placement = vec![None; world.draft.bids.len()];
    for Item { bid, runs, is_core } in items(world) {
        let it = &world.draft.bids[bid];
        let with = |pool: usize, units: u32| {
            let mut more = placed.clone();
            more[bid] = Some((pool, units));
            Some(more).filter(|more| fits(world, more))
        };
        let own = it.running.map(|running| running.pool.index());
        let next = match (placed[bid], is_core) {
            (None, true) if runs => {
                let pays = it.limit >= world.draft.pools[own.unwrap()].reserve;
                if pays { with(own.unwrap(), it.min_units) } else { None }
            }
            (None, true) => {
                let room = |pool: &usize| {
                    let free = world.draft.pools[*pool].supply - used(world, &placed, *pool);
                    (free / u64::from(it.gpus_per_unit)).min(u64::from(it.max_units))
                };
                let open = it.pools.iter().filter(|pool| may_enter(world, it, **pool));
                let open = open.map(|pool| pool.index()).filter(|pool| Some(*pool) != own);
                let mut open: Vec<usize> = open.collect();
                open.sort_by_key(|pool| Reverse(room(pool)));
                open.into_iter().find_map(|pool| with(pool, it.min_units))
            }
            (Some((pool, units)), false) if units < it.max_units && (!runs || Some(pool) == own) => {
                with(pool, units + 1)
            }
            _ => None,
        };
        placed = next.unwrap_or(placed);
    }
    placed
}

/// The price of each pool, from the placement alone.
fn prices(world: &World, placed: &Placement) -> Vec<Price> {
    let bids = || world.draft.bids.iter().zip(placed).enumerate();
    let price = |at: usize| {
        let pool = &world.draft.pools[at];
        let here = || bids().filter(|(_, (_, placed))| placed.is_some_and(|(there, _)| there == at));
        let turned_away = |(bid, (it, is)): &Placed<'_>| {
            let mut more = placed.clone();
            more[*bid] = match is {
                Some((there, units)) if *there == at && *units < it.max_units => Some((at, units + 1)),
                None if it.pools.iter().any(|pool| pool.index() == at) => Some((at, it.min_units)),
                _ => return false,
            };
            let key = millionths(world, it.limit, false);
            let above = here().filter(|(_, (winner, _))| millionths(world, winner.limit, true) >= key);
            let above: u64 = above.map(|(_, (it, is))| u64::from(it.gpus_per_unit * is.unwrap().1)).sum();
            may_enter(world, it, PoolIx(u16::try_from(at).unwrap()))
                && is_allowed(&world.headrooms, &more)
                && pool.supply - above < u64::from(it.gpus_per_unit)
        };
        let highest = bids().filter(turned_away).map(|(_, (it, _))| it.limit).max();
        let lowest_winner = here().map(|(_, (it, _))| it.limit).min();
        let price = match (highest, lowest_winner) {
            (Some(highest), Some(lowest)) => highest.min(lowest),
            (Some(highest), None) => highest,
            (None, _) => pool.reserve,
        };
        price.max(pool.reserve)
    };
    (0..world.draft.pools.len()).map(price).collect()
}

fn placement(clearing: &Clearing) -> Placement {
    let place = |(pool, units): (PoolIx, u32)| (pool.index(), units);
    clearing.bids.iter().map(|outcome| outcome.won().map(place)).collect()
}

#[test]
fn the_walk_agrees_with_a_slow_one() {
    for_each_book(Kind::Greedy, 6_000, |world| {
        let (clearing, placed) = (world.clear(), place(world));
        assert_eq!(placement(&clearing), placed);
        let found: Vec<Price> = clearing.pools.iter().map(|pool| pool.price).collect();
        assert_eq!(found, prices(world, &placed));
    });
}

/// The prices of both modes follow from who won where.
#[test]
fn prices_agree_with_a_slow_reading_of_the_outcome() {
    for_each_book(Kind::Exact, 6_000, |world| {
        let clearing = world.clear();
        let found: Vec<Price> = clearing.pools.iter().map(|pool| pool.price).collect();
        assert_eq!(found, prices(world, &placement(&clearing)));
    });
}

/// what does not stay even if nobody else bids was reclaimed, the rest was outbid. What is refused is
/// refused there too.
#[test]
fn a7_causes_agree_with_a_walk_of_the_incumbents_alone() {
    for_each_book(Kind::Greedy, 8_000, |world| {
        let clearing = world.clear();
        let lost_to = |at: usize, is_it: fn(Cause) -> bool| {
            let of_bid = clearing.preemptions.iter().filter(|it| it.bid.index() == at);
            of_bid.filter(|it| is_it(it.cause)).map(|it| it.units).sum::<u32>()
        };
        let refused_to_stay = |at| lost_to(at, |it| matches!(it, Cause::Quota | Cause::Budget));
        let stays = |at: usize, running: Running| match clearing.bids[at].won() {
            Some((pool, units)) if pool == running.pool => units.min(running.units),
            _ => 0,
        };
        let mut alone = World { headrooms: Headrooms::default(), ..world.clone() };
        for (at, bid) in alone.draft.bids.iter_mut().enumerate() {
            // More than any supply of these books.
            let nothing = (100, 100);
            (bid.min_units, bid.max_units) = match bid.running {
                Some(running) if refused_to_stay(at) == 0 => (bid.min_units, running.units),
                Some(running) if stays(at, running) > 0 => (bid.min_units, stays(at, running)),
                _ => nothing,
            };
            bid.pools.truncate(1);
            if let Some(running) = &mut bid.running {
                bid.pools = vec![running.pool];
                running.units = bid.max_units;
            }
        }
        let stays_alone = place(&alone);
        for (at, bid) in world.draft.bids.iter().enumerate() {
            let Some(running) = bid.running else { continue };
            let lost = running.units - stays(at, running);
            if bid.limit < world.draft.pools[running.pool.index()].reserve {
                assert_eq!(lost_to(at, |it| it == Cause::ReserveRaised), lost);
            } else if refused_to_stay(at) == 0 {
                let lost_alone = running.units - stays_alone[at].map_or(0, |(_, units)| units);
                assert_eq!(lost_to(at, |it| it == Cause::SupplyReclaimed), lost.min(lost_alone));
                let outbid = lost_to(at, |it| matches!(it, Cause::Outbid { .. }));
                assert_eq!(outbid, lost.saturating_sub(lost_alone));
            }
        }
    });
}
