//! Why something about the market is refused.

use hourglass_capacity::auction::{BIDS_MAX, BookError, POOLS_MAX, SUPPLY_MAX};
use hourglass_capacity::calendar::{Refusal, ReservationError};
use hourglass_capacity::lifecycle::IllegalTransition;
use hourglass_capacity::nodes::{CAPACITY_INTERVALS_MAX, NodesError};
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::CLAIMS_MAX;
use hourglass_units::{
    BidId, Currency, Fabric, InstanceId, Instant, NodeId, ProjectId, Region, ReservationId, TenantId,
};

use super::{BIDS_PER_TENANT_MAX, DRAIN_MS_MAX, NOTICE_MS_MAX, NOTICE_MS_MIN};

/// Why something about the market is refused, in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarketRejection {
    /// A pool of another region.
    #[error("this cell serves {region}: {pool} is another one's pool")]
    PoolElsewhere {
        /// Which.
        pool: PoolName,
        /// The cell's.
        region: Region,
    },
    /// No such pool.
    #[error("there is no pool {pool}: list the pools to see which there are")]
    PoolUnknown {
        /// Which.
        pool: PoolName,
    },
    /// Too many pools.
    #[error("the cell has {POOLS_MAX} pools: no more fit")]
    PoolsFull,
    /// Another currency.
    #[error("pool {pool} has prices in {currency}, for as long as there is a bid for it")]
    PoolCurrencyFixed {
        /// Which.
        pool: PoolName,
        /// Its currency.
        currency: Currency,
    },
    /// A notice that nobody can keep, or too long a one.
    #[error("a notice is {} to {} seconds long", NOTICE_MS_MIN / 1_000, NOTICE_MS_MAX / 1_000)]
    NoticeOutOfRange,
    /// A tenant that pays in another currency.
    #[error("pool {pool} has prices in {pool_currency}, and the tenant is billed in {currency}")]
    CurrencyDiffers {
        /// Which.
        pool: PoolName,
        /// Of the pool.
        pool_currency: Currency,
        /// Of the tenant.
        currency: Currency,
    },
    /// A bid of that name.
    #[error("bid {bid} exists: choose another name, change it, or wait until all of it has stopped")]
    BidExists {
        /// Which.
        bid: BidId,
    },
    /// No such bid.
    #[error("there is no bid {bid}, or it is over")]
    BidUnknown {
        /// Which.
        bid: BidId,
    },
    /// It was taken back.
    #[error("bid {bid} was taken back: place another one")]
    BidCancelled {
        /// Which.
        bid: BidId,
    },
    /// Too many bids.
    #[error("the cell has {BIDS_MAX} bids, or the tenant has {BIDS_PER_TENANT_MAX}: cancel some")]
    BidsFull,
    /// A pool named twice.
    #[error("the bid names {pool} twice: once is enough")]
    PoolTwice {
        /// Which.
        pool: PoolName,
    },
    /// A bid that no auction takes.
    #[error(transparent)]
    Bid(#[from] BookError),
    /// Nothing is offered.
    #[error("a limit price is above zero")]
    LimitZero,
    /// Larger than any of its pools.
    #[error("the bid wants at least {gpus} GPUs in one pool, and its largest pool has {supply}")]
    AboveSupply {
        /// What it wants at least.
        gpus: u64,
        /// The most that one of its pools has.
        supply: u64,
    },
    /// It ends before it begins.
    #[error("the bid would be over at once: let it expire later, or never")]
    ExpiresInThePast,
    /// The gang cannot grow while it runs.
    #[error("{held} units run: a larger gang is another bid; cancel this one and place that")]
    GangRuns {
        /// So many.
        held: u32,
    },
    /// What a bid won.
    #[error("{instance} is a unit of bid {bid}: change the bid")]
    IsAUnit {
        /// Which.
        instance: InstanceId,
        /// Of which bid.
        bid: BidId,
    },
    /// Nothing that is driven.
    #[error("{instance} is no unit that this cell drives, or nothing of it is left")]
    NoLife {
        /// Which.
        instance: InstanceId,
    },
    /// What cannot be reported.
    #[error(transparent)]
    Life(#[from] IllegalTransition),
    /// A listing that is another cloud's.
    #[error("the listing has more instances than a cell can")]
    ListingTooLong,
    /// It was known, or came too late.
    #[error("that is known already")]
    NothingNew,
    /// A time to drain that nobody waits for, or a look ahead below zero.
    #[error("spot drains in 0 to {} seconds, and a look ahead is 0 or longer", DRAIN_MS_MAX / 1_000)]
    DrainOutOfRange,
    /// More than spot pays.
    #[error("the owners' share is at most 100 % of what spot pays")]
    OwnerShareAboveWhole,
    /// What no node can be.
    #[error(transparent)]
    Node(#[from] NodesError),
    /// Nodes that the pool does not have.
    #[error("nodes with {of_nodes} GPUs would be known, and {pool} has {gpus}: give the pool more first")]
    NodesExceedPool {
        /// Which pool.
        pool: PoolName,
        /// GPUs of all its nodes.
        of_nodes: u64,
        /// GPUs of the pool.
        gpus: u64,
    },
    /// Maintenance in the past.
    #[error("the maintenance of {node} would be over already: give an end in the future")]
    MaintenanceOver {
        /// Which.
        node: NodeId,
    },
    /// A place for what has one by its bid.
    #[error("a spot instance names its fabric in its mode, if any: leave the other one out")]
    FabricOfSpot,
    /// Not where its reservation is.
    #[error("reservation {reservation} is of fabric {fabric}: start the instance there, or on demand")]
    FabricDiffers {
        /// Which.
        reservation: ReservationId,
        /// Where it is.
        fabric: Fabric,
    },
    /// No GPUs for on-demand.
    #[error(
        "{pool} has room for {room} GPUs on demand, not for {gpus}: the others are used, reserved, or will be from {tightest} on"
    )]
    PoolFull {
        /// Which.
        pool: PoolName,
        /// Asked for.
        gpus: u32,
        /// How many may start.
        room: u64,
        /// The instant that leaves no more.
        tightest: Instant,
    },
    /// The project has its part.
    #[error(
        "project {project} may use {left} GPUs more of reservation {reservation}: its owner can assign more"
    )]
    AllowanceUsed {
        /// Of which.
        reservation: ReservationId,
        /// Whose part.
        project: ProjectId,
        /// What is left of it.
        left: u64,
    },
    /// A reservation of no pool.
    #[error("reservation {reservation} names no fabric: no GPUs are kept free for it")]
    WithoutFabric {
        /// Which.
        reservation: ReservationId,
    },
    /// It has ended.
    #[error("reservation {reservation} is over")]
    ReservationOver {
        /// Which.
        reservation: ReservationId,
    },
    /// Nothing of it is lent.
    #[error("reservation {reservation} is not lent: lend it first")]
    NotLent {
        /// Which.
        reservation: ReservationId,
    },
    /// A claim that asks for nothing.
    #[error("a claim is for 1 GPU or more, and its end is in the future")]
    ClaimOfNothing,
    /// Too many claims.
    #[error("reservation {reservation} has {CLAIMS_MAX} claims that are not over: claim more at once")]
    ClaimsFull {
        /// Of which.
        reservation: ReservationId,
    },
    /// Parts that do not fit the whole.
    #[error(transparent)]
    Allowances(#[from] ReservationError),
    /// C-1: the pool has promised its GPUs to others.
    #[error(transparent)]
    Calendar(Box<Refusal>),
    /// Units of it live at the provider.
    #[error("units of {pool} live at the provider: its backend can change when they are gone")]
    BackendFixed {
        /// Which.
        pool: PoolName,
    },
    /// Its GPUs are the operator's word.
    #[error("the operator says how many GPUs {pool} has: change its terms")]
    CapacityOfOperator {
        /// Which.
        pool: PoolName,
    },
    /// More than a pool can have.
    #[error(
        "{pool} cannot have that: {CAPACITY_INTERVALS_MAX} intervals at most, and {SUPPLY_MAX} GPUs at once"
    )]
    CapacityInvalid {
        /// Which.
        pool: PoolName,
    },
    /// The tenant may start nothing.
    #[error("tenant {tenant} is suspended: nothing of it starts until it is resumed")]
    Suspended {
        /// Who.
        tenant: TenantId,
    },
    /// There is nothing to resume.
    #[error("tenant {tenant} is not suspended")]
    NotSuspended {
        /// Who.
        tenant: TenantId,
    },
    /// Clearing would change nothing.
    #[error("nothing is to be cleared: no bid and no price would change")]
    NothingToClear,
}

impl MarketRejection {
    /// A stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PoolElsewhere { .. } => "pool_elsewhere",
            Self::PoolUnknown { .. } => "pool_unknown",
            Self::PoolsFull => "pools_full",
            Self::PoolCurrencyFixed { .. } => "pool_currency_fixed",
            Self::NoticeOutOfRange => "notice_out_of_range",
            Self::CurrencyDiffers { .. } => "currency_differs",
            Self::BidExists { .. } => "bid_exists",
            Self::BidUnknown { .. } => "bid_unknown",
            Self::BidCancelled { .. } => "bid_cancelled",
            Self::BidsFull => "bids_full",
            Self::PoolTwice { .. } => "pool_twice",
            Self::Bid(_) => "bid_invalid",
            Self::LimitZero => "limit_zero",
            Self::AboveSupply { .. } => "above_supply",
            Self::ExpiresInThePast => "expires_in_the_past",
            Self::GangRuns { .. } => "gang_runs",
            Self::IsAUnit { .. } => "is_a_unit",
            Self::NoLife { .. } => "unit_unknown",
            Self::Life(_) => "not_due",
            Self::ListingTooLong => "listing_invalid",
            Self::NothingNew => "nothing_new",
            Self::DrainOutOfRange => "drain_out_of_range",
            Self::OwnerShareAboveWhole => "owner_share_invalid",
            Self::Node(_) => "node_invalid",
            Self::NodesExceedPool { .. } => "nodes_exceed_pool",
            Self::MaintenanceOver { .. } => "maintenance_over",
            Self::FabricOfSpot => "fabric_of_spot",
            Self::FabricDiffers { .. } => "fabric_differs",
            Self::PoolFull { .. } => "pool_full",
            Self::AllowanceUsed { .. } => "allowance_used",
            Self::WithoutFabric { .. } => "without_fabric",
            Self::ReservationOver { .. } => "reservation_over",
            Self::NotLent { .. } => "not_lent",
            Self::ClaimOfNothing => "claim_of_nothing",
            Self::ClaimsFull { .. } => "claims_full",
            Self::Allowances(_) => "allowances_invalid",
            Self::Calendar(_) => "over_promise",
            Self::BackendFixed { .. } => "backend_fixed",
            Self::CapacityOfOperator { .. } => "capacity_of_operator",
            Self::CapacityInvalid { .. } => "capacity_invalid",
            Self::Suspended { .. } => "tenant_suspended",
            Self::NotSuspended { .. } => "not_suspended",
            Self::NothingToClear => "nothing_to_clear",
        }
    }
}
