//! Whoever adds up the rows, the report is the same.

use std::collections::BTreeMap;

use hourglass_ledger::core::rows::{ChargeRow, EventRows};
use hourglass_ledger::core::{Event, Position, Recorded};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_ledger::store::{Acquire, ChargeFilter, Commit, Reader, Store};
use hourglass_pricing::PurchaseModel;
use hourglass_test_chance::{Chance, FIRST_SEED, from_environment};
use hourglass_units::{Currency, HOUR_MILLISECONDS, Hour, Instant, Labels, Price, Quantity};

use super::collect::Collector;
use super::{AsOf, DayCube, GroupBy, Unwritten, UsageQuery, UsageReport, usage_report};

const TENANTS: [&str; 2] = ["acme", "bolt"];
/// 2026-02-25T00:00:00Z: some days before the end of a month.
const FIRST_HOUR: i64 = 20_509 * 24;
const HOURS: i64 = 7 * 24;

fn hour(number: i64) -> Hour {
    Hour::containing(Instant::from_unix_ms(number * HOUR_MILLISECONDS).unwrap())
}

fn epoch() -> Instant {
    Instant::from_unix_ms(0).unwrap()
}

fn row(chance: &mut Chance) -> ChargeRow {
    let price = Price::from_nanos(chance.within(1, 4) * 1_000_000_007).unwrap();
    // Corrections take back.
    let quantity = Quantity::from_nanos(chance.within(-2_000_000_000, 8_000_000_000));
    ChargeRow {
        tenant: chance.pick(&TENANTS).parse().unwrap(),
        project: chance.pick(&["ml", "web"]).parse().unwrap(),
        instance: format!("i-{}", chance.below(4)).parse().unwrap(),
        platform: chance.pick(&["h100", "h200"]).parse().unwrap(),
        region: "eu".parse().unwrap(),
        model: *chance.pick(&[PurchaseModel::OnDemand, PurchaseModel::Spot]),
        reservation: None,
        price,
        effective_price: price,
        hour: hour(FIRST_HOUR + chance.within(0, HOURS)),
        gpus: 8,
        milliseconds: quantity.nanos() / 1_000,
        quantity,
        amount: price.times(quantity),
        currency: Currency::USD,
    }
}

/// Writes rows behind what is there, as those of one event.
fn write(store: &mut SqliteStore, charges: Vec<ChargeRow>) {
    let head = store.reader().head().unwrap();
    let recorded = Recorded { key: None, event: Event::Ticked };
    let event = StoredEvent::chain(&head.hash, head.position.next(), head.epoch, epoch(), &recorded);
    let rows = vec![EventRows { charges, ..EventRows::default() }];
    let commit = Commit {
        epoch: head.epoch,
        after: head.position,
        after_hash: head.hash,
        lease_until: epoch(),
        events: vec![event],
        rows,
        cursors: Vec::new(),
    };
    store.commit(&commit).unwrap();
}

fn query(chance: &mut Chance) -> UsageQuery {
    let maybe = |chance: &mut Chance| chance.one_in(3);
    let mut bounds = [chance.within(-30, HOURS), chance.within(0, HOURS + 30)];
    bounds.sort_unstable();
    // Often whole days.
    let [from, until] = bounds.map(|hour| if chance.one_in(2) { hour.div_euclid(24) * 24 } else { hour });
    let filter = ChargeFilter {
        tenant: maybe(chance).then(|| chance.pick(&TENANTS).parse().unwrap()),
        project: maybe(chance).then(|| "ml".parse().unwrap()),
        instance: maybe(chance).then(|| "i-1".parse().unwrap()),
        from: (!maybe(chance)).then(|| hour(FIRST_HOUR + from)),
        until: (!maybe(chance)).then(|| hour(FIRST_HOUR + until + 1)),
    };
    let keys: Vec<GroupBy> = GroupBy::ALL.into_iter().chain([GroupBy::Label("team".into())]).collect();
    let mut group_by: Vec<GroupBy> = Vec::new();
    for _ in 0..chance.below(4) {
        let key = chance.pick(&keys).clone();
        if !group_by.contains(&key) {
            group_by.push(key);
        }
    }
    UsageQuery {
        filter,
        platform: maybe(chance).then(|| "h100".parse().unwrap()),
        region: maybe(chance).then(|| "eu".parse().unwrap()),
        model: maybe(chance).then_some(PurchaseModel::Spot),
        labels: if maybe(chance) { vec!["team=a".parse().unwrap()] } else { Vec::new() },
        group_by,
    }
}

fn report(reader: &dyn Reader, cube: Option<&DayCube>, query: &UsageQuery, at: Position) -> UsageReport {
    let label =
        |(instance, team): (&str, &str)| (instance.parse().unwrap(), Labels::new([("team", team)]).unwrap());
    let labels: BTreeMap<_, _> = [("i-1", "a"), ("i-2", "b"), ("i-3", "a")].map(label).into();
    let as_of = AsOf { position: at.number(), time: String::new() };
    let collected = Collector::new(query.clone(), labels);
    usage_report(reader, cube, Unwritten { position: at, as_of, collected }, query).unwrap()
}

/// Of random rows and queries: the day sums in memory, the store and both together say the same, wherever
/// the cube stands (U-1).
#[test]
fn u1_the_cube_and_the_store_add_up_to_the_same() {
    let first = from_environment(FIRST_SEED, 0);
    let mut by_cube = 0;
    for seed in first..first + 12 {
        let mut chance = Chance(seed);
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
        let (now, lease_until) = (epoch(), epoch());
        store.acquire(&Acquire { holder: "t".to_owned(), now, lease_until, holder_is_gone: true }).unwrap();
        let mut cube = DayCube::default();
        for _ in 0..6 {
            let rows = (0..chance.below(400)).map(|_| row(&mut chance)).collect();
            write(&mut store, rows);
            let reader = store.reader();
            let head = reader.head().unwrap().position;
            if chance.one_in(2) {
                let until =
                    Position::new(chance.within(0, i64::try_from(head.number()).unwrap() + 1).unsigned_abs());
                assert!(cube.catch_up(reader.as_ref(), until, usize::MAX).unwrap());
            }
            for _ in 0..20 {
                let query = query(&mut chance);
                by_cube += usize::from(cube.days_of(&query, head).is_some());
                let expected = report(reader.as_ref(), None, &query, head);
                let found = report(reader.as_ref(), Some(&cube), &query, head);
                assert_eq!(found, expected, "HOURGLASS_FIRST_SEED={seed} {query:?}");
            }
        }
    }
    assert!(by_cube > 300, "{by_cube} reports came from the cube");
}

/// A cube that is further than the answer is not asked: what it holds cannot be taken out again.
#[test]
fn a_cube_never_tells_of_the_future() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
    let (now, lease_until) = (epoch(), epoch());
    store.acquire(&Acquire { holder: "t".to_owned(), now, lease_until, holder_is_gone: true }).unwrap();
    let mut chance = Chance(7);
    for _ in 0..2 {
        let rows = (0..50).map(|_| row(&mut chance)).collect();
        write(&mut store, rows);
    }
    let (reader, mut cube) = (store.reader(), DayCube::default());
    assert!(!cube.catch_up(reader.as_ref(), Position::new(2), 0).unwrap(), "no row is folded");
    assert!(cube.catch_up(reader.as_ref(), Position::new(2), usize::MAX).unwrap());
    let query = UsageQuery::default();
    assert_eq!(cube.days_of(&query, Position::new(1)), None);
    let first = Position::new(1);
    assert_eq!(
        report(reader.as_ref(), Some(&cube), &query, first),
        report(reader.as_ref(), None, &query, first)
    );
}
