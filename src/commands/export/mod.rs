//! `hourglass export`: the books for other systems.

mod focus;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use hourglass_consumers::finance::journal::{self, JournalError};

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format};
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
    /// What one transaction holds
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// Where to write it [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum JournalFormat {
    /// Plain text for hledger
    Hledger,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    /// A day's transfers between the same accounts, for the same purpose
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
    let JournalArgs { format: JournalFormat::Hledger, by, out } = args;
    let detail = match by {
        By::Day => journal::Detail::Day,
        By::Transfer => journal::Detail::Transfer,
    };
    let reader = wire::open_reader(settings)?;
    let end = reader.head()?.position;
    let bar = output::progress("writing the journal");
    bar.set_length(end.number());
    let write = |out: &mut dyn Write| {
        let mut out = BufWriter::new(out);
        journal::write_hledger(reader.as_ref(), end, detail, &mut out, |at| bar.set_position(at.number()))
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
        Ok(written) => {
            eprintln!(
                "{} transfers in {} transactions, up to position {end}",
                written.transfers, written.transactions
            );
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
