//! One stream's way down the list of clearings.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use hourglass_capacity::pool::PoolName;
use hourglass_units::Instant;
use tokio::sync::watch;

use super::frame::{PoolTick, Sequence, Told};
use super::hub::{HubError, News, PriceHub};
use super::replay::{Row, rows_after};
use super::ring::{Behind, Place};
use crate::billing::market::clearing;
use crate::market::ticks::{Seen, Tick};

/// What a stream watches.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Every pool.
    All,
    /// One pool.
    One(PoolName),
    /// Some pools.
    Some(BTreeSet<PoolName>),
}

impl Wanted {
    /// Whether the pool is one of them.
    pub(crate) fn has(&self, pool: &PoolName) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == pool,
            Self::Some(some) => some.contains(pool),
        }
    }

    /// Those of a clearing that are.
    pub(crate) fn of<'a>(&self, told: &'a Told) -> Vec<&'a PoolTick> {
        told.pools.iter().filter(|it| self.has(&it.pool)).collect()
    }

    /// A clearing as an event, where it changed something that is watched.
    pub(crate) fn event(&self, told: &Told) -> Option<Bytes> {
        match self {
            Self::All => told.of_all(),
            Self::One(pool) => told.of_pool(pool),
            Self::Some(_) => Some(told.written("tick", self.of(told))),
        }
    }
}

/// What a stream is told next.
#[derive(Debug)]
pub(crate) enum Item {
    /// A clearing that changed something that is watched.
    Tick(Arc<Told>),
    /// Nothing: it lives, and has seen all up to a sequence.
    Beat(Sequence),
    /// Nothing more.
    Leave(Leave),
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It is too far behind.
    Slow,
    /// The server shuts down.
    Closed,
    /// The log cannot be read now.
    Failed,
}

/// Why a stream cannot go on behind a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSuch {
    /// It is none of this log.
    Unknown,
    /// It is too long ago.
    TooOld,
    /// The server cannot tell now.
    Unavailable,
}

impl NoSuch {
    /// For programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::TooOld => "too_old",
            Self::Unavailable => "unavailable",
        }
    }

    /// For people.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::Unknown => "no clearing of this log has that sequence",
            Self::TooOld => "that is too long ago to be told tick by tick: the history has it",
            Self::Unavailable => "the log cannot be read now: come back",
        }
    }
}

/// A stream, and how far it is.
pub(crate) struct Watcher {
    hub: PriceHub,
    wanted: Wanted,
    news: watch::Receiver<News>,
    at: Sequence,
    waiting: VecDeque<Arc<Told>>,
    beats: u64,
    /// Whether it was at the end of the list once: then it must keep up.
    live: bool,
    /// What was told before, while it reads the log.
    seen: Option<Seen>,
}

impl Watcher {
    fn new(hub: &PriceHub, wanted: Wanted, at: Sequence, seen: Option<Seen>) -> Self {
        let news = hub.news();
        let beats = news.borrow().beats;
        Self { hub: hub.clone(), wanted, news, at, waiting: VecDeque::new(), beats, live: false, seen }
    }

    /// Begins with all pools as the last clearing left them; `None` where the server shuts down.
    pub(crate) async fn begin(hub: &PriceHub, wanted: Wanted) -> Option<(Arc<Told>, Self)> {
        if !hub.ready().await {
            return None;
        }
        let last = hub.last()?;
        // It begins at the end of the list.
        let watcher = Self { live: true, ..Self::new(hub, wanted, last.sequence, None) };
        Some((last, watcher))
    }

    /// Goes on behind a sequence, where it is one of this log and not older than so long before `now`.
    pub(crate) async fn resume(
        hub: &PriceHub,
        wanted: Wanted,
        after: Sequence,
        (now, age_max): (Instant, Option<Duration>),
    ) -> Result<Self, NoSuch> {
        if !hub.ready().await {
            return Err(NoSuch::Unavailable);
        }
        let seen = match hub.place(after) {
            Place::Here => None,
            Place::Unknown => return Err(NoSuch::Unknown),
            Place::Older => Some(older(hub, after, (now, age_max)).await.inspect_err(|_| {
                hub.status().resyncs.fetch_add(1, Ordering::Relaxed);
            })?),
        };
        Ok(Self::new(hub, wanted, after, seen))
    }

    pub(crate) const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What is to be told next. Can be dropped and called again.
    pub(crate) async fn next(&mut self) -> Item {
        loop {
            if self.news.borrow_and_update().closed {
                return Item::Leave(Leave::Closed);
            }
            if let Some(told) = self.waiting.pop_front() {
                self.at = told.sequence;
                if told.pools.iter().any(|it| self.wanted.has(&it.pool)) {
                    return Item::Tick(told);
                }
                continue;
            }
            match self.hub.behind(self.at.position) {
                Behind::Far(_) if self.live => return self.slow(),
                Behind::Older if self.live => return self.slow(),
                Behind::Older => match self.replay().await {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a stream of prices cannot go on");
                        return Item::Leave(Leave::Failed);
                    }
                },
                Behind::Next(next) | Behind::Far(next) if !next.is_empty() => {
                    self.seen = None;
                    self.waiting.extend(next);
                }
                Behind::Next(_) | Behind::Far(_) => {
                    self.live = true;
                    let beats = self.news.borrow().beats;
                    if beats != self.beats {
                        self.beats = beats;
                        return Item::Beat(self.at);
                    }
                    if self.news.changed().await.is_err() {
                        return Item::Leave(Leave::Closed);
                    }
                }
            }
        }
    }

    fn slow(&self) -> Item {
        self.hub.status().slow.fetch_add(1, Ordering::Relaxed);
        Item::Leave(Leave::Slow)
    }

    /// Reads the next clearings from the log.
    async fn replay(&mut self) -> Result<(), HubError> {
        let after = self.at.position;
        let rows = self.hub.replay(move |reader| rows_after(reader, after)).await?;
        if rows.is_empty() {
            return Err(HubError::Gap(after));
        }
        let seen = self.seen.get_or_insert_default();
        for row in rows {
            self.waiting.push_back(Arc::new(self.hub.told(row, seen)?));
        }
        Ok(())
    }
}

/// What was seen up to a sequence that the hub no longer keeps.
async fn older(
    hub: &PriceHub,
    after: Sequence,
    (now, age_max): (Instant, Option<Duration>),
) -> Result<Seen, NoSuch> {
    let too_old = |at: Instant| {
        let age_max = age_max.map(|most| i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
        age_max.is_some_and(|most| now.ms_since(at) > most)
    };
    let position = after.position;
    let found = hub.replay(move |reader| match position {
        // Before all: as old as the first one.
        0 => Ok(rows_after(reader, 0)?.into_iter().next()),
        _ => Ok(clearing(reader, position)?.map(|logged| Row::from(&logged))),
    });
    let found = found.await.map_err(|error| {
        tracing::warn!(%error, "a stream of prices cannot go on");
        NoSuch::Unavailable
    })?;
    let mut seen = Seen::default();
    match found {
        Some(row) if position == 0 => {
            if too_old(row.at) {
                Err(NoSuch::TooOld)
            } else {
                Ok(seen)
            }
        }
        Some(row) if row.sequence == after && too_old(row.at) => Err(NoSuch::TooOld),
        Some(row) if row.sequence == after => {
            let _seen: Vec<Tick> = seen.changed(row.ticks);
            Ok(seen)
        }
        Some(_) | None => Err(NoSuch::Unknown),
    }
}
