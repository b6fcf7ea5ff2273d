//! Bounds worked out by hand. The instances are on `h100`: 2.95 on demand, 1.25 spot.

use hourglass_units::HOUR_MILLISECONDS;
use serde_json::json;

use super::*;
use crate::core::tests::{Bench, at};
use crate::core::{Command, Mode, Registration};

const JANUARY: &str = "2026-01";
const FEBRUARY: &str = "2026-02";

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn price(text: &str) -> Price {
    Price::parse(text).unwrap()
}

fn within(window: &str) -> SpendWindow {
    if window == "total" { SpendWindow::Total } else { SpendWindow::Period(window.parse().unwrap()) }
}

/// Nobody runs but who is said to.
fn nobody(_: InstanceIx) -> Option<Instant> {
    None
}

/// A tenant with a contract in January and February.
fn under(terms: serde_json::Value) -> Bench {
    let mut bench = Bench::new();
    let contract = json!({
        "name": "deal",
        "version": 1,
        "effective_from": "2026-01-01T00:00:00Z",
        "effective_until": "2026-03-01T00:00:00Z",
        "terms": terms,
    });
    let contract = serde_json::from_value(contract).unwrap();
    bench.run(Command::SignContract { tenant: tenant(), contract }).unwrap();
    bench
}

/// An instance of a project that runs from an instant on.
fn run(bench: &mut Bench, instance: &str, project: &str, gpus: u32, mode: Mode, since: &str) {
    let registration = Registration {
        instance: instance.parse().unwrap(),
        tenant: tenant(),
        project: project.parse().unwrap(),
        platform: "h100".parse().unwrap(),
        mode,
        gpus,
        agent: None,
        hold: None,
        fabric: None,
    };
    bench.run(Command::RegisterInstance(registration)).unwrap();
    bench.now = bench.now.max(at(since));
    bench.start(instance, at(since)).unwrap();
}

/// What is spent, what falls due and what is exposed, of the tenant or of one of its projects.
fn check(bench: &Bench, project: &str, window: &str, until: &str, expected: [&str; 3]) {
    let (state, tenant) = (&bench.state, tenant());
    let project: Option<ProjectId> = (!project.is_empty()).then(|| project.parse().unwrap());
    let project = project.as_ref();
    let exposure = exposed(state, &tenant, project, within(window), |_| at(until), nobody).unwrap();
    let got = [
        spent(state, &tenant, project, within(window)).unwrap(),
        falling_due(state, &tenant, project, within(window), at(until)).unwrap(),
        exposure.amount,
    ];
    assert_eq!(got.map(|it| it.to_string()), expected, "{project:?} in {window} until {until}");
    assert!(exposure.bounded);
}

#[test]
fn running_time_that_is_not_billed_is_exposed() {
    let mut bench = Bench::new();
    run(&mut bench, "i-1", "ml", 8, Mode::OnDemand, "2026-01-01T00:00:00Z");
    bench.now = at("2026-01-01T01:00:00Z");
    // 8 GPUs x 2 h x 2.95.
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["0", "0", "47.2"]);
    bench.report("i-1", 8, at("2026-01-01T00:00:00Z"), at("2026-01-01T00:45:00Z"));
    // 0.75 h of them are spent.
    for (project, window) in [("", JANUARY), ("", "total"), ("ml", JANUARY), ("ml", "total")] {
        check(&bench, project, window, "2026-01-01T02:00:00Z", ["17.7", "0", "29.5"]);
    }
    check(&bench, "", FEBRUARY, "2026-01-01T02:00:00Z", ["0", "0", "0"]);
    check(&bench, "web", JANUARY, "2026-01-01T02:00:00Z", ["0", "0", "0"]);
    // A horizon in the past leaves the time before it: 0.666666667 GPU-hours.
    check(&bench, "", JANUARY, "2026-01-01T00:50:00Z", ["17.7", "0", "1.96666666765"]);
    // What stopped is exposed by what it ran.
    bench.stop("i-1", at("2026-01-01T01:00:00Z")).unwrap();
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["17.7", "0", "5.9"]);
    bench.report("i-1", 8, at("2026-01-01T00:45:00Z"), at("2026-01-01T01:00:00Z"));
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["23.6", "0", "0"]);
    // What is voided is billed no more, whoever reports it.
    let (instance, reason) = ("i-1".parse().unwrap(), String::new());
    let (from, until) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:30:00Z"));
    bench.run(Command::VoidUsage { instance, from, until, reason }).unwrap();
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["11.8", "0", "0"]);
    // Another tenant has nothing to do with it.
    let other = "bolt".parse().unwrap();
    assert_eq!(spent(&bench.state, &other, None, SpendWindow::Total).unwrap(), Amount::ZERO);
}

#[test]
fn lines_are_rounded_hour_by_hour() {
    let check = |from: &str, until: &str, gpus, foresight, expected: i128| {
        let interval = Interval::new(at(from), at(until)).unwrap();
        assert_eq!(nanos_at_most(interval, gpus, foresight), Some(expected), "{interval} of {gpus}");
    };
    let midnight = "2026-01-01T00:00:00Z";
    check(midnight, "2026-01-01T00:00:00.001Z", 1, Foresight::Known, 278);
    check(midnight, "2026-01-01T00:00:00.009Z", 1, Foresight::Known, 2_500);
    check(midnight, "2026-01-01T05:00:00Z", 3, Foresight::Known, 15_000_000_000);
    check("2025-12-31T23:59:59.999Z", "2026-01-01T00:00:00.001Z", 1, Foresight::Known, 2 * 278);
    check(
        "2025-12-31T23:59:59.999Z",
        "2026-01-01T02:00:00.001Z",
        1,
        Foresight::Market,
        2_000_000_000 + 2 * 278,
    );
    check(midnight, "2026-01-01T00:00:00.009Z", 1, Foresight::Limit, 9 * 278);
    check(midnight, "2026-01-01T01:00:00Z", 8, Foresight::Limit, 3_600_000 * 2_223);
}

#[test]
fn a_price_that_changes_ahead_is_known() {
    let mut bench = Bench::new();
    run(&mut bench, "i-1", "ml", 1, Mode::OnDemand, "2026-01-01T00:00:00Z");
    let item = |model: &str, price: &str| json!({"platform": "h100", "region": "eu", "model": model, "price": price});
    let card = json!({
        "name": "list",
        "version": 2,
        "currency": "USD",
        "effective_from": "2026-01-01T01:30:00Z",
        "prices": [item("on_demand", "4"), item("spot", "1.25")],
    });
    bench.run(Command::PublishRateCard(serde_json::from_value(card).unwrap())).unwrap();
    bench.now = at("2026-01-01T01:00:00Z");
    bench.report("i-1", 1, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
    // 0.5 x 2.95 + 0.5 x 4.
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["2.95", "0", "3.475"]);
}

#[test]
fn dearer_tiers_count_for_whom_they_reach() {
    let tiers = json!([{"above": "0", "percent_off": "0"}, {"above": "10", "price": "4"}]);
    let mut bench = under(json!({"tiers": [{"tiers": tiers}]}));
    run(&mut bench, "i-1", "ml", 8, Mode::OnDemand, "2026-01-01T00:00:00Z");
    bench.now = at("2026-01-01T01:00:00Z");
    bench.report("i-1", 8, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
    // 8 in the first tier; the next 8 could be in the second, all of them.
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["23.6", "0", "32"]);
    check(&bench, "ml", JANUARY, "2026-01-01T02:00:00Z", ["23.6", "0", "32"]);
    // For another project they cost nothing, but each can push one of its hours up by 1.05.
    check(&bench, "web", JANUARY, "2026-01-01T02:00:00Z", ["0", "0", "8.4"]);
    // Two of them are in the first tier, in truth.
    bench.now = at("2026-01-01T02:00:00Z");
    bench.report("i-1", 8, at("2026-01-01T01:00:00Z"), at("2026-01-01T02:00:00Z"));
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["53.5", "0", "0"]);
}

#[test]
fn overage_counts_from_the_first_hour() {
    let mut bench = under(json!({"commitment": {"amount": "100", "overage_percent": "120"}}));
    run(&mut bench, "i-1", "ml", 1, Mode::OnDemand, "2026-01-01T00:00:00Z");
    // 2.95 x 1.2, a nano for each GPU-hour of the agreement, and twice 3.54 for a nano-GPU-hour.
    check(&bench, "", JANUARY, "2026-01-01T01:00:00Z", ["0", "0", "3.54000000808"]);
    bench.now = at("2026-01-01T01:00:00Z");
    bench.report("i-1", 1, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["2.95", "0", "3.54000000908"]);
    check(&bench, "", JANUARY, "2026-01-01T01:00:00Z", ["2.95", "0", "0"]);
    // What comes late for January leaves February less of the commitment: 20 percent of 2.95.
    check(&bench, "", FEBRUARY, "2026-01-01T02:00:00Z", ["0", "0", "0.59000000908"]);
    // When its term is over, what it lacks is due, of the tenant and of no project. Exposed are 743 h of
    // January at the fifth and 672 h of February at 3.54, and for rounding 1,416 nanos and four times
    // 3.54 nanos.
    let end = "2026-03-01T00:00:00Z";
    check(&bench, "", FEBRUARY, end, ["0", "97.05", "2817.25000143016"]);
    check(&bench, "ml", FEBRUARY, end, ["0", "0", "2817.25000143016"]);
}

#[test]
fn spot_is_bounded_by_its_limit_alone() {
    let limit = |limit: Option<&str>| Mode::Spot { bid: None, limit: limit.map(price), fabric: None };
    let mut bench = Bench::new();
    run(&mut bench, "i-1", "ml", 1, limit(Some("1.5")), "2026-01-01T00:00:00Z");
    let (platform, currency) = ("h100".parse().unwrap(), hourglass_units::Currency::USD);
    bench
        .run(Command::SetSpotPrice { platform, currency, price: price("1"), fabric: None, from: None })
        .unwrap();
    bench.now = at("2026-01-01T01:00:00Z");
    bench.run(Command::Tick).unwrap();
    // The past is known: 1. From now on it may be 1.5, and another price in each of the milliseconds,
    // of which each is 278 nano-GPU-hours then: 1.0008 x 1.5.
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["0", "0", "2.5012"]);
    // What is reported ahead of the clock is billed at 1, and may yet cost 1.5: 60,000 x 278 nanos.
    bench.report("i-1", 1, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:01:00Z"));
    check(&bench, "", JANUARY, "2026-01-01T01:00:00Z", ["1.016666667", "0", "0.02502"]);
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["1.016666667", "0", "1.5012"]);
    let (platform, currency) = ("h100".parse().unwrap(), hourglass_units::Currency::USD);
    bench
        .run(Command::SetSpotPrice { platform, currency, price: price("3"), fabric: None, from: None })
        .unwrap();
    // Now it is as dear as it can be.
    check(&bench, "", JANUARY, "2026-01-01T01:00:00Z", ["1.0250000005", "0", "0"]);
    bench.stop("i-1", at("2026-01-01T01:01:00Z")).unwrap();

    run(&mut bench, "i-2", "web", 2, limit(None), "2026-01-01T01:00:00Z");
    let exposed = |project: &str, until: &str| {
        let (project, until) = (project.parse().unwrap(), at(until));
        let exposure =
            exposed(&bench.state, &tenant(), Some(&project), SpendWindow::Total, |_| until, nobody);
        let Exposure { amount, bounded } = exposure.unwrap();
        (amount.to_string(), bounded)
    };
    // Without a limit it is what the pool has now, and no bound.
    assert_eq!(exposed("web", "2026-01-01T02:00:00Z"), ("6".to_owned(), false));
    assert_eq!(exposed("web", "2026-01-01T01:00:00Z"), ("0".to_owned(), true));
    // Which is nothing to another project.
    assert_eq!(exposed("ml", "2026-01-01T02:00:00Z"), ("0".to_owned(), true));
}

#[test]
fn reserved_hours_cost_what_their_use_costs() {
    let mut bench = Bench::new();
    let reservation = json!({
        "reservation": "r-1",
        "project": "web",
        "platform": "h100",
        "gpus": 8,
        "from": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T02:00:00Z",
        "payment": {"flex": {"holding": "1", "usage": "0.5"}},
    });
    let reservation = serde_json::from_value(reservation).unwrap();
    bench.run(Command::Reserve { tenant: tenant(), reservation }).unwrap();
    let mode = Mode::Reserved { reservation: "r-1".parse().unwrap() };
    run(&mut bench, "i-1", "ml", 8, mode, "2026-01-01T00:00:00Z");
    bench.now = at("2026-01-01T01:00:00Z");
    bench.run(Command::Tick).unwrap();
    // Used: 8 x 2 h x 0.5. Held: 8 x 1 for the hour that is over, and as much for the next; it is on
    // the invoice of the project that holds it, whoever runs in it.
    check(&bench, "", JANUARY, "2026-01-01T02:00:00Z", ["8", "8", "8"]);
    check(&bench, "ml", JANUARY, "2026-01-01T02:00:00Z", ["0", "0", "8"]);
    check(&bench, "web", JANUARY, "2026-01-01T02:00:00Z", ["8", "8", "0"]);
    // When the reservation is over it is on demand: 8 x 2.95 more.
    check(&bench, "", JANUARY, "2026-01-01T03:00:00Z", ["8", "8", "31.6"]);
}

#[test]
fn late_reports_count_in_their_period_until_they_are_too_late() {
    let mut bench = Bench::new();
    bench.now = at("2026-01-31T22:00:00Z");
    run(&mut bench, "i-1", "ml", 1, Mode::OnDemand, "2026-01-31T22:00:00Z");
    bench.now = at("2026-02-03T00:00:00Z");
    bench.stop("i-1", at("2026-02-01T03:00:00Z")).unwrap();
    bench.report("i-1", 1, at("2026-02-01T00:00:00Z"), at("2026-02-01T02:00:00Z"));
    let horizon = "2026-12-01T00:00:00Z";
    check(&bench, "", JANUARY, horizon, ["0", "0", "5.9"]);
    check(&bench, "", FEBRUARY, horizon, ["5.9", "0", "2.95"]);
    check(&bench, "", "total", horizon, ["5.9", "0", "8.85"]);
    // A report may be a day long, and counts by its end: 62 days and one are the edge.
    bench.now = at("2026-04-04T22:00:00Z");
    bench.run(Command::Tick).unwrap();
    check(&bench, "", JANUARY, horizon, ["0", "0", "5.9"]);
    bench.now = at("2026-04-04T23:00:00Z");
    bench.run(Command::Tick).unwrap();
    check(&bench, "", JANUARY, horizon, ["0", "0", "2.95"]);
    bench.report("i-1", 1, at("2026-01-31T23:00:00Z"), at("2026-02-01T23:00:00Z"));
    check(&bench, "", JANUARY, horizon, ["2.95", "0", "0"]);
    bench.now = at("2026-04-05T00:00:00Z");
    bench.run(Command::Tick).unwrap();
    check(&bench, "", "total", horizon, ["11.8", "0", "0"]);
}

#[test]
fn what_belongs_to_the_whole_tenant_belongs_to_no_project() {
    let mut bench = under(json!({
        "minimum": "100",
        "allowances": [{"gpu_hours": "1"}],
        "commitment": {"amount": "1000", "overage_percent": "100"},
    }));
    run(&mut bench, "i-1", "ml", 8, Mode::OnDemand, "2026-01-01T00:00:00Z");
    run(&mut bench, "i-2", "web", 1, Mode::OnDemand, "2026-01-01T00:00:00Z");
    bench.now = at("2026-01-01T01:00:00Z");
    bench.report("i-1", 8, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
    bench.report("i-2", 1, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
    bench.stop("i-1", at("2026-01-01T01:00:00Z")).unwrap();
    bench.stop("i-2", at("2026-01-01T01:00:00Z")).unwrap();
    let credit = json!({"credit": "c-1", "kind": "promotional", "amount": "5"});
    let credit = serde_json::from_value(credit).unwrap();
    bench.run(Command::GrantCredit { tenant: tenant(), credit }).unwrap();
    // One hour of `ml` is free. Credit pays 5 of it, and it is charged all the same.
    let now = "2026-01-01T01:00:00Z";
    check(&bench, "ml", JANUARY, now, ["20.65", "0", "0"]);
    check(&bench, "web", JANUARY, now, ["2.95", "0", "0"]);
    check(&bench, "", JANUARY, now, ["23.6", "0", "0"]);
    // What lacks to the minimum is due when the month is over: the tenant's.
    let over = "2026-02-01T00:00:00Z";
    check(&bench, "", JANUARY, over, ["23.6", "76.4", "0"]);
    check(&bench, "ml", JANUARY, over, ["20.65", "0", "0"]);
    // And at the end of the term what lacks to the commitment, and to the minimum of February.
    let end = "2026-03-01T00:00:00Z";
    check(&bench, "", FEBRUARY, end, ["0", "1076.4", "0"]);
    check(&bench, "", "total", end, ["23.6", "1152.8", "0"]);
    check(&bench, "web", "total", end, ["2.95", "0", "0"]);
    bench.now = at(end);
    bench.run(Command::Tick).unwrap();
    check(&bench, "", "total", end, ["1176.4", "0", "0"]);
}

#[test]
fn what_may_run_unsaid_counts_as_if_it_ran() {
    let mut bench = Bench::new();
    bench.register("i-1", 2).unwrap();
    bench.register("i-2", 2).unwrap();
    bench.now = at("2026-01-01T02:00:00Z");
    bench.report("i-1", 2, at("2026-01-01T00:00:00Z"), at("2026-01-01T02:00:00Z"));
    let exposed = |bench: &Bench, unsaid: [Option<&str>; 2]| {
        let unsaid = |ix: InstanceIx| unsaid[ix as usize].map(at);
        let until = at("2026-01-01T03:00:00Z");
        exposed(&bench.state, &tenant(), None, SpendWindow::Total, |_| until, unsaid)
            .unwrap()
            .amount
            .to_string()
    };
    assert_eq!(exposed(&bench, [None, None]), "0");
    // Reported or not: it is billed when somebody says that it ran. 2 GPUs x 2.5 h x 2.95.
    assert_eq!(exposed(&bench, [Some("2026-01-01T00:30:00Z"), None]), "14.75");
    assert_eq!(exposed(&bench, [None, Some("2026-01-01T02:30:00Z")]), "2.95");
    assert_eq!(exposed(&bench, [None, Some("2026-01-01T04:00:00Z")]), "0");
    // Once it is said, what was reported is billed: what it may have run before stands beside it.
    bench.start("i-1", at("2026-01-01T01:00:00Z")).unwrap();
    assert_eq!(exposed(&bench, [None, None]), "5.9");
    assert_eq!(exposed(&bench, [Some("2026-01-01T00:30:00Z"), None]), "8.85");
    assert_eq!(exposed(&bench, [Some("2026-01-01T01:30:00Z"), None]), "5.9");
}

#[test]
fn what_starts_burns() {
    let mut bench = Bench::new();
    let item = |platform: &str, model: &str, price: &str| json!({"platform": platform, "region": "eu", "model": model, "price": price});
    let card = json!({
        "name": "more",
        "version": 1,
        "currency": "USD",
        "effective_from": "2026-01-01T00:00:00Z",
        "prices": [
            item("gpu-h100-sxm", "on_demand", "3.5"),
            item("gpu-h100-pcie", "on_demand", "2"),
            item("gpu-h100-pcie", "spot", "1.75"),
            item("gpu-h200-sxm", "on_demand", "9"),
        ],
    });
    bench.run(Command::PublishRateCard(serde_json::from_value(card).unwrap())).unwrap();
    let reservation = json!({
        "reservation": "r-1",
        "project": "ml",
        "platform": "gpu-h100-pcie",
        "gpus": 8,
        "from": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T02:00:00Z",
        "payment": {"flex": {"holding": "1", "usage": "2.5"}},
    });
    let reservation = serde_json::from_value(reservation).unwrap();
    bench.run(Command::Reserve { tenant: tenant(), reservation }).unwrap();

    let ml: ProjectId = "ml".parse().unwrap();
    let start = |model, limit: Option<&str>| Start {
        project: &ml,
        model,
        limit: limit.map(price),
        fabric: None,
        gpus: 2,
        from: bench.now,
        milliseconds: HOUR_MILLISECONDS / 2,
    };
    let shown = |burn: Option<Exposure>| match burn {
        None => "no price".to_owned(),
        Some(Exposure { amount, bounded: true }) => amount.to_string(),
        Some(Exposure { amount, bounded: false }) => format!("{amount} or more"),
    };
    let of_platform = |platform: &str, start: Start<'_>| {
        let platform = platform.parse().unwrap();
        shown(burn(&bench.state, &tenant(), None, SpendWindow::Total, &platform, &start).unwrap())
    };
    let of_resource = |resource: &str, start: Start<'_>| {
        let resource = resource.parse().unwrap();
        let burn = burn_of_resource(&bench.state, &tenant(), None, SpendWindow::Total, &resource, &start);
        shown(burn.unwrap())
    };
    let on_demand = start(PurchaseModel::OnDemand, None);
    // Two GPUs for half an hour are one GPU-hour.
    assert_eq!(of_platform("h100", on_demand), "2.95");
    assert_eq!(of_platform("gpu-h100-sxm", on_demand), "3.5");
    assert_eq!(of_platform("gpu-b200-sxm", on_demand), "no price");
    // A limit is one of spot.
    assert_eq!(of_platform("h100", start(PurchaseModel::OnDemand, Some("1"))), "2.95");
    assert_eq!(of_platform("gpu-h100-pcie", start(PurchaseModel::Spot, None)), "1.75 or more");
    // 1,800,000 x 556 nanos x 3.
    assert_eq!(of_platform("gpu-h100-pcie", start(PurchaseModel::Spot, Some("3"))), "3.0024");
    assert_eq!(of_platform("gpu-h100-sxm", start(PurchaseModel::Spot, Some("3"))), "no price");
    // Reserved: by use, or on demand where there is no room.
    assert_eq!(of_platform("gpu-h100-pcie", start(PurchaseModel::Reserved, None)), "2.5");
    assert_eq!(of_platform("gpu-h100-sxm", start(PurchaseModel::Reserved, None)), "3.5");

    assert_eq!(of_resource("compute.instance.gpu.h100", on_demand), "3.5");
    assert_eq!(of_resource("compute.instance.gpu.h200", on_demand), "9");
    assert_eq!(of_resource("compute.instance.gpu.b200", on_demand), "no price");
    assert_eq!(of_resource("compute.instance.cpu", on_demand), "no price");
    // `h100` and the two of `gpu-h100`: the dearest, and no bound as soon as one has none.
    assert_eq!(of_resource("compute.instance.gpu.h100", start(PurchaseModel::Spot, None)), "1.75 or more");
    assert_eq!(of_resource("compute.instance.gpu.h100", start(PurchaseModel::Reserved, None)), "3.5");

    // In a period that begins later it burns what lies in it; nothing for another project.
    let later = Start { from: at("2026-01-31T23:45:00Z"), ..on_demand };
    let burn = |project: Option<&str>, window: &str| {
        let project: Option<ProjectId> = project.map(|it| it.parse().unwrap());
        let (platform, project) = ("h100".parse().unwrap(), project.as_ref());
        shown(burn(&bench.state, &tenant(), project, within(window), &platform, &later).unwrap())
    };
    assert_eq!(burn(None, JANUARY), "1.475");
    assert_eq!(burn(None, FEBRUARY), "1.475");
    assert_eq!(burn(Some("ml"), "total"), "2.95");
    assert_eq!(burn(Some("web"), "total"), "0");
    assert_eq!(of_platform("h100", Start { milliseconds: 0, ..on_demand }), "no price");
}
