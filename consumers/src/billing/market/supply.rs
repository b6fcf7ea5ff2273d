//! What pools have, what of it is promised and lent, and where their GPU-time went.

use hourglass_capacity::calendar::ReservationName;
use hourglass_capacity::nodes::{Node, NodeState};
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::{Loan, Offer, Supply};
use hourglass_ledger::core::State;
use hourglass_units::{Instant, Interval, Quantity};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is left of a pool for spot, term by term, at the instant within its horizon that leaves least: capacity
/// less what cools down, is reserved, is on demand or is kept free, and with what is lent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolSupply)]
pub struct SupplyRow {
    /// What is left.
    pub for_spot: u64,
    /// GPUs that can be used: those of the pool without nodes that do not work.
    pub capacity: u64,
    /// Of them, those that the cloud proved not to have: they are tried again.
    pub cooling_down: u64,
    /// What reservations keep free.
    pub reserved: u64,
    /// What of that its owners lend.
    pub lent: u64,
    /// What runs on demand, or was accepted.
    pub on_demand: u64,
    /// What is kept from spot by the pool's terms.
    pub buffer: u64,
    /// What is missing for reserved and on-demand.
    pub shortfall: u64,
    /// When this leaves least, RFC 3339.
    #[schema(format = DateTime)]
    pub tightest: String,
    /// When it changes next though nobody does anything, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub next_change: Option<String>,
}

/// What is left of a pool for spot, and why; `None` where there is no such pool.
pub fn supply(state: &State, pool: &PoolName) -> Option<SupplyRow> {
    Some(state.market().pool(pool)?.supply_terms(state.now()).into())
}

impl From<Supply> for SupplyRow {
    fn from(it: Supply) -> Self {
        Self {
            for_spot: it.gpus,
            capacity: it.capacity,
            cooling_down: it.cooling_down,
            reserved: it.reserved,
            lent: it.lent,
            on_demand: it.on_demand,
            buffer: it.buffer,
            shortfall: it.shortfall,
            tightest: it.tightest.to_string(),
            next_change: it.next_change.map(|at| at.to_string()),
        }
    }
}

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NodeState)]
pub enum NodeStateRow {
    /// It works.
    Healthy,
    /// Its operator took it out.
    Cordoned,
    /// It is broken.
    Failed,
    /// It works, but for a planned time.
    Maintenance,
}

/// A node, as its operator says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NodeDraft, example = json!({"gpus": 8, "state": "maintenance",
    "from": "2026-12-01T08:00:00Z", "until": "2026-12-01T10:00:00Z"}))]
pub struct NodeDraft {
    /// Its GPUs: 1 to 1,024.
    pub gpus: u64,
    /// How it is.
    pub state: NodeStateRow,
    /// With `maintenance`: from then on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Instant>,
    /// With `maintenance`: until then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Instant>,
}

impl NodeDraft {
    /// As the core takes it; the error says what is missing.
    pub fn node(&self) -> Result<Node, &'static str> {
        let state = match (self.state, self.from, self.until) {
            (NodeStateRow::Healthy, None, None) => NodeState::Healthy,
            (NodeStateRow::Cordoned, None, None) => NodeState::Cordoned,
            (NodeStateRow::Failed, None, None) => NodeState::Failed,
            (NodeStateRow::Maintenance, Some(from), Some(until)) => NodeState::Maintenance(
                Interval::between(from, until).ok_or("its end must be after its start")?,
            ),
            (NodeStateRow::Maintenance, _, _) => return Err("maintenance needs a start and an end"),
            _ => return Err("only maintenance has a start and an end"),
        };
        Ok(Node { gpus: self.gpus, state })
    }
}

/// A node of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolNode)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Its GPUs, and how it is.
    #[serde(flatten)]
    pub is: NodeDraft,
}

/// The nodes of a pool that are known, by name; `None` where there is no such pool.
pub fn nodes(state: &State, pool: &PoolName) -> Option<Vec<NodeRow>> {
    let nodes = state.market().pool(pool)?.stock().nodes();
    let row = |(name, node): (&hourglass_units::NodeId, &Node)| {
        let (state, window) = match node.state {
            NodeState::Healthy => (NodeStateRow::Healthy, None),
            NodeState::Cordoned => (NodeStateRow::Cordoned, None),
            NodeState::Failed => (NodeStateRow::Failed, None),
            NodeState::Maintenance(window) => (NodeStateRow::Maintenance, Some(window)),
        };
        let (from, until) = (window.map(Interval::start), window.map(Interval::end));
        NodeRow { node: name.to_string(), is: NodeDraft { gpus: node.gpus, state, from, until } }
    };
    Some(nodes.iter().map(row).collect())
}

/// Where the GPU-time of a pool went: the parts sum to what it had. Exact decimals, in GPU-hours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolAccount)]
pub struct AccountRow {
    /// What it had.
    pub owned: String,
    /// Of that, what ran inside reservations of its fabric.
    pub reserved: String,
    /// What ran on demand.
    pub on_demand: String,
    /// What ran as spot.
    pub spot: String,
    /// What nobody used.
    pub idle: String,
    /// What could not be used: broken, taken out, in maintenance.
    pub excluded: String,
}

/// Where the GPU-time of a pool went within an interval. `None` where there is no such pool; an error where
/// more ran than there was.
pub fn account(state: &State, pool: &PoolName, within: Interval) -> Option<Result<AccountRow, String>> {
    let split = match state.account_of_pool(pool, within)? {
        Ok(split) => split,
        Err(overfull) => return Some(Err(overfull.to_string())),
    };
    let hours = |gpu_milliseconds: u64| {
        let hours = Quantity::of_gpu_milliseconds(i128::from(gpu_milliseconds));
        hours
            .map(|hours| hours.to_string())
            .ok_or_else(|| "the interval is too long: ask for less".to_owned())
    };
    let parts = [split.reserved, split.on_demand, split.spot, split.idle, split.excluded];
    let owned = parts.into_iter().fold(0, u64::saturating_add);
    let row = || {
        Ok(AccountRow {
            owned: hours(owned)?,
            reserved: hours(split.reserved)?,
            on_demand: hours(split.on_demand)?,
            spot: hours(split.spot)?,
            idle: hours(split.idle)?,
            excluded: hours(split.excluded)?,
        })
    };
    Some(row())
}

/// What an owner lends of its reservation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Loan)]
pub struct LoanRow {
    /// At most so many GPUs of what is idle; all of it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// What its owner will need, and when.
    pub claims: Vec<ClaimRow>,
}

/// GPUs that an owner needs for a time, what it uses already included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Claim)]
pub struct ClaimRow {
    /// How many.
    pub gpus: u64,
    /// From then on, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub from: Instant,
    /// Until then, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub until: Instant,
}

impl From<&Loan> for LoanRow {
    fn from(loan: &Loan) -> Self {
        let at_most = match loan.offer {
            Offer::Automatic => None,
            Offer::AtMost(gpus) => Some(gpus),
        };
        let claim = |it: &hourglass_capacity::supply::Claim| ClaimRow {
            gpus: it.gpus,
            from: it.interval.start(),
            until: it.interval.end(),
        };
        Self { at_most, claims: loan.claims.iter().map(claim).collect() }
    }
}

/// A part of a reservation that is one project's for a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Allowance)]
pub struct AllowanceRow {
    /// Whose.
    pub project: String,
    /// How many GPUs.
    pub gpus: u64,
    /// From then on, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub from: Instant,
    /// Until then, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub until: Instant,
}

/// What is lent of a reservation, and what of it is projects' own, where its pool keeps GPUs free for it.
pub fn loan_and_allowances(
    state: &State,
    pool: &PoolName,
    name: &ReservationName,
) -> (Option<LoanRow>, Vec<AllowanceRow>) {
    let Some(stock) = state.market().pool(pool).map(|pool| pool.stock()) else { return (None, Vec::new()) };
    let allowances = stock.calendar().get(name).map(|it| it.allowances()).unwrap_or_default();
    let allowance = |it: &hourglass_capacity::calendar::Allowance| AllowanceRow {
        project: it.project.to_string(),
        gpus: it.gpus,
        from: it.interval.start(),
        until: it.interval.end(),
    };
    (stock.loans().get(name).map(LoanRow::from), allowances.iter().map(allowance).collect())
}
