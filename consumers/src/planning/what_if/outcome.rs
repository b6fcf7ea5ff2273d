//! What came of two runs, added up exactly.

use std::collections::BTreeMap;

use hourglass_capacity::auction::{Book, Clearing};
use hourglass_capacity::pool::PoolName;
use hourglass_units::{Amount, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rerun::Both;
use super::{Change, WHAT_IT_CANNOT_KNOW, WhatIf};
use crate::billing::report::AsOf;
use crate::planning::clearings::Held;
use crate::planning::unmet::wants;
use crate::planning::{PlanError, hours, percent};

/// What a pool did in a run. Money is in nano-currency an hour times milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    revenue: i128,
    welfare: i128,
    supply: u128,
    served: u128,
    unmet: u128,
    preempted_units: u64,
    preempted_gpus: u64,
}

/// Both runs, by pool.
#[derive(Debug, Default)]
pub(super) struct Sums {
    clearings: u64,
    same: u64,
    other_rules: u64,
    logged: BTreeMap<PoolName, Sum>,
    changed: BTreeMap<PoolName, Sum>,
}

impl Sums {
    /// Adds a clearing. Who lost its place counts where it was told so within the time.
    pub(super) fn add(&mut self, held: &Held, both: &Both, with_preemptions: bool) {
        self.clearings = self.clearings.saturating_add(1);
        self.same = self.same.saturating_add(u64::from(both.is_same));
        self.other_rules = self.other_rules.saturating_add(u64::from(both.other_rules));
        let book = &held.logged.cleared.receipt.book;
        for (sums, book, clearing) in
            [(&mut self.logged, book, &both.again), (&mut self.changed, &both.book, &both.changed)]
        {
            if let Some(within) = held.within {
                held_for(sums, book, clearing, within);
            }
            if with_preemptions {
                preempted(sums, book, clearing);
            }
        }
    }

    pub(super) fn report(self, question: &WhatIf) -> Result<WhatIfReport, PlanError> {
        let WhatIf { as_of, within, changes, currencies, .. } = question;
        let names = self.logged.keys().chain(self.changed.keys());
        let names: std::collections::BTreeSet<&PoolName> = names.collect();
        let row = |name: &PoolName| {
            let of = |sums: &BTreeMap<PoolName, Sum>| sums.get(name).copied().unwrap_or_default();
            let (logged, mut changed) = (of(&self.logged), of(&self.changed));
            let sold = sold(changes, name, *within)?;
            changed.revenue = changed.revenue.saturating_add(sold);
            Ok(WhatIfRow {
                pool: name.clone(),
                currency: currencies.get(name).map(ToString::to_string),
                as_it_was: OutcomeRow::of(&logged)?,
                changed: OutcomeRow::of(&changed)?,
                of_that_reserved: amount(sold)?.to_string(),
                difference: Difference::of(&logged, &changed)?,
            })
        };
        Ok(WhatIfReport {
            as_of: as_of.clone(),
            start: within.start().to_string(),
            end: within.end().to_string(),
            changes: changes.clone(),
            clearings: self.clearings,
            reproduced: self.same,
            by_other_rules: self.other_rules,
            pools: names.into_iter().map(row).collect::<Result<_, PlanError>>()?,
            cannot_know: WHAT_IT_CANNOT_KNOW.map(str::to_owned).to_vec(),
        })
    }

    /// What a change cost spot in a pool, in nano-currency an hour times milliseconds.
    pub(in crate::planning) fn loss(&self, pool: &PoolName) -> i128 {
        let of = |sums: &BTreeMap<PoolName, Sum>| sums.get(pool).map_or(0, |sum| sum.revenue);
        of(&self.logged).saturating_sub(of(&self.changed))
    }
}

/// What reservations that are sold bring within the time.
fn sold(changes: &[Change], name: &PoolName, within: Interval) -> Result<i128, PlanError> {
    let mut sum: i128 = 0;
    for change in changes {
        let Change::SellReservation { pool, gpus, from, until, price: Some(price) } = change else {
            continue;
        };
        let time = Interval::between(*from, *until).and_then(|time| time.intersection(within));
        let Some(time) = time.filter(|_| pool == name) else { continue };
        let gpu_ms = i128::from(*gpus).saturating_mul(i128::from(time.milliseconds()));
        let worth = i128::from(price.nanos()).checked_mul(gpu_ms);
        sum = worth.and_then(|worth| sum.checked_add(worth)).ok_or_else(out_of_range)?;
    }
    Ok(sum)
}

/// A clearing that held for a time.
fn held_for(sums: &mut BTreeMap<PoolName, Sum>, book: &Book, clearing: &Clearing, within: Interval) {
    let ms = u128::try_from(within.milliseconds()).unwrap_or(0);
    let gpu_ms = |gpus: u64| u128::from(gpus).saturating_mul(ms);
    let worth = |price: Price, gpus: u64| {
        i128::from(price.nanos()).saturating_mul(i128::try_from(gpu_ms(gpus)).unwrap_or(i128::MAX))
    };
    for (pool, outcome) in book.pools().iter().zip(&clearing.pools) {
        let sum = of_pool(sums, &pool.name);
        sum.revenue = sum.revenue.saturating_add(worth(outcome.price, outcome.sold));
        sum.supply = sum.supply.saturating_add(gpu_ms(pool.supply));
        sum.served = sum.served.saturating_add(gpu_ms(outcome.sold));
    }
    for (bid, outcome) in book.bids().iter().zip(&clearing.bids) {
        let (lacks, has, won) = wants(bid, outcome);
        if let Some(pool) = won.and_then(|pool| book.pools().get(pool)) {
            let sum = of_pool(sums, &pool.name);
            sum.welfare = sum.welfare.saturating_add(worth(bid.limit, has));
        }
        if let Some(pool) = bid.pools.first().and_then(|pool| book.pools().get(pool.index())) {
            let sum = of_pool(sums, &pool.name);
            sum.unmet = sum.unmet.saturating_add(gpu_ms(lacks));
        }
    }
}

fn of_pool<'a>(sums: &'a mut BTreeMap<PoolName, Sum>, name: &PoolName) -> &'a mut Sum {
    sums.entry(name.clone()).or_default()
}

fn preempted(sums: &mut BTreeMap<PoolName, Sum>, book: &Book, clearing: &Clearing) {
    for it in &clearing.preemptions {
        let found = book.pools().get(it.pool.index()).zip(book.bids().get(it.bid.index()));
        let Some((pool, bid)) = found else { continue };
        let sum = of_pool(sums, &pool.name);
        sum.preempted_units = sum.preempted_units.saturating_add(u64::from(it.units));
        sum.preempted_gpus = sum.preempted_gpus.saturating_add(bid.gpus(it.units));
    }
}

fn out_of_range() -> PlanError {
    PlanError::Invalid("the sums are out of range: ask for a shorter time".to_owned())
}

/// Nano-currency an hour times milliseconds as money, rounded to the nearest atto, once.
pub(in crate::planning) fn amount(nano_ms: i128) -> Result<Amount, PlanError> {
    // An hour has 3.6e6 milliseconds and a nano 1e9 attos: 2500 / 9.
    let scaled = nano_ms.checked_mul(2 * 2_500).and_then(|doubled| doubled.checked_add(9));
    let attos = scaled.map(|scaled| scaled.div_euclid(18)).ok_or_else(out_of_range)?;
    Ok(Amount::from_attos(attos))
}

/// What a market would have done, as of a log position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIf)]
pub struct WhatIfReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// From then on, RFC 3339.
    #[schema(format = DateTime)]
    pub start: String,
    /// Until then, RFC 3339.
    #[schema(format = DateTime)]
    pub end: String,
    /// What was otherwise.
    pub changes: Vec<Change>,
    /// Clearings that were run again.
    pub clearings: u64,
    /// Of them, those that came out as they were logged when they were run again without changes: all of them, unless
    /// the log was changed, or some were cleared by other rules.
    pub reproduced: u64,
    /// Of them, those that an earlier release cleared by other rules: without changes they are taken as logged.
    pub by_other_rules: u64,
    /// Each pool, by name.
    pub pools: Vec<WhatIfRow>,
    /// What no replay can know, in sentences.
    pub cannot_know: Vec<String>,
}

/// What a pool would have done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfPool)]
pub struct WhatIfRow {
    /// Which.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// Of its prices, ISO 4217.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Without changes.
    pub as_it_was: OutcomeRow,
    /// With them.
    pub changed: OutcomeRow,
    /// What of the changed revenue reservations bring that were sold, a decimal.
    pub of_that_reserved: String,
    /// What the changes make.
    pub difference: Difference,
}

/// What a pool did over a time. Money and GPU-hours are exact decimals.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfOutcome)]
pub struct OutcomeRow {
    /// Price times what winners had.
    pub revenue: String,
    /// Limit times what winners had: what it was worth to them.
    pub welfare: String,
    /// GPU-hours for spot.
    pub supply: String,
    /// GPU-hours that winners had.
    pub served: String,
    /// GPU-hours that bids wanted beside, and did not have; of bids that name several pools, in the first one.
    pub unmet: String,
    /// What of the supply was served, in percent; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<String>,
    /// Units that were told to stop by clearings.
    pub preempted_units: u64,
    /// Their GPUs.
    pub preempted_gpus: u64,
}

impl OutcomeRow {
    fn of(sum: &Sum) -> Result<Self, PlanError> {
        Ok(Self {
            revenue: amount(sum.revenue)?.to_string(),
            welfare: amount(sum.welfare)?.to_string(),
            supply: hours(sum.supply),
            served: hours(sum.served),
            unmet: hours(sum.unmet),
            utilisation: percent(sum.served.min(sum.supply), sum.supply),
            preempted_units: sum.preempted_units,
            preempted_gpus: sum.preempted_gpus,
        })
    }
}

/// With the changes less without: negative where it is less.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfDifference)]
pub struct Difference {
    /// Of the revenue, reservations that were sold included.
    pub revenue: String,
    /// Of the welfare.
    pub welfare: String,
    /// Of the GPU-hours that winners had.
    pub served: String,
    /// Of the GPU-hours that were wanted and not served.
    pub unmet: String,
    /// Of the GPUs that were told to stop.
    pub preempted_gpus: i64,
}

impl Difference {
    fn of(before: &Sum, after: &Sum) -> Result<Self, PlanError> {
        let signed = |before: u128, after: u128| match after >= before {
            true => hours(after.saturating_sub(before)),
            false => format!("-{}", hours(before.saturating_sub(after))),
        };
        let gpus = |sum: &Sum| i64::try_from(sum.preempted_gpus).unwrap_or(i64::MAX);
        Ok(Self {
            revenue: amount(after.revenue.saturating_sub(before.revenue))?.to_string(),
            welfare: amount(after.welfare.saturating_sub(before.welfare))?.to_string(),
            served: signed(before.served, after.served),
            unmet: signed(before.unmet, after.unmet),
            preempted_gpus: gpus(after).saturating_sub(gpus(before)),
        })
    }
}

impl WhatIfReport {
    /// One row a pool and run.
    pub fn to_csv(&self) -> Vec<u8> {
        let head = [
            "pool",
            "currency",
            "run",
            "revenue",
            "welfare",
            "supply_gpu_hours",
            "served_gpu_hours",
            "unmet_gpu_hours",
            "preempted_units",
            "preempted_gpus",
        ];
        let rows = self.pools.iter().flat_map(|it| {
            [("as_it_was", &it.as_it_was), ("changed", &it.changed)].map(|(run, outcome)| {
                let currency = it.currency.clone().unwrap_or_default();
                let names = [it.pool.to_string(), currency, run.to_owned()];
                let OutcomeRow { revenue, welfare, supply, served, unmet, .. } = outcome.clone();
                let counts = [outcome.preempted_units.to_string(), outcome.preempted_gpus.to_string()];
                names.into_iter().chain([revenue, welfare, supply, served, unmet]).chain(counts).collect()
            })
        });
        crate::planning::csv(head.map(str::to_owned).to_vec(), rows)
    }
}
