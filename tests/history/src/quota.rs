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
//!   A model of a server that keeps no trace of what it denied says so: [`QuotaModel::denials_leave_no_trace`].
//! * A hold that is not committed may expire. Its time may be over a while before: then it can no longer be
//!   committed or resized, and still counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::iter::zip;
use std::sync::Arc;

use crate::recorder::History;
use crate::report::Violation;
use crate::search::{Model, check};

/// How much of each resource. A resource that is not named is not asked for.
pub type Items = BTreeMap<String, u64>;

/// What clients ask. A hold goes by the name that its client chose for the request, since the id that a
/// server gives is not known while the first answer is under way; whoever records translates.
///
/// A request that is sent again under the same idempotency key, because its answer was lost, is one call:
/// its token is kept until an answer comes, or given up. Only a reservation may also be recorded as several.
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
    /// The time of a hold is over: from now on it is refused, but what it takes is not free yet. To be put in
    /// by [`crate::Recorder::possible`] at the earliest end of the time, if the server looks at a clock for
    /// each request and gives back later.
    Lapse {
        /// Which hold.
        id: u64,
    },
    /// A hold ran out of time and is given back. Nobody asks for it: the recorder puts it in, sent when the expiry could
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
            | Self::Lapse { id }
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
    /// Of an expiry, or of the end of its time: it was seen to have happened.
    Expired,
}

/// Limits, and which nodes each scope counts against.
#[derive(Clone, Debug, Default)]
pub struct QuotaModel {
    /// By node and resource. The places in this order are called slots below.
    limits: BTreeMap<(String, String), u64>,
    paths: BTreeMap<String, Vec<String>>,
    forgets_denials: bool,
}

/// What is used where, and what became of each request that still matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct QuotaState {
    /// Held and committed, slot by slot.
    used: Slots,
    requests: BTreeMap<u64, Request>,
}

/// An amount for each slot.
type Slots = Vec<u64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Denied,
    Live { hold: Arc<Hold>, standing: Standing },
    Released,
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Held,
    /// Its time is over.
    Lapsed,
    Committed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    scope: String,
    takes: Slots,
}

// States with the same holds by name that use the same mostly are the same: there is no need to hash all
// amounts of all holds again and again.
impl Hash for Hold {
    fn hash<H: Hasher>(&self, _hasher: &mut H) {}
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

    /// Of a server that decides a denied reservation anew when it is asked again.
    #[must_use]
    pub fn denials_leave_no_trace(mut self) -> Self {
        self.forgets_denials = true;
        self
    }

    /// As [`check`] against this model, and much faster in a debug build: this crate is always compiled with
    /// optimisation, while a generic function is compiled where it is called.
    pub fn check(&self, history: &History<QuotaOp, QuotaAnswer>) -> Result<(), Violation> {
        check(history, self)
    }

    fn takes(&self, scope: &str, items: &Items) -> Slots {
        let path = self.paths.get(scope).map_or(&[][..], Vec::as_slice);
        let slots = self.limits.keys();
        let amount = |(node, resource): &(String, String)| match items.get(resource) {
            Some(amount) if path.contains(node) => *amount,
            _ => 0,
        };
        slots.map(amount).collect()
    }

    fn nothing(&self) -> Slots {
        vec![0; self.limits.len()]
    }

    /// What is used once `old` is given back and `new` taken, or `None` where that is more than a limit
    /// allows. Only what grows is looked at: to take less is always right.
    fn replaced(&self, used: &Slots, old: &Slots, new: &Slots) -> Option<Slots> {
        let slots = zip(zip(used, self.limits.values()), zip(old, new));
        let replaced = slots.map(|((used, limit), (old, new))| {
            used.saturating_sub(*old).checked_add(*new).filter(|sum| sum <= limit || new <= old)
        });
        replaced.collect()
    }

    fn next(&self, state: &QuotaState, op: &QuotaOp, output: Option<&QuotaAnswer>) -> Option<QuotaState> {
        use QuotaAnswer::{Denied, Done, Expired, Granted, Refused};
        let answered = |answers: &[QuotaAnswer]| output.is_none_or(|output| answers.contains(output));
        let unchanged = |answers: &[QuotaAnswer]| answered(answers).then(|| state.clone());
        let changed = |answer, used: Option<Slots>, request| {
            answered(&[answer]).then(|| {
                let mut state = state.clone();
                state.used = used.unwrap_or(state.used);
                state.requests.insert(op.id(), request);
                state
            })
        };

        match (op, state.requests.get(&op.id())) {
            (QuotaOp::Reserve { scope, items, .. }, None) => {
                let takes = self.takes(scope, items);
                match self.replaced(&state.used, &self.nothing(), &takes) {
                    Some(used) => {
                        let hold = Arc::new(Hold { scope: scope.clone(), takes });
                        changed(Granted, Some(used), Request::Live { hold, standing: Standing::Held })
                    }
                    None if self.forgets_denials => unchanged(&[Denied]),
                    None => changed(Denied, None, Request::Denied),
                }
            }
            (QuotaOp::Reserve { .. }, Some(Request::Denied)) => unchanged(&[Denied]),
            (QuotaOp::Reserve { .. }, Some(_)) => unchanged(&[Granted]),

            (
                QuotaOp::Commit { .. } | QuotaOp::Resize { .. },
                Some(Request::Live { standing: Standing::Lapsed, .. }),
            ) => unchanged(&[Refused]),

            (QuotaOp::Commit { .. }, Some(Request::Live { hold, .. })) => {
                changed(Done, None, Request::Live { hold: Arc::clone(hold), standing: Standing::Committed })
            }

            (QuotaOp::Release { .. }, Some(Request::Live { hold, .. })) => {
                changed(Done, self.replaced(&state.used, &hold.takes, &self.nothing()), Request::Released)
            }
            (QuotaOp::Release { .. }, Some(Request::Released)) => unchanged(&[Done]),
            (QuotaOp::Release { .. }, Some(Request::Expired)) => unchanged(&[Done, Refused]),

            (QuotaOp::Resize { items, .. }, Some(Request::Live { hold, standing })) => {
                let takes = self.takes(&hold.scope, items);
                match self.replaced(&state.used, &hold.takes, &takes) {
                    Some(used) => {
                        let hold = Arc::new(Hold { scope: hold.scope.clone(), takes });
                        changed(Granted, Some(used), Request::Live { hold, standing: *standing })
                    }
                    None => unchanged(&[Denied]),
                }
            }

            (QuotaOp::Lapse { .. }, Some(Request::Live { hold, standing: Standing::Held })) => {
                changed(Expired, None, Request::Live { hold: Arc::clone(hold), standing: Standing::Lapsed })
            }
            (
                QuotaOp::Expire { .. },
                Some(Request::Live { hold, standing: Standing::Held | Standing::Lapsed }),
            ) => changed(Expired, self.replaced(&state.used, &hold.takes, &self.nothing()), Request::Expired),
            // Seen it cannot have been; that it might have been changes nothing.
            (QuotaOp::Lapse { .. } | QuotaOp::Expire { .. }, _) => unchanged(&[]),

            (QuotaOp::Commit { .. } | QuotaOp::Release { .. } | QuotaOp::Resize { .. }, _) => {
                unchanged(&[Refused])
            }
        }
    }
}

impl Model for QuotaModel {
    type State = QuotaState;
    type Op = QuotaOp;
    type Output = QuotaAnswer;

    fn initial(&self) -> QuotaState {
        QuotaState { used: self.nothing(), requests: BTreeMap::new() }
    }

    fn step(&self, state: &QuotaState, op: &QuotaOp, output: Option<&QuotaAnswer>) -> Vec<QuotaState> {
        self.next(state, op, output).into_iter().collect()
    }

    fn describe(&self, state: &QuotaState) -> String {
        let used = zip(&self.limits, &state.used);
        let used = used.map(|(((node, resource), limit), used)| format!("{node} {used}/{limit} {resource}"));
        let requests = state.requests.iter().map(|(id, request)| match request {
            Request::Denied => format!("{id} denied"),
            Request::Released => format!("{id} released"),
            Request::Expired => format!("{id} expired"),
            Request::Live { hold, standing } => {
                let standing = match standing {
                    Standing::Held => "held",
                    Standing::Lapsed => "held past its time",
                    Standing::Committed => "committed",
                };
                let mut text = format!("{id} {standing}");
                for ((node, resource), takes) in zip(self.limits.keys(), &hold.takes) {
                    if *takes > 0 {
                        _ = write!(text, " {node} {takes} {resource}");
                    }
                }
                text
            }
        });
        let [used, requests] = [used.collect::<Vec<_>>().join(", "), requests.collect::<Vec<_>>().join(", ")];
        let requests = if requests.is_empty() { "none" } else { &requests };
        format!("{used}; requests that still matter: {requests}")
    }

    fn subject(&self, op: &QuotaOp) -> Option<u64> {
        Some(op.id())
    }

    /// A hold that nobody will speak of is only what it uses.
    fn retire(&self, state: &mut QuotaState, id: u64, left: &[&QuotaOp]) {
        let Some(request) = state.requests.get_mut(&id) else { return };
        // Nor does anybody ask whether its time is over, unless it may yet be committed or resized.
        let asked = |op: &&QuotaOp| matches!(op, QuotaOp::Commit { .. } | QuotaOp::Resize { .. });
        if let Request::Live { standing: standing @ Standing::Held, .. } = request
            && !left.iter().any(asked)
        {
            *standing = Standing::Lapsed;
        }
        let inert = left.iter().all(|op| match (op, &*request) {
            // Once the request is forgotten it would be a new one.
            (QuotaOp::Reserve { .. }, _) => false,
            (QuotaOp::Release { .. } | QuotaOp::Resize { .. }, Request::Live { .. }) => false,
            (QuotaOp::Expire { .. }, Request::Live { standing, .. }) => *standing == Standing::Committed,
            _ => true,
        });
        if inert {
            state.requests.remove(&id);
        }
    }

    /// Most orders of quota are the same story: while there is room for all that is asked, and nobody is
    /// denied, who came first does not matter.
    fn goes_first(&self, state: &QuotaState, op: &QuotaOp, output: &QuotaAnswer, rest: &[Asked<'_>]) -> bool {
        // Of one hold, every order is another story.
        if rest.iter().any(|(other, _)| other.id() == op.id()) {
            return false;
        }
        let nothing = self.nothing();
        let (old, new) = match (op, output, state.requests.get(&op.id())) {
            (QuotaOp::Reserve { scope, items, .. }, QuotaAnswer::Granted, None) => {
                (&nothing, self.takes(scope, items))
            }
            (QuotaOp::Resize { items, .. }, QuotaAnswer::Granted, Some(Request::Live { hold, .. })) => {
                (&hold.takes, self.takes(&hold.scope, items))
            }
            (QuotaOp::Release { .. } | QuotaOp::Expire { .. }, _, Some(Request::Live { hold, .. })) => {
                (&hold.takes, nothing.clone())
            }
            // It uses no more and no less for it: a commit, a repetition, a refusal. Or it is a denial,
            // which is right already.
            _ => return true,
        };
        let bounds = self.bounds(state, rest);

        // To take early hurts nobody where all fits together anyway, and nowhere if nothing is given back
        // meanwhile: what fits afterwards fits before. Who was denied is denied the more.
        let fits = zip(zip(&bounds.most, self.limits.values()), zip(old, &new))
            .all(|((most, limit), (old, new))| new <= old || most.saturating_add(new - old) <= *limit);
        if !fits && bounds.given_back {
            return false;
        }

        // To give back early helps all but those who were denied, or may have been.
        let given: Slots = zip(old, &new).map(|(old, new)| old.saturating_sub(*new)).collect();
        rest.iter().all(|(other, answer)| {
            let (asks, is_new) = match (other, answer) {
                (_, Some(answer)) if **answer != QuotaAnswer::Denied => return true,
                (QuotaOp::Reserve { scope, items, .. }, _) => (self.takes(scope, items), true),
                (QuotaOp::Resize { items, .. }, _) => match scope_of(state, rest, other.id()) {
                    Some(scope) => (self.takes(scope, items), false),
                    None => return true,
                },
                _ => return true,
            };
            let untouched = zip(&asks, &given).all(|(asks, given)| *asks == 0 || *given == 0);
            let denied_anyway = is_new
                && zip(zip(&bounds.least, self.limits.values()), zip(&asks, &given)).any(
                    |((least, limit), (asks, given))| {
                        *asks > 0 && least.saturating_sub(*given).saturating_add(*asks) > *limit
                    },
                );
            let granted_anyway = is_new
                && answer.is_none()
                && zip(zip(&bounds.most, self.limits.values()), &asks)
                    .all(|((most, limit), asks)| *asks == 0 || most <= limit);
            untouched || denied_anyway || granted_anyway
        })
    }
}

/// An operation, and its answer if there was one.
type Asked<'a> = (&'a QuotaOp, Option<&'a QuotaAnswer>);

/// Between what use can lie while some operations take effect, in any order.
struct Bounds {
    least: Slots,
    most: Slots,
    /// Whether any of them may give something back.
    given_back: bool,
}

impl QuotaModel {
    fn bounds(&self, state: &QuotaState, rest: &[Asked<'_>]) -> Bounds {
        use QuotaAnswer::{Denied, Granted, Refused};
        let mut bounds = Bounds { least: state.used.clone(), most: state.used.clone(), given_back: false };
        let mut given_back = BTreeSet::new();
        for (op, answer) in rest {
            let taken = match (op, answer) {
                (_, Some(Denied | Refused)) | (QuotaOp::Commit { .. } | QuotaOp::Lapse { .. }, _) => continue,
                (QuotaOp::Reserve { id, scope, items }, None | Some(Granted))
                    if !state.requests.contains_key(id) =>
                {
                    self.takes(scope, items)
                }
                (QuotaOp::Reserve { .. }, _) => continue,
                // As if all that it takes came on top of what it replaces.
                (QuotaOp::Resize { id, items }, _) => match scope_of(state, rest, *id) {
                    Some(scope) => self.takes(scope, items),
                    None => continue,
                },
                (QuotaOp::Release { .. } | QuotaOp::Expire { .. }, _) => self.nothing(),
            };
            add(&mut bounds.most, &taken);
            if matches!(op, QuotaOp::Reserve { .. }) {
                continue;
            }
            bounds.given_back = true;
            if let Some(Request::Live { hold, .. }) = state.requests.get(&op.id())
                && given_back.insert(op.id())
            {
                for (least, takes) in zip(&mut bounds.least, &hold.takes) {
                    *least = least.saturating_sub(*takes);
                }
            }
        }
        bounds
    }
}

fn add(sum: &mut Slots, more: &Slots) {
    for (sum, more) in zip(sum, more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Where the hold is, or will be.
fn scope_of<'a>(state: &'a QuotaState, rest: &[Asked<'a>], id: u64) -> Option<&'a str> {
    if let Some(Request::Live { hold, .. }) = state.requests.get(&id) {
        return Some(&hold.scope);
    }
    rest.iter().find_map(|(op, _)| match op {
        QuotaOp::Reserve { id: reserved, scope, .. } if *reserved == id => Some(scope.as_str()),
        _ => None,
    })
}
