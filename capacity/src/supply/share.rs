//! Who is owed what for it, and where every GPU-second went.

use serde::{Deserialize, Serialize};

use super::{Lent, Supply};
use crate::calendar::ReservationName;

/// What of the spot in use ran on whose GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct YieldShares {
    /// On what nobody has reserved.
    pub own: u64,
    /// On what is lent, by reservation; none of 0.
    pub owners: Vec<(ReservationName, u64)>,
}

/// Divides what spot used among those whose GPUs it was, in proportion to what each brought to the supply.
///
/// `spot` is in any unit, and the shares sum to it exactly, by largest remainder; of equal remainders the
/// first by name has it, and what is nobody's comes last. GPU-milliseconds of a time within which the supply
/// stayed the same are the best unit: nobody then gets a GPU-millisecond too little.
pub fn yield_shares(supply: &Supply, spot: u64) -> YieldShares {
    let lent = supply.loans.iter().map(|it| it.gpus).fold(0, u64::saturating_add);
    let own = supply.gpus.saturating_sub(lent);
    let weights: Vec<u64> = supply.loans.iter().map(|it| it.gpus).chain([own]).collect();
    let mut shares = apportion(spot, &weights);
    let own = shares.pop().unwrap_or(0);
    let names = supply.loans.iter().map(|Lent { name, .. }| name.clone());
    let owners = names.zip(shares).filter(|(_, share)| *share > 0).collect();
    YieldShares { own, owners }
}

/// Whole parts in proportion to the weights that sum to the total; where all weights are 0, the last has it.
fn apportion(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum = weights.iter().map(|weight| u128::from(*weight)).fold(0, u128::saturating_add);
    let exact = |weight: &u64| u128::from(total).saturating_mul(u128::from(*weight));
    let (whole, rest): (Vec<u64>, Vec<u128>) = weights
        .iter()
        .map(exact)
        .map(|part| {
            let whole = part.checked_div(sum).and_then(|whole| u64::try_from(whole).ok());
            (whole.unwrap_or(0), part.checked_rem(sum).unwrap_or(0))
        })
        .unzip();
    let mut left = total.saturating_sub(whole.iter().copied().fold(0, u64::saturating_add));
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(rest.get(*index).copied()));
    let mut shares = whole;
    if sum == 0 {
        if let Some(last) = shares.last_mut() {
            *last = total;
        }
        return shares;
    }
    for index in order {
        if let Some(share) = shares.get_mut(index).filter(|_| left > 0) {
            *share = share.saturating_add(1);
            left = left.saturating_sub(1);
        }
    }
    shares
}

/// What is in use, and what cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// By owners of reservations.
    pub reserved: u64,
    /// On demand.
    pub on_demand: u64,
    /// Spot.
    pub spot: u64,
    /// Broken, taken out, in maintenance.
    pub excluded: u64,
}

/// Where all of it went: the parts sum to what is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Used by owners of reservations.
    pub reserved: u64,
    /// Used on demand.
    pub on_demand: u64,
    /// Used by spot.
    pub spot: u64,
    /// Used by nobody.
    pub idle: u64,
    /// Broken, taken out, in maintenance.
    pub excluded: u64,
}

/// More is in use than there is: something is counted twice, or runs where it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{owned} owned, but {} reserved, {} on demand, {} spot and {} excluded: reconcile with the cloud",
    parts.reserved, parts.on_demand, parts.spot, parts.excluded
)]
pub struct Overfull {
    /// What there is.
    pub owned: u64,
    /// What was said to be of it.
    pub parts: Parts,
}

/// **C-2, every GPU-second is accounted once**: in GPUs of an instant, or GPU-milliseconds of an interval.
pub fn split(owned: u64, parts: Parts) -> Result<Split, Overfull> {
    let Parts { reserved, on_demand, spot, excluded } = parts;
    let used = [reserved, on_demand, spot, excluded].into_iter().try_fold(0, u64::checked_add);
    let idle = used.and_then(|used| owned.checked_sub(used)).ok_or(Overfull { owned, parts })?;
    Ok(Split { reserved, on_demand, spot, idle, excluded })
}
