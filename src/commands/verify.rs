//! `hourglass verify`: is everything as it must be?

use hourglass_ledger::verify::{self, Report};

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress};
use crate::wire;

/// Fold the whole log, check every hash and invariant, rebuild the derived rows and compare them.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(Args {}: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let reader = wire::open_reader(settings)?;
    let scratch = tempfile::tempdir()?;
    let report = verify::verify(reader.as_ref(), scratch.path(), log_progress("verifying"))?;
    answer(format, &report, text)?;
    match report.findings.first() {
        None => Ok(()),
        Some(first) => {
            let at = first.position.map_or_else(String::new, |position| format!(" at position {position}"));
            Err(Failure::Unsound(format!("{} findings, the first{at}: {}", report.finding_count, first.what)))
        }
    }
}

fn text(report: &Report) -> String {
    let rows: Vec<String> = report.rows.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
    let verdict = if report.is_sound() {
        format!("sound: {}\ndigest {}", report.checks.join(" "), report.digest)
    } else {
        let line = |finding: &verify::Finding| {
            let at = finding.position.map_or_else(|| "-".to_owned(), |position| position.to_string());
            format!("WRONG {:5} position {at}: {}", finding.check, finding.what)
        };
        report.findings.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    format!(
        "{} events with {} usage records folded; {} rebuilt and compared; {} lines and {} invoices computed again\n{verdict}",
        report.events,
        report.usage_records,
        rows.join(", "),
        report.lines,
        report.invoices,
    )
}
