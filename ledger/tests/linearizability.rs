//! as clients see them: whatever happens to the cell, what its clients heard of quota
//! fits one order in which a single thread could have answered them.
//!
//! Clients on threads of their own reserve, commit, resize and release in a small tree with tight limits,
//! and speak of each other's holds. Meanwhile commits fail, the cell is killed and started again, another
//! candidate takes over, the database server is killed, and time passes by more than a hold lasts. What
//! each client asked and heard is recorded, and the checker of `hourglass-test-history`, which shares no
//! code with the ledger, looks for the order. When all has healed nothing may be left of what was held.
//!
//! A seed fixes what clients ask and which faults there are, and not how threads interleave: the same
//! seed gives a similar history, never the same. So a history that fails is printed where it ends.
//!
//! That the test can fail, [`answers_that_lie_are_caught`] and [`commits_that_lie_are_caught`] show.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use hourglass_ledger::cell::{Cell, CellError, CellHandle, CellOptions, Clock, LEASE_MIN, Submission};
use hourglass_ledger::core::quotas::{Ask, QuotaCommand, QuotaRejection};
use hourglass_ledger::core::{
    Command, Detail, IdempotencyKey, Outcome, Policy, Position, Recorded, Rejection, State,
};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::faulty::{Faults, FaultyStore};
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresStore};
use hourglass_ledger::store::{Acquire, AcquireError, Commit, CommitError, Head, Reader, Store, StoreError};
use hourglass_ledger::verify::verify;
use hourglass_quota::hold::HoldState;
use hourglass_quota::{Bound, Class, HoldId, Limits};
use hourglass_test_chance::{Chance, from_environment};
use hourglass_test_history::{History, QuotaAnswer, QuotaModel, QuotaOp, Recorder, Token, Violation};
use hourglass_test_servers::Postgres;
use hourglass_units::{Currency, Instant};

use super::cell::{BEGIN, Lands, Late, Mortal, sqlite, start_cell};
use super::standby::{OwnClock, wait_for, writes};
use super::support::{MINUTE, card, ms, open_cell, open_tenant};

/// How long a hold lasts. Far more than all leases that are waited for in a history, so that holds run
/// out where [`World::let_holds_run_out`] says, and nowhere else.
const TTL: i64 = 10 * MINUTE;
const GPU: &str = "compute.instance.gpu.h100";
const DISK: &str = "compute.disk.size";
const RESOURCES: [&str; 2] = [GPU, DISK];
const PROJECTS: [&str; 3] = ["train", "tune", "serve"];
/// Node, resource and limit: two projects in a group, and one directly under the tenant.
const LIMITS: [(&str, &str, u64); 5] = [
    ("tenants/acme", GPU, 20),
    ("tenants/acme", DISK, 30),
    ("tenants/acme/groups/research", GPU, 12),
    ("tenants/acme/projects/train", GPU, 8),
    ("tenants/acme/projects/serve", DISK, 16),
];
/// So often a request is repeated at most; while a candidate takes over it is refused many times.
const ATTEMPTS_MAX: usize = 10_000;
/// As whom the passing of time is recorded.
const CLOCK: u32 = 1_000;
/// So many histories of a seed may be undecided: about one in a thousand is.
const UNDECIDED_MAX: u32 = 3;
/// Nothing takes so long unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same tree as the checker knows it.
fn model() -> QuotaModel {
    let group = ["tenants/acme", "tenants/acme/groups/research"];
    let (train, tune, serve) =
        ("tenants/acme/projects/train", "tenants/acme/projects/tune", "tenants/acme/projects/serve");
    let model = QuotaModel::default()
        .path("train", &[group[0], group[1], train])
        .path("tune", &[group[0], group[1], tune])
        .path("serve", &[group[0], serve])
        .denials_leave_no_trace();
    LIMITS.into_iter().fold(model, |model, (node, resource, most)| model.limit(node, resource, most))
}

fn quota(command: QuotaCommand) -> Command {
    Command::Quota(Box::new(command))
}

fn tree() -> Vec<Command> {
    let tenant = || "acme".parse().unwrap();
    let group = || "research".parse().unwrap();
    let mut commands = vec![
        open_cell(Policy::default()),
        Command::PublishRateCard(card(Currency::USD, 1, ms(BEGIN), 2_950_000_000)),
        open_tenant("acme", Currency::USD),
        quota(QuotaCommand::CreateGroup { tenant: tenant(), group: group(), parent: None }),
    ];
    for (project, group) in [("train", Some(group())), ("tune", Some(group())), ("serve", None)] {
        let project = project.parse().unwrap();
        commands.push(quota(QuotaCommand::PlaceProject { tenant: tenant(), project, group }));
    }
    for (node, resource, most) in LIMITS {
        let (node, resource) = (node.parse().unwrap(), resource.parse().unwrap());
        let limits = Some(Limits::nominal(Bound::AtMost(most)));
        commands.push(quota(QuotaCommand::SetLimits { node, resource, class: Class::OnDemand, limits }));
    }
    commands
}

/// What a history is made of.
#[derive(Clone, Copy)]
struct Shape {
    clients: u32,
    /// Of each client.
    operations: u64,
    /// How commits fail.
    faults: Faults,
    /// Something happens to a cell after one operation in so many; 0 is never.
    disturbed: u64,
    /// A client gives up, and never learns the outcome, after one failed attempt in so many; 0 is never.
    gives_up: u64,
    lie: Lie,
}

/// What is wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    Nothing,
    /// Each so-manieth denial is told as a grant.
    DeniedAsGranted(u64),
    /// Each so-manieth release is told as done, and never sent.
    ReleaseNotSent(u64),
    /// Each so-manieth commit of the log is acknowledged, and not stored.
    CommitNotStored(u64),
}

/// What became of a reservation, by the name that its client chose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its answer is under way.
    Asked,
    /// Granted, and as far as is known not given back.
    Held(HoldId),
    /// Released, or it ran out.
    Over(HoldId),
    /// Denied.
    Nothing,
    /// Its client gave up.
    Unknown,
}

/// What a client tells the one who disturbs.
enum Told {
    /// An operation has its answer, or was given up.
    Done,
    /// A cell is of no use any more.
    Broken,
}

/// What clients and the one who disturbs them share.
struct Lab {
    shape: Shape,
    recorder: Recorder<QuotaOp, QuotaAnswer>,
    clock: Arc<OwnClock>,
    /// The running cells, by the number of their start; clients wait while there is none.
    cells: Mutex<BTreeMap<u64, CellHandle>>,
    started: Condvar,
    requests: Mutex<BTreeMap<u64, Standing>>,
    /// Whoever writes here keeps clients from beginning anything; what is under way goes on.
    pause: RwLock<()>,
    /// Which reservation was asked under which key.
    keys: Mutex<BTreeMap<IdempotencyKey, u64>>,
    /// Counts what may be lied about.
    chances_to_lie: AtomicU64,
    failed_attempts: AtomicU64,
}

impl Lab {
    fn requests(&self) -> MutexGuard<'_, BTreeMap<u64, Standing>> {
        self.requests.lock().unwrap()
    }

    /// A running cell; which one, where several are, is left to chance.
    fn a_cell(&self, chance: &mut Chance) -> (u64, CellHandle) {
        let cells = self.cells.lock().unwrap();
        let (cells, _) = self.started.wait_timeout_while(cells, PATIENCE, |it| it.is_empty()).unwrap();
        assert!(!cells.is_empty(), "no cell runs");
        let (number, handle) = chance.pick(&cells.iter().collect::<Vec<_>>()).to_owned();
        (*number, handle.clone())
    }

    /// Whether this one of what is counted is to be lied about.
    fn lies(&self, every: u64) -> bool {
        self.chances_to_lie.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }
}

struct Client<'a> {
    lab: &'a Lab,
    number: u32,
    chance: Chance,
    told: Sender<Told>,
}

impl Client<'_> {
    fn run(mut self) {
        for turn in 0..self.lab.shape.operations {
            let key = IdempotencyKey::new(&format!("client {}", self.number), &turn.to_string());
            let (op, command, token) = {
                let _may_begin = self.lab.pause.read().unwrap();
                let (op, command) = self.draw();
                if let QuotaOp::Reserve { id, .. } = op {
                    self.lab.keys.lock().unwrap().insert(key, id);
                }
                let token = self.lab.recorder.invoke(self.number, op.clone());
                (op, command, token)
            };
            let heard = match (&op, self.lab.shape.lie) {
                (QuotaOp::Release { .. }, Lie::ReleaseNotSent(every)) if self.lab.lies(every) => {
                    Some((QuotaAnswer::Done, None))
                }
                _ => self.ask(&command, key).map(|outcome| heard(&op, outcome)),
            };
            self.record(&op, token, heard);
            // Nobody listens once a test has failed.
            drop(self.told.send(Told::Done));
        }
    }

    /// What it asks next, mostly of a hold that is there: anybody's.
    fn draw(&mut self) -> (QuotaOp, Command) {
        let mut requests = self.lab.requests();
        let (mut held, mut over) = (Vec::new(), Vec::new());
        for (id, standing) in requests.iter().rev() {
            match standing {
                Standing::Held(hold) => held.push((*id, *hold)),
                Standing::Over(hold) if over.len() < 8 => over.push((*id, *hold)),
                _ => {}
            }
        }
        let known = if self.chance.one_in(12) && !over.is_empty() { over } else { held };
        let which = self.chance.below(100);
        if which < 45 || known.is_empty() {
            let id = requests.len() as u64 + 1;
            requests.insert(id, Standing::Asked);
            let (project, items) = (*self.chance.pick(&PROJECTS), items(&mut self.chance));
            let (tenant, of) = ("acme".parse().unwrap(), project.parse().unwrap());
            let command = QuotaCommand::Reserve { tenant, project: of, items: asks(&items), ttl_ms: TTL };
            return (QuotaOp::reserve(id, project, &items), quota(command));
        }
        let (id, hold) = *self.chance.pick(&known);
        let (op, command) = match which {
            45..58 => (QuotaOp::Commit { id }, QuotaCommand::Commit { hold }),
            58..70 => {
                let items = items(&mut self.chance);
                (QuotaOp::resize(id, &items), QuotaCommand::Resize { hold, items: asks(&items) })
            }
            _ => (QuotaOp::Release { id }, QuotaCommand::Release { hold }),
        };
        (op, quota(command))
    }

    /// Asks under one key until there is an answer. `None` where it gave up.
    fn ask(&mut self, command: &Command, key: IdempotencyKey) -> Option<Result<Outcome, Rejection>> {
        let lab = self.lab;
        for _ in 0..ATTEMPTS_MAX {
            let (number, cell) = lab.a_cell(&mut self.chance);
            match cell.submit_blocking(Submission { command: command.clone(), key: Some(key), at: None }) {
                Ok(outcome) => return Some(Ok(outcome)),
                Err(CellError::Rejected(rejection)) => return Some(Err(rejection)),
                // Another one writes.
                Err(CellError::StandingBy { .. }) => continue,
                Err(CellError::Unavailable(_)) => {}
                Err(CellError::Deposed | CellError::Closed) => {
                    // A cell that was deposed and cannot stand by, or that has ended.
                    if cell.status().writable.load(Ordering::Acquire) == 0 {
                        lab.cells.lock().unwrap().remove(&number);
                        drop(self.told.send(Told::Broken));
                    }
                }
            }
            lab.failed_attempts.fetch_add(1, Ordering::Relaxed);
            if lab.shape.gives_up > 0 && self.chance.one_in(lab.shape.gives_up) {
                return None;
            }
        }
        panic!("{command:?} is never answered");
    }

    fn record(&self, op: &QuotaOp, token: Token, heard: Option<(QuotaAnswer, Option<HoldId>)>) {
        let told = match (heard, self.lab.shape.lie) {
            (None, _) => None,
            (Some((QuotaAnswer::Denied, _)), Lie::DeniedAsGranted(every)) if self.lab.lies(every) => {
                Some(QuotaAnswer::Granted)
            }
            (Some((answer, _)), _) => Some(answer),
        };
        match told {
            None => self.lab.recorder.crash(token),
            Some(answer) => self.lab.recorder.complete(token, answer),
        }
        let mut requests = self.lab.requests();
        let then = match (op, heard, requests.get(&op.id())) {
            (QuotaOp::Reserve { .. }, None, _) => Standing::Unknown,
            (QuotaOp::Reserve { .. }, Some((_, Some(hold))), _) => Standing::Held(hold),
            (QuotaOp::Reserve { .. }, Some((_, None)), _) => Standing::Nothing,
            (QuotaOp::Release { .. }, Some(_), Some(Standing::Held(hold))) => Standing::Over(*hold),
            _ => return,
        };
        requests.insert(op.id(), then);
    }
}

/// What an outcome is in the checker's words; and the hold, where one was granted.
fn heard(op: &QuotaOp, outcome: Result<Outcome, Rejection>) -> (QuotaAnswer, Option<HoldId>) {
    let done = match op {
        QuotaOp::Reserve { .. } | QuotaOp::Resize { .. } => QuotaAnswer::Granted,
        _ => QuotaAnswer::Done,
    };
    match outcome {
        Ok(outcome) => match outcome.answer().detail {
            Detail::Hold { hold, state, .. } => {
                assert_ne!(state, HoldState::Pending, "nothing is lent here");
                // The release of what has run out changes nothing, and says so.
                let done = if state == HoldState::Expired { QuotaAnswer::Refused } else { done };
                (done, matches!(op, QuotaOp::Reserve { .. }).then_some(hold))
            }
            ref other => panic!("{op:?}: {other:?}"),
        },
        Err(Rejection::Quota(QuotaRejection::Denied(_))) if done == QuotaAnswer::Granted => {
            (QuotaAnswer::Denied, None)
        }
        Err(Rejection::Quota(QuotaRejection::Hold(_))) if !matches!(op, QuotaOp::Reserve { .. }) => {
            (QuotaAnswer::Refused, None)
        }
        Err(other) => panic!("{op:?}: {other}"),
    }
}

/// Some GPUs, and often disks.
fn items(chance: &mut Chance) -> Vec<(&'static str, u64)> {
    let amounts = [1 + chance.below(6), chance.below(9)];
    RESOURCES.into_iter().zip(amounts).filter(|(_, amount)| *amount > 0).collect()
}

fn asks(items: &[(&str, u64)]) -> Vec<Ask> {
    let ask = |(resource, amount): &(&str, u64)| Ask {
        resource: resource.parse().unwrap(),
        class: Class::OnDemand,
        amount: *amount,
    };
    items.iter().map(ask).collect()
}

/// Where the books are.
enum Place {
    Sqlite(tempfile::TempDir),
    Postgres { server: Box<Postgres>, url: String },
}

impl Place {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// A server of one's own, since it will be killed. A process that is killed loses nothing that it gave
    /// to the kernel, so nothing need wait for a disk.
    fn postgres() -> Self {
        let settings = vec![("fsync".to_owned(), "off".to_owned())];
        let server = Postgres::start(hourglass_test_servers::PostgresOptions { tls: None, settings });
        let url = server.database();
        Self::Postgres { server: Box::new(server), url }
    }

    fn store(&self) -> Box<dyn Store> {
        match self {
            Self::Sqlite(directory) => sqlite(directory.path()),
            Self::Postgres { url, .. } => {
                Box::new(PostgresStore::open(&PostgresOptions::new(url.as_str())).unwrap())
            }
        }
    }

    /// Who may write: on a server, two candidates.
    fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &["sole"],
            Self::Postgres { .. } => &["a", "b"],
        }
    }
}

/// A store that can be frozen by whoever holds its gate, and whose every so-manieth commit is a lie.
struct Gated {
    inner: Box<dyn Store>,
    gate: Arc<Mutex<()>>,
    lie: Lie,
    commits: u64,
}

impl Store for Gated {
    fn acquire(&mut self, acquire: &Acquire) -> Result<Head, AcquireError> {
        let _open = self.gate.lock().unwrap();
        self.inner.acquire(acquire)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), CommitError> {
        let _open = self.gate.lock().unwrap();
        self.commits += 1;
        match self.lie {
            Lie::CommitNotStored(every) if self.commits.is_multiple_of(every) => Ok(()),
            _ => self.inner.commit(commit),
        }
    }
    fn release(&mut self, epoch: u64, now: Instant) -> Result<(), StoreError> {
        self.inner.release(epoch, now)
    }
    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner.write_snapshot(snapshot)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}

struct Running {
    number: u64,
    cell: Cell,
    alive: Arc<AtomicBool>,
    gone: Receiver<()>,
    gate: Arc<Mutex<()>>,
}

/// What happened beside what clients asked.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    kills: u64,
    closes: u64,
    deposed: u64,
    server_kills: u64,
    ran_out: u64,
    faults: u64,
}

/// The one who disturbs.
struct World<'a> {
    lab: &'a Lab,
    place: Place,
    chance: Chance,
    faults: Faults,
    lie: Lie,
    running: BTreeMap<&'static str, Running>,
    starts: u64,
    injected: Vec<Arc<AtomicU64>>,
    tally: Tally,
}

impl World<'_> {
    fn start(&mut self, name: &'static str) {
        self.starts += 1;
        let faulty = FaultyStore::new(self.place.store(), self.faults, self.chance.next());
        self.injected.push(Arc::clone(&faulty.injected));
        let gate = Arc::new(Mutex::new(()));
        let gated = Gated { inner: Box::new(faulty), gate: Arc::clone(&gate), lie: self.lie, commits: 0 };
        let (store, alive, gone) = Mortal::new(Box::new(gated));
        let options = match self.place.names() {
            [_] => CellOptions::sole(name),
            _ => CellOptions::candidate(name, LEASE_MIN),
        };
        let clock = Arc::clone(&self.lab.clock) as Arc<dyn Clock>;
        let cell = Cell::start(Box::new(store), clock, options, |_, _| {}).unwrap();
        self.lab.cells.lock().unwrap().insert(self.starts, cell.handle());
        self.lab.started.notify_all();
        self.running.insert(name, Running { number: self.starts, cell, alive, gone, gate });
    }

    fn start_all(&mut self) {
        for name in self.place.names() {
            if !self.running.contains_key(name) {
                self.start(name);
            }
        }
    }

    /// Ends a cell: by itself, or as a power cut would.
    fn end(&mut self, name: &str, kill: bool) {
        let Some(Running { number, cell, alive, gone, .. }) = self.running.remove(name) else { return };
        self.lab.cells.lock().unwrap().remove(&number);
        if kill {
            alive.store(false, Ordering::SeqCst);
            drop(cell);
            self.tally.kills += 1;
        } else {
            cell.close();
            self.tally.closes += 1;
        }
        gone.recv_timeout(PATIENCE).expect("the cell's threads end");
    }

    /// Starts again what was found to be of no use.
    fn mend(&mut self) {
        let known: Vec<u64> = self.lab.cells.lock().unwrap().keys().copied().collect();
        let broken = self.running.iter().filter(|(_, it)| !known.contains(&it.number)).map(|(name, _)| *name);
        for name in broken.collect::<Vec<_>>() {
            self.tally.deposed += 1;
            self.end(name, false);
            self.start(name);
        }
    }

    /// Something happens to a cell, or to the server below.
    fn disturb(&mut self) {
        let name = *self.chance.pick(self.place.names());
        let kind = self.chance.below(5);
        match (&mut self.place, kind) {
            (Place::Sqlite(_), _) => {
                let kill = self.chance.one_in(2);
                self.end(name, kill);
            }
            (Place::Postgres { server, .. }, 0) => {
                self.tally.server_kills += 1;
                server.kill();
                server.start_again();
            }
            (_, 1 | 2) => self.freeze_the_writer(),
            // What was killed left a lease; under its own name it need not wait for it.
            (_, 3) => self.end(name, true),
            _ => {
                self.end(name, false);
                self.leases_end();
                self.wait_for_a_writer();
            }
        }
        self.start_all();
    }

    fn leases_end(&self) {
        self.lab.clock.advance(2 * i64::try_from(LEASE_MIN.as_millis()).unwrap());
    }

    fn wait_for_a_writer(&self) {
        let handles: Vec<CellHandle> = self.running.values().map(|it| it.cell.handle()).collect();
        wait_for("a candidate writes", || handles.iter().any(writes));
    }

    /// The writer stands still in the middle of whatever it does, its lease ends, and another one takes
    /// over; then it goes on.
    fn freeze_the_writer(&mut self) {
        self.wait_for_a_writer();
        let Some((name, writer)) = self.running.iter().find(|(_, it)| writes(&it.cell.handle())) else {
            return;
        };
        let held = writer.gate.lock().unwrap();
        self.leases_end();
        let others = self.running.iter().filter(|(other, _)| *other != name);
        let others: Vec<CellHandle> = others.map(|(_, it)| it.cell.handle()).collect();
        wait_for("another candidate takes over", || others.iter().any(writes));
        drop(held);
        self.tally.deposed += 1;
    }

    /// Asks the cells until one answers.
    fn ask<T>(&mut self, ask: impl Fn(&CellHandle) -> Result<T, CellError>) -> Result<T, Rejection> {
        for _ in 0..ATTEMPTS_MAX {
            for (name, handle) in
                self.running.iter().map(|(name, it)| (*name, it.cell.handle())).collect::<Vec<_>>()
            {
                match ask(&handle) {
                    Ok(answer) => return Ok(answer),
                    Err(CellError::Rejected(rejection)) => return Err(rejection),
                    Err(CellError::Deposed | CellError::Closed) if self.place.names().len() == 1 => {
                        self.end(name, false);
                        self.start(name);
                    }
                    Err(_) => {}
                }
            }
        }
        panic!("no cell answers");
    }

    fn submit(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.ask(|cell| cell.submit_blocking(command.clone()))
    }

    fn read<T: Send + 'static>(&mut self, read: impl Fn(&State) -> T + Clone + Send + 'static) -> T {
        self.ask(|cell| cell.read_blocking(read.clone())).unwrap()
    }

    /// Until all clients are done.
    fn run(&mut self, told: &Receiver<Told>) {
        let all = u64::from(self.lab.shape.clients) * self.lab.shape.operations;
        let mut run_out_at = [all / 3, 2 * all / 3].into_iter().peekable();
        while self.hear(told) {
            if run_out_at.next_if(|at| self.tally.done >= *at).is_some() {
                self.let_holds_run_out(told);
            }
            let disturbed = self.lab.shape.disturbed;
            if disturbed > 0 && self.chance.one_in(disturbed) {
                self.disturb();
            }
        }
    }

    /// Hears what one client tells; `false` where all have ended.
    fn hear(&mut self, told: &Receiver<Told>) -> bool {
        match told.recv_timeout(PATIENCE) {
            Ok(Told::Done) => self.tally.done += 1,
            Ok(Told::Broken) => self.mend(),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("the clients are stuck: {:?}", self.tally),
        }
        true
    }

    /// More time passes than a hold lasts, while clients go on: what is not committed is refused from that
    /// moment on, and given back by a review.
    fn let_holds_run_out(&mut self, told: &Receiver<Told>) {
        let lab = self.lab;
        let mut watched: Vec<(u64, [Token; 2])> = {
            // Nobody reserves meanwhile: what is reserved later outlasts this.
            let requests = lab.requests();
            let may_be_held = |standing: &Standing| {
                matches!(standing, Standing::Asked | Standing::Held(_) | Standing::Unknown)
            };
            let may_be_held = requests.iter().filter(|(_, standing)| may_be_held(standing));
            let watch = |id: u64| {
                let happens = [QuotaOp::Lapse { id }, QuotaOp::Expire { id }];
                (id, happens.map(|op| lab.recorder.invoke(CLOCK, op)))
            };
            let watched = may_be_held.map(|(id, _)| watch(*id)).collect();
            lab.clock.advance(TTL);
            watched
        };
        let now = lab.clock.now();
        // For a while holds are past their time and still count.
        for _ in 0..lab.shape.clients {
            self.hear(told);
        }
        // An expiry that seems to be under way for long makes the search for an order hard, so it meets
        // only what is under way already.
        let _paused = lab.pause.write().unwrap();
        loop {
            while self.read(move |state| state.quotas().is_due(now)) {
                // It may be done by the time it is heard.
                drop(self.submit(&quota(QuotaCommand::Review)));
            }
            let answered = |id: u64| lab.requests().get(&id) != Some(&Standing::Asked);
            let known: Vec<_> = watched.extract_if(.., |(id, _)| answered(*id)).collect();
            self.settle(known, now);
            if watched.is_empty() {
                return;
            }
            self.hear(told);
        }
    }

    /// Notes which of these holds ran out, and that the others did not.
    fn settle(&mut self, watched: Vec<(u64, [Token; 2])>, now: Instant) {
        let lab = self.lab;
        let taken = self.holds_in_the_log();
        let hold_of = |id: u64| match lab.requests().get(&id) {
            Some(Standing::Held(hold) | Standing::Over(hold)) => Some(*hold),
            // If it is stored later still, it is seen to run out next time; nobody knows its name, so nobody
            // can ask meanwhile.
            Some(Standing::Unknown) => taken.get(&id).copied(),
            _ => None,
        };
        let holds: Vec<Option<HoldId>> = watched.iter().map(|(id, _)| hold_of(*id)).collect();
        let ends = self.read({
            let holds = holds.clone();
            move |state| holds.iter().map(|hold| hold.map(|it| end_of(state, it, now))).collect::<Vec<_>>()
        });
        for (((id, [lapse, expire]), hold), end) in watched.into_iter().zip(holds).zip(ends) {
            match end {
                None | Some(End::Lives | End::ReleasedBefore) => {
                    [lapse, expire].into_iter().for_each(|token| lab.recorder.withdraw(token));
                }
                Some(End::ReleasedAfter) => lab.recorder.withdraw(expire),
                Some(End::Expired) => {
                    let tokens = [lapse, expire].into_iter();
                    tokens.for_each(|token| lab.recorder.complete(token, QuotaAnswer::Expired));
                    self.tally.ran_out += 1;
                }
                Some(End::Unclear) => {}
            }
            if let (Some(hold), Some(End::ReleasedAfter | End::ReleasedBefore | End::Expired)) = (hold, end) {
                lab.requests().insert(id, Standing::Over(hold));
            }
        }
    }

    /// The holds that are in the log, by the reservation that took them: also those whose client gave up.
    fn holds_in_the_log(&mut self) -> BTreeMap<u64, HoldId> {
        let events = self.ask(|cell| {
            let events = cell.reader().events(Position::ZERO, usize::MAX);
            events.map_err(|error| CellError::Unavailable(error.to_string()))
        });
        let keys = self.lab.keys.lock().unwrap();
        let holds = events.unwrap().into_iter().filter_map(|event| {
            let (key, _) = Recorded::decode(&event.payload).unwrap().key?;
            Some((*keys.get(&key)?, HoldId(event.position.number())))
        });
        holds.collect()
    }

    /// all heals, time passes, and nothing of what was held is left.
    fn nothing_is_left(&mut self) {
        let lab = self.lab;
        lab.clock.advance(TTL);
        drop(self.submit(&quota(QuotaCommand::Review)));
        let left = self.read(|state| {
            let holds = state.quotas().holds().iter();
            holds.map(|(id, hold)| (id, hold.state)).collect::<Vec<_>>()
        });
        for (hold, state) in left {
            assert_eq!(state, HoldState::Committed, "Q-3: {hold} outlives its time");
            let _released = self.submit(&quota(QuotaCommand::Release { hold })).unwrap();
        }
        let (holds, counters, unsound) = self.read(|state| {
            let (tree, holds) = (state.quotas().tree(), state.quotas().holds());
            let standings = tree.nodes().flat_map(|node| tree.standings(node));
            let counters = standings.map(|(_, standing)| standing.taken.claimed()).collect::<Vec<_>>();
            (holds.len(), counters, tree.unsound())
        });
        assert_eq!((holds, unsound), (0, Vec::new()));
        assert!(counters.len() >= LIMITS.len() && counters.iter().all(|it| *it == 0), "Q-3: {counters:?}");
    }
}

/// What became of a hold whose time was to be over at an instant.
#[derive(Clone, Copy)]
enum End {
    /// It is committed, or was taken later.
    Lives,
    /// Released before its time was over.
    ReleasedBefore,
    /// Released after; it was committed, or its time was over.
    ReleasedAfter,
    Expired,
    /// A commit that arrived late, or one that was lost.
    Unclear,
}

fn end_of(state: &State, hold: HoldId, now: Instant) -> End {
    match (state.quotas().holds().get(hold), state.quotas().holds().ended(hold)) {
        (Some(it), _) if it.state == HoldState::Committed || it.expires_at > now => End::Lives,
        (None, Some(it)) if it.state == HoldState::Expired => End::Expired,
        (None, Some(it)) if it.state == HoldState::Released && it.at < now => End::ReleasedBefore,
        (None, Some(it)) if it.state == HoldState::Released => End::ReleasedAfter,
        _ => End::Unclear,
    }
}

/// Records a history; what is wrong on purpose apart, the books are sound and nothing is left at its end.
fn record(seed: u64, shape: Shape, place: Place) -> History<QuotaOp, QuotaAnswer> {
    let lab = Lab {
        shape,
        recorder: Recorder::default(),
        clock: OwnClock::new(),
        cells: Mutex::default(),
        started: Condvar::new(),
        requests: Mutex::default(),
        pause: RwLock::default(),
        keys: Mutex::default(),
        chances_to_lie: AtomicU64::new(0),
        failed_attempts: AtomicU64::new(0),
    };
    let mut chance = Chance(seed);
    let mut world = World {
        lab: &lab,
        place,
        chance: Chance(chance.next()),
        faults: Faults::default(),
        lie: Lie::Nothing,
        running: BTreeMap::new(),
        starts: 0,
        injected: Vec::new(),
        tally: Tally::default(),
    };
    world.start_all();
    for command in tree() {
        let _done = world.submit(&command).unwrap();
    }
    // From here on everything fails.
    for name in world.place.names() {
        world.end(name, false);
    }
    (world.faults, world.lie, world.tally) = (shape.faults, shape.lie, Tally::default());
    world.start_all();
    let (tells, told) = channel();
    std::thread::scope(|scope| {
        for number in 0..shape.clients {
            let client = Client { lab: &lab, number, chance: Chance(chance.next()), told: tells.clone() };
            scope.spawn(move || client.run());
        }
        drop(tells);
        world.run(&told);
    });

    // And here all heals.
    for name in world.place.names() {
        world.end(name, false);
    }
    (world.faults, world.lie) = (Faults::default(), Lie::Nothing);
    world.start_all();
    world.let_holds_run_out(&told);
    let history = lab.recorder.history();
    world.nothing_is_left();
    for name in world.place.names() {
        world.end(name, false);
    }
    let scratch = tempfile::tempdir().unwrap();
    let report = verify(world.place.store().reader().as_ref(), scratch.path(), |_, _| {}).unwrap();
    assert_eq!(report.findings, []);

    world.tally.faults = world.injected.iter().map(|it| it.load(Ordering::Relaxed)).sum();
    let heard =
        |answer| history.calls.iter().filter(|it| it.answer.is_some_and(|(it, _)| it == answer)).count();
    let answers = [QuotaAnswer::Granted, QuotaAnswer::Denied, QuotaAnswer::Done, QuotaAnswer::Refused];
    eprintln!(
        "seed {seed}: {} calls, {} without an answer; granted, denied, done, refused: {:?}; {} failed attempts; {:?}",
        history.calls.len(),
        history.calls.iter().filter(|it| it.answer.is_none()).count(),
        answers.map(heard),
        lab.failed_attempts.load(Ordering::Relaxed),
        world.tally,
    );
    history
}

/// As [`record`] and the check, for each seed.
fn linearizable(first: u64, seeds: u64, shape: Shape, place: impl Fn() -> Place) {
    for seed in first..first + seeds {
        eprintln!("seed {seed}: HOURGLASS_FIRST_SEED={seed} HOURGLASS_HISTORIES=1 shows it alone");
        // A history in which too much happened at once says nothing: another one of the same seed does.
        let mut undecided = 0;
        while let Err(violation) = model().check(&record(seed, shape, place())) {
            undecided += 1;
            let again = matches!(violation, Violation::Undecided { .. }) && undecided < UNDECIDED_MAX;
            assert!(again, "seed {seed}: {violation}");
        }
    }
}

const SHAPE: Shape = Shape {
    clients: 12,
    operations: 60,
    faults: Faults { refused: 23, lost: 29, answer_lost: 19, late: 31, deposed: 90 },
    disturbed: 90,
    gives_up: 30,
    lie: Lie::Nothing,
};

#[test]
fn q1_quota_is_linearizable_whatever_happens_to_the_cell() {
    let first = from_environment("HOURGLASS_FIRST_SEED", 0);
    linearizable(first, from_environment("HOURGLASS_HISTORIES", 6), SHAPE, Place::sqlite);
}

/// The same on a server that is killed too, where two candidates take turns.
#[test]
fn q1_quota_is_linearizable_in_postgresql_too() {
    // Who takes over by force is the other candidate.
    let faults = Faults { refused: 47, lost: 53, answer_lost: 41, late: 59, deposed: 0 };
    let shape = Shape { clients: 8, operations: 60, faults, ..SHAPE };
    let first = from_environment("HOURGLASS_FIRST_SEED", 0);
    linearizable(first, from_environment("HOURGLASS_HISTORIES", 1), shape, Place::postgres);
}

/// A history of a sound cell with one thing wrong on purpose does not pass.
#[track_caller]
fn is_caught(lie: Lie) {
    let calm = Shape { faults: Faults::default(), disturbed: 0, gives_up: 0, ..SHAPE };
    assert!(model().check(&record(0, calm, Place::sqlite())).is_ok());
    let history = record(0, Shape { lie, ..calm }, Place::sqlite());
    match model().check(&history) {
        Err(Violation::NotLinearizable(_)) => {}
        other => panic!("{lie:?} is not caught: {other:?}"),
    }
}

#[test]
fn answers_that_lie_are_caught() {
    is_caught(Lie::DeniedAsGranted(50));
    is_caught(Lie::ReleaseNotSent(20));
}

#[test]
fn commits_that_lie_are_caught() {
    is_caught(Lie::CommitNotStored(20));
}

/// A release, and a reservation that fits because of it, are in one commit of unknown outcome. Who asks for
/// the reservation again must not hear that it does not fit, and have it a moment later.
#[test]
fn q2_a_denial_after_a_lost_commit_stays_one() {
    (0..4).map(Lands::AfterCommits).for_each(a_denial_stays_one);
}

fn a_denial_stays_one(lands: Lands) {
    let directory = tempfile::tempdir().unwrap();
    let (store, armed) = Late::new(sqlite(directory.path()), lands);
    let cell = start_cell(store);
    let handle = cell.handle();
    for command in tree() {
        let _done = handle.submit_blocking(command).unwrap();
    }
    let submission = |command: &QuotaCommand, key: &str| Submission {
        command: quota(command.clone()),
        key: Some(IdempotencyKey::new("client", key)),
        at: None,
    };
    let (tenant, project) = ("acme".parse().unwrap(), "train".parse().unwrap());
    let reserve = QuotaCommand::Reserve { tenant, project, items: asks(&[(GPU, 8)]), ttl_ms: TTL };
    let first = handle.submit_blocking(submission(&reserve, "first")).unwrap();
    let release = QuotaCommand::Release { hold: HoldId(first.answer().position.number()) };

    // Both are decided in one batch, because the deciding thread waits until both are there.
    let (both_are_there, wait) = channel::<()>();
    let (waits, is_waiting) = channel();
    let pending = std::thread::scope(|scope| {
        let reader = handle.clone();
        scope.spawn(move || {
            let waited = reader.read_blocking(move |_| {
                waits.send(()).unwrap();
                wait.recv().unwrap();
            });
            // It shares their commit, and so their fate.
            assert!(matches!(waited, Err(CellError::Unavailable(_))), "{waited:?}");
        });
        is_waiting.recv_timeout(PATIENCE).unwrap();
        armed.store(true, Ordering::SeqCst);
        let pending = [(&release, "release"), (&reserve, "second")]
            .map(|(command, key)| handle.submit_later(submission(command, key)).unwrap());
        both_are_there.send(()).unwrap();
        pending
    });
    for pending in pending {
        assert!(matches!(pending.wait(), Err(CellError::Unavailable(_))), "its outcome is not known");
    }
    // Each asks again until it has an answer, the reservation first.
    let ask_again = |command: &QuotaCommand, key: &str| {
        let mut answers = (0..10).map(|_| handle.submit_blocking(submission(command, key)));
        answers.find(|answer| !matches!(answer, Err(CellError::Unavailable(_)))).unwrap()
    };
    let second = ask_again(&reserve, "second");
    let _released = ask_again(&release, "release").unwrap();
    let held = handle.read_blocking(|state| state.quotas().holds().iter().count()).unwrap();
    assert_eq!(held, usize::from(second.is_ok()), "{lands:?}: the client heard {second:?}");
    cell.close();
}
