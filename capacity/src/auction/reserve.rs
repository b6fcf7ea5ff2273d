//! Reserve prices as a public table of utilisation.
//!
//! Utilisation is the share of a pool that is reserved or used on demand. Spot does not count: else the
//! reserve price would follow the outcome that it led to, and clearing again would not be the same.

use hourglass_units::{Percent, Price};
use serde::{Deserialize, Serialize};

use super::rank::{nanos, price};

/// Most points of a table.
pub const RESERVE_POINTS_MAX: usize = 64;

/// How prices go from one point to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// The price of a point holds until the next one.
    Steps,
    /// In a straight line, rounded down to a nano.
    Lines,
}

/// A price from some utilisation on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Of the pool without spot.
    pub utilisation: Percent,
    /// The reserve price there.
    pub price: Price,
}

/// What a policy is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveDraft {
    /// How prices go from one point to the next.
    pub shape: Shape,
    /// The lowest utilisation first.
    pub points: Vec<Point>,
}

/// A table that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// No points, or more than [`RESERVE_POINTS_MAX`].
    #[error("the reserve prices have {count} points: give 1 to {RESERVE_POINTS_MAX}")]
    Count {
        /// So many.
        count: usize,
    },
    /// The first point leaves a gap.
    #[error("the reserve prices begin at {begin} %: begin at 0, so that every utilisation has one")]
    Begin {
        /// Where they begin.
        begin: Percent,
    },
    /// A point that is not above the one before it, or above the whole.
    #[error(
        "a reserve price at {utilisation} % follows one at {before} %: give points upwards, to 100 at most"
    )]
    Order {
        /// Of the later point.
        utilisation: Percent,
        /// Of the one before.
        before: Percent,
    },
    /// A price that falls.
    #[error(
        "the reserve price falls from {before} to {price} at {utilisation} %: it may only rise with utilisation"
    )]
    Falls {
        /// Where.
        utilisation: Percent,
        /// To what.
        price: Price,
        /// From what.
        before: Price,
    },
}

/// A checked [`ReserveDraft`]: every utilisation has a price, and a higher one no lower price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ReserveDraft")]
pub struct ReservePolicy(ReserveDraft);

impl TryFrom<ReserveDraft> for ReservePolicy {
    type Error = ReserveError;

    fn try_from(draft: ReserveDraft) -> Result<Self, ReserveError> {
        Self::new(draft)
    }
}

impl ReservePolicy {
    /// Checks a draft.
    pub fn new(draft: ReserveDraft) -> Result<Self, ReserveError> {
        let count = draft.points.len();
        let first = draft.points.first().filter(|_| count <= RESERVE_POINTS_MAX);
        let mut before = *first.ok_or(ReserveError::Count { count })?;
        if before.utilisation != Percent::ZERO {
            return Err(ReserveError::Begin { begin: before.utilisation });
        }
        for Point { utilisation, price } in draft.points.iter().skip(1).copied() {
            if utilisation <= before.utilisation || utilisation > Percent::WHOLE {
                return Err(ReserveError::Order { utilisation, before: before.utilisation });
            }
            if price < before.price {
                return Err(ReserveError::Falls { utilisation, price, before: before.price });
            }
            before = Point { utilisation, price };
        }
        Ok(Self(draft))
    }

    /// The reserve price at a utilisation.
    pub fn price_at(&self, utilisation: Percent) -> Price {
        let points = &self.0.points;
        let above = points.partition_point(|point| point.utilisation <= utilisation);
        // The first point is at zero, so there is always one below.
        let below = above.checked_sub(1).and_then(|at| points.get(at));
        match (below, points.get(above), self.0.shape) {
            (Some(below), Some(above), Shape::Lines) => between(*below, *above, utilisation),
            (Some(below), ..) => below.price,
            (None, ..) => Price::ZERO,
        }
    }
}

fn between(below: Point, above: Point, utilisation: Percent) -> Price {
    let distance = |to: Percent| u128::from(to.ppm().saturating_sub(below.utilisation.ppm()));
    let rise = nanos(above.price).saturating_sub(nanos(below.price));
    let part =
        rise.saturating_mul(distance(utilisation)).checked_div(distance(above.utilisation)).unwrap_or(0);
    price(nanos(below.price).saturating_add(part)).unwrap_or(above.price)
}

/// The share of so many GPUs that is reserved or used on demand, rounded down. A pool without GPUs is used
/// up.
pub fn utilisation(used: u64, capacity: u64) -> Percent {
    let whole = u128::from(Percent::WHOLE.ppm());
    let ppm = u128::from(used).saturating_mul(whole).checked_div(u128::from(capacity)).unwrap_or(whole);
    u32::try_from(ppm.min(whole)).ok().and_then(|ppm| Percent::from_ppm(ppm).ok()).unwrap_or(Percent::WHOLE)
}
