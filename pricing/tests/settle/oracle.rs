//! A second rater: slow, simple, and without a line of the first one's code. It goes through usage by
//! single nano-GPU-hours and counts money in fractions of any size.

use std::collections::BTreeMap;

use hourglass_pricing::scope::Scope;
use hourglass_pricing::settle::{Item, ItemKey, Source, Step};
use hourglass_units::{Amount, Month, Percent, Price, Quantity};
use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

use super::world::{Items, PERIODS, TINY, World, month, world};

/// One nano-GPU-hour.
#[derive(Debug, Clone)]
struct Unit {
    group: u32,
    /// Start of its segment, which tells segments of a period apart.
    since: i64,
    until: i64,
    price: BigRational,
    step: Step,
}

fn number(n: impl Into<BigInt>) -> BigRational {
    BigRational::from_integer(n.into())
}

/// A share of a price, to the nearest nano, halves to the even one.
fn share(ppm: u32, price: &BigRational) -> BigRational {
    let exact = price * BigRational::new(ppm.into(), 1_000_000.into());
    let (below, half) = (exact.floor(), BigRational::new(1.into(), 2.into()));
    let rest = &exact - &below;
    let is_odd = (below.to_integer() % BigInt::from(2)) != BigInt::from(0);
    if rest > half || (rest == half && is_odd) { below + number(1) } else { below }
}

fn within(scope: &Scope, world: &World, group: u32) -> bool {
    let (project, sku) = &world.groups[group as usize];
    let fits = [
        scope.project.as_ref().map(|it| it.as_str() == project.as_str()),
        scope.platform.as_ref().map(|it| it.as_str() == sku.platform.as_str()),
        scope.region.as_ref().map(|it| it.as_str() == sku.region.as_str()),
        scope.model.map(|it| it.as_str() == sku.model.as_str()),
    ];
    fits.into_iter().flatten().all(|fits| fits)
}

/// Sorts by a key of which the first part descends.
fn dearest_first(units: &mut [Unit]) {
    units.sort_by(|a, b| {
        let key = |it: &Unit| (it.group, it.step, it.since);
        b.price.cmp(&a.price).then(key(a).cmp(&key(b)))
    });
}

struct Oracle<'a> {
    world: &'a World,
    committed: BigRational,
    left: Vec<BigRational>,
    items: BTreeMap<ItemKey, (BigInt, BigRational)>,
}

impl Oracle<'_> {
    fn add(&mut self, period: Month, source: Source, quantity: i64, amount: &BigRational) {
        let item = self.items.entry(ItemKey { period, source }).or_default();
        item.0 += quantity;
        item.1 += amount;
    }

    fn units(&self, period: Month) -> Vec<Unit> {
        let mut units = Vec::new();
        for it in self.world.usage.iter().filter(|it| it.period == period) {
            let (since, until) = (it.segment.start().unix_ms(), it.segment.end().unix_ms());
            let price = number(it.price.nanos());
            let unit = Unit { group: it.group, since, until, price, step: Step::default() };
            units.extend((0..it.quantity.nanos()).map(|_| unit.clone()));
        }
        dearest_first(&mut units);
        units
    }

    fn allowances_and_tiers(&self, units: &mut [Unit]) {
        for (n, allowance) in (1..).zip(&self.world.terms.allowances) {
            let free = units.iter_mut().filter(|it| within(&allowance.scope, self.world, it.group));
            for unit in free.take(usize::try_from(allowance.gpu_hours.nanos()).unwrap()) {
                unit.step.allowance = n;
                unit.price = number(0);
            }
        }
        for table in &self.world.terms.tiers {
            let counted = units
                .iter_mut()
                .filter(|it| it.step.allowance == 0 && within(&table.scope, self.world, it.group));
            for (count, unit) in (0..).zip(counted) {
                let reached = table.tiers.iter().filter(|it| it.above.nanos() <= count).count();
                let tier = &table.tiers[reached - 1];
                unit.step.tier = u8::try_from(reached).unwrap();
                unit.price = match tier.price {
                    Some(price) => number(price.nanos()),
                    None => share(1_000_000 - tier.percent_off.unwrap().ppm(), &unit.price),
                };
            }
        }
    }

    fn commitment(&mut self, period: Month, units: &mut [Unit]) {
        let Some(commitment) = &self.world.terms.commitment else { return };
        dearest_first(units);
        let (mut drawn, mut full) = (number(0), false);
        for unit in units.iter_mut() {
            if !within(&commitment.scope, self.world, unit.group) || unit.price == number(0) {
                continue;
            }
            full |= &drawn + &unit.price > self.committed;
            if full {
                unit.step.overage = true;
                unit.price = share(commitment.overage_percent.ppm(), &unit.price);
            } else {
                drawn += &unit.price;
            }
        }
        self.committed -= &drawn;
        self.add(period, Source::Drawdown, 0, &drawn);
    }

    /// One thing after another draws on one credit after another.
    fn pay(&mut self, period: Month, from: i64, until: i64, usage: Option<u32>, mut owed: BigRational) {
        let mut order: Vec<usize> = (0..self.world.credits.len()).collect();
        let credits = &self.world.credits;
        order.sort_by_key(|n| (credits[*n].priority, credits[*n].valid.end().unix_ms(), credits[*n].grant));
        for n in order {
            let credit = &credits[n];
            let valid = credit.valid.start().unix_ms() <= from && until <= credit.valid.end().unix_ms();
            let fits = match usage {
                None => credit.project.is_none() && credit.platform.is_none(),
                Some(group) => {
                    let (project, platform) = (credit.project.clone(), credit.platform.clone());
                    within(&Scope { project, platform, ..Scope::default() }, self.world, group)
                }
            };
            if valid && fits {
                let paid = owed.clone().min(self.left[n].clone());
                owed -= &paid;
                self.left[n] -= &paid;
                self.add(period, Source::Credit { grant: credit.grant }, 0, &paid);
            }
        }
    }

    fn period(&mut self, n: u16) {
        let period = month(n);
        let agreed = self.world.holds_in(period);
        let mut units = self.units(period);
        if agreed {
            self.allowances_and_tiers(&mut units);
            self.commitment(period, &mut units);
        }
        let mut spent = number(0);
        let mut payable = Vec::new();
        for unit in units {
            spent += &unit.price;
            let price = Price::from_nanos(i64::try_from(unit.price.to_integer()).unwrap()).unwrap();
            let source = Source::Usage { group: unit.group, price, step: unit.step };
            self.add(period, source, 1, &unit.price);
            payable.push((unit.since, 0, Some(source), unit.until, Some(unit.group), unit.price));
        }
        let mut fees: Vec<_> = self.world.fees.iter().filter(|it| it.period == period).collect();
        fees.sort_by_key(|it| it.reservation);
        for fee in fees {
            let amount = number(fee.amount.attos());
            spent += &amount;
            let source = Source::Fee { reservation: fee.reservation };
            self.add(period, source, fee.quantity.nanos(), &amount);
            let (since, until) = (fee.segment.start().unix_ms(), fee.segment.end().unix_ms());
            payable.push((since, 1, None, until, None, amount));
        }
        if agreed && self.world.over.is_some_and(|over| n <= over) {
            let end = period.end().unix_ms();
            let minimum = self.world.terms.minimum.map_or(number(0), |it| number(it.attos()));
            let mut due = vec![(Source::Minimum, minimum - spent)];
            if self.world.agreed.1 == Some(n) {
                due.push((Source::TrueUp, self.committed.clone()));
            }
            for (source, lack) in due.into_iter().filter(|(_, lack)| *lack > number(0)) {
                self.add(period, source, 0, &lack);
                payable.push((end - 1, 2, None, end, None, lack));
            }
        }
        payable.sort_by_key(|it| (it.0, it.1, it.2));
        for (from, _, _, until, usage, owed) in payable {
            self.pay(period, from, until, usage, owed);
        }
    }
}

fn oracle(world: &World) -> Items {
    let attos = |it: &Amount| number(it.attos());
    let carried = &world.carried;
    let drawn = carried.drawn_down.get(&month(world.agreed.0)).map_or(number(0), attos);
    let committed = world.terms.commitment.as_ref().map_or(number(0), |it| attos(&it.amount)) - drawn;
    let credits = world.credits.iter();
    let left = credits
        .map(|it| attos(&it.available) - carried.credits_drawn.get(&it.grant).map_or(number(0), attos))
        .collect();
    let mut oracle = Oracle { world, committed, left, items: BTreeMap::new() };
    for n in 0..PERIODS {
        oracle.period(n);
    }
    let item = |(key, (quantity, amount)): (ItemKey, (BigInt, BigRational))| {
        assert!(amount.is_integer(), "amounts are whole attos");
        let quantity = Quantity::from_nanos(i64::try_from(quantity).unwrap());
        let amount = Amount::from_attos(i128::try_from(amount.to_integer()).unwrap());
        (!quantity.is_zero() || !amount.is_zero()).then_some((key, Item { quantity, amount }))
    };
    oracle.items.into_iter().filter_map(item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    /// Every item is what counting by hand gives: tiers, allowance, commitment, overage, minimum,
    /// true-up and credits, to the atto.
    #[test]
    fn settlement_agrees_with_counting_by_hand(world in world(TINY)) {
        prop_assert_eq!(world.settle(), oracle(&world));
    }

    /// So the oracle's own rounding is not the first rater's.
    #[test]
    fn shares_of_prices_round_alike(ppm in 0..=10_000_000_u32, nanos in 0..50_000_i64) {
        let got = Percent::from_ppm(ppm).unwrap().of_price(Price::from_nanos(nanos).unwrap()).unwrap();
        prop_assert_eq!(number(got.nanos()), share(ppm, &number(nanos)));
    }
}
