//! A look at NATS from outside, for whoever checks a set-up.

use std::time::Duration;

use hourglass_proto::subjects::Subjects;

use super::{NatsOptions, StreamError, chain, connect};

/// What a stream holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamLook {
    /// Its name.
    pub name: String,
    /// Messages and bytes in it; `None` where it is not there yet.
    pub holds: Option<(u64, u64)>,
}

/// Connects and reads how the cell's streams are, within `time`. An error says what was in the way.
pub async fn look(
    options: &NatsOptions,
    subjects: &Subjects,
    partition: u32,
    time: Duration,
) -> Result<Vec<StreamLook>, String> {
    let nats = connect(options).await.map_err(|error| error.to_string())?;
    let looked = tokio::time::timeout(time, async {
        let mut connections = nats.connections();
        let _connected = connections.wait_for(|count| *count > 0).await;
        let mut streams = Vec::new();
        for name in [subjects.usage_stream(partition), subjects.feed_stream()] {
            let holds = match nats.jetstream().get_stream(&name).await {
                Ok(stream) => {
                    let state = &stream.cached_info().state;
                    Some((state.messages, state.bytes))
                }
                Err(error) if super::streams::is_missing(&error) => None,
                Err(error) => {
                    return Err(StreamError::Unreachable { stream: name, what: chain(&error) }.to_string());
                }
            };
            streams.push(StreamLook { name, holds });
        }
        Ok(streams)
    });
    looked.await.unwrap_or_else(|_| Err("no server answers in time, or none lets this user in".to_owned()))
}
