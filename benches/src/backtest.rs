//! A month of jobs on the spot market, in virtual time. One thread.

use std::fmt::Write;

use hourglass_backtest::{Policy, Report, Supply, Trace, backtest};
use hourglass_test_chance::Chance;

use crate::figure::{Figure, seconds};

/// What a job's limit and everything else that a trace leaves out follow from.
const POLICY: &str = r#"
    seed = 7
    gang_max = "50"
    reserve = { shape = "lines", points = [{ utilisation = "0", price = "0.50" }, { utilisation = "80", price = "2" }] }
    jobs = { pools_per_job = 2, limit = { distribution = "uniform", from = "0.60", to = "4" } }
"#;

/// A month.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    vec![month(if quick { 3 } else { 30 })]
}

/// Jobs that come through a month, most of them about an hour long, a few of 128 GPUs.
fn month(days: u64) -> Figure {
    let jobs = 100_000 * days / 30;
    let mut chance = Chance(1);
    let mut trace = String::from("timestamp,duration,num_gpus\n");
    for job in 0..jobs {
        let large = 8 << chance.below(5);
        let gpus = *chance.pick(&[1, 1, 1, 1, 1, 2, 4, 8, 8, large]);
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
