//! HiGHS, which solves the same book as a mixed-integer programme.
//!
//! For each bid and each pool that it may enter there is a binary `y` (it wins there) and, where it is elastic,
//! an integer `x` (its units there; else they are `min × y`):
//!
//! ```text
//! most     Σ limit × GPUs of a unit × x
//! where    min × y ≤ x ≤ max × y
//!          Σ over the pools of a bid y ≤ 1
//!          Σ over the bids in a pool GPUs of a unit × x ≤ supply
//! ```
//!
//! The objective is welfare as the auction counts it: what runs has no weight of its own. The model is written
//! in decimals, exactly. HiGHS itself is a Python package in a virtual environment that `cargo xtask bench` makes;
//! nothing of the product and no test depends on it.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use hourglass_capacity::auction::{Bid, Book, PoolIx};
use serde_json::Value;

/// The variable that says where the Python is that has HiGHS.
pub(super) const PYTHON: &str = "HOURGLASS_BENCH_HIGHS";
/// Longest time for one book, in seconds.
pub(super) const SECONDS_MAX: u32 = 60;

/// What HiGHS says of a book.
#[derive(Debug, Clone, Copy)]
pub(super) struct Solved {
    /// The best welfare that it found, in currency an hour.
    pub(super) found: f64,
    /// No clearing has more.
    pub(super) bound: f64,
    pub(super) seconds: f64,
    /// Whether it proved the best one to be the best.
    pub(super) is_proven: bool,
}

/// What is asked for beside the largest welfare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Best,
    /// A-6: that no gang that lost, and no unit that a winner did not get, finds room beside the winners that
    /// outrank it.
    WithoutEnvy {
        /// What those have over it, in parts per million: the margin of the book, or none.
        margin_ppm: u32,
        /// Whether units count, or gangs alone.
        of_units: bool,
    },
}

/// The path of the interpreter, if HiGHS is here.
pub(super) fn python() -> Option<String> {
    std::env::var(PYTHON).ok().filter(|path| !path.is_empty())
}

/// Solves books, one after the other. `Err` says why it cannot.
pub(super) fn solve(python: &str, books: &[Book], wanted: Wanted) -> Result<Vec<Solved>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let script = directory.path().join("solve.py");
    write(&script, include_str!("solve.py"))?;
    let mut call = Command::new(python);
    call.arg(&script).arg(SECONDS_MAX.to_string());
    for (at, book) in books.iter().enumerate() {
        let file = directory.path().join(format!("book-{at}.lp"));
        write(&file, &model(book, wanted))?;
        call.arg(file);
    }
    let output = call.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{python}: {error}"))?;
    let lines = String::from_utf8_lossy(&output.stdout);
    // Before its first answer it tells whose it is.
    let solved: Option<Vec<Solved>> = lines.lines().filter(|line| line.starts_with('{')).map(read).collect();
    match solved {
        Some(solved) if output.status.success() && solved.len() == books.len() => Ok(solved),
        _ => Err(format!("HiGHS ended with {} and said {lines:?}", output.status)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(line: &str) -> Option<Solved> {
    let line: Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| line.get(name).and_then(Value::as_f64);
    Some(Solved {
        found: number("found")?,
        bound: number("bound")?,
        seconds: number("seconds")?,
        is_proven: line.get("status").and_then(Value::as_str) == Some("Optimal"),
    })
}

/// A bid in a pool.
struct Entry<'a> {
    at: usize,
    bid: &'a Bid,
    pool: PoolIx,
}

impl Entry<'_> {
    fn wins(&self) -> String {
        format!("y{}p{}", self.at, self.pool)
    }

    fn is_full(&self) -> String {
        format!("f{}p{}", self.at, self.pool)
    }

    fn is_elastic(&self) -> bool {
        self.bid.min_units < self.bid.max_units
    }

    /// What it has there, each unit times a factor: `factor × x`, or `factor × min × y`.
    fn times(&self, factor: u64) -> String {
        match self.is_elastic() {
            true => format!("{factor} x{}p{}", self.at, self.pool),
            false => format!("{} {}", factor * u64::from(self.bid.min_units), self.wins()),
        }
    }

    fn gpus(&self) -> String {
        self.times(u64::from(self.bid.gpus_per_unit))
    }

    /// The limit in parts of 10⁻⁹, times the GPUs: written as a decimal.
    fn worth(&self) -> String {
        let units = if self.is_elastic() { 1 } else { self.bid.min_units };
        let nanos =
            u128::try_from(self.bid.limit.nanos()).expect("a limit") * u128::from(self.bid.gpus(units));
        let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        match self.is_elastic() {
            true => format!("{whole}.{rest:09} x{}p{}", self.at, self.pool),
            false => format!("{whole}.{rest:09} {}", self.wins()),
        }
    }

    /// Whether, once it runs, a newcomer of this limit cannot displace it.
    fn outranks(&self, other: &Bid, margin_ppm: u32) -> bool {
        let nanos = |bid: &Bid| u128::try_from(bid.limit.nanos()).expect("a limit");
        nanos(self.bid) * u128::from(1_000_000 + margin_ppm) >= nanos(other) * 1_000_000
    }
}

/// The programme, in the LP format.
fn model(book: &Book, wanted: Wanted) -> String {
    let mut entries = Vec::new();
    for (at, bid) in book.bids().iter().enumerate() {
        for pool in &bid.pools {
            let offer = book.pools().get(pool.index()).expect("a pool");
            let is_small = bid.min_units == 1 || bid.core_gpus() <= offer.gang_gpus_max();
            if bid.limit >= offer.reserve && is_small {
                entries.push(Entry { at, bid, pool: *pool });
            }
        }
    }
    let mut text = String::from("Maximize\n welfare:");
    let line = |text: &mut String, words: &str| writeln!(text, "{words}").expect("memory");
    let sum = |terms: &mut dyn Iterator<Item = String>| {
        terms.map(|term| format!(" + {term}\n")).collect::<String>()
    };
    line(&mut text, &sum(&mut entries.iter().map(Entry::worth)));
    line(&mut text, "Subject To");
    for entry in entries.iter().filter(|entry| entry.is_elastic()) {
        let (x, y) = (entry.times(1), entry.wins());
        line(&mut text, &format!(" least{y}: {x} - {} {y} >= 0", entry.bid.min_units));
        line(&mut text, &format!(" most{y}: {x} - {} {y} <= 0", entry.bid.max_units));
    }
    for of_bid in entries.chunk_by(|one, other| one.at == other.at) {
        let wins = sum(&mut of_bid.iter().map(Entry::wins));
        line(&mut text, &format!(" once{}:{wins} <= 1", of_bid.first().map_or(0, |it| it.at)));
    }
    for (at, offer) in book.pools().iter().enumerate() {
        let here = || entries.iter().filter(|entry| entry.pool.index() == at);
        if here().next().is_some() {
            line(
                &mut text,
                &format!(" supply{at}:{} <= {}", sum(&mut here().map(Entry::gpus)), offer.supply),
            );
        }
        let Wanted::WithoutEnvy { margin_ppm, of_units } = wanted else { continue };
        for it in here() {
            let outrank = |entry: &&Entry<'_>| entry.at != it.at && entry.outranks(it.bid, margin_ppm);
            let taken = || here().filter(outrank).map(Entry::gpus);
            // It wins, here or elsewhere, or those that outrank it take so much that its gang finds no room.
            let least = offer.supply.saturating_sub(it.bid.core_gpus()) + 1;
            let wins = entries.iter().filter(|entry| entry.at == it.at);
            let mut terms = taken().chain(wins.map(|entry| format!("{least} {}", entry.wins())));
            line(&mut text, &format!(" envy{}:{} >= {least}", it.wins(), sum(&mut terms)));
            if of_units && it.is_elastic() {
                // It has all that it wants, or does not win here, or not one unit more finds room.
                let (full, most) = (it.is_full(), it.bid.max_units);
                line(&mut text, &format!(" full{}: {} - {most} {full} >= 0", it.wins(), it.times(1)));
                let least = offer.supply.saturating_sub(u64::from(it.bid.gpus_per_unit)) + 1;
                let mut terms = taken().chain([it.gpus(), format!("{least} {full}")]);
                let terms = sum(&mut terms);
                line(&mut text, &format!(" unit{}:{terms} - {least} {} >= 0", it.wins(), it.wins()));
            }
        }
    }
    line(&mut text, "General");
    for entry in entries.iter().filter(|entry| entry.is_elastic()) {
        line(&mut text, &format!(" x{}p{}", entry.at, entry.pool));
    }
    line(&mut text, "Binary");
    for entry in &entries {
        line(&mut text, &format!(" {}", entry.wins()));
        if entry.is_elastic() && matches!(wanted, Wanted::WithoutEnvy { of_units: true, .. }) {
            line(&mut text, &format!(" {}", entry.is_full()));
        }
    }
    line(&mut text, "End");
    text
}
