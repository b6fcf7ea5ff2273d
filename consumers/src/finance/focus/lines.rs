//! Rows of documents: what an invoice holds beside the usage of single hours.

use std::collections::BTreeMap;

use hourglass_ledger::core::State;
use hourglass_ledger::core::invoicing::{Invoice, InvoiceLine, LineKind};
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, RowKey};
use hourglass_units::{Amount, Interval, Month, Price, Quantity};

use super::super::columnar::Cell;
use super::columns::{ChargeKind, Col, Row};
use super::documents::{DocIx, Document};
use super::export::{Common, Costs, Export, FocusError, Progress, Sink, fill};
use super::groups::{GroupIx, Key};
use super::usage::{account_name, month_text, reserved, sku, unit_prices};

/// What a document holds of the usage of a group in a period, and by which rules.
#[derive(Default)]
struct Held {
    amount: Amount,
    rules: Vec<String>,
}

impl<S: Sink> Export<'_, S> {
    /// The rows of invoices and credit notes.
    pub(super) fn invoices(&mut self, progress: Progress<'_>) -> Result<(), FocusError> {
        let until = self.state.position();
        let mut after = RowKey::default();
        loop {
            let rows = self.reader.invoices(None, Page { after, until, limit: PAGE_ROWS_MAX })?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.key;
            for stored in rows.into_iter().map(|keyed| keyed.row) {
                let Some(ix) = self.documents.find(&stored.tenant, stored.number) else { continue };
                if !self.wanted.has(stored.period) {
                    continue;
                }
                let invoice = Invoice::from_document(&stored.document)
                    .map_err(|error| FocusError::Inconsistent(error.to_string()))?;
                self.lines(ix, &invoice.lines)?;
                let tax = invoice.tax.as_ref().map_or(Amount::ZERO, |tax| tax.on_top());
                self.whole(ix, ChargeKind::Tax, "Tax", tax)?;
                self.whole(ix, ChargeKind::Rounding, "Rounding to minor units", invoice.rounding)?;
            }
            progress(after.position);
        }
    }

    /// The rows of the invoices to come.
    pub(super) fn drafts(&mut self) -> Result<(), FocusError> {
        let wanted = &self.wanted;
        let open = self.documents.iter().filter(|(_, it)| it.number.is_none() && wanted.has(it.period));
        let open: Vec<(DocIx, Vec<InvoiceLine>)> = open.map(|(ix, it)| (ix, it.open.clone())).collect();
        for (ix, lines) in open {
            self.lines(ix, &lines)?;
        }
        Ok(())
    }

    /// The rows of a document's lines: one for each line that is no usage, and for usage what the
    /// document holds above or below the rows of its hours.
    fn lines(&mut self, ix: DocIx, lines: &[InvoiceLine]) -> Result<(), FocusError> {
        let document = self.documents.get(ix).ok_or(FocusError::TooLarge)?;
        let (tenant, currency) = (document.tenant.clone(), document.currency);
        let mut held: BTreeMap<(GroupIx, Month), Held> = BTreeMap::new();
        for line in lines {
            if line.kind != LineKind::Usage {
                self.line(ix, line)?;
                continue;
            }
            let key = Key::of_line(&tenant, line)
                .ok_or_else(|| FocusError::Inconsistent(format!("a line of {tenant} without a SKU")))?;
            let group = self.groups.of(self.state, key, currency).ok_or(FocusError::TooLarge)?;
            let sum = held.entry((group, line.period)).or_default();
            sum.amount = sum.amount.checked_add(line.exact_amount).ok_or(FocusError::TooLarge)?;
            sum.rules.extend(line.rule.clone());
        }
        let of_it = (ix, GroupIx::MIN, Month::containing(hourglass_units::INSTANT_MIN));
        let charged = self.charged.range(of_it..).take_while(|((document, ..), _)| *document == ix);
        let charged: Vec<_> = charged.map(|((_, group, period), sum)| ((*group, *period), *sum)).collect();
        for (key, sum) in charged {
            let held = held.entry(key).or_default();
            held.amount = held.amount.checked_sub(sum).ok_or(FocusError::TooLarge)?;
        }
        for ((group, period), held) in held {
            if !held.amount.is_zero() {
                self.rules(ix, group, period, &held)?;
            }
        }
        Ok(())
    }

    /// What the rules of a contract made of the usage of a group.
    fn rules(&mut self, ix: DocIx, group: GroupIx, period: Month, held: &Held) -> Result<(), FocusError> {
        let document = self.documents.get(ix).ok_or(FocusError::TooLarge)?;
        let group = self.groups.get(group).ok_or(FocusError::TooLarge)?;
        let mut rules: Vec<&str> = held.rules.iter().map(String::as_str).collect();
        rules.sort_unstable();
        rules.dedup();
        let rule = (!rules.is_empty()).then(|| rules.join("; "));
        let description = match &rule {
            Some(rule) => format!("{}: {rule}", group.description),
            // Usage that came between the last tick and the invoice: the rows say it of the next one.
            None => format!("{}: known when the invoice was drawn", group.description),
        };
        let costs = Costs::all(held.amount);
        let mut row = Row::new();
        let text = month_text(period);
        let time = self.state.period_interval(&document.tenant, period);
        let common = common(
            (self.state, self.provider),
            document,
            ChargeKind::ContractRules,
            (period, &text),
            time,
            &description,
        );
        fill(&mut row, document, &common, costs);
        sku(&mut row, group, ChargeKind::ContractRules);
        row.set(Col::Rule, rule.as_deref());
        Self::emit(&mut self.sink, &mut self.totals, document, &row, ChargeKind::ContractRules, costs)
    }

    /// A line that is no usage.
    fn line(&mut self, ix: DocIx, line: &InvoiceLine) -> Result<(), FocusError> {
        if line.kind == LineKind::Fee {
            return self.fee(ix, line);
        }
        let (kind, what) = match line.kind {
            LineKind::Minimum => (ChargeKind::Minimum, "What the period lacks to its minimum"),
            LineKind::TrueUp => (ChargeKind::TrueUp, "What the commitment lacks at the end of its term"),
            LineKind::Prepaid => (ChargeKind::Prepaid, "Paid by credit that was bought"),
            _ => (ChargeKind::Promotion, "Paid by credit that was given"),
        };
        let description = match (&line.rule, &line.credit) {
            (Some(rule), _) => format!("{what}: {rule}"),
            (None, Some(credit)) => format!("{what}: {credit}"),
            (None, None) => what.to_owned(),
        };
        let rule = line.rule.clone().or_else(|| line.credit.as_ref().map(ToString::to_string));
        let document = self.documents.get(ix).ok_or(FocusError::TooLarge)?;
        let costs = Costs::all(line.exact_amount);
        let mut row = Row::new();
        let text = month_text(line.period);
        let time = self.state.period_interval(&document.tenant, line.period);
        let common =
            common((self.state, self.provider), document, kind, (line.period, &text), time, &description);
        fill(&mut row, document, &common, costs);
        row.set(Col::Rule, rule.as_deref());
        Self::emit(&mut self.sink, &mut self.totals, document, &row, kind, costs)
    }

    /// The purchase of a reservation, or what of it falls into the period. What it is worth stands on the
    /// rows of its hours, so its own effective cost is nothing.
    fn fee(&mut self, ix: DocIx, line: &InvoiceLine) -> Result<(), FocusError> {
        let document = self.documents.get(ix).ok_or(FocusError::TooLarge)?;
        let lost = || FocusError::Inconsistent(format!("a fee of {} without a reservation", document.tenant));
        let key = Key::of_line(&document.tenant, line).ok_or_else(lost)?;
        let group = self.groups.of(self.state, key, document.currency).ok_or(FocusError::TooLarge)?;
        let group = self.groups.get(group).ok_or_else(lost)?;
        let (held, upfront) = group.held.ok_or_else(lost)?;
        let period = self.state.period_interval(&document.tenant, line.period);
        let time = if upfront { held } else { held.intersection(period).unwrap_or(period) };
        let quantity = line.quantity.unwrap_or_default();
        let reservation = group.reservation.as_ref().ok_or_else(lost)?;
        let description = format!("Reservation {reservation} of {}", group.platform);
        let costs = Costs { effective: Amount::ZERO, ..Costs::all(line.exact_amount) };
        let mut row = Row::new();
        let text = month_text(line.period);
        let mut common = common(
            (self.state, self.provider),
            document,
            ChargeKind::Purchase,
            (line.period, &text),
            time,
            &description,
        );
        common.frequency = if upfront { "One-Time" } else { "Recurring" };
        fill(&mut row, document, &common, costs);
        sku(&mut row, group, ChargeKind::Purchase);
        reserved(&mut row, group, None, Some(quantity));
        row.set(Col::ResourceId, reservation.as_str());
        row.set(Col::ResourceType, "GPU reservation");
        match price_of(line.exact_amount, quantity) {
            Some(price) => {
                unit_prices(&mut row, price.into(), price.into());
                row.set(Col::PricingQuantity, quantity);
                row.set(Col::PricingUnit, "GPU-Hours");
            }
            // A total that no price per GPU-hour gives, or one that is taken back: one piece of it, or
            // one piece back.
            None => {
                let back = line.exact_amount < Amount::ZERO;
                let attos = line.exact_amount.attos();
                let unit = Cell::Decimal(attos.checked_abs().ok_or(FocusError::TooLarge)?);
                unit_prices(&mut row, unit, unit);
                let one: i64 = if back { -1_000_000_000 } else { 1_000_000_000 };
                row.set(Col::PricingQuantity, Quantity::from_nanos(one));
                row.set(Col::PricingUnit, "Reservations");
            }
        }
        Self::emit(&mut self.sink, &mut self.totals, document, &row, ChargeKind::Purchase, costs)
    }

    /// What bears on a whole document.
    fn whole(&mut self, ix: DocIx, kind: ChargeKind, what: &str, amount: Amount) -> Result<(), FocusError> {
        if amount.is_zero() {
            return Ok(());
        }
        let document = self.documents.get(ix).ok_or(FocusError::TooLarge)?;
        let costs = Costs::all(amount);
        let mut row = Row::new();
        let text = month_text(document.period);
        let common = common(
            (self.state, self.provider),
            document,
            kind,
            (document.period, &text),
            document.interval,
            what,
        );
        let common = Common { correction: false, ..common };
        fill(&mut row, document, &common, costs);
        Self::emit(&mut self.sink, &mut self.totals, document, &row, kind, costs)
    }
}

fn common<'c>(
    (state, provider): (&'c State, &'c str),
    document: &'c Document,
    kind: ChargeKind,
    (period, charged_period): (Month, &'c str),
    time: Interval,
    description: &'c str,
) -> Common<'c> {
    let tenant = state.tenant(&document.tenant);
    Common {
        account_name: account_name(tenant.map_or("", |it| it.display_name.as_str()), document),
        provider,
        charged_period,
        kind,
        frequency: "One-Time",
        time,
        correction: document.corrects(period),
        description,
        position: None,
    }
}

/// The price that gives an amount for a quantity exactly, where there is one.
fn price_of(amount: Amount, quantity: Quantity) -> Option<Price> {
    let nanos = amount.attos().checked_div(i128::from(quantity.nanos()))?;
    let price = Price::from_nanos(i64::try_from(nanos).ok()?).ok()?;
    (price.times(quantity) == amount).then_some(price)
}
