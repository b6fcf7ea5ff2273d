//! The main job: a trace becomes exact books, and the same books however the reports arrive.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{hourglass, root};

/// A trace: its tasks and nodes.
struct Trace {
    tasks: PathBuf,
    nodes: PathBuf,
}

fn small() -> Trace {
    Trace { tasks: root().join("tests/data/tasks.csv"), nodes: root().join("tests/data/nodes.csv") }
}

/// The public trace, where the environment or a folder beside the repository has it.
fn public() -> Option<Trace> {
    let folder = match std::env::var_os("HOURGLASS_TRACES") {
        Some(folder) => PathBuf::from(folder),
        None => root().join("../shared/traces"),
    };
    let trace = Trace {
        tasks: folder.join("openb_pod_list_default.csv"),
        nodes: folder.join("openb_node_list_gpu_node.csv"),
    };
    (trace.tasks.exists() && trace.nodes.exists()).then_some(trace)
}

fn replay(data: &Path, trace: &Trace, more: &[&str]) -> Value {
    let (tasks, nodes) = (trace.tasks.to_str().unwrap(), trace.nodes.to_str().unwrap());
    let prices = "docs/examples/openb-prices.toml";
    let args = ["--json", "replay", "openb", "--pods", tasks, "--nodes", nodes, "--prices", prices];
    hourglass(data, &[&args, more].concat()).json()
}

/// Σ (deletion − scheduled) × GPUs of the tasks that ran, in milliseconds, straight from the file.
fn gpu_ms_of(trace: &Trace) -> i64 {
    let text = std::fs::read_to_string(&trace.tasks).unwrap();
    let rows = text.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    rows.filter(|row| !row[10].is_empty())
        .map(|row| {
            let number = |column: usize| row[column].parse::<i64>().unwrap();
            (number(9) - number(10)) * 1_000 * number(3)
        })
        .sum()
}

/// Usage by model adds up to the trace's own sum exactly, and the GPU-hours to it within half a
/// nano-GPU-hour a line.
fn check_usage(data: &Path, trace: &Trace) {
    let usage = hourglass(data, &["usage", "--group-by", "mode", "--json"]).json();
    let rows = usage["rows"].as_array().unwrap();
    let gpu_ms: i64 = rows.iter().map(|row| row["gpu_ms"].as_i64().unwrap()).sum();
    assert_eq!(gpu_ms, gpu_ms_of(trace));
    let nanos: i128 = rows.iter().map(|row| decimal(row["gpu_hours"].as_str().unwrap(), 9)).sum();
    let lines = i128::from(hourglass(data, &["verify", "--json"]).json()["lines"].as_i64().unwrap());
    let off = (nanos * 9 - i128::from(gpu_ms) * 2_500).abs();
    assert!(off * 2 <= 9 * lines, "{off} ninths of a nano-GPU-hour over {lines} lines");
}

fn decimal(text: &str, digits: usize) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<digits$}").parse().unwrap()
}

/// hledger, which shares no code with us, accepts the journal and finds that it sums to zero.
pub(crate) fn check_journal(data: &Path, by: &str) {
    let file = data.join("books.journal");
    hourglass(
        data,
        &["export", "journal", "--format", "hledger", "--by", by, "--out", file.to_str().unwrap()],
    )
    .ok();
    let hledger = |args: &[&str]| {
        let output =
            Command::new("hledger").env("LC_ALL", "C.UTF-8").arg("-f").arg(&file).args(args).output();
        let output = output.expect("hledger is installed by `cargo xtask test`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    hledger(&["check"]);
    hledger(&["check", "ordereddates"]);
    // Reports need to know what each account is.
    let accounts = hledger(&["accounts", "--types"]);
    assert!(accounts.lines().all(|account| account.contains("type:")), "{accounts}");
    let balances = hledger(&["bal"]);
    assert_eq!(balances.lines().last().unwrap().trim(), "0", "{balances}");

    // Every balance of the book, to the last digit.
    let ours = hourglass(data, &["balance", "--json"]).json();
    let theirs = hledger(&["bal", "-N", "--flat", "--no-elide", "-E", "--output-format", "csv"]);
    for row in ours["rows"].as_array().unwrap() {
        let (account, balance) = (row["account"].as_str().unwrap(), row["balance"].as_str().unwrap());
        let line = theirs.lines().find(|line| line.starts_with(&format!("\"{account}\",")));
        let Some(line) = line else {
            assert_eq!(balance, "0", "{account} is missing in {theirs}");
            continue;
        };
        let amount = line.rsplit('"').nth(1).unwrap().trim_end_matches(" USD");
        assert_eq!(exact(amount), exact(balance), "{account}: {line}");
    }
}

fn exact(text: &str) -> i128 {
    let magnitude = decimal(text.trim_start_matches('-'), 18);
    if text.starts_with('-') { -magnitude } else { magnitude }
}

#[test]
fn m1_the_result_is_the_same_to_the_bit_however_reports_arrive() {
    let trace = small();
    let ways: [&[&str]; 6] = [
        &[],
        &["--every", "60s"],
        &["--every", "3600s"],
        &["--tick", "7m"],
        &["--chaos", "1"],
        &["--chaos", "2", "--every", "1h"],
    ];
    let digests: Vec<String> = ways
        .iter()
        .map(|way| {
            let data = tempfile::tempdir().unwrap();
            let summary = replay(data.path(), &trace, way);
            assert_eq!(summary["billed_gpu_ms"].as_i64(), Some(gpu_ms_of(&trace)));
            let digest = hourglass(data.path(), &["ledger", "digest"]).ok().stdout.trim().to_owned();
            assert_eq!(summary["digest"], digest.as_str());
            let report = hourglass(data.path(), &["verify", "--json"]).json();
            assert_eq!((&report["finding_count"], &report["digest"]), (&0.into(), &digest.as_str().into()));
            digest
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn the_books_of_a_small_trace_are_right() {
    let (data, trace) = (tempfile::tempdir().unwrap(), small());
    let data = data.path();
    replay(data, &trace, &["--chaos", "3"]);
    check_usage(data, &trace);
    check_journal(data, "day");
    check_journal(data, "transfer");

    // I-2 from the command line, for every tenant's first invoice.
    let recomputed = hourglass(data, &["invoice", "recompute", "1", "--json"]).json();
    let recomputed = recomputed.as_array().unwrap();
    assert!(recomputed.len() > 10 && recomputed.iter().all(|it| it["equal"] == true));
    let first = hourglass(data, &["invoice", "list", "--json"]).json()[0].clone();
    let tenant = first["tenant"].as_str().unwrap();
    let shown = hourglass(data, &["--json", "invoice", "show", tenant, "1"]).json();
    for field in ["number", "kind", "period", "total", "due", "issued_at"] {
        assert_eq!(shown[field], first[field], "{field}");
    }

    // A replay starts from nothing.
    let (tasks, nodes) = (trace.tasks.to_str().unwrap(), trace.nodes.to_str().unwrap());
    let prices = "docs/examples/openb-prices.toml";
    let again = hourglass(data, &["replay", "openb", "--pods", tasks, "--nodes", nodes, "--prices", prices]);
    assert_eq!(again.code, 3);
    assert!(again.stderr.contains("not empty"), "{}", again.stderr);
}

#[test]
fn the_public_trace_gives_the_same_books_with_and_without_chaos() {
    let Some(trace) = public() else {
        eprintln!("SKIPPED: the OpenB trace is not here; set HOURGLASS_TRACES to the folder that holds it");
        return;
    };
    let calm = tempfile::tempdir().unwrap();
    let summary = replay(calm.path(), &trace, &[]);
    assert_eq!(summary["billed_gpu_ms"].as_i64(), Some(gpu_ms_of(&trace)));
    check_usage(calm.path(), &trace);
    check_journal(calm.path(), "day");
    let chaos = tempfile::tempdir().unwrap();
    let disturbed = replay(chaos.path(), &trace, &["--chaos", "42"]);
    assert!(disturbed["records"].as_u64() > summary["records"].as_u64());
    assert_eq!(disturbed["digest"], summary["digest"]);
    // What the trace gave when this was written: a change of it is a change of customers' bills.
    assert_eq!(summary["digest"], "3f6f3a8b8035bf4e4605634d55d3df5d5ec65998144d2c716fbe1c7a46050e63");
}
