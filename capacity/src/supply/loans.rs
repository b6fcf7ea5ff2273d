//! Idle reserved GPUs that their owners lend to spot.

use std::collections::BTreeMap;

use hourglass_units::{Instant, Interval};
use serde::{Deserialize, Serialize};

use crate::calendar::ReservationName;

/// Most claims of a loan that are not over.
pub const CLAIMS_MAX: usize = 64;

/// How much an owner lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offer {
    /// Whatever is idle.
    Automatic,
    /// Of what is idle, at most so many.
    AtMost(u64),
}

/// What the owner needs for itself during a time, in total: what it uses counts towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// How many.
    pub gpus: u64,
    /// While.
    pub interval: Interval,
}

/// An owner's offer, and what it has asked back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// How much it lends.
    pub offer: Offer,
    /// What it will need. Where claims overlap, the largest counts.
    pub claims: Vec<Claim>,
}

impl Loan {
    /// What of it is lent: at most the offer, and never what is used or will be needed within the horizon.
    pub(super) fn lent(&self, name: &ReservationName, reserved: u64, used: u64, horizon: Interval) -> Lent {
        let claims = self.claims.iter().filter(|claim| claim.interval.intersection(horizon).is_some());
        let needed = claims.map(|claim| claim.gpus).max().unwrap_or(0).min(reserved);
        let used = used.min(reserved);
        let asked_back = needed.saturating_sub(used);
        let idle = reserved.saturating_sub(used).saturating_sub(asked_back);
        let gpus = match self.offer {
            Offer::Automatic => idle,
            Offer::AtMost(most) => idle.min(most),
        };
        Lent { name: name.clone(), reserved, used, asked_back, gpus }
    }
}

/// What is lent of a reservation, and why no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Of which.
    pub name: ReservationName,
    /// Its size.
    pub reserved: u64,
    /// What its owner uses.
    pub used: u64,
    /// What its owner needs besides, within the horizon.
    pub asked_back: u64,
    /// What is lent.
    pub gpus: u64,
}

/// Too much said about a loan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoanError {
    /// Nothing is lent of it.
    #[error("{name} is not lent: offer it first")]
    NotLent {
        /// Which.
        name: ReservationName,
    },
    /// More than [`CLAIMS_MAX`].
    #[error(
        "{name} has {CLAIMS_MAX} claims that are not over: claim more at once, or take the whole offer back"
    )]
    TooManyClaims {
        /// Which.
        name: ReservationName,
    },
}

/// All loans of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Loans(BTreeMap<ReservationName, Loan>);

impl Loans {
    /// One.
    pub fn get(&self, name: &ReservationName) -> Option<&Loan> {
        self.0.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ReservationName, &Loan)> {
        self.0.iter()
    }

    /// Lends of a reservation, or changes how much; claims stay.
    pub fn offer(&mut self, name: ReservationName, offer: Offer) {
        self.0.entry(name).or_insert(Loan { offer, claims: Vec::new() }).offer = offer;
    }

    /// The owner says when it will need how much.
    pub fn ask_back(&mut self, name: &ReservationName, claim: Claim) -> Result<(), LoanError> {
        let loan = self.0.get_mut(name).ok_or_else(|| LoanError::NotLent { name: name.clone() })?;
        if loan.claims.len() >= CLAIMS_MAX {
            return Err(LoanError::TooManyClaims { name: name.clone() });
        }
        loan.claims.push(claim);
        Ok(())
    }

    /// The owner takes its whole offer back, and its claims with it: the spot that sits on it gets its notice.
    pub fn withdraw(&mut self, name: &ReservationName) -> Option<Loan> {
        self.0.remove(name)
    }

    /// Forgets claims that are over by then.
    pub fn forget_before(&mut self, at: Instant) {
        for loan in self.0.values_mut() {
            loan.claims.retain(|claim| claim.interval.end() > at);
        }
    }
}
