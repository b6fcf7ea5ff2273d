//! What spot has: what reservations and on-demand leave, what owners lend, and what works.

use std::collections::BTreeMap;

use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_capacity::calendar::{Allowance, ReservationName};
use hourglass_capacity::nodes::{Node, NodeState};
use hourglass_capacity::series::{Usage, usage as usage_of};
use hourglass_capacity::supply::{Claim, Offer};
use hourglass_ledger::core::market::{CapacitySource, MarketCommand, PoolTerms, SupplyCommand, Trigger};
use hourglass_ledger::core::quotas::{Cause, Target};
use hourglass_ledger::core::{Account, Command, CreditKind, Detail, Mode, Policy, Registration};
use hourglass_pricing::reservation::{Payment, ReservationDraft};
use hourglass_test_chance::{Chance, for_each_seed};
use hourglass_units::{Amount, Currency, Interval, Percent, Quantity};

use super::cell::BEGIN;
use super::market::{bid, market, place, price, set_pool};
use super::quotas::verify_core;
use super::support::{Core, DAY, HOUR, MINUTE, at, ms, registration, start, stop, usage};

const POOL: &str = "eu/h100/fabric-1";

fn percent(text: &str) -> Percent {
    text.parse().unwrap()
}

/// Owners get 40 % of what spot pays, and the reserve price is 0.50 however full the pool is.
fn terms(gpus: u64) -> PoolTerms {
    let points = vec![Point { utilisation: Percent::ZERO, price: price("0.5") }];
    let reserve = ReservePolicy::new(ReserveDraft { shape: Shape::Steps, points }).unwrap();
    PoolTerms { owner_share: percent("40"), ..PoolTerms::new(Currency::USD, gpus, reserve) }
}

fn open(gpus: u64) -> Core {
    let tenants = [("acme", Currency::USD), ("bolt", Currency::USD), ("euro", Currency::EUR)];
    let mut core = Core::open(ms(BEGIN), Policy::default(), &tenants);
    core.run(set_pool(POOL, terms(gpus))).unwrap();
    core
}

fn supply(command: SupplyCommand) -> Command {
    market(MarketCommand::Supply(command))
}

fn reserve(tenant: &str, id: &str, gpus: u32, from: i64, until: i64) -> Command {
    Command::Reserve {
        tenant: tenant.parse().unwrap(),
        reservation: ReservationDraft {
            reservation: id.parse().unwrap(),
            project: "ml".parse().unwrap(),
            platform: "h100".parse().unwrap(),
            gpus,
            from: at(from),
            until: at(until),
            payment: Payment::Monthly { price: price("2") },
            fabric: Some("fabric-1".parse().unwrap()),
        },
    }
}

fn on_demand(instance: &str, gpus: u32) -> Command {
    let fabric = Some("fabric-1".parse().unwrap());
    Command::RegisterInstance(Registration { fabric, ..registration(instance, "bolt", gpus) })
}

fn inside(instance: &str, tenant: &str, reservation: &str, gpus: u32) -> Registration {
    let mode = Mode::Reserved { reservation: reservation.parse().unwrap() };
    Registration { mode, ..registration(instance, tenant, gpus) }
}

fn node(name: &str, to: Option<Node>) -> Command {
    supply(SupplyCommand::SetNode { pool: POOL.parse().unwrap(), node: name.parse().unwrap(), to })
}

fn clear() -> Command {
    market(MarketCommand::Clear { trigger: Trigger::Supply })
}

fn clear_if_due(core: &mut Core) -> bool {
    core.state.market().is_due(at(core.now)) && core.run(clear()).is_ok()
}

fn for_spot(core: &Core) -> u64 {
    core.state.market().pool(&POOL.parse().unwrap()).unwrap().supply(at(core.now))
}

fn waits(core: &Core, instance: &str) -> bool {
    core.state.market().waits(&core.state, &instance.parse().unwrap())
}

/// Why units have to stop.
fn reasons(core: &Core) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for order in core.state.quotas().preemptions() {
        let of_nodes = order.reason.starts_with("a node");
        assert_eq!(order.cause, if of_nodes { Cause::Maintenance } else { Cause::SupplyReclaimed });
        *reasons.entry(order.reason.clone()).or_default() += 1;
    }
    reasons
}

/// Instances that are told to stop, and when they must have.
fn told_to_stop(core: &Core) -> BTreeMap<String, i64> {
    let orders = core.state.quotas().preemptions();
    let of = orders.filter_map(|it| match &it.target {
        Target::Instance(instance) => Some((instance.to_string(), it.deadline.unix_ms())),
        Target::Hold(_) => None,
    });
    of.collect()
}

/// Stops whatever has been told to.
fn stop_all(core: &mut Core) {
    for id in told_to_stop(core).into_keys() {
        core.run(stop(&id, core.now)).unwrap();
    }
}

fn refused(core: &mut Core, command: Command) -> &'static str {
    core.run(command).unwrap_err().code()
}

/// A pool of which one bid has everything, running.
fn full_of_spot(gpus: u32) -> (Core, u64) {
    let mut core = open(u64::from(gpus));
    let Detail::Bid { number } = core.run(place("acme", bid("b", (1, gpus), "1.20"))).unwrap().detail else {
        panic!()
    };
    core.run(clear()).unwrap();
    for unit in 0..gpus {
        core.run(start(&format!("spot-{number}-{unit}"), core.now)).unwrap();
    }
    (core, number)
}

/// C-1: at no instant is more promised than there is, and who is refused learns what would fit.
#[test]
fn c1_nothing_is_promised_that_is_not_there() {
    let mut core = open(8);
    let hour = |n: i64| ms(BEGIN) + n * HOUR;
    core.run(reserve("acme", "r-1", 6, hour(2), hour(6))).unwrap();
    // Intervals that overlap sum up.
    let error = core.run(reserve("bolt", "r-2", 3, hour(5), hour(8))).unwrap_err();
    assert_eq!(error.code(), "over_promise");
    let text = error.to_string();
    assert!(text.contains("2 would fit") && text.contains("2026-01-01T06:00:00"), "{text}");
    core.run(reserve("bolt", "r-2", 2, hour(5), hour(8))).unwrap();
    core.run(reserve("bolt", "r-3", 8, hour(8), hour(9))).unwrap();
    // A longer one has to fit too; a shorter one always does.
    let amend = |hours| Command::AmendReservation {
        tenant: "bolt".parse().unwrap(),
        reservation: "r-2".parse().unwrap(),
        until: at(hour(hours)),
    };
    assert_eq!(refused(&mut core, amend(9)), "over_promise");
    core.run(amend(6)).unwrap();
    core.run(reserve("bolt", "r-4", 8, hour(6), hour(8))).unwrap();
    // One may begin with the hour that runs, in a pool that is younger than that.
    core.now += 30 * MINUTE;
    core.run(set_pool("eu/h100/fabric-2", terms(1))).unwrap();
    let Command::Reserve { tenant, reservation } = reserve("acme", "r-5", 1, hour(0), hour(1)) else {
        panic!()
    };
    let fabric = Some("fabric-2".parse().unwrap());
    let of_now = Command::Reserve { tenant, reservation: ReservationDraft { fabric, ..reservation } };
    core.run(of_now).unwrap();
    // An on-demand instance has no end: it would be in the way of them.
    assert_eq!(refused(&mut core, on_demand("i-1", 1)), "pool_full");
    let elsewhere =
        Registration { fabric: Some("fabric-9".parse().unwrap()), ..registration("i-1", "bolt", 1) };
    assert_eq!(refused(&mut core, Command::RegisterInstance(elsewhere)), "pool_unknown");
    let spot = Registration {
        mode: Mode::SPOT,
        fabric: Some("fabric-1".parse().unwrap()),
        ..registration("i-1", "bolt", 1)
    };
    assert_eq!(refused(&mut core, Command::RegisterInstance(spot)), "fabric_of_spot");
    // And what runs on demand is in the way of what is reserved later.
    let mut core = open(8);
    core.run(on_demand("i-1", 3)).unwrap();
    assert_eq!(refused(&mut core, reserve("acme", "r-1", 6, hour(500), hour(501))), "over_promise");
    core.run(reserve("acme", "r-1", 5, hour(500), hour(501))).unwrap();
    // Unless the pool does not look so far ahead.
    let terms = PoolTerms { look_ahead_ms: Some(DAY), ..terms(8) };
    core.run(set_pool(POOL, terms)).unwrap();
    core.run(reserve("acme", "r-2", 3, hour(500), hour(501))).unwrap();
    assert_eq!(verify_core(&core).findings, []);
}

/// Spot makes way before a reservation starts, so early that its notice and its stop are over: the owner
/// never waits.
#[test]
fn a_reservation_finds_its_gpus_free() {
    let (mut core, _) = full_of_spot(8);
    let begins = ms(BEGIN) + 2 * HOUR;
    core.run(reserve("bolt", "r-1", 6, begins, begins + HOUR)).unwrap();
    assert!(clear_if_due(&mut core) || reasons(&core).is_empty(), "it is far ahead");
    // A minute of notice, and two to drain.
    let drains = begins - 3 * MINUTE;
    core.now = drains - 1_000;
    assert!(!core.state.market().is_due(at(core.now)));
    core.now = drains;
    assert!(core.state.market().is_due(at(core.now)));
    core.run(clear()).unwrap();
    assert_eq!(reasons(&core), [("its GPUs are reserved".to_owned(), 6)].into());
    assert!(core.state.quotas().preemptions().all(|it| it.deadline.unix_ms() + 2 * MINUTE <= begins));
    stop_all(&mut core);
    core.now = begins;
    let answer = core.run(Command::RegisterInstance(inside("own", "bolt", "r-1", 6))).unwrap();
    assert_eq!(answer.detail, Detail::Instance { waits: false });
    assert_eq!(for_spot(&core), 2);
    // It is over: its GPUs are spot's again, but for what its owner still runs, on demand by now.
    core.run(start("own", core.now)).unwrap();
    core.now = begins + HOUR;
    core.run(Command::Tick).unwrap();
    assert_eq!(for_spot(&core), 2);
    core.run(stop("own", core.now)).unwrap();
    assert!(clear_if_due(&mut core));
    assert_eq!(for_spot(&core), 8);
    assert_eq!(verify_core(&core).findings, []);
}

/// On-demand comes before spot: it is accepted, and waits until spot has made way.
#[test]
fn on_demand_waits_until_spot_has_made_way() {
    let (mut core, _) = full_of_spot(8);
    let answer = core.run(on_demand("i-1", 3)).unwrap();
    assert_eq!(answer.detail, Detail::Instance { waits: true });
    assert!(waits(&core, "i-1"));
    core.run(on_demand("i-2", 1)).unwrap();
    let error = core.run(on_demand("i-3", 5)).unwrap_err().to_string();
    assert!(error.contains("has room for 4 GPUs on demand, not for 5"), "{error}");
    assert!(clear_if_due(&mut core));
    assert_eq!(reasons(&core), [("on-demand was admitted".to_owned(), 4)].into());
    assert!(!clear_if_due(&mut core), "nothing more is to stop");
    // Who asked first has its GPUs first.
    let mut ids: Vec<String> = told_to_stop(&core).into_keys().collect();
    let mut stop_one = |core: &mut Core| {
        let id = ids.pop().unwrap();
        core.run(stop(&id, core.now)).unwrap();
    };
    stop_one(&mut core);
    assert!(waits(&core, "i-1") && waits(&core, "i-2"), "one GPU is not enough for the first");
    stop_one(&mut core);
    stop_one(&mut core);
    assert!(!waits(&core, "i-1") && waits(&core, "i-2"));
    stop_one(&mut core);
    assert!(!waits(&core, "i-2"));
    // Nobody took them meanwhile.
    assert!(!clear_if_due(&mut core));
    assert_eq!(for_spot(&core), 4);
    core.run(start("i-1", core.now)).unwrap();
    core.now += HOUR;
    core.run(stop("i-1", core.now)).unwrap();
    assert_eq!(for_spot(&core), 7);
    // It starts again without asking: it runs, and is counted.
    core.run(start("i-1", core.now)).unwrap();
    assert_eq!(for_spot(&core), 4);
    assert_eq!(verify_core(&core).findings, []);
}

/// What does not work is not sold.
#[test]
fn nodes_that_are_out_are_no_supply() {
    let (mut core, _) = full_of_spot(8);
    let healthy = Node { gpus: 4, state: NodeState::Healthy };
    core.run(node("n-1", Some(healthy))).unwrap();
    core.run(node("n-2", Some(healthy))).unwrap();
    assert_eq!(refused(&mut core, node("n-3", Some(healthy))), "nodes_exceed_pool");
    assert_eq!(refused(&mut core, node("n-3", Some(Node { gpus: 0, ..healthy }))), "node_invalid");
    assert_eq!(refused(&mut core, node("n-3", None)), "node_invalid");
    assert_eq!(for_spot(&core), 8);
    core.run(node("n-2", Some(Node { state: NodeState::Failed, ..healthy }))).unwrap();
    assert!(clear_if_due(&mut core));
    assert_eq!(reasons(&core), [("a node of the pool does not work, or is serviced".to_owned(), 4)].into());
    stop_all(&mut core);
    core.now += HOUR;
    core.run(node("n-2", Some(healthy))).unwrap();
    assert!(clear_if_due(&mut core));
    assert_eq!(for_spot(&core), 8);
    // Maintenance is known ahead: spot is gone when it begins.
    let window = Interval::new(at(core.now + 2 * HOUR), at(core.now + 3 * HOUR)).unwrap();
    core.run(node("n-1", Some(Node { state: NodeState::Maintenance(window), ..healthy }))).unwrap();
    assert_eq!(for_spot(&core), 8);
    let ago = Interval::new(at(core.now - HOUR), at(core.now)).unwrap();
    let over = Node { state: NodeState::Maintenance(ago), ..healthy };
    assert_eq!(refused(&mut core, node("n-2", Some(over))), "maintenance_over");
    core.now += 2 * HOUR - 3 * MINUTE;
    assert!(clear_if_due(&mut core));
    assert_eq!(for_spot(&core), 4);
    stop_all(&mut core);
    core.now += HOUR + 3 * MINUTE;
    assert!(clear_if_due(&mut core), "it is back by itself");
    assert_eq!(for_spot(&core), 8);
    // C-2: an hour of four GPUs was out, and one of maintenance.
    let since = Interval::new(at(ms(BEGIN)), at(core.now)).unwrap();
    let split = core.state.account_of_pool(&POOL.parse().unwrap(), since).unwrap().unwrap();
    assert_eq!(split.excluded, 2 * 4 * u64::try_from(HOUR).unwrap());
    assert_eq!(verify_core(&core).findings, []);
}

/// An owner lends what is idle, has it back with the notice, and is paid its share of what spot paid.
#[test]
fn an_owner_is_paid_for_what_it_lends() {
    let mut core = open(4);
    let begin = ms(BEGIN);
    core.run(reserve("bolt", "r-1", 4, begin, begin + 100 * HOUR)).unwrap();
    assert_eq!(for_spot(&core), 0);
    let lend = |offer| {
        let (tenant, reservation) = ("bolt".parse().unwrap(), "r-1".parse().unwrap());
        supply(SupplyCommand::Lend { tenant, reservation, offer })
    };
    let claim = |gpus, from, until| {
        let claim = Claim { gpus, interval: Interval::new(at(from), at(until)).unwrap() };
        let (tenant, reservation) = ("bolt".parse().unwrap(), "r-1".parse().unwrap());
        supply(SupplyCommand::Claim { tenant, reservation, claim })
    };
    assert_eq!(refused(&mut core, claim(1, begin, begin + HOUR)), "not_lent");
    assert_eq!(refused(&mut core, lend(None)), "not_lent");
    core.run(lend(Some(Offer::AtMost(3)))).unwrap();
    assert_eq!(for_spot(&core), 3);
    core.run(lend(Some(Offer::Automatic))).unwrap();
    assert_eq!(for_spot(&core), 4);
    let number = match core.run(place("acme", bid("b", (1, 4), "1.20"))).unwrap().detail {
        Detail::Bid { number } => number,
        other => panic!("{other:?}"),
    };
    core.run(clear()).unwrap();
    for unit in 0..4 {
        core.run(start(&format!("spot-{number}-{unit}"), core.now)).unwrap();
    }
    // Its owner says when it needs them, and does not wait then.
    core.now += HOUR;
    let needed = core.now + HOUR;
    core.run(claim(2, needed, needed + 4 * HOUR)).unwrap();
    assert_eq!(for_spot(&core), 4);
    core.now = needed - 3 * MINUTE;
    assert!(clear_if_due(&mut core));
    assert_eq!(reasons(&core), [("the owner of its GPUs needs them".to_owned(), 2)].into());
    stop_all(&mut core);
    core.now = needed;
    let answer = core.run(Command::RegisterInstance(inside("own", "bolt", "r-1", 2))).unwrap();
    assert_eq!(answer.detail, Detail::Instance { waits: false });
    // Without a word it waits until spot has had its notice.
    let answer = core.run(Command::RegisterInstance(inside("more", "bolt", "r-1", 1))).unwrap();
    assert_eq!(answer.detail, Detail::Instance { waits: true });
    assert!(clear_if_due(&mut core));
    stop_all(&mut core);
    assert!(!waits(&core, "more"));
    core.run(lend(None)).unwrap();
    assert!(clear_if_due(&mut core));
    stop_all(&mut core);
    assert_eq!(for_spot(&core), 0);

    // What was billed is looked at when the day and the grace are over, however late it was reported.
    let stopped = core.now;
    core.now += DAY;
    for unit in 0..4 {
        core.run(usage(&format!("spot-{number}-{unit}"), 1, begin, stopped)).unwrap();
    }
    core.run(Command::Tick).unwrap();
    let bolt = "bolt".parse().unwrap();
    let earned = |core: &Core| -> Vec<(String, Amount)> {
        let grants = &core.state.tenant(&bolt).unwrap().credits;
        let yields = grants.iter().filter(|it| it.kind == CreditKind::Yield);
        yields.map(|it| (it.credit.to_string(), it.amount)).collect()
    };
    assert_eq!(earned(&core), []);
    core.now = begin + 2 * DAY + Policy::default().grace_ms;
    core.run(Command::Tick).unwrap();
    // All of it ran on lent GPUs: four at the reserve price, and then two at the price of those who had to go.
    let drained = needed - 3 * MINUTE;
    let paid_at = |of: &str, gpus: i64, from: i64, until: i64| {
        price(of).times(Quantity::of_gpu_milliseconds(i128::from(gpus * (until - from))).unwrap())
    };
    let paid = [paid_at("0.5", 4, begin, drained), paid_at("1.2", 2, drained, needed)];
    let paid = paid[0].checked_add(paid[1]).unwrap();
    let share = percent("40").of_amount(paid).unwrap();
    let [(credit, amount)] = &earned(&core)[..] else { panic!("{:?}", earned(&core)) };
    assert!(credit.starts_with("yield-20260101-"), "{credit}");
    assert_eq!(*amount, share);
    assert_eq!(core.state.book().balance(&Account::OwnerYield, Currency::USD), *amount);
    // Once.
    core.now += DAY;
    core.run(Command::Tick).unwrap();
    assert_eq!(earned(&core).len(), 1);
    assert_eq!(verify_core(&core).findings, []);
}

/// A part of a reservation can be one project's.
#[test]
fn projects_have_their_parts_of_a_reservation() {
    let mut core = open(8);
    let begin = ms(BEGIN);
    core.run(reserve("bolt", "r-1", 8, begin, begin + 10 * HOUR)).unwrap();
    let whole = Interval::new(at(begin), at(begin + 10 * HOUR)).unwrap();
    let assign = |gpus| {
        let allowances = vec![Allowance { project: "web".parse().unwrap(), gpus, interval: whole }];
        let (tenant, reservation) = ("bolt".parse().unwrap(), "r-1".parse().unwrap());
        supply(SupplyCommand::Assign { tenant, reservation, allowances })
    };
    assert_eq!(refused(&mut core, assign(9)), "allowances_invalid");
    core.run(assign(5)).unwrap();
    let of = |instance: &str, project: &str, gpus| {
        let it = inside(instance, "bolt", "r-1", gpus);
        Command::RegisterInstance(Registration { project: project.parse().unwrap(), ..it })
    };
    let error = core.run(of("i-1", "ml", 4)).unwrap_err();
    assert_eq!(error.code(), "allowance_used");
    assert!(error.to_string().contains("may use 3 GPUs more"), "{error}");
    core.run(of("i-1", "ml", 2)).unwrap();
    core.run(of("i-2", "web", 6)).unwrap();
    assert_eq!(refused(&mut core, of("i-3", "web", 1)), "pool_full", "the reservation is full");
    assert_eq!(verify_core(&core).findings, []);
}

/// What is sold differently is counted differently, at once.
#[test]
fn a_seat_follows_how_an_instance_is_sold() {
    let mut core = open(8);
    let (begin, end) = (ms(BEGIN), ms(BEGIN) + 10 * HOUR);
    core.run(set_pool("eu/h100/fabric-2", terms(8))).unwrap();
    core.run(reserve("bolt", "r-1", 2, begin, end)).unwrap();
    core.run(reserve("bolt", "r-2", 3, begin, end)).unwrap();
    let Command::Reserve { tenant, reservation } = reserve("bolt", "r-3", 1, begin, end) else { panic!() };
    let fabric = Some("fabric-2".parse().unwrap());
    core.run(Command::Reserve { tenant, reservation: ReservationDraft { fabric, ..reservation } }).unwrap();
    core.run(Command::RegisterInstance(inside("i-1", "bolt", "r-1", 2))).unwrap();
    core.run(start("i-1", core.now)).unwrap();
    let used = |core: &Core| {
        let stock = core.state.market().pool(&POOL.parse().unwrap()).unwrap().stock();
        let of = |id: &str| {
            let (tenant, reservation) = ("bolt".parse().unwrap(), id.parse().unwrap());
            stock.used_of(&ReservationName { tenant, reservation })
        };
        (of("r-1"), of("r-2"), stock.on_demand(), for_spot(core))
    };
    assert_eq!(used(&core), (2, 0, 0, 3));
    let sold = |core: &mut Core, mode| {
        core.now += MINUTE;
        core.run(Command::ChangeMode { instance: "i-1".parse().unwrap(), mode, at: at(core.now) }).map(drop)
    };
    let out_of = |id: &str| Mode::Reserved { reservation: id.parse().unwrap() };
    sold(&mut core, out_of("r-2")).unwrap();
    assert_eq!(used(&core), (0, 2, 0, 3), "one reservation or the other");
    sold(&mut core, Mode::OnDemand).unwrap();
    assert_eq!(used(&core), (0, 0, 2, 1));
    assert_eq!(sold(&mut core, out_of("r-3")).unwrap_err().code(), "fabric_differs");
    sold(&mut core, out_of("r-1")).unwrap();
    core.run(on_demand("i-2", 2)).unwrap();
    assert_eq!(sold(&mut core, Mode::OnDemand).unwrap_err().code(), "pool_full", "others were promised it");
    sold(&mut core, Mode::SPOT).unwrap();
    assert_eq!(used(&core), (0, 0, 2, 1), "only the other one is left");
    assert_eq!(verify_core(&core).findings, []);
}

/// The whole of it by chance: reservations, on-demand, spot, loans and nodes, with a compute service that
/// stops what it is told to within its time. Owners who lend nothing never wait, nothing is promised or
/// started that is not there, and every GPU-second is accounted once (C-2).
#[test]
fn c2_every_gpu_second_is_accounted_once() {
    for_each_seed("HOURGLASS_SUPPLY_SEED", 12, |seed| World::new(seed).run(400));
}

/// GPUs of instances that run.
fn running(core: &Core, which: impl Fn(&str) -> bool) -> u64 {
    let all = core.state.instances().filter(|it| it.running_since().is_some() && which(it.id().as_str()));
    all.map(|it| u64::from(it.gpus())).sum()
}

struct World {
    core: Core,
    chance: Chance,
    /// Instances that are not spot, with the reservation that they were started in.
    others: BTreeMap<String, Option<String>>,
    made: u32,
    reserved: Vec<(String, i64, i64, u32)>,
    lent: Vec<String>,
    /// Whether owners lend, in this world.
    lends: bool,
    /// Whether a node is out.
    out: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut core = open(24);
        for name in ["n-1", "n-2", "n-3"] {
            core.run(node(name, Some(Node { gpus: 8, state: NodeState::Healthy }))).unwrap();
        }
        let (others, reserved, lent) = (BTreeMap::new(), Vec::new(), Vec::new());
        let lends = seed.is_multiple_of(3);
        Self { core, chance: Chance(seed), others, made: 0, reserved, lent, lends, out: false }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.act();
            self.market();
            self.service();
            self.check();
            // With what it takes to clear and to stop, less than the time to drain.
            self.core.now += i64::from(self.chance.among(1, 50)) * 1_000;
        }
        let since = Interval::new(at(ms(BEGIN)), at(self.core.now)).unwrap();
        let split = self.core.state.account_of_pool(&POOL.parse().unwrap(), since).unwrap().unwrap();
        let parts = [split.reserved, split.on_demand, split.spot, split.excluded];
        let owned = 24 * u64::try_from(since.milliseconds()).unwrap();
        assert_eq!(parts.iter().sum::<u64>() + split.idle, owned);
        assert!(split.spot > 0 && split.idle < owned, "{split:?}");
        // C-2 in every step, and all steps are the account.
        let mut spans = Vec::new();
        self.core.state.spans_of_pool(&POOL.parse().unwrap(), since, &mut spans).unwrap().unwrap();
        let mut sum = Usage::default();
        for (_, step) in usage_of(&spans, since, 7 * MINUTE) {
            assert!(step.is_whole(), "{step:?}");
            sum = sum.plus(&step);
        }
        // A node that fails takes its GPUs at once, and what runs there stops a little later: the account sets that
        // off against what is idle elsewhere, the steps show it.
        let idle = sum.free + sum.reserved_idle - sum.over;
        let found = [sum.reserved_used, sum.on_demand, sum.spot + sum.lent, sum.down, sum.owned, idle];
        let account =
            [split.reserved, split.on_demand, split.spot, split.excluded, owned, split.idle].map(u128::from);
        assert_eq!(found, account);
        assert_eq!(verify_core(&self.core).findings, []);
    }

    fn name(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}-{}", self.made)
    }

    fn act(&mut self) {
        let hour = self.core.now - self.core.now.rem_euclid(HOUR);
        match self.chance.among(0, 11) {
            0 => {
                let (gpus, id) = (self.chance.among(1, 12), self.name("r"));
                let from = hour + i64::from(self.chance.among(1, 3)) * HOUR;
                let until = from + i64::from(self.chance.among(1, 3)) * HOUR;
                if self.core.run(reserve("bolt", &id, gpus, from, until)).is_ok() {
                    self.reserved.push((id, from, until, gpus));
                }
            }
            1 => {
                let (gpus, id) = (self.chance.among(1, 6), self.name("od"));
                if self.core.run(on_demand(&id, gpus)).is_ok() {
                    self.others.insert(id, None);
                }
            }
            2 => {
                let now = self.core.now;
                let open = self.reserved.iter().filter(|it| (it.1..it.2 - 10 * MINUTE).contains(&now));
                let open: Vec<_> = open.cloned().collect();
                if let Some((reservation, ..)) = (!open.is_empty()).then(|| self.chance.pick(&open).clone()) {
                    let (gpus, id) = (self.chance.among(1, 4), self.name("own"));
                    let it = Command::RegisterInstance(inside(&id, "bolt", &reservation, gpus));
                    if let Ok(answer) = self.core.run(it) {
                        // Who stays when its reservation is over sits on what is promised to the next.
                        let overstays =
                            |(id, of): (&String, &Option<String>)| of.is_some() && !self.is_inside(id);
                        let excused = self.out
                            || self.reserved.iter().any(|it| self.lent.contains(&it.0))
                            || self.others.iter().any(overstays);
                        assert!(
                            excused
                                || !self.is_inside(&id)
                                || answer.detail == Detail::Instance { waits: false },
                            "an owner waits though nobody lends anything: {id} in {reservation}"
                        );
                        self.others.insert(id, Some(reservation));
                    }
                }
            }
            3 | 4 => {
                let ids: Vec<String> = self.others.keys().cloned().collect();
                if !ids.is_empty() {
                    let id = self.chance.pick(&ids).clone();
                    let _stopped = self.core.run(stop(&id, self.core.now));
                    self.others.remove(&id);
                }
            }
            5 => {
                let (units, limit) = (self.chance.among(1, 8), self.chance.among(60, 200));
                let id = self.name("b");
                let limit = format!("{}.{:02}", limit / 100, limit % 100);
                let min = self.chance.among(1, units);
                let _placed = self.core.run(place("acme", bid(&id, (min, units), &limit)));
            }
            6 if self.made.is_multiple_of(5) => {
                let to = if self.out { NodeState::Healthy } else { NodeState::Failed };
                // Only while nobody but spot can be in its way: what fails under an instance is another matter.
                self.core.run(node("n-3", Some(Node { gpus: 8, state: to }))).unwrap();
                self.out = !self.out;
            }
            7 if !self.reserved.is_empty() && self.lends => {
                let (id, _, until, _) = self.chance.pick(&self.reserved).clone();
                if until > self.core.now {
                    let offer = Some(Offer::Automatic);
                    let (tenant, reservation) = ("bolt".parse().unwrap(), id.parse().unwrap());
                    self.core.run(supply(SupplyCommand::Lend { tenant, reservation, offer })).unwrap();
                    self.lent.push(id);
                }
            }
            8 => drop(self.core.run(Command::Tick)),
            _ => {}
        }
    }

    fn is_inside(&self, id: &str) -> bool {
        self.core.state.market().is_inside_reservation(&self.core.state, &id.parse().unwrap())
    }

    fn market(&mut self) {
        if self.core.state.market().is_due(at(self.core.now)) || self.chance.one_in(3) {
            let _cleared = self.core.run(clear());
        }
    }

    /// The compute service: it starts what it is told to, and stops what has had its notice.
    fn service(&mut self) {
        let core = &mut self.core;
        for (id, deadline) in told_to_stop(core) {
            // Within its notice or just after it, and always before its time to drain is over.
            if core.now >= deadline || self.chance.one_in(6) {
                core.run(stop(&id, core.now)).unwrap();
            }
        }
        let orders = told_to_stop(core);
        let mut starts = Vec::new();
        for it in core.state.instances() {
            let id = it.id().to_string();
            let spot = id.starts_with("spot-") && core.state.market().bid_of(&core.state, it.id()).is_some();
            let waits = core.state.market().waits(&core.state, it.id());
            if (spot || self.others.contains_key(&id))
                && !waits
                && it.running_since().is_none()
                && !orders.contains_key(&id)
            {
                starts.push(id);
            }
        }
        // Who was told that its GPUs are there has them before spot.
        starts.sort_by_key(|id| id.starts_with("spot-"));
        // Spot that is to start waits for spot that drains: all that runs of it is no more than is for spot.
        for id in starts {
            let gpus = u64::from(core.state.instance(&id).unwrap().gpus());
            let spot = |id: &str| id.starts_with("spot-");
            if !spot(&id) || running(core, spot) + gpus <= for_spot(core) {
                core.run(start(&id, core.now)).unwrap();
            }
        }
    }

    fn check(&self) {
        let core = &self.core;
        let runs = running(core, |_| true);
        assert!(runs <= 24, "{runs} GPUs run of 24");
        assert_eq!(core.state.market().miscounted(), Vec::<&_>::new());
    }
}

/// Who is suspended starts nothing, and what it runs is told to stop with that for its cause.
#[test]
fn a7_the_suspended_stop_and_start_nothing() {
    let (mut core, number) = full_of_spot(4);
    core.run(Command::RegisterInstance(registration("od-1", "acme", 1))).unwrap();
    core.run(start("od-1", core.now)).unwrap();
    let acme = || "acme".parse().unwrap();
    let suspend = || market(MarketCommand::Suspend { tenant: acme(), reason: "unpaid".to_owned() });
    assert_eq!(refused(&mut core, market(MarketCommand::Resume { tenant: acme() })), "not_suspended");
    core.run(suspend()).unwrap();
    assert_eq!(refused(&mut core, suspend()), "tenant_suspended");
    let told: Vec<_> = core.state.quotas().preemptions().map(|it| it.cause).collect();
    assert_eq!(told, [Cause::Suspension; 5]);
    let more =
        [place("acme", bid("more", (1, 1), "2")), Command::RegisterInstance(registration("od-2", "acme", 1))];
    for command in more {
        assert_eq!(refused(&mut core, command), "tenant_suspended");
    }
    // Its GPUs are anybody's; its bid wins nothing.
    core.run(place("bolt", bid("b", (4, 4), "0.60"))).unwrap();
    core.run(clear()).unwrap();
    assert_eq!(core.state.market().numbered(number).unwrap().units_going_on(&core.state), 0);
    stop_all(&mut core);
    core.run(market(MarketCommand::Resume { tenant: acme() })).unwrap();
    core.run(clear()).unwrap();
    let won = core.state.market().numbered(number).unwrap().held.clone();
    assert_eq!(won.map(|(_, units)| units), Some(4), "it pays more than who came meanwhile");
    assert_eq!(verify_core(&core).findings, []);
}

/// What the cloud says is supply for as long as it says so: spot is gone when it ends.
#[test]
fn a_pool_has_what_the_cloud_says() {
    let mut core = open(2);
    let pool = || POOL.parse().unwrap();
    let read =
        |intervals: Vec<(Interval, u64)>| supply(SupplyCommand::ReadCapacity { pool: pool(), intervals });
    let hours = |from: i64, until: i64| {
        Interval::new(at(ms(BEGIN) + from * HOUR), at(ms(BEGIN) + until * HOUR)).unwrap()
    };
    assert_eq!(refused(&mut core, read(vec![(hours(0, 5), 8)])), "capacity_of_operator");
    core.run(set_pool(POOL, PoolTerms { capacity: CapacitySource::Intervals, ..terms(2) })).unwrap();
    assert_eq!(for_spot(&core), 2, "until it was read");
    core.run(read(vec![(hours(-9, 5), 4), (hours(0, 3), 4)])).unwrap();
    assert_eq!(for_spot(&core), 8, "they add up");
    assert_eq!(refused(&mut core, read(vec![(hours(0, 5), 4), (hours(0, 3), 4)])), "nothing_new");
    assert_eq!(refused(&mut core, read(vec![(hours(0, 5), u64::MAX)])), "capacity_invalid");
    core.run(place("acme", bid("b", (1, 8), "1.20"))).unwrap();
    core.run(clear()).unwrap();
    core.now = ms(BEGIN) + 3 * HOUR - 3 * MINUTE;
    assert!(clear_if_due(&mut core), "half of it ends soon");
    assert_eq!(reasons(&core), [("the pool has fewer GPUs for spot".to_owned(), 4)].into());
    // The operator's word is not asked any more.
    core.run(set_pool(POOL, PoolTerms { capacity: CapacitySource::Intervals, ..terms(100) })).unwrap();
    assert_eq!(for_spot(&core), 4);
    core.now = ms(BEGIN) + 6 * HOUR;
    assert_eq!(for_spot(&core), 0);
    assert_eq!(verify_core(&core).findings, []);
}
