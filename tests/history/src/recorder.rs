//! What the clients saw, in the order in which they saw it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One operation as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<Op, Output> {
    /// Who sent it. Only for people who read a report: the order of calls comes from their times alone.
    pub client: u32,
    /// What was asked.
    pub op: Op,
    /// When it was sent, as a position among all events of the history.
    pub invoked: u64,
    /// The answer and when it came. `None` where the client never learnt the outcome.
    pub answer: Option<(Output, u64)>,
}

/// All calls, in the order in which they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<Op, Output> {
    /// The calls; their places are the numbers that a report gives them.
    pub calls: Vec<Call<Op, Output>>,
}

/// Notes calls from any number of threads or tasks; a clone writes into the same history.
///
/// A position is drawn under a lock, between the client's decision to send and its sending, and again
/// after the answer came. So the noted interval is never shorter than the true one: an order of events
/// that the recorder reports did happen, and no violation is an artefact of the recording.
pub struct Recorder<Op, Output> {
    events: Arc<Mutex<Events<Op, Output>>>,
}

struct Events<Op, Output> {
    position: u64,
    /// `None` where a call was withdrawn.
    calls: Vec<Option<Call<Op, Output>>>,
}

/// An operation under way. Dropped, it is what it is after [`Recorder::crash`]: of unknown outcome.
#[derive(Debug)]
#[must_use = "complete it with the answer, or say with `crash` that there was none"]
pub struct Token {
    call: usize,
}

impl<Op, Output> Default for Recorder<Op, Output> {
    fn default() -> Self {
        Self { events: Arc::new(Mutex::new(Events { position: 0, calls: Vec::new() })) }
    }
}

// By hand, because a derived one would ask the same of `Op` and `Output`.
impl<Op, Output> Clone for Recorder<Op, Output> {
    fn clone(&self) -> Self {
        Self { events: Arc::clone(&self.events) }
    }
}

impl<Op, Output> Recorder<Op, Output> {
    /// To be called just before the operation is sent.
    pub fn invoke(&self, client: u32, op: Op) -> Token {
        let mut events = self.events();
        let invoked = events.next();
        events.calls.push(Some(Call { client, op, invoked, answer: None }));
        Token { call: events.calls.len() - 1 }
    }

    /// To be called once the answer is there.
    pub fn complete(&self, token: Token, output: Output) {
        let mut events = self.events();
        let completed = events.next();
        if let Some(Some(call)) = events.calls.get_mut(token.call) {
            call.answer = Some((output, completed));
        }
    }

    /// The client lost its answer: the operation may have taken effect, take effect at any later time,
    /// or never.
    pub fn crash(&self, token: Token) {
        drop(token);
    }

    /// The operation certainly did nothing and never will, say because nobody listened: it is left out.
    /// When in doubt it is a [`Recorder::crash`].
    pub fn withdraw(&self, token: Token) {
        if let Some(call) = self.events().calls.get_mut(token.call) {
            *call = None;
        }
    }

    /// Something that nobody asked for, but that may happen at any time from now on, or never: an expiry
    /// that nobody watches.
    pub fn possible(&self, client: u32, op: Op) {
        let token = self.invoke(client, op);
        self.crash(token);
    }

    fn events(&self) -> MutexGuard<'_, Events<Op, Output>> {
        // A client that panicked has failed its test by itself; the others' histories are whole.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Op: Clone, Output: Clone> Recorder<Op, Output> {
    /// What was seen so far. Operations still under way are of unknown outcome.
    #[must_use]
    pub fn history(&self) -> History<Op, Output> {
        History { calls: self.events().calls.iter().flatten().cloned().collect() }
    }
}

impl<Op, Output> Events<Op, Output> {
    fn next(&mut self) -> u64 {
        self.position += 1;
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_noted_in_the_order_of_their_events() {
        let recorder = Recorder::default();
        let first = recorder.invoke(1, "a");
        let second = recorder.clone().invoke(2, "b");
        let third = recorder.invoke(3, "c");
        recorder.complete(second, 20);
        recorder.withdraw(third);
        recorder.possible(4, "d");
        recorder.complete(first, 10);
        drop(recorder.invoke(1, "e"));

        let call = |client, op, invoked, answer| Call { client, op, invoked, answer };
        let expected = vec![
            call(1, "a", 1, Some((10, 6))),
            call(2, "b", 2, Some((20, 4))),
            call(4, "d", 5, None),
            call(1, "e", 7, None),
        ];
        assert_eq!(recorder.history(), History { calls: expected });
    }
}
