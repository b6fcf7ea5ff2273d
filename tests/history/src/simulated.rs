//! Histories of clients of a small server, right or planted with a fault: what the checker must pass, and
//! what it must not.
//!
//! The server is a map behind one lock, and who runs next is drawn from a seed. A request takes effect at a
//! moment of its own between its sending and its answer.

use std::collections::BTreeMap;

use std::sync::{Mutex, PoisonError};
use std::thread;

use proptest::prelude::{ProptestConfig, any, proptest};

use crate::search::Model;
use crate::{History, QuotaAnswer, QuotaModel, QuotaOp, QuotaState, Recorder, Token, Violation, check};

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It looks at the limit and takes the items at two moments.
    CheckThenAct,
    /// It resizes without looking at the limit.
    ResizeUnchecked,
    /// It counts a reservation again when it is asked again.
    RepeatCounted,
    /// It answers a release and forgets to give the items back.
    ReleaseLost,
    /// It looks at use as it was a while ago, and denies what fits by now.
    StaleDenial,
    /// It commits a hold that has expired, without taking anything for it.
    CommitExpired,
    /// It checks only the scope's own limit and not those above.
    OwnNodeOnly,
}

#[derive(Clone, Copy)]
struct Shape {
    clients: u32,
    operations: usize,
    /// Of a thousand answers, so many are lost.
    lost: u64,
    /// Of a thousand reservations, so many may expire.
    expiring: u64,
    limits: &'static Limits,
}

/// A history that can be searched without any skipping.
const TINY: Shape = Shape { clients: 4, operations: 24, lost: 60, expiring: 300, limits: &TIGHT };
const SMALL: Shape = Shape { clients: 5, operations: 120, lost: 20, expiring: 100, limits: &SCARCE };
const LARGE: Shape = Shape { clients: 16, operations: 2000, lost: 3, expiring: 5, limits: &AMPLE };

/// A little generator: the sequence that `splitmix64` draws from the seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn chance(&mut self, of_thousand: u64) -> bool {
        self.below(1000) < of_thousand
    }
}

const SCOPES: [(&str, [&str; 3]); 3] = [
    ("training", ["acme", "research", "training"]),
    ("serving", ["acme", "research", "serving"]),
    ("batch", ["acme", "operations", "batch"]),
];

type Limits = [(&'static str, &'static str, u64)];

/// Room for all that sixteen clients hold, most of the time.
const AMPLE: [(&str, &str, u64); 7] = [
    ("acme", "gpu", 40),
    ("acme", "disk", 60),
    ("research", "gpu", 26),
    ("training", "gpu", 16),
    ("serving", "gpu", 20),
    ("operations", "disk", 30),
    ("batch", "gpu", 24),
];

/// As much for five.
const SCARCE: [(&str, &str, u64); 5] = [
    ("acme", "gpu", 18),
    ("acme", "disk", 24),
    ("research", "gpu", 12),
    ("training", "gpu", 8),
    ("batch", "gpu", 10),
];

/// Little, so that much is denied.
const TIGHT: [(&str, &str, u64); 3] = [("acme", "gpu", 9), ("research", "gpu", 7), ("acme", "disk", 14)];

fn model_of(limits: &Limits) -> QuotaModel {
    let limited = limits
        .iter()
        .fold(QuotaModel::default(), |model, (node, resource, limit)| model.limit(node, resource, *limit));
    SCOPES.iter().fold(limited, |model, (scope, path)| model.path(scope, path))
}

/// The server: for each hold its scope, items and how it stands.
struct Server {
    limits: &'static Limits,
    holds: BTreeMap<u64, Hold>,
    denied: Vec<u64>,
    /// Added to what the holds use, by scope and resource: what faults lose.
    leaked: Vec<(usize, [u64; 2])>,
    /// As it was some requests ago.
    stale: Vec<Vec<(usize, [u64; 2])>>,
}

struct Hold {
    scope: usize,
    items: [u64; 2],
    stands: Stands,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Stands {
    Held,
    Lapsed,
    Committed,
    Released,
    Expired,
}

const RESOURCES: [&str; 2] = ["gpu", "disk"];

impl Server {
    fn new(limits: &'static Limits) -> Self {
        Self { limits, holds: BTreeMap::new(), denied: Vec::new(), leaked: Vec::new(), stale: Vec::new() }
    }

    fn live(&self, but: Option<u64>) -> Vec<(usize, [u64; 2])> {
        let holds = self.holds.iter().filter(|(id, hold)| {
            Some(**id) != but && hold.stands != Stands::Released && hold.stands != Stands::Expired
        });
        holds.map(|(_, hold)| (hold.scope, hold.items)).chain(self.leaked.iter().copied()).collect()
    }

    fn fits(
        &self,
        used: &[(usize, [u64; 2])],
        scope: usize,
        items: [u64; 2],
        grows: [bool; 2],
        own_only: bool,
    ) -> bool {
        let path = SCOPES[scope].1;
        self.limits
            .iter()
            .filter(|(node, ..)| if own_only { *node == path[2] } else { path.contains(node) })
            .all(|(node, resource, limit)| {
                let kind = RESOURCES.iter().position(|name| name == resource).unwrap();
                let below = used.iter().filter(|(scope, _)| SCOPES[*scope].1.contains(node));
                !grows[kind] || below.map(|(_, items)| items[kind]).sum::<u64>() + items[kind] <= *limit
            })
    }

    fn answer(&mut self, op: &QuotaOp, fault: Fault, checked: Option<bool>) -> QuotaAnswer {
        use QuotaAnswer::{Denied, Done, Expired, Granted, Refused};
        let now = self.live(None);
        self.stale.push(now);
        let id = op.id();
        let own_only = fault == Fault::OwnNodeOnly;
        match op {
            QuotaOp::Reserve { scope, items, .. } => {
                let scope = SCOPES.iter().position(|(name, _)| name == scope).unwrap();
                let items = amounts(items);
                if self.denied.contains(&id) {
                    return Denied;
                }
                if let Some(hold) = self.holds.get(&id) {
                    if fault == Fault::RepeatCounted {
                        self.leaked.push((hold.scope, hold.items));
                    }
                    return Granted;
                }
                let fits = checked.unwrap_or_else(|| {
                    let then =
                        self.stale.len().saturating_sub(if fault == Fault::StaleDenial { 12 } else { 1 });
                    self.fits(&self.stale[then], scope, items, [true; 2], own_only)
                        && self.fits(&self.live(None), scope, items, [true; 2], own_only)
                });
                if !fits {
                    self.denied.push(id);
                    return Denied;
                }
                self.holds.insert(id, Hold { scope, items, stands: Stands::Held });
                Granted
            }
            QuotaOp::Commit { .. } => match self.holds.get_mut(&id) {
                Some(hold) if matches!(hold.stands, Stands::Held | Stands::Committed) => {
                    hold.stands = Stands::Committed;
                    Done
                }
                Some(hold) if hold.stands == Stands::Expired && fault == Fault::CommitExpired => Done,
                _ => Refused,
            },
            QuotaOp::Release { .. } => match self.holds.get_mut(&id) {
                Some(hold) if hold.stands == Stands::Expired => Refused,
                Some(hold) => {
                    if hold.stands != Stands::Released && fault == Fault::ReleaseLost {
                        self.leaked.push((hold.scope, hold.items));
                    }
                    hold.stands = Stands::Released;
                    Done
                }
                None => Refused,
            },
            QuotaOp::Resize { items, .. } => {
                let (scope, old) = match self.holds.get(&id) {
                    Some(hold) if matches!(hold.stands, Stands::Held | Stands::Committed) => {
                        (hold.scope, hold.items)
                    }
                    _ => return Refused,
                };
                let new = amounts(items);
                let grows = [new[0] > old[0], new[1] > old[1]];
                let fits = self.fits(&self.live(Some(id)), scope, new, grows, own_only);
                if !fits && fault != Fault::ResizeUnchecked {
                    return Denied;
                }
                if let Some(hold) = self.holds.get_mut(&id) {
                    hold.items = new;
                }
                Granted
            }
            QuotaOp::Lapse { .. } => match self.holds.get_mut(&id) {
                Some(hold) if hold.stands == Stands::Held => {
                    hold.stands = Stands::Lapsed;
                    Expired
                }
                _ => Refused,
            },
            QuotaOp::Expire { .. } => match self.holds.get_mut(&id) {
                Some(hold) if matches!(hold.stands, Stands::Held | Stands::Lapsed) => {
                    hold.stands = Stands::Expired;
                    Expired
                }
                // Nothing to see.
                _ => Refused,
            },
        }
    }
}

fn amounts(items: &BTreeMap<String, u64>) -> [u64; 2] {
    RESOURCES.map(|resource| items.get(resource).copied().unwrap_or(0))
}

/// A request on its way.
struct Flight {
    token: Token,
    op: QuotaOp,
    /// What [`Fault::CheckThenAct`] saw.
    checked: Option<bool>,
    answer: Option<QuotaAnswer>,
    lost: bool,
}

fn simulate(seed: u64, shape: Shape, fault: Fault) -> History<QuotaOp, QuotaAnswer> {
    let mut draw = Draw(seed);
    let recorder = Recorder::default();
    let mut server = Server::new(shape.limits);
    let mut flights: Vec<Option<Flight>> = (0..shape.clients).map(|_| None).collect();
    // Expiries under way; clients beyond those who ask.
    let mut expiries: Vec<(Option<Token>, u64)> = Vec::new();
    // Reservations asked so far, as they were asked.
    let mut asked: Vec<QuotaOp> = Vec::new();
    // Requests whose answer was lost, which their clients send again.
    let mut again: Vec<QuotaOp> = Vec::new();
    let mut sent = 0;

    while sent < shape.operations || flights.iter().any(Option::is_some) {
        if draw.chance(30) && !expiries.is_empty() {
            let at = draw.below(expiries.len() as u64) as usize;
            let (token, id) = expiries.swap_remove(at);
            // Often its time is over a while before it is given back.
            if draw.chance(500) && server.answer(&QuotaOp::Lapse { id }, fault, None) == QuotaAnswer::Expired
            {
                expiries.push((token, id));
                continue;
            }
            let answer = server.answer(&QuotaOp::Expire { id }, fault, None);
            match token {
                Some(token) if answer == QuotaAnswer::Expired => recorder.complete(token, answer),
                Some(token) => recorder.withdraw(token),
                None => {}
            }
        }
        let client = draw.below(u64::from(shape.clients)) as usize;
        let flight = &mut flights[client];
        match flight {
            None if sent < shape.operations => {
                sent += 1;
                let op = match again.pop() {
                    Some(op) if draw.chance(500) => op,
                    _ => request(&mut draw, &server, &asked),
                };
                if matches!(op, QuotaOp::Reserve { .. }) && op.id() > asked.len() as u64 {
                    asked.push(op.clone());
                    if draw.chance(shape.expiring) {
                        let expire = QuotaOp::Expire { id: op.id() };
                        // Most are watched.
                        let token = recorder.invoke(100, expire.clone());
                        let watched = draw.chance(900);
                        expiries.push((watched.then_some(token), op.id()));
                        recorder.possible(100, QuotaOp::Lapse { id: op.id() });
                    }
                }
                let token = recorder.invoke(client as u32, op.clone());
                *flight =
                    Some(Flight { token, op, checked: None, answer: None, lost: draw.chance(shape.lost) });
            }
            None => {}
            Some(Flight {
                answer: None, checked: None, op: QuotaOp::Reserve { scope, items, .. }, ..
            }) if fault == Fault::CheckThenAct => {
                let scope = SCOPES.iter().position(|(name, _)| name == scope).unwrap();
                let fits = server.fits(&server.live(None), scope, amounts(items), [true; 2], false);
                flight.as_mut().unwrap().checked = Some(fits);
            }
            Some(flight) if flight.answer.is_none() => {
                // Half of the lost ones never arrive.
                if flight.lost && draw.chance(500) {
                    let flight = flights[client].take().unwrap();
                    recorder.crash(flight.token);
                    again.push(flight.op);
                } else {
                    flight.answer = Some(server.answer(&flight.op, fault, flight.checked));
                }
            }
            Some(_) => {
                let flight = flight.take().unwrap();
                if flight.lost {
                    recorder.crash(flight.token);
                    again.push(flight.op);
                } else {
                    recorder.complete(flight.token, flight.answer.unwrap());
                }
            }
        }
    }
    recorder.history()
}

/// A client's next request. Most speak of a hold that is there; a client would know its own.
fn request(draw: &mut Draw, server: &Server, asked: &[QuotaOp]) -> QuotaOp {
    let there = |hold: &Hold| matches!(hold.stands, Stands::Held | Stands::Committed);
    let live: Vec<u64> = server.holds.iter().filter(|(_, hold)| there(hold)).map(|(id, _)| *id).collect();
    let young = (asked.len() as u64).saturating_sub(draw.below(12)).max(1);
    let id = match live.len() as u64 {
        0 => young,
        _ if draw.chance(100) => young,
        many => live[draw.below(many) as usize],
    };
    let items = [("gpu", 1 + draw.below(6)), ("disk", draw.below(8))];
    match draw.below(100) {
        0..40 => QuotaOp::reserve(asked.len() as u64 + 1, SCOPES[draw.below(3) as usize].0, &items),
        // The same request again.
        40..46 => asked.get(id as usize - 1).cloned().unwrap_or(QuotaOp::Commit { id }),
        46..60 => QuotaOp::Commit { id },
        60..70 => QuotaOp::resize(id, &items),
        _ => QuotaOp::Release { id },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_right_server_passes(seed in any::<u64>()) {
        check(&simulate(seed, SMALL, Fault::None), &model_of(&SCARCE)).unwrap();
    }
}

#[test]
fn each_planted_fault_is_caught() {
    /// A fault shows only where requests meet by chance, but in so many histories it must.
    const SEEDS: u64 = 20;
    let check_fault = |fault, caught_min: usize| {
        let verdict = |seed| check(&simulate(seed, SMALL, fault), &model_of(&SCARCE));
        let caught = (0..SEEDS).filter(|seed| matches!(verdict(*seed), Err(Violation::NotLinearizable(_))));
        let caught = caught.count();
        assert!(caught >= caught_min, "{fault:?} was caught in {caught} of {SEEDS} histories");
    };
    check_fault(Fault::CheckThenAct, 8);
    check_fault(Fault::ResizeUnchecked, 4);
    check_fault(Fault::RepeatCounted, 15);
    check_fault(Fault::ReleaseLost, 15);
    check_fault(Fault::StaleDenial, 10);
    check_fault(Fault::CommitExpired, 1);
    check_fault(Fault::OwnNodeOnly, 8);
}

#[test]
fn a_large_history_is_checked_in_seconds() {
    let history = simulate(2, LARGE, Fault::None);
    assert!(history.calls.iter().filter(|call| call.answer.is_none()).count() >= 3);
    check(&history, &model_of(&AMPLE)).unwrap();
    let violation = check(&simulate(2, LARGE, Fault::CheckThenAct), &model_of(&AMPLE)).unwrap_err();
    assert!(matches!(violation, Violation::NotLinearizable(_)), "{violation}");
}

#[test]
fn the_same_history_gets_the_same_words() {
    let words =
        || check(&simulate(3, SMALL, Fault::ReleaseLost), &model_of(&SCARCE)).unwrap_err().to_string();
    assert_eq!(words(), words());
}

/// The model of quota without what it skips.
struct Plain(QuotaModel);

impl Model for Plain {
    type State = QuotaState;
    type Op = QuotaOp;
    type Output = QuotaAnswer;

    fn initial(&self) -> QuotaState {
        self.0.initial()
    }

    fn step(&self, state: &QuotaState, op: &QuotaOp, output: Option<&QuotaAnswer>) -> Vec<QuotaState> {
        self.0.step(state, op, output)
    }

    fn describe(&self, state: &QuotaState) -> String {
        self.0.describe(state)
    }
}

/// What the model promises, so that the search may skip orders, holds: the verdict is the same without.
#[test]
fn what_is_skipped_would_not_have_helped() {
    let models = [model_of(&TIGHT), model_of(&TIGHT).denials_leave_no_trace()];
    let [mut passed, mut failed] = [0, 0];
    for seed in 0..4000 {
        let model = &models[seed as usize % 2];
        let plain = Plain(model.clone());
        // One answer is changed in most histories: near misses are the hard ones.
        let mut history = simulate(seed, TINY, Fault::None);
        let mut draw = Draw(seed);
        let changed = draw.below(history.calls.len() as u64 * 4 / 3) as usize;
        if let Some((answer, _)) = history.calls.get_mut(changed).and_then(|call| call.answer.as_mut()) {
            *answer = match answer {
                QuotaAnswer::Granted => QuotaAnswer::Denied,
                QuotaAnswer::Denied => QuotaAnswer::Granted,
                QuotaAnswer::Done => QuotaAnswer::Refused,
                QuotaAnswer::Refused => QuotaAnswer::Done,
                QuotaAnswer::Expired => continue,
            };
        }
        let [skipping, all] =
            [check(&history, model), check(&history, &plain)].map(|verdict| match verdict {
                Ok(()) => true,
                Err(Violation::NotLinearizable(_)) => false,
                Err(undecided) => panic!("seed {seed}: {undecided}"),
            });
        assert_eq!(skipping, all, "seed {seed}");
        *if all { &mut passed } else { &mut failed } += 1;
    }
    assert!(passed > 100 && failed > 100, "{passed} passed, {failed} failed");
}

#[test]
fn real_threads_behind_a_lock_pass() {
    let recorder = Recorder::default();
    let server = Mutex::new(Server::new(&SCARCE));
    thread::scope(|scope| {
        for client in 0..6 {
            let (recorder, server) = (recorder.clone(), &server);
            scope.spawn(move || {
                let mut draw = Draw(u64::from(client));
                let lock = || server.lock().unwrap_or_else(PoisonError::into_inner);
                for turn in 0..60 {
                    // Each client speaks of its own holds.
                    let id = u64::from(client) * 1000 + turn / 3;
                    let items = [("gpu", 1 + draw.below(9)), ("disk", draw.below(12))];
                    let op = match turn % 3 {
                        0 => QuotaOp::reserve(id, SCOPES[draw.below(3) as usize].0, &items),
                        1 => QuotaOp::resize(id, &items),
                        _ => QuotaOp::Release { id },
                    };
                    let token = recorder.invoke(client, op.clone());
                    thread::yield_now();
                    let answer = lock().answer(&op, Fault::None, None);
                    thread::yield_now();
                    recorder.complete(token, answer);
                }
            });
        }
    });
    check(&recorder.history(), &model_of(&SCARCE)).unwrap();
}
