//! FOCUS, the FinOps Open Cost and Usage Specification: what every tool of cloud finance reads.
//!
//! Source: the specification at version 1.2, <https://focus.finops.org/focus-specification/v1-2/>.
//!
//! One row says what a resource cost in an hour, or what an invoice holds beside usage. Rows come from
//! what the ledger derives, as of one position of the log:
//!
//! | from | rows |
//! |---|---|
//! | charges, and lines that no row holds yet | usage on demand, of spot, and out of reservations |
//! | unused hours | what was reserved and not used |
//! | lines of invoices, and of the invoices to come | purchases, minimums, true-ups, credit, tax, rounding |
//! | the difference between both | what allowances, tiers and commitments made of usage |
//!
//! # What it guarantees
//!
//! * For each document (an invoice, a credit note, or the invoice to come): Σ `BilledCost` without tax and
//!   rounding is its exact total, to the last digit; with them it is what is due.
//! * Price × quantity is the cost, to the last digit, wherever there are both.
//! * Of each reservation that is over: Σ `EffectiveCost` of what was used and not is Σ `BilledCost` of
//!   what was bought.
//! * Every row stands in exactly one billing period: that of its document.
//!
//! Rows are read in pages and written as they come. What is kept is as large as the state, not as the
//! rows.

mod check;
mod columns;
mod documents;
mod export;
mod groups;
mod lines;
mod runs;
mod usage;
mod verify;

pub use check::{Checker, FINDINGS_MAX, Finding, Findings, InvoiceSums, Sum};
pub use columns::{COST_AND_USAGE, ChargeKind};
pub use export::{AllTotals, Export, FocusError, Progress, Sink, Totals, Wanted};
pub use runs::{Order, ledger_point, write_runs};
pub use verify::{Verified, audit, verify_runs};

/// The data set, in manifests.
pub const DATASET: &str = "focus/cost_and_usage";
/// The version of the specification.
pub const VERSION: &str = "1.2";
/// The name of providers that gave none.
pub const PROVIDER_DEFAULT: &str = "Hourglass";
