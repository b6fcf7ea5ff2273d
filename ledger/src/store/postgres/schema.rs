//! Roles, tables and their version. Two processes may come here at once, and two databases of one
//! server share their roles.

use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

use super::options::OpenError;
use super::sql;
use crate::log;

/// Marks the version table as ours.
const APPLICATION: &str = "hourglass";
/// Numbered from 1, each run once, in order.
pub(super) const MIGRATIONS: [&str; 5] = [
    include_str!("../../../../migrations/postgres/0001_ledger.sql"),
    include_str!("../../../../migrations/postgres/0002_cursors.sql"),
    include_str!("../../../../migrations/postgres/0003_pricing.sql"),
    include_str!("../../../../migrations/postgres/0004_market.sql"),
    include_str!("../../../../migrations/postgres/0005_timeline.sql"),
];
/// Attempts at what another process may be doing at the same moment.
const ATTEMPTS_MAX: usize = 20;

/// What stands in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No ledger, and no table in its way.
    Nothing,
    /// A ledger of this version.
    Ledger(i64),
}

/// Looks, and changes nothing.
pub(super) async fn find(connection: &mut PgConnection, address: &str) -> Result<Found, OpenError> {
    let failed = |error: sqlx::Error| database(address, &error);
    let here = sqlx::query(sql::WHAT_IS_HERE).fetch_one(&mut *connection).await.map_err(failed)?;
    let (ours, theirs): (bool, bool) =
        (here.try_get("ours").map_err(failed)?, here.try_get("theirs").map_err(failed)?);
    if !ours && !theirs {
        return Ok(Found::Nothing);
    }
    let not_ours = || OpenError::NotALedger { address: address.to_owned() };
    if !ours {
        return Err(not_ours());
    }
    let row = sqlx::query(sql::VERSION).fetch_optional(&mut *connection).await.map_err(failed)?;
    let row = row.ok_or_else(not_ours)?;
    let application: String = row.try_get("application").map_err(failed)?;
    let found: i64 = row.try_get("version").map_err(failed)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if application != APPLICATION {
        return Err(not_ours());
    }
    if found > known {
        return Err(OpenError::NewerVersion { address: address.to_owned(), found, known });
    }
    Ok(Found::Ledger(found))
}

/// Makes the roles that are missing and lets the login take them, where it may.
pub(super) async fn ensure_roles(connection: &mut PgConnection, address: &str) -> Result<(), OpenError> {
    for role in sql::ROLES {
        let mut attempts = 0;
        loop {
            let Err(error) = connection.execute(role.take).await else { break };
            attempts += 1;
            // To take a role fails where it does not exist, and where the login is no member of it.
            let mend = match code(&error).as_str() {
                "22023" => role.make,
                "42501" => role.grant,
                _ => return Err(database(address, &error)),
            };
            if let Err(error) = connection.execute(mend).await
                && (!is_conflict(&error) || attempts >= ATTEMPTS_MAX)
            {
                let sql = format!("{}; {}", role.make, role.grant);
                return Err(OpenError::Roles { address: address.to_owned(), error: error.to_string(), sql });
            }
            if attempts >= ATTEMPTS_MAX {
                return Err(database(address, &error));
            }
        }
        // The next one is made with the rights of the login.
        connection.execute(sql::BE_LOGIN).await.map_err(|error| database(address, &error))?;
    }
    Ok(())
}

/// Runs the migrations that the database lacks, each whole or not at all.
pub(super) async fn migrate(connection: &mut PgConnection, address: &str) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| database(address, &error);
    for attempt in 0..=ATTEMPTS_MAX {
        if find(connection, address).await? != Found::Nothing {
            break;
        }
        if let Err(error) = sqlx::raw_sql(sql::VERSION_TABLE).execute(&mut *connection).await {
            connection.execute(sql::ROLLBACK).await.map_err(failed)?;
            // Another process makes the same table.
            if !is_conflict(&error) || attempt == ATTEMPTS_MAX {
                return Err(database(address, &error));
            }
        }
    }
    let Found::Ledger(version) = find(connection, address).await? else {
        return Err(OpenError::Missing { address: address.to_owned() });
    };
    for (number, migration) in (1_i64..).zip(MIGRATIONS) {
        if number > version {
            let run = run(connection, number, migration).await;
            if let Err(error) = run {
                let _rolled_back = connection.execute(sql::ROLLBACK).await;
                return Err(database(address, &error));
            }
        }
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, number: i64, migration: &'static str) -> Result<(), sqlx::Error> {
    connection.execute(sql::BEGIN).await?;
    // Waits for another process that migrates, and then finds its work done.
    let version: i64 = sqlx::query_scalar(sql::VERSION_LOCKED).fetch_one(&mut *connection).await?;
    if version < number {
        sqlx::raw_sql(migration).execute(&mut *connection).await?;
        sqlx::query(sql::HEAD_FIRST)
            .bind(log::genesis().as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
        sqlx::query(sql::VERSION_SET).bind(number).execute(&mut *connection).await?;
    }
    connection.execute(sql::COMMIT).await.map(drop)
}

fn code(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    }
}

/// Somebody else made the same thing at the same moment: it is there now. The last one is what the
/// server says when two change the same row of its catalogue.
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_str(), "23505" | "42710" | "42P07" | "40001" | "40P01" | "XX000")
}

pub(super) fn database(address: &str, error: &sqlx::Error) -> OpenError {
    OpenError::Database { address: address.to_owned(), error: error.to_string() }
}
