//! What spend caps look at.

use hourglass_quota::NodeName;
use hourglass_quota::cap::{Cap, CapDraft, CapPeriod, Figures};
use hourglass_units::{Amount, Instant, Interval, Month, Platform, ProjectId, TenantId};

use super::command::{Ask, Target};
use super::decide::{burn_ms, model_of};
use super::rejection::QuotaRejection;
use crate::core::Inconsistent;
use crate::core::command::Mode;
use crate::core::credits::CreditKind;
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
pub(super) fn burn_of_items(
    state: &State,
    tenant: &TenantId,
    project: &ProjectId,
    items: &[Ask],
    now: Instant,
) -> Result<Amount, Rejection> {
    let Some(ms) = burn_ms(state, tenant, project) else { return Ok(Amount::ZERO) };
    let _todo = (items, now, ms, model_of);
    Ok(Amount::ZERO)
}

/// What an instance can cost at worst until it can be stopped; nothing where no hard cap asks.
pub(super) fn burn_of_instance(
    state: &State,
    (tenant, project): (&TenantId, &ProjectId),
    platform: &Platform,
    mode: &Mode,
    gpus: u32,
    now: Instant,
) -> Result<Amount, Rejection> {
    let Some(ms) = burn_ms(state, tenant, project) else { return Ok(Amount::ZERO) };
    let _todo = (platform, mode, gpus, now, ms);
    Ok(Amount::ZERO)
}

/// A cap that holds from now on, with its first figures.
pub(super) fn new_cap(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    draft: &CapDraft,
    at: Instant,
) -> Result<Cap, Inconsistent> {
    let figures = figures(state, tenant, project, draft, at)?;
    Ok(Cap { draft: draft.clone(), figures, added: Amount::ZERO, crossed: 0, exhausted: false })
}

/// Looks at every cap again.
pub(crate) fn review_figures(state: &mut State, at: Instant) -> Result<(), Inconsistent> {
    let mut found = Vec::new();
    for (tenant, caps) in &state.quotas.caps {
        for ((project, period), cap) in caps {
            let figures = figures(state, tenant, project.as_ref(), &cap.draft, at)?;
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

fn figures(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    draft: &CapDraft,
    at: Instant,
) -> Result<Figures, Inconsistent> {
    let period = state.calendars.of(tenant).containing(at);
    let limit = draft.amount.unwrap_or_default();
    let _todo = project;
    let (spent, exposed) = (Amount::ZERO, Amount::ZERO);
    Ok(Figures { at, position: state.position.number(), period, limit, spent, exposed })
}

/// What has to stop so that what can still come is within the cap.
pub(super) fn to_stop(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    cap: &Cap,
    now: Instant,
) -> Vec<Target> {
    let _todo = (state, tenant, project, cap, now);
    Vec::new()
}
