//! One attempt at a commit.
//!
//! What makes it safe to try again: the deciding statement compares the head's position, hash and
//! epoch before it writes anything, so a commit that arrives twice, or late, is stored once.

use std::collections::BTreeMap;
use std::time::Duration;

use hourglass_units::Instant;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Executor, Postgres};

use super::session::{Failure, bounded};
use super::sql;
use crate::core::Position;
use crate::core::rows::EventRows;
use crate::store::Commit;
use crate::store::columns::{differing, keyed, number};

/// Rows that one statement writes at most.
const ROWS_AT_ONCE: usize = 10_000;

pub(super) type Binding = sqlx::query::Query<'static, Postgres, PgArguments>;

/// How an attempt ended, where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is stored, now or by an earlier attempt.
    Stored,
    /// The head is another's.
    Deposed,
}

/// A commit that is being stored.
pub(super) struct Appending<'c> {
    pub(super) commit: &'c Commit,
    /// Whether an earlier attempt may have been stored, or may yet be.
    pub(super) in_doubt: bool,
    /// Longest wait for one answer.
    pub(super) patience: Duration,
}

impl Appending<'_> {
    /// Stores the commit, or finds out that it is stored. After an error the connection must not be
    /// used again, and [`Self::in_doubt`] says whether anything may have been stored.
    pub(super) async fn attempt(&mut self, connection: &mut PgConnection) -> Result<Attempt, sqlx::Error> {
        let commit = self.commit;
        let advanced = if commit.rows.iter().all(is_empty) {
            // One statement is the whole transaction.
            self.deciding(append(connection, commit)).await?
        } else {
            bounded(self.patience, connection.execute(sql::BEGIN)).await?;
            let advanced = bounded(self.patience, append(connection, commit)).await?;
            if advanced {
                self.insert_rows(connection).await?;
                self.deciding(connection.execute(sql::COMMIT)).await?;
            } else {
                bounded(self.patience, connection.execute(sql::ROLLBACK)).await?;
            }
            advanced
        };
        if advanced {
            return Ok(Attempt::Stored);
        }
        if self.in_doubt && bounded(self.patience, is_stored(connection, commit)).await? {
            return Ok(Attempt::Stored);
        }
        Ok(Attempt::Deposed)
    }

    /// Waits for the statement that decides: where no answer comes, nobody knows what it did.
    async fn deciding<T>(
        &mut self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let answer = bounded(self.patience, answer).await;
        if answer.as_ref().is_err_and(|error| Failure::of(error) == Failure::Broken) {
            self.in_doubt = true;
        }
        answer
    }

    async fn insert_rows(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let rows = Numbered(self.commit);
        self.insert(connection, sql::INSERT_CHARGES, &rows.of(|it| &it.charges), |rows, query| {
            query
                .bind(column(rows, |it| it.tenant.as_str()))
                .bind(column(rows, |it| it.project.as_str()))
                .bind(column(rows, |it| it.instance.as_str()))
                .bind(column(rows, |it| it.platform.as_str()))
                .bind(column(rows, |it| it.region.as_str()))
                .bind(column(rows, |it| it.model.as_str()))
                .bind(column(rows, |it| it.price.nanos()))
                .bind(column(rows, |it| it.hour.start().unix_ms()))
                .bind(column(rows, |it| i64::from(it.gpus)))
                .bind(column(rows, |it| it.milliseconds))
                .bind(column(rows, |it| it.quantity.nanos()))
                .bind(column(rows, |it| it.amount.to_string()))
                .bind(column(rows, |it| it.currency.code()))
                .bind(column(rows, |it| it.reservation.as_ref().map(|it| it.as_str())))
                .bind(column(rows, |it| differing(it.effective_price, it.price)))
        })
        .await?;
        self.insert(connection, sql::INSERT_UNUSED, &rows.of(|it| &it.unused), |rows, query| {
            query
                .bind(column(rows, |it| it.tenant.as_str()))
                .bind(column(rows, |it| it.project.as_str()))
                .bind(column(rows, |it| it.reservation.as_str()))
                .bind(column(rows, |it| it.platform.as_str()))
                .bind(column(rows, |it| it.region.as_str()))
                .bind(column(rows, |it| it.hour.start().unix_ms()))
                .bind(column(rows, |it| it.quantity.nanos()))
                .bind(column(rows, |it| it.effective_price.nanos()))
                .bind(column(rows, |it| it.effective_cost.to_string()))
                .bind(column(rows, |it| it.currency.code()))
        })
        .await?;
        self.insert(connection, sql::INSERT_TRANSFERS, &rows.of(|it| &it.transfers), |rows, query| {
            query
                .bind(column(rows, |it| it.tenant.as_str()))
                .bind(column(rows, |it| it.debit.to_string()))
                .bind(column(rows, |it| it.credit.to_string()))
                .bind(column(rows, |it| it.amount.to_string()))
                .bind(column(rows, |it| it.currency.code()))
                .bind(column(rows, |it| it.code.as_str()))
                .bind(column(rows, |it| it.at.unix_ms()))
                .bind(column(rows, |it| it.reverses.map(number)))
        })
        .await?;
        self.insert(connection, sql::INSERT_INVOICES, &rows.of(|it| &it.invoices), |rows, query| {
            query
                .bind(column(rows, |it| it.tenant.as_str()))
                .bind(column(rows, |it| it.number.cast_signed()))
                .bind(column(rows, |it| it.period.to_string()))
                .bind(column(rows, |it| it.document.as_ref()))
        })
        .await?;
        self.insert(connection, sql::INSERT_QUARANTINE, &rows.of(|it| &it.quarantine), |rows, query| {
            query
                .bind(column(rows, |it| it.record.map(i64::from)))
                .bind(column(rows, |it| it.reason.as_str()))
        })
        .await?;
        self.insert(connection, sql::INSERT_TIMELINE, &rows.of(|it| &it.timeline), |rows, query| {
            query
                .bind(column(rows, |it| it.tenant.as_str()))
                .bind(column(rows, |it| it.instance.as_str()))
                .bind(column(rows, |it| it.step.as_str()))
                .bind(column(rows, |it| it.at.unix_ms()))
                .bind(column(rows, |it| it.cause.as_deref()))
                .bind(column(rows, |it| it.detail.as_deref()))
                .bind(column(rows, |it| it.deadline.map(Instant::unix_ms)))
        })
        .await
    }

    /// Inserts rows, at most [`ROWS_AT_ONCE`] a statement. Position and line are bound first.
    async fn insert<T>(
        &self,
        connection: &mut PgConnection,
        into: &'static str,
        rows: &[(i64, i64, &T)],
        bind: impl Fn(&[(i64, i64, &T)], Binding) -> Binding,
    ) -> Result<(), sqlx::Error> {
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let positions: Vec<i64> = rows.iter().map(|(position, ..)| *position).collect();
            let lines: Vec<i64> = rows.iter().map(|(_, line, _)| *line).collect();
            let query = bind(rows, sqlx::query(into).bind(positions).bind(lines));
            bounded(self.patience, query.execute(&mut *connection)).await?;
        }
        Ok(())
    }
}

/// The rows of a commit with their keys.
struct Numbered<'c>(&'c Commit);

impl<'c> Numbered<'c> {
    fn of<T: 'c>(&self, table: impl Fn(&'c EventRows) -> &'c Vec<T>) -> Vec<(i64, i64, &'c T)> {
        let events = self.0.events.iter().zip(&self.0.rows);
        events.flat_map(|(event, rows)| keyed(number(event.position), table(rows))).collect()
    }
}

fn is_empty(rows: &EventRows) -> bool {
    let EventRows { charges, unused, transfers, invoices, quarantine, timeline } = rows;
    charges.is_empty()
        && unused.is_empty()
        && transfers.is_empty()
        && invoices.is_empty()
        && quarantine.is_empty()
        && timeline.is_empty()
}

fn column<'c, T, V>(rows: &[(i64, i64, &'c T)], value: impl Fn(&'c T) -> V) -> Vec<V> {
    rows.iter().map(|(_, _, row)| value(row)).collect()
}

/// Where the head stands when the commit is stored.
fn end(commit: &Commit) -> (Position, &blake3::Hash) {
    commit.events.last().map_or((commit.after, &commit.after_hash), |last| (last.position, &last.hash))
}

/// Advances the head and writes events and cursors. `false` where the head is another's.
async fn append(connection: &mut PgConnection, commit: &Commit) -> Result<bool, sqlx::Error> {
    let (position, hash) = end(commit);
    let events = &commit.events;
    // A statement may touch a row once: of a cursor given twice the last counts.
    let cursors: BTreeMap<&str, Position> =
        commit.cursors.iter().map(|(name, position)| (name.as_str(), *position)).collect();
    let advanced: i64 = sqlx::query_scalar(sql::APPEND)
        .bind(number(position))
        .bind(hash.as_bytes().as_slice())
        .bind(commit.lease_until.unix_ms())
        .bind(number(commit.after))
        .bind(commit.after_hash.as_bytes().as_slice())
        .bind(commit.epoch.cast_signed())
        .bind(events.iter().map(|event| number(event.position)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.epoch.cast_signed()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| i64::from(event.kind)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.at.unix_ms()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.payload.as_ref()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.hash.as_bytes().as_slice()).collect::<Vec<_>>())
        .bind(cursors.keys().copied().collect::<Vec<_>>())
        .bind(cursors.values().map(|position| number(*position)).collect::<Vec<_>>())
        .fetch_one(connection)
        .await?;
    Ok(advanced == 1)
}

/// Whether a commit whose answer was lost is stored. Waited for it has already: its transaction held
/// the head's row until it ended.
async fn is_stored(connection: &mut PgConnection, commit: &Commit) -> Result<bool, sqlx::Error> {
    let (position, hash) = end(commit);
    let confirmed = sqlx::query(sql::CONFIRM)
        .bind(commit.lease_until.unix_ms())
        .bind(number(position))
        .bind(hash.as_bytes().as_slice())
        .bind(commit.epoch.cast_signed())
        .execute(&mut *connection)
        .await?;
    if confirmed.rows_affected() == 1 {
        return Ok(true);
    }
    // Another writer may have taken over behind it. Without events there is nothing to find.
    let Some(last) = commit.events.last() else { return Ok(false) };
    let stored: Option<Vec<u8>> =
        sqlx::query_scalar(sql::EVENT_HASH).bind(number(last.position)).fetch_optional(connection).await?;
    Ok(stored.is_some_and(|stored| stored == last.hash.as_bytes()))
}
