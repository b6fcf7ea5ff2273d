//! One change about quota: on the data directory, or by asking a running cell.

use hourglass_consumers::billing::quotas::{HoldDone, RequestDone};
use hourglass_ledger::cell::Submission;
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::{Command, State};
use hourglass_units::TenantId;
use serde_json::{Value, json};

use crate::client::Server;
use crate::commands::body;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress};
use crate::wire;

/// How the API takes it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    Post,
    Put,
    Delete,
}

/// What to do, as the core takes it and as the API does.
pub(super) struct Act {
    pub(super) command: QuotaCommand,
    pub(super) method: Method,
    /// Where the API takes it.
    pub(super) path: String,
    /// What the API takes.
    pub(super) body: Value,
    /// Whose it is, where it is a tenant's.
    pub(super) tenant: Option<TenantId>,
    /// Where to look at what was made or changed, where the core does not number it.
    pub(super) resource: String,
}

impl Act {
    /// Does it and says so.
    pub(super) fn run(
        self,
        server: &Server,
        settings: &Resolved,
        format: Format,
        says: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        self.run_on(server, settings, format, |_| Ok(()), says)
    }

    /// The same, where on the data directory something must be so first that the API's path says.
    pub(super) fn run_on(
        self,
        server: &Server,
        settings: &Resolved,
        format: Format,
        guard: impl FnOnce(&State) -> Result<(), Failure> + Send + 'static,
        says: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        let done = self.submit(server, settings, guard)?;
        let position = done.get("position").map(ToString::to_string).unwrap_or_default();
        answer(format, &done, |done| format!("{} (position {position})", says(done)))
    }

    fn submit(
        self,
        server: &Server,
        settings: &Resolved,
        guard: impl FnOnce(&State) -> Result<(), Failure> + Send + 'static,
    ) -> Result<Value, Failure> {
        let Self { command, method, path, body, tenant, resource } = self;
        if let Some(client) = server.client()? {
            return match method {
                Method::Post => client.post(&path, &body),
                Method::Put => client.put(&path, &body),
                Method::Delete => client.delete(&path),
            };
        }
        let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
        let command = Command::from(command);
        let outcome = match cell.handle().read_blocking(guard) {
            Ok(Ok(())) => cell
                .handle()
                .submit_blocking(Submission { command, key: None, at: None })
                .map_err(Failure::from),
            Ok(Err(failure)) => Err(failure),
            Err(error) => Err(error.into()),
        };
        cell.close();
        let outcome = outcome?;
        let said = outcome.answer();
        let tenant = tenant.as_ref();
        if let Some(hold) = tenant.and_then(|tenant| HoldDone::of(said, tenant)) {
            return self::body(&hold);
        }
        if let Some(request) = tenant.and_then(|tenant| RequestDone::of(said, tenant)) {
            return self::body(&request);
        }
        Ok(json!({"position": said.position.number(), "resource": resource}))
    }
}

/// A text of an answer.
pub(super) fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer.get(name).and_then(Value::as_str).unwrap_or("?")
}

/// A number of an answer.
pub(super) fn number(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or_default()
}
