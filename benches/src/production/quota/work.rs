//! What a client asks for, one thing after another, whoever answers: us or the peer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::quota::PROJECT_LIMIT;

/// Most requests that a client has under way when it goes by a pace of its own.
pub(super) const UNDER_WAY_MAX: usize = 32;
/// Committed holds that a client keeps; from then on it gives the oldest one back for each new one.
const KEPT: usize = 30;
/// One of so many requests asks for more than there can ever be.
const DENIED_EVERY: u64 = 100;
/// What the others ask for.
pub(super) const AMOUNT: u64 = 1;
// Each project has one client, so what is to be granted fits whatever the client's dice say.
const _: () = assert!((KEPT + UNDER_WAY_MAX) as u64 * AMOUNT < PROJECT_LIMIT);

/// A hold: its number, and the number of its project.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) hold: u64,
    pub(super) project: usize,
}

/// One request.
#[derive(Clone, Copy)]
pub(super) enum Ask {
    Reserve { project: usize, amount: u64 },
    Commit(Held),
    Release(Held),
    Check { project: usize, amount: u64 },
}

/// What came of a reservation or a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It fits; a hold has a number.
    Fits(u64),
    /// It does not fit.
    Denied,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Reserves, commits what it got, and releases what it has had for long.
    Pairs,
    /// Asks and takes nothing.
    Checks,
}

/// A client's memory: what it holds, and what is next.
pub(super) struct Work {
    projects: Vec<usize>,
    to_commit: VecDeque<Held>,
    kept: VecDeque<Held>,
    asked: u64,
    dice: u64,
}

impl Work {
    /// Of a client that nobody else shares these projects with.
    pub(super) fn new(projects: Vec<usize>) -> Self {
        let dice = projects.first().map_or(0, |first| *first as u64);
        Self { projects, to_commit: VecDeque::new(), kept: VecDeque::new(), asked: 0, dice }
    }

    /// What a reservation or a commit led to; `None` where only a new request can be next.
    pub(super) fn follows(&mut self) -> Option<Ask> {
        if let Some(held) = self.to_commit.pop_front() {
            return Some(Ask::Commit(held));
        }
        if self.kept.len() > KEPT { self.kept.pop_front().map(Ask::Release) } else { None }
    }

    /// A new request, for one of the projects.
    pub(super) fn begins(&mut self, task: Task) -> Ask {
        self.asked += 1;
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(self.dice >> 33).expect("a number") % self.projects.len();
        let project = *self.projects.get(at).expect("a project");
        let amount = if self.asked.is_multiple_of(DENIED_EVERY) { PROJECT_LIMIT + 1 } else { AMOUNT };
        match task {
            Task::Pairs => Ask::Reserve { project, amount },
            Task::Checks => Ask::Check { project, amount },
        }
    }

    /// Takes an answer, which must be the right one.
    pub(super) fn hears(&mut self, ask: Ask, answer: Answer) {
        match (ask, answer) {
            (Ask::Reserve { amount, .. } | Ask::Check { amount, .. }, Answer::Denied) => {
                assert!(amount > PROJECT_LIMIT, "what fits was denied");
            }
            (Ask::Reserve { project, amount: AMOUNT }, Answer::Fits(hold)) => {
                self.to_commit.push_back(Held { hold, project });
            }
            (Ask::Check { amount: AMOUNT, .. } | Ask::Release(_), Answer::Fits(_)) => {}
            (Ask::Commit(held), Answer::Fits(_)) => self.kept.push_back(held),
            (_, answer) => unreachable!("{answer:?} is wrong here"),
        }
    }

    /// Another set of projects from now on. What is held stays held.
    pub(super) fn moves_to(&mut self, projects: Vec<usize>) {
        self.projects = projects;
    }

    /// The projects of what is committed, once nothing is under way.
    pub(super) fn holds(&self) -> impl Iterator<Item = usize> {
        assert!(self.to_commit.is_empty(), "what was held was not committed");
        self.kept.iter().map(|held| held.project)
    }
}

/// Between these two everything counts; before, it warms up, and afterwards what began ends.
#[derive(Clone, Copy)]
pub(super) struct Window {
    from: Instant,
    pub(super) until: Instant,
}

impl Window {
    /// Begins after a quarter of that time more.
    pub(super) fn of(time: Duration) -> Self {
        let from = Instant::now() + time / 4;
        Self { from, until: from + time }
    }
}

/// What was seen in a window, of reservations and commits, or of checks.
#[derive(Default)]
pub(super) struct Seen {
    /// Commits that were answered: each is the end of a pair.
    pub(super) pairs: u64,
    /// From when a reservation was due until it was answered.
    pub(super) reserves: Vec<Duration>,
    /// The same of checks.
    pub(super) checks: Vec<Duration>,
}

impl Seen {
    /// Counts an answer that came now.
    pub(super) fn count(&mut self, ask: Ask, due: Instant, window: Window) {
        let now = Instant::now();
        if now < window.from || now >= window.until {
            return;
        }
        match ask {
            Ask::Reserve { .. } => self.reserves.push(now - due),
            Ask::Commit(_) => self.pairs += 1,
            Ask::Check { .. } => self.checks.push(now - due),
            Ask::Release(_) => {}
        }
    }

    /// With what another client saw.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.pairs += other.pairs;
        self.reserves.extend(other.reserves);
        self.checks.extend(other.checks);
        self
    }
}
