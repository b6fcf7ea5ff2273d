//! What the test itself wants of nats-server, said by hand: requests to its JetStream, and messages that
//! no agent would send.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hourglass_proto::subjects::Subjects;
use serde_json::{Value, json};

use super::schedule::REGION;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Asks once. `None` where no answer came.
fn request(port: u16, subject: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    let inbox = "_INBOX.chaos";
    let mut text = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec();
    text.extend_from_slice(
        format!("SUB {inbox} 1\r\nPUB {subject} {inbox} {}\r\n", payload.len()).as_bytes(),
    );
    text.extend_from_slice(payload);
    text.extend_from_slice(b"\r\n");
    stream.write_all(&text).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.starts_with("MSG ") {
            let size = line.split_whitespace().next_back()?.parse().ok()?;
            let mut answer = vec![0; size];
            reader.read_exact(&mut answer).ok()?;
            return Some(answer);
        }
    }
}

fn ask(port: u16, subject: &str, body: &Value) -> Option<Value> {
    let answer: Value = serde_json::from_slice(&request(port, subject, body.to_string().as_bytes())?).ok()?;
    answer.get("error").is_none().then_some(answer)
}

fn usage_stream() -> String {
    Subjects::of_region(REGION).usage_stream(0)
}

/// Changes how many bytes the usage stream may hold. `false` where that failed.
pub(crate) fn limit_stream(port: u16, bytes_max: u64) -> bool {
    let stream = usage_stream();
    let limit = || {
        let mut found = ask(port, &format!("$JS.API.STREAM.INFO.{stream}"), &json!({}))?;
        let mut config = found["config"].take();
        config["max_bytes"] = json!(bytes_max);
        ask(port, &format!("$JS.API.STREAM.UPDATE.{stream}"), &config)
    };
    limit().is_some()
}

/// Deletes the usage stream with all that is in it. `false` where that failed.
pub(crate) fn delete_stream(port: u16) -> bool {
    ask(port, &format!("$JS.API.STREAM.DELETE.{}", usage_stream()), &json!({})).is_some()
}

/// Publishes on an agent's subject. Whether the stream took it is not certain.
pub(crate) fn publish_as(port: u16, agent: &str, payload: &[u8]) -> bool {
    request(port, &Subjects::of_region(REGION).usage(0, agent), payload).is_some()
}
