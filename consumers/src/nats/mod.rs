//! The connection to NATS, and the streams that a cell keeps there.
//!
//! JetStream is transport, never the record: nothing here is needed to know what was used or billed.
//! A server that is away is waited for, for ever; the floor is nats-server 2.9.

#[cfg(test)]
mod described;
mod look;
mod streams;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectOptions, Event, ServerAddr, jetstream};
use tokio::sync::watch;

pub use look::{StreamLook, look};
pub use streams::{
    DUPLICATE_WINDOW, Ensured, FEED_AGE_MAX, FEED_BYTES_MAX, FEED_MESSAGE_BYTES_MAX, StreamError,
    StreamLimits, USAGE_AGE_MAX, USAGE_BYTES_MAX, USAGE_MESSAGE_BYTES_MAX, ensure_stream, feed_stream,
    usage_stream,
};
pub(crate) use streams::{chain, has_no_stream};

/// Longest pause between two attempts to connect.
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// What the pause grows by with each attempt.
const RECONNECT_DELAY_STEP: Duration = Duration::from_millis(100);
/// How often a silent connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A text that is for nobody's eyes: it shows in no log and no `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text, blanks at its ends left aside (files end in a line break).
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    fn reveal(&self) -> String {
        self.0.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// As whom to come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Login {
    /// As nobody.
    #[default]
    Anonymous,
    /// By password.
    Password {
        /// Who.
        user: String,
        /// The proof.
        password: Secret,
    },
    /// By the seed of a user's nkey, `SU…`.
    Nkey(Secret),
    /// By a file of the NATS tools with a JWT and its seed.
    CredentialsFile(PathBuf),
}

/// Where NATS is and how to come in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NatsOptions {
    /// `nats://host:port` or `tls://host:port`, one of a cluster or several.
    pub servers: Vec<String>,
    /// What the server calls this connection in its reports.
    pub name: String,
    /// PEM file with the authority to trust. With it, TLS is a must. Without, `tls://` trusts the
    /// system's authorities.
    pub root_certificate: Option<PathBuf>,
    /// As whom.
    pub login: Login,
}

/// Options that cannot work, whatever the server does.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// No server.
    #[error("no NATS server is named: give at least one address, such as nats://127.0.0.1:4222")]
    NoServer,
    /// An address that is none.
    #[error(
        "{address:?} is no address of a NATS server ({source}): write nats://host:4222 or tls://host:4222"
    )]
    Address {
        /// As given.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be used.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The nkey is not a user's seed.
    #[error(
        "the nkey is no seed of a user: it begins with SU and has 58 characters (nk -gen user makes one)"
    )]
    Nkey,
    /// The client gives up before it tried.
    #[error("cannot start the NATS client: {0}")]
    Client(#[from] async_nats::ConnectError),
}

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Nats {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nats({})", self.client.connection_state())
    }
}

/// Starts to connect and goes on for ever: a server that is away is no error, only options that can
/// never work are.
pub async fn connect(options: &NatsOptions) -> Result<Nats, NatsError> {
    if options.servers.is_empty() {
        return Err(NatsError::NoServer);
    }
    let address = |address: &String| {
        let wrong = |source| NatsError::Address { address: without_password(address), source };
        address.parse::<ServerAddr>().map_err(wrong)
    };
    let servers = options.servers.iter().map(address).collect::<Result<Vec<_>, _>>()?;

    let (count, connections) = watch::channel(0_u64);
    let mut client = logged_in(&options.login)?
        .name(&options.name)
        .retry_on_initial_connect()
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(|attempts| {
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            RECONNECT_DELAY_STEP.saturating_mul(attempts).min(RECONNECT_DELAY_MAX)
        })
        .event_callback(move |event| {
            observe(&event, &count);
            std::future::ready(())
        });
    if let Some(path) = &options.root_certificate {
        // The client would read it at each attempt and only log that it cannot.
        let text = read(path)?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            let source = std::io::Error::other("there is no certificate in it (PEM)");
            return Err(NatsError::File { path: path.display().to_string(), source });
        }
        client = client.add_root_certificates(path.clone()).require_tls(true);
    }
    let client = client.connect(servers).await?;
    Ok(Nats { jetstream: jetstream::new(client.clone()), client, connections })
}

/// An address with what could be a password taken out.
fn without_password(address: &str) -> String {
    match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            let (scheme, host) = (address.get(..scheme), address.get(at..));
            format!("{}://…{}", scheme.unwrap_or_default(), host.unwrap_or_default())
        }
        (None, Some(at)) => format!("…{}", address.get(at..).unwrap_or_default()),
        _ => address.to_owned(),
    }
}

fn read(path: &Path) -> Result<String, NatsError> {
    let unreadable = |source| NatsError::File { path: path.display().to_string(), source };
    std::fs::read_to_string(path).map_err(unreadable)
}

fn logged_in(login: &Login) -> Result<ConnectOptions, NatsError> {
    let options = ConnectOptions::new();
    Ok(match login {
        Login::Anonymous => options,
        Login::Password { user, password } => options.user_and_password(user.clone(), password.reveal()),
        Login::Nkey(seed) => {
            let seed = seed.reveal();
            if !(seed.starts_with("SU")
                && seed.len() == 58
                && seed.bytes().all(|it| it.is_ascii_alphanumeric()))
            {
                return Err(NatsError::Nkey);
            }
            options.nkey(seed)
        }
        Login::CredentialsFile(path) => {
            let wrong = |source| NatsError::File { path: path.display().to_string(), source };
            options.credentials(&read(path)?).map_err(wrong)?
        }
    })
}

fn observe(event: &Event, count: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            count.send_modify(|count| *count = count.saturating_add(1));
        }
        Event::Disconnected => tracing::warn!("NATS is away; usage waits with the agents"),
        Event::SlowConsumer(_) => {
            tracing::error!("the NATS client dropped messages: they will be redelivered")
        }
        Event::ServerError(error) => tracing::error!(%error, "NATS refuses something"),
        Event::ClientError(error) => tracing::warn!(%error, "NATS cannot be reached"),
        event => tracing::info!(%event, "NATS"),
    }
}

impl Nats {
    /// Whether the server can be spoken to now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// How often a connection was made; 0 before the first one.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    pub(crate) fn client(&self) -> &async_nats::Client {
        &self.client
    }

    pub(crate) fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Waits until what was published has left, or `time` has passed.
    pub async fn flush(&self, time: Duration) {
        if self.is_connected()
            && let Ok(Err(error)) = tokio::time::timeout(time, self.client.flush()).await
        {
            tracing::warn!(%error, "not all was sent to NATS");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let options = NatsOptions {
            login: Login::Password { user: "cell".to_owned(), password: Secret::new("hunter2\n") },
            ..NatsOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"), "{options:?}");
        assert_eq!(without_password("nats://cell:hunter2@host:4222"), "nats://…@host:4222");
        assert_eq!(without_password("cell:hunter2@host"), "…@host");
        assert_eq!(without_password("nats://host:4222"), "nats://host:4222");
    }

    #[tokio::test]
    async fn only_options_that_can_never_work_are_errors() {
        let away = NatsOptions { servers: vec!["nats://127.0.0.1:1".to_owned()], ..NatsOptions::default() };
        let nats = connect(&away).await.unwrap();
        assert!(!nats.is_connected());
        for wrong in [
            NatsOptions { servers: Vec::new(), ..away.clone() },
            NatsOptions { servers: vec!["http://[".to_owned()], ..away.clone() },
            NatsOptions { root_certificate: Some("/nowhere.pem".into()), ..away.clone() },
            NatsOptions { login: Login::Nkey(Secret::new("SUsecret")), ..away.clone() },
            NatsOptions { login: Login::CredentialsFile("/nowhere.creds".into()), ..away.clone() },
        ] {
            let error = connect(&wrong).await.unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
