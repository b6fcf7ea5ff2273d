//! What a tenant can get of a pool.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::pool::PoolName;
use hourglass_compute::ids::ParentId;
use hourglass_compute::messages::write_advice;
use hourglass_compute::model::{Advice, Availability, Freshness, Place, Preset};
use hourglass_ledger::core::State;
use hourglass_ledger::core::market::Pool;
use hourglass_proto::nebius::capacity::v1::ResourceAdvice;
use hourglass_quota::{Bound, Class, NodeName};
use hourglass_units::{Instant, Platform, TenantId, gpu_resource};

use super::groups::group_in;

/// What a spot GPU-hour cost at the last clearing, a decimal.
const SPOT_PRICE: &str = "spot_price";
/// In which currency, ISO 4217.
const SPOT_CURRENCY: &str = "spot_currency";

/// One size of machine in a pool.
pub(super) struct Offer<'a> {
    name: &'a PoolName,
    pool: &'a Pool,
    gpus: u32,
}

/// Whom it is for, and when.
pub(super) struct Asker<'a> {
    pub(super) tenant: &'a TenantId,
    /// Whether it may see what the tenant has reserved.
    pub(super) reservations: bool,
    pub(super) now: Instant,
}

/// All sizes of all pools. The cell sells by the GPU, so a single one is a size; the others are those of nodes.
pub(super) fn offers(state: &State) -> BTreeMap<String, Offer<'_>> {
    let sizes = state.market().pools().flat_map(|(name, pool)| {
        let nodes = pool.stock().nodes().iter();
        let nodes = nodes.filter_map(|(_, node)| u32::try_from(node.gpus).ok().filter(|gpus| *gpus > 0));
        let sizes: BTreeSet<u32> = nodes.chain([1]).collect();
        // Numbers of one width are sorted as numbers.
        sizes.into_iter().map(move |gpus| (format!("{name}/{gpus:010}"), Offer { name, pool, gpus }))
    });
    sizes.collect()
}

impl Offer<'_> {
    /// What of it can be had; `None` where its size is none that a machine has.
    pub(super) fn advice(&self, state: &State, asker: &Asker<'_>) -> Option<ResourceAdvice> {
        let Self { name, pool, gpus } = self;
        let advice = Advice {
            region: name.region.clone(),
            place: Place { platform: name.platform.clone(), fabric: Some(name.fabric.clone()) },
            preset: Preset::new(&format!("{gpus}gpu")).ok()?,
            reserved: self.reserved(state, asker),
            on_demand: Some(self.on_demand(state, asker)),
            preemptible: Some(self.preemptible(state, asker)),
        };
        let mut message = write_advice(&advice, &ParentId::new(asker.tenant.as_str()).ok()?);
        if let (Some(cleared), Some(metadata)) = (pool.cleared, &mut message.metadata) {
            metadata.labels.insert(SPOT_PRICE.to_owned(), cleared.price.to_string());
            metadata.labels.insert(SPOT_CURRENCY.to_owned(), pool.terms.currency.to_string());
        }
        Some(message)
    }

    /// What of the tenant's own group is not used.
    fn reserved(&self, state: &State, asker: &Asker<'_>) -> Option<Availability> {
        let group = group_in(state, asker.tenant, self.name).filter(|_| asker.reservations)?;
        let limit = group.limit(asker.now);
        let free = limit.saturating_sub(group.used(state));
        let quota = quota(state, asker.tenant, &self.name.platform, Class::Reserved);
        Some(Availability::at(asker.now, self.gpus, (free, limit), quota))
    }

    fn on_demand(&self, state: &State, asker: &Asker<'_>) -> Availability {
        let there = self.pool.stock().capacity(asker.now).at(asker.now);
        let free = self.pool.room_on_demand(asker.now);
        let quota = quota(state, asker.tenant, &self.name.platform, Class::OnDemand);
        Availability::at(asker.now, self.gpus, (free, there), quota)
    }

    /// What the last clearing left. Nobody knows it before the first, and it is old when another one is due.
    fn preemptible(&self, state: &State, asker: &Asker<'_>) -> Availability {
        let quota = quota(state, asker.tenant, &self.name.platform, Class::Preemptible);
        let Some(cleared) = self.pool.cleared else {
            return Availability::unknown(quota.map(|(limit, _)| limit));
        };
        let there = self.pool.stock().capacity(asker.now).at(asker.now);
        let measured = Availability::at(cleared.at, self.gpus, (cleared.free, there), quota);
        match state.market().is_due(asker.now) {
            true => Availability { freshness: Freshness::Stale, ..measured },
            false => measured,
        }
    }
}

/// The tenant's quota and what is left of it, in GPUs; `None` where nothing limits it.
fn quota(state: &State, tenant: &TenantId, platform: &Platform, class: Class) -> Option<(u64, u64)> {
    let tree = state.quotas().tree();
    let node = tree.find(&NodeName::Tenant(tenant.clone()))?;
    let key = tree.key(&gpu_resource(platform), class)?;
    match tree.standing(node, key).limits?.nominal {
        Bound::AtMost(limit) => Some((limit, tree.fits(node, key).unwrap_or(0))),
        Bound::Unlimited => None,
    }
}
