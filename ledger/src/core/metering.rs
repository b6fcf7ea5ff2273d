//! Instances: what agents reported of them, when they ran, and what of it is billed.
//!
//! For each instance two sets are kept: what was *reported* in good order and when it was *running*.
//! **Billed is their intersection**, so it does not matter which of the two is learnt first, nor in
//! which order, how often or how finely the reports come (M-1, M-2). The quantity of a line is a
//! function of the sets, and what is posted is the difference that a change of either makes.
//!
//! What cannot be billed is kept as a set too, by reason, so that every reported millisecond is in
//! exactly one place (M-3): billed, else excluded for the first reason that applies, in the order of
//! [`Exclusion::ALL`].

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::{PriceTimeline, rating};
use hourglass_units::{AgentId, Coverage, Hour, INSTANT_MAX, InstanceId, Instant, Interval, Price, Quantity};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::groups::{ChargeGroup, GroupIx};

/// Why a reported millisecond is not billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// The life cycle says that the instance did not run.
    NotRunning,
    /// The report's GPU count is not the instance's.
    GpusDiffer,
    /// The instance belongs to another agent's node.
    ForeignAgent,
    /// The report ended further in the future than the clock skew allows.
    InTheFuture,
    /// The report ended before the acceptance window.
    TooOld,
}

impl Exclusion {
    /// Every reason, in order of precedence.
    pub const ALL: [Self; 5] =
        [Self::NotRunning, Self::GpusDiffer, Self::ForeignAgent, Self::InTheFuture, Self::TooOld];

    /// The stable code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning => "not_running",
            Self::GpusDiffer => "gpus_differ",
            Self::ForeignAgent => "foreign_agent",
            Self::InTheFuture => "in_the_future",
            Self::TooOld => "too_old",
        }
    }
}

/// Reports that were excluded when they came, by reason.
pub(crate) type ExcludedReports = BTreeMap<Exclusion, Coverage>;

/// Index of an instance.
pub(crate) type InstanceIx = u32;
/// Index of an agent to which instances are bound.
pub(crate) type AgentIx = u32;

/// One instance. Kept small: there are a million of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    /// When it ran; the last interval ends at the end of time while it runs.
    pub(crate) running: Coverage,
    /// What was reported in good order.
    pub(crate) reported: Coverage,
    /// Nearly always absent, so it is a pointer.
    pub(crate) excluded: Option<Box<ExcludedReports>>,
    pub(crate) group: GroupIx,
    pub(crate) gpus: u32,
    pub(crate) agent: Option<AgentIx>,
    /// The line that grows now, with what no row holds yet.
    pub(crate) growing: Option<GrowingLine>,
}

/// The line that an instance last added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrowingLine {
    pub(crate) hour: Hour,
    pub(crate) price: Price,
    /// All of it: what measuring the line again would give.
    pub(crate) total: LineDifference,
    /// What no row holds yet.
    pub(crate) unwritten: LineDifference,
}

/// What a change makes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LineDifference {
    pub(crate) milliseconds: i64,
    pub(crate) quantity: Quantity,
}

impl LineDifference {
    pub(crate) fn is_zero(self) -> bool {
        self.milliseconds == 0 && self.quantity.is_zero()
    }

    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            milliseconds: self.milliseconds.checked_add(other.milliseconds)?,
            quantity: self.quantity.checked_add(other.quantity)?,
        })
    }
}

/// A line, as the sets say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// In which UTC hour.
    pub hour: Hour,
    /// Per GPU-hour.
    pub price: Price,
    /// Milliseconds of the instance.
    pub milliseconds: i64,
    /// GPU-hours.
    pub quantity: Quantity,
}

/// Lines' differences that no row holds yet and that are not the one that grows now.
pub(crate) type PendingLines = BTreeMap<(InstanceIx, Hour, Price), LineDifference>;

/// What rating writes beside the instance: the parts of the state, borrowed apart.
pub(crate) struct Charging<'a> {
    pub(crate) group: &'a mut ChargeGroup,
    pub(crate) ix: InstanceIx,
    pub(crate) pending: &'a mut PendingLines,
    /// Lines of earlier hours do not grow any more: what they gain waits for the next `Tick`.
    pub(crate) written_until: Hour,
}

/// A report of an instance that nobody registered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspended {
    pub(crate) agent: AgentId,
    pub(crate) gpus: u32,
    /// What the clock said when the report came: it will be the same when the instance is known.
    pub(crate) excluded: Option<Exclusion>,
    pub(crate) reported: Coverage,
}

/// Where every reported millisecond is (M-3), in milliseconds of instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Accounting {
    /// Reported, each millisecond of an instance once.
    pub measured_ms: i64,
    /// Billed.
    pub billed_ms: i64,
    /// Not billed, and why.
    pub excluded_ms: BTreeMap<&'static str, i64>,
    /// Instance not known yet.
    pub suspense_ms: i64,
    /// Running by the life cycle and not reported, until the time of the answer.
    pub unreported_ms: i64,
}

impl Accounting {
    /// M-3: every measured millisecond is in exactly one place.
    pub fn balances(&self) -> bool {
        let excluded = self.excluded_ms.values().try_fold(0_i64, |sum, ms| sum.checked_add(*ms));
        let placed = excluded
            .and_then(|sum| sum.checked_add(self.billed_ms))
            .and_then(|sum| sum.checked_add(self.suspense_ms));
        placed == Some(self.measured_ms)
    }
}

impl Instance {
    /// The start of the run that has not ended.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        self.running.last().filter(|run| run.end() == INSTANT_MAX).map(Interval::start)
    }

    /// The milliseconds of a line: reported, running, in the hour and at the price.
    fn line_milliseconds(&self, prices: &PriceTimeline, hour: Hour, price: Price) -> i64 {
        rating::line_domain(prices, hour, price)
            .flat_map(|part| self.running.within(part))
            .map(|run| self.reported.milliseconds_within(run))
            .fold(0, i64::saturating_add)
    }

    /// Takes a report in good order: what it adds to the set is billed where the instance ran.
    pub(crate) fn report(
        &mut self,
        interval: Interval,
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        if self.report_in_order(interval, charging.group)? {
            return Ok(());
        }
        for new in self.reported.missing(interval) {
            for run in self.running.within(new).collect::<hourglass_units::Pieces>() {
                // The cuts go into the set one by one, so that each line is measured as it stands.
                let prices = std::mem::take(&mut charging.group.prices);
                let cut = rating::cuts(&prices, run).try_for_each(|cut| {
                    let before = match self.growing {
                        Some(line) if line.hour == cut.hour && line.price == cut.price => {
                            line.total.milliseconds
                        }
                        _ => self.line_milliseconds(&prices, cut.hour, cut.price),
                    };
                    self.reported.insert(cut.interval);
                    let after = before.saturating_add(cut.interval.milliseconds());
                    self.post((cut.hour, cut.price), before, after, charging)
                });
                charging.group.prices = prices;
                cut?;
            }
            self.reported.insert(new);
        }
        Ok(())
    }

    /// The report that nearly all are: it follows the last one, while the instance runs, within the
    /// hour and the price of the line that grows. `false` where it is another; then nothing is done.
    fn report_in_order(&mut self, interval: Interval, group: &mut ChargeGroup) -> Result<bool, Inconsistent> {
        let (Some(line), Some(last), Some(run)) =
            (&mut self.growing, self.reported.last(), self.running.last())
        else {
            return Ok(false);
        };
        if interval.start() < last.start() || interval.start() > last.end() {
            return Ok(false);
        }
        let Some(new) = Interval::between(last.end(), interval.end()) else { return Ok(true) };
        let holds = |whole: Interval| whole.start() <= new.start() && new.end() <= whole.end();
        let at_its_price = group
            .prices
            .within(new)
            .next()
            .is_some_and(|step| step.price == line.price && holds(step.interval));
        if !(at_its_price && holds(run) && holds(line.hour.interval())) {
            return Ok(false);
        }
        let overflow = || Inconsistent::new("a charge out of range");
        let milliseconds = line.total.milliseconds.saturating_add(new.milliseconds());
        let quantity = quantity(milliseconds, self.gpus)?;
        let added = quantity.checked_sub(line.total.quantity).ok_or_else(overflow)?;
        let difference = LineDifference { milliseconds: new.milliseconds(), quantity: added };
        group.charge(line.hour.start(), line.price, added).ok_or_else(overflow)?;
        line.total = LineDifference { milliseconds, quantity };
        line.unwritten = line.unwritten.checked_add(difference).ok_or_else(overflow)?;
        self.reported.insert(new);
        Ok(true)
    }

    /// Changes when the instance ran, and posts what that changes of its lines.
    pub(crate) fn change_running(
        &mut self,
        running: Coverage,
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        let changed = running.difference(&self.running).union(&self.running.difference(&running));
        let prices = std::mem::take(&mut charging.group.prices);
        let touched: BTreeSet<(Hour, Price)> = changed
            .intervals()
            .iter()
            .flat_map(|window| self.reported.within(*window))
            .flat_map(|part| rating::cuts(&prices, part))
            .map(|cut| (cut.hour, cut.price))
            .collect();
        let measure = |instance: &Self| -> Vec<i64> {
            touched.iter().map(|(hour, price)| instance.line_milliseconds(&prices, *hour, *price)).collect()
        };
        let before = measure(self);
        self.running = running;
        let after = measure(self);
        let posted =
            touched.iter().zip(before.iter().zip(&after)).try_for_each(|((hour, price), (before, after))| {
                self.post((*hour, *price), *before, *after, charging)
            });
        charging.group.prices = prices;
        posted
    }

    /// Posts the difference between two measures of a line.
    fn post(
        &mut self,
        (hour, price): (Hour, Price),
        before: i64,
        after: i64,
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        let overflow = || Inconsistent::new("a charge out of range");
        let total = LineDifference { milliseconds: after, quantity: quantity(after, self.gpus)? };
        let added = total.quantity.checked_sub(quantity(before, self.gpus)?).ok_or_else(overflow)?;
        let difference = LineDifference { milliseconds: after.saturating_sub(before), quantity: added };
        charging.group.charge(hour.start(), price, added).ok_or_else(overflow)?;

        match &mut self.growing {
            Some(line) if line.hour == hour && line.price == price => {
                line.total = total;
                line.unwritten = line.unwritten.checked_add(difference).ok_or_else(overflow)?;
            }
            growing => {
                let newest = hour >= charging.written_until && growing.is_none_or(|line| line.hour <= hour);
                let new = GrowingLine { hour, price, total, unwritten: difference };
                let aside = if newest { growing.replace(new) } else { Some(new) };
                if let Some(line) = aside {
                    let sum = charging.pending.entry((charging.ix, line.hour, line.price)).or_default();
                    *sum = sum.checked_add(line.unwritten).ok_or_else(overflow)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a report that is not billed.
    pub(crate) fn exclude(&mut self, reason: Exclusion, interval: Interval) {
        self.excluded.get_or_insert_default().entry(reason).or_default().insert(interval);
    }

    /// What is billed: a set.
    pub(crate) fn billed(&self) -> Coverage {
        self.reported.intersection(&self.running)
    }

    /// Its lines, by hour and price, as the sets say that they are.
    pub(crate) fn lines(&self, prices: &PriceTimeline) -> Result<Vec<Line>, Inconsistent> {
        let mut milliseconds: BTreeMap<(Hour, Price), i64> = BTreeMap::new();
        for part in self.billed().intervals() {
            for cut in rating::cuts(prices, *part) {
                let sum = milliseconds.entry((cut.hour, cut.price)).or_default();
                *sum = sum.saturating_add(cut.interval.milliseconds());
            }
        }
        milliseconds
            .into_iter()
            .map(|((hour, price), milliseconds)| {
                Ok(Line { hour, price, milliseconds, quantity: quantity(milliseconds, self.gpus)? })
            })
            .collect()
    }

    /// Adds where its reported milliseconds are.
    pub(crate) fn account(&self, now: Instant, sum: &mut Accounting) {
        let billed = self.billed();
        let mut placed = billed.clone();
        sum.billed_ms = sum.billed_ms.saturating_add(billed.milliseconds());
        for reason in Exclusion::ALL {
            let excluded = match reason {
                Exclusion::NotRunning => Some(&self.reported),
                _ => self.excluded.as_ref().and_then(|excluded| excluded.get(&reason)),
            };
            let Some(excluded) = excluded else { continue };
            let here = excluded.difference(&placed).milliseconds();
            if here > 0 {
                let total = sum.excluded_ms.entry(reason.as_str()).or_default();
                *total = total.saturating_add(here);
            }
            placed = placed.union(excluded);
        }
        sum.measured_ms = sum.measured_ms.saturating_add(placed.milliseconds());
        let so_far = Interval::between(hourglass_units::INSTANT_MIN, now);
        let ran = so_far.map_or_else(Coverage::default, |past| self.running.within(past).collect());
        sum.unreported_ms = sum.unreported_ms.saturating_add(ran.difference(&self.reported).milliseconds());
    }
}

/// The quantity of so many milliseconds of so many GPUs.
fn quantity(milliseconds: i64, gpus: u32) -> Result<Quantity, Inconsistent> {
    milliseconds
        .checked_mul(i64::from(gpus))
        .and_then(|gpu_ms| Quantity::of_gpu_milliseconds(i128::from(gpu_ms)))
        .ok_or_else(|| Inconsistent::new("a line's quantity out of range"))
}

/// Adds the reports of one unknown instance to the accounting.
pub(crate) fn account_suspense(reports: &[Suspended], sum: &mut Accounting) {
    let all = reports.iter().fold(Coverage::default(), |all, it| all.union(&it.reported));
    sum.measured_ms = sum.measured_ms.saturating_add(all.milliseconds());
    sum.suspense_ms = sum.suspense_ms.saturating_add(all.milliseconds());
}
