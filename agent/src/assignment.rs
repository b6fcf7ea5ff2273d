//! What the node's hypervisor says: which instance holds how many GPUs, and since when.
//!
//! One file an assignment, `<name>.json` in the inventory directory:
//!
//! ```json
//! {"instance_id": "i-1", "session": 1, "gpus": 8, "since": "2026-11-01T00:00:00Z"}
//! ```
//!
//! `until` ends it; `gpu_uuids` names its devices as NVML does, for what is measured beside the time.
//! Times are RFC 3339 or whole milliseconds since the Unix epoch. A field that is not known is a mistake:
//! a misspelt `until` would be billed for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use hourglass_units::{InstanceId, Instant};
use serde::Deserialize;

/// Most assignments that are read at once.
pub const ASSIGNMENTS_MAX: usize = 100_000;
/// Most bytes of one file.
pub const ASSIGNMENT_BYTES_MAX: u64 = 64 << 10;
/// Most GPUs that one instance can hold: the cell's own limit.
pub const INSTANCE_GPUS_MAX: u32 = 1_024;

/// An instance and one of its runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The instance.
    pub instance: InstanceId,
    /// Grows by one each time the instance is started.
    pub session: u32,
}

/// One instance's hold on GPUs of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Who holds them.
    pub run: Run,
    /// How many, between 1 and [`INSTANCE_GPUS_MAX`].
    pub gpus: u32,
    /// From when on.
    pub since: Instant,
    /// Until when; otherwise until the file is gone.
    pub until: Option<Instant>,
    /// Its devices, where the hypervisor names them.
    pub gpu_uuids: Vec<String>,
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    instance_id: String,
    #[serde(default)]
    session: u32,
    gpus: u32,
    since: Time,
    #[serde(default)]
    until: Option<Time>,
    #[serde(default)]
    gpu_uuids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a time: RFC 3339, or whole milliseconds since the Unix epoch")]
enum Time {
    UnixMilliseconds(i64),
    Rfc3339(String),
}

impl Time {
    fn read(self) -> Result<Instant, String> {
        match self {
            Self::UnixMilliseconds(at) => Instant::from_unix_ms(at),
            Self::Rfc3339(text) => text.parse(),
        }
        .map_err(|error| error.to_string())
    }
}

impl Assignment {
    /// Reads the text of a file. The error says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let instance = InstanceId::new(&file.instance_id).map_err(|error| error.to_string())?;
        if !(1..=INSTANCE_GPUS_MAX).contains(&file.gpus) {
            return Err(format!("{} GPUs: between 1 and {INSTANCE_GPUS_MAX} are possible", file.gpus));
        }
        let since = file.since.read().map_err(|error| format!("since: {error}"))?;
        let until = file.until.map(Time::read).transpose().map_err(|error| format!("until: {error}"))?;
        if until.is_some_and(|until| until < since) {
            return Err("until lies before since".to_owned());
        }
        let run = Run { instance, session: file.session };
        Ok(Self { run, gpus: file.gpus, since, until, gpu_uuids: file.gpu_uuids })
    }
}

/// The inventory directory.
#[derive(Debug)]
pub struct Inventory {
    directory: PathBuf,
    /// What is wrong now, by file name, so that each change is told once.
    faults: BTreeMap<String, String>,
}

impl Inventory {
    /// That of a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, faults: BTreeMap::new() }
    }

    /// Files and directories that cannot be used at the moment.
    pub fn fault_count(&self) -> usize {
        self.faults.len()
    }

    /// Reads all assignments, in the order of their file names. A file that cannot be used is told of
    /// once and left out; a directory that cannot be read means that nothing is known, not that nothing
    /// is held, and answers `None`.
    pub fn read(&mut self) -> Option<Vec<Assignment>> {
        let mut faults = BTreeMap::new();
        let found = match names(&self.directory) {
            Ok(names) => Some(self.read_files(&names, &mut faults)),
            Err(error) => {
                faults.insert(self.directory.display().to_string(), error.to_string());
                None
            }
        };
        for (name, fault) in &faults {
            if self.faults.get(name) != Some(fault) {
                tracing::error!(
                    "{name} of the inventory cannot be used, so its GPUs are not metered: {fault}"
                );
            }
        }
        for name in self.faults.keys().filter(|name| !faults.contains_key(*name)) {
            tracing::info!("{name} of the inventory is mended or gone");
        }
        self.faults = faults;
        found
    }

    fn read_files(&self, names: &BTreeSet<String>, faults: &mut BTreeMap<String, String>) -> Vec<Assignment> {
        let mut runs = BTreeSet::new();
        let mut found = Vec::new();
        for name in names {
            if found.len() >= ASSIGNMENTS_MAX {
                faults.insert(name.clone(), format!("more than {ASSIGNMENTS_MAX} assignments"));
                break;
            }
            match read_file(&self.directory.join(name)) {
                Ok(None) => {}
                Ok(Some(assignment)) if runs.insert(assignment.run.clone()) => found.push(assignment),
                Ok(Some(assignment)) => {
                    let Run { instance, session } = assignment.run;
                    faults.insert(name.clone(), format!("{instance} session {session} has a file already"));
                }
                Err(fault) => {
                    faults.insert(name.clone(), fault);
                }
            }
        }
        found
    }
}

/// Files named `*.json` and not hidden: hidden ones and other endings are being written.
fn names(directory: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".json") && !name.starts_with('.')) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// `None` where the file went away since the directory was listed.
fn read_file(path: &Path) -> Result<Option<Assignment>, String> {
    let mut text = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(ASSIGNMENT_BYTES_MAX.saturating_add(1)).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(length) if length as u64 > ASSIGNMENT_BYTES_MAX => {
            Err(format!("longer than {ASSIGNMENT_BYTES_MAX} bytes"))
        }
        Ok(_) => Assignment::parse(&text).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_or_told_of() {
        let good = r#"{"instance_id":"i-1","session":1,"gpus":8,"since":"2026-11-01T00:00:00Z"}"#;
        let read = Assignment::parse(good.as_bytes()).unwrap();
        assert_eq!((read.run.session, read.gpus, read.until), (1, 8, None));
        let numbers = r#"{"instance_id":"i-1","gpus":1,"since":1000,"until":2500,"gpu_uuids":["GPU-1"]}"#;
        let read = Assignment::parse(numbers.as_bytes()).unwrap();
        assert_eq!((read.since.unix_ms(), read.until.map(Instant::unix_ms)), (1_000, Some(2_500)));
        for (text, part) in [
            (r#"{"instance_id":"i-1","gpus":8,"since":1,"untill":5}"#, "untill"),
            (r#"{"instance_id":"i 1","gpus":8,"since":1}"#, "instance"),
            (r#"{"instance_id":"i-1","gpus":0,"since":1}"#, "between 1 and"),
            (r#"{"instance_id":"i-1","gpus":1025,"since":1}"#, "between 1 and"),
            (r#"{"instance_id":"i-1","gpus":8,"since":"yesterday"}"#, "since"),
            (r#"{"instance_id":"i-1","gpus":8,"since":1.5}"#, "a time"),
            (r#"{"instance_id":"i-1","gpus":8,"since":10,"until":9}"#, "before"),
            (r#"{"instance_id":"i-1","gpus":8}"#, "since"),
            ("", "EOF"),
        ] {
            let error = Assignment::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_file_leaves_the_others_alone() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.json", r#"{"instance_id":"i-1","gpus":8,"since":1}"#);
        write("b.json", "{");
        write("c.json", r#"{"instance_id":"i-1","gpus":8,"since":1}"#);
        write("d.json.new", "{");
        write(".e.json", "{");
        write("f.json", &" ".repeat(100_000));
        let mut inventory = Inventory::new(directory.path().to_owned());
        assert_eq!(inventory.read().unwrap().len(), 1);
        assert_eq!(inventory.faults.keys().collect::<Vec<_>>(), ["b.json", "c.json", "f.json"]);
        write("b.json", r#"{"instance_id":"i-2","gpus":8,"since":1}"#);
        assert_eq!(inventory.read().unwrap().len(), 2);
        assert_eq!(inventory.fault_count(), 2);
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(inventory.read(), None);
    }
}
