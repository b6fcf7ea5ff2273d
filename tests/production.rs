//! `hourglass serve` on a real PostgreSQL: one process writes, another stands by.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hourglass_test_servers::{Certificates, Nats, NatsOptions, Postgres, PostgresOptions, signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, command, hourglass};

const LEASE: Duration = Duration::from_secs(2);

/// Settings of one process of a cell.
pub(crate) fn settings(directory: &TempDir, node: &str, postgres: &str) -> PathBuf {
    let path = directory.path().join(format!("{node}.toml"));
    let text = format!(
        "region = \"test\"\n{postgres}\n[cell]\nnode = \"{node}\"\nlease = \"{}s\"\ntick = \"1s\"\n",
        LEASE.as_secs()
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[expect(clippy::disallowed_methods, reason = "what real processes do is waited for in real time")]
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(40), "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
    started.elapsed()
}

pub(crate) fn writes(server: &Server) -> bool {
    server.get("/readyz").0 == 200
}

fn tenant(server: &Server, name: &str) -> (u16, Value) {
    server.post("/v1/tenants", &json!({"tenant": name, "currency": "USD", "display_name": name}))
}

/// What a command answers about the ledger in PostgreSQL.
fn ask(settings: &Path, args: &[&str]) -> Value {
    let args = [&["--json", "--config", settings.to_str().unwrap()], args].concat();
    hourglass(Path::new("/nonexistent"), &args).json()
}

#[test]
fn one_process_writes_and_the_other_takes_over_whatever_happens() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = format!("[postgres]\nurl = \"{}\"", Postgres::shared().database());
    let (of_a, of_b) = (settings(&directory, "a", &postgres), settings(&directory, "b", &postgres));
    let a = Server::serve(&of_a);
    wait_for("a writes", || writes(&a));
    wait_for("the ledger is opened", || tenant(&a, "acme").0 == 201);
    let b = Server::serve(&of_b);
    let (status, problem) = b.get("/readyz");
    assert_eq!((status, &problem["writer"]), (503, &json!("a")));
    let (status, problem) = tenant(&b, "beta");
    assert_eq!((status, &problem["code"]), (503, &json!("not_the_writer")));

    let doctor = ["--config", of_b.to_str().unwrap(), "doctor"];
    let doctor = hourglass(Path::new("/nonexistent"), &doctor).ok().stdout;
    assert!(doctor.contains("a writes, epoch 1"), "{doctor}");

    // The writer dies.
    a.kill();
    let gone = wait_for("b takes over", || writes(&b));
    assert!(gone <= LEASE * 2, "take-over took {gone:?}");
    assert_eq!(tenant(&b, "beta").0, 201);
    let a = Server::serve(&of_a);
    wait_for("a stands by", || a.get("/readyz").1["writer"] == "b");

    // The writer is frozen past its lease, and wakes up.
    signal("STOP", b.process());
    let frozen = wait_for("a takes over", || writes(&a));
    assert!(frozen <= LEASE * 2, "take-over took {frozen:?}");
    assert_eq!(tenant(&a, "gamma").0, 201);
    signal("CONT", b.process());
    let (status, _) = tenant(&b, "delta");
    assert_eq!(status, 503, "a deposed writer writes nothing");
    wait_for("b stands by", || b.get("/readyz").1["writer"] == "a");

    // The writer is told to stop, and gives its lease back.
    assert!(a.stop(), "a clean stop");
    wait_for("b takes over again", || writes(&b));
    assert_eq!(b.get("/v1/tenants").1["rows"].as_array().map(Vec::len), Some(3));
    assert!(b.stop(), "a clean stop");

    let head = ask(&of_a, &["ledger", "head"]);
    assert_eq!(head["epoch"], 4);
    let verified = ask(&of_a, &["verify"]);
    assert_eq!(verified["findings"], json!([]), "{verified}");
}

#[test]
fn what_cannot_be_served_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let check = |postgres: &str, code: i32, says: &str| {
        let path = settings(&directory, "x", postgres);
        let nowhere = Path::new("/nonexistent");
        let answer =
            hourglass(nowhere, &["serve", "--http", "127.0.0.1:0", "--config", path.to_str().unwrap()]);
        assert_eq!(answer.code, code, "{}", answer.stderr);
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
        assert!(!answer.stderr.contains("sesame"), "a secret in an error: {}", answer.stderr);
    };
    check("", 2, "needs a settings file with a [postgres] section");
    check("[postgres]", 2, "postgres.url is missing");
    check("[postgres]\nurl = \"what\"", 4, "cannot be read");
    let nobody = hourglass_test_servers::free_port();
    check(
        &format!("[postgres]\nurl = \"postgres://u:sesame@127.0.0.1:{nobody}/d\""),
        4,
        "cannot open the ledger",
    );
    check(
        "[postgres]\nurl = \"postgres://u@127.0.0.1/d\"\npassword_file = \"/nonexistent/p\"",
        2,
        "No such file",
    );
}

/// TLS as a must, the password in a file, the ledger of another region refused.
#[test]
fn a_database_is_reached_by_tls_and_only_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::make();
    let server =
        Postgres::start(PostgresOptions { tls: Some(certificates.clone()), ..PostgresOptions::default() });
    let url = server.url("postgres");
    let (before, password) = url
        .split_once("://hourglass:")
        .and_then(|(_, rest)| rest.split_once('@'))
        .map(|(p, rest)| (rest.to_owned(), p.to_owned()))
        .unwrap();
    let at_localhost = before.replace("127.0.0.1", "localhost");
    let (secret, authority) = (directory.path().join("password"), directory.path().join("ca.pem"));
    std::fs::write(&secret, format!("{password}\n")).unwrap();
    std::fs::write(&authority, &certificates.authority).unwrap();
    let postgres = |authority: &Path| {
        format!(
            "[postgres]\nurl = \"postgres://hourglass@{at_localhost}\"\npassword_file = {secret:?}\nroot_certificate = {authority:?}"
        )
    };
    let good = settings(&directory, "a", &postgres(&authority));
    let a = Server::serve(&good);
    wait_for("a writes", || writes(&a));
    wait_for("the ledger is opened", || tenant(&a, "acme").0 == 201);
    assert!(a.stop());

    // Another authority vouches for the server: nobody can know that.
    let stranger = directory.path().join("stranger.pem");
    std::fs::write(&stranger, Certificates::make().authority).unwrap();
    let bad = settings(&directory, "b", &postgres(&stranger));
    let refused =
        hourglass(Path::new("/nonexistent"), &["--config", bad.to_str().unwrap(), "ledger", "head"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);

    let text = std::fs::read_to_string(&good).unwrap().replace("region = \"test\"", "region = \"other\"");
    std::fs::write(&good, text).unwrap();
    let mut other = command(
        Path::new("/nonexistent"),
        &["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--config"],
    );
    let other = other.arg(&good).output().unwrap();
    let said = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{said}");
    assert!(said.contains("is that of region test, not other"), "{said}");
}

/// A full hour of the past, in milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "a running cell takes facts of the real time")]
fn hours_ago(hours: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() / 3_600_000 * 3_600_000 - hours * 3_600_000
}

/// A whole region as it should be run: TLS everywhere, each with a user of its own, rights and no more.
#[test]
fn usage_comes_from_an_agent_by_tls_under_users_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let nowhere = Path::new("/nonexistent");
    let user = |args: &[&str], seed: &str| {
        let seed = path(seed);
        let args = [&["--json", "nats"], args, &["--region", "test", "--seed-file", &seed]].concat();
        hourglass(nowhere, &args).json()["entry"].as_str().unwrap().to_owned()
    };
    let entries = user(&["cell-user"], "cell.nk") + &user(&["agent-user", "--agent", "node-1"], "node-1.nk");
    let certificates = Certificates::make();
    std::fs::write(path("ca.pem"), &certificates.authority).unwrap();
    let configuration = format!("authorization {{ users = [\n{entries}] }}\n");
    let nats = Nats::start(&NatsOptions { tls: Some(certificates), configuration, ..NatsOptions::default() });
    let both = format!(
        "[postgres]\nurl = \"{}\"\n[nats]\nservers = [\"{}\"]\nroot_certificate = {:?}\nnkey_seed_file = {:?}",
        Postgres::shared().database(),
        nats.url(),
        path("ca.pem"),
        path("cell.nk"),
    );
    let of_a = settings(&directory, "a", &both);
    let a = Server::serve(&of_a);
    wait_for("a writes", || writes(&a));
    wait_for("the ledger is opened", || tenant(&a, "acme").0 == 201);
    let card = std::fs::read(crate::support::root().join("docs/examples/rate-card.toml")).unwrap();
    let card = String::from_utf8(card).unwrap().replace("eu-north1", "test");
    assert_eq!(a.try_post("/v1/rate-cards", "application/toml", card.as_bytes()).unwrap().0, 201);
    let at = |ms: i64| hourglass_units::Instant::from_unix_ms(ms).unwrap().to_string();
    let vm = json!({"instance": "vm-1", "project": "p", "platform": "gpu-h100-sxm", "model": "on_demand", "gpus": 8});
    assert_eq!(a.post("/v1/tenants/acme/instances", &vm).0, 201);
    let start = json!({"at": at(hours_ago(3))});
    assert_eq!(a.post("/v1/tenants/acme/instances/vm-1:start", &start).0, 200);

    std::fs::create_dir(path("inventory")).unwrap();
    let held = json!({
        "instance_id": "vm-1", "session": 1, "gpus": 8,
        "since": at(hours_ago(3)), "until": at(hours_ago(1)),
    });
    std::fs::write(path("inventory/vm-1.json"), held.to_string()).unwrap();
    let url = nats.url();
    let (inventory, spool, seed, authority) =
        (path("inventory"), path("spool"), path("node-1.nk"), path("ca.pem"));
    let agent = [
        &[
            "agent",
            "--agent-id",
            "node-1",
            "--region",
            "test",
            "--no-nvml",
            "--drain",
            "--drain-timeout",
            "60s",
        ][..],
        &["--inventory", &inventory, "--spool", &spool, "--nats", &url],
        &["--nats-seed-file", &seed, "--nats-ca", &authority],
    ];
    let _drained = hourglass(nowhere, &agent.concat()).ok();
    let usage = a.get("/v1/tenants/acme/usage").1;
    assert!(usage.to_string().contains("\"16\""), "8 GPUs for two hours: {usage}");
    let metrics = a.get("/metrics").1;
    assert!(metrics.as_str().unwrap().contains("hourglass_usage_messages_acknowledged_total 1"), "{metrics}");

    // The feed is out as well: an instance was registered and started.
    wait_for("the feed is published", || {
        let metrics = a.get("/metrics").1;
        metrics.as_str().unwrap().contains("hourglass_feed_lag_positions 0")
    });
    let doctor = hourglass(nowhere, &["--config", of_a.to_str().unwrap(), "doctor"]).ok().stdout;
    assert!(doctor.contains("HG_test_FEED: 2 messages"), "{doctor}");
    assert!(a.stop());
    assert_eq!(ask(&of_a, &["verify"])["findings"], json!([]));
}
