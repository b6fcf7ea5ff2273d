//! Every rate card and contract ever in force, and what they resolve to for a tenant.
//!
//! What a tenant pays for a SKU is the last of these layers that has a price at an instant:
//!
//! 1. the rate cards, a later version over an earlier one;
//! 2. re-ratings of the list;
//! 3. the tenant's contracts, version by version: their own price, else their discount off 1 and 2;
//! 4. re-ratings of the tenant.
//!
//! A version of a contract lies over the earlier ones of its name from its start to its end, SKU by
//! SKU: a SKU that it neither prices nor discounts stays with the version before. So with rules that
//! count periods: a version without any leaves those before it in force.

use std::collections::BTreeMap;

use hourglass_units::{Currency, INSTANT_MAX, Instant, Interval, Price, RateCardName, TenantId};
use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;
use crate::card::{PurchaseModel, RateCard, Sku};
use crate::contract::Contract;
use crate::settle::Agreement;
use crate::spot::{SpotPool, SpotPrices};
use crate::terms::Sla;
use crate::timeline::{CardVersion, PriceStep, PriceTimeline};

mod error;
mod layers;

pub use error::PriceBookError;
use layers::{Layers, Span};

/// Another price for time that is rated already.
///
/// Its card is one of its own: its name and version need not follow any that is published, and its
/// prices hold within the interval alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerating {
    /// The prices.
    pub card: RateCard,
    /// For which time.
    pub interval: Interval,
    /// For one tenant, whatever it pays; absent, it is the list that changes: contract prices stay,
    /// and discounts are taken off the new list price.
    pub tenant: Option<TenantId>,
}

/// All versions of all cards and contracts, and the timelines that they make together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PriceBook {
    cards: BTreeMap<RateCardName, Vec<RateCard>>,
    contracts: BTreeMap<TenantId, BTreeMap<RateCardName, Vec<Contract>>>,
    reratings: Vec<Rerating>,
    /// List prices as published: all cards laid over one another.
    list: BTreeMap<(Currency, Sku), PriceTimeline>,
    /// List prices of what was re-rated: re-ratings laid over `list`.
    rerated: BTreeMap<(Currency, Sku), PriceTimeline>,
    /// The market's prices.
    spot: BTreeMap<SpotPool, SpotPrices>,
}

impl PriceBook {
    /// Whether the card fits. Time before `unrated_from` may be rated already: what has a price there
    /// keeps it.
    pub fn check_card(&self, card: &RateCard, unrated_from: Instant) -> Result<(), PriceBookError> {
        let id = card.id();
        let versions = self.cards.get(&id.name).map(Vec::as_slice).unwrap_or_default();
        check_version(id, versions.len())?;
        let from = card.effective_from();
        if let Some(before) = versions.last() {
            if before.currency() != card.currency() {
                let (given, expected) = (card.currency(), before.currency());
                return Err(PriceBookError::CurrencyChanged { card: id.clone(), given, expected });
            }
            let earliest = unrated_from.max(before.effective_from().saturating_add_ms(1));
            if from < earliest {
                return Err(PriceBookError::TakesEffectInThePast { card: id.clone(), from, earliest });
            }
            if let Some(sku) = before.prices().keys().find(|sku| !card.prices().contains_key(sku)) {
                let (sku, before) = (sku.clone(), before.id().clone());
                return Err(PriceBookError::ForgetsSku { card: id.clone(), sku, before, from });
            }
        }
        for (sku, prices) in card.prices() {
            let Some(listed) = self.list.get(&(card.currency(), sku.clone())) else { continue };
            for step in prices.steps() {
                // Only a later version of the same name may take over time that has a price.
                if let Some(other) = listed.within(step.interval).find(|other| other.source.name != id.name) {
                    let interval = step.interval.intersection(other.interval).unwrap_or(step.interval);
                    return Err(overlaps(id, sku, interval, &other.source));
                }
            }
        }
        Ok(())
    }

    /// Whether the contract fits. Time before `unrated_from` may be rated already.
    ///
    /// Checked in this order: version, start, commitments of earlier versions, list prices, other
    /// contracts.
    pub fn check_contract(
        &self,
        contract: &Contract,
        currency: Currency,
        unrated_from: Instant,
    ) -> Result<(), PriceBookError> {
        let id = contract.id();
        let mine = self.contracts.get(contract.tenant());
        let versions = mine.and_then(|mine| mine.get(&id.name)).map(Vec::as_slice).unwrap_or_default();
        check_version(id, versions.len())?;
        let from = contract.effective().start();
        let earliest = versions
            .last()
            .map_or(unrated_from, |before| unrated_from.max(before.effective().start().saturating_add_ms(1)));
        if from < earliest {
            return Err(PriceBookError::TakesEffectInThePast { card: id.clone(), from, earliest });
        }
        let committed = |it: &&Contract| it.terms().commitment.is_some() && it.effective().contains(from);
        if let Some(before) = versions.iter().find(committed) {
            let (card, other, until) = (id.clone(), before.id().clone(), before.effective().end());
            return Err(PriceBookError::WithinCommitment { card, from, other, until });
        }
        for sku in contract.prices().keys() {
            let listed = self.listed(currency, sku).and_then(PriceTimeline::priced_from);
            if listed.is_none_or(|listed| listed > from) {
                let (card, sku) = (id.clone(), sku.clone());
                return Err(PriceBookError::NotOnAnyCard { card, sku, currency, from });
            }
        }
        let others = mine.into_iter().flatten().filter(|(name, _)| **name != id.name);
        others.flat_map(|(_, versions)| versions.iter().rev()).try_for_each(|it| check_apart(contract, it))
    }

    /// Puts a card in force that [`Self::check_card`] found to fit.
    pub fn publish(&mut self, card: RateCard) {
        for (sku, prices) in card.prices() {
            let key = (card.currency(), sku.clone());
            let listed = self.list.entry(key.clone()).or_default();
            *listed = listed.overlaid_with(prices);
            if self.rerated.contains_key(&key) {
                self.relist(&key);
            }
        }
        self.cards.entry(card.id().name.clone()).or_default().push(card);
    }

    /// Puts a contract in force that [`Self::check_contract`] found to fit.
    pub fn sign(&mut self, contract: Contract) {
        let mine = self.contracts.entry(contract.tenant().clone()).or_default();
        mine.entry(contract.id().name.clone()).or_default().push(contract);
    }

    /// What the tenant pays for the SKU over all time: its contracts laid over the list.
    ///
    /// Where a spot pool has a price, that goes before: [`Self::spot`].
    pub fn timeline(&self, tenant: &TenantId, currency: Currency, sku: &Sku) -> PriceTimeline {
        let listed = self.listed(currency, sku);
        let list = || listed.into_iter().flat_map(PriceTimeline::steps);
        let contracts = self.contracts.get(tenant);
        let mut reratings = self.reratings_of(Some(tenant), currency, sku).peekable();
        if contracts.is_none() && reratings.peek().is_none() {
            return listed.cloned().unwrap_or_default();
        }
        let mut layers = Layers::of(list().map(|step| (step.interval, Paid::as_written(step))));
        for contract in contracts.into_iter().flat_map(BTreeMap::values).flatten() {
            if let Some(prices) = contract.prices().get(sku) {
                let paid = prices.steps().iter().map(|step| (step.interval, Paid::as_written(step)));
                layers.lay(contract.effective(), paid);
            } else if let Some(discount) = contract.discount_on(sku) {
                let rest = discount.percent_off.complement();
                let paid = list().filter_map(|step| {
                    let price = rest?.of_price(step.price)?;
                    Some((step.interval, Paid { price, source: contract.id(), step, discounted: true }))
                });
                layers.lay(contract.effective(), paid);
            }
        }
        for (interval, prices) in reratings {
            layers.lay(interval, prices.steps().iter().map(|step| (step.interval, Paid::as_written(step))));
        }
        PriceTimeline::from_sorted(layers.into_spans().map(Paid::into_step).collect())
    }

    /// What the list says that a SKU costs at an instant, contracts left aside.
    pub fn list_price(&self, currency: Currency, sku: &Sku, at: Instant) -> Option<Price> {
        self.listed(currency, sku)?.at(at).map(|step| step.price)
    }

    /// The prices of a spot pool, where it has any: they go before the list from their first on.
    pub fn spot(&self, pool: &SpotPool) -> Option<&SpotPrices> {
        self.spot.get(pool)
    }

    /// All pools of a SKU that have prices, that of no fabric first.
    pub fn spots(&self, currency: Currency, sku: &Sku) -> impl Iterator<Item = (&SpotPool, &SpotPrices)> {
        let first = SpotPool { currency, sku: sku.clone(), fabric: None };
        self.spot.range(first..).take_while(move |(pool, _)| pool.currency == currency && pool.sku == *sku)
    }

    /// Whether a pool may have another price from an instant on, which is not before `earliest`: the
    /// past of a market never changes.
    pub fn check_spot(
        &self,
        pool: &SpotPool,
        from: Instant,
        price: Price,
        earliest: Instant,
    ) -> Result<(), PriceBookError> {
        let (currency, sku) = (pool.currency, || pool.sku.clone());
        if sku().model != PurchaseModel::Spot {
            return Err(PriceBookError::NotSpot { sku: sku() });
        }
        let listed = self.listed(currency, &sku()).and_then(PriceTimeline::priced_from);
        if listed.is_none_or(|listed| listed > from) {
            return Err(PriceBookError::PoolWithoutList { sku: sku(), currency, from });
        }
        let last = self.spot(pool).and_then(SpotPrices::last);
        let earliest = last.map_or(earliest, |(last, _)| earliest.max(last.saturating_add_ms(1)));
        if from < earliest {
            return Err(PriceBookError::SpotInThePast { sku: sku(), price, from, earliest });
        }
        Ok(())
    }

    /// Gives a pool a price that [`Self::check_spot`] found to fit.
    pub fn set_spot(&mut self, pool: SpotPool, from: Instant, price: Price) {
        self.spot.entry(pool).or_default().push(from, price);
    }

    /// Whether a re-rating fits. `currency` is the tenant's, or the card's own where the list is
    /// re-rated. Only time before `unrated_from` may be rated already; what comes after is for a
    /// version.
    pub fn check_rerating(
        &self,
        rerating: &Rerating,
        currency: Currency,
        unrated_from: Instant,
    ) -> Result<(), PriceBookError> {
        let Rerating { card, interval, tenant } = rerating;
        let id = || card.id().clone();
        if card.currency() != currency {
            let given = card.currency();
            return Err(PriceBookError::RerateCurrency { card: id(), given, expected: currency });
        }
        if interval.end() > unrated_from {
            let (until, latest) = (interval.end(), unrated_from);
            return Err(PriceBookError::ReratesTheFuture { card: id(), until, latest });
        }
        for (sku, prices) in card.prices() {
            let first = self.spots(currency, sku).filter_map(|(_, prices)| prices.since()).min();
            if let Some(since) = first.filter(|since| *since < interval.end()) {
                return Err(PriceBookError::ReratesTheMarket { card: id(), sku: sku.clone(), since });
            }
            let gap = |interval, what| {
                let sku = sku.clone();
                Err(PriceBookError::RerateGap { card: id(), sku, interval, what })
            };
            if let Some(interval) = prices.first_gap(*interval) {
                return gap(interval, "the card has no price");
            }
            let before = match tenant {
                Some(tenant) => self.timeline(tenant, currency, sku).first_gap(*interval),
                None => {
                    self.listed(currency, sku).map_or(Some(*interval), |listed| listed.first_gap(*interval))
                }
            };
            if let Some(interval) = before {
                return gap(interval, "there was no price");
            }
        }
        Ok(())
    }

    /// Puts a re-rating in force that [`Self::check_rerating`] found to fit. It lies over those before
    /// it; one of a tenant lies over any of the list.
    pub fn rerate(&mut self, rerating: Rerating) {
        let currency = rerating.card.currency();
        let skus: Vec<Sku> = rerating.card.prices().keys().cloned().collect();
        let of_the_list = rerating.tenant.is_none();
        self.reratings.push(rerating);
        for sku in skus.into_iter().filter(|_| of_the_list) {
            self.relist(&(currency, sku));
        }
    }

    /// All re-ratings, in the order in which they were made.
    pub fn reratings(&self) -> &[Rerating] {
        &self.reratings
    }

    /// The rules of the tenant that count periods, in order of time, for [`crate::settle::settle`].
    ///
    /// [`crate::check_periods`] has seen to it that they begin and end with periods of the calendar.
    pub fn agreements<'a>(&'a self, tenant: &TenantId, calendar: &Calendar) -> Vec<Agreement<'a>> {
        let mut layers = Layers::default();
        for contract in self.contracts(tenant).filter(|it| it.terms().counts_periods()) {
            layers.lay(contract.effective(), [(contract.effective(), contract)]);
        }
        let agreement = |(interval, contract): Span<&'a Contract>| {
            let (source, terms) = (contract.id(), contract.terms());
            let first = calendar.containing(interval.start());
            let ends = Some(interval.end()).filter(|end| *end != INSTANT_MAX);
            let last = ends.map(|end| calendar.containing(end.saturating_add_ms(-1)));
            Agreement { first, last, source, terms }
        };
        layers.into_spans().map(agreement).collect()
    }

    /// Which SLA the tenant has at an instant, and by which contract: that of the last version in force
    /// that has one.
    pub fn sla_at(&self, tenant: &TenantId, at: Instant) -> Option<(&CardVersion, &Sla)> {
        let in_force = self.contracts(tenant).filter(|it| it.effective().contains(at));
        in_force.filter_map(|it| Some((it.id(), it.terms().sla.as_ref()?))).last()
    }

    /// All versions of all cards, by name and version.
    pub fn cards(&self) -> impl Iterator<Item = &RateCard> {
        self.cards.values().flatten()
    }

    /// All versions of the tenant's contracts, by name and version.
    pub fn contracts(&self, tenant: &TenantId) -> impl Iterator<Item = &Contract> {
        self.contracts.get(tenant).into_iter().flat_map(|mine| mine.values().flatten())
    }

    /// Tenants that ever signed a contract.
    pub fn tenants_with_contracts(&self) -> impl Iterator<Item = &TenantId> {
        self.contracts.keys()
    }

    /// The list price, with re-ratings.
    fn listed(&self, currency: Currency, sku: &Sku) -> Option<&PriceTimeline> {
        let key = (currency, sku.clone());
        self.rerated.get(&key).or_else(|| self.list.get(&key))
    }

    /// The re-ratings of a tenant, or of the list, that price the SKU.
    fn reratings_of<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        currency: Currency,
        sku: &'a Sku,
    ) -> impl Iterator<Item = (Interval, &'a PriceTimeline)> {
        let of = move |it: &&Rerating| it.tenant.as_ref() == tenant && it.card.currency() == currency;
        let prices = |it: &'a Rerating| Some((it.interval, it.card.prices().get(sku)?));
        self.reratings.iter().filter(of).filter_map(prices)
    }

    /// Lays the re-ratings of the list over what is published.
    fn relist(&mut self, key: &(Currency, Sku)) {
        let of = |step: &PriceStep| (step.interval, step.clone());
        let mut layers = Layers::of(self.list.get(key).into_iter().flat_map(PriceTimeline::steps).map(of));
        for (interval, prices) in self.reratings_of(None, key.0, &key.1) {
            layers.lay(interval, prices.steps().iter().map(of));
        }
        let steps = layers.into_spans().map(|(interval, step)| PriceStep { interval, ..step }).collect();
        self.rerated.insert(key.clone(), PriceTimeline::from_sorted(steps));
    }
}

/// A price and where it comes from, borrowed until the timeline is whole.
#[derive(Debug, Clone, Copy)]
struct Paid<'a> {
    price: Price,
    source: &'a CardVersion,
    /// The step of the card or contract; under a discount the step of the list.
    step: &'a PriceStep,
    discounted: bool,
}

impl<'a> Paid<'a> {
    fn as_written(step: &'a PriceStep) -> Self {
        Self { price: step.price, source: &step.source, step, discounted: false }
    }

    fn into_step((interval, paid): Span<Self>) -> PriceStep {
        let Self { price, source, step, discounted } = paid;
        let list = discounted.then(|| (step.source.clone(), step.price));
        PriceStep { interval, price, source: source.clone(), list, components: step.components.clone() }
    }
}

fn check_version(id: &CardVersion, known: usize) -> Result<(), PriceBookError> {
    let expected = u32::try_from(known).unwrap_or(u32::MAX).saturating_add(1);
    if id.version == expected {
        Ok(())
    } else {
        Err(PriceBookError::WrongVersion { given: id.clone(), expected })
    }
}

fn overlaps(id: &CardVersion, sku: &Sku, interval: Interval, other: &CardVersion) -> PriceBookError {
    let (card, sku, other) = (id.clone(), sku.clone(), other.clone());
    PriceBookError::OverlapsOther { card, sku, interval, other }
}

/// Whether contracts of two names can stand beside each other: a SKU has one of them that says its
/// price, and a period one of them that counts it.
fn check_apart(contract: &Contract, other: &Contract) -> Result<(), PriceBookError> {
    let Some(interval) = contract.effective().intersection(other.effective()) else { return Ok(()) };
    let says = |it: &Contract, sku: &Sku| it.prices().contains_key(sku) || it.discount_on(sku).is_some();
    let mut both = contract.prices().keys().filter(|sku| says(other, sku));
    let mut others = other.prices().keys().filter(|sku| says(contract, sku));
    if let Some(sku) = both.next().or_else(|| others.next()) {
        return Err(overlaps(contract.id(), sku, interval, other.id()));
    }
    let (mine, theirs) = (contract.terms(), other.terms());
    let discounts = |it| theirs.discounts.iter().any(|other| other.scope.overlaps(it));
    let rule = if mine.discounts.iter().any(|it| discounts(&it.scope)) {
        "a discount on the same SKUs"
    } else if mine.counts_periods() && theirs.counts_periods() {
        "rules that count billing periods"
    } else if mine.sla.is_some() && theirs.sla.is_some() {
        "an sla"
    } else {
        return Ok(());
    };
    let (card, other) = (contract.id().clone(), other.id().clone());
    Err(PriceBookError::RulesOverlap { card, rule, interval, other })
}
