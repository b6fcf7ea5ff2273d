//! Quota over gRPC, durable in PostgreSQL, beside counter rows that are locked in the same PostgreSQL.
//!
//! Each client has a connection and a session of its own, and so many *slots* in it: a slot reserves, waits
//! for the answer, commits what it got, waits again, and begins anew. What was held is released when a run is
//! over, outside of what is timed. The peer does the same by two transactions: each locks the rows of the
//! whole way up in one order, compares, and counts.
//!
//! Clients, server, cell and database share one machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hourglass_consumers::api::ApiConfig;
use hourglass_consumers::auth::{KeyDraft, draw_key};
use hourglass_consumers::grpc::serve_grpc;
use hourglass_ledger::cell::{CellHandle, LEASE_MAX};
use hourglass_ledger::core::{Command, Role};
use hourglass_proto::v1;
use hourglass_proto::v1::quota_service_client::QuotaServiceClient;
use hourglass_proto::v1::session_request::Request as Asked;
use hourglass_proto::v1::session_response::Response as Told;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::cell::{self, BenchClock};
use super::pipe::connect;
use super::{postgres, runtime};
use crate::embedded::submit_all;
use crate::figure::{Figure, median};
use crate::quota::{RESOURCE, Shape, projects, set_up};
use crate::workload::opens_at;

const CLIENTS: usize = 64;
/// One request in so many is for a project that is full: it is denied, and no pair.
const DENIED_EVERY: usize = 100;
/// Slots of a client where requests are to be under way at once.
const SLOTS: usize = 16;
/// Checks a second, all clients together, where a pace is kept.
const CHECKS_A_SECOND: u32 = 2_000;

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let (shape, seconds, repeats) = if quick {
        (Shape { tenants: 10, groups: 5, subgroups: 5, projects: 4 }, 2, 3)
    } else {
        (Shape { tenants: 10, groups: 5, subgroups: 5, projects: 20 }, 5, 5)
    };
    let for_so_long = Duration::from_secs(seconds);
    let postgres = postgres();
    let clock = BenchClock::from(opens_at());
    let cell = cell::start(&postgres.database(), clock, LEASE_MAX);
    let handle = cell.handle();
    submit_all(&handle, set_up(&shape, 1 << 20).into_iter().map(|command| (opens_at(), command)));
    let other = postgres.database();

    let (mut one, mut many, mut peer) = (Runs::default(), Runs::default(), Runs::default());
    let (mut paced, mut full) = (Vec::new(), Vec::new());
    runtime().block_on(async {
        let served = Served::start(&handle).await;
        let paths = Arc::new(Paths::of(&shape));
        peer_tables(&other, &shape).await;
        for repeat in 0..repeats {
            one.add(pairs(&served, &paths, (1, for_so_long)).await);
            many.add(pairs(&served, &paths, (SLOTS, for_so_long)).await);
            peer.add(locked_pairs(&other, &paths, for_so_long).await);
            paced.push(checks(&served, &paths, Some(CHECKS_A_SECOND), for_so_long).await);
            full.push(checks(&served, &paths, None, for_so_long).await);
            eprintln!(
                "  {repeat}: {one}; {SLOTS} slots: {many}; locked rows: {peer}; checks {:.2} ms, {:.2} ms",
                paced[repeat], full[repeat]
            );
        }
        served.stop().await;
    });
    check_books(&handle);
    drop(handle);
    cell.close();

    let figure =
        |name, value, unit, ceiling, target| Figure { name, value: median(value), unit, ceiling, target };
    let (rate, slowest) = (median(peer.rates), median(peer.slowest));
    vec![
        figure("reserve + commit, 64 clients", one.rates, "pairs/s", Some(rate), "-"),
        figure("its p99", one.slowest, "ms", Some(slowest), "<= 20"),
        figure("the same, 16 under way for each", many.rates, "pairs/s", Some(rate), ">= 20 k"),
        figure("its p99", many.slowest, "ms", Some(slowest), "-"),
        figure("checks at 2,000/s, p99", paced, "ms", None, "<= 2"),
        figure("checks, each client one at once, p99", full, "ms", None, "-"),
    ]
}

/// Pairs a second, and the 99th of a hundred answers in milliseconds, by run.
#[derive(Default)]
struct Runs {
    rates: Vec<f64>,
    slowest: Vec<f64>,
}

impl Runs {
    fn add(&mut self, (rate, slowest): (f64, f64)) {
        self.rates.push(rate);
        self.slowest.push(slowest);
    }
}

impl std::fmt::Display for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |of: &[f64]| of.last().copied().unwrap_or(f64::NAN);
        write!(f, "{:.0} pairs/s, p99 {:.1} ms", last(&self.rates), last(&self.slowest))
    }
}

/// The projects, in an order that no cache foresees.
struct Paths {
    /// Tenant, project, and the four counter rows of the peer from the tenant down.
    all: Vec<(String, String, [i32; 4])>,
    next: AtomicU64,
}

impl Paths {
    fn of(shape: &Shape) -> Self {
        let mut rows = std::collections::BTreeMap::new();
        let mut row = |name: String| {
            let next = i32::try_from(rows.len()).expect("a number");
            *rows.entry(name).or_insert(next)
        };
        let all = projects(shape).into_iter().map(|(tenant, project, group)| {
            let group = group.expect("a group").to_string();
            let above = group.rsplit_once('-').expect("a group of a group").0.to_owned();
            let path = [
                row(tenant.to_string()),
                row(format!("{tenant}/{above}")),
                row(format!("{tenant}/{group}")),
                row(format!("{tenant}/{group}/{project}")),
            ];
            (tenant.to_string(), project.to_string(), path)
        });
        Self { all: all.collect(), next: AtomicU64::new(0) }
    }

    fn next(&self) -> (usize, &(String, String, [i32; 4])) {
        let number = usize::try_from(self.next.fetch_add(1, Ordering::Relaxed)).expect("a number");
        (number, &self.all[number % self.all.len()])
    }
}

/// A server of the cell, and a key of the role that asks.
struct Served {
    address: String,
    key: String,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(cell: &CellHandle) -> Self {
        let draft = KeyDraft {
            name: "bench".to_owned(),
            role: Role::Compute,
            tenant: None,
            agent: None,
            scopes: Default::default(),
            expires_at: None,
        };
        let (key, grant) = draw_key(draft).expect("a key");
        let _made = cell.submit(Command::CreateKey(grant)).await.expect("a key that is taken");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(serve_grpc(listener, cell.clone(), ApiConfig::default(), shutdown));
        Self { address, key: key.reveal(), stop, task }
    }

    async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("a server").expect("one that ends in order");
    }

    /// A session on a connection of its own.
    async fn session(&self) -> Session {
        let mut client =
            QuotaServiceClient::<Channel>::connect(self.address.clone()).await.expect("a connection");
        let (requests, receiver) = mpsc::channel(2 * SLOTS);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        let key = format!("Bearer {}", self.key).parse().expect("a header");
        request.metadata_mut().insert("authorization", key);
        let answers = client.session(request).await.expect("a session").into_inner();
        Session { requests, answers }
    }
}

struct Session {
    requests: mpsc::Sender<v1::SessionRequest>,
    answers: tonic::Streaming<v1::SessionResponse>,
}

impl Session {
    async fn ask(&self, tag: u64, request: Asked) {
        let request = v1::SessionRequest { tag, request: Some(request) };
        self.requests.send(request).await.expect("a session that is open");
    }

    async fn told(&mut self) -> (u64, Told) {
        let answer = self.answers.message().await.expect("an answer").expect("one more");
        (answer.tag, answer.response.expect("one that says something"))
    }
}

fn item() -> v1::QuotaItem {
    v1::QuotaItem { resource: RESOURCE.to_owned(), class: v1::QuotaClass::OnDemand.into(), amount: 1 }
}

/// What a slot of a client waits for.
#[derive(Clone, Copy)]
struct Slot {
    asked: Instant,
    is_denied: bool,
    hold: Option<u64>,
}

/// What all clients do together in so much time.
async fn pairs(served: &Served, paths: &Arc<Paths>, (slots, time): (usize, Duration)) -> (f64, f64) {
    let sessions = join_all((0..CLIENTS).map(|_| served.session())).await;
    let started = Instant::now();
    let clients = sessions.into_iter().map(|session| {
        let paths = Arc::clone(paths);
        tokio::spawn(client(session, paths, slots, started + time))
    });
    let done: Vec<_> = join_all(clients).await.into_iter().map(|it| it.expect("a client")).collect();
    let took = done.iter().map(|(_, _, ended, _)| ended.duration_since(started)).max().unwrap_or(time);
    let pairs: usize = done.iter().map(|(pairs, ..)| pairs).sum();
    let mut waits: Vec<Duration> = Vec::new();
    for (_, its, _, session) in done {
        waits.extend(its);
        release(session).await;
    }
    (pairs as f64 / took.as_secs_f64(), p99(waits))
}

type Done = (usize, Vec<Duration>, Instant, (Session, Vec<u64>));

/// One client until the time is over. Answers with its pairs, how long each answer took, when the last one
/// came, and what it holds.
async fn client(mut session: Session, paths: Arc<Paths>, slots: usize, until: Instant) -> Done {
    let (mut pairs, mut waits, mut held) = (0, Vec::new(), Vec::new());
    let nothing = Slot { asked: Instant::now(), is_denied: false, hold: None };
    let mut all = vec![nothing; slots];
    for tag in 0..slots {
        reserve(&session, &paths, &mut all, tag).await;
    }
    let mut under_way = slots;
    while under_way > 0 {
        let (tag, told) = session.told().await;
        let tag = usize::try_from(tag).expect("a slot");
        let slot = all[tag];
        waits.push(slot.asked.elapsed());
        match (told, slot.hold) {
            (Told::Hold(answer), None) => {
                assert!(!slot.is_denied, "a full project has no room");
                let hold = answer.hold.expect("a hold").id;
                all[tag] = Slot { asked: Instant::now(), is_denied: false, hold: Some(hold) };
                let commit = v1::CommitRequest { idempotency_key: String::new(), hold };
                session.ask(tag as u64, Asked::Commit(commit)).await;
                continue;
            }
            (Told::Hold(_), Some(hold)) => {
                pairs += 1;
                held.push(hold);
            }
            (Told::Denial(_), None) if slot.is_denied => {}
            (other, _) => panic!("{other:?}"),
        }
        if Instant::now() < until {
            reserve(&session, &paths, &mut all, tag).await;
        } else {
            under_way -= 1;
        }
    }
    (pairs, waits, Instant::now(), (session, held))
}

async fn reserve(session: &Session, paths: &Paths, slots: &mut [Slot], tag: usize) {
    let (number, (tenant, project, _)) = paths.next();
    let is_denied = number % DENIED_EVERY == 0;
    // More than the project may ever have.
    let amount = if is_denied { 1 << 40 } else { 1 };
    let request = v1::ReserveRequest {
        idempotency_key: format!("{number}"),
        scope: Some(v1::QuotaScope { tenant: tenant.clone(), project: project.clone() }),
        items: vec![v1::QuotaItem { amount, ..item() }],
        ttl_seconds: 600,
    };
    slots[tag] = Slot { asked: Instant::now(), is_denied, hold: None };
    session.ask(tag as u64, Asked::Reserve(request)).await;
}

/// Gives all back.
async fn release((mut session, held): (Session, Vec<u64>)) {
    for some in held.chunks(SLOTS) {
        for hold in some {
            let request = v1::ReleaseRequest { idempotency_key: String::new(), hold: *hold };
            session.ask(*hold, Asked::Release(request)).await;
        }
        for _ in some {
            assert!(matches!(session.told().await, (_, Told::Hold(_))));
        }
    }
}

/// The 99th of a hundred checks, in milliseconds: at a pace, from when each was due, or each client one at once.
async fn checks(served: &Served, paths: &Arc<Paths>, pace: Option<u32>, time: Duration) -> f64 {
    let sessions = join_all((0..CLIENTS).map(|_| served.session())).await;
    let started = Instant::now();
    let every = pace.map(|pace| Duration::from_secs(1) * u32::try_from(CLIENTS).expect("a number") / pace);
    let clients = sessions.into_iter().zip(0_u32..).map(|(mut session, number)| {
        let paths = Arc::clone(paths);
        tokio::spawn(async move {
            let mut waits = Vec::new();
            // Clients do not ask all at once.
            let mut due =
                started + every.unwrap_or_default() * number / u32::try_from(CLIENTS).expect("a number");
            while due < started + time {
                let (_, (tenant, project, _)) = paths.next();
                let scope = Some(v1::QuotaScope { tenant: tenant.clone(), project: project.clone() });
                tokio::time::sleep_until(due.into()).await;
                // A timer is no finer than a millisecond; what it is late by is not the server's.
                let asked = Instant::now();
                session.ask(0, Asked::Check(v1::CheckRequest { scope, items: vec![item()] })).await;
                assert!(matches!(session.told().await, (0, Told::Check(_))));
                waits.push(asked.elapsed());
                due = every.map_or_else(Instant::now, |every| due + every);
            }
            waits
        })
    });
    let waits = join_all(clients).await.into_iter().flat_map(|it| it.expect("a client"));
    p99(waits.collect())
}

fn p99(mut waits: Vec<Duration>) -> f64 {
    waits.sort_unstable();
    let at = (waits.len() * 99 / 100).min(waits.len().saturating_sub(1));
    waits.get(at).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1_000.0)
}

const TABLES: &str = "\
    DROP TABLE IF EXISTS locked_limits, locked_holds; \
    CREATE TABLE locked_limits (node int PRIMARY KEY, most bigint NOT NULL, used bigint NOT NULL, held bigint NOT NULL); \
    CREATE TABLE locked_holds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, node int NOT NULL, amount bigint NOT NULL, committed bool NOT NULL)";

async fn peer_tables(url: &str, shape: &Shape) {
    let mut session = connect(url).await;
    session.execute(TABLES).await.expect("tables");
    let nodes = i32::try_from(shape.nodes()).expect("a number");
    sqlx::query("INSERT INTO locked_limits SELECT n, 1 << 30, 0, 0 FROM generate_series(0, $1) AS n")
        .bind(nodes)
        .execute(&mut session)
        .await
        .expect("limits");
}

/// The same pairs by the peer: 64 sessions, two transactions for each pair.
async fn locked_pairs(url: &str, paths: &Arc<Paths>, time: Duration) -> (f64, f64) {
    let sessions = join_all((0..CLIENTS).map(|_| connect(url))).await;
    let started = Instant::now();
    let clients = sessions.into_iter().map(|mut session| {
        let paths = Arc::clone(paths);
        tokio::spawn(async move {
            let (mut pairs, mut waits) = (0_usize, Vec::new());
            while started.elapsed() < time {
                let (_, (_, _, path)) = paths.next();
                let asked = Instant::now();
                let hold = locked_reserve(&mut session, path).await;
                waits.push(asked.elapsed());
                let asked = Instant::now();
                locked_commit(&mut session, path, hold).await;
                waits.push(asked.elapsed());
                pairs += 1;
            }
            (pairs, waits)
        })
    });
    let done: Vec<_> = join_all(clients).await.into_iter().map(|it| it.expect("a client")).collect();
    let took = started.elapsed().as_secs_f64();
    let pairs: usize = done.iter().map(|(pairs, _)| pairs).sum();
    (pairs as f64 / took, p99(done.into_iter().flat_map(|(_, waits)| waits).collect()))
}

async fn locked_reserve(session: &mut PgConnection, path: &[i32; 4]) -> i64 {
    let mut transaction = session.begin().await.expect("a transaction");
    let rows = sqlx::query(
        "SELECT most - used - held AS room FROM locked_limits WHERE node = ANY($1) ORDER BY node FOR UPDATE",
    )
    .bind(&path[..])
    .fetch_all(&mut *transaction)
    .await
    .expect("rows");
    assert!(rows.len() == 4 && rows.iter().all(|row| row.get::<i64, _>(0) >= 1), "there is room");
    sqlx::query("UPDATE locked_limits SET held = held + 1 WHERE node = ANY($1)")
        .bind(&path[..])
        .execute(&mut *transaction)
        .await
        .expect("counters");
    let hold =
        sqlx::query("INSERT INTO locked_holds (node, amount, committed) VALUES ($1, 1, false) RETURNING id")
            .bind(path[3])
            .fetch_one(&mut *transaction)
            .await
            .expect("a hold");
    transaction.commit().await.expect("a commit");
    hold.get(0)
}

async fn locked_commit(session: &mut PgConnection, path: &[i32; 4], hold: i64) {
    let mut transaction = session.begin().await.expect("a transaction");
    sqlx::query("SELECT 1 FROM locked_limits WHERE node = ANY($1) ORDER BY node FOR UPDATE")
        .bind(&path[..])
        .execute(&mut *transaction)
        .await
        .expect("locks");
    let kept = sqlx::query("UPDATE locked_holds SET committed = true WHERE id = $1 AND NOT committed")
        .bind(hold)
        .execute(&mut *transaction)
        .await
        .expect("a hold");
    assert_eq!(kept.rows_affected(), 1);
    sqlx::query("UPDATE locked_limits SET held = held - 1, used = used + 1 WHERE node = ANY($1)")
        .bind(&path[..])
        .execute(&mut *transaction)
        .await
        .expect("counters");
    transaction.commit().await.expect("a commit");
}

/// All was given back, and nothing is counted any more.
fn check_books(handle: &CellHandle) {
    let (holds, counted, unsound) = handle
        .read_blocking(|state| {
            let (tree, holds) = (state.quotas().tree(), state.quotas().holds());
            let standings = tree.nodes().flat_map(|node| tree.standings(node));
            let counted: u64 = standings.map(|(_, standing)| standing.taken.claimed()).sum();
            (holds.len(), counted, tree.unsound().len())
        })
        .expect("a cell that is open");
    assert_eq!((holds, counted, unsound), (0, 0, 0), "what was held was given back");
}
