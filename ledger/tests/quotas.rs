//! Quota in the log: nothing leaks when a caller dies, what is late is refused, and whoever changes the
//! log so that a limit is crossed is found.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_ledger::cell::{CellError, Submission};
use hourglass_ledger::core::quotas::{Ask, Cause, QuotaCommand, QuotaEvent, QuotaRejection, Review, Target};
use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::core::{
    Answer, Command, Detail, Event, Mode, Policy, Recorded, Registration, Rejection, State, apply,
};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::Store;
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresStore};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteReader, SqliteStore};
use hourglass_ledger::verify::{Report, verify};
use hourglass_quota::hold::{HoldError, HoldState};
use hourglass_quota::{Bound, Class, HoldId, LeaseId, Limits, NodeName};
use hourglass_test_servers::Postgres;
use hourglass_units::{Amount, Currency, Price, ResourceName};

use super::cell::{BEGIN, Mortal, sqlite, start_cell};
use super::support::{Core, MINUTE, at, card, ms, open_cell, open_tenant, registration, start, stop};
use super::tamper::write;

fn h100() -> ResourceName {
    "compute.instance.gpu.h100".parse().unwrap()
}

fn asks(class: Class, amount: u64) -> Vec<Ask> {
    vec![Ask { resource: h100(), class, amount }]
}

fn reserve(project: &str, class: Class, amount: u64) -> Command {
    let (tenant, project) = ("acme".parse().unwrap(), project.parse().unwrap());
    quota(QuotaCommand::Reserve { tenant, project, items: asks(class, amount), ttl_ms: MINUTE })
}

fn quota(command: QuotaCommand) -> Command {
    Command::Quota(Box::new(command))
}

fn limit(node: &str, class: Class, limits: Limits) -> Command {
    let (node, resource, limits) = (node.parse().unwrap(), h100(), Some(limits));
    quota(QuotaCommand::SetLimits { node, resource, class, limits })
}

fn nominal(most: u64) -> Limits {
    Limits::nominal(Bound::AtMost(most))
}

fn hold_of(answer: &Answer) -> (HoldId, HoldState) {
    match &answer.detail {
        Detail::Hold { hold, state, .. } => (*hold, *state),
        other => panic!("{other:?}"),
    }
}

fn taken(state: &State, node: &str, class: Class) -> u64 {
    let tree = state.quotas().tree();
    let (node, key) = (tree.find(&node.parse().unwrap()), tree.key(&h100(), class));
    node.zip(key).map_or(0, |(node, key)| tree.standing(node, key).taken.claimed())
}

/// Who reserves dies, and the cell with it, whatever the store: after its time the capacity is back.
fn nothing_leaks(store: impl Fn() -> Box<dyn Store>) {
    let begin = ms(BEGIN);
    let (mortal, alive, gone) = Mortal::new(store());
    let cell = start_cell(Box::new(mortal));
    let submit = |cell: &hourglass_ledger::cell::Cell, command, now| {
        cell.handle().submit_blocking(Submission { command, key: None, at: Some(at(now)) })
    };
    for command in [
        open_cell(Policy::default()),
        Command::PublishRateCard(card(Currency::USD, 1, begin, 2_950_000_000)),
        open_tenant("acme", Currency::USD),
        limit("tenants/acme", Class::OnDemand, nominal(8)),
    ] {
        let _done = submit(&cell, command, begin).unwrap();
    }
    let held = submit(&cell, reserve("ml", Class::OnDemand, 8), begin).unwrap();
    let (hold, state) = hold_of(held.answer());
    assert_eq!(state, HoldState::Held);
    // As a power cut.
    alive.store(false, Ordering::SeqCst);
    drop(cell);
    gone.recv_timeout(Duration::from_secs(60)).expect("the cell's threads end");

    let cell = start_cell(store());
    let rejected = |command, now| match submit(&cell, command, now) {
        Err(CellError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    };
    let denied = rejected(reserve("ml", Class::OnDemand, 1), begin + 1);
    assert!(matches!(denied, Rejection::Quota(QuotaRejection::Denied(_))), "{denied:?}");
    let nothing = rejected(quota(QuotaCommand::Review), begin + MINUTE - 1);
    assert!(matches!(nothing, Rejection::Quota(QuotaRejection::NothingDue)), "{nothing:?}");
    // Its time is over: it cannot be used even before anybody says so.
    let late = || Rejection::Quota(QuotaRejection::Hold(HoldError::Expired { hold, at: at(begin + MINUTE) }));
    assert_eq!(rejected(quota(QuotaCommand::Commit { hold }), begin + MINUTE), late());
    assert_eq!(rejected(quota(QuotaCommand::Renew { hold, ttl_ms: MINUTE }), begin + MINUTE), late());
    let it = Registration { hold: Some(hold), ..registration("i-1", "acme", 8) };
    assert_eq!(rejected(Command::RegisterInstance(it), begin + MINUTE), late());
    let items = asks(Class::OnDemand, 1);
    assert_eq!(rejected(quota(QuotaCommand::Resize { hold, items }), begin + MINUTE), late());
    let _done = submit(&cell, quota(QuotaCommand::Review), begin + MINUTE).unwrap();
    let left = cell.handle().read_blocking(|state| taken(state, "tenants/acme", Class::OnDemand)).unwrap();
    assert_eq!(left, 0, "Q-3");
    assert_eq!(rejected(quota(QuotaCommand::Commit { hold }), begin + MINUTE), late());
    let again = submit(&cell, reserve("ml", Class::OnDemand, 8), begin + MINUTE).unwrap();
    assert_eq!(hold_of(again.answer()).1, HoldState::Held);
    cell.close();
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(verify(store().reader().as_ref(), scratch.path(), |_, _| {}).unwrap().findings, []);
}

#[test]
fn q3_nothing_leaks_when_a_caller_dies() {
    let directory = tempfile::tempdir().unwrap();
    nothing_leaks(|| sqlite(directory.path()));
}

#[test]
fn q3_nothing_leaks_in_postgresql_either() {
    let url = Postgres::shared().database();
    nothing_leaks(|| Box::new(PostgresStore::open(&PostgresOptions::new(url.as_str())).unwrap()));
}

/// `acme` with project `web`, which lends its 8, and `ml`, which borrows them.
fn lent() -> Core {
    let mut core = Core::open(ms(BEGIN), Policy::default(), &[("acme", Currency::USD)]);
    let borrows = Limits { borrowing: Bound::Unlimited, ..nominal(0) };
    core.run(limit("tenants/acme/projects/web", Class::OnDemand, nominal(8))).unwrap();
    core.run(limit("tenants/acme/projects/ml", Class::Preemptible, borrows)).unwrap();
    core
}

fn state_of(core: &Core, hold: HoldId) -> Option<HoldState> {
    core.state.quotas().holds().get(hold).map(|hold| hold.state)
}

#[test]
fn q1_a_claim_waits_and_every_way_back_grants_it() {
    let group = |core: &mut Core| {
        let (tenant, group) = ("acme".parse().unwrap(), "g".parse().unwrap());
        core.run(quota(QuotaCommand::CreateGroup { tenant, group, parent: None })).unwrap();
    };
    type Way = fn(&mut Core, HoldId);
    let ways: [(&str, Way); 5] = [
        ("released", |core, lent| {
            core.run(quota(QuotaCommand::Release { hold: lent })).unwrap();
        }),
        ("smaller", |core, hold| {
            let items = asks(Class::Preemptible, 1);
            core.run(quota(QuotaCommand::Resize { hold, items })).unwrap();
        }),
        ("more limit", |core, _| {
            core.run(limit("tenants/acme/projects/web", Class::OnDemand, nominal(16))).unwrap();
        }),
        ("another lends", |core, _| {
            core.run(limit("tenants/acme/projects/lab", Class::OnDemand, nominal(16))).unwrap();
        }),
        ("a lender comes", |core, _| {
            let (tenant, project) = ("acme".parse().unwrap(), "lab".parse().unwrap());
            core.run(quota(QuotaCommand::PlaceProject { tenant, project, group: None })).unwrap();
        }),
    ];
    for (what, way) in ways {
        let mut core = lent();
        group(&mut core);
        let (tenant, project) = ("acme".parse().unwrap(), "lab".parse().unwrap());
        let group = Some("g".parse().unwrap());
        core.run(quota(QuotaCommand::PlaceProject { tenant, project, group })).unwrap();
        if what == "a lender comes" {
            core.run(limit("tenants/acme/projects/lab", Class::OnDemand, nominal(16))).unwrap();
        }
        let (lent, _) = hold_of(&core.run(reserve("ml", Class::Preemptible, 8)).unwrap());
        // It is not granted, neither at once nor to an instance; the denial says where and how much is.
        let (claim, state) = hold_of(&core.run(reserve("web", Class::OnDemand, 7)).unwrap());
        assert_eq!(state, HoldState::Pending, "{what}");
        let it = Registration { project: "web".parse().unwrap(), ..registration("i-1", "acme", 1) };
        match core.run(Command::RegisterInstance(it)) {
            Err(Rejection::Quota(QuotaRejection::NeedsReclaim { denial })) => {
                assert_eq!(denial.node, Some("tenants/acme/projects/web".parse::<NodeName>().unwrap()));
                assert_eq!((denial.limit, denial.held, denial.fits), (Bound::AtMost(8), 7, 0));
            }
            other => panic!("{other:?}"),
        }
        let pending = core.run(quota(QuotaCommand::Commit { hold: claim }));
        assert!(matches!(pending, Err(Rejection::Quota(QuotaRejection::Hold(HoldError::Pending { .. })))));
        if what == "another lends" {
            let (tenant, project) = ("acme".parse().unwrap(), "lab".parse().unwrap());
            core.run(quota(QuotaCommand::PlaceProject { tenant, project, group: None })).unwrap();
        }
        assert_eq!(state_of(&core, claim), Some(HoldState::Pending), "{what}");
        way(&mut core, lent);
        assert_eq!(state_of(&core, claim), Some(HoldState::Held), "{what}");
    }
}

/// A request that rules grant is a way back, too.
#[test]
fn q1_a_request_that_is_granted_grants_what_waits_for_it() {
    let mut core = lent();
    let rules = r#"{"account_days_min": 0, "paid_invoices_min": 0, "utilisation_min": "0", "growth_max": "1000",
        "headroom": [{"resource": "compute.instance.gpu.h100", "class": "on_demand", "total_max": 1000}]}"#;
    core.run(quota(QuotaCommand::SetRules { rules: Some(serde_json::from_str(rules).unwrap()) })).unwrap();
    core.run(reserve("ml", Class::Preemptible, 8)).unwrap();
    let (claim, _) = hold_of(&core.run(reserve("web", Class::OnDemand, 7)).unwrap());
    let (justification, requested_by) = ("growth".to_owned(), "ops".to_owned());
    let (node, resource, wanted) = ("tenants/acme/projects/web".parse().unwrap(), h100(), Bound::AtMost(16));
    let class = Class::OnDemand;
    core.run(quota(QuotaCommand::RequestIncrease {
        node,
        resource,
        class,
        wanted,
        justification,
        requested_by,
    }))
    .unwrap();
    assert_eq!(state_of(&core, claim), Some(HoldState::Held));
}

/// What waits does not run: to stop it brings nothing back.
#[test]
fn q1_only_what_runs_is_told_to_stop() {
    let mut core = lent();
    let tenant = || "acme".parse().unwrap();
    let group = || "g".parse().unwrap();
    core.run(quota(QuotaCommand::CreateGroup { tenant: tenant(), group: group(), parent: None })).unwrap();
    for project in ["p", "q"] {
        let (project, group) = (project.parse().unwrap(), Some(group()));
        core.run(quota(QuotaCommand::PlaceProject { tenant: tenant(), project, group })).unwrap();
    }
    let borrows = |own| Limits { borrowing: Bound::Unlimited, ..nominal(own) };
    for (node, own) in [("groups/g", 2), ("projects/p", 3), ("projects/q", 0)] {
        core.run(limit(&format!("tenants/acme/{node}"), Class::Preemptible, borrows(own))).unwrap();
    }
    // q has all that is p's, and so g one of web's; then both claim theirs.
    let (lent, _) = hold_of(&core.run(reserve("q", Class::Preemptible, 3)).unwrap());
    core.now += 1;
    let claims = [reserve("p", Class::Preemptible, 3), reserve("web", Class::OnDemand, 8)];
    let claims = claims.map(|claim| hold_of(&core.run(claim).unwrap()));
    assert!(claims.iter().all(|(_, state)| *state == HoldState::Pending));
    core.run(quota(QuotaCommand::Review)).unwrap();
    let told: Vec<_> = core.state.quotas().preemptions().map(|it| it.target.clone()).collect();
    assert_eq!(told, [Target::Hold(lent)]);
    core.run(quota(QuotaCommand::Release { hold: lent })).unwrap();
    // What is claimed is not borrowed: web has its 8, and p, for which g would borrow one of them, waits on.
    let states = claims.map(|(claim, _)| state_of(&core, claim));
    assert_eq!(states, [Some(HoldState::Pending), Some(HoldState::Held)]);
}

/// Appends an event that nobody decided, chained as it must be.
fn forge(core: &mut Core, event: QuotaEvent) {
    forge_any(core, Event::Quota(event));
}

pub(crate) fn forge_any(core: &mut Core, event: Event) {
    let recorded = Recorded { key: None, event };
    let (position, now) = (core.state.position().next(), at(core.now));
    let stored = StoredEvent::chain(&core.chain, position, 1, now, &recorded);
    let mut rows = EventRows::default();
    apply(&mut core.state, now, &recorded, &mut rows).unwrap();
    core.chain = stored.hash;
    core.events.push(stored);
    core.rows.push(rows);
}

pub(crate) fn verify_core(core: &Core) -> Report {
    let (directory, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path: &Path = directory.path();
    let mut store = SqliteStore::open(path, SqliteOptions { durable: false }).unwrap();
    write(core, &mut store);
    drop(store);
    verify(&SqliteReader::open(path).unwrap(), scratch.path(), |_, _| {}).unwrap()
}

fn hold_taken(project: &str, class: Class, amount: u64, pending: bool, until: i64) -> QuotaEvent {
    QuotaEvent::HoldTaken {
        tenant: "acme".parse().unwrap(),
        project: project.parse().unwrap(),
        items: asks(class, amount),
        expires_at: at(until),
        pending,
        burn: Amount::ZERO,
    }
}

/// Whoever can chain events can write what nobody decided; the fold alone does not see it.
#[test]
fn q1_q3_forged_events_are_found_at_their_position() {
    let begin = ms(BEGIN);
    let sound = || {
        let mut core = lent();
        core.run(limit("tenants/acme", Class::OnDemand, nominal(8))).unwrap();
        core.run(reserve("web", Class::OnDemand, 3)).unwrap();
        core.run(reserve("ml", Class::Preemptible, 5)).unwrap();
        let (committed, _) = hold_of(&core.run(reserve("web", Class::Reserved, 1)).unwrap());
        core.run(quota(QuotaCommand::Commit { hold: committed })).unwrap();
        core.now = begin + MINUTE / 2;
        core
    };
    let core = sound();
    assert_eq!(verify_core(&core).findings, []);
    let ids: Vec<HoldId> = core.state.quotas().holds().iter().map(|(id, _)| id).collect();
    let (held, borrower, committed) = (ids[0], ids[1], ids[2]);
    let reviewed =
        |expired: Vec<HoldId>| QuotaEvent::Reviewed(Box::new(Review { expired, ..Review::default() }));
    let late = begin + MINUTE;
    let lease = |capacity| QuotaEvent::LeaseGranted {
        node: "tenants/acme".parse().unwrap(),
        resource: h100(),
        class: Class::OnDemand,
        holder: "far".to_owned(),
        capacity,
        safe_capacity: 0,
    };
    let resized = |hold, amount| {
        let items = asks(Class::OnDemand, amount);
        QuotaEvent::HoldResized { hold, items, burn: Amount::ZERO }
    };
    let cases: Vec<(&str, i64, QuotaEvent, &str)> = vec![
        ("above the tenant's limit", 0, hold_taken("lab", Class::OnDemand, 6, false, late), "Q-1"),
        ("above its own", 0, hold_taken("web", Class::OnDemand, 6, false, late), "Q-1"),
        ("more than is idle", 0, hold_taken("ml", Class::Preemptible, 1, false, late), "Q-1"),
        ("without waiting", 0, hold_taken("web", Class::OnDemand, 1, false, late), "Q-1"),
        ("a larger hold", 0, resized(held, 9), "Q-1"),
        ("a lease above the limit", 0, lease(6), "Q-1"),
        ("over before it begins", 0, hold_taken("ml", Class::Reserved, 1, false, begin), "Q-3"),
        ("committed after its end", late, QuotaEvent::HoldCommitted { hold: held }, "Q-3"),
        (
            "renewed after its end",
            late,
            QuotaEvent::HoldRenewed { hold: held, expires_at: at(late * 2) },
            "Q-3",
        ),
        ("resized after its end", late, resized(held, 1), "Q-3"),
        ("expired before its time", 0, reviewed(vec![borrower]), "Q-3"),
        ("expired although committed", late, reviewed(vec![held, borrower, committed]), "Q-3"),
        ("left although late", late, reviewed(vec![held]), "Q-3"),
    ];
    for (what, now, event, check) in cases {
        let mut core = sound();
        core.now = core.now.max(now);
        forge(&mut core, event);
        let position = core.state.position();
        let report = verify_core(&core);
        let found = report.findings.iter().any(|it| it.check == check && it.position == Some(position));
        assert!(found, "{what}: {check} at {position}, not {:?}", report.findings);
    }
    // An instance that was never admitted, and one with a hold that was late.
    for (what, now, gpus, hold, check) in
        [("not admitted", 0, 6, None, "Q-1"), ("with a late hold", late, 3, Some(held), "Q-3")]
    {
        let mut core = sound();
        core.now = core.now.max(now);
        let project = "web".parse().unwrap();
        let it = Registration { project, hold, ..registration("i-1", "acme", gpus) };
        forge_any(&mut core, Event::InstanceRegistered(it));
        let position = core.state.position();
        let report = verify_core(&core);
        let found = report.findings.iter().any(|it| it.check == check && it.position == Some(position));
        assert!(found, "{what}: {check} at {position}, not {:?}", report.findings);
    }
}

/// A hold that ends twice cannot even be folded, and is named as that.
#[test]
fn q3_a_hold_that_ends_twice_is_found() {
    let mut core = lent();
    let (hold, _) = hold_of(&core.run(reserve("web", Class::OnDemand, 3)).unwrap());
    core.run(quota(QuotaCommand::Release { hold })).unwrap();
    let recorded = Recorded { key: None, event: Event::Quota(QuotaEvent::HoldReleased { hold }) };
    let position = core.state.position().next();
    let stored = StoredEvent::chain(&core.chain, position, 1, at(core.now), &recorded);
    core.events.push(stored);
    core.rows.push(EventRows::default());
    let report = verify_core(&core);
    let found: Vec<_> = report.findings.iter().map(|it| (it.check, it.position)).collect();
    assert_eq!(found, [("Q-3", Some(position)), ("log", Some(position))]);
}

/// What was lawful is not found: limits below what is used, what runs unasked, leases that come and go.
#[test]
fn q1_q3_what_may_be_is_no_finding() {
    let begin = ms(BEGIN);
    let mut core = lent();
    core.run(reserve("web", Class::OnDemand, 3)).unwrap();
    core.run(reserve("ml", Class::Preemptible, 5)).unwrap();
    core.run(limit("tenants/acme/projects/web", Class::OnDemand, nominal(1))).unwrap();
    core.run(Command::RegisterInstance(registration("i-1", "acme", 8))).unwrap();
    core.run(start("i-1", begin)).unwrap();
    core.run(stop("i-1", begin + 1)).unwrap();
    core.run(limit("tenants/acme", Class::OnDemand, nominal(4))).unwrap();
    core.run(start("i-1", begin + 2)).unwrap();
    assert_eq!(taken(&core.state, "tenants/acme", Class::OnDemand), 11, "it runs, unheld");
    core.run(Command::Tick).unwrap();
    core.run(limit("tenants/acme", Class::OnDemand, nominal(40))).unwrap();
    core.run(Command::Tick).unwrap();
    let acquire = quota(QuotaCommand::AcquireLease {
        node: "tenants/acme".parse().unwrap(),
        resource: h100(),
        class: Class::OnDemand,
        holder: "far".to_owned(),
        wants: 40,
        safe_capacity: 2,
    });
    let Detail::Lease { lease, capacity, .. } = core.run(acquire).unwrap().detail else { panic!("no lease") };
    assert_eq!((lease, capacity), (LeaseId(core.state.position().number()), 29));
    core.now = begin + 2 * MINUTE;
    core.run(quota(QuotaCommand::Review)).unwrap();
    assert_eq!(
        taken(&core.state, "tenants/acme", Class::OnDemand),
        8 + 2,
        "what is safe is left of the lease"
    );
    assert_eq!(core.state.quotas().holds().len(), 0);
    let report = verify_core(&core);
    assert_eq!(report.findings, []);
    assert!(report.checks.contains(&"Q-1") && report.checks.contains(&"Q-3"));
}

/// A hold is for one project, one class, one size.
#[test]
fn q1_an_instance_takes_over_only_its_own_hold() {
    let mut core = lent();
    let spot = || Mode::Spot { bid: None, limit: Some(Price::from_nanos(1).unwrap()), fabric: None };
    let (hold, _) = hold_of(&core.run(reserve("web", Class::OnDemand, 4)).unwrap());
    let it =
        Registration { project: "web".parse().unwrap(), hold: Some(hold), ..registration("i-1", "acme", 4) };
    for (what, other) in [
        ("larger", Registration { gpus: 5, ..it.clone() }),
        ("smaller", Registration { gpus: 3, ..it.clone() }),
        ("another project's", Registration { project: "ml".parse().unwrap(), ..it.clone() }),
        ("another class", Registration { mode: spot(), ..it.clone() }),
    ] {
        let refused = core.run(Command::RegisterInstance(other));
        let mismatch = matches!(refused, Err(Rejection::Quota(QuotaRejection::HoldMismatch { .. })));
        assert!(mismatch, "{what}: {refused:?}");
    }
    core.run(Command::RegisterInstance(it)).unwrap();
    assert_eq!(taken(&core.state, "tenants/acme", Class::OnDemand), 4, "counted once");
    let again = Registration { hold: Some(hold), ..registration("i-2", "acme", 4) };
    let taken = core.run(Command::RegisterInstance(again));
    assert!(
        matches!(taken, Err(Rejection::Quota(QuotaRejection::Hold(HoldError::Taken { .. })))),
        "{taken:?}"
    );
}

/// An instance that was accepted and never ran gives its quota back too, and nothing of it is billed.
#[test]
fn q3_an_instance_that_never_ran_gives_its_quota_back() {
    let mut core = lent();
    core.run(Command::RegisterInstance(Registration {
        project: "web".parse().unwrap(),
        ..registration("i-1", "acme", 4)
    }))
    .unwrap();
    assert_eq!(taken(&core.state, "tenants/acme", Class::OnDemand), 4);
    let accepted = core.now;
    core.now = accepted + MINUTE;
    let refused = core.run(stop("i-1", accepted - 1));
    assert!(matches!(refused, Err(Rejection::StopsBeforeStart { .. })), "{refused:?}");
    core.run(stop("i-1", accepted + MINUTE)).unwrap();
    assert_eq!(taken(&core.state, "tenants/acme", Class::OnDemand), 0);
    assert!(matches!(core.run(stop("i-1", accepted + MINUTE)), Err(Rejection::NotRunning { .. })));
    // It may run yet.
    core.run(start("i-1", accepted + MINUTE)).unwrap();
    assert_eq!(taken(&core.state, "tenants/acme", Class::OnDemand), 4);
    assert_eq!(verify_core(&core).findings, []);
}

/// What is lent is not taken back for a lease: it grows when the loan is over.
#[test]
fn q1_a_lease_does_not_take_back_what_is_lent() {
    let mut core = lent();
    let (borrowed, _) = hold_of(&core.run(reserve("ml", Class::Preemptible, 6)).unwrap());
    let acquire = quota(QuotaCommand::AcquireLease {
        node: "tenants/acme/projects/web".parse().unwrap(),
        resource: h100(),
        class: Class::OnDemand,
        holder: "far".to_owned(),
        wants: 2,
        safe_capacity: 0,
    });
    let Detail::Lease { lease, capacity: 2, .. } = core.run(acquire).unwrap().detail else {
        panic!("no lease")
    };
    let refresh = |core: &mut Core, known_version| {
        let wants = 8;
        let refresh = quota(QuotaCommand::RefreshLease { lease, wants, known_version, in_use: 2 });
        match core.run(refresh).unwrap().detail {
            Detail::Lease { capacity, .. } => capacity,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refresh(&mut core, 1), 2);
    core.run(quota(QuotaCommand::Release { hold: borrowed })).unwrap();
    assert_eq!(refresh(&mut core, 2), 8);
}

/// What starts again although its quota was lent meanwhile runs without a hold, until the loan is over.
#[test]
fn q1_what_starts_again_does_not_take_what_is_lent() {
    let begin = ms(BEGIN);
    let mut core = lent();
    let it = Registration { project: "web".parse().unwrap(), ..registration("i-1", "acme", 8) };
    core.run(Command::RegisterInstance(it)).unwrap();
    core.run(start("i-1", begin)).unwrap();
    core.run(stop("i-1", begin + 1)).unwrap();
    let (borrowed, _) = hold_of(&core.run(reserve("ml", Class::Preemptible, 8)).unwrap());
    core.run(start("i-1", begin + 2)).unwrap();
    let counted = |core: &Core| {
        let tree = core.state.quotas().tree();
        let node = tree.find(&"tenants/acme/projects/web".parse().unwrap()).unwrap();
        let taken = tree.standing(node, tree.key(&h100(), Class::OnDemand).unwrap()).taken;
        (taken.committed, taken.unheld)
    };
    core.run(Command::Tick).unwrap();
    assert_eq!(counted(&core), (0, 8));
    core.run(quota(QuotaCommand::Review)).unwrap();
    let told: Vec<_> = core.state.quotas().preemptions().map(|it| it.target.clone()).collect();
    assert_eq!(told, [Target::Hold(borrowed)], "what it needs is taken back");
    core.run(quota(QuotaCommand::Release { hold: borrowed })).unwrap();
    core.run(Command::Tick).unwrap();
    assert_eq!(counted(&core), (8, 0));
}

/// A limit that drains stops the newest until what is left is within it; another one lets all run on.
#[test]
fn q1_a_lowered_limit_drains_the_newest() {
    for drain in [true, false] {
        let mut core = Core::open(ms(BEGIN), Policy::default(), &[("acme", Currency::USD)]);
        for id in ["i-1", "i-2", "i-3"] {
            core.now += 1;
            core.run(Command::RegisterInstance(registration(id, "acme", 4))).unwrap();
        }
        core.run(limit("tenants/acme", Class::OnDemand, Limits { drain, ..nominal(7) })).unwrap();
        let reviewed = core.run(quota(QuotaCommand::Review));
        let told: Vec<_> =
            core.state.quotas().preemptions().map(|it| (it.target.clone(), it.cause)).collect();
        let instance = |id: &str| (Target::Instance(id.parse().unwrap()), Cause::Quota);
        if drain {
            assert_eq!(told, [instance("i-2"), instance("i-3")]);
        } else {
            assert!(reviewed.is_err() && told.is_empty());
        }
    }
}
