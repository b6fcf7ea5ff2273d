//! Requests for more quota, as data, and the rules that can answer them without a person.

use hourglass_units::{Instant, Percent, ResourceName};
use serde::{Deserialize, Serialize};

use crate::limit::{Bound, Class};
use crate::name::NodeName;

/// Longest justification or reason, in characters.
pub const JUSTIFICATION_LENGTH_MAX: usize = 1_024;
/// Most requests of a tenant that wait for a decision.
pub const OPEN_REQUESTS_MAX: usize = 100;
/// Most requests of a tenant that are kept when they are decided; the log keeps all.
pub const DECIDED_REQUESTS_KEPT: usize = 200;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// It waits for a person.
    Pending,
    /// The limit was changed.
    Approved,
    /// It was not.
    Denied,
}

impl RequestStatus {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
        }
    }
}

/// A request for another nominal limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// At which node.
    pub node: NodeName,
    /// Of what.
    pub resource: ResourceName,
    /// Sold how.
    pub class: Class,
    /// The nominal limit that is wanted.
    pub wanted: Bound,
    /// What it was when the request came; none where there was none.
    pub before: Option<Bound>,
    /// Why.
    pub justification: String,
    /// Who asks.
    pub requested_by: String,
    /// When.
    pub requested_at: Instant,
    /// What became of it.
    pub status: RequestStatus,
    /// Who decided, or by which rule.
    pub decision: Option<Decided>,
}

/// A decision on a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Who; `rules` where nobody did.
    pub approver: String,
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: String,
    /// What was granted: it can be less than was wanted.
    pub granted: Option<Bound>,
}

/// When a request is granted without a person. All of them must hold; without rules everything waits for
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The account is at least so old, in days.
    pub account_days_min: u32,
    /// At least so many of its invoices are paid, and none is overdue.
    pub paid_invoices_min: u32,
    /// At least this part of the limit is used.
    pub utilisation_min: Percent,
    /// The new limit is at most this part of the old one, such as 200 %.
    pub growth_max: Percent,
    /// By key, the most that all tenants may have together: the headroom of the region. A key that is not
    /// listed waits for a person.
    pub headroom: Vec<Headroom>,
}

/// How much of a key all tenants may have together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headroom {
    /// Of what.
    pub resource: ResourceName,
    /// Sold how.
    pub class: Class,
    /// The most that Σ nominal of all tenants may be.
    pub total_max: u64,
}

/// Most keys with headroom.
pub const HEADROOM_KEYS_MAX: usize = 1_000;

/// What the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How old the account is, in whole days.
    pub account_days: u32,
    /// How many of its invoices are paid.
    pub paid_invoices: u32,
    /// How many wait for payment.
    pub open_invoices: u32,
    /// The nominal limit now.
    pub limit: Option<u64>,
    /// What is used of it.
    pub used: u64,
    /// The nominal limit that is wanted.
    pub wanted: u64,
    /// Σ nominal of all tenants for the key, before this request.
    pub total: u64,
}

impl Rules {
    /// Whether all rules hold, or the first that does not: then a person decides.
    pub fn judge(&self, resource: &ResourceName, class: Class, facts: &Facts) -> Result<String, String> {
        let Some(limit) = facts.limit else {
            return Err("there is no limit yet that could grow".to_owned());
        };
        if facts.wanted <= limit {
            return Ok(format!("{} is not more than the limit of {limit}", facts.wanted));
        }
        if facts.account_days < self.account_days_min {
            return Err(format!(
                "the account is {} days old, {} are asked for",
                facts.account_days, self.account_days_min
            ));
        }
        if facts.paid_invoices < self.paid_invoices_min {
            return Err(format!(
                "{} invoices are paid, {} are asked for",
                facts.paid_invoices, self.paid_invoices_min
            ));
        }
        if facts.open_invoices > 0 && self.paid_invoices_min > 0 {
            return Err(format!("{} invoices wait for payment", facts.open_invoices));
        }
        if !reaches(facts.used, limit, self.utilisation_min) {
            return Err(format!(
                "{} of {limit} are used, {} are asked for",
                facts.used, self.utilisation_min
            ));
        }
        if limit == 0 || reaches_beyond(facts.wanted, limit, self.growth_max) {
            return Err(format!("{} is more than {} of {limit}", facts.wanted, self.growth_max));
        }
        let room = self.headroom.iter().find(|it| it.resource == *resource && it.class == class);
        let Some(room) = room else { return Err(format!("{resource} has no headroom for rules to give")) };
        let total = facts.total.saturating_add(facts.wanted.saturating_sub(limit));
        if total > room.total_max {
            return Err(format!("all limits together would be {total} of {}", room.total_max));
        }
        Ok(format!("all rules hold: {} of {limit} used, {total} of {} given", facts.used, room.total_max))
    }
}

/// Whether a part is at least so many percent of the whole.
fn reaches(part: u64, whole: u64, percent: Percent) -> bool {
    u128::from(part).saturating_mul(Percent::WHOLE.ppm().into())
        >= u128::from(whole).saturating_mul(percent.ppm().into())
}

/// Whether a part is more than so many percent of the whole.
fn reaches_beyond(part: u64, whole: u64, percent: Percent) -> bool {
    u128::from(part).saturating_mul(Percent::WHOLE.ppm().into())
        > u128::from(whole).saturating_mul(percent.ppm().into())
}
