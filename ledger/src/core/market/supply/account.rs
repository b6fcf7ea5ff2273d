//! C-2: where the GPU-time of a pool went, each millisecond of each GPU once.

use std::collections::BTreeSet;

use hourglass_capacity::pool::PoolName;
use hourglass_capacity::series::{Span, Use};
use hourglass_capacity::steps::{Steps, side_by_side};
use hourglass_capacity::supply::{Overfull, Parts, Split, split};
use hourglass_pricing::PurchaseModel;
use hourglass_units::Interval;

use crate::core::metering::InstanceIx;
use crate::core::state::State;

/// Most spans that are taken out of the state at once: 32 MiB of them.
pub const SPANS_MAX: usize = 1 << 20;

/// More than [`SPANS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {SPANS_MAX} instances and changes lie in this time: ask for a shorter one, or for one pool"
)]
pub struct TooManySpans;

impl State {
    /// What became of a pool's GPUs within an interval, in GPU-milliseconds: what ran, by how it was sold, what
    /// could not be used, and the idle rest. `None` where there is no such pool.
    ///
    /// An instance counts while it ran, by its life cycle, whether or not it was reported.
    pub fn account_of_pool(&self, name: &PoolName, within: Interval) -> Option<Result<Split, Overfull>> {
        let stock = self.market.pool(name)?.stock();
        let mut parts = Parts { excluded: gpu_milliseconds(stock.excluded(), within), ..Parts::default() };
        self.each_run_in_pool(name, within, |span| {
            let sum = match span.of {
                Use::Spot => &mut parts.spot,
                Use::Reserved => &mut parts.reserved,
                _ => &mut parts.on_demand,
            };
            let ran = u64::try_from(span.within.milliseconds()).unwrap_or(0);
            *sum = sum.saturating_add(ran.saturating_mul(span.gpus));
        });
        Some(split(gpu_milliseconds(stock.owned(), within), parts))
    }

    /// Who used a pool within an interval, as [`hourglass_capacity::series`] sorts it into steps: one pass over
    /// its instances, however many steps. They are appended to `spans`, which holds no more than [`SPANS_MAX`]
    /// afterwards. `None` where there is no such pool.
    pub fn spans_of_pool(
        &self,
        name: &PoolName,
        within: Interval,
        spans: &mut Vec<Span>,
    ) -> Option<Result<(), TooManySpans>> {
        let stock = self.market.pool(name)?.stock();
        for (of, steps) in [(Use::Owned, stock.owned()), (Use::Excluded, stock.excluded())] {
            let parts = side_by_side([steps], within).filter(|(_, [gpus])| *gpus > 0);
            spans.extend(parts.map(|(within, [gpus])| Span { of, within, gpus }));
        }
        // The calendar forgets what is over; what was sold is known for ever.
        for held in self.reservations() {
            let draft = held.reservation.draft();
            let is_here = draft.platform == name.platform && draft.fabric.as_ref() == Some(&name.fabric);
            let kept = held.reservation.interval().intersection(within).filter(|_| is_here);
            let gpus = u64::from(draft.gpus);
            spans.extend(kept.map(|within| Span { of: Use::Promised, within, gpus }));
        }
        let mut is_full = spans.len() > SPANS_MAX;
        self.each_run_in_pool(name, within, |span| match spans.len() < SPANS_MAX {
            true => spans.push(span),
            false => is_full = true,
        });
        Some(if is_full { Err(TooManySpans) } else { Ok(()) })
    }

    /// What ran in a pool within an interval.
    fn each_run_in_pool(&self, name: &PoolName, within: Interval, mut each: impl FnMut(Span)) {
        for ix in self.instances_of_pool(name) {
            let Some(instance) = self.instances.get(ix) else { continue };
            if instance.running.within(within).next().is_none() {
                continue;
            }
            let sits = self.market.seats.get(&ix).is_some_and(|seat| seat.pool == *name);
            for (part, step) in instance.modes.within(within) {
                let Some(group) = self.groups.get(step.group) else { continue };
                let of = match group.sku.model {
                    PurchaseModel::Spot if group.is_of(name) => Use::Spot,
                    PurchaseModel::Spot => continue,
                    _ if !sits => continue,
                    PurchaseModel::Reserved => Use::Reserved,
                    PurchaseModel::OnDemand => Use::OnDemand,
                };
                let gpus = u64::from(instance.gpus);
                instance.running.within(part).for_each(|within| each(Span { of, within, gpus }));
            }
        }
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
    let of = |(part, [gpus]): (Interval, [u64; 1])| {
        u64::try_from(part.milliseconds()).unwrap_or(0).saturating_mul(gpus)
    };
    side_by_side([steps], within).map(of).fold(0, u64::saturating_add)
}
