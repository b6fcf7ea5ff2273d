//! The production path: JetStream in, the ledger in PostgreSQL, on servers of our own.
//!
//! Server, broker, agents and cell share one machine, so what each of them takes is taken from the
//! others; the ceiling is measured under the same conditions, in turns with the figure.

mod cell;
mod cpu;
mod latency;
mod pipe;
mod quota;
mod region;
mod restart;
mod rows;

use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_consumers::billing::report::balances;
use hourglass_ledger::cell::{CellHandle, LEASE_MAX};
use hourglass_ledger::core::State;
use hourglass_test_servers::{Nats as NatsServer, NatsOptions, Postgres, PostgresOptions};
use tokio::runtime::Runtime;

use self::cell::BenchClock;
pub(crate) use self::latency::latency;
use self::pipe::Pack;
pub(crate) use self::quota::admission;
use self::region::{Region, make_stream, publish, subjects};
pub(crate) use self::restart::{program, restart};
use crate::embedded::submit_all;
use crate::figure::{Figure, median};
use crate::workload::{RECORDS, TENANTS, opens_at, tenant};

/// Agents report so often.
const REPORT: Duration = Duration::from_secs(10);

/// A database server as one sets it up for a ledger: memory for its pages, and room for its log, so
/// that checkpoints come seldom. Every commit is flushed to the disk.
fn postgres() -> Postgres {
    let settings = [
        ("synchronous_commit", "on"),
        ("fsync", "on"),
        ("shared_buffers", "1GB"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "30min"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// What `serve` is measured with.
struct Size {
    instances: usize,
    /// Messages of a repeat.
    messages: usize,
    /// Messages of a repeat of the ledger of a row a record.
    messages_of_rows: usize,
    repeats: usize,
}

/// From JetStream into the ledger, beside a bare pipe and beside a ledger of a row a record.
pub(crate) fn serve(quick: bool) -> Vec<Figure> {
    let size = if quick {
        Size { instances: 20_000, messages: 1_000, messages_of_rows: 100, repeats: 3 }
    } else {
        Size { instances: 100_000, messages: 5_000, messages_of_rows: 1_000, repeats: 5 }
    };
    let (postgres, nats_server) = (postgres(), NatsServer::start(&NatsOptions::default()));
    let region = Region::new(size.instances, REPORT);
    let clock = BenchClock::at(opens_at());
    let cell = cell::start(&postgres.database(), clock.clone(), LEASE_MAX);
    let handle = cell.handle();
    submit_all(&handle, region.set_up(opens_at()).map(|command| (opens_at(), command)));

    let (mut ours, mut rows) = (Taken::default(), Taken::default());
    let (mut pipes, mut packed) = (Taken::default(), Taken::default());
    let other = postgres.database();
    let processes = (nats_server.process(), postgres.process());
    runtime().block_on(async {
        let nats = cell::nats(&nats_server.url()).await;
        let client = async_nats::connect(nats_server.url()).await.expect("a connection");
        let jetstream = async_nats::jetstream::new(client);
        for repeat in 0..size.repeats {
            let first = repeat * size.messages;
            let messages = || (first..first + size.messages).map(|n| region.message(opens_at(), n));

            let run = subjects(&format!("cell-{repeat}"));
            make_stream(&jetstream, &run).await;
            publish(&jetstream, &run, messages()).await;
            let commits_before = handle.status().commits.load(Ordering::Relaxed);
            let parts = ((&nats, &handle, clock.as_ref()), (&region, &run));
            let consumed = cell::consume_all(parts.0, parts.1, (opens_at(), first, size.messages));
            ours.time(processes, size.messages, consumed).await;
            let commits = handle.status().commits.load(Ordering::Relaxed) - commits_before;
            jetstream.delete_stream(run.usage_stream(0)).await.expect("a stream that goes");

            let a_commit = size.messages.div_ceil(usize::try_from(commits).expect("a count").max(1));
            for (pack, pipes) in [(Pack::Nothing, &mut pipes), (Pack::Lz4, &mut packed)] {
                let run = subjects(&format!("pipe-{pack:?}-{repeat}"));
                make_stream(&jetstream, &run).await;
                publish(&jetstream, &run, messages()).await;
                let moved = pipe::run(&jetstream, &run, &other, (size.messages, a_commit, pack));
                pipes.time(processes, size.messages, moved).await;
                jetstream.delete_stream(run.usage_stream(0)).await.expect("a stream that goes");
            }

            let some = messages().take(size.messages_of_rows).map(|(_, bytes)| bytes).collect();
            let booked = rows::run(&other, size.instances, some);
            rows.time(processes, size.messages_of_rows, booked).await;
            eprintln!("  {repeat}: {ours} ({a_commit} messages a commit); bare pipe {pipes}, packed {packed}; rows {rows}");
        }
    });
    check_books(&handle, &region, size.messages * size.repeats);
    drop(handle);
    cell.close();
    let figure = |name, value, unit, ceiling, target| Figure {
        name,
        value: median(value),
        unit,
        ceiling: Some(median(ceiling)),
        target,
    };
    let target = ">= 1 M, ratio >= 0.5";
    let (bare, pack) = ("JetStream to posted, to a bare pipe", "the same, to a pipe that packs");
    let (row, time) = ("the same, to a row a record", "its processor time");
    let (rates, costs) = ("records/s", "s/M records");
    vec![
        figure(bare, ours.rates.clone(), rates, pipes.rates, target),
        figure(time, ours.costs.clone(), costs, pipes.costs, "ratio <= 2"),
        figure(pack, ours.rates.clone(), rates, packed.rates, target),
        figure(time, ours.costs.clone(), costs, packed.costs, "ratio <= 2"),
        figure(row, ours.rates, rates, rows.rates, "-"),
        figure(time, ours.costs, costs, rows.costs, "-"),
    ]
}

/// What repeats took.
#[derive(Default)]
struct Taken {
    /// Records a second.
    rates: Vec<f64>,
    /// Processor seconds of all processes, a million records.
    costs: Vec<f64>,
}

impl Taken {
    /// Times one repeat, which answers with its seconds.
    async fn time(&mut self, processes: (u32, u32), messages: usize, repeat: impl Future<Output = f64>) {
        let records = (messages * RECORDS) as f64;
        let before = cpu::seconds(processes.0, processes.1);
        self.rates.push(records / repeat.await);
        self.costs.push((cpu::seconds(processes.0, processes.1) - before) / records * 1e6);
    }
}

impl std::fmt::Display for Taken {
    /// The last repeat.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN);
        write!(f, "{:.2} M/s, {:.2} s/M", last(&self.rates) / 1e6, last(&self.costs))
    }
}

/// All that was sent is in the balances: what is fast and wrong is no figure.
fn check_books(handle: &CellHandle, region: &Region, messages: usize) {
    for watched in [0, TENANTS - 1] {
        let read = handle.read_blocking(move |state| unbilled(state, watched));
        let (balance, unposted) = read.expect("a balance");
        assert!(unposted == 0.0, "{unposted} is not posted");
        let expected: f64 = (0..messages).map(|message| region.billed(message, watched)).sum();
        // Quantities are rounded to nano-GPU-hours.
        assert!((balance - expected).abs() < expected * 1e-6, "{balance} is billed, {expected} was used");
    }
}

/// What a tenant used and was not invoiced, as `GET /v1/tenants/{tenant}/balance` says it: what is
/// posted, and what is priced and not posted yet.
fn unbilled(state: &State, of: usize) -> (f64, f64) {
    let tenant = tenant(of).parse().expect("a tenant");
    let report = balances(state, Some(&tenant));
    let number = |text: &String| text.parse::<f64>().expect("a number");
    let unbilled = report.rows.iter().filter(|row| row.account.starts_with("assets:unbilled:"));
    unbilled.fold((0.0, 0.0), |(posted, unposted), row| {
        (posted + number(&row.balance), unposted + row.unposted.as_ref().map_or(0.0, number))
    })
}
