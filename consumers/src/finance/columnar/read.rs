//! Reads a table back, row by row: for checking what was written.

use std::fs::File;
use std::path::Path;

use ::csv::ReaderBuilder;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use hourglass_units::{Amount, Instant};

use super::{Cell, Format, Kind, Schema};

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// It is not a table of this schema.
    #[error("{0}")]
    Table(String),
    /// Whoever takes the rows has had enough.
    #[error(transparent)]
    Taker(E),
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Null,
    Text(String),
    Decimal(i128),
    Integer(i64),
    Timestamp(Instant),
}

impl Value {
    fn cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Text(text) => Cell::Text(text),
            Self::Decimal(attos) => Cell::Decimal(*attos),
            Self::Integer(integer) => Cell::Integer(*integer),
            Self::Timestamp(at) => Cell::Timestamp(*at),
        }
    }
}

/// Reads a file and gives each of its rows to `take`, in order. Refuses any file whose columns are not
/// those of the schema. Says how many rows there were.
pub fn read_file<E>(
    schema: &Schema,
    format: Format,
    path: &Path,
    mut take: impl FnMut(&[Cell<'_>]) -> Result<(), E>,
) -> Result<u64, ReadError<E>> {
    let wrong = |error: &dyn std::fmt::Display| ReadError::Table(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name).collect();
    let mut rows = 0_u64;
    let mut give = |values: &[Value]| {
        rows = rows.saturating_add(1);
        let cells: Vec<Cell<'_>> = values.iter().map(Value::cell).collect();
        take(&cells).map_err(ReadError::Taker)
    };
    let mut values = Vec::with_capacity(names.len());
    match format {
        Format::Csv => {
            let mut reader = ReaderBuilder::new().from_reader(file);
            let head = reader.headers().map_err(|error| wrong(&error))?;
            if !head.iter().eq(names.iter().copied()) {
                return Err(wrong(&"its columns are others"));
            }
            let mut record = ::csv::StringRecord::new();
            while reader.read_record(&mut record).map_err(|error| wrong(&error))? {
                values.clear();
                for (column, text) in schema.columns.iter().zip(&record) {
                    let value = parse(column.kind, text);
                    values.push(value.ok_or_else(|| wrong(&format!("{}: {text:?}", column.name)))?);
                }
                give(&values)?;
            }
        }
        Format::Parquet => {
            let reader = SerializedFileReader::new(file).map_err(|error| wrong(&error))?;
            let head = reader.metadata().file_metadata().schema_descr();
            if !head.columns().iter().map(|column| column.name()).eq(names.iter().copied()) {
                return Err(wrong(&"its columns are others"));
            }
            for row in reader.get_row_iter(None).map_err(|error| wrong(&error))? {
                let row = row.map_err(|error| wrong(&error))?;
                values.clear();
                for (name, field) in row.get_column_iter() {
                    values.push(convert(field).ok_or_else(|| wrong(&format!("{name}: {field}")))?);
                }
                give(&values)?;
            }
        }
    }
    Ok(rows)
}

fn parse(kind: Kind, text: &str) -> Option<Value> {
    if text.is_empty() {
        return Some(Value::Null);
    }
    Some(match kind {
        Kind::Text | Kind::Json => Value::Text(text.to_owned()),
        Kind::Decimal => Value::Decimal(Amount::parse(text).ok()?.attos()),
        Kind::Integer => Value::Integer(text.parse().ok()?),
        Kind::Timestamp => Value::Timestamp(text.parse().ok()?),
    })
}

fn convert(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Str(text) => Value::Text(text.clone()),
        Field::Long(integer) => Value::Integer(*integer),
        Field::TimestampMillis(milliseconds) => Value::Timestamp(Instant::from_unix_ms(*milliseconds).ok()?),
        Field::Decimal(decimal) => Value::Decimal(i128::from_be_bytes(decimal.data().try_into().ok()?)),
        _ => return None,
    })
}
