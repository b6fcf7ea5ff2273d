//! Invoices: drawn by a pure function of the state, so that a preview, the finalised document and a
//! later recomputation are the same bytes (I-2).
//!
//! An invoice takes whatever is owed for periods up to its own and no invoice holds yet: of its own
//! period all of it, of earlier ones the difference, which is a correction (I-3).

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::invoice::apportion;
use hourglass_pricing::settle::{Item, ItemKey, Source};
use hourglass_pricing::tax::{TaxKind, Taxed};
use hourglass_units::{Amount, Instant, Month, TenantId};

use super::Inconsistent;
use super::accounts::{Booking, Ground, Reach, accrue, differences, items, some_quantity, transfer};
use super::book::{Account, TransferCode};
use super::command::Position;
use super::credits::CreditKind;
use super::rejection::Rejection;
use super::rows::{InvoiceRow, Rows, TransferRow};
use super::state::{FinalisedInvoice, InvoiceStatus, State, Tenant};

pub use super::invoice::{
    CommitmentStatus, ENGINE, Invoice, InvoiceError, InvoiceKind, InvoiceLine, InvoiceTax, LineKind,
    Provenance,
};

/// What an invoice holds of each item.
pub(crate) type HeldItems = Vec<(ItemKey, Item)>;

/// Draws the invoice of a tenant's period from the state. `number` 0 makes a draft.
pub fn draw(
    state: &State,
    id: &TenantId,
    period: Month,
    number: u64,
    issued_at: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    draw_kind(state, InvoiceKind::Invoice, id, period, number, issued_at, chain_hash)
}

/// Draws a document of either kind.
pub fn draw_kind(
    state: &State,
    kind: InvoiceKind,
    id: &TenantId,
    period: Month,
    number: u64,
    issued_at: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    let tenant = state.tenants.get(id).ok_or_else(|| Rejection::TenantUnknown { tenant: id.clone() })?;
    let held = open_items(state, id, tenant, period, issued_at)?;
    let overflow = || Rejection::AmountOverflow;
    let mut drafts: Vec<InvoiceLine> =
        held.iter().filter_map(|(key, item)| line(state, id, tenant, period, *key, *item)).collect();
    if kind == InvoiceKind::CreditNote {
        drafts.iter_mut().for_each(|line| line.correction = true);
    }
    drafts.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));

    let exact: Vec<Amount> = drafts.iter().map(|line| line.exact_amount).collect();
    let rounded = apportion(&exact, tenant.currency).ok_or_else(overflow)?;
    let payable = |minor| Amount::from_minor_units(minor, tenant.currency).ok_or_else(overflow);
    let total = payable(rounded.total)?;
    let taxed = drafts.iter().zip(&rounded.lines).filter(|(line, _)| line.kind.is_taxed());
    let taxed: Vec<i128> = taxed.map(|(_, minor)| *minor).collect();
    let tax =
        tenant.tax.as_ref().map(|rule| Ok::<_, Rejection>((rule, rule.of(&taxed).ok_or_else(overflow)?)));
    let tax = tax.transpose()?;
    let mut line_taxes = tax.as_ref().and_then(|(_, taxed)| taxed.lines.clone()).map(Vec::into_iter);
    for (line, minor) in drafts.iter_mut().zip(rounded.lines) {
        line.amount = payable(minor)?;
        if let Some(taxes) = line_taxes.as_mut().filter(|_| line.kind.is_taxed()) {
            line.tax = taxes.next().map(payable).transpose()?;
        }
    }
    let tax = match tax {
        None => None,
        Some((rule, Taxed { total, .. })) => {
            let base =
                taxed.iter().try_fold(0_i128, |sum, minor| sum.checked_add(*minor)).ok_or_else(overflow)?;
            Some(InvoiceTax { rule: rule.clone(), base: payable(base)?, amount: payable(total)? })
        }
    };
    let on_top = tax.as_ref().map_or(Amount::ZERO, InvoiceTax::on_top);
    let interval = state.calendars.of(id).interval(period);
    Ok(Invoice {
        kind,
        tenant: id.clone(),
        number,
        period,
        period_start: interval.start(),
        period_end: interval.end(),
        currency: tenant.currency,
        issued_at,
        exact_total: total.checked_sub(rounded.rounding).ok_or_else(overflow)?,
        rounding: rounded.rounding,
        total,
        due: total.checked_add(on_top).ok_or_else(overflow)?,
        tax,
        commitments: commitments(state, id, tenant, period, issued_at)?,
        provenance: Provenance {
            position: state.position,
            chain_hash: chain_hash.to_hex().to_string(),
            prices: sources(state, id, &drafts),
            engine: ENGINE.to_owned(),
        },
        lines: drafts,
    })
}

/// What is owed for periods up to one, with that one over, and no invoice holds yet.
fn open_items(
    state: &State,
    id: &TenantId,
    tenant: &Tenant,
    period: Month,
    now: Instant,
) -> Result<HeldItems, Rejection> {
    let items = all_items(state, id, tenant, period, now)?;
    let everything = Month::containing(hourglass_units::INSTANT_MIN);
    let open = differences(tenant, everything, &items, |posted| posted.invoiced);
    let mut open = open.map_err(|_| Rejection::AmountOverflow)?;
    open.retain(|(key, _)| key.period <= period);
    Ok(open)
}

/// All that is owed, with a period over.
fn all_items(
    state: &State,
    id: &TenantId,
    tenant: &Tenant,
    period: Month,
    now: Instant,
) -> Result<BTreeMap<ItemKey, Item>, Rejection> {
    let mut reach = Reach::all(&state.calendars, id, now);
    reach.over = reach.over.max(Some(period));
    items(state.ground(), id, tenant, reach, &[]).map_err(|_| Rejection::AmountOverflow)
}

/// The line of an item; none where nobody owes it.
fn line(
    state: &State,
    id: &TenantId,
    tenant: &Tenant,
    period: Month,
    key: ItemKey,
    item: Item,
) -> Option<InvoiceLine> {
    let mut line = InvoiceLine {
        kind: LineKind::Usage,
        period: key.period,
        correction: key.period < period,
        project: None,
        platform: None,
        region: None,
        model: None,
        reservation: None,
        credit: None,
        rule: None,
        price: None,
        quantity: some_quantity(item.quantity),
        exact_amount: item.amount,
        amount: Amount::ZERO,
        tax: None,
    };
    match key.source {
        Source::Usage { group, price, step } => {
            let group = state.groups.get(group)?;
            line.project = Some(group.project.clone());
            line.platform = Some(group.sku.platform.clone());
            line.region = Some(group.sku.region.clone());
            line.model = Some(group.sku.model);
            line.price = Some(price);
            let held = group.reservation.and_then(|ix| state.reservations.get(ix));
            line.reservation = held.map(|held| held.reservation.draft().reservation.clone());
            line.rule = state.rule_of(id, key.period, step);
        }
        Source::Fee { reservation } => {
            let held = state.reservations.get(reservation)?;
            line.kind = LineKind::Fee;
            line.project = Some(held.reservation.draft().project.clone());
            line.platform = Some(held.reservation.draft().platform.clone());
            line.region = state.cell.as_ref().map(|cell| cell.region.clone());
            line.reservation = Some(held.reservation.draft().reservation.clone());
        }
        Source::Minimum | Source::TrueUp => {
            let (kind, rule) = match key.source {
                Source::Minimum => (LineKind::Minimum, "minimum"),
                _ => (LineKind::TrueUp, "commitment"),
            };
            line.kind = kind;
            line.rule = state.agreement_at(id, key.period).map(|source| format!("{rule} of {source}"));
        }
        Source::Credit { grant } => {
            let grant = tenant.credits.get(grant as usize)?;
            line.kind = match grant.kind {
                CreditKind::Prepaid | CreditKind::Yield => LineKind::Prepaid,
                CreditKind::Promotional | CreditKind::Sla => LineKind::Promotion,
            };
            line.credit = Some(grant.credit.clone());
            line.exact_amount = item.amount.checked_neg()?;
        }
        Source::Drawdown => return None,
    }
    Some(line)
}

/// What is owed, what is corrected, and then what credit paid.
fn sort_key(line: &InvoiceLine) -> impl Ord + '_ {
    let paid = matches!(line.kind, LineKind::Promotion | LineKind::Prepaid);
    let place = (&line.project, &line.platform, line.model, &line.reservation, &line.credit);
    ((paid, line.correction, line.kind, line.period), place, (line.price, &line.rule, line.quantity))
}

/// How far the commitments are that run in the period.
fn commitments(
    state: &State,
    id: &TenantId,
    tenant: &Tenant,
    period: Month,
    now: Instant,
) -> Result<Vec<CommitmentStatus>, Rejection> {
    let agreements = state.prices.agreements(id, state.calendars.of(id));
    let holds = |first: Month, last: Option<Month>| first <= period && last.is_none_or(|last| period <= last);
    let mut running =
        agreements.iter().filter(|it| holds(it.first, it.last) && it.terms.commitment.is_some()).peekable();
    if running.peek().is_none() {
        return Ok(Vec::new());
    }
    let items = all_items(state, id, tenant, period, now)?;
    let mut found = Vec::new();
    for agreement in running {
        let Some(commitment) = &agreement.terms.commitment else { continue };
        let drawn = items.iter().filter(|(key, _)| {
            key.source == Source::Drawdown && agreement.first <= key.period && key.period <= period
        });
        let drawn = drawn.map(|(_, item)| item.amount).try_fold(Amount::ZERO, |sum, it| sum.checked_add(it));
        found.push(CommitmentStatus {
            contract: agreement.source.to_string(),
            amount: commitment.amount,
            drawn: drawn.ok_or(Rejection::AmountOverflow)?,
        });
    }
    Ok(found)
}

/// The versions of cards and contracts that bear on the lines.
fn sources(state: &State, id: &TenantId, lines: &[InvoiceLine]) -> Vec<String> {
    let calendar = state.calendars.of(id);
    let periods: BTreeSet<Month> =
        lines.iter().filter(|line| line.kind == LineKind::Usage).map(|line| line.period).collect();
    let mut sources = BTreeSet::new();
    for (_, group) in state.groups.of_tenant(id) {
        let charged =
            group.buckets().iter().filter(|it| periods.contains(&it.period) && !it.charged.is_zero());
        let charged: BTreeSet<Month> = charged.map(|bucket| bucket.period).collect();
        for interval in charged.into_iter().map(|period| calendar.interval(period)) {
            for step in group.prices.within(interval) {
                sources.insert(step.source.to_string());
                sources.extend(step.list.as_ref().map(|(list, _)| list.to_string()));
            }
        }
    }
    sources.extend(periods.into_iter().filter_map(|period| state.agreement_at(id, period)));
    sources.into_iter().collect()
}

/// Checks that the period can be finalised and draws its invoice.
pub(crate) fn plan(
    state: &State,
    id: &TenantId,
    period: Month,
    now: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    let tenant = state.tenants.get(id).ok_or_else(|| Rejection::TenantUnknown { tenant: id.clone() })?;
    let closed = tenant.invoices.iter().find(|(_, it)| it.closes() && it.period == period);
    if let Some((number, _)) = closed {
        return Err(Rejection::PeriodFinalised { tenant: id.clone(), period, number: *number });
    }
    let grace_ms = state.cell.as_ref().ok_or(Rejection::CellNotOpen)?.policy.grace_ms;
    let from = state.calendars.of(id).interval(period).end().saturating_add_ms(grace_ms);
    if now < from {
        return Err(Rejection::PeriodOpen { period, from });
    }
    if let Some(later) = tenant.closed_until().filter(|last| *last > period) {
        return Err(Rejection::LaterPeriodFinalised { tenant: id.clone(), period, later });
    }
    let open = open_items(state, id, tenant, period, now)?;
    let earlier = open.iter().map(|(key, _)| key.period).filter(|it| *it < period);
    if let Some(earlier) = earlier.filter(|it| tenant.closed_until().is_none_or(|last| *it > last)).min() {
        return Err(Rejection::EarlierPeriodOpen { tenant: id.clone(), earlier });
    }
    draw(state, id, period, tenant.next_number(), now, chain_hash)
}

/// Checks that closed periods were charged too much and draws the credit note.
pub(crate) fn plan_credit_note(
    state: &State,
    id: &TenantId,
    now: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    let tenant = state.tenants.get(id).ok_or_else(|| Rejection::TenantUnknown { tenant: id.clone() })?;
    let nothing = || Rejection::NothingToCredit { tenant: id.clone() };
    let last = tenant.closed_until().ok_or_else(nothing)?;
    let kind = InvoiceKind::CreditNote;
    let note = draw_kind(state, kind, id, last, tenant.next_number(), now, chain_hash)?;
    if note.due < Amount::ZERO { Ok(note) } else { Err(nothing()) }
}

/// Every invoice that can be finalised at `now`, in an order in which that works.
pub fn due(state: &State, now: Instant) -> Vec<(TenantId, Month)> {
    let grace_ms = state.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
    let mut due = open_periods(state, now);
    due.retain(|(tenant, period)| {
        state.calendars.of(tenant).interval(*period).end().saturating_add_ms(grace_ms) <= now
    });
    due
}

/// Every billing period that an invoice is still to be drawn for, those that run included, by tenant and in order.
pub(crate) fn open_periods(state: &State, now: Instant) -> Vec<(TenantId, Month)> {
    let mut all = Vec::new();
    // What was accrued is known to be open or not; what was not is found out.
    let unsettled = state.to_settle(None, now);
    for (id, tenant) in &state.tenants {
        let last = tenant.closed_until();
        let fresh = unsettled.get(id).map(|_| unsettled_keys(state, id, tenant, now)).unwrap_or_default();
        // I-3: where a closed period turned out to be different, the period after the last invoice is due
        // even without usage of its own, or nothing would ever bring the correction to who left.
        let open = tenant.items.uninvoiced().copied().chain(fresh);
        let open = open.map(|key| last.map_or(key.period, |last| key.period.max(last.next())));
        let periods: BTreeSet<Month> = open.collect();
        all.extend(periods.into_iter().map(|period| (id.clone(), period)));
    }
    all
}

/// What a tenant owes and no invoice holds yet, as the lines that it will be billed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLines {
    /// Whose.
    pub tenant: TenantId,
    /// The billing period on whose invoice they will stand: their own, or the one after the last that is
    /// closed.
    pub period: Month,
    /// In the order of an invoice, with nothing rounded.
    pub lines: Vec<InvoiceLine>,
}

/// What no invoice holds yet, of all tenants, by tenant and billing period, as things are now.
///
/// With the invoices that are not void it makes all that is owed: each item is on exactly one of them.
pub fn open_lines(state: &State) -> Result<Vec<OpenLines>, Rejection> {
    let everything = Month::containing(hourglass_units::INSTANT_MIN);
    let mut found = Vec::new();
    for (id, tenant) in &state.tenants {
        let reach = Reach::all(&state.calendars, id, state.now);
        let open = items(state.ground(), id, tenant, reach, &[])
            .and_then(|items| differences(tenant, everything, &items, |posted| posted.invoiced))
            .map_err(|_| Rejection::AmountOverflow)?;
        let next = tenant.closed_until().map(Month::next);
        let mut periods: BTreeMap<Month, Vec<InvoiceLine>> = BTreeMap::new();
        for (key, item) in open {
            let period = next.map_or(key.period, |next| key.period.max(next));
            let line = line(state, id, tenant, period, key, item);
            periods.entry(period).or_default().extend(line);
        }
        for (period, mut lines) in periods {
            lines.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
            found.push(OpenLines { tenant: id.clone(), period, lines });
        }
    }
    Ok(found)
}

/// What no invoice holds of a tenant that is not settled.
fn unsettled_keys(state: &State, id: &TenantId, tenant: &Tenant, now: Instant) -> Vec<ItemKey> {
    let reach = Reach::all(&state.calendars, id, now);
    let open = items(state.ground(), id, tenant, reach, &[])
        .and_then(|items| differences(tenant, reach.from, &items, |posted| posted.invoiced));
    open.unwrap_or_default().into_iter().map(|(key, _)| key).collect()
}

/// Books a finalised invoice or credit note.
pub(crate) fn finalise(
    state: &mut State,
    invoice: &Invoice,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let id = &invoice.tenant;
    let held = {
        let tenant =
            state.tenants.get(id).ok_or_else(|| Inconsistent::new("an invoice of an unknown tenant"))?;
        if invoice.number != tenant.next_number() {
            return Err(Inconsistent::new("an invoice out of sequence"));
        }
        open_items(state, id, tenant, invoice.period, at)
            .map_err(|error| Inconsistent::new(error.to_string()))?
    };
    let mut reach = Reach::all(&state.calendars, id, at);
    reach.over = reach.over.max(Some(invoice.period));
    let State { tenants, groups, prices, calendars, reservations, book, .. } = state;
    let tenant = tenants.get_mut(id).ok_or_else(|| Inconsistent::new("an invoice of an unknown tenant"))?;
    let ground = Ground { groups, prices, calendars, reservations };
    accrue(ground, book, (id, tenant), reach, Booking { position, at }, rows)?;
    for (key, item) in &held {
        tenant
            .items
            .update(*key, |posted| posted.invoiced = add(posted.invoiced, *item).unwrap_or(posted.accrued));
    }

    let last = tenant.invoices.last_key_value().map(|(_, invoice)| invoice.position);
    let mut moves = Moves { id, tenant_currency: invoice.currency, at, reverses: None, book, rows };
    let receivable = Account::Receivable(id.clone());
    let billed = [TransferCode::Invoice, TransferCode::CreditNote];
    // B-2: what is credited was charged on an earlier invoice, the last one at the latest.
    moves.reverses = last.filter(|_| invoice.exact_total < Amount::ZERO);
    moves.post(&receivable, &Account::Unbilled(id.clone()), invoice.exact_total, billed)?;
    moves.reverses = None;
    moves.post(&receivable, &Account::Rounding, invoice.rounding, [TransferCode::Rounding; 2])?;
    if let Some(tax) = &invoice.tax {
        let from = match tax.rule.kind {
            TaxKind::Exclusive => &receivable,
            TaxKind::Inclusive => &Account::IncludedTax,
        };
        moves.post(from, &Account::Tax, tax.amount, [TransferCode::Tax; 2])?;
    }
    let finalised = FinalisedInvoice {
        kind: invoice.kind,
        period: invoice.period,
        position,
        total: invoice.total,
        due: invoice.due,
        paid: Amount::ZERO,
        set_off: Amount::ZERO,
        status: InvoiceStatus::Open,
        content: invoice.content_hash(),
        exact_total: invoice.exact_total,
        rounding: invoice.rounding,
        tax: invoice.tax.as_ref().map(|tax| (tax.rule.kind, tax.amount)),
        held,
    };
    tenant.invoices.insert(invoice.number, finalised);
    set_off(tenant)?;
    rows.invoice(InvoiceRow {
        tenant: id.clone(),
        number: invoice.number,
        period: invoice.period,
        document: invoice.to_document().into(),
    });
    Ok(())
}

/// Sets what is owed to a tenant off against what it owes, the earlier document first, and says which
/// documents are paid. It is found anew whenever a document comes, is paid or is voided. All of it stands
/// on the receivable already, so nothing is posted.
fn set_off(tenant: &mut Tenant) -> Result<(), Inconsistent> {
    let overflow = || Inconsistent::new("a payment out of range");
    let mut open = BTreeMap::new();
    for (number, invoice) in tenant.invoices.iter_mut().filter(|(_, it)| it.status != InvoiceStatus::Void) {
        invoice.set_off = Amount::ZERO;
        open.insert(*number, invoice.due.checked_sub(invoice.paid).ok_or_else(overflow)?);
    }
    loop {
        let first = |owed: fn(Amount) -> bool| {
            open.iter().find(|(_, it)| owed(**it)).map(|(number, it)| (*number, *it))
        };
        let (Some((credit, back)), Some((debit, owed))) =
            (first(|open| open < Amount::ZERO), first(|open| open > Amount::ZERO))
        else {
            break;
        };
        let amount = owed.min(back.checked_neg().ok_or_else(overflow)?);
        for (number, amount) in [(credit, amount.checked_neg().ok_or_else(overflow)?), (debit, amount)] {
            let invoice = tenant.invoices.get_mut(&number).ok_or_else(overflow)?;
            invoice.set_off = invoice.set_off.checked_add(amount).ok_or_else(overflow)?;
            let rest = open.entry(number).or_default();
            *rest = rest.checked_sub(amount).ok_or_else(overflow)?;
        }
    }
    for (number, rest) in open {
        let invoice = tenant.invoices.get_mut(&number).ok_or_else(overflow)?;
        invoice.status = if rest.is_zero() { InvoiceStatus::Paid } else { InvoiceStatus::Open };
    }
    Ok(())
}

/// Books a payment, or one back where the amount is below zero.
pub(crate) fn pay(
    state: &mut State,
    id: &TenantId,
    number: u64,
    amount: Amount,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let unknown = || Inconsistent::new("a payment of an unknown invoice");
    let State { tenants, book, .. } = state;
    let tenant = tenants.get_mut(id).ok_or_else(unknown)?;
    let currency = tenant.currency;
    let invoice = tenant.invoices.get_mut(&number).ok_or_else(unknown)?;
    invoice.paid = invoice.paid.checked_add(amount).ok_or_else(unknown)?;
    set_off(tenant)?;
    let mut moves = Moves { id, tenant_currency: currency, at, reverses: None, book, rows };
    moves.post(&Account::Cash, &Account::Receivable(id.clone()), amount, [TransferCode::Payment; 2])
}

/// Takes an invoice back: what it held is open again.
pub(crate) fn void(
    state: &mut State,
    id: &TenantId,
    number: u64,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let unknown = || Inconsistent::new("the voiding of an unknown invoice");
    let State { tenants, book, .. } = state;
    let tenant = tenants.get_mut(id).ok_or_else(unknown)?;
    let currency = tenant.currency;
    let invoice = tenant.invoices.get_mut(&number).ok_or_else(unknown)?;
    invoice.status = InvoiceStatus::Void;
    for (key, item) in std::mem::take(&mut invoice.held) {
        tenant
            .items
            .update(key, |posted| posted.invoiced = sub(posted.invoiced, item).unwrap_or(posted.invoiced));
    }
    let (exact_total, rounding, tax) = (invoice.exact_total, invoice.rounding, invoice.tax);
    let reverses = Some(invoice.position);
    set_off(tenant)?;
    let mut moves = Moves { id, tenant_currency: currency, at, reverses, book, rows };
    let receivable = Account::Receivable(id.clone());
    let code = [TransferCode::Void; 2];
    moves.post(&Account::Unbilled(id.clone()), &receivable, exact_total, code)?;
    moves.post(&Account::Rounding, &receivable, rounding, code)?;
    match tax {
        Some((TaxKind::Exclusive, tax)) => moves.post(&Account::Tax, &receivable, tax, code),
        Some((TaxKind::Inclusive, tax)) => moves.post(&Account::Tax, &Account::IncludedTax, tax, code),
        None => Ok(()),
    }
}

fn add(a: Item, b: Item) -> Option<Item> {
    Some(Item { quantity: a.quantity.checked_add(b.quantity)?, amount: a.amount.checked_add(b.amount)? })
}

fn sub(a: Item, b: Item) -> Option<Item> {
    Some(Item { quantity: a.quantity.checked_sub(b.quantity)?, amount: a.amount.checked_sub(b.amount)? })
}

/// Posts what an invoice moves, in the direction of its sign.
struct Moves<'a, R: Rows> {
    id: &'a TenantId,
    tenant_currency: hourglass_units::Currency,
    at: Instant,
    reverses: Option<Position>,
    book: &'a mut super::book::Book,
    rows: &'a mut R,
}

impl<R: Rows> Moves<'_, R> {
    fn post(
        &mut self,
        debit: &Account,
        credit: &Account,
        amount: Amount,
        [code, negative]: [TransferCode; 2],
    ) -> Result<(), Inconsistent> {
        if amount.is_zero() {
            return Ok(());
        }
        let (debit, credit, amount, code) = if amount < Amount::ZERO {
            let amount = amount.checked_neg().ok_or_else(|| Inconsistent::new("an amount out of range"))?;
            (credit, debit, amount, negative)
        } else {
            (debit, credit, amount, code)
        };
        let accounts = (debit.clone(), credit.clone());
        let row = transfer(self.id, accounts, (amount, self.tenant_currency), code, self.at);
        self.book.post(TransferRow { reverses: self.reverses, ..row }, self.rows)
    }
}
