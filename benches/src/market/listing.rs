//! A complete listing of the cloud, taken in by the core.

use std::hint::black_box;

use hourglass_capacity::lifecycle::{CloudState, Lifecycle, Listed, Listing, Phase, reconcile};
use hourglass_ledger::core::market::MarketCommand;
use hourglass_ledger::core::{Command, State};
use hourglass_units::Instant;

use super::region::{self, bid, clear, open};
use crate::figure::{Figure, median, seconds};
use crate::workload::{opens_at, run as run_command};

const UNITS: u32 = 10_000;
const FABRIC: &str = "fabric-1";
const TARGET: &str = "< 1 s";

/// Three listings of 10,000 units: each is seen for the first time, all is as it was, and all are gone. Beside the
/// second, the comparison without the core.
pub(super) fn run(repeats: usize) -> Vec<Figure> {
    let at = |minute: i64| opens_at().saturating_add_ms(minute * 60_000);
    let mut won = State::empty();
    for command in open(opens_at(), &[(FABRIC.to_owned(), u64::from(UNITS))]) {
        run_command(&mut won, &command, opens_at());
    }
    run_command(&mut won, &bid("b", FABRIC, (1, UNITS), "2"), at(1));
    run_command(&mut won, &clear(), at(2));
    assert_eq!(
        won.market().pool(&region::pool(FABRIC)).map(|pool| pool.supply(at(2))),
        Some(u64::from(UNITS))
    );

    let (first, again, none) =
        (listing(&won, at(3)), listing(&won, at(4)), Listing { items: Vec::new(), ..listing(&won, at(5)) });
    let (seen, running) = take_in(&won, &first, at(3), repeats);
    assert!(running.market().lives().all(|life| *life.cycle.phase() == Phase::Running), "all run");
    let (unchanged, _) = take_in(&running, &again, at(4), repeats);
    let (gone, after) = take_in(&running, &none, at(5), repeats);
    assert_eq!(after.market().lives().count(), 0, "all are gone");

    let mut known: Vec<&Lifecycle> = running.market().lives().map(|life| &life.cycle).collect();
    known.sort_by_key(|cycle| cycle.instance());
    let compared = (0..repeats).map(|_| {
        seconds(|| black_box(reconcile(known.iter().copied(), black_box(&again), None))).0 * 1_000.0
    });
    let compared = median(compared.collect());
    let figure = |name, value, ceiling| Figure { name, value, unit: "ms", ceiling, target: TARGET };
    vec![
        figure("10,000 units listed, all as it was", unchanged, Some(compared)),
        figure("10,000 units listed, each news", seen, None),
        figure("10,000 units listed, all gone", gone, None),
    ]
}

/// All units, RUNNING.
fn listing(state: &State, began: Instant) -> Listing {
    let item = |life: &hourglass_ledger::core::market::Life| Listed {
        cloud: format!("cloud-{}", life.cycle.instance()).parse().expect("an id"),
        instance: Some(life.cycle.instance().clone()),
        state: CloudState::Running,
    };
    Listing { began, is_complete: true, items: state.market().lives().map(item).collect() }
}

/// Milliseconds in the core for a listing, and the state after it.
fn take_in(state: &State, listing: &Listing, at: Instant, repeats: usize) -> (f64, State) {
    let command = Command::from(MarketCommand::List { listing: listing.clone() });
    let mut after = state.clone();
    let took = (0..repeats).map(|_| {
        after = state.clone();
        seconds(|| run_command(&mut after, &command, at)).0 * 1_000.0
    });
    (median(took.collect()), after)
}
