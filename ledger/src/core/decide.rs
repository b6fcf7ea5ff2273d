//! Decisions: every check there is, before anything is written.
//!
//! The order of precedence is the order of the variants of [`Rejection`]: first the idempotency key,
//! so that a repeat finds its first answer, then the cell, then the content from the outside in.

use hourglass_pricing::calendar::Calendar;
use hourglass_pricing::reservation::{Reservation, ReservationDraft};
use hourglass_pricing::{
    Contract, ContractDraft, PurchaseModel, RateCard, Rerating, Sku, SpotPool, check_periods,
};
use hourglass_units::{
    Amount, Currency, Hour, INSTANT_MAX, INSTANT_MIN, InstanceId, Instant, Interval, Platform, ReservationId,
    TenantId,
};
use serde::Serialize;

use super::command::{
    Answer, Command, IdempotencyKey, Mode, Position, QUARANTINE_BYTES_MAX, Registration, RerateDraft,
    SUSPENSE_INSTANCES_MAX, TEXT_LENGTH_MAX, first_16,
};
use super::credentials::KeyGrant;
use super::credits::{self, CreditDraft, Grant};
use super::event::{Event, Policy, Recorded};
use super::invoicing;
use super::market;
use super::metering::Instance;
use super::modes::MODE_CHANGES_MAX;
use super::periods;
use super::quotas;
use super::rejection::Rejection;
use super::rerating;
use super::state::{Cell, FinalisedInvoice, InstanceView, InvoiceStatus, State, Tenant};
use super::usage::{INSTANCE_GPUS_MAX, UsageBatch};
use super::webhooks;

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
        (Some(_), Command::Quota(command)) => match quotas::decide(state, command, request.now)? {
            quotas::Decided::Happens(event) => Event::Quota(event),
            quotas::Decided::Already(answer) => return Ok(Decision::AlreadyApplied(answer)),
        },
        (Some(cell), Command::Market(command)) => {
            Event::Market(market::decide(state, cell, command, request.now)?)
        }
        (Some(_), Command::Webhook(command)) => {
            Event::Webhook(Box::new(webhooks::decide(state, command, request.now)?))
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
        Command::OpenCell { .. } | Command::Quota(_) | Command::Market(_) | Command::Webhook(_) => {
            return Err(Rejection::CellAlreadyOpen { region: cell.region.clone() });
        }
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
        Command::SignContract { tenant, contract } => sign(state, cell, tenant, contract, now)?,
        Command::RegisterInstance(registration) => register(state, cell, registration, now)?,
        Command::StartInstance { instance, at } => start(state, cell, instance, *at, now)?,
        Command::StopInstance { instance, at, cause } => stop(state, cell, instance, *at, cause, now)?,
        Command::LabelInstance { instance, labels } => {
            find(state, instance)?;
            Event::InstanceLabelled { instance: instance.clone(), labels: labels.clone() }
        }
        Command::ChangeMode { instance, mode, at } => change_mode(state, cell, instance, mode, *at, now)?,
        Command::Reserve { tenant, reservation } => reserve(state, cell, tenant, reservation, now)?,
        Command::AmendReservation { tenant, reservation, until } => {
            amend(state, cell, tenant, reservation, *until, now)?
        }
        Command::SetSpotPrice { platform, currency, price, fabric, from } => {
            let (from, sku) = (from.unwrap_or(now), sku(cell, platform, PurchaseModel::Spot));
            let pool = SpotPool { currency: *currency, sku, fabric: fabric.clone() };
            state.prices.check_spot(&pool, from, *price, now)?;
            let (platform, currency, fabric) = (platform.clone(), pool.currency, pool.fabric);
            Event::SpotPriceSet { platform, currency, price: *price, fabric, from }
        }
        Command::VoidUsage { instance, from, until, reason } => {
            void_usage(state, instance, (*from, *until), reason)?
        }
        Command::GrantCredit { tenant, credit } => grant_credit(state, tenant, credit, now)?,
        Command::SetTax { tenant, tax } => {
            find_tenant(state, tenant)?;
            tax.as_ref().map_or(Ok(()), hourglass_pricing::tax::Tax::check)?;
            Event::TaxSet { tenant: tenant.clone(), tax: tax.clone() }
        }
        Command::Rerate(draft) => Event::PricesRerated(Box::new(check_rerating(state, draft, now)?)),
        Command::RecordPayment { tenant, number, amount, reference } => {
            check_text("the reference", reference)?;
            pay(state, tenant, *number, *amount, reference)?
        }
        Command::VoidInvoice { tenant, number, reason } => {
            check_text("the reason", reason)?;
            let (_, invoice) = find_invoice(state, tenant, *number)?;
            if !invoice.paid.is_zero() {
                let (tenant, number, paid) = (tenant.clone(), *number, invoice.paid);
                return Err(Rejection::InvoicePaid { tenant, number, paid });
            }
            Event::InvoiceVoided { tenant: tenant.clone(), number: *number, reason: reason.clone() }
        }
        Command::IssueCreditNote { tenant } => {
            let note = invoicing::plan_credit_note(state, tenant, now, &request.chain_hash)?;
            Event::InvoiceFinalised(Box::new(note))
        }
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
        Command::ClosePeriod { month } => Event::PeriodClosed(periods::plan(state, *month, now)?),
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

fn sign(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    draft: &ContractDraft,
    now: Instant,
) -> Result<Event, Rejection> {
    let account = find_tenant(state, tenant)?;
    let contract = Contract::check(tenant.clone(), draft.clone())?;
    // Before the first instance of the tenant nothing can have been rated.
    let has_instances = state.groups.has_any(tenant);
    let earliest = if has_instances { unrated_from(cell.policy, now) } else { INSTANT_MIN };
    state.prices.check_contract(&contract, account.currency, earliest)?;
    let calendar = match &contract.terms().billing {
        None => None,
        Some(_) if has_instances => return Err(Rejection::CalendarFixed { tenant: tenant.clone() }),
        Some(billing) => Some(Calendar::compute(billing, contract.effective().start())?),
    };
    check_periods(&contract, calendar.as_ref().unwrap_or_else(|| state.calendars.of(tenant)))?;
    Ok(Event::ContractSigned { contract: Box::new(contract), calendar })
}

fn register(state: &State, cell: &Cell, it: &Registration, now: Instant) -> Result<Event, Rejection> {
    let account = find_tenant(state, &it.tenant)?;
    if state.instances.find(it.instance.as_str()).is_some() {
        return Err(Rejection::InstanceExists { instance: it.instance.clone() });
    }
    if !(1..=INSTANCE_GPUS_MAX).contains(&it.gpus) {
        return Err(Rejection::GpusOutOfRange { gpus: it.gpus });
    }
    check_mode(state, &it.tenant, &it.platform, &it.mode)?;
    priced_from(state, cell, &it.tenant, account.currency, &it.platform, &it.mode, now)?;
    market::check_not_suspended(state, &it.tenant)?;
    quotas::admit_instance(state, it, now)?;
    market::check_seat(state, cell, it, now)?;
    Ok(Event::InstanceRegistered(it.clone()))
}

/// Since when what is sold so has a price: the one that holds where a reservation has no room.
fn priced_from(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    currency: Currency,
    platform: &Platform,
    mode: &Mode,
    at: Instant,
) -> Result<Instant, Rejection> {
    let model = match mode {
        Mode::Spot { .. } => PurchaseModel::Spot,
        Mode::OnDemand | Mode::Reserved { .. } => PurchaseModel::OnDemand,
    };
    let sku = sku(cell, platform, model);
    let priced = state.prices.timeline(tenant, currency, &sku).priced_from();
    priced.ok_or(Rejection::Unpriced { sku, currency, at })
}

/// A reservation must be the tenant's own, and for the platform.
fn check_mode(state: &State, tenant: &TenantId, platform: &Platform, mode: &Mode) -> Result<(), Rejection> {
    let Mode::Reserved { reservation } = mode else { return Ok(()) };
    let draft = find_reservation(state, tenant, reservation)?.reservation.draft();
    if draft.platform != *platform {
        let (reservation, platform) = (reservation.clone(), draft.platform.clone());
        return Err(Rejection::ReservationElsewhere { reservation, platform });
    }
    Ok(())
}

fn change_mode(
    state: &State,
    cell: &Cell,
    id: &InstanceId,
    mode: &Mode,
    at: Instant,
    now: Instant,
) -> Result<Event, Rejection> {
    find(state, id)?;
    let unknown = || Rejection::InstanceUnknown { instance: id.clone() };
    let view = state.instance(id.as_str()).ok_or_else(unknown)?;
    check_mode(state, view.tenant(), &view.sku().platform, mode)?;
    check_time(cell.policy, at, now)?;
    market::check_not_a_unit(state, id)?;
    check_mode_order(view, at)?;
    let (tenant, currency) = (view.tenant(), view.currency());
    let priced = priced_from(state, cell, tenant, currency, &view.sku().platform, mode, at)?;
    if priced > at {
        let model =
            if matches!(mode, Mode::Spot { .. }) { PurchaseModel::Spot } else { PurchaseModel::OnDemand };
        return Err(Rejection::Unpriced { sku: sku(cell, &view.sku().platform, model), currency, at });
    }
    if let Some(ix) = state.instances.find(id.as_str()) {
        market::check_place(state, ix, mode, now)?;
        quotas::admit_mode(state, ix, mode, now)?;
    }
    Ok(Event::ModeChanged { instance: id.clone(), mode: mode.clone(), at })
}

/// Modes follow one another, and are not without number.
pub(super) fn check_mode_order(view: InstanceView<'_>, at: Instant) -> Result<(), Rejection> {
    let (instance, modes) = (view.id(), view.modes());
    if let Some((last, _)) = modes.last().filter(|(last, _)| *last >= at) {
        return Err(Rejection::ModeChangeOutOfOrder { instance: instance.clone(), at, last: *last });
    }
    if modes.len() >= MODE_CHANGES_MAX {
        return Err(Rejection::ModeChangesFull { instance: instance.clone() });
    }
    Ok(())
}

fn reserve(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    draft: &ReservationDraft,
    now: Instant,
) -> Result<Event, Rejection> {
    find_tenant(state, tenant)?;
    let reservation = Reservation::check(draft.clone())?;
    if state.reservations.find(&draft.reservation).is_some() {
        return Err(Rejection::ReservationExists { reservation: draft.reservation.clone() });
    }
    check_future(&draft.reservation, draft.from, now)?;
    market::check_reservation(state, cell, tenant, &reservation, now)?;
    Ok(Event::ReservationMade { tenant: tenant.clone(), reservation: Box::new(reservation) })
}

fn amend(
    state: &State,
    cell: &Cell,
    tenant: &TenantId,
    id: &ReservationId,
    until: Instant,
    now: Instant,
) -> Result<Event, Rejection> {
    let held = find_reservation(state, tenant, id)?;
    // Neither what ended may begin to run again, nor may hours that have passed change.
    for at in [held.reservation.interval().end(), until] {
        check_future(id, at, now)?;
    }
    let amended = held.reservation.amended(until)?;
    market::check_reservation(state, cell, tenant, &amended, now)?;
    Ok(Event::ReservationAmended { reservation: id.clone(), until })
}

/// Reservations begin and end with full hours; the hour that runs may still be chosen.
fn check_future(id: &ReservationId, at: Instant, now: Instant) -> Result<(), Rejection> {
    let earliest = Hour::containing(now).start();
    if at < earliest {
        return Err(Rejection::ReservationInThePast { reservation: id.clone(), at, earliest });
    }
    Ok(())
}

fn void_usage(
    state: &State,
    id: &InstanceId,
    (from, until): (Instant, Instant),
    reason: &str,
) -> Result<Event, Rejection> {
    check_text("the reason", reason)?;
    let instance = find(state, id)?;
    let interval = Interval::between(from, until).ok_or(Rejection::IntervalReversed { from, until })?;
    if instance.billed().within(interval).next().is_none() {
        return Err(Rejection::NothingToVoid { instance: id.clone(), interval });
    }
    Ok(Event::UsageVoided { instance: id.clone(), interval, reason: reason.to_owned() })
}

fn grant_credit(state: &State, id: &TenantId, draft: &CreditDraft, now: Instant) -> Result<Event, Rejection> {
    check_text("the note", &draft.note)?;
    let tenant = find_tenant(state, id)?;
    let valid = credits::check(id, &tenant.credits, draft, state.closed_end(id), now)?;
    let CreditDraft { credit, kind, amount, priority, project, platform, note, .. } = draft.clone();
    let credit = Grant {
        credit,
        kind,
        amount,
        priority,
        valid,
        project,
        platform,
        note,
        position: Position::ZERO,
        drawn: Amount::ZERO,
        expired: Amount::ZERO,
        closed: false,
    };
    Ok(Event::CreditGranted { tenant: id.clone(), credit: Box::new(credit) })
}

/// Checks a re-rating, as for a commit.
pub(super) fn check_rerating(
    state: &State,
    draft: &RerateDraft,
    now: Instant,
) -> Result<Rerating, Rejection> {
    let rerating = rerating_of(state, draft, now)?;
    let repriced = rerating::repriced(state, &rerating);
    match rerating::closed_period(state, &repriced, rerating.interval) {
        Some((tenant, period)) if !draft.into_closed => Err(Rejection::RerateIntoClosed { tenant, period }),
        _ => Ok(rerating),
    }
}

/// Checks a re-rating, as for a preview: closed periods may be looked at.
pub(super) fn rerating_of(state: &State, draft: &RerateDraft, now: Instant) -> Result<Rerating, Rejection> {
    let RerateDraft { card, from, until, tenant, into_closed: _ } = draft.clone();
    let interval = Interval::between(from, until).ok_or(Rejection::IntervalReversed { from, until })?;
    let card = RateCard::check(card)?;
    let currency = match &tenant {
        Some(tenant) => find_tenant(state, tenant)?.currency,
        None => card.currency(),
    };
    let rerating = Rerating { card, interval, tenant };
    state.prices.check_rerating(&rerating, currency, now)?;
    Ok(rerating)
}

fn pay(
    state: &State,
    id: &TenantId,
    number: u64,
    amount: Amount,
    reference: &str,
) -> Result<Event, Rejection> {
    let (tenant, invoice) = find_invoice(state, id, number)?;
    let open = invoice.open();
    let whole = amount.floor_to_minor(tenant.currency).1 == 0;
    // What is owed to the tenant is paid back: its sign is that of what is open.
    let fits = if open < Amount::ZERO { (open..Amount::ZERO).contains(&amount) } else { amount <= open };
    let is_payment = !amount.is_zero() && (amount > Amount::ZERO) == (open > Amount::ZERO);
    if !fits || !is_payment || !whole {
        return Err(Rejection::PaymentDoesNotFit { tenant: id.clone(), number, amount, open });
    }
    Ok(Event::PaymentRecorded { tenant: id.clone(), number, amount, reference: reference.to_owned() })
}

/// An invoice that holds.
fn find_invoice<'a>(
    state: &'a State,
    id: &TenantId,
    number: u64,
) -> Result<(&'a Tenant, &'a FinalisedInvoice), Rejection> {
    let tenant = find_tenant(state, id)?;
    let unknown = || Rejection::InvoiceUnknown { tenant: id.clone(), number };
    let invoice = tenant.invoices.get(&number).ok_or_else(unknown)?;
    if invoice.status == InvoiceStatus::Void {
        return Err(Rejection::InvoiceVoid { tenant: id.clone(), number });
    }
    Ok((tenant, invoice))
}

pub(super) fn find_tenant<'a>(state: &'a State, tenant: &TenantId) -> Result<&'a Tenant, Rejection> {
    state.tenants.get(tenant).ok_or_else(|| unknown_tenant(tenant))
}

fn find_reservation<'a>(
    state: &'a State,
    tenant: &TenantId,
    id: &ReservationId,
) -> Result<&'a super::reservations::Held, Rejection> {
    find_tenant(state, tenant)?;
    let held = state.reservations.find(id).map(|(_, held)| held).filter(|held| held.tenant == *tenant);
    held.ok_or_else(|| Rejection::ReservationUnknown { tenant: tenant.clone(), reservation: id.clone() })
}

fn sku(cell: &Cell, platform: &Platform, model: PurchaseModel) -> Sku {
    Sku { platform: platform.clone(), region: cell.region.clone(), model }
}

fn start(state: &State, cell: &Cell, id: &InstanceId, at: Instant, now: Instant) -> Result<Event, Rejection> {
    let instance = find(state, id)?;
    market::check_not_driven(state, id)?;
    check_time(cell.policy, at, now)?;
    if let Some(since) = instance.running_since() {
        return Err(Rejection::AlreadyRunning { instance: id.clone(), since });
    }
    if let Some(last) = instance.running.last().filter(|last| last.end() > at) {
        return Err(Rejection::StartsBeforeLastStop { instance: id.clone(), until: last.end(), at });
    }
    // At the start it is in one of its modes; all of them have a price from some time on.
    let step = instance.modes.at(at).map(|(step, _)| step);
    let tariff = step.and_then(|step| state.rates().tariff(step));
    let group = step.and_then(|step| state.groups.get(step.group));
    let window = Interval::between(at, at.saturating_add_ms(1));
    let priced = window.and_then(|window| tariff?.pieces(window).next()).is_some();
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
    market::check_not_driven(state, id)?;
    check_time(cell.policy, at, now)?;
    // What was accepted and never ran holds quota all the same.
    let since = instance.running_since().or_else(|| instance.holding.map(|holding| holding.since));
    match since {
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

pub(super) fn check_text(what: &'static str, text: &str) -> Result<(), Rejection> {
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
        Command::LabelInstance { instance, labels } => add(&encoded(&("label", instance, labels))),
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
        Command::SetSpotPrice { platform, currency, price, fabric, from } => {
            add(&encoded(&("spot_price", platform, currency, price, fabric, from)));
        }
        Command::ChangeMode { instance, mode, at } => add(&encoded(&("mode", instance, mode, at))),
        Command::Reserve { tenant, reservation } => add(&encoded(&("reserve", tenant, reservation))),
        Command::AmendReservation { tenant, reservation, until } => {
            add(&encoded(&("amend_reservation", tenant, reservation, until)));
        }
        Command::GrantCredit { tenant, credit } => add(&encoded(&("credit", tenant, credit))),
        Command::SetTax { tenant, tax } => add(&encoded(&("tax", tenant, tax))),
        Command::RecordPayment { tenant, number, amount, reference } => {
            add(&encoded(&("payment", tenant, number, amount, reference)));
        }
        Command::VoidInvoice { tenant, number, reason } => {
            add(&encoded(&("void_invoice", tenant, number, reason)));
        }
        Command::IssueCreditNote { tenant } => add(&encoded(&("credit_note", tenant))),
        Command::VoidUsage { instance, from, until, reason } => {
            add(&encoded(&("void_usage", instance, from, until, reason)));
        }
        Command::Rerate(draft) => add(&encoded(&("rerate", draft))),
        Command::ClosePeriod { month } => add(&encoded(&("close_period", month))),
        // The id and the hash are drawn anew for each attempt: they are no part of what was asked for.
        Command::CreateKey(KeyGrant { id: _, hash: _, name, role, tenant, agent, scopes, expires_at }) => {
            add(&encoded(&("create_key", name, role, tenant, agent, scopes, expires_at)));
        }
        Command::RevokeKey { id } => add(&encoded(&("revoke_key", id))),
        Command::Quota(command) => add(&encoded(command)),
        Command::Market(command) => add(&encoded(command)),
        Command::Webhook(command) => add(&encoded(&("webhook", command))),
    }
    first_16(&hasher.finalize())
}

/// JSON, because drafts leave absent fields out and so cannot be told apart by position.
fn encoded(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(content).unwrap_or_default()
}
