//! Credit of customers.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::{Command, CreditDraft, Rejection};
use hourglass_units::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Path, Query};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::credits::{CreditRow, credits};

/// Credit to grant. Two credits of one priority and end that can pay for the same usage are refused,
/// so that it is certain which is drawn first.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = CreditDraft)]
pub(super) struct Draft {
    /// Its id, unique in its tenant.
    credit: String,
    /// `prepaid` or `promotional`: `sla` credits come of a contract's rule.
    kind: String,
    /// How much, in the customer's currency, a decimal.
    amount: String,
    /// Lower ones are drawn first; 100 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    /// Pays for usage from this full UTC hour on, RFC 3339; of the first period without an invoice where
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    valid_from: Option<String>,
    /// Pays for usage before this full UTC hour, RFC 3339; it never expires where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    valid_until: Option<String>,
    /// Pays only for usage of this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    /// Pays only for usage on this platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// For people.
    #[serde(default)]
    note: String,
}

/// Grants a customer credit.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/credits", tag = "credits", params(("tenant" = String, Path)),
    request_body = Draft, responses((status = 201, description = "Granted.", body = Done))
)]
pub(super) async fn grant_credit(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(credit): Json<CreditDraft>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}/credits");
    let outcome = app.submit(Command::GrantCredit { tenant, credit }, name).await?;
    Ok(done(&outcome, true, resource))
}

/// A customer's credit and what is left of it, in the order of the grants.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/credits", tag = "credits",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of credits.", body = ListPage<CreditRow>))
)]
pub(super) async fn list_credits(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<CreditRow>>, Problem> {
    let list = format!("credits {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        let of = state.tenant(&tenant).ok_or(Rejection::TenantUnknown { tenant })?;
        behind(credits(of), after, limit)
    });
    Ok(axum::Json(page.await?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::schema::assert_describes;

    #[test]
    fn the_shape_is_that_of_the_command() {
        let draft = json!({"credit": "c", "kind": "prepaid", "amount": "5", "priority": 7,
            "valid_from": "2026-01-01T00:00:00Z", "valid_until": "2026-02-01T00:00:00Z", "project": "ml",
            "platform": "h100", "note": "n"});
        let draft: CreditDraft = serde_json::from_value(draft).unwrap();
        assert_describes::<Draft>(&serde_json::to_value(draft).unwrap());
    }
}
