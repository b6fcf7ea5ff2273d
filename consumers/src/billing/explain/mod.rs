//! "How was this computed?": from a charge or an invoice line down to the reports that it rests on.
//!
//! What the state knows (coverage, modes, prices, rules) is taken at one log position; the store adds
//! the rows and transfers up to that position, and the events that are the evidence.

mod evidence;
mod invoice_line;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hourglass_ledger::core::explain::HourExplained;
use hourglass_ledger::core::rows::{ChargeRow, TransferRow};
use hourglass_ledger::core::{Account, Policy, Position};
use hourglass_ledger::store::{
    ChargeFilter, Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError, TransferFilter,
};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Hour, Instant, Interval, Price, Quantity, ReservationId};
use serde::Serialize;

use evidence::Limits;
pub use evidence::{EVIDENCE_BYTES_MAX, EVIDENCE_EVENTS_MAX};
pub use invoice_line::{
    INVOICE_LINE_CHARGES_MAX, INVOICE_LINE_INSTANCES_MAX, InvoiceLineExplained, UsageExplained, invoice_line,
    period_of,
};

/// Most transfers that are listed.
pub const TRANSFERS_MAX: usize = 100;

/// The charges of an instance in an hour, and all that they come of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChargeExplained {
    /// What the state knows.
    #[serde(flatten)]
    pub hour: HourExplained,
    /// The reports that it rests on, in the order in which they came. Those that only repeat what
    /// earlier ones reported are left out.
    pub evidence: Vec<Evidence>,
    /// Whether they cover all that was reported: beyond a limit no more events are looked through.
    pub evidence_is_complete: bool,
    /// The charge rows that hold it, the first thousand; none while the hour is open. What came after
    /// the last `Tick` is in the lines and in no row yet.
    pub rows: Vec<RowExplained>,
    /// The accruals that hold it: of the first posting after each report, and of those that wrote a row.
    /// Accruals are per tenant, platform and model, so they hold more than this. At most a hundred.
    pub transfers: Vec<TransferExplained>,
}

/// A batch of usage that reported the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The event in the log.
    pub position: u64,
    /// When it was taken.
    pub at: Instant,
    /// Who reported.
    pub agent: String,
    /// What it reported of the instance in good order, within the hour.
    pub reported: Vec<Interval>,
    /// What of that none of the evidence before it reported.
    pub first: Vec<Interval>,
}

/// A row of the ledger that holds a part of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowExplained {
    /// The event that wrote it.
    pub position: u64,
    /// Its number among the rows of that event.
    pub line: u32,
    /// How it was sold.
    pub model: PurchaseModel,
    /// Out of which reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationId>,
    /// Per GPU-hour.
    pub price: Price,
    /// Milliseconds of the instance that it adds.
    pub milliseconds: i64,
    /// GPU-hours that it adds.
    pub quantity: Quantity,
    /// What it adds.
    pub amount: Amount,
}

/// A movement in the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransferExplained {
    /// The event that posted it.
    pub position: u64,
    /// Its number among the rows of that event.
    pub line: u32,
    /// What for.
    pub code: &'static str,
    /// The account that takes.
    pub debit: String,
    /// The account that gives.
    pub credit: String,
    /// How much.
    pub amount: Amount,
    /// The position whose transfer it takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverses: Option<u64>,
}

/// Adds to what the state knows of an hour what the store knows, up to the position of the state.
/// `policy` is the cell's. Blocks on the store.
pub fn charge(
    reader: &dyn Reader,
    hour: HourExplained,
    policy: Policy,
    until: Position,
) -> Result<ChargeExplained, StoreError> {
    let rows = charge_rows(reader, &hour, until)?;
    let (evidence, evidence_is_complete) =
        evidence::search(reader, &hour, policy, &rows, until, Limits::default())?;
    let transfers = accruals(reader, &hour, &evidence, &rows, until)?;
    Ok(ChargeExplained { hour, evidence, evidence_is_complete, rows, transfers })
}

fn charge_rows(
    reader: &dyn Reader,
    hour: &HourExplained,
    until: Position,
) -> Result<Vec<RowExplained>, StoreError> {
    let filter = ChargeFilter {
        tenant: Some(hour.tenant.clone()),
        instance: Some(hour.instance.clone()),
        from: Some(hour.hour),
        until: Some(Hour::containing(hour.hour.end())),
        ..ChargeFilter::default()
    };
    let page = Page { after: RowKey::default(), until, limit: PAGE_ROWS_MAX };
    let row = |Keyed { key, row }: Keyed<ChargeRow>| RowExplained {
        position: key.position.number(),
        line: key.line,
        model: row.model,
        reservation: row.reservation,
        price: row.price,
        milliseconds: row.milliseconds,
        quantity: row.quantity,
        amount: row.amount,
    };
    Ok(reader.charges(&filter, page)?.into_iter().map(row).collect())
}

/// The accruals of the lines: a report is accrued by the first posting after it, anything else that
/// changes a line by the one that writes its row.
fn accruals(
    reader: &dyn Reader,
    hour: &HourExplained,
    evidence: &[Evidence],
    rows: &[RowExplained],
    until: Position,
) -> Result<Vec<TransferExplained>, StoreError> {
    let models = hour.lines.iter().map(|line| line.model).chain(rows.iter().map(|row| row.model));
    let models: BTreeSet<&str> = models.map(PurchaseModel::as_str).collect();
    let unbilled = Account::Unbilled(hour.tenant.clone());
    let is_revenue = |account: &Account| match account {
        Account::Revenue(platform, model) => *platform == hour.platform && models.contains(model.as_str()),
        _ => false,
    };
    let is_accrual = |row: &TransferRow| {
        (row.debit == unbilled && is_revenue(&row.credit))
            || (row.credit == unbilled && is_revenue(&row.debit))
    };
    let filter = TransferFilter { tenant: Some(hour.tenant.clone()), account: Some(unbilled.to_string()) };
    let behind = |after: u64, until: Position, limit: usize| {
        let after = RowKey { position: Position::new(after), line: u32::MAX };
        reader.transfers(&filter, Page { after, until, limit })
    };

    let mut postings: BTreeSet<u64> = rows.iter().take(TRANSFERS_MAX).map(|row| row.position).collect();
    let mut reached = 0;
    for report in evidence.iter().take(TRANSFERS_MAX) {
        if report.position < reached {
            continue;
        }
        let next = behind(report.position, until, TRANSFERS_MAX)?;
        if let Some(found) = next.iter().find(|it| is_accrual(&it.row)) {
            reached = found.key.position.number();
            postings.insert(reached);
        }
    }
    let mut transfers = Vec::new();
    for position in postings {
        let posted = behind(position.saturating_sub(1), Position::new(position), PAGE_ROWS_MAX)?;
        transfers.extend(posted.iter().filter(|it| is_accrual(&it.row)).map(explain_transfer));
        if transfers.len() >= TRANSFERS_MAX {
            transfers.truncate(TRANSFERS_MAX);
            break;
        }
    }
    Ok(transfers)
}

fn explain_transfer(Keyed { key, row }: &Keyed<TransferRow>) -> TransferExplained {
    TransferExplained {
        position: key.position.number(),
        line: key.line,
        code: row.code.as_str(),
        debit: row.debit.to_string(),
        credit: row.credit.to_string(),
        amount: row.amount,
        reverses: row.reverses.map(Position::number),
    }
}
