//! What quotas and budgets leave to a bid.
//!
//! An allowance counts *all* that the auction gives, what runs already included: it starts as if no bid
//! of the book ran, and ends with what the winners have.

use serde::{Deserialize, Serialize};

use super::index::{BidIx, PoolIx};

/// Why not more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A limit of GPUs.
    Quota,
    /// A limit of money.
    Budget,
}

/// An answer: so many of the units asked for, and why not more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Granted, and taken.
    pub units: u32,
    /// There if and only if that is less than was asked for.
    pub refusal: Option<Refusal>,
}

/// Quotas and budgets, as the auction asks them.
///
/// An allowance is monotone: what it grants it also grants when less is taken. It always grants as much as
/// it can, so that after a refusal not one unit more would pass.
pub trait Allowance {
    /// Takes up to so many units for a bid in a pool.
    fn take(&mut self, bid: BidIx, pool: PoolIx, units: u32) -> Grant;

    /// Gives back what was taken.
    fn give_back(&mut self, bid: BidIx, pool: PoolIx, units: u32);
}

/// Takes up to `most` units; fewer than `least` are none.
pub(super) fn take(
    allowance: &mut dyn Allowance,
    (bid, pool): (BidIx, PoolIx),
    least: u32,
    most: u32,
) -> Grant {
    let grant = allowance.take(bid, pool, most);
    if grant.units >= least {
        return grant;
    }
    if grant.units > 0 {
        allowance.give_back(bid, pool, grant.units);
    }
    Grant { units: 0, ..grant }
}

/// Whether so many units more would pass.
pub(super) fn would_pass(allowance: &mut dyn Allowance, bid: BidIx, pool: PoolIx, units: u32) -> bool {
    let grant = take(allowance, (bid, pool), units, units);
    if grant.units > 0 {
        allowance.give_back(bid, pool, grant.units);
    }
    grant.refusal.is_none()
}

/// No limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Allowance for Unlimited {
    fn take(&mut self, _: BidIx, _: PoolIx, units: u32) -> Grant {
        Grant { units, refusal: None }
    }

    fn give_back(&mut self, _: BidIx, _: PoolIx, _: u32) {}
}

/// A limit that several bids share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// What is left of it.
    pub headroom: u64,
    /// How it refuses.
    pub refusal: Refusal,
}

/// Limits as plain numbers, the same in all pools: for tests, and to try what other limits would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Headrooms {
    /// The limits.
    pub constraints: Vec<Constraint>,
    /// By bid, the limits that it counts against (by their place in the list, each once), and how much of
    /// them a unit takes. A bid that is not listed is free.
    pub by_bid: Vec<Vec<(usize, u64)>>,
}

impl Headrooms {
    fn change(&mut self, bid: BidIx, units: u32, change: impl Fn(u64, u64) -> u64) {
        let Self { constraints, by_bid } = self;
        for (at, amount) in by_bid.get(bid.index()).into_iter().flatten() {
            if let Some(constraint) = constraints.get_mut(*at) {
                constraint.headroom = change(constraint.headroom, amount.saturating_mul(u64::from(units)));
            }
        }
    }
}

impl Allowance for Headrooms {
    fn take(&mut self, bid: BidIx, _: PoolIx, units: u32) -> Grant {
        let mut grant = Grant { units, refusal: None };
        for (at, amount) in self.by_bid.get(bid.index()).into_iter().flatten() {
            let Some(constraint) = self.constraints.get(*at) else { continue };
            let most = constraint.headroom.checked_div(*amount).unwrap_or(u64::MAX);
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            if most < grant.units {
                grant = Grant { units: most, refusal: Some(constraint.refusal) };
            }
        }
        self.change(bid, grant.units, u64::saturating_sub);
        grant
    }

    fn give_back(&mut self, bid: BidIx, _: PoolIx, units: u32) {
        self.change(bid, units, u64::saturating_add);
    }
}

/// A refusal that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which question of the clearing, counted from 0.
    pub question: u32,
    /// Of which bid.
    pub bid: BidIx,
    /// In which pool.
    pub pool: PoolIx,
    /// Units asked for.
    pub asked: u32,
    /// Units granted.
    pub granted: u32,
    /// Why not more.
    pub refusal: Refusal,
}

/// Writes down what another allowance refuses.
pub struct Recorder<'a> {
    of: &'a mut dyn Allowance,
    questions: u32,
    refused: Vec<Refused>,
}

impl<'a> Recorder<'a> {
    /// Of this one.
    pub fn new(of: &'a mut dyn Allowance) -> Self {
        Self { of, questions: 0, refused: Vec::new() }
    }

    /// All refusals, in the order of the questions.
    pub fn into_refused(self) -> Vec<Refused> {
        self.refused
    }
}

impl Allowance for Recorder<'_> {
    fn take(&mut self, bid: BidIx, pool: PoolIx, units: u32) -> Grant {
        let grant = self.of.take(bid, pool, units);
        if let Some(refusal) = grant.refusal {
            let (asked, granted) = (units, grant.units);
            self.refused.push(Refused { question: self.questions, bid, pool, asked, granted, refusal });
        }
        self.questions = self.questions.saturating_add(1);
        grant
    }

    fn give_back(&mut self, bid: BidIx, pool: PoolIx, units: u32) {
        self.of.give_back(bid, pool, units);
    }
}

/// Answers as an earlier clearing was answered: a clearing is deterministic, so it asks the same again.
pub struct Recorded<'a> {
    rest: std::slice::Iter<'a, Refused>,
    questions: u32,
    was_asked_otherwise: bool,
}

impl<'a> Recorded<'a> {
    /// With these refusals.
    pub fn new(refused: &'a [Refused]) -> Self {
        Self { rest: refused.iter(), questions: 0, was_asked_otherwise: false }
    }

    /// Whether each refusal answered the question that it had answered before.
    pub fn is_used_up(&self) -> bool {
        self.rest.len() == 0 && !self.was_asked_otherwise
    }
}

impl Allowance for Recorded<'_> {
    fn take(&mut self, bid: BidIx, pool: PoolIx, units: u32) -> Grant {
        let question = self.questions;
        self.questions = self.questions.saturating_add(1);
        let Some(refused) = self.rest.as_slice().first().filter(|refused| refused.question == question)
        else {
            return Grant { units, refusal: None };
        };
        self.rest.next();
        let is_same = (refused.bid, refused.pool, refused.asked) == (bid, pool, units);
        self.was_asked_otherwise |= !is_same || refused.granted >= units;
        Grant { units: refused.granted.min(units), refusal: Some(refused.refusal) }
    }

    fn give_back(&mut self, _: BidIx, _: PoolIx, _: u32) {}
}
