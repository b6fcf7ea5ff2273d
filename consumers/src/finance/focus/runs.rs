//! The export as runs: one for each billing period.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_ledger::core::State;
use hourglass_ledger::load::Loaded;
use hourglass_ledger::store::Reader;
use hourglass_units::{Amount, Currency, Month};

use super::super::columnar::{Cell, Format, Table};
use super::super::run::{Archive, Draft, LedgerPoint, Measures, RunFile, Sealed, Subject};
use super::export::{Export, FocusError, Progress, Sink, Totals, Wanted};
use super::{COST_AND_USAGE, DATASET, VERSION};

/// Bytes that the tables of all periods gather before the largest is written.
const BUFFERED_BYTES_MAX: usize = 96 * 1024 * 1024;
/// How many rows come between two looks at what is gathered.
const ROWS_BETWEEN_LOOKS: u32 = 4_096;
/// The name of the file, before its format.
pub(super) const FILE: &str = "cost_and_usage";

/// What to export, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// How the files are written.
    pub format: Format,
    /// Which billing periods.
    pub wanted: Wanted,
    /// The name of the provider.
    pub provider: String,
}

/// Writes a run for each billing period, in order. Periods that were asked for by name have one even
/// where there are no rows.
pub fn write_runs(
    archive: &Archive,
    reader: &dyn Reader,
    loaded: &Loaded,
    order: &Order,
    progress: Progress<'_>,
) -> Result<Vec<Sealed>, FocusError> {
    let state = &loaded.state;
    let mut tables = Partitions { archive, format: order.format, tables: BTreeMap::new(), rows: 0 };
    if let Wanted::Only(periods) = &order.wanted {
        for period in periods {
            tables.table(*period)?;
        }
    }
    let export = Export::new(state, reader, &order.provider, order.wanted.clone(), tables)?;
    let open = export.open_periods();
    let (tables, totals) = export.run(progress)?;
    let mut sealed = Vec::new();
    for (period, (mut draft, table)) in tables.tables {
        let rows = table.rows();
        draft.keep(table.finish()?, rows)?;
        let is_final = is_final(state, &open, period);
        sealed.push(draft.seal(is_final, ledger_point(loaded), measures(&totals, period))?);
    }
    Ok(sealed)
}

/// Where in the log an answer holds.
pub fn ledger_point(loaded: &Loaded) -> LedgerPoint {
    let state = &loaded.state;
    LedgerPoint {
        region: state.cell().map(|cell| cell.region.to_string()).unwrap_or_default(),
        from: 1,
        position: state.position().number(),
        hash: loaded.chain_hash.to_hex().to_string(),
        time: state.now().to_string(),
    }
}

/// Whether a billing period is over for everyone, and nothing of it waits for an invoice.
fn is_final(state: &State, open: &BTreeSet<Month>, period: Month) -> bool {
    let grace_ms = state.cell().map_or(0, |cell| cell.policy.grace_ms);
    let over = |end: hourglass_units::Instant| end.saturating_add_ms(grace_ms) <= state.now();
    let ends = state.tenants().map(|(id, _)| state.period_interval(id, period).end());
    !open.contains(&period) && over(period.end()) && ends.into_iter().all(over)
}

fn measures(totals: &BTreeMap<(Month, Currency), Totals>, period: Month) -> BTreeMap<String, Measures> {
    let of_period = totals.iter().filter(|((of, _), _)| *of == period);
    let measures = |it: &Totals| {
        let named: [(&str, Amount); 5] = [
            ("BilledCost", it.billed),
            ("BilledCost before tax and rounding", it.billed_exact),
            ("ContractedCost", it.contracted),
            ("EffectiveCost", it.effective),
            ("ListCost", it.list),
        ];
        named.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect()
    };
    of_period.map(|((_, currency), it)| (currency.to_string(), measures(it))).collect()
}

/// A table for each billing period.
struct Partitions<'a> {
    archive: &'a Archive,
    format: Format,
    tables: BTreeMap<Month, (Draft<'a>, Table<RunFile>)>,
    /// Since the last look at what is gathered.
    rows: u32,
}

impl Partitions<'_> {
    fn table(&mut self, period: Month) -> Result<&mut Table<RunFile>, FocusError> {
        if let std::collections::btree_map::Entry::Vacant(place) = self.tables.entry(period) {
            let draft = self.archive.begin(Subject::of_table(DATASET, VERSION, self.format, period))?;
            let file = draft.file(&format!("{FILE}.{}", self.format))?;
            place.insert((draft, Table::new(&COST_AND_USAGE, self.format, file)?));
        }
        let table = self.tables.get_mut(&period).map(|(_, table)| table);
        table.ok_or_else(|| FocusError::Inconsistent("a period without a table".to_owned()))
    }

    /// Writes the largest row groups until little is gathered.
    fn bound(&mut self) -> Result<(), FocusError> {
        loop {
            let sizes = self.tables.values().map(|(_, table)| table.buffered_bytes());
            if sizes.sum::<usize>() <= BUFFERED_BYTES_MAX {
                return Ok(());
            }
            let largest = self.tables.values_mut().max_by_key(|(_, table)| table.buffered_bytes());
            if let Some((_, table)) = largest {
                table.end_group()?;
            }
        }
    }
}

impl Sink for Partitions<'_> {
    fn row(&mut self, period: Month, cells: &[Cell<'_>]) -> Result<(), FocusError> {
        self.table(period)?.push(cells)?;
        self.rows = self.rows.saturating_add(1);
        if self.rows >= ROWS_BETWEEN_LOOKS {
            self.rows = 0;
            self.bound()?;
        }
        Ok(())
    }
}
