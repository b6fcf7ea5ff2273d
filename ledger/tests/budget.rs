//! Spend caps, by seed, in virtual time: whatever customers start, however late agents report and ticks
//! come, what is charged in the end is within every hard cap, as long as what is told to stop stops in its
//! notice.
//!
//! `HOURGLASS_SEEDS=200 cargo test -p hourglass-ledger budget` runs two hundred seeds, from
//! `HOURGLASS_FIRST_SEED` on.

use std::collections::BTreeMap;

use hourglass_ledger::core::quotas::{Ask, Cause, QuotaCommand, QuotaRejection, Target};
use hourglass_ledger::core::{Command, Detail, Mode, Policy, Registration, Rejection};
use hourglass_quota::cap::{BILLING_INTERVAL_MS, CapDraft, CapPeriod, Enforcement, NOTICE_MS_MIN};
use hourglass_quota::{Class, HoldId};
use hourglass_test_chance::{Chance, from_environment};
use hourglass_units::{Amount, Currency, Month, Price, ProjectId};

use super::support::{Core, HOUR, MINUTE, at, batch, ms, record, registration, start, stop};

const BEGIN: &str = "2026-01-31T06:00:00Z";
/// The month ends after 18 of them.
const HOURS: i64 = 30;
/// How late a report can be.
const LATE_MS_MAX: i64 = 8 * HOUR;
const PROJECTS: [&str; 2] = ["ml", "web"];

/// How everybody behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// What is told to stop has stopped by its deadline.
    Obey,
    /// It runs on.
    RunOn,
    /// Ticks come later than a cap accounts for.
    TickLate,
}

/// An instance, as it really is.
struct Machine {
    gpus: u32,
    /// When it really starts, or did.
    starts: i64,
    /// When it really stops, or did; the cell learns of it later.
    stops: Option<i64>,
    stop_seen: bool,
    start_seen: bool,
    reported_until: i64,
}

struct World {
    chance: Chance,
    core: Core,
    manners: Manners,
    machines: BTreeMap<String, Machine>,
    holds: Vec<(HoldId, &'static str, u32)>,
    /// Reports on their way: when they come.
    reports: Vec<(i64, String, u32, i64, i64)>,
    seq: u64,
    denied: u64,
    orders: u64,
}

fn amount(text: &str) -> Amount {
    Amount::parse(text).unwrap()
}

/// The seeds of a run: a few, or as many as the environment says.
fn seeds(few: u64) -> impl Iterator<Item = u64> {
    let first = from_environment("HOURGLASS_FIRST_SEED", 0);
    first..first + from_environment("HOURGLASS_SEEDS", few)
}

fn hard(period: CapPeriod, limit: Option<&str>) -> CapDraft {
    CapDraft {
        period,
        amount: limit.map(amount),
        enforcement: Enforcement::Hard,
        thresholds: vec!["50".parse().unwrap(), "90".parse().unwrap()],
        notice_ms: NOTICE_MS_MIN,
    }
}

/// The caps of a world: of which project, and how much.
type Caps = Vec<(Option<&'static str>, CapDraft)>;

impl World {
    fn new(seed: u64, manners: Manners, caps: &Caps, prepaid: Option<&str>) -> Self {
        let mut core = Core::open(ms(BEGIN), Policy::default(), &[("acme", Currency::USD)]);
        if let Some(prepaid) = prepaid {
            let credit =
                serde_json::json!({"credit": "top-up", "kind": "prepaid", "amount": prepaid, "note": ""});
            let credit = serde_json::from_value(credit).unwrap();
            core.run(Command::GrantCredit { tenant: "acme".parse().unwrap(), credit }).unwrap();
        }
        for (project, cap) in caps {
            let (project, period) = (project.map(|it| it.parse::<ProjectId>().unwrap()), cap.period);
            let (tenant, cap) = ("acme".parse().unwrap(), Some(cap.clone()));
            core.run(QuotaCommand::SetCap { tenant, project, period, cap }.into()).unwrap();
        }
        Self {
            chance: Chance(seed),
            core,
            manners,
            machines: BTreeMap::new(),
            holds: Vec::new(),
            reports: Vec::new(),
            seq: 0,
            denied: 0,
            orders: 0,
        }
    }

    fn run(&mut self) {
        let end = ms(BEGIN) + HOURS * HOUR;
        let mut next_tick = self.core.now;
        while self.core.now < end {
            let step = self.chance.within(1_000, 40_000);
            self.core.now += step;
            if self.core.now >= next_tick {
                self.core.run(Command::Tick).unwrap();
                self.review();
                // Mostly each minute; now and then the writer is away for a while.
                let late = match self.manners {
                    Manners::TickLate => 12 * BILLING_INTERVAL_MS,
                    _ if self.chance.one_in(20) => BILLING_INTERVAL_MS - 45_000,
                    _ => MINUTE,
                };
                next_tick = self.core.now + late;
            }
            if self.chance.one_in(6) {
                self.try_to_start();
            }
            self.live();
        }
    }

    /// Orders to stop are obeyed within their notice, the last moment included.
    fn review(&mut self) {
        match self.core.run(QuotaCommand::Review.into()) {
            Ok(_) | Err(Rejection::Quota(QuotaRejection::NothingDue)) => {}
            Err(error) => panic!("{error}"),
        }
        let orders: Vec<_> = self.core.state.quotas().preemptions().cloned().collect();
        for order in orders {
            assert_eq!(order.cause, Cause::Budget);
            self.orders += 1;
            let now = self.core.now;
            match order.target {
                Target::Instance(instance) if self.manners != Manners::RunOn => {
                    let deadline = order.deadline.unix_ms();
                    let stops = if self.chance.one_in(2) || deadline <= now {
                        deadline
                    } else {
                        self.chance.within(now, deadline)
                    };
                    let machine = self.machines.get_mut(instance.as_str()).unwrap();
                    machine.stops.get_or_insert(stops);
                }
                Target::Instance(_) => {}
                Target::Hold(hold) => {
                    self.core.run(QuotaCommand::Release { hold }.into()).unwrap();
                    self.holds.retain(|(id, ..)| *id != hold);
                }
            }
        }
    }

    fn try_to_start(&mut self) {
        let gpus = [1, 2, 8, 16][usize::try_from(self.chance.below(4)).unwrap()];
        let project = *self.chance.pick(&PROJECTS);
        let name = format!("i-{}", self.seq);
        self.seq += 1;
        let held = self.chance.one_in(3).then(|| self.holds.pop()).flatten();
        let (project, gpus) = held.map_or((project, gpus), |(_, project, gpus)| (project, gpus));
        if held.is_none() && self.chance.one_in(4) {
            let resource = "compute.instance.gpu.h100".parse().unwrap();
            let items = vec![Ask { resource, class: Class::OnDemand, amount: u64::from(gpus) }];
            let (tenant, of) = ("acme".parse().unwrap(), project.parse().unwrap());
            let ttl_ms = self.chance.within(30_000, 20 * MINUTE);
            match self.core.run(QuotaCommand::Reserve { tenant, project: of, items, ttl_ms }.into()) {
                Ok(answer) => {
                    let Detail::Hold { hold, .. } = answer.detail else { panic!("{answer:?}") };
                    self.holds.push((hold, project, gpus));
                }
                Err(Rejection::Quota(QuotaRejection::SpendDenied(_))) => self.denied += 1,
                Err(error) => panic!("{error}"),
            }
            return;
        }
        let limit = Some(Price::from_nanos(1_500_000_000).unwrap());
        let spot = held.is_none() && self.chance.one_in(3);
        let mode = if spot { Mode::Spot { bid: None, limit, fabric: None } } else { Mode::OnDemand };
        let hold = held.map(|(hold, ..)| hold);
        let it = Registration {
            project: project.parse().unwrap(),
            mode,
            hold,
            ..registration(&name, "acme", gpus)
        };
        match self.core.run(Command::RegisterInstance(it)) {
            Ok(_) => {
                // It boots for a while, and the cell hears of it later.
                let starts = self.core.now + self.chance.within(0, 2 * MINUTE);
                let machine = Machine {
                    gpus,
                    starts,
                    stops: None,
                    stop_seen: false,
                    start_seen: false,
                    reported_until: starts,
                };
                self.machines.insert(name, machine);
            }
            Err(Rejection::Quota(QuotaRejection::SpendDenied(_))) => self.denied += 1,
            Err(Rejection::Quota(QuotaRejection::Hold(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// What happens by itself: starts and stops are seen, agents report, customers lose interest.
    fn live(&mut self) {
        let now = self.core.now;
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for name in names {
            let machine = self.machines.get_mut(&name).unwrap();
            if machine.stop_seen {
                continue;
            }
            if machine.stops.is_none() && self.chance.one_in(3_000) {
                machine.stops = Some(now);
            }
            if machine.stops.is_some_and(|stops| stops <= machine.starts) {
                // It never came to run.
                machine.stops = Some(machine.starts);
            }
            if !machine.start_seen && machine.starts <= now && self.chance.one_in(3) {
                machine.start_seen = true;
                let command = start(&name, machine.starts);
                self.core.run(command).unwrap();
            }
            let machine = self.machines.get_mut(&name).unwrap();
            let until = machine.stops.unwrap_or(now).min(now);
            let is_last = machine.stops.is_some_and(|it| it <= now);
            let is_due = until - machine.reported_until >= 10 * MINUTE || is_last;
            if is_due && until > machine.reported_until {
                let late = if self.chance.one_in(3) { self.chance.within(0, LATE_MS_MAX) } else { 0 };
                let report = (now + late, name.clone(), machine.gpus, machine.reported_until, until);
                self.reports.push(report);
                machine.reported_until = until;
            }
            let stopped = machine.stops.filter(|stops| *stops <= now && machine.start_seen);
            if let Some(stops) = stopped.filter(|stops| *stops > machine.starts)
                && self.chance.one_in(4)
            {
                machine.stop_seen = true;
                self.core.run(stop(&name, stops)).unwrap();
            }
        }
        let due: Vec<_> = self.reports.extract_if(.., |(comes, ..)| *comes <= now).collect();
        self.deliver(due);
    }

    fn deliver(&mut self, reports: Vec<(i64, String, u32, i64, i64)>) {
        for (_, name, gpus, from, until) in reports {
            self.seq += 1;
            let usage = batch("agent-1", self.seq * 10, vec![record(&name, gpus, from, until)]);
            self.core.run(Command::AcceptUsage(usage)).unwrap();
        }
    }

    /// Everything comes to be known that ever will.
    fn settle(&mut self) {
        self.core.now += LATE_MS_MAX;
        let end = ms(BEGIN) + HOURS * HOUR;
        for (name, machine) in &mut self.machines {
            let until = machine.stops.unwrap_or(end).min(end);
            if !machine.start_seen && machine.starts <= end {
                self.core.run(start(name, machine.starts)).unwrap();
            }
            if machine.reported_until < until {
                self.reports.push((0, name.clone(), machine.gpus, machine.reported_until, until));
            }
        }
        let all = std::mem::take(&mut self.reports);
        self.deliver(all);
        self.core.run(Command::Tick).unwrap();
    }

    /// What the lines say was charged, by nothing that a cap looks at.
    fn charged(&self, project: Option<&str>, period: Option<&str>) -> Amount {
        let period: Option<Month> = period.map(|it| it.parse().unwrap());
        let lines = self.core.state.lines().map(Result::unwrap);
        let of = lines.filter(|line| project.is_none_or(|project| line.project().as_str() == project));
        let within =
            of.filter(|it| period.is_none_or(|month| Month::containing(it.line.hour.start()) == month));
        let amounts = within.map(|it| it.line.price.times(it.line.quantity));
        amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap())
    }
}

/// Whether what was charged is within a cap.
fn holds(world: &World, project: Option<&str>, cap: &CapDraft, prepaid: Option<&str>) -> bool {
    let limit = cap.amount.or(prepaid.map(amount)).unwrap();
    match cap.period {
        CapPeriod::Monthly => {
            ["2026-01", "2026-02"].iter().all(|month| world.charged(project, Some(month)) <= limit)
        }
        CapPeriod::Total | CapPeriod::Prepaid => world.charged(project, None) <= limit,
    }
}

fn monthly() -> Caps {
    vec![(None, hard(CapPeriod::Monthly, Some("900"))), (Some("ml"), hard(CapPeriod::Monthly, Some("300")))]
}

#[test]
fn q1_charges_stay_within_hard_caps_however_late_reports_come() {
    let worlds: [(Caps, Option<&str>); 3] = [
        (monthly(), None),
        (
            vec![
                (None, hard(CapPeriod::Total, Some("700"))),
                (Some("web"), hard(CapPeriod::Total, Some("250"))),
            ],
            None,
        ),
        (vec![(None, hard(CapPeriod::Prepaid, None))], Some("600")),
    ];
    let (mut denied, mut orders, mut used) = (0, 0, 0);
    for seed in seeds(2) {
        for (caps, prepaid) in &worlds {
            let mut world = World::new(seed, Manners::Obey, caps, *prepaid);
            world.run();
            world.settle();
            for (project, cap) in caps {
                let charged = world.charged(*project, None);
                assert!(
                    holds(&world, *project, cap, *prepaid),
                    "seed {seed}: {project:?} {cap:?}: {charged}"
                );
            }
            denied += world.denied;
            orders += world.orders;
            // Most of the money can be spent: a cap that never lets anything run would hold as well.
            used += i32::from(world.charged(None, None) > amount("300"));
        }
    }
    assert!(denied > 0 && orders > 0 && used > 1, "{denied} denied, {orders} orders, {used} well used");
}

#[test]
fn what_runs_on_although_it_was_told_to_stop_exceeds_the_cap() {
    let exceeds = |manners| {
        seeds(2).any(|seed| {
            let mut world = World::new(seed, manners, &monthly(), None);
            world.run();
            world.settle();
            !monthly().iter().all(|(project, cap)| holds(&world, *project, cap, None))
        })
    };
    assert!(exceeds(Manners::RunOn));
    assert!(exceeds(Manners::TickLate));
}

#[test]
fn a_new_month_lets_things_start_again_and_a_cap_says_what_is_missing() {
    let caps = vec![(None, hard(CapPeriod::Monthly, Some("10")))];
    let mut world = World::new(1, Manners::Obey, &caps, None);
    let core = &mut world.core;
    let register = |name, gpus| Command::RegisterInstance(registration(name, "acme", gpus));
    // 8 x 2.95 x 7 minutes is 2.7533; 8 GPUs fit three times into 10, and no fourth time.
    for name in ["i-0", "i-1", "i-2"] {
        core.run(register(name, 8)).unwrap();
    }
    let Err(Rejection::Quota(QuotaRejection::SpendDenied(denied))) = core.run(register("i-3", 8)) else {
        panic!("it fits");
    };
    assert_eq!((denied.denial.limit, denied.denial.spent), (amount("10"), Amount::ZERO));
    assert!(denied.denial.asked >= amount("2.7533"), "{denied:?}");
    // One GPU still does.
    core.run(register("i-4", 1)).unwrap();
    for name in ["i-0", "i-1", "i-2", "i-4"] {
        let began = core.now;
        core.run(start(name, began)).unwrap();
    }
    // After three minutes and seven more all of them would have cost 12.29.
    core.now += 3 * MINUTE;
    core.run(Command::Tick).unwrap();
    core.run(QuotaCommand::Review.into()).unwrap();
    let ordered: Vec<_> = core.state.quotas().preemptions().map(|it| it.target.clone()).collect();
    assert!(!ordered.is_empty() && ordered.len() < 4, "{ordered:?}");
    for target in ordered {
        let Target::Instance(instance) = target else { panic!("{target:?}") };
        core.run(stop(instance.as_str(), core.now)).unwrap();
    }
    assert_eq!(core.state.quotas().preemptions().count(), 0);
    for name in ["i-0", "i-1", "i-2", "i-4"] {
        let _stopped_before = core.run(stop(name, core.now));
    }
    core.now = ms("2026-02-01T00:00:30Z");
    core.run(Command::Tick).unwrap();
    core.run(register("i-5", 8)).unwrap();
    // Nothing that ran in January can have cost more than the cap.
    let cap = world.core.state.quotas().caps_of(&"acme".parse().unwrap()).next().unwrap().2.clone();
    assert_eq!(cap.figures.at, at(ms("2026-02-01T00:00:30Z")));
    assert_eq!((cap.figures.spent, cap.crossed), (Amount::ZERO, 0));
}

#[test]
fn spot_without_a_limit_has_no_place_under_a_hard_cap() {
    let caps = vec![(None, hard(CapPeriod::Monthly, Some("1000")))];
    let mut world = World::new(1, Manners::Obey, &caps, None);
    let spot = |limit| Registration {
        mode: Mode::Spot { bid: None, limit, fabric: None },
        ..registration("i-1", "acme", 1)
    };
    let refused = world.core.run(Command::RegisterInstance(spot(None)));
    assert!(matches!(refused, Err(Rejection::Quota(QuotaRejection::CostUnbounded { .. }))), "{refused:?}");
    world.core.run(Command::RegisterInstance(spot(Price::from_nanos(2_000_000_000).ok()))).unwrap();
}

#[test]
fn a_soft_cap_warns_and_lets_run() {
    let soft = CapDraft { enforcement: Enforcement::Soft, ..hard(CapPeriod::Monthly, Some("10")) };
    let mut world = World::new(1, Manners::Obey, &vec![(None, soft)], None);
    let core = &mut world.core;
    core.run(Command::RegisterInstance(registration("i-1", "acme", 8))).unwrap();
    let began = core.now;
    core.run(start("i-1", began)).unwrap();
    core.now += HOUR;
    core.run(super::support::usage("i-1", 8, began, began + HOUR)).unwrap();
    core.run(Command::Tick).unwrap();
    core.run(QuotaCommand::Review.into()).unwrap();
    let cap = core.state.quotas().caps_of(&"acme".parse().unwrap()).next().unwrap().2;
    assert_eq!((cap.crossed, cap.exhausted, cap.figures.spent), (2, false, amount("23.6")));
    assert_eq!(core.state.quotas().preemptions().count(), 0);
    assert_eq!(core.run(QuotaCommand::Review.into()), Err(QuotaRejection::NothingDue.into()));
}
