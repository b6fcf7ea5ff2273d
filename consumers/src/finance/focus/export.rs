//! One pass over the rows of the ledger, and what every row of the export has.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_ledger::core::{Inconsistent, Position, Rejection, State};
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::{Amount, Currency, Interval, Month};

use super::super::columnar::{Cell, TableError};
use super::super::run::RunError;
use super::columns::{ChargeKind, Col, Row};
use super::documents::{DocIx, Document, Documents};
use super::groups::{GroupIx, Groups};

/// Takes rows, each with the billing period that it belongs to.
pub trait Sink {
    /// Takes a row of [`super::COST_AND_USAGE`].
    fn row(&mut self, period: Month, cells: &[Cell<'_>]) -> Result<(), FocusError>;
}

impl<F: FnMut(Month, &[Cell<'_>]) -> Result<(), FocusError>> Sink for F {
    fn row(&mut self, period: Month, cells: &[Cell<'_>]) -> Result<(), FocusError> {
        self(period, cells)
    }
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum FocusError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A run cannot be written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What is owed cannot be computed.
    #[error("what is owed cannot be computed: {0}")]
    Owed(#[from] Rejection),
    /// A sum or a product leaves its range.
    #[error("an amount is too large to be exported")]
    TooLarge,
    /// The rows do not fit the state.
    #[error("the rows do not fit the log ({0}): run `hourglass verify`")]
    Inconsistent(String),
}

impl From<Inconsistent> for FocusError {
    fn from(error: Inconsistent) -> Self {
        Self::Inconsistent(error.to_string())
    }
}

/// Which billing periods to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// Some.
    Only(BTreeSet<Month>),
}

impl Wanted {
    pub(super) fn has(&self, period: Month) -> bool {
        match self {
            Self::All => true,
            Self::Only(periods) => periods.contains(&period),
        }
    }
}

/// Told how far the export has come: a position of the log.
pub type Progress<'a> = &'a mut dyn FnMut(Position);

/// What the rows of a billing period in one currency come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many.
    pub rows: u64,
    /// Σ `BilledCost`.
    pub billed: Amount,
    /// Σ `BilledCost` without tax and rounding: what the ledger holds.
    pub billed_exact: Amount,
    /// Σ `EffectiveCost`.
    pub effective: Amount,
    /// Σ `ContractedCost`.
    pub contracted: Amount,
    /// Σ `ListCost`.
    pub list: Amount,
}

/// What all rows come to, by billing period and currency.
pub type AllTotals = BTreeMap<(Month, Currency), Totals>;

/// The four costs of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    pub(super) billed: Amount,
    pub(super) effective: Amount,
    pub(super) contracted: Amount,
    pub(super) list: Amount,
}

impl Costs {
    /// Of what has no price: all are what is billed.
    pub(super) const fn all(billed: Amount) -> Self {
        Self { billed, effective: billed, contracted: billed, list: billed }
    }
}

/// An export: the state, the rows up to its position, and where rows go.
pub struct Export<'a, S> {
    pub(super) state: &'a State,
    pub(super) reader: &'a dyn Reader,
    pub(super) provider: &'a str,
    pub(super) wanted: Wanted,
    pub(super) sink: S,
    pub(super) documents: Documents,
    pub(super) groups: Groups,
    /// Σ of usage by document, group and charged period.
    pub(super) charged: BTreeMap<(DocIx, GroupIx, Month), Amount>,
    pub(super) totals: BTreeMap<(Month, Currency), Totals>,
}

impl<'a, S: Sink> Export<'a, S> {
    /// Prepares an export of what stands up to the state's position.
    pub fn new(
        state: &'a State,
        reader: &'a dyn Reader,
        provider: &'a str,
        wanted: Wanted,
        sink: S,
    ) -> Result<Self, FocusError> {
        Ok(Self {
            state,
            reader,
            provider,
            wanted,
            sink,
            documents: Documents::of(state)?,
            groups: Groups::default(),
            charged: BTreeMap::new(),
            totals: BTreeMap::new(),
        })
    }

    /// Writes all rows. Gives back the sink, and what the rows came to.
    pub fn run(mut self, progress: Progress<'_>) -> Result<(S, AllTotals), FocusError> {
        self.charges(progress)?;
        self.unwritten()?;
        self.unused(progress)?;
        self.invoices(progress)?;
        self.drafts()?;
        Ok((self.sink, self.totals))
    }

    /// The billing periods that have an invoice to come with something on it: they are not final.
    pub fn open_periods(&self) -> BTreeSet<Month> {
        let open = self.documents.iter().filter(|(_, it)| it.number.is_none() && !it.open.is_empty());
        open.map(|(_, document)| document.period).collect()
    }

    /// Completes a row of a document and writes it.
    pub(super) fn emit(
        sink: &mut S,
        totals: &mut BTreeMap<(Month, Currency), Totals>,
        document: &Document,
        row: &Row<'_>,
        kind: ChargeKind,
        costs: Costs,
    ) -> Result<(), FocusError> {
        sink.row(document.period, row.cells())?;
        let sum = totals.entry((document.period, document.currency)).or_default();
        let add = |sum: &mut Amount, more: Amount| {
            *sum = sum.checked_add(more).ok_or(FocusError::TooLarge)?;
            Ok::<_, FocusError>(())
        };
        sum.rows = sum.rows.saturating_add(1);
        add(&mut sum.billed, costs.billed)?;
        add(&mut sum.effective, costs.effective)?;
        add(&mut sum.contracted, costs.contracted)?;
        add(&mut sum.list, costs.list)?;
        if !kind.is_beyond_exact() {
            add(&mut sum.billed_exact, costs.billed)?;
        }
        Ok(())
    }
}

/// What every row has: whose it is, on which document, when, why, and how much.
pub(super) struct Common<'a> {
    pub(super) account_name: &'a str,
    pub(super) provider: &'a str,
    pub(super) charged_period: &'a str,
    pub(super) kind: ChargeKind,
    pub(super) frequency: &'static str,
    pub(super) time: Interval,
    pub(super) correction: bool,
    pub(super) description: &'a str,
    pub(super) position: Option<Position>,
}

pub(super) fn fill<'a>(row: &mut Row<'a>, document: &'a Document, common: &Common<'a>, costs: Costs) {
    let Common { provider, kind, time, .. } = *common;
    row.set(Col::BillingAccountId, document.tenant.as_str());
    row.set(Col::BillingAccountName, common.account_name);
    row.set(Col::BillingAccountType, "Tenant");
    row.set(Col::BillingCurrency, document.currency.code());
    row.set(Col::PricingCurrency, document.currency.code());
    row.set(Col::BillingPeriodStart, document.interval.start());
    row.set(Col::BillingPeriodEnd, document.interval.end());
    row.set(Col::InvoiceId, document.id.as_str());
    row.set(Col::InvoiceIssuerName, provider);
    row.set(Col::ProviderName, provider);
    row.set(Col::PublisherName, provider);
    row.set(Col::ServiceCategory, "Compute");
    row.set(Col::ServiceSubcategory, "Virtual Machines");
    row.set(Col::ServiceName, "GPU cloud");
    row.set(Col::ChargePeriodStart, time.start());
    row.set(Col::ChargePeriodEnd, time.end());
    row.set(Col::ChargeCategory, kind.category());
    row.set(Col::ChargeClass, common.correction.then_some("Correction"));
    row.set(Col::ChargeFrequency, common.frequency);
    row.set(Col::ChargeDescription, common.description);
    row.set(Col::PricingCategory, kind.pricing());
    row.set(Col::BilledCost, costs.billed);
    row.set(Col::EffectiveCost, costs.effective);
    row.set(Col::PricingCurrencyEffectiveCost, costs.effective);
    row.set(Col::ContractedCost, costs.contracted);
    row.set(Col::ListCost, costs.list);
    row.set(Col::ChargeKind, kind.as_str());
    row.set(Col::ChargedPeriod, common.charged_period);
    // A GPU-hour is sold by region, and instances have no name but their id.
    row.set(Col::AvailabilityZone, Cell::Null);
    row.set(Col::ResourceName, Cell::Null);
    let position = common.position.and_then(|position| i64::try_from(position.number()).ok());
    row.set(Col::LedgerPosition, position);
}
