//! From the columns of a row to what the port speaks of: the same for every SQL engine.

use hourglass_units::{Hour, Instant, Price, Quantity};
use prost::bytes::Bytes;

use super::{Head, Keyed, Quarantined, RowKey, StoreError, StoredInvoice, UsageSum, exact_amount};
use crate::core::rows::{ChargeRow, TimelineRow, TransferRow, UnusedRow};
use crate::core::{Account, LifeStep, Position, TransferCode};
use crate::log::StoredEvent;
use crate::snapshot::Snapshot;

/// A row of an engine: its columns by name, in the four types that the tables use.
pub(super) trait Columns {
    /// A whole number; an error where it is NULL.
    fn int(&self, column: &str) -> Result<i64, StoreError>;
    /// A whole number, or NULL.
    fn maybe_int(&self, column: &str) -> Result<Option<i64>, StoreError>;
    /// Text, or NULL.
    fn maybe_text(&self, column: &str) -> Result<Option<String>, StoreError>;
    /// Bytes; an error where it is NULL.
    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError>;
}

/// What every engine's row does alike, and no trait of sqlx can say without a line for each type.
macro_rules! columns {
    ($row:ty) => {
        impl Columns for $row {
            fn int(&self, column: &str) -> Result<i64, StoreError> {
                sqlx::Row::try_get(self, column).map_err(|error| StoreError(error.to_string()))
            }
            fn maybe_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
                sqlx::Row::try_get(self, column).map_err(|error| StoreError(error.to_string()))
            }
            fn maybe_text(&self, column: &str) -> Result<Option<String>, StoreError> {
                sqlx::Row::try_get(self, column).map_err(|error| StoreError(error.to_string()))
            }
            fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
                sqlx::Row::try_get(self, column).map_err(|error| StoreError(error.to_string()))
            }
        }
    };
}

columns!(sqlx::sqlite::SqliteRow);
columns!(sqlx::postgres::PgRow);

pub(super) fn head(row: &impl Columns) -> Result<Head, StoreError> {
    Ok(Head {
        position: position(row, "position")?,
        hash: hash(row, "hash")?,
        epoch: unsigned(row, "epoch")?,
        holder: text(row, "holder")?,
        lease_until: instant(row, "lease_until")?,
    })
}

pub(super) fn event(row: &impl Columns) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        position: position(row, "position")?,
        epoch: unsigned(row, "epoch")?,
        // A number that is no kind's is found by the log's own check.
        kind: u8::try_from(row.int("kind")?).unwrap_or(u8::MAX),
        at: instant(row, "at")?,
        payload: Bytes::from(row.bytes("payload")?),
        hash: hash(row, "hash")?,
    })
}

/// The parts of one snapshot, in order; `None` where one is missing.
pub(super) fn snapshot(rows: &[impl Columns]) -> Result<Option<Snapshot>, StoreError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let expected = first.int("parts")?;
    let parts = rows.iter().map(|row| row.bytes("payload").map(Bytes::from));
    let parts = parts.collect::<Result<Vec<Bytes>, StoreError>>()?;
    let whole = i64::try_from(parts.len()).is_ok_and(|parts| parts == expected);
    let (position, format) = (position(first, "position")?, text(first, "format")?);
    Ok(whole.then_some(Snapshot { position, format, parts }))
}

pub(super) fn charge(row: &impl Columns) -> Result<Keyed<ChargeRow>, StoreError> {
    let charge = ChargeRow {
        tenant: parsed(row, "tenant")?,
        project: parsed(row, "project")?,
        instance: parsed(row, "instance")?,
        platform: parsed(row, "platform")?,
        region: parsed(row, "region")?,
        model: parsed(row, "model")?,
        reservation: row.maybe_text("reservation")?.map(|it| parse(&it, "reservation")).transpose()?,
        price: price(row, "price_nanos")?,
        effective_price: match row.maybe_int("effective_price_nanos")? {
            Some(nanos) => {
                Price::from_nanos(nanos).map_err(|error| wrong("effective_price_nanos", &error))?
            }
            None => price(row, "price_nanos")?,
        },
        hour: Hour::containing(instant(row, "hour")?),
        gpus: u32::try_from(row.int("gpus")?).map_err(|error| wrong("gpus", &error))?,
        milliseconds: row.int("milliseconds")?,
        quantity: Quantity::from_nanos(row.int("quantity_nanos")?),
        amount: exact_amount(&text(row, "amount")?)?,
        currency: parsed(row, "currency")?,
    };
    Ok(Keyed { key: row_key(row)?, row: charge })
}

/// An effective price as the tables hold it: NULL where it is the price.
pub(super) fn differing(effective: Price, price: Price) -> Option<i64> {
    (effective != price).then_some(effective.nanos())
}

pub(super) fn unused(row: &impl Columns) -> Result<Keyed<UnusedRow>, StoreError> {
    let unused = UnusedRow {
        tenant: parsed(row, "tenant")?,
        project: parsed(row, "project")?,
        reservation: parsed(row, "reservation")?,
        platform: parsed(row, "platform")?,
        region: parsed(row, "region")?,
        hour: Hour::containing(instant(row, "hour")?),
        quantity: Quantity::from_nanos(row.int("quantity_nanos")?),
        effective_price: price(row, "effective_price_nanos")?,
        effective_cost: exact_amount(&text(row, "effective_cost")?)?,
        currency: parsed(row, "currency")?,
    };
    Ok(Keyed { key: row_key(row)?, row: unused })
}

pub(super) fn usage_sum(row: &impl Columns) -> Result<UsageSum, StoreError> {
    let span = row.maybe_int("span")?;
    Ok(UsageSum {
        tenant: parsed(row, "tenant")?,
        project: parsed(row, "project")?,
        instance: row.maybe_text("instance_kept")?.map(|it| parse(&it, "instance_kept")).transpose()?,
        platform: parsed(row, "platform")?,
        region: parsed(row, "region")?,
        model: parsed(row, "model")?,
        price: price(row, "price_nanos")?,
        currency: parsed(row, "currency")?,
        span: span.map(|ms| Instant::from_unix_ms(ms).map_err(|error| wrong("span", &error))).transpose()?,
        gpu_ms: row.int("gpu_ms")?,
        quantity_nanos: row.int("quantity_nanos")?,
    })
}

pub(super) fn transfer(row: &impl Columns) -> Result<Keyed<TransferRow>, StoreError> {
    let code = text(row, "code")?;
    let known = TransferCode::ALL.into_iter().find(|known| known.as_str() == code);
    let transfer = TransferRow {
        tenant: parsed(row, "tenant")?,
        debit: parsed::<Account>(row, "debit")?,
        credit: parsed::<Account>(row, "credit")?,
        amount: exact_amount(&text(row, "amount")?)?,
        currency: parsed(row, "currency")?,
        code: known.ok_or_else(|| StoreError(format!("unknown transfer code {code:?}")))?,
        at: instant(row, "at")?,
        reverses: row.maybe_int("reverses")?.map(|at| Position::new(at.cast_unsigned())),
    };
    Ok(Keyed { key: row_key(row)?, row: transfer })
}

pub(super) fn timeline(row: &impl Columns) -> Result<Keyed<TimelineRow>, StoreError> {
    let step = text(row, "step")?;
    let known = LifeStep::ALL.iter().find(|known| known.as_str() == step).copied();
    let deadline = row.maybe_int("deadline")?;
    let timeline = TimelineRow {
        tenant: parsed(row, "tenant")?,
        instance: parsed(row, "instance")?,
        step: known.ok_or_else(|| StoreError(format!("unknown step {step:?}")))?,
        at: instant(row, "at")?,
        cause: row.maybe_text("cause")?,
        detail: row.maybe_text("detail")?,
        deadline: deadline
            .map(|ms| Instant::from_unix_ms(ms).map_err(|error| wrong("deadline", &error)))
            .transpose()?,
    };
    Ok(Keyed { key: row_key(row)?, row: timeline })
}

pub(super) fn invoice(row: &impl Columns) -> Result<Keyed<StoredInvoice>, StoreError> {
    let invoice = StoredInvoice {
        position: position(row, "position")?,
        tenant: parsed(row, "tenant")?,
        number: unsigned(row, "number")?,
        period: parsed(row, "period")?,
        document: Bytes::from(row.bytes("document")?),
    };
    Ok(Keyed { key: row_key(row)?, row: invoice })
}

pub(super) fn quarantined(row: &impl Columns) -> Result<Keyed<Quarantined>, StoreError> {
    let record = row.maybe_int("record")?.and_then(|record| u32::try_from(record).ok());
    Ok(Keyed { key: row_key(row)?, row: Quarantined { record, reason: text(row, "reason")? } })
}

pub(super) fn raw(row: &impl Columns) -> Result<Keyed<String>, StoreError> {
    Ok(Keyed { key: row_key(row)?, row: text(row, "row")? })
}

pub(super) fn position(row: &impl Columns, column: &str) -> Result<Position, StoreError> {
    unsigned(row, column).map(Position::new)
}

/// A position as the tables hold it.
pub(super) fn number(position: Position) -> i64 {
    i64::try_from(position.number()).unwrap_or(i64::MAX)
}

/// A limit as a statement takes it.
pub(super) fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Numbers the rows of one event.
pub(super) fn keyed<T>(position: i64, rows: &[T]) -> impl Iterator<Item = (i64, i64, &T)> {
    (0_i64..).zip(rows).map(move |(line, row)| (position, line, row))
}

fn wrong(column: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError(format!("column {column}: {error}"))
}

fn text(row: &impl Columns, column: &str) -> Result<String, StoreError> {
    row.maybe_text(column)?.ok_or_else(|| wrong(column, &"it is NULL"))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str, column: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| wrong(column, &error))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    row: &impl Columns,
    column: &str,
) -> Result<T, StoreError> {
    parse(&text(row, column)?, column)
}

fn unsigned(row: &impl Columns, column: &str) -> Result<u64, StoreError> {
    u64::try_from(row.int(column)?).map_err(|error| wrong(column, &error))
}

fn instant(row: &impl Columns, column: &str) -> Result<Instant, StoreError> {
    Instant::from_unix_ms(row.int(column)?).map_err(|error| wrong(column, &error))
}

fn price(row: &impl Columns, column: &str) -> Result<Price, StoreError> {
    Price::from_nanos(row.int(column)?).map_err(|error| wrong(column, &error))
}

fn hash(row: &impl Columns, column: &str) -> Result<blake3::Hash, StoreError> {
    blake3::Hash::from_slice(&row.bytes(column)?).map_err(|error| wrong(column, &error))
}

fn row_key(row: &impl Columns) -> Result<RowKey, StoreError> {
    let line = u32::try_from(row.int("line")?).map_err(|error| wrong("line", &error))?;
    Ok(RowKey { position: position(row, "position")?, line })
}
