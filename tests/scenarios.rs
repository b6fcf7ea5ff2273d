//! One file a rule: each runs against the core through the binary, with all its expectations and every
//! invariant. `src/simulate/scenario/same_end.rs` runs the same files through HTTP.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Answer, hourglass, root};

/// Files whose numbers the core does not get right yet, and why. One that comes right must leave the
/// list, so nobody forgets it.
const KNOWN_WRONG: [(&str, &str); 3] = [
    (
        "reservation_ends_within_its_hour.txt",
        "an amendment narrows the reservation's prices before it measures what they had charged, so that is not taken back",
    ),
    (
        "sla_by_its_own_agent_only.txt",
        "an XID error counts whoever reports it, also where the report is excluded",
    ),
    ("sla_of_an_instance_known_later.txt", "an XID error is forgotten where its report waits in suspense"),
];

fn run(file: &Path) -> Answer {
    hourglass(Path::new("/nonexistent"), &["scenario", "run", file.to_str().unwrap(), "--json"])
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("tests/scenarios")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_rule_gives_the_numbers_worked_out_by_hand() {
    let (mut failed, mut known) = (Vec::new(), Vec::new());
    for file in files() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# "), "{name} says first which rule it shows");
        let answer = run(&file);
        if KNOWN_WRONG.iter().any(|(wrong, _)| *wrong == name) {
            assert_eq!(answer.code, 1, "{name} is right: take it off the list");
            known.push(name);
            continue;
        }
        if answer.code != 0 {
            let report: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
            failed.push(format!("{name}: {}\n{:#}", answer.stderr, report["expectations"]["failed"]));
            continue;
        }
        let report = answer.json();
        let expected =
            text.lines().filter(|line| line.split_whitespace().any(|word| word == "expect")).count();
        assert_eq!(report["expectations"]["met"], expected, "{name}: an expectation was not looked at");
        assert!(report["steps"].as_array().unwrap().iter().all(|step| step["expected"] == true));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(known, KNOWN_WRONG.map(|(name, _)| name), "in order, and each is there");
}

#[test]
fn a_scenario_gives_the_same_end_each_time() {
    let file = root().join("tests/scenarios/composition.txt");
    let first = run(&file).json();
    assert_eq!(run(&file).json(), first);
    // Exact decimals, as strings.
    assert_eq!(first["invoices"][0]["exact_total"], "49.3480000019056");
    assert_eq!(first["invoices"][0]["status"], "open");
    assert_eq!(first["lines"][0]["quantity"], "1");
}

#[test]
fn the_examples_of_the_documentation_are_true() {
    let text = std::fs::read_to_string(root().join("docs/scenarios.md")).unwrap();
    let examples: Vec<&str> =
        text.split("```scenario\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert_eq!(examples.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    for example in examples {
        let file = folder.path().join("example.txt");
        std::fs::write(&file, example).unwrap();
        let report = run(&file).json();
        assert!(report["expectations"]["met"].as_u64() > Some(3), "{report:#}");
        let people = hourglass(Path::new("/nonexistent"), &["scenario", "run", file.to_str().unwrap()]).ok();
        assert!(people.stdout.contains("expectations met"), "{}", people.stdout);
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.txt");
    let check = |text: &str, code: i32| {
        std::fs::write(&file, text).unwrap();
        let answer = run(&file);
        assert_eq!(answer.code, code, "{}{}", answer.stdout, answer.stderr);
        answer
    };
    // Mistakes of the file: all of them, and nothing runs.
    let answer = check("tenant acme\nprice h100 on_demand 2,95\n", 2);
    assert!(answer.stderr.contains("wrong.txt:1:1: the currency is missing"), "{}", answer.stderr);
    assert!(answer.stderr.contains("wrong.txt:2:22: \"2,95\" is no decimal number"), "{}", answer.stderr);
    assert_eq!(answer.stdout, "");

    // Expectations that are not met: all of them, with what there is.
    let steps = "tenant acme USD\n\
                 expect invoices acme 1\n\
                 pay acme 1 5\n\
                 tick\n\
                 expect refused period_open\n\
                 tenant acme USD\n\
                 expect refused tenant_unknown\n\
                 expect balance assets:cash 0\n";
    let report: Value = serde_json::from_str(&check(steps, 1).stdout).unwrap();
    let failed: Vec<(u64, &str)> = report["expectations"]["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["line"].as_u64().unwrap(), it["found"].as_str().unwrap()))
        .collect();
    assert_eq!(failed[0], (2, "invoices=0"));
    assert_eq!((failed[1].0, &failed[1].1[..17]), (3, "invoice_unknown: "));
    assert_eq!(failed[2], (5, "it was done"));
    assert_eq!((failed[3].0, &failed[3].1[..15]), (7, "tenant_exists: "));
    assert_eq!((failed.len(), &report["expectations"]["met"]), (4, &1.into()));

    let answer = check("tenant acme USD\ntick every 1ms\n2027-01-01 tick\n", 2);
    assert!(answer.stderr.contains("the clock ticked 100000 times"), "{}", answer.stderr);
    std::fs::remove_file(&file).unwrap();
    assert!(run(&file).stderr.contains("No such file"));
}
