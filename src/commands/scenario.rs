//! `hourglass scenario`: a text file of what happens, played into an empty cell.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hourglass_ledger::store::Reader;
use hourglass_ledger::store::sqlite::SqliteReader;
use hourglass_ledger::verify;

use crate::failure::Failure;
use crate::output::{Format, answer};
use crate::simulate::scenario::FILE_BYTES_MAX;
use crate::simulate::scenario::parse::parse;
use crate::simulate::scenario::report::{Report, report};
use crate::simulate::scenario::run::{Direct, RunError, VirtualClock, play};
use crate::wire;

/// Try a contract, or anything else, before it is real: docs/scenarios.md describes the file.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Play a file in virtual time into an empty cell, and show what comes of it
    Run {
        /// What happens
        file: PathBuf,
        /// Keep its ledger in this folder, which must be empty or not exist: `--data` names it to other commands
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(args: Args, format: Format) -> Result<(), Failure> {
    let Action::Run { file, keep } = args.action;
    let scenario = parse(&read(&file)?).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(|fault| format!("{}:{fault}", file.display())).collect();
        Failure::Usage(faults.join("\n"))
    })?;
    let temporary = tempfile::tempdir()?;
    let ledger = match &keep {
        Some(folder) => empty(folder)?,
        None => temporary.path(),
    };
    let clock = Arc::new(VirtualClock::default());
    let cell = wire::start_scratch_cell(ledger, clock.clone())?;
    let handle = cell.handle();
    let played = play(&scenario, &handle, &clock, &mut Direct(handle.clone()));
    let summed = played.map_err(failure).and_then(|played| {
        let reader = Arc::clone(handle.reader());
        handle.read_blocking(move |state| report(state, &reader, played))?.map_err(Failure::Unavailable)
    });
    cell.close();
    let summed: Report = summed?;
    answer(format, &summed, Report::to_text)?;
    check_invariants(ledger)?;
    match summed.expectations.failed.len() {
        0 => Ok(()),
        1 => Err(Failure::Unsound("one thing is not as the file says".to_owned())),
        count => Err(Failure::Unsound(format!("{count} things are not as the file says"))),
    }
}

/// A folder in which nothing is yet, so that no ledger is mixed up with another.
fn empty(folder: &Path) -> Result<&Path, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
    match std::fs::read_dir(folder).map_err(|error| wrong(&error))?.next() {
        None => Ok(folder),
        Some(_) => Err(wrong(&"it is not empty: name a new folder")),
    }
}

/// Reads a file that is not too long.
fn read(file: &Path) -> Result<String, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let bytes = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if bytes > FILE_BYTES_MAX as u64 {
        return Err(wrong(&format!("it has {bytes} bytes, more than {FILE_BYTES_MAX}: split it")));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(&error))
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Cell(error) => error.into(),
        RunError::TooManyTicks => Failure::Usage(error.to_string()),
        RunError::Door(what) => Failure::Unavailable(what),
    }
}

/// Each scenario checks every invariant besides.
fn check_invariants(ledger: &Path) -> Result<(), Failure> {
    let reader: Arc<dyn Reader> = Arc::new(SqliteReader::open(ledger)?);
    let scratch = tempfile::tempdir()?;
    let found = verify::verify(reader.as_ref(), scratch.path(), |_, _| {})?;
    match found.findings.first() {
        None => Ok(()),
        Some(first) => {
            let what = format!(
                "{} findings in the books, the first: {} {}",
                found.finding_count, first.check, first.what
            );
            Err(Failure::Unsound(what))
        }
    }
}
