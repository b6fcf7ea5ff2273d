//! A cell before a store that fails in every way, by seed: refused, lost, stored but the answer lost,
//! stored late, deposed, and killed.
//!
//! Callers repeat what they got no answer for under the same key, as they are told to. In the end
//! everything heals, every request is made once more, and the books must be those of a calm run.
//!
//! `HOURGLASS_SEEDS=1000 cargo test -p hourglass-ledger simulation` runs a thousand seeds, from
//! `HOURGLASS_FIRST_SEED` on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use hourglass_ledger::cell::{Cell, CellError, Submission};
use hourglass_ledger::core::{Answer, Command, IdempotencyKey, Outcome, Policy, Position, Recorded, digest};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::store::faulty::{Faults, FaultyStore};
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresReader, PostgresStore};
use hourglass_ledger::store::sqlite::SqliteReader;
use hourglass_ledger::store::{Reader, Store};
use hourglass_ledger::verify::verify;
use hourglass_test_chance::{Chance, for_each_seed};
use hourglass_test_servers::Postgres;
use hourglass_units::Currency;
use prost::bytes::Bytes;

use super::cell::{BEGIN, Mortal, sqlite, start_cell};
use super::support::{
    Core, DAY, HOUR, MINUTE, at, batch, card, contract, finalise, ms, open_cell, open_tenant, record,
    registration, start, stop,
};

/// Attempts at one request before the simulation says that it never ends.
const ATTEMPTS_MAX: usize = 200;
const FAULTS: Faults = Faults { refused: 9, lost: 11, answer_lost: 8, late: 13, deposed: 40 };

/// A request and when it is made. What commutes may be under way together.
struct Planned {
    command: Command,
    now: i64,
    commutes: bool,
}

/// What callers ask for in two months, by chance. Some of it will be refused.
fn plan(chance: &mut Chance) -> Vec<Planned> {
    let begin = ms(BEGIN);
    let mut now = begin;
    let mut plan: Vec<Planned> = Vec::new();
    let mut opening = vec![
        open_cell(Policy::default()),
        Command::PublishRateCard(card(Currency::USD, 1, begin, 2_950_000_000)),
        open_tenant("acme", Currency::USD),
        open_tenant("bolt", Currency::USD),
    ];
    for (instance, tenant, gpus) in [("i-0", "acme", 8), ("i-1", "acme", 1), ("i-2", "bolt", 3)] {
        opening.push(Command::RegisterInstance(registration(instance, tenant, gpus)));
        opening.push(start(instance, begin));
    }
    plan.extend(opening.into_iter().map(|command| Planned { command, now, commutes: false }));

    let (mut seq, mut version) = (0, 1);
    for _ in 0..chance.within(30, 90) {
        let longest = if chance.one_in(6) { 5 * DAY } else { 2 * HOUR };
        now += chance.within(0, longest);
        let instance = chance.below(4);
        let name = format!("i-{instance}");
        let (command, commutes) = match chance.below(20) {
            0 => (start(&name, now - chance.within(0, HOUR)), false),
            1 => (stop(&name, now - chance.within(0, HOUR)), false),
            2 => {
                version += 1;
                let nanos = chance.within(0, 5_000_000_000);
                (Command::PublishRateCard(card(Currency::USD, version, now + HOUR, nanos)), false)
            }
            3 => {
                let contract = contract(1, now + HOUR, Some(now + 9 * DAY), 1_000_000_000);
                (Command::SignContract { tenant: "acme".parse().unwrap(), contract }, false)
            }
            4 => (Command::RegisterInstance(registration("i-3", "bolt", 2)), false),
            5 => (finalise(chance.pick::<&str>(&["acme", "bolt", "nobody"]), "2026-01"), false),
            6 | 7 => (Command::Tick, true),
            8 => {
                let (reason, content_type) = ("undecodable".to_owned(), "text/plain".to_owned());
                let original = Bytes::from(vec![b'x'; usize::try_from(chance.below(200)).unwrap()]);
                (Command::QuarantineUsage { reason, content_type, original }, true)
            }
            _ => {
                let records = (0..=chance.below(3)).map(|_| {
                    let instance = chance.below(4);
                    let gpus = [8, 1, 3, 2][usize::try_from(instance).unwrap()];
                    let end = now - chance.within(0, DAY);
                    record(&format!("i-{instance}"), gpus, end - chance.within(1, 90 * MINUTE), end)
                });
                let records: Vec<_> = records.collect();
                seq += records.len() as u64;
                (Command::AcceptUsage(batch("agent-1", seq, records)), true)
            }
        };
        plan.push(Planned { command, now, commutes });
    }
    let end = ms("2026-03-01T00:00:00Z").max(now) + 4 * DAY;
    for command in [Command::Tick, finalise("acme", "2026-01"), finalise("bolt", "2026-01"), Command::Tick] {
        plan.push(Planned { command, now: end, commutes: false });
    }
    plan
}

fn key(index: usize) -> IdempotencyKey {
    IdempotencyKey::new("simulation", &index.to_string())
}

/// The same plan without a store and without faults.
fn calm(plan: &[Planned]) -> Core {
    let mut core = Core::new(ms(BEGIN));
    for (index, planned) in plan.iter().enumerate() {
        core.now = planned.now;
        let _outcome = core.submit(&planned.command, Some(key(index)));
    }
    core
}

/// Where the books are.
enum Place {
    Sqlite(tempfile::TempDir),
    /// The address of a database.
    Postgres(String),
}

impl Place {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> Box<dyn Store> {
        match self {
            Self::Sqlite(directory) => sqlite(directory.path()),
            Self::Postgres(url) => {
                Box::new(PostgresStore::open(&PostgresOptions::new(url.as_str())).unwrap())
            }
        }
    }

    fn reader(&self) -> Box<dyn Reader> {
        match self {
            Self::Sqlite(directory) => Box::new(SqliteReader::open(directory.path()).unwrap()),
            Self::Postgres(url) => {
                Box::new(PostgresReader::open(&PostgresOptions::new(url.as_str())).unwrap())
            }
        }
    }
}

/// A cell that is started again whenever it ends.
struct World {
    place: Place,
    chance: Chance,
    faults: Faults,
    cell: Option<(Cell, Arc<AtomicBool>, Receiver<()>)>,
    starts: u64,
    /// First answers, by request: no request may ever have two.
    answers: BTreeMap<usize, Answer>,
    refused: BTreeMap<usize, String>,
}

impl World {
    fn cell(&mut self) -> &Cell {
        if self.cell.is_none() {
            self.starts += 1;
            let faulty = FaultyStore::new(self.place.store(), self.faults, self.chance.next());
            let (store, alive, gone) = Mortal::new(Box::new(faulty));
            self.cell = Some((start_cell(Box::new(store) as Box<dyn Store>), alive, gone));
        }
        &self.cell.as_ref().unwrap().0
    }

    /// Ends the cell: by itself, or as a power cut would.
    fn end(&mut self, kill: bool) {
        let Some((cell, alive, gone)) = self.cell.take() else { return };
        alive.store(!kill, Ordering::SeqCst);
        if kill {
            drop(cell)
        } else {
            cell.close()
        }
        gone.recv_timeout(Duration::from_secs(60)).expect("the cell's threads end");
    }

    /// Makes requests, all under way together, until each has its answer.
    fn ask(&mut self, plan: &[Planned], indices: &[usize]) {
        let mut open = indices.to_vec();
        for _ in 0..ATTEMPTS_MAX {
            let handle = self.cell().handle();
            let submit = |index: &usize| {
                let Planned { command, now, .. } = &plan[*index];
                let submission =
                    Submission { command: command.clone(), key: Some(key(*index)), at: Some(at(*now)) };
                (*index, handle.submit_later(submission))
            };
            let pending: Vec<_> = open.iter().map(submit).collect();
            if self.chance.one_in(30) && self.faults != Faults::default() {
                self.end(true);
            }
            open.clear();
            let mut ended = false;
            for (index, pending) in pending {
                match pending.and_then(|pending| pending.wait()) {
                    Ok(outcome) => self.answered(index, outcome),
                    Err(CellError::Rejected(rejection)) => {
                        let first = self.refused.entry(index).or_insert_with(|| rejection.code().to_owned());
                        assert_eq!(first, rejection.code());
                    }
                    Err(CellError::Unavailable(_)) => open.push(index),
                    Err(CellError::Deposed | CellError::StandingBy { .. } | CellError::Closed) => {
                        ended = true;
                        open.push(index);
                    }
                }
            }
            if ended {
                self.end(false);
            }
            if open.is_empty() {
                return;
            }
        }
        panic!("requests {open:?} are never answered");
    }

    fn answered(&mut self, index: usize, outcome: Outcome) {
        let answer = outcome.answer();
        let first = self.answers.entry(index).or_insert_with(|| answer.clone());
        assert_eq!(first, answer, "request {index} has two answers");
        if let Some((cell, ..)) = &self.cell {
            let head = cell.handle().reader().head().unwrap().position;
            assert!(answer.position <= head, "answered before it was committed");
        }
    }
}

fn simulate(seed: u64, place: Place) {
    let mut chance = Chance(seed);
    let plan = plan(&mut chance);
    let calm = calm(&plan);
    let (answers, refused) = (BTreeMap::new(), BTreeMap::new());
    let mut world = World { place, chance, faults: FAULTS, cell: None, starts: 0, answers, refused };

    // Safety: everything fails. What commutes goes together, the rest one by one.
    let mut next = 0;
    while next < plan.len() {
        let together = plan[next..].iter().take_while(|it| it.commutes).count();
        let together = together.min(usize::try_from(world.chance.within(1, 9)).unwrap()).max(1);
        let indices: Vec<usize> = (next..next + together).collect();
        world.ask(&plan, &indices);
        next += together;
    }
    // Liveness: everything heals; who asks again gets the first answer.
    world.end(false);
    world.faults = Faults::default();
    let (answered, refused) = (world.answers.len(), world.refused.len());
    assert_eq!(answered + refused, plan.len());
    for index in 0..plan.len() {
        if world.answers.contains_key(&index) {
            world.ask(&plan, &[index]);
        }
    }
    let other = Submission { command: open_tenant("cord", Currency::USD), key: Some(key(0)), at: None };
    let reused = world.cell().handle().submit_blocking(other).unwrap_err();
    assert!(matches!(reused, CellError::Rejected(it) if it.code() == "idempotency_key_reused"));
    world.end(false);

    let reader = world.place.reader();
    let reader = reader.as_ref();
    let scratch = tempfile::tempdir().unwrap();
    let report = verify(reader, scratch.path(), |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.digest, digest(&calm.state).unwrap().to_hex().to_string(), "as in a calm run");
    check_log(reader, &world.answers);
    // B-3: from the snapshot as from the start.
    let loaded = [From::Snapshot, From::Start].map(|from| load(reader, from, |_, _| {}).unwrap());
    assert_eq!(loaded[0].state, loaded[1].state);
    assert_eq!(loaded[0].chain_hash, loaded[1].chain_hash);
}

/// Every answered request is in the log exactly once, where its answer says; nothing else is.
fn check_log(reader: &dyn Reader, answers: &BTreeMap<usize, Answer>) {
    let by_key: BTreeMap<IdempotencyKey, Position> =
        answers.iter().map(|(index, answer)| (key(*index), answer.position)).collect();
    let mut seen = BTreeMap::new();
    for event in reader.events(Position::ZERO, usize::MAX).unwrap() {
        let (key, _) = Recorded::decode(&event.payload).unwrap().key.unwrap();
        assert_eq!(seen.insert(key, event.position), None, "position {} is a repeat", event.position);
    }
    assert_eq!(seen, by_key);
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_done_twice() {
    for_each_seed("HOURGLASS_SEEDS", 40, |seed| simulate(seed, Place::sqlite()));
}

/// The same over PostgreSQL: fewer seeds, since every commit waits for a disk.
#[test]
fn nothing_is_lost_or_done_twice_in_postgresql_either() {
    for_each_seed("HOURGLASS_POSTGRES_SEEDS", 2, |seed| {
        eprintln!("seed {seed}");
        simulate(seed, Place::Postgres(Postgres::shared().database()));
    });
}

/// No clock, chance or order of a hash map reaches a decision: the same seed gives the same bytes.
#[test]
fn b3_one_seed_run_twice_gives_the_same_events() {
    for seed in 0..20 {
        let runs = [0, 1].map(|_| calm(&plan(&mut Chance(seed))));
        assert_eq!(runs[0].events, runs[1].events);
        assert_eq!(runs[0].rows, runs[1].rows);
        assert_eq!(runs[0].chain, runs[1].chain);
    }
}

/// The cell adds nothing to what the core decides.
#[test]
fn b3_the_cell_writes_the_events_of_the_core() {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(&mut Chance(4));
    let cell = start_cell(sqlite(directory.path()));
    for (index, Planned { command, now, .. }) in plan.iter().enumerate() {
        let submission = Submission { command: command.clone(), key: Some(key(index)), at: Some(at(*now)) };
        let _outcome = cell.handle().submit_blocking(submission);
    }
    cell.close();
    let reader = SqliteReader::open(directory.path()).unwrap();
    assert_eq!(reader.events(Position::ZERO, usize::MAX).unwrap(), calm(&plan).events);
}
