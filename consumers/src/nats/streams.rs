//! The streams of a cell: made where they are missing, mended where they differ.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use hourglass_ledger::core::usage::BATCH_BYTES_MAX;
use hourglass_proto::subjects::Subjects;

/// Bytes that the usage of a partition may wait in, where the options do not say.
pub const USAGE_BYTES_MAX: u64 = 8 << 30;
/// How long a batch may wait for its cell: longer than agents keep theirs.
pub const USAGE_AGE_MAX: Duration = Duration::from_secs(14 * 86_400);
/// Longest usage message: what the cell can also keep in quarantine.
pub const USAGE_MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Bytes that the feed may have, where the options do not say.
pub const FEED_BYTES_MAX: u64 = 1 << 30;
/// How long the feed keeps a message.
pub const FEED_AGE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest message of the feed.
pub const FEED_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How long the server knows a message id again. It only spares work: nothing relies on it.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Copies of a stream where the options do not say: 3 want three servers.
const REPLICAS: usize = 1;

/// What an operator may choose of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLimits {
    /// Bytes on disk; then the stream is full and refuses. The server reserves them.
    pub bytes_max: u64,
    /// How long a message is kept.
    pub age_max: Duration,
    /// Copies: 1, or 3 where there are three servers.
    pub replicas: usize,
}

impl StreamLimits {
    /// Of a usage stream.
    pub const USAGE: Self = Self { bytes_max: USAGE_BYTES_MAX, age_max: USAGE_AGE_MAX, replicas: REPLICAS };
    /// Of the feed.
    pub const FEED: Self = Self { bytes_max: FEED_BYTES_MAX, age_max: FEED_AGE_MAX, replicas: REPLICAS };
}

/// Why a stream is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// The server does not answer.
    #[error("NATS does not answer about stream {stream}: {what}")]
    Unreachable {
        /// Which stream.
        stream: String,
        /// What the client says.
        what: String,
    },
    /// The server refuses to make it.
    #[error(
        "NATS refuses stream {stream}: {what}; look at its limits (bytes_max is reserved on disk, replicas want as many servers) and at this user's permissions on $JS.API.>"
    )]
    Refused {
        /// Which stream.
        stream: String,
        /// What the server says.
        what: String,
    },
}

/// What was found of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ensured {
    /// As it should be.
    Found,
    /// It was not there and was made.
    Made,
    /// It differed and was changed.
    Changed(Vec<&'static str>),
    /// It differs and the server refuses the change: it is used as it is.
    Differs(Vec<&'static str>),
}

/// The usage of a partition. A work queue: what is acknowledged is committed, and gives its room
/// free. A full one refuses, so that agents hold back.
pub fn usage_stream(subjects: &Subjects, partition: u32, limits: StreamLimits) -> Config {
    Config {
        name: subjects.usage_stream(partition),
        description: Some("Usage from agents, until it is in the ledger".to_owned()),
        subjects: vec![subjects.usage_of_all(partition)],
        retention: RetentionPolicy::WorkQueue,
        max_message_size: i32::try_from(USAGE_MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
        ..limited(limits)
    }
}

/// What the cell tells others, for whoever reads along. A full one refuses: the publisher waits until
/// old messages end, and drops none that somebody may still want.
pub fn feed_stream(subjects: &Subjects, limits: StreamLimits) -> Config {
    Config {
        name: subjects.feed_stream(),
        description: Some("What the cell tells others, from its log".to_owned()),
        subjects: subjects.feed(),
        retention: RetentionPolicy::Limits,
        max_message_size: i32::try_from(FEED_MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
        ..limited(limits)
    }
}

fn limited(limits: StreamLimits) -> Config {
    Config {
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: i64::try_from(limits.bytes_max).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_age: limits.age_max,
        num_replicas: limits.replicas,
        // The server wants it no longer than messages are kept.
        duplicate_window: DUPLICATE_WINDOW.min(limits.age_max),
        ..Config::default()
    }
}

/// Whether the server says that it has no such stream. `false` where it does not answer.
pub(crate) async fn has_no_stream(jetstream: &Context, name: &str) -> bool {
    jetstream.get_stream(name).await.is_err_and(|error| is_missing(&error))
}

/// Makes the stream where it is missing and changes it where it differs.
pub async fn ensure_stream(jetstream: &Context, wanted: &Config) -> Result<Ensured, StreamError> {
    let name = wanted.name.as_str();
    let unreachable = |what: String| StreamError::Unreachable { stream: name.to_owned(), what };
    let found = match jetstream.get_stream(name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => {
            jetstream.create_stream(wanted.clone()).await.map_err(|error| refused(name, &error))?;
            return Ok(Ensured::Made);
        }
        Err(error) => return Err(unreachable(chain(&error))),
    };
    let differs = differences(&found, wanted);
    if differs.is_empty() {
        return Ok(Ensured::Found);
    }
    match jetstream.update_stream(&changed(found, wanted)).await {
        Ok(_) => Ok(Ensured::Changed(differs)),
        Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
            tracing::error!(
                stream = name, fields = %differs.join(", "), error = %chain(&error),
                "the stream differs from the settings and cannot be changed: it is used as it is; \
                 edit it with the nats tools, or delete it once it is empty"
            );
            Ok(Ensured::Differs(differs))
        }
        Err(error) => Err(unreachable(chain(&error))),
    }
}

/// Whether the server knows for sure that there is no such stream.
pub(super) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn refused(name: &str, error: &async_nats::jetstream::context::CreateStreamError) -> StreamError {
    let (stream, what) = (name.to_owned(), chain(error));
    match error.kind() {
        CreateStreamErrorKind::JetStream(_) => StreamError::Refused { stream, what },
        _ => StreamError::Unreachable { stream, what },
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What of a stream is not as it should be.
fn differences(found: &Config, wanted: &Config) -> Vec<&'static str> {
    [
        ("subjects", found.subjects == wanted.subjects),
        ("retention", found.retention == wanted.retention),
        ("storage", found.storage == wanted.storage),
        ("discard", found.discard == wanted.discard),
        ("max_bytes", found.max_bytes == wanted.max_bytes),
        ("max_age", found.max_age == wanted.max_age),
        ("max_msg_size", found.max_message_size == wanted.max_message_size),
        ("duplicate_window", found.duplicate_window == wanted.duplicate_window),
        ("num_replicas", found.num_replicas == wanted.num_replicas),
    ]
    .into_iter()
    .filter_map(|(name, same)| (!same).then_some(name))
    .collect()
}

/// As found, with what is wanted of it: what an operator set beside that stays.
fn changed(found: Config, wanted: &Config) -> Config {
    let wanted = wanted.clone();
    Config {
        subjects: wanted.subjects,
        retention: wanted.retention,
        storage: wanted.storage,
        discard: wanted.discard,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        max_message_size: wanted.max_message_size,
        duplicate_window: wanted.duplicate_window,
        num_replicas: wanted.num_replicas,
        ..found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::{NatsOptions, connect};
    use hourglass_test_servers::Nats;

    const LIMITS: StreamLimits =
        StreamLimits { bytes_max: 64 << 20, age_max: Duration::from_secs(3_600), replicas: 1 };

    #[tokio::test]
    async fn streams_are_made_mended_and_made_again() {
        let url = Nats::shared().url();
        let nats = connect(&NatsOptions { servers: vec![url], ..NatsOptions::default() }).await.unwrap();
        let jetstream = nats.jetstream();
        let subjects = Subjects::of_region("streams");
        for wanted in [usage_stream(&subjects, 0, LIMITS), feed_stream(&subjects, LIMITS)] {
            assert_eq!(ensure_stream(jetstream, &wanted).await, Ok(Ensured::Made));
            assert_eq!(ensure_stream(jetstream, &wanted).await, Ok(Ensured::Found));
            let larger = Config { max_bytes: wanted.max_bytes * 2, ..wanted.clone() };
            assert_eq!(ensure_stream(jetstream, &larger).await, Ok(Ensured::Changed(vec!["max_bytes"])));
            jetstream.delete_stream(&wanted.name).await.unwrap();
            assert_eq!(ensure_stream(jetstream, &wanted).await, Ok(Ensured::Made));

            // The server changes neither retention nor storage: that is said, and the stream is used.
            let other = Config { retention: RetentionPolicy::Interest, ..wanted.clone() };
            assert_eq!(ensure_stream(jetstream, &other).await, Ok(Ensured::Differs(vec!["retention"])));
        }
        let huge = StreamLimits { bytes_max: 1 << 60, ..LIMITS };
        let refused = ensure_stream(jetstream, &usage_stream(&subjects, 1, huge)).await.unwrap_err();
        assert!(matches!(refused, StreamError::Refused { .. }), "{refused}");
    }
}
