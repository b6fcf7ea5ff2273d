//! Clearings again, one after another, beside what was logged: once as they were, once under changes.
//!
//! A receipt holds the whole input of a clearing. What runs at its start follows from the clearing before, so
//! under a change it is carried over: a bid has what the changed clearing before gave it, less the units that
//! stopped by themselves in the log meanwhile. Where nothing differs, the book and its refusals are those of the
//! receipt, so the same comes out.

use std::collections::BTreeMap;

use hourglass_capacity::auction::receipt::{RULES, Receipt};
use hourglass_capacity::auction::{
    Allowance, BidIx, Book, BookError, Clearing, Grant, PoolIx, Recorded, Refusal, Running, SUPPLY_MAX, clear,
};
use hourglass_capacity::pool::PoolName;
use hourglass_units::{Instant, Interval, Price};

/// A change of one pool, as the clearings see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// So many more GPUs for spot.
    More(u64),
    /// So many fewer.
    Fewer(u64),
    /// So many fewer for a time.
    Kept(u64, Interval),
    /// Another reserve price, however full the pool is.
    Reserve(Price),
}

/// What bids have, by number.
type Holdings = BTreeMap<u64, (PoolName, u32)>;

/// Both runs, from clearing to clearing.
#[derive(Debug, Default)]
pub(super) struct Rerun {
    logged: Holdings,
    changed: Holdings,
    begun: bool,
}

/// What came of one clearing in both runs.
pub(super) struct Both {
    /// As the log's books are cleared again by this program.
    pub(super) again: Clearing,
    /// Whether that is what was logged.
    pub(super) is_same: bool,
    /// Whether it was cleared by other rules: then what was logged is taken as it is.
    pub(super) other_rules: bool,
    /// The book under the changes, and what came of it.
    pub(super) book: Book,
    pub(super) changed: Clearing,
}

impl Rerun {
    /// Clears the book of a receipt again, and under the changes that act at its time.
    pub(super) fn next(
        &mut self,
        receipt: &Receipt,
        at: Instant,
        changes: &[(PoolName, Effect)],
    ) -> Result<Both, BookError> {
        let other_rules = receipt.rules != RULES;
        let mut caps = Caps::default();
        let again = match other_rules {
            true => receipt.clearing.clone(),
            false => {
                let mut watched =
                    Watched { of: Recorded::new(&receipt.refused), taken: BTreeMap::new(), caps };
                let again = clear(&receipt.book, &mut watched);
                caps = watched.caps;
                again
            }
        };
        let is_same = again == receipt.clearing;
        let book = self.book(receipt, at, changes)?;
        let changed = match book == receipt.book {
            true => again.clone(),
            false => clear(&book, &mut caps),
        };
        self.logged = holdings(&receipt.book, &receipt.clearing);
        self.changed = holdings(&book, &changed);
        self.begun = true;
        Ok(Both { again, is_same, other_rules, book, changed })
    }

    /// The book of a receipt with the changes, and with what runs under them.
    fn book(
        &self,
        receipt: &Receipt,
        at: Instant,
        changes: &[(PoolName, Effect)],
    ) -> Result<Book, BookError> {
        let mut draft = receipt.book.clone().into_draft();
        for (name, effect) in changes {
            let Some(pool) = draft.pools.iter_mut().find(|pool| pool.name == *name) else { continue };
            match *effect {
                Effect::More(gpus) => pool.supply = pool.supply.saturating_add(gpus).min(SUPPLY_MAX),
                Effect::Fewer(gpus) => pool.supply = pool.supply.saturating_sub(gpus),
                Effect::Kept(gpus, within) if within.contains(at) => {
                    pool.supply = pool.supply.saturating_sub(gpus);
                }
                Effect::Kept(..) => {}
                Effect::Reserve(price) => pool.reserve = price,
            }
        }
        if self.begun {
            for bid in &mut draft.bids {
                let (was, has) = (self.logged.get(&bid.number), self.changed.get(&bid.number));
                if was == has {
                    continue;
                }
                let runs = bid.running.map_or(0, |it| it.units);
                let stopped = was.map_or(0, |(_, units)| units.saturating_sub(runs));
                bid.running = has.and_then(|(pool, units)| {
                    let pool = receipt.book.find_pool(pool).filter(|pool| bid.pools.contains(pool))?;
                    let units = units.saturating_sub(stopped).min(bid.max_units);
                    (units >= bid.min_units).then_some(Running { pool, units })
                });
            }
        }
        Book::new(draft)
    }
}

fn holdings(book: &Book, clearing: &Clearing) -> Holdings {
    let of =
        |(bid, outcome): (&hourglass_capacity::auction::Bid, &hourglass_capacity::auction::BidOutcome)| {
            let (pool, units) = outcome.won()?;
            Some((bid.number, (book.pools().get(pool.index())?.name.clone(), units)))
        };
    book.bids().iter().zip(&clearing.bids).filter_map(of).collect()
}

/// The most units that quotas and budgets let a bid have, as far as a receipt tells: what it had when it was
/// refused, and what it was granted of what it asked for. A bid that was never refused is free.
#[derive(Debug, Default)]
struct Caps {
    most: BTreeMap<BidIx, (u32, Refusal)>,
    taken: BTreeMap<BidIx, u32>,
}

impl Allowance for Caps {
    fn take(&mut self, bid: BidIx, _: PoolIx, units: u32) -> Grant {
        let taken = self.taken.entry(bid).or_default();
        let left = self.most.get(&bid).map(|(most, refusal)| (most.saturating_sub(*taken), *refusal));
        let grant = match left {
            Some((left, refusal)) if left < units => Grant { units: left, refusal: Some(refusal) },
            _ => Grant { units, refusal: None },
        };
        *taken = taken.saturating_add(grant.units);
        grant
    }

    fn give_back(&mut self, bid: BidIx, _: PoolIx, units: u32) {
        let taken = self.taken.entry(bid).or_default();
        *taken = taken.saturating_sub(units);
    }
}

/// Answers as the log says, and learns the caps from it.
struct Watched<'a> {
    of: Recorded<'a>,
    taken: BTreeMap<BidIx, u32>,
    caps: Caps,
}

impl Allowance for Watched<'_> {
    fn take(&mut self, bid: BidIx, pool: PoolIx, units: u32) -> Grant {
        let grant = self.of.take(bid, pool, units);
        let taken = self.taken.entry(bid).or_default();
        *taken = taken.saturating_add(grant.units);
        if let Some(refusal) = grant.refusal {
            let most = self.caps.most.entry(bid).or_insert((*taken, refusal));
            if *taken < most.0 {
                *most = (*taken, refusal);
            }
        }
        grant
    }

    fn give_back(&mut self, bid: BidIx, pool: PoolIx, units: u32) {
        self.of.give_back(bid, pool, units);
        let taken = self.taken.entry(bid).or_default();
        *taken = taken.saturating_sub(units);
    }
}
