//! A tenant's own webhooks.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::webhooks::WebhookAction;
use hourglass_units::{TenantId, WebhookId};

use super::{
    Answer, Draft, Form, Rotation, Sent, WithSecret, act, create, deliveries, get, list, no_action,
    redeliver, rotate, split, test, update, webhook_id,
};
use crate::api::app::App;
use crate::api::done::Done;
use crate::api::extract::{Body, Idempotency, Json, Path, Query, json};
use crate::api::page::ListPage;
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::hooks::{Delivery, WebhookRow};

/// Makes an endpoint. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/webhooks", tag = "webhooks", params(("tenant" = String, Path)),
    request_body = Draft,
    responses((status = 201, description = "Made.", body = WithSecret))
)]
pub(in crate::api) async fn create_webhook(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    create(&app, Some(tenant), draft, name).await
}

/// A customer's endpoints, by id.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/webhooks", tag = "webhooks", params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of webhooks.", body = ListPage<WebhookRow>))
)]
pub(in crate::api) async fn list_webhooks(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<WebhookRow>>, Problem> {
    list(&app, Some(tenant), query).await
}

/// One endpoint.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", params(("tenant" = String, Path), ("webhook" = String, Path)),
    responses((status = 200, description = "The endpoint, without its secret.", body = Answer))
)]
pub(in crate::api) async fn get_webhook(
    State(app): State<App>,
    Path((tenant, webhook)): Path<(TenantId, WebhookId)>,
) -> Result<JsonAnswer<Answer>, Problem> {
    get(&app, Some(tenant), webhook).await
}

/// Gives an endpoint another form. One that was disabled is told of what happens from then on.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", params(("tenant" = String, Path), ("webhook" = String, Path)),
    request_body = Form, responses((status = 200, description = "Changed.", body = Done))
)]
pub(in crate::api) async fn update_webhook(
    State(app): State<App>,
    Path((tenant, webhook)): Path<(TenantId, WebhookId)>,
    Idempotency(name): Idempotency,
    Json(form): Json<Form>,
) -> Result<Response, Problem> {
    update(&app, (Some(tenant), webhook), form, name).await
}

/// Forgets an endpoint, and what is still to be sent to it.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", params(("tenant" = String, Path), ("webhook" = String, Path)),
    responses((status = 200, description = "Forgotten.", body = Done))
)]
pub(in crate::api) async fn delete_webhook(
    State(app): State<App>,
    Path((tenant, webhook)): Path<(TenantId, WebhookId)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    act(&app, (Some(tenant), webhook), WebhookAction::Delete, name).await
}

/// Messages to an endpoint and their attempts, the newest first: as the process that writes remembers them.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("tenant" = String, Path), ("webhook" = String, Path), PageQuery),
    responses((status = 200, description = "A page of deliveries.", body = ListPage<Delivery>))
)]
pub(in crate::api) async fn list_deliveries(
    State(app): State<App>,
    Path((tenant, webhook)): Path<(TenantId, WebhookId)>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<Delivery>>, Problem> {
    deliveries(&app, (Some(tenant), webhook), query).await
}

/// `POST …/{webhook}:rotate-secret` and `:test`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_webhook(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let (id, action) = split(&named)?;
    let webhook = webhook_id(id)?;
    match action {
        "rotate-secret" => rotate_secret(app, tenant, webhook, name, body).await,
        "test" => test_webhook(app, tenant, webhook, name).await,
        _ => Err(no_action()),
    }
}

/// Signs with another secret from now on. The one before signs too for a while; the new one is in this answer and
/// nowhere else.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/webhooks/{webhook}:rotate-secret", tag = "webhooks",
    params(("tenant" = String, Path), ("webhook" = String, Path)), request_body(content = Option<Rotation>),
    responses((status = 200, description = "Rotated.", body = WithSecret))
)]
pub(in crate::api) async fn rotate_secret(
    app: App,
    tenant: TenantId,
    webhook: WebhookId,
    name: Option<crate::usage::Name>,
    body: Body,
) -> Result<Response, Problem> {
    let rotation = if body.bytes.is_empty() { json(b"{}")? } else { json::<Rotation>(&body.bytes)? };
    rotate(&app, (Some(tenant), webhook), rotation, name).await
}

/// Sends a message that says nothing, of the type `hourglass.webhook.test.v1`.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/webhooks/{webhook}:test", tag = "webhooks", params(("tenant" = String, Path), ("webhook" = String, Path)),
    responses((status = 200, description = "It will be sent.", body = Sent))
)]
pub(in crate::api) async fn test_webhook(
    app: App,
    tenant: TenantId,
    webhook: WebhookId,
    name: Option<crate::usage::Name>,
) -> Result<Response, Problem> {
    test(&app, (Some(tenant), webhook), name).await
}

/// `POST …/deliveries/{delivery}:redeliver`.
pub(in crate::api) async fn act_on_delivery(
    State(app): State<App>,
    Path((tenant, webhook, named)): Path<(TenantId, WebhookId, String)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    match split(&named)? {
        (id, "redeliver") => redeliver_message(app, (tenant, webhook), id.to_owned(), name).await,
        _ => Err(Problem::not_found("action_unknown", "a delivery has the action :redeliver")),
    }
}

/// Sends a message again, under the same `webhook-id`: any that the log holds, as old as it may be.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}:redeliver", tag = "webhooks",
    params(("tenant" = String, Path), ("webhook" = String, Path), ("delivery" = String, Path, description = "Its `webhook-id`.")),
    responses((status = 200, description = "It will be sent.", body = Sent))
)]
pub(in crate::api) async fn redeliver_message(
    app: App,
    (tenant, webhook): (TenantId, WebhookId),
    delivery: String,
    name: Option<crate::usage::Name>,
) -> Result<Response, Problem> {
    redeliver(&app, (Some(tenant), webhook), &delivery, name).await
}
