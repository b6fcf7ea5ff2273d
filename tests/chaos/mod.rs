//! The crash test: agents publish a known schedule at speed while everything around them fails.
//!
//! A private PostgreSQL and nats-server, two servers of one cell and up to twenty agents run as
//! processes of their own. The seed draws who rents what and when it ran (`schedule`), and what goes
//! wrong when (`faults`). At the end all is healed, the agents drain, and the ledger must be the one
//! that the same schedule gives when it is told once, calmly, to a cell on SQLite (`expected`); and by
//! plain arithmetic no millisecond is lost, duplicated or billed twice (`verdict`).
//!
//! `cargo xtask chaos --seed N --minutes M` runs it for as long as one likes.

mod broker;
mod cast;
mod client;
mod clock;
mod expected;
mod faults;
mod injection;
mod repeater;
mod schedule;
mod verdict;

use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use cast::{Cast, LEASE_MS};
use client::Client;
use clock::{Stopwatch, pause};
use faults::Mix;
use injection::Injector;
use schedule::{Schedule, Size};
use verdict::Verdict;

/// Usage records a minute of the long run.
const RECORDS_A_MINUTE: i64 = 400_000;
/// How long agents may take to drain when all is healed, at least.
const DRAIN_MS_MIN: u64 = 90_000;
/// Between two looks at what is due.
const LOOK_EVERY_MS: u64 = 20;
/// Between two looks at who ended.
const SUPERVISE_EVERY_MS: u64 = 500;

/// One run of the crash test.
struct Plan {
    seed: u64,
    size: Size,
    mix: Mix,
    /// A guard that the servers leave out, so that the test can show that it notices.
    planted_fault: Option<String>,
}

#[test]
fn a_short_run_loses_nothing() {
    let size = Size { agents: 6, instances: 60, records: 300_000, waves: 40, duration_ms: 26_000 };
    let seed = variable("HOURGLASS_CHAOS_SEED").unwrap_or(1);
    let verdict = run(&Plan { seed, size, mix: Mix::All, planted_fault: None });
    assert!(verdict.wrong.is_empty(), "{verdict}");
}

/// The test can fail: told to the broker and to the agent before it is committed, usage is lost with
/// the writer.
#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    let size = Size { agents: 4, instances: 40, records: 150_000, waves: 40, duration_ms: 10_000 };
    let planted_fault = Some("ack_before_commit".to_owned());
    let verdict = run(&Plan { seed: 1, size, mix: Mix::Writer, planted_fault });
    assert!(verdict.lost > 0, "nobody noticed: {verdict}");
}

/// As long, and with the seed, that the environment says.
#[test]
#[ignore = "takes as long as asked for: run by `cargo xtask chaos`"]
fn soak() {
    let minutes = variable("HOURGLASS_CHAOS_MINUTES").unwrap_or(3);
    let seed = variable("HOURGLASS_CHAOS_SEED").unwrap_or(1);
    let size = Size {
        agents: 20,
        instances: 300,
        records: RECORDS_A_MINUTE * i64::try_from(minutes).unwrap(),
        waves: 60 * minutes,
        duration_ms: 60_000 * minutes,
    };
    let planted_fault = std::env::var("HOURGLASS_CHAOS_PLANTED_FAULT").ok();
    let verdict = run(&Plan { seed, size, mix: Mix::All, planted_fault });
    assert!(verdict.wrong.is_empty(), "{verdict}");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs the plan and looks at what came out.
fn run(plan: &Plan) -> Verdict {
    // Two at once would take each other's time.
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut files = Files { directory: Some(tempfile::tempdir().unwrap()), seed: plan.seed };
    let directory = files.path();
    let schedule = Arc::new(Schedule::draw(plan.seed, &plan.size));
    let faults = faults::draw(plan.seed, plan.mix, plan.size.duration_ms, plan.size.agents, LEASE_MS);
    let calm =
        plan.planted_fault.is_none().then(|| expected::digest(&schedule, plan.size.agents, &directory));

    let cast = Cast::start(&directory, plan.size.agents, plan.planted_fault.as_deref());
    let client = Client::new(cast.servers.iter().map(|server| server.url.clone()).collect());
    let mut injector = Injector::new(cast, client.clone(), faults);
    let teller = std::thread::spawn({
        let (schedule, client, watch) = (Arc::clone(&schedule), client.clone(), injector.watch);
        move || client.tell_all(&schedule, Some(watch))
    });
    play(&schedule, &mut injector, plan.size.duration_ms);
    injector.heal_all();
    wait_while_supervised(&mut injector, DRAIN_MS_MIN, |_| teller.is_finished());
    teller.join().expect("whoever tells the facts");

    let mut verdict = Verdict::default();
    let drain_ms = DRAIN_MS_MIN.max(plan.size.duration_ms);
    let since = injector.watch;
    let drained = wait_while_supervised(&mut injector, drain_ms, |injector| {
        injector.say_what_is_left();
        injector.is_drained()
    });
    let drained_at = since.ms();
    if !drained {
        verdict.wrong.push(format!("the agents did not drain: {}", injector.statuses()));
    }
    injector.settle_poison(drain_ms);
    wait_for_ticks(&injector);
    client.finalise(&schedule);
    wait_for_ticks(&injector);
    verdict.look(&schedule, &injector.cast, &client);
    verdict.wrong.extend(injector.stop_everyone());
    verdict.look_at_ledger(&injector.cast, calm.as_deref(), &injector.poison_by_reason());
    verdict.wrong.append(&mut injector.wrong);

    eprintln!("seed {}, {} agents, {} instances", plan.seed, plan.size.agents, schedule.instances.len());
    eprintln!("{}{:>16}  ms until the last record was committed\n{verdict}", injector.table(), drained_at);
    if verdict.wrong.is_empty() || plan.planted_fault.is_some() {
        drop(files.directory.take());
    }
    verdict
}

/// Lets instances appear and faults happen, each at its time.
fn play(schedule: &Schedule, injector: &mut Injector, duration_ms: u64) {
    let mut runs: Vec<_> = schedule
        .instances
        .iter()
        .flat_map(|it| it.runs.iter().map(move |run| (run.seen_at, it, run)))
        .collect();
    runs.sort_by_key(|(seen_at, it, run)| (*seen_at, &it.id, run.session));
    let mut runs = runs.into_iter().peekable();
    let played = wait_while_supervised(injector, 2 * duration_ms + DRAIN_MS_MIN, |injector| {
        let now = injector.watch.ms();
        while let Some((_, it, run)) = runs.next_if(|(seen_at, ..)| *seen_at <= now) {
            injector.cast.agents[it.agent].assign(it, run);
        }
        injector.look();
        now >= duration_ms && runs.peek().is_none() && injector.is_over()
    });
    assert!(played, "the faults took far longer than they should");
}

/// Looks again and again, and starts again who ended. Answers whether it was done in time.
fn wait_while_supervised(
    injector: &mut Injector,
    ms_max: u64,
    mut done: impl FnMut(&mut Injector) -> bool,
) -> bool {
    let watch = Stopwatch::start();
    let mut supervised_at = 0;
    loop {
        if done(injector) {
            return true;
        }
        if watch.ms() > ms_max {
            return false;
        }
        if watch.ms() >= supervised_at + SUPERVISE_EVERY_MS {
            supervised_at = watch.ms();
            injector.supervise();
        }
        pause(LOOK_EVERY_MS);
    }
}

/// Everything that is in the log now is accrued when two more ticks are.
fn wait_for_ticks(injector: &Injector) {
    let ticked = hourglass_ledger::core::EventKind::Ticked;
    let query = format!("SELECT count(*) FROM events WHERE kind = {}", ticked as u32);
    let ticks = || -> u64 { injector.cast.sql(&query)[0][0].parse().unwrap() };
    let (watch, first) = (Stopwatch::start(), ticks());
    while ticks() < first + 2 {
        assert!(watch.ms() < DRAIN_MS_MIN, "nobody ticks any more");
        pause(5 * LOOK_EVERY_MS);
    }
}

/// What the processes wrote; kept where the run fails.
struct Files {
    directory: Option<TempDir>,
    seed: u64,
}

impl Files {
    fn path(&self) -> std::path::PathBuf {
        self.directory.as_ref().unwrap().path().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            eprintln!("what everyone said is kept in {}", directory.keep().display());
            eprintln!("repeat it with `cargo xtask chaos --seed {} --minutes M`", self.seed);
        }
    }
}
