//! From rated GPU-hours to what a tenant owes: one pure function, whoever asks.
//!
//! [`settle`] turns quantities at unit prices, and the tenant's rules, into [`Item`]s. Accrual posts
//! the difference between the items and what the book holds; an invoice, a preview and an estimate
//! are the difference to what invoices hold. So the order in which usage comes to be known cannot
//! matter (M-1), and every surface shows the same numbers.
//!
//! The steps are those of [`crate::terms`], each within one period:
//!
//! * GPU-hours are taken by unit price, the dearest first, then by charge group, then by segment.
//! * The commitment takes what allowances and tiers left, by final price, the dearest first. The piece
//!   that no longer fits is split at a whole nano-GPU-hour; it and all that follows in the period pay
//!   the overage rate. Free hours draw nothing and are never beyond. What is left of less than a
//!   nano-GPU-hour is never drawn, so that the true-up makes up for it: drawn + true-up = commitment.
//! * The minimum looks at usage and fees of its period, and the true-up at what was drawn. Neither
//!   looks at the other, so a tenant may owe both.
//! * Credits pay items in order of time: segment by segment of the period, and in each segment by
//!   priority, then earliest expiry, then the order of their grant. Minimum and true-up are due at the
//!   last instant of their period, after all else.
//!
//! Within a period more usage never costs less, whatever the allowances and tiers, and under a
//! commitment for everything whose overage rate is at least 100 percent. Else there are exceptions, all
//! of them stated here. A minimum beside a commitment: usage fills up both. A commitment for a part
//! of what a tier table counts: other usage can push its part into a cheaper tier. And from period to
//! period what is left of a commitment can shift by less than a nano-GPU-hour, and with it what is
//! beyond.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use hourglass_units::{Amount, Interval, Month, Platform, Price, ProjectId, Quantity};
use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;
use crate::card::Sku;
use crate::terms::{Commitment, Terms};
use crate::timeline::CardVersion;

mod credits;
mod pieces;

use credits::Wallet;
use pieces::Piece;
pub(crate) use pieces::price_in;

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

impl Source {
    /// Whether it bears on what is owed: all but the memo of the commitment do. A credit lowers it.
    pub fn is_owed(&self) -> bool {
        !matches!(self, Self::Drawdown)
    }
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
    /// When periods end, which is when minimums and true-ups are due.
    pub calendar: &'a Calendar,
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
/// Items of nothing (no quantity and no amount) are left out. The order of `usage` and `fees` does not
/// matter. Scopes of allowances, and of tier tables, must not overlap, which
/// [`crate::Contract::check`] has seen to: were there two, the first would hold. A quantity below
/// zero is out of range.
pub fn settle(
    account: &Account<'_>,
    usage: &[Rated<'_>],
    fees: &[Fee],
) -> Result<BTreeMap<ItemKey, Item>, OutOfRange> {
    let mut usage: Vec<&Rated<'_>> = usage.iter().filter(|it| !it.quantity.is_zero()).collect();
    if usage.iter().any(|it| it.quantity < Quantity::ZERO) {
        return Err(OutOfRange);
    }
    usage.sort_unstable_by_key(|it| (it.period, Reverse(it.price), it.group, it.segment));
    let mut fees: Vec<&Fee> = fees.iter().collect();
    fees.sort_unstable_by_key(|it| (it.period, it.reservation, it.segment));

    let mut items = Items::default();
    let mut commitments = Commitments::new(account);
    let mut wallet = Wallet::new(account)?;
    for period in periods(account, &usage, &fees) {
        let agreement = account.agreements.iter().find(|it| it.holds_in(period));
        let usage = of_period(&usage, period, |it| it.period);
        let fees = of_period(&fees, period, |it| it.period);
        let mut pieces = pieces::cut(usage, agreement.map(|it| it.terms))?;
        if let Some(agreement) = agreement {
            let drawn = commitments.draw(agreement, usage, &mut pieces)?;
            items.add(period, Source::Drawdown, Quantity::ZERO, drawn)?;
        }
        let mut spent = Amount::ZERO;
        for piece in &pieces {
            let amount = piece.amount();
            items.add(period, piece.source(), piece.quantity, amount)?;
            spent = spent.checked_add(amount).ok_or(OutOfRange)?;
        }
        for fee in fees {
            items.add(period, Source::Fee { reservation: fee.reservation }, fee.quantity, fee.amount)?;
            spent = spent.checked_add(fee.amount).ok_or(OutOfRange)?;
        }
        let mut due = [None, None];
        if account.is_over(period)
            && let Some(agreement) = agreement
        {
            due = [
                lacking(agreement.terms.minimum, spent)?.map(|lack| (Source::Minimum, lack)),
                commitments.true_up(agreement, period)?.map(|lack| (Source::TrueUp, lack)),
            ];
        }
        for (source, lack) in due.iter().flatten() {
            items.add(period, *source, Quantity::ZERO, *lack)?;
        }
        let due = due.iter().flatten().map(|(_, lack)| *lack);
        for (grant, drawn) in wallet.pay(account.calendar.interval(period), usage, &pieces, fees, due)? {
            items.add(period, Source::Credit { grant }, Quantity::ZERO, drawn)?;
        }
    }
    Ok(items.0)
}

/// What items come to: Σ owed less Σ paid by credit. `None` out of range.
pub fn owed<'a>(items: impl IntoIterator<Item = (&'a ItemKey, &'a Item)>) -> Option<Amount> {
    items.into_iter().try_fold(Amount::ZERO, |sum, (key, item)| match key.source {
        Source::Drawdown => Some(sum),
        Source::Credit { .. } => sum.checked_sub(item.amount),
        Source::Usage { .. } | Source::Fee { .. } | Source::Minimum | Source::TrueUp => {
            sum.checked_add(item.amount)
        }
    })
}

impl Agreement<'_> {
    /// Whether its rules hold in the period.
    pub fn holds_in(&self, period: Month) -> bool {
        self.first <= period && self.last.is_none_or(|last| period <= last)
    }
}

impl Account<'_> {
    /// Whether minimum and true-up of the period are due now, and were not settled before.
    fn is_over(&self, period: Month) -> bool {
        self.from <= period && self.over.is_some_and(|over| period <= over)
    }
}

/// The periods in which anything can be owed, in order: those with usage or fees, and those that are
/// over under a minimum or at the end of a commitment.
fn periods(account: &Account<'_>, usage: &[&Rated<'_>], fees: &[&Fee]) -> Vec<Month> {
    let mut periods: Vec<Month> = usage.iter().map(|it| it.period).collect();
    periods.dedup();
    periods.extend(fees.iter().map(|it| it.period));
    for agreement in account.agreements {
        let Some(over) = account.over else { break };
        let last = agreement.last.unwrap_or(over);
        if agreement.terms.minimum.is_some() {
            let mut period = agreement.first.max(account.from);
            while period <= last.min(over) {
                periods.push(period);
                period = period.next();
            }
        }
        if agreement.terms.commitment.is_some() && agreement.last.is_some_and(|last| account.is_over(last)) {
            periods.push(last);
        }
    }
    periods.sort_unstable();
    periods.dedup();
    periods
}

/// The part of what is sorted by period that lies in one.
fn of_period<T>(sorted: &[T], period: Month, of: impl Fn(&T) -> Month) -> &[T] {
    let first = sorted.partition_point(|it| of(it) < period);
    let behind = sorted.partition_point(|it| of(it) <= period);
    sorted.get(first..behind).unwrap_or_default()
}

/// What the sum lacks to the least that is owed.
fn lacking(least: Option<Amount>, sum: Amount) -> Result<Option<Amount>, OutOfRange> {
    let Some(least) = least else { return Ok(None) };
    let lack = least.checked_sub(sum).ok_or(OutOfRange)?;
    Ok((lack > Amount::ZERO).then_some(lack))
}

#[derive(Default)]
struct Items(BTreeMap<ItemKey, Item>);

impl Items {
    fn add(
        &mut self,
        period: Month,
        source: Source,
        quantity: Quantity,
        amount: Amount,
    ) -> Result<(), OutOfRange> {
        if quantity.is_zero() && amount.is_zero() {
            return Ok(());
        }
        let item = self.0.entry(ItemKey { period, source }).or_default();
        item.quantity = item.quantity.checked_add(quantity).ok_or(OutOfRange)?;
        item.amount = item.amount.checked_add(amount).ok_or(OutOfRange)?;
        Ok(())
    }
}

/// How far each commitment is drawn down, by the first period of its agreement.
struct Commitments(BTreeMap<Month, Amount>);

impl Commitments {
    fn new(account: &Account<'_>) -> Self {
        Self(account.carried.drawn_down.clone())
    }

    /// What is left of the commitment.
    fn left(&self, agreement: &Agreement<'_>, commitment: &Commitment) -> Result<Amount, OutOfRange> {
        let drawn = self.0.get(&agreement.first).copied().unwrap_or_default();
        Ok(commitment.amount.checked_sub(drawn).ok_or(OutOfRange)?.max(Amount::ZERO))
    }

    /// Step 4: the pieces draw the commitment down; what is beyond pays the overage rate.
    fn draw(
        &mut self,
        agreement: &Agreement<'_>,
        usage: &[&Rated<'_>],
        pieces: &mut Vec<Piece>,
    ) -> Result<Amount, OutOfRange> {
        let Some(commitment) = &agreement.terms.commitment else { return Ok(Amount::ZERO) };
        let left = self.left(agreement, commitment)?;
        let drawn = pieces::draw(usage, pieces, commitment, left)?;
        let sum = self.0.entry(agreement.first).or_default();
        *sum = sum.checked_add(drawn).ok_or(OutOfRange)?;
        Ok(drawn)
    }

    /// Step 6: what the commitment lacks, in the last period of its agreement.
    fn true_up(&self, agreement: &Agreement<'_>, period: Month) -> Result<Option<Amount>, OutOfRange> {
        let Some(commitment) = agreement.terms.commitment.as_ref().filter(|_| agreement.last == Some(period))
        else {
            return Ok(None);
        };
        let left = self.left(agreement, commitment)?;
        Ok((left > Amount::ZERO).then_some(left))
    }
}
