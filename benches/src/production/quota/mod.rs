//! Quota as a compute service asks for it: over gRPC, with an API key, durable in PostgreSQL.
//!
//! The server is the real one, on a socket of the loopback interface; each of 64 clients has a
//! connection of its own. A client reserves and commits; once it has committed some holds, it also
//! releases the oldest one for each new one, so a pair costs three requests, each with an event. One
//! reservation of a hundred asks for too much and has to be denied.
//!
//! The peer does the same, in turns with us, on the same database server.

mod client;
mod peer;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hourglass_consumers::api::ApiConfig;
use hourglass_consumers::auth::{KeyDraft, draw_key};
use hourglass_consumers::grpc::serve_grpc;
use hourglass_ledger::cell::{CellHandle, LEASE};
use hourglass_ledger::core::{Command, Role, State};
use hourglass_quota::{Class, NodeName};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use self::client::{Client, Load, Pace};
use self::peer::Peer;
use self::work::{AMOUNT, Seen, Task, Window, Work};
use super::cell::{self, BenchClock};
use super::latency::tick;
use super::{postgres, runtime};
use crate::embedded::submit_all;
use crate::figure::{Figure, median, percentile};
use crate::quota::{Path, Shape, resource, set_up};
use crate::workload::opens_at;

/// Who asks at a time.
const CLIENTS: usize = 64;
/// Requests under way of a client that has several.
const UNDER_WAY: usize = 8;
/// A pace of checks that leaves the machine some air.
const CHECKS_A_SECOND: f64 = 10_000.0;

/// Runs it.
pub(crate) fn admission(quick: bool) -> Vec<Figure> {
    let (tenants, time, repeats) =
        if quick { (10, Duration::from_secs(1), 3) } else { (40, Duration::from_secs(4), 5) };
    let shape = Arc::new(Shape { tenants, groups: 4, subgroups: 4, projects: 4 });
    let postgres = postgres();
    let clock = BenchClock::from(opens_at());
    let cell = cell::start(&postgres.database(), clock, LEASE);
    let handle = cell.handle();
    submit_all(&handle, set_up(&shape).into_iter().map(|command| (opens_at(), command)));
    let (key, grant) = draw_key(compute_service()).expect("a key");
    let _created = handle.submit_blocking(Command::CreateKey(grant)).expect("a key that is known");

    // As two processes, so neither waits for the other's threads.
    let (server, callers) = (runtime(), runtime());
    let address = serve(&server, handle.clone());
    let rows = postgres.database();
    let mut bed = callers.block_on(Bed::new((&address, &key.reveal()), &rows, (Arc::clone(&shape), time)));
    let mut taken = Taken::default();
    callers.block_on(async {
        let ticking = tick(handle.clone());
        for repeat in 0..repeats {
            taken.repeat(&mut bed).await;
            eprintln!("  {repeat}: {taken}");
        }
        ticking.abort();
        peer::check_books(&rows, bed.peers.iter().flat_map(|peer| peer.work.holds()).count()).await;
    });
    check_books(&handle, &shape, bed.clients.iter().flat_map(|client| client.work.holds()));
    drop((bed, callers));
    server.shutdown_background();
    drop(handle);
    cell.close();
    taken.figures()
}

/// Who admits instances.
fn compute_service() -> KeyDraft {
    KeyDraft {
        name: "compute".to_owned(),
        role: Role::Compute,
        tenant: None,
        agent: None,
        scopes: std::collections::BTreeSet::new(),
        expires_at: None,
    }
}

/// Serves where nobody is let in without a credential, and answers with the address.
fn serve(runtime: &Runtime, cell: CellHandle) -> String {
    let config = ApiConfig { operator_token: Some("the operator's".to_owned()), ..ApiConfig::default() };
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    drop(runtime.spawn(serve_grpc(listener, cell, config, std::future::pending())));
    address
}

/// All clients, ours and the peer's.
struct Bed {
    shape: Arc<Shape>,
    time: Duration,
    clients: Vec<Client>,
    peers: Vec<Peer>,
}

impl Bed {
    async fn new((address, key): (&str, &str), rows: &str, (shape, time): (Arc<Shape>, Duration)) -> Self {
        peer::set_up(rows, &shape).await;
        let (mut clients, mut peers) = (Vec::new(), Vec::new());
        for n in 0..CLIENTS {
            let work = || Work::new(projects(&shape, n, shape.tenants));
            peers.push(Peer::connect(rows, &shape, work()).await);
            let parts = (Arc::clone(&shape), work());
            clients.push(Client::connect(address, key, format!("client-{n}"), parts).await);
        }
        Self { shape, time, clients, peers }
    }

    /// Has each client work on the projects of so many tenants.
    fn moves_to(&mut self, tenants: usize) {
        let works = self.clients.iter_mut().map(|client| &mut client.work);
        works.enumerate().for_each(|(n, work)| work.moves_to(projects(&self.shape, n, tenants)));
        let works = self.peers.iter_mut().map(|peer| &mut peer.work);
        works.enumerate().for_each(|(n, work)| work.moves_to(projects(&self.shape, n, tenants)));
    }

    /// All clients on sessions, each with a load.
    async fn sessions(&mut self, load: impl Fn(usize) -> Load) -> Seen {
        let window = Window::of(self.time);
        at_once(&mut self.clients, |n, mut client| {
            let load = load(n);
            async move { (client.session(load, window).await, client) }
        })
        .await
    }

    async fn single_calls(&mut self) -> Seen {
        let window = Window::of(self.time);
        at_once(&mut self.clients, |_, mut client| async move { (client.call(window).await, client) }).await
    }

    async fn peers(&mut self) -> Seen {
        let window = Window::of(self.time);
        let shape = &self.shape;
        at_once(&mut self.peers, |_, mut peer| {
            let shape = Arc::clone(shape);
            async move { (peer.run(&shape, window).await, peer) }
        })
        .await
    }
}

/// The projects of a client among those of the first tenants: nobody else's.
fn projects(shape: &Shape, client: usize, tenants: usize) -> Vec<usize> {
    (client..tenants * shape.projects_of_tenant()).step_by(CLIENTS).collect()
}

/// Runs all clients, and adds up what they saw.
async fn at_once<C, F>(clients: &mut Vec<C>, run: impl Fn(usize, C) -> F) -> Seen
where
    C: Send + 'static,
    F: Future<Output = (Seen, C)> + Send + 'static,
{
    let tasks = std::mem::take(clients).into_iter().enumerate();
    let tasks: Vec<_> = tasks.map(|(n, client)| tokio::spawn(run(n, client))).collect();
    let mut all = Seen::default();
    for task in tasks {
        let (seen, client) = task.await.expect("a client that ends in order");
        all = all.and(seen);
        clients.push(client);
    }
    all
}

/// A load of all clients together, so many new requests a second.
fn paced(task: Task, a_second: f64) -> impl Fn(usize) -> Load {
    let period = Duration::from_secs_f64(CLIENTS as f64 / a_second);
    move |n| {
        let after = period.mul_f64(n as f64 / CLIENTS as f64);
        Load { task, pace: Pace::Every { period, after } }
    }
}

fn as_fast_as(task: Task, under_way: usize) -> impl Fn(usize) -> Load {
    move |_| Load { task, pace: Pace::UnderWay(under_way) }
}

/// A rate and two latencies, of each repeat.
#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Series {
    fn add(&mut self, finished: u64, mut latencies: Vec<Duration>, time: Duration) {
        self.rates.push(finished as f64 / time.as_secs_f64());
        self.p50.push(percentile(&mut latencies, 50));
        self.p99.push(percentile(&mut latencies, 99));
    }

    fn pairs(&mut self, seen: Seen, time: Duration) {
        self.add(seen.pairs, seen.reserves, time);
    }

    fn checks(&mut self, seen: Seen, time: Duration) {
        self.add(seen.checks.len() as u64, seen.checks, time);
    }

    fn last_rate(&self) -> f64 {
        self.rates.last().copied().unwrap_or(f64::NAN)
    }
}

/// What repeats took.
#[derive(Default)]
struct Taken {
    several: Series,
    one: Series,
    calls: Series,
    half: Series,
    of_one_tenant: Series,
    peer: Series,
    peer_of_one_tenant: Series,
    checks_paced: Series,
    checks: Series,
    checks_beside: Series,
}

impl Taken {
    async fn repeat(&mut self, bed: &mut Bed) {
        let time = bed.time;
        self.several.pairs(bed.sessions(as_fast_as(Task::Pairs, UNDER_WAY)).await, time);
        self.peer.pairs(bed.peers().await, time);
        self.one.pairs(bed.sessions(as_fast_as(Task::Pairs, 1)).await, time);
        self.calls.pairs(bed.single_calls().await, time);

        let half = self.several.last_rate() / 2.0;
        self.half.pairs(bed.sessions(paced(Task::Pairs, half)).await, time);

        bed.moves_to(1);
        self.of_one_tenant.pairs(bed.sessions(as_fast_as(Task::Pairs, UNDER_WAY)).await, time);
        self.peer_of_one_tenant.pairs(bed.peers().await, time);
        bed.moves_to(bed.shape.tenants);

        self.checks_paced.checks(bed.sessions(paced(Task::Checks, CHECKS_A_SECOND)).await, time);
        self.checks.checks(bed.sessions(as_fast_as(Task::Checks, 1)).await, time);
        // Every other client checks, at the pace of all; the others reserve, at that of all.
        let (checks, pairs) = (paced(Task::Checks, 2.0 * CHECKS_A_SECOND), paced(Task::Pairs, 2.0 * half));
        let beside = bed.sessions(|n| if n.is_multiple_of(2) { checks(n) } else { pairs(n) }).await;
        self.checks_beside.checks(beside, time);
    }

    fn figures(self) -> Vec<Figure> {
        let figure =
            |name, values, unit, target| Figure { name, value: median(values), unit, ceiling: None, target };
        let beside =
            |figure: Figure, values: &Vec<f64>| Figure { ceiling: Some(median(values.clone())), ..figure };
        let (pairs, ms) = ("pairs/s", "ms");
        let mut figures = Vec::new();
        let mut add = |name, series: Series, peer: &Series, targets: (&'static str, &'static str)| {
            figures.push(beside(figure(name, series.rates, pairs, targets.0), &peer.rates));
            figures.push(beside(figure("  its reserve, p50", series.p50, ms, "-"), &peer.p50));
            figures.push(beside(figure("  its reserve, p99", series.p99, ms, targets.1), &peer.p99));
        };
        add(
            "reserve + commit, 8 under way each",
            self.several,
            &self.peer,
            (">= 20 000 pairs/s", "<= 20 ms"),
        );
        add("the same, 1 under way each", self.one, &self.peer, ("-", "<= 20 ms"));
        add("the same, by single calls", self.calls, &self.peer, ("-", "<= 20 ms"));
        let hot = (self.of_one_tenant, &self.peer_of_one_tenant);
        add("of one tenant, 8 under way each", hot.0, hot.1, ("-", "<= 20 ms"));
        let mut add = |name, unit, series: Series, target| {
            figures.push(figure(name, series.rates, unit, "-"));
            figures.push(figure("  its latency, p50", series.p50, ms, "-"));
            figures.push(figure("  its latency, p99", series.p99, ms, target));
        };
        add("reserve + commit, half of the first", pairs, self.half, "<= 20 ms");
        add("check, at a pace", "checks/s", self.checks_paced, "<= 2 ms");
        add("check, 1 under way each", "checks/s", self.checks, "<= 2 ms");
        add("check, beside half of the pairs", "checks/s", self.checks_beside, "-");
        figures
    }
}

impl std::fmt::Display for Taken {
    /// The last repeat.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN);
        let all = [
            ("8 under way", &self.several),
            ("1", &self.one),
            ("calls", &self.calls),
            ("rows", &self.peer),
            ("half", &self.half),
            ("one tenant", &self.of_one_tenant),
            ("its rows", &self.peer_of_one_tenant),
            ("checks at a pace", &self.checks_paced),
            ("checks", &self.checks),
            ("checks beside", &self.checks_beside),
        ];
        for (name, series) in all {
            let Series { rates, p50, p99 } = series;
            write!(f, "{name} {:.0}/s {:.1} {:.1} ms; ", last(rates), last(p50), last(p99))?;
        }
        Ok(())
    }
}

/// The tree counts what the clients hold, on every node and nothing else, and no limit is exceeded.
fn check_books(cell: &CellHandle, shape: &Shape, holds: impl Iterator<Item = usize>) {
    let mut expected: BTreeMap<NodeName, u64> = BTreeMap::new();
    for project in holds {
        let Path { tenant, group, subgroup, project } = shape.path(project);
        let groups = [group, subgroup].map(|group| NodeName::Group(tenant.clone(), group));
        let path = [NodeName::Project(tenant.clone(), project), NodeName::Tenant(tenant)];
        path.into_iter().chain(groups).for_each(|node| *expected.entry(node).or_default() += AMOUNT);
    }
    let counted = cell.read_blocking(counted).expect("the tree");
    assert_eq!(counted, expected, "the tree does not count what the clients hold");
}

/// What is committed at each node; all else is checked here.
fn counted(state: &State) -> BTreeMap<NodeName, u64> {
    let tree = state.quotas().tree();
    let key = tree.key(&resource(), Class::OnDemand).expect("a key");
    let mut counted = BTreeMap::new();
    for node in tree.nodes() {
        let standing = tree.standing(node, key);
        let Some(limits) = standing.limits else { continue };
        let exceeded = standing.over || !limits.nominal.admits(standing.taken.granted());
        assert!(!exceeded, "a limit is exceeded");
        assert_eq!(standing.taken.granted(), standing.taken.committed, "something is held still");
        if standing.taken.committed > 0 {
            let _first = counted.insert(tree.name(node).expect("a name").clone(), standing.taken.committed);
        }
    }
    assert!(tree.unsound().is_empty(), "pools are not what their children share");
    counted
}
