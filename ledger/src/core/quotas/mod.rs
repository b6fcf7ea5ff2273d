//! Quota in the core: limits and holds in the same log as money.
//!
//! The rules live in the quota crate; here is what needs the rest of the state: whose instance takes
//! what, what something would cost, and what has to stop.
//!
//! An instance that is registered holds quota from then on: that is when its creation was accepted. It
//! gives it back when it is seen stopped. What runs although nobody asked (it was started again without
//! a hold, or its reservation ended) is counted beside what was granted, as *unheld*: facts are never
//! refused, and limits are never said to allow more than they do.

mod apply;
mod budget;
mod command;
mod decide;
mod instances;
mod rejection;
mod review;
mod watched;

use std::collections::{BTreeMap, BTreeSet};

use hourglass_quota::cap::{Cap, CapPeriod};
use hourglass_quota::hold::Holds;
use hourglass_quota::lease::Leases;
use hourglass_quota::request::{Request, RequestStatus, Rules};
use hourglass_quota::tree::{KeyIx, NodeIx, Tree};
use hourglass_quota::{Class, RequestId};
use hourglass_units::{BudgetId, Instant, ProjectId, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::command::Mode;
use super::metering::InstanceIx;

pub(crate) use apply::apply;
pub(crate) use budget::{burn_of_instance, review_figures};
pub use command::{
    Ask, BudgetAlert, CapAlert, Cause, Drift, DriftKind, Listed, Preemption, QuotaCommand, QuotaEvent,
    Review, Target,
};
pub(crate) use decide::{Decided, admit_instance, admit_mode, class_for, decide};
pub(crate) use instances::{adopt, change_class, register, release, reservations_ended, start};
pub use rejection::{QuotaRejection, SpendDenied};
pub use review::{QUOTA_NOTICE_MS, RECONCILE_GRACE_MS};
pub(crate) use watched::review_budgets;
pub use watched::{Budget, BudgetDraft, Crossing};

/// Most instances of a listing.
pub const LISTING_MAX: usize = 200_000;
/// Most differences that one reconciliation records; a listing with more is that of another cell.
pub const DRIFT_MAX: usize = 20_000;

/// All that the core knows of quota.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quotas {
    pub(crate) tree: Tree,
    pub(crate) holds: Holds,
    pub(crate) leases: Leases,
    pub(crate) caps: BTreeMap<TenantId, Caps>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) rules: Option<Rules>,
    pub(crate) preemptions: BTreeMap<Target, Preemption>,
    /// Instances that run without a hold.
    pub(crate) unheld: BTreeSet<InstanceIx>,
    /// Those of them of which a review has told.
    pub(crate) told: BTreeSet<InstanceIx>,
    pub(crate) reconciled: Option<Reconciliation>,
    pub(crate) budgets: BTreeMap<TenantId, BTreeMap<BudgetId, Budget>>,
}

/// The caps of a tenant, by project.
pub(crate) type Caps = BTreeMap<(Option<ProjectId>, CapPeriod), Cap>;

/// What an instance takes of quota: so many as it has GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// Since when it may be running, and so may cost something.
    pub(crate) since: Instant,
    pub(crate) node: NodeIx,
    pub(crate) key: KeyIx,
    /// Whether nobody asked.
    pub(crate) unheld: bool,
}

/// The last comparison with the compute API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// When it was recorded.
    pub at: Instant,
    /// When the listing was taken.
    pub listed_at: Instant,
    /// How many instances it had.
    pub listed: u64,
    /// Every difference.
    pub drift: Vec<Drift>,
}

impl Quotas {
    /// Limits, and what is taken of them.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is held.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// What is leased.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The spend caps of a tenant.
    pub fn caps_of(&self, tenant: &TenantId) -> impl Iterator<Item = (Option<&ProjectId>, CapPeriod, &Cap)> {
        let caps = self.caps.get(tenant).into_iter().flatten();
        caps.map(|((project, period), cap)| (project.as_ref(), *period, cap))
    }

    /// The budgets of a tenant.
    pub fn budgets_of(&self, tenant: &TenantId) -> impl Iterator<Item = (&BudgetId, &Budget)> {
        self.budgets.get(tenant).into_iter().flatten()
    }

    /// One of them.
    pub fn budget(&self, tenant: &TenantId, budget: &BudgetId) -> Option<&Budget> {
        self.budgets.get(tenant)?.get(budget)
    }

    /// Every request for more that is kept, in the order in which they came.
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = (RequestId, &Request)> {
        self.requests.iter().map(|(id, request)| (*id, request))
    }

    /// One of them.
    pub fn request(&self, id: RequestId) -> Option<&Request> {
        self.requests.get(&id)
    }

    /// How requests are answered.
    pub fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    /// What was told to stop and has not yet.
    pub fn preemptions(&self) -> impl Iterator<Item = &Preemption> {
        self.preemptions.values()
    }

    /// The order to stop something, while it has not.
    pub fn preemption(&self, target: &Target) -> Option<&Preemption> {
        self.preemptions.get(target)
    }

    /// The last comparison with the compute API.
    pub fn reconciled(&self) -> Option<&Reconciliation> {
        self.reconciled.as_ref()
    }

    /// Whether a review has something to do that should not wait for the next tick: a hold or a lease whose
    /// time is over, something that waits for lent quota, an instance that nobody asked for.
    pub fn is_due(&self, now: Instant) -> bool {
        let passed = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        passed(self.holds.next_expiry())
            || passed(self.leases.next_lapse())
            || self.holds.pending().next().is_some()
            || self.unheld.iter().any(|ix| !self.told.contains(ix))
    }

    /// The caps that something of a project falls under.
    pub(crate) fn caps_over<'a>(
        &'a self,
        tenant: &TenantId,
        project: &'a ProjectId,
    ) -> impl Iterator<Item = (Option<&'a ProjectId>, &'a Cap)> {
        let caps = self.caps.get(tenant).into_iter().flatten();
        let over = caps.filter(move |((of, _), _)| of.as_ref().is_none_or(|of| of == project));
        over.map(|((of, _), cap)| (of.as_ref(), cap))
    }

    fn open_requests(&self, tenant: &TenantId) -> usize {
        let open = self.requests.values().filter(|it| it.status == RequestStatus::Pending);
        open.filter(|it| it.node.tenant() == tenant).count()
    }
}

/// The class that a mode counts in.
pub(crate) const fn class_of(mode: &Mode) -> Class {
    match mode {
        Mode::OnDemand => Class::OnDemand,
        Mode::Reserved { .. } => Class::Reserved,
        Mode::Spot { .. } => Class::Preemptible,
    }
}

pub(crate) fn broken(error: hourglass_quota::tree::Broken) -> Inconsistent {
    Inconsistent::new(error.to_string())
}
