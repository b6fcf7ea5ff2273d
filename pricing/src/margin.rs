//! What one more GPU-hour can add to what is charged, at most.
//!
//! A spend cap needs a bound before the usage is there. One more GPU-hour does not just cost its unit
//! price: it comes into the row of the period's hours, the dearest first, and moves those behind it.
//! So by the rules of [`crate::terms`] it can cost
//!
//! * what the tiers of its table cost, the dearest of those that it can fall into;
//! * what it does to the hours behind it: at the edge of each further tier one of them falls into the
//!   next, which may be dearer. Where all tiers are shares, or all are prices, both together come to
//!   the dearest tier. Where a price follows a share, an hour that was cheap may become dear on top;
//! * what another hour costs whose place in an allowance it takes, by the table of that one;
//! * the overage rate, where that is more than the whole: for itself, or for as much of other usage as
//!   no longer fits into the commitment.
//!
//! An allowance that is not used up, or a commitment that is far from its end, would make it cheaper.
//! That is left out, so that what is said of two hours is the sum of what is said of each.
//!
//! The charges of a *project* are a part of the tenant's, and rules count the hours of all projects
//! alike: usage of one can make that of another dearer. So each hour has a margin for each project.
//!
//! All of this is about more usage. What is taken back (a stop learnt late, a void) can make the rest
//! dearer too, by the exceptions that [`crate::settle`] names, and hours of a project by a tier that is
//! reached later; no margin says by how much.

use hourglass_units::{Amount, Price, ProjectId};

use crate::card::Sku;
use crate::scope::Scope;
use crate::settle::{OutOfRange, price_in};
use crate::terms::{Commitment, Terms, Tier};

/// GPU-hours of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuHours<'a> {
    /// Of which project.
    pub project: &'a ProjectId,
    /// What they are.
    pub sku: &'a Sku,
    /// Step 1 of [`crate::terms`].
    pub price: Price,
}

/// The most that GPU-hours of a billing period can add to what is charged.
#[derive(Debug, Clone)]
pub struct Margins<'a> {
    terms: Option<&'a Terms>,
    project: Option<&'a ProjectId>,
    /// Of each tier table: the least unit price of the hours that it counts, where there are any.
    least: Vec<Option<Price>>,
    /// Of each allowance: whether hours in its scope are in no table's.
    untabled: Vec<bool>,
}

/// A share, in parts per million: what amounts are multiplied with before they are rounded up.
const WHOLE: i128 = 1_000_000;

impl<'a> Margins<'a> {
    /// The margins under the rules of a period, if it has any, on what the tenant is charged, or one of
    /// its projects.
    ///
    /// `known` are the kinds of GPU-hours that are or can be charged in the period, each with the least
    /// unit price that it can have there. Those whose margin is asked for belong to them.
    pub fn new(
        terms: Option<&'a Terms>,
        project: Option<&'a ProjectId>,
        known: impl Iterator<Item = GpuHours<'a>>,
    ) -> Self {
        let (tables, allowances) = terms.map_or((0, 0), |it| (it.tiers.len(), it.allowances.len()));
        let mut margins =
            Self { terms, project, least: vec![None; tables], untabled: vec![false; allowances] };
        let Some(terms) = terms else { return margins };
        for it in known {
            let covers = |scope: &Scope| scope.covers(it.project, it.sku);
            let mut tabled = false;
            for (table, least) in terms.tiers.iter().zip(&mut margins.least) {
                if covers(&table.scope) {
                    tabled = true;
                    *least = Some(least.map_or(it.price, |least| least.min(it.price)));
                }
            }
            for (allowance, untabled) in terms.allowances.iter().zip(&mut margins.untabled) {
                *untabled |= !tabled && covers(&allowance.scope);
            }
        }
        margins
    }

    /// What one of the hours adds to the charges of its period, and by the commitment to those of later
    /// periods, all together.
    pub fn of(&self, hours: GpuHours<'_>) -> Result<Price, OutOfRange> {
        let own = self.project.is_none_or(|project| project == hours.project);
        let Some(terms) = self.terms else { return Ok(if own { hours.price } else { Price::ZERO }) };
        self.worst(terms, hours, |place| {
            let share = self.overage_on(terms, &place).map_or(WHOLE, |(_, share)| share);
            let counts = if place.displaced { self.concerns(place.scope()) } else { own };
            let concerns = place.table.is_some_and(|table| self.concerns(&table.scope));
            self.insert(
                &place,
                |price| {
                    let charged = if counts { share.max(WHOLE) } else { (share - WHOLE).max(0) };
                    price.saturating_mul(charged)
                },
                |before, after| {
                    let rise = after.saturating_sub(before).saturating_mul(share.max(WHOLE));
                    if self.project.is_none() {
                        return rise;
                    }
                    if share == WHOLE {
                        return if concerns { rise } else { 0 };
                    }
                    // An hour whose price changes also changes its place before the commitment: those of
                    // the project may come to lie beyond it in its stead, or within it.
                    let beyond = share.saturating_mul(after).saturating_sub(WHOLE.saturating_mul(before));
                    let dearer = WHOLE.saturating_mul(before.max(after));
                    beyond.max(dearer.saturating_sub(share.saturating_mul(before)))
                },
                share.max(WHOLE),
            )
        })
    }

    /// What one of the hours adds to the charges of later periods alone, under the same rules: it leaves
    /// them less of the commitment.
    pub fn later(&self, hours: GpuHours<'_>) -> Result<Price, OutOfRange> {
        let Some(terms) = self.terms else { return Ok(Price::ZERO) };
        self.worst(terms, hours, |place| {
            let Some((commitment, share)) = self.overage_on(terms, &place) else { return Ok(0) };
            let more = (share - WHOLE).max(0);
            // Where the commitment takes a part of what a table counts, that part can become cheaper while
            // the whole does not; what is not drawn is drawn later, or trued up.
            let partial = !commitment.scope.is_everything();
            self.insert(
                &place,
                |price| price.saturating_mul(more),
                |before, after| {
                    let rise = after.saturating_sub(before);
                    let fall = if partial { rise.saturating_neg().saturating_mul(WHOLE) } else { 0 };
                    rise.saturating_mul(more).max(fall)
                },
                more.max(WHOLE),
            )
        })
    }

    /// The worst of the places in which one of the hours can make an hour be charged.
    fn worst(
        &self,
        terms: &'a Terms,
        hours: GpuHours<'_>,
        margin: impl Fn(Place<'_>) -> Result<i128, OutOfRange>,
    ) -> Result<Price, OutOfRange> {
        let covers = |scope: &Scope| scope.covers(hours.project, hours.sku);
        let direct = terms.tiers.iter().zip(&self.least).find(|(table, _)| covers(&table.scope));
        let place = |table: Option<(&'a crate::terms::TierTable, Price)>, displaced, scope| Place {
            table: table.map(|(table, _)| table),
            least: table.map_or(hours.price, |(_, least)| least.min(hours.price)),
            price: hours.price,
            displaced,
            scope,
        };
        let itself = Scope {
            project: Some(hours.project.clone()),
            platform: Some(hours.sku.platform.clone()),
            region: Some(hours.sku.region.clone()),
            model: Some(hours.sku.model),
        };
        let own_table = direct.map(|(table, least)| (table, least.unwrap_or(hours.price)));
        let mut worst = margin(place(own_table, false, &itself))?;
        for (allowance, untabled) in terms.allowances.iter().zip(&self.untabled) {
            if !covers(&allowance.scope) {
                continue;
            }
            if *untabled {
                worst = worst.max(margin(place(None, true, &allowance.scope))?);
            }
            for (table, least) in terms.tiers.iter().zip(&self.least) {
                // It takes the place of an hour that is not dearer.
                let Some(least) = least.filter(|least| *least <= hours.price) else { continue };
                if table.scope.overlaps(&allowance.scope) {
                    worst = worst.max(margin(place(Some((table, least)), true, &allowance.scope))?);
                }
            }
        }
        let nanos = div_up(worst, WHOLE).ok_or(OutOfRange)?;
        i64::try_from(nanos).ok().and_then(|nanos| Price::from_nanos(nanos).ok()).ok_or(OutOfRange)
    }

    /// An hour comes into a place: `first` is what it costs there by its price, and `crossing` what it
    /// adds that another one moves from a tier to the next, by its prices there. In parts of a nano.
    fn insert(
        &self,
        place: &Place<'_>,
        first: impl Fn(i128) -> i128,
        crossing: impl Fn(i128, i128) -> i128,
        rounding: i128,
    ) -> Result<i128, OutOfRange> {
        let Some(table) = place.table else { return Ok(first(nanos(place.price))) };
        let price_of = |tier: &Tier, unit| price_in(tier, unit).map(nanos);
        let mut behind = 0_i128;
        let mut worst = 0_i128;
        let mut next: Option<&Tier> = None;
        for tier in table.tiers.iter().rev() {
            if let Some(next) = next {
                // Linear in the unit price, or the greater of two that are: so one of the ends is the worst.
                let mut step = i128::MIN;
                for unit in [place.least, place.price] {
                    step = step.max(crossing(price_of(tier, unit)?, price_of(next, unit)?));
                }
                // But for the rounding of shares, in between and at the ends.
                let shares = tier.price.is_none() || next.price.is_none();
                if shares && place.least != place.price {
                    step = step.saturating_add(rounding.saturating_mul(2));
                }
                behind = behind.saturating_add(step.max(0));
            }
            worst = worst.max(first(price_of(tier, place.price)?).saturating_add(behind));
            next = Some(tier);
        }
        Ok(worst)
    }

    /// The commitment that an hour in the place can draw on, and its overage rate.
    fn overage_on<'t>(&self, terms: &'t Terms, place: &Place<'_>) -> Option<(&'t Commitment, i128)> {
        let commitment = terms.commitment.as_ref()?;
        let reached = place.table.map_or(place.scope, |table| &table.scope);
        let concerned = self.concerns(&commitment.scope) && commitment.scope.overlaps(reached);
        concerned.then(|| (commitment, i128::from(commitment.overage_percent.ppm())))
    }

    /// Whether hours whose charges are looked at can be in the scope.
    fn concerns(&self, scope: &Scope) -> bool {
        self.project.zip(scope.project.as_ref()).is_none_or(|(project, of)| project == of)
    }
}

/// Where an hour is charged.
struct Place<'a> {
    table: Option<&'a crate::terms::TierTable>,
    /// The least and the highest unit price of the hours that can be moved, the highest its own.
    least: Price,
    price: Price,
    /// Whether it is another one, which was free.
    displaced: bool,
    /// What it is in, but for the table.
    scope: &'a Scope,
}

impl Place<'_> {
    fn scope(&self) -> &Scope {
        self.scope
    }
}

/// What the margins of any number of GPU-hours leave out, once for an agreement: that overage prices
/// are rounded to a nano, and that a commitment ends with a whole nano-GPU-hour.
///
/// `nanos` are the nano-GPU-hours under the agreement, those charged and those to come; `dearest` is the
/// highest of their unit prices, and `periods` how many periods they lie in.
pub fn overage_rounding(terms: &Terms, nanos: i128, dearest: Price, periods: usize) -> Option<Amount> {
    let Some(commitment) = &terms.commitment else { return Some(Amount::ZERO) };
    let share = commitment.overage_percent;
    let tiers = terms.tiers.iter().flat_map(|table| &table.tiers).filter_map(|tier| tier.price);
    let dearest = tiers.fold(dearest, Price::max);
    let share = i128::from(share.ppm());
    let exact = share.checked_rem(WHOLE) == Some(0);
    let of_prices = if exact { 0 } else { nanos };
    let dearest = div_up(i128::from(dearest.nanos()).checked_mul(share.max(WHOLE))?, WHOLE)?;
    // At the edge before the hours come, and at the one after. Where overage costs the same, the true-up
    // sees it.
    let of_edges = dearest.checked_mul(2)?.checked_mul(i128::try_from(periods).ok()?)?;
    of_prices.checked_add(of_edges).map(Amount::from_attos)
}

fn nanos(price: Price) -> i128 {
    i128::from(price.nanos())
}

fn div_up(parts: i128, by: i128) -> Option<i128> {
    parts.checked_add(by.checked_sub(1)?)?.checked_div_euclid(by)
}
