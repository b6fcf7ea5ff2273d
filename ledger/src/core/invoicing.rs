//! Invoices: drawn by a pure function of the state, so that a preview, the finalised document and a
//! later recomputation are the same bytes (I-2).

use std::collections::BTreeMap;

use hourglass_pricing::invoice::apportion;
use hourglass_pricing::{PurchaseModel, Sku};
use hourglass_units::{
    Amount, Currency, Instant, Month, Platform, Price, ProjectId, Quantity, Region, TenantId,
};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::book::{Account, TransferCode, accrue};
use super::command::{Position, Rejection};
use super::rows::{InvoiceRow, Rows, TransferRow};
use super::state::{FinalisedInvoice, State, Tenant};

/// The version of the arithmetic. It changes when, and only when, the same log would give another
/// document.
pub const ENGINE: &str = "hourglass-rating/1";

/// An invoice. Its canonical form is the JSON of its fields in this order, without white space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// Who pays.
    pub tenant: TenantId,
    /// Gapless per tenant, from 1; 0 in a draft.
    pub number: u64,
    /// The month that it closes.
    pub period: Month,
    /// Of every amount on it.
    pub currency: Currency,
    /// When it was drawn.
    pub issued_at: Instant,
    /// Usage of the month, then corrections of earlier months.
    pub lines: Vec<InvoiceLine>,
    /// Σ of the lines' exact amounts.
    pub exact_total: Amount,
    /// Total less exact total.
    pub rounding: Amount,
    /// What is to be paid: Σ of the lines' amounts, and the exact total rounded half to even (I-1).
    pub total: Amount,
    /// From what it was computed.
    pub provenance: Provenance,
}

/// One line: what was used of one SKU in one project at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceLine {
    /// Usage of the month, or a correction of an earlier one.
    pub kind: LineKind,
    /// The month of the usage (I-3: a correction names its period).
    pub period: Month,
    /// For which project.
    pub project: ProjectId,
    /// On which platform.
    pub platform: Platform,
    /// In which region.
    pub region: Region,
    /// How it was sold.
    pub model: PurchaseModel,
    /// Per GPU-hour.
    pub price: Price,
    /// GPU-hours.
    pub quantity: Quantity,
    /// Price × quantity, exactly.
    pub exact_amount: Amount,
    /// In minor units, by largest remainder.
    pub amount: Amount,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// Usage of the invoice's month.
    Usage,
    /// What an earlier, closed month turned out to lack or to have too much.
    Correction,
}

/// I-2: what an invoice was computed from, so that anyone with the log can do it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The log up to here.
    pub position: Position,
    /// The hash of the chain there: it commits to every input.
    pub chain_hash: String,
    /// The versions of rate cards and contracts in force for what was billed.
    pub prices: Vec<String>,
    /// The version of the arithmetic.
    pub engine: String,
}

/// Bytes that are no invoice in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an invoice: {0}")]
pub struct InvoiceError(String);

impl Invoice {
    /// The canonical bytes.
    pub fn to_document(&self) -> Vec<u8> {
        // A struct of strings and numbers has no value that JSON lacks.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads canonical bytes; refuses any others, so that there is one text for an invoice.
    pub fn from_document(document: &[u8]) -> Result<Self, InvoiceError> {
        let invoice: Self =
            serde_json::from_slice(document).map_err(|error| InvoiceError(error.to_string()))?;
        if invoice.to_document() != document {
            return Err(InvoiceError("it is not in canonical form".to_owned()));
        }
        Ok(invoice)
    }

    /// BLAKE3 of what it says: all but when and from which log it was drawn.
    pub fn content_hash(&self) -> [u8; 32] {
        let said = (
            &self.tenant,
            self.number,
            self.period,
            self.currency,
            &self.lines,
            self.exact_total,
            self.total,
        );
        *blake3::hash(&serde_json::to_vec(&said).unwrap_or_default()).as_bytes()
    }
}

/// Draws the invoice of a tenant's month from the state: everything charged up to the end of the
/// month that no invoice holds yet. `number` 0 makes a draft.
pub fn draw(
    state: &State,
    tenant_id: &TenantId,
    period: Month,
    number: u64,
    issued_at: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    let unknown = || Rejection::TenantUnknown { tenant: tenant_id.clone() };
    let tenant = state.tenants.get(tenant_id).ok_or_else(unknown)?;
    let overflow = || Rejection::AmountOverflow;

    let mut quantities: BTreeMap<(LineKind, Month, ProjectId, Sku, Price), Quantity> = BTreeMap::new();
    let mut prices = std::collections::BTreeSet::new();
    for group in state.groups.of_tenant(tenant_id) {
        for bucket in group.buckets.iter().filter(|bucket| bucket.period <= period) {
            let open = bucket.uninvoiced().ok_or_else(overflow)?;
            if open.is_zero() {
                continue;
            }
            let kind = if bucket.period == period { LineKind::Usage } else { LineKind::Correction };
            let key = (kind, bucket.period, group.project.clone(), group.sku.clone(), bucket.price);
            let sum = quantities.entry(key).or_default();
            *sum = sum.checked_add(open).ok_or_else(overflow)?;
            let in_force =
                group.prices.within(bucket.period.interval()).filter(|step| step.price == bucket.price);
            prices.extend(in_force.map(|step| step.source.to_string()));
        }
    }
    let exact: Vec<Amount> =
        quantities.iter().map(|((.., price), quantity)| price.times(*quantity)).collect();
    let rounded = apportion(&exact, tenant.currency).ok_or_else(overflow)?;
    let payable = |minor| Amount::from_minor_units(minor, tenant.currency).ok_or_else(overflow);
    let total = payable(rounded.total)?;
    let lines = quantities.into_iter().zip(exact).zip(rounded.lines).map(
        |((((kind, period, project, sku, price), quantity), exact_amount), minor)| {
            let Sku { platform, region, model } = sku;
            let amount = payable(minor)?;
            Ok(InvoiceLine {
                kind,
                period,
                project,
                platform,
                region,
                model,
                price,
                quantity,
                exact_amount,
                amount,
            })
        },
    );
    Ok(Invoice {
        tenant: tenant_id.clone(),
        number,
        period,
        currency: tenant.currency,
        issued_at,
        lines: lines.collect::<Result<_, Rejection>>()?,
        exact_total: total.checked_sub(rounded.rounding).ok_or_else(overflow)?,
        rounding: rounded.rounding,
        total,
        provenance: Provenance {
            position: state.position,
            chain_hash: chain_hash.to_hex().to_string(),
            prices: prices.into_iter().collect(),
            engine: ENGINE.to_owned(),
        },
    })
}

/// Checks that the month can be finalised and draws its invoice.
pub(crate) fn plan(
    state: &State,
    tenant: &TenantId,
    period: Month,
    now: Instant,
    chain_hash: &blake3::Hash,
) -> Result<Invoice, Rejection> {
    let account =
        state.tenants.get(tenant).ok_or_else(|| Rejection::TenantUnknown { tenant: tenant.clone() })?;
    if let Some(invoice) = account.invoices.get(&period) {
        let number = invoice.number;
        return Err(Rejection::PeriodFinalised { tenant: tenant.clone(), period, number });
    }
    let grace_ms = state.cell.as_ref().ok_or(Rejection::CellNotOpen)?.policy.grace_ms;
    let from = period.end().saturating_add_ms(grace_ms);
    if now < from {
        return Err(Rejection::PeriodOpen { period, from });
    }
    let last = account.invoices.last_key_value().map(|(last, _)| *last);
    if let Some(later) = last.filter(|last| *last > period) {
        return Err(Rejection::LaterPeriodFinalised { tenant: tenant.clone(), period, later });
    }
    if let Some(earlier) = open_periods(state, tenant).find(|open| *open < period) {
        return Err(Rejection::EarlierPeriodOpen { tenant: tenant.clone(), earlier });
    }
    let number = u64::try_from(account.invoices.len()).unwrap_or(u64::MAX).saturating_add(1);
    draw(state, tenant, period, number, now, chain_hash)
}

/// The months of a tenant that have charges and no invoice, and come after its last one.
fn open_periods(state: &State, tenant: &TenantId) -> impl Iterator<Item = Month> {
    let last = state
        .tenants
        .get(tenant)
        .and_then(|account| account.invoices.last_key_value())
        .map(|(last, _)| *last);
    let charged = state.groups.of_tenant(tenant).flat_map(|group| &group.buckets);
    let open: std::collections::BTreeSet<Month> = charged
        .filter(|bucket| last.is_none_or(|last| bucket.period > last))
        .filter(|bucket| bucket.uninvoiced().is_none_or(|open| !open.is_zero()))
        .map(|bucket| bucket.period)
        .collect();
    open.into_iter()
}

/// Every invoice that can be finalised at `now`, in an order in which that works.
pub fn due(state: &State, now: Instant) -> Vec<(TenantId, Month)> {
    let grace_ms = state.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
    let mut due = Vec::new();
    for (tenant, account) in &state.tenants {
        let mut months: std::collections::BTreeSet<Month> = open_periods(state, tenant).collect();
        months.extend(correcting_period(state, tenant, account));
        let ended = months.into_iter().filter(|period| period.end().saturating_add_ms(grace_ms) <= now);
        due.extend(ended.map(|period| (tenant.clone(), period)));
    }
    due
}

/// I-3: where a closed month turned out to be different, the month after the last invoice is due even
/// without usage of its own, or nothing would ever bring the correction to who left.
fn correcting_period(state: &State, id: &TenantId, account: &Tenant) -> Option<Month> {
    let (last, _) = account.invoices.last_key_value()?;
    let mut closed =
        state.groups.of_tenant(id).flat_map(|group| &group.buckets).filter(|bucket| bucket.period <= *last);
    closed.any(|bucket| bucket.uninvoiced().is_none_or(|open| !open.is_zero())).then(|| last.next())
}

/// Books a finalised invoice.
pub(crate) fn finalise(
    state: &mut State,
    invoice: &Invoice,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let State { tenants, groups, book, .. } = state;
    let tenant = &invoice.tenant;
    let account =
        tenants.get_mut(tenant).ok_or_else(|| Inconsistent::new("an invoice of an unknown tenant"))?;
    let expected = u64::try_from(account.invoices.len()).unwrap_or(u64::MAX).saturating_add(1);
    if invoice.number != expected || account.invoices.contains_key(&invoice.period) {
        return Err(Inconsistent::new("an invoice out of sequence"));
    }
    accrue(groups, book, Some(tenant), position, at, rows)?;
    groups.for_each_bucket_of(tenant, |bucket| {
        if bucket.period <= invoice.period {
            bucket.invoiced = bucket.charged;
        }
    });

    let last_invoice = account.invoices.last_key_value().map(|(_, invoice)| invoice.position);
    let receivable = Account::Receivable(tenant.clone());
    let unbilled = Account::Unbilled(tenant.clone());
    let mut move_to_receivable = |from: Account, amount: Amount, [code, reversed_code]: [TransferCode; 2]| {
        let (debit, credit, amount, code) = if amount < Amount::ZERO {
            let amount = amount.checked_neg().ok_or_else(|| Inconsistent::new("an amount out of range"))?;
            (from, receivable.clone(), amount, reversed_code)
        } else {
            (receivable.clone(), from, amount, code)
        };
        if amount.is_zero() {
            return Ok(());
        }
        let (tenant, currency) = (tenant.clone(), invoice.currency);
        // B-2: what is credited was charged on an earlier invoice, the last one at the latest.
        let reverses = if code == TransferCode::CreditNote { last_invoice } else { None };
        book.post(TransferRow { tenant, debit, credit, amount, currency, code, at, reverses }, rows)
    };
    move_to_receivable(unbilled, invoice.exact_total, [TransferCode::Invoice, TransferCode::CreditNote])?;
    move_to_receivable(Account::Rounding, invoice.rounding, [TransferCode::Rounding; 2])?;

    account.invoices.insert(
        invoice.period,
        FinalisedInvoice {
            number: invoice.number,
            position,
            total: invoice.total,
            content: invoice.content_hash(),
        },
    );
    rows.invoice(InvoiceRow {
        tenant: tenant.clone(),
        number: invoice.number,
        period: invoice.period,
        document: invoice.to_document().into(),
    });
    Ok(())
}
