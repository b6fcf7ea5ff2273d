//! The laws of the auction, A-1 to A-7, and what else it promises.

use std::collections::BTreeMap;

use hourglass_capacity::auction::{
    Allowance, BidIx, BidOutcome, Book, Cause, Cleared, Clearing, Headrooms, Mode, PoolIx, Preemption,
    Reason, Refusal, Short, Unlimited, clear,
};

use super::books::{Kind, World, for_each_book, price, won};
use hourglass_test_chance::Chance;

const BOTH: [Kind; 2] = [Kind::Greedy, Kind::Mixed];

/// The key of a bid, with or without the margin.
fn key(world: &World, bid: usize, runs: bool) -> u128 {
    let margin = if runs { world.draft.margin.ppm() } else { 0 };
    u128::try_from(world.draft.bids[bid].limit.nanos()).unwrap() * u128::from(1_000_000 + margin)
}

/// GPUs that bids run on, by pool.
fn running_gpus(world: &World) -> Vec<u64> {
    let mut gpus = vec![0; world.draft.pools.len()];
    for bid in &world.draft.bids {
        if let Some(running) = bid.running {
            gpus[running.pool.index()] += bid.gpus(running.units);
        }
    }
    gpus
}

/// Units of a bid that go on where they run.
fn stays(world: &World, clearing: &Clearing, bid: usize) -> u32 {
    match (world.draft.bids[bid].running, clearing.bids[bid].won()) {
        (Some(running), Some((pool, units))) if pool == running.pool => units.min(running.units),
        _ => 0,
    }
}

#[test]
fn a1_capacity_quota_and_budgets_are_never_exceeded() {
    for kind in BOTH {
        for_each_book(kind, 3_000, |world| {
            let mut left = world.headrooms.clone();
            let clearing = clear(&world.book(), &mut left);
            let mut sold = vec![0_u64; world.draft.pools.len()];
            let mut headrooms: Vec<u64> =
                world.headrooms.constraints.iter().map(|constraint| constraint.headroom).collect();
            for (at, bid, pool, units) in won(world, &clearing) {
                assert!((bid.min_units..=bid.max_units).contains(&units) && bid.pools.contains(&pool));
                sold[pool.index()] += bid.gpus(units);
                for (constraint, amount) in world.headrooms.by_bid.get(at).into_iter().flatten() {
                    let left = headrooms[*constraint].checked_sub(amount * u64::from(units));
                    headrooms[*constraint] = left.expect("a quota or a budget is exceeded");
                }
            }
            for ((pool, outcome), sold) in world.draft.pools.iter().zip(&clearing.pools).zip(sold) {
                assert_eq!((outcome.sold, outcome.sold + outcome.free), (sold, pool.supply));
            }
            // The allowance counts what won, and nothing else.
            let left: Vec<u64> = left.constraints.iter().map(|constraint| constraint.headroom).collect();
            assert_eq!(left, headrooms);
        });
    }
}

#[test]
fn a2_a_price_is_between_the_reserve_and_each_winners_limit() {
    for kind in BOTH {
        for_each_book(kind, 3_000, |world| {
            let clearing = world.clear();
            for (pool, outcome) in world.draft.pools.iter().zip(&clearing.pools) {
                assert!(outcome.price >= pool.reserve);
            }
            for (_, bid, pool, _) in won(world, &clearing) {
                assert!(clearing.pools[pool.index()].price <= bid.limit);
            }
        });
    }
}

#[test]
fn a3_the_order_of_bids_does_not_matter() {
    for kind in BOTH {
        for_each_book(kind, 3_000, |world| {
            let mut chance = Chance(world.draft.bids.len() as u64);
            let mut draft = world.draft.clone();
            for at in 1..draft.bids.len() {
                draft.bids.swap(at, chance.index(at + 1));
            }
            let book = Book::new(draft).unwrap();
            assert_eq!(book, world.book());
            assert_eq!(clear(&book, &mut world.headrooms.clone()), world.clear());
        });
    }
}

#[test]
fn a4_clearing_again_preempts_nobody() {
    for kind in BOTH {
        for_each_book(kind, 10_000, |world| {
            let first = world.clear();
            let second = world.after(&first).clear();
            assert_eq!(second.preemptions, []);
            assert_eq!(second.handovers, []);
            let won = |clearing: &Clearing| clearing.bids.iter().map(BidOutcome::won).collect::<Vec<_>>();
            assert_eq!(won(&second), won(&first));
            assert_eq!(second.pools, first.pools, "prices move under their own outcome");
        });
    }
}

/// In an exact pool only the first half of it: there newcomers displace together.
#[test]
fn a4_without_change_of_supply_only_a_limit_above_the_margin_displaces() {
    for kind in BOTH {
        for_each_book(kind, 6_000, |world| {
            let running = running_gpus(world);
            let clearing = world.clear();
            for Preemption { bid, pool, cause, .. } in &clearing.preemptions {
                if running[pool.index()] <= world.draft.pools[pool.index()].supply {
                    assert_ne!(*cause, Cause::SupplyReclaimed);
                }
                if let Cause::Outbid { by } = cause
                    && clearing.pools[pool.index()].cleared != Cleared::Exactly
                {
                    assert!(key(world, by.index(), false) > key(world, bid.index(), true));
                }
            }
        });
    }
}

/// The core never loses by it; and if the bid names one pool, or nothing of it runs and nobody is refused, no unit
/// does.
#[test]
fn a5_raising_a_limit_never_turns_a_win_into_a_loss() {
    for kind in [Kind::Greedy, Kind::Unlimited, Kind::Exact] {
        for_each_book(kind, 4_000, |world| {
            let clearing = world.clear();
            for (at, bid, _, units) in won(world, &clearing) {
                for more in [1, 2, 5, 30] {
                    let limit = price(u32::try_from(bid.limit.nanos()).unwrap() + more);
                    let raised = world.with_limit(at, limit).clear();
                    let (_, raised) = raised.bids[at].won().expect("a win became a loss");
                    let is_free = kind == Kind::Unlimited && bid.running.is_none();
                    let may_lose = bid.pools.len() > 1 && !is_free;
                    assert!(may_lose || raised >= units, "{units} units became {raised}");
                }
            }
        });
    }
}

#[test]
fn a6_nobody_envies_a_winner_beyond_the_margin() {
    for_each_book(Kind::Greedy, 6_000, |world| {
        let clearing = world.clear();
        for (at, bid) in world.draft.bids.iter().enumerate() {
            let needs = match &clearing.bids[at] {
                BidOutcome::Lost { reason: Reason::Outbid | Reason::NoRoom, .. } => bid.core_gpus(),
                _ => continue,
            };
            for pool in &bid.pools {
                let offer = &world.draft.pools[pool.index()];
                if bid.limit < offer.reserve || (bid.min_units > 1 && bid.core_gpus() > offer.gang_gpus_max())
                {
                    continue;
                }
                let outranks = won(world, &clearing).filter(|(winner, _, there, _)| {
                    there == pool && key(world, *winner, true) >= key(world, at, false)
                });
                let outranks: u64 = outranks.map(|(_, winner, _, units)| winner.gpus(units)).sum();
                assert!(offer.supply - outranks < needs, "bid {at} finds room in pool {pool}");
            }
        }
    });
}

#[test]
fn a7_each_unit_that_stops_has_exactly_one_cause() {
    for kind in BOTH {
        for_each_book(kind, 10_000, |world| {
            let clearing = world.clear();
            let mut stopped: BTreeMap<usize, u32> = BTreeMap::new();
            let mut causes: Vec<(usize, &str)> = Vec::new();
            for Preemption { bid, pool, units, cause } in &clearing.preemptions {
                let (at, it) = (bid.index(), &world.draft.bids[bid.index()]);
                let offer = &world.draft.pools[pool.index()];
                assert_eq!(it.running.unwrap().pool, *pool);
                assert!(*units > 0);
                *stopped.entry(at).or_default() += units;
                let name = match cause {
                    Cause::Outbid { by } => {
                        assert_ne!(by, bid);
                        let (there, has) = clearing.bids[by.index()].won().unwrap();
                        assert!(there == *pool && has > stays(world, &clearing, by.index()), "no newcomer");
                        "outbid"
                    }
                    Cause::SupplyReclaimed => "supply reclaimed",
                    Cause::ReserveRaised => {
                        assert!(it.limit < offer.reserve);
                        "reserve raised"
                    }
                    Cause::Quota | Cause::Budget => {
                        let refusal = if *cause == Cause::Quota { Refusal::Quota } else { Refusal::Budget };
                        let limits = world.headrooms.by_bid[at].iter();
                        assert!(
                            limits.into_iter().any(|it| world.headrooms.constraints[it.0].refusal == refusal)
                        );
                        "refused"
                    }
                };
                assert!(!causes.contains(&(at, name)), "two entries for one cause");
                causes.push((at, name));
            }
            for (at, bid) in world.draft.bids.iter().enumerate() {
                let lost = bid.running.map_or(0, |running| running.units) - stays(world, &clearing, at);
                assert_eq!(stopped.get(&at).copied().unwrap_or(0), lost, "bid {at}");
            }
        });
    }
}

/// What a newcomer has beyond its handovers was free, and no victim leaves more than it had.
#[test]
fn handovers_add_up() {
    for kind in BOTH {
        for_each_book(kind, 6_000, |world| {
            let clearing = world.clear();
            let running = running_gpus(world);
            for (at, offer) in world.draft.pools.iter().enumerate() {
                let pool = PoolIx(u16::try_from(at).unwrap());
                let flows = || clearing.handovers.iter().filter(move |flow| flow.pool == pool);
                let free_before = offer.supply.saturating_sub(running[at]);
                let (mut new, mut handed_over) = (0, 0);
                for (bid, it) in world.draft.bids.iter().enumerate() {
                    let to: u64 = flows().filter(|it| it.to.index() == bid).map(|it| it.gpus).sum();
                    let from: u64 = flows().filter(|it| it.from.index() == bid).map(|it| it.gpus).sum();
                    let has = clearing.bids[bid].won().filter(|it| it.0 == pool).map_or(0, |it| it.1);
                    let kept = if it.running.is_some_and(|it| it.pool == pool) {
                        stays(world, &clearing, bid)
                    } else {
                        0
                    };
                    let had = it.running.filter(|it| it.pool == pool).map_or(0, |it| it.units);
                    assert!(to <= it.gpus(has - kept) && from <= it.gpus(had - kept));
                    new += it.gpus(has - kept);
                    handed_over += to;
                }
                assert_eq!(handed_over, new - new.min(free_before));
            }
            assert!(clearing.handovers.iter().all(|flow| flow.gpus > 0 && flow.from != flow.to));
        });
    }
}

/// With the limit at which it would have won a loser wins, and with a nano less it does not.
#[test]
fn would_have_won_at_is_the_least_limit_that_wins() {
    for kind in [Kind::Greedy, Kind::Unlimited] {
        for_each_book(kind, 6_000, |world| {
            // A loser's own allowance is outside: it is asked for capacity alone.
            let free = |at: usize| {
                let mut world = world.clone();
                if let Some(limits) = world.headrooms.by_bid.get_mut(at) {
                    limits.clear();
                }
                world
            };
            for (at, outcome) in world.clear().bids.iter().enumerate() {
                let BidOutcome::Lost { wins_at, reason } = outcome else { continue };
                if matches!(reason, Reason::Refused(_)) {
                    assert_eq!(*wins_at, None);
                    continue;
                }
                let world = free(at);
                let wins = |nanos: i64| {
                    let limit = price(u32::try_from(nanos).unwrap());
                    world.with_limit(at, limit).clear().bids[at].won().is_some()
                };
                match wins_at.map(|price| price.nanos()) {
                    None => assert!(!wins(4_000_000_000), "bid {at} wins with enough"),
                    Some(least) => {
                        assert!(wins(least), "bid {at} does not win with {least} nanos");
                        assert!(least == 0 || !wins(least - 1), "bid {at} wins below {least} nanos");
                    }
                }
            }
        });
    }
}

/// Supply goes away and comes back, again and again: after each change one clearing settles all, and no
/// state comes back once it was left.
#[test]
fn supply_back_and_forth_does_not_cycle() {
    for_each_book(Kind::Mixed, 4_000, |world| {
        let mut chance = Chance(world.draft.bids.len() as u64);
        let mut other: Vec<u64> = world.draft.pools.iter().map(|pool| pool.supply).collect();
        for supply in &mut other {
            *supply = (*supply + 4).saturating_sub(chance.index(9) as u64);
        }
        let mut world = world.after(&world.clear());
        let mut ends = vec![world.draft.clone()];
        loop {
            for _ in 0..2 {
                for (pool, supply) in world.draft.pools.iter_mut().zip(&mut other) {
                    std::mem::swap(&mut pool.supply, supply);
                }
                world = world.after(&world.clear());
                assert_eq!(world.after(&world.clear()).draft, world.draft);
            }
            if ends.last() == Some(&world.draft) {
                break;
            }
            assert!(!ends.contains(&world.draft), "it goes round and round");
            ends.push(world.draft.clone());
        }
    });
}

/// Refused for a limit of money or of GPUs, a bid moves no price: without it all prices are the same.
#[test]
fn who_is_refused_sets_no_price() {
    for_each_book(Kind::Greedy, 4_000, |world| {
        let clearing = world.clear();
        for (at, outcome) in clearing.bids.iter().enumerate() {
            let BidOutcome::Lost {
                reason: Reason::Refused(_) | Reason::TooLarge { .. } | Reason::BelowReserve { .. },
                ..
            } = outcome
            else {
                continue;
            };
            let mut without = world.clone();
            without.draft.bids.remove(at);
            if at < without.headrooms.by_bid.len() {
                without.headrooms.by_bid.remove(at);
            }
            assert_eq!(without.clear().pools, clearing.pools);
        }
    });
}

/// The pool says how it was cleared; an exact one is exact while its bids name it alone.
#[test]
fn a_shared_bid_makes_an_exact_pool_greedy() {
    for_each_book(Kind::Mixed, 2_000, |world| {
        for (at, (pool, outcome)) in world.draft.pools.iter().zip(&world.clear().pools).enumerate() {
            let is_shared = world
                .draft
                .bids
                .iter()
                .any(|bid| bid.pools.len() > 1 && bid.pools.iter().any(|pool| pool.index() == at));
            let expected = match pool.mode {
                Mode::Greedy => Cleared::Greedily,
                Mode::Exact if is_shared => Cleared::GreedilyForSharedBids,
                Mode::Exact => Cleared::Exactly,
            };
            assert_eq!(outcome.cleared, expected);
        }
    });
}

/// Without limits a clearing is that of no allowance at all.
#[test]
fn no_constraints_are_no_limits() {
    for_each_book(Kind::Unlimited, 500, |world| {
        assert_eq!(clear(&world.book(), &mut Unlimited), clear(&world.book(), &mut Headrooms::default()));
    });
}

/// A winner is short of units only because not one more fits, or not one more is allowed.
#[test]
fn a_winner_is_short_for_a_reason() {
    for_each_book(Kind::Greedy, 4_000, |world| {
        let mut left = world.headrooms.clone();
        let clearing = clear(&world.book(), &mut left);
        for (at, bid, pool, units) in won(world, &clearing) {
            let BidOutcome::Won { short, .. } = clearing.bids[at] else { continue };
            assert_eq!(short.is_some(), units < bid.max_units);
            let one_more = left.clone().take(BidIx(u32::try_from(at).unwrap()), pool, 1);
            match short {
                Some(Short::Refused(_)) => assert_eq!(one_more.units, 0),
                Some(Short::Capacity) => {
                    assert!(clearing.pools[pool.index()].free < u64::from(bid.gpus_per_unit))
                }
                None => {}
            }
        }
    });
}

#[test]
fn a_loser_is_told_a_true_reason() {
    for kind in BOTH {
        for_each_book(kind, 4_000, |world| {
            let clearing = world.clear();
            for (at, (bid, outcome)) in world.draft.bids.iter().zip(&clearing.bids).enumerate() {
                let BidOutcome::Lost { reason, .. } = outcome else { continue };
                let pools = bid.pools.iter().map(|pool| (*pool, &world.draft.pools[pool.index()]));
                let open = || {
                    pools.clone().filter(|(pool, offer)| {
                        let runs = bid.running.is_some_and(|running| running.pool == *pool);
                        runs || bid.min_units == 1 || bid.core_gpus() <= offer.gang_gpus_max()
                    })
                };
                let lowest = open().map(|(_, offer)| offer.reserve).min();
                match reason {
                    Reason::TooLarge { .. } => assert_eq!(lowest, None),
                    Reason::BelowReserve { reserve } => {
                        assert_eq!(lowest, Some(*reserve));
                        assert!(bid.limit < *reserve);
                    }
                    Reason::Outbid | Reason::NoRoom => {
                        let mut entered = open().filter(|(_, offer)| bid.limit >= offer.reserve).peekable();
                        assert!(entered.peek().is_some());
                        let is_full = entered.any(|(pool, offer)| {
                            let above = won(world, &clearing).filter(|it| it.2 == pool);
                            let above = above.filter(|it| key(world, it.0, true) >= key(world, at, false));
                            let above: u64 = above.map(|(_, winner, _, units)| winner.gpus(units)).sum();
                            offer.supply - above < u64::from(bid.gpus_per_unit)
                        });
                        assert_eq!(*reason == Reason::Outbid, is_full);
                    }
                    Reason::Refused(refusal) => {
                        assert!(bid.limit >= lowest.unwrap());
                        let mut limits = world.headrooms.by_bid[at].iter();
                        assert!(limits.any(|it| world.headrooms.constraints[it.0].refusal == *refusal));
                    }
                }
            }
        });
    }
}
