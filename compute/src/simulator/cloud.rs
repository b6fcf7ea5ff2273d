//! The simulated cloud: a state machine over virtual time.
//!
//! It knows no clock, waits for nothing and draws from its seed alone. Time is what the caller says it is:
//! [`Cloud::step`] takes a call at a time, [`Cloud::advance`] lets time pass, [`Cloud::next_event`] says when
//! something will happen by itself. The same seed, settings and calls at the same times give the same answers and
//! the same state, whether or not the state was saved and loaded in between.

use hourglass_units::{InstanceId, Instant};
use serde::{Deserialize, Serialize};

use crate::draw::Draws;
use crate::error::ComputeError;
use crate::ids::OperationId;
use crate::model::{Instance, InstanceState, Operation, Place};

use super::admission::Admission;
use super::call::{Answer, Call, CallKind, Change, Delivery, Response};
use super::faults::{Fault, Loss};
use super::script::What;
use super::settings::{Settings, SettingsError};
use super::state::{Due, Event, Machine, Remembered, State, Work};

/// Longest idempotency key, in bytes.
pub const KEY_LENGTH_MAX: usize = 256;
/// How long what needs no machine takes, in milliseconds.
const QUICK_MS: i64 = 1_000;

/// A cloud.
#[derive(Debug, Clone)]
pub struct Cloud {
    pub(super) settings: Settings,
    pub(super) state: State,
    changes: u64,
}

/// What a cloud remembers, for [`Cloud::resume`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved(State);

/// A state that does not go with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The settings cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The script or the reservations are others.
    #[error(
        "the state was made with another script or other reservations: give the same, or begin with a new state"
    )]
    Plans,
    /// Something is in a place that is gone.
    #[error(
        "an instance of the state is in {0}, which the settings have not: add it, or begin with a new state"
    )]
    Place(String),
}

impl Cloud {
    /// A cloud that begins now.
    pub fn new(settings: Settings, begun: Instant) -> Result<Self, SettingsError> {
        settings.check()?;
        let left = settings.script.rules.iter().map(|rule| match rule.what {
            What::Next(count, ..) => count,
            What::Every(..) | What::Instance(..) | What::Capacity(..) => 0,
        });
        let state = State {
            begun,
            now: begun,
            draws: Draws::new(settings.seed),
            minted: 0,
            machines: Default::default(),
            works: Default::default(),
            keys: Default::default(),
            waiting: Vec::new(),
            agenda: Default::default(),
            repeats: Default::default(),
            capacity: settings.capacity.clone(),
            left: left.collect(),
            script: settings.script.clone(),
            reservations: settings.reservations.clone(),
        };
        let mut cloud = Self { settings, state, changes: 0 };
        cloud.plan_settings();
        Ok(cloud)
    }

    /// Goes on where a cloud was. How many machines there are is for the settings to say, and for what the
    /// script has changed since.
    pub fn resume(settings: Settings, Saved(mut state): Saved) -> Result<Self, ResumeError> {
        settings.check()?;
        if settings.script != state.script || settings.reservations != state.reservations {
            return Err(ResumeError::Plans);
        }
        let mut held = state.machines.values().filter_map(|machine| machine.room.as_ref());
        if let Some(room) = held.find(|room| !settings.capacity.contains_key(&room.place)) {
            return Err(ResumeError::Place(room.place.to_string()));
        }
        state.capacity = settings.capacity.clone();
        let age_ms = state.age_ms();
        for rule in settings.script.rules.iter().filter(|rule| rule.at_ms <= age_ms) {
            if let What::Capacity(place, gpus) = &rule.what {
                state.capacity.insert(place.clone(), *gpus);
            }
        }
        let mut cloud = Self { settings, state, changes: 0 };
        cloud.shrink();
        cloud.seat();
        Ok(cloud)
    }

    /// All that [`resume`](Self::resume) needs.
    pub fn saved(&self) -> Saved {
        Saved(self.state.clone())
    }

    /// How far time has come.
    pub const fn now(&self) -> Instant {
        self.state.now
    }

    /// Grows whenever anything changes that ought to be saved.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// When something will happen by itself.
    pub fn next_event(&self) -> Option<Instant> {
        self.state.agenda.first().map(|due| due.at)
    }

    /// The settings.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All instances, in the order of their ids: how things are, whatever callers are told.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.state.machines.values().map(|machine| &machine.instance)
    }

    /// All operations that are remembered, also those that nobody is told of.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.state.works.values().map(|work| &work.operation)
    }

    /// Each place, with the GPUs that there are and those that are held.
    pub fn places(&self) -> impl Iterator<Item = (&Place, u64, u64)> {
        self.state.capacity.iter().map(|(place, there)| (place, *there, self.state.used(place)))
    }

    /// Lets time pass. It never goes back.
    pub fn advance(&mut self, now: Instant) {
        while let Some(due) = self.state.agenda.first()
            && due.at <= now
            && let Some(Due { at, event, .. }) = self.state.agenda.pop_first()
        {
            self.state.now = at.max(self.state.now);
            self.changes = self.changes.saturating_add(1);
            self.happen(event);
            self.seat();
        }
        self.state.now = now.max(self.state.now);
    }

    /// Takes a call.
    pub fn step(&mut self, now: Instant, call: &Call) -> Response {
        self.advance(now);
        let fault = self.fault_of(call.kind());
        let message = || "a fault of the simulation".to_owned();
        let refused = |error| Response { answer: Err(error), delivery: Delivery::Prompt };
        match fault {
            Some(Fault::Unavailable) => return refused(ComputeError::Unavailable { message: message() }),
            Some(Fault::TooManyRequests) => {
                return refused(ComputeError::TooManyRequests { message: message() });
            }
            Some(Fault::Unauthenticated) => {
                return refused(ComputeError::Unauthenticated { message: message() });
            }
            Some(Fault::NeverAnswer | Fault::Delay(_)) => {
                if let (Some(Fault::Delay(by_ms)), Call::Change { key, change }) = (fault, call) {
                    self.repeat(key.clone(), change.clone(), by_ms);
                }
                let answer = Err(ComputeError::Unavailable { message: message() });
                return Response { answer, delivery: Delivery::Lost(Loss::Silence) };
            }
            _ => {}
        }
        let answer = match call {
            Call::Change { key, change } => {
                let answer = self.change(key.as_deref(), change, fault);
                if let (Some(Fault::Duplicate(after_ms)), Ok(_)) = (fault, &answer) {
                    self.repeat(key.clone(), change.clone(), after_ms);
                }
                answer
            }
            Call::Query(query) => self.query(query),
        };
        let delivery = match fault {
            Some(Fault::LoseAnswer(loss)) => Delivery::Lost(loss),
            Some(Fault::LateAnswer(by_ms)) => Delivery::Late(by_ms),
            Some(Fault::Garbage(garble)) if answer.is_ok() => Delivery::Garbled(garble),
            _ => Delivery::Prompt,
        };
        Response { answer, delivery }
    }

    /// A call comes in so many milliseconds from now, and nobody waits for its answer.
    fn repeat(&mut self, key: Option<String>, change: Change, after_ms: i64) {
        let turn = self.state.turn();
        self.state.repeats.insert(turn, (key, change));
        self.state.plan(after_ms, Event::Repeats(turn));
        self.changes = self.changes.saturating_add(1);
    }

    /// What strikes a call: the first line of the script that does, else chance.
    fn fault_of(&mut self, kind: CallKind) -> Option<Fault> {
        let age_ms = self.state.age_ms();
        let due = self.settings.script.rules.iter().zip(&mut self.state.left);
        for (rule, left) in due.filter(|(rule, _)| rule.at_ms <= age_ms) {
            match &rule.what {
                What::Next(_, calls, fault) if *left > 0 && calls.mean(kind) && fault.strikes(kind) => {
                    *left = left.saturating_sub(1);
                    self.changes = self.changes.saturating_add(1);
                    return Some(*fault);
                }
                What::Every(for_ms, calls, fault)
                    if age_ms < rule.at_ms.saturating_add(*for_ms)
                        && calls.mean(kind)
                        && fault.strikes(kind) =>
                {
                    return Some(*fault);
                }
                What::Next(..) | What::Every(..) | What::Instance(..) | What::Capacity(..) => {}
            }
        }
        self.settings.rates.draw(kind, &mut self.state.draws)
    }

    fn change(
        &mut self,
        key: Option<&str>,
        change: &Change,
        fault: Option<Fault>,
    ) -> Result<Answer, ComputeError> {
        const FIELD: &str = "x-idempotency-key";
        if let Some(key) = key {
            if !(1..=KEY_LENGTH_MAX).contains(&key.len()) {
                let what = format!("it has 1 to {KEY_LENGTH_MAX} bytes");
                return Err(ComputeError::bad_request(FIELD, what));
            }
            if let Some(known) = self.state.keys.get(key) {
                if known.change != *change {
                    return Err(ComputeError::bad_request(FIELD, "it came with another request before"));
                }
                let work = self.state.works.get(&known.operation);
                let work = work.ok_or_else(|| not_found(known.operation.as_str()))?;
                return Ok(Answer::Operation(work.operation.clone()));
            }
        }
        let admission = self.admit(change)?;
        let operation = self.begin(admission, key, change, fault);
        self.seat();
        self.changes = self.changes.saturating_add(1);
        let work = self.state.works.get(&operation).ok_or_else(|| not_found(operation.as_str()))?;
        Ok(Answer::Operation(work.operation.clone()))
    }

    /// Begins what was admitted. Nothing fails from here on.
    fn begin(
        &mut self,
        admission: Admission,
        key: Option<&str>,
        change: &Change,
        fault: Option<Fault>,
    ) -> OperationId {
        let id = admission.operation;
        if let Some(first) = &admission.aborts {
            self.end(first, Err(ComputeError::Aborted { by: Some(id.clone()) }));
        }
        let instance = admission.instance;
        if let Change::Create(new) = change {
            let made = Instance {
                id: instance.clone(),
                parent: new.parent.clone(),
                name: new.name.clone(),
                version: 1,
                created_at: Some(self.state.now),
                labels: new.labels.clone(),
                spec: new.spec.clone(),
                state: InstanceState::Creating,
                reconciling: true,
                maintenance: None,
                reservation: None,
            };
            let machine = Machine { instance: made, operation: None, room: None, run: 0, taken: false };
            self.state.machines.insert(instance.clone(), machine);
        }
        let operation = Operation {
            id: id.clone(),
            instance: instance.clone(),
            created_at: Some(self.state.now),
            finished_at: None,
            outcome: None,
        };
        let work =
            Work { operation, change: change.clone(), key: key.map(str::to_owned), fault, forgotten: false };
        self.state.works.insert(id.clone(), work);
        if let Some(key) = key {
            let known = Remembered { change: change.clone(), operation: id.clone() };
            self.state.keys.insert(key.to_owned(), known);
            self.state.plan(self.settings.key_memory_ms, Event::ForgetsKey(key.to_owned()));
        }
        self.start_work(&id, &instance, change, fault);
        id
    }

    fn start_work(&mut self, id: &OperationId, instance: &InstanceId, change: &Change, fault: Option<Fault>) {
        let Some(machine) = self.state.machines.get_mut(instance) else { return };
        machine.operation = Some(id.clone());
        let (had_room, taken) = (machine.room.is_some(), machine.taken);
        let turn_to = |machine: &mut Machine, stopped: bool| {
            machine.instance.spec.stopped = stopped;
            machine.instance.version = machine.instance.version.saturating_add(1);
        };
        let mut wants_room = false;
        match change {
            Change::Create(new) => {
                machine.enter(InstanceState::Creating);
                wants_room = !new.spec.stopped;
            }
            Change::Start { .. } => {
                turn_to(machine, false);
                machine.enter(InstanceState::Starting);
                wants_room = true;
            }
            Change::Stop { .. } => {
                turn_to(machine, true);
                // One that never got room is off already.
                machine.enter(if had_room { InstanceState::Stopping } else { InstanceState::Stopped });
            }
            Change::Delete { .. } => machine.enter(InstanceState::Deleting),
            Change::Update { .. } => {
                let running = machine.instance.state == InstanceState::Running;
                let state = if running { InstanceState::Updating } else { machine.instance.state };
                machine.enter(state);
            }
        }
        match fault {
            // There is none to be had, so none is looked for.
            Some(Fault::NotEnoughResources(ms) | Fault::QuotaFailure(ms)) => {
                self.state.plan(ms, Event::Breaks(id.clone()));
                return;
            }
            Some(Fault::Abort(ms) | Fault::Fail(ms)) => self.state.plan(ms, Event::Breaks(id.clone())),
            Some(Fault::Vanish(ms)) => self.state.plan(ms, Event::Forgets(id.clone())),
            _ => {}
        }
        match change.kind() {
            CallKind::Create | CallKind::Start if wants_room && !had_room => {
                self.state.waiting.push(id.clone());
                self.state.plan(self.settings.patience_ms, Event::GivesUp(id.clone()));
            }
            CallKind::Start => self.plan_end(id, self.settings.boot_ms),
            // It ends with the notice that runs already.
            CallKind::Stop if taken => {}
            CallKind::Stop | CallKind::Delete if had_room => self.plan_end(id, self.settings.stop_ms),
            _ => self.plan_end(id, QUICK_MS),
        }
    }

    /// An operation will have done its work.
    pub(super) fn plan_end(&mut self, id: &OperationId, after_ms: i64) {
        let slow_ms = match self.state.works.get(id).and_then(|work| work.fault) {
            Some(Fault::Slow(ms)) => ms,
            _ => 0,
        };
        self.state.plan(after_ms.saturating_add(slow_ms), Event::Ends(id.clone()));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ends(id) => self.end(&id, Ok(())),
            Event::Breaks(id) => self.break_off(&id),
            Event::GivesUp(id) => {
                if self.state.waiting.contains(&id) {
                    let message = "there was no room for it in time".to_owned();
                    self.end(&id, Err(ComputeError::NotEnoughResources { message }));
                }
            }
            Event::Off(id, run) => self.off(&id, run),
            Event::Back(id, run) => {
                let up = self.state.machines.get(&id).is_some_and(|machine| {
                    let other = |work: &Work| work.change.kind() != CallKind::Update;
                    machine.run == run
                        && machine.instance.state == InstanceState::Starting
                        && !self.state.work_on(machine).is_some_and(other)
                });
                if up {
                    self.run(&id);
                }
            }
            Event::PowersOff(id, run) => {
                if self.state.machines.get(&id).is_some_and(|machine| machine.run == run) {
                    self.power_off(&id);
                }
            }
            Event::Forgets(id) => {
                let known = |key: &String| self.state.keys.contains_key(key);
                match self.state.works.get_mut(&id) {
                    // A repeated call is still answered with it, and its work goes on.
                    Some(work)
                        if work.operation.outcome.is_none() || work.key.as_ref().is_some_and(known) =>
                    {
                        work.forgotten = true;
                    }
                    _ => drop(self.state.works.remove(&id)),
                }
            }
            Event::ForgetsKey(key) => {
                let known = self.state.keys.remove(&key);
                if let Some(Remembered { operation, .. }) = known
                    && let Some(work) = self.state.works.get_mut(&operation)
                {
                    work.key = None;
                    if work.forgotten && work.operation.outcome.is_some() {
                        self.state.works.remove(&operation);
                    }
                }
            }
            Event::Repeats(turn) => {
                if let Some((key, change)) = self.state.repeats.remove(&turn) {
                    let _nobody_waits_for_it = self.change(key.as_deref(), &change, None);
                }
            }
            Event::Script(place) => self.play(place),
            Event::Reservations => self.shrink(),
        }
    }

    /// The fault of an operation comes out.
    fn break_off(&mut self, id: &OperationId) {
        let message = || "a fault of the simulation".to_owned();
        let error = match self.state.works.get(id).and_then(|work| work.fault) {
            Some(Fault::NotEnoughResources(_)) => ComputeError::NotEnoughResources { message: message() },
            Some(Fault::QuotaFailure(_)) => {
                let text = || "0".to_owned();
                ComputeError::QuotaFailure { quota: message(), limit: text(), requested: text() }
            }
            Some(Fault::Abort(_)) => ComputeError::Aborted { by: None },
            _ => ComputeError::Failed { message: message() },
        };
        self.end(id, Err(error));
    }

    /// Ends an operation, if it has not ended yet, and leaves its instance in a state that it can stay in.
    pub(super) fn end(&mut self, id: &OperationId, outcome: Result<(), ComputeError>) {
        let now = self.state.now;
        let Some(work) = self.state.works.get_mut(id) else { return };
        if work.operation.outcome.is_some() {
            return;
        }
        work.operation.outcome = Some(outcome.clone());
        work.operation.finished_at = Some(now);
        let (instance, change, gone) = (work.operation.instance.clone(), work.change.clone(), work.forgotten);
        self.state.waiting.retain(|waiting| waiting != id);
        // One that has vanished meanwhile needs no more than its key does.
        self.state.plan(if gone { 0 } else { self.settings.operation_memory_ms }, Event::Forgets(id.clone()));
        let Some(machine) = self.state.machines.get_mut(&instance) else { return };
        machine.operation = None;
        match (change, outcome) {
            (Change::Create(_) | Change::Start { .. }, Ok(())) if machine.room.is_some() => {
                self.run(&instance)
            }
            (Change::Create(_) | Change::Start { .. }, outcome) => {
                machine.release();
                let broken = matches!(outcome, Err(ComputeError::Failed { .. }));
                machine.enter(if broken { InstanceState::Error } else { InstanceState::Stopped });
            }
            (Change::Stop { .. }, Ok(())) => {
                machine.release();
                machine.taken = false;
                machine.enter(InstanceState::Stopped);
            }
            (Change::Delete { .. }, Ok(())) => drop(self.state.machines.remove(&instance)),
            // It goes on as it was; only the wish has changed.
            (Change::Stop { .. } | Change::Delete { .. }, Err(_)) => {
                let state = match (machine.taken, machine.room.is_some()) {
                    (true, _) => InstanceState::Stopping,
                    (false, true) => InstanceState::Running,
                    (false, false) => InstanceState::Stopped,
                };
                machine.instance.spec.stopped = state != InstanceState::Running;
                machine.enter(state);
            }
            (Change::Update { labels, spec, .. }, outcome) => {
                if outcome.is_ok() {
                    machine.instance.labels = labels;
                    machine.instance.version = machine.instance.version.saturating_add(1);
                    if let Some(spec) = spec {
                        machine.instance.spec.template = spec.template;
                    }
                }
                let updating = machine.instance.state == InstanceState::Updating;
                let state = if updating { InstanceState::Running } else { machine.instance.state };
                machine.enter(state);
            }
        }
    }

    /// An instance begins to run.
    fn run(&mut self, id: &InstanceId) {
        let Some(machine) = self.state.machines.get_mut(id) else { return };
        machine.run = machine.run.saturating_add(1);
        machine.enter(InstanceState::Running);
        let run = machine.run;
        if let Some(after_ms) = self.settings.rates.draw_power_off(&mut self.state.draws) {
            self.state.plan(after_ms, Event::PowersOff(id.clone(), run));
        }
    }

    /// What settings bring about by themselves.
    fn plan_settings(&mut self) {
        for (place, rule) in self.settings.script.rules.iter().enumerate() {
            if matches!(rule.what, What::Instance(..) | What::Capacity(..)) {
                self.state.plan(rule.at_ms, Event::Script(place));
            }
        }
        for edge in self.settings.reservations.values().flat_map(super::settings::Reservation::edges) {
            self.state.plan(edge, Event::Reservations);
        }
    }
}

/// There is no such thing.
pub(super) fn not_found(what: &str) -> ComputeError {
    ComputeError::NotFound { what: what.to_owned() }
}
