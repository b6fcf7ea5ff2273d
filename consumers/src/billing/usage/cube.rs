//! The sums of whole UTC days, in memory: what a report over months is added up from.
//!
//! It is folded from charge rows in the order of the log, can be made again from them at any time, and knows
//! how far it is. Prices are not kept apart: a spot price can change with each minute, while what a day cost
//! is one exact sum. Hours and prices are asked of the store.

use std::collections::{BTreeMap, HashMap};

use hourglass_ledger::core::Position;
use hourglass_ledger::core::rows::ChargeRow;
use hourglass_ledger::store::{ChargeFilter, Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Currency, Hour, InstanceId, Instant, Platform, ProjectId, Region, TenantId};

use super::collect::{Collector, Of, Sums};
use super::group::DAY_MILLISECONDS;
use super::{GroupBy, UsageQuery};

/// Most sums that are kept, of about 50 bytes each; where there are more, the oldest days are left to the
/// store.
pub const CUBE_CELLS_MAX: usize = 8_000_000;

/// What is kept apart of a tenant's usage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    project: ProjectId,
    instance: InstanceId,
    platform: Platform,
    region: Region,
    model: PurchaseModel,
    currency: Currency,
}

/// A day is its number since 1970-01-01.
type Day = i64;

/// The days of one key, in order.
#[derive(Debug)]
struct Series {
    key: Key,
    days: Vec<(Day, Sums)>,
}

/// The series of a tenant.
#[derive(Debug, Default)]
struct OfTenant {
    numbers: HashMap<Key, usize>,
    series: Vec<Series>,
}

/// Sums by tenant, what is kept apart, and day.
#[derive(Debug, Default)]
pub struct DayCube {
    folded: RowKey,
    tenants: BTreeMap<TenantId, OfTenant>,
    cells: usize,
    /// Days before this one are not kept; all are where absent.
    first: Option<Day>,
    /// A sum left the range of its types: nothing is answered from here any more.
    is_broken: bool,
}

/// Whole days `[first, end)`, and what a report wants beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    first: Option<Day>,
    end: Option<Day>,
}

fn day_of(at: Instant) -> Day {
    at.unix_ms().div_euclid(DAY_MILLISECONDS)
}

/// `None` outside the times that can be written, where no usage is.
fn hour_of(day: Day) -> Option<Hour> {
    let start = day.checked_mul(DAY_MILLISECONDS)?;
    Instant::from_unix_ms(start).ok().map(Hour::containing)
}

impl Days {
    /// The filter of these days alone.
    pub(super) fn of(self, filter: &ChargeFilter) -> ChargeFilter {
        let (from, until) = (self.first.and_then(hour_of), self.end.and_then(hour_of));
        ChargeFilter { from: from.or(filter.from), until: until.or(filter.until), ..filter.clone() }
    }

    /// The parts of days that a filter has before and behind them.
    pub(super) fn edges(self, filter: &ChargeFilter) -> impl Iterator<Item = ChargeFilter> {
        let whole = self.of(filter);
        let before = ChargeFilter { until: whole.from, ..filter.clone() };
        let behind = ChargeFilter { from: whole.until, ..filter.clone() };
        let is_part =
            |part: &ChargeFilter| part.from.zip(part.until).is_some_and(|(from, until)| from < until);
        [before, behind].into_iter().filter(move |part| is_part(part))
    }
}

impl DayCube {
    /// The last row that is in it.
    pub(super) fn folded(&self) -> RowKey {
        self.folded
    }

    /// Up to where the log is in it.
    pub fn position(&self) -> Position {
        self.folded.position
    }

    /// Folds in what was written up to a position, at most so many rows. Whether it came so far.
    pub fn catch_up(
        &mut self,
        reader: &dyn Reader,
        until: Position,
        rows_max: usize,
    ) -> Result<bool, StoreError> {
        let mut folded = 0_usize;
        while self.folded.position < until {
            if folded >= rows_max {
                return Ok(false);
            }
            let page = Page { after: self.folded, until, limit: PAGE_ROWS_MAX };
            let rows = reader.charges(&ChargeFilter::default(), page)?;
            folded = folded.saturating_add(rows.len());
            let is_last = rows.len() < PAGE_ROWS_MAX;
            for Keyed { key, row } in rows {
                self.fold(&row);
                self.folded = key;
            }
            if is_last {
                self.folded = RowKey { position: until, line: u32::MAX };
            }
            while self.cells > CUBE_CELLS_MAX {
                self.forget_the_oldest();
            }
        }
        Ok(true)
    }

    fn fold(&mut self, row: &ChargeRow) {
        let day = day_of(row.hour.start());
        if self.first.is_some_and(|first| day < first) {
            return;
        }
        let Some(more) = Sums::of_row(row) else {
            self.is_broken = true;
            return;
        };
        let key = Key {
            project: row.project.clone(),
            instance: row.instance.clone(),
            platform: row.platform.clone(),
            region: row.region.clone(),
            model: row.model,
            currency: row.currency,
        };
        if !self.tenants.contains_key(&row.tenant) {
            self.tenants.insert(row.tenant.clone(), OfTenant::default());
        }
        let Some(OfTenant { numbers, series }) = self.tenants.get_mut(&row.tenant) else { return };
        let number = *numbers.entry(key).or_insert_with_key(|key| {
            series.push(Series { key: key.clone(), days: Vec::new() });
            series.len().saturating_sub(1)
        });
        let Some(Series { days, .. }) = series.get_mut(number) else { return };
        // Nearly always the last one.
        let at = match days.last() {
            Some((last, _)) if *last == day => Ok(days.len().saturating_sub(1)),
            _ => days.binary_search_by_key(&day, |(day, _)| *day),
        };
        match at {
            Ok(at) => {
                if let Some((_, sums)) = days.get_mut(at) {
                    match sums.checked_add(more) {
                        Some(sum) => *sums = sum,
                        None => self.is_broken = true,
                    }
                }
            }
            Err(at) => {
                days.insert(at, (day, more));
                self.cells = self.cells.saturating_add(1);
            }
        }
    }

    /// Leaves the oldest day that it has to the store.
    fn forget_the_oldest(&mut self) {
        let series = || self.tenants.values().flat_map(|it| &it.series);
        let oldest = series().filter_map(|it| it.days.first()).map(|(day, _)| *day).min();
        let Some(first) = oldest.map(|oldest| oldest.saturating_add(1)) else { return };
        self.first = Some(first);
        let mut cells = 0_usize;
        for series in self.tenants.values_mut().flat_map(|it| &mut it.series) {
            let gone = series.days.partition_point(|(day, _)| *day < first);
            series.days.drain(..gone);
            cells = cells.saturating_add(series.days.len());
        }
        self.cells = cells;
    }

    /// Which days of a query it can answer as of a position; `None` where the store has to answer all of it.
    pub(super) fn days_of(&self, query: &UsageQuery, as_of: Position) -> Option<Days> {
        let apart = |key: &GroupBy| query.group_by.contains(key);
        if self.is_broken || self.position() > as_of || apart(&GroupBy::Price) || apart(&GroupBy::Hour) {
            return None;
        }
        let ceiling = |hour: Hour| {
            let ms = hour.start().unix_ms();
            ms.div_euclid(DAY_MILLISECONDS).saturating_add(i64::from(ms.rem_euclid(DAY_MILLISECONDS) != 0))
        };
        let first = query.filter.from.map(ceiling);
        let end = query.filter.until.map(|hour| day_of(hour.start()));
        let is_kept = self.first.is_none_or(|kept| first.is_some_and(|first| kept <= first));
        let is_some_day = first.zip(end).is_none_or(|(first, end)| first < end);
        (is_kept && is_some_day).then_some(Days { first, end })
    }

    /// Adds the days of all that a filter wants.
    pub(super) fn collect(&self, filter: &ChargeFilter, days: Days, into: &mut Collector) {
        let of_tenants: &mut dyn Iterator<Item = (&TenantId, &OfTenant)> = match &filter.tenant {
            Some(tenant) => &mut self.tenants.get_key_value(tenant).into_iter(),
            None => &mut self.tenants.iter(),
        };
        for (tenant, of_tenant) in of_tenants {
            for Series { key, days: sums } in &of_tenant.series {
                let wanted = filter.project.as_ref().is_none_or(|project| *project == key.project)
                    && filter.instance.as_ref().is_none_or(|instance| *instance == key.instance);
                if !wanted {
                    continue;
                }
                let from = days.first.map_or(0, |first| sums.partition_point(|(day, _)| *day < first));
                let until = days.end.map_or(sums.len(), |end| sums.partition_point(|(day, _)| *day < end));
                let Some(sums) = sums.get(from..until).filter(|sums| !sums.is_empty()) else { continue };
                let of = Of {
                    tenant,
                    project: &key.project,
                    instance: Some(&key.instance),
                    platform: &key.platform,
                    region: &key.region,
                    model: key.model,
                    price: None,
                    currency: key.currency,
                };
                let Some(group) = into.group(&of) else { continue };
                for (day, sums) in sums {
                    if let Some(hour) = hour_of(*day) {
                        into.add(group, hour.start(), Some(*sums));
                    }
                }
            }
        }
    }
}
