//! Credit for trouble, by the contract's rule and without anybody asking.
//!
//! Evidence is an XID error in a report of the instance, or time in which it ran and nobody reported
//! it. An hour is looked at once, when the grace for late reports of it has passed, so the order in
//! which the evidence comes does not matter. What is found becomes a credit that names it.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::terms::Sla;
use hourglass_units::{
    AgentId, Amount, CreditId, HOUR_MILLISECONDS, Hour, InstanceId, Instant, Interval, Pieces, Price,
    TenantId,
};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::command::Position;
use super::credits::{Earned, SLA_CREDIT_PREFIX};
use super::metering::{Exclusion, Instance, InstanceIx, LineKey, Measured, quantity};
use super::state::State;

const MINUTE_MILLISECONDS: i64 = 60_000;
const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;
/// Most hours that one `Tick` looks at; the next ones look at the others.
const HOURS_A_TICK_MAX: usize = 1_000;

/// Trouble that was reported and waits for its hour to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incidents {
    xids: BTreeMap<Hour, BTreeMap<InstanceIx, Xids>>,
    /// Of instances that nobody registered yet.
    waiting: BTreeMap<InstanceId, Vec<Waiting>>,
    /// Hours before this one were looked at.
    checked_until: Hour,
}

/// An error of an instance that nobody registered yet, with what says whether its report will count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) agent: AgentId,
    pub(crate) gpus: u32,
    pub(crate) excluded: Option<Exclusion>,
    pub(crate) interval: Interval,
    pub(crate) code: u32,
    pub(crate) position: Position,
}

/// Which errors, and the event that told of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Xids {
    codes: BTreeSet<u32>,
    position: Position,
}

impl Default for Incidents {
    fn default() -> Self {
        let checked_until = Hour::containing(hourglass_units::INSTANT_MIN);
        Self { xids: BTreeMap::new(), waiting: BTreeMap::new(), checked_until }
    }
}

impl Incidents {
    /// Nothing happened before the cell opened.
    pub(crate) fn begin(&mut self, at: Instant) {
        self.checked_until = Hour::containing(at);
    }

    /// Keeps an error until the instance is registered.
    pub(crate) fn wait(&mut self, instance: InstanceId, waiting: Waiting) {
        self.waiting.entry(instance).or_default().push(waiting);
    }

    /// The errors that waited for an instance to be registered.
    pub(crate) fn take_waiting(&mut self, instance: &InstanceId) -> Vec<Waiting> {
        self.waiting.remove(instance).unwrap_or_default()
    }

    /// Keeps an error of an instance until its hours are looked at.
    pub(crate) fn note(&mut self, ix: InstanceIx, interval: Interval, code: u32, position: Position) {
        for (hour, _) in interval.by_hour().filter(|(hour, _)| *hour >= self.checked_until) {
            let of_hour = self.xids.entry(hour).or_default();
            let xids = of_hour.entry(ix).or_insert_with(|| Xids { codes: BTreeSet::new(), position });
            xids.codes.insert(code);
            xids.position = xids.position.min(position);
        }
    }
}

/// Whether an error of an instance can earn anything: what no contract asks about is not kept.
pub(crate) fn is_agreed(state: &State, instance: &Instance, at: Instant) -> bool {
    let group = instance.modes.newest().and_then(|step| state.groups.get(step.group));
    group.is_some_and(|group| state.prices.sla_at(&group.tenant, at).is_some())
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
                    let amount = share_of_billed(state, instance, hour, sla)?;
                    (amount, format!("XID {} in event {position}", codes.join(", ")))
                }
                None => {
                    let gaps = gaps(instance, hour, sla);
                    let down = gaps.iter().map(|gap| gap.milliseconds()).fold(0, i64::saturating_add);
                    let amount = share_of_gaps(state, instance, &gaps, sla)?;
                    (amount, format!("{} minutes without a report", down / MINUTE_MILLISECONDS))
                }
            };
            if amount > Amount::ZERO {
                let id = &instance.id;
                let note =
                    format!("{id} in the hour of {hour}: {evidence}; {} % by {source}", sla.credit_percent);
                let valid = validity(state, tenant, hour, sla)?;
                earned.push(Earned {
                    tenant: tenant.clone(),
                    credit: credit_id(id, hour)?,
                    amount,
                    valid,
                    note,
                });
            }
        }
    }
    Ok(earned)
}

fn runs_for(state: &State, instance: &Instance, tenant: &TenantId) -> bool {
    let group = instance.modes.newest().and_then(|step| state.groups.get(step.group));
    group.is_some_and(|group| group.tenant == *tenant)
}

/// The name of the credit for an hour of an instance: the hour, and a digest that tells instances apart.
fn credit_id(instance: &InstanceId, hour: Hour) -> Result<CreditId, Inconsistent> {
    let digest = blake3::hash(instance.as_str().as_bytes()).to_hex();
    let hour: String = hour.to_string().chars().filter(|it| it.is_ascii_alphanumeric()).take(11).collect();
    let id = format!("{SLA_CREDIT_PREFIX}{hour}-{}", digest.get(..16).unwrap_or_default());
    id.parse().map_err(|error: hourglass_units::IdError| Inconsistent::new(error.to_string()))
}

/// When the credit for an hour can be drawn: in the period of the hour, and for so many days after it.
fn validity(state: &State, tenant: &TenantId, hour: Hour, sla: &Sla) -> Result<Interval, Inconsistent> {
    let (period, _) = state.calendars.segment(tenant, hour.start());
    let from = state.calendars.of(tenant).interval(period).start();
    let days = i64::from(sla.valid_days).saturating_mul(DAY_MILLISECONDS);
    let valid = Interval::between(from, hour.end().saturating_add_ms(days));
    valid.ok_or_else(|| Inconsistent::new("a credit without a time"))
}

/// What a GPU-hour of a line costs with what was paid for it otherwise.
fn effective_price(state: &State, key: LineKey) -> Result<Price, Inconsistent> {
    let held = state.groups.get(key.group).and_then(|group| state.reservations.get(group.reservation?));
    let committed = held.map_or(0, |held| held.reservation.committed_price().nanos());
    Price::from_nanos(key.price.nanos().saturating_add(committed))
        .map_err(|error| Inconsistent::new(error.to_string()))
}

/// The share of what the instance is billed in the hour.
fn share_of_billed(
    state: &State,
    instance: &Instance,
    hour: Hour,
    sla: &Sla,
) -> Result<Amount, Inconsistent> {
    sum(state, instance.measure(state.rates(), hour.interval()), instance.gpus, sla)
}

/// The share of what the time would have cost in which it ran and nobody reported it.
fn share_of_gaps(
    state: &State,
    instance: &Instance,
    gaps: &[Interval],
    sla: &Sla,
) -> Result<Amount, Inconsistent> {
    let mut lost = Measured::new();
    for gap in gaps {
        for (key, cut) in instance.cuts(state.rates(), *gap) {
            let milliseconds = lost.entry(key).or_default();
            *milliseconds = milliseconds.saturating_add(cut.milliseconds());
        }
    }
    sum(state, lost, instance.gpus, sla)
}

fn sum(state: &State, lines: Measured, gpus: u32, sla: &Sla) -> Result<Amount, Inconsistent> {
    let overflow = || Inconsistent::new("a credit out of range");
    let mut total = Amount::ZERO;
    for (key, milliseconds) in lines {
        let price = sla.credit_percent.of_price(effective_price(state, key)?).ok_or_else(overflow)?;
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
