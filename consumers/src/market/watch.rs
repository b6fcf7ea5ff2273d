//! The stream of prices: everything behind a sequence from the log, then what is cleared.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::{Position, State};
use hourglass_proto::v1;
use hourglass_proto::v1::watch_prices_response::Update;
use hourglass_units::{Currency, Instant};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use super::service::{MarketService, told};
use super::ticks::{Seen, Tick, currency_of};
use crate::auth::Principal;
use crate::billing::market::{Logged, clearing, clearings_before};
use crate::refusal::Refusal;

/// After how long without an update the last sequence is told again.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the log is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clearings that are read at once.
const AT_ONCE: usize = 4;
/// Updates that wait to be sent; then no more are read.
const WAITING_MAX: usize = 4;

type Answer = Result<v1::WatchPricesResponse, Status>;

/// What one caller watches, and how far it is.
struct Watch {
    service: MarketService,
    principal: Principal,
    headers: HeaderMap,
    wanted: BTreeSet<PoolName>,
    seen: Seen,
    /// The last clearing that was told, or looked at in vain.
    at: v1::PriceSequence,
    answers: mpsc::Sender<Answer>,
}

fn stopping() -> Status {
    Status::unavailable("the server shuts down: go on behind the last sequence, elsewhere")
}

fn sequence(logged: &Logged) -> v1::PriceSequence {
    v1::PriceSequence { epoch: logged.epoch, position: logged.position }
}

/// Opens a stream behind a sequence, or with a snapshot.
pub(super) async fn open(
    service: MarketService,
    principal: Principal,
    headers: HeaderMap,
    wanted: Vec<PoolName>,
    after: Option<v1::PriceSequence>,
) -> Result<ReceiverStream<Answer>, Status> {
    let (answers, receiver) = mpsc::channel(WAITING_MAX);
    let wanted = wanted.into_iter().collect();
    let (seen, at) = (Seen::default(), v1::PriceSequence::default());
    let mut watch = Watch { service, principal, headers, wanted, seen, at, answers };
    match after {
        None => watch.begin().await?,
        Some(after) => watch.resume(after).await?,
    }
    drop(tokio::spawn(watch.run()));
    Ok(ReceiverStream::new(receiver))
}

impl Watch {
    /// Begins with all pools as the last clearing left them.
    async fn begin(&mut self) -> Result<(), Status> {
        let last = self.service.store(|reader| clearings_before(reader, u64::MAX).next().transpose());
        let last = last.await.map_err(told)?;
        let update = match last {
            None => v1::PriceUpdate { sequence: Some(self.at), unix_ms: 0, pools: Vec::new() },
            Some(logged) => {
                self.at = sequence(&logged);
                let ticks = self.seen.tell(&logged.cleared);
                self.update(ticks, self.at, logged.at).await?
            }
        };
        // The channel is new: there is room.
        let snapshot = v1::WatchPricesResponse { update: Some(Update::Snapshot(update)) };
        let _sent: Result<(), _> = self.answers.send(Ok(snapshot)).await;
        Ok(())
    }

    /// Goes on behind a sequence, where it is one of this log.
    async fn resume(&mut self, after: v1::PriceSequence) -> Result<(), Status> {
        if after == v1::PriceSequence::default() {
            return Ok(());
        }
        let found = self.service.store(move |reader| clearing(reader, after.position)).await.map_err(told)?;
        match found.filter(|logged| sequence(logged) == after) {
            Some(logged) => {
                let _seen: Vec<Tick> = self.seen.tell(&logged.cleared);
                self.at = after;
                Ok(())
            }
            None => {
                let what = "no clearing of this log has that sequence: begin without one";
                Err(told(Refusal::out_of_range("resync", what)))
            }
        }
    }

    async fn run(mut self) {
        let (mut stopped, mut checks) = (self.service.gate().stopped(), self.service.gate().checks());
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.reset();
        let mut looked_at = None;
        loop {
            let done = tokio::select! {
                biased;
                () = self.answers.closed() => return,
                () = stopped.wait() => Err(stopping()),
                // A key that was revoked must not live on in the streams that it opened.
                _ = checks.tick() => self.check().await,
                _ = looks.tick() => {
                    let position = self.service.gate().cell().status().position.load(Ordering::Relaxed);
                    if looked_at == Some(position) {
                        continue;
                    }
                    let done = self.catch_up().await;
                    if matches!(done, Ok(true)) {
                        beats.reset();
                    }
                    looked_at = Some(position);
                    done.map(|_| ())
                }
                _ = beats.tick() => {
                    self.say(Update::Heartbeat(v1::PriceHeartbeat { sequence: Some(self.at) })).await
                }
            };
            if let Err(status) = done {
                // Who does not read on need not be told.
                let _ended: Result<(), _> = self.answers.try_send(Err(status));
                return;
            }
        }
    }

    async fn check(&self) -> Result<(), Status> {
        match self.service.watcher(&self.headers).await? {
            now if now == self.principal => Ok(()),
            _ => Err(Status::unauthenticated("the credential became another's: begin again")),
        }
    }

    /// Tells all that was cleared since. Whether anything was told.
    async fn catch_up(&mut self) -> Result<bool, Status> {
        let mut told_any = false;
        loop {
            let after = Position::new(self.at.position);
            let read = self.service.store(move |reader| {
                let events = reader.clearings(after, AT_ONCE)?;
                let logged = events.iter().map(|event| Logged::of(event).transpose());
                logged.flatten().collect::<Result<Vec<_>, _>>()
            });
            let clearings = read.await.map_err(told)?;
            if clearings.is_empty() {
                return Ok(told_any);
            }
            for logged in clearings {
                let mut ticks = self.seen.tell(&logged.cleared);
                ticks.retain(|tick| self.wants(&tick.pool));
                self.at = sequence(&logged);
                if !ticks.is_empty() {
                    let update = self.update(ticks, self.at, logged.at).await?;
                    self.say(Update::Tick(update)).await?;
                    told_any = true;
                }
            }
        }
    }

    fn wants(&self, pool: &PoolName) -> bool {
        self.wanted.is_empty() || self.wanted.contains(pool)
    }

    async fn say(&self, update: Update) -> Result<(), Status> {
        let update = v1::WatchPricesResponse { update: Some(update) };
        let mut stopped = self.service.gate().stopped();
        tokio::select! {
            sent = self.answers.send(Ok(update)) => sent.map_err(|_| Status::cancelled("the caller is gone")),
            () = stopped.wait() => Err(stopping()),
        }
    }

    async fn update(
        &self,
        mut ticks: Vec<Tick>,
        sequence: v1::PriceSequence,
        at: Instant,
    ) -> Result<v1::PriceUpdate, Status> {
        ticks.retain(|tick| self.wants(&tick.pool));
        let told = move |state: &State| {
            let of = |tick: Tick| {
                let currency = currency_of(state, &tick.pool);
                pool_price(tick, currency)
            };
            ticks.into_iter().map(of).collect()
        };
        match self.service.gate().cell().read(told).await {
            Ok(pools) => Ok(v1::PriceUpdate { sequence: Some(sequence), unix_ms: at.unix_ms(), pools }),
            Err(error) => Err(self.service.failed(error).await),
        }
    }
}

fn pool_price(tick: Tick, currency: Option<Currency>) -> v1::PoolPrice {
    let Tick { pool, price, sold, free, supply, reserve, bids, gpus_wanted } = tick;
    v1::PoolPrice {
        pool: pool.to_string(),
        currency: currency.map(|currency| currency.to_string()).unwrap_or_default(),
        price: price.to_string(),
        sold,
        free,
        supply,
        reserve_price: reserve.to_string(),
        bids,
        gpus_wanted,
    }
}
