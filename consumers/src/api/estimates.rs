//! Estimates: what usage would cost, by the function that rates it.

use axum::extract::State;
use axum::http::StatusCode;
use hourglass_ledger::core::estimate::{Estimate, Plan, PlanMode, earliest_start, estimate};
use hourglass_pricing::PurchaseModel;
use hourglass_pricing::reservation::Payment;
use hourglass_units::{Currency, Instant, Platform, Price, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::extract::{Caller, Idempotency, Json, Path};
use super::problem::Problem;
use super::schema;
use crate::auth::Denied;
use crate::auth::roles::{Permission, Reach};
use crate::billing::report::AsOf;

/// GPUs that somebody thinks of using.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EstimateDraft {
    /// By which customer's contract. It needs the permission `contracts.read` over all customers; at the
    /// customer's own path it does not.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// At the list prices of which currency, ISO 4217, where no customer is named.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
    /// For which project, where rules of a contract name any.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// On which platform.
    #[schema(value_type = String)]
    platform: Platform,
    /// How they are sold: `on_demand`, `reserved` or `spot`.
    #[schema(value_type = String)]
    model: PurchaseModel,
    /// Of spot: their GPU-hours never cost more, a decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    limit: Option<Price>,
    /// Of reserved GPUs: how the reservation would be paid for.
    #[serde(default)]
    #[schema(value_type = Option<schema::Payment>)]
    payment: Option<Payment>,
    /// How many.
    gpus: u32,
    /// From when, RFC 3339; from now on where absent, a reservation from the next full hour on.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Instant>,
    /// Until when, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    until: Instant,
}

/// GPUs that a customer thinks of using.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantEstimateDraft {
    /// For which project, where rules of the contract name any.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// On which platform.
    #[schema(value_type = String)]
    platform: Platform,
    /// How they are sold: `on_demand`, `reserved` or `spot`.
    #[schema(value_type = String)]
    model: PurchaseModel,
    /// Of spot: their GPU-hours never cost more, a decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    limit: Option<Price>,
    /// Of reserved GPUs: how the reservation would be paid for.
    #[serde(default)]
    #[schema(value_type = Option<schema::Payment>)]
    payment: Option<Payment>,
    /// How many.
    gpus: u32,
    /// From when, RFC 3339; from now on where absent, a reservation from the next full hour on.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Instant>,
    /// Until when, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    until: Instant,
}

/// What a plan would cost, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct EstimateAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    #[schema(value_type = schema::Estimate)]
    estimate: Estimate,
}

/// The mode that the fields of a draft say together.
fn mode(model: PurchaseModel, limit: Option<Price>, payment: Option<Payment>) -> Result<PlanMode, Problem> {
    match (model, limit, payment) {
        (PurchaseModel::OnDemand, None, None) => Ok(PlanMode::OnDemand),
        (PurchaseModel::Spot, limit, None) => Ok(PlanMode::Spot { limit }),
        (PurchaseModel::Reserved, None, Some(payment)) => Ok(PlanMode::Reserved { payment }),
        _ => {
            let detail = "a reserved plan says its payment, a spot plan may have a limit, an on-demand plan has \
                          neither";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "mode_invalid", detail))
        }
    }
}

/// Says what GPUs would cost at the list prices of a currency. Nothing is written, and an idempotency
/// key has no effect.
#[utoipa::path(
    post, path = "/v1/estimates", tag = "prices", request_body = EstimateDraft,
    responses((status = 200, description = "What it would cost.", body = EstimateAnswer))
)]
pub(super) async fn estimate_list(
    State(app): State<App>,
    Caller(principal): Caller,
    Idempotency(_checked): Idempotency,
    Json(draft): Json<EstimateDraft>,
) -> Result<axum::Json<EstimateAnswer>, Problem> {
    // Whether there is such a customer is nobody's business who may not read its contract.
    if draft.tenant.is_some() && principal.reach(Permission::ReadContracts) != Reach::All {
        return Err(Denied::lacks(&principal, Permission::ReadContracts).into());
    }
    let EstimateDraft { tenant, currency, project, platform, model, limit, payment, gpus, from, until } =
        draft;
    let mode = mode(model, limit, payment)?;
    answer(&app, Plan { tenant, currency, project, platform, mode, gpus, from, until }).await
}

/// Says what GPUs would cost a customer: by its contract, with what it has used already, and what its
/// credit would pay of that. Nothing is written, and an idempotency key has no effect.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/estimates", tag = "prices", params(("tenant" = String, Path)),
    request_body = TenantEstimateDraft,
    responses((status = 200, description = "What it would cost.", body = EstimateAnswer))
)]
pub(super) async fn estimate_for_tenant(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(_checked): Idempotency,
    Json(draft): Json<TenantEstimateDraft>,
) -> Result<axum::Json<EstimateAnswer>, Problem> {
    let TenantEstimateDraft { project, platform, model, limit, payment, gpus, from, until } = draft;
    let mode = mode(model, limit, payment)?;
    let tenant = Some(tenant);
    answer(&app, Plan { tenant, currency: None, project, platform, mode, gpus, from, until }).await
}

async fn answer(app: &App, plan: Plan) -> Result<axum::Json<EstimateAnswer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| {
        if let Some(tenant) = &plan.tenant {
            known_tenant(state, tenant)?;
        }
        let from = plan.from.unwrap_or_else(|| earliest_start(&plan.mode, now.max(state.now())));
        let estimate = estimate(state, &Plan { from: Some(from), ..plan })?;
        Ok(EstimateAnswer { as_of: AsOf::of(state), estimate })
    });
    Ok(axum::Json(read.await?))
}
