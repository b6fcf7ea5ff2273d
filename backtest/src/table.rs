//! CSV whose errors say where: the line, and the column by its name.

use std::fmt::Display;

use csv::{Reader, StringRecord};

use crate::error::BacktestError;

/// A table that is read row by row.
pub(crate) struct Table<'a> {
    reader: Reader<&'a [u8]>,
    head: StringRecord,
    row: StringRecord,
}

/// A column: its name, and where it is.
pub(crate) struct Column {
    name: &'static str,
    at: Option<usize>,
}

/// One row.
pub(crate) struct Row<'a> {
    /// Line of the file, from 1.
    pub(crate) line: u64,
    record: &'a StringRecord,
}

impl<'a> Table<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, BacktestError> {
        let mut builder = csv::ReaderBuilder::new();
        let mut reader = builder.trim(csv::Trim::All).from_reader(text.as_bytes());
        let head = reader.headers().map_err(|error| row_error(&error))?.clone();
        Ok(Self { reader, head, row: StringRecord::new() })
    }

    /// A column that may be missing.
    pub(crate) fn column(&self, name: &'static str) -> Column {
        Column { name, at: self.head.iter().position(|it| it == name) }
    }

    /// A column that may not.
    pub(crate) fn require(&self, name: &'static str) -> Result<Column, BacktestError> {
        let column = self.column(name);
        let no_column = || BacktestError::NoColumn { column: name.to_owned() };
        column.at.is_some().then_some(column).ok_or_else(no_column)
    }

    pub(crate) fn next_row(&mut self) -> Result<Option<Row<'_>>, BacktestError> {
        let is_there = self.reader.read_record(&mut self.row).map_err(|error| row_error(&error))?;
        let line = self.row.position().map_or(0, csv::Position::line);
        Ok(is_there.then_some(Row { line, record: &self.row }))
    }
}

impl Row<'_> {
    /// What a column says. `None` without the column, or if it says nothing.
    pub(crate) fn text(&self, column: &Column) -> Option<&str> {
        column.at.and_then(|at| self.record.get(at)).filter(|text| !text.is_empty())
    }

    /// Something wrong in a column.
    pub(crate) fn wrong(&self, column: &Column, what: impl Display) -> BacktestError {
        BacktestError::Cell { line: self.line, column: column.name.to_owned(), what: what.to_string() }
    }

    /// A value that may be missing.
    pub(crate) fn parse_if_there<T, E: Display>(
        &self,
        column: &Column,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, BacktestError> {
        self.text(column).map(parse).transpose().map_err(|error| self.wrong(column, error))
    }

    /// A value that may not.
    pub(crate) fn parse_as<T, E: Display>(
        &self,
        column: &Column,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, BacktestError> {
        self.parse_if_there(column, parse)?.ok_or_else(|| self.wrong(column, "it is empty: give a value"))
    }

    /// A whole number within bounds, which may be missing.
    pub(crate) fn number_if_there(
        &self,
        column: &Column,
        (least, most): (u64, u64),
    ) -> Result<Option<u64>, BacktestError> {
        self.parse_if_there(column, |text| {
            let number = text.parse().ok().filter(|number| (least..=most).contains(number));
            number.ok_or_else(|| format!("{text:?} is no whole number from {least} to {most}"))
        })
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, column: &Column, bounds: (u64, u64)) -> Result<u64, BacktestError> {
        let number = self.number_if_there(column, bounds)?;
        number.ok_or_else(|| self.wrong(column, "it is empty: give a whole number"))
    }
}

fn row_error(error: &csv::Error) -> BacktestError {
    let line = error.position().map_or(1, csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} values, and the first line names {expected_len} columns")
        }
        _ => error.to_string(),
    };
    BacktestError::Row { line, what }
}
