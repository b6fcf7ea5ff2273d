//! Stretches of the log by time: the book is written in the order of time, so a time names a position.

use hourglass_ledger::core::Position;
use hourglass_ledger::core::rows::TransferRow;
use hourglass_ledger::store::{Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError, TransferFilter};
use hourglass_units::Instant;

/// Events behind `after`, up to and with `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The position before the first event.
    pub after: Position,
    /// The last event.
    pub until: Position,
}

impl Span {
    /// All events up to a position.
    pub fn until(until: Position) -> Self {
        Self { after: Position::ZERO, until }
    }

    /// What happened from one time on and before another, of a log that ends at `head`.
    pub fn between(
        reader: &dyn Reader,
        head: Position,
        from: Option<Instant>,
        until: Option<Instant>,
    ) -> Result<Self, StoreError> {
        let position = |at: Option<Instant>| at.map(|at| last_before(reader, head, at)).transpose();
        Ok(Self { after: position(from)?.unwrap_or(Position::ZERO), until: position(until)?.unwrap_or(head) })
    }
}

/// The last event before a time; zero where all are later. Times in a log never go back, so few events are read
/// however long it is.
pub fn last_before(reader: &dyn Reader, head: Position, at: Instant) -> Result<Position, StoreError> {
    let (mut before, mut from) = (0, head.number().saturating_add(1));
    // Every event up to `before` is earlier, and every one from `from` on is not.
    while from.saturating_sub(before) > 1 {
        let middle = before.midpoint(from);
        let found = reader.events(Position::new(middle.saturating_sub(1)), 1)?;
        match found.first() {
            Some(event) if event.at < at => before = middle,
            _ => from = middle,
        }
    }
    Ok(Position::new(before))
}

/// Runs over the transfers of a span, in order, a page at a time.
pub fn each_transfer<E: From<StoreError>>(
    reader: &dyn Reader,
    filter: &TransferFilter,
    span: Span,
    mut then: impl FnMut(Keyed<TransferRow>) -> Result<(), E>,
) -> Result<(), E> {
    // The last row of a position is behind every other one of it.
    let mut after = RowKey { position: span.after, line: u32::MAX };
    loop {
        let rows = reader.transfers(filter, Page { after, until: span.until, limit: PAGE_ROWS_MAX })?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.key;
        rows.into_iter().try_for_each(&mut then)?;
    }
}
