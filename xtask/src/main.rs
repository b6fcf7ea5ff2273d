//! The project's own chores, so that a machine with Cargo and a C compiler is enough to run them.
//!
//! `cargo xtask ci` is what decides whether a change may land; everything it does can be run alone.
//! Progress goes to stderr and the tests come last, so that the end of the output is their result.

mod contract;
mod focus;
mod highs;
mod layering;
mod run;
mod tools;

use std::process::ExitCode;

use run::{Failure, cargo};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  ci                           all that a change must pass: fmt, clippy, doc, layering, test
  layering                     prove which crate may depend on which
  test [-- ARGS]               install the tools that the tests need, then `cargo test` with ARGS
  chaos [--seed N] [--minutes M] [--planted-fault NAME]
                               the crash test: processes die at random, nothing may be lost
  contract [ARGS]              ask a running cell whatever its OpenAPI document allows, and more (schemathesis)
  bench [ARGS]                 the benchmarks, built for release
  focus                        hand our FOCUS exports to the validator of the FinOps Foundation (needs the
                               network once, and Python 3.12 or newer)
  fuzz TARGET [--seconds N]    run one fuzz target for N seconds (60 unless told)
";

/// The benchmark that needs HiGHS.
const HIGHS_FIGURE: &str = "welfare";
const FUZZ_SECONDS: u64 = 60;
const CHAOS_SEED: u64 = 1;
const CHAOS_MINUTES: u64 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            eprintln!("xtask: {what}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Broken(what)) => {
            eprintln!("xtask: {what}");
            ExitCode::FAILURE
        }
        // The child has said what is wrong; a line of ours would only push its words upwards.
        Err(Failure::Child) => ExitCode::FAILURE,
    }
}

fn dispatch(args: &[&str]) -> Result<(), Failure> {
    match args {
        ["ci"] => ci(),
        ["layering"] => layering::prove(),
        ["test"] => test(&[]),
        ["test", "--", extra @ ..] => test(extra),
        ["chaos", extra @ ..] => chaos(&Chaos::parse(extra)?),
        ["contract", extra @ ..] => contract::check(extra),
        ["focus"] => focus::validate(),
        ["bench", extra @ ..] => bench(extra),
        ["fuzz", target] => fuzz(target, FUZZ_SECONDS),
        ["fuzz", target, "--seconds", seconds] => fuzz(target, parse_seconds(seconds)?),
        ["help" | "--help" | "-h"] => {
            eprint!("{USAGE}");
            Ok(())
        }
        [] => Err(Failure::Usage("which command?".into())),
        _ => Err(Failure::Usage(format!("cannot understand `{}`", args.join(" ")))),
    }
}

fn ci() -> Result<(), Failure> {
    cargo(["fmt", "--all", "--check"]).run()?;
    cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()?;
    layering::prove()?;
    test(&[])
}

fn test(extra: &[&str]) -> Result<(), Failure> {
    tools::install_missing(&tools::OF_TESTS)?;
    cargo(["test", "--workspace", "--no-fail-fast"]).args(extra).run()
}

/// How the crash test is to run.
#[derive(Debug, PartialEq, Eq)]
struct Chaos<'a> {
    seed: u64,
    minutes: u64,
    /// A guard that the servers leave out: the test must fail.
    planted_fault: Option<&'a str>,
}

impl<'a> Chaos<'a> {
    fn parse(mut args: &[&'a str]) -> Result<Self, Failure> {
        let mut chaos = Self { seed: CHAOS_SEED, minutes: CHAOS_MINUTES, planted_fault: None };
        while let [option, rest @ ..] = args {
            let [value, rest @ ..] = rest else {
                return Err(Failure::Usage(format!("`{option}` needs a value behind it")));
            };
            let number = || {
                let number = value.parse().ok().filter(|number| *number > 0);
                number.ok_or_else(|| {
                    Failure::Usage(format!("`{option} {value}`: a whole number above 0 is needed"))
                })
            };
            match *option {
                "--seed" => chaos.seed = number()?,
                "--minutes" => chaos.minutes = number()?,
                "--planted-fault" if !value.starts_with('-') => chaos.planted_fault = Some(value),
                _ => return Err(Failure::Usage(format!("cannot understand `{option} {value}`"))),
            }
            args = rest;
        }
        Ok(chaos)
    }
}

fn chaos(chaos: &Chaos<'_>) -> Result<(), Failure> {
    tools::install_missing(&tools::OF_TESTS)?;
    let test = ["test", "--package", "hourglass", "--test", "system", "chaos::soak"];
    let (seed, minutes) = (chaos.seed.to_string(), chaos.minutes.to_string());
    let call = cargo(test).args(["--", "--ignored", "--exact", "--nocapture"]);
    let call = call.env("HOURGLASS_CHAOS_SEED", &seed).env("HOURGLASS_CHAOS_MINUTES", &minutes);
    match chaos.planted_fault {
        None => call,
        Some(fault) => call.env("HOURGLASS_CHAOS_PLANTED_FAULT", fault),
    }
    .run()
}

fn bench(extra: &[&str]) -> Result<(), Failure> {
    // How the real process restarts is a figure, too.
    cargo(["build", "--release", "--package", "hourglass"]).run()?;
    let bench = cargo(["run", "--release", "--package", "hourglass-bench", "--"]).args(extra);
    let names: Vec<&&str> = extra.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = names.is_empty() || names.contains(&&HIGHS_FIGURE);
    match is_wanted.then(highs::python).flatten() {
        Some(python) => bench.env(highs::VARIABLE, &python),
        None => bench,
    }
    .run()
}

/// Fuzzing wants the compiler's unstable sanitizer flags. `RUSTC_BOOTSTRAP` makes the stable
/// compiler take them, so that what is fuzzed is built by the compiler that builds the product.
fn fuzz(target: &str, seconds: u64) -> Result<(), Failure> {
    if target.starts_with('-') {
        return Err(Failure::Usage(format!("`{target}` is no fuzz target")));
    }
    if !cargo(["fuzz", "--version"]).succeeds() {
        return Err(Failure::Broken(
            "fuzzing needs cargo-fuzz: run `cargo install --locked cargo-fuzz` once".into(),
        ));
    }
    let limit = format!("-max_total_time={seconds}");
    cargo(["fuzz", "run", target, "--", limit.as_str()]).env("RUSTC_BOOTSTRAP", "1").run()
}

fn parse_seconds(text: &str) -> Result<u64, Failure> {
    // libFuzzer takes 0 for "without end", which is never what someone wanted who gave a limit.
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(Failure::Usage(format!("`--seconds {text}`: a whole number above 0 is needed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        let check = |line: &str| {
            let args: Vec<&str> = line.split_whitespace().collect();
            assert!(matches!(dispatch(&args), Err(Failure::Usage(_))), "`{line}` was taken");
        };
        check("");
        check("deploy");
        check("ci now");
        check("test unit");
        check("fuzz");
        check("focus 1.2");
        check("fuzz --seconds");
        check("fuzz --help");
        check("fuzz coverage --seconds");
        check("fuzz coverage --seconds ten");
        check("fuzz coverage --seconds 0");
        check("fuzz coverage --seconds 1 2");
        check("chaos 7");
        check("chaos --seed");
        check("chaos --minutes 0");
        check("chaos --seed one --minutes 2");
        check("chaos --planted-fault --seed 2");
    }
}
