//! What spot GPU-hours cost now, and what is set for later.

use std::collections::BTreeSet;

use hourglass_ledger::core::State;
use hourglass_pricing::{PurchaseModel, Sku, SpotPrices};
use hourglass_units::{Currency, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A step of a spot pool's price: the one that holds, or one that will.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SpotPrice)]
pub struct SpotRow {
    /// On which platform.
    pub platform: String,
    /// In which region.
    pub region: String,
    /// In which fabric; absent in the pool that is all of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// Of the price, ISO 4217.
    pub currency: String,
    /// Per GPU-hour, a decimal.
    pub price: String,
    /// Since when, or from when on, RFC 3339. It holds until the next step.
    #[schema(format = DateTime)]
    pub from: String,
}

/// The steps of all pools that hold now or later, by currency, platform and time. A pool whose price
/// nobody set costs what the list says, and is not here.
pub fn spot_prices(state: &State) -> Vec<SpotRow> {
    // A pool has a list price before it has one of its own.
    let mut pools: BTreeSet<(Currency, &Sku)> = BTreeSet::new();
    for card in state.prices().cards() {
        let spot = card.prices().keys().filter(|sku| sku.model == PurchaseModel::Spot);
        pools.extend(spot.map(|sku| (card.currency(), sku)));
    }
    let mut rows = Vec::new();
    for (currency, sku) in pools {
        for (pool, prices) in state.prices().spots(currency, sku) {
            rows.extend(steps_from(prices, state.now()).into_iter().map(|(from, price)| SpotRow {
                platform: sku.platform.to_string(),
                region: sku.region.to_string(),
                fabric: pool.fabric.as_ref().map(ToString::to_string),
                currency: currency.to_string(),
                price: price.to_string(),
                from: from.to_string(),
            }));
        }
    }
    rows
}

/// The step that holds at an instant, and all later ones.
fn steps_from(prices: &SpotPrices, now: Instant) -> Vec<(Instant, Price)> {
    match prices.last() {
        // Nearly always: nothing is set for later.
        Some(last) if last.0 <= now => vec![last],
        _ => {
            let all = Interval::between(INSTANT_MIN, INSTANT_MAX);
            let steps = all.into_iter().flat_map(|all| prices.within(all));
            steps.filter(|(held, _)| held.end() > now).map(|(held, price)| (held.start(), price)).collect()
        }
    }
}
