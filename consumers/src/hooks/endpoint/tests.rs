use super::*;
use hourglass_ledger::core::webhooks::{SealedSecret, WebhookDraft};

const BEGIN: &str = "2026-01-01T00:00:00Z";

fn webhook(status: WebhookStatus) -> Webhook {
    let begin = BEGIN.parse().unwrap();
    Webhook {
        draft: WebhookDraft {
            url: "https://example.com/".to_owned(),
            description: String::new(),
            events: ["*".to_owned()].into(),
            enabled: true,
        },
        slot: 0,
        secret: SealedSecret::new("sealed".to_owned()).unwrap(),
        previous: None,
        created_at: begin,
        changed_at: begin,
        changed: Position::new(5),
        since: Position::new(5),
        status,
    }
}

fn key(position: u64, line: u32) -> MessageKey {
    MessageKey { position, line }
}

fn message(position: u64, line: u32) -> Message {
    Message { key: key(position, line), kind: "t".into(), body: "{}".into() }
}

fn now() -> Instant {
    BEGIN.parse().unwrap()
}

fn take(endpoint: &mut Endpoint, keys: &[(u64, u32)], until: u64) -> usize {
    let messages: Vec<Message> = keys.iter().map(|(position, line)| message(*position, *line)).collect();
    endpoint.take(messages.iter().map(|it| (it.key, it)), until, now()).len()
}

#[test]
fn messages_go_out_in_order_one_at_a_time_and_the_cursor_stays_behind_what_waits() {
    let mut endpoint = Endpoint::new(webhook(WebhookStatus::Active), None);
    assert_eq!(endpoint.read_until(), 5);
    assert_eq!(take(&mut endpoint, &[(7, 0), (7, 1), (9, 0)], 10), 3);
    assert_eq!((endpoint.read_until(), endpoint.to_save(1_000)), (10, None));
    let (first, _) = endpoint.begin(now()).unwrap();
    assert_eq!(first, key(7, 0));
    assert!(endpoint.begin(now()).is_none(), "one is under way");
    // The first is not taken: the next ones go on, and the cursor waits for it.
    let verdict = endpoint.failed(first, "no", None, now(), b"");
    assert_eq!(verdict.outcome, "pending");
    for expected in [key(7, 1), key(9, 0)] {
        let (place, _) = endpoint.begin(now()).unwrap();
        assert_eq!(place, expected);
        assert_eq!(endpoint.succeeded(place).outcome, "delivered");
    }
    assert_eq!(endpoint.to_save(1_000), Some(Position::new(6)));
    endpoint.saved(Position::new(6));
    assert_eq!(endpoint.to_save(1_000), None);
    let (again, _) = endpoint.begin(verdict.next.unwrap()).unwrap();
    assert_eq!(again, first);
    endpoint.succeeded(again);
    assert_eq!(endpoint.to_save(1_000), Some(Position::new(10)));
    // A long stretch without anything to tell is passed over.
    endpoint.saved(Position::new(10));
    take(&mut endpoint, &[], 1_009);
    assert_eq!(endpoint.to_save(1_000), None);
    take(&mut endpoint, &[], 1_010);
    assert_eq!(endpoint.to_save(1_000), Some(Position::new(1_010)));
}

/// An event with more messages than may wait is read again from the line where there was no more room.
#[test]
fn no_more_wait_than_may_and_none_is_lost() {
    let mut endpoint = Endpoint::new(webhook(WebhookStatus::Active), Some(Position::new(6)));
    let lines: Vec<(u64, u32)> = (0..100).map(|line| (8, line)).collect();
    let mut told = Vec::new();
    while told.len() < 100 {
        take(&mut endpoint, &lines, 20);
        assert!(endpoint.waiting() <= PENDING_MAX);
        assert!(endpoint.to_save(1).is_none_or(|position| position.number() < 8));
        for _ in 0..7 {
            let Some((place, message)) = endpoint.begin(now()) else { break };
            told.push((message.key.position, message.key.line));
            endpoint.succeeded(place);
        }
    }
    assert_eq!(told, lines);
    take(&mut endpoint, &lines, 20);
    assert_eq!((endpoint.read_until(), endpoint.to_save(1)), (20, Some(Position::new(20))));
}

#[test]
fn a_message_is_tried_for_a_day_and_an_endpoint_for_three() {
    let mut endpoint = Endpoint::new(webhook(WebhookStatus::Active), None);
    take(&mut endpoint, &[(6, 0)], 6);
    let (mut at, mut attempts, mut said) = (now(), 0, Vec::new());
    loop {
        let (place, _) = endpoint.begin(at).unwrap();
        attempts += 1;
        let verdict = endpoint.failed(place, "it answered 500", None, at, b"seed");
        said.extend(verdict.judgement.clone());
        let Some(next) = verdict.next else { break };
        assert!(endpoint.begin(next.saturating_add_ms(-1)).is_none());
        assert_eq!(endpoint.next_due(), Some(next));
        at = next;
    }
    assert!((12..=16).contains(&attempts), "{attempts} attempts");
    assert!((12 * 3_600_000..=RETRY_WINDOW_MS).contains(&at.ms_since(now())));
    assert_eq!(endpoint.to_save(1_000), Some(Position::new(6)), "given up is done");
    // It was said that it fails, each time since nothing wrote it down.
    assert!(matches!(said.first(), Some(Judgement::Failing { since, .. }) if *since == now()));
    // As the log says it now.
    let failing = WebhookStatus::Failing { since: now(), reason: String::new() };
    endpoint.webhook = webhook(failing);
    let late = now().saturating_add_ms(DISABLED_AFTER_MS - 1);
    for (at, expected) in [(late, false), (late.saturating_add_ms(1), true)] {
        let position = 7 + u64::from(expected);
        take(&mut endpoint, &[(position, 0)], position);
        let (place, _) = endpoint.begin(at).unwrap();
        let verdict = endpoint.failed(place, "no", None, at, b"");
        assert_eq!(matches!(verdict.judgement, Some(Judgement::GivenUp { .. })), expected);
    }
    // One that is taken ends it.
    let mut endpoint = Endpoint::new(endpoint.webhook.clone(), None);
    take(&mut endpoint, &[(6, 0)], 6);
    let (place, _) = endpoint.begin(late).unwrap();
    assert_eq!(endpoint.succeeded(place).judgement, Some(Judgement::Recovered));
}

#[test]
fn who_asks_for_time_gets_it_for_all_messages_and_a_change_ends_the_wait() {
    let mut endpoint = Endpoint::new(webhook(WebhookStatus::Active), None);
    take(&mut endpoint, &[(6, 0), (7, 0)], 7);
    let (place, _) = endpoint.begin(now()).unwrap();
    let verdict = endpoint.failed(place, "it answered 429", Some(60_000), now(), b"");
    assert_eq!(verdict.next, Some(now().saturating_add_ms(60_000)));
    assert!(endpoint.begin(now().saturating_add_ms(59_999)).is_none(), "the other message waits too");
    assert!(endpoint.is_failing());
    let changed = Webhook { changed: Position::new(8), ..webhook(WebhookStatus::Active) };
    endpoint.changed(changed, now());
    assert!(!endpoint.is_failing());
    assert_eq!(endpoint.begin(now()).unwrap().0, key(6, 0));
    assert_eq!(endpoint.gone(key(6, 0)).judgement, Some(Judgement::Gone));
}
