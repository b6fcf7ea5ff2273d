//! `[webhooks]`: the key that seals secrets, and what may be reached beside public addresses.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hourglass_consumers::hooks::{Allowed, Guard, Hooks, WebhookKey};
use serde::{Deserialize, Deserializer};

use super::production::secret;
use crate::failure::Failure;

/// The key, when it is not in a file: 32 bytes in base64.
const KEY_VARIABLE: &str = "HOURGLASS_WEBHOOK_KEY";
/// Hosts with ports that may be reached whatever their address, separated by commas.
const ALLOW_VARIABLE: &str = "HOURGLASS_WEBHOOK_ALLOW";
/// The file of the key in a data directory.
const KEY_FILE: &str = "webhook.key";

/// `[webhooks]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSection {
    /// 32 bytes in base64; the same on every candidate.
    key_file: Option<PathBuf>,
    /// Such as `hooks.internal:9443`: for tests, and for receivers of the operator's own network.
    #[serde(deserialize_with = "allowed")]
    allow: Vec<Allowed>,
    /// PEM of the authorities to trust for them, instead of the public ones.
    root_certificate: Option<PathBuf>,
}

fn allowed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Allowed>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

impl WebhookSection {
    /// What webhooks need. Without a key it is that of the data directory, drawn where there is none yet; and
    /// nothing where there is no data directory.
    pub fn open(&self, data: Option<&Path>) -> Result<Option<Hooks>, Failure> {
        let usage = |error: String| Failure::Usage(format!("webhooks: {error}"));
        let text = match secret(self.key_file.as_deref(), KEY_VARIABLE)? {
            Some(text) => text,
            None => match data {
                Some(data) => key_of(data)?,
                None => return Ok(None),
            },
        };
        let key = WebhookKey::parse(&text).map_err(|error| usage(error.to_string()))?;
        let named = std::env::var(ALLOW_VARIABLE).unwrap_or_default();
        let named = named.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::parse);
        let named = named.collect::<Result<Vec<Allowed>, String>>().map_err(usage)?;
        let hooks = Hooks::new(key, Guard::new(self.allow.iter().cloned().chain(named)));
        let hooks = match &self.root_certificate {
            None => hooks,
            Some(path) => {
                let pem = super::read(path)?;
                let wrong = |error| usage(format!("{}: {error}", path.display()));
                hooks.trusting(pem.as_bytes()).map_err(wrong)?
            }
        };
        Ok(Some(hooks))
    }
}

/// The key of a data directory. Only its owner can read it.
fn key_of(data: &Path) -> Result<String, Failure> {
    let path = data.join(KEY_FILE);
    let failed = |error: std::io::Error| Failure::Unavailable(format!("{}: {error}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let text = WebhookKey::draw().map_err(|error| Failure::Unavailable(error.to_string()))?;
    std::fs::create_dir_all(data).map_err(failed)?;
    // Whole or not at all: half a key would be none for ever.
    let drawn = data.join(format!("{KEY_FILE}.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&drawn)
        .map_err(failed)?;
    file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let kept = std::fs::hard_link(&drawn, &path);
    std::fs::remove_file(&drawn).map_err(failed)?;
    match kept {
        Ok(()) => Ok(text),
        // Another process drew one at the same time, and was first.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::read_to_string(&path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
