//! How good clearings are: the bound holds, and how near to it they come.

use hourglass_capacity::auction::welfare::{Welfare, bound};
use hourglass_capacity::auction::{Bid, Book, BookDraft, Headrooms, Mode, PoolIx, Unlimited, clear};
use hourglass_units::Percent;

use super::books::{Kind, for_each_book, pool, price, won};
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

/// A pool of so many nodes of 8 GPUs, and bids for twice as many: gangs of 1, 2, 4, 8 and 16 nodes up to a
/// quarter of the pool, every other one elastic up to three times its size.
fn busy_pool(chance: &mut Chance, nodes: u32, mode: Mode) -> Book {
    let mut bids: Vec<Bid> = Vec::new();
    let mut wanted = 0;
    while wanted < 2 * nodes {
        let min_units = 1 << chance.index(5);
        let more = if chance.one_in(2) { 0 } else { chance.among(0, 2 * min_units) };
        wanted += min_units + more;
        let (number, pools, running) = (bids.len() as u64, vec![PoolIx(0)], None);
        let (max_units, limit) = (min_units + more, price(chance.among(100, 500)));
        bids.push(Bid { number, pools, gpus_per_unit: 8, min_units, max_units, limit, running });
    }
    let pools = vec![pool(0, u64::from(nodes) * 8, 50, mode, "25")];
    Book::new(BookDraft { pools, margin: Percent::ZERO, bids }).unwrap()
}

/// The largest welfare of all, by a programme over nodes that shares no code with the auction's.
fn optimum(book: &Book, nodes: usize) -> u128 {
    let mut best = vec![0; nodes + 1];
    for bid in book.bids() {
        let before = best.clone();
        for units in bid.min_units..=bid.max_units {
            let worth = u128::try_from(bid.limit.nanos()).unwrap() * u128::from(bid.gpus(units));
            let units = usize::try_from(units).unwrap();
            for (with, without) in best.iter_mut().skip(units).zip(&before) {
                *with = (*with).max(without + worth);
            }
        }
    }
    best[nodes]
}

/// The walk reaches 0.99 of the optimum on average in a pool of 64 nodes, and more in larger ones. It has
/// no such bound for a single clearing: a gang that does not fit may leave a gap that nobody fills.
#[test]
fn the_walk_comes_near_the_optimum() {
    for (nodes, mean_least, least) in
        [(64, 990_000, 850_000), (128, 996_000, 940_000), (256, 999_000, 980_000)]
    {
        let rounds = 200;
        let mut sum = 0;
        for seed in 0..rounds {
            let book = busy_pool(&mut Chance(seed), nodes, Mode::Greedy);
            let Welfare { reached, bound } = Welfare::of(&book, &clear(&book, &mut Unlimited));
            let optimum = optimum(&book, usize::try_from(nodes).unwrap());
            assert!(reached <= optimum && optimum <= bound);
            let share = reached * 1_000_000 / optimum;
            assert!(share >= least, "seed {seed}: {share} ppm of the optimum with {nodes} nodes");
            sum += share;
        }
        let mean = sum / u128::from(rounds);
        assert!(mean >= mean_least, "{mean} ppm of the optimum with {nodes} nodes");
    }
}

/// The programme reaches all of it.
#[test]
fn the_programme_reaches_the_optimum() {
    for seed in 0..100 {
        let book = busy_pool(&mut Chance(seed), 64, Mode::Exact);
        let reached = Welfare::of(&book, &clear(&book, &mut Unlimited)).reached;
        assert_eq!(reached, optimum(&book, 64), "seed {seed}");
    }
}
