//! `hourglass agent`: the metering agent of a GPU node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hourglass_agent::{
    AgentError, AgentOptions, Clock, Credentials, NatsOptions, REPORT_MILLISECONDS_MAX, SPOOL_BYTES_MIN,
    Status,
};
use hourglass_ledger::cell::Clock as _;
use hourglass_units::{AgentId, Region};

use crate::failure::Failure;
use crate::output::{Format, answer};
use crate::wire::WallClock;

/// The password, where the broker wants one.
const PASSWORD_VARIABLE: &str = "HOURGLASS_AGENT_NATS_PASSWORD";
/// The bound on the log unless told otherwise: months of a node's usage.
const SPOOL_BYTES_DEFAULT: u64 = 1 << 30;

/// Meter this node: read which instances hold which GPUs, report it to the region's cell over NATS.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's name, one of its own for each node
    #[arg(long, value_name = "ID", env = "HOURGLASS_AGENT_ID")]
    agent_id: AgentId,
    /// The region whose cell it reports to
    #[arg(long, value_name = "NAME", env = "HOURGLASS_AGENT_REGION")]
    region: Region,
    /// The partition of the region
    #[arg(long, value_name = "N", env = "HOURGLASS_AGENT_PARTITION", default_value_t = 0)]
    partition: u32,
    /// Directory of assignments, one JSON file each, that the node's hypervisor writes
    #[arg(long, value_name = "DIR", env = "HOURGLASS_AGENT_INVENTORY")]
    inventory: PathBuf,
    /// Directory of the write-ahead log, on a disk that survives a restart
    #[arg(long, value_name = "DIR", env = "HOURGLASS_AGENT_SPOOL")]
    spool: PathBuf,
    /// Bound on the write-ahead log, in bytes
    #[arg(long, value_name = "BYTES", env = "HOURGLASS_AGENT_SPOOL_BYTES_MAX", default_value_t = SPOOL_BYTES_DEFAULT,
          value_parser = clap::value_parser!(u64).range(SPOOL_BYTES_MIN..))]
    spool_bytes_max: u64,
    /// Time between two samples
    #[arg(long, value_name = "DURATION", env = "HOURGLASS_AGENT_EVERY", default_value = "10s",
          value_parser = humantime::parse_duration)]
    every: Duration,
    /// Records are cut at multiples of this, at most a day
    #[arg(long, value_name = "DURATION", env = "HOURGLASS_AGENT_INTERVAL", default_value = "60s",
          value_parser = super::milliseconds)]
    interval: i64,
    /// Publish again what the cell has not committed after so long
    #[arg(long, value_name = "DURATION", env = "HOURGLASS_AGENT_RESEND_AFTER", default_value = "60s",
          value_parser = humantime::parse_duration)]
    resend_after: Duration,
    /// At the end, publish what is left for so long at most
    #[arg(long, value_name = "DURATION", env = "HOURGLASS_AGENT_STOP_WITHIN", default_value = "5s",
          value_parser = humantime::parse_duration)]
    stop_within: Duration,
    /// Do not measure with NVML
    #[arg(long, env = "HOURGLASS_AGENT_NO_NVML")]
    no_nvml: bool,
    /// Sample once, wait until the cell has committed everything, and end
    #[arg(long)]
    drain: bool,
    /// How long --drain may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    #[command(flatten)]
    nats: Nats,
}

/// Where the broker is, and who the agent is there. No secret is a flag: each is in a file, or in the
/// environment.
#[derive(Debug, clap::Args)]
struct Nats {
    /// NATS servers, such as tls://nats-1:4222,tls://nats-2:4222
    #[arg(
        long = "nats",
        value_name = "URL,…",
        env = "HOURGLASS_AGENT_NATS",
        value_delimiter = ',',
        required = true,
        hide_env_values = true
    )]
    servers: Vec<String>,
    /// PEM file of the authority that signed the servers' certificates; requires TLS
    #[arg(long, value_name = "FILE", env = "HOURGLASS_AGENT_NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// Refuse to speak without TLS
    #[arg(long, env = "HOURGLASS_AGENT_NATS_TLS")]
    nats_tls: bool,
    /// File of the agent's nkey seed, see `hourglass nats agent-user`
    #[arg(long, value_name = "FILE", env = "HOURGLASS_AGENT_NATS_SEED_FILE",
          conflicts_with_all = ["nats_credentials_file", "nats_user"])]
    nats_seed_file: Option<PathBuf>,
    /// Credentials file with a JWT and a seed
    #[arg(
        long,
        value_name = "FILE",
        env = "HOURGLASS_AGENT_NATS_CREDENTIALS_FILE",
        conflicts_with = "nats_user"
    )]
    nats_credentials_file: Option<PathBuf>,
    /// User name; the password is in --nats-password-file or in HOURGLASS_AGENT_NATS_PASSWORD
    #[arg(long, value_name = "NAME", env = "HOURGLASS_AGENT_NATS_USER")]
    nats_user: Option<String>,
    /// File of the password
    #[arg(long, value_name = "FILE", env = "HOURGLASS_AGENT_NATS_PASSWORD_FILE", requires = "nats_user")]
    nats_password_file: Option<PathBuf>,
}

impl Nats {
    fn options(self) -> Result<NatsOptions, Failure> {
        let credentials = match (self.nats_seed_file, self.nats_credentials_file, self.nats_user) {
            (Some(path), _, _) => Credentials::NkeySeedFile(path),
            (None, Some(path), _) => Credentials::CredentialsFile(path),
            (None, None, Some(user)) => {
                Credentials::Password { user, password: password(self.nats_password_file)? }
            }
            (None, None, None) => Credentials::None,
        };
        Ok(NatsOptions {
            servers: self.servers,
            root_certificates: self.nats_ca,
            require_tls: self.nats_tls,
            credentials,
        })
    }
}

fn password(file: Option<PathBuf>) -> Result<String, Failure> {
    let password = match file {
        Some(path) => crate::config::read(&path)?.trim().to_owned(),
        None => std::env::var(PASSWORD_VARIABLE).unwrap_or_default(),
    };
    if password.is_empty() {
        let how = format!("--nats-user needs --nats-password-file or {PASSWORD_VARIABLE}");
        return Err(Failure::Usage(how));
    }
    Ok(password)
}

/// Runs the command.
pub fn run(args: Args, format: Format) -> Result<(), Failure> {
    if args.interval > REPORT_MILLISECONDS_MAX {
        return Err(Failure::Usage("--interval must be at most a day".to_owned()));
    }
    if args.every < Duration::from_millis(10) {
        return Err(Failure::Usage("--every must be at least 10ms".to_owned()));
    }
    if args.drain
        && let Err(error) = std::fs::read_dir(&args.inventory)
    {
        // An agent that goes on reads it when it is there; this one would end and have said nothing.
        return Err(Failure::Usage(format!("{}: {error}", args.inventory.display())));
    }
    let options = AgentOptions {
        agent: args.agent_id,
        region: args.region,
        partition: args.partition,
        inventory: args.inventory,
        spool: args.spool,
        spool_bytes_max: args.spool_bytes_max,
        every: args.every,
        interval_ms: args.interval,
        resend_after: args.resend_after,
        stop_within: args.stop_within,
        nvml: !args.no_nvml,
        nats: args.nats.options()?,
    };
    let clock: Clock = Arc::new(|| WallClock.now());
    // Few megabytes of a node that others pay for: one thread, and the recorder's own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = if args.drain {
        runtime.block_on(hourglass_agent::drain(&options, clock, args.drain_timeout))
    } else {
        runtime.block_on(async { hourglass_agent::run(&options, clock, told_to_stop()?).await })
    };
    let status = ended?;
    if args.drain { answer(format, &status, drained) } else { Ok(()) }
}

/// Ends with SIGTERM or Ctrl-C.
fn told_to_stop() -> Result<impl Future<Output = ()>, AgentError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| AgentError::Thread(format!("hears no signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn drained(status: &Status) -> String {
    format!(
        "agent {}: {} records recorded, all committed by the cell; {} instances hold {} GPUs",
        status.agent, status.counts.recorded, status.instances, status.gpus
    )
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Connection(_) => Self::Usage(error.to_string()),
            AgentError::NotDrained { .. } => Self::Unsound(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
