//! "How was this computed?": from a charge or an invoice line down to the reports that it rests on.
//!
//! What the state knows (coverage, modes, prices, rules) is taken at one log position; the store adds
//! the rows and transfers up to that position, and the events that are the evidence.

use std::collections::BTreeMap;

use hourglass_ledger::core::explain::{HourExplained, LineExplained};
use hourglass_ledger::core::invoicing::{Invoice, InvoiceLine, LineKind};
use hourglass_ledger::core::rows::TransferRow;
use hourglass_ledger::core::{Event, EventKind, Position, Recorded};
use hourglass_ledger::store::{
    ChargeFilter, Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError, TransferFilter, UsageQuery,
};
use hourglass_units::{Coverage, HOUR_MILLISECONDS, Hour, InstanceId, Instant, Interval, TenantId};
use serde::Serialize;

/// Most events that are looked through for evidence.
pub const EVIDENCE_EVENTS_MAX: usize = 20_000;
/// Most instances that are listed for an invoice line.
pub const INVOICE_LINE_INSTANCES_MAX: usize = 1_000;
/// Most transfers that are listed.
pub const TRANSFERS_MAX: usize = 100;
/// Events read at once.
const EVENTS_AT_ONCE: usize = 256;
/// An agent whose clock is ahead reports this much before the time, as the cell's own limit has it.
const SKEW_MILLISECONDS: i64 = HOUR_MILLISECONDS;

/// The charges of an instance in an hour, and all that they come of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChargeExplained {
    /// What the state knows.
    #[serde(flatten)]
    pub hour: HourExplained,
    /// The reports that it rests on.
    pub evidence: Vec<Evidence>,
    /// Whether they cover all that was reported: beyond a limit no more events are looked through.
    pub evidence_is_complete: bool,
    /// The charge rows that hold it; none while the hour is open.
    pub rows: Vec<RowExplained>,
    /// The transfers of the ticks that posted it, and what else they posted between the same accounts.
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
    /// What it reported of the instance, within the hour.
    pub reported: Vec<Interval>,
}

/// A row of the ledger that holds a part of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowExplained {
    /// The event that wrote it.
    pub position: u64,
    /// Its number among the rows of that event.
    pub line: u32,
    /// How it was sold.
    pub model: &'static str,
    /// Per GPU-hour, a decimal.
    pub price: String,
    /// Milliseconds of the instance that it adds.
    pub milliseconds: i64,
    /// GPU-hours that it adds, a decimal.
    pub quantity: String,
    /// What it adds, a decimal.
    pub amount: String,
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
    /// How much, a decimal.
    pub amount: String,
    /// The position whose transfer it takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverses: Option<u64>,
}

/// A line of an invoice, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InvoiceLineExplained {
    /// Whose.
    pub tenant: TenantId,
    /// Which invoice.
    pub number: u64,
    /// Which line, from 1.
    pub line: usize,
    /// As it stands on the invoice.
    pub text: InvoiceLine,
    /// In words, how it came about.
    pub how: Vec<String>,
    /// The usage of each instance that is in the same project, SKU and period, at the price before the
    /// rules that count periods. Ask for the charges of an instance and hour for more.
    pub usage: Vec<UsageExplained>,
    /// Whether there is more usage than is listed.
    pub usage_is_complete: bool,
    /// The versions of cards and contracts that the invoice rests on.
    pub prices: Vec<String>,
    /// The log position that it was computed at, and the transfers that booked it.
    pub position: u64,
    /// The transfers that booked the invoice.
    pub transfers: Vec<TransferExplained>,
}

/// The usage of an instance within the period of an invoice line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageExplained {
    /// Whose usage.
    pub instance: String,
    /// Per GPU-hour, a decimal.
    pub unit_price: String,
    /// GPU-hours, a decimal.
    pub quantity: String,
    /// Unit price × quantity, a decimal.
    pub amount: String,
}

/// Adds to what the state knows of an hour what the store knows. Blocks on the store.
pub fn charge(
    reader: &dyn Reader,
    hour: HourExplained,
    until: Position,
) -> Result<ChargeExplained, StoreError> {
    let rows = charge_rows(reader, &hour, until)?;
    let search = Search { reader, instance: hour.instance.clone(), window: hour.hour.interval(), until };
    let wanted: Coverage = hour.reported.iter().copied().collect();
    let (evidence, evidence_is_complete) = search.run(&wanted, &rows)?;
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
    let row = |Keyed { key, row }: Keyed<hourglass_ledger::core::rows::ChargeRow>| RowExplained {
        position: key.position.number(),
        line: key.line,
        model: row.model.as_str(),
        price: row.price.to_string(),
        milliseconds: row.milliseconds,
        quantity: row.quantity.to_string(),
        amount: row.amount.to_string(),
    };
    Ok(reader.charges(&filter, page)?.into_iter().map(row).collect())
}

/// A search for the events that reported an instance within a window.
struct Search<'a> {
    reader: &'a dyn Reader,
    instance: InstanceId,
    window: Interval,
    until: Position,
}

impl Search<'_> {
    /// Looks forward from the time of the window, then back from each row that came later, until all
    /// that is wanted is found.
    fn run(&self, wanted: &Coverage, rows: &[RowExplained]) -> Result<(Vec<Evidence>, bool), StoreError> {
        let mut found: BTreeMap<u64, Evidence> = BTreeMap::new();
        let mut missing = wanted.clone();
        let mut budget = EVIDENCE_EVENTS_MAX;
        let mut at = self.first_at(self.window.start().saturating_add_ms(-SKEW_MILLISECONDS))?;
        while !missing.is_empty() && budget > 0 {
            let reached = self.look(at, EVENTS_AT_ONCE.min(budget), &mut missing, &mut found)?;
            budget = budget.saturating_sub(EVENTS_AT_ONCE);
            match reached {
                Some(reached) => at = reached,
                None => break,
            }
        }
        for row in rows.iter().rev() {
            let back = u64::try_from(EVENTS_AT_ONCE).unwrap_or(u64::MAX);
            let mut before = row.position;
            while !missing.is_empty() && budget > 0 && before > at.number() {
                before = before.saturating_sub(back).max(at.number());
                self.look(Position::new(before), EVENTS_AT_ONCE, &mut missing, &mut found)?;
                budget = budget.saturating_sub(EVENTS_AT_ONCE);
            }
        }
        Ok((found.into_values().collect(), missing.is_empty()))
    }

    /// The position before the first event of an instant or later, by halves.
    fn first_at(&self, at: Instant) -> Result<Position, StoreError> {
        let (mut low, mut high) = (0_u64, self.until.number());
        while low < high {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            let event = self.reader.events(Position::new(middle), 1)?;
            match event.first() {
                Some(event) if event.at < at => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        Ok(Position::new(low))
    }

    /// Looks through events behind a position, and says how far it came; `None` at the end.
    fn look(
        &self,
        after: Position,
        limit: usize,
        missing: &mut Coverage,
        found: &mut BTreeMap<u64, Evidence>,
    ) -> Result<Option<Position>, StoreError> {
        let events = self.reader.events(after, limit)?;
        let mut reached = None;
        for event in events.iter().take_while(|event| event.position <= self.until) {
            reached = Some(event.position);
            if event.kind != EventKind::UsageAccepted.number() {
                continue;
            }
            let recorded = Recorded::decode(&event.payload).map_err(|error| StoreError(error.to_string()))?;
            let Event::UsageAccepted(batch) = recorded.event else { continue };
            let mine = batch.records().filter(|record| record.instance == self.instance.as_str());
            let reported: Vec<Interval> =
                mine.filter_map(|record| record.interval.intersection(self.window)).collect();
            if reported.is_empty() {
                continue;
            }
            reported.iter().for_each(|part| missing.remove(*part));
            let (position, agent) = (event.position.number(), batch.agent().to_string());
            found.insert(position, Evidence { position, at: event.at, agent, reported });
            if missing.is_empty() {
                break;
            }
        }
        Ok(reached)
    }
}

/// The accruals between the first report and the last row, between the accounts of the lines.
fn accruals(
    reader: &dyn Reader,
    hour: &HourExplained,
    evidence: &[Evidence],
    rows: &[RowExplained],
    until: Position,
) -> Result<Vec<TransferExplained>, StoreError> {
    let first = evidence.first().map_or(0, |evidence| evidence.position);
    let last = rows.last().map_or(until.number(), |row| row.position);
    let unbilled = format!("assets:unbilled:{}", hour.tenant);
    let is_one = |row: &TransferRow| {
        let revenue = |account: &str| {
            let ends = |line: &LineExplained| account.ends_with(&format!(":{}", line.model));
            account.starts_with("income:revenue:") && hour.lines.iter().any(ends)
        };
        let (debit, credit) = (row.debit.to_string(), row.credit.to_string());
        (debit == unbilled && revenue(&credit)) || (credit == unbilled && revenue(&debit))
    };
    let filter = TransferFilter { tenant: Some(hour.tenant.clone()), account: Some(unbilled.clone()) };
    let after = RowKey { position: Position::new(first), line: 0 };
    let page = Page { after, until: Position::new(last), limit: PAGE_ROWS_MAX };
    let found = reader.transfers(&filter, page)?;
    Ok(found.iter().filter(|it| is_one(&it.row)).take(TRANSFERS_MAX).map(explain_transfer).collect())
}

fn explain_transfer(Keyed { key, row }: &Keyed<TransferRow>) -> TransferExplained {
    TransferExplained {
        position: key.position.number(),
        line: key.line,
        code: row.code.as_str(),
        debit: row.debit.to_string(),
        credit: row.credit.to_string(),
        amount: row.amount.to_string(),
        reverses: row.reverses.map(Position::number),
    }
}

/// Explains a line of a stored invoice, counted from 1. `None` where it has no such line. Blocks on the
/// store.
pub fn invoice_line(
    reader: &dyn Reader,
    invoice: &Invoice,
    finalised_at: Position,
    line: usize,
) -> Result<Option<InvoiceLineExplained>, StoreError> {
    let Some(text) = line.checked_sub(1).and_then(|index| invoice.lines.get(index)) else { return Ok(None) };
    let (usage, usage_is_complete) = usage_of(reader, invoice, text, finalised_at)?;
    let after = RowKey { position: Position::new(finalised_at.number().saturating_sub(1)), line: u32::MAX };
    let page = Page { after, until: finalised_at, limit: TRANSFERS_MAX };
    let filter = TransferFilter { tenant: Some(invoice.tenant.clone()), account: None };
    let transfers = reader.transfers(&filter, page)?;
    Ok(Some(InvoiceLineExplained {
        tenant: invoice.tenant.clone(),
        number: invoice.number,
        line,
        text: text.clone(),
        how: in_words(invoice, text),
        usage,
        usage_is_complete,
        prices: invoice.provenance.prices.clone(),
        position: invoice.provenance.position.number(),
        transfers: transfers.iter().map(explain_transfer).collect(),
    }))
}

/// The usage that a line counts: of its project, platform and model in its period.
fn usage_of(
    reader: &dyn Reader,
    invoice: &Invoice,
    line: &InvoiceLine,
    until: Position,
) -> Result<(Vec<UsageExplained>, bool), StoreError> {
    let (Some(project), LineKind::Usage) = (&line.project, line.kind) else { return Ok((Vec::new(), true)) };
    // The invoice knows its own period; of an earlier one the month is near enough to look in.
    let window = if line.correction {
        line.period.interval()
    } else {
        invoice.interval().unwrap_or(line.period.interval())
    };
    let filter = ChargeFilter {
        tenant: Some(invoice.tenant.clone()),
        project: Some(project.clone()),
        instance: None,
        from: Some(Hour::containing(window.start())),
        until: Some(Hour::containing(window.end())),
    };
    let sums = reader.usage(&UsageQuery { filter, until, by_instance: true, span_ms: 0 })?;
    let is_mine = |platform: &hourglass_units::Platform, model| {
        line.platform.as_ref() == Some(platform) && line.model == Some(model)
    };
    let mine: Vec<_> = sums.into_iter().filter(|sum| is_mine(&sum.platform, sum.model)).collect();
    let complete = mine.len() <= INVOICE_LINE_INSTANCES_MAX;
    let usage = mine.into_iter().take(INVOICE_LINE_INSTANCES_MAX).map(|sum| {
        let quantity = hourglass_units::Quantity::from_nanos(sum.quantity_nanos);
        UsageExplained {
            instance: sum.instance.map(|it| it.to_string()).unwrap_or_default(),
            unit_price: sum.price.to_string(),
            quantity: quantity.to_string(),
            amount: sum.price.times(quantity).to_string(),
        }
    });
    Ok((usage.collect(), complete))
}

/// How the line came about, a sentence each.
fn in_words(invoice: &Invoice, line: &InvoiceLine) -> Vec<String> {
    let mut how = Vec::new();
    if line.correction {
        how.push(format!(
            "a correction: {} was charged differently before, this is the difference to what invoices hold of it",
            line.period
        ));
    }
    match line.kind {
        LineKind::Usage => how.push("GPU-hours × price per GPU-hour, exactly".to_owned()),
        LineKind::Fee => how.push("what the reservation costs in the period, whether used or not".to_owned()),
        LineKind::Minimum => {
            how.push("what usage and fees of the period lack to the agreed minimum".to_owned())
        }
        LineKind::TrueUp => {
            how.push("what was drawn lacks to the commitment at the end of its term".to_owned())
        }
        LineKind::Promotion => how.push("paid by credit that was given; its sign is turned".to_owned()),
        LineKind::Prepaid => how.push("paid by credit that was bought; its sign is turned".to_owned()),
    }
    if let Some(rule) = &line.rule {
        how.push(format!("by the rule: {rule}; within a period the dearest GPU-hours come first"));
    }
    how.push(format!(
        "rounded from {} to {} {} by largest remainder, so that the lines sum to the rounded total",
        line.exact_amount, line.amount, invoice.currency
    ));
    how
}
