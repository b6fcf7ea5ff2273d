//! The way to the broker: addresses, TLS, who the agent is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use hourglass_proto::subjects::token;
use hourglass_units::AgentId;
use tokio::sync::watch;

/// Longest pause between two attempts to connect.
const RECONNECT_MILLISECONDS_MAX: u64 = 10_000;
/// Commands that wait for the connection: more than are ever unacknowledged.
const CLIENT_CAPACITY: usize = 1_024;
/// Watermarks that wait to be read.
const SUBSCRIPTION_CAPACITY: usize = 1_024;

/// Who the agent is to the broker.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nobody: for a broker that asks nothing.
    #[default]
    None,
    /// The file of an nkey seed (`SU…`), as `hourglass nats agent-user` writes it.
    NkeySeedFile(PathBuf),
    /// A credentials file with a JWT and a seed.
    CredentialsFile(PathBuf),
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::NkeySeedFile(path) => write!(f, "NkeySeedFile({})", path.display()),
            Self::CredentialsFile(path) => write!(f, "CredentialsFile({})", path.display()),
            Self::Password { user, .. } => write!(f, "Password(user {user}, password not shown)"),
        }
    }
}

/// Where the broker is.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// Addresses, such as `tls://nats-1:4222`. A password in an address is not shown by `Debug`.
    pub servers: Vec<String>,
    /// PEM of the authorities to trust beside those that are built in. With one, TLS is required.
    pub root_certificates: Option<PathBuf>,
    /// Refuse to speak without TLS.
    pub require_tls: bool,
    /// Who the agent is.
    pub credentials: Credentials,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("servers", &self.servers.len())
            .field("root_certificates", &self.root_certificates)
            .field("require_tls", &self.require_tls)
            .field("credentials", &self.credentials)
            .finish()
    }
}

/// Why there can be no connection, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// An address that is none.
    #[error("a NATS address cannot be read ({0}): write it like tls://host:4222")]
    Address(String),
    /// A file that cannot be read.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// How reading it failed.
        error: std::io::Error,
    },
    /// A file without a user's seed.
    #[error("{} holds no nkey seed of a user (SU…): make one with `hourglass nats agent-user`", .0.display())]
    Seed(PathBuf),
    /// What the client refuses.
    #[error("the NATS client cannot start: {0}")]
    Client(String),
}

/// The first token of the subjects on which an agent gets its answers: a name of its own, so that it need
/// not be allowed to listen to those of others.
pub(crate) fn inbox_prefix(agent: &AgentId) -> String {
    format!("_INBOX.{}", token(agent.as_str()))
}

/// Starts the client. It connects and connects again by itself, for as long as it takes; the second answer
/// tells whether it is connected.
pub(crate) async fn connect(
    options: &NatsOptions,
    agent: &AgentId,
) -> Result<(Client, watch::Receiver<bool>), ConnectionError> {
    let mut servers: Vec<async_nats::ServerAddr> = Vec::new();
    for server in &options.servers {
        // Not the address itself: it may hold a password.
        let read =
            server.parse().map_err(|error: std::io::Error| ConnectionError::Address(error.to_string()));
        servers.push(read?);
    }
    let (sender, connected) = watch::channel(false);
    let name = agent.to_string();
    let mut connect = ConnectOptions::new()
        .name(format!("hourglass-agent {agent}"))
        .custom_inbox_prefix(inbox_prefix(agent))
        .retry_on_initial_connect()
        .client_capacity(CLIENT_CAPACITY)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .ping_interval(Duration::from_secs(15))
        .require_tls(options.require_tls || options.root_certificates.is_some())
        .reconnect_delay_callback(move |attempts| {
            pause(&name, u32::try_from(attempts).unwrap_or(u32::MAX), RECONNECT_MILLISECONDS_MAX)
        })
        .event_callback(move |event| {
            note(&event, &sender);
            std::future::ready(())
        });
    if let Some(path) = &options.root_certificates {
        // The client reads it at each attempt; a file that is not there is told of now.
        let _text = read(path)?;
        connect = connect.add_root_certificates(path.clone());
    }
    connect = match &options.credentials {
        Credentials::None => connect,
        Credentials::NkeySeedFile(path) => connect.nkey(seed(path)?),
        Credentials::CredentialsFile(path) => connect
            .credentials(&read(path)?)
            .map_err(|error| ConnectionError::File { path: path.clone(), error })?,
        Credentials::Password { user, password } => connect.user_and_password(user.clone(), password.clone()),
    };
    let client =
        connect.connect(servers).await.map_err(|error| ConnectionError::Client(error.to_string()))?;
    Ok((client, connected))
}

fn read(path: &std::path::Path) -> Result<String, ConnectionError> {
    std::fs::read_to_string(path).map_err(|error| ConnectionError::File { path: path.to_owned(), error })
}

fn seed(path: &std::path::Path) -> Result<String, ConnectionError> {
    let text = read(path)?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| ConnectionError::Seed(path.to_owned()))
}

fn note(event: &Event, connected: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to the broker");
            connected.send_replace(true);
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("the connection to the broker is lost");
            connected.send_replace(false);
        }
        Event::ServerError(error) => tracing::error!("the broker says: {error}"),
        Event::ClientError(error) => tracing::warn!("no connection to the broker: {error}"),
        other => tracing::debug!("the broker's client: {other}"),
    }
}

/// A pause that doubles with each failure, up to a bound. Agents that fail together must not come back
/// together: where between half and the whole each one waits follows from its name and the attempt.
pub(crate) fn pause(name: &str, failures: u32, milliseconds_max: u64) -> Duration {
    const FIRST_MILLISECONDS: u64 = 100;
    let whole = FIRST_MILLISECONDS.saturating_mul(1 << failures.min(20)).min(milliseconds_max);
    let hash = blake3::Hasher::new().update(name.as_bytes()).update(&failures.to_le_bytes()).finalize();
    let draw = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    let part = (whole / 2).saturating_mul(draw) >> 32;
    Duration::from_millis((whole / 2).saturating_add(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for failures in 0..40 {
            let whole = (100_u64 << failures.min(20)).min(10_000);
            let wait = pause("agent-1", failures, 10_000).as_millis();
            assert!((u128::from(whole / 2)..=u128::from(whole)).contains(&wait), "{failures}: {wait}");
        }
        let waits: std::collections::BTreeSet<_> =
            (0..50).map(|n| pause(&format!("agent-{n}"), 9, 10_000)).collect();
        assert!(waits.len() > 40, "agents come back together: {waits:?}");
    }

    #[test]
    fn no_secret_is_shown() {
        let credentials = Credentials::Password { user: "me".to_owned(), password: "hidden".to_owned() };
        let options = NatsOptions {
            servers: vec!["nats://me:hidden@localhost".to_owned()],
            credentials,
            ..NatsOptions::default()
        };
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
