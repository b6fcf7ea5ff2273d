//! The fold: the only place where state changes.

use hourglass_pricing::Rerating;
use hourglass_quota::NodeName;
use hourglass_units::{Coverage, Instant, Interval};

use super::Inconsistent;
use super::command::{Answer, Detail, Position};
use super::credits::Grant;
use super::event::{Event, Policy, Recorded};
use super::grants::grant;
use super::invoicing;
use super::lifecycle;
use super::market;
use super::metering::{AgentIx, Charging, Exclusion, Instance, InstanceIx, Suspended};
use super::periods::Chained;
use super::quotas::{self, Target};
use super::rerating;
use super::rows::{QuarantineRow, Rows};
use super::sla::{self, Waiting};
use super::state::{Cell, FirstAnswer, State, Tenant};
use super::tick::tick;
use super::timeline::{self, LifeStep, Noted};
use super::usage::UsageBatch;
use super::webhooks;

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
    let mut chained = Chained::new(rows, position, std::mem::take(&mut state.periods));
    let detail = happen(state, position, at, &recorded.event, &mut chained)?;
    timeline::write(state, &mut chained);
    state.periods = chained.finish()?;
    if let Event::PeriodClosed(close) = &recorded.event {
        state.periods.close(close, position, at)?;
    }
    let answer = Answer { position, detail };
    if let Some((key, request)) = recorded.key {
        state.keys.insert(key, FirstAnswer { request, answer: answer.clone() });
    }
    Ok(answer)
}

fn happen(
    state: &mut State,
    position: Position,
    at: Instant,
    event: &Event,
    rows: &mut impl Rows,
) -> Result<Detail, Inconsistent> {
    match event {
        Event::CellOpened { region, policy } => {
            state.cell = Some(Cell { region: region.clone(), policy: *policy });
            state.incidents.begin(at);
        }
        Event::TenantOpened { tenant, currency, display_name } => {
            state.tenants.insert(tenant.clone(), Tenant::new(*currency, display_name.clone(), at));
            let root = NodeName::Tenant(tenant.clone());
            state.quotas.tree.ensure(&root, None).map_err(quotas::broken)?;
        }
        Event::RateCardPublished(card) => {
            state.prices.publish(card.clone());
            state.groups.reprice(&state.prices, None);
            lifecycle::look_again_from(state, card.effective_from());
        }
        Event::ContractSigned { contract, calendar } => {
            let tenant = contract.tenant().clone();
            state.prices.sign((**contract).clone());
            state.groups.reprice(&state.prices, Some(&tenant));
            if let Some(calendar) = calendar {
                state.calendars.set(&tenant, calendar.clone());
            }
            let first = state.calendars.of(&tenant).containing(contract.effective().start());
            touch(state, &tenant, first);
            lifecycle::look_again_from(state, contract.effective().start());
        }
        Event::InstanceRegistered(registration) => {
            lifecycle::register(state, registration)?;
            let ix = lifecycle::find(state, &registration.instance)?;
            market::place(state, ix, registration)?;
            quotas::register(state, ix, registration, at)?;
            return Ok(Detail::Instance { waits: market::is_waiting(state, ix) });
        }
        Event::InstanceStarted { instance, at } => {
            let run = Interval::from(*at).ok_or_else(|| Inconsistent::new("a start at the end of time"))?;
            lifecycle::change_running(state, instance, run, |running| running.insert(run))?;
            let ix = lifecycle::find(state, instance)?;
            state.noted.push(Noted::new(instance, LifeStep::Started, *at));
            quotas::start(state, ix, *at)?;
            market::starts(&mut state.market, ix);
        }
        Event::InstanceStopped { instance, at, cause } => {
            let rest = Interval::from(*at).ok_or_else(|| Inconsistent::new("a stop at the end of time"))?;
            lifecycle::change_running(state, instance, rest, |running| running.remove(rest))?;
            let ix = lifecycle::find(state, instance)?;
            let stopped = Noted::new(instance, LifeStep::Stopped, *at);
            let order = state.quotas.preemption(&Target::Instance(instance.clone()));
            let (code, why) =
                order.map_or(("requested", cause), |order| (order.cause.as_str(), &order.reason));
            let stopped = stopped.because(code, why);
            state.noted.push(stopped);
            quotas::release(state, ix)?;
            market::stopped(&mut state.market, ix);
            market::admit_waiting(&mut state.market, state.now);
        }
        Event::InstanceLabelled { instance, labels } => {
            let ix = lifecycle::find(state, instance)?;
            if labels.is_empty() {
                state.labels.remove(&ix);
            } else {
                state.labels.insert(ix, labels.clone());
            }
        }
        Event::ModeChanged { instance, mode, at: from } => {
            state.noted.push(Noted::new(instance, LifeStep::SoldDifferently, *from).sold(mode));
            lifecycle::change_mode(state, instance, mode, *from)?;
            quotas::change_class(state, lifecycle::find(state, instance)?, mode, at)?;
        }
        Event::ReservationMade { tenant, reservation } => {
            lifecycle::reserve(state, tenant, reservation, position, at)?;
            market::reserve(state, tenant, reservation)?;
        }
        Event::ReservationAmended { reservation, until } => {
            lifecycle::amend_reservation(state, reservation, *until, at)?;
        }
        Event::SpotPriceSet { platform, currency, price, fabric, from } => {
            rerating::set_spot(state, (platform, fabric.as_ref()), *currency, *price, *from)?;
        }
        Event::UsageAccepted(batch) => {
            accept(state, batch, rows)?;
            return Ok(Detail::Usage {
                records: batch.record_count(),
                quarantined: Detail::breaches(batch.quarantined()),
                next_seq: state.next_seq(batch.agent(), batch.epoch()),
            });
        }
        Event::UsageQuarantined { reason, .. } => {
            state.counts.quarantined_messages = state.counts.quarantined_messages.saturating_add(1);
            rows.quarantine(QuarantineRow { record: None, reason: reason.clone() });
        }
        Event::UsageVoided { instance, interval, reason } => {
            let voided = Noted::new(instance, LifeStep::UsageVoided, interval.start());
            let voided = Noted { deadline: Some(interval.end()), ..voided.because("voided", reason) };
            state.noted.push(voided);
            lifecycle::void_usage(state, instance, *interval)?;
        }
        Event::Ticked => tick(state, position, at, rows)?,
        Event::CreditGranted { tenant, credit } => {
            let credit = Grant { position, ..(**credit).clone() };
            grant(state, tenant, credit, at, rows)?;
        }
        Event::TaxSet { tenant, tax } => {
            let unknown = || Inconsistent::new("the tax of an unknown tenant");
            state.tenants.get_mut(tenant).ok_or_else(unknown)?.tax = tax.clone();
        }
        Event::PricesRerated(rerated) => {
            let Rerating { card, interval, tenant } = &**rerated;
            rerating::commit(
                state,
                Rerating { card: card.clone(), interval: *interval, tenant: tenant.clone() },
            )?;
        }
        Event::InvoiceFinalised(invoice) => {
            invoicing::finalise(state, invoice, position, at, rows)?;
            return Ok(Detail::Invoice { number: invoice.number });
        }
        Event::PaymentRecorded { tenant, number, amount, .. } => {
            invoicing::pay(state, tenant, *number, *amount, at, rows)?;
        }
        Event::InvoiceVoided { tenant, number, .. } => invoicing::void(state, tenant, *number, at, rows)?,
        // It has no rows, and what it writes is with those who chain them.
        Event::PeriodClosed(_) => {}
        Event::KeyCreated(grant) => {
            if state.credentials.get(&grant.id).is_some() {
                return Err(Inconsistent::new("a key created twice"));
            }
            state.credentials.insert((**grant).clone(), at);
            return Ok(Detail::Key { id: grant.id.clone() });
        }
        Event::Quota(event) => return quotas::apply(state, position, at, event),
        Event::Market(event) => return market::apply(state, position, at, event),
        Event::Webhook(event) => webhooks::apply(&mut state.webhooks, position, at, event)?,
        Event::KeyRevoked { id } => {
            if !state.credentials.revoke(id, at) {
                return Err(Inconsistent::new("the revocation of a key that does not hold"));
            }
        }
    }
    Ok(Detail::Done)
}

/// What a tenant owes may have changed from a period on: the next `Tick` looks.
pub(super) fn touch(state: &mut State, tenant: &hourglass_units::TenantId, period: hourglass_units::Month) {
    let first = state.touched.entry(tenant.clone()).or_insert(period);
    *first = period.min(*first);
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
    note_xids(state, batch, policy);
    let State { instances, groups, prices, calendars, pending, suspense, written_until, .. } = &mut *state;

    // All look-ups first: they do not depend on one another, so the processor waits for the memory of
    // several at once.
    let found: Vec<Option<InstanceIx>> =
        batch.records().map(|record| instances.find(record.instance)).collect();
    let written_until = *written_until;
    let mut charging = Charging { groups, prices, calendars, pending, written_until };
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
            None => instance.report(ix, record.interval, &mut charging)?,
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

/// Keeps the XID errors of reports that count, for contracts that make something of them.
fn note_xids(state: &mut State, batch: &UsageBatch, policy: Policy) {
    if batch.xids().is_empty() {
        return;
    }
    let now = state.now;
    let agent = state.agents.iter().position(|known| known == batch.agent());
    let agent = agent.and_then(|ix| AgentIx::try_from(ix).ok());
    // Both are in the order of the records.
    let mut xids = batch.xids().iter().peekable();
    for (index, record) in batch.records().enumerate() {
        while let Some((_, code)) = xids.next_if(|(at, _)| *at == index) {
            note_xid(state, batch, record, agent, lateness(policy, record.interval, now), *code);
        }
    }
}

fn note_xid(
    state: &mut State,
    batch: &UsageBatch,
    record: super::usage::UsageRecord<'_>,
    agent: Option<AgentIx>,
    late: Option<Exclusion>,
    code: u32,
) {
    let (interval, position) = (record.interval, state.position);
    let found = state.instances.find(record.instance).and_then(|ix| Some((ix, state.instances.get(ix)?)));
    match found {
        Some((ix, instance)) => {
            let by = instance.agent.is_none() || instance.agent == agent;
            let counts = exclusion(instance, record.gpus, by, late).is_none();
            if counts && sla::is_agreed(state, instance, interval.start()) {
                state.incidents.note(ix, interval, code, position);
            }
        }
        None => {
            let Ok(instance) = record.instance.parse() else { return };
            let (agent, gpus) = (batch.agent().clone(), record.gpus);
            let waiting = Waiting { agent, gpus, excluded: late, interval, code, position };
            state.incidents.wait(instance, waiting);
        }
    }
}

/// Why a report is not billed whatever the life cycle says, in the order of [`Exclusion::ALL`].
pub(super) fn exclusion(
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
pub(super) fn lateness(policy: Policy, interval: Interval, now: Instant) -> Option<Exclusion> {
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
