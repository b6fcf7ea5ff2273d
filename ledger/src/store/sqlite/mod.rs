//! The embedded store: SQLite in a directory of its own.
//!
//! WAL with `synchronous = FULL`, so a commit is on the disk when it returns. One process writes: it
//! holds a lock on the directory for as long as the store is open, and the system frees the lock when
//! the process dies, however it dies. Others may read at the same time.

mod sql;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hourglass_units::{Instant, TenantId};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection, Executor, QueryBuilder, Sqlite};

use super::blocking::Blocking;
use super::columns::{self, keyed, limited, number};
use super::{
    Acquire, AcquireError, ChargeFilter, Commit, CommitError, Head, Keyed, PAGE_ROWS_MAX, Page, Quarantined,
    Reader, Store, StoreError, StoredInvoice, Table, TimelineFilter, TransferFilter, UsageQuery, UsageSum,
};
use crate::core::Position;
use crate::core::rows::{ChargeRow, TimelineRow, TransferRow, UnusedRow};
use crate::log::{self, StoredEvent};
use crate::snapshot::Snapshot;

/// The database's file in the data directory.
const DATABASE_FILE: &str = "ledger.db";
/// The lock's file in the data directory; holds the writer's process id.
const LOCK_FILE: &str = "hourglass.lock";
/// "HGLS": marks the file as ours.
const APPLICATION_ID: i64 = 0x4847_4c53;
/// Numbered from 1, each run once, in order.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../../../migrations/sqlite/0001_ledger.sql"),
    include_str!("../../../../migrations/sqlite/0002_cursors.sql"),
    include_str!("../../../../migrations/sqlite/0003_pricing.sql"),
    include_str!("../../../../migrations/sqlite/0004_market.sql"),
    include_str!("../../../../migrations/sqlite/0005_timeline.sql"),
];
/// Connections for reading.
const READERS_MAX: u32 = 4;
/// How often the directory's lock is tried again, and the time between.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// Values that one statement binds at most; SQLite allows 32,766.
const BINDS_MAX: usize = 8_000;

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes to it.
    #[error("the data directory {} is in use by another process{}: stop it first, or ask it over HTTP", .directory.display(), .holder)]
    InUse {
        /// Which directory.
        directory: PathBuf,
        /// " (process id N)" where that is known.
        holder: String,
    },
    /// A later release wrote it.
    #[error("the data directory {} has version {found}, this release knows up to {known}: use a newer hourglass", .directory.display())]
    NewerVersion {
        /// Which directory.
        directory: PathBuf,
        /// Its version.
        found: i64,
        /// What this release knows.
        known: i64,
    },
    /// There is nothing to read.
    #[error("there is no ledger in {}: create one with `hourglass up`, `hourglass demo` or `hourglass replay`", .directory.display())]
    Missing {
        /// Which directory.
        directory: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a Hourglass ledger", .file.display())]
    NotALedger {
        /// Which file.
        file: PathBuf,
    },
    /// The directory cannot be used.
    #[error("cannot use the data directory {}: {error}", .directory.display())]
    Directory {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The database does not answer as it should.
    #[error("cannot open the ledger in {}: {error}", .directory.display())]
    Database {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        error: String,
    },
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Whether a commit is on the disk when it returns. Off only for copies that can be made again.
    pub durable: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { durable: true }
    }
}

/// The writer's side.
pub struct SqliteStore {
    connection: SqliteConnection,
    reader: Arc<SqliteReader>,
    blocking: Arc<Blocking>,
    _lock: File,
}

/// The readers' side.
pub struct SqliteReader {
    pool: SqlitePool,
    blocking: Arc<Blocking>,
}

impl SqliteStore {
    /// Opens the store of a directory for writing; makes both where they do not exist.
    pub fn open(directory: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let io = |error| OpenError::Directory { directory: directory.to_owned(), error };
        std::fs::create_dir_all(directory).map_err(io)?;
        let lock = lock(directory)?;
        let blocking = Blocking::new().map_err(io)?;
        let synchronous = if options.durable { SqliteSynchronous::Full } else { SqliteSynchronous::Off };
        let connect = SqliteConnectOptions::new()
            .filename(directory.join(DATABASE_FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(Duration::from_secs(10))
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(200);
        let database = |error: sqlx::Error| database_error(directory, &error);
        let mut connection = blocking.wait(SqliteConnection::connect_with(&connect)).map_err(database)?;
        check_version(directory, blocking.wait(version(&mut connection)).map_err(database)?, true)?;
        blocking.wait(migrate(&mut connection)).map_err(database)?;
        let reader = Arc::new(SqliteReader::connect(directory, Arc::clone(&blocking))?);
        Ok(Self { connection, reader, blocking, _lock: lock })
    }
}

impl SqliteReader {
    /// Opens the store of a directory for reading, also while another process writes.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        if !directory.join(DATABASE_FILE).exists() {
            return Err(OpenError::Missing { directory: directory.to_owned() });
        }
        let io = |error| OpenError::Directory { directory: directory.to_owned(), error };
        let reader = Self::connect(directory, Blocking::new().map_err(io)?)?;
        let found = reader.blocking.wait(async {
            let mut connection = reader.pool.acquire().await?;
            version(&mut connection).await
        });
        check_version(directory, found.map_err(|error| database_error(directory, &error))?, false)?;
        Ok(reader)
    }

    fn connect(directory: &Path, blocking: Arc<Blocking>) -> Result<Self, OpenError> {
        let connect = SqliteConnectOptions::new()
            .filename(directory.join(DATABASE_FILE))
            .read_only(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("temp_store", "MEMORY");
        let options =
            SqlitePoolOptions::new().max_connections(READERS_MAX).acquire_timeout(Duration::from_secs(30));
        let pool = blocking.wait(async { Ok(options.connect_lazy_with(connect)) });
        Ok(Self { pool: pool.map_err(|error| database_error(directory, &error))?, blocking })
    }

    fn all<T>(
        &self,
        sql: &'static str,
        bind: impl FnOnce(Binding) -> Binding,
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.rows(sql, bind)?.iter().map(read).collect()
    }

    fn rows(
        &self,
        sql: &'static str,
        bind: impl FnOnce(Binding) -> Binding,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.blocking.wait(bind(sqlx::query(sql)).fetch_all(&self.pool)).map_err(store_error)
    }
}

type Binding = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

#[expect(clippy::disallowed_methods, reason = "whoever opens a store waits for it")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

/// Takes the directory's lock, or says who holds it. A process that this one is just starting holds what is
/// open for a moment, so it is tried more than once.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Directory { directory: directory.to_owned(), error };
    let path = directory.join(LOCK_FILE);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    let mut locked = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        pause();
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {
            // The id only serves the message below: on a full disk the lock still holds.
            let _written =
                file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut id = String::new();
            let _read = file.read_to_string(&mut id);
            let known = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
            let holder = if known { format!(" (process id {id})") } else { String::new() };
            Err(OpenError::InUse { directory: directory.to_owned(), holder })
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// The application id and the schema's version.
async fn version(connection: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    Ok((application, version))
}

fn check_version(
    directory: &Path,
    (application, found): (i64, i64),
    may_be_new: bool,
) -> Result<(), OpenError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let ours = application == APPLICATION_ID || (may_be_new && application == 0 && found == 0);
    if !ours {
        return Err(OpenError::NotALedger { file: directory.join(DATABASE_FILE) });
    }
    if found > known {
        return Err(OpenError::NewerVersion { directory: directory.to_owned(), found, known });
    }
    Ok(())
}

/// Runs the migrations that the database lacks, each whole or not at all.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let (_, found) = version(connection).await?;
    let done = usize::try_from(found).unwrap_or(0);
    for (number, migration) in (1_usize..).zip(MIGRATIONS).skip(done) {
        connection.execute("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(migration).execute(&mut *connection).await?;
        sqlx::query(sql::HEAD_FIRST)
            .bind(log::genesis().as_bytes().to_vec())
            .execute(&mut *connection)
            .await?;
        // A pragma takes no bound value; these are our own numbers.
        let pragmas = format!("PRAGMA user_version = {number}; PRAGMA application_id = {APPLICATION_ID};");
        sqlx::raw_sql(sqlx::AssertSqlSafe(pragmas)).execute(&mut *connection).await?;
        connection.execute("COMMIT").await?;
    }
    Ok(())
}

fn database_error(directory: &Path, error: &sqlx::Error) -> OpenError {
    let not_a_database =
        matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("26"));
    if not_a_database {
        return OpenError::NotALedger { file: directory.join(DATABASE_FILE) };
    }
    OpenError::Database { directory: directory.to_owned(), error: error.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn store_error(error: sqlx::Error) -> StoreError {
    StoreError(error.to_string())
}

impl Store for SqliteStore {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        let head = self.reader.head()?;
        if !acquire.holder_is_gone && head.lease_until > acquire.now && head.holder != acquire.holder {
            return Err(AcquireError::Held { holder: head.holder, until: head.lease_until });
        }
        let update = sqlx::query(sql::ACQUIRE)
            .bind(acquire.holder.clone())
            .bind(acquire.lease_until.unix_ms())
            .bind(to_i64(head.epoch)?)
            .bind(head.lease_until.unix_ms())
            .execute(&mut self.connection);
        let done = self.blocking.wait(update).map_err(store_error)?;
        let head = self.reader.head()?;
        if done.rows_affected() != 1 || head.holder != acquire.holder {
            return Err(AcquireError::Held { holder: head.holder, until: head.lease_until });
        }
        Ok(head)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        let Self { connection, blocking, .. } = self;
        let stored = blocking.wait(async {
            connection.execute("BEGIN IMMEDIATE").await?;
            let mut at_commit = false;
            match append(connection, commit, &mut at_commit).await {
                Ok(true) => Ok(Ok(())),
                refused_or_failed => {
                    // Where the rollback fails too, the transaction dies with the connection.
                    let rolled_back = connection.execute("ROLLBACK").await;
                    match refused_or_failed {
                        Ok(_) => Ok(Err(None)),
                        Err(error) if at_commit || rolled_back.is_err() => {
                            Ok(Err(Some(CommitError::Unknown(error.to_string()))))
                        }
                        Err(error) => Ok(Err(Some(CommitError::NotStored(error.to_string())))),
                    }
                }
            }
        });
        match stored {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Some(error))) => Err(error),
            Ok(Err(None)) => match self.reader.head() {
                Ok(head) => Err(CommitError::Deposed { position: head.position, epoch: head.epoch }),
                Err(error) => Err(CommitError::Unknown(error.to_string())),
            },
            // The transaction never began.
            Err(error) => Err(CommitError::NotStored(error.to_string())),
        }
    }

    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        let update =
            sqlx::query(sql::RELEASE).bind(now.unix_ms()).bind(to_i64(epoch)?).execute(&mut self.connection);
        self.blocking.wait(update).map(|_| ()).map_err(store_error)
    }

    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let position = to_i64(snapshot.position.number())?;
        let parts = to_i64(snapshot.parts.len() as u64)?;
        let Self { connection, blocking, .. } = self;
        let written = blocking.wait(async {
            connection.execute("BEGIN IMMEDIATE").await?;
            let written = async {
                connection.execute(sql::SNAPSHOTS_DROP).await?;
                for (part, payload) in (0_i64..).zip(&snapshot.parts) {
                    sqlx::query(sql::SNAPSHOT_PART)
                        .bind(position)
                        .bind(part)
                        .bind(parts)
                        .bind(snapshot.format.clone())
                        .bind(payload.to_vec())
                        .execute(&mut *connection)
                        .await?;
                }
                connection.execute("COMMIT").await
            };
            match written.await {
                Ok(_) => Ok(()),
                Err(error) => {
                    let _rolled_back = connection.execute("ROLLBACK").await;
                    Err(error)
                }
            }
        });
        written.map_err(store_error)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

/// Advances the head and writes everything behind it. `false` where the head is another's.
async fn append(
    connection: &mut SqliteConnection,
    commit: &Commit,
    at_commit: &mut bool,
) -> Result<bool, sqlx::Error> {
    // Without events the head stays where it is, the lease is renewed and cursors move.
    let (to, hash) =
        commit.events.last().map_or((commit.after, commit.after_hash), |last| (last.position, last.hash));
    let advanced = sqlx::query(sql::ADVANCE)
        .bind(number(to))
        .bind(hash.as_bytes().to_vec())
        .bind(commit.lease_until.unix_ms())
        .bind(number(commit.after))
        .bind(commit.after_hash.as_bytes().to_vec())
        .bind(commit.epoch.cast_signed())
        .execute(&mut *connection)
        .await?;
    if advanced.rows_affected() != 1 {
        return Ok(false);
    }
    insert(connection, sql::INSERT_EVENTS, 6, commit.events.iter(), |row, event| {
        row.push_bind(number(event.position))
            .push_bind(event.epoch.cast_signed())
            .push_bind(i64::from(event.kind))
            .push_bind(event.at.unix_ms())
            .push_bind(event.payload.to_vec())
            .push_bind(event.hash.as_bytes().to_vec());
    })
    .await?;

    let positions = || commit.events.iter().map(|event| number(event.position));
    let charges = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.charges));
    insert(connection, sql::INSERT_CHARGES, 17, charges, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.tenant.to_string())
            .push_bind(it.project.to_string())
            .push_bind(it.instance.to_string())
            .push_bind(it.platform.to_string())
            .push_bind(it.region.to_string())
            .push_bind(it.model.as_str())
            .push_bind(it.price.nanos())
            .push_bind(it.hour.start().unix_ms())
            .push_bind(i64::from(it.gpus))
            .push_bind(it.milliseconds)
            .push_bind(it.quantity.nanos())
            .push_bind(it.amount.to_string())
            .push_bind(it.currency.code())
            .push_bind(it.reservation.as_ref().map(ToString::to_string))
            .push_bind(columns::differing(it.effective_price, it.price));
    })
    .await?;
    let unused = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.unused));
    insert(connection, sql::INSERT_UNUSED, 12, unused, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.tenant.to_string())
            .push_bind(it.project.to_string())
            .push_bind(it.reservation.to_string())
            .push_bind(it.platform.to_string())
            .push_bind(it.region.to_string())
            .push_bind(it.hour.start().unix_ms())
            .push_bind(it.quantity.nanos())
            .push_bind(it.effective_price.nanos())
            .push_bind(it.effective_cost.to_string())
            .push_bind(it.currency.code());
    })
    .await?;
    let transfers = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.transfers));
    insert(connection, sql::INSERT_TRANSFERS, 10, transfers, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.tenant.to_string())
            .push_bind(it.debit.to_string())
            .push_bind(it.credit.to_string())
            .push_bind(it.amount.to_string())
            .push_bind(it.currency.code())
            .push_bind(it.code.as_str())
            .push_bind(it.at.unix_ms())
            .push_bind(it.reverses.map(number));
    })
    .await?;
    let invoices = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.invoices));
    insert(connection, sql::INSERT_INVOICES, 6, invoices, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.tenant.to_string())
            .push_bind(it.number.cast_signed())
            .push_bind(it.period.to_string())
            .push_bind(it.document.to_vec());
    })
    .await?;
    let quarantine = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.quarantine));
    insert(connection, sql::INSERT_QUARANTINE, 4, quarantine, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.record.map(i64::from))
            .push_bind(it.reason.clone());
    })
    .await?;
    let timeline = positions().zip(&commit.rows).flat_map(|(at, rows)| keyed(at, &rows.timeline));
    insert(connection, sql::INSERT_TIMELINE, 9, timeline, |row, (position, line, it)| {
        row.push_bind(position)
            .push_bind(line)
            .push_bind(it.tenant.to_string())
            .push_bind(it.instance.to_string())
            .push_bind(it.step.as_str())
            .push_bind(it.at.unix_ms())
            .push_bind(it.cause.clone())
            .push_bind(it.detail.clone())
            .push_bind(it.deadline.map(Instant::unix_ms));
    })
    .await?;
    for (consumer, position) in &commit.cursors {
        sqlx::query(sql::CURSOR_MOVE)
            .bind(consumer.clone())
            .bind(number(*position))
            .execute(&mut *connection)
            .await?;
    }
    *at_commit = true;
    connection.execute("COMMIT").await?;
    Ok(true)
}

/// Inserts rows, as many a statement as bind within [`BINDS_MAX`].
async fn insert<T>(
    connection: &mut SqliteConnection,
    into: &'static str,
    columns: usize,
    rows: impl Iterator<Item = T>,
    mut bind: impl FnMut(&mut sqlx::query_builder::Separated<'_, Sqlite, &'static str>, T),
) -> Result<(), sqlx::Error> {
    let mut rows = rows.peekable();
    let at_once = BINDS_MAX.checked_div(columns).unwrap_or(1);
    while rows.peek().is_some() {
        let mut statement = QueryBuilder::<Sqlite>::new(into);
        statement.push_values(rows.by_ref().take(at_once), |mut row, it| bind(&mut row, it));
        statement.build().execute(&mut *connection).await?;
    }
    Ok(())
}

impl Reader for SqliteReader {
    fn head(&self) -> Result<Head, StoreError> {
        let rows = self.all(sql::HEAD, |query| query, columns::head)?;
        rows.into_iter().next().ok_or_else(|| StoreError("the head is missing".to_owned()))
    }

    fn events(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(after)).bind(limited(limit));
        self.all(sql::EVENTS, bind, columns::event)
    }

    fn clearings(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(after)).bind(limited(limit));
        self.all(sql::CLEARINGS, bind, columns::event)
    }

    fn clearings_before(&self, before: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(before)).bind(limited(limit));
        self.all(sql::CLEARINGS_BEFORE, bind, columns::event)
    }

    fn newest_snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        columns::snapshot(&self.rows(sql::SNAPSHOT_NEWEST, |query| query)?)
    }

    fn cursor(&self, name: &str) -> Result<Option<Position>, StoreError> {
        let bind = |query: Binding| query.bind(name.to_owned());
        let found = self.all(sql::CURSOR, bind, |row| columns::position(row, "position"));
        Ok(found?.into_iter().next())
    }

    fn charges(&self, filter: &ChargeFilter, page: Page) -> Result<Vec<Keyed<ChargeRow>>, StoreError> {
        let bind = |query: Binding| bind_page(bind_charges(query, filter), page);
        self.all(sql::CHARGES, bind, columns::charge)
    }

    fn unused(&self, tenant: Option<&TenantId>, page: Page) -> Result<Vec<Keyed<UnusedRow>>, StoreError> {
        let bind = |query: Binding| bind_page(query.bind(tenant.map(ToString::to_string)), page);
        self.all(sql::UNUSED, bind, columns::unused)
    }

    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        let bind = |sql: Binding| {
            bind_charges(sql, &query.filter)
                .bind(number(query.until))
                .bind(query.by_instance)
                .bind(query.span_ms)
        };
        self.all(sql::USAGE, bind, columns::usage_sum)
    }

    fn transfers(&self, filter: &TransferFilter, page: Page) -> Result<Vec<Keyed<TransferRow>>, StoreError> {
        let bind = |query: Binding| {
            let query =
                query.bind(filter.tenant.as_ref().map(ToString::to_string)).bind(filter.account.clone());
            bind_page(query, page)
        };
        self.all(sql::TRANSFERS, bind, columns::transfer)
    }

    fn invoices(
        &self,
        tenant: Option<&TenantId>,
        page: Page,
    ) -> Result<Vec<Keyed<StoredInvoice>>, StoreError> {
        let bind = |query: Binding| bind_page(query.bind(tenant.map(ToString::to_string)), page);
        self.all(sql::INVOICES, bind, columns::invoice)
    }

    fn invoice(&self, tenant: &TenantId, number: u64) -> Result<Option<StoredInvoice>, StoreError> {
        let bind = |query: Binding| query.bind(tenant.to_string()).bind(number.cast_signed());
        Ok(self.all(sql::INVOICE, bind, columns::invoice)?.into_iter().next().map(|found| found.row))
    }

    fn timeline(&self, filter: &TimelineFilter, page: Page) -> Result<Vec<Keyed<TimelineRow>>, StoreError> {
        let bind = |query: Binding| {
            let query = query.bind(filter.tenant.as_ref().map(ToString::to_string));
            bind_page(query.bind(filter.instance.as_ref().map(ToString::to_string)), page)
        };
        self.all(sql::TIMELINE, bind, columns::timeline)
    }

    fn quarantine(&self, page: Page) -> Result<Vec<Keyed<Quarantined>>, StoreError> {
        self.all(sql::QUARANTINE, |query| bind_page(query, page), columns::quarantined)
    }

    fn raw_rows(&self, table: Table, page: Page) -> Result<Vec<Keyed<String>>, StoreError> {
        self.all(sql::raw_rows(table), |query| bind_page(query, page), columns::raw)
    }
}

fn bind_charges(query: Binding, filter: &ChargeFilter) -> Binding {
    query
        .bind(filter.tenant.as_ref().map(ToString::to_string))
        .bind(filter.project.as_ref().map(ToString::to_string))
        .bind(filter.instance.as_ref().map(ToString::to_string))
        .bind(filter.from.map(|hour| hour.start().unix_ms()))
        .bind(filter.until.map(|hour| hour.start().unix_ms()))
}

fn bind_page(query: Binding, page: Page) -> Binding {
    query
        .bind(number(page.after.position))
        .bind(i64::from(page.after.line))
        .bind(number(page.until))
        .bind(limited(page.limit.min(PAGE_ROWS_MAX)))
}

fn to_i64(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|error| StoreError(error.to_string()))
}
