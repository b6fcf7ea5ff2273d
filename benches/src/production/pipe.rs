//! The bare pipe: messages from JetStream into rows of PostgreSQL, without a look inside: as they
//! came, or packed by the same compressor as the log's, which trades processor time for disk.

use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use futures_util::StreamExt;
use hourglass_proto::subjects::Subjects;
use prost::bytes::Bytes;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor};
use tokio::sync::mpsc;

/// Messages that are asked for at once, as the cell's consumer does.
const PULL_MESSAGES: usize = 256;
/// Messages that are pulled and not committed yet, as the cell's consumer has them.
const IN_FLIGHT: usize = 1_024;
/// How long a pull waits.
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// What becomes of a message on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pack {
    /// It is stored as it came.
    Nothing,
    /// It is compressed, by whoever pulls it.
    Lz4,
}

/// One session of the server.
pub(crate) async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("an address");
    options.disable_statement_logging().connect().await.expect("a session")
}

/// Moves so many messages, `a_commit` at a time, and answers with the seconds that it took.
pub(crate) async fn run(
    jetstream: &Context,
    subjects: &Subjects,
    url: &str,
    (messages, a_commit, pack): (usize, usize, Pack),
) -> f64 {
    let mut session = connect(url).await;
    // The database is not to pack them again.
    session
        .execute(
            "CREATE TABLE IF NOT EXISTS pipe (id bigint PRIMARY KEY, payload bytea NOT NULL); \
             ALTER TABLE pipe ALTER payload SET STORAGE EXTERNAL; TRUNCATE pipe",
        )
        .await
        .expect("a table");
    let config = Config {
        durable_name: Some("pipe".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: IN_FLIGHT as i64 * 4,
        ..Config::default()
    };
    let stream = subjects.usage_stream(0);
    let consumer = jetstream.create_consumer_on_stream(config, stream).await.expect("a consumer");

    let started = Instant::now();
    // What is pulled waits here, so that the server sends while the database writes.
    let (send, mut pulled) = mpsc::channel(IN_FLIGHT);
    let pulling = tokio::spawn(pull(consumer, send, messages, pack));
    let mut batch: Vec<(Message, Bytes)> = Vec::with_capacity(a_commit);
    let mut id = 0_i64;
    while (id as usize) < messages {
        let wanted = a_commit.min(messages - id as usize);
        while batch.len() < wanted {
            let room = wanted - batch.len();
            pulled.recv_many(&mut batch, room).await;
        }
        let ids: Vec<i64> = (id..id + batch.len() as i64).collect();
        id += batch.len() as i64;
        let payloads: Vec<&[u8]> = batch.iter().map(|(_, payload)| payload.as_ref()).collect();
        // One statement is one transaction.
        sqlx::query("INSERT INTO pipe (id, payload) SELECT * FROM unnest($1::bigint[], $2::bytea[])")
            .bind(ids)
            .bind(payloads)
            .execute(&mut session)
            .await
            .expect("a commit");
        for (message, _) in batch.drain(..) {
            message.ack().await.expect("an acknowledgement that is sent");
        }
    }
    let took = started.elapsed().as_secs_f64();
    pulling.await.expect("a task that ends");
    took
}

async fn pull(
    consumer: Consumer<Config>,
    pulled: mpsc::Sender<(Message, Bytes)>,
    messages: usize,
    pack: Pack,
) {
    let mut left = messages;
    while left > 0 {
        let asked = consumer.batch().max_messages(left.min(PULL_MESSAGES)).expires(PULL_EXPIRES);
        let mut batch = asked.messages().await.expect("a pull");
        while let Some(message) = batch.next().await {
            left -= 1;
            let message = message.expect("a message");
            let payload = match pack {
                Pack::Nothing => message.payload.clone(),
                Pack::Lz4 => lz4_flex::compress_prepend_size(&message.payload).into(),
            };
            pulled.send((message, payload)).await.expect("a pipe that takes it");
        }
    }
}
