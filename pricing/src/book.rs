//! Every rate card and contract ever in force, and what they resolve to for a tenant.

use std::collections::BTreeMap;

use hourglass_units::{Currency, Instant, Interval, RateCardName, TenantId};
use serde::{Deserialize, Serialize};

use crate::card::{Contract, RateCard, Sku};
use crate::timeline::{CardVersion, PriceTimeline};

/// Why a card or contract that holds together does not fit what is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceBookError {
    /// Versions of a name follow one another.
    #[error("{given} does not follow: the next version of {} is {expected}", .given.name)]
    WrongVersion {
        /// What was given.
        given: CardVersion,
        /// What must come next.
        expected: u32,
    },
    /// It would change the price of time that may be rated already.
    #[error(
        "{card} takes effect at {from}, before {earliest}: time that may be rated already changes price by re-rating only"
    )]
    TakesEffectInThePast {
        /// Which card or contract.
        card: CardVersion,
        /// Its start.
        from: Instant,
        /// The earliest start allowed.
        earliest: Instant,
    },
    /// A version that forgets a SKU would leave a gap.
    #[error("{card} has no price for {sku}, which {} has: from {from} on there would be a gap", .before)]
    ForgetsSku {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// The version before.
        before: CardVersion,
        /// Start of the gap.
        from: Instant,
    },
    /// Two cards, or two contracts of a tenant, price the same SKU at the same time.
    #[error("{card} prices {sku} over {interval}, which {other} prices already: an overlap")]
    OverlapsOther {
        /// Which card or contract.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Where.
        interval: Interval,
        /// The one in force.
        other: CardVersion,
    },
    /// A contract for what no card prices would leave a gap when it ends.
    #[error(
        "{card} prices {sku}, which no {currency} rate card prices at {from}: publish the list price first"
    )]
    NotOnAnyCard {
        /// Which contract.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// The tenant's currency.
        currency: Currency,
        /// Start of the contract.
        from: Instant,
    },
    /// A name is a card of one currency.
    #[error(
        "{card} is in {given}, its earlier versions in {expected}: use another name for another currency"
    )]
    CurrencyChanged {
        /// Which card.
        card: CardVersion,
        /// What was given.
        given: Currency,
        /// What it was.
        expected: Currency,
    },
}

/// All versions of all cards and contracts, and the timelines that they make together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PriceBook {
    cards: BTreeMap<RateCardName, Vec<RateCard>>,
    contracts: BTreeMap<TenantId, BTreeMap<RateCardName, Vec<Contract>>>,
    /// List prices: all cards laid over one another.
    list: BTreeMap<(Currency, Sku), PriceTimeline>,
    /// Contract prices of each tenant: all its contracts laid over one another.
    agreed: BTreeMap<TenantId, BTreeMap<Sku, PriceTimeline>>,
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
            let listed = self.list.get(&(card.currency(), sku.clone()));
            check_overlap(id, sku, prices, listed)?;
        }
        Ok(())
    }

    /// Whether the contract fits. Time before `unrated_from` may be rated already.
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
        let agreed = self.agreed.get(contract.tenant());
        for (sku, prices) in contract.prices() {
            let listed = self.list.get(&(currency, sku.clone())).and_then(PriceTimeline::priced_from);
            if listed.is_none_or(|listed| listed > from) {
                return Err(PriceBookError::NotOnAnyCard {
                    card: id.clone(),
                    sku: sku.clone(),
                    currency,
                    from,
                });
            }
            check_overlap(id, sku, prices, agreed.and_then(|agreed| agreed.get(sku)))?;
        }
        Ok(())
    }

    /// Puts a card in force that [`Self::check_card`] found to fit.
    pub fn publish(&mut self, card: RateCard) {
        for (sku, prices) in card.prices() {
            let listed = self.list.entry((card.currency(), sku.clone())).or_default();
            *listed = listed.overlaid_with(prices);
        }
        self.cards.entry(card.id().name.clone()).or_default().push(card);
    }

    /// Puts a contract in force that [`Self::check_contract`] found to fit.
    pub fn sign(&mut self, contract: Contract) {
        let agreed = self.agreed.entry(contract.tenant().clone()).or_default();
        for (sku, prices) in contract.prices() {
            let agreed = agreed.entry(sku.clone()).or_default();
            *agreed = agreed.overlaid_with(prices);
        }
        let mine = self.contracts.entry(contract.tenant().clone()).or_default();
        mine.entry(contract.id().name.clone()).or_default().push(contract);
    }

    /// What the tenant pays for the SKU over all time: its contracts laid over the list.
    pub fn timeline(&self, tenant: &TenantId, currency: Currency, sku: &Sku) -> PriceTimeline {
        let listed = self.list.get(&(currency, sku.clone())).cloned().unwrap_or_default();
        match self.agreed.get(tenant).and_then(|agreed| agreed.get(sku)) {
            None => listed,
            Some(agreed) => {
                // Contracts may leave time between them: lay each run of steps over the list.
                agreed.steps().iter().fold(listed, |priced, step| {
                    priced.overlaid_with(&PriceTimeline::from_sorted(vec![step.clone()]))
                })
            }
        }
    }

    /// All versions of all cards, by name and version.
    pub fn cards(&self) -> impl Iterator<Item = &RateCard> {
        self.cards.values().flatten()
    }

    /// All versions of the tenant's contracts, by name and version.
    pub fn contracts(&self, tenant: &TenantId) -> impl Iterator<Item = &Contract> {
        self.contracts.get(tenant).into_iter().flat_map(|mine| mine.values().flatten())
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

/// Only a later version of the same name may take over time that has a price.
fn check_overlap(
    id: &CardVersion,
    sku: &Sku,
    prices: &PriceTimeline,
    in_force: Option<&PriceTimeline>,
) -> Result<(), PriceBookError> {
    let Some(in_force) = in_force else { return Ok(()) };
    for step in prices.steps() {
        if let Some(other) = in_force.within(step.interval).find(|other| other.source.name != id.name) {
            let interval = step.interval.intersection(other.interval).unwrap_or(step.interval);
            let (card, sku, other) = (id.clone(), sku.clone(), other.source.clone());
            return Err(PriceBookError::OverlapsOther { card, sku, interval, other });
        }
    }
    Ok(())
}
