//! What can happen in a life, at random.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Act {
    Wait(i64),
    Start(usize, i64),
    Stop(usize, i64),
    Report(usize, i64, i64),
    /// Reports on from the last report until now, or some minutes ahead of it.
    Continue(usize, i64),
    ChangeMode(usize, usize, i64),
    Spot(i64),
    Reserve(usize, u32, i64, i64, usize),
    Amend(usize, i64),
    Credit(usize, usize, i64, Option<i64>, u32),
    Tax(usize, bool),
    Rerate(i64, i64, i64, bool),
    VoidUsage(usize, i64, i64),
    Finalise(usize),
    Pay(usize, u64),
    VoidInvoice(usize, u64),
    CreditNote(usize),
    /// Closes the next month, where it can be; before it what is due may be finalised.
    Close(bool),
    Tick,
    Quota(Quota),
}

/// What is done about quota. Holds, leases and instances are named by their place among those that live.
#[derive(Debug, Clone)]
pub(super) enum Quota {
    Group(usize, usize),
    Place(usize, usize, usize),
    /// Node, class, nominal, borrowing, lending, drain.
    Limit(usize, usize, Option<u64>, u64, u64, bool),
    Hold(usize, usize, u64, i64),
    Commit(usize),
    Release(usize),
    Renew(usize, i64),
    Resize(usize, usize, u64),
    /// An instance with the hold or without one.
    Register(usize, usize, Option<usize>, u32),
    Lease(usize, usize, u64, u64),
    Refresh(usize, u64, u64),
    Return(usize),
    Ask(usize, usize, u64),
    Answer(usize, Option<u64>),
    Review,
}

pub(super) fn quota() -> impl Strategy<Value = Quota> {
    let (class, live) = (|| 0..3_usize, || 0..40_usize);
    prop_oneof![
        1 => (0..2_usize, 0..3_usize).prop_map(|(t, g)| Quota::Group(t, g)),
        2 => (0..2_usize, 0..3_usize, 0..4_usize).prop_map(|(t, p, g)| Quota::Place(t, p, g)),
        4 => (live(), class(), proptest::option::weighted(0.8, 0..40_u64), 0..30_u64, 0..30_u64, any::<bool>())
            .prop_map(|(n, c, nominal, b, l, d)| Quota::Limit(n, c, nominal, b, l, d)),
        6 => (live(), class(), 1..16_u64, 1..300_i64).prop_map(|(p, c, a, s)| Quota::Hold(p, c, a, s)),
        2 => live().prop_map(Quota::Commit),
        2 => live().prop_map(Quota::Release),
        1 => (live(), 1..300_i64).prop_map(|(h, s)| Quota::Renew(h, s)),
        2 => (live(), class(), 1..16_u64).prop_map(|(h, c, a)| Quota::Resize(h, c, a)),
        4 => (live(), class(), proptest::option::of(live()), 1..9_u32).prop_map(|(p, m, h, g)| Quota::Register(p, m, h, g)),
        2 => (live(), class(), 1..16_u64, 0..4_u64).prop_map(|(n, c, w, s)| Quota::Lease(n, c, w, s)),
        2 => (live(), 1..16_u64, 0..3_u64).prop_map(|(l, w, k)| Quota::Refresh(l, w, k)),
        1 => live().prop_map(Quota::Return),
        1 => (live(), class(), 0..40_u64).prop_map(|(n, c, w)| Quota::Ask(n, c, w)),
        1 => (live(), proptest::option::of(0..40_u64)).prop_map(|(r, g)| Quota::Answer(r, g)),
        3 => Just(Quota::Review),
    ]
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let instance = || 0..INSTANCES.len();
    let back = || prop_oneof![0..3 * HOUR, 0..60 * HOUR, 0..700 * HOUR];
    prop_oneof![
        6 => prop_oneof![1..20 * MINUTE, 1..200 * MINUTE].prop_map(Act::Wait),
        3 => (20 * HOUR..500 * HOUR).prop_map(Act::Wait),
        4 => (instance(), back()).prop_map(|(i, b)| Act::Start(i, b)),
        2 => (instance(), back()).prop_map(|(i, b)| Act::Stop(i, b)),
        12 => (instance(), back(), 1..5 * HOUR).prop_map(|(i, b, l)| Act::Report(i, b, l)),
        8 => (instance(), 0..4 * MINUTE).prop_map(|(i, a)| Act::Continue(i, a)),
        6 => (0..4 * MINUTE).prop_map(|a| Act::Continue(3, a)),
        3 => (instance(), 0..5_usize, back()).prop_map(|(i, m, b)| Act::ChangeMode(i, m, b)),
        4 => (1..9_i64).prop_map(Act::Spot),
        2 => (0..2_usize, 1..20_u32, 0..30_i64, 1..60_i64, 0..4_usize).prop_map(|(t, g, f, l, p)| Act::Reserve(t, g, f, l, p)),
        1 => (0..6_usize, 0..80_i64).prop_map(|(r, u)| Act::Amend(r, u)),
        2 => (0..2_usize, 0..2_usize, 1..200_i64, proptest::option::of(1..100_i64), any::<u32>()).prop_map(|(t, k, a, u, p)| Act::Credit(t, k, a, u, p)),
        1 => (0..2_usize, any::<bool>()).prop_map(|(t, line)| Act::Tax(t, line)),
        1 => (0..100_i64, 1..60_i64, 1..9_i64, any::<bool>()).prop_map(|(b, l, p, c)| Act::Rerate(b, l, p, c)),
        1 => (instance(), back(), 1..5 * HOUR).prop_map(|(i, b, l)| Act::VoidUsage(i, b, l)),
        6 => (0..2_usize).prop_map(Act::Finalise),
        2 => (0..2_usize, 1..3_u64).prop_map(|(t, n)| Act::Pay(t, n)),
        4 => (0..2_usize, 1..3_u64).prop_map(|(t, n)| Act::VoidInvoice(t, n)),
        3 => (0..2_usize).prop_map(Act::CreditNote),
        4 => any::<bool>().prop_map(Act::Close),
        5 => Just(Act::Tick),
        24 => quota().prop_map(Act::Quota),
    ]
}

/// What happens in a market of one tenant: much is lent, claimed and given back.
pub(super) fn market() -> impl Strategy<Value = Act> {
    // Projects of the second tenant alone.
    let (project, live) = (|| (0..3_usize).prop_map(|p| 2 * p + 1), || 0..12_usize);
    let class = || prop_oneof![4 => Just(0_usize), 5 => Just(1), 1 => Just(2)];
    let quota = prop_oneof![
        10 => (project(), class(), 1..9_u64, 30..3_000_i64).prop_map(|(p, c, a, s)| Quota::Hold(p, c, a, s)),
        2 => live().prop_map(Quota::Commit),
        4 => live().prop_map(Quota::Release),
        2 => (live(), class(), 1..9_u64).prop_map(|(h, c, a)| Quota::Resize(h, c, a)),
        4 => (project(), class(), proptest::option::of(live()), 1..9_u32).prop_map(|(p, m, h, g)| Quota::Register(p, m, h, g)),
        1 => (live(), class(), 1..9_u64, 0..4_u64).prop_map(|(n, c, w, s)| Quota::Lease(n, c, w, s)),
        2 => (live(), 1..16_u64, 0..3_u64).prop_map(|(l, w, k)| Quota::Refresh(l, w, k)),
        1 => (Just(1_usize), 0..3_usize, 0..3_usize).prop_map(|(t, p, g)| Quota::Place(t, p, g)),
        1 => (live(), class(), 4..20_u64).prop_map(|(n, c, nominal)| Quota::Limit(n, c, Some(nominal), 25, 25, true)),
        3 => Just(Quota::Review),
    ];
    let instance = || 3..INSTANCES.len();
    prop_oneof![
        20 => quota.prop_map(Act::Quota),
        3 => (1..5 * MINUTE).prop_map(Act::Wait),
        1 => (1..50 * HOUR).prop_map(Act::Wait),
        3 => (instance(), Just(0)).prop_map(|(i, b)| Act::Start(i, b)),
        3 => (instance(), Just(0)).prop_map(|(i, b)| Act::Stop(i, b)),
        2 => (instance(), 0..4_usize, Just(0)).prop_map(|(i, m, b)| Act::ChangeMode(i, m, b)),
        1 => (Just(1_usize), 1..20_u32, 0..3_i64, 1..60_i64).prop_map(|(t, g, f, l)| Act::Reserve(t, g, f, l, 0)),
        2 => Just(Act::Tick),
    ]
}
