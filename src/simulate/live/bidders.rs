//! Customers who bid for spot GPUs: they come, raise, and go.

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::market::{BidChange, BidDraft, MarketCommand};
use hourglass_ledger::core::{Command, State};
use hourglass_units::{BidId, Price, ProjectId, TenantId};

use super::LiveError;
use crate::simulate::demo::REGION;

/// Who bids: tenant, project, pools as platform and fabric, units at least and at most, limits between, in
/// thousandths of a dollar, and the turn of its first bid.
type Habit =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], (u32, u32), (i64, i64), u32);
/// Habits of three customers. The third comes when the others have all of the H100, and pays more.
const HABITS: [Habit; 5] = [
    ("acme-robotics", "training", &[H100_BIG], (2, 4), (950, 1_700), 0),
    ("blue-protein", "research", &[H100_SMALL, H100_BIG], (1, 2), (850, 1_300), 0),
    ("cobalt-vision", "inference", &[H100_BIG, H100_SMALL], (1, 2), (1_900, 2_600), 1),
    ("blue-protein", "training", &[H200], (1, 2), (1_050, 1_900), 0),
    ("cobalt-vision", "research", &[H200], (1, 1), (1_300, 2_400), 2),
];
const H100_BIG: (&str, &str) = ("gpu-h100-sxm", "fabric-1");
const H100_SMALL: (&str, &str) = ("gpu-h100-sxm", "fabric-2");
const H200: (&str, &str) = ("gpu-h200-sxm", "fabric-3");
/// A unit is a whole node.
const GPUS_PER_UNIT: u32 = 8;
/// Nanos in a thousandth.
const NANOS_A_THOUSANDTH: i64 = 1_000_000;
/// Who is outbid raises its limit by up to so many thousandths at once.
const RAISE_MAX: i64 = 250;
/// In one of so many turns a bid that has all that it wants is done.
const DONE_ONE_IN: u32 = 20;
/// In one of so many turns a bid that cannot be raised any more is given up.
const GIVEN_UP_ONE_IN: u32 = 8;

/// All who bid.
pub(super) struct Bidders {
    random: fastrand::Rng,
    bidders: Vec<Bidder>,
}

struct Bidder {
    tenant: TenantId,
    project: ProjectId,
    pools: Vec<PoolName>,
    units: (u32, u32),
    /// In thousandths.
    limits: (i64, i64),
    /// Turns until its first bid.
    waits: u32,
    /// The bid that it has, and its limit in thousandths.
    bid: Option<(BidId, i64)>,
    /// Bids that it made.
    made: u32,
}

/// How a bid stands.
enum Standing {
    /// It is over, or was never placed.
    Over,
    /// It has all that it wants.
    Whole,
    /// It lacks units.
    Short,
}

impl Bidders {
    /// Nobody has bid yet.
    pub(super) fn new(seed: u64) -> Result<Self, LiveError> {
        let bidders = HABITS.iter().map(|habit| Bidder::new(*habit)).collect::<Result<_, _>>()?;
        Ok(Self { random: fastrand::Rng::with_seed(seed ^ 2), bidders })
    }

    /// Each does what its bid calls for. What the cell refuses does not happen.
    pub(super) async fn turn(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        for bidder in &mut self.bidders {
            let standing = match &bidder.bid {
                None => Standing::Over,
                Some((bid, _)) => {
                    let (tenant, bid) = (bidder.tenant.clone(), bid.clone());
                    cell.read(move |state| standing(state, &tenant, &bid)).await?
                }
            };
            if let Some(command) = bidder.turn(&standing, &mut self.random)? {
                allowed(cell, command).await?;
            }
        }
        Ok(())
    }

    /// All bids are taken back.
    pub(super) async fn cancel_all(&mut self, cell: &CellHandle) -> Result<(), LiveError> {
        for bidder in &mut self.bidders {
            if let Some((bid, _)) = bidder.bid.take() {
                allowed(cell, MarketCommand::CancelBid { tenant: bidder.tenant.clone(), bid }).await?;
            }
        }
        Ok(())
    }
}

/// Asks for something that may be refused.
pub(super) async fn allowed(cell: &CellHandle, command: MarketCommand) -> Result<(), LiveError> {
    match cell.submit(Command::from(command)).await {
        Ok(_) => Ok(()),
        Err(CellError::Rejected(rejection)) => {
            tracing::info!(%rejection, "the market refuses");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn standing(state: &State, tenant: &TenantId, bid: &BidId) -> Standing {
    match state.market().bid(tenant, bid) {
        None => Standing::Over,
        Some((_, bid)) if bid.held.as_ref().is_some_and(|(_, units)| *units == bid.draft.max_units) => {
            Standing::Whole
        }
        Some(_) => Standing::Short,
    }
}

impl Bidder {
    fn new(habit: Habit) -> Result<Self, LiveError> {
        let (tenant, project, pools, units, limits, waits) = habit;
        let pools = pools.iter().map(|(platform, fabric)| format!("{REGION}/{platform}/{fabric}").parse());
        Ok(Self {
            tenant: tenant.parse()?,
            project: project.parse()?,
            pools: pools.collect::<Result<_, _>>()?,
            units,
            limits,
            waits,
            bid: None,
            made: 0,
        })
    }

    /// What it does now, if anything.
    fn turn(
        &mut self,
        standing: &Standing,
        random: &mut fastrand::Rng,
    ) -> Result<Option<MarketCommand>, LiveError> {
        let tenant = self.tenant.clone();
        let (lowest, highest) = self.limits;
        match (standing, self.bid.clone()) {
            _ if self.waits > 0 => {
                self.waits = self.waits.saturating_sub(1);
                Ok(None)
            }
            (Standing::Over, _) | (_, None) => self.place(random).map(Some),
            (Standing::Whole, Some((bid, _))) if random.u32(..DONE_ONE_IN) == 0 => {
                self.bid = None;
                Ok(Some(MarketCommand::CancelBid { tenant, bid }))
            }
            (Standing::Whole, _) => Ok(None),
            (Standing::Short, Some((bid, limit))) if limit < highest => {
                if random.bool() {
                    return Ok(None);
                }
                let limit = limit.saturating_add(random.i64(1..=RAISE_MAX)).clamp(lowest, highest);
                self.bid = Some((bid.clone(), limit));
                let change = BidChange { limit: Some(price(limit)?), ..BidChange::default() };
                Ok(Some(MarketCommand::UpdateBid { tenant, bid, change }))
            }
            (Standing::Short, Some((bid, _))) if random.u32(..GIVEN_UP_ONE_IN) == 0 => {
                self.bid = None;
                Ok(Some(MarketCommand::CancelBid { tenant, bid }))
            }
            (Standing::Short, _) => Ok(None),
        }
    }

    /// It begins low: half of what it would pay is kept for raising.
    fn place(&mut self, random: &mut fastrand::Rng) -> Result<MarketCommand, LiveError> {
        let (lowest, highest) = self.limits;
        let (min_units, max_units) = self.units;
        self.made = self.made.saturating_add(1);
        let limit = random.i64(lowest..=lowest.midpoint(highest));
        let bid: BidId = format!("{}-{}", self.project, self.made).parse()?;
        self.bid = Some((bid.clone(), limit));
        let draft = BidDraft {
            bid,
            project: self.project.clone(),
            pools: self.pools.clone(),
            gpus_per_unit: GPUS_PER_UNIT,
            min_units,
            max_units,
            limit: price(limit)?,
            notice_ms: None,
            expires_at: None,
        };
        Ok(MarketCommand::PlaceBid { tenant: self.tenant.clone(), bid: draft })
    }
}

fn price(thousandths: i64) -> Result<Price, LiveError> {
    Ok(Price::from_nanos(thousandths.saturating_mul(NANOS_A_THOUSANDTH))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one does when it is never given what it wants.
    fn told(seed: u64, habit: Habit) -> Vec<MarketCommand> {
        let (mut random, mut bidder) = (fastrand::Rng::with_seed(seed), Bidder::new(habit).unwrap());
        let turns = (0..500).filter_map(|_| bidder.turn(&Standing::Short, &mut random).unwrap());
        turns.collect()
    }

    #[test]
    fn a_bid_only_rises_and_stays_within_what_its_owner_pays() {
        for habit in HABITS {
            let (lowest, highest) = (price(habit.4.0).unwrap(), price(habit.4.1).unwrap());
            for seed in 0..20 {
                let (mut bid, mut raised, mut cancelled) = (None, 0, 0);
                for command in told(seed, habit) {
                    let limit = match command {
                        MarketCommand::PlaceBid { bid: draft, .. } => {
                            assert!(bid.is_none(), "one bid at a time");
                            draft.limit
                        }
                        MarketCommand::UpdateBid { change, .. } => {
                            raised += 1;
                            let limit = change.limit.unwrap();
                            assert!(bid.is_some_and(|before| before < limit), "{bid:?} {limit}");
                            limit
                        }
                        MarketCommand::CancelBid { .. } => {
                            cancelled += 1;
                            assert_eq!(bid.take(), Some(highest), "it is given up when it cannot be raised");
                            continue;
                        }
                        other => panic!("{other:?}"),
                    };
                    assert!((lowest..=highest).contains(&limit), "{limit}");
                    bid = Some(limit);
                }
                assert!(raised > 10 && cancelled > 2, "{raised} {cancelled}");
                assert_eq!(told(seed, habit), told(seed, habit));
            }
        }
    }
}
