//! What Hourglass is not: a ledger in SQL with a transfer row for each usage record.
//!
//! It is as fast as we know how to write one: a single session without locks to wait for, whole
//! batches by UNNEST, balances added up by the caller and written in the same transaction, no index
//! but the primary key, and amounts as 64-bit numbers. Reading and rating happen beside the
//! database, while it commits. It has the messages in memory and no broker before it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use hourglass_ledger::core::usage::UsageBatch;
use prost::bytes::Bytes;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tokio::sync::mpsc;

use super::pipe::connect;
use crate::workload::{TENANTS, id, price_nanos};

/// Messages whose records share a transaction.
const MESSAGES_A_COMMIT: usize = 10;
/// Account of the income; the tenants' have the numbers below.
const REVENUE: i64 = TENANTS as i64;

const TABLES: &str = "\
    DROP TABLE IF EXISTS transfers_of_records, accounts_of_records; \
    CREATE TABLE accounts_of_records (id bigint PRIMARY KEY, balance bigint NOT NULL); \
    CREATE TABLE transfers_of_records ( \
        id       bigint PRIMARY KEY, \
        debit    bigint NOT NULL, \
        credit   bigint NOT NULL CHECK (credit <> debit), \
        amount   bigint NOT NULL CHECK (amount > 0), \
        instance text   NOT NULL, \
        begins   bigint NOT NULL, \
        ends     bigint NOT NULL \
    )";
const INSERT: &str = "\
    INSERT INTO transfers_of_records (id, debit, credit, amount, instance, begins, ends) SELECT * FROM unnest( \
        $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])";
const BALANCES: &str = "\
    UPDATE accounts_of_records SET balance = balance + more.amount \
    FROM unnest($1::bigint[], $2::bigint[]) AS more (id, amount) WHERE accounts_of_records.id = more.id";

/// One transaction's rows, by column.
#[derive(Default)]
struct Transfers {
    ids: Vec<i64>,
    debits: Vec<i64>,
    credits: Vec<i64>,
    amounts: Vec<i64>,
    instances: Vec<String>,
    begins: Vec<i64>,
    ends: Vec<i64>,
    balances: BTreeMap<i64, i64>,
}

/// Books the messages and answers with the seconds that it took.
pub(crate) async fn run(url: &str, instances: usize, messages: Vec<Bytes>) -> f64 {
    let mut session = connect(url).await;
    session.execute(TABLES).await.expect("tables");
    sqlx::query("INSERT INTO accounts_of_records SELECT *, 0 FROM generate_series(0, $1)")
        .bind(REVENUE)
        .execute(&mut session)
        .await
        .expect("accounts");
    let known: HashMap<String, usize> = (0..instances).map(|n| (id(n), n)).collect();
    let started = Instant::now();
    let (send, mut rated) = mpsc::channel(2);
    let rating = tokio::task::spawn_blocking(move || {
        let mut next_id = 0;
        for together in messages.chunks(MESSAGES_A_COMMIT) {
            let mut transfers = Transfers::default();
            together.iter().for_each(|raw| transfers.rate(raw, &known, &mut next_id));
            send.blocking_send(transfers).expect("a ledger that takes it");
        }
    });
    while let Some(transfers) = rated.recv().await {
        transfers.book(&mut session).await.expect("a commit");
    }
    rating.await.expect("a task that ends");
    started.elapsed().as_secs_f64()
}

impl Transfers {
    fn rate(&mut self, raw: &Bytes, known: &HashMap<String, usize>, next_id: &mut i64) {
        let batch = UsageBatch::parse(raw.clone()).expect("a batch");
        for record in batch.records() {
            let n = *known.get(record.instance).expect("an instance that is known");
            let tenant = (n % TENANTS) as i64;
            let gpu_ms = i128::from(record.interval.milliseconds()) * i128::from(record.gpus);
            let amount = i64::try_from(gpu_ms * i128::from(price_nanos(n)) / 3_600_000).expect("an amount");
            self.ids.push(*next_id);
            self.debits.push(tenant);
            self.credits.push(REVENUE);
            self.amounts.push(amount);
            self.instances.push(record.instance.to_owned());
            self.begins.push(record.interval.start().unix_ms());
            self.ends.push(record.interval.end().unix_ms());
            *self.balances.entry(tenant).or_default() += amount;
            *self.balances.entry(REVENUE).or_default() -= amount;
            *next_id += 1;
        }
    }

    async fn book(self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut transaction = session.begin().await?;
        sqlx::query(INSERT)
            .bind(self.ids)
            .bind(self.debits)
            .bind(self.credits)
            .bind(self.amounts)
            .bind(self.instances)
            .bind(self.begins)
            .bind(self.ends)
            .execute(&mut *transaction)
            .await?;
        let (accounts, amounts): (Vec<i64>, Vec<i64>) = self.balances.into_iter().unzip();
        sqlx::query(BALANCES).bind(accounts).bind(amounts).execute(&mut *transaction).await?;
        transaction.commit().await
    }
}
