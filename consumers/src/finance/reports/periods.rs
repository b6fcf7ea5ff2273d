//! The months of the book: where each stands, and what it still lacks.

use hourglass_ledger::core::State;
use hourglass_ledger::core::periods::{MISSING_NAMED_MAX, PeriodStatus};
use hourglass_units::{Instant, Month};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Table, Tabular};

/// A month of the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BookPeriod {
    /// The UTC month of booking, `YYYY-MM`.
    pub period: String,
    /// `open` while it runs, `soft` when it is over, `hard` when it is closed for good.
    pub status: String,
    /// From when it can be closed, RFC 3339: the grace for late usage has run out then.
    #[schema(format = DateTime)]
    pub closable_from: String,
    /// How many invoices of it are missing; only where it is over and not closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoices_missing: Option<usize>,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingInvoice>,
    /// Transfers that were booked in it, by now or when it was closed.
    pub transfers: u64,
    /// Charge rows of its hours, by now or when it was closed.
    pub charges: u64,
    /// Rows of unused reserved hours, by now or when it was closed.
    pub unused: u64,
    /// BLAKE3 of all these rows, where it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where in the log it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_position: Option<u64>,
    /// When it was closed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub closed_at: Option<String>,
}

/// An invoice that a month lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingInvoice {
    /// Whose.
    pub tenant: String,
    /// Of which billing period.
    pub period: String,
}

/// The months in which something was booked or used, in order.
pub fn book_periods(state: &State, now: Instant) -> impl Iterator<Item = BookPeriod> + '_ {
    state.periods().months().map(move |month| book_period(state, month, now))
}

/// One month; nothing may be in it.
pub fn book_period(state: &State, month: Month, now: Instant) -> BookPeriod {
    let periods = state.periods();
    let (status, closed) = (periods.status(month, now), periods.closed(month));
    let is = periods.rows(month);
    let now_has = [is.transfers.rows, is.charges.rows, is.unused.rows];
    let [transfers, charges, unused] = closed.map_or(now_has, |closed| closed.rows);
    let missing = (status == PeriodStatus::Soft).then(|| state.missing_invoices(month, now));
    BookPeriod {
        period: month.to_string(),
        status: status.as_str().to_owned(),
        closable_from: state.month_grace_end(month).to_string(),
        invoices_missing: missing.as_ref().map(Vec::len),
        missing: missing
            .into_iter()
            .flatten()
            .take(MISSING_NAMED_MAX)
            .map(|(tenant, period)| MissingInvoice { tenant: tenant.to_string(), period: period.to_string() })
            .collect(),
        transfers,
        charges,
        unused,
        digest: closed.map(|closed| blake3::Hash::from_bytes(closed.digest).to_hex().to_string()),
        closed_position: closed.map(|closed| closed.position.number()),
        closed_at: closed.map(|closed| closed.at.to_string()),
    }
}

/// The months as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BookPeriods(pub Vec<BookPeriod>);

impl Tabular for BookPeriods {
    fn table(&self) -> Table {
        let row = |it: &BookPeriod| {
            let digest: String = it.digest.as_deref().unwrap_or_default().chars().take(16).collect();
            let missing = it.invoices_missing.map(|count| count.to_string()).unwrap_or_default();
            let counts = [it.transfers, it.charges, it.unused].map(|count| count.to_string());
            let names = [it.period.clone(), it.status.clone(), it.closable_from.clone(), missing];
            names
                .into_iter()
                .chain(counts)
                .chain([it.closed_at.clone().unwrap_or_default(), digest])
                .collect()
        };
        Table {
            head: &[
                "period",
                "status",
                "closable_from",
                "invoices_missing",
                "transfers",
                "charges",
                "unused",
                "closed_at",
                "digest",
            ],
            numbers: &[3, 4, 5, 6],
            rows: self.0.iter().map(row).collect(),
        }
    }
}
