//! The store: one port, plain data across it, one conformance suite for every adapter.
//!
//! A [`Store`] is the writer's side and a [`Reader`] everyone else's. Both are blocking: the cell
//! calls them from threads of its own, the HTTP side from the blocking pool. No transaction handle
//! crosses the port: a [`Commit`] holds events, rows and the head that they follow, and is stored
//! whole or not at all.

use std::sync::Arc;

use hourglass_pricing::PurchaseModel;
use hourglass_units::{
    Amount, Currency, Hour, InstanceId, Instant, Month, Platform, Price, ProjectId, Region, TenantId,
};
use prost::bytes::Bytes;

use crate::core::Position;
use crate::core::rows::{ChargeRow, EventRows, TimelineRow, TransferRow, UnusedRow};
use crate::log::StoredEvent;
use crate::snapshot::Snapshot;

mod blocking;
mod columns;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
pub mod postgres;
pub mod sqlite;

/// Most rows that one page can hold.
pub const PAGE_ROWS_MAX: usize = 1_000;

/// Where the log ends, and who may append to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The last position.
    pub position: Position,
    /// The chain there.
    pub hash: blake3::Hash,
    /// Grows each time that a writer takes over.
    pub epoch: u64,
    /// Who writes.
    pub holder: String,
    /// Until when nobody else may take over, by the wall clock.
    pub lease_until: Instant,
}

/// A request to become the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// Who asks.
    pub holder: String,
    /// What time it is, by the wall clock.
    pub now: Instant,
    /// Until when the lease is to run.
    pub lease_until: Instant,
    /// The caller knows that the holder is gone (its lock on the directory is free): do not wait for
    /// its lease to end.
    pub holder_is_gone: bool,
}

/// Events and their rows, stored whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The writer's epoch; another one means that it was deposed.
    pub epoch: u64,
    /// The head that the events follow.
    pub after: Position,
    /// The chain there.
    pub after_hash: blake3::Hash,
    /// Until when the lease is to run from now on.
    pub lease_until: Instant,
    /// The events, gapless behind `after`.
    pub events: Vec<StoredEvent>,
    /// The rows of each event, in the same order.
    pub rows: Vec<EventRows>,
    /// How far each consumer has come, by its name. Of a name given twice the last counts.
    pub cursors: Vec<(String, Position)>,
}

/// A store that does not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);

/// Why a writer could not take over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Another writer's lease still runs.
    #[error("{holder} writes to this log until {until}, unless it renews")]
    Held {
        /// Who.
        holder: String,
        /// Until when.
        until: Instant,
    },
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a commit was not stored, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The head is not what the commit follows: another writer took over. Nothing was stored.
    #[error("another writer took over: the log is at position {position}, epoch {epoch}")]
    Deposed {
        /// Where the log ends.
        position: Position,
        /// Whose epoch it is.
        epoch: u64,
    },
    /// Nothing was stored.
    #[error("nothing was stored: {0}")]
    NotStored(String),
    /// It may have been stored or not: read the head to find out.
    #[error("it is not known whether the commit was stored: {0}")]
    Unknown(String),
}

/// Whose key and place in a table a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RowKey {
    /// The event that it came from.
    pub position: Position,
    /// Its number among the rows of that event.
    pub line: u32,
}

/// A row and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed<T> {
    /// Where.
    pub key: RowKey,
    /// What.
    pub row: T,
}

/// A stretch of rows in order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Rows behind this one.
    pub after: RowKey,
    /// Rows up to this position.
    pub until: Position,
    /// At most so many, and at most [`PAGE_ROWS_MAX`].
    pub limit: usize,
}

/// Which charges. Absent means any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChargeFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of this instance.
    pub instance: Option<InstanceId>,
    /// From this hour on.
    pub from: Option<Hour>,
    /// Before this hour.
    pub until: Option<Hour>,
}

/// Which transfers. Absent means any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransferFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// With this account on either side, by its name.
    pub account: Option<String>,
}

/// Which steps of which instances. Absent means any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimelineFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of this instance.
    pub instance: Option<InstanceId>,
}

/// Which usage to add up, and what to keep apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Which charges.
    pub filter: ChargeFilter,
    /// Written up to here.
    pub until: Position,
    /// Keep instances apart.
    pub by_instance: bool,
    /// Keep spans of so many milliseconds apart, an hour's multiple; 0 for none.
    pub span_ms: i64,
}

/// Charges of a kind, added up. Amount is price × quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSum {
    /// Who pays.
    pub tenant: TenantId,
    /// For which project.
    pub project: ProjectId,
    /// Whose usage, where instances are kept apart.
    pub instance: Option<InstanceId>,
    /// On which platform.
    pub platform: Platform,
    /// In which region.
    pub region: Region,
    /// How it was sold.
    pub model: PurchaseModel,
    /// Per GPU-hour.
    pub price: Price,
    /// Of the amount.
    pub currency: Currency,
    /// Start of the span, where spans are kept apart.
    pub span: Option<Instant>,
    /// GPU-milliseconds.
    pub gpu_ms: i64,
    /// Nano-GPU-hours.
    pub quantity_nanos: i64,
}

/// A stored invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInvoice {
    /// Where it was finalised.
    pub position: Position,
    /// Whose.
    pub tenant: TenantId,
    /// Its number.
    pub number: u64,
    /// Its month.
    pub period: Month,
    /// What is to be paid stands in the document.
    pub document: Bytes,
}

/// Something in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Place in the batch; `None` where the whole message is quarantined.
    pub record: Option<u32>,
    /// A stable code.
    pub reason: String,
}

/// The tables of derived rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Charges.
    Charges,
    /// Unused hours of reservations.
    Unused,
    /// Transfers.
    Transfers,
    /// Invoices.
    Invoices,
    /// Quarantined records and messages.
    Quarantine,
    /// Steps in the lives of instances.
    Timeline,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] =
        [Self::Charges, Self::Unused, Self::Transfers, Self::Invoices, Self::Quarantine, Self::Timeline];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Charges => "charges",
            Self::Unused => "unused",
            Self::Transfers => "transfers",
            Self::Invoices => "invoices",
            Self::Quarantine => "quarantine",
            Self::Timeline => "timeline",
        }
    }
}

/// The writer's side.
pub trait Store: Send {
    /// Becomes the writer under a new epoch.
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError>;

    /// Appends events and their rows, if the head is what the commit follows. Durable on return.
    /// Without events it only renews the lease and moves cursors.
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError>;

    /// Ends the lease, so that the next writer need not wait. Does nothing for a deposed writer.
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError>;

    /// Keeps a snapshot and drops every other: only the writer's newest is of this log for sure.
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError>;

    /// What keeps snapshots beside commits, so that these need not wait for them. `None` where the
    /// store can do but one thing at a time.
    fn snapshots(&self) -> Option<Box<dyn Snapshots>> {
        None
    }

    /// The readers' side of the same store.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Keeps snapshots while the store commits.
pub trait Snapshots: Send {
    /// As [`Store::write_snapshot`].
    fn write(&mut self, snapshot: &Snapshot) -> Result<(), StoreError>;
}

/// The readers' side: sees what is committed, and only that.
pub trait Reader: Send + Sync {
    /// Where the log ends.
    fn head(&self) -> Result<Head, StoreError>;

    /// Up to `limit` events behind `after`, in order.
    fn events(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to `limit` clearings of the market behind `after`, in order.
    fn clearings(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to `limit` clearings of the market before `before`, newest first.
    fn clearings_before(&self, before: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError>;

    /// The newest snapshot.
    fn newest_snapshot(&self) -> Result<Option<Snapshot>, StoreError>;

    /// How far a consumer had come at the last commit that said so; `None` where none did.
    fn cursor(&self, name: &str) -> Result<Option<Position>, StoreError>;

    /// Charges in order of their keys.
    fn charges(&self, filter: &ChargeFilter, page: Page) -> Result<Vec<Keyed<ChargeRow>>, StoreError>;

    /// Unused hours of reservations in order of their keys, of one tenant or of all.
    fn unused(&self, tenant: Option<&TenantId>, page: Page) -> Result<Vec<Keyed<UnusedRow>>, StoreError>;

    /// Charges added up.
    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, StoreError>;

    /// Transfers in order of their keys.
    fn transfers(&self, filter: &TransferFilter, page: Page) -> Result<Vec<Keyed<TransferRow>>, StoreError>;

    /// Invoices in order of their keys, of one tenant or of all.
    fn invoices(
        &self,
        tenant: Option<&TenantId>,
        page: Page,
    ) -> Result<Vec<Keyed<StoredInvoice>>, StoreError>;

    /// One invoice of a tenant.
    fn invoice(&self, tenant: &TenantId, number: u64) -> Result<Option<StoredInvoice>, StoreError>;

    /// Steps in the lives of instances, in the order in which they were learnt.
    fn timeline(&self, filter: &TimelineFilter, page: Page) -> Result<Vec<Keyed<TimelineRow>>, StoreError>;

    /// What is in quarantine, in order.
    fn quarantine(&self, page: Page) -> Result<Vec<Keyed<Quarantined>>, StoreError>;

    /// Rows of a table as their exact text, every column of it, in order: for comparing stores.
    fn raw_rows(&self, table: Table, page: Page) -> Result<Vec<Keyed<String>>, StoreError>;
}

/// What every row of a balance sum needs: exact text to exact number.
pub(crate) fn exact_amount(text: &str) -> Result<Amount, StoreError> {
    Amount::parse(text).map_err(|error| StoreError(error.to_string()))
}
