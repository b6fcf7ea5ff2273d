//! Instances and their life cycle, as facts that somebody else reports.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hourglass_ledger::core::quotas::Target;
use hourglass_ledger::core::{Command, InstanceView, Mode, Registration, Rejection, State as Facts};
use hourglass_pricing::PurchaseModel;
use hourglass_quota::HoldId;
use hourglass_units::{
    AgentId, BidId, Fabric, INSTANT_MAX, INSTANT_MIN, InstanceId, Instant, Interval, Platform, Price,
    ProjectId, ReservationId, TenantId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Json, Path, Query, json, unsupported};
use super::labels::shown;
use super::page::{ListPage, PageRequest, invalid};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::quotas::{StopRow, preemption_of};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// What is said of an instance when it is made known.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceDraft {
    /// Its id, unique in the cell.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// For which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// On which platform.
    #[schema(value_type = String)]
    platform: Platform,
    /// How it is sold: `on_demand`, `reserved` or `spot`.
    #[schema(value_type = String)]
    model: PurchaseModel,
    /// Of a reserved instance: out of which reservation.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reservation: Option<ReservationId>,
    /// Of a spot instance: by which bid.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    bid: Option<BidId>,
    /// Of a spot instance: its GPU-hours never cost more, a decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    limit: Option<Price>,
    /// In which fabric. Of a spot instance the pool whose price it pays; of all others the pool that it is
    /// counted in: it comes before spot there, and may have to wait until spot has made way.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    fabric: Option<Fabric>,
    /// GPUs that it holds.
    gpus: u32,
    /// The only agent whose reports count; any agent's do where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    agent: Option<AgentId>,
    /// The hold that was made for it; its quota is taken at once where absent.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    hold: Option<HoldId>,
}

/// The instance runs since then.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartDraft {
    /// RFC 3339, to the millisecond.
    #[schema(value_type = String, format = DateTime)]
    at: Instant,
}

/// The instance runs no longer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StopDraft {
    /// The first millisecond in which it did not run, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    at: Instant,
    /// Why, for the record.
    #[serde(default)]
    cause: String,
}

/// From a time on the instance is sold differently.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModeDraft {
    /// Since when, RFC 3339, after every earlier change.
    #[schema(value_type = String, format = DateTime)]
    at: Instant,
    /// How it is sold from then on: `on_demand`, `reserved` or `spot`.
    #[schema(value_type = String)]
    model: PurchaseModel,
    /// Of a reserved instance: out of which reservation.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reservation: Option<ReservationId>,
    /// Of a spot instance: by which bid.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    bid: Option<BidId>,
    /// Of a spot instance: its GPU-hours never cost more, a decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    limit: Option<Price>,
    /// Of a spot instance: in the pool of which fabric; in that of the whole platform where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    fabric: Option<Fabric>,
}

/// Usage that was reported and is not to count.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VoidDraft {
    /// From when, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    from: Instant,
    /// Until when, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    until: Instant,
    /// Why, for the record.
    #[serde(default)]
    reason: String,
}

/// An instance.
#[derive(Serialize, ToSchema)]
#[schema(as = Instance)]
pub(super) struct View {
    instance: String,
    tenant: String,
    project: String,
    platform: String,
    region: String,
    /// How it is sold.
    model: &'static str,
    /// GPUs that it holds.
    gpus: u32,
    /// The only agent whose reports count.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// In which it is billed, ISO 4217.
    currency: &'static str,
    /// Since when it runs, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    running_since: Option<String>,
    /// Whether it has quota: `held`, or `unheld` where it runs although nobody asked. Absent where it takes
    /// none: it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<&'static str>,
    /// The order to stop it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    preemption: Option<StopRow>,
    /// `true` where it was accepted and has to wait until spot has made way for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    waits: bool,
    /// What its owner calls it.
    labels: BTreeMap<String, String>,
}

/// An instance, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = InstanceAnswer)]
pub(super) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    instance: View,
    /// When it ran.
    running: Vec<Span>,
    /// What was reported of it in good order.
    reported: Vec<Span>,
    /// How it is sold over time, as it was said. A reserved instance that its reservation has no room
    /// for is billed on demand for that time.
    modes: Vec<ModeView>,
    /// What was voided of what was reported.
    voided: Vec<Span>,
}

/// How an instance is sold from a time on.
#[derive(Serialize, ToSchema)]
#[schema(as = Mode)]
pub(super) struct ModeView {
    /// Since when, RFC 3339; since it is known where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    from: Option<String>,
    /// `on_demand`, `reserved` or `spot`.
    model: &'static str,
    /// Out of which reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// By which bid.
    #[serde(skip_serializing_if = "Option::is_none")]
    bid: Option<String>,
    /// Its GPU-hours never cost more, a decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    /// In the pool of which fabric.
    #[serde(skip_serializing_if = "Option::is_none")]
    fabric: Option<String>,
}

fn mode_view((from, mode): (Instant, Mode)) -> ModeView {
    let model = mode.model().as_str();
    let from = (from != INSTANT_MIN).then(|| from.to_string());
    let (reservation, bid, limit, fabric) = match mode {
        Mode::OnDemand => (None, None, None, None),
        Mode::Reserved { reservation } => (Some(reservation), None, None, None),
        Mode::Spot { bid, limit, fabric } => (None, bid, limit, fabric),
    };
    ModeView {
        from,
        model,
        reservation: reservation.map(|it| it.to_string()),
        bid: bid.map(|it| it.to_string()),
        limit: limit.map(|it| it.to_string()),
        fabric: fabric.map(|it| it.to_string()),
    }
}

/// `[start, end)`.
#[derive(Serialize, ToSchema)]
#[schema(as = Interval)]
pub(super) struct Span {
    #[schema(format = DateTime)]
    start: String,
    /// Absent where it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    end: Option<String>,
}

fn view(state: &Facts, it: InstanceView<'_>) -> View {
    View {
        instance: it.id().to_string(),
        tenant: it.tenant().to_string(),
        project: it.project().to_string(),
        platform: it.sku().platform.to_string(),
        region: it.sku().region.to_string(),
        // As it was said: what it is billed as can differ, where a reservation has no room or is over.
        model: it.modes().last().map_or_else(|| it.sku().model, |(_, mode)| mode.model()).as_str(),
        gpus: it.gpus(),
        agent: it.agent().map(ToString::to_string),
        currency: it.currency().code(),
        running_since: it.running_since().map(|since| since.to_string()),
        quota: it.unheld().map(|unheld| if unheld { "unheld" } else { "held" }),
        preemption: preemption_of(state, &Target::Instance(it.id().clone())),
        waits: state.market().waits(state, it.id()),
        labels: shown(it.labels()),
    }
}

fn spans(intervals: &[Interval]) -> Vec<Span> {
    let span = |it: &Interval| Span {
        start: it.start().to_string(),
        end: (it.end() != INSTANT_MAX).then(|| it.end().to_string()),
    };
    intervals.iter().map(span).collect()
}

/// The instance, where it is the tenant's: another's is as unknown as one that is not there.
pub(super) fn of_tenant<'a>(
    state: &'a hourglass_ledger::core::State,
    tenant: &TenantId,
    id: &InstanceId,
) -> Result<InstanceView<'a>, Problem> {
    let found = state.instance(id.as_str()).filter(|it| it.tenant() == tenant);
    found.ok_or_else(|| Rejection::InstanceUnknown { instance: id.clone() }.into())
}

/// The mode that the fields of a draft say together.
fn mode(
    model: PurchaseModel,
    reservation: Option<ReservationId>,
    spot: (Option<BidId>, Option<Price>, Option<Fabric>),
) -> Result<Mode, Problem> {
    match (model, reservation, spot) {
        (PurchaseModel::OnDemand, None, (None, None, None)) => Ok(Mode::OnDemand),
        (PurchaseModel::Reserved, Some(reservation), (None, None, None)) => {
            Ok(Mode::Reserved { reservation })
        }
        (PurchaseModel::Spot, None, (bid, limit, fabric)) => Ok(Mode::Spot { bid, limit, fabric }),
        _ => {
            let detail = "a reserved instance names its reservation, a spot instance may name a bid and a \
                          limit, an on-demand instance names none of them";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "mode_invalid", detail))
        }
    }
}

/// Makes an instance known, so that its usage can be attributed.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/instances", tag = "instances", params(("tenant" = String, Path)),
    request_body = InstanceDraft, responses((status = 201, description = "Known.", body = Done))
)]
pub(super) async fn register_instance(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<InstanceDraft>,
) -> Result<Response, Problem> {
    let InstanceDraft {
        instance,
        project,
        platform,
        model,
        reservation,
        bid,
        limit,
        fabric,
        gpus,
        agent,
        hold,
    } = draft;
    // Of spot it is the pool's, of all others where it runs.
    let (pool, fabric) = if model == PurchaseModel::Spot { (fabric, None) } else { (None, fabric) };
    let mode = mode(model, reservation, (bid, limit, pool))?;
    let resource = format!("/v1/tenants/{tenant}/instances/{instance}");
    let registration = Registration { instance, tenant, project, platform, mode, gpus, agent, hold, fabric };
    let outcome = app.submit(Command::RegisterInstance(registration), name).await?;
    Ok(done(&outcome, true, resource))
}

/// A customer's instances, in the order of their registration.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/instances", tag = "instances",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of instances.", body = ListPage<View>))
)]
pub(super) async fn list_instances(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<View>>, Problem> {
    let list = format!("instances {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let first: usize = match after {
            None => 0,
            Some(after) => after.parse::<usize>().map_err(|_| invalid())?.saturating_add(1),
        };
        let behind = state.instances().enumerate().skip(first).filter(|(_, it)| it.tenant() == &tenant);
        Ok(behind.take(limit).map(|(number, it)| (number.to_string(), view(state, it))).collect())
    });
    Ok(axum::Json(page.await?))
}

/// One instance, with when it ran, what was reported of it and how it is sold.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/instances/{instance}", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)),
    responses((status = 200, description = "The instance.", body = Answer))
)]
pub(super) async fn get_instance(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, InstanceId)>,
) -> Result<axum::Json<Answer>, Problem> {
    let read = app.read(move |state| {
        let it = of_tenant(state, &tenant, &id)?;
        Ok(Answer {
            as_of: AsOf::of(state),
            instance: view(state, it),
            running: spans(it.running()),
            reported: spans(it.reported()),
            modes: it.modes().into_iter().map(mode_view).collect(),
            voided: spans(it.voided()),
        })
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{instance}:start` and the other actions. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_instance(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let Some((id, action)) = named.rsplit_once(':') else {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "an instance is changed by POST to its path with an action such as :start behind it",
        ));
    };
    let id: InstanceId =
        id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    if body.media_type != "application/json" {
        return Err(unsupported(&body.media_type, "application/json"));
    }
    let change = Change { app, tenant, id, name };
    match action {
        "start" => start_instance(change, json(&body.bytes)?).await,
        "stop" => stop_instance(change, json(&body.bytes)?).await,
        "change-mode" => change_mode(change, json(&body.bytes)?).await,
        "void-usage" => void_usage(change, json(&body.bytes)?).await,
        _ => {
            let detail = "an instance has the actions :start, :stop, :change-mode and :void-usage";
            Err(Problem::not_found("action_unknown", detail))
        }
    }
}

/// Which instance to change, and under which name.
pub(super) struct Change {
    app: App,
    tenant: TenantId,
    id: InstanceId,
    name: Option<Name>,
}

impl Change {
    async fn submit(self, command: Command) -> Result<Response, Problem> {
        let Self { app, tenant, id, name } = self;
        let resource = format!("/v1/tenants/{tenant}/instances/{id}");
        // An instance never changes its tenant, so this cannot be overtaken.
        app.read(move |state| of_tenant(state, &tenant, &id).map(|_| ())).await?;
        let outcome = app.submit(command, name).await?;
        Ok(done(&outcome, false, resource))
    }
}

/// The instance runs from a time on.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/instances/{instance}:start", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)), request_body = StartDraft,
    responses((status = 200, description = "Started.", body = Done))
)]
pub(super) async fn start_instance(change: Change, draft: StartDraft) -> Result<Response, Problem> {
    let command = Command::StartInstance { instance: change.id.clone(), at: draft.at };
    change.submit(command).await
}

/// The instance runs no longer.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/instances/{instance}:stop", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)), request_body = StopDraft,
    responses((status = 200, description = "Stopped.", body = Done))
)]
pub(super) async fn stop_instance(change: Change, draft: StopDraft) -> Result<Response, Problem> {
    let command = Command::StopInstance { instance: change.id.clone(), at: draft.at, cause: draft.cause };
    change.submit(command).await
}

/// From a time on the instance is sold differently.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/instances/{instance}:change-mode", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)), request_body = ModeDraft,
    responses((status = 200, description = "Changed.", body = Done))
)]
pub(super) async fn change_mode(change: Change, draft: ModeDraft) -> Result<Response, Problem> {
    let ModeDraft { at, model, reservation, bid, limit, fabric } = draft;
    let mode = mode(model, reservation, (bid, limit, fabric))?;
    let command = Command::ChangeMode { instance: change.id.clone(), mode, at };
    change.submit(command).await
}

/// Excludes what was reported of an instance: the agent was wrong. What was charged for it is taken back,
/// for closed periods as a correction.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/instances/{instance}:void-usage", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)), request_body = VoidDraft,
    responses((status = 200, description = "Voided.", body = Done))
)]
pub(super) async fn void_usage(change: Change, draft: VoidDraft) -> Result<Response, Problem> {
    let VoidDraft { from, until, reason } = draft;
    let command = Command::VoidUsage { instance: change.id.clone(), from, until, reason };
    change.submit(command).await
}
