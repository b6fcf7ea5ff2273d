//! The one reader of clearings of a process, and the list that all streams go down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_units::{Currency, INSTANT_MIN};
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;

use super::frame::{Sequence, Told};
use super::history::{CATCH_UP_CLEARINGS_MAX, History};
use super::limits::{Full, StreamSlot, Streams};
use super::replay::{Currencies, NoCurrency, Row, Tail, rows_after, told};
use super::ring::{Behind, Place, Ring};
use super::{HEARTBEAT, REPLAYS_MAX, STREAMS_MAX};
use crate::billing::market::ClearError;
use crate::market::ticks::Seen;

/// First and longest pause after the log could not be read.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What clearings changed, for all streams of a process. Clones share it.
#[derive(Clone, Default)]
pub struct PriceHub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    started: AtomicBool,
    cell: OnceLock<CellHandle>,
    /// Absent until the last clearings were read.
    ring: RwLock<Option<Ring>>,
    currencies: RwLock<Currencies>,
    news: watch::Sender<News>,
    streams: Arc<Streams>,
    replays: Replays,
    history: Arc<History>,
    status: HubStatus,
}

struct Replays(Semaphore);

impl Default for Replays {
    fn default() -> Self {
        Self(Semaphore::new(REPLAYS_MAX))
    }
}

/// What streams wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The last clearing in the ring.
    pub(super) position: u64,
    pub(super) beats: u64,
    pub(super) ready: bool,
    pub(super) closed: bool,
}

/// How the hub does. Numbers only grow.
#[derive(Debug, Default)]
pub(crate) struct HubStatus {
    /// Streams that were let go because they fell behind.
    pub(crate) slow: AtomicU64,
    /// Streams that could not go on where they asked to.
    pub(crate) resyncs: AtomicU64,
    /// Pages of the log that were read for streams that go on from long ago.
    pub(crate) replays: AtomicU64,
}

/// Why the hub waits.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    #[error(transparent)]
    Clearing(#[from] ClearError),
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error(transparent)]
    Currency(#[from] NoCurrency),
    #[error("the log has no clearing behind position {0}, and it had one")]
    Gap(u64),
    #[error("the store could not be read")]
    Task,
}

/// How far the hub has read.
struct Reading {
    seen: Seen,
    at: u64,
}

impl std::fmt::Debug for PriceHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceHub").field("streams", &self.0.streams.count()).finish_non_exhaustive()
    }
}

impl PriceHub {
    /// Begins to read the cell's log, once. Called within a runtime.
    pub(crate) fn start(&self, cell: &CellHandle) {
        if !self.0.started.swap(true, Ordering::AcqRel) {
            let _first = self.0.cell.set(cell.clone());
            drop(tokio::spawn(run(self.clone(), cell.clone())));
            drop(tokio::spawn(read_past(self.clone(), cell.clone())));
        }
    }

    /// What clearings say of the past.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.0.history
    }

    /// Ends all streams, and takes no more.
    pub(crate) fn close(&self) {
        self.0.news.send_modify(|news| news.closed = true);
    }

    pub(crate) fn status(&self) -> &HubStatus {
        &self.0.status
    }

    /// Streams that are open over HTTP.
    pub(crate) fn streams(&self) -> usize {
        self.0.streams.count()
    }

    /// A place for one more stream over HTTP.
    pub(crate) fn slot(&self, name: &str, own_max: usize) -> Result<StreamSlot, Full> {
        self.0.streams.open(name, own_max, STREAMS_MAX)
    }

    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.0.news.subscribe()
    }

    pub(super) fn with_ring<T>(&self, read: impl FnOnce(&Ring) -> T) -> Option<T> {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(read)
    }

    /// All pools as the last clearing left them; `None` until the last clearings were read.
    pub(crate) fn last(&self) -> Option<Arc<Told>> {
        self.with_ring(|ring| Arc::clone(ring.last()))
    }

    pub(super) fn behind(&self, position: u64) -> Behind {
        self.with_ring(|ring| ring.behind(position)).unwrap_or(Behind::Next(Vec::new()))
    }

    pub(super) fn place(&self, sequence: Sequence) -> Place {
        self.with_ring(|ring| ring.place(sequence)).unwrap_or(Place::Unknown)
    }

    /// Waits until all clearings are here that were answered by now; `false` where the server shuts down.
    pub(crate) async fn ready(&self) -> bool {
        let wanted = self.0.cell.get().map_or(0, |cell| cell.status().clearings.position());
        let mut news = self.news();
        let is_here = |news: &News| news.closed || (news.ready && news.position >= wanted);
        let found = news.wait_for(is_here).await;
        found.is_ok_and(|news| !news.closed)
    }

    /// Reads the log for one stream, when it is its turn.
    pub(super) async fn replay<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, ClearError> + Send + 'static,
    ) -> Result<T, HubError> {
        let _turn = self.0.replays.0.acquire().await.map_err(|_| HubError::Task)?;
        self.0.status.replays.fetch_add(1, Ordering::Relaxed);
        let cell = self.0.cell.get().ok_or(HubError::Task)?;
        blocking(cell, read).await
    }

    pub(super) fn told(&self, row: Row, seen: &mut Seen) -> Result<Told, NoCurrency> {
        let Row { sequence, at, ticks } = row;
        let currencies = self.0.currencies.read().unwrap_or_else(PoisonError::into_inner);
        told(sequence, at, seen.changed(ticks), &currencies)
    }

    fn all(&self, row: &Row) -> Result<Told, NoCurrency> {
        self.told(row.clone(), &mut Seen::default())
    }

    /// Looks up what pools' prices are in, where one is unknown or it is time.
    async fn look_up(&self, cell: &CellHandle, rows: &[Row]) -> Result<(), HubError> {
        let is_known = {
            let known = self.0.currencies.read().unwrap_or_else(PoisonError::into_inner);
            rows.iter().flat_map(|row| &row.ticks).all(|tick| known.contains_key(&tick.pool))
        };
        if !is_known {
            self.refresh(cell).await?;
        }
        Ok(())
    }

    async fn refresh(&self, cell: &CellHandle) -> Result<(), HubError> {
        let all = |state: &State| -> Vec<(PoolName, Currency)> {
            state.market().pools().map(|(name, pool)| (name.clone(), pool.terms.currency)).collect()
        };
        let found = cell.read(all).await?;
        *self.0.currencies.write().unwrap_or_else(PoisonError::into_inner) = found.into_iter().collect();
        Ok(())
    }

    /// Reads the last clearings, once.
    async fn fill(&self, cell: &CellHandle) -> Result<Reading, HubError> {
        // Who stands by cannot say, and then need not read the log either.
        self.refresh(cell).await?;
        let Tail { rows, mut seen, floor } = blocking(cell, Tail::read).await?;
        let nothing = || Told::new(Sequence::default(), INSTANT_MIN, Vec::new());
        let last = rows.back().map_or_else(|| Ok(nothing()), |row| self.all(row))?;
        let at = last.sequence.position.max(floor);
        let told = rows.into_iter().map(|row| self.told(row, &mut seen).map(Arc::new));
        let told = told.collect::<Result<VecDeque<_>, _>>()?;
        *self.0.ring.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Ring::new(told, floor, Arc::new(last)));
        self.0.news.send_modify(|news| (news.ready, news.position) = (true, at));
        Ok(Reading { seen, at })
    }

    /// Adds all that was cleared since.
    async fn catch_up(&self, cell: &CellHandle, place: &mut Reading) -> Result<(), HubError> {
        loop {
            let after = place.at;
            let rows = blocking(cell, move |reader| rows_after(reader, after)).await?;
            if rows.is_empty() {
                return Ok(());
            }
            self.look_up(cell, &rows).await?;
            for row in rows {
                let last = self.all(&row)?;
                let told = self.told(row, &mut place.seen)?;
                place.at = told.sequence.position;
                if let Some(ring) = self.0.ring.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    ring.push(told, last);
                }
            }
            self.0.news.send_modify(|news| news.position = place.at);
        }
    }
}

/// Reads the store, on a thread that may block.
async fn blocking<T: Send + 'static>(
    cell: &CellHandle,
    read: impl FnOnce(&dyn Reader) -> Result<T, ClearError> + Send + 'static,
) -> Result<T, HubError> {
    let reader = Arc::clone(cell.reader());
    let done = tokio::task::spawn_blocking(move || read(reader.as_ref())).await;
    Ok(done.map_err(|_| HubError::Task)??)
}

/// Reads the past of all pools in portions, so that who asks finds it read.
async fn read_past(hub: PriceHub, cell: CellHandle) {
    while !hub.news().borrow().closed {
        let history = Arc::clone(&hub.0.history);
        match blocking(&cell, move |reader| history.catch_up(reader, CATCH_UP_CLEARINGS_MAX)).await {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                // Who asks reads on.
                tracing::warn!(%error, "the past of prices was not read ahead");
                return;
            }
        }
    }
}

async fn until_closed(news: &mut watch::Receiver<News>) {
    let _closed = news.wait_for(|news| news.closed).await.is_ok();
}

/// Reads the log until the server shuts down.
async fn run(hub: PriceHub, cell: CellHandle) {
    let (mut clearings, mut closed) = (cell.status().clearings.watch(), hub.news());
    // The beat looks at the log too: a commit that was settled late woke nobody.
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats.reset();
    let (mut place, mut pause, mut said) = (None, PAUSES.0, String::new());
    loop {
        clearings.mark_unchanged();
        let done = match &mut place {
            None => hub.fill(&cell).await.map(|filled| place = Some(filled)),
            Some(place) => hub.catch_up(&cell, place).await,
        };
        let (failed, waits) = (done.is_err(), pause);
        let tried_again = async move {
            if failed { tokio::time::sleep(waits).await } else { std::future::pending().await }
        };
        if let Err(error) = &done {
            let error = error.to_string();
            if said != error {
                tracing::warn!(error, "the price feed waits");
                said = error;
            }
        } else {
            (pause, said) = (PAUSES.0, String::new());
        }
        tokio::select! {
            () = until_closed(&mut closed) => return,
            changed = clearings.changed() => if changed.is_err() { return },
            () = tried_again => pause = pause.saturating_mul(2).min(PAUSES.1),
            _ = beats.tick() => {
                // Of who only stands by nothing can be asked; what is known still holds.
                let _refreshed: Result<(), HubError> = hub.refresh(&cell).await;
                hub.0.news.send_modify(|news| news.beats = news.beats.wrapping_add(1));
            }
        }
    }
}
