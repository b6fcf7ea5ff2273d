//! Clearings, read from the log.

use hourglass_capacity::auction::receipt::Receipt;
use hourglass_ledger::core::market::{Cleared, MarketEvent, Trigger};
use hourglass_ledger::core::{Answer, Detail, Event, Position, Recorded};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::Instant;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

/// Most bytes that a clearing may have in the log to be shown: as JSON it is several times as long.
pub const RECEIPT_BYTES_MAX: usize = 8 << 20;
/// Clearings that are read at once.
const AT_ONCE: usize = 16;

/// A clearing as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Where: names the clearing.
    pub position: u64,
    /// The epoch of its writer.
    pub epoch: u64,
    /// When.
    pub at: Instant,
    /// The chain of the log up to it.
    pub hash: blake3::Hash,
    /// What was cleared, and what follows.
    pub cleared: Cleared,
}

/// Why a clearing cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is of another release.
    #[error("the event at position {position} cannot be read: {what}")]
    Unreadable {
        /// Where.
        position: u64,
        /// Why not.
        what: String,
    },
    /// More than [`RECEIPT_BYTES_MAX`].
    #[error(
        "the clearing at position {position} has {bytes} bytes, more than the {RECEIPT_BYTES_MAX} that are shown"
    )]
    TooLarge {
        /// Where.
        position: u64,
        /// So many.
        bytes: usize,
    },
}

impl Logged {
    /// Reads a clearing; `None` where the event is none.
    pub fn of(event: &StoredEvent) -> Result<Option<Self>, ClearError> {
        let position = event.position.number();
        let unreadable = |what: String| ClearError::Unreadable { position, what };
        let recorded = Recorded::decode(&event.payload).map_err(|error| unreadable(error.to_string()))?;
        let Event::Market(MarketEvent::Cleared(cleared)) = recorded.event else { return Ok(None) };
        let StoredEvent { epoch, at, hash, .. } = *event;
        Ok(Some(Self { position, epoch, at, hash, cleared: *cleared }))
    }
}

/// The clearing of a position; `None` where there is none.
pub fn clearing(reader: &dyn Reader, position: u64) -> Result<Option<Logged>, ClearError> {
    let Some(after) = position.checked_sub(1) else { return Ok(None) };
    let found = reader.clearings(Position::new(after), 1)?;
    let Some(event) = found.into_iter().find(|event| event.position.number() == position) else {
        return Ok(None);
    };
    let bytes = event.payload.len();
    if bytes > RECEIPT_BYTES_MAX {
        return Err(ClearError::TooLarge { position, bytes });
    }
    Logged::of(&event)
}

/// Clearings before a position, newest first, each read when it is asked for.
pub fn clearings_before(
    reader: &dyn Reader,
    before: u64,
) -> impl Iterator<Item = Result<Logged, ClearError>> {
    let mut before = Position::new(before);
    let mut read = Vec::new().into_iter();
    std::iter::from_fn(move || {
        let event: StoredEvent = match read.next() {
            Some(event) => event,
            None => match reader.clearings_before(before, AT_ONCE) {
                Ok(events) => {
                    read = events.into_iter();
                    read.next()?
                }
                Err(error) => return Some(Err(error.into())),
            },
        };
        before = event.position;
        Logged::of(&event).transpose()
    })
}

/// A clearing, in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Clear)]
pub struct ClearRow {
    /// Its log position: names it.
    pub clear: u64,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// `tick`, `supply` or `asked`.
    #[schema(value_type = String)]
    pub trigger: Trigger,
    /// Bids in the book.
    pub bids: usize,
    /// Of them, how many have something.
    pub won: usize,
    /// Units that were to start.
    pub starts: u64,
    /// Units that were told to stop.
    pub stops: usize,
    /// What was reached of the best that is possible, in percent, rounded down.
    pub welfare_percent: String,
}

impl From<&Logged> for ClearRow {
    fn from(logged: &Logged) -> Self {
        let Cleared { trigger, receipt, starts, stops, .. } = &logged.cleared;
        Self {
            clear: logged.position,
            at: logged.at.to_string(),
            trigger: *trigger,
            bids: receipt.book.bids().len(),
            won: receipt.clearing.bids.iter().filter(|outcome| outcome.won().is_some()).count(),
            starts: starts.iter().map(|it| u64::from(it.count)).fold(0, u64::saturating_add),
            stops: stops.len(),
            welfare_percent: receipt.welfare.ratio().to_string(),
        }
    }
}

/// The receipt of a clearing: all that is needed to run it again. Nobody's name is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReceiptDocument)]
pub struct ReceiptDocument {
    /// Its log position: names the clearing.
    pub clear: u64,
    /// The epoch of the writer.
    pub epoch: u64,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// `tick`, `supply` or `asked`.
    #[schema(value_type = String)]
    pub trigger: Trigger,
    /// BLAKE3 over the book and the refusals, in hexadecimal.
    pub input_hash: String,
    /// The chain of the log up to this clearing, in hexadecimal.
    pub log_hash: String,
    /// The book, what quotas and budgets refused, and the outcome.
    #[schema(value_type = schema::Receipt)]
    pub receipt: Receipt,
}

impl From<Logged> for ReceiptDocument {
    fn from(logged: Logged) -> Self {
        Self {
            clear: logged.position,
            epoch: logged.epoch,
            at: logged.at.to_string(),
            trigger: logged.cleared.trigger,
            input_hash: hex(&logged.cleared),
            log_hash: logged.hash.to_hex().to_string(),
            receipt: logged.cleared.receipt,
        }
    }
}

/// What came of clearing a book again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Replayed {
    /// Which clearing.
    pub clear: u64,
    /// Whether outcome, prices and welfare are the same.
    pub same: bool,
    /// What differs, where anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// What was reached of the best that is possible, in percent, rounded down.
    pub welfare_percent: String,
}

impl ReceiptDocument {
    /// Clears the book again and compares.
    pub fn replay(&self) -> Replayed {
        let difference = match self.receipt.replay() {
            Err(difference) => Some(difference.to_string()),
            Ok(_) if self.input_hash != self.receipt_hash() => {
                Some("the hash of the input is another one: the receipt was changed".to_owned())
            }
            Ok(_) => None,
        };
        Replayed {
            clear: self.clear,
            same: difference.is_none(),
            difference,
            welfare_percent: self.receipt.welfare.ratio().to_string(),
        }
    }

    fn receipt_hash(&self) -> String {
        let (starts, stops, expired) = (Vec::new(), Vec::new(), Vec::new());
        let (trigger, receipt) = (self.trigger, self.receipt.clone());
        hex(&Cleared { trigger, receipt, starts, stops, expired })
    }
}

/// The fingerprint of what was cleared.
fn hex(cleared: &Cleared) -> String {
    blake3::Hash::from_bytes(cleared.input()).to_hex().to_string()
}

/// What came of a clearing that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClearDone {
    /// Where in the log it stands: names the clearing.
    pub position: u64,
    /// The path of its receipt.
    pub resource: String,
    /// Units that are to start.
    pub starts: u32,
    /// Units that have to stop.
    pub stops: u32,
}

impl ClearDone {
    /// From what the core answered to a clearing.
    pub fn of(answer: &Answer) -> Option<Self> {
        let Detail::Cleared { starts, stops } = answer.detail else { return None };
        let position = answer.position.number();
        Some(Self { position, resource: format!("/v1/clears/{position}"), starts, stops })
    }
}
