//! Credit for trouble, by the contract's rule and without anybody asking.
//!
//! Evidence is an XID error in a report of the instance, or time in which it ran and nobody reported
//! it. An hour is looked at once, when the grace for late reports of it has passed, so the order in
//! which the evidence comes does not matter. What is found becomes a credit that names it.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::terms::Sla;
use hourglass_units::{Amount, HOUR_MILLISECONDS, Hour, Instant, Interval, Pieces, Price, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::command::Position;
use super::groups::Rates;
use super::metering::{Instance, InstanceIx, quantity};
use super::state::State;

const MINUTE_MILLISECONDS: i64 = 60_000;
const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;
/// Most hours that one `Tick` looks at; the next ones look at the others.
const HOURS_A_TICK_MAX: usize = 1_000;

/// Trouble that was reported and waits for its hour to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incidents {
    xids: BTreeMap<Hour, BTreeMap<InstanceIx, Xids>>,
    /// Hours before this one were looked at.
    checked_until: Hour,
}

/// Which errors, and the event that told of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Xids {
    codes: BTreeSet<u32>,
    position: Position,
}

impl Default for Incidents {
    fn default() -> Self {
        Self { xids: BTreeMap::new(), checked_until: Hour::containing(hourglass_units::INSTANT_MIN) }
    }
}

/// A credit that trouble earns.
pub(crate) struct Earned {
    pub(crate) tenant: TenantId,
    pub(crate) amount: Amount,
    pub(crate) valid_days: u32,
    /// The evidence, for people.
    pub(crate) note: String,
}

impl Incidents {
    /// Nothing happened before the cell opened.
    pub(crate) fn begin(&mut self, at: Instant) {
        self.checked_until = Hour::containing(at);
    }

    /// Keeps errors of an instance until their hours are looked at.
    pub(crate) fn note(
        &mut self,
        ix: InstanceIx,
        interval: Interval,
        codes: impl Iterator<Item = u32> + Clone,
        position: Position,
    ) {
        for (hour, _) in interval.by_hour().filter(|(hour, _)| *hour >= self.checked_until) {
            let of_hour = self.xids.entry(hour).or_default();
            let xids = of_hour.entry(ix).or_insert_with(|| Xids { codes: BTreeSet::new(), position });
            xids.codes.extend(codes.clone());
        }
    }
}

/// Looks at the hours whose grace has passed, and says which credits they earn.
pub(crate) fn check(state: &mut State, at: Instant) -> Result<Vec<Earned>, Inconsistent> {
    let grace_ms = state.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
    let ready = Hour::containing(at.saturating_add_ms(grace_ms.saturating_neg()));
    let from = state.incidents.checked_until;
    let Some(window) = Interval::between(from.start(), ready.start()) else { return Ok(Vec::new()) };
    let mut earned = Vec::new();
    let mut until = ready;
    for (count, (hour, _)) in window.by_hour().enumerate() {
        if count == HOURS_A_TICK_MAX {
            until = hour;
            break;
        }
        let xids = state.incidents.xids.remove(&hour).unwrap_or_default();
        earned.extend(check_hour(state, hour, &xids)?);
    }
    state.incidents.checked_until = until;
    Ok(earned)
}

fn check_hour(
    state: &State,
    hour: Hour,
    xids: &BTreeMap<InstanceIx, Xids>,
) -> Result<Vec<Earned>, Inconsistent> {
    let mut earned = Vec::new();
    for tenant in state.prices.tenants_with_contracts() {
        let Some((source, sla)) = state.prices.sla_at(tenant, hour.start()) else { continue };
        let members: BTreeSet<InstanceIx> =
            state.groups.of_tenant(tenant).flat_map(|(_, group)| group.members.iter().copied()).collect();
        for ix in members {
            let Some(instance) = state.instances.get(ix) else { continue };
            if !runs_for(state, instance, tenant) {
                continue;
            }
            let hit = xids.get(&ix).filter(|it| sla.xids.iter().any(|code| it.codes.contains(code)));
            let (amount, evidence) = match hit {
                Some(Xids { codes, position }) => {
                    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
                    let amount = share_of_billed(instance, state.rates(), hour, sla)?;
                    (amount, format!("XID {} in event {position}", codes.join(", ")))
                }
                None => {
                    let gaps = gaps(instance, hour, sla);
                    let down = gaps.iter().map(|gap| gap.milliseconds()).fold(0, i64::saturating_add);
                    let amount = share_of_gaps(instance, state.rates(), &gaps, sla)?;
                    (amount, format!("{} minutes without a report", down / MINUTE_MILLISECONDS))
                }
            };
            if amount > Amount::ZERO {
                let id = &instance.id;
                let note =
                    format!("{id} in the hour of {hour}: {evidence}; {} % by {source}", sla.credit_percent);
                earned.push(Earned { tenant: tenant.clone(), amount, valid_days: sla.valid_days, note });
            }
        }
    }
    Ok(earned)
}

fn runs_for(state: &State, instance: &Instance, tenant: &TenantId) -> bool {
    let group = instance.modes.newest().and_then(|step| state.groups.get(step.group));
    group.is_some_and(|group| group.tenant == *tenant)
}

/// The share of what the instance is billed in the hour.
fn share_of_billed(
    instance: &Instance,
    rates: Rates<'_>,
    hour: Hour,
    sla: &Sla,
) -> Result<Amount, Inconsistent> {
    let lines = instance.measure(rates, hour.interval());
    sum(lines.into_iter().map(|(key, milliseconds)| (key.price, milliseconds)), instance.gpus, sla)
}

/// The share of what the time would have cost in which it ran and nobody reported it.
fn share_of_gaps(
    instance: &Instance,
    rates: Rates<'_>,
    gaps: &[Interval],
    sla: &Sla,
) -> Result<Amount, Inconsistent> {
    let mut by_price: BTreeMap<Price, i64> = BTreeMap::new();
    for gap in gaps {
        for (key, cut) in instance.cuts(rates, *gap) {
            let milliseconds = by_price.entry(key.price).or_default();
            *milliseconds = milliseconds.saturating_add(cut.milliseconds());
        }
    }
    sum(by_price.into_iter(), instance.gpus, sla)
}

fn sum(parts: impl Iterator<Item = (Price, i64)>, gpus: u32, sla: &Sla) -> Result<Amount, Inconsistent> {
    let overflow = || Inconsistent::new("a credit out of range");
    let mut total = Amount::ZERO;
    for (price, milliseconds) in parts {
        let price = sla.credit_percent.of_price(price).ok_or_else(overflow)?;
        let amount = price.times(quantity(milliseconds, gpus)?);
        total = total.checked_add(amount).ok_or_else(overflow)?;
    }
    Ok(total)
}

/// When it ran in the hour and nobody reported it for as long as the rule says.
fn gaps(instance: &Instance, hour: Hour, sla: &Sla) -> Vec<Interval> {
    let Some(minutes) = sla.unreported_minutes else { return Vec::new() };
    let least = i64::from(minutes).saturating_mul(MINUTE_MILLISECONDS);
    let runs: Pieces = instance.running.within(hour.interval()).collect();
    let gaps = runs.into_iter().flat_map(|run| instance.reported.missing(run));
    gaps.filter(|gap| gap.milliseconds() >= least).collect()
}

/// When a credit that is earned now expires: a full hour.
pub(crate) fn expiry(at: Instant, valid_days: u32) -> Instant {
    let days = i64::from(valid_days).saturating_mul(DAY_MILLISECONDS);
    Hour::containing(at.saturating_add_ms(days)).end()
}
