//! One clearing: the book that the state makes, its outcome, and what follows for instances.

use std::collections::BTreeMap;

use hourglass_capacity::auction::receipt::Receipt;
use hourglass_capacity::auction::{self, BidIx, Book, BookDraft, Pool as Offer, Recorder, Running};
use hourglass_capacity::lifecycle::Reclaim;
use hourglass_capacity::pool::PoolName;
use hourglass_units::{InstanceId, Instant};

use super::command::{Cleared, Start, Stop, Trigger};
use super::rejection::MarketRejection;
use super::rooms::Rooms;
use super::{Bid, Market, NOTICE_MS_MIN, unit_name};
use crate::core::quotas::Cause;
use crate::core::rejection::Rejection;
use crate::core::state::State;

/// Clears all pools.
pub(crate) fn clear(state: &State, trigger: Trigger, now: Instant) -> Result<Cleared, Rejection> {
    let market = &state.market;
    let book = book(state, now)?;
    let mut rooms = Rooms::new(state, &book, now);
    let mut recorder = Recorder::new(&mut rooms);
    let clearing = auction::clear(&book, &mut recorder);
    let refused = recorder.into_refused();
    let receipt = Receipt::new(book, refused, clearing);
    let (starts, stops) = (Vec::new(), Vec::new());
    let mut cleared = Cleared { trigger, receipt, starts, stops, expired: expired(market, now) };
    follow(state, &mut cleared, now)?;
    // Of the same input a unit that has stopped by itself has to be started again all the same.
    let is_idle = cleared.starts.is_empty() && cleared.stops.is_empty() && cleared.expired.is_empty();
    if is_idle && !market.is_due(now) && market.input == Some(cleared.input()) {
        return Err(MarketRejection::NothingToClear.into());
    }
    Ok(cleared)
}

/// Bids whose time has passed, and of which nothing runs.
fn expired(market: &Market, now: Instant) -> Vec<u64> {
    let over = market.bids.iter().filter(|(_, bid)| bid.has_expired(now) && bid.units.is_empty());
    over.map(|(number, _)| *number).collect()
}

/// The book: all pools, and all bids that want something.
fn book(state: &State, now: Instant) -> Result<Book, Rejection> {
    let market = &state.market;
    let names: Vec<&PoolName> = market.pools.keys().collect();
    let offer = |(name, pool): (&PoolName, &super::Pool)| {
        let supply = pool.supply_terms(now);
        Offer {
            name: name.clone(),
            supply: supply.gpus,
            reserve: pool.reserve(&supply),
            mode: pool.terms.mode,
            gang_max: pool.terms.gang_max,
        }
    };
    let find = |name: &PoolName| {
        let at = names.binary_search(&name).ok()?;
        u16::try_from(at).ok().map(auction::PoolIx)
    };
    let bids = market.bids.iter().filter_map(|(number, bid)| entry(state, *number, bid, find, now));
    let draft = BookDraft {
        pools: market.pools.iter().map(offer).collect(),
        margin: market.margin,
        bids: bids.collect(),
    };
    Ok(Book::new(draft).map_err(MarketRejection::Bid)?)
}

/// A bid as the auction sees it; none where it wants nothing.
fn entry(
    state: &State,
    number: u64,
    bid: &Bid,
    find: impl Fn(&PoolName) -> Option<auction::PoolIx>,
    now: Instant,
) -> Option<auction::Bid> {
    let draft = &bid.draft;
    let held = bid.held.as_ref().map_or(0, |(_, units)| *units);
    // One that has expired keeps what runs, and no more: what stops by itself is not started again.
    let (held, max_units) = match bid.has_expired(now) {
        true => {
            let live = u32::try_from(bid.units_going_on(state)).unwrap_or(u32::MAX).min(held);
            (live, live)
        }
        false => (held, draft.max_units),
    };
    if bid.cancelled || max_units == 0 || state.market.suspended.contains_key(&bid.tenant) {
        return None;
    }
    // A gang of which something was told to stop does not run: it competes like one that never did.
    let running = bid.held.as_ref().filter(|_| held >= draft.min_units.min(max_units));
    let running =
        running.and_then(|(pool, units)| Some(Running { pool: find(pool)?, units: held.min(*units) }));
    Some(auction::Bid {
        number,
        pools: draft.pools.iter().filter_map(&find).collect(),
        gpus_per_unit: draft.gpus_per_unit,
        min_units: draft.min_units.min(max_units),
        max_units,
        limit: draft.limit,
        running,
    })
}

/// Which instances have to start, and which have to stop.
fn follow(state: &State, cleared: &mut Cleared, now: Instant) -> Result<(), Rejection> {
    let Cleared { receipt: Receipt { book, clearing, .. }, starts, stops, .. } = cleared;
    let name_of = |pool: auction::PoolIx| book.pools().get(pool.index()).map(|pool| &pool.name);
    let mut reclaims: BTreeMap<&PoolName, (Cause, Option<Reclaim>)> = BTreeMap::new();
    let mut preempted: BTreeMap<BidIx, Vec<&auction::Preemption>> = BTreeMap::new();
    for preemption in &clearing.preemptions {
        preempted.entry(preemption.bid).or_default().push(preemption);
    }
    for (ix, (it, outcome)) in (0..).map(BidIx).zip(book.bids().iter().zip(&clearing.bids)) {
        let Some(bid) = state.market.bids.get(&it.number) else { continue };
        let won = outcome.won().and_then(|(pool, units)| Some((name_of(pool)?, units)));
        let stays = match (&bid.held, won) {
            (Some((held, _)), Some((pool, units))) if held == pool => units,
            _ => 0,
        };
        let live: Vec<&InstanceId> =
            bid.live(&state.quotas, &state.instances).map(|(_, instance)| instance).collect();
        let keep = usize::try_from(stays).unwrap_or(usize::MAX).min(live.len());
        let causes = preempted.get(&ix).map(Vec::as_slice).unwrap_or_default();
        // The newest first. What the auction did not know to run was part of a broken gang.
        let mut causes = causes.iter().flat_map(|it| std::iter::repeat_n(it.cause, index(it.units)));
        for instance in live.get(keep..).unwrap_or_default().iter().rev() {
            let (cause, by) = match causes.next() {
                Some(cause) => named(book, cause),
                None => (bid.broken_by.unwrap_or(Cause::Owner), None),
            };
            let deadline = now.saturating_add_ms(notice_ms(&state.market, bid));
            let held = bid.held.as_ref().filter(|_| cause == Cause::SupplyReclaimed).map(|(held, _)| held);
            let pool = held.and_then(|held| state.market.pools.get_key_value(held));
            let (cause, reclaim) = match pool {
                None => (cause, None),
                Some((name, pool)) => *reclaims.entry(name).or_insert_with(|| reclaim(pool, now)),
            };
            stops.push(Stop { instance: (*instance).clone(), cause, by, reclaim, deadline });
        }
        if let Some((pool, units)) = won {
            let have = u32::try_from(keep).unwrap_or(u32::MAX);
            let count = units.saturating_sub(have);
            if count > 0 {
                let first = first_free(state, it.number, bid.units_made, count)?;
                starts.push(Start { number: it.number, pool: pool.clone(), first, count });
            }
        }
    }
    Ok(())
}

/// Why a pool has fewer GPUs for spot than it had.
fn reclaim(pool: &super::Pool, now: Instant) -> (Cause, Option<Reclaim>) {
    let supply = pool.supply_terms(now);
    match pool.reclaimed_for(&supply) {
        Reclaim::Capacity if pool.has_lost_nodes(&supply) => (Cause::Maintenance, None),
        reclaim => (Cause::SupplyReclaimed, Some(reclaim)),
    }
}

fn index(units: u32) -> usize {
    usize::try_from(units).unwrap_or(usize::MAX)
}

/// How the log names a cause.
fn named(book: &Book, cause: auction::Cause) -> (Cause, Option<u64>) {
    match cause {
        auction::Cause::Outbid { by } => {
            (Cause::Outbid, book.bids().get(by.index()).map(|newcomer| newcomer.number))
        }
        auction::Cause::SupplyReclaimed => (Cause::SupplyReclaimed, None),
        auction::Cause::ReserveRaised => (Cause::ReserveRaised, None),
        auction::Cause::Quota => (Cause::Quota, None),
        auction::Cause::Budget => (Cause::Budget, None),
    }
}

/// The notice that a bid gets: the longer one of its own and its pool's.
fn notice_ms(market: &Market, bid: &Bid) -> i64 {
    let pool = bid.held.as_ref().and_then(|(pool, _)| market.pools.get(pool));
    let of_pool = pool.map_or(NOTICE_MS_MIN, |pool| pool.terms.notice_ms);
    bid.draft.notice_ms.unwrap_or(of_pool).max(of_pool)
}

/// The first of so many units whose names no other instance has.
fn first_free(state: &State, number: u64, from: u32, count: u32) -> Result<u32, Rejection> {
    let full = || MarketRejection::BidsFull;
    let mut first = from;
    let mut unit = from;
    while unit.checked_sub(first).is_some_and(|checked| checked < count) {
        let next = unit.checked_add(1).ok_or_else(full)?;
        let name = unit_name(number, unit).map_err(|_| full())?;
        if state.instances.find(name.as_str()).is_some() {
            first = next;
        }
        unit = next;
    }
    Ok(first)
}

impl Cleared {
    /// A fingerprint of the input: the same one gives the same outcome.
    pub fn input(&self) -> [u8; 32] {
        // Numbers and names: there is nothing in them that the encoding lacks.
        let bytes = postcard::to_stdvec(&(&self.receipt.book, &self.receipt.refused)).unwrap_or_default();
        *blake3::hash(&bytes).as_bytes()
    }

    /// The price of each pool, in the order of names.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolName, &auction::PoolOutcome)> {
        self.receipt.book.pools().iter().map(|pool| &pool.name).zip(&self.receipt.clearing.pools)
    }

    /// What each bid got, by number.
    pub(super) fn won(&self) -> impl Iterator<Item = (u64, Option<(&PoolName, u32)>)> {
        let Receipt { book, clearing, .. } = &self.receipt;
        let name_of = |pool: auction::PoolIx| book.pools().get(pool.index()).map(|pool| &pool.name);
        book.bids().iter().zip(&clearing.bids).map(move |(bid, outcome)| {
            (bid.number, outcome.won().and_then(|(pool, units)| Some((name_of(pool)?, units))))
        })
    }
}
