//! The spot market: one clearing of many bids, and a month of jobs in virtual time. One thread.

use std::fmt::Write;
use std::hint::black_box;

use hourglass_backtest::{Policy, Report, Supply, Trace, backtest};
use hourglass_capacity::auction::{Bid, Book, BookDraft, Mode, Pool, PoolIx, Unlimited, clear};
use hourglass_units::{Percent, Price};

use crate::figure::{Figure, median, seconds};

const POOLS: u16 = 64;
/// What a job's limit and everything else that a trace leaves out follow from.
const POLICY: &str = r#"
    seed = 7
    gang_max = "50"
    reserve = { shape = "lines", points = [{ utilisation = "0", price = "0.50" }, { utilisation = "80", price = "2" }] }
    jobs = { pools_per_job = 2, limit = { distribution = "uniform", from = "0.60", to = "4" } }
"#;

/// Clearings.
pub(crate) fn market(quick: bool) -> Vec<Figure> {
    let repeats = if quick { 5 } else { 31 };
    vec![
        clearing("market clearing, 10,000 bids", 10_000, "< 5 ms", repeats),
        clearing("market clearing, 100,000 bids", 100_000, "< 100 ms", repeats),
    ]
}

/// A month.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    vec![month(if quick { 3 } else { 30 })]
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.below(of.len() as u64)).expect("a place");
        *of.get(at).expect("a value")
    }
}

/// A market in use: the winners of a clearing run, a hundredth of the bids is new.
fn clearing(name: &'static str, bids: u64, target: &'static str, repeats: usize) -> Figure {
    let mut chance = Chance(bids);
    let price = |cents: u64| Price::from_nanos(i64::try_from(cents * 10_000_000).expect("a price"));
    let pool = |at: u16| Pool {
        name: format!("eu-north1/gpu-h100-sxm/fabric-{at:02}").parse().expect("a name"),
        supply: bids * 2 / u64::from(POOLS),
        reserve: price(50).expect("a price"),
        mode: Mode::Greedy,
        gang_max: Percent::from_ppm(250_000).expect("a share"),
    };
    let mut bid = |number| {
        let (first, other) = (chance.below(u64::from(POOLS)), chance.below(u64::from(POOLS) - 1));
        let second = (first + 1 + other) % u64::from(POOLS);
        let most = chance.pick(&[1, 1, 1, 2, 4, 8]);
        Bid {
            number,
            pools: [first, second].map(|at| PoolIx(u16::try_from(at).expect("a pool"))).into(),
            gpus_per_unit: chance.pick(&[1, 2, 8]),
            min_units: if chance.below(4) == 0 { 1 } else { most },
            max_units: most,
            limit: price(60 + chance.below(400)).expect("a price"),
            running: None,
        }
    };
    let draft = BookDraft {
        pools: (0..POOLS).map(pool).collect(),
        margin: Percent::from_ppm(100_000).expect("a share"),
        bids: (0..bids).map(&mut bid).collect(),
    };
    let first = Book::new(draft).expect("a book");
    let outcome = clear(&first, &mut Unlimited);
    let mut draft = first.into_draft();
    for (bid, outcome) in draft.bids.iter_mut().zip(&outcome.bids) {
        let won = outcome.won();
        bid.running = won.map(|(pool, units)| hourglass_capacity::auction::Running { pool, units });
    }
    draft.bids.retain(|bid| bid.number % 100 > 0);
    let missing = bids - draft.bids.len() as u64;
    draft.bids.extend((bids..bids + missing).map(&mut bid));
    let book = Book::new(draft).expect("a book");
    let took =
        (0..repeats).map(|_| seconds(|| black_box(clear(black_box(&book), &mut Unlimited))).0 * 1_000.0);
    Figure { name, value: median(took.collect()), unit: "ms", ceiling: None, target }
}

/// Jobs that come through a month, most of them about an hour long, a few of 128 GPUs.
fn month(days: u64) -> Figure {
    let jobs = 100_000 * days / 30;
    let mut chance = Chance(1);
    let mut trace = String::from("timestamp,duration,num_gpus\n");
    for job in 0..jobs {
        let large = 8 << chance.below(5);
        let gpus = chance.pick(&[1, 1, 1, 1, 1, 2, 4, 8, 8, large]);
        let duration = (30 << chance.below(11)) + chance.below(600);
        writeln!(trace, "{},{duration},{gpus}", job * days * 86_400 / jobs).expect("memory");
    }
    let mut supply = String::new();
    for pool in 0..16 {
        let name = format!("eu-north1/gpu-h100-sxm/fabric-{pool:02}");
        writeln!(supply, "[[pools]]\nname = \"{name}\"\ngpus = 128\nchanges = [").expect("memory");
        for half in 1..days * 2 {
            let (at, gpus) = (half * 43_200 + pool * 600, if half % 2 == 1 { 115 } else { 128 });
            writeln!(supply, "  {{ at = {at}, gpus = {gpus} }},").expect("memory");
        }
        supply.push_str("]\n");
    }
    let (took, report) = seconds(|| {
        let trace = Trace::parse(&trace).expect("a trace");
        let supply = Supply::parse(&supply).expect("a supply");
        let policy = Policy::parse(POLICY).expect("a policy");
        let outcome = backtest(&trace, &supply, &policy, &mut |_, _| {}).expect("an outcome");
        Report::of(&outcome, &supply)
    });
    eprintln!(
        "  {} jobs over {days} days, {} clearings, utilisation {} %, welfare {} % of its bound",
        report.jobs.all, report.clearings, report.utilisation, report.welfare.ratio
    );
    Figure {
        name: "backtest of a month, 100,000 jobs",
        value: took * 30.0 / days as f64,
        unit: "s",
        ceiling: None,
        target: "< 60 s",
    }
}
