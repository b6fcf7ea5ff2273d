//! What only this adapter can show, and the suite that all of them pass.

use hourglass_test_servers::Postgres;

use super::*;
use crate::store::conformance::{self, Harness};

/// A database for each store.
struct Databases(String);

impl Harness for Databases {
    fn fresh(&mut self) -> Box<dyn Store> {
        self.0 = Postgres::shared().database();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn Store> {
        Box::new(PostgresStore::open(&PostgresOptions::new(self.0.as_str())).unwrap())
    }
}

#[test]
fn it_keeps_the_contract_of_a_store() {
    conformance::run(&mut Databases(String::new()));
}
