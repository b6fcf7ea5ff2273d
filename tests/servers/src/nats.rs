//! A nats-server with JetStream of one's own.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::guard::Guard;
use crate::tls::Certificates;
use crate::{free_port, signal, wait_for};

const PID_FILE: &str = "nats.pid";

/// How to run the server.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// Serve TLS with these.
    pub tls: Option<Certificates>,
    /// More configuration, such as an `authorization` block.
    pub configuration: String,
    /// Where streams are stored, where not in the server's own directory.
    pub store: Option<PathBuf>,
}

/// A running server.
pub struct Nats {
    port: u16,
    tls: bool,
    server: Option<Child>,
    guard: Guard,
}

impl Nats {
    /// Starts a server.
    pub fn start(options: &NatsOptions) -> Self {
        let guard = Guard::new("hg-nats-", PID_FILE, "TERM");
        let directory = guard.directory().to_owned();
        let port = free_port();
        let store = options.store.clone().unwrap_or_else(|| directory.join("jetstream"));
        let mut text = format!(
            "listen: \"127.0.0.1:{port}\"\npid_file: {:?}\nmax_payload: 8MB\njetstream {{ store_dir: {store:?} }}\n{}\n",
            directory.join(PID_FILE),
            options.configuration,
        );
        if let Some(certificates) = &options.tls {
            let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
            fs::write(&certificate, &certificates.server).expect("a certificate");
            fs::write(&key, &certificates.server_key).expect("its key");
            text.push_str(&format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\n"));
        }
        fs::write(directory.join("nats.conf"), text).expect("nats.conf");
        let mut nats = Self { port, tls: options.tls.is_some(), server: None, guard };
        nats.start_again();
        nats
    }

    /// One server for all tests of a process: each uses streams of a region of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Nats> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&NatsOptions::default()))
    }

    /// Starts the server after [`Self::kill`] or [`Self::stop`], on the same port and files.
    pub fn start_again(&mut self) {
        let directory = self.guard.directory().to_owned();
        let log = fs::File::options().create(true).append(true).open(directory.join("log")).expect("a log");
        let server = Command::new(program())
            .arg("-c")
            .arg(directory.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("nats-server (Debian package nats-server)");
        self.server = Some(server);
        let port = self.port;
        wait_for("nats-server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// In good order.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    fn end(&mut self, how: &str) {
        if let Some(mut server) = self.server.take() {
            signal(how, server.id());
            let _ended = server.wait();
        }
    }

    /// Reads its configuration again, after `change` edited the text of `nats.conf`.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let path = self.guard.directory().join("nats.conf");
        let text = fs::read_to_string(&path).expect("nats.conf");
        fs::write(path, change(text)).expect("nats.conf");
        signal("HUP", self.process());
    }

    /// Its process id; 0 while it is stopped.
    pub fn process(&self) -> u32 {
        self.server.as_ref().map_or(0, Child::id)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        format!("{scheme}://localhost:{}", self.port)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.guard.directory()
    }

    /// What the server wrote to its log, for a test that failed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.guard.directory().join("log")).unwrap_or_default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.end("TERM");
    }
}

/// On the search path, or where Debian puts it: not every user's path has `sbin`.
fn program() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nats-server"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("nats-server is not installed: run `cargo xtask test`, or install Debian's `nats-server`")
        })
}
