//! An oracle for the programme: all choices of units, each weighed by itself.

use hourglass_capacity::auction::{Bid, BidOutcome, Cleared};

use super::books::{Kind, World, for_each_book, price};

/// What a choice is worth: the value, the GPUs that keep running, and then its units in the order of bids.
type Worth = (u128, u64, Vec<u32>);

fn worth(world: &World, units: &[u32]) -> Option<Worth> {
    let boost = u128::from(1_000_000 + world.draft.margin.ppm());
    let (mut value, mut kept_gpus, mut gpus) = (0, 0, 0);
    for (bid, units) in world.draft.bids.iter().zip(units) {
        let kept = bid.running.map_or(0, |running| running.units).min(*units);
        let limit = u128::try_from(bid.limit.nanos()).unwrap();
        let weight = boost * u128::from(kept) + 1_000_000 * u128::from(units - kept);
        value += limit * weight * u128::from(bid.gpus_per_unit);
        kept_gpus += u64::from(kept * bid.gpus_per_unit);
        gpus += u64::from(units * bid.gpus_per_unit);
    }
    (gpus <= world.draft.pools[0].supply).then(|| (value, kept_gpus, units.to_vec()))
}

fn choices(world: &World, bid: &Bid) -> Vec<u32> {
    let pool = &world.draft.pools[0];
    let gang = u128::from(bid.gpus_per_unit * bid.min_units) * 1_000_000;
    let is_small = bid.min_units == 1 || gang <= u128::from(pool.supply) * u128::from(pool.gang_max.ppm());
    if bid.limit < pool.reserve || !(is_small || bid.running.is_some()) {
        return vec![0];
    }
    [0].into_iter().chain(bid.min_units..=bid.max_units).collect()
}

fn best(world: &World) -> Worth {
    let mut all: Vec<Vec<u32>> = vec![Vec::new()];
    for bid in &world.draft.bids {
        let choices = choices(world, bid);
        all = all
            .iter()
            .flat_map(|units| choices.iter().map(|more| units.iter().copied().chain([*more]).collect()))
            .collect();
    }
    all.iter().filter_map(|units| worth(world, units)).max().unwrap()
}

fn units(world: &World) -> Vec<u32> {
    let clearing = world.clear();
    assert_eq!(clearing.pools[0].cleared, Cleared::Exactly);
    clearing.bids.iter().map(|outcome| outcome.won().map_or(0, |(_, units)| units)).collect()
}

#[test]
fn the_programme_agrees_with_all_choices() {
    for_each_book(Kind::Exact, 5_000, |world| assert_eq!(units(world), best(world).2));
}

/// With the limit at which it would have won a loser wins; below, by a tie at most.
#[test]
fn would_have_won_at_is_the_least_limit_that_wins_in_an_exact_pool() {
    for_each_book(Kind::Exact, 3_000, |world| {
        for (at, outcome) in world.clear().bids.iter().enumerate() {
            let BidOutcome::Lost { wins_at, .. } = outcome else { continue };
            let wins = |nanos: i64| {
                let limit = price(u32::try_from(nanos).unwrap());
                units(&world.with_limit(at, limit))[at] > 0
            };
            let Some(least) = wins_at.map(|price| price.nanos()) else {
                assert!(!wins(4_000_000_000));
                continue;
            };
            assert!(wins(least), "bid {at} does not win with {least} nanos");
            assert!(least < 2 || !wins(least - 2), "bid {at} wins far below {least} nanos");
            if least > world.draft.pools[0].reserve.nanos() && wins(least - 1) {
                let below = world.with_limit(at, price(u32::try_from(least - 1).unwrap()));
                let mut without = below.clone();
                without.draft.bids[at].limit = price(0);
                (without.draft.bids[at].min_units, without.draft.bids[at].max_units) = (1_000, 1_000);
                without.draft.bids[at].running = None;
                let (one, other) = (best(&below), best(&without));
                assert_eq!(
                    (one.0, one.1),
                    (other.0, other.1),
                    "bid {at} wins below {least} by more than a tie"
                );
            }
        }
    });
}
