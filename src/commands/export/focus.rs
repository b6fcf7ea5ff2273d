//! `hourglass export focus` and `hourglass export check`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hourglass_consumers::finance::columnar;
use hourglass_consumers::finance::focus::{
    FINDINGS_MAX, FocusError, Order, PROVIDER_DEFAULT, Verified, Wanted, verify_runs, write_runs,
};
use hourglass_consumers::finance::run::{Archive, RunError, Sealed};
use hourglass_units::Month;
use serde_json::json;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer, log_progress, table};
use crate::wire;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version of the specification
    #[arg(long = "version", value_enum, default_value_t = Version::V1_2)]
    _version: Version,
    /// How the files are written
    #[arg(long, value_enum, default_value_t = FileFormat::Csv)]
    format: FileFormat,
    /// A billing period, YYYY-MM; can be given more than once [default: all]
    #[arg(long, value_name = "YYYY-MM")]
    period: Vec<Month>,
    /// The directory of runs: BILLING_PERIOD=YYYY-MM/run=ID/ is written in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Who provides the service, as the rows name it
    #[arg(long, value_name = "NAME", env = "HOURGLASS_PROVIDER", default_value = PROVIDER_DEFAULT)]
    provider: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Version {
    /// FOCUS 1.2, Cost and Usage
    #[value(name = "1.2")]
    V1_2,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FileFormat {
    /// Comma-separated values, with a row of names
    Csv,
    /// Apache Parquet
    Parquet,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The directory of runs
    dir: PathBuf,
    /// Check the files by themselves, without the ledger
    #[arg(long)]
    alone: bool,
}

/// Writes the runs.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Args { format: file_format, period, out, provider, .. } = args;
    let archive = Archive::open(&out).map_err(run_failure)?;
    let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let periods: BTreeSet<Month> = period.into_iter().collect();
    let order = Order {
        format: match file_format {
            FileFormat::Csv => columnar::Format::Csv,
            FileFormat::Parquet => columnar::Format::Parquet,
        },
        wanted: if periods.is_empty() { Wanted::All } else { Wanted::Only(periods) },
        provider,
    };
    let bar = output::progress("writing rows");
    bar.set_length(loaded.state.position().number());
    let mut tell = |at: hourglass_ledger::core::Position| bar.set_position(at.number());
    let sealed = write_runs(&archive, reader.as_ref(), &loaded, &order, &mut tell).map_err(failure);
    bar.finish_and_clear();
    let sealed = sealed?;
    let value: Vec<_> = sealed
        .iter()
        .map(|it| {
            let manifest = it.manifest();
            json!({
                "period": manifest.subject.period,
                "run": manifest.run,
                "path": out.join(format!("BILLING_PERIOD={}/run={}", manifest.subject.period, manifest.run)),
                "written": matches!(it, Sealed::Written(_)),
                "final": manifest.is_final,
                "rows": manifest.files.iter().map(|file| file.rows).sum::<u64>(),
                "totals": manifest.totals,
            })
        })
        .collect();
    answer(format, &value, |_| {
        let rows = sealed.iter().map(|it| {
            let manifest = it.manifest();
            let rows: u64 = manifest.files.iter().map(|file| file.rows).sum();
            let billed = manifest.totals.iter().filter_map(|(currency, measures)| {
                measures.get("BilledCost").map(|amount| format!("{amount} {currency}"))
            });
            vec![
                manifest.subject.period.clone(),
                manifest.run.clone(),
                if matches!(it, Sealed::Written(_)) { "written" } else { "unchanged" }.to_owned(),
                if manifest.is_final { "final" } else { "to come" }.to_owned(),
                rows.to_string(),
                billed.collect::<Vec<_>>().join(", "),
            ]
        });
        table(&["period", "run", "", "", "rows", "billed"], &[4, 5], rows)
    })
}

/// Checks the newest runs.
pub fn check(args: &CheckArgs, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let state = if args.alone {
        None
    } else {
        let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
        Some(loaded.state)
    };
    let found = verify_runs(&args.dir, state.as_ref()).map_err(failure)?;
    let Verified { runs, rows, invoices, commitments, with_ledger, findings } = &found;
    if *runs == 0 {
        return Err(Failure::Usage(format!("{} holds no run: export one there first", args.dir.display())));
    }
    let value = json!({
        "runs": runs, "rows": rows, "invoices": invoices, "commitments": commitments,
        "with_ledger": with_ledger, "finding_count": findings.count, "findings": findings.first,
    });
    answer(format, &value, |_| {
        let mut text = format!(
            "{rows} rows in {runs} runs, {invoices} invoices, {commitments} reservations with all their hours"
        );
        text.push_str(if *with_ledger { ", beside the ledger\n" } else { ", by themselves\n" });
        for finding in &findings.first {
            text.push_str(&format!("{}: {}\n", finding.code, finding.what));
        }
        if findings.count > FINDINGS_MAX as u64 {
            text.push_str(&format!("and more: {} in all\n", findings.count));
        }
        text
    })?;
    match findings.count {
        0 => Ok(()),
        count => Err(Failure::Unsound(format!("{count} things do not hold in the export"))),
    }
}

fn failure(error: FocusError) -> Failure {
    match error {
        FocusError::Run(error) => run_failure(error),
        error => Failure::Unavailable(error.to_string()),
    }
}

fn run_failure(error: RunError) -> Failure {
    match error {
        RunError::Damaged { .. } | RunError::Manifest { .. } => Failure::Unsound(error.to_string()),
        RunError::TooMany { .. } => Failure::Usage(error.to_string()),
        RunError::File { .. } | RunError::Busy { .. } => Failure::Unavailable(error.to_string()),
    }
}
