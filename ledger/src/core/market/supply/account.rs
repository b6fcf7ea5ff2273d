//! C-2: where the GPU-time of a pool went, each millisecond of each GPU once.

use std::collections::BTreeSet;

use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::Steps;
use hourglass_capacity::supply::{Overfull, Parts, Split, split};
use hourglass_pricing::PurchaseModel;
use hourglass_units::Interval;

use crate::core::metering::InstanceIx;
use crate::core::state::State;

impl State {
    /// What became of a pool's GPUs within an interval, in GPU-milliseconds: what ran, by how it was sold, what
    /// could not be used, and the idle rest. `None` where there is no such pool.
    ///
    /// An instance counts while it ran, by its life cycle, whether or not it was reported.
    pub fn account_of_pool(&self, name: &PoolName, within: Interval) -> Option<Result<Split, Overfull>> {
        let stock = self.market.pool(name)?.stock();
        let mut parts = Parts { excluded: gpu_milliseconds(stock.excluded(), within), ..Parts::default() };
        for ix in self.instances_of_pool(name) {
            let Some(instance) = self.instances.get(ix) else { continue };
            let sits = self.market.seats.get(&ix).is_some_and(|seat| seat.pool == *name);
            for (part, step) in instance.modes.within(within) {
                let Some(group) = self.groups.get(step.group) else { continue };
                let sum = match group.sku.model {
                    PurchaseModel::Spot if group.is_of(name) => &mut parts.spot,
                    PurchaseModel::Spot => continue,
                    _ if !sits => continue,
                    PurchaseModel::Reserved => &mut parts.reserved,
                    PurchaseModel::OnDemand => &mut parts.on_demand,
                };
                let ran =
                    instance.running.within(part).map(Interval::milliseconds).fold(0, i64::saturating_add);
                let gpus = u64::from(instance.gpus);
                *sum = sum.saturating_add(u64::try_from(ran).unwrap_or(0).saturating_mul(gpus));
            }
        }
        Some(split(gpu_milliseconds(stock.owned(), within), parts))
    }

    /// Instances that ever were in a pool, as spot or on a seat.
    fn instances_of_pool(&self, name: &PoolName) -> BTreeSet<InstanceIx> {
        let spot = self.groups.iter().filter(|(_, group)| group.is_of(name));
        let spot = spot.flat_map(|(_, group)| group.members.iter().copied());
        let seats = self.market.seats.iter().filter(|(_, seat)| seat.pool == *name).map(|(ix, _)| *ix);
        spot.chain(seats).collect()
    }
}

fn gpu_milliseconds(steps: &Steps, within: Interval) -> u64 {
    let parts = hourglass_capacity::steps::side_by_side([steps], within);
    let of = |(part, [gpus]): (Interval, [u64; 1])| {
        u64::try_from(part.milliseconds()).unwrap_or(0).saturating_mul(gpus)
    };
    parts.map(of).fold(0, u64::saturating_add)
}
