//! I-1, I-2 and I-3 on random months: everything used is invoiced once, exactly, and can be drawn
//! again from the log.

use std::collections::BTreeMap;

use hourglass_ledger::core::invoicing::{self, Invoice, LineKind};
use hourglass_ledger::core::{Account, Command, Policy, digest};
use hourglass_test_chance::Chance;
use hourglass_units::{Amount, Currency, Month, TenantId};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::metering::{balances, transfers};
use super::support::{
    Core, DAY, HOUR, at, batch, card, finalise, ms, record, registration, start, stop, usage,
};

const BEGIN: &str = "2026-01-01T00:00:00Z";
const TENANTS: [(&str, Currency); 3] =
    [("acme", Currency::USD), ("bolt", Currency::JPY), ("cord", Currency::KWD)];
const GPUS: [u32; 3] = [8, 1, 3];

#[derive(Debug, Clone)]
enum Step {
    Advance(i64),
    /// Usage that ended so long ago.
    Usage {
        instance: usize,
        back: i64,
        length: i64,
    },
    /// The instance stops, perhaps long ago, and starts again at once or soon.
    Restart {
        instance: usize,
        back: i64,
        pause: i64,
    },
    Card {
        tenant: usize,
        nanos: i64,
    },
    Tick,
    /// Finalises all that is due, as the clockwork does.
    FinaliseDue,
    /// Somebody asks for a month by hand.
    Finalise {
        tenant: usize,
        month: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let instance = 0..TENANTS.len();
    prop_oneof![
        4 => (HOUR..12 * DAY).prop_map(Step::Advance),
        8 => (instance.clone(), 0..45 * DAY, 1..DAY)
            .prop_map(|(instance, back, length)| Step::Usage { instance, back, length }),
        2 => (instance.clone(), 0..45 * DAY, 0..HOUR)
            .prop_map(|(instance, back, pause)| Step::Restart { instance, back, pause }),
        1 => (instance.clone(), 0..9_000_000_000_i64).prop_map(|(tenant, nanos)| Step::Card { tenant, nanos }),
        2 => proptest::strategy::Just(Step::Tick),
        3 => proptest::strategy::Just(Step::FinaliseDue),
        1 => (instance, 1..7_u32).prop_map(|(tenant, month)| Step::Finalise { tenant, month }),
    ]
}

struct Bench {
    core: Core,
    versions: [u32; 3],
    seq: u64,
}

impl Bench {
    fn new() -> Self {
        let begin = ms(BEGIN);
        let mut core = Core::open(begin, Policy::default(), &TENANTS);
        for (instance, (tenant, _)) in TENANTS.iter().enumerate() {
            core.run(Command::RegisterInstance(registration(&name(instance), tenant, GPUS[instance])))
                .unwrap();
            core.run(start(&name(instance), begin)).unwrap();
        }
        Self { core, versions: [1; 3], seq: 0 }
    }

    /// Does it; what the core refuses is no part of the books.
    fn run(&mut self, step: &Step) {
        let now = self.core.now;
        match step {
            Step::Advance(by) => self.core.now += by,
            Step::Usage { instance, back, length } => {
                let end = now - back;
                let record = record(&name(*instance), GPUS[*instance], end - length, end);
                self.seq += 1;
                self.core.run(Command::AcceptUsage(batch("agent-1", self.seq, vec![record]))).unwrap();
            }
            Step::Restart { instance, back, pause } => {
                if self.core.run(stop(&name(*instance), now - back)).is_ok() {
                    self.core.run(start(&name(*instance), (now - back + pause).min(now))).unwrap();
                }
            }
            Step::Card { tenant, nanos } => {
                let version = self.versions[*tenant] + 1;
                let card = card(TENANTS[*tenant].1, version, now + HOUR, *nanos);
                if self.core.run(Command::PublishRateCard(card)).is_ok() {
                    self.versions[*tenant] = version;
                }
            }
            Step::Tick => drop(self.core.run(Command::Tick).unwrap()),
            Step::FinaliseDue => self.finalise_due(),
            Step::Finalise { tenant, month } => {
                let command = finalise(TENANTS[*tenant].0, &format!("2026-{month:02}"));
                if self.core.run(command).is_ok() {
                    self.check_last_invoice();
                }
            }
        }
    }

    fn finalise_due(&mut self) {
        for (tenant, period) in invoicing::due(&self.core.state, at(self.core.now)) {
            let command = Command::FinaliseInvoice { tenant, period };
            self.core.run(command).expect("what is due can be finalised in the order given");
            self.check_last_invoice();
        }
    }

    fn check_last_invoice(&self) {
        let rows = &self.core.rows.last().unwrap().invoices;
        let [row] = rows.as_slice() else { panic!("one invoice, not {}", rows.len()) };
        let invoice = Invoice::from_document(&row.document).unwrap();
        assert_eq!((&row.tenant, row.number, row.period), (&invoice.tenant, invoice.number, invoice.period));
        check_i1(&invoice);

        // I-2: from the log before it, byte for byte.
        let position = invoice.provenance.position;
        let (state, chain) = self.core.replay(position);
        assert_eq!(chain.to_hex().as_str(), invoice.provenance.chain_hash);
        let Invoice { tenant, number, period, issued_at, .. } = &invoice;
        let drawn = invoicing::draw(&state, tenant, *period, *number, *issued_at, &chain).unwrap();
        assert_eq!(drawn.to_document(), row.document);
    }

    fn invoices(&self) -> Vec<Invoice> {
        let rows = self.core.rows.iter().flat_map(|rows| &rows.invoices);
        rows.map(|row| Invoice::from_document(&row.document).unwrap()).collect()
    }

    /// Lets all hours and months pass, invoices what is left and compares.
    fn check_end(&mut self) {
        self.core.now += 70 * DAY;
        self.core.run(Command::Tick).unwrap();
        self.finalise_due();
        assert_eq!(invoicing::due(&self.core.state, at(self.core.now)), []);
        // I-3: Σ invoices before rounding = Σ charges, and no account keeps anything unbilled.
        let mut charged: BTreeMap<String, i128> = BTreeMap::new();
        for row in self.core.rows.iter().flat_map(|rows| &rows.charges) {
            *charged.entry(row.tenant.to_string()).or_default() += row.amount.attos();
        }
        assert_eq!(self.core.state.unwritten_lines().filter(|it| !it.line.quantity.is_zero()).count(), 0);
        let mut invoiced: BTreeMap<String, (i128, i128)> = BTreeMap::new();
        let mut numbers: BTreeMap<TenantId, u64> = BTreeMap::new();
        for invoice in self.invoices() {
            let sum = invoiced.entry(invoice.tenant.to_string()).or_default();
            *sum = (sum.0 + invoice.exact_total.attos(), sum.1 + invoice.total.attos());
            let number = numbers.entry(invoice.tenant.clone()).or_default();
            *number += 1;
            assert_eq!(invoice.number, *number, "numbers have no gap");
        }
        for (tenant, currency) in TENANTS {
            let (exact, payable) = invoiced.get(tenant).copied().unwrap_or_default();
            assert_eq!(exact, charged.get(tenant).copied().unwrap_or_default(), "I-3: {tenant}");
            let balance = |account| self.core.state.book().balance(&account, currency).attos();
            assert_eq!(balance(Account::Unbilled(tenant.parse().unwrap())), 0);
            assert_eq!(balance(Account::Receivable(tenant.parse().unwrap())), payable);
        }
        assert_eq!(transfers(&self.core.rows), balances(&self.core));
    }
}

/// I-1: by addition in integers, and each line off by less than a minor unit.
fn check_i1(invoice: &Invoice) {
    let unit = invoice.currency.attos_per_minor_unit();
    let sum = |amounts: Vec<Amount>| amounts.iter().map(|amount| amount.attos()).sum::<i128>();
    let exact = sum(invoice.lines.iter().map(|line| line.exact_amount).collect());
    let total = sum(invoice.lines.iter().map(|line| line.amount).collect());
    assert_eq!((exact, total), (invoice.exact_total.attos(), invoice.total.attos()));
    assert_eq!(total - exact, invoice.rounding.attos());
    assert_eq!(total % unit, 0);
    let off = (total - exact).abs() * 2;
    assert!(off < unit || (off == unit && total / unit % 2 == 0), "rounded half to even");
    for line in &invoice.lines {
        let (price, quantity) = (line.price.unwrap(), line.quantity.unwrap());
        let product = i128::from(price.nanos()) * i128::from(quantity.nanos());
        assert_eq!(line.exact_amount.attos(), product, "U-1");
        assert_eq!(line.amount.attos() % unit, 0);
        assert!((line.amount.attos() - product).abs() < unit);
        assert_eq!(line.kind, LineKind::Usage);
        assert_eq!(line.correction, line.period < invoice.period, "I-3: a correction names its period");
    }
}

fn name(instance: usize) -> String {
    format!("i-{instance}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_i2_i3_all_usage_is_invoiced_once_and_can_be_drawn_again(steps in vec(step(), 1..60)) {
        let mut bench = Bench::new();
        for step in &steps {
            bench.run(step);
        }
        bench.check_end();
    }

    /// M-1: reports that come before the month is final make the same invoice in any order.
    #[test]
    fn m1_the_invoice_does_not_depend_on_the_order_of_reports(
        reports in vec((0..3_usize, DAY..28 * DAY, 1..DAY), 1..20),
        seed in any::<u64>(),
    ) {
        let digests = [None, Some(Chance(seed))].map(|chance| {
            let mut bench = Bench::new();
            bench.core.now = ms("2026-02-01T00:00:00Z");
            let mut reports = reports.clone();
            if let Some(mut chance) = chance {
                reports.extend(reports.clone());
                chance.shuffle(&mut reports);
            }
            for (instance, offset, length) in reports {
                let end = ms(BEGIN) + offset;
                bench.core.run(usage(&name(instance), GPUS[instance], end - length, end)).unwrap();
            }
            bench.core.now = ms("2026-02-05T00:00:00Z");
            bench.finalise_due();
            bench.core.run(Command::Tick).unwrap();
            digest(&bench.core.state).unwrap()
        });
        assert_eq!(digests[0], digests[1]);
    }
}

/// January of one instance: used on the 31st for ten hours at 2.95, finalised.
fn january() -> Bench {
    let mut bench = Bench::new();
    bench.core.now = ms("2026-02-01T00:00:00Z");
    let end = ms("2026-02-01T00:00:00Z");
    bench.core.run(usage("i-0", 8, end - 10 * HOUR, end)).unwrap();
    bench.core.now = ms("2026-02-04T00:00:00Z");
    bench.finalise_due();
    assert_eq!(bench.invoices()[0].total.to_string(), "236");
    bench
}

/// I-3: the customer left in January; what came late must still reach an invoice by itself.
#[test]
fn i3_a_correction_is_due_even_where_no_later_month_has_usage() {
    let mut bench = january();
    bench.core.run(stop("i-0", ms("2026-01-31T20:00:00Z"))).unwrap();
    assert_eq!(invoicing::due(&bench.core.state, at(bench.core.now)), [], "February has not ended");
    bench.core.now = ms("2026-03-04T00:00:00Z");
    bench.finalise_due();
    let invoices = bench.invoices();
    let [_, credit] = invoices.as_slice() else { panic!("{} invoices", invoices.len()) };
    assert_eq!((credit.number, credit.period.to_string().as_str()), (2, "2026-02"));
    assert_eq!(credit.total.to_string(), "-94.4");
    let line = &credit.lines[0];
    assert_eq!((line.correction, line.period.to_string().as_str()), (true, "2026-01"));
    let codes: Vec<_> =
        bench.core.rows.last().unwrap().transfers.iter().map(|row| row.code.as_str()).collect();
    assert_eq!(codes, ["accrual_reversal", "credit_note"]);
    assert_eq!(invoicing::due(&bench.core.state, at(bench.core.now)), [], "and once only");
}

/// I-3: usage that comes after the invoice stands on the next one, under its own month.
#[test]
fn i3_late_usage_is_a_correction_that_names_its_month() {
    let mut bench = january();
    bench.core.run(usage("i-0", 8, ms("2026-01-10T00:00:00Z"), ms("2026-01-10T01:00:00Z"))).unwrap();
    bench.core.run(usage("i-0", 8, ms("2026-02-02T00:00:00Z"), ms("2026-02-02T01:00:00Z"))).unwrap();
    bench.core.now = ms("2026-03-04T00:00:00Z");
    bench.finalise_due();
    let invoices = bench.invoices();
    let lines: Vec<_> = invoices[1]
        .lines
        .iter()
        .map(|line| (line.correction, line.period.to_string(), line.amount.to_string()))
        .collect();
    let january = (true, "2026-01".to_owned(), "23.6".to_owned());
    assert_eq!(lines, [(false, "2026-02".to_owned(), "23.6".to_owned()), january]);
}

/// A preview with number 0 says what the invoice will say.
#[test]
fn a_draft_is_the_invoice_but_for_its_number() {
    let mut bench = january();
    bench.core.run(usage("i-0", 8, ms("2026-02-02T00:00:00Z"), ms("2026-02-02T01:00:00Z"))).unwrap();
    bench.core.now = ms("2026-03-04T00:00:00Z");
    let (tenant, period): (TenantId, Month) = ("acme".parse().unwrap(), "2026-02".parse().unwrap());
    let draft = invoicing::draw(&bench.core.state, &tenant, period, 0, at(bench.core.now), &bench.core.chain);
    bench.core.run(finalise("acme", "2026-02")).unwrap();
    let last = bench.invoices().pop().unwrap();
    assert_eq!(Invoice { number: 2, ..draft.unwrap() }, last);
}
