//! One call, tried as often as that makes sense.
//!
//! A change is sent again with the same key, so that it happens once. When it is over, what is told is what
//! is *known*: a refusal that comes after an attempt of unknown outcome does not say that nothing happened.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{ConnectError, Request, Response, Status};

use crate::error::{ComputeError, MESSAGE_LENGTH_MAX};
use crate::ids::CallKey;
use crate::wire::error::{Again, Said, read_call};

use super::Client;

/// The header that names a change.
const IDEMPOTENCY_KEY: &str = "x-idempotency-key";

/// How long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For one attempt.
    pub attempt: Duration,
    /// For all attempts of a call together.
    pub total: Duration,
    /// Most attempts.
    pub attempts_max: u32,
    /// The first pause is drawn between nothing and this; the next ones up to twice as much each.
    pub pause_first: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
}

impl Default for Patience {
    /// Ten seconds for an attempt, a minute for all of at most eight.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(10),
            total: Duration::from_secs(60),
            attempts_max: 8,
            pause_first: Duration::from_millis(200),
            pause_max: Duration::from_secs(10),
        }
    }
}

impl Client {
    /// Asks, and asks again.
    pub(super) async fn ask<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &self,
        key: Option<&CallKey>,
        message: Q,
        send: impl Fn(Request<Q>) -> F,
    ) -> Result<A, ComputeError> {
        let until = Instant::now() + self.patience.total;
        let mut doubt: Option<String> = None;
        let mut renewed = false;
        let mut attempt: u32 = 1;
        loop {
            let time = self.patience.attempt.min(until.saturating_duration_since(Instant::now()));
            let request = self.request(key, message.clone(), time)?;
            let said = match timeout(time, send(request)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => read_status(&status),
                Err(_) => Said::Lost(format!("there was no answer within {time:?}"), Again::Yes),
            };
            tracing::debug!(attempt, ?said, "a call to the compute API got no good answer");
            let (error, again) = match said {
                Said::Error(ComputeError::Unauthenticated { .. }, _) if !renewed && self.tokens.renew() => {
                    renewed = true;
                    continue;
                }
                Said::Error(error, again) => (error, again),
                Said::Lost(message, again) if key.is_some() => {
                    doubt = Some(message.clone());
                    (ComputeError::Unknown { message }, again)
                }
                // Whoever only reads changes nothing.
                Said::Lost(message, again) => (ComputeError::Unavailable { message }, again),
            };
            let pause = self.pause(attempt);
            let over = attempt >= self.patience.attempts_max || Instant::now() + pause >= until;
            if again == Again::No || over {
                return Err(known(error, doubt));
            }
            sleep(pause).await;
            attempt = attempt.saturating_add(1);
        }
    }

    fn request<Q>(
        &self,
        key: Option<&CallKey>,
        message: Q,
        time: Duration,
    ) -> Result<Request<Q>, ComputeError> {
        let mut request = Request::new(message);
        request.set_timeout(time);
        let headers = request.metadata_mut();
        let header = self.tokens.header();
        if let Some(token) = header.map_err(|message| ComputeError::Unauthenticated { message })? {
            headers.insert("authorization", token);
        }
        if let Some(key) = key {
            let value = key.as_str().parse();
            let value = value.map_err(|_| ComputeError::bad_request(IDEMPOTENCY_KEY, "it is no header"))?;
            headers.insert(IDEMPOTENCY_KEY, value);
        }
        Ok(request)
    }

    /// Anything between nothing and a bound that doubles: so that those who failed together do not come again
    /// together.
    fn pause(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let most = self.patience.pause_first.saturating_mul(doubled).min(self.patience.pause_max);
        Duration::from_micros(self.draw(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// What the caller may conclude. `doubt` is why the outcome of an attempt before is unknown.
fn known(error: ComputeError, doubt: Option<String>) -> ComputeError {
    match (error, doubt) {
        (error @ ComputeError::Unknown { .. }, _) | (error, None) => error,
        (error, Some(doubt)) => {
            let message = format!("{doubt}; then {error}");
            ComputeError::Unknown { message: message.chars().take(MESSAGE_LENGTH_MAX).collect() }
        }
    }
}

/// Reads a status, whether the cloud or our side of the connection wrote it.
fn read_status(status: &Status) -> Said {
    let mut source = status.source();
    let message = || status.message().chars().take(MESSAGE_LENGTH_MAX).collect::<String>();
    if source.is_none() {
        return read_call(status.code(), status.message(), status.details());
    }
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            // Nothing was sent.
            return Said::Error(ComputeError::Unavailable { message: message() }, Again::Yes);
        }
        source = error.source();
    }
    Said::Lost(message(), Again::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_a_doubt_is_a_doubt() {
        let refused = || ComputeError::NotFound { what: "a".into() };
        assert_eq!(known(refused(), None), refused());
        let ComputeError::Unknown { message } = known(refused(), Some("it was cut".into())) else { panic!() };
        assert!(message.starts_with("it was cut; then there is no a"), "{message}");
    }

    #[test]
    fn what_our_own_side_says_is_told_apart_from_what_the_cloud_says() {
        let of_cloud = Status::unknown("no idea");
        assert_eq!(read_status(&of_cloud), Said::Lost("no idea".into(), Again::No));
        let never_sent = Status::from_error(Box::new(ConnectError("refused".into())));
        let Said::Error(ComputeError::Unavailable { .. }, Again::Yes) = read_status(&never_sent) else {
            panic!("{never_sent:?}")
        };
        let lost = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(matches!(read_status(&lost), Said::Lost(_, Again::Yes)), "{lost:?}");
    }
}
