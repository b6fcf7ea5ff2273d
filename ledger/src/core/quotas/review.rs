//! What time brought about: decided by a review, so that the log says it in so many words.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_quota::Class;
use hourglass_quota::cap::Enforcement;
use hourglass_quota::hold::HoldState;
use hourglass_units::{InstanceId, Instant, ProjectId, TenantId};

use super::command::{CapAlert, Cause, Drift, DriftKind, Listed, Preemption, Review, Target};
use super::rejection::QuotaRejection;
use super::{DRIFT_MAX, LISTING_MAX, budget, watched};
use crate::core::metering::Instance;
use crate::core::rejection::Rejection;
use crate::core::state::State;

/// How long what is preempted for quota has until it must have stopped, in milliseconds.
pub const QUOTA_NOTICE_MS: i64 = hourglass_quota::cap::NOTICE_MS_MIN;
/// An instance whose creation or stop is younger than this is not compared with a listing, in
/// milliseconds: the one may have seen it before the other.
pub const RECONCILE_GRACE_MS: i64 = 120_000;

/// Finds what is due.
pub(super) fn review(state: &State, now: Instant) -> Result<Review, Rejection> {
    let quotas = &state.quotas;
    let unheld = quotas.unheld.difference(&quotas.told);
    let mut orders = Orders { state, now, chosen: BTreeMap::new() };
    orders.reclaim();
    orders.drain();
    let mut alerts = Vec::new();
    for (tenant, caps) in &quotas.caps {
        for ((project, period), cap) in caps {
            let figures = cap.figures;
            let crossed = cap.thresholds_crossed(&figures);
            let over = figures.worst().is_none_or(|worst| worst > figures.limit);
            let exhausted = over && cap.draft.enforcement == Enforcement::Hard;
            if exhausted {
                orders.save(tenant, project.as_ref(), cap)?;
            }
            if crossed != cap.crossed || exhausted != cap.exhausted {
                alerts.push(CapAlert {
                    tenant: tenant.clone(),
                    project: project.clone(),
                    period: *period,
                    crossed,
                    limit: figures.limit,
                    spent: figures.spent,
                    exposed: figures.exposed,
                    exhausted,
                });
            }
        }
    }
    Ok(Review {
        expired: quotas.holds.expired(now).collect(),
        lapsed: quotas.leases.lapsed(now).collect(),
        alerts,
        preempted: orders.chosen.into_values().collect(),
        unheld: unheld.filter_map(|ix| Some(state.instances.get(*ix)?.id.clone())).collect(),
        budgets: watched::reached(quotas),
    })
}

/// What is chosen to stop.
struct Orders<'a> {
    state: &'a State,
    now: Instant,
    chosen: BTreeMap<Target, Preemption>,
}

/// Something that runs and could be stopped.
struct Candidate {
    target: Target,
    node: u32,
    class: Class,
    amount: u64,
    /// Newer ones go first.
    since: Instant,
}

impl Orders<'_> {
    fn is_ordered(&self, target: &Target) -> bool {
        self.state.quotas.preemptions.contains_key(target) || self.chosen.contains_key(target)
    }

    fn order(&mut self, target: Target, tenant: &TenantId, cause: Cause, reason: String, notice_ms: i64) {
        if self.is_ordered(&target) {
            return;
        }
        let (tenant, ordered_at) = (tenant.clone(), self.now);
        let deadline = self.now.saturating_add_ms(notice_ms);
        let preemption = Preemption { target: target.clone(), tenant, cause, reason, ordered_at, deadline };
        self.chosen.insert(target, preemption);
    }

    /// All that holds a resource below a node, newest first.
    fn candidates(&self, under: u32, resource: &hourglass_units::ResourceName) -> Vec<Candidate> {
        let quotas = &self.state.quotas;
        let tree = &quotas.tree;
        let keys: Vec<_> = Class::ALL.into_iter().filter_map(|class| tree.key(resource, class)).collect();
        let instances = self.state.instances.iter().filter_map(|(_, instance)| {
            let holding = instance.holding.filter(|it| keys.contains(&it.key))?;
            Some(Candidate {
                target: Target::Instance(instance.id.clone()),
                node: holding.node,
                class: holding.key.class(),
                amount: u64::from(instance.gpus),
                since: holding.since,
            })
        });
        // What waits has nothing yet that it could give back.
        let running = quotas.holds.iter().filter(|(_, hold)| hold.state != HoldState::Pending);
        let holds = running.filter_map(|(id, hold)| {
            let (key, amount) = hold.items.iter().find(|(key, _)| keys.contains(key))?;
            Some(Candidate {
                target: Target::Hold(id),
                node: hold.node,
                class: key.class(),
                amount: *amount,
                since: hold.expires_at,
            })
        });
        let below = instances.chain(holds).filter(|it| tree.is_under(it.node, under));
        let mut all: Vec<Candidate> = below.collect();
        // What was told to stop already counts first, so that nothing else is told to instead of it.
        let key = |it: &Candidate| (self.is_ordered(&it.target), it.since);
        all.sort_by(|a, b| key(b).cmp(&key(a)).then_with(|| b.target.cmp(&a.target)));
        all
    }

    /// Quota that was lent and is claimed comes back: preemptible work of who borrows most goes first.
    fn reclaim(&mut self) {
        let state = self.state;
        let tree = &state.quotas.tree;
        for (parent, resource, excess) in tree.overdrawn() {
            let mut missing = excess;
            for (borrower, borrowed) in tree.borrowers(parent, &resource) {
                let mut of_this = missing.min(borrowed);
                let name = tree.name(borrower).cloned();
                let Some(name) = name else { continue };
                for it in self.candidates(borrower, &resource) {
                    if of_this == 0 {
                        break;
                    }
                    if it.class != Class::Preemptible {
                        continue;
                    }
                    let gone = it.amount;
                    let reason = format!("{resource} that {name} borrows is claimed by who lent it");
                    self.order(it.target, name.tenant(), Cause::Quota, reason, QUOTA_NOTICE_MS);
                    of_this = of_this.saturating_sub(gone);
                    missing = missing.saturating_sub(gone);
                }
                if missing == 0 {
                    break;
                }
            }
        }
    }

    /// What is above a lowered limit that drains goes, preemptible work and the newest first.
    fn drain(&mut self) {
        let state = self.state;
        for (node, key, excess) in state.quotas.tree.draining() {
            let Some(name) = state.quotas.tree.name(node).cloned() else { continue };
            let mut missing = excess;
            for it in self.candidates(node, &key.resource) {
                if missing == 0 {
                    break;
                }
                if it.class != key.class {
                    continue;
                }
                let reason = format!("the limit of {name} on {key} was lowered");
                missing = missing.saturating_sub(it.amount);
                self.order(it.target, name.tenant(), Cause::Quota, reason, QUOTA_NOTICE_MS);
            }
        }
    }

    /// What costs money under a cap goes, preemptible work and the newest first, until what can still
    /// come is within the cap.
    fn save(
        &mut self,
        tenant: &TenantId,
        project: Option<&ProjectId>,
        cap: &hourglass_quota::cap::Cap,
    ) -> Result<(), Rejection> {
        let node = budget::node_name(tenant, project);
        let reason = format!("the {} spend cap of {node} would be exceeded", cap.draft.period.as_str());
        let targets = budget::to_stop(self.state, (tenant, project), cap, self.now);
        for target in targets.map_err(|_| Rejection::AmountOverflow)? {
            self.order(target, tenant, Cause::Budget, reason.clone(), cap.draft.notice_ms);
        }
        Ok(())
    }
}

/// Compares what the compute API lists with what holds quota.
pub(super) fn drift(
    state: &State,
    listed_at: Instant,
    listed: &[Listed],
    now: Instant,
) -> Result<Vec<Drift>, Rejection> {
    let invalid = |why| Err(QuotaRejection::ListingInvalid(why).into());
    if listed.len() > LISTING_MAX {
        return invalid("it has more instances than a cell can");
    }
    if listed_at > now {
        return invalid("it was taken in the future");
    }
    let by_id: BTreeMap<&InstanceId, &Listed> = listed.iter().map(|it| (&it.instance, it)).collect();
    if by_id.len() != listed.len() {
        return invalid("it names an instance twice");
    }
    let settled = listed_at.saturating_add_ms(-RECONCILE_GRACE_MS);
    let mut drift = Vec::new();
    let mut known: BTreeSet<&InstanceId> = BTreeSet::new();
    for view in state.instances() {
        let Some(instance) = state.instances.find(view.id().as_str()).and_then(|ix| state.instances.get(ix))
        else {
            continue;
        };
        known.insert(view.id());
        let it = by_id.get(view.id()).copied();
        let running = it.is_some_and(|it| it.running);
        let kind = match (instance.holding, it) {
            (Some(holding), _) if holding.since > settled => None,
            (Some(_), None) => Some(DriftKind::Missing),
            (Some(_), Some(_)) if !running => Some(DriftKind::Stopped),
            (Some(_), Some(it)) if it.gpus != instance.gpus => Some(DriftKind::GpusDiffer),
            (None, Some(_)) if running && stopped_before(instance, settled) => Some(DriftKind::Running),
            _ => None,
        };
        let counted = if instance.holding.is_some() { instance.gpus } else { 0 };
        let listed = it.filter(|it| it.running).map_or(0, |it| it.gpus);
        drift.extend(kind.map(|kind| Drift {
            instance: instance.id.clone(),
            tenant: Some(view.tenant().clone()),
            kind,
            counted,
            listed,
        }));
    }
    let unknown = by_id.iter().filter(|(id, it)| it.running && !known.contains(*id));
    drift.extend(unknown.map(|(id, it)| Drift {
        instance: (*id).clone(),
        tenant: None,
        kind: DriftKind::Unknown,
        counted: 0,
        listed: it.gpus,
    }));
    if drift.len() > DRIFT_MAX {
        return invalid("it differs so much that it must be another cell's");
    }
    Ok(drift)
}

/// Whether an instance was seen stopped at an instant, or never ran.
fn stopped_before(instance: &Instance, at: Instant) -> bool {
    instance.running.last().is_none_or(|last| last.end() <= at)
}
