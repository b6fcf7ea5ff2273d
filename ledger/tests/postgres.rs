//! The same books in PostgreSQL as in SQLite, to the letter: rows, sums, snapshots, verification.

use std::sync::Arc;

use hourglass_ledger::core::{Position, digest};
use hourglass_ledger::load::{From, load};
use hourglass_ledger::snapshot::Snapshot;
use hourglass_ledger::store::postgres::{PostgresOptions, PostgresReader, PostgresStore};
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_ledger::store::{ChargeFilter, Page, Reader, RowKey, Store, Table, TransferFilter, UsageQuery};
use hourglass_ledger::verify::{Report, verify};
use hourglass_test_servers::Postgres;
use hourglass_units::HOUR_MILLISECONDS;
use sqlx::Connection;

use super::support::Core;
use super::tamper::{story, write};

/// One story in both stores.
struct Both {
    core: Core,
    postgres: PostgresStore,
    sqlite: SqliteStore,
    url: String,
    _directory: tempfile::TempDir,
}

impl Both {
    fn new() -> Self {
        let (core, directory, url) = (story(), tempfile::tempdir().unwrap(), Postgres::shared().database());
        let mut postgres = PostgresStore::open(&PostgresOptions::new(url.as_str())).unwrap();
        let mut sqlite = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
        write(&core, &mut postgres);
        write(&core, &mut sqlite);
        Self { core, postgres, sqlite, url, _directory: directory }
    }

    fn readers(&self) -> [Arc<dyn Reader>; 2] {
        [self.postgres.reader(), self.sqlite.reader()]
    }

    /// What one question is answered by both, which must be the same and something.
    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, ask: impl Fn(&dyn Reader) -> Vec<T>) -> usize {
        let [postgres, sqlite] = self.readers().map(|reader| ask(reader.as_ref()));
        assert_eq!(postgres, sqlite, "{what}");
        postgres.len()
    }

    fn verify(&self) -> Report {
        let scratch = tempfile::tempdir().unwrap();
        let reader = PostgresReader::open(&PostgresOptions::new(self.url.as_str())).unwrap();
        verify(&reader, scratch.path(), |_, _| {}).unwrap()
    }
}

fn page(limit: usize) -> Page {
    Page { after: RowKey::default(), until: Position::new(u64::MAX), limit }
}

#[test]
fn b3_both_engines_answer_alike() {
    let both = Both::new();
    for table in Table::ALL {
        let rows = both.same(table.name(), |reader| reader.raw_rows(table, page(1_000)).unwrap());
        assert!(rows > 0, "{}", table.name());
    }
    both.same("head", |reader| {
        let head = reader.head().unwrap();
        vec![(head.position, head.hash, head.epoch, head.holder, head.lease_until)]
    });
    assert!(both.same("events", |reader| reader.events(Position::ZERO, usize::MAX).unwrap()) > 0);
    both.same("quarantine", |reader| reader.quarantine(page(1_000)).unwrap());
    for tenant in [None, Some("acme".parse().unwrap()), Some("nobody".parse().unwrap())] {
        let filter = ChargeFilter { tenant: tenant.clone(), ..ChargeFilter::default() };
        let charges = both.same("charges", |reader| reader.charges(&filter, page(1_000)).unwrap());
        let transfers = TransferFilter { tenant: tenant.clone(), account: None };
        both.same("transfers", |reader| reader.transfers(&transfers, page(7)).unwrap());
        both.same("invoices", |reader| reader.invoices(tenant.as_ref(), page(1_000)).unwrap());
        for (by_instance, span_ms) in [(false, 0), (true, 24 * HOUR_MILLISECONDS)] {
            let until = Position::new(u64::MAX);
            let query = UsageQuery { filter: filter.clone(), until, by_instance, span_ms };
            let sums = both.same("usage", |reader| reader.usage(&query).unwrap());
            assert_eq!(sums == 0, charges == 0);
        }
    }
}

#[test]
fn b3_books_in_postgresql_are_verified() {
    let both = Both::new();
    let report = both.verify();
    assert_eq!(report.findings, []);
    assert_eq!(report.digest, digest(&both.core.state).unwrap().to_hex().to_string());
    assert_eq!(report.events, both.core.state.position().number());
    assert!(report.rows.values().all(|rows| *rows > 0), "{:?}", report.rows);

    // An administrator can break the rule; not unseen.
    let change =
        "ALTER TABLE charges DISABLE TRIGGER ALL; UPDATE charges SET project = 'mine' WHERE line = 0";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = sqlx::PgConnection::connect(&both.url).await.unwrap();
        sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
    });
    let findings = both.verify().findings;
    assert!(findings.iter().any(|finding| finding.check == "B-3"), "{findings:?}");
}

#[test]
fn b3_a_snapshot_in_postgresql_is_a_place_to_start_from() {
    let mut both = Both::new();
    let snapshot = Snapshot::of(&both.core.state, &both.core.chain).unwrap();
    both.postgres.write_snapshot(&snapshot).unwrap();
    let reader = both.postgres.reader();
    for (from, position) in [(From::Snapshot, both.core.state.position()), (From::Start, Position::ZERO)] {
        let loaded = load(reader.as_ref(), from, |_, _| {}).unwrap();
        assert_eq!(loaded.from_snapshot, position);
        assert_eq!(loaded.state, both.core.state);
        assert_eq!(loaded.chain_hash, both.core.chain);
    }
}
