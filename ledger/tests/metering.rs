//! M-1, M-2, M-3, P-1, U-1 and B-1 on random schedules, against the oracle.

use std::collections::BTreeMap;

use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::core::{Account, Command, LINES_A_TICK_MAX, Mode, Policy, digest};
use hourglass_pricing::PurchaseModel;
use hourglass_test_chance::Chance;
use hourglass_units::{Amount, Currency};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;

use super::oracle::{Books, FOREVER, Facts, Known, Report};
use super::support::{
    Core, HOUR, MINUTE, at, batch, card, contract, ms, record, registration, spot_price, start, stop, usage,
};

const SKEW: i64 = 5 * MINUTE;
const WINDOW: i64 = 2 * HOUR;
/// Ninety minutes before a month ends, so that schedules cross it.
const BEGIN: &str = "2026-01-31T22:30:00Z";

/// One thing that happens. Times count from [`BEGIN`] or back from when it happens.
#[derive(Debug, Clone)]
enum Step {
    Advance(i64),
    Tick,
    Card {
        ahead: i64,
        nanos: i64,
    },
    Contract {
        tenant: usize,
        ahead: i64,
        length: Option<i64>,
        nanos: i64,
    },
    Register {
        instance: usize,
    },
    Start {
        instance: usize,
        back: i64,
    },
    Stop {
        instance: usize,
        back: i64,
    },
    Usage {
        agent: usize,
        records: Vec<Draft>,
    },
    /// Reports in order, each as it should come: they take the short path.
    Stream {
        instance: usize,
        agent: usize,
        count: usize,
        length: i64,
        overlap: i64,
    },
    /// A message that came before comes once more.
    Again(Index),
}

/// One report: whether the GPUs are wrong, when it ends and how long it is.
#[derive(Debug, Clone)]
struct Draft {
    instance: usize,
    wrong: bool,
    end: End,
    length: i64,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// So long after [`BEGIN`].
    Fixed(i64),
    /// So long after it is sent.
    Sent(i64),
}

/// Instances: tenant, spot, GPUs and the agent to which it is bound.
const INSTANCES: [(&str, bool, u32, Option<usize>); 4] = [
    ("acme", false, 8, None),
    ("acme", true, 3, Some(0)),
    ("bolt", false, 1, Some(1)),
    ("bolt", false, 7, None),
];
const AGENTS: [&str; 2] = ["agent-1", "agent-2"];

fn step() -> impl Strategy<Value = Step> {
    let instance = 0..INSTANCES.len();
    let skewed = -SKEW - 1_000..HOUR;
    let nanos = prop_oneof![Just(0), Just(1), 1_000_000_000..4_000_000_000_i64];
    let end = prop_oneof![
        (MINUTE..5 * HOUR).prop_map(End::Fixed),
        (-HOUR..SKEW + 1_000).prop_map(End::Sent),
        proptest::sample::select(vec![SKEW, SKEW + 1, -WINDOW, -WINDOW - 1]).prop_map(End::Sent),
    ];
    let draft = (instance.clone(), proptest::bool::weighted(0.1), end, 1..70 * MINUTE)
        .prop_map(|(instance, wrong, end, length)| Draft { instance, wrong, end, length });
    prop_oneof![
        3 => (1..40 * MINUTE).prop_map(Step::Advance),
        2 => Just(Step::Tick),
        1 => (-MINUTE..90 * MINUTE, nanos.clone()).prop_map(|(ahead, nanos)| Step::Card { ahead, nanos }),
        1 => (0..2_usize, -MINUTE..90 * MINUTE, proptest::option::of(1..2 * HOUR), nanos)
            .prop_map(|(tenant, ahead, length, nanos)| Step::Contract { tenant, ahead, length, nanos }),
        2 => instance.clone().prop_map(|instance| Step::Register { instance }),
        3 => (instance.clone(), skewed.clone()).prop_map(|(instance, back)| Step::Start { instance, back }),
        2 => (instance, skewed).prop_map(|(instance, back)| Step::Stop { instance, back }),
        9 => (0..AGENTS.len(), vec(draft, 1..4)).prop_map(|(agent, records)| Step::Usage { agent, records }),
        4 => (0..INSTANCES.len(), 0..AGENTS.len(), 1..12_usize, 1..20 * MINUTE, prop_oneof![2 => Just(0), 1 => 0..MINUTE])
            .prop_map(|(instance, agent, count, length, overlap)| Step::Stream {
                instance, agent, count, length, overlap
            }),
        1 => any::<Index>().prop_map(Step::Again),
    ]
}

fn name(instance: usize) -> String {
    format!("i-{instance}")
}

/// A core and what the oracle is told of it.
struct Bench {
    core: Core,
    facts: Facts,
    versions: (u32, [u32; 2]),
    messages: Vec<(usize, Vec<Draft>)>,
}

const TENANTS: [&str; 2] = ["acme", "bolt"];

impl Bench {
    fn new() -> Self {
        let policy = Policy { clock_skew_max_ms: SKEW, acceptance_window_ms: WINDOW, grace_ms: 0 };
        let begin = ms(BEGIN);
        let core = Core::open(begin, policy, &TENANTS.map(|tenant| (tenant, Currency::USD)));
        let list = ("USD".to_owned(), begin, 2_950_000_000, spot_price(2_950_000_000));
        let tenants = TENANTS.iter().map(|tenant| ((*tenant).to_owned(), "USD".to_owned())).collect();
        let facts = Facts { skew: SKEW, window: WINDOW, tenants, cards: vec![list], ..Facts::default() };
        Self { core, facts, versions: (1, [0, 0]), messages: Vec::new() }
    }

    /// Does the step; what is rejected, the oracle is not told.
    fn run(&mut self, step: &Step) {
        let now = self.core.now;
        match step {
            Step::Advance(by) => self.core.now += by,
            Step::Tick => drop(self.core.run(Command::Tick).unwrap()),
            Step::Card { ahead, nanos } => {
                let (version, from) = (self.versions.0 + 1, now + ahead);
                let card = card(Currency::USD, version, from, *nanos);
                if self.core.run(Command::PublishRateCard(card)).is_ok() {
                    self.versions.0 = version;
                    self.facts.cards.push(("USD".to_owned(), from, *nanos, spot_price(*nanos)));
                }
            }
            Step::Contract { tenant, ahead, length, nanos } => {
                let (version, from) = (self.versions.1[*tenant] + 1, now + ahead);
                let until = length.map(|length| from + length);
                let contract = contract(version, from, until, *nanos);
                let tenant_id = TENANTS[*tenant].parse().unwrap();
                if self.core.run(Command::SignContract { tenant: tenant_id, contract }).is_ok() {
                    self.versions.1[*tenant] = version;
                    let until = until.unwrap_or(FOREVER);
                    self.facts.contracts.push((TENANTS[*tenant].to_owned(), from, until, *nanos));
                }
            }
            Step::Register { instance } => self.register(*instance),
            Step::Start { instance, back } => {
                if self.core.run(start(&name(*instance), now - back)).is_ok() {
                    self.facts.start(&name(*instance), now - back);
                }
            }
            Step::Stop { instance, back } => {
                if self.core.run(stop(&name(*instance), now - back)).is_ok() {
                    self.facts.stop(&name(*instance), now - back);
                }
            }
            Step::Usage { agent, records } => {
                self.messages.push((*agent, records.clone()));
                self.usage(*agent, records);
            }
            Step::Stream { instance, agent, count, length, overlap } => {
                for _ in 0..*count {
                    self.core.now += length;
                    let (end, length) = (End::Sent(0), length + overlap);
                    self.usage(*agent, &[Draft { instance: *instance, wrong: false, end, length }]);
                }
            }
            Step::Again(which) if !self.messages.is_empty() => {
                let (agent, records) = which.get(&self.messages).clone();
                self.usage(agent, &records);
            }
            Step::Again(_) => {}
        }
    }

    fn register(&mut self, instance: usize) {
        let (tenant, spot, gpus, agent) = INSTANCES[instance];
        let agent = agent.map(|agent| AGENTS[agent]);
        let mut registration = registration(&name(instance), tenant, gpus);
        registration.agent = agent.map(|agent| agent.parse().unwrap());
        registration.mode = if spot { Mode::SPOT } else { Mode::OnDemand };
        if self.core.run(Command::RegisterInstance(registration)).is_ok() {
            let (tenant, agent) = (tenant.to_owned(), agent.map(str::to_owned));
            let known = Known { tenant, spot, gpus, agent, runs: Vec::new() };
            self.facts.instances.insert(name(instance), known);
        }
    }

    fn usage(&mut self, agent: usize, drafts: &[Draft]) {
        let report = |draft: &Draft| {
            let end = match draft.end {
                End::Fixed(after) => ms(BEGIN) + after,
                End::Sent(after) => self.core.now + after,
            };
            Report {
                agent: AGENTS[agent].to_owned(),
                instance: name(draft.instance),
                gpus: INSTANCES[draft.instance].2 + u32::from(draft.wrong),
                start: end - draft.length,
                end,
                came: self.core.now,
            }
        };
        let reports: Vec<Report> = drafts.iter().map(report).collect();
        let records = reports.iter().map(|it| record(&it.instance, it.gpus, it.start, it.end)).collect();
        self.core.run(Command::AcceptUsage(batch(AGENTS[agent], 0, records))).unwrap();
        self.facts.reports.extend(reports);
    }

    /// B-1 and U-1 after every step.
    fn check_step(&self) {
        for (currency, sum) in self.core.state.book().sums() {
            assert_eq!(sum, Some(Amount::ZERO), "B-1: all accounts in {currency}");
        }
        for row in self.core.rows.iter().flat_map(|rows| &rows.charges) {
            let exact = i128::from(row.price.nanos()) * i128::from(row.quantity.nanos());
            assert_eq!(row.amount.attos(), exact, "U-1");
        }
    }

    /// What the core says, in the oracle's words.
    fn books(&self) -> Books {
        let state = &self.core.state;
        let accounting = state.accounting(|_| true, true);
        let mut books = Books {
            measured: accounting.measured_ms,
            billed: accounting.billed_ms,
            suspense: accounting.suspense_ms,
            excluded: accounting.excluded_ms,
            ..Books::default()
        };
        for line in state.lines() {
            let line = line.unwrap();
            let key =
                (line.instance.id().to_string(), line.line.hour.start().unix_ms(), line.line.price.nanos());
            let twice = books.lines.insert(key, (line.line.milliseconds, line.line.quantity.nanos()));
            assert_eq!(twice, None, "P-1: a line stands once");
        }
        for (account, currency, balance) in state.book().balances().filter(|(.., sum)| !sum.is_zero()) {
            match account {
                Account::Unbilled(tenant) => {
                    books.charged.insert(tenant.to_string(), balance.attos());
                }
                Account::Revenue(_, model) => {
                    let key = (*model == PurchaseModel::Spot, currency.to_string());
                    books.revenue.insert(key, -balance.attos());
                }
                other => panic!("nothing was invoiced, yet {other} has {balance}"),
            }
        }
        books
    }

    fn check_end(&mut self) {
        self.core.run(Command::Tick).unwrap();
        let mut expected = self.facts.books();
        // A line at a price of zero is a line, but no balance.
        expected.charged.retain(|_, amount| *amount != 0);
        expected.revenue.retain(|_, amount| *amount != 0);
        assert_eq!(self.books(), expected);
        // B-1: the balances are the sums of the transfers.
        assert_eq!(transfers(&self.core.rows), balances(&self.core));
        // M-2, P-1: the rows, with what no row holds yet, are the lines.
        let mut rows: BTreeMap<_, (i64, i64)> = BTreeMap::new();
        for row in self.core.rows.iter().flat_map(|rows| &rows.charges) {
            let sum = rows
                .entry((row.instance.to_string(), row.hour.start().unix_ms(), row.price.nanos()))
                .or_default();
            *sum = (sum.0 + row.milliseconds, sum.1 + row.quantity.nanos());
        }
        for it in self.core.state.unwritten_lines() {
            let sum = rows
                .entry((it.instance.id().to_string(), it.line.hour.start().unix_ms(), it.line.price.nanos()))
                .or_default();
            *sum = (sum.0 + it.line.milliseconds, sum.1 + it.line.quantity.nanos());
        }
        rows.retain(|_, sum| *sum != (0, 0));
        assert_eq!(rows, expected.lines);
    }
}

pub(crate) fn transfers(rows: &[EventRows]) -> BTreeMap<(String, String), i128> {
    let mut sums: BTreeMap<(String, String), i128> = BTreeMap::new();
    for row in rows.iter().flat_map(|rows| &rows.transfers) {
        assert!(row.amount > Amount::ZERO);
        *sums.entry((row.debit.to_string(), row.currency.to_string())).or_default() += row.amount.attos();
        *sums.entry((row.credit.to_string(), row.currency.to_string())).or_default() -= row.amount.attos();
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}

pub(crate) fn balances(core: &Core) -> BTreeMap<(String, String), i128> {
    let all = core.state.book().balances().filter(|(.., sum)| !sum.is_zero());
    all.map(|(account, currency, sum)| ((account.to_string(), currency.to_string()), sum.attos())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: lines, balances and accounting are what a rater of another
    /// make says.
    #[test]
    fn m2_m3_p1_u1_b1_the_core_agrees_with_the_oracle(steps in vec(step(), 1..60), known in 0..16_usize) {
        let mut bench = Bench::new();
        for instance in (0..INSTANCES.len()).filter(|instance| known >> instance & 1 == 1) {
            bench.run(&Step::Register { instance });
            bench.run(&Step::Start { instance, back: 0 });
        }
        for step in &steps {
            bench.run(step);
            bench.check_step();
        }
        bench.check_end();
    }

    /// The same facts and reports in another order, repeated, cut and overlapped: the same books.
    #[test]
    fn m1_order_number_and_cut_of_reports_do_not_matter(
        reports in vec((0..3_usize, 0..5 * HOUR, 1..70 * MINUTE), 1..25),
        runs in vec((0..3 * HOUR, 1..2 * HOUR), 3),
        prices in vec((0..HOUR, 0..4_000_000_000_i64), 0..4),
        seed in any::<u64>(),
    ) {
        let plain = deliver(&reports, &runs, &prices, None);
        let mixed = deliver(&reports, &runs, &prices, Some(Chance(seed)));
        assert_eq!(plain, mixed);
    }
}

/// Delivers in order and whole, or as chance has it; answers with the digest of the end.
fn deliver(
    reports: &[(usize, i64, i64)],
    runs: &[(i64, i64)],
    prices: &[(i64, i64)],
    chance: Option<Chance>,
) -> blake3::Hash {
    enum To {
        Report(usize, i64, i64),
        /// Register, start and stop, in this order, whenever their turns come.
        Life(usize),
        Tick,
    }
    let begin = ms(BEGIN);
    let policy = Policy { clock_skew_max_ms: SKEW, acceptance_window_ms: DAY_AND_MORE, grace_ms: 0 };
    let mut core = Core::open(begin, policy, &[("acme", Currency::USD)]);
    let mut from = begin + SKEW;
    for (version, (after, nanos)) in (2..).zip(prices) {
        from += after + 1;
        core.run(Command::PublishRateCard(card(Currency::USD, version, from, *nanos))).unwrap();
    }
    core.now = begin + 8 * HOUR;

    let mut deliveries = Vec::new();
    for instance in 0..runs.len() {
        deliveries.extend([To::Life(instance), To::Life(instance), To::Life(instance)]);
    }
    let mut chance = chance;
    for (instance, offset, length) in reports {
        match &mut chance {
            None => deliveries.push(To::Report(*instance, *offset, *length)),
            Some(chance) => {
                for _ in 0..=chance.below(2) {
                    // Two parts that meet or overlap.
                    let cut = chance.within(1, length + 1);
                    let back = chance.within(0, cut);
                    deliveries.push(To::Report(*instance, *offset, cut));
                    if cut < *length {
                        deliveries.push(To::Report(*instance, offset + cut - back, length - cut + back));
                    }
                }
                deliveries.push(To::Tick);
            }
        }
    }
    if let Some(chance) = &mut chance {
        chance.shuffle(&mut deliveries);
    }
    let mut lives = vec![0; runs.len()];
    for (seq, delivery) in (0..).zip(deliveries) {
        match delivery {
            To::Tick => drop(core.run(Command::Tick).unwrap()),
            To::Report(instance, offset, length) => {
                let gpus = u32::try_from(instance).unwrap() + 1;
                let record = record(&name(instance), gpus, begin + offset, begin + offset + length);
                core.run(Command::AcceptUsage(batch("agent-1", seq, vec![record]))).unwrap();
            }
            To::Life(instance) => {
                let (name, (offset, length)) = (name(instance), runs[instance]);
                let gpus = u32::try_from(instance).unwrap() + 1;
                let next = match lives[instance] {
                    0 => Command::RegisterInstance(registration(&name, "acme", gpus)),
                    1 => start(&name, begin + offset),
                    _ => stop(&name, begin + offset + length),
                };
                lives[instance] += 1;
                core.run(next).unwrap();
            }
        }
        if chance.as_mut().is_some_and(|chance| chance.one_in(3)) {
            core.now += MINUTE;
        }
    }
    core.now = begin + DAY_AND_MORE / 2;
    core.run(Command::Tick).unwrap();
    digest(&core.state).unwrap()
}

const DAY_AND_MORE: i64 = 30 * HOUR;

/// A price that takes over within the clock's skew would change what reports from a fast clock were
/// billed already.
#[test]
fn p1_a_price_cannot_change_under_what_a_fast_clock_reported() {
    let mut bench = Bench::new();
    let begin = ms(BEGIN);
    bench.register(0);
    bench.run(&Step::Start { instance: 0, back: 0 });
    bench.usage(0, &[Draft { instance: 0, wrong: false, end: End::Sent(SKEW), length: SKEW }]);
    for ahead in [0, SKEW - 1] {
        let early = Command::PublishRateCard(card(Currency::USD, 2, begin + ahead, 1_000_000_000));
        assert_eq!(bench.core.run(early).unwrap_err().code(), "card_refused");
        let contract = contract(1, begin + ahead, None, 1_000_000_000);
        let early = Command::SignContract { tenant: "acme".parse().unwrap(), contract };
        assert_eq!(bench.core.run(early).unwrap_err().code(), "card_refused");
    }
    bench.run(&Step::Card { ahead: SKEW, nanos: 1_000_000_000 });
    bench.run(&Step::Contract { tenant: 0, ahead: SKEW, length: None, nanos: 1 });
    assert_eq!((bench.facts.cards.len(), bench.facts.contracts.len()), (2, 1));
    bench.run(&Step::Stop { instance: 0, back: 1 - SKEW });
    bench.check_end();
}

/// The last instant has no millisecond behind it in which something could run.
#[test]
fn nothing_starts_or_stops_at_the_end_of_time() {
    let mut core = Core::open(FOREVER - HOUR, Policy::default(), &[("acme", Currency::USD)]);
    core.run(Command::RegisterInstance(registration("i-1", "acme", 1))).unwrap();
    core.now = FOREVER;
    assert_eq!(core.run(start("i-1", FOREVER)).unwrap_err().code(), "in_the_future");
    core.run(start("i-1", FOREVER - 1)).unwrap();
    assert_eq!(core.run(stop("i-1", FOREVER)).unwrap_err().code(), "in_the_future");
    assert_eq!(at(FOREVER), core.state.now());
}

/// A region with very many instances closes its hour in several ticks; all the time rows and what no
/// row holds yet are the lines.
#[test]
fn p1_many_lines_are_written_by_many_ticks() {
    let begin = ms("2026-01-01T00:00:00Z");
    let mut core = Core::open(begin, Policy::default(), &[("acme", Currency::USD)]);
    let instances = LINES_A_TICK_MAX + 3;
    let id = |n: usize| format!("i-{n}");
    core.now = begin + HOUR;
    for n in 0..instances {
        core.run(Command::RegisterInstance(registration(&id(n), "acme", 8))).unwrap();
        core.run(start(&id(n), begin)).unwrap();
        core.run(usage(&id(n), 8, begin, begin + MINUTE)).unwrap();
    }
    let written = |core: &Core| core.rows.iter().map(|rows| rows.charges.len()).sum::<usize>();
    for expected in [LINES_A_TICK_MAX, instances, instances] {
        core.run(Command::Tick).unwrap();
        assert_eq!(written(&core), expected);
        assert_eq!(core.state.unwritten_lines().count(), instances - expected);
        assert_eq!(core.state.has_lines_to_write(), expected < instances);
    }
    let rows = core.rows.iter().flat_map(|rows| &rows.charges);
    assert!(rows.clone().all(|row| row.milliseconds == MINUTE));
    let ids: std::collections::BTreeSet<_> = rows.map(|row| row.instance.clone()).collect();
    assert_eq!(ids.len(), instances);
}
