//! Rate cards: read as drafts, used only once checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hourglass_units::{
    Amount, Currency, INSTANT_MAX, Instant, Interval, Platform, Price, Quantity, RateCardName, Region,
};
use serde::{Deserialize, Serialize};

use crate::terms::TermsError;
use crate::timeline::{CardVersion, Components, PriceStep, PriceTimeline};

/// Most prices on one card or contract.
pub const CARD_PRICES_MAX: usize = 10_000;
/// Most components of one price.
pub const COMPONENTS_MAX: usize = 32;
/// Longest name of a component, in characters.
pub const COMPONENT_NAME_LENGTH_MAX: usize = 64;
/// One GPU-hour.
const GPU_HOUR: Quantity = Quantity::from_nanos(1_000_000_000);

/// How GPU-hours are sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurchaseModel {
    /// At the list or contract price, for as long as it runs.
    OnDemand,
    /// Out of GPUs that the tenant has reserved.
    Reserved,
    /// Interruptible, at the spot price.
    Spot,
}

impl PurchaseModel {
    /// Every model.
    pub const ALL: [Self; 3] = [Self::OnDemand, Self::Reserved, Self::Spot];

    /// The name on cards, lines and exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Reserved => "reserved",
            Self::Spot => "spot",
        }
    }
}

impl fmt::Display for PurchaseModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no purchase model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown purchase model {0:?}: use on_demand, reserved or spot")]
pub struct UnknownModel(pub String);

impl FromStr for PurchaseModel {
    type Err = UnknownModel;

    fn from_str(text: &str) -> Result<Self, UnknownModel> {
        Self::ALL
            .into_iter()
            .find(|model| model.as_str() == text)
            .ok_or_else(|| UnknownModel(text.chars().take(48).collect()))
    }
}

/// What a price is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sku {
    /// GPU platform.
    pub platform: Platform,
    /// Region.
    pub region: Region,
    /// How it is sold.
    pub model: PurchaseModel,
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, {}", self.platform, self.region, self.model)
    }
}

/// A part of a price: so much of something in each GPU-hour, at a price of its own.
///
/// Components let a price be cut anew (a GPU, its vCPUs and its memory sold as one) without a
/// difference: together they are the price, exactly, or the card is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What it is, such as `vcpu`.
    pub name: String,
    /// How much of it a GPU-hour holds, as a decimal string such as `16`.
    pub quantity: Quantity,
    /// What one of it costs for an hour.
    pub price: Price,
}

/// One price as written on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceDraft {
    /// GPU platform.
    pub platform: Platform,
    /// Region.
    pub region: Region,
    /// How it is sold.
    pub model: PurchaseModel,
    /// Per GPU-hour, as a decimal string.
    pub price: Price,
    /// From when; the card's own start where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Instant>,
    /// Until when; the card's own end where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Instant>,
    /// What the price is made of. May be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
}

/// A rate card as written: the prices of one currency from a date on, until a later version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateCardDraft {
    /// The name that all versions share.
    pub name: RateCardName,
    /// From 1, without a gap.
    pub version: u32,
    /// One currency a card.
    pub currency: Currency,
    /// From when it holds.
    pub effective_from: Instant,
    /// Its prices.
    pub prices: Vec<PriceDraft>,
}

/// What is wrong within one card or contract. The whole of it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// No price at all.
    #[error("{card} has no prices: add at least one")]
    Empty {
        /// Which card.
        card: CardVersion,
    },
    /// More than [`CARD_PRICES_MAX`].
    #[error("{card} has {count} prices: at most {CARD_PRICES_MAX} are allowed, split it by name")]
    TooMany {
        /// Which card.
        card: CardVersion,
        /// Prices on it.
        count: usize,
    },
    /// Versions count from 1.
    #[error("{card}: versions count from 1")]
    VersionZero {
        /// Which card.
        card: CardVersion,
    },
    /// The end is not after the start, of the card or of one price.
    #[error("{card}: {what} ends at {until}, which is not after its start {from}")]
    Reversed {
        /// Which card.
        card: CardVersion,
        /// The card itself, or the SKU.
        what: String,
        /// Start.
        from: Instant,
        /// End.
        until: Instant,
    },
    /// A price reaches outside the time that the card speaks for.
    #[error("{card}: the price of {sku} over {interval} reaches outside of the card's own time {effective}")]
    Outside {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// The price's time.
        interval: Interval,
        /// The card's time.
        effective: Interval,
    },
    /// Milliseconds without a price.
    #[error("{card}: {sku} has no price over {interval}: a gap would leave usage unbilled")]
    Gap {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Where.
        interval: Interval,
    },
    /// Milliseconds with two prices.
    #[error("{card}: {sku} has two prices over {interval}: {first} and {second}")]
    Overlap {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Where.
        interval: Interval,
        /// The earlier price.
        first: Price,
        /// The later one.
        second: Price,
    },
    /// Neither a price nor a rule.
    #[error("{card} has neither prices nor terms: add at least one")]
    SaysNothing {
        /// Which contract.
        card: CardVersion,
    },
    /// A price for reserved GPUs.
    #[error("{card} prices {sku}: a reservation carries its own price, leave it out")]
    Reserved {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
    },
    /// The components of a price do not make it.
    #[error("{card}: the components of {sku} make {components}, its price is {price}: both must be the same")]
    ComponentsDiffer {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Σ quantity × price.
        components: Amount,
        /// What the card says.
        price: Price,
    },
    /// A component that cannot be.
    #[error("{card}: component {name:?} of {sku} {fault}")]
    Component {
        /// Which card.
        card: CardVersion,
        /// Which SKU.
        sku: Sku,
        /// Which component, cut to a printable length.
        name: String,
        /// What is wrong with it, and what to do.
        fault: &'static str,
    },
    /// A rule of a contract that cannot be.
    #[error("{card}: {error}")]
    Terms {
        /// Which contract.
        card: CardVersion,
        /// Which rule, and what is wrong.
        error: TermsError,
    },
    /// Rules that count billing periods begin or end within one.
    #[error(
        "{card} {what} at {at}, within a billing period that its rules count: let it do so at {before} or at {after}"
    )]
    WithinAPeriod {
        /// Which contract.
        card: CardVersion,
        /// `begins` or `ends`.
        what: &'static str,
        /// When.
        at: Instant,
        /// The boundary before.
        before: Instant,
        /// The boundary after.
        after: Instant,
    },
}

/// A rate card that holds together: each SKU on it is priced from `effective_from` to the end of
/// time, by exactly one price at each instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateCard {
    id: CardVersion,
    currency: Currency,
    effective_from: Instant,
    prices: BTreeMap<Sku, PriceTimeline>,
}

impl RateCard {
    /// Checks a draft; the error names the first place that is wrong.
    pub fn check(draft: RateCardDraft) -> Result<Self, CardError> {
        let id = CardVersion { name: draft.name, version: draft.version };
        if draft.prices.is_empty() && id.version > 0 {
            return Err(CardError::Empty { card: id });
        }
        let (_, prices) = tile(&id, draft.effective_from, None, draft.prices)?;
        Ok(Self { id, currency: draft.currency, effective_from: draft.effective_from, prices })
    }

    /// Name and version.
    pub fn id(&self) -> &CardVersion {
        &self.id
    }

    /// The currency of all its prices.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// From when it holds.
    pub fn effective_from(&self) -> Instant {
        self.effective_from
    }

    /// The prices of each SKU.
    pub fn prices(&self) -> &BTreeMap<Sku, PriceTimeline> {
        &self.prices
    }
}

/// Sorts the prices by SKU and time and proves that each SKU tiles `[from, until)`, which is given
/// back as well.
pub(crate) fn tile(
    card: &CardVersion,
    from: Instant,
    until: Option<Instant>,
    prices: Vec<PriceDraft>,
) -> Result<(Interval, BTreeMap<Sku, PriceTimeline>), CardError> {
    let id = || card.clone();
    if card.version == 0 {
        return Err(CardError::VersionZero { card: id() });
    }
    if prices.len() > CARD_PRICES_MAX {
        return Err(CardError::TooMany { card: id(), count: prices.len() });
    }
    let until = until.unwrap_or(INSTANT_MAX);
    let reversed = |what: String, from, until| CardError::Reversed { card: id(), what, from, until };
    let effective = Interval::between(from, until).ok_or_else(|| reversed("it".to_owned(), from, until))?;

    let mut by_sku: BTreeMap<Sku, Vec<PriceStep>> = BTreeMap::new();
    for draft in prices {
        let sku = Sku { platform: draft.platform, region: draft.region, model: draft.model };
        let (from, until) = (draft.from.unwrap_or(from), draft.until.unwrap_or(until));
        let interval =
            Interval::between(from, until).ok_or_else(|| reversed(sku.to_string(), from, until))?;
        if effective.intersection(interval) != Some(interval) {
            return Err(CardError::Outside { card: id(), sku, interval, effective });
        }
        if sku.model == PurchaseModel::Reserved {
            return Err(CardError::Reserved { card: id(), sku });
        }
        check_components(card, &sku, draft.price, &draft.components)?;
        let components = Components::from(draft.components);
        let step = PriceStep { interval, price: draft.price, source: id(), list: None, components };
        by_sku.entry(sku).or_default().push(step);
    }

    let mut tiled = BTreeMap::new();
    for (sku, mut steps) in by_sku {
        steps.sort_by_key(|step| step.interval);
        check_tiling(card, &sku, effective, &steps)?;
        tiled.insert(sku, PriceTimeline::from_sorted(steps));
    }
    Ok((effective, tiled))
}

/// Whether the sorted steps tile the time, without a gap or an overlap.
fn check_tiling(
    card: &CardVersion,
    sku: &Sku,
    effective: Interval,
    steps: &[PriceStep],
) -> Result<(), CardError> {
    let gap = |interval| CardError::Gap { card: card.clone(), sku: sku.clone(), interval };
    let mut reached = effective.start();
    let mut first = Price::ZERO;
    for step in steps {
        let (start, end) = (step.interval.start(), step.interval.end());
        if let Some(interval) = Interval::between(reached, start) {
            return Err(gap(interval));
        }
        if let Some(interval) = Interval::between(start, reached.min(end)) {
            let (card, sku, second) = (card.clone(), sku.clone(), step.price);
            return Err(CardError::Overlap { card, sku, interval, first, second });
        }
        (reached, first) = (end, step.price);
    }
    Interval::between(reached, effective.end()).map_or(Ok(()), |interval| Err(gap(interval)))
}

/// Whether the components of a price make it, exactly.
fn check_components(
    card: &CardVersion,
    sku: &Sku,
    price: Price,
    components: &[Component],
) -> Result<(), CardError> {
    let refuse = |component: Option<&Component>, fault| {
        let name = component.map(|it| it.name.chars().take(48).collect()).unwrap_or_default();
        Err(CardError::Component { card: card.clone(), sku: sku.clone(), name, fault })
    };
    if components.len() > COMPONENTS_MAX {
        return refuse(components.get(COMPONENTS_MAX), "is one too many: at most 32 are allowed, merge some");
    }
    let mut sum = Amount::ZERO;
    for component in components {
        let length = component.name.chars().count();
        if length == 0 || length > COMPONENT_NAME_LENGTH_MAX || component.name.chars().any(char::is_control) {
            return refuse(
                Some(component),
                "has no usable name: give 1 to 64 characters, none of them control characters",
            );
        }
        if component.quantity <= Quantity::ZERO {
            return refuse(Some(component), "has a quantity that is not above zero: leave it out");
        }
        let Some(more) = sum.checked_add(component.price.times(component.quantity)) else {
            return refuse(Some(component), "makes the sum too large");
        };
        sum = more;
    }
    if !components.is_empty() && sum != price.times(GPU_HOUR) {
        let (card, sku) = (card.clone(), sku.clone());
        return Err(CardError::ComponentsDiffer { card, sku, components: sum, price });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prices: &str, expected: &str) {
        let text = format!(
            "name = \"list\"\nversion = 1\ncurrency = \"USD\"\neffective_from = \"2026-01-01T00:00:00Z\"\n{prices}"
        );
        let got = match toml::from_str::<RateCardDraft>(&text) {
            Err(error) => error.message().to_owned(),
            Ok(draft) => match RateCard::check(draft) {
                Ok(card) => format!("{} skus", card.prices().len()),
                Err(error) => error.to_string(),
            },
        };
        assert!(got.contains(expected), "{got:?} should contain {expected:?}");
    }

    fn price(rest: &str) -> String {
        format!("[[prices]]\nplatform = \"h100\"\nregion = \"eu\"\nmodel = \"on_demand\"\n{rest}\n")
    }

    #[test]
    fn a_card_is_refused_whole_with_the_place_named() {
        let until = |text: &str| price(&format!("price = \"2.95\"\nuntil = \"{text}\""));
        let from = |text: &str| price(&format!("price = \"3.10\"\nfrom = \"{text}\""));
        check(&price("price = \"2.95\""), "1 skus");
        check(&(until("2026-02-01T00:00:00Z") + &from("2026-02-01T00:00:00Z")), "1 skus");
        check("prices = []", "no prices");
        check(
            &until("2026-02-01T00:00:00Z"),
            "h100 in eu, on_demand has no price over [2026-02-01T00:00:00Z, 3000-",
        );
        check(
            &(until("2026-02-01T00:00:00Z") + &from("2026-02-01T00:00:01Z")),
            "no price over [2026-02-01T00:00:00Z, 2026-02-01T00:00:01Z)",
        );
        check(
            &(until("2026-02-02T00:00:00Z") + &from("2026-02-01T00:00:00Z")),
            "two prices over [2026-02-01T00:00:00Z, 2026-02-02T00:00:00Z): 2.95 and 3.1",
        );
        check(&(price("price = \"1\"") + &price("price = \"1\"")), "two prices");
        check(&from("2026-02-01T00:00:00Z"), "no price over [2026-01-01T00:00:00Z, 2026-02-01T00:00:00Z)");
        check(&until("2025-02-01T00:00:00Z"), "not after its start");
        check(&from("2025-02-01T00:00:00Z"), "reaches outside");
        check(&price("price = \"-1\""), "negative");
        check(&price("price = \"123456789012345678901234567890\""), "no decimal number");
        check(&price("price = 2.95"), "expected a string");
        check(&price("price = \"2.95\"\nprize = \"1\""), "unknown field");
        let components = |vcpu: &str| {
            let one = |name: &str, quantity: &str, price: &str| {
                format!(
                    "[[prices.components]]\nname = \"{name}\"\nquantity = \"{quantity}\"\nprice = \"{price}\"\n"
                )
            };
            price("price = \"2.95\"")
                + &one("gpu", "1", "2.00")
                + &one("vcpu", vcpu, "0.03")
                + &one("ram_gib", "200", "0.00235")
        };
        check(&components("16"), "1 skus");
        check(&components("16.000000001"), "make 2.95000000003, its price is 2.95: both must be the same");
        check(
            &components("0"),
            "component \"vcpu\" of h100 in eu, on_demand has a quantity that is not above",
        );
        check(&components("-1"), "not above zero");
        check(
            "[[prices]]\nplatform = \"h\"\nregion = \"eu\"\nmodel = \"reserved\"\nprice = \"1\"",
            "a reservation carries its own price",
        );
        check(
            "[[prices]]\nplatform = \"h 100\"\nregion = \"eu\"\nmodel = \"spot\"\nprice = \"1\"",
            "' ' at byte 1",
        );
        check(
            "[[prices]]\nplatform = \"h\"\nregion = \"eu\"\nmodel = \"gift\"\nprice = \"1\"",
            "unknown variant",
        );
    }
}
