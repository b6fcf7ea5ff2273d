//! Who wanted GPUs, when and for how long.
//!
//! Two forms of CSV are read, and told apart by their first line.
//!
//! **Ours** has `timestamp`, `duration` (both in whole seconds) and `num_gpus`. It may have
//! `gpus_per_unit`, `min_units`, `max_units`, `limit`, `pools` (names with `;` between them), `checkpoint_s`
//! and `class`. Other columns are not read. What a row leaves out, the policy fills in.
//!
//! **OpenB's list of pods** has a column `creation_time`. A pod bids from then on, for `num_gpu` GPUs, and has
//! to work as long as it ran, `deletion_time - scheduled_time`. One that shares a GPU (`gpu_milli`) wants a
//! whole one. Its class is its `qos`, and a `gpu_spec` such as `V100M16|V100M32` names the platforms of its
//! pools. One that never ran says nothing about its work, and is left out.
//!
//! Left out, and counted, are also rows without GPUs or without a duration: they bid for nothing.

use hourglass_capacity::auction::{BIDS_MAX, GPUS_PER_UNIT_MAX, POOLS_PER_BID_MAX, UNITS_MAX};
use hourglass_capacity::pool::PoolName;
use hourglass_units::{Platform, Price};

use crate::error::BacktestError;
use crate::supply::SECOND_MAX;
use crate::table::{Column, Row, Table};

/// Most bytes of a file.
pub const TRACE_BYTES_MAX: u64 = 1 << 30;
/// Most jobs of a trace.
pub const JOBS_MAX: usize = BIDS_MAX;
/// Most GPUs of a job.
pub const JOB_GPUS_MAX: u64 = 1 << 20;

/// The jobs of a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What bids.
    pub jobs: Vec<TraceJob>,
    /// Rows that bid for nothing.
    pub left_out: u64,
}

/// A job as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceJob {
    /// Line of the file, from 1.
    pub line: u64,
    /// When it bids for the first time.
    pub arrives: u64,
    /// How long it runs with all its GPUs.
    pub duration: u64,
    /// All its GPUs.
    pub gpus: u64,
    /// GPUs of a unit.
    pub gpus_per_unit: Option<u64>,
    /// So many units or none.
    pub min_units: Option<u64>,
    /// The most that it wants.
    pub max_units: Option<u64>,
    /// The most that it pays for a GPU-hour.
    pub limit: Option<Price>,
    /// Running time between two checkpoints.
    pub checkpoint_seconds: Option<u64>,
    /// By which the policy may draw its limit.
    pub class: Option<String>,
    /// Where it may run.
    pub place: Place,
}

/// Where a job may run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Place {
    /// It does not say.
    #[default]
    Anywhere,
    /// In these pools, the preferred one first.
    Pools(Vec<PoolName>),
    /// In pools of these platforms.
    Platforms(Vec<Platform>),
}

impl Trace {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, BacktestError> {
        let table = Table::new(text)?;
        let trace = if table.require("creation_time").is_ok() { openb(table) } else { plain(table) }?;
        if trace.jobs.is_empty() { Err(BacktestError::NoJobs) } else { Ok(trace) }
    }

    fn empty() -> Self {
        Self { jobs: Vec::new(), left_out: 0 }
    }

    fn add(&mut self, job: TraceJob) -> Result<(), BacktestError> {
        if job.gpus == 0 || job.duration == 0 {
            self.left_out = self.left_out.saturating_add(1);
        } else if self.jobs.len() >= JOBS_MAX {
            let what = format!("it is one more than {JOBS_MAX} jobs: split the trace");
            return Err(BacktestError::Row { line: job.line, what });
        } else {
            self.jobs.push(job);
        }
        Ok(())
    }
}

const SECONDS: (u64, u64) = (0, SECOND_MAX);

fn plain(mut table: Table<'_>) -> Result<Trace, BacktestError> {
    let arrives = table.require("timestamp")?;
    let duration = table.require("duration")?;
    let gpus = table.require("num_gpus")?;
    let [per_unit, min, max] = ["gpus_per_unit", "min_units", "max_units"].map(|name| table.column(name));
    let [limit, pools, checkpoint, class] =
        ["limit", "pools", "checkpoint_s", "class"].map(|name| table.column(name));
    let mut trace = Trace::empty();
    while let Some(row) = table.next_row()? {
        let units = (1, u64::from(UNITS_MAX));
        let job = TraceJob {
            line: row.line,
            arrives: row.number(&arrives, SECONDS)?,
            duration: row.number(&duration, SECONDS)?,
            gpus: row.number(&gpus, (0, JOB_GPUS_MAX))?,
            gpus_per_unit: row.number_if_there(&per_unit, (1, u64::from(GPUS_PER_UNIT_MAX)))?,
            min_units: row.number_if_there(&min, units)?,
            max_units: row.number_if_there(&max, units)?,
            limit: row.parse_if_there(&limit, Price::parse)?,
            checkpoint_seconds: row.number_if_there(&checkpoint, SECONDS)?,
            class: row.text(&class).map(str::to_owned),
            place: row.parse_if_there(&pools, pool_names)?.map_or(Place::Anywhere, Place::Pools),
        };
        trace.add(job)?;
    }
    Ok(trace)
}

fn pool_names(text: &str) -> Result<Vec<PoolName>, String> {
    let names: Result<Vec<PoolName>, _> = text.split(';').map(|name| name.trim().parse()).collect();
    let names = names.map_err(|error| error.to_string())?;
    if names.len() > POOLS_PER_BID_MAX {
        return Err(format!("it names {} pools: at most {POOLS_PER_BID_MAX} are allowed", names.len()));
    }
    Ok(names)
}

fn openb(mut table: Table<'_>) -> Result<Trace, BacktestError> {
    let created = table.require("creation_time")?;
    let deleted = table.require("deletion_time")?;
    let scheduled = table.require("scheduled_time")?;
    let gpus = table.require("num_gpu")?;
    let qos = table.require("qos")?;
    let spec = table.column("gpu_spec");
    let mut trace = Trace::empty();
    while let Some(row) = table.next_row()? {
        let ran = row.number_if_there(&scheduled, SECONDS)?.zip(row.number_if_there(&deleted, SECONDS)?);
        let job = TraceJob {
            line: row.line,
            arrives: row.number(&created, SECONDS)?,
            duration: ran.map_or(0, |(from, until)| until.saturating_sub(from)),
            gpus: row.number(&gpus, (0, JOB_GPUS_MAX))?,
            class: row.text(&qos).map(str::to_owned),
            place: platforms(&row, &spec)?,
            ..TraceJob::default()
        };
        trace.add(job)?;
    }
    Ok(trace)
}

fn platforms(row: &Row<'_>, spec: &Column) -> Result<Place, BacktestError> {
    let names = |text: &str| text.split('|').map(Platform::new).collect::<Result<Vec<_>, _>>();
    Ok(row.parse_if_there(spec, names)?.map_or(Place::Anywhere, Place::Platforms))
}
