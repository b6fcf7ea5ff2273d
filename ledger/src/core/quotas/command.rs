//! What can be asked about quota, and what happens then.

use std::fmt;

use hourglass_quota::budget::Basis;
use hourglass_quota::cap::{CapDraft, CapPeriod};
use hourglass_quota::request::{Decided, Request, Rules};
use hourglass_quota::{Bound, Class, HoldId, LeaseId, Limits, NodeName, RequestId};
use hourglass_units::{
    Amount, BudgetId, GroupId, InstanceId, Instant, Month, Percent, ProjectId, ResourceName, TenantId,
};
use serde::{Deserialize, Serialize};

use super::watched::BudgetDraft;
use crate::core::event::EventKind;
use crate::core::timeline::{LifeStep, Noted};

/// Something to do about quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "quota", rename_all = "snake_case")]
pub enum QuotaCommand {
    /// Makes a group of projects.
    CreateGroup {
        /// Whose.
        tenant: TenantId,
        /// Which.
        group: GroupId,
        /// In which other one.
        parent: Option<GroupId>,
    },
    /// Puts a project in a group, or directly under its tenant, with all that it uses.
    PlaceProject {
        /// Whose.
        tenant: TenantId,
        /// Which.
        project: ProjectId,
        /// In which.
        group: Option<GroupId>,
    },
    /// Sets a limit, or takes it away.
    SetLimits {
        /// Where.
        node: NodeName,
        /// Of what.
        resource: ResourceName,
        /// Sold how.
        class: Class,
        /// How much; no limit of its own where absent.
        limits: Option<Limits>,
    },
    /// Sets a spend cap, or takes it away.
    SetCap {
        /// Whose.
        tenant: TenantId,
        /// Of which project; of the whole tenant where absent.
        project: Option<ProjectId>,
        /// Which of its caps.
        period: CapPeriod,
        /// How much.
        cap: Option<CapDraft>,
    },
    /// Sets a budget, or takes it away.
    SetBudget {
        /// Whose.
        tenant: TenantId,
        /// Which.
        budget: BudgetId,
        /// How much, of what.
        draft: Option<BudgetDraft>,
    },
    /// Holds a vector of resources for a time, all of it or nothing.
    Reserve {
        /// For whom.
        tenant: TenantId,
        /// For which project.
        project: ProjectId,
        /// How much of what.
        items: Vec<Ask>,
        /// How long it is held without being committed, in milliseconds.
        ttl_ms: i64,
    },
    /// Keeps a hold until it is released.
    Commit {
        /// Which.
        hold: HoldId,
    },
    /// Gives a hold back.
    Release {
        /// Which.
        hold: HoldId,
    },
    /// Gives a hold that is not committed more time from now on.
    Renew {
        /// Which.
        hold: HoldId,
        /// How long, in milliseconds.
        ttl_ms: i64,
    },
    /// Gives a hold other amounts.
    Resize {
        /// Which.
        hold: HoldId,
        /// How much of what from now on.
        items: Vec<Ask>,
    },
    /// Gives a checker far away a slice of a limit.
    AcquireLease {
        /// At which node.
        node: NodeName,
        /// Of what.
        resource: ResourceName,
        /// Sold how.
        class: Class,
        /// Who, in its own words.
        holder: String,
        /// How much it wants.
        wants: u64,
        /// How much it may use even when it is cut off.
        safe_capacity: u64,
    },
    /// Gives a lease more time, and another capacity.
    RefreshLease {
        /// Which.
        lease: LeaseId,
        /// How much its holder wants.
        wants: u64,
        /// The newest version that the holder knows.
        known_version: u64,
        /// What it uses.
        in_use: u64,
    },
    /// Gives a lease back: its holder uses nothing any more.
    ReturnLease {
        /// Which.
        lease: LeaseId,
    },
    /// Asks for another nominal limit.
    RequestIncrease {
        /// Where.
        node: NodeName,
        /// Of what.
        resource: ResourceName,
        /// Sold how.
        class: Class,
        /// How much.
        wanted: Bound,
        /// Why.
        justification: String,
        /// Who asks.
        requested_by: String,
    },
    /// Decides about a request that waits.
    DecideRequest {
        /// Which.
        request: RequestId,
        /// The nominal limit that is granted; denied where absent.
        granted: Option<Bound>,
        /// Who decides.
        approver: String,
        /// Why.
        reason: String,
    },
    /// Sets the rules that answer requests, or takes them away.
    SetRules {
        /// None where every request waits for a person.
        rules: Option<Rules>,
    },
    /// What time brought about: expired holds, lapsed leases, thresholds, things that must stop.
    Review,
    /// Compares what the compute API runs with what holds quota.
    Reconcile {
        /// When the listing was taken.
        listed_at: Instant,
        /// All instances that it has.
        instances: Vec<Listed>,
    },
}

/// An amount of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Of what.
    pub resource: ResourceName,
    /// Sold how.
    pub class: Class,
    /// How much, in the resource's own unit.
    pub amount: u64,
}

/// An instance as the compute API lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Which.
    pub instance: InstanceId,
    /// Whether it takes up capacity: it is neither stopped nor gone.
    pub running: bool,
    /// GPUs that it has.
    pub gpus: u32,
}

/// Something that happened about quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "quota", rename_all = "snake_case")]
pub enum QuotaEvent {
    /// There is a group.
    GroupCreated {
        /// Whose.
        tenant: TenantId,
        /// Which.
        group: GroupId,
        /// In which other one.
        parent: Option<GroupId>,
    },
    /// A project is in a group.
    ProjectPlaced {
        /// Whose.
        tenant: TenantId,
        /// Which.
        project: ProjectId,
        /// In which.
        group: Option<GroupId>,
    },
    /// A limit changed.
    LimitsSet {
        /// Where.
        node: NodeName,
        /// Of what.
        resource: ResourceName,
        /// Sold how.
        class: Class,
        /// How much.
        limits: Option<Limits>,
    },
    /// A spend cap changed.
    CapSet {
        /// Whose.
        tenant: TenantId,
        /// Of which project.
        project: Option<ProjectId>,
        /// Which of its caps.
        period: CapPeriod,
        /// How much.
        cap: Option<CapDraft>,
    },
    /// A budget changed.
    BudgetSet {
        /// Whose.
        tenant: TenantId,
        /// Which.
        budget: BudgetId,
        /// How much, of what.
        draft: Option<BudgetDraft>,
    },
    /// Something is held. The hold is named by the event's position.
    HoldTaken {
        /// For whom.
        tenant: TenantId,
        /// For which project.
        project: ProjectId,
        /// How much of what.
        items: Vec<Ask>,
        /// Until when.
        expires_at: Instant,
        /// Whether it waits until lent quota is back.
        pending: bool,
        /// What it can cost at worst until it can be stopped.
        burn: Amount,
    },
    /// A hold is kept.
    HoldCommitted {
        /// Which.
        hold: HoldId,
    },
    /// A hold was given back.
    HoldReleased {
        /// Which.
        hold: HoldId,
    },
    /// A hold has more time.
    HoldRenewed {
        /// Which.
        hold: HoldId,
        /// Until when.
        expires_at: Instant,
    },
    /// A hold has other amounts.
    HoldResized {
        /// Which.
        hold: HoldId,
        /// How much of what.
        items: Vec<Ask>,
        /// What it can cost at worst until it can be stopped.
        burn: Amount,
    },
    /// A lease was granted. It is named by the event's position.
    LeaseGranted {
        /// At which node.
        node: NodeName,
        /// Of what.
        resource: ResourceName,
        /// Sold how.
        class: Class,
        /// Who has it.
        holder: String,
        /// How much.
        capacity: u64,
        /// How much even when it is cut off.
        safe_capacity: u64,
    },
    /// A lease was refreshed.
    LeaseRefreshed {
        /// Which.
        lease: LeaseId,
        /// How much.
        capacity: u64,
        /// The newest version that its holder knows.
        known_version: u64,
        /// What it uses.
        in_use: u64,
    },
    /// A lease was given back.
    LeaseReturned {
        /// Which.
        lease: LeaseId,
    },
    /// Somebody asks for another limit; rules may have decided at once. Named by the event's position.
    IncreaseRequested(Box<Request>),
    /// A request was decided.
    IncreaseDecided {
        /// Which.
        request: RequestId,
        /// How.
        decision: Decided,
    },
    /// Requests are answered by other rules.
    RulesSet {
        /// None where every request waits for a person.
        rules: Option<Rules>,
    },
    /// Time brought something about.
    Reviewed(Box<Review>),
    /// What the compute API runs was compared with what holds quota.
    Reconciled {
        /// When the listing was taken.
        listed_at: Instant,
        /// How many instances it had.
        listed: u64,
        /// Every difference.
        drift: Vec<Drift>,
    },
}

impl QuotaEvent {
    /// The name of the kind, for listings.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::GroupCreated { .. } => EventKind::QuotaGroupCreated,
            Self::ProjectPlaced { .. } => EventKind::QuotaProjectPlaced,
            Self::LimitsSet { .. } => EventKind::QuotaLimitsSet,
            Self::CapSet { .. } => EventKind::SpendCapSet,
            Self::BudgetSet { .. } => EventKind::BudgetSet,
            Self::HoldTaken { .. } => EventKind::HoldTaken,
            Self::HoldCommitted { .. } => EventKind::HoldCommitted,
            Self::HoldReleased { .. } => EventKind::HoldReleased,
            Self::HoldRenewed { .. } => EventKind::HoldRenewed,
            Self::HoldResized { .. } => EventKind::HoldResized,
            Self::LeaseGranted { .. } => EventKind::LeaseGranted,
            Self::LeaseRefreshed { .. } => EventKind::LeaseRefreshed,
            Self::LeaseReturned { .. } => EventKind::LeaseReturned,
            Self::IncreaseRequested(_) => EventKind::IncreaseRequested,
            Self::IncreaseDecided { .. } => EventKind::IncreaseDecided,
            Self::RulesSet { .. } => EventKind::IncreaseRulesSet,
            Self::Reviewed(_) => EventKind::QuotaReviewed,
            Self::Reconciled { .. } => EventKind::QuotaReconciled,
        }
    }
}

/// What a review found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Review {
    /// holds that were not committed in time.
    pub expired: Vec<HoldId>,
    /// Leases that were not refreshed, or whose larger capacity is over.
    pub lapsed: Vec<LeaseId>,
    /// Thresholds that were crossed.
    pub alerts: Vec<CapAlert>,
    /// What has to stop, and why.
    pub preempted: Vec<Preemption>,
    /// Instances that run without a hold since the last review.
    pub unheld: Vec<InstanceId>,
    /// Thresholds of budgets that were reached, each once a period.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetAlert>,
}

impl Review {
    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A threshold of a cap was crossed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapAlert {
    /// Whose.
    pub tenant: TenantId,
    /// Of which project; of the whole tenant where absent.
    pub project: Option<ProjectId>,
    /// Which of its caps.
    pub period: CapPeriod,
    /// How many thresholds are crossed by now.
    pub crossed: u8,
    /// The cap.
    pub limit: Amount,
    /// What was charged.
    pub spent: Amount,
    /// What can still come of what runs.
    pub exposed: Amount,
    /// Whether what runs is told to stop because of it.
    pub exhausted: bool,
}

/// A threshold of a budget was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetAlert {
    /// Whose.
    pub tenant: TenantId,
    /// Which budget.
    pub budget: BudgetId,
    /// In which billing period.
    pub period: Month,
    /// Whether what was charged reached it, or what the period will cost.
    pub basis: Basis,
    /// Which threshold.
    pub threshold: Percent,
    /// The budget.
    pub amount: Amount,
    /// What was charged.
    pub spent: Amount,
    /// What the period will cost if it goes on like this, where that can be said.
    pub projected: Option<Amount>,
}

/// Why something is stopped by us. Exactly one stands on each preemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Lent quota is claimed, or a limit was lowered and drains.
    Quota,
    /// A spend cap.
    Budget,
    /// Another bid took its place.
    Outbid,
    /// Its pool has fewer GPUs for spot.
    SupplyReclaimed,
    /// Its limit is below the pool's new reserve price.
    ReserveRaised,
    /// Nodes of its pool do not work, or are serviced.
    Maintenance,
    /// Its tenant is suspended.
    Suspension,
    /// Its owner wants it no longer.
    Owner,
}

impl Cause {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Budget => "budget",
            Self::Outbid => "outbid",
            Self::SupplyReclaimed => "supply_reclaimed",
            Self::ReserveRaised => "reserve_raised",
            Self::Maintenance => "maintenance",
            Self::Suspension => "suspension",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is told to stop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An instance.
    Instance(InstanceId),
    /// What a compute service runs under a hold.
    Hold(HoldId),
}

/// An order to stop: the one path on which anything is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// What.
    pub target: Target,
    /// Whose it is.
    pub tenant: TenantId,
    /// Why.
    pub cause: Cause,
    /// For what, in words.
    pub reason: String,
    /// When it was ordered.
    pub ordered_at: Instant,
    /// When it must have stopped.
    pub deadline: Instant,
}

impl Preemption {
    /// As a step in the life of its instance.
    pub(crate) fn noted(&self, instance: &InstanceId) -> Noted {
        let noted = Noted::new(instance, LifeStep::ToldToStop, self.ordered_at);
        Noted { deadline: Some(self.deadline), ..noted.because(self.cause.as_str(), &self.reason) }
    }
}

/// How an instance differs between the log and the compute API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// The compute API runs it, and nobody registered it: a zombie.
    Unknown,
    /// It holds quota, and the compute API does not have it.
    Missing,
    /// It holds quota, and the compute API says that it is stopped.
    Stopped,
    /// It holds no quota, and the compute API runs it.
    Running,
    /// It has another number of GPUs.
    GpusDiffer,
}

impl DriftKind {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Missing => "missing",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::GpusDiffer => "gpus_differ",
        }
    }
}

/// A difference between the log and the compute API. It is reported, never mended in silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Which instance.
    pub instance: InstanceId,
    /// Whose, where it is known.
    pub tenant: Option<TenantId>,
    /// What differs.
    pub kind: DriftKind,
    /// GPUs that the log counts.
    pub counted: u32,
    /// GPUs that the compute API lists.
    pub listed: u32,
}
