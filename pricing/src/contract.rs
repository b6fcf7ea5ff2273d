//! Contracts: what one tenant pays, and by which rules.

use std::collections::BTreeMap;

use hourglass_units::{INSTANT_MAX, Instant, Interval, RateCardName, TenantId};
use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;
use crate::card::{CardError, PriceDraft, Sku, tile};
use crate::terms::{Discount, Terms};
use crate::timeline::{CardVersion, PriceTimeline};

/// A tenant's own prices and rules as written: they go before the card while the contract runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractDraft {
    /// The name that all versions share.
    pub name: RateCardName,
    /// From 1, without a gap.
    pub version: u32,
    /// From when it holds.
    pub effective_from: Instant,
    /// Until when; open where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_until: Option<Instant>,
    /// Its prices. There may be none where there are terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<PriceDraft>,
    /// Its other rules.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terms: Terms,
}

fn is_default(terms: &Terms) -> bool {
    *terms == Terms::default()
}

/// A contract that holds together: each SKU on it is priced all the time that the contract runs, and
/// no two of its rules contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    id: CardVersion,
    tenant: TenantId,
    effective: Interval,
    prices: BTreeMap<Sku, PriceTimeline>,
    terms: Terms,
}

impl Contract {
    /// Checks a draft; the error names the first place that is wrong. Prices come first, then terms.
    ///
    /// Scopes of discounts, allowances and tiers that name no purchase model come out as on-demand.
    pub fn check(tenant: TenantId, draft: ContractDraft) -> Result<Self, CardError> {
        let id = CardVersion { name: draft.name, version: draft.version };
        if draft.prices.is_empty() && draft.terms == Terms::default() && id.version > 0 {
            return Err(CardError::SaysNothing { card: id });
        }
        let (effective, prices) = tile(&id, draft.effective_from, draft.effective_until, draft.prices)?;
        let terms = draft
            .terms
            .checked(draft.effective_until.is_some())
            .map_err(|error| CardError::Terms { card: id.clone(), error })?;
        Ok(Self { id, tenant, effective, prices, terms })
    }

    /// Name and version.
    pub fn id(&self) -> &CardVersion {
        &self.id
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its rules beside the prices.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// While it runs.
    pub fn effective(&self) -> Interval {
        self.effective
    }

    /// The prices of each SKU.
    pub fn prices(&self) -> &BTreeMap<Sku, PriceTimeline> {
        &self.prices
    }

    /// Its discount on the SKU. One at most, since two that overlap are refused.
    pub(crate) fn discount_on(&self, sku: &Sku) -> Option<&Discount> {
        self.terms.discounts.iter().find(|discount| discount.scope.covers_sku(sku))
    }
}

/// Whether rules that count whole billing periods begin and end with one.
///
/// A check of its own, because a contract does not know its tenant's calendar. Contracts whose rules
/// count nothing may begin and end at any instant.
pub fn check_periods(contract: &Contract, calendar: &Calendar) -> Result<(), CardError> {
    if !contract.terms.counts_periods() {
        return Ok(());
    }
    let (start, end) = (contract.effective.start(), contract.effective.end());
    let check = |what, at: Instant| {
        let period = calendar.interval(calendar.containing(at));
        if period.start() == at {
            return Ok(());
        }
        let (before, after) = (period.start(), period.end());
        Err(CardError::WithinAPeriod { card: contract.id.clone(), what, at, before, after })
    };
    check("begins", start)?;
    if end == INSTANT_MAX { Ok(()) } else { check("ends", end) }
}
