//! Instances: what agents reported of them, when they ran, and what of it is billed.
//!
//! For each instance sets are kept: what was *reported* in good order, when it was *running*, and what
//! of it was *voided*. **Billed is reported ∩ running − voided**, so it does not matter which of them is
//! learnt first, nor in which order, how often or how finely the reports come (M-1, M-2). The quantity
//! of a line is a function of the sets, of the mode timeline and of the prices; what is posted is the
//! difference that a change of any of them makes.
//!
//! What cannot be billed is kept as a set too, by reason, so that every reported millisecond is in
//! exactly one place (M-3): billed, else excluded for the first reason that applies, in the order of
//! [`Exclusion::ALL`].

use std::collections::BTreeMap;

use hourglass_units::{
    AgentId, Coverage, Hour, INSTANT_MAX, INSTANT_MIN, InstanceId, Instant, Interval, Pieces, Price, Quantity,
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::Inconsistent;
use super::calendars::Calendars;
use super::groups::{ChargeGroups, GroupIx, Rates};
use super::modes::Modes;
use super::quotas::Holding;

/// Why a reported millisecond is not billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// Somebody found that the agent was wrong.
    Voided,
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
    pub const ALL: [Self; 6] = [
        Self::Voided,
        Self::NotRunning,
        Self::GpusDiffer,
        Self::ForeignAgent,
        Self::InTheFuture,
        Self::TooOld,
    ];

    /// The stable code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voided => "voided",
            Self::NotRunning => "not_running",
            Self::GpusDiffer => "gpus_differ",
            Self::ForeignAgent => "foreign_agent",
            Self::InTheFuture => "in_the_future",
            Self::TooOld => "too_old",
        }
    }
}

/// Reports that were excluded when they came, by reason; under [`Exclusion::Voided`] the time that was
/// voided, whether reported or not.
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
    /// How it is sold over time.
    pub(crate) modes: Modes,
    pub(crate) gpus: u32,
    pub(crate) agent: Option<AgentIx>,
    /// The line that grows now, with what no row holds yet.
    pub(crate) growing: Option<GrowingLine>,
    /// What it takes of quota: since it was accepted, until it is seen stopped.
    pub(crate) holding: Option<Holding>,
}

/// Which line of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LineKey {
    pub(crate) hour: Hour,
    pub(crate) group: GroupIx,
    pub(crate) price: Price,
}

/// The line that an instance last added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrowingLine {
    pub(crate) key: LineKey,
    /// What directly follows the last report belongs to this line before then. Never later than it
    /// should be: a change of prices or modes lowers it.
    pub(crate) until: Instant,
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

/// Lines of an instance and how many of its milliseconds each has.
pub(crate) type Measured = BTreeMap<LineKey, i64>;

/// Lines' differences that no row holds yet and that are not the one that grows now.
pub(crate) type PendingLines = BTreeMap<(InstanceIx, LineKey), LineDifference>;

/// What rating reads and writes beside the instance: the parts of the state, borrowed apart.
pub(crate) struct Charging<'a> {
    pub(crate) groups: &'a mut ChargeGroups,
    pub(crate) prices: &'a hourglass_pricing::PriceBook,
    pub(crate) calendars: &'a Calendars,
    pub(crate) pending: &'a mut PendingLines,
    /// Lines of earlier hours do not grow any more: what they gain waits for the next `Tick`.
    pub(crate) written_until: Hour,
}

impl Charging<'_> {
    fn rates(&self) -> Rates<'_> {
        Rates::new(self.groups, self.prices)
    }
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

    /// What was voided.
    pub(crate) fn voided(&self) -> Option<&Coverage> {
        self.excluded.as_ref()?.get(&Exclusion::Voided)
    }

    /// The parts of the window that are billed once they are reported, in order.
    fn billable(&self, window: Interval) -> Pieces {
        match self.voided() {
            None => self.running.within(window).collect(),
            Some(voided) => self.running.within(window).flat_map(|run| voided.missing(run)).collect(),
        }
    }

    /// The parts of the window that are billed, in order.
    pub(crate) fn billed_within(&self, window: Interval) -> impl Iterator<Item = Interval> {
        self.billable(window).into_iter().flat_map(|part| self.reported.within(part))
    }

    /// Cuts a window by mode, price and hour.
    pub(crate) fn cuts<'r>(
        &'r self,
        rates: Rates<'r>,
        window: Interval,
    ) -> impl Iterator<Item = (LineKey, Interval)> + 'r {
        self.modes.within(window).flat_map(move |(part, step)| {
            let cuts = rates.tariff(step).into_iter().flat_map(move |tariff| tariff.cuts(part));
            cuts.map(move |cut| {
                (LineKey { hour: cut.hour, group: step.group, price: cut.price }, cut.interval)
            })
        })
    }

    /// The billed milliseconds of one line.
    fn line_milliseconds(&self, rates: Rates<'_>, key: LineKey) -> i64 {
        let lines = self.cuts(rates, key.hour.interval()).filter(|(it, _)| *it == key);
        let billed = lines.flat_map(|(_, part)| self.billed_within(part));
        billed.map(Interval::milliseconds).fold(0, i64::saturating_add)
    }

    /// The lines of the hours that the window touches, as the sets say that they are.
    pub(crate) fn measure(&self, rates: Rates<'_>, window: Interval) -> Measured {
        let last = Hour::containing(window.end().saturating_add_ms(-1));
        let hours = Interval::between(Hour::containing(window.start()).start(), last.end());
        let mut lines = Measured::new();
        for part in hours.into_iter().flat_map(|hours| self.billed_within(hours)) {
            for (key, cut) in self.cuts(rates, part) {
                let sum = lines.entry(key).or_default();
                *sum = sum.saturating_add(cut.milliseconds());
            }
        }
        lines
    }

    /// Takes a report in good order: what it adds to the set is billed where the instance ran.
    pub(crate) fn report(
        &mut self,
        ix: InstanceIx,
        interval: Interval,
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        if self.report_in_order(interval, charging)? {
            return Ok(());
        }
        for new in self.reported.missing(interval) {
            for run in self.billable(new) {
                // The cuts go into the set one by one, so that each line is measured as it stands.
                let cuts: SmallVec<[(LineKey, Interval); 4]> = self.cuts(charging.rates(), run).collect();
                for (key, cut) in cuts {
                    let before = match self.growing {
                        Some(line) if line.key == key => line.total.milliseconds,
                        _ => self.line_milliseconds(charging.rates(), key),
                    };
                    self.reported.insert(cut);
                    let after = before.saturating_add(cut.milliseconds());
                    self.post(ix, key, (before, after), charging)?;
                    self.look_ahead(key, cut, charging);
                }
            }
            self.reported.insert(new);
        }
        Ok(())
    }

    /// The report that nearly all are: it follows the last one, while the instance runs, within the
    /// line that grows. `false` where it is another; then nothing is done.
    fn report_in_order(
        &mut self,
        interval: Interval,
        charging: &mut Charging<'_>,
    ) -> Result<bool, Inconsistent> {
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
        if new.end() > line.until || !holds(run) || !holds(line.key.hour.interval()) {
            return Ok(false);
        }
        let overflow = || Inconsistent::new("a charge out of range");
        let milliseconds = line.total.milliseconds.saturating_add(new.milliseconds());
        let quantity = quantity(milliseconds, self.gpus)?;
        let added = quantity.checked_sub(line.total.quantity).ok_or_else(overflow)?;
        let difference = LineDifference { milliseconds: new.milliseconds(), quantity: added };
        let LineKey { hour, group, price } = line.key;
        let group = charging.groups.get_mut(group).ok_or_else(overflow)?;
        group.charge(charging.calendars, hour, price, added).ok_or_else(overflow)?;
        line.total = LineDifference { milliseconds, quantity };
        line.unwritten = line.unwritten.checked_add(difference).ok_or_else(overflow)?;
        self.reported.insert(new);
        Ok(true)
    }

    /// Finds out until when reports that follow the cut belong to the line that grows.
    fn look_ahead(&mut self, key: LineKey, cut: Interval, charging: &Charging<'_>) {
        let ahead = |instance: &Self| {
            let (step, until) = instance.modes.at(cut.start())?;
            let rest = Interval::between(cut.start(), until.min(key.hour.end()))?;
            let (piece, _) = charging.rates().tariff(step)?.pieces(rest).next()?;
            // What was voided is for the long way.
            instance.voided().is_none().then_some(piece.end())
        };
        if self.growing.is_some_and(|line| line.key == key && line.until < cut.end()) {
            let until = ahead(self).unwrap_or(INSTANT_MIN);
            if let Some(line) = &mut self.growing {
                line.until = until;
            }
        }
    }

    /// Prices or modes change from an instant on: what follows there must be looked at again.
    pub(crate) fn look_again_from(&mut self, at: Instant) {
        if let Some(line) = &mut self.growing {
            line.until = line.until.min(at);
        }
    }

    /// Changes what is billed within the window, and posts what that changes of its lines.
    pub(crate) fn amend(
        &mut self,
        ix: InstanceIx,
        window: Interval,
        charging: &mut Charging<'_>,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), Inconsistent> {
        let before = self.measure(charging.rates(), window);
        change(self);
        self.look_again_from(INSTANT_MIN);
        let after = self.measure(charging.rates(), window);
        self.post_differences(ix, &before, &after, charging)
    }

    /// Posts the difference between two measures of the same hours.
    pub(crate) fn post_differences(
        &mut self,
        ix: InstanceIx,
        before: &Measured,
        after: &Measured,
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        for (key, was) in before {
            let is = after.get(key).copied().unwrap_or(0);
            if *was != is {
                self.post(ix, *key, (*was, is), charging)?;
            }
        }
        for (key, is) in after.iter().filter(|(key, _)| !before.contains_key(key)) {
            self.post(ix, *key, (0, *is), charging)?;
        }
        Ok(())
    }

    /// Posts the difference between two measures of a line.
    fn post(
        &mut self,
        ix: InstanceIx,
        key: LineKey,
        (before, after): (i64, i64),
        charging: &mut Charging<'_>,
    ) -> Result<(), Inconsistent> {
        let overflow = || Inconsistent::new("a charge out of range");
        let total = LineDifference { milliseconds: after, quantity: quantity(after, self.gpus)? };
        let added = total.quantity.checked_sub(quantity(before, self.gpus)?).ok_or_else(overflow)?;
        let difference = LineDifference { milliseconds: after.saturating_sub(before), quantity: added };
        let group = charging.groups.get_mut(key.group).ok_or_else(overflow)?;
        group.charge(charging.calendars, key.hour, key.price, added).ok_or_else(overflow)?;

        match &mut self.growing {
            Some(line) if line.key == key => {
                line.total = total;
                line.unwritten = line.unwritten.checked_add(difference).ok_or_else(overflow)?;
            }
            growing => {
                let newest = key.hour >= charging.written_until
                    && growing.is_none_or(|line| line.key.hour <= key.hour);
                let new = GrowingLine { key, until: INSTANT_MIN, total, unwritten: difference };
                let aside = if newest { growing.replace(new) } else { Some(new) };
                if let Some(line) = aside {
                    let sum = charging.pending.entry((ix, line.key)).or_default();
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
        let billed = self.reported.intersection(&self.running);
        self.voided().map_or_else(|| billed.clone(), |voided| billed.difference(voided))
    }

    /// Its lines, as the sets say that they are.
    pub(crate) fn lines(&self, rates: Rates<'_>) -> Result<Vec<(LineKey, LineDifference)>, Inconsistent> {
        let all = Interval::between(INSTANT_MIN, INSTANT_MAX);
        let measured = all.map(|all| self.measure(rates, all)).unwrap_or_default();
        let line = |(key, milliseconds)| {
            Ok((key, LineDifference { milliseconds, quantity: quantity(milliseconds, self.gpus)? }))
        };
        measured.into_iter().map(line).collect()
    }

    /// Adds where its reported milliseconds are.
    pub(crate) fn account(&self, now: Instant, sum: &mut Accounting) {
        let billed = self.billed();
        let mut placed = billed.clone();
        sum.billed_ms = sum.billed_ms.saturating_add(billed.milliseconds());
        for reason in Exclusion::ALL {
            let set = self.excluded.as_ref().and_then(|excluded| excluded.get(&reason));
            let excluded = match reason {
                Exclusion::Voided => set.map(|voided| voided.intersection(&self.reported)),
                Exclusion::NotRunning => Some(self.reported.clone()),
                _ => set.cloned(),
            };
            let Some(excluded) = excluded else { continue };
            let here = excluded.difference(&placed).milliseconds();
            if here > 0 {
                let total = sum.excluded_ms.entry(reason.as_str()).or_default();
                *total = total.saturating_add(here);
            }
            placed = placed.union(&excluded);
        }
        sum.measured_ms = sum.measured_ms.saturating_add(placed.milliseconds());
        let so_far = Interval::between(INSTANT_MIN, now);
        let ran = so_far.map_or_else(Coverage::default, |past| self.running.within(past).collect());
        sum.unreported_ms = sum.unreported_ms.saturating_add(ran.difference(&self.reported).milliseconds());
    }
}

/// The quantity of so many milliseconds of so many GPUs.
pub(crate) fn quantity(milliseconds: i64, gpus: u32) -> Result<Quantity, Inconsistent> {
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
