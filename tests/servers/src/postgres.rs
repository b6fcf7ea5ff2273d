//! A PostgreSQL cluster of one's own.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::guard::Guard;
use crate::tls::Certificates;
use crate::{free_port, signal, wait_for};

const PID_FILE: &str = "data/postmaster.pid";
const USER: &str = "hourglass";
const PASSWORD: &str = "only-for-tests";

/// How to run the cluster.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Serve TLS with these, and refuse plain connections.
    pub tls: Option<Certificates>,
    /// More settings, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

/// A running cluster.
pub struct Postgres {
    port: u16,
    options: PostgresOptions,
    server: Option<Child>,
    databases: AtomicU32,
    guard: Guard,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub fn start(options: PostgresOptions) -> Self {
        // A fast shutdown: connections are cut.
        let guard = Guard::new("hg-postgres-", PID_FILE, "INT");
        let data = guard.directory().join("data");
        let password = guard.directory().join("password");
        fs::write(&password, PASSWORD).expect("a password file");
        for path in [guard.directory(), &password] {
            give_to_server(path);
        }
        let made = as_server("initdb")
            .args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--username", USER])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(&data)
            .current_dir(guard.directory())
            .output()
            .expect("initdb of PostgreSQL (Debian package postgresql)");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        if let Some(certificates) = &options.tls {
            for (name, text) in
                [("server.pem", &certificates.server), ("server.key", &certificates.server_key)]
            {
                let path = data.join(name);
                fs::write(&path, text).expect("a certificate");
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .expect("its permissions");
                give_to_server(&path);
            }
            fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n")
                .expect("pg_hba.conf");
        }
        let mut postgres =
            Self { port: free_port(), options, server: None, databases: AtomicU32::new(0), guard };
        postgres.start_again();
        postgres
    }

    /// One cluster for all tests of a process, each with a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(PostgresOptions::default()))
    }

    /// Starts the server after [`Self::kill`] or [`Self::stop`], on the same port and files.
    pub fn start_again(&mut self) {
        let directory = self.guard.directory().to_owned();
        // A server that was killed leaves this behind, with an id that may be anyone's by now.
        let _stale = fs::remove_file(directory.join(PID_FILE));
        let log = fs::File::options().create(true).append(true).open(directory.join("log")).expect("a log");
        let mut command = as_server("postgres");
        command.arg("-D").arg(directory.join("data")).arg("-k").arg(&directory);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.options.tls.is_some() {
            command.args(["-c", "ssl=on", "-c", "ssl_cert_file=server.pem", "-c", "ssl_key_file=server.key"]);
        }
        for (name, value) in &self.options.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let server = command
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("postgres");
        self.server = Some(server);
        let port = self.port.to_string();
        wait_for("PostgreSQL", || {
            let ready = Command::new(program("pg_isready"))
                .args(["-h", "127.0.0.1", "-p", &port])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            ready.is_ok_and(|status| status.success())
        });
    }

    /// As `kill -9` on the postmaster; its children end when they notice.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// A fast shutdown.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    fn end(&mut self, how: &str) {
        if let Some(mut server) = self.server.take() {
            signal(how, self.process());
            let _ended = server.wait();
        }
    }

    /// The postmaster's process id.
    pub fn process(&self) -> u32 {
        let text = fs::read_to_string(self.guard.directory().join(PID_FILE)).unwrap_or_default();
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("postmaster.pid")
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database, with user and password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a new, empty database and answers with its address.
    pub fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("hourglass_{number}");
        let made = Command::new(program("createdb"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, &name])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .expect("createdb");
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        self.url(&name)
    }

    /// What the server wrote to its log, for a test that failed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.guard.directory().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end("INT");
    }
}

/// The programs lie beside one another: on the search path, or in Debian's folder of the newest version.
fn program(name: &str) -> PathBuf {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join("initdb"))
            .find(|path| path.is_file())
            .and_then(|path| fs::canonicalize(path).ok())
    });
    let of_debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = versions
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()))
            .max();
        newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/initdb")))
    };
    let initdb = on_path.or_else(of_debian).unwrap_or_else(|| {
        panic!("PostgreSQL is not installed: run `cargo xtask test`, or install Debian's `postgresql`")
    });
    initdb.with_file_name(name)
}

/// A program of the server's, run as the server's user.
fn as_server(name: &str) -> Command {
    let program = program(name);
    match server_user() {
        None => Command::new(program),
        Some((user, group)) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups");
            command.arg(program);
            command
        }
    }
}

fn give_to_server(path: &Path) {
    if let Some((user, group)) = server_user() {
        chown(path, Some(user), Some(group)).expect("chown to PostgreSQL's user");
    }
}

/// User and group to run as where we are root; `None` where we are someone else already.
fn server_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |user: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
        let mut numbers = line.split(':').skip(2).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user to run PostgreSQL as"))
}
