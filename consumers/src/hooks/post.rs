//! One attempt: a POST to where a customer says, and what came of it. Blocks.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;

use super::guard::{Guard, Guarded, Refusal};
use super::schedule::retry_after_ms;
use super::sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};

/// How long an attempt may take, from the look-up of the name to the end of the answer.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of an answer's head.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 16 << 10;
/// Most bytes of an answer's body that are read before the connection is dropped. Nothing is done with them.
pub const RESPONSE_BYTES_MAX: u64 = 4 << 10;

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) url: String,
    pub(super) id: String,
    pub(super) sent_at_unix_ms: i64,
    pub(super) signature: String,
    pub(super) body: Arc<str>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken.
    Delivered { status: u16 },
    /// The endpoint is gone for good.
    Gone,
    /// It was not taken, and may be later.
    Failed { status: Option<u16>, what: String, retry_after_ms: Option<i64> },
}

/// What an attempt needs beside the letter.
#[derive(Debug, Clone, Default)]
pub(super) struct Post {
    pub(super) guard: Guard,
    /// Authorities to trust, instead of the public ones, for hosts that the operator named.
    pub(super) roots: Option<RootCerts>,
}

/// Reads authorities from PEM.
pub(super) fn roots_of(pem: &[u8]) -> Result<RootCerts, String> {
    let certificates: Result<Vec<Certificate<'static>>, ureq::Error> = parse_pem(pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(RootCerts::new_with_certs(&certificates)),
        Ok(_) => Err("it has no certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Post {
    /// Sends a letter and waits for what is answered.
    pub(super) fn send(&self, letter: &Letter) -> Outcome {
        let failed = |what: String| Outcome::Failed { status: None, what, retry_after_ms: None };
        let target = match self.guard.check(&letter.url) {
            Ok(target) => target,
            Err(refusal) => return failed(refusal.to_string()),
        };
        let mut tls = TlsConfig::builder();
        if let Some(roots) = self.roots.as_ref().filter(|_| target.is_named) {
            tls = tls.root_certs(roots.clone());
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ATTEMPT_TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            // A proxy would resolve the name by itself.
            .proxy(None)
            .max_idle_connections(0)
            .max_response_header_size(RESPONSE_HEAD_BYTES_MAX)
            .user_agent(concat!("hourglass/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Guarded::of(&target));
        let request = agent
            .post(target.uri)
            .header(CONTENT_TYPE, "application/json")
            .header(ID_HEADER, letter.id.as_str())
            .header(TIMESTAMP_HEADER, letter.sent_at_unix_ms.div_euclid(1_000).to_string())
            .header(SIGNATURE_HEADER, letter.signature.as_str());
        let mut answer = match request.send(letter.body.as_bytes()) {
            Ok(answer) => answer,
            Err(error) => return failed(in_words(&error)),
        };
        // The status says all. The rest is read so that a polite server sees its answer taken.
        let _read = answer.body_mut().as_reader().take(RESPONSE_BYTES_MAX).read_to_end(&mut Vec::new());
        let status = answer.status();
        if status.is_success() {
            return Outcome::Delivered { status: status.as_u16() };
        }
        if status == ureq::http::StatusCode::GONE {
            return Outcome::Gone;
        }
        let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let what = if status.is_redirection() {
            format!("it answered {}: redirects are not followed", status.as_u16())
        } else {
            format!("it answered {}", status.as_u16())
        };
        let retry_after_ms = asked.and_then(|value| retry_after_ms(value, letter.sent_at_unix_ms));
        Outcome::Failed { status: Some(status.as_u16()), what, retry_after_ms }
    }
}

/// What a customer may know of why nothing came through. An error of the system is named by its kind: its
/// text could tell of our own network.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Other(other) => match other.downcast_ref::<Refusal>() {
            // That the name resolves to a private address is said; to which is not.
            Some(_) => "the name of the host resolves to an address that is not public".to_owned(),
            None => "the request failed".to_owned(),
        },
        ureq::Error::Timeout(_) => format!("it did not answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
        ureq::Error::HostNotFound => "the name of the host cannot be resolved".to_owned(),
        ureq::Error::Io(error) => format!("the connection failed: {}", error.kind()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "its certificate or TLS cannot be used".to_owned(),
        ureq::Error::LargeResponseHeader(..) => "the head of its answer is too long".to_owned(),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => "it does not speak HTTP".to_owned(),
        _ => "the request failed".to_owned(),
    }
}
