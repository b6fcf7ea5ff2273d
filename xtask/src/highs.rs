//! HiGHS, the solver that the benchmarks compare the auction with: a Python package in an environment of its own
//! below the target folder. Nothing else is told of it.

use std::path::Path;

use crate::run::{Call, Failure};
use crate::tools;

/// The package, as it was when the figures were measured.
const PACKAGE: &str = "highspy==1.16.0";
/// The variable by which the benchmarks are told where it is.
pub(crate) const VARIABLE: &str = "HOURGLASS_BENCH_HIGHS";

/// The Python that has HiGHS, made where it is missing. Where it cannot be had, says why: a figure less is no
/// failure.
pub(crate) fn python() -> Option<String> {
    let environment = tools::target().join("highs");
    let python = environment.join("bin").join("python");
    let ready = if is_ready(&python) { Ok(()) } else { make(&environment) };
    match ready {
        Ok(()) => Some(python.to_string_lossy().into_owned()),
        Err(failure) => {
            let why = match failure {
                Failure::Usage(what) | Failure::Broken(what) => what,
                Failure::Child => "see above".to_owned(),
            };
            eprintln!("xtask: HiGHS cannot be had, so the figures beside it are left out: {why}");
            None
        }
    }
}

fn is_ready(python: &Path) -> bool {
    python.is_file() && Call::new(python).args(["-c", "import highspy"]).succeeds()
}

fn make(environment: &Path) -> Result<(), Failure> {
    tools::install_missing(&[tools::PYTHON])?;
    tools::make_environment(environment, "python3", &[PACKAGE])
}
