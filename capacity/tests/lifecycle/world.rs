//! Instances, their driver, the network and the cloud, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::lifecycle::{
    Action, Call, Cause, CloudState, Fact, Finding, IllegalTransition, Input, Key, Lifecycle, Listing,
    NOTICE_MS_MIN, Outcome, Phase, Run, Wish, reconcile,
};
use hourglass_units::{CloudId, INSTANT_MAX, InstanceId, Instant, Interval};

use super::cloud::{Cloud, Faults, Mishap};
use super::{Chance, at};

const INSTANCES: usize = 3;
const CHAOS_STEPS: usize = 250;
const CALM_STEPS: usize = 1_500;
/// How late a call may come: sooner than who wants it no more stops looking.
const LATE_MS: i64 = 100_000;

/// Where somebody wants it at last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Up,
    Down,
    Deleted,
}

struct Late {
    arrives: i64,
    call: Call,
    key: String,
    name: InstanceId,
    target: Option<CloudId>,
}

pub(super) struct World {
    chance: Chance,
    now: i64,
    faults: Faults,
    cloud: Cloud,
    known: BTreeMap<InstanceId, Lifecycle>,
    strays: BTreeMap<CloudId, Lifecycle>,
    wanted: BTreeMap<InstanceId, (Wanted, BTreeSet<&'static str>)>,
    late: Vec<Late>,
    listing: Option<(i64, Listing)>,
    /// What a listing showed, on its way to the instances.
    findings: Vec<(i64, InstanceId, Fact)>,
    previous: Option<Instant>,
    runs: Vec<(InstanceId, Run)>,
    keys: BTreeMap<String, (Call, Option<CloudId>)>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let names = (0..INSTANCES).map(|number| format!("i{number}").parse::<InstanceId>().unwrap());
        let known: BTreeMap<_, _> =
            names.map(|name| (name.clone(), Lifecycle::requested(name, at(0)))).collect();
        let wanted = known.keys().map(|name| (name.clone(), (Wanted::Up, BTreeSet::new()))).collect();
        Self {
            chance: Chance(seed),
            now: 0,
            faults,
            cloud: Cloud::new(faults),
            known,
            strays: BTreeMap::new(),
            wanted,
            late: Vec::new(),
            listing: None,
            findings: Vec::new(),
            previous: None,
            runs: Vec::new(),
            keys: BTreeMap::new(),
        }
    }

    pub(super) fn run(&mut self) {
        for _ in 0..CHAOS_STEPS {
            self.now += self.chance.within(200, 8_000);
            self.wish();
            self.step();
        }
        self.faults = Faults { forgets_keys: self.faults.forgets_keys, ..Faults::default() };
        self.cloud.faults = self.faults;
        let mut quiet = 0;
        for _ in 0..CALM_STEPS {
            self.now += 5_000;
            self.hold_requests();
            self.step();
            let all = self.known.values().chain(self.strays.values());
            let is_quiet = all.filter_map(Lifecycle::wakes_at).count() == 0;
            let is_quiet = is_quiet && self.late.is_empty() && self.cloud.is_quiet();
            // Long enough for a complete listing, which may show more to do.
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet > 12 {
                return self.check();
            }
        }
        panic!("it never comes to rest: {:?}", self.known);
    }

    fn step(&mut self) {
        self.cloud.tick(&mut self.chance, self.now);
        self.arrive_late();
        let names: Vec<InstanceId> = self.known.keys().cloned().collect();
        for name in names {
            self.drive(&name);
        }
        let strays: Vec<CloudId> = self.strays.keys().cloned().collect();
        for stray in strays {
            self.drive_stray(&stray);
        }
        self.list();
    }

    fn errs(&mut self) -> bool {
        self.faults.network > 0 && self.chance.one_in(self.faults.network)
    }

    /// Tells an instance something; a run that ended is noted.
    fn tell(&mut self, name: &InstanceId, input: &Input) -> Result<(), IllegalTransition> {
        let before = self.known[name].clone();
        let next = before.on(input, at(self.now))?.next;
        if next.run() != before.run() && before.run().is_none_or(|run| run.end.is_none()) {
            self.runs.extend(next.run().filter(|run| run.end.is_some()).map(|run| (name.clone(), run)));
        }
        // What is told again after a crash says nothing new.
        if self.errs()
            && !matches!(input, Input::Fact(Fact::Sent { .. } | Fact::NoAnswer | Fact::Absent { .. }))
        {
            let is_pause = matches!(input, Input::Fact(Fact::Answered { outcome: Outcome::Unknown, .. }));
            let again = next.on(input, at(self.now));
            if let (Ok(again), false) = (again, is_pause) {
                assert_eq!(again.next.phase(), next.phase(), "{input:?}");
            }
        }
        self.known.insert(name.clone(), next);
        Ok(())
    }

    fn hold_requests(&mut self) {
        let requested = self.known.iter().filter(|(_, it)| *it.phase() == Phase::Requested);
        let requested: Vec<_> = requested.map(|(name, _)| name.clone()).collect();
        for name in requested {
            self.tell(&name, &Input::Wish(Wish::Hold)).unwrap();
        }
    }

    fn wish(&mut self) {
        if self.chance.one_in(2) {
            self.hold_requests();
        }
        if !self.chance.one_in(12) {
            return;
        }
        let name: InstanceId = format!("i{}", self.chance.index(INSTANCES)).parse().unwrap();
        let until = at(self.now + self.chance.within(NOTICE_MS_MIN, 3 * NOTICE_MS_MIN));
        let (wish, wanted) = match self.chance.below(9) {
            0..4 => (Wish::Start, Wanted::Up),
            4 | 5 => (Wish::Preempt { until, cause: Cause::ReserveRaised }, Wanted::Down),
            6 | 7 => (Wish::Stop { cause: Cause::OwnerStopped }, Wanted::Down),
            _ => (Wish::Delete { cause: Cause::Finished }, Wanted::Deleted),
        };
        let cause = match &wish {
            Wish::Preempt { cause, .. } | Wish::Stop { cause } | Wish::Delete { cause } => {
                Some(cause.as_str())
            }
            _ => None,
        };
        if self.tell(&name, &Input::Wish(wish)).is_ok() {
            let (before, causes) = self.wanted.get_mut(&name).unwrap();
            if *before != Wanted::Deleted {
                *before = wanted;
            }
            causes.extend(cause);
        }
    }

    fn drive(&mut self, name: &InstanceId) {
        // As a snapshot holds it.
        if self.errs() {
            let bytes = postcard::to_stdvec(&self.known[name]).unwrap();
            assert_eq!(postcard::from_bytes::<Lifecycle>(&bytes).unwrap(), self.known[name]);
        }
        for _ in 0..20 {
            let Some(action) = self.known[name].next_action(at(self.now)) else { return };
            if let Action::Call { key, .. } = &action {
                self.tell(name, &Input::Fact(Fact::Sent { key: key.clone() })).unwrap();
            }
            // A driver that crashes has done it or not, and says nothing.
            if self.errs() {
                if self.chance.one_in(2) {
                    self.carry_out(name, &action);
                }
                return;
            }
            let fact = self.carry_out(name, &action);
            self.tell(name, &Input::Fact(fact)).unwrap();
        }
        panic!("a loop without a pause: {:?}", self.known[name]);
    }

    fn drive_stray(&mut self, id: &CloudId) {
        while let Some(action) = self.strays[id].next_action(at(self.now)) {
            let tell = |it: &Lifecycle, fact, now| it.on(&Input::Fact(fact), at(now)).unwrap().next;
            if let Action::Call { key, .. } = &action {
                let sent = tell(&self.strays[id], Fact::Sent { key: key.clone() }, self.now);
                self.strays.insert(id.clone(), sent);
            }
            let name = self.strays[id].instance().clone();
            let fact = self.carry_out(&name, &action);
            let next = tell(&self.strays[id], fact, self.now);
            self.strays.insert(id.clone(), next);
        }
        if self.strays[id].is_over() {
            self.strays.remove(id);
        }
    }

    fn carry_out(&mut self, name: &InstanceId, action: &Action) -> Fact {
        let began = at(self.now);
        match action {
            Action::Call { key, cloud } => {
                self.check_key(key, cloud.as_ref());
                let outcome = self.call(key, cloud.as_ref());
                Fact::Answered { key: key.clone(), outcome }
            }
            _ if self.errs() => Fact::NoAnswer,
            Action::PollOperation { operation } => {
                Fact::Operation { operation: operation.clone(), news: self.cloud.poll(operation) }
            }
            Action::LookUp { cloud } => match self.cloud.look_up(name, cloud.as_ref()) {
                Some(it) => Fact::Seen { cloud: it.cloud, state: it.state, began, last_running: None },
                None => Fact::Absent { began, last_running: None },
            },
        }
    }

    /// One key is one call on one thing.
    fn check_key(&mut self, key: &Key, cloud: Option<&CloudId>) {
        let call = (key.call, cloud.cloned());
        let before = self.keys.entry(key.to_string()).or_insert_with(|| call.clone());
        assert_eq!(*before, call);
    }

    fn call(&mut self, key: &Key, cloud: Option<&CloudId>) -> Outcome {
        let (call, text, name) = (key.call, key.to_string(), key.instance.clone());
        let arrives = self.now + self.chance.within(1, LATE_MS);
        let late = Late { arrives, call, key: text.clone(), name: name.clone(), target: cloud.cloned() };
        if self.errs() {
            // Lost, or late.
            if self.chance.one_in(2) {
                self.late.push(late);
            }
            return Outcome::Unknown;
        }
        if self.errs() {
            self.late.push(late);
        }
        let answer = self.cloud.call(&mut self.chance, self.now, (call, &text, &name), cloud);
        if self.errs() {
            return Outcome::Unknown;
        }
        match answer {
            Ok((operation, cloud)) => {
                let is_named = self.chance.one_in(2);
                Outcome::Accepted { operation, cloud: Some(cloud).filter(|_| is_named) }
            }
            Err(failure) => Outcome::Refused { failure },
        }
    }

    fn arrive_late(&mut self) {
        let now = self.now;
        for it in self.late.extract_if(.., |it| it.arrives <= now).collect::<Vec<_>>() {
            let what = (it.call, it.key.as_str(), &it.name);
            let is_repeated = self.cloud.knows(&it.key);
            let is_done = self.cloud.call(&mut self.chance, now, what, it.target.as_ref()).is_ok();
            // Refused before, or forgotten, and carried out now: to the instance that may be a mishap.
            let next = self.known.get(&it.name).and_then(|known| known.next_action(INSTANT_MAX));
            let is_due = matches!(next, Some(Action::Call { key, .. }) if key.to_string() == it.key);
            let takes_down = matches!(it.call, Call::Stop | Call::Delete);
            if is_done && !is_repeated && !is_due && takes_down {
                self.cloud.mishaps.push((it.name, Mishap::Stopped));
            }
        }
    }

    fn list(&mut self) {
        self.tell_findings();
        match self.listing.take() {
            None => {
                let is_calm = self.faults.network == 0 && self.faults.cloud == 0;
                if is_calm || self.chance.one_in(8) {
                    let (mut items, mut is_complete) = (self.cloud.list(), true);
                    if self.errs() {
                        is_complete = false;
                        items.retain(|_| self.chance.one_in(2));
                    }
                    let arrives = self.now + self.chance.within(0, 20_000);
                    self.listing = Some((arrives, Listing { began: at(self.now), is_complete, items }));
                }
            }
            Some((arrives, listing)) if arrives <= self.now => self.take_in(&listing),
            waiting => self.listing = waiting,
        }
    }

    fn take_in(&mut self, listing: &Listing) {
        for finding in reconcile(self.known.values(), listing, self.previous) {
            match finding {
                Finding::Known { instance, fact, .. } => {
                    let arrives =
                        if self.errs() { self.now + self.chance.within(0, 60_000) } else { self.now };
                    self.findings.push((arrives, instance, fact));
                }
                Finding::Stray { listed } => {
                    let stray = Lifecycle::stray(listed.cloud.clone(), true, at(self.now)).unwrap();
                    self.strays.entry(listed.cloud).or_insert(stray);
                }
            }
        }
        self.tell_findings();
        // Only a listing whose findings were all taken in says that the rest ran.
        if listing.is_complete && self.findings.is_empty() {
            self.previous = Some(listing.began);
        }
    }

    fn tell_findings(&mut self) {
        let now = self.now;
        for (_, instance, fact) in
            self.findings.extract_if(.., |(arrives, ..)| *arrives <= now).collect::<Vec<_>>()
        {
            self.tell(&instance, &Input::Fact(fact)).unwrap();
        }
    }

    /// Whether the cloud did what is said to be the cause.
    fn happened(&self, name: &InstanceId, cause: &Cause) -> bool {
        let mishaps: &[Mishap] = match cause {
            // One that is found down says no more than that it did not come up.
            Cause::NotEnoughResources => &[Mishap::Lacked, Mishap::Failed, Mishap::Stopped],
            Cause::CloudQuota => &[Mishap::Failed],
            Cause::CloudError { .. } => &[Mishap::Failed, Mishap::Stopped],
            Cause::Provider => &[Mishap::Stopped],
            _ => &[],
        };
        mishaps.iter().any(|mishap| self.cloud.has(name, *mishap))
    }

    fn check(&self) {
        assert!(self.cloud.had_faults || self.cloud.mishaps.is_empty(), "{:?}", self.cloud.mishaps);
        for (name, it) in &self.known {
            let machines = self.cloud.machines(name);
            let context = format!("{it:#?}\n{machines:?}\n{:?}", self.wanted[name]);
            assert!(machines.len() <= 1, "more than one: {context}");
            let state = machines.first().map(|(_, state)| *state);
            let (wanted, causes) = &self.wanted[name];
            match it.phase() {
                Phase::Running => {
                    assert_eq!(*wanted, Wanted::Up, "{context}");
                    assert_eq!(
                        machines,
                        [(it.cloud().unwrap().clone(), CloudState::Running)],
                        "a ghost: {context}"
                    );
                }
                Phase::Stopped { cause } => {
                    let is_mishap = self.happened(name, cause);
                    assert!(is_mishap || causes.contains(cause.as_str()), "{context}");
                    assert!(is_mishap || *wanted != Wanted::Up, "{context}");
                    assert!(matches!(state, None | Some(CloudState::Stopped)), "a zombie: {context}");
                    assert!(*wanted != Wanted::Deleted || state.is_none(), "{context}");
                }
                Phase::Failed { cause } => {
                    assert!(self.happened(name, cause), "{context}");
                    assert_eq!(state, None, "{context}");
                }
                phase => panic!("it stays {phase:?}: {context}"),
            }
        }
        if self.faults.forgets_keys {
            // A stop that comes late ends a run that nobody sees end. L-2 rests on keys.
            return;
        }
        let now = at(self.now);
        let open = self
            .known
            .iter()
            .filter_map(|(name, it)| Some((name, it.run().filter(|run| run.end.is_none())?)));
        let open = open.map(|(name, run)| (name, run.from, now));
        let ended = self.runs.iter().map(|(name, run)| (name, run.from, run.end.unwrap().billed_until));
        for (name, from, until) in open.chain(ended) {
            if let Some(billed) = Interval::between(from, until) {
                assert!(self.cloud.ran(name, billed), "{name} is billed for {billed}, and did not run");
            }
        }
    }
}
