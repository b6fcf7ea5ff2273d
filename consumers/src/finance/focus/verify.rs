//! Runs held against their manifests, their own identities, and the ledger.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use hourglass_ledger::core::invoicing::open_lines;
use hourglass_ledger::core::{Account, InvoiceStatus, Position, State};
use hourglass_ledger::store::Reader;
use hourglass_units::{Amount, Month};
use sha2::{Digest, Sha256};

use super::super::columnar::{Cell, Format, ReadError, read_file};
use super::super::run::{Archive, FileEntry, Manifest, RunError};
use super::check::{Checker, Findings, Sum};
use super::columns::Col;
use super::export::{Export, FocusError, Wanted};
use super::runs::FILE;
use super::{COST_AND_USAGE, DATASET, PROVIDER_DEFAULT, VERSION};

/// What was looked at, and what was found.
#[derive(Debug)]
pub struct Verified {
    /// Runs looked at: the newest of each billing period and format.
    pub runs: u64,
    /// Rows in them.
    pub rows: u64,
    /// Invoices and credit notes whose rows were added up.
    pub invoices: u64,
    /// Reservations of which every hour is there.
    pub commitments: u64,
    /// Whether the ledger was there to compare with.
    pub with_ledger: bool,
    /// What does not hold.
    pub findings: Findings,
}

/// Checks the newest runs in a directory, each format by itself. `ledger` is the state to compare with,
/// if there is one.
pub fn verify_runs(root: &Path, ledger: Option<&State>) -> Result<Verified, FocusError> {
    let mut by_format: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (path, manifest) in Archive::read(root).newest_of_all()? {
        if manifest.subject.dataset == DATASET && manifest.subject.version == VERSION {
            by_format.entry(manifest.subject.format.clone()).or_default().push((path, manifest));
        }
    }
    let mut all = Verified {
        runs: 0,
        rows: 0,
        invoices: 0,
        commitments: 0,
        with_ledger: ledger.is_some(),
        findings: Findings::default(),
    };
    for (format, runs) in by_format {
        let format: Format = format.parse()?;
        let mut checker = Checker::default();
        for (path, manifest) in &runs {
            one_run(path, manifest, format, &mut checker)?;
        }
        checker.finish();
        if let Some(state) = ledger {
            let manifests: Vec<&Manifest> = runs.iter().map(|(_, manifest)| manifest).collect();
            against_ledger(&mut checker, &manifests, state)?;
        }
        all.runs = all.runs.saturating_add(runs.len() as u64);
        all.rows = all.rows.saturating_add(checker.rows);
        all.invoices = all.invoices.saturating_add(checker.invoices.len() as u64);
        all.commitments = all.commitments.saturating_add(checker.commitments_over() as u64);
        all.findings.count = all.findings.count.saturating_add(checker.findings.count);
        all.findings.first.append(&mut checker.findings.first);
    }
    Ok(all)
}

/// The files of a run against its manifest, and each row by itself.
fn one_run(
    path: &Path,
    manifest: &Manifest,
    format: Format,
    checker: &mut Checker,
) -> Result<(), FocusError> {
    let mut sums: BTreeMap<String, BTreeMap<&'static str, Amount>> = BTreeMap::new();
    for entry in &manifest.files {
        let file = path.join(&entry.name);
        let (bytes, sha256) = digest(&file).map_err(|error| RunError::file(&file, error))?;
        let FileEntry { name, .. } = entry;
        if bytes != entry.bytes || sha256 != entry.sha256 {
            let run = &manifest.run;
            checker.findings.add("R-1", || format!("{name} of run {run} is not what the manifest says"));
            continue;
        }
        if *name != format!("{FILE}.{format}") {
            continue;
        }
        let read = read_file(&COST_AND_USAGE, format, &file, |cells| {
            checker.row(cells);
            add_measures(&mut sums, cells)
        });
        match read {
            Ok(rows) if rows == entry.rows => {}
            Ok(rows) => checker.findings.add("R-2", || format!("{name} has {rows} rows")),
            Err(ReadError::Table(what)) => checker.findings.add("R-2", || what),
            Err(ReadError::Taker(())) => return Err(FocusError::TooLarge),
        }
    }
    for (currency, measures) in &sums {
        let told = manifest.totals.get(currency);
        for (name, sum) in measures {
            if told.and_then(|told| told.get(*name)) != Some(sum) {
                let run = &manifest.run;
                checker.findings.add("R-3", || format!("Σ {name} in {currency} of run {run} is {sum}"));
            }
        }
    }
    Ok(())
}

fn add_measures(
    sums: &mut BTreeMap<String, BTreeMap<&'static str, Amount>>,
    cells: &[Cell<'_>],
) -> Result<(), ()> {
    let Some(Cell::Text(currency)) = cells.get(Col::BillingCurrency.index()) else { return Ok(()) };
    if !sums.contains_key(*currency) {
        sums.insert((*currency).to_owned(), BTreeMap::new());
    }
    let Some(of_currency) = sums.get_mut(*currency) else { return Ok(()) };
    for col in [Col::BilledCost, Col::EffectiveCost, Col::ContractedCost, Col::ListCost] {
        if let Some(Cell::Decimal(attos)) = cells.get(col.index()) {
            let sum = of_currency.entry(col.name()).or_default();
            *sum = sum.checked_add(Amount::from_attos(*attos)).ok_or(())?;
        }
    }
    Ok(())
}

/// Holds an export of everything against the ledger that it comes from, without a file.
pub fn audit(reader: &dyn Reader, state: &State) -> Result<Findings, FocusError> {
    let mut checker = Checker::default();
    let take = |_: Month, cells: &[Cell<'_>]| {
        checker.row(cells);
        Ok(())
    };
    let (_taken, _totals) =
        Export::new(state, reader, PROVIDER_DEFAULT, Wanted::All, take)?.run(&mut |_| {})?;
    checker.finish();
    compare_invoices(&mut checker, state, |_, _| true);
    compare_open(&mut checker, state)?;
    Ok(checker.findings)
}

/// Runs against the ledger as it is now.
fn against_ledger(checker: &mut Checker, manifests: &[&Manifest], state: &State) -> Result<(), FocusError> {
    let exported = |period: &str| manifests.iter().find(|it| it.subject.period == period);
    compare_invoices(checker, state, |period, position| {
        let run = exported(&period.to_string());
        run.is_some_and(|run| position.number() <= run.ledger.position)
    });
    // Runs of an earlier position say what was open then, and cannot be compared with what is open now.
    let of_now = |run: &&Manifest| run.ledger.position == state.position().number();
    let mut open = open_lines(state)?.into_iter().map(|it| it.period.to_string());
    let complete = open.all(|period| exported(&period).is_some_and(&of_now));
    if complete && manifests.iter().any(of_now) {
        compare_open(checker, state)?;
    }
    Ok(())
}

/// Σ export = Σ invoices: the rows of each document come to what is due and, without tax and rounding, to
/// its exact total.
fn compare_invoices(checker: &mut Checker, state: &State, exported: impl Fn(Month, Position) -> bool) {
    let mut expected = BTreeMap::new();
    for (id, tenant) in state.tenants() {
        for (number, invoice) in &tenant.invoices {
            if invoice.status != InvoiceStatus::Void && exported(invoice.period, invoice.position) {
                let due = (invoice.due, invoice.exact_total());
                expected.insert((id.to_string(), format!("{id}/{number}")), due);
            }
        }
    }
    let Checker { invoices: seen, findings, .. } = checker;
    for (key, (due, exact)) in &expected {
        // An invoice of nothing has no rows.
        let sums = seen.get(key).copied().unwrap_or_default();
        if sums.due.amount() != Some(*due) || sums.exact.amount() != Some(*exact) {
            findings.add("E-1", || {
                let said = |sum: Sum| sum.amount().unwrap_or_default();
                let (rows, rows_exact) = (said(sums.due), said(sums.exact));
                let id = &key.1;
                format!("invoice {id}: rows come to {rows} ({rows_exact} exactly), due are {due} ({exact} exactly)")
            });
        }
    }
    for key in seen.keys().filter(|key| !expected.contains_key(*key)) {
        findings.add("E-1", || format!("rows on invoice {}, which is none", key.1));
    }
}

/// Σ export = Σ ledger: what stands on no invoice is what is owed and not invoiced, and what the book has as
/// unbilled with what the next tick posts.
fn compare_open(checker: &mut Checker, state: &State) -> Result<(), FocusError> {
    let mut owed: BTreeMap<String, Amount> = BTreeMap::new();
    for lines in open_lines(state)? {
        let sum = owed.entry(lines.tenant.to_string()).or_default();
        for line in &lines.lines {
            *sum = sum.checked_add(line.exact_amount).ok_or(FocusError::TooLarge)?;
        }
    }
    let unposted = state.unposted(None);
    for (id, tenant) in state.tenants() {
        let account = Account::Unbilled(id.clone());
        let more = unposted.get(&(account.clone(), tenant.currency)).copied().unwrap_or(Some(Amount::ZERO));
        let book = state.book().balance(&account, tenant.currency);
        let book = more.and_then(|more| book.checked_add(more));
        let owed = owed.get(id.as_str()).copied().unwrap_or_default();
        let rows = checker.open.get(id.as_str()).copied().unwrap_or_default().amount();
        if rows != Some(owed) {
            checker.findings.add("E-2", || format!("{id}: open rows come to {rows:?}, owed are {owed}"));
        }
        if rows != book {
            checker
                .findings
                .add("E-3", || format!("{id}: open rows come to {rows:?}, the book has {book:?}"));
        }
    }
    Ok(())
}

/// Size and SHA-256 of a file.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes = bytes.saturating_add(read as u64);
        digest.update(buffer.get(..read).unwrap_or_default());
    }
    Ok((bytes, digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
