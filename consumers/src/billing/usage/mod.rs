//! Usage, exactly as of one log position.
//!
//! A report is the sum of parts that are taken at the same position: charges that stand in rows, and what
//! no row holds yet (the open hour, and late differences until the next `Tick`), taken from the state. Rows
//! are added up by the store, or by the [`DayCube`], which keeps the sums of whole UTC days in memory so that
//! a long report need not read a row for each instance and hour. U-1: each part is price × quantity and
//! nothing is rounded, so it does not matter which of them added it up.

use std::collections::BTreeMap;

use hourglass_ledger::core::{LineView, Position, State};
use hourglass_ledger::store::{self, ChargeFilter, Page, Reader, StoreError};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{InstanceId, Labels, Platform, Quantity, Region};
use serde::Serialize;
use utoipa::ToSchema;

use super::report::AsOf;
use collect::{Collector, Of, Sums};

mod collect;
mod cube;
mod group;
#[cfg(test)]
mod tests;

pub use cube::{CUBE_CELLS_MAX, DayCube};
pub use group::{Granularity, GroupBy, LabelFilter, UnknownGranularity, UnknownGroupBy};

/// Which usage to report, and what to keep apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UsageQuery {
    /// Which charges.
    pub filter: ChargeFilter,
    /// On this platform.
    pub platform: Option<Platform>,
    /// In this region.
    pub region: Option<Region>,
    /// Sold so.
    pub model: Option<PurchaseModel>,
    /// With all of these labels.
    pub labels: Vec<LabelFilter>,
    /// What to keep apart; nothing for one row a currency.
    pub group_by: Vec<GroupBy>,
}

impl UsageQuery {
    /// Whether the answer depends on labels of instances.
    fn asks_for_labels(&self) -> bool {
        !self.labels.is_empty() || self.group_by.iter().any(|key| matches!(key, GroupBy::Label(_)))
    }

    /// The finest span that must be kept apart, in milliseconds; months are folded from days.
    fn span_ms(&self) -> i64 {
        self.group_by.iter().filter_map(GroupBy::span_ms).min().unwrap_or(0)
    }
}

/// Usage, added up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct UsageReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// One row a group and currency, in order.
    pub rows: Vec<UsageRow>,
}

/// The usage of one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// What was kept apart, by the names asked for.
    pub group: BTreeMap<String, String>,
    /// Of the amount, ISO 4217.
    pub currency: String,
    /// GPU-milliseconds billed.
    pub gpu_ms: i64,
    /// GPU-hours billed, an exact decimal.
    pub gpu_hours: String,
    /// What they cost, an exact decimal.
    pub amount: String,
}

/// What no row holds yet, already filtered and grouped.
#[derive(Clone, Debug)]
pub struct Unwritten {
    position: Position,
    as_of: AsOf,
    collected: Collector,
}

/// Takes from the state what no row holds yet. The rows that go with it are those up to the state's
/// position.
pub fn unwritten(state: &State, query: &UsageQuery) -> Unwritten {
    let mut labels: BTreeMap<InstanceId, Labels> = BTreeMap::new();
    if query.asks_for_labels() {
        let tenant = query.filter.tenant.as_ref();
        let wanted = state.labelled().filter(|it| tenant.is_none_or(|tenant| it.tenant() == tenant));
        labels.extend(wanted.filter_map(|it| Some((it.id().clone(), it.labels()?.clone()))));
    }
    let mut collected = Collector::new(query.clone(), labels);
    for view in state.unwritten_lines().filter(|view| is_wanted(&query.filter, view)) {
        let LineView { instance, line, .. } = view;
        let of = Of {
            tenant: instance.tenant(),
            project: view.project(),
            instance: Some(instance.id()),
            platform: &view.sku().platform,
            region: &view.sku().region,
            model: view.sku().model,
            price: Some(line.price),
            currency: instance.currency(),
        };
        let gpu_ms = line.milliseconds.checked_mul(i64::from(instance.gpus()));
        let more = gpu_ms.map(|gpu_ms| Sums::of(line.price, gpu_ms, line.quantity));
        if let Some(group) = collected.group(&of) {
            collected.add(group, line.hour.start(), more);
        }
    }
    Unwritten { position: state.position(), as_of: AsOf::of(state), collected }
}

fn is_wanted(filter: &ChargeFilter, view: &LineView<'_>) -> bool {
    let ChargeFilter { tenant, project, instance, from, until } = filter;
    let LineView { instance: of, line, .. } = view;
    tenant.as_ref().is_none_or(|tenant| tenant == of.tenant())
        && project.as_ref().is_none_or(|project| project == of.project())
        && instance.as_ref().is_none_or(|instance| instance == of.id())
        && from.is_none_or(|from| from <= line.hour)
        && until.is_none_or(|until| line.hour < until)
}

/// Adds up the rows up to the position of `unwritten`, and `unwritten` itself. Blocks on the store.
///
/// With a cube that was folded no further than that position, whole days come from it. Groups whose
/// corrections took everything back are left out, so that the report depends on what was used and not on how
/// the reports of it came (M-1).
pub fn usage_report(
    reader: &dyn Reader,
    cube: Option<&DayCube>,
    unwritten: Unwritten,
    query: &UsageQuery,
) -> Result<UsageReport, StoreError> {
    let Unwritten { position, as_of, mut collected } = unwritten;
    match cube.and_then(|cube| Some((cube, cube.days_of(query, position)?))) {
        None => add_rows(reader, &query.filter, position, query, &mut collected)?,
        Some((cube, days)) => {
            cube.collect(&query.filter, days, &mut collected);
            // What was written since, of those days; then the parts of days at both ends.
            add_tail(reader, cube, days.of(&query.filter), position, &mut collected)?;
            for edge in days.edges(&query.filter) {
                add_rows(reader, &edge, position, query, &mut collected)?;
            }
        }
    }
    let rows = collected.rows().ok_or_else(|| StoreError("the usage is too large to add up".to_owned()))?;
    Ok(UsageReport { as_of, rows })
}

/// What the store adds up by itself.
fn add_rows(
    reader: &dyn Reader,
    filter: &ChargeFilter,
    until: Position,
    query: &UsageQuery,
    collected: &mut Collector,
) -> Result<(), StoreError> {
    let by_instance = query.asks_for_labels() || query.group_by.contains(&GroupBy::Instance);
    let filter = filter.clone();
    let sums = reader.usage(&store::UsageQuery { filter, until, by_instance, span_ms: query.span_ms() })?;
    for sum in sums {
        let of = Of {
            tenant: &sum.tenant,
            project: &sum.project,
            instance: sum.instance.as_ref(),
            platform: &sum.platform,
            region: &sum.region,
            model: sum.model,
            price: Some(sum.price),
            currency: sum.currency,
        };
        if let Some(group) = collected.group(&of) {
            let quantity = Quantity::from_nanos(sum.quantity_nanos);
            let at = sum.span.unwrap_or(hourglass_units::INSTANT_MIN);
            collected.add(group, at, Some(Sums::of(sum.price, sum.gpu_ms, quantity)));
        }
    }
    Ok(())
}

/// The rows behind what a cube has folded in.
fn add_tail(
    reader: &dyn Reader,
    cube: &DayCube,
    filter: ChargeFilter,
    until: Position,
    collected: &mut Collector,
) -> Result<(), StoreError> {
    let mut after = cube.folded();
    loop {
        let page = Page { after, until, limit: store::PAGE_ROWS_MAX };
        let rows = reader.charges(&filter, page)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.key;
        for store::Keyed { row, .. } in rows {
            if let Some(group) = collected.group(&Of::of_row(&row)) {
                collected.add(group, row.hour.start(), Sums::of_row(&row));
            }
        }
    }
}
