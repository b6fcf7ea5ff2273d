//! A small cloud: it accepts, refuses, fails late, forgets operations, and stops instances of its own accord.

use std::collections::BTreeMap;

use hourglass_capacity::lifecycle::{Call, CloudState, Failure, Listed, News};
use hourglass_units::{CloudId, InstanceId, Interval, OperationId};

use super::{Chance, at};

/// What may go wrong, each once in so many times; 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// On the way: a message is lost, late, or comes twice; the driver crashes.
    pub(super) network: u64,
    /// In the cloud: it refuses, fails, loses operations and instances, stops what runs.
    pub(super) cloud: u64,
    /// It keeps no idempotency keys.
    pub(super) forgets_keys: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Machine {
    name: InstanceId,
    pub(super) state: CloudState,
    operation: Option<u64>,
}

#[derive(Debug, Clone)]
struct Work {
    call: Call,
    machine: u64,
    done_at: i64,
    /// Running, until it is one of the two ends.
    end: Option<News>,
    /// What the machine was before.
    before: CloudState,
}

/// What the cloud did to instances of a name without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mishap {
    /// It stopped, or lost it.
    Stopped,
    /// It lacked GPUs.
    Lacked,
    /// It turned a call down.
    Failed,
}

#[derive(Debug, Default)]
pub(super) struct Cloud {
    pub(super) faults: Faults,
    /// Whether anything but the network ever failed.
    pub(super) had_faults: bool,
    machines: BTreeMap<u64, Machine>,
    operations: BTreeMap<u64, Work>,
    keys: BTreeMap<String, (u64, u64)>,
    number: u64,
    pub(super) mishaps: Vec<(InstanceId, Mishap)>,
    /// When instances of each name really ran.
    ran: Vec<(InstanceId, i64, Option<i64>, u64)>,
}

fn cloud_id(number: u64) -> CloudId {
    format!("vm-{number}").parse().unwrap()
}

fn operation_id(number: u64) -> OperationId {
    format!("op-{number}").parse().unwrap()
}

fn number_of(text: &str) -> u64 {
    text.split_once('-').unwrap().1.parse().unwrap()
}

impl Cloud {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, had_faults: faults.cloud > 0 || faults.forgets_keys, ..Self::default() }
    }

    fn errs(&self, chance: &mut Chance, rarer: u64) -> bool {
        self.faults.cloud > 0 && chance.one_in(self.faults.cloud * rarer)
    }

    fn happens(&mut self, machine: u64, mishap: Mishap) {
        let name = self.machines[&machine].name.clone();
        self.mishaps.push((name, mishap));
    }

    fn set(&mut self, machine: u64, state: CloudState, now: i64) {
        let Some(it) = self.machines.get_mut(&machine) else { return };
        let (was_up, is_up) = (it.state == CloudState::Running, state == CloudState::Running);
        it.state = state;
        if is_up && !was_up {
            self.ran.push((it.name.clone(), now, None, machine));
        } else if was_up && !is_up {
            self.stop_running(machine, now);
        }
    }

    fn stop_running(&mut self, machine: u64, now: i64) {
        let open = self.ran.iter_mut().find(|(.., end, of)| *of == machine && end.is_none());
        if let Some((_, _, end, _)) = open {
            *end = Some(now);
        }
    }

    /// A call arrives.
    pub(super) fn call(
        &mut self,
        chance: &mut Chance,
        now: i64,
        (call, key, name): (Call, &str, &InstanceId),
        target: Option<&CloudId>,
    ) -> Result<(OperationId, CloudId), Failure> {
        if let Some((operation, machine)) = self.keys.get(key) {
            return Ok((operation_id(*operation), cloud_id(*machine)));
        }
        if self.errs(chance, 6) {
            let failures = [
                Failure::NotEnoughResources,
                Failure::QuotaFailure,
                Failure::PermissionDenied,
                Failure::Conflict,
                Failure::Internal,
            ];
            let failure = chance.any_of(&failures).unwrap();
            let lacks = failure == Failure::NotEnoughResources;
            self.mishaps.push((name.clone(), if lacks { Mishap::Lacked } else { Mishap::Failed }));
            return Err(failure);
        }
        let machine = match (call, target) {
            (Call::Create, _) => {
                if self.machines.values().any(|it| it.name == *name) {
                    return Err(Failure::AlreadyExists);
                }
                self.number += 1;
                let machine = Machine { name: name.clone(), state: CloudState::Creating, operation: None };
                self.machines.insert(self.number, machine);
                self.number
            }
            (_, Some(cloud)) => number_of(cloud.as_str()),
            (_, None) => panic!("{call:?} of nothing"),
        };
        let Some(it) = self.machines.get(&machine) else { return Err(Failure::NotFound) };
        let before = it.state;
        let fits = match call {
            Call::Create => true,
            Call::Start => before == CloudState::Stopped,
            Call::Stop => before == CloudState::Running,
            Call::Delete => true,
        };
        if it.operation.is_some() || !fits {
            return Err(Failure::Conflict);
        }
        let state = match call {
            Call::Create => CloudState::Creating,
            Call::Start => CloudState::Starting,
            Call::Stop => CloudState::Stopping,
            Call::Delete => CloudState::Deleting,
        };
        self.set(machine, state, now);
        self.number += 1;
        let operation = self.number;
        let work = Work { call, machine, done_at: now + chance.within(500, 40_000), end: None, before };
        self.operations.insert(operation, work);
        self.machines.get_mut(&machine).unwrap().operation = Some(operation);
        if !self.faults.forgets_keys {
            self.keys.insert(key.to_owned(), (operation, machine));
        }
        Ok((operation_id(operation), cloud_id(machine)))
    }

    pub(super) fn knows(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    pub(super) fn poll(&self, operation: &OperationId) -> News {
        match self.operations.get(&number_of(operation.as_str())) {
            None => News::Vanished,
            Some(work) => work.end.clone().unwrap_or(News::Running),
        }
    }

    pub(super) fn look_up(&self, name: &InstanceId, cloud: Option<&CloudId>) -> Option<Listed> {
        let wanted = cloud.map(|cloud| number_of(cloud.as_str()));
        let mut all = self.list().into_iter();
        all.find(|it| match wanted {
            Some(number) => it.cloud == cloud_id(number),
            None => it.instance.as_ref() == Some(name),
        })
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |(number, it): (&u64, &Machine)| Listed {
            cloud: cloud_id(*number),
            instance: Some(it.name.clone()),
            state: it.state,
        };
        self.machines.iter().map(listed).collect()
    }

    /// Time goes on.
    pub(super) fn tick(&mut self, chance: &mut Chance, now: i64) {
        let done: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, it)| it.end.is_none() && it.done_at <= now)
            .map(|it| *it.0)
            .collect();
        for operation in done {
            self.finish(chance, operation);
            if self.errs(chance, 4) {
                self.operations.remove(&operation);
            }
        }
        let running: Vec<u64> =
            self.machines.iter().filter(|(_, it)| it.operation.is_none()).map(|it| *it.0).collect();
        for machine in running {
            if self.errs(chance, 40) && self.machines[&machine].state == CloudState::Running {
                self.happens(machine, Mishap::Stopped);
                self.set(machine, chance.any_of(&[CloudState::Stopped, CloudState::Error]).unwrap(), now);
                if chance.one_in(3) {
                    self.machines.remove(&machine);
                }
            }
        }
    }

    fn finish(&mut self, chance: &mut Chance, operation: u64) {
        let Work { call, machine, done_at, before, .. } = self.operations[&operation].clone();
        self.machines.get_mut(&machine).unwrap().operation = None;
        let finished_at = at(done_at);
        let mut end = News::Succeeded { finished_at };
        let fails = self.errs(chance, 4);
        match call {
            Call::Create | Call::Start if fails => {
                // Late: with a failed operation or without; and of a create something may be left.
                self.set(machine, CloudState::Stopped, done_at);
                let failure =
                    chance.any_of(&[Failure::NotEnoughResources, Failure::QuotaFailure, Failure::Internal]);
                let is_told = chance.one_in(2);
                let failure = failure.filter(|_| is_told);
                if let Some(failure) = failure {
                    end = News::Failed { failure };
                }
                let lacks = failure.is_none_or(|it| it == Failure::NotEnoughResources);
                self.happens(machine, if lacks { Mishap::Lacked } else { Mishap::Failed });
                if call == Call::Create && chance.one_in(3) {
                    self.machines.remove(&machine);
                }
            }
            Call::Create | Call::Start => self.set(machine, CloudState::Running, done_at),
            Call::Stop | Call::Delete if fails => {
                // It ran all the time.
                end = News::Failed { failure: Failure::Internal };
                self.machines.get_mut(&machine).unwrap().state = before;
                if before == CloudState::Running {
                    let last = self.ran.iter_mut().rev().find(|(.., of)| *of == machine);
                    last.unwrap().2 = None;
                }
            }
            Call::Stop => self.set(machine, CloudState::Stopped, done_at),
            Call::Delete => {
                self.machines.remove(&machine);
            }
        }
        self.operations.get_mut(&operation).unwrap().end = Some(end);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.machines.values().all(|it| it.operation.is_none())
    }

    /// Machines of a name.
    pub(super) fn machines(&self, name: &InstanceId) -> Vec<(CloudId, CloudState)> {
        let all = self.machines.iter().filter(|(_, it)| it.name == *name);
        all.map(|(number, it)| (cloud_id(*number), it.state)).collect()
    }

    pub(super) fn has(&self, name: &InstanceId, mishap: Mishap) -> bool {
        self.mishaps.iter().any(|(of, what)| of == name && *what == mishap)
    }

    /// Whether it really ran all that time.
    pub(super) fn ran(&self, name: &InstanceId, time: Interval) -> bool {
        self.ran.iter().filter(|(of, ..)| of == name).any(|(_, start, end, _)| {
            at(*start) <= time.start() && end.is_none_or(|end| time.end() <= at(end))
        })
    }
}
