//! What was written reads back, in both formats, and the same rows give the same bytes.

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use hourglass_units::{Amount, Instant, Price, Quantity};
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use super::{Cell, Column, Format, Kind, ROW_GROUP_ROWS_MAX, Schema, Table, TableError};

const COLUMNS: [Column; 6] = [
    Column::required("Id", Kind::Integer),
    Column::nullable("Name", Kind::Text),
    Column::nullable("Cost", Kind::Decimal),
    Column::required("Quantity", Kind::Decimal),
    Column::nullable("At", Kind::Timestamp),
    Column::nullable("Tags", Kind::Json),
];
static SCHEMA: Schema = Schema { name: "sample", columns: &COLUMNS };

fn write(rows: &[[Cell<'_>; 6]], format: Format) -> Vec<u8> {
    let mut table = Table::new(&SCHEMA, format, Vec::new()).unwrap();
    for row in rows {
        table.push(row).unwrap();
    }
    assert_eq!(table.rows(), rows.len() as u64);
    table.finish().unwrap()
}

fn at(text: &str) -> Instant {
    text.parse().unwrap()
}

fn sample() -> Vec<[Cell<'static>; 6]> {
    let price = Price::parse("2.95").unwrap();
    let quantity = Quantity::from_nanos(1_000_000_001);
    vec![
        [
            Cell::Integer(1),
            "acme, \"inc\"".into(),
            price.times(quantity).into(),
            quantity.into(),
            at("2026-01-01T00:00:00Z").into(),
            r#"{"team":"a"}"#.into(),
        ],
        [Cell::Integer(-2), Cell::Null, Cell::Null, price.into(), Cell::Null, Cell::Null],
        [
            Cell::Integer(3),
            "line\nbreak".into(),
            Amount::from_attos(-1).into(),
            Cell::Decimal(10_i128.pow(38) - 1),
            at("2026-01-01T00:00:00.250Z").into(),
            "[]".into(),
        ],
    ]
}

#[test]
fn csv_is_plain_and_exact() {
    let text = String::from_utf8(write(&sample(), Format::Csv)).unwrap();
    let expected = "Id,Name,Cost,Quantity,At,Tags\n\
        1,\"acme, \"\"inc\"\"\",2.95000000295,1.000000001,2026-01-01T00:00:00Z,\"{\"\"team\"\":\"\"a\"\"}\"\n\
        -2,,,2.95,,\n\
        3,\"line\nbreak\",-0.000000000000000001,99999999999999999999.999999999999999999,\
        2026-01-01T00:00:00.250Z,[]\n";
    assert_eq!(text, expected);
}

/// A cell as another reader of the file sees it, as text.
fn seen(field: &Field) -> String {
    match field {
        Field::Null => "null".to_owned(),
        Field::Long(integer) => integer.to_string(),
        Field::TimestampMillis(milliseconds) => Instant::from_unix_ms(*milliseconds).unwrap().to_string(),
        Field::Str(text) => text.clone(),
        Field::Decimal(decimal) => {
            assert_eq!((decimal.precision(), decimal.scale()), (38, 18));
            i128::from_be_bytes(decimal.data().try_into().unwrap()).to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn given(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Text(text) => (*text).to_owned(),
        Cell::Decimal(attos) => attos.to_string(),
        Cell::Integer(integer) => integer.to_string(),
        Cell::Timestamp(at) => at.to_string(),
    }
}

fn read(bytes: Vec<u8>) -> Vec<Vec<String>> {
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let rows = file.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().get_column_iter().map(|(_, field)| seen(field)).collect()).collect()
}

#[test]
fn parquet_reads_back_in_every_row_group() {
    let mut rows = sample();
    for id in 0..i64::try_from(ROW_GROUP_ROWS_MAX).unwrap() {
        let name = if id % 3 == 0 { Cell::Null } else { "same".into() };
        rows.push([id.into(), name, Cell::Decimal(id.into()), Cell::Decimal(7), Cell::Null, Cell::Null]);
    }
    let bytes = write(&rows, Format::Parquet);
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
    assert_eq!(file.metadata().num_row_groups(), 2);
    assert_eq!(file.metadata().file_metadata().created_by(), Some("hourglass"));
    let expected: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(given).collect()).collect();
    assert_eq!(read(bytes), expected);
}

#[test]
fn a_table_without_rows_is_a_table() {
    assert_eq!(write(&[], Format::Csv), b"Id,Name,Cost,Quantity,At,Tags\n");
    assert_eq!(read(write(&[], Format::Parquet)), Vec::<Vec<String>>::new());
}

#[test]
fn what_does_not_fit_its_column_is_refused_and_leaves_no_trace() {
    for format in [Format::Csv, Format::Parquet] {
        let mut table = Table::new(&SCHEMA, format, Vec::new()).unwrap();
        let good = [1_i64.into(), Cell::Null, Cell::Null, Cell::Decimal(0), Cell::Null, Cell::Null];
        let mut refused = |column: usize, cell: Cell<'static>, expected: &str| {
            let mut row = good;
            row[column] = cell;
            let error = table.push(&row).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(0, Cell::Null, "column Id must have a value");
        refused(3, Cell::Null, "column Quantity must have a value");
        refused(1, "".into(), "column Name was given an empty text");
        refused(1, 1_i64.into(), "column Name holds Text, and was given Integer(1)");
        refused(2, "2.95".into(), "column Cost holds Decimal");
        refused(2, Cell::Decimal(10_i128.pow(38)), "column Cost: a value is too large");
        refused(2, Cell::Decimal(i128::MIN), "column Cost: a value is too large");
        refused(4, 5_i64.into(), "column At holds Timestamp");
        assert!(matches!(table.push(&good[..5]), Err(TableError::Width { expected: 6, given: 5, .. })));
        table.push(&good).unwrap();
        assert_eq!(table.finish().unwrap(), write(&[good], format));
    }
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[ -~äß\"\n,]{1,12}")
}

proptest! {
    /// Both formats say the same of any rows, and say it in the same bytes the second time.
    #[test]
    fn both_formats_hold_what_was_given(
        rows in proptest::collection::vec(
            (any::<i64>(), text(), proptest::option::of(any::<i64>()), any::<i128>(), 0_i64..9_999_999_999_999),
            0..40,
        )
    ) {
        let rows: Vec<[Cell<'_>; 6]> = rows
            .iter()
            .map(|(id, name, cost, quantity, at)| {
                let cost = cost.map_or(Cell::Null, |cost| Cell::Decimal(cost.into()));
                let at = Instant::from_unix_ms(*at).unwrap();
                let name = name.as_deref().into();
                [Cell::Integer(*id), name, cost, Cell::Decimal(quantity >> 8), at.into(), Cell::Null]
            })
            .collect();
        let expected: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(given).collect()).collect();
        let parquet = write(&rows, Format::Parquet);
        prop_assert_eq!(&write(&rows, Format::Parquet), &parquet);
        prop_assert_eq!(read(parquet), expected);
        let csv = write(&rows, Format::Csv);
        let mut reader = csv::Reader::from_reader(csv.as_slice());
        for (row, record) in rows.iter().zip(reader.records()) {
            let record = record.unwrap();
            for (cell, field) in row.iter().zip(&record) {
                let expected = match cell {
                    Cell::Null => String::new(),
                    Cell::Decimal(attos) => {
                        prop_assert_eq!(Amount::parse(field).unwrap().attos(), *attos);
                        continue;
                    }
                    other => given(other),
                };
                prop_assert_eq!(field, expected);
            }
        }
    }
}
