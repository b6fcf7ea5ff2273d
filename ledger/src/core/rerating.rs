//! Prices of the past change: spot prices that usage was ahead of, and re-rating.
//!
//! Both measure the lines before and after, and post the differences: what was charged at the old
//! price is taken back and charged at the new one. A preview measures the same and posts nothing.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::settle::{OutOfRange, Rated};
use hourglass_pricing::{PriceTimeline, PurchaseModel, Rerating, Sku, SpotPool};
use hourglass_units::{
    Amount, Currency, Fabric, Hour, InstanceId, Instant, Interval, Month, Platform, Price, Quantity, TenantId,
};
use serde::Serialize;

use super::Inconsistent;
use super::accounts::{Reach, items};
use super::command::RerateDraft;
use super::decide;
use super::groups::{GroupIx, Rates};
use super::lifecycle;
use super::metering::{Charging, InstanceIx, LineKey, Measured, quantity};
use super::rejection::Rejection;
use super::state::State;

/// What a re-rating would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Lines that were compared.
    pub lines_compared: u64,
    /// Lines that would change.
    pub lines_changed: u64,
    /// Whose bill would change, or whose lines would.
    pub tenants: Vec<TenantChange>,
}

/// How the bill of a tenant would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Whose.
    pub tenant: TenantId,
    /// Of the amounts.
    pub currency: Currency,
    /// What it owes over all periods that would change, credit taken off.
    pub before: Amount,
    /// What it would owe.
    pub after: Amount,
    /// After less before.
    pub difference: Amount,
    /// The periods that would change.
    pub periods: Vec<PeriodChange>,
}

/// How a billing period would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeriodChange {
    /// Which.
    pub period: Month,
    /// Whether it has an invoice: then the difference is a correction on the next one.
    pub closed: bool,
    /// What is owed for it.
    pub before: Amount,
    /// What would be.
    pub after: Amount,
}

/// How a line would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineChange<'a> {
    /// Whose usage.
    pub instance: &'a InstanceId,
    /// Who pays.
    pub tenant: &'a TenantId,
    /// How it was sold.
    pub model: PurchaseModel,
    /// In which hour.
    #[serde(serialize_with = "as_text")]
    pub hour: Hour,
    /// At which price.
    pub price: Price,
    /// GPU-hours more, or fewer.
    pub quantity: Quantity,
    /// What that comes to.
    pub amount: Amount,
}

fn as_text<S: serde::Serializer>(hour: &Hour, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hour)
}

/// The instances that were in any of the groups, each once.
fn members(state: &State, groups: impl Iterator<Item = GroupIx>) -> BTreeSet<InstanceIx> {
    let groups = groups.filter_map(|group| state.groups.get(group));
    groups.flat_map(|group| group.members.iter().copied()).collect()
}

/// Sets what spot GPU-hours cost from an instant on. Usage that is ahead of it is billed anew.
pub(crate) fn set_spot(
    state: &mut State,
    (platform, fabric): (&Platform, Option<&Fabric>),
    currency: Currency,
    price: Price,
    from: Instant,
) -> Result<(), Inconsistent> {
    let region = state.cell.as_ref().map(|cell| cell.region.clone());
    let region = region.ok_or_else(|| Inconsistent::new("a price before the cell"))?;
    let sku = Sku { platform: platform.clone(), region, model: PurchaseModel::Spot };
    let pool = SpotPool { currency, sku, fabric: fabric.cloned() };
    let of_pool = state.groups.iter().filter(|(_, group)| group.spot_pool() == pool);
    let of_pool = members(state, of_pool.map(|(ix, _)| ix));
    let ahead = |ix: &InstanceIx| {
        let instance = state.instances.get(*ix)?;
        let reported = instance.reported.last().filter(|last| last.end() > from)?;
        let window = Interval::between(from, reported.end())?;
        Some((*ix, window, instance.measure(state.rates(), window)))
    };
    let before: Vec<(InstanceIx, Interval, Measured)> = of_pool.iter().filter_map(ahead).collect();
    state.prices.set_spot(pool, from, price);
    for ix in of_pool {
        if let Some(instance) = state.instances.get_mut(ix) {
            instance.look_again_from(from);
        }
    }
    for (ix, window, before) in before {
        let after = state.instances.get(ix).map(|it| it.measure(state.rates(), window)).unwrap_or_default();
        post(state, ix, &before, &after)?;
    }
    Ok(())
}

/// Replaces prices of the past, and bills the difference.
pub(crate) fn commit(state: &mut State, rerating: Rerating) -> Result<(), Inconsistent> {
    let (window, only) = (rerating.interval, rerating.tenant.clone());
    state.prices.rerate(rerating);
    let old = state.groups.reprice(&state.prices, only.as_ref());
    lifecycle::look_again_from(state, window.start());
    for ix in members(state, old.keys().copied()) {
        let Some(instance) = state.instances.get(ix) else { continue };
        let before = instance.measure(Rates { instead: Some(&old), ..state.rates() }, window);
        let after = instance.measure(state.rates(), window);
        if before != after {
            post(state, ix, &before, &after)?;
        }
    }
    Ok(())
}

fn post(state: &mut State, ix: InstanceIx, before: &Measured, after: &Measured) -> Result<(), Inconsistent> {
    let State { instances, groups, prices, calendars, pending, written_until, .. } = state;
    let mut charging = Charging { groups, prices, calendars, pending, written_until: *written_until };
    let instance = instances.get_mut(ix).ok_or_else(|| Inconsistent::new("an instance that is lost"))?;
    instance.post_differences(ix, before, after, &mut charging)
}

/// The groups whose prices a re-rating would change, and to what.
pub(crate) fn repriced(state: &State, rerating: &Rerating) -> BTreeMap<GroupIx, PriceTimeline> {
    let mut prices = state.prices.clone();
    prices.rerate(rerating.clone());
    state.groups.repriced(&prices, rerating.tenant.as_ref())
}

/// The closed period of a tenant that a re-rating would change, where there is one.
pub(crate) fn closed_period(
    state: &State,
    repriced: &BTreeMap<GroupIx, PriceTimeline>,
    window: Interval,
) -> Option<(TenantId, Month)> {
    repriced.iter().find_map(|(ix, new)| {
        let group = state.groups.get(*ix)?;
        let closed_until = state.tenants.get(&group.tenant)?.closed_until()?;
        let calendar = state.calendars.of(&group.tenant);
        let closed = group.buckets().iter().find(|bucket| {
            bucket.period <= closed_until
                && !bucket.charged.is_zero()
                && calendar
                    .interval(bucket.period)
                    .intersection(window)
                    .is_some_and(|part| differs(group, new, part))
        })?;
        Some((group.tenant.clone(), closed.period))
    })
}

/// Checks a re-rating, as for a preview: closed periods may be looked at.
pub fn check(state: &State, draft: &RerateDraft, now: Instant) -> Result<Rerating, Rejection> {
    decide::rerating_of(state, draft, now)
}

/// Whether prices of a group would differ anywhere in the window, and not only by whose word they hold.
fn differs(group: &super::groups::ChargeGroup, new: &PriceTimeline, window: Interval) -> bool {
    new.within(window).any(|step| {
        let part = step.interval.intersection(window);
        part.is_some_and(|part| group.prices.within(part).any(|old| old.price != step.price))
    })
}

/// Says what a re-rating would change, and hands each line that would change to `line`.
pub fn preview(
    state: &State,
    rerating: &Rerating,
    mut line: impl FnMut(LineChange<'_>),
) -> Result<Preview, Rejection> {
    let overflow = || Rejection::AmountOverflow;
    let new = repriced(state, rerating);
    let mut preview = Preview { lines_compared: 0, lines_changed: 0, tenants: Vec::new() };
    // By group, segment and price: what would be charged more, or less.
    let mut moved: BTreeMap<(GroupIx, Instant, Price), i64> = BTreeMap::new();
    for ix in members(state, new.keys().copied()) {
        let Some(instance) = state.instances.get(ix) else { continue };
        let before = instance.measure(state.rates(), rerating.interval);
        let after = instance.measure(Rates { instead: Some(&new), ..state.rates() }, rerating.interval);
        preview.lines_compared = preview.lines_compared.saturating_add(before.len() as u64);
        if before == after {
            continue;
        }
        let keys: BTreeSet<LineKey> = before.keys().chain(after.keys()).copied().collect();
        for key in keys {
            let measure = |lines: &Measured| {
                let milliseconds = lines.get(&key).copied().unwrap_or(0);
                quantity(milliseconds, instance.gpus).map_err(|_| overflow())
            };
            let difference = measure(&after)?.checked_sub(measure(&before)?).ok_or_else(overflow)?;
            if difference.is_zero() {
                continue;
            }
            let Some(group) = state.groups.get(key.group) else { continue };
            let (_, segment) = state.calendars.segment(&group.tenant, key.hour.start());
            let sum = moved.entry((key.group, segment.start(), key.price)).or_default();
            *sum = sum.checked_add(difference.nanos()).ok_or_else(overflow)?;
            preview.lines_changed = preview.lines_changed.saturating_add(1);
            line(LineChange {
                instance: &instance.id,
                tenant: &group.tenant,
                model: group.sku.model,
                hour: key.hour,
                price: key.price,
                quantity: difference,
                amount: key.price.times(difference),
            });
        }
    }
    let tenants: BTreeSet<&TenantId> =
        moved.keys().filter_map(|(group, ..)| state.groups.get(*group)).map(|group| &group.tenant).collect();
    for tenant in tenants {
        preview.tenants.push(tenant_change(state, tenant, &moved).map_err(|_| overflow())?);
    }
    Ok(preview)
}

/// How the bill of a tenant would change, by settling it with what would move.
fn tenant_change(
    state: &State,
    id: &TenantId,
    moved: &BTreeMap<(GroupIx, Instant, Price), i64>,
) -> Result<TenantChange, OutOfRange> {
    let tenant = state.tenants.get(id).ok_or(OutOfRange)?;
    let reach = Reach::all(&state.calendars, id, state.now);
    let before = by_period(&items(state.ground(), id, tenant, reach, &[])?)?;
    let mut more = Vec::new();
    for ((group, start, price), nanos) in moved {
        let Some(it) = state.groups.get(*group).filter(|group| group.tenant == *id) else { continue };
        let (period, segment) = state.calendars.segment(id, *start);
        let (project, sku) = (&it.project, &it.sku);
        let quantity = Quantity::from_nanos(*nanos);
        more.push(Rated { group: *group, project, sku, period, segment, price: *price, quantity });
    }
    let after = by_period(&items(state.ground(), id, tenant, reach, &more)?)?;
    let closed_until = tenant.closed_until();
    let mut change = TenantChange {
        tenant: id.clone(),
        currency: tenant.currency,
        before: Amount::ZERO,
        after: Amount::ZERO,
        difference: Amount::ZERO,
        periods: Vec::new(),
    };
    let periods: BTreeSet<Month> = before.keys().chain(after.keys()).copied().collect();
    for period in periods {
        let was = before.get(&period).copied().unwrap_or_default();
        let is = after.get(&period).copied().unwrap_or_default();
        change.before = change.before.checked_add(was).ok_or(OutOfRange)?;
        change.after = change.after.checked_add(is).ok_or(OutOfRange)?;
        if was != is {
            let closed = closed_until.is_some_and(|last| period <= last);
            change.periods.push(PeriodChange { period, closed, before: was, after: is });
        }
    }
    change.difference = change.after.checked_sub(change.before).ok_or(OutOfRange)?;
    Ok(change)
}

/// What is owed for each period, credit taken off.
fn by_period(
    items: &BTreeMap<hourglass_pricing::settle::ItemKey, hourglass_pricing::settle::Item>,
) -> Result<BTreeMap<Month, Amount>, OutOfRange> {
    let mut periods: BTreeMap<Month, Vec<_>> = BTreeMap::new();
    for item in items {
        periods.entry(item.0.period).or_default().push(item);
    }
    let sum = |(period, items): (Month, Vec<_>)| {
        Ok((period, hourglass_pricing::settle::owed(items).ok_or(OutOfRange)?))
    };
    periods.into_iter().map(sum).collect()
}
