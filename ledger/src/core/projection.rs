//! Where a billing period stands, and where it ends if usage goes on as it did: by the function that
//! settles, so that free hours, tiers, commitments, minimums and credit are what they will be.
//!
//! What was used of the period so far, hour for hour and at the prices that it had, goes on until the
//! period ends. Reservations cost what they cost until then; a minimum and what a commitment lacks are due
//! if the period ends so. Nothing else is foreseen: no instance that comes, goes, or changes how it is sold.

use hourglass_pricing::settle::{Item, ItemKey, Rated, Source};
use hourglass_units::{Amount, Instant, Interval, Month, Quantity, TenantId};
use serde::Serialize;
use std::collections::BTreeMap;

use super::accounts::{Ground, Reach, items, rated};
use super::rejection::Rejection;
use super::state::State;

/// What a period comes to, before tax and rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Charges {
    /// GPU-hours, all rules of the contract applied.
    pub usage: Amount,
    /// Reservations, whether used or not.
    pub fees: Amount,
    /// What the period lacks to its minimum.
    pub minimum: Amount,
    /// What a commitment lacks that ends with the period.
    pub true_up: Amount,
    /// What credit pays of all that.
    pub credit: Amount,
    /// What is left.
    pub total: Amount,
}

/// Where a period stands, and where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Which.
    pub period: Month,
    /// Its time.
    pub interval: Interval,
    /// The time from which usage is carried on; `None` where none has passed.
    pub basis: Option<Interval>,
    /// As it stands.
    pub to_date: Charges,
    /// As it ends.
    pub projected: Charges,
}

/// How far a commitment is drawn down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burndown {
    /// Of which contract.
    pub contract: String,
    /// Over its whole term.
    pub amount: Amount,
    /// Drawn so far.
    pub drawn: Amount,
    /// Its first billing period.
    pub first: Month,
    /// Its last one; open where absent.
    pub last: Option<Month>,
    /// What was drawn in each period, in order.
    pub periods: Vec<(Month, Amount)>,
}

fn overflow<E>(_: E) -> Rejection {
    Rejection::AmountOverflow
}

fn find<'a>(state: &'a State, id: &TenantId) -> Result<&'a super::state::Tenant, Rejection> {
    state.tenants.get(id).ok_or_else(|| Rejection::TenantUnknown { tenant: id.clone() })
}

/// The period of a tenant that runs.
pub fn project(state: &State, id: &TenantId) -> Result<Projection, Rejection> {
    let tenant = find(state, id)?;
    let now = state.now;
    let period = state.calendars.of(id).containing(now);
    let interval = state.calendars.of(id).interval(period);
    // Who came within the period is not carried on from before it came.
    let since =
        if tenant.opened_at < now { interval.start().max(tenant.opened_at) } else { interval.start() };
    let basis = Interval::between(since, now);

    let ground = state.ground();
    let reach = Reach::all(&state.calendars, id, now);
    let to_date = items(ground, id, tenant, reach, &[]).map_err(overflow)?;
    let more = basis.map_or(Some(Vec::new()), |basis| carried_on(ground, id, period, basis, interval.end()));
    let more = more.ok_or(Rejection::AmountOverflow)?;
    let end = Reach { over: Some(period), elapsed: interval.end(), ..reach };
    let projected = items(ground, id, tenant, end, &more).map_err(overflow)?;
    Ok(Projection {
        period,
        interval,
        basis,
        to_date: charges(&to_date, period).ok_or(Rejection::AmountOverflow)?,
        projected: charges(&projected, period).ok_or(Rejection::AmountOverflow)?,
    })
}

/// The usage of the rest of a period, if it goes on as in `basis`. `None` where it cannot be counted.
fn carried_on<'a>(
    ground: Ground<'a>,
    id: &TenantId,
    period: Month,
    basis: Interval,
    end: Instant,
) -> Option<Vec<Rated<'a>>> {
    let Some(rest) = Interval::between(basis.end(), end) else { return Some(Vec::new()) };
    // Credits begin and end between segments.
    let mut segments: BTreeMap<Interval, i64> = BTreeMap::new();
    for (hour, part) in rest.by_hour() {
        let (_, segment) = ground.calendars.segment(id, hour.start());
        let sum = segments.entry(segment).or_default();
        *sum = sum.checked_add(part.milliseconds())?;
    }
    let elapsed = i128::from(basis.milliseconds());
    let mut more = Vec::new();
    for used in rated(ground, id, period).into_iter().filter(|it| it.period == period) {
        for (segment, ms) in &segments {
            let nanos =
                i128::from(used.quantity.nanos()).checked_mul(i128::from(*ms))?.checked_div(elapsed)?;
            let quantity = Quantity::from_nanos(i64::try_from(nanos).ok()?);
            more.push(Rated { segment: *segment, quantity, ..used });
        }
    }
    Some(more)
}

fn charges(items: &BTreeMap<ItemKey, Item>, period: Month) -> Option<Charges> {
    let mut charges = Charges::default();
    for (key, item) in items.iter().filter(|(key, _)| key.period == period) {
        let sum = match key.source {
            Source::Usage { .. } => &mut charges.usage,
            Source::Fee { .. } => &mut charges.fees,
            Source::Minimum => &mut charges.minimum,
            Source::TrueUp => &mut charges.true_up,
            Source::Credit { .. } => &mut charges.credit,
            Source::Drawdown => continue,
        };
        *sum = sum.checked_add(item.amount)?;
    }
    let Charges { usage, fees, minimum, true_up, credit, .. } = charges;
    let owed = usage.checked_add(fees)?.checked_add(minimum)?.checked_add(true_up)?;
    Some(Charges { total: owed.checked_sub(credit)?, ..charges })
}

/// The commitments of a tenant, those that ended too, in order of time.
pub fn burndowns(state: &State, id: &TenantId) -> Result<Vec<Burndown>, Rejection> {
    let tenant = find(state, id)?;
    let agreements = state.prices.agreements(id, state.calendars.of(id));
    let reach = Reach::all(&state.calendars, id, state.now);
    let items = items(state.ground(), id, tenant, reach, &[]).map_err(overflow)?;
    let mut found = Vec::new();
    for agreement in &agreements {
        let Some(commitment) = &agreement.terms.commitment else { continue };
        let holds =
            |period: Month| agreement.first <= period && agreement.last.is_none_or(|last| period <= last);
        let drawn = items.iter().filter(|(key, _)| key.source == Source::Drawdown && holds(key.period));
        let periods: Vec<(Month, Amount)> = drawn.map(|(key, item)| (key.period, item.amount)).collect();
        let drawn = periods.iter().try_fold(Amount::ZERO, |sum, (_, amount)| sum.checked_add(*amount));
        found.push(Burndown {
            contract: agreement.source.to_string(),
            amount: commitment.amount,
            drawn: drawn.ok_or(Rejection::AmountOverflow)?,
            first: agreement.first,
            last: agreement.last,
            periods,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
