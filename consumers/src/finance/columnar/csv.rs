//! A table as CSV.

use std::io::{self, Write};

use hourglass_units::Instant;

use super::{Cell, Schema, TableError, decimal};

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct CsvTable<W: Write> {
    writer: csv::Writer<W>,
    /// Where numbers become text.
    scratch: Vec<u8>,
    /// The last instant written, and its text: neighbouring rows and columns share most of them.
    instant: (Option<Instant>, String),
}

impl<W: Write> CsvTable<W> {
    pub(super) fn new(schema: &Schema, out: W) -> Result<Self, TableError> {
        let mut writer = csv::WriterBuilder::new().buffer_capacity(BUFFER_BYTES).from_writer(out);
        writer.write_record(schema.columns.iter().map(|column| column.name)).map_err(io::Error::from)?;
        Ok(Self { writer, scratch: Vec::with_capacity(64), instant: (None, String::new()) })
    }

    pub(super) fn push(&mut self, cells: &[Cell<'_>]) -> Result<(), TableError> {
        for cell in cells {
            self.field(*cell).map_err(io::Error::from)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(io::Error::from)?;
        Ok(())
    }

    fn field(&mut self, cell: Cell<'_>) -> csv::Result<()> {
        match cell {
            Cell::Null => self.writer.write_field(""),
            Cell::Text(text) => self.writer.write_field(text),
            Cell::Decimal(attos) => {
                self.scratch.clear();
                decimal::write(&mut self.scratch, attos);
                self.writer.write_field(&self.scratch)
            }
            Cell::Integer(integer) => {
                self.scratch.clear();
                write!(self.scratch, "{integer}")?;
                self.writer.write_field(&self.scratch)
            }
            Cell::Timestamp(at) => {
                if self.instant.0 != Some(at) {
                    self.instant = (Some(at), at.to_string());
                }
                self.writer.write_field(&self.instant.1)
            }
        }
    }

    pub(super) fn finish(self) -> Result<W, TableError> {
        // Fails only where flushing does.
        Ok(self
            .writer
            .into_inner()
            .map_err(|error| io::Error::new(error.error().kind(), error.to_string()))?)
    }
}
