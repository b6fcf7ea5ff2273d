//! What is told, and how it is written as server-sent events.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use axum::body::Bytes;
use hourglass_capacity::pool::PoolName;
use hourglass_units::{Currency, Instant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::market::ticks::Tick;

/// A client whose stream ended comes back after so many milliseconds at the earliest, and after twice as many at
/// the latest: not all at once.
const RETRY_MS_MIN: u64 = 1_000;

/// Where in the log a clearing stands, and under which writer. `0.0` is before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sequence {
    pub(crate) epoch: u64,
    pub(crate) position: u64,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.position)
    }
}

impl FromStr for Sequence {
    type Err = ();

    /// Digits alone, as they are written.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, position) = text.split_once('.').ok_or(())?;
        let read = |digits: &str| digits.parse::<u64>().map_err(|_| ());
        let sequence = Self { epoch: read(epoch)?, position: read(position)? };
        if sequence.to_string() == text { Ok(sequence) } else { Err(()) }
    }
}

/// A pool as a clearing left it. All values are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PoolTick {
    /// `REGION/PLATFORM/FABRIC`, as bids name it.
    #[schema(value_type = String)]
    pub(crate) pool: PoolName,
    /// Of its prices, ISO 4217.
    #[schema(value_type = String)]
    pub(crate) currency: Currency,
    /// What all who run there pay per GPU-hour, a decimal.
    pub(crate) price: String,
    /// Nobody pays less: per GPU-hour, a decimal.
    pub(crate) reserve_price: String,
    /// GPUs that bids have.
    pub(crate) sold: u64,
    /// GPUs that nobody has.
    pub(crate) free: u64,
    /// GPUs for spot.
    pub(crate) supply: u64,
    /// Bids that name the pool, at or above its reserve price.
    pub(crate) bids: u64,
    /// GPUs that they want at most.
    pub(crate) gpus_wanted: u64,
}

impl PoolTick {
    pub(crate) fn new(tick: Tick, currency: Currency) -> Self {
        let Tick { pool, price, sold, free, supply, reserve, bids, gpus_wanted } = tick;
        let (price, reserve_price) = (price.to_string(), reserve.to_string());
        Self { pool, currency, price, reserve_price, sold, free, supply, bids, gpus_wanted }
    }
}

/// What one event of the stream holds, and what is read at once.
#[derive(Serialize, ToSchema)]
#[schema(as = PriceSnapshot, example = json!({"epoch": 1, "position": 42, "at": "2026-01-01T02:01:00Z",
    "pools": [{"pool": "eu-north1/gpu-h100-sxm/fabric-2", "currency": "USD", "price": "1.25",
    "reserve_price": "0.5", "sold": 56, "free": 8, "supply": 64, "bids": 11, "gpus_wanted": 72}]}))]
pub(crate) struct PriceSnapshot<'a> {
    /// Of the writer of the log; 0 before the first clearing.
    pub(crate) epoch: u64,
    /// The log position of the clearing: names its receipt; 0 before the first clearing.
    pub(crate) position: u64,
    /// When it was cleared, RFC 3339; absent before the first clearing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) at: Option<String>,
    /// Pools, by name: all in a snapshot, those that changed in a tick.
    #[schema(value_type = Vec<PoolTick>)]
    pub(crate) pools: Vec<&'a PoolTick>,
}

/// A clearing, as far as watchers are told of it: the pools that it changed.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) sequence: Sequence,
    pub(crate) at: Instant,
    /// By name.
    pub(crate) pools: Vec<PoolTick>,
    /// Written out for those who watch all, once.
    all: OnceLock<Bytes>,
    /// For those who watch one, in the order of the pools.
    each: Vec<OnceLock<Bytes>>,
}

impl Told {
    pub(crate) fn new(sequence: Sequence, at: Instant, pools: Vec<PoolTick>) -> Self {
        let each = pools.iter().map(|_| OnceLock::new()).collect();
        Self { sequence, at, pools, all: OnceLock::new(), each }
    }

    /// As an event, for who watches all pools.
    pub(crate) fn of_all(&self) -> Option<Bytes> {
        let write = || self.written("tick", self.pools.iter().collect());
        (!self.pools.is_empty()).then(|| self.all.get_or_init(write).clone())
    }

    /// As an event, for who watches this one pool.
    pub(crate) fn of_pool(&self, pool: &PoolName) -> Option<Bytes> {
        let ix = self.pools.binary_search_by(|it| it.pool.cmp(pool)).ok()?;
        let tick = self.pools.get(ix)?;
        Some(self.each.get(ix)?.get_or_init(|| self.written("tick", vec![tick])).clone())
    }

    /// Its pools as a snapshot.
    pub(crate) fn snapshot<'a>(&'a self, pools: Vec<&'a PoolTick>) -> PriceSnapshot<'a> {
        let Sequence { epoch, position } = self.sequence;
        let at = (position > 0).then(|| self.at.to_string());
        PriceSnapshot { epoch, position, at, pools }
    }

    /// As an event of a kind.
    pub(crate) fn written(&self, event: &str, pools: Vec<&PoolTick>) -> Bytes {
        // Strings and numbers have no value that JSON lacks.
        let data = serde_json::to_string(&self.snapshot(pools)).unwrap_or_default();
        format!("id: {}\nevent: {event}\ndata: {data}\n\n", self.sequence).into()
    }
}

/// Says that the stream lives, and how far it is.
pub(crate) fn heartbeat(sequence: Sequence) -> Bytes {
    let Sequence { epoch, position } = sequence;
    format!("id: {sequence}\nevent: heartbeat\ndata: {{\"epoch\":{epoch},\"position\":{position}}}\n\n")
        .into()
}

/// Says that the stream cannot go on where it was asked to: a snapshot follows.
pub(crate) fn resync(code: &str, detail: &str) -> Bytes {
    let data = serde_json::json!({"code": code, "detail": detail});
    format!("event: resync\ndata: {data}\n\n").into()
}

/// The last event of a stream: why it ends, and when to come back.
pub(crate) fn bye(code: &str, detail: &str, retry_ms: u64) -> Bytes {
    let data = serde_json::json!({"code": code, "detail": detail});
    format!("event: bye\nretry: {retry_ms}\ndata: {data}\n\n").into()
}

/// When the stream of a number comes back: spread, so that not all come at once.
pub(crate) fn retry_ms(stream: u64) -> u64 {
    // A multiplier without a common factor visits all of them.
    RETRY_MS_MIN.saturating_add(stream.wrapping_mul(617) % RETRY_MS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_read_as_it_is_written() {
        for text in ["0.0", "1.42", "18446744073709551615.1"] {
            assert_eq!(text.parse::<Sequence>().map(|it| it.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "1.2.3",
            "01.2",
            "+1.2",
            "1.-2",
            " 1.2",
            "a.b",
            "1.18446744073709551616",
        ] {
            assert_eq!(text.parse::<Sequence>(), Err(()), "{text}");
        }
    }

    #[test]
    fn who_was_let_go_comes_back_at_another_time() {
        let mut times: Vec<u64> = (0..1_000).map(retry_ms).collect();
        times.sort_unstable();
        times.dedup();
        assert_eq!((times.len(), times.first(), times.last()), (1_000, Some(&1_000), Some(&1_999)));
    }
}
