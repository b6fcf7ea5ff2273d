//! Decisions about quota: every check, before anything is written.

use hourglass_pricing::PurchaseModel;
use hourglass_quota::cap::{BILLING_INTERVAL_MS, CapDraft, CapPeriod, Enforcement};
use hourglass_quota::hold::{HoldError, HoldState, ITEMS_MAX, TTL_MS_MAX, TTL_MS_MIN, sum_up};
use hourglass_quota::request::{
    Decided as Decision, Facts, HEADROOM_KEYS_MAX, JUSTIFICATION_LENGTH_MAX, OPEN_REQUESTS_MAX, Request,
    RequestStatus, Rules,
};
use hourglass_quota::tree::{Fit, GROUP_DEPTH_MAX, Items, KeyIx, NodeIx, Tree};
use hourglass_quota::{AMOUNT_MAX, Bound, Class, HoldId, LeaseId, Limits, NodeName, RequestId};
use hourglass_units::{Amount, GroupId, Instant, ProjectId, ResourceName, TenantId, gpu_resource};

use super::command::{Ask, QuotaCommand, QuotaEvent};
use super::rejection::{QuotaRejection, SpendDenied};
use super::{Quotas, budget, class_of, review, watched};
use crate::core::command::{Answer, Detail, Mode, Position, Registration};
use crate::core::decide::find_tenant;
use crate::core::market;
use crate::core::metering::InstanceIx;
use crate::core::rejection::Rejection;
use crate::core::state::{InvoiceStatus, State};

/// What is to be done about a command that is not rejected.
pub(crate) enum Decided {
    /// This happens.
    Happens(QuotaEvent),
    /// It is so already, and was answered like this.
    Already(Answer),
}

type Result<T> = std::result::Result<T, Rejection>;

/// Decides.
pub(crate) fn decide(state: &State, command: &QuotaCommand, now: Instant) -> Result<Decided> {
    let quotas = &state.quotas;
    Ok(Decided::Happens(match command {
        QuotaCommand::CreateGroup { tenant, group, parent } => {
            create_group(state, tenant, group, parent.as_ref())?
        }
        QuotaCommand::PlaceProject { tenant, project, group } => {
            place(state, tenant, project, group.as_ref())?
        }
        QuotaCommand::SetLimits { node, resource, class, limits } => {
            find_tenant(state, node.tenant())?;
            if let (NodeName::Group(..), None) = (node, quotas.tree.find(node)) {
                return Err(QuotaRejection::NodeUnknown { node: node.clone() }.into());
            }
            check_room(&quotas.tree, node, resource)?;
            limits.iter().try_for_each(|limits| check_limits(*class, limits))?;
            let (node, resource) = (node.clone(), resource.clone());
            QuotaEvent::LimitsSet { node, resource, class: *class, limits: *limits }
        }
        QuotaCommand::SetCap { tenant, project, period, cap } => {
            set_cap(state, tenant, project.as_ref(), *period, cap.as_ref())?
        }
        QuotaCommand::SetBudget { tenant, budget, draft } => {
            watched::decide(state, tenant, budget, draft.as_ref())?
        }
        QuotaCommand::Reserve { tenant, project, items, ttl_ms } => {
            reserve(state, tenant, project, items, *ttl_ms, now)?
        }
        QuotaCommand::Commit { hold } => return commit(quotas, *hold, now),
        QuotaCommand::Release { hold } => return release(quotas, *hold),
        QuotaCommand::Renew { hold, ttl_ms } => {
            if quotas.holds.usable(*hold, now)?.state == HoldState::Committed {
                return Err(HoldError::Committed { hold: *hold }.into());
            }
            QuotaEvent::HoldRenewed { hold: *hold, expires_at: expiry(now, *ttl_ms)? }
        }
        QuotaCommand::Resize { hold, items } => resize(state, *hold, items, now)?,
        QuotaCommand::AcquireLease { node, resource, class, holder, wants, safe_capacity } => {
            acquire(quotas, (node, resource, *class), holder, *wants, *safe_capacity)?
        }
        QuotaCommand::RefreshLease { lease, wants, known_version, in_use } => {
            refresh(quotas, *lease, *wants, *known_version, *in_use)?
        }
        QuotaCommand::ReturnLease { lease } => {
            quotas.leases.get(*lease).ok_or(QuotaRejection::LeaseUnknown { lease: *lease })?;
            QuotaEvent::LeaseReturned { lease: *lease }
        }
        QuotaCommand::RequestIncrease { node, resource, class, wanted, justification, requested_by } => {
            let asked = Asked { node, resource, class: *class, wanted: *wanted };
            request(state, asked, justification, requested_by, now)?
        }
        QuotaCommand::DecideRequest { request, granted, approver, reason } => {
            decide_request(state, *request, *granted, approver, reason, now)?
        }
        QuotaCommand::SetRules { rules } => {
            rules.iter().try_for_each(check_rules)?;
            QuotaEvent::RulesSet { rules: rules.clone() }
        }
        QuotaCommand::Review => {
            let review = review::review(state, now)?;
            if review.is_empty() {
                return Err(QuotaRejection::NothingDue.into());
            }
            QuotaEvent::Reviewed(Box::new(review))
        }
        QuotaCommand::Reconcile { listed_at, instances } => {
            let drift = review::drift(state, *listed_at, instances, now)?;
            QuotaEvent::Reconciled { listed_at: *listed_at, listed: instances.len() as u64, drift }
        }
    }))
}

fn create_group(
    state: &State,
    tenant: &TenantId,
    group: &GroupId,
    parent: Option<&GroupId>,
) -> Result<QuotaEvent> {
    find_tenant(state, tenant)?;
    let tree = &state.quotas.tree;
    let node = NodeName::Group(tenant.clone(), group.clone());
    if tree.find(&node).is_some() {
        return Err(QuotaRejection::GroupExists { node }.into());
    }
    if let Some(parent) = parent {
        let above = find_group(tree, tenant, parent)?;
        if tree.depth(above) >= GROUP_DEPTH_MAX {
            return Err(QuotaRejection::TooDeep { node }.into());
        }
    }
    if !tree.has_room() {
        return Err(QuotaRejection::NodesFull.into());
    }
    Ok(QuotaEvent::GroupCreated { tenant: tenant.clone(), group: group.clone(), parent: parent.cloned() })
}

fn find_group(tree: &Tree, tenant: &TenantId, group: &GroupId) -> Result<NodeIx> {
    let node = NodeName::Group(tenant.clone(), group.clone());
    tree.find(&node).ok_or_else(|| QuotaRejection::NodeUnknown { node }.into())
}

fn place(
    state: &State,
    tenant: &TenantId,
    project: &ProjectId,
    group: Option<&GroupId>,
) -> Result<QuotaEvent> {
    find_tenant(state, tenant)?;
    let tree = &state.quotas.tree;
    let parent = match group {
        Some(group) => Some(find_group(tree, tenant, group)?),
        None => tree.find(&NodeName::Tenant(tenant.clone())),
    };
    match (tree.project(tenant, project), parent) {
        (Some(node), Some(parent)) => {
            tree.fits_under(node, parent).map_err(|denial| QuotaRejection::Denied(Box::new(denial)))?;
        }
        _ if tree.has_room() => {}
        _ => return Err(QuotaRejection::NodesFull.into()),
    }
    let (tenant, project) = (tenant.clone(), project.clone());
    Ok(QuotaEvent::ProjectPlaced { tenant, project, group: group.cloned() })
}

/// Whether a node and a resource that may be new can be kept.
fn check_room(tree: &Tree, node: &NodeName, resource: &ResourceName) -> Result<()> {
    if tree.find(node).is_none() && !tree.has_room() {
        return Err(QuotaRejection::NodesFull.into());
    }
    if !tree.has_room_for(resource) {
        return Err(QuotaRejection::ResourcesFull.into());
    }
    Ok(())
}

fn check_limits(class: Class, limits: &Limits) -> Result<()> {
    let invalid = |why| Err(QuotaRejection::LimitsInvalid(why).into());
    let Limits { nominal, borrowing, lending, .. } = *limits;
    for bound in [nominal, borrowing, lending] {
        if matches!(bound, Bound::AtMost(most) if most > AMOUNT_MAX) {
            return invalid("a limit is too large: leave it out, or use \"unlimited\"");
        }
    }
    if class != Class::Preemptible && borrowing != Bound::AtMost(0) {
        return invalid("only class preemptible borrows: what is borrowed can be taken back at any time");
    }
    if class == Class::Reserved && lending != Bound::Unlimited {
        return invalid("class reserved lends nothing: leave its lending limit out");
    }
    Ok(())
}

fn set_cap(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    period: CapPeriod,
    cap: Option<&CapDraft>,
) -> Result<QuotaEvent> {
    find_tenant(state, tenant)?;
    match cap {
        Some(draft) => {
            draft.check().map_err(QuotaRejection::from)?;
            if draft.period != period {
                return Err(QuotaRejection::LimitsInvalid("the cap names another period").into());
            }
            if period == CapPeriod::Prepaid && project.is_some() {
                return Err(QuotaRejection::from(hourglass_quota::cap::CapError::PrepaidOfProject).into());
            }
        }
        None => {
            let known = state.quotas.caps.get(tenant);
            if !known.is_some_and(|caps| caps.contains_key(&(project.cloned(), period))) {
                return Err(QuotaRejection::CapUnknown { node: budget::node_name(tenant, project) }.into());
            }
        }
    }
    let (tenant, project) = (tenant.clone(), project.cloned());
    Ok(QuotaEvent::CapSet { tenant, project, period, cap: cap.cloned() })
}

/// A vector in order: each key once, one class a resource.
fn check_items(tree: &Tree, items: &[Ask]) -> Result<Vec<Ask>> {
    let invalid = |why| Err(QuotaRejection::ItemsInvalid(why).into());
    if items.is_empty() || items.len() > ITEMS_MAX {
        return invalid("give that many");
    }
    let mut sums: Vec<Ask> = Vec::with_capacity(items.len());
    for item in items {
        if item.amount == 0 || item.amount > AMOUNT_MAX {
            return invalid("an amount is zero or too large");
        }
        if !tree.has_room_for(&item.resource) {
            return Err(QuotaRejection::ResourcesFull.into());
        }
        match sums.iter_mut().find(|sum| sum.resource == item.resource) {
            Some(sum) if sum.class != item.class => {
                return invalid("one resource stands in two classes: make two holds of it");
            }
            Some(sum) => sum.amount = sum.amount.saturating_add(item.amount).min(AMOUNT_MAX),
            None => sums.push(item.clone()),
        }
    }
    Ok(sums)
}

/// The keys of a vector that anybody has limited or taken: others have no limit.
fn known_items(tree: &Tree, items: &[Ask]) -> Items {
    items.iter().filter_map(|item| Some((tree.key(&item.resource, item.class)?, item.amount))).collect()
}

fn expiry(now: Instant, ttl_ms: i64) -> Result<Instant> {
    if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
        return Err(QuotaRejection::TtlOutOfRange.into());
    }
    Ok(now.saturating_add_ms(ttl_ms))
}

fn reserve(
    state: &State,
    tenant: &TenantId,
    project: &ProjectId,
    items: &[Ask],
    ttl_ms: i64,
    now: Instant,
) -> Result<QuotaEvent> {
    find_tenant(state, tenant)?;
    market::check_not_suspended(state, tenant)?;
    let Quotas { tree, holds, .. } = &state.quotas;
    let items = check_items(tree, items)?;
    let expires_at = expiry(now, ttl_ms)?;
    if !holds.has_room() {
        return Err(QuotaRejection::HoldsFull.into());
    }
    let pending = match fit(tree, node_of(tree, tenant, project)?, &known_items(tree, &items))? {
        Fit::Now => false,
        Fit::AfterReclaim => true,
    };
    let burn = budget::burn_of_items(state, tenant, project, &items, now)?;
    admit_spend(state, tenant, project, burn, now)?;
    let (tenant, project) = (tenant.clone(), project.clone());
    Ok(QuotaEvent::HoldTaken { tenant, project, items, expires_at, pending, burn })
}

/// The node that counts for a project, where its own may have to be made.
fn node_of(tree: &Tree, tenant: &TenantId, project: &ProjectId) -> Result<NodeIx> {
    match tree.project(tenant, project) {
        Some(node) => Ok(node),
        None if tree.has_room() => tree
            .project_or_root(tenant, project)
            .ok_or_else(|| QuotaRejection::NodeUnknown { node: NodeName::Tenant(tenant.clone()) }.into()),
        None => Err(QuotaRejection::NodesFull.into()),
    }
}

fn fit(tree: &Tree, node: NodeIx, items: &[(KeyIx, u64)]) -> Result<Fit> {
    tree.fit(node, items).map_err(|misfit| QuotaRejection::Denied(Box::new(tree.denial(&misfit))).into())
}

/// As [`fit`], for what cannot wait.
fn fit_now(tree: &Tree, node: NodeIx, items: &[(KeyIx, u64)]) -> Result<()> {
    fit(tree, node, items)?;
    match tree.waits(node, items) {
        Some(misfit) => Err(QuotaRejection::NeedsReclaim { denial: Box::new(tree.denial(&misfit)) }.into()),
        None => Ok(()),
    }
}

/// Whether every hard cap leaves room for what something costs at worst until it can be stopped.
fn admit_spend(
    state: &State,
    tenant: &TenantId,
    project: &ProjectId,
    burn: Amount,
    now: Instant,
) -> Result<()> {
    for (of, cap) in state.quotas.caps_over(tenant, project) {
        if let Err(denial) = cap.admits(burn, now) {
            let (node, currency) = (budget::node_name(tenant, of), find_tenant(state, tenant)?.currency);
            return Err(QuotaRejection::SpendDenied(Box::new(SpendDenied { node, currency, denial })).into());
        }
    }
    Ok(())
}

fn commit(quotas: &Quotas, hold: HoldId, now: Instant) -> Result<Decided> {
    let it = quotas.holds.usable(hold, now)?;
    match it.state {
        HoldState::Committed => Ok(Decided::Already(Answer {
            position: Position::new(it.changed),
            detail: Detail::Hold { hold, state: it.state, expires_at: it.expires_at },
        })),
        HoldState::Pending => Err(HoldError::Pending { hold }.into()),
        _ => Ok(Decided::Happens(QuotaEvent::HoldCommitted { hold })),
    }
}

/// What is given back already stays so, however it came to its end.
fn release(quotas: &Quotas, hold: HoldId) -> Result<Decided> {
    if quotas.holds.get(hold).is_some() {
        return Ok(Decided::Happens(QuotaEvent::HoldReleased { hold }));
    }
    match quotas.holds.ended(hold) {
        Some(ended) if ended.state != HoldState::Taken => Ok(Decided::Already(Answer {
            position: Position::new(ended.position),
            detail: Detail::Hold { hold, state: ended.state, expires_at: ended.at },
        })),
        Some(ended) => Err(HoldError::Taken { hold, at: ended.at }.into()),
        None => Err(HoldError::Unknown { hold }.into()),
    }
}

fn resize(state: &State, hold: HoldId, items: &[Ask], now: Instant) -> Result<QuotaEvent> {
    let Quotas { tree, holds, .. } = &state.quotas;
    let it = holds.usable(hold, now)?;
    if it.state == HoldState::Pending {
        return Err(HoldError::Pending { hold }.into());
    }
    let items = check_items(tree, items)?;
    let before =
        |key: KeyIx| it.items.iter().find(|(known, _)| *known == key).map_or(0, |(_, amount)| *amount);
    let more =
        known_items(tree, &items).into_iter().map(|(key, amount)| (key, amount.saturating_sub(before(key))));
    let more: Items = more.filter(|(_, amount)| *amount > 0).collect();
    fit_now(tree, it.node, &more)?;
    let burn = match tree.name(it.node) {
        Some(NodeName::Project(tenant, project)) => {
            let burn = budget::burn_of_items(state, tenant, project, &items, now)?;
            let more = burn.checked_sub(it.burn).unwrap_or_default().max(Amount::ZERO);
            admit_spend(state, tenant, project, more, now)?;
            burn
        }
        _ => it.burn,
    };
    Ok(QuotaEvent::HoldResized { hold, items, burn })
}

fn acquire(
    quotas: &Quotas,
    (node, resource, class): (&NodeName, &ResourceName, Class),
    holder: &str,
    wants: u64,
    safe_capacity: u64,
) -> Result<QuotaEvent> {
    let tree = &quotas.tree;
    check_text(holder)?;
    let ix = tree.find(node).ok_or_else(|| QuotaRejection::NodeUnknown { node: node.clone() })?;
    check_room(tree, node, resource)?;
    if wants == 0 || wants > AMOUNT_MAX || safe_capacity > wants {
        return Err(
            QuotaRejection::ItemsInvalid("want at least 1, and no more safe capacity than that").into()
        );
    }
    if !quotas.leases.has_room() {
        return Err(QuotaRejection::LeasesFull.into());
    }
    let capacity = match tree.key(resource, class) {
        None => wants,
        Some(key) => {
            let fits = tree.fits(ix, key).unwrap_or(u64::MAX);
            let capacity = wants.min(fits).max(safe_capacity).max(1);
            fit_now(tree, ix, &[(key, capacity)])?;
            capacity
        }
    };
    let (node, resource, holder) = (node.clone(), resource.clone(), holder.to_owned());
    Ok(QuotaEvent::LeaseGranted { node, resource, class, holder, capacity, safe_capacity })
}

fn refresh(quotas: &Quotas, id: LeaseId, wants: u64, known_version: u64, in_use: u64) -> Result<QuotaEvent> {
    let Quotas { tree, leases, .. } = quotas;
    let lease = leases.get(id).ok_or(QuotaRejection::LeaseUnknown { lease: id })?;
    let inconsistent = |why| Err(QuotaRejection::LeaseInconsistent { lease: id, why }.into());
    if known_version > lease.version {
        return inconsistent("that version was never granted");
    }
    if wants > AMOUNT_MAX || in_use > AMOUNT_MAX {
        return inconsistent("an amount is too large");
    }
    let counted = lease.counted();
    let offer = leases.offer(tree, id, wants).unwrap_or(counted);
    // What is lent out is not taken back for a lease.
    let more = offer.saturating_sub(counted);
    let fits = more == 0 || tree.fit(lease.node, &[(lease.key, more)]) == Ok(Fit::Now);
    let capacity = if fits { offer } else { counted };
    Ok(QuotaEvent::LeaseRefreshed { lease: id, capacity, known_version, in_use })
}

/// What a request is about.
struct Asked<'a> {
    node: &'a NodeName,
    resource: &'a ResourceName,
    class: Class,
    wanted: Bound,
}

fn request(
    state: &State,
    asked: Asked<'_>,
    justification: &str,
    requested_by: &str,
    now: Instant,
) -> Result<QuotaEvent> {
    let Asked { node, resource, class, wanted } = asked;
    let quotas = &state.quotas;
    find_tenant(state, node.tenant())?;
    check_text(justification)?;
    check_text(requested_by)?;
    quotas.tree.find(node).ok_or_else(|| QuotaRejection::NodeUnknown { node: node.clone() })?;
    check_room(&quotas.tree, node, resource)?;
    check_limits(class, &Limits::nominal(wanted))?;
    if quotas.open_requests(node.tenant()) >= OPEN_REQUESTS_MAX {
        return Err(QuotaRejection::RequestsFull.into());
    }
    let before = nominal(&quotas.tree, node, resource, class);
    if before == Some(wanted) || (before.is_none() && wanted == Bound::Unlimited) {
        return Err(QuotaRejection::RequestInvalid("the limit is that already").into());
    }
    let is_decrease = before.unwrap_or(Bound::Unlimited).is_at_least(wanted);
    let reason = if is_decrease {
        check_floor(state, node, resource, class, wanted)?;
        Some("less than before, and not below what is used".to_owned())
    } else {
        by_rules(state, &asked, now)
    };
    let decision = reason.map(|reason| {
        let approver = "rules".to_owned();
        Decision { approver, at: now, reason, granted: Some(wanted) }
    });
    let status = if decision.is_some() { RequestStatus::Approved } else { RequestStatus::Pending };
    Ok(QuotaEvent::IncreaseRequested(Box::new(Request {
        node: node.clone(),
        resource: resource.clone(),
        class,
        wanted,
        before,
        justification: justification.to_owned(),
        requested_by: requested_by.to_owned(),
        requested_at: now,
        status,
        decision,
    })))
}

/// The nominal limit of a node, where it has one of its own.
fn nominal(tree: &Tree, node: &NodeName, resource: &ResourceName, class: Class) -> Option<Bound> {
    let (node, key) = (tree.find(node)?, tree.key(resource, class)?);
    tree.standing(node, key).limits.map(|limits| limits.nominal)
}

/// Why the rules grant a request, if they do.
fn by_rules(state: &State, asked: &Asked<'_>, now: Instant) -> Option<String> {
    const DAY_MS: i64 = 86_400_000;
    let Asked { node, resource, class, wanted } = *asked;
    let tree = &state.quotas.tree;
    let rules = state.quotas.rules.as_ref()?;
    let Bound::AtMost(wanted) = wanted else { return None };
    let account = state.tenants.get(node.tenant())?;
    let count = |status| account.invoices.values().filter(|invoice| invoice.status == status).count();
    let standing = tree.standing(tree.find(node)?, tree.key(resource, class)?);
    let limit = match standing.limits?.nominal {
        Bound::AtMost(limit) => Some(limit),
        Bound::Unlimited => None,
    };
    let roots = state
        .tenants
        .keys()
        .filter_map(|tenant| nominal(tree, &NodeName::Tenant(tenant.clone()), resource, class));
    let total = roots.filter_map(|bound| if let Bound::AtMost(most) = bound { Some(most) } else { None });
    let facts = Facts {
        account_days: u32::try_from(now.ms_since(account.opened_at).max(0) / DAY_MS).unwrap_or(u32::MAX),
        paid_invoices: u32::try_from(count(InvoiceStatus::Paid)).unwrap_or(u32::MAX),
        open_invoices: u32::try_from(count(InvoiceStatus::Open)).unwrap_or(u32::MAX),
        limit,
        used: standing.taken.claimed(),
        wanted,
        total: total.fold(0, u64::saturating_add),
    };
    rules.judge(resource, class, &facts).ok()
}

/// A limit that is lowered on request never falls below what is used or committed.
fn check_floor(
    state: &State,
    node: &NodeName,
    resource: &ResourceName,
    class: Class,
    wanted: Bound,
) -> Result<()> {
    let tree = &state.quotas.tree;
    let used = tree.find(node).zip(tree.key(resource, class));
    let used = used.map_or(0, |(node, key)| tree.standing(node, key).taken.claimed());
    let committed = if class == Class::Reserved { committed(state, node, resource) } else { 0 };
    let floor = used.max(committed);
    if wanted.admits(floor) { Ok(()) } else { Err(QuotaRejection::BelowUse { wanted, floor }.into()) }
}

/// GPUs of reservations that run or are to come: what was sold must be usable.
fn committed(state: &State, node: &NodeName, resource: &ResourceName) -> u64 {
    let tree = &state.quotas.tree;
    let held = state.reservations.of_tenant(node.tenant()).map(|(_, held)| held);
    let counts = held.filter(|held| {
        let draft = held.reservation.draft();
        let project = tree.project(&held.tenant, &draft.project);
        let of_node = match tree.find(node) {
            Some(node) => project
                .or_else(|| tree.find(&NodeName::Tenant(held.tenant.clone())))
                .is_some_and(|project| tree.is_under(project, node)),
            None => false,
        };
        of_node && gpu_resource(&draft.platform) == *resource && held.reservation.interval().end() > state.now
    });
    counts.map(|held| u64::from(held.reservation.draft().gpus)).fold(0, u64::saturating_add)
}

fn decide_request(
    state: &State,
    id: RequestId,
    granted: Option<Bound>,
    approver: &str,
    reason: &str,
    now: Instant,
) -> Result<QuotaEvent> {
    check_text(approver)?;
    check_text(reason)?;
    let request = state.quotas.requests.get(&id).ok_or(QuotaRejection::RequestUnknown { request: id })?;
    if let Some(decision) = &request.decision {
        return Err(QuotaRejection::RequestDecided { request: id, at: decision.at }.into());
    }
    if let Some(granted) = granted {
        let Request { node, resource, class, .. } = request;
        check_limits(*class, &Limits::nominal(granted))?;
        let now = nominal(&state.quotas.tree, node, resource, *class).unwrap_or(Bound::Unlimited);
        if now.is_at_least(granted) {
            check_floor(state, node, resource, *class, granted)?;
        }
    }
    let decision = Decision { approver: approver.to_owned(), at: now, reason: reason.to_owned(), granted };
    Ok(QuotaEvent::IncreaseDecided { request: id, decision })
}

fn check_rules(rules: &Rules) -> Result<()> {
    let mut keys: Vec<_> = rules.headroom.iter().map(|it| (&it.resource, it.class)).collect();
    keys.sort();
    let twice = keys.windows(2).any(|two| matches!(two, [first, second] if first == second));
    if twice || keys.len() > HEADROOM_KEYS_MAX {
        return Err(QuotaRejection::RulesInvalid.into());
    }
    Ok(())
}

fn check_text(text: &str) -> Result<()> {
    let length = text.chars().count();
    if length == 0 || length > JUSTIFICATION_LENGTH_MAX || text.chars().any(char::is_control) {
        return Err(QuotaRejection::TextInvalid.into());
    }
    Ok(())
}

/// Whether an instance that is to be created can have its quota, by a hold or at once.
pub(crate) fn admit_instance(state: &State, it: &Registration, now: Instant) -> Result<()> {
    let quotas = &state.quotas;
    let tree = &quotas.tree;
    let (node, class) =
        (node_of(tree, &it.tenant, &it.project)?, class_for(state, None, it.gpus, &it.mode, now));
    let resource = gpu_resource(&it.platform);
    let held = match it.hold {
        None => {
            if !tree.has_room_for(&resource) {
                return Err(QuotaRejection::ResourcesFull.into());
            }
            let items: Items =
                tree.key(&resource, class).map(|key| (key, u64::from(it.gpus))).into_iter().collect();
            fit_now(tree, node, &items)?;
            Amount::ZERO
        }
        Some(id) => {
            let hold = quotas.holds.usable(id, now)?;
            let mismatch = |why| Err(QuotaRejection::HoldMismatch { hold: id, why }.into());
            if hold.state == HoldState::Pending {
                return Err(HoldError::Pending { hold: id }.into());
            }
            if tree.project(&it.tenant, &it.project) != Some(hold.node) {
                return mismatch("it is another project's");
            }
            let key = tree.key(&resource, class);
            if !matches!(hold.items.as_slice(), [(of, amount)] if Some(*of) == key && *amount == u64::from(it.gpus))
            {
                return mismatch("it holds something else than the instance's GPUs");
            }
            hold.burn
        }
    };
    let burn =
        budget::burn_of_instance(state, (&it.tenant, &it.project), &it.platform, &it.mode, it.gpus, now)?;
    let more = burn.checked_sub(held).unwrap_or_default().max(Amount::ZERO);
    admit_spend(state, &it.tenant, &it.project, more, now)
}

/// The class in which an instance counts: inside a reservation as long as that has room for it.
pub(crate) fn class_for(
    state: &State,
    ix: Option<InstanceIx>,
    gpus: u32,
    mode: &Mode,
    now: Instant,
) -> Class {
    let Mode::Reserved { reservation } = mode else { return class_of(mode) };
    let Some((_, held)) = state.reservations.find(reservation) else { return Class::OnDemand };
    if held.reservation.interval().end() <= now {
        return Class::OnDemand;
    }
    let others = held.members.iter().filter(|member| Some(**member) != ix);
    let taken = others.filter_map(|member| {
        let instance = state.instances.get(*member)?;
        let inside = instance.holding?.key.class() == Class::Reserved
            && instance.modes.assigned_last().is_some_and(|last| last == mode);
        inside.then_some(u64::from(instance.gpus))
    });
    let taken = taken.fold(u64::from(gpus), u64::saturating_add);
    if taken <= u64::from(held.reservation.draft().gpus) { Class::Reserved } else { Class::OnDemand }
}

/// Whether an instance that is sold differently can have the quota of its new class.
pub(crate) fn admit_mode(state: &State, ix: InstanceIx, mode: &Mode, now: Instant) -> Result<()> {
    let Some(instance) = state.instances.get(ix) else { return Ok(()) };
    let Some(holding) = instance.holding else { return Ok(()) };
    let tree = &state.quotas.tree;
    let class = class_for(state, Some(ix), instance.gpus, mode, now);
    let resource = tree.key_of(holding.key).map(|key| key.resource);
    if let Some(key) =
        resource.and_then(|resource| tree.key(&resource, class)).filter(|key| *key != holding.key)
    {
        fit_now(tree, holding.node, &[(key, u64::from(instance.gpus))])?;
    }
    // Another price may burn more; a hard cap needs one that is bounded.
    let Some(NodeName::Project(tenant, project)) = tree.name(holding.node) else { return Ok(()) };
    let platform = &state.instance(instance.id.as_str()).map(|view| view.sku().platform.clone());
    let Some(platform) = platform else { return Ok(()) };
    let burn = budget::burn_of_instance(state, (tenant, project), platform, mode, instance.gpus, now)?;
    admit_spend(state, tenant, project, burn, now)
}

/// What an instance takes, with its keys made known.
pub(crate) fn holding_for(
    state: &mut State,
    (tenant, project): (&TenantId, &ProjectId),
    resource: &ResourceName,
    class: Class,
) -> std::result::Result<(NodeIx, KeyIx), crate::core::Inconsistent> {
    let tree = &mut state.quotas.tree;
    let node =
        tree.ensure(&NodeName::Project(tenant.clone(), project.clone()), None).map_err(super::broken)?;
    let key = tree.intern(resource, class);
    let full = || crate::core::Inconsistent::new("more resources than an index holds");
    Ok((node, key.ok_or_else(full)?))
}

/// The keys of a vector, made known.
pub(super) fn intern(tree: &mut Tree, items: &[Ask]) -> Option<Items> {
    let mut keys = Items::new();
    for item in items {
        keys.push((tree.intern(&item.resource, item.class)?, item.amount));
    }
    sum_up(keys)
}

/// How long money is kept for what starts under the caps of a project.
pub(super) fn burn_ms(state: &State, tenant: &TenantId, project: &ProjectId) -> Option<i64> {
    let hard =
        state.quotas.caps_over(tenant, project).filter(|(_, cap)| cap.draft.enforcement == Enforcement::Hard);
    hard.map(|(_, cap)| cap.draft.notice_ms.saturating_add(BILLING_INTERVAL_MS)).max()
}

/// The purchase model whose price a class has.
pub(super) const fn model_of(class: Class) -> PurchaseModel {
    match class {
        Class::OnDemand => PurchaseModel::OnDemand,
        Class::Reserved => PurchaseModel::Reserved,
        Class::Preemptible => PurchaseModel::Spot,
    }
}
