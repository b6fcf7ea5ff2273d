//! What a plan would cost, by the function that rates and settles usage: nothing is written.

use std::collections::BTreeMap;

use hourglass_pricing::reservation::{Payment, Reservation, ReservationDraft};
use hourglass_pricing::settle::{Item, ItemKey, Rated, Source};
use hourglass_pricing::{PurchaseModel, Sku, SpotPool};
use hourglass_units::{
    Amount, Currency, HOUR_MILLISECONDS, Hour, Instant, Interval, Month, Platform, Price, ProjectId,
    Quantity, TenantId,
};
use serde::Serialize;

use super::accounts::{Reach, items};
use super::groups::GroupIx;
use super::metering::quantity;
use super::rejection::Rejection;
use super::state::State;
use super::usage::INSTANCE_GPUS_MAX;

/// Longest plan, in hours: three years.
pub const PLAN_HOURS_MAX: i64 = 3 * 366 * 24;

/// GPUs that somebody thinks of using.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By which tenant's contract; list prices where absent.
    pub tenant: Option<TenantId>,
    /// In which currency, where no tenant is named.
    pub currency: Option<Currency>,
    /// For which project, where rules of the contract name any.
    pub project: Option<ProjectId>,
    /// On which platform.
    pub platform: Platform,
    /// How they are sold.
    pub mode: PlanMode,
    /// How many.
    pub gpus: u32,
    /// From when; see [`earliest_start`] where absent.
    pub from: Option<Instant>,
    /// Until when.
    pub until: Instant,
}

/// How the GPUs of a plan are sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanMode {
    /// At the list or contract price.
    OnDemand,
    /// At the pool's price as it is now, and never more than the limit.
    Spot {
        /// Per GPU-hour.
        limit: Option<Price>,
    },
    /// By a reservation that would be made for it, all of its hours used.
    Reserved {
        /// How it would be paid.
        payment: Payment,
    },
}

/// What a plan would cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Of all amounts.
    pub currency: Currency,
    /// From when.
    pub from: Instant,
    /// Until when.
    pub until: Instant,
    /// GPU-hours.
    pub quantity: Quantity,
    /// GPU-hours by unit price and billing period: before the rules of the contract that count periods.
    pub parts: Vec<EstimatePart>,
    /// Σ of the parts.
    pub at_unit_prices: Amount,
    /// What a reservation costs beside its use, where the plan makes one.
    pub fees: Amount,
    /// What the tenant would owe more, all rules of its contract applied to what it has used already;
    /// minimums of periods that are not over stay out.
    pub total: Amount,
    /// What its credit would pay of that.
    pub credit: Amount,
}

/// GPU-hours of a plan at one price in one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EstimatePart {
    /// In which billing period.
    pub period: Month,
    /// Per GPU-hour.
    pub price: Price,
    /// GPU-hours.
    pub quantity: Quantity,
    /// Price × quantity.
    pub amount: Amount,
}

/// Where and by whom a plan would run.
struct Place<'a> {
    tenant: TenantId,
    account: Option<&'a super::state::Tenant>,
    currency: Currency,
    project: ProjectId,
    sku: Sku,
}

/// When a plan begins that does not say when: now, or with the next full hour where it makes a
/// reservation, which has only full ones.
pub fn earliest_start(mode: &PlanMode, now: Instant) -> Instant {
    let hour = Hour::containing(now);
    match mode {
        PlanMode::Reserved { .. } if hour.start() < now => hour.end(),
        PlanMode::OnDemand | PlanMode::Spot { .. } | PlanMode::Reserved { .. } => now,
    }
}

/// Says what a plan would cost.
pub fn estimate(state: &State, plan: &Plan) -> Result<Estimate, Rejection> {
    let from = plan.from.unwrap_or_else(|| earliest_start(&plan.mode, state.now));
    let window = check(plan, from)?;
    let place = place(state, plan)?;
    let reservation = match &plan.mode {
        PlanMode::Reserved { payment } => Some(reservation(plan, &place, window, *payment)?),
        PlanMode::OnDemand | PlanMode::Spot { .. } => None,
    };
    let lines = lines(state, plan, &place, window, reservation.as_ref())?;
    let overflow = || Rejection::AmountOverflow;

    let mut parts: BTreeMap<(Month, Price), Quantity> = BTreeMap::new();
    let mut rated: BTreeMap<(Month, Interval, Price), Quantity> = BTreeMap::new();
    let mut quantity_sum = Quantity::ZERO;
    for ((hour, price), quantity) in lines {
        let (period, segment) = state.calendars.segment(&place.tenant, hour.start());
        let part = parts.entry((period, price)).or_default();
        *part = part.checked_add(quantity).ok_or_else(overflow)?;
        let of_segment = rated.entry((period, segment, price)).or_default();
        *of_segment = of_segment.checked_add(quantity).ok_or_else(overflow)?;
        quantity_sum = quantity_sum.checked_add(quantity).ok_or_else(overflow)?;
    }
    let parts: Vec<EstimatePart> = parts
        .into_iter()
        .map(|((period, price), quantity)| EstimatePart {
            period,
            price,
            quantity,
            amount: price.times(quantity),
        })
        .collect();
    let at_unit_prices =
        parts.iter().try_fold(Amount::ZERO, |sum, part| sum.checked_add(part.amount)).ok_or_else(overflow)?;
    let fees = reservation.as_ref().map_or(Some(Amount::ZERO), |it| it.fee_within(it.interval()));
    let fees = fees.ok_or_else(overflow)?;
    let (usage, credit) = match place.account {
        Some(account) => more_owed(state, &place, account, &rated)?,
        None => (at_unit_prices, Amount::ZERO),
    };
    Ok(Estimate {
        currency: place.currency,
        from,
        until: plan.until,
        quantity: quantity_sum,
        parts,
        at_unit_prices,
        fees,
        total: usage.checked_add(fees).ok_or_else(overflow)?,
        credit,
    })
}

fn check(plan: &Plan, from: Instant) -> Result<Interval, Rejection> {
    let until = plan.until;
    let window = Interval::between(from, until).ok_or(Rejection::IntervalReversed { from, until })?;
    if window.milliseconds() > PLAN_HOURS_MAX.saturating_mul(HOUR_MILLISECONDS) {
        return Err(Rejection::PlanTooLong { until });
    }
    if !(1..=INSTANCE_GPUS_MAX).contains(&plan.gpus) {
        return Err(Rejection::GpusOutOfRange { gpus: plan.gpus });
    }
    Ok(window)
}

fn place<'a>(state: &'a State, plan: &Plan) -> Result<Place<'a>, Rejection> {
    let region = state.cell.as_ref().ok_or(Rejection::CellNotOpen)?.region.clone();
    let account = match &plan.tenant {
        None => None,
        Some(id) => {
            Some(state.tenants.get(id).ok_or_else(|| Rejection::TenantUnknown { tenant: id.clone() })?)
        }
    };
    let currency = account.map(|account| account.currency).or(plan.currency);
    let currency = currency.ok_or(Rejection::PlanInvalid("name a tenant or a currency"))?;
    let model = match plan.mode {
        PlanMode::OnDemand => PurchaseModel::OnDemand,
        PlanMode::Spot { .. } => PurchaseModel::Spot,
        PlanMode::Reserved { .. } => PurchaseModel::Reserved,
    };
    // Ids that nobody has: the plan's own, where it names none.
    let nobody = || "plan".parse().map_err(|_| Rejection::PlanInvalid("name a tenant"));
    let tenant = plan.tenant.clone().map_or_else(nobody, Ok)?;
    let no_project = || "plan".parse().map_err(|_| Rejection::PlanInvalid("name a project"));
    let project = plan.project.clone().map_or_else(no_project, Ok)?;
    let sku = Sku { platform: plan.platform.clone(), region, model };
    Ok(Place { tenant, account, currency, project, sku })
}

fn reservation(
    plan: &Plan,
    place: &Place<'_>,
    window: Interval,
    payment: Payment,
) -> Result<Reservation, Rejection> {
    let id = "plan".parse().map_err(|_| Rejection::PlanInvalid("the plan has no name"))?;
    let (project, platform, gpus) = (place.project.clone(), plan.platform.clone(), plan.gpus);
    let (from, until) = (window.start(), window.end());
    let draft =
        ReservationDraft { reservation: id, project, platform, gpus, from, until, payment, fabric: None };
    Ok(Reservation::check(draft)?)
}

/// The lines of the plan, as the same usage would have.
fn lines(
    state: &State,
    plan: &Plan,
    place: &Place<'_>,
    window: Interval,
    reservation: Option<&Reservation>,
) -> Result<BTreeMap<(Hour, Price), Quantity>, Rejection> {
    let mut milliseconds: BTreeMap<(Hour, Price), i64> = BTreeMap::new();
    let mut add = |hour: Hour, price: Price, more: i64| {
        let sum = milliseconds.entry((hour, price)).or_default();
        *sum = sum.saturating_add(more);
    };
    if let Some(reservation) = reservation {
        for (hour, part) in window.by_hour() {
            add(hour, reservation.usage_price(), part.milliseconds());
        }
    } else {
        let prices = state.prices.timeline(&place.tenant, place.currency, &place.sku);
        let pool = SpotPool { currency: place.currency, sku: place.sku.clone(), fabric: None };
        let pool = state.prices.spot(&pool);
        let limit = match plan.mode {
            PlanMode::Spot { limit } => limit,
            PlanMode::OnDemand | PlanMode::Reserved { .. } => None,
        };
        let tariff = hourglass_pricing::rating::Tariff { prices: &prices, pool, limit };
        let mut reached = window.start();
        for cut in tariff.cuts(window) {
            if cut.interval.start() != reached {
                break;
            }
            reached = cut.interval.end();
            add(cut.hour, cut.price, cut.interval.milliseconds());
        }
        if reached != window.end() {
            let (sku, currency) = (place.sku.clone(), place.currency);
            return Err(Rejection::Unpriced { sku, currency, at: reached });
        }
    }
    let line = |(key, ms)| Ok((key, quantity(ms, plan.gpus).map_err(|_| Rejection::AmountOverflow)?));
    milliseconds.into_iter().map(line).collect()
}

/// What the tenant would owe more with the usage, and what credit would pay of that.
fn more_owed(
    state: &State,
    place: &Place<'_>,
    account: &super::state::Tenant,
    rated: &BTreeMap<(Month, Interval, Price), Quantity>,
) -> Result<(Amount, Amount), Rejection> {
    let id = &place.tenant;
    let known = state
        .groups
        .of_tenant(id)
        .find(|(_, it)| it.project == place.project && it.sku == place.sku && it.reservation.is_none());
    let group = known.map_or(GroupIx::MAX, |(ix, _)| ix);
    let more: Vec<Rated<'_>> = rated
        .iter()
        .map(|((period, segment, price), quantity)| Rated {
            group,
            project: &place.project,
            sku: &place.sku,
            period: *period,
            segment: *segment,
            price: *price,
            quantity: *quantity,
        })
        .collect();
    let reach = Reach::all(&state.calendars, id, state.now);
    let overflow = |_| Rejection::AmountOverflow;
    let before = items(state.ground(), id, account, reach, &[]).map_err(overflow)?;
    let after = items(state.ground(), id, account, reach, &more).map_err(overflow)?;
    let sum = |items: &BTreeMap<ItemKey, Item>, wanted: fn(&Source) -> bool| {
        let mut wanted = items.iter().filter(|(key, _)| wanted(&key.source)).map(|(_, item)| item.amount);
        wanted.try_fold(Amount::ZERO, |sum, amount| sum.checked_add(amount))
    };
    let more = |wanted: fn(&Source) -> bool| {
        let difference = sum(&after, wanted).zip(sum(&before, wanted));
        difference.and_then(|(after, before)| after.checked_sub(before)).ok_or(Rejection::AmountOverflow)
    };
    let is_credit: fn(&Source) -> bool = |source| matches!(source, Source::Credit { .. });
    let is_charge: fn(&Source) -> bool =
        |source| source.is_owed() && !matches!(source, Source::Credit { .. });
    Ok((more(is_charge)?, more(is_credit)?))
}
