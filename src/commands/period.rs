//! `hourglass period`: the months of the book, and closing them.

use hourglass_consumers::finance::reports::Tabular;
use hourglass_consumers::finance::reports::periods::{BookPeriods, book_periods};
use hourglass_ledger::cell::Submission;
use hourglass_ledger::core::Command;
use hourglass_units::Month;
use serde_json::json;

use super::change::{AFTER_HELP, Change, Done};
use super::rows_of;
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Most ticks that are made before a month is closed: each writes 20,000 lines that are over.
const TICKS_MAX: u32 = 10_000;

/// The months of the book: list, close.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Every month, where it stands and what it lacks
    List,
    /// Close a month for good: nothing is booked into it any more, and its rows have a digest
    Close {
        /// Which; months are closed one after the other
        #[arg(value_name = "YYYY-MM")]
        month: Month,
    },
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::List => list(&args.server, settings, format),
        Action::Close { month } => {
            let done = match args.server.client()? {
                Some(_) => change(month).submit(&args.server, settings, None)?,
                None => close_here(month, settings)?,
            };
            answer(format, &done, |done| format!("{month} is closed (position {})", done.position))
        }
    }
}

fn change(month: Month) -> Change {
    let resource = format!("/v1/periods/{month}");
    let (command, path) = (Command::ClosePeriod { month }, format!("{resource}:close"));
    Change { command, path, body: json!({}), resource }
}

/// On the data directory nobody ticks, so what a month still has to post is posted first.
fn close_here(month: Month, settings: &Resolved) -> Result<Done, Failure> {
    let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
    let handle = cell.handle();
    let submit = |command| handle.submit_blocking(Submission { command, key: None, at: None });
    let closed = (|| {
        for _ in 0..TICKS_MAX {
            let _ticked = submit(Command::Tick)?;
            if !handle.read_blocking(|state| state.has_lines_to_write())? {
                break;
            }
        }
        submit(Command::ClosePeriod { month })
    })();
    cell.close();
    let position = closed?.answer().position.number();
    Ok(Done { position, resource: format!("/v1/periods/{month}") })
}

fn list(server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let periods = match server.client()? {
        Some(client) => BookPeriods(rows_of(&client, "/v1/periods")?),
        None => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            BookPeriods(book_periods(&loaded.state, loaded.state.now()).collect())
        }
    };
    answer(format, &periods, |periods| {
        let it = periods.table();
        table(it.head, it.numbers, it.rows)
    })
}
