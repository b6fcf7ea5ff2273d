//! The readers' side: sessions of the reading role, or of a tenant's where the question names one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hourglass_units::TenantId;
use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgRow};

use super::append::Binding;
use super::options::{OpenError, PostgresOptions, Target};
use super::schema::{self, Found};
use super::session::{Failure, bounded, connect, connect_as};
use super::sql;
use crate::core::Position;
use crate::core::rows::{ChargeRow, TimelineRow, TransferRow, UnusedRow};
use crate::log::StoredEvent;
use crate::snapshot::Snapshot;
use crate::store::blocking::Blocking;
use crate::store::columns::{self, limited, number};
use crate::store::{
    ChargeFilter, Head, Keyed, PAGE_ROWS_MAX, Page, Quarantined, Reader, StoreError, StoredInvoice, Table,
    TimelineFilter, TransferFilter, UsageQuery, UsageSum,
};

/// Longest wait for one of the sessions to be free.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for a row that is always at hand. A standby asks for the head all the time, and must
/// not miss the end of a lease because one connection fell silent.
const ROW_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a stretch of the log.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(10);

/// The readers' side.
pub struct PostgresReader {
    target: Arc<Target>,
    sessions: Mutex<Sessions>,
    freed: Condvar,
    sessions_max: usize,
}

struct Sessions {
    idle: Vec<Session>,
    open: usize,
}

/// A connection and the runtime that drives it, on the thread of whoever reads: readers do not wait
/// for one another.
struct Session {
    connection: PgConnection,
    blocking: Arc<Blocking>,
}

impl PostgresReader {
    /// Opens a ledger for reading; changes nothing and makes nothing.
    pub fn open(options: &PostgresOptions) -> Result<Self, OpenError> {
        let target = Arc::new(Target::of(options)?);
        let address = target.address.as_str();
        let failed = |error: sqlx::Error| schema::database(address, &error);
        let blocking = Blocking::new().map_err(|error| failed(sqlx::Error::Io(error)))?;
        let mut connection = blocking.wait(connect(&target.reader)).map_err(failed)?;
        let found = async { Ok(schema::find(&mut connection, address).await) };
        match blocking.wait(bounded(target.reader_patience, found)).map_err(failed)?? {
            Found::Ledger(_) => {}
            Found::Nothing => return Err(OpenError::Missing { address: address.to_owned() }),
        }
        Ok(Self::new(Arc::clone(&target), options.readers_max))
    }

    pub(super) fn new(target: Arc<Target>, sessions_max: usize) -> Self {
        let sessions = Mutex::new(Sessions { idle: Vec::new(), open: 0 });
        Self { target, sessions, freed: Condvar::new(), sessions_max: sessions_max.max(1) }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle session, or opens one.
    fn take(&self) -> Result<(Session, Leave<'_>), StoreError> {
        let full = |it: &mut Sessions| it.idle.is_empty() && it.open >= self.sessions_max;
        let waited = self.freed.wait_timeout_while(self.sessions(), SESSION_TIMEOUT, full);
        let (mut sessions, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let what = format!("all {} reading sessions are in use; try again later", self.sessions_max);
            return Err(StoreError(what));
        }
        if let Some(session) = sessions.idle.pop() {
            return Ok((session, Leave(self)));
        }
        sessions.open = sessions.open.saturating_add(1);
        drop(sessions);
        let leave = Leave(self);
        let blocking = Blocking::new().map_err(|error| StoreError(error.to_string()))?;
        let connection =
            blocking.wait(connect_as(&self.target.reader, sql::BE_READER)).map_err(store_error)?;
        Ok((Session { connection, blocking }, leave))
    }

    fn rows(
        &self,
        patience: Duration,
        tenant: Option<&TenantId>,
        sql: &'static str,
        bind: impl Fn(Binding) -> Binding,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut tried = false;
        loop {
            let (mut session, leave) = self.take()?;
            match session.rows(patience, tenant, bind(sqlx::query(sql))) {
                Ok(rows) => {
                    leave.keep(session);
                    return Ok(rows);
                }
                // An idle session does not notice that its server went; so it goes for the others too.
                Err(error) if !tried && Failure::of(&error) != Failure::Refused => {
                    tried = true;
                    drop((session, leave));
                    self.forget_idle();
                }
                Err(error) => return Err(store_error(error)),
            }
        }
    }

    fn forget_idle(&self) {
        let mut sessions = self.sessions();
        sessions.open = sessions.open.saturating_sub(sessions.idle.len());
        let idle = std::mem::take(&mut sessions.idle);
        drop(sessions);
        self.freed.notify_all();
        drop(idle);
    }

    fn all<T>(
        &self,
        tenant: Option<&TenantId>,
        sql: &'static str,
        bind: impl Fn(Binding) -> Binding,
        read: impl Fn(&PgRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.rows(self.target.reader_patience, tenant, sql, bind)?.iter().map(read).collect()
    }

    fn soon<T>(
        &self,
        patience: Duration,
        sql: &'static str,
        bind: impl Fn(Binding) -> Binding,
        read: impl Fn(&PgRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.rows(patience, None, sql, bind)?.iter().map(read).collect()
    }
}

/// A session's place among the others, given up when dropped.
struct Leave<'r>(&'r PostgresReader);

impl Leave<'_> {
    /// Leaves the session behind for the next one.
    fn keep(self, session: Session) {
        let mut sessions = self.0.sessions();
        sessions.idle.push(session);
        // The place is not given up, so what `drop` takes away is added first.
        sessions.open = sessions.open.saturating_add(1);
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut sessions = self.0.sessions();
        sessions.open = sessions.open.saturating_sub(1);
        drop(sessions);
        self.0.freed.notify_one();
    }
}

impl Session {
    /// Runs a query; with a tenant under the tenant's role, so that row-level security holds even
    /// where a condition was forgotten. After an error the session must not be used again.
    fn rows(
        &mut self,
        patience: Duration,
        tenant: Option<&TenantId>,
        query: Binding,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let Self { connection, blocking } = self;
        blocking.wait(bounded(patience, async {
            let Some(tenant) = tenant else { return query.fetch_all(connection).await };
            sqlx::raw_sql(sql::BEGIN_AS_TENANT).execute(&mut *connection).await?;
            sqlx::query(sql::NAME_TENANT).bind(tenant.as_str()).execute(&mut *connection).await?;
            let rows = query.fetch_all(&mut *connection).await?;
            connection.execute(sql::COMMIT).await?;
            Ok(rows)
        }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    StoreError(error.to_string())
}

impl Reader for PostgresReader {
    fn head(&self) -> Result<Head, StoreError> {
        let rows = self.soon(ROW_TIMEOUT, sql::HEAD, |query| query, columns::head)?;
        rows.into_iter().next().ok_or_else(|| StoreError("the head is missing".to_owned()))
    }

    fn events(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(after)).bind(limited(limit));
        self.soon(EVENTS_TIMEOUT, sql::EVENTS, bind, columns::event)
    }

    fn clearings(&self, after: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(after)).bind(limited(limit));
        self.soon(EVENTS_TIMEOUT, sql::CLEARINGS, bind, columns::event)
    }

    fn clearings_before(&self, before: Position, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |query: Binding| query.bind(number(before)).bind(limited(limit));
        self.soon(EVENTS_TIMEOUT, sql::CLEARINGS_BEFORE, bind, columns::event)
    }

    fn newest_snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let rows = self.rows(self.target.reader_patience, None, sql::SNAPSHOT_NEWEST, |query| query);
        columns::snapshot(&rows?)
    }

    fn cursor(&self, name: &str) -> Result<Option<Position>, StoreError> {
        let read = |row: &PgRow| columns::position(row, "position");
        let found = self.soon(ROW_TIMEOUT, sql::CURSOR, |query| query.bind(name), read);
        Ok(found?.into_iter().next())
    }

    fn charges(&self, filter: &ChargeFilter, page: Page) -> Result<Vec<Keyed<ChargeRow>>, StoreError> {
        let bind = |query: Binding| bind_page(bind_charges(query, filter), page);
        self.all(filter.tenant.as_ref(), sql::CHARGES, bind, columns::charge)
    }

    fn unused(&self, tenant: Option<&TenantId>, page: Page) -> Result<Vec<Keyed<UnusedRow>>, StoreError> {
        let bind = |query: Binding| bind_page(query.bind(name(tenant)), page);
        self.all(tenant, sql::UNUSED, bind, columns::unused)
    }

    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        let bind = |sql: Binding| {
            bind_charges(sql, &query.filter)
                .bind(number(query.until))
                .bind(query.by_instance)
                .bind(query.span_ms)
        };
        self.all(query.filter.tenant.as_ref(), sql::USAGE, bind, columns::usage_sum)
    }

    fn transfers(&self, filter: &TransferFilter, page: Page) -> Result<Vec<Keyed<TransferRow>>, StoreError> {
        let bind = |query: Binding| {
            let query = query.bind(name(filter.tenant.as_ref())).bind(filter.account.as_deref());
            bind_page(query, page)
        };
        self.all(filter.tenant.as_ref(), sql::TRANSFERS, bind, columns::transfer)
    }

    fn invoices(
        &self,
        tenant: Option<&TenantId>,
        page: Page,
    ) -> Result<Vec<Keyed<StoredInvoice>>, StoreError> {
        let bind = |query: Binding| bind_page(query.bind(name(tenant)), page);
        self.all(tenant, sql::INVOICES, bind, columns::invoice)
    }

    fn invoice(&self, tenant: &TenantId, number: u64) -> Result<Option<StoredInvoice>, StoreError> {
        let bind = |query: Binding| query.bind(tenant.as_str()).bind(number.cast_signed());
        let found = self.all(Some(tenant), sql::INVOICE, bind, columns::invoice)?;
        Ok(found.into_iter().next().map(|found| found.row))
    }

    fn timeline(&self, filter: &TimelineFilter, page: Page) -> Result<Vec<Keyed<TimelineRow>>, StoreError> {
        let bind = |query: Binding| {
            let query = query.bind(name(filter.tenant.as_ref()));
            bind_page(query.bind(filter.instance.as_ref().map(|it| it.as_str())), page)
        };
        self.all(filter.tenant.as_ref(), sql::TIMELINE, bind, columns::timeline)
    }

    fn quarantine(&self, page: Page) -> Result<Vec<Keyed<Quarantined>>, StoreError> {
        self.all(None, sql::QUARANTINE, |query| bind_page(query, page), columns::quarantined)
    }

    fn raw_rows(&self, table: Table, page: Page) -> Result<Vec<Keyed<String>>, StoreError> {
        self.all(None, sql::raw_rows(table), |query| bind_page(query, page), columns::raw)
    }
}

fn name(tenant: Option<&TenantId>) -> Option<&str> {
    tenant.map(TenantId::as_str)
}

fn bind_charges(query: Binding, filter: &ChargeFilter) -> Binding {
    query
        .bind(name(filter.tenant.as_ref()))
        .bind(filter.project.as_ref().map(|it| it.as_str()))
        .bind(filter.instance.as_ref().map(|it| it.as_str()))
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
