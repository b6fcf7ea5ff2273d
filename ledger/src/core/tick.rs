//! Time passed: trouble earns credit, what was priced is posted, what was paid ahead is earned, credit
//! expires, and the lines of the hours that are over are written.

use std::collections::BTreeMap;

use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Hour, Instant, Interval, Month, Price, Quantity, TenantId};

use super::Inconsistent;
use super::accounts::{Booking, Ground, Reach, accrue, close_credits, transfer};
use super::book::{Account, TransferCode};
use super::command::Position;
use super::credits::{CreditKind, Grant};
use super::grants::grant;
use super::lifecycle::currency_of;
use super::market;
use super::metering::{InstanceIx, LineDifference, LineKey, PendingLines};
use super::quotas;
use super::reservations::ReservationIx;
use super::rows::{ChargeRow, Rows, UnusedRow};
use super::sla;
use super::state::State;

/// Most lines that one `Tick` writes; the next ones write the others. A commit must not take so long that
/// usage waits for it, or the lease ends.
pub const LINES_A_TICK_MAX: usize = 20_000;

/// Quantities of reserved hours that rows of this `Tick` use.
type UsedHours = BTreeMap<(ReservationIx, Hour), Quantity>;

/// Does what time brings about.
pub(crate) fn tick(
    state: &mut State,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    credit_by_rule(state, position, at, rows)?;
    settle_all(state, Booking { position, at }, rows)?;
    release(state, at, rows)?;
    let grace_ms = state.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
    let State { tenants, book, .. } = &mut *state;
    for (id, tenant) in tenants.iter_mut().filter(|(_, tenant)| !tenant.credits.is_empty()) {
        close_credits(book, (id, tenant), grace_ms, at, rows)?;
    }
    quotas::reservations_ended(state, at)?;
    quotas::adopt(state)?;
    quotas::review_figures(state, at)?;
    quotas::review_budgets(state, at)?;
    market::pass(&mut state.market, at);
    let used = write_lines(state, at, rows)?;
    write_unused(state, at, used, rows)
}

/// Grants the credits that rules give: for trouble, and to owners who lent what they had reserved.
fn credit_by_rule(
    state: &mut State,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let for_trouble = sla::check(state, at)?.into_iter().map(|earned| (CreditKind::Sla, earned));
    let for_loans = market::check_yields(state, at)?.into_iter().map(|earned| (CreditKind::Yield, earned));
    for (kind, earned) in for_trouble.chain(for_loans) {
        let tenant = earned.tenant.clone();
        grant(state, &tenant, Grant::automatic(kind, earned, position), at, rows)?;
    }
    Ok(())
}

/// Posts what tenants owe and the book does not hold yet.
fn settle_all(state: &mut State, booking: Booking, rows: &mut impl Rows) -> Result<(), Inconsistent> {
    let wanted = state.to_settle(None, booking.at);
    let wanted: Vec<(TenantId, Month)> =
        wanted.into_iter().map(|(tenant, from)| (tenant.clone(), from)).collect();
    state.groups.take_changed(None);
    state.touched.clear();
    state.settled_at = booking.at;
    let State { tenants, groups, prices, calendars, reservations, book, .. } = state;
    let ground = Ground { groups, prices, calendars, reservations };
    for (id, from) in wanted {
        let Some(tenant) = tenants.get_mut(&id) else { continue };
        let reach = Reach::from(from, calendars, &id, booking.at);
        accrue(ground, book, (&id, tenant), reach, booking, rows)?;
    }
    Ok(())
}

/// Earns what was paid up front for hours that are over, evenly.
fn release(state: &mut State, at: Instant, rows: &mut impl Rows) -> Result<(), Inconsistent> {
    let overflow = || Inconsistent::new("deferred revenue out of range");
    let State { tenants, reservations, book, .. } = state;
    for (_, held) in reservations.iter_mut() {
        if !held.is_upfront() || held.is_over(at) {
            continue;
        }
        let earned = held.earned(at).ok_or_else(overflow)?;
        let more = earned.checked_sub(held.released).ok_or_else(overflow)?;
        let currency = tenants.get(&held.tenant).map(|tenant| tenant.currency).ok_or_else(overflow)?;
        if more > Amount::ZERO {
            held.released = earned;
            let revenue =
                Account::Revenue(held.reservation.draft().platform.clone(), PurchaseModel::Reserved);
            let accounts = (Account::Deferred(held.tenant.clone()), revenue);
            book.post(transfer(&held.tenant, accounts, (more, currency), TransferCode::Release, at), rows)?;
        }
    }
    Ok(())
}

/// Writes lines of hours that are over, and says which reserved hours they use.
fn write_lines(state: &mut State, at: Instant, rows: &mut impl Rows) -> Result<UsedHours, Inconsistent> {
    let open = Hour::containing(at);
    if state.written_until < open {
        state.written_until = open;
        for (ix, instance) in state.instances.iter_mut() {
            if let Some(line) = instance.growing.take_if(|line| line.key.hour < open) {
                set_aside(&mut state.pending, (ix, line.key), line.unwritten)?;
            }
        }
    }
    let closed = state.pending.extract_if(.., |(_, key), _| key.hour < open);
    let closed: Vec<_> = closed.take(LINES_A_TICK_MAX).collect();
    let mut used = UsedHours::new();
    for ((ix, key), difference) in closed {
        if difference.is_zero() {
            continue;
        }
        let row = charge_row(state, ix, key, difference)?;
        let group = state.groups.get(key.group);
        if let Some(reservation) = group.and_then(|group| group.reservation) {
            let sum = used.entry((reservation, key.hour)).or_default();
            *sum = sum
                .checked_add(difference.quantity)
                .ok_or_else(|| Inconsistent::new("hours out of range"))?;
        }
        rows.charge(row);
    }
    Ok(used)
}

fn charge_row(
    state: &State,
    ix: InstanceIx,
    key: LineKey,
    difference: LineDifference,
) -> Result<ChargeRow, Inconsistent> {
    let lost = || Inconsistent::new("a line without an instance");
    let instance = state.instances.get(ix).ok_or_else(lost)?;
    let group = state.groups.get(key.group).ok_or_else(lost)?;
    let held = group.reservation.and_then(|ix| state.reservations.get(ix));
    let effective_price = match held {
        None => key.price,
        Some(held) => {
            let nanos = key.price.nanos().saturating_add(held.reservation.committed_price().nanos());
            Price::from_nanos(nanos).map_err(|error| Inconsistent::new(error.to_string()))?
        }
    };
    Ok(ChargeRow {
        tenant: group.tenant.clone(),
        project: group.project.clone(),
        instance: instance.id.clone(),
        platform: group.sku.platform.clone(),
        region: group.sku.region.clone(),
        model: group.sku.model,
        reservation: held.map(|held| held.reservation.draft().reservation.clone()),
        price: key.price,
        effective_price,
        hour: key.hour,
        gpus: instance.gpus,
        milliseconds: difference.milliseconds,
        quantity: difference.quantity,
        amount: key.price.times(difference.quantity),
        currency: group.currency,
    })
}

/// P-2: writes the unused hours of reservations that are over, and what late usage changes of earlier
/// ones.
fn write_unused(
    state: &mut State,
    at: Instant,
    mut used: UsedHours,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let overflow = || Inconsistent::new("reserved hours out of range");
    let open = Hour::containing(at);
    let mut unused: BTreeMap<(ReservationIx, Hour), (Quantity, Amount)> = BTreeMap::new();
    for (ix, held) in state.reservations.iter_mut() {
        let interval = held.reservation.interval();
        let until = interval.end().min(open.start());
        let closed = Interval::between(held.written_until.start(), until);
        for (hour, part) in closed.into_iter().flat_map(Interval::by_hour) {
            let taken = used.remove(&(ix, hour)).unwrap_or_default();
            let quantity = held.reservation.quantity_within(part).checked_sub(taken).ok_or_else(overflow)?;
            let last = part.end() == interval.end();
            let remainder = if last { held.reservation.remainder() } else { Amount::ZERO };
            unused.insert((ix, hour), (quantity, remainder));
        }
        if let Some(closed) = closed {
            held.written_until = Hour::containing(closed.end());
        }
    }
    for (key, taken) in used {
        let back = Quantity::ZERO.checked_sub(taken).ok_or_else(overflow)?;
        unused.insert(key, (back, Amount::ZERO));
    }
    for ((ix, hour), (quantity, remainder)) in unused {
        if quantity.is_zero() && remainder.is_zero() {
            continue;
        }
        let held = state.reservations.get(ix).ok_or_else(overflow)?;
        let draft = held.reservation.draft();
        let effective_price = held.reservation.committed_price();
        let cost = effective_price.times(quantity).checked_add(remainder).ok_or_else(overflow)?;
        rows.unused(UnusedRow {
            tenant: held.tenant.clone(),
            project: draft.project.clone(),
            reservation: draft.reservation.clone(),
            platform: draft.platform.clone(),
            region: state.cell.as_ref().map(|cell| cell.region.clone()).ok_or_else(overflow)?,
            hour,
            quantity,
            effective_price,
            effective_cost: cost,
            currency: currency_of(state, &held.tenant).ok_or_else(overflow)?,
        });
    }
    Ok(())
}

fn set_aside(
    pending: &mut PendingLines,
    key: (InstanceIx, LineKey),
    difference: LineDifference,
) -> Result<(), Inconsistent> {
    let sum = pending.entry(key).or_default();
    *sum = sum.checked_add(difference).ok_or_else(|| Inconsistent::new("a line out of range"))?;
    Ok(())
}

impl State {
    /// Until when a tenant's billing periods are closed; `None` where none is.
    pub(crate) fn closed_end(&self, tenant: &TenantId) -> Option<Instant> {
        let closed = self.tenants.get(tenant)?.closed_until()?;
        Some(self.calendars.of(tenant).interval(closed).end())
    }
}
