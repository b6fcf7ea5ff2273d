//! The programs that tests and benchmarks call, and where Debian keeps them.

use std::env;
use std::path::{Path, PathBuf};

use crate::run::{Call, Failure};

/// A program that something of ours starts.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// Whether it is there already. A function, since not every package puts its programs on the
    /// search path.
    pub(crate) installed: fn() -> bool,
    /// What it is for.
    pub(crate) purpose: &'static str,
}

/// What the tests start.
pub(crate) const OF_TESTS: [Tool; 5] = [
    Tool { package: "build-essential", installed: || on_path("cc"), purpose: "compiles SQLite, and links" },
    Tool { package: "hledger", installed: || on_path("hledger"), purpose: "checks our books as an outsider" },
    Tool { package: "beancount", installed: || on_path("bean-check"), purpose: "checks them a second time" },
    Tool { package: "postgresql", installed: postgresql, purpose: "the production store" },
    Tool { package: "nats-server", installed: nats_server, purpose: "brings usage, carries feeds" },
];

/// Installs what is missing of some tools; where all is there it does nothing at all.
pub(crate) fn install_missing(tools: &[Tool]) -> Result<(), Failure> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !(tool.installed)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(administrator) = Administrator::of_this_machine() else {
        return Err(Failure::Broken(by_hand(&missing)));
    };

    administrator.apt_get(&["update", "-q"])?;
    let packages = missing.iter().map(|tool| tool.package);
    let install = ["install", "-q", "-y", "--no-install-recommends"].into_iter().chain(packages);
    administrator.apt_get(&install.collect::<Vec<_>>())?;

    let missing: Vec<&Tool> = missing.into_iter().filter(|tool| !(tool.installed)()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Failure::Broken(by_hand(&missing))) }
}

/// By what right packages are installed here.
enum Administrator {
    Root,
    /// `sudo`, where it asks for no password: nobody sits at a build machine.
    Sudo,
}

impl Administrator {
    fn of_this_machine() -> Option<Self> {
        if !on_path("apt-get") {
            return None;
        }
        if Call::new("id").args(["-u"]).output().is_ok_and(|id| id.trim() == "0") {
            return Some(Self::Root);
        }
        Call::new("sudo").args(["-n", "true"]).succeeds().then_some(Self::Sudo)
    }

    fn apt_get(&self, args: &[&str]) -> Result<(), Failure> {
        // Through `env`, since sudo does not hand our environment on.
        let call = match self {
            Self::Root => Call::new("env"),
            Self::Sudo => Call::new("sudo").args(["-n", "env"]),
        };
        call.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args).run()
    }
}

fn by_hand(missing: &[&Tool]) -> String {
    let mut text = "programs are needed that could not be installed here:\n".to_owned();
    for Tool { package, purpose, .. } in missing {
        text.push_str(&format!("  {package}: {purpose}\n"));
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    text.push_str(&format!("on Debian, `apt-get install {}` as root brings them", packages.join(" ")));
    text
}

/// Debian keeps the server's programs in a folder a version.
fn postgresql() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    on_path("initdb") || versions.map(|version| version.path().join("bin/initdb")).any(|path| path.is_file())
}

/// Not every user's search path has the folder that Debian puts it in.
fn nats_server() -> bool {
    on_path("nats-server") || std::path::Path::new("/usr/sbin/nats-server").is_file()
}

fn on_path(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Makes the environments of Python packages.
pub(crate) const PYTHON: Tool = Tool {
    package: "python3-venv",
    installed: || Call::new("python3").args(["-c", "import ensurepip, venv"]).succeeds(),
    purpose: "makes environments for Python packages",
};

/// Makes an environment of Python packages in a folder, with an interpreter that is there.
pub(crate) fn make_environment(folder: &Path, interpreter: &str, packages: &[&str]) -> Result<(), Failure> {
    Call::new(interpreter).args(["-m", "venv", "--clear"]).args([folder]).run()?;
    let python = folder.join("bin").join("python");
    Call::new(python).args(["-m", "pip", "install", "--quiet"]).args(packages).run()
}

/// Where Cargo builds.
pub(crate) fn target() -> PathBuf {
    let root =
        || env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default().join("..").join("target");
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(root, PathBuf::from);
    // The programs that need it run in other folders.
    std::path::absolute(&folder).unwrap_or(folder)
}
