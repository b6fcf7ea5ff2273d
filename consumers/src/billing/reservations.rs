//! Reservations, and what they cost.

use hourglass_capacity::calendar::ReservationName;
use hourglass_ledger::core::{Held, State};
use hourglass_pricing::reservation::Payment;
use hourglass_units::{Hour, INSTANT_MIN, Interval, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::market::{AllowanceRow, LoanRow, loan_and_allowances, pool_name};

/// GPUs that are sold for a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Reservation)]
pub struct ReservationRow {
    /// Its id, unique in the cell.
    pub reservation: String,
    /// Whose.
    pub tenant: String,
    /// On whose invoice lines it stands.
    pub project: String,
    /// On which platform.
    pub platform: String,
    /// How many GPUs.
    pub gpus: u32,
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub from: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub until: String,
    /// How it is paid for, as it was agreed.
    #[schema(value_type = crate::api::schema::Payment)]
    pub payment: Payment,
    /// Of the amounts, ISO 4217.
    pub currency: String,
    /// What each of its GPU-hours costs, used or not: the amortised price, a decimal.
    pub committed_price: String,
    /// What a GPU-hour costs besides when it is used, a decimal: zero, or the usage rate of flex.
    pub usage_price: String,
    /// All its GPU-hours, a decimal.
    pub gpu_hours: String,
    /// Of these, the hours that have passed.
    pub gpu_hours_elapsed: String,
    /// What was paid up front for all of it, extensions included, a decimal; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upfront: Option<String>,
    /// What the full hours that have passed cost, used or not, an exact decimal: of what was paid up
    /// front, what is earned.
    pub earned: String,
    /// Where in the log it was made.
    pub position: u64,
    /// In which fabric its GPUs are kept free for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// What of it is lent to spot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loan: Option<LoanRow>,
    /// What of it is projects' own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<AllowanceRow>,
}

impl ReservationRow {
    fn of(state: &State, held: &Held) -> Self {
        let (reservation, draft) = (&held.reservation, held.reservation.draft());
        let past = Interval::between(INSTANT_MIN, Hour::containing(state.now()).start());
        let earned = past.and_then(|past| reservation.fee_within(past)).unwrap_or_default();
        let elapsed = past.map(|past| reservation.quantity_within(past)).unwrap_or_default();
        let currency = state.tenant(&held.tenant).map(|tenant| tenant.currency.to_string());
        let pool = draft.fabric.clone().and_then(|fabric| pool_name(state, draft.platform.clone(), fabric));
        let name = ReservationName { tenant: held.tenant.clone(), reservation: draft.reservation.clone() };
        let (loan, allowances) =
            pool.map(|pool| loan_and_allowances(state, &pool, &name)).unwrap_or_default();
        Self {
            reservation: draft.reservation.to_string(),
            tenant: held.tenant.to_string(),
            project: draft.project.to_string(),
            platform: draft.platform.to_string(),
            gpus: draft.gpus,
            from: draft.from.to_string(),
            until: draft.until.to_string(),
            payment: draft.payment,
            currency: currency.unwrap_or_default(),
            committed_price: reservation.committed_price().to_string(),
            usage_price: reservation.usage_price().to_string(),
            gpu_hours: reservation.quantity().to_string(),
            gpu_hours_elapsed: elapsed.to_string(),
            upfront: reservation.upfront().map(|amount| amount.to_string()),
            earned: earned.to_string(),
            position: held.position.number(),
            fabric: draft.fabric.as_ref().map(ToString::to_string),
            loan,
            allowances,
        }
    }
}

/// Reservations of a customer, or of all, in the order in which they were made.
pub fn reservations<'a>(
    state: &'a State,
    tenant: Option<&'a TenantId>,
) -> impl Iterator<Item = ReservationRow> + 'a {
    let wanted = move |held: &&Held| tenant.is_none_or(|tenant| *tenant == held.tenant);
    state.reservations().filter(wanted).map(|held| ReservationRow::of(state, held))
}
