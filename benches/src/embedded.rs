//! The embedded cell end to end, and recovery from the log that it wrote.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hourglass_ledger::cell::{Cell, CellHandle, CellOptions, Clock, Pending, Submission};
use hourglass_ledger::core::Command;
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::load::{From, load};
use hourglass_ledger::store::Store;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_proto::v1;
use hourglass_units::Instant;
use prost::Message;
use prost::bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Executor};

use crate::figure::{Figure, median, seconds};
use crate::workload::{self, RECORDS, REPORT_MS, opens_at, set_up};

/// Commands under way at once.
const UNDER_WAY: usize = 512;

/// The machine's clock.
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Instant {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set");
        Instant::from_unix_ms(since.as_millis() as i64).expect("a time of our days")
    }
}

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let (instances, rounds, repeats) = if quick { (20_000, 5, 3) } else { (100_000, 20, 5) };
    let directory = tempfile::tempdir().expect("a directory");
    let cell = start(directory.path());
    let handle = cell.handle();
    submit_all(&handle, set_up(instances).map(|command| (opens_at(), command)));

    let (mut rates, mut decoding) = (Vec::new(), Vec::new());
    let (mut grouped, mut one_by_one) = (Vec::new(), Vec::new());
    let mut records_logged = 0;
    for repeat in 0..repeats {
        let batches: Vec<Vec<Bytes>> =
            (repeat * rounds..(repeat + 1) * rounds).map(|round| workload::round(instances, round)).collect();
        let records = (instances * rounds) as f64;
        let (bare, ()) = seconds(|| {
            for raw in batches.iter().flatten() {
                black_box(v1::UsageBatch::decode(raw.clone()).expect("a batch"));
            }
        });
        decoding.push(records / bare);
        let commits_before = handle.status().commits.load(std::sync::atomic::Ordering::Relaxed);
        let (took, ()) = seconds(|| {
            // Each round is a minute: the reports, then the tick that accrues them.
            submit_all(
                &handle,
                (repeat * rounds..).zip(&batches).flat_map(|(round, batches)| {
                    let now = opens_at().saturating_add_ms((round as i64 + 1) * REPORT_MS);
                    let accept =
                        |raw: &Bytes| Command::AcceptUsage(UsageBatch::parse(raw.clone()).expect("a batch"));
                    batches.iter().map(accept).chain([Command::Tick]).map(move |command| (now, command))
                }),
            );
        });
        rates.push(records / took);
        records_logged += instances * rounds;
        let commits = handle.status().commits.load(std::sync::atomic::Ordering::Relaxed) - commits_before;
        let all: Vec<Vec<u8>> =
            batches.iter().flatten().map(|raw| lz4_flex::compress_prepend_size(raw)).collect();
        let a_commit = (all.len() as u64).div_ceil(commits.max(1)) as usize;
        grouped.push(records / raw_sqlite(&all, a_commit));
        one_by_one.push(records / raw_sqlite(&all, 1));
    }
    drop(handle);
    cell.close();

    let end_to_end = |name, ceiling, target| Figure {
        name,
        value: median(rates.clone()),
        unit: "records/s",
        ceiling: Some(ceiling),
        target,
    };
    let target = ">= 500 k, ratio >= 0.5";
    let mut figures = vec![
        end_to_end("embedded, to a commit a batch", median(one_by_one), target),
        end_to_end("embedded, to commits as grouped", median(grouped), target),
    ];
    figures.extend(recovery(directory.path(), records_logged, median(decoding)));
    figures
}

/// Folds the log that the cell wrote.
fn recovery(directory: &Path, records: usize, decoding: f64) -> Vec<Figure> {
    let store = SqliteStore::open(directory, SqliteOptions::default()).expect("the store");
    let reader = store.reader();
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (took, from_start) =
            seconds(|| load(reader.as_ref(), From::Start, |_, _| {}).expect("a sound log"));
        cold.push(records as f64 / took);
        let (took, from_snapshot) =
            seconds(|| load(reader.as_ref(), From::Snapshot, |_, _| {}).expect("a sound log"));
        assert!(from_snapshot.from_snapshot.number() > 0, "the cell left a snapshot");
        assert!(from_start.state == from_snapshot.state, "a snapshot changes nothing");
        warm.push(took);
    }
    vec![
        Figure {
            name: "recovery, cold",
            value: median(cold),
            unit: "records/s",
            ceiling: Some(decoding),
            target: ">= 3 M records/s",
        },
        Figure {
            name: "recovery, from a snapshot",
            value: median(warm),
            unit: "s",
            ceiling: None,
            target: "< 2 s",
        },
    ]
}

/// A cell on a store of its own.
pub(crate) fn start(directory: &Path) -> Cell {
    let store = SqliteStore::open(directory, SqliteOptions::default()).expect("a store");
    Cell::start(Box::new(store), Arc::new(WallClock), CellOptions::sole("bench"), |_, _| {}).expect("a cell")
}

/// Submits commands, many under way at once, and waits for their outcomes.
pub(crate) fn submit_all(handle: &CellHandle, commands: impl Iterator<Item = (Instant, Command)>) {
    let mut under_way = std::collections::VecDeque::new();
    let settle = |pending: Pending| drop(pending.wait().expect("an outcome"));
    for (at, command) in commands {
        if under_way.len() >= UNDER_WAY {
            under_way.pop_front().map(settle);
        }
        let submission = Submission { command, key: None, at: Some(at) };
        under_way.push_back(handle.submit_later(submission).expect("a cell that is open"));
    }
    under_way.into_iter().for_each(settle);
}

/// Seconds to write the batches, compressed already, one row each, as many a commit as the cell had.
fn raw_sqlite(batches: &[Vec<u8>], a_commit: usize) -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("raw.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await.expect("a database");
        connection
            .execute("CREATE TABLE raw (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
            .await
            .expect("a table");
        let started = std::time::Instant::now();
        let mut id = 0_i64;
        for commit in batches.chunks(a_commit.max(1)) {
            connection.execute("BEGIN IMMEDIATE").await.expect("a transaction");
            for payload in commit {
                id += 1;
                let insert = sqlx::query("INSERT INTO raw (id, payload) VALUES (?, ?)")
                    .bind(id)
                    .bind(payload.as_slice());
                insert.execute(&mut connection).await.expect("a row");
            }
            connection.execute("COMMIT").await.expect("a commit");
        }
        started.elapsed().as_secs_f64()
    })
}

/// Records in a batch divide the records of a round.
const _: () = assert!(100_000 % RECORDS == 0 && 20_000 % RECORDS == 0);
