//! What every store must do. Each adapter passes the same suite.
//!
//! An adapter brings a [`Harness`]; [`run`] does the rest and panics where the contract is broken. The
//! suite speaks only the port: what an engine must do beyond it, such as refusing to change a row, is
//! the adapter's own test.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a suite for tests fails loudly")]

use hourglass_capacity::auction::receipt::Receipt;
use hourglass_capacity::auction::{Book, BookDraft, Unlimited};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Currency, HOUR_MILLISECONDS, Hour, Instant, Percent, Price, Quantity};
use prost::bytes::Bytes;

use super::{
    Acquire, AcquireError, ChargeFilter, Commit, CommitError, Head, Keyed, PAGE_ROWS_MAX, Page, Reader,
    RowKey, Store, Table, TimelineFilter, TransferFilter, UsageQuery,
};
use crate::core::market::{Cleared, MarketEvent, Trigger};
use crate::core::rows::{
    ChargeRow, EventRows, InvoiceRow, QuarantineRow, TimelineRow, TransferRow, UnusedRow,
};
use crate::core::{Account, Event, LifeStep, Position, Recorded, TransferCode};
use crate::log::{self, StoredEvent};
use crate::snapshot::{SNAPSHOT_FORMAT, Snapshot};

/// How the suite comes by stores.
pub trait Harness {
    /// A store that holds nothing, apart from all that came before.
    fn fresh(&mut self) -> Box<dyn Store>;
    /// The store that [`Self::fresh`] made last, opened again. The suite has dropped it before.
    fn reopen(&mut self) -> Box<dyn Store>;
}

/// Runs the whole suite.
pub fn run(harness: &mut dyn Harness) {
    let cases: [fn(&mut dyn Harness); 16] = [
        a_fresh_store_is_empty,
        writers_take_turns_by_lease_and_epoch,
        a_commit_compares_the_head_and_sets_it,
        a_commit_is_stored_whole_or_not_at_all,
        a_commit_without_events_renews_the_lease,
        cursors_move_with_their_commit,
        events_are_read_without_a_gap,
        clearings_are_found_among_other_events,
        listings_page_in_order,
        listings_filter,
        timelines_filter,
        amounts_are_kept_exactly,
        usage_adds_up,
        invoices_are_found_by_number,
        snapshots_keep_the_newest,
        what_is_committed_outlives_the_store,
    ];
    for case in cases {
        case(harness);
    }
}

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

fn hour(number: i64) -> Hour {
    Hour::containing(at(number * HOUR_MILLISECONDS))
}

fn acquire(store: &mut dyn Store) -> Head {
    let (now, lease_until) = (at(1_000), at(2_000));
    store.acquire(&Acquire { holder: "suite".to_owned(), now, lease_until, holder_is_gone: true }).unwrap()
}

/// A commit of one `Ticked` event for each element of `rows`, behind the head.
fn commit_of(head: &Head, rows: Vec<EventRows>) -> Commit {
    let ticks = rows.iter().map(|_| Event::Ticked).collect();
    Commit { rows, ..commit_of_events(head, ticks) }
}

/// A commit of events without rows, behind the head.
fn commit_of_events(head: &Head, these: Vec<Event>) -> Commit {
    let (mut events, mut hash, mut position) = (Vec::new(), head.hash, head.position);
    let rows = vec![EventRows::default(); these.len()];
    for event in these {
        let recorded = Recorded { key: None, event };
        position = position.next();
        let event = StoredEvent::chain(&hash, position, head.epoch, at(5_000), &recorded);
        hash = event.hash;
        events.push(event);
    }
    let (after, after_hash) = (head.position, head.hash);
    Commit { epoch: head.epoch, after, after_hash, lease_until: at(3_000), events, rows, cursors: Vec::new() }
}

fn append(store: &mut dyn Store, rows: Vec<EventRows>) -> Head {
    let head = store.reader().head().unwrap();
    store.commit(&commit_of(&head, rows)).unwrap();
    store.reader().head().unwrap()
}

fn page(after: RowKey, until: u64, limit: usize) -> Page {
    Page { after, until: Position::new(until), limit }
}

fn all() -> Page {
    page(RowKey::default(), u64::MAX, PAGE_ROWS_MAX)
}

fn key(position: u64, line: u32) -> RowKey {
    RowKey { position: Position::new(position), line }
}

fn keys<T>(rows: &[Keyed<T>]) -> Vec<RowKey> {
    rows.iter().map(|row| row.key).collect()
}

fn charge(tenant: &str, project: &str, instance: &str, in_hour: i64) -> ChargeRow {
    let (price, quantity) = (Price::from_nanos(2_950_000_000).unwrap(), Quantity::from_nanos(-7));
    ChargeRow {
        tenant: tenant.parse().unwrap(),
        project: project.parse().unwrap(),
        instance: instance.parse().unwrap(),
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        model: PurchaseModel::Reserved,
        reservation: Some("r-1".parse().unwrap()),
        price,
        effective_price: Price::from_nanos(3_000_000_000).unwrap(),
        hour: hour(in_hour),
        gpus: 8,
        milliseconds: -25,
        quantity,
        amount: price.times(quantity),
        currency: Currency::USD,
    }
}

fn unused(tenant: &str, in_hour: i64) -> UnusedRow {
    let (effective_price, quantity) = (Price::from_nanos(1).unwrap(), Quantity::from_nanos(-3));
    UnusedRow {
        tenant: tenant.parse().unwrap(),
        project: "p".parse().unwrap(),
        reservation: "r-1".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        hour: hour(in_hour),
        quantity,
        effective_price,
        effective_cost: effective_price.times(quantity),
        currency: Currency::USD,
    }
}

fn transfer(tenant: &str, attos: i128) -> TransferRow {
    let id = || tenant.parse().unwrap();
    TransferRow {
        tenant: id(),
        debit: Account::Receivable(id()),
        credit: Account::Unbilled(id()),
        amount: Amount::from_attos(attos),
        currency: Currency::KWD,
        code: TransferCode::Invoice,
        at: at(4_321),
        reverses: None,
    }
}

fn step(tenant: &str, instance: &str, step: LifeStep) -> TimelineRow {
    TimelineRow {
        tenant: tenant.parse().unwrap(),
        instance: instance.parse().unwrap(),
        step,
        at: at(7_000),
        cause: Some("outbid".to_owned()),
        detail: None,
        deadline: Some(at(67_000)),
    }
}

fn invoice(tenant: &str, number: u64, period: &str) -> InvoiceRow {
    let document = Bytes::from(format!("{{\"of\":\"{tenant}\",\"zero\":\"\u{0}\"}}"));
    InvoiceRow { tenant: tenant.parse().unwrap(), number, period: period.parse().unwrap(), document }
}

fn charges(rows: Vec<ChargeRow>) -> EventRows {
    EventRows { charges: rows, ..EventRows::default() }
}

fn a_fresh_store_is_empty(harness: &mut dyn Harness) {
    let reader = harness.fresh().reader();
    let head = reader.head().unwrap();
    assert_eq!((head.position, head.hash, head.epoch), (Position::ZERO, log::genesis(), 0));
    assert_eq!(reader.events(Position::ZERO, 10).unwrap(), []);
    assert_eq!(reader.newest_snapshot().unwrap(), None);
    for table in Table::ALL {
        assert_eq!(reader.raw_rows(table, all()).unwrap(), [], "{}", table.name());
    }
}

fn writers_take_turns_by_lease_and_epoch(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    let mut ask = |holder: &str, now: i64, holder_is_gone: bool| {
        let holder = holder.to_owned();
        store.acquire(&Acquire { holder, now: at(now), lease_until: at(now + 100), holder_is_gone })
    };
    let first = ask("a", 1_000, false).unwrap();
    assert_eq!((first.epoch, first.holder.as_str(), first.lease_until), (1, "a", at(1_100)));
    let held = AcquireError::Held { holder: "a".to_owned(), until: at(1_100) };
    assert_eq!(ask("b", 1_099, false), Err(held));
    assert_eq!(ask("a", 1_050, false).unwrap().epoch, 2, "its own lease does not keep a writer out");
    assert_eq!(ask("b", 1_060, true).unwrap().epoch, 3, "nor that of a writer that is gone");
    assert_eq!(ask("c", 1_160, false).unwrap().epoch, 4, "nor one that ended");

    store.release(3, at(1_170)).unwrap();
    assert_eq!(store.reader().head().unwrap().lease_until, at(1_260), "a deposed writer releases nothing");
    store.release(4, at(1_170)).unwrap();
    let holder = "d".to_owned();
    let next = Acquire { holder, now: at(1_170), lease_until: at(1_270), holder_is_gone: false };
    assert_eq!(store.acquire(&next).unwrap().epoch, 5);
}

fn a_commit_compares_the_head_and_sets_it(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    let head = acquire(store.as_mut());
    let good = commit_of(&head, vec![EventRows::default(), charges(vec![charge("t", "p", "i", 1)])]);
    let wrong = [
        Commit { epoch: head.epoch + 1, ..good.clone() },
        Commit { epoch: 0, ..good.clone() },
        Commit { after: Position::new(1), ..good.clone() },
        Commit { after_hash: blake3::hash(b"another history"), ..good.clone() },
    ];
    for commit in wrong {
        let error = store.commit(&commit).unwrap_err();
        assert_eq!(error, CommitError::Deposed { position: Position::ZERO, epoch: head.epoch });
        assert_eq!(store.reader().head().unwrap(), head);
        assert_eq!(store.reader().events(Position::ZERO, 10).unwrap(), []);
        assert_eq!(store.reader().raw_rows(Table::Charges, all()).unwrap(), []);
    }
    store.commit(&good).unwrap();
    let after = store.reader().head().unwrap();
    assert_eq!((after.position, after.hash), (Position::new(2), good.events[1].hash));
    assert_eq!((after.epoch, after.lease_until), (head.epoch, good.lease_until));
    let again = store.commit(&good).unwrap_err();
    assert_eq!(again, CommitError::Deposed { position: Position::new(2), epoch: head.epoch });
    assert_eq!(store.reader().events(Position::ZERO, 10).unwrap(), good.events);

    // Another writer takes over; the one before can neither commit nor give the lease back.
    let mut late = commit_of(&after, vec![EventRows::default()]);
    acquire(store.as_mut());
    assert!(matches!(store.commit(&late), Err(CommitError::Deposed { .. })));
    late.epoch += 1;
    store.commit(&late).unwrap();
}

fn a_commit_is_stored_whole_or_not_at_all(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let first = EventRows { invoices: vec![invoice("t", 1, "2026-01")], ..EventRows::default() };
    let head = append(store.as_mut(), vec![first]);
    // The number is taken, which only the last row of the second event runs into.
    let good = charges(vec![charge("t", "p", "i", 1)]);
    let bad = EventRows {
        transfers: vec![transfer("t", 1)],
        invoices: vec![invoice("t", 2, "2026-02"), invoice("t", 1, "2026-03")],
        ..EventRows::default()
    };
    let error = store.commit(&commit_of(&head, vec![good, bad])).unwrap_err();
    assert!(matches!(error, CommitError::NotStored(_)), "{error}");
    let reader = store.reader();
    assert_eq!(reader.head().unwrap(), head);
    assert_eq!(reader.events(head.position, 10).unwrap(), []);
    assert_eq!(reader.charges(&ChargeFilter::default(), all()).unwrap(), []);
    assert_eq!(reader.transfers(&TransferFilter::default(), all()).unwrap(), []);
    assert_eq!(reader.invoices(None, all()).unwrap().len(), 1);
    append(store.as_mut(), vec![EventRows::default()]);
}

fn a_commit_without_events_renews_the_lease(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    let head = acquire(store.as_mut());
    store.commit(&commit_of(&head, Vec::new())).unwrap();
    assert_eq!(store.reader().head().unwrap(), Head { lease_until: at(3_000), ..head.clone() });
    let mut deposed = commit_of(&head, Vec::new());
    deposed.epoch += 1;
    assert!(matches!(store.commit(&deposed), Err(CommitError::Deposed { .. })));
    append(store.as_mut(), vec![EventRows::default()]);
}

/// With events or without, whole or not at all, and never for a deposed writer.
fn cursors_move_with_their_commit(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    let mut head = acquire(store.as_mut());
    let reader = store.reader();
    let moved = |to: &[(&str, u64)]| -> Vec<(String, Position)> {
        to.iter().map(|(name, position)| ((*name).to_owned(), Position::new(*position))).collect()
    };
    let is = |name: &str, position: Option<u64>| {
        assert_eq!(reader.cursor(name).unwrap(), position.map(Position::new), "{name}");
    };
    is("outward", None);
    let without_events =
        Commit { cursors: moved(&[("outward", 3), ("exports", 0)]), ..commit_of(&head, Vec::new()) };
    store.commit(&without_events).unwrap();
    is("outward", Some(3));
    is("exports", Some(0));
    is("", None);

    let rows = vec![EventRows::default()];
    let with_events = Commit { cursors: moved(&[("outward", 5), ("outward", 4)]), ..commit_of(&head, rows) };
    store.commit(&with_events).unwrap();
    is("outward", Some(4));
    is("exports", Some(0));

    head = store.reader().head().unwrap();
    let invoices = vec![invoice("t", 1, "2026-01"), invoice("t", 1, "2026-02")];
    let bad = commit_of(&head, vec![EventRows { invoices, ..EventRows::default() }]);
    let bad = Commit { cursors: moved(&[("outward", 6), ("new", 1)]), ..bad };
    assert!(matches!(store.commit(&bad), Err(CommitError::NotStored(_))));
    let deposed = Commit { cursors: moved(&[("outward", 7)]), ..commit_of(&head, Vec::new()) };
    acquire(store.as_mut());
    for deposed in [deposed, with_events] {
        assert!(matches!(store.commit(&deposed), Err(CommitError::Deposed { .. })));
    }
    is("outward", Some(4));
    is("new", None);
}

fn events_are_read_without_a_gap(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    for _ in 0..3 {
        append(store.as_mut(), vec![EventRows::default(); 7]);
    }
    let reader = store.reader();
    let (mut after, mut chain) = (Position::ZERO, log::genesis());
    while let Some(event) = reader.events(after, 1).unwrap().pop() {
        event.open(after, &chain).unwrap();
        (after, chain) = (event.position, event.hash);
    }
    assert_eq!((after, chain), (Position::new(21), reader.head().unwrap().hash));
    let some = reader.events(Position::new(4), 5).unwrap();
    assert_eq!(some.iter().map(|event| event.position.number()).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    assert_eq!(reader.events(Position::new(21), 5).unwrap(), []);
    assert_eq!(reader.events(Position::ZERO, 0).unwrap(), []);
}

fn clearings_are_found_among_other_events(harness: &mut dyn Harness) {
    let clearing = || {
        let draft = BookDraft { pools: Vec::new(), margin: Percent::ZERO, bids: Vec::new() };
        let receipt = Receipt::of(Book::new(draft).unwrap(), &mut Unlimited);
        let (starts, stops, expired) = (Vec::new(), Vec::new(), Vec::new());
        let cleared = Cleared { trigger: Trigger::Tick, receipt, starts, stops, expired };
        Event::Market(MarketEvent::Cleared(Box::new(cleared)))
    };
    let mut store = harness.fresh();
    acquire(store.as_mut());
    for _ in 0..3 {
        let head = store.reader().head().unwrap();
        store.commit(&commit_of_events(&head, vec![Event::Ticked, clearing(), Event::Ticked])).unwrap();
    }
    let reader = store.reader();
    let numbers = |events: Vec<StoredEvent>| {
        events.into_iter().map(|event| event.position.number()).collect::<Vec<_>>()
    };
    let after = |position, limit| numbers(reader.clearings(Position::new(position), limit).unwrap());
    assert_eq!((after(0, 9), after(2, 1), after(8, 9)), (vec![2, 5, 8], vec![5], vec![]));
    let before = |position, limit| numbers(reader.clearings_before(Position::new(position), limit).unwrap());
    assert_eq!((before(u64::MAX, 2), before(8, 9), before(2, 9)), (vec![8, 5], vec![5, 2], vec![]));
    let whole = reader.clearings(Position::ZERO, 1).unwrap();
    assert_eq!(whole, reader.events(Position::new(1), 1).unwrap());
}

fn listings_page_in_order(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let many = u32::try_from(PAGE_ROWS_MAX).unwrap() + 5;
    let rows = |count: u32| EventRows {
        charges: (0..count).map(|n| charge("t", "p", &format!("i-{n}"), i64::from(n))).collect(),
        unused: (0..count).map(|n| unused("t", i64::from(n))).collect(),
        transfers: (0..count).map(|n| transfer("t", i128::from(n) + 1)).collect(),
        invoices: Vec::new(),
        quarantine: (0..count)
            .map(|n| QuarantineRow { record: n.checked_sub(1), reason: format!("reason_{n}") })
            .collect(),
        timeline: (0..count).map(|n| step("t", &format!("i-{n}"), LifeStep::Started)).collect(),
    };
    append(store.as_mut(), vec![rows(2), EventRows::default(), rows(many)]);
    let reader = store.reader();
    type List<'a> = Box<dyn Fn(Page) -> Vec<RowKey> + 'a>;
    let list: [(&str, List<'_>); 8] = [
        ("charges", Box::new(|page| keys(&reader.charges(&ChargeFilter::default(), page).unwrap()))),
        ("transfers", Box::new(|page| keys(&reader.transfers(&TransferFilter::default(), page).unwrap()))),
        ("quarantine", Box::new(|page| keys(&reader.quarantine(page).unwrap()))),
        ("timeline", Box::new(|page| keys(&reader.timeline(&TimelineFilter::default(), page).unwrap()))),
        ("raw timeline", Box::new(|page| keys(&reader.raw_rows(Table::Timeline, page).unwrap()))),
        ("raw charges", Box::new(|page| keys(&reader.raw_rows(Table::Charges, page).unwrap()))),
        ("raw transfers", Box::new(|page| keys(&reader.raw_rows(Table::Transfers, page).unwrap()))),
        ("raw quarantine", Box::new(|page| keys(&reader.raw_rows(Table::Quarantine, page).unwrap()))),
    ];
    for (what, list) in &list {
        let whole = list(page(RowKey::default(), u64::MAX, usize::MAX));
        assert_eq!(whole.len(), PAGE_ROWS_MAX, "{what}: no page is larger than the limit");
        assert_eq!(whole[..3], [key(1, 0), key(1, 1), key(3, 0)], "{what}");
        assert_eq!(list(page(whole[PAGE_ROWS_MAX - 1], u64::MAX, 1_000)).len(), 7, "{what}");
        assert_eq!(list(page(key(1, 0), 2, 1_000)), [key(1, 1)], "{what}: up to and with `until`");
        assert_eq!(list(page(key(1, 1), 3, 2)), [key(3, 0), key(3, 1)], "{what}");
        assert_eq!(list(page(key(3, many - 1), 3, 1_000)), [], "{what}");
        assert_eq!(list(page(RowKey::default(), 3, 0)), [], "{what}");
    }
    let quarantined = reader.quarantine(all()).unwrap();
    assert_eq!((quarantined[0].row.record, quarantined[0].row.reason.as_str()), (None, "reason_0"));
    assert_eq!(quarantined[1].row.record, Some(0));
}

fn listings_filter(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let rows = vec![
        charge("t", "p", "i-1", 10),
        charge("t", "q", "i-2", 11),
        charge("u", "p", "i-3", 12),
        charge("t", "p", "i-1", 12),
    ];
    let transfers = vec![transfer("t", 1), transfer("u", 2)];
    append(store.as_mut(), vec![EventRows { charges: rows.clone(), transfers, ..EventRows::default() }]);
    let reader = store.reader();
    let any = ChargeFilter::default;
    let check = |filter: ChargeFilter, lines: &[u32]| {
        let found = reader.charges(&filter, all()).unwrap();
        assert_eq!(found.iter().map(|row| row.key.line).collect::<Vec<_>>(), lines, "{filter:?}");
        assert!(found.iter().all(|found| found.row == rows[found.key.line as usize]));
    };
    check(any(), &[0, 1, 2, 3]);
    check(ChargeFilter { tenant: Some("t".parse().unwrap()), ..any() }, &[0, 1, 3]);
    check(ChargeFilter { project: Some("p".parse().unwrap()), ..any() }, &[0, 2, 3]);
    check(ChargeFilter { instance: Some("i-1".parse().unwrap()), ..any() }, &[0, 3]);
    check(ChargeFilter { from: Some(hour(11)), ..any() }, &[1, 2, 3]);
    check(ChargeFilter { until: Some(hour(11)), ..any() }, &[0]);
    check(ChargeFilter { from: Some(hour(11)), until: Some(hour(12)), ..any() }, &[1]);
    check(ChargeFilter { tenant: Some("T".parse().unwrap()), ..any() }, &[]);

    let check = |tenant: Option<&str>, account: Option<&str>, lines: &[u32]| {
        let tenant = tenant.map(|tenant| tenant.parse().unwrap());
        let filter = TransferFilter { tenant, account: account.map(str::to_owned) };
        let found = reader.transfers(&filter, all()).unwrap();
        assert_eq!(found.iter().map(|row| row.key.line).collect::<Vec<_>>(), lines, "{filter:?}");
    };
    check(None, None, &[0, 1]);
    check(Some("u"), None, &[1]);
    check(None, Some("assets:receivable:t"), &[0]);
    check(None, Some("assets:unbilled:u"), &[1]);
    check(Some("t"), Some("assets:unbilled:u"), &[]);
}

fn timelines_filter(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let told = step("t", "i-1", LifeStep::ToldToStop);
    let plain = TimelineRow { cause: None, deadline: None, ..step("t", "i-2", LifeStep::Registered) };
    let detailed = TimelineRow { detail: Some("bid number 7 pays more".to_owned()), ..told.clone() };
    let rows = [told, plain, step("u", "i-3", LifeStep::Failed), detailed];
    let timeline = rows.to_vec();
    append(store.as_mut(), vec![EventRows { timeline, ..EventRows::default() }]);
    let reader = store.reader();
    let check = |tenant: Option<&str>, instance: Option<&str>, lines: &[usize]| {
        let (tenant, instance) =
            (tenant.map(|it| it.parse().unwrap()), instance.map(|it| it.parse().unwrap()));
        let filter = TimelineFilter { tenant, instance };
        let found: Vec<TimelineRow> =
            reader.timeline(&filter, all()).unwrap().into_iter().map(|it| it.row).collect();
        let expected: Vec<TimelineRow> = lines.iter().map(|line| rows[*line].clone()).collect();
        assert_eq!(found, expected, "{filter:?}");
    };
    check(None, None, &[0, 1, 2, 3]);
    check(Some("t"), None, &[0, 1, 3]);
    check(Some("t"), Some("i-1"), &[0, 3]);
    check(Some("u"), Some("i-1"), &[]);
    check(None, Some("i-3"), &[2]);
    let raw = &reader.raw_rows(Table::Timeline, all()).unwrap()[1].row;
    assert_eq!(raw, &["t", "i-2", "registered", "7000", "-", "-", "-"].join("\u{1f}"));
}

/// To the last of 38 digits, which is what `NUMERIC(38,18)` holds.
fn amounts_are_kept_exactly(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let most = 10_i128.pow(38) - 1;
    let attos = [0, 1, -1, 10_i128.pow(18), -10_i128.pow(17), most, -most, most - 1];
    let rows = attos.map(|attos| ChargeRow { amount: Amount::from_attos(attos), ..charge("t", "p", "i", 1) });
    let extremes = ChargeRow {
        price: Price::from_nanos(hourglass_units::PRICE_NANOS_MAX).unwrap(),
        quantity: Quantity::from_nanos(i64::MIN),
        milliseconds: i64::MAX,
        gpus: u32::MAX,
        hour: hour(9_028_799),
        ..charge("t", "p", "i", 1)
    };
    let mut charges: Vec<_> = rows.into_iter().chain([extremes]).collect();
    charges[1].reservation = None;
    charges[1].effective_price = charges[1].price;
    let mut transfers = [1, 10_i128.pow(18), most].map(|attos| transfer("t", attos)).to_vec();
    transfers[1].reverses = Some(Position::new(7));
    let rows = EventRows {
        charges: charges.clone(),
        unused: vec![unused("t", 5)],
        transfers: transfers.clone(),
        ..EventRows::default()
    };
    append(store.as_mut(), vec![rows]);
    let reader = store.reader();
    let read = reader.charges(&ChargeFilter::default(), all()).unwrap();
    assert_eq!(read.into_iter().map(|it| it.row).collect::<Vec<_>>(), charges);
    let read = reader.transfers(&TransferFilter::default(), all()).unwrap();
    assert_eq!(read.into_iter().map(|it| it.row).collect::<Vec<_>>(), transfers);
    // Stores are compared by this text, so an adapter may not write it in another way.
    let raw = &reader.raw_rows(Table::Transfers, all()).unwrap()[2].row;
    let largest = "99999999999999999999.999999999999999999";
    assert_eq!(
        raw,
        &["t", "assets:receivable:t", "assets:unbilled:t", largest, "KWD", "invoice", "4321", "-"]
            .join("\u{1f}")
    );
    let raw = &reader.raw_rows(Table::Charges, all()).unwrap()[0].row;
    let columns =
        ["t", "p", "i", "h100", "eu", "reserved", "2950000000", "3600000", "8", "-25", "-7", "0", "USD"];
    let columns: Vec<_> = columns.into_iter().chain(["r-1", "3000000000"]).collect();
    assert_eq!(raw, &columns.join("\u{1f}"));
    // What has no reservation costs what it costs.
    let raw = &reader.raw_rows(Table::Charges, all()).unwrap()[1].row;
    assert!(raw.ends_with("USD\u{1f}-\u{1f}-"), "{raw}");
    let read = reader.unused(None, all()).unwrap();
    assert_eq!(read.into_iter().map(|it| it.row).collect::<Vec<_>>(), [unused("t", 5)]);
    assert_eq!(reader.unused(Some(&"other".parse().unwrap()), all()).unwrap(), []);
    let raw = &reader.raw_rows(Table::Unused, all()).unwrap()[0].row;
    let columns = ["t", "p", "r-1", "h100", "eu", "18000000", "-3", "1", "-0.000000000000000003", "USD"];
    assert_eq!(raw, &columns.join("\u{1f}"));
}

fn usage_adds_up(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let early =
        charges(vec![charge("t", "p", "i-1", 23), charge("t", "p", "i-2", 24), charge("u", "p", "i-3", 24)]);
    let late = charges(vec![charge("t", "p", "i-1", 25)]);
    append(store.as_mut(), vec![early, late]);
    let reader = store.reader();
    let ask = |until: u64, by_instance: bool, span_ms: i64| {
        let until = Position::new(until);
        let sums = reader
            .usage(&UsageQuery { filter: ChargeFilter::default(), until, by_instance, span_ms })
            .unwrap();
        let said = sums.iter().map(|sum| {
            let instance = sum.instance.as_ref().map_or("-".to_owned(), ToString::to_string);
            let span = sum.span.map_or(-1, |span| span.unix_ms() / HOUR_MILLISECONDS);
            format!("{} {instance} {span} {} {}", sum.tenant, sum.gpu_ms, sum.quantity_nanos)
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(ask(2, false, 0), ["t - -1 -600 -21", "u - -1 -200 -7"]);
    assert_eq!(ask(1, false, 0), ["t - -1 -400 -14", "u - -1 -200 -7"]);
    assert_eq!(ask(2, true, 0), ["t i-1 -1 -400 -14", "t i-2 -1 -200 -7", "u i-3 -1 -200 -7"]);
    let day = 24 * HOUR_MILLISECONDS;
    assert_eq!(ask(2, false, day), ["t - 0 -200 -7", "t - 24 -400 -14", "u - 24 -200 -7"]);
    assert_eq!(ask(0, true, day), Vec::<String>::new());
}

fn invoices_are_found_by_number(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let one = |it: InvoiceRow| EventRows { invoices: vec![it], ..EventRows::default() };
    let rows = vec![
        one(invoice("t", 1, "2026-01")),
        one(invoice("u", 1, "2026-01")),
        one(invoice("t", 2, "2026-02")),
    ];
    append(store.as_mut(), rows);
    let reader = store.reader();
    let (t, nobody) = ("t".parse().unwrap(), "nobody".parse().unwrap());
    assert_eq!(keys(&reader.invoices(None, all()).unwrap()), [key(1, 0), key(2, 0), key(3, 0)]);
    assert_eq!(keys(&reader.invoices(Some(&t), all()).unwrap()), [key(1, 0), key(3, 0)]);
    assert_eq!(keys(&reader.invoices(Some(&t), page(key(1, 0), 2, 9)).unwrap()), []);
    assert_eq!(reader.invoices(Some(&nobody), all()).unwrap(), []);
    let second = reader.invoice(&t, 2).unwrap().unwrap();
    assert_eq!((second.position, second.period.to_string().as_str()), (Position::new(3), "2026-02"));
    assert_eq!((second.tenant, second.document), (t.clone(), invoice("t", 2, "2026-02").document));
    assert_eq!(reader.invoice(&t, 3).unwrap(), None);
    assert_eq!(reader.invoice(&nobody, 1).unwrap(), None);
}

fn snapshots_keep_the_newest(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    let snapshot = |position: u64, parts: &[&'static [u8]]| Snapshot {
        position: Position::new(position),
        format: SNAPSHOT_FORMAT.to_owned(),
        parts: parts.iter().map(|part| Bytes::from_static(part)).collect(),
    };
    let newest = |store: &dyn Store| store.reader().newest_snapshot().unwrap().unwrap();
    let first = snapshot(3, &[b"one", b"\0two", b""]);
    store.write_snapshot(&first).unwrap();
    assert_eq!(newest(store.as_ref()), first);
    let again = [snapshot(9, &[b"nine"]), snapshot(9, &[b"nine", b"again"]), snapshot(9, &[b"once more"])];
    // One from before stands in for a copy of the data directory that was put back.
    for next in again.into_iter().chain([snapshot(5, &[b"five"])]) {
        store.write_snapshot(&next).unwrap();
        assert_eq!(newest(store.as_ref()), next);
    }
    // Where they can be kept beside commits, they are the same ones.
    if let Some(mut beside) = store.snapshots() {
        for next in [snapshot(6, &[b"six"]), snapshot(4, &[b"", b"four"])] {
            beside.write(&next).unwrap();
            assert_eq!(newest(store.as_ref()), next);
        }
        store.write_snapshot(&first).unwrap();
        assert_eq!(newest(store.as_ref()), first);
    }
}

fn what_is_committed_outlives_the_store(harness: &mut dyn Harness) {
    let mut store = harness.fresh();
    acquire(store.as_mut());
    let early = store.reader();
    let rows = EventRows {
        charges: vec![charge("t", "p", "i", 1)],
        unused: vec![unused("t", 1)],
        transfers: vec![transfer("t", 1)],
        invoices: vec![invoice("t", 1, "2026-01")],
        quarantine: vec![QuarantineRow { record: None, reason: "undecodable".to_owned() }],
        timeline: vec![step("t", "i", LifeStep::ToldToStop)],
    };
    let cursors = vec![("outward".to_owned(), Position::new(1))];
    store.commit(&Commit { cursors, ..commit_of(&early.head().unwrap(), Vec::new()) }).unwrap();
    let head = append(store.as_mut(), vec![rows]);
    assert_eq!(early.head().unwrap(), head, "a reader from before sees what is committed");
    let dump = |reader: &dyn Reader| {
        let rows = Table::ALL.map(|table| reader.raw_rows(table, all()).unwrap());
        (
            reader.head().unwrap(),
            reader.cursor("outward").unwrap(),
            reader.events(Position::ZERO, 10).unwrap(),
            rows,
        )
    };
    let before = dump(early.as_ref());
    drop((store, early));
    let mut store = harness.reopen();
    assert_eq!(dump(store.reader().as_ref()), before);
    assert_eq!(acquire(store.as_mut()).epoch, head.epoch + 1);
    append(store.as_mut(), vec![EventRows::default()]);
}
