//! The metering core: decode, union, rate, aggregate on one thread.

use std::hint::black_box;

use hourglass_ledger::core::State;
use hourglass_proto::v1;
use prost::Message;

use crate::figure::{Figure, median, seconds};
use crate::workload::{self, REPORT_MS, meter, opens_at, run as run_command, set_up};

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let (instances, rounds, repeats) = if quick { (20_000, 5, 3) } else { (100_000, 20, 5) };
    let mut state = State::empty();
    for command in set_up(instances) {
        run_command(&mut state, &command, opens_at());
    }
    let (mut rates, mut ceilings) = (Vec::new(), Vec::new());
    let mut round = 0;
    for repeat in 0..=repeats {
        let batches: Vec<Vec<_>> =
            (round..round + rounds).map(|round| workload::round(instances, round)).collect();
        let records = (instances * rounds) as f64;
        let (bare, ()) = seconds(|| {
            for raw in batches.iter().flatten() {
                black_box(v1::UsageBatch::decode(raw.clone()).expect("a batch"));
            }
        });
        let (metered, ()) = seconds(|| {
            for (n, round_of_batches) in (round..).zip(batches) {
                let now = opens_at().saturating_add_ms((n as i64 + 1) * REPORT_MS);
                for raw in round_of_batches {
                    meter(&mut state, raw, now);
                }
            }
        });
        round += rounds;
        // The first repeat touches the memory for the first time.
        if repeat > 0 {
            rates.push(records / metered);
            ceilings.push(records / bare);
        }
    }
    vec![Figure {
        name: "metering core",
        value: median(rates),
        unit: "records/s",
        ceiling: Some(median(ceilings)),
        target: ">= 3 M records/s",
    }]
}
