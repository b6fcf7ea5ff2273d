//! Credit of a tenant: what was granted, and what is left of it.

use hourglass_pricing::settle::Credit;
use hourglass_units::{
    Amount, CreditId, HOUR_MILLISECONDS, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Platform, ProjectId,
    TenantId,
};
use serde::{Deserialize, Serialize};

use super::book::Account;
use super::command::Position;
use super::market::YIELD_CREDIT_PREFIX;
use super::rejection::Rejection;

/// Most credits of a tenant that have not expired.
pub const CREDITS_MAX: usize = 1_000;
/// How the ids of SLA credits begin: nobody else's may.
pub(crate) const SLA_CREDIT_PREFIX: &str = "sla-";
/// The priority of credit that names none.
pub const CREDIT_PRIORITY_DEFAULT: u32 = 100;

/// Where credit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreditKind {
    /// The tenant paid for it.
    Prepaid,
    /// It was given.
    Promotional,
    /// It makes good for trouble.
    Sla,
    /// It was earned by lending reserved GPUs to spot.
    Yield,
}

impl CreditKind {
    /// The name in answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepaid => "prepaid",
            Self::Promotional => "promotional",
            Self::Sla => "sla",
            Self::Yield => "yield",
        }
    }

    /// Where the tenant's credit stands.
    pub fn account(self, tenant: &TenantId) -> Account {
        match self {
            Self::Prepaid | Self::Yield => Account::PrepaidCredit(tenant.clone()),
            Self::Promotional | Self::Sla => Account::PromotionalCredit(tenant.clone()),
        }
    }

    /// What pays for the grant.
    pub(crate) const fn funding(self) -> Account {
        match self {
            Self::Prepaid => Account::Cash,
            Self::Promotional => Account::Promotions,
            Self::Sla => Account::SlaCredits,
            Self::Yield => Account::OwnerYield,
        }
    }

    /// What gains when the rest of it expires.
    pub(crate) const fn breakage(self) -> Account {
        match self {
            Self::Prepaid => Account::Breakage,
            Self::Promotional => Account::Promotions,
            Self::Sla => Account::SlaCredits,
            Self::Yield => Account::OwnerYield,
        }
    }

    /// Whether it comes about by a rule, and nobody grants it.
    pub const fn is_automatic(self) -> bool {
        matches!(self, Self::Sla | Self::Yield)
    }
}

/// Credit as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditDraft {
    /// Its id, unique in its tenant.
    pub credit: CreditId,
    /// Where it comes from.
    pub kind: CreditKind,
    /// How much, in the tenant's currency.
    pub amount: Amount,
    /// Lower ones are drawn first.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// Pays for usage from this full UTC hour on; for all that is not invoiced yet where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Instant>,
    /// Pays for usage before this full UTC hour; it never expires where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Instant>,
    /// Pays only for usage of this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// Pays only for usage on this platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For people.
    #[serde(default)]
    pub note: String,
}

fn default_priority() -> u32 {
    CREDIT_PRIORITY_DEFAULT
}

/// Credit that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub credit: CreditId,
    /// Where it comes from.
    pub kind: CreditKind,
    /// How much was granted.
    pub amount: Amount,
    /// Lower ones are drawn first.
    pub priority: u32,
    /// Pays for usage of this time.
    pub valid: Interval,
    /// Pays only for usage of this project.
    pub project: Option<ProjectId>,
    /// Pays only for usage on this platform.
    pub platform: Option<Platform>,
    /// For people; of an SLA credit the evidence.
    pub note: String,
    /// Where it was granted.
    pub position: Position,
    /// What it has paid for, as the book holds it.
    pub drawn: Amount,
    /// What expired of it unused. More than zero only once it is closed.
    pub expired: Amount,
    /// Whether its time and the grace for late usage are over: nothing more can be drawn.
    pub closed: bool,
}

/// Credit that a rule gives, without anybody asking.
pub(crate) struct Earned {
    pub(crate) tenant: TenantId,
    /// Follows from what earned it and when, so it is the same however the evidence came.
    pub(crate) credit: CreditId,
    pub(crate) amount: Amount,
    pub(crate) valid: Interval,
    /// The evidence, for people.
    pub(crate) note: String,
}

impl Grant {
    /// What a rule gave.
    pub(crate) fn automatic(kind: CreditKind, earned: Earned, position: Position) -> Self {
        let Earned { credit, amount, valid, note, .. } = earned;
        Self {
            credit,
            kind,
            amount,
            priority: CREDIT_PRIORITY_DEFAULT,
            valid,
            project: None,
            platform: None,
            note,
            position,
            drawn: Amount::ZERO,
            expired: Amount::ZERO,
            closed: false,
        }
    }

    /// What is left.
    pub fn remaining(&self) -> Option<Amount> {
        self.amount.checked_sub(self.drawn)?.checked_sub(self.expired)
    }

    /// As settlement sees it. What is closed can pay for what it has paid for, and no more.
    pub(crate) fn as_credit(&self, index: u32) -> Credit {
        Credit {
            grant: index,
            priority: self.priority,
            valid: self.valid,
            project: self.project.clone(),
            platform: self.platform.clone(),
            available: if self.closed { self.drawn } else { self.amount },
        }
    }
}

/// Checks a draft against the tenant's credits. `closed_end` is where the last closed period ends: it
/// pays from there where it does not say otherwise. Answers with the time that it pays for.
pub(crate) fn check(
    tenant: &TenantId,
    grants: &[Grant],
    draft: &CreditDraft,
    closed_end: Option<Instant>,
    now: Instant,
) -> Result<Interval, Rejection> {
    let invalid = |why| Rejection::CreditInvalid { credit: draft.credit.clone(), why };
    if grants.iter().any(|grant| grant.credit == draft.credit) {
        return Err(Rejection::CreditExists { tenant: tenant.clone(), credit: draft.credit.clone() });
    }
    match draft.kind {
        CreditKind::Sla => {
            return Err(invalid(
                "SLA credits come of a contract's rule and its evidence, nobody grants them",
            ));
        }
        CreditKind::Yield => return Err(invalid("yield comes of what spot paid, nobody grants it")),
        CreditKind::Prepaid | CreditKind::Promotional => {}
    }
    if [SLA_CREDIT_PREFIX, YIELD_CREDIT_PREFIX].iter().any(|own| draft.credit.as_str().starts_with(own)) {
        return Err(invalid("ids that begin with sla- or yield- come of rules: choose another"));
    }
    if draft.amount <= Amount::ZERO {
        return Err(invalid("the amount must be above zero"));
    }
    // What is not invoiced yet can be paid by credit, however old it is.
    let from = draft.valid_from.or(closed_end).unwrap_or(INSTANT_MIN);
    let until = draft.valid_until.unwrap_or(INSTANT_MAX);
    let valid = Interval::between(from, until).ok_or_else(|| invalid("it ends before it begins"))?;
    let full_hour = |at: Instant| at.unix_ms().checked_rem(HOUR_MILLISECONDS) == Some(0);
    if !full_hour(from) || !full_hour(until) {
        return Err(invalid("it must begin and end with a full UTC hour, since an hour is the finest line"));
    }
    if until <= now {
        return Err(invalid("it has expired already"));
    }
    if let Some(earliest) = closed_end.filter(|end| from < *end) {
        return Err(Rejection::CreditInClosedPeriod { credit: draft.credit.clone(), from, earliest });
    }
    let open = grants.iter().filter(|grant| !grant.closed && !grant.kind.is_automatic());
    if open.clone().count() >= CREDITS_MAX {
        return Err(Rejection::CreditsFull { tenant: tenant.clone() });
    }
    let meet = |a: Option<&str>, b: Option<&str>| a.zip(b).is_none_or(|(a, b)| a == b);
    // Those of one kind and scope are drawn in the order of their grant, and it does not matter.
    let interchangeable = |grant: &Grant| {
        (grant.kind, &grant.project, &grant.platform) == (draft.kind, &draft.project, &draft.platform)
    };
    let alike = |grant: &&Grant| {
        !interchangeable(grant)
            && grant.priority == draft.priority
            && grant.valid.end() == until
            && grant.valid.intersection(valid).is_some()
            && meet(
                grant.project.as_ref().map(|it| it.as_str()),
                draft.project.as_ref().map(|it| it.as_str()),
            )
            && meet(
                grant.platform.as_ref().map(|it| it.as_str()),
                draft.platform.as_ref().map(|it| it.as_str()),
            )
    };
    if let Some(other) = open.into_iter().find(alike) {
        return Err(Rejection::CreditsOverlap { credit: draft.credit.clone(), other: other.credit.clone() });
    }
    Ok(valid)
}
