//! What people and programs see: answers on stdout, everything else on stderr.

use std::io::{self, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent};
use hourglass_ledger::core::Position;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tables and sentences.
    People,
    /// One JSON document.
    Json,
}

/// Writes a line to stdout. A reader that went away is no failure of ours.
pub fn line(text: &str) -> Result<(), Failure> {
    raw(format!("{text}\n").as_bytes())
}

/// Writes bytes to stdout as they are.
pub fn raw(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Answers with a value: as JSON, or as `people` makes it.
pub fn answer<T: Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    match format {
        Format::People => line(people(value).trim_end()),
        Format::Json => {
            let json = serde_json::to_string_pretty(value)
                .map_err(|error| Failure::Unavailable(error.to_string()))?;
            line(&json)
        }
    }
}

/// A table of texts; the columns that `right` names are numbers.
pub fn table(head: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .remove_style(TableComponent::HorizontalLines)
        .remove_style(TableComponent::MiddleIntersections)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// A progress bar on stderr, where that is a terminal.
pub fn progress(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:28} {bar:40} {percent:>3}% {elapsed} (about {eta} left)");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}

/// A progress bar over positions of the log.
pub fn log_progress(what: &'static str) -> impl FnMut(Position, Position) {
    let bar = progress(what);
    move |at, end| {
        bar.set_length(end.number());
        bar.set_position(at.number());
        if at >= end {
            bar.finish_and_clear();
        }
    }
}
