//! `hourglass replay`: a real trace, played into an empty ledger.

use std::path::PathBuf;

use hourglass_ledger::cell::Cell;
use hourglass_ledger::core::{self, State};
use hourglass_units::{Amount, Instant};
use serde::Serialize;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, progress};
use crate::simulate::driver::{Pace, Played, play};
use crate::simulate::{PricesFile, Workload, openb};
use crate::wire;

/// Play a real trace into an empty ledger.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    trace: Trace,
}

#[derive(Debug, clap::Subcommand)]
enum Trace {
    /// Alibaba's OpenB GPU trace of 2023: tasks become instances of 40 tenants
    Openb(OpenbArgs),
}

#[derive(Debug, clap::Args)]
struct OpenbArgs {
    /// CSV of tasks
    #[arg(long, value_name = "FILE")]
    pods: PathBuf,
    /// CSV of GPU nodes
    #[arg(long, value_name = "FILE")]
    nodes: PathBuf,
    /// TOML of rate cards and contracts
    #[arg(long, value_name = "FILE")]
    prices: PathBuf,
    /// The time of the trace's second 0
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z", value_parser = super::instant)]
    start: Instant,
    /// Length of a usage report
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::milliseconds)]
    every: i64,
    /// Trace time between two accruals
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = super::milliseconds)]
    tick: i64,
    /// Shuffle, delay, duplicate, split and overlap the reports: the result is the same to the bit
    #[arg(long, value_name = "SEED")]
    chaos: Option<u64>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Trace::Openb(args) = args.trace;
    let longest = core::usage::REPORT_MILLISECONDS_MAX;
    // A disturbed report reaches into its neighbours on both sides.
    let longest = if args.chaos.is_some() { longest / 3 } else { longest };
    if args.every > longest {
        return Err(Failure::Usage(format!("--every must be at most {} hours", longest / 3_600_000)));
    }
    let prices = PricesFile::read(&args.prices)?;
    let workload = openb::read(&args.pods, &args.nodes, prices, args.start)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let cell = wire::start_cell(&settings.data, |_, _| {})?;
    let pace = Pace { every_ms: args.every, tick_ms: args.tick, chaos: args.chaos };
    let summary = play_into(&cell, &workload, pace);
    cell.close();
    let summary = summary?;
    answer(format, &summary, Summary::to_text)?;
    if summary.billed_gpu_ms != summary.played.workload_gpu_ms {
        return Err(Failure::Unsound("billed GPU-milliseconds are not those of the trace".to_owned()));
    }
    Ok(())
}

/// What came out of a workload.
#[derive(Debug, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    played: Played,
    billed_gpu_ms: i128,
    gpu_hours: String,
    invoiced: String,
    currency: String,
    position: u64,
    digest: String,
}

/// Plays a workload into a cell and sums up what came out.
pub fn play_into(cell: &Cell, workload: &Workload, pace: Pace) -> Result<Summary, Failure> {
    let handle = cell.handle();
    let bar = progress("playing");
    let played = play(&handle, workload, pace, |at, end| {
        bar.set_length(end.unsigned_abs());
        bar.set_position(at.unsigned_abs());
    });
    bar.finish_and_clear();
    let played = played.map_err(|error| Failure::Rejected(error.to_string()))?;
    let currency = workload.currency;
    handle.read_blocking(move |state| {
        let mut billed_gpu_ms = 0_i128;
        let mut nanos = 0_i128;
        for line in state.lines() {
            let line = line?;
            let gpu_ms = i128::from(line.line.milliseconds).saturating_mul(i128::from(line.instance.gpus()));
            billed_gpu_ms = billed_gpu_ms.saturating_add(gpu_ms);
            nanos = nanos.saturating_add(i128::from(line.line.quantity.nanos()));
        }
        Ok(Summary {
            played,
            billed_gpu_ms,
            gpu_hours: Amount::from_attos(nanos.saturating_mul(1_000_000_000)).to_string(),
            invoiced: invoiced(state).to_minor_string(currency),
            currency: currency.to_string(),
            position: state.position().number(),
            digest: core::digest(state)?.to_hex().to_string(),
        })
    })?
}

fn invoiced(state: &State) -> Amount {
    let totals =
        state.tenants().flat_map(|(_, tenant)| tenant.invoices.values().map(|invoice| invoice.total));
    totals.fold(Amount::ZERO, |sum, total| sum.checked_add(total).unwrap_or(sum))
}

impl Summary {
    /// As sentences.
    pub fn to_text(&self) -> String {
        let Self { played, billed_gpu_ms, gpu_hours, invoiced, currency, position, digest } = self;
        format!(
            "{} instances, {} usage records in {} batches, {} ticks\n\
             {billed_gpu_ms} GPU-milliseconds billed, {} in the workload; {gpu_hours} GPU-hours\n\
             {} invoices over {invoiced} {currency}\n\
             log position {position}\n\
             digest {digest}",
            played.instances,
            played.records,
            played.batches,
            played.ticks,
            played.workload_gpu_ms,
            played.invoices
        )
    }
}
