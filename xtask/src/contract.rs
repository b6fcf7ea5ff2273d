//! The API against its own description: schemathesis, a Python package in an environment of its own below the target
//! folder, asks a running cell whatever `/openapi.json` allows and much that it does not.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::run::{Call, Failure, cargo};
use crate::tools;

/// The package, as it was when it last found nothing.
const PACKAGE: &str = "schemathesis==4.32.5";
/// What is held against the cell, beside the defaults.
const CONFIG: &str = "tests/contract/schemathesis.toml";
/// Cases of each operation, and the seed that draws them.
const EXAMPLES: &str = "15";
const SEED: &str = "1";
/// How often it is looked whether the cell is up, ten times a second.
const LOOKS_MAX: u32 = 300;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The operator's token of the cell, which lives as long as this run and on loopback alone.
const TOKEN: &str = "the-contract-test-is-the-operator";

/// Runs it, with more arguments for schemathesis.
pub(crate) fn check(extra: &[&str]) -> Result<(), Failure> {
    let environment = tools::target().join("schemathesis");
    let program = environment.join("bin").join("schemathesis");
    if !program.is_file() {
        tools::install_missing(&[tools::PYTHON])?;
        tools::make_environment(&environment, "python3", &[PACKAGE])?;
    }
    cargo(["build", "--bin", "hourglass"]).run()?;
    let cell = Cell::start()?;
    let result = Call::new(&program)
        .args(["--config-file", CONFIG, "run", &format!("http://{}/openapi.json", cell.address)])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--max-examples", EXAMPLES, "--seed", SEED, "--workers", "1"])
        .args(extra)
        .run();
    drop(cell);
    result
}

/// A cell of its own, gone with this.
struct Cell {
    process: Child,
    address: String,
    directory: PathBuf,
}

impl Cell {
    fn start() -> Result<Self, Failure> {
        let broken = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| Failure::Broken(format!("{what}: {error}"))
        };
        // Free now; whoever takes it in the moment between makes the cell say so.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = free.map_err(broken("no free port"))?.to_string();
        let directory = tools::target().join(format!("contract-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(broken("no directory"))?;
        let log = std::fs::File::create(directory.join("cell.log")).map_err(broken("no log"))?;
        let process = Command::new(tools::target().join("debug").join("hourglass"))
            .args(["up", "--http", &address, "--grpc", "127.0.0.1:0", "--region", "eu-north1"])
            .env("HOURGLASS_DATA", directory.join("data"))
            .env("HOURGLASS_OPERATOR_TOKEN", TOKEN)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(broken("the cell does not start"))?;
        let cell = Self { process, address, directory };
        let mut looks = 0;
        while !cell.is_ready() {
            looks += 1;
            if looks > LOOKS_MAX {
                let log = std::fs::read_to_string(cell.directory.join("cell.log")).unwrap_or_default();
                return Err(Failure::Broken(format!("the cell does not come up: {}", log.trim())));
            }
            pause();
        }
        // A customer to ask about.
        cell.post("/v1/tenants", r#"{"tenant": "acme", "currency": "USD", "display_name": "Acme"}"#)
            .map_err(broken("the cell takes no tenant"))?;
        Ok(cell)
    }

    fn is_ready(&self) -> bool {
        self.ask("GET", "/readyz", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn post(&self, path: &str, body: &str) -> std::io::Result<()> {
        match self.ask("POST", path, body)? {
            answer if answer.starts_with("HTTP/1.1 2") => Ok(()),
            answer => Err(std::io::Error::other(answer)),
        }
    }

    /// One request by hand: this program has no HTTP client, and needs none for more than this.
    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        std::io::read_to_string(stream)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the condition is looked at again; there is nothing to be woken by"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _waited = self.process.wait();
        let _removed = std::fs::remove_dir_all(Path::new(&self.directory));
    }
}
