//! The price feed of the real binary: cut by `kill -9` and resumed, read slowly, watched from the command line, public.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use hourglass_test_servers::Postgres;

use crate::production::{settings, wait_for, writes};
use crate::support::{Cli, Server, command};

/// Longest that a stream may be silent: two heartbeats.
const PATIENCE: Duration = Duration::from_secs(40);

/// A client of a stream, as plain as they come.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(url: &str, last_event_id: Option<&str>) -> Self {
        let address = url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let resume = last_event_id.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        write!(stream, "GET /v1/prices/stream HTTP/1.1\r\nhost: {address}\r\n{resume}\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event that is no heartbeat: its id, its kind and its data. `None` where the stream was cut.
    fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut id, mut event) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            // What is no field is the length of a chunk, or a header.
            match line.trim_end().split_once(": ") {
                Some(("id", value)) => id = value.to_owned(),
                Some(("event", value)) => event = value.to_owned(),
                Some(("data", value)) => {
                    let data = serde_json::from_str(value).unwrap();
                    if event != "heartbeat" {
                        return Some((id, event, data));
                    }
                    (id, event) = (String::new(), String::new());
                }
                _ => {}
            }
        }
    }

    fn kind(&mut self, kind: &str) -> (String, Value) {
        let (id, event, data) = self.next().expect("the stream goes on");
        assert_eq!(event, kind, "{data}");
        (id, data)
    }
}

/// Gives the pool so many GPUs; the clock clears within a second, if nobody does before.
fn change(data: &Path, url: &str, gpus: u64) {
    let cli = Cli { data, server: Some(url), of: &[] };
    let gpus = gpus.to_string();
    cli.run(&[
        "pool",
        "set",
        "gpu-h100-sxm",
        "f-1",
        "--gpus",
        &gpus,
        "--currency",
        "USD",
        "--reserve",
        "0.5",
    ])
    .ok();
    // The clock may have been faster: then there is nothing to clear.
    let _cleared = cli.run(&["market", "clear"]);
}

#[test]
fn a_stream_that_is_cut_by_kill_9_goes_on_without_a_gap_or_a_repeat() {
    let data = tempfile::tempdir().unwrap();
    let mut seen: Vec<(String, Value)> = Vec::new();
    let mut gpus = 1;
    for round in 0..3 {
        let server = Server::up_with_tick(data.path(), "1h", &[]);
        // What was cleared while nobody watched is told too.
        if round > 0 {
            gpus += 1;
            change(data.path(), &server.url, gpus);
        }
        let mut stream = match seen.last() {
            None => {
                let mut stream = Stream::open(&server.url, None);
                assert_eq!(stream.kind("snapshot").0, "0.0");
                stream
            }
            Some((id, _)) => Stream::open(&server.url, Some(id)),
        };
        for _ in 0..4 {
            gpus += 1;
            change(data.path(), &server.url, gpus);
            seen.push(stream.kind("tick"));
        }
        // More is cleared than is read, and then the process dies.
        gpus += 1;
        change(data.path(), &server.url, gpus);
        server.kill();
    }
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    let last = seen.last().unwrap().0.clone();
    let mut stream = Stream::open(&server.url, Some(&last));
    let supply = |tick: &Value| tick["pools"][0]["supply"].as_u64().unwrap();
    while supply(&seen.last().unwrap().1) < gpus {
        seen.push(stream.kind("tick"));
    }
    // Who was never cut has seen the same.
    let mut whole = Stream::open(&server.url, Some("0.0"));
    for tick in &seen {
        assert_eq!(&whole.kind("tick"), tick);
    }
    let supplies: Vec<u64> = seen.iter().map(|(_, tick)| supply(tick)).collect();
    assert!(
        supplies.is_sorted() && supplies.first() == Some(&2) && supplies.last() == Some(&gpus),
        "{supplies:?}"
    );
    let mut ids: Vec<&str> = seen.iter().map(|(id, _)| id.as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), seen.len());
    // A server that is told to stop says so to its streams, and does not wait for them.
    assert!(server.stop());
    let (_, event, data) = whole.next().unwrap();
    assert_eq!((event.as_str(), &data["code"]), ("bye", &Value::from("shutting_down")));
}

#[test]
fn a_stream_goes_on_from_the_process_that_took_over() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = format!("[postgres]\nurl = \"{}\"", Postgres::shared().database());
    let a = Server::serve(&settings(&directory, "a", &postgres));
    wait_for("a writes", || writes(&a));
    let b = Server::serve(&settings(&directory, "b", &postgres));
    // Who stands by says so at once.
    wait_for("b stands by", || b.get("/v1/prices").1["code"] == "not_the_writer");
    let mut stream = Stream::open(&a.url, None);
    stream.kind("snapshot");
    let mut seen = Vec::new();
    for gpus in 1..5 {
        change(directory.path(), &a.url, gpus);
        seen.push(stream.kind("tick"));
    }
    a.kill();
    wait_for("b takes over", || writes(&b));
    let mut resumed = Stream::open(&b.url, seen.last().map(|(id, _)| id.as_str()));
    change(directory.path(), &b.url, 9);
    seen.push(resumed.kind("tick"));
    let (id, tick) = seen.last().unwrap();
    assert!(id.starts_with("2.") && tick["pools"][0]["supply"] == 9, "another epoch: {id} {tick}");
    let mut whole = Stream::open(&b.url, Some("0.0"));
    for tick in &seen {
        assert_eq!(&whole.kind("tick"), tick);
    }
}

#[test]
fn who_does_not_read_holds_nobody_up_and_misses_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    let (mut slow, mut fast) = (Stream::open(&server.url, None), Stream::open(&server.url, None));
    fast.kind("snapshot");
    let mut seen = Vec::new();
    for gpus in 1..20 {
        change(data.path(), &server.url, gpus);
        seen.push(fast.kind("tick"));
    }
    assert_eq!(slow.kind("snapshot").0, "0.0");
    for tick in &seen {
        assert_eq!(&slow.kind("tick"), tick);
    }
}

#[test]
fn prices_are_watched_and_looked_up_from_the_command_line() {
    let data = tempfile::tempdir().unwrap();
    let settings = data.path().join("hourglass.toml");
    std::fs::write(&settings, "region = \"eu-north1\"\n[feed]\npublic = true\n").unwrap();
    let token = [("HOURGLASS_OPERATOR_TOKEN", "a token of some length")];
    let args = ["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--tick", "1h", "--config"];
    let server = Server::start(command(data.path(), &args).arg(&settings).envs(token));
    let operator = |args: &[&str]| {
        let mut command = command(data.path(), args);
        let output = command.args(["--server", &server.url]).envs(token).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let set = ["pool", "set", "gpu-h100-sxm", "f-1", "--gpus", "4", "--currency", "USD", "--reserve", "0.5"];
    let mut watcher =
        command(data.path(), &["price", "watch", "gpu-h100-sxm", "f-9", "--server", &server.url]);
    assert_eq!(
        watcher.output().unwrap().status.code(),
        Some(3),
        "there is no such pool, and a credential is needed"
    );
    operator(&["price", "publish", "docs/examples/rate-card.toml"]);
    operator(&set);
    // Everybody may watch; it ends after the one tick.
    let mut watch = command(
        data.path(),
        &["price", "watch", "--json", "--after", "0.0", "--count", "1", "--server", &server.url],
    );
    let watched = watch.output().unwrap();
    assert!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
    let tick: Value = serde_json::from_slice(&watched.stdout).unwrap();
    assert_eq!(
        (&tick["event"], &tick["data"]["pools"][0]["price"]),
        (&Value::from("tick"), &Value::from("0.5"))
    );
    for (args, says) in [
        (&["price", "history", "gpu-h100-sxm", "f-1"][..], "0.5"),
        (&["price", "history", "gpu-h100-sxm", "f-1", "--step", "1h"], "0.5"),
        (&["price", "ohlc", "gpu-h100-sxm", "f-1"], "sold GPU-hours"),
        (&["price", "interruptions", "gpu-h100-sxm", "f-1"], "too few unit-hours"),
        (&["price", "depth", "gpu-h100-sxm", "f-1"], "4 GPUs for spot at 0.5"),
    ] {
        let told = operator(args);
        assert!(told.contains(says), "{args:?}: {told}");
    }
    let cli = Cli { data: data.path(), server: Some(&server.url), of: &["price"] };
    cli.says(&["interruptions", "gpu-h100-sxm", "f-1"], &["too few unit-hours"]);
    cli.refuses(&["depth", "gpu-h100-sxm", "f-1"], 3, "401");
    cli.refuses(&["history", "gpu-h100-sxm", "f-1", "--step", "7m"], 2, "divides a UTC day");
    assert!(server.stop());
    // The same from the data directory, without a server.
    let cli = Cli { data: data.path(), server: None, of: &["price"] };
    cli.says(&["history", "gpu-h100-sxm", "f-1"], &["0.5"]);
    cli.says(&["ohlc", "gpu-h100-sxm", "f-1"], &["sold GPU-hours"]);
    cli.says(&["depth", "gpu-h100-sxm", "f-1"], &["4 GPUs for spot at 0.5"]);
    cli.says(&["interruptions", "gpu-h100-sxm", "f-1"], &["too few unit-hours"]);
    cli.refuses(&["watch"], 2, "--server URL");
}
