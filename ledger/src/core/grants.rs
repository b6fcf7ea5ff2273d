//! Giving credit: the grant, its transfer, and the cuts that it makes in billing periods.

use std::collections::BTreeMap;

use hourglass_units::{INSTANT_MAX, Instant, Interval, Price, Quantity, TenantId};

use super::Inconsistent;
use super::accounts::transfer;
use super::apply::touch;
use super::book::TransferCode;
use super::credits::Grant;
use super::groups::GroupIx;
use super::metering::quantity;
use super::rows::Rows;
use super::state::State;

/// Gives credit. It pays from the next `Tick` on, also for usage that is rated already.
pub(crate) fn grant(
    state: &mut State,
    id: &TenantId,
    credit: Grant,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    for edge in [credit.valid.start(), credit.valid.end()] {
        cut(state, id, edge)?;
    }
    let first = state.calendars.of(id).containing(credit.valid.start());
    touch(state, id, first);
    let unknown = || Inconsistent::new("credit of an unknown tenant");
    let tenant = state.tenants.get_mut(id).ok_or_else(unknown)?;
    let accounts = (credit.kind.funding(), credit.kind.account(id));
    let amount = (credit.amount, tenant.currency);
    state.book.post(transfer(id, accounts, amount, TransferCode::CreditGrant, at), rows)?;
    tenant.credits.push(credit);
    Ok(())
}

/// Cuts the tenant's periods at an instant, and what was charged in them.
fn cut(state: &mut State, id: &TenantId, at: Instant) -> Result<(), Inconsistent> {
    if at == INSTANT_MAX || !state.calendars.cut(id, at) {
        return Ok(());
    }
    let overflow = || Inconsistent::new("a charge out of range");
    let spanning = state.groups.of_tenant(id).filter(|(_, group)| group.spans(at));
    let spanning: Vec<GroupIx> = spanning.map(|(ix, _)| ix).collect();
    for ix in spanning {
        let before = charged_before(state, ix, at)?;
        let group = state.groups.get_mut(ix).ok_or_else(overflow)?;
        group.split(at, &before).ok_or_else(overflow)?;
    }
    Ok(())
}

/// What was charged to a group in the segment that spans the instant, before it, by price.
fn charged_before(
    state: &State,
    ix: GroupIx,
    at: Instant,
) -> Result<BTreeMap<Price, Quantity>, Inconsistent> {
    let mut sums: BTreeMap<Price, Quantity> = BTreeMap::new();
    let Some(group) = state.groups.get(ix) else { return Ok(sums) };
    let spanning = group.buckets().iter().map(|bucket| bucket.segment);
    let starts = spanning.filter(|segment| segment.start() < at && at < segment.end()).map(Interval::start);
    let Some(window) = starts.min().and_then(|start| Interval::between(start, at)) else { return Ok(sums) };
    for member in &group.members {
        let Some(instance) = state.instances.get(*member) else { continue };
        for (key, milliseconds) in instance.measure(state.rates(), window) {
            if key.group == ix {
                let sum = sums.entry(key.price).or_default();
                let more = quantity(milliseconds, instance.gpus)?;
                *sum = sum.checked_add(more).ok_or_else(|| Inconsistent::new("a charge out of range"))?;
            }
        }
    }
    Ok(sums)
}
