//! What only this adapter can show, and the suite that all of them pass.

use super::*;
use crate::store::conformance::{self, Harness};
use crate::store::faulty::{Faults, FaultyStore};

#[test]
fn every_statement_prepares() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(directory.path(), SqliteOptions::default()).unwrap();
    for sql in sql::ALL.into_iter().chain([sql::raw_rows(Table::Quarantine)]) {
        let prepared = store
            .blocking
            .wait(async { store.connection.prepare(sqlx::SqlSafeStr::into_sql_str(sql)).await.map(drop) });
        assert!(prepared.is_ok(), "{sql}: {prepared:?}");
    }
}

/// A directory for each store; faults where the second field has a seed.
struct Directories(Option<tempfile::TempDir>, Option<u64>);

impl Directories {
    fn open(&self) -> Box<dyn Store> {
        let path = self.0.as_ref().unwrap().path();
        let store = Box::new(SqliteStore::open(path, SqliteOptions { durable: false }).unwrap());
        match self.1 {
            None => store,
            Some(seed) => Box::new(FaultyStore::new(store, Faults::default(), seed)),
        }
    }
}

impl Harness for Directories {
    fn fresh(&mut self) -> Box<dyn Store> {
        self.0 = Some(tempfile::tempdir().unwrap());
        self.open()
    }

    fn reopen(&mut self) -> Box<dyn Store> {
        self.open()
    }
}

#[test]
fn it_keeps_the_contract_of_a_store() {
    conformance::run(&mut Directories(None, None));
}

#[test]
fn a_faulty_store_without_faults_keeps_it_too() {
    conformance::run(&mut Directories(None, Some(7)));
}

#[test]
fn b2_the_database_itself_changes_no_row() {
    let mut store = open_with_rows();
    let tables = ["events", "charges", "unused", "transfers", "invoices", "quarantine"];
    for table in tables {
        let count = count(&mut store, table);
        assert!(count > 0, "{table} has rows");
        for sql in [
            format!("DELETE FROM {table}"),
            format!("UPDATE {table} SET position = position + 100"),
            format!("INSERT OR REPLACE INTO {table} SELECT * FROM {table}"),
            format!("REPLACE INTO {table} SELECT * FROM {table} WHERE position = 1"),
        ] {
            let error = execute(&mut store, sql.clone()).unwrap_err().to_string();
            assert!(error.contains("append-only"), "{sql}: {error}");
        }
        assert_eq!(self::count(&mut store, table), count, "{table}");
    }
    assert!(execute(&mut store, "DELETE FROM head".to_owned()).is_err());
}

fn execute(store: &mut SqliteStore, sql: String) -> Result<(), sqlx::Error> {
    let run = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut store.connection);
    store.blocking.wait(run).map(drop)
}

fn count(store: &mut SqliteStore, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    store.blocking.wait(sqlx::query_scalar(sql).fetch_one(&mut store.connection)).unwrap()
}

/// One row in every table, by a temporary directory that is gone when the test ends.
fn open_with_rows() -> SqliteStore {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
    let rows = "INSERT INTO events VALUES (1, 1, 19, 0, x'00', zeroblob(32));
        INSERT INTO charges VALUES (1, 0, 't', 'p', 'i', 'h', 'r', 'spot', 1, 0, 1, 1, 1, '0', 'USD', NULL, NULL);
        INSERT INTO unused VALUES (1, 0, 't', 'p', 'r', 'h', 'e', 0, 1, 1, '0', 'USD');
        INSERT INTO transfers VALUES (1, 0, 't', 'a', 'b', '1', 'USD', 'invoice', 0, NULL);
        INSERT INTO invoices VALUES (1, 0, 't', 1, '2026-01', x'00');
        INSERT INTO quarantine VALUES (1, 0, NULL, 'r');
        INSERT INTO timeline VALUES (1, 0, 't', 'i', 'started', 0, NULL, NULL, NULL);";
    execute(&mut store, rows.to_owned()).unwrap();
    store
}

/// A data directory of the first release gets what was added since, and keeps what it had.
#[test]
fn a_directory_of_an_earlier_version_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
    let mut store = open();
    execute(&mut store, "INSERT INTO quarantine VALUES (1, 0, NULL, 'r')".to_owned()).unwrap();
    execute(&mut store, "INSERT INTO invoices VALUES (1, 0, 't', 1, '2026-01', x'00')".to_owned()).unwrap();
    let back = "DROP INDEX clearings; DROP TABLE cursors; DROP TABLE unused; DROP TABLE timeline; ALTER TABLE charges DROP COLUMN reservation; \
        ALTER TABLE charges DROP COLUMN effective_price_nanos; PRAGMA user_version = 1";
    execute(&mut store, back.to_owned()).unwrap();
    assert!(store.reader.cursor("outward").is_err());
    drop(store);
    let mut store = open();
    assert_eq!(store.reader.cursor("outward"), Ok(None));
    assert_eq!((count(&mut store, "quarantine"), count(&mut store, "invoices")), (1, 1));
    assert!(execute(&mut store, "DELETE FROM invoices".to_owned()).is_err());
    let (_, version) = store.blocking.wait(version(&mut store.connection)).unwrap();
    assert_eq!(usize::try_from(version).unwrap(), MIGRATIONS.len());
}

#[test]
fn a_directory_that_cannot_be_used_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let error = |result: Result<SqliteStore, OpenError>| {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(SqliteReader::open(path).err().unwrap().to_string().contains("there is no ledger"));

    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    let in_use = error(SqliteStore::open(path, SqliteOptions::default()));
    assert!(in_use.contains(&format!("process id {}", std::process::id())), "{in_use}");
    assert!(SqliteReader::open(path).is_ok());
    let mut store = store;
    store.blocking.wait(store.connection.execute("PRAGMA user_version = 99")).unwrap();
    drop(store);
    assert!(error(SqliteStore::open(path, SqliteOptions::default())).contains("has version 99"));

    let other = tempfile::tempdir().unwrap();
    std::fs::write(
        other.path().join(DATABASE_FILE),
        "not a database, and long enough to be read as one".repeat(20),
    )
    .unwrap();
    let foreign = error(SqliteStore::open(other.path(), SqliteOptions::default()));
    assert!(foreign.contains("is not a Hourglass ledger"), "{foreign}");
}
