//! The events that reported an instance within an hour.
//!
//! No index says which event reported an instance, so the log is looked through, a block of events at a
//! time. A report comes no earlier than its own time less the clock skew and no later than its end and
//! the acceptance window: blocks outside of that time hold none. Within it the search goes forward from
//! the hour, where reports are that came in time, and beyond them in turn back from where rows were
//! written, where those are that came late. No block is read twice, and no batch that does not mention
//! the instance.
//!
//! What counts as a report is decided by the rules that took reports in: what was excluded when it came
//! is no evidence. An instance need not have been known then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hourglass_ledger::core::explain::HourExplained;
use hourglass_ledger::core::usage::REPORT_MILLISECONDS_MAX;
use hourglass_ledger::core::{Event, EventError, EventKind, Policy, Position, Recorded, usage_mentions};
use hourglass_ledger::log::StoredEvent;
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::{Coverage, Instant};

use super::{Evidence, RowExplained};

/// Most events that are looked through for evidence.
pub const EVIDENCE_EVENTS_MAX: u64 = 20_000;
/// Most bytes of events that are looked through for evidence.
pub const EVIDENCE_BYTES_MAX: usize = 256 << 20;
/// Most rows from which the search goes back: the newest ones.
const ROWS_BACK_MAX: usize = 16;
/// Nearly all reports come this soon after the hour, in milliseconds: that far the search only goes
/// forward.
const IN_TIME_MILLISECONDS: i64 = 5 * 60_000;
/// Events of a block. Each can be as large as a batch of usage, so there are not many.
const BLOCK_EVENTS: u64 = 64;

/// How much is looked through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) events: u64,
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: EVIDENCE_EVENTS_MAX, bytes: EVIDENCE_BYTES_MAX }
    }
}

/// Finds the reports that the coverage of an hour rests on, in the order in which they came, without
/// those that repeat others. Says whether all of it was found.
pub(super) fn search(
    reader: &dyn Reader,
    hour: &HourExplained,
    policy: Policy,
    rows: &[RowExplained],
    until: Position,
    limits: Limits,
) -> Result<(Vec<Evidence>, bool), StoreError> {
    let wanted: Coverage = hour.reported.iter().copied().collect();
    let mut search = Search {
        reader,
        hour,
        policy,
        until,
        missing: wanted.clone(),
        found: BTreeMap::new(),
        looked: BTreeSet::new(),
        blocks: limits.events / BLOCK_EVENTS,
        bytes: limits.bytes,
    };
    search.run(rows)?;
    let complete = search.missing.is_empty();
    let mut covered = Coverage::default();
    let mut evidence = Vec::new();
    for (_, mut it) in search.found {
        let new: Vec<_> = it.reported.iter().flat_map(|part| covered.missing(*part)).collect();
        if new.is_empty() {
            continue;
        }
        new.iter().for_each(|part| covered.insert(*part));
        it.first = new;
        evidence.push(it);
    }
    Ok((evidence, complete))
}

struct Search<'a> {
    reader: &'a dyn Reader,
    hour: &'a HourExplained,
    policy: Policy,
    until: Position,
    missing: Coverage,
    found: BTreeMap<u64, Evidence>,
    /// The blocks that were read, by number.
    looked: BTreeSet<u64>,
    /// Blocks that may still be read.
    blocks: u64,
    /// Bytes that may still be read.
    bytes: usize,
}

impl Search<'_> {
    fn run(&mut self, rows: &[RowExplained]) -> Result<(), StoreError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let window = self.hour.hour.interval();
        let earliest = window.start().saturating_add_ms(self.policy.clock_skew_max_ms.saturating_neg());
        // A report that reaches into the hour can end a whole report later.
        let latest = window.end().saturating_add_ms(REPORT_MILLISECONDS_MAX);
        let latest = latest.saturating_add_ms(self.policy.acceptance_window_ms).saturating_add_ms(1);
        let first = block_of(self.first_at(earliest)?.saturating_add(1));
        let last = block_of(self.first_at(latest)?);
        let in_time = window.end().saturating_add_ms(IN_TIME_MILLISECONDS);
        let in_time = block_of(self.first_at(in_time)?);
        let mut forward = first..=last;
        let newest = rows.iter().rev().map(|row| block_of(row.position));
        // What no row holds yet came last.
        let mut back: VecDeque<u64> = std::iter::once(last).chain(newest.take(ROWS_BACK_MAX)).collect();
        while self.goes_on() {
            let Some(next) = forward.find(|block| !self.looked.contains(block)) else { break };
            self.look(next)?;
            if next < in_time {
                continue;
            }
            let Some(from) = back.pop_front().filter(|_| self.goes_on()) else { continue };
            let behind = (first..=from.min(last)).rev().find(|block| !self.looked.contains(block));
            if let Some(block) = behind {
                self.look(block)?;
                back.push_back(block);
            }
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        !self.missing.is_empty() && self.blocks > 0 && self.bytes > 0
    }

    /// How many events came before an instant, by halves: time never goes back in the log.
    fn first_at(&self, at: Instant) -> Result<u64, StoreError> {
        let (mut low, mut high) = (0_u64, self.until.number());
        while low < high {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            let event = self.reader.events(Position::new(middle), 1)?;
            match event.first() {
                Some(event) if event.at < at => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Looks through a block.
    fn look(&mut self, block: u64) -> Result<(), StoreError> {
        self.looked.insert(block);
        self.blocks = self.blocks.saturating_sub(1);
        let after = Position::new(block.saturating_mul(BLOCK_EVENTS));
        let limit = usize::try_from(BLOCK_EVENTS).unwrap_or(usize::MAX);
        for event in self.reader.events(after, limit)? {
            self.bytes = self.bytes.saturating_sub(event.payload.len());
            if event.position <= self.until && event.kind == EventKind::UsageAccepted.number() {
                self.take(&event)?;
            }
        }
        Ok(())
    }

    /// Keeps what the event reported, if it is of the instance and the hour.
    fn take(&mut self, event: &StoredEvent) -> Result<(), StoreError> {
        let wrong = |error: EventError| StoreError(error.to_string());
        if !usage_mentions(&event.payload, &self.hour.instance).map_err(wrong)? {
            return Ok(());
        }
        let recorded = Recorded::decode(&event.payload).map_err(wrong)?;
        let Event::UsageAccepted(batch) = recorded.event else { return Ok(()) };
        let window = self.hour.hour.interval();
        let rests = |agent, record| self.hour.rests_on(self.policy, agent, &record, event.at);
        let mine = batch.records().filter(|record| rests(batch.agent(), *record));
        let reported: Coverage = mine.filter_map(|record| record.interval.intersection(window)).collect();
        if reported.is_empty() {
            return Ok(());
        }
        let reported = reported.intervals().to_vec();
        reported.iter().for_each(|part| self.missing.remove(*part));
        let (position, agent) = (event.position.number(), batch.agent().to_string());
        let evidence = Evidence { position, at: event.at, agent, reported, first: Vec::new() };
        self.found.insert(position, evidence);
        Ok(())
    }
}

/// The block of a position.
fn block_of(position: u64) -> u64 {
    position.saturating_sub(1) / BLOCK_EVENTS
}
