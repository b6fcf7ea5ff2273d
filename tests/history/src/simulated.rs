//! Histories of clients of a small server, right or planted with a fault: what the checker must pass, and
//! what it must not.
//!
//! The server is a map behind one lock, and who runs next is drawn from a seed. A request takes effect at a
//! moment of its own between its sending and its answer.

use std::collections::BTreeMap;

use crate::{History, QuotaAnswer, QuotaModel, QuotaOp, Recorder, Token, check};

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
}

const LOST: u64 = 3;
const SMALL: Shape = Shape { clients: 5, operations: 120, lost: 20, expiring: 100 };

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

const LIMITS: [(&str, &str, u64); 7] = [
    ("acme", "gpu", 40),
    ("acme", "disk", 60),
    ("research", "gpu", 26),
    ("training", "gpu", 16),
    ("serving", "gpu", 20),
    ("operations", "disk", 30),
    ("batch", "gpu", 24),
];

fn model() -> QuotaModel {
    let limited = LIMITS.iter().fold(QuotaModel::default(), |model, (node, resource, limit)| model.limit(node, resource, *limit));
    SCOPES.iter().fold(limited, |model, (scope, path)| model.path(scope, path))
}

/// The server: for each hold its scope, items and how it stands.
#[derive(Default)]
struct Server {
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
    Committed,
    Released,
    Expired,
}

const RESOURCES: [&str; 2] = ["gpu", "disk"];

impl Server {
    fn live(&self, but: Option<u64>) -> Vec<(usize, [u64; 2])> {
        let holds = self.holds.iter().filter(|(id, hold)| {
            Some(**id) != but && matches!(hold.stands, Stands::Held | Stands::Committed)
        });
        holds.map(|(_, hold)| (hold.scope, hold.items)).chain(self.leaked.iter().copied()).collect()
    }

    fn fits(used: &[(usize, [u64; 2])], scope: usize, items: [u64; 2], grows: [bool; 2], own_only: bool) -> bool {
        let path = SCOPES[scope].1;
        LIMITS.iter().filter(|(node, ..)| if own_only { *node == path[2] } else { path.contains(node) }).all(
            |(node, resource, limit)| {
                let kind = RESOURCES.iter().position(|name| name == resource).unwrap();
                let below = used.iter().filter(|(scope, _)| SCOPES[*scope].1.contains(node));
                !grows[kind] || below.map(|(_, items)| items[kind]).sum::<u64>() + items[kind] <= *limit
            },
        )
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
                    let then = self.stale.len().saturating_sub(if fault == Fault::StaleDenial { 12 } else { 1 });
                    Self::fits(&self.stale[then], scope, items, [true; 2], own_only)
                        && Self::fits(&self.live(None), scope, items, [true; 2], own_only)
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
                let used = self.live(Some(id));
                match self.holds.get_mut(&id) {
                    Some(hold) if matches!(hold.stands, Stands::Held | Stands::Committed) => {
                        let new = amounts(items);
                        let grows = [new[0] > hold.items[0], new[1] > hold.items[1]];
                        if fault == Fault::ResizeUnchecked || Self::fits(&used, hold.scope, new, grows, own_only) {
                            hold.items = new;
                            Granted
                        } else {
                            Denied
                        }
                    }
                    _ => Refused,
                }
            }
            QuotaOp::Expire { .. } => match self.holds.get_mut(&id) {
                Some(hold) if hold.stands == Stands::Held => {
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
    let mut server = Server::default();
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
                    }
                }
                let token = recorder.invoke(client as u32, op.clone());
                *flight = Some(Flight { token, op, checked: None, answer: None, lost: draw.chance(shape.lost) });
            }
            None => {}
            Some(Flight { answer: None, checked: None, op: QuotaOp::Reserve { scope, items, .. }, .. })
                if fault == Fault::CheckThenAct =>
            {
                let scope = SCOPES.iter().position(|(name, _)| name == scope).unwrap();
                let fits = Server::fits(&server.live(None), scope, amounts(items), [true; 2], false);
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

#[test]
fn measure() {
    for fault in [Fault::None] {
        for (name, shape) in [("small", SMALL), ("large", Shape { clients: 16, operations: 2000, lost: LOST, expiring: 0 })] {
            for seed in 0..3 {
                let history = simulate(seed, shape, fault);
                #[expect(clippy::disallowed_methods, reason = "x")]
                let now = std::time::Instant::now();
                let result = check(&history, &model());
                let text = match &result { Ok(()) => "ok".to_owned(), Err(crate::Violation::Undecided { stuck, .. }) => format!("undecided {}", stuck.order.len()), Err(v) => format!("caught {}", v.stuck().order.len()) };
                let count = |answer| history.calls.iter().filter(|c| c.answer.as_ref().is_some_and(|a| a.0 == answer)).count();
                println!("{fault:?} {name} {seed}: {text} in {:?}; lost {} granted {} denied {} done {} refused {} expired {}", now.elapsed(), history.calls.iter().filter(|c| c.answer.is_none()).count(), count(QuotaAnswer::Granted), count(QuotaAnswer::Denied), count(QuotaAnswer::Done), count(QuotaAnswer::Refused), count(QuotaAnswer::Expired));
                if fault == Fault::None && result.is_err() { println!("{}", result.unwrap_err()); }
            }
        }
    }
}
