//! The price feed: what clearings changed, told to whoever watches, under one sequence.
//!
//! One [`PriceHub`] a process reads the log, woken by the commit of a clearing, and keeps the last
//! [`RING_CLEARINGS_MAX`] clearings. Every stream of that process, by HTTP or gRPC, goes down that list at its
//! own pace; a tick is written out once for all of them.
//!
//! # What it guarantees
//!
//! * A stream has no gap and no repeat: it is the list of clearings behind a sequence, whichever process
//!   tells it. The sequence is the epoch and the position of the clearing in the log.
//! * A stream costs the hub nothing but its place in the list. Who falls more than [`LAG_CLEARINGS_MAX`] clearings
//!   behind is told so and let go, and goes on from its sequence when it comes back.
//! * What clearings say of the past of a pool, beside its prices, is read once and kept in a [`History`].
//! * What is older than the list is read from the log, by so many streams at once ([`REPLAYS_MAX`]) that live
//!   streams do not feel it.

mod candles;
mod depth;
mod frame;
mod history;
mod hub;
mod interruptions;
mod limits;
mod replay;
mod ring;
mod watcher;

pub use candles::Step;
pub(crate) use candles::{Candle, candles};
pub use depth::DEPTH_LEVELS_MAX;
pub(crate) use depth::{Level, depth};
pub(crate) use frame::{PoolTick, PriceSnapshot, Sequence, Told, bye, heartbeat, resync, retry_ms};
pub(crate) use history::CATCH_UP_CLEARINGS_MAX;
pub use history::{HISTORY_LIVES_MAX, HISTORY_POINTS_MAX, History};
pub use hub::PriceHub;
pub(crate) use interruptions::{HORIZONS, LEVELS_FROM_PERCENT, LevelChances, Score, rounded};
pub(crate) use limits::{Full, StreamSlot};
pub(crate) use watcher::{Item, Leave, NoSuch, Wanted, Watcher};

use std::time::Duration;

/// After so long every stream is told the last sequence again, so that a silent one is known to live.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Clearings that the hub keeps.
pub const RING_CLEARINGS_MAX: usize = 1_024;
/// Bytes of clearings that the hub reads when it starts: the list is shorter where they are long.
pub const RING_FILL_BYTES_MAX: usize = 128 << 20;
/// A stream that is so many clearings behind is let go.
pub const LAG_CLEARINGS_MAX: usize = 256;
/// Streams that read the log at once.
pub const REPLAYS_MAX: usize = 4;
/// Over HTTP, clearings that are older are not told again one by one: the history has them.
pub const REPLAY_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Most streams over HTTP at once.
pub const STREAMS_MAX: usize = 16_384;
/// Most streams of one credential other than the operator's.
pub const STREAMS_PER_PRINCIPAL_MAX: usize = 256;
/// Most streams of one address without a credential.
pub const STREAMS_PER_ADDRESS_MAX: usize = 32;
