//! random trees and random lives, compared with the model after every step.

use hourglass_quota::hold::{Ended, Hold, HoldState, Holds, sum_up};
use hourglass_quota::lease::{Leases, NewLease, Refresh};
use hourglass_quota::tree::{Counter, Fit, KeyIx, NodeIx, Tree};
use hourglass_quota::{Bound, Class, HoldId, LeaseId, Limits, NodeName};
use hourglass_units::{Amount, Instant, TenantId};

use super::model::{As, K, KEYS, Model, RESOURCES, Taking, class_of};
use hourglass_test_chance::{Chance, for_each_seed};

const STEPS: usize = 160;
/// What runs without asking has numbers of its own.
const INSTANCES_FROM: u64 = 1 << 40;

struct World {
    chance: Chance,
    tree: Tree,
    holds: Holds,
    leases: Leases,
    model: Model,
    keys: Vec<KeyIx>,
    projects: Vec<usize>,
    now: i64,
    position: u64,
    /// Every other life is one of a single resource, with pools in which much is lent and claimed.
    is_market: bool,
}

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(1_800_000_000_000 + ms).unwrap()
}

fn ix(node: usize) -> NodeIx {
    NodeIx::try_from(node).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            chance: Chance(seed),
            tree: Tree::default(),
            holds: Holds::default(),
            leases: Leases::default(),
            model: Model::default(),
            keys: Vec::new(),
            projects: Vec::new(),
            now: 0,
            position: 0,
            is_market: seed % 2 == 1,
        };
        let resources = ["compute.instance.gpu.h100", "compute.instance.gpu.h200"];
        assert_eq!(resources.len(), RESOURCES);
        for resource in resources {
            for class in Class::ALL {
                world.keys.push(world.tree.intern(&resource.parse().unwrap(), class).unwrap());
            }
        }
        // A market is one tenant's, so that all that happens in it meets.
        for tenant in ["acme", "bolt"].into_iter().skip(usize::from(world.is_market)) {
            let tenant: TenantId = tenant.parse().unwrap();
            let root = world.plant(&NodeName::Tenant(tenant.clone()), None, None);
            let mut places = vec![(None, root)];
            let groups = if world.is_market { 2 } else { world.chance.below(4) };
            for group in 0..groups {
                let group: hourglass_units::GroupId = format!("g-{group}").parse().unwrap();
                let place = world.chance.index(places.len());
                let (above, parent) = places[place].clone();
                let name = NodeName::Group(tenant.clone(), group.clone());
                let node = world.plant(&name, above.as_ref(), Some(parent));
                places.push((Some(group), node));
            }
            for project in 0..3 + world.chance.below(3) {
                let place = world.chance.index(places.len());
                let (above, parent) = places[place].clone();
                let name = NodeName::Project(tenant.clone(), format!("p-{project}").parse().unwrap());
                let node = world.plant(&name, above.as_ref(), Some(parent));
                world.projects.push(node);
            }
        }
        for node in 0..world.model.parents.len() {
            for k in 0..KEYS {
                // A market's tenants have no limits of their own, so that what is below them matters.
                let is_root = world.model.parents[node].is_none();
                if !(world.is_market && is_root) && world.chance.below(10) < 6 {
                    let limits = world.limits(k);
                    world.set_limits(node, k, Some(limits));
                }
            }
        }
        world
    }

    fn plant(
        &mut self,
        name: &NodeName,
        group: Option<&hourglass_units::GroupId>,
        parent: Option<usize>,
    ) -> usize {
        let node = self.tree.ensure(name, group).unwrap() as usize;
        assert_eq!(node, self.model.parents.len());
        assert_eq!(self.tree.parent(ix(node)), parent.map(ix));
        self.model.parents.push(parent);
        node
    }

    fn limits(&mut self, k: K) -> Limits {
        if self.is_market {
            return self.market_limits(k);
        }
        let chance = &mut self.chance;
        let mut bound = |zero: u64, unlimited: u64, below: u64| match chance.below(20) {
            n if n < zero => Bound::AtMost(0),
            n if n < zero + unlimited => Bound::Unlimited,
            _ => Bound::AtMost(1 + chance.below(below)),
        };
        let nominal = bound(3, 2, 12);
        let (borrowing, mut lending) = (bound(4, 8, 6), bound(3, 10, 6));
        if class_of(k) == Class::Reserved {
            lending = Bound::Unlimited;
        }
        Limits { nominal, borrowing, lending, drain: self.chance.one_in(2) }
    }

    /// Much that can be lent, and much that is borrowed.
    fn market_limits(&mut self, k: K) -> Limits {
        let chance = &mut self.chance;
        let mut limits = Limits::nominal(Bound::AtMost(3 + chance.below(8)));
        if chance.one_in(4) && class_of(k) != Class::Reserved {
            limits.lending = Bound::AtMost(chance.below(6));
        }
        if class_of(k) == Class::Preemptible {
            limits.nominal = Bound::AtMost(chance.below(7));
            limits.borrowing =
                if chance.one_in(3) { Bound::AtMost(1 + chance.below(6)) } else { Bound::Unlimited };
        }
        limits.drain = chance.one_in(2);
        limits
    }

    fn set_limits(&mut self, node: usize, k: K, limits: Option<Limits>) {
        self.tree.set_limits(ix(node), self.keys[k], limits).unwrap();
        match limits {
            Some(limits) => self.model.limits.insert((node, k), limits),
            None => self.model.limits.remove(&(node, k)),
        };
    }

    fn promote(&mut self) {
        self.position += 1;
        self.holds.promote(&mut self.tree, self.position).unwrap();
        self.model.promote();
    }

    /// One item, or one of each resource.
    fn items(&mut self) -> Vec<(K, u64)> {
        if self.is_market {
            return vec![(usize::from(self.chance.below(5) > 1), 1 + self.chance.below(5))];
        }
        let both = self.chance.one_in(4);
        let first = self.chance.index(RESOURCES);
        let resources = (0..RESOURCES).filter(|resource| both || *resource == first);
        let chance = &mut self.chance;
        let items = resources.map(|resource| (resource * 3 + chance.index(3), 1 + chance.below(6)));
        items.collect()
    }

    fn keyed(&self, items: &[(K, u64)]) -> hourglass_quota::tree::Items {
        sum_up(items.iter().map(|(k, amount)| (self.keys[*k], *amount))).unwrap()
    }

    fn project(&mut self) -> usize {
        self.chance.any_of(&self.projects).unwrap()
    }

    /// What the tree says must be what the model says; what it denies must really not fit, and what it
    /// says would fit must.
    fn ask(&mut self, node: usize, items: &[(K, u64)]) -> Option<Fit> {
        let fits = items.iter().all(|(k, amount)| self.model.admits(node, *k, *amount));
        let now = items.iter().all(|(k, amount)| self.model.admits_now(node, *k, *amount));
        match self.tree.fit(ix(node), &self.keyed(items)) {
            Ok(fit) => {
                assert!(fits, "granted, and it does not fit: {items:?} at {node}");
                assert_eq!(fit, if now { Fit::Now } else { Fit::AfterReclaim }, "{items:?} at {node}");
                let waits = self.tree.waits(ix(node), &self.keyed(items));
                assert_eq!(waits.is_none(), now);
                if let Some(misfit) = waits {
                    let k = self.keys.iter().position(|key| *key == misfit.key).unwrap();
                    let fits = |amount| amount == 0 || self.model.admits_now(node, k, amount);
                    assert!(fits(misfit.fits) && !fits(misfit.fits + 1), "{misfit:?}");
                }
                Some(fit)
            }
            Err(misfit) => {
                assert!(!fits, "denied, and it fits: {items:?} at {node}");
                let k = self.keys.iter().position(|key| *key == misfit.key).unwrap();
                assert!(items.contains(&(k, misfit.asked)));
                assert!(self.model.admits(node, k, misfit.fits), "{misfit:?}: it does not fit");
                assert!(!self.model.admits(node, k, misfit.fits + 1), "{misfit:?}: more fits");
                let denial = self.tree.denial(&misfit);
                assert_eq!(denial.node.as_ref(), self.tree.name(misfit.node));
                let of = self.model.table()[misfit.node as usize][k];
                assert_eq!((denial.used, denial.held), (of.firm() - of.held, of.held + of.pending));
                assert_eq!((denial.asked, denial.fits), (misfit.asked, misfit.fits));
                None
            }
        }
    }

    fn take(&mut self) {
        let (node, mut items) = (self.project(), self.items());
        // Often all that there is, so that whoever comes next has to claim it back.
        if let ([(k, amount)], true) = (items.as_mut_slice(), self.chance.one_in(2)) {
            let all = self.tree.fits(ix(node), self.keys[*k]).filter(|all| *all > 0);
            *amount = all.unwrap_or(*amount);
        }
        let state = match self.ask(node, &items) {
            None => return,
            Some(Fit::Now) => HoldState::Held,
            Some(Fit::AfterReclaim) => HoldState::Pending,
        };
        self.position += 1;
        let longest = if self.is_market { 60 } else { 40 };
        let expires_at = at(self.now + self.chance.within(1, longest));
        let (keyed, burn, changed) = (self.keyed(&items), Amount::ZERO, self.position);
        let hold = Hold { node: ix(node), items: keyed, state, expires_at, burn, changed };
        self.holds.take(&mut self.tree, HoldId(self.position), hold).unwrap();
        let kind = if state == HoldState::Held { As::Held } else { As::Pending };
        self.model.takings.insert(self.position, Taking { node, items, kind });
    }

    fn a_hold(&mut self) -> Option<(HoldId, HoldState)> {
        let all: Vec<_> = self.holds.iter().map(|(id, hold)| (id, hold.state)).collect();
        self.chance.any_of(&all)
    }

    fn commit(&mut self) {
        let Some((id, HoldState::Held)) = self.a_hold() else { return };
        self.position += 1;
        self.holds.commit(&mut self.tree, id, self.position).unwrap();
        self.model.takings.get_mut(&id.0).unwrap().kind = As::Committed;
    }

    fn end(&mut self, id: HoldId, state: HoldState) {
        self.position += 1;
        let ended = Ended { state, at: at(self.now), position: self.position, node: 0 };
        self.holds.end(&mut self.tree, id, ended).unwrap();
        self.model.takings.remove(&id.0).unwrap();
    }

    fn resize(&mut self) {
        let Some((id, HoldState::Held | HoldState::Committed)) = self.a_hold() else { return };
        let taking = self.model.takings[&id.0].clone();
        let items = if self.chance.one_in(3) {
            self.items()
        } else {
            let chance = &mut self.chance;
            taking.items.iter().map(|(k, _)| (*k, 1 + chance.below(8))).collect()
        };
        let before = |k: K| taking.items.iter().find(|(it, _)| *it == k).map_or(0, |it| it.1);
        let more = items.iter().map(|(k, amount)| (*k, amount.saturating_sub(before(*k))));
        let more: Vec<_> = more.filter(|(_, amount)| *amount > 0).collect();
        if self.ask(taking.node, &more) != Some(Fit::Now) {
            return;
        }
        self.position += 1;
        let keyed = self.keyed(&items);
        self.holds.resize(&mut self.tree, id, keyed, Amount::ZERO, self.position).unwrap();
        self.model.takings.get_mut(&id.0).unwrap().items = items;
    }

    /// Time passes: what is past its time ends by itself.
    fn wait(&mut self) {
        self.now += self.chance.within(1, 15);
        for id in self.holds.expired(at(self.now)).collect::<Vec<_>>() {
            assert!(self.holds.get(id).unwrap().expires_at <= at(self.now));
            assert!(self.holds.usable(id, at(self.now)).is_err(), "what expired cannot be used");
            self.end(id, HoldState::Expired);
        }
        let late = self.holds.iter().filter(|(_, it)| it.state != HoldState::Committed);
        assert!(late.into_iter().all(|(_, it)| it.expires_at > at(self.now)), "Q-3");
        for id in self.leases.lapsed(at(self.now)).collect::<Vec<_>>() {
            self.leases.lapse(&mut self.tree, id, at(self.now)).unwrap();
            self.recount(id);
        }
    }

    fn renew(&mut self) {
        let Some((id, HoldState::Held | HoldState::Pending)) = self.a_hold() else { return };
        self.position += 1;
        let until = at(self.now + self.chance.within(1, 60));
        self.holds.renew(id, until, self.position).unwrap();
        assert_eq!(self.holds.get(id).unwrap().expires_at, until);
    }

    /// What a lease counts is for the test of leases to prove; that it is counted, is for this one.
    fn recount(&mut self, id: LeaseId) {
        let counted = self.leases.get(id).unwrap().counted();
        self.model.takings.get_mut(&id.0).unwrap().items[0].1 = counted;
    }

    fn grant_lease(&mut self) {
        let node = self.chance.index(self.model.parents.len());
        let (k, capacity) = (self.chance.index(KEYS), 1 + self.chance.below(6));
        if self.ask(node, &[(k, capacity)]) != Some(Fit::Now) {
            return;
        }
        self.position += 1;
        let safe_capacity = self.chance.below(capacity);
        let (key, holder, now) = (self.keys[k], String::new(), at(self.now));
        let lease = NewLease { holder, node: ix(node), key, capacity, safe_capacity, at: now };
        self.leases.grant(&mut self.tree, LeaseId(self.position), lease).unwrap();
        let items = vec![(k, capacity)];
        self.model.takings.insert(self.position, Taking { node, items, kind: As::Leased });
    }

    fn a_lease(&mut self) -> Option<LeaseId> {
        let all: Vec<_> = self.leases.iter().map(|(id, _)| id).collect();
        self.chance.any_of(&all)
    }

    fn refresh_lease(&mut self) {
        let Some(id) = self.a_lease() else { return };
        let (taking, wants) = (self.model.takings[&id.0].clone(), 1 + self.chance.below(8));
        let (k, counted) = taking.items[0];
        let offer = self.leases.offer(&self.tree, id, wants).unwrap();
        let lease = self.leases.get(id).unwrap();
        assert!(offer <= wants.max(lease.safe_capacity));
        let (version, safe_capacity) = (lease.version, lease.safe_capacity);
        let more = offer.saturating_sub(counted);
        let fits = more == 0 || self.ask(taking.node, &[(k, more)]) == Some(Fit::Now);
        if more > 0 {
            assert!(self.model.admits(taking.node, k, more), "an offer that does not fit");
        } else if wants > counted {
            assert!(!self.model.admits(taking.node, k, 1) || offer == counted.max(safe_capacity));
        }
        let capacity = if fits { offer } else { counted };
        let known_version = version - self.chance.below(version.min(3));
        let refresh = Refresh { capacity, known_version, in_use: 0, at: at(self.now) };
        self.leases.refresh(&mut self.tree, id, refresh).unwrap();
        self.recount(id);
    }

    fn return_lease(&mut self) {
        let Some(id) = self.a_lease() else { return };
        self.leases.give_back(&mut self.tree, id).unwrap();
        self.model.takings.remove(&id.0).unwrap();
    }

    /// An instance is accepted, or starts although nobody asked.
    fn run_instance(&mut self, asks: bool) {
        let (node, items) = (self.project(), self.items());
        let fits = self.ask(node, &items) == Some(Fit::Now);
        if asks && !fits {
            return;
        }
        let (counter, kind) =
            if fits { (Counter::Committed, As::Committed) } else { (Counter::Unheld, As::Unheld) };
        self.tree.add(ix(node), counter, &self.keyed(&items)).unwrap();
        self.position += 1;
        self.model.takings.insert(INSTANCES_FROM + self.position, Taking { node, items, kind });
    }

    fn stop_instance(&mut self, adopt: bool) {
        let running: Vec<u64> = self.model.takings.range(INSTANCES_FROM..).map(|(id, _)| *id).collect();
        let Some(id) = self.chance.any_of(&running) else { return };
        let Taking { node, items, kind } = self.model.takings.remove(&id).unwrap();
        let counter = if kind == As::Unheld { Counter::Unheld } else { Counter::Committed };
        self.tree.remove(ix(node), counter, &self.keyed(&items)).unwrap();
        if adopt {
            let fits = self.ask(node, &items) == Some(Fit::Now);
            let to = if fits { (Counter::Committed, As::Committed) } else { (Counter::Unheld, As::Unheld) };
            self.tree.add(ix(node), to.0, &self.keyed(&items)).unwrap();
            self.model.takings.insert(id, Taking { node, items, kind: to.1 });
        }
    }

    fn reparent(&mut self) {
        let node = 1 + self.chance.index(self.model.parents.len() - 1);
        let Some(old) = self.model.parents[node] else { return };
        let root = *self.model.path(node).last().unwrap();
        let nodes = 0..self.model.parents.len();
        let is_group = |it: &usize| !self.projects.contains(it);
        let outside =
            |it: &usize| !self.model.path(*it).contains(&node) && self.model.path(*it).contains(&root);
        let places: Vec<usize> = nodes.filter(is_group).filter(outside).collect();
        let Some(parent) = self.chance.any_of(&places) else { return };
        let before = self.model.strain();
        self.model.parents[node] = Some(parent);
        let strains: Vec<_> = before.iter().zip(self.model.strain()).map(|(a, b)| (*a, b)).collect();
        let worse = strains.iter().any(|(before, after)| after > before);
        match self.tree.fits_under(ix(node), ix(parent)) {
            Ok(()) => {
                assert!(!worse, "{node} from {old} to {parent}: {strains:?}");
                self.tree.reparent(ix(node), ix(parent)).unwrap();
            }
            Err(denial) => {
                assert!(worse, "{node} could go from {old} to {parent}: {denial:?}");
                self.model.parents[node] = Some(old);
            }
        }
    }

    fn step(&mut self) {
        let before = self.model.excess();
        let mut is_fact = false;
        match self.chance.below(100) {
            0..26 => self.take(),
            26..36 => self.commit(),
            36..41 if self.is_market => self.take(),
            36..46 => {
                if let Some((id, _)) = self.a_hold() {
                    self.end(id, HoldState::Released);
                }
            }
            46..52 => self.resize(),
            52..55 => self.renew(),
            55..62 => self.wait(),
            62..67 => self.grant_lease(),
            67..72 => self.refresh_lease(),
            72..74 => self.return_lease(),
            74..79 if !self.is_market || self.chance.one_in(6) => {
                is_fact = true;
                let (node, k) = (self.chance.index(self.model.parents.len()), self.chance.index(KEYS));
                let limits = (!self.chance.one_in(4)).then(|| self.limits(k));
                self.set_limits(node, k, limits);
            }
            79..83 => self.reparent(),
            74..79 => self.take(),
            83..88 => self.run_instance(true),
            88..91 if self.is_market => self.take(),
            88..91 => {
                is_fact = true;
                self.run_instance(false);
            }
            91..96 => self.stop_instance(false),
            _ => self.stop_instance(true),
        }
        let between = self.model.excess();
        if !is_fact {
            self.check_no_worse(&before, &between);
        }
        self.promote();
        self.check_no_worse(&between, &self.model.excess());
        self.check();
    }

    /// only a lowered limit, or what nobody asked for, brings anything above a limit.
    fn check_no_worse(&self, before: &[u64], after: &[u64]) {
        let worse = before.iter().zip(after).position(|(before, after)| after > before);
        assert_eq!(worse, None, "Q-1: {before:?}\n{after:?}\n{:?}", self.model);
    }

    fn check(&self) {
        let table = self.model.table();
        let (mut overdrawn, mut draining) = (Vec::new(), Vec::new());
        for (node, counts) in table.iter().enumerate() {
            for (k, counts) in counts.iter().enumerate() {
                let standing = self.tree.standing(ix(node), self.keys[k]);
                let taken = standing.taken;
                assert_eq!(
                    (taken.held, taken.committed, taken.leased, taken.pending, taken.unheld),
                    (counts.held, counts.committed, counts.leased, counts.pending, counts.unheld),
                    "what is taken at {node} of {k}"
                );
                assert_eq!(standing.limits, self.model.limits.get(&(node, k)).copied());
                let over = |most: Option<u64>| most.is_some_and(|most| counts.firm() > most);
                let above = over(self.model.nominal(node, k));
                let in_pool = || {
                    let parent = self.model.parents[node]?;
                    let pool = self.model.pool(&table, parent, k / 3);
                    Some(pool.borrowed <= pool.idle)
                };
                let expected = above
                    && (over(self.model.allowed(node, k))
                        || class_of(k) != Class::Preemptible
                        || in_pool() != Some(true));
                assert_eq!(standing.over, expected, "over at {node} of {k}");
                let drains = self.model.limits.get(&(node, k)).is_some_and(|it| it.drain);
                if drains && over(self.model.allowed(node, k)) {
                    let most = self.model.allowed(node, k).unwrap();
                    draining.push((ix(node), self.tree.key_of(self.keys[k]).unwrap(), counts.firm() - most));
                }
            }
            for resource in 0..RESOURCES {
                let pool = self.model.pool(&table, node, resource);
                let key = self.tree.key_of(self.keys[resource * 3]).unwrap();
                if pool.borrowed > pool.unclaimed {
                    overdrawn.push((ix(node), key.resource.clone(), pool.borrowed - pool.unclaimed));
                }
                let borrowers = self.tree.borrowers(ix(node), &key.resource);
                assert_eq!(borrowers.iter().map(|(_, borrowed)| borrowed).sum::<u64>(), pool.borrowed);
            }
        }
        let mut told: Vec<_> = self.tree.overdrawn().collect();
        told.sort();
        overdrawn.sort();
        assert_eq!(told, overdrawn);
        let mut told: Vec<_> = self.tree.draining().collect();
        told.sort();
        draining.sort();
        assert_eq!(told, draining);
        for (id, hold) in self.holds.iter() {
            let kind = self.model.takings[&id.0].kind;
            let state = match kind {
                As::Held => HoldState::Held,
                As::Committed => HoldState::Committed,
                As::Pending => HoldState::Pending,
                As::Leased | As::Unheld => unreachable!(),
            };
            assert_eq!(hold.state, state, "{id}");
        }
        let live = self.model.takings.range(..INSTANCES_FROM).filter(|(_, it)| it.kind != As::Leased);
        assert_eq!(self.holds.len(), live.count());
    }

    /// when all has ended nothing is left.
    fn check_end(&mut self) {
        while self.model.takings.range(INSTANCES_FROM..).next().is_some() {
            self.stop_instance(false);
        }
        while self.leases.iter().next().is_some() {
            self.return_lease();
        }
        let committed = self.holds.iter().filter(|(_, it)| it.state == HoldState::Committed);
        for id in committed.map(|(id, _)| id).collect::<Vec<_>>() {
            self.end(id, HoldState::Released);
        }
        self.promote();
        self.now += 1_000;
        self.wait();
        self.promote();
        self.check();
        assert!(self.holds.is_empty() && self.holds.next_expiry().is_none());
        assert_eq!(self.holds.pending().next(), None);
        for node in 0..self.model.parents.len() {
            for (_, standing) in self.tree.standings(ix(node)) {
                assert_eq!(standing.taken.claimed(), 0, "Q-3");
                assert!(!standing.over && standing.borrowed == 0);
            }
        }
        assert_eq!(self.tree.overdrawn().next(), None);
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    world.check();
    for _ in 0..STEPS {
        world.step();
    }
    world.check_end();
}

#[test]
fn q1_q3_no_life_of_a_tree_crosses_a_limit_or_leaks() {
    for_each_seed("PROPTEST_CASES", 150, simulate);
}
