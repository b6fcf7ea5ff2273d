//! What is left for spot, against a model that counts every instant; and that nobody who comes before spot
//! ever waits for it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hourglass_capacity::calendar::{Calendar, Reservation, ReservationName};
use hourglass_capacity::steps::Steps;
use hourglass_capacity::supply::{
    Admission, CLAIMS_MAX, Claim, LOOK_AHEAD_MS_ALL, LoanError, Loans, Offer, Parts, Policy, PolicyError,
    Pool, Split, Supply, split, yield_shares,
};
use hourglass_units::{INSTANT_MAX, Instant, Interval};

use hourglass_test_chance::{Chance, for_each_seed};

/// Everything changes at multiples of it.
const UNIT_MS: i64 = 20_000;
/// Notice, stop and margin.
const HORIZON: i64 = 5;
const SPAN: i64 = 60;

fn at(unit: i64) -> Instant {
    Instant::from_unix_ms(unit * UNIT_MS).unwrap()
}

fn during(start: i64, end: i64) -> Interval {
    Interval::new(at(start), at(end)).unwrap()
}

fn name(number: u64) -> ReservationName {
    ReservationName { tenant: "acme".parse().unwrap(), reservation: format!("r{number}").parse().unwrap() }
}

fn policy(buffer: u64, look_ahead_ms: i64) -> Policy {
    let it = Policy { notice_ms: 60_000, stop_ms: UNIT_MS, margin_ms: UNIT_MS, buffer, look_ahead_ms };
    it.check().unwrap();
    assert_eq!(it.horizon_ms(), HORIZON * UNIT_MS);
    it
}

/// A capacity that changes now and then, and for ever stays as it is at last.
fn some_capacity(chance: &mut Chance, least: u64, most: u64) -> (Steps, Vec<u64>) {
    let mut level = most;
    let change_in = 3 + chance.below(20);
    let array: Vec<u64> = (0..SPAN)
        .map(|_| {
            if chance.one_in(change_in) {
                level = least + chance.below(most - least + 1);
            }
            level
        })
        .collect();
    let instants = array.iter().zip(0..).map(|(gpus, unit)| (during(unit, unit + 1), *gpus));
    let rest = Interval::new(at(SPAN), INSTANT_MAX).unwrap();
    (Steps::sum(instants.chain([(rest, level)])), array)
}

/// Size, start and end.
type Part = (u64, i64, i64);

#[derive(Default)]
struct World {
    capacity: Vec<u64>,
    reservations: BTreeMap<u64, Part>,
    /// The most that is lent, and claims.
    loans: BTreeMap<u64, (u64, Vec<Part>)>,
    used: BTreeMap<u64, u64>,
    on_demand: u64,
    cooling_down: u64,
    buffer: u64,
}

impl World {
    fn capacity(&self, unit: i64) -> u64 {
        *self.capacity.get(usize::try_from(unit).unwrap()).or(self.capacity.last()).unwrap()
    }

    fn is_active(&self, number: u64, unit: i64) -> bool {
        let (_, start, end) = self.reservations[&number];
        (start..end).contains(&unit)
    }

    fn lent(&self, number: u64, now: i64) -> u64 {
        let Some((most, claims)) = self.loans.get(&number) else { return 0 };
        let (gpus, ..) = self.reservations[&number];
        let used = if self.is_active(number, now) { self.used.get(&number).copied().unwrap_or(0) } else { 0 };
        let needed = |unit: i64| {
            let there = claims.iter().filter(|(_, start, end)| (*start..*end).contains(&unit));
            there.map(|(gpus, ..)| *gpus).max().unwrap_or(0)
        };
        let needed = (now..=now + HORIZON).map(needed).max().unwrap();
        gpus.saturating_sub(used.max(needed)).min(*most)
    }

    fn supply(&self, now: i64) -> u64 {
        let left = (now..=now + HORIZON).map(|unit| {
            let active = self.reservations.iter().filter(|(number, _)| self.is_active(**number, unit));
            let kept: u64 = active.map(|(number, (gpus, ..))| gpus - self.lent(*number, now)).sum();
            i64::try_from(self.capacity(unit)).unwrap() - i64::try_from(kept).unwrap()
        });
        let taken = i64::try_from(self.on_demand + self.cooling_down + self.buffer).unwrap();
        u64::try_from(left.min().unwrap() - taken).unwrap_or(0)
    }
}

#[test]
fn supply_is_what_a_count_of_every_instant_says() {
    for_each_seed("PROPTEST_CASES", 1_000, |seed| {
        let mut chance = Chance(seed);
        let (capacity, array) = some_capacity(&mut chance, 10, 40);
        let mut world = World { capacity: array, ..World::default() };
        let (mut calendar, mut loans, mut used) = (Calendar::default(), Loans::default(), BTreeMap::new());
        for number in 0..chance.below(8) {
            let (gpus, start) = (1 + chance.below(10), chance.within(0, SPAN - 1));
            let end = chance.within(start + 1, SPAN);
            // Over-promised at times, as after a failure.
            calendar.put(name(number), Reservation::new(gpus, during(start, end)).unwrap());
            world.reservations.insert(number, (gpus, start, end));
            if chance.one_in(2) {
                let most = chance.below(12);
                let is_automatic = chance.one_in(2);
                loans.offer(name(number), if is_automatic { Offer::Automatic } else { Offer::AtMost(most) });
                let mut claims = Vec::new();
                for _ in 0..chance.below(3) {
                    let (gpus, start) = (chance.below(12), chance.within(0, SPAN - 1));
                    let end = chance.within(start + 1, SPAN);
                    claims.push((gpus, start, end));
                    loans.ask_back(&name(number), Claim { gpus, interval: during(start, end) }).unwrap();
                }
                world.loans.insert(number, (if is_automatic { u64::MAX } else { most }, claims));
            }
            if chance.one_in(2) {
                let gpus = chance.below(gpus + 1);
                used.insert(name(number), gpus);
                world.used.insert(number, gpus);
            }
        }
        (world.on_demand, world.buffer) = (chance.below(8), chance.below(4));
        world.cooling_down = chance.below(3);
        let policy = policy(world.buffer, LOOK_AHEAD_MS_ALL);
        let none = Steps::default();
        let pool = |now: i64| Pool {
            at: at(now),
            capacity: &capacity,
            calendar: &calendar,
            loans: &loans,
            used: &used,
            on_demand: world.on_demand,
            spot: &none,
            cooling_down: world.cooling_down,
        };
        for now in 0..SPAN {
            let it = pool(now).supply(&policy);
            assert_eq!(it.gpus, world.supply(now), "{it}");
            let taken = it.reserved + it.on_demand + it.cooling_down;
            assert_eq!(it.gpus, (it.capacity + it.lent).saturating_sub(taken + it.buffer), "{it}");
            assert_eq!(it.shortfall, taken.saturating_sub(it.capacity + it.lent));
            assert!((now..=now + HORIZON).any(|unit| at(unit) == it.tightest));
            assert!(it.loans.iter().all(|it| it.gpus + it.used + it.asked_back <= it.reserved));
            let change = (now + 1..SPAN + HORIZON).find(|then| world.supply(*then) != it.gpus);
            assert_eq!(it.next_change, change.map(at), "{it}");

            let spot = chance.below(20);
            let shares = yield_shares(&it, spot);
            let of_owners: u64 = shares.owners.iter().map(|(_, share)| share).sum();
            assert_eq!(shares.own + of_owners, spot);
            let bytes = postcard::to_stdvec(&it).unwrap();
            assert_eq!(postcard::from_bytes::<Supply>(&bytes).unwrap(), it);
        }
    });
}

type Books<'a> = (&'a Steps, &'a Calendar, &'a Loans, &'a BTreeMap<ReservationName, u64>);

fn pool<'a>(now: i64, books: Books<'a>, on_demand: u64, spot: &'a Steps) -> Pool<'a> {
    let (capacity, calendar, loans, used) = books;
    Pool { at: at(now), capacity, calendar, loans, used, on_demand, spot, cooling_down: 0 }
}

/// Time goes on: reservations are made and begin, owners use what they announced, on-demand comes and goes,
/// spot follows the supply and takes all the time that it has to go. At no instant does anybody lack a GPU.
#[test]
fn who_comes_before_spot_finds_its_gpus_in_time() {
    let counts = Mutex::new([0_u64; 3]);
    for_each_seed("PROPTEST_CASES", 500, |seed| {
        let mut chance = Chance(seed);
        let (capacity, array) = some_capacity(&mut chance, 20, 40);
        let mut world = World { capacity: array, ..World::default() };
        let (mut calendar, mut loans) = (Calendar::default(), Loans::default());
        let policy = policy(chance.below(3), LOOK_AHEAD_MS_ALL);
        // Size, and from when on it runs.
        let mut on_demand: Vec<(u64, i64)> = Vec::new();
        let (mut spot, mut draining): (u64, Vec<(u64, i64)>) = (0, Vec::new());
        for now in 0..SPAN {
            draining.retain(|(_, gone_at)| now < *gone_at);
            if chance.one_in(5) && !on_demand.is_empty() {
                on_demand.swap_remove(chance.index(on_demand.len()));
            }
            let needed = |number: u64, unit: i64| {
                let Some((_, claims)) = world.loans.get(&number) else {
                    return world.reservations[&number].0;
                };
                let now = claims.iter().filter(|(_, start, end)| (*start..*end).contains(&unit));
                now.map(|(gpus, ..)| *gpus).max().unwrap_or(0).min(world.reservations[&number].0)
            };
            let active = world.reservations.keys().filter(|number| world.is_active(**number, now));
            let used: BTreeMap<_, _> = active.map(|number| (name(*number), needed(*number, now))).collect();
            let going: u64 = draining.iter().map(|(gpus, _)| gpus).sum();
            let taken: u64 = on_demand.iter().map(|(gpus, _)| gpus).sum();
            let spot_over_time = |spot, draining: &[(u64, i64)]| {
                let going = draining.iter().map(|(gpus, gone_at)| (during(now, *gone_at), *gpus));
                Steps::sum(going.chain([(Interval::from(at(now)).unwrap(), spot)]))
            };

            let running = spot_over_time(spot, &draining);
            if chance.one_in(3) {
                let number = u64::try_from(now).unwrap();
                let (gpus, start) = (1 + chance.below(16), now + HORIZON + chance.within(0, 10));
                let end = start + chance.within(1, 30);
                let promisable = pool(now, (&capacity, &calendar, &loans, &used), taken, &running)
                    .for_reservations(&policy);
                let wanted = Reservation::new(gpus, during(start, end)).unwrap();
                if calendar.admit(&promisable, name(number), wanted).is_ok() {
                    world.reservations.insert(number, (gpus, start, end));
                    if chance.one_in(2) {
                        // Lent from its start on, but for what is announced.
                        let claims: Vec<_> = (0..chance.below(3))
                            .map(|_| {
                                let from = chance.within(start, end);
                                (1 + chance.below(gpus), from, from + chance.within(1, 20))
                            })
                            .collect();
                        loans.offer(name(number), Offer::Automatic);
                        for (gpus, from, until) in &claims {
                            let claim = Claim { gpus: *gpus, interval: during(*from, *until) };
                            loans.ask_back(&name(number), claim).unwrap();
                        }
                        world.loans.insert(number, (u64::MAX, claims));
                    }
                }
            }
            if chance.one_in(3) {
                let gpus = 1 + chance.below(8);
                let answer = pool(now, (&capacity, &calendar, &loans, &used), taken, &running)
                    .admit_on_demand(&policy, gpus);
                let kind = match answer {
                    Admission::Now => {
                        on_demand.push((gpus, now));
                        0
                    }
                    Admission::Pending { reclaim, ready_by } => {
                        assert!(reclaim <= spot && at(now) < ready_by && ready_by <= at(now + HORIZON));
                        on_demand.push((gpus, ready_by.unix_ms() / UNIT_MS));
                        1
                    }
                    Admission::Refused { room, .. } => {
                        assert!(room < gpus);
                        let smaller = pool(now, (&capacity, &calendar, &loans, &used), taken, &running)
                            .admit_on_demand(&policy, room);
                        assert!(!matches!(smaller, Admission::Refused { .. }));
                        2
                    }
                };
                counts.lock().unwrap()[kind] += 1;
            }
            let taken: u64 = on_demand.iter().map(|(gpus, _)| gpus).sum();
            let supply =
                pool(now, (&capacity, &calendar, &loans, &used), taken, &running).supply(&policy).gpus;
            if spot > supply {
                draining.push((spot - supply, now + HORIZON));
                spot = supply;
            } else if going <= supply - spot {
                spot += chance.below(supply - spot - going + 1);
            }

            let needed = |number: u64| match world.loans.get(&number) {
                Some(_) => used.get(&name(number)).copied().unwrap_or(0),
                None => world.reservations[&number].0,
            };
            let owners = world.reservations.keys().filter(|number| world.is_active(**number, now));
            let owners: u64 = owners.map(|number| needed(*number)).sum();
            let running: u64 = on_demand.iter().filter(|(_, from)| *from <= now).map(|(gpus, _)| gpus).sum();
            let going: u64 = draining.iter().map(|(gpus, _)| gpus).sum();
            let all = owners + running + spot + going;
            assert!(
                all <= world.capacity(now),
                "at {now}: {owners} needed by owners, {running} on demand, {spot} spot and {going} going of {}",
                world.capacity(now)
            );
        }
    });
    let seen = counts.into_inner().unwrap();
    assert!(seen.iter().all(|count| *count > 0) || std::env::var("PROPTEST_CASES").is_ok(), "{seen:?}");
}

/// 64 GPUs; 40 of them reserved from 10 to 30.
struct Example {
    capacity: Steps,
    calendar: Calendar,
    loans: Loans,
    used: BTreeMap<ReservationName, u64>,
}

impl Example {
    fn new() -> Self {
        let capacity = Steps::constant(64);
        let mut calendar = Calendar::default();
        calendar.admit(&capacity, name(1), Reservation::new(40, during(10, 30)).unwrap()).unwrap();
        Self { capacity, calendar, loans: Loans::default(), used: BTreeMap::new() }
    }

    fn pool<'a>(&'a self, now: i64, on_demand: u64, spot: &'a Steps) -> Pool<'a> {
        pool(now, (&self.capacity, &self.calendar, &self.loans, &self.used), on_demand, spot)
    }
}

#[test]
fn supply_says_why() {
    let none = Steps::default();
    let mut it = Example::new();
    let policy = policy(4, LOOK_AHEAD_MS_ALL);
    let far = it.pool(0, 8, &none).supply(&policy);
    assert_eq!(far.to_string(), "52 for spot: 64 there at 1970-01-01T00:00:00Z - 8 on demand - 4 kept free");
    // A reservation that starts in five units has its GPUs drained from now on.
    assert_eq!(far.next_change, Some(at(10 - HORIZON)));
    let near = it.pool(5, 8, &none).supply(&policy);
    assert_eq!(
        near.to_string(),
        "12 for spot: 64 there at 1970-01-01T00:03:20Z - 40 reserved - 8 on demand - 4 kept free"
    );
    assert_eq!(near.next_change, Some(at(30)));

    it.loans.offer(name(1), Offer::AtMost(30));
    it.loans.ask_back(&name(1), Claim { gpus: 25, interval: during(20, 25) }).unwrap();
    it.used.insert(name(1), 5);
    let lent = |now: i64| it.pool(now, 8, &none).supply(&policy);
    assert_eq!([12, 14, 15, 24, 25].map(|now| lent(now).gpus), [42, 42, 27, 27, 42]);
    assert_eq!((lent(12).next_change, lent(15).next_change), (Some(at(15)), Some(at(25))));
    let loan = lent(15).loans.remove(0);
    assert_eq!((loan.reserved, loan.used, loan.asked_back, loan.gpus), (40, 5, 20, 15));
    it.loans.withdraw(&name(1)).unwrap();
    assert_eq!(it.pool(12, 8, &none).supply(&policy).gpus, 12);

    let short = Pool { cooling_down: 30, ..it.pool(12, 8, &none) }.supply(&policy);
    assert_eq!((short.gpus, short.shortfall), (0, 14));
    assert!(short.to_string().ends_with("; 14 are missing for what is reserved and on demand"), "{short}");
}

#[test]
fn on_demand_leaves_every_reservation_alone() {
    let none = Steps::default();
    let it = Example::new();
    let all = policy(4, LOOK_AHEAD_MS_ALL);
    let admit = |policy: &Policy, now, on_demand, spot, gpus| {
        it.pool(now, on_demand, &Steps::constant(spot)).admit_on_demand(policy, gpus)
    };
    // It has no end, so what starts at 10 counts at 0.
    assert_eq!(admit(&all, 0, 8, 0, 16), Admission::Now);
    assert_eq!(admit(&all, 0, 8, 0, 17), Admission::Refused { room: 16, tightest: at(10) });
    // Spot has to go first; the buffer, which spot leaves, does not.
    assert_eq!(admit(&all, 0, 8, 50, 6), Admission::Now);
    let ready_by = at(HORIZON);
    assert_eq!(admit(&all, 0, 8, 52, 10), Admission::Pending { reclaim: 6, ready_by });
    // What is under notice need not be told again, and may be gone sooner.
    let always = Interval::from(at(0)).unwrap();
    let told = Steps::sum([(always, 48), (during(0, 3), 4)]);
    assert_eq!(it.pool(0, 8, &told).admit_on_demand(&all, 10), Admission::Pending { reclaim: 2, ready_by });
    let ready_by = at(3);
    assert_eq!(it.pool(0, 8, &told).admit_on_demand(&all, 8), Admission::Pending { reclaim: 0, ready_by });
    // A reservation that begins within the horizon finds its GPUs, however free they are now.
    assert_eq!(admit(&all, 8, 8, 14, 4), Admission::Pending { reclaim: 2, ready_by: at(8 + HORIZON) });
    // With a look-ahead of six units the reservation is out of sight at 0, and in sight at 4.
    let near = policy(4, 6 * UNIT_MS);
    assert_eq!(admit(&near, 0, 8, 0, 56), Admission::Now);
    assert_eq!(admit(&near, 4, 8, 0, 56), Admission::Refused { room: 16, tightest: at(10) });
    // The other way round: what runs counts against a reservation, as far ahead.
    let room =
        |policy: &Policy| it.calendar.room(&it.pool(0, 8, &none).for_reservations(policy), during(12, 14));
    assert_eq!((room(&all), room(&near)), (16, 24));
}

#[test]
fn yield_is_divided_to_the_last_unit() {
    let none = Steps::default();
    let mut it = Example::new();
    it.calendar.put(name(2), Reservation::new(10, during(10, 30)).unwrap());
    it.loans.offer(name(1), Offer::AtMost(7));
    it.loans.offer(name(2), Offer::AtMost(7));
    let supply = it.pool(12, 0, &none).supply(&policy(0, LOOK_AHEAD_MS_ALL));
    assert_eq!(supply.gpus, 28);
    let divided = |spot| {
        let shares = yield_shares(&supply, spot);
        let owners: Vec<u64> = shares.owners.iter().map(|(_, share)| *share).collect();
        (shares.own, owners)
    };
    // 14 are nobody's, 7 and 7 are lent.
    assert_eq!(divided(28), (14, vec![7, 7]));
    assert_eq!(divided(4), (2, vec![1, 1]));
    assert_eq!(divided(5), (3, vec![1, 1]));
    assert_eq!(divided(6), (3, vec![2, 1]));
    assert_eq!(divided(0), (0, vec![]));
    assert_eq!(divided(u64::MAX), (9_223_372_036_854_775_807, vec![1 << 62, 1 << 62]));
    let nothing = Supply { gpus: 0, loans: Vec::new(), ..supply.clone() };
    assert_eq!(yield_shares(&nothing, 5).own, 5);
}

#[test]
fn c2_every_gpu_second_is_accounted_once() {
    for_each_seed("PROPTEST_CASES", 1_000, |seed| {
        let mut chance = Chance(seed);
        let mut some = || chance.below(100);
        let (owned, parts) =
            (some() * 3, Parts { reserved: some(), on_demand: some(), spot: some(), excluded: some() });
        let used = parts.reserved + parts.on_demand + parts.spot + parts.excluded;
        match split(owned, parts) {
            Ok(Split { reserved, on_demand, spot, idle, excluded }) => {
                assert_eq!(reserved + on_demand + spot + idle + excluded, owned);
                assert_eq!(Parts { reserved, on_demand, spot, excluded }, parts);
            }
            Err(_) => assert!(used > owned),
        }
    });
    let parts = Parts { reserved: u64::MAX, on_demand: 1, spot: 2, excluded: 3 };
    assert!(split(u64::MAX, parts).is_err());
    assert_eq!(
        split(8, Parts { reserved: 4, on_demand: 4, spot: 1, excluded: 0 }).unwrap_err().to_string(),
        "8 owned, but 4 reserved, 4 on demand, 1 spot and 0 excluded: reconcile with the cloud"
    );
}

#[test]
fn limits_are_named() {
    let ok = policy(0, 0);
    let is = |policy: Policy, expected: PolicyError| assert_eq!(policy.check(), Err(expected));
    is(Policy { notice_ms: 59_999, ..ok }, PolicyError::Notice { notice_ms: 59_999 });
    is(Policy { margin_ms: -1, ..ok }, PolicyError::Negative { what: "margin_ms", milliseconds: -1 });
    is(Policy { stop_ms: i64::MAX, ..ok }, PolicyError::Horizon { horizon_ms: i64::MAX });
    let mut loans = Loans::default();
    let claim = Claim { gpus: 1, interval: during(0, 1) };
    assert_eq!(loans.ask_back(&name(1), claim), Err(LoanError::NotLent { name: name(1) }));
    loans.offer(name(1), Offer::Automatic);
    for _ in 0..CLAIMS_MAX {
        loans.ask_back(&name(1), claim).unwrap();
    }
    assert_eq!(loans.ask_back(&name(1), claim), Err(LoanError::TooManyClaims { name: name(1) }));
    loans.forget_before(at(1));
    loans.ask_back(&name(1), claim).unwrap();
    assert_eq!(loans.get(&name(1)).unwrap().claims, [claim]);
}
