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
