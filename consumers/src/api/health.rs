//! Probes and metrics.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::metrics::METRICS_MEDIA_TYPE;
use super::problem::Problem;

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(
    get, path = "/healthz", tag = "operation",
    responses((status = 200, description = "It does.", body = Health))
)]
pub(super) async fn healthz() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// The cell can write.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    writable: bool,
    /// The writer's epoch.
    epoch: u64,
    /// Last committed log position.
    position: u64,
}

/// Whether the cell can write, and as which epoch.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses((status = 200, description = "It can.", body = Readiness))
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<axum::Json<Readiness>, Problem> {
    let status = app.status();
    let writable = status.writable.load(Ordering::Acquire) == 1;
    let epoch = status.epoch.load(Ordering::Relaxed);
    let position = status.position.load(Ordering::Relaxed);
    if writable {
        return Ok(axum::Json(Readiness { writable, epoch, position }));
    }
    let detail = "this process cannot write: another one took over, or it is shutting down";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_writable", detail);
    Err(problem.with("writable", false).with("epoch", epoch).with("position", position))
}

/// Counters and gauges for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Exposition text.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_MEDIA_TYPE)], app.metrics().render(app.status()))
}
