//! The model of quota: what one client alone would see.
//!
//! * A reservation takes its items at every node of its scope's path, or nothing at all. It is denied only
//!   if it does not fit.
//! * What is reserved counts until it is released or has expired, committed or not.
//! * A resize states the new items, all of them; it is denied only if what it adds does not fit.
//! * Requests that speak of a hold which is not there (never granted, released, expired) are refused;
//!   but a second release of a released hold is done, as is a second commit of a committed one. The release
//!   of an expired hold changes nothing, and may be answered either way.
//! * A reservation asked again under the same name gets the same answer again, whatever became of the
//!   hold, and takes nothing a second time.
//! * A hold that is not committed may expire.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::check::Model;

/// How much of each resource. A resource that is not named is not asked for.
pub type Items = BTreeMap<String, u64>;

/// What clients ask. A hold goes by the name that its client chose for the request, since the id that a
/// server gives is not known while the first answer is under way; whoever records translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaOp {
    /// Takes the items on the whole path of the scope, or nothing.
    Reserve {
        /// The name of the request, and from then on of its hold. The same name means the same request.
        id: u64,
        /// Where: one of the model's paths.
        scope: String,
        /// How much.
        items: Items,
    },
    /// Makes a hold permanent: it no longer expires.
    Commit {
        /// Which hold.
        id: u64,
    },
    /// Gives all items back.
    Release {
        /// Which hold.
        id: u64,
    },
    /// Replaces the items of a hold, committed or not.
    Resize {
        /// Which hold.
        id: u64,
        /// How much, from now on.
        items: Items,
    },
    /// A hold ran out of time. Nobody asks for it: the recorder puts it in, sent when the expiry could
    /// come at the earliest, answered when it was seen.
    Expire {
        /// Which hold.
        id: u64,
    },
}

impl QuotaOp {
    /// A reservation, shorter to write.
    #[must_use]
    pub fn reserve(id: u64, scope: &str, items: &[(&str, u64)]) -> Self {
        Self::Reserve { id, scope: scope.to_owned(), items: named(items) }
    }

    /// A resize, shorter to write.
    #[must_use]
    pub fn resize(id: u64, items: &[(&str, u64)]) -> Self {
        Self::Resize { id, items: named(items) }
    }

    /// The hold that it is about.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Reserve { id, .. }
            | Self::Commit { id }
            | Self::Release { id }
            | Self::Resize { id, .. }
            | Self::Expire { id } => *id,
        }
    }
}

fn named(items: &[(&str, u64)]) -> Items {
    items.iter().map(|(resource, amount)| ((*resource).to_owned(), *amount)).collect()
}

/// What clients hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaAnswer {
    /// To a reservation or a resize: it fits, and is taken.
    Granted,
    /// To a reservation or a resize: it does not fit, and nothing changed.
    Denied,
    /// To a commit or a release.
    Done,
    /// To a commit, a release or a resize: no such hold, or none any more.
    Refused,
    /// Of an expiry: it was seen to have happened.
    Expired,
}

/// Limits, and which nodes each scope counts against.
#[derive(Clone, Debug, Default)]
pub struct QuotaModel {
    limits: BTreeMap<(String, String), u64>,
    paths: BTreeMap<String, Vec<String>>,
}

/// What is used where, and what became of each request that still matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct QuotaState {
    /// Held and committed, by node and resource; by place among the model's limits.
    used: Vec<u64>,
    requests: BTreeMap<u64, Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Denied,
    Live { scope: String, items: Items, committed: bool },
    Released,
    Expired,
}

impl QuotaModel {
    /// With a limit for the resource at the node. Where there is none, nothing is limited.
    #[must_use]
    pub fn limit(mut self, node: &str, resource: &str, limit: u64) -> Self {
        self.limits.insert((node.to_owned(), resource.to_owned()), limit);
        self
    }

    /// With a scope whose reservations count at each of these nodes.
    #[must_use]
    pub fn path(mut self, scope: &str, nodes: &[&str]) -> Self {
        self.paths.insert(scope.to_owned(), nodes.iter().map(|node| (*node).to_owned()).collect());
        self
    }

    /// What is used once `old` is given back and `new` taken, or `None` where that is more than a limit
    /// allows. Only what grows is looked at: to take less is always right.
    fn replaced(&self, used: &[u64], scope: &str, old: &Items, new: &Items) -> Option<Vec<u64>> {
        let path = self.paths.get(scope).map_or(&[][..], Vec::as_slice);
        let mut used = used.to_vec();
        for (used, ((node, resource), limit)) in used.iter_mut().zip(&self.limits) {
            if !path.contains(node) {
                continue;
            }
            let [old, new] = [old, new].map(|items| items.get(resource).copied().unwrap_or(0));
            let rest = used.saturating_sub(old);
            *used = rest.checked_add(new).filter(|sum| *sum <= *limit || new <= old)?;
        }
        Some(used)
    }

    fn next(&self, state: &QuotaState, op: &QuotaOp, output: Option<&QuotaAnswer>) -> Option<QuotaState> {
        use QuotaAnswer::{Denied, Done, Expired, Granted, Refused};
        let answered = |answers: &[QuotaAnswer]| output.is_none_or(|output| answers.contains(output));
        let unchanged = |answers: &[QuotaAnswer]| answered(answers).then(|| state.clone());
        let id = op.id();
        let changed = |answer, used: Vec<u64>, request| {
            let mut requests = state.requests.clone();
            requests.insert(id, request);
            answered(&[answer]).then_some(QuotaState { used, requests })
        };
        let none = Items::new();

        match (op, state.requests.get(&id)) {
            (QuotaOp::Reserve { scope, items, .. }, None) => {
                match self.replaced(&state.used, scope, &none, items) {
                    Some(used) => {
                        let live = Request::Live { scope: scope.clone(), items: items.clone(), committed: false };
                        changed(Granted, used, live)
                    }
                    None => changed(Denied, state.used.clone(), Request::Denied),
                }
            }
            (QuotaOp::Reserve { .. }, Some(Request::Denied)) => unchanged(&[Denied]),
            (QuotaOp::Reserve { .. }, Some(_)) => unchanged(&[Granted]),

            (QuotaOp::Commit { .. }, Some(Request::Live { committed: true, .. })) => unchanged(&[Done]),
            (QuotaOp::Commit { .. }, Some(Request::Live { scope, items, .. })) => {
                let live = Request::Live { scope: scope.clone(), items: items.clone(), committed: true };
                changed(Done, state.used.clone(), live)
            }

            (QuotaOp::Release { .. }, Some(Request::Live { scope, items, .. })) => {
                changed(Done, self.replaced(&state.used, scope, items, &none)?, Request::Released)
            }
            (QuotaOp::Release { .. }, Some(Request::Released)) => unchanged(&[Done]),
            (QuotaOp::Release { .. }, Some(Request::Expired)) => unchanged(&[Done, Refused]),

            (QuotaOp::Resize { items, .. }, Some(Request::Live { scope, items: old, committed })) => {
                match self.replaced(&state.used, scope, old, items) {
                    Some(used) => {
                        let live =
                            Request::Live { scope: scope.clone(), items: items.clone(), committed: *committed };
                        changed(Granted, used, live)
                    }
                    None => unchanged(&[Denied]),
                }
            }

            (QuotaOp::Expire { .. }, Some(Request::Live { scope, items, committed: false })) => {
                changed(Expired, self.replaced(&state.used, scope, items, &none)?, Request::Expired)
            }
            // Seen it cannot have been; that it might have been changes nothing.
            (QuotaOp::Expire { .. }, _) => unchanged(&[]),

            (QuotaOp::Commit { .. } | QuotaOp::Release { .. } | QuotaOp::Resize { .. }, _) => unchanged(&[Refused]),
        }
    }
}

impl Model for QuotaModel {
    type State = QuotaState;
    type Op = QuotaOp;
    type Output = QuotaAnswer;

    fn initial(&self) -> QuotaState {
        QuotaState { used: vec![0; self.limits.len()], requests: BTreeMap::new() }
    }

    fn step(&self, state: &QuotaState, op: &QuotaOp, output: Option<&QuotaAnswer>) -> Vec<QuotaState> {
        self.next(state, op, output).into_iter().collect()
    }

    fn describe(&self, state: &QuotaState) -> String {
        let mut text = String::new();
        for (used, ((node, resource), limit)) in state.used.iter().zip(&self.limits) {
            _ = write!(text, "{node}: {used} of {limit} {resource}; ");
        }
        let requests: Vec<String> = state
            .requests
            .iter()
            .map(|(id, request)| match request {
                Request::Denied => format!("{id} denied"),
                Request::Released => format!("{id} released"),
                Request::Expired => format!("{id} expired"),
                Request::Live { scope, items, committed } => {
                    let kind = if *committed { "committed" } else { "held" };
                    let items: Vec<String> = items.iter().map(|(name, amount)| format!("{amount} {name}")).collect();
                    format!("{id} {kind} by {scope}: {}", items.join(", "))
                }
            })
            .collect();
        _ = write!(text, "requests that still matter: [{}]", requests.join("; "));
        text
    }

    fn subject(&self, op: &QuotaOp) -> Option<u64> {
        Some(op.id())
    }

    /// A hold that nobody will speak of is only what it uses.
    fn retire(&self, state: &mut QuotaState, id: u64, left: &[&QuotaOp]) {
        let Some(request) = state.requests.get(&id) else { return };
        let inert = left.iter().all(|op| match (op, request) {
            // Once the request is forgotten it would be a new one.
            (QuotaOp::Reserve { .. }, _) => false,
            (QuotaOp::Release { .. } | QuotaOp::Resize { .. }, Request::Live { .. }) => false,
            (QuotaOp::Expire { .. }, Request::Live { committed, .. }) => *committed,
            _ => true,
        });
        if inert {
            state.requests.remove(&id);
        }
    }

    fn goes_first(
        &self,
        state: &QuotaState,
        op: &QuotaOp,
        output: &QuotaAnswer,
        rest: &[(&QuotaOp, Option<&QuotaAnswer>)],
    ) -> bool {
        use QuotaAnswer::{Denied, Done, Expired, Granted, Refused};
        let asks = |op: &QuotaOp| matches!(op, QuotaOp::Reserve { .. } | QuotaOp::Resize { .. });
        rest.iter().all(|&(other, answer)| {
            // Of one hold, every order is another story.
            other.id() != op.id()
                && match (op, output) {
                    // These change nothing for others, and nothing that others do changes them; or, for a
                    // denial, it is right already and leaves no trace.
                    (_, Denied | Refused) | (QuotaOp::Commit { .. }, _) => true,
                    // To give back early helps all but those that were denied, or may have been.
                    (QuotaOp::Release { .. } | QuotaOp::Expire { .. }, Done | Expired) => {
                        !asks(other) || answer == Some(&Granted)
                    }
                    // To take early hurts nobody if nothing is given back meanwhile: what fits
                    // afterwards fits before, and what was denied is denied the more.
                    (QuotaOp::Reserve { .. }, Granted) if !state.requests.contains_key(&op.id()) => match other {
                        QuotaOp::Reserve { .. } => true,
                        QuotaOp::Commit { .. } => true,
                        QuotaOp::Release { .. } => answer == Some(&Refused),
                        QuotaOp::Resize { .. } => matches!(answer, Some(Denied | Refused)),
                        QuotaOp::Expire { .. } => false,
                    },
                    // Asked again, it changes nothing.
                    (QuotaOp::Reserve { .. }, Granted) => true,
                    _ => false,
                }
        })
    }
}
