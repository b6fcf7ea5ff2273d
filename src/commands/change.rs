//! One change of the ledger, by the command line: on the data directory, or by asking a running cell.

use hourglass_ledger::cell::Submission;
use hourglass_ledger::core::{Command, Detail, IDEMPOTENCY_KEY_LENGTH_MAX, IdempotencyKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress};
use crate::wire;

/// Whose idempotency keys those of the data directory's own commands are.
const LOCAL_SCOPE: &str = "command line";

/// What every command that writes has beside its own arguments.
pub const AFTER_HELP: &str = "\
Without --server these work on the data directory; those that write do so while no cell runs on it. With it they ask \
that cell, with the credential in HOURGLASS_TOKEN, or the operator's token in HOURGLASS_OPERATOR_TOKEN.";

/// What to do, as the core takes it and as the API does.
pub struct Change {
    /// For the core.
    pub command: Command,
    /// Where the API takes it.
    pub path: String,
    /// What the API takes.
    pub body: Value,
    /// Where to look at what was made or changed; of a numbered document its number is put behind it.
    pub resource: String,
}

/// What was done, as the API answers too.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// Where in the log it stands.
    pub position: u64,
    /// Where to look at it.
    pub resource: String,
}

impl Done {
    /// The number of the document that was made, where one was.
    pub fn number(&self) -> Option<u64> {
        self.resource.rsplit('/').next()?.parse().ok()
    }
}

impl Change {
    /// Does it, once for each idempotency key.
    pub fn submit(self, server: &Server, settings: &Resolved, key: Option<&str>) -> Result<Done, Failure> {
        if let Some(client) = server.client()? {
            let done = client.post_named(&self.path, &self.body, key)?;
            return serde_json::from_value(done).map_err(|error| not_understood(&error));
        }
        let Self { command, resource, .. } = self;
        let key = key.map(|key| IdempotencyKey::new(LOCAL_SCOPE, key));
        let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
        let outcome = cell.handle().submit_blocking(Submission { command, key, at: None });
        cell.close();
        let outcome = outcome?;
        let resource = match outcome.answer().detail {
            Detail::Invoice { number } => format!("{resource}/{number}"),
            _ => resource,
        };
        Ok(Done { position: outcome.answer().position.number(), resource })
    }

    /// Does it and says so.
    pub fn run(
        self,
        server: &Server,
        settings: &Resolved,
        format: Format,
        says: impl FnOnce(&Done) -> String,
    ) -> Result<(), Failure> {
        let done = self.submit(server, settings, None)?;
        answer(format, &done, |done| format!("{} (position {})", says(done), done.position))
    }
}

/// Reads an idempotency key of the command line.
pub fn idempotency_key(text: &str) -> Result<String, String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("give 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} visible ASCII characters"))
    }
}
