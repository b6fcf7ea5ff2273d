//! All books of a small size: what random books may miss, these cannot.

use hourglass_capacity::auction::{
    Bid, BookDraft, Clearing, Constraint, Headrooms, Mode, PoolIx, Refusal, Running,
};

use super::books::{World, pool, price, won};

/// What bids may look like.
struct Shapes {
    pools: &'static [&'static [u16]],
    gpus_per_unit: &'static [u32],
    /// Least and most.
    units: &'static [(u32, u32)],
    limits: &'static [u32],
}

impl Shapes {
    /// Each shape, not running and running in each way.
    fn all(&self) -> Vec<Bid> {
        let mut all = Vec::new();
        for pools in self.pools {
            let pools: Vec<PoolIx> = pools.iter().copied().map(PoolIx).collect();
            for gpus_per_unit in self.gpus_per_unit.iter().copied() {
                for (min_units, max_units) in self.units.iter().copied() {
                    for limit in self.limits.iter().copied().map(price) {
                        let running = pools.iter().flat_map(|pool| {
                            (min_units..=max_units).map(|units| Some(Running { pool: *pool, units }))
                        });
                        for running in running.chain([None]) {
                            let (number, pools) = (0, pools.clone());
                            all.push(Bid {
                                number,
                                pools,
                                gpus_per_unit,
                                min_units,
                                max_units,
                                limit,
                                running,
                            });
                        }
                    }
                }
            }
        }
        all
    }
}

/// Calls with every list of so many bids.
fn for_each_list(shapes: &[Bid], count: usize, check: &mut impl FnMut(&[Bid])) {
    fn fill(shapes: &[Bid], list: &mut Vec<Bid>, count: usize, check: &mut impl FnMut(&[Bid])) {
        if list.len() == count {
            return check(list);
        }
        for shape in shapes {
            list.push(Bid { number: list.len() as u64, ..shape.clone() });
            fill(shapes, list, count, check);
            list.pop();
        }
    }
    fill(shapes, &mut Vec::new(), count, check);
}

fn world(supplies: &[u64], mode: Mode, margin: &str, bids: &[Bid]) -> World {
    let pools = supplies.iter().enumerate().map(|(at, supply)| pool(at, *supply, 0, mode, "100")).collect();
    let draft = BookDraft { pools, margin: margin.parse().unwrap(), bids: bids.to_vec() };
    World { draft, headrooms: Headrooms::default() }
}

/// Clears a world once and again. Returns the world in which the winners run.
fn settle(world: &World) -> World {
    let first = world.clear();
    sanity(world, &first);
    let after = world.after(&first);
    let second = after.clear();
    assert_eq!(second.pools, first.pools, "prices move: {world:#?}");
    assert!(
        second.preemptions.is_empty() && after.after(&second).draft == after.draft,
        "unstable: {world:#?}"
    );
    after
}

/// as far as one look shows them.
fn sanity(world: &World, clearing: &Clearing) {
    let mut sold = vec![0; world.draft.pools.len()];
    let mut lost: Vec<u32> = world.draft.bids.iter().map(|it| it.running.map_or(0, |it| it.units)).collect();
    for (at, bid, pool, units) in won(world, clearing) {
        sold[pool.index()] += bid.gpus(units);
        assert!(clearing.pools[pool.index()].price <= bid.limit, "too dear: {world:#?}");
        if bid.running.is_some_and(|running| running.pool == pool) {
            lost[at] = lost[at].saturating_sub(units);
        }
    }
    assert!(sold.iter().zip(&world.draft.pools).all(|(sold, pool)| *sold <= pool.supply), "{world:#?}");
    for preemption in &clearing.preemptions {
        lost[preemption.bid.index()] -= preemption.units;
    }
    assert!(lost.iter().all(|lost| *lost == 0), "stops without a cause: {world:#?}");
}

/// Takes supply away and gives it back until nothing changes: no state comes back once it was left.
fn swing(world: &World, other: &[u64]) {
    let mut world = settle(world);
    let mut other = other.to_vec();
    let mut seen = vec![world.draft.bids.clone()];
    loop {
        for _ in 0..2 {
            for (pool, supply) in world.draft.pools.iter_mut().zip(&mut other) {
                std::mem::swap(&mut pool.supply, supply);
            }
            world = settle(&world);
        }
        if seen.last() == Some(&world.draft.bids) {
            return;
        }
        assert!(!seen.contains(&world.draft.bids), "goes round and round: {world:#?}");
        seen.push(world.draft.bids.clone());
    }
}

const ONE_POOL: Shapes = Shapes {
    pools: &[&[0]],
    gpus_per_unit: &[1, 2],
    units: &[(1, 1), (1, 2), (2, 2), (2, 3)],
    limits: &[1, 2, 3],
};

/// With a margin of a hundred percent, what runs at 1 ties with what is new at 2.
const MARGINS: [&str; 2] = ["10", "100"];
const MODES: [Mode; 2] = [Mode::Greedy, Mode::Exact];

fn one_pool(shapes: &Shapes, bids: usize, supply_max: u64) -> usize {
    let mut books = 0;
    for_each_list(&shapes.all(), bids, &mut |bids| {
        for (mode, margin) in MODES.iter().flat_map(|mode| MARGINS.iter().map(move |it| (*mode, *it))) {
            for supply in 0..=supply_max {
                swing(&world(&[supply], mode, margin, bids), &[supply_max - supply]);
                books += 1;
            }
        }
    });
    books
}

fn two_pools(bids: usize) -> usize {
    let shapes = Shapes {
        pools: &[&[0], &[0, 1], &[1, 0]],
        gpus_per_unit: &[1],
        units: &[(1, 1), (2, 2)],
        limits: &[1, 2],
    };
    let mut books = 0;
    for_each_list(&shapes.all(), bids, &mut |bids| {
        for (one, two) in [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 0), (1, 0)] {
            swing(&world(&[one, two], Mode::Greedy, "100", bids), &[two, one]);
            books += 1;
        }
    });
    books
}

/// Some of the bids share a quota, and gangs can be too large.
fn shared_quota(bids: usize) -> usize {
    let shapes = Shapes { gpus_per_unit: &[1], units: &[(1, 2), (2, 2)], limits: &[1, 2], ..ONE_POOL };
    let mut books = 0;
    for_each_list(&shapes.all(), bids, &mut |bids| {
        for (mode, gang_max) in MODES.iter().flat_map(|mode| ["100", "50"].map(|it| (*mode, it))) {
            for (supply, headroom) in (0..=4).flat_map(|supply| (1..=4).map(move |it| (supply, it))) {
                for listed in 1..1_u32 << bids.len() {
                    let mut world = world(&[supply], mode, "10", bids);
                    world.draft.pools[0].gang_max = gang_max.parse().unwrap();
                    let limit = |at: usize| if listed >> at & 1 == 1 { vec![(0, 1)] } else { Vec::new() };
                    world.headrooms = Headrooms {
                        constraints: vec![Constraint { headroom, refusal: Refusal::Quota }],
                        by_bid: (0..bids.len()).map(limit).collect(),
                    };
                    swing(&world, &[4 - supply]);
                    books += 1;
                }
            }
        }
    });
    books
}

#[test]
fn a4_all_small_books_with_a_shared_quota_settle_at_once() {
    assert_eq!(shared_quota(2), 24_000);
}

#[test]
fn a4_all_small_books_of_one_pool_settle_at_once() {
    assert_eq!(one_pool(&ONE_POOL, 2, 4), 72_000);
    let few = Shapes { gpus_per_unit: &[1], units: &[(1, 2), (2, 2)], limits: &[1, 2], ..ONE_POOL };
    assert_eq!(one_pool(&few, 3, 3), 16_000);
}

#[test]
fn a4_all_small_books_of_two_pools_settle_at_once() {
    assert_eq!(two_pools(2), 7_168);
}

#[test]
#[ignore = "five million books, each cleared many times: run in release"]
fn a4_all_larger_books_settle_at_once() {
    assert_eq!(one_pool(&ONE_POOL, 3, 4), 4_320_000);
    let few = Shapes { gpus_per_unit: &[1], units: &[(1, 2), (2, 2)], limits: &[1, 2], ..ONE_POOL };
    assert_eq!(one_pool(&few, 4, 4), 200_000);
    assert_eq!(two_pools(3), 229_376);
    assert_eq!(shared_quota(3), 560_000);
}
