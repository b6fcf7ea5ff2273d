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

/// This process writes.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    writable: bool,
    /// The writer's epoch.
    epoch: u64,
    /// Last committed log position.
    position: u64,
}

/// Whether this process writes, and as which epoch. One that stands by answers 503 and names the
/// writer, so that a load balancer sends requests there.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses((status = 200, description = "It does.", body = Readiness))
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<axum::Json<Readiness>, Problem> {
    let status = app.status();
    let writable = status.writable.load(Ordering::Acquire) == 1;
    let epoch = status.epoch.load(Ordering::Relaxed);
    let position = status.position.load(Ordering::Relaxed);
    if writable {
        return Ok(axum::Json(Readiness { writable, epoch, position }));
    }
    let problem = match app.store(|reader| reader.head()).await {
        Ok(head) => {
            let detail = "this process does not write: it stands by, or it is shutting down";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_writable", detail)
                .with("writer", head.holder)
                .with("writer_epoch", head.epoch)
                .with("lease_until", head.lease_until.to_string())
        }
        Err(_) => {
            let detail = "this process does not write, and the store does not answer";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_writable", detail)
        }
    };
    Err(problem.with("writable", false).with("epoch", epoch).with("position", position))
}

/// Counters and gauges for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Exposition text.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_MEDIA_TYPE)], app.exposition())
}
