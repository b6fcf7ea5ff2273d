//! From rated GPU-hours to what a tenant owes: one pure function, whoever asks.
//!
//! [`settle`] turns quantities at unit prices, and the tenant's rules, into [`Item`]s. Accrual posts
//! the difference between the items and what the book holds; an invoice, a preview and an estimate
//! are the difference to what invoices hold. So the order in which usage comes to be known cannot
//! matter (M-1), and every surface shows the same numbers.
//!
//! Credits pay items in order of time: segment by segment of the period, and in each segment by
//! priority, then earliest expiry, then the order of their grant.

use std::collections::BTreeMap;

use hourglass_units::{Amount, Interval, Month, Platform, Price, ProjectId, Quantity};
use serde::{Deserialize, Serialize};

use crate::card::Sku;
use crate::terms::Terms;
use crate::timeline::CardVersion;

/// GPU-hours of one kind at one unit price: the sum of all lines of a charge group within a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rated<'a> {
    /// The charge group, by an index that is the caller's.
    pub group: u32,
    /// Its project.
    pub project: &'a ProjectId,
    /// What it is.
    pub sku: &'a Sku,
    /// In which billing period.
    pub period: Month,
    /// Since when in the period: no credit begins or ends within a segment.
    pub segment: Interval,
    /// Step 1 of [`crate::terms`].
    pub price: Price,
    /// Never negative: a sum, not a difference.
    pub quantity: Quantity,
}

/// What a reservation costs in a period, whether used or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fee {
    /// Which, by an index that is the caller's.
    pub reservation: u32,
    /// In which billing period.
    pub period: Month,
    /// The segment with which credits pay it.
    pub segment: Interval,
    /// GPU-hours.
    pub quantity: Quantity,
    /// What they cost.
    pub amount: Amount,
}

/// Credit that can pay for items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// Which, by an index that is the caller's and follows the order of the grants.
    pub grant: u32,
    /// Lower ones are drawn first.
    pub priority: u32,
    /// Pays for usage of this time. A segment lies within it or outside of it.
    pub valid: Interval,
    /// Pays only for usage of this project.
    pub project: Option<ProjectId>,
    /// Pays only for usage on this platform.
    pub platform: Option<Platform>,
    /// All that it can pay for, over all periods.
    pub available: Amount,
}

/// The rules that hold over some billing periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement<'a> {
    /// The first period.
    pub first: Month,
    /// The last period; `None` while it is open.
    pub last: Option<Month>,
    /// Whose rules they are.
    pub source: &'a CardVersion,
    /// The rules.
    pub terms: &'a Terms,
}

/// What happened in periods before the first one that is settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried {
    /// Of each commitment, by the first period of its agreement: what was drawn from it.
    pub drawn_down: BTreeMap<Month, Amount>,
    /// Of each grant: what was drawn from it.
    pub credits_drawn: BTreeMap<u32, Amount>,
}

/// Which of the rules a GPU-hour ended up under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Step {
    /// Free under this allowance, counted from 1; 0 for none.
    pub allowance: u8,
    /// In this tier of its table, counted from 1; 0 for none.
    pub tier: u8,
    /// Beyond the commitment.
    pub overage: bool,
}

/// Where an item comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// GPU-hours of a charge group at the price that all steps together gave.
    Usage {
        /// The charge group.
        group: u32,
        /// What a GPU-hour of it costs in the end. U-1: price × quantity = amount.
        price: Price,
        /// By which rules.
        step: Step,
    },
    /// What a reservation costs.
    Fee {
        /// Which.
        reservation: u32,
    },
    /// What usage drew from the commitment. Owed by nobody: it says how far the commitment is.
    Drawdown,
    /// What the period lacks to its minimum.
    Minimum,
    /// What the commitment lacks at the end of its term.
    TrueUp,
    /// What credit paid. The amount is what was drawn, not below zero.
    Credit {
        /// By which grant.
        grant: u32,
    },
}

/// Names an item: items of one key are one sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey {
    /// In which billing period.
    pub period: Month,
    /// From what.
    pub source: Source,
}

/// A sum that is owed, or paid by credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Item {
    /// GPU-hours, where there are any.
    pub quantity: Quantity,
    /// How much.
    pub amount: Amount,
}

/// What is settled.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// In order of time, without an overlap.
    pub agreements: &'a [Agreement<'a>],
    /// In the order of their grants.
    pub credits: &'a [Credit],
    /// What came before the first period of the usage and fees.
    pub carried: &'a Carried,
    /// Periods up to this one are over: minimums and true-ups are due. `None` where none is.
    pub over: Option<Month>,
    /// The period of the first usage or fee that can be given: minimums and true-ups of earlier ones
    /// are settled already.
    pub from: Month,
}

/// A sum left the range of [`Amount`] or [`Quantity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amounts are too large to add up")]
pub struct OutOfRange;

/// Settles some periods of a tenant, all from `account.from` on.
///
/// Items of nothing (no quantity and no amount) are left out.
pub fn settle(
    _account: &Account<'_>,
    _usage: &[Rated<'_>],
    _fees: &[Fee],
) -> Result<BTreeMap<ItemKey, Item>, OutOfRange> {
    Ok(BTreeMap::new())
}
