//! What rows of one kind share: ids, texts and prices, made once.

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use hourglass_ledger::core::State;
use hourglass_ledger::core::invoicing::InvoiceLine;
use hourglass_ledger::core::rows::{ChargeRow, UnusedRow};
use hourglass_pricing::reservation::Payment;
use hourglass_pricing::{PriceTimeline, PurchaseModel, Sku};
use hourglass_units::{
    Currency, Hour, Instant, Interval, Month, Platform, Price, ProjectId, Region, ReservationId, TenantId,
};

/// A group, by its place in [`Groups`].
pub(super) type GroupIx = u32;

/// What usage is told apart by on an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) project: &'a ProjectId,
    pub(super) platform: &'a Platform,
    pub(super) region: &'a Region,
    pub(super) model: PurchaseModel,
    pub(super) reservation: Option<&'a ReservationId>,
}

impl<'a> Key<'a> {
    pub(super) fn of_charge(row: &'a ChargeRow) -> Self {
        Self {
            tenant: &row.tenant,
            project: &row.project,
            platform: &row.platform,
            region: &row.region,
            model: row.model,
            reservation: row.reservation.as_ref(),
        }
    }

    pub(super) fn of_unused(row: &'a UnusedRow) -> Self {
        Self {
            tenant: &row.tenant,
            project: &row.project,
            platform: &row.platform,
            region: &row.region,
            model: PurchaseModel::Reserved,
            reservation: Some(&row.reservation),
        }
    }

    /// Of a line for usage or for a reservation; `None` for others.
    pub(super) fn of_line(tenant: &'a TenantId, line: &'a InvoiceLine) -> Option<Self> {
        Some(Self {
            tenant,
            project: line.project.as_ref()?,
            platform: line.platform.as_ref()?,
            region: line.region.as_ref()?,
            model: line.model.unwrap_or(PurchaseModel::Reserved),
            reservation: line.reservation.as_ref(),
        })
    }
}

/// What rows of one key share.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) tenant: TenantId,
    pub(super) project: ProjectId,
    pub(super) platform: Platform,
    pub(super) region: Region,
    pub(super) model: PurchaseModel,
    pub(super) reservation: Option<ReservationId>,
    pub(super) sku: String,
    pub(super) sku_price: String,
    pub(super) details: String,
    pub(super) description: String,
    pub(super) tags: String,
    /// While the reservation holds, and whether it is paid up front.
    pub(super) held: Option<(Interval, bool)>,
    /// What a GPU-hour costs on demand by list and contract; of spot nothing.
    prices: PriceTimeline,
    /// The billing period that was asked for last, and its text.
    period: Option<(Month, Interval, String)>,
}

impl Group {
    fn new(state: &State, key: Key<'_>, currency: Currency) -> Self {
        let Key { tenant, project, platform, region, model, reservation } = key;
        let on_demand =
            Sku { platform: platform.clone(), region: region.clone(), model: PurchaseModel::OnDemand };
        let prices = match model {
            PurchaseModel::Spot => PriceTimeline::default(),
            _ => state.prices().timeline(tenant, currency, &on_demand),
        };
        let held = reservation.and_then(|id| state.reservation(id)).map(|held| {
            let payment = held.reservation.draft().payment;
            let upfront = matches!(payment, Payment::Upfront { .. } | Payment::UpfrontTotal { .. });
            (held.reservation.interval(), upfront)
        });
        let sold = match model {
            PurchaseModel::OnDemand => "on demand",
            PurchaseModel::Reserved => "reserved",
            PurchaseModel::Spot => "spot",
        };
        // Ids have no character that JSON would escape.
        let mut tags = format!(r#"{{"hourglass/model":"{model}""#);
        if let Some(reservation) = reservation {
            tags.push_str(&format!(r#","hourglass/reservation":"{reservation}""#));
        }
        tags.push('}');
        Self {
            sku: format!("{region}/{platform}"),
            sku_price: format!("{region}/{platform}/{model}"),
            details: format!(r#"{{"GpuCount":1,"InstanceType":"{platform}"}}"#),
            description: format!("GPU-hours of {platform}, {sold}"),
            tags,
            held,
            prices,
            period: None,
            tenant: tenant.clone(),
            project: project.clone(),
            platform: platform.clone(),
            region: region.clone(),
            model,
            reservation: reservation.cloned(),
        }
    }

    fn key(&self) -> Key<'_> {
        Key {
            tenant: &self.tenant,
            project: &self.project,
            platform: &self.platform,
            region: &self.region,
            model: self.model,
            reservation: self.reservation.as_ref(),
        }
    }

    /// The billing period that holds an instant.
    pub(super) fn period(&mut self, state: &State, at: Instant) -> Month {
        match &self.period {
            Some((period, interval, _)) if interval.contains(at) => *period,
            _ => {
                let period = state.period_at(&self.tenant, at);
                let interval = state.period_interval(&self.tenant, period);
                self.period = Some((period, interval, period.to_string()));
                period
            }
        }
    }

    /// `YYYY-MM`.
    pub(super) fn period_text(&self, period: Month) -> Cow<'_, str> {
        match &self.period {
            Some((known, _, text)) if *known == period => Cow::Borrowed(text),
            _ => Cow::Owned(period.to_string()),
        }
    }

    /// The list price behind what was charged in an hour. Where no list has it (spot, or a price that a
    /// re-rating has replaced since), it is the price itself.
    pub(super) fn list_price(&self, hour: Hour, charged: Price) -> Price {
        let step = self.prices.within(hour.interval()).find(|step| step.price == charged);
        step.and_then(|step| step.list.as_ref()).map_or(charged, |(_, list)| *list)
    }

    /// What a reserved GPU-hour would cost on demand, by list and by contract; `otherwise` where it is
    /// not sold on demand.
    pub(super) fn on_demand_prices(&self, hour: Hour, otherwise: Price) -> (Price, Price) {
        match self.prices.within(hour.interval()).next() {
            Some(step) => (step.list.as_ref().map_or(step.price, |(_, list)| *list), step.price),
            None => (otherwise, otherwise),
        }
    }
}

/// All groups that came up.
#[derive(Default)]
pub(super) struct Groups {
    all: Vec<Group>,
    index: HashTable<GroupIx>,
    hasher: DefaultHashBuilder,
    /// Neighbouring rows are mostly of one group.
    recent: GroupIx,
}

impl Groups {
    /// The group of a key, made where it is new. `None` beyond 2^32 groups.
    pub(super) fn of(&mut self, state: &State, key: Key<'_>, currency: Currency) -> Option<GroupIx> {
        if self.get(self.recent).is_some_and(|group| group.key() == key) {
            return Some(self.recent);
        }
        let hash = self.hasher.hash_one(key);
        let Self { all, index, hasher, .. } = self;
        let same = |ix: &GroupIx| all.get(*ix as usize).is_some_and(|group| group.key() == key);
        if let Some(found) = index.find(hash, same) {
            self.recent = *found;
            return Some(self.recent);
        }
        let ix = GroupIx::try_from(all.len()).ok()?;
        all.push(Group::new(state, key, currency));
        index.insert_unique(hash, ix, |ix| {
            all.get(*ix as usize).map_or(0, |group| hasher.hash_one(group.key()))
        });
        self.recent = ix;
        Some(ix)
    }

    pub(super) fn get(&self, ix: GroupIx) -> Option<&Group> {
        self.all.get(ix as usize)
    }

    pub(super) fn get_mut(&mut self, ix: GroupIx) -> Option<&mut Group> {
        self.all.get_mut(ix as usize)
    }
}
