//! What a run says about itself.

use std::collections::BTreeMap;

use hourglass_units::{Amount, Month};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::columnar::Format;

/// The name of the file.
pub const MANIFEST: &str = "manifest.json";
/// The version of the manifest itself.
const MANIFEST_VERSION: u32 = 1;

/// What a run holds, and from what it was computed. Its canonical form is indented JSON with the fields in
/// this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this document.
    pub manifest: u32,
    /// Of what it is.
    #[serde(flatten)]
    pub subject: Subject,
    /// Its name.
    pub run: String,
    /// Whether nothing more is to come: the period is over and all of it is invoiced.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// From which log.
    pub ledger: LedgerPoint,
    /// The files, by name.
    pub files: Vec<FileEntry>,
    /// Control totals: of each currency what each measure comes to, exactly.
    pub totals: BTreeMap<String, Measures>,
}

/// Control totals by the name of what is added up.
pub type Measures = BTreeMap<String, Amount>;

/// Of what a run is: what its newest run is looked for by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The data set, such as `focus/cost_and_usage`.
    pub dataset: String,
    /// The version of its specification.
    pub version: String,
    /// `csv`, `parquet`, or another.
    pub format: String,
    /// The billing period, `YYYY-MM`.
    pub period: String,
}

impl Subject {
    /// Of a table of a billing period.
    pub fn of_table(dataset: &str, version: &str, format: Format, period: Month) -> Self {
        Self {
            dataset: dataset.to_owned(),
            version: version.to_owned(),
            format: format.as_str().to_owned(),
            period: period.to_string(),
        }
    }
}

/// Where in which log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerPoint {
    /// The region of the cell.
    pub region: String,
    /// The first position that it rests on.
    pub from: u64,
    /// The last position that it rests on.
    pub position: u64,
    /// The hash of the chain there: it commits to every event before.
    pub hash: String,
    /// The time of the event there, RFC 3339.
    pub time: String,
}

/// A file of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the directory of the run.
    pub name: String,
    /// Rows, the row of names left out.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
}

/// The name of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunName(String);

impl RunName {
    /// From where in the log, and what it holds.
    pub fn new(position: u64, content: &str) -> Self {
        Self(format!("{position:012}-{}", content.get(..16).unwrap_or(content)))
    }

    /// As it stands behind `run=`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Manifest {
    /// Of a run whose files are written.
    pub fn new(
        subject: Subject,
        is_final: bool,
        ledger: LedgerPoint,
        mut files: Vec<FileEntry>,
        totals: BTreeMap<String, Measures>,
    ) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let run = String::new();
        let mut manifest = Self { manifest: MANIFEST_VERSION, subject, run, is_final, ledger, files, totals };
        let content = manifest.content();
        manifest.run = RunName::new(manifest.ledger.position, &content).0;
        manifest
    }

    /// SHA-256 of what the run holds: all but from which log it was computed, and its name.
    pub fn content(&self) -> String {
        let said = (&self.subject, self.is_final, &self.files, &self.totals);
        let bytes = serde_json::to_vec(&said).unwrap_or_default();
        hex(&Sha256::digest(&bytes))
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads canonical bytes, and refuses a manifest that is not what its name says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.manifest != MANIFEST_VERSION {
            return Err(format!("version {} is not known", manifest.manifest));
        }
        if manifest.run != RunName::new(manifest.ledger.position, &manifest.content()).0 {
            return Err(format!("it says other things than run {} did", manifest.run));
        }
        Ok(manifest)
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
