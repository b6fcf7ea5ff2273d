//! What happens about quota.

use hourglass_quota::hold::{Ended, Hold, HoldState};
use hourglass_quota::lease::{NewLease, Refresh};
use hourglass_quota::request::{DECIDED_REQUESTS_KEPT, Decided, Request, RequestStatus};
use hourglass_quota::{Bound, Class, HoldId, LeaseId, Limits, NodeName, RequestId};
use hourglass_units::{Amount, Instant, ResourceName, TenantId};

use super::command::{QuotaEvent, Review, Target};
use super::decide::intern;
use super::{Quotas, Reconciliation, broken, budget, watched};
use crate::core::Inconsistent;
use crate::core::command::{Detail, Position};
use crate::core::market;
use crate::core::state::State;

type Result<T> = std::result::Result<T, Inconsistent>;

/// Folds one event into the state.
pub(crate) fn apply(
    state: &mut State,
    position: Position,
    at: Instant,
    event: &QuotaEvent,
) -> Result<Detail> {
    let (number, quotas) = (position.number(), &mut state.quotas);
    match event {
        QuotaEvent::GroupCreated { tenant, group, parent } => {
            let node = NodeName::Group(tenant.clone(), group.clone());
            quotas.tree.ensure(&node, parent.as_ref()).map_err(broken)?;
        }
        QuotaEvent::ProjectPlaced { tenant, project, group } => {
            let name = NodeName::Project(tenant.clone(), project.clone());
            let above = match group {
                Some(group) => NodeName::Group(tenant.clone(), group.clone()),
                None => NodeName::Tenant(tenant.clone()),
            };
            let node = quotas.tree.ensure(&name, group.as_ref()).map_err(broken)?;
            let above = quotas.tree.find(&above).ok_or_else(|| Inconsistent::new("an unknown group"))?;
            if quotas.tree.parent(node) != Some(above) {
                quotas.tree.reparent(node, above).map_err(broken)?;
            }
        }
        QuotaEvent::LimitsSet { node, resource, class, limits } => {
            set_limits(quotas, node, resource, *class, *limits)?;
        }
        QuotaEvent::CapSet { tenant, project, period, cap } => {
            let key = (project.clone(), *period);
            match cap {
                Some(draft) => {
                    let cap = budget::new_cap(state, tenant, project.as_ref(), draft, at)?;
                    state.quotas.caps.entry(tenant.clone()).or_default().insert(key, cap);
                }
                None => {
                    let caps = quotas.caps.entry(tenant.clone()).or_default();
                    caps.remove(&key);
                    if caps.is_empty() {
                        quotas.caps.remove(tenant);
                    }
                }
            }
        }
        QuotaEvent::BudgetSet { tenant, budget, draft } => {
            watched::set(state, tenant, budget, draft.as_ref(), at)?;
        }
        QuotaEvent::HoldTaken { tenant, project, items, expires_at, pending, burn } => {
            let node = NodeName::Project(tenant.clone(), project.clone());
            let node = quotas.tree.ensure(&node, None).map_err(broken)?;
            let full = || Inconsistent::new("more resources than an index holds");
            let items = intern(&mut quotas.tree, items).ok_or_else(full)?;
            let hold = HoldId(number);
            let held = if *pending { HoldState::Pending } else { HoldState::Held };
            let (expires_at, burn) = (*expires_at, *burn);
            let taken = Hold { node, items, state: held, expires_at, burn, changed: number };
            quotas.holds.take(&mut quotas.tree, hold, taken).map_err(broken)?;
            add_burn(quotas, node, burn)?;
            // What waits before it to borrow does not keep it from its own.
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
            return Ok(hold_detail(quotas, hold));
        }
        QuotaEvent::HoldCommitted { hold } => {
            quotas.holds.commit(&mut quotas.tree, *hold, number).map_err(broken)?;
            return Ok(hold_detail(quotas, *hold));
        }
        QuotaEvent::HoldReleased { hold } => {
            end_hold(quotas, *hold, HoldState::Released, at, number)?;
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
            return Ok(Detail::Hold { hold: *hold, state: HoldState::Released, expires_at: at });
        }
        QuotaEvent::HoldRenewed { hold, expires_at } => {
            quotas.holds.renew(*hold, *expires_at, number).map_err(broken)?;
            return Ok(hold_detail(quotas, *hold));
        }
        QuotaEvent::HoldResized { hold, items, burn } => {
            let before = quotas.holds.get(*hold).map(|hold| (hold.node, hold.burn));
            let (node, before) = before.ok_or_else(|| Inconsistent::new("another size of no hold"))?;
            let full = || Inconsistent::new("more resources than an index holds");
            let items = intern(&mut quotas.tree, items).ok_or_else(full)?;
            quotas.holds.resize(&mut quotas.tree, *hold, items, *burn, number).map_err(broken)?;
            add_burn(quotas, node, burn.checked_sub(before).unwrap_or_default().max(Amount::ZERO))?;
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
            return Ok(hold_detail(quotas, *hold));
        }
        QuotaEvent::LeaseGranted { node, resource, class, holder, capacity, safe_capacity } => {
            let node = quotas.tree.find(node).ok_or_else(|| Inconsistent::new("a lease of no node"))?;
            let full = || Inconsistent::new("more resources than an index holds");
            let key = quotas.tree.intern(resource, *class).ok_or_else(full)?;
            let (holder, capacity, safe_capacity) = (holder.clone(), *capacity, *safe_capacity);
            let lease = NewLease { holder, node, key, capacity, safe_capacity, at };
            quotas.leases.grant(&mut quotas.tree, LeaseId(number), lease).map_err(broken)?;
            return Ok(lease_detail(quotas, LeaseId(number)));
        }
        QuotaEvent::LeaseRefreshed { lease, capacity, known_version, in_use } => {
            let refresh = Refresh { capacity: *capacity, known_version: *known_version, in_use: *in_use, at };
            quotas.leases.refresh(&mut quotas.tree, *lease, refresh).map_err(broken)?;
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
            return Ok(lease_detail(quotas, *lease));
        }
        QuotaEvent::LeaseReturned { lease } => {
            quotas.leases.give_back(&mut quotas.tree, *lease).map_err(broken)?;
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
        }
        QuotaEvent::IncreaseRequested(request) => {
            let id = RequestId(number);
            let decision = request.decision.clone();
            let pending = Request { status: RequestStatus::Pending, decision: None, ..(**request).clone() };
            quotas.requests.insert(id, pending);
            if let Some(decision) = decision {
                decide_request(quotas, id, &decision)?;
            }
            quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
            let status = quotas.requests.get(&id).map_or(RequestStatus::Pending, |request| request.status);
            return Ok(Detail::QuotaRequest { request: id, status });
        }
        QuotaEvent::IncreaseDecided { request, decision } => decide_request(quotas, *request, decision)?,
        QuotaEvent::RulesSet { rules } => quotas.rules.clone_from(rules),
        QuotaEvent::Reviewed(review) => reviewed(state, review, number, at)?,
        QuotaEvent::Reconciled { listed_at, listed, drift } => {
            let (listed_at, listed, drift) = (*listed_at, *listed, drift.clone());
            quotas.reconciled = Some(Reconciliation { at, listed_at, listed, drift });
        }
    }
    // Who moves may bring what can be lent.
    let may_free = matches!(
        event,
        QuotaEvent::LimitsSet { .. } | QuotaEvent::IncreaseDecided { .. } | QuotaEvent::ProjectPlaced { .. }
    );
    if may_free {
        let quotas = &mut state.quotas;
        quotas.holds.promote(&mut quotas.tree, number).map_err(broken)?;
    }
    Ok(Detail::Done)
}

fn set_limits(
    quotas: &mut Quotas,
    node: &NodeName,
    resource: &ResourceName,
    class: Class,
    limits: Option<Limits>,
) -> Result<()> {
    let ix = quotas.tree.ensure(node, None).map_err(broken)?;
    let full = || Inconsistent::new("more resources than an index holds");
    let key = quotas.tree.intern(resource, class).ok_or_else(full)?;
    quotas.tree.set_limits(ix, key, limits).map_err(broken)
}

fn hold_detail(quotas: &Quotas, hold: HoldId) -> Detail {
    match quotas.holds.get(hold) {
        Some(it) => Detail::Hold { hold, state: it.state, expires_at: it.expires_at },
        None => Detail::Done,
    }
}

fn lease_detail(quotas: &Quotas, lease: LeaseId) -> Detail {
    match quotas.leases.get(lease) {
        Some(it) => {
            Detail::Lease { lease, version: it.version, capacity: it.capacity, expires_at: it.expires_at }
        }
        None => Detail::Done,
    }
}

/// Ends a hold; money that the caps kept for it since their last review is free again.
pub(super) fn end_hold(
    quotas: &mut Quotas,
    id: HoldId,
    state: HoldState,
    at: Instant,
    position: u64,
) -> Result<Hold> {
    let node = quotas.holds.get(id).map(|hold| hold.node);
    let node = node.ok_or_else(|| Inconsistent::new("the end of a hold that is not there"))?;
    let ended = Ended { state, at, position, node };
    let hold = quotas.holds.end(&mut quotas.tree, id, ended).map_err(broken)?;
    quotas.preemptions.remove(&Target::Hold(id));
    if !hold.burn.is_zero() {
        for cap in caps_of_node(quotas, hold.node) {
            if cap.figures.position < id.0 {
                cap.added = cap.added.checked_sub(hold.burn).unwrap_or_default().max(Amount::ZERO);
            }
        }
    }
    Ok(hold)
}

/// Money is kept for something new until the next review counts it.
pub(super) fn add_burn(quotas: &mut Quotas, node: u32, burn: Amount) -> Result<()> {
    if burn.is_zero() {
        return Ok(());
    }
    for cap in caps_of_node(quotas, node) {
        let sum = cap.added.checked_add(burn);
        cap.added = sum.ok_or_else(|| Inconsistent::new("more money is kept than can be counted"))?;
    }
    Ok(())
}

/// The caps that a project's node falls under.
fn caps_of_node(quotas: &mut Quotas, node: u32) -> impl Iterator<Item = &mut hourglass_quota::cap::Cap> {
    let Quotas { tree, caps, .. } = quotas;
    let (tenant, project) = match tree.name(node) {
        Some(NodeName::Project(tenant, project)) => (Some(tenant), Some(project)),
        Some(other) => (Some(other.tenant()), None),
        None => (None, None),
    };
    let caps = tenant.and_then(|tenant: &TenantId| caps.get_mut(tenant)).into_iter().flatten();
    let over = caps.filter(move |((of, _), _)| of.as_ref().is_none_or(|of| Some(of) == project));
    over.map(|(_, cap)| cap)
}

fn decide_request(quotas: &mut Quotas, id: RequestId, decision: &Decided) -> Result<()> {
    let request = quotas.requests.get_mut(&id).ok_or_else(|| Inconsistent::new("an unknown request"))?;
    request.status = if decision.granted.is_some() { RequestStatus::Approved } else { RequestStatus::Denied };
    request.decision = Some(decision.clone());
    let Request { node, resource, class, .. } = request.clone();
    if let Some(granted) = decision.granted {
        set_nominal(quotas, &node, &resource, class, granted)?;
    }
    // The log keeps them all; here the newest are enough.
    let of_tenant = quotas.requests.iter().filter(|(_, it)| it.node.tenant() == node.tenant());
    let decided: Vec<RequestId> =
        of_tenant.filter(|(_, it)| it.decision.is_some()).map(|(id, _)| *id).collect();
    for id in decided.iter().rev().skip(DECIDED_REQUESTS_KEPT) {
        quotas.requests.remove(id);
    }
    Ok(())
}

/// Changes a nominal limit; how it borrows and lends stays.
fn set_nominal(
    quotas: &mut Quotas,
    node: &NodeName,
    resource: &ResourceName,
    class: Class,
    nominal: Bound,
) -> Result<()> {
    let known = quotas.tree.find(node).zip(quotas.tree.key(resource, class));
    let known = known.and_then(|(node, key)| quotas.tree.standing(node, key).limits);
    let limits = Limits { nominal, ..known.unwrap_or(Limits::nominal(nominal)) };
    set_limits(quotas, node, resource, class, Some(limits))
}

fn reviewed(state: &mut State, review: &Review, position: u64, at: Instant) -> Result<()> {
    let quotas = &mut state.quotas;
    for hold in &review.expired {
        end_hold(quotas, *hold, HoldState::Expired, at, position)?;
    }
    for lease in &review.lapsed {
        quotas.leases.lapse(&mut quotas.tree, *lease, at).map_err(broken)?;
    }
    for alert in &review.alerts {
        let key = (alert.project.clone(), alert.period);
        let cap = quotas.caps.get_mut(&alert.tenant).and_then(|caps| caps.get_mut(&key));
        let cap = cap.ok_or_else(|| Inconsistent::new("an alert of an unknown cap"))?;
        cap.crossed = alert.crossed;
        cap.exhausted = alert.exhausted;
    }
    watched::alerted(quotas, &review.budgets, position, at)?;
    for preemption in &review.preempted {
        if let Target::Instance(instance) = &preemption.target {
            state.noted.push(preemption.noted(instance));
        }
        quotas.preemptions.insert(preemption.target.clone(), preemption.clone());
    }
    for preemption in &review.preempted {
        if let Target::Instance(id) = &preemption.target
            && let Some(ix) = state.instances.find(id.as_str())
        {
            market::ordered(state, ix, preemption)?;
        }
    }
    let quotas = &mut state.quotas;
    quotas.told.clone_from(&quotas.unheld);
    quotas.holds.promote(&mut quotas.tree, position).map_err(broken)
}
