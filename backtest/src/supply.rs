//! What pools have for spot, over time.

use hourglass_capacity::auction::{POOLS_MAX, PoolIx, SUPPLY_MAX};
use hourglass_capacity::pool::PoolName;
use serde::Deserialize;

use crate::error::{BacktestError, check_bounds};
use crate::table::Table;

/// Latest second of a file: more than thirty thousand years.
pub const SECOND_MAX: u64 = 1 << 40;
/// Most changes of a pool's supply.
pub const CHANGES_MAX: u64 = 100_000;
/// Region and fabric of pools that are read from a list of nodes.
const NODE_LIST_POOL: (&str, &str) = ("openb", "all");

/// Pools, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supply {
    pools: Vec<PoolSupply>,
}

/// What one pool has for spot, over time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSupply {
    /// Which.
    pub name: PoolName,
    /// GPUs for spot from the start.
    pub gpus: u64,
    /// All of its GPUs, those included that are reserved or used on demand. Without it, the most that are
    /// ever for spot.
    capacity: Option<u64>,
    /// What changes, the earliest first: reservations and on-demand take GPUs and give them back.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// From a second on, so many GPUs are for spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// On the clock of the trace.
    pub at: u64,
    /// So many.
    pub gpus: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SupplyFile {
    pools: Vec<PoolSupply>,
}

impl Supply {
    /// Reads and checks a supply file.
    pub fn parse(text: &str) -> Result<Self, BacktestError> {
        let file: SupplyFile =
            toml::from_str(text).map_err(|error| BacktestError::Toml(error.to_string()))?;
        Self::new(file.pools)
    }

    /// Reads a list of nodes as OpenB has it, a CSV with the columns `gpu` and `model`: a pool for each
    /// model, named `openb/MODEL/all`, whose supply never changes.
    pub fn parse_nodes(text: &str) -> Result<Self, BacktestError> {
        let mut pools: Vec<PoolSupply> = Vec::new();
        let mut table = Table::new(text)?;
        let (gpu, model) = (table.require("gpu")?, table.require("model")?);
        while let Some(row) = table.next_row()? {
            let gpus = row.number(&gpu, (0, SUPPLY_MAX))?;
            let (region, fabric) = NODE_LIST_POOL;
            let name: PoolName = row.parse_as(&model, |text| format!("{region}/{text}/{fabric}").parse())?;
            match pools.iter_mut().find(|pool| pool.name == name) {
                Some(pool) => pool.gpus = pool.gpus.saturating_add(gpus),
                None => pools.push(PoolSupply { name, gpus, capacity: None, changes: Vec::new() }),
            }
        }
        Self::new(pools)
    }

    /// Checks pools and puts them in the order of their names.
    fn new(mut pools: Vec<PoolSupply>) -> Result<Self, BacktestError> {
        check_bounds("the number of pools", pools.len() as u64, (1, POOLS_MAX as u64))?;
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        for pair in pools.windows(2) {
            if let [one, other] = pair
                && one.name == other.name
            {
                return Err(BacktestError::DuplicatePool { pool: one.name.clone() });
            }
        }
        pools.iter().try_for_each(PoolSupply::check)?;
        Ok(Self { pools })
    }

    /// The pools, in the order of their names.
    pub fn pools(&self) -> &[PoolSupply] {
        &self.pools
    }

    /// The number of a pool.
    pub fn find(&self, name: &PoolName) -> Option<PoolIx> {
        let at = self.pools.binary_search_by(|pool| pool.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(PoolIx)
    }
}

impl PoolSupply {
    fn check(&self) -> Result<(), BacktestError> {
        let gpus = |gpus| check_bounds(format!("gpus of pool {}", self.name), gpus, (0, SUPPLY_MAX));
        gpus(self.gpus)?;
        let changes = self.changes.len() as u64;
        check_bounds(format!("the number of changes of pool {}", self.name), changes, (0, CHANGES_MAX))?;
        let mut before = None;
        for Change { at, gpus: changed } in self.changes.iter().copied() {
            gpus(changed)?;
            check_bounds(format!("at of pool {}", self.name), at, (0, SECOND_MAX))?;
            if let Some(before) = before.filter(|before| *before >= at) {
                return Err(BacktestError::ChangeOrder { pool: self.name.clone(), at, before });
            }
            before = Some(at);
        }
        let most = self.most();
        check_bounds(format!("capacity of pool {}", self.name), self.capacity(), (most, SUPPLY_MAX))
    }

    fn most(&self) -> u64 {
        self.changes.iter().map(|change| change.gpus).fold(self.gpus, u64::max)
    }

    /// All of its GPUs.
    pub fn capacity(&self) -> u64 {
        self.capacity.unwrap_or_else(|| self.most())
    }

    /// GPUs for spot at a second.
    pub fn at(&self, second: u64) -> u64 {
        let after = self.changes.partition_point(|change| change.at <= second);
        let last = after.checked_sub(1).and_then(|last| self.changes.get(last));
        last.map_or(self.gpus, |change| change.gpus)
    }

    /// The fewest GPUs at any second from one to another, both included: what can be sold now, if what is
    /// sold needs so long to be given back.
    pub fn least_within(&self, from: u64, to: u64) -> u64 {
        let first = self.changes.partition_point(|change| change.at <= from);
        let within = self.changes.iter().skip(first).take_while(|change| change.at <= to);
        within.map(|change| change.gpus).fold(self.at(from), u64::min)
    }

    /// GPU-seconds from one second to another.
    pub fn gpu_seconds(&self, from: u64, to: u64) -> u128 {
        let first = self.changes.partition_point(|change| change.at <= from);
        let mut sum = 0_u128;
        let (mut since, mut gpus) = (from, self.at(from));
        for change in self.changes.iter().skip(first).take_while(|change| change.at < to) {
            sum = sum.saturating_add(gpu_seconds(gpus, change.at.saturating_sub(since)));
            (since, gpus) = (change.at, change.gpus);
        }
        sum.saturating_add(gpu_seconds(gpus, to.saturating_sub(since)))
    }
}

/// So many GPUs for so long. Within `u128`, whatever the two.
pub(crate) fn gpu_seconds(gpus: u64, seconds: u64) -> u128 {
    u128::from(gpus).saturating_mul(u128::from(seconds))
}
