//! Books by seed.

use hourglass_capacity::auction::{Bid, Book, BookDraft, Mode, Pool, PoolIx, Running, Unlimited, clear};
use hourglass_test_chance::Chance;
use hourglass_units::{Percent, Price};

const POOLS: u16 = 64;
const GPUS_PER_NODE: u32 = 8;

fn cents(cents: u32) -> Price {
    Price::from_nanos(i64::from(cents) * 10_000_000).expect("a price")
}

fn pool(at: u16, supply: u64, gang_max: Percent) -> Pool {
    let name = format!("eu-north1/gpu-h100-sxm/fabric-{at:02}").parse().expect("a name");
    Pool { name, supply, reserve: cents(50), mode: Mode::Greedy, gang_max }
}

/// A market in use: the winners of a clearing run, a hundredth of the bids is new.
pub(super) fn in_use(bids: u64) -> Book {
    let chance = &mut Chance(bids);
    let mut bid = |number| {
        let most = *chance.pick(&[1, 1, 1, 2, 4, 8]);
        Bid {
            number,
            pools: several(chance, POOLS, 2),
            gpus_per_unit: *chance.pick(&[1, 2, 8]),
            min_units: if chance.one_in(4) { 1 } else { most },
            max_units: most,
            limit: cents(chance.among(60, 459)),
            running: None,
        }
    };
    let gang_max = Percent::from_ppm(250_000).expect("a share");
    let draft = BookDraft {
        pools: (0..POOLS).map(|at| pool(at, bids * 2 / u64::from(POOLS), gang_max)).collect(),
        margin: Percent::from_ppm(100_000).expect("a share"),
        bids: (0..bids).map(&mut bid).collect(),
    };
    let first = Book::new(draft).expect("a book");
    let outcome = clear(&first, &mut Unlimited);
    let mut draft = first.into_draft();
    for (bid, outcome) in draft.bids.iter_mut().zip(&outcome.bids) {
        bid.running = outcome.won().map(|(pool, units)| Running { pool, units });
    }
    draft.bids.retain(|bid| bid.number % 100 > 0);
    let missing = bids - draft.bids.len() as u64;
    draft.bids.extend((bids..bids + missing).map(&mut bid));
    Book::new(draft).expect("a book")
}

/// So many different pools, in any order.
fn several(chance: &mut Chance, pools: u16, count: usize) -> Vec<PoolIx> {
    let mut all: Vec<PoolIx> = (0..pools).map(PoolIx).collect();
    chance.shuffle(&mut all);
    all.truncate(count);
    all
}

/// What books are drawn from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) pools: u16,
    /// Of 8 GPUs, in each pool.
    pub(super) nodes: u32,
    pub(super) pools_per_bid: usize,
    /// Largest gang, in parts per million of a pool.
    pub(super) gang_max_ppm: u32,
}

/// Nothing runs, and twice as many GPUs are wanted as there are. Gangs are 1, 2, 4 … nodes, as large as they may
/// be; every other bid takes up to three times its gang. Limits are drawn evenly from 1.00 to 5.00.
pub(super) fn busy(seed: u64, kind: Kind) -> Book {
    let Kind { pools, nodes, pools_per_bid, gang_max_ppm } = kind;
    let chance = &mut Chance(seed);
    let largest = (u64::from(nodes) * u64::from(gang_max_ppm) / 1_000_000).max(1);
    let (mut bids, mut wanted) = (Vec::new(), 0);
    while wanted < 2 * nodes * u32::from(pools) {
        let min_units = 1_u32 << chance.index(largest.ilog2() as usize + 1);
        let more = if chance.one_in(2) { 0 } else { chance.among(0, 2 * min_units) };
        wanted += min_units + more;
        bids.push(Bid {
            number: bids.len() as u64,
            pools: several(chance, pools, pools_per_bid),
            gpus_per_unit: GPUS_PER_NODE,
            min_units,
            max_units: min_units + more,
            limit: cents(chance.among(100, 500)),
            running: None,
        });
    }
    let gang_max = Percent::from_ppm(gang_max_ppm).expect("a share");
    let supply = u64::from(nodes * GPUS_PER_NODE);
    let pools = (0..pools).map(|at| pool(at, supply, gang_max)).collect();
    let margin = Percent::from_ppm(100_000).expect("a share");
    Book::new(BookDraft { pools, margin, bids }).expect("a book")
}
