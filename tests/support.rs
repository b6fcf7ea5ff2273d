//! Running the binary.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The repository's root, as it is when the tests run.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap())
}

/// What a command answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// The answer, which must be a success.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(self) -> Value {
        let answer = self.ok();
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {}", answer.stdout))
    }
}

/// Runs `hourglass` on a data directory, in the repository's root.
pub(crate) fn hourglass(data: &Path, args: &[&str]) -> Answer {
    let output = command(data, args).output().unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourglass"));
    command.current_dir(root()).env("HOURGLASS_DATA", data).args(args).stdin(Stdio::null());
    for variable in [
        "HOURGLASS_OPERATOR_TOKEN",
        "HOURGLASS_OPERATOR_TOKEN_FILE",
        "HOURGLASS_COMPUTE",
        "HOURGLASS_CONFIG",
        "HOURGLASS_HTTP",
        "HOURGLASS_SERVER",
        "HOURGLASS_TOKEN",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs commands, on the directory or against a cell.
pub(crate) struct Cli<'a> {
    pub(crate) data: &'a Path,
    pub(crate) server: Option<&'a str>,
    /// What all of them begin with.
    pub(crate) of: &'a [&'a str],
}

impl Cli<'_> {
    pub(crate) fn run(&self, args: &[&str]) -> Answer {
        let server = self.server.map(|url| ["--server", url]);
        let args: Vec<&str> =
            self.of.iter().chain(args).copied().chain(server.into_iter().flatten()).collect();
        hourglass(self.data, &args)
    }

    #[track_caller]
    pub(crate) fn says(&self, args: &[&str], texts: &[&str]) -> String {
        let answer = self.run(args).ok();
        for text in texts {
            assert!(answer.stdout.contains(text), "{args:?} should say {text:?}: {}", answer.stdout);
        }
        answer.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).json()
    }

    #[track_caller]
    pub(crate) fn refuses(&self, args: &[&str], code: i32, says: &str) {
        let answer = self.run(args);
        assert_eq!(answer.code, code, "{args:?}: {}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains(says), "{args:?} should say {says:?}: {}", answer.stderr);
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    child: Child,
    /// `http://ADDRESS`.
    pub(crate) url: String,
    _stderr: std::thread::JoinHandle<()>,
}

impl Server {
    /// Starts `hourglass up` on free ports and waits until it listens.
    pub(crate) fn up(data: &Path, env: &[(&str, &str)]) -> Self {
        Self::up_with_tick(data, "1s", env)
    }

    /// The same, with so much time between two ticks.
    pub(crate) fn up_with_tick(data: &Path, tick: &str, env: &[(&str, &str)]) -> Self {
        let args =
            ["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--region", "test", "--tick", tick];
        Self::start(command(data, &args).envs(env.iter().copied()))
    }

    /// Starts `hourglass serve` with a settings file and waits until it listens.
    pub(crate) fn serve(settings: &Path) -> Self {
        let args = ["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--config"];
        Self::start(command(Path::new("/nonexistent"), &args).arg(settings))
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let url = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the server ended: {said:?}") };
            if let Some(rest) = line.trim().strip_prefix("HTTP") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
            said.push(line);
        };
        // Whoever writes to a pipe that nobody reads waits for ever.
        let rest = std::thread::spawn(move || lines.for_each(drop));
        Self { child, url, _stderr: rest }
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As Ctrl-C, waiting for the end; answers with whether it was a clean one.
    pub(crate) fn stop(mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let mut answer = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, "application/json", body.to_string().as_bytes()).unwrap()
    }

    /// Posts; an error where the server went away.
    pub(crate) fn try_post(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<(u16, Value), ureq::Error> {
        let request = agent().post(format!("{}{path}", self.url)).header("content-type", content_type);
        let mut answer = request.send(body)?;
        let text = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().new_agent()
}
