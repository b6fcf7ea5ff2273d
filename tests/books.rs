//! The accountant's books: journals that hledger and beancount take, statements, and what closing a month does.
//! All on one ledger with everything in it, played from `tests/scenarios/books.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{hourglass, root};

/// A ledger with everything in it. Nobody writes to it.
fn books() -> &'static Path {
    static BOOKS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = BOOKS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        played(folder.path());
        folder
    });
    folder.path()
}

/// Plays the scenario into an empty folder.
fn played(folder: &Path) {
    let (file, keep) = (root().join("tests/scenarios/books.txt"), folder.to_str().unwrap());
    hourglass(folder, &["scenario", "run", file.to_str().unwrap(), "--keep", keep]).ok();
}

/// Writes a journal and answers with its file.
fn journal(folder: &Path, format: &str, more: &[&str]) -> PathBuf {
    let name = format!("{format}{}", more.concat().replace(['/', '-', ':'], ""));
    let file = folder.join(name);
    let args = ["export", "journal", "--format", format, "--out", file.to_str().unwrap()];
    hourglass(books(), &[&args, more].concat()).ok();
    file
}

/// What a program of another project prints; it must find nothing wrong.
#[track_caller]
fn accepted(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).env("LC_ALL", "C.UTF-8").args(args).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program}, which `cargo xtask test` installs: {error}"));
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{program} {args:?}: {stdout}{stderr}");
    stdout
}

/// An exact decimal in units of 10^-18.
fn exact(text: &str) -> i128 {
    let (whole, fraction) =
        text.trim_start_matches('-').split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
    let magnitude: i128 =
        format!("{whole}{fraction:0<18}").parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    if text.starts_with('-') { -magnitude } else { magnitude }
}

/// Balances by account and currency that are not zero.
type Balances = BTreeMap<(String, String), i128>;

/// What the book holds.
fn ours() -> Balances {
    let report = hourglass(books(), &["balance", "--json"]).json();
    let rows = report["rows"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rows.map(|row| ((text(&row["account"]), text(&row["currency"])), exact(row["balance"].as_str().unwrap())))
        .filter(|(_, balance)| *balance != 0)
        .collect()
}

#[test]
fn hledger_takes_the_journal_strictly_and_finds_our_balances() {
    let folder = tempfile::tempdir().unwrap();
    for by in ["day", "transfer"] {
        let file = journal(folder.path(), "hledger", &["--by", by]);
        let file = file.to_str().unwrap();
        accepted("hledger", &["-f", file, "check", "--strict", "ordereddates"]);
        let table = accepted(
            "hledger",
            &["-f", file, "bal", "-N", "--flat", "--layout", "bare", "--output-format", "csv"],
        );
        let rows =
            table.lines().skip(1).map(|line| line.trim_matches('"').split("\",\"").collect::<Vec<_>>());
        let theirs: Balances = rows
            .map(|row| ((row[0].to_owned(), row[1].to_owned()), exact(row[2])))
            .filter(|(_, balance)| *balance != 0)
            .collect();
        assert_eq!(theirs, ours(), "{table}");
    }
}

/// Adds up what beancount has read, by the account's name there. The interpreter is the one that beancount's own
/// programs name in their first line.
const ADD_UP: &str = "
import sys, decimal
from beancount import loader
from beancount.core import data
decimal.getcontext().prec = 60
entries, errors, _ = loader.load_file(sys.argv[1])
assert not errors, errors
sums = {}
for entry in entries:
    if isinstance(entry, data.Transaction):
        for posting in entry.postings:
            key = (posting.account, posting.units.currency)
            sums[key] = sums.get(key, decimal.Decimal(0)) + posting.units.number
for (account, currency), total in sorted(sums.items()):
    print(account, currency, format(total, 'f'))
";

#[test]
fn beancount_takes_the_journal_and_finds_our_balances() {
    let folder = tempfile::tempdir().unwrap();
    let program = accepted("sh", &["-c", "command -v bean-check"]);
    let script = std::fs::read_to_string(program.trim()).unwrap();
    let interpreter = script.lines().next().unwrap().trim_start_matches("#!").to_owned();
    for by in ["day", "transfer"] {
        let file = journal(folder.path(), "beancount", &["--by", by]);
        let file = file.to_str().unwrap();
        accepted("bean-check", &[file]);
        let theirs = accepted(&interpreter, &["-c", ADD_UP, file]);
        let mut theirs: Vec<(String, i128)> = theirs
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|row| (row[1].to_owned(), exact(row[2])))
            .filter(|(_, sum)| *sum != 0)
            .collect();
        let mut ours: Vec<(String, i128)> =
            ours().into_iter().map(|((_, currency), balance)| (currency, balance)).collect();
        theirs.sort();
        ours.sort();
        // The names differ, so the balances alone are compared here; a property test holds the names.
        assert_eq!(theirs, ours);
    }
}

#[test]
fn months_follow_one_another_and_make_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = journal(folder.path(), "beancount", &["--by", "transfer"]);
    let january = journal(folder.path(), "beancount", &["--by", "transfer", "--until", "2026-02-01"]);
    let february =
        journal(folder.path(), "beancount", &["--by", "transfer", "--period", "2026-02", "--continues"]);
    let march =
        journal(folder.path(), "beancount", &["--by", "transfer", "--from", "2026-03-01", "--continues"]);
    let all = folder.path().join("all.beancount");
    let includes = [&january, &february, &march]
        .map(|file| format!("include \"{}\"\n", file.file_name().unwrap().to_str().unwrap()));
    std::fs::write(&all, includes.concat()).unwrap();
    accepted("bean-check", &[all.to_str().unwrap()]);
    let entries = |file: &Path| std::fs::read_to_string(file).unwrap().matches("\n  id: ").count();
    assert_eq!(entries(&january) + entries(&february) + entries(&march), entries(&whole));
    // Alone each is whole too.
    for format in ["hledger", "beancount"] {
        let file = journal(folder.path(), format, &["--period", "2026-02"]);
        let file = file.to_str().unwrap();
        match format {
            "hledger" => accepted("hledger", &["-f", file, "check", "--strict"]),
            _ => accepted("bean-check", &[file]),
        };
    }
    let nothing = journal(folder.path(), "csv", &["--period", "2025-12"]);
    assert_eq!(std::fs::read_to_string(nothing).unwrap().lines().count(), 1, "the header alone");
    let bad = hourglass(books(), &["export", "journal", "--from", "2026-02-01", "--until", "2026-02-01"]);
    assert_eq!((bad.code, bad.stderr.contains("must be after")), (2, true), "{}", bad.stderr);
}

#[test]
fn the_table_is_balanced_by_id_and_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    for by in ["day", "transfer"] {
        let file = journal(folder.path(), "csv", &["--by", by]);
        let text = std::fs::read_to_string(&file).unwrap();
        let mut ids: BTreeMap<(&str, &str), (i128, i128)> = BTreeMap::new();
        let mut balances = Balances::new();
        for line in text.lines().skip(1) {
            let row: Vec<&str> = line.split(',').collect();
            let amount = |text: &str| if text.is_empty() { 0 } else { exact(text) };
            let (debit, credit) = (amount(row[6]), amount(row[7]));
            assert!((debit > 0) != (credit > 0), "{line}");
            // One id has one currency, and is balanced in it.
            let sum = ids.entry((row[0], row[8])).or_default();
            *sum = (sum.0 + debit, sum.1 + credit);
            *balances.entry((row[5].to_owned(), row[8].to_owned())).or_default() += debit - credit;
        }
        assert!(ids.values().all(|(debit, credit)| debit == credit), "{ids:?}");
        let currencies: BTreeMap<&str, &str> = ids.keys().copied().collect();
        assert_eq!(currencies.len(), ids.len(), "an id has two currencies");
        balances.retain(|_, balance| *balance != 0);
        assert_eq!(balances, ours());
        journal(folder.path(), "csv", &["--by", by]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

fn report(args: &[&str]) -> serde_json::Value {
    hourglass(books(), &[&["report"], args, &["--json"]].concat()).json()
}

/// Balances as hledger finds them in the journal before a day.
fn theirs_before(day: &str) -> Balances {
    let folder = tempfile::tempdir().unwrap();
    let file = journal(folder.path(), "hledger", &[]);
    let args = ["-f", file.to_str().unwrap(), "bal", "-e", day, "-N", "--flat", "--layout", "bare"];
    let table = accepted("hledger", &[&args[..], &["--output-format", "csv"]].concat());
    let rows = table.lines().skip(1).map(|line| line.trim_matches('"').split("\",\"").collect::<Vec<_>>());
    rows.map(|row| ((row[0].to_owned(), row[1].to_owned()), exact(row[2])))
        .filter(|(_, balance)| *balance != 0)
        .collect()
}

#[test]
fn the_trial_balance_of_any_day_is_what_hledger_finds() {
    for day in
        ["2026-01-01", "2026-01-02", "2026-01-06", "2026-02-01", "2026-02-05", "2026-03-01", "2026-04-01"]
    {
        let trial = report(&["trial-balance", "--at", day]);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let rows = trial["rows"].as_array().unwrap().iter();
        let found: Balances = rows
            .map(|row| {
                let balance = exact(row["debit"].as_str().unwrap()) - exact(row["credit"].as_str().unwrap());
                ((text(&row["account"]), text(&row["currency"])), balance)
            })
            .collect();
        assert_eq!(found, theirs_before(day), "{day}");
        for total in trial["totals"].as_array().unwrap() {
            assert_eq!(total["debit"], total["credit"], "{day}");
        }
    }
}

#[test]
fn every_statement_adds_up_to_the_book() {
    for at in [
        &[][..],
        &["--at", "2026-01-20T12:34:56Z"],
        &["--at", "2026-02-01"],
        &["--at", "2026-02-04T01:00:00Z"],
    ] {
        let deferred = report(&[&["deferred-revenue"], at].concat());
        assert_eq!(deferred["totals"].as_array().unwrap().len(), 2, "{at:?}");
        for total in deferred["totals"].as_array().unwrap() {
            assert_eq!(total["difference"], "0", "{at:?}: {total}");
        }
        for row in deferred["rows"].as_array().unwrap() {
            let sum = |name: &str| exact(row[name].as_str().unwrap());
            assert_eq!(
                sum("opening") + sum("added") - sum("booked") - sum("scheduled"),
                sum("closing"),
                "{row}"
            );
        }
        // In the end all of it is earned.
        for reservation in ["r-2", "r-3"] {
            let last =
                deferred["rows"].as_array().unwrap().iter().rfind(|row| row["reservation"] == reservation);
            assert_eq!(last.unwrap()["closing"], "0", "{at:?}");
        }
        let ageing = report(&[&["receivables-ageing"], at].concat());
        for row in ageing["rows"].as_array().unwrap() {
            assert_eq!(row["difference"], "0", "{at:?}: {row}");
        }
    }
    // What was left when January ended is what the book held then.
    let held = theirs_before("2026-02-01");
    let deferred = report(&["deferred-revenue"]);
    for row in deferred["rows"].as_array().unwrap().iter().filter(|row| row["month"] == "2026-01") {
        let account = format!("liabilities:deferred:{}", row["tenant"].as_str().unwrap());
        assert_eq!(exact(row["closing"].as_str().unwrap()), -held[&(account, "USD".to_owned())], "{row}");
    }
    // Revenue of all months is the income of the book.
    let mut income = BTreeMap::new();
    for row in report(&["revenue", "--by", "month,tenant"])["rows"].as_array().unwrap() {
        *income.entry(row["currency"].as_str().unwrap().to_owned()).or_insert(0) -=
            exact(row["amount"].as_str().unwrap());
    }
    let mut book = BTreeMap::new();
    for ((_, currency), balance) in
        ours().into_iter().filter(|((account, _), _)| account.starts_with("income:"))
    {
        *book.entry(currency).or_insert(0) += balance;
    }
    assert_eq!(income, book);
    let reconciled = report(&["reconcile"]);
    assert_eq!(reconciled["agrees"], true);
    assert!(reconciled["rows"].as_array().unwrap().len() >= 14, "{reconciled}");
}

#[test]
fn a_month_is_closed_once_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("books");
    played(&data);
    let of = |args: &[&str]| hourglass(&data, args);
    let months = of(&["period", "list", "--json"]).json();
    let status = |months: &serde_json::Value| -> Vec<String> {
        let rows = months.as_array().unwrap().iter().take(3);
        rows.map(|row| row["status"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(status(&months), ["hard", "soft", "open"]);
    let early = of(&["period", "close", "2026-03"]);
    assert_eq!((early.code, early.stderr.contains("the next one is 2026-02")), (3, true), "{}", early.stderr);
    of(&["period", "close", "2026-02"]).ok();
    let again = of(&["period", "close", "2026-02"]);
    assert_eq!((again.code, again.stderr.contains("closed already")), (3, true), "{}", again.stderr);
    let now = of(&["period", "list", "--json"]).json();
    // The month that was closed before has not changed.
    assert_eq!(now[0], months[0]);
    assert_eq!(status(&now), ["hard", "hard", "soft"]);
    let verified = of(&["verify", "--json"]).json();
    assert_eq!(verified["finding_count"], 0, "{verified}");
    let csv = of(&["export", "journal", "--format", "csv"]).ok().stdout;
    for line in csv.lines().skip(1) {
        let (period, status) = (line.split(',').nth(3).unwrap(), line.split(',').nth(4).unwrap());
        assert_eq!(status == "final", period <= "2026-02", "{line}");
    }
    of(&["report", "reconcile"]).ok();
}
