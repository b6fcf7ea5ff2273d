//! The deterministic core: commands in, events out, and the state that events make.
//!
//! ```text
//! decide(&State, &Request) -> Result<Decision, Rejection>     every check, in a documented order
//! apply(&mut State, at, &Recorded, &mut impl Rows) -> Result<Answer, Inconsistent>
//! ```
//!
//! * [`decide()`] reads and never writes. After it has answered with an event nothing may fail.
//! * [`apply()`] is the only writer of [`State`], when the event is new and when the log is replayed
//!   alike. It also writes the derived [rows]. Its error says that the log holds what
//!   [`decide()`] could never have written: somebody changed it.
//! * There is no clock, no randomness, no I/O and no iteration over hash maps here: time and ids come
//!   inside the command, so one log always makes one state, bit for bit (B-3).

mod accounts;
mod apply;
#[cfg(test)]
mod attack;
mod book;
mod calendars;
mod command;
mod credentials;
mod credits;
mod decide;
mod digest;
pub mod estimate;
mod event;
pub mod explain;
mod exposure;
mod grants;
mod groups;
mod invoice;
pub mod invoicing;
mod lifecycle;
pub mod market;
mod metering;
mod modes;
pub mod periods;
pub mod projection;
pub mod quotas;
mod rejection;
pub mod rerating;
mod reservations;
pub mod rows;
mod sla;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod tick;
mod timeline;
pub mod usage;
mod watermark;
pub mod webhooks;
mod wire;

pub use apply::apply;
pub use book::{Account, Book, TransferCode, UnknownAccount};
pub use command::{
    Answer, Command, Detail, IDEMPOTENCY_KEY_LENGTH_MAX, IdempotencyKey, Mode, Outcome, Position,
    QUARANTINE_BYTES_MAX, Registration, RerateDraft, SUSPENSE_INSTANCES_MAX, TEXT_LENGTH_MAX,
};
pub use credentials::{
    Credential, Credentials, KEY_ID_LENGTH, KEY_LIFETIME_MS_MAX, KEYS_MAX, KeyGrant, KeyHash, KeyId,
    KeyIdError, Role, Scope, UnknownName,
};
pub use credits::{CREDIT_PRIORITY_DEFAULT, CREDITS_MAX, CreditDraft, CreditKind, Grant};
pub use decide::{Decision, Request, decide};
pub use digest::digest;
pub use event::{Event, EventError, EventKind, Policy, Recorded};
pub use metering::{Accounting, Exclusion, Line};
pub use modes::MODE_CHANGES_MAX;
pub use rejection::Rejection;
pub use reservations::Held;
pub use state::{Cell, Counts, FinalisedInvoice, InstanceView, InvoiceStatus, LineView, State, Tenant};
pub use tick::LINES_A_TICK_MAX;
pub use timeline::LifeStep;
pub use wire::usage_mentions;

/// An event that no decision can have made: the log was changed, or is another engine's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log is inconsistent: {0}")]
pub struct Inconsistent(String);

impl Inconsistent {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}
