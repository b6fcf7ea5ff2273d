//! The book: accounts, transfers and accrual.
//!
//! A transfer moves an amount above zero from one account to another, so each is balanced by its
//! shape and the sum over all accounts is zero at every position (B-1). What is accrued at a `Tick`
//! is aggregated: one transfer for each tenant and account pair, and one more where something is
//! taken back (B-2).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Currency, Instant, Platform, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::command::Position;
use super::groups::ChargeGroups;
use super::rows::{Rows, TransferRow};

/// An account of the book. A debit raises it, a credit lowers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// Asset: what a tenant used and was not invoiced yet.
    Unbilled(TenantId),
    /// Asset: what a tenant was invoiced and has not paid yet.
    Receivable(TenantId),
    /// Income, by what was sold.
    Revenue(Platform, PurchaseModel),
    /// Income or expense: what rounding invoices to minor units gained or lost.
    Rounding,
}

impl Account {
    /// The class in the chart of accounts.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unbilled(_) | Self::Receivable(_) => "assets",
            Self::Revenue(..) | Self::Rounding => "income",
        }
    }

    /// The tenant whose account it is; the cell's own accounts have none.
    pub const fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Unbilled(tenant) | Self::Receivable(tenant) => Some(tenant),
            Self::Revenue(..) | Self::Rounding => None,
        }
    }
}

impl fmt::Display for Account {
    /// `assets:unbilled:TENANT`, `income:revenue:PLATFORM:MODEL` and so on: ids have no colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbilled(tenant) => write!(f, "assets:unbilled:{tenant}"),
            Self::Receivable(tenant) => write!(f, "assets:receivable:{tenant}"),
            Self::Revenue(platform, model) => write!(f, "income:revenue:{platform}:{model}"),
            Self::Rounding => f.write_str("income:rounding"),
        }
    }
}

/// The text names no account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown account {0:?}: accounts look like assets:unbilled:TENANT or income:revenue:PLATFORM:MODEL")]
pub struct UnknownAccount(pub String);

impl FromStr for Account {
    type Err = UnknownAccount;

    fn from_str(text: &str) -> Result<Self, UnknownAccount> {
        let unknown = || UnknownAccount(text.chars().take(160).collect());
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["assets", "unbilled", tenant] => tenant.parse().map(Self::Unbilled).map_err(|_| unknown()),
            ["assets", "receivable", tenant] => tenant.parse().map(Self::Receivable).map_err(|_| unknown()),
            ["income", "rounding"] => Ok(Self::Rounding),
            ["income", "revenue", platform, model] => {
                let platform = platform.parse().map_err(|_| unknown())?;
                Ok(Self::Revenue(platform, model.parse().map_err(|_| unknown())?))
            }
            _ => Err(unknown()),
        }
    }
}

/// What a transfer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferCode {
    /// Usage was priced: unbilled against revenue.
    Accrual,
    /// Priced usage turned out not to be billable: revenue against unbilled.
    AccrualReversal,
    /// A month was closed: receivable against unbilled.
    Invoice,
    /// An invoice takes more back than it charges: unbilled against receivable.
    CreditNote,
    /// An invoice was rounded to minor units.
    Rounding,
}

impl TransferCode {
    /// Every code.
    pub const ALL: [Self; 5] =
        [Self::Accrual, Self::AccrualReversal, Self::Invoice, Self::CreditNote, Self::Rounding];

    /// The name in rows and exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accrual => "accrual",
            Self::AccrualReversal => "accrual_reversal",
            Self::Invoice => "invoice",
            Self::CreditNote => "credit_note",
            Self::Rounding => "rounding",
        }
    }
}

/// The balances of all accounts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Book {
    balances: BTreeMap<Currency, BTreeMap<Account, Amount>>,
}

impl Book {
    /// The balance: debits less credits.
    pub fn balance(&self, account: &Account, currency: Currency) -> Amount {
        self.balances.get(&currency).and_then(|book| book.get(account)).copied().unwrap_or_default()
    }

    /// All balances, by currency and account.
    pub fn balances(&self) -> impl Iterator<Item = (&Account, Currency, Amount)> {
        self.balances
            .iter()
            .flat_map(|(currency, book)| book.iter().map(|(account, sum)| (account, *currency, *sum)))
    }

    /// B-1: the sum over all accounts, by currency. Always zero.
    pub fn sums(&self) -> impl Iterator<Item = (Currency, Option<Amount>)> {
        self.balances.iter().map(|(currency, book)| {
            (*currency, book.values().try_fold(Amount::ZERO, |sum, balance| sum.checked_add(*balance)))
        })
    }

    /// Books one transfer. The only writer of balances.
    pub(crate) fn post(&mut self, row: TransferRow, rows: &mut impl Rows) -> Result<(), Inconsistent> {
        if row.amount <= Amount::ZERO {
            return Err(Inconsistent::new("a transfer of nothing or less"));
        }
        let book = self.balances.entry(row.currency).or_default();
        let overflow = || Inconsistent::new("a balance out of range");
        let debit = book.entry(row.debit.clone()).or_default();
        *debit = debit.checked_add(row.amount).ok_or_else(overflow)?;
        let credit = book.entry(row.credit.clone()).or_default();
        *credit = credit.checked_sub(row.amount).ok_or_else(overflow)?;
        rows.transfer(row);
        Ok(())
    }
}

/// What one account pair accrues at once.
#[derive(Default)]
struct Accrual {
    gained: Amount,
    taken_back: Amount,
    reverses: Option<Position>,
}

/// Posts what was priced since the last accrual, for one tenant or for all.
pub(crate) fn accrue(
    groups: &mut ChargeGroups,
    book: &mut Book,
    only: Option<&TenantId>,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let overflow = || Inconsistent::new("an accrual out of range");
    let mut pairs: BTreeMap<(TenantId, Platform, PurchaseModel, Currency), Accrual> = BTreeMap::new();
    for group in groups.with_unaccrued(only) {
        let (tenant, sku, currency) = (group.tenant.clone(), group.sku.clone(), group.currency);
        for bucket in &mut group.buckets {
            let difference = bucket.take_unaccrued(position).ok_or_else(overflow)?;
            if difference.amount.is_zero() {
                continue;
            }
            let pair = pairs.entry((tenant.clone(), sku.platform.clone(), sku.model, currency)).or_default();
            if difference.amount > Amount::ZERO {
                pair.gained = pair.gained.checked_add(difference.amount).ok_or_else(overflow)?;
            } else {
                pair.taken_back = pair.taken_back.checked_sub(difference.amount).ok_or_else(overflow)?;
                pair.reverses = pair.reverses.max(difference.accrued_before);
            }
        }
    }
    for ((tenant, platform, model, currency), pair) in pairs {
        let unbilled = Account::Unbilled(tenant.clone());
        let revenue = Account::Revenue(platform, model);
        let transfer = |debit: &Account, credit: &Account, amount, code, reverses| TransferRow {
            tenant: tenant.clone(),
            debit: debit.clone(),
            credit: credit.clone(),
            amount,
            currency,
            code,
            at,
            reverses,
        };
        if pair.gained > Amount::ZERO {
            book.post(transfer(&unbilled, &revenue, pair.gained, TransferCode::Accrual, None), rows)?;
        }
        if pair.taken_back > Amount::ZERO {
            let code = TransferCode::AccrualReversal;
            book.post(transfer(&revenue, &unbilled, pair.taken_back, code, pair.reverses), rows)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_read_back() {
        let accounts = [
            Account::Unbilled("acme".parse().unwrap()),
            Account::Receivable("a.b-c_d".parse().unwrap()),
            Account::Revenue("gpu-h100-sxm".parse().unwrap(), PurchaseModel::Spot),
            Account::Rounding,
        ];
        for account in accounts {
            assert_eq!(account.to_string().parse::<Account>().unwrap(), account);
        }
        for bad in [
            "",
            "assets",
            "assets:unbilled:",
            "income:revenue:x",
            "income:revenue:x:gift",
            "assets:unbilled:a:b",
        ] {
            assert!(bad.parse::<Account>().is_err(), "{bad}");
        }
    }
}
