//! Who goes first.

use hourglass_units::{Percent, Price};

use super::index::BidIx;

/// One times a limit, in parts per million.
pub(super) const ONCE: u128 = Percent::WHOLE.ppm() as u128;

const RUNS_BIT: u32 = 32;
const KEY_SHIFT: u32 = 33;

/// A place in the walk: the greater one goes first. By key (a limit in parts per million of a nano, with
/// the margin for what runs), then what runs, then the earlier bid.
///
/// All three in one number, so that the walk is sorted by plain integers. A limit is at most
/// 10^15 < 2^50 nanos, the margin at most ten times the whole, together 11 × 10^6 < 2^24 parts: the key has
/// 74 bits, of 95 that are left beside the two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u128);

impl Rank {
    pub(super) fn new(limit: Price, times: u128, runs: bool, bid: BidIx) -> Self {
        let key = nanos(limit).saturating_mul(times);
        let earlier_first = u32::MAX.saturating_sub(bid.0);
        Self((key << KEY_SHIFT) | (u128::from(runs) << RUNS_BIT) | u128::from(earlier_first))
    }

    /// The limit, times what it was multiplied with.
    pub(super) fn key(self) -> u128 {
        self.0 >> KEY_SHIFT
    }

    /// Whether it stands for what runs.
    pub(super) fn runs(self) -> bool {
        self.0 >> RUNS_BIT & 1 == 1
    }

    /// Whose it is.
    pub(super) fn bid(self) -> BidIx {
        let earlier_first = u32::try_from(self.0 & u128::from(u32::MAX)).unwrap_or(u32::MAX);
        BidIx(u32::MAX.saturating_sub(earlier_first))
    }

    /// The least limit with which the bid would go before this place. `None` above every price.
    pub(super) fn least_limit_before(self, times: u128, runs: bool, bid: BidIx) -> Option<Price> {
        let wins_tie = Self::new(Price::ZERO, 0, runs, bid).0 > self.0 & ((1 << KEY_SHIFT) - 1);
        let least_key = if wins_tie { self.key() } else { self.key().saturating_add(1) };
        price(least_key.div_ceil(times))
    }
}

/// The nanos of a price; never below 0.
pub(super) fn nanos(price: Price) -> u128 {
    u128::try_from(price.nanos()).unwrap_or(0)
}

/// The price of so many nanos. `None` above the highest.
pub(super) fn price(nanos: u128) -> Option<Price> {
    i64::try_from(nanos).ok().and_then(|nanos| Price::from_nanos(nanos).ok())
}
