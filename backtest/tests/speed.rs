//! A trace of 100,000 jobs, on one core, in less than a minute:
//! `cargo test --release -p hourglass-backtest -- --ignored --nocapture`.

use hourglass_backtest::{Policy, Report, Supply, Trace, backtest};

use crate::made_up;

/// What the design asks for.
const SECONDS_MAX: u64 = 60;

#[test]
#[ignore = "a figure: run it with --release"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn a_hundred_thousand_jobs_take_less_than_a_minute() {
    let days = std::env::var("HOURGLASS_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(30);
    let trace = made_up::trace(1, 100_000, days);
    let supply = made_up::supply(16, 128, days);
    let started = std::time::Instant::now();
    let (trace, supply) = (Trace::parse(&trace).unwrap(), Supply::parse(&supply).unwrap());
    let policy = Policy::parse(made_up::POLICY).unwrap();
    let outcome = backtest(&trace, &supply, &policy, &mut |_, _| {}).unwrap();
    let took = started.elapsed();
    let report = Report::of(&outcome, &supply);
    println!(
        "{took:.1?} for {} jobs over {days} days, {} clearings, {} starts, utilisation {} %, goodput {} %, welfare {} %, {} preemptions a hundred starts, {:?}",
        report.jobs.all,
        report.clearings,
        report.preemptions.starts,
        report.utilisation,
        report.goodput,
        report.welfare.ratio,
        report.preemptions.per_100_starts.all,
        report.jobs,
    );
    assert_eq!(report.jobs.all, 100_000);
    assert!(took.as_secs() < SECONDS_MAX, "{took:?}");
}
