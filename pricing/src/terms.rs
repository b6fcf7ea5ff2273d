//! The rules of a contract beside its prices, and the order in which they compose.
//!
//! 1. **Unit price**: the contract's own price, else the list price less the contract's discount.
//! 2. **Allowances**: the first GPU-hours of a period in their scope cost nothing.
//! 3. **Tiers**: graduated by the GPU-hours of a period in their scope that no allowance took.
//! 4. **Commitment**: what is left draws it down, period by period; beyond it the overage rate holds.
//! 5. **Minimum**: what the period lacks to it is charged when the period is over.
//! 6. **True-up**: what the commitment lacks when its term is over is charged then.
//!
//! Within a period the dearest GPU-hours come first in each of the steps 2 to 4, so that more usage
//! does not cost less; [`crate::settle`] says exactly when. Every rule counts whole billing periods, so a contract that has any begins
//! and ends with one.

use hourglass_units::{Amount, Percent, Price, Quantity};
use serde::{Deserialize, Serialize};

use crate::calendar::{CalendarError, check_billing};
use crate::card::PurchaseModel;
use crate::scope::Scope;

/// Most rules of one kind in a contract.
pub const RULES_MAX: usize = 100;
/// Most tiers in one table.
pub const TIERS_MAX: usize = 100;
/// Most XID errors that one contract names.
pub const XIDS_MAX: usize = 256;
/// Longest time without a report until an instance counts as down, in minutes.
pub const UNREPORTED_MINUTES_MAX: u32 = 60;
/// Longest time until a credit for trouble expires, in days: ten years.
pub const SLA_VALID_DAYS_MAX: u32 = 3_660;

/// Takes a share off the list price, where the contract has no price of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discount {
    /// On what. Spot has no discounts, its price is the market's, nor have reservations, which carry
    /// their own; so a model that is not named is on-demand. A project cannot be named, since a price
    /// is of a SKU.
    #[serde(default)]
    pub scope: Scope,
    /// At most 100.
    pub percent_off: Percent,
}

/// GPU-hours of each period that cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Of what. A model that is not named is on-demand: hours of a reservation are paid for already
    /// and would use it up for nothing.
    #[serde(default)]
    pub scope: Scope,
    /// How many a period.
    pub gpu_hours: Quantity,
}

/// Graduated prices by the GPU-hours of a period: each tier prices the hours within it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierTable {
    /// What is counted and priced. A model that is not named is on-demand, as in [`Allowance`].
    #[serde(default)]
    pub scope: Scope,
    /// In ascending order; the first begins at 0.
    pub tiers: Vec<Tier>,
}

/// One tier: what GPU-hours beyond `above` cost, up to the next tier. Either a price or a share off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// GPU-hours of the period below this tier.
    pub above: Quantity,
    /// This price, whatever their unit price is.
    #[serde(default)]
    pub price: Option<Price>,
    /// Their unit price less a share, at most 100.
    #[serde(default)]
    pub percent_off: Option<Percent>,
}

/// An amount that the tenant will spend over the contract's term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// What counts towards it: usage only, neither fees nor minimums. A model that is not named is any.
    #[serde(default)]
    pub scope: Scope,
    /// Over the whole term, in the tenant's currency.
    pub amount: Amount,
    /// What usage beyond it costs, as a share of its price under this contract: 100 is the same,
    /// 120 a fifth more.
    pub overage_percent: Percent,
}

/// A credit for trouble: what makes an hour of an instance bad, and how much of it is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// Share of what the affected time costs.
    pub credit_percent: Percent,
    /// NVIDIA XID errors that make the hour in which they are reported a bad one; none where empty.
    #[serde(default)]
    pub xids: Vec<u32>,
    /// An instance that runs for so long without a report is down for that time.
    #[serde(default)]
    pub unreported_minutes: Option<u32>,
    /// Days until a credit expires.
    pub valid_days: u32,
}

/// Which months a tenant is billed by, where not those of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// IANA name, such as `Europe/Berlin`; UTC where absent.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Day of the month on which a period begins, 1 to 28; the first where absent.
    #[serde(default)]
    pub anchor_day: Option<u32>,
}

/// All rules of a contract beside its prices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Step 1.
    #[serde(default)]
    pub discounts: Vec<Discount>,
    /// Step 2.
    #[serde(default)]
    pub allowances: Vec<Allowance>,
    /// Step 3.
    #[serde(default)]
    pub tiers: Vec<TierTable>,
    /// Steps 4 and 6.
    #[serde(default)]
    pub commitment: Option<Commitment>,
    /// Step 5: the least that a period costs, in the tenant's currency.
    #[serde(default)]
    pub minimum: Option<Amount>,
    /// Credits for trouble.
    #[serde(default)]
    pub sla: Option<Sla>,
    /// The billing calendar, from the first contract of a tenant on.
    #[serde(default)]
    pub billing: Option<Billing>,
}

impl Terms {
    /// Whether a rule counts what happens over whole billing periods.
    pub fn counts_periods(&self) -> bool {
        let Self { discounts: _, allowances, tiers, commitment, minimum, sla: _, billing: _ } = self;
        !allowances.is_empty() || !tiers.is_empty() || commitment.is_some() || minimum.is_some()
    }
}

/// What is wrong with the rules of a contract. Rules of a kind count from 1, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// More than [`RULES_MAX`] of a kind, [`TIERS_MAX`] tiers or [`XIDS_MAX`] errors.
    #[error("{rule} has {count} entries: at most {max} are allowed")]
    TooMany {
        /// Which rules.
        rule: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A share of more than the whole.
    #[error("{rule}: {percent} percent is more than all of it, give at most 100")]
    AboveWhole {
        /// Which rule.
        rule: String,
        /// What was given.
        percent: Percent,
    },
    /// A discount, allowance or tier on what has a price of another kind.
    #[error("{rule} is on {model}: {why}")]
    WrongModel {
        /// Which rule.
        rule: String,
        /// What its scope names.
        model: PurchaseModel,
        /// Why that cannot be.
        why: &'static str,
    },
    /// A discount for one project.
    #[error("{rule} names a project: a price is of a SKU, leave the project out")]
    OfAProject {
        /// Which rule.
        rule: String,
    },
    /// Two rules of a kind for the same GPU-hours.
    #[error(
        "{rule} {first} and {second} can be about the same GPU-hours: narrow their scopes until they are not"
    )]
    Ambiguous {
        /// Which rules.
        rule: &'static str,
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// A table without tiers.
    #[error("{rule} has no tiers: add one that begins at 0")]
    NoTiers {
        /// Which table.
        rule: String,
    },
    /// Tiers that do not begin at 0 and ascend.
    #[error("{rule} begins above {above} GPU-hours: {expected}")]
    TierOrder {
        /// Which tier.
        rule: String,
        /// Where it begins.
        above: Quantity,
        /// Where it should.
        expected: String,
    },
    /// A tier with no price, or with two.
    #[error("{rule} has {given} of price and percent_off: give exactly one")]
    TierPrice {
        /// Which tier.
        rule: String,
        /// `both` or `neither`.
        given: &'static str,
    },
    /// An allowance, a commitment or a minimum of nothing or less.
    #[error("{rule} is {given}: give more than 0, or leave it out")]
    NotPositive {
        /// Which rule.
        rule: String,
        /// What was given.
        given: String,
    },
    /// A commitment for ever.
    #[error("the commitment has no end: a contract that has one needs effective_until")]
    OpenCommitment,
    /// An SLA that nothing can break.
    #[error("the sla names neither xids nor unreported_minutes: give at least one")]
    SlaOfNothing,
    /// A number of the SLA outside its bounds.
    #[error("the sla has {name} {given}: give between 1 and {max}")]
    SlaBounds {
        /// Which number.
        name: &'static str,
        /// What was given.
        given: u32,
        /// The highest.
        max: u32,
    },
    /// A billing calendar that cannot be.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
}

impl Terms {
    /// Checks each rule and all of a kind together, and names the purchase model where a scope that
    /// needs one leaves it out. `ends` says whether the contract has an end.
    pub(crate) fn checked(mut self, ends: bool) -> Result<Self, TermsError> {
        self.check_discounts()?;
        self.check_allowances()?;
        self.check_tiers()?;
        if let Some(commitment) = &self.commitment {
            positive("the commitment".to_owned(), commitment.amount > Amount::ZERO, commitment.amount)?;
            if !ends {
                return Err(TermsError::OpenCommitment);
            }
        }
        if let Some(minimum) = self.minimum {
            positive("the minimum".to_owned(), minimum > Amount::ZERO, minimum)?;
        }
        if let Some(sla) = &self.sla {
            sla.check()?;
        }
        if let Some(billing) = &self.billing {
            check_billing(billing)?;
        }
        Ok(self)
    }

    fn check_discounts(&mut self) -> Result<(), TermsError> {
        few("discounts".to_owned(), self.discounts.len(), RULES_MAX)?;
        for (n, discount) in (1..).zip(&mut self.discounts) {
            let rule = || format!("discount {n}");
            at_most_the_whole(rule, discount.percent_off)?;
            if discount.scope.project.is_some() {
                return Err(TermsError::OfAProject { rule: rule() });
            }
            let why = "its price is the market's, which no discount changes";
            match discount.scope.model {
                Some(model @ PurchaseModel::Spot) => {
                    return Err(TermsError::WrongModel { rule: rule(), model, why });
                }
                _ => on_demand_unless_named(rule, &mut discount.scope)?,
            }
        }
        apart("discounts", self.discounts.iter().map(|it| &it.scope))
    }

    fn check_allowances(&mut self) -> Result<(), TermsError> {
        few("allowances".to_owned(), self.allowances.len(), RULES_MAX)?;
        for (n, allowance) in (1..).zip(&mut self.allowances) {
            let rule = || format!("allowance {n}");
            positive(rule(), allowance.gpu_hours > Quantity::ZERO, allowance.gpu_hours)?;
            on_demand_unless_named(rule, &mut allowance.scope)?;
        }
        apart("allowances", self.allowances.iter().map(|it| &it.scope))
    }

    fn check_tiers(&mut self) -> Result<(), TermsError> {
        few("tiers".to_owned(), self.tiers.len(), RULES_MAX)?;
        for (n, table) in (1..).zip(&mut self.tiers) {
            let rule = || format!("tier table {n}");
            few(rule(), table.tiers.len(), TIERS_MAX)?;
            if table.tiers.is_empty() {
                return Err(TermsError::NoTiers { rule: rule() });
            }
            let mut before: Option<Quantity> = None;
            for (m, tier) in (1..).zip(&table.tiers) {
                tier.check(&format!("tier {m} of table {n}"), before)?;
                before = Some(tier.above);
            }
            on_demand_unless_named(rule, &mut table.scope)?;
        }
        apart("tier tables", self.tiers.iter().map(|it| &it.scope))
    }
}

impl Tier {
    fn check(&self, rule: &str, before: Option<Quantity>) -> Result<(), TermsError> {
        let (in_order, expected) = match before {
            None => (self.above == Quantity::ZERO, "the first tier begins at 0".to_owned()),
            Some(before) => {
                (self.above > before, format!("it must be above {before}, where the tier before begins"))
            }
        };
        if !in_order {
            return Err(TermsError::TierOrder { rule: rule.to_owned(), above: self.above, expected });
        }
        match (self.price, self.percent_off) {
            (Some(_), Some(_)) => Err(TermsError::TierPrice { rule: rule.to_owned(), given: "both" }),
            (None, None) => Err(TermsError::TierPrice { rule: rule.to_owned(), given: "neither" }),
            (Some(_), None) => Ok(()),
            (None, Some(percent)) => at_most_the_whole(|| rule.to_owned(), percent),
        }
    }
}

impl Sla {
    fn check(&self) -> Result<(), TermsError> {
        at_most_the_whole(|| "the sla".to_owned(), self.credit_percent)?;
        few("the sla's xids".to_owned(), self.xids.len(), XIDS_MAX)?;
        if self.xids.is_empty() && self.unreported_minutes.is_none() {
            return Err(TermsError::SlaOfNothing);
        }
        let numbers = [
            ("unreported_minutes", self.unreported_minutes, UNREPORTED_MINUTES_MAX),
            ("valid_days", Some(self.valid_days), SLA_VALID_DAYS_MAX),
        ];
        for (name, given, max) in numbers {
            if let Some(given) = given.filter(|given| !(1..=max).contains(given)) {
                return Err(TermsError::SlaBounds { name, given, max });
            }
        }
        Ok(())
    }
}

fn few(rule: String, count: usize, max: usize) -> Result<(), TermsError> {
    if count > max { Err(TermsError::TooMany { rule, count, max }) } else { Ok(()) }
}

fn positive(rule: String, is_positive: bool, given: impl std::fmt::Display) -> Result<(), TermsError> {
    if is_positive { Ok(()) } else { Err(TermsError::NotPositive { rule, given: given.to_string() }) }
}

fn at_most_the_whole(rule: impl FnOnce() -> String, percent: Percent) -> Result<(), TermsError> {
    if percent > Percent::WHOLE { Err(TermsError::AboveWhole { rule: rule(), percent }) } else { Ok(()) }
}

fn on_demand_unless_named(rule: impl FnOnce() -> String, scope: &mut Scope) -> Result<(), TermsError> {
    match *scope.model.get_or_insert(PurchaseModel::OnDemand) {
        PurchaseModel::OnDemand | PurchaseModel::Spot => Ok(()),
        model @ PurchaseModel::Reserved => {
            let why = "a reservation carries its own price, and its hours are paid for";
            Err(TermsError::WrongModel { rule: rule(), model, why })
        }
    }
}

/// Whether no two of the scopes overlap. A hundred at most, so looking at all pairs is quick.
fn apart<'a>(rule: &'static str, scopes: impl Iterator<Item = &'a Scope> + Clone) -> Result<(), TermsError> {
    for (n, scope) in (1..).zip(scopes.clone()) {
        if let Some((first, _)) = (1..n).zip(scopes.clone()).find(|(_, other)| other.overlaps(scope)) {
            return Err(TermsError::Ambiguous { rule, first, second: n });
        }
    }
    Ok(())
}
