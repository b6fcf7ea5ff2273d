//! Credit, reservations, tax, the life of an invoice and re-rating from the command line, on a data
//! directory and against a running cell.

use std::path::Path;

use serde_json::json;

use crate::http::{now_ms, open_account, rfc3339, usage_batch};
use crate::support::{Cli, Server, hourglass};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// The start of a day whose month can be closed by now, and whose usage can still be taken.
fn long_ago() -> i64 {
    now_ms() / DAY * DAY - 35 * DAY
}

/// `YYYY-MM` of a time.
fn month(ms: i64) -> String {
    rfc3339(ms).chars().take(7).collect()
}

/// The hour that runs.
fn this_hour() -> i64 {
    now_ms() / HOUR * HOUR
}

/// An account, a card, and eight GPUs that ran for ten hours a month ago.
fn with_usage(data: &Path) -> Server {
    let server = Server::up_with_tick(data, "1h", &[]);
    open_account(&server);
    let from = long_ago();
    let (status, answer) = server.post("/v1/tenants/acme/instances/i-1:start", &json!({"at": rfc3339(from)}));
    assert_eq!(status, 200, "{answer}");
    let usage = usage_batch("agent-1", 0, &[("i-1", from, from + 10 * HOUR, 8)]);
    let (status, answer) = server.try_post("/v1/usage:ingest", "application/x-protobuf", &usage).unwrap();
    assert_eq!(status, 200, "{answer}");
    server
}

/// The card of the accounts at another price, as a file.
fn card_file(directory: &Path, price: &str) -> String {
    let path = directory.join(format!("card-{price}.toml"));
    let card = format!(
        "name = \"other\"\nversion = 1\ncurrency = \"USD\"\neffective_from = \"2026-01-01T00:00:00Z\"\n\
         [[prices]]\nplatform = \"gpu-h100-sxm\"\nregion = \"test\"\nmodel = \"on_demand\"\nprice = \"{price}\"\n"
    );
    std::fs::write(&path, card).unwrap();
    path.to_str().unwrap().to_owned()
}

/// All of it; the same whichever way the ledger is reached.
fn commerce(cli: &Cli<'_>, files: &Path) {
    let period = month(long_ago());

    cli.says(&["tax", "set", "acme", "VAT", "19", "--by-line"], &["VAT 19 %"]);
    cli.refuses(&["tax", "set", "acme", "VAT", "190"], 3, "percent");
    cli.refuses(&["tax", "clear", "nobody"], 3, "nobody is not known");
    let draft = cli.says(&["invoice", "draft", "acme", &period], &["Draft invoice of Acme (acme)", "280.84"]);
    assert!(draft.contains("VAT 19 % on 236.00") && draft.contains("44.84"), "{draft}");
    cli.says(&["invoice", "finalise", "acme", &period], &["Invoice 1 of Acme (acme)", "(open)", "280.84"]);
    cli.refuses(&["invoice", "finalise", "acme", &period], 3, "finalised already, as invoice 1");

    // Taken back, and drawn again under the next number.
    cli.says(&["invoice", "void", "acme", "1", "--reason", "address"], &["invoice 1 of acme is void"]);
    cli.says(&["invoice", "finalise", "acme", &period], &["Invoice 2 of Acme"]);
    let pay = |amount| ["invoice", "pay", "acme", "2", amount, "--idempotency-key", "bank-1"];
    let paid = cli.json(&pay("80.84"));
    assert_eq!(cli.json(&pay("80.84")), paid, "a repeat pays nothing");
    cli.refuses(&pay("80.85"), 3, "idempotency key was used before");
    cli.refuses(&["invoice", "pay", "acme", "2", "200.01"], 3, "does not fit invoice 2 of acme");
    cli.refuses(&["invoice", "void", "acme", "2", "--reason", "no"], 3, "what is paid cannot be voided");
    let list = cli.json(&["invoice", "list", "--tenant", "acme"]);
    let states: Vec<_> =
        list.as_array().unwrap().iter().map(|it| (&it["status"], &it["paid"], &it["open"])).collect();
    let (none, part) = (json!("0"), json!("80.84"));
    assert_eq!(states, [(&json!("void"), &none, &none), (&json!("open"), &part, &json!("200"))], "{list}");
    cli.says(&["invoice", "show", "acme", "2"], &["(partly paid)", "Open", "200.00"]);

    // Every form has the same line.
    let document = cli.json(&["invoice", "show", "acme", "2"]);
    assert_eq!((&document["due"], &document["lines"][0]["amount"]), (&json!("280.84"), &json!("236")));
    cli.says(&["invoice", "show", "acme", "2", "--format", "csv"], &["gpu-h100-sxm", ",236,236.00,44.84"]);
    cli.says(&["invoice", "show", "acme", "2", "--format", "html"], &["<!DOCTYPE html>", ">236.00<"]);
    cli.refuses(&["invoice", "show", "acme", "9"], 3, "acme has no invoice 9");

    // The agent was wrong about the last hour.
    let (from, until) = (rfc3339(long_ago() + 9 * HOUR), rfc3339(long_ago() + 10 * HOUR));
    let void = |tenant| {
        ["instance", "void-usage", tenant, "i-1", "--from", &from, "--until", &until, "--reason", "x"]
    };
    cli.refuses(&void("nobody"), 3, "is not known");
    cli.says(&void("acme"), &["is excluded"]);
    cli.refuses(&void("acme"), 3, "nothing of i-1 is billed");
    cli.says(
        &["invoice", "credit-note", "acme"],
        &["Credit note 3 of Acme", "-23.60", "In your favour", "28.08"],
    );
    cli.refuses(&["invoice", "credit-note", "acme"], 3, "nothing to credit");

    re_rating(cli, files);
    reservations_and_credit(cli);
    cli.says(
        &["invoice", "draft", "acme", &month(now_ms())],
        &["-212.40", "correction of", "Credit welcome", "-10.00"],
    );
    cli.says(&["tax", "clear", "acme"], &["not taxed"]);
}

/// The past at another price: looked at first, then for good.
fn re_rating(cli: &Cli<'_>, files: &Path) {
    let (day, next_day) = (rfc3339(long_ago()), rfc3339(long_ago() + DAY));
    let rerate = |card: &str, more: &[&str]| {
        cli.run(&[&["price", "rerate", "--from", &day, "--to", &next_day, "--card", card], more].concat())
    };
    let (same, cheaper) = (card_file(files, "2.95"), card_file(files, "2"));
    let nothing = rerate(&same, &["--preview"]).ok();
    assert!(nothing.stdout.contains("nothing changes: 9 lines were compared"), "{}", nothing.stdout);
    let preview = rerate(&cheaper, &["--preview", "--lines"]).ok().stdout;
    for text in
        ["212.4", "144", "difference -68.4", "closed, corrected on the next invoice", "18 lines would change"]
    {
        assert!(preview.contains(text), "no {text:?} in {preview}");
    }
    let preview = rerate(&cheaper, &["--preview", "--tenant", "acme", "--json"]).json();
    assert_eq!((&preview["tenants"][0]["difference"], preview.get("lines")), (&json!("-68.4"), None));
    let refused = rerate(&cheaper, &["--commit"]);
    assert!(refused.code == 3 && refused.stderr.contains("into_closed"), "{}", refused.stderr);
    assert_eq!(rerate(&cheaper, &["--commit", "--preview"]).code, 2);
    assert_eq!(rerate(&cheaper, &[]).code, 2);
    let done = rerate(&cheaper, &["--commit", "--into-closed"]).ok();
    assert!(done.stdout.contains("(position "), "{}", done.stdout);
    let again = rerate(&cheaper, &["--preview"]).ok();
    assert!(again.stdout.contains("nothing changes"), "{}", again.stdout);
}

fn reservations_and_credit(cli: &Cli<'_>) {
    let (from, until) = (rfc3339(this_hour()), rfc3339(this_hour() + DAY));
    let reserve = |id, paid: &[&str]| {
        let args: &[&str] = &[
            "reserve",
            "create",
            "acme",
            id,
            "--project",
            "ml",
            "--platform",
            "gpu-h100-sxm",
            "--gpus",
            "8",
        ];
        let times: &[&str] = &["--from", &from, "--until", &until];
        cli.run(&[args, times, paid].concat())
    };
    assert!(reserve("r-1", &["--upfront", "2"]).ok().stdout.contains("acme has reservation r-1"));
    let flex = reserve("r-2", &["--flex", "1", "--usage", "0.5", "--json"]).json();
    assert_eq!(flex["resource"], "/v1/tenants/acme/reservations/r-2");
    assert_eq!(reserve("r-3", &[]).code, 2);
    assert_eq!(reserve("r-3", &["--flex", "1"]).code, 2);
    assert_eq!(reserve("r-3", &["--upfront", "1", "--monthly", "1"]).code, 2);
    let twice = reserve("r-1", &["--monthly", "2"]);
    assert!(twice.code == 3 && twice.stderr.contains("exists already"), "{}", twice.stderr);
    let longer = rfc3339(this_hour() + 2 * DAY);
    cli.says(&["reserve", "amend", "acme", "r-1", "--until", &longer], &["reservation r-1 ends at"]);
    let list = cli.json(&["reserve", "list", "acme"]);
    assert_eq!(
        (&list[0]["upfront"], &list[0]["gpu_hours"], &list[1]["usage_price"]),
        (&json!("768"), &json!("384"), &json!("0.5"))
    );
    cli.says(&["reserve", "list", "acme"], &["r-1", "up front", "flex, 0.5 used"]);

    let at = rfc3339(now_ms() / 60_000 * 60_000);
    let mode = |more: &[&str]| {
        cli.run(&[&["instance", "mode", "acme", "i-1", "reserved", "--at", &at], more].concat())
    };
    assert_eq!(mode(&[]).code, 2);
    mode(&["--reservation", "r-1"]).ok();
    let instances = cli.json(&["instance", "list", "acme"]);
    assert_eq!((&instances[0]["instance"], &instances[0]["model"]), (&json!("i-1"), &json!("reserved")));
    cli.refuses(&["instance", "list", "nobody"], 3, "nobody is not known");

    cli.says(
        &["credit", "grant", "acme", "welcome", "10", "--note", "hello"],
        &["acme has credit welcome of 10"],
    );
    cli.refuses(&["credit", "grant", "acme", "welcome", "10"], 3, "has a credit welcome already");
    cli.refuses(&["credit", "grant", "acme", "more", "ten"], 2, "ten");
    cli.says(&["credit", "list", "acme"], &["welcome", "promotional", "hello"]);
    cli.refuses(&["credit", "list", "nobody"], 3, "nobody is not known");
}

#[test]
fn commerce_on_the_directory() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(with_usage(data.path()).stop());
    commerce(&Cli { data: data.path(), server: None, of: &[] }, files.path());
    let recomputed = hourglass(data.path(), &["invoice", "recompute", "3", "--json"]).json();
    assert_eq!(recomputed[0]["equal"], true, "a credit note is computed again as one: {recomputed}");
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");
    ["day", "transfer"].iter().for_each(|by| crate::replay::check_journal(data.path(), by));

    // A running cell shows the same, to the letter.
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    let there = Cli { data: data.path(), server: Some(&server.url), of: &[] };
    let here = Cli { data: data.path(), server: None, of: &[] };
    for args in [
        ["invoice", "list"].as_slice(),
        &["invoice", "show", "acme", "2"],
        &["invoice", "show", "acme", "3", "--format", "html"],
        &["invoice", "show", "acme", "3", "--format", "csv"],
        &["reserve", "list", "acme"],
        &["credit", "list", "acme"],
        &["instance", "list", "acme"],
        &["price", "list"],
        &["price", "spot", "list"],
    ] {
        assert_eq!(there.run(args).ok().stdout, here.run(args).ok().stdout, "{args:?}");
    }
    // The directory is the running cell's.
    here.refuses(&["credit", "grant", "acme", "c", "1"], 4, "");
}

#[test]
fn commerce_against_a_running_cell() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = with_usage(data.path());
    commerce(&Cli { data: data.path(), server: Some(&server.url), of: &[] }, files.path());
    assert!(server.stop());
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");
}

#[test]
fn prices_are_published_and_signed_from_files() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::up_with_tick(data.path(), "1h", &[]);
    server.post("/v1/tenants", &json!({"tenant": "acme", "currency": "USD"}));
    assert!(server.stop());
    let cli = Cli { data: data.path(), server: None, of: &[] };
    cli.says(&["price", "publish", &card_file(files.path(), "2")], &["other@1 is in force"]);
    cli.refuses(&["price", "publish", &card_file(files.path(), "2")], 3, "other");
    let contract = files.path().join("deal.toml");
    std::fs::write(
        &contract,
        "name = \"deal\"\nversion = 1\neffective_from = \"2026-01-01T00:00:00Z\"\n\
         [[terms.discounts]]\npercent_off = \"10\"\n",
    )
    .unwrap();
    let contract = contract.to_str().unwrap();
    cli.says(&["price", "sign", "acme", contract], &["the contract with acme is in force"]);
    cli.refuses(&["price", "sign", "nobody", contract], 3, "nobody is not known");
    cli.refuses(&["price", "sign", "acme", "/nonexistent/deal.toml"], 2, "deal.toml");
    cli.refuses(&["price", "sign", "acme", &card_file(files.path(), "3")], 2, "unknown field");

    let spot = files.path().join("spot.json");
    let prices = json!([{"platform": "gpu-h100-sxm", "region": "test", "model": "spot", "price": "1.5"}]);
    let card = json!({"name": "spot", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z",
        "prices": prices});
    std::fs::write(&spot, card.to_string()).unwrap();
    let set = ["price", "spot", "set", "gpu-h100-sxm", "1.2", "--currency", "USD"];
    cli.refuses(&set, 3, "");
    cli.says(&["price", "publish", spot.to_str().unwrap()], &["spot@1 is in force"]);
    cli.says(&set, &["costs 1.2 USD"]);
    cli.refuses(&[&set[..], &["--from", "2026-01-01"]].concat(), 3, "");
    assert_eq!(cli.json(&["price", "spot", "list"])[0]["price"], "1.2");
}
