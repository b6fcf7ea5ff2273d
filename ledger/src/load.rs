//! Recovery: the newest snapshot, then the tail of the log.
//!
//! One thread reads, checks hashes and decodes while another folds, so that a cold start is bounded
//! by the slower of the two.

use std::sync::mpsc::sync_channel;

use hourglass_units::Instant;

use crate::core::rows::NoRows;
use crate::core::{Position, Recorded, State, apply};
use crate::log::{self, LogError};
use crate::store::{Reader, StoreError};

/// Events read at once.
const EVENTS_AT_ONCE: usize = 256;
/// Stretches of events that may wait to be folded.
const STRETCHES_AHEAD: usize = 4;

/// The state of a log and the chain at its end.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The fold of the whole log.
    pub state: State,
    /// The chain at its last position.
    pub chain_hash: blake3::Hash,
    /// Where the snapshot was that it started from; zero where there was none.
    pub from_snapshot: Position,
}

/// Why a log could not be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is damaged: `hourglass verify` tells more.
    #[error("the log is damaged at {0}; run `hourglass verify`, and restore the data directory from a copy")]
    Log(#[from] LogError),
}

/// How to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The newest snapshot that can be used, else the start.
    Snapshot,
    /// The first event, whatever snapshots there are.
    Start,
}

/// Folds the log from its first event up to a position: what the state was then.
pub fn load_until(reader: &dyn Reader, until: Position) -> Result<Loaded, LoadError> {
    let mut loaded =
        Loaded { state: State::empty(), chain_hash: log::genesis(), from_snapshot: Position::ZERO };
    fold(reader, &mut loaded, until)?;
    Ok(loaded)
}

/// Folds what was appended since.
pub fn catch_up(reader: &dyn Reader, loaded: &mut Loaded) -> Result<(), LoadError> {
    fold(reader, loaded, Position::new(u64::MAX))
}

fn fold(reader: &dyn Reader, loaded: &mut Loaded, until: Position) -> Result<(), LoadError> {
    let Loaded { state, chain_hash, .. } = loaded;
    while state.position() < until {
        let events = reader.events(state.position(), EVENTS_AT_ONCE)?;
        if events.is_empty() {
            break;
        }
        for event in events.into_iter().filter(|event| event.position <= until) {
            let recorded = event.open(state.position(), chain_hash)?;
            apply(state, event.at, &recorded, &mut NoRows)
                .map_err(|error| LogError { position: event.position, what: error.to_string() })?;
            *chain_hash = event.hash;
        }
    }
    Ok(())
}

/// Folds the log. `progress` is told each position that is reached, and the last one.
pub fn load(
    reader: &dyn Reader,
    from: From,
    mut progress: impl FnMut(Position, Position),
) -> Result<Loaded, LoadError> {
    let (mut state, chain_hash) = match from {
        From::Snapshot => usable_snapshot(reader)?.unwrap_or_else(|| (State::empty(), log::genesis())),
        From::Start => (State::empty(), log::genesis()),
    };
    let from_snapshot = state.position();
    let end = reader.head()?.position;
    let chain_hash = std::thread::scope(|scope| {
        let (send, stretches) = sync_channel::<Vec<(Instant, Recorded)>>(STRETCHES_AHEAD);
        let reading = scope
            .spawn(move || read(reader, from_snapshot, chain_hash, |stretch| send.send(stretch).is_ok()));
        for stretch in stretches {
            for (at, recorded) in stretch {
                let position = state.position().next();
                apply(&mut state, at, &recorded, &mut NoRows)
                    .map_err(|error| LogError { position, what: error.to_string() })?;
            }
            progress(state.position(), end);
        }
        match reading.join() {
            Ok(read) => read,
            Err(_) => Err(LoadError::Store(StoreError("the thread that reads the log died".to_owned()))),
        }
    })?;
    Ok(Loaded { state, chain_hash, from_snapshot })
}

/// Reads and checks the log behind a position, until its end or until nobody wants more.
fn read(
    reader: &dyn Reader,
    mut after: Position,
    mut chain_hash: blake3::Hash,
    mut send: impl FnMut(Vec<(Instant, Recorded)>) -> bool,
) -> Result<blake3::Hash, LoadError> {
    loop {
        let events = reader.events(after, EVENTS_AT_ONCE)?;
        if events.is_empty() {
            return Ok(chain_hash);
        }
        let mut stretch = Vec::with_capacity(events.len());
        for event in events {
            let recorded = event.open(after, &chain_hash)?;
            (after, chain_hash) = (event.position, event.hash);
            stretch.push((event.at, recorded));
        }
        if !send(stretch) {
            return Ok(chain_hash);
        }
    }
}

/// The newest snapshot, if it is whole, of our format, and of this very log.
fn usable_snapshot(reader: &dyn Reader) -> Result<Option<(State, blake3::Hash)>, StoreError> {
    let Some((state, chain_hash)) =
        reader.newest_snapshot()?.as_ref().and_then(crate::snapshot::Snapshot::open)
    else {
        return Ok(None);
    };
    let before = Position::new(state.position().number().saturating_sub(1));
    let same = reader.events(before, 1)?.first().is_some_and(|event| event.hash == chain_hash);
    Ok(same.then_some((state, chain_hash)))
}
