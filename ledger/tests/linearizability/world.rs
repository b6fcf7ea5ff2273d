//! The cell that they ask, and all that happens to it.

use super::*;

/// Where the books are.
pub(super) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres { server: Box<Postgres>, url: String },
}

impl Place {
    pub(super) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// A server of one's own, since it will be killed. A process that is killed loses nothing that it gave
    /// to the kernel, so nothing need wait for a disk.
    pub(super) fn postgres() -> Self {
        let settings = vec![("fsync".to_owned(), "off".to_owned())];
        let server = Postgres::start(hourglass_test_servers::PostgresOptions { tls: None, settings });
        let url = server.database();
        Self::Postgres { server: Box::new(server), url }
    }

    pub(super) fn store(&self) -> Box<dyn Store> {
        match self {
            Self::Sqlite(directory) => sqlite(directory.path()),
            Self::Postgres { url, .. } => {
                Box::new(PostgresStore::open(&PostgresOptions::new(url.as_str())).unwrap())
            }
        }
    }

    /// Who may write: on a server, two candidates.
    pub(super) fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &["sole"],
            Self::Postgres { .. } => &["a", "b"],
        }
    }
}

/// A store that can be frozen by whoever holds its gate, and whose every so-manieth commit is a lie.
pub(super) struct Gated {
    pub(super) inner: Box<dyn Store>,
    pub(super) gate: Arc<Mutex<()>>,
    pub(super) lie: Lie,
    pub(super) commits: u64,
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

pub(super) struct Running {
    pub(super) number: u64,
    pub(super) cell: Cell,
    pub(super) alive: Arc<AtomicBool>,
    pub(super) gone: Receiver<()>,
    pub(super) gate: Arc<Mutex<()>>,
}

/// What happened beside what clients asked.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) kills: u64,
    pub(super) closes: u64,
    pub(super) deposed: u64,
    pub(super) server_kills: u64,
    pub(super) ran_out: u64,
    pub(super) faults: u64,
}

/// The one who disturbs.
pub(super) struct World<'a> {
    pub(super) lab: &'a Lab,
    pub(super) place: Place,
    pub(super) chance: Chance,
    pub(super) faults: Faults,
    pub(super) lie: Lie,
    pub(super) running: BTreeMap<&'static str, Running>,
    pub(super) starts: u64,
    pub(super) injected: Vec<Arc<AtomicU64>>,
    pub(super) tally: Tally,
}

impl World<'_> {
    pub(super) fn start(&mut self, name: &'static str) {
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

    pub(super) fn start_all(&mut self) {
        for name in self.place.names() {
            if !self.running.contains_key(name) {
                self.start(name);
            }
        }
    }

    /// Ends a cell: by itself, or as a power cut would.
    pub(super) fn end(&mut self, name: &str, kill: bool) {
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
    pub(super) fn mend(&mut self) {
        let known: Vec<u64> = self.lab.cells.lock().unwrap().keys().copied().collect();
        let broken = self.running.iter().filter(|(_, it)| !known.contains(&it.number)).map(|(name, _)| *name);
        for name in broken.collect::<Vec<_>>() {
            self.tally.deposed += 1;
            self.end(name, false);
            self.start(name);
        }
    }

    /// Something happens to a cell, or to the server below.
    pub(super) fn disturb(&mut self) {
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

    pub(super) fn leases_end(&self) {
        self.lab.clock.advance(2 * i64::try_from(LEASE_MIN.as_millis()).unwrap());
    }

    pub(super) fn wait_for_a_writer(&self) {
        let handles: Vec<CellHandle> = self.running.values().map(|it| it.cell.handle()).collect();
        wait_for("a candidate writes", || handles.iter().any(writes));
    }

    /// The writer stands still in the middle of whatever it does, its lease ends, and another one takes
    /// over; then it goes on.
    pub(super) fn freeze_the_writer(&mut self) {
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
    pub(super) fn ask<T>(
        &mut self,
        ask: impl Fn(&CellHandle) -> Result<T, CellError>,
    ) -> Result<T, Rejection> {
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

    pub(super) fn submit(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.ask(|cell| cell.submit_blocking(command.clone()))
    }

    pub(super) fn read<T: Send + 'static>(
        &mut self,
        read: impl Fn(&State) -> T + Clone + Send + 'static,
    ) -> T {
        self.ask(|cell| cell.read_blocking(read.clone())).unwrap()
    }

    /// Until all clients are done.
    pub(super) fn run(&mut self, told: &Receiver<Told>) {
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
    pub(super) fn hear(&mut self, told: &Receiver<Told>) -> bool {
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
    pub(super) fn let_holds_run_out(&mut self, told: &Receiver<Told>) {
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
    pub(super) fn settle(&mut self, watched: Vec<(u64, [Token; 2])>, now: Instant) {
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
    pub(super) fn holds_in_the_log(&mut self) -> BTreeMap<u64, HoldId> {
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
    pub(super) fn nothing_is_left(&mut self) {
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
pub(super) enum End {
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

pub(super) fn end_of(state: &State, hold: HoldId, now: Instant) -> End {
    match (state.quotas().holds().get(hold), state.quotas().holds().ended(hold)) {
        (Some(it), _) if it.state == HoldState::Committed || it.expires_at > now => End::Lives,
        (None, Some(it)) if it.state == HoldState::Expired => End::Expired,
        (None, Some(it)) if it.state == HoldState::Released && it.at < now => End::ReleasedBefore,
        (None, Some(it)) if it.state == HoldState::Released => End::ReleasedAfter,
        _ => End::Unclear,
    }
}
