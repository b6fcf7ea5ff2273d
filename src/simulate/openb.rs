//! The OpenB trace: Alibaba's GPU cluster trace of 2023, as two CSV files of tasks and nodes.
//!
//! How it is read, so that the same files always give the same workload:
//!
//! * Each task with a `scheduled_time` and at least one GPU is an instance that ran during
//!   `[scheduled_time, deletion_time)` seconds after the start. A task that was never scheduled cost
//!   nothing. A task that shares a GPU (`gpu_milli` below 1000) holds, and pays for, a whole one.
//! * `qos` BE is spot; LS, Burstable and Guaranteed are on demand.
//! * The trace names no customers. A task belongs to tenant `tenant-NN` and project `project-N` by
//!   the BLAKE3 hash of its name: 40 tenants with 3 projects each.
//! * The trace names no nodes either. A task goes to the first node with enough free GPUs, beginning
//!   at the node that its hash names and wrapping around; the node's GPU model is the platform.

use std::path::{Path, PathBuf};

use hourglass_ledger::core::{Mode, Registration};
use hourglass_units::{AgentId, Instant, Interval, Platform, TenantId};
use serde::Deserialize;

use super::{Job, PricesFile, Workload};

/// Customers among whom the tasks are shared out.
pub const TENANTS: u64 = 40;
/// Projects of each.
pub const PROJECTS: u64 = 3;

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read as CSV with the columns of the trace.
    #[error("{}: {error}", .file.display())]
    Csv {
        /// Which file.
        file: PathBuf,
        /// Why, with the line.
        error: csv::Error,
    },
    /// A value that makes no sense.
    #[error("{}, {what}", .file.display())]
    Value {
        /// Which file.
        file: PathBuf,
        /// Where and what.
        what: String,
    },
    /// No room for a task.
    #[error(
        "no node has {gpus} free GPUs for task {task} at second {at}: the node list is not that of the tasks"
    )]
    NoRoom {
        /// Which task.
        task: String,
        /// GPUs that it wants.
        gpus: u32,
        /// When.
        at: i64,
    },
    /// The prices name no region.
    #[error("the prices file has no card with a price: add one")]
    NoPrices,
}

#[derive(Debug, Deserialize)]
struct TaskRow {
    name: String,
    num_gpu: u32,
    qos: String,
    deletion_time: Option<i64>,
    scheduled_time: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct NodeRow {
    sn: String,
    gpu: u32,
    model: String,
}

struct Node {
    agent: AgentId,
    platform: Platform,
    free: u32,
}

/// Reads the trace; its second 0 is `opens_at`.
pub fn read(
    tasks: &Path,
    nodes: &Path,
    prices: PricesFile,
    opens_at: Instant,
) -> Result<Workload, TraceError> {
    let mut nodes = read_nodes(nodes)?;
    let card = prices.cards.first().ok_or(TraceError::NoPrices)?;
    let region = card.prices.first().map(|price| price.region.clone()).ok_or(TraceError::NoPrices)?;
    let currency = card.currency;

    let mut waiting: Vec<(i64, i64, TaskRow)> = Vec::new();
    for row in csv_rows::<TaskRow>(tasks)? {
        if let (Some(scheduled), Some(deleted)) = (row.scheduled_time, row.deletion_time)
            && row.num_gpu > 0
        {
            waiting.push((scheduled, deleted, row));
        }
    }
    waiting.sort_by(|a, b| (a.0, &a.2.name).cmp(&(b.0, &b.2.name)));

    let mut jobs = Vec::with_capacity(waiting.len());
    // Tasks that hold GPUs now: when they end, and on which node.
    let mut running: std::collections::BinaryHeap<std::cmp::Reverse<(i64, usize, u32)>> = Default::default();
    for (scheduled, deleted, row) in waiting {
        while let Some(std::cmp::Reverse((end, node, gpus))) =
            running.peek().copied().filter(|it| it.0.0 <= scheduled)
        {
            let _ended = (running.pop(), end);
            if let Some(node) = nodes.get_mut(node) {
                node.free = node.free.saturating_add(gpus);
            }
        }
        let value = |what: String| TraceError::Value { file: tasks.to_owned(), what };
        let named = |what: &str, error: &dyn std::fmt::Display| {
            value(format!("task {:?}: {what}: {error}", row.name))
        };
        let hash = *blake3::hash(row.name.as_bytes()).as_bytes();
        let part = |at: usize| {
            let bytes = hash.get(at..at.saturating_add(8)).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let home = usize::try_from(part(16) % (nodes.len().max(1) as u64)).unwrap_or(0);
        let places = (home..nodes.len()).chain(0..home);
        let place = places.into_iter().find(|at| nodes.get(*at).is_some_and(|node| node.free >= row.num_gpu));
        let Some((place, node)) = place.and_then(|at| nodes.get_mut(at).map(|node| (at, node))) else {
            return Err(TraceError::NoRoom { task: row.name, gpus: row.num_gpu, at: scheduled });
        };
        node.free = node.free.saturating_sub(row.num_gpu);
        running.push(std::cmp::Reverse((deleted, place, row.num_gpu)));

        let moment = |seconds: i64| opens_at.saturating_add_ms(seconds.saturating_mul(1_000));
        let instance = Registration {
            instance: row.name.parse().map_err(|error| named("its name", &error))?,
            tenant: tenant(part(0) % TENANTS).map_err(|error| named("its tenant", &error))?,
            project: format!("project-{}", part(8) % PROJECTS)
                .parse()
                .map_err(|error| named("its project", &error))?,
            platform: node.platform.clone(),
            mode: if row.qos == "BE" { Mode::SPOT } else { Mode::OnDemand },
            gpus: row.num_gpu,
            agent: Some(node.agent.clone()),
            hold: None,
            fabric: None,
        };
        jobs.push(Job {
            instance,
            agent: node.agent.clone(),
            ran: Interval::new(moment(scheduled), moment(deleted))
                .map_err(|error| named("when it ran", &error))?,
        });
    }
    let tenants: Result<Vec<TenantId>, _> = (0..TENANTS).map(tenant).collect();
    let tenants =
        tenants.map_err(|error| TraceError::Value { file: tasks.to_owned(), what: error.to_string() })?;
    Ok(Workload { region, opens_at, tenants, currency, prices, jobs })
}

fn tenant(number: u64) -> Result<TenantId, hourglass_units::IdError> {
    format!("tenant-{number:02}").parse()
}

fn read_nodes(file: &Path) -> Result<Vec<Node>, TraceError> {
    let value = |row: &NodeRow, error: hourglass_units::IdError| TraceError::Value {
        file: file.to_owned(),
        what: format!("node {:?}: {error}", row.sn),
    };
    let node = |row: NodeRow| {
        Ok(Node {
            agent: row.sn.parse().map_err(|error| value(&row, error))?,
            platform: row.model.parse().map_err(|error| value(&row, error))?,
            free: row.gpu,
        })
    };
    csv_rows::<NodeRow>(file)?.into_iter().map(node).collect()
}

fn csv_rows<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Vec<T>, TraceError> {
    let error = |error| TraceError::Csv { file: file.to_owned(), error };
    csv::Reader::from_path(file).map_err(error)?.deserialize().collect::<Result<_, _>>().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: &str = include_str!("../../docs/examples/openb-prices.toml");
    const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nnode-a,1,1,2,T4\nnode-b,1,1,8,G2\n";
    const HEAD: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n";

    fn read_text(tasks: &str) -> Result<Workload, TraceError> {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (tasks, nodes) = (file("pods.csv", &format!("{HEAD}{tasks}")), file("nodes.csv", NODES));
        read(&tasks, &nodes, toml::from_str(PRICES).unwrap(), "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn tasks_become_jobs_on_nodes_with_room() {
        let workload = read_text(
            "p-1,1,1,8,1000,,LS,Running,0,100,10\n\
             p-2,1,1,1,460,,BE,Failed,0,50,20\n\
             p-3,1,1,1,1000,,LS,Pending,0,50,\n\
             p-4,1,1,0,0,,LS,Running,0,50,20\n\
             p-5,1,1,8,1000,,Burstable,Running,0,200,100\n",
        )
        .unwrap();
        let seen: Vec<_> = workload
            .jobs
            .iter()
            .map(|job| {
                let it = &job.instance;
                (it.instance.as_str(), it.platform.as_str(), it.mode.model().as_str(), job.gpu_ms())
            })
            .collect();
        let expected = [
            ("p-1", "G2", "on_demand", 720_000),
            ("p-2", "T4", "spot", 30_000),
            ("p-5", "G2", "on_demand", 800_000),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |tasks: &str, expected: &str| {
            let error = read_text(tasks).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        };
        check("p-1,1,1,9,1000,,LS,Running,0,100,10\n", "no node has 9 free GPUs for task p-1 at second 10");
        check("p-1,1,1,1,1000,,LS,Running,0,10,10\n", "empty or reversed");
        check("p 1,1,1,1,1000,,LS,Running,0,20,10\n", "task \"p 1\"");
        check("p-1,1,1,x,1000,,LS,Running,0,20,10\n", "line: 2");
        check("p-1,1,1\n", "found record with 3 fields");
    }
}
