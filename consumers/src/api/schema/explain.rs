//! How a charge and an invoice line were computed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Component, InvoiceLine};

/// The charges of an instance within a UTC hour, and all that they come of.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChargeExplained {
    /// Whose usage.
    instance: String,
    /// Who pays.
    tenant: String,
    /// In which UTC hour, RFC 3339.
    #[schema(format = DateTime)]
    hour: String,
    /// In which billing period, `YYYY-MM`.
    period: String,
    /// On which platform.
    platform: String,
    /// GPUs that the instance holds.
    gpus: u32,
    /// The only agent whose reports count; any agent's do where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// What was reported in good order. Billed is what of it ran and was not voided.
    reported: Vec<Span>,
    /// When it ran.
    running: Vec<Span>,
    /// What was voided.
    voided: Vec<Span>,
    /// What was reported and excluded when it came, by reason: `gpus_differ`, `foreign_agent`,
    /// `in_the_future`, `too_old`.
    excluded: BTreeMap<String, Vec<Span>>,
    /// How it was sold, as it was said.
    modes: Vec<ModeExplained>,
    /// Its lines: one for each price and way of being sold. More than one where something changed within
    /// the hour.
    lines: Vec<LineExplained>,
    /// The reports that it rests on, in the order in which they came. Those that only repeat what earlier
    /// ones reported are left out.
    evidence: Vec<Evidence>,
    /// Whether they cover all that was reported: beyond a limit no more events are looked through.
    evidence_is_complete: bool,
    /// The charge rows that hold it, the first thousand; none while the hour is open. What came after the
    /// last `Tick` is in the lines and in no row yet.
    rows: Vec<RowExplained>,
    /// The accruals that hold it: of the first posting after each report, and of those that wrote a row.
    /// Accruals are per tenant, platform and model, so they hold more than this. At most a hundred.
    transfers: Vec<TransferExplained>,
}

/// `[start, end)`.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IntervalExplained)]
pub(crate) struct Span {
    #[schema(format = DateTime)]
    start: String,
    #[schema(format = DateTime)]
    end: String,
}

/// How the instance is sold from a time on.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModeExplained {
    /// Since when, RFC 3339; since it is known where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    from: Option<String>,
    /// `on_demand`, `reserved` or `spot`.
    model: String,
    /// Out of which reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// By which bid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bid: Option<String>,
    /// Its GPU-hours never cost more, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
}

/// One line: what is billed of it, at which price, and by whose word.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineExplained {
    /// How it was sold in the end: a reserved instance that its reservation has no room for is billed on
    /// demand.
    model: String,
    /// For which project.
    project: String,
    /// Out of which reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// Per GPU-hour, a decimal.
    price: String,
    /// Of the amount, ISO 4217.
    currency: String,
    /// The parts of the coverage that are billed on it, and where their price comes from.
    parts: Vec<PartExplained>,
    /// Their milliseconds.
    milliseconds: i64,
    /// `round_half_even(milliseconds × gpus / 3,600,000)` to the nano-GPU-hour.
    quantity: String,
    /// Price × quantity, an exact decimal.
    amount: String,
}

/// A billed interval and its price.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartExplained {
    /// When.
    interval: Span,
    /// Who says the price: a version of a card or contract, a reservation, or the spot pool.
    source: String,
    /// What a discount was taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    list: Option<ListPrice>,
    /// The pool's price, where the bid's limit is below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    above_limit: Option<String>,
    /// What the price is made of, where the card says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component>,
}

/// A list price that a discount was taken off.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListPrice {
    /// The card, as `name@version`.
    source: String,
    /// Per GPU-hour, a decimal.
    price: String,
}

/// A batch of usage that reported the instance.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evidence {
    /// The event in the log.
    position: u64,
    /// When it was taken, RFC 3339.
    #[schema(format = DateTime)]
    at: String,
    /// Who reported.
    agent: String,
    /// What it reported of the instance in good order, within the hour.
    reported: Vec<Span>,
    /// What of that none of the evidence before it reported.
    first: Vec<Span>,
}

/// A row of the ledger that holds a part of a line.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowExplained {
    /// The event that wrote it.
    position: u64,
    /// Its number among the rows of that event.
    line: u32,
    /// How it was sold.
    model: String,
    /// Out of which reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// Per GPU-hour, a decimal.
    price: String,
    /// Milliseconds of the instance that it adds.
    milliseconds: i64,
    /// GPU-hours that it adds, a decimal.
    quantity: String,
    /// What it adds, an exact decimal.
    amount: String,
}

/// A movement in the book.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferExplained {
    /// The event that posted it.
    position: u64,
    /// Its number among the rows of that event.
    line: u32,
    /// What for.
    code: String,
    /// The account that takes.
    debit: String,
    /// The account that gives.
    credit: String,
    /// How much, an exact decimal.
    amount: String,
    /// The position whose transfer it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reverses: Option<u64>,
}

/// A line of an invoice, and what it is made of.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvoiceLineExplained {
    /// Whose.
    tenant: String,
    /// Which invoice.
    number: u64,
    /// Which line, from 1.
    line: usize,
    /// As it stands on the invoice.
    text: InvoiceLine,
    /// In words, how it came about.
    how: Vec<String>,
    /// The usage of each instance that the line counts, at its unit price, as the rows of the period had
    /// it when the invoice was drawn. Of a line without a rule that is what it charges; a rule shares the
    /// usage of all prices out among its lines; of a correction it is the whole period, of which earlier
    /// invoices hold the rest. Ask for the charges of an instance and hour for more.
    usage: Vec<UsageExplained>,
    /// Its GPU-hours, a decimal.
    usage_quantity: String,
    /// Whether that is all: beyond a limit no more is listed, or added up.
    usage_is_complete: bool,
    /// The versions of cards and contracts that the invoice rests on.
    prices: Vec<String>,
    /// The log position that it was computed at.
    position: u64,
    /// What was posted when it was finalised: the invoice as a whole.
    transfers: Vec<TransferExplained>,
}

/// The usage of an instance within the period of an invoice line.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageExplained {
    /// Whose usage.
    instance: String,
    /// Per GPU-hour, a decimal.
    unit_price: String,
    /// GPU-hours, a decimal.
    quantity: String,
    /// Unit price × quantity, an exact decimal.
    amount: String,
}
