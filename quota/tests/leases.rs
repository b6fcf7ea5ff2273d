//! Q-1 far away: a cell and checkers that hold leases, in virtual time, before a network that loses,
//! delays, repeats and reorders, with clocks that run apart and checkers that crash.
//!
//! At every step what a holder uses is within what the cell counts for its lease, and so all of them and
//! the cell's own use together are within the limit.

use std::collections::BTreeSet;

use hourglass_quota::holder::Holder;
use hourglass_quota::lease::{LEASE_MS, Leases, NewLease, REFRESH_MS, Refresh, SKEW_MS_MAX};
use hourglass_quota::tree::{Counter, Fit, KeyIx, NodeIx, Tree};
use hourglass_quota::{Bound, Class, LeaseId, Limits};
use hourglass_units::Instant;

use hourglass_test_chance::{Chance, for_each_seed};

const STEPS: usize = 1_500;
const CHECKERS: usize = 3;
const LIMIT: u64 = 40;

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(1_800_000_000_000 + ms).unwrap()
}

/// A monotonic clock: where it began, and how many of its milliseconds are a thousand real ones.
#[derive(Debug, Clone, Copy)]
struct Clock {
    offset: i64,
    rate: i64,
}

impl Clock {
    fn read(&self, now: i64) -> i64 {
        self.offset + now * self.rate / 1_000
    }
}

/// The slowest clock that the contract allows: a lease lasts so much longer by it.
const RATE_MIN: i64 = LEASE_MS * 1_000 / (LEASE_MS + SKEW_MS_MAX) + 1;

struct Checker {
    clock: Clock,
    held: Option<(LeaseId, Holder)>,
    /// Checkers that crashed: what they let run is still stopped when their lease ends, but they admit
    /// nothing and ask for nothing.
    crashed: Vec<(LeaseId, Holder)>,
    seen: BTreeSet<LeaseId>,
    /// Until when the capacity that it knows is its own.
    until: i64,
    /// Until when the larger one was that it knew before: to stop things takes a while, and so long it has.
    grace: i64,
    cut_off_until: i64,
    next_refresh: i64,
}

#[derive(Debug, Clone)]
enum Message {
    Acquire { wants: u64, safe: u64, sent: i64 },
    Granted { lease: LeaseId, capacity: u64, safe: u64, sent: i64 },
    Refresh { lease: LeaseId, wants: u64, known: u64, in_use: u64, sent: i64 },
    Refreshed { lease: LeaseId, version: u64, capacity: u64, sent: i64 },
    Return { lease: LeaseId },
}

struct World {
    chance: Chance,
    now: i64,
    tree: Tree,
    leases: Leases,
    key: KeyIx,
    root: NodeIx,
    node: NodeIx,
    limit: u64,
    /// What all together may use: the limit, or what was granted when it was lowered below that.
    bound: u64,
    local: Vec<u64>,
    checkers: Vec<Checker>,
    /// On the way: when it arrives, to or from which checker, what.
    network: Vec<(i64, usize, Message)>,
    position: u64,
    is_calm: bool,
}

impl World {
    fn new(seed: u64, rate_min: i64) -> Self {
        let mut chance = Chance(seed);
        let mut tree = Tree::default();
        let root = tree.ensure(&"tenants/acme".parse().unwrap(), None).unwrap();
        let node = tree.ensure(&"tenants/acme/projects/train".parse().unwrap(), None).unwrap();
        let key = tree.intern(&"requests".parse().unwrap(), Class::OnDemand).unwrap();
        tree.set_limits(root, key, Some(Limits::nominal(Bound::AtMost(LIMIT)))).unwrap();
        let checkers = (0..CHECKERS).map(|_| {
            let clock =
                Clock { offset: chance.within(-1 << 40, 1 << 40), rate: chance.within(rate_min, 1_081) };
            Checker {
                clock,
                held: None,
                crashed: Vec::new(),
                seen: BTreeSet::new(),
                until: 0,
                grace: 0,
                cut_off_until: 0,
                next_refresh: 0,
            }
        });
        let checkers = checkers.collect();
        Self {
            chance,
            now: 0,
            tree,
            leases: Leases::default(),
            key,
            root,
            node,
            limit: LIMIT,
            bound: LIMIT,
            local: Vec::new(),
            checkers,
            network: Vec::new(),
            position: 0,
            is_calm: false,
        }
    }

    fn send(&mut self, checker: usize, message: Message) {
        let cut_off = self.now < self.checkers[checker].cut_off_until;
        if !self.is_calm && (cut_off || self.chance.one_in(6)) {
            return;
        }
        let times = if !self.is_calm && self.chance.one_in(6) { 2 } else { 1 };
        for _ in 0..times {
            let longest = match self.chance.below(if self.is_calm { 1 } else { 6 }) {
                0..3 => 200,
                3 | 4 => 8_000,
                _ => 100_000,
            };
            let arrives = self.now + self.chance.within(1, longest);
            self.network.push((arrives, checker, message.clone()));
        }
    }

    fn deliver(&mut self) {
        let network = std::mem::take(&mut self.network).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = network.partition(|(arrives, ..)| *arrives <= self.now);
        self.network = rest;
        for (_, checker, message) in due {
            self.arrive(checker, message);
        }
    }

    fn arrive(&mut self, checker: usize, message: Message) {
        match message {
            Message::Acquire { wants, safe, sent } => {
                let capacity =
                    wants.min(self.tree.fits(self.node, self.key).unwrap_or(u64::MAX)).max(safe).max(1);
                if self.tree.fit(self.node, &[(self.key, capacity)]) != Ok(Fit::Now) {
                    return;
                }
                self.position += 1;
                let (lease, at) = (LeaseId(self.position), at(self.now));
                let (node, key, holder) = (self.node, self.key, checker.to_string());
                let new = NewLease { holder, node, key, capacity, safe_capacity: safe, at };
                self.leases.grant(&mut self.tree, lease, new).unwrap();
                self.send(checker, Message::Granted { lease, capacity, safe, sent });
            }
            Message::Refresh { lease, wants, known, in_use, sent } => {
                let Some(it) = self.leases.get(lease) else { return };
                assert!(known <= it.version);
                let counted = it.counted();
                let offer = self.leases.offer(&self.tree, lease, wants).unwrap();
                let more = offer.saturating_sub(counted);
                let fits = more == 0 || self.tree.fit(self.node, &[(self.key, more)]) == Ok(Fit::Now);
                let capacity = if fits { offer } else { counted };
                let refresh = Refresh { capacity, known_version: known, in_use, at: at(self.now) };
                self.leases.refresh(&mut self.tree, lease, refresh).unwrap();
                let it = self.leases.get(lease).unwrap();
                let (version, capacity) = (it.version, it.capacity);
                self.send(checker, Message::Refreshed { lease, version, capacity, sent });
            }
            Message::Return { lease } => {
                if self.leases.get(lease).is_some() {
                    self.leases.give_back(&mut self.tree, lease).unwrap();
                }
            }
            Message::Granted { lease, capacity, safe, sent } => {
                // One at a time: a grant that comes again, or after another, is not taken.
                let it = &mut self.checkers[checker];
                if it.held.is_none() && it.seen.insert(lease) {
                    it.held = Some((lease, Holder::new(1, capacity, safe, sent)));
                    (it.until, it.grace) = (sent + LEASE_MS, i64::MIN);
                }
            }
            Message::Refreshed { lease, version, capacity, sent } => {
                let it = &mut self.checkers[checker];
                let now = it.clock.read(self.now);
                let Some((_, holder)) = it.held.as_mut().filter(|(held, _)| *held == lease) else { return };
                let (before, was_in_excess) = (holder.clone(), holder.excess(now) > 0);
                holder.refreshed(version, capacity, sent);
                if *holder != before {
                    if !was_in_excess {
                        it.grace = it.until;
                    }
                    it.until = sent + LEASE_MS;
                }
            }
        }
    }

    /// What has to stop stops: at once when a lease has ended, by then when its capacity was made smaller.
    fn stop_excess(&mut self) {
        let (is_calm, chance) = (self.is_calm, &mut self.chance);
        for checker in &mut self.checkers {
            let now = checker.clock.read(self.now);
            if let Some((_, holder)) = &mut checker.held {
                let takes_a_while = now < checker.grace && !is_calm && !chance.one_in(8);
                if !takes_a_while {
                    holder.stopped(holder.excess(now));
                }
            }
            for (_, holder) in &mut checker.crashed {
                holder.stopped(holder.excess(now));
            }
        }
    }

    fn act(&mut self, index: usize) {
        let clock = self.checkers[index].clock;
        let sent = clock.read(self.now);
        let wants = 1 + self.chance.below(25);
        match self.checkers[index].held.as_mut() {
            None => {
                if sent >= self.checkers[index].next_refresh {
                    self.checkers[index].next_refresh = sent + REFRESH_MS;
                    let safe = self.chance.below(wants.min(5));
                    self.send(index, Message::Acquire { wants, safe, sent });
                }
            }
            Some((lease, holder)) => {
                let lease = *lease;
                // A message that arrived since may have left less than is used: it is stopped in a while,
                // and what is refreshed before says so.
                let (known, in_use) = (holder.known_version(sent), holder.in_use());
                match self.chance.below(10) {
                    0..5 => {
                        let fits = holder.allowed(sent).saturating_sub(in_use);
                        let amount = if self.chance.one_in(2) { fits } else { 1 + self.chance.below(6) };
                        if amount > 0 {
                            assert_eq!(holder.admit(amount, sent), amount <= fits);
                        }
                    }
                    5 => holder.stopped(self.chance.below(6)),
                    6 if in_use == 0 && self.chance.one_in(4) => {
                        self.checkers[index].held = None;
                        self.send(index, Message::Return { lease });
                        return;
                    }
                    _ => {}
                }
                if sent >= self.checkers[index].next_refresh || self.chance.one_in(12) {
                    self.checkers[index].next_refresh = sent + REFRESH_MS;
                    self.send(index, Message::Refresh { lease, wants, known, in_use, sent });
                }
            }
        }
        if !self.is_calm && self.chance.one_in(150) {
            self.checkers[index].cut_off_until = self.now + self.chance.within(1_000, 200_000);
        }
        if !self.is_calm && self.chance.one_in(300) {
            let crashed = self.checkers[index].held.take();
            self.checkers[index].crashed.extend(crashed);
        }
    }

    fn act_locally(&mut self) {
        match self.chance.below(12) {
            0 | 1 => {
                let most = self.tree.fits(self.node, self.key).unwrap();
                let amount = (1 + self.chance.below(8)).min(most);
                if amount > 0 && self.tree.fit(self.node, &[(self.key, amount)]) == Ok(Fit::Now) {
                    self.tree.add(self.node, Counter::Committed, &[(self.key, amount)]).unwrap();
                    self.local.push(amount);
                }
            }
            2 | 3 if !self.local.is_empty() => {
                let at = self.chance.index(self.local.len());
                let amount = self.local.swap_remove(at);
                self.tree.remove(self.node, Counter::Committed, &[(self.key, amount)]).unwrap();
            }
            4 if self.chance.one_in(8) => {
                self.limit = if self.chance.one_in(2) { LIMIT } else { self.chance.below(LIMIT) };
                let limits = Limits::nominal(Bound::AtMost(self.limit));
                self.tree.set_limits(self.root, self.key, Some(limits)).unwrap();
            }
            5..9 => {
                for lease in self.leases.lapsed(at(self.now)).collect::<Vec<_>>() {
                    self.leases.lapse(&mut self.tree, lease, at(self.now)).unwrap();
                }
                assert!(self.leases.next_lapse().is_none_or(|next| next > at(self.now)));
            }
            _ => {}
        }
    }

    /// Whether a holder uses more than is counted for it, or all together more than may be.
    fn check(&mut self) -> Result<(), String> {
        let counted = |tree: &Tree| tree.standing(self.root, self.key).taken.granted();
        let granted = counted(&self.tree);
        self.bound = self.limit.max(self.bound.min(granted));
        let mut used: u64 = self.local.iter().sum();
        let mut sum = used;
        for (_, lease) in self.leases.iter() {
            sum += lease.counted();
        }
        assert_eq!(granted, sum);
        for checker in &self.checkers {
            for (id, holder) in checker.held.iter().chain(&checker.crashed) {
                let counted = self.leases.get(*id).map_or(0, |lease| lease.counted());
                if holder.in_use() > counted {
                    return Err(format!(
                        "{id} uses {} of {counted} at {}: {holder:?}",
                        holder.in_use(),
                        self.now
                    ));
                }
                used += holder.in_use();
            }
        }
        if used > self.bound {
            return Err(format!("{used} are used of {}", self.bound));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now +=
            if self.chance.one_in(8) { self.chance.within(1, 9_000) } else { self.chance.within(1, 900) };
        // Whatever ended meanwhile was stopped when it ended, before anybody here decides.
        self.stop_excess();
        self.deliver();
        self.check()?;
        self.act_locally();
        for index in 0..CHECKERS {
            self.act(index);
            self.check()?;
        }
        Ok(())
    }

    /// Everything heals: then everything can be used again.
    fn heal(&mut self) {
        self.is_calm = true;
        for checker in &mut self.checkers {
            checker.cut_off_until = 0;
        }
        self.limit = LIMIT;
        self.tree.set_limits(self.root, self.key, Some(Limits::nominal(Bound::AtMost(LIMIT)))).unwrap();
        for amount in std::mem::take(&mut self.local) {
            self.tree.remove(self.node, Counter::Committed, &[(self.key, amount)]).unwrap();
        }
        // Whoever crashed is seen to have stopped; a grant that nobody ever learnt of, too.
        self.network.clear();
        let live: Vec<LeaseId> = self.checkers.iter().filter_map(|it| Some(it.held.as_ref()?.0)).collect();
        for checker in &mut self.checkers {
            checker.crashed.clear();
        }
        for (lease, _) in self.leases.iter().map(|(id, it)| (id, it.clone())).collect::<Vec<_>>() {
            if !live.contains(&lease) {
                self.leases.give_back(&mut self.tree, lease).unwrap();
            }
        }
        // All but one want nothing more, and it wants everything.
        let mut greedy = None;
        let end = self.now + 3 * (LEASE_MS + SKEW_MS_MAX);
        while self.now < end {
            self.now += 100;
            self.stop_excess();
            self.deliver();
            for lease in self.leases.lapsed(at(self.now)).collect::<Vec<_>>() {
                self.leases.lapse(&mut self.tree, lease, at(self.now)).unwrap();
            }
            self.stop_excess();
            self.check().unwrap();
            for index in 0..CHECKERS {
                let sent = self.checkers[index].clock.read(self.now);
                let Some((lease, holder)) = &mut self.checkers[index].held else { continue };
                let lease = *lease;
                if self.now % REFRESH_MS / 100 != i64::try_from(index).unwrap() {
                    continue;
                }
                let greedy = *greedy.get_or_insert(index);
                let wants = if greedy == index { LIMIT } else { 0 };
                if greedy != index {
                    holder.stopped(u64::MAX);
                }
                let (known, in_use) = (holder.known_version(sent), holder.in_use());
                self.send(index, Message::Refresh { lease, wants, known, in_use, sent });
            }
        }
        let Some(greedy) = greedy else { return };
        let others: u64 = self.leases.iter().map(|(_, lease)| lease.counted()).sum();
        let clock = self.checkers[greedy].clock;
        let now = clock.read(self.now);
        let (lease, holder) = self.checkers[greedy].held.as_ref().unwrap();
        let others = others - self.leases.get(*lease).unwrap().counted();
        assert!(others <= 5 * 2, "only safe capacities are left to others: {others}");
        assert_eq!(holder.allowed(now), LIMIT - others, "all that is free is its own");
        for lease in live {
            self.leases.give_back(&mut self.tree, lease).unwrap();
        }
        assert_eq!(self.tree.fits(self.node, self.key), Some(LIMIT), "nothing leaks");
    }
}

fn simulate(seed: u64, rate_min: i64) -> Result<(), String> {
    let mut world = World::new(seed, rate_min);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.heal();
    Ok(())
}

#[test]
fn q1_whatever_the_network_does_no_more_is_used_than_the_limit() {
    for_each_seed("PROPTEST_CASES", 120, |seed| simulate(seed, RATE_MIN).unwrap());
}

/// With clocks that are slower than the contract allows the property breaks: the test can fail.
#[test]
fn q1_breaks_with_clocks_that_the_contract_does_not_allow() {
    let breaks = |seed: &u64| {
        let mut world = World::new(*seed, RATE_MIN);
        for checker in &mut world.checkers {
            checker.clock.rate = RATE_MIN * 4 / 5;
        }
        (0..STEPS).any(|_| world.step().is_err())
    };
    assert!((0..24).any(|seed| breaks(&seed)), "slow clocks were never noticed");
}
