//! What a market needs before anybody bids.

use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::market::{BidDraft, MarketCommand, PoolTerms, Trigger};
use hourglass_ledger::core::{Command, Policy};
use hourglass_pricing::{PriceDraft, PurchaseModel, RateCardDraft};
use hourglass_units::{Currency, Instant, Percent, Price, TenantId};

pub(super) const PLATFORM: &str = "gpu-h100-sxm";
pub(super) const REGION: &str = "bench";

/// Who bids.
pub(super) fn tenant() -> TenantId {
    "acme".parse().expect("an id")
}

/// The pool of a fabric.
pub(super) fn pool(fabric: &str) -> PoolName {
    format!("{REGION}/{PLATFORM}/{fabric}").parse().expect("a pool")
}

/// Opens the region, with driven pools of so many GPUs by their fabrics.
pub(super) fn open(at: Instant, pools: &[(String, u64)]) -> Vec<Command> {
    let region = || REGION.parse().expect("a region");
    let price = |model, price| PriceDraft {
        platform: PLATFORM.parse().expect("a platform"),
        region: region(),
        model,
        price: Price::parse(price).expect("a price"),
        from: None,
        until: None,
        components: Vec::new(),
    };
    let card = RateCardDraft {
        name: "list".parse().expect("an id"),
        version: 1,
        currency: Currency::USD,
        effective_from: at,
        prices: vec![price(PurchaseModel::OnDemand, "2.95"), price(PurchaseModel::Spot, "1.25")],
    };
    let set_pool = |(fabric, gpus): &(String, u64)| {
        let point = Point { utilisation: Percent::ZERO, price: Price::parse("0.5").expect("a price") };
        let reserve = ReserveDraft { shape: Shape::Steps, points: vec![point] };
        let policy = ReservePolicy::new(reserve).expect("a policy");
        let terms = PoolTerms { driven: true, ..PoolTerms::new(Currency::USD, *gpus, policy) };
        Command::from(MarketCommand::SetPool { pool: pool(fabric), terms })
    };
    let opening = [
        Command::OpenCell { region: region(), policy: Policy::default() },
        Command::PublishRateCard(card),
        Command::OpenTenant { tenant: tenant(), currency: Currency::USD, display_name: String::new() },
    ];
    opening.into_iter().chain(pools.iter().map(set_pool)).collect()
}

/// A bid for one to so many units in one pool.
pub(super) fn bid(name: &str, fabric: &str, (gpus_per_unit, units): (u32, u32), limit: &str) -> Command {
    let bid = BidDraft {
        bid: name.parse().expect("an id"),
        project: "ml".parse().expect("an id"),
        pools: vec![pool(fabric)],
        gpus_per_unit,
        min_units: 1,
        max_units: units,
        limit: Price::parse(limit).expect("a price"),
        notice_ms: None,
        expires_at: None,
    };
    Command::from(MarketCommand::PlaceBid { tenant: tenant(), bid })
}

/// Clears all pools.
pub(super) fn clear() -> Command {
    Command::from(MarketCommand::Clear { trigger: Trigger::Tick })
}
