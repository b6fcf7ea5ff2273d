//! By hand.

use hourglass_pricing::ContractDraft;
use hourglass_units::{Amount, TenantId};
use serde_json::json;

use super::{Burndown, Charges, Projection, burndowns, project};
use crate::core::tests::{Bench, at};
use crate::core::{Command, CreditDraft};

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn amount(text: &str) -> Amount {
    Amount::parse(text).unwrap()
}

/// Eight GPUs run from the first millisecond of January 2026 until ten days are over.
fn ten_days(bench: &mut Bench) {
    bench.register("i-1", 8).unwrap();
    bench.now = at("2026-01-11T00:00:00Z");
    bench.start("i-1", at("2026-01-01T00:00:00Z")).unwrap();
    for day in 1..=10 {
        let (from, until) =
            (format!("2026-01-{day:02}T00:00:00Z"), format!("2026-01-{:02}T00:00:00Z", day + 1));
        bench.report("i-1", 8, at(&from), at(&until));
    }
}

fn sign(bench: &mut Bench, terms: serde_json::Value) {
    let draft = json!({"name": "deal", "version": 1, "effective_from": "2026-01-01T00:00:00Z",
        "effective_until": "2026-02-01T00:00:00Z", "terms": terms});
    let contract: ContractDraft = serde_json::from_value(draft).unwrap();
    bench.run(Command::SignContract { tenant: acme(), contract }).unwrap();
}

fn charges(it: Charges) -> [String; 6] {
    [it.usage, it.fees, it.minimum, it.true_up, it.credit, it.total].map(|amount| amount.to_string())
}

#[test]
fn what_was_used_goes_on_until_the_end_of_the_period() {
    let mut bench = Bench::new();
    ten_days(&mut bench);
    let Projection { period, interval, basis, to_date, projected } = project(&bench.state, &acme()).unwrap();
    assert_eq!(period.to_string(), "2026-01");
    assert_eq!(basis.unwrap().end(), at("2026-01-11T00:00:00Z"));
    assert_eq!(interval.end(), at("2026-02-01T00:00:00Z"));
    // 240 h × 8 × 2.95, and of 744 h.
    assert_eq!(charges(to_date), ["5664", "0", "0", "0", "0", "5664"]);
    assert_eq!(charges(projected), ["17558.4", "0", "0", "0", "0", "17558.4"]);
}

/// Free hours are free once, the cheaper tier is reached, and what is left of a commitment is due at its end.
#[test]
fn the_rules_of_the_contract_hold_for_the_whole_period() {
    let mut bench = Bench::new();
    sign(
        &mut bench,
        json!({
            "allowances": [{"gpu_hours": "100"}],
            "tiers": [{"tiers": [{"above": "0", "percent_off": "0"}, {"above": "5000", "price": "2"}]}],
            "commitment": {"amount": "20000", "overage_percent": "100"},
        }),
    );
    ten_days(&mut bench);
    let Projection { to_date, projected, .. } = project(&bench.state, &acme()).unwrap();
    // 1,920 GPU-hours, 100 of them free.
    assert_eq!(charges(to_date), ["5369", "0", "0", "0", "0", "5369"]);
    // 5,952 of them: 100 free, then 5,000 to the tier's edge or to what the settlement counts of it.
    let usage = projected.usage;
    assert!(
        usage > amount("16000") && usage < amount("17263.4"),
        "{usage}: some of it is in the cheaper tier"
    );
    assert_eq!(
        projected.true_up,
        amount("20000").checked_sub(usage).unwrap(),
        "drawn + true-up = commitment"
    );
    assert_eq!(projected.total, amount("20000"));
    let burndowns = burndowns(&bench.state, &acme()).unwrap();
    let [Burndown { contract, amount: whole, drawn, periods, last, .. }] = &burndowns[..] else {
        panic!("{burndowns:?}")
    };
    assert_eq!((contract.as_str(), *whole, *drawn), ("deal@1", amount("20000"), amount("5369")));
    assert_eq!(periods, &[("2026-01".parse().unwrap(), amount("5369"))]);
    assert_eq!(last.unwrap().to_string(), "2026-01");
}

#[test]
fn a_minimum_is_due_at_the_end_and_credit_pays_what_it_covers() {
    let mut bench = Bench::new();
    sign(&mut bench, json!({"minimum": "20000"}));
    let credit = json!({"credit": "welcome", "kind": "promotional", "amount": "6000"});
    let credit: CreditDraft = serde_json::from_value(credit).unwrap();
    bench.run(Command::GrantCredit { tenant: acme(), credit }).unwrap();
    ten_days(&mut bench);
    let Projection { to_date, projected, .. } = project(&bench.state, &acme()).unwrap();
    assert_eq!(charges(to_date), ["5664", "0", "0", "0", "5664", "0"]);
    assert_eq!(charges(projected), ["17558.4", "0", "2441.6", "0", "6000", "14000"]);
}

#[test]
fn who_came_within_the_period_is_not_carried_on_from_before() {
    let mut bench = Bench::new();
    bench.now = at("2026-02-15T00:00:00Z");
    let project_of = |bench: &Bench| project(&bench.state, &"beta".parse().unwrap());
    assert!(project_of(&bench).is_err(), "nobody knows it");
    let currency = hourglass_units::Currency::USD;
    let (tenant, display_name) = ("beta".parse().unwrap(), String::new());
    bench.run(Command::OpenTenant { tenant, currency, display_name }).unwrap();
    let first = project_of(&bench).unwrap();
    assert_eq!(
        (first.basis.map(|it| it.start()), first.projected),
        (Some(at("2026-02-01T00:00:00Z")), Charges::default())
    );
    bench.now = at("2026-02-16T00:00:00Z");
    bench.run(Command::Tick).unwrap();
    let next = project_of(&bench).unwrap();
    assert_eq!(next.basis.map(|it| it.start()), Some(at("2026-02-15T00:00:00Z")));
}
