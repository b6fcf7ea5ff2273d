//! What only this adapter can show, and the suite that all of them pass.

mod opening;
mod outcome;
mod rights;

use hourglass_test_servers::{Postgres, Proxy};
use hourglass_units::{Amount, Currency};
use prost::bytes::Bytes;

use super::*;
use crate::core::rows::{EventRows, InvoiceRow, TransferRow};
use crate::core::{Account, Event, Position, Recorded, TransferCode};
use crate::log::StoredEvent;
use crate::store::conformance::{self, Harness};
use crate::store::{Page, RowKey};

/// A database for each store.
struct Databases(String);

impl Harness for Databases {
    fn fresh(&mut self) -> Box<dyn Store> {
        self.0 = Postgres::shared().database();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn Store> {
        Box::new(open(&self.0))
    }
}

#[test]
fn it_keeps_the_contract_of_a_store() {
    conformance::run(&mut Databases(String::new()));
}

#[test]
fn every_statement_prepares() {
    let mut store = open(&Postgres::shared().database());
    let Retrying { connection, blocking, .. } = &mut store.session;
    let connection = connection.as_mut().unwrap();
    // Some are for the login and not for the writer.
    blocking.wait(connection.execute(sql::BE_LOGIN)).unwrap();
    for sql in sql::ALL {
        let prepared =
            blocking.wait(async { connection.prepare(sqlx::SqlSafeStr::into_sql_str(sql)).await.map(drop) });
        assert!(prepared.is_ok(), "{sql}: {prepared:?}");
    }
}

#[test]
fn both_engines_have_the_same_migrations() {
    let names = |engine: &str| {
        let folder = format!("{}/../migrations/{engine}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("postgres"), names("sqlite"));
    assert_eq!(names("postgres").len(), schema::MIGRATIONS.len());
}

fn options(url: &str) -> PostgresOptions {
    let statement_timeout = Duration::from_secs(1);
    PostgresOptions { statement_timeout, ..PostgresOptions::new(url) }
}

fn open(url: &str) -> PostgresStore {
    PostgresStore::open(&PostgresOptions::new(url)).unwrap()
}

/// The same address through a proxy.
fn through(proxy: &Proxy, url: &str) -> String {
    let (before, behind) = url.rsplit_once(':').unwrap();
    let (_, database) = behind.split_once('/').unwrap();
    format!("{before}:{}/{database}", proxy.port())
}

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

fn acquire(store: &mut dyn Store, holder: &str) -> Head {
    let (now, lease_until) = (at(1_000), at(2_000));
    store.acquire(&Acquire { holder: holder.to_owned(), now, lease_until, holder_is_gone: true }).unwrap()
}

/// A commit of one event behind the head, with or without rows.
fn commit_after(head: &Head, rows: EventRows) -> Commit {
    let recorded = Recorded { key: None, event: Event::Ticked };
    let position = head.position.next();
    let event = StoredEvent::chain(&head.hash, position, head.epoch, at(5_000), &recorded);
    Commit {
        epoch: head.epoch,
        after: head.position,
        after_hash: head.hash,
        lease_until: at(3_000),
        events: vec![event],
        rows: vec![rows],
        cursors: vec![("outward".to_owned(), position)],
    }
}

/// The head once the commit is stored.
fn head_after(head: &Head, commit: &Commit) -> Head {
    let last = commit.events.last().unwrap();
    Head { position: last.position, hash: last.hash, lease_until: commit.lease_until, ..head.clone() }
}

fn tenant_rows(tenant: &str, number: u64) -> EventRows {
    let id = || tenant.parse().unwrap();
    let transfer = TransferRow {
        tenant: id(),
        debit: Account::Receivable(id()),
        credit: Account::Unbilled(id()),
        amount: Amount::from_attos(i128::from(number)),
        currency: Currency::USD,
        code: TransferCode::Invoice,
        at: at(4_321),
        reverses: None,
    };
    let document = Bytes::from_static(b"\0{}");
    let period = format!("2026-{number:02}").parse().unwrap();
    let invoice = InvoiceRow { tenant: id(), number, period, document };
    EventRows { transfers: vec![transfer], invoices: vec![invoice], ..EventRows::default() }
}

fn all() -> Page {
    Page { after: RowKey::default(), until: Position::new(u64::MAX), limit: 1_000 }
}
