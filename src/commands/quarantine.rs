//! `hourglass quarantine`: what came as usage and could not be used.

use std::path::PathBuf;

use hourglass_consumers::usage::quarantine::{
    Entry, FindError, Held, ReplayError, ReplayReport, find, replay,
};
use hourglass_ledger::core::Position;
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, RowKey};
use serde_json::json;

use crate::client::{Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer, log_progress, table};
use crate::wire;

/// What came as usage and could not be used.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Messages and records in quarantine, in order of the log
    List {
        /// Behind this position
        #[arg(long, default_value_t = 0, value_name = "POSITION")]
        after: u64,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=PAGE_ROWS_MAX as u64))]
        limit: u64,
    },
    /// One of them: why it is there, who sent it, what it is
    Show {
        /// Its log position
        position: u64,
        /// Write the message to this file, exactly as it came; `-` is stdout
        #[arg(long, value_name = "FILE")]
        original: Option<PathBuf>,
    },
    /// Take one in again, as after an upgrade that can read it. Doing it twice does nothing twice
    Replay {
        /// Its log position
        position: u64,
    },
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::List { after, limit } => list(settings, after, limit, format),
        Action::Show { position, original } => {
            let entry = find(wire::open_reader(settings)?.as_ref(), Position::new(position))?;
            match original {
                None => show(&entry, format),
                Some(path) if path.as_os_str() == "-" => output::raw(&entry.original),
                Some(path) => {
                    let failed =
                        |error| Failure::Unavailable(format!("cannot write {}: {error}", path.display()));
                    std::fs::write(&path, &entry.original).map_err(failed)
                }
            }
        }
        Action::Replay { position } => {
            let report = match args.server.client()? {
                Some(client) => {
                    client.post(&format!("/v1/quarantine/{position}:replay"), &json!({})).and_then(
                        |report| serde_json::from_value(report).map_err(|error| not_understood(&error)),
                    )?
                }
                None => replay_at(settings, Position::new(position))?,
            };
            answer(format, &report, told)
        }
    }
}

fn list(settings: &Resolved, after: u64, limit: u64, format: Format) -> Result<(), Failure> {
    // The last row of a position is behind every other one of it.
    let after = RowKey { position: Position::new(after), line: u32::MAX };
    let limit = usize::try_from(limit).unwrap_or(PAGE_ROWS_MAX);
    let page = Page { after, until: Position::new(u64::MAX), limit };
    let rows = wire::open_reader(settings)?.quarantine(page)?;
    let value: Vec<_> = rows
        .iter()
        .map(|it| {
            json!({
                "position": it.key.position.number(), "line": it.key.line, "record": it.row.record,
                "reason": it.row.reason,
            })
        })
        .collect();
    answer(format, &value, |_| {
        let rows = rows.iter().map(|it| {
            let what = it.row.record.map_or("message".to_owned(), |record| format!("record {record}"));
            vec![it.key.position.to_string(), what, it.row.reason.clone()]
        });
        table(&["position", "what", "reason"], &[0], rows)
    })
}

fn show(entry: &Entry, format: Format) -> Result<(), Failure> {
    let Entry { position, at, held, content_type, agent, original } = entry;
    let (reason, records) = match held {
        Held::Message(reason) => (Some(reason), [].as_slice()),
        Held::Records(records) => (None, records.as_slice()),
    };
    let value = json!({
        "position": position.number(), "at": at.to_string(), "reason": reason,
        "records": records.iter().map(|(record, reason)| json!({"record": record, "reason": reason})).collect::<Vec<_>>(),
        "content_type": content_type, "agent": agent, "bytes": original.len(),
    });
    answer(format, &value, |_| {
        let what = match reason {
            Some(reason) => format!("message: {reason}"),
            None => format!("{} records, the others were accepted", records.len()),
        };
        let agent = agent.as_ref().map_or("not known".to_owned(), ToString::to_string);
        let head = format!(
            "position {position}\nat       {at}\nwhat     {what}\nagent    {agent}\n\
             type     {content_type}\nbytes    {}",
            original.len()
        );
        let how =
            format!("hourglass quarantine show {position} --original FILE writes the message as it came");
        if records.is_empty() {
            return format!("{head}\n\n{how}");
        }
        let rows = records.iter().map(|(record, reason)| vec![record.to_string(), reason.clone()]);
        format!("{head}\n\n{}\n\n{how}", table(&["record", "reason"], &[0], rows))
    })
}

/// Writes, so it opens the ledger as its writer.
fn replay_at(settings: &Resolved, position: Position) -> Result<ReplayReport, Failure> {
    let cell = wire::writing_cell(settings, log_progress("reading the ledger"))?;
    let done = find(cell.handle().reader().as_ref(), position).map_err(Failure::from).and_then(|entry| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(replay(&cell.handle(), &entry))?)
    });
    cell.close();
    done
}

fn told(report: &ReplayReport) -> String {
    let mut lines: Vec<String> = report
        .batches
        .iter()
        .map(|it| {
            let when = if report.replayed { "an earlier replay logged" } else { "logged" };
            format!("{when} {} records of agent {} at position {}", it.records, it.agent_id, it.position)
        })
        .collect();
    if lines.is_empty() {
        lines.push("nothing more of it can be used than when it came".to_owned());
    }
    if !report.quarantined.is_empty() {
        lines.push(format!("{} records still cannot be used:", report.quarantined.len()));
        let rows = report.quarantined.iter().map(|it| vec![it.index.to_string(), it.reason.clone()]);
        lines.push(table(&["record", "reason"], &[0], rows));
    }
    lines.join("\n")
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Unknown(_) => Self::Rejected(error.to_string()),
            FindError::Store(_) | FindError::Event(..) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Unusable { .. } => Self::Rejected(error.to_string()),
            ReplayError::Cell(error) => error.into(),
        }
    }
}
