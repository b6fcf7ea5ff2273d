//! What happens in the market, for who watches the demonstration.

use std::collections::BTreeSet;

use hourglass_ledger::cell::CellHandle;
use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::Target;

use super::LiveError;

/// What was told.
#[derive(Default)]
pub(super) struct News {
    /// The last clearing.
    clear: u64,
    /// Orders to stop.
    stops: BTreeSet<Target>,
}

impl News {
    /// Tells on stderr what a clearing changed.
    pub(super) async fn tell(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        let known = (self.clear, self.stops.clone());
        let (clear, stops, lines) = cell.read(move |state| lines(state, &known)).await?;
        (self.clear, self.stops) = (clear, stops);
        for line in lines {
            eprintln!("{line}");
        }
        Ok(())
    }
}

type Known = (u64, BTreeSet<Target>);

fn lines(state: &State, (clear, stops): &Known) -> (u64, BTreeSet<Target>, Vec<String>) {
    let market = state.market();
    let mut lines = Vec::new();
    let newest = market.cleared().filter(|(position, _)| position != clear);
    if let Some((position, at)) = newest {
        let pools = market.pools().filter_map(|(name, pool)| {
            let it = pool.cleared?;
            Some(format!("{} {} ({} sold, {} free)", name.fabric, it.price, it.sold, it.free))
        });
        lines.push(format!("{at}  clearing {position}: {}", pools.collect::<Vec<_>>().join(", ")));
    }
    let mut known = BTreeSet::new();
    for order in state.quotas().preemptions() {
        if let Target::Instance(instance) = &order.target
            && !stops.contains(&order.target)
        {
            let (at, tenant) = (order.ordered_at, &order.tenant);
            lines.push(format!("{at}  {instance} of {tenant} has to stop: {}", order.reason));
        }
        known.insert(order.target.clone());
    }
    (newest.map_or(*clear, |(position, _)| position), known, lines)
}
