//! What a charge and an invoice line are made of, on a trace whose reports came late, twice and split.

use std::path::Path;

use hourglass_units::{Amount, Coverage, Instant, Interval, Quantity};
use serde_json::Value;

use crate::support::{hourglass, root};

fn replayed(data: &Path) {
    let file = |name: &str| root().join("tests/data").join(name).to_str().unwrap().to_owned();
    let (tasks, nodes) = (file("tasks.csv"), file("nodes.csv"));
    let prices = "docs/examples/openb-prices.toml";
    let args = ["replay", "openb", "--pods", &tasks, "--nodes", &nodes, "--prices", prices];
    // The price of G2 changes within an hour in which tasks run.
    let more = ["--every", "30m", "--chaos", "11", "--start", "2026-02-24T20:00:00Z"];
    hourglass(data, &[&args[..], &more[..]].concat()).ok();
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn amount(value: &Value) -> Amount {
    Amount::parse(text(value)).unwrap()
}

fn sum(values: &Value, field: &str) -> Amount {
    let amounts = list(values).iter().map(|it| amount(&it[field]));
    amounts.fold(Amount::ZERO, |sum, more| sum.checked_add(more).unwrap())
}

fn coverage<'a>(spans: impl IntoIterator<Item = &'a Value>) -> Coverage {
    let at = |span: &Value, end: &str| text(&span[end]).parse::<Instant>().unwrap();
    spans.into_iter().map(|span| Interval::new(at(span, "start"), at(span, "end")).unwrap()).collect()
}

/// The numbers of an explained hour add up. `usage` is the report's row of it.
fn check_charge(data: &Path, usage: &Value) -> usize {
    let (instance, hour) = (text(&usage["group"]["instance"]), text(&usage["group"]["hour"]));
    let it = hourglass(data, &["explain", "charge", instance, hour, "--json"]).json();
    let gpus = it["gpus"].as_i64().unwrap();
    let mut milliseconds = 0;
    for line in list(&it["lines"]) {
        let parts = coverage(list(&line["parts"]).iter().map(|part| &part["interval"])).milliseconds();
        assert_eq!(line["milliseconds"], parts, "{it}");
        // The formula, here once more: half to even.
        let (nanos, rest) = (parts * gpus * 2_500 / 9, parts * gpus * 2_500 % 9);
        let quantity = Quantity::from_nanos(nanos + i64::from(rest > 4));
        assert_eq!(text(&line["quantity"]), quantity.to_string(), "{it}");
        let price = hourglass_units::Price::parse(text(&line["price"])).unwrap();
        assert_eq!(amount(&line["amount"]), price.times(quantity), "{it}");
        let rows = list(&it["rows"]).iter().filter(|row| row["price"] == line["price"]);
        assert_eq!(line["milliseconds"], rows.map(|row| row["milliseconds"].as_i64().unwrap()).sum::<i64>());
        milliseconds += parts;
    }
    assert_eq!(usage["gpu_ms"], milliseconds * gpus, "{it}");
    assert_eq!(sum(&it["lines"], "amount"), amount(&usage["amount"]), "{it}");
    assert_eq!(sum(&it["rows"], "amount"), amount(&usage["amount"]), "{it}");
    assert_eq!(it["evidence_is_complete"], true, "{it}");
    let first = list(&it["evidence"]).iter().flat_map(|report| list(&report["first"]));
    assert_eq!(coverage(first), coverage(list(&it["reported"])), "{it}");
    assert!(!list(&it["transfers"]).is_empty(), "{it}");
    list(&it["lines"]).len()
}

#[test]
fn charges_and_invoice_lines_are_explained_to_the_last_digit() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    replayed(data);
    let usage = hourglass(data, &["usage", "--group-by", "instance,hour", "--json"]).json();
    let rows = list(&usage["rows"]);
    let in_two_prices = |row: &Value| text(&row["group"]["hour"]) == "2026-03-15T12:00:00Z";
    let lines: Vec<usize> =
        rows.iter().filter(|row| in_two_prices(row)).map(|row| check_charge(data, row)).collect();
    assert!(lines.contains(&2), "a price changes within the hour: {lines:?}");
    for row in rows.iter().step_by(rows.len() / 40) {
        check_charge(data, row);
    }

    let invoices = hourglass(data, &["invoice", "list", "--json"]).json();
    for invoice in list(&invoices).iter().step_by(3) {
        let (tenant, number) = (text(&invoice["tenant"]), invoice["number"].to_string());
        let invoice = hourglass(data, &["invoice", "show", tenant, &number, "--json"]).json();
        for (index, line) in list(&invoice["lines"]).iter().enumerate() {
            let which = (index + 1).to_string();
            let it = hourglass(data, &["explain", "invoice", tenant, &number, &which, "--json"]).json();
            assert_eq!(it["text"], *line);
            assert_eq!(
                (&it["usage_quantity"], &it["usage_is_complete"]),
                (&line["quantity"], &true.into()),
                "{it}"
            );
            assert_eq!(sum(&it["usage"], "amount"), amount(&line["exact_amount"]), "{it}");
            assert_eq!(amount(&it["transfers"][0]["amount"]), amount(&invoice["exact_total"]), "{it}");
        }
    }
}

#[test]
fn explanations_and_estimates_can_be_read_and_mistakes_are_told() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    replayed(data);
    let usage = hourglass(data, &["usage", "--group-by", "tenant,instance,hour", "--json"]).json();
    let group = &list(&usage["rows"])[0]["group"];
    let (tenant, instance, hour) = (text(&group["tenant"]), text(&group["instance"]), text(&group["hour"]));
    let says = |args: &[&str], wanted: &[&str]| {
        let said = hourglass(data, args).ok().stdout;
        wanted.iter().for_each(|it| assert!(said.contains(it), "{args:?} should say {it:?}: {said}"));
    };
    says(
        &["explain", "charge", instance, hour],
        &["Coverage", "openb-list@1", "GPUs / 3,600,000 =", "Evidence", "node-", "Rows", "income:revenue:"],
    );
    says(
        &["explain", "invoice", tenant, "1", "1"],
        &["GPU-hours × ", "largest remainder", instance, "invoice"],
    );
    let plan = ["estimate", "--platform", "T4", "--gpus", "2", "--from", "2026-02-10"];
    let with = |more: &[&'static str]| [&plan[..], more].concat();
    says(
        &with(&["--model", "on_demand", "--hours", "3", "--currency", "USD"]),
        &["6 GPU-hours", "0.45", "2.7"],
    );
    let by_contract = with(&["--model", "on_demand", "--hours", "3", "--tenant", "tenant-07", "--json"]);
    assert_eq!(hourglass(data, &by_contract).json()["total"], "1.999999998");
    let reserved = ["--model", "reserved", "--until", "2026-02-11", "--tenant", "tenant-07"];
    let flex = [&with(&reserved)[..], &["--holding", "0.1", "--usage", "0.2", "--json"]].concat();
    let flex = hourglass(data, &flex).json();
    assert_eq!(
        (&flex["quantity"], &flex["fees"], &flex["total"]),
        (&"48".into(), &"4.8".into(), &"14.4".into())
    );

    let check = |args: &[&str], code: i32, says: &str| {
        let answer = hourglass(data, args);
        assert_eq!(answer.code, code, "{args:?}: {}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains(says), "{args:?} should say {says:?}: {}", answer.stderr);
    };
    check(&["explain", "charge", "nobody", hour], 3, "instance nobody is not known");
    check(&["explain", "charge", instance, "2026-02-01T00:30:00Z"], 2, "not a whole UTC hour");
    check(&["explain", "invoice", tenant, "99", "1"], 3, "has no invoice 99");
    check(&["explain", "invoice", tenant, "1", "0"], 3, "has no line 0");
    check(&["explain", "invoice", "nobody", "1", "1"], 3, "nobody has no invoice 1");
    check(&with(&["--model", "on_demand", "--hours", "3"]), 2, "--currency");
    check(&with(&["--model", "on_demand", "--currency", "USD"]), 2, "--until");
    check(&with(&["--model", "reserved", "--hours", "3", "--currency", "USD"]), 2, "--holding with --usage");
    check(&with(&["--model", "spot", "--hours", "3", "--currency", "USD", "--holding", "1"]), 2, "--usage");
    check(&with(&["--model", "spot", "--hours", "30000", "--currency", "USD"]), 3, "at most 26352 hours");
    check(&with(&["--model", "spot", "--hours", "3", "--currency", "EUR"]), 3, "no price");
    check(&with(&["--model", "on_demand", "--hours", "3", "--tenant", "nobody"]), 3, "nobody");
}
