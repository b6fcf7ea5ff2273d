//! Why something about quota is refused.

use hourglass_quota::budget::BUDGETS_A_TENANT_MAX;
use hourglass_quota::cap::{CapError, SpendDenial};
use hourglass_quota::denial::Denial;
use hourglass_quota::hold::{HOLDS_MAX, HoldError, ITEMS_MAX, TTL_MS_MAX, TTL_MS_MIN};
use hourglass_quota::lease::LEASES_MAX;
use hourglass_quota::request::{
    DECIDED_REQUESTS_KEPT, HEADROOM_KEYS_MAX, JUSTIFICATION_LENGTH_MAX, OPEN_REQUESTS_MAX,
};
use hourglass_quota::tree::{GROUP_DEPTH_MAX, NODES_MAX, RESOURCES_MAX};
use hourglass_quota::{Bound, HoldId, LeaseId, NodeName, RequestId};
use hourglass_units::{BudgetId, Currency, Instant};

/// A spend cap that leaves no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendDenied {
    /// Of which tenant or project.
    pub node: NodeName,
    /// In which currency.
    pub currency: Currency,
    /// The cap, what is spent and held, and what was asked.
    pub denial: SpendDenial,
}

/// Why something about quota is refused, in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaRejection {
    /// No such node.
    #[error(
        "there is no {node}: projects are known when they are placed or first used, groups when they are created"
    )]
    NodeUnknown {
        /// Which.
        node: NodeName,
    },
    /// The group exists.
    #[error("{node} exists already")]
    GroupExists {
        /// Which.
        node: NodeName,
    },
    /// Too deep a tree.
    #[error("{node} would lie more than {GROUP_DEPTH_MAX} groups deep")]
    TooDeep {
        /// Which.
        node: NodeName,
    },
    /// Too many nodes.
    #[error("the cell has {NODES_MAX} nodes: no more fit")]
    NodesFull,
    /// Too many resources.
    #[error("the cell knows {RESOURCES_MAX} resources: no more fit; check the spelling of this one")]
    ResourcesFull,
    /// A vector that makes no sense.
    #[error("a vector has 1 to {ITEMS_MAX} items of at least 1: {0}")]
    ItemsInvalid(&'static str),
    /// Limits that make no sense.
    #[error("{0}")]
    LimitsInvalid(&'static str),
    /// Too short or too long a time.
    #[error("a hold lasts {} to {} seconds without being committed", TTL_MS_MIN / 1_000, TTL_MS_MAX / 1_000)]
    TtlOutOfRange,
    /// A hold that cannot be used so.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A hold that is not for this instance.
    #[error("hold {hold} is not for this instance: {why}")]
    HoldMismatch {
        /// Which.
        hold: HoldId,
        /// What differs.
        why: &'static str,
    },
    /// Too many holds.
    #[error("the cell has {HOLDS_MAX} holds: release some")]
    HoldsFull,
    /// it does not fit.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// It fits only after lent quota is taken back.
    #[error(
        "{denial}: quota that is lent out has to be taken back first: reserve it and wait until the hold is held"
    )]
    NeedsReclaim {
        /// Where.
        denial: Box<Denial>,
    },
    /// Money does not suffice.
    #[error(
        "the {} spend cap of {} is {} {}: {} spent, {} kept for what runs, {} needed",
        .0.denial.period.as_str(), .0.node, .0.denial.limit, .0.currency, .0.denial.spent, .0.denial.held, .0.denial.asked
    )]
    SpendDenied(Box<SpendDenied>),
    /// What it costs has no upper bound, and a hard cap needs one.
    #[error("{node} has a hard spend cap, and the cost of this is not bounded: {why}")]
    CostUnbounded {
        /// Of which tenant or project.
        node: NodeName,
        /// What to do.
        why: &'static str,
    },
    /// A cap that makes no sense.
    #[error(transparent)]
    Cap(#[from] CapError),
    /// No such cap.
    #[error("{node} has no such spend cap")]
    CapUnknown {
        /// Of which tenant or project.
        node: NodeName,
    },
    /// A budget that makes no sense.
    #[error("{0}")]
    BudgetInvalid(&'static str),
    /// No such budget.
    #[error("there is no budget {budget}")]
    BudgetUnknown {
        /// Which.
        budget: BudgetId,
    },
    /// Too many budgets.
    #[error("a customer has at most {BUDGETS_A_TENANT_MAX} budgets: remove one")]
    BudgetsFull,
    /// No such lease.
    #[error("there is no lease {lease}: acquire one")]
    LeaseUnknown {
        /// Which.
        lease: LeaseId,
    },
    /// The holder says that it knows what was never said, or uses more than it ever had.
    #[error("lease {lease}: {why}")]
    LeaseInconsistent {
        /// Which.
        lease: LeaseId,
        /// What is wrong.
        why: &'static str,
    },
    /// Too many leases.
    #[error("the cell has {LEASES_MAX} leases: return some")]
    LeasesFull,
    /// No such request.
    #[error(
        "there is no request {request}, or it is one of more than {DECIDED_REQUESTS_KEPT} that were decided"
    )]
    RequestUnknown {
        /// Which.
        request: RequestId,
    },
    /// It was decided.
    #[error("request {request} was decided at {at}")]
    RequestDecided {
        /// Which.
        request: RequestId,
        /// When.
        at: Instant,
    },
    /// A request that makes no sense.
    #[error("the request cannot be taken: {0}")]
    RequestInvalid(&'static str),
    /// A limit below what is used, asked for as a request.
    #[error("{wanted} is below what is used or committed: {floor}; release some, or ask for {floor}")]
    BelowUse {
        /// Asked for.
        wanted: Bound,
        /// The least that can be asked for.
        floor: u64,
    },
    /// Too many requests wait.
    #[error("{OPEN_REQUESTS_MAX} requests of this tenant wait for a decision")]
    RequestsFull,
    /// Too long a text.
    #[error("a justification or reason has 1 to {JUSTIFICATION_LENGTH_MAX} characters without line breaks")]
    TextInvalid,
    /// Rules that make no sense.
    #[error("headroom lists at most {HEADROOM_KEYS_MAX} different keys")]
    RulesInvalid,
    /// A listing that cannot be compared.
    #[error("the listing cannot be used: {0}")]
    ListingInvalid(&'static str),
    /// Nothing is due.
    #[error("nothing is due")]
    NothingDue,
}

impl QuotaRejection {
    /// The stable code, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NodeUnknown { .. } => "quota_node_unknown",
            Self::GroupExists { .. } => "group_exists",
            Self::TooDeep { .. } => "groups_too_deep",
            Self::NodesFull => "quota_nodes_full",
            Self::ResourcesFull => "resources_full",
            Self::ItemsInvalid(_) => "items_invalid",
            Self::LimitsInvalid(_) => "limits_invalid",
            Self::TtlOutOfRange => "ttl_out_of_range",
            Self::Hold(error) => match error {
                HoldError::Unknown { .. } => "hold_unknown",
                HoldError::Expired { .. } => "hold_expired",
                HoldError::Released { .. } => "hold_released",
                HoldError::Taken { .. } => "hold_taken",
                HoldError::Pending { .. } => "hold_pending",
                HoldError::Committed { .. } => "hold_committed",
            },
            Self::HoldMismatch { .. } => "hold_mismatch",
            Self::HoldsFull => "holds_full",
            Self::Denied(_) => "quota_exceeded",
            Self::NeedsReclaim { .. } => "quota_lent_out",
            Self::SpendDenied(_) => "spend_cap_reached",
            Self::CostUnbounded { .. } => "cost_unbounded",
            Self::Cap(_) => "cap_invalid",
            Self::CapUnknown { .. } => "cap_unknown",
            Self::BudgetInvalid(_) => "budget_invalid",
            Self::BudgetUnknown { .. } => "budget_unknown",
            Self::BudgetsFull => "budgets_full",
            Self::LeaseUnknown { .. } => "lease_unknown",
            Self::LeaseInconsistent { .. } => "lease_inconsistent",
            Self::LeasesFull => "leases_full",
            Self::RequestUnknown { .. } => "request_unknown",
            Self::RequestDecided { .. } => "request_decided",
            Self::RequestInvalid(_) => "request_invalid",
            Self::BelowUse { .. } => "below_use",
            Self::RequestsFull => "requests_full",
            Self::TextInvalid => "justification_invalid",
            Self::RulesInvalid => "rules_invalid",
            Self::ListingInvalid(_) => "listing_invalid",
            Self::NothingDue => "nothing_due",
        }
    }

    /// Whether the same request can succeed later without a change.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Denied(_)
                | Self::NeedsReclaim { .. }
                | Self::SpendDenied(_)
                | Self::HoldsFull
                | Self::LeasesFull
                | Self::RequestsFull
                | Self::Hold(HoldError::Pending { .. })
        )
    }
}
