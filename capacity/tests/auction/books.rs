//! Random books, and books that follow from others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use hourglass_capacity::auction::{
    Bid, Book, BookDraft, Clearing, Constraint, Headrooms, Mode, Pool, PoolIx, Refusal, Running, clear,
};
use hourglass_test_chance::{Chance, FIRST_SEED, from_environment};
use hourglass_units::{Percent, Price};

/// A book, and the quotas and budgets of its bids.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) draft: BookDraft,
    pub(crate) headrooms: Headrooms,
}

/// Which books a law is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Greedy pools, bids that name several, quotas and budgets.
    Greedy,
    /// The same without quotas and budgets.
    Unlimited,
    /// Pools of both modes, quotas and budgets.
    Mixed,
    /// One exact pool, without quotas and budgets.
    Exact,
}

pub(crate) fn price(nanos: u32) -> Price {
    Price::from_nanos(i64::from(nanos)).unwrap()
}

pub(crate) fn pool(at: usize, supply: u64, reserve: u32, mode: Mode, gang_max: &str) -> Pool {
    let name = format!("eu-north1/gpu-h100-sxm/fabric-{at:03}").parse().unwrap();
    Pool { name, supply, reserve: price(reserve), mode, gang_max: gang_max.parse().unwrap() }
}

impl World {
    pub(crate) fn random(chance: &mut Chance, kind: Kind) -> Self {
        let margin: Percent = chance.pick(&["0", "10", "10", "10", "34.5", "100"]).parse().unwrap();
        let pool_count = if kind == Kind::Exact { 1 } else { 1 + chance.index(3) };
        let pools: Vec<Pool> = (0..pool_count)
            .map(|at| {
                let mode = match kind {
                    Kind::Exact => Mode::Exact,
                    Kind::Mixed => *chance.pick(&[Mode::Greedy, Mode::Exact]),
                    Kind::Greedy | Kind::Unlimited => Mode::Greedy,
                };
                let supply = u64::from(chance.among(0, 14));
                pool(
                    at,
                    supply,
                    *chance.pick(if pool_count == 1 { &[0, 0, 2] } else { &[0, 0, 3, 9, 14] }),
                    mode,
                    chance.pick::<&str>(&["25", "50", "100"]),
                )
            })
            .collect();
        let most = if kind == Kind::Exact { 5 } else { 9 };
        let bids = (0..chance.index(most)).map(|at| random_bid(chance, at, &pools)).collect();
        let draft = BookDraft { pools, margin, bids };
        let headrooms = match kind {
            Kind::Greedy | Kind::Mixed => random_headrooms(chance, draft.bids.len()),
            Kind::Unlimited | Kind::Exact => Headrooms::default(),
        };
        Self { draft, headrooms }
    }

    pub(crate) fn book(&self) -> Book {
        Book::new(self.draft.clone()).unwrap()
    }

    pub(crate) fn clear(&self) -> Clearing {
        clear(&self.book(), &mut self.headrooms.clone())
    }

    /// The world in which the winners run.
    pub(crate) fn after(&self, clearing: &Clearing) -> Self {
        let mut world = self.clone();
        for (bid, outcome) in world.draft.bids.iter_mut().zip(&clearing.bids) {
            bid.running = outcome.won().map(|(pool, units)| Running { pool, units });
        }
        world
    }

    pub(crate) fn with_limit(&self, bid: usize, limit: Price) -> Self {
        let mut world = self.clone();
        world.draft.bids[bid].limit = limit;
        world
    }

    fn without(&self, bid: usize) -> Self {
        let mut world = self.clone();
        world.draft.bids.remove(bid);
        if bid < world.headrooms.by_bid.len() {
            world.headrooms.by_bid.remove(bid);
        }
        world
    }
}

/// Pairs of a bid and what it won.
pub(crate) fn won<'a>(
    world: &'a World,
    clearing: &'a Clearing,
) -> impl Iterator<Item = (usize, &'a Bid, PoolIx, u32)> {
    let outcomes = world.draft.bids.iter().zip(&clearing.bids).enumerate();
    outcomes.filter_map(|(at, (bid, outcome))| outcome.won().map(|(pool, units)| (at, bid, pool, units)))
}

fn random_bid(chance: &mut Chance, at: usize, pools: &[Pool]) -> Bid {
    let mut names: Vec<PoolIx> = (0..pools.len()).map(|pool| PoolIx(u16::try_from(pool).unwrap())).collect();
    for at in 1..names.len() {
        names.swap(at, chance.index(at + 1));
    }
    // Most bids leave an exact pool exact, by naming it alone or not at all.
    if !chance.one_in(40) {
        match pools[names[0].index()].mode {
            Mode::Exact => names.truncate(1),
            Mode::Greedy => names.retain(|name| pools[name.index()].mode == Mode::Greedy),
        }
    }
    names.truncate(1 + chance.index(names.len()));
    let min_units = *chance.pick(&[1, 1, 1, 2, 3, 5]);
    let max_units = min_units + *chance.pick(&[0, 0, 1, 2, 6]);
    let running = (chance.index(5) < 2)
        .then(|| Running { pool: *chance.pick(&names), units: chance.among(min_units, max_units) });
    let gpus_per_unit = *chance.pick(&[1, 1, 2, 3, 4]);
    // Few limits where ties are decided by all that was won, many where they are rare anyway.
    let limit = price(chance.among(0, if pools.len() == 1 { 6 } else { 24 }));
    Bid { number: at as u64 * 3, pools: names, gpus_per_unit, min_units, max_units, limit, running }
}

fn random_headrooms(chance: &mut Chance, bids: usize) -> Headrooms {
    let count = chance.index(4);
    let constraints = (0..count).map(|_| Constraint {
        headroom: u64::from(chance.among(0, 16)),
        refusal: *chance.pick(&[Refusal::Quota, Refusal::Budget]),
    });
    let constraints: Vec<Constraint> = constraints.collect();
    let by_bid = (0..bids).map(|_| {
        let listed = (0..count).filter(|_| chance.one_in(2)).collect::<Vec<usize>>();
        listed.into_iter().map(|at| (at, u64::from(chance.among(0, 3)))).collect()
    });
    let by_bid = by_bid.collect();
    Headrooms { constraints, by_bid }
}

/// Checks a law on many random books; shows the smallest part of a book that breaks it.
pub(crate) fn for_each_book(kind: Kind, cases: u64, check: impl Fn(&World)) {
    let first = from_environment(FIRST_SEED, 0);
    for seed in first..first + from_environment("PROPTEST_CASES", cases) {
        let mut world = World::random(&mut Chance(seed), kind);
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&world))) else { continue };
        let breaks = |world: &World| catch_unwind(AssertUnwindSafe(|| check(world))).is_err();
        while let Some(smaller) =
            (0..world.draft.bids.len()).map(|bid| world.without(bid)).find(|world| breaks(world))
        {
            world = smaller;
        }
        eprintln!("seed {seed} fails, and so does this part of its book: {world:#?}");
        eprintln!("which is cleared so: {:#?}", world.clear());
        resume_unwind(panic);
    }
}
