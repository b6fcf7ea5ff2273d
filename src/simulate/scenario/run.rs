//! Plays a scenario against a real cell, in virtual time.
//!
//! Between two steps the clock runs: agents send each report when its time is over, the clock ticks at
//! every full hour (or as the file says), and invoices that are due are finalised. At one instant
//! reports come first, then the tick, then the steps of the file. An expectation looks after a tick of
//! its own where anything happened since the last one, so it sees what the books hold by then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hourglass_ledger::cell::{CellError, CellHandle, Clock, Pending, Submission};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{Command, Detail, State, invoicing};
use hourglass_pricing::{PriceDraft, RateCardDraft};
use hourglass_proto::v1;
use hourglass_units::{AgentId, HOUR_MILLISECONDS, INSTANT_MAX, INSTANT_MIN, Instant, Interval};
use prost::Message;
use serde::Serialize;

use super::market;
use super::quota::Names;
use super::{Act, Scenario, ShortCard, Step, TICKS_MAX, UNREADABLE, Use};

/// Ticks under way at once.
const UNDER_WAY_MAX: usize = 256;
/// Records in a message of an agent.
const RECORDS_AT_ONCE: usize = 1_000;

/// The clock of a scenario's cell: it stands wherever the scenario is.
#[derive(Debug, Default)]
pub struct VirtualClock(AtomicI64);

impl VirtualClock {
    fn set(&self, now: Instant) {
        self.0.store(now.unix_ms(), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        INSTANT_MIN.saturating_add_ms(self.0.load(Ordering::Relaxed))
    }
}

/// How commands reach the cell.
pub trait Door {
    /// Gives a command at a time. Answers with the number of what it made, where it has one; the inner error
    /// is a refusal.
    fn submit(&mut self, at: Instant, command: Command) -> Result<Result<Option<u64>, Refusal>, RunError>;
}

/// A command that the cell refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its stable code.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Straight into the cell.
pub struct Direct(pub CellHandle);

impl Door for Direct {
    fn submit(&mut self, at: Instant, command: Command) -> Result<Result<Option<u64>, Refusal>, RunError> {
        match self.0.submit_blocking(Submission { command, key: None, at: Some(at) }) {
            Ok(outcome) => Ok(Ok(match outcome.answer().detail {
                Detail::Hold { hold, .. } => Some(hold.0),
                Detail::Lease { lease, .. } => Some(lease.0),
                Detail::QuotaRequest { request, .. } => Some(request.0),
                Detail::Bid { number } => Some(number),
                _ => None,
            })),
            Err(CellError::Rejected(rejection)) => {
                Ok(Err(Refusal { code: rejection.code().to_owned(), message: rejection.to_string() }))
            }
            Err(error) => Err(RunError::Cell(error)),
        }
    }
}

/// Why a scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cell failed.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The file is about too long a time.
    #[error(
        "the clock ticked {TICKS_MAX} times and the scenario is not over: shorten it, or tick less often"
    )]
    TooManyTicks,
    /// A command could not be brought to the cell.
    #[error("{0}")]
    Door(String),
}

/// A step that was refused.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedStep {
    line: usize,
    step: String,
    code: String,
    message: String,
    /// Whether the file says so.
    expected: bool,
}

/// Something that is not as the file says.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// Where it stands in the file.
    pub line: usize,
    /// What the file says.
    pub expected: String,
    /// What there is.
    pub found: String,
}

/// What became of the steps and expectations.
#[derive(Debug, Default)]
pub struct Played {
    pub(super) refused: Vec<RefusedStep>,
    pub(super) met: u64,
    pub(super) failed: Vec<Failed>,
}

/// Plays all steps, and what they have begun, to the end.
pub fn play(
    scenario: &Scenario,
    cell: &CellHandle,
    clock: &VirtualClock,
    door: &mut dyn Door,
) -> Result<Played, RunError> {
    let begins = scenario.steps.first().map_or(INSTANT_MIN, |step| step.at);
    let mut player = Player {
        cell,
        clock,
        door,
        now: begins,
        under_way: VecDeque::new(),
        tick_ms: HOUR_MILLISECONDS,
        ticks: 0,
        ticked_at: None,
        finalises: true,
        look_for_due_at: begins,
        agenda: BTreeMap::new(),
        reports: 0,
        next_seq: BTreeMap::new(),
        names: Names::new(),
        played: Played::default(),
    };
    clock.set(begins);
    for step in &scenario.steps {
        player.advance(step.at)?;
        player.step(step)?;
    }
    if let Some(((last, _), _)) = player.agenda.last_key_value() {
        player.advance(*last)?;
    }
    player.catch_up()?;
    while player.read(|state| state.has_lines_to_write())? {
        player.tick()?;
    }
    Ok(player.played)
}

/// A report that its agent sends when its time is over.
struct Report {
    agent: AgentId,
    record: v1::UsageRecord,
    /// The line of the step that it comes of.
    line: usize,
}

struct Player<'a> {
    cell: &'a CellHandle,
    clock: &'a VirtualClock,
    door: &'a mut dyn Door,
    now: Instant,
    under_way: VecDeque<Pending>,
    tick_ms: i64,
    ticks: u64,
    /// When it ticked last with nothing done since.
    ticked_at: Option<Instant>,
    finalises: bool,
    /// No invoice can be due before then.
    look_for_due_at: Instant,
    /// What agents will send, by the end of the reports.
    agenda: BTreeMap<(Instant, usize), Report>,
    reports: usize,
    next_seq: BTreeMap<AgentId, u64>,
    /// What the file's names stand for.
    names: Names,
    played: Played,
}

impl Player<'_> {
    /// Lets the time pass up to an instant, that included.
    fn advance(&mut self, to: Instant) -> Result<(), RunError> {
        loop {
            let grid =
                self.now.unix_ms().div_euclid(self.tick_ms).saturating_add(1).saturating_mul(self.tick_ms);
            let tick_at = INSTANT_MIN.saturating_add_ms(grid);
            let report_at = self.agenda.first_key_value().map_or(INSTANT_MAX, |((at, _), _)| *at);
            let next = tick_at.min(report_at);
            if next > to {
                break;
            }
            self.set(next);
            if report_at == next {
                self.send()?;
            }
            if tick_at == next {
                self.tick()?;
            }
        }
        self.set(to.max(self.now));
        Ok(())
    }

    fn set(&mut self, now: Instant) {
        self.now = now;
        self.clock.set(now);
    }

    fn step(&mut self, step: &Step) -> Result<(), RunError> {
        let command = match &step.act {
            Act::Command(command) => market::resolved(command, &self.names),
            Act::Named(named) => named.resolved(&self.names),
            Act::Review => return self.review(step),
            Act::Clear => return self.clear(step),
            Act::Prices(card) => Command::PublishRateCard(self.next_version(card)?),
            Act::Use(usage) => return self.begin(usage, step),
            Act::Unreadable(fault) => {
                let refusal = Refusal { code: UNREADABLE.to_owned(), message: fault.to_string() };
                self.judge(step, Err(refusal));
                return Ok(());
            }
            Act::TickEvery(milliseconds) => {
                self.tick_ms = *milliseconds;
                return Ok(());
            }
            Act::FinaliseWhenDue(finalises) => {
                self.finalises = *finalises;
                return Ok(());
            }
            Act::Expect(expectation) => {
                self.catch_up()?;
                let (asked, reader) = (expectation.clone(), Arc::clone(self.cell.reader()));
                let names = self.names.clone();
                match self.read(move |state| asked.check(state, &reader, &names))? {
                    Ok(()) => self.played.met = self.played.met.saturating_add(1),
                    Err(found) => self.fail(step.line, step.text.clone(), found),
                }
                return Ok(());
            }
        };
        let outcome = self.submit(command)?;
        self.look_for_due_at = INSTANT_MIN;
        if let (Act::Named(named), Ok(Some(made))) = (&step.act, &outcome)
            && let Some(name) = &named.makes
        {
            self.names.insert(name.clone(), *made);
        }
        self.judge(step, outcome.map(|_| ()));
        Ok(())
    }

    /// A review, as the clock of a running cell brings it about: that nothing is due is fine.
    fn review(&mut self, step: &Step) -> Result<(), RunError> {
        match self.submit(Command::from(QuotaCommand::Review))? {
            Err(refusal) if refusal.code != "nothing_due" => self.judge(step, Err(refusal)),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// A clearing: that nothing would change is fine.
    fn clear(&mut self, step: &Step) -> Result<(), RunError> {
        match self.submit(market::clearing())? {
            Err(refusal) if refusal.code != "nothing_to_clear" => self.judge(step, Err(refusal)),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// Compares what became of a step with what the file says of it.
    fn judge(&mut self, step: &Step, outcome: Result<(), Refusal>) {
        let expected = step.refused.as_ref();
        let refusal = match outcome {
            Ok(()) => {
                if let Some((line, code)) = expected {
                    self.fail(*line, format!("{} is refused: {code}", step.text), "it was done".to_owned());
                }
                return;
            }
            Err(refusal) => refusal,
        };
        let Refusal { code, message } = refusal;
        match expected {
            Some((_, wanted)) if *wanted == code => self.played.met = self.played.met.saturating_add(1),
            Some((line, wanted)) => {
                self.fail(*line, format!("{} is refused: {wanted}", step.text), format!("{code}: {message}"));
            }
            None => self.fail(step.line, format!("{} is done", step.text), format!("{code}: {message}")),
        }
        let (line, text, expected) = (step.line, step.text.clone(), expected.is_some());
        self.played.refused.push(RefusedStep { line, step: text, code, message, expected });
    }

    fn fail(&mut self, line: usize, expected: String, found: String) {
        self.played.failed.push(Failed { line, expected, found });
    }

    /// The short form names what changes; the rest of the card stays as it is.
    fn next_version(&mut self, card: &ShortCard) -> Result<RateCardDraft, RunError> {
        let name = card.name.clone();
        let (version, mut prices) = self.read(move |state| {
            let last = state.prices().cards().filter(|card| card.id().name == name).last();
            let mut prices = BTreeMap::new();
            for (sku, timeline) in last.into_iter().flat_map(|card| card.prices()) {
                prices.extend(timeline.steps().last().map(|step| (sku.clone(), step.price)));
            }
            (last.map_or(0, |card| card.id().version), prices)
        })?;
        for (platform, model, price) in &card.prices {
            let sku = hourglass_pricing::Sku {
                platform: platform.clone(),
                region: card.region.clone(),
                model: *model,
            };
            prices.insert(sku, *price);
        }
        let draft = |(sku, price): (hourglass_pricing::Sku, _)| {
            let hourglass_pricing::Sku { platform, region, model } = sku;
            PriceDraft { platform, region, model, price, from: None, until: None, components: Vec::new() }
        };
        Ok(RateCardDraft {
            name: card.name.clone(),
            version: version.saturating_add(1),
            currency: card.currency,
            effective_from: card.from,
            prices: prices.into_iter().map(draft).collect(),
        })
    }

    /// Cuts usage into reports. Those of time that has passed are sent at once.
    fn begin(&mut self, usage: &Use, step: &Step) -> Result<(), RunError> {
        let mut from = usage.interval.start();
        while let Some(part) =
            Interval::between(from, from.saturating_add_ms(usage.every_ms).min(usage.interval.end()))
        {
            let evidence =
                usage.xid.map(|xid| v1::Evidence { xid_errors: vec![xid], ..v1::Evidence::default() });
            let record = v1::UsageRecord {
                instance_id: market::resolved_id(&usage.instance, &self.names).to_string(),
                session: 1,
                start_unix_ms: part.start().unix_ms(),
                end_unix_ms: part.end().unix_ms(),
                gpus: usage.gpus,
                evidence,
            };
            self.reports = self.reports.saturating_add(1);
            let report = Report { agent: usage.agent.clone(), record, line: step.line };
            self.agenda.insert((part.end(), self.reports), report);
            from = part.end();
        }
        self.look_for_due_at = INSTANT_MIN;
        self.send()
    }

    /// Sends the reports whose time is over, a message for each agent.
    fn send(&mut self) -> Result<(), RunError> {
        let later = self.agenda.split_off(&(self.now.saturating_add_ms(1), 0));
        let mut by_agent: BTreeMap<AgentId, (usize, Vec<v1::UsageRecord>)> = BTreeMap::new();
        for report in std::mem::replace(&mut self.agenda, later).into_values() {
            by_agent.entry(report.agent).or_insert((report.line, Vec::new())).1.push(report.record);
        }
        for (agent, (line, records)) in by_agent {
            for records in records.chunks(RECORDS_AT_ONCE) {
                let next_seq = self.next_seq.entry(agent.clone()).or_default();
                let first_seq = *next_seq;
                *next_seq = first_seq.saturating_add(records.len() as u64);
                let (agent_id, records) = (agent.to_string(), records.to_vec());
                let batch = v1::UsageBatch { agent_id, epoch: 1, first_seq, records };
                let batch = UsageBatch::parse(batch.encode_to_vec().into())
                    .map_err(|error| RunError::Door(format!("line {line}: {error}")))?;
                if let Some((_, breach)) = batch.quarantined().first() {
                    let found =
                        format!("{} are not, the first: {}", batch.quarantined().len(), breach.code());
                    self.fail(line, "the reports can be used".to_owned(), found);
                }
                if let Err(Refusal { code, message }) = self.submit(Command::AcceptUsage(batch))? {
                    self.fail(line, "the reports are taken".to_owned(), format!("{code}: {message}"));
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, command: Command) -> Result<Result<Option<u64>, Refusal>, RunError> {
        self.settle(0)?;
        self.ticked_at = None;
        self.door.submit(self.now, command)
    }

    /// Ticks where anything happened since the last tick.
    fn catch_up(&mut self) -> Result<(), RunError> {
        if self.ticked_at == Some(self.now) { Ok(()) } else { self.tick() }
    }

    fn tick(&mut self) -> Result<(), RunError> {
        if self.ticks >= TICKS_MAX {
            return Err(RunError::TooManyTicks);
        }
        self.ticks = self.ticks.saturating_add(1);
        let submission = Submission { command: Command::Tick, key: None, at: Some(self.now) };
        let pending = self.cell.submit_later(submission)?;
        self.under_way.push_back(pending);
        self.settle(UNDER_WAY_MAX)?;
        if self.finalises && self.look_for_due_at <= self.now {
            self.finalise_due()?;
        }
        self.ticked_at = Some(self.now);
        Ok(())
    }

    /// Finalises what is due, and finds out when something can be due again.
    fn finalise_due(&mut self) -> Result<(), RunError> {
        let now = self.now;
        for (tenant, period) in self.read(move |state| invoicing::due(state, now))? {
            let what = format!("the invoice of {tenant} for {period}");
            if let Err(Refusal { code, message }) =
                self.submit(Command::FinaliseInvoice { tenant, period })?
            {
                self.fail(0, format!("{what} is finalised when it is due"), format!("{code}: {message}"));
            }
        }
        self.look_for_due_at = self.read(move |state| next_due(state, now))?;
        Ok(())
    }

    /// Waits until no more than so many ticks are under way.
    fn settle(&mut self, at_most: usize) -> Result<(), RunError> {
        while self.under_way.len() > at_most {
            let Some(pending) = self.under_way.pop_front() else { break };
            match pending.wait() {
                // The cell is not open where the file is about that.
                Ok(_) | Err(CellError::Rejected(_)) => {}
                Err(error) => return Err(RunError::Cell(error)),
            }
        }
        Ok(())
    }

    fn read<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        self.settle(0)?;
        Ok(self.cell.read_blocking(read)?)
    }
}

/// When the next period of any tenant ends, its grace included.
fn next_due(state: &State, now: Instant) -> Instant {
    let grace_ms = state.cell().map_or(0, |cell| cell.policy.grace_ms);
    let ends = state.tenants().map(|(tenant, _)| {
        let open = state.period_at(tenant, now.saturating_add_ms(grace_ms.saturating_neg()));
        state.period_interval(tenant, open).end().saturating_add_ms(grace_ms)
    });
    ends.min().unwrap_or(INSTANT_MAX)
}

impl RefusedStep {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        let Self { line, step, code, message, expected: _ } = self;
        format!("line {line}: {step}\n  refused, {code}: {message}")
    }
}

impl Failed {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        let Self { line, expected, found } = self;
        format!(
            "line {line} FAILED\n  expected: {expected}\n  found:    {}",
            found.replace('\n', "\n            ")
        )
    }
}
