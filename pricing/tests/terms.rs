//! Contracts with rules: what is refused, and what a tenant then pays.

#![cfg(test)]

use hourglass_pricing::calendar::Calendar;
use hourglass_pricing::terms::Terms;
use hourglass_pricing::{
    CardVersion, Contract, ContractDraft, PriceBook, PriceDraft, PurchaseModel, RateCard, RateCardDraft,
    Rerating, Sku, SpotPool, check_periods,
};
use hourglass_units::{Amount, Currency, Instant, Interval, Price, TenantId};

fn at(text: &str) -> Instant {
    let rest = &"2026-01-01T00:00:00Z"[text.len()..];
    format!("{text}{rest}").parse().unwrap()
}

fn interval(from: &str, until: &str) -> Interval {
    Interval::new(at(from), at(until)).unwrap()
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn sku(platform: &str, model: PurchaseModel) -> Sku {
    Sku { platform: platform.parse().unwrap(), region: "eu".parse().unwrap(), model }
}

fn h100() -> Sku {
    sku("h100", PurchaseModel::OnDemand)
}

fn price(of: &Sku, price: &str) -> PriceDraft {
    let Sku { platform, region, model } = of.clone();
    let price = Price::parse(price).unwrap();
    PriceDraft { platform, region, model, price, from: None, until: None, components: Vec::new() }
}

fn card(name: &str, version: u32, from: &str, prices: Vec<PriceDraft>) -> RateCard {
    let (name, currency) = (name.parse().unwrap(), Currency::USD);
    RateCard::check(RateCardDraft { name, version, currency, effective_from: at(from), prices }).unwrap()
}

fn deal(name: &str, version: u32, from: &str, until: &str, terms: &str) -> ContractDraft {
    ContractDraft {
        name: name.parse().unwrap(),
        version,
        effective_from: at(from),
        effective_until: (!until.is_empty()).then(|| at(until)),
        prices: Vec::new(),
        terms: toml::from_str(terms).unwrap(),
    }
}

fn contract(draft: ContractDraft) -> Contract {
    Contract::check(tenant(), draft).unwrap()
}

/// H100 and B200 on demand, H100 on spot, from 2026 on.
fn book() -> PriceBook {
    let mut book = PriceBook::default();
    let spot = sku("h100", PurchaseModel::Spot);
    let b200 = sku("b200", PurchaseModel::OnDemand);
    book.publish(card("list", 1, "2026", vec![price(&h100(), "3"), price(&b200, "5"), price(&spot, "1")]));
    book
}

fn paid(book: &PriceBook, sku: &Sku, when: &str) -> String {
    let timeline = book.timeline(&tenant(), Currency::USD, sku);
    let step = timeline.at(at(when)).unwrap();
    let off =
        step.list.as_ref().map(|(source, price)| format!(" off {price} of {source}")).unwrap_or_default();
    format!("{} by {}{off}", step.price, step.source)
}

#[test]
fn rules_that_cannot_be_are_refused_with_the_place_named() {
    let check_until = |terms: &str, until: &str, expected: &str| {
        let got = match Contract::check(tenant(), deal("deal", 1, "2026", until, terms)) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(got.contains(expected), "{terms}: {got:?} should contain {expected:?}");
    };
    let check = |terms: &str, expected: &str| check_until(terms, "2027", expected);
    check("", "deal@1 has neither prices nor terms");
    let discount = |rest: &str| format!("[[discounts]]\n{rest}\n");
    check(&discount("percent_off = \"100\""), "taken");
    check(&discount("percent_off = \"100.5\""), "deal@1: discount 1: 100.5 percent is more than all of it");
    check(
        &discount("percent_off = \"5\"\nscope = { model = \"spot\" }"),
        "discount 1 is on spot: its price is the market's",
    );
    check(
        &discount("percent_off = \"5\"\nscope = { model = \"reserved\" }"),
        "a reservation carries its own price",
    );
    check(&discount("percent_off = \"5\"\nscope = { project = \"p\" }"), "discount 1 names a project");
    let h100 = discount("percent_off = \"5\"\nscope = { platform = \"h100\" }");
    check(
        &(h100.clone() + &discount("percent_off = \"7\"\nscope = { region = \"eu\" }")),
        "discounts 1 and 2 can be about the same",
    );
    check(&(h100 + &discount("percent_off = \"7\"\nscope = { platform = \"b200\" }")), "taken");

    let allowance = |rest: &str| format!("[[allowances]]\n{rest}\n");
    check(&allowance("gpu_hours = \"1\""), "taken");
    check(&allowance("gpu_hours = \"0\""), "allowance 1 is 0: give more than 0");
    check(&allowance("gpu_hours = \"-1\""), "allowance 1 is -1");
    check(&allowance("gpu_hours = \"1\"").repeat(2), "allowances 1 and 2 can be about the same");
    check(
        &(allowance("gpu_hours = \"1\"") + &allowance("gpu_hours = \"1\"\nscope = { model = \"spot\" }")),
        "taken",
    );
    check(&allowance("gpu_hours = \"1\"\nscope = { model = \"reserved\" }"), "its hours are paid for");
    let many: String = (0..101)
        .map(|n| allowance(&format!("gpu_hours = \"1\"\nscope = {{ project = \"p{n}\" }}")))
        .collect();
    check(&many, "allowances has 101 entries: at most 100");

    let tiers = |tiers: &str| format!("[[tiers]]\ntiers = [{tiers}]\n");
    check(&tiers("{ above = \"0\", price = \"1\" }, { above = \"5\", percent_off = \"1\" }"), "taken");
    check(&tiers(""), "tier table 1 has no tiers");
    check(
        &tiers("{ above = \"1\", price = \"1\" }"),
        "tier 1 of table 1 begins above 1 GPU-hours: the first tier begins at 0",
    );
    let two = |second: &str| {
        tiers(&format!("{{ above = \"0\", price = \"1\" }}, {{ above = \"{second}\", price = \"1\" }}"))
    };
    check(&two("0"), "tier 2 of table 1 begins above 0 GPU-hours: it must be above 0");
    check(&two("-1"), "tier 2 of table 1 begins above -1 GPU-hours");
    check(&tiers("{ above = \"0\" }"), "has neither of price and percent_off");
    check(
        &tiers("{ above = \"0\", price = \"1\", percent_off = \"1\" }"),
        "has both of price and percent_off",
    );
    check(&tiers("{ above = \"0\", percent_off = \"101\" }"), "tier 1 of table 1: 101 percent");
    let many: Vec<String> = (0..101).map(|n| format!("{{ above = \"{n}\", price = \"1\" }}")).collect();
    check(&tiers(&many.join(",")), "tier table 1 has 101 entries: at most 100");
    check(&tiers("{ above = \"0\", price = \"1\" }").repeat(2), "tier tables 1 and 2");

    let commitment =
        |amount: &str| format!("[commitment]\namount = \"{amount}\"\noverage_percent = \"120\"\n");
    check(&commitment("0.01"), "taken");
    check(&commitment("0"), "the commitment is 0");
    check_until(&commitment("1"), "", "needs effective_until");
    check("minimum = \"-5\"", "the minimum is -5: give more than 0");

    let sla = |rest: &str| format!("[sla]\ncredit_percent = \"10\"\n{rest}\n");
    check(&sla("valid_days = 30\nxids = [79]"), "taken");
    check(&sla("valid_days = 30"), "names neither xids nor unreported_minutes");
    check(&sla("valid_days = 30\nunreported_minutes = 0"), "unreported_minutes 0: give between 1 and 60");
    check(&sla("valid_days = 30\nunreported_minutes = 61"), "unreported_minutes 61");
    check(&sla("valid_days = 0\nunreported_minutes = 5"), "valid_days 0: give between 1 and 3660");
    check(&sla("valid_days = 3661\nunreported_minutes = 5"), "valid_days 3661");
    check("[sla]\ncredit_percent = \"101\"\nvalid_days = 1\nxids = [1]", "the sla: 101 percent");
    check("[billing]\nanchor_day = 29", "anchor_day is 29");
    check("[billing]\ntime_zone = \"Mars/Olympus\"", "deal@1: unknown time zone \"Mars/Olympus\"");
    check("[billing]\ntime_zone = \"Europe/Berlin\"\nanchor_day = 28", "taken");
}

#[test]
fn rules_that_count_begin_and_end_with_a_period() {
    let calendar = Calendar::default();
    let check = |from: &str, until: &str, terms: &str, expected: &str| {
        let got = check_periods(&contract(deal("deal", 1, from, until, terms)), &calendar);
        let got = got.map_or_else(|error| error.to_string(), |()| "taken".to_owned());
        assert!(got.contains(expected), "{got}");
    };
    let (minimum, discount) = ("minimum = \"5\"", "[[discounts]]\npercent_off = \"5\"");
    check("2026-02", "2026-04", minimum, "taken");
    check("2026-02", "", minimum, "taken");
    check("2026-02-03", "2026-04-05", discount, "taken");
    check(
        "2026-02-03",
        "2026-04",
        minimum,
        "begins at 2026-02-03T00:00:00Z, within a billing period that its rules count: let it do so at 2026-02-01T00:00:00Z or at 2026-03-01T00:00:00Z",
    );
    check("2026-02", "2026-04-05", minimum, "ends at 2026-04-05T00:00:00Z");
}

#[test]
fn discounts_follow_the_list_and_versions_lie_over_one_another() {
    let mut book = book();
    let sign = |book: &mut PriceBook, draft| {
        let it = contract(draft);
        book.check_contract(&it, Currency::USD, at("2026")).unwrap();
        book.sign(it);
    };
    let discount =
        |off: &str| format!("[[discounts]]\npercent_off = \"{off}\"\nscope = {{ platform = \"h100\" }}");
    sign(&mut book, deal("deal", 1, "2026-02", "2026-10", &discount("10")));
    let b200 = sku("b200", PurchaseModel::OnDemand);
    let spot = sku("h100", PurchaseModel::Spot);
    assert_eq!(paid(&book, &h100(), "2026-01"), "3 by list@1");
    assert_eq!(paid(&book, &h100(), "2026-02"), "2.7 by deal@1 off 3 of list@1");
    assert_eq!(paid(&book, &h100(), "2026-10"), "3 by list@1");
    assert_eq!(paid(&book, &b200, "2026-02"), "5 by list@1");
    assert_eq!(paid(&book, &spot, "2026-02"), "1 by list@1");

    // A later version with a price for one SKU and a discount on another.
    let prices = vec![price(&h100(), "2.5")];
    let b200_off = "[[discounts]]\npercent_off = \"20\"";
    sign(&mut book, ContractDraft { prices, ..deal("deal", 2, "2026-04", "2026-06", b200_off) });
    assert_eq!(paid(&book, &h100(), "2026-04"), "2.5 by deal@2");
    assert_eq!(paid(&book, &h100(), "2026-06"), "2.7 by deal@1 off 3 of list@1");
    assert_eq!(paid(&book, &b200, "2026-05"), "4 by deal@2 off 5 of list@1");

    // The list changes, and later its past.
    let prices = || vec![price(&h100(), "4"), price(&b200, "6"), price(&spot, "1")];
    book.publish(card("list", 2, "2026-05", prices()));
    assert_eq!(paid(&book, &h100(), "2026-08"), "3.6 by deal@1 off 4 of list@2");
    let rerating = |name: &str, nanos: &str, from: &str, until: &str, tenant: Option<TenantId>| Rerating {
        card: card(name, 1, "2026", vec![price(&h100(), nanos)]),
        interval: interval(from, until),
        tenant,
    };
    let rerate = |book: &mut PriceBook, it: Rerating| {
        book.check_rerating(&it, Currency::USD, at("2026-12")).unwrap();
        book.rerate(it);
    };
    rerate(&mut book, rerating("goodwill", "2", "2026-03", "2026-09", None));
    assert_eq!(paid(&book, &h100(), "2026-03"), "1.8 by deal@1 off 2 of goodwill@1");
    assert_eq!(paid(&book, &h100(), "2026-04"), "2.5 by deal@2");
    assert_eq!(paid(&book, &h100(), "2026-09"), "3.6 by deal@1 off 4 of list@2");
    let other = book.timeline(&"other".parse().unwrap(), Currency::USD, &h100());
    assert_eq!(other.at(at("2026-04")).unwrap().price, Price::parse("2").unwrap());
    rerate(&mut book, rerating("sorry", "0.5", "2026-04", "2026-05", Some(tenant())));
    rerate(&mut book, rerating("later", "7", "2026-03", "2026-05", None));
    assert_eq!(paid(&book, &h100(), "2026-04"), "0.5 by sorry@1");
    assert_eq!(paid(&book, &h100(), "2026-03"), "6.3 by deal@1 off 7 of later@1");
    assert_eq!(paid(&book, &h100(), "2026-05"), "2.5 by deal@2");
    assert_eq!(paid(&book, &h100(), "2026-07"), "1.8 by deal@1 off 2 of goodwill@1");
    assert_eq!(book.reratings().len(), 3);
    // What is published afterwards holds from its start on, for what was re-rated as well.
    book.publish(card("list", 3, "2027", vec![price(&h100(), "8"), price(&b200, "6"), price(&spot, "1")]));
    assert_eq!(paid(&book, &h100(), "2027"), "8 by list@3");
    assert_eq!(paid(&book, &h100(), "2026-07"), "1.8 by deal@1 off 2 of goodwill@1");

    // Snapshots are binary, and know fields by place.
    let bytes = postcard::to_stdvec(&book).unwrap();
    assert_eq!(postcard::from_bytes::<PriceBook>(&bytes).unwrap(), book);
}

#[test]
fn terms_read_back_in_every_form() {
    let text = "minimum = \"5\"\n[[discounts]]\npercent_off = \"5\"\n[[allowances]]\ngpu_hours = \"1.5\"\nscope = { project = \"p\" }\n\
                [[tiers]]\ntiers = [{ above = \"0\", price = \"1\" }]\n[commitment]\namount = \"9\"\noverage_percent = \"100\"\n\
                [sla]\ncredit_percent = \"10\"\nvalid_days = 30\nxids = [79]\n[billing]\nanchor_day = 5";
    let one = contract(deal("deal", 1, "2026", "2027", text));
    assert_eq!(toml::from_str::<Terms>(&toml::to_string(one.terms()).unwrap()).unwrap(), *one.terms());
    let bytes = postcard::to_stdvec(&one).unwrap();
    assert_eq!(postcard::from_bytes::<Contract>(&bytes).unwrap(), one);
    // What was checked passes again: a contract is written down as it came out.
    let again = ContractDraft { terms: one.terms().clone(), ..deal("deal", 1, "2026", "2027", "") };
    assert_eq!(contract(again), one);
}

#[test]
fn contracts_that_do_not_fit_beside_one_another_are_refused() {
    let mut book = book();
    book.sign(contract(deal(
        "a",
        1,
        "2026-02",
        "2026-08",
        "minimum = \"5\"\n[[discounts]]\npercent_off = \"5\"\nscope = { platform = \"h100\" }",
    )));
    book.sign(contract(deal(
        "c",
        1,
        "2028",
        "2029",
        "[commitment]\namount = \"9\"\noverage_percent = \"100\"",
    )));
    let check = |draft: ContractDraft, expected: &str| {
        let got = book.check_contract(&contract(draft), Currency::USD, at("2026"));
        let got = got.map_or_else(|error| error.to_string(), |()| "taken".to_owned());
        assert!(got.contains(expected), "{got}");
    };
    let discount = "[[discounts]]\npercent_off = \"7\"\n";
    let priced = |sku: &Sku, from: &str, until: &str| ContractDraft {
        prices: vec![price(sku, "2")],
        ..deal("b", 1, from, until, "")
    };
    check(
        priced(&h100(), "2026-03", "2027"),
        "b@1 prices h100 in eu, on_demand over [2026-03-01T00:00:00Z, 2026-08-01T00:00:00Z), which a@1 prices already",
    );
    check(priced(&h100(), "2026-08", "2027"), "taken");
    check(priced(&sku("b200", PurchaseModel::OnDemand), "2026-03", "2027"), "taken");
    check(deal("b", 1, "2026-03", "2027", discount), "b@1 and a@1 both bring a discount on the same SKUs");
    check(
        deal(
            "b",
            1,
            "2026-03",
            "2027",
            "[[discounts]]\npercent_off = \"7\"\nscope = { platform = \"b200\" }",
        ),
        "taken",
    );
    check(deal("b", 1, "2026-03", "2027", "minimum = \"1\""), "both bring rules that count billing periods");
    check(deal("b", 1, "2026-08", "2027", "minimum = \"1\""), "taken");
    check(deal("a", 2, "2026-03", "2027", "minimum = \"1\""), "taken");
    check(
        deal("c", 2, "2028-03", "2030", discount),
        "c@2 takes effect at 2028-03-01T00:00:00Z, within the commitment of c@1, which runs until 2029-01-01T00:00:00Z",
    );
    check(deal("c", 2, "2029", "2030", discount), "taken");
    check(priced(&sku("tpu", PurchaseModel::OnDemand), "2026-03", "2027"), "which no USD rate card prices");
}

#[test]
fn agreements_are_those_in_force_in_each_period() {
    let mut book = book();
    let minimum = |n: u32| format!("minimum = \"{n}\"");
    book.sign(contract(deal("a", 1, "2026-02", "", &minimum(1))));
    book.sign(contract(deal("a", 2, "2026-04", "2026-06", &minimum(2))));
    // Counts nothing, so the rules before it stay.
    book.sign(contract(deal(
        "a",
        3,
        "2026-05",
        "",
        "[sla]\ncredit_percent = \"10\"\nvalid_days = 30\nxids = [79]",
    )));
    let shown: Vec<String> = book
        .agreements(&tenant(), &Calendar::default())
        .iter()
        .map(|it| {
            format!(
                "{} {} {:?} {}",
                it.source,
                it.first,
                it.last.map(|it| it.to_string()),
                it.terms.minimum.unwrap()
            )
        })
        .collect();
    assert_eq!(
        shown,
        ["a@1 2026-02 Some(\"2026-03\") 1", "a@2 2026-04 Some(\"2026-05\") 2", "a@1 2026-06 None 1"]
    );
    assert!(book.agreements(&"other".parse().unwrap(), &Calendar::default()).is_empty());
    assert_eq!(book.sla_at(&tenant(), at("2026-04")), None);
    let expected = CardVersion { name: "a".parse().unwrap(), version: 3 };
    assert_eq!(book.sla_at(&tenant(), at("2026-05")).map(|(source, _)| source), Some(&expected));
    assert_eq!(Amount::ZERO.to_string(), "0");
}

fn pool(currency: Currency, sku: &Sku) -> SpotPool {
    SpotPool { currency, sku: sku.clone(), fabric: None }
}

#[test]
fn spot_prices_only_ever_grow_at_their_end() {
    let mut book = book();
    let spot = sku("h100", PurchaseModel::Spot);
    let one = Price::parse("1.2").unwrap();
    let check = |book: &PriceBook, sku: &Sku, from: &str, earliest: &str, expected: &str| {
        let got = book.check_spot(&pool(Currency::USD, sku), at(from), one, at(earliest));
        let got = got.map_or_else(|error| error.to_string(), |()| "taken".to_owned());
        assert!(got.contains(expected), "{got}");
    };
    check(&book, &h100(), "2026-02", "2026", "h100 in eu, on_demand has no spot price");
    check(&book, &sku("b200", PurchaseModel::Spot), "2026-02", "2026", "has no USD list price at");
    check(&book, &spot, "2025-12", "2025", "has no USD list price at 2025-12-01");
    check(&book, &spot, "2026-02", "2026-03", "the earliest start allowed is 2026-03-01T00:00:00Z");
    check(&book, &spot, "2026-02", "2026-02", "taken");
    assert_eq!(book.spot(&pool(Currency::USD, &spot)), None);
    book.set_spot(pool(Currency::USD, &spot), at("2026-02"), one);
    check(&book, &spot, "2026-02", "2026-02", "the earliest start allowed is 2026-02-01T00:00:00.001Z");
    check(&book, &spot, "2026-03", "2026-02", "taken");
    assert_eq!(book.spot(&pool(Currency::USD, &spot)).unwrap().last(), Some((at("2026-02"), one)));
    assert_eq!(book.spot(&pool(Currency::EUR, &spot)), None);
    let of_fabric = SpotPool { fabric: Some("fabric-1".parse().unwrap()), ..pool(Currency::USD, &spot) };
    assert_eq!(book.spot(&of_fabric), None, "each fabric is a pool of its own");
    book.set_spot(of_fabric, at("2026-03"), one);
    assert_eq!(book.spots(Currency::USD, &spot).count(), 2);
    assert_eq!(book.spots(Currency::EUR, &spot).count(), 0);

    let rerating = |sku: &Sku, from: &str, until: &str| Rerating {
        card: card("fix", 1, "2025", vec![price(sku, "2")]),
        interval: interval(from, until),
        tenant: None,
    };
    let check = |it: Rerating, currency, expected: &str| {
        let got = book.check_rerating(&it, currency, at("2026-06"));
        let got = got.map_or_else(|error| error.to_string(), |()| "taken".to_owned());
        assert!(got.contains(expected), "{got}");
    };
    let usd = Currency::USD;
    check(rerating(&spot, "2026-01", "2026-02"), usd, "taken");
    check(
        rerating(&spot, "2026-01", "2026-03"),
        usd,
        "after 2026-02-01T00:00:00Z, when its pool sets the price",
    );
    check(rerating(&h100(), "2026-01", "2026-06"), usd, "taken");
    check(
        rerating(&h100(), "2026-01", "2026-07"),
        usd,
        "but only time before 2026-06-01T00:00:00Z may be rated already",
    );
    check(
        rerating(&h100(), "2025-12", "2026-03"),
        usd,
        "over [2025-12-01T00:00:00Z, 2026-01-01T00:00:00Z), where there was no price",
    );
    check(
        rerating(&sku("tpu", PurchaseModel::OnDemand), "2026-01", "2026-03"),
        usd,
        "where there was no price",
    );
    check(
        rerating(&h100(), "2026-01", "2026-03"),
        Currency::EUR,
        "fix@1 is in USD, the tenant is billed in EUR",
    );
    let of_tenant = Rerating { tenant: Some(tenant()), ..rerating(&h100(), "2025-12", "2026-03") };
    check(of_tenant, usd, "where there was no price");
    let short = Rerating {
        card: card("fix", 1, "2026-02", vec![price(&h100(), "2")]),
        ..rerating(&h100(), "2026-01", "2026-03")
    };
    check(short, usd, "over [2026-01-01T00:00:00Z, 2026-02-01T00:00:00Z), where the card has no price");
}
