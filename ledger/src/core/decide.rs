//! Decisions: every check there is, before anything is written.
//!
//! The order of precedence is the order of the variants of [`Rejection`]: first the idempotency key,
//! so that a repeat finds its first answer, then the cell, then the content from the outside in.

use hourglass_pricing::{Contract, RateCard, Sku};
use hourglass_units::{INSTANT_MAX, INSTANT_MIN, InstanceId, Instant, TenantId};
use serde::Serialize;

use super::command::{
    Answer, Command, IdempotencyKey, QUARANTINE_BYTES_MAX, Registration, Rejection, SUSPENSE_INSTANCES_MAX,
    TEXT_LENGTH_MAX, first_16,
};
use super::credentials::KeyGrant;
use super::event::{Event, Policy, Recorded};
use super::invoicing;
use super::metering::Instance;
use super::state::{Cell, State};
use super::usage::{INSTANCE_GPUS_MAX, UsageBatch};

/// A command and its circumstances.
#[derive(Debug)]
pub struct Request<'a> {
    /// What to do.
    pub command: &'a Command,
    /// Under which name, so that a repeat is recognised.
    pub key: Option<IdempotencyKey>,
    /// What time it is. Never before the last event.
    pub now: Instant,
    /// The hash of the chain at the state's position.
    pub chain_hash: blake3::Hash,
}

/// What is to be done about a command that is not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This happened; [`super::apply()`] makes it so.
    Happens(Recorded),
    /// It happened before.
    AlreadyApplied(Answer),
}

/// Decides. Reads only; every reason to refuse is found here.
pub fn decide(state: &State, request: &Request<'_>) -> Result<Decision, Rejection> {
    let key = match request.key {
        None => None,
        Some(key) => {
            let digest = digest(request.command);
            if let Some(first) = state.keys.get(&key) {
                return if first.request == digest {
                    Ok(Decision::AlreadyApplied(first.answer.clone()))
                } else {
                    Err(Rejection::IdempotencyKeyReused { position: first.answer.position })
                };
            }
            Some((key, digest))
        }
    };
    let event = match (&state.cell, request.command) {
        (None, Command::OpenCell { region, policy }) => {
            check_policy(*policy)?;
            Event::CellOpened { region: region.clone(), policy: *policy }
        }
        (None, _) => return Err(Rejection::CellNotOpen),
        (Some(cell), Command::OpenCell { .. }) => {
            return Err(Rejection::CellAlreadyOpen { region: cell.region.clone() });
        }
        (Some(cell), command) => in_open_cell(state, cell, command, request)?,
    };
    Ok(Decision::Happens(Recorded { key, event }))
}

fn in_open_cell(
    state: &State,
    cell: &Cell,
    command: &Command,
    request: &Request<'_>,
) -> Result<Event, Rejection> {
    let now = request.now;
    Ok(match command {
        // Answered above.
        Command::OpenCell { .. } => return Err(Rejection::CellAlreadyOpen { region: cell.region.clone() }),
        Command::OpenTenant { tenant, currency, display_name } => {
            check_text("the display name", display_name)?;
            if state.tenants.contains_key(tenant) {
                return Err(Rejection::TenantExists { tenant: tenant.clone() });
            }
            let (tenant, display_name) = (tenant.clone(), display_name.clone());
            Event::TenantOpened { tenant, currency: *currency, display_name }
        }
        Command::PublishRateCard(draft) => {
            let card = RateCard::check(draft.clone())?;
            state.prices.check_card(&card, unrated_from(cell.policy, now))?;
            Event::RateCardPublished(card)
        }
        Command::SignContract { tenant, contract } => {
            let account = state.tenants.get(tenant).ok_or_else(|| unknown_tenant(tenant))?;
            let contract = Contract::check(tenant.clone(), contract.clone())?;
            // Before the first instance of the tenant nothing can have been rated.
            let has_instances = state.groups.of_tenant(tenant).next().is_some();
            let earliest = if has_instances { unrated_from(cell.policy, now) } else { INSTANT_MIN };
            state.prices.check_contract(&contract, account.currency, earliest)?;
            Event::ContractSigned(contract)
        }
        Command::RegisterInstance(registration) => register(state, cell, registration, now)?,
        Command::StartInstance { instance, at } => start(state, cell, instance, *at, now)?,
        Command::StopInstance { instance, at, cause } => stop(state, cell, instance, *at, cause, now)?,
        Command::AcceptUsage(batch) => {
            check_suspense(state, batch)?;
            Event::UsageAccepted(batch.clone())
        }
        Command::QuarantineUsage { reason, content_type, original } => {
            check_text("the reason", reason)?;
            check_text("the content type", content_type)?;
            if original.len() > QUARANTINE_BYTES_MAX {
                return Err(Rejection::MessageTooLarge { length: original.len() });
            }
            let (reason, content_type, original) = (reason.clone(), content_type.clone(), original.clone());
            Event::UsageQuarantined { reason, content_type, original }
        }
        Command::Tick => Event::Ticked,
        Command::FinaliseInvoice { tenant, period } => {
            let invoice = invoicing::plan(state, tenant, *period, now, &request.chain_hash)?;
            Event::InvoiceFinalised(Box::new(invoice))
        }
        Command::CreateKey(grant) => create_key(state, grant, now)?,
        Command::RevokeKey { id } => {
            let key = state.credentials.get(id);
            let key = key.ok_or_else(|| Rejection::KeyUnknown { id: id.clone() })?;
            if let Some(at) = key.revoked_at {
                return Err(Rejection::KeyRevoked { id: id.clone(), at });
            }
            Event::KeyRevoked { id: id.clone() }
        }
    })
}

fn create_key(state: &State, grant: &KeyGrant, now: Instant) -> Result<Event, Rejection> {
    check_text("the key's name", &grant.name)?;
    if let Some(tenant) = grant.tenant.as_ref().filter(|tenant| !state.tenants.contains_key(*tenant)) {
        return Err(unknown_tenant(tenant));
    }
    grant.check(now)?;
    if state.credentials.get(&grant.id).is_some() {
        return Err(Rejection::KeyExists { id: grant.id.clone() });
    }
    if !state.credentials.has_room(now) {
        return Err(Rejection::KeysFull);
    }
    Ok(Event::KeyCreated(Box::new(grant.clone())))
}

fn register(state: &State, cell: &Cell, it: &Registration, now: Instant) -> Result<Event, Rejection> {
    let account = state.tenants.get(&it.tenant).ok_or_else(|| unknown_tenant(&it.tenant))?;
    if state.instances.find(it.instance.as_str()).is_some() {
        return Err(Rejection::InstanceExists { instance: it.instance.clone() });
    }
    if !(1..=INSTANCE_GPUS_MAX).contains(&it.gpus) {
        return Err(Rejection::GpusOutOfRange { gpus: it.gpus });
    }
    let sku = Sku { platform: it.platform.clone(), region: cell.region.clone(), model: it.model };
    let priced = state.prices.timeline(&it.tenant, account.currency, &sku).priced_from();
    if priced.is_none() {
        return Err(Rejection::Unpriced { sku, currency: account.currency, at: now });
    }
    Ok(Event::InstanceRegistered(it.clone()))
}

fn start(state: &State, cell: &Cell, id: &InstanceId, at: Instant, now: Instant) -> Result<Event, Rejection> {
    let instance = find(state, id)?;
    check_time(cell.policy, at, now)?;
    if let Some(since) = instance.running_since() {
        return Err(Rejection::AlreadyRunning { instance: id.clone(), since });
    }
    if let Some(last) = instance.running.last().filter(|last| last.end() > at) {
        return Err(Rejection::StartsBeforeLastStop { instance: id.clone(), until: last.end(), at });
    }
    let group = state.groups.get(instance.group);
    let priced = group.and_then(|group| group.prices.priced_from()).is_some_and(|from| from <= at);
    match group {
        Some(group) if !priced => {
            Err(Rejection::Unpriced { sku: group.sku.clone(), currency: group.currency, at })
        }
        _ => Ok(Event::InstanceStarted { instance: id.clone(), at }),
    }
}

fn stop(
    state: &State,
    cell: &Cell,
    id: &InstanceId,
    at: Instant,
    cause: &str,
    now: Instant,
) -> Result<Event, Rejection> {
    check_text("the cause", cause)?;
    let instance = find(state, id)?;
    check_time(cell.policy, at, now)?;
    match instance.running_since() {
        None => Err(Rejection::NotRunning { instance: id.clone() }),
        Some(since) if at < since => Err(Rejection::StopsBeforeStart { instance: id.clone(), since, at }),
        Some(_) => Ok(Event::InstanceStopped { instance: id.clone(), at, cause: cause.to_owned() }),
    }
}

fn find<'a>(state: &'a State, id: &InstanceId) -> Result<&'a Instance, Rejection> {
    let found = state.instances.find(id.as_str()).and_then(|ix| state.instances.get(ix));
    found.ok_or_else(|| Rejection::InstanceUnknown { instance: id.clone() })
}

fn unknown_tenant(tenant: &TenantId) -> Rejection {
    Rejection::TenantUnknown { tenant: tenant.clone() }
}

/// The first millisecond that no report can have rated yet: a fast clock reports, and is billed, up
/// to the clock skew ahead of time. Only from there on may a price change.
fn unrated_from(policy: Policy, now: Instant) -> Instant {
    now.saturating_add_ms(policy.clock_skew_max_ms)
}

/// A fact is of the past, give or take the clock skew, and recent enough to be booked.
fn check_time(policy: Policy, at: Instant, now: Instant) -> Result<(), Rejection> {
    // Nothing can run in the last instant: there is no millisecond behind it.
    let last = INSTANT_MAX.saturating_add_ms(-1);
    let latest = now.saturating_add_ms(policy.clock_skew_max_ms).min(last);
    if at > latest {
        return Err(Rejection::InTheFuture { at, latest });
    }
    let earliest = now.saturating_add_ms(policy.acceptance_window_ms.saturating_neg());
    if at < earliest {
        return Err(Rejection::TooOld { at, earliest });
    }
    Ok(())
}

fn check_policy(policy: Policy) -> Result<(), Rejection> {
    const YEAR_MS: i64 = 366 * 86_400_000;
    let within = |ms: i64| (0..=YEAR_MS).contains(&ms);
    if !within(policy.clock_skew_max_ms) || !within(policy.acceptance_window_ms) || !within(policy.grace_ms) {
        return Err(Rejection::PolicyInvalid("each duration must be between 0 and 366 days"));
    }
    if policy.acceptance_window_ms < policy.grace_ms {
        return Err(Rejection::PolicyInvalid("the acceptance window must not be shorter than the grace"));
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str) -> Result<(), Rejection> {
    if text.chars().count() > TEXT_LENGTH_MAX || text.chars().any(char::is_control) {
        return Err(Rejection::TextInvalid { what });
    }
    Ok(())
}

/// Counts the batch's unknown instances only where the room might not do.
fn check_suspense(state: &State, batch: &UsageBatch) -> Result<(), Rejection> {
    let room = SUSPENSE_INSTANCES_MAX.saturating_sub(state.suspense.len());
    if room >= batch.record_count() as usize {
        return Ok(());
    }
    let unknown: std::collections::BTreeSet<&str> = batch
        .records()
        .map(|record| record.instance)
        .filter(|id| state.instances.find(id).is_none() && !state.suspense.contains_key(*id))
        .collect();
    if unknown.len() > room { Err(Rejection::SuspenseFull) } else { Ok(()) }
}

/// Digest of a command's content, by which a repeat is told from another request.
fn digest(command: &Command) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 request");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match command {
        Command::OpenCell { region, policy } => add(&encoded(&("cell", region, policy))),
        Command::OpenTenant { tenant, currency, display_name } => {
            add(&encoded(&("tenant", tenant, currency, display_name)));
        }
        Command::PublishRateCard(draft) => add(&encoded(&("card", draft))),
        Command::SignContract { tenant, contract } => add(&encoded(&("contract", tenant, contract))),
        Command::RegisterInstance(registration) => add(&encoded(&("register", registration))),
        Command::StartInstance { instance, at } => add(&encoded(&("start", instance, at))),
        Command::StopInstance { instance, at, cause } => add(&encoded(&("stop", instance, at, cause))),
        Command::AcceptUsage(batch) => {
            add(b"usage");
            add(batch.raw());
        }
        Command::QuarantineUsage { reason, content_type, original } => {
            add(&encoded(&("quarantine", reason, content_type)));
            add(original);
        }
        Command::Tick => add(b"tick"),
        Command::FinaliseInvoice { tenant, period } => add(&encoded(&("invoice", tenant, period))),
        // The id and the hash are drawn anew for each attempt: they are no part of what was asked for.
        Command::CreateKey(KeyGrant { id: _, hash: _, name, role, tenant, agent, scopes, expires_at }) => {
            add(&encoded(&("create_key", name, role, tenant, agent, scopes, expires_at)));
        }
        Command::RevokeKey { id } => add(&encoded(&("revoke_key", id))),
    }
    first_16(&hasher.finalize())
}

/// JSON, because drafts leave absent fields out and so cannot be told apart by position.
fn encoded(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(content).unwrap_or_default()
}
