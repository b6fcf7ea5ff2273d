//! How the market is run, and what is made up for jobs that do not say it.

use std::collections::BTreeMap;

use hourglass_capacity::auction::reserve::ReservePolicy;
use hourglass_capacity::auction::{MARGIN_DEFAULT_PPM, Mode, POOLS_PER_BID_MAX};
use hourglass_capacity::pool::PoolName;
use hourglass_units::{Percent, PercentError, Price};
use serde::{Deserialize, Deserializer};

use crate::chance::Chance;
use crate::error::{BacktestError, check_bounds};

/// Longest time between two clearings, longest notice, longest boot: a day.
pub const DELAY_SECONDS_MAX: u64 = 86_400;
/// Most GPUs of a node.
pub const NODE_GPUS_MAX: u64 = hourglass_capacity::auction::GPUS_PER_UNIT_MAX as u64;
/// Most bins of a histogram of limits.
pub const BINS_MAX: usize = 1_000;

/// How the market is run. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What is drawn follows from it.
    #[serde(default)]
    pub seed: u64,
    /// By how much a bid must exceed what runs to displace it, in percent.
    #[serde(default = "default_margin", deserialize_with = "written")]
    pub margin: Percent,
    /// Between two clearings.
    #[serde(default = "default_tick")]
    pub tick_seconds: u64,
    /// From the order to stop to the stop.
    #[serde(default = "default_notice")]
    pub notice_seconds: u64,
    /// From when a job has its GPUs to when it works.
    #[serde(default = "default_boot")]
    pub boot_seconds: u64,
    /// Running time between two checkpoints of a job that does not say: 0 means that nothing is ever lost.
    #[serde(default = "default_checkpoint")]
    pub checkpoint_seconds: u64,
    /// When the market closes, on the clock of the trace. Without it the market is open until nothing more
    /// can happen.
    pub until: Option<u64>,
    /// How pools are cleared.
    #[serde(default = "default_mode")]
    pub mode: Mode,
    /// The largest gang, in percent of a pool's supply.
    #[serde(default = "default_gang_max", deserialize_with = "written")]
    pub gang_max: Percent,
    /// Reserve prices by utilisation.
    pub reserve: ReservePolicy,
    /// Pools that are run otherwise.
    #[serde(default)]
    pub pools: BTreeMap<PoolName, PoolPolicy>,
    /// What is made up for jobs.
    pub jobs: JobPolicy,
}

/// What is otherwise in one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolPolicy {
    /// How it is cleared.
    pub mode: Option<Mode>,
    /// The largest gang, in percent of the supply.
    #[serde(default, deserialize_with = "written_if_there")]
    pub gang_max: Option<Percent>,
    /// Its reserve prices.
    pub reserve: Option<ReservePolicy>,
}

/// What is made up for jobs that do not say it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobPolicy {
    /// GPUs of a node: a job that does not say its units has the largest ones that fit a node, all at once.
    #[serde(default = "default_node_gpus")]
    pub node_gpus: u64,
    /// In how many pools a job bids that names none: the first is drawn, the rest follow it by name.
    #[serde(default = "default_pools_per_job")]
    pub pools_per_job: u64,
    /// What a job pays at most that does not say.
    pub limit: Limits,
    /// The same by class, for jobs that say one.
    #[serde(default)]
    pub limit_of_class: BTreeMap<String, Limits>,
}

/// A distribution of limit prices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "distribution", rename_all = "snake_case", deny_unknown_fields)]
pub enum Limits {
    /// The same for all.
    Fixed {
        /// That.
        #[serde(deserialize_with = "written")]
        price: Price,
    },
    /// Each multiple of the step above the lower end is as likely as the others.
    Uniform(Span),
    /// A bin by its weight, then within the bin.
    Histogram {
        /// The bins.
        bins: Vec<Bin>,
    },
}

/// From one price to another, both included.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The lower end.
    #[serde(deserialize_with = "written")]
    pub from: Price,
    /// The upper end.
    #[serde(deserialize_with = "written")]
    pub to: Price,
    /// Between two prices: a cent, if nothing is said.
    #[serde(default = "default_step", deserialize_with = "written")]
    pub step: Price,
}

/// A part of a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// How often, beside the weights of the others.
    pub weight: u32,
    /// The lower end.
    #[serde(deserialize_with = "written")]
    pub from: Price,
    /// The upper end.
    #[serde(deserialize_with = "written")]
    pub to: Price,
    /// Between two prices.
    #[serde(default = "default_step", deserialize_with = "written")]
    pub step: Price,
}

impl Policy {
    /// Reads and checks a policy file.
    pub fn parse(text: &str) -> Result<Self, BacktestError> {
        let policy: Self = toml::from_str(text).map_err(|error| BacktestError::Toml(error.to_string()))?;
        policy.check()?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), BacktestError> {
        check_bounds("tick_seconds", self.tick_seconds, (1, DELAY_SECONDS_MAX))?;
        check_bounds("notice_seconds", self.notice_seconds, (0, DELAY_SECONDS_MAX))?;
        check_bounds("boot_seconds", self.boot_seconds, (0, DELAY_SECONDS_MAX))?;
        check_bounds("jobs.node_gpus", self.jobs.node_gpus, (1, NODE_GPUS_MAX))?;
        check_bounds("jobs.pools_per_job", self.jobs.pools_per_job, (1, POOLS_PER_BID_MAX as u64))?;
        self.jobs.limit.check()?;
        self.jobs.limit_of_class.values().try_for_each(Limits::check)
    }

    /// How a pool is cleared.
    pub fn mode_of(&self, pool: &PoolName) -> Mode {
        self.pools.get(pool).and_then(|own| own.mode).unwrap_or(self.mode)
    }

    /// The largest gang of a pool.
    pub fn gang_max_of(&self, pool: &PoolName) -> Percent {
        self.pools.get(pool).and_then(|own| own.gang_max).unwrap_or(self.gang_max)
    }

    /// The reserve prices of a pool.
    pub fn reserve_of(&self, pool: &PoolName) -> &ReservePolicy {
        self.pools.get(pool).and_then(|own| own.reserve.as_ref()).unwrap_or(&self.reserve)
    }
}

impl JobPolicy {
    /// The limit of a job of a class.
    pub(crate) fn draw_limit(&self, class: Option<&str>, chance: &mut Chance) -> Price {
        let of_class = class.and_then(|class| self.limit_of_class.get(class));
        of_class.unwrap_or(&self.limit).draw(chance)
    }
}

impl Limits {
    fn check(&self) -> Result<(), BacktestError> {
        match self {
            Self::Fixed { .. } => Ok(()),
            Self::Uniform(Span { from, to, step }) => check_span(*from, *to, *step),
            Self::Histogram { bins } => {
                let is_empty = bins.iter().all(|bin| bin.weight == 0);
                if is_empty || bins.len() > BINS_MAX {
                    return Err(BacktestError::Histogram { most: BINS_MAX });
                }
                bins.iter().try_for_each(|bin| check_span(bin.from, bin.to, bin.step))
            }
        }
    }

    fn draw(&self, chance: &mut Chance) -> Price {
        match self {
            Self::Fixed { price } => *price,
            Self::Uniform(Span { from, to, step }) => draw_within(chance, *from, *to, *step),
            Self::Histogram { bins } => {
                let weights = bins.iter().map(|bin| u64::from(bin.weight)).fold(0, u64::saturating_add);
                let mut at = chance.below(weights);
                for Bin { weight, from, to, step } in bins {
                    match at.checked_sub(u64::from(*weight)) {
                        Some(rest) => at = rest,
                        None => return draw_within(chance, *from, *to, *step),
                    }
                }
                Price::ZERO
            }
        }
    }
}

fn check_span(from: Price, to: Price, step: Price) -> Result<(), BacktestError> {
    if from > to || step == Price::ZERO { Err(BacktestError::Draw { from, to }) } else { Ok(()) }
}

fn draw_within(chance: &mut Chance, from: Price, to: Price, step: Price) -> Price {
    let span = to.nanos().saturating_sub(from.nanos());
    let steps = span.checked_div(step.nanos()).and_then(|steps| u64::try_from(steps).ok()).unwrap_or(0);
    let drawn = i64::try_from(chance.below(steps.saturating_add(1))).unwrap_or(0);
    let nanos = from.nanos().saturating_add(drawn.saturating_mul(step.nanos()));
    Price::from_nanos(nanos).unwrap_or(to)
}

fn default_margin() -> Percent {
    Percent::from_ppm(MARGIN_DEFAULT_PPM).unwrap_or(Percent::ZERO)
}

const fn default_tick() -> u64 {
    60
}

const fn default_notice() -> u64 {
    60
}

const fn default_boot() -> u64 {
    90
}

const fn default_checkpoint() -> u64 {
    600
}

const fn default_mode() -> Mode {
    Mode::Greedy
}

const fn default_gang_max() -> Percent {
    Percent::WHOLE
}

const fn default_node_gpus() -> u64 {
    8
}

const fn default_pools_per_job() -> u64 {
    POOLS_PER_BID_MAX as u64
}

fn default_step() -> Price {
    Price::from_nanos(10_000_000).unwrap_or(Price::ZERO)
}

/// A decimal as a file writes it: `"12.5"` or `12.5`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a decimal such as \"12.5\"")]
enum Written {
    Text(String),
    Whole(i64),
    Decimal(f64),
}

fn written<'de, D: Deserializer<'de>, T: Decimal>(deserializer: D) -> Result<T, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text,
        Written::Whole(number) => number.to_string(),
        Written::Decimal(number) => number.to_string(),
    };
    T::from_text(&text).map_err(serde::de::Error::custom)
}

fn written_if_there<'de, D: Deserializer<'de>, T: Decimal>(deserializer: D) -> Result<Option<T>, D::Error> {
    written(deserializer).map(Some)
}

/// What is written as a decimal.
trait Decimal: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

impl Decimal for Price {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }
}

impl Decimal for Percent {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: PercentError| error.to_string())
    }
}
