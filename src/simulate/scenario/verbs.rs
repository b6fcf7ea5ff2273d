//! What each verb means: its words into the command that it stands for.

use hourglass_ledger::core::{
    CREDIT_PRIORITY_DEFAULT, Command, CreditDraft, CreditKind, Mode, Policy, Registration, RerateDraft,
};
use hourglass_pricing::PurchaseModel;
use hourglass_pricing::reservation::{Payment, ReservationDraft};
use hourglass_pricing::tax::{Tax, TaxKind, TaxRounding};
use hourglass_units::{Currency, HOUR_MILLISECONDS, InstanceId, Instant, ProjectId, TenantId};
use serde::de::DeserializeOwned;

use super::lex::{Word, Words};
use super::parse::{Block, Parser};
use super::quota::{self, Named};
use super::{Act, Fault, REPORTS_MAX, ShortCard, Use, expect, market};

/// Who reports where no agent is named.
const AGENT: &str = "agent-1";

/// Each verb and how its step is written.
const FORMS: [(&str, &str); 24] = [
    ("cell", "cell [region=eu] [grace=3d] [skew=5m] [window=62d]"),
    ("tenant", "tenant TENANT CURRENCY [\"DISPLAY NAME\"]"),
    ("card", "card <<TOML"),
    ("price", "price PLATFORM on_demand|spot PRICE [CURRENCY] [from=TIME] [card=NAME]"),
    ("contract", "contract TENANT <<TOML"),
    ("instance", "instance INSTANCE TENANT/PROJECT PLATFORM xGPUS [MODE] [agent=AGENT] [hold=NAME]"),
    ("start", "start INSTANCE [at=TIME]"),
    ("stop", "stop INSTANCE [cause=TEXT] [at=TIME]"),
    (
        "mode",
        "mode INSTANCE MODE [at=TIME], MODE being on_demand, spot [limit=PRICE] [bid=BID] or reserved=RESERVATION",
    ),
    ("use", "use INSTANCE FROM..UNTIL [every=1h] [gpus=GPUS] [xid=CODE] [agent=AGENT]"),
    ("void-usage", "void-usage INSTANCE FROM..UNTIL [reason=TEXT]"),
    ("spot", "spot PLATFORM PRICE [CURRENCY] [from=TIME]"),
    (
        "reserve",
        "reserve RESERVATION TENANT/PROJECT PLATFORM xGPUS FROM..UNTIL PAYMENT, PAYMENT being upfront=PRICE, total=AMOUNT, monthly=PRICE or flex=HOLDING+USAGE [fabric=FABRIC]",
    ),
    ("amend", "amend RESERVATION TENANT until=TIME"),
    (
        "credit",
        "credit CREDIT TENANT prepaid|promotional AMOUNT [priority=100] [from=TIME] [until=TIME] [project=PROJECT] [platform=PLATFORM] [note=TEXT]",
    ),
    ("tax", "tax TENANT NAME PERCENT exclusive|inclusive line|total, or tax TENANT none"),
    ("rerate", "rerate FROM..UNTIL [tenant=TENANT] [into_closed] <<TOML"),
    ("tick", "tick, or tick every DURATION"),
    ("finalise", "finalise TENANT YYYY-MM, or finalise when_due, or finalise on_request"),
    ("pay", "pay TENANT NUMBER AMOUNT [reference=TEXT]"),
    ("void-invoice", "void-invoice TENANT NUMBER [reason=TEXT]"),
    ("credit-note", "credit-note TENANT"),
    ("close", "close YYYY-MM"),
    ("expect", "expect refused CODE, or expect SUBJECT … FIELD=VALUE"),
];

/// How the step of a verb is written.
pub(super) fn form(verb: &Word) -> Result<&'static str, Fault> {
    let all = || FORMS.iter().chain(&quota::FORMS).chain(&market::FORMS);
    let known = all().find(|(name, _)| *name == verb.text);
    known.map(|(_, form)| *form).ok_or_else(|| {
        let verbs: Vec<&str> = all().map(|(name, _)| *name).collect();
        verb.fault(format!("there is no step {:?}: use one of {}", verb.text, verbs.join(", ")))
    })
}

/// What happens in the step.
pub(super) fn act(
    parser: &mut Parser,
    mut words: Words,
    at: Instant,
    mut block: Option<Block>,
) -> Result<Act, Fault> {
    let verb = words.verb().to_owned();
    let act = match verb.as_str() {
        "tick" => tick(&mut words)?,
        "price" => Act::Prices(price(parser, &mut words, at)?),
        "use" => Act::Use(usage(parser, &mut words, at)?),
        "finalise" => finalise(&mut words)?,
        "expect" => Act::Expect(expect::expectation(parser, &mut words, at)?),
        verb if quota::FORMS.iter().any(|(name, _)| *name == verb) => {
            quota::act(parser, &mut words, at, &mut block)?
        }
        verb if market::FORMS.iter().any(|(name, _)| *name == verb) => market::act(parser, &mut words, at)?,
        "cell" => cell(parser, &mut words)?.into(),
        "tenant" => tenant(&mut words)?.into(),
        "card" => Command::PublishRateCard(toml(&words, block.take())?).into(),
        "contract" => Command::SignContract {
            tenant: words.value("the tenant")?,
            contract: toml(&words, block.take())?,
        }
        .into(),
        "instance" => instance(parser, &mut words)?,
        "start" => {
            let instance = words.value("the instance")?;
            Command::StartInstance { instance, at: words.named_time("at", at)?.unwrap_or(at) }.into()
        }
        "stop" => {
            let (instance, cause) = (words.value("the instance")?, words.named_text("cause"));
            Command::StopInstance { instance, cause, at: words.named_time("at", at)?.unwrap_or(at) }.into()
        }
        "mode" => {
            let (instance, mode) = (words.value("the instance")?, mode(&mut words)?);
            Command::ChangeMode { instance, mode, at: words.named_time("at", at)?.unwrap_or(at) }.into()
        }
        "close" => Command::ClosePeriod { month: words.value("the month")? }.into(),
        "rerate" => rerate(&mut words, at, block.take())?.into(),
        _ => money(&verb, &mut words, at)?.into(),
    };
    if let Some(block) = block {
        return Err(
            words.fault(format!("no text belongs here, but one follows line {}: leave it out", block.after))
        );
    }
    words.end()?;
    Ok(act)
}

/// The verbs about reservations, credits, invoices and prices of the market.
fn money(verb: &str, words: &mut Words, at: Instant) -> Result<Command, Fault> {
    Ok(match verb {
        "void-usage" => {
            let (instance, interval) =
                (words.value("the instance")?, words.next("the interval")?.interval(at)?);
            let (from, until) = (interval.start(), interval.end());
            Command::VoidUsage { instance, from, until, reason: words.named_text("reason") }
        }
        "spot" => Command::SetSpotPrice {
            platform: words.value("the platform")?,
            price: words.next("the price")?.price()?,
            currency: currency(words)?,
            fabric: words.named_value("fabric")?,
            from: words.named_time("from", at)?,
        },
        "reserve" => reserve(words, at)?,
        "amend" => {
            let (reservation, tenant) = (words.value("the reservation")?, words.value("the tenant")?);
            let until = words.named_time("until", at)?.ok_or_else(|| words.fault("until=TIME is missing"))?;
            Command::AmendReservation { tenant, reservation, until }
        }
        "credit" => credit(words, at)?,
        "tax" => tax(words)?,
        "pay" => Command::RecordPayment {
            tenant: words.value("the tenant")?,
            number: words.value("the number of the invoice")?,
            amount: words.next("the amount")?.amount()?,
            reference: words.named_text("reference"),
        },
        "void-invoice" => Command::VoidInvoice {
            tenant: words.value("the tenant")?,
            number: words.value("the number of the invoice")?,
            reason: words.named_text("reason"),
        },
        "credit-note" => Command::IssueCreditNote { tenant: words.value("the tenant")? },
        _ => return Err(words.fault(format!("there is no step {verb:?}"))),
    })
}

fn cell(parser: &mut Parser, words: &mut Words) -> Result<Command, Fault> {
    if let Some(region) = words.named_value("region")? {
        parser.region = Some(region);
    }
    let usual = Policy::default();
    let mut duration = |name: &str, usual: i64| words.named(name).map_or(Ok(usual), |word| word.duration());
    let policy = Policy {
        clock_skew_max_ms: duration("skew", usual.clock_skew_max_ms)?,
        acceptance_window_ms: duration("window", usual.acceptance_window_ms)?,
        grace_ms: duration("grace", usual.grace_ms)?,
    };
    Ok(Command::OpenCell { region: parser.region(words.verb_word())?, policy })
}

fn tenant(words: &mut Words) -> Result<Command, Fault> {
    let tenant: TenantId = words.value("the tenant")?;
    let currency = words.value("the currency")?;
    let display_name = words.more().map_or_else(|| tenant.to_string(), |word| word.text);
    Ok(Command::OpenTenant { tenant, currency, display_name })
}

fn tick(words: &mut Words) -> Result<Act, Fault> {
    if words.flag("every") {
        return Ok(Act::TickEvery(words.next("the duration")?.duration()?));
    }
    Ok(Command::Tick.into())
}

fn finalise(words: &mut Words) -> Result<Act, Fault> {
    let first = words.next("the tenant")?;
    match (first.text.as_str(), words.more()) {
        ("when_due", None) => Ok(Act::FinaliseWhenDue(true)),
        ("on_request", None) => Ok(Act::FinaliseWhenDue(false)),
        (_, None) => Err(first.fault("the period is missing: write `finalise acme 2026-01`")),
        (_, Some(period)) => {
            Ok(Command::FinaliseInvoice { tenant: first.value()?, period: period.value()? }.into())
        }
    }
}

fn currency(words: &mut Words) -> Result<Currency, Fault> {
    words.more().map_or(Ok(Currency::USD), |word| word.value())
}

fn price(parser: &Parser, words: &mut Words, at: Instant) -> Result<ShortCard, Fault> {
    let (platform, model) = (words.value("the platform")?, words.value("the purchase model")?);
    let price = words.next("the price")?.price()?;
    let currency = currency(words)?;
    let usual = || format!("list-{}", currency.code().to_ascii_lowercase());
    let name = match words.named_value("card")? {
        Some(name) => name,
        None => usual().parse().map_err(|error| words.fault(error))?,
    };
    let from = words.named_time("from", at)?.unwrap_or(at);
    let region = parser.region(words.verb_word())?;
    Ok(ShortCard { name, currency, from, region, prices: vec![(platform, model, price)] })
}

/// `TENANT/PROJECT`.
pub(super) fn place(words: &mut Words) -> Result<(TenantId, ProjectId), Fault> {
    let word = words.next("TENANT/PROJECT")?;
    let form = || word.fault(format!("{:?} is no TENANT/PROJECT: write it like acme/ml", word.text));
    let (tenant, project) = word.text.split_once('/').ok_or_else(form)?;
    let tenant = tenant.parse().map_err(|error| word.fault(error))?;
    Ok((tenant, project.parse().map_err(|error| word.fault(error))?))
}

/// `x8`.
pub(super) fn gpus(words: &mut Words) -> Result<u32, Fault> {
    let word = words.next("the number of GPUs")?;
    let count = word.text.strip_prefix('x').and_then(|count| count.parse().ok());
    count.ok_or_else(|| word.fault(format!("{:?} is no number of GPUs: write it like x8", word.text)))
}

fn mode(words: &mut Words) -> Result<Mode, Fault> {
    if let Some(reservation) = words.named_value("reserved")? {
        return Ok(Mode::Reserved { reservation });
    }
    let Some(word) = words.more() else { return Ok(Mode::OnDemand) };
    match word.value()? {
        PurchaseModel::OnDemand => Ok(Mode::OnDemand),
        PurchaseModel::Spot => {
            let limit = words.named("limit").map(|word| word.price()).transpose()?;
            Ok(Mode::Spot { bid: words.named_value("bid")?, limit, fabric: words.named_value("fabric")? })
        }
        PurchaseModel::Reserved => Err(word.fault("the reservation is missing: write reserved=RESERVATION")),
    }
}

fn instance(parser: &mut Parser, words: &mut Words) -> Result<Act, Fault> {
    let instance: InstanceId = words.value("the instance")?;
    let (tenant, project) = place(words)?;
    let (platform, gpus) = (words.value("the platform")?, gpus(words)?);
    let (mode, agent) = (mode(words)?, words.named_value("agent")?);
    // That of spot is its pool's, and was read with the mode.
    let fabric = words.named_value("fabric")?;
    parser.instances.insert(instance.clone(), (gpus, agent.clone()));
    let registration =
        Registration { instance, tenant, project, platform, mode, gpus, agent, hold: None, fabric };
    let command = Command::RegisterInstance(registration);
    let Some(hold) = words.named("hold") else { return Ok(command.into()) };
    parser.knows(&hold)?;
    Ok(Act::Named(Box::new(Named { makes: None, uses: Some(hold.text), command })))
}

fn usage(parser: &mut Parser, words: &mut Words, at: Instant) -> Result<Use, Fault> {
    let instance: InstanceId = words.value("the instance")?;
    let interval = words.next("the interval")?.interval(at)?;
    let every_ms = words.named("every").map_or(Ok(HOUR_MILLISECONDS), |word| word.duration())?;
    let known = parser.instances.get(&instance);
    let of_bid = market::unit_of(instance.as_str()).and_then(|(bid, _)| parser.units.get(bid));
    let of_step = known.map(|(gpus, _)| gpus).or(of_bid);
    let gpus = match (words.named_value("gpus")?, of_step) {
        (Some(gpus), _) => gpus,
        (None, Some(gpus)) => *gpus,
        (None, None) => {
            return Err(words.fault(format!("no step above made {instance} known: give its GPUs with gpus=")));
        }
    };
    let agent = match (words.named_value("agent")?, known.and_then(|(_, agent)| agent.clone())) {
        (Some(agent), _) | (None, Some(agent)) => agent,
        (None, None) => AGENT.parse().map_err(|error| words.fault(error))?,
    };
    let xid = words.named_value("xid")?;
    let reports = interval.milliseconds().div_euclid(every_ms).saturating_add(1);
    parser.reports = parser.reports.saturating_add(usize::try_from(reports).unwrap_or(usize::MAX));
    if parser.reports > REPORTS_MAX {
        return Err(
            words.fault(format!("the file makes more than {REPORTS_MAX} reports: give a longer every="))
        );
    }
    Ok(Use { instance, agent, gpus, interval, every_ms, xid })
}

fn reserve(words: &mut Words, at: Instant) -> Result<Command, Fault> {
    let reservation = words.value("the reservation")?;
    let (tenant, project) = place(words)?;
    let (platform, gpus) = (words.value("the platform")?, gpus(words)?);
    let interval = words.next("the interval")?.interval(at)?;
    let payment = if let Some(price) = words.named("upfront") {
        Payment::Upfront { price: price.price()? }
    } else if let Some(total) = words.named("total") {
        Payment::UpfrontTotal { total: total.amount()? }
    } else if let Some(price) = words.named("monthly") {
        Payment::Monthly { price: price.price()? }
    } else if let Some(flex) = words.named("flex") {
        let form = || flex.fault("flex has two prices: write it like flex=0.50+1.50");
        let (holding, usage) = flex.text.split_once('+').ok_or_else(form)?;
        let part = |text: &str| Word { text: text.to_owned(), ..flex.clone() }.price();
        Payment::Flex { holding: part(holding)?, usage: part(usage)? }
    } else {
        return Err(words.fault("how it is paid is missing: give upfront=, total=, monthly= or flex="));
    };
    let (from, until) = (interval.start(), interval.end());
    let reservation = ReservationDraft {
        reservation,
        project,
        platform,
        gpus,
        from,
        until,
        payment,
        fabric: words.named_value("fabric")?,
    };
    Ok(Command::Reserve { tenant, reservation })
}

fn credit(words: &mut Words, at: Instant) -> Result<Command, Fault> {
    let (credit, tenant) = (words.value("the credit")?, words.value("the tenant")?);
    let kind = words.next("prepaid or promotional")?;
    let kind = match kind.text.as_str() {
        "prepaid" => CreditKind::Prepaid,
        "promotional" => CreditKind::Promotional,
        "sla" => CreditKind::Sla,
        "yield" => CreditKind::Yield,
        other => {
            return Err(kind.fault(format!("{other:?} is no kind of credit: use prepaid or promotional")));
        }
    };
    let credit = CreditDraft {
        credit,
        kind,
        amount: words.next("the amount")?.amount()?,
        priority: words.named_value("priority")?.unwrap_or(CREDIT_PRIORITY_DEFAULT),
        valid_from: words.named_time("from", at)?,
        valid_until: words.named_time("until", at)?,
        project: words.named_value("project")?,
        platform: words.named_value("platform")?,
        note: words.named_text("note"),
    };
    Ok(Command::GrantCredit { tenant, credit })
}

fn tax(words: &mut Words) -> Result<Command, Fault> {
    let (tenant, name) = (words.value("the tenant")?, words.next("the name of the tax, or none")?.text);
    let Some(rate) = words.more() else {
        return match name.as_str() {
            "none" => Ok(Command::SetTax { tenant, tax: None }),
            _ => Err(words.fault("the percentage is missing: write `tax acme VAT 19 exclusive total`")),
        };
    };
    let (kind, rounding) = (words.next("exclusive or inclusive")?, words.next("line or total")?);
    let kind = match kind.text.as_str() {
        "exclusive" => TaxKind::Exclusive,
        "inclusive" => TaxKind::Inclusive,
        other => return Err(kind.fault(format!("{other:?} is neither exclusive nor inclusive"))),
    };
    let rounding = match rounding.text.as_str() {
        "line" => TaxRounding::Line,
        "total" => TaxRounding::Total,
        other => return Err(rounding.fault(format!("{other:?} is neither line nor total"))),
    };
    let tax = Tax { name, rate_percent: rate.value()?, kind, rounding };
    Ok(Command::SetTax { tenant, tax: Some(tax) })
}

fn rerate(words: &mut Words, at: Instant, block: Option<Block>) -> Result<Command, Fault> {
    let interval = words.next("the interval")?.interval(at)?;
    Ok(Command::Rerate(RerateDraft {
        card: toml(words, block)?,
        from: interval.start(),
        until: interval.end(),
        tenant: words.named_value("tenant")?,
        into_closed: words.flag("into_closed"),
    }))
}

/// Reads the text of a step.
pub(super) fn toml<T: DeserializeOwned>(words: &Words, block: Option<Block>) -> Result<T, Fault> {
    let Some(block) = block else {
        return Err(words.fault("its text is missing: end the line with <<TOML, and the text with TOML"));
    };
    toml::from_str(&block.text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = block.text.get(..at).unwrap_or_default();
        let line = block.after.saturating_add(1).saturating_add(before.matches('\n').count());
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count().saturating_add(1);
        Fault::new(line, column, error.message())
    })
}
