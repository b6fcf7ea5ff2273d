//! Why a bid lost, and with which limit it would have won.

use hourglass_units::Price;

use super::book::{Bid, Pool};
use super::greedy::Floor;
use super::index::{BidIx, PoolIx};
use super::outcome::Reason;
use super::price::Winners;
use super::rank::ONCE;

/// Of all its pools the reason where it came furthest.
pub(super) fn reason(floor: &Floor<'_>, winners: &Winners, ix: BidIx, bid: &Bid) -> Reason {
    let book = floor.book;
    let fate = &floor.fates[ix];
    if let Some(refusal) = fate.refusal {
        return Reason::Refused(refusal);
    }
    let pools = || bid.pools.iter().map(|pool| (*pool, book.pool(*pool)));
    let may_enter = |it: &(PoolIx, &Pool)| bid.runs_in(it.0) || !bid.is_too_large_for(it.1);
    if fate.turned_away {
        let mut entered = pools().filter(may_enter).filter(|(_, offer)| bid.limit >= offer.reserve);
        let is_outbid = entered.any(|(pool, _)| winners.turn_away(book, pool, bid));
        return if is_outbid { Reason::Outbid } else { Reason::NoRoom };
    }
    match pools().filter(may_enter).map(|(_, offer)| offer.reserve).min() {
        Some(reserve) => Reason::BelowReserve { reserve },
        None => Reason::TooLarge { gpus_max: pools().map(|it| it.1.gang_gpus_max()).max().unwrap_or(0) },
    }
}

/// The least limit with which a loser would have won.
///
/// Exact for the walk, because a loser changes nothing for the others: with another limit it meets the same
/// walk at another place, and there it wins if and only if its gang finds room. So it must go before the
/// first step that left too little.
pub(super) fn wins_at(floor: &Floor<'_>, ix: BidIx, bid: &Bid) -> Option<Price> {
    let in_pool = |pool: &PoolIx| {
        let offer = floor.book.pool(*pool);
        let runs = bid.runs_in(*pool);
        if bid.core_gpus() > offer.supply || (!runs && bid.is_too_large_for(offer)) {
            return None;
        }
        if floor.is_exact[*pool] {
            return floor.fates[ix].wins_at;
        }
        let times = if runs { floor.boost } else { ONCE };
        match floor.trails[*pool].first_below(bid.core_gpus()) {
            Some(step) => Some(step.rank.least_limit_before(times, runs, ix)?.max(offer.reserve)),
            None => Some(offer.reserve),
        }
    };
    bid.pools.iter().filter_map(in_pool).min()
}
