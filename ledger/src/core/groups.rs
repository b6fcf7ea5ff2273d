//! Charge groups: what is priced alike and stands on one invoice line.
//!
//! A group is `(tenant, project, SKU)`, or that within one reservation or one spot pool. It knows its prices over time,
//! and for each segment of a billing period and each price a bucket with the quantity charged so far.
//! Rating adds to a bucket; settlement turns buckets into what is owed, so neither accrual nor an
//! invoice needs to look at an instance or a line.

use std::collections::BTreeMap;

use hourglass_pricing::rating::Tariff;
use hourglass_pricing::{PriceBook, PriceTimeline, PurchaseModel, Sku, SpotPool};
use hourglass_units::{Currency, Fabric, Hour, Interval, Month, Price, ProjectId, Quantity, TenantId};
use serde::{Deserialize, Serialize};

use super::calendars::Calendars;
use super::metering::InstanceIx;
use super::modes::ModeStep;
use super::reservations::ReservationIx;

/// Index of a group.
pub(crate) type GroupIx = u32;

/// All groups, in the order in which they came up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ChargeGroups {
    all: Vec<ChargeGroup>,
    by_tenant: BTreeMap<TenantId, BTreeMap<GroupKey, GroupIx>>,
}

type GroupKey = (ProjectId, Sku, Option<Fabric>, Option<ReservationIx>);

/// What is priced alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChargeGroup {
    pub(crate) tenant: TenantId,
    pub(crate) project: ProjectId,
    pub(crate) sku: Sku,
    pub(crate) currency: Currency,
    /// Of spot: in the pool of which fabric.
    pub(crate) fabric: Option<Fabric>,
    /// Out of which reservation.
    pub(crate) reservation: Option<ReservationIx>,
    /// Of the contract or the list, or the usage price of the reservation.
    pub(crate) prices: PriceTimeline,
    /// By segment and price.
    buckets: Vec<Bucket>,
    /// The bucket charged last: nearly always the next one too.
    recent: usize,
    /// Instances that were in it at any time.
    pub(crate) members: Vec<InstanceIx>,
    changed: bool,
}

/// What a group was charged in one segment at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) period: Month,
    pub(crate) segment: Interval,
    pub(crate) price: Price,
    /// Sum of the quantities of all lines.
    pub(crate) charged: Quantity,
    changed: bool,
}

/// What rating looks at: the prices of every group, some of them replaced for a comparison.
#[derive(Clone, Copy)]
pub(crate) struct Rates<'a> {
    pub(crate) groups: &'a ChargeGroups,
    pub(crate) prices: &'a PriceBook,
    pub(crate) instead: Option<&'a BTreeMap<GroupIx, PriceTimeline>>,
}

impl<'a> Rates<'a> {
    pub(crate) fn new(groups: &'a ChargeGroups, prices: &'a PriceBook) -> Self {
        Self { groups, prices, instead: None }
    }

    /// What GPU-hours cost under a mode.
    pub(crate) fn tariff(self, step: ModeStep) -> Option<Tariff<'a>> {
        let group = self.groups.get(step.group)?;
        let prices = self.instead.and_then(|instead| instead.get(&step.group)).unwrap_or(&group.prices);
        let spot = group.sku.model == PurchaseModel::Spot;
        let pool = if spot { self.prices.spot(&group.spot_pool()) } else { None };
        Some(Tariff { prices, pool, limit: step.limit })
    }
}

impl ChargeGroup {
    /// The pool that prices it where it is spot.
    pub(crate) fn spot_pool(&self) -> SpotPool {
        SpotPool { currency: self.currency, sku: self.sku.clone(), fabric: self.fabric.clone() }
    }

    /// Adds to the bucket of the hour's segment and the price. `None` when the quantity leaves its
    /// range.
    pub(crate) fn charge(
        &mut self,
        calendars: &Calendars,
        hour: Hour,
        price: Price,
        difference: Quantity,
    ) -> Option<()> {
        self.changed = true;
        let at = hour.start();
        let is_it = |bucket: &Bucket| bucket.price == price && bucket.segment.contains(at);
        if !self.buckets.get(self.recent).is_some_and(is_it) {
            let (period, segment) = calendars.segment(&self.tenant, at);
            self.recent = self.find_or_insert(period, segment, price);
        }
        let bucket = self.buckets.get_mut(self.recent)?;
        bucket.charged = bucket.charged.checked_add(difference)?;
        bucket.changed = true;
        Some(())
    }

    fn find_or_insert(&mut self, period: Month, segment: Interval, price: Price) -> usize {
        let key = (segment.start(), price);
        match self.buckets.binary_search_by_key(&key, |bucket| (bucket.segment.start(), bucket.price)) {
            Ok(found) => found,
            Err(place) => {
                let bucket = Bucket { period, segment, price, charged: Quantity::ZERO, changed: true };
                self.buckets.insert(place, bucket);
                place
            }
        }
    }

    /// All buckets, by segment and price.
    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Whether a bucket spans more than the segment that now holds its start.
    pub(crate) fn spans(&self, at: hourglass_units::Instant) -> bool {
        self.buckets.iter().any(|bucket| bucket.segment.start() < at && at < bucket.segment.end())
    }

    /// Cuts buckets at an instant: `before` says how much of each price was charged before it.
    pub(crate) fn split(
        &mut self,
        at: hourglass_units::Instant,
        before: &BTreeMap<Price, Quantity>,
    ) -> Option<()> {
        self.recent = 0;
        for mut bucket in std::mem::take(&mut self.buckets) {
            let (first, second) = (bucket.segment.start(), bucket.segment.end());
            match (Interval::between(first, at), Interval::between(at, second)) {
                (Some(first), Some(second)) if first.end() == at && second.start() == at => {
                    let charged = before.get(&bucket.price).copied().unwrap_or_default();
                    let rest = bucket.charged.checked_sub(charged)?;
                    self.buckets.push(Bucket { segment: first, charged, ..bucket.clone() });
                    bucket.segment = second;
                    bucket.charged = rest;
                    self.buckets.push(bucket);
                }
                _ => self.buckets.push(bucket),
            }
        }
        self.buckets.sort_by_key(|bucket| (bucket.segment.start(), bucket.price));
        self.changed = true;
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

    /// The group of the key, made where it is new with the prices that `resolve` gives. `None` beyond
    /// 2^32 groups.
    pub(crate) fn of(
        &mut self,
        tenant: &TenantId,
        key: GroupKey,
        currency: Currency,
        resolve: impl FnOnce(&Sku) -> PriceTimeline,
    ) -> Option<GroupIx> {
        if let Some(group) = self.by_tenant.get(tenant).and_then(|groups| groups.get(&key)) {
            return Some(*group);
        }
        let group = GroupIx::try_from(self.all.len()).ok()?;
        let (project, sku, fabric, reservation) = key.clone();
        self.all.push(ChargeGroup {
            tenant: tenant.clone(),
            project,
            prices: resolve(&sku),
            sku,
            currency,
            fabric,
            reservation,
            buckets: Vec::new(),
            recent: 0,
            members: Vec::new(),
            changed: false,
        });
        self.by_tenant.entry(tenant.clone()).or_default().insert(key, group);
        Some(group)
    }

    /// Resolves prices again, after a card, a contract or a re-rating: of one tenant, or of all. A
    /// reservation's stay as they are. Answers with the groups whose prices changed, and what they were.
    pub(crate) fn reprice(
        &mut self,
        prices: &PriceBook,
        only: Option<&TenantId>,
    ) -> BTreeMap<GroupIx, PriceTimeline> {
        let mut before = BTreeMap::new();
        for (ix, group) in (0..).zip(&mut self.all) {
            if group.reservation.is_some() || only.is_some_and(|tenant| *tenant != group.tenant) {
                continue;
            }
            let resolved = prices.timeline(&group.tenant, group.currency, &group.sku);
            if resolved != group.prices {
                before.insert(ix, std::mem::replace(&mut group.prices, resolved));
            }
        }
        before
    }

    /// What prices would be under another book, where they would differ.
    pub(crate) fn repriced(
        &self,
        prices: &PriceBook,
        only: Option<&TenantId>,
    ) -> BTreeMap<GroupIx, PriceTimeline> {
        let wanted = |group: &&ChargeGroup| {
            group.reservation.is_none() && only.is_none_or(|tenant| *tenant == group.tenant)
        };
        let groups = self.iter().filter(|(_, group)| wanted(group));
        let resolved =
            groups.map(|(ix, it)| (ix, &it.prices, prices.timeline(&it.tenant, it.currency, &it.sku)));
        resolved.filter(|(_, old, new)| *old != new).map(|(ix, _, new)| (ix, new)).collect()
    }

    /// Whether a tenant has a group.
    pub(crate) fn has_any(&self, tenant: &TenantId) -> bool {
        self.by_tenant.get(tenant).is_some_and(|groups| !groups.is_empty())
    }

    /// The tenants charged since the last call, of one or of all, and the first period in which they
    /// were; they count as settled.
    pub(crate) fn take_changed(&mut self, only: Option<&TenantId>) -> BTreeMap<TenantId, Month> {
        let mut changed = BTreeMap::new();
        for group in &mut self.all {
            if !group.changed || only.is_some_and(|tenant| *tenant != group.tenant) {
                continue;
            }
            group.changed = false;
            let mut first: Option<Month> = None;
            for bucket in group.buckets.iter_mut().filter(|bucket| bucket.changed) {
                bucket.changed = false;
                first = Some(first.map_or(bucket.period, |first| first.min(bucket.period)));
            }
            if let Some(first) = first {
                match changed.get_mut(&group.tenant) {
                    Some(known) => *known = first.min(*known),
                    None => drop(changed.insert(group.tenant.clone(), first)),
                }
            }
        }
        changed
    }

    /// The tenants charged since they were last settled, and the first period in which they were.
    pub(crate) fn changed(&self, only: Option<&TenantId>) -> BTreeMap<&TenantId, Month> {
        let mut changed: BTreeMap<&TenantId, Month> = BTreeMap::new();
        for group in self.all.iter().filter(|group| group.changed) {
            if only.is_some_and(|tenant| *tenant != group.tenant) {
                continue;
            }
            let first =
                group.buckets.iter().filter(|bucket| bucket.changed).map(|bucket| bucket.period).min();
            if let Some(first) = first {
                let known = changed.entry(&group.tenant).or_insert(first);
                *known = first.min(*known);
            }
        }
        changed
    }

    /// The groups of a tenant, by project, SKU and reservation.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = (GroupIx, &ChargeGroup)> {
        let groups = self.by_tenant.get(tenant).into_iter().flat_map(BTreeMap::values);
        groups.filter_map(|ix| Some((*ix, self.get(*ix)?)))
    }

    /// All groups, in the order in which they came up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupIx, &ChargeGroup)> {
        (0..).zip(&self.all)
    }
}
