//! The spot market: clearings and their bound, welfare beside HiGHS, listings, and what a preemption takes.

mod books;
mod listing;
mod past;
mod peer;
mod region;
mod successor;
mod welfare;

use std::hint::black_box;

use hourglass_capacity::auction::welfare::bound;
use hourglass_capacity::auction::{Unlimited, clear};

use crate::figure::{Figure, median, seconds};

pub(crate) use past::past;
pub(crate) use successor::run as successor;
pub(crate) use welfare::run as welfare;

/// Clearings, and listings of what runs. One thread.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let repeats = if quick { 5 } else { 31 };
    let mut figures = clearing(
        ["market clearing, 10,000 bids", "bound of its welfare, 10,000 bids"],
        10_000,
        "< 5 ms",
        repeats,
    );
    figures.extend(clearing(
        ["market clearing, 100,000 bids", "bound of its welfare, 100,000 bids"],
        100_000,
        "< 100 ms",
        repeats,
    ));
    figures.extend(listing::run(repeats));
    figures
}

/// A clearing of a market in use; and the bound of its welfare, which each receipt holds, beside it.
fn clearing(names: [&'static str; 2], bids: u64, target: &'static str, repeats: usize) -> Vec<Figure> {
    let [name, name_of_bound] = names;
    let book = books::in_use(bids);
    let milliseconds = |run: &dyn Fn()| median((0..repeats).map(|_| seconds(run).0 * 1_000.0).collect());
    let cleared = milliseconds(&|| drop(black_box(clear(black_box(&book), &mut Unlimited))));
    let bounded = milliseconds(&|| {
        let _bound = black_box(bound(black_box(&book)));
    });
    let figure = |name, value, ceiling, target| Figure { name, value, unit: "ms", ceiling, target };
    vec![
        figure(name, cleared, None, target),
        figure(name_of_bound, bounded, Some(cleared), "less than its clearing"),
    ]
}
