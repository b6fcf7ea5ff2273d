//! HTTP: the resources of the cell, as `/openapi.json` describes them.
//!
//! A request passes, from the outside in: the observer (names it, writes errors down, counts it), the
//! guard (who may come in and what for, how many at once, how long), and its handler, which reads the state or the
//! store or submits one command. Limits are named constants: [`BODY_BYTES_MAX`],
//! [`LISTING_BYTES_MAX`], [`REQUESTS_MAX`], [`REQUEST_TIMEOUT`], [`USAGE_ROWS_MAX`], [`RERATE_LINES_MAX`] and the
//! ledger's own.
//!
//! * Every mutation takes an `Idempotency-Key`. A repeat answers 200 with `Idempotent-Replayed: true`
//!   and the first answer; the same key with other content is a conflict.
//! * An answer to a GET in JSON has an `ETag`; under `If-None-Match` the same again is 304, without a body.
//! * Every error is `application/problem+json` (RFC 9457) with a stable `code`, `retryable` and
//!   `request_id`; the id is in `X-Request-Id` of every answer too.
//! * A principal that is not the cloud's own may send [`RATE_PER_SECOND`] requests, [`RATE_BURST`] at once;
//!   then it is answered 429 with `Retry-After`. The fields `RateLimit` and `RateLimit-Policy` say what is left.
//! * Where the operator makes prices public, they may be read without a credential, and nothing else: from one
//!   address [`PUBLIC_RATE_PER_SECOND`] requests, [`PUBLIC_RATE_BURST`] at once.
//! * Who does not read its answer for [`WRITE_STALL_MAX`] is hung up on.
//! * Unknown query parameters and unknown fields are refused, so that a misspelt filter cannot pass
//!   for none.
//! * Every path but the probes and the documentation needs a credential ([`crate::auth`]) whose role
//!   has the permission that `access` names for the route. Where neither an operator token nor an
//!   issuer is configured, who gives none is the operator; then only requests to this machine's own
//!   name are answered, so that a web page cannot reach the cell through its reader's browser.

mod access;
mod app;
mod budgets;
mod capacity;
mod credits;
mod document;
mod done;
mod estimates;
mod etag;
mod explain;
mod extract;
mod guard;
mod health;
mod instances;
mod invoices;
mod keys;
mod labels;
mod ledger;
mod listen;
mod market;
mod metrics;
mod observe;
pub(crate) mod page;
mod prices;
mod problem;
mod quarantine;
mod quotas;
mod rate;
mod reports;
mod rerates;
mod reservations;
pub(crate) mod schema;
mod spend;
mod spot;
mod tenant_keys;
mod tenants;
#[cfg(test)]
mod tests;
mod timeline;
mod usage;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Response;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use hourglass_ledger::cell::CellHandle;
use hourglass_ledger::core::usage::BATCH_BYTES_MAX;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use app::App;
use listen::{Patient, Peer};
use problem::Problem;

use crate::auth::Oidc;
use crate::hooks::Hooks;
use crate::prices::PriceHub;

pub use done::IDEMPOTENT_REPLAYED;
pub use etag::ETAG_BYTES_MAX;
pub use extract::IDEMPOTENCY_KEY;
pub use guard::{REQUEST_TIMEOUT, REQUESTS_MAX};
pub use listen::WRITE_STALL_MAX;
pub use metrics::{Exposer, Exposition};
pub use observe::REQUEST_ID;
pub use problem::PROBLEM_MEDIA_TYPE;
pub use quotas::operation::LISTING_BYTES_MAX;
pub use rate::{PUBLIC_RATE_BURST, PUBLIC_RATE_PER_SECOND, RATE_BURST, RATE_PER_SECOND};
pub use rerates::RERATE_LINES_MAX;
pub use usage::USAGE_ROWS_MAX;

/// Most bytes of a body: the largest batch, and room for what surrounds it.
pub const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + (64 << 10);

/// How the cell is served.
#[derive(Clone, Default)]
pub struct ApiConfig {
    /// Who knows it is the operator. Without one, and without an issuer, only loopback is served.
    pub operator_token: Option<String>,
    /// Writes the metrics of what runs beside the cell.
    pub exposers: Vec<Arc<Exposer>>,
    /// Whose JWTs are taken.
    pub oidc: Option<Oidc>,
    /// What webhooks need; without it none can be made.
    pub webhooks: Option<Arc<Hooks>>,
    /// What streams of prices go down; one for all servers of a process.
    pub prices: PriceHub,
    /// Whether prices may be read without a credential.
    pub public_prices: bool,
}

impl std::fmt::Debug for ApiConfig {
    /// The token is not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiConfig")
            .field("operator_token", &self.operator_token.as_ref().map(|_| "…"))
            .field("oidc", &self.oidc)
            .field("webhooks", &self.webhooks)
            .field("prices", &self.prices)
            .field("public_prices", &self.public_prices)
            .finish()
    }
}

/// Every route of a cell.
pub fn router(cell: CellHandle, config: ApiConfig) -> Router {
    routes_of(App::new(cell, config))
}

fn routes_of(app: App) -> Router {
    let (routes, document) = described().split_for_parts();
    let routes = routes.route("/", get(|| async { Redirect::temporary("/docs/") }));
    // Actions such as `{instance}:start`: they are described by hand in `document`.
    let routes = routes.route("/v1/tenants/{tenant}", post(tenants::act_on_tenant));
    let act = post(instances::act_on_instance);
    let routes = routes.route("/v1/tenants/{tenant}/instances/{instance}", act);
    let act = post(reservations::act_on_reservation);
    let routes = routes.route("/v1/tenants/{tenant}/reservations/{reservation}", act);
    let act = post(invoices::life::act_on_invoice);
    let routes = routes.route("/v1/tenants/{tenant}/invoices/{number}", act);
    let routes = routes.route("/v1/periods/{period}", post(reports::act_on_period));
    let routes = routes.route("/v1/keys/{key}", post(keys::act_on_key));
    let routes = routes.route("/v1/tenants/{tenant}/keys/{key}", post(tenant_keys::act_on_tenant_key));
    let routes = routes.route("/v1/quarantine/{position}", post(quarantine::act_on_quarantine));
    let act = post(quotas::act_on_project);
    let routes = routes.route("/v1/tenants/{tenant}/projects/{project}", act);
    let act = post(quotas::holds::act_on_hold);
    let routes = routes.route("/v1/tenants/{tenant}/holds/{hold}", act);
    let act = post(quotas::leases::act_on_lease);
    let routes = routes.route("/v1/tenants/{tenant}/leases/{lease}", act);
    let act = post(quotas::requests::act_on_request);
    let routes = routes.route("/v1/tenants/{tenant}/quota-requests/{request}", act);
    let act = post(market::bids::act_on_bid);
    let routes = routes.route("/v1/tenants/{tenant}/bids/{bid}", act);
    let act = post(webhooks::tenant::act_on_webhook);
    let routes = routes.route("/v1/tenants/{tenant}/webhooks/{webhook}", act);
    let act = post(webhooks::tenant::act_on_delivery);
    let routes = routes.route("/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}", act);
    let routes = routes.route("/v1/webhooks/{webhook}", post(webhooks::cell::act_on_cell_webhook));
    let act = post(webhooks::cell::act_on_cell_delivery);
    let routes = routes.route("/v1/webhooks/{webhook}/deliveries/{delivery}", act);
    let documentation = SwaggerUi::new("/docs").url("/openapi.json", document::completed(document));
    layered(Router::from(documentation).merge(routes.with_state(app.clone())), app)
}

/// What every request passes before and after its handler.
fn layered(routes: Router, app: App) -> Router {
    routes
        .fallback(|| async { axum::http::StatusCode::NOT_FOUND })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(etag::revalidate))
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app, observe::observe))
}

/// The routes that describe themselves.
fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .routes(routes!(tenants::open_tenant, tenants::list_tenants))
        .routes(routes!(tenants::get_tenant))
        .routes(routes!(tenants::set_tax))
        .routes(routes!(credits::grant_credit, credits::list_credits))
        .routes(routes!(reservations::make_reservation, reservations::list_reservations))
        .routes(routes!(reservations::get_reservation))
        .routes(routes!(reservations::list_unused))
        .routes(routes!(spot::set_spot_price, spot::list_spot_prices))
        .routes(routes!(rerates::commit_rerate))
        .routes(routes!(rerates::preview_rerate))
        .routes(routes!(estimates::estimate_list))
        .routes(routes!(estimates::estimate_for_tenant))
        .routes(routes!(prices::sign_contract, prices::list_contracts))
        .routes(routes!(prices::publish_rate_card, prices::list_rate_cards))
        .routes(routes!(instances::register_instance, instances::list_instances))
        .routes(routes!(instances::get_instance))
        .routes(routes!(labels::set_labels))
        .routes(routes!(timeline::tenant_timeline))
        .routes(routes!(timeline::instance_timeline))
        .routes(routes!(explain::explain_charge))
        .routes(routes!(usage::ingest_usage))
        .routes(routes!(usage::tenant_usage))
        .routes(routes!(usage::all_usage))
        .routes(routes!(usage::tenant_metering))
        .routes(routes!(spend::tenant_spend))
        .routes(routes!(spend::list_commitments))
        .routes(routes!(ledger::tenant_balance))
        .routes(routes!(ledger::all_balances))
        .routes(routes!(ledger::all_transfers))
        .routes(routes!(ledger::tenant_transfers))
        .routes(routes!(ledger::all_charges))
        .routes(routes!(ledger::tenant_charges))
        .routes(routes!(ledger::head))
        .routes(routes!(ledger::state_digest))
        .routes(routes!(quarantine::list_quarantine))
        .routes(routes!(quarantine::get_quarantine))
        .routes(routes!(invoices::finalise_invoice, invoices::list_invoices))
        .routes(routes!(invoices::draft_invoice))
        .routes(routes!(invoices::get_invoice))
        .routes(routes!(invoices::life::invoice_status))
        .routes(routes!(explain::explain_invoice_line))
        .routes(routes!(invoices::life::issue_credit_note))
        .merge(described_reports())
        .merge(described_quotas())
        .merge(described_market())
        .merge(described_capacity())
        .merge(described_webhooks())
        .routes(routes!(keys::create_key, keys::list_keys))
        .routes(routes!(keys::get_key))
        .routes(routes!(tenant_keys::create_tenant_key, tenant_keys::list_tenant_keys))
        .routes(routes!(tenant_keys::get_tenant_key))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// Those of finance.
fn described_reports() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(reports::trial_balance))
        .routes(routes!(reports::deferred_revenue))
        .routes(routes!(reports::receivables_ageing))
        .routes(routes!(reports::revenue))
        .routes(routes!(reports::reconciliation))
        .routes(routes!(reports::list_periods))
        .routes(routes!(reports::get_period))
}

/// Those of quota.
fn described_quotas() -> OpenApiRouter<App> {
    // A listing has as many instances as a cell, and other bodies do not.
    let listing = OpenApiRouter::new()
        .routes(routes!(quotas::operation::reconcile))
        .layer(DefaultBodyLimit::max(LISTING_BYTES_MAX));
    OpenApiRouter::new()
        .routes(routes!(quotas::list_quotas))
        .routes(routes!(quotas::set_limits))
        .routes(routes!(quotas::create_group, quotas::list_groups))
        .routes(routes!(quotas::caps::list_caps, quotas::caps::set_cap, quotas::caps::remove_cap))
        .routes(routes!(quotas::holds::reserve, quotas::holds::list_holds))
        .routes(routes!(quotas::holds::get_hold))
        .routes(routes!(quotas::leases::acquire_lease, quotas::leases::list_leases))
        .routes(routes!(quotas::leases::get_lease))
        .routes(routes!(quotas::requests::ask, quotas::requests::list_requests))
        .routes(routes!(quotas::requests::get_request))
        .routes(routes!(quotas::requests::list_all_requests))
        .routes(routes!(quotas::requests::get_rules, quotas::requests::set_rules))
        .routes(routes!(quotas::operation::check_quota))
        .routes(routes!(quotas::operation::check_own_quota))
        .routes(routes!(quotas::operation::last_drift))
        .routes(routes!(quotas::operation::list_preemptions))
        .merge(listing)
}

/// Those of budgets and webhooks.
fn described_webhooks() -> OpenApiRouter<App> {
    use webhooks::{cell, tenant};
    OpenApiRouter::new()
        .routes(routes!(budgets::list_budgets))
        .routes(routes!(budgets::get_budget, budgets::set_budget, budgets::remove_budget))
        .routes(routes!(tenant::create_webhook, tenant::list_webhooks))
        .routes(routes!(tenant::get_webhook, tenant::update_webhook, tenant::delete_webhook))
        .routes(routes!(tenant::list_deliveries))
        .routes(routes!(cell::create_cell_webhook, cell::list_cell_webhooks))
        .routes(routes!(cell::get_cell_webhook, cell::update_cell_webhook, cell::delete_cell_webhook))
        .routes(routes!(cell::list_cell_deliveries))
}

/// Those of the market.
fn described_market() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(market::get_market))
        .routes(routes!(market::set_margin))
        .routes(routes!(market::clear))
        .routes(routes!(market::pools::list_pools))
        .routes(routes!(market::pools::set_pool, market::pools::get_pool))
        .routes(routes!(market::history::list_prices))
        .routes(routes!(market::history::list_candles))
        .routes(routes!(market::history::get_depth))
        .routes(routes!(market::history::get_interruptions))
        .routes(routes!(market::stream::all_prices))
        .routes(routes!(market::stream::stream_all))
        .routes(routes!(market::stream::stream_pool))
        .routes(routes!(market::supply::set_node, market::supply::forget_node))
        .routes(routes!(market::supply::list_nodes))
        .routes(routes!(market::supply::get_supply))
        .routes(routes!(market::supply::get_account))
        .routes(routes!(market::clears::list_clears))
        .routes(routes!(market::clears::get_clear))
        .routes(routes!(market::bids::place_bid, market::bids::list_bids))
        .routes(routes!(market::bids::get_bid))
        .routes(routes!(market::bids::explain_bid))
}

/// Those of capacity planning.
fn described_capacity() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(capacity::get_all_series))
        .routes(routes!(capacity::get_series))
        .routes(routes!(capacity::get_all_unmet))
        .routes(routes!(capacity::get_unmet))
        .routes(routes!(capacity::get_all_forecast))
        .routes(routes!(capacity::get_forecast))
        .routes(routes!(capacity::ask_what_if))
        .routes(routes!(capacity::ask_advice))
}

/// A handler that panics fails its own request only.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response<Body> {
    Problem::internal().into_response()
}

/// Serves until `shutdown`, then finishes what is under way.
pub async fn serve_http(
    listener: TcpListener,
    cell: CellHandle,
    config: ApiConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let prices = config.prices.clone();
    prices.start(&cell);
    let app = App::new(cell, config);
    let follower = tokio::spawn(app.clone().follow_usage());
    let service = routes_of(app).into_make_service_with_connect_info::<Peer>();
    let shutdown = async move {
        shutdown.await;
        // A stream has no end of its own, and who waits for all requests would wait for it.
        prices.close();
    };
    let served = axum::serve(Patient::new(listener), service).with_graceful_shutdown(shutdown).await;
    follower.abort();
    served
}
