//! Settings: flag, then environment, then file, then default.

pub mod compute;
mod oidc;
pub mod production;
pub mod webhooks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::failure::Failure;
use compute::ComputeSection;
use oidc::OidcSection;
use production::{CellSection, NatsSection, PostgresSection};
use webhooks::WebhookSection;

use hourglass_consumers::auth::Oidc;
use hourglass_ledger::store::postgres::PostgresOptions;

/// Where HTTP is served unless told otherwise.
const HTTP_DEFAULT: &str = "127.0.0.1:8080";
/// Where gRPC is served unless told otherwise.
const GRPC_DEFAULT: &str = "127.0.0.1:8081";
/// The region of a cell that is opened without a name.
const REGION_DEFAULT: &str = "local";

/// Settings as given on the command line or in the environment.
#[derive(Debug, Args)]
pub struct Settings {
    /// Data directory [default: `hourglass` in the user's data directory]
    #[arg(long, global = true, env = "HOURGLASS_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Settings file [default: none]
    #[arg(long, global = true, env = "HOURGLASS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The settings file, `hourglass.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    data: Option<PathBuf>,
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    region: Option<String>,
    operator_token_file: Option<PathBuf>,
    postgres: Option<PostgresSection>,
    nats: Option<NatsSection>,
    #[serde(default)]
    cell: CellSection,
    oidc: Option<OidcSection>,
    compute: Option<ComputeSection>,
    #[serde(default)]
    webhooks: WebhookSection,
    #[serde(default)]
    feed: FeedSection,
}

/// `[feed]`: who may watch prices.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedSection {
    /// Whether prices may be read without a credential.
    #[serde(default)]
    pub public: bool,
}

/// Settings that hold.
#[derive(Debug)]
pub struct Resolved {
    /// Data directory.
    pub data: PathBuf,
    /// Whether it was named, or is the default.
    pub data_was_named: bool,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// The region of a cell that is opened.
    pub region: String,
    /// The file that holds the operator's token.
    pub operator_token_file: Option<PathBuf>,
    /// The ledger is in PostgreSQL, not in the data directory.
    pub postgres: Option<PostgresOptions>,
    /// Usage comes by NATS, too.
    pub nats: Option<NatsSection>,
    /// How a production cell is run.
    pub cell: CellSection,
    /// Whose JSON Web Tokens are taken.
    pub oidc: Option<Oidc>,
    /// Where units of spot bids run.
    pub compute: Option<ComputeSection>,
    /// Who may be told by webhook, and under which key.
    pub webhooks: WebhookSection,
    /// Who may watch prices.
    pub feed: FeedSection,
}

/// Reads a file that the command line or the settings name.
pub fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

impl Settings {
    /// Lays the file and the defaults under what was given.
    pub fn resolve(self) -> Result<Resolved, Failure> {
        let file = match &self.config {
            None => SettingsFile::default(),
            Some(path) => {
                let usage = |error| Failure::Usage(format!("{}: {error}", path.display()));
                toml::from_str(&read(path)?).map_err(usage)?
            }
        };
        let default = |text: &str| text.parse().map_err(|error| Failure::Usage(format!("{text}: {error}")));
        let named = self.data.or(file.data);
        let data_was_named = named.is_some();
        let data = match named {
            Some(data) => data,
            None => directories::ProjectDirs::from("", "", "hourglass")
                .map(|dirs| dirs.data_dir().to_owned())
                .ok_or_else(|| Failure::Usage("no home directory: name one with --data DIR".to_owned()))?,
        };
        file.cell.check()?;
        Ok(Resolved {
            postgres: file.postgres.map(PostgresSection::options).transpose()?,
            nats: file.nats,
            cell: file.cell,
            compute: file.compute,
            webhooks: file.webhooks,
            feed: file.feed,
            oidc: file.oidc.map(OidcSection::open).transpose()?,
            data,
            data_was_named,
            http: file.http.map_or_else(|| default(HTTP_DEFAULT), Ok)?,
            grpc: file.grpc.map_or_else(|| default(GRPC_DEFAULT), Ok)?,
            region: file.region.unwrap_or_else(|| REGION_DEFAULT.to_owned()),
            operator_token_file: file.operator_token_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourglass_ledger::core::Policy;

    const EXAMPLE: &str = include_str!("../../docs/examples/hourglass.toml");

    #[test]
    fn the_example_is_understood_and_tells_the_defaults() {
        let example: SettingsFile = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(example.region.as_deref(), Some("eu-north1"));
        // What is commented out is understood too, and changes nothing where it is a default.
        let setting = |line: &str| {
            if let "# [oidc]" | "# [compute]" | "# [webhooks]" | "# [feed]" = line {
                return line.strip_prefix("# ").map(str::to_owned);
            }
            let (name, value) = line.strip_prefix("# ")?.split_once(" = ")?;
            (name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !value.is_empty())
                .then(|| line.trim_start_matches("# ").to_owned())
        };
        let all: String =
            EXAMPLE.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
        let all: SettingsFile = toml::from_str(&all).unwrap();
        assert_eq!(all.feed.public, FeedSection::default().public);
        let (cell, default) = (all.cell, CellSection::default());
        assert_eq!(cell.policy(), Policy::default());
        assert_eq!((cell.lease, cell.tick), (default.lease, default.tick));
        assert_eq!(cell.market_tick, default.market_tick);
        assert_eq!(cell.finalise_invoices, default.finalise_invoices);
        cell.check().unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let check = |text: &str, says: &str| {
            let read = toml::from_str::<SettingsFile>(text).map_err(|error| error.to_string());
            let error =
                read.and_then(|file| file.cell.check().map_err(|error| error.to_string())).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        };
        check("[cell]\nlease = \"10ms\"", "between 1s and 10m");
        check("[cell]\ntick = \"0s\"", "at least 1s");
        check("[cell]\nmarket_tick = \"0s\"", "cell.market_tick must be at least 1s");
        check("[cell]\nlease = 10", "string");
        check("[cell]\nleese = \"10s\"", "unknown field");
        check("[postgres]\npassword = \"x\"", "unknown field");
        let nats = "[nats]\ncredentials_file = \"/x\"\nuser = \"cell\"";
        let nats = toml::from_str::<SettingsFile>(nats).unwrap().nats.unwrap();
        let refused = nats.options("test").unwrap_err().to_string();
        assert!(refused.contains("give one of"), "{refused}");
    }
}
