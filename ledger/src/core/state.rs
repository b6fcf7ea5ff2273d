//! All that the core knows. Written by [`super::apply`](super::apply()) alone, read by everyone.

use std::collections::BTreeMap;

use hashbrown::{DefaultHashBuilder, HashTable};
use hourglass_pricing::settle::Step;
use hourglass_pricing::tax::{Tax, TaxKind};
use hourglass_pricing::{PriceBook, Sku};
use hourglass_units::{
    AgentId, Amount, Currency, Hour, InstanceId, Instant, Interval, Labels, Month, ProjectId, Region,
    ReservationId, TenantId,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::hash::BuildHasher;

use super::Inconsistent;
use super::accounts::{Ground, PostedItems, Reach, differences, items, posting};
use super::book::{Account, Book};
use super::calendars::Calendars;
use super::command::{Answer, IdempotencyKey, Mode, Position};
use super::credentials::Credentials;
use super::credits::Grant;
use super::event::Policy;
use super::groups::{ChargeGroup, ChargeGroups, Rates};
use super::invoice::InvoiceKind;
use super::invoicing::HeldItems;
use super::market::Market;
use super::metering::{
    Accounting, AgentIx, Instance, InstanceIx, Line, LineDifference, LineKey, PendingLines, Suspended,
    account_suspense,
};
use super::modes::Modes;
use super::periods::Periods;
use super::quotas::Quotas;
use super::reservations::{Held, Reservations};
use super::sla::Incidents;
use super::timeline::Noted;
use super::watermark::Received;
use super::webhooks::Webhooks;

/// The fold of the log up to a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) position: Position,
    pub(crate) now: Instant,
    pub(crate) cell: Option<Cell>,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) prices: PriceBook,
    pub(crate) calendars: Calendars,
    pub(crate) groups: ChargeGroups,
    pub(crate) reservations: Reservations,
    /// Tenants whose items changed otherwise than by usage, and the first period in which they did.
    pub(crate) touched: BTreeMap<TenantId, Month>,
    /// When all tenants were settled last.
    pub(crate) settled_at: Instant,
    pub(crate) incidents: Incidents,
    pub(crate) instances: Instances,
    /// Agents to which instances are bound.
    pub(crate) agents: Vec<AgentId>,
    pub(crate) suspense: BTreeMap<InstanceId, Vec<Suspended>>,
    pub(crate) received: BTreeMap<AgentId, Received>,
    pub(crate) pending: PendingLines,
    /// The lines of all hours before this one were moved to `pending` by a `Tick`.
    pub(crate) written_until: Hour,
    pub(crate) book: Book,
    pub(crate) keys: BTreeMap<IdempotencyKey, FirstAnswer>,
    pub(crate) counts: Counts,
    pub(crate) credentials: Credentials,
    pub(crate) quotas: Quotas,
    pub(crate) market: Market,
    /// What instances are called by who pays for them.
    pub(crate) labels: BTreeMap<InstanceIx, Labels>,
    /// The steps that the event being folded makes; empty between events.
    #[serde(skip)]
    pub(crate) noted: Vec<Noted>,
    pub(crate) webhooks: Webhooks,
    pub(crate) periods: Periods,
}

/// Whose books these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The region that it serves.
    pub region: Region,
    /// Its rules.
    pub policy: Policy,
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// In which it is billed.
    pub currency: Currency,
    /// For people.
    pub display_name: String,
    /// Since when it is a customer.
    pub opened_at: Instant,
    /// How its invoices are taxed.
    pub tax: Option<Tax>,
    /// Its invoices and credit notes, by number.
    pub invoices: BTreeMap<u64, FinalisedInvoice>,
    /// Its credit, in the order of the grants.
    pub credits: Vec<Grant>,
    /// What it owes, as the book and the invoices hold it.
    pub(crate) items: PostedItems,
}

impl Tenant {
    pub(crate) fn new(currency: Currency, display_name: String, opened_at: Instant) -> Self {
        let (tax, invoices, credits, items) = (None, BTreeMap::new(), Vec::new(), PostedItems::default());
        Self { currency, display_name, opened_at, tax, invoices, credits, items }
    }

    /// The last billing period that is closed.
    pub fn closed_until(&self) -> Option<Month> {
        self.invoices.values().filter(|invoice| invoice.closes()).map(|invoice| invoice.period).max()
    }

    /// The number of the next invoice or credit note.
    pub(crate) fn next_number(&self) -> u64 {
        self.invoices.last_key_value().map_or(0, |(number, _)| *number).saturating_add(1)
    }
}

/// What became of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceStatus {
    /// Something of it is to be paid.
    Open,
    /// Nothing of it is to be paid.
    Paid,
    /// It was taken back.
    Void,
}

impl InvoiceStatus {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
        }
    }
}

/// What the state keeps of an invoice; the document itself stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalisedInvoice {
    /// What it is.
    pub kind: InvoiceKind,
    /// The period that it closes.
    pub period: Month,
    /// Where it was finalised.
    pub position: Position,
    /// Σ of its lines.
    pub total: Amount,
    /// What is to be paid, tax included.
    pub due: Amount,
    /// What was paid; below zero what was paid back.
    pub paid: Amount,
    /// What was set off against another document of the tenant; below zero on one that is owed to it.
    pub set_off: Amount,
    /// What became of it.
    pub status: InvoiceStatus,
    /// BLAKE3 of what it says, its provenance left out.
    pub content: [u8; 32],
    pub(crate) exact_total: Amount,
    pub(crate) rounding: Amount,
    pub(crate) tax: Option<(TaxKind, Amount)>,
    /// What it holds of each item, so that it can be taken back.
    pub(crate) held: HeldItems,
}

impl FinalisedInvoice {
    /// Whether it closes its period.
    pub fn closes(&self) -> bool {
        self.kind == InvoiceKind::Invoice && self.status != InvoiceStatus::Void
    }

    /// Σ of its lines before rounding.
    pub fn exact_total(&self) -> Amount {
        self.exact_total
    }

    /// What is still to be paid; below zero what is owed to the tenant.
    pub fn open(&self) -> Amount {
        match self.status {
            InvoiceStatus::Open => {
                let rest = self.due.checked_sub(self.paid).and_then(|rest| rest.checked_sub(self.set_off));
                rest.unwrap_or_default()
            }
            InvoiceStatus::Paid | InvoiceStatus::Void => Amount::ZERO,
        }
    }
}

/// The answer that every repeat of a request gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstAnswer {
    pub(crate) request: [u8; 16],
    pub(crate) answer: Answer,
}

/// How much came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Usage records accepted, repeats included.
    pub usage_records: u64,
    /// Records of accepted batches that broke the contract.
    pub quarantined_records: u64,
    /// Messages that could not be read at all.
    pub quarantined_messages: u64,
}

/// An instance as others see it.
#[derive(Debug, Clone, Copy)]
pub struct InstanceView<'a> {
    instance: &'a Instance,
    group: &'a ChargeGroup,
    agent: Option<&'a AgentId>,
    labels: Option<&'a Labels>,
}

/// A line with whose it is.
#[derive(Debug, Clone)]
pub struct LineView<'a> {
    /// Whose.
    pub instance: InstanceView<'a>,
    /// What.
    pub line: Line,
    group: &'a ChargeGroup,
    reservation: Option<&'a Held>,
}

impl<'a> LineView<'a> {
    /// For which project.
    pub fn project(&self) -> &'a ProjectId {
        &self.group.project
    }

    /// On what, where, and how it was sold.
    pub fn sku(&self) -> &'a Sku {
        &self.group.sku
    }

    /// Out of which reservation.
    pub fn reservation(&self) -> Option<&'a ReservationId> {
        self.reservation.map(|held| &held.reservation.draft().reservation)
    }
}

impl State {
    /// Before the first event.
    pub fn empty() -> Self {
        Self {
            position: Position::ZERO,
            now: hourglass_units::INSTANT_MIN,
            cell: None,
            tenants: BTreeMap::new(),
            prices: PriceBook::default(),
            calendars: Calendars::default(),
            groups: ChargeGroups::default(),
            reservations: Reservations::default(),
            touched: BTreeMap::new(),
            settled_at: hourglass_units::INSTANT_MIN,
            incidents: Incidents::default(),
            instances: Instances::default(),
            agents: Vec::new(),
            suspense: BTreeMap::new(),
            received: BTreeMap::new(),
            pending: PendingLines::new(),
            written_until: Hour::containing(hourglass_units::INSTANT_MIN),
            book: Book::default(),
            keys: BTreeMap::new(),
            counts: Counts::default(),
            credentials: Credentials::default(),
            quotas: Quotas::default(),
            market: Market::default(),
            labels: BTreeMap::new(),
            noted: Vec::new(),
            webhooks: Webhooks::default(),
            periods: Periods::default(),
        }
    }

    /// Up to where the log is folded in.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The time of the last event.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Whose books these are.
    pub fn cell(&self) -> Option<&Cell> {
        self.cell.as_ref()
    }

    /// All customers, by id.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &Tenant)> {
        self.tenants.iter()
    }

    /// One customer.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&Tenant> {
        self.tenants.get(tenant)
    }

    /// Pools and bids.
    pub fn market(&self) -> &Market {
        &self.market
    }

    /// Who is told by webhook.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Every rate card and contract.
    pub fn prices(&self) -> &PriceBook {
        &self.prices
    }

    /// Every balance.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Limits, and what is taken of them.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// How much came in.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Every API key.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Instances whose usage waits until somebody registers them.
    pub fn instances_in_suspense(&self) -> impl ExactSizeIterator<Item = &InstanceId> {
        self.suspense.keys()
    }

    /// Up to where an agent's reports of an epoch are in the log without a gap.
    pub fn next_seq(&self, agent: &AgentId, epoch: u64) -> u64 {
        self.received.get(agent).map_or(0, |received| received.next_seq(epoch))
    }

    /// For each agent and each of its epochs that is followed: up to where its reports are in the log
    /// without a gap.
    pub fn watermarks(&self) -> impl Iterator<Item = (&AgentId, u64, u64)> {
        self.received.iter().flat_map(|(agent, received)| {
            received.watermarks().map(move |(epoch, next_seq)| (agent, epoch, next_seq))
        })
    }

    /// One instance.
    pub fn instance(&self, id: &str) -> Option<InstanceView<'_>> {
        self.instances.find(id).and_then(|ix| self.view(ix))
    }

    /// All instances, in the order of their registration.
    pub fn instances(&self) -> impl Iterator<Item = InstanceView<'_>> {
        (0..self.instances.len()).filter_map(|ix| self.view(ix))
    }

    /// The instances that have labels, in the order of their registration.
    pub fn labelled(&self) -> impl Iterator<Item = InstanceView<'_>> {
        self.labels.keys().filter_map(|ix| self.view(*ix))
    }

    /// How many instances are registered.
    pub fn instance_count(&self) -> u32 {
        self.instances.len()
    }

    fn view(&self, ix: InstanceIx) -> Option<InstanceView<'_>> {
        let instance = self.instances.get(ix)?;
        let agent = instance.agent.and_then(|agent| self.agents.get(agent as usize));
        let group = self.groups.get(instance.modes.newest()?.group)?;
        Some(InstanceView { instance, group, agent, labels: self.labels.get(&ix) })
    }

    pub(crate) fn rates(&self) -> Rates<'_> {
        Rates::new(&self.groups, &self.prices)
    }

    pub(crate) fn ground(&self) -> Ground<'_> {
        let Self { groups, prices, calendars, reservations, .. } = self;
        Ground { groups, prices, calendars, reservations }
    }

    /// Every reservation, in the order in which they were made.
    pub fn reservations(&self) -> impl Iterator<Item = &Held> {
        self.reservations.iter()
    }

    /// The reservations of a tenant, in the order in which they were made.
    pub fn reservations_of(&self, tenant: &TenantId) -> impl Iterator<Item = &Held> {
        self.reservations.of_tenant(tenant).map(|(_, held)| held)
    }

    /// One of them all.
    pub fn reservation(&self, id: &ReservationId) -> Option<&Held> {
        self.reservations.find(id).map(|(_, held)| held)
    }

    /// The billing period of a tenant that holds the instant.
    pub fn period_at(&self, tenant: &TenantId, at: Instant) -> Month {
        self.calendars.of(tenant).containing(at)
    }

    /// The time of a tenant's billing period.
    pub fn period_interval(&self, tenant: &TenantId, period: Month) -> Interval {
        self.calendars.of(tenant).interval(period)
    }

    /// The contract whose rules hold in a period, where one has any.
    pub(crate) fn agreement_at(&self, tenant: &TenantId, period: Month) -> Option<String> {
        let agreements = self.prices.agreements(tenant, self.calendars.of(tenant));
        let holds =
            agreements.iter().find(|it| it.first <= period && it.last.is_none_or(|last| period <= last));
        holds.map(|it| it.source.to_string())
    }

    /// The rule that a GPU-hour ended up under, such as `tier 2 of deal@1`.
    pub(crate) fn rule_of(&self, tenant: &TenantId, period: Month, step: Step) -> Option<String> {
        if step == Step::default() {
            return None;
        }
        let mut names = Vec::new();
        if step.allowance > 0 {
            names.push(format!("allowance {}", step.allowance));
        }
        if step.tier > 0 {
            names.push(format!("tier {}", step.tier));
        }
        if step.overage {
            names.push("overage".to_owned());
        }
        let source = self.agreement_at(tenant, period).unwrap_or_default();
        Some(format!("{} of {source}", names.join(", ")))
    }

    /// Every line of every instance, as coverage and life cycle say that they are.
    pub fn lines(&self) -> impl Iterator<Item = Result<LineView<'_>, Inconsistent>> {
        self.instances().flat_map(|instance| match self.lines_of(instance) {
            Ok(lines) => lines.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Every line of an instance.
    pub fn lines_of<'a>(&'a self, of: InstanceView<'a>) -> Result<Vec<LineView<'a>>, Inconsistent> {
        let lines = of.instance.lines(self.rates())?;
        let lost = || Inconsistent::new("a line without a group");
        lines.into_iter().map(|(key, line)| self.line_view(of, key, line).ok_or_else(lost)).collect()
    }

    fn line_view<'a>(
        &'a self,
        instance: InstanceView<'a>,
        key: LineKey,
        LineDifference { milliseconds, quantity }: LineDifference,
    ) -> Option<LineView<'a>> {
        let group = self.groups.get(key.group)?;
        let line = Line { hour: key.hour, price: key.price, milliseconds, quantity };
        let reservation = group.reservation.and_then(|ix| self.reservations.get(ix));
        Some(LineView { instance, line, group, reservation })
    }

    /// What no row holds yet: the open hour of each instance, and late differences until the next
    /// `Tick`. The sum of a line's rows and of this is the line.
    pub fn unwritten_lines(&self) -> impl Iterator<Item = LineView<'_>> {
        let growing = (0..self.instances.len()).filter_map(|ix| {
            let line = self.instances.get(ix)?.growing?;
            Some((ix, line.key, line.unwritten))
        });
        let pending = self.pending.iter().map(|((ix, key), unwritten)| (*ix, *key, *unwritten));
        growing
            .chain(pending)
            .filter_map(|(ix, key, unwritten)| self.line_view(self.view(ix)?, key, unwritten))
    }

    /// Whether lines of hours that are over wait for further ticks to be written.
    pub fn has_lines_to_write(&self) -> bool {
        self.pending.keys().any(|(_, key)| key.hour < self.written_until)
    }

    /// What was priced and no transfer holds yet, by account, debits less credits: what a `Tick` now
    /// would add to the balances of a tenant, or of all. `None` in place of a sum out of range.
    pub fn unposted(&self, tenant: Option<&TenantId>) -> BTreeMap<(Account, Currency), Option<Amount>> {
        let mut sums = BTreeMap::new();
        let mut add = |account: Account, currency: Currency, more: Option<Amount>| {
            let sum = sums.entry((account, currency)).or_insert(Some(Amount::ZERO));
            *sum = sum.zip(more).and_then(|(sum, more): (Amount, Amount)| sum.checked_add(more));
        };
        for (id, from) in self.to_settle(tenant, self.now) {
            let Some(tenant) = self.tenants.get(id) else { continue };
            let reach = Reach::from(from, &self.calendars, id, self.now);
            let differences = items(self.ground(), id, tenant, reach, &[])
                .and_then(|items| differences(tenant, from, &items, |posted| posted.accrued));
            let Ok(differences) = differences else {
                add(Account::Unbilled(id.clone()), tenant.currency, None);
                continue;
            };
            for (key, difference) in differences {
                let magnitude = if difference.amount < Amount::ZERO {
                    difference.amount.checked_neg()
                } else {
                    Some(difference.amount)
                };
                let accounts = posting(self.ground(), id, &tenant.credits, key.source, difference.amount);
                let Some((debit, credit, _)) = accounts.filter(|_| !difference.amount.is_zero()) else {
                    continue;
                };
                add(debit, tenant.currency, magnitude);
                add(credit, tenant.currency, magnitude.and_then(Amount::checked_neg));
            }
        }
        sums
    }

    /// The tenants, one or all, whose items may have changed since they were settled, and the first
    /// period in which they may have.
    pub(crate) fn to_settle(&self, only: Option<&TenantId>, now: Instant) -> BTreeMap<&TenantId, Month> {
        let mut tenants = self.groups.changed(only);
        let mut touch = |tenant, period: Month| {
            let first = tenants.entry(tenant).or_insert(period);
            *first = period.min(*first);
        };
        let wanted = |tenant: &TenantId| only.is_none_or(|only| only == tenant);
        for (tenant, period) in self.touched.iter().filter(|(tenant, _)| wanted(tenant)) {
            touch(tenant, *period);
        }
        // What the clock alone changes: hours of reservations, and what is due when a period is over.
        let mut by_clock = |tenant| touch(tenant, self.calendars.of(tenant).containing(self.settled_at));
        for held in
            self.reservations.iter().filter(|held| wanted(&held.tenant) && !held.is_over(self.settled_at))
        {
            by_clock(&held.tenant);
        }
        for tenant in self.prices.tenants_with_contracts().filter(|tenant| wanted(tenant)) {
            let calendar = self.calendars.of(tenant);
            if calendar.containing(self.settled_at) < calendar.containing(now) {
                by_clock(tenant);
            }
        }
        tenants
    }

    /// M-3: where every reported millisecond of the instances is for which `wanted` holds, those in
    /// suspense included where `suspense` says so.
    pub fn accounting(&self, wanted: impl Fn(&InstanceView<'_>) -> bool, suspense: bool) -> Accounting {
        let mut sum = Accounting::default();
        for view in self.instances().filter(wanted) {
            view.instance.account(self.now, &mut sum);
        }
        if suspense {
            self.suspense.values().for_each(|reports| account_suspense(reports, &mut sum));
        }
        sum
    }

    /// Looks the instances up again by id: the index is not part of a snapshot.
    pub(crate) fn reindex(&mut self) {
        self.instances.reindex();
    }
}

impl<'a> InstanceView<'a> {
    /// What it is called by who pays for it.
    pub fn labels(self) -> Option<&'a Labels> {
        self.labels
    }

    /// Its id.
    pub fn id(self) -> &'a InstanceId {
        &self.instance.id
    }

    /// Who pays.
    pub fn tenant(self) -> &'a TenantId {
        &self.group.tenant
    }

    /// For which project.
    pub fn project(self) -> &'a ProjectId {
        &self.group.project
    }

    /// On what, where, and how it is sold.
    pub fn sku(self) -> &'a Sku {
        &self.group.sku
    }

    /// In which it is billed.
    pub fn currency(self) -> Currency {
        self.group.currency
    }

    /// GPUs that it holds.
    pub fn gpus(self) -> u32 {
        self.instance.gpus
    }

    /// The only agent whose reports count.
    pub fn agent(self) -> Option<&'a AgentId> {
        self.agent
    }

    /// When it ran, the last interval until the end of time while it runs.
    pub fn running(self) -> &'a [hourglass_units::Interval] {
        self.instance.running.intervals()
    }

    /// Since when it runs, if it does.
    pub fn running_since(self) -> Option<Instant> {
        self.instance.running_since()
    }

    /// What was reported of it in good order.
    pub fn reported(self) -> &'a [hourglass_units::Interval] {
        self.instance.reported.intervals()
    }

    /// How it is sold over time, as it was said: since when, and how.
    pub fn modes(self) -> Vec<(Instant, Mode)> {
        match &self.instance.modes {
            Modes::Many(many) => many.assigned.clone(),
            Modes::One(step) => {
                let mode = match self.group.sku.model {
                    hourglass_pricing::PurchaseModel::Spot => {
                        Mode::Spot { bid: None, limit: step.limit, fabric: None }
                    }
                    _ => Mode::OnDemand,
                };
                vec![(step.from, mode)]
            }
        }
    }

    /// Whether it takes quota, and if so, whether it runs without a hold: `Some(true)` where it does.
    pub fn unheld(self) -> Option<bool> {
        self.instance.holding.map(|holding| holding.unheld)
    }

    /// What was voided of it.
    pub fn voided(self) -> &'a [Interval] {
        self.instance.voided().map_or(&[], |voided| voided.intervals())
    }
}

/// The instances, found by id through an index that holds no second copy of it.
#[derive(Clone, Default)]
pub(crate) struct Instances {
    all: Vec<Instance>,
    by_id: HashTable<InstanceIx>,
    hasher: DefaultHashBuilder,
}

impl Instances {
    pub(crate) fn len(&self) -> InstanceIx {
        // `push` refuses what does not fit.
        InstanceIx::try_from(self.all.len()).unwrap_or(InstanceIx::MAX)
    }

    #[inline]
    pub(crate) fn find(&self, id: &str) -> Option<InstanceIx> {
        let same = |ix: &InstanceIx| self.all.get(*ix as usize).is_some_and(|it| it.id.as_str() == id);
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    pub(crate) fn get(&self, ix: InstanceIx) -> Option<&Instance> {
        self.all.get(ix as usize)
    }

    pub(crate) fn get_mut(&mut self, ix: InstanceIx) -> Option<&mut Instance> {
        self.all.get_mut(ix as usize)
    }

    /// All, in the order of their registration.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (InstanceIx, &Instance)> {
        (0..).zip(self.all.iter())
    }

    /// All, for the close of an hour.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (InstanceIx, &mut Instance)> {
        (0..).zip(self.all.iter_mut())
    }

    /// Adds an instance whose id is new. `None` beyond 2^32.
    pub(crate) fn push(&mut self, instance: Instance) -> Option<InstanceIx> {
        let ix = InstanceIx::try_from(self.all.len()).ok()?;
        let hash = self.hasher.hash_one(instance.id.as_str());
        self.all.push(instance);
        let Self { all, by_id, hasher } = self;
        by_id.insert_unique(hash, ix, |ix| {
            all.get(*ix as usize).map_or(0, |it| hasher.hash_one(it.id.as_str()))
        });
        Some(ix)
    }

    fn reindex(&mut self) {
        let all = std::mem::take(&mut self.all);
        *self = Self { all: Vec::with_capacity(all.len()), ..Self::default() };
        self.by_id.reserve(all.len(), |_| 0);
        for instance in all {
            self.push(instance);
        }
    }
}

impl PartialEq for Instances {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Instances {}

impl std::fmt::Debug for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl Serialize for Instances {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Instances {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { all: Vec::deserialize(deserializer)?, ..Self::default() })
    }
}

impl State {
    /// The index of the agent, made where it is new.
    pub(crate) fn bind_agent(&mut self, agent: &AgentId) -> Option<AgentIx> {
        let known = self.agents.iter().position(|known| known == agent);
        let ix = known.unwrap_or_else(|| {
            self.agents.push(agent.clone());
            self.agents.len().saturating_sub(1)
        });
        AgentIx::try_from(ix).ok()
    }
}
