//! The whole system by seed, in virtual time: the core, the driver's rules, and a cloud that fails in every way
//! it can. Then all heals, and everything must have come to what the log says.
//!
//! `HOURGLASS_FIRST_SEED=7 HOURGLASS_SYSTEMS=1` shows one seed; more of them run more.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_capacity::lifecycle::{Action, Call, Cause, Fact, Key, Phase};
use hourglass_compute::ComputeError;
use hourglass_compute::ids::ParentId;
use hourglass_compute::model::{Instance, InstanceState, Operation};
use hourglass_compute::simulator::{self as cloud, Answer, Change, Cloud, Query, Settings};
use hourglass_ledger::core::market::{
    Backend, BidChange, BidDraft, CapacitySource, Due, MarketCommand, PoolTerms, SupplyCommand, Trigger,
    UNIT_PREFIX,
};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::core::{
    Command, Decision, Mode, Policy, Recorded, Registration, Rejection, Request, State, apply, decide,
};
use hourglass_pricing::{PriceDraft, PurchaseModel, RateCardDraft};
use hourglass_proto::v1::{UsageBatch, UsageRecord};
use hourglass_quota::cap::{CapDraft, CapPeriod, Enforcement};
use hourglass_quota::{Bound, Class, Limits};
use hourglass_test_chance::{Chance, FIRST_SEED, from_environment};
use hourglass_units::{Amount, Currency, InstanceId, Instant, Percent, Price};

use prost::Message;

use super::supply::{advised, from_now_on};
use super::{DriverOptions, listed, new_instance, news_of, outcome_of, seen};

mod timeline;

use timeline::Timeline;

const PLATFORM: &str = "gpu-h100-sxm";
const POOLS: [(&str, u64); 2] = [("fabric-1", 32), ("fabric-2", 16)];
/// Where units are preemptible, and the provider says how many there can be.
const LENT: (&str, u64) = ("fabric-3", 16);
const TENANTS: [&str; 2] = ["acme", "bolt"];
/// The hard cap of the second one, in USD.
const CAP: &str = "3";
/// Where customers' own instances are made.
const OTHERS_PROJECT: &str = "project-2";
/// Where the provider's other customers make theirs.
const THEIR_PROJECT: &str = "project-3";
const MINUTE: i64 = 60_000;
/// How often the cloud is listed, in virtual time.
const LIST_MS: i64 = 30_000;
/// L-2: by so much what is billed of one run can differ from what ran: while the cloud is silent nobody knows.
const BOUND_MS: i64 = 5 * MINUTE;

fn begin() -> Instant {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

struct System {
    chance: Chance,
    now: Instant,
    state: State,
    events: usize,
    cloud: Cloud,
    options: DriverOptions,
    /// Whether the driver is killed now and then, and the cloud's answers are lost.
    fails: bool,
    next_list: Instant,
    next_clear: Instant,
    bids: u32,
    /// How long each unit was up in truth; and of that, before it was first asked to stop.
    truth: BTreeMap<InstanceId, (i64, i64)>,
    looked_at: Instant,
    others: Others,
    taken_back: BTreeSet<InstanceId>,
    agents: Agents,
    timeline: Timeline,
}

fn settings(seed: u64, fails: bool) -> Settings {
    let presets = vec!["1gpu-16vcpu-200gb".parse().unwrap()];
    let mut settings = Settings::new("eu".parse().unwrap(), "tenant-1".parse().unwrap(), presets);
    settings.seed = seed;
    settings.region = "eu".parse().unwrap();
    for (fabric, gpus) in POOLS.into_iter().chain([LENT]) {
        settings.add_capacity(&format!("{PLATFORM}/{fabric}={gpus}")).unwrap();
    }
    if fails {
        settings.rates.add("8%").unwrap();
        settings.rates.add("power-off=20%").unwrap();
    }
    settings
}

impl System {
    fn new(seed: u64) -> Self {
        let parent: ParentId = "project-1".parse().unwrap();
        let now = begin();
        let mut system = Self {
            chance: Chance(seed),
            now,
            state: State::empty(),
            events: 0,
            cloud: Cloud::new(settings(seed, true), now).unwrap(),
            options: DriverOptions::new(parent),
            fails: true,
            next_list: now,
            next_clear: now,
            bids: 0,
            truth: BTreeMap::new(),
            looked_at: now,
            others: Others::default(),
            taken_back: BTreeSet::new(),
            agents: Agents::default(),
            timeline: Timeline::default(),
        };
        let region = "eu".parse().unwrap();
        system.run(Command::OpenCell { region, policy: Policy::default() }).unwrap();
        let price = |model, price| PriceDraft {
            platform: PLATFORM.parse().unwrap(),
            region: "eu".parse().unwrap(),
            model,
            price: Price::parse(price).unwrap(),
            from: None,
            until: None,
            components: Vec::new(),
        };
        let card = RateCardDraft {
            name: "list".parse().unwrap(),
            version: 1,
            currency: Currency::USD,
            effective_from: now,
            prices: vec![price(PurchaseModel::OnDemand, "2.95"), price(PurchaseModel::Spot, "1.25")],
        };
        system.run(Command::PublishRateCard(card)).unwrap();
        for tenant in TENANTS {
            let (tenant, display_name) = (tenant.parse().unwrap(), String::new());
            system.run(Command::OpenTenant { tenant, currency: Currency::USD, display_name }).unwrap();
        }
        let cap = CapDraft {
            period: CapPeriod::Total,
            amount: Some(Amount::parse(CAP).unwrap()),
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
            notice_ms: 2 * MINUTE,
        };
        let (tenant, project, period) = (TENANTS[1].parse().unwrap(), None, CapPeriod::Total);
        system.run(QuotaCommand::SetCap { tenant, project, period, cap: Some(cap) }.into()).unwrap();
        for (fabric, gpus) in POOLS.into_iter().chain([LENT]) {
            let reserve = ReserveDraft {
                shape: Shape::Steps,
                points: vec![Point { utilisation: Percent::ZERO, price: Price::parse("0.5").unwrap() }],
            };
            let is_lent = fabric == LENT.0;
            let terms = PoolTerms {
                notice_ms: MINUTE,
                driven: true,
                backend: if is_lent { Backend::Preemptible } else { Backend::Regular },
                capacity: if is_lent { CapacitySource::Advice } else { CapacitySource::Operator },
                ..PoolTerms::new(Currency::USD, gpus, ReservePolicy::new(reserve).unwrap())
            };
            let pool = format!("eu/{PLATFORM}/{fabric}").parse().unwrap();
            system.run(Command::from(MarketCommand::SetPool { pool, terms })).unwrap();
        }
        system
    }

    fn run(&mut self, command: Command) -> Result<(), Rejection> {
        let chain_hash = hourglass_ledger::log::genesis();
        let request = Request { command: &command, key: None, now: self.now, chain_hash };
        if let Decision::Happens(recorded) = decide(&self.state, &request)? {
            assert_eq!(Recorded::decode(&recorded.encode()).unwrap(), recorded, "it reads back");
            let mut rows = EventRows::default();
            let _answer = apply(&mut self.state, self.now, &recorded, &mut rows).unwrap();
            self.timeline.note(rows.timeline);
            self.events += 1;
        }
        Ok(())
    }

    fn market(&mut self, command: MarketCommand) -> bool {
        self.run(Command::from(command)).is_ok()
    }

    /// One call over a wire that may lose the answer.
    fn ask(&mut self, call: &cloud::Call) -> Result<Answer, ComputeError> {
        self.cloud.step(self.now, call).as_seen_by(call)
    }

    fn query(&mut self, query: Query) -> Result<Answer, ComputeError> {
        self.ask(&cloud::Call::Query(query))
    }

    fn report(&mut self, instance: &InstanceId, fact: Fact) -> bool {
        let reported = self.market(MarketCommand::Report { instance: instance.clone(), fact });
        self.note_taken_back();
        reported
    }

    /// what the provider took back has that for its cause.
    fn note_taken_back(&mut self) {
        let lives = self.state.market().lives().filter(|life| life.pool.fabric.as_str() == LENT.0);
        let taken_back = lives.filter(|life| {
            matches!(
                life.cycle.phase(),
                Phase::Stopping { cause: Cause::Provider } | Phase::Stopped { cause: Cause::Provider }
            )
        });
        self.taken_back.extend(taken_back.map(|life| life.cycle.instance().clone()));
    }

    /// What the driver does, as [`super::drive`] does it over the wire.
    fn act(&mut self, due: &Due) {
        match &due.action {
            Action::Call { key, cloud } => {
                let killed = self.fails && self.chance.one_in(40);
                if !self.report(&due.instance, Fact::Sent { key: key.clone() }) || killed {
                    return;
                }
                let answer = self.call(due, key, cloud.as_ref().map(ToString::to_string));
                if self.fails && self.chance.one_in(40) {
                    return;
                }
                let outcome = outcome_of(&answer);
                self.report(&due.instance, Fact::Answered { key: key.clone(), outcome });
            }
            Action::PollOperation { operation } => {
                let answer =
                    self.query(Query::Operation(operation.as_str().parse().unwrap())).map(operation_of);
                let news = news_of(&answer, self.now);
                let operation = operation.clone();
                let fact = news.map_or(Fact::NoAnswer, |news| Fact::Operation { operation, news });
                self.report(&due.instance, fact);
            }
            Action::LookUp { cloud } => {
                let began = self.now;
                let query = match cloud {
                    Some(cloud) => Query::Instance(cloud.as_str().parse().unwrap()),
                    None => Query::InstanceByName(self.options.parent.clone(), due.instance.to_string()),
                };
                let answer = self.query(query).map(instance_of);
                let fact = seen(&answer, began).unwrap_or(Fact::NoAnswer);
                self.report(&due.instance, fact);
            }
        }
    }

    fn call(&mut self, due: &Due, key: &Key, cloud: Option<String>) -> Result<Operation, ComputeError> {
        let id = || cloud.as_ref().unwrap().parse().unwrap();
        let change = match key.call {
            Call::Create => Change::Create(Box::new(new_instance(&self.options, due).unwrap())),
            Call::Start => Change::Start { id: id() },
            Call::Stop => Change::Stop { id: id() },
            Call::Delete => Change::Delete { id: id() },
        };
        let answer = self.ask(&cloud::Call::Change { key: Some(key.to_string()), change });
        answer.map(operation_of)
    }

    fn list(&mut self) {
        let (began, parent) = (self.now, self.options.parent.clone());
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let page = cloud::Page { size: 0, token };
            let Ok(Answer::Instances(page)) = self.query(Query::Instances(parent.clone(), page)) else {
                return;
            };
            all.extend(page.items);
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        self.read_capacity();
        self.market(MarketCommand::List { listing: listed(&all, began) });
        for stray in self.state.market().strays().to_vec() {
            let id: InstanceId = stray.cloud.as_str().parse().unwrap();
            let key = Some(format!("stray.{id}.{:?}", stray.state));
            let change = if stray.state == hourglass_capacity::lifecycle::CloudState::Stopped {
                Change::Delete { id }
            } else {
                Change::Stop { id }
            };
            let _asked = self.ask(&cloud::Call::Change { key, change });
        }
    }

    fn wait(&mut self, ms: i64) {
        self.now = self.now.saturating_add_ms(ms);
        // In steps, so that each change is seen when it comes.
        while let Some(next) = self.cloud.next_event().filter(|next| *next <= self.now) {
            self.look(next);
            self.cloud.advance(next);
        }
        self.look(self.now);
        self.cloud.advance(self.now);
    }

    /// Notes how long what is up has been up.
    fn look(&mut self, until: Instant) {
        let passed = until.ms_since(self.looked_at);
        let wanted = self.state.market().lives().filter(|life| {
            matches!(life.cycle.phase(), Phase::Creating | Phase::Running | Phase::Notice { .. })
        });
        let wanted: BTreeSet<&InstanceId> = wanted.map(|life| life.cycle.instance()).collect();
        let running = self.cloud.instances().filter(|it| it.state == InstanceState::Running);
        for instance in running.filter(|it| it.name.starts_with(UNIT_PREFIX)) {
            let unit: InstanceId = instance.name.parse().unwrap();
            let is_wanted = wanted.contains(&unit);
            let (ran, was_wanted) = self.truth.entry(unit).or_default();
            *ran += passed;
            self.agents.sees(&instance.name, instance.spec.preset.gpus(), self.looked_at, until);
            *was_wanted += if is_wanted { passed } else { 0 };
        }
        self.looked_at = self.looked_at.max(until);
    }

    fn drive(&mut self) {
        for due in self.state.market().due(self.now, 16) {
            self.act(&due);
        }
        if self.next_list <= self.now {
            self.next_list = self.now.saturating_add_ms(LIST_MS);
            self.list();
        }
        if self.next_clear <= self.now || self.state.market().is_due(self.now) {
            self.next_clear = self.now.saturating_add_ms(MINUTE);
            self.market(MarketCommand::Clear { trigger: Trigger::Tick });
            self.run(Command::Tick).unwrap();
            let _reviewed = self.run(Command::from(QuotaCommand::Review));
        }
        self.serve_others();
        self.hear_agents(false);
        self.check();
    }

    /// what was let up never takes more than there is, whatever happened.
    fn check(&self) {
        for (place, there, held) in self.cloud.places() {
            assert!(held <= there, "{place}: {held} of {there}");
        }
        for (pool, it) in self.state.market().pools() {
            let of_pool = self.state.market().lives().filter(|life| life.pool == *pool);
            let up = of_pool.filter(|life| {
                matches!(life.cycle.phase(), Phase::Creating | Phase::Running | Phase::Notice { .. })
            });
            let up: u64 = up.map(|life| u64::from(life.gpus)).sum();
            // Of what is lent the provider can take back more than is free.
            assert!(up <= it.terms.gpus, "{pool}: {up}");
        }
        assert!(self.state.quotas().tree().unsound().is_empty());
        assert!(self.state.market().miscounted().is_empty());
    }

    fn step(&mut self) {
        let ms = i64::from(self.chance.among(1, 4_000));
        self.wait(ms);
        let tenant = || TENANTS.map(|tenant| tenant.parse::<hourglass_units::TenantId>().unwrap());
        match self.chance.below(60) {
            0..=2 => {
                self.bids += 1;
                let min_units = self.chance.among(1, 3);
                let fabrics: &[&str] = self.chance.pick::<&[&str]>(&[
                    &["fabric-1"],
                    &["fabric-2"],
                    &["fabric-1", "fabric-2"],
                    &["fabric-3"],
                    &["fabric-3", "fabric-1"],
                ]);
                let cents = 40 + self.chance.below(160);
                let bid = BidDraft {
                    bid: format!("b-{}", self.bids).parse().unwrap(),
                    project: "ml".parse().unwrap(),
                    pools: fabrics.iter().map(|it| format!("eu/{PLATFORM}/{it}").parse().unwrap()).collect(),
                    gpus_per_unit: [1, 4, 8][self.chance.below(3) as usize],
                    min_units,
                    max_units: min_units + self.chance.among(0, 2),
                    limit: Price::parse(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap(),
                    notice_ms: None,
                    expires_at: None,
                };
                let tenant = tenant()[self.chance.below(2) as usize].clone();
                self.market(MarketCommand::PlaceBid { tenant, bid });
            }
            3 => {
                let tenant: hourglass_units::TenantId = tenant()[self.chance.below(2) as usize].clone();
                let bids: Vec<_> =
                    self.state.market().bids_of(&tenant).map(|(_, it)| it.draft.bid.clone()).collect();
                if !bids.is_empty() {
                    let bid = self.chance.pick(&bids).clone();
                    if self.chance.one_in(2) {
                        self.market(MarketCommand::CancelBid { tenant, bid });
                    } else {
                        let limit = Some(Price::parse("1.90").unwrap());
                        let change = BidChange { limit, ..BidChange::default() };
                        self.market(MarketCommand::UpdateBid { tenant, bid, change });
                    }
                }
            }
            4 if self.chance.one_in(3) => {
                let limits =
                    Some(Limits { drain: true, ..Limits::nominal(Bound::AtMost(8 + self.chance.below(40))) });
                let _set = self.run(Command::from(QuotaCommand::SetLimits {
                    node: "tenants/acme".parse().unwrap(),
                    resource: "compute.instance.gpu.h100".parse().unwrap(),
                    class: Class::Preemptible,
                    limits,
                }));
            }
            5 => self.start_other(),
            6 if self.chance.one_in(2) => self.stop_other(),
            7 if self.chance.one_in(3) => self.provider_needs(),
            8 if self.chance.one_in(3) => self.provider_gives_back(),
            _ => {}
        }
        self.drive();
    }

    /// From here on nothing fails.
    fn heal(&mut self) {
        let saved = self.cloud.saved();
        self.cloud = Cloud::resume(settings(0, false), saved).unwrap();
        self.fails = false;
    }

    fn calm(&mut self, minutes: i64) {
        for _ in 0..minutes * 15 {
            self.wait(4_000);
            self.drive();
        }
    }

    /// Until nothing is on its way any more. What is to go off by itself does so within an hour.
    fn settle(&mut self) {
        self.calm(62);
        let is_moving = |system: &Self| {
            system.state.market().lives().any(|life| !matches!(life.cycle.phase(), Phase::Running))
        };
        for _ in 0..20 {
            if !is_moving(self) {
                break;
            }
            self.calm(2);
        }
    }

    /// L-1: every unit that is wanted runs, and nothing else does.
    fn all_is_as_the_log_says(&self) {
        let mut wanted = BTreeSet::new();
        for tenant in TENANTS {
            for (number, bid) in self.state.market().bids_of(&tenant.parse().unwrap()) {
                let held = bid.held.as_ref().map_or(0, |(_, units)| *units as usize);
                let running: Vec<_> = self
                    .state
                    .market()
                    .lives()
                    .filter(|life| life.number == number && matches!(life.cycle.phase(), Phase::Running))
                    .map(|life| life.cycle.instance().clone())
                    .collect();
                assert_eq!(running.len(), held, "L-1: bid {number} holds {held} units");
                wanted.extend(running);
            }
        }
        let there = self.cloud.instances().filter(|it| it.name.starts_with(UNIT_PREFIX));
        let there: BTreeSet<InstanceId> = there.map(|it| it.name.parse().unwrap()).collect();
        assert_eq!(there, wanted, "L-1: what the cloud has, and what is to be");
        assert_eq!(self.state.market().strays(), [], "no strays");
        for instance in self.state.instances().filter(|it| it.id().as_str().starts_with(UNIT_PREFIX)) {
            assert_eq!(
                instance.running_since().is_some(),
                wanted.contains(instance.id()),
                "{}",
                instance.id()
            );
        }
    }

    /// L-2: what is billed is what ran, up to a bound for each unit. A stop that the cloud is slow to carry out
    /// is not at the customer's cost, however long that takes.
    fn what_ran_is_billed(&self) -> (i64, i64) {
        let (mut ran, mut billed) = (0, 0);
        for instance in self.state.instances().filter(|it| it.id().as_str().starts_with(UNIT_PREFIX)) {
            let (truth, wanted) = self.truth.get(instance.id()).copied().unwrap_or_default();
            let runs = instance.running().iter().map(|run| run.end().min(self.now).ms_since(run.start()));
            let its: i64 = runs.sum();
            assert!(its <= truth + BOUND_MS, "L-2: {} ran {truth} ms and is billed {its}", instance.id());
            assert!(wanted <= its + BOUND_MS, "L-2: {} ran {wanted} ms and is billed {its}", instance.id());
            (ran, billed) = (ran + truth, billed + its);
        }
        (ran, billed)
    }
}

impl System {
    /// Another customer of the provider comes, whom it serves before those whose machines it can take back.
    fn provider_needs(&mut self) {
        self.others.made += 1;
        let instance: InstanceId = format!("them-{}", self.others.made).parse().unwrap();
        let (pool, action) =
            (format!("eu/{PLATFORM}/{}", LENT.0).parse().unwrap(), Action::LookUp { cloud: None });
        let gpus = *self.chance.pick(&[1, 4, 8]);
        let due = Due { instance, pool, gpus, backend: Backend::Regular, action };
        let options = DriverOptions::new(THEIR_PROJECT.parse().unwrap());
        let new = new_instance(&options, &due).unwrap();
        self.change(Change::Create(Box::new(new)));
    }

    fn provider_gives_back(&mut self) {
        let theirs = self.cloud.instances().find(|it| it.name.starts_with("them-")).map(|it| it.id.clone());
        if let Some(id) = theirs {
            self.change(Change::Delete { id });
        }
    }

    /// As [`super::driver`] reads it over the wire.
    fn read_capacity(&mut self) {
        let page = cloud::Page { size: 1_000, token: String::new() };
        let Ok(Answer::Advice(advice)) = self.query(Query::Advice(page)) else { return };
        let pool: hourglass_capacity::pool::PoolName = format!("eu/{PLATFORM}/{}", LENT.0).parse().unwrap();
        let taken = self.state.market().pool(&pool).unwrap().taken();
        let Some(gpus) = advised(&advice.items, &pool, Backend::Preemptible, taken) else { return };
        let intervals = from_now_on(gpus, self.now);
        self.market(MarketCommand::Supply(SupplyCommand::ReadCapacity { pool, intervals }));
    }
}

/// Agents report what they see run: late, in any order, and some of it twice.
#[derive(Default)]
struct Agents {
    /// What each instance was seen to do since its last report.
    seen: BTreeMap<String, (u32, Instant, Instant)>,
    /// Reports on their way, and when they come.
    sent: Vec<(Instant, UsageRecord)>,
    seq: u64,
}

impl Agents {
    fn sees(&mut self, instance: &str, gpus: u32, from: Instant, until: Instant) {
        if until <= from {
            return;
        }
        match self.seen.get_mut(instance) {
            Some((_, _, end)) if *end == from => *end = until,
            _ => {
                let before = self.seen.insert(instance.to_owned(), (gpus, from, until));
                let of_before = before.map(|seen| (until, record(instance, seen)));
                self.sent.extend(of_before);
            }
        }
    }
}

fn record(instance: &str, (gpus, start, end): (u32, Instant, Instant)) -> UsageRecord {
    UsageRecord {
        instance_id: instance.to_owned(),
        session: 1,
        start_unix_ms: start.unix_ms(),
        end_unix_ms: end.unix_ms(),
        gpus,
        evidence: None,
    }
}

impl System {
    /// What has come of the agents' reports is taken in; all that there is, at the end.
    fn hear_agents(&mut self, all: bool) {
        let long_enough = |(_, from, until): &(u32, Instant, Instant)| all || until.ms_since(*from) >= MINUTE;
        let done: Vec<_> = self.agents.seen.extract_if(.., |_, seen| long_enough(seen)).collect();
        for (instance, seen) in done {
            for _ in 0..=u32::from(self.chance.one_in(4)) {
                let delay = i64::from(self.chance.among(0, 10 * 60)) * 1_000;
                self.agents.sent.push((self.now.saturating_add_ms(delay), record(&instance, seen)));
            }
        }
        let now = self.now;
        let come: Vec<_> = self.agents.sent.extract_if(.., |(at, _)| all || *at <= now).collect();
        for (_, record) in come {
            let batch = UsageBatch {
                agent_id: "node-1".to_owned(),
                epoch: 1,
                first_seq: self.agents.seq,
                records: vec![record],
            };
            self.agents.seq += 1;
            let batch =
                hourglass_ledger::core::usage::UsageBatch::parse(batch.encode_to_vec().into()).unwrap();
            self.run(Command::AcceptUsage(batch)).unwrap();
        }
    }

    /// What ran and was reported is charged, at a price within its bid's limit, and no cap is exceeded.
    fn what_was_reported_is_charged(&mut self) -> Amount {
        self.hear_agents(true);
        let units = |id: &str| id.starts_with(UNIT_PREFIX);
        let sums = self.state.accounting(|it| units(it.id().as_str()), false);
        let excluded: i64 = sums.excluded_ms.values().sum();
        assert_eq!(sums.measured_ms, sums.billed_ms + excluded, "M-3");
        let ran: i64 = self.truth.values().map(|(ran, _)| ran).sum();
        assert_eq!(sums.measured_ms, ran, "agents tell all that ran, and each millisecond once");
        let mut of_capped = Amount::ZERO;
        for it in self.state.lines().map(Result::unwrap).filter(|it| units(it.instance.id().as_str())) {
            let (view, line) = (it.instance, &it.line);
            let limit = view.modes().into_iter().filter_map(|(_, mode)| match mode {
                Mode::Spot { limit, .. } => limit,
                _ => None,
            });
            assert!(Some(line.price) <= limit.max(), "{}: {}", view.id(), line.price);
            if view.tenant().as_str() == TENANTS[1] {
                of_capped = of_capped.checked_add(line.price.times(line.quantity)).unwrap();
            }
        }
        assert!(of_capped <= Amount::parse(CAP).unwrap(), "{of_capped} of {CAP}");
        of_capped
    }
}

/// Customers' on-demand instances, which their compute service makes in the same cloud and in a project of its
/// own. It is careful: it makes what does not wait, and asks until it has it.
#[derive(Default)]
struct Others {
    made: u32,
    calls: u32,
    running: BTreeMap<InstanceId, (String, u32)>,
    leaving: BTreeSet<InstanceId>,
}

impl System {
    fn start_other(&mut self) {
        let (fabric, _) = *self.chance.pick(&POOLS);
        let gpus = *self.chance.pick(&[1, 4, 8]);
        self.others.made += 1;
        let instance: InstanceId = format!("od-{}", self.others.made).parse().unwrap();
        let registration = Registration {
            instance: instance.clone(),
            tenant: TENANTS[0].parse().unwrap(),
            project: "ml".parse().unwrap(),
            platform: PLATFORM.parse().unwrap(),
            mode: Mode::OnDemand,
            gpus,
            agent: None,
            hold: None,
            fabric: Some(fabric.parse().unwrap()),
        };
        if self.run(Command::RegisterInstance(registration)).is_ok() {
            self.others.running.insert(instance, (fabric.to_owned(), gpus));
        }
    }

    fn stop_other(&mut self) {
        if let Some((instance, _)) = self.others.running.pop_first() {
            self.others.leaving.insert(instance);
        }
    }

    fn serve_others(&mut self) {
        let there: BTreeMap<String, Instance> =
            self.cloud.instances().map(|it| (it.name.clone(), it.clone())).collect();
        for (instance, (fabric, gpus)) in self.others.running.clone() {
            let runs = self.state.instance(instance.as_str()).and_then(|it| it.running_since()).is_some();
            match there.get(instance.as_str()).map(|it| it.state) {
                Some(InstanceState::Running) if !runs => {
                    self.run(Command::StartInstance { instance, at: self.now }).unwrap();
                }
                None if !self.state.market().waits(&self.state, &instance) => {
                    let pool = format!("eu/{PLATFORM}/{fabric}").parse().unwrap();
                    let action = Action::LookUp { cloud: None };
                    let due = Due { instance, pool, gpus, backend: Backend::Regular, action };
                    let options = DriverOptions::new(OTHERS_PROJECT.parse().unwrap());
                    let new = new_instance(&options, &due).unwrap();
                    self.change(Change::Create(Box::new(new)));
                }
                // It went off by itself: its owner gives it up.
                Some(InstanceState::Stopped | InstanceState::Error) => {
                    self.others.running.remove(&instance);
                    self.others.leaving.insert(instance);
                }
                _ => {}
            }
        }
        for instance in self.others.leaving.clone() {
            let Some(found) = there.get(instance.as_str()) else {
                let _stopped = self.run(Command::StopInstance {
                    instance: instance.clone(),
                    at: self.now,
                    cause: "user".to_owned(),
                });
                self.others.leaving.remove(&instance);
                continue;
            };
            let id = found.id.clone();
            self.change(Change::Delete { id });
        }
    }

    fn change(&mut self, change: Change) {
        self.others.calls += 1;
        let key = Some(format!("others.{}", self.others.calls));
        let _asked = self.ask(&cloud::Call::Change { key, change });
    }

    /// C-2, and L-1 of those who come before spot: whoever was accepted runs, and reserved, on-demand, spot, idle and
    /// excluded GPU-time is what there was.
    fn every_gpu_second_is_accounted_once(&self) {
        for instance in self.others.running.keys() {
            let view = self.state.instance(instance.as_str()).unwrap();
            let waits = self.state.market().waits(&self.state, instance);
            let there = self.cloud.instances().find(|it| it.name == instance.as_str()).map(|it| it.state);
            assert!(
                view.running_since().is_some(),
                "{instance} was accepted and does not run: it waits: {waits}, and at the cloud it is {there:?}"
            );
        }
        for (fabric, gpus) in POOLS {
            let pool = format!("eu/{PLATFORM}/{fabric}").parse().unwrap();
            let within = hourglass_units::Interval::new(begin(), self.now).unwrap();
            let split = self.state.account_of_pool(&pool, within).unwrap().unwrap();
            let owned = gpus * u64::try_from(within.milliseconds()).unwrap();
            let used = split.reserved + split.on_demand + split.spot + split.excluded;
            assert_eq!(used + split.idle, owned, "{pool}: {split:?}");
            assert!(split.spot > 0 && split.on_demand > 0, "{pool}: {split:?}");
        }
    }
}

fn operation_of(answer: Answer) -> Operation {
    match answer {
        Answer::Operation(operation) => operation,
        other => panic!("{other:?}"),
    }
}

fn instance_of(answer: Answer) -> Instance {
    match answer {
        Answer::Instance(instance) => *instance,
        other => panic!("{other:?}"),
    }
}

#[test]
fn l1_l2_l3_everything_comes_to_what_the_log_says() {
    let first = from_environment(FIRST_SEED, 0);
    let (mut ran, mut billed, mut units, mut taken_back) = (0, 0, 0, 0);
    let mut most = Amount::ZERO;
    for seed in first..first + from_environment("HOURGLASS_SYSTEMS", 12) {
        let run = std::panic::catch_unwind(|| {
            let mut system = System::new(seed);
            for _ in 0..1_200 {
                system.step();
            }
            system.heal();
            system.settle();
            system.all_is_as_the_log_says();
            system.timeline.says_why(&system.state);
            system.every_gpu_second_is_accounted_once();
            let of_capped = system.what_was_reported_is_charged();
            let sums = system.what_ran_is_billed();
            // And when nobody wants anything, nothing is left.
            for tenant in TENANTS {
                let tenant: hourglass_units::TenantId = tenant.parse().unwrap();
                let bids: Vec<_> =
                    system.state.market().bids_of(&tenant).map(|(_, it)| it.draft.bid.clone()).collect();
                for bid in bids {
                    system.market(MarketCommand::CancelBid { tenant: tenant.clone(), bid });
                }
            }
            while system.cloud.instances().any(|it| it.name.starts_with("them-")) {
                system.provider_gives_back();
                system.calm(2);
            }
            while !system.others.running.is_empty() {
                system.stop_other();
            }
            system.calm(20);
            assert_eq!(system.cloud.instances().count(), 0, "nothing is left at the cloud");
            assert_eq!(system.state.market().lives().count(), 0, "nor in the log");
            let unheld = system.state.instances().all(|it| it.unheld().is_none());
            assert!(unheld, "all quota is given back");
            (sums, system.truth.len(), system.taken_back.len(), of_capped)
        });
        match run {
            Ok(((its_run, its_bill), its_units, its_losses, of_capped)) => {
                most = most.max(of_capped);
                (ran, billed, units) = (ran + its_run, billed + its_bill, units + its_units);
                taken_back += its_losses;
            }
            Err(panic) => {
                eprintln!("HOURGLASS_FIRST_SEED={seed} HOURGLASS_SYSTEMS=1 shows it alone");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{units} units ran {ran} ms and were billed {billed} ms; at most {most} of a cap of {CAP}");
    assert!(most > Amount::ZERO, "{most}");
    assert!(units > 50 && taken_back > 5, "{units} units, {taken_back} of them taken back");
}
