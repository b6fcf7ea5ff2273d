//! The parts of `hourglass.toml` that a production cell needs. `docs/examples/hourglass.toml` shows
//! each with its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hourglass_consumers::nats::{Login, NatsOptions, Secret, StreamLimits};
use hourglass_ledger::cell::{LEASE, LEASE_MAX, LEASE_MIN};
use hourglass_ledger::core::Policy;
use hourglass_ledger::store::postgres::PostgresOptions;
use serde::{Deserialize, Deserializer};

use crate::failure::Failure;

/// `[postgres]`: the ledger is there, instead of in a data directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSection {
    /// `postgres://user@host:port/database`. A password belongs in `password_file`.
    url: Option<String>,
    password_file: Option<PathBuf>,
    /// PEM of the authority to trust. With it, TLS is a must and the host's name is checked.
    root_certificate: Option<PathBuf>,
    /// Connections for reading.
    readers_max: Option<usize>,
}

/// `[nats]`: usage comes from there, and feeds go out to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSection {
    servers: Option<Vec<String>>,
    root_certificate: Option<PathBuf>,
    nkey_seed_file: Option<PathBuf>,
    credentials_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    /// The partition of the region that this cell writes.
    #[serde(default)]
    pub partition: u32,
    /// How large the usage stream may grow; agents wait while it is full.
    usage_bytes_max: Option<u64>,
    /// How large the stream of feeds may grow.
    feed_bytes_max: Option<u64>,
    /// 3 where there are three servers.
    replicas: Option<usize>,
}

/// `[cell]`: how this process takes its turns, and the rules of a ledger that is new.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CellSection {
    /// The name of this process among all that can write to the ledger.
    pub node: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub lease: Duration,
    #[serde(deserialize_with = "duration")]
    pub tick: Duration,
    #[serde(deserialize_with = "duration")]
    pub market_tick: Duration,
    pub finalise_invoices: FinaliseInvoices,
    #[serde(deserialize_with = "duration")]
    clock_skew: Duration,
    #[serde(deserialize_with = "duration")]
    acceptance_window: Duration,
    #[serde(deserialize_with = "duration")]
    grace: Duration,
}

/// When a month is closed and its invoice numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinaliseInvoices {
    /// By the first tick after its grace has passed.
    #[default]
    WhenDue,
    /// When somebody asks for it.
    OnRequest,
}

impl Default for CellSection {
    fn default() -> Self {
        let Policy { clock_skew_max_ms, acceptance_window_ms, grace_ms } = Policy::default();
        let duration = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        Self {
            node: None,
            lease: LEASE,
            tick: Duration::from_secs(60),
            market_tick: Duration::from_secs(60),
            finalise_invoices: FinaliseInvoices::default(),
            clock_skew: duration(clock_skew_max_ms),
            acceptance_window: duration(acceptance_window_ms),
            grace: duration(grace_ms),
        }
    }
}

/// Reads a duration such as `10s`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

impl CellSection {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), Failure> {
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            let (least, most) =
                (humantime::format_duration(LEASE_MIN), humantime::format_duration(LEASE_MAX));
            return Err(Failure::Usage(format!("cell.lease must be between {least} and {most}")));
        }
        if self.tick < Duration::from_secs(1) {
            return Err(Failure::Usage("cell.tick must be at least 1s".to_owned()));
        }
        if self.market_tick < Duration::from_secs(1) {
            return Err(Failure::Usage("cell.market_tick must be at least 1s".to_owned()));
        }
        Ok(())
    }

    /// The rules of a ledger that is new.
    pub fn policy(&self) -> Policy {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Policy {
            clock_skew_max_ms: ms(self.clock_skew),
            acceptance_window_ms: ms(self.acceptance_window),
            grace_ms: ms(self.grace),
        }
    }

    /// The name under which this process writes: the host's, and where it is asked, unless told
    /// otherwise. It stays the same when the process is started again.
    pub fn holder(&self, http: std::net::SocketAddr) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        self.node.clone().unwrap_or_else(|| format!("{}:{}", host().trim(), http.port()))
    }
}

/// A secret of its own file, else of the environment. Never of a flag or of the settings file.
pub fn secret(file: Option<&Path>, variable: &str) -> Result<Option<String>, Failure> {
    let text = match file {
        Some(path) => Some(super::read(path)?),
        None => std::env::var(variable).ok(),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

impl PostgresSection {
    /// What the store wants to know.
    pub fn options(self) -> Result<PostgresOptions, Failure> {
        let url = std::env::var("HOURGLASS_POSTGRES_URL").ok().or(self.url);
        let url = url.ok_or_else(|| {
            Failure::Usage(
                "postgres.url is missing: name the database, such as postgres://hourglass@127.0.0.1/hourglass"
                    .to_owned(),
            )
        })?;
        let password = secret(self.password_file.as_deref(), "HOURGLASS_POSTGRES_PASSWORD")?;
        let mut options = PostgresOptions::new(url);
        options.password = password;
        options.root_certificate = self.root_certificate;
        if let Some(readers_max) = self.readers_max {
            options.readers_max = readers_max;
        }
        Ok(options)
    }
}

impl NatsSection {
    /// How to connect.
    pub fn options(&self, name: &str) -> Result<NatsOptions, Failure> {
        let of_environment = std::env::var("HOURGLASS_NATS_SERVERS").ok();
        let of_environment =
            of_environment.map(|list| list.split(',').map(|server| server.trim().to_owned()).collect());
        let servers: Vec<String> = of_environment.or_else(|| self.servers.clone()).unwrap_or_default();
        let seed = secret(self.nkey_seed_file.as_deref(), "HOURGLASS_NATS_NKEY_SEED")?;
        let password = secret(self.password_file.as_deref(), "HOURGLASS_NATS_PASSWORD")?;
        let login = match (seed, &self.credentials_file, &self.user) {
            (Some(seed), None, None) => Login::Nkey(Secret::new(&seed)),
            (None, Some(file), None) => Login::CredentialsFile(file.clone()),
            (None, None, Some(user)) => {
                let missing = "nats.user needs nats.password_file or HOURGLASS_NATS_PASSWORD";
                let password = password.ok_or_else(|| Failure::Usage(missing.to_owned()))?;
                Login::Password { user: user.clone(), password: Secret::new(&password) }
            }
            (None, None, None) => Login::Anonymous,
            _ => {
                let which = "give one of nats.nkey_seed_file, nats.credentials_file and nats.user";
                return Err(Failure::Usage(which.to_owned()));
            }
        };
        Ok(NatsOptions {
            servers,
            name: name.to_owned(),
            root_certificate: self.root_certificate.clone(),
            login,
        })
    }

    /// What the usage stream may hold.
    pub fn usage_limits(&self) -> StreamLimits {
        self.limits(StreamLimits::USAGE, self.usage_bytes_max)
    }

    /// What the stream of feeds may hold.
    pub fn feed_limits(&self) -> StreamLimits {
        self.limits(StreamLimits::FEED, self.feed_bytes_max)
    }

    fn limits(&self, default: StreamLimits, bytes_max: Option<u64>) -> StreamLimits {
        StreamLimits {
            bytes_max: bytes_max.unwrap_or(default.bytes_max),
            replicas: self.replicas.unwrap_or(default.replicas),
            ..default
        }
    }
}
