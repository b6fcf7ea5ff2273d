//! Jobs as the market sees them: every gap of the trace filled by the policy.

use hourglass_capacity::auction::{POOLS_PER_BID_MAX, PoolIx};
use hourglass_units::Price;

use crate::chance::Chance;
use crate::error::BacktestError;
use crate::policy::Policy;
use crate::supply::Supply;
use crate::trace::{Place, Trace, TraceJob};

/// A job that bids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// When it bids for the first time.
    pub arrives: u64,
    /// GPU-seconds that it has to do.
    pub work: u128,
    /// GPUs of a unit.
    pub gpus_per_unit: u32,
    /// So many units or none.
    pub min_units: u32,
    /// The most that it wants.
    pub max_units: u32,
    /// The most that it pays for a GPU-hour.
    pub limit: Price,
    /// Running time between two checkpoints; 0 if each second is kept.
    pub checkpoint_seconds: u64,
    /// Where it may run, the preferred pool first.
    pub pools: Vec<PoolIx>,
}

/// Fills in what the trace does not say. The jobs come in the order of their arrivals, those of one second
/// in the order of the file; so do the draws, a number each.
pub fn jobs(trace: &Trace, supply: &Supply, policy: &Policy) -> Result<Vec<Job>, BacktestError> {
    if let Some(pool) = policy.pools.keys().find(|pool| supply.find(pool).is_none()) {
        return Err(BacktestError::UnknownPool { pool: pool.clone() });
    }
    let mut rows: Vec<&TraceJob> = trace.jobs.iter().collect();
    rows.sort_by_key(|row| row.arrives);
    rows.into_iter().zip(0..).map(|(row, number)| fill(row, number, supply, policy)).collect()
}

fn fill(row: &TraceJob, number: u64, supply: &Supply, policy: &Policy) -> Result<Job, BacktestError> {
    let mut chance = Chance::new(policy.seed, number);
    // Both are drawn for each job, so that a limit in the file changes no other draw.
    let drawn_limit = policy.jobs.draw_limit(row.class.as_deref(), &mut chance);
    let first_pool = chance.below(supply.pools().len() as u64);
    let (gpus_per_unit, min_units, max_units) = units(row, policy.jobs.node_gpus)?;
    Ok(Job {
        arrives: row.arrives,
        work: crate::supply::gpu_seconds(row.gpus, row.duration),
        gpus_per_unit: narrow(gpus_per_unit),
        min_units: narrow(min_units),
        max_units: narrow(max_units),
        limit: row.limit.unwrap_or(drawn_limit),
        checkpoint_seconds: row.checkpoint_seconds.unwrap_or(policy.checkpoint_seconds),
        pools: pools(row, first_pool, supply, policy)?,
    })
}

/// Both are bounded far below.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// GPUs of a unit, and units at least and at most.
fn units(row: &TraceJob, node_gpus: u64) -> Result<(u64, u64, u64), BacktestError> {
    let wrong =
        |column: &str, what: String| BacktestError::Cell { line: row.line, column: column.to_owned(), what };
    let gpus = row.gpus;
    let per_unit = match (row.gpus_per_unit, row.max_units) {
        (Some(per_unit), _) => per_unit,
        (None, Some(units)) => gpus.checked_div(units).unwrap_or(gpus).max(1),
        (None, None) => (1..=node_gpus.min(gpus)).rev().find(|size| gpus.is_multiple_of(*size)).unwrap_or(1),
    };
    let most = row.max_units.unwrap_or_else(|| gpus.checked_div(per_unit).unwrap_or(1));
    if per_unit.checked_mul(most) != Some(gpus) {
        return Err(wrong("num_gpus", format!("{gpus} GPUs are not {most} units of {per_unit} GPUs")));
    }
    let least = row.min_units.unwrap_or(most);
    if least > most {
        return Err(wrong("min_units", format!("{least} units at least, and {most} at most")));
    }
    Ok((per_unit, least, most))
}

fn pools(row: &TraceJob, first: u64, supply: &Supply, policy: &Policy) -> Result<Vec<PoolIx>, BacktestError> {
    let wrong =
        |column: &str, what: String| BacktestError::Cell { line: row.line, column: column.to_owned(), what };
    let all = || (0..).map(PoolIx).zip(supply.pools());
    match &row.place {
        Place::Pools(names) => {
            let mut found = Vec::new();
            for name in names {
                match supply.find(name).filter(|pool| !found.contains(pool)) {
                    Some(pool) => found.push(pool),
                    None => {
                        return Err(wrong(
                            "pools",
                            format!("pool {name} is twice here, or not in the supply"),
                        ));
                    }
                }
            }
            Ok(found)
        }
        Place::Platforms(platforms) => {
            let of_these = all().filter(|(_, pool)| platforms.contains(&pool.name.platform));
            let found: Vec<PoolIx> = of_these.map(|(pool, _)| pool).take(POOLS_PER_BID_MAX).collect();
            if found.is_empty() {
                return Err(wrong("gpu_spec", "the supply has no pool of this platform".to_owned()));
            }
            Ok(found)
        }
        Place::Anywhere => {
            let first = usize::try_from(first).unwrap_or(0);
            let count = usize::try_from(policy.jobs.pools_per_job).unwrap_or(POOLS_PER_BID_MAX);
            let turned = all().cycle().skip(first).take(count.min(supply.pools().len()));
            Ok(turned.map(|(pool, _)| pool).collect())
        }
    }
}
