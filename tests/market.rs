//! The spot market from the command line, on a data directory and against a running cell.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Cli, Server, hourglass};

/// Clears until nothing changes. In a running cell the clock clears too, when the supply changes.
fn settle(cli: &Cli<'_>) {
    for _ in 0..9 {
        let answer = cli.run(&["market", "clear"]);
        if answer.code == 3 {
            assert!(answer.stderr.contains("nothing is to be cleared"), "{}", answer.stderr);
            return;
        }
        answer.ok();
    }
    panic!("the market does not come to rest");
}

const POOL: &str = "test/gpu-h100-sxm/f-1";

/// All of it; the same whichever way the ledger is reached.
fn market(cli: &Cli<'_>, files: &Path) {
    cli.says(&["pool", "list"], &["there is no pool"]);
    cli.refuses(&["pool", "show", "gpu-h100-sxm", "f-1"], 3, "there is no pool");
    let set = |more: &[&'static str]| {
        let all = ["pool", "set", "gpu-h100-sxm", "f-1", "--gpus", "4", "--currency", "USD"];
        [&all[..], more].concat()
    };
    cli.refuses(&set(&[]), 2, "--reserve");
    cli.refuses(&set(&["--reserve", "2", "--reserve", "50=1"]), 2, "");
    cli.refuses(&set(&["--reserve", "0.5", "--notice", "1500ms"]), 2, "whole seconds");
    cli.refuses(&set(&["--reserve", "0.5", "--notice", "2s"]), 3, "a notice is 60 to 3600 seconds long");
    let table = set(&["--reserve", "0.5", "--reserve", "50=2", "--notice", "2m"]);
    cli.says(&table, &["pool gpu-h100-sxm/f-1 has 4 GPUs"]);
    cli.says(&["market", "margin"], &["10 %"]);
    cli.says(&["market", "margin", "20"], &["20 %"]);
    assert_eq!(cli.json(&["market", "margin"]), json!({"margin": "20"}));
    settle(cli);

    cli.refuses(&["bid", "list", "nobody"], 3, "nobody is not known");
    cli.says(&["bid", "list", "acme"], &["there is no bid"]);
    let bid = |tenant, name, limit, units: &[&'static str]| {
        let all = ["bid", "place", tenant, name, "--project", "ml", "--pool", POOL, "--limit", limit];
        [&all[..], units].concat()
    };
    cli.says(&bid("acme", "low", "1.00", &["--units", "4"]), &["acme bids 1 for 1 to 4 units: bid number"]);
    cli.refuses(&bid("acme", "low", "1.00", &["--units", "4"]), 3, "bid low exists");
    cli.refuses(
        &bid("acme", "big", "1.00", &["--units", "9", "--min-units", "9"]),
        3,
        "its largest pool has 4",
    );
    cli.refuses(&bid("acme", "x", "-1", &["--units", "4"]), 2, "");
    settle(cli);
    cli.says(&["bid", "list", "acme"], &["low", "winning", POOL]);
    cli.says(&["bid", "show", "acme", "low"], &["accepted", "spot-"]);
    let low = cli.json(&["bid", "show", "acme", "low"]);
    assert_eq!((&low["units"], &low["price"]), (&json!(4), &json!("0.5")), "{low}");

    cli.says(&bid("beta", "high", "1.50", &["--units", "3", "--min-units", "3"]), &["bid number"]);
    settle(cli);
    cli.says(&["bid", "show", "acme", "low"], &["stopping", "outbid", "pays more"]);
    cli.says(&["market", "why", "acme", "low"], &["it won 1 units", "GPUs ahead"]);
    cli.says(&bid("acme", "late", "1.10", &["--units", "1"]), &[]);
    settle(cli);
    cli.says(
        &["market", "why", "acme", "late"],
        &["it lost: higher limits took the GPUs", "it would have won"],
    );
    cli.refuses(&["market", "why", "beta", "late"], 3, "there is no bid late");
    cli.refuses(&["bid", "show", "beta", "late"], 3, "there is no bid late");
    cli.refuses(&["bid", "update", "acme", "late"], 2, "");
    cli.says(&["bid", "update", "acme", "late", "--limit", "1.3"], &["bid late of acme is changed"]);
    settle(cli);
    let late = cli.json(&["bid", "show", "acme", "late"]);
    assert_eq!((&late["state"], &late["limit"]), (&json!("winning"), &json!("1.3")));
    cli.says(&["bid", "cancel", "acme", "late"], &["bid late of acme is taken back"]);
    cli.refuses(&["bid", "cancel", "acme", "late"], 3, "was taken back");

    let clears = cli.json(&["market", "clears"]);
    let clear = clears.as_array().unwrap().iter().find(|it| it["stops"] == 3).unwrap()["clear"].to_string();
    cli.says(&["market", "clears", "--last", "2"], &["welfare"]);
    cli.says(&["market", "receipt", &clear], &["2 of 2 bids won", POOL]);
    cli.says(&["market", "replay", &clear], &["is the same again"]);
    cli.says(
        &["market", "why", "acme", "low", "--clear", &clear],
        &["3 units", "told to stop: outbid by bid number"],
    );
    for none in ["1", "0", "999999"] {
        cli.refuses(&["market", "receipt", none], 3, "there is no clearing at");
    }

    // Anybody can replay what was saved, and nobody can change it unseen.
    let file = files.join("receipt.json");
    let saved = cli.run(&["market", "receipt", &clear, "--json"]).ok().stdout;
    std::fs::write(&file, &saved).unwrap();
    let path = file.to_str().unwrap();
    let nowhere = Path::new("/nonexistent");
    let replayed = hourglass(nowhere, &["market", "replay", "--file", path, "--json"]).json();
    assert_eq!((&replayed["same"], replayed["clear"].to_string()), (&json!(true), clear.clone()));
    for (from, to) in [("\"limit\": \"1.5\"", "\"limit\": \"1.6\""), ("\"units\": 1", "\"units\": 2")] {
        assert!(saved.contains(from), "{saved}");
        std::fs::write(&file, saved.replacen(from, to, 1)).unwrap();
        let answer = hourglass(nowhere, &["market", "replay", "--file", path]);
        assert_eq!(answer.code, 1, "{from}: {}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains("the receipt was changed"), "{}", answer.stderr);
    }
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(hourglass(nowhere, &["market", "replay", "--file", path]).code, 2);

    cli.says(&["pool", "list"], &[POOL, "USD"]);
    cli.says(&["pool", "show", "gpu-h100-sxm", "f-1"], &["120 seconds"]);
    let prices = cli.json(&["pool", "prices", "gpu-h100-sxm", "f-1"]);
    assert_eq!(prices[0]["price"], "0.5");
    cli.says(&["pool", "prices", "gpu-h100-sxm", "f-1", "--until", "2100-01-01"], &["0.5"]);
}

/// What comes before spot, the same whichever way the ledger is reached.
fn supply(cli: &Cli<'_>) {
    let pool = ["gpu-h100-sxm", "f-2"];
    let with = |first: &[&'static str], rest: &[&'static str]| [first, &pool[..], rest].concat();
    cli.says(
        &with(
            &["pool", "set"],
            &["--gpus", "8", "--currency", "USD", "--reserve", "0.5", "--owner-share", "40"],
        ),
        &["has 8 GPUs"],
    );
    cli.refuses(
        &with(
            &["pool", "set"],
            &["--gpus", "8", "--currency", "USD", "--reserve", "1", "--owner-share", "101"],
        ),
        3,
        "at most 100 %",
    );
    let hour = |hours: u64| {
        let now = std::process::Command::new("date")
            .args(["-u", "-d", &format!("+{hours} hours"), "+%Y-%m-%dT%H:00:00Z"])
            .output()
            .unwrap();
        String::from_utf8(now.stdout).unwrap().trim().to_owned()
    };
    let (now, soon, later) = (hour(0), hour(2), hour(20));
    let create = |id: &'static str, gpus: &'static str| -> Vec<String> {
        [
            "reserve",
            "create",
            "acme",
            id,
            "--project",
            "ml",
            "--platform",
            "gpu-h100-sxm",
            "--gpus",
            gpus,
            "--from",
            &now,
            "--until",
            &later,
            "--monthly",
            "2",
            "--fabric",
            "f-2",
        ]
        .map(str::to_owned)
        .into()
    };
    let args = |all: &[String]| -> Vec<String> { all.to_vec() };
    let run = |all: Vec<String>| {
        let all = args(&all);
        cli.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(run(create("r-1", "6")).ok().stdout.contains("acme has reservation r-1"));
    let refused = run(create("r-2", "3"));
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("2 would fit"), "{}", refused.stderr);
    cli.says(&["reserve", "lend", "acme", "r-1", "--at-most", "4"], &["is lent to spot"]);
    cli.says(
        &["reserve", "claim", "acme", "r-1", "--gpus", "5", "--from", &soon, "--until", &later],
        &["5 GPUs of r-1 are back"],
    );
    cli.says(
        &["reserve", "assign", "acme", "r-1", "--part", "web=2", "--from", &soon, "--until", &later],
        &["1 projects have parts"],
    );
    cli.refuses(
        &["reserve", "assign", "acme", "r-1", "--part", "web=9", "--from", &soon, "--until", &later],
        3,
        "assign fewer",
    );
    cli.refuses(
        &["reserve", "assign", "acme", "r-1", "--part", "web", "--from", &soon, "--until", &later],
        2,
        "PROJECT=GPUS",
    );
    let supply = cli.json(&with(&["pool", "supply"], &[]));
    assert_eq!(
        (&supply["for_spot"], &supply["reserved"], &supply["lent"]),
        (&json!(6), &json!(6), &json!(4)),
        "{supply}"
    );
    cli.says(
        &with(&["pool", "set-node"], &["n-1", "--gpus", "3", "--state", "failed"]),
        &["node n-1 is known"],
    );
    cli.refuses(
        &with(&["pool", "set-node"], &["n-1", "--gpus", "3", "--state", "maintenance"]),
        2,
        "needs a start and an end",
    );
    cli.says(&with(&["pool", "nodes"], &[]), &["n-1", "failed"]);
    cli.says(&with(&["pool", "supply"], &[]), &["for spot", "3"]);
    cli.says(&with(&["pool", "forget-node"], &["n-1"]), &["is forgotten"]);
    cli.says(
        &with(&["pool", "account"], &["--from", "2026-01-01T00:00:00Z", "--until", "2030-01-01T00:00:00Z"]),
        &["owned", "out of use"],
    );
    cli.says(&["reserve", "withdraw", "acme", "r-1"], &["nothing of r-1 is lent"]);
    cli.refuses(&["reserve", "withdraw", "acme", "r-1"], 3, "is not lent");

    cli.says(&["market", "suspend", "beta", "--reason", "unpaid"], &["beta is suspended"]);
    cli.refuses(&["market", "suspend", "beta", "--reason", "unpaid"], 3, "is suspended");
    cli.says(&["market", "resume", "beta"], &["beta may start instances again"]);
    cli.says(
        &with(
            &["pool", "set"],
            &[
                "--gpus",
                "8",
                "--currency",
                "USD",
                "--reserve",
                "0.5",
                "--driven",
                "--backend",
                "preemptible",
                "--capacity",
                "advice",
            ],
        ),
        &["has 8 GPUs"],
    );
    let terms = cli.json(&with(&["pool", "show"], &[]))["terms"].clone();
    assert_eq!((&terms["backend"], &terms["capacity"]), (&json!("preemptible"), &json!("advice")));
}

fn with_accounts(data: &Path) -> Server {
    let server = Server::up_with_tick(data, "1h", &[]);
    let created = |path: &str, body: Value| {
        let (status, answer) = server.post(path, &body);
        assert_eq!(status, 201, "{answer}");
    };
    for tenant in ["acme", "beta"] {
        created("/v1/tenants", json!({"tenant": tenant, "currency": "USD"}));
    }
    created(
        "/v1/rate-cards",
        json!({"name": "list", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z", "prices": [
            {"platform": "gpu-h100-sxm", "region": "test", "model": "spot", "price": "1.25"}]}),
    );
    server
}

#[test]
fn the_market_on_the_directory() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(with_accounts(data.path()).stop());
    let here = Cli { data: data.path(), server: None, of: &[] };
    market(&here, files.path());
    supply(&here);
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");

    // A running cell shows the same, to the letter. It clears when it starts, if that would change anything.
    settle(&here);
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    let there = Cli { data: data.path(), server: Some(&server.url), of: &[] };
    for args in [
        ["pool", "list"].as_slice(),
        &["pool", "show", "gpu-h100-sxm", "f-1"],
        &["pool", "prices", "gpu-h100-sxm", "f-1"],
        &["bid", "list", "acme"],
        &["bid", "show", "acme", "low"],
        &["market", "why", "acme", "low"],
        &["market", "margin"],
    ] {
        assert_eq!(there.run(args).ok().stdout, here.run(args).ok().stdout, "{args:?}");
        assert_eq!(there.json(args), here.json(args), "{args:?}");
    }
    // The directory is the running cell's.
    here.refuses(&["market", "clear"], 4, "");
}

#[test]
fn the_market_against_a_running_cell() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = with_accounts(data.path());
    let cli = Cli { data: data.path(), server: Some(&server.url), of: &[] };
    market(&cli, files.path());
    supply(&cli);
    assert!(server.stop());
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");
}

/// Waits until something is so.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..600 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("not after a minute: {what}");
}

/// A change of supply is cleared at once, and bids at the next tick, without anybody asking.
#[test]
fn the_clock_clears_the_market() {
    let data = tempfile::tempdir().unwrap();
    assert!(with_accounts(data.path()).stop());
    let args = ["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--region", "test"];
    let server = Server::start(crate::support::command(data.path(), &args).args([
        "--tick",
        "1s",
        "--market-tick",
        "2s",
    ]));
    let cli = Cli { data: data.path(), server: Some(&server.url), of: &[] };
    let triggers = || -> Vec<String> {
        let clears = cli.json(&["market", "clears"]);
        clears.as_array().unwrap().iter().map(|it| it["trigger"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(triggers(), [""; 0], "there is no market yet");
    let pool = ["pool", "set", "gpu-h100-sxm", "f-1", "--gpus", "4", "--currency", "USD", "--reserve", "0.5"];
    cli.says(&pool, &["has 4 GPUs"]);
    let place =
        ["bid", "place", "acme", "b", "--project", "ml", "--pool", POOL, "--limit", "1", "--units", "2"];
    cli.says(&place, &["bid number"]);
    let wins = || cli.json(&["bid", "show", "acme", "b"])["state"] == "winning";
    until("somebody clears", wins);
    assert!(!triggers().iter().any(|trigger| trigger == "asked"));
    // Nothing changes any more: while the ledger goes on ticking, no clearing is written.
    settle(&cli);
    let (rest, head) = (triggers(), || server.get("/v1/ledger/head").1["position"].as_u64().unwrap());
    let since = head();
    until("the clock goes on", || head() >= since + 5);
    assert_eq!(triggers(), rest);
}
