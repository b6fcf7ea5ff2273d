//! B-5: closed months are as they were closed.

use std::collections::BTreeMap;

use hourglass_units::{Hour, Month};

use super::{Report, for_each};
use crate::core::State;
use crate::core::periods::MonthRows;
use crate::store::{ChargeFilter, Keyed, Reader, StoreError, TransferFilter};

/// Chains the stored rows of each closed month anew, and compares with what the log says of it.
pub(super) fn check(reader: &dyn Reader, state: &State, report: &mut Report) -> Result<(), StoreError> {
    let periods = state.periods();
    let Some(last) = periods.closed_until() else { return Ok(()) };
    let closed: BTreeMap<Month, _> =
        periods.months().filter_map(|month| Some((month, periods.closed(month)?))).collect();
    let mut found: BTreeMap<Month, MonthRows> = BTreeMap::new();
    let until = state.position();

    for_each(
        until,
        |page| reader.transfers(&TransferFilter::default(), page),
        |Keyed { key, row }| {
            let month = Month::containing(row.at);
            let Some(it) = closed.get(&month) else { return };
            if key.position > it.position {
                report.find(
                    Some(key.position),
                    "B-5",
                    format!("a transfer is booked into {month}, which is closed"),
                );
            }
            found.entry(month).or_default().transfers.add_transfer(key.position, &row);
        },
    )?;
    // What comes after a month is closed is a correction of the month in which it comes.
    let filter = ChargeFilter { until: Some(Hour::containing(last.end())), ..ChargeFilter::default() };
    for_each(
        until,
        |page| reader.charges(&filter, page),
        |Keyed { key, row }| {
            let month = Month::containing(row.hour.start());
            if closed.get(&month).is_some_and(|it| key.position < it.position) {
                found.entry(month).or_default().charges.add_charge(key.position, &row);
            }
        },
    )?;
    for_each(
        until,
        |page| reader.unused(None, page),
        |Keyed { key, row }| {
            let month = Month::containing(row.hour.start());
            if closed.get(&month).is_some_and(|it| key.position < it.position) {
                found.entry(month).or_default().unused.add_unused(key.position, &row);
            }
        },
    )?;
    for (month, it) in closed {
        let rows = found.remove(&month).unwrap_or_default();
        let counts = [rows.transfers.rows, rows.charges.rows, rows.unused.rows];
        if rows.digest(month) != it.digest || counts != it.rows {
            let what = format!(
                "{month} was closed with {:?} transfers, charges and unused hours of another digest; the stored ones are {counts:?}",
                it.rows
            );
            report.find(Some(it.position), "B-5", what);
        }
    }
    Ok(())
}
