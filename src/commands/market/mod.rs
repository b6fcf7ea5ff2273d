//! `hourglass pool`, `hourglass bid` and `hourglass market`: GPUs that are sold as spot.

pub mod bids;
pub mod clears;
pub mod pools;

use hourglass_consumers::billing::market::{BidDone, ClearDone};
use hourglass_ledger::cell::Submission;
use hourglass_ledger::core::market::MarketCommand;
use hourglass_ledger::core::{Command, State};
use hourglass_units::{BidId, TenantId};
use serde_json::{Value, json};

use super::body;
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress};
use crate::wire;

/// Which ledger, and how to answer.
#[derive(Clone, Copy)]
struct Where<'a> {
    server: &'a Server,
    settings: &'a Resolved,
    format: Format,
}

/// How the API takes a change.
enum Method {
    Post,
    Put,
    Delete,
}

/// A change, as the API takes it.
struct Act {
    method: Method,
    path: String,
    body: Value,
    /// Whose bid, where it is one.
    of: Option<(TenantId, BidId)>,
    /// Where to look at what was changed.
    resource: String,
}

impl Act {
    /// Does it and says so. On the data directory it is the command that `make` gives.
    fn run(
        self,
        at: Where<'_>,
        make: impl FnOnce(&State) -> Result<MarketCommand, Failure> + Send + 'static,
        says: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        let done = match at.server.client()? {
            Some(client) => match self.method {
                Method::Post => client.post(&self.path, &self.body)?,
                Method::Put => client.put(&self.path, &self.body)?,
                Method::Delete => client.delete(&self.path)?,
            },
            None => self.submit(at, make)?,
        };
        let position = number(&done, "position");
        answer(at.format, &done, |done| format!("{} (position {position})", says(done)))
    }

    fn submit(
        self,
        at: Where<'_>,
        make: impl FnOnce(&State) -> Result<MarketCommand, Failure> + Send + 'static,
    ) -> Result<Value, Failure> {
        let cell = wire::writing_cell(at.settings, log_progress("recovering the ledger"))?;
        let submit = |command: MarketCommand| {
            let command = Command::from(command);
            let outcome = cell.handle().submit_blocking(Submission { command, key: None, at: None });
            outcome.map_err(Failure::from)
        };
        let outcome = match cell.handle().read_blocking(make) {
            Ok(made) => made.and_then(submit),
            Err(error) => Err(error.into()),
        };
        cell.close();
        let outcome = outcome?;
        let said = outcome.answer();
        let of_bid = self.of.as_ref().and_then(|(tenant, bid)| BidDone::of(said, tenant, bid));
        match (of_bid, ClearDone::of(said)) {
            (Some(done), _) => body(&done),
            (None, Some(done)) => body(&done),
            (None, None) => Ok(json!({"position": said.position.number(), "resource": self.resource})),
        }
    }
}

/// A number of an answer.
fn number(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or_default()
}
