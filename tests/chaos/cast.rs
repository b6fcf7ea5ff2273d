//! The processes: PostgreSQL, nats-server, two servers of the cell and the agents, and the ways between.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hourglass_test_servers::{Nats, NatsOptions, Postgres, PostgresOptions, Proxy, free_port, signal};
use serde_json::{Value, json};

use super::repeater::Repeater;
use super::schedule::{INTERVAL_MS, Instance, REGION, Run, agent_name};
use crate::full_disk::Tmpfs;
use crate::http::rfc3339;

/// The lease of the writer.
pub(crate) const LEASE_MS: u64 = 2_000;
/// The usage stream holds so much, so that it fills up while nobody takes from it.
pub(crate) const STREAM_BYTES_MAX: u64 = 4 << 20;
/// What the spools of agents may hold.
const SPOOL_BYTES_MAX: u64 = 64 << 20;
/// The agent whose spool lies on a small disk, where one can be mounted.
pub(crate) const AGENT_ON_SMALL_DISK: usize = 0;
const SMALL_DISK: &str = "48m";

/// A program that is started again and again, and says what it has to say in one file.
pub(crate) struct Process {
    pub(crate) name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    /// It was killed on purpose, and is not to be started before that is healed.
    pub(crate) is_down: bool,
}

impl Process {
    fn new(name: &str, directory: &Path, args: Vec<String>) -> Self {
        let log = directory.join(format!("{name}.log"));
        Self { name: name.to_owned(), args, env: Vec::new(), log, child: None, is_down: false }
    }

    /// Starts it, to end with the thread that runs the test.
    pub(crate) fn start(&mut self) {
        self.is_down = false;
        let log = fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_hourglass")])
            .args(&self.args)
            .env_remove("HOURGLASS_OPERATOR_TOKEN")
            .env_remove("HOURGLASS_PLANTED_FAULT")
            .env("HOURGLASS_LOG", "info")
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("setpriv of util-linux");
        self.child = Some(child);
    }

    /// As `kill -9`; it stays away until it is started.
    pub(crate) fn kill(&mut self) {
        self.is_down = true;
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Whether it ended although nobody killed it.
    pub(crate) fn ended_by_itself(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.to_string())
    }

    pub(crate) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            signal(name, child.id());
        }
    }

    /// Asks it to end and waits for that. Answers whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        self.signal("TERM");
        self.is_down = true;
        self.child.take().is_some_and(|mut child| child.wait().is_ok_and(|status| status.success()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One of the two that can write.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) config: PathBuf,
    pub(crate) to_postgres: Proxy,
}

/// One agent.
pub(crate) struct Agent {
    pub(crate) process: Process,
    inventory: PathBuf,
    pub(crate) spool: PathBuf,
}

/// Everyone.
pub(crate) struct Cast {
    pub(crate) servers: [Server; 2],
    pub(crate) agents: Vec<Agent>,
    pub(crate) repeater: Repeater,
    pub(crate) agents_to_nats: Proxy,
    pub(crate) servers_to_nats: Proxy,
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) small_disk: Option<Tmpfs>,
    database: String,
    directory: PathBuf,
}

impl Cast {
    /// Starts everyone. `directory` gets their files and what they say.
    pub(crate) fn start(directory: &Path, agents: usize, planted_fault: Option<&str>) -> Self {
        let postgres = Postgres::start(PostgresOptions::default());
        let nats = Nats::start(&NatsOptions::default());
        let database = postgres.database();
        let agents_to_nats = Proxy::start(nats.port());
        let servers_to_nats = Proxy::start(nats.port());
        let repeater = Repeater::start(agents_to_nats.port());
        let small_disk = Tmpfs::mount(SMALL_DISK);
        let mut servers = ["a", "b"].map(|name| {
            let to_postgres = Proxy::start(postgres.port());
            server(name, directory, &database, to_postgres, servers_to_nats.port())
        });
        for server in &mut servers {
            let fault = planted_fault.map(|fault| ("HOURGLASS_PLANTED_FAULT".to_owned(), fault.to_owned()));
            server.process.env.extend(fault);
            server.process.start();
        }
        let agents = (0..agents)
            .map(|number| {
                let on_small_disk = small_disk.as_ref().filter(|_| number == AGENT_ON_SMALL_DISK);
                let mut agent = agent(number, directory, on_small_disk.map(Tmpfs::path), repeater.port);
                agent.process.start();
                agent
            })
            .collect();
        let directory = directory.to_owned();
        Self {
            servers,
            agents,
            repeater,
            agents_to_nats,
            servers_to_nats,
            postgres,
            nats,
            small_disk,
            database,
            directory,
        }
    }

    /// Starts again whoever ended although nobody killed it, as a service manager would.
    pub(crate) fn supervise(&mut self) -> Vec<String> {
        let servers = self.servers.iter_mut().map(|server| &mut server.process);
        let processes = servers.chain(self.agents.iter_mut().map(|agent| &mut agent.process));
        let mut ended = Vec::new();
        for process in processes {
            if let Some(how) = process.ended_by_itself() {
                ended.push(format!("{} ended by itself: {how}", process.name));
                process.start();
            }
        }
        ended
    }

    /// What an SQL query answers, read past every proxy.
    pub(crate) fn sql(&self, query: &str) -> Vec<Vec<String>> {
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-F", "\t", "-c", query, &self.database])
            .output()
            .unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// Runs `hourglass` on the ledger in PostgreSQL.
    pub(crate) fn hourglass(&self, args: &[&str]) -> crate::support::Answer {
        let config = self.servers[0].config.to_str().unwrap();
        crate::support::hourglass(&self.directory, &[&["--config", config], args].concat())
    }

    /// Keeps what the servers said beside what the processes said. Answers with who panicked.
    pub(crate) fn gather_logs(&self) -> Vec<String> {
        fs::write(self.directory.join("nats.log"), self.nats.log()).unwrap();
        fs::write(self.directory.join("postgres.log"), self.postgres.log()).unwrap();
        let servers = self.servers.iter().map(|server| &server.process);
        let processes = servers.chain(self.agents.iter().map(|agent| &agent.process));
        let panicked = |process: &&Process| {
            String::from_utf8_lossy(&fs::read(&process.log).unwrap_or_default()).contains("panicked at")
        };
        processes.filter(panicked).map(|process| process.name.clone()).collect()
    }
}

fn server(name: &str, directory: &Path, database: &str, to_postgres: Proxy, nats: u16) -> Server {
    let config = directory.join(format!("{name}.toml"));
    let (http, grpc) = (free_port(), free_port());
    // postgres://USER:PASSWORD@HOST/DATABASE
    let (login, place) = database.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let (_, base) = place.split_once('/').unwrap();
    let password_file = directory.join("postgres-password");
    fs::write(&password_file, password).unwrap();
    let text = format!(
        r#"
region = "{REGION}"
http = "127.0.0.1:{http}"
grpc = "127.0.0.1:{grpc}"

[postgres]
url = "postgres://{user}@127.0.0.1:{port}/{base}"
password_file = {password_file:?}

[nats]
servers = ["nats://127.0.0.1:{nats}"]
usage_bytes_max = {STREAM_BYTES_MAX}

[cell]
node = "{name}"
lease = "{LEASE_MS}ms"
tick = "1s"
finalise_invoices = "on_request"
acceptance_window = "366d"
grace = "0s"
"#,
        port = to_postgres.port(),
    );
    fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap(), "serve"].map(str::to_owned).to_vec();
    let process = Process::new(&format!("server-{name}"), directory, args);
    Server { process, url: format!("http://127.0.0.1:{http}"), config, to_postgres }
}

fn agent(number: usize, directory: &Path, spool: Option<&Path>, nats: u16) -> Agent {
    let name = agent_name(number);
    let inventory = directory.join(&name).join("inventory");
    let spool = spool.unwrap_or(&directory.join(&name)).join("spool");
    fs::create_dir_all(&inventory).unwrap();
    let args = [
        "agent".to_owned(),
        format!("--agent-id={name}"),
        format!("--region={REGION}"),
        format!("--inventory={}", inventory.display()),
        format!("--spool={}", spool.display()),
        format!("--spool-bytes-max={SPOOL_BYTES_MAX}"),
        format!("--interval={INTERVAL_MS}ms"),
        "--every=1s".to_owned(),
        "--resend-after=3s".to_owned(),
        "--no-nvml".to_owned(),
        format!("--nats=nats://127.0.0.1:{nats}"),
    ];
    let process = Process::new(&name, directory, args.to_vec());
    Agent { process, inventory, spool }
}

impl Agent {
    /// The hypervisor says that an instance runs, or ran.
    pub(crate) fn assign(&self, instance: &Instance, run: &Run) {
        let name = format!("{}-{}", instance.id, run.session);
        let text = json!({
            "instance_id": instance.id, "session": run.session, "gpus": instance.gpus,
            "since": rfc3339(run.start), "until": rfc3339(run.end),
        });
        let unfinished = self.inventory.join(format!("{name}.new"));
        fs::write(&unfinished, text.to_string()).unwrap();
        fs::rename(unfinished, self.inventory.join(format!("{name}.json"))).unwrap();
    }

    /// What it says of itself; `None` before it has said anything.
    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.spool.join("status.json")).ok()?).ok()
    }
}
