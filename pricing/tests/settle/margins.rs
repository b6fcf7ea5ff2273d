//! What margins promise: no usage adds more than they say.

use hourglass_pricing::margin::{GpuHours, Margins, overage_rounding};
use hourglass_pricing::settle::{ItemKey, Source};
use hourglass_pricing::terms::Terms;
use hourglass_units::{Amount, Month, Price, ProjectId};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};

use super::world::{Items, PERIODS, REAL, TINY, Use, World, checked, groups, month, usage, world};

/// What is charged: fees and credit left out, and of a project its usage alone.
fn charged(world: &World, items: &Items, project: Option<&ProjectId>, period: Option<Month>) -> i128 {
    let counts = |key: &ItemKey| match key.source {
        Source::Usage { group, .. } => project.is_none_or(|it| *it == world.groups[group as usize].0),
        Source::Minimum | Source::TrueUp => project.is_none(),
        Source::Fee { .. } | Source::Drawdown | Source::Credit { .. } => false,
    };
    let of_period = |key: &ItemKey| period.is_none_or(|it| it == key.period);
    items.iter().filter(|(key, _)| of_period(key) && counts(key)).map(|(_, item)| item.amount.attos()).sum()
}

/// What more usage adds to the charges of a period, or of all of them, at most.
fn bound(world: &World, more: &[Use], project: Option<&ProjectId>, window: Option<Month>) -> i128 {
    let (mut sum, mut nanos, mut dearest, mut touched) = (0_i128, 0_i128, Price::ZERO, false);
    let all = || world.usage.iter().chain(more);
    let kind = |it: &Use| {
        let (project, sku) = &world.groups[it.group as usize];
        GpuHours { project, sku, price: it.price }
    };
    // Those whose kinds can differ are those of which settlement sees more than one.
    for it in more {
        let terms = world.holds_in(it.period).then_some(&world.terms);
        let known: Vec<Use> = all().filter(|other| other.period == it.period).copied().collect();
        let known = known.iter().map(|other| {
            let (project, sku) = &world.groups[other.group as usize];
            GpuHours { project, sku, price: other.price }
        });
        let margins = Margins::new(terms, project, known);
        let together = |window: Month| world.holds_in(it.period) && world.holds_in(window);
        let margin = match window {
            None => margins.of(kind(it)),
            Some(window) if window == it.period => margins.of(kind(it)),
            Some(window) if it.period < window && together(window) => margins.later(kind(it)),
            Some(_) => continue,
        };
        touched |= !it.quantity.is_zero();
        sum += margin.unwrap().times(it.quantity).attos();
    }
    if !touched {
        return 0;
    }
    for it in all().filter(|it| world.holds_in(it.period)) {
        nanos += i128::from(it.quantity.nanos());
        dearest = dearest.max(it.price);
    }
    let rounding = overage_rounding(&world.terms, nanos, dearest, usize::from(PERIODS)).unwrap();
    sum + rounding.attos()
}

fn any_world() -> impl Strategy<Value = World> {
    prop_oneof![world(TINY), world(REAL)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Whatever the rules and whatever comes: no more is charged than what was plus the margins, of the
    /// tenant and of each project, in each period and in all.
    #[test]
    fn usage_adds_no_more_than_its_margins(
        world in any_world(),
        more in vec(prop_oneof![usage(TINY), usage(REAL)], 0..6),
        alone in any::<bool>(),
    ) {
        let mut more = more;
        if alone {
            more.truncate(1);
        }
        let before = world.settle();
        let mut with = world.clone();
        with.usage.extend(&more);
        let after = with.settle();
        let projects: [ProjectId; 2] = ["p".parse().unwrap(), "q".parse().unwrap()];
        for project in [None, Some(&projects[0]), Some(&projects[1])] {
            for window in (0..PERIODS).map(|n| Some(month(n))).chain([None]) {
                let sum = |items| charged(&world, items, project, window);
                let (was, is, bound) = (sum(&before), sum(&after), bound(&world, &more, project, window));
                prop_assert!(
                    is <= was + bound,
                    "{project:?} in {window:?}: {was} became {is}, more by {} than {bound}",
                    is - was - bound,
                );
            }
        }
    }
}

/// The margins of an hour at a unit price in the first group of the world, on the tenant and on
/// projects `p`, whose it is, and `q`, beside hours of all groups at least as dear as `least`; and what
/// it adds for the tenant in later periods.
fn check(terms: &str, price: &str, least: &str, expected: [&str; 4]) {
    let terms = if terms.is_empty() { None } else { Some(checked(toml::from_str::<Terms>(terms).unwrap())) };
    let parse = |text: &str| Price::parse(text).unwrap();
    let groups = groups();
    let hours = |price| {
        let (project, sku) = &groups[0];
        GpuHours { project, sku, price }
    };
    let projects: [ProjectId; 2] = ["p".parse().unwrap(), "q".parse().unwrap()];
    let margins = |project| {
        let known = groups.iter().map(|(project, sku)| GpuHours { project, sku, price: parse(least) });
        Margins::new(terms.as_ref(), project, known)
    };
    let [tenant, p, q] = [None, Some(&projects[0]), Some(&projects[1])].map(margins);
    let hours = hours(parse(price));
    let got = [tenant.of(hours), p.of(hours), q.of(hours), tenant.later(hours)];
    assert_eq!(got.map(|it| it.unwrap().to_string()), expected, "{terms:?} at {price}, others at {least}");
}

#[test]
fn margins_by_table() {
    // Without rules an hour costs its price, and nothing in other projects.
    check("", "3", "1", ["3", "3", "0", "0"]);
    check("minimum = '10'", "3", "1", ["3", "3", "0", "0"]);

    // Tiers that are ever cheaper: the first of them is the worst, and nobody else pays more.
    let cheaper =
        "tiers = [{ tiers = [{ above = '0', percent_off = '10' }, { above = '5', percent_off = '50' }] }]";
    check(cheaper, "3", "3", ["2.7", "2.7", "0", "0"]);
    check(cheaper, "3", "1", ["2.7", "2.7", "0", "0"]);
    // Dearer ones: an hour of another project is moved up by 4 - 3.
    let dearer = "tiers = [{ tiers = [{ above = '0', percent_off = '0' }, { above = '5', price = '4' }] }]";
    check(dearer, "3", "3", ["4", "4", "1", "0"]);
    // It may be the dear one in the first tier, and move up one that cost 1: 3 + (4 - 1), but for two
    // nanos of rounding, since one of the tiers is a share.
    check(dearer, "3", "1", ["6.000000002", "6.000000002", "3.000000002", "0"]);
    // Prices alone do not add up: 2 + (4 - 2).
    let prices = "tiers = [{ tiers = [{ above = '0', price = '2' }, { above = '5', price = '4' }] }]";
    check(prices, "3", "1", ["4", "4", "2", "0"]);
    // In a table of its own project it moves nobody else's hours.
    let of_p = "tiers = [{ scope = { project = 'p' }, tiers = [{ above = '0', price = '2' }, { above = '5', price = '4' }] }]";
    check(of_p, "3", "1", ["4", "4", "0", "0"]);

    // An allowance: it may be taken from another's hour, which is not dearer.
    check("allowances = [{ gpu_hours = '5' }]", "3", "1", ["3", "3", "3", "0"]);
    check("allowances = [{ scope = { project = 'p' }, gpu_hours = '5' }]", "3", "1", ["3", "3", "0", "0"]);
    // Of an hour in a table where it costs 9.
    let elsewhere = "allowances = [{ gpu_hours = '5' }]\ntiers = [{ scope = { platform = 'b' }, tiers = [{ above = '0', price = '9' }] }]";
    check(elsewhere, "3", "1", ["9", "9", "9", "0"]);
    check(elsewhere, "3", "3.5", ["3", "3", "3", "0"]);

    // Overage: for itself, or for as much of another's; in later periods it is the rest of it.
    let over = "commitment = { amount = '100', overage_percent = '120' }";
    check(over, "3", "1", ["3.6", "3.6", "0.6", "0.6"]);
    let under = "commitment = { amount = '100', overage_percent = '80' }";
    check(under, "3", "1", ["3", "3", "0", "0"]);
    let of_q = "commitment = { scope = { project = 'q' }, amount = '100', overage_percent = '120' }";
    check(of_q, "3", "1", ["3", "3", "0", "0"]);
    // Beyond dearer tiers: 1.2 x 4.
    check(&format!("{dearer}\n{over}"), "3", "3", ["4.8", "5.4", "2.4", "0.8"]);
    // More than the highest price is out of range, as it is for settlement.
    let terms = checked(toml::from_str::<Terms>(over).unwrap());
    let (project, sku) = &groups()[0];
    let hours = GpuHours { project, sku, price: Price::parse("999999").unwrap() };
    assert!(Margins::new(Some(&terms), None, [hours].into_iter()).of(hours).is_err());
}

#[test]
fn the_rounding_of_overage_by_table() {
    let check = |overage: &str, expected: &str| {
        let terms = format!("commitment = {{ amount = '100', overage_percent = '{overage}' }}");
        let terms = checked(toml::from_str::<Terms>(&terms).unwrap());
        // A million GPU-hours at 3, in two periods.
        let rounding = overage_rounding(&terms, 1_000_000_000_000_000, Price::parse("3").unwrap(), 2);
        assert_eq!(rounding, Some(Amount::parse(expected).unwrap()), "{overage}");
    };
    check("100", "0.000000012");
    check("200", "0.000000024");
    check("120", "0.0010000144");
}
