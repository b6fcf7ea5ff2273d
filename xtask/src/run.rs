//! Starting other programs: at the root of the workspace, shown before they run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a chore ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense: the usage is shown.
    Usage(String),
    /// Something does not hold, and nobody has said so yet.
    Broken(String),
    /// A program that we started failed, after telling why.
    Child,
}

/// One call of another program.
pub(crate) struct Call {
    command: Command,
}

/// Cargo, the same one that started us.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Call {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Call::new(program).args(args)
}

impl Call {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        // Asked for at run time: checkouts that share a target folder also share this program.
        if let Some(xtask) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.current_dir(Path::new(&xtask).join(".."));
        }
        Self { command }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in another folder.
    pub(crate) fn within(mut self, folder: &str) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it with our own streams.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let shown = self.shown();
        eprintln!("==> {shown}");
        match self.command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Failure::Child),
            Err(error) => Err(cannot_start(&shown, &error)),
        }
    }

    /// What it writes to stdout. It runs unseen; if it fails, its own words are in the failure.
    pub(crate) fn output(mut self) -> Result<String, Failure> {
        let shown = self.shown();
        let output = self.command.output().map_err(|error| cannot_start(&shown, &error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(Failure::Broken(format!("`{shown}` failed: {}", words.trim())))
        }
    }

    /// Whether it can be started and ends well; its words go nowhere.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.status().is_ok_and(|status| status.success())
    }

    /// The call as one would type it, without the folder that its program lies in.
    fn shown(&self) -> String {
        let program = self.command.get_program();
        let program = Path::new(program).file_name().unwrap_or(program);
        let words: Vec<_> =
            std::iter::once(program).chain(self.command.get_args()).map(OsStr::to_string_lossy).collect();
        words.join(" ")
    }
}

fn cannot_start(shown: &str, error: &std::io::Error) -> Failure {
    Failure::Broken(format!("`{shown}` cannot be started: {error}"))
}
