//! The derived rows: what [`super::apply`](super::apply()) writes beside the event, in the same
//! transaction. They can be dropped and rebuilt from the log at any time, bit for bit.

use hourglass_pricing::PurchaseModel;
use hourglass_units::{
    Amount, Currency, Hour, InstanceId, Instant, Month, Platform, Price, ProjectId, Quantity, Region,
    ReservationId, TenantId,
};
use prost::bytes::Bytes;

use super::book::{Account, TransferCode};
use super::command::Position;
use super::timeline::LifeStep;

/// A difference to one line `(instance, mode, price, hour)`. A line is the sum of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeRow {
    /// Who pays.
    pub tenant: TenantId,
    /// For which project.
    pub project: ProjectId,
    /// Whose usage.
    pub instance: InstanceId,
    /// On which platform.
    pub platform: Platform,
    /// In which region.
    pub region: Region,
    /// How it was sold.
    pub model: PurchaseModel,
    /// Out of which reservation, where it was sold so.
    pub reservation: Option<ReservationId>,
    /// Per GPU-hour.
    pub price: Price,
    /// What a GPU-hour costs with what was paid for it otherwise: the price, and the amortised price of
    /// the reservation.
    pub effective_price: Price,
    /// In which UTC hour.
    pub hour: Hour,
    /// GPUs that the instance held.
    pub gpus: u32,
    /// Milliseconds of the instance that this row adds, negative in a correction.
    pub milliseconds: i64,
    /// GPU-hours that this row adds. U-1: price × quantity = amount.
    pub quantity: Quantity,
    /// What this row adds.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

/// A difference to the unused hours of a reservation within one UTC hour (P-2: used and unused are what
/// is reserved).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedRow {
    /// Who pays.
    pub tenant: TenantId,
    /// For which project.
    pub project: ProjectId,
    /// Of which reservation.
    pub reservation: ReservationId,
    /// On which platform.
    pub platform: Platform,
    /// In which region.
    pub region: Region,
    /// In which UTC hour.
    pub hour: Hour,
    /// GPU-hours that this row adds, negative where usage came late.
    pub quantity: Quantity,
    /// The amortised price of a GPU-hour.
    pub effective_price: Price,
    /// Effective price × quantity; in the last hour also what a total leaves over.
    pub effective_cost: Amount,
    /// Of what.
    pub currency: Currency,
}

/// One movement between two accounts: balanced by its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRow {
    /// Whose business it is.
    pub tenant: TenantId,
    /// The account that takes.
    pub debit: Account,
    /// The account that gives.
    pub credit: Account,
    /// Always more than zero.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// What for.
    pub code: TransferCode,
    /// When it was booked.
    pub at: Instant,
    /// B-2: the position whose transfer this one takes back, in whole or in part.
    pub reverses: Option<Position>,
}

/// A finalised invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceRow {
    /// Whose.
    pub tenant: TenantId,
    /// Gapless per tenant, from 1.
    pub number: u64,
    /// Which month.
    pub period: Month,
    /// Exactly the bytes that the customer gets.
    pub document: Bytes,
}

/// Something that could not be used as usage; the bytes stand in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Place in the batch; `None` where the whole message is quarantined.
    pub record: Option<u32>,
    /// A stable code.
    pub reason: String,
}

/// A step in the life of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineRow {
    /// Whose.
    pub tenant: TenantId,
    /// Which instance.
    pub instance: InstanceId,
    /// What happened.
    pub step: LifeStep,
    /// When it was so: not always when it was learnt.
    pub at: Instant,
    /// Why, as a stable code; of a step that nobody asked for there is one.
    pub cause: Option<String>,
    /// More of it, for people.
    pub detail: Option<String>,
    /// Of an order to stop: until when it may run.
    pub deadline: Option<Instant>,
}

/// Takes the rows of one event, in the order in which they are numbered.
pub trait Rows {
    /// A charge.
    fn charge(&mut self, row: ChargeRow);
    /// Unused hours of a reservation.
    fn unused(&mut self, row: UnusedRow);
    /// A transfer.
    fn transfer(&mut self, row: TransferRow);
    /// An invoice.
    fn invoice(&mut self, row: InvoiceRow);
    /// A quarantined record or message.
    fn quarantine(&mut self, row: QuarantineRow);
    /// A step in the life of an instance.
    fn timeline(&mut self, row: TimelineRow);
}

/// The rows of one event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventRows {
    /// Charges.
    pub charges: Vec<ChargeRow>,
    /// Unused hours of reservations.
    pub unused: Vec<UnusedRow>,
    /// Transfers.
    pub transfers: Vec<TransferRow>,
    /// Invoices.
    pub invoices: Vec<InvoiceRow>,
    /// Quarantined records and messages.
    pub quarantine: Vec<QuarantineRow>,
    /// Steps in the lives of instances.
    pub timeline: Vec<TimelineRow>,
}

impl Rows for EventRows {
    fn charge(&mut self, row: ChargeRow) {
        self.charges.push(row);
    }
    fn unused(&mut self, row: UnusedRow) {
        self.unused.push(row);
    }
    fn transfer(&mut self, row: TransferRow) {
        self.transfers.push(row);
    }
    fn invoice(&mut self, row: InvoiceRow) {
        self.invoices.push(row);
    }
    fn quarantine(&mut self, row: QuarantineRow) {
        self.quarantine.push(row);
    }
    fn timeline(&mut self, row: TimelineRow) {
        self.timeline.push(row);
    }
}

/// Takes no rows: for replay, where they are stored already.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRows;

impl Rows for NoRows {
    fn charge(&mut self, _: ChargeRow) {}
    fn unused(&mut self, _: UnusedRow) {}
    fn transfer(&mut self, _: TransferRow) {}
    fn invoice(&mut self, _: InvoiceRow) {}
    fn quarantine(&mut self, _: QuarantineRow) {}
    fn timeline(&mut self, _: TimelineRow) {}
}
