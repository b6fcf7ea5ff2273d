//! The book: accounts, transfers and balances.
//!
//! A transfer moves an amount above zero from one account to another, so each is balanced by its
//! shape and the sum over all accounts is zero at every position (B-1). An account with a floor is
//! never below it: a transfer that would overdraw credit is refused (B-4).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Currency, Platform, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::rows::{Rows, TransferRow};

/// An account of the book. A debit raises it, a credit lowers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// Asset: what a tenant used and was not invoiced yet.
    Unbilled(TenantId),
    /// Asset: what a tenant was invoiced and has not paid yet.
    Receivable(TenantId),
    /// Liability: credit that a tenant bought. Never above zero (B-4).
    PrepaidCredit(TenantId),
    /// Liability: credit that a tenant was given. Never above zero (B-4).
    PromotionalCredit(TenantId),
    /// Liability: reservations paid up front and not earned yet.
    Deferred(TenantId),
    /// Income, by what was sold.
    Revenue(Platform, PurchaseModel),
    /// Income: what tenants lacked to a minimum or to a commitment.
    Shortfall,
    /// Income: bought credit that expired.
    Breakage,
    /// Income or expense: what rounding invoices to minor units gained or lost.
    Rounding,
    /// Income taken back: the tax within prices that hold it.
    IncludedTax,
    /// Expense: credit given away.
    Promotions,
    /// Expense: credit given for trouble.
    SlaCredits,
    /// Expense: what owners earn who lend reserved GPUs to spot.
    OwnerYield,
    /// Liability: tax to be handed on.
    Tax,
    /// Asset: money that came in.
    Cash,
}

impl Account {
    /// The class in the chart of accounts.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unbilled(_) | Self::Receivable(_) | Self::Cash => "assets",
            Self::PrepaidCredit(_) | Self::PromotionalCredit(_) | Self::Deferred(_) | Self::Tax => {
                "liabilities"
            }
            Self::Revenue(..) | Self::Shortfall | Self::Breakage | Self::Rounding | Self::IncludedTax => {
                "income"
            }
            Self::Promotions | Self::SlaCredits | Self::OwnerYield => "expenses",
        }
    }

    /// The tenant whose account it is; the cell's own accounts have none.
    pub const fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Unbilled(tenant)
            | Self::Receivable(tenant)
            | Self::PrepaidCredit(tenant)
            | Self::PromotionalCredit(tenant)
            | Self::Deferred(tenant) => Some(tenant),
            _ => None,
        }
    }

    /// B-4: whether the account may never be above zero, since that would be credit that nobody has.
    pub const fn has_floor(&self) -> bool {
        matches!(self, Self::PrepaidCredit(_) | Self::PromotionalCredit(_) | Self::Deferred(_))
    }
}

impl fmt::Display for Account {
    /// `assets:unbilled:TENANT`, `income:revenue:PLATFORM:MODEL` and so on: ids have no colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbilled(tenant) => write!(f, "assets:unbilled:{tenant}"),
            Self::Receivable(tenant) => write!(f, "assets:receivable:{tenant}"),
            Self::PrepaidCredit(tenant) => write!(f, "liabilities:prepaid:{tenant}"),
            Self::PromotionalCredit(tenant) => write!(f, "liabilities:promotional:{tenant}"),
            Self::Deferred(tenant) => write!(f, "liabilities:deferred:{tenant}"),
            Self::Revenue(platform, model) => write!(f, "income:revenue:{platform}:{model}"),
            Self::Shortfall => f.write_str("income:shortfall"),
            Self::Breakage => f.write_str("income:breakage"),
            Self::Rounding => f.write_str("income:rounding"),
            Self::IncludedTax => f.write_str("income:included-tax"),
            Self::Promotions => f.write_str("expenses:promotions"),
            Self::SlaCredits => f.write_str("expenses:sla-credits"),
            Self::OwnerYield => f.write_str("expenses:owner-yield"),
            Self::Tax => f.write_str("liabilities:tax"),
            Self::Cash => f.write_str("assets:cash"),
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
        let of_tenant =
            |tenant: &str, account: fn(TenantId) -> Self| tenant.parse().map(account).map_err(|_| unknown());
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["assets", "unbilled", tenant] => of_tenant(tenant, Self::Unbilled),
            ["assets", "receivable", tenant] => of_tenant(tenant, Self::Receivable),
            ["liabilities", "prepaid", tenant] => of_tenant(tenant, Self::PrepaidCredit),
            ["liabilities", "promotional", tenant] => of_tenant(tenant, Self::PromotionalCredit),
            ["liabilities", "deferred", tenant] => of_tenant(tenant, Self::Deferred),
            ["income", "revenue", platform, model] => {
                let platform = platform.parse().map_err(|_| unknown())?;
                Ok(Self::Revenue(platform, model.parse().map_err(|_| unknown())?))
            }
            _ => {
                let own = [
                    Self::Shortfall,
                    Self::Breakage,
                    Self::Rounding,
                    Self::IncludedTax,
                    Self::Promotions,
                    Self::SlaCredits,
                    Self::OwnerYield,
                    Self::Tax,
                    Self::Cash,
                ];
                own.into_iter().find(|account| account.to_string() == text).ok_or_else(unknown)
            }
        }
    }
}

/// What a transfer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferCode {
    /// Usage was priced: unbilled against revenue.
    Accrual,
    /// Priced usage turned out not to be billable, or cheaper: revenue against unbilled.
    AccrualReversal,
    /// A reservation was sold for what it costs up front: unbilled against deferred.
    Deferral,
    /// What was paid up front is earned: deferred against revenue.
    Release,
    /// Credit was granted.
    CreditGrant,
    /// Credit paid for usage: the credit against unbilled.
    CreditDraw,
    /// It paid too much: unbilled against the credit.
    CreditDrawReversal,
    /// What was left of credit expired.
    CreditExpiry,
    /// A period was closed: receivable against unbilled.
    Invoice,
    /// An invoice takes more back than it charges: unbilled against receivable.
    CreditNote,
    /// An invoice was rounded to minor units.
    Rounding,
    /// The tax of an invoice.
    Tax,
    /// An invoice was paid for: cash against receivable.
    Payment,
    /// An invoice was taken back.
    Void,
}

impl TransferCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        Self::Accrual,
        Self::AccrualReversal,
        Self::Deferral,
        Self::Release,
        Self::CreditGrant,
        Self::CreditDraw,
        Self::CreditDrawReversal,
        Self::CreditExpiry,
        Self::Invoice,
        Self::CreditNote,
        Self::Rounding,
        Self::Tax,
        Self::Payment,
        Self::Void,
    ];

    /// The name in rows and exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accrual => "accrual",
            Self::AccrualReversal => "accrual_reversal",
            Self::Deferral => "deferral",
            Self::Release => "release",
            Self::CreditGrant => "credit_grant",
            Self::CreditDraw => "credit_draw",
            Self::CreditDrawReversal => "credit_draw_reversal",
            Self::CreditExpiry => "credit_expiry",
            Self::Invoice => "invoice",
            Self::CreditNote => "credit_note",
            Self::Rounding => "rounding",
            Self::Tax => "tax",
            Self::Payment => "payment",
            Self::Void => "void",
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
        if row.debit.has_floor() && *debit > Amount::ZERO {
            return Err(Inconsistent::new(format!("B-4: {} is overdrawn", row.debit)));
        }
        let credit = book.entry(row.credit.clone()).or_default();
        *credit = credit.checked_sub(row.amount).ok_or_else(overflow)?;
        rows.transfer(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_read_back() {
        let accounts = [
            Account::Unbilled("acme".parse().unwrap()),
            Account::Receivable("a.b-c_d".parse().unwrap()),
            Account::PrepaidCredit("acme".parse().unwrap()),
            Account::PromotionalCredit("acme".parse().unwrap()),
            Account::Deferred("acme".parse().unwrap()),
            Account::Shortfall,
            Account::Breakage,
            Account::IncludedTax,
            Account::Promotions,
            Account::SlaCredits,
            Account::OwnerYield,
            Account::Tax,
            Account::Cash,
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
