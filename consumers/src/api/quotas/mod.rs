//! Quota: limits and use, groups of projects, and what comes of them.

pub(super) mod caps;
pub(super) mod holds;
pub(super) mod leases;
pub(super) mod operation;
pub(super) mod requests;

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaRejection};
use hourglass_ledger::core::{Command, Outcome};
use hourglass_quota::{Class, Key, Limits, NodeName};
use hourglass_units::{GroupId, ProjectId, ResourceName, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::{App, known_tenant};
use super::done::{Done, answered, done};
use super::extract::{Body, Idempotency, Json, Path, Query, given, json, unsupported};
use super::page::{ListPage, PageRequest, invalid};
use super::problem::Problem;
use super::schema;
use super::tenants::PageQuery;
use crate::billing::quotas::{GroupRow, NodeKind, QuotaFilter, QuotaRow, groups, quotas};
use crate::usage::Name;

/// Which limits, and which page of them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct QuotaQuery {
    /// Of the `tenant`, of its `group`s or of its `project`s alone.
    #[param(value_type = Option<String>)]
    kind: Option<NodeKind>,
    /// Of this project alone.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Of this resource alone, such as `compute.instance.gpu.h100`.
    #[param(value_type = Option<String>)]
    resource: Option<ResourceName>,
    /// Rows of a page: 1 to 1,000, 100 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// Limits to set, or to take away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"node": "tenants/acme", "resource": "compute.instance.gpu.h100", "class": "on_demand",
    "limits": {"nominal": 64}}))]
pub(in crate::api) struct LimitsDraft {
    /// `tenants/T`, `tenants/T/groups/G` or `tenants/T/projects/P`, of the tenant of the path.
    #[schema(value_type = String)]
    node: NodeName,
    /// What is counted, such as `compute.instance.gpu.h100`.
    #[schema(value_type = String)]
    resource: ResourceName,
    /// How it is sold: `on_demand`, `preemptible` or `reserved`.
    #[schema(value_type = String)]
    class: Class,
    /// The limits; the node has none of its own any more where `null`.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<schema::Limits>, required = true)]
    limits: Option<Limits>,
}

/// A group of projects to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaGroupDraft, example = json!({"group": "research", "parent": null}))]
pub(in crate::api) struct GroupDraft {
    /// Its id, unique in its tenant.
    #[schema(value_type = String)]
    group: GroupId,
    /// The group that it lies in; directly in its tenant where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    parent: Option<GroupId>,
}

/// Where a project is to lie.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"group": "research"}))]
pub(in crate::api) struct PlaceDraft {
    /// In which group; directly in its tenant where `null`.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, required = true)]
    group: Option<GroupId>,
}

/// Limits and use: every node of the customer with every resource that is limited or taken there. The
/// customer itself comes first, then its groups, then its projects.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/quotas", tag = "quotas", params(("tenant" = String, Path), QuotaQuery),
    responses((status = 200, description = "A page of limits and use.", body = ListPage<QuotaRow>))
)]
pub(in crate::api) async fn list_quotas(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<QuotaQuery>,
) -> Result<axum::Json<ListPage<QuotaRow>>, Problem> {
    let QuotaQuery { kind, project, resource, page_size, page_token } = query;
    let list = format!("quotas {tenant} {kind:?} {project:?} {resource:?}");
    let filter = QuotaFilter { kind, project, resource };
    let page = PageRequest::new(list, page_size, page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let after = after.map(|after| place(after).ok_or_else(invalid)).transpose()?;
        let rows = quotas(state, &tenant, &filter, after.as_ref()).take(limit);
        let named = rows.map(|((node, key), row)| (format!("{node} {} {}", key.resource, key.class), row));
        Ok(named.collect())
    });
    Ok(axum::Json(page.await?))
}

/// The place of a row, as a page token names it.
fn place(text: &str) -> Option<(NodeName, Key)> {
    let mut parts = text.split(' ');
    let (node, resource, class) = (parts.next()?, parts.next()?, parts.next()?);
    Some((node.parse().ok()?, Key { resource: resource.parse().ok()?, class: class.parse().ok()? }))
}

/// Sets limits, or takes them away. What is above a limit that was lowered runs on, and nothing more is
/// granted until it has come down; with `drain` it is stopped.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/quotas:set", tag = "quotas", params(("tenant" = String, Path)),
    request_body = LimitsDraft, responses((status = 200, description = "Set.", body = Done))
)]
pub(in crate::api) async fn set_limits(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<LimitsDraft>,
) -> Result<Response, Problem> {
    let LimitsDraft { node, resource, class, limits } = draft;
    own(&tenant, &node)?;
    let command = QuotaCommand::SetLimits { node, resource, class, limits };
    let outcome = app.submit(command.into(), name).await?;
    Ok(done(&outcome, false, format!("/v1/tenants/{tenant}/quotas")))
}

/// A node of the tenant of the path: another's is as unknown as one that is not there.
fn own(tenant: &TenantId, node: &NodeName) -> Result<(), Problem> {
    if node.tenant() == tenant {
        return Ok(());
    }
    Err(hourglass_ledger::core::Rejection::from(QuotaRejection::NodeUnknown { node: node.clone() }).into())
}

/// Makes a group of projects. A group lies in the customer, or in another group.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/groups", tag = "quotas", params(("tenant" = String, Path)),
    request_body = GroupDraft, responses((status = 201, description = "Made.", body = Done))
)]
pub(in crate::api) async fn create_group(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<GroupDraft>,
) -> Result<Response, Problem> {
    let GroupDraft { group, parent } = draft;
    let resource = format!("/v1/tenants/{tenant}/groups");
    let outcome = app.submit(QuotaCommand::CreateGroup { tenant, group, parent }.into(), name).await?;
    Ok(done(&outcome, true, resource))
}

/// A customer's groups and the projects in them, by id.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/groups", tag = "quotas", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of groups.", body = ListPage<GroupRow>))
)]
pub(in crate::api) async fn list_groups(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<GroupRow>>, Problem> {
    let list = format!("groups {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let rows = groups(state, &tenant).into_iter();
        let rows = rows.filter(|row| after.is_none_or(|after| row.group.as_str() > after)).take(limit);
        Ok(rows.map(|row| (row.group.clone(), row)).collect())
    });
    Ok(axum::Json(page.await?))
}

/// `POST …/projects/{project}:place`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_project(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let Some((id, "place")) = named.rsplit_once(':') else {
        return Err(Problem::not_found("action_unknown", "a project has the action :place"));
    };
    let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    place_project(app, (tenant, id), name, read(&body)?).await
}

/// Puts a project in a group, or directly under its customer, with all that it uses. It is refused where
/// that does not fit there.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/projects/{project}:place", tag = "quotas",
    params(("tenant" = String, Path), ("project" = String, Path)), request_body = PlaceDraft,
    responses((status = 200, description = "Placed.", body = Done))
)]
pub(in crate::api) async fn place_project(
    app: App,
    (tenant, project): (TenantId, ProjectId),
    name: Option<Name>,
    draft: PlaceDraft,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/groups");
    let command = QuotaCommand::PlaceProject { tenant, project, group: draft.group };
    let outcome = app.submit(command.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// The body of an action, in JSON.
pub(in crate::api) fn read<T: serde::de::DeserializeOwned>(body: &Body) -> Result<T, Problem> {
    if body.media_type != "application/json" {
        return Err(unsupported(&body.media_type, "application/json"));
    }
    json(&body.bytes)
}

/// The number and the action of the last segment of a path.
fn numbered<'a>(named: &'a str, actions: &str) -> Result<(u64, &'a str), Problem> {
    let Some((number, action)) = named.rsplit_once(':') else {
        return Err(Problem::not_found("action_unknown", format!("here are the actions {actions}")));
    };
    match number.parse() {
        Ok(number) => Ok((number, action)),
        Err(error) => Err(Problem::bad_request("path_invalid", format!("{number:?} is no number: {error}"))),
    }
}

/// Answers with what the core said of a hold, a lease or a request; in a repeat, with what it said first.
fn said<T: Serialize>(
    outcome: &Outcome,
    made: bool,
    resource: &str,
    body: Option<T>,
) -> Result<Response, Problem> {
    match body {
        Some(body) => Ok(answered(outcome, made, resource, body)),
        None => {
            tracing::error!(?outcome, "the core answered something else than was asked");
            Err(Problem::internal())
        }
    }
}

/// The command, as the cell takes it.
fn command(command: QuotaCommand) -> Command {
    command.into()
}
