//! What the database refuses, whoever asks it.

use sqlx::postgres::PgRow;

use super::*;
use crate::core::rows::{ChargeRow, QuarantineRow};
use crate::store::{ChargeFilter, TransferFilter};

const APPEND_ONLY: [&str; 5] = ["events", "charges", "transfers", "invoices", "quarantine"];

fn charge(tenant: &str) -> ChargeRow {
    let (price, quantity) =
        (hourglass_units::Price::from_nanos(2).unwrap(), hourglass_units::Quantity::from_nanos(3));
    ChargeRow {
        tenant: tenant.parse().unwrap(),
        project: "p".parse().unwrap(),
        instance: "i".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        model: hourglass_pricing::PurchaseModel::Spot,
        reservation: None,
        effective_price: price,
        price,
        hour: hourglass_units::Hour::containing(at(0)),
        gpus: 8,
        milliseconds: 25,
        quantity,
        amount: price.times(quantity),
        currency: Currency::USD,
    }
}

/// A ledger with a row in every table, of two tenants.
fn ledger() -> (PostgresStore, String) {
    let url = Postgres::shared().database();
    let mut store = open(&url);
    let mut head = acquire(&mut store, "first");
    for tenant in ["acme", "bolt"] {
        let quarantine = vec![QuarantineRow { record: None, reason: "undecodable".to_owned() }];
        let rows = EventRows { charges: vec![charge(tenant)], quarantine, ..tenant_rows(tenant, 1) };
        let commit = commit_after(&head, rows);
        store.commit(&commit).unwrap();
        head = head_after(&head, &commit);
    }
    (store, url)
}

/// Runs statements as a role, as the login where it is empty. The error's code where they fail.
fn run(store: &mut PostgresStore, role: &str, sql: &str) -> Result<Vec<PgRow>, String> {
    let Retrying { connection, blocking, .. } = &mut store.session;
    let connection = connection.as_mut().unwrap();
    let role = if role.is_empty() { "RESET ROLE".to_owned() } else { format!("SET ROLE {role}") };
    blocking.wait(sqlx::raw_sql(sqlx::AssertSqlSafe(role)).execute(&mut *connection)).unwrap();
    let text = sqlx::AssertSqlSafe(sql.to_owned());
    let rows = blocking.wait(sqlx::raw_sql(text).fetch_all(&mut *connection));
    let ended = blocking.wait(connection.execute("ROLLBACK; RESET ROLE"));
    assert!(ended.is_ok(), "{ended:?}");
    rows.map_err(|error| match error {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        other => panic!("{other}"),
    })
}

fn denied(store: &mut PostgresStore, role: &str, sql: &str) {
    assert_eq!(run(store, role, sql).err().as_deref(), Some("42501"), "{role}: {sql}");
}

#[test]
fn b2_no_role_changes_a_row() {
    let (mut store, _) = ledger();
    for table in APPEND_ONLY {
        let key = if table == "events" { "position" } else { "position, line" };
        let changes = [
            format!("UPDATE {table} SET position = position + 100"),
            format!("UPDATE {table} SET position = 1 WHERE false"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DROP TABLE {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
            format!(
                "INSERT INTO {table} SELECT * FROM {table} ON CONFLICT ({key}) DO UPDATE SET position = 9"
            ),
        ];
        for change in &changes {
            for role in ["hourglass_writer", "hourglass_reader", "hourglass_tenant"] {
                denied(&mut store, role, change);
            }
        }
        // The owner, here an administrator even, runs into the rule.
        for change in &changes[..4] {
            let refused = run(&mut store, "", change).err();
            assert_eq!(refused.as_deref(), Some("23001"), "{change}");
        }
        let rows = run(&mut store, "hourglass_writer", &format!("SELECT * FROM {table}")).unwrap();
        assert_eq!(rows.len(), 2, "{table}");
    }
}

#[test]
fn the_writer_may_do_what_it_does_and_no_more() {
    let (mut store, _) = ledger();
    for sql in [
        "DELETE FROM head",
        "INSERT INTO head VALUES (1, 0, '', 0, '', 0)",
        "UPDATE head SET one = 1",
        "DELETE FROM cursors",
        "UPDATE cursors SET consumer = 'x'",
        "UPDATE snapshots SET parts = 1",
        "UPDATE hourglass_schema SET version = 1",
        "DELETE FROM hourglass_schema",
        "CREATE TABLE mine (it bigint)",
        "CREATE ROLE another",
        "SELECT * FROM pg_authid",
    ] {
        denied(&mut store, "hourglass_writer", sql);
        denied(&mut store, "hourglass_reader", sql);
        denied(&mut store, "hourglass_tenant", sql);
    }
    assert_eq!(run(&mut store, "", "DELETE FROM head").err().as_deref(), Some("23001"));
    for table in APPEND_ONLY.into_iter().chain(["head", "cursors", "snapshots"]) {
        let insert = format!("INSERT INTO {table} SELECT * FROM {table} WHERE false");
        denied(&mut store, "hourglass_reader", &insert);
        denied(&mut store, "hourglass_tenant", &insert);
        assert!(run(&mut store, "hourglass_reader", &format!("SELECT * FROM {table}")).is_ok(), "{table}");
    }
}

/// Whatever a statement under the tenant's role asks, it sees the rows of the tenant that is named.
#[test]
fn a_tenants_role_sees_its_own_rows_only() {
    let (mut store, _) = ledger();
    let tenants = |rows: Vec<PgRow>| -> Vec<String> {
        rows.iter().map(|row| sqlx::Row::get::<String, _>(row, "tenant")).collect()
    };
    let questions = [
        "SELECT tenant FROM {}",
        "SELECT tenant FROM {} WHERE tenant = 'bolt' OR true",
        "SELECT tenant FROM {} WHERE tenant = 'bolt'",
        "SELECT tenant FROM {} WHERE tenant = 'acme' UNION ALL SELECT tenant FROM {} WHERE tenant = 'bolt'",
        "SELECT other.tenant FROM {} RIGHT JOIN {} other ON true",
        "WITH every AS MATERIALIZED (SELECT * FROM {}) SELECT tenant FROM every",
        "SELECT tenant FROM ONLY {} TABLESAMPLE system (100)",
    ];
    for table in ["charges", "transfers", "invoices"] {
        for question in questions.map(|question| question.replace("{}", table)) {
            let with = |setting: &str| format!("BEGIN; {setting}; {question}");
            let mut ask =
                |setting: &str| tenants(run(&mut store, "hourglass_tenant", &with(setting)).unwrap());
            let nobody = Vec::<String>::new();
            assert_eq!(ask("SELECT 1 WHERE false"), nobody, "{question}");
            assert_eq!(ask("SET LOCAL hourglass.tenant = ''"), nobody, "{question}");
            assert_eq!(ask("SET LOCAL hourglass.tenant = 'ACME'"), nobody, "{question}");
            let own = ask("SET LOCAL hourglass.tenant = 'acme'");
            assert!(own.iter().all(|tenant| tenant == "acme"), "{question}: {own:?}");
            assert_eq!(
                own.is_empty(),
                question.ends_with(" WHERE tenant = 'bolt'") && !question.contains("UNION")
            );
        }
    }
    for table in ["events", "head", "quarantine", "snapshots", "cursors", "hourglass_schema"] {
        denied(&mut store, "hourglass_tenant", &format!("SELECT * FROM {table}"));
    }
    for sql in [
        "ALTER TABLE charges DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_rows_are_read ON charges",
        "CREATE POLICY mine ON charges USING (true)",
    ] {
        denied(&mut store, "hourglass_tenant", sql);
    }
}

/// A login that is nothing but a tenant's role cannot leave it. The sessions of the cell can: there
/// the role defends against a forgotten condition, not against statements of a stranger.
#[test]
fn a_login_with_the_tenants_role_alone_stays_in_it() {
    let (mut store, url) = ledger();
    let login = "CREATE ROLE tenants_login LOGIN PASSWORD 'x' IN ROLE hourglass_tenant";
    run(&mut store, "", login).unwrap();
    let (_, behind) = url.split_once('@').unwrap();
    let options = options(&format!("postgres://tenants_login:x@{behind}"));
    assert!(PostgresReader::open(&options).is_err());
    let target = Target::of(&options).unwrap();
    let connection = store.session.blocking.wait(connect(&target.reader)).unwrap();
    store.session.connection = Some(connection);
    for role in ["hourglass_writer", "hourglass_reader", "hourglass"] {
        let taken = run(&mut store, "", &format!("SET ROLE {role}")).err();
        assert_eq!(taken.as_deref(), Some("42501"), "{role}");
    }
    assert_eq!(run(&mut store, "", "SELECT * FROM charges").unwrap().len(), 0);
    denied(&mut store, "", "SELECT * FROM events");
}

/// The reader's own questions go through the tenant's role: with its policy gone nothing is seen.
#[test]
fn questions_that_name_a_tenant_are_held_by_the_database() {
    let (mut store, _) = ledger();
    let (acme, reader) = ("acme".parse().unwrap(), store.reader());
    let charges = ChargeFilter { tenant: Some(acme), ..ChargeFilter::default() };
    let acme: hourglass_units::TenantId = "acme".parse().unwrap();
    let transfers = TransferFilter { tenant: Some(acme.clone()), account: None };
    let usage = crate::store::UsageQuery {
        filter: charges.clone(),
        until: Position::new(9),
        by_instance: false,
        span_ms: 0,
    };
    let count = || {
        [
            reader.charges(&charges, all()).unwrap().len(),
            reader.usage(&usage).unwrap().len(),
            reader.transfers(&transfers, all()).unwrap().len(),
            reader.invoices(Some(&acme), all()).unwrap().len(),
            reader.invoice(&acme, 1).unwrap().iter().count(),
        ]
    };
    assert_eq!(count(), [1; 5]);
    for table in ["charges", "transfers", "invoices"] {
        let close = format!("ALTER POLICY own_rows_are_read ON {table} USING (tenant = 'bolt')");
        run(&mut store, "", &close).unwrap();
    }
    assert_eq!(count(), [0; 5]);
    assert_eq!(reader.charges(&ChargeFilter::default(), all()).unwrap().len(), 2);
    assert_eq!(reader.invoices(None, all()).unwrap().len(), 2);
}
