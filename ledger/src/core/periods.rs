//! The months of the book: open while they run, then over, and closed for good when finance says so.
//!
//! A month is a UTC month of booking. A transfer is booked at the time of its event, and that never goes back, so
//! nothing is booked into a month that is over; closing it says that all is there which belongs to it, and pins it
//! down with a digest of its rows. Rows are chained as they are written, so closing reads none of them:
//!
//! * of the transfers that were booked in the month,
//! * of the charges and unused hours whose hour lies in it and which were written before it was closed. Usage
//!   that comes later is a correction of the month in which it comes.
//!
//! * **B-5** a closed month's digest is that of its rows, whenever it is asked.

use std::collections::BTreeMap;

use hourglass_units::{Instant, Month, TenantId};
use serde::{Deserialize, Serialize};

use super::Inconsistent;
use super::command::Position;
use super::invoicing;
use super::rejection::Rejection;
use super::rows::{ChargeRow, InvoiceRow, QuarantineRow, Rows, TimelineRow, TransferRow, UnusedRow};
use super::state::State;

/// Most missing invoices that a refusal names; more are only counted.
pub const MISSING_NAMED_MAX: usize = 10;
/// A billing period belongs to the month in which it ends, and zones west of Greenwich end a month up to so many
/// milliseconds after UTC does.
pub const ZONE_WEST_MS_MAX: i64 = 12 * 3_600_000;

/// Rows of one kind, chained: the hash of each with the hash before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chain {
    /// The hash at its end; zeros where it has no rows.
    pub hash: [u8; 32],
    /// How many rows.
    pub rows: u64,
}

/// Writes the content of a row so that no two rows are alike: each part with its length.
#[derive(Default)]
struct Content(Vec<u8>);

impl Content {
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn whole(&mut self, number: impl Into<i128>) {
        self.0.extend_from_slice(&number.into().to_le_bytes());
    }
}

impl Chain {
    fn link(&mut self, kind: &str, position: Position, content: &Content) {
        let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 rows of a month");
        hasher.update(&self.hash);
        hasher.update(&(kind.len() as u64).to_le_bytes());
        hasher.update(kind.as_bytes());
        hasher.update(&position.number().to_le_bytes());
        hasher.update(&content.0);
        self.hash = *hasher.finalize().as_bytes();
        self.rows = self.rows.saturating_add(1);
    }

    /// Adds a transfer of the event at a position.
    pub fn add_transfer(&mut self, position: Position, row: &TransferRow) {
        let TransferRow { tenant, debit, credit, amount, currency, code, at, reverses } = row;
        let mut content = Content::default();
        content.text(tenant.as_str());
        content.text(&debit.to_string());
        content.text(&credit.to_string());
        content.whole(amount.attos());
        content.text(currency.code());
        content.text(code.as_str());
        content.whole(at.unix_ms());
        content.whole(reverses.map_or(0, Position::number));
        self.link("transfer", position, &content);
    }

    /// Adds a charge of the event at a position.
    pub fn add_charge(&mut self, position: Position, row: &ChargeRow) {
        let ChargeRow {
            tenant,
            project,
            instance,
            platform,
            region,
            model,
            reservation,
            price,
            effective_price,
            hour,
            gpus,
            milliseconds,
            quantity,
            amount,
            currency,
        } = row;
        let mut content = Content::default();
        for name in [tenant.as_str(), project.as_str(), instance.as_str(), platform.as_str(), region.as_str()]
        {
            content.text(name);
        }
        content.text(model.as_str());
        content.text(reservation.as_ref().map_or("", |it| it.as_str()));
        content.whole(price.nanos());
        content.whole(effective_price.nanos());
        content.whole(hour.start().unix_ms());
        content.whole(*gpus);
        content.whole(*milliseconds);
        content.whole(quantity.nanos());
        content.whole(amount.attos());
        content.text(currency.code());
        self.link("charge", position, &content);
    }

    /// Adds unused hours of the event at a position.
    pub fn add_unused(&mut self, position: Position, row: &UnusedRow) {
        let UnusedRow {
            tenant,
            project,
            reservation,
            platform,
            region,
            hour,
            quantity,
            effective_price,
            effective_cost,
            currency,
        } = row;
        let mut content = Content::default();
        for name in
            [tenant.as_str(), project.as_str(), reservation.as_str(), platform.as_str(), region.as_str()]
        {
            content.text(name);
        }
        content.whole(hour.start().unix_ms());
        content.whole(quantity.nanos());
        content.whole(effective_price.nanos());
        content.whole(effective_cost.attos());
        content.text(currency.code());
        self.link("unused", position, &content);
    }
}

/// The rows of a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MonthRows {
    /// Booked in it.
    pub transfers: Chain,
    /// Of its hours.
    pub charges: Chain,
    /// Of its hours.
    pub unused: Chain,
}

impl MonthRows {
    /// One hash over all of them.
    pub fn digest(&self, month: Month) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 digest of a month");
        hasher.update(month.to_string().as_bytes());
        for chain in [self.transfers, self.charges, self.unused] {
            hasher.update(&chain.hash);
            hasher.update(&chain.rows.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What was so when a month was closed: the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodClose {
    /// Which month.
    pub month: Month,
    /// Of its rows.
    pub digest: [u8; 32],
    /// How many of them were transfers.
    pub transfers: u64,
    /// How many were charges.
    pub charges: u64,
    /// How many were unused hours of reservations.
    pub unused: u64,
}

/// A month that is closed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedPeriod {
    /// Where in the log.
    pub position: Position,
    /// When.
    pub at: Instant,
    /// Of its rows, as they were.
    pub digest: [u8; 32],
    /// How many transfers, charges and unused hours it had.
    pub rows: [u64; 3],
}

/// The months of the book.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Periods {
    months: BTreeMap<Month, MonthRows>,
    closed: BTreeMap<Month, ClosedPeriod>,
}

/// Where a month stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeriodStatus {
    /// It runs, or it has not begun.
    Open,
    /// It is over: nothing more is booked into it, and what belongs to it may still come.
    Soft,
    /// It is closed for good.
    Hard,
}

impl PeriodStatus {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

impl Periods {
    /// The months that have rows, or are closed.
    pub fn months(&self) -> impl Iterator<Item = Month> {
        let first = self.months.keys().chain(self.closed.keys()).min().copied();
        let last = self.months.keys().chain(self.closed.keys()).max().copied();
        let count = first.zip(last).and_then(|(first, last)| last.months_since(first)).map(u64::from);
        let count = count.map_or(0, |months| months.saturating_add(1));
        let all = std::iter::successors(first, |month| Some(month.next()));
        all.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The rows of a month.
    pub fn rows(&self, month: Month) -> MonthRows {
        self.months.get(&month).copied().unwrap_or_default()
    }

    /// A month that is closed for good.
    pub fn closed(&self, month: Month) -> Option<&ClosedPeriod> {
        self.closed.get(&month)
    }

    /// The last month that is closed for good: all before it are.
    pub fn closed_until(&self) -> Option<Month> {
        self.closed.last_key_value().map(|(month, _)| *month)
    }

    /// Where a month stands at a time.
    pub fn status(&self, month: Month, now: Instant) -> PeriodStatus {
        if self.closed_until().is_some_and(|closed| month <= closed) {
            PeriodStatus::Hard
        } else if month.end() <= now {
            PeriodStatus::Soft
        } else {
            PeriodStatus::Open
        }
    }

    /// The month that can be closed next.
    pub fn next(&self) -> Option<Month> {
        let after = self.closed_until().map(Month::next);
        after.or_else(|| self.months.keys().next().copied())
    }

    /// Closes a month. Nothing else writes it.
    pub(super) fn close(
        &mut self,
        close: &PeriodClose,
        position: Position,
        at: Instant,
    ) -> Result<(), Inconsistent> {
        let PeriodClose { month, digest, transfers, charges, unused } = close;
        let is = self.of(*month);
        if *close != is || self.next() != Some(*month) {
            return Err(Inconsistent::new(format!("B-5: {month} was closed with other rows than it has")));
        }
        let rows = [*transfers, *charges, *unused];
        self.closed.insert(*month, ClosedPeriod { position, at, digest: *digest, rows });
        Ok(())
    }

    /// What closing a month would write down.
    fn of(&self, month: Month) -> PeriodClose {
        let rows = self.rows(month);
        let (transfers, charges, unused) = (rows.transfers.rows, rows.charges.rows, rows.unused.rows);
        PeriodClose { month, digest: rows.digest(month), transfers, charges, unused }
    }
}

/// Hands rows on, and chains them to those of their month.
pub(super) struct Chained<'a, R> {
    rows: &'a mut R,
    position: Position,
    periods: Periods,
    /// A closed month into which something was booked.
    broken: Option<Month>,
}

impl<'a, R> Chained<'a, R> {
    pub(super) fn new(rows: &'a mut R, position: Position, periods: Periods) -> Self {
        Self { rows, position, periods, broken: None }
    }

    /// The months with the rows that were written. An error where one of them was closed.
    pub(super) fn finish(self) -> Result<Periods, Inconsistent> {
        match self.broken {
            Some(month) => {
                Err(Inconsistent::new(format!("B-5: a transfer is booked into {month}, which is closed")))
            }
            None => Ok(self.periods),
        }
    }

    fn month(&mut self, at: Instant) -> (&mut MonthRows, Position) {
        (self.periods.months.entry(Month::containing(at)).or_default(), self.position)
    }
}

impl<R: Rows> Rows for Chained<'_, R> {
    fn charge(&mut self, row: ChargeRow) {
        let (month, position) = self.month(row.hour.start());
        month.charges.add_charge(position, &row);
        self.rows.charge(row);
    }

    fn unused(&mut self, row: UnusedRow) {
        let (month, position) = self.month(row.hour.start());
        month.unused.add_unused(position, &row);
        self.rows.unused(row);
    }

    fn transfer(&mut self, row: TransferRow) {
        let booked = Month::containing(row.at);
        if self.periods.closed_until().is_some_and(|closed| booked <= closed) {
            self.broken.get_or_insert(booked);
        }
        let (month, position) = self.month(row.at);
        month.transfers.add_transfer(position, &row);
        self.rows.transfer(row);
    }

    fn invoice(&mut self, row: InvoiceRow) {
        self.rows.invoice(row);
    }

    fn quarantine(&mut self, row: QuarantineRow) {
        self.rows.quarantine(row);
    }

    fn timeline(&mut self, row: TimelineRow) {
        self.rows.timeline(row);
    }
}

/// Checks that a month can be closed, and says what closing it writes down.
pub(super) fn plan(state: &State, month: Month, now: Instant) -> Result<PeriodClose, Rejection> {
    if let Some(closed) = state.periods.closed(month) {
        return Err(Rejection::MonthClosed { month, position: closed.position });
    }
    let next = state.periods.next().ok_or(Rejection::MonthOutOfOrder { month, next: None })?;
    if next != month {
        return Err(Rejection::MonthOutOfOrder { month, next: Some(next) });
    }
    let from = state.month_grace_end(month);
    if now < from {
        return Err(Rejection::MonthNotOver { month, from });
    }
    if state.settled_at < from || state.has_lines_before(month.end()) {
        return Err(Rejection::MonthUnsettled { month });
    }
    let mut missing = state.missing_invoices(month, now);
    if !missing.is_empty() {
        let count = missing.len();
        missing.truncate(MISSING_NAMED_MAX);
        return Err(Rejection::InvoicesMissing { month, missing: MissingInvoices { named: missing, count } });
    }
    Ok(state.periods.of(month))
}

/// Invoices that a month still lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingInvoices {
    /// The first of them: whose, and for which billing period.
    pub named: Vec<(TenantId, Month)>,
    /// How many there are.
    pub count: usize,
}

impl std::fmt::Display for MissingInvoices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (tenant, period)) in self.named.iter().enumerate() {
            write!(f, "{}{tenant} {period}", if at == 0 { "" } else { ", " })?;
        }
        match self.count.saturating_sub(self.named.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl State {
    /// The months of the book.
    pub fn periods(&self) -> &Periods {
        &self.periods
    }

    /// When the grace of a month has run out: from then on it can be closed.
    pub fn month_grace_end(&self, month: Month) -> Instant {
        let grace_ms = self.cell.as_ref().map_or(0, |cell| cell.policy.grace_ms);
        month.end().saturating_add_ms(grace_ms)
    }

    /// The invoices that a month still lacks: of billing periods that ended in it or before and have charges that
    /// no invoice holds, by tenant.
    pub fn missing_invoices(&self, month: Month, now: Instant) -> Vec<(TenantId, Month)> {
        let until = month.end().saturating_add_ms(ZONE_WEST_MS_MAX);
        let mut open = invoicing::open_periods(self, now);
        open.retain(|(tenant, period)| self.calendars.of(tenant).interval(*period).end() <= until);
        open
    }

    /// Whether lines of hours before an instant stand in no row yet.
    fn has_lines_before(&self, end: Instant) -> bool {
        self.written_until.start() < end || self.pending.keys().any(|(_, key)| key.hour.start() < end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::EventRows;
    use super::super::tests::{Bench, at};
    use super::super::{Answer, Command, Event, Recorded, apply};
    use super::*;

    fn close(bench: &mut Bench, month: &str) -> Result<Answer, Rejection> {
        bench.run(Command::ClosePeriod { month: month.parse().unwrap() })
    }

    fn finalise(bench: &mut Bench, period: &str) {
        let tenant = "acme".parse().unwrap();
        bench.run(Command::FinaliseInvoice { tenant, period: period.parse().unwrap() }).unwrap();
    }

    /// Eight GPUs for an hour in January, and what one asks before it can be closed, in order.
    fn used() -> Bench {
        let mut bench = Bench::new();
        bench.register("i-1", 8).unwrap();
        bench.now = at("2026-01-01T02:00:00Z");
        bench.start("i-1", at("2026-01-01T00:00:00Z")).unwrap();
        bench.report("i-1", 8, at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
        bench
    }

    #[test]
    fn b5_a_month_is_closed_when_all_of_it_is_there() {
        let mut bench = used();
        let refused = |bench: &mut Bench, month: &str, code: &str, says: &str| {
            let rejection = close(bench, month).unwrap_err();
            assert_eq!(rejection.code(), code, "{rejection}");
            assert!(rejection.to_string().contains(says), "{rejection}");
        };
        refused(&mut bench, "2026-01", "month_out_of_order", "nothing was booked yet");
        bench.run(Command::Tick).unwrap();
        refused(&mut bench, "2026-01", "month_not_over", "from 2026-02-04T00:00:00Z on");
        bench.now = at("2026-02-03T23:59:59.999Z");
        refused(&mut bench, "2026-01", "month_not_over", "2026-02-04");
        refused(&mut bench, "2026-02", "month_out_of_order", "the next one is 2026-01");
        let january = "2026-01".parse().unwrap();
        assert_eq!(bench.state.periods().status(january, bench.now), PeriodStatus::Soft);
        bench.now = at("2026-02-04T00:00:00Z");
        refused(&mut bench, "2026-01", "month_unsettled", "try again");
        bench.run(Command::Tick).unwrap();
        refused(&mut bench, "2026-01", "invoices_missing", "(acme 2026-01)");
        finalise(&mut bench, "2026-01");
        let closed = close(&mut bench, "2026-01").unwrap();
        assert_eq!(bench.state.periods().status(january, bench.now), PeriodStatus::Hard);
        let rows = bench.state.periods().closed(january).unwrap().rows;
        assert_eq!(rows, [1, 1, 0], "an accrual, and a charge");
        assert_eq!(bench.state.periods().closed(january).unwrap().position, closed.position);
        refused(&mut bench, "2026-01", "month_closed", "closed already");
        refused(&mut bench, "2026-02", "month_not_over", "2026-03-04");
    }

    #[test]
    fn b5_what_comes_late_belongs_to_the_month_in_which_it_comes() {
        let mut bench = used();
        bench.run(Command::Tick).unwrap();
        bench.now = at("2026-02-04T00:00:00Z");
        bench.run(Command::Tick).unwrap();
        finalise(&mut bench, "2026-01");
        close(&mut bench, "2026-01").unwrap();
        let january: Month = "2026-01".parse().unwrap();
        let closed = bench.state.periods().closed(january).unwrap().clone();
        let booked = bench.state.periods().rows(january);
        // Late usage of January: its charge is written, and nothing is booked into January.
        bench.report("i-1", 8, at("2026-01-01T01:00:00Z"), at("2026-01-01T02:00:00Z"));
        bench.now = at("2026-02-04T01:00:00Z");
        bench.run(Command::Tick).unwrap();
        let later = bench.state.periods().rows(january);
        assert_eq!(later.transfers, booked.transfers);
        assert_eq!(later.charges.rows, booked.charges.rows + 1);
        assert_eq!(*bench.state.periods().closed(january).unwrap(), closed);
        let february = bench.state.periods().rows("2026-02".parse().unwrap());
        let at_close = 2; // The invoice, and its rounding where it has one.
        assert!(february.transfers.rows >= at_close, "{february:?}");
        // An invoice that is taken back opens nothing again.
        let (tenant, number, reason) = ("acme".parse().unwrap(), 1, String::new());
        bench.run(Command::VoidInvoice { tenant, number, reason }).unwrap();
        assert_eq!(*bench.state.periods().closed(january).unwrap(), closed);
        assert!(!bench.state.missing_invoices("2026-02".parse().unwrap(), bench.now).is_empty());
    }

    #[test]
    fn b5_a_log_that_books_into_a_closed_month_or_closes_it_otherwise_is_inconsistent() {
        let mut bench = used();
        bench.run(Command::Tick).unwrap();
        bench.now = at("2026-02-04T00:00:00Z");
        bench.run(Command::Tick).unwrap();
        finalise(&mut bench, "2026-01");
        let mut sound = bench.state.clone();
        let month: Month = "2026-01".parse().unwrap();
        let close = plan(&sound, month, bench.now).unwrap();
        let recorded = |close| Recorded { key: None, event: Event::PeriodClosed(close) };
        let other = |change: &dyn Fn(&mut PeriodClose)| {
            let (mut state, mut close) = (bench.state.clone(), close.clone());
            change(&mut close);
            apply(&mut state, bench.now, &recorded(close), &mut EventRows::default()).unwrap_err().to_string()
        };
        assert!(other(&|it| it.digest[7] ^= 1).contains("B-5"));
        assert!(other(&|it| it.transfers += 1).contains("B-5"));
        assert!(other(&|it| it.month = it.month.next()).contains("B-5"));
        apply(&mut sound, bench.now, &recorded(close), &mut EventRows::default()).unwrap();
        // Time never goes back, so only a changed state can try it.
        let mut rows = EventRows::default();
        let mut chained = Chained::new(&mut rows, sound.position.next(), sound.periods.clone());
        let row = bench.rows.transfers.first().unwrap().clone();
        assert_eq!(Month::containing(row.at), month);
        chained.transfer(row);
        assert!(chained.finish().unwrap_err().to_string().contains("2026-01, which is closed"));
    }

    #[test]
    fn a_zone_west_of_greenwich_ends_its_month_later_and_is_waited_for() {
        let mut bench = used();
        let contract = r#"{"name": "deal", "version": 1, "effective_from": "2026-01-01T00:00:00Z",
            "terms": {"billing": {"time_zone": "America/Los_Angeles"}}}"#;
        let (tenant, display_name) = ("west".parse::<TenantId>().unwrap(), String::new());
        let currency = hourglass_units::Currency::USD;
        bench.run(Command::OpenTenant { tenant: tenant.clone(), currency, display_name }).unwrap();
        let contract = serde_json::from_str(contract).unwrap();
        bench.run(Command::SignContract { tenant: tenant.clone(), contract }).unwrap();
        let registration = super::super::Registration {
            instance: "w-1".parse().unwrap(),
            tenant: tenant.clone(),
            project: "ml".parse().unwrap(),
            platform: "h100".parse().unwrap(),
            mode: super::super::Mode::OnDemand,
            gpus: 1,
            agent: None,
            hold: None,
            fabric: None,
        };
        bench.run(Command::RegisterInstance(registration)).unwrap();
        bench.start("w-1", at("2026-01-01T00:00:00Z")).unwrap();
        bench.now = at("2026-02-04T00:00:00Z");
        bench.report("w-1", 1, at("2026-01-31T23:00:00Z"), at("2026-02-01T01:00:00Z"));
        bench.run(Command::Tick).unwrap();
        finalise(&mut bench, "2026-01");
        // Its January runs until eight in the morning of UTC, so its grace does too.
        let missing = close(&mut bench, "2026-01").unwrap_err();
        assert!(missing.to_string().contains("(west 2026-01)"), "{missing}");
        bench.now = at("2026-02-04T08:00:00Z");
        let period = "2026-01".parse().unwrap();
        bench.run(Command::FinaliseInvoice { tenant, period }).unwrap();
        close(&mut bench, "2026-01").unwrap();
    }
}
