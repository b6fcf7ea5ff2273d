//! Decisions about what a pool has and what of it is promised.

use hourglass_capacity::auction::SUPPLY_MAX;
use hourglass_capacity::calendar::{Allowance, Reservation as Promised, ReservationName};
use hourglass_capacity::nodes::{CAPACITY_INTERVALS_MAX, Node, NodeState};
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::steps::Steps;
use hourglass_capacity::supply::{CLAIMS_MAX, Claim, Offer};
use hourglass_pricing::reservation::Reservation;
use hourglass_units::{Instant, Interval, NodeId, ReservationId, TenantId};

use super::Pool;
use crate::core::decide::find_tenant;
use crate::core::market::command::{CapacitySource, MarketEvent, SupplyCommand};
use crate::core::market::{Market, MarketRejection};
use crate::core::rejection::Rejection;
use crate::core::state::{Cell, State};

type Result<T> = std::result::Result<T, Rejection>;

/// Decides.
pub(crate) fn decide(
    state: &State,
    cell: &Cell,
    command: &SupplyCommand,
    now: Instant,
) -> Result<MarketEvent> {
    match command {
        SupplyCommand::SetNode { pool, node, to } => set_node(&state.market, pool, node, *to, now),
        SupplyCommand::ReadCapacity { pool, intervals } => read_capacity(&state.market, pool, intervals, now),
        SupplyCommand::Lend { tenant, reservation, offer } => {
            let (pool, name) = find(state, cell, tenant, reservation, now)?;
            lend(state, pool, &name, *offer)?;
            Ok(MarketEvent::Lent { pool: pool.clone(), name, offer: *offer })
        }
        SupplyCommand::Claim { tenant, reservation, claim } => {
            let (pool, name) = find(state, cell, tenant, reservation, now)?;
            ask_back(state, pool, &name, *claim, now)?;
            Ok(MarketEvent::AskedBack { pool: pool.clone(), name, claim: *claim })
        }
        SupplyCommand::Assign { tenant, reservation, allowances } => {
            let (pool, name) = find(state, cell, tenant, reservation, now)?;
            assign(state, pool, &name, allowances)?;
            Ok(MarketEvent::Assigned { pool: pool.clone(), name, allowances: allowances.clone() })
        }
    }
}

fn set_node(
    market: &Market,
    name: &PoolName,
    node: &NodeId,
    to: Option<Node>,
    now: Instant,
) -> Result<MarketEvent> {
    let pool = market.pools.get(name);
    let pool = pool.ok_or_else(|| MarketRejection::PoolUnknown { pool: name.clone() })?;
    let nodes = pool.stock.nodes();
    nodes.check(node, to).map_err(MarketRejection::Node)?;
    if let Some(Node { state: NodeState::Maintenance(window), .. }) = to
        && window.end() <= now
    {
        return Err(MarketRejection::MaintenanceOver { node: node.clone() }.into());
    }
    let before = nodes.get(node).map_or(0, |node| node.gpus);
    let of_nodes = nodes.gpus().saturating_sub(before).saturating_add(to.map_or(0, |node| node.gpus));
    let gpus = pool.gpus(now);
    if to.is_some() && of_nodes > gpus {
        let pool = name.clone();
        return Err(MarketRejection::NodesExceedPool { pool, of_nodes, gpus }.into());
    }
    Ok(MarketEvent::NodeSet { pool: name.clone(), node: node.clone(), to })
}

/// What the cloud says, where it is news.
fn read_capacity(
    market: &Market,
    name: &PoolName,
    intervals: &[(Interval, u64)],
    now: Instant,
) -> Result<MarketEvent> {
    let pool = market.pools.get(name);
    let pool = pool.ok_or_else(|| MarketRejection::PoolUnknown { pool: name.clone() })?;
    if pool.terms.capacity == CapacitySource::Operator {
        return Err(MarketRejection::CapacityOfOperator { pool: name.clone() }.into());
    }
    let invalid = || MarketRejection::CapacityInvalid { pool: name.clone() };
    if intervals.len() > CAPACITY_INTERVALS_MAX || intervals.iter().any(|(_, gpus)| *gpus > SUPPLY_MAX) {
        return Err(invalid().into());
    }
    let rest = Interval::from(now).ok_or_else(invalid)?;
    let part = |(interval, gpus): &(Interval, u64)| Some((interval.intersection(rest)?, *gpus));
    let intervals: Vec<(Interval, u64)> = intervals.iter().filter_map(part).collect();
    let said = Steps::sum(intervals.iter().copied());
    if said.peak(rest) > SUPPLY_MAX {
        return Err(invalid().into());
    }
    if said == pool.stock.owned().beyond(&Steps::default(), now) {
        return Err(MarketRejection::NothingNew.into());
    }
    Ok(MarketEvent::CapacityRead { pool: name.clone(), intervals })
}

/// A reservation that is not over, and the pool in which its GPUs are kept free.
fn find<'a>(
    state: &'a State,
    cell: &Cell,
    tenant: &TenantId,
    reservation: &ReservationId,
    now: Instant,
) -> Result<(&'a PoolName, ReservationName)> {
    find_tenant(state, tenant)?;
    let unknown =
        || Rejection::ReservationUnknown { tenant: tenant.clone(), reservation: reservation.clone() };
    let held = state.reservations.find(reservation).map(|(_, held)| held);
    let held = held.filter(|held| held.tenant == *tenant).ok_or_else(unknown)?;
    let draft = held.reservation.draft();
    let without = || MarketRejection::WithoutFabric { reservation: reservation.clone() };
    let fabric = draft.fabric.as_ref().ok_or_else(without)?;
    if held.reservation.interval().end() <= now {
        return Err(MarketRejection::ReservationOver { reservation: reservation.clone() }.into());
    }
    let name =
        PoolName { region: cell.region.clone(), platform: draft.platform.clone(), fabric: fabric.clone() };
    let found = state.market.pools.get_key_value(&name);
    let (pool, _) = found.ok_or(MarketRejection::PoolUnknown { pool: name })?;
    Ok((pool, super::seats::reservation_name(tenant, reservation)))
}

fn stock<'a>(state: &'a State, pool: &PoolName) -> Result<&'a Pool> {
    let found = state.market.pools.get(pool);
    Ok(found.ok_or_else(|| MarketRejection::PoolUnknown { pool: pool.clone() })?)
}

fn lend(state: &State, pool: &PoolName, name: &ReservationName, offer: Option<Offer>) -> Result<()> {
    let found = stock(state, pool)?;
    let account = find_tenant(state, &name.tenant)?;
    if offer.is_none() && found.stock.loans().get(name).is_none() {
        return Err(MarketRejection::NotLent { reservation: name.reservation.clone() }.into());
    }
    // What it earns is paid in the currency of the pool.
    if found.terms.currency != account.currency {
        let (pool, pool_currency) = (pool.clone(), found.terms.currency);
        return Err(
            MarketRejection::CurrencyDiffers { pool, pool_currency, currency: account.currency }.into()
        );
    }
    Ok(())
}

fn ask_back(
    state: &State,
    pool: &PoolName,
    name: &ReservationName,
    claim: Claim,
    now: Instant,
) -> Result<()> {
    let loan = stock(state, pool)?.stock.loans().get(name);
    let loan = loan.ok_or_else(|| MarketRejection::NotLent { reservation: name.reservation.clone() })?;
    if claim.interval.end() <= now || claim.gpus == 0 {
        return Err(MarketRejection::ClaimOfNothing.into());
    }
    let open = loan.claims.iter().filter(|claim| claim.interval.end() > now).count();
    if open >= CLAIMS_MAX {
        return Err(MarketRejection::ClaimsFull { reservation: name.reservation.clone() }.into());
    }
    Ok(())
}

fn assign(state: &State, pool: &PoolName, name: &ReservationName, allowances: &[Allowance]) -> Result<()> {
    let known = stock(state, pool)?.stock.calendar().get(name);
    let unknown = || Rejection::ReservationUnknown {
        tenant: name.tenant.clone(),
        reservation: name.reservation.clone(),
    };
    let known = known.ok_or_else(unknown)?.clone();
    let _assigned: Promised = known.assigned(allowances.to_vec()).map_err(MarketRejection::Allowances)?;
    Ok(())
}

/// C-1: whether the pool of a reservation has room for it, where it names a fabric.
pub(crate) fn check_reservation(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    reservation: &Reservation,
    now: Instant,
) -> Result<()> {
    let draft = reservation.draft();
    let Some(fabric) = &draft.fabric else { return Ok(()) };
    let (region, platform) = (cell.region.clone(), draft.platform.clone());
    let name = PoolName { region, platform, fabric: fabric.clone() };
    let pool = stock(state, &name)?;
    let calendar = pool.stock.calendar();
    // What has passed need not be there any more.
    let interval = reservation.interval();
    let rest = Interval::between(interval.start().max(now), interval.end()).unwrap_or(interval);
    let gpus = u64::from(draft.gpus);
    let in_calendar = Promised::new(gpus, rest).map_err(MarketRejection::Allowances)?;
    let id = super::seats::reservation_name(tenant, &draft.reservation);
    let check = calendar.check(&pool.for_reservations(now), &id, &in_calendar);
    Ok(check.map_err(|refusal| MarketRejection::Calendar(Box::new(refusal)))?)
}
