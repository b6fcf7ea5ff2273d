//! Usage: the way in, reports of it, and where every millisecond is.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::Accounting;
use hourglass_ledger::store::ChargeFilter;
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Hour, InstanceId, Instant, Platform, ProjectId, Region, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::{App, known_tenant};
use super::done::as_replayed;
use super::extract::{Body, Caller, Idempotency, Path, Query, unsupported};
use super::problem::{Problem, ProblemDocument};
use crate::billing::report::AsOf;
use crate::billing::usage::{
    Granularity, GroupBy, LabelFilter, UsageQuery, UsageReport, unwritten, usage_report,
};
use crate::usage::{BatchDraft, CloudEventDraft, Format, IngestReport, ingest};

/// Most rows of a usage report.
pub const USAGE_ROWS_MAX: usize = 100_000;
/// Most keys that a usage report keeps apart.
const GROUP_KEYS_MAX: usize = 12;

/// `hourglass.v1.UsageBatch` in protobuf.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it describes a body and is never made")]
pub(super) struct UsageBatchMessage(Vec<u8>);

/// Takes in usage. A message is logged, or kept in quarantine, before it is answered; one that is too
/// large is refused and not kept.
#[utoipa::path(
    post, path = "/v1/usage:ingest", tag = "usage",
    request_body(content(
        (BatchDraft = "application/json"),
        (UsageBatchMessage = "application/x-protobuf"),
        (CloudEventDraft = "application/cloudevents+json"),
        (Vec<CloudEventDraft> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "Logged; records that are not used are named.", body = IngestReport),
        (status = 422, description = "Nothing of it can be used; `quarantine_position` says where it is kept.",
            body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ingest_usage(
    State(app): State<App>,
    Caller(principal): Caller,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let Some(format) = Format::of_media_type(&body.media_type) else {
        let taken = Format::ALL.map(Format::media_type).join(", ");
        return Err(unsupported(&body.media_type, &taken));
    };
    let report = ingest(app.cell(), format, body.bytes, name.as_ref(), principal.ingests()?).await?;
    let replayed = report.replayed;
    let response = axum::Json(report).into_response();
    Ok(if replayed { as_replayed(response) } else { response })
}

/// Which usage to report, and what to keep apart.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReportQuery {
    /// From this whole UTC hour on, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// Before this whole UTC hour, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// How finely to cut time: as `hour`, `day` or `month` in `group_by`, in front of what stands there.
    #[param(inline)]
    granularity: Option<Granularity>,
    /// What to keep apart, with commas: tenant, project, instance, platform, region, model (or mode),
    /// price, hour, day, month, and label:KEY.
    group_by: Option<String>,
    /// On this platform.
    #[param(value_type = Option<String>)]
    platform: Option<Platform>,
    /// In this region.
    #[param(value_type = Option<String>)]
    region: Option<Region>,
    /// Sold so: `on_demand`, `reserved` or `spot`.
    #[param(value_type = Option<String>)]
    model: Option<PurchaseModel>,
    /// With these labels, as `KEY=VALUE` with commas between: all of them.
    labels: Option<String>,
    /// Of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Of this instance.
    #[param(value_type = Option<String>)]
    instance: Option<InstanceId>,
}

/// Charges are kept by the hour: a time within one cannot be asked for.
pub(super) fn whole_hours(
    start: Option<Instant>,
    end: Option<Instant>,
) -> Result<(Option<Hour>, Option<Hour>), Problem> {
    let hour = |name: &str, at: Option<Instant>| match at.map(|at| (at, Hour::containing(at))) {
        Some((at, hour)) if hour.start() != at => Err(Problem::bad_request(
            "time_not_on_the_hour",
            format!("{name} {at} is not a whole UTC hour: charges are kept by the hour"),
        )),
        found => Ok(found.map(|(_, hour)| hour)),
    };
    let (from, until) = (hour("start", start)?, hour("end", end)?);
    if let (Some(start), Some(end)) = (start, end)
        && end <= start
    {
        let detail = format!("the end {end} must come after the start {start}");
        return Err(Problem::bad_request("interval_reversed", detail));
    }
    Ok((from, until))
}

async fn report(
    app: App,
    tenant: Option<TenantId>,
    query: ReportQuery,
) -> Result<axum::Json<UsageReport>, Problem> {
    let (from, until) = whole_hours(query.start, query.end)?;
    let names = query.group_by.as_deref().unwrap_or_default();
    let mut group_by: Vec<GroupBy> = query.granularity.and_then(Granularity::group_by).into_iter().collect();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let key =
            name.parse().map_err(|error| Problem::bad_request("group_by_invalid", format!("{error}")))?;
        if !group_by.contains(&key) {
            group_by.push(key);
        }
    }
    if group_by.len() > GROUP_KEYS_MAX {
        let detail = format!("at most {GROUP_KEYS_MAX} keys can be kept apart at once");
        return Err(Problem::bad_request("group_by_invalid", detail));
    }
    let labels = query.labels.as_deref().unwrap_or_default().split(',').filter(|pair| !pair.is_empty());
    let labels: Result<Vec<LabelFilter>, String> = labels.map(str::parse).collect();
    let labels = labels.map_err(|detail| Problem::bad_request("labels_invalid", detail))?;
    let filter = ChargeFilter {
        tenant: tenant.clone(),
        project: query.project,
        instance: query.instance,
        from,
        until,
    };
    let ReportQuery { platform, region, model, .. } = query;
    let query = UsageQuery { filter, platform, region, model, labels, group_by };
    let cube = app.usage().await?;
    let of_state = query.clone();
    let unwritten = app.read(move |state| {
        tenant.map_or(Ok(()), |tenant| known_tenant(state, &tenant))?;
        Ok(unwritten(state, &of_state))
    });
    let unwritten = unwritten.await?;
    let report = app.store(move |reader| usage_report(reader, cube.as_deref(), unwritten, &query)).await?;
    if report.rows.len() > USAGE_ROWS_MAX {
        let detail =
            format!("the report has more than {USAGE_ROWS_MAX} rows: ask for less time or fewer groups");
        return Err(Problem::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "too_many_rows", detail));
    }
    Ok(axum::Json(report))
}

/// A customer's GPU-hours and what they cost, the open hour included.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/usage", tag = "usage", params(("tenant" = String, Path), ReportQuery),
    responses((status = 200, description = "The report.", body = UsageReport))
)]
pub(super) async fn tenant_usage(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<ReportQuery>,
) -> Result<axum::Json<UsageReport>, Problem> {
    report(app, Some(tenant), query).await
}

/// All GPU-hours and what they cost, the open hour included.
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(ReportQuery),
    responses((status = 200, description = "The report.", body = UsageReport))
)]
pub(super) async fn all_usage(
    State(app): State<App>,
    Query(query): Query<ReportQuery>,
) -> Result<axum::Json<UsageReport>, Problem> {
    report(app, None, query).await
}

/// Where every reported millisecond of the instances is (M-3).
#[derive(Serialize, ToSchema)]
pub(super) struct Metering {
    as_of: AsOf,
    /// Reported, each millisecond of an instance once.
    measured_ms: i64,
    /// Billed.
    billed_ms: i64,
    /// Not billed, by reason.
    excluded_ms: BTreeMap<&'static str, i64>,
    /// Of instances that nobody registered yet; no customer's.
    suspense_ms: i64,
    /// Running by the life cycle and not reported.
    unreported_ms: i64,
    /// Whether measured = billed + excluded + suspense.
    balances: bool,
}

fn metering(as_of: AsOf, accounting: Accounting) -> Metering {
    let balances = accounting.balances();
    let Accounting { measured_ms, billed_ms, excluded_ms, suspense_ms, unreported_ms } = accounting;
    Metering { as_of, measured_ms, billed_ms, excluded_ms, suspense_ms, unreported_ms, balances }
}

/// Where every reported millisecond of a customer's instances is.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/metering", tag = "usage", params(("tenant" = String, Path)),
    responses((status = 200, description = "The account of the milliseconds.", body = Metering))
)]
pub(super) async fn tenant_metering(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
) -> Result<axum::Json<Metering>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let accounting = state.accounting(|instance| instance.tenant() == &tenant, false);
        Ok(metering(AsOf::of(state), accounting))
    });
    Ok(axum::Json(read.await?))
}
