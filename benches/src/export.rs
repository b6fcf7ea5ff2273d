//! The FOCUS export of a month, from rows in SQLite to files: what a person or a schedule starts.

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use hourglass_consumers::finance::columnar::Format;
use hourglass_consumers::finance::focus::{Order, PROVIDER_DEFAULT, Wanted, write_runs};
use hourglass_consumers::finance::run::Archive;
use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::load::{From, load};
use hourglass_ledger::store::Store;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use parquet::basic::Compression;
use parquet::column::reader::ColumnReader;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;

use crate::figure::{Figure, median, seconds};
use crate::pricing::{Writer, month_with_rows};

/// Hours of the month.
const HOURS: usize = 720;
const REPEATS: usize = 3;

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let instances = if quick { 140 } else { 1_400 };
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).expect("a store");
    let mut writer = Writer::new(&mut store);
    let mut lines = 0_usize;
    month_with_rows(instances, |at, recorded, rows: EventRows| {
        lines += rows.charges.len();
        writer.write_with_rows(at, recorded, rows);
    });
    writer.flush();
    assert!(lines >= instances * (HOURS - 1), "every closed hour has a row");
    let reader = store.reader();
    let loaded = load(reader.as_ref(), From::Start, |_, _| {}).expect("the ledger");
    let mut figures = Vec::new();
    for (format, name, target) in [
        (Format::Parquet, "FOCUS export to Parquet", ">= 300 k rows/s"),
        (Format::Csv, "FOCUS export to CSV", ">= 200 k rows/s"),
    ] {
        let order = Order { format, wanted: Wanted::Only(january()), provider: PROVIDER_DEFAULT.to_owned() };
        let (mut rates, mut ceilings, mut peak) = (Vec::new(), Vec::new(), 0);
        for _ in 0..REPEATS {
            let out = tempfile::tempdir().expect("a directory");
            let before = forget_peak();
            let (took, sealed) = seconds(|| {
                let archive = Archive::open(out.path()).expect("a directory of our own");
                write_runs(&archive, reader.as_ref(), &loaded, &order, &mut |_| {}).expect("an export")
            });
            peak = peak_bytes().saturating_sub(before).max(peak);
            let manifest = sealed.first().expect("a run").manifest();
            let rows = manifest.files.iter().map(|file| file.rows).sum::<u64>();
            rates.push(rows as f64 / took);
            let run = format!("BILLING_PERIOD={}/run={}", manifest.subject.period, manifest.run);
            let file = out.path().join(run).join(format!("cost_and_usage.{format}"));
            ceilings.push(match format {
                Format::Csv => raw_csv(&file),
                Format::Parquet => raw_parquet(&file),
            });
        }
        eprintln!("  {name}: {lines} lines, at most {} MiB more than before", peak >> 20);
        figures.push(Figure {
            name,
            value: median(rates),
            unit: "rows/s",
            ceiling: Some(median(ceilings)),
            target,
        });
        figures.push(Figure {
            name: if format == Format::Csv { "memory of that" } else { "memory of the Parquet export" },
            value: peak as f64 / (1 << 20) as f64,
            unit: "MiB",
            ceiling: None,
            target: "< 256 MiB, whatever the size",
        });
    }
    figures
}

fn january() -> BTreeSet<hourglass_units::Month> {
    BTreeSet::from(["2026-01".parse().expect("a month")])
}

/// Rows a second of the csv crate alone: the same fields, as text already.
fn raw_csv(file: &Path) -> f64 {
    let mut records = Vec::new();
    let mut reader = csv::Reader::from_path(file).expect("the export");
    for record in reader.byte_records().take(100_000) {
        records.push(record.expect("a record"));
    }
    let out = tempfile::tempfile().expect("a file");
    let (took, ()) = seconds(|| {
        let mut writer = csv::Writer::from_writer(BufWriter::new(out));
        for record in &records {
            writer.write_byte_record(record).expect("a record");
        }
        writer.flush().expect("a file");
    });
    records.len() as f64 / took
}

/// The values of a column chunk.
enum Chunk {
    Bytes(Vec<ByteArray>, Vec<i16>),
    Fixed(Vec<FixedLenByteArray>, Vec<i16>),
    Integers(Vec<i64>, Vec<i16>),
}

/// Rows a second of the parquet crate alone: the first row group again, column by column.
fn raw_parquet(file: &Path) -> f64 {
    let reader = SerializedFileReader::new(std::fs::File::open(file).expect("the export")).expect("Parquet");
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let group = reader.get_row_group(0).expect("a row group");
    let rows = usize::try_from(group.metadata().num_rows()).expect("a number of rows");
    let columns = group.num_columns();
    let chunks: Vec<Chunk> = (0..columns)
        .map(|column| {
            let mut levels = Vec::new();
            match group.get_column_reader(column).expect("a column") {
                ColumnReader::ByteArrayColumnReader(mut reader) => {
                    let mut values = Vec::new();
                    reader.read_records(rows, Some(&mut levels), None, &mut values).expect("values");
                    Chunk::Bytes(values, levels)
                }
                ColumnReader::FixedLenByteArrayColumnReader(mut reader) => {
                    let mut values = Vec::new();
                    reader.read_records(rows, Some(&mut levels), None, &mut values).expect("values");
                    Chunk::Fixed(values, levels)
                }
                ColumnReader::Int64ColumnReader(mut reader) => {
                    let mut values = Vec::new();
                    reader.read_records(rows, Some(&mut levels), None, &mut values).expect("values");
                    Chunk::Integers(values, levels)
                }
                _ => unreachable!("a column of a type that exports do not have"),
            }
        })
        .collect();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let out = tempfile::tempfile().expect("a file");
    let (took, ()) = seconds(|| {
        let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).expect("a writer");
        let mut group = writer.next_row_group().expect("a row group");
        for chunk in &chunks {
            let mut column = group.next_column().expect("a column").expect("a column");
            let levels = |levels: &'_ [i16]| (!levels.is_empty()).then(|| levels.to_vec());
            match (column.untyped(), chunk) {
                (ColumnWriter::ByteArrayColumnWriter(writer), Chunk::Bytes(values, defined)) => {
                    writer.write_batch(values, levels(defined).as_deref(), None).expect("values");
                }
                (ColumnWriter::FixedLenByteArrayColumnWriter(writer), Chunk::Fixed(values, defined)) => {
                    writer.write_batch(values, levels(defined).as_deref(), None).expect("values");
                }
                (ColumnWriter::Int64ColumnWriter(writer), Chunk::Integers(values, defined)) => {
                    writer.write_batch(values, levels(defined).as_deref(), None).expect("values");
                }
                _ => unreachable!("another type than was read"),
            }
            column.close().expect("a column");
        }
        group.close().expect("a row group");
        writer.close().expect("a file");
    });
    rows as f64 / took
}

/// Makes the kernel forget the most that this process had in use, and says what it has now.
fn forget_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("a Linux kernel");
    peak_bytes()
}

/// The most that this process had in use since then.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux kernel");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
