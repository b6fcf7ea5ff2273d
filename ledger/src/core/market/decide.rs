//! Decisions about pools and bids: every check, before anything is written.

use std::collections::BTreeSet;

use hourglass_capacity::auction::{
    BIDS_MAX, BookError, GPUS_PER_UNIT_MAX, POOLS_MAX, POOLS_PER_BID_MAX, SUPPLY_MAX, UNITS_MAX,
};
use hourglass_capacity::lifecycle::{Fact, Finding, Input, Lifecycle, Listing, reconcile};
use hourglass_capacity::pool::PoolName;
use hourglass_pricing::{PurchaseModel, Sku};
use hourglass_units::{BidId, InstanceId, Instant, Percent, TenantId};

use super::command::{BidChange, BidDraft, Listed, MarketCommand, MarketEvent, PoolTerms, Stop};
use super::rejection::MarketRejection;
use super::{
    BIDS_PER_TENANT_MAX, Bid, DRAIN_MS_MAX, NOTICE_MS_MAX, NOTICE_MS_MIN, Pool, Unit, clear, supply,
};
use crate::core::decide::{check_mode_order, check_text, find_tenant};
use crate::core::quotas::{Cause, LISTING_MAX, Target};
use crate::core::rejection::Rejection;
use crate::core::state::{Cell, State};

type Result<T> = std::result::Result<T, Rejection>;

/// Decides.
pub(crate) fn decide(
    state: &State,
    cell: &Cell,
    command: &MarketCommand,
    now: Instant,
) -> Result<MarketEvent> {
    Ok(match command {
        MarketCommand::SetPool { pool, terms } => set_pool(state, cell, pool, terms)?,
        MarketCommand::SetMargin { margin } => MarketEvent::MarginSet { margin: *margin },
        MarketCommand::PlaceBid { tenant, bid } => place(state, cell, tenant, bid, now)?,
        MarketCommand::UpdateBid { tenant, bid, change } => update(state, tenant, bid, change, now)?,
        MarketCommand::CancelBid { tenant, bid } => {
            let (number, found) = find(state, tenant, bid)?;
            let stops = stops_of_owner(state, found, 0, now);
            MarketEvent::BidCancelled { number, stops }
        }
        MarketCommand::Report { instance, fact } => report(state, instance, fact, now)?,
        MarketCommand::List { listing } => list(state, listing, now)?,
        MarketCommand::Suspend { tenant, reason } => suspend(state, tenant, reason, now)?,
        MarketCommand::Resume { tenant } => {
            find_tenant(state, tenant)?;
            if !state.market.suspended.contains_key(tenant) {
                return Err(MarketRejection::NotSuspended { tenant: tenant.clone() }.into());
            }
            MarketEvent::Resumed { tenant: tenant.clone() }
        }
        MarketCommand::Supply(command) => supply::decide(state, cell, command, now)?,
        MarketCommand::Clear { trigger } => {
            MarketEvent::Cleared(Box::new(clear::clear(state, *trigger, now)?))
        }
    })
}

fn set_pool(state: &State, cell: &Cell, pool: &PoolName, terms: &PoolTerms) -> Result<MarketEvent> {
    if pool.region != cell.region {
        let (pool, region) = (pool.clone(), cell.region.clone());
        return Err(MarketRejection::PoolElsewhere { pool, region }.into());
    }
    let market = &state.market;
    match market.pools.get(pool) {
        None if market.pools.len() >= POOLS_MAX => return Err(MarketRejection::PoolsFull.into()),
        Some(known)
            if known.terms.currency != terms.currency
                && market.bids.values().any(|bid| bid.draft.pools.contains(pool)) =>
        {
            let (pool, currency) = (pool.clone(), known.terms.currency);
            return Err(MarketRejection::PoolCurrencyFixed { pool, currency }.into());
        }
        _ => {}
    }
    // A call that is made again must be the same call.
    let lives = |known: &Pool| known.terms.backend != terms.backend && known.taken > 0;
    if market.pools.get(pool).is_some_and(lives) {
        return Err(MarketRejection::BackendFixed { pool: pool.clone() }.into());
    }
    check_notice(terms.notice_ms)?;
    if !(0..=DRAIN_MS_MAX).contains(&terms.drain_ms) || terms.look_ahead_ms.is_some_and(|ms| ms < 0) {
        return Err(MarketRejection::DrainOutOfRange.into());
    }
    if terms.owner_share > Percent::WHOLE {
        return Err(MarketRejection::OwnerShareAboveWhole.into());
    }
    if terms.gpus > SUPPLY_MAX {
        let (name, supply) = (pool.clone(), terms.gpus);
        return Err(MarketRejection::Bid(BookError::Supply { name, supply }).into());
    }
    Ok(MarketEvent::PoolSet { pool: pool.clone(), terms: terms.clone() })
}

fn check_notice(notice_ms: i64) -> Result<()> {
    if (NOTICE_MS_MIN..=NOTICE_MS_MAX).contains(&notice_ms) {
        return Ok(());
    }
    Err(MarketRejection::NoticeOutOfRange.into())
}

fn find<'a>(state: &'a State, tenant: &TenantId, name: &BidId) -> Result<(u64, &'a Bid)> {
    find_tenant(state, tenant)?;
    match state.market.bid(tenant, name) {
        None => Err(MarketRejection::BidUnknown { bid: name.clone() }.into()),
        Some((_, bid)) if bid.cancelled => Err(MarketRejection::BidCancelled { bid: name.clone() }.into()),
        Some(found) => Ok(found),
    }
}

fn place(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    draft: &BidDraft,
    now: Instant,
) -> Result<MarketEvent> {
    let account = find_tenant(state, tenant)?;
    check_not_suspended(state, tenant)?;
    let market = &state.market;
    let own = market.by_name.get(tenant);
    if own.is_some_and(|own| own.contains_key(&draft.bid)) {
        return Err(MarketRejection::BidExists { bid: draft.bid.clone() }.into());
    }
    if market.bids.len() >= BIDS_MAX || own.is_some_and(|own| own.len() >= BIDS_PER_TENANT_MAX) {
        return Err(MarketRejection::BidsFull.into());
    }
    check_form(draft, state.position.next().number())?;
    let mut supply = 0;
    for name in &draft.pools {
        let unknown = || MarketRejection::PoolUnknown { pool: name.clone() };
        let pool = market.pools.get(name).ok_or_else(unknown)?;
        let terms = &pool.terms;
        if terms.currency != account.currency {
            let (pool, pool_currency, currency) = (name.clone(), terms.currency, account.currency);
            return Err(MarketRejection::CurrencyDiffers { pool, pool_currency, currency }.into());
        }
        let (platform, region) = (name.platform.clone(), cell.region.clone());
        let sku = Sku { platform, region, model: PurchaseModel::Spot };
        // The list price holds until the pool has one.
        let priced = state.prices.timeline(tenant, account.currency, &sku).priced_from();
        if priced.is_none_or(|priced| priced > now) {
            return Err(Rejection::Unpriced { sku, currency: account.currency, at: now });
        }
        supply = supply.max(pool.most(now));
    }
    let gpus = u64::from(draft.gpus_per_unit).saturating_mul(u64::from(draft.min_units));
    if gpus > supply {
        return Err(MarketRejection::AboveSupply { gpus, supply }.into());
    }
    draft.notice_ms.map_or(Ok(()), check_notice)?;
    check_expiry(draft.expires_at, now)?;
    Ok(MarketEvent::BidPlaced { tenant: tenant.clone(), bid: draft.clone() })
}

/// What is wrong with a bid whatever the pools are.
fn check_form(draft: &BidDraft, number: u64) -> Result<()> {
    let count = draft.pools.len();
    if count == 0 || count > POOLS_PER_BID_MAX {
        return Err(MarketRejection::Bid(BookError::PoolCount { number, count }).into());
    }
    let twice =
        draft.pools.iter().enumerate().find(|(at, pool)| draft.pools.iter().take(*at).any(|it| it == *pool));
    if let Some((_, pool)) = twice {
        return Err(MarketRejection::PoolTwice { pool: pool.clone() }.into());
    }
    if draft.gpus_per_unit == 0 || draft.gpus_per_unit > GPUS_PER_UNIT_MAX {
        let gpus = draft.gpus_per_unit;
        return Err(MarketRejection::Bid(BookError::UnitSize { number, gpus }).into());
    }
    let (min, max) = (draft.min_units, draft.max_units);
    if min == 0 || min > max || max > UNITS_MAX {
        return Err(MarketRejection::Bid(BookError::Units { number, min, max }).into());
    }
    if draft.limit.nanos() == 0 {
        return Err(MarketRejection::LimitZero.into());
    }
    Ok(())
}

/// What a tenant runs is told to stop, on demand and spot; what it has reserved is still its own, and paid for.
fn suspend(state: &State, tenant: &TenantId, reason: &str, now: Instant) -> Result<MarketEvent> {
    find_tenant(state, tenant)?;
    check_text("the reason", reason)?;
    if state.market.suspended.contains_key(tenant) {
        return Err(MarketRejection::Suspended { tenant: tenant.clone() }.into());
    }
    let of_tenant = state.groups.of_tenant(tenant).flat_map(|(_, group)| group.members.iter().copied());
    let members: BTreeSet<_> = of_tenant.collect();
    let mut stops = Vec::new();
    for instance in members.into_iter().filter_map(|ix| state.instances.get(ix)) {
        let is_told = state.quotas.preemption(&Target::Instance(instance.id.clone())).is_some();
        if instance.holding.is_none() || is_told {
            continue;
        }
        stops.push(Stop {
            instance: instance.id.clone(),
            cause: Cause::Suspension,
            by: None,
            reclaim: None,
            deadline: now.saturating_add_ms(NOTICE_MS_MIN),
        });
    }
    Ok(MarketEvent::Suspended { tenant: tenant.clone(), reason: reason.to_owned(), stops })
}

/// Whether a tenant may start anything.
pub(crate) fn check_not_suspended(state: &State, tenant: &TenantId) -> Result<()> {
    match state.market.suspended.get(tenant) {
        None => Ok(()),
        Some(_) => Err(MarketRejection::Suspended { tenant: tenant.clone() }.into()),
    }
}

fn check_expiry(expires_at: Option<Instant>, now: Instant) -> Result<()> {
    if expires_at.is_some_and(|end| end <= now) {
        return Err(MarketRejection::ExpiresInThePast.into());
    }
    Ok(())
}

fn update(
    state: &State,
    tenant: &TenantId,
    name: &BidId,
    change: &BidChange,
    now: Instant,
) -> Result<MarketEvent> {
    let (number, bid) = find(state, tenant, name)?;
    let changed = bid.changed(change);
    check_form(&changed, number)?;
    check_expiry(change.expires_at, now)?;
    let held = bid.held.as_ref().map_or(0, |(_, units)| *units);
    if held > 0 && changed.min_units > held {
        return Err(MarketRejection::GangRuns { held }.into());
    }
    if change.limit.is_some() {
        for (_, instance) in bid.live(&state.quotas, &state.instances) {
            check_mode_change(state, instance, now)?;
        }
    }
    let stops = stops_of_owner(state, bid, changed.max_units, now);
    Ok(MarketEvent::BidUpdated { number, change: *change, stops })
}

/// What a bid won is sold as the bid says, until it has stopped.
pub(crate) fn check_not_a_unit(state: &State, instance: &InstanceId) -> Result<()> {
    let unit = state.instances.find(instance.as_str()).and_then(|ix| state.market.units.get(&ix));
    match unit.and_then(|Unit { number, .. }| state.market.bids.get(number)) {
        None => Ok(()),
        Some(bid) => {
            let (instance, bid) = (instance.clone(), bid.draft.bid.clone());
            Err(MarketRejection::IsAUnit { instance, bid }.into())
        }
    }
}

/// What this cell drives starts and stops by what the cloud says of it, and by nobody's word.
pub(crate) fn check_not_driven(state: &State, instance: &InstanceId) -> Result<()> {
    let ix = state.instances.find(instance.as_str());
    match ix.and_then(|ix| state.market.lives.get(&ix)) {
        None => Ok(()),
        Some(_) => check_not_a_unit(state, instance),
    }
}

fn check_mode_change(state: &State, instance: &InstanceId, now: Instant) -> Result<()> {
    state.instance(instance.as_str()).map_or(Ok(()), |view| check_mode_order(view, now))
}

/// What the driver learnt, where it changes something. A call that is not due is refused: the driver must not
/// make it.
fn report(state: &State, instance: &InstanceId, fact: &Fact, now: Instant) -> Result<MarketEvent> {
    let ix = state.instances.find(instance.as_str());
    let life = ix.and_then(|ix| state.market.lives.get(&ix));
    let life = life.ok_or_else(|| MarketRejection::NoLife { instance: instance.clone() })?;
    let next = life.cycle.on(&Input::Fact(fact.clone()), now).map_err(MarketRejection::Life)?.next;
    if next == life.cycle {
        return Err(MarketRejection::NothingNew.into());
    }
    Ok(MarketEvent::Learnt { facts: vec![(instance.clone(), fact.clone())], listing: None })
}

/// What a listing shows.
fn list(state: &State, listing: &Listing, now: Instant) -> Result<MarketEvent> {
    if listing.items.len() > LISTING_MAX {
        return Err(MarketRejection::ListingTooLong.into());
    }
    let market = &state.market;
    let mut known: Vec<&Lifecycle> = market.lives.values().map(|life| &life.cycle).collect();
    known.sort_by_key(|cycle| cycle.instance());
    let (mut facts, mut strays) = (Vec::new(), Vec::new());
    // What each listing saw is kept with each unit.
    for finding in reconcile(known, listing, None) {
        match finding {
            Finding::Known { instance, fact, .. } => facts.push((instance, fact)),
            // What bears another name is none of ours.
            Finding::Stray { listed } if listed.instance.is_some() => strays.push(listed),
            Finding::Stray { .. } => {}
        }
    }
    let is_news = |(instance, fact): &(InstanceId, Fact)| {
        let ix = state.instances.find(instance.as_str());
        let life = ix.and_then(|ix| market.lives.get(&ix));
        life.is_some_and(|life| {
            life.cycle.on(&Input::Fact(fact.clone()), now).is_ok_and(|it| it.next != life.cycle)
        })
    };
    facts.retain(is_news);
    // A listing without any news is one that everything is as it was seen.
    if facts.is_empty() && !listing.is_complete {
        return Err(MarketRejection::NothingNew.into());
    }
    let listing = listing.is_complete.then_some(Listed { began: listing.began, strays });
    Ok(MarketEvent::Learnt { facts, listing })
}

/// What its owner wants no longer, newest first: all beyond so many units.
fn stops_of_owner(state: &State, bid: &Bid, keep: u32, now: Instant) -> Vec<Stop> {
    let live: Vec<_> = bid.live(&state.quotas, &state.instances).collect();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let deadline = now.saturating_add_ms(NOTICE_MS_MIN);
    let stop = |(_, instance): &(u32, &InstanceId)| Stop {
        instance: (*instance).clone(),
        cause: Cause::Owner,
        by: None,
        reclaim: None,
        deadline,
    };
    live.get(keep..).unwrap_or_default().iter().map(stop).collect()
}
