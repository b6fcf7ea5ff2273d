//! What spend caps look at: what was charged, and what can still come of what runs and is held.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::PurchaseModel;
use hourglass_quota::cap::{Cap, CapDraft, CapPeriod, Figures};
use hourglass_quota::{Class, HoldId, NodeName};
use hourglass_units::{Amount, Instant, Month, Platform, ProjectId, TenantId};

use super::command::{Ask, Target};
use super::decide::{burn_ms, model_of};
use super::rejection::QuotaRejection;
use crate::core::Inconsistent;
use crate::core::command::Mode;
use crate::core::credits::CreditKind;
use crate::core::exposure::{self, Exposure, SpendWindow, Start};
use crate::core::metering::InstanceIx;
use crate::core::rejection::Rejection;
use crate::core::state::State;

/// The node that a cap is on.
pub(super) fn node_name(tenant: &TenantId, project: Option<&ProjectId>) -> NodeName {
    match project {
        None => NodeName::Tenant(tenant.clone()),
        Some(project) => NodeName::Project(tenant.clone(), project.clone()),
    }
}

/// What a vector can cost at worst until it can be stopped; nothing where no hard cap asks.
///
/// What will run under it is not known yet: preemptible GPUs count at the dearer of the spot and the
/// on-demand price, and the instance that takes the hold over is looked at again.
pub(super) fn burn_of_items(
    state: &State,
    tenant: &TenantId,
    project: &ProjectId,
    items: &[Ask],
    now: Instant,
) -> Result<Amount, Rejection> {
    let Some(milliseconds) = burn_ms(state, tenant, project) else { return Ok(Amount::ZERO) };
    let mut sum = Amount::ZERO;
    for item in items {
        let gpus = u32::try_from(item.amount).unwrap_or(u32::MAX);
        let also = (item.class == Class::Preemptible).then_some(PurchaseModel::OnDemand);
        let mut worst = Amount::ZERO;
        for model in [Some(model_of(item.class)), also].into_iter().flatten() {
            let start = Start { project, model, limit: None, fabric: None, gpus, from: now, milliseconds };
            let resource = &item.resource;
            let burn = exposure::burn_of_resource(state, tenant, None, SpendWindow::Total, resource, &start);
            let burn = burn.map_err(|_| Rejection::AmountOverflow)?;
            worst = worst.max(burn.map_or(Amount::ZERO, |burn| burn.amount));
        }
        sum = sum.checked_add(worst).ok_or(Rejection::AmountOverflow)?;
    }
    Ok(sum)
}

/// What an instance can cost at worst until it can be stopped; nothing where no hard cap asks.
pub(crate) fn burn_of_instance(
    state: &State,
    (tenant, project): (&TenantId, &ProjectId),
    platform: &Platform,
    mode: &Mode,
    gpus: u32,
    now: Instant,
) -> Result<Amount, Rejection> {
    let Some(milliseconds) = burn_ms(state, tenant, project) else { return Ok(Amount::ZERO) };
    let limit = match mode {
        Mode::Spot { limit, .. } => *limit,
        Mode::OnDemand | Mode::Reserved { .. } => None,
    };
    let (model, fabric) = (mode.model(), mode.fabric());
    let start = Start { project, model, limit, fabric, gpus, from: now, milliseconds };
    let burn = exposure::burn(state, tenant, None, SpendWindow::Total, platform, &start);
    match burn.map_err(|_| Rejection::AmountOverflow)? {
        None => Ok(Amount::ZERO),
        Some(Exposure { amount, bounded: true }) => Ok(amount),
        Some(Exposure { bounded: false, .. }) => {
            let node = node_name(tenant, Some(project));
            Err(QuotaRejection::CostUnbounded { node, why: "name a limit price for the spot instance" }
                .into())
        }
    }
}

/// A cap that holds from now on, with its first figures.
pub(super) fn new_cap(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    draft: &CapDraft,
    at: Instant,
) -> Result<Cap, Inconsistent> {
    let figures = figures(state, (tenant, project), draft, at, &Stops::ordered(state, at))?;
    Ok(Cap { draft: draft.clone(), figures, added: Amount::ZERO, crossed: 0, exhausted: false })
}

/// Looks at every cap again.
pub(crate) fn review_figures(state: &mut State, at: Instant) -> Result<(), Inconsistent> {
    if state.quotas.caps.is_empty() {
        return Ok(());
    }
    let stops = Stops::ordered(state, at);
    let mut found = Vec::new();
    for (tenant, caps) in &state.quotas.caps {
        for ((project, period), cap) in caps {
            let figures = figures(state, (tenant, project.as_ref()), &cap.draft, at, &stops)?;
            found.push((tenant.clone(), (project.clone(), *period), figures));
        }
    }
    for (tenant, key, figures) in found {
        let cap = state.quotas.caps.get_mut(&tenant).and_then(|caps| caps.get_mut(&key));
        let cap = cap.ok_or_else(|| Inconsistent::new("a cap that is lost"))?;
        if cap.draft.period == CapPeriod::Monthly && cap.figures.period != figures.period {
            cap.crossed = 0;
        }
        cap.figures = figures;
        cap.added = Amount::ZERO;
    }
    Ok(())
}

/// What was told to stop, or would be.
#[derive(Debug, Clone, Default)]
struct Stops {
    /// When they have stopped at the latest.
    instances: BTreeMap<InstanceIx, Instant>,
    holds: BTreeSet<HoldId>,
}

impl Stops {
    /// What was told to stop. Whoever is late with it is not counted on.
    fn ordered(state: &State, now: Instant) -> Self {
        let mut stops = Self::default();
        for it in state.quotas.preemptions.values().filter(|it| it.deadline > now) {
            stops.add(state, &it.target, it.deadline);
        }
        stops
    }

    fn add(&mut self, state: &State, target: &Target, at: Instant) {
        match target {
            Target::Instance(instance) => {
                let ix = state.instances.find(instance.as_str());
                self.instances.extend(ix.map(|ix| (ix, at)));
            }
            Target::Hold(hold) => drop(self.holds.insert(*hold)),
        }
    }
}

fn figures(
    state: &State,
    of: (&TenantId, Option<&ProjectId>),
    draft: &CapDraft,
    at: Instant,
    stops: &Stops,
) -> Result<Figures, Inconsistent> {
    let overflow = || Inconsistent::new("charges out of range");
    let (tenant, _) = of;
    let until = draft.horizon(at);
    let period = state.calendars.of(tenant).containing(at);
    let held = held(state, of, stops).ok_or_else(overflow)?;
    let (limit, spent, to_come) = match draft.period {
        CapPeriod::Prepaid => {
            let (granted, drawn) = prepaid(state, tenant, at, until).ok_or_else(overflow)?;
            (granted, drawn, to_come(state, of, SpendWindow::Total, until, stops)?)
        }
        CapPeriod::Total => {
            let window = SpendWindow::Total;
            (
                draft.amount.unwrap_or_default(),
                spent(state, of, window)?,
                to_come(state, of, window, until, stops)?,
            )
        }
        CapPeriod::Monthly => {
            let window = SpendWindow::Period(period);
            let (now, more) = (spent(state, of, window)?, to_come(state, of, window, until, stops)?);
            let next = if state.calendars.of(tenant).interval(period).end() < until {
                next_period(state, of, period.next(), until, stops)?
            } else {
                Amount::ZERO
            };
            // What runs on into the next period must fit its cap as well.
            let beyond = next.checked_sub(now).ok_or_else(overflow)?;
            (draft.amount.unwrap_or_default(), now, more.max(beyond))
        }
    };
    let exposed = to_come.checked_add(held).ok_or_else(overflow)?;
    Ok(Figures { at, position: state.position.number(), period, limit, spent, exposed })
}

fn spent(
    state: &State,
    (tenant, project): (&TenantId, Option<&ProjectId>),
    window: SpendWindow,
) -> Result<Amount, Inconsistent> {
    exposure::spent(state, tenant, project, window).map_err(out_of_range)
}

/// All that a period has and will have, of what is known now.
fn next_period(
    state: &State,
    of: (&TenantId, Option<&ProjectId>),
    period: Month,
    until: Instant,
    stops: &Stops,
) -> Result<Amount, Inconsistent> {
    let window = SpendWindow::Period(period);
    let sum = spent(state, of, window)?.checked_add(to_come(state, of, window, until, stops)?);
    sum.ok_or_else(|| Inconsistent::new("charges out of range"))
}

/// What time and what runs can add to what is charged.
fn to_come(
    state: &State,
    (tenant, project): (&TenantId, Option<&ProjectId>),
    window: SpendWindow,
    until: Instant,
    stops: &Stops,
) -> Result<Amount, Inconsistent> {
    let falling = exposure::falling_due(state, tenant, project, window, until).map_err(out_of_range)?;
    let stops_at = |ix| stops.instances.get(&ix).map_or(until, |at| until.min(*at));
    let unsaid = |ix| {
        let instance = state.instances.get(ix)?;
        let since = instance.holding?.since;
        instance.running_since().is_none().then_some(since)
    };
    let exposed =
        exposure::exposed(state, tenant, project, window, stops_at, unsaid).map_err(out_of_range)?;
    falling.checked_add(exposed.amount).ok_or_else(|| Inconsistent::new("charges out of range"))
}

fn out_of_range(_: hourglass_pricing::settle::OutOfRange) -> Inconsistent {
    Inconsistent::new("charges out of range")
}

/// What is kept for holds: what they stand for can begin to run at any time.
fn held(state: &State, (tenant, project): (&TenantId, Option<&ProjectId>), stops: &Stops) -> Option<Amount> {
    let tree = &state.quotas.tree;
    let node = tree.find(&node_name(tenant, project));
    let under = |of: u32| node.is_some_and(|node| tree.is_under(of, node));
    let holds = state
        .quotas
        .holds
        .iter()
        .filter(|(id, hold)| !hold.burn.is_zero() && !stops.holds.contains(id) && under(hold.node));
    holds.map(|(_, hold)| hold.burn).try_fold(Amount::ZERO, Amount::checked_add)
}

/// Prepaid credit that pays for anything until an instant: how much was granted, and how much of that is
/// drawn.
fn prepaid(state: &State, tenant: &TenantId, at: Instant, until: Instant) -> Option<(Amount, Amount)> {
    let credits = state.tenants.get(tenant).map(|tenant| tenant.credits.as_slice()).unwrap_or_default();
    let counts = credits.iter().filter(|grant| {
        grant.kind == CreditKind::Prepaid
            && !grant.closed
            && grant.project.is_none()
            && grant.platform.is_none()
            && grant.valid.start() <= at
            && grant.valid.end() >= until
    });
    counts
        .map(|grant| (grant.amount, grant.drawn))
        .try_fold((Amount::ZERO, Amount::ZERO), |sums, (granted, drawn)| {
            Some((sums.0.checked_add(granted)?, sums.1.checked_add(drawn)?))
        })
}

/// What has to stop so that what can still come is within the cap: as little as that takes, holds first,
/// then preemptible instances and the others, the newest of each first.
pub(super) fn to_stop(
    state: &State,
    of: (&TenantId, Option<&ProjectId>),
    cap: &Cap,
    now: Instant,
) -> Result<Vec<Target>, Inconsistent> {
    let ordered = Stops::ordered(state, now);
    let candidates = candidates(state, of, &ordered);
    let stopped = now.saturating_add_ms(cap.draft.notice_ms);
    let fits = |first: usize| -> Result<bool, Inconsistent> {
        let mut stops = ordered.clone();
        candidates.iter().take(first).for_each(|target| stops.add(state, target, stopped));
        let figures = figures(state, of, &cap.draft, now, &stops)?;
        Ok(figures.worst().is_some_and(|worst| worst <= figures.limit))
    };
    // The more of them stop, the less can come: the least number is found by halving.
    let (mut least, mut most) = (0, candidates.len());
    while least < most {
        let middle = least.midpoint(most);
        if fits(middle)? { most = middle } else { least = middle.saturating_add(1) }
    }
    Ok(candidates.into_iter().take(least).collect())
}

fn candidates(
    state: &State,
    (tenant, project): (&TenantId, Option<&ProjectId>),
    ordered: &Stops,
) -> Vec<Target> {
    let quotas = &state.quotas;
    let Some(node) = quotas.tree.find(&node_name(tenant, project)) else { return Vec::new() };
    let under = |of: u32| quotas.tree.is_under(of, node);
    let costly = |(id, hold): &(HoldId, &hourglass_quota::hold::Hold)| {
        !hold.burn.is_zero() && under(hold.node) && !ordered.holds.contains(id)
    };
    let holds = quotas.holds.iter().rev().filter(costly).map(|(id, _)| Target::Hold(id));
    let running = state.instances.iter().filter_map(|(ix, instance)| {
        let holding = instance.holding.filter(|it| under(it.node))?;
        let kept = holding.key.class() != Class::Preemptible;
        (!ordered.instances.contains_key(&ix)).then_some((kept, std::cmp::Reverse((holding.since, ix))))
    });
    let mut running: Vec<_> = running.collect();
    running.sort_unstable();
    let instances = running.into_iter().filter_map(|(_, std::cmp::Reverse((_, ix)))| {
        Some(Target::Instance(state.instances.get(ix)?.id.clone()))
    });
    holds.chain(instances).collect()
}
