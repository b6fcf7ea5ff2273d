//! Roles, migrations, TLS, and what is said where a ledger cannot be opened.

use hourglass_test_servers::{Certificates, PostgresOptions as ServerOptions};

use super::*;

fn error<T>(opened: Result<T, OpenError>) -> String {
    opened.err().map(|error| error.to_string()).unwrap_or_default()
}

fn execute(url: &str, sql: &str) {
    let blocking = Blocking::new().unwrap();
    let target = Target::of(&PostgresOptions::new(url)).unwrap();
    let mut connection = blocking.wait(connect(&target.writer)).unwrap();
    let text = sqlx::AssertSqlSafe(sql.to_owned());
    blocking.wait(sqlx::raw_sql(text).execute(&mut connection)).unwrap();
}

/// Roles belong to the server, tables to the database; everybody starts at once.
#[test]
fn many_may_open_at_the_same_time() {
    let server = Postgres::start(ServerOptions::default());
    let urls = [server.database(), server.database(), server.database()];
    std::thread::scope(|scope| {
        for url in urls.iter().chain(&urls).chain(&urls) {
            scope.spawn(|| assert_eq!(open(url).reader().head().unwrap().epoch, 0));
        }
    });
}

#[test]
fn a_login_without_rights_is_told_what_to_run() {
    let server = Postgres::start(ServerOptions::default());
    let url = server.database();
    execute(&url, "CREATE ROLE small LOGIN PASSWORD 'secret-word'; GRANT ALL ON SCHEMA public TO small");
    let (_, behind) = url.split_once('@').unwrap();
    let mut options = PostgresOptions::new(format!("postgres://small@{behind}"));
    options.password = Some("secret-word".to_owned());
    let told = error(PostgresStore::open(&options));
    assert!(told.contains("CREATE ROLE hourglass_writer NOLOGIN; GRANT hourglass_writer TO"), "{told}");
    // A login that may make roles makes them, and becomes a member.
    execute(&url, "ALTER ROLE small CREATEROLE");
    let mut store = PostgresStore::open(&options).unwrap();
    let head = acquire(&mut store, "first");
    store.commit(&commit_after(&head, tenant_rows("t", 1))).unwrap();
    // Once everything is there, a login that is a member of the roles is enough.
    execute(&url, "CREATE ROLE smaller LOGIN PASSWORD 'x'");
    let smaller = PostgresOptions::new(format!("postgres://smaller:x@{behind}"));
    assert!(error(PostgresStore::open(&smaller)).contains("GRANT hourglass_writer TO SESSION_USER"));
    execute(&url, "GRANT hourglass_writer, hourglass_reader, hourglass_tenant TO smaller");
    let mut store = PostgresStore::open(&smaller).unwrap();
    assert_eq!(acquire(&mut store, "second").position, Position::new(1));
    assert_eq!(store.reader().invoice(&"t".parse().unwrap(), 1).unwrap().unwrap().number, 1);
}

#[test]
fn a_database_that_cannot_be_used_says_why() {
    let url = Postgres::shared().database();
    let options = PostgresOptions::new(url.as_str());
    assert!(error(PostgresReader::open(&options)).contains("there is no ledger in 127.0.0.1:"));
    execute(&url, "CREATE TABLE events (mine bigint)");
    assert!(error(PostgresStore::open(&options)).contains("are not Hourglass's"));
    execute(&url, "DROP TABLE events");
    drop(PostgresStore::open(&options).unwrap());
    assert!(PostgresReader::open(&options).is_ok());
    execute(&url, "UPDATE hourglass_schema SET version = 99");
    for told in [error(PostgresStore::open(&options)), error(PostgresReader::open(&options))] {
        assert!(told.contains("has version 99"), "{told}");
    }
    execute(&url, "UPDATE hourglass_schema SET version = 2, application = 'another'");
    assert!(error(PostgresStore::open(&options)).contains("are not Hourglass's"));
}

#[test]
fn a_database_of_an_earlier_version_is_migrated() {
    let url = Postgres::shared().database();
    let mut store = open(&url);
    let head = acquire(&mut store, "first");
    store.commit(&commit_after(&head, tenant_rows("t", 1))).unwrap();
    drop(store);
    execute(
        &url,
        "DROP INDEX clearings; DROP TABLE cursors; DROP TABLE unused; DROP TABLE timeline; ALTER TABLE charges DROP COLUMN reservation; \
         ALTER TABLE charges DROP COLUMN effective_price_nanos; \
         ALTER TABLE invoices ADD CONSTRAINT invoices_tenant_period_key UNIQUE (tenant, period); \
         UPDATE hourglass_schema SET version = 1",
    );
    let reader = open(&url).reader();
    assert_eq!(reader.cursor("outward").unwrap(), None);
    assert_eq!(reader.head().unwrap().position, Position::new(1));
}

/// A password stands in no message and in no debug output, wherever it was given.
#[test]
fn no_password_is_shown() {
    let server = Postgres::shared();
    let url = format!("postgres://hourglass:open-sesame@127.0.0.1:{}/postgres", server.port());
    let apart = format!("postgres://hourglass@127.0.0.1:{}/postgres", server.port());
    let apart = PostgresOptions { password: Some("open-sesame".to_owned()), ..PostgresOptions::new(apart) };
    for options in [PostgresOptions::new(url), apart] {
        let shown = format!("{options:?} {}", error(PostgresStore::open(&options)));
        assert!(shown.contains("password authentication failed"), "{shown}");
        assert!(shown.contains("/postgres") && !shown.contains("sesame"), "{shown}");
    }
    for url in ["postgres://hourglass:open-sesame@host:port/x", "open-sesame", "postgres://:open-sesame@/"] {
        let options = PostgresOptions::new(url);
        let shown = format!("{options:?} {}", error(PostgresStore::open(&options)));
        assert!(!shown.contains("sesame"), "{shown}");
    }
}

#[test]
fn tls_is_checked_in_full() {
    let certificates = Certificates::make();
    let tls = Some(certificates.clone());
    let server = Postgres::start(ServerOptions { tls, ..ServerOptions::default() });
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let right = file("right.pem", &certificates.authority);
    let wrong = file("wrong.pem", &Certificates::make().authority);
    let plain = PostgresOptions::new(server.url("postgres"));
    assert!(error(PostgresStore::open(&plain)).contains("no encryption"), "it is plain on this machine");
    let required = PostgresOptions::new(format!("{}?sslmode=require", server.url("postgres")));
    assert!(!error(PostgresStore::open(&required)).is_empty(), "asked for, it is checked");
    let mistrusted = PostgresOptions { root_certificate: wrong, ..plain.clone() };
    assert!(!error(PostgresStore::open(&mistrusted)).is_empty());
    let trusted = PostgresOptions { root_certificate: right.clone(), ..plain };
    let mut store = PostgresStore::open(&trusted).unwrap();
    let head = acquire(&mut store, "first");
    store.commit(&commit_after(&head, tenant_rows("t", 1))).unwrap();
    assert_eq!(store.reader().head().unwrap().position, Position::new(1));
    let another_name = trusted.url.replace("127.0.0.1", "127.0.0.2");
    let another_name = PostgresOptions { url: another_name, ..trusted };
    assert!(!error(PostgresStore::open(&another_name)).is_empty());
}
