//! Receipts can be replayed, and show what was changed in them.

use super::books::{Kind, World, for_each_book, price, won};
use hourglass_capacity::auction::receipt::{Difference, RULES, Receipt, why};
use hourglass_capacity::auction::{BidIx, BidOutcome, Reason, Refused};

fn receipt(world: &World) -> Receipt {
    Receipt::of(world.book(), &mut world.headrooms.clone())
}

#[test]
fn receipts_replay_without_the_quotas() {
    for kind in [Kind::Greedy, Kind::Mixed] {
        for_each_book(kind, 4_000, |world| {
            let receipt = receipt(world);
            assert_eq!(receipt.clearing, world.clear());
            assert_eq!(receipt.replay().as_ref(), Ok(&receipt.clearing));
        });
    }
}

/// In both kinds of format, and what is no book is not read.
#[test]
fn receipts_read_back() {
    for_each_book(Kind::Mixed, 500, |world| {
        let receipt = receipt(world);
        let text = serde_json::to_string(&receipt).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
        let bytes = postcard::to_stdvec(&receipt).unwrap();
        assert_eq!(postcard::from_bytes::<Receipt>(&bytes).unwrap(), receipt);
        let Some(first) = world.draft.bids.first() else { return };
        let twice = text.replacen(
            &format!("\"number\":{}", first.number + 3),
            &format!("\"number\":{}", first.number),
            1,
        );
        assert_eq!(twice == text, serde_json::from_str::<Receipt>(&twice).is_ok());
    });
}

fn shorten<T>(list: &mut Vec<T>) {
    list.truncate(list.len().saturating_sub(1));
}

/// Whatever is changed in a receipt, its replay finds it.
#[test]
fn a_changed_receipt_does_not_replay() {
    for_each_book(Kind::Greedy, 2_000, |world| {
        let good = receipt(world);
        let differs = |change: &dyn Fn(&mut Receipt), is_expected: &dyn Fn(Difference) -> bool| {
            let mut bad = good.clone();
            change(&mut bad);
            if bad != good {
                let difference = bad.replay().expect_err("a changed receipt replays");
                assert!(is_expected(difference), "{difference}");
            }
        };
        differs(&|it| it.rules += 1, &|it| it == Difference::Rules { found: RULES + 1 });
        differs(&|it| it.clearing.pools[0].price = price(4_000), &|it| matches!(it, Difference::Pool { .. }));
        differs(&|it| shorten(&mut it.clearing.bids), &|it| matches!(it, Difference::Bid { .. }));
        differs(&|it| shorten(&mut it.clearing.preemptions), &|it| it == Difference::Preemptions);
        differs(&|it| shorten(&mut it.clearing.handovers), &|it| it == Difference::Handovers);
        differs(&|it| it.welfare.bound += 1, &|it| it == Difference::Welfare { found: good.welfare });
        differs(&|it| it.refused.extend(it.refused.last().copied()), &|it| it == Difference::Refusals);
        let turn = |refused: &mut Receipt| {
            if let Some(first) = refused.refused.first_mut() {
                first.bid = BidIx(first.bid.0 + 1);
            }
        };
        differs(&turn, &|it| it == Difference::Refusals);
    });
}

#[test]
fn why_says_what_the_clearing_says_and_what_stands_ahead() {
    for_each_book(Kind::Mixed, 2_000, |world| {
        let (book, clearing) = (world.book(), world.clear());
        for (at, bid) in world.draft.bids.iter().enumerate() {
            let why = why(&book, &clearing, BidIx(u32::try_from(at).unwrap())).unwrap();
            assert_eq!(why.outcome, clearing.bids[at]);
            let stopped: u32 = why.preemptions.iter().map(|it| it.units).sum();
            assert!(stopped <= bid.running.map_or(0, |it| it.units));
            assert_eq!(why.standings.iter().map(|it| it.pool).collect::<Vec<_>>(), bid.pools);
            for standing in why.standings {
                let boost = i64::from(1_000_000 + world.draft.margin.ppm());
                let ahead: Vec<u64> = won(world, &clearing)
                    .filter(|(other, winner, pool, _)| {
                        *other != at
                            && *pool == standing.pool
                            && winner.limit.nanos() * boost >= bid.limit.nanos() * 1_000_000
                    })
                    .map(|(_, winner, _, units)| winner.gpus(units))
                    .collect();
                assert_eq!((standing.bids_ahead, standing.gpus_ahead), (ahead.len(), ahead.iter().sum()));
            }
        }
        assert_eq!(why(&book, &clearing, BidIx(99)), None);
    });
}

/// Nothing that was read from outside makes the explanation fail, even if it belongs to another book.
#[test]
fn why_of_another_book_is_no_panic() {
    for_each_book(Kind::Mixed, 500, |world| {
        let mut smaller = world.clone();
        smaller.draft.pools.truncate(1);
        smaller.draft.bids.retain(|bid| bid.pools.iter().all(|pool| pool.0 == 0));
        let clearing = world.clear();
        for at in 0..world.draft.bids.len() {
            let _ = why(&smaller.book(), &clearing, BidIx(u32::try_from(at).unwrap()));
            let _ = why(&world.book(), &smaller.clear(), BidIx(u32::try_from(at).unwrap()));
        }
    });
}

/// A refusal is recorded only for those that have a limit.
#[test]
fn refusals_are_recorded_with_what_was_asked() {
    for_each_book(Kind::Greedy, 2_000, |world| {
        let receipt = receipt(world);
        for refused in &receipt.refused {
            assert!(refused.granted < refused.asked);
            let limits = &world.headrooms.by_bid[refused.bid.index()];
            assert!(limits.iter().any(|it| world.headrooms.constraints[it.0].refusal == refused.refusal));
        }
        for (at, outcome) in receipt.clearing.bids.iter().enumerate() {
            if let BidOutcome::Lost { reason, .. } = outcome {
                let is_refused = matches!(reason, Reason::Refused(_));
                let of_bid = |refused: &&Refused| refused.bid.index() == at;
                assert!(!is_refused || receipt.refused.iter().any(|it| of_bid(&it)));
            }
        }
    });
}
