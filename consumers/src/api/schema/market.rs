//! Reserve prices, and the receipts of clearings.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A price by the share of a pool that is not for spot.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReservePolicy {
    /// How prices go from one point to the next.
    shape: Shape,
    /// The lowest share first, which is 0: 1 to 64 points, whose prices never fall.
    points: Vec<Point>,
}

/// How reserve prices go from one point to the next.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReserveShape)]
pub(crate) enum Shape {
    /// The price of a point holds until the next one.
    Steps,
    /// In a straight line.
    Lines,
}

/// A reserve price from some share on.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReservePoint)]
pub(crate) struct Point {
    /// Of the pool that is not for spot, in percent.
    utilisation: String,
    /// Per GPU-hour, a decimal.
    price: String,
}

/// How a pool decides who wins.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClearingMode {
    /// By a walk down the limits.
    Greedy,
    /// By the largest sum of limits: for small pools.
    Exact,
}

/// A clearing with all that it depended on. Pools and bids go by their place in the book, from 0.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct Receipt {
    /// The number of the rules by which it was cleared.
    rules: u32,
    /// What was cleared.
    book: Book,
    /// What quotas and budgets refused, in the order in which they were asked.
    refused: Vec<Refused>,
    /// What came out.
    clearing: Clearing,
    /// How good that is.
    welfare: Welfare,
}

/// The whole input of a clearing but for quotas and budgets.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptBook)]
pub(crate) struct Book {
    /// In the order of their names.
    pools: Vec<Pool>,
    /// By how much a bid must exceed what runs to displace it, in percent.
    margin: String,
    /// In the order of their numbers.
    bids: Vec<Bid>,
}

/// What a pool offered.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptPool)]
pub(crate) struct Pool {
    /// `REGION/PLATFORM/FABRIC`.
    name: String,
    /// GPUs for spot, those that spot ran on included.
    supply: u64,
    /// The reserve price, a decimal.
    reserve: String,
    /// How it decides.
    mode: ClearingMode,
    /// A gang larger than this part of the supply is refused, in percent.
    gang_max: String,
}

/// A bid, as far as it decides something.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptBid)]
pub(crate) struct Bid {
    /// The log position that placed it.
    number: u64,
    /// Where it may run, the preferred pool first.
    pools: Vec<u16>,
    /// GPUs of a unit.
    gpus_per_unit: u32,
    /// So many units or none.
    min_units: u32,
    /// The most that it wants.
    max_units: u32,
    /// The most that it pays per GPU-hour, a decimal.
    limit: String,
    /// What ran.
    running: Option<Running>,
}

/// What ran of a bid.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptRunning)]
pub(crate) struct Running {
    /// Where.
    pool: u16,
    /// How many units.
    units: u32,
}

/// Something that quota or a budget refused.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptRefused)]
pub(crate) struct Refused {
    /// Which question it answers, from 0.
    question: u32,
    /// For which bid.
    bid: u32,
    /// In which pool.
    pool: u16,
    /// Units that were asked for.
    asked: u32,
    /// Units that were granted.
    granted: u32,
    /// Why not more.
    refusal: Refusal,
}

/// Why not more.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptRefusal)]
pub(crate) enum Refusal {
    /// A limit of GPUs.
    Quota,
    /// A limit of money.
    Budget,
}

/// The outcome, by pool and by bid in the order of the book.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptClearing)]
pub(crate) struct Clearing {
    /// By pool.
    pools: Vec<PoolOutcome>,
    /// By bid.
    bids: Vec<BidOutcome>,
    /// All that stops, each with its one cause.
    preemptions: Vec<Preemption>,
    /// Whose GPUs go to whom.
    handovers: Vec<Handover>,
}

/// What became of a pool.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptPoolOutcome)]
pub(crate) struct PoolOutcome {
    /// What each winner pays per GPU-hour, a decimal.
    price: String,
    /// GPUs that winners have.
    sold: u64,
    /// GPUs that nobody has.
    free: u64,
    /// How it was cleared: `greedily`, `exactly`, or why not exactly.
    cleared: String,
}

/// What became of a bid.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptBidOutcome)]
pub(crate) enum BidOutcome {
    /// It has something.
    Won {
        /// Where.
        pool: u16,
        /// How many units.
        units: u32,
        /// Why not as many as it wants.
        short: Option<Short>,
    },
    /// It has nothing.
    Lost {
        /// Why.
        reason: Reason,
        /// The least limit with which it would have won, a decimal.
        wins_at: Option<String>,
    },
}

/// Why a winner has fewer units than it wants.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptShort)]
pub(crate) enum Short {
    /// No more GPUs were left at its turn.
    Capacity,
    /// No more was allowed.
    Refused(Refusal),
}

/// Why a bid lost.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptReason)]
pub(crate) enum Reason {
    /// There was room, and it was not allowed.
    Refused(Refusal),
    /// Higher limits took the GPUs.
    Outbid,
    /// Not enough GPUs were left for its gang.
    NoRoom,
    /// Its limit is below each reserve price.
    BelowReserve {
        /// The lowest one, a decimal.
        reserve: String,
    },
    /// Its gang is larger than any of its pools allows.
    TooLarge {
        /// The largest gang that one allows, in GPUs.
        gpus_max: u64,
    },
}

/// Units that stop.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptPreemption)]
pub(crate) struct Preemption {
    /// Whose.
    bid: u32,
    /// Where they run.
    pool: u16,
    /// How many.
    units: u32,
    /// Why.
    cause: Cause,
}

/// Why units stop.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptCause)]
pub(crate) enum Cause {
    /// A newcomer took the GPUs.
    Outbid {
        /// The last one that goes before the victim.
        by: u32,
    },
    /// The supply is smaller.
    SupplyReclaimed,
    /// The limit is below the new reserve price.
    ReserveRaised,
    /// A limit of GPUs.
    Quota,
    /// A limit of money.
    Budget,
}

/// GPUs that a victim leaves to a newcomer.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptHandover)]
pub(crate) struct Handover {
    /// Where.
    pool: u16,
    /// The victim.
    from: u32,
    /// The successor.
    to: u32,
    /// How many GPUs.
    gpus: u64,
}

/// What was reached, in billionths of the currency per hour.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReceiptWelfare)]
pub(crate) struct Welfare {
    /// Σ limit × GPUs of all winners.
    reached: u128,
    /// No clearing of this book has more.
    bound: u128,
}

#[cfg(test)]
mod tests {
    use hourglass_capacity::auction::receipt::Receipt as Real;
    use hourglass_capacity::auction::{Book as RealBook, Constraint, Headrooms};
    use serde_json::json;

    use super::*;
    use crate::api::schema::assert_describes;

    #[test]
    fn shapes_are_those_of_the_documents() {
        let policy = json!({"shape": "lines", "points": [{"utilisation": "0", "price": "0.5"}]});
        let real: hourglass_capacity::auction::reserve::ReservePolicy =
            serde_json::from_value(policy).unwrap();
        assert_describes::<ReservePolicy>(&serde_json::to_value(real).unwrap());

        let bid = |number: u64, pools: &[u16], units: [u32; 2], limit: &str, running: serde_json::Value| {
            json!({"number": number, "pools": pools, "gpus_per_unit": 1, "min_units": units[0],
                "max_units": units[1], "limit": limit, "running": running})
        };
        let none = serde_json::Value::Null;
        let pool = |name: &str, supply: u64, mode: &str| json!({"name": name, "supply": supply, "reserve": "0.5", "mode": mode, "gang_max": "50"});
        let book = json!({
            "pools": [pool("eu/h100/a", 8, "greedy"), pool("eu/h100/b", 2, "exact"), pool("eu/h100/c", 1, "greedy")],
            "margin": "10",
            "bids": [
                bid(1, &[0], [1, 6], "1", json!({"pool": 0, "units": 6})),
                bid(2, &[0], [3, 4], "2", none.clone()),
                bid(3, &[1], [1, 2], "0.4", json!({"pool": 1, "units": 2})),
                bid(4, &[0], [6, 6], "3", none.clone()),
                bid(5, &[0], [1, 9], "0.8", none.clone()),
                bid(6, &[0], [2, 2], "2", none.clone()),
                bid(7, &[2], [1, 2], "2", json!({"pool": 2, "units": 2})),
            ],
        });
        let book: RealBook = serde_json::from_value(book).unwrap();
        // The sixth bid has room, and no quota; the second not for all that it wants.
        let refusal = hourglass_capacity::auction::Refusal::Quota;
        let constraints = vec![Constraint { headroom: 1, refusal }, Constraint { headroom: 3, refusal }];
        let by_bid = vec![vec![], vec![(1, 1)], vec![], vec![], vec![], vec![(0, 1)], vec![]];
        let receipt = Real::of(book, &mut Headrooms { constraints, by_bid });
        let document = serde_json::to_value(&receipt).unwrap();
        let text = document.to_string();
        for shown in
            ["won", "outbid", "too_large", "below_reserve", "supply_reclaimed", "refused", "handovers"]
        {
            assert!(text.contains(shown), "{shown} is not in {document:#}");
        }
        assert_describes::<Receipt>(&document);
    }
}

/// What the units of a driven pool are at the provider.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PoolBackend {
    /// Regular instances, in capacity that is ours.
    Regular,
    /// Preemptible ones: the provider takes them back when it needs them.
    Preemptible,
}

/// Who says how many GPUs a pool has.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CapacitySource {
    /// The operator, in the pool's terms.
    Operator,
    /// The provider, by the capacity intervals that are reserved there.
    Intervals,
    /// The provider, by its advice of what could be had at once.
    Advice,
}
