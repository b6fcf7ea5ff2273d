//! Reservations, and their unused hours.

use axum::extract::State;
use axum::response::Response;
use hourglass_capacity::calendar::Allowance;
use hourglass_capacity::supply::{Claim, Offer};
use hourglass_ledger::core::market::{MarketCommand, SupplyCommand};
use hourglass_ledger::core::rows::UnusedRow;
use hourglass_ledger::core::{Command, Rejection};
use hourglass_ledger::store::Keyed;
use hourglass_pricing::reservation::ReservationDraft;
use hourglass_units::{Instant, Interval, ReservationId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Json, Path, Query, json, unsupported};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::schema::Payment;
use super::tenants::PageQuery;
use crate::billing::market::{AllowanceRow, ClaimRow};
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
    /// In which fabric its GPUs are kept free for it, by the pool of that name; where absent it is a matter of
    /// price alone.
    #[serde(default)]
    fabric: Option<String>,
}

/// How much of what is idle is lent to spot.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoanDraft)]
pub(super) struct LendDraft {
    /// At most so many GPUs; all that is idle where absent.
    #[serde(default)]
    at_most: Option<u64>,
}

/// The parts of a reservation that are projects' own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AssignDraft {
    /// In place of those before; the rest is anybody's.
    allowances: Vec<AllowanceRow>,
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

/// `POST …/{reservation}:amend` and the like. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_reservation(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let unknown = || {
        let actions = "a reservation has the actions :amend, :assign, :claim, :lend and :withdraw";
        Problem::not_found("action_unknown", actions)
    };
    let (id, action) = named.rsplit_once(':').ok_or_else(unknown)?;
    let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    let of = (tenant, id);
    if action == "withdraw" {
        return withdraw_loan(app, of, name).await;
    }
    if body.media_type != "application/json" {
        return Err(unsupported(&body.media_type, "application/json"));
    }
    match action {
        "amend" => amend_reservation(app, of, name, json(&body.bytes)?).await,
        "assign" => assign_reservation(app, of, name, json(&body.bytes)?).await,
        "claim" => claim_loan(app, of, name, json(&body.bytes)?).await,
        "lend" => lend_reservation(app, of, name, json(&body.bytes)?).await,
        _ => Err(unknown()),
    }
}

/// Lends what is idle of a reservation to spot, for the pool's share of what spot pays. Its owner has it back
/// when it has said that it will need it, and within the pool's notice otherwise.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations/{reservation}:lend", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)), request_body = LendDraft,
    responses((status = 200, description = "Lent.", body = Done))
)]
pub(super) async fn lend_reservation(
    app: App,
    (tenant, reservation): (TenantId, ReservationId),
    name: Option<Name>,
    draft: LendDraft,
) -> Result<Response, Problem> {
    let offer = Some(draft.at_most.map_or(Offer::Automatic, Offer::AtMost));
    supply(app, SupplyCommand::Lend { tenant, reservation, offer }, name).await
}

/// Takes the whole offer back: spot that sits on it gets its notice.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations/{reservation}:withdraw", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)),
    responses((status = 200, description = "Taken back.", body = Done))
)]
pub(super) async fn withdraw_loan(
    app: App,
    (tenant, reservation): (TenantId, ReservationId),
    name: Option<Name>,
) -> Result<Response, Problem> {
    supply(app, SupplyCommand::Lend { tenant, reservation, offer: None }, name).await
}

/// Says when the owner of what is lent will need how much of it: it is there then.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations/{reservation}:claim", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)), request_body = ClaimRow,
    responses((status = 200, description = "Noted.", body = Done))
)]
pub(super) async fn claim_loan(
    app: App,
    (tenant, reservation): (TenantId, ReservationId),
    name: Option<Name>,
    draft: ClaimRow,
) -> Result<Response, Problem> {
    let claim = Claim { gpus: draft.gpus, interval: interval(draft.from, draft.until)? };
    supply(app, SupplyCommand::Claim { tenant, reservation, claim }, name).await
}

/// Assigns parts of a reservation to projects, in place of what was assigned before.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reservations/{reservation}:assign", tag = "reservations",
    params(("tenant" = String, Path), ("reservation" = String, Path)), request_body = AssignDraft,
    responses((status = 200, description = "Assigned.", body = Done))
)]
pub(super) async fn assign_reservation(
    app: App,
    (tenant, reservation): (TenantId, ReservationId),
    name: Option<Name>,
    draft: AssignDraft,
) -> Result<Response, Problem> {
    let allowance = |it: AllowanceRow| {
        let project = it.project.parse();
        let project = project.map_err(|error| Problem::bad_request("body_invalid", format!("{error}")))?;
        Ok(Allowance { project, gpus: it.gpus, interval: interval(it.from, it.until)? })
    };
    let allowances = draft.allowances.into_iter().map(allowance).collect::<Result<_, Problem>>()?;
    supply(app, SupplyCommand::Assign { tenant, reservation, allowances }, name).await
}

fn interval(from: Instant, until: Instant) -> Result<Interval, Problem> {
    Interval::between(from, until)
        .ok_or_else(|| Problem::bad_request("body_invalid", "until must be after from"))
}

async fn supply(app: App, command: SupplyCommand, name: Option<Name>) -> Result<Response, Problem> {
    let of = command.reservation();
    let path = |(tenant, id): (&TenantId, &ReservationId)| format!("/v1/tenants/{tenant}/reservations/{id}");
    let resource = of.map(path).unwrap_or_default();
    let outcome = app.submit(MarketCommand::Supply(command).into(), name).await?;
    Ok(done(&outcome, false, resource))
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
