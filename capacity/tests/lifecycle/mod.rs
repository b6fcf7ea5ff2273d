//! L-1, L-2 and L-3: instances before a cloud and a network that fail, and numbers by hand.

mod by_hand;
mod cloud;
mod world;

use hourglass_units::Instant;

use cloud::Faults;
use hourglass_test_chance::{Chance, for_each_seed};
use world::World;

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(1_800_000_000_000 + ms).unwrap()
}

/// Whatever happens on the way: once it is over, everything is as somebody wanted it, by the cause that
/// somebody gave.
#[test]
fn l3_lost_late_and_repeated_calls_change_no_outcome() {
    for_each_seed("PROPTEST_CASES", 500, |seed| {
        World::new(seed, Faults { network: 5, ..Faults::default() }).run()
    });
}

/// Whatever the cloud does besides: every request ends in RUNNING or in a reason, and the reason happened.
#[test]
fn l1_l3_whatever_the_cloud_does_ends_in_running_or_in_a_reason() {
    for_each_seed("PROPTEST_CASES", 500, |seed| {
        World::new(seed, Faults { network: 6, cloud: 6, ..Faults::default() }).run()
    });
}

/// Even where the cloud keeps no idempotency keys: what a late call starts or makes once more is found and
/// brought down.
#[test]
fn l3_a_cloud_that_forgets_keys_leaves_no_zombie() {
    for_each_seed("PROPTEST_CASES", 300, |seed| {
        World::new(seed, Faults { network: 5, cloud: 0, forgets_keys: true }).run()
    });
}
