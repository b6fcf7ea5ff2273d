//! A `hourglass compute-sim` of our own: a process that lives as long as this one.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::sync::oneshot;

use crate::config::compute::ComputeSection;
use crate::failure::Failure;
use crate::serving::Task;

/// The flag that lets it end with its stdin.
const WHILE_STDIN: &str = "--while-stdin";

/// The process. It ends when this is dropped; and by itself, when this process is killed.
#[derive(Debug)]
pub struct Simulator {
    child: Child,
    /// Held open: the simulator ends with it.
    _stdin: Option<ChildStdin>,
    url: String,
    /// Dropped when it ends.
    ended: Option<oneshot::Receiver<()>>,
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
        let mut simulator = Self { child, _stdin: stdin, url: String::new(), ended: None };
        let Some(mut stdout) = stdout.map(BufReader::new) else { return Err(gone()) };
        let mut address = String::new();
        if stdout.read_line(&mut address)? == 0 {
            return Err(gone());
        }
        simulator.url = format!("http://{}", address.trim());
        let (told, ended) = oneshot::channel::<()>();
        simulator.ended = Some(ended);
        // Its stdout ends with it.
        std::thread::spawn(move || {
            let _read = std::io::copy(&mut stdout, &mut std::io::sink());
            drop(told);
        });
        Ok(simulator)
    }

    /// Fails when it ends by itself: nothing can be driven then.
    pub fn watch(&mut self) -> Task {
        let ended = self.ended.take();
        Box::new(move |_, mut stopped| {
            Box::pin(async move {
                let Some(ended) = ended else { return Ok(()) };
                tokio::select! {
                    _ = stopped.changed() => Ok(()),
                    _ = ended => Err(gone()),
                }
            })
        })
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

fn gone() -> Failure {
    Failure::Unavailable("the simulated cloud has ended, and says above why".to_owned())
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
