//! What happens in the market, for who watches the demonstration.

use std::collections::BTreeSet;

use hourglass_capacity::lifecycle::Phase;
use hourglass_ledger::cell::CellHandle;
use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::Target;
use hourglass_units::InstanceId;

use super::LiveError;

/// What was told.
#[derive(Clone, Default)]
pub(super) struct News {
    /// The last clearing.
    clear: u64,
    /// Orders to stop that hold.
    stops: BTreeSet<Target>,
    /// Units that are over and still at the cloud.
    over: BTreeSet<InstanceId>,
}

impl News {
    /// Tells on stderr what was cleared, what has to stop, and how units ended.
    pub(super) async fn tell(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        let mut news = self.clone();
        let (news, lines) = cell
            .read(move |state| {
                let lines = news.lines(state);
                (news, lines)
            })
            .await?;
        *self = news;
        lines.iter().for_each(|line| eprintln!("{line}"));
        Ok(())
    }

    fn lines(&mut self, state: &State) -> Vec<String> {
        let market = state.market();
        let mut lines = Vec::new();
        if let Some((position, at)) = market.cleared().filter(|(position, _)| *position != self.clear) {
            let pools = market.pools().filter_map(|(name, pool)| {
                let it = pool.cleared?;
                Some(format!("{} {} ({} sold, {} free)", name.fabric, it.price, it.sold, it.free))
            });
            lines.push(format!("{at}  clearing {position}: {}", pools.collect::<Vec<_>>().join(", ")));
            self.clear = position;
        }
        let before = std::mem::take(&mut self.stops);
        for order in state.quotas().preemptions() {
            if let Target::Instance(instance) = &order.target
                && !before.contains(&order.target)
            {
                let (at, tenant) = (order.ordered_at, &order.tenant);
                lines.push(format!("{at}  {instance} of {tenant} has to stop: {}", order.reason));
            }
            self.stops.insert(order.target.clone());
        }
        let before = std::mem::take(&mut self.over);
        for cycle in market.lives().map(|life| &life.cycle) {
            let (Phase::Stopped { cause } | Phase::Failed { cause }) = cycle.phase() else { continue };
            let unit = cycle.instance();
            if !before.contains(unit) {
                lines.push(format!("{}  {unit} is over: {}", cycle.since(), cause.as_str()));
            }
            self.over.insert(unit.clone());
        }
        lines
    }
}
