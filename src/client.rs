//! A running cell, asked over HTTP by the command line.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use hourglass_consumers::api::IDEMPOTENCY_KEY;
use hourglass_consumers::auth::is_loopback_url;
use serde_json::Value;

use crate::failure::Failure;

/// The caller's credential: an API key or a JWT.
const CREDENTIAL_VARIABLE: &str = "HOURGLASS_TOKEN";
/// The operator's token, where there is no other credential.
const OPERATOR_VARIABLE: &str = "HOURGLASS_OPERATOR_TOKEN";
/// Longest that an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A stream of events is read anew after so long.
const STREAM_TIME_MAX: Duration = Duration::from_secs(900);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The flag of commands that write: they work on the data directory, or ask a running cell.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// The running cell to ask, such as <https://cell.example>, with the credential in HOURGLASS_TOKEN or
    /// the operator's token in HOURGLASS_OPERATOR_TOKEN [default: write to the data directory]
    #[arg(long, global = true, value_name = "URL", env = "HOURGLASS_SERVER")]
    server: Option<String>,
}

impl Server {
    /// A client of the cell that was named, if one was.
    pub fn client(&self) -> Result<Option<Client>, Failure> {
        self.server.as_deref().map(Client::new).transpose()
    }
}

/// A cell that runs elsewhere.
pub struct Client {
    agent: ureq::Agent,
    server: String,
    /// `Bearer …`. Never shown.
    authorization: Option<String>,
}

impl Client {
    /// A client with the credential of the environment, if there is one.
    pub fn new(server: &str) -> Result<Self, Failure> {
        let variable = |name| std::env::var(name).ok().map(|text: String| text.trim().to_owned());
        let given = |name| variable(name).filter(|text| !text.is_empty());
        let credential = given(CREDENTIAL_VARIABLE).or_else(|| given(OPERATOR_VARIABLE));
        Self::with_credential(server, credential.as_deref())
    }

    fn with_credential(server: &str, credential: Option<&str>) -> Result<Self, Failure> {
        let server = server.trim_end_matches('/').to_owned();
        let local = is_loopback_url(&server);
        if !local && !server.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "{server}: name a server as https://…, or as http://… on this machine: \
                 elsewhere a credential in the clear is anybody's"
            )));
        }
        let mut config = ureq::Agent::config_builder();
        if local {
            config = config.proxy(None);
        }
        let agent = config
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self { agent, server, authorization: credential.map(|it| format!("Bearer {it}")) })
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    /// Reads bytes as they are.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.bytes(request.call())
    }

    /// Reads a stream of events from behind an id. It is cut after a while, and then goes on behind the last one:
    /// so a server that went away without a word is noticed.
    pub fn stream(&self, path: &str, last_event_id: Option<&str>) -> Result<impl BufRead + use<>, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let request = request.config().timeout_global(Some(STREAM_TIME_MAX)).build();
        let answer = request.call();
        match answer {
            Ok(answer) if answer.status().is_success() => {
                Ok(BufReader::new(answer.into_body().into_reader()))
            }
            answer => Err(match self.bytes(answer) {
                Err(failure) => failure,
                Ok(_) => Failure::Unavailable(format!("{} answers with no stream", self.server)),
            }),
        }
    }

    /// Changes something.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.post_named(path, body, None)
    }

    /// Puts something in the place of what is there.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.agent.put(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send_json(body))
    }

    /// Takes something away.
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        let mut request = self.agent.delete(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    /// Changes something, once for each idempotency key.
    pub fn post_named(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.server));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        self.answer(request.send_json(body))
    }

    /// Reads all pages of a list; the path can have filters.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut rows = Vec::new();
        let mut token = String::new();
        loop {
            let mut page = self.get(&format!("{path}{separator}page_size=1000{token}"))?;
            if let Some(Value::Array(more)) = page.get_mut("rows").map(Value::take) {
                rows.extend(more);
            }
            match page.get("next_page_token").and_then(Value::as_str) {
                Some(next) => token = format!("&page_token={next}"),
                None => return Ok(rows),
            }
        }
    }

    fn answer(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&self.bytes(answer)?).unwrap_or_default())
    }

    fn bytes(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Vec<u8>, Failure> {
        let unavailable = |error: ureq::Error| Failure::Unavailable(format!("{}: {error}", self.server));
        let mut answer = answer.map_err(unavailable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(unavailable)?;
        if status.is_success() {
            return Ok(body);
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = body.get("detail").and_then(Value::as_str).unwrap_or("it does not say why");
        let says = format!("{} answers {}: {detail}", self.server, status.as_u16());
        Err(if status.is_client_error() { Failure::Rejected(says) } else { Failure::Unavailable(says) })
    }
}

/// An answer of another release, that this one cannot read.
pub fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::Unavailable(format!("the cell's answer is not understood, is it of another release? {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_leaves_this_machine_in_the_clear() {
        for server in ["http://cell.example", "http://10.0.0.1:8080", "cell.example", "ftp://cell.example"] {
            assert!(Client::with_credential(server, None).is_err(), "{server}");
        }
        for server in ["https://cell.example", "http://localhost:8080/", "http://[::1]:8080"] {
            assert!(Client::with_credential(server, Some("secret")).is_ok(), "{server}");
        }
    }
}
