//! Who is told: budgets and webhooks in the core.

use hourglass_ledger::core::quotas::{Budget, BudgetAlert, BudgetDraft, QuotaCommand, QuotaEvent};
use hourglass_ledger::core::webhooks::{
    DisabledBy, Judgement, SECRET_OVERLAP_MS_MAX, SealedSecret, URL_LENGTH_MAX, WEBHOOKS_A_TENANT_MAX,
    Webhook, WebhookAction, WebhookCommand, WebhookDraft, WebhookStatus,
};
use hourglass_ledger::core::{
    Command, Event, IdempotencyKey, Outcome, Policy, Position, Recorded, TEXT_LENGTH_MAX,
};
use hourglass_pricing::PurchaseModel;
use hourglass_quota::budget::{BUDGETS_A_TENANT_MAX, Basis};
use hourglass_units::{Amount, Currency};

use super::support::{Core, DAY, HOUR, at, ms, registration, start, usage};

const BEGIN: &str = "2026-01-01T00:00:00Z";

fn prepared() -> Core {
    Core::open(ms(BEGIN), Policy::default(), &[("acme", Currency::USD), ("bolt", Currency::USD)])
}

fn check(core: &mut Core, command: impl Into<Command>, code: &str) {
    let before = (core.state.clone(), core.chain);
    let rejection = core.run(command.into()).expect_err(code);
    assert_eq!(rejection.code(), code, "{rejection}");
    assert_eq!((core.state.clone(), core.chain), before, "{code} left a trace");
}

fn draft(amount: &str, thresholds: &[&str], forecast: &[&str]) -> BudgetDraft {
    let percents = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect();
    BudgetDraft {
        description: String::new(),
        amount: Amount::parse(amount).unwrap(),
        project: None,
        platform: None,
        model: None,
        thresholds: percents(thresholds),
        forecast_thresholds: percents(forecast),
    }
}

fn set(tenant: &str, budget: &str, draft: Option<BudgetDraft>) -> QuotaCommand {
    QuotaCommand::SetBudget { tenant: tenant.parse().unwrap(), budget: budget.parse().unwrap(), draft }
}

fn budget<'a>(core: &'a Core, id: &str) -> &'a Budget {
    core.state.quotas().budget(&"acme".parse().unwrap(), &id.parse().unwrap()).unwrap()
}

/// A tick and the review behind it; answers with what of budgets it told.
fn tick(core: &mut Core) -> Vec<BudgetAlert> {
    core.run(Command::Tick).unwrap();
    match core.run(QuotaCommand::Review.into()) {
        Err(rejection) => {
            assert_eq!(rejection.code(), "nothing_due");
            Vec::new()
        }
        Ok(_) => match Recorded::decode(&core.events.last().unwrap().payload).unwrap().event {
            Event::Quota(QuotaEvent::Reviewed(review)) => review.budgets,
            other => panic!("{other:?}"),
        },
    }
}

fn told(alerts: &[BudgetAlert]) -> Vec<(String, Basis, String)> {
    let one = |it: &BudgetAlert| (it.budget.to_string(), it.basis, it.threshold.to_string());
    alerts.iter().map(one).collect()
}

/// An hour of 8 GPUs, and what that costs.
fn an_hour(core: &mut Core) {
    let now = core.now;
    core.now += HOUR;
    core.run(usage("i-1", 8, now, core.now)).unwrap();
}

#[test]
fn each_threshold_is_told_once_a_period() {
    let core = &mut prepared();
    core.run(Command::RegisterInstance(registration("i-1", "acme", 8))).unwrap();
    core.run(start("i-1", core.now)).unwrap();
    an_hour(core);
    tick(core);
    core.run(set("acme", "all", Some(draft("1000000", &["50"], &[]))).into()).unwrap();
    let an_hour_costs = budget(core, "all").spent;
    assert!(an_hour_costs > Amount::ZERO);
    let hours = |hours: i128| Amount::from_attos(an_hour_costs.attos() * hours).to_string();
    // Of ten hours: half and all of it, and what the month will be after its first day.
    core.run(set("acme", "all", Some(draft(&hours(10), &["50", "100"], &["100", "200"]))).into()).unwrap();
    core.run(set("bolt", "other", Some(draft("0.000001", &["1"], &[]))).into()).unwrap();
    let mut said = Vec::new();
    for hour in 2..=40 {
        an_hour(core);
        let alerts = tick(core);
        said.extend(told(&alerts).into_iter().map(|it| (hour, it)));
        let again = tick(core);
        assert!(again.is_empty(), "{hour}: told twice");
    }
    let all = |hour: i64, basis, percent: &str| (hour, ("all".to_owned(), basis, percent.to_owned()));
    // The month has 744 hours, so what is used all of the time is 74 times the budget in the end.
    let expected = [
        all(5, Basis::Actual, "50"),
        all(10, Basis::Actual, "100"),
        all(24, Basis::Forecast, "100"),
        all(24, Basis::Forecast, "200"),
    ];
    assert_eq!(said, expected);
    let it = budget(core, "all");
    assert_eq!((it.spent.to_string(), it.crossed.len()), (hours(40), 4));
    assert_eq!(it.projected.unwrap().to_string(), hours(744));
    // The same again changes nothing; another amount is looked at anew.
    let same = draft(&hours(10), &["50", "90", "100"], &["100"]);
    core.run(set("acme", "all", Some(same)).into()).unwrap();
    assert_eq!(told(&tick(core)), [("all".to_owned(), Basis::Actual, "90".to_owned())]);
    core.run(set("acme", "all", Some(draft(&hours(80), &["50"], &[]))).into()).unwrap();
    assert_eq!(told(&tick(core)), [("all".to_owned(), Basis::Actual, "50".to_owned())]);
    // A new period begins with nothing, and is told anew.
    core.now = ms("2026-02-01T00:00:00Z");
    assert!(tick(core).is_empty());
    assert_eq!((budget(core, "all").spent, budget(core, "all").crossed.len()), (Amount::ZERO, 0));
    core.run(set("acme", "all", Some(draft(&hours(1), &["50"], &[]))).into()).unwrap();
    an_hour(core);
    assert_eq!(told(&tick(core)).len(), 1);
    // What the log says is what the state says.
    assert_eq!(core.replay(core.state.position()).0, core.state);
}

#[test]
fn a_budget_counts_its_part_alone() {
    let core = &mut prepared();
    core.run(Command::RegisterInstance(registration("i-1", "acme", 8))).unwrap();
    core.run(start("i-1", core.now)).unwrap();
    an_hour(core);
    let platform = "h100".parse().unwrap();
    let project = core.state.instance("i-1").unwrap().project().clone();
    let of = |change: fn(&mut BudgetDraft)| {
        let mut draft = draft("1", &["100"], &[]);
        change(&mut draft);
        Some(draft)
    };
    let whole = draft("1", &["100"], &[]);
    let here = BudgetDraft { platform: Some(platform), project: Some(project), ..whole.clone() };
    for (id, draft) in [
        ("all", Some(whole)),
        ("here", Some(here)),
        ("on-demand", of(|it| it.model = Some(PurchaseModel::OnDemand))),
        ("spot", of(|it| it.model = Some(PurchaseModel::Spot))),
        ("elsewhere", of(|it| it.platform = Some("b200".parse().unwrap()))),
        ("others", of(|it| it.project = Some("other".parse().unwrap()))),
    ] {
        core.run(set("acme", id, draft).into()).unwrap();
    }
    tick(core);
    let all = budget(core, "all").spent;
    assert!(all > Amount::ZERO);
    for (id, expected) in [
        ("here", all),
        ("on-demand", all),
        ("spot", Amount::ZERO),
        ("elsewhere", Amount::ZERO),
        ("others", Amount::ZERO),
    ] {
        assert_eq!(budget(core, id).spent, expected, "{id}");
    }
}

#[test]
fn budgets_that_make_no_sense_are_refused() {
    let core = &mut prepared();
    let ok = || draft("1", &["50"], &[]);
    check(core, set("nobody", "b", Some(ok())), "tenant_unknown");
    check(core, set("acme", "b", None), "budget_unknown");
    let described = BudgetDraft { description: "x".repeat(TEXT_LENGTH_MAX + 1), ..ok() };
    check(core, set("acme", "b", Some(described)), "text_invalid");
    for wrong in [
        draft("0", &["50"], &[]),
        draft("-1", &["50"], &[]),
        draft("1", &[], &[]),
        draft("1", &["0"], &[]),
        draft("1", &["50", "50"], &[]),
        draft("1", &["50"], &["100", "50"]),
    ] {
        check(core, set("acme", "b", Some(wrong)), "budget_invalid");
    }
    for n in 0..BUDGETS_A_TENANT_MAX {
        core.run(set("acme", &format!("b-{n}"), Some(ok())).into()).unwrap();
    }
    check(core, set("acme", "one-more", Some(ok())), "budgets_full");
    core.run(set("acme", "b-0", Some(ok())).into()).unwrap();
    core.run(set("acme", "b-0", None).into()).unwrap();
    core.run(set("acme", "one-more", Some(ok())).into()).unwrap();
}

fn hook(tenant: &str, webhook: &str, action: WebhookAction) -> Command {
    let owner = (!tenant.is_empty()).then(|| tenant.parse().unwrap());
    WebhookCommand { owner, webhook: webhook.parse().unwrap(), action }.into()
}

fn form(url: &str, events: &[&str]) -> WebhookDraft {
    let events = events.iter().map(|it| (*it).to_owned()).collect();
    WebhookDraft { url: url.to_owned(), description: String::new(), events, enabled: true }
}

fn secret(text: &str) -> SealedSecret {
    SealedSecret::new(text.to_owned()).unwrap()
}

fn create(draft: WebhookDraft) -> WebhookAction {
    WebhookAction::Create { draft, secret: secret("sealed") }
}

fn get<'a>(core: &'a Core, tenant: &str, webhook: &str) -> &'a Webhook {
    let owner = (!tenant.is_empty()).then(|| tenant.parse().unwrap());
    core.state.webhooks().get(&owner, &webhook.parse().unwrap()).unwrap()
}

#[test]
fn webhooks_that_make_no_sense_are_refused() {
    let core = &mut prepared();
    let ok = || form("https://example.com/", &["*"]);
    check(core, hook("nobody", "w", create(ok())), "tenant_unknown");
    for wrong in [
        form("", &["*"]),
        form("https://example.com/\n", &["*"]),
        form("https://exämple.com/", &["*"]),
        form(&format!("https://{}", "x".repeat(URL_LENGTH_MAX)), &["*"]),
        form("https://example.com/", &[]),
        form("https://example.com/", &["A B"]),
        form("https://example.com/", &[""]),
    ] {
        check(core, hook("acme", "w", create(wrong)), "webhook_invalid");
    }
    for action in [
        WebhookAction::Update { draft: ok() },
        WebhookAction::Rotate { secret: secret("x"), overlap_ms: 0 },
        WebhookAction::Delete,
        WebhookAction::Test,
        WebhookAction::Redeliver { position: 1, line: 0 },
        WebhookAction::Judge { judgement: Judgement::Gone, changed: Position::new(1) },
    ] {
        check(core, hook("acme", "w", action), "webhook_unknown");
    }
    core.run(hook("acme", "w", create(ok()))).unwrap();
    check(core, hook("acme", "w", create(ok())), "webhook_exists");
    // The same id is another tenant's, and the operator's, too.
    core.run(hook("bolt", "w", create(ok()))).unwrap();
    core.run(hook("", "w", create(ok()))).unwrap();
    let overlap_ms = SECRET_OVERLAP_MS_MAX + 1;
    check(
        core,
        hook("acme", "w", WebhookAction::Rotate { secret: secret("x"), overlap_ms }),
        "webhook_invalid",
    );
    for position in [0, core.state.position().number() + 1] {
        check(core, hook("acme", "w", WebhookAction::Redeliver { position, line: 0 }), "message_unknown");
    }
    let stale = WebhookAction::Judge { judgement: Judgement::Gone, changed: Position::new(1) };
    check(core, hook("acme", "w", stale), "webhook_changed");
    for n in 1..WEBHOOKS_A_TENANT_MAX {
        core.run(hook("acme", &format!("w-{n}"), create(ok()))).unwrap();
    }
    check(core, hook("acme", "more", create(ok())), "webhooks_full");
    for bad in ["", "a b", "ä", &"x".repeat(257)] {
        assert!(SealedSecret::new(bad.to_owned()).is_none(), "{bad}");
    }
}

#[test]
fn the_life_of_a_webhook() {
    let core = &mut prepared();
    let ok = || form("https://example.com/", &["a.b", "c"]);
    assert!(ok().wants("c") && !ok().wants("a") && form("", &["*"]).wants("a"));
    // A repeat draws another secret; it is the same request.
    let key = Some(IdempotencyKey::new("test", "1"));
    let _made = core.submit(&hook("acme", "w", create(ok())), key).unwrap();
    let again = WebhookAction::Create { draft: ok(), secret: secret("another") };
    let again = core.submit(&hook("acme", "w", again), key).unwrap();
    assert!(matches!(again, Outcome::AlreadyApplied(_)));
    assert_eq!(get(core, "acme", "w").secret, secret("sealed"));
    let made = get(core, "acme", "w").clone();
    assert_eq!((made.since, made.changed, made.slot), (core.state.position(), core.state.position(), 0));

    core.now += HOUR;
    let rotate = WebhookAction::Rotate { secret: secret("second"), overlap_ms: DAY };
    core.run(hook("acme", "w", rotate)).unwrap();
    let it = get(core, "acme", "w");
    assert_eq!(
        (&it.secret, &it.previous),
        (&secret("second"), &Some((secret("sealed"), at(core.now + DAY))))
    );
    core.run(hook("acme", "w", WebhookAction::Rotate { secret: secret("third"), overlap_ms: 0 })).unwrap();
    assert_eq!(get(core, "acme", "w").previous, None);

    let judge = |core: &mut Core, judgement| {
        let changed = get(core, "acme", "w").changed;
        core.run(hook("acme", "w", WebhookAction::Judge { judgement, changed })).unwrap();
        get(core, "acme", "w").status.clone()
    };
    let since = at(core.now);
    let failing = Judgement::Failing { since, reason: "a\nb".to_owned() };
    assert_eq!(judge(core, failing), WebhookStatus::Failing { since, reason: "ab".to_owned() });
    assert_eq!(judge(core, Judgement::Recovered), WebhookStatus::Active);
    let disabled = |by| WebhookStatus::Disabled { at: since, by };
    assert_eq!(judge(core, Judgement::GivenUp { reason: String::new() }), disabled(DisabledBy::Failures));
    check(core, hook("acme", "w", WebhookAction::Test), "webhook_disabled");
    check(core, hook("acme", "w", WebhookAction::Redeliver { position: 1, line: 0 }), "webhook_disabled");
    // Told again of what comes from then on.
    core.run(hook("acme", "w", WebhookAction::Update { draft: ok() })).unwrap();
    let it = get(core, "acme", "w");
    assert_eq!((it.is_told(), it.since), (true, core.state.position()));
    let since_before = it.since;
    core.run(hook("acme", "w", WebhookAction::Update { draft: ok() })).unwrap();
    assert_eq!(get(core, "acme", "w").since, since_before, "it was told all the time");
    assert_eq!(judge(core, Judgement::Gone), disabled(DisabledBy::Gone));
    core.run(hook("acme", "w", WebhookAction::Update { draft: WebhookDraft { enabled: false, ..ok() } }))
        .unwrap();
    assert_eq!(get(core, "acme", "w").status, disabled(DisabledBy::Gone), "by whom it was first");

    // Numbers are given again, the lowest first.
    for (tenant, id, slot) in [("bolt", "w", 1), ("", "w", 2)] {
        core.run(hook(tenant, id, create(ok()))).unwrap();
        assert_eq!(get(core, tenant, id).slot, slot);
    }
    core.run(hook("acme", "w", WebhookAction::Delete)).unwrap();
    core.run(hook("acme", "new", create(ok()))).unwrap();
    assert_eq!(get(core, "acme", "new").slot, 0);
    assert_eq!(core.state.webhooks().changed(), core.state.position());
    assert_eq!(core.replay(core.state.position()).0, core.state);
}
