//! The ground floor: types that cannot be wrong.
//!
//! Everything that enters Hourglass is parsed into these types once, at the edge, and is then
//! right by construction: a [`Price`] is never negative, an [`Interval`] never empty, an id never
//! holds a character that a URL or an account name could trip over.
//!
//! | type | is | stored as |
//! |---|---|---|
//! | [`Price`] | nano-currency per GPU-hour (1e-9) | `i64` |
//! | [`Quantity`] | nano-GPU-hours (1e-9 GPU-hour, 3.6 µs of one GPU) | `i64` |
//! | [`Amount`] | [`Price`] × [`Quantity`], atto-currency (1e-18), **exact** | `i128` |
//! | [`Money`] | an [`Amount`] and its [`Currency`] | |
//! | [`Percent`] | a share, exact to a ten-thousandth of a percent | `u32`, parts per million |
//! | [`Instant`] | milliseconds since the Unix epoch, UTC | `i64` |
//! | [`Interval`] | half-open `[start, end)`, never empty | two [`Instant`]s |
//! | [`Coverage`] | a set of milliseconds, as sorted disjoint intervals | |
//! | [`Labels`] | what a customer calls its things: keys and values | |
//! | [`Hour`], [`Month`] | a UTC hour, a UTC calendar month | `i64`, `u32` |
//!
//! **Quantise the quantity, never the product.** A GPU-second is no finite fraction of an hour, so
//! something must round. It happens once, in [`Quantity::of_gpu_milliseconds`], on the total that a
//! line has seen; the product with a price is then exact and so is every sum.
//!
//! # Invariants
//!
//! * **U-1** price × quantity = amount, exactly ([`Price::times`] is total: no rounding, no overflow).
//! * **U-2** adding [`Money`] of different currencies is an error; adding bare [`Amount`]s is for
//!   places that hold one currency by construction.
//!
//! No clock, no randomness, no I/O, no floats.

mod coverage;
mod currency;
mod ids;
mod labels;
mod money;
mod percent;
mod resource;
mod time;

pub use coverage::{Coverage, Pieces};
pub use currency::{Currency, UnknownCurrency};
pub use ids::{
    AgentId, BidId, BudgetId, CloudId, CreditId, Fabric, GroupId, ID_LENGTH_MAX, IdError, InstanceId, NodeId,
    OperationId, Platform, ProjectId, RateCardName, Region, ReservationId, TenantId, WebhookId,
};
pub use labels::{LABEL_LENGTH_MAX, LABELS_MAX, LabelError, Labels, is_label_key};
pub use money::{
    Amount, GPU_MILLISECONDS_MAX, Money, MoneyError, PRICE_FRACTION_DIGITS, PRICE_NANOS_MAX, Price, Quantity,
};
pub use percent::{PERCENT_FRACTION_DIGITS, PERCENT_MAX, Percent, PercentError};
pub use resource::{RESOURCE_NAME_LENGTH_MAX, ResourceName, ResourceNameError, gpu_resource};
pub use time::{HOUR_MILLISECONDS, Hour, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Month, TimeError};
