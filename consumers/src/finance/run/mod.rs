//! Runs: exports that never change once they are there.
//!
//! ```text
//! OUT/BILLING_PERIOD=2026-01/run=000000004711-9f86d081884c7d65/cost_and_usage.csv
//! OUT/BILLING_PERIOD=2026-01/run=000000004711-9f86d081884c7d65/manifest.json
//! ```
//!
//! * A run is written beside its place and moved there whole, its [`Manifest`] last: what has no manifest is
//!   no run. Nothing in a run is ever changed or deleted.
//! * Its name begins with the position of the log that it was computed from, so the last name in order is
//!   the newest; the rest is a digest of what it holds.
//! * The same log gives the same bytes and the same name. A period whose content is what its newest run
//!   holds is not written again, however far the log has gone on.
//!
//! A run may be of any data set. Those of several data sets, versions and formats can stand beside each other.

mod archive;
mod manifest;
#[cfg(test)]
mod tests;

pub use archive::{Archive, Draft, RunFile, Sealed};
pub use manifest::{FileEntry, LedgerPoint, MANIFEST, Manifest, Measures, RunName, Subject};

/// Most runs of one billing period that are looked through.
pub const RUNS_MAX: usize = 100_000;

/// Why a run cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or directory.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// Something else writes there.
    #[error("another export writes to {path}: wait until it is done")]
    Busy {
        /// Where.
        path: String,
    },
    /// A manifest that cannot be read.
    #[error("{path} is no manifest of a run: {error}")]
    Manifest {
        /// Where.
        path: String,
        /// What is wrong with it.
        error: String,
    },
    /// A run that is not what its manifest says.
    #[error("{path} is not what its manifest says: {what}")]
    Damaged {
        /// Where.
        path: String,
        /// What differs.
        what: String,
    },
    /// More than [`RUNS_MAX`].
    #[error("{path} holds too many runs (at most 100000): begin another directory")]
    TooMany {
        /// Where.
        path: String,
    },
}

impl RunError {
    pub(crate) fn file(path: &std::path::Path, error: std::io::Error) -> Self {
        Self::File { path: path.display().to_string(), error }
    }
}
