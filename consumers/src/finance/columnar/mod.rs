//! Tables of typed columns, written row by row to CSV or to Parquet.
//!
//! What finance and planning export is a table whose columns are known in advance. A [`Schema`] names
//! them, a [`Table`] takes rows of [`Cell`]s and checks each against its column, and the same rows give
//! the same bytes on any machine and at any time.
//!
//! | kind | in CSV | in Parquet |
//! |---|---|---|
//! | [`Kind::Text`] | as it is | `STRING` |
//! | [`Kind::Json`] | one JSON value | `STRING` |
//! | [`Kind::Decimal`] | exact, with a point and at least one digit after it | `DECIMAL(38, 18)`, exact |
//! | [`Kind::Integer`] | digits | `INT64` |
//! | [`Kind::Timestamp`] | RFC 3339 in UTC | `TIMESTAMP(MILLIS, UTC)` |
//! | null | an empty field | null |
//!
//! An empty text and no value cannot be told apart in CSV, so an empty text is refused.
//!
//! Memory is bounded: CSV holds one row, Parquet one row group of [`ROW_GROUP_ROWS_MAX`] rows and
//! about [`ROW_GROUP_BYTES_MAX`] bytes.

mod csv;
mod decimal;
mod parquet;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use hourglass_units::{Amount, Instant, Price, Quantity};

pub use read::{ReadError, read_file};

use self::csv::CsvTable;
use self::parquet::ParquetTable;

/// Most rows that a row group of a Parquet file holds.
pub const ROW_GROUP_ROWS_MAX: usize = 65_536;
/// How many bytes of text and numbers a row group gathers before it is written, rows or not.
pub const ROW_GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes of one cell.
pub const CELL_BYTES_MAX: usize = 1024 * 1024;
/// Digits after the point of a decimal.
pub const DECIMAL_FRACTION_DIGITS: u32 = 18;
/// Most digits of a decimal, before and after the point.
pub const DECIMAL_DIGITS_MAX: u32 = 38;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Characters, never none.
    Text,
    /// One JSON value as text: a map of tags, say.
    Json,
    /// An exact number with [`DECIMAL_FRACTION_DIGITS`] digits after the point.
    Decimal,
    /// A whole number.
    Integer,
    /// A millisecond of UTC.
    Timestamp,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the first row of a CSV file has it.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether a row may have no value here.
    pub nullable: bool,
}

impl Column {
    /// A column in which every row has a value.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: false }
    }

    /// A column in which a row may have no value.
    pub const fn nullable(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: true }
    }
}

/// A table's name and its columns, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Names the root of a Parquet schema.
    pub name: &'static str,
    /// In the order of the cells of a row.
    pub columns: &'static [Column],
}

/// A value of a row. Text is borrowed: the table copies what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// For [`Kind::Text`] and [`Kind::Json`].
    Text(&'a str),
    /// For [`Kind::Decimal`], in units of 1e-18.
    Decimal(i128),
    /// For [`Kind::Integer`].
    Integer(i64),
    /// For [`Kind::Timestamp`].
    Timestamp(Instant),
}

impl From<Amount> for Cell<'_> {
    fn from(amount: Amount) -> Self {
        Self::Decimal(amount.attos())
    }
}

impl From<Price> for Cell<'_> {
    fn from(price: Price) -> Self {
        Self::Decimal(i128::from(price.nanos()).saturating_mul(ATTOS_PER_NANO))
    }
}

impl From<Quantity> for Cell<'_> {
    fn from(quantity: Quantity) -> Self {
        Self::Decimal(i128::from(quantity.nanos()).saturating_mul(ATTOS_PER_NANO))
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell<'_> {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<Instant> for Cell<'_> {
    fn from(at: Instant) -> Self {
        Self::Timestamp(at)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

/// Prices and quantities have 9 digits after the point; what remains to 18 never overflows an `i128`.
const ATTOS_PER_NANO: i128 = 1_000_000_000;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// RFC 4180, with a row of names, in UTF-8, lines ended by a line feed.
    Csv,
    /// Apache Parquet, compressed by Snappy.
    Parquet,
}

impl Format {
    /// `csv` or `parquet`; also what file names end with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        match text {
            "csv" => Ok(Self::Csv),
            "parquet" => Ok(Self::Parquet),
            _ => Err(TableError::UnknownFormat(text.chars().take(16).collect())),
        }
    }
}

/// Why a table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The output cannot be written.
    #[error("cannot write the table: {0}")]
    Write(#[from] std::io::Error),
    /// The Parquet writer refuses.
    #[error("cannot write Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// Not as many cells as columns.
    #[error("a row of {given} cells for the {expected} columns of {table}")]
    Width {
        /// The table.
        table: &'static str,
        /// Its columns.
        expected: usize,
        /// The cells given.
        given: usize,
    },
    /// A cell of another kind than its column.
    #[error("column {column} holds {expected:?}, and was given {given}")]
    Kind {
        /// The column.
        column: &'static str,
        /// What it holds.
        expected: Kind,
        /// What it was given, cut to a printable length.
        given: String,
    },
    /// No value in a column that needs one.
    #[error("column {column} must have a value in every row")]
    Null {
        /// The column.
        column: &'static str,
    },
    /// An empty text, which CSV cannot tell from no value.
    #[error("column {column} was given an empty text: give no value instead")]
    Empty {
        /// The column.
        column: &'static str,
    },
    /// A number of more than [`DECIMAL_DIGITS_MAX`] digits, or a text above [`CELL_BYTES_MAX`].
    #[error("column {column}: a value is too large (at most 38 digits, or 1 MiB of text)")]
    TooLarge {
        /// The column.
        column: &'static str,
    },
    /// Neither CSV nor Parquet.
    #[error("{0:?} is no format: use csv or parquet")]
    UnknownFormat(String),
}

/// A table that is being written.
pub struct Table<W: Write + Send> {
    schema: &'static Schema,
    rows: u64,
    writer: Writer<W>,
}

enum Writer<W: Write + Send> {
    Csv(Box<CsvTable<W>>),
    Parquet(Box<ParquetTable<W>>),
}

impl<W: Write + Send> Table<W> {
    /// Begins a table; for CSV, writes the row of names.
    pub fn new(schema: &'static Schema, format: Format, out: W) -> Result<Self, TableError> {
        let writer = match format {
            Format::Csv => Writer::Csv(Box::new(CsvTable::new(schema, out)?)),
            Format::Parquet => Writer::Parquet(Box::new(ParquetTable::new(schema, out)?)),
        };
        Ok(Self { schema, rows: 0, writer })
    }

    /// Adds a row: one cell for each column, in order. A row that is refused leaves no trace.
    pub fn push(&mut self, cells: &[Cell<'_>]) -> Result<(), TableError> {
        let columns = self.schema.columns;
        if cells.len() != columns.len() {
            return Err(TableError::Width {
                table: self.schema.name,
                expected: columns.len(),
                given: cells.len(),
            });
        }
        for (column, cell) in columns.iter().zip(cells) {
            check(column, cell)?;
        }
        match &mut self.writer {
            Writer::Csv(table) => table.push(cells)?,
            Writer::Parquet(table) => table.push(cells)?,
        }
        self.rows = self.rows.saturating_add(1);
        Ok(())
    }

    /// Rows so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that are gathered for the next row group; none for CSV.
    pub fn buffered_bytes(&self) -> usize {
        match &self.writer {
            Writer::Csv(_) => 0,
            Writer::Parquet(table) => table.buffered_bytes(),
        }
    }

    /// Writes the row group that is being gathered, so that whoever writes many tables at once keeps
    /// little of each.
    pub fn end_group(&mut self) -> Result<(), TableError> {
        match &mut self.writer {
            Writer::Csv(_) => Ok(()),
            Writer::Parquet(table) => table.write_group(),
        }
    }

    /// Writes what is left, and gives back what was written to.
    pub fn finish(self) -> Result<W, TableError> {
        match self.writer {
            Writer::Csv(table) => table.finish(),
            Writer::Parquet(table) => table.finish(),
        }
    }
}

fn check(column: &Column, cell: &Cell<'_>) -> Result<(), TableError> {
    let name = column.name;
    match (column.kind, cell) {
        (_, Cell::Null) if column.nullable => Ok(()),
        (_, Cell::Null) => Err(TableError::Null { column: name }),
        (Kind::Text | Kind::Json, Cell::Text("")) => Err(TableError::Empty { column: name }),
        (Kind::Text | Kind::Json, Cell::Text(text)) if text.len() > CELL_BYTES_MAX => {
            Err(TableError::TooLarge { column: name })
        }
        (Kind::Decimal, Cell::Decimal(attos)) if attos.unsigned_abs() >= DECIMAL_END => {
            Err(TableError::TooLarge { column: name })
        }
        (Kind::Text | Kind::Json, Cell::Text(_))
        | (Kind::Decimal, Cell::Decimal(_))
        | (Kind::Integer, Cell::Integer(_))
        | (Kind::Timestamp, Cell::Timestamp(_)) => Ok(()),
        (expected, given) => Err(TableError::Kind {
            column: name,
            expected,
            given: format!("{given:?}").chars().take(48).collect(),
        }),
    }
}

/// The first number of more than [`DECIMAL_DIGITS_MAX`] digits.
const DECIMAL_END: u128 = 10_u128.pow(DECIMAL_DIGITS_MAX);
