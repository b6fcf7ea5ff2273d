//! Settings: flag, then environment, then file, then default.

pub mod production;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::failure::Failure;
use production::{CellSection, NatsSection, PostgresSection};

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
}

/// Reads a file that the settings name.
fn read(path: &Path) -> Result<String, Failure> {
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
            data,
            data_was_named,
            http: file.http.map_or_else(|| default(HTTP_DEFAULT), Ok)?,
            grpc: file.grpc.map_or_else(|| default(GRPC_DEFAULT), Ok)?,
            region: file.region.unwrap_or_else(|| REGION_DEFAULT.to_owned()),
            operator_token_file: file.operator_token_file,
        })
    }
}
