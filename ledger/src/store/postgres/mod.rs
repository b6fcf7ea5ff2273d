//! The store of a production cell: PostgreSQL 15 or later, or an engine that speaks as it does.
//!
//! * A commit is fenced by one row: it compares the head's position, hash and epoch and sets them, in
//!   the transaction that writes everything else.
//! * **An outcome is never guessed.** Where no answer comes, the store connects again and tries the
//!   same commit again. The head's row tells what became of the first attempt, and a transaction
//!   that still holds it is waited for. Only when that stays impossible for
//!   [`PostgresOptions::retry_for`] is the outcome [`CommitError::Unknown`].
//! * Append-only by triggers that refuse and by roles without the right: after migrating, the writer
//!   is `hourglass_writer` and each reader `hourglass_reader`, or `hourglass_tenant` where a question
//!   names a tenant. Row-level security then holds tenants apart where a condition was forgotten.
//! * Every wait has a limit, on the server's side and on ours.
//!
//! It connects directly, not through a pooler that hands out sessions by the transaction.

mod append;
mod options;
mod reader;
mod schema;
mod session;
mod sql;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hourglass_units::Instant;
use sqlx::Executor;
use sqlx::postgres::PgConnection;

pub use self::options::{
    IDLE_IN_TRANSACTION_TIMEOUT, OpenError, PostgresOptions, READERS_MAX, RETRY_FOR, STATEMENT_TIMEOUT,
};
pub use self::reader::PostgresReader;

use self::append::{Appending, Attempt};
use self::options::Target;
use self::reader::store_error;
use self::session::{Failure, bounded, connect, connect_as};
use super::blocking::Blocking;
use super::columns::{self, number};
use super::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Snapshots, Store, StoreError};
use crate::snapshot::Snapshot;

/// The first pause before a commit is tried again. It doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The writer's side.
pub struct PostgresStore {
    session: Retrying,
    reader: Arc<PostgresReader>,
}

/// Keeps snapshots, on a session of its own.
struct PostgresSnapshots(Retrying);

/// A session as the writer's role that is opened again whenever it breaks.
struct Retrying {
    target: Arc<Target>,
    /// `None` after a failure, until the next attempt opens another.
    connection: Option<PgConnection>,
    blocking: Arc<Blocking>,
    retry_for: Duration,
}

impl PostgresStore {
    /// Opens the ledger of a database for writing; makes its tables and roles where they do not exist.
    /// The login must own the database, or the tables must be there and the login a member of the
    /// three roles.
    pub fn open(options: &PostgresOptions) -> Result<Self, OpenError> {
        let target = Arc::new(Target::of(options)?);
        let address = target.address.as_str();
        let failed = |error: sqlx::Error| schema::database(address, &error);
        let blocking = Blocking::new().map_err(|error| failed(sqlx::Error::Io(error)))?;
        let mut connection = blocking.wait(connect(&target.writer)).map_err(failed)?;
        let prepared = blocking.wait(async {
            Ok(async {
                schema::ensure_roles(&mut connection, address).await?;
                schema::migrate(&mut connection, address).await
            }
            .await)
        });
        prepared.map_err(failed)??;
        blocking.wait(connection.execute(sql::BE_WRITER)).map_err(failed)?;
        let reader = Arc::new(PostgresReader::new(Arc::clone(&target), options.readers_max));
        let retry_for = options.retry_for;
        let session = Retrying { target, connection: Some(connection), blocking, retry_for };
        Ok(Self { session, reader })
    }
}

impl Retrying {
    /// Works on the session until the outcome is known: `work` is tried again, on another
    /// session, after each failure that may pass, for as long as [`PostgresOptions::retry_for`].
    fn until_known<T>(
        &mut self,
        mut work: impl AsyncFnMut(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let Self { target, connection, blocking, retry_for, .. } = self;
        blocking.wait(async {
            let started = tokio::time::Instant::now();
            let mut pause = PAUSE_FIRST;
            loop {
                let error = match session(connection, target).await {
                    Ok(session) => match work(session).await {
                        Ok(done) => return Ok(done),
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                // What it holds on the server ends with it, by itself or by a time limit.
                *connection = None;
                if Failure::of(&error) == Failure::Refused || started.elapsed() >= *retry_for {
                    return Err(error);
                }
                tracing::warn!(%error, "PostgreSQL did not answer as it should; trying again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
            }
        })
    }
}

/// The writer's session, opened where there is none.
async fn session<'c>(
    connection: &'c mut Option<PgConnection>,
    target: &Target,
) -> Result<&'c mut PgConnection, sqlx::Error> {
    let session = match connection.take() {
        Some(session) => session,
        None => connect_as(&target.writer, sql::BE_WRITER).await?,
    };
    Ok(connection.insert(session))
}

async fn read_head(connection: &mut PgConnection, patience: Duration) -> Result<Head, sqlx::Error> {
    let row = bounded(patience, sqlx::query(sql::HEAD).fetch_one(connection)).await?;
    columns::head(&row).map_err(|error| sqlx::Error::Decode(error.to_string().into()))
}

impl Store for PostgresStore {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        let patience = self.session.target.writer_patience;
        // Asked twice because an answer was lost, it is acquired twice: that only costs an epoch.
        let taken = self.session.until_known(async |connection| {
            let head = read_head(connection, patience).await?;
            let lease_runs = head.lease_until > acquire.now && head.holder != acquire.holder;
            if !acquire.holder_is_gone && lease_runs {
                return Ok(Err(head));
            }
            let update = sqlx::query(sql::ACQUIRE)
                .bind(acquire.holder.as_str())
                .bind(acquire.lease_until.unix_ms())
                .bind(head.epoch.cast_signed())
                .bind(head.lease_until.unix_ms())
                .fetch_optional(&mut *connection);
            match bounded(patience, update).await? {
                Some(row) => {
                    columns::head(&row).map(Ok).map_err(|error| sqlx::Error::Decode(error.to_string().into()))
                }
                None => read_head(connection, patience).await.map(Err),
            }
        });
        match taken.map_err(store_error)? {
            Ok(head) => Ok(head),
            Err(head) => Err(AcquireError::Held { holder: head.holder, until: head.lease_until }),
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        let patience = self.session.target.writer_patience;
        let mut appending = Appending { commit, in_doubt: false, patience };
        let attempted =
            self.session.until_known(async |connection| match appending.attempt(connection).await? {
                Attempt::Stored => Ok(Ok(())),
                Attempt::Deposed => {
                    let Head { position, epoch, .. } = read_head(connection, patience).await?;
                    Ok(Err(CommitError::Deposed { position, epoch }))
                }
            });
        match attempted {
            Ok(known) => known,
            Err(error) if appending.in_doubt => Err(CommitError::Unknown(error.to_string())),
            Err(error) => Err(CommitError::NotStored(error.to_string())),
        }
    }

    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        let patience = self.session.target.writer_patience;
        let released = self.session.until_known(async |connection| {
            let update = sqlx::query(sql::RELEASE).bind(now.unix_ms()).bind(epoch.cast_signed());
            bounded(patience, update.execute(connection)).await
        });
        released.map(drop).map_err(store_error)
    }

    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        write_snapshot(&mut self.session, snapshot)
    }

    /// A large snapshot takes longer than commits may wait.
    fn snapshots(&self) -> Option<Box<dyn Snapshots>> {
        let (target, retry_for) = (Arc::clone(&self.session.target), self.session.retry_for);
        let blocking = Blocking::new().ok()?;
        Some(Box::new(PostgresSnapshots(Retrying { target, connection: None, blocking, retry_for })))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

impl Snapshots for PostgresSnapshots {
    fn write(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        write_snapshot(&mut self.0, snapshot)
    }
}

fn write_snapshot(session: &mut Retrying, snapshot: &Snapshot) -> Result<(), StoreError> {
    let patience = session.target.writer_patience;
    let parts = i64::try_from(snapshot.parts.len()).unwrap_or(i64::MAX);
    let written = session.until_known(async |connection| {
        bounded(patience, connection.execute(sql::BEGIN)).await?;
        bounded(patience, connection.execute(sql::SNAPSHOTS_DROP)).await?;
        for (part, payload) in (0_i64..).zip(&snapshot.parts) {
            let insert = sqlx::query(sql::SNAPSHOT_PART)
                .bind(number(snapshot.position))
                .bind(part)
                .bind(parts)
                .bind(snapshot.format.as_str())
                .bind(payload.as_ref());
            bounded(patience, insert.execute(&mut *connection)).await?;
        }
        bounded(patience, connection.execute(sql::COMMIT)).await
    });
    written.map(drop).map_err(store_error)
}
