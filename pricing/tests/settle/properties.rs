//! What holds of settlement whatever the rules.

use std::collections::BTreeMap;

use hourglass_pricing::invoice::apportion;
use hourglass_pricing::settle::{ItemKey, Source, owed};
use hourglass_pricing::tax::{Tax, TaxKind, TaxRounding};
use hourglass_units::{Amount, Currency, Percent, Quantity};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest,
};
use proptest::sample::Index;

use super::world::{Items, PERIODS, REAL, TINY, Use, World, month, segment, usage, world};

fn any_world() -> impl Strategy<Value = World> {
    prop_oneof![world(TINY), world(REAL)]
}

fn sum(items: &Items, which: impl Fn(&ItemKey) -> bool) -> i128 {
    items.iter().filter(|(key, _)| which(key)).map(|(_, item)| item.amount.attos()).sum()
}

fn drawn_down(items: &Items) -> i128 {
    sum(items, |key| key.source == Source::Drawdown)
}

fn owed_attos(items: &Items) -> i128 {
    owed(items).unwrap().attos()
}

/// A world whose usage all lies in one period, under an agreement that covers it, and is not settled
/// in advance.
fn in_one_period(mut world: World) -> World {
    for it in &mut world.usage {
        it.period = month(0);
        it.segment = segment(month(0), 0);
    }
    World { agreed: (0, Some(0)), fees: Vec::new(), ..world.without_credits() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// M-1: the order in which usage comes to be known does not matter.
    #[test]
    fn m1_order_does_not_matter(world in any_world(), seed in any::<u64>()) {
        let mut other = world.clone();
        let mut state = seed | 1;
        for last in (1..other.usage.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            other.usage.swap(last, (state >> 33) as usize % (last + 1));
        }
        other.fees.reverse();
        prop_assert_eq!(world.settle(), other.settle());
    }

    /// M-1: nor does how it is cut; and where there are no credits, nor in which segment it lies.
    #[test]
    fn m1_the_cut_does_not_matter(
        world in any_world(),
        which in any::<Index>(),
        part in 0..=100_i64,
        others in proptest::collection::vec(0..3_i64, 16),
    ) {
        if world.usage.is_empty() {
            return Ok(());
        }
        let mut other = world.clone();
        let it = &mut other.usage[which.index(world.usage.len())];
        let first = it.quantity.nanos() / 100 * part;
        let rest = Use { quantity: Quantity::from_nanos(it.quantity.nanos() - first), ..*it };
        it.quantity = Quantity::from_nanos(first);
        other.usage.push(rest);
        prop_assert_eq!(world.settle(), other.settle());

        let (world, mut other) = (world.without_credits(), other.without_credits());
        for (it, n) in other.usage.iter_mut().zip(others) {
            it.segment = segment(it.period, n);
        }
        prop_assert_eq!(world.settle(), other.settle());
    }

    /// Period by period, with what is carried, comes to the same items as all at once.
    #[test]
    fn period_by_period_is_all_at_once(world in any_world()) {
        let (mut items, mut carried) = (Items::new(), world.carried.clone());
        for n in 0..PERIODS {
            let mut one = world.clone();
            one.usage.retain(|it| it.period == month(n));
            one.fees.retain(|it| it.period == month(n));
            one.over = world.over.map(|over| over.min(n));
            let settled = one.settle_from(n, &one.usage, &carried);
            for (key, item) in &settled {
                let sum = match key.source {
                    Source::Drawdown => carried.drawn_down.entry(month(world.agreed.0)).or_default(),
                    Source::Credit { grant } => carried.credits_drawn.entry(grant).or_default(),
                    _ => continue,
                };
                *sum = sum.checked_add(item.amount).unwrap();
            }
            items.extend(settled);
        }
        prop_assert_eq!(items, world.settle());
    }

    /// U-1 for each item of usage, and no GPU-hour is lost or made up.
    #[test]
    fn u1_items_are_price_times_quantity(world in any_world()) {
        let mut quantities: BTreeMap<_, i64> = BTreeMap::new();
        for it in world.usage.iter().filter(|it| !it.quantity.is_zero()) {
            *quantities.entry((it.period, it.group)).or_default() += it.quantity.nanos();
        }
        for (key, item) in world.settle() {
            match key.source {
                Source::Usage { group, price, .. } => {
                    prop_assert_eq!(item.amount, price.times(item.quantity));
                    *quantities.get_mut(&(key.period, group)).unwrap() -= item.quantity.nanos();
                }
                Source::Fee { .. } => {}
                _ => prop_assert!(item.quantity.is_zero() && item.amount > Amount::ZERO),
            }
        }
        prop_assert!(quantities.values().all(|rest| *rest == 0));
    }

    /// What is drawn is never below zero nor beyond the commitment; at its end drawn + true-up is the
    /// commitment, exactly.
    #[test]
    fn drawn_and_true_up_make_the_commitment(world in any_world()) {
        let Some(commitment) = world.terms.commitment.clone() else { return Ok(()) };
        let items = world.settle();
        let before = world.carried.drawn_down.values().map(|it| it.attos()).sum::<i128>();
        let drawn = before + drawn_down(&items);
        prop_assert!(drawn <= commitment.amount.attos());
        let true_up = sum(&items, |key| key.source == Source::TrueUp);
        let is_over = world.agreed.1.zip(world.over).is_some_and(|(last, over)| last <= over);
        if is_over {
            prop_assert_eq!(drawn + true_up, commitment.amount.attos());
        } else {
            prop_assert_eq!(true_up, 0);
        }
    }

    /// Credits pay no more than they have, and in no period more than is owed; whatever they pay, what
    /// is owed before them stays the same.
    #[test]
    fn credits_are_never_overdrawn(world in any_world()) {
        let items = world.settle();
        for credit in &world.credits {
            let before = world.carried.credits_drawn.get(&credit.grant).map_or(0, |it| it.attos());
            let paid = sum(&items, |key| key.source == Source::Credit { grant: credit.grant });
            prop_assert!(before + paid <= credit.available.attos());
        }
        for n in 0..PERIODS {
            let of_period: Items =
                items.iter().filter(|(key, _)| key.period == month(n)).map(|(key, it)| (*key, *it)).collect();
            prop_assert!(owed_attos(&of_period) >= 0);
        }
        let mut before_credits = items;
        before_credits.retain(|key, _| !matches!(key.source, Source::Credit { .. }));
        prop_assert_eq!(before_credits, world.without_credits().settle());
    }

    /// More usage never costs less, within a period: whatever the allowances and tiers, and with a
    /// commitment for everything whose overage rate is at least the price. Not so with a minimum beside
    /// the commitment, since usage then fills up both.
    #[test]
    fn more_usage_never_costs_less(world in any_world(), more in usage(TINY), over in any::<bool>()) {
        let mut world = in_one_period(world);
        world.over = over.then_some(0);
        if let Some(commitment) = &mut world.terms.commitment {
            commitment.scope = Default::default();
            commitment.overage_percent = commitment.overage_percent.max(Percent::WHOLE);
            world.terms.minimum = None;
        }
        let less = owed_attos(&world.settle());
        world.usage.push(Use { period: month(0), segment: segment(month(0), 0), ..more });
        prop_assert!(less <= owed_attos(&world.settle()));
    }

    /// Over several periods, or below the price, the part of a nano-GPU-hour at the edge of a
    /// commitment can shift: more usage costs less by no more than such a part for each period.
    #[test]
    fn more_usage_costs_less_by_parts_of_a_nano_at_most(world in any_world(), more in usage(TINY)) {
        let mut world = world.without_credits();
        if let Some(commitment) = &mut world.terms.commitment {
            commitment.scope = Default::default();
            world.terms.minimum = None;
        }
        let less = owed_attos(&world.settle());
        world.usage.push(more);
        let slack = i128::from(world.highest_price()) * i128::from(PERIODS);
        let slack = if world.terms.commitment.is_some() { slack } else { 0 };
        prop_assert!(less <= owed_attos(&world.settle()) + slack);
    }

    /// Continuous: one nano-GPU-hour more of what is used costs at most one at the highest price, at the
    /// edge of a tier, an allowance and a commitment as elsewhere.
    #[test]
    fn a_little_more_costs_a_little_more(
        world in any_world(),
        edge in any::<Index>(),
        off in -2..=2_i64,
        template in usage(REAL),
    ) {
        let mut world = World { over: None, ..in_one_period(world) };
        let tiers = world.terms.tiers.iter().flat_map(|it| &it.tiers).map(|it| it.above.nanos());
        let free = world.terms.allowances.iter().map(|it| it.gpu_hours.nanos());
        let price = i128::from(template.price.nanos().max(1));
        let committed = world.terms.commitment.iter().map(|it| i64::try_from(it.amount.attos() / price).unwrap_or(0));
        let edges: Vec<i64> = tiers.chain(free).chain(committed).collect();
        prop_assume!(!edges.is_empty());
        let quantity = (edges[edge.index(edges.len())] + off).clamp(0, REAL.quantity * 50);
        let of = |nanos| Use {
            quantity: Quantity::from_nanos(nanos),
            period: month(0),
            segment: segment(month(0), 0),
            ..template
        };
        world.usage = vec![of(quantity)];
        let less = owed_attos(&world.settle());
        world.usage = vec![of(quantity + 1)];
        let step = owed_attos(&world.settle()) - less;
        prop_assert!(step.abs() <= i128::from(world.highest_price()), "{step}");
    }

    /// I-1: an invoice of any items, in any currency and under any tax, sums up: lines to the total, and
    /// taxes to the tax.
    #[test]
    fn i1_lines_and_taxes_sum_up(
        world in any_world(),
        currency in prop_oneof![Just(Currency::USD), Just(Currency::JPY), Just(Currency::KWD)],
        ppm in 0..=1_000_000_u32,
        kind in prop_oneof![Just(TaxKind::Exclusive), Just(TaxKind::Inclusive)],
    ) {
        let items = world.settle();
        let exact: Vec<Amount> = items
            .iter()
            .filter(|(key, _)| key.source.is_owed())
            .map(|(key, item)| match key.source {
                Source::Credit { .. } => item.amount.checked_neg().unwrap(),
                _ => item.amount,
            })
            .collect();
        let invoice = apportion(&exact, currency).unwrap();
        prop_assert_eq!(invoice.total, owed(&items).unwrap().round_half_even_to_minor(currency));
        prop_assert_eq!(invoice.lines.iter().sum::<i128>(), invoice.total);
        let rate_percent = Percent::from_ppm(ppm).unwrap();
        let tax = |rounding| Tax { name: "VAT".to_owned(), rate_percent, kind, rounding };
        let by_line = tax(TaxRounding::Line).of(&invoice.lines).unwrap();
        prop_assert_eq!(by_line.lines.unwrap().iter().sum::<i128>(), by_line.total);
        let of_total = tax(TaxRounding::Total).of(&invoice.lines).unwrap();
        if kind == TaxKind::Exclusive {
            let off = of_total.total * 1_000_000 - invoice.total * i128::from(ppm);
            prop_assert!(off.abs() < 1_000_000, "less than a minor unit");
        }
    }
}
