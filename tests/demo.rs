//! The demonstration: a month, then a market that is cleared, driven, metered and billed by the real clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::Path;

use hourglass_units::{Amount, Price};
use serde_json::Value;

use crate::support::hourglass;

fn texts<'a>(values: &'a Value, of: &str) -> Vec<&'a str> {
    let all = values.as_array().unwrap().iter();
    all.map(|value| value[of].as_str().unwrap()).collect()
}

/// What clearings said: limits of each bid by its number, and prices of pools.
fn receipts(data: &Path) -> (BTreeMap<String, BTreeSet<Price>>, BTreeSet<Price>) {
    let (mut limits, mut prices) = (BTreeMap::<_, BTreeSet<_>>::new(), BTreeSet::new());
    let clears = hourglass(data, &["market", "clears", "--json"]).json();
    for clear in clears.as_array().unwrap() {
        let clear = clear["clear"].to_string();
        let receipt = hourglass(data, &["market", "receipt", &clear, "--json"]).json();
        for bid in receipt["receipt"]["book"]["bids"].as_array().unwrap() {
            let limit = Price::parse(bid["limit"].as_str().unwrap()).unwrap();
            limits.entry(bid["number"].to_string()).or_default().insert(limit);
        }
        let cleared = texts(&receipt["receipt"]["clearing"]["pools"], "price");
        prices.extend(cleared.into_iter().map(|price| Price::parse(price).unwrap()));
    }
    (limits, prices)
}

#[test]
fn a_live_market_runs_preempts_and_bills_within_limits() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let args = ["--json", "demo", "--seed", "5", "--live", "20s", "--http", "127.0.0.1:0"];
    let ended = hourglass(data, &args);
    let url = ended.stderr.split_once("a simulated cloud at http://").unwrap().1.lines().next().unwrap();
    TcpStream::connect(url).expect_err("the simulated cloud is gone with the demonstration");

    let report = ended.json();
    assert_eq!((&report["invoices"], &report["billed_gpu_ms"]), (&5.into(), &report["workload_gpu_ms"]));
    let live = &report["live"];
    let count = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("{live:#}"));
    assert!(count(&live["clearings"]) >= 2, "{live:#}");
    assert!(count(&live["units"]) >= 3, "{live:#}");
    assert!(count(&live["preemptions"]["outbid"]) >= 1, "{live:#}");
    assert!(count(&live["ended"]["outbid"]) + count(&live["ended"]["owner_stopped"]) >= 3, "{live:#}");
    assert_eq!(live["left"], 0, "{live:#}");

    // Each unit was charged at prices of clearings, and never above a limit that its bid had.
    let (limits, prices) = receipts(data);
    let usage = hourglass(data, &["usage", "--group-by", "tenant,instance,price", "--json"]).json();
    let mut charged: BTreeMap<String, Amount> = BTreeMap::new();
    for row in usage["rows"].as_array().unwrap() {
        let of = |key: &str| row["group"][key].as_str().unwrap();
        let Some(unit) = of("instance").strip_prefix("spot-") else { continue };
        let price = Price::parse(of("price")).unwrap();
        let limits = &limits[unit.split_once('-').unwrap().0];
        assert!(price <= *limits.last().unwrap(), "{row} is above {limits:?}");
        assert!(prices.contains(&price) || limits.contains(&price), "{row} is no price of {prices:?}");
        let amount = Amount::parse(row["amount"].as_str().unwrap()).unwrap();
        assert!(amount > Amount::ZERO, "{row}");
        let sum = charged.entry(of("tenant").to_owned()).or_insert(Amount::ZERO);
        *sum = sum.checked_add(amount).unwrap();
    }
    assert!(charged.len() >= 2, "{charged:?}");
    let told = texts(&live["spot"], "tenant").into_iter().zip(texts(&live["spot"], "amount"));
    let told = told.map(|(tenant, amount)| (tenant.to_owned(), Amount::parse(amount).unwrap()));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), charged);
    assert!(hourglass(data, &["verify"]).ok().stdout.contains("sound:"));
}
