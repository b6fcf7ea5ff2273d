//! What a line of a stored invoice is made of.

use std::collections::BTreeMap;

use hourglass_ledger::core::Position;
use hourglass_ledger::core::invoicing::{Invoice, InvoiceLine, LineKind};
use hourglass_ledger::store::{
    ChargeFilter, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError, TransferFilter, UsageQuery,
};
use hourglass_units::{Amount, Hour, InstanceId, Interval, Price, Quantity, ReservationId, TenantId};
use serde::Serialize;

use super::{TRANSFERS_MAX, TransferExplained, explain_transfer};

/// Most instances that are listed for an invoice line.
pub const INVOICE_LINE_INSTANCES_MAX: usize = 1_000;
/// Most charge rows that are added up for a line of reserved usage.
pub const INVOICE_LINE_CHARGES_MAX: usize = 100_000;

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
    /// The usage of each instance that the line counts, at its unit price, as the rows of the period had
    /// it when the invoice was drawn. Of a line without a rule that is what it charges; a rule shares the
    /// usage of all prices out among its lines; of a correction it is the whole period, of which earlier
    /// invoices hold the rest. Ask for the charges of an instance and hour for more.
    pub usage: Vec<UsageExplained>,
    /// Its GPU-hours.
    pub usage_quantity: Quantity,
    /// Whether that is all: beyond a limit no more is listed, or added up.
    pub usage_is_complete: bool,
    /// The versions of cards and contracts that the invoice rests on.
    pub prices: Vec<String>,
    /// The log position that it was computed at.
    pub position: u64,
    /// What was posted when it was finalised: the invoice as a whole.
    pub transfers: Vec<TransferExplained>,
}

/// The usage of an instance within the period of an invoice line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageExplained {
    /// Whose usage.
    pub instance: InstanceId,
    /// Per GPU-hour.
    pub unit_price: Price,
    /// GPU-hours.
    pub quantity: Quantity,
    /// Unit price × quantity.
    pub amount: Amount,
}

/// Explains a line of a stored invoice, counted from 1. `None` where it has no such line.
///
/// `period` is the time of the line's own period by the customer's calendar, which the invoice knows
/// only of the period that it closes: see [`period_of`]. Blocks on the store.
pub fn invoice_line(
    reader: &dyn Reader,
    invoice: &Invoice,
    finalised_at: Position,
    line: usize,
    period: Interval,
) -> Result<Option<InvoiceLineExplained>, StoreError> {
    let Some(text) = line.checked_sub(1).and_then(|index| invoice.lines.get(index)) else { return Ok(None) };
    let usage = Usage { reader, invoice, line: text, period, until: finalised_at }.find()?;
    let mut usage_quantity = Quantity::ZERO;
    for it in &usage.found {
        let sum = usage_quantity.checked_add(it.quantity);
        usage_quantity = sum.ok_or_else(|| StoreError("GPU-hours out of range".to_owned()))?;
    }
    let listed: Vec<_> = usage.found.iter().take(INVOICE_LINE_INSTANCES_MAX).cloned().collect();
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
        usage_is_complete: usage.is_complete && listed.len() == usage.found.len(),
        usage: listed,
        usage_quantity,
        prices: invoice.provenance.prices.clone(),
        position: invoice.provenance.position.number(),
        transfers: transfers.iter().map(explain_transfer).collect(),
    }))
}

/// The billing period of a line, where the invoice has it.
pub fn period_of(invoice: &Invoice, line: usize) -> Option<hourglass_units::Month> {
    line.checked_sub(1).and_then(|index| invoice.lines.get(index)).map(|line| line.period)
}

/// Looks for the usage that a line counts.
struct Usage<'a> {
    reader: &'a dyn Reader,
    invoice: &'a Invoice,
    line: &'a InvoiceLine,
    period: Interval,
    until: Position,
}

struct Found {
    found: Vec<UsageExplained>,
    is_complete: bool,
}

impl Usage<'_> {
    fn find(&self) -> Result<Found, StoreError> {
        let nothing = Found { found: Vec::new(), is_complete: true };
        match (self.line.kind, &self.line.project, &self.line.reservation) {
            (LineKind::Usage, Some(_), None) => self.by_sums(),
            (LineKind::Usage, Some(_), Some(reservation)) => self.by_rows(reservation),
            _ => Ok(nothing),
        }
    }

    /// The rows of the line's project in its period, which begins and ends with a UTC hour.
    fn filter(&self) -> ChargeFilter {
        ChargeFilter {
            tenant: Some(self.invoice.tenant.clone()),
            project: self.line.project.clone(),
            instance: None,
            from: Some(Hour::containing(self.period.start())),
            until: Some(Hour::containing(self.period.end())),
        }
    }

    /// A line that no rule shared out has one unit price, which is its own.
    fn is_price(&self, price: Price) -> bool {
        self.line.rule.is_some() || self.line.price == Some(price)
    }

    /// As the store adds it up, which does not keep reservations apart.
    fn by_sums(&self) -> Result<Found, StoreError> {
        let query = UsageQuery { filter: self.filter(), until: self.until, by_instance: true, span_ms: 0 };
        let line = self.line;
        let sums = self.reader.usage(&query)?.into_iter().filter(|sum| {
            line.platform.as_ref() == Some(&sum.platform)
                && line.region.as_ref() == Some(&sum.region)
                && line.model == Some(sum.model)
                && sum.quantity_nanos != 0
                && self.is_price(sum.price)
        });
        let found = sums.filter_map(|sum| {
            let quantity = Quantity::from_nanos(sum.quantity_nanos);
            Some(explain_usage((sum.instance?, sum.price), quantity))
        });
        Ok(Found { found: found.collect(), is_complete: true })
    }

    /// Row by row.
    fn by_rows(&self, reservation: &ReservationId) -> Result<Found, StoreError> {
        let filter = self.filter();
        let mut page = Page { after: RowKey::default(), until: self.until, limit: PAGE_ROWS_MAX };
        let mut sums: BTreeMap<(InstanceId, Price), Quantity> = BTreeMap::new();
        let mut read = 0_usize;
        let is_complete = loop {
            let rows = self.reader.charges(&filter, page)?;
            let Some(last) = rows.last() else { break true };
            page.after = last.key;
            read = read.saturating_add(rows.len());
            for row in rows.into_iter().map(|keyed| keyed.row) {
                if row.reservation.as_ref() == Some(reservation) && self.is_price(row.price) {
                    let sum = sums.entry((row.instance, row.price)).or_default();
                    let more = sum.checked_add(row.quantity);
                    *sum = more.ok_or_else(|| StoreError("GPU-hours out of range".to_owned()))?;
                }
            }
            if read >= INVOICE_LINE_CHARGES_MAX {
                break false;
            }
        };
        let found = sums.into_iter().filter(|(_, quantity)| !quantity.is_zero());
        Ok(Found { found: found.map(|(key, quantity)| explain_usage(key, quantity)).collect(), is_complete })
    }
}

fn explain_usage((instance, unit_price): (InstanceId, Price), quantity: Quantity) -> UsageExplained {
    UsageExplained { instance, unit_price, quantity, amount: unit_price.times(quantity) }
}

/// How the line came about, a sentence each.
fn in_words(invoice: &Invoice, line: &InvoiceLine) -> Vec<String> {
    let mut how = Vec::new();
    if line.correction {
        how.push(format!(
            "a correction: {} comes out differently from what earlier invoices hold, this is the difference",
            line.period
        ));
    }
    how.push(match line.kind {
        LineKind::Usage => match line.quantity.zip(line.price) {
            Some((quantity, price)) => {
                format!("{quantity} GPU-hours × {price} per GPU-hour = {}, exactly", line.exact_amount)
            }
            None => "GPU-hours × price per GPU-hour, exactly".to_owned(),
        },
        LineKind::Fee => "what the reservation costs in the period, whether used or not".to_owned(),
        LineKind::Minimum => "what usage and fees of the period lack to the agreed minimum".to_owned(),
        LineKind::TrueUp => "what was drawn lacks to the commitment at the end of its term".to_owned(),
        LineKind::Promotion => "paid by credit that was given; its sign is turned".to_owned(),
        LineKind::Prepaid => "paid by credit that was bought; its sign is turned".to_owned(),
    });
    if let Some(rule) = &line.rule {
        how.push(match line.kind {
            LineKind::Usage => format!(
                "by the rule: {rule}; within a period the dearest GPU-hours come first, so the usage \
                 of all unit prices is shared out among the lines of the period"
            ),
            _ => format!("by the rule: {rule}"),
        });
    }
    how.push(format!(
        "rounded from {} to {} {} by largest remainder, so that the lines sum to the rounded total",
        line.exact_amount, line.amount, invoice.currency
    ));
    how
}
