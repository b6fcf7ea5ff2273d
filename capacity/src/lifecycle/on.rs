//! What happens to an instance, and what it is then.

use hourglass_units::{CloudId, Instant, OperationId};
use serde::{Deserialize, Serialize};

use super::{
    ANSWER_MS_MAX, Action, Belief, Call, Cause, CloudState, Failure, Flight, Key, LATE_MS_MAX, Lifecycle,
    NOTICE_MS_MIN, PAUSE_MS_MAX, PAUSE_MS_MIN, POLL_MS, Phase, Run, RunEnd, START_ATTEMPTS_MAX, START_MS_MAX,
};

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Quota and capacity are held: bring it up.
    Hold,
    /// They are not to be had.
    Refuse {
        /// Why.
        cause: Cause,
    },
    /// Start what was stopped: it asks for quota and capacity again.
    Start,
    /// Give notice, and stop it then.
    Preempt {
        /// When it is to stop, [`NOTICE_MS_MIN`] from now or later.
        until: Instant,
        /// Why.
        cause: Cause,
    },
    /// Stop it now.
    Stop {
        /// Why.
        cause: Cause,
    },
    /// Stop it now, and do away with it.
    Delete {
        /// Why.
        cause: Cause,
    },
}

impl Wish {
    /// The name in snake case.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Refuse { .. } => "refuse",
            Self::Start => "start",
            Self::Preempt { .. } => "preempt",
            Self::Stop { .. } => "stop",
            Self::Delete { .. } => "delete",
        }
    }
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The cloud works on it.
    Accepted {
        /// As which operation.
        operation: OperationId,
        /// On what, where it says so.
        cloud: Option<CloudId>,
    },
    /// It does not, for certain.
    Refused {
        /// Why.
        failure: Failure,
    },
    /// It may or may not: the answer was lost, late, or says nothing certain.
    Unknown,
}

/// How an operation goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// On.
    Running,
    /// It is done.
    Succeeded {
        /// Since when.
        finished_at: Instant,
    },
    /// It broke off.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The cloud knows it no more.
    Vanished,
}

/// What is known of the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A call is about to be made. Written down before it is, so that a crash leaves a call that may have been
    /// made, and never one that nobody knows of.
    Sent {
        /// Under which key.
        key: Key,
    },
    /// What it came to.
    Answered {
        /// Under which key.
        key: Key,
        /// What.
        outcome: Outcome,
    },
    /// How an operation goes.
    Operation {
        /// Which.
        operation: OperationId,
        /// How.
        news: News,
    },
    /// The cloud has it, by a look or a listing.
    Seen {
        /// As what.
        cloud: CloudId,
        /// In which state.
        state: CloudState,
        /// When the look began.
        began: Instant,
        /// When an earlier listing saw it RUNNING.
        last_running: Option<Instant>,
    },
    /// The cloud has none, by a look or a complete listing.
    Absent {
        /// When the look began.
        began: Instant,
        /// When an earlier listing saw it RUNNING.
        last_running: Option<Instant>,
    },
    /// A poll or a look came to nothing.
    NoAnswer,
}

/// A wish, or a fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// What somebody wants.
    Wish(Wish),
    /// What is known of the cloud.
    Fact(Fact),
}

/// What an input made of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Transition {
    /// What it is now. The same as before, where the input was not new or came too late.
    pub next: Lifecycle,
    /// Whether the cloud lacked GPUs that it was counted on for: its pool has to cool down.
    pub is_missing: bool,
}

/// An input that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalTransition {
    /// Not in this phase.
    #[error("an instance in phase {phase} does not take the wish to {wish}: {hint}")]
    Wish {
        /// Which it is in.
        phase: &'static str,
        /// What is wanted.
        wish: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// Too little notice.
    #[error("a notice until {until} is too short: the earliest is {earliest}")]
    NoticeTooShort {
        /// What was given.
        until: Instant,
        /// What would do.
        earliest: Instant,
    },
    /// Nobody is given notice for that.
    #[error("{cause} is no cause for a notice: stop the instance instead")]
    NotAPreemption {
        /// What was given.
        cause: &'static str,
    },
    /// Something has changed since the driver asked.
    #[error("call {key} is not due: do not make it, and ask for the next action")]
    NotDue {
        /// Under which key.
        key: Key,
    },
}

impl Lifecycle {
    /// What it is after a wish or a fact.
    ///
    /// Facts never fail, but for a call that is not due: what is not new, or comes too late, changes nothing.
    pub fn on(&self, input: &Input, at: Instant) -> Result<Transition, IllegalTransition> {
        let mut change = Change { it: self.clone(), at, is_missing: false };
        match input {
            Input::Wish(wish) => change.wish(wish)?,
            Input::Fact(Fact::Sent { key }) => change.sent(key)?,
            Input::Fact(fact) => change.fact(fact),
        }
        Ok(Transition { next: change.it, is_missing: change.is_missing })
    }
}

/// An instance on its way from one state to the next.
struct Change {
    it: Lifecycle,
    at: Instant,
    is_missing: bool,
}

impl Change {
    fn wish(&mut self, wish: &Wish) -> Result<(), IllegalTransition> {
        let phase = self.it.phase.as_str();
        let illegal = |hint| Err(IllegalTransition::Wish { phase, wish: wish.as_str(), hint });
        match (wish, &self.it.phase) {
            (Wish::Hold, Phase::Requested) => self.enter(Phase::Held),
            (Wish::Hold, Phase::Held) => {}
            (Wish::Hold, _) => return illegal("it was held before"),
            (Wish::Refuse { cause }, Phase::Requested) => self.fail(cause.clone()),
            (Wish::Refuse { .. }, _) => return illegal("stop it"),

            (Wish::Start, Phase::Stopped { .. }) if !self.it.is_deleted => {
                (self.it.run, self.it.up_since, self.it.failures) = (None, None, 0);
                self.enter(Phase::Requested);
            }
            (Wish::Start, Phase::Requested | Phase::Held | Phase::Creating | Phase::Running) => {}
            (Wish::Start, Phase::Notice { .. } | Phase::Stopping { .. }) => {
                return illegal("start it when it is down");
            }
            (Wish::Start, Phase::Stopped { .. } | Phase::Failed { .. }) => {
                return illegal("request another one");
            }

            (Wish::Preempt { cause, .. }, _) if !cause.is_preemption() => {
                return Err(IllegalTransition::NotAPreemption { cause: cause.as_str() });
            }
            (Wish::Preempt { until, cause }, Phase::Running) => {
                let earliest = self.at.saturating_add_ms(NOTICE_MS_MIN);
                if *until < earliest {
                    return Err(IllegalTransition::NoticeTooShort { until: *until, earliest });
                }
                self.enter(Phase::Notice { until: *until, cause: cause.clone() });
            }
            (Wish::Preempt { until, cause }, Phase::Notice { until: before, .. }) => {
                let earliest = self.at.saturating_add_ms(NOTICE_MS_MIN).min(*before);
                if *until < earliest {
                    return Err(IllegalTransition::NoticeTooShort { until: *until, earliest });
                }
                if until < before {
                    self.enter(Phase::Notice { until: *until, cause: cause.clone() });
                }
            }
            (Wish::Preempt { cause, .. } | Wish::Stop { cause }, _) => self.go_down(cause),
            (Wish::Delete { cause }, _) => {
                self.it.is_deleted = true;
                self.go_down(cause);
            }
        }
        Ok(())
    }

    /// Down from wherever it is. What never came up needs no notice.
    fn go_down(&mut self, cause: &Cause) {
        let cause = cause.clone();
        match self.it.phase {
            Phase::Requested | Phase::Held if self.is_down() => self.enter(Phase::Stopped { cause }),
            Phase::Requested | Phase::Held | Phase::Creating | Phase::Running | Phase::Notice { .. } => {
                self.enter(Phase::Stopping { cause });
                self.settle();
            }
            Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Failed { .. } => {}
        }
    }

    fn sent(&mut self, key: &Key) -> Result<(), IllegalTransition> {
        let due = self.it.next_action(self.at);
        if !matches!(&due, Some(Action::Call { key: due, .. }) if due == key) {
            return Err(IllegalTransition::NotDue { key: key.clone() });
        }
        let first_sent = match &self.it.flight {
            Some(Flight::Sent { first_sent, .. }) => *first_sent,
            _ => self.at,
        };
        let call = key.call;
        self.it.flight = Some(Flight::Sent { call, first_sent, last_sent: self.at, is_absent: false });
        if call.brings_up() {
            self.it.up_since = None;
        }
        match &self.it.phase {
            Phase::Held if call.brings_up() => self.enter(Phase::Creating),
            Phase::Notice { cause, .. } => {
                let cause = cause.clone();
                self.enter(Phase::Stopping { cause });
            }
            _ => {}
        }
        self.it.not_before = self.at.saturating_add_ms(ANSWER_MS_MAX);
        Ok(())
    }

    fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Sent { .. } => {}
            Fact::Answered { key, outcome } => self.answered(key, outcome),
            Fact::Operation { operation, news } => self.operation(operation, news),
            Fact::Seen { cloud, state, began, last_running } => {
                if self.it.is_timely(*began) {
                    self.was_running(*last_running);
                    self.seen(cloud, *state, *began);
                }
            }
            Fact::Absent { began, last_running } => {
                if self.it.is_timely(*began) {
                    self.was_running(*last_running);
                    self.absent();
                }
            }
            Fact::NoAnswer => self.pause(),
        }
    }

    fn answered(&mut self, key: &Key, outcome: &Outcome) {
        let Some(Flight::Sent { call, first_sent, .. }) = self.it.flight else { return };
        if *key != self.it.key(call) {
            return;
        }
        match outcome {
            Outcome::Unknown => self.pause(),
            Outcome::Refused { failure } => {
                self.land();
                self.failed(call, *failure);
            }
            Outcome::Accepted { operation, cloud } => {
                if cloud.is_some() {
                    self.it.cloud.clone_from(cloud);
                }
                self.it.flight = Some(Flight::Accepted { call, first_sent, operation: operation.clone() });
                self.it.pauses = 0;
                self.wait(POLL_MS);
            }
        }
    }

    fn operation(&mut self, operation: &OperationId, news: &News) {
        let Some(Flight::Accepted { call, first_sent, operation: known }) = &self.it.flight else { return };
        if known != operation {
            return;
        }
        let (call, first_sent) = (*call, *first_sent);
        match news {
            News::Running => self.wait(POLL_MS),
            News::Succeeded { finished_at } => {
                self.land();
                match call {
                    Call::Create | Call::Start => {
                        self.it.belief = Belief::ComingUp;
                        // Clocks run apart, but no operation ends before it was asked for.
                        self.it.up_since = Some((*finished_at).min(self.at).max(first_sent));
                    }
                    Call::Stop => self.down(Some(first_sent)),
                    Call::Delete => self.gone(),
                }
            }
            News::Failed { failure } => {
                self.land();
                self.failed(call, *failure);
            }
            News::Vanished => {
                self.land();
                self.it.belief = Belief::Unsure;
                if call.brings_up() && self.it.phase.wants_up() {
                    self.try_again(Failure::Internal);
                }
            }
        }
    }

    /// A call did not do what it was for. What it left behind has to be looked at.
    fn failed(&mut self, call: Call, failure: Failure) {
        self.it.belief = Belief::Unsure;
        if failure == Failure::NotFound && call != Call::Create {
            return self.absent();
        }
        if !(call.brings_up() && self.it.phase.wants_up()) {
            return self.pause();
        }
        match failure {
            Failure::NotEnoughResources => {
                self.is_missing = true;
                self.fail(Cause::NotEnoughResources);
            }
            Failure::QuotaFailure => self.fail(Cause::CloudQuota),
            Failure::PermissionDenied | Failure::InvalidArgument | Failure::NotFound => {
                self.fail(Cause::CloudError { failure });
            }
            Failure::Conflict | Failure::AlreadyExists | Failure::Internal => self.try_again(failure),
        }
    }

    /// A start that failed for no reason that would last.
    fn try_again(&mut self, failure: Failure) {
        self.it.failures = self.it.failures.saturating_add(1);
        if self.it.failures >= START_ATTEMPTS_MAX {
            return self.fail(Cause::CloudError { failure });
        }
        self.enter(Phase::Held);
        self.it.pauses = self.it.failures;
        self.pause();
    }

    fn seen(&mut self, cloud: &CloudId, state: CloudState, began: Instant) {
        let belief = Belief::from(state);
        if let Some(Flight::Sent { call: Call::Start, last_sent, .. }) = self.it.flight
            && belief == Belief::Down
            && self.may_arrive(last_sent)
        {
            return self.pause();
        }
        if self.it.flight.is_some() {
            self.land();
        }
        self.it.cloud = Some(cloud.clone());
        if belief == Belief::Up {
            self.was_running(Some(began));
        }
        match (&self.it.phase, belief) {
            (Phase::Held | Phase::Creating, Belief::Up) => self.up(began),
            (Phase::Creating, Belief::Down) => {
                // It was accepted, and came to nothing.
                self.it.belief = belief;
                self.is_missing = true;
                self.fail(Cause::NotEnoughResources);
            }
            (Phase::Creating, Belief::Broken) => {
                self.it.belief = belief;
                self.fail(Cause::CloudError { failure: Failure::Internal });
            }
            (Phase::Held, Belief::ComingUp) => {
                self.it.belief = belief;
                self.enter(Phase::Creating);
            }
            (Phase::Running, Belief::GoingDown | Belief::Broken) => {
                self.it.belief = belief;
                self.close(None);
                self.enter(Phase::Stopping { cause: Cause::Provider });
            }
            (Phase::Notice { cause, .. }, Belief::GoingDown | Belief::Broken) => {
                let cause = cause.clone();
                self.it.belief = belief;
                self.close(None);
                self.enter(Phase::Stopping { cause });
            }
            (_, Belief::Down) => self.down(None),
            // Nothing has moved: it is looked at again after a while.
            (_, same) if same == self.it.belief && self.it.step().is_some() => self.pause(),
            (_, other) => self.it.belief = other,
        }
    }

    /// The cloud has none.
    fn absent(&mut self) {
        if let Some(Flight::Sent { last_sent, is_absent, .. }) = &mut self.it.flight {
            let last_sent = *last_sent;
            // It has not arrived so far: it is made again where it is wanted, and may come late where not.
            *is_absent = true;
            if self.it.phase.wants_up() || self.may_arrive(last_sent) {
                return self.pause();
            }
        }
        if self.it.flight.is_some() {
            self.land();
        }
        self.gone();
    }

    fn is_down(&self) -> bool {
        self.it.flight.is_none() && matches!(self.it.belief, Belief::Absent | Belief::Down)
    }

    fn may_arrive(&self, last_sent: Instant) -> bool {
        self.at.ms_since(last_sent) < LATE_MS_MAX
    }

    fn gone(&mut self) {
        (self.it.belief, self.it.cloud) = (Belief::Absent, None);
        match &self.it.phase {
            Phase::Creating => self.try_again(Failure::NotFound),
            Phase::Requested | Phase::Held => {}
            Phase::Running | Phase::Notice { .. } | Phase::Stopping { .. } => self.ended(None),
            Phase::Stopped { .. } | Phase::Failed { .. } => {}
        }
    }

    fn up(&mut self, began: Instant) {
        let from = self.it.up_since.take().unwrap_or(self.at);
        self.it.belief = Belief::Up;
        (self.it.failures, self.it.has_run) = (0, true);
        self.it.run = Some(Run { from, last_seen: began.max(from), end: None });
        self.enter(Phase::Running);
        self.settle();
    }

    /// It is down: since a stop that was first sent then, or for a reason that we do not know.
    fn down(&mut self, stopped_at: Option<Instant>) {
        self.it.belief = Belief::Down;
        self.ended(stopped_at);
    }

    fn ended(&mut self, stopped_at: Option<Instant>) {
        let cause = match &self.it.phase {
            Phase::Running => Cause::Provider,
            Phase::Notice { cause, .. } | Phase::Stopping { cause } => cause.clone(),
            _ => return,
        };
        self.close(stopped_at);
        self.enter(Phase::Stopped { cause });
    }

    /// It did not come up, and will not. What never did is done away with; what did once is only stopped, and
    /// may be started again.
    fn fail(&mut self, cause: Cause) {
        self.enter(match self.it.has_run {
            false => Phase::Failed { cause },
            true if self.is_down() => Phase::Stopped { cause },
            true => Phase::Stopping { cause },
        });
    }

    fn close(&mut self, stopped_at: Option<Instant>) {
        if let Some(run) = self.it.run.as_mut().filter(|run| run.end.is_none()) {
            let billed_until = stopped_at.unwrap_or(run.last_seen).max(run.from);
            run.end = Some(RunEnd { billed_until, seen_stopped: self.at });
        }
    }

    fn was_running(&mut self, last_running: Option<Instant>) {
        if let (Some(run), Some(seen)) = (self.it.run.as_mut().filter(|run| run.end.is_none()), last_running)
        {
            run.last_seen = run.last_seen.max(seen);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.it.phase = phase;
        self.it.since = self.at;
        self.it.pauses = 0;
        if self.it.flight.is_none() {
            self.it.not_before = self.at;
        }
    }

    /// The call in flight had a definite end.
    fn land(&mut self) {
        self.it.flight = None;
        self.it.generation = self.it.generation.saturating_add(1);
        self.it.not_before = self.at;
        self.settle();
    }

    fn settle(&mut self) {
        self.it.settled_at = self.at;
    }

    /// Waits, each time twice as long.
    fn pause(&mut self) {
        let doubled = PAUSE_MS_MIN.saturating_mul(2_i64.saturating_pow(self.it.pauses));
        self.it.pauses = self.it.pauses.saturating_add(1);
        self.wait(doubled.min(PAUSE_MS_MAX));
    }

    /// Waits so many milliseconds. A start that has waited too long has failed.
    fn wait(&mut self, ms: i64) {
        self.it.not_before = self.at.saturating_add_ms(ms);
        if self.it.phase == Phase::Creating && self.at.ms_since(self.it.since) >= START_MS_MAX {
            let not_before = self.it.not_before;
            self.fail(Cause::TimedOut);
            self.it.not_before = not_before;
        }
    }
}
