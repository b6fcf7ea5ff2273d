//! Somebody changes the books in the database itself: the verification finds it and says where.
//!
//! Each case changes a copy of one sound ledger, with the database's own guards taken away first.

use std::path::Path;

use hourglass_ledger::core::{Command, Mode, Policy, Position, Registration, RerateDraft, digest};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteReader, SqliteStore};
use hourglass_ledger::store::{Acquire, Commit, Store};
use hourglass_ledger::verify::{Finding, Report, verify};
use hourglass_pricing::ContractDraft;
use hourglass_units::{Currency, INSTANT_MIN};
use prost::bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};

use super::support::{
    Core, HOUR, MINUTE, at, batch, card, contract, customer_key, finalise, ms, open_tenant, record,
    registration, start, stop, usage,
};

/// Two tenants, a month with late corrections, something in quarantine.
pub(crate) fn story() -> Core {
    let begin = ms("2026-01-31T20:00:00Z");
    let mut core = Core::open(begin, Policy::default(), &[("acme", Currency::USD), ("bolt", Currency::JPY)]);
    for (instance, tenant, gpus) in [("i-1", "acme", 8), ("i-2", "bolt", 3)] {
        core.run(Command::RegisterInstance(registration(instance, tenant, gpus))).unwrap();
        core.run(start(instance, begin)).unwrap();
    }
    for (minute, length) in [(0, 50), (50, 45), (95, 60)] {
        core.now = begin + (minute + length) * MINUTE;
        let end = core.now;
        let records =
            ["i-1", "i-2"].iter().zip([8, 3]).map(|(id, gpus)| record(id, gpus, end - length * MINUTE, end));
        let mut records: Vec<_> = records.collect();
        records.push(record("no id", 1, begin, end));
        core.run(Command::AcceptUsage(batch("agent-1", 0, records))).unwrap();
        core.run(Command::Tick).unwrap();
    }
    let original = Bytes::from_static(b"not usage");
    let (reason, content_type) = ("undecodable".to_owned(), "text/plain".to_owned());
    core.run(Command::QuarantineUsage { reason, content_type, original }).unwrap();
    core.run(Command::CreateKey(customer_key("a1b2c3d4e5f6"))).unwrap();
    core.run(Command::RevokeKey { id: "a1b2c3d4e5f6".parse().unwrap() }).unwrap();
    core.now = ms("2026-02-04T00:00:00Z");
    core.run(Command::Tick).unwrap();
    core.run(finalise("acme", "2026-01")).unwrap();
    core.run(finalise("bolt", "2026-01")).unwrap();
    core.run(stop("i-1", begin + HOUR)).unwrap();
    core.run(Command::Tick).unwrap();
    core.now = ms("2026-03-04T00:00:00Z");
    core.run(finalise("acme", "2026-02")).unwrap();
    core.run(usage("i-2", 3, core.now - HOUR, core.now)).unwrap();
    sold_otherwise(&mut core);
    core
}

/// A tenant with a contract, a reservation with more instances than room, credit and tax; an invoice
/// that was voided, one that was paid, prices of the past that changed.
fn sold_otherwise(core: &mut Core) {
    let begin = core.now;
    let from_json = |text: &str| serde_json::from_str(text).unwrap();
    core.run(open_tenant("dune", Currency::USD)).unwrap();
    let dune = || "dune".parse().unwrap();
    let terms = r#"{"tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "2", "percent_off": "10"}]}],
        "minimum": "10"}"#;
    let contract = ContractDraft {
        terms: serde_json::from_str(terms).unwrap(),
        ..contract(1, ms("2026-03-01T00:00:00Z"), None, 3_000_000_000)
    };
    core.run(Command::SignContract { tenant: dune(), contract }).unwrap();
    let reservation = r#"{"reservation": "r-1", "project": "ml", "platform": "h100", "gpus": 10,
        "from": "2026-03-04T00:00:00Z", "until": "2026-03-04T07:00:00Z",
        "payment": {"upfront_total": {"total": "100"}}}"#;
    core.run(Command::Reserve { tenant: dune(), reservation: serde_json::from_str(reservation).unwrap() })
        .unwrap();
    let credit =
        r#"{"credit": "gift", "kind": "promotional", "amount": "7", "valid_until": "2026-03-04T03:00:00Z"}"#;
    core.run(Command::GrantCredit { tenant: dune(), credit: serde_json::from_str(credit).unwrap() }).unwrap();
    let credit = r#"{"credit": "bought", "kind": "prepaid", "amount": "20.5"}"#;
    core.run(Command::GrantCredit { tenant: dune(), credit: serde_json::from_str(credit).unwrap() }).unwrap();
    let tax = r#"{"name": "VAT", "rate_percent": "19", "kind": "exclusive", "rounding": "line"}"#;
    core.run(Command::SetTax { tenant: dune(), tax: Some(from_json(tax)) }).unwrap();
    for instance in ["c-1", "c-2"] {
        let mode = Mode::Reserved { reservation: "r-1".parse().unwrap() };
        core.run(Command::RegisterInstance(Registration { mode, ..registration(instance, "dune", 8) }))
            .unwrap();
        core.run(start(instance, begin)).unwrap();
    }
    for hour in 1..=9 {
        core.now = begin + hour * HOUR;
        for instance in ["c-1", "c-2"] {
            core.run(usage(instance, 8, core.now - HOUR, core.now - 7 * MINUTE)).unwrap();
        }
        core.run(Command::Tick).unwrap();
    }
    core.run(stop("c-1", begin + 6 * HOUR + 1)).unwrap();
    core.run(Command::Tick).unwrap();
    let (from, until) = (at(begin), at(begin + 5 * HOUR));
    let card = card(Currency::USD, 1, begin, 2_500_000_000);
    core.run(Command::Rerate(RerateDraft { card, from, until, tenant: Some(dune()), into_closed: false }))
        .unwrap();
    let (instance, reason) = ("c-2".parse().unwrap(), "agent".to_owned());
    let void =
        Command::VoidUsage { instance, from: at(begin + HOUR), until: at(begin + HOUR + 9 * MINUTE), reason };
    core.run(void).unwrap();
    core.run(Command::Tick).unwrap();
    core.now = ms("2026-04-04T00:00:00Z");
    core.run(Command::Tick).unwrap();
    core.run(finalise("dune", "2026-03")).unwrap();
    core.run(Command::VoidInvoice { tenant: dune(), number: 1, reason: "wrong address".to_owned() }).unwrap();
    core.run(finalise("dune", "2026-03")).unwrap();
    let due = core.state.tenant(&dune()).unwrap().invoices[&2].due;
    let reference = "wire 7".to_owned();
    core.run(Command::RecordPayment { tenant: dune(), number: 2, amount: due, reference }).unwrap();
    core.run(stop("c-2", begin + 8 * HOUR)).unwrap();
    core.run(Command::Tick).unwrap();
    core.run(Command::IssueCreditNote { tenant: dune() }).unwrap();
}

/// Writes the story into a store: three events a commit.
pub(crate) fn write(core: &Core, store: &mut dyn Store) {
    let holder = "story".to_owned();
    let acquire = Acquire { holder, now: INSTANT_MIN, lease_until: INSTANT_MIN, holder_is_gone: true };
    let mut head = store.acquire(&acquire).unwrap();
    for (events, rows) in core.events.chunks(3).zip(core.rows.chunks(3)) {
        let commit = Commit {
            epoch: head.epoch,
            after: head.position,
            after_hash: head.hash,
            lease_until: INSTANT_MIN,
            events: events.to_vec(),
            rows: rows.to_vec(),
            cursors: Vec::new(),
        };
        store.commit(&commit).unwrap();
        head = store.reader().head().unwrap();
    }
}

struct Books {
    core: Core,
    directory: tempfile::TempDir,
}

impl Books {
    fn new() -> Self {
        Self::of(story())
    }

    fn of(core: Core) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path());
        write(&core, &mut store);
        drop(store);
        execute(directory.path(), &["PRAGMA wal_checkpoint(TRUNCATE)".to_owned()]);
        Self { core, directory }
    }

    /// Verifies a copy on which the statements were run without the database's guards.
    fn verify_after(&self, statements: &[String]) -> Report {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(self.directory.path().join("ledger.db"), copy.path().join("ledger.db")).unwrap();
        execute(copy.path(), statements);
        verify_directory(copy.path())
    }

    /// The change must be found, by this check and at this position.
    fn check(&self, statement: &str, check: &str, position: Option<u64>) {
        let statements: Vec<String> = statement.split(';').map(str::to_owned).collect();
        let Report { findings, .. } = self.verify_after(&statements);
        let position = position.map(Position::new);
        let found = |it: &Finding| it.check == check && it.position == position;
        assert!(findings.iter().any(found), "{statement}\n  wants {check} at {position:?}, not {findings:?}");
    }

    /// The first position that has rows in the table.
    fn first(&self, table: &str) -> u64 {
        let has = |(_, rows): &(u64, &hourglass_ledger::core::rows::EventRows)| match table {
            "charges" => !rows.charges.is_empty(),
            "transfers" => !rows.transfers.is_empty(),
            "invoices" => !rows.invoices.is_empty(),
            _ => !rows.quarantine.is_empty(),
        };
        (1..).zip(&self.core.rows).find(has).unwrap().0
    }
}

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(directory, SqliteOptions { durable: false }).unwrap()
}

fn verify_directory(directory: &Path) -> Report {
    let scratch = tempfile::tempdir().unwrap();
    verify(&SqliteReader::open(directory).unwrap(), scratch.path(), |_, _| {}).unwrap()
}

fn execute(directory: &Path, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let url = format!("sqlite://{}", directory.join("ledger.db").display());
    runtime.block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        connection.execute("PRAGMA ignore_check_constraints = ON").await.unwrap();
        let guards: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let guards = guards.iter().map(|guard| format!("DROP TRIGGER {guard}"));
        for sql in guards.chain(statements.iter().cloned()) {
            let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await;
            assert!(done.is_ok(), "{sql}: {done:?}");
        }
        connection.close().await.unwrap();
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn b3_untouched_books_are_sound() {
    let books = Books::new();
    let report = books.verify_after(&[]);
    assert_eq!(report.findings, []);
    assert!(report.is_sound());
    assert_eq!(report.events, books.core.state.position().number());
    assert_eq!(report.digest, digest(&books.core.state).unwrap().to_hex().to_string());
    assert_eq!(report.invoices, 6);
    assert!(report.rows.values().all(|rows| *rows > 0), "every table has rows: {:?}", report.rows);
}

/// B-5: the rows of a month that is closed are those that it was closed with, and none is booked into it later.
#[test]
fn b5_a_closed_month_that_is_not_as_it_was_closed_is_found() {
    let mut core = story();
    core.now = ms("2026-04-05T00:00:00Z");
    core.run(Command::Tick).unwrap();
    let mut closed = 0;
    for month in ["2026-01", "2026-02"] {
        let month = month.parse().unwrap();
        while let Some((tenant, period)) = core.state.missing_invoices(month, at(core.now)).first() {
            let (tenant, period) = (tenant.to_string(), period.to_string());
            core.run(finalise(&tenant, &period)).unwrap();
        }
        core.run(Command::ClosePeriod { month }).unwrap();
        closed = core.state.position().number();
    }
    let books = Books::of(core);
    assert_eq!(books.verify_after(&[]).findings, []);
    let january = ms("2026-02-01T00:00:00Z");
    let january_is = format!("position = (SELECT max(position) FROM transfers WHERE at < {january})");
    let first = closed - 1;
    books.check(&format!("UPDATE transfers SET code = 'tax' WHERE {january_is}"), "B-5", Some(first));
    books.check(&format!("DELETE FROM transfers WHERE {january_is}"), "B-5", Some(first));
    books.check(&format!("UPDATE transfers SET at = {january} WHERE {january_is}"), "B-5", Some(first));
    let charge = "position = (SELECT min(position) FROM charges)";
    books.check(
        &format!("UPDATE charges SET milliseconds = milliseconds + 1 WHERE {charge}"),
        "B-5",
        Some(first),
    );
    // A later transfer is dated back.
    let last = "SELECT max(position) FROM transfers";
    let late = books.core.rows.iter().rposition(|rows| !rows.transfers.is_empty()).unwrap() as u64 + 1;
    let back = format!("UPDATE transfers SET at = {} WHERE position = ({last})", january - 1);
    books.check(&back, "B-5", if late > closed { Some(late) } else { Some(first) });
}

/// One bit of each event.
#[test]
fn tampered_payloads_are_found_at_their_position() {
    let books = Books::new();
    for event in &books.core.events {
        let mut payload = event.payload.to_vec();
        let byte = (event.position.number() as usize * 7_919) % payload.len();
        payload[byte] ^= 1 << (event.position.number() % 8);
        let position = event.position.number();
        let sql = format!("UPDATE events SET payload = x'{}' WHERE position = {position}", hex(&payload));
        books.check(&sql, "log", Some(position));
    }
}

#[test]
fn tampered_events_are_found_at_their_position() {
    let books = Books::new();
    let last = books.core.state.position().number();
    for set in [
        "payload = CAST(payload || x'00' AS BLOB)",
        "payload = x''",
        "hash = zeroblob(32)",
        "hash = x'00'",
        "at = at + 1",
        "at = at - 1",
        "at = -1",
        "at = 9223372036854775807",
        "kind = kind + 1",
        "kind = kind + 256",
        "kind = -1",
        "epoch = epoch + 1",
        "epoch = epoch - 1",
        "epoch = -1",
    ] {
        for position in [1, 9, last] {
            books.check(
                &format!("UPDATE events SET {set} WHERE position = {position}"),
                "log",
                Some(position),
            );
        }
    }
    for position in [1, 9, last - 1] {
        books.check(&format!("DELETE FROM events WHERE position = {position}"), "log", Some(position));
    }
    books.check(&format!("DELETE FROM events WHERE position = {last}"), "head", Some(last));
    let swap = "UPDATE events SET position = 999 WHERE position = 8; \
                UPDATE events SET position = 8 WHERE position = 9; UPDATE events SET position = 9 WHERE position = 999";
    books.check(swap, "log", Some(8));
    let extra = |columns: &str, from: u64, to: u64| {
        format!(
            "INSERT INTO events SELECT {to}, {columns}, payload, hash FROM events WHERE position = {from}"
        )
    };
    books.check(&extra("epoch, kind, at", last, last + 1), "head", Some(last + 1));
    books.check(&extra("epoch, kind, at", last, last + 5), "head", Some(last + 5));
}

/// Whoever can chain hashes appends a good event, but the head does not know it.
#[test]
fn an_event_behind_the_head_is_found() {
    let mut books = Books::new();
    books.core.run(Command::Tick).unwrap();
    let event = books.core.events.last().unwrap();
    let position = event.position.number();
    let sql = format!(
        "INSERT INTO events VALUES ({position}, 1, {}, {}, x'{}', x'{}')",
        event.kind,
        event.at.unix_ms(),
        hex(&event.payload),
        event.hash.to_hex()
    );
    books.check(&sql, "head", Some(position));
}

#[test]
fn a_tampered_head_is_found() {
    let books = Books::new();
    let last = books.core.state.position().number();
    books.check("UPDATE head SET hash = zeroblob(32)", "head", Some(last));
    books.check("UPDATE head SET position = position + 1", "head", Some(last + 1));
    books.check("UPDATE head SET position = position - 1", "head", Some(last));
    books.check("UPDATE head SET position = 0", "head", Some(1));
    books.check("UPDATE head SET epoch = 0", "log", Some(1));
    for unreadable in ["position = -1", "hash = x'00'", "epoch = -1", "lease_until = -1"] {
        books.check(&format!("UPDATE head SET {unreadable}"), "head", None);
    }
    books.check("DELETE FROM head", "head", None);
}

#[test]
fn b3_tampered_rows_are_found_at_their_position() {
    let books = Books::new();
    let columns: [(&str, &[&str]); 4] = [
        (
            "charges",
            &[
                "tenant = 'bolt'",
                "tenant = 'no tenant'",
                "project = 'other'",
                "instance = 'i-2'",
                "platform = 'h200'",
                "region = 'us'",
                "model = 'spot'",
                "model = 'gift'",
                "price_nanos = price_nanos + 1",
                "price_nanos = -1",
                "hour = hour + 3600000",
                "hour = -1",
                "gpus = gpus + 1",
                "gpus = -1",
                "milliseconds = milliseconds + 1",
                "quantity_nanos = quantity_nanos - 1",
                "amount = amount || '0'",
                "amount = '-' || amount",
                "amount = 'much'",
                "currency = 'EUR'",
                "currency = 'X'",
            ],
        ),
        (
            "transfers",
            &[
                "tenant = 'bolt'",
                "debit = 'assets:receivable:acme'",
                "debit = 'nowhere'",
                "credit = 'income:rounding'",
                "amount = '1'",
                "amount = '-1'",
                "currency = 'EUR'",
                "code = 'invoice'",
                "code = 'gift'",
                "at = at + 1",
                "at = -1",
                "reverses = 1",
                "reverses = -1",
            ],
        ),
        (
            "invoices",
            &[
                "tenant = 'cord'",
                "number = number + 10",
                "number = -1",
                "period = '2025-01'",
                "period = 'january'",
                "document = CAST(document || ' ' AS BLOB)",
                "document = CAST(replace(document, 'usage', 'Usage') AS BLOB)",
            ],
        ),
        ("quarantine", &["record = 7", "record = NULL", "record = -1", "reason = 'other'"]),
    ];
    for (table, changes) in columns {
        let position = books.first(table);
        let here = format!("WHERE position = {position} AND line = 0");
        for change in changes {
            books.check(&format!("UPDATE {table} SET {change} {here}"), "B-3", Some(position));
        }
        books.check(&format!("DELETE FROM {table} {here}"), "B-3", Some(position));
        // Its place, its number, and one row too many: where the log has none, and behind its end.
        books.check(&format!("UPDATE {table} SET line = 70 {here}"), "B-3", Some(position));
        books.check(&format!("UPDATE {table} SET position = 1 {here}"), "B-3", Some(1));
        books.check(&format!("UPDATE {table} SET position = 999 {here}"), "B-3", Some(position));
        let last = books.core.state.position().number();
        if table == "invoices" {
            let sql = "INSERT INTO invoices VALUES (999, 0, 'acme', 99, '2030-01', x'00')";
            books.check(sql, "B-3", Some(999));
        } else {
            copy_a_row(&books, table, position, last + 1);
        }
        // A row whose number cannot be read is found, though nobody can say which one it is.
        let report = books.verify_after(&[format!("UPDATE {table} SET line = -1 {here}")]);
        assert!(report.findings.iter().any(|it| it.check == "B-3"), "{table}: {:?}", report.findings);
    }
}

fn copy_a_row(books: &Books, table: &str, from: u64, to: u64) {
    let copy = format!("CREATE TABLE copy AS SELECT * FROM {table} WHERE position = {from} AND line = 0");
    let moved = format!("UPDATE copy SET position = {to}");
    books.check(&format!("{copy}; {moved}; INSERT INTO {table} SELECT * FROM copy"), "B-3", Some(to));
}

/// Balances in the transfers are summed up by themselves, not only compared with the rebuilt rows.
#[test]
fn b1_u1_m2_the_numbers_are_checked_beside_the_text() {
    let books = Books::new();
    let checks = |sql: &str| -> Vec<&str> {
        books.verify_after(&[sql.to_owned()]).findings.iter().map(|finding| finding.check).collect()
    };
    let position = books.first("transfers");
    let doubled = format!("UPDATE transfers SET amount = '99' WHERE position = {position}");
    assert!(checks(&doubled).contains(&"B-1"));
    let late = format!("UPDATE transfers SET reverses = 999 WHERE position = {position}");
    assert!(checks(&late).contains(&"B-2"));
    assert!(checks("UPDATE charges SET amount = '1'").contains(&"U-1"));
    assert!(checks("UPDATE charges SET currency = 'EUR'").contains(&"U-2"));
    assert!(checks("UPDATE charges SET hour = 0").contains(&"M-2"));
    assert!(checks("UPDATE charges SET milliseconds = 1").contains(&"P-1"));
}

/// A snapshot is trusted by its hash: one that holds other books than the log must be found.
#[test]
fn b3_a_forged_snapshot_is_found() {
    let books = Books::new();
    let position = books.core.state.position();
    let mut store = open(books.directory.path());
    store.write_snapshot(&Snapshot::of(&books.core.state, &books.core.chain).unwrap()).unwrap();
    drop(store);
    assert!(verify_directory(books.directory.path()).is_sound());

    // As many events, others' books, our chain.
    let mut forged = story();
    let length = forged.events.len() - 1;
    let mut other = Core::new(0);
    for event in forged.events.drain(..length) {
        let recorded = event.open(other.state.position(), &other.chain).unwrap();
        let mut rows = hourglass_ledger::core::rows::EventRows::default();
        hourglass_ledger::core::apply(&mut other.state, event.at, &recorded, &mut rows).unwrap();
        other.chain = event.hash;
    }
    other.run(Command::Tick).unwrap();
    assert_eq!(other.state.position(), position);
    let mut store = open(books.directory.path());
    store.write_snapshot(&Snapshot::of(&other.state, &books.core.chain).unwrap()).unwrap();
    assert_eq!(load(store.reader().as_ref(), From::Snapshot, |_, _| {}).unwrap().state, other.state);
    drop(store);
    let report = verify_directory(books.directory.path());
    let found: Vec<_> = report.findings.iter().map(|it| (it.check, it.position)).collect();
    assert_eq!(found, [("B-3", Some(position))]);
}
