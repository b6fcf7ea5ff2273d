//! What a tenant, or one of its projects, can yet be charged at most: the bound behind spend caps.
//!
//! Usage is a set and only running time is billable, so a late report moves milliseconds from what is
//! not billed yet to what is, and makes none. For any instant ahead
//!
//! ```text
//! spent + falling_due(until) + exposed(until)
//! ```
//!
//! is therefore as much as settlement will ever charge for usage before `until`, as of `until`, however
//! late the reports come and in whatever order:
//!
//! * [`spent`] is what settlement charges now;
//! * [`falling_due`] is what time alone brings: hours of reservations, and minimums and true-ups of
//!   periods that end;
//! * [`exposed`] is the running time that is not billed yet, at the dearest that its mode timeline and the
//!   rules of the contract can make it ([`hourglass_pricing::margin`]).
//!
//! Now is the time of the last event: prices of the market count as known before it.
//!
//! **Charges** are usage and what reservations cost, and for a whole tenant minimums and true-ups. Those
//! belong to no project. What credit pays was charged all the same, and the memo of the commitment is no
//! charge. All of it is before tax.
//!
//! The rules of a contract count the hours of all projects alike, so usage of one can make that of
//! another dearer; and a commitment is drawn down from period to period, so late usage of one can push
//! that of a later one into overage. Both are in the bound.
//!
//! **Not in it** is what no report can do: prices, contracts and re-ratings that come later; modes that
//! change; reservations that are made or amended; an instance that takes another's room in a reservation
//! because its start came to be known later; time that is taken back (a stop learnt late, a void), where
//! the rules make the rest dearer by it, as [`hourglass_pricing::settle`] says; usage of instances
//! that are registered later. And the market of spot GPUs, where no limit holds it: then [`Exposure`]
//! says so.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::calendar::Calendar;
use hourglass_pricing::margin::{GpuHours, Margins, overage_rounding};
use hourglass_pricing::rating::Tariff;
use hourglass_pricing::settle::{Agreement, Item, ItemKey, OutOfRange, Source};
use hourglass_pricing::terms::Terms;
use hourglass_pricing::{PriceTimeline, PurchaseModel, Sku, SpotPool};
use hourglass_units::{
    Amount, Coverage, Fabric, Hour, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Month, Platform, Price,
    ProjectId, ResourceName, TenantId, gpu_resource,
};

use super::accounts::{Reach, items, rated};
use super::lifecycle::prices_of;
use super::metering::{Instance, InstanceIx};
use super::modes::ModeStep;
use super::state::State;
use super::usage::REPORT_MILLISECONDS_MAX;

/// Over which time charges are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpendWindow {
    /// A billing period of the tenant's calendar.
    Period(Month),
    /// All periods.
    Total,
}

/// What can yet be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exposure {
    /// At most this, where it is bounded.
    pub(crate) amount: Amount,
    /// Not so where a part of it is spot without a limit: that is taken at the prices that its pool has
    /// now, and the market may go beyond.
    pub(crate) bounded: bool,
}

/// Something that somebody thinks of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start<'a> {
    /// In which project.
    pub(crate) project: &'a ProjectId,
    /// How it would be sold. What is reserved is on demand where the reservation has no room.
    pub(crate) model: PurchaseModel,
    /// Of spot: never more than this.
    pub(crate) limit: Option<Price>,
    /// Of spot: in the pool of which fabric.
    pub(crate) fabric: Option<&'a Fabric>,
    /// How many GPUs it would hold.
    pub(crate) gpus: u32,
    /// From when.
    pub(crate) from: Instant,
    /// For how long.
    pub(crate) milliseconds: i64,
}

/// What is charged now.
pub(crate) fn spent(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
) -> Result<Amount, OutOfRange> {
    charged(state, tenant, project, within, state.now)
}

/// What time alone adds to what is charged until an instant.
pub(crate) fn falling_due(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
    until: Instant,
) -> Result<Amount, OutOfRange> {
    let now = charged(state, tenant, project, within, state.now)?;
    let then = charged(state, tenant, project, within, until.max(state.now))?;
    Ok(then.checked_sub(now).ok_or(OutOfRange)?.max(Amount::ZERO))
}

/// What running time that is not billed yet can add to what is charged: of each instance that before the
/// instant that `until` says.
///
/// `unsaid` says of an instance since when it may be running although the life cycle does not say so:
/// from when it was accepted, if nobody has seen it stop, and nothing once it was. It counts as if it ran
/// from there on; where the life cycle says that it ran, that stands beside it.
///
/// Time that is older than any report that is still accepted is billed no more, and does not count.
pub(crate) fn exposed(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
    until: impl Fn(InstanceIx) -> Instant,
    unsaid: impl Fn(InstanceIx) -> Option<Instant>,
) -> Result<Exposure, OutOfRange> {
    let mut outlook = Outlook::new(state, tenant, project, within);
    let window = outlook.window();
    let ahead = Interval::between(window.start().max(state.now), window.end());
    let since = window.start().max(earliest_billable(state));
    for ix in outlook.instances() {
        let Some(instance) = state.instances.get(ix) else { continue };
        let open = Interval::between(since, window.end().min(until(ix)));
        let parts = open.map(|open| unbilled(instance, open, unsaid(ix))).unwrap_or_default();
        for (part, step) in parts.intervals().iter().flat_map(|part| instance.modes.within(*part)) {
            outlook.add_step(step, part, instance.gpus)?;
        }
        // Spot that was reported ahead of the clock is billed anew when the pool's price changes.
        for billed in ahead.into_iter().flat_map(|ahead| instance.billed_within(ahead)) {
            for (part, step) in instance.modes.within(billed) {
                outlook.add_market(step, part, instance.gpus)?;
            }
        }
    }
    outlook.exposure()
}

/// What it adds to what is charged to start something on a platform, at most. `None` where the tenant
/// has no price for that. What several starts add together is no more than the sum, beside what is
/// exposed.
pub(crate) fn burn(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
    platform: &Platform,
    start: &Start<'_>,
) -> Result<Option<Exposure>, OutOfRange> {
    let until = start.from.saturating_add_ms(start.milliseconds);
    let account = state.tenants.get(tenant).zip(state.cell.as_ref());
    let Some(((account, cell), window)) = account.zip(Interval::between(start.from, until)) else {
        return Ok(None);
    };
    let sku = |model| Sku { platform: platform.clone(), region: cell.region.clone(), model };
    let listed = |model| {
        let sku = sku(model);
        (state.prices.timeline(tenant, account.currency, &sku), sku)
    };
    let mut alternatives: Vec<(PriceTimeline, Sku)> = Vec::new();
    match start.model {
        PurchaseModel::OnDemand | PurchaseModel::Spot => alternatives.push(listed(start.model)),
        PurchaseModel::Reserved => {
            alternatives.push(listed(PurchaseModel::OnDemand));
            let held = state.reservations.of_tenant(tenant).map(|(_, held)| &held.reservation);
            let here = held.filter(|it| it.draft().platform == *platform);
            alternatives.extend(here.map(|it| (prices_of(it), sku(PurchaseModel::Reserved))));
        }
    }
    let mut worst: Option<Exposure> = None;
    for (prices, sku) in &alternatives {
        if prices.within(window).next().is_none() {
            continue;
        }
        let spot = sku.model == PurchaseModel::Spot;
        let (currency, fabric) = (account.currency, start.fabric.cloned());
        let pool = spot.then(|| SpotPool { currency, sku: sku.clone(), fabric });
        let pool = pool.and_then(|pool| state.prices.spot(&pool));
        let tariff = Tariff { prices, pool, limit: start.limit.filter(|_| spot) };
        let mut outlook = Outlook::new(state, tenant, project, within);
        outlook.add(start.project, sku, tariff, window, start.gpus)?;
        worst = Some(outlook.exposure()?.or_worse(worst));
    }
    Ok(worst)
}

/// What it adds to what is charged to start something of which only the quota resource is known, such as
/// `compute.instance.gpu.h100`: at most what [`burn`] says of the platforms that are that resource.
/// `None` where the tenant has a price for none.
pub(crate) fn burn_of_resource(
    state: &State,
    tenant: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
    resource: &ResourceName,
    start: &Start<'_>,
) -> Result<Option<Exposure>, OutOfRange> {
    let Some(account) = state.tenants.get(tenant) else { return Ok(None) };
    let cards = state.prices.cards().filter(|card| card.currency() == account.currency);
    let platforms: BTreeSet<&Platform> =
        cards.flat_map(|card| card.prices().keys()).map(|sku| &sku.platform).collect();
    let mut worst: Option<Exposure> = None;
    for platform in platforms.into_iter().filter(|it| gpu_resource(it) == *resource) {
        if let Some(burn) = burn(state, tenant, project, within, platform, start)? {
            worst = Some(burn.or_worse(worst));
        }
    }
    Ok(worst)
}

impl Exposure {
    fn or_worse(self, other: Option<Self>) -> Self {
        other.map_or(self, |other| Self {
            amount: self.amount.max(other.amount),
            bounded: self.bounded && other.bounded,
        })
    }
}

/// What is charged as of an instant, with the usage that there is.
pub(crate) fn charged(
    state: &State,
    id: &TenantId,
    project: Option<&ProjectId>,
    within: SpendWindow,
    as_of: Instant,
) -> Result<Amount, OutOfRange> {
    let Some(tenant) = state.tenants.get(id) else { return Ok(Amount::ZERO) };
    let from = match within {
        SpendWindow::Total => Month::containing(INSTANT_MIN),
        SpendWindow::Period(period) => Outlook::new(state, id, project, within).drawn_since(period),
    };
    let reach = Reach::from(from, &state.calendars, id, as_of);
    let items = items(state.ground(), id, tenant, reach, &[])?;
    let counts = |(key, _): &(&ItemKey, &Item)| {
        let in_time = match within {
            SpendWindow::Total => true,
            SpendWindow::Period(period) => key.period == period,
        };
        in_time && is_charge_of(state, project, key.source)
    };
    let mut amounts = items.iter().filter(counts).map(|(_, item)| item.amount);
    amounts.try_fold(Amount::ZERO, |sum, amount| sum.checked_add(amount)).ok_or(OutOfRange)
}

/// A part of a tenant's charges. Absent means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Part<'a> {
    /// Of which project.
    pub(crate) project: Option<&'a ProjectId>,
    /// On which platform.
    pub(crate) platform: Option<&'a Platform>,
    /// Sold how.
    pub(crate) model: Option<PurchaseModel>,
}

/// All that settlement says of a tenant's period and of those that bear on it, as of an instant: for
/// sums of many parts.
pub(crate) fn items_of(
    state: &State,
    id: &TenantId,
    period: Month,
    as_of: Instant,
) -> Result<BTreeMap<ItemKey, Item>, OutOfRange> {
    let Some(tenant) = state.tenants.get(id) else { return Ok(BTreeMap::new()) };
    let from = Outlook::new(state, id, None, SpendWindow::Period(period)).drawn_since(period);
    let reach = Reach::from(from, &state.calendars, id, as_of);
    items(state.ground(), id, tenant, reach, &[])
}

/// What of a period's items is a charge of a part.
pub(crate) fn sum_of(
    state: &State,
    items: &BTreeMap<ItemKey, Item>,
    period: Month,
    part: Part<'_>,
) -> Result<Amount, OutOfRange> {
    let counts = |key: &ItemKey| key.period == period && is_charge_of_part(state, part, key.source);
    let mut amounts = items.iter().filter(|(key, _)| counts(key)).map(|(_, item)| item.amount);
    amounts.try_fold(Amount::ZERO, |sum, amount| sum.checked_add(amount)).ok_or(OutOfRange)
}

/// Whether an item is a charge of a part of the tenant.
fn is_charge_of_part(state: &State, part: Part<'_>, source: Source) -> bool {
    let Part { platform, model, .. } = part;
    let (of_platform, of_model) = match source {
        Source::Usage { group, .. } => {
            let sku = state.groups.get(group).map(|group| &group.sku);
            (sku.map(|sku| &sku.platform), sku.map(|sku| sku.model))
        }
        Source::Fee { reservation } => {
            let held = state.reservations.get(reservation);
            (held.map(|held| &held.reservation.draft().platform), Some(PurchaseModel::Reserved))
        }
        _ => (None, None),
    };
    let fits = (platform.is_none() || of_platform == platform) && (model.is_none() || of_model == model);
    fits && is_charge_of(state, part.project, source)
}

/// Whether an item is a charge of the tenant, or of one of its projects.
fn is_charge_of(state: &State, project: Option<&ProjectId>, source: Source) -> bool {
    let of = match source {
        Source::Usage { group, .. } => state.groups.get(group).map(|group| &group.project),
        Source::Fee { reservation } => {
            state.reservations.get(reservation).map(|held| &held.reservation.draft().project)
        }
        Source::Minimum | Source::TrueUp => None,
        Source::Drawdown | Source::Credit { .. } => return false,
    };
    project.is_none() || of == project
}

/// The first instant that a report can still be billed for. What counts is how old its end is, so it may
/// reach back by its whole length from there.
fn earliest_billable(state: &State) -> Instant {
    let window = state.cell.as_ref().map_or(0, |cell| cell.policy.acceptance_window_ms);
    state.now.saturating_add_ms(window.saturating_add(REPORT_MILLISECONDS_MAX).saturating_neg())
}

/// The time in which an instance ran, or may have, and that is not billed: voided time never is.
fn unbilled(instance: &Instance, window: Interval, unsaid: Option<Instant>) -> Coverage {
    let runs: Coverage = instance.running.within(window).collect();
    let mut open = runs.difference(&instance.reported);
    if let Some(since) = unsaid.and_then(|since| Interval::between(since.max(window.start()), window.end())) {
        // It may be reported already, and is billed as soon as somebody says that it ran.
        open = open.union(&Coverage::of(since).difference(&runs));
    }
    match instance.voided() {
        None => open,
        Some(voided) => open.difference(voided),
    }
}

/// How much is known of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Foresight {
    /// It is what it is.
    Known,
    /// The market may set another in each millisecond, below this one.
    Limit,
    /// The market may set any.
    Market,
}

/// The unit prices of a window: what is known of them, and for spot from now on the limit, or what the
/// pool has now.
fn forecast(
    tariff: Tariff<'_>,
    model: PurchaseModel,
    window: Interval,
    now: Instant,
) -> impl Iterator<Item = (Interval, Price, Foresight)> {
    let spot = model == PurchaseModel::Spot;
    let known_until = if spot { window.end().min(now) } else { window.end() };
    let ahead = Interval::between(window.start().max(known_until), window.end());
    let pieces = move |window: Option<Interval>, foresight| {
        let pieces = window.into_iter().flat_map(move |window| tariff.pieces(window));
        pieces.map(move |(part, price)| (part, price, foresight))
    };
    let known = pieces(Interval::between(window.start(), known_until), Foresight::Known);
    let limited = tariff.limit.zip(ahead).map(|(limit, ahead)| (ahead, limit, Foresight::Limit));
    let market = pieces(ahead.filter(|_| tariff.limit.is_none()), Foresight::Market);
    known.chain(limited).chain(market)
}

/// The parts of an interval that lie in one billing period each.
fn by_period(calendar: &Calendar, interval: Interval) -> impl Iterator<Item = (Month, Interval)> {
    let mut rest = Some(interval);
    std::iter::from_fn(move || {
        let left = rest?;
        let period = calendar.containing(left.start());
        let part = calendar.interval(period).intersection(left)?;
        rest = Interval::between(part.end(), left.end());
        Some((period, part))
    })
}

/// Nano-GPU-hours that an interval can add to lines, at most. A line is rounded on its total, so an
/// addition to it is never more than its own share rounded up; and each UTC hour has a line of its own,
/// where full ones need no rounding. Where the price can change in each millisecond, each has one.
fn nanos_at_most(interval: Interval, gpus: u32, foresight: Foresight) -> Option<i128> {
    let of = |milliseconds: i64| {
        // As in `Quantity::of_gpu_milliseconds`: the fraction is 2500/9.
        let parts = i128::from(milliseconds).checked_mul(i128::from(gpus))?.checked_mul(2500)?;
        parts.checked_add(8)?.checked_div(9)
    };
    if foresight == Foresight::Limit {
        return of(1)?.checked_mul(i128::from(interval.milliseconds()));
    }
    let first = Hour::containing(interval.start()).end().min(interval.end());
    let last = Hour::containing(interval.end()).start().max(first);
    let parts = [(interval.start(), first), (first, last), (last, interval.end())];
    parts.iter().try_fold(0_i128, |sum, (from, until)| sum.checked_add(of(until.ms_since(*from))?))
}

/// How a billing period bears on a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bearing {
    /// It lies in it.
    Within,
    /// It is an earlier one, and draws on the same commitment.
    Before,
}

/// GPU-hours that can yet be charged, by what their price depends on.
struct Outlook<'a> {
    state: &'a State,
    tenant: &'a TenantId,
    project: Option<&'a ProjectId>,
    within: SpendWindow,
    calendar: &'a Calendar,
    agreements: Vec<Agreement<'a>>,
    /// Nano-GPU-hours.
    open: BTreeMap<OpenKey<'a>, i128>,
}

/// By period, project, SKU, unit price, and what is known of that.
type OpenKey<'a> = (Month, &'a ProjectId, &'a Sku, Price, Foresight);

impl<'a> Outlook<'a> {
    fn new(
        state: &'a State,
        tenant: &'a TenantId,
        project: Option<&'a ProjectId>,
        within: SpendWindow,
    ) -> Self {
        let calendar = state.calendars.of(tenant);
        let agreements = state.prices.agreements(tenant, calendar);
        Self { state, tenant, project, within, calendar, agreements, open: BTreeMap::new() }
    }

    fn agreement(&self, period: Month) -> Option<&Agreement<'a>> {
        self.agreements.iter().find(|it| it.holds_in(period))
    }

    fn terms(&self, period: Month) -> Option<&'a Terms> {
        self.agreement(period).map(|it| it.terms)
    }

    /// The first period whose usage bears on the charges of this one.
    fn drawn_since(&self, period: Month) -> Month {
        let committed = self.agreement(period).filter(|it| it.terms.commitment.is_some());
        committed.map_or(period, |it| it.first)
    }

    fn bearing(&self, period: Month) -> Option<Bearing> {
        match self.within {
            SpendWindow::Total => Some(Bearing::Within),
            SpendWindow::Period(within) if within == period => Some(Bearing::Within),
            SpendWindow::Period(within) => {
                let before = self.drawn_since(within) <= period && period < within;
                before.then_some(Bearing::Before)
            }
        }
    }

    /// The time whose usage bears on the charges that are looked at.
    fn window(&self) -> Interval {
        let (from, until) = match self.within {
            SpendWindow::Total => (INSTANT_MIN, INSTANT_MAX),
            SpendWindow::Period(period) => (
                self.calendar.interval(self.drawn_since(period)).start(),
                self.calendar.interval(period).end(),
            ),
        };
        Interval::between(from, until).unwrap_or(self.calendar.interval(Month::containing(from)))
    }

    /// The instances whose usage bears on the charges that are looked at: without rules that count
    /// periods, no project has to do with another.
    fn instances(&self) -> BTreeSet<InstanceIx> {
        let groups = self.state.groups.of_tenant(self.tenant).map(|(_, group)| group);
        let alone = self.project.filter(|_| self.agreements.is_empty());
        let concerned = groups.filter(|group| alone.is_none_or(|project| *project == group.project));
        concerned.flat_map(|group| group.members.iter().copied()).collect()
    }

    fn add_step(&mut self, step: ModeStep, part: Interval, gpus: u32) -> Result<(), OutOfRange> {
        let group = self.state.groups.get(step.group).ok_or(OutOfRange)?;
        let tariff = self.state.rates().tariff(step).ok_or(OutOfRange)?;
        self.add(&group.project, &group.sku, tariff, part, gpus)
    }

    /// Adds what is billed and may yet become dearer: spot below its limit.
    fn add_market(&mut self, step: ModeStep, part: Interval, gpus: u32) -> Result<(), OutOfRange> {
        let Some(limit) = step.limit else { return Ok(()) };
        let tariff = self.state.rates().tariff(step).ok_or(OutOfRange)?;
        for (part, _) in tariff.pieces(part).filter(|(_, price)| *price < limit) {
            self.add_step(step, part, gpus)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        project: &'a ProjectId,
        sku: &'a Sku,
        tariff: Tariff<'_>,
        part: Interval,
        gpus: u32,
    ) -> Result<(), OutOfRange> {
        for (part, price, foresight) in forecast(tariff, sku.model, part, self.state.now) {
            for (period, part) in by_period(self.calendar, part) {
                let nanos = nanos_at_most(part, gpus, foresight).ok_or(OutOfRange)?;
                let sum = self.open.entry((period, project, sku, price, foresight)).or_default();
                *sum = sum.checked_add(nanos).ok_or(OutOfRange)?;
            }
        }
        Ok(())
    }

    /// What one more GPU-hour of a period can add, beside all that the tenant can have in it.
    fn margins(&self, period: Month, open: &[GpuHours<'a>]) -> Margins<'a> {
        let time = self.calendar.interval(period);
        let least = |sku: &Sku, least: Option<Price>| match sku.model {
            // The market may fall.
            PurchaseModel::Spot => Some(Price::ZERO),
            PurchaseModel::OnDemand | PurchaseModel::Reserved => least,
        };
        let groups = self.state.groups.of_tenant(self.tenant).filter_map(move |(_, group)| {
            let listed = group.prices.within(time).map(|step| step.price).min();
            let (project, sku) = (&group.project, &group.sku);
            Some(GpuHours { project, sku, price: least(sku, listed)? })
        });
        let open = open.iter().map(|it| GpuHours { price: least(it.sku, None).unwrap_or(it.price), ..*it });
        Margins::new(self.terms(period), self.project, groups.chain(open))
    }

    /// The hours at their margins.
    fn exposure(self) -> Result<Exposure, OutOfRange> {
        let mut exposure = Exposure { amount: Amount::ZERO, bounded: true };
        let mut add = |attos: Option<i128>| {
            let more = attos.map(Amount::from_attos).ok_or(OutOfRange)?;
            exposure.amount = exposure.amount.checked_add(more).ok_or(OutOfRange)?;
            Ok(())
        };
        let mut bounded = true;
        let mut drawing: BTreeSet<Month> = BTreeSet::new();
        let periods: BTreeSet<Month> = self.open.keys().map(|(period, ..)| *period).collect();
        for period in periods {
            let Some(bearing) = self.bearing(period) else { continue };
            let terms = self.terms(period);
            let open = self.open.iter().filter(|((of, ..), _)| *of == period);
            let kind = |key: &OpenKey<'a>| GpuHours { project: key.1, sku: key.2, price: key.3 };
            let kinds: Vec<GpuHours<'a>> = open.clone().map(|(key, _)| kind(key)).collect();
            let margins = self.margins(period, &kinds);
            for (key, nanos) in open {
                let price = match bearing {
                    Bearing::Within => margins.of(kind(key))?,
                    Bearing::Before => margins.later(kind(key))?,
                };
                add(i128::from(price.nanos()).checked_mul(*nanos))?;
                let concerns = terms.is_some() || self.project.is_none_or(|project| project == key.1);
                bounded &= key.4 != Foresight::Market || !concerns;
            }
            let committed = self.agreement(period).filter(|it| it.terms.commitment.is_some());
            drawing.extend(committed.map(|it| it.first));
        }
        for first in drawing {
            add(self.overage_rounding(first).map(Amount::attos))?;
        }
        exposure.bounded = bounded;
        Ok(exposure)
    }

    /// What margins leave out of the agreement that begins with a period.
    fn overage_rounding(&self, first: Month) -> Option<Amount> {
        let agreement = self.agreement(first)?;
        let charged = rated(self.state.ground(), self.tenant, first);
        let charged = charged.iter().map(|it| (it.period, it.price, i128::from(it.quantity.nanos())));
        let open = self.open.iter().map(|((period, _, _, price, _), nanos)| (*period, *price, *nanos));
        let mut periods = BTreeSet::new();
        let (mut sum, mut dearest) = (0_i128, Price::ZERO);
        for (period, price, nanos) in charged.chain(open).filter(|(period, ..)| agreement.holds_in(*period)) {
            periods.insert(period);
            dearest = dearest.max(price);
            sum = sum.checked_add(nanos)?;
        }
        overage_rounding(agreement.terms, sum, dearest, periods.len())
    }
}

#[cfg(test)]
mod tests;
