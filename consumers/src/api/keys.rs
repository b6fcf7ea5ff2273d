//! API keys: created once, listed without their secrets, revoked.

use std::collections::BTreeSet;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::{Command, Credential, Detail, KeyId, Outcome, Rejection, Role, Scope};
use hourglass_units::{AgentId, Instant, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, as_replayed, done};
use super::extract::{Caller, Idempotency, Json, Path, Query};
use super::page::{ListPage, PageRequest, invalid};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::auth::{KeyDraft, KeyError, Principal, draw_key};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// A key to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyDraft)]
pub(super) struct Draft {
    /// For people.
    #[serde(default)]
    name: String,
    /// `customer`, `finance`, `trader`, `planner`, `compute`, `operator` or `agent`.
    #[schema(value_type = String)]
    role: Role,
    /// Of which tenant: for the role `customer`, and for no other.
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// Which agent: for the role `agent`, and for no other.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentId>,
    /// To what it is narrowed: `read`, `write`, `ingest`, `metrics`, `keys`. All that the role has where absent.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default)]
    scopes: BTreeSet<Scope>,
    /// The first millisecond in which it does not hold, RFC 3339; within ten years. It does not expire where absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
}

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct View {
    /// The public part of the key.
    id: String,
    /// For people.
    name: String,
    role: &'static str,
    /// Whose data it opens: of a customer's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// For whom it speaks: of an agent's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// What of the role it can be used for.
    scopes: Vec<&'static str>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    /// Whether it holds now.
    active: bool,
}

/// A key, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyAnswer)]
pub(super) struct Answer {
    pub(super) as_of: AsOf,
    #[serde(flatten)]
    pub(super) key: View,
}

/// What was created.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyCreated)]
pub(super) struct Created {
    /// Where in the log it stands.
    position: u64,
    /// The path of the key.
    resource: String,
    /// The public part of the key.
    id: String,
    /// The key with its secret. It is shown here and never again, for nobody keeps it: absent in a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What to do in a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

pub(super) fn view(key: &Credential, now: Instant) -> View {
    let grant = &key.grant;
    View {
        id: grant.id.to_string(),
        name: grant.name.clone(),
        role: grant.role.as_str(),
        tenant: grant.tenant.as_ref().map(ToString::to_string),
        agent: grant.agent.as_ref().map(ToString::to_string),
        scopes: grant.scopes.iter().map(|scope| scope.as_str()).collect(),
        created_at: key.created_at.to_string(),
        expires_at: grant.expires_at.map(|at| at.to_string()),
        revoked_at: key.revoked_at.map(|at| at.to_string()),
        active: key.holds_at(now),
    }
}

/// Nobody passes on what it does not have.
fn check_passed_on(principal: &Principal, scopes: &BTreeSet<Scope>) -> Result<(), Problem> {
    let Some(more) = scopes.difference(principal.scopes()).next() else { return Ok(()) };
    let detail = format!("the new key would have the scope {more}, and this credential does not have it");
    Err(Problem::new(StatusCode::FORBIDDEN, "scope_exceeded", detail))
}

/// Creates a key. Its secret is in this answer and nowhere else: a repeat under the same idempotency
/// key names the key that was created, without its secret. Who lost the answer revokes it and creates
/// another.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", request_body = Draft,
    responses((status = 201, description = "Created.", body = Created))
)]
pub(super) async fn create_key(
    State(app): State<App>,
    Caller(principal): Caller,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let Draft { name: label, role, tenant, agent, scopes, expires_at } = draft;
    let draft = KeyDraft { name: label, role, tenant, agent, scopes, expires_at };
    create(app, principal, draft, name, "/v1/keys").await
}

/// Draws a key and has it written down; `below` is the path of keys that it gets.
pub(super) async fn create(
    app: App,
    principal: Principal,
    draft: KeyDraft,
    name: Option<Name>,
    below: &str,
) -> Result<Response, Problem> {
    let (key, grant) = draw_key(draft)?;
    check_passed_on(&principal, &grant.scopes)?;
    let outcome = app.submit(Command::CreateKey(grant), name).await?;
    let id = match &outcome.answer().detail {
        Detail::Key { id } => id.clone(),
        _ => key.id().clone(),
    };
    let replayed = matches!(outcome, Outcome::AlreadyApplied(_));
    let note =
        "the key was shown in the first answer only; where that was lost, revoke it and create another";
    let created = Created {
        position: outcome.answer().position.number(),
        resource: format!("{below}/{id}"),
        id: id.to_string(),
        key: (!replayed).then(|| key.reveal()),
        note: replayed.then_some(note),
    };
    let location = HeaderValue::from_str(&created.resource).ok();
    let status = if replayed { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = (status, JsonAnswer(created)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    location.map(|location| response.headers_mut().insert(LOCATION, location));
    Ok(if replayed { as_replayed(response) } else { response })
}

/// All keys, by id; those too that ended, until others take their place.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", params(PageQuery),
    responses((status = 200, description = "A page of keys.", body = ListPage<View>))
)]
pub(super) async fn list_keys(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<View>>, Problem> {
    let page = PageRequest::new("keys".to_owned(), query.page_size, query.page_token.as_deref())?;
    let now = app.cell().now();
    let page = page.of_state(&app, move |state, after, limit| {
        let now = now.max(state.now());
        let row = |key: &Credential| (key.grant.id.to_string(), view(key, now));
        Ok(match after {
            None => state.credentials().iter().take(limit).map(row).collect(),
            Some(after) => {
                let after: KeyId = after.parse().map_err(|_| invalid())?;
                state.credentials().after(&after).take(limit).map(row).collect()
            }
        })
    });
    Ok(JsonAnswer(page.await?))
}

/// One key.
#[utoipa::path(
    get, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, description = "The key, without its secret.", body = Answer))
)]
pub(super) async fn get_key(
    State(app): State<App>,
    Path(id): Path<KeyId>,
) -> Result<JsonAnswer<Answer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| match state.credentials().get(&id) {
        Some(key) => Ok(Answer { as_of: AsOf::of(state), key: view(key, now.max(state.now())) }),
        None => Err(Rejection::KeyUnknown { id }.into()),
    });
    Ok(JsonAnswer(read.await?))
}

/// `POST /v1/keys/{key}:revoke`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_key(
    State(app): State<App>,
    Path(named): Path<String>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    match named.rsplit_once(':') {
        Some((id, "revoke")) => {
            let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
            revoke_key(app, id, name).await
        }
        _ => Err(Problem::not_found("action_unknown", "a key has the action :revoke")),
    }
}

/// Takes a key back, for the next request on and for good.
#[utoipa::path(
    post, path = "/v1/keys/{key}:revoke", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, description = "Revoked.", body = Done))
)]
pub(super) async fn revoke_key(app: App, id: KeyId, name: Option<Name>) -> Result<Response, Problem> {
    let resource = format!("/v1/keys/{id}");
    let outcome = app.submit(Command::RevokeKey { id }, name).await?;
    Ok(done(&outcome, false, resource))
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let detail = error.to_string();
        match error {
            KeyError::Scope { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key_grant_invalid", detail)
            }
            KeyError::Malformed | KeyError::Checksum => Self::bad_request("key_malformed", detail),
            KeyError::Random(_) => {
                tracing::error!(error = detail, "no key could be drawn");
                Self::internal()
            }
        }
    }
}
