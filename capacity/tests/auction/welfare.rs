//! How good clearings are: the bound holds, and how near to it they come.

use std::cmp::Reverse;

use hourglass_capacity::auction::welfare::{Welfare, bound};
use hourglass_capacity::auction::{
    Bid, BidOutcome, Book, BookDraft, Headrooms, Mode, PoolIx, Unlimited, clear,
};
use hourglass_units::Percent;

use super::books::{Kind, World, for_each_book, pool, price, won};
use hourglass_test_chance::Chance;

/// The bound is above what any clearing of the same bids reaches, whatever runs and whatever is allowed.
#[test]
fn no_clearing_reaches_more_than_the_bound() {
    for kind in [Kind::Unlimited, Kind::Mixed, Kind::Exact] {
        for_each_book(kind, 4_000, |world| {
            let book = world.book();
            let clearing = world.clear();
            let welfare = Welfare::of(&book, &clearing);
            let reached: i64 = won(world, &clearing)
                .map(|(_, bid, _, units)| bid.limit.nanos() * i64::try_from(bid.gpus(units)).unwrap())
                .sum();
            assert_eq!(welfare.reached, u128::try_from(reached).unwrap());
            assert!(welfare.reached <= welfare.bound && welfare.ratio() <= Percent::WHOLE);
            let mut fresh = world.clone();
            fresh.draft.bids.iter_mut().for_each(|bid| bid.running = None);
            fresh.headrooms = Headrooms::default();
            assert!(Welfare::of(&fresh.book(), &fresh.clear()).reached <= bound(&fresh.book()));
        });
    }
}

/// Where bids are single GPUs and nothing runs, the walk is the best there is and the bound says so.
#[test]
fn the_bound_is_tight_for_single_gpus_of_one_pool() {
    for_each_book(Kind::Exact, 2_000, |world| {
        let mut world = world.clone();
        for bid in &mut world.draft.bids {
            (bid.gpus_per_unit, bid.min_units, bid.running) = (1, 1, None);
        }
        let welfare = Welfare::of(&world.book(), &world.clear());
        assert_eq!((welfare.reached, welfare.ratio()), (welfare.bound, Percent::WHOLE));
    });
}

/// Bids that can go to either of two pools are as good as bids for one.
#[test]
fn the_bound_is_tight_for_pools_that_all_bids_name() {
    for_each_book(Kind::Exact, 1_000, |world| {
        let mut world = world.clone();
        world.draft.pools.push(pool(1, 3, 0, Mode::Greedy, "100"));
        for bid in &mut world.draft.bids {
            // One unit of one GPU, or a bid would have to be split.
            (bid.gpus_per_unit, bid.min_units, bid.max_units, bid.running) = (1, 1, 1, None);
            bid.pools = vec![PoolIx(0), PoolIx(1)];
        }
        world.draft.pools.iter_mut().for_each(|pool| (pool.reserve, pool.mode) = (price(0), Mode::Greedy));
        let welfare = Welfare::of(&world.book(), &world.clear());
        assert_eq!(welfare.reached, welfare.bound);
    });
}

/// One GPU in each pool. The best is 10 for the bid that may go to either pool and 9 for that of the second.
/// Before prices are improved, the second pool seems to cost nothing, and the bound is 8 + 10 + 9.
#[test]
fn the_bound_improves_pool_by_pool() {
    let bid = |number: u64, limit: u32, pools: &[u16]| Bid {
        number,
        pools: pools.iter().copied().map(PoolIx).collect(),
        gpus_per_unit: 1,
        min_units: 1,
        max_units: 1,
        limit: price(limit),
        running: None,
    };
    let first_alone = [8, 7, 6].into_iter().zip(3..).map(|(limit, number)| bid(number, limit, &[0]));
    let bids = [bid(1, 10, &[0, 1]), bid(2, 9, &[1])].into_iter().chain(first_alone).collect();
    let pools = (0..2).map(|at| pool(at, 1, 0, Mode::Greedy, "100")).collect();
    let book = Book::new(BookDraft { pools, margin: Percent::ZERO, bids }).unwrap();
    assert_eq!(bound(&book), 19);
}

/// All that a bid may be given: nothing, or so many units in a pool that it may enter.
fn choices(world: &World, bid: &Bid) -> Vec<Option<(PoolIx, u32)>> {
    let may_enter = |pool: &&PoolIx| {
        let offer = &world.draft.pools[pool.index()];
        bid.limit >= offer.reserve && (bid.min_units == 1 || bid.core_gpus() <= offer.gang_gpus_max())
    };
    let units = |pool: &PoolIx| {
        let pool = *pool;
        (bid.min_units..=bid.max_units).map(move |units| Some((pool, units)))
    };
    [None].into_iter().chain(bid.pools.iter().filter(may_enter).flat_map(units)).collect()
}

/// Whether a bid finds room beside those of higher limits for what it would rather have: more units, or as many
/// in a pool that stands before its own.
fn envies(world: &World, given: &[Option<(PoolIx, u32)>], at: usize) -> bool {
    let bid = &world.draft.bids[at];
    let room = |pool: PoolIx| {
        let before = world
            .draft
            .bids
            .iter()
            .zip(given)
            .enumerate()
            .filter(|(other, (it, _))| (it.limit, Reverse(*other)) > (bid.limit, Reverse(at)));
        let there = before
            .filter_map(|(_, (it, given))| given.filter(|(its, _)| *its == pool).map(|it2| it.gpus(it2.1)));
        world.draft.pools[pool.index()].supply - there.sum::<u64>()
    };
    let worth = |given: Option<(PoolIx, u32)>| {
        given.map(|(pool, units)| (units, Reverse(bid.pools.iter().position(|it| *it == pool))))
    };
    let rather = choices(world, bid).into_iter().filter(|it| worth(*it) > worth(given[at]));
    rather.flatten().any(|(pool, units)| room(pool) >= bid.gpus(units))
}

/// So no clearing without envy has more welfare than the walk has. (The margin is for what runs; here nothing does.)
#[test]
fn a6_without_envy_there_is_only_the_walk() {
    for_each_book(Kind::Unlimited, 2_000, |world| {
        let mut world = world.clone();
        world.draft.bids.truncate(4);
        world
            .draft
            .bids
            .iter_mut()
            .for_each(|bid| (bid.running, bid.max_units) = (None, bid.max_units.min(bid.min_units + 2)));
        let mut all: Vec<Vec<Option<(PoolIx, u32)>>> = vec![Vec::new()];
        for bid in &world.draft.bids {
            let longer = |given: &Vec<_>| {
                let given = given.clone();
                choices(&world, bid).into_iter().map(move |it| given.iter().copied().chain([it]).collect())
            };
            all = all.iter().flat_map(longer).collect();
        }
        let fits = |given: &Vec<Option<(PoolIx, u32)>>| {
            let mut free: Vec<u64> = world.draft.pools.iter().map(|pool| pool.supply).collect();
            world.draft.bids.iter().zip(given).filter_map(|(bid, it)| Some((bid, (*it)?))).all(
                |(bid, (pool, units))| {
                    let left = free[pool.index()].checked_sub(bid.gpus(units));
                    free[pool.index()] = left.unwrap_or(0);
                    left.is_some()
                },
            )
        };
        all.retain(fits);
        all.retain(|given| (0..given.len()).all(|at| !envies(&world, given, at)));
        let walk: Vec<_> = world.clear().bids.iter().map(BidOutcome::won).collect();
        assert_eq!(all, [walk]);
    });
}

/// Pools of 64 nodes of 8 GPUs, or of another number, and bids for twice as many.
#[derive(Clone, Copy)]
struct Busy {
    pools: usize,
    nodes: u32,
    /// Gangs are 1, 2, 4 … nodes, up to so many of them.
    sizes: usize,
    mode: Mode,
}

/// Every other bid is elastic, up to three times its gang, and each names all pools, in any order.
fn busy(chance: &mut Chance, Busy { pools, nodes, sizes, mode }: Busy) -> Book {
    let mut bids: Vec<Bid> = Vec::new();
    let mut wanted = 0;
    while wanted < 2 * nodes * u32::try_from(pools).unwrap() {
        let min_units = 1 << chance.index(sizes);
        let more = if chance.one_in(2) { 0 } else { chance.among(0, 2 * min_units) };
        wanted += min_units + more;
        let (number, running) = (bids.len() as u64, None);
        let (max_units, limit) = (min_units + more, price(chance.among(100, 500)));
        let mut names: Vec<PoolIx> = (0..pools).map(|at| PoolIx(u16::try_from(at).unwrap())).collect();
        chance.shuffle(&mut names);
        bids.push(Bid { number, pools: names, gpus_per_unit: 8, min_units, max_units, limit, running });
    }
    let pools = (0..pools).map(|at| pool(at, u64::from(nodes) * 8, 50, mode, "25")).collect();
    Book::new(BookDraft { pools, margin: Percent::ZERO, bids }).unwrap()
}

/// The largest welfare of all in one pool or two, by a programme over nodes that shares no code with the auction's.
fn optimum(book: &Book, nodes: usize) -> u128 {
    let second = if book.pools().len() == 2 { nodes } else { 0 };
    let width = second + 1;
    let mut best = vec![0; (nodes + 1) * width];
    for bid in book.bids() {
        let before = best.clone();
        for units in bid.min_units..=bid.max_units {
            let worth = u128::try_from(bid.limit.nanos()).unwrap() * u128::from(bid.gpus(units));
            let units = usize::try_from(units).unwrap();
            for (one, other) in (0..=nodes).flat_map(|one| (0..=second).map(move |other| (one, other))) {
                let at = one * width + other;
                if one >= units {
                    best[at] = best[at].max(before[at - units * width] + worth);
                }
                if other >= units {
                    best[at] = best[at].max(before[at - units] + worth);
                }
            }
        }
    }
    best.into_iter().max().unwrap()
}

/// Parts per million of the optimum that the walk reaches, on average and at least.
fn reaches(kind: Busy, rounds: u64) -> (u128, u128) {
    let share = |seed| {
        let book = busy(&mut Chance(seed), kind);
        let Welfare { reached, bound } = Welfare::of(&book, &clear(&book, &mut Unlimited));
        let optimum = optimum(&book, usize::try_from(kind.nodes).unwrap());
        assert!(reached <= optimum && optimum <= bound, "seed {seed}");
        reached * 1_000_000 / optimum
    };
    let shares: Vec<u128> = (0..rounds).map(share).collect();
    (shares.iter().sum::<u128>() / u128::from(rounds), shares.into_iter().min().unwrap())
}

/// What it reaches depends on the largest gang, as a share of the pool, and on how many pools there are to choose
/// from. There is no such bound for a single clearing: a gang that does not fit may leave a gap that nobody fills.
#[test]
fn the_walk_comes_near_the_optimum() {
    let one = |nodes, sizes| Busy { pools: 1, nodes, sizes, mode: Mode::Greedy };
    let two = |sizes| Busy { pools: 2, ..one(64, sizes) };
    for (kind, rounds, mean_least, least) in [
        // Gangs up to 16 nodes.
        (one(64, 5), 200, 990_000, 850_000),
        (one(128, 5), 200, 996_000, 940_000),
        (one(256, 5), 200, 999_000, 980_000),
        // A quarter of the pool, an eighth, a sixteenth.
        (two(5), 30, 990_000, 950_000),
        (two(4), 30, 996_000, 970_000),
        (two(3), 30, 999_000, 995_000),
    ] {
        let (mean, worst) = reaches(kind, rounds);
        let Busy { pools, nodes, sizes, .. } = kind;
        assert!(mean >= mean_least && worst >= least, "{pools} × {nodes}, {sizes} sizes: {mean}, {worst}");
    }
}

/// The programme reaches all of it.
#[test]
fn the_programme_reaches_the_optimum() {
    for seed in 0..100 {
        let book = busy(&mut Chance(seed), Busy { pools: 1, nodes: 64, sizes: 5, mode: Mode::Exact });
        let reached = Welfare::of(&book, &clear(&book, &mut Unlimited)).reached;
        assert_eq!(reached, optimum(&book, 64), "seed {seed}");
    }
}
