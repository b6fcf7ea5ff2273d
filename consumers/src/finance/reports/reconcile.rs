//! Reconciliation: the journal, the balances and the invoices say the same, to the last digit, or it is said where not.
//!
//! | check | left | right |
//! |---|---|---|
//! | `journal` | Σ transfers of each account | its balance |
//! | `invoices` | Σ invoices before rounding | what transfers moved from unbilled to receivable |
//! | `unbilled` | what transfers put on unbilled, less what was invoiced | its balance |
//! | `receivable` | Σ of what is due on invoices, less payments | its balance |
//! | `rounding` | Σ of what invoices were rounded by | the balance of rounding |
//! | `tax` | Σ tax of invoices | the balance of tax |
//! | `deferred` | what is not earned of what was paid ahead, less what the next tick posts | its balance |
//! | `credit` | what is left of all credit | the balances of credit |
//!
//! An invoice that was voided, and what it moved, count on neither side. Each check is made account by account; the sums
//! of a currency are shown.

use std::collections::BTreeMap;

use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::{Account, InvoiceStatus, Position, State};
use hourglass_ledger::store::{Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, TransferFilter};
use hourglass_pricing::tax::TaxKind;
use hourglass_units::{Amount, Currency, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::deferred::{PaidAhead, deferred_revenue};
use super::{Balances, Book, ReportError, Table, Tabular, add, subtract};
use crate::billing::report::AsOf;
use crate::finance::span::{Span, each_transfer};

/// Most accounts that are named of a check.
pub const DIFFERENCES_NAMED_MAX: usize = 100;

/// What the state says of all that is compared.
#[derive(Debug, Clone)]
pub struct Claims {
    book: Book,
    paid: PaidAhead,
    /// Documents that hold, and what was paid of them.
    documents: BTreeMap<(TenantId, u64), Amount>,
    /// What is left of a tenant's credit, by its account.
    credit: Balances,
}

impl Claims {
    /// Of a state.
    pub fn of(state: &State) -> Result<Self, ReportError> {
        let (mut documents, mut credit) = (BTreeMap::new(), Balances::new());
        for (id, tenant) in state.tenants() {
            let hold = tenant.invoices.iter().filter(|(_, it)| it.status != InvoiceStatus::Void);
            documents.extend(hold.map(|(number, it)| ((id.clone(), *number), it.paid)));
            for grant in &tenant.credits {
                let left = grant.remaining().ok_or(ReportError::Overflow)?;
                // A liability is below zero.
                subtract(credit.entry((tenant.currency, grant.kind.account(id))).or_default(), left)?;
            }
        }
        Ok(Self { book: Book::of(state), paid: PaidAhead::of(state, None), documents, credit })
    }
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciliation {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// Whether nothing differs.
    pub agrees: bool,
    /// A check and currency a row.
    pub rows: Vec<ReconciledRow>,
    /// Where something differs: the first accounts of each check.
    pub differences: Vec<Difference>,
}

/// A check in a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReconciledRow {
    /// Which.
    pub check: String,
    /// ISO 4217.
    pub currency: String,
    /// Σ of the one side. Of the journal: Σ of the accounts that stand above zero.
    pub left: String,
    /// Σ of the other.
    pub right: String,
    /// How many accounts differ.
    pub accounts_differ: u64,
}

/// An account on which the sides differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Which check.
    pub check: String,
    /// Which account.
    pub account: String,
    /// ISO 4217.
    pub currency: String,
    /// What the one side says.
    pub left: String,
    /// What the other does.
    pub right: String,
}

/// What the stored transfers moved.
#[derive(Default)]
struct Moved {
    /// Σ of each account.
    balances: Balances,
    /// From unbilled to receivable, by the receivable.
    invoiced: Balances,
}

fn read_transfers(reader: &dyn Reader, until: Position) -> Result<Moved, ReportError> {
    let mut moved = Moved::default();
    each_transfer(reader, &TransferFilter::default(), Span::until(until), |Keyed { row, .. }| {
        match (&row.debit, &row.credit) {
            (Account::Receivable(_), Account::Unbilled(_)) => {
                add(moved.invoiced.entry((row.currency, row.debit.clone())).or_default(), row.amount)?;
            }
            (Account::Unbilled(_), Account::Receivable(_)) => {
                subtract(moved.invoiced.entry((row.currency, row.credit.clone())).or_default(), row.amount)?;
            }
            _ => {}
        }
        add(moved.balances.entry((row.currency, row.debit)).or_default(), row.amount)?;
        subtract(moved.balances.entry((row.currency, row.credit)).or_default(), row.amount)
    })?;
    Ok(moved)
}

/// What the stored documents say, by the account that it stands on.
#[derive(Default)]
struct Documents {
    exact: Balances,
    due: Balances,
    rounding: Balances,
    tax: Balances,
}

fn read_documents(reader: &dyn Reader, claims: &Claims) -> Result<Documents, ReportError> {
    let mut found = Documents::default();
    let mut after = RowKey::default();
    loop {
        let page = Page { after, until: claims.book.position, limit: PAGE_ROWS_MAX };
        let rows = reader.invoices(None, page)?;
        let Some(last) = rows.last() else { return Ok(found) };
        after = last.key;
        for Keyed { row, .. } in rows {
            let Some(paid) = claims.documents.get(&(row.tenant.clone(), row.number)) else { continue };
            let unreadable = |error: String| {
                let what = format!("invoice {} of {}: {error}", row.number, row.tenant);
                ReportError::Store(hourglass_ledger::store::StoreError(what))
            };
            let invoice =
                Invoice::from_document(&row.document).map_err(|error| unreadable(error.to_string()))?;
            let (currency, receivable) = (invoice.currency, Account::Receivable(row.tenant.clone()));
            add(found.exact.entry((currency, receivable.clone())).or_default(), invoice.exact_total)?;
            let due = found.due.entry((currency, receivable)).or_default();
            add(due, invoice.due)?;
            subtract(due, *paid)?;
            // Income and a liability: below zero.
            subtract(found.rounding.entry((currency, Account::Rounding)).or_default(), invoice.rounding)?;
            if let Some(tax) = &invoice.tax {
                subtract(found.tax.entry((currency, Account::Tax)).or_default(), tax.amount)?;
                if tax.rule.kind == TaxKind::Inclusive {
                    add(found.tax.entry((currency, Account::IncludedTax)).or_default(), tax.amount)?;
                }
            }
        }
    }
}

/// Compares everything.
pub fn reconcile(reader: &dyn Reader, claims: &Claims) -> Result<Reconciliation, ReportError> {
    let book = &claims.book;
    let moved = read_transfers(reader, book.position)?;
    let documents = read_documents(reader, claims)?;
    let mut result =
        Reconciliation { as_of: book.as_of(), agrees: true, rows: Vec::new(), differences: Vec::new() };
    let of_book = |wanted: fn(&Account) -> bool| -> Balances {
        let wanted = book.balances.iter().filter(|((_, account), _)| wanted(account));
        wanted.map(|(key, balance)| (key.clone(), *balance)).collect()
    };
    result.compare("journal", &moved.balances, &book.balances)?;
    result.compare("invoices", &documents.exact, &moved.invoiced)?;

    // Unbilled holds what was put there and no invoice took: of both the documents say how much that was.
    let mut unbilled = Balances::new();
    for ((currency, account), sum) in &moved.balances {
        if let Account::Unbilled(tenant) = account {
            let key = (*currency, Account::Receivable(tenant.clone()));
            let mut rest = *sum;
            add(&mut rest, moved.invoiced.get(&key).copied().unwrap_or_default())?;
            subtract(&mut rest, documents.exact.get(&key).copied().unwrap_or_default())?;
            unbilled.insert((*currency, account.clone()), rest);
        }
    }
    result.compare("unbilled", &unbilled, &of_book(|it| matches!(it, Account::Unbilled(_))))?;
    result.compare("receivable", &documents.due, &of_book(|it| matches!(it, Account::Receivable(_))))?;
    result.compare("rounding", &documents.rounding, &of_book(|it| *it == Account::Rounding))?;
    let of_tax = of_book(|it| matches!(it, Account::Tax | Account::IncludedTax));
    result.compare("tax", &documents.tax, &of_tax)?;
    result.compare(
        "deferred",
        &deferred(reader, claims)?,
        &of_book(|it| matches!(it, Account::Deferred(_))),
    )?;
    let of_credit = of_book(|it| matches!(it, Account::PrepaidCredit(_) | Account::PromotionalCredit(_)));
    result.compare("credit", &claims.credit, &of_credit)?;
    Ok(result)
}

/// What is not earned of what was paid ahead, as the book should have it.
fn deferred(reader: &dyn Reader, claims: &Claims) -> Result<Balances, ReportError> {
    let mut balances = Balances::new();
    for total in deferred_revenue(reader, &claims.paid)?.totals {
        let parsed = |text: &str| Amount::parse(text).map_err(|_| ReportError::Overflow);
        let (Ok(tenant), Ok(currency)) = (total.tenant.parse(), total.currency.parse()) else { continue };
        let balance = balances.entry((currency, Account::Deferred(tenant))).or_default();
        subtract(balance, parsed(&total.remaining)?)?;
        add(balance, parsed(&total.not_posted)?)?;
    }
    Ok(balances)
}

impl Reconciliation {
    fn compare(&mut self, check: &str, left: &Balances, right: &Balances) -> Result<(), ReportError> {
        let mut sums: BTreeMap<Currency, (Amount, Amount, u64)> = BTreeMap::new();
        let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
        let mut named = 0;
        for (currency, account) in keys {
            let key = (*currency, account.clone());
            let side = |of: &Balances| of.get(&key).copied().unwrap_or_default();
            let (left, right) = (side(left), side(right));
            let sum = sums.entry(*currency).or_default();
            // All accounts together are zero, which says nothing: of the journal one half is shown.
            let counts = |amount: Amount| check != "journal" || amount > Amount::ZERO;
            if counts(left) {
                add(&mut sum.0, left)?;
            }
            if counts(right) {
                add(&mut sum.1, right)?;
            }
            if left != right {
                self.agrees = false;
                sum.2 = sum.2.saturating_add(1);
                named += 1;
                if named <= DIFFERENCES_NAMED_MAX {
                    self.differences.push(Difference {
                        check: check.to_owned(),
                        account: account.to_string(),
                        currency: currency.to_string(),
                        left: left.to_string(),
                        right: right.to_string(),
                    });
                }
            }
        }
        self.rows.extend(sums.into_iter().map(|(currency, (left, right, accounts_differ))| ReconciledRow {
            check: check.to_owned(),
            currency: currency.to_string(),
            left: left.to_string(),
            right: right.to_string(),
            accounts_differ,
        }));
        Ok(())
    }
}

impl Tabular for Reconciliation {
    fn table(&self) -> Table {
        let row = |it: &ReconciledRow| {
            let sums = [it.left.clone(), it.right.clone(), it.accounts_differ.to_string()];
            [it.check.clone(), it.currency.clone()].into_iter().chain(sums).collect()
        };
        Table {
            head: &["check", "currency", "left", "right", "accounts_differ"],
            numbers: &[2, 3, 4],
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The comparison can fail: an amount that is off by the last digit, an account that only one side has.
    #[test]
    fn what_differs_is_named() {
        let amount = |text: &str| Amount::parse(text).unwrap();
        let usd = |account: &str, text: &str| ((Currency::USD, account.parse().unwrap()), amount(text));
        let book = Balances::from([
            usd("assets:unbilled:acme", "1.000000000000000001"),
            usd("income:revenue:h100:spot", "-1.000000000000000001"),
        ]);
        let check = |left: &Balances| {
            let as_of = AsOf { position: 1, time: String::new() };
            let mut found = Reconciliation { as_of, agrees: true, rows: Vec::new(), differences: Vec::new() };
            found.compare("journal", left, &book).unwrap();
            let named: Vec<String> =
                found.differences.into_iter().map(|it| format!("{} {}", it.account, it.left)).collect();
            (found.agrees, named)
        };
        assert_eq!(check(&book), (true, Vec::new()));
        let mut other = book.clone();
        other.extend([usd("assets:unbilled:acme", "1")]);
        assert_eq!(check(&other), (false, vec!["assets:unbilled:acme 1".to_owned()]));
        let mut more = book.clone();
        more.extend([usd("assets:cash", "-0.000000000000000001")]);
        assert_eq!(check(&more), (false, vec!["assets:cash -0.000000000000000001".to_owned()]));
        let less: Balances = book.iter().take(1).map(|(key, sum)| (key.clone(), *sum)).collect();
        assert_eq!(check(&less), (false, vec!["income:revenue:h100:spot 0".to_owned()]));
    }
}
