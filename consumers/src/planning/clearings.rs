//! Clearings of a time, read from the log in order, each with how long it held.

use hourglass_ledger::core::Position;
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Interval};

use super::PlanError;
use crate::billing::market::{Logged, clearings_before};

/// Clearings that are read at once.
const AT_ONCE: usize = 16;
/// Most clearings that are read for a question.
pub const CLEARINGS_MAX: usize = 50_000;

/// A clearing, and while it held within the time that is asked for: until the next one. None where the next one
/// was at the same instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What was cleared.
    pub logged: Logged,
    /// While.
    pub within: Option<Interval>,
}

/// The clearings that held within a time, the one that held at its start first, as the log stood at a position.
/// More than `most` are an error.
pub struct Clearings<'a> {
    reader: &'a dyn Reader,
    within: Interval,
    until: Position,
    left: usize,
    most: usize,
    next: Option<Logged>,
    after: Position,
    read: std::vec::IntoIter<StoredEvent>,
}

impl<'a> Clearings<'a> {
    /// Looks for the first one.
    pub fn new(
        reader: &'a dyn Reader,
        within: Interval,
        until: Position,
        most: usize,
    ) -> Result<Self, PlanError> {
        let first = first_after(reader, within.start(), until)?;
        let next = clearings_before(reader, first).next().transpose()?;
        let after = next.as_ref().map_or(0, |logged| logged.position).max(first.saturating_sub(1));
        let read = Vec::new().into_iter();
        Ok(Self { reader, within, until, left: most, most, next, after: Position::new(after), read })
    }

    /// The next one in the log; `None` at the end of the time or of the log.
    fn following(&mut self) -> Result<Option<Logged>, PlanError> {
        let event = match self.read.next() {
            Some(event) => event,
            None => {
                self.read = self.reader.clearings(self.after, AT_ONCE)?.into_iter();
                let Some(event) = self.read.next() else { return Ok(None) };
                event
            }
        };
        self.after = event.position;
        if event.position > self.until || event.at >= self.within.end() {
            return Ok(None);
        }
        Ok(Logged::of(&event)?)
    }

    fn held(&mut self) -> Result<Option<Held>, PlanError> {
        let logged = match self.next.take() {
            Some(logged) => logged,
            None => match self.following()? {
                Some(logged) => logged,
                None => return Ok(None),
            },
        };
        self.left = self.left.checked_sub(1).ok_or(PlanError::TooManyClearings { most: self.most })?;
        self.next = self.following()?;
        let until = self.next.as_ref().map_or(self.within.end(), |next| next.at);
        let within = Interval::between(logged.at.max(self.within.start()), until);
        Ok(Some(Held { logged, within }))
    }
}

impl Iterator for Clearings<'_> {
    type Item = Result<Held, PlanError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.held().transpose()
    }
}

/// The position of the first clearing after an instant, or the one after `until` where there is none. Positions
/// and times rise together, so it is found by halves.
fn first_after(reader: &dyn Reader, at: Instant, until: Position) -> Result<u64, PlanError> {
    // All clearings up to `low` are at the instant or before; the first after `high` is later, or there is none.
    let (mut low, mut high) = (0, until.number());
    while low < high {
        let middle = low.midpoint(high);
        let found = reader.clearings(Position::new(middle), 1)?;
        match found.first().filter(|event| event.position <= until) {
            Some(event) if event.at <= at => low = event.position.number(),
            _ => high = middle,
        }
    }
    let found = reader.clearings(Position::new(low), 1)?;
    let first = found.first().map(|event| event.position.number()).filter(|first| *first <= until.number());
    Ok(first.unwrap_or_else(|| until.number().saturating_add(1)))
}
