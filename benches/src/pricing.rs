//! Rating, invoices, re-rating and explaining: what the books of a whole month cost.

use std::hint::black_box;

use hourglass_consumers::billing::explain;
use hourglass_ledger::core::explain as core_explain;
use hourglass_ledger::core::rows::{EventRows, NoRows};
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{
    Command, Decision, Event, Policy, Position, Recorded, Request, RerateDraft, State, apply, decide,
    rerating,
};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::log::{self, StoredEvent};
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresStore};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_ledger::store::{Acquire, Commit, Store};
use hourglass_pricing::rating::Tariff;
use hourglass_pricing::{PurchaseModel, RateCard, RateCardDraft, SpotPrices};
use hourglass_proto::v1;
use hourglass_test_servers::Postgres;
use hourglass_units::{Hour, INSTANT_MIN, Instant, Interval, Price};
use prost::Message;

use crate::figure::{Figure, median, seconds};
use crate::memory::resident_bytes;
use crate::workload::{self, GPUS, RECORDS, id, opens_at, run as run_command, set_up_at};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const MONTH_DAYS: i64 = 30;
const MONTH_HOURS: usize = 720;
/// Events that one commit of the set-up writes.
const EVENTS_A_COMMIT: usize = 64;

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let mut figures = vec![cut_pieces(quick)];
    figures.extend(month_of_a_tenant(quick));
    figures.push(rerate(quick));
    figures.push(explain_a_line(quick));
    figures
}

fn card(version: u32, nanos: i64) -> RateCardDraft {
    let price = |model| hourglass_pricing::PriceDraft {
        platform: "gpu-0".parse().expect("a platform"),
        region: "bench".parse().expect("a region"),
        model,
        price: Price::from_nanos(nanos).expect("a price"),
        from: None,
        until: None,
        components: Vec::new(),
    };
    RateCardDraft {
        name: "list".parse().expect("a name"),
        version,
        currency: hourglass_units::Currency::USD,
        effective_from: opens_at(),
        prices: vec![price(PurchaseModel::OnDemand), price(PurchaseModel::Spot)],
    }
}

/// Coverage cut by the steps of a spot pool, one each ten minutes, and by hours.
fn cut_pieces(quick: bool) -> Figure {
    let card = RateCard::check(card(1, 1_000_000_000)).expect("a card");
    let timeline = card.prices().values().next().expect("a price");
    let mut pool = SpotPrices::default();
    for step in 0..6 * MONTH_HOURS as i64 {
        let price = Price::from_nanos(1_000_000_000 + step % 97 * 1_000_000).expect("a price");
        pool.push(opens_at().saturating_add_ms(step * HOUR_MS / 6), price);
    }
    let tariff = Tariff { prices: timeline, pool: Some(&pool), limit: Price::from_nanos(1_090_000_000).ok() };
    let month = Interval::between(opens_at(), opens_at().saturating_add_ms(MONTH_HOURS as i64 * HOUR_MS));
    let days: Vec<Interval> = month
        .into_iter()
        .flat_map(|month| {
            (0..30).filter_map(move |day| {
                let from = month.start().saturating_add_ms(day * DAY_MS + 7);
                Interval::between(from, from.saturating_add_ms(DAY_MS))?.intersection(month)
            })
        })
        .collect();
    let rounds = if quick { 200 } else { 2_000 };
    let (mut rates, mut ceilings) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut pieces = 0_u64;
        let (took, ()) = seconds(|| {
            for day in (0..rounds).flat_map(|_| &days) {
                for cut in tariff.cuts(*day) {
                    black_box(cut);
                    pieces += 1;
                }
            }
        });
        rates.push(pieces as f64 / took);
        // What must be done at least: the same days, cut by hours alone.
        let mut hours = 0_u64;
        let (bare, ()) = seconds(|| {
            for day in (0..rounds).flat_map(|_| &days) {
                for cut in day.by_hour() {
                    black_box(cut);
                    hours += 1;
                }
            }
        });
        ceilings.push(hours as f64 / bare);
    }
    Figure {
        name: "rating: cut pieces",
        value: median(rates),
        unit: "pieces/s",
        ceiling: Some(median(ceilings)),
        target: ">= 3 M pieces/s",
    }
}

/// A state in which so many instances, of one tenant or of all, reported each hour of a month, by reports
/// of a day. Lines are written as they close.
fn month_of(instances: usize, only: Option<usize>, mut also: impl FnMut(Instant, &Recorded)) -> State {
    days(instances, MONTH_DAYS, only, |state, at, recorded| {
        let _answer = apply(state, at, recorded, &mut NoRows).expect("an event");
        also(at, recorded);
    })
}

/// The same of all tenants, with the rows of each event.
pub(crate) fn month_with_rows(instances: usize, also: impl FnMut(Instant, &Recorded, EventRows)) -> State {
    days_with_rows(instances, MONTH_DAYS, None, also)
}

/// Some days of all tenants or of one, with the rows of each event.
pub(crate) fn days_with_rows(
    instances: usize,
    count: i64,
    only: Option<usize>,
    mut also: impl FnMut(Instant, &Recorded, EventRows),
) -> State {
    days(instances, count, only, |state, at, recorded| {
        let mut rows = EventRows::default();
        let _answer = apply(state, at, recorded, &mut rows).expect("an event");
        also(at, recorded, rows);
    })
}

fn days(
    instances: usize,
    count: i64,
    only: Option<usize>,
    mut happens: impl FnMut(&mut State, Instant, &Recorded),
) -> State {
    let mut state = State::empty();
    for mut command in set_up_at(opens_at(), instances, |_| None) {
        if let (Some(only), Command::RegisterInstance(registration)) = (only, &mut command) {
            registration.tenant = workload::tenant(only).parse().expect("a tenant");
        }
        let request = Request { command: &command, key: None, now: opens_at(), chain_hash: log::genesis() };
        if let Ok(Decision::Happens(recorded)) = decide(&state, &request) {
            happens(&mut state, opens_at(), &recorded);
        }
    }
    for day in 0..count {
        let now = opens_at().saturating_add_ms((day + 1) * DAY_MS);
        let start = now.unix_ms() - DAY_MS;
        let numbers: Vec<usize> = (0..instances).collect();
        for numbers in numbers.chunks(RECORDS) {
            let record = |n: &usize| v1::UsageRecord {
                instance_id: id(*n),
                session: 1,
                start_unix_ms: start,
                end_unix_ms: start + DAY_MS,
                gpus: GPUS,
                evidence: None,
            };
            let records = numbers.iter().map(record).collect();
            let batch = v1::UsageBatch { agent_id: "agent-1".to_owned(), epoch: 1, first_seq: 0, records };
            let batch = UsageBatch::parse(batch.encode_to_vec().into()).expect("a batch");
            let recorded = Recorded { key: None, event: Event::UsageAccepted(batch) };
            happens(&mut state, now, &recorded);
        }
        let tick = Recorded { key: None, event: Event::Ticked };
        loop {
            happens(&mut state, now, &tick);
            if !state.has_lines_to_write() {
                break;
            }
        }
    }
    state
}

/// An invoice over a million charge rows of one tenant, with allowances and tiers.
fn month_of_a_tenant(quick: bool) -> Vec<Figure> {
    let instances = if quick { 140 } else { 1_000_000_usize.div_ceil(MONTH_HOURS) };
    let before = resident_bytes();
    let mut state = month_of(instances, Some(0), |_, _| {});
    let terms = r#"{"discounts": [{"percent_off": "12.5"}], "allowances": [{"gpu_hours": "100"}],
        "tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "100000", "percent_off": "10"}]}]}"#;
    let contract = hourglass_pricing::ContractDraft {
        name: "deal".parse().expect("a name"),
        version: 1,
        effective_from: "2026-03-01T00:00:00Z".parse().expect("a time"),
        effective_until: None,
        prices: Vec::new(),
        terms: serde_json::from_str(terms).expect("terms"),
    };
    let tenant: hourglass_units::TenantId = workload::tenant(0).parse().expect("a tenant");
    let now: Instant = "2026-02-04T00:00:00Z".parse().expect("a time");
    run_command(&mut state, &Command::SignContract { tenant: tenant.clone(), contract }, now);
    let period = "2026-01".parse().expect("a month");
    let command = Command::FinaliseInvoice { tenant, period };
    let mut times = Vec::new();
    for _ in 0..3 {
        let mut copy = state.clone();
        let (took, ()) = seconds(|| {
            let request = Request { command: &command, key: None, now, chain_hash: log::genesis() };
            let Ok(Decision::Happens(recorded)) = decide(&copy, &request) else { return };
            let mut rows = EventRows::default();
            let _answer = apply(&mut copy, now, &recorded, &mut rows).expect("an event");
            black_box(rows);
        });
        times.push(took);
    }
    let held = resident_bytes().saturating_sub(before) as f64 / (1 << 20) as f64;
    vec![
        Figure {
            name: "invoice of 1 M charge rows",
            value: median(times) * 1_000.0,
            unit: "ms",
            ceiling: None,
            target: "< 1,000 ms",
        },
        Figure {
            name: "memory of that cell and a copy",
            value: held,
            unit: "MiB",
            ceiling: None,
            target: "< 1 GiB",
        },
    ]
}

/// The preview of a re-rating of ten million lines, from a ledger in PostgreSQL: its log is folded, and
/// what would change is measured line by line.
fn rerate(quick: bool) -> Figure {
    let instances = if quick { 1_400 } else { 10_000_000_usize.div_ceil(MONTH_HOURS) };
    let server = Postgres::shared();
    let url = server.database();
    let mut store = PostgresStore::open(&PostgresOptions::new(url.as_str())).expect("a store");
    let mut writer = Writer::new(&mut store);
    let state = month_of(instances, None, |at, recorded| writer.write(at, recorded));
    writer.flush();
    let reader = store.reader();
    let draft = RerateDraft {
        card: card(9, 1_111_111_111),
        from: opens_at(),
        until: opens_at().saturating_add_ms(30 * DAY_MS),
        tenant: None,
        into_closed: true,
    };
    drop(state);
    let mut times = Vec::new();
    for _ in 0..3 {
        let (took, compared) = seconds(|| {
            let loaded = load(reader.as_ref(), From::Snapshot, |_, _| {}).expect("the ledger");
            let now = loaded.state.now();
            let rerating = rerating::check(&loaded.state, &draft, now).expect("a re-rating that fits");
            rerating::preview(&loaded.state, &rerating, |line| {
                black_box(line);
            })
            .expect("a preview")
            .lines_compared
        });
        assert!(compared > 0, "some lines are on the platform");
        // Two of eight SKUs are on the card: what is compared is a quarter of the lines.
        times.push(took * 10_000_000.0 / compared as f64);
    }
    Figure {
        name: "re-rating preview, per 10 M lines",
        value: median(times),
        unit: "s",
        ceiling: None,
        target: "< 30 s",
    }
}

/// Writes events into a store, with no rows where what is asked is computed from the log.
pub(crate) struct Writer<'a> {
    store: &'a mut dyn Store,
    head: hourglass_ledger::store::Head,
    waiting: Vec<(StoredEvent, EventRows)>,
    chain: blake3::Hash,
    position: Position,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(store: &'a mut dyn Store) -> Self {
        let holder = "bench".to_owned();
        let acquire = Acquire { holder, now: INSTANT_MIN, lease_until: INSTANT_MIN, holder_is_gone: true };
        let head = store.acquire(&acquire).expect("a writer");
        Self { store, head, waiting: Vec::new(), chain: log::genesis(), position: Position::ZERO }
    }

    fn write(&mut self, at: Instant, recorded: &Recorded) {
        self.write_with_rows(at, recorded, EventRows::default());
    }

    pub(crate) fn write_with_rows(&mut self, at: Instant, recorded: &Recorded, rows: EventRows) {
        self.position = self.position.next();
        let event = StoredEvent::chain(&self.chain, self.position, self.head.epoch, at, recorded);
        self.chain = event.hash;
        self.waiting.push((event, rows));
        if self.waiting.len() == EVENTS_A_COMMIT {
            self.flush();
        }
    }

    pub(crate) fn flush(&mut self) {
        let (events, rows): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let Some(last) = events.last() else { return };
        let (position, hash) = (last.position, last.hash);
        let commit = Commit {
            epoch: self.head.epoch,
            after: self.head.position,
            after_hash: self.head.hash,
            lease_until: INSTANT_MIN,
            rows,
            events,
            cursors: Vec::new(),
        };
        self.store.commit(&commit).expect("a commit");
        (self.head.position, self.head.hash) = (position, hash);
    }
}

/// One hour of one of 10,000 instances that report each minute: from the state, the charge rows and the
/// events that are its evidence, on SQLite.
fn explain_a_line(quick: bool) -> Figure {
    let instances = if quick { 2_000 } else { 10_000 };
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = SqliteStore::open(directory.path(), SqliteOptions::default()).expect("a store");
    let mut writer = Writer::new(&mut store);
    let mut state = State::empty();
    for command in set_up_at(opens_at(), instances, |_| None) {
        let request = Request { command: &command, key: None, now: opens_at(), chain_hash: log::genesis() };
        if let Ok(Decision::Happens(recorded)) = decide(&state, &request) {
            let _answer = apply(&mut state, opens_at(), &recorded, &mut NoRows).expect("an event");
            writer.write(opens_at(), &recorded);
        }
    }
    for minute in 0..180 {
        let now = opens_at().saturating_add_ms((minute as i64 + 1) * workload::REPORT_MS);
        for raw in workload::round(instances, minute) {
            let batch = UsageBatch::parse(raw).expect("a batch");
            let recorded = Recorded { key: None, event: Event::UsageAccepted(batch) };
            let _answer = apply(&mut state, now, &recorded, &mut NoRows).expect("an event");
            writer.write(now, &recorded);
        }
    }
    writer.flush();
    let reader = store.reader();
    let hour = Hour::containing(opens_at().saturating_add_ms(2 * HOUR_MS));
    let mut times = Vec::new();
    for n in (0..instances).step_by(instances / 20) {
        let (took, explained) = seconds(|| {
            let explained = core_explain::hour(&state, &id(n), hour).expect("an instance");
            explain::charge(reader.as_ref(), explained, Policy::default(), state.position())
                .expect("an explanation")
        });
        assert!(explained.evidence_is_complete && explained.evidence.len() == 60, "an hour of minutes");
        times.push(took * 1_000.0);
    }
    Figure { name: "explain a line", value: median(times), unit: "ms", ceiling: None, target: "< 50 ms" }
}
