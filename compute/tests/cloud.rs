//! The simulated cloud alone, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_compute::ComputeError;
use hourglass_compute::ids::OperationId;
use hourglass_compute::model::{
    Instance, InstanceSpec, InstanceState, Labels, NewInstance, Operation, Recovery, Supply, Template,
};
use hourglass_compute::simulator::faults::Rates;
use hourglass_compute::simulator::script::Script;
use hourglass_compute::simulator::{
    Answer, Call, Change, Cloud, Page, Query, ResumeError, Saved, SecondCall, Settings,
};
use hourglass_units::{InstanceId, Instant};
use proptest::prelude::*;

const PLATFORM: &str = "gpu-h100-sxm";
const CAPACITY: [(&str, u64); 2] = [("fabric-1", 32), ("fabric-2", 16)];
const RESERVED: u64 = 16;
const QUOTA: u64 = 44;
const QUOTA_PREEMPTIBLE: u64 = 24;

fn settings() -> Settings {
    let presets = vec!["8gpu-128vcpu-1600gb".parse().unwrap()];
    let mut settings = Settings::new("eu-north1".parse().unwrap(), "tenant-1".parse().unwrap(), presets);
    for (fabric, gpus) in CAPACITY {
        settings.add_capacity(&format!("{PLATFORM}/{fabric}={gpus}")).unwrap();
    }
    settings.add_reservation(&format!("group-1={PLATFORM}/fabric-1:{RESERVED}")).unwrap();
    settings.add_quota(&format!("compute.instance.gpu.h100={QUOTA}")).unwrap();
    settings.add_quota(&format!("compute.instance.gpu.h100.preemptible={QUOTA_PREEMPTIBLE}")).unwrap();
    settings
}

fn begun() -> Instant {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn spec(gpus: u32, supply: Supply) -> InstanceSpec {
    InstanceSpec {
        platform: PLATFORM.parse().unwrap(),
        preset: format!("{gpus}gpu-16vcpu-200gb").parse().unwrap(),
        cluster: None,
        recovery: Recovery::Fail,
        supply,
        hostname: String::new(),
        stopped: false,
        template: Template::default(),
    }
}

fn reserved() -> Supply {
    Supply::Reserved(vec!["group-1".parse().unwrap()])
}

fn create(name: &str, spec: InstanceSpec) -> Change {
    let labels = Labels::new();
    Change::Create(Box::new(NewInstance {
        parent: "project-1".parse().unwrap(),
        name: name.into(),
        labels,
        spec,
    }))
}

/// A cloud that a test talks to, with the seconds since it began.
struct Talk {
    cloud: Cloud,
    second: i64,
    keys: u64,
}

impl Talk {
    fn new(settings: Settings) -> Self {
        Self { cloud: Cloud::new(settings, begun()).unwrap(), second: 0, keys: 0 }
    }

    fn with_script(lines: &str) -> Self {
        Self::new(Settings { script: Script::parse(lines).unwrap(), ..settings() })
    }

    fn now(&self) -> Instant {
        begun().saturating_add_ms(self.second * 1_000)
    }

    fn at(&mut self, second: i64) -> &mut Self {
        self.second = second;
        let now = self.now();
        self.cloud.advance(now);
        self
    }

    fn change_as(&mut self, key: &str, change: Change) -> Result<Operation, ComputeError> {
        let call = Call::Change { key: Some(key.to_owned()), change };
        match self.cloud.step(self.now(), &call).as_seen_by(&call)? {
            Answer::Operation(operation) => Ok(operation),
            other => panic!("{other:?}"),
        }
    }

    fn change(&mut self, change: Change) -> Result<Operation, ComputeError> {
        self.keys += 1;
        self.change_as(&format!("key-{}", self.keys), change)
    }

    fn create(&mut self, name: &str, spec: InstanceSpec) -> InstanceId {
        self.change(create(name, spec)).unwrap().instance
    }

    fn instance(&self, id: &InstanceId) -> &Instance {
        self.cloud.instances().find(|known| known.id == *id).unwrap()
    }

    fn state(&self, id: &InstanceId) -> InstanceState {
        self.instance(id).state
    }

    fn outcome(&mut self, id: &OperationId) -> Option<Result<(), ComputeError>> {
        match self.ask(Query::Operation(id.clone())) {
            Ok(Answer::Operation(operation)) => operation.outcome,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, query: Query) -> Result<Answer, ComputeError> {
        let call = Call::Query(query);
        self.cloud.step(self.now(), &call).as_seen_by(&call)
    }
}

#[test]
fn an_instance_lives_its_life() {
    let mut talk = Talk::new(settings());
    let made = talk.change(create("a", spec(8, Supply::OnDemand))).unwrap();
    let id = made.instance.clone();
    assert_eq!((made.outcome, talk.state(&id)), (None, InstanceState::Creating));
    assert!(talk.instance(&id).reconciling);
    talk.at(30);
    assert_eq!((talk.outcome(&made.id), talk.state(&id)), (Some(Ok(())), InstanceState::Running));
    assert!(!talk.instance(&id).reconciling);

    let stop = talk.change(Change::Stop { id: id.clone() }).unwrap();
    assert_eq!(talk.state(&id), InstanceState::Stopping);
    let second = talk.change(Change::Start { id: id.clone() });
    assert_eq!(second, Err(ComputeError::OperationConflict { operation: Some(stop.id) }));
    talk.at(40);
    assert_eq!(talk.state(&id), InstanceState::Stopped);
    assert!(matches!(talk.change(Change::Stop { id: id.clone() }), Err(ComputeError::BadState { .. })));

    talk.change(Change::Start { id: id.clone() }).unwrap();
    talk.at(70);
    assert_eq!((talk.state(&id), talk.instance(&id).version), (InstanceState::Running, 3));
    talk.change(Change::Delete { id: id.clone() }).unwrap();
    talk.at(80);
    assert_eq!(talk.cloud.instances().count(), 0);
    assert!(matches!(talk.change(Change::Start { id }), Err(ComputeError::NotFound { .. })));
}

#[test]
fn what_is_asked_for_has_to_make_sense() {
    let mut talk = Talk::new(settings());
    talk.create("a", spec(8, Supply::OnDemand));
    let mut refused = |spec: InstanceSpec, says: &str| {
        let error = talk.change(create("b", spec)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(InstanceSpec { preset: "4vcpu-16gb".parse().unwrap(), ..spec(1, reserved()) }, "GPUs only");
    refused(InstanceSpec { platform: "gpu-x".parse().unwrap(), ..spec(1, reserved()) }, "no platform gpu-x");
    refused(spec(1, Supply::Reserved(vec!["group-9".parse().unwrap()])), "there is no group-9");
    let elsewhere = Some("computegpucluster-fabric-2".parse().unwrap());
    refused(InstanceSpec { cluster: elsewhere, ..spec(1, reserved()) }, "no reservation and no fabric");
    refused(spec(40, Supply::OnDemand), "allows 44, and this would take 48");
    let again = talk.change(create("a", spec(8, Supply::OnDemand)));
    assert!(matches!(again, Err(ComputeError::AlreadyExists { instance: Some(_) })), "{again:?}");
}

#[test]
fn room_that_is_not_there_shows_late() {
    let mut talk = Talk::new(settings());
    // On demand there are 16 in each fabric.
    for name in ["a", "b"] {
        talk.create(name, spec(16, Supply::OnDemand));
    }
    let late = talk.change(create("c", spec(8, Supply::OnDemand))).unwrap();
    talk.at(119);
    assert_eq!((talk.outcome(&late.id), talk.state(&late.instance)), (None, InstanceState::Creating));
    talk.at(120);
    assert!(matches!(talk.outcome(&late.id), Some(Err(ComputeError::NotEnoughResources { .. }))));
    assert_eq!(talk.state(&late.instance), InstanceState::Stopped);
}

#[test]
fn whoever_waits_gets_what_comes_free() {
    let mut talk = Talk::new(settings());
    let first = talk.create("a", spec(16, Supply::OnDemand));
    talk.create("b", spec(16, Supply::OnDemand));
    talk.at(60);
    let waiting = talk.create("c", spec(8, Supply::OnDemand));
    talk.change(Change::Stop { id: first }).unwrap();
    talk.at(69);
    assert_eq!(talk.state(&waiting), InstanceState::Creating);
    talk.at(100);
    assert_eq!(talk.state(&waiting), InstanceState::Running);
}

#[test]
fn preemptible_instances_leave_when_others_need_their_room() {
    let mut talk = Talk::new(Settings { quotas: BTreeMap::new(), ..settings() });
    // All 48 of both fabrics, the reserved ones included.
    let preemptible: Vec<_> =
        (0..6).map(|number| talk.create(&format!("p{number}"), spec(8, Supply::Preemptible))).collect();
    talk.at(60);
    let regular = talk.create("r", spec(8, reserved()));
    let states = |talk: &Talk| preemptible.iter().map(|id| talk.state(id)).collect::<Vec<_>>();
    let stopping = |state| states_with(3, state);
    assert_eq!(states(&talk), stopping(InstanceState::Stopping), "the newest of the fabric leaves");
    // Nobody is told why: it is stopping like any other, and there is no operation.
    assert_eq!(talk.cloud.operations().filter(|known| known.outcome.is_none()).count(), 1);
    talk.at(119);
    assert_eq!(talk.state(&regular), InstanceState::Creating);
    talk.at(120);
    assert_eq!(states(&talk), stopping(InstanceState::Stopped), "after the notice it is off");
    talk.at(150);
    assert_eq!(talk.state(&regular), InstanceState::Running);
    assert_eq!(talk.instance(&regular).reservation, Some("group-1".parse().unwrap()));
}

/// Six that run, but for one.
fn states_with(place: usize, state: InstanceState) -> Vec<InstanceState> {
    let mut states = vec![InstanceState::Running; 6];
    states[place] = state;
    states
}

#[test]
fn room_that_one_waits_for_is_not_counted_on_by_another() {
    let mut talk = Talk::new(Settings { quotas: BTreeMap::new(), ..settings() });
    let cluster = Some("computegpucluster-fabric-1".parse().unwrap());
    for number in 0..4 {
        let spec = InstanceSpec { cluster: cluster.clone(), ..spec(8, Supply::Preemptible) };
        talk.create(&format!("p{number}"), spec);
    }
    talk.at(60);
    let regular = InstanceSpec { cluster, ..spec(8, Supply::OnDemand) };
    let both = [talk.create("r1", spec(16, reserved())), talk.create("r2", regular)];
    let stopping = talk.cloud.instances().filter(|known| known.state == InstanceState::Stopping).count();
    assert_eq!(stopping, 3, "two leave for the first, one for the second");
    talk.at(150);
    assert_eq!(both.map(|id| talk.state(&id)), [InstanceState::Running; 2]);
}

#[test]
fn a_reservation_gives_no_more_than_it_has() {
    let mut talk = Talk::new(settings());
    let inside = [talk.create("a", spec(8, reserved())), talk.create("b", spec(8, reserved()))];
    let outside = talk.change(create("c", spec(8, reserved()))).unwrap();
    talk.at(200);
    assert_eq!(inside.map(|id| talk.state(&id)), [InstanceState::Running; 2]);
    assert!(matches!(talk.outcome(&outside.id), Some(Err(ComputeError::NotEnoughResources { .. }))));
    let either = talk.create("d", spec(8, Supply::Either(Vec::new())));
    talk.at(300);
    assert_eq!((talk.state(&either), &talk.instance(&either).reservation), (InstanceState::Running, &None));
}

#[test]
fn what_goes_off_by_itself_is_started_again_by_policy() {
    let mut talk = Talk::with_script("at 60s instance f: power-off\nat 60s instance r: power-off");
    let fails = talk.create("f", spec(8, Supply::OnDemand));
    let recovers = talk.create("r", InstanceSpec { recovery: Recovery::Recover, ..spec(8, reserved()) });
    talk.at(60);
    assert_eq!(talk.state(&fails), InstanceState::Stopped);
    assert_eq!(talk.state(&recovers), InstanceState::Starting);
    talk.at(90);
    assert_eq!(talk.state(&fails), InstanceState::Stopped);
    assert_eq!(talk.state(&recovers), InstanceState::Running);
}

#[test]
fn what_goes_off_while_it_is_changed_is_started_again() {
    let mut talk = Talk::with_script("at 0s next update: slow by 60s\nat 41s instance a: power-off");
    let id = talk.create("a", InstanceSpec { recovery: Recovery::Recover, ..spec(8, Supply::OnDemand) });
    talk.at(40);
    let change = Change::Update { id: id.clone(), version: 0, labels: Labels::new(), spec: None };
    let update = talk.change(change).unwrap();
    talk.at(71);
    assert_eq!((talk.state(&id), talk.outcome(&update.id)), (InstanceState::Running, None));
    talk.at(101);
    assert_eq!((talk.state(&id), talk.outcome(&update.id)), (InstanceState::Running, Some(Ok(()))));
}

#[test]
fn a_second_call_can_put_an_end_to_the_first() {
    let mut talk = Talk::new(Settings { second_call: SecondCall::Aborts, ..settings() });
    let made = talk.change(create("a", spec(8, Supply::OnDemand))).unwrap();
    talk.at(5);
    let stop = talk.change(Change::Stop { id: made.instance.clone() }).unwrap();
    assert_eq!(talk.outcome(&made.id), Some(Err(ComputeError::Aborted { by: Some(stop.id.clone()) })));
    talk.at(20);
    assert_eq!((talk.outcome(&stop.id), talk.state(&made.instance)), (Some(Ok(())), InstanceState::Stopped));
    let start = talk.change(Change::Start { id: made.instance.clone() }).unwrap();
    talk.at(60);
    let stop = talk.change(Change::Stop { id: made.instance.clone() }).unwrap();
    talk.at(62);
    let start_again = talk.change(Change::Start { id: made.instance.clone() }).unwrap();
    assert_eq!(talk.outcome(&start.id), Some(Ok(())));
    assert_eq!(talk.outcome(&stop.id), Some(Err(ComputeError::Aborted { by: Some(start_again.id) })));
    talk.at(100);
    assert_eq!(talk.state(&made.instance), InstanceState::Running);
}

#[test]
fn a_stop_takes_up_no_quota() {
    let mut talk = Talk::new(Settings { second_call: SecondCall::Aborts, ..settings() });
    talk.create("all", spec(44, Supply::Either(Vec::new())));
    let off = InstanceSpec { stopped: true, ..spec(8, Supply::OnDemand) };
    let made = talk.change(create("off", off)).unwrap();
    talk.change(Change::Stop { id: made.instance.clone() }).unwrap();
    assert_eq!(talk.state(&made.instance), InstanceState::Stopped);
    let start = talk.change(Change::Start { id: made.instance });
    assert!(matches!(start, Err(ComputeError::QuotaFailure { .. })), "{start:?}");
}

#[test]
fn a_key_is_answered_with_its_first_operation() {
    let mut talk = Talk::new(settings());
    let first = talk.change_as("k", create("a", spec(8, Supply::OnDemand))).unwrap();
    talk.at(7_000);
    // The operation is forgotten by now; its key is not.
    let told = talk.ask(Query::Operation(first.id.clone()));
    assert!(matches!(told, Err(ComputeError::NotFound { .. })), "{told:?}");
    let again = talk.change_as("k", create("a", spec(8, Supply::OnDemand))).unwrap();
    assert_eq!((again.id, again.outcome), (first.id, Some(Ok(()))));
    let other = talk.change_as("k", create("b", spec(8, Supply::OnDemand)));
    assert!(matches!(other, Err(ComputeError::BadRequest { .. })), "{other:?}");
    assert_eq!(talk.cloud.instances().count(), 1);
    talk.at(100_000);
    let fresh = talk.change_as("k", create("b", spec(8, Supply::OnDemand)));
    assert!(fresh.is_ok(), "after a day the key is free: {fresh:?}");
}

#[test]
fn an_update_changes_labels_and_looks_at_the_version() {
    let mut talk = Talk::new(settings());
    let id = talk.create("a", spec(8, Supply::OnDemand));
    talk.at(40);
    let update = |version, spec: Option<InstanceSpec>| {
        let labels = Labels::from([("hourglass/bid".to_owned(), "7".to_owned())]);
        Change::Update { id: id.clone(), version, labels, spec: spec.map(Box::new) }
    };
    assert!(matches!(talk.change(update(9, None)), Err(ComputeError::ResourceConflict { .. })));
    let other = Some(spec(16, Supply::OnDemand));
    assert!(matches!(talk.change(update(0, other)), Err(ComputeError::BadRequest { .. })));
    talk.change(update(1, Some(spec(8, Supply::OnDemand)))).unwrap();
    assert_eq!(talk.state(&id), InstanceState::Updating);
    talk.at(50);
    let known = talk.instance(&id);
    assert_eq!((known.state, known.version, known.labels.len()), (InstanceState::Running, 2, 1));
}

#[test]
fn faults_of_a_script_strike_what_they_name() {
    let mut talk = Talk::with_script(
        "at 0s next create: not-enough-resources after 90s
         at 0s next create: quota-failure after 5s
         at 0s next create: fail after 5s
         at 0s next stop: abort after 2s
         at 0s next stop: slow by 100s
         at 0s next start: vanish after 1s
         at 0s next delete: delay by 50s
         at 0s next list: unavailable
         at 0s next update: garbage wrong-id
         at 0s next get: lose-answer by cut",
    );
    let scarce = talk.change(create("scarce", spec(8, Supply::OnDemand))).unwrap();
    let quota = talk.change(create("quota", spec(8, Supply::OnDemand))).unwrap();
    let fails = talk.change(create("fails", spec(8, Supply::OnDemand))).unwrap();
    let id = talk.create("a", spec(8, Supply::OnDemand));
    talk.at(89);
    assert_eq!(talk.outcome(&scarce.id), None);
    talk.at(90);
    assert!(matches!(talk.outcome(&scarce.id), Some(Err(ComputeError::NotEnoughResources { .. }))));
    assert!(matches!(talk.outcome(&quota.id), Some(Err(ComputeError::QuotaFailure { .. }))));
    assert!(matches!(talk.outcome(&fails.id), Some(Err(ComputeError::Failed { .. }))));
    assert_eq!(talk.state(&fails.instance), InstanceState::Error);

    let stop = talk.change(Change::Stop { id: id.clone() }).unwrap();
    talk.at(92);
    assert_eq!(talk.outcome(&stop.id), Some(Err(ComputeError::Aborted { by: None })));
    assert_eq!(talk.state(&id), InstanceState::Running);
    talk.change(Change::Stop { id: id.clone() }).unwrap();
    talk.at(201);
    assert_eq!(talk.state(&id), InstanceState::Stopping);
    talk.at(202);
    assert_eq!(talk.state(&id), InstanceState::Stopped);

    let start = talk.change(Change::Start { id: id.clone() }).unwrap();
    talk.at(204);
    assert!(matches!(talk.ask(Query::Operation(start.id)), Err(ComputeError::NotFound { .. })));
    talk.at(240);
    assert_eq!(talk.state(&id), InstanceState::Running, "its work went on");

    let unknown = talk.change(Change::Delete { id: id.clone() });
    assert!(matches!(unknown, Err(ComputeError::Unknown { .. })), "{unknown:?}");
    assert_eq!(talk.state(&id), InstanceState::Running);
    talk.at(310);
    assert!(talk.cloud.instances().all(|known| known.id != id), "it was done later");
    let list = || Query::Instances("project-1".parse().unwrap(), Page::default());
    assert!(matches!(talk.ask(list()), Err(ComputeError::Unavailable { .. })));
    assert!(talk.ask(list()).is_ok());
    let update =
        Change::Update { id: scarce.instance.clone(), version: 0, labels: Labels::new(), spec: None };
    let garbage = talk.change(update);
    assert!(matches!(garbage, Err(ComputeError::Garbage { .. })), "{garbage:?}");
    let get = || Query::Instance(scarce.instance.clone());
    assert!(matches!(talk.ask(get()), Err(ComputeError::Unavailable { .. })), "reading leaves no doubt");
    assert!(talk.ask(get()).is_ok());
}

#[test]
fn a_smaller_cloud_takes_instances_away() {
    let mut talk = Talk::with_script(&format!("at 60s capacity {PLATFORM}/fabric-1: 16"));
    let kept = talk.create("kept", spec(16, reserved()));
    let lost = talk.create("lost", spec(16, Supply::OnDemand));
    talk.at(61);
    assert_eq!([&kept, &lost].map(|id| talk.state(id)), [InstanceState::Running, InstanceState::Stopping]);
    talk.at(121);
    assert_eq!([&kept, &lost].map(|id| talk.state(id)), [InstanceState::Running, InstanceState::Stopped]);
}

#[test]
fn a_reservation_that_ends_takes_its_instances_along() {
    let mut settings = settings();
    settings.reservations.clear();
    settings.add_reservation(&format!("group-1={PLATFORM}/fabric-1:16@0s..1h")).unwrap();
    let mut talk = Talk::new(settings);
    let id = talk.create("a", spec(16, reserved()));
    talk.at(3_599);
    assert_eq!(talk.state(&id), InstanceState::Running);
    talk.at(3_600);
    assert_eq!(talk.state(&id), InstanceState::Stopping);
    talk.at(3_660);
    assert_eq!(talk.state(&id), InstanceState::Stopped);
}

#[test]
fn advice_and_reservations_follow_what_is_used() {
    let mut talk = Talk::new(settings());
    talk.create("a", spec(8, reserved()));
    talk.create("b", spec(16, Supply::OnDemand));
    let mut ask = |query| talk.ask(query).unwrap();
    let Answer::Advice(advice) = ask(Query::Advice(Page::default())) else { panic!() };
    let figures = advice.items.iter().map(|advice| {
        [advice.reserved, advice.on_demand, advice.preemptible].map(|class| class.unwrap().available)
    });
    // The quota has 20 left, 24 of preemptible ones.
    assert_eq!(figures.collect::<Vec<_>>(), [[8, 0, 8], [0, 16, 16]]);
    let Answer::BlockGroup(group) = ask(Query::BlockGroup("group-1".parse().unwrap())) else { panic!() };
    assert_eq!((group.limit, group.used, group.continuous.unwrap().gpus), (16, 8, 16));
    let Answer::BlockGroupMembers(members) = ask(Query::BlockGroupMembers("group-1".parse().unwrap())) else {
        panic!()
    };
    assert_eq!(members.len(), 1);
}

#[test]
fn a_list_has_pages() {
    let mut talk = Talk::new(settings());
    let ids: Vec<_> = (0..5).map(|number| talk.create(&format!("i{number}"), spec(1, reserved()))).collect();
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let query = Query::Instances("project-1".parse().unwrap(), Page { size: 2, token });
        let Ok(Answer::Instances(page)) = talk.ask(query) else { panic!() };
        assert!(page.items.len() <= 2);
        found.extend(page.items.into_iter().map(|known| known.id));
        token = page.next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ids);
}

/// What a run asks and hears, and what there is in the end.
struct History {
    answers: Vec<String>,
    saved: Saved,
}

/// Chance of the test's own.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Random calls at random times; after each of them everything that must hold is looked at. Where it is
/// told to, the cloud is saved and loaded every so many calls.
fn random_run(seed: u64, restarts: Option<usize>) -> History {
    let mut chance = Chance(seed);
    let mut settings = settings();
    settings.seed = seed;
    settings.second_call = if chance.below(2) == 0 { SecondCall::Conflicts } else { SecondCall::Aborts };
    settings.rates.any = u32::try_from(chance.below(4) * 100_000).unwrap();
    settings.rates.power_off = u32::try_from(chance.below(3) * 400_000).unwrap();
    let mut cloud = Cloud::new(settings.clone(), begun()).unwrap();
    let mut now = begun();
    let mut answers = Vec::new();
    let mut known: Vec<InstanceId> = vec!["computeinstance-none".parse().unwrap()];
    let mut operations: BTreeMap<String, OperationId> = BTreeMap::new();
    for number in 0..300_usize {
        now = now.saturating_add_ms(i64::try_from(chance.below(40_000)).unwrap());
        let call = random_call(&mut chance, &known, number);
        let response = cloud.step(now, &call);
        answers.push(format!("{response:?}"));
        if let (Call::Change { key: Some(key), .. }, Ok(Answer::Operation(operation))) =
            (&call, &response.answer)
        {
            let first = operations.entry(key.clone()).or_insert_with(|| operation.id.clone());
            assert_eq!(*first, operation.id, "seed {seed}: key {key} has another operation");
            if !known.contains(&operation.instance) {
                known.push(operation.instance.clone());
            }
        }
        check(&cloud, seed);
        if restarts.is_some_and(|every| number % every == 0) {
            let text = serde_json::to_string(&cloud.saved()).unwrap();
            cloud = Cloud::resume(settings.clone(), serde_json::from_str(&text).unwrap()).unwrap();
        }
    }
    // Nothing more is asked and nothing more goes wrong: everything under way ends.
    let calm = Settings { rates: Rates::default(), ..settings };
    let mut cloud = Cloud::resume(calm, cloud.saved()).unwrap();
    cloud.advance(now.saturating_add_ms(3 * 3_600_000));
    check(&cloud, seed);
    let open: Vec<_> = cloud.operations().filter(|operation| operation.outcome.is_none()).collect();
    assert!(open.is_empty(), "seed {seed}: {open:?}");
    for known in cloud.instances() {
        let settled =
            matches!(known.state, InstanceState::Running | InstanceState::Stopped | InstanceState::Error);
        assert!(settled && !known.reconciling, "seed {seed}: {known:?}");
    }
    let running = |known: &&Instance| known.state == InstanceState::Running;
    let gpus: u64 = cloud.instances().filter(running).map(gpus).sum();
    assert_eq!(cloud.places().map(|(_, _, held)| held).sum::<u64>(), gpus, "seed {seed}: room is lost");
    History { answers, saved: cloud.saved() }
}

fn random_call(chance: &mut Chance, known: &[InstanceId], number: usize) -> Call {
    let id = known[usize::try_from(chance.below(known.len() as u64)).unwrap()].clone();
    // Now and then a key that was used before, mostly with another request.
    let key = (chance.below(10) != 0).then(|| match chance.below(5) {
        0 => format!("key-{}", chance.below(number as u64 + 1)),
        _ => format!("key-{number}"),
    });
    let change = match chance.below(10) {
        0..=3 => {
            let supply = match chance.below(4) {
                0 => Supply::OnDemand,
                1 => reserved(),
                2 => Supply::Either(Vec::new()),
                _ => Supply::Preemptible,
            };
            let gpus = [1, 4, 8, 16][usize::try_from(chance.below(4)).unwrap()];
            let recovery = if chance.below(2) == 0 { Recovery::Fail } else { Recovery::Recover };
            let mut spec = InstanceSpec { recovery, stopped: chance.below(10) == 0, ..spec(gpus, supply) };
            if chance.below(3) == 0 {
                spec.cluster = Some("computegpucluster-fabric-1".parse().unwrap());
            }
            // The label names the key: no two instances may have the same one.
            let labels = key.iter().map(|key| ("key".to_owned(), key.clone())).collect();
            let name = if chance.below(3) == 0 { String::new() } else { format!("name-{number}") };
            Change::Create(Box::new(NewInstance { parent: "project-1".parse().unwrap(), name, labels, spec }))
        }
        4 | 5 => Change::Start { id },
        6 | 7 => Change::Stop { id },
        8 => Change::Delete { id },
        _ => {
            let labels = Labels::from([("round".to_owned(), number.to_string())]);
            Change::Update { id, version: i64::try_from(chance.below(3)).unwrap(), labels, spec: None }
        }
    };
    if chance.below(5) == 0 {
        let page = Page { size: usize::try_from(chance.below(5)).unwrap(), token: String::new() };
        return Call::Query(match chance.below(3) {
            0 => Query::Instances("project-1".parse().unwrap(), page),
            1 => Query::Advice(page),
            _ => Query::BlockGroups(page),
        });
    }
    Call::Change { key, change }
}

fn gpus(instance: &Instance) -> u64 {
    u64::from(instance.spec.preset.gpus())
}

/// What holds at any time, counted from what callers can see.
fn check(cloud: &Cloud, seed: u64) {
    let runs = |known: &&Instance| matches!(known.state, InstanceState::Running | InstanceState::Updating);
    let sum = |meant: &dyn Fn(&&Instance) -> bool| cloud.instances().filter(meant).map(gpus).sum::<u64>();
    let there: u64 = CAPACITY.iter().map(|(_, gpus)| gpus).sum();
    assert!(sum(&runs) <= there, "seed {seed}: more runs than there is");
    let in_fabric_1 = |known: &&Instance| runs(known) && known.spec.cluster.is_some();
    assert!(sum(&in_fabric_1) <= CAPACITY[0].1, "seed {seed}: more runs in a fabric than there is");
    let in_group = |known: &&Instance| known.reservation.is_some();
    assert!(sum(&in_group) <= RESERVED, "seed {seed}: a reservation gives more than it has");
    let preemptible = |known: &&Instance| known.spec.supply == Supply::Preemptible;
    let ordinary = |known: &&Instance| runs(known) && !preemptible(known) && known.reservation.is_none();
    assert!(sum(&ordinary) <= there - RESERVED, "seed {seed}: more on demand than is not reserved");
    for (place, there, held) in cloud.places() {
        assert!(held <= there, "seed {seed}: {held} of {there} are held in {place}");
    }

    let counted = |known: &&Instance| match known.state {
        InstanceState::Creating => !known.spec.stopped,
        InstanceState::Starting | InstanceState::Stopping => true,
        _ => runs(known),
    };
    assert!(sum(&|known| counted(known) && !preemptible(known)) <= QUOTA, "seed {seed}: quota");
    let preemptible = sum(&|known| counted(known) && preemptible(known));
    assert!(preemptible <= QUOTA_PREEMPTIBLE, "seed {seed}: quota of preemptible ones");

    let mut busy = BTreeSet::new();
    for operation in cloud.operations().filter(|operation| operation.outcome.is_none()) {
        assert!(busy.insert(&operation.instance), "seed {seed}: two operations at a time: {operation:?}");
        let known = cloud.instances().find(|known| known.id == operation.instance);
        assert!(known.is_some_and(|known| known.reconciling), "seed {seed}: {operation:?} {known:?}");
    }
    let mut keys = BTreeSet::new();
    for label in cloud.instances().filter_map(|known| known.labels.get("key")) {
        assert!(keys.insert(label), "seed {seed}: {label} made two instances");
    }
}

/// So many seeds, or as many as `PROPTEST_CASES` says.
fn seeds(usual: u32) -> ProptestConfig {
    let told = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let cases = told.unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(seeds(60))]

    #[test]
    fn nothing_is_given_twice_and_everything_ends(seed: u64) {
        random_run(seed, None);
    }
}

proptest! {
    #![proptest_config(seeds(20))]

    #[test]
    fn the_same_seed_is_the_same_history(seed: u64, every in 1_usize..50) {
        let (once, twice) = (random_run(seed, None), random_run(seed, None));
        prop_assert_eq!(&once.answers, &twice.answers);
        prop_assert_eq!(&once.saved, &twice.saved);
        let restarted = random_run(seed, Some(every));
        prop_assert_eq!(&once.answers, &restarted.answers, "restarted every {} calls", every);
        prop_assert_eq!(&once.saved, &restarted.saved);
    }
}

#[test]
fn another_seed_is_another_history() {
    let differ =
        (0..10).filter(|seed| random_run(2 * seed, None).answers != random_run(2 * seed + 1, None).answers);
    assert_eq!(differ.count(), 10);
}

#[test]
fn a_state_goes_with_its_settings() {
    let saved = Talk::new(settings()).cloud.saved();
    let other = Settings { script: Script::parse("at 1s next call: unavailable").unwrap(), ..settings() };
    assert_eq!(Cloud::resume(other, saved).unwrap_err(), ResumeError::Plans);
    let mut talk = Talk::new(settings());
    talk.create("a", spec(8, Supply::OnDemand));
    let mut other = settings();
    other.capacity.clear();
    other.reservations.clear();
    other.add_capacity("gpu-x/y=1").unwrap();
    let error = Cloud::resume(other, talk.cloud.saved()).unwrap_err();
    assert_eq!(error, ResumeError::Plans);
}
