//! The search for an order: Wing and Gong's, with Lowe's memory of where it has been.
//!
//! A configuration is what was put in order so far, and the state that the model is in. From there each
//! operation may come next that was sent before every operation left was answered. No configuration is
//! visited twice. Calls of known outcome are dealt onto lanes, each a sequence in time, so that a
//! configuration is a position on each lane and not a set of operations.
//!
//! The search is best first: the longest order is tried on, and an operation of unknown outcome counts as
//! so many steps back. To leave one out is always allowed and leaves it free for later, while one that
//! was put in order wrongly is not found out until much later, so the near past is tried in other orders
//! before. Still all is visited in the end, unless the bound comes first.
//!
//! What need not be visited, the model says by [`Model::goes_first`] and [`Model::retire`]; both have
//! defaults that skip nothing.

#![expect(clippy::indexing_slicing, reason = "every index here was made here, from the history's own calls")]

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;

use crate::recorder::History;
use crate::report::{Stuck, Violation};

/// So many configurations are visited at most before [`check`] gives up. A correct history needs some ten
/// for each operation; one that is wrong at its end needs all that can be reached.
pub const CONFIGURATIONS_MAX: usize = 1_000_000;

/// So many steps back is it worth to do without an operation of unknown outcome. Measured: with 16 or 64
/// the search visits up to twice as many configurations, with none several times as many.
const COST_OF_UNKNOWN: usize = 32;

/// What one client alone would see: the specification.
pub trait Model {
    /// All that the answers depend on.
    type State: Clone + Eq + Hash;
    /// What can be asked.
    type Op: Debug;
    /// What can be answered.
    type Output: Debug;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// The states that the operation may lead to; none where it could not have been answered so. Without
    /// an output the client never learnt the answer, and any is right.
    fn step(&self, state: &Self::State, op: &Self::Op, output: Option<&Self::Output>) -> Vec<Self::State>;

    /// The state in words, for people who read a [`Violation`].
    fn describe(&self, state: &Self::State) -> String;

    /// What the operation is about, such as one hold, for [`Model::retire`].
    fn subject(&self, _op: &Self::Op) -> Option<u64> {
        None
    }

    /// Forgets what nobody will ask for: all operations of known outcome about the subject have been put
    /// in order, and `left` are those of unknown outcome that may still come. What is forgotten must not
    /// change what any other operation can answer, nor what `left` can do.
    fn retire(&self, _state: &mut Self::State, _subject: u64, _left: &[&Self::Op]) {}

    /// Whether nothing is lost by putting the operation first. It was answered with `output`, which is
    /// right in `state`. To say yes is to promise: in every order of it and some of `rest` that is right
    /// from `state` on, it can be moved to the front, and the order is still right and ends the same.
    ///
    /// A call of unknown outcome in `rest` may have had any right answer, or none.
    fn goes_first(
        &self,
        _state: &Self::State,
        _op: &Self::Op,
        _output: &Self::Output,
        _rest: &[(&Self::Op, Option<&Self::Output>)],
    ) -> bool {
        false
    }
}

/// Whether the history is linearizable. The same history always gets the same answer, in the same words.
pub fn check<M: Model>(history: &History<M::Op, M::Output>, model: &M) -> Result<(), Violation> {
    check_within(CONFIGURATIONS_MAX, history, model)
}

/// As [`check`], with a bound of one's own on the configurations visited.
pub fn check_within<M: Model>(
    configurations_max: usize,
    history: &History<M::Op, M::Output>,
    model: &M,
) -> Result<(), Violation> {
    let problem = Problem::new(history, model);
    let mut search = Search::new(&problem);
    let end = search.run(configurations_max);
    let stuck = || {
        let deepest = &search.nodes[search.deepest];
        let next = problem.candidates(&deepest.here.position);
        Stuck::new(history, &search.order(search.deepest), &next, &model.describe(&deepest.here.state))
    };
    match end {
        End::Ordered => Ok(()),
        End::Exhausted => Err(Violation::NotLinearizable(stuck())),
        End::TooMany => Err(Violation::Undecided { visited: configurations_max, stuck: stuck() }),
    }
}

/// The history, prepared for the search. Calls are meant by their numbers.
struct Problem<'a, M: Model> {
    history: &'a History<M::Op, M::Output>,
    model: &'a M,
    /// Calls of known outcome; on each lane one ends before the next begins.
    lanes: Vec<Vec<usize>>,
    unknown: Vec<usize>,
    /// Each call's subject, renumbered from 0.
    subjects: Vec<Option<usize>>,
    about: Vec<Subject>,
}

/// A subject, and the calls about it.
struct Subject {
    name: u64,
    /// Lane, and place on the lane.
    known: Vec<(usize, usize)>,
    /// Places among those of unknown outcome.
    unknown: Vec<usize>,
}

/// How far each lane is in order, then a bit for each operation of unknown outcome that is.
type Position = Box<[u32]>;

#[derive(PartialEq, Eq, Hash)]
struct Configuration<S> {
    position: Position,
    state: S,
}

enum End {
    Ordered,
    Exhausted,
    TooMany,
}

impl<'a, M: Model> Problem<'a, M> {
    fn new(history: &'a History<M::Op, M::Output>, model: &'a M) -> Self {
        let mut lanes: Vec<Vec<usize>> = Vec::new();
        let mut ends: Vec<u64> = Vec::new();
        let mut unknown = Vec::new();
        let mut subjects = Vec::new();
        let mut about: Vec<Subject> = Vec::new();
        let mut numbers = BTreeMap::new();
        for (number, call) in history.calls.iter().enumerate() {
            let subject = model.subject(&call.op).map(|name| {
                *numbers.entry(name).or_insert_with(|| {
                    about.push(Subject { name, known: Vec::new(), unknown: Vec::new() });
                    about.len() - 1
                })
            });
            subjects.push(subject);
            let Some((_, end)) = &call.answer else {
                if let Some(subject) = subject {
                    about[subject].unknown.push(unknown.len());
                }
                unknown.push(number);
                continue;
            };
            let lane = ends.iter().position(|end| *end < call.invoked).unwrap_or(ends.len());
            if lane == ends.len() {
                lanes.push(Vec::new());
                ends.push(0);
            }
            if let Some(subject) = subject {
                about[subject].known.push((lane, lanes[lane].len()));
            }
            lanes[lane].push(number);
            ends[lane] = *end;
        }
        Self { history, model, lanes, unknown, subjects, about }
    }

    fn start(&self) -> Position {
        vec![0; self.lanes.len() + self.unknown.len().div_ceil(32)].into()
    }

    fn completed(&self, call: usize) -> u64 {
        self.history.calls[call].answer.as_ref().map_or(u64::MAX, |(_, completed)| *completed)
    }

    fn is_taken(&self, position: &Position, unknown: usize) -> bool {
        position[self.lanes.len() + unknown / 32] >> (unknown % 32) & 1 == 1
    }

    fn with(&self, position: &Position, next: Next) -> Position {
        let mut position = position.clone();
        match next {
            Next::OfLane(lane) => position[lane] += 1,
            Next::Unknown(unknown) => position[self.lanes.len() + unknown / 32] |= 1 << (unknown % 32),
        }
        position
    }

    fn call(&self, position: &Position, next: Next) -> usize {
        match next {
            Next::OfLane(lane) => self.lanes[lane][position[lane] as usize],
            Next::Unknown(unknown) => self.unknown[unknown],
        }
    }

    /// The first call of each lane that is not in order yet, with its lane.
    fn heads(&self, position: &Position) -> impl Iterator<Item = (usize, usize)> {
        let heads = self.lanes.iter().zip(position).enumerate();
        heads.filter_map(|(lane, (calls, taken))| Some((lane, *calls.get(*taken as usize)?)))
    }

    /// What may come next, as time goes: those of known outcome first, by the time of their answer,
    /// which is near the order in which a server saw them.
    fn next(&self, position: &Position) -> (Vec<Next>, Vec<Next>) {
        let first_answer = self.heads(position).map(|(_, call)| self.completed(call)).min();
        let in_time = |call: usize| first_answer.is_none_or(|first| self.history.calls[call].invoked < first);
        let mut known: Vec<(usize, usize)> =
            self.heads(position).filter(|(_, call)| in_time(*call)).collect();
        known.sort_by_key(|(_, call)| self.completed(*call));
        let unknown = (0..self.unknown.len())
            .filter(|unknown| !self.is_taken(position, *unknown) && in_time(self.unknown[*unknown]));
        (
            known.into_iter().map(|(lane, _)| Next::OfLane(lane)).collect(),
            unknown.map(Next::Unknown).collect(),
        )
    }

    fn candidates(&self, position: &Position) -> Vec<usize> {
        let (known, unknown) = self.next(position);
        known.into_iter().chain(unknown).map(|next| self.call(position, next)).collect()
    }

    /// All calls that could come before this one: not in order yet, and sent before its answer.
    fn rest(&self, position: &Position, call: usize) -> Vec<(&M::Op, Option<&M::Output>)> {
        let completed = self.completed(call);
        let in_time = move |other: &usize| self.history.calls[*other].invoked < completed;
        let known = self
            .lanes
            .iter()
            .zip(position)
            .flat_map(move |(lane, taken)| lane[*taken as usize..].iter().copied().take_while(in_time));
        let unknown = (0..self.unknown.len())
            .filter(|unknown| !self.is_taken(position, *unknown))
            .map(|unknown| self.unknown[unknown])
            .filter(in_time);
        let others = known.chain(unknown).filter(|other| *other != call);
        let calls = others.map(|other| &self.history.calls[other]);
        calls.map(|call| (&call.op, call.answer.as_ref().map(|(output, _)| output))).collect()
    }
}

/// One step of the search.
#[derive(Clone, Copy)]
enum Next {
    OfLane(usize),
    /// By its place among those of unknown outcome.
    Unknown(usize),
}

struct Search<'a, 'p, M: Model> {
    problem: &'p Problem<'a, M>,
    /// All configurations that were visited; the first is the start.
    nodes: Vec<Node<M::State>>,
    visited: HashSet<Rc<Configuration<M::State>>>,
    /// Steps not taken yet, by their score; the youngest of the highest is the next.
    open: BTreeMap<isize, Vec<Step<M::State>>>,
    /// The node with the most calls of known outcome in order.
    deepest: usize,
}

struct Node<S> {
    here: Rc<Configuration<S>>,
    /// The node before, and the call that led from there.
    from: Option<(usize, usize)>,
    /// The calls in order, of known outcome and not.
    known: usize,
    unknown: usize,
}

struct Step<S> {
    from: usize,
    next: Next,
    state: S,
}

impl<'a, 'p, M: Model> Search<'a, 'p, M> {
    fn new(problem: &'p Problem<'a, M>) -> Self {
        Self { problem, nodes: Vec::new(), visited: HashSet::new(), open: BTreeMap::new(), deepest: 0 }
    }

    fn run(&mut self, configurations_max: usize) -> End {
        let problem = self.problem;
        let known_calls: usize = problem.lanes.iter().map(Vec::len).sum();
        let start = Configuration { position: problem.start(), state: problem.model.initial() };
        self.enter(Node { here: Rc::new(start), from: None, known: 0, unknown: 0 });

        while self.nodes[self.deepest].known < known_calls {
            let Some(step) = self.pop() else { return End::Exhausted };
            let Node { here, known, unknown, .. } = &self.nodes[step.from];
            let there =
                Configuration { position: problem.with(&here.position, step.next), state: step.state };
            if self.visited.contains(&there) {
                continue;
            }
            if self.nodes.len() >= configurations_max {
                return End::TooMany;
            }
            let is_known = matches!(step.next, Next::OfLane(_));
            self.enter(Node {
                from: Some((step.from, problem.call(&here.position, step.next))),
                known: known + usize::from(is_known),
                unknown: unknown + usize::from(!is_known),
                here: Rc::new(there),
            });
        }
        End::Ordered
    }

    fn pop(&mut self) -> Option<Step<M::State>> {
        let mut best = self.open.last_entry()?;
        let step = best.get_mut().pop();
        if best.get().is_empty() {
            best.remove();
        }
        step
    }

    /// Notes that the search has been here, and the steps onward.
    fn enter(&mut self, node: Node<M::State>) {
        let from = self.nodes.len();
        self.visited.insert(Rc::clone(&node.here));
        // The likeliest last, where it is taken first.
        for (next, state) in self.onward(&node.here).into_iter().rev() {
            let unknown = node.unknown + usize::from(matches!(next, Next::Unknown(_)));
            let score = node.known.cast_signed() - (unknown * COST_OF_UNKNOWN).cast_signed();
            self.open.entry(score).or_default().push(Step { from, next, state });
        }
        self.nodes.push(node);
        if self.nodes[from].known > self.nodes[self.deepest].known {
            self.deepest = from;
        }
    }

    /// The calls that lead to the node.
    fn order(&self, mut node: usize) -> Vec<usize> {
        let mut order = Vec::new();
        while let Some((from, call)) = self.nodes[node].from {
            order.push(call);
            node = from;
        }
        order.reverse();
        order
    }

    /// Where one can go from here, the likeliest first.
    fn onward(&self, here: &Configuration<M::State>) -> Vec<(Next, M::State)> {
        let problem = self.problem;
        let (known, unknown) = problem.next(&here.position);
        let mut onward = Vec::new();
        for next in known {
            let call = problem.call(&here.position, next);
            let Some((output, _)) = &problem.history.calls[call].answer else { continue };
            let op = &problem.history.calls[call].op;
            let mut states = problem.model.step(&here.state, op, Some(output));
            for state in &mut states {
                self.retire(&here.position, call, state);
            }
            let alone = states.len() == 1;
            if alone && problem.model.goes_first(&here.state, op, output, &problem.rest(&here.position, call))
            {
                return states.into_iter().map(|state| (next, state)).collect();
            }
            onward.extend(states.into_iter().map(|state| (next, state)));
        }
        for next in unknown {
            let call = problem.call(&here.position, next);
            for mut state in problem.model.step(&here.state, &problem.history.calls[call].op, None) {
                self.retire(&here.position, call, &mut state);
                // What changes nothing can as well be left out.
                if state != here.state {
                    onward.push((next, state));
                }
            }
        }
        onward
    }

    /// Lets the model forget the subject of the call, if with this call the last of them is in order.
    fn retire(&self, position: &Position, call: usize, state: &mut M::State) {
        let problem = self.problem;
        let Some(subject) = problem.subjects[call] else { return };
        let Subject { name, known, unknown } = &problem.about[subject];
        let open = |(lane, place): &(usize, usize)| {
            *place >= position[*lane] as usize && problem.lanes[*lane][*place] != call
        };
        if known.iter().any(open) {
            return;
        }
        let left: Vec<&M::Op> = unknown
            .iter()
            .filter(|unknown| !problem.is_taken(position, **unknown))
            .map(|unknown| problem.unknown[*unknown])
            .filter(|other| *other != call)
            .map(|other| &problem.history.calls[other].op)
            .collect();
        problem.model.retire(state, *name, &left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;

    /// A counter whose additions may or may not be carried out when the answer is `None`, a time-out: two
    /// states may be next.
    struct Flaky;

    impl Model for Flaky {
        type State = u32;
        /// An addition, or with 0 a reading.
        type Op = u32;
        type Output = Option<u32>;

        fn initial(&self) -> u32 {
            0
        }

        fn step(&self, state: &u32, op: &u32, output: Option<&Option<u32>>) -> Vec<u32> {
            match output {
                None | Some(None) => vec![*state, state + op],
                Some(Some(read)) if *read == state + op => vec![*read],
                Some(Some(_)) => vec![],
            }
        }

        fn describe(&self, state: &u32) -> String {
            state.to_string()
        }
    }

    #[test]
    fn an_answer_may_leave_several_states_possible() {
        let check_read = |read| {
            let recorder = Recorder::default();
            for (op, output) in [(1, Some(1)), (2, None), (4, None), (0, Some(read))] {
                let token = recorder.invoke(1, op);
                recorder.complete(token, output);
            }
            check(&recorder.history(), &Flaky).is_ok()
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(check_read), [true, false, true, false, true, false, true]);
    }

    #[test]
    fn a_search_that_comes_to_its_bound_is_no_pass() {
        let recorder = Recorder::default();
        let tokens: Vec<_> = (0..20).map(|client| recorder.invoke(client, 1)).collect();
        for token in tokens {
            recorder.complete(token, None);
        }
        let token = recorder.invoke(1, 0);
        recorder.complete(token, Some(21));
        let history = recorder.history();
        let violation = check_within(1000, &history, &Flaky).unwrap_err();
        assert!(matches!(violation, Violation::Undecided { visited: 1000, .. }), "{violation}");
        assert!(violation.to_string().starts_with("undecided: no order was found among 1000 configurations"));
    }

    #[test]
    fn an_empty_history_is_in_order() {
        check(&Recorder::default().history(), &Flaky).unwrap();
        // So is one where nobody learnt anything.
        let recorder = Recorder::default();
        recorder.possible(1, 3);
        check(&recorder.history(), &Flaky).unwrap();
    }
}
