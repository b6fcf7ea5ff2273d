//! The state file: what a cloud remembers, whatever happens to its process.
//!
//! It is written anew as a whole and put in the place of the old one, so there is always one that is whole.
//! What a caller was told is in it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hourglass_units::Instant;
use serde::{Deserialize, Serialize};

use super::cloud::{Cloud, Saved};

/// The form of the file.
const FORMAT: u32 = 1;

/// A state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

/// What is in it.
#[derive(Serialize, Deserialize)]
pub(super) struct Contents {
    format: u32,
    /// The wall's time when it was written: the cloud went on since.
    pub(super) written_at: Instant,
    pub(super) cloud: Saved,
}

/// A state file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none.
    #[error("{path} is no state of a simulated cloud ({message}): name another file, or remove this one")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl StateFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was written last; nothing where there is no file yet.
    pub(super) fn read(&self) -> Result<Option<Contents>, StateFileError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateFileError::Io { path: self.path.clone(), source }),
        };
        let wrong = |message| StateFileError::Contents { path: self.path.clone(), message };
        let contents: Contents = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if contents.format != FORMAT {
            return Err(wrong(format!("its format is {}, not {FORMAT}", contents.format)));
        }
        Ok(Some(contents))
    }

    /// Writes it. Once this returns it survives a loss of power.
    pub(super) fn write(&self, cloud: &Cloud, written_at: Instant) -> Result<(), StateFileError> {
        let contents = Contents { format: FORMAT, written_at, cloud: cloud.saved() };
        let wrong = |message| StateFileError::Contents { path: self.path.clone(), message };
        let text = serde_json::to_vec(&contents).map_err(|error| wrong(error.to_string()))?;
        self.replace(&text).map_err(|source| StateFileError::Io { path: self.path.clone(), source })
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}
