//! Where the GPU-time of pools went, step by step.

use hourglass_capacity::pool::PoolName;
use hourglass_capacity::series::{Span, Usage, usage};
use hourglass_ledger::core::State;
use hourglass_units::Interval;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PlanError, Pools, Range, hours, mean, percent, whole};
use crate::billing::report::AsOf;

/// Who used pools, copied out of the state: everything else can be computed beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As of which log position.
    pub as_of: AsOf,
    /// Of which time.
    pub range: Range,
    /// Who used each of them.
    pub pools: Vec<(PoolName, Vec<Span>)>,
}

/// Copies who used pools out of the state: one pass over the instances of each, however many steps.
pub fn take(state: &State, pools: &Pools, range: Range) -> Result<Taken, PlanError> {
    let mut spans = Vec::new();
    let mut taken = Vec::new();
    for name in pools.names(state)? {
        let before = spans.len();
        state.spans_of_pool(&name, range.within, &mut spans).transpose()?;
        taken.push((name, before..spans.len()));
    }
    let of_pool = |(name, part): (PoolName, std::ops::Range<usize>)| {
        let spans = spans.get(part).map(<[Span]>::to_vec).unwrap_or_default();
        (name, spans)
    };
    Ok(Taken { as_of: AsOf::of(state), range, pools: taken.into_iter().map(of_pool).collect() })
}

impl Taken {
    /// What became of all of them together, in each step.
    pub fn together(&self) -> Vec<(Interval, Usage)> {
        let step_ms = self.range.step.milliseconds();
        let mut sums: Vec<(Interval, Usage)> =
            self.range.steps().map(|step| (step, Usage::default())).collect();
        for (_, spans) in &self.pools {
            // Each pool by itself: what is idle in one is not lent in another.
            let of_pool = usage(spans, self.range.within, step_ms);
            for ((_, sum), (_, of_pool)) in sums.iter_mut().zip(&of_pool) {
                *sum = sum.plus(of_pool);
            }
        }
        sums
    }

    /// The report.
    pub fn report(&self) -> SeriesReport {
        let steps = self.together();
        let sum = steps.iter().fold(Usage::default(), |sum, (_, usage)| sum.plus(usage));
        SeriesReport {
            as_of: self.as_of.clone(),
            pools: self.pools.iter().map(|(name, _)| name.clone()).collect(),
            step: self.range.step.as_str().to_owned(),
            total: SeriesRow::of(self.range.within, &sum),
            rows: steps.iter().map(|(step, usage)| SeriesRow::of(*step, usage)).collect(),
        }
    }
}

/// Where the GPU-time of pools went, step by step, as of a log position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacitySeries)]
pub struct SeriesReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// Which pools, together.
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<PoolName>,
    /// How long a step is: `5m`, `15m`, `1h`, `6h` or `1d`.
    pub step: String,
    /// All of the time.
    pub total: SeriesRow,
    /// Each step, in order. The last one ends with the time that was asked for, or at the time of `as_of`.
    pub rows: Vec<SeriesRow>,
}

/// Where the GPU-time of a step went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityStep)]
pub struct SeriesRow {
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// What of that which could be used was used, in percent; absent where nothing could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<String>,
    /// In GPU-milliseconds, whole numbers: `owned` + `over` is the sum of the others, in every step.
    pub gpu_milliseconds: Parts<u64>,
    /// In GPU-hours, decimals of nine places.
    pub gpu_hours: Parts<String>,
    /// In GPUs on average over the step, decimals of three places, rounded down.
    pub mean_gpus: Parts<String>,
}

/// What became of GPUs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityParts)]
pub struct Parts<T> {
    /// The pools had them.
    pub owned: T,
    /// Reservations kept them, and they ran inside.
    pub reserved_used: T,
    /// Reservations kept them, and nobody used them.
    pub reserved_idle: T,
    /// Reservations kept them, and spot ran on them.
    pub lent: T,
    /// They ran on demand.
    pub on_demand: T,
    /// They ran as spot, where no reservation kept them.
    pub spot: T,
    /// Nobody used them, and nobody kept them.
    pub free: T,
    /// They could not be used: broken, taken out, in maintenance.
    pub down: T,
    /// They ran, and were not there.
    pub over: T,
}

impl<T> Parts<T> {
    /// The names of the parts, in their order.
    pub const NAMES: [&'static str; 9] =
        ["owned", "reserved_used", "reserved_idle", "lent", "on_demand", "spot", "free", "down", "over"];

    fn of(it: &Usage, show: impl Fn(u128) -> T) -> Self {
        Self {
            owned: show(it.owned),
            reserved_used: show(it.reserved_used),
            reserved_idle: show(it.reserved_idle),
            lent: show(it.lent),
            on_demand: show(it.on_demand),
            spot: show(it.spot),
            free: show(it.free),
            down: show(it.down),
            over: show(it.over),
        }
    }

    /// The parts in the order of [`Self::NAMES`].
    pub fn all(&self) -> [&T; 9] {
        let Self { owned, reserved_used, reserved_idle, lent, on_demand, spot, free, down, over } = self;
        [owned, reserved_used, reserved_idle, lent, on_demand, spot, free, down, over]
    }
}

impl SeriesRow {
    fn of(within: Interval, usage: &Usage) -> Self {
        Self {
            start: within.start().to_string(),
            end: within.end().to_string(),
            utilisation: percent(usage.used().min(usage.usable()), usage.usable()),
            gpu_milliseconds: Parts::of(usage, whole),
            gpu_hours: Parts::of(usage, hours),
            mean_gpus: Parts::of(usage, |part| mean(part, within)),
        }
    }
}

impl SeriesReport {
    /// One row a step: its times, utilisation, and each part in GPU-milliseconds and in GPU-hours.
    pub fn to_csv(&self) -> Vec<u8> {
        let names = Parts::<u64>::NAMES;
        let head = ["start", "end", "utilisation_percent"].map(str::to_owned).into_iter();
        let head = head.chain(names.map(|name| format!("{name}_gpu_milliseconds")));
        let head = head.chain(names.map(|name| format!("{name}_gpu_hours")));
        let rows = self.rows.iter().map(|row| {
            let first = [row.start.clone(), row.end.clone(), row.utilisation.clone().unwrap_or_default()];
            let exact = row.gpu_milliseconds.all().map(u64::to_string);
            let hours = row.gpu_hours.all().map(String::clone);
            first.into_iter().chain(exact).chain(hours).collect()
        });
        super::csv(head.collect(), rows)
    }
}
