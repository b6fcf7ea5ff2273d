//! Reservations, and their unused hours.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::rows::UnusedRow;
use hourglass_ledger::core::{Command, Rejection};
use hourglass_ledger::store::Keyed;
use hourglass_pricing::reservation::ReservationDraft;
use hourglass_units::{Instant, ReservationId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Json, Path, Query, json, unsupported};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::schema::Payment;
use super::tenants::PageQuery;
use crate::billing::report::AsOf;
use crate::billing::reservations::{ReservationRow, reservations};
use crate::usage::Name;

/// GPUs to sell for a time.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ReservationDraft)]
pub(super) struct Draft {
    /// Its id, unique in the cell.
    reservation: String,
    /// On whose invoice lines it stands.
    project: String,
    /// On which platform.
    platform: String,
    /// How many GPUs.
    gpus: u32,
    /// From which full UTC hour on, RFC 3339: the hour that runs, or a later one.
    #[schema(format = DateTime)]
    from: String,
    /// Until which full UTC hour, RFC 3339.
    #[schema(format = DateTime)]
    until: String,
    /// How it is paid for.
    payment: Payment,
}

/// Another end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AmendDraft {
    /// The new end, a full UTC hour that has not come yet, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    until: Instant,
}

/// A reservation, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct ReservationAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    reservation: ReservationRow,
}

/// A difference to the unused hours of a reservation within one UTC hour. Used and unused hours
/// together are what is reserved (P-2).
#[derive(Serialize, ToSchema)]
#[schema(as = Unused)]
pub(super) struct UnusedView {
    /// The log position of its cause.
    position: u64,
    /// Its number there.
    line: u32,
    tenant: String,
    project: String,
    reservation: String,
    platform: String,
    region: String,
    /// The UTC hour, RFC 3339.
    #[schema(format = DateTime)]
    hour: String,
    /// GPU-hours, an exact decimal; below zero where usage came late.
    quantity: String,
    /// The amortised price of a GPU-hour, a decimal.
    effective_price: String,
    /// What they cost, an exact decimal.
    effective_cost: String,
    /// ISO 4217.
    currency: &'static str,
}

fn unused_view(Keyed { key, row }: Keyed<UnusedRow>) -> UnusedView {
    UnusedView {
        position: key.position.number(),
        line: key.line,
        tenant: row.tenant.to_string(),
        project: row.project.to_string(),
        reservation: row.reservation.to_string(),
        platform: row.platform.to_string(),
        region: row.region.to_string(),
        hour: row.hour.to_string(),
        quantity: row.quantity.to_string(),
        effective_price: row.effective_price.to_string(),
        effective_cost: row.effective_cost.to_string(),
        currency: row.currency.code(),
    }
}

/// Sells a customer GPUs for a time.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations", tag = "reservations",
    params(("tenant" = String, Path)), request_body = Draft,
    responses((status = 201, description = "Reserved.", body = Done))
)]
pub(super) async fn make_reservation(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(reservation): Json<ReservationDraft>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/reservations/{}", reservation.reservation);
    let outcome = app.submit(Command::Reserve { tenant, reservation }, name).await?;
    Ok(done(&outcome, true, resource))
}

/// A customer's reservations, in the order in which they were made.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/reservations", tag = "reservations",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of reservations.", body = ListPage<ReservationRow>))
)]
pub(super) async fn list_reservations(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<ReservationRow>>, Problem> {
    let list = format!("reservations {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        behind(reservations(state, Some(&tenant)), after, limit)
    });
    Ok(axum::Json(page.await?))
}

/// One reservation.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/reservations/{reservation}", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)),
    responses((status = 200, description = "The reservation.", body = ReservationAnswer))
)]
pub(super) async fn get_reservation(
    State(app): State<App>,
    Path((tenant, reservation)): Path<(TenantId, ReservationId)>,
) -> Result<axum::Json<ReservationAnswer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let found = reservations(state, Some(&tenant)).find(|row| row.reservation == reservation.as_str());
        match found {
            Some(reservation) => Ok(ReservationAnswer { as_of: AsOf::of(state), reservation }),
            None => Err(Rejection::ReservationUnknown { tenant, reservation }.into()),
        }
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{reservation}:amend`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_reservation(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let Some((id, "amend")) = named.rsplit_once(':') else {
        return Err(Problem::not_found("action_unknown", "a reservation has the action :amend"));
    };
    let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    if body.media_type != "application/json" {
        return Err(unsupported(&body.media_type, "application/json"));
    }
    amend_reservation(app, (tenant, id), name, json(&body.bytes)?).await
}

/// Gives a reservation another end. What is paid up front can only be extended, at its price.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations/{reservation}:amend", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)), request_body = AmendDraft,
    responses((status = 200, description = "Amended.", body = Done))
)]
pub(super) async fn amend_reservation(
    app: App,
    (tenant, reservation): (TenantId, ReservationId),
    name: Option<Name>,
    draft: AmendDraft,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/reservations/{reservation}");
    let command = Command::AmendReservation { tenant, reservation, until: draft.until };
    let outcome = app.submit(command, name).await?;
    Ok(done(&outcome, false, resource))
}

/// Unused hours of a customer's reservations, in order of the log.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/unused", tag = "reservations",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of unused hours.", body = ListPage<UnusedView>))
)]
pub(super) async fn list_unused(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<UnusedView>>, Problem> {
    let list = format!("unused {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let read = page.of_rows(&app, move |reader, page| reader.unused(Some(&tenant), page), unused_view);
    Ok(axum::Json(read.await?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::schema::assert_describes;

    #[test]
    fn the_shape_is_that_of_the_command() {
        let draft = json!({"reservation": "r", "project": "ml", "platform": "h100", "gpus": 8,
            "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z",
            "payment": {"monthly": {"price": "2"}}});
        let draft: ReservationDraft = serde_json::from_value(draft).unwrap();
        assert_describes::<Draft>(&serde_json::to_value(draft).unwrap());
    }
}
