//! What the market would have done with other GPUs, another reserve price, or a reservation sold.
//!
//! The clearings of a time are run again by the code that clears live, twice: as they were, which must come out
//! as it was logged, and under the changes. What a replay cannot know is said in its answer
//! ([`WHAT_IT_CANNOT_KNOW`]).

mod outcome;
mod rerun;

use std::collections::BTreeMap;

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::store::Reader;
use hourglass_units::{Currency, Instant, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use outcome::{Difference, OutcomeRow, WhatIfReport, WhatIfRow};

use self::outcome::Sums;
pub(super) use self::outcome::amount;
use self::rerun::{Effect, Rerun};
use super::clearings::Clearings;
use super::{PlanError, past};
use crate::billing::report::AsOf;

/// Most changes of a question.
pub const CHANGES_MAX: usize = 16;
/// Most clearings that are run again for a question.
pub const WHAT_IF_CLEARINGS_MAX: usize = 10_000;
/// Most bids in all of those.
pub const WHAT_IF_BIDS_MAX: u64 = 4_000_000;
/// Most GPUs of a change.
pub const CHANGE_GPUS_MAX: u64 = 1 << 24;

/// What no replay can know; part of every answer.
pub const WHAT_IT_CANNOT_KNOW: [&str; 4] = [
    "Bids are those that were placed: nobody bids more, less or elsewhere because of the change.",
    "A job that would have run earlier would have ended earlier; here it wants GPUs as long as its bid did in the log.",
    "Quotas and spend caps hold as far as the receipts tell: a bid that was refused gets no more than it was allowed \
     then, and one that was never asked is free.",
    "Revenue is the price of each clearing times what its winners have, until the next clearing: what was billed is \
     less by the time that units take to start, and more by the time that they take to stop.",
];

/// A change of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = CapacityChange, example = json!({"add_nodes": {"pool": "eu-north1/gpu-h100-sxm/fabric-2", "nodes": 2,
    "gpus": 8}}))]
pub enum Change {
    /// Nodes more, from the start on.
    AddNodes {
        /// Where.
        #[schema(value_type = String)]
        pool: PoolName,
        /// How many nodes.
        nodes: u32,
        /// GPUs of each.
        gpus: u32,
    },
    /// Nodes fewer, from the start on.
    RemoveNodes {
        /// Where.
        #[schema(value_type = String)]
        pool: PoolName,
        /// How many nodes.
        nodes: u32,
        /// GPUs of each.
        gpus: u32,
    },
    /// Another reserve price, however full the pool is.
    ReservePrice {
        /// Where.
        #[schema(value_type = String)]
        pool: PoolName,
        /// Per GPU-hour, a decimal.
        #[schema(value_type = String)]
        price: Price,
    },
    /// A reservation that nobody uses and nobody lends.
    SellReservation {
        /// Where.
        #[schema(value_type = String)]
        pool: PoolName,
        /// How many GPUs.
        gpus: u64,
        /// From then on, RFC 3339.
        #[schema(value_type = String, format = DateTime)]
        from: Instant,
        /// Until then, RFC 3339.
        #[schema(value_type = String, format = DateTime)]
        until: Instant,
        /// Per GPU-hour, a decimal; it counts for nothing where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        price: Option<Price>,
    },
}

impl Change {
    fn pool(&self) -> &PoolName {
        match self {
            Self::AddNodes { pool, .. }
            | Self::RemoveNodes { pool, .. }
            | Self::ReservePrice { pool, .. }
            | Self::SellReservation { pool, .. } => pool,
        }
    }

    fn effect(&self) -> Result<Effect, PlanError> {
        let invalid = |what: &str| PlanError::Invalid(what.to_owned());
        let within = |gpus: u64| match gpus {
            1..=CHANGE_GPUS_MAX => Ok(gpus),
            _ => Err(PlanError::Invalid(format!("{gpus} GPUs: a change has 1 to {CHANGE_GPUS_MAX}"))),
        };
        let gpus = |nodes: u32, gpus: u32| within(u64::from(nodes).saturating_mul(u64::from(gpus)));
        match self {
            Self::AddNodes { nodes, gpus: each, .. } => gpus(*nodes, *each).map(Effect::More),
            Self::RemoveNodes { nodes, gpus: each, .. } => gpus(*nodes, *each).map(Effect::Fewer),
            Self::ReservePrice { price, .. } if price.nanos() < 0 => {
                Err(invalid("a reserve price is not below 0"))
            }
            Self::ReservePrice { price, .. } => Ok(Effect::Reserve(*price)),
            Self::SellReservation { gpus, from, until, .. } => {
                let time = Interval::between(*from, *until);
                let time = time.ok_or_else(|| invalid("a reservation ends after its start"))?;
                Ok(Effect::Kept(within(*gpus)?, time))
            }
        }
    }
}

/// A question about the past.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WhatIfQuestion, example = json!({"start": "2026-11-01T00:00:00Z", "end": "2026-11-08T00:00:00Z",
    "changes": [{"reserve_price": {"pool": "eu-north1/gpu-h100-sxm/fabric-2", "price": "0.80"}}]}))]
pub struct WhatIfDraft {
    /// From then on, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub start: Instant,
    /// Until then, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub end: Instant,
    /// What would have been otherwise; none to run the clearings again as they were.
    pub changes: Vec<Change>,
}

/// A checked question, with what the state knows.
#[derive(Debug, Clone)]
pub struct WhatIf {
    as_of: AsOf,
    within: Interval,
    changes: Vec<Change>,
    effects: Vec<(PoolName, Effect)>,
    currencies: BTreeMap<PoolName, Currency>,
}

impl WhatIf {
    /// Checks a question.
    pub fn new(state: &State, draft: WhatIfDraft) -> Result<Self, PlanError> {
        let count = draft.changes.len();
        if count > CHANGES_MAX {
            return Err(PlanError::Invalid(format!("{count} changes: a question has at most {CHANGES_MAX}")));
        }
        for change in &draft.changes {
            if state.market().pool(change.pool()).is_none() {
                return Err(PlanError::PoolUnknown { pool: change.pool().clone() });
            }
        }
        let within = past(draft.start, draft.end, state.now())?;
        let effects = draft.changes.iter().map(|change| Ok((change.pool().clone(), change.effect()?)));
        let effects = effects.collect::<Result<_, PlanError>>()?;
        let currencies = state.market().pools().map(|(name, pool)| (name.clone(), pool.terms.currency));
        let currencies = currencies.collect();
        Ok(Self { as_of: AsOf::of(state), within, changes: draft.changes, effects, currencies })
    }

    /// The time that is run again.
    pub fn within(&self) -> Interval {
        self.within
    }
}

/// What changes cost spot in a pool, in nano-currency an hour times milliseconds.
pub(super) fn loss(
    reader: &dyn Reader,
    question: &WhatIf,
    pool: &PoolName,
    goes_on: impl FnMut(Instant) -> bool,
) -> Result<i128, PlanError> {
    Ok(sums(reader, question, goes_on)?.loss(pool))
}

/// Runs the clearings again. `goes_on` hears where it is, and says whether to go on.
pub fn what_if(
    reader: &dyn Reader,
    question: &WhatIf,
    goes_on: impl FnMut(Instant) -> bool,
) -> Result<WhatIfReport, PlanError> {
    sums(reader, question, goes_on)?.report(question)
}

fn sums(
    reader: &dyn Reader,
    question: &WhatIf,
    mut goes_on: impl FnMut(Instant) -> bool,
) -> Result<Sums, PlanError> {
    let until = Position::new(question.as_of.position);
    let mut rerun = Rerun::default();
    let mut sums = Sums::default();
    let mut bids: u64 = 0;
    for held in Clearings::new(reader, question.within, until, WHAT_IF_CLEARINGS_MAX)? {
        let held = held?;
        let (at, receipt) = (held.logged.at, &held.logged.cleared.receipt);
        bids = bids.saturating_add(u64::try_from(receipt.book.bids().len()).unwrap_or(u64::MAX));
        if bids > WHAT_IF_BIDS_MAX {
            return Err(PlanError::TooManyBids { most: WHAT_IF_BIDS_MAX });
        }
        // A clearing before the time is one that held at its start.
        let acts_at = at.max(question.within.start());
        let both = rerun.next(receipt, acts_at, &question.effects);
        let both = both.map_err(|error| PlanError::Invalid(format!("the changed book: {error}")))?;
        sums.add(&held, &both, at >= question.within.start());
        if !goes_on(acts_at) {
            return Err(PlanError::GivenUp);
        }
    }
    Ok(sums)
}
