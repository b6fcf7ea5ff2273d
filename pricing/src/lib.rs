//! What things cost: rate cards, contracts, rating, and the arithmetic of invoices.
//!
//! Pure functions and plain data. Nothing here knows an instance, a log or a clock; the ledger's
//! core brings the milliseconds and this crate says which price they have.
//!
//! * [`RateCard`] and [`Contract`] are checked whole when they are made ([`RateCard::check`]): for
//!   each SKU its prices tile the time that the card speaks for, without a gap or an overlap.
//! * [`PriceBook`] holds every version. Nothing is ever edited: a new version takes over from its
//!   effective date on, and a change that would reach into the past is refused.
//! * [`PriceTimeline`] is what rating works on: who a tenant is and what it signed is resolved into
//!   one list of steps before the first millisecond is rated.
//! * [`rating::cuts`] cuts a piece of coverage by price and by UTC hour, so that each cut belongs to
//!   exactly one line.
//! * [`invoice::apportion`] rounds an invoice's lines so that they sum to the rounded exact total.
//!
//! # Invariants
//!
//! * **P-1** every billed millisecond has exactly one price: [`rating::cuts`] is a partition.
//! * **I-1** Σ lines = total, and total = round(exact Σ), with no tolerance.

mod book;
pub mod calendar;
mod card;
mod contract;
pub mod invoice;
pub mod rating;
pub mod reservation;
pub mod scope;
pub mod settle;
mod spot;
pub mod tax;
pub mod terms;
mod timeline;

pub use book::{PriceBook, PriceBookError, Rerating};
pub use card::{
    CARD_PRICES_MAX, COMPONENT_NAME_LENGTH_MAX, COMPONENTS_MAX, CardError, Component, PriceDraft,
    PurchaseModel, RateCard, RateCardDraft, Sku, UnknownModel,
};
pub use contract::{Contract, ContractDraft, check_periods};
pub use spot::SpotPrices;
pub use timeline::{CardVersion, Components, PriceStep, PriceTimeline};
