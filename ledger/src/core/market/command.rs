//! What can be asked of the market, and what happens in it.

use hourglass_capacity::auction::Mode as ClearingMode;
use hourglass_capacity::auction::receipt::Receipt;
use hourglass_capacity::auction::reserve::ReservePolicy;
use hourglass_capacity::calendar::{Allowance, ReservationName};
use hourglass_capacity::lifecycle::{Fact, Listing, Reclaim};
use hourglass_capacity::nodes::Node;
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::{Claim, Offer};
use hourglass_units::{
    BidId, Currency, InstanceId, Instant, Interval, NodeId, Percent, Price, ProjectId, ReservationId,
    TenantId,
};
use serde::{Deserialize, Serialize};

use crate::core::event::EventKind;
use crate::core::quotas::Cause;

/// Something to do about pools and bids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "market", rename_all = "snake_case")]
pub enum MarketCommand {
    /// Opens a pool, or gives it other terms.
    SetPool {
        /// Which; of the cell's own region.
        pool: PoolName,
        /// How it is sold.
        terms: PoolTerms,
    },
    /// Bids for GPUs.
    PlaceBid {
        /// Whose.
        tenant: TenantId,
        /// What for.
        bid: BidDraft,
    },
    /// Changes a bid. What is absent stays.
    UpdateBid {
        /// Whose.
        tenant: TenantId,
        /// Which.
        bid: BidId,
        /// What is to change.
        change: BidChange,
    },
    /// Takes a bid back. What runs of it is told to stop.
    CancelBid {
        /// Whose.
        tenant: TenantId,
        /// Which.
        bid: BidId,
    },
    /// Changes by how much a bid must exceed what runs to displace it.
    SetMargin {
        /// A share of the limit of what runs.
        margin: Percent,
    },
    /// Clears all pools.
    Clear {
        /// Why now.
        trigger: Trigger,
    },
    /// What the driver learnt of one unit.
    Report {
        /// Of which.
        instance: InstanceId,
        /// What.
        fact: Fact,
    },
    /// What the cloud lists.
    List {
        /// All of it.
        listing: Listing,
    },
    /// Something about what pools have and have promised.
    Supply(SupplyCommand),
    /// A tenant may start nothing any more, and what it runs is told to stop.
    Suspend {
        /// Who.
        tenant: TenantId,
        /// Why, for people.
        reason: String,
    },
    /// It may again.
    Resume {
        /// Who.
        tenant: TenantId,
    },
}

/// Something to do about what a pool has, and what of it is promised and lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "supply", rename_all = "snake_case")]
pub enum SupplyCommand {
    /// Says how a node is: what does not work is not sold.
    SetNode {
        /// Of which pool.
        pool: PoolName,
        /// Which.
        node: NodeId,
        /// How it is from now on; forgotten where absent.
        to: Option<Node>,
    },
    /// What the cloud says that a pool has.
    ReadCapacity {
        /// Which.
        pool: PoolName,
        /// From now on. Where intervals overlap, they add up.
        intervals: Vec<(Interval, u64)>,
    },
    /// Lends what is idle of a reservation to spot.
    Lend {
        /// Whose.
        tenant: TenantId,
        /// Which.
        reservation: ReservationId,
        /// How much; nothing any more where absent.
        offer: Option<Offer>,
    },
    /// Says when the owner of what is lent will need how much of it.
    Claim {
        /// Whose.
        tenant: TenantId,
        /// Of which reservation.
        reservation: ReservationId,
        /// How much, and when.
        claim: Claim,
    },
    /// Assigns parts of a reservation to projects, in place of what was assigned before.
    Assign {
        /// Whose.
        tenant: TenantId,
        /// Which.
        reservation: ReservationId,
        /// The parts; the rest is anybody's.
        allowances: Vec<Allowance>,
    },
}

impl SupplyCommand {
    /// Of which reservation it is, where it is of one.
    pub fn reservation(&self) -> Option<(&TenantId, &ReservationId)> {
        match self {
            Self::Lend { tenant, reservation, .. }
            | Self::Claim { tenant, reservation, .. }
            | Self::Assign { tenant, reservation, .. } => Some((tenant, reservation)),
            Self::SetNode { .. } | Self::ReadCapacity { .. } => None,
        }
    }
}

/// How a pool is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTerms {
    /// Of its prices. Only tenants that are billed in it can bid.
    pub currency: Currency,
    /// GPUs that it has.
    pub gpus: u64,
    /// So many of them are never sold as spot.
    #[serde(default)]
    pub safety_buffer: u64,
    /// Nobody pays less: a table over the share of the pool that is not for spot.
    pub reserve: ReservePolicy,
    /// How it decides who wins.
    #[serde(default = "greedy")]
    pub mode: ClearingMode,
    /// A gang larger than this share of the supply is refused.
    #[serde(default = "whole")]
    pub gang_max: Percent,
    /// What loses has so long until it must have stopped, in milliseconds: at least
    /// [`super::NOTICE_MS_MIN`].
    #[serde(default = "notice")]
    pub notice_ms: i64,
    /// Whether this cell brings units up and down through the compute API. Where not, the compute service does
    /// it, and says so.
    #[serde(default)]
    pub driven: bool,
    /// After its deadline a unit is gone within so long, in milliseconds: so much earlier spot makes way.
    #[serde(default = "drain")]
    pub drain_ms: i64,
    /// How far ahead on-demand and reservations keep out of each other's way, in milliseconds; always where
    /// absent, since an on-demand instance has no end.
    #[serde(default)]
    pub look_ahead_ms: Option<i64>,
    /// What owners who lend idle reserved GPUs get of what spot pays for them.
    #[serde(default = "nothing")]
    pub owner_share: Percent,
    /// What kind of instances its units are, where this cell drives them.
    #[serde(default)]
    pub backend: Backend,
    /// Who says how many GPUs it has.
    #[serde(default)]
    pub capacity: CapacitySource,
}

/// What kind of instances units are at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Regular ones, in capacity that is ours: nobody stops them but us.
    #[default]
    Regular,
    /// Preemptible ones: the provider takes them back when it needs them.
    Preemptible,
}

/// Who says how many GPUs a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacitySource {
    /// The operator, in the pool's terms.
    #[default]
    Operator,
    /// The provider: the capacity intervals that are reserved there.
    Intervals,
    /// The provider: what it says could be had at once, and what units have already.
    Advice,
}

fn drain() -> i64 {
    super::DRAIN_MS_DEFAULT
}

fn nothing() -> Percent {
    Percent::ZERO
}

impl PoolTerms {
    /// A pool with this many GPUs at this reserve price, and what holds where nothing else is said.
    pub fn new(currency: Currency, gpus: u64, reserve: ReservePolicy) -> Self {
        Self {
            currency,
            gpus,
            safety_buffer: 0,
            reserve,
            mode: greedy(),
            gang_max: whole(),
            notice_ms: notice(),
            driven: false,
            drain_ms: drain(),
            look_ahead_ms: None,
            owner_share: nothing(),
            backend: Backend::default(),
            capacity: CapacitySource::default(),
        }
    }
}

fn greedy() -> ClearingMode {
    ClearingMode::Greedy
}

fn whole() -> Percent {
    Percent::WHOLE
}

fn notice() -> i64 {
    super::NOTICE_MS_MIN
}

/// A bid, as its owner words it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BidDraft {
    /// Its name, one among the tenant's bids that are not over.
    pub bid: BidId,
    /// For which project.
    pub project: ProjectId,
    /// Where it may run, the preferred pool first.
    pub pools: Vec<PoolName>,
    /// GPUs of a unit; a unit is one instance.
    pub gpus_per_unit: u32,
    /// So many units or none.
    pub min_units: u32,
    /// The most that it wants.
    pub max_units: u32,
    /// The most that it pays for a GPU-hour.
    pub limit: Price,
    /// It wants at least so long a notice, in milliseconds. It gets the pool's if that is longer.
    #[serde(default)]
    pub notice_ms: Option<i64>,
    /// From then on it wins nothing more; what runs goes on. It has no end where absent.
    #[serde(default)]
    pub expires_at: Option<Instant>,
}

/// What is to change about a bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BidChange {
    /// The most that it pays for a GPU-hour, from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Price>,
    /// So many units or none: not more than it holds while something runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_units: Option<u32>,
    /// The most that it wants. What runs beyond it is told to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_units: Option<u32>,
    /// From then on it wins nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,
}

/// Why pools are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The market's clock.
    Tick,
    /// The supply changed.
    Supply,
    /// Somebody asked.
    Asked,
}

impl Trigger {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Supply => "supply",
            Self::Asked => "asked",
        }
    }
}

/// Something that happened in the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "market", rename_all = "snake_case")]
pub enum MarketEvent {
    /// A pool has terms.
    PoolSet {
        /// Which.
        pool: PoolName,
        /// How it is sold.
        terms: PoolTerms,
    },
    /// A bid must exceed what runs by so much to displace it.
    MarginSet {
        /// A share of the limit of what runs.
        margin: Percent,
    },
    /// A bid is in the book. Its number is the event's position.
    BidPlaced {
        /// Whose.
        tenant: TenantId,
        /// What for.
        bid: BidDraft,
    },
    /// A bid is another one.
    BidUpdated {
        /// Its number.
        number: u64,
        /// What changed.
        change: BidChange,
        /// What has to stop.
        stops: Vec<Stop>,
    },
    /// A bid was taken back.
    BidCancelled {
        /// Its number.
        number: u64,
        /// What has to stop.
        stops: Vec<Stop>,
    },
    /// Pools were cleared.
    Cleared(Box<Cleared>),
    /// A node is another one.
    NodeSet {
        /// Of which pool.
        pool: PoolName,
        /// Which.
        node: NodeId,
        /// How it is; forgotten where absent.
        to: Option<Node>,
    },
    /// The provider says that a pool has other GPUs than were known.
    CapacityRead {
        /// Which.
        pool: PoolName,
        /// From now on.
        intervals: Vec<(Interval, u64)>,
    },
    /// A tenant may start nothing any more.
    Suspended {
        /// Who.
        tenant: TenantId,
        /// Why, for people.
        reason: String,
        /// What has to stop.
        stops: Vec<Stop>,
    },
    /// A tenant may start instances again.
    Resumed {
        /// Who.
        tenant: TenantId,
    },
    /// An owner lends another part of its reservation.
    Lent {
        /// In which pool.
        pool: PoolName,
        /// Of which reservation.
        name: ReservationName,
        /// How much; nothing any more where absent.
        offer: Option<Offer>,
    },
    /// An owner will need what it lent.
    AskedBack {
        /// In which pool.
        pool: PoolName,
        /// Of which reservation.
        name: ReservationName,
        /// How much, and when.
        claim: Claim,
    },
    /// Parts of a reservation are projects' own.
    Assigned {
        /// In which pool.
        pool: PoolName,
        /// Of which reservation.
        name: ReservationName,
        /// The parts.
        allowances: Vec<Allowance>,
    },
    /// Something was learnt of units.
    Learnt {
        /// What, by unit.
        facts: Vec<(InstanceId, Fact)>,
        /// The complete listing that it was learnt of.
        listing: Option<Listed>,
    },
}

impl MarketEvent {
    /// The name of the kind, for listings.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::PoolSet { .. } => EventKind::PoolSet,
            Self::MarginSet { .. } => EventKind::MarketMarginSet,
            Self::BidPlaced { .. } => EventKind::BidPlaced,
            Self::BidUpdated { .. } => EventKind::BidUpdated,
            Self::BidCancelled { .. } => EventKind::BidCancelled,
            Self::Cleared(_) => EventKind::MarketCleared,
            Self::Learnt { .. } => EventKind::UnitsLearnt,
            Self::NodeSet { .. } => EventKind::NodeSet,
            Self::Lent { .. } => EventKind::ReservationLent,
            Self::CapacityRead { .. } => EventKind::CapacityRead,
            Self::Suspended { .. } => EventKind::TenantSuspended,
            Self::Resumed { .. } => EventKind::TenantResumed,
            Self::AskedBack { .. } => EventKind::ReservationAskedBack,
            Self::Assigned { .. } => EventKind::ReservationAssigned,
        }
    }
}

/// A complete listing of the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// When it began.
    pub began: Instant,
    /// Instances under names of units that are none.
    pub strays: Vec<hourglass_capacity::lifecycle::Listed>,
}

/// A clearing, and what follows from it. It holds all that is needed to run it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// Why it was cleared.
    pub trigger: Trigger,
    /// The whole input and the outcome.
    pub receipt: Receipt,
    /// Units that are to start, by the number of their bid.
    pub starts: Vec<Start>,
    /// What has to stop.
    pub stops: Vec<Stop>,
    /// Numbers of bids that are over: their time has passed, and nothing of them runs.
    pub expired: Vec<u64>,
}

/// Units of a bid that are to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The number of the bid.
    pub number: u64,
    /// Where.
    pub pool: PoolName,
    /// The first of them, counted over all units that the bid ever had.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Something that has to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub instance: InstanceId,
    /// why.
    pub cause: Cause,
    /// Who displaced it, by the number of the bid.
    #[serde(default)]
    pub by: Option<u64>,
    /// For what the pool's supply went, where that is the cause.
    #[serde(default)]
    pub reclaim: Option<Reclaim>,
    /// When it must have stopped.
    pub deadline: Instant,
}
