//! A customer's own API keys: it makes, lists and revokes them itself, of its own tenant and no other.

use std::collections::BTreeSet;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::{Command, Credential, KeyId, Rejection, Role, Scope};
use hourglass_units::{Instant, TenantId};
use serde::Deserialize;
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Caller, Idempotency, Json, Path, Query};
use super::keys::{Answer, Created, View, create, view};
use super::page::{ListPage, PageRequest, invalid};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::auth::KeyDraft;
use crate::billing::report::AsOf;
use crate::usage::Name;

/// A customer's key to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "ci", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00Z"}))]
pub(super) struct TenantKeyDraft {
    /// For people.
    #[serde(default)]
    name: String,
    /// To what it is narrowed: `read`, `write`, `keys`. `read` and `write` where absent.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default)]
    scopes: BTreeSet<Scope>,
    /// The first millisecond in which it does not hold, RFC 3339; within ten years. It does not expire where absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
}

fn is_of(key: &Credential, tenant: &TenantId) -> bool {
    key.grant.role == Role::Customer && key.grant.tenant.as_ref() == Some(tenant)
}

/// Creates a key of the customer. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/keys", tag = "keys", params(("tenant" = String, Path)),
    request_body = TenantKeyDraft, responses((status = 201, description = "Created.", body = Created))
)]
pub(super) async fn create_tenant_key(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Caller(principal): Caller,
    Idempotency(idempotency): Idempotency,
    Json(draft): Json<TenantKeyDraft>,
) -> Result<Response, Problem> {
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let TenantKeyDraft { name, scopes, expires_at } = draft;
    let below = format!("/v1/tenants/{tenant}/keys");
    let (role, tenant, agent) = (Role::Customer, Some(tenant), None);
    let draft = KeyDraft { name, role, tenant, agent, scopes, expires_at };
    create(app, principal, draft, idempotency, &below).await
}

/// The customer's keys, by id; those too that ended, until others take their place.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/keys", tag = "keys", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of keys.", body = ListPage<View>))
)]
pub(super) async fn list_tenant_keys(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<View>>, Problem> {
    let list = format!("keys {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let now = app.cell().now();
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let now = now.max(state.now());
        let after: Option<KeyId> = after.map(str::parse).transpose().map_err(|_| invalid())?;
        let behind = |key: &&Credential| after.as_ref().is_none_or(|after| key.grant.id > *after);
        let own = state.credentials().iter().filter(|key| is_of(key, &tenant)).filter(behind);
        Ok(own.take(limit).map(|key| (key.grant.id.to_string(), view(key, now))).collect())
    });
    Ok(JsonAnswer(page.await?))
}

/// One key of the customer.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/keys/{key}", tag = "keys",
    params(("tenant" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "The key, without its secret.", body = Answer))
)]
pub(super) async fn get_tenant_key(
    State(app): State<App>,
    Path((tenant, id)): Path<(TenantId, KeyId)>,
) -> Result<JsonAnswer<Answer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let key = state.credentials().get(&id).filter(|key| is_of(key, &tenant));
        let key = key.ok_or(Rejection::KeyUnknown { id })?;
        Ok(Answer { as_of: AsOf::of(state), key: view(key, now.max(state.now())) })
    });
    Ok(JsonAnswer(read.await?))
}

/// `POST …/keys/{key}:revoke`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_tenant_key(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    match named.rsplit_once(':') {
        Some((id, "revoke")) => {
            let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
            revoke_tenant_key(app, tenant, id, name).await
        }
        _ => Err(Problem::not_found("action_unknown", "a key has the action :revoke")),
    }
}

/// Takes a key of the customer back, for the next request on and for good.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/keys/{key}:revoke", tag = "keys",
    params(("tenant" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "Revoked.", body = Done))
)]
pub(super) async fn revoke_tenant_key(
    app: App,
    tenant: TenantId,
    id: KeyId,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/keys/{id}");
    let of = id.clone();
    // A key never changes its tenant, so this cannot be overtaken.
    let known = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let key = state.credentials().get(&of).filter(|key| is_of(key, &tenant));
        key.map(|_| ()).ok_or_else(|| Rejection::KeyUnknown { id: of }.into())
    });
    known.await?;
    let outcome = app.submit(Command::RevokeKey { id }, name).await?;
    Ok(done(&outcome, false, resource))
}
