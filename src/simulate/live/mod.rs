//! The demonstration goes on: a spot market that is cleared, driven, metered and billed now.
//!
//! Pools are opened in the region, [`bidders`] place, raise and take back bids, the cell clears them and drives
//! their units through a compute API, [`nodes`] report what runs there, and guests that are told to stop save
//! their work and go. All that is drawn follows from one seed; how it meets the real clock does not.

mod bidders;
mod news;
mod nodes;
mod summary;

use std::time::Duration;

use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReserveError, ReservePolicy, Shape};
use hourglass_capacity::pool::PoolNameError;
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::Command;
use hourglass_ledger::core::market::{MarketCommand, NOTICE_MS_MIN, PoolTerms, Trigger};
use hourglass_units::{Currency, IdError, MoneyError, Percent, Price};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

pub use nodes::Cloud;
pub use summary::{Summary, summary};

use super::demo::REGION;
use crate::failure::Failure;
use bidders::Bidders;
use news::News;
use nodes::Nodes;

/// Pools: platform, fabric, GPUs, and what a GPU-hour costs at least.
pub const POOLS: [(&str, &str, u64, &str); 3] = [
    ("gpu-h100-sxm", "fabric-1", 32, "0.85"),
    ("gpu-h100-sxm", "fabric-2", 16, "0.80"),
    ("gpu-h200-sxm", "fabric-3", 16, "1.00"),
];
/// How often the cloud is listed by the driver.
pub const LIST_EVERY: Duration = Duration::from_secs(2);
/// Time between two turns of the bidders.
const TURN_EVERY: Duration = Duration::from_secs(3);
/// Time between two looks at what runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long units may take to go when it ends: their notice, and as much again for a cloud that is slow.
const WIND_DOWN_MAX: Duration = Duration::from_millis(2 * NOTICE_MS_MIN.unsigned_abs());
/// Flags of the simulated cloud: it is quick, and fails now and then.
const SIMULATOR_FLAGS: [&str; 14] = [
    "--boot",
    "1s",
    "--stop",
    "1s",
    "--fault-rate",
    "unavailable=2%",
    "--fault-rate",
    "create:not-enough-resources after 1s=3%",
    "--fault-rate",
    "create:lose-answer by error=5%",
    "--fault-rate",
    "stop:slow by 2s=10%",
    "--fault-rate",
    "power-off=50%",
];

/// Why there is no live market.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A built-in name is no id: a fault of ours.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A built-in name is no pool: a fault of ours.
    #[error(transparent)]
    Pool(#[from] PoolNameError),
    /// A built-in price is none: a fault of ours.
    #[error(transparent)]
    Price(#[from] MoneyError),
    /// Built-in reserve prices are none: a fault of ours.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The cell refused or failed.
    #[error(transparent)]
    Cell(#[from] CellError),
}

impl From<LiveError> for Failure {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::Cell(error) => error.into(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// How it is run.
pub struct Live {
    /// From which all that is drawn follows.
    pub seed: u64,
    /// Where units run.
    pub cloud: Cloud,
    /// After how long it ends; never where absent.
    pub ends_after: Option<Duration>,
    /// Told when it has ended.
    pub over: oneshot::Sender<()>,
}

/// What a simulated cloud is started with, to have the pools' GPUs.
pub fn simulator_flags(seed: u64) -> Vec<String> {
    let seed = ["--seed".to_owned(), seed.to_string(), "--region".to_owned(), REGION.to_owned()];
    let places = POOLS.iter().flat_map(|(platform, fabric, gpus, _)| {
        ["--capacity".to_owned(), format!("{platform}/{fabric}={gpus}")]
    });
    seed.into_iter().chain(places).chain(SIMULATOR_FLAGS.iter().map(ToString::to_string)).collect()
}

/// Runs the market until it is told to stop, or its time is over: then all bids are taken back, and it waits
/// until nothing runs any more.
pub async fn run(cell: CellHandle, mut stopped: watch::Receiver<bool>, live: Live) -> Result<(), Failure> {
    let mut nodes = Nodes::new(live.seed, live.cloud)?;
    let mut bidders = Bidders::new(live.seed)?;
    open_pools(&cell).await?;
    bidders.turn(&cell).await?;
    // What was bid so far need not wait for the market's next tick.
    bidders::allowed(&cell, MarketCommand::Clear { trigger: Trigger::Asked }).await?;
    let mut news = News::default();
    let (mut turns, mut looks) = (interval(TURN_EVERY), interval(LOOK_EVERY));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let over = async {
        match live.ends_after {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            _ = stopped.changed() => return Ok(()),
            _ = turns.tick() => bidders.turn(&cell).await?,
            _ = looks.tick() => {
                nodes.look(&cell).await?;
                news.tell(&cell).await?;
            }
        }
    }
    bidders.cancel_all(&cell).await?;
    let patience = Instant::now() + WIND_DOWN_MAX;
    while Instant::now() < patience && cell.read(|state| state.market().lives().next().is_some()).await? {
        tokio::select! {
            _ = stopped.changed() => return Ok(()),
            _ = looks.tick() => nodes.look(&cell).await?,
        }
    }
    nodes.flush(&cell).await?;
    let _ticked = cell.submit(Command::Tick).await?;
    let _told = live.over.send(());
    Ok(())
}

async fn open_pools(cell: &CellHandle) -> Result<(), LiveError> {
    for (platform, fabric, gpus, reserve) in POOLS {
        let points = vec![Point { utilisation: Percent::ZERO, price: Price::parse(reserve)? }];
        let policy = ReservePolicy::new(ReserveDraft { shape: Shape::Steps, points })?;
        let terms = PoolTerms { driven: true, ..PoolTerms::new(Currency::USD, gpus, policy) };
        let pool = format!("{REGION}/{platform}/{fabric}").parse()?;
        let _set = cell.submit(Command::from(MarketCommand::SetPool { pool, terms })).await?;
    }
    Ok(())
}
