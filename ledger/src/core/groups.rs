//! Charge groups: what is priced alike and stands on one invoice line.
//!
//! A group is `(tenant, project, SKU)`. It knows its prices over time, and for each month and price
//! a bucket with the quantity charged so far. Rating adds to a bucket; accrual and invoicing take
//! differences from it, so neither needs to look at an instance or a line.

use std::collections::BTreeMap;

use hourglass_pricing::{PriceBook, PriceTimeline, Sku};
use hourglass_units::{Amount, Currency, Instant, Interval, Month, Price, ProjectId, Quantity, TenantId};
use serde::{Deserialize, Serialize};

use super::command::Position;

/// Index of a group.
pub(crate) type GroupIx = u32;

/// All groups, in the order in which they came up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ChargeGroups {
    all: Vec<ChargeGroup>,
    by_tenant: BTreeMap<TenantId, BTreeMap<(ProjectId, Sku), GroupIx>>,
}

/// What is priced alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChargeGroup {
    pub(crate) tenant: TenantId,
    pub(crate) project: ProjectId,
    pub(crate) sku: Sku,
    pub(crate) currency: Currency,
    pub(crate) prices: PriceTimeline,
    pub(crate) buckets: Vec<Bucket>,
    unaccrued: bool,
}

/// What a group was charged in one month at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) period: Month,
    span: Interval,
    pub(crate) price: Price,
    /// Sum of the quantities of all lines.
    pub(crate) charged: Quantity,
    /// The part of it that stands in the book.
    accrued: Quantity,
    accrued_at: Option<Position>,
    /// The part of it that stands on invoices.
    pub(crate) invoiced: Quantity,
}

/// What accrual takes from a bucket.
pub(crate) struct Unaccrued {
    pub(crate) amount: Amount,
    pub(crate) accrued_before: Option<Position>,
}

impl Bucket {
    pub(crate) fn take_unaccrued(&mut self, position: Position) -> Option<Unaccrued> {
        let difference = self.charged.checked_sub(self.accrued)?;
        let accrued_before = self.accrued_at;
        if !difference.is_zero() {
            self.accrued = self.charged;
            self.accrued_at = Some(position);
        }
        Some(Unaccrued { amount: self.price.times(difference), accrued_before })
    }

    /// What no transfer holds yet.
    pub(crate) fn unaccrued(&self) -> Option<Amount> {
        Some(self.price.times(self.charged.checked_sub(self.accrued)?))
    }

    /// What no invoice holds yet.
    pub(crate) fn uninvoiced(&self) -> Option<Quantity> {
        self.charged.checked_sub(self.invoiced)
    }
}

impl ChargeGroup {
    /// Adds to the bucket of the month and price. `None` when the quantity leaves its range.
    pub(crate) fn charge(&mut self, at: Instant, price: Price, difference: Quantity) -> Option<()> {
        self.unaccrued = true;
        let found =
            self.buckets.iter_mut().rev().find(|bucket| bucket.price == price && bucket.span.contains(at));
        match found {
            Some(bucket) => bucket.charged = bucket.charged.checked_add(difference)?,
            None => {
                let period = Month::containing(at);
                let (accrued, invoiced) = (Quantity::ZERO, Quantity::ZERO);
                let span = period.interval();
                self.buckets.push(Bucket {
                    period,
                    span,
                    price,
                    charged: difference,
                    accrued,
                    accrued_at: None,
                    invoiced,
                });
            }
        }
        Some(())
    }
}

impl ChargeGroups {
    pub(crate) fn get(&self, group: GroupIx) -> Option<&ChargeGroup> {
        self.all.get(group as usize)
    }

    pub(crate) fn get_mut(&mut self, group: GroupIx) -> Option<&mut ChargeGroup> {
        self.all.get_mut(group as usize)
    }

    /// The group of the key, made where it is new. `None` beyond 2^32 groups.
    pub(crate) fn of(
        &mut self,
        tenant: &TenantId,
        project: &ProjectId,
        sku: &Sku,
        currency: Currency,
        prices: &PriceBook,
    ) -> Option<GroupIx> {
        let key = (project.clone(), sku.clone());
        if let Some(group) = self.by_tenant.get(tenant).and_then(|groups| groups.get(&key)) {
            return Some(*group);
        }
        let group = GroupIx::try_from(self.all.len()).ok()?;
        self.all.push(ChargeGroup {
            tenant: tenant.clone(),
            project: project.clone(),
            sku: sku.clone(),
            currency,
            prices: prices.timeline(tenant, currency, sku),
            buckets: Vec::new(),
            unaccrued: false,
        });
        self.by_tenant.entry(tenant.clone()).or_default().insert(key, group);
        Some(group)
    }

    /// Resolves all prices again, after a card or contract came into force.
    pub(crate) fn reprice(&mut self, prices: &PriceBook) {
        for group in &mut self.all {
            group.prices = prices.timeline(&group.tenant, group.currency, &group.sku);
        }
    }

    /// The groups charged since the last accrual, of one tenant or of all; they count as accrued.
    pub(crate) fn with_unaccrued(
        &mut self,
        only: Option<&TenantId>,
    ) -> impl Iterator<Item = &mut ChargeGroup> {
        self.all.iter_mut().filter_map(move |group| {
            let wanted = group.unaccrued && only.is_none_or(|tenant| *tenant == group.tenant);
            group.unaccrued &= !wanted;
            wanted.then_some(group)
        })
    }

    /// The groups of a tenant, by project and SKU.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = &ChargeGroup> {
        self.by_tenant.get(tenant).into_iter().flat_map(BTreeMap::values).filter_map(|group| self.get(*group))
    }

    /// All groups, in the order in which they came up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ChargeGroup> {
        self.all.iter()
    }

    /// Runs over the buckets of a tenant.
    pub(crate) fn for_each_bucket_of(&mut self, tenant: &TenantId, mut then: impl FnMut(&mut Bucket)) {
        let Self { all, by_tenant } = self;
        for group in by_tenant.get(tenant).into_iter().flat_map(BTreeMap::values) {
            if let Some(group) = all.get_mut(*group as usize) {
                group.buckets.iter_mut().for_each(&mut then);
            }
        }
    }
}
