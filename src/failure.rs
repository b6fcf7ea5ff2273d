//! Why a command failed, for the person who typed it, and the exit code that says which kind it was.

use hourglass_ledger::cell::{CellError, StartError};
use hourglass_ledger::load::LoadError;
use hourglass_ledger::store::StoreError;
use hourglass_ledger::store::sqlite::OpenError;
use hourglass_ledger::verify::VerifyError;

/// Exit codes, as `hourglass --help` lists them.
pub mod exit {
    /// What was asked for was checked, and something is wrong.
    pub const UNSOUND: u8 = 1;
    /// The command line or a file that it names cannot be used.
    pub const USAGE: u8 = 2;
    /// The ledger refused the request.
    pub const REJECTED: u8 = 3;
    /// The ledger or the system cannot be used now.
    pub const UNAVAILABLE: u8 = 4;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a file that it names cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The ledger refused the request.
    #[error("{0}")]
    Rejected(String),
    /// The ledger or the system cannot be used now.
    #[error("{0}")]
    Unavailable(String),
    /// What was checked is wrong; the report has been printed.
    #[error("{0}")]
    Unsound(String),
}

impl Failure {
    /// The exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Rejected(_) => exit::REJECTED,
            Self::Unavailable(_) => exit::UNAVAILABLE,
            Self::Unsound(_) => exit::UNSOUND,
        }
    }
}

macro_rules! unavailable {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Unavailable(error.to_string())
            }
        })*
    };
}

unavailable!(
    OpenError,
    hourglass_ledger::store::postgres::OpenError,
    StartError,
    LoadError,
    StoreError,
    VerifyError,
    std::io::Error,
    hourglass_ledger::core::Inconsistent
);

impl From<CellError> for Failure {
    fn from(error: CellError) -> Self {
        match error {
            CellError::Rejected(_) => Self::Rejected(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
