//! Bids and their units.

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::market::Bid;
use hourglass_ledger::core::quotas::Target;
use hourglass_ledger::core::{Answer, Detail, State};
use hourglass_units::{BidId, InstanceId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pools::seconds;
use crate::billing::quotas::{StopRow, preemption_of};

/// A bid, and what it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Bid)]
pub struct BidRow {
    /// Its name, one among the tenant's bids that are not over.
    pub bid: String,
    /// Its number: the log position that placed it. Receipts name it so.
    pub number: u64,
    /// For which project.
    pub project: String,
    /// Where it may run, the preferred pool first.
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<PoolName>,
    /// GPUs of a unit; a unit is one instance.
    pub gpus_per_unit: u32,
    /// So many units or none.
    pub min_units: u32,
    /// The most that it wants.
    pub max_units: u32,
    /// The most that it pays per GPU-hour, a decimal.
    pub limit: String,
    /// The notice that it asked for, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_seconds: Option<u32>,
    /// From when on it wins nothing more, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// When it was placed, RFC 3339.
    #[schema(format = DateTime)]
    pub placed_at: String,
    /// Where it stands.
    pub state: BidState,
    /// Where it holds units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pool: Option<PoolName>,
    /// How many units it holds.
    pub units: u32,
    /// What it pays per GPU-hour now, a decimal; absent where it holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Its units that have not stopped, those that are told to stop included.
    pub instances: Vec<UnitRow>,
}

/// Where a bid stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BidState {
    /// It holds nothing, and may win.
    Waiting,
    /// It holds units.
    Winning,
    /// It was taken back, and some of it has not stopped yet.
    Cancelled,
    /// Its time is over, and it holds nothing.
    Expired,
}

impl BidState {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Winning => "winning",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// A unit of a bid: an instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BidUnit)]
pub struct UnitRow {
    /// Which instance.
    pub instance: String,
    /// Where it stands.
    pub state: UnitState,
    /// Why and until when it has to stop, where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopRow>,
}

/// Where a unit stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitState {
    /// It was won, and does not run yet.
    Accepted,
    /// It runs.
    Running,
    /// It was told to stop, and has not yet.
    Stopping,
}

impl UnitState {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// What became of a change of a bid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BidDone {
    /// Where in the log it stands.
    pub position: u64,
    /// The path of the bid.
    pub resource: String,
    /// Its number. Receipts name it so.
    pub number: u64,
}

impl BidDone {
    /// From what the core answered to a command about a bid of a tenant.
    pub fn of(answer: &Answer, tenant: &TenantId, bid: &BidId) -> Option<Self> {
        let Detail::Bid { number } = answer.detail else { return None };
        let resource = format!("/v1/tenants/{tenant}/bids/{bid}");
        Some(Self { position: answer.position.number(), resource, number })
    }
}

/// A tenant's bids that are not over, by name.
pub fn bids<'a>(state: &'a State, tenant: &TenantId) -> impl Iterator<Item = BidRow> + use<'a> {
    state.market().bids_of(tenant).map(|(number, bid)| row(state, number, bid))
}

/// One of them.
pub fn bid(state: &State, tenant: &TenantId, name: &BidId) -> Option<BidRow> {
    state.market().bid(tenant, name).map(|(number, bid)| row(state, number, bid))
}

/// Where a bid stands.
pub(crate) fn state_of(state: &State, bid: &Bid) -> BidState {
    match &bid.held {
        _ if bid.cancelled => BidState::Cancelled,
        Some(_) => BidState::Winning,
        None if bid.has_expired(state.now()) => BidState::Expired,
        None => BidState::Waiting,
    }
}

fn row(state: &State, number: u64, bid: &Bid) -> BidRow {
    let draft = &bid.draft;
    let price = |pool: &PoolName| state.market().pool(pool)?.cleared.map(|it| it.price.to_string());
    BidRow {
        bid: draft.bid.to_string(),
        number,
        project: draft.project.to_string(),
        pools: draft.pools.clone(),
        gpus_per_unit: draft.gpus_per_unit,
        min_units: draft.min_units,
        max_units: draft.max_units,
        limit: draft.limit.to_string(),
        notice_seconds: draft.notice_ms.map(seconds),
        expires_at: draft.expires_at.map(|at| at.to_string()),
        placed_at: bid.placed_at.to_string(),
        state: state_of(state, bid),
        pool: bid.held.as_ref().map(|(pool, _)| pool.clone()),
        units: bid.held.as_ref().map_or(0, |(_, units)| *units),
        price: bid.held.as_ref().and_then(|(pool, _)| price(pool)),
        instances: bid.instances(state).map(|instance| unit(state, instance)).collect(),
    }
}

fn unit(state: &State, instance: &InstanceId) -> UnitRow {
    let stop = preemption_of(state, &Target::Instance(instance.clone()));
    UnitRow { instance: instance.to_string(), state: unit_state(state, instance), stop }
}

/// Where a unit stands.
pub(crate) fn unit_state(state: &State, instance: &InstanceId) -> UnitState {
    let is_told_to_stop = state.quotas().preemption(&Target::Instance(instance.clone())).is_some();
    let runs = state.instance(instance.as_str()).is_some_and(|view| view.running_since().is_some());
    match (is_told_to_stop, runs) {
        (true, _) => UnitState::Stopping,
        (false, true) => UnitState::Running,
        (false, false) => UnitState::Accepted,
    }
}
