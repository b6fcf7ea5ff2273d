//! Every rejection as a table: reachable, with its code, in the order of precedence, without a trace.

use hourglass_ledger::core::usage::INSTANCE_GPUS_MAX;
use hourglass_ledger::core::{
    Command, IdempotencyKey, Policy, QUARANTINE_BYTES_MAX, Rejection, SUSPENSE_INSTANCES_MAX,
    TEXT_LENGTH_MAX, digest,
};
use hourglass_units::Currency;
use prost::bytes::Bytes;

use super::support::{
    Core, DAY, HOUR, MINUTE, batch, card, contract, finalise, ms, open_cell, open_tenant, record,
    registration, start, stop, usage,
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
