//! The fold: the only place where state changes.

use hourglass_pricing::Sku;
use hourglass_units::{Coverage, Hour, Instant, Interval};

use super::Inconsistent;
use super::book::accrue;
use super::command::{Answer, Detail, Position, Registration};
use super::event::{Event, Policy, Recorded};
use super::invoicing;
use super::metering::{
    AgentIx, Charging, Exclusion, Instance, InstanceIx, LineDifference, PendingLines, Suspended,
};
use super::rows::{ChargeRow, QuarantineRow, Rows};
use super::state::{Cell, FirstAnswer, State, Tenant};
use super::usage::UsageBatch;

/// Most lines that one `Tick` writes; the next ones write the others. A commit must not take so long that
/// usage waits for it, or the lease ends.
pub const LINES_A_TICK_MAX: usize = 20_000;

/// Folds one event into the state and writes the rows that follow from it.
///
/// Total on what [`super::decide()`] makes. On an error the state is not to be used any more.
pub fn apply(
    state: &mut State,
    at: Instant,
    recorded: &Recorded,
    rows: &mut impl Rows,
) -> Result<Answer, Inconsistent> {
    if at < state.now {
        return Err(Inconsistent::new(format!("time went back from {} to {at}", state.now)));
    }
    let position = state.position.next();
    state.position = position;
    state.now = at;
    let mut detail = Detail::Done;
    match &recorded.event {
        Event::CellOpened { region, policy } => {
            state.cell = Some(Cell { region: region.clone(), policy: *policy });
        }
        Event::TenantOpened { tenant, currency, display_name } => {
            let (currency, display_name) = (*currency, display_name.clone());
            let account = Tenant { currency, display_name, invoices: std::collections::BTreeMap::new() };
            state.tenants.insert(tenant.clone(), account);
        }
        Event::RateCardPublished(card) => {
            state.prices.publish(card.clone());
            state.groups.reprice(&state.prices);
        }
        Event::ContractSigned(contract) => {
            state.prices.sign(contract.clone());
            state.groups.reprice(&state.prices);
        }
        Event::InstanceRegistered(registration) => register(state, registration)?,
        Event::InstanceStarted { instance, at } => {
            let run = Interval::from(*at).ok_or_else(|| Inconsistent::new("a start at the end of time"))?;
            change_running(state, instance.as_str(), |running| running.insert(run))?;
        }
        Event::InstanceStopped { instance, at, .. } => {
            let rest = Interval::from(*at).ok_or_else(|| Inconsistent::new("a stop at the end of time"))?;
            change_running(state, instance.as_str(), |running| running.remove(rest))?;
        }
        Event::UsageAccepted(batch) => {
            accept(state, batch, rows)?;
            detail = Detail::Usage {
                records: batch.record_count(),
                quarantined: Detail::breaches(batch.quarantined()),
                next_seq: state.next_seq(batch.agent(), batch.epoch()),
            };
        }
        Event::UsageQuarantined { reason, .. } => {
            state.counts.quarantined_messages = state.counts.quarantined_messages.saturating_add(1);
            rows.quarantine(QuarantineRow { record: None, reason: reason.clone() });
        }
        Event::Ticked => tick(state, position, at, rows)?,
        Event::InvoiceFinalised(invoice) => {
            invoicing::finalise(state, invoice, position, at, rows)?;
            detail = Detail::Invoice { number: invoice.number };
        }
        Event::KeyCreated(grant) => {
            if state.credentials.get(&grant.id).is_some() {
                return Err(Inconsistent::new("a key created twice"));
            }
            state.credentials.insert((**grant).clone(), at);
            detail = Detail::Key { id: grant.id.clone() };
        }
        Event::KeyRevoked { id } => {
            if !state.credentials.revoke(id, at) {
                return Err(Inconsistent::new("the revocation of a key that does not hold"));
            }
        }
    }
    let answer = Answer { position, detail };
    if let Some((key, request)) = recorded.key {
        state.keys.insert(key, FirstAnswer { request, answer: answer.clone() });
    }
    Ok(answer)
}

/// Makes an instance known and takes its reports out of suspense.
fn register(state: &mut State, it: &Registration) -> Result<(), Inconsistent> {
    let region = state.cell.as_ref().map(|cell| cell.region.clone());
    let currency = state.tenants.get(&it.tenant).map(|tenant| tenant.currency);
    let (Some(region), Some(currency)) = (region, currency) else {
        return Err(Inconsistent::new("an instance of an unknown tenant"));
    };
    if state.instances.find(it.instance.as_str()).is_some() {
        return Err(Inconsistent::new("an instance registered twice"));
    }
    let full = || Inconsistent::new("more instances than an index holds");
    let agent = it.agent.as_ref().map(|agent| state.bind_agent(agent).ok_or_else(full)).transpose()?;
    let sku = Sku { platform: it.platform.clone(), region, model: it.model };
    let group = state.groups.of(&it.tenant, &it.project, &sku, currency, &state.prices).ok_or_else(full)?;
    let mut instance = Instance {
        id: it.instance.clone(),
        running: Coverage::default(),
        reported: Coverage::default(),
        excluded: None,
        group,
        gpus: it.gpus,
        agent,
        growing: None,
    };
    // It does not run yet, so nothing is billed here: starting it will do that.
    for suspended in state.suspense.remove(&it.instance).unwrap_or_default() {
        let by = it.agent.as_ref().is_none_or(|agent| *agent == suspended.agent);
        let reason = exclusion(&instance, suspended.gpus, by, suspended.excluded);
        for interval in suspended.reported.intervals() {
            match reason {
                Some(reason) => instance.exclude(reason, *interval),
                None => instance.reported.insert(*interval),
            }
        }
    }
    state.instances.push(instance).ok_or_else(full)?;
    Ok(())
}

/// Changes when an instance ran; what was reported and is billable now is billed, and the reverse.
fn change_running(
    state: &mut State,
    id: &str,
    change: impl FnOnce(&mut Coverage),
) -> Result<(), Inconsistent> {
    let unknown = || Inconsistent::new("the life cycle of an unknown instance");
    let ix = state.instances.find(id).ok_or_else(unknown)?;
    let State { instances, groups, pending, written_until, .. } = state;
    let instance = instances.get_mut(ix).ok_or_else(unknown)?;
    let group = groups.get_mut(instance.group).ok_or_else(unknown)?;
    let mut running = instance.running.clone();
    change(&mut running);
    instance.change_running(running, &mut Charging { group, ix, pending, written_until: *written_until })
}

/// Takes a batch of reports: the hot path of the whole system.
fn accept(state: &mut State, batch: &UsageBatch, rows: &mut impl Rows) -> Result<(), Inconsistent> {
    let policy = state
        .cell
        .as_ref()
        .map(|cell| cell.policy)
        .ok_or_else(|| Inconsistent::new("usage before the cell"))?;
    let now = state.now;
    let agent: Option<AgentIx> = state
        .agents
        .iter()
        .position(|known| known == batch.agent())
        .and_then(|ix| AgentIx::try_from(ix).ok());
    let State { instances, groups, pending, suspense, written_until, .. } = &mut *state;

    // All look-ups first: they do not depend on one another, so the processor waits for the memory of
    // several at once.
    let found: Vec<Option<InstanceIx>> =
        batch.records().map(|record| instances.find(record.instance)).collect();
    for (record, found) in batch.records().zip(found) {
        let late = lateness(policy, record.interval, now);
        let Some(ix) = found else {
            suspend(suspense, batch, record, late)?;
            continue;
        };
        let lost = || Inconsistent::new("an instance without a group");
        let instance = instances.get_mut(ix).ok_or_else(lost)?;
        let by = instance.agent.is_none() || instance.agent == agent;
        match exclusion(instance, record.gpus, by, late) {
            Some(reason) => instance.exclude(reason, record.interval),
            None => {
                let group = groups.get_mut(instance.group).ok_or_else(lost)?;
                let mut charging = Charging { group, ix, pending, written_until: *written_until };
                instance.report(record.interval, &mut charging)?;
            }
        }
    }

    for (record, breach) in batch.quarantined() {
        rows.quarantine(QuarantineRow { record: Some(*record), reason: breach.code().to_owned() });
    }
    let received = state.received.entry(batch.agent().clone()).or_default();
    received.insert(batch.epoch(), batch.first_seq(), batch.next_seq());
    let counts = &mut state.counts;
    counts.usage_records = counts.usage_records.saturating_add(u64::from(batch.record_count()));
    let quarantined = u64::try_from(batch.quarantined().len()).unwrap_or(u64::MAX);
    counts.quarantined_records = counts.quarantined_records.saturating_add(quarantined);
    Ok(())
}

/// Why a report is not billed whatever the life cycle says, in the order of [`Exclusion::ALL`].
fn exclusion(
    instance: &Instance,
    gpus: u32,
    by_its_agent: bool,
    late: Option<Exclusion>,
) -> Option<Exclusion> {
    if gpus != instance.gpus {
        Some(Exclusion::GpusDiffer)
    } else if !by_its_agent {
        Some(Exclusion::ForeignAgent)
    } else {
        late
    }
}

/// What the clock says of a report when it comes.
fn lateness(policy: Policy, interval: Interval, now: Instant) -> Option<Exclusion> {
    let age = now.ms_since(interval.end());
    if age < policy.clock_skew_max_ms.saturating_neg() {
        Some(Exclusion::InTheFuture)
    } else if age > policy.acceptance_window_ms {
        Some(Exclusion::TooOld)
    } else {
        None
    }
}

type Suspense = std::collections::BTreeMap<hourglass_units::InstanceId, Vec<Suspended>>;

/// Keeps the report of an instance that nobody registered yet.
fn suspend(
    suspense: &mut Suspense,
    batch: &UsageBatch,
    record: super::usage::UsageRecord<'_>,
    excluded: Option<Exclusion>,
) -> Result<(), Inconsistent> {
    let id = || record.instance.parse().map_err(|_| Inconsistent::new("an id that is none"));
    let reports = match suspense.get_mut(record.instance) {
        Some(reports) => reports,
        None => suspense.entry(id()?).or_default(),
    };
    let alike =
        |it: &&mut Suspended| it.agent == *batch.agent() && it.gpus == record.gpus && it.excluded == excluded;
    match reports.iter_mut().find(alike) {
        Some(suspended) => suspended.reported.insert(record.interval),
        None => {
            let (agent, gpus) = (batch.agent().clone(), record.gpus);
            reports.push(Suspended { agent, gpus, excluded, reported: Coverage::of(record.interval) });
        }
    }
    Ok(())
}

/// Time passed: post what was priced, and write the lines of the hours that are over.
fn tick(
    state: &mut State,
    position: Position,
    at: Instant,
    rows: &mut impl Rows,
) -> Result<(), Inconsistent> {
    accrue(&mut state.groups, &mut state.book, None, position, at, rows)?;
    let open = Hour::containing(at);
    if state.written_until < open {
        state.written_until = open;
        for (ix, instance) in state.instances.iter_mut() {
            if let Some(line) = instance.growing.take_if(|line| line.hour < open) {
                set_aside(&mut state.pending, (ix, line.hour, line.price), line.unwritten)?;
            }
        }
    }
    let closed = state.pending.extract_if(.., |(_, hour, _), _| *hour < open);
    let closed: Vec<_> = closed.take(LINES_A_TICK_MAX).collect();
    for ((ix, hour, price), difference) in closed {
        if difference.is_zero() {
            continue;
        }
        let lost = || Inconsistent::new("a line without an instance");
        let instance = state.instances.get(ix).ok_or_else(lost)?;
        let group = state.groups.get(instance.group).ok_or_else(lost)?;
        rows.charge(ChargeRow {
            tenant: group.tenant.clone(),
            project: group.project.clone(),
            instance: instance.id.clone(),
            platform: group.sku.platform.clone(),
            region: group.sku.region.clone(),
            model: group.sku.model,
            price,
            hour,
            gpus: instance.gpus,
            milliseconds: difference.milliseconds,
            quantity: difference.quantity,
            amount: price.times(difference.quantity),
            currency: group.currency,
        });
    }
    Ok(())
}

fn set_aside(
    pending: &mut PendingLines,
    key: (InstanceIx, Hour, hourglass_units::Price),
    difference: LineDifference,
) -> Result<(), Inconsistent> {
    let sum = pending.entry(key).or_default();
    *sum = sum.checked_add(difference).ok_or_else(|| Inconsistent::new("a line out of range"))?;
    Ok(())
}
