//! A checker of our own: every identity of an export, with exact decimals and no tolerance.
//!
//! It reads the files as anyone else would and shares no arithmetic with the export.

use std::collections::BTreeMap;

use hourglass_units::{Amount, Instant};

use super::super::columnar::Cell;
use super::columns::{ChargeKind, Col};
use super::documents::DRAFT;

/// Most findings that are told in full.
pub const FINDINGS_MAX: usize = 50;

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// What is wrong, and where.
    pub what: String,
}

/// What is found, the first [`FINDINGS_MAX`] of it in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first ones.
    pub first: Vec<Finding>,
    /// All.
    pub count: u64,
}

impl Findings {
    pub(super) fn add(&mut self, code: &'static str, what: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < FINDINGS_MAX {
            self.first.push(Finding { code, what: what() });
        }
    }
}

/// A sum that says when it left its range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(i128, bool);

impl Sum {
    fn add(&mut self, more: i128) {
        match self.0.checked_add(more) {
            Some(sum) => self.0 = sum,
            None => self.1 = true,
        }
    }

    /// The sum; `None` where it left its range.
    pub fn amount(self) -> Option<Amount> {
        (!self.1).then_some(Amount::from_attos(self.0))
    }
}

/// What stands on an invoice, by the rows that name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InvoiceSums {
    /// Σ `BilledCost`: what is to be paid.
    pub due: Sum,
    /// The same without tax and rounding.
    pub exact: Sum,
}

#[derive(Debug, Default)]
struct Commitment {
    bought: Sum,
    bought_quantity: Sum,
    effective: Sum,
    quantity: Sum,
    counts_pieces: bool,
}

/// Takes the rows of all billing periods.
#[derive(Debug, Default)]
pub struct Checker {
    /// What does not hold.
    pub findings: Findings,
    /// Rows seen.
    pub rows: u64,
    /// Of each account and invoice: what its rows come to.
    pub invoices: BTreeMap<(String, String), InvoiceSums>,
    /// Of each account: what rows of invoices to come are together.
    pub open: BTreeMap<String, Sum>,
    commitments: BTreeMap<String, Commitment>,
    sku_of_price: BTreeMap<String, String>,
    currency_of: BTreeMap<String, String>,
    period_of: BTreeMap<(String, Instant), Instant>,
}

/// The cells of a row, by column.
struct Seen<'r, 'a>(&'r [Cell<'a>]);

impl<'a> Seen<'_, 'a> {
    fn cell(&self, col: Col) -> Cell<'a> {
        self.0.get(col.index()).copied().unwrap_or(Cell::Null)
    }

    fn has(&self, col: Col) -> bool {
        self.cell(col) != Cell::Null
    }

    fn text(&self, col: Col) -> Option<&'a str> {
        match self.cell(col) {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self, col: Col) -> Option<i128> {
        match self.cell(col) {
            Cell::Decimal(attos) => Some(attos),
            _ => None,
        }
    }

    fn time(&self, col: Col) -> Option<Instant> {
        match self.cell(col) {
            Cell::Timestamp(at) => Some(at),
            _ => None,
        }
    }
}

impl Checker {
    /// Looks at a row.
    pub fn row(&mut self, cells: &[Cell<'_>]) {
        self.rows = self.rows.saturating_add(1);
        let row = Seen(cells);
        self.nulls(&row);
        self.product(&row, "list price", (Col::ListUnitPrice, Col::ListCost));
        self.product(&row, "contracted price", (Col::ContractedUnitPrice, Col::ContractedCost));
        self.costs(&row);
        self.times(&row);
        self.names(&row);
        self.add_up(&row);
    }

    fn finding(&mut self, code: &'static str, what: &str) {
        let row = self.rows;
        self.findings.add(code, || format!("row {row}: {what}"));
    }

    /// Which columns have a value, by what the specification says of each category.
    fn nulls(&mut self, row: &Seen<'_, '_>) {
        let category = row.text(Col::ChargeCategory).unwrap_or_default();
        let sold = matches!(category, "Usage" | "Purchase");
        let unused = row.text(Col::CommitmentDiscountStatus) == Some("Unused");
        let committed = row.has(Col::CommitmentDiscountId);
        let corrects = row.text(Col::ChargeClass) == Some("Correction");
        let must = |col: Col, when: bool| (col, when, when);
        let only = |col: Col, when: bool| (col, false, when);
        let rules = [
            must(Col::ConsumedQuantity, category == "Usage" && !unused),
            must(Col::ConsumedUnit, row.has(Col::ConsumedQuantity)),
            must(Col::PricingUnit, row.has(Col::PricingQuantity)),
            (Col::PricingQuantity, sold && !corrects, category != "Tax"),
            (Col::ListUnitPrice, sold && !corrects, category != "Tax"),
            (Col::ContractedUnitPrice, sold && !corrects, category != "Tax"),
            (Col::PricingCurrencyListUnitPrice, sold && !corrects, category != "Tax"),
            (Col::PricingCurrencyContractedUnitPrice, sold && !corrects, category != "Tax"),
            (Col::PricingCategory, sold && !corrects, category != "Tax"),
            (Col::SkuId, sold && !corrects, category != "Tax"),
            (Col::SkuPriceId, sold && !corrects, category != "Tax"),
            must(Col::SkuMeter, row.has(Col::SkuId)),
            only(Col::SkuPriceDetails, row.has(Col::SkuPriceId)),
            must(Col::CommitmentDiscountCategory, committed),
            must(Col::CommitmentDiscountName, committed),
            must(Col::CommitmentDiscountType, committed),
            must(Col::CommitmentDiscountQuantity, committed && sold),
            must(Col::CommitmentDiscountUnit, row.has(Col::CommitmentDiscountQuantity)),
            must(Col::CommitmentDiscountStatus, committed && category == "Usage"),
            must(Col::CapacityReservationStatus, row.has(Col::CapacityReservationId) && category == "Usage"),
            must(Col::ResourceType, row.has(Col::ResourceId)),
            must(Col::RegionName, row.has(Col::RegionId)),
            must(Col::SubAccountName, row.has(Col::SubAccountId)),
            must(Col::SubAccountType, row.has(Col::SubAccountId)),
        ];
        for (col, must, may) in rules {
            match row.has(col) {
                true if !may => self.finding("F-null", &format!("{} must be null", col.name())),
                false if must => self.finding("F-null", &format!("{} must not be null", col.name())),
                _ => {}
            }
        }
        let pricing = row.text(Col::PricingCategory);
        if category == "Usage" && committed != (pricing == Some("Committed")) {
            self.finding("F-pricing", "usage of a commitment is Committed, and no other is");
        }
    }

    /// Price × quantity = cost, to the last digit.
    fn product(&mut self, row: &Seen<'_, '_>, what: &str, (price, cost): (Col, Col)) {
        let (Some(price), Some(quantity)) = (row.number(price), row.number(Col::PricingQuantity)) else {
            return;
        };
        if price < 0 {
            self.finding("F-price", &format!("the {what} is below zero"));
        }
        let exact = exact_product(price, quantity);
        if exact.is_none() || exact != row.number(cost) {
            self.finding("F-product", &format!("the {what} times the quantity is not the cost"));
        }
    }

    /// What costs there are beside a price.
    fn costs(&mut self, row: &Seen<'_, '_>) {
        let category = row.text(Col::ChargeCategory).unwrap_or_default();
        let cost = |col| row.number(col);
        let billed = cost(Col::BilledCost);
        let others = [Col::EffectiveCost, Col::ContractedCost, Col::ListCost];
        if cost(Col::PricingCurrencyEffectiveCost) != cost(Col::EffectiveCost) {
            self.finding("F-cost", "the effective cost differs between equal currencies");
        }
        match category {
            "Purchase" if cost(Col::EffectiveCost) != Some(0) => {
                self.finding("F-cost", "a purchase has no effective cost: its hours have it");
            }
            "Credit" | "Tax" | "Adjustment" if others.into_iter().any(|col| cost(col) != billed) => {
                self.finding("F-cost", "what has no price costs what is billed");
            }
            "Usage" if row.has(Col::CommitmentDiscountId) && billed != Some(0) => {
                self.finding("F-cost", "what a commitment covers is billed with the commitment");
            }
            _ => {}
        }
    }

    fn times(&mut self, row: &Seen<'_, '_>) {
        let time = |col| row.time(col);
        if time(Col::ChargePeriodStart) >= time(Col::ChargePeriodEnd) {
            self.finding("F-time", "the charge period ends before it begins");
        }
        let (Some(start), Some(end)) = (time(Col::BillingPeriodStart), time(Col::BillingPeriodEnd)) else {
            return self.finding("F-time", "no billing period");
        };
        let account = row.text(Col::BillingAccountId).unwrap_or_default();
        let known = *self.period_of.entry((account.to_owned(), start)).or_insert(end);
        if known != end || start >= end {
            self.finding("F-time", "a billing period has two ends, or none");
        }
        let usage = row.text(Col::ChargeCategory) == Some("Usage");
        let within = time(Col::ChargePeriodStart) >= Some(start) && time(Col::ChargePeriodEnd) <= Some(end);
        let corrects = row.has(Col::ChargeClass);
        if usage && !corrects && !within {
            self.finding("F-time", "usage outside of its billing period is no correction");
        }
    }

    /// Names that must not change from row to row.
    fn names(&mut self, row: &Seen<'_, '_>) {
        if let (Some(price), Some(sku)) = (row.text(Col::SkuPriceId), row.text(Col::SkuId)) {
            let known = self.sku_of_price.entry(price.to_owned()).or_insert_with(|| sku.to_owned());
            if known != sku {
                self.finding("F-sku", "a SKU price of two SKUs");
            }
        }
        let account = row.text(Col::BillingAccountId).unwrap_or_default();
        let currency = row.text(Col::BillingCurrency).unwrap_or_default();
        let known = self.currency_of.entry(account.to_owned()).or_insert_with(|| currency.to_owned());
        if known != currency || row.text(Col::PricingCurrency) != Some(currency) {
            self.finding("F-currency", "an account with two currencies");
        }
        let kinds = ChargeKind::ALL.map(ChargeKind::as_str);
        if !row.text(Col::ChargeKind).is_some_and(|kind| kinds.contains(&kind)) {
            self.finding("F-kind", "an unknown x_ChargeKind");
        }
    }

    fn add_up(&mut self, row: &Seen<'_, '_>) {
        let billed = row.number(Col::BilledCost).unwrap_or_default();
        let account = row.text(Col::BillingAccountId).unwrap_or_default().to_owned();
        let kind = row.text(Col::ChargeKind);
        let beyond = ChargeKind::ALL.into_iter().any(|it| it.is_beyond_exact() && Some(it.as_str()) == kind);
        let invoice = row.text(Col::InvoiceId).unwrap_or_default();
        let of_account = invoice.strip_prefix(account.as_str()).and_then(|rest| rest.strip_prefix('/'));
        match of_account {
            None => self.finding("F-invoice", "an invoice of another account"),
            Some(number) if number.starts_with(DRAFT) => self.open.entry(account).or_default().add(billed),
            Some(_) => {
                let sums = self.invoices.entry((account, invoice.to_owned())).or_default();
                sums.due.add(billed);
                if !beyond {
                    sums.exact.add(billed);
                }
            }
        }
        // Usage that no row of the ledger holds yet does not count: its hour is not over, so the fee of it and
        // what is not used of it are still to come.
        let Some(id) = row.text(Col::CommitmentDiscountId) else { return };
        let commitment = self.commitments.entry(id.to_owned()).or_default();
        let quantity = row.number(Col::CommitmentDiscountQuantity).unwrap_or_default();
        if row.text(Col::ChargeCategory) == Some("Purchase") {
            commitment.bought.add(billed);
            commitment.bought_quantity.add(quantity);
            commitment.counts_pieces |= quantity == 0;
        } else if row.has(Col::LedgerPosition) {
            commitment.effective.add(row.number(Col::EffectiveCost).unwrap_or_default());
            commitment.quantity.add(quantity);
        }
    }

    /// P-2: a commitment whose hours are all there costs what was bought; before, no more of it is used
    /// than was bought.
    pub fn finish(&mut self) {
        for (id, it) in &self.commitments {
            let complete = it.quantity == it.bought_quantity;
            if complete && it.effective != it.bought {
                self.findings.add("P-2", || format!("{id}: Σ effective is not Σ purchase"));
            }
            if !complete && !it.counts_pieces && it.quantity.0 > it.bought_quantity.0 {
                self.findings.add("P-2", || format!("{id}: more hours than were bought"));
            }
        }
    }

    /// Reservations whose hours are all there.
    pub fn commitments_over(&self) -> usize {
        self.commitments.values().filter(|it| it.quantity == it.bought_quantity).count()
    }
}

/// The exact product of two decimals of 18 digits; `None` where it has more. One of them is a whole number,
/// or both have no more than 9 digits.
fn exact_product(a: i128, b: i128) -> Option<i128> {
    const UNIT: i128 = 1_000_000_000_000_000_000;
    const NANO: i128 = 1_000_000_000;
    if b % UNIT == 0 {
        return a.checked_mul(b / UNIT);
    }
    if a % UNIT == 0 {
        return b.checked_mul(a / UNIT);
    }
    (a % NANO == 0 && b % NANO == 0).then_some(())?;
    (a / NANO).checked_mul(b / NANO)
}
