//! What clearings say of the past of each pool, kept in memory: GPUs sold over time, and lives of units.
//!
//! Both stand in receipts, and a receipt is long: a question about a year would read a year of them. So each is
//! read once, in order, and what is kept of it is a few bytes. It is read in the background when the server starts and
//! again whenever somebody asks, up to the last clearing; nothing of it is stored, since the log has it. It is
//! bounded: beyond [`HISTORY_POINTS_MAX`] and [`HISTORY_LIVES_MAX`] the oldest are forgotten, and the answer says
//! since when it knows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hourglass_capacity::auction::{Bid, BidIx, Cause, PoolIx};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::Position;
use hourglass_ledger::core::market::Cleared;
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Interval, Quantity};

use super::interruptions::{Chances, Fate, Life, chances, level};
use crate::billing::market::{ClearError, Logged};

/// Changes of GPUs sold that are kept of one pool.
pub const HISTORY_POINTS_MAX: usize = 1 << 20;
/// Lives of units that are kept of one pool.
pub const HISTORY_LIVES_MAX: usize = 1 << 18;
/// Clearings that are read while nobody else can ask.
const AT_ONCE: usize = 64;
/// Clearings that one question reads at most: with more to read it is told to come back.
pub(crate) const CATCH_UP_CLEARINGS_MAX: usize = 2_048;
/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

/// The past of all pools, as far as it was read.
#[derive(Debug, Default)]
pub struct History(Mutex<Pools>);

#[derive(Debug, Default)]
struct Pools {
    /// The last clearing that was read.
    position: u64,
    by_name: BTreeMap<PoolName, Past>,
    /// Units that bids have, by the number of the bid.
    held: BTreeMap<u64, Held>,
}

/// What a bid has.
#[derive(Debug)]
struct Held {
    pool: PoolName,
    /// Of the next hours, until the next clearing says otherwise.
    level: u8,
    /// Oldest first.
    lives: Vec<Life>,
}

/// The past of a pool.
#[derive(Debug, Default)]
struct Past {
    /// When the GPUs that were sold became so many.
    sold: VecDeque<(i64, u64)>,
    /// Of units that are over.
    lives: VecDeque<Life>,
    /// Units that were interrupted, by cause.
    causes: BTreeMap<&'static str, u64>,
    forgot: bool,
}

/// What the past of a pool says of interruptions.
#[derive(Debug)]
pub(crate) struct PoolChances {
    /// The last clearing that is in it.
    pub(crate) position: u64,
    /// When the first unit of it began.
    pub(crate) since: Option<Instant>,
    pub(crate) causes: BTreeMap<&'static str, u64>,
    pub(crate) chances: Chances,
}

impl History {
    /// Reads what was cleared since, at most so many clearings. Whether that was all.
    pub fn catch_up(&self, reader: &dyn Reader, most: usize) -> Result<bool, ClearError> {
        let mut read = 0_usize;
        while read < most {
            // Others may ask between two portions.
            let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let events = reader.clearings(Position::new(pools.position), AT_ONCE)?;
            if events.is_empty() {
                return Ok(true);
            }
            for event in &events {
                if let Some(logged) = Logged::of(event)? {
                    pools.take(&logged.cleared, logged.at);
                }
                pools.position = event.position.number();
            }
            read = read.saturating_add(events.len());
        }
        Ok(false)
    }

    /// GPU-hours that were sold of a pool in each of some times, which are in order; `None` for what is not known.
    pub(crate) fn sold(&self, pool: &PoolName, times: &[Interval]) -> Vec<Option<Quantity>> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(past) = pools.by_name.get(pool) else { return vec![None; times.len()] };
        times.iter().map(|time| past.sold(*time)).collect()
    }

    /// How likely interruptions are in a pool, until `now`.
    pub(crate) fn chances(&self, pool: &PoolName, now: Instant) -> PoolChances {
        let now = now.unix_ms();
        let (position, causes, lives) = {
            let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let past = pools.by_name.get(pool);
            let held = pools.held.values().filter(|held| held.pool == *pool);
            // Those that are held have seen no clearing since the last one, but hours.
            let held = held.flat_map(|held| held.lives.iter().map(|life| seen_until(life, now, held.level)));
            let over = past.into_iter().flat_map(|past| past.lives.iter().cloned());
            let lives: Vec<Life> = over.chain(held).collect();
            let causes = past.map(|past| past.causes.clone()).unwrap_or_default();
            (pools.position, causes, lives)
        };
        let since = lives.iter().map(|life| life.start).min();
        let since = since.and_then(|start| Instant::from_unix_ms(start).ok());
        let lives: Vec<&Life> = lives.iter().collect();
        PoolChances { position, since, causes, chances: chances(&lives, now) }
    }
}

/// A life that goes on, with all hours before `now`.
fn seen_until(life: &Life, now: i64, level: u8) -> Life {
    let mut life = life.clone();
    see_hours(&mut life, now, level);
    life
}

/// Notes the level of each full hour that a life saw before an instant.
fn see_hours(life: &mut Life, before: i64, level: u8) {
    let first = life.start.saturating_add(HOUR_MS - 1).div_euclid(HOUR_MS);
    let end = before.saturating_add(HOUR_MS - 1).div_euclid(HOUR_MS);
    let hours = usize::try_from(end.saturating_sub(first)).unwrap_or(0);
    if hours > life.levels.len() {
        life.levels.resize(hours, level);
    }
}

impl Past {
    fn sold(&self, time: Interval) -> Option<Quantity> {
        let (start, end) = (time.start().unix_ms(), time.end().unix_ms());
        let first = self.sold.partition_point(|(from, _)| *from <= start).checked_sub(1);
        let first = match first {
            Some(first) => first,
            // Before the first clearing nothing was sold, where that is known.
            None if !self.forgot => 0,
            None => return None,
        };
        let ends = self.sold.iter().skip(first.saturating_add(1)).map(|(from, _)| *from).chain([i64::MAX]);
        let pieces = self.sold.iter().skip(first).zip(ends).take_while(|((from, _), _)| *from < end);
        let sum = pieces.fold(0_i128, |sum, ((from, gpus), until)| {
            let held = until.min(end).saturating_sub((*from).max(start)).max(0);
            sum.saturating_add(i128::from(*gpus).saturating_mul(i128::from(held)))
        });
        Quantity::of_gpu_milliseconds(sum)
    }

    fn note_sold(&mut self, at: i64, gpus: u64) {
        if self.sold.back().map(|(_, last)| *last) != Some(gpus) {
            self.sold.push_back((at, gpus));
        }
        if self.sold.len() > HISTORY_POINTS_MAX {
            self.sold.pop_front();
            self.forgot = true;
        }
    }

    fn note_life(&mut self, life: Life) {
        self.lives.push_back(life);
        if self.lives.len() > HISTORY_LIVES_MAX {
            self.lives.pop_front();
        }
    }
}

impl Pools {
    /// Takes in a clearing.
    fn take(&mut self, cleared: &Cleared, at: Instant) {
        let now = at.unix_ms();
        let (book, clearing) = (&cleared.receipt.book, &cleared.receipt.clearing);
        for (pool, outcome) in book.pools().iter().zip(&clearing.pools) {
            self.past(&pool.name).note_sold(now, outcome.sold);
        }
        for held in self.held.values_mut() {
            let level = held.level;
            held.lives.iter_mut().for_each(|life| see_hours(life, now, level));
        }
        // Bids have fewer units than they had, or none, where they gave some up between the clearings.
        let running: BTreeMap<u64, u32> =
            book.bids().iter().filter_map(|bid| Some((bid.number, bid.running?.units))).collect();
        let numbers: Vec<u64> = self.held.keys().copied().collect();
        for number in numbers {
            self.keep(number, running.get(&number).copied().unwrap_or(0), now);
        }
        for stop in &clearing.preemptions {
            let BidIx(ix) = stop.bid;
            let bid = usize::try_from(ix).ok().and_then(|ix| book.bids().get(ix));
            if let Some(bid) = bid {
                self.interrupt(bid.number, stop.units, stop.cause, now);
            }
        }
        for (bid, outcome) in book.bids().iter().zip(&clearing.bids) {
            if let Some((PoolIx(pool), units)) = outcome.won() {
                let pool = usize::from(pool);
                if let Some((pool, outcome)) = book.pools().get(pool).zip(clearing.pools.get(pool)) {
                    self.hold(bid, (&pool.name, level(bid.limit, outcome.price)), units, now);
                }
            }
        }
    }

    fn past(&mut self, pool: &PoolName) -> &mut Past {
        if !self.by_name.contains_key(pool) {
            self.by_name.insert(pool.clone(), Past::default());
        }
        self.by_name.entry(pool.clone()).or_default()
    }

    /// A bid keeps so many units; the newest of the others left.
    fn keep(&mut self, number: u64, units: u32, now: i64) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let have = held.lives.iter().map(|life| life.units).fold(0, u32::saturating_add);
        let over = end_newest(&mut held.lives, have.saturating_sub(units), now, Fate::Left);
        let pool = held.pool.clone();
        if held.lives.is_empty() {
            self.held.remove(&number);
        }
        let past = self.past(&pool);
        over.into_iter().for_each(|life| past.note_life(life));
    }

    fn interrupt(&mut self, number: u64, units: u32, cause: Cause, now: i64) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let fate = match cause {
            Cause::Outbid { .. } | Cause::SupplyReclaimed | Cause::ReserveRaised => Fate::Interrupted,
            // Its owner's own limits are no risk of the market.
            Cause::Quota | Cause::Budget => Fate::Left,
        };
        let over = end_newest(&mut held.lives, units, now, fate);
        let pool = held.pool.clone();
        if held.lives.is_empty() {
            self.held.remove(&number);
        }
        let past = self.past(&pool);
        let ended = over.iter().map(|life| u64::from(life.units)).fold(0, u64::saturating_add);
        let count = past.causes.entry(cause_name(cause)).or_default();
        *count = count.saturating_add(ended);
        over.into_iter().for_each(|life| past.note_life(life));
    }

    /// A bid has so many units from now on.
    fn hold(&mut self, bid: &Bid, (pool, level): (&PoolName, u8), units: u32, now: i64) {
        let held = self.held.entry(bid.number).or_insert_with(|| Held {
            pool: pool.clone(),
            level,
            lives: Vec::new(),
        });
        (held.pool, held.level) = (pool.clone(), level);
        let have = held.lives.iter().map(|life| life.units).fold(0, u32::saturating_add);
        if let Some(more) = units.checked_sub(have).filter(|more| *more > 0) {
            held.lives.push(Life { units: more, start: now, end: None, levels: Vec::new() });
        }
    }
}

/// Ends so many units, the newest first.
fn end_newest(lives: &mut Vec<Life>, mut units: u32, now: i64, fate: Fate) -> Vec<Life> {
    let mut over = Vec::new();
    while units > 0
        && let Some(mut life) = lives.pop()
    {
        let ending = life.units.min(units);
        units = units.saturating_sub(ending);
        over.push(Life { units: ending, end: Some((now, fate)), ..life.clone() });
        life.units = life.units.saturating_sub(ending);
        if life.units > 0 {
            lives.push(life);
        }
    }
    over
}

const fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Outbid { .. } => "outbid",
        Cause::SupplyReclaimed => "supply_reclaimed",
        Cause::ReserveRaised => "reserve_raised",
        Cause::Quota => "quota",
        Cause::Budget => "budget",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(start: i64, end: i64) -> Interval {
        Interval::between(Instant::from_unix_ms(start).unwrap(), Instant::from_unix_ms(end).unwrap()).unwrap()
    }

    #[test]
    fn what_was_sold_is_summed_over_time() {
        let mut past = Past::default();
        for (at, gpus) in [(HOUR_MS, 8), (HOUR_MS + 1, 8), (2 * HOUR_MS, 0), (3 * HOUR_MS, 4)] {
            past.note_sold(at, gpus);
        }
        assert_eq!(past.sold.len(), 3);
        for (start, end, hours) in
            [(0, 1, 0), (0, 2, 8), (1, 2, 8), (1, 4, 12), (2, 3, 0), (3, 5, 8), (0, 5, 16)]
        {
            let expected = Some(Quantity::from_nanos(hours * 1_000_000_000));
            assert_eq!(past.sold(time(start * HOUR_MS, end * HOUR_MS)), expected, "{start} {end}");
        }
        past.forgot = true;
        assert_eq!(past.sold(time(0, 2 * HOUR_MS)), None);
    }

    #[test]
    fn the_newest_units_end_first() {
        let life = |units, start| Life { units, start, end: None, levels: vec![1] };
        let mut lives = vec![life(4, 10), life(2, 20)];
        let over = end_newest(&mut lives, 3, 30, Fate::Interrupted);
        let ended = |units, start| Life { end: Some((30, Fate::Interrupted)), ..life(units, start) };
        assert_eq!((over, lives.clone()), (vec![ended(2, 20), ended(1, 10)], vec![life(3, 10)]));
        assert_eq!(end_newest(&mut lives, 9, 30, Fate::Left).len(), 1);
        assert!(lives.is_empty());
    }

    #[test]
    fn hours_are_seen_once() {
        let mut life = Life { units: 1, start: HOUR_MS / 2, end: None, levels: Vec::new() };
        for (before, level, seen) in [
            (HOUR_MS - 1, 9, vec![]),
            (HOUR_MS, 9, vec![]),
            (HOUR_MS + 1, 1, vec![1]),
            (2 * HOUR_MS, 2, vec![1]),
            (4 * HOUR_MS, 3, vec![1, 3, 3]),
        ] {
            see_hours(&mut life, before, level);
            assert_eq!(life.levels, seen, "{before}");
        }
        // One that begins on the hour sees it.
        let mut life = Life { start: HOUR_MS, levels: Vec::new(), ..life };
        see_hours(&mut life, HOUR_MS + 1, 5);
        assert_eq!(life.levels, [5]);
    }
}
