//! Every rejection as a table: reachable, with its code, in the order of precedence, without a trace.

use hourglass_ledger::core::usage::INSTANCE_GPUS_MAX;
use hourglass_ledger::core::{
    Command, Detail, IdempotencyKey, KEY_LIFETIME_MS_MAX, KEYS_MAX, KeyGrant, Mode, Outcome, Policy,
    QUARANTINE_BYTES_MAX, Registration, Rejection, RerateDraft, Role, SUSPENSE_INSTANCES_MAX,
    TEXT_LENGTH_MAX, digest,
};
use hourglass_pricing::ContractDraft;
use hourglass_pricing::reservation::{Payment, ReservationDraft};
use hourglass_units::{Amount, Currency};
use prost::bytes::Bytes;

use super::support::{
    Core, DAY, HOUR, MINUTE, batch, card, contract, customer_key, finalise, ms, open_cell, open_tenant,
    record, registration, start, stop, usage,
};

const BEGIN: &str = "2026-01-10T00:00:00Z";

/// A cell with a price for USD from a day ahead in EUR, a tenant of each, `runs` that runs, `ran` that
/// ran, and `waits` that never did.
fn prepared() -> Core {
    let begin = ms(BEGIN);
    let tenants = [("acme", Currency::USD), ("yen", Currency::JPY)];
    let mut core = Core::new(begin);
    core.run(open_cell(Policy::default())).unwrap();
    core.run(Command::PublishRateCard(card(Currency::USD, 1, begin, 1))).unwrap();
    for (tenant, currency) in tenants.into_iter().chain([("euro", Currency::EUR)]) {
        core.run(open_tenant(tenant, currency)).unwrap();
    }
    core.run(Command::PublishRateCard(card(Currency::EUR, 1, begin + DAY, 1))).unwrap();
    for (instance, tenant) in [("runs", "acme"), ("ran", "acme"), ("waits", "acme"), ("later", "euro")] {
        core.run(Command::RegisterInstance(registration(instance, tenant, 1))).unwrap();
    }
    core.now += HOUR;
    core.run(start("runs", begin)).unwrap();
    core.run(start("ran", begin)).unwrap();
    core.run(stop("ran", begin + 30 * MINUTE)).unwrap();
    core
}

fn check(core: &mut Core, command: &Command, code: &str) {
    let before = (core.state.clone(), digest(&core.state).unwrap(), core.chain);
    let key = IdempotencyKey::new("test", "not used yet");
    for key in [None, Some(key)] {
        let rejection = core.submit(command, key).expect_err(code);
        assert_eq!(rejection.code(), code, "{rejection}");
        assert!(!rejection.to_string().is_empty());
        assert_eq!(
            (core.state.clone(), digest(&core.state).unwrap(), core.chain),
            before,
            "{code} left a trace"
        );
    }
}

#[test]
fn each_is_reached_and_leaves_no_trace() {
    let begin = ms(BEGIN);
    let long = "x".repeat(TEXT_LENGTH_MAX + 1);
    let mut core = Core::new(begin);
    for command in [Command::Tick, open_tenant("acme", Currency::USD), start("i", 0), usage("i", 1, 0, 1)] {
        check(&mut core, &command, "cell_not_open");
    }
    let policy = Policy::default();
    for policy in [
        Policy { grace_ms: -1, ..policy },
        Policy { clock_skew_max_ms: 367 * DAY, ..policy },
        Policy { acceptance_window_ms: i64::MIN, ..policy },
        Policy { acceptance_window_ms: DAY, grace_ms: 2 * DAY, ..policy },
    ] {
        check(&mut core, &open_cell(policy), "policy_invalid");
    }

    let core = &mut prepared();
    let now = core.now;
    check(core, &open_cell(policy), "cell_already_open");
    check(core, &open_cell(Policy { grace_ms: -1, ..policy }), "cell_already_open");
    let tenant = |tenant: &str, display_name: &str| Command::OpenTenant {
        tenant: tenant.parse().unwrap(),
        currency: Currency::USD,
        display_name: display_name.to_owned(),
    };
    check(core, &tenant("new", &long), "text_invalid");
    check(core, &tenant("new", "bell \u{7}"), "text_invalid");
    check(core, &tenant("acme", &long), "text_invalid");
    check(core, &tenant("acme", "Acme"), "tenant_exists");

    let empty = hourglass_pricing::RateCardDraft { prices: Vec::new(), ..card(Currency::USD, 9, 0, 1) };
    check(core, &Command::PublishRateCard(empty), "card_invalid");
    for (version, from) in [(1, now + HOUR), (3, now + HOUR), (2, now)] {
        check(core, &Command::PublishRateCard(card(Currency::USD, version, from, 1)), "card_refused");
    }
    let sign = |tenant: &str, contract| Command::SignContract { tenant: tenant.parse().unwrap(), contract };
    check(core, &sign("nobody", contract(0, 0, None, 1)), "tenant_unknown");
    check(core, &sign("acme", contract(0, now + HOUR, None, 1)), "card_invalid");
    check(core, &sign("acme", contract(1, now, None, 1)), "card_refused");
    check(core, &sign("yen", contract(1, now + HOUR, None, 1)), "card_refused");

    let register =
        |instance: &str, tenant: &str, gpus| Command::RegisterInstance(registration(instance, tenant, gpus));
    check(core, &register("runs", "nobody", 0), "tenant_unknown");
    check(core, &register("runs", "acme", 0), "instance_exists");
    check(core, &register("new", "yen", 0), "gpus_out_of_range");
    check(core, &register("new", "acme", INSTANCE_GPUS_MAX + 1), "gpus_out_of_range");
    check(core, &register("new", "yen", 1), "unpriced");

    let (early, late) = (now - policy.acceptance_window_ms - 1, now + policy.clock_skew_max_ms + 1);
    check(core, &start("nobody", late), "instance_unknown");
    check(core, &start("runs", late), "in_the_future");
    check(core, &start("runs", early), "too_old");
    check(core, &start("runs", now), "already_running");
    check(core, &start("ran", begin + 30 * MINUTE - 1), "starts_before_last_stop");
    check(core, &start("waits", begin - 1), "unpriced");
    check(core, &start("later", now), "unpriced");
    let with_cause = |instance: &str, cause: &str| Command::StopInstance {
        instance: instance.parse().unwrap(),
        at: super::support::at(now),
        cause: cause.to_owned(),
    };
    check(core, &with_cause("nobody", &long), "text_invalid");
    check(core, &stop("nobody", late), "instance_unknown");
    check(core, &stop("ran", late), "in_the_future");
    check(core, &stop("ran", early), "too_old");
    check(core, &stop("ran", now), "not_running");
    check(core, &stop("runs", begin - 1), "stops_before_start");

    let quarantine = |reason: &str, length: usize| Command::QuarantineUsage {
        reason: reason.to_owned(),
        content_type: "text/plain".to_owned(),
        original: Bytes::from(vec![0; length]),
    };
    check(core, &quarantine("two\nlines", QUARANTINE_BYTES_MAX + 1), "text_invalid");
    check(core, &quarantine("undecodable", QUARANTINE_BYTES_MAX + 1), "message_too_large");
    core.run(quarantine("undecodable", QUARANTINE_BYTES_MAX)).unwrap();
}

#[test]
fn keys_fit_together_or_are_refused() {
    let core = &mut prepared();
    let now = core.now;
    let key = customer_key("a1b2c3d4e5f6");
    let create = |key: KeyGrant| Command::CreateKey(key);
    let revoke = |id: &str| Command::RevokeKey { id: id.parse().unwrap() };
    let until = |ms: i64| KeyGrant { expires_at: Some(super::support::at(ms)), ..key.clone() };
    let foreign = KeyGrant { tenant: Some("nobody".parse().unwrap()), scopes: [].into(), ..key.clone() };
    check(core, &create(KeyGrant { name: "two\nlines".to_owned(), ..foreign.clone() }), "text_invalid");
    check(core, &create(foreign), "tenant_unknown");
    for wrong in [
        KeyGrant { tenant: None, ..key.clone() },
        KeyGrant { role: Role::Finance, ..key.clone() },
        KeyGrant { agent: Some("agent-1".parse().unwrap()), ..key.clone() },
        KeyGrant { role: Role::Agent, tenant: None, ..key.clone() },
        KeyGrant { scopes: [].into(), ..key.clone() },
        until(now),
        until(now - 1),
        until(now + KEY_LIFETIME_MS_MAX + 1),
    ] {
        check(core, &create(wrong), "key_grant_invalid");
    }
    core.run(create(until(now + KEY_LIFETIME_MS_MAX))).unwrap();
    check(core, &create(key.clone()), "key_exists");
    check(core, &revoke("unknownunkno"), "key_unknown");
    core.run(revoke("a1b2c3d4e5f6")).unwrap();
    check(core, &revoke("a1b2c3d4e5f6"), "key_revoked");
    check(core, &create(key), "key_exists");
}

/// A repeat draws another key; it is the same request, and it learns which key was made first.
#[test]
fn a_repeated_creation_names_the_first_key() {
    let core = &mut prepared();
    let name = Some(IdempotencyKey::new("test", "1"));
    let first = core.submit(&Command::CreateKey(customer_key("aaaaaaaaaaaa")), name).unwrap();
    assert_eq!(first.answer().detail, Detail::Key { id: "aaaaaaaaaaaa".parse().unwrap() });
    let again = core.submit(&Command::CreateKey(customer_key("bbbbbbbbbbbb")), name).unwrap();
    assert_eq!(again, Outcome::AlreadyApplied(first.answer().clone()));
    assert_eq!(core.state.credentials().iter().count(), 1);
    let other = KeyGrant { name: "other".to_owned(), ..customer_key("cccccccccccc") };
    assert_eq!(core.submit(&Command::CreateKey(other), name).unwrap_err().code(), "idempotency_key_reused");
}

#[test]
fn a_key_holds_until_it_ends_and_the_oldest_that_ended_makes_room() {
    let core = &mut prepared();
    let id = |n: usize| format!("{n:012}");
    let ends = core.now + HOUR;
    let (first, second) = (id(0), id(1));
    let ending = |id: &str, at| KeyGrant { expires_at: Some(super::support::at(at)), ..customer_key(id) };
    core.run(Command::CreateKey(ending(&first, ends))).unwrap();
    core.run(Command::CreateKey(ending(&second, ends + 1))).unwrap();
    let holds = |core: &Core, name: &str, secret: &str, now: i64| {
        let hash = customer_key(secret).hash;
        let id = name.parse().unwrap();
        core.state.credentials().proved(&id, &hash, super::support::at(now)).is_some()
    };
    assert!(holds(core, &first, &first, ends - 1) && !holds(core, &first, &first, ends));
    assert!(!holds(core, &first, &second, ends - 1) && !holds(core, &id(9), &first, ends - 1));
    for n in 2..KEYS_MAX {
        let forever = KeyGrant { expires_at: None, ..customer_key(&id(n)) };
        core.run(Command::CreateKey(forever)).unwrap();
    }
    let one_more = customer_key(&id(KEYS_MAX));
    check(core, &Command::CreateKey(one_more.clone()), "keys_full");
    core.now = ends + 1;
    core.run(Command::CreateKey(one_more)).unwrap();
    let known = |core: &Core, id: &str| core.state.credentials().get(&id.parse().unwrap()).is_some();
    assert!(!known(core, &first) && known(core, &second));
    core.run(Command::RevokeKey { id: id(5).parse().unwrap() }).unwrap();
    assert!(!holds(core, &id(5), &id(5), ends + 1) && holds(core, &id(6), &id(6), ends + 1));
}

#[test]
fn months_close_in_order_once_and_not_early() {
    let core = &mut prepared();
    check(core, &finalise("nobody", "2026-01"), "tenant_unknown");
    check(core, &finalise("acme", "2026-01"), "period_open");
    core.run(usage("runs", 1, ms(BEGIN), ms(BEGIN) + HOUR)).unwrap();
    core.now = ms("2026-03-04T00:00:00Z") - 1;
    check(core, &finalise("acme", "2026-02"), "period_open");
    core.now += 1;
    check(core, &finalise("acme", "2026-02"), "earlier_period_open");
    core.run(finalise("acme", "2026-01")).unwrap();
    check(core, &finalise("acme", "2026-01"), "period_finalised");
    core.run(finalise("acme", "2026-02")).unwrap();
    check(core, &finalise("acme", "2025-12"), "later_period_finalised");
}

/// A repeat finds its first answer before anything else is looked at; another request under the same
/// key is refused before anything else, too.
#[test]
fn the_idempotency_key_comes_first() {
    let core = &mut prepared();
    let key = Some(IdempotencyKey::new("test", "1"));
    let first = core.submit(&Command::Tick, key).unwrap();
    let before = (core.state.clone(), core.chain);
    for command in [open_cell(Policy::default()), start("nobody", 0), finalise("nobody", "2026-01")] {
        let rejection = core.submit(&command, key).unwrap_err();
        let position = first.answer().position;
        assert_eq!(rejection, Rejection::IdempotencyKeyReused { position });
        assert_eq!(rejection.code(), "idempotency_key_reused");
    }
    assert_eq!(core.submit(&Command::Tick, key).unwrap().answer(), first.answer());
    assert_eq!((core.state.clone(), core.chain), before);
    // Scope and key are kept apart.
    assert_ne!(IdempotencyKey::new("a", "bc"), IdempotencyKey::new("ab", "c"));
    assert_ne!(IdempotencyKey::new("", "a"), IdempotencyKey::new("a", ""));
}

/// What differs in anything is another request.
#[test]
fn no_two_requests_share_a_digest() {
    let record = |gpus| Command::AcceptUsage(batch("agent-1", 0, vec![record("runs", gpus, 0, 1)]));
    let now = ms(BEGIN) + HOUR;
    let requests = [
        Command::Tick,
        open_cell(Policy::default()),
        open_tenant("one", Currency::USD),
        open_tenant("one", Currency::EUR),
        start("waits", now),
        start("waits", now + 1),
        stop("runs", now),
        record(1),
        record(2),
        finalise("acme", "2026-01"),
        Command::CreateKey(customer_key("aaaaaaaaaaaa")),
        Command::CreateKey(KeyGrant { expires_at: None, ..customer_key("aaaaaaaaaaaa") }),
        Command::RevokeKey { id: "aaaaaaaaaaaa".parse().unwrap() },
        Command::PublishRateCard(card(Currency::USD, 2, now + DAY, 1)),
        Command::PublishRateCard(card(Currency::USD, 2, now + DAY, 2)),
    ];
    for (n, first) in requests.iter().enumerate() {
        let core = &mut prepared();
        let key = Some(IdempotencyKey::new("test", "1"));
        if core.submit(first, key).is_err() {
            continue;
        }
        for (m, second) in requests.iter().enumerate() {
            let again = core.submit(second, key);
            assert_eq!(again.is_ok(), n == m, "{first:?} and {second:?}");
        }
    }
}

#[test]
fn suspense_has_room_for_so_many_instances() {
    let core = &mut prepared();
    let now = core.now;
    let stretch = |from: usize, until: usize| {
        let records = (from..until).map(|n| record(&format!("unknown-{n}"), 1, now - 1, now));
        Command::AcceptUsage(batch("agent-1", 0, records.collect()))
    };
    for from in (0..SUSPENSE_INSTANCES_MAX).step_by(10_000) {
        let until = (from + 10_000).min(SUSPENSE_INSTANCES_MAX - 1);
        core.run(stretch(from, until)).unwrap();
    }
    let last = SUSPENSE_INSTANCES_MAX;
    let rejection = core.run(stretch(last - 1, last + 1)).unwrap_err();
    assert_eq!((rejection.code(), rejection.is_retryable()), ("suspense_full", true));
    core.run(stretch(0, 100)).unwrap();
    core.run(stretch(last - 1, last)).unwrap();
    assert_eq!(core.run(stretch(last, last + 1)).unwrap_err().code(), "suspense_full");
    core.run(usage("runs", 1, now - 1, now)).unwrap();
    assert_eq!(core.state.instances_in_suspense().count(), SUSPENSE_INSTANCES_MAX);
}

/// What is sold otherwise: each rejection with its code, and no trace.
#[test]
fn what_is_sold_otherwise_is_refused_without_a_trace() {
    let core = &mut prepared();
    let (begin, now) = (ms(BEGIN), core.now);
    let acme = || "acme".parse().unwrap();
    let at = super::support::at;
    let hour = |n: i64| at(begin + n * HOUR);
    let reservation = |id: &str, from, until, total: &str| ReservationDraft {
        reservation: id.parse().unwrap(),
        project: "ml".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        gpus: 8,
        from,
        until,
        payment: Payment::UpfrontTotal { total: total.parse_amount() },
        fabric: None,
    };
    let reserve =
        |tenant: &str, reservation| Command::Reserve { tenant: tenant.parse().unwrap(), reservation };
    check(core, &reserve("nobody", reservation("r", hour(2), hour(3), "1")), "tenant_unknown");
    check(core, &reserve("acme", reservation("r", hour(3), hour(2), "1")), "reservation_invalid");
    check(core, &reserve("acme", reservation("r", hour(2), hour(3), "0")), "reservation_invalid");
    check(core, &reserve("acme", reservation("r", hour(0), hour(3), "1")), "reservation_in_the_past");
    core.run(reserve("acme", reservation("r-1", hour(2), hour(9), "100"))).unwrap();
    check(core, &reserve("acme", reservation("r-1", hour(2), hour(3), "1")), "reservation_exists");
    let amend = |tenant: &str, id: &str, until| Command::AmendReservation {
        tenant: tenant.parse().unwrap(),
        reservation: id.parse().unwrap(),
        until,
    };
    check(core, &amend("yen", "r-1", hour(8)), "reservation_unknown");
    check(core, &amend("acme", "r-1", hour(0)), "reservation_in_the_past");
    check(core, &amend("acme", "r-1", hour(8)), "reservation_invalid");

    let mode =
        |instance: &str, mode, at| Command::ChangeMode { instance: instance.parse().unwrap(), mode, at };
    let reserved = |id: &str| Mode::Reserved { reservation: id.parse().unwrap() };
    check(core, &mode("nobody", reserved("r-1"), at(now)), "instance_unknown");
    check(core, &mode("runs", reserved("r-9"), at(now)), "reservation_unknown");
    check(core, &mode("later", reserved("r-1"), at(now)), "reservation_unknown");
    check(core, &mode("runs", reserved("r-1"), at(now + HOUR)), "in_the_future");
    core.run(mode("runs", reserved("r-1"), at(now))).unwrap();
    check(core, &mode("runs", Mode::OnDemand, at(now)), "mode_change_out_of_order");
    let elsewhere = Registration {
        mode: reserved("r-1"),
        platform: "b200".parse().unwrap(),
        ..registration("new", "acme", 1)
    };
    check(core, &Command::RegisterInstance(elsewhere), "reservation_elsewhere");

    let credit =
        |text: &str| Command::GrantCredit { tenant: acme(), credit: serde_json::from_str(text).unwrap() };
    check(core, &credit(r#"{"credit": "c", "kind": "sla", "amount": "1"}"#), "credit_invalid");
    check(core, &credit(r#"{"credit": "sla-1", "kind": "prepaid", "amount": "1"}"#), "credit_invalid");
    check(core, &credit(r#"{"credit": "c", "kind": "prepaid", "amount": "0"}"#), "credit_invalid");
    let half_past =
        r#"{"credit": "c", "kind": "prepaid", "amount": "1", "valid_until": "2026-02-01T00:30:00Z"}"#;
    check(core, &credit(half_past), "credit_invalid");
    let expired =
        r#"{"credit": "c", "kind": "prepaid", "amount": "1", "valid_until": "2026-01-10T00:00:00Z"}"#;
    check(core, &credit(expired), "credit_invalid");
    core.run(credit(r#"{"credit": "c-1", "kind": "prepaid", "amount": "5"}"#)).unwrap();
    check(core, &credit(r#"{"credit": "c-1", "kind": "prepaid", "amount": "1"}"#), "credit_exists");
    check(core, &credit(r#"{"credit": "c-2", "kind": "promotional", "amount": "1"}"#), "credits_overlap");
    core.run(credit(r#"{"credit": "c-2", "kind": "promotional", "amount": "1", "priority": 5}"#)).unwrap();

    let tax = r#"{"name": "VAT", "rate_percent": "100.5", "kind": "exclusive", "rounding": "line"}"#;
    let tax = Some(serde_json::from_str(tax).unwrap());
    check(core, &Command::SetTax { tenant: acme(), tax }, "tax_invalid");
    let billing = |zone: &str| {
        let terms = format!(r#"{{"billing": {{"time_zone": "{zone}", "anchor_day": 2}}}}"#);
        ContractDraft { terms: serde_json::from_str(&terms).unwrap(), ..contract(1, now + HOUR, None, 1) }
    };
    let sign = |tenant: &str, contract| Command::SignContract { tenant: tenant.parse().unwrap(), contract };
    check(core, &sign("acme", billing("Europe/Berlin")), "calendar_fixed");
    core.run(open_tenant("fresh", Currency::USD)).unwrap();
    check(core, &sign("fresh", billing("Asia/Kolkata")), "calendar_invalid");

    let void = |instance: &str, from, until| Command::VoidUsage {
        instance: instance.parse().unwrap(),
        from,
        until,
        reason: String::new(),
    };
    check(core, &void("runs", hour(1), hour(0)), "interval_reversed");
    check(core, &void("runs", hour(0), hour(1)), "nothing_to_void");
    let pay = |number, amount: &str| Command::RecordPayment {
        tenant: acme(),
        number,
        amount: amount.parse_amount(),
        reference: String::new(),
    };
    let void_invoice = |number| Command::VoidInvoice { tenant: acme(), number, reason: String::new() };
    check(core, &pay(1, "1"), "invoice_unknown");
    check(core, &Command::IssueCreditNote { tenant: acme() }, "nothing_to_credit");
    core.run(usage("runs", 1, begin, now)).unwrap();
    let rerate = |from, until, nanos| {
        let card = card(Currency::USD, 1, begin, nanos);
        Command::Rerate(RerateDraft { card, from, until, tenant: None, into_closed: false })
    };
    core.run(rerate(hour(0), hour(1), 3_000_000_000)).unwrap();
    check(core, &rerate(hour(1), hour(0), 1), "interval_reversed");
    check(core, &rerate(hour(0), hour(3), 1), "card_refused");
    core.now = ms("2026-02-04T00:00:00Z");
    core.run(finalise("acme", "2026-01")).unwrap();
    check(core, &rerate(hour(0), at(begin + 30 * MINUTE), 3_000_000_001), "rerate_into_closed");
    // To the prices that hold already nothing changes, closed or not.
    core.clone().run(rerate(hour(0), at(begin + 30 * MINUTE), 3_000_000_000)).unwrap();
    let closed =
        r#"{"credit": "c-3", "kind": "prepaid", "amount": "1", "valid_from": "2026-01-20T00:00:00Z"}"#;
    check(core, &credit(closed), "credit_in_closed_period");
    check(core, &pay(1, "1000000"), "payment_does_not_fit");
    check(core, &pay(1, "0.001"), "payment_does_not_fit");
    check(core, &pay(1, "-1"), "payment_does_not_fit");
    core.run(pay(1, "1")).unwrap();
    check(core, &void_invoice(1), "invoice_paid");
}

/// Reads an amount, or fails the test.
trait ParseAmount {
    fn parse_amount(&self) -> Amount;
}

impl ParseAmount for str {
    fn parse_amount(&self) -> Amount {
        Amount::parse(self).unwrap()
    }
}
