//! Welfare beside the exact optimum.

use std::hint::black_box;

use hourglass_capacity::auction::welfare::Welfare;
use hourglass_capacity::auction::{Book, Unlimited, clear};

use super::books::{Kind, busy};
use super::peer::{self, SECONDS_MAX, Wanted};
use crate::figure::{Figure, median, seconds};

const TARGET: &str = ">= 0.99";

/// What the two figures of a kind of book are called.
macro_rules! names {
    ($kind:literal) => {
        [concat!("welfare, ", $kind), concat!("speed, ", $kind)]
    };
}

/// Clears books and lets HiGHS solve them. Nothing where HiGHS is missing.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let Some(python) = peer::python() else {
        eprintln!("  HiGHS is not here, so its figures are left out: `cargo xtask bench welfare` says why");
        return Vec::new();
    };
    let books = if quick { 5 } else { 25 };
    let one = |nodes, gang_max_ppm| Kind { pools: 1, nodes, pools_per_bid: 1, gang_max_ppm };
    let four = |gang_max_ppm| Kind { pools: 4, nodes: 64, pools_per_bid: 2, gang_max_ppm };
    let all = [
        (names!("pool of 64 nodes, gangs <= 25 %"), one(64, 250_000)),
        (names!("pool of 64 nodes, gangs <= 10 %"), one(64, 100_000)),
        (names!("pool of 64 nodes, gangs <= 5 %"), one(64, 50_000)),
        (names!("pool of 256 nodes, gangs <= 25 %"), one(256, 250_000)),
        (names!("4 pools of 64, 2 a bid, gangs <= 25 %"), four(250_000)),
        (names!("4 pools of 64, 2 a bid, gangs <= 10 %"), four(100_000)),
        (names!("4 pools of 64, 2 a bid, gangs <= 5 %"), four(50_000)),
    ];
    let mut figures = Vec::new();
    for (names, kind) in all {
        let books: Vec<Book> = (0..books).map(|seed| busy(seed, kind)).collect();
        match compare(&python, names, &books) {
            Ok(more) => figures.extend(more),
            Err(why) => eprintln!("  {}: left out, {why}", names.join("; ")),
        }
    }
    figures
}

/// Currency an hour.
fn currency(nanos: u128) -> f64 {
    nanos as f64 / 1e9
}

/// In words.
fn spread(shares: &[f64]) -> String {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    format!("median {:.4}, mean {mean:.4}, least {least:.4} of the optimum", median(shares.to_vec()))
}

fn compare(
    python: &str,
    [name, name_of_speed]: [&'static str; 2],
    books: &[Book],
) -> Result<Vec<Figure>, String> {
    let ours = books.iter().map(|book| {
        let (took, clearing) = seconds(|| clear(black_box(book), &mut Unlimited));
        (took, Welfare::of(book, &clearing))
    });
    let ours: Vec<(f64, Welfare)> = ours.collect();
    let solved = peer::solve(python, books, Wanted::Best)?;
    let pairs = || ours.iter().zip(&solved);
    for ((_, ours), highs) in pairs() {
        let slack = 1.0 + 1e-6;
        assert!(currency(ours.reached) <= highs.bound * slack, "{name}: more than the bound of HiGHS");
        assert!(highs.found <= currency(ours.bound) * slack, "{name}: our bound is none");
    }
    let shares: Vec<f64> = pairs().map(|((_, ours), highs)| currency(ours.reached) / highs.bound).collect();
    let of_found = pairs().map(|((_, ours), highs)| currency(ours.reached) / highs.found).collect();
    let of_bound = pairs().map(|((_, ours), highs)| highs.found / currency(ours.bound)).collect();
    eprintln!(
        "  {name}: {}\n    of the best that HiGHS found {:.4}; {} of {} not proven within {SECONDS_MAX} s; that is \
         {:.4} of our bound",
        spread(&shares),
        median(of_found),
        solved.iter().filter(|it| !it.is_proven).count(),
        solved.len(),
        median(of_bound),
    );
    let margin_ppm = books.first().map_or(0, |book| book.margin().ppm());
    for (what, margin_ppm, of_units) in [
        ("envy of a gang or a unit", 0, true),
        ("envy of a gang or a unit beyond the margin", margin_ppm, true),
        ("envy of a gang beyond the margin", margin_ppm, false),
    ] {
        let fair = peer::solve(python, books, Wanted::WithoutEnvy { margin_ppm, of_units })?;
        let shares: Vec<f64> = fair.iter().zip(&solved).map(|(fair, best)| fair.bound / best.bound).collect();
        eprintln!("    the most without {what}: {}", spread(&shares));
    }
    let per_second = |times: Vec<f64>| 1.0 / median(times);
    Ok(vec![
        Figure { name, value: median(shares), unit: "of the optimum", ceiling: None, target: TARGET },
        Figure {
            name: name_of_speed,
            value: per_second(ours.iter().map(|(took, _)| *took).collect()),
            unit: "books/s",
            ceiling: Some(per_second(solved.iter().map(|it| it.seconds).collect())),
            target: "> 1",
        },
    ])
}
