//! Plays a workload against a cell, at the workload's own times.
//!
//! Every `tick` of trace time the agents send what they have, the clock ticks, and whatever invoice
//! is due is finalised. Reports are cut every `every` per instance. With a chaos seed the same
//! reports arrive late, twice, cut in two and overlapping, in another order, and some instances are
//! made known, or stopped, only long after the fact: the final lines, balances and invoices are the
//! same to the bit.

use std::collections::{BTreeMap, VecDeque};

use hourglass_ledger::cell::{CellError, CellHandle, Pending, Submission};
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{Command, Policy, invoicing};
use hourglass_proto::v1;
use hourglass_units::{AgentId, Instant, Interval, Month};
use prost::Message;

use super::{Job, Workload};

/// Records in a message of an agent.
const RECORDS_AT_ONCE: usize = 1_000;
/// Commands under way at once.
const UNDER_WAY_MAX: usize = 1_024;
/// With chaos, a report arrives at most this much later: within the grace, so no invoice is final yet.
const LATE_MILLISECONDS_MAX: i64 = 36 * 3_600_000;

/// How to play.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Length of a report, in milliseconds.
    pub every_ms: i64,
    /// Time between two ticks, in milliseconds.
    pub tick_ms: i64,
    /// Seed of the chaos, if there is to be any.
    pub chaos: Option<u64>,
}

/// What was played.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Played {
    /// Instances that ran.
    pub instances: u64,
    /// Records that agents sent, repeats included.
    pub records: u64,
    /// Messages that they came in.
    pub batches: u64,
    /// Ticks of the clock.
    pub ticks: u64,
    /// Invoices finalised.
    pub invoices: u64,
    /// GPU-milliseconds that the workload used by itself.
    pub workload_gpu_ms: i128,
}

/// Why a workload could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The ledger has something in it.
    #[error("the ledger is not empty: a replay starts from nothing, give it another --data directory")]
    NotEmpty,
    /// The cell refused or failed.
    #[error("at {at}: {error}")]
    Cell {
        /// Trace time.
        at: Instant,
        /// Why.
        error: CellError,
    },
    /// A batch that cannot be read back: a fault of ours.
    #[error("at {at}: the batch that was made is none: {error}")]
    Batch {
        /// Trace time.
        at: Instant,
        /// Why.
        error: hourglass_ledger::core::usage::BatchError,
    },
}

/// Something that happens at a time.
enum Action {
    Register(usize),
    Report(usize, Interval),
    Stop(usize),
}

/// Plays the workload. `progress` is told how much of the time has passed, in milliseconds.
pub fn play(
    cell: &CellHandle,
    workload: &Workload,
    pace: Pace,
    mut progress: impl FnMut(i64, i64),
) -> Result<Played, PlayError> {
    let start = workload.opens_at;
    let mut player =
        Player { cell, now: start, under_way: VecDeque::new(), played: Played::default(), looked_on: 0 };
    if player.read(|state| state.position().number() > 0)? {
        return Err(PlayError::NotEmpty);
    }
    player.open(workload)?;

    let agenda = agenda(workload, pace);
    // The clock runs on until the last month that was used is closed, and until all has arrived.
    let last_used = workload.jobs.iter().map(|job| job.ran.end()).max().unwrap_or(start);
    let last_month = Month::containing(last_used.saturating_add_ms(-1));
    let closed = last_month.end().saturating_add_ms(Policy::default().grace_ms);
    let arrived = agenda.last_key_value().map_or(start, |((at, _), _)| *at);
    let end = closed.max(arrived).saturating_add_ms(pace.tick_ms);
    let mut agents: BTreeMap<&AgentId, Agent> = BTreeMap::new();
    let mut agenda = agenda.into_values().peekable();
    let mut shuffle = pace.chaos.map(|seed| fastrand::Rng::with_seed(seed ^ 1));
    while player.now < end {
        let tick_at = player.now.saturating_add_ms(pace.tick_ms);
        while let Some((at, action)) = agenda.next_if(|(at, _)| *at <= tick_at) {
            player.now = at.max(player.now);
            match action {
                Action::Register(job) => player.register(&workload.jobs, job)?,
                Action::Stop(job) => player.stop(&workload.jobs, job)?,
                Action::Report(job, interval) => {
                    let Some(job) = workload.jobs.get(job) else { continue };
                    agents.entry(&job.agent).or_default().reports.push(record(job, interval));
                }
            }
        }
        player.now = tick_at;
        for (id, agent) in &mut agents {
            player.send(id, agent, shuffle.as_mut())?;
        }
        player.submit(Command::Tick)?;
        player.played.ticks = player.played.ticks.saturating_add(1);
        player.close_months()?;
        progress(tick_at.ms_since(start), end.ms_since(start));
    }
    player.settle(0)?;
    player.played.instances = workload.jobs.len() as u64;
    player.played.workload_gpu_ms = workload.jobs.iter().map(Job::gpu_ms).fold(0, i128::saturating_add);
    Ok(player.played)
}

/// What an agent has not sent yet.
#[derive(Default)]
struct Agent {
    reports: Vec<v1::UsageRecord>,
    next_seq: u64,
}

struct Player<'a> {
    cell: &'a CellHandle,
    now: Instant,
    under_way: VecDeque<(Instant, Pending)>,
    played: Played,
    /// The day on which invoices were last looked for.
    looked_on: i64,
}

impl Player<'_> {
    fn submit(&mut self, command: Command) -> Result<(), PlayError> {
        let at = self.now;
        let submission = Submission { command, key: None, at: Some(at) };
        let pending = self.cell.submit_later(submission).map_err(|error| PlayError::Cell { at, error })?;
        self.under_way.push_back((at, pending));
        self.settle(UNDER_WAY_MAX)
    }

    /// Waits until no more than so many commands are under way.
    fn settle(&mut self, at_most: usize) -> Result<(), PlayError> {
        while self.under_way.len() > at_most {
            let Some((at, pending)) = self.under_way.pop_front() else { break };
            let _outcome = pending.wait().map_err(|error| PlayError::Cell { at, error })?;
        }
        Ok(())
    }

    fn read<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&hourglass_ledger::core::State) -> T + Send + 'static,
    ) -> Result<T, PlayError> {
        self.settle(0)?;
        self.cell.read_blocking(read).map_err(|error| PlayError::Cell { at: self.now, error })
    }

    fn open(&mut self, workload: &Workload) -> Result<(), PlayError> {
        self.submit(Command::OpenCell { region: workload.region.clone(), policy: Policy::default() })?;
        for tenant in &workload.tenants {
            let (tenant, display_name) = (tenant.clone(), tenant.to_string());
            self.submit(Command::OpenTenant { tenant, currency: workload.currency, display_name })?;
        }
        for card in &workload.prices.cards {
            self.submit(Command::PublishRateCard(card.clone()))?;
        }
        for contract in &workload.prices.contracts {
            let (tenant, contract) = contract.clone().parts();
            self.submit(Command::SignContract { tenant, contract })?;
        }
        Ok(())
    }

    fn register(&mut self, jobs: &[Job], job: usize) -> Result<(), PlayError> {
        let Some(job) = jobs.get(job) else { return Ok(()) };
        self.submit(Command::RegisterInstance(job.instance.clone()))?;
        self.submit(Command::StartInstance { instance: job.instance.instance.clone(), at: job.ran.start() })
    }

    fn stop(&mut self, jobs: &[Job], job: usize) -> Result<(), PlayError> {
        let Some(job) = jobs.get(job) else { return Ok(()) };
        let (instance, cause) = (job.instance.instance.clone(), "finished".to_owned());
        self.submit(Command::StopInstance { instance, at: job.ran.end(), cause })
    }

    /// Sends what an agent has.
    fn send(
        &mut self,
        id: &AgentId,
        agent: &mut Agent,
        shuffle: Option<&mut fastrand::Rng>,
    ) -> Result<(), PlayError> {
        let mut reports = std::mem::take(&mut agent.reports);
        if let Some(random) = shuffle {
            random.shuffle(&mut reports);
        }
        for records in reports.chunks(RECORDS_AT_ONCE) {
            let count = records.len() as u64;
            let (agent_id, first_seq) = (id.to_string(), agent.next_seq);
            let batch = v1::UsageBatch { agent_id, epoch: 1, first_seq, records: records.to_vec() };
            let batch = UsageBatch::parse(batch.encode_to_vec().into())
                .map_err(|error| PlayError::Batch { at: self.now, error })?;
            agent.next_seq = agent.next_seq.saturating_add(count);
            self.played.batches = self.played.batches.saturating_add(1);
            self.played.records = self.played.records.saturating_add(count);
            self.submit(Command::AcceptUsage(batch))?;
        }
        Ok(())
    }

    /// Finalises what is due. Months end at midnight, so it is enough to look once a day.
    fn close_months(&mut self) -> Result<(), PlayError> {
        const DAY_MS: i64 = 86_400_000;
        let (now, today) = (self.now, self.now.unix_ms().div_euclid(DAY_MS));
        if self.looked_on == today {
            return Ok(());
        }
        self.looked_on = today;
        for (tenant, period) in self.read(move |state| invoicing::due(state, now))? {
            self.submit(Command::FinaliseInvoice { tenant, period })?;
            self.played.invoices = self.played.invoices.saturating_add(1);
        }
        Ok(())
    }
}

fn record(job: &Job, interval: Interval) -> v1::UsageRecord {
    v1::UsageRecord {
        instance_id: job.instance.instance.to_string(),
        session: 1,
        start_unix_ms: interval.start().unix_ms(),
        end_unix_ms: interval.end().unix_ms(),
        gpus: job.instance.gpus,
        evidence: None,
    }
}

/// What happens when, in order: by time, and at one time in the order in which it was made.
type Agenda = BTreeMap<(Instant, u64), (Instant, Action)>;

fn agenda(workload: &Workload, pace: Pace) -> Agenda {
    let mut agenda = Agenda::new();
    let mut serial = 0_u64;
    let mut add = |at: Instant, action: Action| {
        serial = serial.saturating_add(1);
        agenda.insert((at, serial), (at, action));
    };
    let mut random = pace.chaos.map(fastrand::Rng::with_seed);
    for (job, it) in workload.jobs.iter().enumerate() {
        let (start, end) = (it.ran.start(), it.ran.end());
        // One in ten is made known, and one in ten stopped, only after the fact.
        let mut after = |at: Instant| match &mut random {
            None => at,
            Some(random) => {
                let late = if random.u8(..10) == 0 { random.i64(0..=LATE_MILLISECONDS_MAX) } else { 0 };
                at.saturating_add_ms(late)
            }
        };
        let known_at = after(start);
        let stopped_at = after(end).max(known_at);
        add(known_at, Action::Register(job));
        let mut from = start;
        while let Some(interval) = Interval::between(from, from.saturating_add_ms(pace.every_ms).min(end)) {
            match &mut random {
                None => add(interval.end(), Action::Report(job, interval)),
                Some(random) => {
                    for (at, report) in disturbed(interval, it.ran, pace.every_ms, random) {
                        add(at, Action::Report(job, report));
                    }
                }
            }
            from = interval.end();
        }
        add(stopped_at, Action::Stop(job));
    }
    agenda
}

/// One report, as a bad network and a nervous agent would send it: late, in two parts, reaching into
/// its neighbours, twice. Together the reports still say exactly when the instance ran.
fn disturbed(
    interval: Interval,
    ran: Interval,
    every_ms: i64,
    random: &mut fastrand::Rng,
) -> Vec<(Instant, Interval)> {
    let mut reports = vec![interval];
    if random.u8(..4) == 0 && interval.milliseconds() > 1 {
        let at = interval.start().saturating_add_ms(random.i64(1..interval.milliseconds()));
        let halves = [Interval::between(interval.start(), at), Interval::between(at, interval.end())];
        reports = halves.into_iter().flatten().collect();
    }
    if random.u8(..4) == 0 {
        let start = interval.start().saturating_add_ms(-random.i64(0..=every_ms)).max(ran.start());
        let end = interval.end().saturating_add_ms(random.i64(0..=every_ms)).min(ran.end());
        reports.extend(Interval::between(start, end));
    }
    if random.u8(..5) == 0 {
        reports.extend(reports.clone());
    }
    reports
        .into_iter()
        .map(|report| {
            let late = if random.bool() { random.i64(0..=LATE_MILLISECONDS_MAX) } else { 0 };
            (report.end().saturating_add_ms(late), report)
        })
        .collect()
}
