//! Why a card, a contract, a price or a re-rating does not fit what is in force.

use hourglass_units::{Currency, Instant, Interval, Price};

use crate::card::{PurchaseModel, Sku};
use crate::timeline::CardVersion;

/// Why a card or contract that holds together does not fit what is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceBookError {
    /// Versions of a name follow one another.
    #[error("{given} does not follow: the next version of {} is {expected}", .given.name)]
    WrongVersion {
        /// What was given.
        given: CardVersion,
        /// What must come next.
        expected: u32,
    },
    /// It would change the price of time that may be rated already.
    #[error(
        "{card} takes effect at {from}, before {earliest}: time that may be rated already changes price by re-rating only"
    )]
    TakesEffectInThePast {
        /// Which card or contract.
        card: CardVersion,
        /// Its start.
        from: Instant,
        /// The earliest start allowed.
        earliest: Instant,
    },
    /// A version that forgets a SKU would leave a gap.
    #[error("{card} has no price for {sku}, which {} has: from {from} on there would be a gap", .before)]
    ForgetsSku {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// The version before.
        before: CardVersion,
        /// Start of the gap.
        from: Instant,
    },
    /// Two cards, or two contracts of a tenant, price the same SKU at the same time.
    #[error("{card} prices {sku} over {interval}, which {other} prices already: an overlap")]
    OverlapsOther {
        /// Which card or contract.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Where.
        interval: Interval,
        /// The one in force.
        other: CardVersion,
    },
    /// A contract for what no card prices would leave a gap when it ends.
    #[error(
        "{card} prices {sku}, which no {currency} rate card prices at {from}: publish the list price first"
    )]
    NotOnAnyCard {
        /// Which contract.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// The tenant's currency.
        currency: Currency,
        /// Start of the contract.
        from: Instant,
    },
    /// A name is a card of one currency.
    #[error(
        "{card} is in {given}, its earlier versions in {expected}: use another name for another currency"
    )]
    CurrencyChanged {
        /// Which card.
        card: CardVersion,
        /// What was given.
        given: Currency,
        /// What it was.
        expected: Currency,
    },
    /// Two contracts of a tenant have rules of a kind for the same GPU-hours or the same time.
    #[error(
        "{card} and {other} both bring {rule} over {interval}: only versions of one name may follow one another"
    )]
    RulesOverlap {
        /// Which contract.
        card: CardVersion,
        /// What both have.
        rule: &'static str,
        /// Where.
        interval: Interval,
        /// The one in force.
        other: CardVersion,
    },
    /// The version before still counts towards its commitment.
    #[error(
        "{card} takes effect at {from}, within the commitment of {other}, which runs until {until}: start it then"
    )]
    WithinCommitment {
        /// Which contract.
        card: CardVersion,
        /// Its start.
        from: Instant,
        /// The version with the commitment.
        other: CardVersion,
        /// The end of that.
        until: Instant,
    },
    /// Only spot has prices that the market sets.
    #[error("{sku} has no spot price: name a SKU of the model {}", PurchaseModel::Spot)]
    NotSpot {
        /// Which SKU.
        sku: Sku,
    },
    /// A pool whose usage before its first price would have none.
    #[error(
        "{sku} has no {currency} list price at {from}, which holds until the pool has a price: publish one first"
    )]
    PoolWithoutList {
        /// Which SKU.
        sku: Sku,
        /// The currency of the price.
        currency: Currency,
        /// From when the price was to hold.
        from: Instant,
    },
    /// It would change the price of time that may be rated already.
    #[error("the spot price {price} of {sku} is from {from} on: the earliest start allowed is {earliest}")]
    SpotInThePast {
        /// Which SKU.
        sku: Sku,
        /// What was given.
        price: Price,
        /// From when it was to hold.
        from: Instant,
        /// The earliest start allowed.
        earliest: Instant,
    },
    /// A re-rating in a currency that is not the tenant's.
    #[error("{card} is in {given}, the tenant is billed in {expected}: re-rate with a card in that currency")]
    RerateCurrency {
        /// Which card.
        card: CardVersion,
        /// Its currency.
        given: Currency,
        /// The tenant's.
        expected: Currency,
    },
    /// A re-rating of time that is not rated yet.
    #[error(
        "{card} re-rates until {until}, but only time before {latest} may be rated already: publish a version from then on"
    )]
    ReratesTheFuture {
        /// Which card.
        card: CardVersion,
        /// The end of the re-rating.
        until: Instant,
        /// The latest end allowed.
        latest: Instant,
    },
    /// A re-rating of what had no price, or by a card that has none for all of the time.
    #[error(
        "{card} re-rates {sku} over {interval}, where {what}: re-rate only what has a price before and after"
    )]
    RerateGap {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Where.
        interval: Interval,
        /// Which price is missing.
        what: &'static str,
    },
    /// A re-rating of what the market priced.
    #[error("{card} re-rates {sku} after {since}, when its pool sets the price: grant credit instead")]
    ReratesTheMarket {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Since when the pool has a price.
        since: Instant,
    },
}
