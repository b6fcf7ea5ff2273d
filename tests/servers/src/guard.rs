//! Ends a server with the process that started it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Reads until its pipe breaks, then kills the process whose id stands in the first line of a file,
/// waits for it and removes the directory.
const SCRIPT: &str = r#"
cat > /dev/null
id=$(head -n 1 "$2" 2> /dev/null)
if [ -n "$id" ]; then
    kill -CONT "$id" 2> /dev/null
    kill "-$3" "$id" 2> /dev/null
    for _ in $(seq 100); do kill -0 "$id" 2> /dev/null || break; sleep 0.05; done
    kill -KILL "$id" 2> /dev/null
fi
rm -rf "$1"
"#;

/// A temporary directory with a server in it. Both end when this is dropped, or with the process.
pub(crate) struct Guard {
    directory: PathBuf,
    process: Child,
}

impl Guard {
    /// Makes a directory. The server's process id will stand in `pid_file`; `end` is the signal that
    /// ends it in good order.
    pub(crate) fn new(name: &str, pid_file: &str, end: &str) -> Self {
        use std::os::unix::process::CommandExt;
        let directory = tempfile::Builder::new().prefix(name).tempdir().expect("a directory").keep();
        let process = Command::new("sh")
            .args(["-c", SCRIPT, "guard"])
            .args([&directory, &directory.join(pid_file)])
            .arg(end)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends the test; the guard ends after it.
            .process_group(0)
            .spawn()
            .expect("a shell");
        Self { directory, process }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ended = self.process.wait();
    }
}
