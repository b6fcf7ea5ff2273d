//! Spend caps.

use hourglass_ledger::core::State;
use hourglass_quota::cap::{Cap, CapPeriod, Enforcement};
use hourglass_units::{Currency, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A spend cap, with what its last review found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SpendCap)]
pub struct CapRow {
    /// Of which project; of the whole tenant where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Over which time: `monthly` (a billing period), `total`, or `prepaid` (as long as bought credit lasts).
    pub period: String,
    /// `hard`: nothing starts that could break it, and what runs is stopped in time. `soft`: alerts alone.
    pub enforcement: String,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// The most that may be charged, a decimal: the amount, or the balance of bought credit.
    pub limit: String,
    /// What was charged, an exact decimal.
    pub spent: String,
    /// What is kept for what runs and is held, at worst until it can be stopped: a decimal.
    pub held: String,
    /// At which parts of the limit an alert is given, in percent.
    pub thresholds: Vec<String>,
    /// Which of them were crossed.
    pub crossed: Vec<String>,
    /// Whether things were told to stop because of it, and nothing may start until there is room.
    pub exhausted: bool,
    /// How long it takes at most from the order to stop until nothing runs.
    pub notice_seconds: i64,
    /// When it was looked at last, RFC 3339.
    #[schema(format = DateTime)]
    pub reviewed_at: String,
}

/// The caps of a tenant: its own, then those of its projects.
pub fn caps(state: &State, tenant: &TenantId) -> Vec<CapRow> {
    let currency = state.tenant(tenant).map(|account| account.currency);
    let rows = state.quotas().caps_of(tenant);
    rows.filter_map(|(project, period, cap)| Some(row(project, period, cap, currency?))).collect()
}

fn row(project: Option<&ProjectId>, period: CapPeriod, cap: &Cap, currency: Currency) -> CapRow {
    let Cap { draft, figures, added, crossed, exhausted } = cap;
    // Sums beyond all range are refused where they would arise; what was exposed is the least of it.
    let held = figures.exposed.checked_add(*added).unwrap_or(figures.exposed);
    CapRow {
        project: project.map(ToString::to_string),
        period: period.as_str().to_owned(),
        enforcement: match draft.enforcement {
            Enforcement::Hard => "hard".to_owned(),
            Enforcement::Soft => "soft".to_owned(),
        },
        currency: currency.to_string(),
        limit: figures.limit.to_string(),
        spent: figures.spent.to_string(),
        held: held.to_string(),
        thresholds: draft.thresholds.iter().map(ToString::to_string).collect(),
        crossed: draft.thresholds.iter().take(usize::from(*crossed)).map(ToString::to_string).collect(),
        exhausted: *exhausted,
        notice_seconds: draft.notice_ms.div_euclid(1_000),
        reviewed_at: figures.at.to_string(),
    }
}
