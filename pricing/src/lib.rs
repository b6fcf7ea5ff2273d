//! What things cost: rate cards, contracts, rating, and the arithmetic of invoices.
//!
//! Pure functions and plain data. Nothing here knows an instance, a log or a clock; the ledger's
//! core brings the milliseconds and this crate says which price they have.
//!
//! * [`RateCard`] and [`Contract`] are checked whole when they are made ([`RateCard::check`]): for
//!   each SKU its prices tile the time that the card speaks for, without a gap or an overlap, and no
//!   two rules of a contract contradict each other.
//! * [`PriceBook`] holds every version. Nothing is ever edited: a new version takes over from its
//!   effective date on, and a change that would reach into the past is refused. The past changes by a
//!   [`Rerating`] alone.
//! * [`PriceTimeline`] is what rating works on: who a tenant is and what it signed is resolved into
//!   one list of steps before the first millisecond is rated.
//! * [`rating::Tariff`] cuts a piece of coverage by price and by UTC hour, so that each cut belongs to
//!   exactly one line; for spot by the price of the pool, which is never above a bid's limit.
//! * [`settle::settle`] turns the GPU-hours of billing periods, and the rules of [`terms`], into what is
//!   owed: allowances, tiers, commitment, minimum, true-up, and the credits that pay.
//! * [`margin::Margins`] says what one more GPU-hour can add to that, at most.
//! * [`reservation::Reservation`] says what GPUs for a time cost, used or not.
//! * [`calendar::Calendar`] says which instants belong to which billing period.
//! * [`invoice::apportion`] rounds an invoice's lines so that they sum to the rounded exact total, and
//!   [`tax::Tax`] is a share of those.
//!
//! It does not know which usage belongs to which charge group, what an invoice had before, or what is
//! posted: those are differences to what this crate computes, and they are the caller's.
//!
//! # Invariants
//!
//! * **P-1** every billed millisecond has exactly one price: [`rating::Tariff::cuts`] is a partition.
//! * **P-2** used and unused hours of a reservation cost what was paid for it, to the last digit.
//! * **M-1** neither the order of usage nor its cut changes what is owed.
//! * **I-1** Σ lines = total, and total = round(exact Σ), with no tolerance.

mod book;
pub mod calendar;
mod card;
mod contract;
pub mod invoice;
pub mod margin;
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
pub use spot::{SpotPool, SpotPrices};
pub use timeline::{CardVersion, Components, PriceStep, PriceTimeline};
