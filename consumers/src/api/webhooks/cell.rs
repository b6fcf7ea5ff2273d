//! The operator's webhooks: they are told of every tenant, and of what is nobody's.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::webhooks::WebhookAction;
use hourglass_units::WebhookId;

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
    post, path = "/v1/webhooks", tag = "webhooks", request_body = Draft,
    responses((status = 201, description = "Made.", body = WithSecret))
)]
pub(in crate::api) async fn create_cell_webhook(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    create(&app, None, draft, name).await
}

/// The operator's endpoints, by id.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", params(PageQuery),
    responses((status = 200, description = "A page of webhooks.", body = ListPage<WebhookRow>))
)]
pub(in crate::api) async fn list_cell_webhooks(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<WebhookRow>>, Problem> {
    list(&app, None, query).await
}

/// One endpoint.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 200, description = "The endpoint, without its secret.", body = Answer))
)]
pub(in crate::api) async fn get_cell_webhook(
    State(app): State<App>,
    Path(webhook): Path<WebhookId>,
) -> Result<JsonAnswer<Answer>, Problem> {
    get(&app, None, webhook).await
}

/// Gives an endpoint another form. One that was disabled is told of what happens from then on.
#[utoipa::path(
    put, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    request_body = Form, responses((status = 200, description = "Changed.", body = Done))
)]
pub(in crate::api) async fn update_cell_webhook(
    State(app): State<App>,
    Path(webhook): Path<WebhookId>,
    Idempotency(name): Idempotency,
    Json(form): Json<Form>,
) -> Result<Response, Problem> {
    update(&app, (None, webhook), form, name).await
}

/// Forgets an endpoint, and what is still to be sent to it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 200, description = "Forgotten.", body = Done))
)]
pub(in crate::api) async fn delete_cell_webhook(
    State(app): State<App>,
    Path(webhook): Path<WebhookId>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    act(&app, (None, webhook), WebhookAction::Delete, name).await
}

/// Messages to an endpoint and their attempts, the newest first: as the process that writes remembers them.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = String, Path), PageQuery),
    responses((status = 200, description = "A page of deliveries.", body = ListPage<Delivery>))
)]
pub(in crate::api) async fn list_cell_deliveries(
    State(app): State<App>,
    Path(webhook): Path<WebhookId>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ListPage<Delivery>>, Problem> {
    deliveries(&app, (None, webhook), query).await
}

/// `POST …/{webhook}:rotate-secret` and `:test`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_cell_webhook(
    State(app): State<App>,
    Path(named): Path<String>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let (id, action) = split(&named)?;
    let webhook = webhook_id(id)?;
    match action {
        "rotate-secret" => rotate_cell_secret(app, webhook, name, body).await,
        "test" => test_cell_webhook(app, webhook, name).await,
        _ => Err(no_action()),
    }
}

/// Signs with another secret from now on. The one before signs too for a while; the new one is in this answer and
/// nowhere else.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}:rotate-secret", tag = "webhooks",
    params(("webhook" = String, Path)), request_body(content = Option<Rotation>),
    responses((status = 200, description = "Rotated.", body = WithSecret))
)]
pub(in crate::api) async fn rotate_cell_secret(
    app: App,
    webhook: WebhookId,
    name: Option<crate::usage::Name>,
    body: Body,
) -> Result<Response, Problem> {
    let rotation = if body.bytes.is_empty() { json(b"{}")? } else { json::<Rotation>(&body.bytes)? };
    rotate(&app, (None, webhook), rotation, name).await
}

/// Sends a message that says nothing, of the type `hourglass.webhook.test.v1`.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}:test", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 200, description = "It will be sent.", body = Sent))
)]
pub(in crate::api) async fn test_cell_webhook(
    app: App,
    webhook: WebhookId,
    name: Option<crate::usage::Name>,
) -> Result<Response, Problem> {
    test(&app, (None, webhook), name).await
}

/// `POST …/deliveries/{delivery}:redeliver`.
pub(in crate::api) async fn act_on_cell_delivery(
    State(app): State<App>,
    Path((webhook, named)): Path<(WebhookId, String)>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    match split(&named)? {
        (id, "redeliver") => redeliver_cell_message(app, webhook, id.to_owned(), name).await,
        _ => Err(Problem::not_found("action_unknown", "a delivery has the action :redeliver")),
    }
}

/// Sends a message again, under the same `webhook-id`: any that the log holds, as old as it may be.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/deliveries/{delivery}:redeliver", tag = "webhooks",
    params(("webhook" = String, Path), ("delivery" = String, Path, description = "Its `webhook-id`.")),
    responses((status = 200, description = "It will be sent.", body = Sent))
)]
pub(in crate::api) async fn redeliver_cell_message(
    app: App,
    webhook: WebhookId,
    delivery: String,
    name: Option<crate::usage::Name>,
) -> Result<Response, Problem> {
    redeliver(&app, (None, webhook), &delivery, name).await
}
