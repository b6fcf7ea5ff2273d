//! A `hourglass compute-sim` of our own: a process that lives as long as this one.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::config::compute::ComputeSection;
use crate::failure::Failure;

/// The flag that lets it end with its stdin.
const WHILE_STDIN: &str = "--while-stdin";

/// The process. It ends when this is dropped; and by itself, when this process is killed.
#[derive(Debug)]
pub struct Simulator {
    child: Child,
    /// Held open: the simulator ends with it.
    _stdin: Option<ChildStdin>,
    url: String,
}

impl Simulator {
    /// Starts it on a free port of loopback, with these flags beside.
    pub fn start(flags: &[String]) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["compute-sim", "--listen", "127.0.0.1:0", WHILE_STDIN]).args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for us: it has to be there for as long as we drive it.
        let mut child = command.process_group(0).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut simulator = Self { child, _stdin: stdin, url: String::new() };
        let mut address = String::new();
        if let Some(stdout) = stdout {
            let _length = BufReader::new(stdout).read_line(&mut address)?;
        }
        if address.is_empty() {
            let ended = simulator.child.wait()?;
            let what = "the simulated cloud did not start, and says above why";
            return Err(Failure::Unavailable(format!(
                "{what} ({ended}); another one's URL goes to --compute"
            )));
        }
        simulator.url = format!("http://{}", address.trim());
        Ok(simulator)
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How to drive it: as it is made, whatever the settings say of another cloud.
    pub fn section(&self) -> ComputeSection {
        ComputeSection::default().at(self.url.clone())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
