//! Labels of instances: what a customer calls them, to group its costs by.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Command;
use hourglass_units::{InstanceId, Labels, TenantId};
use serde::Deserialize;
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Path};
use super::instances::of_tenant;
use super::problem::Problem;

/// All labels of an instance.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"labels": {"team": "research", "run": "pretrain-7b"}}))]
pub(super) struct LabelsDraft {
    /// At most 16. Keys have 1 to 63 of `a-z 0-9 - _ . /` and begin with a letter, values at most 63 bytes.
    #[schema(value_type = BTreeMap<String, String>)]
    labels: Labels,
}

/// The labels as an answer shows them.
pub(super) fn shown(labels: Option<&Labels>) -> BTreeMap<String, String> {
    let all = labels.into_iter().flat_map(Labels::iter);
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Gives an instance labels in place of those that it has. Reports group all of its usage by them, that of
/// before too: a label says what an instance is, not when.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/instances/{instance}/labels", tag = "instances",
    params(("tenant" = String, Path), ("instance" = String, Path)), request_body = LabelsDraft,
    responses((status = 200, description = "Labelled.", body = Done))
)]
pub(super) async fn set_labels(
    State(app): State<App>,
    Path((tenant, instance)): Path<(TenantId, InstanceId)>,
    Idempotency(name): Idempotency,
    Json(LabelsDraft { labels }): Json<LabelsDraft>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/instances/{instance}");
    let of = instance.clone();
    // An instance never changes its tenant, so this cannot be overtaken.
    app.read(move |state| of_tenant(state, &tenant, &of).map(|_| ())).await?;
    let outcome = app.submit(Command::LabelInstance { instance, labels }, name).await?;
    Ok(done(&outcome, false, resource))
}
