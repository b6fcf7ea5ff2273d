//! Quota from the command line, on a data directory and against a running cell.

use std::path::Path;

use serde_json::{Value, json};

use crate::http::{now_ms, open_account, rfc3339};
use crate::support::{Cli, Server, hourglass};

const GPU: &str = "compute.instance.gpu.h100";

/// All of it; the same whichever way the ledger is reached.
fn quota(cli: &Cli<'_>, files: &Path) {
    // `i-1` has eight GPUs by now.
    cli.says(&["group", "create", "acme", "research"], &["acme has a group research"]);
    cli.refuses(&["group", "create", "acme", "research"], 3, "exists already");
    cli.says(&["group", "place", "acme", "train", "research"], &["project train lies in group research"]);
    cli.says(&["group", "list", "acme"], &["research", "tenants/acme", "train"]);
    cli.says(&["set", "tenants/acme", GPU, "--nominal", "16"], &["tenants/acme has a limit of 16"]);
    cli.says(&["set", "tenants/acme/projects/shut", GPU, "--nominal", "0"], &["has a limit of 0"]);
    cli.says(
        &[
            "set",
            "tenants/acme/groups/research",
            GPU,
            "--class",
            "preemptible",
            "--nominal",
            "4",
            "--borrowing",
            "unlimited",
        ],
        &["has a limit of 4", "(preemptible)"],
    );
    cli.refuses(&["set", "tenants/acme", GPU], 2, "--nominal");
    cli.refuses(&["set", "acme", GPU, "--nominal", "1"], 2, "a node is tenants/T");
    cli.refuses(&["set", "tenants/acme", GPU, "--nominal", "-1"], 2, "");
    cli.refuses(&["set", "tenants/acme", GPU, "--nominal", "many"], 2, "use a whole number");
    cli.refuses(
        &["set", "tenants/acme", GPU, "--nominal", "1", "--borrowing", "1"],
        3,
        "only class preemptible",
    );
    cli.refuses(&["set", "tenants/nobody", GPU, "--nominal", "1"], 3, "nobody is not known");
    cli.says(&["show", "acme"], &["tenants/acme/groups/research", "preemptible", "unlimited", "ok"]);
    let rows = cli.json(&["show", "acme", "--kind", "tenant"]);
    let facts = ["nominal", "committed", "fits"].map(|name| rows[0][name].as_u64().unwrap());
    assert_eq!(facts, [16, 8, 8], "{rows}");
    cli.refuses(&["show", "nobody"], 3, "nobody is not known");

    holds(cli);
    requests(cli, files);

    cli.says(
        &[
            "cap",
            "set",
            "acme",
            "monthly",
            "5000",
            "USD",
            "--soft",
            "--thresholds",
            "50,80",
            "--notice",
            "5m",
        ],
        &["the monthly spend cap of acme is 5000 USD"],
    );
    cli.refuses(&["cap", "set", "acme", "monthly", "5000", "EUR"], 3, "acme is billed in USD");
    cli.refuses(&["cap", "set", "acme", "monthly", "5000"], 2, "CURRENCY");
    cli.refuses(&["cap", "set", "acme", "monthly"], 3, "needs an amount");
    cli.refuses(&["cap", "set", "acme", "weekly", "5", "USD"], 2, "monthly, total or prepaid");
    cli.says(&["cap", "show", "acme"], &["monthly", "soft", "5000", "0 of 2", "open"]);
    assert_eq!(cli.json(&["cap", "show", "acme"])[0]["notice_seconds"], 300);
    cli.says(&["cap", "remove", "acme", "monthly"], &["the monthly spend cap of acme is gone"]);
    cli.refuses(&["cap", "remove", "acme", "monthly"], 3, "no such spend cap");

    let listing = files.join("listing.json");
    let taken = rfc3339(now_ms() - 1_000);
    let list = |instances: Value| {
        std::fs::write(&listing, json!({"listed_at": taken, "instances": instances}).to_string()).unwrap();
    };
    let reconcile = ["reconcile", "--file", listing.to_str().unwrap()];
    list(json!([{"instance": "zombie", "running": true, "gpus": 8}]));
    let found = cli.run(&reconcile);
    assert_eq!(found.code, 1, "{}", found.stderr);
    assert!(found.stdout.contains("zombie") && found.stdout.contains("unknown"), "{}", found.stdout);
    list(json!([]));
    cli.says(&reconcile, &["nothing differs: 0 instances were listed"]);
    cli.refuses(&["reconcile", "--file", "/nonexistent.json"], 2, "nonexistent");
    cli.says(&["preemptions"], &["nothing has to stop"]);
    cli.says(&["set", "tenants/acme", GPU, "--remove"], &["no limit of its own"]);
}

fn holds(cli: &Cli<'_>) {
    let (eight, nine) = (format!("{GPU}=8"), format!("{GPU}=9"));
    cli.says(&["check", "acme", "ml", &eight], &["it fits"]);
    cli.refuses(&["check", "acme", "ml", &nine], 1, "8 would fit");
    cli.refuses(&["check", "nobody", "ml", &nine], 3, "nobody is not known");
    cli.refuses(&["reserve", "acme", "ml", &nine], 3, "8 would fit");
    cli.refuses(&["reserve", "acme", "shut", &eight], 3, "release some, or request an increase");
    cli.refuses(&["reserve", "acme", "ml", "eight"], 2, "write it like compute.instance.gpu.h100=8");
    cli.refuses(&["reserve", "acme", "ml"], 2, "ITEM");
    let hold = cli.json(&["reserve", "acme", "ml", &eight, "--ttl", "1h"]);
    assert_eq!(hold["state"], "held", "{hold}");
    let hold = hold["hold"].to_string();
    cli.says(&["holds", "acme"], &[&hold, "held", &eight]);
    cli.says(&["renew", "acme", &hold, "--ttl", "2h"], &["is held until"]);
    cli.refuses(&["renew", "acme", &hold, "--ttl", "25h"], 3, "a hold lasts 1 to 86400 seconds");
    cli.says(&["resize", "acme", &hold, &format!("{GPU}=4")], &["is held until"]);
    cli.says(&["commit", "acme", &hold], &["is committed"]);
    cli.says(&["commit", "acme", &hold], &["is committed"]);
    // Nobody finds it at another tenant.
    cli.refuses(&["release", "beta", &hold], 3, &format!("there is no hold {hold}"));
    cli.says(&["release", "acme", &hold], &["is released"]);
    cli.refuses(&["commit", "acme", &hold], 3, "was released at");
    cli.refuses(&["commit", "acme", "999999"], 3, "there is no hold 999999");
    assert_eq!(cli.json(&["holds", "acme"]), json!([]));
    assert_eq!(cli.json(&["leases", "acme"]), json!([]));
}

fn requests(cli: &Cli<'_>, files: &Path) {
    cli.says(&["rules", "show"], &["every request waits for a person"]);
    let ask = |wanted: &str| {
        let args = ["request", "tenants/acme", GPU, wanted, "--why", "a second run"];
        cli.run(&args)
    };
    let waits = cli.json(&["request", "tenants/acme", GPU, "20", "--why", "a second run"]);
    assert_eq!(waits["status"], "pending");
    let waits = waits["request"].to_string();
    cli.says(&["requests", "--open"], &[&waits, "tenants/acme", "16", "20", "a second run"]);
    let rules = files.join("rules.toml");
    let text = format!(
        "account_days_min = 0\npaid_invoices_min = 0\nutilisation_min = \"50\"\ngrowth_max = \"150\"\n\
         [[headroom]]\nresource = \"{GPU}\"\nclass = \"on_demand\"\ntotal_max = 100\n"
    );
    std::fs::write(&rules, text).unwrap();
    cli.says(&["rules", "set", rules.to_str().unwrap()], &["answered by these rules"]);
    cli.says(&["rules", "show"], &["growth_max", "150"]);
    assert!(ask("24").ok().stdout.contains("is approved by rules: 24 is the limit"));
    let refused = ask("7");
    assert!(refused.code == 3 && refused.stderr.contains("release some, or ask for 8"), "{}", refused.stderr);
    cli.says(&["rules", "clear"], &["every request waits for a person"]);
    cli.refuses(&["decide", "beta", &waits, "--deny", "--reason", "no"], 3, "there is no request");
    cli.refuses(&["decide", "acme", &waits, "--reason", "no"], 2, "--grant");
    cli.says(
        &["decide", "acme", &waits, "--grant", "18", "--reason", "as much as there is"],
        &["18 is the limit"],
    );
    cli.refuses(&["decide", "acme", &waits, "--deny", "--reason", "no"], 3, "was decided at");
    assert_eq!(cli.json(&["requests", "--open"]), json!([]));
    assert_eq!(cli.json(&["requests", "acme"])[0]["decision"]["reason"], "as much as there is");
    cli.refuses(&["requests", "nobody"], 3, "nobody is not known");
}

fn with_accounts(data: &Path) -> Server {
    let server = Server::up_with_tick(data, "1h", &[]);
    open_account(&server);
    let (status, answer) = server.post("/v1/tenants", &json!({"tenant": "beta", "currency": "USD"}));
    assert_eq!(status, 201, "{answer}");
    server
}

#[test]
fn quota_on_the_directory() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(with_accounts(data.path()).stop());
    let here = Cli { data: data.path(), server: None, of: &["quota"] };
    quota(&here, files.path());
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");

    // A running cell shows the same, to the letter.
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    let there = Cli { data: data.path(), server: Some(&server.url), of: &["quota"] };
    for args in [
        ["show", "acme"].as_slice(),
        &["show", "acme", "--project", "shut", "--resource", GPU],
        &["group", "list", "acme"],
        &["cap", "show", "acme"],
        &["holds", "acme"],
        &["leases", "acme"],
        &["requests"],
        &["requests", "acme", "--open"],
        &["rules", "show"],
        &["preemptions"],
    ] {
        assert_eq!(there.run(args).ok().stdout, here.run(args).ok().stdout, "{args:?}");
        assert_eq!(there.json(args), here.json(args), "{args:?}");
    }
    // The directory is the running cell's.
    here.refuses(&["set", "tenants/acme", GPU, "--nominal", "1"], 4, "");
}

#[test]
fn quota_against_a_running_cell() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = with_accounts(data.path());
    quota(&Cli { data: data.path(), server: Some(&server.url), of: &["quota"] }, files.path());
    assert!(server.stop());
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");
}
