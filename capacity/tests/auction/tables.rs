//! Numbers worked out by hand, and texts.

use hourglass_capacity::auction::{
    BIDS_MAX, Bid, BidIx, BidOutcome, Book, BookDraft, Cause, Cleared, Clearing, Constraint,
    EXACT_CHOICES_MAX, EXACT_SUPPLY_MAX, Headrooms, Mode, Pool, PoolIx, Reason, Refusal, Running, SUPPLY_MAX,
    Short, clear,
};
use hourglass_capacity::pool::PoolName;
use hourglass_units::Price;

use super::books::pool;

fn dollars(text: &str) -> Price {
    Price::parse(text).unwrap()
}

/// A bid of single GPUs in pool 0: its number, units at least and at most, limit, what runs.
fn bid(number: u64, (min_units, max_units): (u32, u32), limit: &str, running: Option<u32>) -> Bid {
    let running = running.map(|units| Running { pool: PoolIx(0), units });
    let pools = vec![PoolIx(0)];
    Bid { number, pools, gpus_per_unit: 1, min_units, max_units, limit: dollars(limit), running }
}

/// A pool with a reserve price of one dollar.
fn offer(at: usize, supply: u64, mode: Mode) -> Pool {
    Pool { reserve: dollars("1"), ..pool(at, supply, 0, mode, "100") }
}

fn draft(pools: Vec<Pool>, bids: Vec<Bid>) -> BookDraft {
    BookDraft { pools, margin: "10".parse().unwrap(), bids }
}

fn cleared(pools: Vec<Pool>, bids: Vec<Bid>, mut headrooms: Headrooms) -> Clearing {
    clear(&Book::new(draft(pools, bids)).unwrap(), &mut headrooms)
}

/// In one greedy pool without quotas.
fn walked(supply: u64, bids: Vec<Bid>) -> Clearing {
    cleared(vec![offer(0, supply, Mode::Greedy)], bids, Headrooms::default())
}

/// Units won by each bid, the price of pool 0, and what stops: bid, units, cause.
fn check(clearing: &Clearing, units: &[u32], price: &str, stops: &[(u32, u32, Cause)]) {
    let won: Vec<u32> = clearing.bids.iter().map(|it| it.won().map_or(0, |(_, units)| units)).collect();
    assert_eq!((won.as_slice(), clearing.pools[0].price), (units, dollars(price)));
    let stopped: Vec<_> = clearing.preemptions.iter().map(|it| (it.bid.0, it.units, it.cause)).collect();
    assert_eq!(stopped, stops);
}

fn lost(reason: Reason, wins_at: Option<&str>) -> BidOutcome {
    BidOutcome::Lost { reason, wins_at: wins_at.map(dollars) }
}

#[test]
fn the_highest_limit_turned_away_is_the_price() {
    let bids =
        |third| vec![bid(1, (4, 4), "3", None), bid(2, (4, 4), "2", None), bid(3, (1, 1), third, None)];
    check(&walked(9, bids("1.5")), &[4, 4, 1], "1", &[]);
    let tight = walked(8, bids("1.5"));
    check(&tight, &[4, 4, 0], "1.5", &[]);
    assert_eq!(tight.bids[2], lost(Reason::Outbid, Some("2.000000001")));
    check(&walked(8, bids("2")), &[4, 4, 0], "2", &[]);
    // A gang that three free GPUs turned away sets no price; with a tie it would have gone first.
    let gap = walked(8, bids("2.5"));
    check(&gap, &[4, 0, 1], "1", &[]);
    assert_eq!(gap.bids[1], lost(Reason::NoRoom, Some("2.5")));
    let low = walked(8, bids("0.99"));
    check(&low, &[4, 4, 0], "1", &[]);
    assert_eq!(low.bids[2], lost(Reason::BelowReserve { reserve: dollars("1") }, Some("2.000000001")));
    // Nobody wins, and the pool shows what was turned away.
    check(&walked(0, bids("2")), &[0, 0, 0], "2", &[]);
}

#[test]
fn what_runs_is_displaced_only_beyond_the_margin() {
    let bids = |second, (units, third)| {
        let incumbent = bid(1, (2, 4), "2", Some(4));
        vec![incumbent, bid(2, (4, 4), second, None), bid(3, (units, units), third, None)]
    };
    let tie = walked(8, bids("2.2", (4, "2.2")));
    check(&tie, &[4, 4, 0], "2", &[]);
    assert_eq!(tie.bids[2], lost(Reason::Outbid, Some("2.200000001")));
    check(&walked(8, bids("2.2", (4, "2.200000001"))), &[4, 0, 4], "2", &[]);
    let cut = walked(8, bids("3", (2, "2.5")));
    check(&cut, &[2, 4, 2], "2", &[(0, 2, Cause::Outbid { by: BidIx(2) })]);
    assert_eq!(cut.bids[0], BidOutcome::Won { pool: PoolIx(0), units: 2, short: Some(Short::Capacity) });
    // Four GPUs were free and went to the first newcomer; the second one waits for the victim's.
    let flows: Vec<_> = cut.handovers.iter().map(|it| (it.from.0, it.to.0, it.gpus)).collect();
    assert_eq!(flows, [(0, 2, 2)]);
    let gone = walked(8, bids("3", (4, "2.5")));
    check(&gone, &[0, 4, 4], "2", &[(0, 4, Cause::Outbid { by: BidIx(2) })]);
    assert_eq!(gone.bids[0], lost(Reason::Outbid, Some("2.272727273")));
}

#[test]
fn each_cause_has_its_case() {
    let runs = |limit| bid(1, (1, 4), limit, Some(4));
    check(&walked(3, vec![runs("2")]), &[3], "2", &[(0, 1, Cause::SupplyReclaimed)]);
    check(&walked(4, vec![runs("0.9")]), &[0], "1", &[(0, 4, Cause::ReserveRaised)]);
    let both = walked(3, vec![runs("2"), bid(2, (1, 1), "5", None)]);
    check(&both, &[2, 1], "2", &[(0, 1, Cause::Outbid { by: BidIx(1) }), (0, 1, Cause::SupplyReclaimed)]);
    for (refusal, cause) in [(Refusal::Quota, Cause::Quota), (Refusal::Budget, Cause::Budget)] {
        let both = |supply, headroom| {
            let constraints = vec![Constraint { headroom, refusal }];
            let headrooms = Headrooms { constraints, by_bid: vec![vec![(0, 2)]] };
            cleared(vec![offer(0, supply, Mode::Greedy)], vec![runs("2")], headrooms)
        };
        let limited = |headroom| both(9, headroom);
        check(&limited(7), &[3], "1", &[(0, 1, cause)]);
        check(&both(3, 4), &[2], "1", &[(0, 1, cause), (0, 1, Cause::SupplyReclaimed)]);
        check(&limited(1), &[0], "1", &[(0, 4, cause)]);
        assert_eq!(limited(1).bids[0], lost(Reason::Refused(refusal), None));
        let short = Some(Short::Refused(refusal));
        assert_eq!(limited(7).bids[0], BidOutcome::Won { pool: PoolIx(0), units: 3, short });
    }
}

#[test]
fn a_victim_moves_to_its_next_pool_without_the_margin() {
    let clearing = |limit: &str| {
        let pools = vec![offer(0, 2, Mode::Greedy), offer(1, 2, Mode::Greedy)];
        let mut victim = bid(1, (2, 2), "2", Some(2));
        victim.pools.push(PoolIx(1));
        let mut other = bid(3, (2, 2), limit, None);
        other.pools = vec![PoolIx(1)];
        cleared(pools, vec![victim, bid(2, (2, 2), "3", None), other], Headrooms::default())
    };
    let outbid = (0, 2, Cause::Outbid { by: BidIx(1) });
    let moves = clearing("2");
    check(&moves, &[2, 2, 0], "1", &[outbid]);
    assert_eq!(moves.bids[0].won(), Some((PoolIx(1), 2)));
    let flow = moves.handovers[0];
    assert_eq!((flow.pool, flow.from, flow.to, flow.gpus), (PoolIx(0), BidIx(0), BidIx(1), 2));
    // What goes before it there needs no more than a higher limit.
    check(&clearing("2.000000001"), &[0, 2, 2], "2", &[outbid]);
}

#[test]
fn a_gang_above_its_share_is_refused_and_one_that_runs_stays() {
    let share = |bids| {
        let pools = vec![Pool { gang_max: "25".parse().unwrap(), ..offer(0, 8, Mode::Greedy) }];
        cleared(pools, bids, Headrooms::default())
    };
    let refused =
        share(vec![bid(1, (3, 3), "9", None), bid(2, (2, 2), "2", None), bid(3, (1, 8), "2", None)]);
    check(&refused, &[0, 2, 6], "2", &[]);
    assert_eq!(refused.bids[0], lost(Reason::TooLarge { gpus_max: 2 }, None));
    check(&share(vec![bid(1, (3, 3), "2", Some(3))]), &[3], "1", &[]);
    // A single unit is no gang, however large.
    let large = Bid { gpus_per_unit: 8, ..bid(1, (1, 1), "2", None) };
    check(&share(vec![large]), &[1], "1", &[]);
}

/// What was reclaimed goes to whoever reclaimed it, as long as others leave enough.
#[test]
fn newcomers_wait_for_those_that_they_displaced() {
    let runs = |number, units, limit| bid(number, (units, units), limit, Some(units));
    let clearing = walked(5, vec![runs(1, 6, "4"), runs(2, 3, "3"), bid(3, (3, 3), "5", None)]);
    let stops = [(0, 6, Cause::SupplyReclaimed), (1, 3, Cause::Outbid { by: BidIx(2) })];
    check(&clearing, &[0, 0, 3], "1", &stops);
    let flows: Vec<_> = clearing.handovers.iter().map(|it| (it.from.0, it.to.0, it.gpus)).collect();
    assert_eq!(flows, [(1, 2, 3)]);
}

#[test]
fn who_is_refused_lets_others_pass() {
    let constraints = vec![Constraint { headroom: 5, refusal: Refusal::Quota }];
    let headrooms = Headrooms { constraints, by_bid: vec![vec![(0, 1)], vec![(0, 1)], vec![]] };
    let bids = vec![bid(1, (3, 4), "5", None), bid(2, (2, 2), "4", None), bid(3, (4, 4), "2", None)];
    let clearing = cleared(vec![offer(0, 8, Mode::Greedy)], bids, headrooms);
    check(&clearing, &[4, 0, 4], "1", &[]);
    assert_eq!(clearing.bids[1], lost(Reason::Refused(Refusal::Quota), None));
}

/// In the order of the walk, newcomers take from victims.
#[test]
fn the_first_newcomer_has_what_the_first_victim_leaves() {
    let runs = |number, limit| bid(number, (2, 2), limit, Some(2));
    let new = |number, units, limit| bid(number, (units, units), limit, None);
    let clearing = walked(5, vec![runs(1, "2"), runs(2, "3"), new(3, 3, "6"), new(4, 2, "5")]);
    check(&clearing, &[0, 0, 3, 2], "3", &[0, 1].map(|it| (it, 2, Cause::Outbid { by: BidIx(3) })));
    let flows: Vec<_> = clearing.handovers.iter().map(|it| (it.from.0, it.to.0, it.gpus)).collect();
    assert_eq!(flows, [(1, 2, 2), (0, 3, 2)]);
}

/// The walk gives the 5 GPUs to the highest limit and wastes 3; the programme fills the pool.
#[test]
fn the_programme_fills_a_gap_that_the_walk_leaves() {
    let bids = || vec![bid(1, (5, 5), "3", None), bid(2, (4, 4), "2.9", None), bid(3, (4, 4), "2.8", None)];
    check(&walked(8, bids()), &[5, 0, 0], "1", &[]);
    let exact = cleared(vec![offer(0, 8, Mode::Exact)], bids(), Headrooms::default());
    check(&exact, &[0, 4, 4], "2.8", &[]);
    assert_eq!(exact.bids[0], lost(Reason::Outbid, Some("4.560000001")));
    let running = vec![bid(1, (5, 5), "5", Some(5)), bid(2, (4, 4), "3", None), bid(3, (4, 4), "4", None)];
    let displaced = cleared(vec![offer(0, 8, Mode::Exact)], running, Headrooms::default());
    // None of the winners outranks the victim: it was turned away for its size alone.
    check(&displaced, &[0, 4, 4], "1", &[(0, 5, Cause::Outbid { by: BidIx(2) })]);
}

/// Before the programme, what runs and is too large by now asks for its allowance last: else the others
/// would have more as soon as it has lost, and clearing again would not be the same.
#[test]
fn a_gang_that_became_too_large_leaves_its_quota_to_others() {
    let constraints = vec![Constraint { headroom: 3, refusal: Refusal::Quota }];
    let by_bid = vec![vec![(0, 1)], vec![(0, 1)], vec![]];
    let pools = vec![Pool { gang_max: "25".parse().unwrap(), ..offer(0, 8, Mode::Exact) }];
    let bids = vec![bid(1, (3, 3), "9", Some(3)), bid(2, (1, 1), "8", None), bid(3, (1, 6), "20", None)];
    let clearing = cleared(pools, bids, Headrooms { constraints, by_bid });
    check(&clearing, &[0, 1, 6], "1", &[(0, 3, Cause::Quota)]);
}

/// A quota that lets a part of it pass is not why a bid loses.
#[test]
fn a_loser_of_the_programme_that_was_allowed_is_outbid() {
    let constraints = vec![Constraint { headroom: 2, refusal: Refusal::Quota }];
    let headrooms = Headrooms { constraints, by_bid: vec![vec![(0, 1)]] };
    let bids = vec![bid(1, (1, 4), "2", None), bid(2, (1, 8), "3", None)];
    let clearing = cleared(vec![offer(0, 8, Mode::Exact)], bids, headrooms);
    check(&clearing, &[0, 8], "2", &[]);
    assert_eq!(clearing.bids[0], lost(Reason::Outbid, Some("3.000000001")));
}

#[test]
fn a_pool_too_large_for_the_programme_is_walked_and_says_so() {
    let how = |supply, bids| {
        cleared(vec![offer(0, supply, Mode::Exact)], bids, Headrooms::default()).pools[0].cleared
    };
    let many = |count: usize| (0..count).map(|at| bid(at as u64, (1, 1), "2", None)).collect::<Vec<_>>();
    let choices = usize::try_from(EXACT_CHOICES_MAX).unwrap();
    assert_eq!(how(8, many(choices)), Cleared::Exactly);
    assert_eq!(how(8, many(choices + 1)), Cleared::GreedilyForItsBids);
    let wide = |count| (0..count).map(|at| bid(at, (1, 4_000), "2", None)).collect::<Vec<_>>();
    assert_eq!(how(EXACT_SUPPLY_MAX, wide(EXACT_CHOICES_MAX / EXACT_SUPPLY_MAX)), Cleared::Exactly);
    let more = wide(EXACT_CHOICES_MAX / EXACT_SUPPLY_MAX + 1);
    assert_eq!(how(EXACT_SUPPLY_MAX, more), Cleared::GreedilyForItsBids);
    assert_eq!(how(EXACT_SUPPLY_MAX + 1, many(1)), Cleared::GreedilyForItsSupply);
}

/// At the ends of all ranges nothing overflows: the highest limit, the largest margin, the largest bids.
#[test]
fn the_largest_numbers_are_counted_exactly() {
    let dear = |number, running| Bid {
        gpus_per_unit: 1 << 10,
        ..bid(number, (1 << 20, 1 << 20), "1000000", running)
    };
    let pools = vec![offer(0, SUPPLY_MAX, Mode::Greedy)];
    let bids = vec![dear(1, None), dear(2, Some(1 << 20)), dear(3, None), dear(4, None), dear(5, None)];
    let mut largest = draft(pools, bids);
    largest.margin = "1000".parse().unwrap();
    let book = Book::new(largest).unwrap();
    let receipt = hourglass_capacity::auction::receipt::Receipt::of(book, &mut Headrooms::default());
    check(&receipt.clearing, &[1 << 20, 1 << 20, 1 << 20, 1 << 20, 0], "1000000", &[]);
    assert_eq!(receipt.clearing.bids[4], lost(Reason::Outbid, None));
    assert_eq!(
        (receipt.welfare.reached, receipt.welfare.ratio()),
        (10_u128.pow(15) << 32, "100".parse().unwrap())
    );
    let fill = |number, limit| bid(number, (512, 512), limit, None);
    let exact = cleared(
        vec![offer(0, EXACT_SUPPLY_MAX, Mode::Exact)],
        vec![fill(1, "999999.999999999"), fill(2, "1000000")],
        Headrooms::default(),
    );
    check(&exact, &[0, 512], "999999.999999999", &[]);
    assert_eq!(exact.bids[0], lost(Reason::Outbid, None));
}

#[test]
fn a_book_that_makes_no_sense_is_refused() {
    let check = |change: fn(&mut BookDraft), expected: &str| {
        let mut it = draft(
            vec![offer(0, 8, Mode::Greedy), offer(1, 8, Mode::Greedy)],
            vec![bid(1, (1, 2), "2", None), bid(2, (1, 2), "2", None)],
        );
        assert!(Book::new(it.clone()).is_ok());
        change(&mut it);
        let error = Book::new(it).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|it| it.pools.reverse(), "once and in the order of names");
    check(|it| it.pools[1] = it.pools[0].clone(), "once and in the order of names");
    check(
        |it| it.pools = (0..4097).map(|at| offer(at, 1, Mode::Greedy)).collect(),
        "4097 pools: at most 4096",
    );
    check(|it| it.pools[1].supply = SUPPLY_MAX + 1, "at most 4294967296");
    check(|it| it.bids = vec![bid(1, (1, 1), "2", None); BIDS_MAX + 1], "1048577 bids: at most 1048576");
    check(|it| it.bids[1].number = 1, "two bids have the number 1");
    check(|it| it.bids[0].pools.clear(), "names 0 pools");
    check(|it| it.bids[0].pools = (0..17).map(PoolIx).collect(), "names 17 pools: name 1 to 16");
    check(|it| it.bids[0].pools = vec![PoolIx(2)], "names pool 2, and the book has not so many");
    check(|it| it.bids[0].pools = vec![PoolIx(0), PoolIx(0)], "names pool 0 twice");
    check(|it| it.bids[0].gpus_per_unit = 0, "units of 0 GPUs");
    check(|it| it.bids[0].gpus_per_unit = 1025, "units of 1025 GPUs");
    check(|it| it.bids[0].min_units = 0, "wants 0 to 2 units");
    check(|it| it.bids[0].min_units = 3, "wants 3 to 2 units");
    check(|it| it.bids[0].max_units = (1 << 20) + 1, "at most 1048576");
    check(|it| it.bids[0].running = Some(Running { pool: PoolIx(1), units: 1 }), "which it does not name");
    check(|it| it.bids[0].running = Some(Running { pool: PoolIx(0), units: 3 }), "runs with 3 units");
    check(|it| it.bids[0].running = Some(Running { pool: PoolIx(0), units: 0 }), "runs with 0 units");
}

#[test]
fn a_book_finds_its_pools_and_bids() {
    let pools = vec![offer(0, 8, Mode::Greedy), offer(1, 8, Mode::Greedy)];
    let book = Book::new(draft(pools.clone(), vec![bid(9, (1, 1), "2", None), bid(4, (1, 1), "2", None)]));
    let book = book.unwrap();
    assert_eq!(
        (book.find_bid(4), book.find_bid(9), book.find_bid(5)),
        (Some(BidIx(0)), Some(BidIx(1)), None)
    );
    assert_eq!(book.find_pool(&pools[1].name), Some(PoolIx(1)));
    assert_eq!(book.find_pool(&"a/b/c".parse().unwrap()), None);
}

#[test]
fn pools_have_names_in_three_parts() {
    let text = "eu-north1/gpu-h100-sxm/fabric-2";
    let name: PoolName = text.parse().unwrap();
    assert_eq!((name.platform.as_str(), name.to_string().as_str()), ("gpu-h100-sxm", text));
    assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<PoolName>(&format!("\"{text}\"")).unwrap(), name);
    for bad in ["", "a", "a/b", "a/b/c/d", "/b/c", "a//c", "a/b/", "a/b/-c", "a b/c/d"] {
        assert!(bad.parse::<PoolName>().is_err(), "{bad}");
    }
}
