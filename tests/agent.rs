//! The agent as it runs on a node: killed, told to stop, and held to its own subject by the broker.

#[expect(dead_code, reason = "the agent's own tests need more of it")]
#[path = "../agent/tests/play/mod.rs"]
mod play;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::ConnectOptions;
use hourglass_test_servers::{Certificates, Nats, NatsOptions, signal};
use play::{Cell, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{command, hourglass};

/// 2026-03-01T00:00:00Z.
const START: i64 = 1_772_323_200_000;
const HOUR: i64 = 3_600_000;

/// A node's directories.
struct Node {
    directory: TempDir,
    region: &'static str,
    url: String,
    more: Vec<String>,
}

impl Node {
    fn new(url: &str, region: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("inventory")).unwrap();
        Self { directory, region, url: url.to_owned(), more: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn assign(&self, instance: &str, gpus: u32, since: i64, until: i64) {
        let text =
            json!({"instance_id": instance, "session": 1, "gpus": gpus, "since": since, "until": until});
        std::fs::write(self.path("inventory").join(format!("{instance}.json")), text.to_string()).unwrap();
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let (inventory, spool) = (self.path("inventory"), self.path("spool"));
        let own = ["agent", "--agent-id", "node.7", "--region", self.region, "--nats", &self.url];
        let directories = ["--inventory", inventory.to_str().unwrap(), "--spool", spool.to_str().unwrap()];
        let all = own.iter().chain(&directories).chain(&["--interval", "1s"]).chain(more);
        all.map(|arg| (*arg).to_owned()).chain(self.more.iter().cloned()).collect()
    }

    fn start(&self, more: &[&str]) -> Child {
        let args = self.args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(self.directory.path(), &args).stderr(Stdio::null()).spawn().unwrap()
    }

    fn drain(&self, more: &[&str]) -> crate::support::Answer {
        self.drain_within("60s", more)
    }

    fn drain_within(&self, timeout: &str, more: &[&str]) -> crate::support::Answer {
        let args = self.args(&[&["--drain", "--json", "--drain-timeout", timeout], more].concat());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        hourglass(self.directory.path(), &args)
    }

    fn status(&self) -> Value {
        let text = std::fs::read(self.path("spool").join("status.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

#[test]
fn nothing_is_lost_by_kill_9() {
    const INSTANCES: [&str; 4] = ["i-1", "i-2", "i-3", "i-4"];
    let url = Nats::shared().url();
    let cell = Cell::start(&url, "kill", ConnectOptions::new());
    // A small stream keeps the agent busy for as long as the cell takes its time.
    cell.make_stream(12);
    let node = Node::new(&url, "kill");
    for instance in INSTANCES {
        node.assign(instance, 8, START, START + 24 * HOUR);
    }
    // Killed with the cell away: epochs pile up of which nothing is committed. Killed in the middle of the
    // cell's work: what is committed is known to nobody. At once, and later.
    for round in 0..8_u64 {
        cell.consume(round >= 5);
        let mut agent = node.start(&["--every", "10ms"]);
        let before = cell.told(|told| told.messages);
        match round {
            0 => {}
            1..5 => wait_for("it records", || node.status()["recorded"].as_u64() > Some(round * 9_000)),
            _ => wait_for("the cell gets some", || cell.told(|told| told.messages) > before + 20),
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
        let told = cell.told(|told| told.covered("i-1"));
        assert!(told.len() <= INSTANCES.len() * 8, "{told:?}");
    }
    cell.consume(true);
    let status = node.drain(&["--resend-after", "2s"]).json();
    assert_eq!((&status["unfreed"], &status["lost_gpu_milliseconds"]), (&json!(0), &json!(0)));
    for instance in INSTANCES {
        assert_eq!(cell.told(|told| told.covered(instance)), [(START, START + 24 * HOUR, 8)], "{instance}");
    }
}

#[test]
fn a_drain_without_an_inventory_says_so() {
    let nowhere = std::path::Path::new("/nonexistent");
    let spool = tempfile::tempdir().unwrap();
    let args = ["agent", "--agent-id", "n", "--region", "r", "--nats", "nats://127.0.0.1:1", "--drain"];
    let spool = ["--inventory", "/nonexistent/inventory", "--spool", spool.path().to_str().unwrap()];
    let answer = hourglass(nowhere, &[&args[..], &spool].concat());
    assert_eq!(answer.code, 2, "{}", answer.stderr);
    assert!(answer.stderr.contains("/nonexistent/inventory: No such file"), "{}", answer.stderr);
}

#[test]
fn told_to_stop_it_takes_a_last_sample() {
    let url = Nats::shared().url();
    let cell = Cell::start(&url, "stop", ConnectOptions::new());
    cell.make_stream(-1);
    let node = Node::new(&url, "stop");
    node.assign("i-1", 8, START, START + HOUR);
    let mut agent = node.start(&["--every", "1h"]);
    wait_for("the first sample", || node.status()["freed"].as_u64().is_some());
    wait_for("it is there", || cell.told(|told| told.covered("i-1")) == [(START, START + HOUR, 8)]);
    node.assign("i-2", 2, START, START + HOUR);
    signal("TERM", agent.id());
    assert!(agent.wait().unwrap().success());
    wait_for("the last sample", || cell.told(|told| told.covered("i-2")) == [(START, START + HOUR, 2)]);
    // A second agent on the same log is refused while the first runs.
    let epoch = node.status()["epoch"].clone();
    let mut agent = node.start(&["--every", "1h"]);
    wait_for("it runs", || !node.status().is_null() && node.status()["epoch"] != epoch);
    let answer = node.drain(&[]);
    assert!(answer.code == 4 && answer.stderr.contains("in use by another agent"), "{}", answer.stderr);
    signal("TERM", agent.id());
    assert!(agent.wait().unwrap().success());
}

/// The users that `hourglass nats` makes, on a server with TLS.
struct Guarded {
    server: Nats,
    directory: TempDir,
}

impl Guarded {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let user = |args: &[&str], name: &str| {
            let seed = directory.path().join(name);
            let fixed = ["--json", "nats"];
            let rest = ["--region", "guarded", "--seed-file", seed.to_str().unwrap()];
            let answer = hourglass(directory.path(), &[&fixed, args, &rest].concat()).json();
            answer["entry"].as_str().unwrap().to_owned()
        };
        let entries = [
            user(&["agent-user", "--agent", "node.7"], "node.7"),
            user(&["agent-user", "--agent", "node.8"], "node.8"),
            user(&["cell-user"], "cell"),
        ];
        let certificates = Certificates::make();
        std::fs::write(directory.path().join("ca.pem"), &certificates.authority).unwrap();
        let configuration = format!("authorization {{ users = [\n{}] }}\n", entries.concat());
        let server =
            Nats::start(&NatsOptions { tls: Some(certificates), configuration, ..NatsOptions::default() });
        Self { server, directory }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn options(&self, user: &str) -> ConnectOptions {
        let seed = std::fs::read_to_string(self.file(user)).unwrap();
        ConnectOptions::new().nkey(seed.trim().to_owned()).add_root_certificates(self.file("ca.pem").into())
    }

    /// Does something as a user and answers with what the server says to it.
    fn says<F: Future<Output = ()>>(
        &self,
        user: &str,
        act: impl FnOnce(async_nats::Client) -> F,
    ) -> Vec<String> {
        let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = std::sync::Arc::clone(&said);
        let options = self.options(user).event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                noted.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _client = runtime.block_on(async {
            let client = options.connect(self.server.url()).await.unwrap();
            act(client.clone()).await;
            // Nobody may do this, and the server answers in order: after it, it has said all.
            client.publish("nobody.may", "x".into()).await.unwrap();
            client.flush().await.unwrap();
            client
        });
        let said = || said.lock().unwrap().clone();
        wait_for("the last refusal", || said().iter().any(|text| text.contains("nobody.may")));
        said()
    }
}

#[test]
fn the_broker_holds_an_agent_to_its_own_subject() {
    let guarded = Guarded::start();
    let url = guarded.server.url();
    let cell = Cell::start(&url, "guarded", guarded.options("cell"));
    cell.make_stream(-1);
    let mut node = Node::new(&url, "guarded");
    node.assign("i-1", 8, START, START + HOUR);
    node.more = ["--nats-ca", &guarded.file("ca.pem"), "--nats-seed-file", &guarded.file("node.7")]
        .map(str::to_owned)
        .to_vec();
    let status = node.drain(&[]).json();
    assert_eq!((&status["freed"], &status["unfreed"]), (&json!(3_600), &json!(0)));
    assert_eq!(cell.told(|told| told.covered("i-1")), [(START, START + HOUR, 8)]);

    // Subjects as they are: an agent's dot is written %2E.
    let refused = |user: &str, publish: &'static str, subscribe: &'static str| {
        let said = guarded.says(user, |client| async move {
            client.publish(publish, "x".into()).await.unwrap();
            let _subscription = client.subscribe(subscribe).await.unwrap();
            client.flush().await.unwrap();
        });
        let about =
            |subject: &str| said.iter().any(|text| text.to_lowercase().contains(&subject.to_lowercase()));
        (about(&format!("\"{publish}\"")), about(&format!("\"{subscribe}\"")))
    };
    let (usage, watermark) = ("hg.guarded.usage.0.node%2E7", "hg.guarded.watermark.node%2E7");
    assert_eq!(refused("node.8", usage, watermark), (true, true));
    assert_eq!(refused("node.8", "hg.guarded.usage.1.node%2E8", "hg.guarded.usage.>"), (true, true));
    assert_eq!(refused("node.8", "hg.guarded.watermark.node%2E8", "_INBOX.node%2E7.>"), (true, true));
    assert_eq!(refused("node.8", "$JS.API.STREAM.DELETE.HG_guarded_USAGE_0", ">"), (true, true));
    let own = ("hg.guarded.usage.0.node%2E8", "hg.guarded.watermark.node%2E8");
    assert_eq!(refused("node.8", own.0, own.1), (false, false));
    // The cell reads usage by its consumer and writes none.
    assert_eq!(refused("cell", usage, "hg.guarded.usage.>"), (true, true));

    // A seed that the server does not know, and a server whose certificate nobody vouches for.
    let stranger = guarded.file("stranger");
    hourglass(
        guarded.directory.path(),
        &["nats", "agent-user", "--region", "guarded", "--agent", "node.7", "--seed-file", &stranger],
    )
    .ok();
    node.assign("i-2", 8, START, START + HOUR);
    let ca = guarded.file("ca.pem");
    for more in [vec!["--nats-ca", &*ca, "--nats-seed-file", &stranger], vec!["--nats-seed-file", &*stranger]]
    {
        node.more = more.into_iter().map(str::to_owned).collect();
        let answer = node.drain_within("1s", &[]);
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains("3600 records are not committed"), "{}", answer.stderr);
    }
}

#[test]
fn a_seed_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let seed = directory.path().join("seed");
    let args = ["nats", "agent-user", "--region", "r", "--agent", "a", "--seed-file", seed.to_str().unwrap()];
    let first = hourglass(directory.path(), &args).ok();
    let mode = std::fs::metadata(&seed).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&seed).unwrap();
    assert!(text.starts_with("SU") && !first.stdout.contains(text.trim()));
    // The same file is the same user.
    assert_eq!(hourglass(directory.path(), &args).ok().stdout, first.stdout);
    assert!(Path::new(&seed).exists());
    let help = Command::new(env!("CARGO_BIN_EXE_hourglass")).args(["agent", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("--nats-seed-file"));
}
