//! Revenue from the book: what each month earned, by tenant, platform and how it was sold.
//!
//! A month is that in which it was booked. Income that no platform earned has its own name: what tenants lacked to a
//! minimum or a commitment, credit that expired, rounding, and tax within prices, which is taken back.

use std::collections::BTreeMap;
use std::str::FromStr;

use hourglass_ledger::core::{Account, Position};
use hourglass_ledger::store::{Keyed, Reader, TransferFilter};
use hourglass_units::{Amount, Currency, Instant, Month};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ReportError, Table, Tabular, add, as_of, limited, subtract};
use crate::billing::report::AsOf;
use crate::finance::span::{Span, each_transfer};

/// What a revenue report keeps apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevenueBy {
    /// In which UTC month it was booked.
    Month,
    /// From whom.
    Tenant,
    /// On which platform, or by what else.
    Platform,
    /// How it was sold.
    Model,
}

impl RevenueBy {
    /// Every choice, in the order of the columns.
    pub const ALL: [Self; 4] = [Self::Month, Self::Tenant, Self::Platform, Self::Model];

    /// The name in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Tenant => "tenant",
            Self::Platform => "platform",
            Self::Model => "model",
        }
    }
}

/// The text names nothing by which revenue can be grouped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot group revenue by {0:?}: use month, tenant, platform or model")]
pub struct UnknownRevenueBy(String);

impl FromStr for RevenueBy {
    type Err = UnknownRevenueBy;

    fn from_str(text: &str) -> Result<Self, UnknownRevenueBy> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or_else(|| UnknownRevenueBy(text.chars().take(48).collect()))
    }
}

/// Which revenue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevenueQuery {
    /// What to keep apart.
    pub by: Vec<RevenueBy>,
    /// What was booked from this time on.
    pub start: Option<Instant>,
    /// What was booked before this time.
    pub end: Option<Instant>,
}

/// Revenue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revenue {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// A group and currency a row.
    pub rows: Vec<RevenueRow>,
}

/// The revenue of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevenueRow {
    /// The UTC month of booking, `YYYY-MM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub month: Option<String>,
    /// From whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// On which platform; `shortfall`, `breakage`, `rounding` or `included-tax` where none earned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How it was sold; empty where no platform earned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Credits less debits of the income accounts. An exact decimal.
    pub amount: String,
    /// ISO 4217.
    pub currency: String,
}

/// Adds up revenue, of a log that ends at `head`.
pub fn revenue(reader: &dyn Reader, head: Position, query: &RevenueQuery) -> Result<Revenue, ReportError> {
    let span = Span::between(reader, head, query.start, query.end)?;
    let mut sums: BTreeMap<([Option<String>; 4], Currency), Amount> = BTreeMap::new();
    each_transfer(reader, &TransferFilter::default(), span, |Keyed { row, .. }| {
        for (account, is_credit) in [(&row.credit, true), (&row.debit, false)] {
            let Some((platform, model)) = income(account) else { continue };
            let mut group = [const { None }; 4];
            for (by, cell) in RevenueBy::ALL.into_iter().zip(&mut group) {
                if query.by.contains(&by) {
                    *cell = Some(match by {
                        RevenueBy::Month => Month::containing(row.at).to_string(),
                        RevenueBy::Tenant => row.tenant.to_string(),
                        RevenueBy::Platform => platform.clone(),
                        RevenueBy::Model => model.to_owned(),
                    });
                }
            }
            let sum = sums.entry((group, row.currency)).or_default();
            if is_credit { add(sum, row.amount)? } else { subtract(sum, row.amount)? }
        }
        if sums.len() > super::REPORT_ROWS_MAX { Err(ReportError::TooManyRows) } else { Ok(()) }
    })?;
    let rows = sums.into_iter().map(|(([month, tenant, platform, model], currency), amount)| RevenueRow {
        month,
        tenant,
        platform,
        model,
        amount: amount.to_string(),
        currency: currency.to_string(),
    });
    Ok(Revenue { as_of: as_of(reader, span.until)?, rows: limited(rows.collect())? })
}

/// What an account of the income class earns by.
fn income(account: &Account) -> Option<(String, &'static str)> {
    match account {
        Account::Revenue(platform, model) => Some((platform.to_string(), model.as_str())),
        other if other.class() == "income" => {
            other.to_string().strip_prefix("income:").map(|name| (name.to_owned(), ""))
        }
        _ => None,
    }
}

impl Tabular for Revenue {
    fn table(&self) -> Table {
        let row = |it: &RevenueRow| {
            let group = [&it.month, &it.tenant, &it.platform, &it.model];
            let group = group.into_iter().map(|cell| cell.clone().unwrap_or_default());
            group.chain([it.amount.clone(), it.currency.clone()]).collect()
        };
        Table {
            head: &["month", "tenant", "platform", "model", "amount", "currency"],
            numbers: &[4],
            rows: self.rows.iter().map(row).collect(),
        }
    }
}
