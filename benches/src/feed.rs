//! A price tick on its way to 10,000 clients.
//!
//! The server is the release binary, `hourglass up` on a data directory; the clients are this process. A pool of one
//! GPU has a bid that runs and one below it that sets the price: its limit is changed and the market is cleared, over
//! HTTP, and the time runs from the request to clear (so the clearing and its durable commit are in it) to the
//! moment when each client has read the tick. The ceiling is a loop in a third process that writes the same bytes to
//! as many sockets when it is told to; the same clients read it. Clients and server share the machine's cores.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::figure::{Figure, median, percentile};
use crate::market::past;
use crate::production::program;

/// The name under which this program is the ceiling.
pub(crate) const BROADCASTER: &str = "--broadcaster";
/// Connections that are opened at once.
const OPENING_MAX: usize = 64;
/// After this the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: &str = "event: tick\n";

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let (clients, ticks) = if quick { (1_000, 5) } else { (10_000, 31) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut told = runtime.block_on(of_server(clients, ticks));
    let mut bare = runtime.block_on(of_broadcaster(clients, ticks, told.bytes.clone()));
    let figure = |name, value, unit, ceiling, target| Figure { name, value, unit, ceiling, target };
    let percentiles = |of: usize, told: &mut Times, bare: &mut Times| {
        (percentile(&mut told.all, of), Some(percentile(&mut bare.all, of)))
    };
    let (half, half_bare) = percentiles(50, &mut told, &mut bare);
    let (most, most_bare) = percentiles(99, &mut told, &mut bare);
    vec![
        figure("price tick to all clients, p50", half, "ms", half_bare, "–"),
        figure("price tick to all clients, p99", most, "ms", most_bare, "< 250 ms"),
        figure("the same, last client", median(told.last), "ms", Some(median(bare.last)), "–"),
        figure("memory a client of the stream", told.memory, "KiB", None, "–"),
        past(quick),
    ]
}

/// What was measured.
#[derive(Default)]
struct Times {
    /// Of every client and tick.
    all: Vec<Duration>,
    /// Until the last client had each tick, in milliseconds.
    last: Vec<f64>,
    /// KiB of the server a client.
    memory: f64,
    /// A tick as it was sent.
    bytes: Vec<u8>,
}

/// Clients that read, and when each had the tick that is on its way.
struct Crowd {
    started: Instant,
    had: Vec<AtomicU64>,
    missing: AtomicUsize,
    done: Notify,
}

impl Crowd {
    /// Opens connections, sends a request on each, and reads until each has answered.
    async fn open(address: &str, request: &str, first: &str, clients: usize) -> Arc<Self> {
        let crowd = Arc::new(Self {
            started: Instant::now(),
            had: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            missing: AtomicUsize::new(clients),
            done: Notify::new(),
        });
        let mut opening = tokio::task::JoinSet::new();
        for client in 0..clients {
            if opening.len() >= OPENING_MAX {
                opening.join_next().await;
            }
            let (crowd, address, request, first) =
                (Arc::clone(&crowd), address.to_owned(), request.to_owned(), first.to_owned());
            opening.spawn(async move {
                let mut stream = TcpStream::connect(&address).await.expect("a connection");
                stream.write_all(request.as_bytes()).await.expect("a request");
                if !first.is_empty() {
                    assert!(read_until(&mut stream, &first).await, "the stream ended");
                }
                drop(tokio::spawn(async move {
                    // It ends with the server.
                    while read_until(&mut stream, TICK).await {
                        let micros = crowd.started.elapsed().as_micros() as u64;
                        if let Some(had) = crowd.had.get(client) {
                            had.store(micros, Ordering::Relaxed);
                        }
                        if crowd.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                            crowd.done.notify_one();
                        }
                    }
                }));
            });
        }
        while opening.join_next().await.is_some() {}
        crowd
    }

    /// Waits until every client has the tick that `send` brings about.
    async fn tick(&self, times: &mut Times, send: impl Future<Output = ()>) {
        self.missing.store(self.had.len(), Ordering::Release);
        let from = self.started.elapsed();
        send.await;
        tokio::time::timeout(PATIENCE, self.done.notified()).await.expect("every client has the tick");
        let since = |had: &AtomicU64| Duration::from_micros(had.load(Ordering::Relaxed)).saturating_sub(from);
        let all: Vec<Duration> = self.had.iter().map(since).collect();
        times.last.push(all.iter().max().map_or(0.0, |last| last.as_secs_f64() * 1_000.0));
        times.all.extend(all);
    }
}

/// Reads until a text has come, whole. Whether it came.
async fn read_until(stream: &mut TcpStream, text: &str) -> bool {
    let (mut read, mut buffer) = (Vec::new(), [0_u8; 1_024]);
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return false;
        }
        read.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let has = |text: &[u8]| read.windows(text.len()).any(|window| window == text);
        // An event ends with an empty line.
        if has(text.as_bytes()) && read.windows(2).any(|end| end == b"\n\n") {
            return true;
        }
    }
}

async fn of_server(clients: usize, ticks: usize) -> Times {
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = Command::new(program())
        .args(["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--region", "eu", "--tick", "1h"])
        .args(["--market-tick", "1h", "--data"])
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server");
    let mut said = BufReader::new(server.stderr.take().expect("its words")).lines();
    let url = said.find_map(|line| {
        let line = line.ok()?;
        line.trim().strip_prefix("HTTP")?.split_whitespace().next().map(str::to_owned)
    });
    let address = url.expect("an address").trim_start_matches("http://").to_owned();
    // Whoever writes to a pipe that nobody reads waits for ever.
    drop(std::thread::spawn(move || said.for_each(drop)));
    let server = Running(server);
    set_up(&address).await;
    let before = server.resident_kib();
    let request = format!("GET /v1/prices/stream HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let crowd = Crowd::open(&address, &request, "event: snapshot\n", clients).await;
    let mut times = Times::default();
    let mut watching = TcpStream::connect(&address).await.expect("a connection");
    watching.write_all(request.as_bytes()).await.expect("a request");
    assert!(read_until(&mut watching, "event: snapshot\n").await, "the stream ended");
    // The first tick is the warm-up.
    for tick in 0..=ticks {
        let limit = json!({"limit": format!("1.{:03}", tick + 1)});
        post(&address, "/v1/tenants/acme/bids/below:update", &limit).await;
        // Nobody's heartbeat and nobody's clock is to be on the way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut unused = Times::default();
        let into = if tick == 0 { &mut unused } else { &mut times };
        crowd.tick(into, async { drop(post(&address, "/v1/market:clear", &Value::Null).await) }).await;
    }
    times.memory = (server.resident_kib() - before) / clients as f64;
    let (mut last, mut buffer) = (Vec::new(), [0_u8; 65_536]);
    while !last.ends_with(b"\n\n\r\n") {
        let count = watching.read(&mut buffer).await.expect("ticks");
        last.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    // A chunk: its length, the event, and what ends it.
    let starts = last.windows(4).rposition(|at| at == b"id: ").expect("an event");
    let chunk =
        last.get(..starts).and_then(|head| head.windows(2).rposition(|at| at == b"\n\r")).map_or(0, |it| it);
    times.bytes = last.get(chunk..).unwrap_or_default().to_vec();
    times
}

/// A process that ends with us.
struct Running(Child);

impl Running {
    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// A market of one GPU that one bid has, and another sets the price of.
async fn set_up(address: &str) {
    let card = json!({"name": "list", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z",
        "prices": [{"platform": "h100", "region": "eu", "model": "on_demand", "price": "2.95"},
            {"platform": "h100", "region": "eu", "model": "spot", "price": "1.25"}]});
    post(address, "/v1/rate-cards", &card).await;
    post(address, "/v1/tenants", &json!({"tenant": "acme", "currency": "USD"})).await;
    let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
    let terms = json!({"currency": "USD", "gpus": 1, "reserve": reserve});
    send(address, "PUT", "/v1/pools/h100/f-1", &terms).await;
    for (name, limit) in [("above", "9"), ("below", "1")] {
        let bid = json!({"bid": name, "project": "ml", "pools": ["eu/h100/f-1"], "gpus_per_unit": 1, "max_units": 1,
            "limit": limit});
        post(address, "/v1/tenants/acme/bids", &bid).await;
    }
    // The clock clears too, when the supply changes: then there is nothing left to clear.
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn post(address: &str, path: &str, body: &Value) -> Value {
    send(address, "POST", path, body).await
}

async fn send(address: &str, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    serde_json::from_str(body).unwrap_or_default()
}

async fn of_broadcaster(clients: usize, ticks: usize, bytes: Vec<u8>) -> Times {
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .arg(BROADCASTER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the ceiling");
    let mut control = process.stdin.take().expect("its control");
    let mut address = String::new();
    BufReader::new(process.stdout.take().expect("its words")).read_line(&mut address).expect("an address");
    let process = Running(process);
    let mut setting = format!("{clients} {}\n", bytes.len()).into_bytes();
    setting.extend(bytes);
    control.write_all(&setting).expect("its settings");
    let crowd = Crowd::open(address.trim(), "", "", clients).await;
    // All must be accepted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut times = Times::default();
    for tick in 0..=ticks {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut unused = Times::default();
        let into = if tick == 0 { &mut unused } else { &mut times };
        crowd.tick(into, async { control.write_all(b"!").expect("a process that listens") }).await;
    }
    drop(process);
    times
}

/// The ceiling: writes the same bytes to all sockets each time that it is told to.
pub(crate) fn broadcast() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let mut control = BufReader::new(std::io::stdin());
    let mut setting = String::new();
    control.read_line(&mut setting).expect("settings");
    let mut numbers = setting.split_whitespace().filter_map(|it| it.parse::<usize>().ok());
    let (clients, length) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut bytes = vec![0; length];
    control.read_exact(&mut bytes).expect("a tick");
    let mut sockets: Vec<std::net::TcpStream> = (0..clients)
        .map(|_| {
            let (socket, _) = listener.accept().expect("a client");
            socket.set_nodelay(true).expect("a socket");
            socket
        })
        .collect();
    while control.read_exact(&mut [0]).is_ok() {
        sockets.iter_mut().for_each(|socket| socket.write_all(&bytes).expect("a client that reads"));
    }
}
