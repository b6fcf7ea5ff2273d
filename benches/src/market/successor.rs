//! From the order to stop a victim to the successor that runs: what of that is ours.
//!
//! The real cell on SQLite, its driver, and the simulated cloud over gRPC on loopback. Each trial has a pool of one
//! node, on which a victim runs; a bid above its limit displaces it. Of the time to the event that says RUNNING of
//! the successor, the notice, the stop and the boot are the cloud's; the rest is overhead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_capacity::lifecycle::Phase;
use hourglass_compute::client::{Client, ClientOptions, Patience, TokenSource};
use hourglass_compute::simulator::{ServeOptions, Settings, serve};
use hourglass_consumers::compute::{DriverOptions, DriverStatus, drive};
use hourglass_ledger::cell::{CellHandle, Clock};
use hourglass_ledger::core::market::NOTICE_MS_MIN;
use hourglass_units::Instant;
use tokio::net::TcpListener;

use super::region::{PLATFORM, REGION, bid, clear, open, pool, tenant};
use crate::embedded::{WallClock, start};
use crate::figure::{Figure, median};

const GPUS: u32 = 8;
/// The cloud's own times, in milliseconds.
const STOP_MS: i64 = 2_300;
const BOOT_MS: i64 = 4_700;
/// Between two victims.
const APART: Duration = Duration::from_millis(270);
/// How often the state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// When a trial that does not end is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs all trials, a short time apart; they last a notice and a bit.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let trials = if quick { 5 } else { 31 };
    let directory = tempfile::tempdir().expect("a directory");
    let cell = start(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let overheads = runtime.block_on(preempt(&cell.handle(), trials));
    runtime.shutdown_timeout(Duration::from_secs(5));
    cell.close();
    vec![Figure {
        name: "preempted to successor running, ours",
        value: median(overheads) / 1_000.0,
        unit: "s",
        ceiling: Some((NOTICE_MS_MIN + STOP_MS + BOOT_MS) as f64 / 1_000.0),
        target: "< 1 s",
    }]
}

fn fabric(trial: usize) -> String {
    format!("fabric-{trial:02}")
}

/// Milliseconds of overhead, by trial.
async fn preempt(cell: &CellHandle, trials: usize) -> Vec<f64> {
    let mut settings = Settings::new(
        REGION.parse().expect("a region"),
        "tenant-1".parse().expect("an id"),
        vec!["8gpu-128vcpu-1600gb".parse().expect("a preset")],
    );
    (settings.stop_ms, settings.boot_ms) = (STOP_MS, BOOT_MS);
    for trial in 0..trials {
        settings.add_capacity(&format!("{PLATFORM}/{}={GPUS}", fabric(trial))).expect("a place");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let options = ServeOptions { settings, state: None, tokens: None, speed: 1, started: WallClock.now() };
    let serving = tokio::spawn(serve(listener, options, std::future::pending()));
    let client = ClientOptions {
        url,
        authority: None,
        token: TokenSource::None,
        patience: Patience::default(),
        seed: 1,
    };
    let client = Arc::new(Client::new(client).expect("a client"));
    let status = Arc::new(DriverStatus::default());
    let options = DriverOptions::new("project-1".parse().expect("an id"));
    let driving =
        tokio::spawn(drive(cell.clone(), client, options, Arc::clone(&status), std::future::pending()));

    let pools: Vec<(String, u64)> = (0..trials).map(|trial| (fabric(trial), u64::from(GPUS))).collect();
    let submit = async |command| drop(cell.submit(command).await.expect("an answer"));
    for command in open(cell.now(), &pools) {
        submit(command).await;
    }
    for trial in 0..trials {
        submit(bid(&format!("victim-{trial}"), &fabric(trial), (GPUS, 1), "1")).await;
    }
    submit(clear()).await;
    for trial in 0..trials {
        running_since(cell, trial, "victim").await;
    }
    let polls_before = status.polls.load(Ordering::Relaxed);
    let mut deadlines = Vec::new();
    for trial in 0..trials {
        tokio::time::sleep(APART).await;
        submit(bid(&format!("successor-{trial}"), &fabric(trial), (GPUS, 1), "2")).await;
        submit(clear()).await;
        deadlines.push(deadline(cell, trial).await);
    }
    let mut overheads = Vec::new();
    for (trial, deadline) in deadlines.into_iter().enumerate() {
        let runs = running_since(cell, trial, "successor").await;
        overheads.push((runs.ms_since(deadline) - STOP_MS - BOOT_MS) as f64);
    }
    let polls = status.polls.load(Ordering::Relaxed) - polls_before;
    let mut sorted = overheads.clone();
    sorted.sort_by(f64::total_cmp);
    eprintln!(
        "  {trials} trials: {:.0} to {:.0} ms of overhead; {:.1} polls each, of a stop of {STOP_MS} ms, a boot of \
         {BOOT_MS} ms and a deletion",
        sorted.first().copied().unwrap_or(f64::NAN),
        sorted.last().copied().unwrap_or(f64::NAN),
        polls as f64 / trials as f64,
    );
    driving.abort();
    serving.abort();
    overheads
}

/// The end of a victim's notice.
async fn deadline(cell: &CellHandle, trial: usize) -> Instant {
    let pool = pool(&fabric(trial));
    let until = cell.read(move |state| {
        state.market().lives().filter(|life| life.pool == pool).find_map(|life| match life.cycle.phase() {
            Phase::Notice { until, .. } => Some(*until),
            _ => None,
        })
    });
    until.await.expect("a cell").expect("a victim")
}

/// Waits until the unit of a bid runs; answers with the time of the event that said so.
async fn running_since(cell: &CellHandle, trial: usize, who: &str) -> Instant {
    let name = format!("{who}-{trial}").parse().expect("an id");
    let look = async || {
        loop {
            let name = hourglass_units::BidId::clone(&name);
            let since = cell.read(move |state| {
                let (number, _) = state.market().bid(&tenant(), &name)?;
                let of_bid = state.market().lives().find(|life| life.number == number)?;
                (*of_bid.cycle.phase() == Phase::Running).then(|| of_bid.cycle.since())
            });
            if let Some(since) = since.await.expect("a cell") {
                return since;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, look()).await.expect("a unit that comes up")
}
