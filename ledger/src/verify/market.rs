//! on a log: each clearing is run again on the state before it, and counted anew.
//!
//! | check | what is compared |
//! |---|---|
//! | A-1 | what winners have in each pool with its supply |
//! | A-2 | each price with the reserve price and with the lowest limit of a winner |
//! | A-3 | the whole event with what clearing the same state decides, where it was cleared by the same rules |
//! | C-1 | each reservation of a fabric with what its pool had left for it |
//! | A-7 | after it each bid has as many units that go on as it won; what else it had was told to stop, once |
//!
//! are laws of the rules themselves: their tests are in the capacity crate.

use hourglass_capacity::auction::receipt::RULES;
use hourglass_units::Instant;

use super::quotas::Wrong;
use crate::core::market::{Cleared, MarketEvent, check_reservation, clear};
use crate::core::{Event, State};

/// What is wrong with a clearing, or with a promise, before it happens.
pub(crate) fn before(state: &State, at: Instant, event: &Event) -> Vec<Wrong> {
    let it = match event {
        Event::ReservationMade { tenant, reservation } => {
            let promised = state.cell().map(|cell| check_reservation(state, cell, tenant, reservation, at));
            let broken = promised.and_then(Result::err);
            return broken.map(|error| ("C-1", error.to_string())).into_iter().collect();
        }
        Event::Market(MarketEvent::Cleared(it)) => it,
        _ => return Vec::new(),
    };
    let mut wrong = Vec::new();
    let receipt = &it.receipt;
    if receipt.rules == RULES {
        if let Err(difference) = receipt.replay() {
            wrong.push(("A-3", difference.to_string()));
        }
        if clear(state, it.trigger, at).as_ref() != Ok(&**it) {
            wrong.push(("A-3", "the state before it leads to another clearing".to_owned()));
        }
    }
    wrong.extend(of_pools(it));
    wrong
}

/// counted from the bids alone.
fn of_pools(it: &Cleared) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let (book, clearing) = (&it.receipt.book, &it.receipt.clearing);
    for (at, (pool, outcome)) in book.pools().iter().zip(&clearing.pools).enumerate() {
        let bids = book.bids().iter().zip(&clearing.bids);
        let winners = bids.filter_map(|(bid, outcome)| {
            let (of, units) = outcome.won()?;
            (of.index() == at).then_some((bid, units))
        });
        let (mut sold, mut lowest) = (0_u64, None);
        for (bid, units) in winners {
            sold = sold.saturating_add(bid.gpus(units));
            lowest = Some(lowest.map_or(bid.limit, |lowest| bid.limit.min(lowest)));
        }
        let name = &pool.name;
        if sold > pool.supply || sold != outcome.sold {
            let what =
                format!("{name} has {} GPUs, sold {}, and winners have {sold}", pool.supply, outcome.sold);
            wrong.push(("A-1", what));
        }
        if outcome.price < pool.reserve || lowest.is_some_and(|lowest| outcome.price > lowest) {
            let (price, reserve) = (outcome.price, pool.reserve);
            wrong.push((
                "A-2",
                format!(
                    "{name} costs {price}, with a reserve price of {reserve} and a lowest limit of {lowest:?}"
                ),
            ));
        }
    }
    wrong
}

/// What is wrong at the end of the log.
pub(crate) fn at_end(state: &State) -> Vec<Wrong> {
    let market = state.market();
    let miscounted = market.miscounted().into_iter().chain(market.misseated());
    miscounted
        .map(|pool| ("A-1", format!("{pool} counts other GPUs than those of what runs in it")))
        .collect()
}

/// What is wrong with a clearing after it happened.
pub(crate) fn after(state: &State, event: &Event) -> Vec<Wrong> {
    let Event::Market(MarketEvent::Cleared(it)) = event else { return Vec::new() };
    let mut wrong = Vec::new();
    for (bid, outcome) in it.receipt.book.bids().iter().zip(&it.receipt.clearing.bids) {
        let Some(found) = state.market().numbered(bid.number) else { continue };
        let (won, goes_on) = (outcome.won().map_or(0, |(_, units)| units), found.units_going_on(state));
        if usize::try_from(won) != Ok(goes_on) {
            let number = bid.number;
            wrong.push(("A-7", format!("bid {number} won {won} units, and {goes_on} go on")));
        }
    }
    wrong
}
