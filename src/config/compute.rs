//! `[compute]`: where units of spot bids run. `docs/examples/hourglass.toml` shows each setting.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hourglass_compute::client::{ClientOptions, Patience, TokenSource};
use hourglass_compute::ids::{BlockGroupId, ClusterId, ParentId};
use hourglass_compute::model::Preset;
use hourglass_consumers::compute::DriverOptions;
use hourglass_units::Fabric;
use serde::Deserialize;

use super::production::duration;
use crate::failure::Failure;

/// The token of the compute API, when it is not in a file.
const TOKEN_VARIABLE: &str = "HOURGLASS_COMPUTE_TOKEN";
/// The project that units are made in, unless told otherwise.
const PROJECT_DEFAULT: &str = "hourglass";

/// `[compute]`: the compute API that brings instances up and down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeSection {
    /// Such as `https://compute.example.com:443`.
    pub url: String,
    /// PEM of the authority to trust, instead of the system's.
    root_certificate: Option<PathBuf>,
    /// Where the bearer token is; read again when it changes.
    token_file: Option<PathBuf>,
    /// The project that units are made in, and that is listed.
    project: Option<String>,
    /// The size of a unit, by its GPUs.
    presets: BTreeMap<String, Preset>,
    /// The GPU cluster of a fabric.
    clusters: BTreeMap<String, ClusterId>,
    /// The reservations of a fabric that units run in.
    reservations: BTreeMap<String, Vec<BlockGroupId>>,
    /// Whose reservations and advice at the cloud say what pools have, where their terms leave it to the cloud.
    tenant: Option<String>,
    /// How often the cloud is listed.
    #[serde(deserialize_with = "some_duration")]
    list_every: Option<Duration>,
    /// Whether instances that bear the name of a unit and are none are left alone.
    keep_strays: bool,
}

fn some_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn wrong(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("compute.{what}: {error}"))
}

impl ComputeSection {
    /// The same at another address.
    pub fn at(self, url: String) -> Self {
        Self { url, ..self }
    }

    /// The same, listed so often unless it says otherwise.
    pub fn listed_every(self, every: Duration) -> Self {
        Self { list_every: self.list_every.or(Some(every)), ..self }
    }

    /// The project that units are made in.
    pub fn parent(&self) -> Result<ParentId, Failure> {
        let project = self.project.as_deref().unwrap_or(PROJECT_DEFAULT);
        project.parse().map_err(|error| wrong("project", error))
    }

    /// Where the cloud is.
    pub fn client(&self) -> Result<ClientOptions, Failure> {
        if self.url.is_empty() {
            return Err(wrong("url", "name the address of the compute API"));
        }
        let token = match &self.token_file {
            Some(path) => TokenSource::File(path.clone()),
            None if std::env::var_os(TOKEN_VARIABLE).is_some() => {
                TokenSource::Environment(TOKEN_VARIABLE.to_owned())
            }
            None => TokenSource::None,
        };
        let seed = std::process::id().into();
        let (url, authority) = (self.url.clone(), self.root_certificate.clone());
        Ok(ClientOptions { url, authority, token, patience: Patience::default(), seed })
    }

    /// How units are made there.
    pub fn driver(&self) -> Result<DriverOptions, Failure> {
        let mut options = DriverOptions::new(self.parent()?);
        for (gpus, preset) in &self.presets {
            let gpus = gpus.parse().map_err(|error| wrong("presets", format!("{gpus:?}: {error}")))?;
            options.presets.insert(gpus, preset.clone());
        }
        let fabric = |text: &String| text.parse::<Fabric>().map_err(|error| wrong("clusters", error));
        for (name, cluster) in &self.clusters {
            options.clusters.insert(fabric(name)?, cluster.clone());
        }
        for (name, groups) in &self.reservations {
            options.reservations.insert(fabric(name)?, groups.clone());
        }
        options.list_every = self.list_every.unwrap_or(options.list_every);
        if options.list_every < Duration::from_secs(1) {
            return Err(wrong("list_every", "list at most once a second"));
        }
        options.tenant =
            self.tenant.as_deref().map(str::parse).transpose().map_err(|error| wrong("tenant", error))?;
        options.stop_strays = !self.keep_strays;
        Ok(options)
    }
}
