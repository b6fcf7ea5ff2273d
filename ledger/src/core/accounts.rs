//! What a tenant owes, and what of it the book and the invoices hold.
//!
//! [`items`] asks the pricing crate to settle what was rated. Accrual posts the difference between the
//! items and what the book holds, so whatever changes them (late usage, a stop learnt late, a new
//! price for the past, a credit) ends in the same balances whenever it comes to be known (M-1).
//!
//! Posted are, in this order: what is gained, what is taken back, what credit gets back, and what is
//! drawn from it. So credit is never overdrawn on the way (B-4). One transfer stands for all items
//! with the same accounts and purpose.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::settle::{self, Carried, Item, ItemKey, OutOfRange, Rated, Source, Step, settle};
use hourglass_pricing::{PriceBook, PurchaseModel};
use hourglass_units::{Amount, Currency, INSTANT_MIN, Instant, Month, Price, Quantity, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::book::{Account, Book, TransferCode};
use super::calendars::Calendars;
use super::command::Position;
use super::credits::Grant;
use super::groups::ChargeGroups;
use super::reservations::Reservations;
use super::rows::{Rows, TransferRow};
use super::state::Tenant;

/// What the book and the invoices hold of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Posted {
    pub(crate) accrued: Item,
    pub(crate) accrued_at: Option<Position>,
    pub(crate) invoiced: Item,
}

/// The items of a tenant that the book knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PostedItems {
    all: BTreeMap<ItemKey, Posted>,
    /// Those of which the invoices hold something else than the book.
    uninvoiced: BTreeSet<ItemKey>,
}

/// What settlement looks at: the parts of the state, borrowed apart.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) groups: &'a ChargeGroups,
    pub(crate) prices: &'a PriceBook,
    pub(crate) calendars: &'a Calendars,
    pub(crate) reservations: &'a Reservations,
}

/// How far to settle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    /// The first period; what came before is taken from what is posted.
    pub(crate) from: Month,
    /// Periods up to this one are over.
    pub(crate) over: Option<Month>,
    /// Reservations cost their hours until here.
    pub(crate) elapsed: Instant,
}

impl Reach {
    /// All periods, as things are at an instant.
    pub(crate) fn all(calendars: &Calendars, tenant: &TenantId, now: Instant) -> Self {
        Self::from(Month::containing(INSTANT_MIN), calendars, tenant, now)
    }

    /// The periods from one on, as things are at an instant.
    pub(crate) fn from(from: Month, calendars: &Calendars, tenant: &TenantId, now: Instant) -> Self {
        let over = calendars.of(tenant).containing(now).previous();
        Self { from, over: Some(over), elapsed: now }
    }
}

impl PostedItems {
    pub(crate) fn get(&self, key: &ItemKey) -> Posted {
        self.all.get(key).copied().unwrap_or_default()
    }

    /// The keys of which the invoices hold something else than the book.
    pub(crate) fn uninvoiced(&self) -> impl Iterator<Item = &ItemKey> {
        self.uninvoiced.iter()
    }

    /// All that the book holds.
    #[cfg(test)]
    pub(crate) fn accrued(&self) -> BTreeMap<ItemKey, Item> {
        let accrued = self.all.iter().map(|(key, posted)| (*key, posted.accrued));
        accrued.filter(|(_, item)| *item != Item::default()).collect()
    }

    /// All that invoices hold, quantities and amounts.
    #[cfg(test)]
    pub(crate) fn invoiced(&self) -> BTreeMap<ItemKey, (i64, i128)> {
        let invoiced = self.all.iter().map(|(key, posted)| (*key, posted.invoiced));
        let parts = invoiced.map(|(key, item)| (key, (item.quantity.nanos(), item.amount.attos())));
        parts.filter(|(_, parts)| *parts != (0, 0)).collect()
    }

    /// Changes what is held of an item.
    pub(crate) fn update(&mut self, key: ItemKey, change: impl FnOnce(&mut Posted)) {
        let posted = self.all.entry(key).or_default();
        change(posted);
        if posted.accrued == posted.invoiced {
            self.uninvoiced.remove(&key);
        } else {
            self.uninvoiced.insert(key);
        }
    }

    /// Those from a period on.
    fn since(&self, from: Month) -> impl Iterator<Item = (&ItemKey, &Posted)> {
        self.all.range(first_key(from)..)
    }

    fn before(&self, from: Month) -> impl Iterator<Item = (&ItemKey, &Posted)> {
        self.all.range(..first_key(from))
    }
}

/// The least key of a period.
fn first_key(period: Month) -> ItemKey {
    ItemKey { period, source: Source::Usage { group: 0, price: Price::ZERO, step: Step::default() } }
}

/// Adds what was rated up: the usage of a tenant in periods from one on.
pub(crate) fn rated<'a>(ground: Ground<'a>, tenant: &TenantId, from: Month) -> Vec<Rated<'a>> {
    let groups = ground.groups.of_tenant(tenant);
    let buckets =
        groups.flat_map(|(ix, group)| group.buckets().iter().map(move |bucket| (ix, group, bucket)));
    buckets
        .filter(|(_, _, bucket)| bucket.period >= from && !bucket.charged.is_zero())
        .map(|(ix, group, bucket)| Rated {
            group: ix,
            project: &group.project,
            sku: &group.sku,
            period: bucket.period,
            segment: bucket.segment,
            price: bucket.price,
            quantity: bucket.charged,
        })
        .collect()
}

/// What a tenant owes, `more` usage included.
pub(crate) fn items(
    ground: Ground<'_>,
    id: &TenantId,
    tenant: &Tenant,
    reach: Reach,
    more: &[Rated<'_>],
) -> Result<BTreeMap<ItemKey, Item>, OutOfRange> {
    let calendar = ground.calendars.of(id);
    let agreements = ground.prices.agreements(id, calendar);
    let credits: Vec<settle::Credit> =
        (0..).zip(&tenant.credits).map(|(ix, grant): (u32, &Grant)| grant.as_credit(ix)).collect();
    let mut carried = Carried::default();
    for (key, posted) in tenant.items.before(reach.from) {
        let sum = match key.source {
            Source::Drawdown => {
                let of = |it: &&settle::Agreement<'_>| {
                    it.first <= key.period && it.last.is_none_or(|last| key.period <= last)
                };
                let Some(agreement) = agreements.iter().find(of) else { continue };
                carried.drawn_down.entry(agreement.first).or_default()
            }
            Source::Credit { grant } => carried.credits_drawn.entry(grant).or_default(),
            _ => continue,
        };
        *sum = sum.checked_add(posted.accrued.amount).ok_or(OutOfRange)?;
    }
    let usage = with_more(rated(ground, id, reach.from), more)?;
    let fees = ground.reservations.fees(id, ground.calendars, reach.from, reach.elapsed).ok_or(OutOfRange)?;
    let account = settle::Account {
        calendar,
        agreements: &agreements,
        credits: &credits,
        carried: &carried,
        over: reach.over,
        from: reach.from,
    };
    settle(&account, &usage, &fees)
}

/// Usage and more of it, less where the quantity is below zero: one entry for each group, segment and
/// price, as settlement wants them.
fn with_more<'a>(mut usage: Vec<Rated<'a>>, more: &[Rated<'a>]) -> Result<Vec<Rated<'a>>, OutOfRange> {
    for more in more {
        let key = |it: &Rated<'_>| (it.group, it.segment, it.price);
        match usage.iter_mut().find(|it| key(it) == key(more)) {
            Some(known) => known.quantity = known.quantity.checked_add(more.quantity).ok_or(OutOfRange)?,
            None => usage.push(*more),
        }
    }
    Ok(usage)
}

/// What items are above what the book holds of them, from a period on.
pub(crate) fn differences(
    tenant: &Tenant,
    from: Month,
    items: &BTreeMap<ItemKey, Item>,
    held: impl Fn(&Posted) -> Item,
) -> Result<Vec<(ItemKey, Item)>, OutOfRange> {
    let mut differences = Vec::new();
    let mut compare = |key: ItemKey, item: Item, was: Item| {
        let quantity = item.quantity.checked_sub(was.quantity).ok_or(OutOfRange)?;
        let amount = item.amount.checked_sub(was.amount).ok_or(OutOfRange)?;
        if !quantity.is_zero() || !amount.is_zero() {
            differences.push((key, Item { quantity, amount }));
        }
        Ok(())
    };
    for (key, item) in items {
        compare(*key, *item, held(&tenant.items.get(key)))?;
    }
    for (key, posted) in tenant.items.since(from).filter(|(key, _)| !items.contains_key(key)) {
        compare(*key, Item::default(), held(posted))?;
    }
    Ok(differences)
}

/// Between which accounts a difference of an item moves, and what for. `None` for what nobody owes.
pub(crate) fn posting(
    ground: Ground<'_>,
    tenant: &TenantId,
    credits: &[Grant],
    source: Source,
    amount: Amount,
) -> Option<(Account, Account, [TransferCode; 2])> {
    let unbilled = Account::Unbilled(tenant.clone());
    let accrual = [TransferCode::Accrual, TransferCode::AccrualReversal];
    let (debit, credit, codes) = match source {
        Source::Usage { group, .. } => {
            let sku = &ground.groups.get(group)?.sku;
            (unbilled, Account::Revenue(sku.platform.clone(), sku.model), accrual)
        }
        Source::Fee { reservation } => {
            let held = ground.reservations.get(reservation)?;
            if held.is_upfront() {
                (unbilled, Account::Deferred(tenant.clone()), [TransferCode::Deferral; 2])
            } else {
                let platform = held.reservation.draft().platform.clone();
                (unbilled, Account::Revenue(platform, PurchaseModel::Reserved), accrual)
            }
        }
        Source::Minimum | Source::TrueUp => (unbilled, Account::Shortfall, accrual),
        Source::Credit { grant } => {
            let kind = credits.get(grant as usize)?.kind;
            let codes = [TransferCode::CreditDraw, TransferCode::CreditDrawReversal];
            (kind.account(tenant), unbilled, codes)
        }
        Source::Drawdown => return None,
    };
    if amount < Amount::ZERO { Some((credit, debit, codes)) } else { Some((debit, credit, codes)) }
}

/// Transfers that wait to be added up, in the order in which they are posted.
#[derive(Default)]
struct Postings(BTreeMap<(u8, Account, Account, TransferCode), (Amount, Option<Position>)>);

impl Postings {
    fn add(
        &mut self,
        (debit, credit, [code, reversed]): (Account, Account, [TransferCode; 2]),
        amount: Amount,
        accrued_before: Option<Position>,
    ) -> Result<(), Inconsistent> {
        let overflow = || Inconsistent::new("an accrual out of range");
        let back = amount < Amount::ZERO;
        let magnitude = if back { amount.checked_neg().ok_or_else(overflow)? } else { amount };
        let code = if back { reversed } else { code };
        let order = match code {
            TransferCode::CreditDraw => 3,
            TransferCode::CreditDrawReversal => 2,
            _ => u8::from(back),
        };
        let (sum, reverses) = self.0.entry((order, debit, credit, code)).or_insert((Amount::ZERO, None));
        *sum = sum.checked_add(magnitude).ok_or_else(overflow)?;
        if back {
            *reverses = (*reverses).max(accrued_before);
        }
        Ok(())
    }
}

/// Where and when something is booked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Booking {
    pub(crate) position: Position,
    pub(crate) at: Instant,
}

/// Settles a tenant and posts what the book does not hold yet.
pub(crate) fn accrue(
    ground: Ground<'_>,
    book: &mut Book,
    (id, tenant): (&TenantId, &mut Tenant),
    reach: Reach,
    booking: Booking,
    rows: &mut impl Rows,
) -> Result<BTreeMap<ItemKey, Item>, Inconsistent> {
    let overflow = |_| Inconsistent::new("an accrual out of range");
    let items = items(ground, id, tenant, reach, &[]).map_err(overflow)?;
    let differences = differences(tenant, reach.from, &items, |posted| posted.accrued).map_err(overflow)?;
    let mut postings = Postings::default();
    for (key, difference) in differences {
        let before = tenant.items.get(&key).accrued_at;
        if let Some(accounts) = posting(ground, id, &tenant.credits, key.source, difference.amount)
            && !difference.amount.is_zero()
        {
            postings.add(accounts, difference.amount, before)?;
        }
        if let Source::Credit { grant } = key.source
            && let Some(grant) = tenant.credits.get_mut(grant as usize)
        {
            grant.drawn = grant.drawn.checked_add(difference.amount).ok_or_else(|| overflow(OutOfRange))?;
        }
        let item = items.get(&key).copied().unwrap_or_default();
        tenant.items.update(key, |posted| {
            posted.accrued = item;
            posted.accrued_at = Some(booking.position);
        });
    }
    for ((_, debit, credit, code), (amount, reverses)) in postings.0 {
        let row = transfer(id, (debit, credit), (amount, tenant.currency), code, booking.at);
        book.post(TransferRow { reverses, ..row }, rows)?;
    }
    expire(book, (id, tenant), booking.at, rows)?;
    Ok(items)
}

/// What a closed credit got back because usage was taken back expires at once: its time is over.
fn expire(
    book: &mut Book,
    (id, tenant): (&TenantId, &mut Tenant),
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let currency = tenant.currency;
    for grant in tenant.credits.iter_mut().filter(|grant| grant.closed) {
        let overflow = || Inconsistent::new("a credit out of range");
        let rest = grant.remaining().ok_or_else(overflow)?;
        if rest.is_zero() {
            continue;
        }
        grant.expired = grant.expired.checked_add(rest).ok_or_else(overflow)?;
        let accounts = (grant.kind.account(id), grant.kind.breakage());
        book.post(transfer(id, accounts, (rest, currency), TransferCode::CreditExpiry, at), rows)?;
    }
    Ok(())
}

/// Closes the credits whose time, and the grace for late usage of it, are over.
pub(crate) fn close_credits(
    book: &mut Book,
    (id, tenant): (&TenantId, &mut Tenant),
    grace_ms: i64,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    let mut closed = false;
    for grant in &mut tenant.credits {
        let never = grant.valid.end() == hourglass_units::INSTANT_MAX;
        if !grant.closed && !never && grant.valid.end().saturating_add_ms(grace_ms) <= at {
            grant.closed = true;
            closed = true;
        }
    }
    if closed { expire(book, (id, tenant), at, rows) } else { Ok(()) }
}

/// A transfer that reverses nothing.
pub(crate) fn transfer(
    tenant: &TenantId,
    (debit, credit): (Account, Account),
    (amount, currency): (Amount, Currency),
    code: TransferCode,
    at: Instant,
) -> TransferRow {
    TransferRow { tenant: tenant.clone(), debit, credit, amount, currency, code, at, reverses: None }
}

/// Zero, for what has no GPU-hours.
pub(crate) fn some_quantity(quantity: Quantity) -> Option<Quantity> {
    (!quantity.is_zero()).then_some(quantity)
}
