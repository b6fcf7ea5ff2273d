//! Receipts can be replayed, and show what was changed in them; bounds hold; tables of reserve prices rise.

use hourglass_capacity::auction::receipt::{Difference, RULES, Receipt, why};
use hourglass_capacity::auction::reserve::{
    Point, ReserveDraft, ReserveError, ReservePolicy, Shape, utilisation,
};
use hourglass_capacity::auction::welfare::{Welfare, bound};
use hourglass_capacity::auction::{BidIx, BidOutcome, Headrooms, Refusal};
use hourglass_units::{Percent, Price};

use super::books::{Kind, World, for_each_book, price, won};

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

/// The bound is above what any clearing of the same bids reaches, whatever runs and whatever is allowed.
#[test]
fn no_clearing_reaches_more_than_the_bound() {
    for kind in [Kind::Unlimited, Kind::Mixed, Kind::Exact] {
        for_each_book(kind, 4_000, |world| {
            let book = world.book();
            let clearing = world.clear();
            let welfare = Welfare::of(&book, &clearing);
            let reached: i64 = won(world, &clearing)
                .map(|(_, bid, _, units)| bid.limit.nanos() * i64::try_from(bid.gpus(units)).unwrap())
                .sum();
            assert_eq!(welfare.reached, u128::try_from(reached).unwrap());
            assert!(welfare.reached <= welfare.bound && welfare.ratio() <= Percent::WHOLE);
            let mut fresh = world.clone();
            fresh.draft.bids.iter_mut().for_each(|bid| bid.running = None);
            fresh.headrooms = Headrooms::default();
            assert!(Welfare::of(&fresh.book(), &fresh.clear()).reached <= bound(&fresh.book()));
        });
    }
}

/// Where bids are single GPUs and nothing runs, the walk is the best there is and the bound says so.
#[test]
fn the_bound_is_tight_for_single_gpus_of_one_pool() {
    for_each_book(Kind::Exact, 2_000, |world| {
        let mut world = world.clone();
        for bid in &mut world.draft.bids {
            (bid.gpus_per_unit, bid.min_units, bid.running) = (1, 1, None);
        }
        let welfare = Welfare::of(&world.book(), &world.clear());
        assert_eq!((welfare.reached, welfare.ratio()), (welfare.bound, Percent::WHOLE));
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
                let is_refused = matches!(reason, hourglass_capacity::auction::Reason::Refused(_));
                let of_bid = |refused: &&hourglass_capacity::auction::Refused| refused.bid.index() == at;
                assert!(!is_refused || receipt.refused.iter().any(|it| of_bid(&it)));
            }
        }
        let _: Option<Refusal> = receipt.refused.first().map(|it| it.refusal);
    });
}

fn percent(text: &str) -> Percent {
    text.parse().unwrap()
}

fn policy(shape: Shape, points: &[(&str, &str)]) -> Result<ReservePolicy, ReserveError> {
    let point = |(utilisation, price): &(&str, &str)| Point {
        utilisation: percent(utilisation),
        price: Price::parse(price).unwrap(),
    };
    ReservePolicy::new(ReserveDraft { shape, points: points.iter().map(point).collect() })
}

#[test]
fn reserve_prices_follow_the_table() {
    let points = [("0", "0.80"), ("50", "0.80"), ("80", "1.40"), ("100", "2")];
    for (at, steps, lines) in [
        ("0", "0.80", "0.80"),
        ("49.9999", "0.80", "0.80"),
        ("50", "0.80", "0.80"),
        ("65", "0.80", "1.10"),
        ("79.9999", "0.80", "1.399998"),
        ("80", "1.40", "1.40"),
        ("90", "1.40", "1.70"),
        ("100", "2", "2"),
        ("250", "2", "2"),
    ] {
        let found = |shape| policy(shape, &points).unwrap().price_at(percent(at));
        assert_eq!(found(Shape::Steps), Price::parse(steps).unwrap(), "steps at {at}");
        assert_eq!(found(Shape::Lines), Price::parse(lines).unwrap(), "lines at {at}");
    }
    let nanos = policy(Shape::Lines, &[("0", "0"), ("0.0003", "0.000000002")]).unwrap();
    let found = ["0", "0.0001", "0.0002", "0.0003"].map(|at| nanos.price_at(percent(at)).nanos());
    assert_eq!(found, [0, 0, 1, 2]);
}

#[test]
fn a_table_that_falls_or_leaves_a_gap_is_refused() {
    let check = |points: &[(&str, &str)], expected: &str| {
        let error = policy(Shape::Steps, points).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[], "0 points");
    check(&vec![("0", "1"); 65], "65 points");
    check(&[("1", "1")], "begin at 1 %");
    check(&[("0", "1"), ("0", "2")], "at 0 % follows one at 0 %");
    check(&[("0", "1"), ("60", "2"), ("50", "3")], "at 50 % follows one at 60 %");
    check(&[("0", "1"), ("101", "2")], "at 101 %");
    check(&[("0", "1"), ("10", "0.9")], "falls from 1 to 0.9 at 10 %");
    let text = r#"{"shape":"steps","points":[{"utilisation":"5","price":"1"}]}"#;
    assert!(serde_json::from_str::<ReservePolicy>(text).unwrap_err().to_string().contains("begin at 5 %"));
}

#[test]
fn utilisation_is_a_share_rounded_down() {
    for (used, capacity, expected) in [
        (0, 10, "0"),
        (1, 3, "33.3333"),
        (10, 10, "100"),
        (11, 10, "100"),
        (0, 0, "100"),
        (u64::MAX, 1, "100"),
    ] {
        assert_eq!(utilisation(used, capacity), percent(expected));
    }
}
