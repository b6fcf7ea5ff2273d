//! Pools and their prices.

use hourglass_capacity::auction::Mode;
use hourglass_capacity::auction::reserve::ReservePolicy;
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::core::market::{
    Backend, CapacitySource, DRAIN_MS_DEFAULT, NOTICE_MS_MIN, Pool, PoolTerms,
};
use hourglass_pricing::{PurchaseModel, Sku, SpotPool};
use hourglass_units::{Currency, Fabric, Instant, Interval, Percent, Platform};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::bound;
use crate::api::schema;

/// How a pool is sold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PoolTerms, example = json!({"currency": "USD", "gpus": 64, "safety_buffer": 4,
    "reserve": {"shape": "steps", "points": [{"utilisation": "0", "price": "0.50"}]}, "notice_seconds": 120}))]
pub struct PoolTermsRow {
    /// Of its prices, ISO 4217. Only tenants that are billed in it can bid.
    #[schema(value_type = String)]
    pub currency: Currency,
    /// GPUs that it has.
    pub gpus: u64,
    /// So many of them are never sold as spot.
    #[serde(default)]
    #[schema(required = false)]
    pub safety_buffer: u64,
    /// Nobody pays less: a price by the share of the pool that is not for spot.
    #[schema(value_type = schema::ReservePolicy)]
    pub reserve: ReservePolicy,
    /// Who wins: `greedy`, by a walk down the limits, or `exact`, for small pools.
    #[serde(default = "greedy")]
    #[schema(value_type = schema::ClearingMode, required = false)]
    pub mode: Mode,
    /// A gang larger than this part of the supply is refused, in percent; `100` where absent.
    #[serde(default = "whole")]
    #[schema(value_type = String, required = false)]
    pub gang_max: Percent,
    /// What loses has so long until it must have stopped: 60 to 3,600; 60 where absent.
    #[serde(default = "notice")]
    #[schema(required = false)]
    pub notice_seconds: u32,
    /// Whether this cell brings units up and down through the compute API. Where not, the compute service
    /// does it, and says so.
    #[serde(default)]
    #[schema(required = false)]
    pub driven: bool,
    /// After its deadline a unit is gone within so long, 0 to 3,600; 120 where absent. So much earlier than its
    /// GPUs are needed spot makes way.
    #[serde(default = "drain")]
    #[schema(required = false)]
    pub drain_seconds: u32,
    /// How far ahead on-demand and reservations keep out of each other's way; always where absent, since an
    /// on-demand instance has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_ahead_seconds: Option<u32>,
    /// What owners who lend idle reserved GPUs get of what spot pays for them, in percent; `0` where absent.
    #[serde(default = "nothing")]
    #[schema(value_type = String, required = false)]
    pub owner_share: Percent,
    /// Of a pool that is driven, what its units are at the provider: `regular` instances, in capacity that is ours,
    /// or `preemptible` ones, which the provider takes back when it needs them. `regular` where absent.
    #[serde(default)]
    #[schema(value_type = schema::PoolBackend, required = false)]
    pub backend: Backend,
    /// Who says how many GPUs it has: the `operator` by `gpus`, or the provider by the `intervals` that are reserved
    /// there, or by its `advice` of what could be had at once; until the first answer `gpus` holds. `operator` where
    /// absent.
    #[serde(default)]
    #[schema(value_type = schema::CapacitySource, required = false)]
    pub capacity: CapacitySource,
}

fn drain() -> u32 {
    seconds(DRAIN_MS_DEFAULT)
}

fn nothing() -> Percent {
    Percent::ZERO
}

fn milliseconds(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(1_000)
}

fn greedy() -> Mode {
    Mode::Greedy
}

fn whole() -> Percent {
    Percent::WHOLE
}

fn notice() -> u32 {
    seconds(NOTICE_MS_MIN)
}

pub(super) fn seconds(milliseconds: i64) -> u32 {
    u32::try_from(milliseconds.div_euclid(1_000)).unwrap_or(u32::MAX)
}

impl From<PoolTermsRow> for PoolTerms {
    fn from(row: PoolTermsRow) -> Self {
        Self {
            currency: row.currency,
            gpus: row.gpus,
            safety_buffer: row.safety_buffer,
            reserve: row.reserve,
            mode: row.mode,
            gang_max: row.gang_max,
            notice_ms: milliseconds(row.notice_seconds),
            driven: row.driven,
            drain_ms: milliseconds(row.drain_seconds),
            look_ahead_ms: row.look_ahead_seconds.map(milliseconds),
            owner_share: row.owner_share,
            backend: row.backend,
            capacity: row.capacity,
        }
    }
}

impl From<PoolTerms> for PoolTermsRow {
    fn from(terms: PoolTerms) -> Self {
        Self {
            currency: terms.currency,
            gpus: terms.gpus,
            safety_buffer: terms.safety_buffer,
            reserve: terms.reserve,
            mode: terms.mode,
            gang_max: terms.gang_max,
            notice_seconds: seconds(terms.notice_ms),
            driven: terms.driven,
            drain_seconds: seconds(terms.drain_ms),
            look_ahead_seconds: terms.look_ahead_ms.map(seconds),
            owner_share: terms.owner_share,
            backend: terms.backend,
            capacity: terms.capacity,
        }
    }
}

/// A pool, and how it was cleared last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Pool)]
pub struct PoolRow {
    /// `REGION/PLATFORM/FABRIC`, as bids name it.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// How it is sold.
    pub terms: PoolTermsRow,
    /// GPUs that it has now, working or not.
    pub gpus: u64,
    /// GPUs for spot now, those that spot runs on included.
    pub supply: u64,
    /// Nobody pays less now: per GPU-hour, a decimal.
    pub reserve_price: String,
    /// What the last clearing says; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared: Option<PoolClearedRow>,
}

/// What the last clearing says of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolCleared)]
pub struct PoolClearedRow {
    /// What all who run there pay per GPU-hour, a decimal.
    pub price: String,
    /// GPUs that bids have.
    pub sold: u64,
    /// GPUs that nobody has.
    pub free: u64,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// Its log position: names its receipt.
    pub clear: u64,
}

/// All pools, by name.
pub fn pools(state: &State) -> impl Iterator<Item = PoolRow> {
    state.market().pools().map(|(name, pool)| row(state, name, pool))
}

/// One of them.
pub fn pool(state: &State, name: &PoolName) -> Option<PoolRow> {
    state.market().pool(name).map(|pool| row(state, name, pool))
}

/// The name of a pool of the cell's region; `None` as long as the cell is not open.
pub fn pool_name(state: &State, platform: Platform, fabric: Fabric) -> Option<PoolName> {
    let region = state.cell()?.region.clone();
    Some(PoolName { region, platform, fabric })
}

fn row(state: &State, name: &PoolName, pool: &Pool) -> PoolRow {
    let supply = pool.supply_terms(state.now());
    PoolRow {
        pool: name.clone(),
        terms: pool.terms.clone().into(),
        gpus: pool.gpus(state.now()),
        supply: supply.gpus,
        reserve_price: pool.reserve(&supply).to_string(),
        cleared: pool.cleared.map(|it| PoolClearedRow {
            price: it.price.to_string(),
            sold: it.sold,
            free: it.free,
            at: it.at.to_string(),
            clear: it.position,
        }),
    }
}

/// A time in which a pool had one price.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolPrice)]
pub struct PriceRow {
    /// Since when, RFC 3339.
    #[schema(format = DateTime)]
    pub from: String,
    /// Until when, RFC 3339; absent where it holds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub until: Option<String>,
    /// Per GPU-hour, a decimal; of a step the last one in it.
    pub price: String,
    /// Of a step, the mean over its time, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<String>,
}

/// The prices of a pool within a time, in order. Before its first clearing a pool costs what the rate card
/// says.
pub fn prices(state: &State, name: &PoolName, within: Interval) -> Vec<(Instant, PriceRow)> {
    let steps = pieces(state, name, within);
    let of = |(held, price): (Interval, hourglass_units::Price)| {
        let from = held.start().to_string();
        (held.start(), PriceRow { from, until: bound(held.end()), price: price.to_string(), mean: None })
    };
    steps.map(of).collect()
}

/// The parts of a time in which a pool had one price, each read when it is asked for.
pub(super) fn pieces<'a>(
    state: &'a State,
    name: &PoolName,
    within: Interval,
) -> impl Iterator<Item = (Interval, hourglass_units::Price)> + use<'a> {
    let spot = state.market().pool(name).map(|pool| {
        let PoolName { region, platform, fabric } = name.clone();
        let sku = Sku { platform, region, model: PurchaseModel::Spot };
        SpotPool { currency: pool.terms.currency, sku, fabric: Some(fabric) }
    });
    let prices = spot.and_then(|spot| state.prices().spot(&spot));
    prices.into_iter().flat_map(move |prices| prices.within(within))
}
