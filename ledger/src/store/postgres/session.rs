//! Sessions: how they begin, how long one waits, and what an error says about the outcome.

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};

/// Longest wait for a new session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a failure says about what the server did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing: the connection broke, the server is going down or did not answer. What was sent last
    /// may have been done, may be done yet, or never.
    Broken,
    /// It did nothing, for a reason that passes.
    Passing,
    /// It did nothing, and will not.
    Refused,
}

impl Failure {
    /// By SQLSTATE where the server answered.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let code = match error {
            sqlx::Error::Database(error) => error.code().unwrap_or_default(),
            sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => {
                return Self::Refused;
            }
            _ => return Self::Broken,
        };
        match code.as_ref() {
            // Serialization, deadlock, no lock in time, canceled by a time limit, too many sessions, a
            // server that only reads (demoted a moment ago), one that starts.
            "40001" | "40P01" | "55P03" | "57014" | "53300" | "25006" | "57P03" => Self::Passing,
            // Shut down, crashed, ended by an administrator or a time limit; and errors inside the
            // server, of which one cannot say where they struck.
            "57P01" | "57P02" | "57P05" | "25P03" => Self::Broken,
            class if class.starts_with("08") || class.starts_with("XX") || class.is_empty() => Self::Broken,
            _ => Self::Refused,
        }
    }
}

/// Waits for an answer, and not for ever. A session that did not answer must not be used again.
pub(super) async fn bounded<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("no answer within {} seconds", limit.as_secs());
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what)))
        }
    }
}

/// A session with the rights of the login.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    bounded(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await
}

/// A session with the rights of a role, and no others.
pub(super) async fn connect_as(
    options: &PgConnectOptions,
    role: &'static str,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = connect(options).await?;
    bounded(CONNECT_TIMEOUT, connection.execute(role)).await?;
    Ok(connection)
}
