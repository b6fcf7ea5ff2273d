//! Random lives of a cell that sells in every way: after each step the book holds, and after each
//! `Tick` what is posted is what settling everything anew gives.

mod acts;
mod checks;

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::settle::{Item, ItemKey};
use hourglass_quota::hold::{Ended, HoldState};
use hourglass_quota::tree::{Counter, Fit};
use hourglass_quota::{Bound, Class, HoldId, Limits, NodeName};
use hourglass_units::{
    Amount, Currency, Hour, InstanceId, Instant, Interval, Price, ProjectId, Quantity, ReservationId,
    TenantId,
};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::accounts::{Reach, items};
use super::exposure::{SpendWindow, charged, exposed, falling_due, spent};
use super::metering::quantity;
use super::quotas::{Ask, QuotaCommand};
use super::rows::EventRows;
use super::tests::{Bench, at, batch};
use super::{
    Command, Decision, Mode, Position, Registration, Rejection, Request, State, apply, decide, digest,
    invoicing,
};

use crate::verify::quotas::{Before, Watch};
use acts::*;
use checks::*;

const BEGIN: &str = "2026-03-28T00:00:00Z";
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const TENANTS: [&str; 2] = ["acme", "bolt"];
const INSTANCES: [(&str, usize, u32); 5] =
    [("i-0", 0, 8), ("i-1", 0, 4), ("i-2", 0, 8), ("i-3", 1, 8), ("i-4", 1, 1)];

struct Life {
    bench: Bench,
    /// Every row that a closed month can have, in order.
    written: Vec<(Position, EventRows)>,
    unused: BTreeMap<(ReservationId, Hour), i64>,
    reserved_used: BTreeMap<(ReservationId, Hour), i64>,
    events: Vec<(Instant, super::Recorded)>,
    quotas: QuotaOracle,
}

fn card(name: &str, version: u32, from: Instant, nanos: i64) -> hourglass_pricing::RateCardDraft {
    let price = |model, nanos| hourglass_pricing::PriceDraft {
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        model,
        price: Price::from_nanos(nanos).unwrap(),
        from: None,
        until: None,
        components: Vec::new(),
    };
    hourglass_pricing::RateCardDraft {
        name: name.parse().unwrap(),
        version,
        currency: Currency::USD,
        effective_from: from,
        prices: vec![price(hourglass_pricing::PurchaseModel::OnDemand, nanos)],
    }
}

impl Life {
    fn new(terms: &str) -> Self {
        let mut bench = Bench::new();
        bench.now = at(BEGIN);
        let (tenant, display_name) = (TENANTS[1].parse().unwrap(), String::new());
        let mut life = Self {
            bench,
            written: Vec::new(),
            unused: BTreeMap::new(),
            reserved_used: BTreeMap::new(),
            events: Vec::new(),
            quotas: QuotaOracle::default(),
        };
        life.run(Command::OpenTenant { tenant, currency: Currency::USD, display_name }).unwrap();
        let contract = hourglass_pricing::ContractDraft {
            name: "deal".parse().unwrap(),
            version: 1,
            effective_from: at("2026-03-01T00:00:00Z"),
            effective_until: Some(at("2026-05-01T00:00:00Z")),
            prices: Vec::new(),
            terms: serde_json::from_str(terms).unwrap(),
        };
        life.run(Command::SignContract { tenant: TENANTS[0].parse().unwrap(), contract }).unwrap();
        for (instance, tenant, gpus) in INSTANCES {
            let registration = Registration {
                instance: instance.parse().unwrap(),
                tenant: TENANTS[tenant].parse().unwrap(),
                project: if gpus == 8 { "ml" } else { "web" }.parse().unwrap(),
                platform: "h100".parse().unwrap(),
                mode: Mode::OnDemand,
                gpus,
                agent: None,
                hold: None,
                fabric: None,
            };
            life.run(Command::RegisterInstance(registration)).unwrap();
        }
        // Room for one of the large ones, and not for the small one beside it.
        life.act(&Act::Reserve(0, 11, 0, 60, usize::from(terms.len().is_multiple_of(2)) * 3));
        for (instance, back) in [(0, 2), (1, 1), (2, 0)] {
            life.act(&Act::ChangeMode(instance, 2, 0));
            life.act(&Act::Start(instance, back));
            life.bench.now = life.bench.now.saturating_add_ms(1);
        }
        life.act(&Act::ChangeMode(3, 1, 0));
        life.act(&Act::Start(3, 0));
        life
    }

    fn run(&mut self, command: Command) -> Result<super::Answer, Rejection> {
        let (now, chain_hash) = (self.bench.now, crate::log::genesis());
        let request = Request { command: &command, key: None, now, chain_hash };
        let recorded = match decide(&self.bench.state, &request)? {
            Decision::Happens(recorded) => recorded,
            Decision::AlreadyApplied(answer) => return Ok(answer),
        };
        assert_eq!(super::Recorded::decode(&recorded.encode()).unwrap(), recorded, "it reads back");
        let draft = match &recorded.event {
            super::Event::InvoiceFinalised(invoice) => Some(
                invoicing::draw_kind(
                    &self.bench.state,
                    invoice.kind,
                    &invoice.tenant,
                    invoice.period,
                    0,
                    now,
                    &chain_hash,
                )
                .unwrap(),
            ),
            _ => None,
        };
        let before = self.quotas.watch.before(&self.bench.state, now, &recorded);
        let mut rows = EventRows::default();
        let answer = apply(&mut self.bench.state, now, &recorded, &mut rows)
            .unwrap_or_else(|error| panic!("{error}: {:?}", recorded.event));
        self.quotas.follow(&self.bench.state, before, &recorded);
        if let (Some(draft), super::Event::InvoiceFinalised(invoice)) = (draft, &recorded.event) {
            let numbered = invoicing::Invoice { number: invoice.number, ..draft };
            assert_eq!(numbered.to_document(), invoice.to_document(), "preview = finalise");
        }
        self.written.push((answer.position, rows.clone()));
        for row in rows.charges {
            if let Some(reservation) = &row.reservation {
                *self.reserved_used.entry((reservation.clone(), row.hour)).or_default() +=
                    row.quantity.nanos();
            }
        }
        for row in rows.unused {
            *self.unused.entry((row.reservation, row.hour)).or_default() += row.quantity.nanos();
        }
        self.events.push((now, recorded));
        self.check_book();
        Ok(answer)
    }

    fn ago(&self, back: i64) -> Instant {
        self.bench.now.saturating_add_ms(-back).max(at(BEGIN))
    }

    fn act(&mut self, act: &Act) {
        let tenant = |t: usize| TENANTS[t].parse().unwrap();
        let id = |i: usize| INSTANCES[i].0.parse().unwrap();
        let now = self.bench.now;
        let hour = |ahead: i64| Hour::containing(now).start().saturating_add_ms(ahead * HOUR);
        let command = match *act {
            Act::Wait(ms) => {
                self.bench.now = now.saturating_add_ms(ms);
                return;
            }
            Act::Tick => {
                self.tick();
                return;
            }
            Act::Start(i, back) => Command::StartInstance { instance: id(i), at: self.ago(back) },
            Act::Stop(i, back) => {
                Command::StopInstance { instance: id(i), at: self.ago(back), cause: String::new() }
            }
            Act::Report(i, back, length) => {
                let end = self.ago(back);
                let start = end.saturating_add_ms(-length);
                Command::AcceptUsage(batch(&[(INSTANCES[i].0, INSTANCES[i].2, start, end)]))
            }
            Act::Continue(i, ahead) => {
                let view = self.bench.state.instance(INSTANCES[i].0).unwrap();
                let Some(last) = view.reported().last().map(|last| last.end()) else { return };
                let until = now.saturating_add_ms(ahead);
                let start = last.max(until.saturating_add_ms(-20 * HOUR));
                if start >= until {
                    return;
                }
                Command::AcceptUsage(batch(&[(INSTANCES[i].0, INSTANCES[i].2, start, until)]))
            }
            Act::ChangeMode(i, mode, back) => {
                let mode = match mode {
                    0 => Mode::OnDemand,
                    1 => Mode::Spot {
                        bid: None,
                        limit: Some(Price::from_nanos(1_200_000_000).unwrap()),
                        fabric: None,
                    },
                    n => Mode::Reserved { reservation: format!("r-{}", n - 2).parse().unwrap() },
                };
                Command::ChangeMode { instance: id(i), mode, at: self.ago(back) }
            }
            Act::Spot(price) => Command::SetSpotPrice {
                platform: "h100".parse().unwrap(),
                currency: Currency::USD,
                price: Price::from_nanos(price * 300_000_000).unwrap(),
                fabric: None,
                from: None,
            },
            Act::Reserve(t, gpus, from, length, payment) => {
                let price = Price::from_nanos(1_000_000_007).unwrap();
                let payment = match payment {
                    0 => hourglass_pricing::reservation::Payment::Upfront { price },
                    1 => hourglass_pricing::reservation::Payment::UpfrontTotal {
                        total: Amount::parse("100").unwrap(),
                    },
                    2 => hourglass_pricing::reservation::Payment::Monthly { price },
                    _ => hourglass_pricing::reservation::Payment::Flex { holding: price, usage: price },
                };
                let count = self.bench.state.reservations().count();
                Command::Reserve {
                    tenant: tenant(t),
                    reservation: hourglass_pricing::reservation::ReservationDraft {
                        reservation: format!("r-{count}").parse().unwrap(),
                        project: "ml".parse().unwrap(),
                        platform: "h100".parse().unwrap(),
                        gpus,
                        from: hour(from),
                        until: hour(from + length),
                        payment,
                        fabric: None,
                    },
                }
            }
            Act::Amend(r, ahead) => {
                let reservation: ReservationId = format!("r-{r}").parse().unwrap();
                let held = self
                    .bench
                    .state
                    .reservations()
                    .find(|it| it.reservation.draft().reservation == reservation);
                let Some(tenant) = held.map(|held| held.tenant.clone()) else { return };
                Command::AmendReservation { tenant, reservation, until: hour(ahead) }
            }
            Act::Credit(t, kind, amount, until, priority) => {
                let credit = super::CreditDraft {
                    // A name that does not depend on what else happened.
                    credit: format!("c-{}", self.bench.state.tenant(&tenant(t)).unwrap().credits.len())
                        .parse()
                        .unwrap(),
                    kind: [super::CreditKind::Prepaid, super::CreditKind::Promotional][kind],
                    amount: Amount::from_attos(i128::from(amount) * 1_000_000_000_000_000_003),
                    priority: priority % 5,
                    valid_from: None,
                    valid_until: until.map(hour),
                    project: (priority % 3 == 0).then(|| "ml".parse().unwrap()),
                    platform: None,
                    note: String::new(),
                };
                Command::GrantCredit { tenant: tenant(t), credit }
            }
            Act::Tax(t, line) => {
                let rounding = if line { "line" } else { "total" };
                let tax = format!(
                    r#"{{"name": "VAT", "rate_percent": "19", "kind": "exclusive", "rounding": "{rounding}"}}"#
                );
                Command::SetTax { tenant: tenant(t), tax: Some(serde_json::from_str(&tax).unwrap()) }
            }
            Act::Rerate(back, length, price, into_closed) => {
                let from = hour(-back).max(at(BEGIN));
                let until = from.saturating_add_ms(length * HOUR + 123).min(now);
                let card = card("list", 7, at(BEGIN), price * 1_111_111_111);
                Command::Rerate(super::RerateDraft { card, from, until, tenant: None, into_closed })
            }
            Act::VoidUsage(i, back, length) => {
                let until = self.ago(back);
                let from = until.saturating_add_ms(-length);
                Command::VoidUsage { instance: id(i), from, until, reason: String::new() }
            }
            Act::Finalise(t) => {
                let due = invoicing::due(&self.bench.state, now);
                let Some((tenant, period)) = due.into_iter().find(|(it, _)| it.as_str() == TENANTS[t]) else {
                    return;
                };
                let done = self.run(Command::FinaliseInvoice { tenant, period });
                done.expect("what is due can be finalised");
                return;
            }
            Act::Pay(t, number) => {
                let invoices = &self.bench.state.tenant(&tenant(t)).unwrap().invoices;
                let Some(open) = invoices.get(&number).map(super::FinalisedInvoice::open) else { return };
                Command::RecordPayment { tenant: tenant(t), number, amount: open, reference: String::new() }
            }
            Act::VoidInvoice(t, number) => {
                Command::VoidInvoice { tenant: tenant(t), number, reason: String::new() }
            }
            Act::Close(prepared) => {
                if prepared {
                    self.tick();
                    (0..TENANTS.len()).for_each(|t| self.act(&Act::Finalise(t)));
                }
                let Some(month) = self.bench.state.periods().next() else { return };
                Command::ClosePeriod { month }
            }
            Act::CreditNote(t) => Command::IssueCreditNote { tenant: tenant(t) },
            Act::Quota(ref quota) => match self.quota_command(quota) {
                Some(command) => command,
                None => return,
            },
        };
        let before = self.bench.state.position();
        if self.run(command).is_err() {
            assert_eq!(self.bench.state.position(), before);
        }
    }

    fn quota_command(&self, quota: &Quota) -> Option<Command> {
        let quotas = self.bench.state.quotas();
        let tenant = |t: usize| TENANTS[t].parse().unwrap();
        let project = |n: usize| (tenant(n % 2), ["ml", "web", "lab"][n / 2 % 3].parse().unwrap());
        let nodes: Vec<_> = quotas.tree().nodes().collect();
        let node = |n: usize| quotas.tree().name(nodes[n % nodes.len()]).unwrap().clone();
        let class = |c: usize| Class::ALL[c];
        let resource = || "compute.instance.gpu.h100".parse().unwrap();
        let hold = |n: usize| quotas.holds().iter().nth(n % quotas.holds().len().max(1)).map(|(id, _)| id);
        let lease = |n: usize| {
            let count = quotas.leases().iter().count().max(1);
            quotas.leases().iter().nth(n % count)
        };
        let items = |c: usize, amount| vec![Ask { resource: resource(), class: class(c), amount }];
        Some(Command::Quota(Box::new(match *quota {
            Quota::Group(t, g) => {
                let parent = (g > 0).then(|| format!("g-{}", g - 1).parse().unwrap());
                QuotaCommand::CreateGroup {
                    tenant: tenant(t),
                    group: format!("g-{g}").parse().unwrap(),
                    parent,
                }
            }
            Quota::Place(t, p, g) => {
                let group = (g > 0).then(|| format!("g-{}", g - 1).parse().unwrap());
                QuotaCommand::PlaceProject { tenant: tenant(t), project: project(2 * p).1, group }
            }
            Quota::Limit(n, c, nominal, borrowing, lending, drain) => {
                // More than so much is any amount.
                let bound = |amount: u64| if amount > 24 { Bound::Unlimited } else { Bound::AtMost(amount) };
                let borrowing =
                    if class(c) == Class::Preemptible { bound(borrowing) } else { Bound::AtMost(0) };
                let lending = if class(c) == Class::Reserved { Bound::Unlimited } else { bound(lending) };
                let limits = nominal.map(|it| Limits { nominal: bound(it), borrowing, lending, drain });
                QuotaCommand::SetLimits { node: node(n), resource: resource(), class: class(c), limits }
            }
            Quota::Hold(p, c, amount, seconds) => {
                let ((tenant, project), items) = (project(p), items(c, amount));
                QuotaCommand::Reserve { tenant, project, items, ttl_ms: seconds * 1_000 }
            }
            Quota::Commit(n) => QuotaCommand::Commit { hold: hold(n)? },
            Quota::Release(n) => QuotaCommand::Release { hold: hold(n)? },
            Quota::Renew(n, seconds) => QuotaCommand::Renew { hold: hold(n)?, ttl_ms: seconds * 1_000 },
            Quota::Resize(n, c, amount) => QuotaCommand::Resize { hold: hold(n)?, items: items(c, amount) },
            Quota::Register(p, m, n, gpus) => {
                let (mut tenant, mut project) = project(p);
                let (mut gpus, mut mode) = (gpus, m);
                let hold = n.and_then(hold);
                // Mostly what fits the hold.
                if let Some(it) = hold.filter(|_| p % 8 != 0).and_then(|id| quotas.holds().get(id)) {
                    if let Some(NodeName::Project(of, its)) = quotas.tree().name(it.node) {
                        (tenant, project) = (of.clone(), its.clone());
                    }
                    gpus = u32::try_from(it.items[0].1).unwrap();
                    mode = Class::ALL.iter().position(|class| *class == it.items[0].0.class()).unwrap();
                }
                let mode = match mode {
                    0 => Mode::OnDemand,
                    1 => Mode::Spot {
                        bid: None,
                        limit: Some(Price::from_nanos(1_200_000_000).unwrap()),
                        fabric: None,
                    },
                    _ => Mode::Reserved { reservation: format!("r-{}", p % 4).parse().unwrap() },
                };
                let instance = format!("j-{}", self.bench.state.instances.len()).parse().unwrap();
                let platform = "h100".parse().unwrap();
                let it = Registration {
                    instance,
                    tenant,
                    project,
                    platform,
                    mode,
                    gpus,
                    agent: None,
                    hold,
                    fabric: None,
                };
                return Some(Command::RegisterInstance(it));
            }
            Quota::Lease(n, c, wants, safe_capacity) => QuotaCommand::AcquireLease {
                node: node(n),
                resource: resource(),
                class: class(c),
                holder: "far".to_owned(),
                wants,
                safe_capacity: safe_capacity.min(wants),
            },
            Quota::Refresh(n, wants, unknown) => {
                let (lease, it) = lease(n)?;
                let known_version = it.version.saturating_sub(unknown);
                QuotaCommand::RefreshLease { lease, wants, known_version, in_use: 0 }
            }
            Quota::Return(n) => QuotaCommand::ReturnLease { lease: lease(n)?.0 },
            Quota::Ask(n, c, wanted) => QuotaCommand::RequestIncrease {
                node: node(n),
                resource: resource(),
                class: class(c),
                wanted: Bound::AtMost(wanted),
                justification: "more".to_owned(),
                requested_by: "ops".to_owned(),
            },
            Quota::Answer(n, granted) => {
                let open = quotas.requests().filter(|(_, it)| it.decision.is_none()).nth(n % 4);
                let (request, granted) = (open?.0, granted.map(Bound::AtMost));
                let (approver, reason) = ("ops".to_owned(), "asked".to_owned());
                QuotaCommand::DecideRequest { request, granted, approver, reason }
            }
            Quota::Review => QuotaCommand::Review,
        })))
    }

    fn tick(&mut self) {
        self.run(Command::Tick).unwrap();
        check_settled(&self.bench.state);
        check_buckets(&self.bench.state);
        check_room(&self.bench.state);
    }

    fn check_book(&self) {
        let book = self.bench.state.book();
        assert!(book.sums().all(|(_, sum)| sum == Some(Amount::ZERO)), "B-1");
        for (account, _, balance) in book.balances() {
            assert!(!account.has_floor() || balance <= Amount::ZERO, "B-4: {account} {balance}");
        }
    }

    /// P-2 for all hours that are written, B-5 for all months that are closed.
    fn check_end(&mut self) {
        self.tick();
        check_closed(&self.bench.state, &self.written);
        for held in self.bench.state.reservations() {
            let id = &held.reservation.draft().reservation;
            for (hour, part) in held.reservation.interval().by_hour() {
                if hour < held.written_until() {
                    let unused = self.unused.get(&(id.clone(), hour)).copied().unwrap_or(0);
                    assert!(unused >= -8, "{id} {hour}: more is used than is reserved: {unused}");
                    let sum = |of: &BTreeMap<_, i64>| of.get(&(id.clone(), hour)).copied().unwrap_or(0);
                    let both = sum(&self.unused) + sum(&self.reserved_used);
                    assert_eq!(both, held.reservation.quantity_within(part).nanos(), "P-2: {id} {hour}");
                }
            }
        }
    }
}

/// The check can fail: a counter that is off by one, another one, a hold that its events know otherwise.
#[test]
fn q1_q3_what_does_not_add_up_is_found() {
    let mut life = Life::new(TERMS[0]);
    for (project, amount) in [(1, 3), (3, 5)] {
        life.act(&Act::Quota(Quota::Hold(project, 0, amount, 300)));
    }
    let sound = &life.bench.state;
    assert_eq!(life.quotas.watch.at_end(sound), []);
    let (id, hold) = sound.quotas().holds().iter().next().map(|(id, hold)| (id, hold.clone())).unwrap();
    let found = |change: &dyn Fn(&mut super::quotas::Quotas)| -> Vec<&'static str> {
        let mut state = sound.clone();
        change(&mut state.quotas);
        let mut checks: Vec<_> =
            life.quotas.watch.at_end(&state).into_iter().map(|(check, _)| check).collect();
        checks.dedup();
        checks
    };
    let one = [(hold.items[0].0, 1)];
    assert_eq!(found(&|it| it.tree.add(hold.node, Counter::Held, &one).unwrap()), ["Q-1"]);
    assert_eq!(found(&|it| it.tree.remove(hold.node, Counter::Held, &one).unwrap()), ["Q-1"]);
    let moved = (Counter::Held, Counter::Committed);
    assert_eq!(found(&|it| it.tree.recount(hold.node, moved, &hold.items).unwrap()), ["Q-1"]);
    let ended = Ended { state: HoldState::Expired, at: sound.now(), position: 1, node: hold.node };
    assert_eq!(found(&|it| drop(it.holds.end(&mut it.tree, id, ended).unwrap())), ["Q-3"]);
    let other = HoldId(1 << 40);
    assert_eq!(found(&|it| it.holds.take(&mut it.tree, other, hold.clone()).unwrap()), ["Q-3"]);
    assert_eq!(found(&|it| it.holds.commit(&mut it.tree, id, 1).unwrap()), ["Q-3"]);
    assert_eq!(found(&|it| it.holds.renew(id, sound.now(), 1).unwrap()), ["Q-3"]);
}

const TERMS: [&str; 4] = [
    r#"{"discounts": [{"percent_off": "33.3333"}]}"#,
    r#"{"allowances": [{"gpu_hours": "3.5"}], "tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "10", "price": "2.1"}]}], "minimum": "77.77"}"#,
    r#"{"commitment": {"amount": "123.456", "overage_percent": "110"}}"#,
    r#"{"discounts": [{"percent_off": "10"}], "allowances": [{"gpu_hours": "1"}], "tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "20", "percent_off": "25"}]}], "commitment": {"amount": "50", "overage_percent": "120"}, "minimum": "10"}"#,
];

/// Rules by which one GPU-hour can make another dearer.
const DEARER: [&str; 4] = [
    r#"{"tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "10", "price": "4"}, {"above": "30", "percent_off": "5"}]}]}"#,
    r#"{"allowances": [{"gpu_hours": "9"}], "tiers": [{"scope": {"project": "web"}, "tiers": [{"above": "0", "price": "7"}]}]}"#,
    r#"{"commitment": {"scope": {"project": "ml"}, "amount": "40", "overage_percent": "150"}, "tiers": [{"tiers": [{"above": "0", "price": "3"}, {"above": "10", "price": "1"}]}], "minimum": "60"}"#,
    r#"{"commitment": {"amount": "60", "overage_percent": "50"}, "allowances": [{"scope": {"project": "ml"}, "gpu_hours": "5"}]}"#,
];

/// The charges that a spend cap can be about.
fn capped() -> Vec<(TenantId, Option<ProjectId>, SpendWindow)> {
    let windows =
        ["2026-03", "2026-04", "2026-05"].map(|period| SpendWindow::Period(period.parse().unwrap()));
    let mut capped = Vec::new();
    for tenant in TENANTS {
        for project in [None, Some("ml"), Some("web")] {
            for window in windows.into_iter().chain([SpendWindow::Total]) {
                capped.push((tenant.parse().unwrap(), project.map(|it| it.parse().unwrap()), window));
            }
        }
    }
    capped
}

impl Life {
    /// What no report can do, and no start that was foreseen: usage before `until`, and what follows from
    /// it. An instance starts again where it ran, or at the earliest where it may run.
    fn is_foreseen(&self, act: &Act, until: Instant, since: &[Option<Instant>]) -> bool {
        let now = self.bench.now;
        match *act {
            Act::Wait(ms) => now.saturating_add_ms(ms) <= until,
            Act::Continue(_, ahead) => now.saturating_add_ms(ahead) <= until,
            Act::Start(i, back) => since[i].is_some_and(|since| since <= self.ago(back)),
            // Without rules that count periods, nothing becomes dearer when something is taken back.
            Act::Stop(i, _) => INSTANCES[i].1 == 1,
            Act::ChangeMode(..)
            | Act::Reserve(..)
            | Act::Amend(..)
            | Act::Rerate(..)
            | Act::Quota(..)
            | Act::VoidUsage(..) => false,
            _ => true,
        }
    }

    /// Since when an instance may yet be said to run. One that takes room in a reservation away from
    /// another makes that one dearer, so it is left alone.
    fn may_run_since(&self, i: usize, back: Option<i64>) -> Option<Instant> {
        let view = self.bench.state.instance(INSTANCES[i].0).unwrap();
        let reserved = view.modes().iter().any(|(_, mode)| matches!(mode, Mode::Reserved { .. }));
        view.running_since().or(back.map(|back| self.ago(back))).filter(|_| !reserved)
    }

    /// Reports an instance as far back as reports are accepted.
    fn report_all(&mut self, i: usize, until: Instant) {
        let day = |n: i64| until.saturating_add_ms(-n * 24 * HOUR);
        let records: Vec<_> = (0..63).map(|n| (INSTANCES[i].0, INSTANCES[i].2, day(n + 1), day(n))).collect();
        self.run(Command::AcceptUsage(batch(&records))).unwrap();
    }
}

/// So many random lives, or what `PROPTEST_CASES` says.
fn cases(cases: u32) -> ProptestConfig {
    let from_environment = std::env::var("PROPTEST_CASES").is_ok();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if from_environment { default.cases } else { cases }, ..default }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..cases(96) })]

    #[test]
    fn b1_b4_p2_whatever_is_sold_however_the_book_holds(acts in vec(act(), 1..120), terms in 0..TERMS.len()) {
        let mut life = Life::new(TERMS[terms]);
        for act in &acts {
            life.act(act);
        }
        life.check_end();
        // B-3: the log alone makes the same state, and a snapshot is the state.
        let mut again = State::empty();
        let mut first = Bench::new();
        std::mem::swap(&mut again, &mut first.state);
        for (now, recorded) in &life.events {
            apply(&mut again, *now, recorded, &mut EventRows::default()).unwrap();
        }
        assert!(again == life.bench.state, "B-3: the log makes another state");
        let snapshot = crate::snapshot::Snapshot::of(&again, &crate::log::genesis()).unwrap();
        assert!(snapshot.open().expect("a snapshot opens").0 == again, "the snapshot is another state");
    }

    /// Q-1 and Q-3, where much is lent and claimed back.
    #[test]
    fn q1_q3_whatever_is_lent_no_limit_is_crossed(acts in vec(market(), 1..120)) {
        let mut life = Life::new(TERMS[0]);
        for act in &acts[..acts.len().min(2)] {
            life.act(act);
        }
        let limits = [("ml", 0, 8), ("web", 0, 9), ("lab", 0, 4), ("ml", 1, 2), ("web", 1, 0), ("lab", 1, 3)];
        for (project, class, nominal) in limits {
            let borrowing = if class == 1 { Bound::Unlimited } else { Bound::AtMost(0) };
            let limits = Some(Limits { borrowing, drain: true, ..Limits::nominal(Bound::AtMost(nominal)) });
            let node = format!("tenants/bolt/projects/{project}").parse().unwrap();
            let (resource, class) = ("compute.instance.gpu.h100".parse().unwrap(), Class::ALL[class]);
            life.run(Command::Quota(Box::new(QuotaCommand::SetLimits { node, resource, class, limits }))).unwrap();
        }
        for group in 0..2 {
            life.act(&Act::Quota(Quota::Group(1, group)));
        }
        for act in &acts {
            life.act(act);
        }
        // Everything stops, everybody gives back: nothing is left.
        for id in life.quotas.running.clone() {
            // What never started cannot stop.
            let instance = id.clone();
            let _runs_already = life.run(Command::StartInstance { instance, at: life.bench.now });
            life.bench.now = life.bench.now.saturating_add_ms(1);
            life.run(Command::StopInstance { instance: id, at: life.bench.now, cause: String::new() }).unwrap();
        }
        while life.bench.state.quotas().leases().iter().next().is_some() {
            life.act(&Act::Quota(Quota::Return(0)));
        }
        let holds = life.bench.state.quotas().holds().iter();
        let committed = holds.filter(|(_, hold)| hold.state == HoldState::Committed).map(|(id, _)| id);
        for hold in committed.collect::<Vec<_>>() {
            life.run(Command::Quota(Box::new(QuotaCommand::Release { hold }))).unwrap();
        }
        life.act(&Act::Wait(100 * HOUR));
        life.act(&Act::Quota(Quota::Review));
        let tree = life.bench.state.quotas().tree();
        assert!(life.bench.state.quotas().holds().is_empty(), "Q-3");
        for node in tree.nodes() {
            for (key, standing) in tree.standings(node) {
                assert_eq!(standing.taken.claimed(), 0, "Q-3: {key:?}");
            }
        }
    }

    /// M-1: however reports come, lines, balances and credits are the same.
    #[test]
    fn m1_the_order_of_reports_does_not_matter_however_it_is_sold(
        acts in vec(act(), 1..60),
        reports in vec((0..INSTANCES.len(), 0..100 * HOUR, 1..8 * HOUR), 1..40),
        keys in vec(any::<u32>(), 80),
        terms in 0..TERMS.len(),
    ) {
        let digests = [false, true].map(|shuffled| {
            let mut life = Life::new(TERMS[terms]);
            let mut reports = reports.clone();
            if shuffled {
                let mut keyed: Vec<_> = reports.iter().chain(&reports).copied().zip(keys.iter().copied()).collect();
                keyed.sort_by_key(|(_, key)| *key);
                reports = keyed.into_iter().map(|(report, _)| report).collect();
            }
            let facts = acts.iter().filter(|act| !matches!(act, Act::Report(..) | Act::Continue(..) | Act::VoidUsage(..) | Act::Wait(..) | Act::Close(_) | Act::Finalise(_) | Act::VoidInvoice(..) | Act::CreditNote(_) | Act::Spot(_)));
            let end = at(BEGIN).saturating_add_ms(100 * HOUR);
            let mut facts = facts.peekable();
            let mut reports = reports.into_iter().peekable();
            // Facts and reports take turns; time stands still meanwhile, so no credit expires.
            life.bench.now = end;
            let mut turn = 0_u32;
            while facts.peek().is_some() || reports.peek().is_some() {
                turn += 1;
                let report_first = shuffled == (turn.is_multiple_of(3));
                if report_first || facts.peek().is_none() {
                    if let Some((i, offset, length)) = reports.next() {
                        let from = at(BEGIN).saturating_add_ms(offset);
                        let until = from.saturating_add_ms(length).min(end);
                        if from < until {
                            let usage = batch(&[(INSTANCES[i].0, INSTANCES[i].2, from, until)]);
                            life.run(Command::AcceptUsage(usage)).unwrap();
                        }
                    }
                } else if let Some(fact) = facts.next() {
                    life.act(fact);
                }
            }
            life.bench.now = at(BEGIN).saturating_add_ms(2_400 * HOUR);
            life.tick();
            while let Some((tenant, period)) = invoicing::due(&life.bench.state, life.bench.now).into_iter().next() {
                life.run(Command::FinaliseInvoice { tenant, period }).unwrap();
                life.tick();
            }
            digest(&life.bench.state).unwrap()
        });
        assert_eq!(digests[0], digests[1]);
    }

    /// Spend caps: what was spent, falls due and is exposed is more than what is ever charged for usage
    /// before the horizon, however late it is reported; and when all of it is, nothing is exposed.
    #[test]
    fn no_report_adds_more_than_was_exposed(
        before in vec(act(), 1..60),
        after in vec(act(), 1..60),
        horizon in prop_oneof![0..3 * HOUR, 0..400 * HOUR],
        unsaid in vec(proptest::option::of(0..30 * HOUR), INSTANCES.len()),
        late in vec((0..INSTANCES.len(), 0..300 * HOUR, 1..24 * HOUR), 0..20),
        pause in 0..60 * 24 * HOUR,
        terms in 0..TERMS.len() + DEARER.len(),
    ) {
        let mut life = Life::new(TERMS.iter().chain(&DEARER).nth(terms).unwrap());
        for act in &before {
            life.act(act);
        }
        life.run(Command::Tick).unwrap();
        let until = life.bench.now.saturating_add_ms(horizon);
        let since: Vec<Option<Instant>> = (0..).zip(&unsaid).map(|(i, back)| life.may_run_since(i, *back)).collect();
        let bounds: Vec<Amount> = capped().iter().map(|(tenant, project, window)| {
            let (state, project) = (&life.bench.state, project.as_ref());
            let exposure = exposed(state, tenant, project, *window, |_| until, |ix| since.get(ix as usize).copied().flatten()).unwrap();
            assert!(exposure.bounded);
            let spent = spent(state, tenant, project, *window).unwrap();
            let due = falling_due(state, tenant, project, *window, until).unwrap();
            spent.checked_add(due).and_then(|sum| sum.checked_add(exposure.amount)).unwrap()
        }).collect();
        let check = |life: &Life| for ((tenant, project, window), bound) in capped().iter().zip(&bounds) {
            let charged = charged(&life.bench.state, tenant, project.as_ref(), *window, until).unwrap();
            let more = charged.checked_sub(*bound).unwrap();
            assert!(charged <= *bound, "{tenant} {project:?} {window:?}: {charged}, {more} more than {bound}");
        };
        for act in &after {
            if life.is_foreseen(act, until, &since) {
                life.act(act);
            }
        }
        check(&life);
        life.bench.now = until;
        life.run(Command::Tick).unwrap();
        check(&life);
        life.bench.now = until.saturating_add_ms(pause);
        for (i, back, length) in late {
            let end = until.saturating_add_ms(-back).max(at(BEGIN));
            let usage = batch(&[(INSTANCES[i].0, INSTANCES[i].2, end.saturating_add_ms(-length), end)]);
            life.run(Command::AcceptUsage(usage)).unwrap();
        }
        check(&life);
        // Those that stopped, and those that are reported until now.
        let now = life.bench.now;
        (0..INSTANCES.len()).for_each(|i| life.report_all(i, until));
        check(&life);
        (0..INSTANCES.len()).for_each(|i| life.report_all(i, now));
        for (tenant, project, window) in capped() {
            let exposure = exposed(&life.bench.state, &tenant, project.as_ref(), window, |_| now, |_| None).unwrap();
            assert_eq!(exposure.amount, Amount::ZERO, "{tenant} {project:?} {window:?}");
        }
    }
}
