//! Cards and contracts against an oracle that asks for one instant at a time.

#![cfg(test)]

use hourglass_pricing::{
    CardError, Contract, ContractDraft, PriceBook, PriceBookError, PriceDraft, PriceTimeline, PurchaseModel,
    RateCard, RateCardDraft, Sku,
};
use hourglass_units::{Currency, INSTANT_MAX, INSTANT_MIN, Instant, Price, TenantId};
use proptest::collection::{btree_set, vec};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;

/// The whole world of the test in milliseconds, so that chance hits every edge.
const WORLD: i64 = 60;

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

fn sku(platform: &str) -> Sku {
    Sku { platform: platform.parse().unwrap(), region: "eu".parse().unwrap(), model: PurchaseModel::OnDemand }
}

fn draft(platform: &str, nanos: i64, from: Option<i64>, until: Option<i64>) -> PriceDraft {
    let Sku { platform, region, model } = sku(platform);
    let (price, from, until) = (Price::from_nanos(nanos).unwrap(), from.map(at), until.map(at));
    PriceDraft { platform, region, model, price, from, until, components: Vec::new() }
}

/// One SKU's prices over `[from, until)`, cut at `cuts`: each stretch costs its own number.
fn tiling(platform: &str, cuts: &[i64], from: i64, until: Option<i64>, first: i64) -> Vec<PriceDraft> {
    let inner = cuts.iter().filter(|cut| from < **cut && until.is_none_or(|until| **cut < until));
    let starts: Vec<i64> = std::iter::once(from).chain(inner.copied()).collect();
    let ends = starts.iter().skip(1).map(|end| Some(*end)).chain([until]);
    starts
        .iter()
        .zip(ends)
        .zip(first..)
        .map(|((start, end), nanos)| draft(platform, nanos, Some(*start), end))
        .collect()
}

fn card(name: &str, version: u32, from: i64, prices: Vec<PriceDraft>) -> RateCardDraft {
    let (name, currency) = (name.parse().unwrap(), Currency::USD);
    RateCardDraft { name, version, currency, effective_from: at(from), prices }
}

fn deal(name: &str, version: u32, from: i64, until: Option<i64>, prices: Vec<PriceDraft>) -> ContractDraft {
    let (effective_from, effective_until) = (at(from), until.map(at));
    let terms = hourglass_pricing::terms::Terms::default();
    ContractDraft { name: name.parse().unwrap(), version, effective_from, effective_until, prices, terms }
}

/// Sorted, apart from one another.
fn check_shape(timeline: &PriceTimeline) {
    let steps = timeline.steps();
    assert!(steps.windows(2).all(|pair| pair[0].interval.end() <= pair[1].interval.start()), "{steps:?}");
}

fn cuts() -> impl Strategy<Value = Vec<i64>> {
    btree_set(1..WORLD, 0..6).prop_map(|cuts| cuts.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-1: a tiling is taken in any order of its prices, and each instant costs what its stretch says.
    #[test]
    fn p1_a_tiling_is_taken_whole(
        cuts in cuts(),
        from in 0..WORLD,
        order in vec(any::<Index>(), 14),
    ) {
        let sorted = tiling("h100", &cuts, from, None, 1);
        let mut prices = sorted.clone();
        prices.extend(tiling("b200", &cuts, from, None, 100));
        for last in (1..prices.len()).rev() {
            prices.swap(last, order[last % order.len()].index(last + 1));
        }
        let card = RateCard::check(card("list", 1, from, prices)).unwrap();
        let timeline = &card.prices()[&sku("h100")];
        check_shape(timeline);
        for instant in 0..WORLD + 2 {
            let holds = |it: &&PriceDraft| {
                it.from.unwrap() <= at(instant) && it.until.is_none_or(|until| at(instant) < until)
            };
            let expected = sorted.iter().find(holds).map(|it| it.price);
            assert_eq!(timeline.at(at(instant)).map(|step| step.price), expected);
        }
        assert_eq!(timeline.priced_from(), Some(at(from)));
    }

    /// P-1: one millisecond less or more, a price that is gone or there twice: all of it is refused.
    #[test]
    fn p1_a_broken_tiling_is_refused(
        cuts in cuts(),
        from in 0..WORLD,
        until in proptest::option::of(WORLD + 1..2 * WORLD),
        which in any::<Index>(),
        fault in 0..6,
    ) {
        let good = tiling("h100", &cuts, from, until, 1);
        let check = |prices| Contract::check("acme".parse().unwrap(), deal("deal", 1, from, until, prices)).err();
        assert_eq!(check(good.clone()), None);
        let mut prices = good.clone();
        let place = which.index(prices.len());
        let end = prices[place].until.unwrap_or(INSTANT_MAX);
        match fault {
            0 => {
                prices.remove(place);
            }
            1 => prices.push(prices[place].clone()),
            2 => prices[place].from = Some(prices[place].from.unwrap().saturating_add_ms(1)),
            3 => prices[place].until = Some(end.saturating_add_ms(-1)),
            4 if place > 0 => prices[place].from = Some(prices[place].from.unwrap().saturating_add_ms(-1)),
            _ if end < INSTANT_MAX => prices[place].until = Some(end.saturating_add_ms(1)),
            _ => prices.clear(),
        }
        let error = check(prices).expect("it does not tile");
        let expected = match fault {
            0 => matches!(error, CardError::Gap { .. } | CardError::SaysNothing { .. }),
            1 => matches!(error, CardError::Overlap { .. }),
            2 | 3 => matches!(error, CardError::Gap { .. } | CardError::Reversed { .. }),
            _ => {
                let beyond = matches!(error, CardError::Outside { .. } | CardError::SaysNothing { .. });
                beyond || matches!(error, CardError::Overlap { .. })
            }
        };
        assert!(expected, "fault {fault}: {error}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Card { from: i64, cuts: Vec<i64>, both: bool },
    Deal { name: usize, from: i64, length: Option<i64>, cuts: Vec<i64>, both: bool },
    Advance(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..WORLD, cuts(), proptest::bool::weighted(0.8)).prop_map(|(from, cuts, both)| Step::Card {
            from,
            cuts,
            both
        }),
        (0..2_usize, 0..WORLD, proptest::option::of(1..WORLD), cuts(), any::<bool>())
            .prop_map(|(name, from, length, cuts, both)| Step::Deal { name, from, length, cuts, both }),
        (1..6_i64).prop_map(Step::Advance),
    ]
}

/// Every price ever put in force: SKU, stretch, price, name; in order.
type InForce = Vec<(&'static str, i64, i64, i64, String)>;

fn facts(prices: &[PriceDraft], until: i64, name: &str) -> InForce {
    let fact = |it: &PriceDraft| {
        let platform = if it.platform.as_str() == "h100" { "h100" } else { "b200" };
        let end = it.until.map_or(until, Instant::unix_ms);
        (platform, it.from.unwrap().unix_ms(), end, it.price.nanos(), name.to_owned())
    };
    prices.iter().map(fact).collect()
}

fn last_covering(facts: &InForce, platform: &str, instant: i64) -> Option<i64> {
    let mut covering = facts.iter().rev().filter(|it| it.0 == platform && it.1 <= instant && instant < it.2);
    covering.next().map(|it| it.3)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-1: contracts laid over cards, versions over versions: at each instant the last word holds, and
    /// what had a price keeps one.
    #[test]
    fn p1_the_book_agrees_with_an_oracle_at_every_instant(steps in vec(step(), 1..14)) {
        let forever = INSTANT_MAX.unix_ms();
        let mut book = PriceBook::default();
        let (mut now, mut next) = (0, 1);
        let (mut listed, mut agreed) = (InForce::new(), InForce::new());
        let mut versions = [0, 0, 0];
        let tenant: TenantId = "acme".parse().unwrap();
        for step in steps {
            let mut prices = Vec::new();
            let mut price = |from, until, cuts: &[i64], both| {
                prices.extend(tiling("h100", cuts, from, until, next));
                if both {
                    prices.extend(tiling("b200", cuts, from, until, next + 50));
                }
                next += 100;
                std::mem::take(&mut prices)
            };
            match step {
                Step::Advance(by) => now += by,
                Step::Card { from, cuts, both } => {
                    let prices = price(from, None, &cuts, both);
                    let card = RateCard::check(card("list", versions[2] + 1, from, prices.clone())).unwrap();
                    let before = listed.clone();
                    match book.check_card(&card, at(now)) {
                        Ok(()) => {
                            versions[2] += 1;
                            book.publish(card);
                            listed.extend(facts(&prices, forever, "list"));
                            // What was priced before keeps its price up to the change, and has one after.
                            for instant in 0..from {
                                let old = last_covering(&before, "h100", instant);
                                assert_eq!(last_covering(&listed, "h100", instant), old);
                            }
                        }
                        Err(PriceBookError::TakesEffectInThePast { earliest, .. }) => assert!(at(from) < earliest),
                        Err(PriceBookError::ForgetsSku { sku, .. }) => assert!(!both && sku == self::sku("b200")),
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Deal { name, from, length, cuts, both } => {
                    let until = length.map(|length| from + length);
                    let prices = price(from, until, &cuts, both);
                    let names = ["a", "b"];
                    let draft = deal(names[name], versions[name] + 1, from, until, prices.clone());
                    let contract = Contract::check(tenant.clone(), draft).unwrap();
                    let until = until.unwrap_or(forever);
                    let mine = facts(&prices, until, names[name]);
                    match book.check_contract(&contract, Currency::USD, at(now)) {
                        Ok(()) => {
                            versions[name] += 1;
                            book.sign(contract);
                            agreed.extend(mine);
                        }
                        Err(PriceBookError::OverlapsOther { interval, .. }) => {
                            let (from, until) = (interval.start().unix_ms(), interval.end().unix_ms());
                            let meets = |it: &(&str, i64, i64, i64, String)| {
                                it.4 != names[name] && it.1 < until && from < it.2
                            };
                            assert!(agreed.iter().any(meets), "an overlap that is none: {interval}");
                        }
                        Err(PriceBookError::TakesEffectInThePast { earliest, .. }) => assert!(at(from) < earliest),
                        Err(PriceBookError::NotOnAnyCard { sku, .. }) => {
                            let platform = sku.platform.as_str();
                            assert_eq!(last_covering(&listed, platform, from), None);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        for platform in ["h100", "b200"] {
            let timeline = book.timeline(&tenant, Currency::USD, &sku(platform));
            check_shape(&timeline);
            let list = book.timeline(&"other".parse().unwrap(), Currency::USD, &sku(platform));
            check_shape(&list);
            for instant in (0..2 * WORLD + 2).chain([forever - 1]) {
                let listed = last_covering(&listed, platform, instant);
                assert_eq!(list.at(at(instant)).map(|step| step.price.nanos()), listed);
                let expected = last_covering(&agreed, platform, instant).or(listed);
                let got = timeline.at(at(instant)).map(|step| step.price.nanos());
                assert_eq!(got, expected, "{platform} at {instant}");
            }
            assert_eq!(book.timeline(&tenant, Currency::EUR, &sku("other")).steps(), []);
        }
    }
}

#[test]
fn what_does_not_fit_the_book_is_refused_with_its_reason() {
    let mut book = PriceBook::default();
    let list =
        |version, from| RateCard::check(card("list", version, from, vec![draft("h100", 1, None, None)]));
    book.publish(list(1, 10).unwrap());
    let check = |draft: RateCardDraft, now: i64, expected: &str| {
        let error = book.check_card(&RateCard::check(draft).unwrap(), at(now)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let one = || vec![draft("h100", 2, None, None)];
    check(card("list", 1, 20, one()), 0, "next version of list is 2");
    check(card("list", 3, 20, one()), 0, "next version of list is 2");
    check(card("list", 2, 19, one()), 20, "before 1970-01-01T00:00:00.020Z");
    check(card("list", 2, 10, one()), 0, "before 1970-01-01T00:00:00.011Z");
    check(
        card("list", 2, 20, vec![draft("b200", 2, None, None)]),
        0,
        "h100 in eu, on_demand, which list@1 has",
    );
    check(card("other", 1, 0, one()), 0, "an overlap");
    check(RateCardDraft { currency: Currency::EUR, ..card("list", 2, 20, one()) }, 0, "another name");
    book.check_card(&list(2, 20).unwrap(), at(20)).unwrap();
    // Another currency is another list.
    let euro = RateCardDraft { currency: Currency::EUR, ..card("euro", 1, 0, one()) };
    book.check_card(&RateCard::check(euro).unwrap(), INSTANT_MIN).unwrap();
}

/// The contract that the documentation shows is one.
#[test]
fn the_contract_of_the_documentation_holds_together() {
    let page = include_str!("../../docs/pricing.md");
    let (_, from) = page.split_once("```toml\n").expect("an example");
    let (example, _) = from.split_once("```").expect("its end");
    let draft: ContractDraft = toml::from_str(example).unwrap();
    let contract = hourglass_pricing::Contract::check("acme".parse().unwrap(), draft).unwrap();
    assert!(contract.terms().counts_periods());
    hourglass_pricing::check_periods(&contract, &hourglass_pricing::calendar::Calendar::default()).unwrap();
}
