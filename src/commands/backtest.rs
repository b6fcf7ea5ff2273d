//! `hourglass backtest`: what a market policy would have done with a trace of jobs.

use std::path::{Path, PathBuf};

use hourglass_backtest::report::{GpuTime, JobCounts, PerHundred, PoolReport, WaitingReport};
use hourglass_backtest::trace::TRACE_BYTES_MAX;
use hourglass_backtest::{BacktestError, Policy, Report, Supply, Trace, backtest, plot};
use hourglass_units::{Amount, Price};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Format, answer, progress, table};

/// Run a trace of jobs against pools and a market policy: docs/backtest.md describes the files.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV of jobs: ours, or OpenB's list of pods
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// TOML of pools, or OpenB's list of nodes as CSV
    #[arg(long, value_name = "FILE")]
    supply: PathBuf,
    /// TOML of how the market is run
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Draw prices, utilisation and waiting times into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Answer {
    /// Rows of the trace that bid for nothing.
    left_out: u64,
    #[serde(flatten)]
    report: Report,
}

/// Runs the command.
pub fn run(args: &Args, format: Format) -> Result<(), Failure> {
    let policy = parsed(&args.policy, Policy::parse)?;
    let supply = parsed(&args.supply, |text| {
        let is_table = args.supply.extension().is_some_and(|extension| extension == "csv");
        if is_table { Supply::parse_nodes(text) } else { Supply::parse(text) }
    })?;
    let trace = parsed(&args.trace, Trace::parse)?;
    let bar = progress("clearing the market");
    let outcome = backtest(&trace, &supply, &policy, &mut |behind, all| {
        bar.set_length(all);
        bar.set_position(behind);
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(|error| match error {
        BacktestError::Broken { .. } => Failure::Unsound(error.to_string()),
        // What jobs lack only shows when they meet the supply and the policy.
        BacktestError::Cell { .. } => wrong(&args.trace, &error),
        BacktestError::UnknownPool { .. } => wrong(&args.policy, &error),
        _ => Failure::Usage(error.to_string()),
    })?;
    if let Some(file) = &args.plot {
        let svg = plot::plot(&outcome, &supply).map_err(|error| Failure::Unavailable(error.to_string()))?;
        std::fs::write(file, svg).map_err(|error| wrong(file, &error))?;
    }
    let report = Report::of(&outcome, &supply);
    answer(format, &Answer { left_out: trace.left_out, report }, text)
}

fn wrong(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {error}", file.display()))
}

/// Reads a file, whose mistakes are told with its name.
fn parsed<T>(file: &Path, parse: impl FnOnce(&str) -> Result<T, BacktestError>) -> Result<T, Failure> {
    let bytes = std::fs::metadata(file).map_err(|error| wrong(file, &error))?.len();
    if bytes > TRACE_BYTES_MAX {
        return Err(wrong(file, &format!("it has {bytes} bytes, more than {TRACE_BYTES_MAX}: split it")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(file, &error))?;
    parse(&text).map_err(|error| wrong(file, &error))
}

fn text(answer: &Answer) -> String {
    let report = &answer.report;
    let JobCounts { all, completed, running, waiting, unborn, .. } = report.jobs;
    let open = report.closes.saturating_sub(report.opens);
    let welfare = &report.welfare;
    format!(
        "{all} jobs over {}, {} clearings: {completed} completed, {running} running, {waiting} waiting, \
         {unborn} not come yet; {} rows left out\n\
         {}\n\
         utilisation {} %, goodput {} %, {} % of the work lost\n\
         welfare {} of at most {} ({} %), revenue {}\n\n{}\n\n{}\n\n{}",
        time(open),
        report.clearings,
        answer.left_out,
        gpu_time(&report.gpu_seconds),
        report.utilisation,
        report.goodput,
        report.lost,
        money(welfare.reached),
        money(welfare.bound),
        welfare.ratio,
        money(report.revenue),
        preemptions(report),
        pools(&report.pools),
        waits(&report.waiting),
    )
}

fn gpu_time(gpu_seconds: &GpuTime) -> String {
    let GpuTime { supply, worked, booting, idle, lost } = *gpu_seconds;
    let [supply, worked, booting, idle, lost] = [supply, worked, booting, idle, lost].map(gpu_hours);
    format!("{supply} GPU-hours: {worked} worked ({lost} of them lost), {booting} booting, {idle} idle")
}

fn preemptions(report: &Report) -> String {
    let PerHundred { all, outbid, supply_reclaimed, reserve_raised } = report.preemptions.per_100_starts;
    let stops = report.preemptions.stops;
    let counts = |of: fn(&hourglass_backtest::engine::Causes) -> u64| {
        [of(&stops.preempted), of(&stops.shrunk), of(&stops.before_work)].map(|count| count.to_string())
    };
    let row = |cause: &str, counts: [String; 3], per_100: String| {
        let [preempted, shrunk, before_work] = counts;
        vec![cause.to_owned(), preempted, per_100, shrunk, before_work]
    };
    let rows = [
        row("outbid", counts(|causes| causes.outbid), outbid.to_string()),
        row("supply reclaimed", counts(|causes| causes.supply_reclaimed), supply_reclaimed.to_string()),
        row("reserve raised", counts(|causes| causes.reserve_raised), reserve_raised.to_string()),
        row("all", counts(hourglass_backtest::engine::Causes::sum), all.to_string()),
    ];
    let head = ["preemptions", "jobs", "of 100 starts", "shrunk", "before work"];
    format!("{} starts\n{}", report.preemptions.starts, table(&head, &[1, 2, 3, 4], rows))
}

fn pools(pools: &[PoolReport]) -> String {
    let rows = pools.iter().map(|pool| {
        let price = pool.price;
        let prices = [price.p50, price.p90, price.p99, price.max].map(|price| price.to_string());
        let name = [pool.name.to_string(), gpu_hours(pool.supply), format!("{} %", pool.utilisation)];
        name.into_iter().chain([money(pool.revenue), mean(price.mean)]).chain(prices).collect()
    });
    let head = ["pool", "GPU-hours", "used", "revenue", "mean price", "p50", "p90", "p99", "max"];
    table(&head, &[1, 2, 3, 4, 5, 6, 7, 8], rows)
}

fn waits(deciles: &[WaitingReport]) -> String {
    let or_never = |seconds: Option<u64>| seconds.map_or_else(|| "never".to_owned(), time);
    let rows = deciles.iter().map(|decile| {
        vec![
            format!("{} - {}", decile.limit_from, decile.limit_to),
            decile.jobs.to_string(),
            or_never(decile.p50_seconds),
            or_never(decile.p90_seconds),
            decile.never_started.to_string(),
        ]
    });
    table(&["limit", "jobs", "wait p50", "wait p90", "never began"], &[1, 2, 3, 4], rows)
}

fn time(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// With a tenth of a GPU-hour, rounded down.
fn gpu_hours(gpu_seconds: u128) -> String {
    let tenths = gpu_seconds / 360;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// With two digits, rounded down. Never negative here.
fn money(amount: Amount) -> String {
    const HUNDREDTH: i128 = 10_000_000_000_000_000;
    let hundredths = amount.attos() / HUNDREDTH;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A mean with four digits at most, rounded down.
fn mean(price: Price) -> String {
    let nanos = price.nanos();
    Price::from_nanos(nanos.saturating_sub(nanos % 100_000)).unwrap_or(price).to_string()
}
