//! The customer billing API by HTTP: what a dashboard asks. Client and server share the machine.

use std::path::Path;
use std::time::{Duration, Instant as Clock};

use hourglass_consumers::api::{ApiConfig, serve_http};
use hourglass_consumers::billing::usage::{GroupBy, UsageQuery, unwritten, usage_report};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_ledger::store::{ChargeFilter, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::embedded::start;
use crate::figure::{Figure, median, seconds};
use crate::pricing::{Writer, days_with_rows};
use crate::workload;

const DAYS: i64 = 90;
/// Questions about usage that are timed.
const QUESTIONS: usize = 300;
/// Who asks for balances at once, and for how long.
const CLIENTS: usize = 16;
const ASKING: Duration = Duration::from_secs(5);
/// How long the sums of days may take to be there after the start.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let instances = if quick { 100 } else { 1_000 };
    let directory = tempfile::tempdir().expect("a directory");
    let (rows, store) = by_store(directory.path(), instances);
    let cell = start(directory.path());
    let handle = cell.handle();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (quantiles, rates) = runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve_http(listener, handle, ApiConfig::default(), async move {
            let _stopped = stopped.await;
        }));
        let tenant = workload::tenant(0);
        let quantiles = usage(&address, &tenant).await;
        let balances = rate(&address, &format!("/v1/tenants/{tenant}/balance")).await;
        let probes = rate(&address, "/healthz").await;
        let _told = stop.send(());
        server.await.expect("a server").expect("it served");
        (quantiles, [balances, probes])
    });
    cell.close();
    eprintln!(
        "  usage of {DAYS} days by day, from {rows} charge rows: p50 {:.1} ms, p99 {:.1} ms",
        quantiles[0], quantiles[1]
    );
    vec![
        Figure {
            name: "usage of 90 days by day, p99",
            value: quantiles[1],
            unit: "ms",
            ceiling: Some(store),
            target: "< 50 ms; beside the store's own sum",
        },
        Figure {
            name: "balances read",
            value: rates[0],
            unit: "requests/s",
            ceiling: Some(rates[1]),
            target: ">= 5 k, client on the same cores",
        },
    ]
}

/// Writes the days into a store, and has it add up what is asked below: the rows, and the milliseconds.
fn by_store(directory: &Path, instances: usize) -> (usize, f64) {
    let mut store = SqliteStore::open(directory, SqliteOptions { durable: false }).expect("a store");
    let mut writer = Writer::new(&mut store);
    let mut rows = 0;
    days_with_rows(instances, DAYS, Some(0), |at, recorded, written| {
        rows += written.charges.len();
        writer.write_with_rows(at, recorded, written);
    });
    writer.flush();
    let reader = store.reader();
    let loaded = load(reader.as_ref(), From::Start, |_, _| {}).expect("the ledger");
    let filter = ChargeFilter {
        tenant: Some(workload::tenant(0).parse().expect("a tenant")),
        ..ChargeFilter::default()
    };
    let query = UsageQuery { filter, group_by: vec![GroupBy::Day], ..UsageQuery::default() };
    let times = (0..3).map(|_| {
        let (took, report) =
            seconds(|| usage_report(reader.as_ref(), None, unwritten(&loaded.state, &query), &query));
        assert!(report.expect("a report").rows.len() >= DAYS as usize);
        took * 1_000.0
    });
    (rows, median(times.collect()))
}

/// Milliseconds of a usage report: the median and the 99th percentile, once the sums of days are there.
async fn usage(address: &str, tenant: &str) -> [f64; 2] {
    let path = format!("/v1/tenants/{tenant}/usage?granularity=day");
    let mut client = Client::connect(address).await;
    let mut quick = 0;
    let began = Clock::now();
    while quick < 20 {
        let asked = Clock::now();
        client.get(&path).await;
        quick = if asked.elapsed() < Duration::from_millis(200) { quick + 1 } else { 0 };
        assert!(began.elapsed() < PATIENCE, "the sums of days are not there after {PATIENCE:?}");
    }
    let mut times = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        let asked = Clock::now();
        let bytes = client.get(&path).await;
        times.push(asked.elapsed().as_secs_f64() * 1_000.0);
        assert!(bytes > 5_000, "an answer of {bytes} bytes has not {DAYS} days");
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(QUESTIONS * part / 100).copied().expect("a time");
    [at(50), at(99)]
}

/// Requests a second of some clients, each over one connection.
async fn rate(address: &str, path: &str) -> f64 {
    let began = Clock::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, path) = (address.to_owned(), path.to_owned());
            tokio::spawn(async move {
                let mut client = Client::connect(&address).await;
                let mut asked = 0_u64;
                while began.elapsed() < ASKING {
                    client.get(&path).await;
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let mut all = 0;
    for client in clients {
        all += client.await.expect("a client");
    }
    all as f64 / began.elapsed().as_secs_f64()
}

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    host: String,
    read: Vec<u8>,
}

impl Client {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, host: address.to_owned(), read: Vec::new() }
    }

    /// Asks, and answers with how long the body was.
    async fn get(&mut self, path: &str) -> usize {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await.expect("a request");
        self.read.clear();
        let mut chunk = [0; 16 << 10];
        loop {
            let count = self.stream.read(&mut chunk).await.expect("an answer");
            assert!(count > 0, "{path}: the server hung up");
            self.read.extend_from_slice(chunk.get(..count).expect("what was read"));
            let Some(head) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(self.read.get(..head).expect("a head")).to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{path}: {text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").trim().parse().expect("a number");
            if self.read.len() >= head + 4 + length {
                return length;
            }
        }
    }
}
