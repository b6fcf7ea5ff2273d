//! As of which log position an answer holds, and what stands on the accounts there.

use std::collections::BTreeMap;

use hourglass_ledger::core::{Account, State};
use hourglass_units::{Amount, Currency, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The log position that an answer holds for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AsOf {
    /// The log position.
    pub position: u64,
    /// The time of the event there, RFC 3339.
    #[schema(format = DateTime)]
    pub time: String,
}

impl AsOf {
    /// Where the state stands.
    pub fn of(state: &State) -> Self {
        Self { position: state.position().number(), time: state.now().to_string() }
    }
}

/// What stands on the accounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct BalanceReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// One row an account and currency, in order.
    pub rows: Vec<BalanceRow>,
}

/// What stands on one account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct BalanceRow {
    /// Its name, such as `assets:unbilled:acme`.
    pub account: String,
    /// Its class in the chart of accounts.
    pub class: &'static str,
    /// Whose it is; the cell's own accounts have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of the balance, ISO 4217.
    pub currency: String,
    /// Debits less credits of all transfers, an exact decimal.
    pub balance: String,
    /// What is priced already and the next tick will post, an exact decimal. With the balance it is
    /// what stands on the account now. Absent where it is too large to add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unposted: Option<String>,
}

/// The balances of a tenant's accounts, or of all accounts, and what will be posted to them next.
pub fn balances(state: &State, tenant: Option<&TenantId>) -> BalanceReport {
    let is_wanted = |account: &Account| tenant.is_none() || account.tenant() == tenant;
    let mut sums: BTreeMap<(Account, Currency), (Amount, Option<Amount>)> = BTreeMap::new();
    for (account, currency, balance) in state.book().balances().filter(|(account, ..)| is_wanted(account)) {
        sums.insert((account.clone(), currency), (balance, Some(Amount::ZERO)));
    }
    for ((account, currency), unposted) in state.unposted(tenant) {
        if is_wanted(&account) {
            sums.entry((account, currency)).or_default().1 = unposted;
        }
    }
    let mut rows: Vec<BalanceRow> = sums
        .into_iter()
        .map(|((account, currency), (balance, unposted))| BalanceRow {
            account: account.to_string(),
            class: account.class(),
            tenant: account.tenant().map(ToString::to_string),
            currency: currency.to_string(),
            balance: balance.to_string(),
            unposted: unposted.map(|amount| amount.to_string()),
        })
        .collect();
    rows.sort_by(|a, b| (&a.account, &a.currency).cmp(&(&b.account, &b.currency)));
    BalanceReport { as_of: AsOf::of(state), rows }
}
