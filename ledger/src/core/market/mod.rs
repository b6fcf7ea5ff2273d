//! The spot market in the core: pools and bids in the same log as money and quota.
//!
//! Who wins is decided by the capacity crate; here is what needs the rest of the state: whose bid it is,
//! what quotas and budgets allow, which instances are to run, which have to stop, and what they cost.
//!
//! A unit of a bid is an instance. It is known, and takes quota and budget, from the clearing on that it
//! won; it runs when the compute service says so. A unit that is told to stop keeps its quota until it is
//! seen stopped, and its GPUs go to whoever displaced it: in the books they do so at once, so nobody else
//! can win them while they drain.

mod apply;
mod clear;
mod command;
mod decide;
mod lives;
mod rejection;
mod rooms;
mod supply;

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::auction::MARGIN_DEFAULT_PPM;
use hourglass_capacity::auction::reserve::utilisation;
use hourglass_capacity::cooldown::Cooldown;
use hourglass_capacity::lifecycle::Listed;
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::Supply;
use hourglass_units::{BidId, InstanceId, Instant, Percent, Price, TenantId};
use serde::{Deserialize, Serialize};

use super::metering::InstanceIx;
use super::quotas::{Cause, Quotas, Target};
use super::state::{Instances, State};

pub(crate) use apply::{apply, ordered, stopped};
pub(crate) use clear::clear;
pub use command::{
    Backend, BidChange, BidDraft, CapacitySource, Cleared, MarketCommand, MarketEvent, PoolTerms, Start,
    Stop, SupplyCommand, Trigger,
};
pub(crate) use decide::{check_not_a_unit, check_not_driven, check_not_suspended, decide};
pub use lives::{Due, Life};
pub use rejection::MarketRejection;
pub(crate) use supply::{
    Lending, YIELD_CREDIT_PREFIX, admit_waiting, check_place, check_reservation, check_seat, check_yields,
    follow, is_waiting, pass, place, reserve, starts,
};
pub use supply::{SPANS_MAX, Seat, Stock, TooManySpans};

/// The shortest notice, in milliseconds: what runs is asked to end, and killed so long after that.
pub const NOTICE_MS_MIN: i64 = 60_000;
/// How the names of units begin, as instances.
pub const UNIT_PREFIX: &str = "spot-";
/// The longest notice, in milliseconds.
pub const NOTICE_MS_MAX: i64 = 3_600_000;
/// After its deadline a unit is gone within so long, unless a pool says otherwise, in milliseconds.
pub const DRAIN_MS_DEFAULT: i64 = 120_000;
/// The longest time to drain, in milliseconds.
pub const DRAIN_MS_MAX: i64 = 3_600_000;
/// Most bids of one tenant that are not over.
pub const BIDS_PER_TENANT_MAX: usize = 10_000;

/// All that the core knows of the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Market {
    pub(crate) margin: Percent,
    pub(crate) pools: BTreeMap<PoolName, Pool>,
    /// Bids that are not over, by number.
    pub(crate) bids: BTreeMap<u64, Bid>,
    pub(crate) by_name: BTreeMap<TenantId, BTreeMap<BidId, u64>>,
    /// Whose unit an instance is, until it has stopped.
    pub(crate) units: BTreeMap<InstanceIx, Unit>,
    /// Instances that run in pools and are not spot.
    pub(crate) seats: BTreeMap<InstanceIx, Seat>,
    /// Of them, those that wait until spot has made way.
    pub(crate) seatless: BTreeSet<InstanceIx>,
    /// Units of pools that are driven, from when they are won until nothing is left of them at the cloud.
    pub(crate) lives: BTreeMap<InstanceIx, Life>,
    /// Of them, those that wait for their GPUs.
    pub(crate) waiting: BTreeSet<InstanceIx>,
    /// When the last complete listing of the cloud began.
    pub(crate) listed: Option<Instant>,
    /// What the cloud runs under names of units that we do not know, at that listing.
    pub(crate) strays: Vec<Listed>,
    /// Tenants that may start nothing.
    pub(crate) suspended: BTreeMap<TenantId, Suspension>,
    /// Whether the supply changed since the last clearing.
    pub(crate) supply_changed: bool,
    /// Where the last clearing stands in the log, and when it was.
    pub(crate) cleared: Option<(u64, Instant)>,
    /// A fingerprint of what it cleared.
    pub(crate) input: Option<[u8; 32]>,
}

/// Why a tenant may start nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// For people.
    pub reason: String,
    /// Since when.
    pub since: Instant,
}

/// Whose unit an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// The number of its bid.
    pub(crate) number: u64,
    /// Which one of the bid's.
    pub(crate) unit: u32,
    /// Where it runs.
    pub(crate) pool: PoolName,
    /// Its GPUs.
    pub(crate) gpus: u64,
    /// Whether the compute service said that it started, where this cell does not drive it.
    pub(crate) runs: bool,
    /// Whether it was told to stop.
    pub(crate) stops: bool,
}

/// A pool and how it was cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How it is sold.
    pub terms: PoolTerms,
    /// What the last clearing said.
    pub cleared: Option<PoolCleared>,
    /// GPUs that proved not to be there.
    pub cooldown: Cooldown,
    /// What it has, and what of it is not for spot.
    pub(crate) stock: Stock,
    /// What the last clearing had for spot, and why.
    pub supplied: Option<Supply>,
    /// GPUs of nodes that were out by then.
    pub(crate) out_then: u64,
    /// GPUs that driven units take, or may take.
    pub(crate) taken: u64,
    /// Whose GPUs spot ran on.
    pub(crate) lending: Lending,
}

/// What the last clearing said of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCleared {
    /// When.
    pub at: Instant,
    /// Where it stands in the log.
    pub position: u64,
    /// Per GPU-hour.
    pub price: Price,
    /// GPUs that winners have.
    pub sold: u64,
    /// GPUs that nobody has.
    pub free: u64,
}

/// A bid and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// Whose.
    pub tenant: TenantId,
    /// As it stands now.
    pub draft: BidDraft,
    /// When it was placed.
    pub placed_at: Instant,
    /// Whether it was taken back.
    pub cancelled: bool,
    /// What the last clearing gave it, less what was told to stop since.
    pub held: Option<(PoolName, u32)>,
    /// Why it holds fewer units than its gang, if it does.
    pub(crate) broken_by: Option<Cause>,
    /// Units that are known and have not stopped, by their number.
    pub(crate) units: BTreeMap<u32, InstanceIx>,
    /// Units that it ever had.
    pub(crate) units_made: u32,
}

impl Default for Market {
    fn default() -> Self {
        Self {
            margin: Percent::from_ppm(MARGIN_DEFAULT_PPM).unwrap_or(Percent::ZERO),
            pools: BTreeMap::new(),
            bids: BTreeMap::new(),
            by_name: BTreeMap::new(),
            units: BTreeMap::new(),
            seats: BTreeMap::new(),
            seatless: BTreeSet::new(),
            lives: BTreeMap::new(),
            waiting: BTreeSet::new(),
            listed: None,
            strays: Vec::new(),
            suspended: BTreeMap::new(),
            supply_changed: false,
            cleared: None,
            input: None,
        }
    }
}

impl Market {
    /// By how much a bid must exceed what runs to displace it.
    pub fn margin(&self) -> Percent {
        self.margin
    }

    /// All pools, by name.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolName, &Pool)> {
        self.pools.iter()
    }

    /// One of them.
    pub fn pool(&self, name: &PoolName) -> Option<&Pool> {
        self.pools.get(name)
    }

    /// A tenant's bids that are not over, by name, with their numbers.
    pub fn bids_of<'a>(&'a self, tenant: &TenantId) -> impl Iterator<Item = (u64, &'a Bid)> + use<'a> {
        let numbers = self.by_name.get(tenant).into_iter().flat_map(BTreeMap::values);
        numbers.filter_map(|number| Some((*number, self.bids.get(number)?)))
    }

    /// A tenant's bid of a name.
    pub fn bid(&self, tenant: &TenantId, name: &BidId) -> Option<(u64, &Bid)> {
        let number = self.by_name.get(tenant)?.get(name)?;
        Some((*number, self.bids.get(number)?))
    }

    /// The bid of a number.
    pub fn numbered(&self, number: u64) -> Option<&Bid> {
        self.bids.get(&number)
    }

    /// Whose unit an instance is that has not stopped, by the number of the bid.
    pub fn bid_of(&self, state: &State, instance: &InstanceId) -> Option<u64> {
        let ix = state.instances.find(instance.as_str())?;
        self.units.get(&ix).map(|unit| unit.number)
    }

    /// Where the last clearing stands in the log, and when it was.
    pub fn cleared(&self) -> Option<(u64, Instant)> {
        self.cleared
    }

    /// What the cloud runs under names of units that nobody knows, at the last complete listing.
    pub fn strays(&self) -> &[Listed] {
        &self.strays
    }

    /// When the last complete listing of the cloud began.
    pub fn listed(&self) -> Option<Instant> {
        self.listed
    }

    /// Why a tenant may start nothing, where that is so.
    pub fn suspension(&self, tenant: &TenantId) -> Option<&Suspension> {
        self.suspended.get(tenant)
    }

    /// Whether the supply changed since the last clearing: the next one should not wait for its time.
    pub fn is_due(&self, now: Instant) -> bool {
        self.supply_changed || self.pools.values().any(|pool| pool.is_due(now))
    }
}

impl Pool {
    /// A new one.
    pub(crate) fn new(terms: PoolTerms, at: Instant) -> Self {
        let mut stock = Stock::default();
        stock.set_owned(terms.gpus, at);
        let (cooldown, lending) = (Cooldown::default(), Lending::default());
        Self { terms, cleared: None, cooldown, stock, supplied: None, out_then: 0, taken: 0, lending }
    }

    /// GPUs that driven units take, or may take.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Nobody pays less, with such a supply: by the share of the pool that is kept from spot.
    pub fn reserve(&self, supply: &Supply) -> Price {
        let promised = supply.reserved.saturating_sub(supply.lent);
        let kept = promised.saturating_add(supply.on_demand).saturating_add(supply.buffer);
        self.terms.reserve.price_at(utilisation(kept.min(supply.capacity), supply.capacity))
    }
}

impl Bid {
    /// The units that are to go on, by number, newest last.
    pub(crate) fn live<'a>(
        &'a self,
        quotas: &'a Quotas,
        instances: &'a Instances,
    ) -> impl DoubleEndedIterator<Item = (u32, &'a InstanceId)> {
        self.units.iter().filter_map(|(unit, ix)| {
            let id = &instances.get(*ix)?.id;
            let goes_on = quotas.preemption(&Target::Instance(id.clone())).is_none();
            goes_on.then_some((*unit, id))
        })
    }

    /// Units that are known and have not stopped, in the order in which they were won.
    pub fn instances<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a InstanceId> {
        self.units.values().filter_map(|ix| Some(&state.instances.get(*ix)?.id))
    }

    /// How many of its units are to go on.
    pub fn units_going_on(&self, state: &State) -> usize {
        self.live(&state.quotas, &state.instances).count()
    }

    /// As it stands after a change.
    pub(crate) fn changed(&self, change: &BidChange) -> BidDraft {
        let mut draft = self.draft.clone();
        let BidChange { limit, min_units, max_units, expires_at } = *change;
        draft.limit = limit.unwrap_or(draft.limit);
        draft.min_units = min_units.unwrap_or(draft.min_units);
        draft.max_units = max_units.unwrap_or(draft.max_units);
        draft.expires_at = expires_at.or(draft.expires_at);
        draft
    }

    /// Whether it wins nothing more.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.draft.expires_at.is_some_and(|end| end <= now)
    }
}

impl Start {
    /// The units, as instances.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> {
        let units = self.first..self.first.saturating_add(self.count);
        units.filter_map(|unit| unit_name(self.number, unit).ok())
    }
}

/// The name of a unit as an instance.
pub(crate) fn unit_name(number: u64, unit: u32) -> Result<InstanceId, hourglass_units::IdError> {
    format!("{UNIT_PREFIX}{number}-{unit}").parse()
}
