//! Webhooks: who is told what, by whom, and what became of it. The same for a tenant ([`tenant`]) and for
//! the operator, whose endpoints are told of everybody ([`cell`]).

pub(super) mod cell;
pub(super) mod tenant;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json as JsonAnswer;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hourglass_ledger::core::webhooks::{
    EVERY_TYPE, Owner, SECRET_OVERLAP_MS_MAX, WebhookAction, WebhookCommand, WebhookDraft,
};
use hourglass_ledger::core::{Outcome, Rejection};
use hourglass_units::WebhookId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{answered, done};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::report::AsOf;
use crate::hooks::{Delivery, Hooks, MessageKey, Refusal, SealError, WebhookRow, event_types, is_event_type};
use crate::hooks::{webhook as webhook_row, webhooks as webhook_rows};
use crate::usage::Name;

/// How long the secret before a rotation signs too, where nothing is said, in seconds: one day.
const OVERLAP_SECONDS_DEFAULT: u32 = 86_400;

/// An endpoint to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookDraft, example = json!({"webhook": "billing", "url": "https://example.com/hooks/gpu",
    "events": ["hourglass.budget.alert.v1", "hourglass.invoice.finalised.v1"], "description": "to the finance team"}))]
pub(in crate::api) struct Draft {
    /// Its id: 1 to 64 letters, digits, `-`, `_` and `.`.
    #[schema(value_type = String)]
    webhook: WebhookId,
    /// Where messages are sent: https, to a public address, on port 443 or 8443.
    url: String,
    /// The types that it is told of, as AsyncAPI describes them; `*` for all, those to come too.
    #[schema(value_type = Vec<String>)]
    events: BTreeSet<String>,
    /// For people.
    #[serde(default)]
    #[schema(required = false)]
    description: String,
    /// Whether it is told anything.
    #[serde(default = "yes")]
    #[schema(required = false)]
    enabled: bool,
}

/// What an endpoint is to be from now on: all of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookForm, example = json!({"url": "https://example.com/hooks/gpu", "events": ["*"]}))]
pub(in crate::api) struct Form {
    /// Where messages are sent: https, to a public address, on port 443 or 8443.
    url: String,
    /// The types that it is told of, as AsyncAPI describes them; `*` for all, those to come too.
    #[schema(value_type = Vec<String>)]
    events: BTreeSet<String>,
    /// For people.
    #[serde(default)]
    #[schema(required = false)]
    description: String,
    /// Whether it is told anything. Enabled again, it is told of what happens from then on.
    #[serde(default = "yes")]
    #[schema(required = false)]
    enabled: bool,
}

const fn yes() -> bool {
    true
}

/// A rotation of the secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookRotation, example = json!({"overlap_seconds": 86400}))]
pub(in crate::api) struct Rotation {
    /// How long the secret before signs too, so that receivers can change over: 0 to 604,800; a day where absent.
    #[serde(default = "overlap")]
    #[schema(required = false)]
    overlap_seconds: u32,
}

const fn overlap() -> u32 {
    OVERLAP_SECONDS_DEFAULT
}

/// What was made, with its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookSecret)]
pub(in crate::api) struct WithSecret {
    /// Where in the log it stands.
    position: u64,
    /// The path of the endpoint.
    resource: String,
    /// With which messages are signed (`whsec_…`). It is shown here and never again: absent in a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// What to do in a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// A message that will be sent.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookMessage)]
pub(in crate::api) struct Sent {
    /// Where in the log it was asked for.
    position: u64,
    /// Where its delivery can be looked at.
    resource: String,
    /// Its `webhook-id`.
    id: String,
}

/// An endpoint, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookAnswer)]
pub(in crate::api) struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    webhook: WebhookRow,
}

fn path_of(owner: &Owner, webhook: &WebhookId) -> String {
    match owner {
        Some(tenant) => format!("/v1/tenants/{tenant}/webhooks/{webhook}"),
        None => format!("/v1/webhooks/{webhook}"),
    }
}

fn hooks(app: &App) -> Result<&Arc<Hooks>, Problem> {
    let detail = "this process has no key for the secrets of webhooks: see webhooks.key_file";
    app.hooks().ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "webhooks_unavailable", detail))
}

/// Checks what only the API can: which types there are, and where messages may go.
fn checked(app: &App, form: Form) -> Result<WebhookDraft, Problem> {
    let Form { url, events, description, enabled } = form;
    if let Some(unknown) = events.iter().find(|name| !is_event_type(name)) {
        let unknown: String = unknown.chars().take(64).collect();
        let known: Vec<&str> = std::iter::once(EVERY_TYPE).chain(event_types()).collect();
        let detail = format!("there is no type {unknown:?}: use {}", known.join(", "));
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "webhook_invalid", detail));
    }
    hooks(app)?.guard().check(&url)?;
    Ok(WebhookDraft { url, events, description, enabled })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "webhook_url_refused", refusal.to_string())
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        tracing::error!(%error, "no secret of a webhook could be made");
        Self::internal()
    }
}

async fn create(app: &App, owner: Owner, draft: Draft, name: Option<Name>) -> Result<Response, Problem> {
    let Draft { webhook, url, events, description, enabled } = draft;
    let draft = checked(app, Form { url, events, description, enabled })?;
    let (secret, sealed) = hooks(app)?.draw(&owner, &webhook)?;
    let resource = path_of(&owner, &webhook);
    let action = WebhookAction::Create { draft, secret: sealed };
    let outcome = app.submit(WebhookCommand { owner, webhook, action }.into(), name).await?;
    Ok(with_secret(&outcome, true, resource, secret.reveal()))
}

async fn rotate(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    rotation: Rotation,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let overlap_ms = i64::from(rotation.overlap_seconds).saturating_mul(1_000);
    debug_assert!(SECRET_OVERLAP_MS_MAX > i64::from(OVERLAP_SECONDS_DEFAULT));
    let (secret, sealed) = hooks(app)?.draw(&owner, &webhook)?;
    let resource = path_of(&owner, &webhook);
    let action = WebhookAction::Rotate { secret: sealed, overlap_ms };
    let outcome = app.submit(WebhookCommand { owner, webhook, action }.into(), name).await?;
    Ok(with_secret(&outcome, false, resource, secret.reveal()))
}

fn with_secret(outcome: &Outcome, made: bool, resource: String, secret: String) -> Response {
    let replayed = matches!(outcome, Outcome::AlreadyApplied(_));
    let note = "the secret was shown in the first answer only; where that was lost, rotate it";
    let body = WithSecret {
        position: outcome.answer().position.number(),
        resource: resource.clone(),
        secret: (!replayed).then_some(secret),
        note: replayed.then_some(note),
    };
    let mut response = answered(outcome, made, &resource, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn list(
    app: &App,
    owner: Owner,
    query: PageQuery,
) -> Result<JsonAnswer<ListPage<WebhookRow>>, Problem> {
    let list = owner.as_ref().map_or_else(|| "webhooks".to_owned(), |tenant| format!("webhooks {tenant}"));
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let now = app.cell().now();
    let page = page.of_state(app, move |state, after, limit| {
        owner.iter().try_for_each(|tenant| known_tenant(state, tenant))?;
        let rows = webhook_rows(state, &owner, after, now.max(state.now()));
        Ok(rows.take(limit).map(|row| (row.webhook.clone(), row)).collect())
    });
    Ok(JsonAnswer(page.await?))
}

async fn get(app: &App, owner: Owner, webhook: WebhookId) -> Result<JsonAnswer<Answer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| {
        owner.iter().try_for_each(|tenant| known_tenant(state, tenant))?;
        match webhook_row(state, &owner, &webhook, now.max(state.now())) {
            Some(webhook) => Ok(Answer { as_of: AsOf::of(state), webhook }),
            None => Err(Rejection::WebhookUnknown { webhook }.into()),
        }
    });
    Ok(JsonAnswer(read.await?))
}

async fn update(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    form: Form,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let draft = checked(app, form)?;
    act(app, (owner, webhook), WebhookAction::Update { draft }, name).await
}

async fn act(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    action: WebhookAction,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let resource = path_of(&owner, &webhook);
    let outcome = app.submit(WebhookCommand { owner, webhook, action }.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

async fn test(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    name: Option<Name>,
) -> Result<Response, Problem> {
    hooks(app)?;
    let resource = format!("{}/deliveries", path_of(&owner, &webhook));
    let action = WebhookAction::Test;
    let outcome = app.submit(WebhookCommand { owner, webhook, action }.into(), name).await?;
    let position = outcome.answer().position.number();
    let region = app.read(|state| Ok(state.cell().map(|cell| cell.region.to_string()).unwrap_or_default()));
    let id = MessageKey { position, line: 0 }.id(&region.await?);
    Ok(answered(&outcome, false, &resource, Sent { position, resource: resource.clone(), id }))
}

async fn deliveries(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    query: PageQuery,
) -> Result<JsonAnswer<ListPage<Delivery>>, Problem> {
    let list = format!("deliveries {}", path_of(&owner, &webhook));
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let hooks = Arc::clone(hooks(app)?);
    let page = page.of_state(app, move |state, after, limit| {
        owner.iter().try_for_each(|tenant| known_tenant(state, tenant))?;
        if state.webhooks().get(&owner, &webhook).is_none() {
            return Err(Rejection::WebhookUnknown { webhook }.into());
        }
        behind(hooks.deliveries(&owner, &webhook).into_iter(), after, limit)
    });
    Ok(JsonAnswer(page.await?))
}

async fn redeliver(
    app: &App,
    (owner, webhook): (Owner, WebhookId),
    id: &str,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let (of, which) = (owner.clone(), webhook.clone());
    let known = app.read(move |state| {
        of.iter().try_for_each(|tenant| known_tenant(state, tenant))?;
        let known = state.webhooks().get(&of, &which).is_some();
        if known { Ok(()) } else { Err(Rejection::WebhookUnknown { webhook: which }.into()) }
    });
    known.await?;
    // What is another tenant's is answered as what is not there.
    let Some(key) = hooks(app)?.find(app.cell(), &owner, id).await? else {
        let detail = "there is no such message for this webhook: its list of deliveries names them";
        return Err(Problem::not_found("message_unknown", detail));
    };
    let resource = format!("{}/deliveries", path_of(&owner, &webhook));
    let action = WebhookAction::Redeliver { position: key.position, line: key.line };
    let outcome = app.submit(WebhookCommand { owner, webhook, action }.into(), name).await?;
    let position = outcome.answer().position.number();
    Ok(answered(&outcome, false, &resource, Sent { position, resource: resource.clone(), id: id.to_owned() }))
}

/// The id and the action of `{id}:{action}`.
fn split(named: &str) -> Result<(&str, &str), Problem> {
    let unknown = || Problem::not_found("action_unknown", "there is no such action here: see /openapi.json");
    named.rsplit_once(':').ok_or_else(unknown)
}

fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    text.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))
}

fn no_action() -> Problem {
    Problem::not_found("action_unknown", "a webhook has the actions :rotate-secret and :test")
}
