//! Our FOCUS exports before the validator of the FinOps Foundation: a Python package in an environment of its
//! own below the target folder. The first run needs the network, so no test depends on it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{Call, Failure, cargo};
use crate::tools::{make_environment, target};

/// The package, and a release of what it reads Parquet with that it works with.
const PACKAGES: [&str; 2] = ["focus-validator==2.2.1", "pyarrow<24"];
/// The rules that it checks, which it brings along.
const RULES: &str = "1.2.0.1";
/// Interpreters that are new enough, the first one that is there.
const PYTHONS: [&str; 4] = ["python3.12", "python3.13", "python3.14", "python3"];
/// Names another interpreter.
const PYTHON_VARIABLE: &str = "HOURGLASS_PYTHON";
/// A ledger with everything in it.
const SCENARIO: &str = "tests/scenarios/export_of_everything.txt";
/// Rules that cannot be kept: the validator leaves out under which condition they hold, so that a column would have
/// to be null and not null at once.
const DEFECTIVE: [&str; 4] = [
    "InvoiceId-C-004-C",
    "CapacityReservationStatus-C-003-C",
    "CapacityReservationStatus-C-004-C",
    "CommitmentDiscountStatus-C-004-C",
];
/// What a cloud has to support for a rule to be looked at: all of it, or rules would be passed over.
const CRITERIA: &str = "ACCOUNT_NAMING_SUPPORTED,AVAILABILITY_ZONE_SUPPORTED,\
    BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED,CAPACITY_RESERVATION_SUPPORTED,COMMITMENT_DISCOUNT_SUPPORTED,\
    MULTIPLE_BILLING_ACCOUNT_TYPES_SUPPORTED,MULTIPLE_PRICING_CATEGORIES_SUPPORTED,\
    MULTIPLE_SUB_ACCOUNT_TYPES_SUPPORTED,NEGOTIATED_PRICING_SUPPORTED,\
    PRICING_BILLING_CURRENCY_DIFFERENCES_SUPPORTED,PUBLIC_PRICE_LIST_SUPPORTED,REGION_SUPPORTED,\
    RESOURCE_TYPE_ASSIGNMENT_SUPPORTED,SUB_ACCOUNT_SUPPORTED,TAGGING_SUPPORTED,UNIT_PRICING_SUPPORTED,\
    USAGE_MEASUREMENT_SUPPORTED,VIRTUAL_CURRENCY_SUPPORTED";
/// Fewer rules than these cannot be all that there is to check.
const PASSED_LEAST: u32 = 340;

/// Makes a ledger, exports it both ways, and fails on whatever the validator finds but for [`DEFECTIVE`].
pub(crate) fn validate() -> Result<(), Failure> {
    let folder = target().join("focus");
    let python = environment(&folder)?;
    let ledger = folder.join("ledger");
    let out = folder.join("runs");
    for made in [&ledger, &out] {
        if made.exists() {
            fs::remove_dir_all(made).map_err(|error| Failure::Broken(error.to_string()))?;
        }
    }
    let [ledger, out] = [ledger, out].map(|path| path.to_string_lossy().into_owned());
    cargo(["build", "--package", "hourglass"]).run()?;
    let program = target().join("debug").join("hourglass");
    let hourglass = |args: &[&str]| Call::new(&program).args(args).output();
    hourglass(&["scenario", "run", SCENARIO, "--keep", &ledger])?;
    for format in ["csv", "parquet"] {
        hourglass(&["export", "focus", "--data", &ledger, "--out", &out, "--format", format])?;
    }
    eprint!("{}", hourglass(&["export", "check", &out, "--data", &ledger])?);
    let files = tables(Path::new(&out))?;
    let mut found = Vec::new();
    for file in &files {
        let report = report(&python, file)?;
        let (passed, others) = read(&report)?;
        eprintln!("{}: {passed} rules passed, {} others failed", file.display(), others.len());
        found.extend(others);
    }
    match found.as_slice() {
        [] if !files.is_empty() => Ok(()),
        [] => Err(Failure::Broken("nothing was exported".to_owned())),
        found => Err(Failure::Broken(format!("the validator found:\n{}", found.join("\n")))),
    }
}

/// The Python that has the validator, made where it is missing.
fn environment(folder: &Path) -> Result<PathBuf, Failure> {
    let environment = folder.join("python");
    let python = environment.join("bin").join("python");
    if python.is_file() && Call::new(&python).args(["-c", "import focus_validator"]).succeeds() {
        return Ok(python);
    }
    let new_enough = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 12))";
    let named = std::env::var(PYTHON_VARIABLE).ok();
    let mut interpreters = named.iter().map(String::as_str).chain(PYTHONS);
    let interpreter = interpreters.find(|it| Call::new(it).args(["-c", new_enough]).succeeds());
    let Some(interpreter) = interpreter else {
        let how = "put a python3.12 on the search path, or name one in";
        let what = format!("the validator needs Python 3.12 or newer with venv: {how} {PYTHON_VARIABLE}");
        return Err(Failure::Broken(what));
    };
    make_environment(&environment, interpreter, &PACKAGES)?;
    Ok(python)
}

/// The tables of all runs, in order.
fn tables(out: &Path) -> Result<Vec<PathBuf>, Failure> {
    let broken = |error: std::io::Error| Failure::Broken(format!("{}: {error}", out.display()));
    let mut folders = vec![out.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).map_err(broken)? {
            let path = entry.map_err(broken)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "csv" || it == "parquet") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn report(python: &Path, file: &Path) -> Result<String, Failure> {
    // It looks for its own files below the folder that it runs in.
    let place =
        "import focus_validator, pathlib; print(pathlib.Path(focus_validator.__file__).parent.parent)";
    let place = Call::new(python).args(["-c", place]).output()?;
    let program = python.with_file_name("focus-validator");
    let call = Call::new(program).args(["--data-file"]).args([file]).args(["--block-download"]);
    let call = call.args(["--validate-version", RULES, "--applicability-criteria", CRITERIA]);
    call.within(place.trim()).output()
}

/// How many rules passed, and which failed that can be kept. The validator ends well whatever it finds.
fn read(report: &str) -> Result<(u32, Vec<String>), Failure> {
    let totals = report.lines().find(|line| line.starts_with("Total: "));
    let passed = totals.and_then(|line| line.split_once("Pass: ")?.1.split_whitespace().next()?.parse().ok());
    let passed = passed.filter(|passed| *passed >= PASSED_LEAST).ok_or_else(|| {
        Failure::Broken(format!("the validator checked too little: {}", totals.unwrap_or("nothing")))
    })?;
    let failures = report.lines().skip_while(|line| !line.starts_with("--- Failures ---"));
    let failures = failures.filter_map(|line| line.strip_prefix("- "));
    // A rule that is made of others fails with them; the others are told by themselves.
    let others = failures.filter(|line| !line.contains(": AND failed - failed child rules"));
    let others = others.filter(|line| !DEFECTIVE.iter().any(|rule| line.starts_with(&format!("{rule}:"))));
    Ok((passed, others.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_that_can_be_kept_count() {
        let report = "\
Total: 578 | Pass: 358 | Fail: 3 | Skipped: 210

--- Failures ---
- InvoiceId-C-004-C: violations=42; InvoiceId MUST be NULL.
  MustSatisfy: InvoiceId MUST be null when the charge is not associated with an invoice.
- Tags-C-000-C: violations=1; Tags-C-000-C: AND failed - failed child rules: [Tags-C-001-M]
- Tags-C-001-M: violations=3; Tags MUST be valid JSON format
";
        let (passed, others) = read(report).unwrap();
        assert_eq!(passed, 358);
        assert_eq!(others, ["Tags-C-001-M: violations=3; Tags MUST be valid JSON format"]);
        let little = "Total: 578 | Pass: 136 | Fail: 0 | Skipped: 441\n";
        assert!(matches!(read(little), Err(Failure::Broken(_))));
        assert!(matches!(read("Traceback"), Err(Failure::Broken(_))));
    }
}
