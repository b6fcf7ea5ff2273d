//! Deferred revenue: what was paid ahead, and month by month what is earned of it.
//!
//! What is paid ahead is paid for reservations. Of each it is earned evenly, hour by hour, when a tick posts the hours
//! that are over. Months that are over show what was booked in them; what is still to come is shown as it will be
//! earned. What is left over all reservations is what stands on the deferred accounts, and what the next tick posts.

use std::collections::BTreeMap;

use hourglass_ledger::core::{Account, Held, Position, State, TransferCode};
use hourglass_ledger::store::{Keyed, Reader, TransferFilter};
use hourglass_units::{Amount, Currency, Instant, Month, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Book, ReportError, Table, Tabular, add, limited, subtract};
use crate::billing::report::AsOf;
use crate::finance::span::{Span, each_transfer};

/// The reservations that were paid ahead, as the state holds them.
#[derive(Debug, Clone)]
pub struct PaidAhead {
    book: Book,
    held: BTreeMap<(TenantId, Currency), Vec<Held>>,
}

impl PaidAhead {
    /// Of a state: of one tenant, or of all.
    pub fn of(state: &State, tenant: Option<&TenantId>) -> Self {
        let mut held: BTreeMap<_, Vec<Held>> = BTreeMap::new();
        for it in state.reservations().filter(|it| tenant.is_none_or(|tenant| it.tenant == *tenant)) {
            let Some(account) = state.tenant(&it.tenant).filter(|_| it.is_upfront()) else { continue };
            held.entry((it.tenant.clone(), account.currency)).or_default().push(it.clone());
        }
        Self { book: Book::of(state), held }
    }
}

/// The schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeferredRevenue {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// A reservation and month a row.
    pub rows: Vec<DeferredRow>,
    /// A tenant a row: what is left, beside the book.
    pub totals: Vec<DeferredTotal>,
}

/// A month of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeferredRow {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub reservation: String,
    /// The UTC month, `YYYY-MM`.
    pub month: String,
    /// ISO 4217.
    pub currency: String,
    /// What was left when it began.
    pub opening: String,
    /// What was paid ahead in it.
    pub added: String,
    /// What was earned and booked in it.
    pub booked: String,
    /// What is still to be earned in it.
    pub scheduled: String,
    /// What is left when it ends.
    pub closing: String,
}

/// What is left of a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeferredTotal {
    /// Whose.
    pub tenant: String,
    /// ISO 4217.
    pub currency: String,
    /// What is left by the schedule.
    pub remaining: String,
    /// What of it the next tick posts.
    pub not_posted: String,
    /// What stands on the tenant's deferred account.
    pub book: String,
    /// Remaining less what is not posted and the book: 0, or something is wrong.
    pub difference: String,
}

/// What was booked on a tenant's deferred account.
#[derive(Default)]
struct Booked {
    /// The last release of each month: where and when.
    last: BTreeMap<Month, (Position, Instant)>,
    deferred: Amount,
    released: Amount,
}

impl Booked {
    fn read(
        reader: &dyn Reader,
        tenant: &TenantId,
        currency: Currency,
        until: Position,
    ) -> Result<Self, ReportError> {
        let mut booked = Self::default();
        let account = Some(Account::Deferred(tenant.clone()).to_string());
        let filter = TransferFilter { tenant: Some(tenant.clone()), account };
        each_transfer(reader, &filter, Span::until(until), |Keyed { key, row }| {
            if row.currency != currency {
                return Ok(());
            }
            if row.code == TransferCode::Release {
                booked.last.insert(Month::containing(row.at), (key.position, row.at));
                return add(&mut booked.released, row.amount);
            }
            match row.credit {
                Account::Deferred(_) => add(&mut booked.deferred, row.amount),
                _ => subtract(&mut booked.deferred, row.amount),
            }
        })?;
        Ok(booked)
    }

    /// What of a reservation was earned and booked before a month ended: all that was over at the last release.
    fn earned(&self, held: &Held, month: Month) -> Result<Amount, ReportError> {
        match self.last.range(..=month).next_back() {
            Some((_, (position, at))) if *position > held.position => {
                held.earned(*at).ok_or(ReportError::Overflow)
            }
            _ => Ok(Amount::ZERO),
        }
    }
}

/// Draws the schedule.
pub fn deferred_revenue(reader: &dyn Reader, paid: &PaidAhead) -> Result<DeferredRevenue, ReportError> {
    let book = &paid.book;
    let (mut rows, mut totals) = (Vec::new(), Vec::new());
    for ((tenant, currency), all) in &paid.held {
        let booked = Booked::read(reader, tenant, *currency, book.position)?;
        let (mut remaining, mut bought) = (Amount::ZERO, Amount::ZERO);
        for held in all {
            let (left, paid) = of_reservation(held, &booked, *currency, book.now, &mut rows)?;
            add(&mut remaining, left)?;
            add(&mut bought, paid)?;
        }
        let account = Account::Deferred(tenant.clone());
        let stands = book.balances.get(&(*currency, account)).copied().unwrap_or_default();
        let stands = stands.checked_neg().ok_or(ReportError::Overflow)?;
        let mut not_posted = bought;
        subtract(&mut not_posted, booked.deferred)?;
        let mut difference = remaining;
        subtract(&mut difference, not_posted)?;
        subtract(&mut difference, stands)?;
        totals.push(DeferredTotal {
            tenant: tenant.to_string(),
            currency: currency.to_string(),
            remaining: remaining.to_string(),
            not_posted: not_posted.to_string(),
            book: stands.to_string(),
            difference: difference.to_string(),
        });
    }
    Ok(DeferredRevenue { as_of: book.as_of(), rows: limited(rows)?, totals })
}

/// The months of a reservation; answers with what is left of it, and what was paid for it.
fn of_reservation(
    held: &Held,
    booked: &Booked,
    currency: Currency,
    now: Instant,
    rows: &mut Vec<DeferredRow>,
) -> Result<(Amount, Amount), ReportError> {
    let mut paid = Amount::ZERO;
    let mut first = Month::containing(held.reservation.interval().start());
    for (at, amount) in held.paid_ahead() {
        add(&mut paid, amount)?;
        first = first.min(Month::containing(at));
    }
    let this_month = Month::containing(now);
    // It ends with a full hour, so the last millisecond is before that.
    let end = Month::containing(held.reservation.interval().end().saturating_add_ms(-1));
    let mut last = booked.last.keys().next_back().map_or(end, |month| end.max(*month));
    let mut remaining = paid;
    subtract(&mut remaining, held.released())?;
    // Its time is over and the clock has not ticked since: the next tick earns the rest.
    if !remaining.is_zero() {
        last = last.max(this_month);
    }
    let (mut month, mut opening, mut earned_before) = (first, Amount::ZERO, Amount::ZERO);
    while month <= last {
        let mut added = Amount::ZERO;
        for (_, amount) in held.paid_ahead().filter(|(at, _)| Month::containing(*at) == month) {
            add(&mut added, amount)?;
        }
        let earned = booked.earned(held, month)?;
        let mut booked_now = earned;
        subtract(&mut booked_now, earned_before)?;
        earned_before = earned;
        let mut scheduled = Amount::ZERO;
        if month >= this_month {
            scheduled = held.earned(month.end()).ok_or(ReportError::Overflow)?;
            let before = if month == this_month {
                held.released()
            } else {
                held.earned(month.start()).ok_or(ReportError::Overflow)?.max(held.released())
            };
            subtract(&mut scheduled, before)?;
        }
        let mut closing = opening;
        add(&mut closing, added)?;
        subtract(&mut closing, booked_now)?;
        subtract(&mut closing, scheduled)?;
        if ![opening, added, booked_now, scheduled, closing].iter().all(|it| it.is_zero()) {
            rows.push(DeferredRow {
                tenant: held.tenant.to_string(),
                reservation: held.reservation.draft().reservation.to_string(),
                month: month.to_string(),
                currency: currency.to_string(),
                opening: opening.to_string(),
                added: added.to_string(),
                booked: booked_now.to_string(),
                scheduled: scheduled.to_string(),
                closing: closing.to_string(),
            });
        }
        opening = closing;
        month = month.next();
    }
    Ok((remaining, paid))
}

impl Tabular for DeferredRevenue {
    fn table(&self) -> Table {
        let row = |it: &DeferredRow| {
            let names = [&it.tenant, &it.reservation, &it.month, &it.currency];
            let sums = [&it.opening, &it.added, &it.booked, &it.scheduled, &it.closing];
            names.into_iter().chain(sums).cloned().collect()
        };
        Table {
            head: &[
                "tenant",
                "reservation",
                "month",
                "currency",
                "opening",
                "added",
                "booked",
                "scheduled",
                "closing",
            ],
            numbers: &[4, 5, 6, 7, 8],
            rows: self.rows.iter().map(row).collect(),
        }
    }
}
