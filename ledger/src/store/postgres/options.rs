//! How to reach a PostgreSQL, and why it could not be opened.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// How long a commit is tried again while its outcome is not known or the server is away.
pub const RETRY_FOR: Duration = Duration::from_secs(30);
/// Longest that a statement of the writer may take.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest that a statement of a reader may take: a sum over a long time takes its time.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that a session may hold a transaction open without a word, and with it the head's row: a
/// writer that was frozen there keeps its successor waiting no longer.
pub const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the head's row. Longer than another session may sit on it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// Connections for reading.
pub const READERS_MAX: usize = 8;

/// How to open a store in PostgreSQL. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// `postgres://user@host:port/database`. With `sslmode=disable` or, where nothing is said, on this
    /// machine it is plain; else it is TLS, and the server's certificate and name are always checked.
    pub url: String,
    /// The password, where it does not stand in the URL.
    pub password: Option<String>,
    /// A PEM file with the authorities to trust, in place of the public ones. Asks for TLS.
    pub root_certificate: Option<PathBuf>,
    /// Most connections for reading.
    pub readers_max: usize,
    /// How long a commit is tried again while its outcome is not known or the server is away.
    pub retry_for: Duration,
    /// Longest that a statement of the writer may take.
    pub statement_timeout: Duration,
}

impl PostgresOptions {
    /// The defaults for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
            root_certificate: None,
            readers_max: READERS_MAX,
            retry_for: RETRY_FOR,
            statement_timeout: STATEMENT_TIMEOUT,
        }
    }
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = Target::of(self).map(|target| target.address);
        f.debug_struct("PostgresOptions")
            .field("address", &address.unwrap_or_else(|_| "unreadable".to_owned()))
            .field("root_certificate", &self.root_certificate)
            .field("readers_max", &self.readers_max)
            .field("retry_for", &self.retry_for)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// Why a store in PostgreSQL could not be opened. None of them holds a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be read.
    #[error("the PostgreSQL address cannot be read ({0}): write postgres://user@host:port/database")]
    Address(String),
    /// A later release wrote it.
    #[error(
        "the database {address} has version {found}, this release knows up to {known}: use a newer hourglass"
    )]
    NewerVersion {
        /// Which database.
        address: String,
        /// Its version.
        found: i64,
        /// What this release knows.
        known: i64,
    },
    /// There is nothing to read.
    #[error("there is no ledger in {address}: `hourglass serve` creates one")]
    Missing {
        /// Which database.
        address: String,
    },
    /// Its tables are somebody else's.
    #[error("{address} has tables that are not Hourglass's: give it a database of its own")]
    NotALedger {
        /// Which database.
        address: String,
    },
    /// The roles are missing, and the login may not make them.
    #[error("the login may not make or take a role in {address} ({error}): let an administrator run `{sql}`")]
    Roles {
        /// Which database.
        address: String,
        /// Why.
        error: String,
        /// What to run there, with the login's name in place of `SESSION_USER`.
        sql: String,
    },
    /// The database does not answer as it should.
    #[error("cannot open the ledger in {address}: {error}")]
    Database {
        /// Which database.
        address: String,
        /// Why.
        error: String,
    },
}

/// Where sessions go to, and how they behave there.
pub(super) struct Target {
    /// `host:port/database`, for messages.
    pub(super) address: String,
    pub(super) writer: PgConnectOptions,
    pub(super) reader: PgConnectOptions,
    /// Longest that the client waits for the answer to one statement. The server gives up before.
    pub(super) writer_patience: Duration,
    pub(super) reader_patience: Duration,
}

/// How much longer than the server a client waits.
const PATIENCE: Duration = Duration::from_secs(2);

impl Target {
    pub(super) fn of(options: &PostgresOptions) -> Result<Self, OpenError> {
        let mut connect = PgConnectOptions::from_str(&options.url)
            .map_err(|error| OpenError::Address(error.to_string()))?
            .disable_statement_logging();
        if let Some(password) = &options.password {
            connect = connect.password(password);
        }
        connect = tls(connect, options);
        let address = format!(
            "{}:{}/{}",
            connect.get_host(),
            connect.get_port(),
            connect.get_database().unwrap_or_else(|| connect.get_username())
        );
        let lock = LOCK_TIMEOUT.min(options.statement_timeout);
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        // The server notices a client that is gone without a word, and frees what it holds.
        let connect = connect.options([
            ("idle_in_transaction_session_timeout", milliseconds(IDLE_IN_TRANSACTION_TIMEOUT).as_str()),
            ("default_transaction_isolation", "read committed"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ]);
        let writer = connect.clone().application_name("hourglass-writer").options([
            ("synchronous_commit", "on"),
            ("statement_timeout", milliseconds(options.statement_timeout).as_str()),
            ("lock_timeout", milliseconds(lock).as_str()),
        ]);
        let reader = connect.application_name("hourglass-reader").options([
            ("default_transaction_read_only", "on"),
            ("statement_timeout", milliseconds(READ_TIMEOUT).as_str()),
        ]);
        let writer_patience = options.statement_timeout.saturating_add(PATIENCE);
        let reader_patience = READ_TIMEOUT.saturating_add(PATIENCE);
        Ok(Self { address, writer, reader, writer_patience, reader_patience })
    }
}

/// TLS is checked in full or is not there: encryption to nobody knows whom defends nothing.
fn tls(connect: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    if let Some(path) = &options.root_certificate {
        return connect.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(path);
    }
    let host = connect.get_host();
    let here = connect.get_socket().is_some()
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match connect.get_ssl_mode() {
        PgSslMode::Disable => connect,
        PgSslMode::Allow | PgSslMode::Prefer if here => connect.ssl_mode(PgSslMode::Disable),
        _ => connect.ssl_mode(PgSslMode::VerifyFull),
    }
}
