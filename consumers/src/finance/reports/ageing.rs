//! Receivables by age: what customers owe on invoices, by how long it is overdue.
//!
//! An invoice names no day by which it is to be paid. It is due so many days after it was issued, by terms that whoever
//! asks names: [`TERMS_DAYS`] where nobody does. What is owed to a customer, such as a credit note that nothing could
//! be set off against, stands apart. All of it together is what stands on the receivable account.

use std::collections::BTreeMap;

use hourglass_ledger::core::{Account, FinalisedInvoice, Position, State};
use hourglass_ledger::store::Reader;
use hourglass_units::{Amount, Currency, Instant, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Book, ReportError, Table, Tabular, add, as_of, limited, subtract};
use crate::billing::report::AsOf;

/// Days in which an invoice is to be paid, where nobody says otherwise.
pub const TERMS_DAYS: u16 = 30;
/// Milliseconds in a day.
const DAY_MS: i64 = 24 * 3_600_000;

/// The invoices of which something is open, as the state holds them.
#[derive(Debug, Clone)]
pub struct OpenInvoices {
    book: Book,
    open: BTreeMap<(TenantId, Currency), Vec<(u64, FinalisedInvoice)>>,
}

impl OpenInvoices {
    /// Of a state.
    pub fn of(state: &State) -> Self {
        let of_tenant = |(id, tenant): (&TenantId, &hourglass_ledger::core::Tenant)| {
            let open = tenant.invoices.iter().filter(|(_, it)| !it.open().is_zero());
            ((id.clone(), tenant.currency), open.map(|(number, it)| (*number, it.clone())).collect())
        };
        Self { book: Book::of(state), open: state.tenants().map(of_tenant).collect() }
    }
}

/// Receivables by age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceivablesAgeing {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// The time at which it is counted how long something is overdue, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// Days in which an invoice is to be paid.
    pub terms_days: u16,
    /// A tenant a row.
    pub rows: Vec<AgeingRow>,
    /// A document of which something is open a row, each of which is in one column of its tenant's.
    pub invoices: Vec<OpenInvoice>,
}

/// What a tenant owes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgeingRow {
    /// Who.
    pub tenant: String,
    /// ISO 4217.
    pub currency: String,
    /// Not due yet.
    pub not_due: String,
    /// Overdue for less than 31 days.
    pub days_0_30: String,
    /// For 31 to 60 days.
    pub days_31_60: String,
    /// For 61 to 90 days.
    pub days_61_90: String,
    /// For longer.
    pub over_90: String,
    /// What is owed to the tenant, below zero.
    pub owed_to_tenant: String,
    /// Σ.
    pub total: String,
    /// What stands on the tenant's receivable account.
    pub book: String,
    /// Total less book: 0, or something is wrong.
    pub difference: String,
}

/// A document of which something is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenInvoice {
    /// Whose.
    pub tenant: String,
    /// Its number.
    pub number: u64,
    /// Its billing period.
    pub period: String,
    /// When it was issued, RFC 3339.
    #[schema(format = DateTime)]
    pub issued_at: String,
    /// When it is to be paid, RFC 3339.
    #[schema(format = DateTime)]
    pub due_at: String,
    /// Whole days since then; below zero where it is not due yet.
    pub days_overdue: i64,
    /// What is open of it.
    pub open: String,
    /// ISO 4217.
    pub currency: String,
}

/// The columns: not due, four ages, owed to the tenant.
const COLUMNS: usize = 6;

/// In which column an amount belongs that is overdue for so many milliseconds.
const fn column(open: Amount, overdue_ms: i64) -> usize {
    if open.attos() < 0 {
        return 5;
    }
    match overdue_ms.div_euclid(DAY_MS) {
        ..0 => 0,
        0..=30 => 1,
        31..=60 => 2,
        61..=90 => 3,
        _ => 4,
    }
}

/// Draws the report. `at` is the time at which age is counted: that of the state where absent.
pub fn receivables_ageing(
    reader: &dyn Reader,
    invoices: &OpenInvoices,
    terms_days: u16,
    at: Option<Instant>,
) -> Result<ReceivablesAgeing, ReportError> {
    let book = &invoices.book;
    let at = at.unwrap_or(book.now);
    let (mut rows, mut listed) = (Vec::new(), Vec::new());
    for ((tenant, currency), open) in &invoices.open {
        let mut columns = [Amount::ZERO; COLUMNS];
        let mut total = Amount::ZERO;
        for (number, invoice) in open {
            let issued_at = issued_at(reader, invoice.position)?;
            let due_at = issued_at.saturating_add_ms(i64::from(terms_days).saturating_mul(DAY_MS));
            let (open, overdue_ms) = (invoice.open(), at.ms_since(due_at));
            if let Some(sum) = columns.get_mut(column(open, overdue_ms)) {
                add(sum, open)?;
            }
            add(&mut total, open)?;
            listed.push(OpenInvoice {
                tenant: tenant.to_string(),
                number: *number,
                period: invoice.period.to_string(),
                issued_at: issued_at.to_string(),
                due_at: due_at.to_string(),
                days_overdue: overdue_ms.div_euclid(DAY_MS),
                open: open.to_string(),
                currency: currency.to_string(),
            });
        }
        let account = Account::Receivable(tenant.clone());
        let stands = book.balances.get(&(*currency, account)).copied().unwrap_or_default();
        let mut difference = total;
        subtract(&mut difference, stands)?;
        if open.is_empty() && stands.is_zero() {
            continue;
        }
        let [not_due, days_0_30, days_31_60, days_61_90, over_90, owed_to_tenant] =
            columns.map(|sum| sum.to_string());
        rows.push(AgeingRow {
            tenant: tenant.to_string(),
            currency: currency.to_string(),
            not_due,
            days_0_30,
            days_31_60,
            days_61_90,
            over_90,
            owed_to_tenant,
            total: total.to_string(),
            book: stands.to_string(),
            difference: difference.to_string(),
        });
    }
    let (rows, invoices) = (limited(rows)?, limited(listed)?);
    Ok(ReceivablesAgeing { as_of: book.as_of(), at: at.to_string(), terms_days, rows, invoices })
}

/// When an invoice was issued: the time of its event.
fn issued_at(reader: &dyn Reader, position: Position) -> Result<Instant, ReportError> {
    let time = as_of(reader, position)?.time;
    time.parse().map_err(|_| ReportError::Overflow)
}

impl Tabular for ReceivablesAgeing {
    fn table(&self) -> Table {
        let row = |it: &AgeingRow| {
            let names = [&it.tenant, &it.currency];
            let ages = [&it.not_due, &it.days_0_30, &it.days_31_60, &it.days_61_90, &it.over_90];
            names.into_iter().chain(ages).chain([&it.owed_to_tenant, &it.total]).cloned().collect()
        };
        Table {
            head: &[
                "tenant",
                "currency",
                "not_due",
                "days_0_30",
                "days_31_60",
                "days_61_90",
                "over_90",
                "owed_to_tenant",
                "total",
            ],
            numbers: &[2, 3, 4, 5, 6, 7, 8],
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_no_gap_and_no_overlap() {
        let owed = Amount::parse("1").unwrap();
        for (days, ms, expected) in [
            (-400, 0, 0),
            (0, -1, 0),
            (0, 0, 1),
            (30, 0, 1),
            (31, -1, 1),
            (31, 0, 2),
            (61, -1, 2),
            (61, 0, 3),
            (91, -1, 3),
            (91, 0, 4),
            (4_000, 0, 4),
        ] {
            assert_eq!(column(owed, days * DAY_MS + ms), expected, "{days} days and {ms} ms");
            assert_eq!(column(owed.checked_neg().unwrap(), days * DAY_MS + ms), 5);
        }
    }
}
