//! What the command line says to what it cannot do.

use crate::support::{hourglass, root};

#[test]
fn mistakes_get_a_sentence_and_an_exit_code() {
    let data = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let card = |more: &str| {
        format!(
            "name = \"list\"\nversion = 1\ncurrency = \"USD\"\neffective_from = \"2026-01-01T00:00:00Z\"\n\
             [[prices]]\nplatform = \"h100\"\nregion = \"eu\"\nmodel = \"on_demand\"\n{more}\n"
        )
    };
    let gap = file("gap.toml", &card("price = \"1\"\nuntil = \"2026-02-01T00:00:00Z\""));
    let negative = file("negative.toml", &card("price = \"-1\""));
    let long = file("long.toml", &card("price = \"123456789012345678901234567890\""));
    let currency = file("currency.toml", &card("price = \"1\"").replace("USD", "XXY"));
    let text = file("text.csv", "name,scheduled_time\n\u{fffd}");
    let missing = files.path().join("missing").to_str().unwrap().to_owned();
    let nodes = root().join("tests/data/nodes.csv").to_str().unwrap().to_owned();
    let tasks = root().join("tests/data/tasks.csv").to_str().unwrap().to_owned();
    let prices = "docs/examples/openb-prices.toml";
    let config = file("hourglass.toml", "htpp = \"127.0.0.1:1\"");

    let check = |args: &[&str], code: i32, says: &str| {
        let answer = hourglass(data.path(), args);
        assert_eq!(answer.code, code, "{args:?}: {}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains(says), "{args:?} should say {says:?}: {}", answer.stderr);
        assert!(!answer.stderr.contains("panicked"), "{args:?}: {}", answer.stderr);
    };
    check(&["usage"], 4, "there is no ledger in");
    check(&["verify"], 4, "there is no ledger in");
    check(&["usage", "--group-by", "moon"], 2, "model");
    check(&["usage", "--from", "yesterday"], 2, "RFC 3339");
    check(&["up", "--http", "0.0.0.0:0"], 2, "HOURGLASS_OPERATOR_TOKEN");
    check(&["up", "--tick", "1ms"], 2, "at least 1s");
    check(&["up", "--region", "a b"], 2, "' ' at byte 1");
    check(&["--config", &missing, "doctor"], 2, "missing");
    check(&["--config", &config, "doctor"], 2, "unknown field");
    check(&["price", "check", &gap], 2, "h100 in eu, on_demand has no price over [2026-02-01T00:00:00Z");
    check(&["price", "check", &negative], 2, "negative");
    check(&["price", "check", &long], 2, "no decimal number");
    check(&["price", "check", &currency], 2, "unknown currency");
    let replay = |tasks: &str, prices: &str, more: &[&str], code: i32, says: &str| {
        let args = ["replay", "openb", "--pods", tasks, "--nodes", &nodes, "--prices", prices];
        check(&[&args, more].concat(), code, says);
    };
    replay(&missing, prices, &[], 2, "missing");
    replay(&text, prices, &[], 2, "text.csv");
    replay(&nodes, prices, &[], 2, "missing field `name`");
    replay(&tasks, prices, &["--every", "0s"], 2, "--every");
    replay(&tasks, prices, &["--every", "25h"], 2, "at most 24 hours");
    replay(&tasks, prices, &["--start", "2026-02-30"], 2, "RFC 3339");
    replay(&tasks, &gap, &[], 3, "h100 in eu, on_demand has no price over");
}

#[test]
fn a_demonstration_month_ends_in_invoices() {
    let data = tempfile::tempdir().unwrap();
    let summary = hourglass(data.path(), &["--json", "demo", "--seed", "5", "--no-serve"]).json();
    assert_eq!(summary["invoices"], 5);
    assert_eq!(summary["billed_gpu_ms"], summary["workload_gpu_ms"]);
    assert!(hourglass(data.path(), &["verify"]).ok().stdout.contains("sound:"));
    let doctor = hourglass(data.path(), &["doctor"]).ok().stdout;
    assert!(doctor.contains("ok    ledger     demo"), "{doctor}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(hourglass(data.path(), &["completion", shell]).ok().stdout.contains("hourglass"));
    }
}

#[test]
fn a_directory_in_use_can_be_read_and_not_written() {
    let data = tempfile::tempdir().unwrap();
    let server = crate::support::Server::up(data.path(), &[]);
    let second = hourglass(data.path(), &["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
    assert_eq!(second.code, 4);
    assert!(second.stderr.contains("in use by another process (process id "), "{}", second.stderr);
    hourglass(data.path(), &["balance"]).ok();
    hourglass(data.path(), &["verify"]).ok();
    assert!(hourglass(data.path(), &["doctor"]).ok().stdout.contains("running (process id "));
    assert!(server.stop(), "SIGTERM ends it cleanly");
    let other_region = hourglass(data.path(), &["up", "--region", "elsewhere", "--http", "127.0.0.1:0"]);
    assert!(other_region.stderr.contains("is that of region test, not elsewhere"), "{}", other_region.stderr);
}

#[test]
fn quarantine_is_listed_shown_and_replayed() {
    let data = tempfile::tempdir().unwrap();
    let server = crate::support::Server::up(data.path(), &[]);
    let (status, problem) = server.post("/v1/usage:ingest", &serde_json::json!({"agent_id": 5}));
    assert_eq!(status, 422, "{problem}");
    let position = problem["quarantine_position"].as_u64().unwrap().to_string();
    assert!(server.stop());

    let run = |args: &[&str]| hourglass(data.path(), args);
    let list = run(&["--json", "quarantine", "list"]).ok().json();
    assert_eq!(list[0]["position"].to_string(), position);
    assert!(run(&["quarantine", "list"]).ok().stdout.contains("message"));
    let shown = run(&["--json", "quarantine", "show", &position]).ok().json();
    assert_eq!((&shown["content_type"], &shown["bytes"]), (&"application/json".into(), &14.into()));
    let original = run(&["quarantine", "show", &position, "--original", "-"]).ok().stdout;
    assert_eq!(original, "{\"agent_id\":5}");
    // Nothing of it can be used by this release either.
    let replayed = run(&["quarantine", "replay", &position]);
    assert_eq!(replayed.code, 3, "{}", replayed.stderr);
    assert!(replayed.stderr.contains("stays in quarantine"), "{}", replayed.stderr);
    let unknown = run(&["quarantine", "show", "1"]);
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("nothing in quarantine at position 1"), "{}", unknown.stderr);
}
