//! How a line was computed: everything that the state knows of it.
//!
//! What the log knows beside, the events that are the evidence and the transfers, is looked up by
//! whoever holds the store.

use std::collections::BTreeMap;

use hourglass_pricing::{Component, PurchaseModel};
use hourglass_units::{
    AgentId, Amount, BidId, Currency, Fabric, Hour, INSTANT_MIN, InstanceId, Instant, Interval, Month,
    Platform, Price, ProjectId, Quantity, ReservationId, TenantId,
};
use serde::{Serialize, Serializer};

use super::apply::lateness;
use super::command::Mode;
use super::event::Policy;
use super::groups::GroupIx;
use super::metering::{Exclusion, Instance, quantity};
use super::state::State;
use super::usage::UsageRecord;

/// The lines of an instance within one UTC hour, and what they come of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HourExplained {
    /// Whose usage.
    pub instance: InstanceId,
    /// Who pays.
    pub tenant: TenantId,
    /// In which hour.
    #[serde(serialize_with = "as_text")]
    pub hour: Hour,
    /// In which billing period.
    pub period: Month,
    /// On which platform.
    pub platform: Platform,
    /// GPUs that the instance holds.
    pub gpus: u32,
    /// The only agent whose reports count; any agent's do where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// What was reported in good order.
    pub reported: Vec<Interval>,
    /// When it ran.
    pub running: Vec<Interval>,
    /// What was voided.
    pub voided: Vec<Interval>,
    /// What was reported and excluded when it came, by the reason's code.
    pub excluded: BTreeMap<&'static str, Vec<Interval>>,
    /// How it was sold, as it was said.
    pub modes: Vec<ModeExplained>,
    /// Its lines.
    pub lines: Vec<LineExplained>,
}

/// How the instance is sold from a time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModeExplained {
    /// Since when; since it is known where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Instant>,
    /// The purchase model.
    pub model: PurchaseModel,
    /// Out of which reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationId>,
    /// By which bid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bid: Option<BidId>,
    /// Its GPU-hours never cost more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Price>,
    /// In the pool of which fabric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
}

/// One line: what is billed of it, at which price, and by whose word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineExplained {
    /// How it was sold in the end.
    pub model: PurchaseModel,
    /// For which project.
    pub project: ProjectId,
    /// Out of which reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationId>,
    /// Per GPU-hour.
    pub price: Price,
    /// Of the amount.
    pub currency: Currency,
    /// The parts of the coverage that are billed on it, and where their price comes from.
    pub parts: Vec<PartExplained>,
    /// Their milliseconds.
    pub milliseconds: i64,
    /// `round_half_even(milliseconds × gpus / 3,600,000)` to the nano-GPU-hour.
    pub quantity: Quantity,
    /// Price × quantity.
    pub amount: Amount,
}

/// A billed interval and its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartExplained {
    /// When.
    pub interval: Interval,
    /// Who says the price: a version of a card or contract, a reservation, or the spot pool.
    pub source: String,
    /// What a discount was taken off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<ListPrice>,
    /// The pool's price, where the bid's limit is below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above_limit: Option<Price>,
    /// What the price is made of, where the card says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
}

/// A list price that a discount was taken off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListPrice {
    /// The card, as `name@version`.
    pub source: String,
    /// Per GPU-hour.
    pub price: Price,
}

impl HourExplained {
    /// Whether a record is a report of this instance in good order: one that its coverage rests on.
    /// `at` is when the report came. Decided by the rules that took the report in.
    pub fn rests_on(&self, policy: Policy, agent: &AgentId, record: &UsageRecord<'_>, at: Instant) -> bool {
        record.instance == self.instance.as_str()
            && record.gpus == self.gpus
            && self.agent.as_ref().is_none_or(|own| own == agent)
            && lateness(policy, record.interval, at).is_none()
    }
}

fn as_text<S: Serializer>(hour: &Hour, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hour)
}

/// Explains the lines of an instance within an hour. `None` where it is not known.
pub fn hour(state: &State, instance: &str, hour: Hour) -> Option<HourExplained> {
    let view = state.instance(instance)?;
    let it = state.instances.get(state.instances.find(instance)?)?;
    let window = hour.interval();
    let within = |set: &[Interval]| set.iter().filter_map(|part| part.intersection(window)).collect();
    let mut lines: Vec<((GroupIx, Price), LineExplained)> = Vec::new();
    for part in it.billed_within(window) {
        for (key, cut) in it.cuts(state.rates(), part) {
            let explained = explain_part(state, it, key.group, cut)?;
            let found = lines.iter_mut().find(|(known, _)| *known == (key.group, key.price));
            match found {
                Some((_, line)) => {
                    line.milliseconds = line.milliseconds.saturating_add(cut.milliseconds());
                    line.parts.push(explained);
                }
                None => {
                    lines.push(((key.group, key.price), new_line(state, key.group, key.price, explained)?))
                }
            }
        }
    }
    let mut lines: Vec<LineExplained> = lines.into_iter().map(|(_, line)| line).collect();
    for line in &mut lines {
        line.quantity = quantity(line.milliseconds, it.gpus).ok()?;
        line.amount = line.price.times(line.quantity);
    }
    Some(HourExplained {
        instance: it.id.clone(),
        tenant: view.tenant().clone(),
        hour,
        period: state.period_at(view.tenant(), hour.start()),
        platform: view.sku().platform.clone(),
        gpus: it.gpus,
        agent: view.agent().cloned(),
        reported: within(view.reported()),
        running: within(view.running()),
        voided: within(view.voided()),
        excluded: excluded_within(it, window),
        modes: modes_within(view.modes(), window),
        lines,
    })
}

/// What was excluded when it came. What was voided is no report, and is said elsewhere.
fn excluded_within(instance: &Instance, window: Interval) -> BTreeMap<&'static str, Vec<Interval>> {
    let excluded = instance.excluded.iter().flat_map(|reports| reports.iter());
    let reports = excluded.filter(|(reason, _)| **reason != Exclusion::Voided);
    let parts = reports.map(|(reason, coverage)| (reason.as_str(), coverage.within(window).collect()));
    parts.filter(|(_, parts): &(_, Vec<Interval>)| !parts.is_empty()).collect()
}

/// The modes that hold within the window: the one that it begins with, and those that begin in it.
fn modes_within(modes: Vec<(Instant, Mode)>, window: Interval) -> Vec<ModeExplained> {
    let begun = modes.iter().take_while(|(from, _)| *from <= window.start()).count();
    let holding = modes.into_iter().skip(begun.saturating_sub(1));
    holding.take_while(|(from, _)| *from < window.end()).map(explain_mode).collect()
}

fn explain_mode((from, mode): (Instant, Mode)) -> ModeExplained {
    let model = mode.model();
    let (reservation, bid, limit, fabric) = match mode {
        Mode::OnDemand => (None, None, None, None),
        Mode::Reserved { reservation } => (Some(reservation), None, None, None),
        Mode::Spot { bid, limit, fabric } => (None, bid, limit, fabric),
    };
    ModeExplained { from: (from != INSTANT_MIN).then_some(from), model, reservation, bid, limit, fabric }
}

fn new_line(state: &State, group: GroupIx, price: Price, part: PartExplained) -> Option<LineExplained> {
    let group = state.groups.get(group)?;
    let held = group.reservation.and_then(|ix| state.reservations.get(ix));
    Some(LineExplained {
        model: group.sku.model,
        project: group.project.clone(),
        reservation: held.map(|held| held.reservation.draft().reservation.clone()),
        price,
        currency: group.currency,
        milliseconds: part.interval.milliseconds(),
        parts: vec![part],
        quantity: Quantity::ZERO,
        amount: Amount::ZERO,
    })
}

/// Who says the price of an interval that has one price.
fn explain_part(
    state: &State,
    instance: &Instance,
    group: GroupIx,
    interval: Interval,
) -> Option<PartExplained> {
    let (step, _) = instance.modes.at(interval.start())?;
    let tariff = state.rates().tariff(step)?;
    let of_pool = tariff.pool.and_then(|pool| pool.within(interval).next());
    let above_limit = |price: Price| tariff.limit.and_then(|limit| (price > limit).then_some(price));
    if let Some((_, price)) = of_pool {
        let source = "spot pool".to_owned();
        return Some(PartExplained {
            interval,
            source,
            list: None,
            above_limit: above_limit(price),
            components: Vec::new(),
        });
    }
    let listed = state.groups.get(group)?.prices.within(interval).next()?;
    Some(PartExplained {
        interval,
        source: listed.source.to_string(),
        list: listed.list.as_ref().map(|(card, price)| ListPrice { source: card.to_string(), price: *price }),
        above_limit: above_limit(listed.price),
        components: listed.components.as_slice().to_vec(),
    })
}
