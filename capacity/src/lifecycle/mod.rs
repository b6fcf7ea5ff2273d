//! The life of an instance, and the calls to the cloud that it takes.
//!
//! ```text
//! REQUESTED -> HELD -> CREATING -> RUNNING -> NOTICE -> STOPPING -> STOPPED -> (start) REQUESTED
//!                  \---------\------------------------> FAILED
//! ```
//!
//! A [`Lifecycle`] takes [wishes](Wish) of people and of the market, and [facts](Fact) of the cloud, by
//! [`Lifecycle::on`]; it says what to do next by [`Lifecycle::next_action`]. A driver is a loop: ask for the
//! action; if it is a call, report [`Fact::Sent`] and make that durable; carry it out; report the answer.
//!
//! * **L-1** every request ends in RUNNING or in a [`Cause`].
//! * **L-2** what is billed ran. A run begins when its operation finished, or else when it was seen RUNNING; it
//!   ends when the stop that the cloud carried out was first sent, or else when it was last seen RUNNING: of
//!   two possible ends, the one in the customer's favour ([`Run`]).
//! * **L-3** to repeat, delay, lose or duplicate any call changes no outcome. One call is in flight at a time.
//!   A call without an answer is made again under the same [`Key`], a create only after a look whether there
//!   is one by now. A definite answer ends the key. What comes late bears an old key, or was looked at before
//!   the last change, and is passed over.
//!
//! # Precedence of wishes
//!
//! Delete beats stop, stop beats notice, notice beats start. What is on its way down cannot be started until it
//! is down. Of two notices the one that ends sooner counts. A wish that comes while a call is in flight waits
//! for its end.
//!
//! # What it relies on
//!
//! The cloud keeps idempotency keys for longer than a call may be late. Where it does not, a late call may
//! start or stop something once more: [`reconcile`](crate::lifecycle::reconcile()) finds it.
//!
//! An instance whose state in the cloud is ERROR is deleted: nobody can use it, and it may hold GPUs.

mod on;
mod reconcile;

use std::fmt;

use hourglass_units::{BidId, CloudId, InstanceId, Instant, OperationId};
use serde::{Deserialize, Serialize};

pub use on::{Fact, IllegalTransition, Input, News, Outcome, Transition, Wish};
pub use reconcile::{Finding, Kind, Listed, Listing, reconcile};

/// Least notice before a stop that the customer did not ask for, in milliseconds.
pub const NOTICE_MS_MIN: i64 = 60_000;
/// How long a start may take, in milliseconds: half an hour.
pub const START_MS_MAX: i64 = 30 * 60_000;
/// How often a start is tried that the cloud fails for no reason that would last.
pub const START_ATTEMPTS_MAX: u32 = 5;
/// After how long a call without an answer is taken for lost, in milliseconds.
pub const ANSWER_MS_MAX: i64 = 30_000;
/// How long after it was sent a call may still arrive, in milliseconds: who wants it no more looks so long
/// whether it did.
pub const LATE_MS_MAX: i64 = 120_000;
/// How often what comes up is looked at before it is stopped all the same: for about five minutes.
pub const LOOKS_MAX: u32 = 10;
/// Pause before it is asked again how an operation goes that the cloud works on, in milliseconds. It does not
/// grow: somebody waits for the GPUs that a stop sets free, and each poll that comes late makes them wait.
pub const POLL_MS: i64 = 500;
/// First pause before something is tried or asked again, in milliseconds; each further one is twice as long.
pub const PAUSE_MS_MIN: i64 = 1_000;
/// Longest pause, in milliseconds.
pub const PAUSE_MS_MAX: i64 = 60_000;

/// What the cloud says that an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudState {
    /// It is made.
    Creating,
    /// It is changed.
    Updating,
    /// It comes up.
    Starting,
    /// It is up.
    Running,
    /// It goes down.
    Stopping,
    /// It is down.
    Stopped,
    /// It goes away.
    Deleting,
    /// It is broken.
    Error,
}

/// Why the cloud did not do what it was asked, for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It has no such GPUs left.
    NotEnoughResources,
    /// Our quota there is used up.
    QuotaFailure,
    /// We may not.
    PermissionDenied,
    /// It is no proper call.
    InvalidArgument,
    /// Something else goes on with the instance, or it is in no state for this.
    Conflict,
    /// There is none.
    NotFound,
    /// There is one of that name.
    AlreadyExists,
    /// It broke off.
    Internal,
}

impl Failure {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEnoughResources => "not_enough_resources",
            Self::QuotaFailure => "quota_failure",
            Self::PermissionDenied => "permission_denied",
            Self::InvalidArgument => "invalid_argument",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Internal => "internal",
        }
    }
}

/// For what spot had to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reclaim {
    /// A reservation begins.
    Reservation,
    /// On-demand was admitted.
    OnDemand,
    /// The owner of lent GPUs takes them back.
    Owner,
    /// Capacity fell.
    Capacity,
}

/// Why an instance ended (A-7: there is exactly one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody bid more.
    Outbid {
        /// Who.
        by: BidId,
    },
    /// Its GPUs went to who comes before spot.
    SupplyReclaimed {
        /// For what.
        by: Reclaim,
    },
    /// The reserve price rose above its limit.
    ReserveRaised,
    /// The cloud stopped it, or lost it.
    Provider,
    /// Its money is spent.
    Budget,
    /// Its quota was lowered, or there was none.
    Quota,
    /// Its tenant is suspended.
    Suspension,
    /// Its node is serviced.
    Maintenance,
    /// Its owner stopped it.
    OwnerStopped,
    /// It did what it was for.
    Finished,
    /// It did not start: the cloud has no such GPUs left.
    NotEnoughResources,
    /// It did not start: our quota at the cloud is used up.
    CloudQuota,
    /// It did not start: the cloud said so.
    CloudError {
        /// What it said.
        failure: Failure,
    },
    /// It did not start within [`START_MS_MAX`].
    TimedOut,
    /// Nobody asked for it.
    NeverAsked,
}

impl Cause {
    /// The name in snake case.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Outbid { .. } => "outbid",
            Self::SupplyReclaimed { .. } => "supply_reclaimed",
            Self::ReserveRaised => "reserve_raised",
            Self::Provider => "provider",
            Self::Budget => "budget",
            Self::Quota => "quota",
            Self::Suspension => "suspension",
            Self::Maintenance => "maintenance",
            Self::OwnerStopped => "owner_stopped",
            Self::Finished => "finished",
            Self::NotEnoughResources => "not_enough_resources",
            Self::CloudQuota => "cloud_quota",
            Self::CloudError { .. } => "cloud_error",
            Self::TimedOut => "timed_out",
            Self::NeverAsked => "never_asked",
        }
    }

    /// Whether an instance may be given notice for it.
    pub const fn is_preemption(&self) -> bool {
        matches!(
            self,
            Self::Outbid { .. }
                | Self::SupplyReclaimed { .. }
                | Self::ReserveRaised
                | Self::Budget
                | Self::Quota
                | Self::Suspension
                | Self::Maintenance
        )
    }
}

/// Where an instance stands, as people are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; quota and capacity are not held yet.
    Requested,
    /// They are held, and the next call is due.
    Held,
    /// The cloud was asked to bring it up.
    Creating,
    /// It is up.
    Running,
    /// It is up, and was told that it will be stopped.
    Notice {
        /// When.
        until: Instant,
        /// Why.
        cause: Cause,
    },
    /// It is to be down and is not, for all we know.
    Stopping {
        /// Why.
        cause: Cause,
    },
    /// It is down, and can be started again.
    Stopped {
        /// Why.
        cause: Cause,
    },
    /// It never came up, and will not.
    Failed {
        /// Why.
        cause: Cause,
    },
}

impl Phase {
    /// The name in snake case.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Held => "held",
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Notice { .. } => "notice",
            Self::Stopping { .. } => "stopping",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether the cloud is to bring it up.
    const fn wants_up(&self) -> bool {
        matches!(self, Self::Held | Self::Creating)
    }
}

/// What changes something at the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Make it and bring it up.
    Create,
    /// Bring it up again.
    Start,
    /// Bring it down.
    Stop,
    /// Do away with it.
    Delete,
}

impl Call {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }

    const fn brings_up(self) -> bool {
        matches!(self, Self::Create | Self::Start)
    }
}

/// The idempotency key of a call: the same for each repetition, another after each definite answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Of which instance.
    pub instance: InstanceId,
    /// How many calls of it had a definite answer before.
    pub generation: u32,
    /// Which call.
    pub call: Call,
}

impl fmt::Display for Key {
    /// As it goes into the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.instance, self.generation, self.call.as_str())
    }
}

/// What a driver has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Report [`Fact::Sent`], make the call, report [`Fact::Answered`].
    Call {
        /// Which, and under which key.
        key: Key,
        /// On what; a create makes it, under a name that is the instance's id.
        cloud: Option<CloudId>,
    },
    /// Ask how the operation goes, report [`Fact::Operation`].
    PollOperation {
        /// Which.
        operation: OperationId,
    },
    /// Look at the instance, report [`Fact::Seen`] or [`Fact::Absent`].
    LookUp {
        /// By its id; by its name where there is none.
        cloud: Option<CloudId>,
    },
}

/// What we believe that the cloud has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belief {
    /// None.
    Absent,
    /// It has to be looked at.
    Unsure,
    /// It comes up.
    ComingUp,
    /// It is up.
    Up,
    /// It goes down.
    GoingDown,
    /// It is down.
    Down,
    /// It is in error.
    Broken,
}

impl From<CloudState> for Belief {
    fn from(state: CloudState) -> Self {
        match state {
            CloudState::Creating | CloudState::Starting | CloudState::Updating => Self::ComingUp,
            CloudState::Running => Self::Up,
            CloudState::Stopping | CloudState::Deleting => Self::GoingDown,
            CloudState::Stopped => Self::Down,
            CloudState::Error => Self::Broken,
        }
    }
}

/// The one call in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Flight {
    /// It was sent, or was to be.
    Sent {
        call: Call,
        /// When for the first time.
        first_sent: Instant,
        /// When for the last time.
        last_sent: Instant,
        /// A create: whether a look showed that there is none, since.
        is_absent: bool,
    },
    /// The cloud works on it.
    Accepted { call: Call, first_sent: Instant, operation: OperationId },
}

/// A time in which an instance was RUNNING, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its first instant: the operation that brought it up finished; or it was seen RUNNING, where that
    /// operation was lost.
    pub from: Instant,
    /// When it was last seen RUNNING, at least.
    pub last_seen: Instant,
    /// How it ended.
    pub end: Option<RunEnd>,
}

/// The end of a run, between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The end that is billed: it was running until then.
    pub billed_until: Instant,
    /// When it was first known to run no more.
    pub seen_stopped: Instant,
}

/// The life of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    instance: InstanceId,
    phase: Phase,
    /// Since when it is in this phase.
    since: Instant,
    /// Whether it is to be deleted once it is down.
    is_deleted: bool,
    cloud: Option<CloudId>,
    belief: Belief,
    flight: Option<Flight>,
    /// Calls that had a definite answer.
    generation: u32,
    /// Starts that failed for no reason that would last.
    failures: u32,
    /// Pauses since something last went on.
    pauses: u32,
    not_before: Instant,
    /// When a call ended or the phase changed last: what was looked at before says nothing any more.
    settled_at: Instant,
    /// When the operation finished that brought it up.
    up_since: Option<Instant>,
    /// Whether it was ever RUNNING.
    has_run: bool,
    run: Option<Run>,
}

impl Lifecycle {
    /// A request that was accepted.
    pub fn requested(instance: InstanceId, at: Instant) -> Self {
        Self {
            instance,
            phase: Phase::Requested,
            since: at,
            is_deleted: false,
            cloud: None,
            belief: Belief::Absent,
            flight: None,
            generation: 0,
            failures: 0,
            pauses: 0,
            not_before: at,
            settled_at: at,
            up_since: None,
            has_run: false,
            run: None,
        }
    }

    /// Something that the cloud runs and nobody asked for: it is stopped, and deleted where the policy says so.
    pub fn stray(cloud: CloudId, is_deleted: bool, at: Instant) -> Result<Self, hourglass_units::IdError> {
        let stray = Self::requested(InstanceId::new(cloud.as_str())?, at);
        let phase = Phase::Stopped { cause: Cause::NeverAsked };
        Ok(Self { phase, is_deleted, cloud: Some(cloud), belief: Belief::Unsure, ..stray })
    }

    /// Which.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Since when.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What the cloud calls it.
    pub fn cloud(&self) -> Option<&CloudId> {
        self.cloud.as_ref()
    }

    /// What we believe that the cloud has.
    pub fn belief(&self) -> Belief {
        self.belief
    }

    /// The last time that it ran, or runs.
    pub fn run(&self) -> Option<Run> {
        self.run
    }

    /// A complete listing that began then has nothing else to say of it: what is thought to be up was RUNNING.
    pub fn still_as_it_was(&mut self, began: Instant) {
        let is_up = self.belief == Belief::Up && self.is_timely(began);
        if let Some(run) = self.run.as_mut().filter(|run| is_up && run.end.is_none()) {
            run.last_seen = run.last_seen.max(began);
        }
    }

    /// Whether nothing is left to do for it, nor at the cloud: it may be forgotten.
    pub fn is_over(&self) -> bool {
        let is_ended = matches!(self.phase, Phase::Stopped { .. } | Phase::Failed { .. });
        is_ended && self.flight.is_none() && self.belief == Belief::Absent
    }

    /// What to do now; nothing where something has to be waited for.
    pub fn next_action(&self, now: Instant) -> Option<Action> {
        if self.wakes_at()? <= now { self.step() } else { None }
    }

    /// Whether the cloud works on a call, so that what is to do is to ask how that goes.
    pub fn is_polled(&self) -> bool {
        matches!(self.flight, Some(Flight::Accepted { .. }))
    }

    /// From when on there is something to do, if nothing happens before.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.step()?;
        match (&self.phase, &self.flight) {
            (Phase::Notice { until, .. }, None) => Some(self.not_before.max(*until)),
            _ => Some(self.not_before),
        }
    }

    fn step(&self) -> Option<Action> {
        match &self.flight {
            Some(Flight::Accepted { operation, .. }) => {
                Some(Action::PollOperation { operation: operation.clone() })
            }
            Some(Flight::Sent { .. }) if self.is_looked_for() => Some(self.look_up()),
            Some(Flight::Sent { call, .. }) => Some(self.call(*call)),
            None => self.wanted(),
        }
    }

    /// Whether a look decides about the call that has no answer: a create, before it is made again; and what
    /// was to bring up what is to be down now.
    fn is_looked_for(&self) -> bool {
        match &self.flight {
            Some(Flight::Sent { call: Call::Create, is_absent: false, .. }) => true,
            Some(Flight::Sent { call, .. }) => call.brings_up() && !self.phase.wants_up(),
            Some(Flight::Accepted { .. }) | None => false,
        }
    }

    /// Whether a look that began then says something: nothing is in flight that may change what it saw, and
    /// nothing has changed since.
    fn is_timely(&self, began: Instant) -> bool {
        match &self.flight {
            None => self.settled_at <= began,
            Some(Flight::Sent { last_sent, .. }) => self.is_looked_for() && *last_sent <= began,
            Some(Flight::Accepted { .. }) => false,
        }
    }

    /// What brings the cloud nearer to where it is to be.
    fn wanted(&self) -> Option<Action> {
        match (&self.phase, self.belief) {
            (Phase::Requested, _) => None,
            (_, Belief::Unsure) => Some(self.look_up()),
            // An operation need not say what it made.
            (_, belief) if belief != Belief::Absent && self.cloud.is_none() => Some(self.look_up()),

            (Phase::Held, Belief::Absent) => Some(self.call(Call::Create)),
            (Phase::Held, Belief::Down) => Some(self.call(Call::Start)),
            (Phase::Held, Belief::Broken) => Some(self.call(Call::Delete)),
            (Phase::Held | Phase::Creating, _) => Some(self.look_up()),

            (Phase::Running, _) => None,

            (Phase::Failed { .. }, Belief::Absent) => None,
            (Phase::Failed { .. }, _) => Some(self.call(Call::Delete)),

            (Phase::Notice { .. } | Phase::Stopping { .. } | Phase::Stopped { .. }, belief) => match belief {
                Belief::Broken => Some(self.call(Call::Delete)),
                Belief::Up => Some(self.call(Call::Stop)),
                // An operation that we lost brings it up: one at a time.
                Belief::ComingUp if self.pauses < LOOKS_MAX => Some(self.look_up()),
                Belief::ComingUp => Some(self.call(Call::Stop)),
                Belief::GoingDown => Some(self.look_up()),
                Belief::Down if self.is_deleted => Some(self.call(Call::Delete)),
                Belief::Down | Belief::Absent | Belief::Unsure => None,
            },
        }
    }

    fn look_up(&self) -> Action {
        Action::LookUp { cloud: self.cloud.clone() }
    }

    fn call(&self, call: Call) -> Action {
        let cloud = self.cloud.clone().filter(|_| call != Call::Create);
        Action::Call { key: self.key(call), cloud }
    }

    fn key(&self, call: Call) -> Key {
        Key { instance: self.instance.clone(), generation: self.generation, call }
    }
}
