//! What owners earn who lend their idle reserved GPUs to spot.
//!
//! An owner has the pool's share of what spot paid, in proportion to what of the supply was its own. What
//! spot paid is what was billed, so it is looked at once, when the grace for late reports of a whole UTC day
//! has passed: the order in which they came does not matter. It becomes a credit that names reservation and
//! day, like money paid ahead.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_capacity::calendar::ReservationName;
use hourglass_capacity::pool::PoolName;
use hourglass_capacity::supply::Supply;
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Currency, HOUR_MILLISECONDS, Hour, Instant, Interval, Percent};
use serde::{Deserialize, Serialize};

use crate::core::Inconsistent;
use crate::core::credits::Earned;
use crate::core::market::Pool;
use crate::core::metering::{InstanceIx, quantity};
use crate::core::state::State;

/// How the ids of credits for lent GPUs begin: nobody else's may.
pub(crate) const YIELD_CREDIT_PREFIX: &str = "yield-";
/// How long an owner can spend what it earned, in days.
const YIELD_VALID_DAYS: i64 = 3 * 366;
const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;

/// Which GPUs of a pool were lent, from clearing to clearing, until what they earned is posted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Lending {
    past: Vec<Lent>,
    /// Since the last clearing; its end is not known yet.
    now: Option<Lent>,
}

/// Between two clearings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lent {
    within: Interval,
    /// GPUs by owner.
    owners: Vec<(ReservationName, u64)>,
    /// GPUs of spot in all.
    supply: u64,
}

impl Lent {
    /// The part before an instant.
    fn until(&self, at: Instant) -> Option<Self> {
        let within = Interval::between(self.within.start(), self.within.end().min(at))?;
        Some(Self { within, ..self.clone() })
    }

    /// The part from an instant on.
    fn since(&self, at: Instant) -> Option<Self> {
        let within = Interval::between(self.within.start().max(at), self.within.end())?;
        Some(Self { within, ..self.clone() })
    }
}

impl Lending {
    /// From an instant on the supply is another one.
    pub(crate) fn changes(&mut self, supply: &Supply, at: Instant) {
        let owners: Vec<_> =
            supply.loans.iter().filter(|it| it.gpus > 0).map(|it| (it.name.clone(), it.gpus)).collect();
        if self.now.as_ref().is_some_and(|now| (&now.owners, now.supply) == (&owners, supply.gpus)) {
            return;
        }
        self.past.extend(self.now.take().and_then(|now| now.until(at)));
        let open = Interval::from(at).filter(|_| !owners.is_empty());
        self.now = open.map(|within| Lent { within, owners, supply: supply.gpus });
    }

    /// Takes out what was lent before an instant.
    fn take_before(&mut self, day: Instant) -> Vec<Lent> {
        let mut over: Vec<Lent> = self.past.iter().chain(&self.now).filter_map(|it| it.until(day)).collect();
        over.sort_by_key(|lent| lent.within);
        self.past = self.past.iter().filter_map(|it| it.since(day)).collect();
        self.now = self.now.as_ref().and_then(|it| it.since(day));
        over
    }
}

/// Looks at the days whose grace has passed, and says what owners earned in them.
pub(crate) fn check(state: &mut State, at: Instant) -> Result<Vec<Earned>, Inconsistent> {
    let grace_ms = state.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
    let ready = day_of(at.saturating_add_ms(grace_ms.saturating_neg()));
    let mut over = Vec::new();
    for (name, pool) in state.market.pools.iter_mut().filter(|(_, pool)| pool.lending.is_ready(ready)) {
        over.extend(pool.lending.take_before(ready).into_iter().map(|lent| (name.clone(), lent)));
    }
    let mut sums: BTreeMap<(ReservationName, Instant), Amount> = BTreeMap::new();
    for (name, lent) in over {
        let Some(pool) = state.market.pools.get(&name) else { continue };
        for (day, part) in by_day(lent.within) {
            let paid = paid_by_spot(state, &name, pool.terms.currency, part)?;
            for (owner, gpus) in &lent.owners {
                let amount = share(paid, *gpus, lent.supply, pool.terms.owner_share)?;
                let sum = sums.entry((owner.clone(), day)).or_default();
                *sum = sum.checked_add(amount).ok_or_else(out_of_range)?;
            }
        }
    }
    let earned = sums.into_iter().filter(|(_, amount)| *amount > Amount::ZERO);
    earned.map(|((owner, day), amount)| credit(owner, day, amount, at)).collect()
}

impl Lending {
    fn is_ready(&self, day: Instant) -> bool {
        self.past.iter().chain(&self.now).any(|lent| lent.within.start() < day)
    }
}

fn out_of_range() -> Inconsistent {
    Inconsistent::new("a yield out of range")
}

fn day_of(at: Instant) -> Instant {
    at.saturating_add_ms(at.unix_ms().rem_euclid(DAY_MILLISECONDS).saturating_neg())
}

/// The parts of an interval, with the UTC day of each.
fn by_day(within: Interval) -> impl Iterator<Item = (Instant, Interval)> {
    let mut from = within.start();
    std::iter::from_fn(move || {
        let day = day_of(from);
        let part = Interval::between(from, day.saturating_add_ms(DAY_MILLISECONDS).min(within.end()))?;
        from = part.end();
        Some((day, part))
    })
}

/// What spot was billed in a pool, within an interval.
fn paid_by_spot(
    state: &State,
    name: &PoolName,
    currency: Currency,
    within: Interval,
) -> Result<Amount, Inconsistent> {
    let mut paid = Amount::ZERO;
    let groups = state.groups.iter().map(|(_, group)| group);
    let groups = groups.filter(|group| group.is_of(name) && group.currency == currency);
    let members: BTreeSet<InstanceIx> = groups.flat_map(|group| group.members.iter().copied()).collect();
    for ix in members {
        let Some(instance) = state.instances.get(ix) else { continue };
        for part in instance.billed_within(within) {
            for (key, cut) in instance.cuts(state.rates(), part) {
                let in_pool = state.groups.get(key.group).is_some_and(|group| group.is_of(name));
                if in_pool {
                    let amount = key.price.times(quantity(cut.milliseconds(), instance.gpus)?);
                    paid = paid.checked_add(amount).ok_or_else(out_of_range)?;
                }
            }
        }
    }
    Ok(paid)
}

/// An owner's part, rounded down to an atto.
fn share(paid: Amount, gpus: u64, supply: u64, share: Percent) -> Result<Amount, Inconsistent> {
    let of_owner =
        paid.attos().checked_mul(i128::from(gpus)).and_then(|it| it.checked_div(i128::from(supply)));
    let part = of_owner.map(Amount::from_attos);
    part.and_then(|part| share.of_amount(part)).ok_or_else(out_of_range)
}

/// It pays from the hour on in which it is known: what is older may be invoiced already.
fn credit(owner: ReservationName, day: Instant, amount: Amount, at: Instant) -> Result<Earned, Inconsistent> {
    let digest = blake3::hash(owner.to_string().as_bytes()).to_hex();
    let date: String = day.to_string().chars().filter(char::is_ascii_digit).take(8).collect();
    let id = format!("{YIELD_CREDIT_PREFIX}{date}-{}", digest.get(..16).unwrap_or_default());
    let credit =
        id.parse().map_err(|error: hourglass_units::IdError| Inconsistent::new(error.to_string()))?;
    let from = Hour::containing(at).start();
    let end = from.saturating_add_ms(YIELD_VALID_DAYS.saturating_mul(DAY_MILLISECONDS));
    let valid = Interval::between(from, end).ok_or_else(out_of_range)?;
    let note = format!("what spot paid on {date} for idle GPUs of reservation {}", owner.reservation);
    Ok(Earned { tenant: owner.tenant, credit, amount, valid, note })
}

impl crate::core::groups::ChargeGroup {
    /// Whether it is what spot in a pool costs.
    pub(super) fn is_of(&self, name: &PoolName) -> bool {
        self.sku.model == PurchaseModel::Spot
            && self.sku.platform == name.platform
            && self.sku.region == name.region
            && self.fabric.as_ref() == Some(&name.fabric)
    }
}

impl Pool {
    /// The supply is another one from now on.
    pub(in crate::core::market) fn supplied(&mut self, supply: Supply, at: Instant) {
        self.lending.changes(&supply, at);
        self.out_then = self.stock.excluded.at(supply.tightest);
        self.supplied = Some(supply);
    }
}
