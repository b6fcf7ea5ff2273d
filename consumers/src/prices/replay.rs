//! Clearings as the log has them, for the hub and for streams that go on from long ago.

use std::collections::{BTreeMap, VecDeque};

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::Position;
use hourglass_ledger::store::Reader;
use hourglass_units::{Currency, Instant};

use super::frame::{PoolTick, Sequence, Told};
use super::{RING_CLEARINGS_MAX, RING_FILL_BYTES_MAX};
use crate::billing::market::{ClearError, Logged};
use crate::market::ticks::{Seen, Tick, all};

/// Clearings that are read at once.
const AT_ONCE: usize = 16;

/// A clearing without its receipt: all pools as it left them.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) sequence: Sequence,
    pub(super) at: Instant,
    pub(super) ticks: Vec<Tick>,
}

impl From<&Logged> for Row {
    fn from(logged: &Logged) -> Self {
        let sequence = Sequence { epoch: logged.epoch, position: logged.position };
        Self { sequence, at: logged.at, ticks: all(&logged.cleared) }
    }
}

/// The currencies of pools' prices.
pub(super) type Currencies = BTreeMap<PoolName, Currency>;

/// A pool of which it is not known what its prices are in.
#[derive(Debug, thiserror::Error)]
#[error("the currency of pool {0} is not known here yet")]
pub(super) struct NoCurrency(pub(super) PoolName);

/// Ticks with the currencies of their prices.
pub(super) fn told(
    sequence: Sequence,
    at: Instant,
    ticks: Vec<Tick>,
    currencies: &Currencies,
) -> Result<Told, NoCurrency> {
    let of = |tick: Tick| match currencies.get(&tick.pool) {
        Some(currency) => Ok(PoolTick::new(tick, *currency)),
        None => Err(NoCurrency(tick.pool)),
    };
    Ok(Told::new(sequence, at, ticks.into_iter().map(of).collect::<Result<_, _>>()?))
}

/// The next clearings behind a position.
pub(super) fn rows_after(reader: &dyn Reader, after: u64) -> Result<Vec<Row>, ClearError> {
    let events = reader.clearings(Position::new(after), AT_ONCE)?;
    let read = |event| Ok(Logged::of(event)?.map(|logged| Row::from(&logged)));
    events.iter().filter_map(|event| read(event).transpose()).collect()
}

/// The last clearings, and what was seen before them.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) rows: VecDeque<Row>,
    pub(super) seen: Seen,
    /// All clearings behind it are there.
    pub(super) floor: u64,
}

impl Tail {
    /// Reads backwards until there are enough.
    pub(super) fn read(reader: &dyn Reader) -> Result<Self, ClearError> {
        let mut rows = VecDeque::new();
        let (mut before, mut bytes) = (u64::MAX, 0_usize);
        loop {
            let events = reader.clearings_before(Position::new(before), AT_ONCE)?;
            if events.is_empty() {
                return Ok(Self { rows, ..Self::default() });
            }
            for event in &events {
                before = event.position.number();
                bytes = bytes.saturating_add(event.payload.len());
                let Some(logged) = Logged::of(event)? else { continue };
                let row = Row::from(&logged);
                // At least one is kept, however long it is.
                if rows.len() >= RING_CLEARINGS_MAX || (bytes > RING_FILL_BYTES_MAX && !rows.is_empty()) {
                    let mut seen = Seen::default();
                    let _seen: Vec<Tick> = seen.changed(row.ticks);
                    return Ok(Self { rows, seen, floor: row.sequence.position });
                }
                rows.push_front(row);
            }
        }
    }
}
