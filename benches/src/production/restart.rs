//! How long a region is without its writer: from `kill -9` of `hourglass serve` to the first commit
//! of the process that is started at once in its place.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hourglass_ledger::cell::LEASE;
use hourglass_ledger::store::Reader;
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresReader};
use hourglass_test_servers::{Nats as NatsServer, NatsOptions, free_port};

use super::cell::{self, BenchClock};
use super::region::{Region, make_stream, publish, subjects};
use super::{REPORT, postgres, runtime};
use crate::embedded::submit_all;
use crate::figure::{Figure, median};

/// Messages behind the snapshot: some MB of tail.
const TAIL_MESSAGES: usize = 200;
/// Messages that wait for the new writer.
const WAITING_MESSAGES: usize = 20;
/// How often the head of the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After this the run has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it: a million instances that run and have reported, a snapshot, and a tail behind it.
pub(crate) fn restart(quick: bool) -> Vec<Figure> {
    let (instances, repeats) = if quick { (100_000, 2) } else { (1_000_000, 3) };
    let program = program();
    let (postgres, nats_server) = (postgres(), NatsServer::start(&NatsOptions::default()));
    let url = postgres.database();
    let region = Region::new(instances, REPORT);
    let opens_at = now().saturating_add_ms(-3_600_000);
    let runtime = runtime();
    let jetstream = runtime.block_on(async {
        let client = async_nats::connect(nats_server.url()).await.expect("a connection");
        async_nats::jetstream::new(client)
    });
    // The region of the workload: `serve` names its stream after it.
    let run = subjects("bench");
    let mut sent = 0;
    let mut send = |messages: usize| {
        let wanted = (sent..sent + messages).map(|n| region.message(opens_at, n));
        runtime.block_on(publish(&jetstream, &run, wanted));
        sent += messages;
    };

    let clock = BenchClock::from(now());
    let cell = cell::start(&url, clock.clone(), LEASE);
    let handle = cell.handle();
    submit_all(&handle, region.set_up(opens_at).map(|command| (opens_at, command)));
    runtime.block_on(make_stream(&jetstream, &run));
    send(region.messages_a_round());
    runtime.block_on(async {
        let nats = cell::nats(&nats_server.url()).await;
        let first_round = (opens_at, 0, region.messages_a_round());
        cell::consume_all((&nats, &handle, &clock), (&region, &run), first_round).await;
    });
    drop(handle);
    // It leaves a snapshot.
    cell.close();

    let reader = PostgresReader::open(&PostgresOptions::new(url.as_str())).expect("the ledger");
    let directory = tempfile::tempdir().expect("a directory");
    let config = configuration(directory.path());
    let serve = || serve(&program, &config, &url, &nats_server.url(), directory.path());
    let mut times = Vec::new();
    let mut writer = serve();
    for _ in 0..repeats {
        let before = position(&reader);
        send(TAIL_MESSAGES);
        wait_for_position(&reader, before + TAIL_MESSAGES as u64);
        writer.kill().expect("a process that can be killed");
        let killed = Instant::now();
        let _gone = writer.wait();
        let before = position(&reader);
        writer = serve();
        send(WAITING_MESSAGES);
        wait_for_position(&reader, before + 1);
        times.push(killed.elapsed().as_secs_f64());
    }
    writer.kill().expect("a process that can be killed");
    let _gone = writer.wait();
    vec![Figure {
        name: "kill -9 to first commit",
        value: median(times),
        unit: "s",
        ceiling: None,
        target: "less than a lease",
    }]
}

fn now() -> hourglass_units::Instant {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set");
    hourglass_units::Instant::from_unix_ms(since.as_millis() as i64).expect("a time of our days")
}

/// The binary lies beside this one: `cargo xtask bench` builds both.
pub(crate) fn program() -> PathBuf {
    let program = std::env::current_exe().expect("this program").with_file_name("hourglass");
    assert!(program.is_file(), "{} is missing: run `cargo build --release` first", program.display());
    program
}

fn configuration(directory: &Path) -> PathBuf {
    let path = directory.join("hourglass.toml");
    let (http, grpc) = (free_port(), free_port());
    // It has the name of the cell before it, as a process that is started again on its machine.
    let text = format!(
        "region = \"bench\"\nhttp = \"127.0.0.1:{http}\"\ngrpc = \"127.0.0.1:{grpc}\"\n\
         [postgres]\n[nats]\nusage_bytes_max = 4294967296\n[cell]\nnode = {:?}\n",
        cell::HOLDER
    );
    std::fs::write(&path, text).expect("a settings file");
    path
}

fn serve(program: &Path, config: &Path, postgres: &str, nats: &str, directory: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"));
    let started = Command::new(program)
        .args(["serve", "--config"])
        .arg(config)
        .env("HOURGLASS_POSTGRES_URL", postgres)
        .env("HOURGLASS_NATS_SERVERS", nats)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("a log"))
        .spawn();
    started.expect("hourglass serve")
}

fn position(reader: &dyn Reader) -> u64 {
    reader.head().expect("the head of the log").position.number()
}

fn wait_for_position(reader: &dyn Reader, position_wanted: u64) {
    let started = Instant::now();
    while position(reader) < position_wanted {
        assert!(started.elapsed() < PATIENCE, "no commit after {PATIENCE:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}
