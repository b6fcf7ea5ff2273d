//! `hourglass export`: the books for other systems.

mod focus;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use hourglass_consumers::finance::journal::{self, Journal, JournalError, Written};
use hourglass_consumers::finance::span::Span;
use hourglass_ledger::core::Position;
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Month};

use super::instant;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, log_progress};
use crate::wire;

/// Write the books for other systems.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The journal: every movement of the book
    Journal(JournalArgs),
    /// Cost and usage as the FinOps community reads it (FOCUS), a run for each billing period
    Focus(focus::Args),
    /// Check every identity of exported runs, with exact decimals
    Check(focus::CheckArgs),
}

#[derive(Debug, clap::Args)]
struct JournalArgs {
    /// The format
    #[arg(long, value_enum, default_value_t = JournalFormat::Hledger)]
    format: JournalFormat,
    /// What one entry holds
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    #[command(flatten)]
    booked: Booked,
    /// It follows journals of all that was booked before: accounts that they declare are not declared again
    #[arg(long)]
    continues: bool,
    /// Where to write it [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// When it was booked.
#[derive(Debug, clap::Args)]
struct Booked {
    /// Only what was booked in this UTC month
    #[arg(long, value_name = "YYYY-MM", conflicts_with_all = ["from", "until"])]
    period: Option<Month>,
    /// Only what was booked from this time on
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// Only what was booked before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
}

impl Booked {
    fn span(&self, reader: &dyn Reader, head: Position) -> Result<Span, Failure> {
        let (from, until) = match self.period {
            Some(month) => (Some(month.start()), Some(month.end())),
            None => (self.from, self.until),
        };
        if from.zip(until).is_some_and(|(from, until)| until <= from) {
            return Err(Failure::Usage("--until must be after --from".to_owned()));
        }
        Ok(Span::between(reader, head, from, until)?)
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum JournalFormat {
    /// Plain text for hledger
    Hledger,
    /// Plain text for beancount
    Beancount,
    /// A table for accounting systems: lines of one external_id are one balanced journal
    Csv,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    /// A UTC day's transfers of a tenant for the same purpose
    Day,
    /// One transfer
    Transfer,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, answer: Format) -> Result<(), Failure> {
    match args.what {
        What::Journal(args) => journal(args, settings),
        What::Focus(args) => focus::run(args, settings, answer),
        What::Check(args) => focus::check(&args, settings, answer),
    }
}

fn journal(args: JournalArgs, settings: &Resolved) -> Result<(), Failure> {
    let JournalArgs { format, by, booked, continues, out } = args;
    let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state = loaded.state;
    let cell = state.cell().ok_or_else(|| Failure::Rejected("the ledger is empty".to_owned()))?;
    let journal = Journal {
        format: match format {
            JournalFormat::Hledger => journal::Format::Hledger,
            JournalFormat::Beancount => journal::Format::Beancount,
            JournalFormat::Csv => journal::Format::Csv,
        },
        detail: match by {
            By::Day => journal::Detail::Day,
            By::Transfer => journal::Detail::Transfer,
        },
        span: booked.span(reader.as_ref(), state.position())?,
        continues,
        region: cell.region.clone(),
        closed: state.periods().closed_until(),
    };
    let bar = output::progress("writing the journal");
    bar.set_length(journal.span.until.number());
    let write = |out: &mut dyn Write| {
        let mut out = BufWriter::new(out);
        journal::write(reader.as_ref(), &journal, &mut out, |at| bar.set_position(at.number()))
    };
    let written = match &out {
        None => write(&mut std::io::stdout().lock()),
        Some(path) => {
            let usage = |error| Failure::Usage(format!("{}: {error}", path.display()));
            write(&mut File::create(path).map_err(usage)?)
        }
    };
    bar.finish_and_clear();
    match written {
        Ok(Written { transfers, entries }) => {
            let until = journal.span.until;
            eprintln!("{transfers} transfers in {entries} entries, up to position {until}");
            Ok(())
        }
        // Whoever read from the pipe has seen enough.
        Err(JournalError::Write(error))
            if out.is_none() && error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            Ok(())
        }
        Err(error) => Err(Failure::Unavailable(error.to_string())),
    }
}
