//! Builds every part by hand: the clock, the store, the cell. The only place that knows them all.

use std::path::Path;
use std::sync::Arc;

use hourglass_ledger::cell::{Cell, CellOptions, Clock};
use hourglass_ledger::core::Position;
use hourglass_ledger::load::{self, Loaded, load};
use hourglass_ledger::store::Reader;
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresReader, PostgresStore};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteReader, SqliteStore};
use hourglass_units::{INSTANT_MIN, Instant};

use crate::config::Resolved;
use crate::failure::Failure;

/// The wall clock.
pub struct WallClock;

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    fn now(&self) -> Instant {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        INSTANT_MIN.saturating_add_ms(milliseconds)
    }
}

/// Opens the data directory for writing and starts its cell.
pub fn start_cell(data: &Path, progress: impl FnMut(Position, Position)) -> Result<Cell, Failure> {
    let store = SqliteStore::open(data, SqliteOptions::default())?;
    let holder = format!("process {}", std::process::id());
    // The directory's lock is ours, so whoever held the lease before is gone.
    Ok(Cell::start(Box::new(store), Arc::new(WallClock), CellOptions::sole(&holder), progress)?)
}

/// Starts a cell in an empty directory that nobody keeps, under a clock of the caller's.
pub fn start_scratch_cell(directory: &Path, clock: Arc<dyn Clock>) -> Result<Cell, Failure> {
    let store = SqliteStore::open(directory, SqliteOptions { durable: false })?;
    Ok(Cell::start(Box::new(store), clock, CellOptions::sole("scratch"), |_, _| {})?)
}

/// Opens the ledger for reading, in PostgreSQL where the settings name one.
pub fn open_reader(settings: &Resolved) -> Result<Arc<dyn Reader>, Failure> {
    Ok(match &settings.postgres {
        Some(postgres) => Arc::new(PostgresReader::open(postgres)?),
        None => open_directory(&settings.data)?,
    })
}

/// Opens a data directory for reading.
pub fn open_directory(data: &Path) -> Result<Arc<dyn Reader>, Failure> {
    Ok(Arc::new(SqliteReader::open(data)?))
}

/// Opens the ledger for reading and folds its log.
pub fn read_ledger(
    settings: &Resolved,
    progress: impl FnMut(Position, Position),
) -> Result<(Arc<dyn Reader>, Loaded), Failure> {
    let reader = open_reader(settings)?;
    let loaded = load(reader.as_ref(), load::From::Snapshot, progress)?;
    Ok((reader, loaded))
}

/// Starts the cell of the data directory, for one command that writes.
pub fn writing_cell(settings: &Resolved, progress: impl FnMut(Position, Position)) -> Result<Cell, Failure> {
    if settings.postgres.is_some() {
        let how = "a ledger in PostgreSQL is written by `hourglass serve`: give --server URL to ask it";
        return Err(Failure::Usage(how.to_owned()));
    }
    start_cell(&settings.data, progress)
}

/// Opens the ledger in PostgreSQL and starts a cell that stands by until it is its turn.
pub fn stand_by(postgres: &PostgresOptions, options: CellOptions) -> Result<Cell, Failure> {
    let store = PostgresStore::open(postgres)?;
    Ok(Cell::start(Box::new(store), Arc::new(WallClock), options, |_, _| {})?)
}
