//! Clients of a cell, what they ask, and what they are told.

use super::*;

/// What a history is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) clients: u32,
    /// Of each client.
    pub(super) operations: u64,
    /// How commits fail.
    pub(super) faults: Faults,
    /// Something happens to a cell after one operation in so many; 0 is never.
    pub(super) disturbed: u64,
    /// A client gives up, and never learns the outcome, after one failed attempt in so many; 0 is never.
    pub(super) gives_up: u64,
    pub(super) lie: Lie,
}

/// What is wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
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
pub(super) enum Standing {
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
pub(super) enum Told {
    /// An operation has its answer, or was given up.
    Done,
    /// A cell is of no use any more.
    Broken,
}

/// What clients and the one who disturbs them share.
pub(super) struct Lab {
    pub(super) shape: Shape,
    pub(super) recorder: Recorder<QuotaOp, QuotaAnswer>,
    pub(super) clock: Arc<OwnClock>,
    /// The running cells, by the number of their start; clients wait while there is none.
    pub(super) cells: Mutex<BTreeMap<u64, CellHandle>>,
    pub(super) started: Condvar,
    pub(super) requests: Mutex<BTreeMap<u64, Standing>>,
    /// Whoever writes here keeps clients from beginning anything; what is under way goes on.
    pub(super) pause: RwLock<()>,
    /// Which reservation was asked under which key.
    pub(super) keys: Mutex<BTreeMap<IdempotencyKey, u64>>,
    /// Counts what may be lied about.
    pub(super) chances_to_lie: AtomicU64,
    pub(super) failed_attempts: AtomicU64,
}

impl Lab {
    pub(super) fn requests(&self) -> MutexGuard<'_, BTreeMap<u64, Standing>> {
        self.requests.lock().unwrap()
    }

    /// A running cell; which one, where several are, is left to chance.
    pub(super) fn a_cell(&self, chance: &mut Chance) -> (u64, CellHandle) {
        let cells = self.cells.lock().unwrap();
        let (cells, _) = self.started.wait_timeout_while(cells, PATIENCE, |it| it.is_empty()).unwrap();
        assert!(!cells.is_empty(), "no cell runs");
        let (number, handle) = chance.pick(&cells.iter().collect::<Vec<_>>()).to_owned();
        (*number, handle.clone())
    }

    /// Whether this one of what is counted is to be lied about.
    pub(super) fn lies(&self, every: u64) -> bool {
        self.chances_to_lie.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }
}

pub(super) struct Client<'a> {
    pub(super) lab: &'a Lab,
    pub(super) number: u32,
    pub(super) chance: Chance,
    pub(super) told: Sender<Told>,
}

impl Client<'_> {
    pub(super) fn run(mut self) {
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
    pub(super) fn draw(&mut self) -> (QuotaOp, Command) {
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
    pub(super) fn ask(
        &mut self,
        command: &Command,
        key: IdempotencyKey,
    ) -> Option<Result<Outcome, Rejection>> {
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

    pub(super) fn record(&self, op: &QuotaOp, token: Token, heard: Option<(QuotaAnswer, Option<HoldId>)>) {
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
pub(super) fn heard(op: &QuotaOp, outcome: Result<Outcome, Rejection>) -> (QuotaAnswer, Option<HoldId>) {
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
pub(super) fn items(chance: &mut Chance) -> Vec<(&'static str, u64)> {
    let amounts = [1 + chance.below(6), chance.below(9)];
    RESOURCES.into_iter().zip(amounts).filter(|(_, amount)| *amount > 0).collect()
}

pub(super) fn asks(items: &[(&str, u64)]) -> Vec<Ask> {
    let ask = |(resource, amount): &(&str, u64)| Ask {
        resource: resource.parse().unwrap(),
        class: Class::OnDemand,
        amount: *amount,
    };
    items.iter().map(ask).collect()
}
