//! B-3: from the start of the log, from any snapshot, and alive: the same state. A snapshot that
//! cannot be used costs time and nothing else.

use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::core::{Command, Position, State, apply};
use hourglass_ledger::load::{From, Loaded, load, load_until};
use hourglass_ledger::log;
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_ledger::store::{Reader, Store};
use hourglass_test_chance::Chance;
use hourglass_units::HOUR_MILLISECONDS;
use prost::bytes::Bytes;

use super::support::{Core, usage};
use super::tamper::{story, write};

struct Ledger {
    core: Core,
    store: SqliteStore,
    _directory: tempfile::TempDir,
}

impl Ledger {
    fn new() -> Self {
        let (core, directory) = (story(), tempfile::tempdir().unwrap());
        let mut store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
        write(&core, &mut store);
        Self { core, store, _directory: directory }
    }

    fn load(&self, from: From) -> Loaded {
        load(self.store.reader().as_ref(), from, |_, _| {}).unwrap()
    }

    /// Whatever the snapshot, the state is that of the log.
    fn check(&mut self, what: &str, snapshot: &Snapshot, used: bool) {
        self.store.write_snapshot(snapshot).unwrap();
        let loaded = self.load(From::Snapshot);
        let from = if used { snapshot.position } else { Position::ZERO };
        assert_eq!(loaded.from_snapshot, from, "{what}");
        assert_eq!(loaded.state, self.core.state, "{what}");
        assert_eq!(loaded.chain_hash, self.core.chain, "{what}");
    }
}

#[test]
fn b3_every_position_is_a_place_to_start_from() {
    let mut ledger = Ledger::new();
    let start = ledger.load(From::Start);
    assert_eq!((&start.state, start.chain_hash), (&ledger.core.state, ledger.core.chain));
    for position in 1..=ledger.core.state.position().number() {
        let (state, chain) = ledger.core.replay(Position::new(position));
        let snapshot = Snapshot::of(&state, &chain).unwrap();
        let (read, read_chain) = snapshot.open().unwrap();
        assert_eq!((&read, read_chain), (&state, chain));
        ledger.check(&format!("snapshot at {position}"), &snapshot, true);
    }
}

#[test]
fn b3_the_log_tells_the_state_of_every_position() {
    let ledger = Ledger::new();
    let reader = ledger.store.reader();
    let last = ledger.core.state.position().number();
    for position in 0..=last + 1 {
        let loaded = load_until(reader.as_ref(), Position::new(position)).unwrap();
        let (state, chain) = ledger.core.replay(Position::new(position));
        assert_eq!((loaded.state, loaded.chain_hash), (state, chain), "at {position}");
    }
}

/// The rows, too: what a state from a snapshot writes on is what the live one wrote.
#[test]
fn b3_a_state_from_a_snapshot_writes_the_same_rows() {
    let core = story();
    for position in 1..core.state.position().number() {
        let (state, mut chain) = core.replay(Position::new(position));
        let (mut state, _): (State, _) = Snapshot::of(&state, &chain).unwrap().open().unwrap();
        let rest = core.events.iter().zip(&core.rows).skip(usize::try_from(position).unwrap());
        for (event, expected) in rest {
            let mut rows = EventRows::default();
            let recorded = event.open(state.position(), &chain).unwrap();
            apply(&mut state, event.at, &recorded, &mut rows).unwrap();
            assert_eq!(rows, *expected, "from {position}, at {}", event.position);
            chain = event.hash;
        }
        assert_eq!(state, core.state);
    }
}

#[test]
fn b3_a_snapshot_that_cannot_be_used_is_passed_over() {
    let mut ledger = Ledger::new();
    let last = ledger.core.state.position();
    let good = Snapshot::of(&ledger.core.state, &ledger.core.chain).unwrap();
    ledger.check("good", &good, true);

    let parts = |parts: Vec<Bytes>| Snapshot { parts, ..good.clone() };
    ledger.check("no parts", &parts(Vec::new()), false);
    ledger.check("a part is missing", &parts(good.parts[1..].to_vec()), false);
    ledger.check("the checksum is missing", &parts(good.parts[..1].to_vec()), false);
    ledger.check("a part twice", &parts([&good.parts[..1], &good.parts[..]].concat()), false);
    ledger.check("other bytes", &parts(vec![Bytes::from_static(b"\xff\xff\xff\xff\0"); 2]), false);
    let format = "postcard-lz4/0.0.0/0".to_owned();
    ledger.check("another format", &Snapshot { format, ..good.clone() }, false);
    let position = Position::new(last.number() - 1);
    ledger.check("it lies about its position", &Snapshot { position, ..good.clone() }, false);
    let position = Position::new(last.number() + 1);
    ledger.check("or in the other direction", &Snapshot { position, ..good.clone() }, false);
    let foreign = Snapshot::of(&ledger.core.state, &blake3::hash(b"another log")).unwrap();
    ledger.check("of another log", &foreign, false);
    let empty = Snapshot::of(&State::empty(), &log::genesis()).unwrap();
    ledger.check("of the empty log", &empty, false);
    let mut future = ledger.core.clone();
    future.run(Command::Tick).unwrap();
    let future = Snapshot::of(&future.state, &future.chain).unwrap();
    ledger.check("of the future", &future, false);

    let mut chance = Chance(1);
    for _ in 0..60 {
        let mut flipped = good.clone();
        let part = usize::try_from(chance.below(2)).unwrap();
        let mut bytes = flipped.parts[part].to_vec();
        let byte = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
        bytes[byte] ^= 1 << chance.below(8);
        flipped.parts[part] = Bytes::from(bytes);
        // A length that lz4 writes in two ways may unpack to the same bytes; then it is the snapshot.
        let used = flipped.open().is_some();
        ledger.check("a bit flipped", &flipped, used);
    }
}

/// The log is what counts: a damaged one is not loaded, from wherever.
#[test]
fn a_log_that_does_not_chain_is_not_loaded() {
    let core = story();
    for damage in 0..core.events.len() {
        let mut events = core.events.clone();
        let mut payload = events[damage].payload.to_vec();
        payload.push(0);
        events[damage].payload = payload.into();
        let (mut state, mut chain) = (State::empty(), log::genesis());
        let opened = events.iter().try_for_each(|event| {
            let recorded = event.open(state.position(), &chain)?;
            apply(&mut state, event.at, &recorded, &mut EventRows::default()).unwrap();
            chain = event.hash;
            Ok::<_, log::LogError>(())
        });
        assert_eq!(opened.unwrap_err().position.number(), damage as u64 + 1);
    }
}

/// Late differences to a closed hour, a growing line and suspense all live through a snapshot.
#[test]
fn b3_what_no_row_holds_yet_is_in_the_snapshot() {
    let mut core = story();
    let now = core.now;
    core.run(usage("i-2", 3, now - 30 * HOUR_MILLISECONDS, now - 29 * HOUR_MILLISECONDS)).unwrap();
    core.run(usage("nobody-knows-me", 3, now - HOUR_MILLISECONDS, now)).unwrap();
    let (state, _) = Snapshot::of(&core.state, &core.chain).unwrap().open().unwrap();
    assert_eq!(state, core.state);
    let unwritten = |state: &State| state.unwritten_lines().map(|it| it.line).collect::<Vec<_>>();
    assert!(!unwritten(&state).is_empty());
    assert_eq!(unwritten(&state), unwritten(&core.state));
    assert_eq!(state.instances_in_suspense().count(), 1);
}

/// A reader never fails on a snapshot that it cannot read either.
#[test]
fn a_store_without_a_snapshot_has_none() {
    let ledger = Ledger::new();
    let reader = ledger.store.reader();
    assert_eq!(Reader::newest_snapshot(reader.as_ref()).unwrap(), None);
}
