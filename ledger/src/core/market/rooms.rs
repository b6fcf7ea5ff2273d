//! What quotas and budgets leave to bids, as the auction asks them.
//!
//! What a bid has already it need not ask for: it holds it. What it loses it holds until that has stopped,
//! so nobody is granted in the same clearing what another one has still to give back.

use std::collections::BTreeMap;

use hourglass_capacity::auction::{Allowance, BidIx, Book, Grant, PoolIx, Refusal};
use hourglass_capacity::pool::PoolName;
use hourglass_quota::tree::{Counter, Fit, KeyIx, NodeIx, Tree};
use hourglass_quota::{Class, NodeName};
use hourglass_units::{Amount, Instant, ProjectId, TenantId, gpu_resource};

use super::Bid;
use crate::core::command::Mode;
use crate::core::quotas::burn_of_instance;
use crate::core::state::State;

/// Quotas and budgets, with what was granted in this clearing counted.
pub(super) struct Rooms<'a> {
    state: &'a State,
    book: &'a Book,
    now: Instant,
    /// Units that each bid has taken so far, in the pool that it asked last.
    taken: Vec<(Option<PoolIx>, u32)>,
    /// The tree with all grants counted. Made when the first bid asks for more than it has.
    tree: Option<Tree>,
    /// Money kept for what was granted, by the cap that it falls under.
    kept: BTreeMap<(&'a TenantId, Option<&'a ProjectId>), Amount>,
}

/// What one unit of a bid takes in a pool.
struct Unit<'a> {
    bid: &'a Bid,
    /// Where it counts, if anything limits it.
    place: Option<(NodeIx, KeyIx)>,
    gpus: u64,
    /// What it costs at worst until it can be stopped. `None` where that has no bound, and a cap needs one.
    burn: Option<Amount>,
}

impl<'a> Rooms<'a> {
    pub(super) fn new(state: &'a State, book: &'a Book, now: Instant) -> Self {
        let taken = vec![(None, 0); book.bids().len()];
        Self { state, book, now, taken, tree: None, kept: BTreeMap::new() }
    }

    /// Units that a bid holds quota for in a pool already: those that go on. What it held and what has
    /// stopped by itself it has to ask for again.
    fn holds(&self, bid: BidIx, pool: PoolIx) -> u32 {
        let bid = self.book.bids().get(bid.index()).and_then(|bid| self.state.market.bids.get(&bid.number));
        let name = self.book.pools().get(pool.index()).map(|pool| &pool.name);
        let here = bid.filter(|bid| bid.held.as_ref().map(|(pool, _)| pool) == name);
        here.map_or(0, |bid| u32::try_from(bid.units_going_on(self.state)).unwrap_or(u32::MAX))
    }

    fn taken(&self, bid: BidIx, pool: PoolIx) -> u32 {
        match self.taken.get(bid.index()) {
            Some((Some(of), units)) if *of == pool => *units,
            _ => 0,
        }
    }

    fn set_taken(&mut self, bid: BidIx, pool: PoolIx, units: u32) {
        if let Some(taken) = self.taken.get_mut(bid.index()) {
            *taken = (Some(pool), units);
        }
    }

    fn unit(&mut self, bid: BidIx, pool: PoolIx) -> Option<Unit<'a>> {
        let number = self.book.bids().get(bid.index())?.number;
        let pool = &self.book.pools().get(pool.index())?.name;
        let bid = self.state.market.bids.get(&number)?;
        let tree = self.tree.get_or_insert_with(|| self.state.quotas.tree.clone());
        let node = NodeName::Project(bid.tenant.clone(), bid.draft.project.clone());
        // A project that nobody placed counts under its tenant, as it will when it is first used.
        let node = tree.find(&node).or_else(|| tree.ensure(&node, None).ok());
        let key = tree.key(&gpu_resource(&pool.platform), Class::Preemptible);
        Some(Unit {
            bid,
            place: node.zip(key),
            gpus: u64::from(bid.draft.gpus_per_unit),
            burn: self.burn(bid, pool),
        })
    }

    fn burn(&self, bid: &Bid, pool: &PoolName) -> Option<Amount> {
        let (tenant, project) = (&bid.tenant, &bid.draft.project);
        let (mode, gpus) = (mode_of(bid, pool), bid.draft.gpus_per_unit);
        burn_of_instance(self.state, (tenant, project), &pool.platform, &mode, gpus, self.now).ok()
    }

    /// The most units, up to so many, that quota allows.
    fn within_quota(&self, unit: &Unit<'_>, units: u32) -> u32 {
        let (Some(tree), Some((node, key))) = (&self.tree, unit.place) else { return units };
        most(units, |units| {
            let gpus = unit.gpus.saturating_mul(u64::from(units));
            tree.fit(node, &[(key, gpus)]) == Ok(Fit::Now)
        })
    }

    /// The most units, up to so many, that budgets allow.
    fn within_budget(&self, unit: &Unit<'a>, units: u32) -> u32 {
        let Some(burn) = unit.burn else { return 0 };
        let (tenant, project) = (&unit.bid.tenant, &unit.bid.draft.project);
        self.state.quotas.caps_over(tenant, project).fold(units, |units, (of, cap)| {
            let kept = self.kept.get(&(tenant, of)).copied().unwrap_or(Amount::ZERO);
            most(units, |units| {
                let more = times(burn, units).and_then(|more| more.checked_add(kept));
                more.is_some_and(|more| cap.admits(more, self.now).is_ok())
            })
        })
    }

    fn count(&mut self, unit: &Unit<'a>, units: u32, add: bool) {
        let gpus = unit.gpus.saturating_mul(u64::from(units));
        if let (Some(tree), Some((node, key))) = (&mut self.tree, unit.place) {
            let items = [(key, gpus)];
            // It fitted, or was counted before: there is nothing that could go wrong.
            let _counted = match add {
                true => tree.add(node, Counter::Committed, &items),
                false => tree.remove(node, Counter::Committed, &items),
            };
        }
        let Some(burn) = unit.burn.and_then(|burn| times(burn, units)).filter(|burn| !burn.is_zero()) else {
            return;
        };
        let (tenant, project) = (&unit.bid.tenant, &unit.bid.draft.project);
        for (of, _) in self.state.quotas.caps_over(tenant, project) {
            let kept = self.kept.entry((tenant, of)).or_insert(Amount::ZERO);
            let changed = if add { kept.checked_add(burn) } else { kept.checked_sub(burn) };
            *kept = changed.unwrap_or(*kept);
        }
    }
}

impl Allowance for Rooms<'_> {
    fn take(&mut self, bid: BidIx, pool: PoolIx, units: u32) -> Grant {
        let (taken, holds) = (self.taken(bid, pool), self.holds(bid, pool));
        let own = holds.saturating_sub(taken).min(units);
        let asked = units.saturating_sub(own);
        if asked == 0 {
            self.set_taken(bid, pool, taken.saturating_add(units));
            return Grant { units, refusal: None };
        }
        let Some(unit) = self.unit(bid, pool) else {
            return Grant { units: 0, refusal: Some(Refusal::Quota) };
        };
        let by_quota = self.within_quota(&unit, asked);
        let granted = self.within_budget(&unit, by_quota);
        self.count(&unit, granted, true);
        let units = own.saturating_add(granted);
        self.set_taken(bid, pool, taken.saturating_add(units));
        let refusal = match granted {
            all if all == asked => None,
            some if some < by_quota => Some(Refusal::Budget),
            _ => Some(Refusal::Quota),
        };
        Grant { units, refusal }
    }

    fn give_back(&mut self, bid: BidIx, pool: PoolIx, units: u32) {
        let (taken, holds) = (self.taken(bid, pool), self.holds(bid, pool));
        let left = taken.saturating_sub(units);
        // What it holds anyway it was never asked for.
        let counted = taken.saturating_sub(holds).saturating_sub(left.saturating_sub(holds));
        self.set_taken(bid, pool, left);
        if counted > 0
            && let Some(unit) = self.unit(bid, pool)
        {
            self.count(&unit, counted, false);
        }
    }
}

/// How a unit of a bid is sold in a pool.
pub(super) fn mode_of(bid: &Bid, pool: &PoolName) -> Mode {
    let (name, limit, fabric) = (bid.draft.bid.clone(), bid.draft.limit, pool.fabric.clone());
    Mode::Spot { bid: Some(name), limit: Some(limit), fabric: Some(fabric) }
}

fn times(burn: Amount, units: u32) -> Option<Amount> {
    burn.attos().checked_mul(i128::from(units)).map(Amount::from_attos)
}

/// The largest number up to `most` that fits, where every smaller one fits too.
fn most(most: u32, fits: impl Fn(u32) -> bool) -> u32 {
    if most == 0 || fits(most) {
        return most;
    }
    let (mut fit, mut not) = (0, most);
    while not.saturating_sub(fit) > 1 {
        let middle = fit.midpoint(not);
        if fits(middle) {
            fit = middle;
        } else {
            not = middle;
        }
    }
    fit
}
