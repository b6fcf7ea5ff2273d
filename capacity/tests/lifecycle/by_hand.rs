//! Numbers worked out by hand, and texts.

use std::collections::BTreeMap;

use hourglass_capacity::cooldown::{COOLDOWN_MS_MAX, COOLDOWN_MS_MIN, Cooldown};
use hourglass_capacity::lifecycle::{
    ANSWER_MS_MAX, Action, Belief, Call, Cause, CloudState, Fact, Failure, Finding, IllegalTransition, Input,
    Key, Kind, LATE_MS_MAX, Lifecycle, Listed, Listing, News, Outcome, PAUSE_MS_MAX, POLL_MS, Phase, Reclaim,
    Run, RunEnd, START_ATTEMPTS_MAX, START_MS_MAX, Transition, Wish, reconcile,
};
use hourglass_units::{CloudId, InstanceId};

use super::at;

const SECOND: i64 = 1_000;

fn vm(name: &str) -> CloudId {
    name.parse().unwrap()
}

/// One instance, and what is said to it.
struct Play {
    it: Lifecycle,
    now: i64,
    is_missing: bool,
}

impl Play {
    fn named(name: &str) -> Self {
        Self { it: Lifecycle::requested(name.parse().unwrap(), at(0)), now: 0, is_missing: false }
    }

    fn held() -> Self {
        let mut play = Self::named("i1");
        play.wish(0, Wish::Hold);
        play
    }

    /// Running since `second`.
    fn running(second: i64) -> Self {
        let mut play = Self::held();
        play.sent(0, Call::Create);
        play.accepted("op-1");
        play.operation(second, "op-1", News::Succeeded { finished_at: at(second * SECOND) });
        play.seen(second, CloudState::Running);
        assert_eq!(*play.it.phase(), Phase::Running);
        play
    }

    fn on(&mut self, input: Input) -> Result<(), IllegalTransition> {
        let Transition { next, is_missing } = self.it.on(&input, at(self.now * SECOND))?;
        let bytes = postcard::to_stdvec(&(&next, &input)).unwrap();
        assert_eq!(postcard::from_bytes::<(Lifecycle, Input)>(&bytes).unwrap(), (next.clone(), input));
        let text = serde_json::to_string(&next).unwrap();
        assert_eq!(serde_json::from_str::<Lifecycle>(&text).unwrap(), next);
        (self.it, self.is_missing) = (next, is_missing);
        Ok(())
    }

    fn wish(&mut self, second: i64, wish: Wish) {
        self.now = second;
        self.on(Input::Wish(wish)).unwrap();
    }

    fn fact(&mut self, second: i64, fact: Fact) {
        self.now = second;
        self.on(Input::Fact(fact)).unwrap();
    }

    fn action(&self) -> Option<Action> {
        self.it.next_action(at(self.now * SECOND))
    }

    /// The key of the call that is due.
    fn due(&self) -> String {
        match self.action() {
            Some(Action::Call { key, .. }) => key.to_string(),
            other => format!("{other:?}"),
        }
    }

    fn sent(&mut self, second: i64, call: Call) {
        self.now = second;
        let Some(Action::Call { key, .. }) = self.action() else { panic!("{:?}", self.it) };
        assert_eq!(key.call, call);
        self.on(Input::Fact(Fact::Sent { key })).unwrap();
    }

    fn accepted(&mut self, operation: &str) {
        let (operation, cloud) = (operation.parse().unwrap(), Some(vm("vm-1")));
        let key = self.key_in_flight();
        self.on(Input::Fact(Fact::Answered { key, outcome: Outcome::Accepted { operation, cloud } }))
            .unwrap();
    }

    fn refused(&mut self, failure: Failure) {
        let key = self.key_in_flight();
        self.on(Input::Fact(Fact::Answered { key, outcome: Outcome::Refused { failure } })).unwrap();
    }

    /// The only key that an answer would be taken under.
    fn key_in_flight(&self) -> Key {
        let calls = [Call::Create, Call::Start, Call::Stop, Call::Delete];
        let keys = (0..20).flat_map(|generation| {
            calls.map(|call| Key { instance: self.it.instance().clone(), generation, call })
        });
        let answer = |key| Input::Fact(Fact::Answered { key, outcome: Outcome::Unknown });
        let mut taken = keys
            .filter(|key| self.it.on(&answer(key.clone()), at(self.now * SECOND)).unwrap().next != self.it);
        let key = taken.next().unwrap();
        assert_eq!(taken.next(), None);
        key
    }

    fn operation(&mut self, second: i64, operation: &str, news: News) {
        self.fact(second, Fact::Operation { operation: operation.parse().unwrap(), news });
    }

    fn seen(&mut self, second: i64, state: CloudState) {
        let began = at(second * SECOND);
        self.fact(second, Fact::Seen { cloud: vm("vm-1"), state, began, last_running: None });
    }

    fn absent(&mut self, second: i64) {
        self.fact(second, Fact::Absent { began: at(second * SECOND), last_running: None });
    }
}

fn run(from: i64, last_seen: i64, end: Option<(i64, i64)>) -> Option<Run> {
    let at = |second: i64| at(second * SECOND);
    let end = end.map(|(billed, seen)| RunEnd { billed_until: at(billed), seen_stopped: at(seen) });
    Some(Run { from: at(from), last_seen: at(last_seen), end })
}

#[test]
fn l2_a_life_from_a_request_to_its_end() {
    let mut play = Play::named("i1");
    assert_eq!(play.action(), None);
    play.wish(1, Wish::Hold);
    assert_eq!(play.due(), "i1.0.create");
    play.sent(1, Call::Create);
    assert_eq!(*play.it.phase(), Phase::Creating);
    // Nothing is to do while the answer is awaited.
    assert_eq!((play.action(), play.it.wakes_at()), (None, Some(at(SECOND + ANSWER_MS_MAX))));
    play.accepted("op-1");
    play.operation(3, "op-1", News::Running);
    play.operation(9, "op-1", News::Succeeded { finished_at: at(8 * SECOND) });
    assert_eq!(play.action(), Some(Action::LookUp { cloud: Some(vm("vm-1")) }));
    play.seen(11, CloudState::Running);
    // It runs since the operation finished, not since it was seen.
    assert_eq!(play.it.run(), run(8, 11, None));
    assert_eq!((play.action(), play.it.wakes_at()), (None, None));

    let until = at(100 * SECOND);
    let outbid = Cause::Outbid { by: "b7".parse().unwrap() };
    play.wish(40, Wish::Preempt { until, cause: outbid.clone() });
    assert_eq!(*play.it.phase(), Phase::Notice { until, cause: outbid.clone() });
    assert_eq!((play.action(), play.it.wakes_at()), (None, Some(until)));
    play.sent(100, Call::Stop);
    assert_eq!(*play.it.phase(), Phase::Stopping { cause: outbid.clone() });
    play.accepted("op-2");
    play.operation(160, "op-2", News::Succeeded { finished_at: at(155 * SECOND) });
    assert_eq!(*play.it.phase(), Phase::Stopped { cause: outbid });
    // Only RUNNING is billed: until the stop was sent.
    assert_eq!(play.it.run(), run(8, 11, Some((100, 160))));
    assert_eq!((play.action(), play.it.is_over()), (None, false));

    play.wish(200, Wish::Start);
    play.wish(201, Wish::Hold);
    assert_eq!((play.due(), play.it.run()), ("i1.2.start".into(), None));
    play.wish(202, Wish::Delete { cause: Cause::Finished });
    assert_eq!(
        (play.due(), play.it.phase()),
        ("i1.2.delete".into(), &Phase::Stopped { cause: Cause::Finished })
    );
    play.sent(203, Call::Delete);
    play.accepted("op-3");
    play.operation(209, "op-3", News::Succeeded { finished_at: at(209 * SECOND) });
    assert!(play.it.is_over());
}

#[test]
fn l2_of_two_ends_the_earlier_is_billed() {
    // Found down by a listing: it is billed until the listing before.
    let mut play = Play::running(10);
    let began = at(120 * SECOND);
    let last_running = Some(at(60 * SECOND));
    play.fact(125, Fact::Seen { cloud: vm("vm-1"), state: CloudState::Stopped, began, last_running });
    assert_eq!(*play.it.phase(), Phase::Stopped { cause: Cause::Provider });
    assert_eq!(play.it.run(), run(10, 60, Some((60, 125))));

    // A stop that was lost, and whose repetition found nothing to stop.
    let mut play = Play::running(10);
    play.wish(50, Wish::Stop { cause: Cause::OwnerStopped });
    play.sent(50, Call::Stop);
    play.sent(50 + ANSWER_MS_MAX / SECOND, Call::Stop);
    play.refused(Failure::Conflict);
    play.seen(90, CloudState::Stopped);
    assert_eq!(play.it.run(), run(10, 10, Some((10, 90))));

    // A repetition that is accepted: until it was first sent.
    let mut play = Play::running(10);
    play.wish(50, Wish::Stop { cause: Cause::OwnerStopped });
    play.sent(50, Call::Stop);
    play.sent(90, Call::Stop);
    play.accepted("op-2");
    play.operation(95, "op-2", News::Succeeded { finished_at: at(94 * SECOND) });
    assert_eq!(play.it.run(), run(10, 10, Some((50, 95))));

    // The cloud's clock is wrong: nothing began before it was asked for, nor is yet to begin.
    for (finished, from) in [(-500, 0), (500, 20)] {
        let mut play = Play::held();
        play.sent(0, Call::Create);
        play.accepted("op-1");
        play.operation(20, "op-1", News::Succeeded { finished_at: at(finished * SECOND) });
        play.seen(20, CloudState::Running);
        assert_eq!(play.it.run(), run(from, 20, None));
    }
}

#[test]
fn l3_a_repetition_has_the_same_key_and_a_new_attempt_another() {
    let mut play = Play::held();
    play.sent(0, Call::Create);
    let lost = ANSWER_MS_MAX / SECOND;
    play.now = lost;
    assert_eq!(play.action(), Some(Action::LookUp { cloud: None }));
    play.absent(lost);
    play.now = lost + 1;
    assert_eq!(play.due(), "i1.0.create");
    play.sent(lost + 1, Call::Create);
    play.refused(Failure::Conflict);
    // It may have left something behind.
    play.now = lost + 10;
    assert_eq!(play.action(), Some(Action::LookUp { cloud: None }));
    play.absent(lost + 10);
    assert_eq!(play.due(), "i1.1.create");

    // An answer under an old key says nothing any more.
    let before = play.it.clone();
    let late = Outcome::Refused { failure: Failure::NotEnoughResources };
    let key = Key { instance: before.instance().clone(), generation: 0, call: Call::Create };
    play.fact(lost + 11, Fact::Answered { key: key.clone(), outcome: late });
    assert_eq!(play.it, before);
    // Nor may a call be made under it.
    let refused = play.on(Input::Fact(Fact::Sent { key })).unwrap_err().to_string();
    assert_eq!(refused, "call i1.0.create is not due: do not make it, and ask for the next action");
}

#[test]
fn l3_what_is_wanted_no_more_is_looked_for_and_not_made_again() {
    let late = LATE_MS_MAX / SECOND;
    // A create without an answer: it may still arrive, so it is not over before that.
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.wish(1, Wish::Stop { cause: Cause::OwnerStopped });
    play.now = 60;
    assert_eq!(play.action(), Some(Action::LookUp { cloud: None }));
    play.absent(60);
    play.absent(late - 1);
    assert_eq!(*play.it.phase(), Phase::Stopping { cause: Cause::OwnerStopped });
    let mut arrived = Play { it: play.it.clone(), ..play };
    play.absent(late);
    assert_eq!((play.it.phase(), play.it.is_over()), (&Phase::Stopped { cause: Cause::OwnerStopped }, true));
    arrived.seen(late, CloudState::Running);
    assert_eq!((arrived.due(), arrived.it.run()), ("i1.1.stop".into(), None));

    // A start without an answer.
    let mut play = Play::running(10);
    play.seen(20, CloudState::Stopped);
    play.wish(30, Wish::Start);
    play.wish(30, Wish::Hold);
    play.sent(30, Call::Start);
    play.wish(31, Wish::Stop { cause: Cause::OwnerStopped });
    play.now = 90;
    assert_eq!(play.action(), Some(Action::LookUp { cloud: Some(vm("vm-1")) }));
    play.seen(30 + late - 1, CloudState::Stopped);
    assert_eq!(*play.it.phase(), Phase::Stopping { cause: Cause::OwnerStopped });
    play.seen(30 + late, CloudState::Stopped);
    assert_eq!((play.it.phase(), play.action()), (&Phase::Stopped { cause: Cause::OwnerStopped }, None));
}

#[test]
fn l3_what_was_looked_at_before_the_last_change_says_nothing() {
    let check = |play: &Play, began: i64, is_new: bool| {
        let began = at(began * SECOND);
        let seen = Fact::Seen { cloud: vm("vm-1"), state: CloudState::Stopped, began, last_running: None };
        for fact in [seen, Fact::Absent { began, last_running: None }] {
            let next = play.it.on(&Input::Fact(fact.clone()), at(100 * SECOND)).unwrap().next;
            assert_eq!(next != play.it, is_new, "{fact:?}");
        }
    };
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.operation(5, "op-1", News::Succeeded { finished_at: at(5 * SECOND) });
    play.seen(10, CloudState::Running);
    // A listing that began while it came up may have seen it coming up, though it arrives now.
    check(&play, 9, false);
    check(&play, 10, true);
    play.wish(50, Wish::Stop { cause: Cause::OwnerStopped });
    check(&play, 49, false);
    play.sent(50, Call::Stop);
    check(&play, 60, false);
    play.accepted("op-2");
    check(&play, 60, false);
    play.operation(70, "op-2", News::Failed { failure: Failure::Internal });
    check(&play, 69, false);
    check(&play, 70, true);
}

#[test]
fn l3_pauses_double_up_to_their_bound() {
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.operation(1, "op-1", News::Running);
    play.now = 2;
    let pauses: Vec<i64> = (0..25)
        .map(|_| {
            play.fact(play.now, Fact::NoAnswer);
            let before = play.now;
            play.now = play.it.wakes_at().unwrap().ms_since(at(0)) / SECOND;
            play.now - before
        })
        .collect();
    assert_eq!(pauses[..6], [1, 2, 4, 8, 16, 32]);
    assert!(pauses[6..].iter().all(|pause| *pause == PAUSE_MS_MAX / SECOND), "{pauses:?}");
    // However often it was asked: a stop is tried until it is done.
    let mut play = Play::running(10);
    play.wish(20, Wish::Stop { cause: Cause::OwnerStopped });
    play.sent(20, Call::Stop);
    play.accepted("op-2");
    for _ in 0..100 {
        play.now = play.it.wakes_at().unwrap().ms_since(at(0)) / SECOND;
        play.fact(play.now, Fact::NoAnswer);
    }
    assert_eq!(play.it.wakes_at(), Some(at(play.now * SECOND + PAUSE_MS_MAX)));
}

/// The cloud works on it and says so: somebody waits for its end, so the pause does not grow.
#[test]
fn l1_what_is_under_way_is_asked_for_at_a_steady_pace() {
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    assert_eq!(play.it.wakes_at(), Some(at(POLL_MS)));
    for second in 1..100 {
        play.operation(second, "op-1", News::Running);
        assert_eq!(play.it.wakes_at(), Some(at(second * SECOND + POLL_MS)));
    }
}

#[test]
fn l1_a_start_that_fails_says_why() {
    let refused = |failure| {
        let mut play = Play::held();
        play.sent(0, Call::Create);
        play.refused(failure);
        (play.it.phase().clone(), play.is_missing)
    };
    let failed = |cause| Phase::Failed { cause };
    assert_eq!(refused(Failure::NotEnoughResources), (failed(Cause::NotEnoughResources), true));
    assert_eq!(refused(Failure::QuotaFailure), (failed(Cause::CloudQuota), false));
    for failure in [Failure::PermissionDenied, Failure::InvalidArgument, Failure::NotFound] {
        assert_eq!(refused(failure), (failed(Cause::CloudError { failure }), false));
    }

    // Late: accepted, and it comes to nothing. What is left of it is deleted.
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.operation(5, "op-1", News::Succeeded { finished_at: at(5 * SECOND) });
    play.seen(6, CloudState::Stopped);
    assert_eq!((play.it.phase(), play.is_missing), (&failed(Cause::NotEnoughResources), true));
    assert_eq!((play.due(), play.it.run()), ("i1.1.delete".into(), None));

    // Inside the operation.
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.operation(5, "op-1", News::Failed { failure: Failure::QuotaFailure });
    assert_eq!(*play.it.phase(), failed(Cause::CloudQuota));

    // For no reason that lasts: so many times.
    let mut play = Play::held();
    for attempt in 1..=START_ATTEMPTS_MAX {
        play.now += 100;
        play.sent(play.now, Call::Create);
        play.refused(Failure::Internal);
        play.now += 100;
        if attempt < START_ATTEMPTS_MAX {
            assert_eq!(*play.it.phase(), Phase::Held);
            play.absent(play.now);
        }
    }
    assert_eq!(*play.it.phase(), failed(Cause::CloudError { failure: Failure::Internal }));

    // For ever coming up.
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.operation(START_MS_MAX / SECOND - 1, "op-1", News::Running);
    assert_eq!(*play.it.phase(), Phase::Creating);
    play.operation(START_MS_MAX / SECOND, "op-1", News::Running);
    assert_eq!(*play.it.phase(), failed(Cause::TimedOut));

    // What ran before is only stopped: it is not done away with because it could not be started again.
    let mut play = Play::running(10);
    play.seen(20, CloudState::Stopped);
    play.wish(30, Wish::Start);
    let mut refused = Play { it: play.it.clone(), ..play };
    refused.wish(31, Wish::Refuse { cause: Cause::Quota });
    assert_eq!((refused.it.phase(), refused.action()), (&Phase::Stopped { cause: Cause::Quota }, None));
    play.wish(31, Wish::Hold);
    play.sent(31, Call::Start);
    play.refused(Failure::NotEnoughResources);
    assert_eq!(play.it.phase().as_str(), "stopping");
    play.seen(32, CloudState::Stopped);
    assert_eq!(
        (play.it.phase(), play.action()),
        (&Phase::Stopped { cause: Cause::NotEnoughResources }, None)
    );

    let mut play = Play::named("i1");
    play.wish(0, Wish::Refuse { cause: Cause::Quota });
    assert_eq!((play.it.phase(), play.it.is_over()), (&failed(Cause::Quota), true));
}

#[test]
fn wishes_have_a_precedence() {
    let notice = |until: i64, cause| Wish::Preempt { until: at(until * SECOND), cause };
    let reclaimed = Cause::SupplyReclaimed { by: Reclaim::Reservation };
    let mut play = Play::running(10);
    play.wish(20, notice(200, Cause::ReserveRaised));
    // The sooner end counts, the later one does not; each with its own cause.
    play.wish(21, notice(300, Cause::Budget));
    assert_eq!(*play.it.phase(), Phase::Notice { until: at(200 * SECOND), cause: Cause::ReserveRaised });
    play.wish(22, notice(100, reclaimed.clone()));
    assert_eq!(*play.it.phase(), Phase::Notice { until: at(100 * SECOND), cause: reclaimed });
    let check = |play: &mut Play, wish, expected: &str| {
        let before = play.it.clone();
        assert_eq!(play.on(Input::Wish(wish)).unwrap_err().to_string(), expected);
        assert_eq!(play.it, before);
    };
    check(
        &mut play,
        notice(81, Cause::Budget),
        "a notice until 2027-01-15T08:01:21Z is too short: the earliest is 2027-01-15T08:01:22Z",
    );
    check(
        &mut play,
        notice(500, Cause::OwnerStopped),
        "owner_stopped is no cause for a notice: stop the instance instead",
    );
    check(
        &mut play,
        Wish::Start,
        "an instance in phase notice does not take the wish to start: start it when it is down",
    );
    play.wish(30, Wish::Stop { cause: Cause::OwnerStopped });
    assert_eq!(
        (play.it.phase(), play.due()),
        (&Phase::Stopping { cause: Cause::OwnerStopped }, "i1.1.stop".into())
    );
    play.wish(31, Wish::Delete { cause: Cause::Finished });
    assert_eq!(*play.it.phase(), Phase::Stopping { cause: Cause::OwnerStopped });
    check(
        &mut play,
        Wish::Hold,
        "an instance in phase stopping does not take the wish to hold: it was held before",
    );
    play.seen(40, CloudState::Stopped);
    assert_eq!(play.due(), "i1.1.delete");
    check(
        &mut play,
        Wish::Start,
        "an instance in phase stopped does not take the wish to start: request another one",
    );

    // What waits for a call in flight is done after it.
    let mut play = Play::held();
    play.sent(0, Call::Create);
    play.accepted("op-1");
    play.wish(2, Wish::Stop { cause: Cause::OwnerStopped });
    assert_eq!(play.action(), Some(Action::PollOperation { operation: "op-1".parse().unwrap() }));
    play.operation(5, "op-1", News::Succeeded { finished_at: at(5 * SECOND) });
    play.seen(6, CloudState::Running);
    assert_eq!((play.due(), play.it.run()), ("i1.1.stop".into(), None));

    // What was never asked of the cloud ends at once.
    let mut play = Play::held();
    play.wish(1, Wish::Preempt { until: at(0), cause: Cause::Budget });
    assert_eq!((play.it.phase(), play.it.is_over()), (&Phase::Stopped { cause: Cause::Budget }, true));
}

fn listing(began: i64, items: &[(&str, Option<&str>, CloudState)]) -> Listing {
    let items = items.iter().map(|(cloud, instance, state)| Listed {
        cloud: vm(cloud),
        instance: instance.map(|instance| instance.parse().unwrap()),
        state: *state,
    });
    Listing { began: at(began * SECOND), is_complete: true, items: items.collect() }
}

fn kinds(known: &[&Lifecycle], listing: &Listing) -> Vec<(String, Option<Kind>)> {
    let findings = reconcile(known.iter().copied(), listing, None).into_iter();
    let kinds = findings.map(|finding| match finding {
        Finding::Known { instance, kind, .. } => (instance.to_string(), Some(kind)),
        Finding::Stray { listed } => (listed.cloud.to_string(), None),
    });
    kinds.collect()
}

#[test]
fn l3_a_listing_shows_ghosts_zombies_and_strays() {
    let running = Play::running(10).it;
    let check = |known: &[&Lifecycle], listing: &Listing, expected: &[(&str, Option<Kind>)]| {
        let expected: Vec<_> = expected.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        assert_eq!(kinds(known, listing), expected);
    };
    let up = ("vm-1", Some("i1"), CloudState::Running);
    check(&[&running], &listing(60, &[up]), &[]);
    check(&[&running], &listing(60, &[]), &[("i1", Some(Kind::Ghost))]);
    check(
        &[&running],
        &listing(60, &[("vm-1", Some("i1"), CloudState::Stopped)]),
        &[("i1", Some(Kind::Ghost))],
    );
    // Only what is complete shows that something is gone, and only what began after the last change.
    check(&[&running], &Listing { is_complete: false, ..listing(60, &[]) }, &[]);
    check(&[&running], &listing(9, &[]), &[]);

    // It ran when an earlier listing began, if it was up by then and still is for all we know.
    let last_running = |it: &Lifecycle, previous: i64| {
        let findings = reconcile([it], &listing(60, &[]), Some(at(previous * SECOND)));
        match findings.as_slice() {
            [Finding::Known { fact: Fact::Absent { last_running, .. }, .. }] => *last_running,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        [9, 10, 30].map(|second| last_running(&running, second)),
        [None, Some(at(10_000)), Some(at(30_000))]
    );
    let mut restarted = Play::running(10);
    restarted.seen(20, CloudState::Starting);
    assert_eq!(*restarted.it.phase(), Phase::Running);
    assert_eq!(last_running(&restarted.it, 30), None);

    // Strays: of no name, of an unknown name, of a name that is taken.
    let items = [
        ("vm-9", Some("i9"), CloudState::Running),
        ("vm-0", Some("i1"), CloudState::Running),
        up,
        ("vm-5", None, CloudState::Stopped),
        ("vm-3", Some("i0"), CloudState::Running),
    ];
    let strays = [("vm-5", None), ("vm-3", None), ("vm-0", None), ("vm-9", None)];
    check(&[&running], &listing(60, &items), &strays);

    // A create without an answer: the liveliest of its name is taken for it.
    let mut lost = Play::held();
    lost.sent(20, Call::Create);
    let items = [("vm-1", Some("i1"), CloudState::Stopped), ("vm-2", Some("i1"), CloudState::Running)];
    check(&[&lost.it], &listing(60, &items), &[("i1", Some(Kind::Adopted)), ("vm-1", None)]);
    check(&[&lost.it], &listing(60, &[]), &[]);
    check(&[&lost.it], &listing(19, &items), &[]);

    // It was stopped, and runs.
    let mut stopped = Play::running(10);
    stopped.wish(20, Wish::Stop { cause: Cause::Finished });
    stopped.sent(20, Call::Stop);
    stopped.accepted("op-2");
    check(&[&stopped.it], &listing(25, &[up]), &[]);
    stopped.operation(30, "op-2", News::Succeeded { finished_at: at(30 * SECOND) });
    check(&[&stopped.it], &listing(60, &[up]), &[("i1", Some(Kind::Zombie))]);
    stopped.seen(60, CloudState::Running);
    assert_eq!(
        (stopped.it.phase(), stopped.due()),
        (&Phase::Stopped { cause: Cause::Finished }, "i1.2.stop".into())
    );
    assert_eq!(stopped.it.run(), run(10, 10, Some((20, 30))));
}

#[test]
fn l3_a_stray_is_brought_down_and_away() {
    let stray = Lifecycle::stray(vm("vm-7"), true, at(0)).unwrap();
    let mut play = Play { it: stray, now: 0, is_missing: false };
    assert_eq!(play.action(), Some(Action::LookUp { cloud: Some(vm("vm-7")) }));
    let seen = |state, second: i64| Fact::Seen {
        cloud: vm("vm-7"),
        state,
        began: at(second * SECOND),
        last_running: None,
    };
    play.fact(1, seen(CloudState::Running, 1));
    assert_eq!(play.due(), "vm-7.0.stop");
    play.fact(2, seen(CloudState::Error, 2));
    assert_eq!(play.due(), "vm-7.0.delete");
    play.fact(3, seen(CloudState::Stopped, 3));
    assert_eq!(play.due(), "vm-7.0.delete");
    play.sent(3, Call::Delete);
    play.refused(Failure::NotFound);
    assert!(play.it.is_over());
}

/// 10,000 instances, and as many machines in another order: one walk.
#[test]
fn ten_thousand_instances_are_reconciled_in_one_walk() {
    let named = |number: usize| -> InstanceId { format!("i{number:05}").parse().unwrap() };
    let known: BTreeMap<InstanceId, Lifecycle> = (0..10_000)
        .map(|number| {
            let mut play = Play { it: Lifecycle::requested(named(number), at(0)), now: 0, is_missing: false };
            let facts = [
                Input::Wish(Wish::Hold),
                Input::Fact(Fact::Seen {
                    cloud: vm(&format!("vm-{number}")),
                    state: CloudState::Running,
                    began: at(0),
                    last_running: None,
                }),
            ];
            for fact in facts {
                play.it = play.it.on(&fact, at(0)).unwrap().next;
            }
            assert_eq!((play.it.phase(), play.it.belief()), (&Phase::Running, Belief::Up));
            (named(number), play.it)
        })
        .collect();
    let items = (0..10_000).rev().filter(|number| number % 1_000 != 0).map(|number| Listed {
        cloud: vm(&format!("vm-{number}")),
        instance: Some(named(number)),
        state: CloudState::Running,
    });
    let listing = Listing { began: at(60 * SECOND), is_complete: true, items: items.collect() };
    let findings = reconcile(known.values(), &listing, Some(at(30 * SECOND)));
    let ghosts = findings.into_iter().map(|finding| match finding {
        Finding::Known { instance, kind: Kind::Ghost, fact: Fact::Absent { last_running, .. } } => {
            assert_eq!(last_running, Some(at(30 * SECOND)));
            instance
        }
        other => panic!("{other:?}"),
    });
    assert!(ghosts.eq((0..10).map(|number| named(number * 1_000))));
}

#[test]
fn missing_supply_cools_down_for_longer_each_time() {
    let mut it = Cooldown::default();
    let mut now = 0;
    let mut minutes = Vec::new();
    for _ in 0..8 {
        it.prove_missing(8, at(now));
        it.prove_missing(4, at(now));
        let until = it.until().unwrap().ms_since(at(0));
        assert_eq!((it.missing(at(until - 1)), it.missing(at(until))), (12, 0));
        minutes.push((until - now) / COOLDOWN_MS_MIN);
        now = until + 10 * SECOND;
    }
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, COOLDOWN_MS_MAX / COOLDOWN_MS_MIN]);
    // While it cools down, what comes elsewhere proves nothing; afterwards it does.
    it.prove_missing(8, at(now));
    it.prove_there(at(now));
    assert_eq!(it.missing(at(now)), 8);
    it.prove_there(it.until().unwrap());
    assert_eq!(it, Cooldown::default());
    // Long after, it begins again.
    it.prove_missing(8, at(now));
    it.prove_missing(8, at(now + 10 * COOLDOWN_MS_MIN));
    assert_eq!(it.until(), Some(at(now + 11 * COOLDOWN_MS_MIN)));
}
