//! Hand-made histories: what the checker must pass and what it must not, each for one reason.

use crate::recorder::Call;
use crate::{History, QuotaAnswer, QuotaModel, QuotaOp, Violation, check};

use QuotaAnswer::{Denied, Done, Expired, Granted, Refused};

/// Two projects with 8 GPUs together, one of them with 6 at most; and 10 disks.
fn model() -> QuotaModel {
    QuotaModel::default()
        .limit("acme", "gpu", 8)
        .limit("acme", "disk", 10)
        .limit("training", "gpu", 6)
        .path("training", &["acme", "training"])
        .path("serving", &["acme", "serving"])
}

fn serve(id: u64, gpus: u64) -> QuotaOp {
    QuotaOp::reserve(id, "serving", &[("gpu", gpus)])
}

fn train(id: u64, gpus: u64) -> QuotaOp {
    QuotaOp::reserve(id, "training", &[("gpu", gpus)])
}

fn resize(id: u64, gpus: u64) -> QuotaOp {
    QuotaOp::resize(id, &[("gpu", gpus)])
}

fn commit(id: u64) -> QuotaOp {
    QuotaOp::Commit { id }
}

fn release(id: u64) -> QuotaOp {
    QuotaOp::Release { id }
}

fn expire(id: u64) -> QuotaOp {
    QuotaOp::Expire { id }
}

/// A row: when (from `[` to `]`, or to `?` if the answer was lost), what, and the answer.
type Row = (&'static str, QuotaOp, QuotaAnswer);

fn history(rows: Vec<Row>) -> History<QuotaOp, QuotaAnswer> {
    let calls = rows.into_iter().enumerate().map(|(client, (time, op, answer))| {
        // In one column, sending comes first: then the two overlap.
        let at = |mark| time.find(mark).map(|column| column as u64 * 1000 + client as u64);
        let completed = at(']').map(|event| (answer, event + 500));
        Call { client: client as u32, op, invoked: at('[').unwrap(), answer: completed }
    });
    let mut calls: Vec<_> = calls.collect();
    calls.sort_by_key(|call| call.invoked);
    History { calls }
}

#[track_caller]
fn passes(rows: Vec<Row>) {
    check(&history(rows), &model()).unwrap();
}

#[track_caller]
fn fails(rows: Vec<Row>) {
    match check(&history(rows), &model()) {
        Err(Violation::NotLinearizable(_)) => {}
        other => panic!("passed, or was not decided: {other:?}"),
    }
}

#[test]
fn limits_hold_when_clients_race() {
    passes(vec![("[--]", serve(1, 5), Granted), ("[--]", serve(2, 5), Denied)]);
    fails(vec![("[--]", serve(1, 5), Granted), ("[--]", serve(2, 5), Granted)]);
    // Each waits for the other: nothing was there to deny either.
    fails(vec![("[--]", serve(1, 5), Denied), ("[--]", serve(2, 5), Denied)]);
    passes(vec![("[--]", serve(1, 5), Granted), ("[--]", serve(2, 3), Granted)]);
}

#[test]
fn limits_hold_on_the_whole_path() {
    passes(vec![("[]", train(1, 7), Denied), ("  []", serve(2, 7), Granted)]);
    fails(vec![("[]", train(1, 7), Granted)]);
    fails(vec![("[]", train(1, 5), Granted), ("  []", serve(2, 5), Granted)]);
}

#[test]
fn a_denied_vector_takes_nothing() {
    let too_many_disks = || QuotaOp::reserve(1, "serving", &[("gpu", 8), ("disk", 11)]);
    passes(vec![("[]", too_many_disks(), Denied), ("  []", serve(2, 8), Granted)]);
    fails(vec![("[]", too_many_disks(), Denied), ("  []", serve(2, 8), Denied)]);
    fails(vec![("[]", too_many_disks(), Granted)]);
    // What has no limit is not limited.
    passes(vec![("[]", QuotaOp::reserve(1, "serving", &[("lamps", 1000)]), Granted)]);
}

#[test]
fn a_release_gives_back() {
    let full = |time, answer| {
        vec![("[]", serve(1, 8), Granted), ("   [--]", release(1), Done), (time, serve(2, 8), answer)]
    };
    passes(full("        [-]", Granted));
    // The release was lost, or the denial is stale.
    fails(full("        [-]", Denied));
    // While the release is under way, either is right.
    passes(full("    [-]", Granted));
    passes(full("    [-]", Denied));
    fails(full(" []", Granted));
}

#[test]
fn a_second_release_is_done_and_gives_nothing_back() {
    let twice = |answer| {
        vec![
            ("[]", serve(1, 4), Granted),
            ("  []", serve(2, 4), Granted),
            ("    []", release(1), Done),
            ("      []", release(1), Done),
            ("        []", serve(3, 8), answer),
        ]
    };
    passes(twice(Denied));
    fails(twice(Granted));
    fails(vec![("[]", serve(1, 4), Granted), ("  []", release(1), Done), ("    []", release(1), Refused)]);
    passes(vec![("[]", release(1), Refused)]);
    fails(vec![("[]", release(1), Done)]);
}

#[test]
fn a_lost_answer_may_have_been_any() {
    let lost = |time, answer| vec![("   [--?", serve(1, 8), Granted), (time, serve(2, 8), answer)];
    passes(lost("       []", Granted));
    passes(lost("       []", Denied));
    // Before it was sent it had done nothing.
    fails(lost("[]", Denied));
    // It takes effect between two others, though it was sent before both.
    passes(vec![
        ("[?", serve(1, 8), Granted),
        ("  []", serve(2, 8), Granted),
        ("    []", release(2), Done),
        ("      []", serve(3, 8), Denied),
    ]);
    // But it cannot have gone again.
    fails(vec![
        ("[?", serve(1, 8), Granted),
        ("  []", serve(2, 8), Denied),
        ("    []", serve(3, 8), Granted),
    ]);
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_takes_nothing() {
    let again = |first, answer| {
        vec![
            (first, serve(1, 4), Granted),
            ("    []", serve(1, 4), Granted),
            ("      []", serve(2, 4), answer),
        ]
    };
    passes(again("[]", Granted));
    passes(again("[?", Granted));
    // Applied twice: once when the answer was lost, once when it was asked again.
    fails(again("[?", Denied));
    fails(vec![("[]", serve(1, 4), Granted), ("  []", serve(1, 4), Denied)]);
    // Also when there would be room by now, and when the hold is gone.
    let denied_once = |answer| {
        vec![
            ("[]", serve(1, 8), Granted),
            ("  []", serve(2, 1), Denied),
            ("    []", release(1), Done),
            ("      []", serve(2, 1), answer),
        ]
    };
    passes(denied_once(Denied));
    fails(denied_once(Granted));
    let gone = |answer| {
        vec![("[]", serve(1, 8), Granted), ("  []", release(1), Done), ("    []", serve(1, 8), answer)]
    };
    passes(gone(Granted));
    fails(gone(Denied));
}

#[test]
fn a_hold_that_is_gone_is_not_committed() {
    let committed = |answer| {
        vec![("[]", serve(1, 8), Granted), ("  []", release(1), Done), ("    []", commit(1), answer)]
    };
    passes(committed(Refused));
    fails(committed(Done));
    passes(vec![("[]", serve(1, 8), Granted), ("  []", commit(1), Done), ("    []", commit(1), Done)]);
    fails(vec![("[]", serve(1, 8), Granted), ("  []", commit(1), Refused)]);
    // Nor one that is not there yet.
    fails(vec![("[]", commit(1), Done), ("  []", serve(1, 8), Granted)]);
    passes(vec![("[--]", commit(1), Done), (" [--]", serve(1, 8), Granted)]);
}

#[test]
fn an_expiry_that_nobody_watches_may_have_happened() {
    let expiring = |reserved, answer| {
        vec![
            ("[]", serve(1, 8), Granted),
            ("  [?", expire(1), Expired),
            ("    []", serve(2, 8), reserved),
            ("      []", commit(1), answer),
        ]
    };
    passes(expiring(Granted, Refused));
    passes(expiring(Denied, Refused));
    passes(expiring(Denied, Done));
    // Somebody else has it by now.
    fails(expiring(Granted, Done));
    // Not before its time.
    fails(vec![("[]", serve(1, 8), Granted), ("  []", serve(2, 8), Granted), ("    [?", expire(1), Expired)]);
    // What is committed does not expire.
    fails(vec![
        ("[]", serve(1, 8), Granted),
        ("  []", commit(1), Done),
        ("    [?", expire(1), Expired),
        ("      []", serve(2, 8), Granted),
    ]);
}

#[test]
fn an_expiry_that_was_seen_has_happened() {
    let expired =
        |op, answer| vec![("[]", serve(1, 8), Granted), ("  []", expire(1), Expired), ("    []", op, answer)];
    passes(expired(commit(1), Refused));
    fails(expired(commit(1), Done));
    passes(expired(serve(2, 8), Granted));
    fails(expired(serve(2, 8), Denied));
    // There is nothing left to give back, so it may be said either way.
    passes(expired(release(1), Done));
    passes(expired(release(1), Refused));
    fails(expired(resize(1, 1), Granted));
    fails(vec![("[]", serve(1, 8), Granted), ("  []", commit(1), Done), ("    []", expire(1), Expired)]);
}

#[test]
fn a_hold_past_its_time_counts_until_it_expires() {
    let lapsing = |committed, reserved| {
        vec![
            ("[]", serve(1, 8), Granted),
            ("  [?", QuotaOp::Lapse { id: 1 }, Expired),
            ("    []", commit(1), committed),
            ("      []", serve(2, 8), reserved),
        ]
    };
    passes(lapsing(Refused, Denied));
    passes(lapsing(Done, Denied));
    fails(lapsing(Refused, Granted));
    // Without a time that may be over, only the expiry could refuse it, and it gives back at once.
    fails(vec![
        ("[]", serve(1, 8), Granted),
        ("  [?", expire(1), Expired),
        ("    []", commit(1), Refused),
        ("      []", serve(2, 8), Denied),
    ]);
    let lapsed = |op, answer| {
        vec![
            ("[]", serve(1, 8), Granted),
            ("  []", QuotaOp::Lapse { id: 1 }, Expired),
            ("    []", op, answer),
        ]
    };
    passes(lapsed(resize(1, 1), Refused));
    fails(lapsed(resize(1, 1), Granted));
    passes(lapsed(release(1), Done));
    fails(lapsed(release(1), Refused));
    passes(lapsed(expire(1), Expired));
}

#[test]
fn a_denial_without_a_trace_is_decided_anew() {
    let again = |answer| {
        history(vec![
            ("[]", serve(1, 8), Granted),
            ("  []", serve(2, 1), Denied),
            ("    []", release(1), Done),
            ("      []", serve(2, 1), answer),
        ])
    };
    let verdicts = |model: QuotaModel| [Granted, Denied].map(|answer| model.check(&again(answer)).is_ok());
    assert_eq!(verdicts(model()), [false, true]);
    assert_eq!(verdicts(model().denials_leave_no_trace()), [true, false]);
}

#[test]
fn a_resize_is_held_to_the_limits() {
    let resized = |to, answer| {
        vec![("[]", serve(1, 2), Granted), ("  []", serve(2, 3), Granted), ("    []", resize(1, to), answer)]
    };
    passes(resized(5, Granted));
    fails(resized(6, Granted));
    passes(resized(6, Denied));
    fails(resized(5, Denied));
    passes(vec![("[]", resize(1, 1), Refused)]);
    // Also a committed one; and what it gives back is there for others, no more and no less.
    let shrunk = |gpus, answer| {
        vec![
            ("[]", serve(1, 8), Granted),
            ("  []", commit(1), Done),
            ("    []", resize(1, 5), Granted),
            ("      []", serve(2, gpus), answer),
        ]
    };
    passes(shrunk(3, Granted));
    fails(shrunk(3, Denied));
    fails(shrunk(4, Granted));
    // Two that grow at once.
    let grown = |answer| {
        vec![
            ("[]", serve(1, 3), Granted),
            ("  []", serve(2, 3), Granted),
            ("    [--]", resize(1, 5), Granted),
            ("    [--]", resize(2, 5), answer),
        ]
    };
    passes(grown(Denied));
    fails(grown(Granted));
}

#[test]
fn a_violation_shows_where_the_order_ends() {
    let rows = vec![
        ("[-----]", serve(1, 5), Granted),
        (" [--]", serve(2, 5), Denied),
        ("        [?", commit(1), Done),
        ("           [--]", serve(3, 3), Granted),
        ("            [----]", serve(4, 1), Granted),
    ];
    let violation = check(&history(rows), &model()).unwrap_err();
    assert_eq!((&violation.stuck().order[..], &violation.stuck().next[..]), (&[0, 1, 3][..], &[4, 2][..]));
    let expected = "\
the history is not linearizable: 3 of 4 answered operations can be put in an order.
Then the state is: acme 0/10 disk, acme 8/8 gpu, training 0/6 gpu; requests that still matter: none.
The end of the order (time runs to the right):
  ├──┤          1. #0 client 0: Reserve { id: 1, scope: \"serving\", items: {\"gpu\": 5} } -> Granted
   ├┤           2. #1 client 1: Reserve { id: 2, scope: \"serving\", items: {\"gpu\": 5} } -> Denied
       ├─┤      3. #3 client 3: Reserve { id: 3, scope: \"serving\", items: {\"gpu\": 3} } -> Granted
One of these had to come next, and none can have been answered so:
        ├─┤      - #4 client 4: Reserve { id: 4, scope: \"serving\", items: {\"gpu\": 1} } -> Granted
These, whose answers were lost, could have come before it, and did not help:
      ├───…      - #2 client 2: Commit { id: 1 } -> (answer lost)
";
    assert_eq!(format!("{violation:?}"), expected);
}
