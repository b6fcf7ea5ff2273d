//! `hourglass backtest` on the files of the documentation.

use std::path::Path;

use crate::support::{Answer, hourglass};

const TRACE: &str = "docs/examples/backtest-trace.csv";
const SUPPLY: &str = "docs/examples/backtest-supply.toml";
const POLICY: &str = "docs/examples/backtest-policy.toml";

fn backtest(data: &Path, files: [&str; 3], more: &[&str]) -> Answer {
    let [trace, supply, policy] = files;
    let args = ["backtest", "--trace", trace, "--supply", supply, "--policy", policy];
    hourglass(data, &[&args, more].concat())
}

#[test]
fn the_example_answers_in_all_forms() {
    let data = tempfile::tempdir().unwrap();
    let picture = data.path().join("backtest.svg");
    let plot = ["--json", "--plot", picture.to_str().unwrap()];
    let json = backtest(data.path(), [TRACE, SUPPLY, POLICY], &plot).json();
    let number = |path: &str| json.pointer(path).and_then(serde_json::Value::as_u64).unwrap();
    let parts = ["worked", "booting", "idle"].map(|part| number(&format!("/gpu_seconds/{part}")));
    assert_eq!(number("/gpu_seconds/supply"), parts.iter().sum::<u64>());
    assert_eq!(number("/jobs/all"), 240);
    assert_eq!(json["waiting"].as_array().unwrap().len(), 10);
    assert_eq!(json["pools"][0]["name"], "eu-north1/gpu-h100-sxm/fabric-1");
    assert!(std::fs::read_to_string(&picture).unwrap().starts_with("<svg"));

    let text = backtest(data.path(), [TRACE, SUPPLY, POLICY], &[]).ok().stdout;
    let revenue = json["revenue"].as_str().unwrap();
    let revenue = &revenue[..revenue.find('.').unwrap() + 3];
    for shown in ["240 jobs", "supply reclaimed", "eu-north1/gpu-h100-sxm/fabric-2", "wait p90", revenue] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
}

#[test]
fn wrong_files_are_told_by_their_names() {
    let data = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let policy = std::fs::read_to_string(crate::support::root().join(POLICY)).unwrap();
    let policy = file("policy.toml", &policy.replace("margin = \"10\"", "margin = -1"));
    let trace = file("trace.csv", "timestamp,duration,num_gpus\n0,60,1\n0,60,x\n");
    let check = |files: [&str; 3], expected: &[&str]| {
        let answer = backtest(data.path(), files, &[]);
        assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
        for text in expected {
            assert!(answer.stderr.contains(text), "{text} is not in {}", answer.stderr);
        }
    };
    check([TRACE, SUPPLY, &policy], &["policy.toml", "\"-1\" is no percentage"]);
    check([&trace, SUPPLY, POLICY], &["trace.csv", "line 3, column num_gpus"]);
    check([TRACE, "no-such.toml", POLICY], &["no-such.toml"]);
    check([TRACE, "tests/data/nodes.csv", POLICY], &["policy.toml", "which the supply has not"]);
}
