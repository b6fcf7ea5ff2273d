//! What instances take of quota: from acceptance until they are seen stopped.

use hourglass_quota::Class;
use hourglass_quota::hold::HoldState;
use hourglass_quota::tree::{Counter, Fit};
use hourglass_units::{Amount, Instant, ProjectId, TenantId, gpu_resource};

use super::apply::{add_burn, end_hold};
use super::command::Target;
use super::decide::{class_for, holding_for};
use super::{Holding, broken, budget};
use crate::core::Inconsistent;
use crate::core::command::{Mode, Registration};
use crate::core::market;
use crate::core::metering::InstanceIx;
use crate::core::state::State;

type Result<T> = std::result::Result<T, Inconsistent>;

fn lost() -> Inconsistent {
    Inconsistent::new("an instance that is lost")
}

/// An instance was accepted: it takes its quota, or takes over the hold that was made for it.
pub(crate) fn register(state: &mut State, ix: InstanceIx, it: &Registration, at: Instant) -> Result<()> {
    let position = state.position.number();
    let class = class_for(state, Some(ix), it.gpus, &it.mode, at);
    let resource = gpu_resource(&it.platform);
    let held = match it.hold {
        None => Amount::ZERO,
        Some(id) => end_hold(&mut state.quotas, id, HoldState::Taken, at, position)?.burn,
    };
    let (node, key) = holding_for(state, (&it.tenant, &it.project), &resource, class)?;
    state.quotas.tree.add(node, Counter::Committed, &[(key, u64::from(it.gpus))]).map_err(broken)?;
    let burn =
        budget::burn_of_instance(state, (&it.tenant, &it.project), &it.platform, &it.mode, it.gpus, at);
    // What cannot be bounded is refused where a cap needs a bound.
    let burn = burn.unwrap_or_default().max(held);
    add_burn(&mut state.quotas, node, burn)?;
    let instance = state.instances.get_mut(ix).ok_or_else(lost)?;
    instance.holding = Some(Holding { since: at, node, key, unheld: false });
    market::follow(state, ix)
}

/// An instance runs. One that gave its quota back when it stopped takes it again where it can; it runs
/// all the same where it cannot.
pub(crate) fn start(state: &mut State, ix: InstanceIx, at: Instant) -> Result<()> {
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    if instance.holding.is_some() {
        return Ok(());
    }
    let gpus = instance.gpus;
    let view = state.instance(instance.id.as_str()).ok_or_else(lost)?;
    let (tenant, project, platform) =
        (view.tenant().clone(), view.project().clone(), view.sku().platform.clone());
    let mode = view.modes().pop().map_or(Mode::OnDemand, |(_, mode)| mode);
    let class = class_for(state, Some(ix), gpus, &mode, state.now);
    let (node, key) = holding_for(state, (&tenant, &project), &gpu_resource(&platform), class)?;
    let holding = Holding { since: at, node, key, unheld: false };
    count_or_note(state, ix, holding, gpus)?;
    let burn = budget::burn_of_instance(state, (&tenant, &project), &platform, &mode, gpus, state.now);
    add_burn(&mut state.quotas, node, burn.unwrap_or_default())?;
    market::follow(state, ix)
}

/// Counts what an instance takes where it fits, and notes that it runs without a hold where not.
fn count_or_note(state: &mut State, ix: InstanceIx, mut holding: Holding, gpus: u32) -> Result<()> {
    let quotas = &mut state.quotas;
    let items = [(holding.key, u64::from(gpus))];
    holding.unheld = quotas.tree.fit(holding.node, &items) != Ok(Fit::Now);
    let counter = if holding.unheld { Counter::Unheld } else { Counter::Committed };
    quotas.tree.add(holding.node, counter, &items).map_err(broken)?;
    if holding.unheld {
        quotas.unheld.insert(ix);
    } else {
        quotas.unheld.remove(&ix);
        quotas.told.remove(&ix);
    }
    state.instances.get_mut(ix).ok_or_else(lost)?.holding = Some(holding);
    Ok(())
}

/// Takes what an instance holds out of the counts.
fn uncount(state: &mut State, ix: InstanceIx) -> Result<Option<(Holding, u32)>> {
    let instance = state.instances.get_mut(ix).ok_or_else(lost)?;
    let (holding, gpus) = (instance.holding.take(), instance.gpus);
    let Some(holding) = holding else { return Ok(None) };
    let counter = if holding.unheld { Counter::Unheld } else { Counter::Committed };
    let items = [(holding.key, u64::from(gpus))];
    state.quotas.tree.remove(holding.node, counter, &items).map_err(broken)?;
    Ok(Some((holding, gpus)))
}

/// An instance was seen stopped: what it held is free.
pub(crate) fn release(state: &mut State, ix: InstanceIx) -> Result<()> {
    if uncount(state, ix)?.is_none() {
        return Ok(());
    }
    let id = state.instances.get(ix).ok_or_else(lost)?.id.clone();
    let position = state.position.number();
    let quotas = &mut state.quotas;
    quotas.unheld.remove(&ix);
    quotas.told.remove(&ix);
    quotas.preemptions.remove(&Target::Instance(id));
    quotas.holds.promote(&mut quotas.tree, position).map_err(broken)?;
    market::follow(state, ix)
}

/// An instance is sold differently: it counts in another class.
pub(crate) fn change_class(state: &mut State, ix: InstanceIx, mode: &Mode, now: Instant) -> Result<()> {
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let (Some(holding), gpus) = (instance.holding, instance.gpus) else { return Ok(()) };
    let class = class_for(state, Some(ix), gpus, mode, now);
    reclass(state, ix, holding, class)?;
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let view = state.instance(instance.id.as_str()).ok_or_else(lost)?;
    let of: (TenantId, ProjectId) = (view.tenant().clone(), view.project().clone());
    let platform = view.sku().platform.clone();
    let burn = budget::burn_of_instance(state, (&of.0, &of.1), &platform, mode, gpus, now);
    add_burn(&mut state.quotas, holding.node, burn.unwrap_or_default())?;
    // Another reservation can be the same class.
    market::follow(state, ix)
}

fn reclass(state: &mut State, ix: InstanceIx, holding: Holding, class: Class) -> Result<()> {
    if holding.key.class() == class {
        return Ok(());
    }
    let tree = &mut state.quotas.tree;
    let resource = tree.key_of(holding.key).ok_or_else(lost)?.resource;
    let key = tree.intern(&resource, class).ok_or_else(lost)?;
    if let Some((holding, gpus)) = uncount(state, ix)? {
        count_or_note(state, ix, Holding { key, ..holding }, gpus)?;
        let (position, quotas) = (state.position.number(), &mut state.quotas);
        quotas.holds.promote(&mut quotas.tree, position).map_err(broken)?;
    }
    market::follow(state, ix)
}

/// Reservations that are over hold nobody any more: who was inside counts as on demand.
pub(crate) fn reservations_ended(state: &mut State, now: Instant) -> Result<()> {
    let over = state.reservations.iter().filter(|held| held.reservation.interval().end() <= now);
    let inside = |ix: &InstanceIx| {
        state.instances.get(*ix).and_then(|it| it.holding).is_some_and(|it| it.key.class() == Class::Reserved)
    };
    let members: Vec<InstanceIx> =
        over.flat_map(|held| held.members.iter().copied()).filter(inside).collect();
    for ix in members {
        let instance = state.instances.get(ix).ok_or_else(lost)?;
        let (Some(holding), gpus) = (instance.holding, instance.gpus) else { continue };
        let Some(mode) = instance.modes.assigned_last().cloned() else { continue };
        let class = class_for(state, Some(ix), gpus, &mode, now);
        reclass(state, ix, holding, class)?;
    }
    Ok(())
}

/// Gives instances that run without a hold their quota, where there is room by now.
pub(crate) fn adopt(state: &mut State) -> Result<()> {
    for ix in state.quotas.unheld.iter().copied().collect::<Vec<_>>() {
        if let Some((holding, gpus)) = uncount(state, ix)? {
            count_or_note(state, ix, holding, gpus)?;
        }
    }
    Ok(())
}
