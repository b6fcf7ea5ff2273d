//! Why a bid has what it has.

use hourglass_capacity::auction::receipt::{Standing, Why};
use hourglass_capacity::auction::{self, BidOutcome, Book, PoolIx, Reason, Refusal, Short, receipt};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_units::{BidId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bids::{BidState, state_of};
use super::clears::{ClearError, Logged, clearing, clearings_before};

/// Clearings that are looked through for the last one in which a bid took part.
pub const WHY_CLEARINGS_MAX: usize = 64;

/// Whose outcome is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyAbout {
    bid: String,
    number: u64,
    state: BidState,
}

/// What became of a bid in a clearing, and what stood in its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Why)]
pub struct WhyRow {
    /// Which bid.
    pub bid: String,
    /// Its number. Receipts name it so.
    pub number: u64,
    /// Where it stands now.
    pub state: BidState,
    /// In one sentence.
    pub says: String,
    /// The last clearing in which it took part, by log position; absent where there was none, as all that
    /// follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<u64>,
    /// When that was, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub cleared_at: Option<String>,
    /// `won` or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Where it won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pool: Option<PoolName>,
    /// How many units it won.
    pub units: u32,
    /// Why it lost, or won less than it wants: `outbid`, `no_room`, `below_reserve`, `too_large`, `capacity`,
    /// `quota` or `budget`. Absent where it has all that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The least limit with which it would have won, as far as capacity and reserve prices decide; a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wins_at: Option<String>,
    /// Its units that were told to stop then.
    pub stopped: Vec<StoppedRow>,
    /// What stands before it in each of its pools, in its order.
    pub standings: Vec<StandingRow>,
}

/// Units of a bid that a clearing told to stop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BidUnitsStopped)]
pub struct StoppedRow {
    /// Where they run.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// How many.
    pub units: u32,
    /// `outbid`, `supply_reclaimed`, `reserve_raised`, `quota` or `budget`.
    pub cause: String,
    /// Who displaced them, by the number of the bid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u64>,
}

/// How a bid stands in a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BidStanding)]
pub struct StandingRow {
    /// Which pool.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// What it cost per GPU-hour, a decimal.
    pub price: String,
    /// GPUs that bids had.
    pub sold: u64,
    /// GPUs that nobody had.
    pub free: u64,
    /// Winners that a new bid with this limit cannot displace: the margin is counted for them.
    pub bids_ahead: usize,
    /// The GPUs that they have.
    pub gpus_ahead: u64,
}

/// A bid of a tenant, to ask about.
pub fn about(state: &State, tenant: &TenantId, name: &BidId) -> Option<WhyAbout> {
    let (number, bid) = state.market().bid(tenant, name)?;
    Some(WhyAbout { bid: name.to_string(), number, state: state_of(state, bid) })
}

/// What became of a bid in a clearing, or in the last one in which it took part.
pub fn why(reader: &dyn Reader, about: WhyAbout, clear: Option<u64>) -> Result<WhyRow, ClearError> {
    let takes_part = |logged: &Logged| logged.cleared.receipt.book.find_bid(about.number).is_some();
    let found = match clear {
        Some(position) => clearing(reader, position)?.filter(takes_part),
        None => {
            let mut found = None;
            for logged in clearings_before(reader, u64::MAX).take(WHY_CLEARINGS_MAX) {
                let logged = logged?;
                if logged.position < about.number {
                    break;
                }
                if takes_part(&logged) {
                    found = Some(logged);
                    break;
                }
            }
            found
        }
    };
    Ok(found.and_then(|logged| row(&about, &logged)).unwrap_or_else(|| not_cleared(about)))
}

fn not_cleared(about: WhyAbout) -> WhyRow {
    let WhyAbout { bid, number, state } = about;
    WhyRow {
        bid,
        number,
        state,
        says: "it took part in no clearing yet, or in none of those that were looked through".to_owned(),
        clear: None,
        cleared_at: None,
        outcome: None,
        pool: None,
        units: 0,
        reason: None,
        wins_at: None,
        stopped: Vec::new(),
        standings: Vec::new(),
    }
}

fn row(about: &WhyAbout, logged: &Logged) -> Option<WhyRow> {
    let receipt = &logged.cleared.receipt;
    let (book, clearing) = (&receipt.book, &receipt.clearing);
    let ix = book.find_bid(about.number)?;
    let Why { outcome, preemptions, standings } = receipt::why(book, clearing, ix)?;
    let (won, reason, wins_at) = match outcome {
        BidOutcome::Won { pool, units, short } => {
            (Some((name(book, pool)?, units)), short.map(short_reason), None)
        }
        BidOutcome::Lost { reason, wins_at } => (None, Some(lost_reason(&reason)), wins_at),
    };
    let stopped = preemptions.iter().map(|it| {
        let (cause, by) = cause(book, it.cause);
        Some(StoppedRow { pool: name(book, it.pool)?, units: it.units, cause: cause.to_owned(), by })
    });
    let standing = |it: &Standing| {
        Some(StandingRow {
            pool: name(book, it.pool)?,
            price: it.outcome.price.to_string(),
            sold: it.outcome.sold,
            free: it.outcome.free,
            bids_ahead: it.bids_ahead,
            gpus_ahead: it.gpus_ahead,
        })
    };
    Some(WhyRow {
        bid: about.bid.clone(),
        number: about.number,
        state: about.state,
        says: sentence(&outcome, won.as_ref()),
        clear: Some(logged.position),
        cleared_at: Some(logged.at.to_string()),
        outcome: Some(if won.is_some() { "won" } else { "lost" }.to_owned()),
        units: won.as_ref().map_or(0, |(_, units)| *units),
        pool: won.map(|(pool, _)| pool),
        reason: reason.map(str::to_owned),
        wins_at: wins_at.map(|price| price.to_string()),
        stopped: stopped.collect::<Option<_>>()?,
        standings: standings.iter().map(standing).collect::<Option<_>>()?,
    })
}

fn name(book: &Book, pool: PoolIx) -> Option<PoolName> {
    book.pools().get(pool.index()).map(|pool| pool.name.clone())
}

const fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Quota => "quota",
        Refusal::Budget => "budget",
    }
}

const fn short_reason(short: Short) -> &'static str {
    match short {
        Short::Capacity => "capacity",
        Short::Refused(refusal) => refused(refusal),
    }
}

const fn lost_reason(reason: &Reason) -> &'static str {
    match reason {
        Reason::Refused(refusal) => refused(*refusal),
        Reason::Outbid => "outbid",
        Reason::NoRoom => "no_room",
        Reason::BelowReserve { .. } => "below_reserve",
        Reason::TooLarge { .. } => "too_large",
    }
}

fn cause(book: &Book, cause: auction::Cause) -> (&'static str, Option<u64>) {
    match cause {
        auction::Cause::Outbid { by } => ("outbid", book.bids().get(by.index()).map(|bid| bid.number)),
        auction::Cause::SupplyReclaimed => ("supply_reclaimed", None),
        auction::Cause::ReserveRaised => ("reserve_raised", None),
        auction::Cause::Quota => ("quota", None),
        auction::Cause::Budget => ("budget", None),
    }
}

fn sentence(outcome: &BidOutcome, won: Option<&(PoolName, u32)>) -> String {
    match (outcome, won) {
        (BidOutcome::Won { short, .. }, Some((pool, units))) => {
            let why = match short {
                None => "all that it wants",
                Some(Short::Capacity) => "no more GPUs were left at its turn",
                Some(Short::Refused(Refusal::Quota)) => "quota allows no more",
                Some(Short::Refused(Refusal::Budget)) => "a spend cap allows no more",
            };
            format!("it won {units} units in {pool}: {why}")
        }
        (BidOutcome::Lost { reason, wins_at }, _) => {
            let why = match reason {
                Reason::Refused(Refusal::Quota) => "there was room, and quota did not allow it".to_owned(),
                Reason::Refused(Refusal::Budget) => {
                    "there was room, and a spend cap did not allow it".to_owned()
                }
                Reason::Outbid => "higher limits took the GPUs".to_owned(),
                Reason::NoRoom => "some GPUs were left, and not enough for its gang".to_owned(),
                Reason::BelowReserve { reserve } => format!("its limit is below the reserve price {reserve}"),
                Reason::TooLarge { gpus_max } => {
                    format!("its gang is larger than its pools allow, {gpus_max} GPUs")
                }
            };
            match wins_at {
                Some(price) => format!("it lost: {why}; with a limit of {price} it would have won"),
                None => format!("it lost: {why}"),
            }
        }
        (BidOutcome::Won { .. }, None) => "it won".to_owned(),
    }
}
