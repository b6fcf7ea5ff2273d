//! Runs in a directory.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, LedgerPoint, MANIFEST, Manifest, Measures, Subject, hex};
use super::{RUNS_MAX, RunError};

/// Where runs are made before they are moved to their place.
const STAGING: &str = ".staging";
/// Held while somebody writes.
const LOCK: &str = ".lock";
/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// A directory of runs.
#[derive(Debug)]
pub struct Archive {
    root: PathBuf,
    /// Held until the archive is dropped; `None` for reading.
    _lock: Option<File>,
}

impl Archive {
    /// Opens a directory for writing, and makes it where there is none. One process at a time.
    pub fn open(root: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(root).map_err(|error| RunError::file(root, error))?;
        let path = root.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| RunError::file(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::Busy { path: root.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(RunError::file(&path, error)),
        }
        // What a process left behind that died.
        let staging = root.join(STAGING);
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RunError::file(&staging, error));
            }
            _ => {}
        }
        Ok(Self { root: root.to_owned(), _lock: Some(lock) })
    }

    /// A directory to read.
    pub fn read(root: &Path) -> Self {
        Self { root: root.to_owned(), _lock: None }
    }

    /// Begins a run.
    pub fn begin(&self, subject: Subject) -> Result<Draft<'_>, RunError> {
        let name = format!(
            "{}-{}-{}-{}",
            subject.dataset.replace('/', "_"),
            subject.version,
            subject.format,
            subject.period
        );
        let staging = self.root.join(STAGING).join(name);
        fs::create_dir_all(&staging).map_err(|error| RunError::file(&staging, error))?;
        Ok(Draft { archive: self, subject, staging, files: Vec::new() })
    }

    /// The newest run of a subject.
    pub fn newest(&self, subject: &Subject) -> Result<Option<Manifest>, RunError> {
        for name in self.names(&subject.period)?.into_iter().rev() {
            let path = self.period(&subject.period).join(name);
            if let Some(manifest) = read_manifest(&path)?
                && manifest.subject == *subject
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// The newest run of each subject, with its directory.
    pub fn newest_of_all(&self) -> Result<Vec<(PathBuf, Manifest)>, RunError> {
        let mut newest: BTreeMap<(String, String, String, String), (PathBuf, Manifest)> = BTreeMap::new();
        for period in directories(&self.root, "BILLING_PERIOD=")? {
            for name in self.names(&period)? {
                let path = self.period(&period).join(name);
                if let Some(manifest) = read_manifest(&path)? {
                    let Subject { dataset, version, format, period } = manifest.subject.clone();
                    newest.insert((period, dataset, version, format), (path, manifest));
                }
            }
        }
        Ok(newest.into_values().collect())
    }

    fn period(&self, period: &str) -> PathBuf {
        self.root.join(format!("BILLING_PERIOD={period}"))
    }

    /// The directories of the runs of a period, in order.
    fn names(&self, period: &str) -> Result<Vec<String>, RunError> {
        let path = self.period(period);
        let names = directories(&path, "run=")?;
        Ok(names.into_iter().map(|name| format!("run={name}")).collect())
    }
}

/// What follows a prefix in the names of directories, in order; nothing where there is no directory.
fn directories(path: &Path, prefix: &str) -> Result<Vec<String>, RunError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::file(path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| RunError::file(path, error))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)) {
            names.push(name.to_owned());
        }
        if names.len() > RUNS_MAX {
            return Err(RunError::TooMany { path: path.display().to_string() });
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The manifest of a run; none where there is none, since then there is no run.
fn read_manifest(run: &Path) -> Result<Option<Manifest>, RunError> {
    let path = run.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RunError::file(&path, error)),
    };
    let unreadable = |error| RunError::Manifest { path: path.display().to_string(), error };
    Manifest::from_bytes(&bytes).map(Some).map_err(unreadable)
}

/// A run that is being written.
#[derive(Debug)]
pub struct Draft<'a> {
    archive: &'a Archive,
    subject: Subject,
    staging: PathBuf,
    files: Vec<FileEntry>,
}

/// What became of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Sealed {
    /// It is a run now.
    Written(Manifest),
    /// The newest run of the subject holds the same: nothing was written.
    Unchanged(Manifest),
}

impl Sealed {
    /// The run that holds it.
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Written(manifest) | Self::Unchanged(manifest) => manifest,
        }
    }
}

impl Draft<'_> {
    /// Begins a file of the run.
    pub fn file(&self, name: &str) -> Result<RunFile, RunError> {
        let path = self.staging.join(name);
        let file = File::create(&path).map_err(|error| RunError::file(&path, error))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(RunFile { name: name.to_owned(), path, out, digest: Sha256::new(), bytes: 0 })
    }

    /// Takes a file that is written.
    pub fn keep(&mut self, file: RunFile, rows: u64) -> Result<(), RunError> {
        let RunFile { name, path, out, digest, bytes } = file;
        let failed = |error| RunError::file(&path, error);
        out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
        self.files.push(FileEntry { name, rows, bytes, sha256: hex(&digest.finalize()) });
        Ok(())
    }

    /// Makes it a run, unless the newest one of its subject holds the same.
    pub fn seal(
        self,
        is_final: bool,
        ledger: LedgerPoint,
        totals: BTreeMap<String, Measures>,
    ) -> Result<Sealed, RunError> {
        let Self { archive, subject, staging, files } = self;
        let newest = archive.newest(&subject)?;
        let manifest = Manifest::new(subject, is_final, ledger, files, totals);
        if let Some(newest) = newest.filter(|newest| newest.content() == manifest.content()) {
            fs::remove_dir_all(&staging).map_err(|error| RunError::file(&staging, error))?;
            return Ok(Sealed::Unchanged(newest));
        }
        let path = staging.join(MANIFEST);
        let failed = |error| RunError::file(&path, error);
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(&manifest.to_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let period = archive.period(&manifest.subject.period);
        fs::create_dir_all(&period).map_err(|error| RunError::file(&period, error))?;
        let place = period.join(format!("run={}", manifest.run));
        fs::rename(&staging, &place).map_err(|error| RunError::file(&place, error))?;
        File::open(&period).and_then(|it| it.sync_all()).map_err(|error| RunError::file(&period, error))?;
        Ok(Sealed::Written(manifest))
    }
}

/// A file of a run that is being written, and digested on the way.
#[derive(Debug)]
pub struct RunFile {
    name: String,
    path: PathBuf,
    out: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
}

impl Write for RunFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
