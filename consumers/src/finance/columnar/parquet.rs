//! A table as Parquet, by the column writers of the `parquet` crate.

use std::io::Write;
use std::mem;
use std::sync::Arc;

use hourglass_units::Instant;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};

use super::{
    Cell, Column, DECIMAL_DIGITS_MAX, DECIMAL_FRACTION_DIGITS, Kind, ROW_GROUP_BYTES_MAX, ROW_GROUP_ROWS_MAX,
    Schema, TableError,
};

/// Who wrote the file. Fixed, so that an update of a library does not change the bytes of a past month.
const CREATED_BY: &str = "hourglass";
/// A decimal of 38 digits, big-endian.
const DECIMAL_BYTES: usize = 16;

pub(super) struct ParquetTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> ParquetTable<W> {
    pub(super) fn new(schema: &Schema, out: W) -> Result<Self, TableError> {
        let fields = schema.columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        let root = Type::group_type_builder(schema.name).with_fields(fields).build()?;
        let properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .build();
        Ok(Self {
            writer: SerializedFileWriter::new(out, Arc::new(root), Arc::new(properties))?,
            columns: schema.columns.iter().map(Buffer::new).collect(),
            rows: 0,
            bytes: 0,
        })
    }

    pub(super) fn push(&mut self, cells: &[Cell<'_>]) -> Result<(), TableError> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            self.bytes = self.bytes.saturating_add(column.push(*cell));
        }
        self.rows = self.rows.saturating_add(1);
        if self.rows >= ROW_GROUP_ROWS_MAX || self.bytes >= ROW_GROUP_BYTES_MAX {
            self.write_group()?;
        }
        Ok(())
    }

    /// Bytes gathered and not written yet.
    pub(super) const fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn write_group(&mut self) -> Result<(), TableError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let mut writer = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("fewer columns than the schema has".to_owned()))?;
            column.drain(writer.untyped())?;
            writer.close()?;
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<W, TableError> {
        self.write_group()?;
        Ok(self.writer.into_inner()?)
    }
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let repetition = if column.nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    let digits = |digits: u32| i32::try_from(digits).unwrap_or(i32::MAX);
    let (physical, logical) = match column.kind {
        // JSON is marked as text: readers that know the JSON type give back a value of their own, which
        // those who look for the text that FOCUS asks for do not take.
        Kind::Text | Kind::Json => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Decimal => (
            Physical::FIXED_LEN_BYTE_ARRAY,
            Some(LogicalType::decimal(digits(DECIMAL_FRACTION_DIGITS), digits(DECIMAL_DIGITS_MAX))),
        ),
        Kind::Integer => (Physical::INT64, None),
        Kind::Timestamp => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MILLIS))),
    };
    let mut builder = Type::primitive_type_builder(column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical);
    if column.kind == Kind::Decimal {
        builder = builder
            .with_length(i32::try_from(DECIMAL_BYTES).unwrap_or(i32::MAX))
            .with_precision(digits(DECIMAL_DIGITS_MAX))
            .with_scale(digits(DECIMAL_FRACTION_DIGITS));
    }
    Ok(Arc::new(builder.build()?))
}

/// The values of a column in the row group that is being gathered.
struct Buffer {
    nullable: bool,
    /// 1 where there is a value; empty for a column that always has one.
    defined: Vec<i16>,
    values: Values,
}

enum Values {
    /// All texts in a row, and where each begins and ends. A text that repeats the one before it, as most
    /// do, is not stored again.
    Text { bytes: Vec<u8>, spans: Vec<(u32, u32)> },
    /// 16 bytes each.
    Decimals { bytes: Vec<u8> },
    /// Whole numbers, and milliseconds.
    Integers(Vec<i64>),
}

impl Buffer {
    fn new(column: &Column) -> Self {
        let values = match column.kind {
            Kind::Text | Kind::Json => Values::Text { bytes: Vec::new(), spans: Vec::new() },
            Kind::Decimal => Values::Decimals { bytes: Vec::new() },
            Kind::Integer | Kind::Timestamp => Values::Integers(Vec::new()),
        };
        Self { nullable: column.nullable, defined: Vec::new(), values }
    }

    /// Takes a cell that was checked against the column; says how many bytes it took.
    fn push(&mut self, cell: Cell<'_>) -> usize {
        if self.nullable {
            self.defined.push(i16::from(cell != Cell::Null));
        }
        match (&mut self.values, cell) {
            (Values::Text { bytes, spans }, Cell::Text(text)) => {
                const SPAN_BYTES: usize = mem::size_of::<(u32, u32)>();
                if let Some((start, end)) = spans.last().copied()
                    && bytes.get(start as usize..end as usize) == Some(text.as_bytes())
                {
                    spans.push((start, end));
                    return SPAN_BYTES;
                }
                // A group ends long before its texts are 4 GiB.
                let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                let start = place(bytes.len());
                bytes.extend_from_slice(text.as_bytes());
                spans.push((start, place(bytes.len())));
                text.len().saturating_add(SPAN_BYTES)
            }
            (Values::Decimals { bytes }, Cell::Decimal(attos)) => {
                bytes.extend_from_slice(&attos.to_be_bytes());
                DECIMAL_BYTES
            }
            (Values::Integers(integers), Cell::Integer(integer)) => {
                integers.push(integer);
                mem::size_of::<i64>()
            }
            (Values::Integers(integers), Cell::Timestamp(at)) => {
                integers.push(Instant::unix_ms(at));
                mem::size_of::<i64>()
            }
            _ => 0,
        }
    }

    /// Writes the values as a column chunk and forgets them.
    fn drain(&mut self, writer: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
        let defined = self.nullable.then_some(self.defined.as_slice());
        match (&mut self.values, writer) {
            (Values::Text { bytes, spans }, ColumnWriter::ByteArrayColumnWriter(writer)) => {
                let all = ByteArray::from(mem::take(bytes));
                let spans = mem::take(spans).into_iter();
                let values: Vec<ByteArray> = spans
                    .map(|(start, end)| all.slice(start as usize, end.saturating_sub(start) as usize))
                    .collect();
                writer.write_batch(&values, defined, None)?;
            }
            (Values::Decimals { bytes }, ColumnWriter::FixedLenByteArrayColumnWriter(writer)) => {
                let count = bytes.len() / DECIMAL_BYTES;
                let all = ByteArray::from(mem::take(bytes));
                let values: Vec<FixedLenByteArray> = (0..count)
                    .map(|at| all.slice(at.saturating_mul(DECIMAL_BYTES), DECIMAL_BYTES).into())
                    .collect();
                writer.write_batch(&values, defined, None)?;
            }
            (Values::Integers(integers), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(&mem::take(integers), defined, None)?;
            }
            _ => return Err(ParquetError::General("a column writer of another type".to_owned())),
        }
        self.defined = Vec::new();
        Ok(())
    }
}
