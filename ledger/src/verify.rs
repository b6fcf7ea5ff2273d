//! Verification: the whole log folded again, every invariant checked on real data, every derived row
//! rebuilt and compared.
//!
//! It trusts nothing but the bytes of the log. Each finding names the first position that is wrong,
//! and the invariant by its number in the domain's description:
//!
//! | check | what is compared |
//! |---|---|
//! | log | positions without a gap, hashes, epochs and times that never go back, payloads that decode |
//! | head | the head row is the end of the chain, and nothing stands behind it |
//! | B-3 | rows rebuilt from the log, in a store of their own, against the stored rows: exact text; the snapshot against the state at its position |
//! | B-1, B-2 | balances summed up from stored transfers are those of the fold, sum to zero at every position, and each correction names an earlier position |
//! | B-5 | the rows of a month that is closed for good have the digest that it was closed with, and nothing was booked into it since |
//! | B-4 | no account with a floor is below it at any position; each credit is what was drawn, what expired and what is left |
//! | U-1, U-2 | price × quantity = amount in each charge row; its currency is its tenant's |
//! | P-2 | used and unused rows of a reservation are what is reserved, in each hour; their effective cost is what was paid |
//! | M-2, M-3, P-1 | stored charges and unwritten differences sum to the lines that coverage, life cycle and prices give; every measured millisecond is in exactly one place |
//! | Q-1, Q-3 | after each event nothing that was granted stands above a limit that did not before; each hold ends once and in its time; counters are what holds, leases and instances sum up to |
//! | A-1, A-2, A-3, A-7 | each clearing of the market, run again on the state before it and counted anew |
//! | I-1, I-2 | Σ lines = total; each invoice is drawn again from the log before it, byte for byte |
//!
//! What cannot be read is a finding as well: whoever changes a byte must not be able to stop the
//! verification with it. A denial leaves no trace in the log, so nothing is said about Q-2. A cell may append meanwhile; verified is what the head held at the start.

mod market;
mod periods;
pub(crate) mod quotas;

use std::collections::BTreeMap;
use std::path::Path;

use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Currency, Hour, InstanceId, Price, ReservationId};
use serde::Serialize;

use crate::core::rows::EventRows;
use crate::core::{Account, Event, LineView, Position, Recorded, State, apply, digest, invoicing};
use crate::log::{self, StoredEvent};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{
    Acquire, ChargeFilter, Commit, Head, Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, Store, StoreError,
    Table, TransferFilter,
};
use quotas::Watch;

/// Events folded and rebuilt at once.
const EVENTS_AT_ONCE: usize = 256;
/// Findings listed; more are only counted.
pub const FINDINGS_MAX: usize = 100;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The first position that is wrong; `None` where it is no single one.
    pub position: Option<Position>,
    /// The check, or the invariant by its number.
    pub check: &'static str,
    /// What is wrong.
    pub what: String,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Report {
    /// Events folded.
    pub events: u64,
    /// Usage records in them.
    pub usage_records: u64,
    /// Rows compared, by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// Lines recomputed from coverage.
    pub lines: u64,
    /// Invoices drawn again.
    pub invoices: u64,
    /// The checks that were made.
    pub checks: Vec<&'static str>,
    /// Digest of the final lines, balances and invoices.
    pub digest: String,
    /// What is wrong; empty when all is well. At most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings there were.
    pub finding_count: u64,
}

impl Report {
    /// Whether all is well.
    pub fn is_sound(&self) -> bool {
        self.finding_count == 0
    }

    fn find(&mut self, position: Option<Position>, check: &'static str, what: impl Into<String>) {
        self.finding_count = self.finding_count.saturating_add(1);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { position, check, what: what.into() });
        }
    }

    fn find_unreadable(&mut self, check: &'static str, read: Result<(), StoreError>) {
        if let Err(error) = read {
            self.find(None, check, format!("stored rows cannot be read: {error}"));
        }
    }
}

/// Why verification could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store for the rebuilt rows cannot be made.
    #[error("cannot rebuild the rows in {directory}: {error}")]
    Scratch {
        /// Where.
        directory: String,
        /// Why.
        error: String,
    },
}

/// Verifies a ledger. The rows are rebuilt in an empty directory that the caller gives and removes.
/// `progress` is told each position that is reached, and the last one.
pub fn verify(
    reader: &dyn Reader,
    scratch_directory: &Path,
    mut progress: impl FnMut(Position, Position),
) -> Result<Report, VerifyError> {
    let mut report = Report {
        checks: vec![
            "log", "head", "B-1", "B-2", "B-3", "B-4", "B-5", "U-1", "U-2", "M-2", "M-3", "P-1", "P-2",
            "I-1", "I-2", "Q-1", "Q-3",
        ],
        ..Report::default()
    };
    let scratch_error =
        |error: String| VerifyError::Scratch { directory: scratch_directory.display().to_string(), error };
    let mut scratch = SqliteStore::open(scratch_directory, SqliteOptions { durable: false })
        .map_err(|error| scratch_error(error.to_string()))?;

    let state = fold(reader, &mut scratch, &mut report, &mut progress).map_err(|error| match error {
        FoldError::Store(error) => VerifyError::Store(error),
        FoldError::Scratch(error) => scratch_error(error),
    })?;
    if let Some(state) = state {
        let rebuilt = scratch.reader();
        for table in Table::ALL {
            let compared = compare_rows(reader, rebuilt.as_ref(), table, state.position(), &mut report);
            report.find_unreadable("B-3", compared);
        }
        let charges = check_charges(reader, &state, &mut report);
        report.find_unreadable("U-1", charges);
        let reserved = check_reservations(reader, &state, &mut report);
        report.find_unreadable("P-2", reserved);
        let transfers = check_transfers(reader, &state, &mut report);
        report.find_unreadable("B-1", transfers);
        let closed = periods::check(reader, &state, &mut report);
        report.find_unreadable("B-5", closed);
        check_credits(&state, &mut report);
        check_accounting(&state, &mut report);
        match digest(&state) {
            Ok(digest) => report.digest = digest.to_hex().to_string(),
            Err(error) => report.find(None, "P-1", error.to_string()),
        }
    }
    Ok(report)
}

enum FoldError {
    Store(StoreError),
    Scratch(String),
}

/// Folds the log and rebuilds its rows. `None` where the log cannot be folded to its end: then no
/// later check makes sense.
fn fold(
    reader: &dyn Reader,
    scratch: &mut SqliteStore,
    report: &mut Report,
    progress: &mut impl FnMut(Position, Position),
) -> Result<Option<State>, FoldError> {
    let head = match reader.head() {
        Ok(head) => head,
        // The log can be read and its head cannot: that is no failure of the store.
        Err(error) if reader.events(Position::ZERO, 1).is_ok() => {
            report.find(None, "head", error.to_string());
            return Ok(None);
        }
        Err(error) => return Err(FoldError::Store(error)),
    };
    let snapshot = reader.newest_snapshot().ok().flatten().and_then(|snapshot| snapshot.open());
    let now = hourglass_units::INSTANT_MIN;
    let acquire = Acquire { holder: "verify".to_owned(), now, lease_until: now, holder_is_gone: true };
    let scratch_epoch =
        scratch.acquire(&acquire).map_err(|error| FoldError::Scratch(error.to_string()))?.epoch;

    let (mut state, mut chain, mut epoch) = (State::empty(), log::genesis(), 0);
    let mut watch = Watch::default();
    loop {
        let after = state.position();
        let events = match events_until(reader, after, head.position) {
            Ok(events) if events.is_empty() => break,
            Ok(events) => events,
            Err(error) => {
                report.find(Some(after.next()), "log", error.to_string());
                return Ok(None);
            }
        };
        let mut commit = Commit {
            epoch: scratch_epoch,
            after,
            after_hash: chain,
            lease_until: now,
            events: Vec::with_capacity(events.len()),
            rows: Vec::with_capacity(events.len()),
            cursors: Vec::new(),
        };
        for event in events {
            let here = Some(state.position().next());
            let recorded = match event.open(state.position(), &chain) {
                Ok(recorded) => recorded,
                Err(error) => {
                    report.find(Some(error.position), "log", error.what);
                    return Ok(None);
                }
            };
            if event.epoch < epoch || event.epoch > head.epoch {
                report.find(here, "log", format!("epoch {} after epoch {epoch}", event.epoch));
            }
            check_invoice(&state, &chain, &recorded, report);
            for (check, what) in market::before(&state, event.at, &recorded.event) {
                report.find(here, check, what);
            }
            let before = watch.before(&state, event.at, &recorded);
            let mut rows = EventRows::default();
            if let Err(error) = apply(&mut state, event.at, &recorded, &mut rows) {
                before.wrong().for_each(|(check, what)| report.find(here, check, what));
                report.find(here, "log", error.to_string());
                return Ok(None);
            }
            let wrong = watch.after(before, &state, &recorded);
            for (check, what) in wrong.into_iter().chain(market::after(&state, &recorded.event)) {
                report.find(here, check, what);
            }
            for (currency, sum) in state.book().sums().filter(|(_, sum)| *sum != Some(Amount::ZERO)) {
                report.find(here, "B-1", format!("all accounts in {currency} sum to {sum:?}, not to zero"));
            }
            (chain, epoch) = (event.hash, event.epoch);
            if snapshot
                .as_ref()
                .is_some_and(|(it, at)| it.position() == state.position() && *at == chain && *it != state)
            {
                report.find(here, "B-3", "the snapshot is not what the log makes of it: delete it");
            }
            commit.events.push(event);
            commit.rows.push(rows);
        }
        report.events = state.position().number();
        scratch.commit(&commit).map_err(|error| FoldError::Scratch(error.to_string()))?;
        progress(state.position(), head.position);
    }
    for (check, what) in watch.at_end(&state).into_iter().chain(market::at_end(&state)) {
        report.find(None, check, what);
    }
    check_head(reader, &head, state.position(), chain, report).map_err(FoldError::Store)?;
    report.usage_records = state.counts().usage_records;
    Ok(Some(state))
}

/// Events behind a position, up to the head as it was at the start.
fn events_until(
    reader: &dyn Reader,
    after: Position,
    head: Position,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut events = match reader.events(after, EVENTS_AT_ONCE) {
        Ok(events) => events,
        // One event that cannot be read hides those before it: ask one by one, to name its position.
        Err(_) => reader.events(after, 1)?,
    };
    events.retain(|event| event.position <= head);
    Ok(events)
}

/// The head is the end of the chain, and what stands behind it was appended since it was read.
fn check_head(
    reader: &dyn Reader,
    head: &Head,
    reached: Position,
    chain: blake3::Hash,
    report: &mut Report,
) -> Result<(), StoreError> {
    let says =
        format!("the head says that the log ends at {} with hash {}", head.position, head.hash.to_hex());
    if reached < head.position {
        report.find(Some(reached.next()), "head", format!("{says}: events are missing"));
    } else if head.hash != chain {
        report.find(Some(reached), "head", format!("{says}: the chain has another"));
    }
    let behind = reader.events(head.position.max(reached), 1);
    let now = reader.head()?.position;
    match behind.map(|events| events.first().map(|event| event.position)) {
        Ok(Some(behind)) if behind > now => {
            report.find(Some(behind), "head", format!("{says}: an event follows"))
        }
        Ok(_) => {}
        Err(error) => report.find(Some(head.position.next()), "log", error.to_string()),
    }
    Ok(())
}

/// I-1 and I-2: the document says what its lines say, and is drawn again from the log before it.
fn check_invoice(state: &State, chain: &blake3::Hash, recorded: &Recorded, report: &mut Report) {
    let Event::InvoiceFinalised(stored) = &recorded.event else { return };
    let here = Some(state.position().next());
    report.invoices = report.invoices.saturating_add(1);
    let sum = stored.lines.iter().try_fold(Amount::ZERO, |sum, line| sum.checked_add(line.amount));
    let exact = stored.lines.iter().try_fold(Amount::ZERO, |sum, line| sum.checked_add(line.exact_amount));
    let minor = stored.exact_total.round_half_even_to_minor(stored.currency);
    if sum != Some(stored.total) || exact != Some(stored.exact_total) {
        report.find(
            here,
            "I-1",
            format!("the lines of invoice {} of {} do not sum up", stored.number, stored.tenant),
        );
    }
    if Amount::from_minor_units(minor, stored.currency) != Some(stored.total) {
        report.find(
            here,
            "I-1",
            format!("the total of invoice {} of {} is not rounded", stored.number, stored.tenant),
        );
    }
    match invoicing::draw_kind(
        state,
        stored.kind,
        &stored.tenant,
        stored.period,
        stored.number,
        stored.issued_at,
        chain,
    ) {
        Ok(drawn) if drawn.to_document() == stored.to_document() => {}
        Ok(_) => {
            let what =
                format!("invoice {} of {} comes out differently from the log", stored.number, stored.tenant);
            report.find(here, "I-2", what);
        }
        Err(error) => report.find(here, "I-2", error.to_string()),
    }
}

/// B-3: the rows of a table are the rows that the log makes, to the letter.
fn compare_rows(
    stored: &dyn Reader,
    rebuilt: &dyn Reader,
    table: Table,
    until: Position,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut after = RowKey::default();
    // The first row of a page must not be skipped, and no row stands at position 0.
    loop {
        // Rows behind the end of the log are wrong too, so the stored side has no end.
        let mut page = Page { after, until: Position::new(u64::MAX), limit: PAGE_ROWS_MAX };
        let stored_rows = stored.raw_rows(table, page)?;
        page.until = until;
        let rebuilt_rows = rebuilt.raw_rows(table, page)?;
        let different = first_difference(&stored_rows, &rebuilt_rows);
        if let Some((key, what)) = different {
            // Rows that a cell appended since are for the next verification.
            if key.position > until && key.position <= stored.head()?.position {
                return Ok(());
            }
            let what = format!("{} row {}.{} {what}", table.name(), key.position, key.line);
            report.find(Some(key.position), "B-3", what);
            return Ok(());
        }
        let count = report.rows.entry(table.name()).or_default();
        *count = count.saturating_add(stored_rows.len() as u64);
        match stored_rows.last() {
            Some(last) => after = last.key,
            None => return Ok(()),
        }
    }
}

fn first_difference(stored: &[Keyed<String>], rebuilt: &[Keyed<String>]) -> Option<(RowKey, &'static str)> {
    for at in 0..stored.len().max(rebuilt.len()) {
        match (stored.get(at), rebuilt.get(at)) {
            (Some(stored), Some(rebuilt)) if stored == rebuilt => {}
            (Some(stored), Some(rebuilt)) if stored.key == rebuilt.key => {
                return Some((stored.key, "is not what the log makes of it"));
            }
            (Some(stored), Some(rebuilt)) if stored.key < rebuilt.key => {
                return Some((stored.key, "is not in the log"));
            }
            (_, Some(rebuilt)) => return Some((rebuilt.key, "is missing")),
            (Some(stored), None) => return Some((stored.key, "is not in the log")),
            (None, None) => {}
        }
    }
    None
}

/// Runs over all rows of a listing.
fn for_each<T>(
    until: Position,
    list: impl Fn(Page) -> Result<Vec<Keyed<T>>, StoreError>,
    mut then: impl FnMut(Keyed<T>),
) -> Result<(), StoreError> {
    let mut after = RowKey::default();
    loop {
        let rows = list(Page { after, until, limit: PAGE_ROWS_MAX })?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.key;
        rows.into_iter().for_each(&mut then);
    }
}

/// U-1, U-2, M-2 and P-1 on the stored charges.
fn check_charges(reader: &dyn Reader, state: &State, report: &mut Report) -> Result<(), StoreError> {
    type LineKey = (InstanceId, Hour, PurchaseModel, Option<ReservationId>, Price);
    let mut sums: BTreeMap<LineKey, (i64, i64)> = BTreeMap::new();
    let mut add = |key: LineKey, milliseconds: i64, nanos: i64| {
        let sum = sums.entry(key).or_default();
        *sum = (sum.0.saturating_add(milliseconds), sum.1.saturating_add(nanos));
    };
    let list = |page| reader.charges(&ChargeFilter::default(), page);
    for_each(state.position(), list, |Keyed { key, row }| {
        if row.price.times(row.quantity) != row.amount {
            let what = format!("{} × {} is not {}", row.price, row.quantity, row.amount);
            report.find(Some(key.position), "U-1", what);
        }
        if state.tenant(&row.tenant).map(|tenant| tenant.currency) != Some(row.currency) {
            report.find(Some(key.position), "U-2", format!("a charge of {} in {}", row.tenant, row.currency));
        }
        let key = (row.instance, row.hour, row.model, row.reservation, row.price);
        add(key, row.milliseconds, row.quantity.nanos());
    })?;
    let key_of = |view: &LineView<'_>| {
        let (id, reservation) = (view.instance.id().clone(), view.reservation().cloned());
        (id, view.line.hour, view.sku().model, reservation, view.line.price)
    };
    for unwritten in state.unwritten_lines() {
        add(key_of(&unwritten), unwritten.line.milliseconds, unwritten.line.quantity.nanos());
    }
    sums.retain(|_, sum| *sum != (0, 0));
    for line in state.lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                report.find(None, "P-1", error.to_string());
                continue;
            }
        };
        report.lines = report.lines.saturating_add(1);
        let key = key_of(&line);
        let expected = (line.line.milliseconds, line.line.quantity.nanos());
        let booked = sums.remove(&key).unwrap_or_default();
        if booked != expected {
            let (instance, hour, _, _, price) = key;
            let what = format!(
                "{instance} in the hour of {hour} at {price}: booked {} ms and {} nano-GPU-hours, covered {} and {}",
                booked.0, booked.1, expected.0, expected.1
            );
            report.find(None, "P-1", what);
        }
    }
    for ((instance, hour, _, _, price), _) in sums {
        report.find(
            None,
            "M-2",
            format!("{instance} in the hour of {hour} at {price}: booked, and never reported"),
        );
    }
    Ok(())
}

/// P-2: what is used and unused of a reservation is what is reserved, in each hour that is written, and
/// what both cost is what was paid.
fn check_reservations(reader: &dyn Reader, state: &State, report: &mut Report) -> Result<(), StoreError> {
    type Key = (ReservationId, Hour);
    let mut sums: BTreeMap<Key, (i64, Option<Amount>)> = BTreeMap::new();
    let mut add = |key: Key, nanos: i64, cost: Amount| {
        let sum = sums.entry(key).or_insert((0, Some(Amount::ZERO)));
        *sum = (sum.0.saturating_add(nanos), sum.1.and_then(|sum| sum.checked_add(cost)));
    };
    for_each(
        state.position(),
        |page| reader.charges(&ChargeFilter::default(), page),
        |Keyed { row, .. }| {
            if let Some(reservation) = row.reservation {
                add((reservation, row.hour), row.quantity.nanos(), row.effective_price.times(row.quantity));
            }
        },
    )?;
    for_each(
        state.position(),
        |page| reader.unused(None, page),
        |Keyed { key, row }| {
            if row.effective_price.times(row.quantity) > row.effective_cost {
                report.find(Some(key.position), "P-2", "unused hours cost less than their price");
            }
            add((row.reservation, row.hour), row.quantity.nanos(), row.effective_cost);
        },
    )?;
    for held in state.reservations() {
        let reservation = &held.reservation;
        for (hour, part) in reservation.interval().by_hour().filter(|(hour, _)| *hour < held.written_until())
        {
            let key = (reservation.draft().reservation.clone(), hour);
            let (nanos, cost) = sums.remove(&key).unwrap_or((0, Some(Amount::ZERO)));
            let reserved = reservation.quantity_within(part).nanos();
            if nanos != reserved {
                let what = format!(
                    "{} in the hour of {hour}: used and unused are {nanos}, reserved {reserved}",
                    key.0
                );
                report.find(None, "P-2", what);
            }
            // Flex pays for use besides: the committed share is compared where nothing does.
            let paid = reservation.fee_within(part);
            if reservation.usage_price() == Price::ZERO && cost != paid {
                let what = format!("{} in the hour of {hour}: hours cost {cost:?}, {paid:?} was paid", key.0);
                report.find(None, "P-2", what);
            }
        }
    }
    for ((reservation, hour), _) in sums {
        report.find(
            None,
            "P-2",
            format!("{reservation} in the hour of {hour}: rows of hours that it does not have"),
        );
    }
    Ok(())
}

/// B-4: no credit is overdrawn, and each is what was drawn, what expired and what is left.
fn check_credits(state: &State, report: &mut Report) {
    for (account, currency, balance) in state.book().balances() {
        if account.has_floor() && balance > Amount::ZERO {
            report.find(None, "B-4", format!("{account} is overdrawn by {balance} {currency}"));
        }
    }
    for (id, tenant) in state.tenants() {
        let mut left = BTreeMap::new();
        for grant in &tenant.credits {
            match grant.remaining() {
                Some(rest) if rest >= Amount::ZERO => {
                    let sum = left.entry(grant.kind.account(id)).or_insert(Some(Amount::ZERO));
                    *sum = sum.and_then(|sum: Amount| sum.checked_sub(rest));
                }
                _ => report.find(None, "B-4", format!("credit {} of {id} is overdrawn", grant.credit)),
            }
        }
        for (account, left) in left {
            let balance = state.book().balance(&account, tenant.currency);
            if left != Some(balance) {
                report.find(
                    None,
                    "B-4",
                    format!("{account} stands at {balance}, its credits have {left:?} left"),
                );
            }
        }
    }
}

/// B-1 and B-2 on the stored transfers.
fn check_transfers(reader: &dyn Reader, state: &State, report: &mut Report) -> Result<(), StoreError> {
    let mut balances: BTreeMap<(Currency, Account), Amount> = BTreeMap::new();
    let mut overflow = false;
    let list = |page| reader.transfers(&TransferFilter::default(), page);
    for_each(state.position(), list, |Keyed { key, row }| {
        if row.reverses.is_some_and(|reversed| reversed >= key.position) {
            report.find(Some(key.position), "B-2", "a correction names what it reverses before it exists");
        }
        let mut book = |account, amount: Option<Amount>| {
            let balance = balances.entry((row.currency, account)).or_default();
            match amount.and_then(|amount| balance.checked_add(amount)) {
                Some(sum) => *balance = sum,
                None => overflow = true,
            }
        };
        book(row.debit, Some(row.amount));
        book(row.credit, row.amount.checked_neg());
    })?;
    if overflow {
        report.find(None, "B-1", "the stored transfers do not add up within the range of an amount");
    }
    for (account, currency, balance) in state.book().balances() {
        let stored = balances.remove(&(currency, account.clone())).unwrap_or_default();
        if stored != balance {
            report.find(
                None,
                "B-1",
                format!("{account} stands at {balance} {currency}, its transfers sum to {stored}"),
            );
        }
    }
    for ((currency, account), sum) in balances.into_iter().filter(|(_, sum)| !sum.is_zero()) {
        report.find(
            None,
            "B-1",
            format!("transfers of {sum} {currency} on {account}, which the book does not have"),
        );
    }
    Ok(())
}

/// M-3: every measured millisecond is in exactly one place.
fn check_accounting(state: &State, report: &mut Report) {
    let accounting = state.accounting(|_| true, true);
    if !accounting.balances() {
        report.find(None, "M-3", format!("measured is not billed + excluded + suspense: {accounting:?}"));
    }
    let mut lines = 0_i64;
    for line in state.lines().flatten() {
        lines = lines.saturating_add(line.line.milliseconds);
    }
    if lines != accounting.billed_ms {
        let what = format!("lines hold {lines} ms, billed coverage {} ms", accounting.billed_ms);
        report.find(None, "M-3", what);
    }
}
