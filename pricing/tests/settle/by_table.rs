//! Settlement as one would explain it to a customer.

use std::collections::BTreeMap;

use hourglass_pricing::settle::{
    Account, Agreement, Carried, Credit, Fee, OutOfRange, Rated, Source, owed, settle,
};
use hourglass_pricing::terms::Terms;
use hourglass_pricing::{CardVersion, Sku};
use hourglass_units::{Amount, INSTANT_MAX, INSTANT_MIN, Interval, Month, Price, ProjectId, Quantity};

use super::world::{Items, checked, groups, month, segment};

/// Terms, usage as `group price hours` in the first period, and the items that come of them.
fn check(terms: &str, usage: &[(u32, &str, &str)], expected: &[&str]) {
    let items = settle_one(terms, usage, &[], Some(month(0)));
    assert_eq!(shown(&items), expected, "{terms}");
}

fn settle_one(terms: &str, usage: &[(u32, &str, &str)], credits: &[Credit], over: Option<Month>) -> Items {
    let groups = groups();
    let usage: Vec<Rated<'_>> =
        usage.iter().map(|(group, price, hours)| rated(&groups, *group, price, hours)).collect();
    settle_rated(terms, &usage, credits, over)
}

fn settle_rated(terms: &str, usage: &[Rated<'_>], credits: &[Credit], over: Option<Month>) -> Items {
    let terms = checked(toml::from_str::<Terms>(terms).unwrap());
    let source = CardVersion { name: "deal".parse().unwrap(), version: 1 };
    let agreements = [Agreement { first: month(0), last: Some(month(0)), source: &source, terms: &terms }];
    let (carried, calendar) = (Carried::default(), Default::default());
    let account = Account {
        agreements: &agreements,
        credits,
        carried: &carried,
        calendar: &calendar,
        over,
        from: month(0),
    };
    settle(&account, usage, &[]).unwrap()
}

fn rated<'a>(groups: &'a [(ProjectId, Sku)], group: u32, price: &str, hours: &str) -> Rated<'a> {
    let (project, sku) = &groups[group as usize];
    let (price, period) = (Price::parse(price).unwrap(), month(0));
    let quantity =
        Quantity::from_nanos(i64::try_from(Amount::parse(hours).unwrap().attos() / 1_000_000_000).unwrap());
    Rated { group, project, sku, period, segment: segment(period, 0), price, quantity }
}

fn shown(items: &Items) -> Vec<String> {
    let show =
        |(key, item): (&hourglass_pricing::settle::ItemKey, &hourglass_pricing::settle::Item)| match key
            .source
        {
            Source::Usage { group, price, step } => {
                let (free, tier) = (step.allowance, step.tier);
                let rule = match (free, tier, step.overage) {
                    (0, 0, false) => String::new(),
                    (0, 0, true) => " overage".to_owned(),
                    (0, tier, over) => format!(" tier {tier}{}", if over { " overage" } else { "" }),
                    (free, ..) => format!(" free by {free}"),
                };
                format!("{group}: {} h at {price} = {}{rule}", item.quantity, item.amount)
            }
            other => format!("{other:?} {}", item.amount),
        };
    items.iter().map(show).collect()
}

#[test]
fn rules_by_table() {
    check("", &[(0, "2.95", "10"), (2, "1", "0")], &["0: 10 h at 2.95 = 29.5"]);
    check(
        "[[allowances]]\ngpu_hours = \"4\"",
        &[(0, "2", "3"), (2, "5", "3"), (1, "9", "1")],
        // The dearest are free, but not spot, which the scope does not name.
        &["0: 1 h at 0 = 0 free by 1", "0: 2 h at 2 = 4", "1: 1 h at 9 = 9", "2: 3 h at 0 = 0 free by 1"],
    );
    let tiers = "[[tiers]]\n[[tiers.tiers]]\nabove = \"0\"\npercent_off = \"0\"\n[[tiers.tiers]]\nabove = \"10\"\npercent_off = \"25\"\n[[tiers.tiers]]\nabove = \"15\"\nprice = \"1\"\n";
    check(
        tiers,
        &[(0, "4", "12"), (2, "2", "5")],
        &[
            "0: 2 h at 3 = 6 tier 2",
            "0: 10 h at 4 = 40 tier 1",
            "2: 2 h at 1 = 2 tier 3",
            "2: 3 h at 1.5 = 4.5 tier 2",
        ],
    );
    let commitment = "[commitment]\namount = \"10\"\noverage_percent = \"120\"\n";
    check(commitment, &[(0, "2", "3")], &["0: 3 h at 2 = 6", "Drawdown 6", "TrueUp 4"]);
    check(
        commitment,
        &[(0, "3", "4"), (2, "1", "2")],
        &[
            "0: 3.333333333 h at 3 = 9.999999999",
            "0: 0.666666667 h at 3.6 = 2.4000000012 overage",
            "2: 2 h at 1.2 = 2.4 overage",
            "Drawdown 9.999999999",
            "TrueUp 0.000000001",
        ],
    );
    check("minimum = \"100\"", &[(0, "2", "3")], &["0: 3 h at 2 = 6", "Minimum 94"]);
    check("minimum = \"100\"", &[], &["Minimum 100"]);
    check("minimum = \"6\"", &[(0, "2", "3")], &["0: 3 h at 2 = 6"]);
}

/// Two tiers of one price: which of their hours is beyond the commitment is a matter of the tier, not
/// of the segment, or another cut into segments would make other items.
#[test]
fn the_edge_of_a_commitment_does_not_see_segments() {
    let groups = groups();
    let terms = "[[tiers]]\ntiers = [{ above = \"0\", price = \"2\" }, { above = \"1\", price = \"2\" }]\n\
                 [commitment]\namount = \"2\"\noverage_percent = \"120\"";
    for segments in [(0, 0), (0, 2), (2, 0)] {
        let of = |price, n| Rated { segment: segment(month(0), n), ..rated(&groups, 0, price, "1") };
        let items = settle_rated(terms, &[of("8", segments.0), of("4", segments.1)], &[], Some(month(0)));
        assert_eq!(
            shown(&items),
            ["0: 1 h at 2 = 2 tier 1", "0: 1 h at 2.4 = 2.4 tier 2 overage", "Drawdown 2"]
        );
    }
}

#[test]
fn nothing_is_due_before_the_period_is_over() {
    let items = settle_one("minimum = \"100\"", &[(0, "2", "3")], &[], None);
    assert_eq!(shown(&items), ["0: 3 h at 2 = 6"]);
}

#[test]
fn credits_go_by_priority_then_by_expiry_and_pay_what_they_may() {
    let always = Interval::new(INSTANT_MIN, INSTANT_MAX).unwrap();
    let soon = Interval::new(INSTANT_MIN, segment(month(0), 0).end()).unwrap();
    let credit = |grant, priority, valid, available: &str| {
        let available = Amount::parse(available).unwrap();
        Credit { grant, priority, valid, project: None, platform: None, available }
    };
    let of_p = Credit { project: Some("p".parse().unwrap()), ..credit(3, 0, always, "50") };
    let credits = [credit(0, 1, always, "5"), credit(1, 0, always, "5"), credit(2, 0, soon, "5"), of_p];
    let items = settle_one("minimum = \"100\"", &[(0, "2", "6"), (4, "1", "3")], &credits, Some(month(0)));
    assert_eq!(
        shown(&items),
        [
            "0: 6 h at 2 = 12",
            "4: 3 h at 1 = 3",
            "Minimum 85",
            // What is valid only in the first segment goes first; the minimum is due at the end, where
            // only credits for everything pay, and those still valid.
            "Credit { grant: 0 } 5",
            "Credit { grant: 1 } 5",
            "Credit { grant: 2 } 5",
            "Credit { grant: 3 } 2",
        ]
    );
    assert_eq!(owed(&items), Some(Amount::parse("83").unwrap()));
}

#[test]
fn sums_out_of_range_are_an_error() {
    let groups = groups();
    let carried = Carried::default();
    let calendar = Default::default();
    let (credits, agreements) = ([], []);
    let account = Account {
        agreements: &agreements,
        credits: &credits,
        carried: &carried,
        calendar: &calendar,
        over: None,
        from: month(0),
    };
    let mut huge = rated(&groups, 0, "1000000", "0");
    huge.quantity = Quantity::from_nanos(i64::MAX);
    assert_eq!(settle(&account, &[huge, huge], &[]), Err(OutOfRange));
    huge.quantity = Quantity::from_nanos(-1);
    assert_eq!(settle(&account, &[huge], &[]), Err(OutOfRange));
    let fee = Fee {
        reservation: 0,
        period: month(0),
        segment: segment(month(0), 0),
        quantity: Quantity::ZERO,
        amount: Amount::from_attos(i128::MAX),
    };
    assert_eq!(settle(&account, &[], &[fee, fee]), Err(OutOfRange));
    assert_eq!(settle(&account, &[], &[]), Ok(BTreeMap::new()));
}
