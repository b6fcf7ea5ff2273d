//! What must come out: the same facts and the same usage, told once and calmly to a cell on SQLite.

use std::path::Path;
use std::sync::Arc;

use hourglass_consumers::api::{ApiConfig, serve_http};
use hourglass_ledger::cell::{Cell, CellOptions, Clock};
use hourglass_ledger::core::{Command, Outcome, Policy};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_units::Instant;
use serde_json::Value;

use super::client::Client;
use super::schedule::{REGION, Schedule, agent_name};
use crate::http::{now_ms, usage_batch};
use crate::support::hourglass;

/// One record reports a day at most.
const RECORD_MS_MAX: i64 = 86_400_000;
/// Records in one batch.
const BATCH_RECORDS: usize = 5_000;

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Instant {
        Instant::from_unix_ms(now_ms()).unwrap()
    }
}

/// The digest of the schedule.
pub(crate) fn digest(schedule: &Schedule, agents: usize, directory: &Path) -> String {
    let data = directory.join("calm");
    let store = SqliteStore::open(&data, SqliteOptions::default()).unwrap();
    let options = CellOptions::sole("calm");
    let cell = Cell::start(Box::new(store), Arc::new(WallClock), options, |_, _| {}).unwrap();
    let handle = cell.handle();
    let year = 366 * 86_400_000;
    let policy = Policy { acceptance_window_ms: year, grace_ms: 0, ..Policy::default() };
    let open = Command::OpenCell { region: REGION.parse().unwrap(), policy };
    let submit = |command: Command| {
        let _done: Outcome = handle.submit_blocking(command).unwrap();
    };
    submit(open);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let client = Client::new(vec![format!("http://{}", listener.local_addr().unwrap())]);
    runtime.spawn(serve_http(listener, handle.clone(), ApiConfig::default(), std::future::pending()));
    client.tell_all(schedule, None);
    for agent in 0..agents {
        let records = records(schedule, agent);
        for (number, chunk) in records.chunks(BATCH_RECORDS).enumerate() {
            let name = agent_name(agent);
            let bytes = usage_batch(&name, (number * BATCH_RECORDS) as u64, chunk);
            let key = format!("usage-{name}-{number}");
            client.tell_bytes(&key, "/v1/usage:ingest", ("application/x-protobuf", &bytes));
        }
    }
    submit(Command::Tick);
    client.finalise(schedule);
    submit(Command::Tick);
    runtime.shutdown_background();
    cell.close();
    let answer = hourglass(&data, &["--json", "ledger", "digest"]).json();
    let Value::String(digest) = &answer["digest"] else { panic!("{answer}") };
    digest.clone()
}

/// What an agent saw, in as few records as there can be.
fn records(schedule: &Schedule, agent: usize) -> Vec<(&str, i64, i64, u64)> {
    let mut records = Vec::new();
    for it in schedule.instances.iter().filter(|it| it.agent == agent) {
        for run in &it.runs {
            let mut start = run.start;
            while start < run.end {
                let end = run.end.min(start + RECORD_MS_MAX);
                records.push((it.id.as_str(), start, end, u64::from(it.gpus)));
                start = end;
            }
        }
    }
    records
}
