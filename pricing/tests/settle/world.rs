//! Random tenants, small enough that chance hits every edge.

use hourglass_pricing::scope::Scope;
use hourglass_pricing::settle::{Account, Agreement, Carried, Credit, Fee, Item, ItemKey, Rated, settle};
use hourglass_pricing::terms::{Allowance, Commitment, Terms, Tier, TierTable};
use hourglass_pricing::{CardVersion, Contract, ContractDraft, PurchaseModel, Sku};
use hourglass_units::{Amount, Instant, Interval, Month, Percent, Price, ProjectId, Quantity};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use std::collections::BTreeMap;

/// Periods of the world.
pub(crate) const PERIODS: u16 = 3;
/// Segments of each period.
const SEGMENTS: i64 = 3;

pub(crate) type Items = BTreeMap<ItemKey, Item>;

pub(crate) fn month(n: u16) -> Month {
    "2026-01".parse::<Month>().unwrap().plus(n)
}

/// A third of a period.
pub(crate) fn segment(period: Month, n: i64) -> Interval {
    let whole = period.interval();
    let day = |n: i64| whole.start().saturating_add_ms(n * 10 * 86_400_000);
    let end = if n + 1 == SEGMENTS { whole.end() } else { day(n + 1) };
    Interval::new(day(n), end).unwrap()
}

/// Two projects, two platforms and two ways to buy: eight charge groups.
pub(crate) fn groups() -> Vec<(ProjectId, Sku)> {
    let mut groups = Vec::new();
    for project in ["p", "q"] {
        for platform in ["a", "b"] {
            for model in [PurchaseModel::OnDemand, PurchaseModel::Spot] {
                let (platform, region) = (platform.parse().unwrap(), "eu".parse().unwrap());
                groups.push((project.parse().unwrap(), Sku { platform, region, model }));
            }
        }
    }
    groups
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) group: u32,
    pub(crate) period: Month,
    pub(crate) segment: Interval,
    pub(crate) price: Price,
    pub(crate) quantity: Quantity,
}

/// All that a tenant has, owned.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) groups: Vec<(ProjectId, Sku)>,
    pub(crate) usage: Vec<Use>,
    pub(crate) fees: Vec<Fee>,
    pub(crate) credits: Vec<Credit>,
    pub(crate) terms: Terms,
    /// First and last period of the agreement, by number.
    pub(crate) agreed: (u16, Option<u16>),
    pub(crate) over: Option<u16>,
    pub(crate) carried: Carried,
}

impl World {
    pub(crate) fn settle(&self) -> Items {
        self.settle_from(0, &self.usage, &self.carried)
    }

    /// Settles the usage and the fees from a period on.
    pub(crate) fn settle_from(&self, from: u16, usage: &[Use], carried: &Carried) -> Items {
        let source = CardVersion { name: "deal".parse().unwrap(), version: 1 };
        let (first, last) = (month(self.agreed.0), self.agreed.1.map(month));
        let agreements = [Agreement { first, last, source: &source, terms: &self.terms }];
        let calendar = Default::default();
        let (over, from) = (self.over.map(month), month(from));
        let account = Account {
            agreements: &agreements,
            credits: &self.credits,
            carried,
            calendar: &calendar,
            over,
            from,
        };
        let rated = |it: &Use| {
            let (project, sku) = &self.groups[it.group as usize];
            let Use { group, period, segment, price, quantity } = *it;
            Rated { group, project, sku, period, segment, price, quantity }
        };
        let usage: Vec<Rated<'_>> = usage.iter().filter(|it| it.period >= from).map(rated).collect();
        let fees: Vec<Fee> = self.fees.iter().filter(|it| it.period >= from).copied().collect();
        settle(&account, &usage, &fees).unwrap()
    }

    pub(crate) fn without_credits(mut self) -> Self {
        self.credits.clear();
        self
    }

    pub(crate) fn holds_in(&self, period: Month) -> bool {
        month(self.agreed.0) <= period && self.agreed.1.is_none_or(|last| period <= month(last))
    }

    /// The highest price that a GPU-hour can end up with.
    pub(crate) fn highest_price(&self) -> i64 {
        let tiers = self.terms.tiers.iter().flat_map(|it| &it.tiers).filter_map(|it| it.price);
        let prices = self.usage.iter().map(|it| it.price).chain(tiers);
        let over = self.terms.commitment.as_ref().map_or(Percent::WHOLE, |it| it.overage_percent);
        let over = over.max(Percent::WHOLE);
        prices.map(|it| over.of_price(it).unwrap().nanos()).max().unwrap_or(0)
    }
}

/// How large the numbers of a world are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) price: i64,
    pub(crate) quantity: i64,
}

/// Amounts of some attos: one unit of usage after another can be counted out.
pub(crate) const TINY: Size = Size { price: 12, quantity: 15 };
/// Prices of some dollars, and thousands of GPU-hours.
pub(crate) const REAL: Size = Size { price: 20_000_000_000, quantity: 9_000_000_000_000 };

fn price(size: Size) -> impl Strategy<Value = Price> {
    // Some prices meet, and some are nothing.
    prop_oneof![Just(0), Just(size.price / 2), 0..=size.price]
        .prop_map(|nanos| Price::from_nanos(nanos).unwrap())
}

fn amount(size: Size, usages: i64) -> impl Strategy<Value = Amount> {
    (1..=i128::from(size.price) * i128::from(size.quantity) * i128::from(usages)).prop_map(Amount::from_attos)
}

pub(crate) fn usage(size: Size) -> impl Strategy<Value = Use> {
    (0..8_u32, 0..PERIODS, 0..SEGMENTS, price(size), 0..=size.quantity).prop_map(
        |(group, period, n, price, quantity)| {
            let (period, quantity) = (month(period), Quantity::from_nanos(quantity));
            Use { group, period, segment: segment(period, n), price, quantity }
        },
    )
}

fn fee(size: Size) -> impl Strategy<Value = Fee> {
    (0..2_u32, 0..PERIODS, 0..SEGMENTS, price(size), 0..=size.quantity).prop_map(
        |(reservation, period, n, price, quantity)| {
            let (period, quantity) = (month(period), Quantity::from_nanos(quantity));
            Fee { reservation, period, segment: segment(period, n), quantity, amount: price.times(quantity) }
        },
    )
}

/// Valid from the start of a segment to the end of one.
fn valid() -> impl Strategy<Value = Interval> {
    let at = || (0..PERIODS, 0..SEGMENTS).prop_map(|(period, n)| segment(month(period), n));
    (at(), at()).prop_map(|(a, b)| Interval::new(a.start().min(b.start()), a.end().max(b.end())).unwrap())
}

fn credits(size: Size) -> impl Strategy<Value = Vec<Credit>> {
    let of = |names: [&'static str; 2]| option::weighted(0.3, prop_oneof![Just(names[0]), Just(names[1])]);
    let credit = (0..3_u32, valid(), of(["p", "q"]), of(["a", "b"]), amount(size, 6));
    vec(credit, 0..5).prop_map(|credits| {
        let all = (0..).zip(credits);
        all.map(|(grant, (priority, valid, project, platform, available))| Credit {
            grant,
            priority,
            valid,
            project: project.map(|it| it.parse().unwrap()),
            platform: platform.map(|it| it.parse().unwrap()),
            available,
        })
        .collect()
    })
}

/// Scopes that do not overlap: everything, or some of the platforms or projects.
fn scopes() -> impl Strategy<Value = Vec<Scope>> {
    let project = |it: &str| Scope { project: Some(it.parse().unwrap()), ..Scope::default() };
    let platform = |it: &str| Scope { platform: Some(it.parse().unwrap()), ..Scope::default() };
    let spot = Scope { model: Some(PurchaseModel::Spot), ..Scope::default() };
    prop_oneof![
        Just(vec![]),
        Just(vec![Scope::default()]),
        Just(vec![Scope::default(), spot]),
        Just(vec![platform("b")]),
        Just(vec![platform("a"), platform("b")]),
        Just(vec![project("p"), Scope { platform: Some("a".parse().unwrap()), ..project("q") }]),
    ]
}

pub(crate) fn tiers(size: Size) -> impl Strategy<Value = Vec<Tier>> {
    // Shares that make the price of one tier meet that of another.
    let share = prop_oneof![Just(0), Just(500_000), 0..=1_000_000_u32];
    let tier = (1..=size.quantity * 2, any::<bool>(), price(size), share);
    vec(tier, 1..4).prop_map(|tiers| {
        let mut above = 0;
        let mut made = Vec::new();
        for (width, priced, price, ppm) in tiers {
            made.push(Tier {
                above: Quantity::from_nanos(above),
                price: priced.then_some(price),
                percent_off: (!priced).then(|| Percent::from_ppm(ppm).unwrap()),
            });
            above += width;
        }
        made
    })
}

pub(crate) fn terms(size: Size) -> impl Strategy<Value = Terms> {
    let quantities = vec(1..=size.quantity * 2, 2);
    let tables = vec(tiers(size), 2);
    let overage = prop_oneof![Just(1_000_000_u32), 0..3_000_000_u32];
    let commitment = option::of((scopes(), amount(size, 12), overage));
    let minimum = option::weighted(0.3, amount(size, 6));
    (scopes(), quantities, scopes(), tables, commitment, minimum).prop_map(
        |(free, quantities, tiered, tables, commitment, minimum)| {
            let allowances = free.into_iter().zip(quantities);
            let tiers = tiered.into_iter().zip(tables);
            let terms = Terms {
                allowances: allowances
                    .map(|(scope, hours)| Allowance { scope, gpu_hours: Quantity::from_nanos(hours) })
                    .collect(),
                tiers: tiers.map(|(scope, tiers)| TierTable { scope, tiers }).collect(),
                commitment: commitment.map(|(scopes, amount, ppm)| Commitment {
                    scope: scopes.into_iter().next().unwrap_or_default(),
                    amount,
                    overage_percent: Percent::from_ppm(ppm).unwrap(),
                }),
                minimum,
                ..Terms::default()
            };
            checked(terms)
        },
    )
}

/// The terms as a contract has them.
pub(crate) fn checked(terms: Terms) -> Terms {
    let at = |n| Instant::from_unix_ms(n).unwrap();
    let draft = ContractDraft {
        name: "deal".parse().unwrap(),
        version: 1,
        effective_from: at(0),
        effective_until: Some(at(1)),
        prices: Vec::new(),
        terms: terms.clone(),
    };
    if terms == Terms::default() {
        return terms;
    }
    Contract::check("acme".parse().unwrap(), draft).unwrap().terms().clone()
}

pub(crate) fn world(size: Size) -> impl Strategy<Value = World> {
    let agreed = prop_oneof![Just((0, None)), Just((0, Some(2))), Just((1, Some(1))), Just((0, Some(1)))];
    let carried = (option::of(amount(size, 3)), option::of(amount(size, 3)));
    (
        vec(usage(size), 0..14),
        vec(fee(size), 0..4),
        credits(size),
        terms(size),
        agreed,
        option::of(0..PERIODS),
        carried,
    )
        .prop_map(|(usage, fees, credits, terms, agreed, over, (drawn, paid))| {
            let committed = terms.commitment.as_ref().map(|it| it.amount);
            let drawn = drawn.zip(committed).filter(|_| agreed.0 == 0).map(|(a, b)| a.min(b));
            let paid = paid.zip(credits.first()).map(|(paid, credit)| (0, paid.min(credit.available)));
            let carried = Carried {
                drawn_down: drawn.map(|it| (month(0), it)).into_iter().collect(),
                credits_drawn: paid.into_iter().collect(),
            };
            World { groups: groups(), usage, fees, credits, terms, agreed, over, carried }
        })
}
