//! The stream of prices over gRPC: the process's list of clearings, to one caller.

use std::collections::BTreeSet;

use hourglass_capacity::pool::PoolName;
use hourglass_proto::v1;
use hourglass_proto::v1::watch_prices_response::Update;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use super::service::{MarketService, told};
use crate::auth::Principal;
use crate::prices::{Item, Leave, NoSuch, PoolTick, Sequence, Told, Wanted, Watcher};
use crate::refusal::Refusal;

/// Updates that wait to be sent; then no more are taken from the list.
const WAITING_MAX: usize = 4;

type Answer = Result<v1::WatchPricesResponse, Status>;

/// What one caller watches.
struct Watch {
    service: MarketService,
    principal: Principal,
    headers: HeaderMap,
    watcher: Watcher,
    answers: mpsc::Sender<Answer>,
}

fn stopping() -> Status {
    Status::unavailable("the server shuts down: go on behind the last sequence, elsewhere")
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
    let wanted: BTreeSet<PoolName> = wanted.into_iter().collect();
    let wanted = if wanted.is_empty() { Wanted::All } else { Wanted::Some(wanted) };
    let gate = service.gate();
    // Who stands by says so, and does not let wait for its turn.
    if let Err(error) = gate.cell().read(|_| ()).await {
        return Err(service.failed(error).await);
    }
    let watcher = match after {
        None => {
            let (last, watcher) = Watcher::begin(gate.prices(), wanted).await.ok_or_else(stopping)?;
            let at = if last.sequence == Sequence::default() { 0 } else { last.at.unix_ms() };
            let snapshot = Update::Snapshot(update(&last, at, watcher.wanted()));
            // The channel is new: there is room.
            let _sent: Result<(), _> = answers.send(Ok(response(snapshot))).await;
            watcher
        }
        Some(after) => {
            let after = Sequence { epoch: after.epoch, position: after.position };
            let resumed = Watcher::resume(gate.prices(), wanted, after, (gate.cell().now(), None)).await;
            resumed.map_err(|why| match why {
                NoSuch::Unavailable => Status::unavailable(why.detail()),
                NoSuch::Unknown | NoSuch::TooOld => {
                    let what = format!("{}: begin without one", why.detail());
                    told(Refusal::out_of_range("resync", what))
                }
            })?
        }
    };
    drop(tokio::spawn(Watch { service, principal, headers, watcher, answers }.run()));
    Ok(ReceiverStream::new(receiver))
}

impl Watch {
    async fn run(mut self) {
        let (mut stopped, mut checks) = (self.service.gate().stopped(), self.service.gate().checks());
        loop {
            let done = tokio::select! {
                biased;
                () = self.answers.closed() => return,
                () = stopped.wait() => Err(stopping()),
                // A key that was revoked must not live on in the streams that it opened.
                _ = checks.tick() => self.check().await,
                item = self.watcher.next() => self.say(item).await,
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

    async fn say(&self, item: Item) -> Result<(), Status> {
        let update = match item {
            Item::Tick(told) => Update::Tick(update(&told, told.at.unix_ms(), self.watcher.wanted())),
            Item::Beat(at) => Update::Heartbeat(v1::PriceHeartbeat { sequence: Some(sequence(at)) }),
            Item::Leave(Leave::Closed) => return Err(stopping()),
            Item::Leave(Leave::Slow) => {
                let what = "you read too slowly: go on behind the last sequence";
                return Err(Status::resource_exhausted(what));
            }
            Item::Leave(Leave::Failed) => {
                return Err(Status::unavailable(
                    "the log cannot be read now: go on behind the last sequence",
                ));
            }
        };
        let mut stopped = self.service.gate().stopped();
        tokio::select! {
            sent = self.answers.send(Ok(response(update))) => {
                sent.map_err(|_| Status::cancelled("the caller is gone"))
            }
            () = stopped.wait() => Err(stopping()),
        }
    }
}

const fn response(update: Update) -> v1::WatchPricesResponse {
    v1::WatchPricesResponse { update: Some(update) }
}

const fn sequence(Sequence { epoch, position }: Sequence) -> v1::PriceSequence {
    v1::PriceSequence { epoch, position }
}

fn update(told: &Told, unix_ms: i64, wanted: &Wanted) -> v1::PriceUpdate {
    let pools = wanted.of(told).into_iter().map(pool_price).collect();
    v1::PriceUpdate { sequence: Some(sequence(told.sequence)), unix_ms, pools }
}

fn pool_price(tick: &PoolTick) -> v1::PoolPrice {
    v1::PoolPrice {
        pool: tick.pool.to_string(),
        currency: tick.currency.to_string(),
        price: tick.price.clone(),
        sold: tick.sold,
        free: tick.free,
        supply: tick.supply,
        reserve_price: tick.reserve_price.clone(),
        bids: tick.bids,
        gpus_wanted: tick.gpus_wanted,
    }
}
